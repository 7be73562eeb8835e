//! What a manager does to the model: bring in deals, train, watch, activate, roll back.

use std::fmt::Write;

use serde_json::json;

use super::Browser;
use crate::service::{Service, history};
use crate::visit::manager_key;

async fn signed_in(service: &Service, page: &str) -> Browser {
    let key = manager_key(service);
    let browser = Browser::at(service.base()).await;
    browser.go(page).await;
    browser
        .type_into("input[name=key]", &format!("{key}\n"))
        .await;
    browser.until_path(page).await;
    browser
}

#[tokio::test]
async fn embedded_a_csv_with_bad_rows_is_brought_in() {
    let service = Service::start();
    let mut csv = "Deal,Stage,Amount,Opened\n".to_owned();
    for number in 0..60 {
        let stage = ["Won", "Lost", "Demo"][number % 3];
        writeln!(
            csv,
            "d-{number},{stage},{},2026-01-{:02}",
            100 + number,
            1 + number % 28
        )
        .unwrap();
    }
    csv += "d-60,Won,plenty,2026-01-01\nd-61,Won\n";
    let file = service.dir().join("crm.csv");
    std::fs::write(&file, csv).unwrap();

    let browser = signed_in(&service, "/imports").await;
    browser.assert_accessible().await;
    // What is dropped on the field is as if it had been chosen.
    browser
        .run(
            "const dropped = new DataTransfer();
             dropped.items.add(new File(['id'], 'dropped.csv'));
             const drop = new DragEvent('drop', { dataTransfer: dropped, bubbles: true, cancelable: true });
             document.querySelector('[data-drop]').dispatchEvent(drop)",
            json!([]),
        )
        .await;
    let chosen = "document.querySelector('input[name=file]').files[0]?.name === 'dropped.csv'";
    browser.until(chosen).await;
    browser
        .type_into("input[name=file]", file.to_str().unwrap())
        .await;
    browser.click("main form button.main").await;
    browser.until_path("/imports/uploads/").await;
    browser.assert_accessible().await;
    assert_eq!(browser.text("h1").await, "Columns of crm.csv");
    browser.choose("select[name=as_0]", "id").await;
    browser.choose("select[name=as_3]", "created_at").await;
    browser.type_into("input[name=currency]", "EUR").await;
    // The page that answers looks like the one that asked, but for this mark.
    browser.run("window.isAsked = true", json!([])).await;
    browser.click("#look").await;
    let kept =
        "!window.isAsked && document.querySelector('select[name=as_3]').value === 'created_at'
        && document.querySelector('input[name=currency]').value === 'EUR'
        && document.readyState === 'complete'";
    browser.until(kept).await;
    browser.click("#import").await;
    browser.until("document.querySelector('#rejected')").await;
    assert_eq!(browser.text("#rejected").await, "2");
    let lines = browser.texts("section[aria-labelledby=rejects] td.n").await;
    assert_eq!(lines, ["62", "63"]);
    browser.assert_accessible().await;
    let deal = service.get("/v1/deals/d-7").await.ok(200);
    assert_eq!(deal["deal"]["amount"], "107");
}

#[tokio::test]
async fn embedded_a_training_is_watched_and_its_model_activated() {
    let service = Service::start();
    service.import_documents(&history(1500)).await;
    let browser = signed_in(&service, "/models").await;
    browser.until_text("No model is active yet").await;
    browser.assert_accessible().await;

    // The bar is written down at each of its moves: a script in the page sees all of them.
    browser.click("#train").await;
    browser.until("document.querySelector('[data-job]')").await;
    browser
        .run(
            "const bar = document.querySelector('[data-job] [data-progress]');
             const seen = [bar.textContent];
             new MutationObserver(() => {
               seen.push(bar.textContent);
               sessionStorage.setItem('seen', JSON.stringify(seen));
             }).observe(bar, { childList: true, characterData: true, subtree: true })",
            json!([]),
        )
        .await;
    browser.until_text("was trained and activated").await;
    let seen = browser
        .run(
            "return JSON.parse(sessionStorage.getItem('seen'))",
            json!([]),
        )
        .await;
    let mut seen: Vec<&str> = seen
        .as_array()
        .unwrap()
        .iter()
        .map(|t| t.as_str().unwrap())
        .collect();
    seen.dedup();
    assert!(seen.len() > 1, "the bar stood still: {seen:?}");
    browser.assert_accessible().await;
    let first = browser
        .text("section[aria-labelledby=champion] strong")
        .await;

    browser
        .click("section[aria-labelledby=champion] .button")
        .await;
    browser.until_path(&format!("/models/{first}")).await;
    browser
        .until("document.querySelector('#reliability-money')")
        .await;
    browser.assert_accessible().await;

    let again = service.post("/v1/models", &json!({})).await;
    service.finished(again).await;
    browser.go("/models").await;
    browser.click("#activate-challenger").await;
    browser.until_text("is the champion").await;
    let second = browser
        .text("section[aria-labelledby=champion] strong")
        .await;
    assert_ne!(second, first);
    browser.click("#roll-back").await;
    let back = format!(
        "document.querySelector('section[aria-labelledby=champion] strong')?.innerText === {}",
        json!(first)
    );
    browser.until(&back).await;
    browser.assert_accessible().await;
    let active = service.get("/v1/models/active").await.ok(200);
    assert_eq!(active["version"], json!(first));
}
