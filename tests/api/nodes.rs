//! Several `dealrank serve` on one PostgreSQL and one Redis: what one of them writes all of them know,
//! and whichever dies, no answer is wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dealrank::error::Error;
use dealrank::inbound::Source;
use dealrank::nodes::Lease;
use dealrank::progress::silent;
use dealrank::store::StoreLocation;
use reqwest::Method;
use serde_json::{Value, json};

use crate::senders::{self, send_json};
use crate::servers::{Redis, TestStore};
use crate::service::{self, Service, binary_in, history, ndjson};
use crate::webhooks::settled;
use crate::world::{World, days, now, open_deals};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// One store and one Redis, and a process beside them that has no Redis: its pages are the store's.
struct Company {
    redis: Redis,
    store: TestStore,
    witness: Service,
}

impl Company {
    async fn new() -> Self {
        let (redis, store) = (Redis::start().await, TestStore::in_postgres());
        let witness = format!("{}# no redis_url\n", database(&store));
        Self {
            witness: Service::with_settings(&witness),
            redis,
            store,
        }
    }

    fn node(&self) -> Service {
        let settings = format!(
            "{}redis_url = \"{}\"\n",
            database(&self.store),
            self.redis.url()
        );
        Service::with_settings(&settings)
    }

    fn nodes<const N: usize>(&self) -> [Service; N] {
        std::array::from_fn(|_| self.node())
    }
}

fn database(store: &TestStore) -> String {
    match &store.0 {
        StoreLocation::Postgres(url) => format!("database_url = \"{}\"\n", url.expose()),
        StoreLocation::File(_) => unreachable!("it is in PostgreSQL"),
    }
}

async fn ranking(service: &Service) -> Value {
    let mut page = service.get("/v1/rankings?limit=200").await.ok(200);
    // Where a page comes from may be seen in its cursor.
    page["next_cursor"] = json!(!page["next_cursor"].is_null());
    page
}

fn deal(name: &str, amount: usize) -> Value {
    let mut deal = service::deal(name);
    deal["amount"] = json!(amount);
    deal["owner"] = json!(["Ada", "Ben"][amount % 2]);
    deal
}

async fn put(service: &Service, name: &str, amount: usize) -> Value {
    let path = format!("/v1/deals/{name}");
    let written = service.put(&path, &deal(name, amount)).await;
    assert!([200, 201].contains(&written.status.as_u16()), "{written:?}");
    written.body
}

async fn readyz(service: &Service) -> Value {
    service.get("/readyz").await.body
}

async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        tokio::time::sleep(POLL).await;
    }
    started.elapsed()
}

async fn redis_is_up(services: &[&Service]) -> Duration {
    eventually("redis is up", async || {
        for service in services {
            if readyz(service).await["redis"] != "up" {
                return false;
            }
        }
        true
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_writes_all_of_them_rank() {
    let company = Company::new().await;
    let nodes = company.nodes::<3>();
    let version = nodes[0].train().await;
    redis_is_up(&[&nodes[0], &nodes[1], &nodes[2]]).await;
    for index in 0..30 {
        let (writer, reader) = (&nodes[index % 3], &nodes[(index + 1) % 3]);
        let written = put(writer, &format!("d{}", index % 20), 5000 + 37 * index).await;
        assert_eq!(written["score"]["model_version"], *version);
        let page = ranking(reader).await;
        assert_eq!(page, ranking(&company.witness).await, "write {index}");
        assert_eq!(page, ranking(writer).await, "write {index}");
    }
    nodes[1]
        .request(Method::DELETE, "/v1/deals/d3")
        .send()
        .await
        .unwrap();
    for node in &nodes {
        assert_eq!(ranking(node).await, ranking(&company.witness).await);
        let ready = readyz(node).await;
        assert_eq!(ready["redis"], "up", "{ready}");
        assert_eq!(ready["redis_mode"], "single");
    }
    assert_eq!(readyz(&company.witness).await["redis"], "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_activation_switches_all_processes_and_no_page_mixes_models() {
    let company = Company::new().await;
    let nodes: Arc<[Service; 3]> = Arc::new(company.nodes());
    let old = nodes[0].train().await;
    let newer = json!({ "closed_since": "2025-03-01T00:00:00Z" });
    let trained = nodes[1].post("/v1/models", &newer).await;
    let trained = nodes[1].finished(trained).await;
    assert_eq!(trained["state"], "done", "{trained}");
    let new = trained["result"]["model_version"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_ne!(new, old);
    let (activate, before) = match trained["result"]["is_active"] == json!(true) {
        true => (old.clone(), new.clone()),
        false => (new.clone(), old.clone()),
    };

    let is_over = Arc::new(AtomicBool::new(false));
    let is_activated = Arc::new(AtomicBool::new(false));
    let (written, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut tasks = Vec::new();
    for node in 0..3 {
        let (nodes, is_over, written) = (nodes.clone(), is_over.clone(), written.clone());
        tasks.push(tokio::spawn(async move {
            let mut index = 0;
            while !is_over.load(Ordering::SeqCst) {
                put(
                    &nodes[node],
                    &format!("w{node}-{}", index % 10),
                    1000 + index,
                )
                .await;
                written.fetch_add(1, Ordering::SeqCst);
                index += 1;
            }
        }));
    }
    for node in 0..3 {
        let (nodes, is_over, read) = (nodes.clone(), is_over.clone(), read.clone());
        let (is_activated, before, after) =
            (is_activated.clone(), before.clone(), activate.clone());
        tasks.push(tokio::spawn(async move {
            while !is_over.load(Ordering::SeqCst) {
                let is_late = is_activated.load(Ordering::SeqCst);
                let page = ranking(&nodes[node]).await;
                let version = page["model_version"].as_str().unwrap();
                assert!([&*before, &*after].contains(&version), "{version}");
                for row in page["rows"].as_array().unwrap() {
                    assert_eq!(row["score"]["model_version"], *version, "a mixture");
                }
                let scored = nodes[node].post("/v1/scores", &deal("x", 1)).await.ok(200);
                if is_late {
                    assert_eq!(version, after, "an answer of the old model");
                    assert_eq!(scored["model_version"], *after, "a score of the old model");
                }
                read.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    eventually("there is load", async || {
        written.load(Ordering::SeqCst) > 30
    })
    .await;
    let activated = nodes[2]
        .post(&format!("/v1/models/{activate}/activate"), &json!({}))
        .await;
    let activated = nodes[2].finished(activated).await;
    assert_eq!(activated["state"], "done", "{activated}");
    is_activated.store(true, Ordering::SeqCst);
    let seen = read.load(Ordering::SeqCst);
    eventually("all have read on", async || {
        read.load(Ordering::SeqCst) > seen + 20
    })
    .await;
    is_over.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    let expected = ranking(&company.witness).await;
    for row in expected["rows"].as_array().unwrap() {
        assert_eq!(row["score"]["model_version"], *activate);
    }
    for node in nodes.iter() {
        assert_eq!(ranking(node).await, expected);
    }
    println!(
        "activated while three processes wrote {} deals and read {} pages",
        written.load(Ordering::SeqCst),
        read.load(Ordering::SeqCst)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_leads_within_seconds_of_the_leader_s_death() {
    let company = Company::new().await;
    let mut nodes = company.nodes::<2>();
    let leads = async |service: &Service| readyz(service).await["node"]["role"] == "leader";
    eventually("somebody leads", async || {
        let mut leaders = usize::from(leads(&company.witness).await);
        for node in &nodes {
            leaders += usize::from(leads(node).await);
        }
        assert!(leaders <= 1, "{leaders} leaders");
        leaders == 1
    })
    .await;
    // The witness was first.
    let Company {
        witness,
        redis: _redis,
        ..
    } = company;
    drop(witness);
    eventually("one of the others leads", async || {
        leads(&nodes[0]).await || leads(&nodes[1]).await
    })
    .await;
    let leader = usize::from(!leads(&nodes[0]).await);
    nodes[leader].crash();
    let other = &nodes[1 - leader];
    let waited = eventually("the other leads", async || leads(other).await).await;
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    println!(
        "the leader was killed: another process leads after {:.1} s",
        waited.as_secs_f64()
    );
    // The gauge is told of the role as everybody else is.
    eventually("the metrics say so", async || {
        let metrics = other.get("/metrics").await.body;
        metrics.as_str().unwrap().contains("dealrank_leader 1")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_while_it_writes_leaves_no_wrong_answer() {
    let company = Company::new().await;
    let mut nodes = company.nodes::<2>();
    nodes[0].train().await;
    redis_is_up(&[&nodes[0], &nodes[1]]).await;
    for round in 0..4 {
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (base, client) = (nodes[0].base().to_owned(), reqwest::Client::new());
                let acknowledged = acknowledged.clone();
                tokio::spawn(async move {
                    for index in 0.. {
                        let name = format!("k{round}-{writer}-{index}");
                        let request = client.put(format!("{base}/v1/deals/{name}"));
                        match request.json(&deal(&name, 9000 + index)).send().await {
                            Ok(answer) if answer.status().is_success() => {
                                acknowledged.fetch_add(1, Ordering::SeqCst);
                            }
                            _ => return index,
                        }
                    }
                    0
                })
            })
            .collect();
        eventually("deals are written", async || {
            acknowledged.load(Ordering::SeqCst) > 20 + 7 * round
        })
        .await;
        nodes[0].crash();
        // The one that is left never gives what the store does not say.
        assert_eq!(ranking(&nodes[1]).await, ranking(&company.witness).await);
        for (writer, written) in writers.into_iter().enumerate() {
            for index in 0..written.await.unwrap() {
                let path = format!("/v1/deals/k{round}-{writer}-{index}");
                assert_eq!(nodes[1].get(&path).await.status, 200, "{path} is lost");
            }
        }
        put(&nodes[1], "after", 100_000 + round).await;
        assert_eq!(ranking(&nodes[1]).await, ranking(&company.witness).await);
        nodes[0].restart();
        redis_is_up(&[&nodes[0]]).await;
        assert_eq!(ranking(&nodes[0]).await, ranking(&company.witness).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_restarted_under_load_gives_no_wrong_answer() {
    let mut company = Company::new().await;
    let nodes = company.nodes::<2>();
    nodes[0].train().await;
    redis_is_up(&[&nodes[0], &nodes[1]]).await;
    let check = async |company: &Company, index: usize| {
        put(&nodes[index % 2], &format!("r{}", index % 15), 4000 + index).await;
        let expected = ranking(&company.witness).await;
        for node in &nodes {
            assert_eq!(ranking(node).await, expected, "write {index}");
        }
    };
    for index in 0..10 {
        check(&company, index).await;
    }
    company.redis.kill();
    for index in 10..20 {
        check(&company, index).await;
    }
    company.redis.restart().await;
    let restarted = Instant::now();
    let mut index = 20;
    while restarted.elapsed() < PATIENCE {
        check(&company, index).await;
        index += 1;
        let (first, second) = (readyz(&nodes[0]).await, readyz(&nodes[1]).await);
        if first["redis"] == "up" && second["redis"] == "up" {
            break;
        }
    }
    println!(
        "redis was killed and restarted empty: {} writes meanwhile, both processes read rankings from it again after {:.1} s",
        index - 10,
        restarted.elapsed().as_secs_f64()
    );
    for index in index..index + 10 {
        check(&company, index).await;
    }
    redis_is_up(&[&nodes[0], &nodes[1]]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_rebuilt_while_processes_serve() {
    let company = Company::new().await;
    let node = company.node();
    node.train().await;
    redis_is_up(&[&node]).await;
    let cache = |action: &str| {
        let output = binary_in(node.dir())
            .args(["cache", action, "--json"])
            .output()
            .unwrap();
        let (stdout, stderr) = (output.stdout, String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice::<Value>(&stdout).unwrap()
    };
    let before = cache("status");
    assert_eq!(before["is_up_to_date"], true, "{before}");
    assert_eq!(before["server"], "single");
    assert!(
        before["deals"].as_u64() > Some(0) && before["bytes"].as_u64() > before["deals"].as_u64()
    );
    let rebuilt = cache("rebuild");
    assert_ne!(rebuilt["epoch"], before["epoch"]);
    for field in ["generation", "deals", "rankings", "is_up_to_date"] {
        assert_eq!(rebuilt[field], before[field], "{field}");
    }
    for index in 0..5 {
        put(&node, &format!("c{index}"), 7000 + index).await;
        assert_eq!(ranking(&node).await, ranking(&company.witness).await);
    }
    assert_eq!(readyz(&node).await["redis"], "up");
    eventually("the old epoch is removed", async || {
        cache("status")["other_epochs"] == json!([])
    })
    .await;
    assert_eq!(cache("clear")["removed_epochs"], 1);
    assert_eq!(ranking(&node).await, ranking(&company.witness).await);
    redis_is_up(&[&node]).await;
    assert_eq!(ranking(&node).await, ranking(&company.witness).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_seen_everywhere_and_fails_only_with_its_process() {
    let company = Company::new().await;
    let mut first = company.node();
    let many = ndjson(&history(30_000));
    let accepted = first
        .post_raw("/v1/imports", "application/x-ndjson", many)
        .await
        .ok(202);
    let id = accepted["id"].as_str().unwrap().to_owned();
    let second = company.node();
    let state =
        async |service: &Service| service.job(&id).await["state"].as_str().unwrap().to_owned();
    eventually("it runs", async || state(&second).await != "queued").await;
    assert_eq!(
        state(&second).await,
        "running",
        "another process that starts lets it be"
    );
    first.crash();
    let waited = eventually("it has failed", async || state(&second).await == "failed").await;
    println!(
        "a job of a process that was killed is failed after {:.1} s",
        waited.as_secs_f64()
    );
    first.restart();
    let again = first.import_documents(&history(30)).await;
    let seen = second.job(again["id"].as_str().unwrap()).await;
    assert_eq!(seen["state"], "done", "{seen}");
    assert_eq!(seen["result"], again["result"]);
}

#[tokio::test]
async fn what_a_former_leader_writes_is_refused() {
    let world = World::with(open_deals(46, 20)).await;
    let store = world.book.store();
    let compete = |holder: &str| Lease::compete(store.clone(), "test", holder);
    let first = compete("first");
    let old = first.acquired().await;
    let second = compete("second");
    assert_eq!(second.fence(), None);
    let cutoff = now() - days(400);
    store.prune(now(), cutoff, Some(&old)).await.unwrap();

    first.give_back().await.unwrap();
    assert_eq!(first.fence(), None);
    let new = second.acquired().await;
    assert!(new.token > old.token, "{new:?} after {old:?}");
    let refused = store.prune(now(), cutoff, Some(&old)).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict(_)), "{refused}");
    let later = now() + days(20);
    let refused = world.book.refresh(later, Some(&old), &silent).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    let refreshed = world
        .book
        .refresh(later, Some(&new), &silent)
        .await
        .unwrap();
    assert!(refreshed.changed > 0);
    store.prune(now(), cutoff, Some(&new)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deal_that_left_does_not_return_by_what_another_process_hears_of_before() {
    let store = TestStore::in_postgres();
    let node = || Service::on(store.clone(), &senders::settings());
    let nodes = [node(), node()];
    let event = |kind: &str, id: u64, at: i64| {
        json!({"subscriptionType": format!("deal.{kind}"), "objectId": id, "eventId": at,
            "occurredAt": 1_767_225_600_000 + at, "portalId": 1, "subscriptionId": 2})
    };
    let ids = 0..200;
    for first in ids.clone().step_by(20) {
        let all = |kind, at| {
            json!(Vec::from_iter(
                (first..first + 20).map(|id| event(kind, id, at))
            ))
        };
        let (births, ends) = (all("creation", 1000), all("deletion", 2000));
        let (born, gone) = tokio::join!(
            send_json(&nodes[0], Source::Hubspot, &births),
            send_json(&nodes[1], Source::Hubspot, &ends),
        );
        born.ok(200);
        gone.ok(200);
    }
    settled(&nodes[0]).await;
    for id in ids {
        let found = nodes[0].get(&format!("/v1/deals/{id}")).await;
        assert_eq!(found.problem(404), "not_found");
    }
}
