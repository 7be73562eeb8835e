//! Models over time: challengers, shadow scores, going back, and the history of scores.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dealrank::book::replay;
use dealrank::domain::{DealId, Exchange};
use dealrank::error::Error;
use dealrank::ranking::{RankingQuery, Sort};
use dealrank::scoring::Scorer;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use crate::service::{Answer, Service, binary_in, deal, history};
use crate::world::{World, all_pages, days, id, now, open_deals};

/// Closed deals, two a day from 2025 on, then open ones. `best` tells which source wins on a day.
fn deals(count: usize, best: impl Fn(usize) -> &'static str) -> Vec<Value> {
    (0..count)
        .map(|i| {
            let source = ["web", "fair", "partner"][i % 3];
            let created = jiff::civil::date(2025, 1, 1) + jiff::Span::new().days((i / 2) as i64);
            let closed = created + jiff::Span::new().days(20);
            let in_ten = (i * 7 + i / 3) % 10;
            let is_won = in_ten < if source == best(i / 2) { 8 } else { 1 };
            let mut deal = json!({
                "id": format!("t-{i:04}"), "stage": "demo", "created_at": format!("{created}T00:00:00Z"),
                "amount": 1000 + (i * 37) % 900, "currency": "EUR",
                "attributes": {"source": source},
            });
            if i < count - 10 {
                deal["outcome"] = json!(if is_won { "won" } else { "lost" });
                deal["closed_at"] = json!(format!("{closed}T00:00:00Z"));
            }
            deal
        })
        .collect()
}

async fn train(service: &Service, request: Value) -> Value {
    let job = service.post("/v1/models", &request).await;
    let job = service.finished(job).await;
    assert_eq!(job["state"], "done", "{job}");
    job["result"].clone()
}

async fn report(service: &Service, version: &Value) -> Value {
    let path = format!("/v1/models/{}/report", version.as_str().unwrap());
    service.get(&path).await.ok(200)
}

async fn activations(service: &Service) -> Vec<(Value, Value)> {
    let list = service.get("/v1/models").await.ok(200);
    let activations = list["activations"].as_array().unwrap();
    activations
        .iter()
        .map(|a| (a["model_version"].clone(), a["cause"].clone()))
        .collect()
}

async fn roll_back(service: &Service) -> Answer {
    service.post("/v1/models/rollback", &Value::Null).await
}

/// A champion of the first half year, with all deals of more than a year in the store.
async fn with_old_champion(best: impl Fn(usize) -> &'static str) -> (Service, Value) {
    let service = Service::start();
    assert_eq!(roll_back(&service).await.problem(409), "no_previous_model");
    let imported = service.import_documents(&deals(900, best)).await;
    assert_eq!(imported["state"], "done", "{imported}");
    let first = train(&service, json!({"as_of": "2025-07-01T00:00:00Z"})).await;
    assert_eq!(first["is_active"], true);
    assert_eq!(first["challenge"], Value::Null);
    (service, first["model_version"].clone())
}

#[tokio::test]
async fn a_challenger_that_beats_the_champion_takes_its_place_and_one_call_leads_back() {
    let (mut service, first) =
        with_old_champion(|day| if day < 180 { "web" } else { "partner" }).await;
    let second = train(&service, json!({})).await;
    assert_eq!(second["is_active"], true, "{second}");
    let challenge = &second["challenge"];
    assert_eq!(challenge["is_better"], true);
    assert_eq!(challenge["champion"], first);
    let comparison = &challenge["comparison"];
    assert!(comparison["log_loss"]["difference"]["low"].as_f64() > Some(0.0));
    assert!(comparison["captured_20"]["difference"]["value"].as_f64() > Some(0.0));
    assert!(
        comparison["cut"].as_str() > Some("2025-07-01"),
        "{comparison}"
    );
    let second = second["model_version"].clone();
    let told = report(&service, &second).await;
    assert_eq!(&told["challenge"], challenge);
    assert_eq!(told["shadow"], Value::Null);
    let cause = |cause: &str| json!(cause);
    assert_eq!(
        activations(&service).await,
        [
            (second.clone(), cause("challenge")),
            (first.clone(), cause("first"))
        ]
    );

    let back = service.finished(roll_back(&service).await).await;
    assert_eq!(back["result"]["model_version"], first, "{back}");
    let active = service.get("/v1/models/active").await.ok(200);
    assert_eq!(active["version"], first);
    assert_eq!(
        activations(&service).await[0],
        (first.clone(), cause("rollback"))
    );
    assert_eq!(roll_back(&service).await.problem(409), "no_previous_model");

    let path = format!("/v1/models/{}/activate", second.as_str().unwrap());
    let forth = service.post(&path, &Value::Null).await;
    assert_eq!(service.finished(forth).await["state"], "done");
    assert_eq!(activations(&service).await[0], (second, cause("command")));

    let folder = service.dir().to_owned();
    let dealrank = |args: &[&str]| {
        let output = binary_in(&folder).args(args).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let listed = dealrank(&["models"]);
    assert!(
        listed.contains("Better than the champion: log loss"),
        "{listed}"
    );
    let pid = service.pid().to_string();
    assert!(Command::new("kill").arg(pid).status().unwrap().success());
    assert!(service.wait_for_end().success());
    let back = dealrank(&["models", "rollback"]);
    assert!(back.starts_with(first.as_str().unwrap()), "{back}");
}

#[tokio::test]
async fn a_challenger_that_is_no_better_waits_and_is_judged_by_what_becomes_of_its_deals() {
    let (mut service, first) = with_old_champion(|_| "web").await;
    let second = train(&service, json!({})).await;
    assert_eq!(second["is_active"], false, "{second}");
    let verdict = second["challenge"]["verdict"].as_str().unwrap();
    assert!(verdict.starts_with("Not shown to be better"), "{verdict}");
    let second = second["model_version"].clone();
    let active = service.get("/v1/models/active").await.ok(200);
    assert_eq!(active["version"], first);
    let list = service.get("/v1/models").await.ok(200);
    assert_eq!(list["models"][0]["is_challenger"], true);
    assert_eq!(list["models"][1]["is_challenger"], false);

    let shadow = report(&service, &second).await["shadow"].clone();
    assert_eq!(
        (&shadow["open_deals"], &shadow["deals"]),
        (&json!(10), &json!(0))
    );
    assert_eq!(shadow["log_loss"], Value::Null);
    assert_eq!(report(&service, &first).await["shadow"], Value::Null);

    service.crash_and_restart();
    service.put("/v1/deals/new", &deal("new")).await.ok(201);
    for (name, outcome) in [("t-0890", "won"), ("t-0891", "lost"), ("new", "lost")] {
        let end = json!({"type": "closed", "at": "2026-10-01T00:00:00Z", "outcome": outcome});
        let path = format!("/v1/deals/{name}/events");
        service.post(&path, &end).await.ok(200);
    }
    let shadow = report(&service, &second).await["shadow"].clone();
    assert_eq!(
        (
            &shadow["open_deals"],
            &shadow["deals"],
            &shadow["won_deals"]
        ),
        (&json!(8), &json!(3), &json!(1))
    );
    let loss = &shadow["log_loss"];
    let difference = loss["champion"].as_f64().unwrap() - loss["challenger"].as_f64().unwrap();
    assert_eq!(loss["difference"]["value"], difference);

    let path = format!("/v1/models/{}/activate", second.as_str().unwrap());
    let activated = service.post(&path, &Value::Null).await;
    assert_eq!(service.finished(activated).await["state"], "done");
    assert_eq!(report(&service, &second).await["shadow"], Value::Null);
    let list = service.get("/v1/models").await.ok(200);
    assert_eq!(list["models"][0]["is_challenger"], false);
}

#[tokio::test]
async fn without_newer_deals_nothing_is_compared_and_the_model_waits() {
    let service = Service::start();
    service.train().await;
    let second = train(&service, json!({})).await;
    assert_eq!(second["is_active"], false);
    assert_eq!(second["challenge"]["comparison"], Value::Null);
    let verdict = second["challenge"]["verdict"].as_str().unwrap();
    assert!(verdict.contains("10 won and 10 lost deals"), "{verdict}");
}

#[tokio::test]
async fn a_model_is_trained_anew_when_the_last_one_is_old_enough_and_a_deal_has_closed() {
    let service = Service::with_settings("[training]\nevery = \"1s\"\n");
    service.import_documents(&history(240)).await;
    let mapping = json!({"columns": {"protected": ["employees"]}});
    train(&service, json!({"mapping": mapping})).await;
    let end = json!({"type": "closed", "at": "2026-10-01T00:00:00Z", "outcome": "won"});
    service.post("/v1/deals/h-0230/events", &end).await.ok(200);
    let deadline = Instant::now() + Duration::from_secs(60);
    let newest = loop {
        let models = service.get("/v1/models").await.ok(200);
        if models["models"].as_array().unwrap().len() >= 2 {
            break models["models"][0]["version"].clone();
        }
        assert!(
            Instant::now() < deadline,
            "nobody trained: {}",
            service.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // What somebody said to leave out stays left out.
    let path = format!("/v1/models/{}", newest.as_str().unwrap());
    let dropped = service.get(&path).await.ok(200)["dropped"].clone();
    assert_eq!(dropped[0]["column"], "employees", "{dropped}");
}

async fn ledger(service: &Service, id: &str) -> Vec<Value> {
    let history = service.get(&format!("/v1/deals/{id}/scores")).await.ok(200);
    history["scores"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_ledger_tells_what_moved_and_the_log_gives_every_entry_again() {
    let mut service = Service::start();
    service.train().await;
    let names = ["r-0", "r-1", "r-2"];
    for name in names {
        let path = format!("/v1/deals/{name}");
        service.put(&path, &deal(name)).await.ok(201);
        let patch = json!({"attributes": {"source": "partner"}, "owner": "Ada"});
        service.send(Method::PATCH, &path, &patch).await.ok(200);
    }
    let events = json!([
        {"id": "e1", "type": "change", "at": "2026-04-01T00:00:00Z", "field": "amount", "value": "1750"},
        {"type": "activity", "at": "2026-05-01T00:00:00Z", "kind": "call"},
        {"type": "change", "at": "2026-03-15T00:00:00Z", "field": "source", "value": "fair"},
    ]);
    service.post("/v1/deals/r-1/events", &events).await.ok(200);
    service.post("/v1/deals/r-1/events", &events).await.ok(200);
    let second = train(&service, json!({"closed_since": "2025-03-01T00:00:00Z"})).await;
    let path = format!(
        "/v1/models/{}/activate",
        second["model_version"].as_str().unwrap()
    );
    let activated = service.post(&path, &Value::Null).await;
    assert_eq!(service.finished(activated).await["state"], "done");
    let mut document = deal("r-2");
    document["amount"] = json!(5);
    document["attributes"]["employees"] = json!(3);
    service.put("/v1/deals/r-2", &document).await.ok(200);
    service.import_documents(&[document]).await;

    let mut told = Vec::new();
    for name in names {
        told.push((name, ledger(&service, name).await));
    }
    let patched = &told[0].1[1];
    assert_eq!(
        (&patched["cause"], &patched["moved_by"]),
        (&json!("patch"), &json!("event"))
    );
    let of_source = |entry: &Value| {
        let changed = entry["changed"].as_array().unwrap().clone();
        changed
            .into_iter()
            .find(|moved| moved["feature"] == "source")
    };
    let source = of_source(patched).unwrap();
    assert_eq!(
        (&source["from_value"], &source["to_value"]),
        (&json!("web"), &json!("partner"))
    );
    let reason = |entry: &Value| {
        let reasons = entry["score"]["reasons"].as_array().unwrap().clone();
        let reason = reasons
            .into_iter()
            .find(|reason| reason["feature"] == "source");
        reason.unwrap()["contribution"].clone()
    };
    assert_eq!(source["contribution_before"], reason(&told[0].1[2]));
    assert_eq!(source["contribution_after"], reason(patched));
    assert_eq!(told[0].1[0]["moved_by"], "model");
    assert_eq!(told[0].1[2]["changed"], json!([]));

    drop_and_replay(&mut service, told).await;
}

/// Ends the service and computes every entry of the ledger again, from the log alone.
async fn drop_and_replay(service: &mut Service, told: Vec<(&str, Vec<Value>)>) {
    service.crash_and_restart();
    let store = service.store().open().await;
    let exchange = Arc::new(Exchange::only("EUR".parse().unwrap()));
    let mut entries_count = 0;
    for (name, entries) in told {
        let deal_id = DealId::new(name).unwrap();
        let events = store.events(&deal_id).await.unwrap();
        let kept = store.ledger(&deal_id, None, 100).await.unwrap();
        assert_eq!(kept.len(), entries.len());
        for (entry, answered) in kept.iter().zip(&entries) {
            let count = events.partition_point(|event| event.seq <= entry.seq);
            let deal = replay(&deal_id, &events[..count]).unwrap().unwrap();
            let model = store.model(&entry.score.model_version).await.unwrap();
            let scorer = Scorer::new(model.into(), exchange.clone()).unwrap();
            let at = entry.score.scored_at;
            let again = scorer.score(&deal, at);
            assert_eq!(again, entry.score);
            let bits = |value: f64| value.to_bits();
            assert_eq!(
                Some(bits(again.win_probability.get())),
                answered["score"]["win_probability"].as_f64().map(bits)
            );
            assert_eq!(bits(again.log_odds), bits(entry.score.log_odds));
            assert_eq!(
                entry.inputs_hash.as_deref(),
                answered["inputs_hash"].as_str()
            );
            assert_eq!(entry.inputs_hash, Some(scorer.inputs_hash(&deal, at)));
            entries_count += 1;
        }
        for pair in kept.windows(2) {
            let is_same_model = pair[0].score.model_version == pair[1].score.model_version;
            if is_same_model {
                assert_ne!(pair[0].inputs_hash, pair[1].inputs_hash);
            }
        }
    }
    assert!(entries_count >= 9, "{entries_count}");
}

#[tokio::test]
async fn what_if_tells_the_score_with_changes_that_people_can_make() {
    let service = Service::start();
    service.import_documents(&history(240)).await;
    let mapping = json!({"columns": {"actionable": ["source", "amount"]}});
    train(&service, json!({"mapping": mapping})).await;
    let mut asked = deal("w");
    let plain = service.post("/v1/scores", &asked).await.ok(200);
    assert!(plain.get("what_if").is_none());
    asked["changes"] = json!({"source": "partner", "amount": 2000});
    let answer = service.post("/v1/scores", &asked).await.ok(200);
    assert_eq!(answer["win_probability"], plain["win_probability"]);
    let what_if = &answer["what_if"];
    let number = |value: &Value| value["win_probability"].as_f64().unwrap();
    assert!(number(&what_if["score"]) > number(&answer), "{what_if}");
    assert_eq!(
        number(&what_if["difference"]),
        number(&what_if["score"]) - number(&answer)
    );
    let changed = what_if["changed"].as_array().unwrap();
    assert!(changed.iter().any(|moved| moved["feature"] == "source"));
    assert!(what_if["note"].as_str().unwrap().contains("not a cause"));

    // It is what the deal scores once it has been changed.
    service.put("/v1/deals/w", &deal("w")).await.ok(201);
    let changes = json!({"changes": asked["changes"]});
    let stored = service.post("/v1/deals/w/what-if", &changes).await.ok(200);
    assert_eq!(
        stored["what_if"]["score"]["log_odds"],
        what_if["score"]["log_odds"]
    );
    let patch = json!({"amount": 2000, "attributes": {"source": "partner"}});
    let patched = service
        .send(Method::PATCH, "/v1/deals/w", &patch)
        .await
        .ok(200);
    for number in ["win_probability", "log_odds", "expected_value", "score"] {
        assert_eq!(stored["what_if"]["score"][number], patched["score"][number]);
    }

    asked["changes"] = json!({"owner": "Ada", "source": "fair"});
    let refused = service.post("/v1/scores", &asked).await;
    assert_eq!(refused.problem(422), "not_actionable");
    assert_eq!(refused.body["errors"][0]["field"], "changes.owner");
    assert_eq!(refused.body["errors"].as_array().unwrap().len(), 1);
    for (changes, field) in [
        (json!({"amount": "much"}), "changes.amount"),
        (json!({"source": ["web"]}), "changes.source"),
        (json!({}), "changes"),
        (json!(7), "changes"),
    ] {
        asked["changes"] = changes;
        let refused = service.post("/v1/scores", &asked).await;
        assert_eq!(refused.fields(), [field]);
    }
    let refused = service.post("/v1/deals/w/what-if", &json!({})).await;
    assert!(refused.detail().contains("changes"), "{refused:?}");
    let unknown = service.post("/v1/deals/none/what-if", &changes).await;
    assert_eq!(unknown.problem(404), "not_found");
    let closed = service.post("/v1/deals/h-0000/what-if", &changes).await;
    assert_eq!(closed.problem(409), "conflict");
}

#[tokio::test]
async fn what_ended_long_ago_goes_and_what_holds_or_may_be_asked_for_stays() {
    let world = World::with(open_deals(5, 12)).await;
    let store = world.book.store();
    let prune = async |at: Timestamp| store.prune(at, at - days(400), None).await.unwrap();
    let owner = json!({"owner": "ana", "attributes": {"source": "partner"}});
    let patched = world.book.patch(&id("d00003"), owner, now()).await.unwrap();
    let entries = async |name: &str| world.book.ledger(&id(name), None, 50).await.unwrap();
    assert_eq!(entries("d00003").await.len(), 2);
    let query = RankingQuery::default();
    let rows = all_pages(&world.book, &query).await;

    // Nothing is known yet of how far the ledger was at which time.
    assert_eq!(
        prune(now() + SignedDuration::from_secs(1)).await,
        Default::default()
    );
    world.activate(1).await;
    let stage = json!({"stage": "a new one"});
    let later = now() + days(200);
    world.book.patch(&id("d00004"), stage, later).await.unwrap();
    let model_of =
        |entries: &[dealrank::store::LedgerEntry]| entries[0].score.model_version.clone();
    let version = model_of(&entries("d00003").await);

    let pruned = prune(now() + days(399)).await;
    assert_eq!((pruned.scores, pruned.generations), (0, 0), "{pruned:?}");
    assert_eq!(entries("d00003").await.len(), 3);

    // The first entry of the patched deal ended before the first mark; then all of the retired model's.
    let pruned = prune(now() + days(402)).await;
    assert_eq!((pruned.scores, pruned.generations), (13, 1), "{pruned:?}");
    let kept = entries("d00003").await;
    assert_eq!((kept.len(), model_of(&kept)), (1, version));
    assert!(kept[0].is_current && patched.is_changed);
    assert_eq!(entries("d00004").await.len(), 2);
    let present = all_pages(&world.book, &query).await;
    assert_eq!(present[0].rows.len(), rows[0].rows.len());
    assert_eq!(prune(now() + days(403)).await, Default::default());
}

#[tokio::test]
async fn a_page_as_of_a_time_that_is_no_longer_kept_has_expired() {
    let world = World::with(open_deals(6, 12)).await;
    let query = RankingQuery {
        sort: Sort::Amount,
        limit: 5,
        ..RankingQuery::default()
    };
    let first = world.book.ranking(&query, None, now()).await.unwrap();
    let cursor = first.next_cursor.unwrap();
    let next = async || world.book.ranking(&query, Some(&cursor), now()).await;
    let owner = json!({"owner": "somebody new"});
    world.book.patch(&id("d00003"), owner, now()).await.unwrap();
    let prune = async |at: Timestamp| world.book.store().prune(at, at - days(400), None).await;
    assert_eq!(prune(now() + days(1)).await.unwrap().scores, 0);
    assert_eq!(next().await.unwrap().rows.len(), 5);
    assert_eq!(prune(now() + days(402)).await.unwrap().scores, 1);
    let expired = next().await;
    assert!(matches!(expired, Err(Error::CursorExpired)), "{expired:?}");
}
