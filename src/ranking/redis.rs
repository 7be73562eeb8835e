//! The order by expected value, and scores by deal, in Redis: one server, or a cluster.
//!
//! Every key belongs to one store, and either expires or is found by name: from the pointer and the
//! set of epochs all others follow, and `dealrank cache rebuild` and `clear` go by them.
//!
//! | key | holds | lives |
//! |---|---|---|
//! | `dealrank:{<store>}:pointer` | the epoch of the live rankings; setting it swaps all of them at once | until `cache clear`, `restore` or `migrate` |
//! | `dealrank:{<store>}:epochs` | set of all epochs that may have keys | as the pointer |
//! | `dealrank:{<store>}:<epoch>:sizes` | hash: members of each ranking, by its name; and `seq` | until the pointer leaves the epoch |
//! | `dealrank:{<store>}:<epoch>:all` | sorted set: deals by negative expected value, 1 if there is none | as its sizes |
//! | `dealrank:{<store>}:<epoch>:owner:<owner>`, `...:pipeline:<pipeline>` | the same, of some deals | as its sizes |
//! | `dealrank:{<store>}:<epoch>:draft` | that somebody is filling the epoch | 60 s after the last filling |
//! | `dealrank:{<store>}:building` | that somebody is building rankings, so that others need not | 10 s after the last filling |
//! | `dealrank:<store>:score:<deal>` | hash: a score as JSON, and its number in the ledger | `score_ttl_seconds` |
//!
//! What a script touches together carries the hash tag `{<store>}`: the rankings of a store are in one
//! slot of a cluster. Scores are on their own, all over the cluster.
//!
//! An epoch is one filling of the rankings, `g<generation>-<random>`. Its content depends on the
//! epoch's generation and on `seq` alone: it is the store's ranking as of that number of the global
//! sequence. Any number of processes advance it, each with a compare-and-set on the number; whoever
//! finds another number than expected asks the store what happened since. So it does not matter who
//! wrote last, or whether a failing master of a cluster has forgotten the end.
//!
//! A reader asks the store first how far it is, and takes no page of another generation, or of an
//! older number. A page is one script: nothing is read of an epoch that the pointer has left. Keys
//! that were evicted are seen by the size of the ranking asked for; from then on the store answers,
//! until the rankings have been filled anew. A cached score is taken only if it has the number of the
//! deal's present score in the store.
//!
//! The rankings of 100,000 deals (ids of 18 characters, 50 owners, 4 pipelines) take 36 MB by MEMORY
//! USAGE, as `dealrank cache status` adds it up: 360 MB for a million. A cached score takes 1.3 kB.

mod connection;
mod draft;
mod keys;
mod scripts;
mod tending;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use redis::{RedisError, RedisResult};
use tokio::sync::{Notify, watch};

use self::connection::{Connection, Server};
pub(crate) use self::draft::RedisDraft;
use self::keys::{Keys as KeyNames, generation_of, moves, name};
use self::scripts::{ADVANCE, Call, KEEP_SCORE, PAGE};
pub use self::tending::CacheStatus;
use super::accelerator::{AcceleratorHealth, Change, Keys, Moment};
use super::cursor::Position;
use super::order::View;
use crate::domain::DealId;
use crate::error::Result;
use crate::scoring::Score;

/// Nobody else builds rankings until this long after a sign of whoever does.
const BUILDING_TTL: Duration = Duration::from_secs(10);
/// Moves of one script: more would keep Redis from serving others meanwhile.
const MOVES_MAX: usize = 100_000;

/// Where Redis is and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://host:port/db`; nodes of a cluster with commas between them, or one with `?cluster` at
    /// the end; `rediss://` with TLS.
    pub url: String,
    pub connect_timeout: Duration,
    /// For one command; in a cluster, where it may be sent more than once, twice as long in all.
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
            check_every: Duration::from_secs(1),
        }
    }
}

/// A connection that is dropped at the first failure; `healing` in the book makes the next one.
#[derive(Debug)]
pub struct RedisRanking {
    server: Server,
    settings: RedisSettings,
    keys: OnceLock<KeyNames>,
    state: watch::Sender<State>,
    /// An epoch that was found damaged: it is not believed again.
    damaged: Mutex<Option<Arc<str>>>,
    /// Whether the log has been told that Redis is out, so that it is told once.
    is_outage_told: AtomicBool,
    outages: AtomicU64,
    /// Rings when Redis needs to be looked at.
    bell: Arc<Notify>,
}

#[derive(Debug, Clone)]
enum State {
    Down,
    Healing(Connection),
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

/// The rankings that this process reads and advances.
#[derive(Debug, Clone)]
struct Live {
    connection: Connection,
    epoch: Arc<str>,
    generation: i64,
}

/// The rankings that Redis has, and how far they are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mark {
    pub epoch: Arc<str>,
    pub moment: Moment,
}

/// What has happened to a generation's ranking between two numbers of the sequence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gap {
    /// Up to here.
    pub seq: i64,
    pub changes: Vec<Change>,
    /// Where these were is known no more.
    pub erased: Vec<DealId>,
}

impl RedisRanking {
    pub(super) fn new(settings: RedisSettings) -> Result<Self> {
        Ok(Self {
            server: Server::of(&settings)?,
            settings,
            keys: OnceLock::new(),
            state: watch::Sender::new(State::Down),
            damaged: Mutex::default(),
            is_outage_told: AtomicBool::new(false),
            outages: AtomicU64::new(0),
            bell: Arc::new(Notify::new()),
        })
    }

    /// Names the store whose rankings these are.
    pub(crate) fn belong_to(&self, store_id: &str) {
        self.keys.get_or_init(|| KeyNames::of(store_id));
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.server.is_cluster()
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

    /// Rings when Redis needs to be looked at.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        self.bell.clone()
    }

    /// Asks for a look soon.
    pub(crate) fn ring(&self) {
        self.bell.notify_one();
    }

    /// Connects where there is no connection, and reads what Redis has. `Err` while it does not
    /// answer, `Ok(None)` if it has nothing that could be used.
    pub(crate) async fn mark(&self) -> Result<Option<Mark>, ()> {
        let mut connection = self.connection().await?;
        let marked = self.read_mark(&mut connection).await;
        marked.map_err(|error| self.fail(&error))
    }

    async fn connection(&self) -> Result<Connection, ()> {
        match self.state() {
            State::Healing(connection) => Ok(connection),
            State::Up(live) => Ok(live.connection),
            State::Down => {
                let connected = self.server.connect(&self.settings).await;
                let connection = connected.map_err(|error| self.fail(&error))?;
                self.set_state(State::Healing(connection.clone()));
                Ok(connection)
            }
        }
    }

    async fn read_mark(&self, connection: &mut Connection) -> RedisResult<Option<Mark>> {
        let (pointer, epochs): (Option<String>, u64) = redis::pipe()
            .get(self.keys().pointer())
            .scard(self.keys().epochs())
            .query_async(connection)
            .await?;
        let Some(epoch) = pointer else {
            return Ok(None);
        };
        if epochs > 1 {
            self.tidy(connection);
        }
        let seq: Option<i64> = redis::cmd("HGET")
            .arg(self.keys().sizes(&epoch))
            .arg("seq")
            .query_async(connection)
            .await?;
        let (Some(generation), Some(seq)) = (generation_of(&epoch), seq) else {
            return Ok(None);
        };
        let is_damaged = self.damaged().as_deref() == Some(&*epoch);
        let moment = Moment { generation, seq };
        let epoch = epoch.into();
        Ok((!is_damaged).then_some(Mark { epoch, moment }))
    }

    /// Uses the rankings that Redis has.
    pub(crate) fn adopt(&self, mark: &Mark) {
        let connection = match self.state() {
            State::Down => return,
            State::Up(live) if live.epoch == mark.epoch => return,
            State::Healing(connection) | State::Up(Live { connection, .. }) => connection,
        };
        self.use_epoch(connection, mark.epoch.clone(), mark.moment.generation);
    }

    /// Leaves the rankings that were used alone from now on: they are not the store's.
    pub(crate) fn distrust(&self) {
        if let State::Up(live) = self.state() {
            self.set_state(State::Healing(live.connection));
            self.tell_outage("the rankings in it are not the store's");
        }
    }

    fn use_epoch(&self, connection: Connection, epoch: Arc<str>, generation: i64) {
        self.set_state(State::Up(Live {
            connection,
            epoch,
            generation,
        }));
        if self.is_outage_told.swap(false, Ordering::Relaxed) {
            tracing::info!("redis is back, and the rankings in it are the store's");
        }
    }

    /// Up to `limit` deals of a view: the first ones as of `wanted` or later, or those after a
    /// position, as of it.
    pub(super) async fn page(
        &self,
        view: View<'_>,
        after: Option<&Position>,
        limit: usize,
        wanted: Moment,
    ) -> Keys {
        let name = name(view);
        // Once more when another process has moved the pointer.
        for _ in 0..2 {
            let Some(mut live) = self.live() else { break };
            let mut page = Call::of(&PAGE);
            page.key(self.keys().pointer())
                .key(self.keys().sizes(&live.epoch))
                .key(self.keys().ranking(&live.epoch, &name))
                .arg(&*live.epoch)
                .arg(&name)
                .arg(limit)
                .arg(wanted.seq);
            if let Some(position) = after {
                page.arg(position.seq).arg(position.deal_id.as_str());
            }
            let answer = page.run(&mut live.connection).await;
            let Some((state, seq, members)) = self.or_down(&live, answer) else {
                break;
            };
            let members: Vec<String> = members;
            match String::as_str(&state) {
                "page" if live.generation == wanted.generation => {
                    let ids = members.iter().map(|id| DealId::new(id).ok());
                    if let Some(deal_ids) = ids.collect() {
                        return Keys::Page {
                            generation: live.generation,
                            seq,
                            deal_ids,
                        };
                    }
                    self.damage(&live);
                }
                "other" => {
                    if self.follow_pointer(&live, members) {
                        continue;
                    }
                }
                // Of an older generation, or behind: whoever changed the store may be about to tell.
                "page" | "behind" => self.ring(),
                "moved" => {}
                _ => self.damage(&live),
            }
            break;
        }
        Keys::Unknown
    }

    fn follow_pointer(&self, live: &Live, pointer: Vec<String>) -> bool {
        let Some(epoch) = pointer.into_iter().next() else {
            return false;
        };
        let is_damaged = self.damaged().as_deref() == Some(&*epoch);
        match generation_of(&epoch) {
            Some(generation) if !is_damaged => {
                self.use_epoch(live.connection.clone(), epoch.into(), generation);
                true
            }
            _ => {
                self.damage(live);
                false
            }
        }
    }

    /// Follows a commit that took the ranking from one number to another; false if Redis has missed
    /// something before it. While Redis is out there is nothing to follow.
    pub(super) async fn apply(&self, before: Moment, seq: i64, changes: &[Change]) -> bool {
        let Some(live) = self.live() else { return true };
        if live.generation != before.generation {
            return false;
        }
        let advance = self.advancing(&live.epoch, before.seq, seq, &[], changes);
        self.advanced(&live, advance).await.unwrap_or(true)
    }

    /// Takes the rankings over a gap; false if they are not where they were marked any more.
    pub(crate) async fn advance(&self, mark: &Mark, gap: &Gap) -> bool {
        let Ok(mut connection) = self.connection().await else {
            return false;
        };
        let live = Live {
            connection: connection.clone(),
            epoch: mark.epoch.clone(),
            generation: mark.moment.generation,
        };
        let mut left = Vec::new();
        if !gap.erased.is_empty() {
            let names = redis::cmd("HKEYS")
                .arg(self.keys().sizes(&mark.epoch))
                .query_async(&mut connection)
                .await;
            let Some(names) = self.or_down(&live, names) else {
                return false;
            };
            let names: Vec<String> = names;
            let names: Vec<_> = names.into_iter().filter(|name| name != "seq").collect();
            if names.len() * gap.erased.len() > MOVES_MAX {
                // Cheaper to build anew than to look for each in every ranking.
                self.damage(&live);
                return false;
            }
            for id in &gap.erased {
                left.extend(names.iter().map(|name| (name.clone(), id)));
                let forgotten = self.unlink_score(id, &mut connection).await;
                self.or_down(&live, forgotten);
            }
        }
        let advance = self.advancing(&mark.epoch, mark.moment.seq, gap.seq, &left, &gap.changes);
        self.advanced(&live, advance).await.unwrap_or(false)
    }

    async fn advanced(&self, live: &Live, advance: Call) -> Option<bool> {
        let advanced = advance.run(&mut live.connection.clone()).await;
        self.or_down(live, advanced)
    }

    fn advancing(
        &self,
        epoch: &str,
        before_seq: i64,
        seq: i64,
        left: &[(String, &DealId)],
        changes: &[Change],
    ) -> Call {
        let left = left.iter().map(|(name, id)| (name.clone(), *id, None));
        let moved = changes.iter().flat_map(|change| {
            moves(change.before.as_ref(), change.after.as_ref())
                .into_iter()
                .map(|(name, rank)| (name, &change.deal_id, rank))
        });
        let mut advance = Call::of(&ADVANCE);
        advance
            .key(self.keys().pointer())
            .key(self.keys().sizes(epoch))
            .arg(epoch)
            .arg(before_seq)
            .arg(seq)
            .arg(self.keys().ranking_prefix_bytes(epoch));
        let mut numbers: HashMap<String, usize> = HashMap::new();
        for (name, id, rank) in left.chain(moved) {
            let next = numbers.len() + 1;
            let number = match numbers.get(&name) {
                Some(number) => *number,
                None => {
                    advance.key(self.keys().ranking(epoch, &name));
                    numbers.insert(name, next);
                    next
                }
            };
            advance
                .arg(number)
                .arg(id.as_str())
                .arg(rank.map_or(String::new(), |rank| rank.to_string()));
        }
        advance
    }

    /// The score of a deal that has this number in the ledger.
    pub(super) async fn cached_score(&self, id: &DealId, number: i64) -> Option<Score> {
        let mut live = self.live()?;
        let read: RedisResult<(Option<i64>, Option<String>)> = redis::cmd("HMGET")
            .arg(self.keys().score(id))
            .arg("seq")
            .arg("score")
            .query_async(&mut live.connection)
            .await;
        let (seq, json) = self.or_down(&live, read)?;
        if seq != Some(number) {
            return None;
        }
        serde_json::from_str(&json?).ok()
    }

    /// Keeps a score unless a newer one is kept.
    pub(super) async fn cache_score(&self, number: i64, score: &Score) {
        let Some(mut live) = self.live() else { return };
        let Ok(json) = serde_json::to_string(score) else {
            return;
        };
        let mut keep = Call::of(&KEEP_SCORE);
        keep.key(self.keys().score(&score.deal_id))
            .arg(number)
            .arg(json)
            .arg(self.settings.score_ttl.as_millis() as u64);
        let kept: RedisResult<u8> = keep.run(&mut live.connection).await;
        self.or_down(&live, kept);
    }

    /// Forgets what is cached of a deal.
    pub(crate) async fn forget(&self, id: &DealId) {
        let Some(mut live) = self.live() else { return };
        let forgotten = self.unlink_score(id, &mut live.connection).await;
        self.or_down(&live, forgotten);
    }

    async fn unlink_score(&self, id: &DealId, connection: &mut Connection) -> RedisResult<()> {
        redis::cmd("UNLINK")
            .arg(self.keys().score(id))
            .exec_async(connection)
            .await
    }

    /// Says that rankings are being built here; false if that is going on elsewhere, unless
    /// `regardless`.
    pub(crate) async fn claim_building(&self, regardless: bool) -> bool {
        let Ok(mut connection) = self.connection().await else {
            return false;
        };
        let mut claim = redis::cmd("SET");
        claim
            .arg(self.keys().building())
            .arg(1)
            .arg("PX")
            .arg(BUILDING_TTL.as_millis() as u64);
        if !regardless {
            claim.arg("NX");
        }
        let claimed: RedisResult<Option<String>> = claim.query_async(&mut connection).await;
        self.or_draft_lost(claimed)
            .is_some_and(|claimed| claimed.is_some())
    }

    /// Lets others build again; a claim that cannot be given back runs out.
    pub(crate) async fn give_back_building(&self) {
        if let Ok(mut connection) = self.connection().await {
            let given: RedisResult<()> = redis::cmd("DEL")
                .arg(self.keys().building())
                .query_async(&mut connection)
                .await;
            self.or_draft_lost(given);
        }
    }

    /// Begins an epoch; `None` while Redis is out.
    pub(super) async fn draft(&self, generation: i64) -> Option<RedisDraft> {
        let connection = match self.state() {
            State::Down => return None,
            State::Healing(connection) | State::Up(Live { connection, .. }) => connection,
        };
        let begun = RedisDraft::begin(connection, self.keys().clone(), generation).await;
        self.or_draft_lost(begun)
    }

    /// Moves the pointer to a draft. What the pointer left is removed afterwards.
    pub(super) async fn publish(&self, mut draft: RedisDraft, seq: i64) -> Option<()> {
        if matches!(self.state(), State::Down) {
            return None;
        }
        let published = draft.publish(seq).await;
        self.or_draft_lost(published)?;
        self.tidy(&draft.connection);
        self.use_epoch(draft.connection, draft.epoch, draft.generation);
        Some(())
    }

    /// Removes, in the background, what nobody reads any more. What fails is tried again later.
    fn tidy(&self, connection: &Connection) {
        let (mut connection, keys) = (connection.clone(), self.keys().clone());
        tokio::spawn(async move {
            if let Err(error) = draft::remove_left_epochs(&mut connection, &keys).await {
                tracing::debug!(%error, "old rankings remain in redis for now");
            }
        });
    }

    /// Stops believing the live rankings, since the store has moved on without them.
    pub(super) fn abandon(&self) {
        self.set_state(State::Down);
        self.ring();
    }

    fn keys(&self) -> &KeyNames {
        self.keys.get_or_init(|| KeyNames::of(""))
    }

    fn damaged(&self) -> std::sync::MutexGuard<'_, Option<Arc<str>>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The value of a command on the live rankings; a failure takes Redis out.
    fn or_down<T>(&self, live: &Live, result: RedisResult<T>) -> Option<T> {
        result.inspect_err(|error| self.down(live, error)).ok()
    }

    /// The value of a command on a draft; a failure takes Redis out.
    pub(super) fn or_draft_lost<T>(&self, result: RedisResult<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                self.abandon();
                self.tell_outage(error);
            })
            .ok()
    }

    /// Keys of the rankings are missing or not what they were.
    fn damage(&self, live: &Live) {
        *self.damaged() = Some(live.epoch.clone());
        self.down(live, &"the rankings in it are damaged");
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
            self.ring();
        }
    }

    /// While looking at Redis.
    fn fail(&self, error: &RedisError) {
        self.set_state(State::Down);
        self.tell_outage(error);
    }

    fn tell_outage(&self, reason: &(impl std::fmt::Display + ?Sized)) {
        if !self.is_outage_told.swap(true, Ordering::Relaxed) {
            self.outages.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%reason, "redis is out; the store answers until it is back");
        }
    }
}
