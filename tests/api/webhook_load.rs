//! How long CRMs wait for their answer under load: opt-in, since it wants the machine for itself.
//!
//! ```sh
//! cargo test --release --test api webhook_load -- --ignored --nocapture
//! DEALRANK_TEST_STORE=postgres cargo test --release --test api webhook_load -- --ignored --nocapture
//! ```

use std::time::{Duration, Instant};

use dealrank::inbound::Source;
use serde_json::json;
use tokio::task::JoinSet;

use crate::senders::{delivery, settings};
use crate::service::Service;
use crate::webhooks::settled;

const EVENTS_PER_SECOND: u32 = 500;
const SECONDS: u32 = 20;
const DEALS: u32 = 2_000;
const P99_MAX: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "takes the machine for half a minute"]
async fn webhook_load() {
    let service = Service::with_settings(&settings());
    service.train().await;
    let start = Instant::now();
    let mut answers = JoinSet::new();
    for number in 0..EVENTS_PER_SECOND * SECONDS {
        let due = start + Duration::from_secs(1) * number / EVENTS_PER_SECOND;
        tokio::time::sleep_until(due.into()).await;
        let at = format!(
            "2026-03-01T{:02}:{:02}:{:02}Z",
            number / 3600,
            number / 60 % 60,
            number % 60
        );
        let id = number % DEALS;
        let body = json!({
            "meta": {"action": "change", "entity": "deal", "entity_id": id, "id": number, "timestamp": at},
            "data": {"id": id, "title": "Load", "value": number, "currency": "EUR", "status": "open",
                     "stage_id": number % 7, "pipeline_id": 1, "owner_id": id % 50,
                     "add_time": "2026-01-01T00:00:00Z", "update_time": at},
        });
        let request = delivery(&service, Source::Pipedrive, body.to_string().as_bytes());
        answers.spawn(async move {
            // From when it was due: a sender that is held up counts.
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.bytes().await.unwrap();
            due.elapsed()
        });
    }
    let mut waits = answers.join_all().await;
    let sent = start.elapsed();
    settled(&service).await;
    let applied = start.elapsed();
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!(
        "{} events in {sent:.1?}: answered after {:.1?} (median), {:.1?} (p99), {:.1?} (longest); all applied after {applied:.1?}",
        waits.len(),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    assert!(at(0.99) < P99_MAX, "{:?}", at(0.99));
}
