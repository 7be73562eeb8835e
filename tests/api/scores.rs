//! Scores over HTTP: one, many, streamed, stored; always the same.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::service::{Service, deal, ndjson};

const NDJSON: &str = "application/x-ndjson";

/// Everything of a score but the moment and the id.
fn worth(score: &Value) -> Value {
    let mut score = score.clone();
    let fields = score.as_object_mut().unwrap();
    fields.remove("scored_at");
    fields.remove("deal_id");
    score
}

#[tokio::test]
async fn the_same_deal_has_the_same_score_on_every_path() {
    let service = Service::start();
    let version = service.train().await;
    let deal = deal("d");
    let single = service.post("/v1/scores", &deal).await.ok(200);
    assert_eq!(single["model_version"], version);
    let batch = service
        .post("/v1/scores/batch", &json!({"deals": [deal]}))
        .await
        .ok(200);
    let line = service
        .post_raw(
            "/v1/scores/batch",
            NDJSON,
            ndjson(std::slice::from_ref(&deal)),
        )
        .await
        .ok(200);
    let stored = service.put("/v1/deals/d", &deal).await.ok(201);
    let read = service.get("/v1/deals/d").await.ok(200);
    let ranked = service.get("/v1/queues/nobody").await.ok(200);
    assert_eq!(ranked["rows"], json!([]));
    for (path, score) in [
        ("batch", &batch["scores"][0]),
        ("line", &line),
        ("put", &stored["score"]),
        ("get", &read["score"]),
    ] {
        assert_eq!(worth(score), worth(&single), "{path}");
    }
}

#[tokio::test]
async fn a_score_adds_up_and_is_described_as_it_is() {
    let service = Service::start();
    service.train().await;
    let score = service.post("/v1/scores", &deal("d")).await.ok(200);
    let contributions = score["reasons"].as_array().unwrap().iter();
    let sum: f64 = contributions
        .map(|r| r["contribution"].as_f64().unwrap())
        .sum();
    let intercept = score["intercept"].as_f64().unwrap();
    assert_eq!(intercept + sum, score["log_odds"].as_f64().unwrap());
    let probability = score["win_probability"].as_f64().unwrap();
    let expected = (probability * 1000.0 * 100.0).round() / 100.0;
    assert_eq!(score["expected_value"].as_f64().unwrap(), expected);
    let description = service.get("/openapi.json").await.ok(200);
    let described = &description["components"]["schemas"]["Score"]["properties"];
    let names = |v: &Value| {
        v.as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&score), names(described));
}

#[tokio::test]
async fn a_currency_without_a_rate_is_a_warning_and_no_number() {
    let service = Service::with_settings(
        "[exchange]\nbase = \"EUR\"\nrates = [{ currency = \"USD\", from = \"2020-01-01\", rate = \"0.5\" }]\n",
    );
    service.train().await;
    let mut deal = deal("d");
    deal["currency"] = json!("USD");
    let known = service.post("/v1/scores", &deal).await.ok(200);
    let probability = known["win_probability"].as_f64().unwrap();
    let expected = (probability * 500.0 * 100.0).round() / 100.0;
    assert_eq!(known["expected_value"].as_f64().unwrap(), expected);
    deal["currency"] = json!("JPY");
    let unknown = service.post("/v1/scores", &deal).await.ok(200);
    assert_eq!(unknown["expected_value"], Value::Null);
    assert!(unknown["warnings"].to_string().contains("JPY"), "{unknown}");
}

#[tokio::test]
async fn fifty_thousand_lines_come_back_in_order() {
    let service = Service::start();
    service.train().await;
    let lines: String = (0..50_000)
        .map(|i| format!("{}\n", deal(&format!("d-{i}"))))
        .collect();
    let request = service
        .request(Method::POST, "/v1/scores/batch")
        .header("content-type", NDJSON);
    let response = request.body(lines).send().await.unwrap();
    let answers = response.text().await.unwrap();
    let mut count = 0;
    for (i, answer) in answers.lines().enumerate() {
        let score: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(score["deal_id"], format!("d-{i}"));
        count += 1;
    }
    assert_eq!(count, 50_000);
}

#[tokio::test]
async fn a_client_that_sends_everything_before_it_reads_is_served_too() {
    use std::io::Read;
    let service = Service::start();
    service.train().await;
    let body: String = (0..20_000)
        .map(|i| format!("{}\n", deal(&format!("d-{i}"))))
        .collect();
    let address = service.base().trim_start_matches("http://").to_owned();
    let head = format!(
        "POST /v1/scores/batch HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: {NDJSON}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.matches("\"win_probability\"").count(), 20_000);
}

#[tokio::test]
async fn lines_are_answered_while_more_are_to_come() {
    let service = Service::start();
    service.train().await;
    let (sender, receiver) = tokio::sync::mpsc::channel::<String>(1);
    let body = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let line = receiver.recv().await?;
        Some((Ok::<_, std::io::Error>(line), receiver))
    });
    let request = service
        .request(Method::POST, "/v1/scores/batch")
        .header("content-type", NDJSON);
    sender.send(ndjson(&[deal("first")])).await.unwrap();
    let response = request
        .body(reqwest::Body::wrap_stream(body))
        .send()
        .await
        .unwrap();
    let mut answers = response.bytes_stream();
    let first = answers.next().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&first).unwrap().contains("\"first\""));
    sender.send(ndjson(&[deal("second")])).await.unwrap();
    let second = answers.next().await.unwrap().unwrap();
    assert!(std::str::from_utf8(&second).unwrap().contains("\"second\""));
    drop(sender);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn a_bad_line_is_answered_with_its_number_and_stops_nothing() {
    let service = Service::with_settings("[limits]\nndjson_line_bytes_max = 2000\n");
    service.train().await;
    let mut negative = deal("negative");
    negative["amount"] = json!(-1);
    let mut body = format!("{}\n\n{{oops\n{negative}\n", deal("good")).into_bytes();
    body.extend_from_slice(b"{\"id\": \"\xff\"}\r\n");
    body.extend_from_slice(&vec![b'x'; 700_000]);
    body.extend_from_slice(format!("\n{}", deal("last, without an end")).as_bytes());
    let answer = service
        .post_raw("/v1/scores/batch", NDJSON, body)
        .await
        .ok(200);
    let answers: Vec<Value> = answer
        .as_str()
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(answers[0]["deal_id"], "good");
    let codes: Vec<_> = answers[1..5]
        .iter()
        .map(|a| {
            (
                a["line"].as_u64().unwrap(),
                a["error"]["code"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        codes,
        [
            (3, "malformed"),
            (4, "invalid"),
            (5, "malformed"),
            (6, "too_large")
        ]
    );
    assert_eq!(answers[2]["error"]["errors"][0]["field"], "amount");
    assert_eq!(answers[5]["deal_id"], "last, without an end");
    assert_eq!(answers.len(), 6);
    let answer = service.post_raw("/v1/scores/batch", NDJSON, "\n\n").await;
    assert_eq!(answer.problem(400), "malformed");
}

#[tokio::test]
async fn bodies_may_be_gzipped_and_are_limited_as_they_unfold() {
    let service = Service::start();
    service.train().await;
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let send = async |body: Vec<u8>, kind: &str| {
        let request = service.request(Method::POST, "/v1/scores/batch");
        let request = request
            .header("content-encoding", "gzip")
            .header("content-type", kind);
        crate::service::answer(request.body(body).send().await.unwrap()).await
    };
    let deals = json!({"deals": [deal("d")]}).to_string();
    send(gzip(deals.as_bytes()), "application/json")
        .await
        .ok(200);
    send(gzip(ndjson(&[deal("d")]).as_bytes()), NDJSON)
        .await
        .ok(200);
    let bomb = send(gzip(&vec![b' '; 50_000_000]), "application/json").await;
    assert_eq!(bomb.problem(413), "too_large");
    let broken = send(b"this is not gzip".to_vec(), "application/json").await;
    assert_eq!(broken.problem(400), "malformed");
}

#[tokio::test]
async fn a_batch_above_its_limit_is_refused_by_name() {
    let service = Service::with_settings("[limits]\nbatch_rows_max = 2\n");
    service.train().await;
    let deals = [deal("a"), deal("b"), deal("c")];
    let answer = service
        .post("/v1/scores/batch", &json!({"deals": deals}))
        .await;
    assert_eq!(answer.problem(413), "too_large");
    assert!(answer.detail().contains("batch_rows_max: at most 2"));
    let two = service
        .post("/v1/scores/batch", &json!({"deals": deals[..2]}))
        .await
        .ok(200);
    assert_eq!(two["scores"].as_array().unwrap().len(), 2);
    let none = service
        .post("/v1/scores/batch", &json!({"deals": []}))
        .await
        .ok(200);
    assert_eq!(none["scores"], json!([]));
}

#[tokio::test]
async fn a_body_that_stops_coming_is_given_up_by_name() {
    use std::io::Read;
    let service = Service::with_settings("[limits]\nbody_pause_seconds_max = 1\n");
    service.train().await;
    let address = service.base().trim_start_matches("http://").to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        let head = format!(
            "POST /v1/scores HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("body_pause_seconds_max"), "{answer}");
}
