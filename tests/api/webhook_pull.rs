//! Deals of which a webhook says too little are read from the CRM: a real server in its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use actix_web::web::{self, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use dealrank::inbound::Source;
use reqwest::Method;
use serde_json::{Value, json};

use crate::senders::{send_json, settings};
use crate::service::Service;
use crate::webhooks::{deal_when, settled};

/// A CRM that knows some deals by their ids, and remembers what it was asked.
#[derive(Clone, Default)]
struct Crm {
    deals: Arc<Mutex<HashMap<String, Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Crm {
    /// Answers with its address.
    fn start(&self) -> String {
        let (tell, told) = mpsc::channel();
        let crm = self.clone();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    let crm = Data::new(crm.clone());
                    App::new().app_data(crm).default_service(web::to(answer))
                });
                let server = server
                    .workers(1)
                    .disable_signals()
                    .bind("127.0.0.1:0")
                    .unwrap();
                tell.send(server.addrs()[0]).unwrap();
                server.run().await.unwrap();
            });
        });
        format!("http://{}", told.recv().unwrap())
    }

    fn put(&self, id: &str, deal: Value) {
        self.deals.lock().unwrap().insert(id.into(), deal);
    }
}

async fn answer(crm: Data<Crm>, request: HttpRequest) -> HttpResponse {
    let token = request
        .headers()
        .get("authorization")
        .map(|token| token.to_str().unwrap());
    assert_eq!(token, Some("Bearer a-token"));
    crm.asked.lock().unwrap().push(request.uri().to_string());
    let id = request.path().rsplit('/').next().unwrap();
    match crm.deals.lock().unwrap().get(id) {
        Some(deal) => HttpResponse::Ok().json(deal),
        None => HttpResponse::NotFound().json(json!({"message": "not found"})),
    }
}

fn event(kind: &str, id: u64, at: i64) -> Value {
    json!({"subscriptionType": format!("deal.{kind}"), "objectId": id, "occurredAt": at, "portalId": 1,
           "subscriptionId": 3, "eventId": at, "propertyName": "amount", "propertyValue": "9"})
}

const T: i64 = 1_767_225_600_000;

#[tokio::test]
async fn a_hubspot_deal_of_which_an_event_says_too_little_is_read_whole() {
    let crm = Crm::default();
    let base = crm.start();
    let whole = |id: u64| {
        json!({"id": id.to_string(), "properties": {
            "hs_object_id": id.to_string(), "dealname": format!("Deal {id}"), "amount": "5",
            "dealstage": "qualifiedtobuy", "createdate": "2026-01-01T00:00:00.000Z",
            "hs_lastmodifieddate": "2026-01-01T00:00:01.000Z", "dealrank_score": "42"}})
    };
    for id in [1, 2] {
        crm.put(&id.to_string(), whole(id));
    }
    let toml = format!(
        "{}\n[crm.hubspot]\nenabled = true\ntoken = 'a-token'\nbase_url = '{base}'",
        settings()
    );
    let service = Service::with_settings(&toml);
    let events = json!([
        event("creation", 1, T),
        event("propertyChange", 2, T + 9000),
        event("propertyChange", 3, T)
    ]);
    send_json(&service, Source::Hubspot, &events).await.ok(200);
    let new = deal_when(&service, "1", |deal| deal["name"] == "Deal 1").await;
    assert_eq!(
        (&new["stage"], &new["amount"]),
        (&json!("qualifiedtobuy"), &json!("5"))
    );
    assert_eq!(new["attributes"], json!({}), "what we wrote is no news");
    // The change is newer than what was read.
    deal_when(&service, "2", |deal| {
        deal["name"] == "Deal 2" && deal["amount"] == "9"
    })
    .await;
    settled(&service).await;
    let asked = crm.asked.lock().unwrap().join(" ");
    assert!(
        asked.contains("/crm/v3/objects/deals/1?properties=") && asked.contains("dealstage"),
        "{asked}"
    );
    // What the CRM does not know waits, as where it cannot be asked.
    assert_eq!(service.get("/v1/deals/3").await.problem(404), "not_found");
    service
        .put("/v1/deals/3", &crate::service::deal("3"))
        .await
        .ok(201);
    deal_when(&service, "3", |deal| {
        let history = deal["history"].as_array();
        history.is_some_and(|past| past.iter().any(|change| change["value"] == "9"))
    })
    .await;
}

fn read_from(crm: &Crm) -> Service {
    let toml = format!(
        "{}\n[crm.hubspot]\nenabled = true\ntoken = 'a-token'\nbase_url = '{}'",
        settings(),
        crm.start()
    );
    Service::with_settings(&toml)
}

fn properties(id: u64, amount: &str) -> Value {
    json!({"id": id.to_string(), "properties": {
        "dealname": "A deal", "amount": amount, "createdate": "2026-01-01T00:00:00.000Z",
        "hs_lastmodifieddate": "2026-01-01T00:00:01.000Z"}})
}

#[tokio::test]
async fn a_deal_that_is_deleted_and_restored_in_one_breath_is_there() {
    let crm = Crm::default();
    crm.put("1", properties(1, "5"));
    crm.put("2", properties(2, "6"));
    let service = read_from(&crm);
    let born = json!([event("creation", 1, T)]);
    send_json(&service, Source::Hubspot, &born).await.ok(200);
    deal_when(&service, "1", |deal| deal["amount"] == "5").await;
    crm.put("1", properties(1, "7"));
    // The first is known, the second is not.
    let events: Vec<Value> = [1, 2]
        .into_iter()
        .flat_map(|id| {
            [
                event("deletion", id, T + 20_000),
                event("restore", id, T + 21_000),
            ]
        })
        .collect();
    send_json(&service, Source::Hubspot, &json!(events))
        .await
        .ok(200);
    deal_when(&service, "2", |deal| deal["amount"] == "6").await;
    deal_when(&service, "1", Value::is_object).await;
    // Apart, it is gone and comes back.
    for (kind, at) in [("deletion", T + 30_000), ("restore", T + 40_000)] {
        let events = json!([event(kind, 1, at)]);
        send_json(&service, Source::Hubspot, &events).await.ok(200);
        settled(&service).await;
    }
    deal_when(&service, "1", |deal| deal["amount"] == "7").await;
}

#[tokio::test]
async fn a_deal_that_cannot_be_read_from_the_crm_is_a_dead_letter_that_can_be_repaired() {
    let crm = Crm::default();
    crm.put("8", properties(8, "much"));
    let service = read_from(&crm);
    let changed = json!([event("propertyChange", 8, T)]);
    send_json(&service, Source::Hubspot, &changed).await.ok(200);
    let deadline = Instant::now() + Duration::from_secs(60);
    let letter = loop {
        let letters = service.get("/v1/deadletters").await.ok(200);
        if let Some(letter) = letters["deadletters"].get(0) {
            break letter.clone();
        }
        assert!(Instant::now() < deadline, "{}", service.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(letter["deal_id"], "8");
    let reason = letter["reason"].as_str().unwrap();
    assert!(reason.contains("amount"), "{reason}");
    let path = format!("/v1/deadletters/{}", letter["id"]);
    let repair = json!({"properties": {"amount": "12"}});
    service.send(Method::PATCH, &path, &repair).await.ok(200);
    let replayed = service.post(&format!("{path}/replay"), &json!({})).await;
    assert_eq!(replayed.ok(200)["state"], "applied");
    let found = deal_when(&service, "8", |deal| deal["name"] == "A deal").await;
    let past = found["history"].as_array().unwrap();
    assert!(past.iter().any(|change| change["value"] == "12"), "{found}");
}
