//! Events for those who subscribed: real receivers, the real binary.

use std::time::{Duration, Instant};

use dealrank::standard_webhooks::{Headers, Key, verify};
use dealrank::store::StoreLocation;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::receiver::{Received, Receiver, Reply};
use crate::servers::TestStore;
use crate::service::{Service, binary_in, deal};

/// Receivers of tests are on this machine, and nobody waits long.
const SETTINGS: &str = r#"
refresh_minutes = 0
[outbound]
https_required = false
private_networks_allowed = ["127.0.0.0/8"]
retry_schedule_seconds = [0, 0, 0]
retry_jitter = 0
circuit_failures = 100
"#;

async fn service() -> Service {
    trained(SETTINGS).await
}

async fn trained(settings: &str) -> Service {
    let service = Service::with_settings(settings);
    service.train().await;
    service
}

/// Subscribes to changed scores.
async fn subscribe(service: &Service, url: &str) -> Value {
    subscribe_with(service, url, json!({})).await
}

async fn subscribe_with(service: &Service, url: &str, more: Value) -> Value {
    let mut body = json!({ "url": url, "event_types": ["score.changed"] });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    service.post("/v1/subscriptions", &body).await.ok(201)
}

fn path(subscription: &Value) -> String {
    format!("/v1/subscriptions/{}", subscription["id"].as_str().unwrap())
}

/// A deal whose expected value follows its amount.
async fn put(service: &Service, id: &str, amount: u32) {
    let mut deal = deal(id);
    deal["amount"] = json!(amount);
    let answer = service.put(&format!("/v1/deals/{id}"), &deal).await;
    assert!(answer.status.is_success(), "{answer:?}");
}

async fn deliveries(service: &Service, subscription: &Value) -> Vec<Value> {
    let path = format!("{}/deliveries?limit=200", path(subscription));
    let body = service.get(&path).await.ok(200);
    body["deliveries"].as_array().unwrap().clone()
}

/// Waits until the service says something about its deliveries.
async fn until_deliveries(
    service: &Service,
    subscription: &Value,
    enough: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = deliveries(service, subscription).await;
        if enough(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {found:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn is_all(state: &'static str) -> impl Fn(&[Value]) -> bool {
    move |found| !found.is_empty() && found.iter().all(|delivery| delivery["state"] == state)
}

fn check_signature(message: &Received, secret: &str) {
    let headers = Headers {
        id: message.header("webhook-id"),
        timestamp: message.header("webhook-timestamp"),
        signature: message.header("webhook-signature"),
    };
    let key: Key = secret.parse().unwrap();
    verify(&[key], headers, &message.body, Timestamp::now()).unwrap();
}

fn amount(message: &Received) -> u64 {
    message.json()["data"]["deal"]["amount"].as_f64().unwrap() as u64
}

#[tokio::test]
async fn a_changed_score_is_told_signed_and_in_order() {
    let (service, receiver) = (service().await, Receiver::start());
    let subscription = subscribe(&service, &receiver.url()).await;
    let secret = subscription["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_"));
    let amounts: Vec<u32> = (1..=5).map(|i| i * 1000).collect();
    for amount in &amounts {
        for id in ["a", "b", "c"] {
            put(&service, id, *amount).await;
        }
    }
    let messages = receiver.count(15).await;
    for message in &messages {
        check_signature(message, secret);
        assert_eq!(message.header("content-type"), "application/json");
        assert_eq!(message.json()["type"], "score.changed");
    }
    for id in ["a", "b", "c"] {
        let of_deal = messages
            .iter()
            .filter(|m| m.json()["data"]["deal"]["id"] == id);
        let told: Vec<u64> = of_deal.map(amount).collect();
        assert_eq!(told, [1000, 2000, 3000, 4000, 5000], "{id}");
    }
    let last = messages
        .iter()
        .rfind(|m| m.json()["data"]["deal"]["id"] == "a")
        .unwrap()
        .json();
    let score = service.get("/v1/deals/a").await.ok(200)["score"].clone();
    for field in [
        "win_probability",
        "grade",
        "expected_value",
        "model_version",
    ] {
        assert_eq!(last["data"]["score"][field], score[field], "{field}");
    }
    assert_eq!(last["data"]["cause"], "put");
    let previous = &last["data"]["previous"];
    assert_eq!(previous["win_probability"], score["win_probability"]);
    assert_ne!(previous["expected_value"], score["expected_value"]);
    until_deliveries(&service, &subscription, is_all("delivered")).await;
    let shown = service.get(&path(&subscription)).await.ok(200);
    assert!(shown.get("secret").is_none(), "{shown}");
}

#[tokio::test]
async fn cloud_events_are_told_in_structured_mode() {
    let (service, receiver) = (service().await, Receiver::start());
    let format = json!({ "format": "cloudevents" });
    let subscription = subscribe_with(&service, &receiver.url(), format).await;
    put(&service, "a", 500).await;
    let message = &receiver.count(1).await[0];
    check_signature(message, subscription["secret"].as_str().unwrap());
    assert_eq!(
        message.header("content-type"),
        "application/cloudevents+json"
    );
    let event = message.json();
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["id"], message.header("webhook-id"));
    assert_eq!(event["type"], "dealrank.score.changed");
    assert_eq!(event["subject"], "a");
    assert!(
        event["source"]
            .as_str()
            .unwrap()
            .starts_with("urn:dealrank:")
    );
    assert_eq!(event["data"]["deal"]["amount"], 500.0);
}

#[tokio::test]
async fn what_fails_is_tried_again_under_the_same_id_and_given_up_in_the_end() {
    let (service, receiver) = (service().await, Receiver::with(|_| Reply::status(500)));
    let subscription = subscribe(&service, &receiver.url()).await;
    put(&service, "a", 500).await;
    let found = until_deliveries(&service, &subscription, is_all("failed")).await;
    assert_eq!(found[0]["attempts"], 4);
    assert_eq!(found[0]["status"], 500);
    assert!(found[0]["reason"].as_str().unwrap().contains("500"));
    let messages = receiver.received();
    assert_eq!(messages.len(), 4);
    assert!(
        messages
            .iter()
            .all(|m| m.header("webhook-id") == found[0]["event_id"])
    );
    assert!(messages.iter().all(|m| m.body == messages[0].body));
    receiver.answer(|_| Reply::status(204));
    let again = service
        .post(&format!("{}/redeliver", path(&subscription)), &json!({}))
        .await;
    assert_eq!(again.ok(200)["redelivered"], 1);
    until_deliveries(&service, &subscription, is_all("delivered")).await;
    assert_eq!(
        receiver.received()[4].header("webhook-id"),
        found[0]["event_id"]
    );
}

#[tokio::test]
async fn an_earlier_event_of_a_deal_that_waits_holds_up_the_later_ones_and_no_other_deal() {
    let settings = SETTINGS.replace("[0, 0, 0]", "[1, 1, 1]");
    let service = trained(&settings).await;
    let receiver = Receiver::with(|message| match amount(message) {
        1000 => Reply::status(503),
        _ => Reply::status(200),
    });
    let subscription = subscribe(&service, &receiver.url()).await;
    put(&service, "a", 1000).await;
    put(&service, "a", 2000).await;
    put(&service, "b", 3000).await;
    let messages = receiver
        .until("the later deal", |r| r.iter().any(|m| amount(m) == 3000))
        .await;
    assert!(messages.iter().all(|m| amount(m) != 2000));
    receiver.answer(|_| Reply::status(200));
    until_deliveries(&service, &subscription, is_all("delivered")).await;
    let told: Vec<u64> = receiver
        .received()
        .iter()
        .map(amount)
        .filter(|amount| *amount < 3000)
        .collect();
    assert_eq!(told.last(), Some(&2000));
    assert_eq!(told.iter().filter(|amount| **amount == 2000).count(), 1);
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_left_alone_for_good() {
    let (service, receiver) = (service().await, Receiver::with(|_| Reply::status(410)));
    let subscription = subscribe(&service, &receiver.url()).await;
    put(&service, "a", 500).await;
    until_deliveries(&service, &subscription, is_all("dropped")).await;
    let shown = service.get(&path(&subscription)).await.ok(200);
    assert_eq!(shown["enabled"], false);
    assert!(
        shown["disabled"]["reason"]
            .as_str()
            .unwrap()
            .contains("410")
    );
    put(&service, "a", 600).await;
    // Another subscription, told afterwards, shows that this one had its turn.
    let other = Receiver::start();
    subscribe(&service, &other.url()).await;
    put(&service, "a", 700).await;
    other.count(1).await;
    assert_eq!(receiver.received().len(), 1);
    receiver.answer(|_| Reply::status(200));
    let enabled = json!({ "enabled": true });
    let shown = service
        .send(Method::PATCH, &path(&subscription), &enabled)
        .await
        .ok(200);
    assert_eq!(shown["enabled"], true);
    put(&service, "a", 800).await;
    let messages = receiver.count(2).await;
    assert_eq!(amount(&messages[1]), 800);
}

#[tokio::test]
async fn a_receiver_that_asks_for_time_gets_it() {
    let service = service().await;
    let mut is_first = true;
    let receiver = Receiver::with(move |_| match std::mem::take(&mut is_first) {
        true => Reply::status(429).with("retry-after", 2),
        false => Reply::status(200),
    });
    let subscription = subscribe(&service, &receiver.url()).await;
    put(&service, "a", 500).await;
    receiver.count(1).await;
    // What comes meanwhile waits too: the receiver has enough of everything.
    put(&service, "b", 500).await;
    until_deliveries(&service, &subscription, is_all("delivered")).await;
    let messages = receiver.received();
    assert_eq!(messages.len(), 3);
    let pause = messages[1].at.duration_since(messages[0].at);
    assert!(pause >= Duration::from_millis(1900), "{pause:?}");
    assert!(pause < Duration::from_secs(20), "{pause:?}");
}

#[tokio::test]
async fn a_receiver_that_keeps_failing_is_asked_once_in_a_while() {
    let settings = SETTINGS
        .replace(
            "circuit_failures = 100",
            "circuit_failures = 3\ncircuit_pause_seconds = 1",
        )
        .replace("[0, 0, 0]", "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]")
        + "concurrency_per_subscription = 1\n";
    let (service, receiver) = (
        trained(&settings).await,
        Receiver::with(|_| Reply::status(500)),
    );
    let subscription = subscribe(&service, &receiver.url()).await;
    for id in ["a", "b", "c", "d", "e"] {
        put(&service, id, 500).await;
    }
    let messages = receiver.count(5).await;
    for pair in messages[2..].windows(2) {
        let pause = pair[1].at.duration_since(pair[0].at);
        assert!(pause >= Duration::from_millis(900), "{pause:?}");
    }
    let shown = service.get(&path(&subscription)).await.ok(200);
    assert_eq!(shown["circuit_open"], true, "{shown}");
    let metrics = service.get("/metrics").await.body;
    assert!(
        metrics
            .as_str()
            .unwrap()
            .contains("outbound_attempts_total")
    );
    receiver.answer(|_| Reply::status(200));
    until_deliveries(&service, &subscription, is_all("delivered")).await;
    let shown = service.get(&path(&subscription)).await.ok(200);
    assert_eq!(shown["circuit_open"], false, "{shown}");
    assert_eq!(shown["failures_in_row"], 0);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (service, elsewhere) = (service().await, Receiver::start());
    let target = elsewhere.url();
    let receiver = Receiver::with(move |_| Reply::status(307).with("location", &target));
    let subscription = subscribe(&service, &receiver.url()).await;
    put(&service, "a", 500).await;
    let found = until_deliveries(&service, &subscription, is_all("failed")).await;
    assert_eq!(found[0]["status"], 307);
    assert!(found[0]["reason"].as_str().unwrap().contains("redirect"));
    assert!(elsewhere.received().is_empty());
}

#[tokio::test]
async fn private_targets_are_refused_unless_the_settings_allow_them() {
    let strict = Service::start();
    for url in [
        "https://127.0.0.1/hook",
        "https://localhost/hook",
        "https://[::1]/hook",
        "https://[::ffff:127.0.0.1]/hook",
        "https://0x7f000001/hook",
        "https://10.1.2.3/hook",
        "https://169.254.169.254/latest/meta-data",
        "http://example.com/hook",
        "https://user:secret@example.com/",
    ] {
        let body = json!({ "url": url, "event_types": ["score.changed"] });
        let answer = strict.post("/v1/subscriptions", &body).await;
        assert_eq!(answer.fields(), ["url"], "{url}: {answer:?}");
    }
}

#[tokio::test]
async fn a_target_that_is_no_longer_allowed_is_not_connected_to() {
    let (mut service, receiver) = (service().await, Receiver::start());
    let by_name = receiver.url().replace("127.0.0.1", "localhost");
    let allowed = subscribe(&service, &by_name).await;
    put(&service, "a", 500).await;
    until_deliveries(&service, &allowed, is_all("delivered")).await;
    // The name was good when it was given, and resolves to what is not allowed when it is used.
    let settings = SETTINGS.replace("127.0.0.0/8", "10.0.0.0/8");
    std::fs::write(service.dir().join("dealrank.toml"), settings).unwrap();
    service.crash_and_restart();
    put(&service, "b", 500).await;
    let found = until_deliveries(&service, &allowed, |found| found[0]["state"] == "failed").await;
    let reason = found[0]["reason"].as_str().unwrap();
    assert!(
        reason.contains("127.0.0.1") && reason.contains("not public"),
        "{reason}"
    );
    let test = service
        .post(&format!("{}/test", path(&allowed)), &json!({}))
        .await
        .ok(200);
    assert_eq!(test["delivered"], false, "{test}");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn what_was_committed_is_told_after_a_crash() {
    let mut service = service().await;
    let receiver = Receiver::with(|_| Reply::status(503));
    let settings = SETTINGS.replace("[0, 0, 0]", "[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]");
    std::fs::write(service.dir().join("dealrank.toml"), settings).unwrap();
    service.crash_and_restart();
    let subscription = subscribe(&service, &receiver.url()).await;
    let ids: Vec<String> = (0..20).map(|i| format!("d-{i}")).collect();
    for id in &ids {
        put(&service, id, 500).await;
    }
    // Some have been tried by now, others perhaps not even been looked at.
    service.crash_and_restart();
    receiver.answer(|_| Reply::status(200));
    let found = until_deliveries(&service, &subscription, |found| {
        found.len() == 20 && is_all("delivered")(found)
    })
    .await;
    let messages = receiver.received();
    for delivery in &found {
        let of_event = messages
            .iter()
            .filter(|m| m.header("webhook-id") == delivery["event_id"]);
        let bodies: Vec<_> = of_event.map(|m| &m.body).collect();
        assert!(bodies.iter().all(|body| *body == bodies[0]));
        // The crash may have come between an attempt and its being written down.
        let attempts = delivery["attempts"].as_u64().unwrap() as usize;
        assert!((1..=bodies.len()).contains(&attempts), "{delivery}");
    }
}

#[tokio::test]
async fn one_process_sends_and_after_its_death_another() {
    let StoreLocation::Postgres(url) = TestStore::in_postgres().0 else {
        panic!("it is in PostgreSQL")
    };
    let settings = format!("database_url = \"{}\"\n{SETTINGS}", url.expose());
    let mut nodes = vec![trained(&settings).await, Service::with_settings(&settings)];
    let receiver = Receiver::start();
    let subscription = subscribe(&nodes[1], &receiver.url()).await;
    for index in 0..10 {
        put(&nodes[index % 2], &format!("d-{index}"), 500).await;
    }
    until_deliveries(&nodes[0], &subscription, |found| {
        found.len() == 10 && is_all("delivered")(found)
    })
    .await;
    assert_eq!(receiver.received().len(), 10);
    let is_leader = nodes[0].get("/readyz").await.body["node"]["role"] == "leader";
    // Killed where it stands, as a service of these tests always is.
    drop(nodes.remove(if is_leader { 0 } else { 1 }));
    put(&nodes[0], "d-10", 500).await;
    receiver.count(11).await;
    until_deliveries(&nodes[0], &subscription, |found| {
        found.len() == 11 && is_all("delivered")(found)
    })
    .await;
}

#[tokio::test]
async fn filters_say_what_is_told() {
    let service = service().await;
    let (all, few, moved) = (Receiver::start(), Receiver::start(), Receiver::start());
    subscribe(&service, &all.url()).await;
    let filters = json!({ "filters": { "min_expected_value": 5000, "stages": ["demo"] } });
    subscribe_with(&service, &few.url(), filters).await;
    let filters = json!({ "filters": { "min_probability_change": 0.02 } });
    subscribe_with(&service, &moved.url(), filters).await;
    put(&service, "small", 100).await;
    put(&service, "large", 1_000_000).await;
    // The amount alone does not move the probability.
    put(&service, "large", 2_000_000).await;
    all.count(3).await;
    let messages = few.count(2).await;
    assert!(
        messages
            .iter()
            .all(|m| m.json()["data"]["deal"]["id"] == "large")
    );
    let messages = moved.count(2).await;
    let source = json!({ "attributes": { "source": "partner" } });
    service
        .send(Method::PATCH, "/v1/deals/large", &source)
        .await
        .ok(200);
    let messages_after = moved.count(3).await;
    let probability = |m: &Received| {
        m.json()["data"]["score"]["win_probability"]
            .as_f64()
            .unwrap()
    };
    let step = probability(&messages_after[2]) - probability(&messages[1]);
    assert!(step.abs() >= 0.02, "{step}");
}

#[tokio::test]
async fn an_activation_is_one_event() {
    let (service, receiver) = (service().await, Receiver::start());
    let types = json!({ "event_types": ["score.changed", "model.activated"] });
    let subscription = subscribe_with(&service, &receiver.url(), types).await;
    let models = service.get("/v1/models").await.ok(200);
    let version = models["models"][0]["version"].as_str().unwrap().to_owned();
    let accepted = service
        .post(&format!("/v1/models/{version}/activate"), &json!({}))
        .await;
    let job = service.finished(accepted).await;
    assert_eq!(job["state"], "done", "{job}");
    put(&service, "a", 500).await;
    let messages = receiver.count(2).await;
    assert_eq!(messages.len(), 2);
    let event = messages
        .iter()
        .find(|m| m.json()["type"] == "model.activated");
    let data = event.unwrap().json()["data"].clone();
    assert_eq!(data["model_version"], version.as_str());
    assert_eq!(data["previous_model_version"], version.as_str());
    assert_eq!(data["cause"], "command");
    let found = until_deliveries(&service, &subscription, is_all("delivered")).await;
    assert_eq!(found.len(), 2);
}

#[tokio::test]
async fn a_deal_that_stalls_is_told_once() {
    let (mut service, receiver) = (service().await, Receiver::start());
    let types = json!({ "event_types": ["deal.stalled"] });
    let subscription = subscribe_with(&service, &receiver.url(), types).await;
    // Entered its stage months ago, as the open deals of the history did.
    put(&service, "stalled", 500).await;
    service.crash_and_restart();
    let is_ours = |m: &&Received| m.json()["data"]["deal"]["id"] == "stalled";
    let messages = receiver
        .until("the deal that stalls", |r| r.iter().any(|m| is_ours(&m)))
        .await;
    let event = messages.iter().find(is_ours).unwrap().json();
    assert_eq!(event["type"], "deal.stalled");
    assert_eq!(event["data"]["limit_days"], 30.0);
    assert_eq!(event["data"]["stage_entered_at"], "2026-03-01T00:00:00Z");
    until_deliveries(&service, &subscription, is_all("delivered")).await;
    let told = receiver.received().len();
    // Looked at again, and nothing is new; then one more deal, which is told after all others.
    service.crash_and_restart();
    put(&service, "another", 500).await;
    service.crash_and_restart();
    let messages = receiver.count(told + 1).await;
    assert_eq!(messages.len(), told + 1);
    assert_eq!(messages[told].json()["data"]["deal"]["id"], "another");
}

#[tokio::test]
async fn a_deal_that_is_neglected_is_told_once() {
    let (mut service, receiver) = (service().await, Receiver::start());
    let mut filters = json!({ "event_types": ["deal.misprioritized"] });
    filters["filters"] = json!({ "owners": ["Eve"] });
    subscribe_with(&service, &receiver.url(), filters).await;
    let at = jiff::Timestamp::now().to_string();
    for i in 0..6 {
        let mut deal = deal(&format!("e{i}"));
        deal["owner"] = json!("Eve");
        deal["amount"] = json!(9000 - 1000 * i);
        // The most valuable one is the only one that nobody calls.
        let calls = if i == 0 { 0 } else { 7 - i };
        deal["activities"] = (0..calls)
            .map(|_| json!({ "at": at, "kind": "call" }))
            .collect();
        let path = format!("/v1/deals/e{i}");
        assert!(service.put(&path, &deal).await.status.is_success());
    }
    service.crash_and_restart();
    let messages = receiver.count(1).await;
    let event = messages[0].json();
    assert_eq!(event["type"], "deal.misprioritized");
    assert_eq!(
        (&event["data"]["kind"], &event["data"]["deal"]["id"]),
        (&json!("neglected"), &json!("e0"))
    );
    assert_eq!(
        (
            &event["data"]["value_rank"],
            &event["data"]["attention_rank"]
        ),
        (&json!(1.0), &json!(6.0))
    );
    // Looked at again, e0 is not told again; one more deal is.
    let mut another = deal("z");
    another["owner"] = json!("Eve");
    another["amount"] = json!(90_000);
    assert!(
        service
            .put("/v1/deals/z", &another)
            .await
            .status
            .is_success()
    );
    service.crash_and_restart();
    let messages = receiver.count(2).await;
    assert_eq!(messages[1].json()["data"]["deal"]["id"], "z");
}

#[tokio::test]
async fn a_secret_is_replaced_with_an_overlap() {
    let (service, receiver) = (service().await, Receiver::start());
    let own = Key::random().reveal();
    let subscription = subscribe_with(&service, &receiver.url(), json!({ "secret": own })).await;
    assert_eq!(subscription["secret"], own.as_str());
    let rotate = json!({ "rotate_secret": true });
    let changed = service
        .send(Method::PATCH, &path(&subscription), &rotate)
        .await
        .ok(200);
    let new = changed["secret"].as_str().unwrap();
    assert_ne!(new, own);
    assert!(changed["previous_secret_until"].is_string());
    put(&service, "a", 500).await;
    let message = &receiver.count(1).await[0];
    assert_eq!(message.header("webhook-signature").split(' ').count(), 2);
    check_signature(message, &own);
    check_signature(message, new);
}

#[tokio::test]
async fn a_test_message_says_whether_it_arrived() {
    let (service, receiver) = (Service::with_settings(SETTINGS), Receiver::start());
    let subscription = subscribe(&service, &receiver.url()).await;
    let test = format!("{}/test", path(&subscription));
    let outcome = service.post(&test, &json!({})).await.ok(200);
    assert_eq!(
        (&outcome["delivered"], &outcome["status"]),
        (&json!(true), &json!(200))
    );
    let message = &receiver.received()[0];
    check_signature(message, subscription["secret"].as_str().unwrap());
    assert_eq!(message.json()["type"], "test");
    assert_eq!(message.header("webhook-id"), outcome["event_id"]);
    let long = "x".repeat(1_000_000);
    receiver.answer(move |_| Reply {
        body: long.clone(),
        ..Reply::status(400)
    });
    let outcome = service.post(&test, &json!({})).await.ok(200);
    assert_eq!(
        (&outcome["delivered"], &outcome["status"]),
        (&json!(false), &json!(400))
    );
    assert!(outcome["reason"].as_str().unwrap().len() < 500);
}

#[tokio::test]
async fn subscriptions_are_kept_changed_and_ended() {
    let settings = format!("{SETTINGS}subscriptions_max = 2\n");
    let service = Service::with_settings(&settings);
    let first = subscribe(&service, "http://127.0.0.1:9/a").await;
    subscribe(&service, "http://127.0.0.1:9/b").await;
    let third = json!({ "url": "http://127.0.0.1:9/c", "event_types": ["score.changed"] });
    let answer = service.post("/v1/subscriptions", &third).await;
    assert_eq!(answer.problem(409), "conflict");
    assert!(answer.detail().contains("subscriptions_max"));
    let listed = service.get("/v1/subscriptions").await.ok(200);
    assert_eq!(listed["subscriptions"].as_array().unwrap().len(), 2);
    assert!(!listed.to_string().contains("whsec_"));
    let change = json!({
        "event_types": ["deal.misprioritized", "score.changed", "score.changed"],
        "description": "the CRM", "filters": { "grades": ["A"] }, "enabled": false,
    });
    service
        .send(Method::PATCH, &path(&first), &change)
        .await
        .ok(200);
    let shown = service.get(&path(&first)).await.ok(200);
    assert_eq!(
        shown["event_types"],
        json!(["score.changed", "deal.misprioritized"])
    );
    assert_eq!(shown["description"], "the CRM");
    assert_eq!(shown["filters"]["grades"], json!(["A"]));
    assert_eq!(shown["enabled"], false);
    let wrong = json!({
        "url": "http://127.0.0.1:9/", "event_types": [], "secret": "short",
        "filters": { "min_probability_change": 2 },
    });
    let answer = service.post("/v1/subscriptions", &wrong).await;
    assert_eq!(
        answer.fields(),
        ["event_types", "filters.min_probability_change", "secret"]
    );
    let unknown = json!({ "url": "http://127.0.0.1:9/", "event_types": ["deal.won"] });
    let answer = service.post("/v1/subscriptions", &unknown).await;
    assert_eq!(answer.fields(), ["event_types[0]"]);
    let ended = service
        .request(Method::DELETE, &path(&first))
        .send()
        .await
        .unwrap();
    assert_eq!(ended.status(), 204);
    assert_eq!(service.get(&path(&first)).await.problem(404), "not_found");
    // Those of CRMs are not for everybody.
    let answer = service.get("/v1/subscriptions/write-back-hubspot").await;
    assert_eq!(answer.problem(404), "not_found");
}

#[tokio::test]
async fn a_queue_that_is_too_long_ends_the_subscription_and_loses_nothing() {
    let waits = format!("{:?}", [1; 60]);
    let settings = SETTINGS.replace("[0, 0, 0]", &waits);
    let service = trained(&format!("{settings}queue_max = 3\n")).await;
    let receiver = Receiver::with(|_| Reply::status(503));
    let subscription = subscribe(&service, &receiver.url()).await;
    for id in ["a", "b", "c", "d"] {
        put(&service, id, 500).await;
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let shown = loop {
        let shown = service.get(&path(&subscription)).await.ok(200);
        if shown["enabled"] == false {
            break shown;
        }
        assert!(Instant::now() < deadline, "{shown}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let reason = shown["disabled"]["reason"].as_str().unwrap();
    assert!(reason.contains("outbound.queue_max"), "{reason}");
    let doctor = binary_in(service.dir()).arg("doctor").output().unwrap();
    let advice = String::from_utf8(doctor.stdout).unwrap();
    assert!(advice.contains("outbound.queue_max"), "{advice}");
    receiver.answer(|_| Reply::status(200));
    let enabled = json!({ "enabled": true });
    service
        .send(Method::PATCH, &path(&subscription), &enabled)
        .await
        .ok(200);
    let found = until_deliveries(&service, &subscription, is_all("delivered")).await;
    assert_eq!(found.len(), 4);
}

#[tokio::test]
async fn an_erased_deal_takes_its_events_along() {
    let (service, receiver) = (service().await, Receiver::with(|_| Reply::status(500)));
    let subscription = subscribe(&service, &receiver.url()).await;
    put(&service, "a", 500).await;
    put(&service, "b", 500).await;
    until_deliveries(&service, &subscription, |found| found.len() == 2).await;
    let erased = service
        .request(Method::DELETE, "/v1/deals/a")
        .send()
        .await
        .unwrap();
    assert_eq!(erased.status(), 204);
    let found = deliveries(&service, &subscription).await;
    assert!(
        found.iter().all(|delivery| delivery["deal_id"] == "b"),
        "{found:?}"
    );
}
