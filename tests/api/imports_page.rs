//! The pages of imports: a file is looked at, corrected, brought in, and its rejected rows are told.

use std::path::Path;

use serde_json::Value;

use crate::service::Service;
use crate::visit::{Visit, location};

/// Two rows that cannot be read: a date that is none, and a field too many.
const CSV: &str = "id,status,sum,created,town\n\
    a,won,100,2026-01-01,Paris\n\
    b,lost,200,2026-01-02,Rome\n\
    c,demo,300,never,Rome\n\
    d,demo,400,2026-01-03,Oslo\n\
    e,demo,500,2026-01-03,Oslo,x\n";

async fn uploaded(visit: &mut Visit<'_>, name: &str, content: &str) -> String {
    location(&visit.send_files(&[("file", name, content)]).await).to_owned()
}

/// The mapping that a page carries along.
fn base(page: &str) -> String {
    let (_, rest) = page.split_once("name=\"base\" value=\"").unwrap();
    let escaped = rest.split("\">").next().unwrap();
    let mut text = escaped.to_owned();
    for (entity, c) in [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&#38;", "&"),
    ] {
        text = text.replace(entity, c);
    }
    text
}

/// What a column is taken for on a page.
fn choice(page: &str, index: usize) -> String {
    let (_, select) = page
        .split_once(&format!("<select name=\"as_{index}\""))
        .unwrap();
    let select = select.split("</select>").next().unwrap();
    let (before, _) = select.split_once("\" selected").unwrap();
    before.rsplit("value=\"").next().unwrap().to_owned()
}

fn files_in(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

async fn deal(service: &Service, id: &str) -> Value {
    service.get(&format!("/v1/deals/{id}")).await.ok(200)["deal"].clone()
}

#[tokio::test]
async fn a_file_is_looked_at_corrected_and_imported() {
    let service = Service::start();
    let mut visit = Visit::signed_in(&service).await;
    let step = uploaded(&mut visit, "crm export.csv", CSV).await;
    let page = visit.page(&step).await;
    assert!(page.contains("Columns of crm export.csv") && page.contains("Paris · Rome · Oslo"));
    let choices: Vec<String> = (0..5).map(|index| choice(&page, index)).collect();
    // `never` makes the dates doubtful, and `sum` is no name for an amount.
    assert_eq!(
        choices,
        ["id", "outcome", "attribute", "attribute", "attribute"]
    );

    let base = base(&page);
    let form = [
        ("base", &*base),
        ("as_2", "amount"),
        ("as_3", "created_at"),
        ("as_4", "ignore"),
        ("currency", "EUR"),
        ("action", "import"),
    ];
    let result = visit.submit(&step, &step, &form).await;
    assert!(result.starts_with("/imports/"), "{result}");
    let page = visit.until_done(&result).await;
    let id = result.rsplit('/').next().unwrap();
    let job = service.job(id).await["result"].clone();
    assert_eq!(
        (&job["stored"], &job["rejected"]),
        (&3.into(), &2.into()),
        "{job}"
    );
    for row in job["rejects"].as_array().unwrap() {
        let (line, reason) = (
            row["line"].as_u64().unwrap(),
            row["reason"].as_str().unwrap(),
        );
        assert!(
            page.contains(&format!("<td class=\"n\">{line}</td>")),
            "{line}"
        );
        assert!(page.contains(reason), "{reason}");
    }
    let rejects = visit.page(&format!("/v1/imports/{id}/rejects")).await;
    assert!(
        rejects.contains("never") && rejects.lines().count() == 3,
        "{rejects}"
    );

    let stored = deal(&service, "d").await;
    assert_eq!(stored["amount"], "400");
    assert_eq!(stored["currency"], "EUR");
    assert_eq!(stored["created_at"], "2026-01-03T00:00:00Z");
    assert_eq!(stored["attributes"], serde_json::json!({}));
    assert!(visit.page("/imports").await.contains("crm export.csv"));
    let listed = visit.page("/imports?format=csv").await;
    assert!(listed.contains("crm export.csv,done,5,3,2,"), "{listed}");
    // The file is gone, and cannot be imported twice.
    assert_eq!(visit.get(&step).await.status(), 404);
    assert_eq!(files_in(&uploads(&service)), 0);
}

/// Where this process keeps what was sent.
fn uploads(service: &Service) -> std::path::PathBuf {
    let dir = service.data_dir().join("uploads");
    let shared = dir.join("0/files");
    if shared.exists() { shared } else { dir }
}

#[tokio::test]
async fn what_cannot_be_meant_is_told_and_the_file_stays() {
    let service = Service::start();
    let mut visit = Visit::signed_in(&service).await;
    let step = uploaded(&mut visit, "x.csv", CSV).await;
    let base = base(&visit.page(&step).await);
    let csrf = visit.csrf(&step).await;
    for (changes, said) in [
        (
            &[("as_2", "amount"), ("as_3", "amount")][..],
            "is taken for the same",
        ),
        (&[("currency", "EURO")], "default.currency"),
        (&[("time_zone", "Mars")], "Mars"),
        (&[("toml", "[deal]\nid = 5")], "line 2"),
        (&[("toml", "[deal]\noutcome = \"nowhere\"")], "nowhere"),
    ] {
        let form: Vec<(&str, &str)> = [("csrf", &*csrf), ("base", &*base)]
            .iter()
            .chain(changes)
            .copied()
            .collect();
        let answer = visit.post(&step, &form).await;
        assert_eq!(answer.status(), 422, "{changes:?}");
        let page = answer.text().await.unwrap();
        assert!(page.contains(said), "{said}: {page}");
    }
    let answer = visit.post(&step, &[("base", &base)]).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(visit.get(&step).await.status(), 200);
}

#[tokio::test]
async fn another_outcome_column_is_looked_at_before_it_counts() {
    let service = Service::start();
    let mut visit = Visit::signed_in(&service).await;
    let csv = "id,status,flag\na,won,yes\nb,lost,no\nc,won,\n";
    let step = uploaded(&mut visit, "x.csv", csv).await;
    let base_toml = base(&visit.page(&step).await);
    let csrf = visit.csrf(&step).await;
    let form = [
        ("csrf", &*csrf),
        ("base", &*base_toml),
        ("as_1", "attribute"),
        ("as_2", "outcome"),
        ("action", "import"),
    ];
    let answer = visit.post(&step, &form).await;
    assert_eq!(answer.status(), 200);
    let page = answer.text().await.unwrap();
    assert!(
        page.contains("another column tells the outcome now"),
        "{page}"
    );
    assert_eq!(
        (choice(&page, 1), choice(&page, 2)),
        ("attribute".into(), "outcome".into())
    );

    // What was lost by looking is won by decision.
    let (empty, no) = ("label_0", "label_1");
    let base_toml = base(&page);
    let form = [("base", &*base_toml), (empty, "lost"), (no, "won")];
    let result = visit.submit(&step, &step, &form).await;
    visit.until_done(&result).await;
    for (id, outcome) in [("a", "won"), ("b", "won"), ("c", "lost")] {
        assert_eq!(deal(&service, id).await["outcome"], outcome, "{id}");
    }
}

#[tokio::test]
async fn documents_and_mappings_of_ones_own_are_taken() {
    let service = Service::start();
    let mut visit = Visit::signed_in(&service).await;
    let ndjson = "{\"id\": \"n-1\", \"stage\": \"demo\", \"created_at\": \"2026-01-01T00:00:00Z\"}\nbroken\n";
    let result = uploaded(&mut visit, "deals.ndjson", ndjson).await;
    let page = visit.until_done(&result).await;
    assert!(
        page.contains("id=\"rejected\"><data value=\"1\">"),
        "{page}"
    );
    assert_eq!(deal(&service, "n-1").await["stage"], "demo");

    let mapping = "[deal]\nid = \"town\"\noutcome = \"status\"\n[outcome]\nwon = [\"won\"]\nlost = [\"lost\"]\nopen = [\"demo\"]\n";
    let parts = [
        ("file", "x.csv", CSV),
        ("mapping", "m.toml", mapping),
        ("events", "", ""),
    ];
    let step = location(&visit.send_files(&parts).await).to_owned();
    let page = visit.page(&step).await;
    assert_eq!(
        (choice(&page, 0), choice(&page, 4)),
        ("attribute".into(), "id".into())
    );
    let toml = mapping.replace("town", "id");
    let result = visit.submit(&step, &step, &[("toml", &toml)]).await;
    visit.until_done(&result).await;
    assert_eq!(deal(&service, "a").await["outcome"], "won");
}

#[tokio::test]
async fn files_make_room_for_newer_ones_and_are_discarded() {
    let service = Service::with_settings("[limits]\nuploads_waiting_max = 2\n");
    let mut visit = Visit::signed_in(&service).await;
    let first = uploaded(&mut visit, "1.csv", CSV).await;
    let second = uploaded(&mut visit, "2.csv", CSV).await;
    let third = uploaded(&mut visit, "3.csv", CSV).await;
    let gone = visit.get(&first).await;
    assert_eq!(gone.status(), 404);
    assert!(gone.text().await.unwrap().contains("Send it once more"));
    assert_eq!(files_in(&uploads(&service)), 2);
    let back = visit
        .submit(&second, &second, &[("action", "discard")])
        .await;
    assert_eq!(back, "/imports");
    assert_eq!(visit.get(&second).await.status(), 404);
    assert_eq!(visit.get(&third).await.status(), 200);
    assert_eq!(files_in(&uploads(&service)), 1);
}

#[tokio::test]
async fn what_is_no_file_is_refused_in_words() {
    let service = Service::with_settings("[limits]\nimport_bytes_max = 2000\n");
    let mut visit = Visit::signed_in(&service).await;
    for (parts, status, said) in [
        (&[("file", "", "")][..], 422, "is required"),
        (&[("other", "x", "x")], 422, "there is no such part"),
        (&[("file", "x.csv", "")], 422, "is empty"),
        (&[("file", "x.xlsx", "PK\u{3}\u{4}")], 400, "spreadsheet"),
    ] {
        let answer = visit.send_files(parts).await;
        assert_eq!(answer.status(), status, "{parts:?}");
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
        let page = answer.text().await.unwrap();
        assert!(page.contains(said), "{said}: {page}");
    }
    let large = "x".repeat(3000);
    let answer = visit.send_files(&[("file", "x.csv", &large)]).await;
    assert_eq!(answer.status(), 413);
    visit.cookie = None;
    let stranger = visit.get("/imports").await;
    assert_eq!(location(&stranger), "/sign-in?next=%2Fimports");
    assert_eq!(files_in(&uploads(&service)), 0);
}
