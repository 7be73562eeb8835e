//! Every CRM's own way to sign and to tell, on payloads of ours.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;

use super::*;
use crate::domain::{Deal, DealId};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn now() -> Timestamp {
    at("2026-06-25T12:00:00Z")
}

fn delivery(body: &str) -> Delivery {
    Delivery {
        method: "POST".into(),
        url: "https://scores.example.com/v1/webhooks/x".into(),
        headers: BTreeMap::new(),
        path_secret: None,
        body: body.as_bytes().to_vec(),
    }
}

fn settings(secrets: &[&str]) -> SourceSettings {
    SourceSettings {
        secrets: secrets.iter().map(|s| Secret::new(*s)).collect(),
        ..SourceSettings::default()
    }
}

fn events(source: Source, body: &Value) -> Vec<Part> {
    let delivery = delivery(&body.to_string());
    (source.adapter().split)(&delivery, &SourceSettings::default()).unwrap()
}

fn reading(source: Source, settings: &SourceSettings, part: &Part) -> Reading {
    let Part::Event { body, .. } = part else {
        panic!("{part:?}");
    };
    let table = settings.table(source).unwrap();
    let context = Context {
        table: &table,
        received_at: now(),
        now: now(),
    };
    (source.adapter().read)(&context, body).unwrap()
}

/// The deal after all events, and whether one of them made it known.
fn deal(source: Source, settings: &SourceSettings, parts: &[Part]) -> (Deal, bool) {
    let mut deal = Deal::new(DealId::new("d").unwrap());
    let mut is_known = false;
    for part in parts {
        let (facts, is_birth) = match reading(source, settings, part).meaning {
            Meaning::Facts { facts, is_birth } => (facts, is_birth),
            Meaning::Born { facts } => (facts, true),
            Meaning::Touched | Meaning::Deleted | Meaning::Restored => continue,
        };
        is_known |= is_birth;
        for fact in facts {
            deal.apply(fact).unwrap();
        }
    }
    (deal, is_known)
}

fn hmac(key: &[u8], content: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(content);
    let code = mac.finalize().into_bytes();
    code.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(source: Source, delivery: &Delivery, settings: &SourceSettings) -> Result<(), Refusal> {
    (source.adapter().authenticate)(delivery, settings, now())
}

#[test]
fn a_hubspot_batch_in_any_order_gives_the_same_deal() {
    let event = |kind: &str, at: i64, property: &str, value: &str| {
        json!({"subscriptionType": kind, "objectId": 7, "occurredAt": at, "portalId": 1,
               "subscriptionId": 2, "eventId": at, "propertyName": property, "propertyValue": value})
    };
    let batch = json!([
        event(
            "deal.propertyChange",
            1782371974000,
            "dealstage",
            "closedwon"
        ),
        event("object.propertyChange", 1782371973000, "amount", "2000"),
        event("deal.creation", 1782371972000, "", ""),
        event("deal.propertyChange", 1782371973500, "Industry", "retail"),
        event("contact.propertyChange", 1782371973500, "email", "a@b.c"),
    ]);
    let mut batch = batch;
    batch[1]["objectTypeId"] = json!("0-3");
    let mut parts = events(Source::Hubspot, &batch);
    let unknown = parts.pop().unwrap();
    assert_eq!(
        unknown,
        Part::Unknown {
            kind: "contact.propertyChange".into()
        }
    );
    let (forward, is_known) = deal(Source::Hubspot, &settings(&[]), &parts);
    parts.reverse();
    let (backward, _) = deal(Source::Hubspot, &settings(&[]), &parts);
    assert!(is_known);
    assert_eq!(forward, backward);
    assert_eq!(forward.outcome, Outcome::Won);
    assert_eq!(
        forward.created_at,
        Timestamp::from_millisecond(1782371972000).ok()
    );
    assert_eq!(forward.attributes.len(), 1);
}

#[test]
fn a_hubspot_deal_from_a_workflow_is_dated_by_its_properties() {
    let body = json!({"objectId": 7, "properties": {
        "dealname": {"value": "Acme", "timestamp": 1782371972000i64},
        "dealstage": {"value": "closedlost", "timestamp": 1782371974000i64},
        "hs_internal": {"value": "x", "timestamp": 1782371974000i64},
    }});
    let parts = events(Source::Hubspot, &body);
    assert_eq!(
        parts,
        events(Source::Hubspot, &body),
        "dated, so the same twice is one"
    );
    let (lost, is_known) = deal(Source::Hubspot, &settings(&[]), &parts);
    assert!(is_known);
    assert_eq!(lost.name.as_deref(), Some("Acme"));
    assert_eq!(
        lost.closed_at,
        Timestamp::from_millisecond(1782371974000).ok()
    );
    assert!(lost.attributes.is_empty());
    let undated = json!({"objectId": 7, "properties": {"amount": "5"}});
    assert_ne!(
        events(Source::Hubspot, &undated),
        events(Source::Hubspot, &undated)
    );
    let contact = json!({"objectId": 7, "objectType": "CONTACT", "properties": {}});
    assert!(matches!(
        events(Source::Hubspot, &contact)[..],
        [Part::Unknown { .. }]
    ));
}

#[test]
fn a_contact_of_a_hubspot_workflow_is_no_deal() {
    let contact = json!({"vid": 7, "properties": {"email": {"value": "a@b.c"}}});
    let kind = "contact".into();
    assert_eq!(events(Source::Hubspot, &contact), [Part::Unknown { kind }]);
    assert_eq!((Source::Hubspot.adapter().deal)(&contact), None);
    let action = |object: Value| {
        let body = json!({"callbackId": "c", "object": object});
        Action::of(&delivery(&body.to_string())).unwrap()
    };
    for (kind, is_of_deal) in [
        (Value::Null, true),
        (json!("DEAL"), true),
        (json!("0-3"), true),
        (json!("CONTACT"), false),
        (json!("0-1"), false),
    ] {
        let action = action(json!({"objectId": 7, "objectType": kind}));
        assert_eq!(action.is_of_deal(), is_of_deal, "{kind}");
    }
}

#[test]
fn two_pipedrive_changes_of_one_second_are_two() {
    let change = |value: i64| {
        json!({"meta": {"action": "change", "entity": "deal", "entity_id": "9", "id": "9",
                        "timestamp": "2026-02-01T00:00:00Z"},
               "data": {"id": 9, "value": value}})
    };
    let key = |value| match &events(Source::Pipedrive, &change(value))[..] {
        [Part::Event { key, .. }] => key.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(key(1), key(1));
    assert_ne!(key(1), key(2));
}

#[test]
fn deals_that_hubspot_merges_into_another_are_gone() {
    let merge = json!([{"subscriptionType": "deal.merge", "primaryObjectId": 1, "newObjectId": 1,
                        "mergedObjectIds": [1, 2, 3], "occurredAt": 1782371974000i64}]);
    let parts = events(Source::Hubspot, &merge);
    assert_eq!(parts.len(), 2);
    for part in &parts {
        assert_eq!(
            reading(Source::Hubspot, &settings(&[]), part).meaning,
            Meaning::Deleted
        );
    }
}

#[test]
fn an_older_whole_deal_that_arrives_late_does_not_overwrite_a_newer_one() {
    let version = |at: &str, value: i64, status: &str| {
        json!({"meta": {"action": "change", "entity": "deal", "entity_id": "9", "timestamp": at, "id": at},
               "data": {"id": 9, "value": value, "status": status, "update_time": at,
                        "add_time": "2026-01-01T00:00:00Z", "stage_id": value, "currency": "EUR"}})
    };
    let versions = [
        version("2026-02-01T00:00:00Z", 1, "open"),
        version("2026-02-02T00:00:00Z", 2, "lost"),
        version("2026-02-03T00:00:00Z", 3, "open"),
    ];
    let parts: Vec<Part> = (versions.iter())
        .flat_map(|body| events(Source::Pipedrive, body))
        .collect();
    let (forward, _) = deal(Source::Pipedrive, &settings(&[]), &parts);
    for order in [[2, 1, 0], [1, 2, 0], [2, 0, 1], [1, 0, 2]] {
        let shuffled: Vec<Part> = order.iter().map(|i| parts[*i].clone()).collect();
        assert_eq!(
            deal(Source::Pipedrive, &settings(&[]), &shuffled).0,
            forward
        );
    }
    assert_eq!(forward.amount, Some(3.into()));
    assert!(forward.is_open(), "it was reopened");
}

#[test]
fn a_pipedrive_activity_counts_once_it_is_done() {
    let activity = |done: bool| {
        json!({"meta": {"action": "change", "entity": "activity", "entity_id": 5,
                        "timestamp": "2026-02-01T00:00:00Z"},
               "data": {"id": 5, "deal_id": 9, "type": "call", "done": done,
                        "marked_as_done_time": "2026-01-31 10:00:00"}})
    };
    let of = |done| {
        let parts = events(Source::Pipedrive, &activity(done));
        deal(Source::Pipedrive, &settings(&[]), &parts)
    };
    let (done, is_known) = of(true);
    assert!(!is_known, "an activity alone is no deal");
    assert_eq!(done.activities.len(), 1);
    assert_eq!(done.activities[0].at, at("2026-01-31T10:00:00Z"));
    assert!(of(false).0.activities.is_empty());
    let free = json!({"meta": {"action": "change", "entity": "activity", "timestamp": 1}, "data": {"deal_id": null}});
    assert!(matches!(
        events(Source::Pipedrive, &free)[..],
        [Part::Unknown { .. }]
    ));
}

#[test]
fn zoho_tells_of_several_deals_at_once() {
    let body = json!({"server_time": 1718115953625i64, "module": "Deals", "operation": "insert",
        "ids": ["1", "2"], "token": "t", "channel_id": "c",
        "affected_values": [{"record_id": "1", "values": {"Stage": "Closed Won", "Owner": {"id": "5", "name": "Ann"}}}]});
    let parts = events(Source::Zoho, &body);
    let (won, is_known) = deal(Source::Zoho, &settings(&[]), &parts[..1]);
    assert!(is_known);
    assert_eq!(
        (won.outcome, won.owner.as_deref()),
        (Outcome::Won, Some("5"))
    );
    assert_eq!(
        reading(Source::Zoho, &settings(&[]), &parts[1]).meaning,
        Meaning::Touched
    );
    let mut sent = delivery(&body.to_string());
    assert_eq!(check(Source::Zoho, &sent, &settings(&["x", "t"])), Ok(()));
    assert_eq!(
        check(Source::Zoho, &sent, &settings(&["x"])),
        Err(Refusal::Mismatch)
    );
    sent.body = b"{}".to_vec();
    assert!(check(Source::Zoho, &sent, &settings(&["t"])).is_err());
}

#[test]
fn the_settings_say_what_an_installation_has_different() {
    let toml = r#"
        id_prefix = "od-"
        won_stages = ["4"]
        lost_stages = []
        values = { stage = { "2" = "Qualified" } }
        fields = { x_size = "attributes.Size", tag_ids = "ignore", priority = "attributes.Stars" }
        zone = "Europe/Paris"
        currency = "EUR"
    "#;
    let settings: SourceSettings = toml::from_str(toml).unwrap();
    let body = json!({"_id": 87, "_model": "crm.lead", "stage_id": 2, "x_size": 3, "tag_ids": [1],
                      "priority": "2", "write_date": "2026-01-15 10:00:00", "expected_revenue": 5.5,
                      "user_id": false});
    let (open, _) = deal(Source::Odoo, &settings, &events(Source::Odoo, &body));
    assert_eq!(open.stage.as_deref(), Some("Qualified"));
    assert_eq!(
        (open.owner, open.currency.map(|c| c.to_string())),
        (None, Some("EUR".into()))
    );
    let names: Vec<&str> = open.attributes.keys().map(String::as_str).collect();
    assert_eq!(names, ["Size", "Stars"]);
    assert_eq!(open.created_at, Some(at("2026-01-15T09:00:00Z")));
    let mut won = body.clone();
    won["stage_id"] = json!(4);
    let (won, _) = deal(Source::Odoo, &settings, &events(Source::Odoo, &won));
    assert_eq!(won.outcome, Outcome::Won);
}

#[test]
fn our_own_documents_and_events_are_taken_as_of_their_moment() {
    let upsert =
        |at: &str, data: Value| json!({"type": "deal.upserted", "timestamp": at, "data": data});
    let first = upsert(
        "2026-02-01T00:00:00Z",
        json!({"id": "d", "stage": "new", "amount": 10,
        "attributes": {"Size": 3}, "activities": [{"at": "2026-01-30T00:00:00Z", "kind": "call"}]}),
    );
    let second = upsert(
        "2026-02-05T00:00:00Z",
        json!({"id": "d", "stage": "demo", "outcome": "open"}),
    );
    let lost = json!({"type": "deal.events", "timestamp": "2026-02-03T00:00:00Z", "data": {"deal_id": "d",
        "events": [{"type": "closed", "at": "2026-02-03T00:00:00Z", "outcome": "lost", "id": "e1"}]}});
    let mut sent = delivery("");
    sent.headers.insert("webhook-id".into(), "msg_1".into());
    let parts: Vec<Part> = [first, second, lost]
        .iter()
        .flat_map(|body| {
            sent.body = body.to_string().into_bytes();
            (Source::Standard.adapter().split)(&sent, &settings(&[])).unwrap()
        })
        .collect();
    let (known, is_known) = deal(Source::Standard, &settings(&[]), &parts);
    assert!(is_known && known.is_open());
    assert_eq!(
        (known.stage.as_deref(), known.amount),
        (Some("demo"), Some(10.into()))
    );
    let reversed: Vec<Part> = parts.into_iter().rev().collect();
    assert_eq!(deal(Source::Standard, &settings(&[]), &reversed).0, known);
    let table = settings(&[]).table(Source::Standard).unwrap();
    let context = Context {
        table: &table,
        received_at: now(),
        now: now(),
    };
    let named = upsert(
        "2026-02-01T00:00:00Z",
        json!({"id": "d", "stage": "demo", "attributes": {"stage": "Series B"}}),
    );
    sent.body = named.to_string().into_bytes();
    let parts = (Source::Standard.adapter().split)(&sent, &settings(&[])).unwrap();
    let (known, _) = deal(Source::Standard, &settings(&[]), &parts);
    assert_eq!(known.stage.as_deref(), Some("demo"));
    assert_eq!(json!(known.attributes["crm.stage"]), "Series B");
    let wrong = upsert("2026-02-01T00:00:00Z", json!({"id": "d", "colour": 1}));
    let errors = (Source::Standard.adapter().read)(&context, &wrong).unwrap_err();
    assert_eq!(errors[0].field, "data.colour");
}

#[test]
fn what_is_signed_passes_with_either_secret_and_what_is_altered_does_not() {
    let stamp = now().as_second().to_string();
    let signed = |source: Source, key: &str| {
        let mut sent = delivery(r#"{"a":1}"#);
        let body = sent.body.clone();
        match source {
            Source::Attio => {
                sent.headers
                    .insert("attio-signature".into(), hmac(key.as_bytes(), &body));
            }
            Source::Close => {
                let content = [stamp.as_bytes(), &body].concat();
                let code = hmac(&signature::hex(key).unwrap(), &content);
                sent.headers.insert("close-sig-hash".into(), code);
                sent.headers
                    .insert("close-sig-timestamp".into(), stamp.clone());
            }
            Source::Pipedrive => {
                use base64::Engine as _;
                let code = base64::engine::general_purpose::STANDARD.encode(key);
                sent.headers
                    .insert("authorization".into(), format!("Basic {code}"));
            }
            _ => sent.path_secret = Some(key.into()),
        }
        sent
    };
    for (source, new, old, wrong) in [
        (Source::Attio, "k1", "k2", "k3"),
        (Source::Close, "0a0b", "0c0d", "0e0f"),
        (Source::Pipedrive, "u:p", "u:q", "u:r"),
        (
            Source::Odoo,
            "aaaaaaaaaaaaaaaa",
            "bbbbbbbbbbbbbbbb",
            "cccccccccccccccc",
        ),
        (
            Source::Salesforce,
            "aaaaaaaaaaaaaaaa",
            "bbbbbbbbbbbbbbbb",
            "",
        ),
    ] {
        let both = settings(&[new, old]);
        for key in [new, old] {
            assert_eq!(
                check(source, &signed(source, key), &both),
                Ok(()),
                "{source}"
            );
        }
        let refused = check(source, &signed(source, wrong), &both);
        assert_eq!(refused, Err(Refusal::Mismatch), "{source}");
        let unsigned = check(source, &delivery(r#"{"a":1}"#), &both);
        assert!(unsigned.is_err(), "{source}");
        let mut altered = signed(source, new);
        altered.body.push(b' ');
        let is_body_signed = matches!(source, Source::Attio | Source::Close);
        assert_eq!(
            check(source, &altered, &both).is_err(),
            is_body_signed,
            "{source}"
        );
    }
    let mut stale = signed(Source::Close, "0a0b");
    let old = (now().as_second() - 301).to_string();
    stale.headers.insert("close-sig-timestamp".into(), old);
    assert_eq!(
        check(Source::Close, &stale, &settings(&["0a0b"])),
        Err(Refusal::Stale)
    );
}

#[test]
fn a_body_that_cannot_be_read_is_kept_with_its_reason() {
    for source in SOURCES {
        for body in ["", "{", "[1", "5"] {
            let sent = delivery(body);
            let split = (source.adapter().split)(&sent, &SourceSettings::default());
            assert!(
                matches!(split, Err(Unreadable::Kept(_))),
                "{source} {body}: {split:?}"
            );
        }
    }
}
