//! Rankings that are being filled under an epoch of their own, and the removal of those that nobody
//! reads any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;

use super::connection::Connection;
use super::keys::{Keys, moves, name};
use crate::domain::DealId;
use crate::ranking::order::{Member, View};
use crate::store::random_id;

/// Members of one ZADD: larger ones keep Redis from serving others meanwhile.
const ZADD_MEMBERS_MAX: usize = 1000;
/// Keys of one UNLINK.
const UNLINK_KEYS_MAX: usize = 1000;
/// A draft that nobody has added to for this long is nobody's, and removed.
const DRAFT_TTL: Duration = Duration::from_secs(60);

/// Rankings that are being filled.
#[derive(Debug)]
pub(crate) struct RedisDraft {
    pub(super) connection: Connection,
    pub(super) epoch: Arc<str>,
    pub(super) generation: i64,
    keys: Keys,
    /// To know what to take out again when a deal changes before the draft is live.
    members: HashMap<DealId, Member>,
    /// Members of each ranking. They are written when the draft goes live: what a failing node of a
    /// cluster has lost of the draft until then does not agree with them.
    sizes: BTreeMap<String, u64>,
}

/// What becomes of one ranking.
#[derive(Debug, Default)]
struct Amended<'a> {
    placed: Vec<(f64, &'a str)>,
    left: Vec<&'a str>,
}

impl RedisDraft {
    pub(super) async fn begin(
        mut connection: Connection,
        keys: Keys,
        generation: i64,
    ) -> RedisResult<Self> {
        let epoch: Arc<str> = format!("g{generation}-{}", random_id()).into();
        let mut pipe = redis::pipe();
        pipe.sadd(keys.epochs(), &*epoch).ignore();
        pipe.set_options(keys.draft(&epoch), 1, draft_ttl())
            .ignore();
        pipe.exec_async(&mut connection).await?;
        Ok(Self {
            connection,
            epoch,
            generation,
            keys,
            members: HashMap::new(),
            sizes: BTreeMap::new(),
        })
    }

    /// Adds members, given in order over all calls: that is four times as fast as at random.
    pub async fn fill(&mut self, members: Vec<Member>) -> RedisResult<()> {
        let mut rankings: BTreeMap<String, Vec<(f64, &str)>> = BTreeMap::new();
        for member in &members {
            for view in View::with(member) {
                let place = (member.rank, member.deal_id.as_str());
                rankings.entry(name(view)).or_default().push(place);
            }
        }
        let mut pipe = redis::pipe();
        self.keep_alive(&mut pipe);
        for (name, places) in &rankings {
            let size = self.sizes.entry(name.clone()).or_default();
            *size += places.len() as u64;
            // The size first: a ranking that is named can be removed, whatever happens next.
            pipe.hset(self.keys.sizes(&self.epoch), name, *size)
                .ignore();
            for chunk in places.chunks(ZADD_MEMBERS_MAX) {
                pipe.zadd_multiple(self.keys.ranking(&self.epoch, name), chunk)
                    .ignore();
            }
        }
        pipe.exec_async(&mut self.connection).await?;
        let members = members.into_iter().map(|m| (m.deal_id.clone(), m));
        self.members.extend(members);
        Ok(())
    }

    /// Moves some deals, and takes those out that are not among `members`.
    pub async fn amend(&mut self, deal_ids: &[DealId], members: Vec<Member>) -> RedisResult<()> {
        let mut after: HashMap<DealId, Member> = members
            .into_iter()
            .map(|member| (member.deal_id.clone(), member))
            .collect();
        let mut amended: BTreeMap<String, Amended> = BTreeMap::new();
        for id in deal_ids {
            let before = self.members.remove(id);
            let after = after.remove(id);
            let had: HashSet<String> = before.iter().flat_map(View::with).map(name).collect();
            for (name, rank) in moves(before.as_ref(), after.as_ref()) {
                let size = self.sizes.entry(name.clone()).or_default();
                let was_there = u64::from(had.contains(&name));
                let ranking = amended.entry(name).or_default();
                match rank {
                    Some(rank) => {
                        *size += 1 - was_there;
                        ranking.placed.push((rank, id.as_str()));
                    }
                    None => {
                        *size -= was_there;
                        ranking.left.push(id.as_str());
                    }
                }
            }
            self.members
                .extend(after.map(|member| (id.clone(), member)));
        }
        let mut pipe = redis::pipe();
        self.keep_alive(&mut pipe);
        for (name, Amended { placed, left }) in &amended {
            let ranking = self.keys.ranking(&self.epoch, name);
            pipe.hset(self.keys.sizes(&self.epoch), name, self.sizes[name])
                .ignore();
            if !placed.is_empty() {
                pipe.zadd_multiple(&ranking, placed).ignore();
            }
            if !left.is_empty() {
                pipe.zrem(&ranking, left).ignore();
            }
        }
        pipe.exec_async(&mut self.connection).await
    }

    /// Moves the pointer here, in one step; the rankings are complete up to `seq`.
    pub async fn publish(&mut self, seq: i64) -> RedisResult<()> {
        let (keys, epoch) = (&self.keys, &*self.epoch);
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.hset(keys.sizes(epoch), "seq", seq).ignore();
        for (name, size) in &self.sizes {
            pipe.hset(keys.sizes(epoch), name, *size).ignore();
        }
        pipe.set(keys.pointer(), epoch).ignore();
        pipe.del(keys.draft(epoch)).ignore();
        pipe.del(keys.building()).ignore();
        pipe.exec_async(&mut self.connection).await
    }

    /// Says that somebody is at it still.
    fn keep_alive(&self, pipe: &mut redis::Pipeline) {
        pipe.set_options(self.keys.draft(&self.epoch), 1, draft_ttl())
            .ignore();
        pipe.cmd("PEXPIRE")
            .arg(self.keys.building())
            .arg(super::BUILDING_TTL.as_millis() as u64)
            .ignore();
    }
}

fn draft_ttl() -> redis::SetOptions {
    redis::SetOptions::default().with_expiration(redis::SetExpiry::EX(DRAFT_TTL.as_secs()))
}

/// Removes the keys of all epochs that neither the pointer names nor anybody fills.
pub(super) async fn remove_left_epochs(
    connection: &mut Connection,
    keys: &Keys,
) -> RedisResult<usize> {
    let epochs: Vec<String> = redis::cmd("SMEMBERS")
        .arg(keys.epochs())
        .query_async(connection)
        .await?;
    let mut removed = 0;
    for epoch in epochs {
        let (pointer, is_draft): (Option<String>, bool) = redis::pipe()
            .get(keys.pointer())
            .exists(keys.draft(&epoch))
            .query_async(connection)
            .await?;
        // Without a pointer somebody is about to set one.
        if pointer.is_some_and(|pointer| pointer != epoch) && !is_draft {
            remove_epoch(connection, keys, &epoch).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes the keys of one epoch.
pub(super) async fn remove_epoch(
    connection: &mut Connection,
    keys: &Keys,
    epoch: &str,
) -> RedisResult<()> {
    let names: Vec<String> = redis::cmd("HKEYS")
        .arg(keys.sizes(epoch))
        .query_async(connection)
        .await?;
    let rankings: Vec<String> = names.iter().map(|name| keys.ranking(epoch, name)).collect();
    for chunk in rankings.chunks(UNLINK_KEYS_MAX) {
        redis::cmd("UNLINK")
            .arg(chunk)
            .exec_async(connection)
            .await?;
    }
    redis::pipe()
        .atomic()
        .cmd("UNLINK")
        .arg(keys.sizes(epoch))
        .ignore()
        .cmd("SREM")
        .arg(keys.epochs())
        .arg(epoch)
        .ignore()
        .exec_async(connection)
        .await
}
