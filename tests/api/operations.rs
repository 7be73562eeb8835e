//! Starting, stopping, watching and asking the service, as its operator does.

use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::servers::TestStore;
use crate::service::{Service, binary, binary_in, deal, history, ndjson, spawn};

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn the_demo_works_as_printed_and_is_found_again() {
    let dir = TempDir::new().unwrap();
    let (mut child, base) = spawn(dir.path(), &["--demo"]);
    let get = async |path: &str| {
        let response = reqwest::get(format!("{base}{path}")).await.unwrap();
        crate::service::answer(response).await.ok(200)
    };
    let models = get("/v1/models").await;
    let ranking = get("/v1/rankings?limit=3").await;
    assert_eq!(ranking["rows"].as_array().unwrap().len(), 3);
    let owner = ranking["rows"][0]["deal"]["owner"]
        .as_str()
        .unwrap()
        .replace(' ', "%20");
    let queue = get(&format!("/v1/queues/{owner}?limit=3")).await;
    assert!(queue["rows"][0]["score"]["reasons"][0]["text"].is_string());
    assert!(get("/").await.as_str().unwrap().contains("/docs/"));
    assert!(get("/docs/").await.as_str().unwrap().contains("swagger"));
    child.kill().unwrap();
    child.wait().unwrap();

    let (mut child, base) = spawn(dir.path(), &["--demo"]);
    let again = reqwest::get(format!("{base}/v1/models")).await.unwrap();
    assert_eq!(crate::service::answer(again).await.ok(200), models);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn sigterm_lets_the_service_end_by_itself() {
    let mut service = Service::start();
    let accepted = service
        .post_raw(
            "/v1/imports",
            "application/x-ndjson",
            ndjson(&history(5000)),
        )
        .await
        .ok(202);
    let events = format!("/v1/jobs/{}/events", accepted["id"].as_str().unwrap());
    let stream = service
        .request(reqwest::Method::GET, &events)
        .send()
        .await
        .unwrap();
    let killed = Command::new("kill")
        .arg(service.pid().to_string())
        .status()
        .unwrap();
    assert!(killed.success());
    // The stream of a job that runs on ends, too.
    stream.text().await.unwrap();
    assert!(service.wait_for_end().success(), "{}", service.log());
}

#[tokio::test]
async fn metrics_count_by_route_and_unknown_paths_as_one() {
    let service = Service::start();
    for i in 0..5 {
        service.get(&format!("/nothing/{i}")).await.problem(404);
        service.get(&format!("/v1/deals/{i}")).await.problem(404);
    }
    let metrics = service.get("/metrics").await.ok(200);
    let metrics = metrics.as_str().unwrap();
    assert!(
        metrics
            .contains("http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"} 5"),
        "{metrics}"
    );
    assert!(
        metrics.contains(
            "http_requests_total{method=\"GET\",route=\"/v1/deals/{id}\",status=\"404\"} 5"
        )
    );
    assert!(metrics.contains("http_request_duration_seconds_bucket{method=\"GET\""));
    assert!(!metrics.contains("/nothing"));
}

#[tokio::test]
async fn the_log_holds_no_names_of_deals() {
    let service = Service::start();
    service
        .put("/v1/deals/secret-deal", &deal("secret-deal"))
        .await
        .ok(201);
    service.get("/v1/queues/secret-rep").await.problem(503);
    service
        .post("/v1/scores", &json!({"id": "secret-id"}))
        .await
        .problem(422);
    assert!(!service.log().contains("secret"), "{}", service.log());
}

#[test]
fn a_port_that_is_taken_is_said() {
    let service = Service::start();
    let address = service.base().trim_start_matches("http://");
    let elsewhere = TempDir::new().unwrap();
    let taken = run(binary()
        .args(["serve", "--listen", address])
        .current_dir(elsewhere.path()));
    assert_eq!(taken.status.code(), Some(1));
    assert!(
        stderr(&taken).contains("is taken by another program"),
        "{}",
        stderr(&taken)
    );
}

#[test]
fn embedded_store_that_is_used_is_refused() {
    let service = Service::start();
    std::fs::write(service.dir().join("deals.ndjson"), ndjson(&history(1))).unwrap();
    for args in [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &["import", "deals.ndjson"],
    ] {
        let used = run(binary_in(service.dir()).args(args));
        assert_eq!(used.status.code(), Some(1));
        let reason = stderr(&used);
        assert!(
            reason.contains("another dealrank uses the data folder"),
            "{reason}"
        );
    }
}

#[test]
fn settings_that_cannot_be_meant_are_refused_with_their_name() {
    let dir = TempDir::new().unwrap();
    for (settings, word) in [
        ("lisen = \"x\"", "lisen"),
        ("listen = ", "line 1"),
        ("listen = \"nowhere\"", "nowhere"),
    ] {
        std::fs::write(dir.path().join("dealrank.toml"), settings).unwrap();
        let output = run(binary().arg("serve").current_dir(dir.path()));
        assert_eq!(
            output.status.code(),
            Some(2),
            "{settings}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains(word), "{}", stderr(&output));
    }
    let printed = run(binary().args(["serve", "--print-config"]));
    std::fs::write(dir.path().join("dealrank.toml"), &printed.stdout).unwrap();
    let output = run(binary().arg("doctor").current_dir(dir.path()));
    assert!(output.status.success(), "{}", stderr(&output));
}

#[tokio::test]
async fn the_command_line_and_the_service_work_on_the_same_store() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("deals.ndjson");
    std::fs::write(&file, format!("{}broken\n", ndjson(&history(240)))).unwrap();
    let dealrank = |args: &[&str]| run(binary_in(dir.path()).args(args));
    let imported = dealrank(&["import", "--json", "deals.ndjson"]);
    let imported: Value = serde_json::from_str(&stdout(&imported)).unwrap();
    assert_eq!(imported["report"]["stored"], 240);
    assert_eq!(imported["report"]["rejects"][0]["line"], 241);
    assert!(std::fs::exists(dir.path().join(imported["rejects_file"].as_str().unwrap())).unwrap());
    let exported = stdout(&dealrank(&["export", "deals"]));
    assert_eq!(exported.lines().count(), 240);
    assert!(stderr(&dealrank(&["export", "model"])).contains("no model"));
    let advice = stdout(&dealrank(&["doctor"]));
    assert!(advice.contains("train one"), "{advice}");

    let (mut child, base) = spawn(dir.path(), &[]);
    let client = reqwest::Client::new();
    let job: Value = client
        .post(format!("{base}/v1/models"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let events = format!("{base}/v1/jobs/{}/events", job["id"].as_str().unwrap());
    let events = reqwest::get(events).await.unwrap().text().await.unwrap();
    assert!(events.contains("event: done"), "{events}");
    let alive = dealrank(&["healthcheck", "--url", &base]);
    assert!(alive.status.success(), "{}", stderr(&alive));
    child.kill().unwrap();
    child.wait().unwrap();
    let dead = dealrank(&["healthcheck", "--url", &base]);
    assert_eq!(dead.status.code(), Some(1));

    let models: Value = serde_json::from_str(&stdout(&dealrank(&["models", "--json"]))).unwrap();
    let version = models[0]["version"].as_str().unwrap();
    assert_eq!(models[0]["is_active"], true);
    let model: Value = serde_json::from_str(&stdout(&dealrank(&["export", "model"]))).unwrap();
    assert_eq!(model["version"], version);
    let queue = stdout(&dealrank(&["export", "queue", "--owner", "Ada"]));
    let mut rows = csv::Reader::from_reader(queue.as_bytes());
    assert_eq!(rows.records().count(), 12);
    let trained = dealrank(&["train", "--as-of", "2025-07-01"]);
    assert!(
        stderr(&trained).contains("models activate"),
        "{}",
        stderr(&trained)
    );
    let activated = dealrank(&["models", "activate", version]);
    assert!(
        stdout(&activated).contains("24 open deals scored"),
        "{}",
        stderr(&activated)
    );
    let unknown = dealrank(&["models", "activate", "nothing"]);
    assert_eq!(unknown.status.code(), Some(2), "{}", stderr(&unknown));
}

#[tokio::test]
async fn another_model_can_take_the_place_of_a_damaged_champion() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("deals.ndjson"), ndjson(&history(240))).unwrap();
    let dealrank = |args: &[&str]| run(binary_in(dir.path()).args(args));
    for args in [
        &["import", "deals.ndjson"][..],
        &["train"],
        &["train", "--as-of", "2025-07-01"],
    ] {
        let output = dealrank(args);
        assert!(output.status.success(), "{}", stderr(&output));
    }
    let models = || -> Vec<Value> {
        serde_json::from_str(&stdout(&dealrank(&["models", "--json"]))).unwrap()
    };
    let (damaged, whole): (Vec<_>, Vec<_>) =
        models().into_iter().partition(|m| m["is_active"] == true);
    let damaged = damaged[0]["version"].as_str().unwrap();
    let whole = whole[0]["version"].as_str().unwrap();
    let damage =
        format!("UPDATE models SET model = substr(model, 1, 500) WHERE version = '{damaged}'");
    TestStore::of(dir.path()).execute(&damage).await;

    let refused = dealrank(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(1));
    let advice = stderr(&refused);
    assert!(advice.contains(damaged), "{advice}");
    assert!(
        advice.contains("dealrank models activate VERSION"),
        "{advice}"
    );
    let examined = stdout(&dealrank(&["doctor"]));
    assert!(examined.contains("FAILED   model"), "{examined}");
    let activated = dealrank(&["models", "activate", whole]);
    assert!(activated.status.success(), "{}", stderr(&activated));
    let examined = stdout(&dealrank(&["doctor"]));
    assert!(
        examined.contains(&format!("{whole} is active")),
        "{examined}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("deals.ndjson"), ndjson(&history(240))).unwrap();
    for args in [
        &["import", "deals.ndjson"][..],
        &["export", "deals"],
        &["models"],
        &["doctor"],
        &["serve", "--print-config"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = binary_in(dir.path());
        let output = command.args(args).stdout(writer);
        let output = output.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_file_that_is_wrong_ends_the_import_with_2_and_its_place() {
    let dir = TempDir::new().unwrap();
    let import = |name: &str, content: &[u8]| {
        std::fs::write(dir.path().join(name), content).unwrap();
        run(binary_in(dir.path()).args(["import", "--strict", name]))
    };
    for (name, content, word) in [
        ("empty.csv", &b""[..], "empty"),
        (
            "bad.ndjson",
            b"{\"id\": \"a\", \"stage\": null, \"created_at\": null}\n{nope\n",
            "line 2",
        ),
    ] {
        let output = import(name, content);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(
            stderr(&output).contains(word) && stderr(&output).contains(name),
            "{}",
            stderr(&output)
        );
    }
    let output = run(binary_in(dir.path()).args(["import", "missing.csv"]));
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn without_its_redis_the_service_answers_and_says_so() {
    let service = Service::with_settings("redis_url = \"redis://127.0.0.1:1\"\n");
    service.train().await;
    service.put("/v1/deals/d", &deal("d")).await.ok(201);
    let ranking = service.get("/v1/rankings?limit=200").await.ok(200);
    assert_eq!(ranking["rows"].as_array().unwrap().len(), 25);
    let ready = service.get("/readyz").await.ok(200);
    assert_eq!(ready["status"], "degraded");
    assert_eq!(
        (&ready["redis"], &ready["store"]),
        (&json!("down"), &json!("up"))
    );
    let advice = run(binary_in(service.dir()).args(["doctor"]));
    assert!(
        stdout(&advice).contains("127.0.0.1:1 does not answer"),
        "{}",
        stdout(&advice)
    );
}
