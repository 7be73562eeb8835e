//! Keys, links, sessions: who gets in, and who is kept out.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::header::SET_COOKIE;
use serde_json::{Value, json};

use crate::service::{Answer, Service, answer, binary_in, deal};
use crate::visit::{Visit, keys, keys_ok, location, manager_key, rep_key};

const WITH_KEYS: &str = "[access]\napi_key_required = true\nwrong_keys_per_minute_max = 8\n";
const DEADLINE: Duration = Duration::from_secs(30);

fn api_key(service: &Service) -> String {
    keys_ok(service, &["create", "--role", "api", "--name", "crm"])
}

async fn with_key(service: &Service, method: Method, path: &str, key: &str) -> Answer {
    let request = service.request(method, path).bearer_auth(key);
    answer(request.send().await.unwrap()).await
}

#[tokio::test]
async fn programs_need_a_key_where_the_settings_say_so() {
    let service = Service::with_settings(WITH_KEYS);
    assert_eq!(
        service.get("/v1/jobs").await.problem(401),
        "unauthenticated"
    );
    assert_eq!(
        service.post("/v1/models", &json!({})).await.problem(401),
        "unauthenticated"
    );
    for open in ["/healthz", "/metrics", "/openapi.json"] {
        assert_eq!(service.get(open).await.status, 200, "{open}");
    }
    // Webhooks know their senders by other means.
    let webhook = service.post("/v1/webhooks/hubspot", &json!([])).await;
    assert_eq!(webhook.problem(404), "webhook_off");

    let key = api_key(&service);
    let jobs = with_key(&service, Method::GET, "/v1/jobs", &key).await;
    assert_eq!(jobs.ok(200)["jobs"], json!([]));
    let other = if &key[4..5] == "A" { "B" } else { "A" };
    let wrong = format!("drk_{other}{}", &key[5..]);
    let wrong = with_key(&service, Method::GET, "/v1/jobs", &wrong).await;
    assert_eq!(wrong.problem(401), "unauthenticated");
    let described = service.get("/openapi.json").await.ok(200);
    assert_eq!(
        described["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    // The pages are for people.
    let page = with_key(&service, Method::GET, "/", &key).await;
    assert_eq!(page.status, 403);
}

#[tokio::test]
async fn a_revoked_key_is_refused_and_its_name_is_free() {
    let service = Service::with_settings(WITH_KEYS);
    let key = api_key(&service);
    let get = async || with_key(&service, Method::GET, "/v1/jobs", &key).await;
    get().await.ok(200);
    assert_eq!(keys_ok(&service, &["revoke", "crm"]), "revoked crm");
    let deadline = Instant::now() + DEADLINE;
    while get().await.status == 200 {
        assert!(Instant::now() < deadline, "the key is still taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get().await.problem(401), "unauthenticated");
    let listed = keys_ok(&service, &["list", "--json"]);
    assert_eq!(listed, "[]");
    assert_ne!(api_key(&service), key);
}

#[tokio::test]
async fn without_settings_only_this_machine_needs_no_key() {
    let service = Service::start();
    let get = async |host: &str| {
        let request = service.request(Method::GET, "/v1/jobs");
        let request = request.header("host", host).send();
        answer(request.await.unwrap()).await.status
    };
    for own in ["127.0.0.1:9", "localhost", "[::1]:80"] {
        assert_eq!(get(own).await, 200, "{own}");
    }
    // What comes through a proxy, or from a page whose name leads to this machine.
    for other in ["scores.example.com", "localhost.example.com"] {
        assert_eq!(get(other).await, 401, "{other}");
    }
}

#[tokio::test]
async fn other_sites_cannot_have_a_browser_write() {
    let service = Service::start();
    let post = async |header: &str, value: &str| {
        let request = service.request(Method::POST, "/v1/imports");
        let request = request.header(header, value);
        let request = request.header("content-type", "text/plain");
        let response = request.body("id,outcome\n1,won\n").send().await.unwrap();
        answer(response).await
    };
    for (header, value) in [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("origin", "https://example.com"),
        ("origin", "null"),
    ] {
        assert_eq!(
            post(header, value).await.problem(403),
            "forbidden",
            "{value}"
        );
    }
    post("sec-fetch-site", "same-origin").await.ok(202);
    post("origin", service.base()).await.ok(202);
}

#[tokio::test]
async fn a_rep_is_kept_to_own_queue_and_deals() {
    let service = Service::start();
    service.train().await;
    for (id, owner) in [("mine", "Ada L/x"), ("other", "Ben")] {
        let mut deal = deal(id);
        deal["owner"] = json!(owner);
        service.put(&format!("/v1/deals/{id}"), &deal).await.ok(201);
    }
    service
        .put("/v1/deals/nobodys", &deal("nobodys"))
        .await
        .ok(201);
    let key = rep_key(&service, "Ada L/x");
    let ask =
        async |method: &Method, path: &str| with_key(&service, method.clone(), path, &key).await;
    let get = &Method::GET;

    let queue = ask(get, "/v1/queues/Ada%20L%2Fx").await.ok(200);
    assert_eq!(queue["rows"][0]["deal"]["id"], "mine");
    let own = ask(get, "/v1/rankings?owner=Ada%20L%2Fx").await.ok(200);
    assert_eq!(own["rows"].as_array().unwrap().len(), 1);
    assert_eq!(
        ask(get, "/v1/deals/mine").await.ok(200)["deal"]["id"],
        "mine"
    );
    ask(get, "/v1/deals/mine/scores").await.ok(200);
    for (path, status) in [
        ("/v1/queues/Ben", 403),
        ("/v1/queues/Ada%20l%2Fx", 403),
        ("/v1/rankings", 403),
        ("/v1/rankings?owner=Ben", 403),
        ("/v1/rankings?owner=Ada%20L%2Fx&owner=Ben", 403),
        ("/v1/deals/other", 404),
        ("/v1/deals/nobodys", 404),
        ("/v1/deals/not-there", 404),
        ("/v1/deals/other/scores", 404),
        ("/v1/deals/%6Fther", 404),
        ("/v1/models", 403),
        ("/v1/jobs", 403),
        ("/v1/subscriptions", 403),
        ("/board", 403),
        ("/models", 403),
    ] {
        let answer = ask(get, path).await;
        // A page that is not there yet is not there for anybody.
        let is_page = !path.starts_with("/v1");
        assert!(
            answer.status == status || is_page && answer.status == 404,
            "{path}: {answer:?}"
        );
    }
    for (method, path) in [
        (Method::DELETE, "/v1/deals/mine"),
        (Method::PATCH, "/v1/deals/mine"),
        (Method::PUT, "/v1/deals/new"),
        (Method::POST, "/v1/deals/mine/events"),
        (Method::POST, "/v1/imports"),
        (Method::POST, "/v1/models"),
    ] {
        assert_eq!(
            ask(&method, path).await.problem(403),
            "forbidden",
            "{method} {path}"
        );
    }
    // The ids of others tell nothing.
    let other = ask(get, "/v1/deals/other").await;
    let nowhere = ask(get, "/v1/deals/elsewhere").await;
    assert_eq!(
        other.detail().replace("other", "elsewhere"),
        nowhere.detail()
    );
}

#[tokio::test]
async fn guessing_is_stopped_and_who_was_known_goes_on() {
    let service = Service::with_settings(
        "[access]\napi_key_required = true\nwrong_keys_per_minute_max = 3\n",
    );
    let key = api_key(&service);
    let get = async |key: &str| with_key(&service, Method::GET, "/v1/jobs", key).await;
    get(&key).await.ok(200);
    for _ in 0..3 {
        assert_eq!(get("drk_guess").await.status, 401);
    }
    let stopped = get("drk_guess").await;
    assert_eq!(stopped.problem(429), "too_many_attempts");
    // Still within the seconds for which a key is believed.
    get(&key).await.ok(200);
}

#[tokio::test]
async fn keys_are_made_with_what_belongs_to_their_role() {
    let service = Service::start();
    for (args, code) in [
        (&["create", "--role", "rep", "--name", "x"][..], 2),
        (&["create", "--role", "king", "--name", "x"], 2),
        (
            &["create", "--role", "api", "--name", "x", "--owner", "y"],
            2,
        ),
        (&["create", "--role", "api", "--name", " "], 2),
        (&["revoke", "x"], 2),
        (&["link", "x"], 2),
    ] {
        assert_eq!(keys(&service, args).status.code(), Some(code), "{args:?}");
    }
    let key = api_key(&service);
    assert!(key.starts_with("drk_") && !key.contains('\n'));
    let again = keys(&service, &["create", "--role", "manager", "--name", "crm"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8(again.stderr).unwrap().contains("`crm`"));
    assert_eq!(keys(&service, &["link", "crm"]).status.code(), Some(1));
    let listed: Value = serde_json::from_str(&keys_ok(&service, &["list", "--json"])).unwrap();
    assert_eq!(listed[0]["role"], "api");
    assert_eq!(listed[0]["last_used_at"], Value::Null);
}

#[tokio::test]
async fn embedded_no_secret_is_in_the_store() {
    let service = Service::start();
    let key = manager_key(&service);
    let link = keys_ok(&service, &["link", "Mia"]);
    let (_, link) = link.split_once("link=").unwrap();
    for file in ["dealrank.sqlite", "dealrank.sqlite-wal"] {
        let content = std::fs::read(service.data_dir().join(file)).unwrap();
        for secret in [&key, link] {
            let secret = &secret.as_bytes()[4..];
            assert!(
                !content.windows(secret.len()).any(|w| w == secret),
                "{file}"
            );
        }
    }
}

#[tokio::test]
async fn pages_are_for_those_who_have_signed_in() {
    let service = Service::start();
    let key = manager_key(&service);
    let mut visit = Visit::to(&service);
    let turned = visit.get("/?a=b%20c").await;
    assert_eq!(location(&turned), "/sign-in?next=%2F%3Fa%3Db%2520c");
    assert_eq!(visit.get("/sign-in").await.status(), 200);
    assert_eq!(location(&visit.post("/sign-out", &[]).await), "/sign-in");

    let signed_in = visit
        .post("/sign-in", &[("key", &key), ("next", "/?x")])
        .await;
    assert_eq!(location(&signed_in), "/?x");
    let cookie = signed_in.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    for flag in ["HttpOnly", "SameSite=Lax", "Path=/", "Max-Age=1209600"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    assert!(!cookie.contains("Secure") && !cookie.contains(&key[4..]));
    let page = visit.get("/").await;
    assert_eq!(page.status(), 200);
    assert!(page.text().await.unwrap().contains("Mia"));

    // A form that was not on our page ends no session.
    let foreign = visit.post("/sign-out", &[("csrf", "x")]).await;
    assert_eq!(foreign.status(), 403);
    assert_eq!(visit.post("/sign-out", &[]).await.status(), 403);
    assert_eq!(visit.get("/").await.status(), 200);
    let csrf = visit.csrf("/").await;
    let session = visit.cookie.clone();
    let signed_out = visit.post("/sign-out", &[("csrf", &csrf)]).await;
    assert_eq!(location(&signed_out), "/sign-in");
    // The cookie is worth nothing, also to whoever kept it.
    visit.cookie = session;
    assert_eq!(location(&visit.get("/").await), "/sign-in?next=%2F");
}

#[tokio::test]
async fn over_https_the_cookie_stays_there_and_nobody_is_led_elsewhere() {
    let service = Service::start();
    let key = manager_key(&service);
    let visit = Visit::to(&service);
    let request = visit.client.post(format!("{}/sign-in", service.base()));
    let request = request.header("x-forwarded-proto", "https");
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let response = request.body(format!("key={key}&next=//example.com/"));
    let response = response.send().await.unwrap();
    assert_eq!(location(&response), "/");
    let cookie = response.headers()[SET_COOKIE].to_str().unwrap();
    assert!(cookie.contains("Secure"), "{cookie}");
}

#[tokio::test]
async fn a_link_signs_in_once_and_looking_at_it_does_not_use_it_up() {
    let service = Service::start();
    rep_key(&service, "Ada L");
    let link = keys_ok(
        &service,
        &["link", "Ada L", "--base-url", "https://x.example/scores/"],
    );
    let (base, link) = link.split_once("?link=").unwrap();
    assert_eq!(base, "https://x.example/scores/sign-in");
    let mut visit = Visit::to(&service);
    for _ in 0..2 {
        let page = visit.get(&format!("/sign-in?link={link}")).await;
        assert!(page.text().await.unwrap().contains("Sign in as Ada L"));
    }
    let signed_in = visit.post("/sign-in", &[("link", link)]).await;
    assert_eq!(location(&signed_in), "/queue/Ada%20L");
    assert_eq!(location(&visit.get("/").await), "/queue/Ada%20L");
    assert_eq!(visit.get("/v1/models").await.status(), 403);
    let mut other = Visit::to(&service);
    let again = other.post("/sign-in", &[("link", link)]).await;
    assert_eq!(again.status(), 403);
    assert!(again.text().await.unwrap().contains("has been used"));

    // With the key goes the session, at once; and the name of whoever had it tells nobody anything.
    keys_ok(&service, &["revoke", "Ada L"]);
    assert_eq!(location(&visit.get("/").await), "/sign-in?next=%2F");
}

#[tokio::test]
async fn links_and_sessions_run_out() {
    let service = Service::start();
    manager_key(&service);
    let link = || {
        let link = keys_ok(&service, &["link", "Mia"]);
        link.split_once("?link=").unwrap().1.to_owned()
    };
    let mut visit = Visit::to(&service);
    let (old, fresh) = (link(), link());
    service
        .store()
        .execute("UPDATE access_links SET expires_at = 0")
        .await;
    assert_eq!(
        visit.get(&format!("/sign-in?link={old}")).await.status(),
        403
    );
    assert_eq!(
        visit.post("/sign-in", &[("link", &old)]).await.status(),
        403
    );
    assert_eq!(
        visit.post("/sign-in", &[("link", &fresh)]).await.status(),
        403
    );
    let signed_in = visit.post("/sign-in", &[("link", &link())]).await;
    assert_eq!(location(&signed_in), "/");
    assert_eq!(visit.get("/").await.status(), 200);
    service
        .store()
        .execute("UPDATE access_sessions SET expires_at = 0")
        .await;
    assert_eq!(location(&visit.get("/").await), "/sign-in?next=%2F");
}

#[tokio::test]
async fn wrong_keys_are_told_so_in_words() {
    let service = Service::with_settings("[access]\nwrong_keys_per_minute_max = 3\n");
    let key = api_key(&service);
    let mut visit = Visit::to(&service);
    for (key, said) in [
        (&*key, "for programs"),
        ("drk_AAAA", "no such key"),
        ("", "no such key"),
        ("ä", "no such key"),
    ] {
        let page = visit.post("/sign-in", &[("key", key)]).await;
        assert_eq!(page.status(), 403);
        assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
        let page = page.text().await.unwrap();
        assert!(page.contains(said), "{page}");
        assert_eq!(visit.cookie, None);
    }
    let stopped = visit.post("/sign-in", &[("key", "drk_AAAA")]).await;
    assert_eq!(stopped.status(), 429);
}

#[tokio::test]
async fn a_page_of_others_says_so_in_words() {
    let service = Service::start();
    let key = rep_key(&service, "Ada");
    let mut visit = Visit::to(&service);
    visit.post("/sign-in", &[("key", &key)]).await;
    let deal = visit.get("/sign-out").await;
    assert_eq!(deal.status(), 405);
    for path in ["/queue/Ben", "/board", "/models", "/imports"] {
        let page = visit.get(path).await;
        // Until the page is there.
        if page.status() != 404 {
            assert_eq!(page.status(), 403, "{path}");
            assert!(
                page.text().await.unwrap().contains("deals of Ada"),
                "{path}"
            );
        }
    }
}

#[test]
fn the_service_says_how_to_sign_in() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = binary_in(folder.path());
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).next().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        said.contains("dealrank keys create --role manager"),
        "{said}"
    );
}
