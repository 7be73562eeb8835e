//! What is looked at now and then, by the one process that leads: deals that stall, how long the queues
//! are, what is no longer kept.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::patience::CircuitSettings;
use crate::app::now;
use crate::book::Book;
use crate::config::Config;
use crate::error::Result;
use crate::insight::Scope;
use crate::insight::attention::{WrongAttention, misprioritized};
use crate::outbound::{EventType, Receiver};
use crate::store::Store;

/// How often queues are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(10);
/// Enough for what is kept for days.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

pub(super) fn start(book: &Book, config: &Config, is_leading: watch::Receiver<bool>) {
    let (store, settings) = (book.store(), &config.outbound);
    if settings.stalled_check_minutes > 0 {
        let every = Duration::from_secs(60 * u64::from(settings.stalled_check_minutes));
        let book = book.clone();
        tokio::spawn(rounds(
            is_leading.clone(),
            every,
            "deals that need another look",
            move || {
                let book = book.clone();
                async move { tell_insights(&book, now()).await }
            },
        ));
    }
    let (queues, circuit, queue_max) = (store.clone(), settings.circuit(), settings.queue_max);
    tokio::spawn(rounds(
        is_leading.clone(),
        MEASURE_EVERY,
        "queues",
        move || {
            let store = queues.clone();
            async move { measure(&store, &circuit, queue_max, now()).await }
        },
    ));
    if settings.keep_days > 0 {
        let keep = SignedDuration::from_hours(24 * i64::from(settings.keep_days));
        let store = store.clone();
        tokio::spawn(rounds(
            is_leading,
            PRUNE_EVERY,
            "old deliveries",
            move || {
                let store = store.clone();
                async move {
                    let cutoff = now().saturating_sub(keep).unwrap_or(Timestamp::MIN);
                    store.prune_outbox(cutoff).await.map(drop)
                }
            },
        ));
    }
}

/// Does something at once and then every so often, while this process leads.
async fn rounds<F: Future<Output = Result<()>>>(
    mut is_leading: watch::Receiver<bool>,
    every: Duration,
    what: &'static str,
    look: impl Fn() -> F,
) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if is_leading.wait_for(|is_leading| *is_leading).await.is_err() {
            return;
        }
        ticks.tick().await;
        if *is_leading.borrow()
            && let Err(error) = look().await
        {
            tracing::warn!("could not look after {what}: {error:#}");
        }
    }
}

/// Tells of deals that stall and of those that get the wrong attention, if anybody wants to know.
async fn tell_insights(book: &Book, at: Timestamp) -> Result<()> {
    let store = book.store();
    if store.is_wanted(EventType::DealStalled).await? {
        let limits = book.survey().await?.limits();
        while store.tell_stalled(&limits, at).await? > 0 {}
    }
    if store.is_wanted(EventType::DealMisprioritized).await? {
        let survey = book.survey().await?;
        let found = misprioritized(&survey, &Scope::default(), at, usize::MAX);
        let neglected = found.neglected.into_iter();
        let overworked = found.overworked.into_iter();
        let list: Vec<_> = (neglected.map(|deal| (WrongAttention::Neglected, deal)))
            .chain(overworked.map(|deal| (WrongAttention::Overworked, deal)))
            .collect();
        while store.tell_misprioritized(&list, at).await? > 0 {}
    }
    Ok(())
}

/// Tells the metrics how queues and receivers do, and ends subscriptions whose queue is too long. Nobody
/// would switch the write-back on again, and of its queue only the last scores count: a CRM that was away
/// for so long is gone through as a whole instead.
async fn measure(
    store: &Store,
    circuit: &CircuitSettings,
    queue_max: u32,
    at: Timestamp,
) -> Result<()> {
    let (mut pending, mut circuits_open, mut oldest) = (0, 0_u32, at);
    for subscription in store.subscriptions().await? {
        let backlog = store.backlog(&subscription.id).await?;
        pending += backlog.pending;
        oldest = backlog.oldest.map_or(oldest, |first| first.min(oldest));
        if !subscription.is_enabled() {
            continue;
        }
        circuits_open += u32::from(subscription.circuit.is_open(circuit));
        if backlog.pending <= u64::from(queue_max) {
            continue;
        }
        if let Receiver::WriteBack { crm, .. } = subscription.receiver {
            let crm = crm.as_str();
            tracing::warn!(
                crm,
                "outbound.queue_max: more than {queue_max} scores wait; all deals are gone through instead"
            );
            store.sweep_instead(&subscription.id).await?;
        } else {
            let reason = format!("outbound.queue_max: more than {queue_max} events wait");
            tracing::warn!(subscription = subscription.id, "disabled: {reason}");
            store
                .disable_subscription(&subscription.id, &reason, at)
                .await?;
        }
    }
    metrics::gauge!("outbound_pending").set(pending as f64);
    metrics::gauge!("outbound_oldest_pending_seconds").set(at.duration_since(oldest).as_secs_f64());
    metrics::gauge!("outbound_circuits_open").set(f64::from(circuits_open));
    Ok(())
}
