//! CRMs on this machine that answer as the real ones are documented to: deals are read from them, and
//! scores are written into them.

use std::collections::BTreeMap;
use std::time::Duration;

use dealrank::config::Config;
use dealrank::crm::{Crm, CrmError, CrmKind, FieldUpdate};
use dealrank::inbound::Source;
use reqwest::Method;
use serde_json::{Value, json};

use crate::receiver::{Received, Receiver, Reply};
use crate::senders;
use crate::service::{Service, deal};

const TOKEN: &str = "a-token-that-nobody-should-see";

fn settings(kind: CrmKind, base: &str, write_back: bool) -> String {
    let name = kind.as_str();
    format!(
        "refresh_minutes = 0
         [crm.{name}]
         enabled = true
         base_url = \"{base}\"
         token = \"{TOKEN}\"
         [crm.{name}.write_back]
         enabled = {write_back}
         [outbound]
         circuit_pause_seconds = 1
         retry_schedule_seconds = [0, 0]
         "
    )
}

fn crm(kind: CrmKind, receiver: &Receiver) -> Crm {
    let text = settings(kind, receiver.base(), false);
    let file = Some(("dealrank.toml".into(), text));
    let config = Config::from_layers(toml::Table::new(), file, []).unwrap();
    assert!(!format!("{config:?}").contains(TOKEN));
    Crm::of(kind, &config.crm).unwrap().unwrap()
}

fn update(id: &str, fields: Value) -> FieldUpdate {
    let Value::Object(fields) = fields else {
        panic!("no object")
    };
    FieldUpdate {
        deal_id: id.into(),
        fields,
    }
}

#[tokio::test]
async fn a_whole_deal_is_read_when_the_rate_limit_allows_it() {
    let deal = json!({ "id": "77", "properties": { "dealstage": "won", "amount": "12" } });
    let (reply, mut refusals) = (deal.clone(), 2);
    let receiver = Receiver::with(move |_| {
        if refusals > 0 {
            refusals -= 1;
            return Reply::json(429, &json!({ "status": "error", "message": "slow down" }))
                .with("retry-after", 1);
        }
        Reply::json(200, &reply)
    });
    let hubspot = crm(CrmKind::HubSpot, &receiver);
    let found = hubspot.deal("77", &["dealstage", "amount"]).await.unwrap();
    assert_eq!(found, deal);
    let requests = receiver.received();
    assert_eq!(requests.len(), 3);
    for pair in requests.windows(2) {
        let pause = pair[1].at.duration_since(pair[0].at);
        assert!(pause >= Duration::from_millis(950), "{pause:?}");
    }
    let request = &requests[0];
    assert_eq!(request.path, "/crm/v3/objects/deals/77");
    assert_eq!(request.query, "properties=dealstage%2Camount");
    assert_eq!(request.header("authorization"), format!("Bearer {TOKEN}"));
}

#[tokio::test]
async fn the_last_request_of_a_window_makes_the_next_one_wait() {
    let receiver = Receiver::with(|_| {
        Reply::json(200, &json!({ "id": "1" }))
            .with("x-hubspot-ratelimit-remaining", 0)
            .with("x-hubspot-ratelimit-interval-milliseconds", 400)
    });
    let hubspot = crm(CrmKind::HubSpot, &receiver);
    hubspot.deal("1", &[]).await.unwrap();
    hubspot.deal("1", &[]).await.unwrap();
    let requests = receiver.received();
    let pause = requests[1].at.duration_since(requests[0].at);
    assert!(pause >= Duration::from_millis(350), "{pause:?}");
}

#[tokio::test]
async fn each_crm_is_asked_in_its_own_way() {
    let receiver = Receiver::with(|request| match request.path.as_str() {
        "/services/data/v62.0/sobjects/Opportunity/006000000000001AAA" => {
            Reply::json(200, &json!({ "Id": "006000000000001AAA", "Amount": 5 }))
        }
        "/api/v2/deals/5" => Reply::json(
            200,
            &json!({ "success": true, "data": { "id": 5, "value": 10 } }),
        ),
        _ => Reply::json(404, &json!({})),
    });
    let salesforce = crm(CrmKind::Salesforce, &receiver);
    let found = salesforce
        .deal("006000000000001AAA", &["Amount"])
        .await
        .unwrap();
    assert_eq!(found["Amount"], 5);
    let pipedrive = crm(CrmKind::Pipedrive, &receiver);
    assert_eq!(pipedrive.deal("5", &[]).await.unwrap()["value"], 10);
    assert_eq!(receiver.received()[1].header("x-api-token"), TOKEN);
    assert_eq!(pipedrive.deal("6", &[]).await, Err(CrmError::NotFound));
    // What is no id never becomes a path.
    let asked = receiver.received().len();
    for id in ["", "../users", "5?x=1", "5/flow", "12345678901234567890123"] {
        assert_eq!(pipedrive.deal(id, &[]).await, Err(CrmError::NotFound));
    }
    assert_eq!(receiver.received().len(), asked);
}

#[tokio::test]
async fn what_does_not_pass_is_not_tried_again() {
    let receiver = Receiver::with(|_| Reply::json(401, &json!({ "message": "bad token" })));
    let error = crm(CrmKind::HubSpot, &receiver)
        .deal("1", &[])
        .await
        .unwrap_err();
    assert!(matches!(&error, CrmError::Misconfigured(reason) if reason.contains("bad token")));
    assert_eq!(receiver.received().len(), 1);
    receiver.answer(|_| Reply::status(429).with("retry-after", 3600));
    let error = crm(CrmKind::HubSpot, &receiver)
        .deal("1", &[])
        .await
        .unwrap_err();
    assert_eq!(error, CrmError::Busy(Some(Duration::from_secs(3600))));
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn an_application_asks_for_tokens_and_for_another_when_one_has_ended() {
    let mut tokens = 0;
    let receiver = Receiver::with(move |request| match request.path.as_str() {
        "/services/oauth2/token" => {
            tokens += 1;
            Reply::json(200, &json!({ "access_token": format!("token-{tokens}") }))
        }
        _ if request.header("authorization") == "Bearer token-1" => Reply::json(
            401,
            &json!([{ "errorCode": "INVALID_SESSION_ID", "message": "Session expired" }]),
        ),
        _ => Reply::json(200, &json!({ "Id": "006000000000001AAA" })),
    });
    let text = settings(CrmKind::Salesforce, receiver.base(), false).replace(
        &format!("token = \"{TOKEN}\""),
        "login = { client_id = \"an app\", client_secret = \"s&cret\" }",
    );
    let file = Some(("dealrank.toml".into(), text));
    let config = Config::from_layers(toml::Table::new(), file, []).unwrap();
    assert!(!format!("{config:?}").contains("s&cret"));
    let salesforce = Crm::of(CrmKind::Salesforce, &config.crm).unwrap().unwrap();
    for _ in 0..2 {
        salesforce.deal("006000000000001AAA", &[]).await.unwrap();
    }
    let paths: Vec<String> = receiver.received().into_iter().map(|r| r.path).collect();
    let deal = "/services/data/v62.0/sobjects/Opportunity/006000000000001AAA";
    let token = "/services/oauth2/token";
    assert_eq!(paths, [token, deal, token, deal, deal]);
    let form = String::from_utf8(receiver.received()[0].body.clone()).unwrap();
    assert_eq!(
        form,
        "grant_type=client_credentials&client_id=an+app&client_secret=s%26cret"
    );
}

#[tokio::test]
async fn one_deal_that_is_refused_does_not_stop_the_others() {
    let hubspot = Receiver::with(|request| {
        let inputs = request.json()["inputs"].as_array().unwrap().clone();
        let is_bad = |input: &&Value| input["id"] == "13";
        if inputs.len() > 1 && inputs.iter().any(|input| is_bad(&input)) {
            return Reply::json(400, &json!({ "message": "invalid input" }));
        }
        if inputs.iter().any(|input| is_bad(&input)) {
            return Reply::json(404, &json!({ "message": "no such deal" }));
        }
        Reply::json(200, &json!({ "status": "COMPLETE", "results": [] }))
    });
    let updates: Vec<_> = (10..20)
        .map(|id| {
            update(
                &id.to_string(),
                json!({ "grade": "A", "empty": null, "p": 0.5 }),
            )
        })
        .collect();
    let written = crm(CrmKind::HubSpot, &hubspot)
        .write(&updates)
        .await
        .unwrap();
    let failed: Vec<_> = (10..).zip(&written).filter(|(_, w)| w.is_err()).collect();
    assert_eq!(failed, [(13, &Err(CrmError::NotFound))]);
    let first = &hubspot.received()[0];
    assert_eq!(first.path, "/crm/v3/objects/deals/batch/update");
    let properties = json!({ "grade": "A", "empty": "", "p": "0.5" });
    assert_eq!(
        first.json()["inputs"][0],
        json!({ "id": "10", "properties": properties })
    );

    hubspot.answer(|_| {
        let error = json!({
            "category": "OBJECT_NOT_FOUND", "message": "gone", "context": { "ids": ["11"] },
        });
        Reply::json(
            207,
            &json!({ "status": "COMPLETE", "numErrors": 1, "errors": [error] }),
        )
    });
    let written = crm(CrmKind::HubSpot, &hubspot)
        .write(&updates[..3])
        .await
        .unwrap();
    assert_eq!(written, [Ok(()), Err(CrmError::NotFound), Ok(())]);

    let salesforce = Receiver::with(|request| {
        let records = request.json()["records"].as_array().unwrap().clone();
        let result = |record: &Value| match record["id"].as_str() {
            Some("006000000000002AAA") => json!({ "success": false, "errors": [
                { "statusCode": "ENTITY_IS_DELETED", "message": "gone", "fields": [] }] }),
            id => json!({ "id": id, "success": true, "errors": [] }),
        };
        Reply::json(200, &records.iter().map(result).collect())
    });
    let updates: Vec<_> = (1..4)
        .map(|n| update(&format!("00600000000000{n}AAA"), json!({ "Grade__c": "A" })))
        .collect();
    let written = crm(CrmKind::Salesforce, &salesforce)
        .write(&updates)
        .await
        .unwrap();
    assert_eq!(written, [Ok(()), Err(CrmError::NotFound), Ok(())]);
    let request = &salesforce.received()[0];
    assert_eq!(
        (request.method.as_str(), request.path.as_str()),
        ("PATCH", "/services/data/v62.0/composite/sobjects")
    );
    assert_eq!(request.json()["allOrNone"], false);
    let record = &request.json()["records"][0];
    assert_eq!(record["attributes"]["type"], "Opportunity");
}

#[tokio::test]
async fn a_field_that_is_not_there_stops_everything_at_once() {
    let receiver = Receiver::with(|_| {
        let error = json!({ "code": "PROPERTY_DOESNT_EXIST", "message": "no dealrank_score" });
        let body = json!({ "message": "Property values were not valid", "errors": [error] });
        Reply::json(400, &body)
    });
    let updates = [update("1", json!({})), update("2", json!({}))];
    let error = crm(CrmKind::HubSpot, &receiver)
        .write(&updates)
        .await
        .unwrap_err();
    assert!(matches!(error, CrmError::Misconfigured(_)), "{error:?}");
    assert_eq!(receiver.received().len(), 1);
}

#[tokio::test]
async fn what_is_read_and_what_is_written_keep_to_one_rate_limit() {
    let quiet = Duration::from_secs(3);
    let receiver = Receiver::with(move |request| match request.method.as_str() {
        "GET" => {
            let properties = json!({ "dealname": "Read", "createdate": "2026-01-01T00:00:00Z",
                "hs_lastmodifieddate": "2026-01-01T00:00:01Z" });
            Reply::json(200, &json!({ "id": "77", "properties": properties }))
                .with("x-hubspot-ratelimit-remaining", 0)
                .with(
                    "x-hubspot-ratelimit-interval-milliseconds",
                    quiet.as_millis(),
                )
        }
        _ => Reply::json(200, &json!({ "status": "COMPLETE", "results": [] })),
    });
    let crm = settings(CrmKind::HubSpot, receiver.base(), true);
    let service = Service::with_settings(&format!("{crm}\n{}", senders::settings()));
    service.train().await;
    // A change makes no deal known: it has to be read before there is a score to write.
    let changed = json!([{ "subscriptionType": "deal.propertyChange", "objectId": 77, "eventId": 1,
        "occurredAt": 1_767_225_600_000_i64, "portalId": 1, "subscriptionId": 2,
        "propertyName": "amount", "propertyValue": "5" }]);
    let taken = senders::send_json(&service, Source::Hubspot, &changed).await;
    taken.ok(200);
    let requests = receiver
        .until("the score is written", |requests| {
            updates(requests).contains_key("77")
        })
        .await;
    let read = requests.iter().find(|request| request.method == "GET");
    let (read, written) = (read.unwrap().at, requests.last().unwrap().at);
    let pause = written.duration_since(read);
    assert!(pause >= quiet, "{pause:?}");
}

/// The updates that arrived, by deal, in order.
fn updates(requests: &[Received]) -> BTreeMap<String, Vec<Value>> {
    let mut updates: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for request in requests
        .iter()
        .filter(|r| r.path.ends_with("/batch/update"))
    {
        for input in request.json()["inputs"].as_array().unwrap() {
            let id = input["id"].as_str().unwrap().to_owned();
            updates
                .entry(id)
                .or_default()
                .push(input["properties"].clone());
        }
    }
    updates
}

fn hubspot() -> Receiver {
    Receiver::with(|_| Reply::json(200, &json!({ "status": "COMPLETE", "results": [] })))
}

async fn set_amount(service: &Service, id: &str, amount: u32) {
    let change = json!({ "amount": amount });
    let path = format!("/v1/deals/{id}");
    service.send(Method::PATCH, &path, &change).await.ok(200);
}

#[tokio::test]
async fn scores_are_written_in_batches_and_only_when_they_moved() {
    let receiver = hubspot();
    let text = settings(CrmKind::HubSpot, receiver.base(), true);
    let mut service = Service::with_settings(&text);
    let deals: Vec<Value> = (1000..1250).map(|id| deal(&id.to_string())).collect();
    service.import_documents(&deals).await;
    service.train().await;
    // The first model is a model like any other: all deals of the CRM are written.
    let requests = receiver
        .until("all deals", |requests| updates(requests).len() == 250)
        .await;
    let sizes: Vec<usize> = requests
        .iter()
        .map(|request| request.json()["inputs"].as_array().unwrap().len())
        .collect();
    assert_eq!(sizes.iter().max(), Some(&100), "{sizes:?}");
    assert!(sizes.len() <= 4, "{sizes:?}");
    let score = service.get("/v1/deals/1000").await.ok(200)["score"].clone();
    let written = updates(&requests)["1000"][0].clone();
    assert_eq!(written["dealrank_grade"], score["grade"]);
    assert_eq!(written["dealrank_score"], score["score"].to_string());
    assert_eq!(
        written["dealrank_expected_value"]
            .as_str()
            .unwrap()
            .parse::<f64>()
            .unwrap(),
        score["expected_value"].as_f64().unwrap()
    );
    let reasons = written["dealrank_reasons"].as_str().unwrap();
    assert!(!reasons.is_empty() && reasons.chars().count() <= 255);

    // Less than the step, then more, then a restart; deals of others are nobody's business here.
    set_amount(&service, "1000", 1001).await;
    set_amount(&service, "1001", 2000).await;
    service
        .put("/v1/deals/not-of-hubspot", &deal("not-of-hubspot"))
        .await
        .ok(201);
    service.crash_and_restart();
    set_amount(&service, "1002", 3000).await;
    let requests = receiver
        .until("the two that moved", |requests| {
            let updates = updates(requests);

            // The crash may have come between a write and its being written down.
            updates["1001"].len() >= 2 && updates["1002"].len() == 2
        })
        .await;
    let updates = updates(&requests);
    assert_eq!(updates["1000"].len(), 1, "{:?}", updates["1000"]);
    assert_eq!(updates.len(), 250);
    // Small steps add up.
    set_amount(&service, "1000", 1040).await;
    set_amount(&service, "1000", 1080).await;
    receiver
        .until("the sum of small steps", |r| {
            self::updates(r)["1000"].len() == 2
        })
        .await;
    assert!(!service.log().contains(TOKEN));
}

#[tokio::test]
async fn a_crm_that_is_away_gets_the_last_score_when_it_is_back() {
    let receiver = hubspot();
    let text = settings(CrmKind::HubSpot, receiver.base(), true);
    let service = Service::with_settings(&text);
    service.put("/v1/deals/500", &deal("500")).await.ok(201);
    service.train().await;
    receiver
        .until("the deal", |r| updates(r).contains_key("500"))
        .await;
    receiver.answer(|_| Reply::json(403, &json!({ "message": "no scope" })));
    let before = receiver.received().len();
    for amount in [2000, 4000, 8000, 16000] {
        set_amount(&service, "500", amount).await;
    }
    receiver.count(before + 1).await;
    receiver.answer(|_| Reply::json(200, &json!({ "results": [] })));
    let score = service.get("/v1/deals/500").await.ok(200)["score"].clone();
    let value = score["expected_value"].as_f64().unwrap();
    receiver
        .until("the last score", |requests| {
            let updates = updates(requests);
            let last = updates["500"].last().unwrap()["dealrank_expected_value"].as_str();
            last.unwrap().parse::<f64>().unwrap() == value
        })
        .await;
    assert!(service.log().contains("no scope"));
}

/// The ids of the deals that Pipedrive was asked to write and wrote.
fn patched(requests: &[Received]) -> BTreeMap<String, usize> {
    let mut patched = BTreeMap::new();
    for request in requests.iter().filter(|r| r.method == "PATCH") {
        let id = request.path.rsplit('/').next().unwrap();
        *patched.entry(id.to_owned()).or_default() += 1;
    }
    patched
}

#[tokio::test]
async fn deals_that_could_not_be_written_while_all_are_gone_through_are_written_later() {
    for (status, header) in [(503, None), (429, Some(("retry-after", 40)))] {
        let reply = move || match header {
            Some((name, seconds)) => Reply::status(status).with(name, seconds),
            None => Reply::status(status),
        };
        let receiver = Receiver::with(move |_| reply());
        let text = settings(CrmKind::Pipedrive, receiver.base(), true)
            .replace("[crm.pipedrive]", "[crm.pipedrive]\ntries = 1")
            .replace("[outbound]", "[outbound]\nretry_after_seconds_max = 1");
        let mut service = Service::with_settings(&text);
        let deals: Vec<Value> = (1000..1060).map(|id| deal(&id.to_string())).collect();
        service.import_documents(&deals).await;
        service.train().await;
        receiver.count(1).await;
        service.until_log("scores are not written").await;
        receiver.answer(|_| Reply::json(200, &json!({ "success": true, "data": {} })));
        let before = receiver.received().len();
        // The client itself keeps away for as long as it was told to; a new one does not know.
        if header.is_some() {
            service.crash_and_restart();
        }
        receiver
            .until("all deals, in the end", |requests| {
                patched(&requests[before..]).len() == 60
            })
            .await;
    }
}

#[tokio::test]
async fn an_interface_that_salesforce_does_not_have_is_no_missing_deal() {
    let receiver = Receiver::with(|_| {
        let reason = "The requested resource does not exist";
        Reply::json(
            404,
            &json!([{ "errorCode": "NOT_FOUND", "message": reason }]),
        )
    });
    let updates = [update("006000000000001AAA", json!({ "Grade__c": "A" }))];
    let written = crm(CrmKind::Salesforce, &receiver).write(&updates).await;
    let is_told =
        |e: &CrmError| matches!(e, CrmError::Misconfigured(r) if r.contains("api_version"));
    assert!(written.as_ref().is_err_and(is_told), "{written:?}");
}

#[tokio::test]
async fn a_request_that_salesforce_refuses_as_a_whole_is_halved() {
    let receiver = Receiver::with(|request| {
        let records = request.json()["records"].as_array().unwrap().clone();
        if records
            .iter()
            .any(|record| record["id"] == "006000000000002AAA")
        {
            let error = json!([{ "errorCode": "JSON_PARSER_ERROR", "message": "no such id" }]);
            return Reply::json(400, &error);
        }
        let result = |record: &Value| json!({ "id": record["id"], "success": true, "errors": [] });
        Reply::json(200, &records.iter().map(result).collect())
    });
    let updates: Vec<_> = (1..5)
        .map(|n| update(&format!("00600000000000{n}AAA"), json!({ "Grade__c": "A" })))
        .collect();
    let written = crm(CrmKind::Salesforce, &receiver).write(&updates).await;
    let written = written.unwrap();
    assert!(
        matches!(&written[1], Err(CrmError::Refused(reason)) if reason.contains("no such id")),
        "{written:?}"
    );
    let others = [&written[0], &written[2], &written[3]];
    assert_eq!(others, [&Ok(()); 3]);
}

#[tokio::test]
async fn when_too_many_scores_wait_all_deals_are_gone_through_instead() {
    let receiver = hubspot();
    let text = settings(CrmKind::HubSpot, receiver.base(), true)
        .replace("[outbound]", "[outbound]\nqueue_max = 3");
    let service = Service::with_settings(&text);
    let deals: Vec<Value> = (500..510).map(|id| deal(&id.to_string())).collect();
    service.import_documents(&deals).await;
    service.train().await;
    receiver
        .until("all deals", |r| updates(r).len() == 10)
        .await;
    receiver.answer(|_| Reply::json(403, &json!({ "message": "no scope" })));
    for id in 500..510 {
        set_amount(&service, &id.to_string(), 5000).await;
    }
    service
        .until_log("all deals are gone through instead")
        .await;
    let store = service.store();
    let disabled = "SELECT count(*) FROM subscriptions WHERE disabled_at IS NOT NULL";
    assert_eq!(store.count(disabled).await, 0);
    receiver.answer(|_| Reply::json(200, &json!({ "results": [] })));
    let before = receiver.received().len();
    receiver
        .until("the last score of each", |requests| {
            updates(&requests[before..]).len() == 10
        })
        .await;
}
