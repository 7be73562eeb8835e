//! Asks the CRM for deals of which an event says too little: a new one, one that is not known here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use serde_json::Value;

use super::inbox::arrival;
use super::receiver::{count, source_of};
use super::worker::{Applier, Asked};
use super::{Context, Meaning, Source, hashed};
use crate::app::now;
use crate::book::{Observed, Sighting};
use crate::crm::{Crm, CrmError};
use crate::domain::DealId;
use crate::error::Result;
use crate::store::{Claim, Departure, InboxEvent, Settled};

/// Events in hand at once.
const PULL_EVENTS_MAX: u32 = 64;
/// Deals asked for at once; the client of each CRM has a limit of its own.
const PULL_DEALS_MAX: usize = 8;
/// How often to look for what nobody told us of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long to leave a CRM alone that does not answer, and one that refuses us until somebody has mended
/// the settings.
const AWAY_SECONDS: i64 = 30;
const REFUSED_SECONDS: i64 = 300;

/// What a deal that was asked for came to.
enum Pulled {
    /// Its events can be applied now.
    Answered,
    Later(Timestamp),
}

pub(super) async fn work(applier: Arc<Applier>) {
    loop {
        match round(&applier).await {
            Ok(0) => {
                let _ = tokio::time::timeout(LOOK_EVERY, applier.unread.notified()).await;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!("deals of CRMs cannot be read for now: {error:#}");
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// Asks for some deals; answers with how many events they were for.
async fn round(applier: &Applier) -> Result<usize> {
    let store = applier.book().store();
    let events = store
        .claim_inbox(Claim::Unread, PULL_EVENTS_MAX, now())
        .await?;
    let count = events.len();
    let mut by_deal: BTreeMap<(String, Option<String>), Vec<InboxEvent>> = BTreeMap::new();
    for event in events {
        let deal = (event.source.clone(), event.deal_id.clone());
        by_deal.entry(deal).or_default().push(event);
    }
    let mut answers = stream::iter(by_deal.into_values())
        .map(async |events| settle(applier, events).await)
        .buffer_unordered(PULL_DEALS_MAX);
    while let Some(settled) = answers.next().await {
        store.settle_inbox(&settled?, now()).await?;
    }
    Ok(count)
}

async fn settle(applier: &Applier, events: Vec<InboxEvent>) -> Result<Vec<(i64, Settled)>> {
    let pulled = match source_of(&events[0]).ok() {
        Some(source) => pull(applier, source, &events[0]).await?,
        None => Pulled::Answered,
    };
    match pulled {
        Pulled::Answered => applier.apply(events, now(), Asked::Yes).await,
        Pulled::Later(at) => {
            let later = events
                .into_iter()
                .map(|event| (event.seq, Settled::Later(at)));
            Ok(later.collect())
        }
    }
}

async fn pull(applier: &Applier, source: Source, event: &InboxEvent) -> Result<Pulled> {
    let id = (source.adapter().deal)(&event.body);
    let (Some(crm), Some(id), Some(ours)) = (applier.crm(source), id, &event.deal_id) else {
        return Ok(Pulled::Answered);
    };
    let Ok(deal_id) = DealId::new(ours) else {
        return Ok(Pulled::Answered);
    };
    match read(applier, source, crm, &id).await {
        Ok(whole) => {
            see(applier, source, deal_id, whole).await?;
            Ok(Pulled::Answered)
        }
        // What the events themselves say is all that there is.
        Err(CrmError::NotFound | CrmError::Refused(_)) => Ok(Pulled::Answered),
        Err(error) => {
            count(source, "unread", 1);
            tracing::warn!(%source, "a deal cannot be read from its CRM: {error}");
            let seconds = match error {
                CrmError::Misconfigured(_) => REFUSED_SECONDS,
                CrmError::Busy(Some(wait)) => wait.as_secs().try_into().unwrap_or(AWAY_SECONDS),
                _ => AWAY_SECONDS,
            };
            let later = now().checked_add(jiff::SignedDuration::from_secs(seconds));
            Ok(Pulled::Later(later.unwrap_or(Timestamp::MAX)))
        }
    }
}

async fn read(
    applier: &Applier,
    source: Source,
    crm: &Crm,
    id: &str,
) -> std::result::Result<Value, CrmError> {
    // HubSpot gives but a handful of properties unasked; the others give all.
    let fields = match source {
        Source::Hubspot => applier.table(source).names(),
        _ => Vec::new(),
    };
    crm.deal(id, &fields).await
}

/// Takes a whole deal as of its last change.
async fn see(applier: &Applier, source: Source, deal_id: DealId, whole: Value) -> Result<()> {
    let Some(as_event) = source.adapter().whole else {
        return Ok(());
    };
    let now = now();
    let context = Context {
        table: applier.table(source),
        received_at: now,
        now,
    };
    let event = as_event(whole, now);
    let reading = match (source.adapter().read)(&context, &event) {
        Ok(reading) => reading,
        Err(fields) => {
            let reason = crate::error::Error::Invalid(fields).to_string();
            return bury(applier, source, deal_id, event, reason).await;
        }
    };
    let departures = applier.book().store().departures(&[&deal_id]).await?;
    let gone_until = departures.get(&deal_id).and_then(Departure::gone_until);
    let Meaning::Facts { facts, is_birth } = reading.meaning else {
        return Ok(());
    };
    if gone_until.is_none_or(|gone| reading.at > gone) {
        let sighting = Sighting {
            deal_id: deal_id.clone(),
            key: None,
            at: reading.at,
            facts,
            is_birth,
        };
        let observed = applier.book().observe(vec![sighting], now).await?;
        if let Some(Observed::Refused(reason)) = observed.into_iter().next() {
            return bury(applier, source, deal_id, event, reason).await;
        }
        count(source, "pulled", 1);
    }
    Ok(())
}

/// Keeps a deal that cannot be taken as a dead letter; as it is, once.
async fn bury(
    applier: &Applier,
    source: Source,
    deal_id: DealId,
    event: Value,
    reason: String,
) -> Result<()> {
    tracing::warn!(%source, %deal_id, reason, "a deal from a CRM cannot be taken");
    let key = format!("pulled:{}", hashed(event.to_string().as_bytes()));
    let mut letter = arrival(source, key, event, Ok(deal_id), now());
    letter.dead = Some(reason);
    applier.book().store().put_in_inbox(&mut [letter]).await?;
    count(source, "dead", 1);
    Ok(())
}
