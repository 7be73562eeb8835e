//! What is wrong is said precisely, harms nothing, and never is a 500.

use reqwest::Method;
use serde_json::{Value, json};

use crate::service::{Answer, Service, answer, deal};

/// Sends a body that is wrong to every place that takes JSON.
const JSON_PLACES: [(&str, &str); 6] = [
    ("POST", "/v1/scores"),
    ("POST", "/v1/scores/batch"),
    ("PUT", "/v1/deals/d-1"),
    ("PATCH", "/v1/deals/d-1"),
    ("POST", "/v1/deals/d-1/events"),
    ("POST", "/v1/models"),
];

async fn everywhere(
    service: &Service,
    content_type: &str,
    body: Vec<u8>,
    check: impl Fn(&str, Answer),
) {
    for (method, path) in JSON_PLACES {
        let request = service.request(method.parse::<Method>().unwrap(), path);
        let request = request
            .header("content-type", content_type)
            .body(body.clone());
        let answer = answer(request.send().await.unwrap()).await;
        check(path, answer);
    }
}

async fn with_a_stored_deal() -> Service {
    let service = Service::start();
    service.train().await;
    service.put("/v1/deals/d-1", &deal("d-1")).await.ok(201);
    service
}

#[tokio::test]
async fn json_that_cannot_be_read_is_a_400_with_line_and_column() {
    let service = with_a_stored_deal().await;
    let before = service.get("/v1/deals/d-1").await.ok(200);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep_in_a_deal = format!(
        r#"{{"id":"x","attributes":{}1{}}}"#,
        r#"{"a":"#.repeat(5000),
        "}".repeat(5000)
    );
    for (body, place) in [
        (&b"{\"id\": \"x\",\n \"stage\" }"[..], "line 2 column 10"),
        (b"{\"id\": nope}", "line 1 column 9"),
        (b"{\"id\": \"\xff\xfe\"}", "line 1 column"),
        (b"{} {}", "line 1 column 4"),
        (b"{\"id\": 1e999}", "line 1 column"),
        (deep.as_bytes(), "recursion limit"),
        (deep_in_a_deal.as_bytes(), "recursion limit"),
    ] {
        everywhere(
            &service,
            "application/json",
            body.to_vec(),
            |path, answer| {
                assert_eq!(answer.problem(400), "malformed", "{path}");
                assert!(answer.detail().contains(place), "{path}: {answer:?}");
            },
        )
        .await;
    }
    assert_eq!(
        service.get("/v1/deals/d-1").await.ok(200)["deal"],
        before["deal"]
    );
}

#[tokio::test]
async fn another_content_type_is_a_415_and_a_charset_of_utf_8_is_none() {
    let service = with_a_stored_deal().await;
    let body = deal("d-1").to_string().into_bytes();
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "nonsense",
        "application/json; charset=utf-16",
    ] {
        everywhere(&service, content_type, body.clone(), |path, answer| {
            assert_eq!(
                answer.problem(415),
                "unsupported_media_type",
                "{path} {content_type}"
            );
        })
        .await;
    }
    let kind = "application/json; charset=\"UTF-8\"";
    service.post_raw("/v1/scores", kind, body).await.ok(200);
}

#[tokio::test]
async fn a_content_encoding_that_cannot_be_undone_is_a_415() {
    let service = with_a_stored_deal().await;
    for path in ["/v1/scores", "/v1/scores/batch", "/v1/imports"] {
        let request = service.request(Method::POST, path);
        let request = request
            .header("content-type", "application/x-ndjson")
            .header("content-encoding", "br")
            .body("no matter");
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer.problem(415), "unsupported_media_type", "{path}");
        assert!(answer.detail().contains("gzip"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_to_train_is_an_object() {
    let service = Service::start();
    let answer = service.post("/v1/models", &json!([])).await;
    assert_eq!(answer.problem(422), "invalid");
    assert_eq!(answer.detail(), "expected an object");
}

#[tokio::test]
async fn a_body_of_10_mb_is_a_413_that_names_the_limit_and_an_empty_one_a_400() {
    let service = with_a_stored_deal().await;
    let body = vec![b' '; 10_000_000];
    everywhere(&service, "application/json", body, |path, answer| {
        assert_eq!(answer.problem(413), "too_large", "{path}");
        assert!(answer.detail().contains("body_bytes_max"), "{answer:?}");
    })
    .await;
    for (method, path) in &JSON_PLACES[..5] {
        let request = service.request(method.parse().unwrap(), path);
        let answer = answer(request.send().await.unwrap()).await;
        assert_eq!(answer.problem(400), "malformed", "{path}");
    }
}

#[tokio::test]
async fn each_field_that_cannot_be_meant_is_named() {
    let service = with_a_stored_deal().await;
    let with = |field: &str, value: Value| {
        let mut deal = deal("d-1");
        deal[field] = value;
        deal
    };
    for (document, field) in [
        (with("amount", json!(-1)), "amount"),
        (with("amount", json!(1e15)), "amount"),
        (with("amount", json!("a lot")), "amount"),
        (with("amount", json!([1])), "amount"),
        (with("currency", json!("EURO")), "currency"),
        (with("stage", json!(5)), "stage"),
        (with("created_at", json!("yesterday")), "created_at"),
        (
            with("created_at", json!("2190-01-01T00:00:00Z")),
            "created_at",
        ),
        (
            with("created_at", json!("2026-02-30T00:00:00Z")),
            "created_at",
        ),
        (with("attributes", json!([])), "attributes"),
        (with("attributes", json!({"a": {"b": 1}})), "attributes.a"),
        (
            with(
                "history",
                json!([{"at": "x", "field": "stage", "value": "a"}]),
            ),
            "history[0].at",
        ),
        (with("outcome", json!("maybe")), "outcome"),
        (with("colour", json!("blue")), "colour"),
        (with("id", json!("")), "id"),
    ] {
        for path in ["/v1/scores", "/v1/deals/d-1"] {
            let method = if path == "/v1/scores" {
                Method::POST
            } else {
                Method::PUT
            };
            let answer = service.send(method, path, &document).await;
            assert_eq!(answer.fields(), [field], "{path} {document}");
        }
    }
    for missing in ["stage", "created_at"] {
        let mut document = deal("d-1");
        document.as_object_mut().unwrap().remove(missing);
        assert_eq!(
            service.post("/v1/scores", &document).await.fields(),
            [missing]
        );
    }
    for body in [json!(null), json!([]), json!("deal"), json!(3), json!(true)] {
        assert_eq!(
            service.post("/v1/scores", &body).await.problem(422),
            "invalid",
            "{body}"
        );
    }
}

#[tokio::test]
async fn all_mistakes_of_a_batch_are_told_by_their_place() {
    let service = with_a_stored_deal().await;
    let mut deals = vec![deal("a"), deal("b"), deal("c"), deal("d")];
    deals[1]["amount"] = json!(-5);
    deals[3]["stage"] = json!(7);
    deals[3]["colour"] = json!("red");
    let answer = service
        .post("/v1/scores/batch", &json!({"deals": deals}))
        .await;
    let mut fields = answer.fields();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["deals[1].amount", "deals[3].colour", "deals[3].stage"]
    );
    for (body, field) in [
        (json!({"deals": {}}), "deals"),
        (json!({}), "deals"),
        (json!({"deals": [], "extra": 1}), "extra"),
        (json!([]), ""),
    ] {
        assert_eq!(
            service.post("/v1/scores/batch", &body).await.fields(),
            [field],
            "{body}"
        );
    }
}

#[tokio::test]
async fn events_that_cannot_be_meant_change_nothing() {
    let service = with_a_stored_deal().await;
    let before = service.get("/v1/deals/d-1").await.ok(200);
    let good = json!({"type": "activity", "kind": "call", "at": "2026-04-01T00:00:00Z"});
    for (body, field) in [
        (
            json!({"events": [good, {"type": "party", "at": "2026-04-01T00:00:00Z"}]}),
            "events[1].type",
        ),
        (
            json!([good, {"type": "change", "at": "2026-04-01T00:00:00Z", "field": "amount", "value": "much"}]),
            "events[1].value",
        ),
        (
            json!({"events": [{"type": "activity", "kind": "call", "at": "2199-01-01T00:00:00Z"}]}),
            "events[0].at",
        ),
        (
            json!({"type": "change", "at": "2026-04-01T00:00:00Z", "field": "outcome", "value": "won"}),
            "events[0].field",
        ),
        (
            json!({"type": "closed", "at": "2026-04-01T00:00:00Z", "outcome": "open"}),
            "events[0].outcome",
        ),
        (json!({"events": []}), "events"),
        (json!({"events": [good], "more": 1}), "more"),
        (
            json!([{"id": 5, "type": "activity", "kind": "call", "at": "2026-04-01T00:00:00Z"}]),
            "events[0].id",
        ),
    ] {
        assert_eq!(
            service.post("/v1/deals/d-1/events", &body).await.fields(),
            [field],
            "{body}"
        );
    }
    assert_eq!(
        service.get("/v1/deals/d-1").await.ok(200)["deal"],
        before["deal"]
    );
    let answer = service
        .post("/v1/deals/nobody/events", &json!([good]))
        .await;
    assert_eq!(answer.problem(404), "not_found");
}

#[tokio::test]
async fn query_parameters_that_cannot_be_meant_are_named() {
    let service = with_a_stored_deal().await;
    for (path, field) in [
        ("/v1/rankings?sort=luck", "sort"),
        ("/v1/rankings?limit=0", "limit"),
        ("/v1/rankings?limit=many", "limit"),
        ("/v1/rankings?limit=99999999999999999999", "limit"),
        ("/v1/rankings?grade=E", "grade"),
        ("/v1/rankings?min_amount=-1", "min_amount"),
        ("/v1/rankings?min_amount=NaN", "min_amount"),
        ("/v1/rankings?stalled=perhaps", "stalled"),
        ("/v1/rankings?owner=a&owner=b", "owner"),
        ("/v1/rankings?colour=red", "colour"),
        ("/v1/rankings?cursor=%00%ff", "cursor"),
        ("/v1/rankings?cursor=bm90IG91cnM", "cursor"),
        ("/v1/queues/Ada?owner=Ben", "owner"),
        ("/v1/deals/d-1/scores?limit=201", "limit"),
        ("/v1/deals/d-1/scores?before=x", "before"),
        ("/v1/jobs?limit=0", "limit"),
        ("/v1/models?x=1", "x"),
        ("/v1/models/active/export?format=pdf", "format"),
    ] {
        assert_eq!(service.get(path).await.fields(), [field], "{path}");
    }
    let answer = service.get("/v1/rankings?limit=-1").await;
    assert_eq!(answer.detail(), "limit: `-1` is not a whole number");
}

#[tokio::test]
async fn ids_of_all_kinds_are_found_or_refused() {
    let service = with_a_stored_deal().await;
    for id in ["a%2Fb", "%20x%20y", "%F0%9F%A6%80", "a%3Fb%23c", "100%25"] {
        let path = format!("/v1/deals/{id}");
        let mut document = deal("x");
        document.as_object_mut().unwrap().remove("id");
        service.put(&path, &document).await.ok(201);
        service.get(&path).await.ok(200);
    }
    let long = "x".repeat(201);
    for id in ["%00", "%0A", "%20", long.as_str()] {
        let answer = service.put(&format!("/v1/deals/{id}"), &deal("d-1")).await;
        assert_eq!(answer.fields(), ["id"], "{id}");
    }
    assert_eq!(service.get("/v1/deals/%FF").await.problem(400), "malformed");
    let answer = service.put("/v1/deals/d-2", &deal("d-1")).await;
    assert_eq!(answer.fields(), ["id"]);
}

#[tokio::test]
async fn what_is_not_there_is_a_404_and_a_method_that_is_not_there_a_405() {
    let service = Service::start();
    for path in [
        "/nothing",
        "/v1",
        "/v1/deals",
        "/docs/nothing.js",
        "/v1/deals/a/b/c",
        "//",
        "/v1/scores/",
    ] {
        assert_eq!(
            service.get(path).await.problem(404),
            "unknown_route",
            "{path}"
        );
    }
    for path in [
        "/v1/deals/x",
        "/v1/deals/x/scores",
        "/v1/jobs/x",
        "/v1/jobs/x/events",
        "/v1/models/x",
        "/v1/models/x/report",
        "/v1/models/x/export",
        "/v1/imports/x/rejects",
    ] {
        assert_eq!(service.get(path).await.problem(404), "not_found", "{path}");
    }
    let answer = service.post("/v1/models/x/activate", &json!({})).await;
    assert_eq!(answer.problem(404), "not_found");
    let answer = service.send(Method::PATCH, "/v1/deals/x", &json!({})).await;
    assert_eq!(answer.problem(404), "not_found");
    let answer = service
        .send(Method::DELETE, "/v1/deals/x", &json!({}))
        .await;
    assert_eq!(answer.problem(404), "not_found");
}

#[tokio::test]
async fn every_documented_operation_exists_and_other_methods_are_told_which_do() {
    let service = Service::start();
    let description = service.get("/openapi.json").await.ok(200);
    for (template, operations) in description["paths"].as_object().unwrap() {
        let path = template
            .replace("{id}", "x")
            .replace("{version}", "x")
            .replace("{owner}", "x");
        let mut documented: Vec<String> = operations
            .as_object()
            .unwrap()
            .keys()
            .map(|m| m.to_uppercase())
            .collect();
        documented.sort_unstable();
        let response = service.request(Method::TRACE, &path).send().await.unwrap();
        let allow = response.headers()["allow"].to_str().unwrap().to_owned();
        assert_eq!(answer(response).await.problem(405), "method_not_allowed");
        let mut allowed: Vec<&str> = allow.split(", ").filter(|m| *m != "HEAD").collect();
        allowed.sort_unstable();
        assert_eq!(allowed, documented, "{template}");
    }
}

#[tokio::test]
async fn without_a_model_deals_are_kept_and_scores_wait_for_one() {
    let service = Service::start();
    assert_eq!(
        service.post("/v1/scores", &deal("x")).await.problem(503),
        "no_model"
    );
    assert_eq!(service.get("/v1/rankings").await.problem(503), "no_model");
    let stored = service.put("/v1/deals/x", &deal("x")).await.ok(201);
    assert_eq!(stored["score"], Value::Null);
    let ready = service.get("/readyz").await.ok(200);
    assert_eq!(
        (&ready["status"], &ready["model"]["status"]),
        (&json!("degraded"), &json!("none"))
    );
}
