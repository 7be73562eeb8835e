//! Deals over HTTP, from the first PUT to the last trace, and the rankings that follow them.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::service::{Service, deal};

#[tokio::test]
async fn a_deal_is_created_replaced_changed_and_erased() {
    let service = Service::start();
    service.train().await;
    let path = "/v1/deals/d-1";
    let created = service.put(path, &deal("d-1")).await.ok(201);
    assert!(created["score"]["reasons"].is_array());
    let again = service.put(path, &deal("d-1")).await.ok(200);
    assert_eq!(
        again["revision"], created["revision"],
        "the same document changes nothing"
    );

    let patch = json!({"amount": 5000, "attributes": {"employees": null}});
    let patched = service.send(Method::PATCH, path, &patch).await.ok(200);
    assert_eq!(patched["deal"]["amount"], "5000");
    assert_eq!(patched["deal"]["attributes"], json!({"source": "web"}));
    assert_eq!(patched["score"]["amount"], 5000.0);
    assert_eq!(service.get(path).await.ok(200)["deal"], patched["deal"]);

    let history = service.get("/v1/deals/d-1/scores").await.ok(200);
    let causes: Vec<&str> = history["scores"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["cause"].as_str().unwrap())
        .collect();
    assert_eq!(causes, ["patch", "put"]);
    let first = service.get("/v1/deals/d-1/scores?limit=1").await.ok(200);
    let next = format!(
        "/v1/deals/d-1/scores?limit=1&before={}",
        first["next_before"]
    );
    let second = service.get(&next).await.ok(200);
    assert_eq!(second["scores"][0], history["scores"][1]);
    assert_eq!(second["next_before"], Value::Null);

    let erased = service.send(Method::DELETE, path, &json!({})).await;
    assert_eq!(erased.ok(204), "");
    for path in [path, "/v1/deals/d-1/scores"] {
        assert_eq!(service.get(path).await.problem(404), "not_found");
    }
    let rows = service.get("/v1/rankings?limit=200").await.ok(200);
    assert!(!rows.to_string().contains("\"d-1\""));
}

#[tokio::test]
async fn events_count_once_and_a_lost_deal_has_no_expected_value() {
    let service = Service::start();
    service.train().await;
    service.put("/v1/deals/d-1", &deal("d-1")).await.ok(201);
    let path = "/v1/deals/d-1/events";
    let call =
        json!({"id": "e-1", "type": "activity", "kind": "call", "at": "2026-04-01T00:00:00Z"});
    let first = service.post(path, &call).await.ok(200);
    assert_eq!(
        (&first["applied"], &first["duplicates"]),
        (&json!(1), &json!(0))
    );
    let again = service.post(path, &json!([call])).await.ok(200);
    assert_eq!(
        (&again["applied"], &again["duplicates"]),
        (&json!(0), &json!(1))
    );
    let moved = json!({"events": [{"type": "change", "field": "stage", "value": "offer", "at": "2026-04-02T00:00:00Z"}]});
    let moved = service.post(path, &moved).await.ok(200);
    assert_eq!(moved["deal"]["stage"], "offer");
    let lost = json!({"type": "closed", "outcome": "lost", "at": "2026-04-03T00:00:00Z"});
    let lost = service.post(path, &lost).await.ok(200);
    assert_eq!(lost["score"], Value::Null);
    let queue = service.get("/v1/rankings?limit=200").await.ok(200);
    assert!(!queue.to_string().contains("\"d-1\""));
}

#[tokio::test]
async fn a_ranking_is_in_order_filtered_and_paged_without_gaps_while_scores_change() {
    let service = Service::start();
    service.train().await;
    for i in 0..30 {
        let mut deal = deal(&format!("p-{i:02}"));
        deal["amount"] = json!(1000 + i * 100);
        deal["owner"] = json!(["Ada", "Ben"][i % 2]);
        service
            .put(&format!("/v1/deals/p-{i:02}"), &deal)
            .await
            .ok(201);
    }
    let mut worthless = deal("p-30");
    worthless["amount"] = Value::Null;
    service.put("/v1/deals/p-30", &worthless).await.ok(201);

    let everything = service.get("/v1/rankings?limit=200").await.ok(200);
    let rows = everything["rows"].as_array().unwrap();
    let values: Vec<Option<f64>> = rows
        .iter()
        .map(|r| r["score"]["expected_value"].as_f64())
        .collect();
    assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
    assert_eq!(
        values.last().unwrap(),
        &None,
        "without an amount comes last"
    );
    assert!(rows[0]["score"].get("reasons").is_none());

    let mut seen = HashSet::new();
    let mut path = "/v1/rankings?limit=7".to_owned();
    loop {
        let page = service.get(&path).await.ok(200);
        for row in page["rows"].as_array().unwrap() {
            assert!(
                seen.insert(row["deal"]["id"].as_str().unwrap().to_owned()),
                "{row} twice"
            );
        }
        // What was at the bottom jumps to the top, and the other way round.
        let bottom = json!({"amount": 900_000 + seen.len()});
        service
            .send(Method::PATCH, "/v1/deals/p-00", &bottom)
            .await
            .ok(200);
        let top = json!({"amount": 1});
        service
            .send(Method::PATCH, "/v1/deals/p-29", &top)
            .await
            .ok(200);
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/rankings?limit=7&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), rows.len());

    let queue = service.get("/v1/queues/Ben?limit=3").await.ok(200);
    for row in queue["rows"].as_array().unwrap() {
        assert_eq!(row["deal"]["owner"], "Ben");
        assert!(row["score"]["reasons"].is_array());
    }
    let cursor = queue["next_cursor"].as_str().unwrap();
    let other = service
        .get(&format!("/v1/queues/Ada?limit=3&cursor={cursor}"))
        .await;
    assert_eq!(
        other.fields(),
        ["cursor"],
        "a cursor belongs to its question"
    );
}
