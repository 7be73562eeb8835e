//! The cache of a store on its own, for those who operate it. The service may run meanwhile.

use serde::Serialize;

use super::healing;
use crate::error::{Error, Result};
use crate::progress::OnProgress;
use crate::ranking::{Accelerator, AcceleratorHealth, CacheStatus};
use crate::store::Store;

/// A store with its Redis.
#[derive(Debug)]
pub struct Cache {
    store: Store,
    accelerator: Accelerator,
}

/// What Redis has, and what the store has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Compared {
    #[serde(flatten)]
    pub redis: CacheStatus,
    /// The present number of the store's global sequence.
    pub store_seq: i64,
    /// The active generation of the store; 0 before the first activation.
    pub store_generation: i64,
    /// Whether Redis has the rankings of the active generation, up to that number.
    pub is_up_to_date: bool,
}

impl Cache {
    pub fn new(store: Store, accelerator: Accelerator) -> Self {
        if let Some(redis) = accelerator.in_redis() {
            redis.belong_to(store.id());
        }
        Self { store, accelerator }
    }

    /// # Errors
    /// `Conflict` when Redis does not answer, `Unusable` without Redis.
    pub async fn status(&self) -> Result<Compared> {
        let redis = self.redis()?.status().await?;
        let now = self.store.moment().await?;
        Ok(Compared {
            is_up_to_date: (redis.generation, redis.seq) == (Some(now.generation), Some(now.seq)),
            redis,
            store_seq: now.seq,
            store_generation: now.generation,
        })
    }

    /// Fills the rankings anew from the store; who reads them moves over once they are complete.
    ///
    /// # Errors
    /// `Conflict` when Redis does not answer, `Unusable` without Redis.
    pub async fn rebuild(&self, on_progress: OnProgress<'_>) -> Result<Compared> {
        let redis = self.redis()?;
        // Connects, and says at once if that is not possible.
        redis.status().await?;
        redis.claim_building(true).await;
        healing::rebuild(&self.store, &self.accelerator, on_progress).await?;
        if self.accelerator.health() != AcceleratorHealth::Up {
            let reason = "redis went out while the rankings were being filled";
            return Err(Error::Conflict(reason.into()));
        }
        self.status().await
    }

    /// Removes the rankings, for a store that Redis is not to serve any more; answers with how many
    /// fillings went. A service that runs fills them again.
    ///
    /// # Errors
    /// `Conflict` when Redis does not answer, `Unusable` without Redis.
    pub async fn clear(&self) -> Result<usize> {
        self.redis()?.clear().await
    }

    /// Lets go of the store.
    pub async fn close(self) {
        self.store.close().await;
    }

    fn redis(&self) -> Result<&crate::ranking::RedisRanking> {
        let none = || Error::Unusable("there is no cache: `redis_url` is not set".into());
        self.accelerator.in_redis().ok_or_else(none)
    }
}
