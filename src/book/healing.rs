//! Fills the accelerator from the store: at the start, and whenever Redis has been out.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use super::Inner;
use crate::domain::DealId;
use crate::error::Result;
use crate::ranking::{AcceleratorHealth, Draft};

/// Members read from the store at a time.
const CHUNK_MEMBERS: u32 = 10_000;
/// Deals amended at a time.
pub(super) const CHUNK_AMENDED: usize = 500;
/// The first pause after a failed attempt to heal; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The deals that were written while a ranking is being built: what the builder has read of them may
/// be old. Erased deals leave no other trace.
#[derive(Debug, Default)]
pub(super) struct Journal(std::sync::Mutex<Option<BTreeSet<DealId>>>);

impl Journal {
    /// To be called after every commit, before `order` is given back.
    pub fn note<'a>(&self, ids: impl IntoIterator<Item = &'a DealId>) {
        if let Some(touched) = &mut *self.lock() {
            touched.extend(ids.into_iter().cloned());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<BTreeSet<DealId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the journal open, and closes it when the builder is done or gone.
pub(super) struct OpenJournal(Arc<Inner>);

impl OpenJournal {
    pub fn new(inner: &Arc<Inner>) -> Self {
        *inner.journal.lock() = Some(BTreeSet::new());
        Self(inner.clone())
    }

    /// What has been written since the last call.
    pub fn take(&self) -> Vec<DealId> {
        let touched = self.0.journal.lock().replace(BTreeSet::new());
        touched.unwrap_or_default().into_iter().collect()
    }
}

impl Drop for OpenJournal {
    fn drop(&mut self) {
        *self.0.journal.lock() = None;
    }
}

/// Fills the accelerator for the first time and leaves a task behind that looks after it.
pub(super) async fn start(inner: &Arc<Inner>) -> Result<()> {
    let Some(redis) = inner.accelerator.healable() else {
        return inner.rebuild().await;
    };
    redis.belong_to(inner.store.id());
    let bell = redis.bell();
    inner.heal().await;
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
    let redis = inner.accelerator.healable()?;
    let is_healthy = redis.is_intact().await || inner.heal().await;
    Some((is_healthy, redis.check_every()))
}

impl Inner {
    /// Tries once to bring Redis back.
    async fn heal(self: &Arc<Self>) -> bool {
        let Some(redis) = self.accelerator.healable() else {
            return true;
        };
        if !redis.reconnect().await {
            return false;
        }
        if let Err(error) = self.rebuild().await {
            tracing::error!(%error, "the rankings could not be rebuilt");
        }
        self.accelerator.health() == AcceleratorHealth::Up
    }

    /// Fills a new ranking from the ledger and makes it the live one.
    async fn rebuild(self: &Arc<Self>) -> Result<()> {
        let _building = self.building.lock().await;
        let journal = OpenJournal::new(self);
        let (active, seq) = self.store.position().await?;
        let generation = active.map_or(0, |active| active.id);
        let mut draft = self.accelerator.draft(generation).await;
        self.fill(&mut draft, generation, seq).await?;
        let _order = self.order.lock().await;
        for ids in journal.take().chunks(CHUNK_AMENDED) {
            let members = self.store.members_of(generation, ids).await?;
            self.accelerator.amend(&mut draft, ids, members).await;
        }
        let seq = self.store.seq().await?;
        self.accelerator.publish(draft, generation, seq).await;
        Ok(())
    }

    /// Adds a generation's members as of `seq` to a draft.
    pub(super) async fn fill(&self, draft: &mut Draft, generation: i64, seq: i64) -> Result<()> {
        let mut last = None;
        loop {
            let members = self
                .store
                .members(generation, seq, last.as_ref(), CHUNK_MEMBERS)
                .await?;
            match members.last() {
                Some(member) => last = Some(member.clone()),
                None => return Ok(()),
            }
            self.accelerator.fill(draft, members).await;
        }
    }
}
