//! Deals of which a webhook says too little are read from the CRM: a real server in its place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, mpsc};

use actix_web::web::{self, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use dealrank::inbound::Source;
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
