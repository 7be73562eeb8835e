//! What CRMs send, end to end: kept before it is answered, applied once, whatever happens.

use std::time::{Duration, Instant};

use dealrank::inbound::Source;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::senders::{HUBSPOT, URL_SECRET, delivery, hubspot_signature, send, send_json, settings};
use crate::service::{Answer, Service, answer, binary_in, deal};

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Waits until every event that is kept has been looked at.
pub async fn settled(service: &Service) {
    let store = service.store();
    let deadline = Instant::now() + DEADLINE;
    while store
        .count("SELECT count(*) FROM inbox WHERE state = 'new'")
        .await
        > 0
    {
        assert!(Instant::now() < deadline, "{}", service.log());
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a deal is as it should be.
pub async fn deal_when(service: &Service, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let found = service.get(&format!("/v1/deals/{id}")).await;
        if is_so(&found.body["deal"]) {
            return found.body["deal"].clone();
        }
        assert!(Instant::now() < deadline, "{found:?} {}", service.log());
        tokio::time::sleep(POLL).await;
    }
}

fn change(id: u64, at: i64, property: &str, value: &str) -> Value {
    json!({"subscriptionType": "deal.propertyChange", "objectId": id, "occurredAt": at,
           "portalId": 1, "subscriptionId": 2, "eventId": at, "propertyName": property,
           "propertyValue": value, "attemptNumber": 0})
}

fn creation(id: u64, at: i64) -> Value {
    json!({"subscriptionType": "deal.creation", "objectId": id, "occurredAt": at, "portalId": 1,
           "subscriptionId": 3, "eventId": at, "changeFlag": "CREATED"})
}

fn pipedrive(id: u64, at: &str, value: &str) -> Value {
    json!({"meta": {"action": "change", "entity": "deal", "entity_id": id.to_string(), "id": at,
                    "timestamp": at, "version": "2.0"},
           "data": {"id": id, "title": "A deal", "value": value, "currency": "EUR",
                    "status": "open", "stage_id": 4, "add_time": "2026-01-01T00:00:00Z",
                    "update_time": at},
           "previous": null})
}

const T: i64 = 1_767_225_600_000;

#[tokio::test]
async fn events_for_a_deal_that_is_not_known_wait_until_it_is_put() {
    let service = Service::with_settings(&settings());
    let events = json!([
        change(7, T + 5000, "amount", "70"),
        change(7, T + 4000, "amount", "60")
    ]);
    let taken = send_json(&service, Source::Hubspot, &events).await.ok(200);
    assert_eq!(taken, json!({"received": 2, "unknown": 0}));
    settled(&service).await;
    assert_eq!(service.get("/v1/deals/7").await.problem(404), "not_found");
    let mut known = deal("7");
    known["created_at"] = json!("2026-01-01T00:00:00Z");
    service.put("/v1/deals/7", &known).await.ok(201);
    let known = deal_when(&service, "7", |deal| deal["amount"] == "70").await;
    let amounts: Vec<&Value> = (known["history"].as_array().unwrap().iter())
        .filter(|change| change["field"] == "amount")
        .map(|change| &change["value"])
        .collect();
    assert_eq!(amounts, ["1000", "60", "70"]);
}

#[tokio::test]
async fn secrets_rotate_with_overlap_and_nobody_else_is_listened_to() {
    let toml = "[webhooks]\npublic_base_url = 'https://scores.example.com'\n\
                hubspot.secrets = ['new', 'old']";
    let service = Service::with_settings(toml);
    let body = json!([creation(1, T)]).to_string();
    let path = "/v1/webhooks/hubspot";
    let signed = async |secret: &str, sent: &str, millis: i64| {
        let stamp = millis.to_string();
        let signature = hubspot_signature(secret, path, body.as_bytes(), &stamp);
        let request = service.request(Method::POST, path).body(sent.to_owned());
        let request = request
            .header("x-hubspot-signature-v3", signature)
            .header("x-hubspot-request-timestamp", stamp);
        answer(request.send().await.unwrap()).await
    };
    let now = Timestamp::now().as_millisecond();
    for secret in ["new", "old"] {
        signed(secret, &body, now).await.ok(200);
    }
    let altered = body.replace("\"objectId\":1", "\"objectId\":2");
    assert_ne!(altered, body);
    let too_old = now - 301_000;
    for refused in [
        signed(HUBSPOT, &body, now).await,
        signed("new", &altered, now).await,
        signed("new", &body, too_old).await,
        signed("new", &body, now + 302_000).await,
        service
            .post_raw(path, "application/json", body.clone())
            .await,
    ] {
        assert_eq!(refused.problem(401), "unauthenticated");
    }
    let off = service.post("/v1/webhooks/pipedrive", &json!({})).await;
    assert_eq!(off.problem(404), "webhook_off");
    assert!(
        off.detail().contains("webhooks.pipedrive.secrets"),
        "{off:?}"
    );
    let nobody = service.post("/v1/webhooks/nobody", &json!({})).await;
    assert_eq!(nobody.problem(404), "unknown_route");
}

#[tokio::test]
async fn what_was_answered_survives_a_kill_and_is_applied_once() {
    let mut service = Service::with_settings(&settings());
    for round in 0..4u64 {
        let ids: Vec<u64> = (0..25).map(|i| 100 * round + i).collect();
        let events: Vec<Value> = (ids.iter())
            .flat_map(|id| [creation(*id, T), change(*id, T + 9, "amount", "5")])
            .collect();
        let taken = send_json(&service, Source::Hubspot, &json!(events)).await;
        assert_eq!(taken.ok(200)["received"], 50);
        service.crash_and_restart();
        // Nobody told the sender that it had been heard.
        send_json(&service, Source::Hubspot, &json!(events))
            .await
            .ok(200);
        settled(&service).await;
        for id in &ids {
            let found = service.get(&format!("/v1/deals/{id}")).await.ok(200);
            assert_eq!(found["deal"]["amount"], "5", "{id}");
            assert_eq!(
                found["deal"]["history"].as_array().unwrap().len(),
                1,
                "{id}"
            );
        }
    }
    let logged = service.store().count("SELECT count(*) FROM events").await;
    assert_eq!(logged, 4 * 25 * 2, "each event once");
}

#[tokio::test]
async fn a_dead_letter_is_read_repaired_and_replayed() {
    let service = Service::with_settings(&settings());
    let wrong = pipedrive(5, "2026-02-01T00:00:00Z", "much");
    send_json(&service, Source::Pipedrive, &wrong).await.ok(200);
    send(&service, Source::Pipedrive, b"not json").await.ok(200);
    settled(&service).await;
    let letters = service.get("/v1/deadletters?limit=1").await.ok(200);
    assert_eq!(letters["deadletters"].as_array().unwrap().len(), 1);
    let next = letters["next_after"].as_i64().unwrap();
    let rest = service
        .get(&format!("/v1/deadletters?after={next}"))
        .await
        .ok(200);
    assert_eq!(rest["next_after"], Value::Null);
    let all = [&letters["deadletters"][0], &rest["deadletters"][0]];
    let letter = |is_readable: bool| {
        let mut all = all.iter();
        *all.find(|letter| letter["deal_id"].is_string() == is_readable)
            .unwrap()
    };
    let (readable, unreadable) = (letter(true), letter(false));
    assert_eq!(readable["deal_id"], "5");
    assert!(
        readable["reason"].as_str().unwrap().contains("value"),
        "{readable}"
    );
    assert!(
        unreadable["reason"].as_str().unwrap().contains("not JSON"),
        "{unreadable}"
    );

    let at = format!("/v1/deadletters/{}", readable["id"]);
    let again = service
        .post(&format!("{at}/replay"), &json!({}))
        .await
        .ok(200);
    assert_eq!(again["state"], "dead");
    let repaired = service
        .send(Method::PATCH, &at, &json!({"data": {"value": 12}}))
        .await;
    assert_eq!(repaired.ok(200)["body"]["data"]["value"], 12);
    let replayed = service
        .post(&format!("{at}/replay"), &json!({}))
        .await
        .ok(200);
    assert_eq!(replayed, json!({"state": "applied", "reason": null}));
    let found = service.get("/v1/deals/5").await.ok(200);
    assert_eq!(found["deal"]["amount"], "12");
    assert_eq!(service.get(&at).await.problem(404), "not_found");

    let at = format!("/v1/deadletters/{}", unreadable["id"]);
    let body = service.get(&at).await.ok(200);
    assert_eq!(body["body"], "not json");
    let still_wrong = service.put(&at, &json!({"a": 1})).await;
    assert_eq!(still_wrong.problem(422), "invalid");
    let event = pipedrive(6, "2026-02-01T00:00:00Z", "3");
    assert_eq!(service.put(&at, &event).await.ok(200)["deal_id"], "6");
    let replayed = service
        .post("/v1/deadletters/replay?source=pipedrive", &json!({}))
        .await;
    assert_eq!(replayed.ok(202), json!({"replayed": 1}));
    deal_when(&service, "6", |deal| deal["amount"] == "3").await;
}

#[tokio::test]
async fn a_dead_letter_that_is_repaired_to_several_events_loses_none() {
    let service = Service::with_settings(&settings());
    send(&service, Source::Hubspot, b"[{...").await.ok(200);
    let letters = service.get("/v1/deadletters").await.ok(200);
    let id = letters["deadletters"][0]["id"].clone();
    let path = format!("/v1/deadletters/{id}");
    let contact = json!([{"subscriptionType": "contact.creation"}]);
    assert_eq!(service.put(&path, &contact).await.problem(422), "invalid");
    let events = json!([
        creation(3, T),
        change(3, T + 9, "amount", "5"),
        creation(4, T)
    ]);
    let repaired = service.put(&path, &events).await.ok(200);
    assert_eq!((&repaired["id"], &repaired["deal_id"]), (&id, &json!("3")));
    let letters = service.get("/v1/deadletters").await.ok(200);
    assert_eq!(letters["deadletters"].as_array().unwrap().len(), 3);
    let replayed = service.post("/v1/deadletters/replay", &json!({})).await;
    assert_eq!(replayed.ok(202), json!({"replayed": 3}));
    deal_when(&service, "3", |deal| deal["amount"] == "5").await;
    deal_when(&service, "4", Value::is_object).await;
    // They are known by their own names.
    send_json(&service, Source::Hubspot, &events).await.ok(200);
    settled(&service).await;
    let kept = "SELECT count(*) FROM inbox WHERE deal_id = '4'";
    assert_eq!(service.store().count(kept).await, 1);
}

#[tokio::test]
async fn the_command_line_lists_replays_and_discards_dead_letters() {
    let service = Service::with_settings(&settings());
    for id in 0..3 {
        let wrong = pipedrive(id, "2026-02-01T00:00:00Z", "much");
        send_json(&service, Source::Pipedrive, &wrong).await.ok(200);
    }
    settled(&service).await;
    let run = |arguments: &[&str]| {
        let mut command = binary_in(service.dir());
        let output = command.arg("deadletters").args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let (_, listed) = run(&["list", "--source", "pipedrive", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let ids: Vec<String> = (listed.as_array().unwrap().iter())
        .map(|letter| letter["id"].to_string())
        .collect();
    assert_eq!(ids.len(), 3);
    let (_, shown) = run(&["show", &ids[0]]);
    assert_eq!(
        serde_json::from_str::<Value>(&shown).unwrap()["body"]["data"]["value"],
        "much"
    );
    assert_eq!(
        run(&["discard", &ids[1]]),
        (Some(0), "discarded 1\n".into())
    );
    assert_eq!(run(&["show", &ids[1]]).0, Some(2));
    let at = format!("/v1/deadletters/{}", ids[0]);
    service
        .send(Method::PATCH, &at, &json!({"data": {"value": 8}}))
        .await
        .ok(200);
    assert_eq!(run(&["replay", "--all"]), (Some(0), "replayed 2\n".into()));
    deal_when(&service, "0", |deal| deal["amount"] == "8").await;
    settled(&service).await;
    let (_, left) = run(&[]);
    assert!(
        left.contains("pipedrive") && left.lines().count() == 1,
        "{left}"
    );
}

#[tokio::test]
async fn a_deal_that_left_its_crm_leaves_the_ranking_and_late_events_do_not_bring_it_back() {
    let service = Service::with_settings(&settings());
    service.train().await;
    let born = json!([creation(9, T), change(9, T + 1000, "amount", "5")]);
    send_json(&service, Source::Hubspot, &born).await.ok(200);
    deal_when(&service, "9", |deal| deal["amount"] == "5").await;
    let ranked = async || {
        let rows = service.get("/v1/rankings?limit=200").await.ok(200);
        let rows = rows["rows"].as_array().unwrap().clone();
        rows.iter().any(|row| row["deal"]["id"] == "9")
    };
    assert!(ranked().await);
    let mut gone = creation(9, T + 5000);
    gone["subscriptionType"] = json!("deal.deletion");
    let late = json!([
        gone,
        change(9, T + 4000, "dealstage", "demo"),
        creation(9, T + 1)
    ]);
    send_json(&service, Source::Hubspot, &late).await.ok(200);
    settled(&service).await;
    assert!(!ranked().await);
    assert_eq!(service.get("/v1/deals/9").await.problem(404), "not_found");
    let kept = "SELECT count(*) FROM inbox WHERE deal_id = '9' AND body LIKE '%amount%'";
    assert_eq!(service.store().count(kept).await, 0, "its data is gone too");
    let back = json!([creation(9, T + 9000)]);
    send_json(&service, Source::Hubspot, &back).await.ok(200);
    deal_when(&service, "9", |deal| deal.is_object()).await;
}

#[tokio::test]
async fn salesforce_is_acknowledged_and_other_organizations_are_not_heard() {
    let toml = format!(
        "{}\nsalesforce.organization_ids = ['00D7F00000107Xs']",
        settings()
    );
    let service = Service::with_settings(&toml);
    let message = |organization: &str, id: &str| {
        format!(
            r#"<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
              xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>
              <notifications xmlns="http://soap.sforce.com/2005/09/outbound">
              <OrganizationId>{organization}</OrganizationId><Notification><Id>{id}</Id>
              <sObject xsi:type="sf:Opportunity" xmlns:sf="urn:sobject.enterprise.soap.sforce.com">
              <sf:Id>006A</sf:Id><sf:Amount>5.5</sf:Amount><sf:IsClosed>true</sf:IsClosed>
              <sf:IsWon>false</sf:IsWon><sf:StageName>Gone</sf:StageName>
              <sf:CreatedDate>2026-01-01T00:00:00.000Z</sf:CreatedDate>
              <sf:LastModifiedDate>2026-01-09T00:00:00.000Z</sf:LastModifiedDate>
              </sObject></Notification></notifications></soapenv:Body></soapenv:Envelope>"#
        )
    };
    let acknowledged = send(
        &service,
        Source::Salesforce,
        message("00D7F00000107XsUAI", "1").as_bytes(),
    )
    .await;
    assert_eq!(acknowledged.content_type, "text/xml; charset=utf-8");
    let text = acknowledged.ok(200);
    assert!(text.as_str().unwrap().contains("<Ack>true</Ack>"), "{text}");
    let lost = deal_when(&service, "006A", |deal| deal["amount"] == "5.5").await;
    assert_eq!(
        (&lost["outcome"], &lost["closed_at"]),
        (&json!("lost"), &json!("2026-01-09T00:00:00Z"))
    );
    let other = send(
        &service,
        Source::Salesforce,
        message("00D7F00000107XtUAI", "2").as_bytes(),
    )
    .await;
    assert_eq!(other.problem(400), "malformed");
    let bomb = format!(
        "<!DOCTYPE x [<!ENTITY a 'a'>]>{}",
        message("00D7F00000107Xs", "&a;")
    );
    let bomb = send(&service, Source::Salesforce, bomb.as_bytes()).await;
    assert_eq!(bomb.problem(400), "malformed");
    let path = format!("/v1/webhooks/salesforce/{}x", URL_SECRET);
    let wrong = service
        .post_raw(&path, "text/xml", message("00D7F00000107Xs", "3"))
        .await;
    assert_eq!(wrong.problem(401), "unauthenticated");
}

#[tokio::test]
async fn bodies_and_queues_have_limits_with_names() {
    let toml = format!(
        "{}\nbody_bytes_max = 2000\nqueued_events_max = 3",
        settings()
    );
    let service = Service::with_settings(&toml);
    let long = format!("[{}]", " ".repeat(2001));
    let long = send(&service, Source::Hubspot, long.as_bytes()).await;
    assert_eq!(long.problem(413), "too_large");
    assert!(
        long.detail().contains("webhooks.body_bytes_max"),
        "{long:?}"
    );
    let many: Vec<Value> = (0..4).map(|id| creation(id, T)).collect();
    let many = send_json(&service, Source::Hubspot, &json!(many)).await;
    assert_eq!(many.problem(413), "too_large");
    assert!(many.detail().contains("queued_events_max"), "{many:?}");
    let encoded = delivery(&service, Source::Hubspot, b"[]").header("content-encoding", "gzip");
    let encoded: Answer = answer(encoded.send().await.unwrap()).await;
    assert_eq!(encoded.problem(415), "unsupported_media_type");
}

#[tokio::test]
async fn a_flat_score_needs_no_more_than_named_parameters() {
    let service = Service::start();
    let body = json!({"deal_id": "f1", "stage": "demo", "amount": 100, "currency": "EUR",
                      "owner": null, "created_at": "2026-03-01", "source": "partner"});
    assert_eq!(
        service.post("/v1/scores/flat", &body).await.problem(503),
        "no_model"
    );
    service.train().await;
    let flat = service.post("/v1/scores/flat", &body).await.ok(200);
    assert!(
        flat.as_object()
            .unwrap()
            .values()
            .all(|v| !v.is_object() && !v.is_array()),
        "{flat}"
    );
    assert_eq!(flat["is_known"], false);
    let p = flat["win_probability"].as_f64().unwrap();
    let expected = flat["expected_value"].as_f64().unwrap();
    assert!((p * 100.0 - expected).abs() < 0.01);
    let document = json!({"id": "f1", "stage": "demo", "amount": 100, "currency": "EUR",
                          "created_at": "2026-03-01T00:00:00Z", "attributes": {"source": "partner"}});
    let scored = service.post("/v1/scores", &document).await.ok(200);
    assert_eq!(
        scored["win_probability"].as_f64(),
        Some(p),
        "one way to score"
    );
    service.put("/v1/deals/f1", &document).await.ok(201);
    let known = service
        .post("/v1/scores/flat", &json!({"deal_id": "f1"}))
        .await
        .ok(200);
    assert_eq!(
        (&known["is_known"], known["win_probability"].as_f64()),
        (&json!(true), Some(p))
    );
    assert_eq!(
        service.post("/v1/scores/flat", &json!({})).await.fields(),
        ["deal_id"]
    );
    let described = service.get("/openapi-3.0.json").await.ok(200);
    let operation = &described["paths"]["/v1/scores/flat"]["post"];
    assert_eq!(operation["operationId"], "scoreDealFlat");
    let schemas = &described["components"]["schemas"];
    for schema in ["FlatDeal", "FlatScore"] {
        for (name, field) in schemas[schema]["properties"].as_object().unwrap() {
            assert!(field["type"].is_string(), "{schema}.{name}: {field}");
        }
    }
}

#[tokio::test]
async fn what_comes_is_counted() {
    let service = Service::with_settings(&settings());
    let mut contact = creation(2, T);
    contact["subscriptionType"] = json!("contact.creation");
    let events = json!([creation(1, T), contact, change(3, T, "amount", "1")]);
    for _ in 0..2 {
        send_json(&service, Source::Hubspot, &events).await.ok(200);
    }
    settled(&service).await;
    let metrics = service.get("/metrics").await.ok(200);
    let metrics = metrics.as_str().unwrap();
    for (outcome, count) in [
        ("received", 4),
        ("unknown", 2),
        ("applied", 1),
        ("waiting", 1),
    ] {
        let line =
            format!("webhook_events_total{{source=\"hubspot\",outcome=\"{outcome}\"}} {count}");
        assert!(metrics.contains(&line), "no `{line}` in {metrics}");
    }
    assert!(metrics.contains("webhook_duplicates_total 2"), "{metrics}");
}
