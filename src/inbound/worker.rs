//! Applies what the inbox keeps, many events at a time, and keeps the inbox in order.
//!
//! Facts may be applied in any order and more than once, so nothing here needs to be exact: a process that
//! dies with events in hand leaves them to be applied again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::fields::Table;
use super::receiver::{count, deal_id, source_of};
use super::{Context, Meaning, Reading, Source, Webhooks};
use crate::app::now;
use crate::book::{Book, KeptEvent, Observed, Sighting};
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
            // What another process had in hand when it ended is not seen by what was written since.
            self.looked_seq = 0;
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

/// Whether an event of a deal that is not known leaves nothing to ask the CRM for.
fn is_whole(meaning: &Meaning) -> bool {
    matches!(
        meaning,
        Meaning::Deleted | Meaning::Facts { is_birth: true, .. }
    )
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
        self.note_departures(&reads, now).await?;
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
        let mut reading = (source.adapter().read)(&context, &event.body)
            .map_err(|fields| Error::Invalid(fields).to_string())?;
        // As exact as the store keeps it, so that it compares with what reads back.
        reading.at = Timestamp::from_microsecond(reading.at.as_microsecond()).unwrap_or(reading.at);
        Ok(Read {
            seq: event.seq,
            source,
            key: format!("{source}:{}", event.key),
            deal_id,
            reading,
        })
    }

    /// Deals that are gone from their CRM go from here. All comings and goings are noted first: so that a
    /// deal which is back in the same breath stays, and so that one is gone for good even if we end in
    /// between.
    async fn note_departures(&self, reads: &[Read], now: Timestamp) -> Result<()> {
        let store = self.book.store();
        let mut left = Vec::new();
        for read in reads {
            let at = Some(read.reading.at);
            let departure = match read.reading.meaning {
                Meaning::Deleted => {
                    left.push(read);
                    Departure {
                        departed_at: at,
                        returned_at: None,
                    }
                }
                Meaning::Restored => Departure {
                    departed_at: None,
                    returned_at: at,
                },
                Meaning::Facts { .. } | Meaning::Born { .. } | Meaning::Touched => continue,
            };
            store.put_departure(&read.deal_id, departure).await?;
        }
        let ids: Vec<&DealId> = left.iter().map(|read| &read.deal_id).collect();
        let known = store.departures(&ids).await?;
        for read in left {
            let (id, at) = (&read.deal_id, read.reading.at);
            let last = known.get(id).and_then(|known| known.departed_at);
            if last == Some(at) {
                let kept = self.told_since(id, at, now).await?;
                let returned_at = known.get(id).and_then(|known| known.returned_at);
                if kept.is_empty() && returned_at > last {
                    // It is back, and what told so is no longer kept.
                    continue;
                }
                match self.book.depart(id, at, kept).await {
                    Err(Error::NotFound { .. }) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// What was received of a deal, is still kept and tells of later.
    async fn told_since(
        &self,
        id: &DealId,
        departed_at: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<KeptEvent>> {
        let received = self.book.store().received_of(id).await?;
        let reads = received.iter();
        let reads = reads.filter_map(|event| self.read(event, now).ok());
        let later = reads.filter(|read| read.reading.at > departed_at);
        let kept = later.map(|read| KeptEvent {
            seq: read.seq,
            at: read.reading.at,
            asks: self.crms.contains_key(&read.source) && !is_whole(&read.reading.meaning),
            key: read.key,
        });
        Ok(kept.collect())
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
        for read in reads {
            // Also once the deal is back: what came in time was forgotten with the deletion.
            let departed_at = (departures.get(&read.deal_id)).and_then(|known| known.departed_at);
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
            if departed_at.is_some_and(|departed_at| read.reading.at <= departed_at) {
                count(read.source, "outlived", 1);
                settled.push((read.seq, Settled::Outlived));
                continue;
            }
            let says_something = is_birth || !facts.is_empty();
            seen.push((read.seq, read.source, is_all, says_something));
            sightings.push(Sighting {
                deal_id: read.deal_id,
                key: Some(read.key),
                at: read.reading.at,
                facts,
                is_birth,
            });
        }
        if sightings.is_empty() {
            return Ok(());
        }
        let observed = self.take(sightings, now).await?;
        for ((seq, source, is_all, says_something), observed) in seen.into_iter().zip(observed) {
            let can_ask = asked == Asked::No && self.crms.contains_key(&source);
            let says_too_little = !is_all || observed == Observed::Unknown;
            let (outcome, state) = match observed {
                Observed::Refused(reason) => ("dead", Settled::Dead(reason)),
                _ if can_ask && says_too_little => ("unread", Settled::Unread),
                Observed::Created | Observed::Changed => ("applied", Settled::Applied),
                Observed::Unchanged => ("unchanged", Settled::Applied),
                // There is nothing to be applied when the deal comes to be known.
                Observed::Unknown if !says_something => ("unchanged", Settled::Applied),
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
            .prune_inbox(
                before(self.settings.keep_hours.into()),
                before(24 * i64::from(self.settings.dead_days)),
            )
            .await?;
        tracing::debug!(expired, pruned, "tidied the inbox");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::SOURCES;
    use super::super::inbox::arrival;
    use super::*;
    use crate::book::BookSettings;
    use crate::config::Config;
    use crate::ranking::Accelerator;
    use crate::store::{Arrival, Store};

    fn at(day: u8) -> Timestamp {
        format!("2026-02-{day:02}T00:00:00Z").parse().unwrap()
    }

    async fn applier(folder: &tempfile::TempDir) -> Applier {
        let store = Store::open(&folder.path().join("store.sqlite")).await;
        let config = Config::from_layers(toml::Table::new(), None, []).unwrap();
        let exchange = Arc::new(config.exchange.clone());
        let settings = BookSettings::default();
        let book = Book::open(store.unwrap(), Accelerator::none(), exchange, settings).await;
        let webhooks = Arc::new(config.webhooks.clone());
        let table = |source: Source| (source, webhooks.of(source).table(source).unwrap());
        let tables = SOURCES.into_iter().map(table).collect();
        Applier::new(book.unwrap(), webhooks, tables, Vec::new())
    }

    fn event(key: &str, kind: &str, day: u8, data: Value) -> Arrival {
        let body = json!({"type": kind, "timestamp": at(day), "data": data});
        let id = deal_id(Source::Standard, "", &body);
        arrival(Source::Standard, key.into(), body, id, now())
    }

    fn upserted(day: u8) -> Arrival {
        let data = json!({"id": "d", "amount": day, "created_at": at(1)});
        event(&format!("upsert {day}"), "deal.upserted", day, data)
    }

    fn deleted(day: u8) -> Arrival {
        let data = json!({"deal_id": "d"});
        event(&format!("delete {day}"), "deal.deleted", day, data)
    }

    /// Without an end, so that the deal has to be known.
    fn called(day: u8) -> Arrival {
        let call = json!({"type": "activity", "at": at(day), "kind": "call"});
        let data = json!({"deal_id": "d", "events": [call]});
        event(&format!("call {day}"), "deal.events", day, data)
    }

    /// Keeps events, and works until nothing is left to do.
    async fn take(applier: &Applier, arrivals: impl IntoIterator<Item = Arrival>) {
        let mut arrivals: Vec<Arrival> = arrivals.into_iter().collect();
        let store = applier.book.store();
        store.put_in_inbox(&mut arrivals).await.unwrap();
        let mut rounds = Rounds::default();
        while rounds.next(applier).await.unwrap() > 0 {}
    }

    async fn amount(applier: &Applier) -> Option<String> {
        let id = DealId::new("d").unwrap();
        let stored = applier.book.store().deal(&id).await.unwrap();
        stored.map(|stored| stored.deal.amount.unwrap().to_string())
    }

    #[tokio::test]
    async fn a_deletion_that_arrives_late_does_not_end_a_deal_that_was_seen_after_it() {
        for order in [
            [2, 3, 1],
            [3, 2, 1],
            [1, 2, 3],
            [1, 3, 2],
            [2, 1, 3],
            [3, 1, 2],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let applier = applier(&folder).await;
            for day in order {
                let event = if day == 2 { deleted(2) } else { upserted(day) };
                take(&applier, [event]).await;
            }
            assert_eq!(amount(&applier).await.as_deref(), Some("3"), "{order:?}");
            take(&applier, [deleted(4)]).await;
            assert_eq!(amount(&applier).await, None, "{order:?}");
        }
    }

    /// All orders of the numbers below `count`.
    fn orders(count: usize) -> Vec<Vec<usize>> {
        if count == 0 {
            return vec![Vec::new()];
        }
        let shorter = orders(count - 1);
        let with_last = |order: &Vec<usize>| {
            let places = 0..count;
            let inserted = places.map(|place| {
                let mut longer = order.clone();
                longer.insert(place, count - 1);
                longer
            });
            inserted.collect::<Vec<_>>()
        };
        shorter.iter().flat_map(with_last).collect()
    }

    #[tokio::test]
    async fn a_deletion_forgets_the_same_in_every_order() {
        let id = DealId::new("d").unwrap();
        let mut found = Vec::new();
        for order in orders(5) {
            let folder = tempfile::tempdir().unwrap();
            let applier = applier(&folder).await;
            let told = [called(1), upserted(1), deleted(2), upserted(3), called(4)];
            for place in &order {
                take(&applier, [told[*place].clone()]).await;
            }
            let stored = applier.book.store().deal(&id).await.unwrap();
            found.push((stored.map(|stored| stored.deal), order));
        }
        assert_eq!(found.len(), 120);
        let first = found[0].0.clone().unwrap();
        let called_at: Vec<Timestamp> = first.activities.iter().map(|call| call.at).collect();
        assert_eq!(called_at, [at(4)]);
        for (deal, order) in found {
            assert_eq!(deal.as_ref(), Some(&first), "{order:?}");
        }
    }

    #[tokio::test]
    async fn what_is_in_hand_when_a_deletion_arrives_late_is_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        let store = applier.book.store();
        take(&applier, [upserted(1), called(1)]).await;
        // Applied, but whoever did so has not settled it yet.
        store.put_in_inbox(&mut [upserted(3)]).await.unwrap();
        let in_hand = store.claim_inbox(Claim::New, 1, now()).await.unwrap();
        let settled = applier.apply(in_hand, now(), Asked::No).await.unwrap();
        store.put_in_inbox(&mut [deleted(2)]).await.unwrap();
        let deletion = store.claim_inbox(Claim::New, 2, now()).await.unwrap();
        let deletion: Vec<_> = deletion.into_iter().skip(1).collect();
        let departed = applier.apply(deletion, now(), Asked::No).await.unwrap();
        assert_eq!(amount(&applier).await, None);
        for settled in [settled, departed] {
            store.settle_inbox(&settled, now()).await.unwrap();
        }
        take(&applier, []).await;
        let id = DealId::new("d").unwrap();
        let stored = store.deal(&id).await.unwrap().unwrap();
        assert_eq!(stored.deal.amount.unwrap().to_string(), "3");
        assert!(stored.deal.activities.is_empty());
    }

    #[tokio::test]
    async fn a_deal_that_is_known_to_be_back_stays_when_its_deletion_is_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        take(&applier, [upserted(1)]).await;
        let id = DealId::new("d").unwrap();
        let restored = Departure {
            departed_at: None,
            returned_at: Some(at(3)),
        };
        let store = applier.book.store();
        store.put_departure(&id, restored).await.unwrap();
        take(&applier, [deleted(2)]).await;
        assert_eq!(amount(&applier).await.as_deref(), Some("1"));
    }

    #[tokio::test]
    async fn a_late_deletion_takes_nothing_that_cannot_be_told_again() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        let id = DealId::new("d").unwrap();
        take(&applier, [upserted(1), called(1), upserted(3)]).await;
        let patch = json!({"priority": "High"});
        applier.book.patch(&id, patch, now()).await.unwrap();
        take(&applier, [deleted(2)]).await;
        let stored = applier.book.store().deal(&id).await.unwrap().unwrap();
        assert_eq!(stored.deal.priority.as_deref(), Some("High"));
        assert_eq!(stored.deal.activities.len(), 1);
        let known = applier.book.store().departures(&[&id]).await.unwrap();
        assert_eq!(known[&id].returned_at, Some(at(3)));
    }

    #[tokio::test]
    async fn a_deletion_leaves_what_waits_and_may_tell_of_later() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        let store = applier.book.store();
        take(&applier, [upserted(1)]).await;
        store.put_in_inbox(&mut [deleted(2)]).await.unwrap();
        let deletion = store.claim_inbox(Claim::New, 1, now()).await.unwrap();
        // They come while the deletion is in hand.
        let mut later = [called(1), upserted(3)];
        store.put_in_inbox(&mut later).await.unwrap();
        let settled = applier.apply(deletion, now(), Asked::No).await.unwrap();
        assert_eq!(amount(&applier).await, None);
        store.settle_inbox(&settled, now()).await.unwrap();
        take(&applier, []).await;
        assert_eq!(amount(&applier).await.as_deref(), Some("3"));
    }

    #[tokio::test]
    async fn what_waits_for_a_deal_that_leaves_is_settled() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        let store = applier.book.store();
        take(&applier, [called(1), called(5)]).await;
        assert_eq!(store.inbox_health().await.unwrap().waiting, 2);
        take(&applier, [deleted(3)]).await;
        let health = store.inbox_health().await.unwrap();
        assert_eq!((health.new, health.waiting), (0, 1), "that of later waits");
        take(&applier, [upserted(4)]).await;
        assert_eq!(store.inbox_health().await.unwrap().waiting, 0);
    }

    #[tokio::test]
    async fn a_deal_does_not_come_to_be_that_left_while_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        let id = DealId::new("d").unwrap();
        let departure = Departure {
            departed_at: Some(at(2)),
            returned_at: None,
        };
        let store = applier.book.store();
        store.put_departure(&id, departure).await.unwrap();
        let sighting = |day| Sighting {
            deal_id: id.clone(),
            key: None,
            at: at(day),
            facts: Vec::new(),
            is_birth: true,
        };
        let gone = applier.book.observe(vec![sighting(2)], at(5)).await;
        assert!(matches!(gone, Err(Error::Busy(_))), "{gone:?}");
        let back = applier.book.observe(vec![sighting(3)], at(5)).await;
        assert_eq!(back.unwrap(), [Observed::Created]);
        let known = store.departures(&[&id]).await.unwrap();
        assert_eq!(known[&id].gone_until(), None);
    }

    #[tokio::test]
    async fn an_event_that_another_process_had_in_hand_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        take(&applier, [called(1)]).await;
        let deal = crate::domain::Deal::new(DealId::new("d").unwrap());
        applier.book.put(deal, at(3)).await.unwrap();
        // As far as this process knows, all deals were looked at.
        let mut rounds = Rounds {
            looked_seq: i64::MAX,
            ..Rounds::default()
        };
        while rounds.next(&applier).await.unwrap() > 0 {}
        assert_eq!(rounds.next(&applier).await.unwrap(), 1);
        let health = applier.book.store().inbox_health().await.unwrap();
        assert_eq!(health.waiting, 0);
    }

    #[tokio::test]
    async fn what_says_nothing_of_a_deal_that_is_not_known_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        let body = json!({"event_type": "record.updated", "id": {"record_id": "d"}});
        let id = deal_id(Source::Attio, "", &body);
        let touched = arrival(Source::Attio, "k".into(), body, id, now());
        take(&applier, [touched]).await;
        let health = applier.book.store().inbox_health().await.unwrap();
        assert_eq!((health.new, health.waiting), (0, 0));
    }

    #[tokio::test]
    async fn dead_letters_are_kept_for_their_days() {
        let folder = tempfile::tempdir().unwrap();
        let applier = applier(&folder).await;
        let letter = |key: &str, days: i64| {
            let age = SignedDuration::from_hours(24 * days);
            let mut letter = deleted(1);
            (letter.key, letter.dead) = (key.into(), Some("why".into()));
            letter.received_at = now().checked_sub(age).unwrap();
            letter
        };
        take(&applier, [letter("old", 91), letter("new", 89)]).await;
        let left = applier.book.store().dead_letters(None, 0, 10).await;
        let left: Vec<String> = left.unwrap().into_iter().map(|l| l.key).collect();
        assert_eq!(left, ["new"]);
    }
}
