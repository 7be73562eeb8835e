//! The order by expected value in this process.

use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use moka::sync::Cache;

use super::accelerator::{Change, Keys};
use super::cursor::Position;
use super::order::{Order, View};
use crate::domain::DealId;
use crate::scoring::Score;

/// Cached scores; beyond, the least used ones go.
const SCORES_MAX: u64 = 100_000;
const SCORE_TTL: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub struct MemoryRanking {
    live: RwLock<Option<Live>>,
    /// Each with its number in the ledger.
    scores: Cache<DealId, (i64, Score)>,
}

#[derive(Debug)]
struct Live {
    generation: i64,
    seq: i64,
    order: Order,
}

impl MemoryRanking {
    pub(super) fn new() -> Self {
        Self {
            live: RwLock::new(None),
            scores: Cache::builder()
                .max_capacity(SCORES_MAX)
                .time_to_live(SCORE_TTL)
                .build(),
        }
    }

    pub(super) fn publish(&self, generation: i64, seq: i64, order: Order) {
        let mut next = Some(Live {
            generation,
            seq,
            order,
        });
        // The old order is dropped after the lock is given back: that takes a while.
        std::mem::swap(
            &mut *self.live.write().unwrap_or_else(PoisonError::into_inner),
            &mut next,
        );
    }

    pub(super) fn page(&self, view: View<'_>, after: Option<&Position>, limit: usize) -> Keys {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        match &*live {
            Some(live)
                if after.is_none_or(|p| (p.generation, p.seq) == (live.generation, live.seq)) =>
            {
                let after = after.map(|position| (position.rank, &position.deal_id));
                Keys::Page {
                    generation: live.generation,
                    seq: live.seq,
                    deal_ids: live.order.page(view, after, limit),
                }
            }
            _ => Keys::Unknown,
        }
    }

    pub(super) fn apply(&self, seq: i64, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        if let Some(live) = &mut *self.live.write().unwrap_or_else(PoisonError::into_inner) {
            for change in changes {
                live.order.set(&change.deal_id, change.after.clone());
            }
            live.seq = seq;
        }
    }

    pub(super) fn cached_score(&self, id: &DealId, number: i64) -> Option<Score> {
        let (kept, score) = self.scores.get(id)?;
        (kept == number).then_some(score)
    }

    pub(super) fn cache_score(&self, number: i64, score: Score) {
        self.scores.insert(score.deal_id.clone(), (number, score));
    }

    pub(super) fn forget(&self, id: &DealId) {
        self.scores.invalidate(id);
    }
}
