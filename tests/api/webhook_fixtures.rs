//! Payloads and signatures of the vendors: each is taken or refused as it should be, and any number of
//! deliveries in any order comes to the same deals.

use std::collections::BTreeMap;

use dealrank::inbound::signature::Refusal;
use dealrank::inbound::{ACKNOWLEDGEMENT, Delivery, Secret, Source, SourceSettings};
use jiff::Timestamp;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use crate::senders::{send, settings};
use crate::service::Service;
use crate::shared::shared_in;
use crate::webhooks::{deal_when, settled};
use crate::world::rng;

/// File, source, events about deals, others.
const FILES: [(&str, Source, u64, u64); 19] = [
    (
        "hubspot/batch-legacy-event-type.json",
        Source::Hubspot,
        0,
        2,
    ),
    ("hubspot/deal-creation.json", Source::Hubspot, 1, 0),
    ("hubspot/deal-deletion.json", Source::Hubspot, 1, 0),
    (
        "hubspot/deal-property-change-amount.json",
        Source::Hubspot,
        1,
        0,
    ),
    (
        "hubspot/deal-property-change-dealstage.json",
        Source::Hubspot,
        1,
        0,
    ),
    (
        "hubspot/deal-batch-out-of-order.json",
        Source::Hubspot,
        4,
        0,
    ),
    ("hubspot/deal-old-single.json", Source::Hubspot, 1, 0),
    (
        "hubspot/generic-object-property-change.json",
        Source::Hubspot,
        1,
        0,
    ),
    (
        "salesforce/outbound-opportunity.xml",
        Source::Salesforce,
        1,
        0,
    ),
    (
        "salesforce/outbound-deleted-record.xml",
        Source::Salesforce,
        0,
        1,
    ),
    (
        "salesforce/cdc-opportunity-update.json",
        Source::Salesforce,
        1,
        0,
    ),
    ("pipedrive/v1-updated-deal.json", Source::Pipedrive, 1, 0),
    (
        "pipedrive/v2-change-deal-int-ids.json",
        Source::Pipedrive,
        1,
        0,
    ),
    (
        "pipedrive/v2-change-deal-string-ids.json",
        Source::Pipedrive,
        1,
        0,
    ),
    ("pipedrive/v2-delete-deal.json", Source::Pipedrive, 1, 0),
    ("zoho/notification-deals-batch.json", Source::Zoho, 2, 0),
    ("close/opportunity-won.json", Source::Close, 1, 0),
    ("attio/record-updated.json", Source::Attio, 1, 0),
    ("odoo/crm-lead-webhook.json", Source::Odoo, 1, 0),
];

/// Deals that the files make known, unless a deletion is among them.
const KNOWN: [&str; 5] = [
    "0067F000003pmdWQAQ",
    "999",
    "1",
    "oppo_7H4sjNso7FyBFaeR3RXi5PMJbilfo0c6UPCxsJtEhCO",
    "87",
];

fn fixture(path: &str) -> Option<Vec<u8>> {
    let path = shared_in("webhook-fixtures", path)?;
    Some(std::fs::read(path).unwrap())
}

fn vectors(path: &str) -> Option<Value> {
    Some(serde_json::from_slice(&fixture(path)?).unwrap())
}

async fn document(service: &Service, id: &str) -> Value {
    service.get(&format!("/v1/deals/{id}")).await.body["deal"].clone()
}

async fn documents(service: &Service) -> Vec<Value> {
    let mut documents = Vec::new();
    for id in KNOWN.into_iter().chain(["332507367156", "2001"]) {
        documents.push(document(service, id).await);
    }
    documents
}

#[tokio::test]
async fn every_file_is_taken_as_it_says_and_read_as_it_means() {
    if fixture("README.md").is_none() {
        return;
    }
    let service = Service::with_settings(&settings());
    for (path, source, received, unknown) in FILES {
        // The deal of these is to be seen before it is gone.
        if path.contains("delet") {
            continue;
        }
        let taken = send(&service, source, &fixture(path).unwrap()).await;
        let expected = match path.ends_with(".xml") {
            true => json!(ACKNOWLEDGEMENT),
            false => json!({"received": received, "unknown": unknown}),
        };
        assert_eq!(taken.ok(200), expected, "{path}");
    }
    settled(&service).await;
    let hubspot = document(&service, "332507367156").await;
    assert_eq!(hubspot["stage"], "qualifiedtobuy");
    assert_eq!(hubspot["amount"], "2000");
    assert_eq!(hubspot["created_at"], "2026-06-25T07:19:31.992Z");
    let salesforce = document(&service, "0067F000003pmdWQAQ").await;
    assert_eq!(salesforce["name"], "Express Logistics SLA");
    assert_eq!(
        (&salesforce["amount"], &salesforce["stage"]),
        (&json!("120000"), &json!("Perception Analysis"))
    );
    assert_eq!(salesforce["expected_close_at"], "2017-04-03T00:00:00Z");
    assert_eq!(salesforce["attributes"]["LeadSource"], "Phone Inquiry");
    let older = document(&service, "999").await;
    assert_eq!(
        (&older["amount"], &older["owner"]),
        (&json!("1000"), &json!("2428657"))
    );
    assert_eq!(older["created_at"], "2017-04-19T19:43:40Z");
    let newer = document(&service, "2001").await;
    assert_eq!(
        (&newer["stage"], &newer["currency"]),
        (&json!("28"), &json!("BRL"))
    );
    let close = document(&service, KNOWN[3]).await;
    assert_eq!(
        (&close["amount"], &close["outcome"]),
        (&json!("1000"), &json!("won"))
    );
    assert_eq!(close["closed_at"], "2019-01-15T12:48:23.392Z");
    let odoo = document(&service, "87").await;
    assert_eq!(
        (&odoo["amount"], &odoo["name"]),
        (&json!("24000"), &json!("Quote for 12 Tables"))
    );
    assert_eq!(odoo["attributes"]["tag_ids"], "3; 7");
    let waiting = service
        .store()
        .count("SELECT count(*) FROM inbox WHERE state = 'waiting'")
        .await;
    // An old change, a change event and two of Zoho: their deals are not known. Attio's says nothing more.
    assert_eq!(waiting, 4);
    for (path, id) in [
        ("hubspot/deal-deletion.json", "332507367156"),
        ("pipedrive/v2-delete-deal.json", "2001"),
    ] {
        let source = Source::parse(path.split('/').next().unwrap()).unwrap();
        send(&service, source, &fixture(path).unwrap())
            .await
            .ok(200);
        settled(&service).await;
        assert_eq!(
            service.get(&format!("/v1/deals/{id}")).await.problem(404),
            "not_found"
        );
    }
    let empty = fixture("salesforce/outbound-deleted-record.xml").unwrap();
    assert_eq!(
        send(&service, Source::Salesforce, &empty).await.ok(200),
        ACKNOWLEDGEMENT
    );
    let letters = service.get("/v1/deadletters").await.ok(200);
    assert_eq!(letters["deadletters"], json!([]));
}

#[tokio::test]
async fn every_file_twice_in_any_order_gives_the_same_deals() {
    if fixture("README.md").is_none() {
        return;
    }
    let once = Service::with_settings(&settings());
    for (path, source, ..) in FILES {
        send(&once, source, &fixture(path).unwrap()).await.ok(200);
    }
    settled(&once).await;
    let expected = documents(&once).await;
    assert_eq!(
        expected.iter().filter(|deal| deal.is_object()).count(),
        KNOWN.len()
    );
    let mut twice: Vec<_> = FILES.iter().chain(&FILES).collect();
    for seed in 0..3 {
        twice.shuffle(&mut rng(seed));
        let shuffled = Service::with_settings(&settings());
        for (path, source, ..) in &twice {
            send(&shuffled, *source, &fixture(path).unwrap())
                .await
                .ok(200);
            // And once more to where they are all known.
            send(&once, *source, &fixture(path).unwrap()).await.ok(200);
        }
        settled(&shuffled).await;
        settled(&once).await;
        assert_eq!(documents(&once).await, expected, "seed {seed}");
        let mut found = documents(&shuffled).await;
        // It has no time of its own: it is as of when it came.
        for field in ["created_at", "history", "outcomes"] {
            found[0][field] = expected[0][field].clone();
        }
        assert_eq!(found, expected, "seed {seed}");
    }
}

struct Vector {
    source: Source,
    delivery: Delivery,
    settings: SourceSettings,
    now: Timestamp,
}

impl Vector {
    fn new(source: Source, secret: &Value, body: &Value) -> Self {
        Self {
            source,
            delivery: Delivery {
                method: "POST".into(),
                url: String::new(),
                headers: BTreeMap::new(),
                path_secret: None,
                body: body.as_str().unwrap().as_bytes().to_vec(),
            },
            settings: SourceSettings {
                secrets: vec![
                    Secret::new("another"),
                    Secret::new(secret.as_str().unwrap()),
                ],
                ..SourceSettings::default()
            },
            now: Timestamp::now(),
        }
    }

    fn header(&mut self, name: &str, value: &Value) {
        let value = value.as_str().unwrap().to_owned();
        self.delivery.headers.insert(name.to_lowercase(), value);
    }

    fn check(&self) -> Result<(), Refusal> {
        let authenticate = self.source.adapter().authenticate;
        authenticate(&self.delivery, &self.settings, self.now)
    }
}

fn all_vectors() -> Option<Vec<Vector>> {
    let mut all = Vec::new();
    for v in vectors("hubspot/signature-vectors.json")?
        .as_array()
        .unwrap()
    {
        let mut vector = Vector::new(Source::Hubspot, &v["secret"], &v["body"]);
        if v["version"] == "v3" {
            vector.header("X-HubSpot-Signature-v3", &v["signature"]);
            vector.header("X-HubSpot-Request-Timestamp", &v["timestamp"]);
            let millis = v["timestamp"].as_str().unwrap().parse().unwrap();
            vector.now = Timestamp::from_millisecond(millis).unwrap();
        } else {
            vector.header("X-HubSpot-Signature", &v["signature"]);
            vector.header("X-HubSpot-Signature-Version", &v["version"]);
        }
        if let Some(method) = v["method"].as_str() {
            vector.delivery.method = method.into();
            vector.delivery.url = v["uri"].as_str().unwrap().into();
        }
        all.push(vector);
    }
    let close = vectors("close/signature-vector.json")?;
    let mut vector = Vector::new(Source::Close, &close["signature_key_hex"], &close["body"]);
    vector.header("close-sig-hash", &close["close-sig-hash"]);
    vector.header("close-sig-timestamp", &close["close-sig-timestamp"]);
    vector.now = "2018-12-08T12:17:20Z".parse().unwrap();
    all.push(vector);
    let attio = vectors("attio/signature-vector.json")?;
    let mut vector = Vector::new(Source::Attio, &attio["secret"], &attio["body"]);
    vector.header("Attio-Signature", &attio["Attio-Signature"]);
    all.push(vector);
    for v in vectors("standard-webhooks/signature-vectors.json")?
        .as_array()
        .unwrap()
    {
        let mut vector = Vector::new(Source::Standard, &v["secret"], &v["body"]);
        for header in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            vector.header(header, &v[header]);
        }
        let seconds = v["webhook-timestamp"].as_str().unwrap().parse().unwrap();
        vector.now = Timestamp::from_second(seconds).unwrap();
        all.push(vector);
    }
    Some(all)
}

#[test]
fn all_signatures_pass_and_altered_ones_do_not() {
    let Some(vectors) = all_vectors() else { return };
    assert_eq!(vectors.len(), 10);
    for mut vector in vectors {
        assert_eq!(vector.check(), Ok(()), "{:?}", vector.delivery);
        vector.delivery.body.push(b'x');
        assert_eq!(vector.check(), Err(Refusal::Mismatch));
        vector.delivery.body.pop();
        let secret = vector.settings.secrets.pop().unwrap();
        assert_eq!(vector.check(), Err(Refusal::Mismatch));
        vector.settings.secrets.push(secret);
        let is_dated = vector
            .delivery
            .headers
            .keys()
            .any(|name| name.contains("timestamp"));
        for minutes in [-6, 6] {
            let now = vector.now;
            vector.now += jiff::SignedDuration::from_mins(minutes);
            assert_eq!(vector.check().is_err(), is_dated, "{:?}", vector.delivery);
            vector.now = now;
        }
        let headers: Vec<String> = vector.delivery.headers.keys().cloned().collect();
        for name in headers.iter().filter(|name| !name.ends_with("version")) {
            let mut less = vector.delivery.clone();
            less.headers.remove(name);
            let authenticate = vector.source.adapter().authenticate;
            let refused = authenticate(&less, &vector.settings, vector.now);
            assert!(
                matches!(refused, Err(Refusal::MissingHeader(_))),
                "{refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_workflow_action_is_answered_with_the_score() {
    let (Some(request), Some(expected)) = (
        fixture("hubspot/workflow-action-request.json"),
        vectors("hubspot/workflow-action-response.json"),
    ) else {
        return;
    };
    let service = Service::with_settings(&settings());
    let failed = send(&service, Source::Hubspot, &request).await.ok(200);
    assert_eq!(
        failed["outputFields"]["hs_execution_state"],
        "FAIL_CONTINUE"
    );
    let version = service.train().await;
    let answer = send(&service, Source::Hubspot, &request).await.ok(200);
    let fields = answer["outputFields"].as_object().unwrap();
    for name in expected["outputFields"].as_object().unwrap().keys() {
        assert!(fields[name].is_string(), "{name}: {answer}");
    }
    assert_eq!(fields["hs_execution_state"], "SUCCESS");
    assert_eq!(fields["model_version"], version.as_str());
    assert_eq!(service.get("/v1/deals/904").await.problem(404), "not_found");
    // What is known of the deal counts too.
    let partner = json!({"id": "904", "stage": "demo", "created_at": "2026-03-01T00:00:00Z",
                         "attributes": {"source": "partner"}});
    service.put("/v1/deals/904", &partner).await.ok(201);
    let known = send(&service, Source::Hubspot, &request).await.ok(200);
    assert_ne!(
        known["outputFields"]["win_probability"],
        fields["win_probability"]
    );
}

#[tokio::test]
async fn a_deal_that_becomes_known_gets_what_waited_for_it() {
    let Some(change) = fixture("hubspot/deal-property-change-amount.json") else {
        return;
    };
    let service = Service::with_settings(&settings());
    send(&service, Source::Hubspot, &change).await.ok(200);
    settled(&service).await;
    let creation = fixture("hubspot/deal-creation.json").unwrap();
    send(&service, Source::Hubspot, &creation).await.ok(200);
    deal_when(&service, "332507367156", |deal| deal["amount"] == "2000").await;
}
