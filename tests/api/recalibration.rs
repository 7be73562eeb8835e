//! A model shifted to newer outcomes, over HTTP and on the command line.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::service::{Service, binary_in, ndjson};

/// The day on which wins become rarer, and up to which models know.
const TURN: &str = "2025-07-01T00:00:00Z";
const TURN_DAY: usize = 181;

/// Two deals a day for 400 days, of which web ones win most often, each open for twenty days; then ten
/// open ones. From `TURN_DAY` on, `lost_of_ten` of ten that would have won are lost.
fn deals(lost_of_ten: usize) -> Vec<Value> {
    let deal = |i: usize| {
        let is_web = i.is_multiple_of(3);
        let created = jiff::civil::date(2025, 1, 1) + jiff::Span::new().days((i / 2) as i64);
        let closed = created + jiff::Span::new().days(20);
        let would_win = (i * 7919 + i / 3) % 10 < if is_web { 8 } else { 4 };
        let is_late = i / 2 >= TURN_DAY && i * 6547 % 10 < lost_of_ten;
        let mut deal = json!({
            "id": format!("r-{i:04}"), "stage": "demo", "created_at": format!("{created}T00:00:00Z"),
            "amount": 1000 + (i * 37) % 900, "currency": "EUR",
            "attributes": {"source": if is_web { "web" } else { "fair" }},
        });
        if i < 800 {
            deal["outcome"] = json!(if would_win && !is_late { "won" } else { "lost" });
            deal["closed_at"] = json!(format!("{closed}T00:00:00Z"));
        }
        deal
    };
    (0..810).map(deal).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

fn log_odds(probability: &Value) -> f64 {
    let p = number(probability);
    (p / (1.0 - p)).ln()
}

/// A champion that knows nothing after the turn.
async fn with_old_champion(lost_of_ten: usize) -> (Service, String) {
    let service = Service::start();
    service.import_documents(&deals(lost_of_ten)).await;
    let job = service.post("/v1/models", &json!({"as_of": TURN})).await;
    let job = service.finished(job).await;
    assert_eq!(job["state"], "done", "{job}");
    let version = job["result"]["model_version"].as_str().unwrap().to_owned();
    (service, version)
}

#[tokio::test]
async fn a_champion_that_expects_too_much_is_shifted_and_the_order_stays() {
    let (service, first) = with_old_champion(5).await;
    let answer = service
        .post("/v1/models/active/recalibrate", &Value::Null)
        .await
        .ok(201);
    let found = &answer["recalibration"];
    assert_eq!(answer["from_version"], first);
    assert_eq!(found["is_offered"], true, "{found}");
    assert!(number(&found["actual"]) < number(&found["predicted"]));
    assert!(number(&found["log_loss_after"]) < number(&found["log_loss_before"]));
    let shift = number(&found["shift"]);
    assert!(shift < -0.4, "{found}");

    let second = answer["model_version"].as_str().unwrap();
    let model = service.get(&format!("/v1/models/{second}")).await.ok(200);
    assert_eq!(
        (&model["origin"], &model["is_active"]),
        (&json!("recalibrated"), &json!(false))
    );
    assert_eq!(model["recalibrated"]["from_version"], first);
    let report = service
        .get(&format!("/v1/models/{second}/report"))
        .await
        .ok(200);
    assert_eq!(&report["recalibrated"]["by"], found);

    let score = async || service.get("/v1/deals/r-0805").await.ok(200)["score"].clone();
    let before = score().await;
    let path = format!("/v1/models/{second}/activate");
    let activated = service.post(&path, &Value::Null).await;
    assert_eq!(service.finished(activated).await["state"], "done");
    let after = score().await;
    let moved = log_odds(&after["win_probability"]) - log_odds(&before["win_probability"]);
    assert!((moved - shift).abs() < 1e-9, "{moved} is not {shift}");
    assert_eq!(after["grade"], before["grade"]);
    assert_eq!(after["reasons"], before["reasons"]);

    // It has seen those deals now.
    let again = service
        .post("/v1/models/active/recalibrate", &Value::Null)
        .await;
    assert_eq!(again.problem(409), "not_offered");
    assert!(
        again.detail().contains("10 won and 10 lost deals"),
        "{again:?}"
    );
    let forced = service
        .post("/v1/models/active/recalibrate?force=true", &Value::Null)
        .await;
    assert_eq!(
        forced.problem(409),
        "not_offered",
        "there is nothing to force"
    );
    let unknown = service
        .post("/v1/models/none/recalibrate", &Value::Null)
        .await;
    assert_eq!(unknown.problem(404), "not_found");
    let path = "/v1/models/active/recalibrate?force=perhaps";
    assert_eq!(service.post(path, &Value::Null).await.fields(), ["force"]);
}

#[tokio::test]
async fn what_chance_explains_is_refused_unless_it_is_forced() {
    let (mut service, first) = with_old_champion(0).await;
    let refused = service
        .post("/v1/models/active/recalibrate", &Value::Null)
        .await;
    assert_eq!(refused.problem(409), "not_offered");
    assert!(
        refused.detail().contains("no more than chance"),
        "{refused:?}"
    );
    let forced = service
        .post("/v1/models/active/recalibrate?force=true", &Value::Null)
        .await;
    let forced = forced.ok(201);
    assert_eq!(forced["recalibration"]["is_offered"], false);
    let list = service.get("/v1/models").await.ok(200);
    assert_eq!(list["models"].as_array().unwrap().len(), 2);

    let folder = service.dir().to_owned();
    let pid = service.pid().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert!(service.wait_for_end().success());
    let refused = dealrank(&folder, &["recalibrate"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no more than chance"));
    let forced = json_of(
        &folder,
        &["recalibrate", "--force", "--json", "--out", "shifted.json"],
    );
    assert_eq!(forced["from_version"], first);
    let written = std::fs::read_to_string(folder.join("shifted.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["version"], forced["model_version"]);
}

fn dealrank(folder: &Path, args: &[&str]) -> Output {
    binary_in(folder).args(args).output().unwrap()
}

#[track_caller]
fn json_of(folder: &Path, args: &[&str]) -> Value {
    let output = dealrank(folder, args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn files_of_newer_deals_tell_whether_a_shift_is_offered_and_give_the_shifted_model() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let write = |name: &str, deals: &[Value]| {
        std::fs::write(folder.join(name), ndjson(deals)).unwrap();
    };
    let all = deals(5);
    write("all.ndjson", &all);
    write("newer.ndjson", &all[2 * TURN_DAY..]);
    write("as_before.ndjson", &deals(0));
    let trained = dealrank(folder, &["train", "all.ndjson", "--as-of", TURN]);
    assert!(trained.status.success(), "{trained:?}");

    let judged = |model: &str| {
        json_of(
            folder,
            &["evaluate", "newer.ndjson", "--model", model, "--json"],
        )
    };
    let before = judged("model.json");
    assert_eq!(before["recalibration"]["is_offered"], true, "{before}");
    let text = dealrank(
        folder,
        &["evaluate", "newer.ndjson", "--model", "model.json"],
    );
    assert!(String::from_utf8_lossy(&text.stdout).contains("Recalibration is offered: "));

    let shift = [
        "recalibrate",
        "all.ndjson",
        "--model",
        "model.json",
        "--out",
        "shifted.json",
    ];
    let told = dealrank(folder, &shift);
    assert!(told.status.success(), "{told:?}");
    assert!(String::from_utf8_lossy(&told.stdout).starts_with("Recalibration is offered: "));
    let after = judged("shifted.json");
    assert!(number(&after["log_loss"]) < number(&before["log_loss"]));
    assert_eq!(after["auc"], before["auc"]);
    let rest = number(&after["recalibration"]["shift"]);
    assert!(rest.abs() < 0.05, "{after}");

    let unmoved = [
        "recalibrate",
        "as_before.ndjson",
        "--model",
        "model.json",
        "--out",
        "no.json",
    ];
    let refused = dealrank(folder, &unmoved);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.is_empty() && !folder.join("no.json").exists());
    let forced = dealrank(folder, &[&unmoved[..], &["--force"]].concat());
    assert!(
        forced.status.success() && folder.join("no.json").exists(),
        "{forced:?}"
    );
}
