//! What managers are told of a pipeline, against the same figures worked out here from the documents.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use flate2::read::GzDecoder;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::service::{Service, deal};

pub fn sample() -> (String, Vec<Value>) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let file = std::fs::File::open(folder.join("deals.ndjson.gz")).unwrap();
    let mut lines = String::new();
    GzDecoder::new(file).read_to_string(&mut lines).unwrap();
    let deals = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let settings = std::fs::read_to_string(folder.join("settings.toml")).unwrap();
    (settings, deals.collect())
}

fn time(value: &Value) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

fn days(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64() / 86_400.0
}

/// Each stage of a deal with when it was entered and left; a closed deal's last entry is its end.
fn stays(deal: &Value) -> Vec<(String, Timestamp, Option<Timestamp>)> {
    let history = deal["history"].as_array().unwrap();
    let stages: Vec<_> = (history.iter())
        .filter(|change| change["field"] == "stage")
        .map(|change| {
            (
                change["value"].as_str().unwrap().to_owned(),
                time(&change["at"]),
            )
        })
        .collect();
    let left = |i: usize| stages.get(i + 1).map(|(_, at)| *at);
    let stays = (stages.iter().enumerate()).map(|(i, (stage, at))| (stage.clone(), *at, left(i)));
    stays.collect()
}

/// As NumPy has it.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let place = q * (values.len() - 1) as f64;
    let (below, share) = (place as usize, place.fract());
    let above = values[(below + 1).min(values.len() - 1)];
    values[below] * (1.0 - share) + above * share
}

#[tokio::test]
async fn stalled_deals_of_the_sample_are_those_of_its_documents() {
    let (settings, deals) = sample();
    let service = Service::with_settings(&settings);
    let imported = service.import_documents(&deals).await;
    assert_eq!(imported["state"], "done", "{imported}");
    let mut won: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for deal in deals.iter().filter(|deal| deal["outcome"] == "won") {
        let mut longest: BTreeMap<String, f64> = BTreeMap::new();
        for (stage, entered, left) in stays(deal) {
            let Some(left) = left else { continue };
            let stay = longest.entry(stage).or_default();
            *stay = stay.max(days(entered, left));
        }
        let pipeline = deal["pipeline"].as_str().unwrap();
        for (stage, stay) in longest {
            won.entry((pipeline.to_owned(), stage))
                .or_default()
                .push(stay);
        }
    }
    let found = service.get("/v1/insights/stalled?limit=1000").await.ok(200);
    let mut limits = BTreeMap::new();
    for stage in found["stages"].as_array().unwrap() {
        let text = |key: &str| stage[key].as_str().unwrap().to_owned();
        let key = (text("pipeline"), text("stage"));
        let days = won.entry(key.clone()).or_default();
        days.sort_by(f64::total_cmp);
        let expected = match days.len() {
            0..20 => 30.0,
            _ => quantile(days, 0.8),
        };
        let limit = stage["limit_days"].as_f64().unwrap();
        assert!((limit - expected).abs() < 1e-6, "{stage}, {expected}");
        if !days.is_empty() {
            let median = stage["won_days"]["median"].as_f64().unwrap();
            assert!((median - quantile(days, 0.5)).abs() < 1e-6, "{stage}");
        }
        limits.insert(key, limit);
    }
    let at = time(&found["as_of"]);
    let open = deals
        .iter()
        .filter(|deal| deal["outcome"] == "open" || deal["outcome"].is_null());
    let expected: BTreeSet<&str> = open
        .filter(|deal| {
            let (stage, entered, _) = stays(deal).pop().unwrap();
            let pipeline = deal["pipeline"].as_str().unwrap().to_owned();
            days(entered, at) > limits[&(pipeline, stage)]
        })
        .map(|deal| deal["id"].as_str().unwrap())
        .collect();
    let listed = found["deals"].as_array().unwrap().iter();
    let listed: BTreeSet<&str> = listed.map(|d| d["deal"]["id"].as_str().unwrap()).collect();
    assert!(expected.len() > 10, "{}", expected.len());
    assert_eq!(listed, expected);
    assert_eq!(found["count"], expected.len());
    // No model yet, and that is said.
    assert_eq!(found["model_version"], Value::Null);
    assert_eq!(found["notes"][0]["code"], "no_model");
}

/// A deal of Eve's that was worked on so many days ago.
fn worked(id: &str, amount: u32, efforts_days_ago: &[i64]) -> Value {
    let mut deal = deal(id);
    deal["owner"] = json!("Eve");
    deal["amount"] = json!(amount);
    let at = |days: &i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    let mut activities: Vec<Value> = (efforts_days_ago.iter())
        .map(|days| json!({"at": at(days).to_string(), "kind": "call", "direction": "outbound"}))
        .collect();
    // What comes from the other side is no effort of ours.
    activities.push(json!({"at": at(&40).to_string(), "kind": "email", "direction": "inbound"}));
    deal["activities"] = json!(activities);
    deal
}

async fn put(service: &Service, deal: &Value) {
    let path = format!("/v1/deals/{}", deal["id"].as_str().unwrap());
    let answer = service.put(&path, deal).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

fn ids(list: &Value) -> Vec<&str> {
    let list = list.as_array().unwrap().iter();
    list.map(|line| line["deal"]["id"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn attention_of_ten_deals_is_compared_with_their_value() {
    let service = Service::start();
    service.train().await;
    // The larger the deal, the less was done for it, but for three in the middle.
    let efforts: [&[i64]; 10] = [
        &[],
        &[60],
        &[30],
        &[7],
        &[5],
        &[6],
        &[2],
        &[1, 3],
        &[1, 2, 3],
        &[0, 1, 2, 3],
    ];
    for (i, efforts) in efforts.iter().enumerate() {
        put(
            &service,
            &worked(&format!("e{i}"), 100_000 - 9_000 * i as u32, efforts),
        )
        .await;
    }
    let found = service
        .get("/v1/insights/misprioritized?owner=Eve")
        .await
        .ok(200);
    let queue = service.get("/v1/queues/Eve").await.ok(200);
    let rows = queue["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 10);
    for (place, row) in rows.iter().enumerate() {
        assert_eq!(row["outlook"]["rank"], place + 1, "{row}");
    }
    let value_of = |id: &str| -> f64 {
        let row = rows.iter().find(|row| row["deal"]["id"] == id).unwrap();
        row["score"]["expected_value"].as_f64().unwrap()
    };
    // By value e0 to e9, by attention e9 to e0: gaps of 9, 7, 5, 3 ninths, and the reverse.
    assert_eq!(ids(&found["neglected"]), ["e0", "e1", "e2"]);
    assert_eq!(ids(&found["overworked"]), ["e9", "e8", "e7"]);
    let at_risk: f64 = ["e0", "e1", "e2"].into_iter().map(value_of).sum();
    assert!((found["neglected_value"].as_f64().unwrap() - at_risk).abs() < 1e-6);
    let owner = &found["owners"][0];
    assert_eq!(
        (&owner["owner"], &owner["deals"]),
        (&json!("Eve"), &json!(10))
    );
    // In attention e4 (5 days ago) stands before e5 (6) before e3 (7), against the trend of value: ranks by
    // attention of e0 to e9 are 10 9 8 7 5 6 4 3 2 1, the sum of squared differences 326 from 1 to 10.
    let ranks = [10.0, 9.0, 8.0, 7.0, 5.0, 6.0, 4.0, 3.0, 2.0, 1.0];
    let squares: f64 = (1..)
        .zip(ranks)
        .map(|(i, r)| (f64::from(i) - r).powi(2))
        .sum();
    let expected = 1.0 - 6.0 * squares / 990.0;
    let correlation = &owner["correlation"];
    assert!(
        (correlation["value"].as_f64().unwrap() - expected).abs() < 1e-9,
        "{correlation}"
    );
    assert!(correlation["high"].as_f64().unwrap() < 0.0);

    // What is written is seen at once: a deal that closes, one that is erased, one that is called.
    let mut closed = worked("e0", 100_000, &[]);
    closed["outcome"] = json!("lost");
    put(&service, &closed).await;
    let erased = service
        .request(Method::DELETE, "/v1/deals/e9")
        .send()
        .await
        .unwrap();
    assert!(erased.status().is_success());
    put(&service, &worked("e1", 91_000, &[0, 0, 0, 1, 2])).await;
    let found = service
        .get("/v1/insights/misprioritized?owner=Eve")
        .await
        .ok(200);
    assert_eq!(ids(&found["neglected"]), ["e2", "e3"]);
    assert_eq!(found["owners"][0]["deals"], 8);
}

#[tokio::test]
async fn pushed_deals_that_lose_are_listed_and_the_ranking_filters_stalled_ones_alike() {
    let service = Service::start();
    service.train().await;
    let now = Timestamp::now();
    let ago = |days: i64| (now - SignedDuration::from_hours(24 * days)).to_string();
    let mut pushed = deal("pushed");
    pushed["created_at"] = json!(ago(60));
    pushed["expected_close_at"] = json!(ago(-20));
    pushed["attributes"]["source"] = json!("web");
    pushed["history"] = json!([
        {"at": ago(60), "field": "expected_close_at", "value": ago(10)},
        {"at": ago(60), "field": "source", "value": "partner"},
        {"at": ago(12), "field": "expected_close_at", "value": ago(-20)},
        {"at": ago(5), "field": "source", "value": "web"},
    ]);
    put(&service, &pushed).await;
    let found = service.get("/v1/insights/slipping").await.ok(200);
    let lines = found["deals"].as_array().unwrap();
    let line = lines
        .iter()
        .find(|line| line["deal"]["id"] == "pushed")
        .unwrap();
    assert_eq!(
        (&line["pushes"], &line["is_pushed_but_losing"]),
        (&json!(1), &json!(true))
    );
    assert!(
        (line["days_pushed"].as_f64().unwrap() - 30.0).abs() < 1e-3,
        "{line}"
    );
    // What it was before: the score of the same deal from a partner, on the day before the push.
    let mut then = pushed.clone();
    then["history"] = json!([]);
    then["attributes"]["source"] = json!("partner");
    let score = service.post("/v1/scores", &then).await.ok(200);
    let before = line["probability_before"].as_f64().unwrap();
    let stated = score["win_probability"].as_f64().unwrap();
    assert!((before - stated).abs() < 1e-9, "{before}, {stated}");
    let stalled = service.get("/v1/insights/stalled?limit=1000").await.ok(200);
    let ranking = service
        .get("/v1/rankings?stalled=true&limit=200")
        .await
        .ok(200);
    let listed: BTreeSet<&str> = ids(&stalled["deals"]).into_iter().collect();
    let filtered: BTreeSet<&str> = ids(&ranking["rows"]).into_iter().collect();
    assert!(listed.contains("pushed"));
    assert_eq!(listed, filtered);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_named() {
    let service = Service::start();
    let answer = service.get("/v1/insights/stalled?limit=0&ovner=x").await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.fields(), ["limit", "ovner"]);
    let empty = service.get("/v1/insights/slipping").await.ok(200);
    assert_eq!(
        (&empty["count"], &empty["value_lost"]),
        (&json!(0), &json!(0.0))
    );
    let codes = empty["notes"].as_array().unwrap().iter();
    let codes: Vec<&Value> = codes.map(|note| &note["code"]).collect();
    assert_eq!(codes, ["no_model", "no_deals"]);
}
