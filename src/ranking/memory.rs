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
    scores: Cache<DealId, Score>,
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
        // The same model may have scored again, on another day.
        self.scores.invalidate_all();
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
        if let Some(live) = &mut *self.live.write().unwrap_or_else(PoisonError::into_inner) {
            for change in changes {
                live.order.set(&change.deal_id, change.after.clone());
            }
            live.seq = seq;
        }
        for change in changes {
            self.scores.invalidate(&change.deal_id);
        }
    }

    pub(super) fn cached_score(&self, model_version: &str, id: &DealId) -> Option<Score> {
        self.scores
            .get(id)
            .filter(|score| score.model_version == model_version)
    }

    pub(super) fn cache_score(&self, score: Score) {
        self.scores.insert(score.deal_id.clone(), score);
    }
}
