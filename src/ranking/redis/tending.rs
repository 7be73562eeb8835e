//! What Redis has of a store, told and removed by the names of the keys.

use redis::RedisResult;
use serde::Serialize;

use super::draft::remove_epoch;
use super::keys::generation_of;
use super::{Connection, RedisRanking};
use crate::error::{Error, Result};

/// Keys asked about at a time.
const CHUNK_KEYS: usize = 500;

/// What Redis has of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    /// `single` or `cluster`.
    pub server: &'static str,
    /// The filling of the rankings that is read; none before the first.
    pub epoch: Option<String>,
    pub generation: Option<i64>,
    /// The rankings are the store's as of this number of the global sequence.
    pub seq: Option<i64>,
    /// Deals in the ranking of all.
    pub deals: u64,
    /// Rankings: of all deals, of each owner, of each pipeline.
    pub rankings: u64,
    /// What the rankings take, by MEMORY USAGE. Cached scores, which expire, come on top.
    pub bytes: u64,
    /// Fillings that are being built, or about to be removed.
    pub other_epochs: Vec<String>,
    pub is_building: bool,
}

impl RedisRanking {
    /// What Redis has.
    ///
    /// # Errors
    /// `Conflict` when it does not answer.
    pub(crate) async fn status(&self) -> Result<CacheStatus> {
        let mut connection = self.connection().await.map_err(|()| no_answer())?;
        self.survey(&mut connection).await.map_err(failed)
    }

    /// Removes everything but the cached scores, which expire; answers with how many fillings went.
    ///
    /// # Errors
    /// `Conflict` when Redis does not answer.
    pub(crate) async fn clear(&self) -> Result<usize> {
        let mut connection = self.connection().await.map_err(|()| no_answer())?;
        self.remove_all(&mut connection).await.map_err(failed)
    }

    async fn survey(&self, connection: &mut Connection) -> RedisResult<CacheStatus> {
        let keys = self.keys();
        let (epoch, mut other_epochs, is_building): (Option<String>, Vec<String>, bool) =
            redis::pipe()
                .get(keys.pointer())
                .smembers(keys.epochs())
                .exists(keys.building())
                .query_async(connection)
                .await?;
        other_epochs.retain(|other| Some(other) != epoch.as_ref());
        other_epochs.sort();
        let mut status = CacheStatus {
            server: if self.is_cluster() {
                "cluster"
            } else {
                "single"
            },
            generation: epoch.as_deref().and_then(generation_of),
            epoch,
            seq: None,
            deals: 0,
            rankings: 0,
            bytes: 0,
            other_epochs,
            is_building,
        };
        let Some(epoch) = &status.epoch else {
            return Ok(status);
        };
        (status.seq, status.deals) = redis::pipe()
            .cmd("HGET")
            .arg(keys.sizes(epoch))
            .arg("seq")
            .zcard(keys.ranking(epoch, "all"))
            .query_async(connection)
            .await?;
        let names: Vec<String> = redis::cmd("HKEYS")
            .arg(keys.sizes(epoch))
            .query_async(connection)
            .await?;
        let rankings = names.iter().filter(|name| *name != "seq");
        let mut of_epoch: Vec<String> = rankings.map(|name| keys.ranking(epoch, name)).collect();
        status.rankings = of_epoch.len() as u64;
        of_epoch.push(keys.sizes(epoch));
        for chunk in of_epoch.chunks(CHUNK_KEYS) {
            let mut pipe = redis::pipe();
            for key in chunk {
                pipe.cmd("MEMORY").arg("USAGE").arg(key);
            }
            let sizes: Vec<Option<u64>> = pipe.query_async(connection).await?;
            status.bytes += sizes.into_iter().flatten().sum::<u64>();
        }
        Ok(status)
    }

    async fn remove_all(&self, connection: &mut Connection) -> RedisResult<usize> {
        let keys = self.keys();
        let (epochs,): (Vec<String>,) = redis::pipe()
            .atomic()
            .del(keys.pointer())
            .ignore()
            .del(keys.building())
            .ignore()
            .smembers(keys.epochs())
            .query_async(connection)
            .await?;
        for epoch in &epochs {
            redis::cmd("DEL")
                .arg(keys.draft(epoch))
                .exec_async(connection)
                .await?;
            remove_epoch(connection, keys, epoch).await?;
        }
        Ok(epochs.len())
    }
}

fn no_answer() -> Error {
    Error::Conflict("redis does not answer: start it, or correct `redis_url`".into())
}

fn failed(error: redis::RedisError) -> Error {
    Error::Conflict(format!("redis failed: {error}"))
}
