//! The pages of models: the report as the API has it, training, activation and the way back.

use serde_json::{Value, json};

use crate::service::{Service, history};
use crate::visit::Visit;

/// What a table of the report has, without its header.
async fn csv(visit: &mut Visit<'_>, version: &str, table: &str) -> Vec<csv::StringRecord> {
    let path = format!("/models/{version}?format=csv&table={table}");
    let text = visit.page(&path).await;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.records().map(Result::unwrap).collect()
}

fn number(text: &str) -> f64 {
    text.parse().unwrap()
}

#[tokio::test]
async fn without_a_model_the_page_says_what_to_do() {
    let service = Service::start();
    let mut visit = Visit::signed_in(&service).await;
    let page = visit.page("/models").await;
    assert!(page.contains("no closed deals to learn from"), "{page}");

    let job = visit.submit("/models", "/models/train", &[]).await;
    let page = visit.until_done(&job).await;
    assert!(page.contains("the training failed"), "{page}");

    service.import_documents(&history(20)).await;
    let page = visit.page("/models").await;
    assert!(
        page.contains("Train one: the first is used at once"),
        "{page}"
    );
    let page = visit.get("/models/none").await;
    assert_eq!(page.status(), 404);
    assert!(page.text().await.unwrap().contains("no model `none`"));
}

#[tokio::test]
async fn a_training_is_followed_to_its_report() {
    let service = Service::start();
    service.import_documents(&history(400)).await;
    let mut visit = Visit::signed_in(&service).await;
    let job = visit.submit("/models", "/models/train", &[]).await;
    assert!(job.starts_with("/models?job="), "{job}");
    let page = visit.until_done(&job).await;
    assert!(page.contains("was trained and activated"), "{page}");

    let report = service.get("/v1/models/active/report").await.ok(200);
    let version = report["version"].as_str().unwrap();
    let held_out = &report["held_out"];
    let page = visit.page(&format!("/models/{version}")).await;
    assert!(page.contains(held_out["verdict"].as_str().unwrap()));
    for measure in [
        "log_loss",
        "log_loss_of_base_rate",
        "brier",
        "brier_of_base_rate",
        "auc",
    ] {
        let figure = format!("{:.3}", held_out[measure].as_f64().unwrap());
        assert!(
            page.contains(&format!(">{figure}</td>")),
            "{measure} {figure}"
        );
    }
    assert!(page.contains("id=\"reliability-money\"") && page.contains("id=\"backtest\""));
    assert_eq!(visit.page("/models/active").await, page);
    same_tables(&mut visit, version, &report).await;
    let unknown = visit
        .get(&format!("/models/{version}?format=csv&table=x"))
        .await;
    assert_eq!(unknown.status(), 422);
}

/// The tables of a report are those of the API.
async fn same_tables(visit: &mut Visit<'_>, version: &str, report: &Value) {
    let coefficients = csv(visit, version, "coefficients").await;
    let theirs = report["coefficients"].as_array().unwrap();
    assert_eq!(coefficients.len(), theirs.len());
    for (row, coefficient) in coefficients.iter().zip(theirs) {
        assert_eq!(number(&row[2]), coefficient["value"].as_f64().unwrap());
        assert_eq!(
            number(&row[3]),
            coefficient["standard_error"].as_f64().unwrap()
        );
    }
    let held_out = &report["held_out"];
    let measures = csv(visit, version, "measures").await;
    for row in &measures {
        let theirs = match &row[0] {
            "gain" => &held_out["gain"]["value"],
            measure => &held_out[measure],
        };
        assert_eq!(number(&row[1]), theirs.as_f64().unwrap(), "{row:?}");
    }
    assert_eq!(measures.len(), 8);
    let bins = csv(visit, version, "reliability").await;
    let theirs = held_out["reliability"].as_array().unwrap();
    assert_eq!(bins.len(), theirs.len());
    for (row, bin) in bins.iter().zip(theirs) {
        assert_eq!(number(&row[5]), bin["actual_wins"].as_f64().unwrap());
        assert_eq!(number(&row[7]), bin["actual_won_value"].as_f64().unwrap());
    }
    let captured = csv(visit, version, "backtest").await;
    let first = &held_out["backtest"]["orders"][0]["captured"][0]["share"];
    assert_eq!(number(&captured[0][2]), first["value"].as_f64().unwrap());
    let dropped = csv(visit, version, "columns").await.len();
    let theirs = report["dropped"].as_array().unwrap().len();
    let suspects = report["findings"].as_array().unwrap().iter();
    let suspects = suspects.filter(|f| f["grade"] == "suspect").count();
    assert_eq!(dropped, theirs + suspects);
    let drift = csv(visit, version, "drift").await.len();
    assert_eq!(
        drift,
        held_out["drift"]["columns"].as_array().unwrap().len()
    );
}

#[tokio::test]
async fn a_model_is_activated_and_rolled_back_from_the_page() {
    let service = Service::start();
    let first = service.train().await;
    let mut visit = Visit::signed_in(&service).await;
    let page = visit.page("/models").await;
    assert!(
        !page.contains("/models/rollback"),
        "there is nothing to go back to"
    );
    let trained = service.post("/v1/models", &json!({})).await;
    let trained = service.finished(trained).await;
    let second = trained["result"]["model_version"].as_str().unwrap();
    let page = visit.page("/models").await;
    assert!(page.contains("id=\"challenger\""), "{page}");
    let models = visit.page("/models?format=csv").await;
    let roles: Vec<&str> = models
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(3).unwrap())
        .collect();
    assert_eq!(roles, ["challenger", "champion"], "{models}");

    let activate = format!("/models/{second}/activate");
    let refused = visit.post(&activate, &[("csrf", "guess")]).await;
    assert_eq!(refused.status(), 403);
    let refused = visit.post(&activate, &[]).await;
    assert_eq!(refused.status(), 403);
    let active = async || service.get("/v1/models/active").await.ok(200)["version"].clone();
    assert_eq!(active().await, first);

    let report = format!("/models/{second}");
    let job = visit.submit(&report, &activate, &[]).await;
    let page = visit.until_done(&job).await;
    assert!(
        page.contains(&format!("{second} is the champion")),
        "{page}"
    );
    assert_eq!(active().await, second);
    let job = visit.submit("/models", "/models/rollback", &[]).await;
    let page = visit.until_done(&job).await;
    assert!(page.contains(&format!("{first} is the champion")), "{page}");
    assert_eq!(active().await, first);
    let activations = visit.page("/models?format=csv&table=activations").await;
    let causes: Vec<&str> = activations
        .lines()
        .skip(1)
        .map(|line| line.rsplit(',').next().unwrap())
        .collect();
    assert_eq!(causes, ["rollback", "command", "first"], "{activations}");
}

#[tokio::test]
async fn a_recalibration_that_is_not_called_for_is_told_in_words() {
    let service = Service::start();
    let version = service.train().await;
    let mut visit = Visit::signed_in(&service).await;
    let csrf = visit.csrf("/models").await;
    let path = format!("/models/{version}/recalibrate");
    let answer = visit.post(&path, &[("csrf", &csrf)]).await;
    assert_eq!(answer.status(), 409);
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    let page = answer.text().await.unwrap();
    assert!(page.contains("A recalibration is not called for"), "{page}");
}
