//! The order by expected value, and scores by deal, in Redis.
//!
//! Every key belongs to one store, carries a hash tag (one slot of a cluster), and either expires or
//! is named in a list by which it is removed:
//!
//! | key | holds |
//! |---|---|
//! | `dealrank:{<store>}:pointer` | the epoch of the live rankings; setting it swaps all of them at once |
//! | `dealrank:{<store>}:epochs` | set of all epochs that may have keys |
//! | `dealrank:{<store>}:<epoch>:sizes` | hash: members of each ranking, by its name; and `seq` |
//! | `dealrank:{<store>}:<epoch>:all` | sorted set: deals by negative expected value, 1 if there is none |
//! | `dealrank:{<store>}:<epoch>:owner:<owner>`, `...:pipeline:<pipeline>` | the same, of some deals |
//! | `dealrank:{<store>}:score:<deal>` | hash: scores by model version, as `<epoch> <JSON>`; expires |
//!
//! An epoch is one filling of the rankings, `g<generation>-<random>`. A page is one script, so it is
//! of one epoch; nothing is read of an epoch that the pointer has left, and its keys are removed.
//!
//! Redis is believed only while everything matches what this process wrote last: the pointer, the
//! sequence number, and the size of the ranking asked for. A Redis that was emptied, restored from
//! an old file, or had keys evicted is seen at the next command, and healed: from then on the store
//! answers, until the rankings have been filled anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult, Script};
use tokio::sync::{Notify, watch};

use super::accelerator::{AcceleratorHealth, Change, Keys};
use super::cursor::Position;
use super::order::{Member, View};
use crate::domain::DealId;
use crate::error::{Error, Result};
use crate::scoring::Score;
use crate::store::random_id;

/// Members of one ZADD: larger ones keep Redis from serving others meanwhile.
const ZADD_MEMBERS_MAX: usize = 1000;
/// Keys of one UNLINK.
const UNLINK_KEYS_MAX: usize = 1000;

/// Where Redis is and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://host:port/db`.
    pub url: String,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    /// How long a cached score is kept.
    pub score_ttl: Duration,
    /// How often an idle connection is looked at, and the longest pause between attempts to heal.
    pub check_every: Duration,
}

impl RedisSettings {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            score_ttl: Duration::from_secs(3600),
            check_every: Duration::from_secs(2),
        }
    }
}

/// A connection that is dropped at the first failure; `healer` in the book makes the next one.
#[derive(Debug)]
pub struct RedisRanking {
    client: Client,
    settings: RedisSettings,
    store_id: OnceLock<String>,
    state: watch::Sender<State>,
    /// Whether the log has been told that Redis is out, so that it is told once.
    is_outage_told: AtomicBool,
    outages: AtomicU64,
    /// Set while the pointer moves: readers may find it ahead of what this process knows.
    is_publishing: AtomicBool,
    /// Rings when Redis needs healing.
    bell: Arc<Notify>,
}

#[derive(Debug, Clone)]
enum State {
    Down,
    Healing(MultiplexedConnection),
    Up(Live),
}

impl State {
    fn health(&self) -> AcceleratorHealth {
        match self {
            Self::Down => AcceleratorHealth::Down,
            Self::Healing(_) => AcceleratorHealth::Healing,
            Self::Up(_) => AcceleratorHealth::Up,
        }
    }
}

/// What this process wrote last.
#[derive(Debug, Clone)]
struct Live {
    connection: MultiplexedConnection,
    epoch: Arc<str>,
    generation: i64,
    seq: i64,
}

/// Rankings that are being filled under an epoch of their own.
#[derive(Debug)]
pub(crate) struct RedisDraft {
    connection: MultiplexedConnection,
    epoch: Arc<str>,
    generation: i64,
    /// To know what to take out again when a deal changes before the draft is live.
    members: HashMap<DealId, Member>,
}

/// Reads a page. Keys: pointer, sizes, ranking. Arguments: epoch, name of the ranking, limit, and for
/// a later page the sequence number and the last member of the one before.
/// Answers `{state, seq, members}`: state 0 is not ours, 1 has moved on, 2 is a page.
static PAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {0, 0, {}} end
        local known = redis.call('HMGET', KEYS[2], 'seq', ARGV[2])
        if not known[1] then return {0, 0, {}} end
        if redis.call('ZCARD', KEYS[3]) ~= tonumber(known[2] or '0') then return {0, 0, {}} end
        local seq = tonumber(known[1])
        local first = 0
        if ARGV[4] then
            local place = redis.call('ZRANK', KEYS[3], ARGV[5])
            if ARGV[4] ~= known[1] or not place then return {1, seq, {}} end
            first = place + 1
        end
        return {2, seq, redis.call('ZRANGE', KEYS[3], first, first + ARGV[3] - 1)}
        ",
    )
});

/// Follows a commit. Keys: pointer, sizes, then the ranking of each move, then cached scores.
/// Arguments: epoch, sequence before, sequence after, then for each move the name of the ranking, the
/// member, and its rank or nothing to take it out. Answers whether the rankings were ours.
static APPLY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
        if redis.call('HGET', KEYS[2], 'seq') ~= ARGV[2] then return 0 end
        local moves = (#ARGV - 3) / 3
        for move = 1, moves do
            local key, at = KEYS[2 + move], 1 + 3 * move
            local name, member, rank = ARGV[at], ARGV[at + 1], ARGV[at + 2]
            local grown
            if rank == '' then
                grown = -redis.call('ZREM', key, member)
            else
                grown = redis.call('ZADD', key, rank, member)
            end
            if grown ~= 0 then redis.call('HINCRBY', KEYS[2], name, grown) end
        end
        for score = 3 + moves, #KEYS do redis.call('UNLINK', KEYS[score]) end
        redis.call('HSET', KEYS[2], 'seq', ARGV[3])
        return 1
        ",
    )
});

impl RedisRanking {
    pub(super) fn new(settings: RedisSettings) -> Result<Self> {
        // Without the address itself: it may carry a password.
        let client = Client::open(settings.url.as_str()).map_err(|error| {
            let reason = format!("{error}; expected one such as redis://127.0.0.1:6379/0");
            Error::invalid("redis_url", reason)
        })?;
        Ok(Self {
            client,
            settings,
            store_id: OnceLock::new(),
            state: watch::Sender::new(State::Down),
            is_outage_told: AtomicBool::new(false),
            outages: AtomicU64::new(0),
            is_publishing: AtomicBool::new(false),
            bell: Arc::new(Notify::new()),
        })
    }

    /// Names the store whose rankings these are.
    pub(crate) fn belong_to(&self, store_id: &str) {
        self.store_id.get_or_init(|| store_id.to_owned());
    }

    pub(super) fn health(&self) -> AcceleratorHealth {
        self.state.borrow().health()
    }

    /// How often Redis has gone out, each time told once.
    pub(super) fn outages(&self) -> u64 {
        self.outages.load(Ordering::Relaxed)
    }

    pub(super) async fn wait_until(&self, health: AcceleratorHealth) {
        let mut states = self.state.subscribe();
        // The sender is ours: it outlives the wait.
        let _ = states.wait_for(|state| state.health() == health).await;
    }

    pub(crate) fn check_every(&self) -> Duration {
        self.settings.check_every
    }

    /// Rings when Redis needs healing.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        self.bell.clone()
    }

    /// Whether the rankings in Redis are still the ones that this process wrote.
    pub(crate) async fn is_intact(&self) -> bool {
        let Some(mut live) = self.live() else {
            return false;
        };
        let read: RedisResult<(Option<String>, Option<i64>)> = redis::pipe()
            .get(self.key("pointer"))
            .hget(self.sizes(&live.epoch), "seq")
            .query_async(&mut live.connection)
            .await;
        match self.or_down(&live, read) {
            Some((Some(epoch), Some(seq))) if *epoch == *live.epoch && seq >= live.seq => true,
            Some(_) => {
                self.lost(&live);
                false
            }
            None => false,
        }
    }

    /// Connects again after an outage; whoever calls this then fills and publishes a draft.
    pub(crate) async fn reconnect(&self) -> bool {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.settings.connect_timeout))
            .set_response_timeout(Some(self.settings.response_timeout));
        let connected = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            redis::cmd("PING")
                .exec_async(&mut connection)
                .await
                .map(|()| connection)
        };
        match connected.await {
            Ok(connection) => {
                self.set_state(State::Healing(connection));
                true
            }
            Err(error) => {
                self.tell_outage(&error);
                false
            }
        }
    }

    pub(super) async fn page(
        &self,
        view: View<'_>,
        after: Option<&Position>,
        limit: usize,
    ) -> Keys {
        let Some(mut live) = self.live() else {
            return Keys::Unknown;
        };
        let has_moved = |p: &Position| (p.generation, p.seq) != (live.generation, live.seq);
        if after.is_some_and(has_moved) {
            return Keys::Unknown;
        }
        let name = name(view);
        let mut page = PAGE.key(self.key("pointer"));
        page.key(self.sizes(&live.epoch))
            .key(self.ranking(&live.epoch, &name))
            .arg(&*live.epoch)
            .arg(&name)
            .arg(limit);
        if let Some(position) = after {
            page.arg(position.seq).arg(position.deal_id.as_str());
        }
        let answer = page.invoke_async(&mut live.connection).await;
        let answer: Option<(u8, i64, Vec<String>)> = self.or_down(&live, answer);
        let Some((state, seq, members)) = answer else {
            return Keys::Unknown;
        };
        let deal_ids: Option<Vec<DealId>> = members.iter().map(|id| DealId::new(id).ok()).collect();
        match (state, deal_ids) {
            (1, _) => Keys::Unknown,
            // An older sequence number is that of a Redis restored from an old file.
            (2, Some(deal_ids)) if seq >= live.seq => Keys::Page {
                generation: live.generation,
                seq,
                deal_ids,
            },
            _ => {
                self.lost(&live);
                Keys::Unknown
            }
        }
    }

    pub(super) async fn apply(&self, seq: i64, changes: &[Change]) {
        let Some(mut live) = self.live() else { return };
        let mut apply = APPLY.key(self.key("pointer"));
        apply.key(self.sizes(&live.epoch));
        apply.arg(&*live.epoch).arg(live.seq).arg(seq);
        for change in changes {
            for (name, rank) in moves(change.before.as_ref(), change.after.as_ref()) {
                apply
                    .key(self.ranking(&live.epoch, &name))
                    .arg(name)
                    .arg(change.deal_id.as_str())
                    .arg(rank.map_or(String::new(), |rank| rank.to_string()));
            }
        }
        for change in changes {
            apply.key(self.score_key(&change.deal_id));
        }
        let applied = apply.invoke_async(&mut live.connection).await;
        match self.or_down(&live, applied) {
            Some(true) => self.advance(&live.epoch, seq),
            Some(false) => self.lost(&live),
            None => {}
        }
    }

    pub(super) async fn cached_score(&self, model_version: &str, id: &DealId) -> Option<Score> {
        let mut live = self.live()?;
        let read: RedisResult<Option<String>> = redis::cmd("HGET")
            .arg(self.score_key(id))
            .arg(model_version)
            .query_async(&mut live.connection)
            .await;
        let cached = self.or_down(&live, read)??;
        // What was cached before an outage has missed the writes during it.
        let (epoch, json) = cached.split_once(' ')?;
        if *epoch != *live.epoch {
            return None;
        }
        serde_json::from_str(json).ok()
    }

    pub(super) async fn cache_score(&self, score: &Score) {
        let Some(mut live) = self.live() else { return };
        let Ok(json) = serde_json::to_string(score) else {
            return;
        };
        let key = self.score_key(&score.deal_id);
        let cached = redis::pipe()
            .atomic()
            .hset(&key, &score.model_version, format!("{} {json}", live.epoch))
            .cmd("PEXPIRE")
            .arg(&key)
            .arg(self.settings.score_ttl.as_millis() as u64)
            .exec_async(&mut live.connection)
            .await;
        self.or_down(&live, cached);
    }

    /// Begins an epoch; `None` while Redis is out.
    pub(super) async fn draft(&self, generation: i64) -> Option<RedisDraft> {
        let mut connection = match self.state() {
            State::Down => return None,
            State::Healing(connection) => connection,
            State::Up(live) => live.connection,
        };
        let epoch: Arc<str> = format!("g{generation}-{}", random_id()).into();
        let begun: RedisResult<()> = redis::cmd("SADD")
            .arg(self.key("epochs"))
            .arg(&*epoch)
            .query_async(&mut connection)
            .await;
        self.or_draft_lost(begun)?;
        Some(RedisDraft {
            connection,
            epoch,
            generation,
            members: HashMap::new(),
        })
    }

    /// Adds members, given in order over all calls: that is four times as fast as at random.
    pub(super) async fn fill(&self, draft: &mut RedisDraft, members: Vec<Member>) -> Option<()> {
        let mut rankings: BTreeMap<String, Vec<(f64, &str)>> = BTreeMap::new();
        for member in &members {
            for view in View::with(member) {
                let place = (member.rank, member.deal_id.as_str());
                rankings.entry(name(view)).or_default().push(place);
            }
        }
        let mut pipe = redis::pipe();
        for (name, places) in &rankings {
            // The size first: a ranking that is named can be removed, whatever happens next.
            pipe.hincr(self.sizes(&draft.epoch), name, places.len())
                .ignore();
            for chunk in places.chunks(ZADD_MEMBERS_MAX) {
                pipe.zadd_multiple(self.ranking(&draft.epoch, name), chunk)
                    .ignore();
            }
        }
        let filled = pipe.exec_async(&mut draft.connection).await;
        self.or_draft_lost(filled)?;
        let members = members.into_iter().map(|m| (m.deal_id.clone(), m));
        draft.members.extend(members);
        Some(())
    }

    /// Moves some deals of a draft, and takes those out that are not among `members`.
    pub(super) async fn amend(
        &self,
        draft: &mut RedisDraft,
        deal_ids: &[DealId],
        members: Vec<Member>,
    ) -> Option<()> {
        let mut after: HashMap<DealId, Member> = members
            .into_iter()
            .map(|member| (member.deal_id.clone(), member))
            .collect();
        let mut pipe = redis::pipe();
        let sizes = self.sizes(&draft.epoch);
        for id in deal_ids {
            let before = draft.members.remove(id);
            let after = after.remove(id);
            for (name, rank) in moves(before.as_ref(), after.as_ref()) {
                let ranking = self.ranking(&draft.epoch, &name);
                let had = before
                    .as_ref()
                    .is_some_and(|m| View::with(m).any(|view| self::name(view) == name));
                match rank {
                    Some(rank) => {
                        pipe.hincr(&sizes, &name, i64::from(!had)).ignore();
                        pipe.zadd(ranking, id.as_str(), rank).ignore();
                    }
                    None => {
                        pipe.hincr(&sizes, &name, -i64::from(had)).ignore();
                        pipe.zrem(ranking, id.as_str()).ignore();
                    }
                }
            }
            draft
                .members
                .extend(after.map(|member| (id.clone(), member)));
        }
        let amended = pipe.exec_async(&mut draft.connection).await;
        self.or_draft_lost(amended)
    }

    /// Moves the pointer to a draft. What the pointer left is removed afterwards.
    pub(super) async fn publish(&self, draft: RedisDraft, seq: i64) -> Option<()> {
        self.is_publishing.store(true, Ordering::SeqCst);
        let published = self.move_pointer(draft, seq).await;
        self.is_publishing.store(false, Ordering::SeqCst);
        published
    }

    async fn move_pointer(&self, mut draft: RedisDraft, seq: i64) -> Option<()> {
        if matches!(self.state(), State::Down) {
            return None;
        }
        let published: RedisResult<(Vec<String>,)> = redis::pipe()
            .atomic()
            .hset(self.sizes(&draft.epoch), "seq", seq)
            .ignore()
            .set(self.key("pointer"), &*draft.epoch)
            .ignore()
            .smembers(self.key("epochs"))
            .query_async(&mut draft.connection)
            .await;
        let (mut epochs,) = self.or_draft_lost(published)?;
        epochs.retain(|epoch| **epoch != *draft.epoch);
        self.set_state(State::Up(Live {
            connection: draft.connection.clone(),
            epoch: draft.epoch,
            generation: draft.generation,
            seq,
        }));
        if self.is_outage_told.swap(false, Ordering::Relaxed) {
            tracing::info!("redis is back; the rankings have been rebuilt");
        }
        tokio::spawn(remove_epochs(draft.connection, self.key(""), epochs));
        Some(())
    }

    /// Stops believing the live rankings, since the store has moved on without them.
    pub(super) fn abandon(&self) {
        self.set_state(State::Down);
        self.bell.notify_one();
    }

    fn state(&self) -> State {
        self.state.borrow().clone()
    }

    fn set_state(&self, state: State) {
        self.state.send_replace(state);
    }

    fn live(&self) -> Option<Live> {
        match self.state() {
            State::Up(live) => Some(live),
            State::Down | State::Healing(_) => None,
        }
    }

    fn advance(&self, epoch: &str, applied_seq: i64) {
        self.state.send_if_modified(|state| {
            if let State::Up(live) = state
                && *live.epoch == *epoch
            {
                live.seq = applied_seq;
            }
            // Nobody waits for a sequence number.
            false
        });
    }

    /// The value of a command on the live rankings; a failure takes Redis out.
    fn or_down<T>(&self, live: &Live, result: RedisResult<T>) -> Option<T> {
        result.inspect_err(|error| self.down(live, error)).ok()
    }

    /// The value of a command on a draft; a failure takes Redis out.
    fn or_draft_lost<T>(&self, result: RedisResult<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                self.abandon();
                self.tell_outage(error);
            })
            .ok()
    }

    /// The rankings in Redis are not the ones that this process wrote.
    fn lost(&self, live: &Live) {
        // Unless the pointer is just being moved: then they are those to be written last.
        if self.is_publishing.load(Ordering::SeqCst) {
            return;
        }
        self.down(live, &"the rankings in it are not those written last");
    }

    fn down(&self, live: &Live, reason: &dyn std::fmt::Display) {
        let is_first = self.state.send_if_modified(|state| {
            // Others that failed on the same rankings may have come first.
            let is_ours = matches!(state, State::Up(present) if present.epoch == live.epoch);
            if is_ours {
                *state = State::Down;
            }
            is_ours
        });
        if is_first {
            self.tell_outage(reason);
            self.bell.notify_one();
        }
    }

    fn tell_outage(&self, reason: &(impl std::fmt::Display + ?Sized)) {
        if !self.is_outage_told.swap(true, Ordering::Relaxed) {
            self.outages.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%reason, "redis is out; the store answers until it is back");
        }
    }

    fn key(&self, name: &str) -> String {
        let store_id = self.store_id.get().map_or("", String::as_str);
        format!("dealrank:{{{store_id}}}:{name}")
    }

    fn sizes(&self, epoch: &str) -> String {
        self.key(&format!("{epoch}:sizes"))
    }

    fn ranking(&self, epoch: &str, name: &str) -> String {
        self.key(&format!("{epoch}:{name}"))
    }

    fn score_key(&self, id: &DealId) -> String {
        self.key(&format!("score:{id}"))
    }
}

/// The part of a ranking's key that tells it from others of the epoch.
fn name(view: View<'_>) -> String {
    match view {
        View::All => "all".into(),
        View::Owner(owner) => format!("owner:{owner}"),
        View::Pipeline(pipeline) => format!("pipeline:{pipeline}"),
    }
}

/// Where a deal goes (with its rank) and what it leaves (without).
fn moves(before: Option<&Member>, after: Option<&Member>) -> Vec<(String, Option<f64>)> {
    let names = |member: Option<&Member>| -> Vec<String> {
        member.into_iter().flat_map(View::with).map(name).collect()
    };
    let (old, new) = (names(before), names(after));
    let left = old.into_iter().filter(|name| !new.contains(name));
    let mut moves: Vec<_> = left.map(|name| (name, None)).collect();
    let rank = after.map(|member| member.rank);
    moves.extend(new.into_iter().map(|name| (name, rank)));
    moves
}

/// Removes the keys of epochs that nobody reads any more. What fails is tried again with the next.
async fn remove_epochs(mut connection: MultiplexedConnection, prefix: String, epochs: Vec<String>) {
    for epoch in epochs {
        if let Err(error) = remove_epoch(&mut connection, &prefix, &epoch).await {
            tracing::debug!(%error, %epoch, "old rankings remain in redis for now");
        }
    }
}

async fn remove_epoch(
    connection: &mut MultiplexedConnection,
    prefix: &str,
    epoch: &str,
) -> Result<(), RedisError> {
    let sizes = format!("{prefix}{epoch}:sizes");
    let names: Vec<String> = redis::cmd("HKEYS")
        .arg(&sizes)
        .query_async(connection)
        .await?;
    let keys: Vec<String> = names
        .iter()
        .map(|name| format!("{prefix}{epoch}:{name}"))
        .collect();
    for chunk in keys.chunks(UNLINK_KEYS_MAX) {
        redis::cmd("UNLINK")
            .arg(chunk)
            .exec_async(connection)
            .await?;
    }
    redis::pipe()
        .atomic()
        .cmd("UNLINK")
        .arg(&sizes)
        .ignore()
        .cmd("SREM")
        .arg(format!("{prefix}epochs"))
        .arg(epoch)
        .ignore()
        .exec_async(connection)
        .await
}
