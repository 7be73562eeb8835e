//! What is done now and then, unasked: scores refreshed, models trained, old entries removed. Of several
//! processes on a store one does it, the leader; what it writes is refused once another one leads.

use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Jobs, Task, TrainRequest, fail_interrupted, rejects_path};
use crate::app::now;
use crate::config::Config;
use crate::error::Result;
use crate::nodes::LEASE_LASTS;
use crate::store::{Fence, NODE_LEASE};

/// A pause never lasts longer: someone may have trained meanwhile, and clocks are set.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Enough for what is kept for an hour.
const FORGET_EVERY: Duration = Duration::from_secs(600);
/// Enough for what is kept for days.
const PRUNE_EVERY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn start(jobs: &Jobs, config: &Config) {
    tokio::spawn(tell_role(jobs.clone()));
    tokio::spawn(look_after_others(jobs.clone()));
    tokio::spawn(forget(jobs.clone()));
    if config.refresh_minutes > 0 {
        let every = Duration::from_secs(config.refresh_minutes.saturating_mul(60));
        tokio::spawn(refresh(jobs.clone(), every));
    }
    if let Some(every) = config.training.every.0 {
        tokio::spawn(retrain(jobs.clone(), every));
    }
    if config.ledger.keep_days > 0 {
        let keep = SignedDuration::from_hours(24 * i64::from(config.ledger.keep_days));
        tokio::spawn(prune(jobs.clone(), keep, config.rejects_dir()));
    }
}

/// Time alone moves scores: asks for a refresh every now and then, while there is a model.
async fn refresh(jobs: Jobs, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if let Some(fence) = jobs.leader.fence()
            && let Ok(Some(_)) = jobs.book.scorer().await
            && let Err(error) = jobs.submit_under(Task::Refresh, Some(fence)).await
        {
            tracing::warn!("skipped a refresh of the scores: {error}");
        }
    }
}

/// Asks for a training whenever the last one is old enough.
async fn retrain(jobs: Jobs, every: SignedDuration) {
    loop {
        let fence = jobs.leader.acquired().await;
        match retrain_if_due(&jobs, fence, every, now()).await {
            Ok(pause) => tokio::time::sleep(pause).await,
            Err(error) => {
                tracing::warn!("skipped a training: {error:#}");
                tokio::time::sleep(PAUSE_MAX).await;
            }
        }
    }
}

/// Asks for a training if one is due, and answers with how long to wait before looking again. The
/// store tells when the last one was, so that a restart changes nothing. The first model is somebody's
/// decision, and without a newly closed deal there is nothing to learn.
async fn retrain_if_due(
    jobs: &Jobs,
    fence: Fence,
    every: SignedDuration,
    now: Timestamp,
) -> Result<Duration> {
    let store = jobs.book.store();
    let pause = |wait: SignedDuration| wait.unsigned_abs().min(PAUSE_MAX);
    let Some(last) = store.last_training().await? else {
        return Ok(pause(every));
    };
    let wait = until_due(last, every, now);
    if !wait.is_zero() {
        return Ok(pause(wait));
    }
    if let Some(champion) = jobs.book.scorer().await?
        && store.has_closed_since(last).await?
    {
        // What is protected or left out stays so, whoever said it.
        let request = TrainRequest {
            mapping: Some(champion.model().mapping.clone()),
            ..TrainRequest::default()
        };
        jobs.submit_under(Task::Train(request), Some(fence)).await?;
    }
    Ok(pause(every))
}

/// How long until a training is due; zero when it is.
fn until_due(last: Timestamp, every: SignedDuration, now: Timestamp) -> SignedDuration {
    let since = now.duration_since(last);
    every
        .saturating_sub(since)
        .clamp(SignedDuration::ZERO, every)
}

/// Ticks of which none is made up for: who follows for days has missed many by the time it leads.
fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Tells the log and the metrics whether this process leads.
async fn tell_role(jobs: Jobs) {
    let mut held = jobs.leader.watch();
    let gauge = metrics::gauge!("dealrank_leader");
    loop {
        let fence = held.borrow_and_update().clone();
        jobs.leading.send_replace(fence.is_some());
        gauge.set(if fence.is_some() { 1.0 } else { 0.0 });
        if jobs.book.store().is_shared() {
            match fence {
                Some(fence) => tracing::info!(token = fence.token, "this process leads"),
                None => tracing::info!("this process follows"),
            }
        }
        if held.changed().await.is_err() {
            return;
        }
    }
}

/// Fails the jobs of processes that are gone, as long as this one leads.
async fn look_after_others(jobs: Jobs) {
    loop {
        let fence = jobs.leader.acquired().await;
        // After an outage of the store all leases have run out: whoever lives has renewed by then.
        tokio::time::sleep(LEASE_LASTS).await;
        if jobs.leader.fence() != Some(fence) {
            continue;
        }
        if let Err(error) = fail_interrupted(&jobs.book, &jobs.node, None).await {
            tracing::warn!("could not look after interrupted jobs: {error:#}");
        }
    }
}

/// Forgets which deals were erased, once nobody has to follow any more, and who is long gone.
async fn forget(jobs: Jobs) {
    let mut ticks = ticks(FORGET_EVERY);
    loop {
        ticks.tick().await;
        jobs.leader.acquired().await;
        let store = jobs.book.store();
        let forgotten = async {
            store.forget_erased().await?;
            store.forget_leases(NODE_LEASE, FORGET_EVERY).await
        };
        if let Err(error) = forgotten.await {
            tracing::warn!("could not forget what nobody needs any more: {error:#}");
        }
    }
}

/// Removes what is older than it is kept, at the start and then once a day.
async fn prune(jobs: Jobs, keep: SignedDuration, rejects_dir: PathBuf) {
    let mut ticks = ticks(PRUNE_EVERY);
    loop {
        ticks.tick().await;
        let fence = jobs.leader.acquired().await;
        let now = now();
        let cutoff = now.saturating_sub(keep).unwrap_or(Timestamp::MIN);
        match jobs.book.store().prune(now, cutoff, Some(&fence)).await {
            Ok(pruned) => {
                for job in &pruned.jobs {
                    // Few jobs have one.
                    let _ = tokio::fs::remove_file(rejects_path(&rejects_dir, job)).await;
                }
                tracing::debug!(?pruned, "removed what is no longer kept");
            }
            Err(error) => tracing::warn!("could not remove what is no longer kept: {error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_training_is_due_when_the_last_one_is_old_enough() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let week = SignedDuration::from_hours(7 * 24);
        let last = at("2026-03-01T12:00:00Z");
        let wait = |now: &str| until_due(last, week, at(now));
        assert_eq!(wait("2026-03-01T12:00:00Z"), week);
        assert_eq!(wait("2026-03-08T11:00:00Z"), SignedDuration::from_hours(1));
        assert_eq!(wait("2026-03-08T12:00:00Z"), SignedDuration::ZERO);
        assert_eq!(wait("2026-07-01T00:00:00Z"), SignedDuration::ZERO);
        // A clock that was set back does not put a training off for longer than the interval.
        assert_eq!(wait("2025-01-01T00:00:00Z"), week);
    }
}
