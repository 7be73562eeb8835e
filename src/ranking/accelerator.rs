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
    Memory(Box<MemoryRanking>),
    Redis(Box<RedisRanking>),
    None,
}

/// A generation's ranking as of a number of the global sequence; generation 0 is that of no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    pub generation: i64,
    pub seq: i64,
}

/// How the accelerator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorHealth {
    /// No Redis is configured; rankings are kept in process, or are the store's.
    Disabled,
    Up,
    /// Redis answers again and the rankings are being rebuilt; the store answers meanwhile.
    Healing,
    /// The store answers.
    Down,
}

/// How a write moved one deal in the active ranking.
#[derive(Debug, Clone, PartialEq)]
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
    /// There is nothing to fill, or Redis failed on the way: it will heal on its own.
    None,
}

impl Draft {
    /// Whether what is put into it gets lost.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self.0, DraftBackend::None)
    }
}

impl Accelerator {
    /// In this process; nothing to install.
    pub fn memory() -> Self {
        Self::new(Backend::Memory(Box::new(MemoryRanking::new())))
    }

    /// In Redis. Does not connect yet: a Redis that is down at the start heals like any other.
    ///
    /// # Errors
    /// `Invalid` when the URL cannot be read.
    pub fn redis(settings: RedisSettings) -> Result<Self> {
        let redis = RedisRanking::new(settings)?;
        Ok(Self::new(Backend::Redis(Box::new(redis))))
    }

    /// None: every answer is the store's. For several processes on one store without Redis, where a
    /// ranking in one of them would miss what the others write.
    pub fn none() -> Self {
        Self::new(Backend::None)
    }

    fn new(backend: Backend) -> Self {
        Self {
            backend,
            rebuilt_at: Mutex::new(None),
        }
    }

    pub(crate) fn health(&self) -> AcceleratorHealth {
        match &self.backend {
            Backend::Memory(_) | Backend::None => AcceleratorHealth::Disabled,
            Backend::Redis(redis) => redis.health(),
        }
    }

    pub(crate) fn outages(&self) -> u64 {
        self.in_redis().map_or(0, RedisRanking::outages)
    }

    /// Whether Redis is a cluster; `None` without Redis.
    pub(crate) fn is_cluster(&self) -> Option<bool> {
        self.in_redis().map(RedisRanking::is_cluster)
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
    pub(crate) fn in_redis(&self) -> Option<&RedisRanking> {
        match &self.backend {
            Backend::Redis(redis) => Some(redis),
            Backend::Memory(_) | Backend::None => None,
        }
    }

    /// Up to `limit` deals of a view: the first ones, or those after a position as of it. Redis may
    /// have missed something: first pages of it are as of `wanted` or later.
    pub(crate) async fn page(
        &self,
        view: View<'_>,
        after: Option<&Position>,
        limit: usize,
        wanted: Moment,
    ) -> Keys {
        match &self.backend {
            Backend::Memory(memory) => memory.page(view, after, limit),
            Backend::Redis(redis) => redis.page(view, after, limit, wanted).await,
            Backend::None => Keys::Unknown,
        }
    }

    /// Follows a commit that took the store from one moment to a later number. Must be called in the
    /// order of the commits of this process. False if Redis has missed commits of others before it.
    pub(crate) async fn apply(&self, before: Moment, seq: i64, changes: &[Change]) -> bool {
        match &self.backend {
            Backend::Memory(memory) => memory.apply(seq, changes),
            Backend::Redis(redis) => return redis.apply(before, seq, changes).await,
            Backend::None => {}
        }
        true
    }

    /// The score of a deal, if what is kept of it is the one with this number in the ledger.
    pub(crate) async fn cached_score(&self, id: &DealId, number: i64) -> Option<Score> {
        match &self.backend {
            Backend::Memory(memory) => memory.cached_score(id, number),
            Backend::Redis(redis) => redis.cached_score(id, number).await,
            Backend::None => None,
        }
    }

    /// Keeps the score that has a number in the ledger.
    pub(crate) async fn cache_score(&self, number: i64, score: Score) {
        match &self.backend {
            Backend::Memory(memory) => memory.cache_score(number, score),
            Backend::Redis(redis) => redis.cache_score(number, &score).await,
            Backend::None => {}
        }
    }

    /// Forgets what is kept of a deal beside its place in the ranking.
    pub(crate) async fn forget(&self, id: &DealId) {
        match &self.backend {
            Backend::Memory(memory) => memory.forget(id),
            Backend::Redis(redis) => redis.forget(id).await,
            Backend::None => {}
        }
    }

    /// Begins to fill a new ranking.
    pub(crate) async fn draft(&self, generation: i64) -> Draft {
        Draft(match &self.backend {
            Backend::Memory(_) => DraftBackend::Memory(Order::default()),
            Backend::None => DraftBackend::None,
            Backend::Redis(redis) => redis
                .draft(generation)
                .await
                .map_or(DraftBackend::None, DraftBackend::Redis),
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
                let filled = redis_draft.fill(members).await;
                if redis.or_draft_lost(filled).is_none() {
                    draft.0 = DraftBackend::None;
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
                let amended = redis_draft.amend(deal_ids, members).await;
                if redis.or_draft_lost(amended).is_none() {
                    draft.0 = DraftBackend::None;
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
            (Backend::Memory(_) | Backend::None, _) => return,
        }
        *self
            .rebuilt_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Timestamp::now());
    }
}
