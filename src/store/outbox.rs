//! What is to be told: events, written in the transaction of what they tell of, and their deliveries.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use super::engine::{Argument, Row, Sql, Tx};
use super::ledger::{ROW_COLUMNS, ranking_row};
use super::pages::push_stalled;
use super::{
    DealWrite, INSERT_ROWS_MAX, ScoreWrite, Store, generations, micros, subscriptions, take_seqs,
    timestamp,
};
use crate::error::Result;
use crate::insight::StageLimit;
use crate::outbound::event::Subject;
use crate::outbound::patience::Circuit;
use crate::outbound::subscription::Sweep;
use crate::outbound::{Event, EventType};
use crate::ranking::RankingRow;
use crate::scoring::{Grade, Score};

/// Deals that are told as stalled in one transaction.
const STALLED_ROWS_MAX: u32 = 200;
/// Deliveries removed in one transaction.
const CHUNK_DELIVERIES: i64 = 2000;

/// What was told last of a deal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Told {
    pub win_probability: f64,
    pub grade: Grade,
    pub expected_value: Option<f64>,
}

impl Told {
    /// `None` where the deal has no grade.
    pub fn of_subject(deal: &Subject) -> Option<Self> {
        Some(Self {
            win_probability: deal.win_probability,
            grade: deal.grade?,
            expected_value: deal.expected_value,
        })
    }

    pub fn of(score: &Score) -> Self {
        Self {
            win_probability: score.win_probability.get(),
            grade: score.grade,
            expected_value: score.expected_value,
        }
    }
}

/// An event that somebody wants.
#[derive(Debug, Clone)]
pub(crate) struct Queued {
    pub subscription_id: String,
    pub seq: i64,
    /// Deliveries with the same one go one after the other.
    pub order_key: String,
    pub deal_id: Option<String>,
    /// What is remembered as told, where it matters.
    pub told: Option<Told>,
}

/// A delivery whose time has come.
#[derive(Debug, Clone)]
pub(crate) struct Due {
    pub seq: i64,
    pub attempts: u32,
    pub event: Event,
}

/// What became of a delivery.
#[derive(Debug, Clone)]
pub(crate) struct Attempted {
    pub subscription_id: String,
    pub seq: i64,
    pub at: Timestamp,
    pub attempts: u32,
    pub status: Option<u16>,
    pub reason: Option<String>,
    pub duration: Duration,
    pub next: Next,
}

/// What comes next of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    Retry(Timestamp),
    GiveUp,
    /// The receiver wants nothing any more.
    End,
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeliveryState {
    Pending,
    Delivered,
    /// Every attempt has failed.
    Failed,
    /// The receiver wanted nothing any more before it was sent.
    Dropped,
}

impl DeliveryState {
    pub const ALL: [Self; 4] = [Self::Pending, Self::Delivered, Self::Failed, Self::Dropped];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// A delivery, for those who look.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub seq: i64,
    pub event_id: String,
    pub kind: String,
    pub deal_id: Option<String>,
    pub happened_at: Timestamp,
    pub state: DeliveryState,
    pub attempts: u32,
    /// Of one that is pending.
    pub next_at: Timestamp,
    pub attempted_at: Option<Timestamp>,
    pub status: Option<u16>,
    pub reason: Option<String>,
    pub duration: Option<Duration>,
}

/// How long a queue is, and when the first of it happened.
#[derive(Debug, Clone, Default)]
pub(crate) struct Backlog {
    pub pending: u64,
    pub oldest: Option<Timestamp>,
}

impl Store {
    /// Events that nobody has looked at, in order.
    pub(crate) async fn new_events(&self, limit: u32) -> Result<Vec<(i64, Event)>> {
        let rows = Sql::new("SELECT * FROM outbox WHERE is_new = 1 ORDER BY seq LIMIT $1")
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        rows.iter()
            .map(|row| Ok((row.get("seq")?, event(row)?)))
            .collect()
    }

    /// What a subscription was told last of each of some deals.
    pub(crate) async fn told(
        &self,
        subscription_id: &str,
        deal_ids: &BTreeSet<&str>,
    ) -> Result<HashMap<String, Told>> {
        let mut told = HashMap::with_capacity(deal_ids.len());
        if deal_ids.is_empty() {
            return Ok(told);
        }
        let mut sql = Sql::new(
            "SELECT deal_id, win_probability, grade, expected_value FROM last_told
             WHERE subscription_id = ",
        );
        sql.push_bind(subscription_id)
            .push(" AND deal_id IN ")
            .push_list(deal_ids.iter().copied());
        for row in sql.fetch_all(&self.readers).await? {
            let last = Told {
                win_probability: row.get("win_probability")?,
                grade: grade(row.get("grade")?)?,
                expected_value: row.get("expected_value")?,
            };
            told.insert(row.get("deal_id")?, last);
        }
        Ok(told)
    }

    /// Queues what was found to be wanted of the events `seqs`. Those that nobody wants are removed.
    /// `sweeping` are the CRMs whose deals are all to be looked at.
    pub(crate) async fn fan_out(
        &self,
        seqs: &[i64],
        queued: &[Queued],
        sweeping: &[(String, Sweep)],
        at: Timestamp,
    ) -> Result<()> {
        let mut tx = self.writer.write().await?;
        for chunk in queued.chunks(INSERT_ROWS_MAX) {
            enqueue(&mut tx, chunk, at).await?;
            remember(&mut tx, chunk).await?;
        }
        for (id, sweep) in sweeping {
            Sql::new("UPDATE subscriptions SET sweep = $2 WHERE id = $1")
                .bind(id)
                .bind(sweep.to_string())
                .execute(&mut tx)
                .await?;
        }
        for chunk in seqs.chunks(INSERT_ROWS_MAX) {
            let mut unwanted = Sql::new("DELETE FROM outbox WHERE seq IN ");
            unwanted
                .push_list(chunk.iter().copied())
                .push(" AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = outbox.seq)");
            unwanted.execute(&mut tx).await?;
            let mut seen = Sql::new("UPDATE outbox SET is_new = 0 WHERE seq IN ");
            seen.push_list(chunk.iter().copied());
            seen.execute(&mut tx).await?;
        }
        tx.commit().await
    }

    /// Deliveries of a subscription whose time has come, except for `under_way`: of each order key the
    /// first that is pending, and nothing behind it.
    pub(crate) async fn due(
        &self,
        subscription_id: &str,
        now: Timestamp,
        under_way: &BTreeSet<i64>,
        limit: usize,
    ) -> Result<Vec<Due>> {
        let mut sql =
            Sql::new("SELECT o.*, d.attempts FROM deliveries d JOIN outbox o ON o.seq = d.seq");
        sql.push(" WHERE d.subscription_id = ")
            .push_bind(subscription_id)
            .push(" AND d.state = 'pending' AND d.next_at <= ")
            .push_bind(micros(now));
        if !under_way.is_empty() {
            sql.push(" AND d.seq NOT IN ")
                .push_list(under_way.iter().copied());
        }
        sql.push(
            " AND NOT EXISTS
                 (SELECT 1 FROM deliveries e
                  WHERE e.subscription_id = d.subscription_id AND e.order_key = d.order_key
                        AND e.state = 'pending' AND e.seq < d.seq)
             ORDER BY d.seq LIMIT ",
        )
        .push_bind(limit as i64);
        let rows = sql.unkept().fetch_all(&self.readers).await?;
        rows.iter().map(due).collect()
    }

    /// The first deliveries of a subscription whose time has come, in whatever order they may be done.
    pub(crate) async fn due_at_once(
        &self,
        subscription_id: &str,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<Due>> {
        let rows = Sql::new(
            "SELECT o.*, d.attempts FROM deliveries d JOIN outbox o ON o.seq = d.seq
             WHERE d.subscription_id = $1 AND d.state = 'pending' AND d.next_at <= $2
             ORDER BY d.seq LIMIT $3",
        )
        .bind(subscription_id)
        .bind(micros(now))
        .bind(limit as i64)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(due).collect()
    }

    /// Writes down what became of deliveries, and how their receivers do.
    pub(crate) async fn record_attempts(
        &self,
        attempted: &[Attempted],
        circuits: &[(String, Circuit)],
    ) -> Result<()> {
        let mut tx = self.writer.write().await?;
        for attempted in attempted {
            record(&mut tx, attempted).await?;
        }
        for (id, circuit) in circuits {
            subscriptions::put_circuit(&mut tx, id, *circuit).await?;
        }
        tx.commit().await
    }

    /// Writes down what is in the CRM now, and that these deliveries are over: they are removed.
    pub(crate) async fn record_written(
        &self,
        subscription_id: &str,
        written: &[(String, Told)],
        over: &[i64],
    ) -> Result<()> {
        let mut tx = self.writer.write().await?;
        let written: Vec<Queued> = written
            .iter()
            .map(|(deal_id, told)| Queued {
                subscription_id: subscription_id.to_owned(),
                seq: 0,
                order_key: String::new(),
                deal_id: Some(deal_id.clone()),
                told: Some(*told),
            })
            .collect();
        for chunk in written.chunks(INSERT_ROWS_MAX) {
            remember(&mut tx, chunk).await?;
        }
        for chunk in over.chunks(INSERT_ROWS_MAX) {
            let mut sql = Sql::new("DELETE FROM deliveries WHERE subscription_id = ");
            sql.push_bind(subscription_id)
                .push(" AND seq IN ")
                .push_list(chunk.iter().copied());
            sql.execute(&mut tx).await?;
            let mut unwanted = Sql::new("DELETE FROM outbox WHERE seq IN ");
            unwanted
                .push_list(chunk.iter().copied())
                .push(" AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = outbox.seq)");
            unwanted.execute(&mut tx).await?;
        }
        tx.commit().await
    }

    /// The present scores of deals; those that have none are not in the answer.
    pub(crate) async fn present_scores(&self, deal_ids: &BTreeSet<&str>) -> Result<Vec<Score>> {
        if deal_ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut sql = Sql::new(PRESENT_SCORES);
        sql.push(" AND s.deal_id IN ")
            .push_list(deal_ids.iter().copied());
        scores(sql, self).await
    }

    /// The present scores of deals with ids after `after` that begin with `prefix`, by id.
    pub(crate) async fn present_scores_after(
        &self,
        after: &str,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<Score>> {
        let mut sql = Sql::new(PRESENT_SCORES);
        sql.push(" AND s.deal_id > ").push_bind(after.max(prefix));
        if let Some(end) = after_prefix(prefix) {
            sql.push(" AND s.deal_id < ").push_bind(end);
        }
        sql.push(" ORDER BY s.deal_id LIMIT ")
            .push_bind(limit as i64);
        scores(sql, self).await
    }

    /// Whether anybody wants to know of such events.
    pub(crate) async fn is_wanted(&self, kind: EventType) -> Result<bool> {
        is_wanted(&mut self.readers.read().await?, kind).await
    }

    /// Tells of deals that are longer in their stage than its limit, each stay once, if anybody wants to
    /// know; answers with how many, at most some hundreds at a time.
    pub(crate) async fn tell_stalled(&self, limits: &[StageLimit], at: Timestamp) -> Result<usize> {
        let mut tx = self.writer.write().await?;
        if !is_wanted(&mut tx, EventType::DealStalled).await? {
            return Ok(0);
        }
        let Some(generation) = generations::active(&mut tx).await? else {
            return Ok(0);
        };
        // From here on nobody changes a deal. Numbers that are not used are given back or left out.
        let last_seq = take_seqs(&mut tx, STALLED_ROWS_MAX as usize).await?;
        let first_seq = last_seq - i64::from(STALLED_ROWS_MAX) + 1;
        let mut sql = Sql::new("SELECT b.score, ");
        sql.push(ROW_COLUMNS)
            .push(
                " FROM scores s JOIN score_documents b ON b.from_seq = s.from_seq
                  WHERE s.to_seq IS NULL AND s.generation = ",
            )
            .push_bind(generation.id);
        push_stalled(&mut sql, limits, at);
        sql.push(
            " AND NOT EXISTS
                     (SELECT 1 FROM stalls_told t
                      WHERE t.deal_id = s.deal_id AND t.stage_entered_at = s.stage_entered_at)
                  ORDER BY s.deal_id LIMIT ",
        )
        .push_bind(STALLED_ROWS_MAX);
        let stalled: Vec<RankingRow> = sql
            .fetch_all(&mut tx)
            .await?
            .iter()
            .map(ranking_row)
            .collect::<Result<_>>()?;
        if stalled.is_empty() {
            return Ok(0);
        }
        let events = stalled
            .iter()
            .map(|row| Event::deal_stalled(row, limit_of(row, limits), at));
        let events: Vec<_> = (first_seq..).zip(events).collect();
        insert(&mut tx, &events).await?;
        for row in &stalled {
            Sql::new(
                "INSERT INTO stalls_told (deal_id, stage_entered_at) VALUES ($1, $2)
                 ON CONFLICT (deal_id) DO UPDATE SET stage_entered_at = excluded.stage_entered_at",
            )
            .bind(row.deal.id.as_str())
            .bind(row.deal.stage_entered_at.map(micros))
            .execute(&mut tx)
            .await?;
        }
        tx.commit().await?;
        self.outbox_filled.notify_one();
        Ok(stalled.len())
    }

    /// The newest deliveries of a subscription, newest first, from those before `before`.
    pub(crate) async fn deliveries(
        &self,
        subscription_id: &str,
        state: Option<DeliveryState>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Delivery>> {
        let mut sql = Sql::new(
            "SELECT o.id, o.kind, o.deal_id, o.happened_at, d.*
             FROM deliveries d JOIN outbox o ON o.seq = d.seq WHERE d.subscription_id = ",
        );
        sql.push_bind(subscription_id)
            .push(" AND d.seq < ")
            .push_bind(before.unwrap_or(i64::MAX));
        if let Some(state) = state {
            sql.push(" AND d.state = ").push_bind(state.as_str());
        }
        sql.push(" ORDER BY d.seq DESC LIMIT ").push_bind(limit);
        let rows = sql.fetch_all(&self.readers).await?;
        rows.iter().map(delivery).collect()
    }

    /// Puts deliveries that have failed for good back into the queue; answers with how many.
    pub(crate) async fn redeliver(&self, subscription_id: &str, now: Timestamp) -> Result<u64> {
        let count = Sql::new(
            "UPDATE deliveries SET state = 'pending', attempts = 0, next_at = $2
             WHERE subscription_id = $1 AND state IN ('failed', 'dropped')",
        )
        .bind(subscription_id)
        .bind(micros(now))
        .execute(&self.writer)
        .await?;
        self.outbox_filled.notify_one();
        Ok(count)
    }

    /// The queue of a subscription.
    pub(crate) async fn backlog(&self, subscription_id: &str) -> Result<Backlog> {
        let pending: i64 = Sql::new(
            "SELECT count(*) FROM deliveries WHERE subscription_id = $1 AND state = 'pending'",
        )
        .bind(subscription_id)
        .scalar(&self.readers)
        .await?;
        let oldest: Option<i64> = Sql::new(
            "SELECT o.happened_at FROM deliveries d JOIN outbox o ON o.seq = d.seq
             WHERE d.subscription_id = $1 AND d.state = 'pending' ORDER BY d.seq LIMIT 1",
        )
        .bind(subscription_id)
        .scalar_optional(&self.readers)
        .await?;
        Ok(Backlog {
            pending: u64::try_from(pending).unwrap_or(0),
            oldest: oldest.map(timestamp).transpose()?,
        })
    }

    /// Removes deliveries that were over before `cutoff`, and events that nobody waits for; answers with
    /// how many deliveries.
    pub(crate) async fn prune_outbox(&self, cutoff: Timestamp) -> Result<u64> {
        let mut removed = 0;
        loop {
            let chunk = Sql::new(
                "DELETE FROM outbox WHERE seq IN
                     (SELECT o.seq FROM deliveries d JOIN outbox o ON o.seq = d.seq
                      WHERE d.state <> 'pending' AND d.attempted_at < $1
                        AND NOT EXISTS
                            (SELECT 1 FROM deliveries e WHERE e.seq = o.seq
                             AND (e.state = 'pending' OR e.attempted_at >= $1))
                      LIMIT $2)",
            )
            .bind(micros(cutoff))
            .bind(CHUNK_DELIVERIES)
            .execute(&self.writer)
            .await?;
            removed += chunk;
            if chunk == 0 {
                break;
            }
        }
        // Left by subscriptions that were removed.
        Sql::new(
            "DELETE FROM outbox WHERE is_new = 0
             AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = outbox.seq)",
        )
        .execute(&self.writer)
        .await?;
        Ok(removed)
    }
}

/// Whether anybody subscribed to such events.
/// The limit of the stage that a deal is in.
fn limit_of(row: &RankingRow, limits: &[StageLimit]) -> Option<f64> {
    let deal = &row.deal;
    let mut limits = limits.iter();
    let limit = limits
        .find(|limit| limit.pipeline == deal.pipeline && Some(&limit.stage) == deal.stage.as_ref());
    limit.map(|limit| limit.days)
}

pub(super) async fn is_wanted(tx: &mut Tx, kind: EventType) -> Result<bool> {
    let count: i64 = Sql::new(
        "SELECT count(*) FROM subscriptions WHERE disabled_at IS NULL AND event_types LIKE $1",
    )
    .bind(format!("%{}%", kind.as_str()))
    .scalar(tx)
    .await?;
    Ok(count > 0)
}

/// Tells of scores that moved, if anybody wants to know; answers with whether any was told.
pub(super) async fn tell_scores(
    tx: &mut Tx,
    moved: &[(i64, &DealWrite)],
    cause: &str,
) -> Result<bool> {
    if moved.is_empty() || !is_wanted(tx, EventType::ScoreChanged).await? {
        return Ok(false);
    }
    let event = |write: &DealWrite| match &write.score {
        ScoreWrite::Set(standing) => {
            let before = write.standing_before.as_ref().map(|before| &before.score);
            Event::score_changed(before, standing, cause, write.at)
        }
        ScoreWrite::Keep | ScoreWrite::End => None,
    };
    let events: Vec<_> = moved
        .iter()
        .filter_map(|(seq, write)| Some((*seq, event(write)?)))
        .collect();
    insert(tx, &events).await?;
    Ok(!events.is_empty())
}

/// Tells of a champion, if anybody wants to know.
pub(super) async fn tell_model(tx: &mut Tx, seq: i64, event: Event) -> Result<()> {
    match is_wanted(tx, EventType::ModelActivated).await? {
        true => insert(tx, &[(seq, event)]).await,
        false => Ok(()),
    }
}

/// Adds events with their numbers.
pub(super) async fn insert(tx: &mut Tx, events: &[(i64, Event)]) -> Result<()> {
    for chunk in events.chunks(INSERT_ROWS_MAX) {
        let mut sql = Sql::new(
            "INSERT INTO outbox (seq, id, kind, happened_at, deal_id, owner, pipeline, stage,
                                 grade, win_probability, expected_value, data) VALUES ",
        );
        for (index, (seq, event)) in chunk.iter().enumerate() {
            let deal = event.deal.as_ref();
            sql.push(if index > 0 { ", " } else { "" }).push_list([
                (*seq).into(),
                event.id.as_str().into(),
                event.kind.as_str().into(),
                micros(event.at).into(),
                deal.map(|deal| deal.deal_id.as_str()).into(),
                deal.and_then(|deal| deal.owner.as_deref()).into(),
                deal.and_then(|deal| deal.pipeline.as_deref()).into(),
                deal.and_then(|deal| deal.stage.as_deref()).into(),
                deal.and_then(|deal| deal.grade).map(Grade::as_str).into(),
                deal.map(|deal| deal.win_probability).into(),
                deal.and_then(|deal| deal.expected_value).into(),
                Argument::from(event.data.to_string()),
            ]);
        }
        sql.execute(&mut *tx).await?;
    }
    Ok(())
}

async fn enqueue(tx: &mut Tx, queued: &[Queued], at: Timestamp) -> Result<()> {
    let mut sql = Sql::new(
        "INSERT INTO deliveries (subscription_id, seq, order_key, state, next_at) VALUES ",
    );
    for (index, queued) in queued.iter().enumerate() {
        sql.push(if index > 0 { ", (" } else { "(" })
            .push_bind(&queued.subscription_id)
            .push(", ")
            .push_bind(queued.seq)
            .push(", ")
            .push_bind(&queued.order_key)
            .push(", 'pending', ")
            .push_bind(micros(at))
            .push(")");
    }
    // Where a subscription, or a deal with its events, has gone since it was read, this fails, and the
    // next look finds it gone.
    sql.push(" ON CONFLICT DO NOTHING");
    sql.execute(tx).await?;
    Ok(())
}

/// Writes what was told last; of a deal that comes twice, the later one.
async fn remember(tx: &mut Tx, queued: &[Queued]) -> Result<()> {
    let told: HashMap<_, _> = queued
        .iter()
        .filter_map(|queued| {
            let key = (queued.subscription_id.as_str(), queued.deal_id.as_deref()?);
            Some((key, queued.told?))
        })
        .collect();
    for ((subscription_id, deal_id), told) in told {
        // A deal that was erased is not remembered.
        Sql::new(
            "INSERT INTO last_told (subscription_id, deal_id, win_probability, grade, expected_value)
             SELECT $1, id, $3, $4, $5 FROM deals WHERE id = $2
             ON CONFLICT (subscription_id, deal_id) DO UPDATE SET
                 win_probability = excluded.win_probability, grade = excluded.grade,
                 expected_value = excluded.expected_value",
        )
        .bind(subscription_id)
        .bind(deal_id)
        .bind(told.win_probability)
        .bind(told.grade.as_str())
        .bind(told.expected_value)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn record(tx: &mut Tx, attempted: &Attempted) -> Result<()> {
    let (state, next_at) = match attempted.next {
        Next::Nothing => (DeliveryState::Delivered, attempted.at),
        Next::Retry(at) => (DeliveryState::Pending, at),
        Next::GiveUp => (DeliveryState::Failed, attempted.at),
        Next::End => (DeliveryState::Dropped, attempted.at),
    };
    Sql::new(
        "UPDATE deliveries SET state = $3, attempts = $4, next_at = $5, attempted_at = $6,
                status = $7, reason = $8, duration_ms = $9
         WHERE subscription_id = $1 AND seq = $2",
    )
    .bind(&attempted.subscription_id)
    .bind(attempted.seq)
    .bind(state.as_str())
    .bind(attempted.attempts)
    .bind(micros(next_at))
    .bind(micros(attempted.at))
    .bind(attempted.status.map(i64::from))
    .bind(attempted.reason.as_deref())
    .bind(i64::try_from(attempted.duration.as_millis()).unwrap_or(i64::MAX))
    .execute(&mut *tx)
    .await?;
    if attempted.next == Next::End {
        subscriptions::end(tx, &attempted.subscription_id, attempted.at).await?;
    }
    Ok(())
}

const PRESENT_SCORES: &str =
    "SELECT b.score FROM scores s JOIN score_documents b ON b.from_seq = s.from_seq
     WHERE s.to_seq IS NULL AND s.generation = (SELECT id FROM generations WHERE state = 'active')";

async fn scores(sql: Sql<'_>, store: &Store) -> Result<Vec<Score>> {
    let rows = sql.fetch_all(&store.readers).await?;
    rows.iter()
        .map(|row| super::ledger::parse_score(row.get("score")?))
        .collect()
}

/// The first text after all that begin with `prefix`; none after an empty one.
fn after_prefix(prefix: &str) -> Option<String> {
    // No id has this character, which is none.
    (!prefix.is_empty()).then(|| format!("{prefix}\u{10ffff}"))
}

fn due(row: &Row) -> Result<Due> {
    let attempts: i64 = row.get("attempts")?;
    Ok(Due {
        seq: row.get("seq")?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        event: event(row)?,
    })
}

fn event(row: &Row) -> Result<Event> {
    let kind: String = row.get("kind")?;
    let data: String = row.get("data")?;
    let deal_id: Option<String> = row.get("deal_id")?;
    let deal = match deal_id {
        None => None,
        Some(deal_id) => {
            let deal_grade: Option<&str> = row.get("grade")?;
            let win_probability: Option<f64> = row.get("win_probability")?;
            Some(Subject {
                deal_id,
                owner: row.get("owner")?,
                pipeline: row.get("pipeline")?,
                stage: row.get("stage")?,
                grade: deal_grade.map(grade).transpose()?,
                win_probability: win_probability.unwrap_or_default(),
                expected_value: row.get("expected_value")?,
            })
        }
    };
    Ok(Event {
        id: row.get("id")?,
        kind: EventType::of(&kind).with_context(|| format!("the stored event type `{kind}`"))?,
        at: timestamp(row.get("happened_at")?)?,
        deal,
        data: serde_json::from_str::<Value>(&data).context("a stored event is not JSON")?,
    })
}

fn delivery(row: &Row) -> Result<Delivery> {
    let state: String = row.get("state")?;
    let attempts: i64 = row.get("attempts")?;
    let status: Option<i64> = row.get("status")?;
    let duration_ms: Option<i64> = row.get("duration_ms")?;
    let attempted_at: Option<i64> = row.get("attempted_at")?;
    Ok(Delivery {
        seq: row.get("seq")?,
        event_id: row.get("id")?,
        kind: row.get("kind")?,
        deal_id: row.get("deal_id")?,
        happened_at: timestamp(row.get("happened_at")?)?,
        state: DeliveryState::of(&state).with_context(|| format!("the stored state `{state}`"))?,
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        next_at: timestamp(row.get("next_at")?)?,
        attempted_at: attempted_at.map(timestamp).transpose()?,
        status: status.and_then(|status| u16::try_from(status).ok()),
        reason: row.get("reason")?,
        duration: duration_ms.and_then(|ms| Some(Duration::from_millis(u64::try_from(ms).ok()?))),
    })
}

fn grade(text: &str) -> Result<Grade> {
    Ok(serde_json::from_value(Value::from(text)).context("a stored grade cannot be read")?)
}
