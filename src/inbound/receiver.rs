//! From a request to kept events, and what can be done about those that could not be applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::Notify;

use super::fields::{Table, Target};
use super::inbox::{Inbox, arrival};
use super::pull;
use super::signature::Refusal;
use super::worker::{self, Applier, Asked};
use super::{
    Action, Context, Delivery, Part, SOURCES, Source, Unreadable, Webhooks, action_answer, hashed,
};
use crate::app::now;
use crate::book::Book;
use crate::config::Config;
use crate::crm::{Crm, CrmKind, CrmsSettings, ScoreFields};
use crate::domain::{Deal, DealId};
use crate::error::{Error, Result};
use crate::store::{InboxEvent, Settled};

/// What CRMs send; clones share it.
#[derive(Debug, Clone)]
pub struct Inbound {
    settings: Arc<Webhooks>,
    book: Book,
    inbox: Inbox,
    applier: Arc<Applier>,
    wake: Arc<Notify>,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Events that are kept now, or were already.
    pub received: usize,
    /// Events that are not about deals.
    pub unknown: usize,
}

/// Why a delivery was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Rejected {
    #[error("webhooks from {0} are off: set webhooks.{0}.secrets")]
    Off(Source),
    #[error(transparent)]
    Unauthentic(#[from] Refusal),
    #[error(transparent)]
    Failed(#[from] Error),
}

/// What a replayed event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replayed {
    Applied,
    /// Its deal is not known yet.
    Waiting,
    Dead(String),
}

impl Inbound {
    /// Starts the tasks that keep events and apply them. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `Malformed` when the settings cannot be meant.
    pub fn start(book: Book, config: &Config, crms: Vec<Crm>) -> Result<Self> {
        let settings = &config.webhooks;
        let tables = tables(settings, &config.crm)?;
        let wake = Arc::new(Notify::new());
        let kept = Arc::clone(&wake);
        let inbox = Inbox::start(
            book.store().clone(),
            settings.queued_events_max,
            move || kept.notify_one(),
        );
        let settings = Arc::new(settings.clone());
        let applier = Arc::new(Applier::new(
            book.clone(),
            Arc::clone(&settings),
            tables,
            crms,
        ));
        tokio::spawn(worker::work(Arc::clone(&applier), Arc::clone(&wake)));
        tokio::spawn(pull::work(Arc::clone(&applier)));
        Ok(Self {
            settings,
            book,
            inbox,
            applier,
            wake,
        })
    }

    pub fn settings(&self) -> &Webhooks {
        &self.settings
    }

    /// Whether a source is listened to.
    ///
    /// # Errors
    /// `Off`.
    pub fn check_on(&self, source: Source) -> Result<(), Rejected> {
        match self.settings.of(source).is_on() {
            true => Ok(()),
            false => Err(Rejected::Off(source)),
        }
    }

    /// Keeps the events of a delivery. When this returns they are on the disk; they are applied
    /// afterwards.
    ///
    /// # Errors
    /// [`Rejected`]. What cannot be read is kept as a dead letter, and is no error.
    pub async fn receive(
        &self,
        source: Source,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<Receipt, Rejected> {
        self.authenticate(source, delivery, now)?;
        let settings = self.settings.of(source);
        let adapter = source.adapter();
        let mut receipt = Receipt::default();
        let mut arrivals = Vec::new();
        match (adapter.split)(delivery, settings) {
            Ok(parts) => {
                for part in parts {
                    match part {
                        Part::Event { key, body } => {
                            let deal_id = deal_id(source, &settings.id_prefix, &body);
                            arrivals.push(arrival(source, key, body, deal_id, now));
                        }
                        Part::Unknown { kind } => {
                            tracing::debug!(%source, kind, "an event that is not about deals");
                            receipt.unknown += 1;
                        }
                    }
                }
            }
            Err(Unreadable::Kept(reason)) => {
                let body = Value::String(String::from_utf8_lossy(&delivery.body).into_owned());
                let key = hashed(&delivery.body);
                arrivals.push(arrival(source, key, body, Err(reason), now));
            }
            Err(Unreadable::Refused(reason)) => {
                return Err(Error::Malformed(reason).into());
            }
        }
        receipt.received = arrivals.len();
        count(source, "received", receipt.received);
        count(source, "unknown", receipt.unknown);
        self.inbox.keep(arrivals).await?;
        Ok(receipt)
    }

    fn authenticate(
        &self,
        source: Source,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<(), Rejected> {
        self.check_on(source)?;
        let settings = self.settings.of(source);
        (source.adapter().authenticate)(delivery, settings, now).map_err(|refusal| {
            count(source, "refused", 1);
            tracing::debug!(%source, %refusal, "a delivery was refused");
            refusal.into()
        })
    }

    /// Answers HubSpot's custom workflow action: the deal that is known, with the properties that came
    /// along, scored now. Nothing is kept.
    ///
    /// # Errors
    /// [`Rejected`]; a deal that cannot be scored is no error, but an answer that says so.
    pub async fn act(
        &self,
        action: &Action,
        delivery: &Delivery,
        now: Timestamp,
    ) -> Result<Value, Rejected> {
        self.authenticate(Source::Hubspot, delivery, now)?;
        Ok(match self.score(action, now).await {
            Ok(score) => action_answer(Ok(&score)),
            Err(error) => {
                if let Error::Internal(cause) | Error::StoreAway(cause) = &error {
                    tracing::error!(error = format!("{cause:#}"), "a workflow action failed");
                    action_answer(Err("something went wrong; the log of dealrank has more"))
                } else {
                    action_answer(Err(&error.to_string()))
                }
            }
        })
    }

    async fn score(&self, action: &Action, now: Timestamp) -> Result<crate::scoring::Score> {
        let source = Source::Hubspot;
        if !action.is_of_deal() {
            let reason = "is not a deal: set `objectTypes` of the action to [\"DEAL\"]";
            return Err(Error::invalid("object.objectType", reason));
        }
        let scorer = self.book.scorer().await?.ok_or(Error::NoModel)?;
        let id = action.deal.as_deref().unwrap_or_default();
        let id = format!("{}{id}", self.settings.of(source).id_prefix);
        let id = DealId::new(&id).map_err(|reason| Error::invalid("object.objectId", reason))?;
        let stored = self.book.store().deal(&id).await?;
        let mut deal = stored.map_or_else(|| Deal::new(id), |stored| stored.deal);
        let context = Context {
            table: self.applier.table(source),
            received_at: now,
            now,
        };
        for fact in action.facts(&context)? {
            deal.apply(fact)
                .map_err(|reason| Error::invalid("object.properties", reason))?;
        }
        Ok(scorer.score(&deal, now))
    }

    /// Gives a dead letter another body: an event, as its source sends it or as it is kept. Further events
    /// of the same body become dead letters of their own, unless they are known.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the body has no event, or one that does not say which deal it is about.
    pub async fn repair(&self, seq: i64, body: Value) -> Result<InboxEvent> {
        let letter = self.book.store().dead_letter(seq).await?;
        let source = source_of(&letter)?;
        let settings = self.settings.of(source);
        let wrong = |reason| Error::invalid("", reason);
        let mut others = Vec::new();
        let (id, body) = match deal_id(source, &settings.id_prefix, &body) {
            Ok(id) => (id, body),
            Err(reason) => {
                let mut events = events_in(source, settings, &body).into_iter();
                let (_, first) = events.next().ok_or_else(|| wrong(reason))?;
                let id = deal_id(source, &settings.id_prefix, &first).map_err(wrong)?;
                for (key, body) in events {
                    let id = deal_id(source, &settings.id_prefix, &body).map_err(wrong)?;
                    let mut other = arrival(source, key, body, Ok(id), letter.received_at);
                    other.dead = Some(format!("was repaired along with {seq}"));
                    others.push(other);
                }
                (id, first)
            }
        };
        let store = self.book.store();
        store.repair_dead_letter(seq, &id, &body, &others).await?;
        store.dead_letter(seq).await
    }

    /// Tries to apply a dead letter again, by the settings as they are now.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn replay(&self, seq: i64) -> Result<Replayed> {
        let store = self.book.store();
        let letter = store.dead_letter(seq).await?;
        let now = now();
        let mut settled = self.applier.apply(vec![letter], now, Asked::No).await?;
        store.settle_inbox(&settled, now).await?;
        Ok(match settled.pop() {
            Some((_, Settled::Dead(reason))) => Replayed::Dead(reason),
            Some((_, Settled::Waiting | Settled::Unread)) => Replayed::Waiting,
            _ => Replayed::Applied,
        })
    }

    /// Puts all dead letters, or those of a source, back among the new events; answers with how many.
    pub async fn replay_all(&self, source: Option<Source>) -> Result<u64> {
        let source = source.map(Source::as_str);
        let count = self.book.store().replay_dead_letters(source).await?;
        self.wake.notify_one();
        Ok(count)
    }
}

/// The deal that an event is about, as we call it.
///
/// # Errors
/// When the event does not say it, or it cannot be an id.
pub(super) fn deal_id(source: Source, prefix: &str, body: &Value) -> Result<DealId, String> {
    let id = (source.adapter().deal)(body);
    let id = id.ok_or("does not say which deal it is about")?;
    DealId::new(&format!("{prefix}{id}"))
}

/// The events in a body as its source sends it, each with its key.
fn events_in(
    source: Source,
    settings: &super::SourceSettings,
    body: &Value,
) -> Vec<(String, Value)> {
    let delivery = Delivery {
        method: "POST".into(),
        url: String::new(),
        headers: BTreeMap::new(),
        path_secret: None,
        body: match body {
            Value::String(text) => text.clone().into_bytes(),
            other => other.to_string().into_bytes(),
        },
    };
    let parts = (source.adapter().split)(&delivery, settings).unwrap_or_default();
    let events = parts.into_iter().filter_map(|part| match part {
        Part::Event { key, body } => Some((key, body)),
        Part::Unknown { .. } => None,
    });
    events.collect()
}

/// # Errors
/// When the event was kept by a dealrank that knew another source.
pub(super) fn source_of(event: &InboxEvent) -> Result<Source> {
    let unknown = || Error::Conflict(format!("`{}` is no source of webhooks", event.source));
    Source::parse(&event.source).ok_or_else(unknown)
}

pub(super) fn count(source: Source, outcome: &'static str, events: usize) {
    let labels = [("source", source.as_str()), ("outcome", outcome)];
    metrics::counter!("webhook_events_total", &labels).increment(events as u64);
}

/// The tables of all sources, each with what the installation has different.
///
/// # Errors
/// `Malformed`.
fn tables(settings: &Webhooks, crms: &CrmsSettings) -> Result<BTreeMap<Source, Table>> {
    let table = |source: Source| {
        let table = settings.of(source).table(source);
        let wrong = |(key, reason)| Error::Malformed(format!("webhooks.{source}.{key}: {reason}"));
        let mut table = table.map_err(wrong)?;
        // What we write ourselves comes back, and is no news: a score is no reason for a score.
        if let Some(kind) = CrmKind::of(source.as_str()) {
            let ScoreFields {
                win_probability,
                score,
                grade,
                expected_value,
                reasons,
            } = &crms.of(kind).write_back.fields;
            for own in [win_probability, score, grade, expected_value, reasons] {
                table.insert(own, Target::Ignore);
                table.insert(&format!("custom_fields.{own}"), Target::Ignore);
            }
        }
        Ok((source, table))
    };
    SOURCES.into_iter().map(table).collect()
}
