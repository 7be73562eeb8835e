//! What was acknowledged stays, however the service or its PostgreSQL ends: both are killed at random
//! moments under load of writes, events and webhooks, and what is there afterwards is compared with what
//! was answered.
//!
//! `DEALRANK_TEST_KILLS=100 cargo test --test api durability:: -- --nocapture` is the long form, also with
//! `DEALRANK_TEST_STORE=postgres`; a handful of kills otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dealrank::domain::Exchange;
use dealrank::ranking::RankingQuery;
use dealrank::scoring::Scorer;
use dealrank::store::Which;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::json;

use crate::senders::{self, signed_as_standard};
use crate::servers::Postgres;
use crate::service::{self, Service};
use crate::webhooks::settled;
use crate::world::rng;

const KILLS: usize = 4;
const WRITERS: usize = 6;
const DEALS_OF_WRITER: usize = 5;
/// A kill comes at a random moment up to this long after the load began.
const LOAD_MAX: Duration = Duration::from_millis(400);
/// Nobody waits longer for an answer, whatever is away.
const ANSWER_MAX: Duration = Duration::from_secs(15);

fn kills() -> usize {
    let kills = std::env::var("DEALRANK_TEST_KILLS");
    kills.map_or(KILLS, |kills| kills.parse().unwrap())
}

/// One who writes deals of its own over a connection of its own, and remembers what was answered.
struct Writer {
    deals: Vec<Known>,
    rng: ChaCha8Rng,
    /// Grows with every write, so that none is like another.
    number: u64,
    acknowledged: u64,
    /// How long it took until a write succeeded that had failed.
    recovered_at: Option<Instant>,
}

/// What must be found of a deal.
struct Known {
    id: String,
    is_there: bool,
    /// The amount of the last write that was acknowledged, and those of later ones that may have been.
    amounts: BTreeSet<u64>,
    /// The numbers of acknowledged events and webhooks.
    events: BTreeSet<u64>,
    /// The webhooks among them: they are kept when they are answered, and applied afterwards.
    webhooks: BTreeSet<u64>,
    /// An event, and a webhook, that nobody heard of again: it is sent once more.
    unsure_event: Option<u64>,
    unsure_webhook: Option<u64>,
}

/// What is written of a deal, with its number.
#[derive(Clone, Copy)]
enum Write {
    Put(u64),
    Patch(u64),
    Event(u64),
    Webhook(u64),
}

impl Writer {
    fn new(number: usize) -> Self {
        let known = |deal| Known {
            id: format!("w{number}-{deal}"),
            is_there: false,
            amounts: BTreeSet::new(),
            events: BTreeSet::new(),
            webhooks: BTreeSet::new(),
            unsure_event: None,
            unsure_webhook: None,
        };
        Self {
            deals: (0..DEALS_OF_WRITER).map(known).collect(),
            rng: rng(number as u64),
            number: 0,
            acknowledged: 0,
            recovered_at: None,
        }
    }

    /// Writes until it is told to stop, or until `gives_up` and an answer fails to come.
    async fn write(&mut self, base: &str, stop: &AtomicBool, gives_up: bool) {
        let client = Client::builder().timeout(ANSWER_MAX).build().unwrap();
        let mut has_failed = false;
        while !stop.load(Ordering::Relaxed) {
            self.number += 1;
            let deal = self.rng.random_range(0..self.deals.len());
            let write = self.deals[deal].choose(&mut self.rng, self.number);
            let is_acknowledged = self.deals[deal].write(&client, base, write).await;
            if is_acknowledged {
                self.acknowledged += 1;
                if std::mem::take(&mut has_failed) {
                    self.recovered_at = Some(Instant::now());
                }
            } else if gives_up {
                return;
            } else {
                has_failed = true;
            }
        }
    }
}

impl Known {
    /// What to write next. What nobody heard of again comes first of its kind.
    fn choose(&self, rng: &mut ChaCha8Rng, number: u64) -> Write {
        match rng.random_range(0..6) {
            0 | 1 if self.is_there => Write::Event(self.unsure_event.unwrap_or(number)),
            2 | 3 if self.is_there => Write::Webhook(self.unsure_webhook.unwrap_or(number)),
            4 if self.is_there => Write::Patch(number),
            _ => Write::Put(number),
        }
    }

    fn request(&self, client: &Client, base: &str, write: Write) -> RequestBuilder {
        let deal = format!("{base}/v1/deals/{}", self.id);
        // Sent again it says something else, so that it shows if it is applied twice.
        let activity = |number, unsure: Option<u64>| {
            let kind = unsure.map_or("call", |_| "email");
            json!({"type": "activity", "kind": kind, "at": moment(number)})
        };
        match write {
            Write::Put(number) => {
                let mut document = service::deal(&self.id);
                document["amount"] = json!(number);
                client.put(deal).json(&document)
            }
            Write::Patch(number) => client.patch(deal).json(&json!({ "amount": number })),
            Write::Event(number) => {
                let mut event = activity(number, self.unsure_event);
                event["id"] = json!(format!("{}-{number}", self.id));
                client.post(format!("{deal}/events")).json(&event)
            }
            Write::Webhook(number) => {
                let event = activity(number, self.unsure_webhook);
                let body = json!({"type": "deal.events", "timestamp": moment(number),
                    "data": {"deal_id": self.id, "events": [event]}});
                let body = body.to_string();
                let request = client.post(format!("{base}/v1/webhooks/standard"));
                let id = format!("{}-{number}", self.id);
                signed_as_standard(request, &id, body.as_bytes()).body(body)
            }
        }
    }

    /// Whether the write was acknowledged. What was not may have happened or not.
    async fn write(&mut self, client: &Client, base: &str, write: Write) -> bool {
        let request = self.request(client, base, write);
        match write {
            Write::Put(number) | Write::Patch(number) => drop(self.amounts.insert(number)),
            Write::Event(number) => self.unsure_event = Some(number),
            Write::Webhook(number) => self.unsure_webhook = Some(number),
        }
        let Ok(answer) = request.send().await else {
            return false;
        };
        if !answer.status().is_success() {
            let status = answer.status();
            let problem = service::answer(answer).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem:?}");
            assert_eq!(problem.problem(503), "store_away");
            return false;
        }
        match write {
            Write::Put(number) | Write::Patch(number) => {
                self.is_there = true;
                self.amounts = BTreeSet::from([number]);
            }
            Write::Event(number) => {
                self.events.insert(number);
                self.unsure_event = None;
            }
            Write::Webhook(number) => {
                self.events.insert(number);
                self.webhooks.insert(number);
                self.unsure_webhook = None;
            }
        }
        true
    }

    /// Nothing that was acknowledged is missing, and nothing is there twice. Until all webhooks are
    /// applied, some may be missing.
    async fn compare(&mut self, service: &Service, is_settled: bool) {
        let answer = service.get(&format!("/v1/deals/{}", self.id)).await;
        if answer.status == StatusCode::NOT_FOUND {
            assert!(!self.is_there, "{} is lost", self.id);
            self.amounts.clear();
            return;
        }
        let found = answer.ok(200);
        assert!(!self.amounts.is_empty(), "{} came from nowhere", self.id);
        self.is_there = true;
        let deal = &found["deal"];
        let amount: u64 = deal["amount"].as_str().unwrap().parse().unwrap();
        assert!(
            self.amounts.contains(&amount),
            "{found}: {:?}",
            self.amounts
        );
        self.amounts = BTreeSet::from([amount]);
        assert_eq!(found["score"]["amount"], amount as f64, "{found}");

        let no_activities = Vec::new();
        let activities = deal["activities"].as_array().unwrap_or(&no_activities);
        let mut found_events = BTreeMap::<Timestamp, usize>::new();
        for activity in activities {
            let at = activity["at"].as_str().unwrap().parse().unwrap();
            *found_events.entry(at).or_default() += 1;
        }
        assert!(found_events.values().all(|count| *count == 1), "{found}");
        for unsure in [self.unsure_event, self.unsure_webhook]
            .into_iter()
            .flatten()
        {
            found_events.remove(&moment(unsure));
        }
        for webhook in self.webhooks.iter().filter(|_| !is_settled) {
            found_events.entry(moment(*webhook)).or_default();
        }
        let expected: Vec<Timestamp> = self.events.iter().map(|number| moment(*number)).collect();
        let found_events: Vec<Timestamp> = found_events.into_keys().collect();
        assert_eq!(found_events, expected, "{}", self.id);
    }
}

fn moment(number: u64) -> Timestamp {
    let start: Timestamp = "2026-04-01T00:00:00Z".parse().unwrap();
    start + SignedDuration::from_secs(number as i64)
}

/// The ranking has all open deals, each with the score that computing it again gives, in order.
async fn compare_ranking(service: &Service) {
    let store = service.store().open().await;
    let model = store.champion().await.unwrap();
    let exchange = Arc::new(Exchange::only("EUR".parse().unwrap()));
    let scorer = Scorer::new(Arc::new(model), exchange).unwrap();
    let mut open = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.deals(Which::Open, after.as_ref(), 500).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.deal.id.clone());
        open.extend(
            page.into_iter()
                .map(|stored| (stored.deal.id.clone(), stored.deal)),
        );
    }
    store.close().await;
    let limit = RankingQuery::default().limit;
    let mut path = format!("/v1/rankings?limit={limit}");
    let mut values = Vec::new();
    loop {
        let page = service.get(&path).await.ok(200);
        for row in page["rows"].as_array().unwrap() {
            let score = &row["score"];
            let id = score["deal_id"]
                .as_str()
                .unwrap()
                .parse::<String>()
                .unwrap();
            let deal = open.remove(&crate::world::id(&id)).expect("once, and open");
            let at = score["scored_at"].as_str().unwrap().parse().unwrap();
            let again = serde_json::to_value(scorer.score(&deal, at)).unwrap();
            assert_eq!(score["win_probability"], again["win_probability"], "{row}");
            assert_eq!(score["expected_value"], again["expected_value"], "{row}");
            values.push(score["expected_value"].as_f64());
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/v1/rankings?limit={limit}&cursor={cursor}"),
            None => break,
        }
    }
    assert!(open.is_empty(), "not in the ranking: {:?}", open.keys());
    assert!(values.is_sorted_by(|a, b| a >= b), "{values:?}");
}

async fn compare(service: &Service, writers: &mut [Writer], is_settled: bool) {
    for known in writers.iter_mut().flat_map(|writer| &mut writer.deals) {
        known.compare(service, is_settled).await;
    }
    compare_ranking(service).await;
}

/// At the end: what was kept of webhooks is applied, each once. Tells how much was acknowledged.
async fn compare_at_last(service: &Service, writers: &mut [Writer]) -> String {
    settled(service).await;
    compare(service, writers, true).await;
    let deals = || writers.iter().flat_map(|writer| &writer.deals);
    let webhooks: usize = deals().map(|known| known.webhooks.len()).sum();
    let unsure = deals().filter(|known| known.unsure_webhook.is_some());
    let most = webhooks + unsure.count();
    let applied = "SELECT count(*) FROM events WHERE cause = 'webhook'";
    let applied = service.store().count(applied).await;
    assert!((webhooks..=most).contains(&(applied as usize)), "{applied}");
    let acknowledged: u64 = writers.iter().map(|writer| writer.acknowledged).sum();
    assert!(webhooks > 0 && acknowledged > webhooks as u64);
    format!("{acknowledged} writes acknowledged, {webhooks} of them webhooks: 0 lost, 0 twice")
}

/// Lets all writers write at `base` while `meanwhile` happens; it tells them when to stop.
async fn under_load(
    writers: &mut Vec<Writer>,
    base: &str,
    gives_up: bool,
    meanwhile: impl AsyncFnOnce(),
) {
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = std::mem::take(writers)
        .into_iter()
        .map(|mut writer| {
            let (base, stop) = (base.to_owned(), stop.clone());
            tokio::spawn(async move {
                writer.write(&base, &stop, gives_up).await;
                writer
            })
        })
        .collect();
    meanwhile().await;
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        writers.push(task.await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_loses_nothing_and_does_nothing_twice() {
    let mut service = Service::with_settings(&senders::settings());
    service.train().await;
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    let mut rng = rng(41);
    let kills = kills();
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        let base = service.base().to_owned();
        let moment = LOAD_MAX.mul_f64(rng.random_range(0.05..1.0));
        under_load(&mut writers, &base, true, async || {
            tokio::time::sleep(moment).await;
            let killed_at = Instant::now();
            service.crash_and_restart();
            slowest = slowest.max(killed_at.elapsed());
        })
        .await;
        compare(&service, &mut writers, false).await;
    }
    let told = compare_at_last(&service, &mut writers).await;
    println!("{kills} kills, {told}; back after {slowest:?} at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_store_that_is_killed_loses_nothing_and_is_away_no_longer_than_it_is() {
    let mut postgres = Postgres::start();
    let service = Service::on(postgres.new_store(), &senders::settings());
    service.train().await;
    let mut writers: Vec<Writer> = (0..WRITERS).map(Writer::new).collect();
    let mut rng = rng(42);
    let kills = kills().div_ceil(10);
    let mut slowest = Duration::ZERO;
    for _ in 0..kills {
        let moment = LOAD_MAX.mul_f64(rng.random_range(0.2..1.0));
        let mut back_at = Instant::now();
        under_load(&mut writers, service.base(), false, async || {
            tokio::time::sleep(moment).await;
            postgres.kill();
            let asked_at = Instant::now();
            let away = service.get("/v1/deals/w0-0").await;
            assert_eq!(away.status, 503, "{}", service.log());
            assert_eq!(away.problem(503), "store_away");
            assert!(asked_at.elapsed() < ANSWER_MAX);
            let ready = service.get("/readyz").await;
            assert_eq!(ready.status, 503, "{ready:?} {}", service.log());
            postgres.restart();
            back_at = Instant::now();
            let deadline = back_at + ANSWER_MAX;
            while service.get("/readyz").await.status != StatusCode::OK {
                assert!(Instant::now() < deadline, "the service does not recover");
            }
            // Long enough for each writer to hear of it.
            tokio::time::sleep(LOAD_MAX).await;
        })
        .await;
        for writer in &mut writers {
            if let Some(at) = writer.recovered_at.take() {
                slowest = slowest.max(at.saturating_duration_since(back_at));
            }
        }
        compare(&service, &mut writers, false).await;
    }
    let told = compare_at_last(&service, &mut writers).await;
    println!(
        "PostgreSQL killed {kills} times, {told}; written again {slowest:?} after it was back"
    );
}

#[test]
fn the_password_of_the_store_is_not_told() {
    let folder = tempfile::tempdir().unwrap();
    let refused = service::binary()
        .args(["models", "list"])
        .current_dir(folder.path())
        .env(
            "DEALRANK_DATABASE_URL",
            "postgres://ann:s3cret@127.0.0.1:1/deals",
        )
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(told.contains("postgres://ann@127.0.0.1:1/deals"), "{told}");
    assert!(!told.contains("s3cret"), "{told}");
}
