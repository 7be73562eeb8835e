//! Takes events from the outbox to those who want them, until each has been told or given up.
//!
//! One process at a time does this. What it knows is in the store: after a crash, or when another takes
//! over, it goes on where it was, and what was under way is sent once more under the same id.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{self, JoinError, JoinSet};

use super::courier::{Attempt, Courier, Message, Outcome};
use super::event::{Event, EventType};
use super::patience::{Circuit, CircuitSettings, Passage, RetrySchedule};
use super::subscription::{Receiver, Subscription, Sweep, Webhook};
use super::write_back::{Turn, WriteBack};
use crate::app::now;
use crate::error::Result;
use crate::store::{Attempted, Due, Next, Queued, Store, Told};

/// Events that are looked at in one transaction.
const FAN_OUT_EVENTS: u32 = 500;
/// The longest wait for a signal: other processes write too, and retries come due.
const PAUSE: Duration = Duration::from_secs(1);

/// What the dispatcher goes by.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub schedule: RetrySchedule,
    pub circuit: CircuitSettings,
    pub payload_bytes_max: usize,
    pub concurrency: usize,
    pub concurrency_per_subscription: usize,
}

pub(super) struct Dispatcher {
    store: Store,
    courier: Courier,
    rules: Arc<Rules>,
    /// Names this installation in events.
    source: Arc<str>,
    write_backs: Vec<WriteBack>,
    sending: JoinSet<Attempt>,
    /// What is being sent, by its task.
    under_way: HashMap<task::Id, Sending>,
    writing: JoinSet<()>,
}

/// A delivery that is being sent.
struct Sending {
    subscription_id: String,
    due: Due,
}

/// An attempt that is over.
struct Sent {
    subscription_id: String,
    due: Due,
    attempt: Attempt,
}

/// How a task that sends has ended.
type Ended = std::result::Result<(task::Id, Attempt), JoinError>;

impl Dispatcher {
    pub fn new(
        store: Store,
        courier: Courier,
        rules: Rules,
        source: Arc<str>,
        write_backs: Vec<WriteBack>,
    ) -> Self {
        Self {
            store,
            courier,
            rules: Arc::new(rules),
            source,
            write_backs,
            sending: JoinSet::new(),
            under_way: HashMap::new(),
            writing: JoinSet::new(),
        }
    }

    /// Works while `is_leading` is true, until its sender is gone.
    pub async fn run(mut self, mut is_leading: watch::Receiver<bool>) {
        loop {
            if !*is_leading.borrow_and_update() {
                // Another one sends from here on.
                self.sending.abort_all();
                self.writing.abort_all();
                self.sending = JoinSet::new();
                self.writing = JoinSet::new();
                self.under_way.clear();
                if is_leading.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let pause = match self.round().await {
                Ok(false) => PAUSE,
                Ok(true) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!("events wait: {error:#}");
                    tokio::time::sleep(PAUSE).await;
                    Duration::ZERO
                }
            };
            tokio::select! {
                changed = is_leading.changed() => if changed.is_err() { return },
                () = self.store.outbox_filled() => {}
                Some(ended) = self.sending.join_next_with_id() => self.settle(ended).await,
                Some(_) = self.writing.join_next() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at what is new, and sends what is due, as far as there is room; answers with whether more may
    /// be new.
    async fn round(&mut self) -> Result<bool> {
        let has_more = self.fan_out().await?;
        for subscription in self.store.subscriptions().await? {
            if !subscription.is_enabled() {
                continue;
            }
            match &subscription.receiver {
                Receiver::Webhook(webhook) => self.send_due(&subscription, webhook).await?,
                Receiver::WriteBack { .. } => self.write_due(subscription),
            }
        }
        Ok(has_more)
    }

    /// Finds out who wants the next new events; answers with whether there may be more.
    async fn fan_out(&self) -> Result<bool> {
        let events = self.store.new_events(FAN_OUT_EVENTS).await?;
        if events.is_empty() {
            return Ok(false);
        }
        let subscriptions = self.store.subscriptions().await?;
        let (mut queued, mut sweeping) = (Vec::new(), Vec::new());
        for subscription in subscriptions.iter().filter(|s| s.is_enabled()) {
            match &subscription.receiver {
                Receiver::Webhook(_) => queued.extend(self.wanted(subscription, &events).await?),
                Receiver::WriteBack { crm, .. } => {
                    let Some(write_back) = self.write_backs.iter().find(|w| w.kind() == *crm)
                    else {
                        continue;
                    };
                    queued.extend(write_back.wanted(subscription, &events));
                    let is_model = |(seq, event): &&(i64, Event)| {
                        *seq > subscription.since_seq && event.kind == EventType::ModelActivated
                    };
                    if let Some((seq, _)) = events.iter().rfind(is_model) {
                        sweeping.push((subscription.id.clone(), Sweep::from(*seq)));
                    }
                }
            }
        }
        let seqs: Vec<i64> = events.iter().map(|(seq, _)| *seq).collect();
        self.store.fan_out(&seqs, &queued, &sweeping, now()).await?;
        Ok(events.len() == FAN_OUT_EVENTS as usize)
    }

    /// The events that a subscription is told of.
    async fn wanted(
        &self,
        subscription: &Subscription,
        events: &[(i64, Event)],
    ) -> Result<Vec<Queued>> {
        let mut told: HashMap<String, f64> = HashMap::new();
        if subscription.asks_what_was_told() {
            let deals: BTreeSet<&str> = events
                .iter()
                .filter_map(|(_, event)| Some(event.deal.as_ref()?.deal_id.as_str()))
                .collect();
            let last = self.store.told(&subscription.id, &deals).await?;
            told.extend(
                last.into_iter()
                    .map(|(id, told)| (id, told.win_probability)),
            );
        }
        let mut queued = Vec::new();
        for (seq, event) in events {
            let deal = event.deal.as_ref();
            let last = deal.and_then(|deal| told.get(&deal.deal_id).copied());
            if !subscription.wants(*seq, event, last) {
                continue;
            }
            let remembered = match (deal, event.kind) {
                (Some(deal), EventType::ScoreChanged) if subscription.asks_what_was_told() => {
                    told.insert(deal.deal_id.clone(), deal.win_probability);
                    Told::of_subject(deal)
                }
                _ => None,
            };
            queued.push(Queued {
                subscription_id: subscription.id.clone(),
                seq: *seq,
                order_key: deal.map_or(String::new(), |deal| deal.deal_id.clone()),
                deal_id: deal.map(|deal| deal.deal_id.clone()),
                told: remembered,
            });
        }
        Ok(queued)
    }

    /// Starts as many deliveries of a subscription as its circuit and the limits allow.
    async fn send_due(&mut self, subscription: &Subscription, webhook: &Webhook) -> Result<()> {
        let now = now();
        let under_way: BTreeSet<i64> = self
            .under_way
            .values()
            .filter(|sending| sending.subscription_id == subscription.id)
            .map(|sending| sending.due.seq)
            .collect();
        let places = match subscription.circuit.passage(&self.rules.circuit, now) {
            Passage::Closed => 0,
            Passage::One => 1,
            Passage::Free => self.rules.concurrency_per_subscription,
        };
        let free = places
            .saturating_sub(under_way.len())
            .min(self.rules.concurrency.saturating_sub(self.sending.len()));
        if free == 0 {
            return Ok(());
        }
        let due = self
            .store
            .due(&subscription.id, now, &under_way, free)
            .await?;
        for due in due {
            let (courier, rules) = (self.courier.clone(), self.rules.clone());
            let (source, webhook) = (self.source.clone(), webhook.clone());
            let event = due.event.clone();
            let task = self
                .sending
                .spawn(async move { attempt(&courier, &rules, &source, &webhook, &event).await });
            let subscription_id = subscription.id.clone();
            let sending = Sending {
                subscription_id,
                due,
            };
            self.under_way.insert(task.id(), sending);
        }
        Ok(())
    }

    /// Lets a CRM have its turn, if it has none.
    fn write_due(&mut self, subscription: Subscription) {
        let Receiver::WriteBack { crm, .. } = &subscription.receiver else {
            return;
        };
        let Some(write_back) = self.write_backs.iter().find(|w| w.kind() == *crm) else {
            return;
        };
        let (write_back, rules) = (write_back.clone(), self.rules.clone());
        let Some(turn) = Turn::begin(&write_back) else {
            return;
        };
        let store = self.store.clone();
        self.writing.spawn(async move {
            if let Err(error) = write_back.work(&store, &subscription, &rules).await {
                let crm = write_back.kind().as_str();
                tracing::warn!(crm, "scores wait to be written: {error:#}");
                tokio::time::sleep(PAUSE).await;
            }
            drop(turn);
        });
    }

    /// Writes down what became of attempts: of the one that is over, and of all that are by now, so that
    /// they share a commit.
    async fn settle(&mut self, first: Ended) {
        let mut sent = Vec::new();
        let mut next = Some(first);
        while let Some(ended) = next {
            let (id, attempt) = match ended {
                Ok((id, attempt)) => (id, Some(attempt)),
                Err(error) => (error.id(), None),
            };
            // What broke off is sent again.
            if let (Some(sending), Some(attempt)) = (self.under_way.remove(&id), attempt) {
                sent.push(Sent {
                    subscription_id: sending.subscription_id,
                    due: sending.due,
                    attempt,
                });
            }
            next = self.sending.try_join_next_with_id();
        }
        if let Err(error) = self.record(&sent).await {
            // It is sent again, under the same id.
            tracing::warn!("cannot write down what was delivered: {error:#}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn record(&self, sent: &[Sent]) -> Result<()> {
        if sent.is_empty() {
            return Ok(());
        }
        let mut circuits: HashMap<String, Circuit> = HashMap::new();
        for subscription in self.store.subscriptions().await? {
            circuits.insert(subscription.id, subscription.circuit);
        }
        let mut changed = BTreeSet::new();
        let mut attempted = Vec::with_capacity(sent.len());
        for sent in sent {
            attempted.push(self.judge(sent));
            if let Some(circuit) = circuits.get_mut(&sent.subscription_id) {
                let after = self.circuit_after(*circuit, &sent.attempt);
                if after != *circuit {
                    *circuit = after;
                    changed.insert(sent.subscription_id.as_str());
                }
            }
        }
        let changed: Vec<_> = circuits
            .into_iter()
            .filter(|(id, _)| changed.contains(id.as_str()))
            .collect();
        self.store.record_attempts(&attempted, &changed).await
    }

    /// What comes next of a delivery.
    fn judge(&self, sent: &Sent) -> Attempted {
        let attempts = sent.due.attempts.saturating_add(1);
        let attempt = &sent.attempt;
        let (next, reason, outcome) = match &attempt.outcome {
            Outcome::Delivered => (Next::Nothing, None, "delivered"),
            Outcome::Gone => (Next::End, None, "gone"),
            Outcome::Failed {
                reason,
                retry_after,
            } => {
                let luck = rand::random::<f64>();
                let next_at = self
                    .rules
                    .schedule
                    .next_at(attempts, *retry_after, now(), luck);
                match next_at {
                    Some(at) => (Next::Retry(at), Some(reason.clone()), "retried"),
                    None => (Next::GiveUp, Some(reason.clone()), "failed"),
                }
            }
        };
        metrics::counter!("outbound_attempts_total", "outcome" => outcome).increment(1);
        if let Some(reason) = &reason {
            tracing::debug!(
                subscription = sent.subscription_id,
                event = sent.due.event.id,
                attempts,
                "a delivery failed: {reason}"
            );
        }
        Attempted {
            subscription_id: sent.subscription_id.clone(),
            seq: sent.due.seq,
            at: attempt.at,
            attempts,
            status: attempt.status,
            reason,
            duration: attempt.duration,
            next,
        }
    }

    fn circuit_after(&self, circuit: Circuit, attempt: &Attempt) -> Circuit {
        match &attempt.outcome {
            Outcome::Delivered | Outcome::Gone => circuit.after_success(),
            Outcome::Failed { retry_after, .. } => {
                let asked = self.rules.schedule.asked(*retry_after);
                circuit.after_failure(&self.rules.circuit, asked, now())
            }
        }
    }
}

/// One attempt at telling one receiver of an event.
pub(super) async fn attempt(
    courier: &Courier,
    rules: &Rules,
    source: &str,
    webhook: &Webhook,
    event: &Event,
) -> Attempt {
    let at = now();
    match event.body(webhook.format, source, rules.payload_bytes_max) {
        Ok(body) => {
            let message = Message {
                id: event.id.clone(),
                url: webhook.url.clone(),
                content_type: webhook.format.content_type(),
                body,
                keys: webhook.keys(at),
            };
            courier.send(&message, at).await
        }
        Err(reason) => Attempt {
            at,
            duration: Duration::ZERO,
            status: None,
            outcome: Outcome::Failed {
                reason,
                retry_after: None,
            },
        },
    }
}
