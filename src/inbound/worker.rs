//! Applies what the inbox keeps, many events at a time, and keeps the inbox in order.
//!
//! Facts may be applied in any order and more than once, so nothing here needs to be exact: a process that
//! dies with events in hand leaves them to be applied again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::fields::Table;
use super::receiver::{count, deal_id, source_of};
use super::{Context, Meaning, Reading, Source, Webhooks};
use crate::app::now;
use crate::book::{Book, Observed, Sighting};
use crate::crm::Crm;
use crate::domain::DealId;
use crate::error::{Error, Result};
use crate::store::{Claim, Departure, InboxEvent, Settled};

/// Events of one transaction: few enough that whoever writes meanwhile does not wait for long.
const APPLY_EVENTS_MAX: u32 = 64;
/// How often to look for what nobody told us of: events that another process left, deals that became
/// known.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to measure the inbox.
const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// How often to remove what is no longer kept.
const TIDY_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn work(applier: Arc<Applier>, wake: Arc<Notify>) {
    let mut rounds = Rounds::default();
    loop {
        match rounds.next(&applier).await {
            Ok(0) => {
                let _ = tokio::time::timeout(LOOK_EVERY, wake.notified()).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("events of CRMs have to wait: {error:#}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// What the worker remembers from round to round.
#[derive(Debug, Default)]
struct Rounds {
    /// Deals up to this number of the sequence were looked at for events that wait for them.
    looked_seq: i64,
    looked_at: Option<Instant>,
    measured_at: Option<Instant>,
    tidied_at: Option<Instant>,
}

fn is_due(at: &mut Option<Instant>, every: Duration) -> bool {
    let is_due = at.is_none_or(|at| at.elapsed() >= every);
    if is_due {
        *at = Some(Instant::now());
    }
    is_due
}

impl Rounds {
    /// Applies some events; answers with how many.
    async fn next(&mut self, applier: &Applier) -> Result<usize> {
        let store = applier.book.store();
        let mut events = store
            .claim_inbox(Claim::New, APPLY_EVENTS_MAX, now())
            .await?;
        let is_idle = events.is_empty();
        if is_due(
            &mut self.looked_at,
            if is_idle { Duration::ZERO } else { LOOK_EVERY },
        ) {
            let seq = store.moment().await?.seq;
            let since_seq = self.looked_seq;
            let awaited = Claim::Awaited { since_seq };
            let awaited = store.claim_inbox(awaited, APPLY_EVENTS_MAX, now()).await?;
            if awaited.len() < APPLY_EVENTS_MAX as usize {
                self.looked_seq = seq;
            }
            events.extend(awaited);
        }
        let count = events.len();
        if count > 0 {
            let settled = applier.apply(events, now(), Asked::No).await?;
            store.settle_inbox(&settled, now()).await?;
            if settled.iter().any(|(_, state)| *state == Settled::Unread) {
                applier.unread.notify_one();
            }
        }
        if is_due(&mut self.measured_at, MEASURE_EVERY) {
            applier.measure().await?;
        }
        if is_due(&mut self.tidied_at, TIDY_EVERY) {
            applier.tidy().await?;
        }
        Ok(count)
    }
}

/// Turns kept events into facts of deals.
#[derive(Debug)]
pub(super) struct Applier {
    book: Book,
    settings: Arc<Webhooks>,
    tables: BTreeMap<Source, Table>,
    crms: BTreeMap<Source, Crm>,
    /// Told of events that say too little.
    pub unread: Notify,
}

/// Whether the CRM was asked for the deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Yes,
    No,
}

/// An event that was read.
struct Read {
    seq: i64,
    source: Source,
    key: String,
    deal_id: DealId,
    reading: Reading,
}

impl Applier {
    pub fn new(
        book: Book,
        settings: Arc<Webhooks>,
        tables: BTreeMap<Source, Table>,
        crms: Vec<Crm>,
    ) -> Self {
        let crms = crms.into_iter();
        let crms = crms.filter_map(|crm| Some((Source::parse(crm.kind().as_str())?, crm)));
        Self {
            book,
            settings,
            tables,
            crms: crms.collect(),
            unread: Notify::new(),
        }
    }

    pub fn book(&self) -> &Book {
        &self.book
    }

    /// The interface of a source, where it is configured.
    pub fn crm(&self, source: Source) -> Option<&Crm> {
        self.crms.get(&source)
    }

    pub fn table(&self, source: Source) -> &Table {
        &self.tables[&source]
    }

    /// Applies events, and says what each of them came to.
    ///
    /// # Errors
    /// When the store fails; all of them may then be tried again.
    pub async fn apply(
        &self,
        events: Vec<InboxEvent>,
        now: Timestamp,
        asked: Asked,
    ) -> Result<Vec<(i64, Settled)>> {
        let mut settled = Vec::with_capacity(events.len());
        let mut reads = Vec::with_capacity(events.len());
        for event in events {
            match self.read(&event, now) {
                Ok(read) => reads.push(read),
                Err(reason) => {
                    if let Some(source) = Source::parse(&event.source) {
                        count(source, "dead", 1);
                    }
                    settled.push((event.seq, Settled::Dead(reason)));
                }
            }
        }
        for read in &reads {
            self.note_departure(read).await?;
        }
        self.observe(reads, now, asked, &mut settled).await?;
        Ok(settled)
    }

    fn read(&self, event: &InboxEvent, now: Timestamp) -> Result<Read, String> {
        let source = source_of(event).map_err(|e| e.to_string())?;
        let prefix = &self.settings.of(source).id_prefix;
        let context = Context {
            table: self.table(source),
            received_at: event.received_at,
            now,
        };
        let deal_id = deal_id(source, prefix, &event.body)?;
        let reading = (source.adapter().read)(&context, &event.body)
            .map_err(|fields| Error::Invalid(fields).to_string())?;
        Ok(Read {
            seq: event.seq,
            source,
            key: format!("{source}:{}", event.key),
            deal_id,
            reading,
        })
    }

    /// A deal that is gone from its CRM goes from here; noted first, so that it is gone for good even if
    /// we end in between.
    async fn note_departure(&self, read: &Read) -> Result<()> {
        let at = Some(read.reading.at);
        let departure = match read.reading.meaning {
            Meaning::Deleted => Departure {
                departed_at: at,
                returned_at: None,
            },
            Meaning::Restored => Departure {
                departed_at: None,
                returned_at: at,
            },
            Meaning::Facts { .. } | Meaning::Born { .. } | Meaning::Touched => return Ok(()),
        };
        let store = self.book.store();
        store.put_departure(&read.deal_id, departure).await?;
        let known = store.departures(&[&read.deal_id]).await?;
        let is_gone = known.get(&read.deal_id).and_then(Departure::gone_until);
        if read.reading.meaning == Meaning::Deleted && is_gone == at {
            self.erase(&read.deal_id).await?;
        }
        Ok(())
    }

    async fn erase(&self, id: &DealId) -> Result<()> {
        match self.book.erase(id).await {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// Erases deals that came to be, by what was seen of them at a moment, although they had left by
    /// then: elsewhere the departure was noted while we did not look. It is noted before the deal is
    /// erased there, and we look after it was written here: one of the two finds it.
    pub async fn take_back(&self, born: &BTreeMap<DealId, Timestamp>) -> Result<()> {
        if born.is_empty() {
            return Ok(());
        }
        let ids: Vec<&DealId> = born.keys().collect();
        let departures = self.book.store().departures(&ids).await?;
        for (id, seen_at) in born {
            let gone_until = departures.get(id).and_then(Departure::gone_until);
            if gone_until.is_some_and(|gone| *seen_at <= gone) {
                self.erase(id).await?;
            }
        }
        Ok(())
    }

    async fn observe(
        &self,
        reads: Vec<Read>,
        now: Timestamp,
        asked: Asked,
        settled: &mut Vec<(i64, Settled)>,
    ) -> Result<()> {
        let ids: Vec<&DealId> = reads.iter().map(|read| &read.deal_id).collect();
        let departures = self.book.store().departures(&ids).await?;
        let mut seen = Vec::with_capacity(reads.len());
        let mut sightings = Vec::with_capacity(reads.len());
        let mut newest: BTreeMap<DealId, Timestamp> = BTreeMap::new();
        for read in reads {
            let gone_until = departures
                .get(&read.deal_id)
                .and_then(Departure::gone_until);
            let (facts, is_birth, is_all) = match read.reading.meaning {
                Meaning::Facts { facts, is_birth } => (facts, is_birth, true),
                Meaning::Born { facts } => (facts, true, false),
                Meaning::Touched | Meaning::Restored => (Vec::new(), false, false),
                Meaning::Deleted => {
                    count(read.source, "applied", 1);
                    settled.push((read.seq, Settled::Applied));
                    continue;
                }
            };
            if gone_until.is_some_and(|gone| read.reading.at <= gone) {
                count(read.source, "outlived", 1);
                settled.push((read.seq, Settled::Applied));
                continue;
            }
            let newest = newest
                .entry(read.deal_id.clone())
                .or_insert(read.reading.at);
            *newest = read.reading.at.max(*newest);
            seen.push((read.seq, read.source, is_all));
            sightings.push(Sighting {
                deal_id: read.deal_id,
                key: Some(read.key),
                facts,
                is_birth,
            });
        }
        if sightings.is_empty() {
            return Ok(());
        }
        let deal_ids: Vec<DealId> = sightings.iter().map(|s| s.deal_id.clone()).collect();
        let observed = self.take(sightings, now).await?;
        let born = deal_ids.iter().zip(&observed);
        let born = born.filter(|(_, observed)| **observed == Observed::Created);
        let born: BTreeSet<&DealId> = born.map(|(id, _)| id).collect();
        newest.retain(|id, _| born.contains(id));
        self.take_back(&newest).await?;
        for ((seq, source, is_all), observed) in seen.into_iter().zip(observed) {
            let can_ask = asked == Asked::No && self.crms.contains_key(&source);
            let says_too_little = !is_all || observed == Observed::Unknown;
            let (outcome, state) = match observed {
                Observed::Refused(reason) => ("dead", Settled::Dead(reason)),
                _ if can_ask && says_too_little => ("unread", Settled::Unread),
                Observed::Created | Observed::Changed => ("applied", Settled::Applied),
                Observed::Unchanged => ("unchanged", Settled::Applied),
                Observed::Unknown => ("waiting", Settled::Waiting),
            };
            count(source, outcome, 1);
            settled.push((seq, state));
        }
        Ok(())
    }

    /// All together; where that fails for a reason of its own, each alone, so that one that cannot be
    /// applied does not hold up the others for ever.
    async fn take(&self, sightings: Vec<Sighting>, now: Timestamp) -> Result<Vec<Observed>> {
        match self.book.observe(sightings.clone(), now).await {
            Err(Error::Internal(cause)) => {
                tracing::warn!("events are applied one by one: {cause:#}");
            }
            other => return other,
        }
        let mut observed = Vec::with_capacity(sightings.len());
        for sighting in sightings {
            match self.book.observe(vec![sighting], now).await {
                Ok(one) => observed.extend(one),
                Err(Error::Internal(cause)) => {
                    tracing::error!(error = format!("{cause:#}"), "an event cannot be applied");
                    let reason = "something went wrong here; the log has more";
                    observed.push(Observed::Refused(reason.into()));
                }
                Err(other) => return Err(other),
            }
        }
        Ok(observed)
    }

    async fn measure(&self) -> Result<()> {
        let health = self.book.store().inbox_health().await?;
        for (state, count) in [
            ("new", health.new),
            ("unread", health.unread),
            ("waiting", health.waiting),
            ("dead", health.dead),
        ] {
            metrics::gauge!("inbox_events", "state" => state).set(count as f64);
        }
        let lag = health.oldest_new_at.map(|at| now().duration_since(at));
        let lag = lag.unwrap_or_default().max(SignedDuration::ZERO);
        metrics::gauge!("inbox_lag_seconds").set(lag.as_secs_f64());
        Ok(())
    }

    async fn tidy(&self) -> Result<()> {
        let (store, now) = (self.book.store(), now());
        let before = |hours: i64| {
            let kept = SignedDuration::from_hours(hours);
            now.saturating_sub(kept).unwrap_or(Timestamp::MIN)
        };
        let days = self.settings.waiting_days;
        let reason = format!("its deal has not become known within {days} days");
        let cutoff = before(24 * i64::from(days));
        let expired = store.expire_inbox(cutoff, &reason, now).await?;
        let pruned = store
            .prune_inbox(before(self.settings.keep_hours.into()))
            .await?;
        tracing::debug!(expired, pruned, "tidied the inbox");
        Ok(())
    }
}
