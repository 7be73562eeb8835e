//! Long work: queued, followed, limited, and honest about restarts.

use reqwest::Method;
use serde_json::{Value, json};

use crate::service::{Service, deal, history, ndjson};

/// Enough rows to keep the worker busy for a while.
fn long_file() -> String {
    ndjson(&history(20_000))
}

#[tokio::test]
async fn two_jobs_run_one_after_the_other_while_the_service_answers() {
    let service = Service::start();
    let first = service
        .post_raw("/v1/imports", "application/x-ndjson", long_file())
        .await
        .ok(202);
    let second = service
        .post_raw("/v1/imports", "application/x-ndjson", ndjson(&[deal("x")]))
        .await;
    let id = |job: &Value| format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let waiting = service.get(&id(&second.body)).await.ok(200);
    assert_eq!(waiting["state"], "queued", "{waiting}");
    assert_eq!(service.get("/healthz").await.ok(200)["status"], "ok");
    service
        .put("/v1/deals/meanwhile", &deal("meanwhile"))
        .await
        .ok(201);
    let running = service.get(&id(&first)).await.ok(200);
    assert_eq!(running["state"], "running", "{running}");
    let second = service.finished(second).await;
    let first = service.get(&id(&first)).await.ok(200);
    assert_eq!(first["result"]["stored"], 20_000, "{first}");
    let time = |job: &Value, name: &str| {
        job[name]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap()
    };
    assert!(time(&first, "finished_at") <= time(&second, "started_at"));
    let listed = service.get("/v1/jobs?limit=2").await.ok(200);
    assert_eq!(listed["jobs"], json!([second, first]));
}

#[tokio::test]
async fn a_job_is_followed_by_events_to_its_end() {
    let service = Service::start();
    let accepted = service
        .request(Method::POST, "/v1/imports")
        .header("content-type", "application/x-ndjson");
    let accepted = accepted.body(long_file()).send().await.unwrap();
    let location = accepted.headers()["location"].to_str().unwrap().to_owned();
    let stream = service
        .request(Method::GET, &format!("{location}/events"))
        .send()
        .await
        .unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let text = stream.text().await.unwrap();
    let events: Vec<(&str, Value)> = text
        .split("\n\n")
        .filter_map(|event| {
            let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name, serde_json::from_str(data).unwrap()))
        })
        .collect();
    let (last, before) = events.split_last().unwrap();
    assert_eq!((last.0, &last.1["state"]), ("done", &json!("done")));
    assert!(!before.is_empty() && before.iter().all(|(name, _)| *name == "progress"));
    let done: Vec<u64> = events
        .iter()
        .map(|(_, job)| job["progress"]["done"].as_u64().unwrap())
        .collect();
    assert!(done.is_sorted() && done.last() > Some(&0), "{done:?}");
    assert_eq!(service.get(&location).await.ok(200), last.1);
    let late = service.get(&format!("{location}/events")).await.ok(200);
    assert!(late.as_str().unwrap().starts_with("event: done\n"));
}

#[tokio::test]
async fn a_full_queue_says_so_by_the_name_of_its_limit() {
    let service = Service::with_settings("[limits]\njobs_queued_max = 1\n");
    let first = service
        .post_raw("/v1/imports", "application/x-ndjson", long_file())
        .await;
    let mut refused = None;
    for _ in 0..3 {
        let answer = service.post("/v1/models", &json!({})).await;
        if answer.status == 429 {
            refused = Some(answer);
        }
    }
    let refused = refused.expect("one runs, one waits, the third is too many");
    assert_eq!(refused.problem(429), "busy");
    assert!(refused.detail().contains("jobs_queued_max"));
    service.finished(first).await;
}

#[tokio::test]
async fn everything_survives_a_crash_and_what_was_running_has_failed() {
    let mut service = Service::start();
    let version = service.train().await;
    let before = service.put("/v1/deals/kept", &deal("kept")).await.ok(201);
    let ranking = service.get("/v1/rankings?limit=5").await.ok(200);
    let running = service
        .post_raw("/v1/imports", "application/x-ndjson", long_file())
        .await
        .ok(202);
    let queued = service.post("/v1/models", &json!({})).await.ok(202);
    service.crash_and_restart();
    for job in [running, queued] {
        let job = service.job(job["id"].as_str().unwrap()).await;
        assert_eq!(job["state"], "failed", "{job}");
        assert!(job["error"].as_str().unwrap().contains("stopped"), "{job}");
    }
    let after = service.get("/v1/deals/kept").await.ok(200);
    assert_eq!(after["deal"], before["deal"]);
    assert_eq!(
        after["score"]["win_probability"],
        before["score"]["win_probability"]
    );
    assert_eq!(
        service.get("/v1/rankings?limit=1").await.ok(200)["model_version"],
        ranking["model_version"]
    );
    assert_eq!(
        service.get("/readyz").await.ok(200)["model"]["version"],
        version
    );
    let again = service.post("/v1/models", &json!({})).await;
    assert_eq!(service.finished(again).await["state"], "done");
}

#[tokio::test]
async fn a_second_model_is_a_candidate_until_it_is_activated() {
    let service = Service::start();
    let first = service.train().await;
    let trained = service
        .post(
            "/v1/models",
            &json!({"closed_since": "2025-03-01T00:00:00Z"}),
        )
        .await;
    let trained = service.finished(trained).await;
    assert_eq!(trained["result"]["is_active"], false, "{trained}");
    let second = trained["result"]["model_version"]
        .as_str()
        .unwrap()
        .to_owned();
    let active = |list: Value| {
        let models = list["models"].as_array().unwrap().clone();
        models
            .into_iter()
            .filter(|m| m["is_active"] == true)
            .map(|m| m["version"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(active(service.get("/v1/models").await.ok(200)), [first]);
    let activated = service
        .post(&format!("/v1/models/{second}/activate"), &json!({}))
        .await;
    let activated = service.finished(activated).await;
    assert_eq!(activated["result"]["scored"], 24, "{activated}");
    assert_eq!(
        active(service.get("/v1/models").await.ok(200)),
        [second.as_str()]
    );
    let ranking = service.get("/v1/rankings").await.ok(200);
    assert_eq!(ranking["model_version"], second);
    for row in ranking["rows"].as_array().unwrap() {
        assert_eq!(row["score"]["model_version"], second);
    }
    let detail = service.get("/v1/models/active").await.ok(200);
    assert_eq!(detail["version"], second);
    let report = service
        .get(&format!("/v1/models/{second}/report"))
        .await
        .ok(200);
    assert_eq!(report["version"], second);
    assert!(report["train_deals"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(
        report["coefficients"][0]["columns"],
        json!(["amount"]),
        "{report}"
    );
    let model = service
        .get(&format!("/v1/models/{second}/export?format=json"))
        .await
        .ok(200);
    assert_eq!(model["version"], second);
    assert!(detail["findings"].is_array(), "{detail}");
    assert_eq!(detail["findings"], model["findings"]);
    for format in ["sql", "onnx"] {
        let answer = service
            .get(&format!("/v1/models/{second}/export?format={format}"))
            .await;
        assert_eq!(answer.problem(422), "unsupported_format");
        assert!(answer.detail().contains("json"));
    }
    let answer = service.post("/v1/models", &json!({"until": "x"})).await;
    assert!(answer.detail().contains("until"), "{answer:?}");
    let answer = service
        .post("/v1/models", &json!({"as_of": "yesterday"}))
        .await;
    assert_eq!(answer.fields(), ["as_of"]);
}
