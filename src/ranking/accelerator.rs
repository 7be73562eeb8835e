//! What answers the commonest questions without the store, and says so when it cannot.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::Serialize;

use super::cursor::Position;
use super::memory::MemoryRanking;
use super::order::{Member, Order, View};
use super::redis::{RedisDraft, RedisRanking, RedisSettings};
use crate::domain::DealId;
use crate::error::Result;
use crate::scoring::Score;

/// Holds the order by expected value, so that the commonest pages need no sorting, and scores by
/// deal and model version. Every answer is either the store's answer or no answer.
#[derive(Debug)]
pub struct Accelerator {
    backend: Backend,
    rebuilt_at: Mutex<Option<Timestamp>>,
}

#[derive(Debug)]
enum Backend {
    Memory(MemoryRanking),
    Redis(RedisRanking),
}

/// How the accelerator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorHealth {
    /// No Redis is configured; rankings are kept in process.
    Disabled,
    Up,
    /// Redis answers again and the rankings are being rebuilt; the store answers meanwhile.
    Healing,
    /// The store answers.
    Down,
}

/// How a write moved one deal in the active ranking.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub deal_id: DealId,
    pub before: Option<Member>,
    pub after: Option<Member>,
}

/// The answer to a page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Keys {
    /// Ask the store.
    Unknown,
    /// The order as of `seq`.
    Page {
        generation: i64,
        seq: i64,
        deal_ids: Vec<DealId>,
    },
}

/// A ranking that is being filled and that nobody sees yet.
#[derive(Debug)]
pub(crate) struct Draft(DraftBackend);

#[derive(Debug)]
enum DraftBackend {
    Memory(Order),
    Redis(RedisDraft),
    /// Redis failed on the way: it will heal on its own.
    Lost,
}

impl Accelerator {
    /// In this process; nothing to install.
    pub fn memory() -> Self {
        Self::new(Backend::Memory(MemoryRanking::new()))
    }

    /// In Redis. Does not connect yet: a Redis that is down at the start heals like any other.
    ///
    /// # Errors
    /// `Invalid` when the URL cannot be read.
    pub fn redis(settings: RedisSettings) -> Result<Self> {
        Ok(Self::new(Backend::Redis(RedisRanking::new(settings)?)))
    }

    fn new(backend: Backend) -> Self {
        Self {
            backend,
            rebuilt_at: Mutex::new(None),
        }
    }

    pub(crate) fn health(&self) -> AcceleratorHealth {
        match &self.backend {
            Backend::Memory(_) => AcceleratorHealth::Disabled,
            Backend::Redis(redis) => redis.health(),
        }
    }

    pub(crate) fn outages(&self) -> u64 {
        self.healable().map_or(0, RedisRanking::outages)
    }

    pub(crate) fn rebuilt_at(&self) -> Option<Timestamp> {
        *self
            .rebuilt_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until Redis is in a state; at once without Redis.
    pub(crate) async fn wait_until(&self, health: AcceleratorHealth) {
        if let Backend::Redis(redis) = &self.backend {
            redis.wait_until(health).await;
        }
    }

    /// Redis, which may need healing; a ranking in process never does.
    pub(crate) fn healable(&self) -> Option<&RedisRanking> {
        match &self.backend {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => Some(redis),
        }
    }

    /// Up to `limit` deals of a view, the first ones or those after a position.
    pub(crate) async fn page(
        &self,
        view: View<'_>,
        after: Option<&Position>,
        limit: usize,
    ) -> Keys {
        match &self.backend {
            Backend::Memory(memory) => memory.page(view, after, limit),
            Backend::Redis(redis) => redis.page(view, after, limit).await,
        }
    }

    /// Follows a commit. Must be called in the order of the commits.
    pub(crate) async fn apply(&self, seq: i64, changes: &[Change]) {
        match &self.backend {
            Backend::Memory(memory) => memory.apply(seq, changes),
            Backend::Redis(redis) => redis.apply(seq, changes).await,
        }
    }

    pub(crate) async fn cached_score(&self, model_version: &str, id: &DealId) -> Option<Score> {
        match &self.backend {
            Backend::Memory(memory) => memory.cached_score(model_version, id),
            Backend::Redis(redis) => redis.cached_score(model_version, id).await,
        }
    }

    /// Keeps a deal's present score. No write of the deal may be under way.
    pub(crate) async fn cache_score(&self, score: Score) {
        match &self.backend {
            Backend::Memory(memory) => memory.cache_score(score),
            Backend::Redis(redis) => redis.cache_score(&score).await,
        }
    }

    /// Begins to fill a new ranking.
    pub(crate) async fn draft(&self, generation: i64) -> Draft {
        Draft(match &self.backend {
            Backend::Memory(_) => DraftBackend::Memory(Order::default()),
            Backend::Redis(redis) => redis
                .draft(generation)
                .await
                .map_or(DraftBackend::Lost, DraftBackend::Redis),
        })
    }

    /// Adds members, given in order over all calls.
    pub(crate) async fn fill(&self, draft: &mut Draft, members: Vec<Member>) {
        match (&self.backend, &mut draft.0) {
            (_, DraftBackend::Memory(order)) => {
                for member in members {
                    order.set(&member.deal_id.clone(), Some(member));
                }
            }
            (Backend::Redis(redis), DraftBackend::Redis(redis_draft)) => {
                let filled = redis.fill(redis_draft, members).await;
                if filled.is_none() {
                    draft.0 = DraftBackend::Lost;
                }
            }
            _ => {}
        }
    }

    /// Puts `deal_ids` in the places of `members`, and those without one out of the order.
    pub(crate) async fn amend(&self, draft: &mut Draft, deal_ids: &[DealId], members: Vec<Member>) {
        match (&self.backend, &mut draft.0) {
            (_, DraftBackend::Memory(order)) => {
                for id in deal_ids {
                    order.set(id, None);
                }
                for member in members {
                    order.set(&member.deal_id.clone(), Some(member));
                }
            }
            (Backend::Redis(redis), DraftBackend::Redis(redis_draft)) => {
                let amended = redis.amend(redis_draft, deal_ids, members).await;
                if amended.is_none() {
                    draft.0 = DraftBackend::Lost;
                }
            }
            _ => {}
        }
    }

    /// Makes a draft the live ranking in one step; it is complete up to `seq`.
    pub(crate) async fn publish(&self, draft: Draft, generation: i64, seq: i64) {
        match (&self.backend, draft.0) {
            (Backend::Memory(memory), DraftBackend::Memory(order)) => {
                memory.publish(generation, seq, order);
            }
            (Backend::Redis(redis), DraftBackend::Redis(draft)) => {
                if redis.publish(draft, seq).await.is_none() {
                    return;
                }
            }
            (Backend::Redis(redis), _) => {
                redis.abandon();
                return;
            }
            (Backend::Memory(_), _) => return,
        }
        *self
            .rebuilt_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Timestamp::now());
    }
}
