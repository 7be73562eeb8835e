//! Fills the accelerator from the store, and lets Redis catch up with it: at the start, after an
//! outage, and when another process has written without telling Redis.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Inner;
use crate::error::Result;
use crate::progress::{OnProgress, Progress, silent};
use crate::ranking::{Accelerator, AcceleratorHealth, Change, Draft, Mark, Moment};
use crate::store::{Store, Which};

/// Members read from the store at a time.
const CHUNK_MEMBERS: u32 = 10_000;
/// Deals amended at a time.
pub(super) const CHUNK_AMENDED: usize = 500;
/// The first pause after a failed attempt to heal; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// How often others may be faster while we let Redis catch up.
const CATCH_UPS_MAX: u32 = 10;

/// Fills the accelerator for the first time and leaves a task behind that looks after it.
pub(super) async fn start(inner: &Arc<Inner>) -> Result<()> {
    let Some(redis) = inner.accelerator.in_redis() else {
        return rebuild(&inner.store, &inner.accelerator, &silent).await;
    };
    redis.belong_to(inner.store.id());
    let bell = redis.bell();
    inner.look().await;
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut pause = PAUSE_MIN;
        while let Some((is_healthy, check_every)) = check(&inner).await {
            if is_healthy {
                pause = PAUSE_MIN;
                // Whichever comes first: someone who found Redis out, or the next look.
                let _ = tokio::time::timeout(check_every, bell.notified()).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(check_every);
            }
        }
    });
    Ok(())
}

/// Looks at Redis and heals it if need be; `None` once the book is closed.
async fn check(inner: &Weak<Inner>) -> Option<(bool, Duration)> {
    let inner = inner.upgrade()?;
    let check_every = inner.accelerator.in_redis()?.check_every();
    Some((inner.look().await, check_every))
}

impl Inner {
    /// Looks at Redis once, and mends what it can. Answers whether Redis has what the store has.
    async fn look(&self) -> bool {
        let looked = self.look_and_mend().await;
        looked.unwrap_or_else(|error| {
            tracing::error!("the rankings could not be compared with the store: {error:#}");
            false
        })
    }

    async fn look_and_mend(&self) -> Result<bool> {
        let Some(redis) = self.accelerator.in_redis() else {
            return Ok(true);
        };
        let Ok(mark) = redis.mark().await else {
            return Ok(false);
        };
        let seen_epoch = mark.as_ref().map(|mark| mark.epoch.clone());
        // After the mark: Redis cannot be ahead of the store, unless the store was set back.
        let now = self.store.moment().await?;
        // What an earlier process left is not trusted by one that is alone: the store may have been
        // set back meanwhile, and have gone on from there.
        let is_first = !self.store.is_shared() && self.accelerator.rebuilt_at().is_none();
        if let Some(mark) = &mark
            && !is_first
            && mark.moment == now
        {
            redis.adopt(mark);
            return Ok(true);
        }
        if let Some(mark) = mark
            && !is_first
            && mark.moment.generation == now.generation
            && mark.moment.seq <= now.seq
            && self.catch_up_from(mark).await?
        {
            return Ok(true);
        }
        if !redis.claim_building(is_first).await {
            return Ok(false);
        }
        // Whoever activated a model between the two looks had this claim, and has published since.
        let present = redis.mark().await.unwrap_or_default();
        if present.map(|mark| mark.epoch) != seen_epoch {
            redis.give_back_building().await;
            return Ok(false);
        }
        redis.distrust();
        rebuild(&self.store, &self.accelerator, &silent).await?;
        // What Redis may have kept of them while it could not be told.
        for id in self.store.erased_lately().await? {
            redis.forget(&id).await;
        }
        Ok(self.accelerator.health() == AcceleratorHealth::Up)
    }

    /// Takes Redis from where it is to where the store is, by what the store knows of the changes in
    /// between; false if the rankings have to be built anew.
    async fn catch_up_from(&self, mark: Mark) -> Result<bool> {
        let Some(redis) = self.accelerator.in_redis() else {
            return Ok(true);
        };
        let mut mark = Some(mark);
        for _ in 0..CATCH_UPS_MAX {
            let Some(present) = &mark else {
                return Ok(false);
            };
            let Some(gap) = self.store.gap(present.moment).await? else {
                return Ok(false);
            };
            if gap.seq == present.moment.seq || redis.advance(present, &gap).await {
                redis.adopt(present);
                return Ok(true);
            }
            // Somebody else was faster.
            mark = redis.mark().await.unwrap_or_default();
        }
        Ok(true)
    }

    /// Lets the accelerator follow a commit; to be called before `order` is given back.
    pub(super) async fn follow(&self, before: Moment, seq: i64, changes: &[Change]) {
        if self.accelerator.apply(before, seq, changes).await {
            return;
        }
        let Some(redis) = self.accelerator.in_redis() else {
            return;
        };
        // Others have written meanwhile: what Redis has missed, ours included, is in the store.
        let followed = match redis.mark().await {
            Ok(Some(mark)) => self.catch_up_from(mark).await,
            _ => Ok(false),
        };
        if !matches!(followed, Ok(true)) {
            redis.ring();
        }
    }
}

/// Fills a new ranking from the ledger and makes it the live one.
pub(super) async fn rebuild(
    store: &Store,
    accelerator: &Accelerator,
    on_progress: OnProgress<'_>,
) -> Result<()> {
    let Moment { generation, seq } = store.moment().await?;
    let mut draft = accelerator.draft(generation).await;
    fill(store, accelerator, &mut draft, generation, seq, on_progress).await?;
    accelerator.publish(draft, generation, seq).await;
    Ok(())
}

/// Adds a generation's members as of `seq` to a draft.
pub(super) async fn fill(
    store: &Store,
    accelerator: &Accelerator,
    draft: &mut Draft,
    generation: i64,
    seq: i64,
    on_progress: OnProgress<'_>,
) -> Result<()> {
    let total = store.count_deals(Which::Open).await?;
    let (mut last, mut done) = (None, 0);
    while !draft.is_lost() {
        let members = store
            .members(generation, seq, last.as_ref(), CHUNK_MEMBERS)
            .await?;
        match members.last() {
            Some(member) => last = Some(member.clone()),
            None => break,
        }
        done += members.len() as u64;
        accelerator.fill(draft, members).await;
        on_progress(Progress {
            phase: "ranking",
            done,
            total: total.max(done),
        });
    }
    Ok(())
}
