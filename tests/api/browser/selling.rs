//! What a rep does on Monday morning: the queue, a deal, what would help.

use serde_json::json;

use super::Browser;
use crate::service::{Service, history};
use crate::visit::{link, manager_key, rep_key};

/// Deals, and a model that lets people try other values of `employees` and `source`.
async fn scored() -> Service {
    let service = Service::start();
    service.import_documents(&history(240)).await;
    let mapping = json!({"columns": {"actionable": ["employees", "source"]}});
    let trained = service
        .post("/v1/models", &json!({ "mapping": mapping }))
        .await;
    let trained = service.finished(trained).await;
    assert_eq!(trained["state"], "done", "{trained}");
    service
}

#[tokio::test]
async fn embedded_a_rep_sorts_the_queue_opens_a_deal_and_tries_a_change() {
    let service = scored().await;
    rep_key(&service, "Ada");
    let browser = Browser::at(service.base()).await;
    browser.go(&link(&service, "Ada")).await;
    browser.click("main button").await;
    browser.until_path("/queue/Ada").await;
    browser.assert_accessible().await;

    browser.click("#sort-amount").await;
    browser.until_path("sort=amount").await;
    let sorted = "document.querySelector('#sort-amount').closest('th').ariaSort === 'descending'";
    browser.until(sorted).await;
    browser
        .until("document.activeElement.id === 'sort-amount'")
        .await;
    let shown = browser.texts("#queue tbody th a").await;
    let expected = service.get("/v1/queues/Ada?sort=amount").await.ok(200);
    let expected: Vec<&str> = expected["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["deal"]["id"].as_str().unwrap())
        .collect();
    assert_eq!(shown, expected);

    browser.click("#queue tbody th a").await;
    browser.until_path(&format!("/deals/{}", expected[0])).await;
    browser.assert_accessible().await;
    let before = browser.text("#win-probability data").await;
    let field = "#what-if select";
    let source = browser
        .attribute(&format!("{field} option[selected]"), "value")
        .await;
    let other = if source.as_deref() == Some("partner") {
        "web"
    } else {
        "partner"
    };
    browser.choose(field, other).await;
    browser.click("#try").await;
    browser
        .until("document.querySelector('#what-if-answer')")
        .await;
    let after = browser.text("#what-if-probability").await;
    assert_ne!(after, before);
    browser.assert_accessible().await;
    // Nothing was stored.
    browser.go(&format!("/deals/{}", expected[0])).await;
    assert_eq!(browser.text("#win-probability data").await, before);

    let theirs = service.get("/v1/queues/Ben").await.ok(200);
    let theirs = theirs["rows"][0]["deal"]["id"].as_str().unwrap().to_owned();
    browser.go(&format!("/deals/{theirs}")).await;
    browser.until_text("There is no deal").await;
}

#[tokio::test]
async fn embedded_everybody_can_use_the_pages_of_a_manager() {
    let service = scored().await;
    let key = manager_key(&service);
    let browser = Browser::at(service.base()).await;
    browser.go("/sign-in").await;
    browser
        .type_into("input[name=key]", &format!("{key}\n"))
        .await;
    browser.until("location.pathname === '/'").await;
    for page in [
        "/",
        "/board",
        "/queue/Ada?sort=neglect",
        "/queue/Nobody",
        "/not/there",
    ] {
        browser.go(page).await;
        browser.until("document.querySelector('h1')").await;
        browser.assert_accessible().await;
    }
}
