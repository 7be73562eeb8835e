//! Pages for people, as a browser without scripts gets them.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::service::{Service, history};
use crate::visit::{manager_key, rep_key};

/// HTML of a page, at most.
const PAGE_BYTES_MAX: usize = 200_000;

/// A service with a model, and a key that opens its pages.
struct Site {
    service: Service,
    key: String,
}

/// An answer of a site.
struct Page {
    status: StatusCode,
    content_type: String,
    policy: String,
    text: String,
}

const SETTINGS: &str = "[access]\napi_key_required = false\n";

impl Site {
    async fn open(settings: &str, deals: &[Value]) -> Self {
        let service = Service::with_settings(settings);
        let imported = service.import_documents(deals).await;
        assert_eq!(imported["state"], "done", "{imported}");
        let mapping = json!({"columns": {"actionable": ["source", "amount", "employees"]}});
        let asked = json!({ "mapping": mapping });
        let trained = service
            .finished(service.post("/v1/models", &asked).await)
            .await;
        assert_eq!(trained["state"], "done", "{trained}");
        let key = manager_key(&service);
        Self { service, key }
    }

    async fn of_history() -> Self {
        Self::open(SETTINGS, &lately(history(300))).await
    }

    async fn get(&self, path: &str) -> Page {
        self.get_with(&self.key, path).await
    }

    async fn get_with(&self, key: &str, path: &str) -> Page {
        let request = self.service.request(Method::GET, path).bearer_auth(key);
        let request = request.header("accept", "text/html");
        let response = request.send().await.unwrap();
        let header = |name: &str| {
            let value = response.headers().get(name);
            value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
        };
        Page {
            status: response.status(),
            content_type: header("content-type"),
            policy: header("content-security-policy"),
            text: response.text().await.unwrap(),
        }
    }

    async fn api(&self, path: &str) -> Value {
        self.service.get(path).await.ok(200)
    }
}

impl Page {
    /// A good page: HTML, small, with nothing inline that its own policy would refuse.
    #[track_caller]
    fn good(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.text);
        self.sound()
    }

    #[track_caller]
    fn sound(self) -> Self {
        assert_eq!(self.content_type, "text/html; charset=utf-8");
        assert!(
            self.policy.starts_with("default-src 'none'"),
            "{}",
            self.policy
        );
        assert!(!self.policy.contains("unsafe"), "{}", self.policy);
        assert!(self.text.len() < PAGE_BYTES_MAX, "{}", self.text.len());
        for inline in ["<style", "style=\"", "onclick", "javascript:", "<script>"] {
            assert!(!self.text.contains(inline), "{inline}");
        }
        self.defined()
    }

    /// Every term that is named is defined, once.
    #[track_caller]
    fn defined(self) -> Self {
        for part in self.text.split("popovertarget=\"").skip(1) {
            let id = part.split('"').next().unwrap();
            let definition = format!("class=\"definition\" id=\"{id}\"");
            assert_eq!(self.text.matches(&definition).count(), 1, "{id}");
        }
        self
    }

    /// The figure in the element with an id: the first `value` in it.
    #[track_caller]
    fn figure(&self, id: &str) -> f64 {
        let element = self.element(id);
        let value = element.split("value=\"").nth(1);
        let value = value.unwrap_or_else(|| panic!("no figure in {id}: {element}"));
        value.split('"').next().unwrap().parse().unwrap()
    }

    /// What stands in the element with an id, up to its row's end.
    #[track_caller]
    fn element(&self, id: &str) -> &str {
        let (_, rest) = self.text.split_once(&format!("id=\"{id}\"")).expect(id);
        &rest[..rest.len().min(400)]
    }
}

fn assert_near(left: f64, right: &Value) {
    let right = right.as_f64().unwrap();
    let is_near = (left - right).abs() <= 1e-9 * right.abs().max(1.0);
    assert!(is_near, "{left} and {right}");
}

/// The same deals, the last of which closed yesterday: figures of the last months are to have some.
fn lately(mut deals: Vec<Value>) -> Vec<Value> {
    let at = |value: &Value| -> Option<Timestamp> { value.as_str()?.parse().ok() };
    let last = deals
        .iter()
        .filter_map(|deal| at(&deal["closed_at"]))
        .max()
        .unwrap();
    let shift = Timestamp::now().duration_since(last) - SignedDuration::from_hours(24);
    for deal in &mut deals {
        for field in ["created_at", "closed_at"] {
            if let Some(at) = at(&deal[field]) {
                deal[field] = json!((at + shift).to_string());
            }
        }
    }
    deals
}

#[tokio::test]
async fn every_page_is_sound_and_leads_on() {
    let site = Site::of_history().await;
    let home = site.get("/").await.good();
    assert!(home.text.contains("href=\"/queue/Ada\""), "{}", home.text);
    let queue = site.get("/queue/Ada").await.good();
    let (_, row) = queue.text.split_once("href=\"/deals/").unwrap();
    let id = row.split('"').next().unwrap();
    let deal = site.get(&format!("/deals/{id}")).await.good();
    assert!(deal.text.contains("href=\"/queue/Ada\""));
    site.get("/board").await.good();
    let from_2020 = "/board?from=2020-01-01&to=2026-12-31&owner=Ada";
    assert!(site.get(from_2020).await.good().text.contains("Ada"));
    // What pages load is there, and may be kept for ever.
    for part in home.text.split("/assets/").skip(1) {
        let name = part.split('"').next().unwrap();
        let path = format!("/assets/{name}");
        let response = site.service.request(Method::GET, &path).send().await;
        let response = response.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        let kept = response.headers()["cache-control"].to_str().unwrap();
        assert!(kept.contains("immutable"), "{kept}");
    }
}

#[tokio::test]
async fn a_browser_gets_pages_for_what_is_not_there_and_programs_get_problems() {
    let site = Site::of_history().await;
    for (path, code) in [
        ("/nothing-here", "unknown_route"),
        ("/deals/nobody", "not_found"),
        ("/assets/none.css", "unknown_route"),
    ] {
        let page = site.get(path).await.sound();
        assert_eq!(page.status, 404, "{path}");
        assert!(page.text.contains(code), "{path}: {}", page.text);
        assert!(page.text.contains("href=\"/\""), "{path}");
    }
    let wrong = site.get("/queue/Ada?sort=colour").await.sound();
    assert_eq!(wrong.status, 422);
    assert!(wrong.text.contains("sort"), "{}", wrong.text);
    assert_eq!(
        site.service.get("/v1/nothing").await.problem(404),
        "unknown_route"
    );
    // What a mail program adds to an address does no harm.
    site.get("/queue/Ada?utm_source=mail").await.good();
}

#[tokio::test]
async fn the_figures_of_a_queue_and_of_its_deals_are_those_of_the_api() {
    let site = Site::of_history().await;
    let ranking = site.api("/v1/queues/Ada?limit=50").await;
    let rows = ranking["rows"].as_array().unwrap();
    assert!(rows.len() > 10, "{}", rows.len());
    let queue = site.get("/queue/Ada").await.good();
    let mut rest = queue.text.split_once("<tbody>").unwrap().1;
    for row in rows {
        let link = format!("href=\"/deals/{}\"", row["deal"]["id"].as_str().unwrap());
        // In the same order.
        rest = rest.split_once(&link).unwrap_or_else(|| panic!("{link}")).1;
        let score = &row["score"];
        let shown = &rest[..rest.find("</tr>").unwrap()];
        let grade = format!(">{}</span>", score["grade"].as_str().unwrap());
        let probability = format!("value=\"{}\"", score["win_probability"]);
        let value = score["expected_value"].as_f64().unwrap().round();
        let value = format!("value=\"{value}\" data-currency=\"EUR\"");
        for figure in [grade, probability, value] {
            assert!(shown.contains(&figure), "{figure} in {shown}");
        }
    }
    let id = rows[0]["deal"]["id"].as_str().unwrap();
    let score = &site.api(&format!("/v1/deals/{id}")).await["score"];
    let deal = site.get(&format!("/deals/{id}")).await.good();
    assert_near(deal.figure("win-probability"), &score["win_probability"]);
    assert_near(deal.figure("expected-value"), &score["expected_value"]);
    let by_probability = site.get("/queue/Ada?sort=win_probability").await.good();
    let (sorted, _) = by_probability
        .text
        .split_once("id=\"sort-win_probability\"")
        .unwrap();
    assert!(sorted[sorted.len() - 200..].contains("aria-sort=\"descending\""));
    let best = site
        .api("/v1/queues/Ada?sort=win_probability&limit=1")
        .await;
    let best = best["rows"][0]["deal"]["id"].as_str().unwrap();
    let body = by_probability.text.split_once("<tbody>").unwrap().1;
    assert!(body.split_once("/deals/").unwrap().1.starts_with(best));
}

#[tokio::test]
async fn the_figures_of_the_board_are_those_of_the_api() {
    let site = Site::of_history().await;
    let period = "from=2025-01-01&to=2026-12-31";
    let board = site.get(&format!("/board?{period}")).await.good();
    let summary = site.api(&format!("/v1/pipeline/summary?{period}")).await;
    assert_near(board.figure("open-value"), &summary["open"]["value"]);
    assert_near(
        board.figure("open-expected-value"),
        &summary["open"]["expected_value"]["value"],
    );
    assert_near(
        board.figure("win-rate"),
        &summary["closed"]["win_rate"]["value"],
    );
    let stalled = site.api("/v1/insights/stalled").await;
    let all = format!("CSV of all {}", stalled["count"]);
    assert!(stalled["count"].as_u64().unwrap() > 0, "{stalled}");
    assert!(board.text.contains(&all), "{all}");
    let found = site.api("/v1/insights/misprioritized").await;
    let value = format!(
        "<data class=\"money\" value=\"{}\"",
        found["neglected_value"]
    );
    assert!(board.text.contains(&value), "{value}");
    let ada = site.get(&format!("/board?{period}&owner=Ada")).await.good();
    let summary = site
        .api(&format!("/v1/pipeline/summary?{period}&owner=Ada"))
        .await;
    assert_near(ada.figure("open-value"), &summary["open"]["value"]);
}

#[tokio::test]
async fn forecast_coverage_and_reps_on_the_board_are_those_of_the_api() {
    let site = Site::of_history().await;
    let board = site.get("/board?target=50000").await.good();
    let forecast = site.api("/v1/pipeline/forecast?target=50000").await;
    let p50 = forecast["total"]["p50"].as_f64().unwrap();
    let shown = board.figure("forecast-p50");
    // Between the two questions a moment passes.
    assert!((shown - p50).abs() <= 0.02 * p50, "{shown} and {p50}");
    assert!(board.text.contains("id=\"forecast-chart\""));
    let coverage = site.api("/v1/pipeline/coverage?target=50000").await;
    let needed = &coverage["prospects"];
    for (id, key) in [
        ("needed-mean", "mean"),
        ("needed-confidence", "at_confidence"),
    ] {
        let cell = format!("id=\"{id}\">{}</td>", needed[key]);
        assert!(board.text.contains(&cell), "{cell}");
    }
    let formula = needed["formula_mean"].as_str().unwrap();
    assert!(board.text.contains(formula.split(' ').next().unwrap()));
    let reps = site.api("/v1/insights/reps").await;
    let names: Vec<&str> = (reps["reps"].as_array().unwrap().iter())
        .map(|rep| rep["owner"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Ada", "Ben"]);
    let ada = site.get("/board?owner=Ada").await.good();
    let (_, table) = ada.text.split_once("id=\"rep-stages\"").unwrap();
    assert!(table.contains("Ada, stage by stage"));
    // Another target is another answer, though the first one is kept for a moment.
    let more = site.get("/board?target=5000000").await.good();
    assert!(more.text.contains(">not enough</span>"), "{}", more.text);
}

#[tokio::test]
async fn a_what_if_on_a_page_is_that_of_the_api() {
    let site = Site::of_history().await;
    let ranking = site.api("/v1/queues/Ada?limit=1").await;
    let id = ranking["rows"][0]["deal"]["id"].as_str().unwrap();
    let plain = site.get(&format!("/deals/{id}")).await.good();
    for field in ["if.source", "if.amount", "if.employees"] {
        assert!(plain.text.contains(&format!("name=\"{field}\"")), "{field}");
    }
    assert!(!plain.text.contains("what-if-answer"));
    let mut outcomes = Vec::new();
    for source in ["web", "fair", "partner"] {
        let asked = json!({"changes": {"source": source, "amount": 1500}});
        let path = format!("/v1/deals/{id}/what-if");
        let answer = site.service.post(&path, &asked).await.ok(200);
        let page = format!("/deals/{id}?if.source={source}&if.amount=1500");
        let page = site.get(&page).await.good();
        let shown = page.figure("what-if-probability");
        let score = &answer["what_if"]["score"]["win_probability"];
        // Between the two questions a moment passes.
        assert!(
            (shown - score.as_f64().unwrap()).abs() < 1e-3,
            "{shown} {score}"
        );
        assert!(page.text.contains("not a cause"));
        outcomes.push(shown);
    }
    assert!(outcomes[2] > outcomes[0] + 0.05, "{outcomes:?}");
    let wrong = site
        .get(&format!("/deals/{id}?if.amount=much"))
        .await
        .good();
    assert!(wrong.text.contains("role=\"alert\""), "{}", wrong.text);
    // What the form sends without a change asks nothing.
    let same = ranking["rows"][0]["deal"]["amount"].as_f64().unwrap();
    let same = site
        .get(&format!("/deals/{id}?if.amount={same}"))
        .await
        .good();
    assert!(!same.text.contains("what-if-answer"));
}

#[tokio::test]
async fn what_strangers_typed_into_forms_stays_text() {
    let hostile = "<script>alert(1)</script>\"'&";
    let mut deals = history(300);
    let open = deals.last_mut().unwrap();
    open["name"] = json!(hostile);
    open["owner"] = json!(hostile);
    open["stage"] = json!("<img src=x onerror=alert(1)>");
    open["amount"] = json!(99_999);
    open["attributes"]["<b>"] = json!("=HYPERLINK(\"http://x\")");
    open["attributes"]["company"] = json!("=1+1");
    let id = open["id"].as_str().unwrap().to_owned();
    let site = Site::open(SETTINGS, &deals).await;
    let owner = "%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27%26";
    for path in [
        "/".to_owned(),
        "/board".to_owned(),
        format!("/deals/{id}"),
        format!("/queue/{owner}"),
        format!("/board?owner={owner}"),
        format!("/queue/{owner}?stage={owner}"),
    ] {
        let page = site.get(&path).await.good();
        for markup in ["<script>alert", "<img src=x", "<b>"] {
            assert!(!page.text.contains(markup), "{path}: {markup}");
        }
    }
    let queue = site.get(&format!("/queue/{owner}?format=csv")).await;
    assert_eq!(queue.content_type, "text/csv; charset=utf-8");
    assert!(queue.text.contains(",'=1+1,"), "{}", queue.text);
}

#[tokio::test]
async fn every_table_is_a_file_too() {
    let site = Site::of_history().await;
    let queue = site.get("/queue/Ada?format=csv").await;
    assert_eq!(queue.status, 200);
    let ranking = site.api("/v1/queues/Ada?limit=200").await;
    let rows = ranking["rows"].as_array().unwrap().len();
    assert_eq!(queue.text.lines().count(), rows + 1, "{}", queue.text);
    let id = ranking["rows"][0]["deal"]["id"].as_str().unwrap();
    for table in ["reasons", "scores", "past"] {
        let file = site
            .get(&format!("/deals/{id}?format=csv&table={table}"))
            .await;
        assert_eq!(file.content_type, "text/csv; charset=utf-8", "{table}");
        assert!(file.text.lines().count() > 1, "{table}: {}", file.text);
    }
    let board = site.get("/board").await.good();
    let tables: Vec<&str> = (board.text.split("table=").skip(1))
        .map(|part| part.split('"').next().unwrap())
        .collect();
    assert!(tables.len() >= 8, "{tables:?}");
    for table in tables {
        let file = site.get(&format!("/board?format=csv&table={table}")).await;
        assert_eq!(file.content_type, "text/csv; charset=utf-8", "{table}");
        assert!(file.text.contains(','), "{table}: {}", file.text);
    }
    let unknown = site.get("/board?format=csv&table=none").await;
    assert_eq!(unknown.status, 422);
}

#[tokio::test]
async fn a_rep_sees_their_own_queue_and_deals_alone() {
    let site = Site::of_history().await;
    let key = rep_key(&site.service, "Ada");
    let mine = site.api("/v1/queues/Ada?limit=1").await;
    let mine = mine["rows"][0]["deal"]["id"].as_str().unwrap();
    let other = site.api("/v1/queues/Ben?limit=1").await;
    let other = other["rows"][0]["deal"]["id"].as_str().unwrap();
    for path in ["/queue/Ada".to_owned(), format!("/deals/{mine}")] {
        let page = site.get_with(&key, &path).await.good();
        assert!(!page.text.contains("href=\"/board\""), "{path}");
    }
    for (path, status) in [
        ("/queue/Ben".to_owned(), 403),
        ("/board".to_owned(), 403),
        // Whether a deal of somebody else is there is not told.
        (format!("/deals/{other}"), 404),
        (format!("/deals/{other}?format=csv&table=past"), 404),
        ("/deals/there-is-none".to_owned(), 404),
    ] {
        let page = site.get_with(&key, &path).await.sound();
        assert_eq!(page.status, status, "{path}");
    }
    // The way in leads to what is theirs.
    let home = site.get_with(&key, "/").await.good();
    assert!(home.text.contains("<h1>Ada</h1>"), "{}", home.text);
}

#[tokio::test]
async fn with_nothing_in_it_a_page_says_how_to_begin() {
    let service = Service::with_settings(SETTINGS);
    let key = manager_key(&service);
    let site = Site { service, key };
    let home = site.get("/").await.good();
    assert!(home.text.contains("Begin here"), "{}", home.text);
    let board = site.get("/board").await.good();
    assert!(board.text.contains("no model is active") || board.text.contains("No model is active"));
    let queue = site.get("/queue/Ada").await.sound();
    assert_eq!(queue.status, 503);
    assert!(queue.text.contains("train on them"), "{}", queue.text);
}

/// With 100,000 open deals; takes minutes, and says something of a release build alone.
#[tokio::test]
#[ignore = "takes minutes; run it on a release build"]
async fn pages_of_a_large_book_are_quick_and_small() {
    let mut deals = history(300);
    for number in 0..100_000 {
        let owner = format!("Rep {:02}", number % 50);
        let source = ["web", "fair", "partner"][number % 3];
        let stage = ["lead", "demo", "proposal"][number % 3];
        deals.push(json!({
            "id": format!("open-{number:06}"), "name": format!("Deal number {number}"),
            "stage": stage, "owner": owner, "pipeline": "new",
            "created_at": format!("2026-0{}-01T00:00:00Z", 1 + number % 9),
            "amount": 500 + number % 9000, "currency": "EUR",
            "attributes": {"source": source, "employees": number % 50},
        }));
    }
    let site = Site::open(SETTINGS, &deals).await;
    let ranking = site.api("/v1/rankings?limit=1").await;
    let id = ranking["rows"][0]["deal"]["id"].as_str().unwrap();
    for path in ["/", "/board", "/queue/Rep%2007", &format!("/deals/{id}")] {
        let first = site.get(path).await.good();
        let started = Instant::now();
        for _ in 0..5 {
            site.get(path).await.good();
        }
        let each = started.elapsed() / 5;
        println!("{path}: {} bytes, {each:?}", first.text.len());
        assert!(each.as_millis() < 100, "{path}: {each:?}");
    }
}
