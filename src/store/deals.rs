//! Deals and the log of what was received of them; each is written in one transaction with its score.

use std::collections::{HashMap, HashSet};

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use super::engine::{Row, Sql, Tx};
use super::{
    Departing, Fence, ShadowScore, Store, following, generations, inbox, leases, ledger, micros,
    outbox, shadow, take_seqs, timestamp,
};
use crate::domain::{Deal, DealId};
use crate::error::Result;
use crate::ingest::document;
use crate::ranking::RankingRow;
use crate::scoring::Score;

/// A deal as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDeal {
    pub deal: Deal,
    /// From the global sequence; grows with every change of any deal.
    pub revision: i64,
    pub updated_at: Timestamp,
}

/// Which deals to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    Open,
    Closed,
}

impl Which {
    fn condition(self) -> &'static str {
        match self {
            Self::All => "1 = 1",
            Self::Open => "outcome = 'open'",
            Self::Closed => "outcome <> 'open'",
        }
    }
}

/// What a write finds.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    pub stored: StoredDeal,
    /// Its present line in the active ranking.
    pub standing: Option<RankingRow>,
    /// Which of the asked-for external ids have been logged.
    pub known_events: HashSet<String>,
}

/// Everything that one write does to one deal.
#[derive(Debug)]
pub(crate) struct DealWrite {
    pub deal: Deal,
    /// The revision that the write was worked out from; `None` for a new deal.
    pub revision_before: Option<i64>,
    /// As of when others saw it as a whole, where they did.
    pub seen_at: Option<Timestamp>,
    /// Its line in the active ranking that the write was worked out from.
    pub standing_before: Option<RankingRow>,
    /// The deal's document; `None` when only its score moves.
    pub document: Option<String>,
    pub log: Vec<LoggedEvent>,
    pub score: ScoreWrite,
    /// What a challenger makes of the deal.
    pub shadow: Option<ShadowScore>,
    /// The moment of the write.
    pub at: Timestamp,
}

/// An entry of the log of what was received.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// From the global sequence, as the ledger's.
    pub seq: i64,
    pub received_at: Timestamp,
    /// The id that the sender gave it.
    pub external_id: Option<String>,
    /// A document, a patch or a dated fact, as its `type` says.
    pub body: Value,
}

/// What is appended to the log.
#[derive(Debug)]
pub(crate) struct LoggedEvent {
    pub external_id: Option<String>,
    pub body: Value,
}

/// What became of writes that were worked out from what was there before.
#[derive(Debug)]
pub(crate) enum Commit<T> {
    /// With the sequence after the last.
    Done(T, i64),
    /// A deal was written meanwhile, or there is another champion: nothing was written.
    Outdated,
}

/// What a write does to a deal's line in the active ranking.
#[derive(Debug)]
pub(crate) enum ScoreWrite {
    Keep,
    Set(Box<RankingRow>),
    /// The deal is closed, or no longer scored.
    End,
}

impl DealWrite {
    /// How many numbers of the global sequence it takes.
    pub fn numbers(&self) -> usize {
        self.log.len().max(1)
    }

    pub fn is_nothing(&self) -> bool {
        self.document.is_none() && self.log.is_empty() && matches!(self.score, ScoreWrite::Keep)
    }
}

impl Store {
    pub async fn deal(&self, id: &DealId) -> Result<Option<StoredDeal>> {
        let row = Sql::new("SELECT document, revision, updated_at FROM deals WHERE id = $1")
            .bind(id.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(stored_deal).transpose()
    }

    /// Deals with ids after `after`, by id: a stream in pages, so that not all are in memory at once.
    pub async fn deals(
        &self,
        which: Which,
        after: Option<&DealId>,
        limit: u32,
    ) -> Result<Vec<StoredDeal>> {
        let mut sql = Sql::new("SELECT document, revision, updated_at FROM deals");
        push_page(&mut sql, which, after, limit);
        let rows = sql.fetch_all(&self.readers).await?;
        rows.iter().map(stored_deal).collect()
    }

    /// As [`Self::deals`], the ids alone.
    pub(crate) async fn deal_ids(
        &self,
        which: Which,
        after: Option<&DealId>,
        limit: u32,
    ) -> Result<Vec<DealId>> {
        let mut sql = Sql::new("SELECT id FROM deals");
        push_page(&mut sql, which, after, limit);
        let ids: Vec<String> = sql.scalars(&self.readers).await?;
        ids.into_iter().map(deal_id).collect()
    }

    /// What was received of a deal, in the order in which it was.
    pub async fn events(&self, id: &DealId) -> Result<Vec<StoredEvent>> {
        let rows =
            Sql::new("SELECT seq, received_at, external_id, body FROM events WHERE deal_id = $1 ORDER BY seq")
                .bind(id.as_str())
                .fetch_all(&self.readers)
                .await?;
        let event = |row: &Row| {
            let body: &str = row.get("body")?;
            Ok(StoredEvent {
                seq: row.get("seq")?,
                received_at: timestamp(row.get("received_at")?)?,
                external_id: row.get("external_id")?,
                body: serde_json::from_str(body).context("a stored event is not JSON")?,
            })
        };
        rows.iter().map(event).collect()
    }

    /// Whether a closed deal was written after `at`.
    pub(crate) async fn has_closed_since(&self, at: Timestamp) -> Result<bool> {
        Sql::new("SELECT EXISTS (SELECT 1 FROM deals WHERE outcome <> 'open' AND updated_at > $1)")
            .bind(micros(at))
            .scalar(&self.readers)
            .await
    }

    pub async fn count_deals(&self, which: Which) -> Result<u64> {
        let mut sql = Sql::new("SELECT count(*) FROM deals WHERE ");
        sql.push(which.condition());
        let count: i64 = sql.scalar(&self.readers).await?;
        Ok(count.unsigned_abs())
    }

    /// A deal with its score in the active ranking, both of the same moment.
    pub(crate) async fn scored_deal(
        &self,
        id: &DealId,
    ) -> Result<Option<(StoredDeal, Option<Score>)>> {
        let row = Sql::new(
            "SELECT d.document, d.revision, d.updated_at, b.score
             FROM deals d
             LEFT JOIN generations g ON g.state = 'active'
             LEFT JOIN scores s
                 ON s.generation = g.id AND s.deal_id = d.id AND s.to_seq IS NULL
             LEFT JOIN score_documents b ON b.from_seq = s.from_seq
             WHERE d.id = $1",
        )
        .bind(id.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let score: Option<&str> = row.get("score")?;
        let score = score.map(ledger::parse_score).transpose()?;
        Ok(Some((stored_deal(&row)?, score)))
    }

    /// What a write needs to know about `ids`; deals that are not there are not in the answer.
    pub(crate) async fn before(
        &self,
        generation: Option<i64>,
        ids: &[DealId],
        external_ids: &[&str],
    ) -> Result<HashMap<DealId, Before>> {
        let mut tx = self.readers.read().await?;
        let mut found = HashMap::with_capacity(ids.len());
        for stored in stored_deals(&mut tx, ids).await? {
            let before = Before {
                stored,
                standing: None,
                known_events: HashSet::new(),
            };
            found.insert(before.stored.deal.id.clone(), before);
        }
        if let Some(generation) = generation {
            for standing in ledger::current_rows(&mut tx, generation, ids).await? {
                if let Some(before) = found.get_mut(&standing.deal.id) {
                    before.standing = Some(standing);
                }
            }
        }
        if !external_ids.is_empty() {
            for (id, external_id) in known_events(&mut tx, ids, external_ids).await? {
                if let Some(before) = found.get_mut(&id) {
                    before.known_events.insert(external_id);
                }
            }
        }
        Ok(found)
    }

    /// The deals among `ids` that are there.
    pub(crate) async fn deals_of(&self, ids: &[DealId]) -> Result<Vec<StoredDeal>> {
        let mut tx = self.readers.read().await?;
        stored_deals(&mut tx, ids).await
    }

    /// Writes deals, what was received of them and their scores, all or nothing, if everything is still
    /// as it was when the writes were worked out.
    ///
    /// # Errors
    /// `Conflict` when the lease under which they were worked out has changed hands; `Busy` when a deal that
    /// is new here left its CRM after it was seen there.
    pub(crate) async fn commit(
        &self,
        writes: &[&DealWrite],
        generation: Option<i64>,
        cause: &str,
        fence: Option<&Fence>,
    ) -> Result<Commit<Vec<i64>>> {
        let mut tx = self.writer.write().await?;
        let count = writes.iter().map(|write| write.numbers()).sum();
        let last_seq = take_seqs(&mut tx, count).await?;
        leases::check(&mut tx, fence).await?;
        let known = writes
            .iter()
            .map(|write| (&write.deal.id, write.revision_before));
        if !is_as_planned(&mut tx, generation, known.collect()).await? {
            return Ok(Commit::Outdated);
        }
        let mut seq = last_seq - count as i64;
        let mut revisions = Vec::with_capacity(writes.len());
        let (mut standings, mut moved) = (Vec::new(), Vec::new());
        for write in writes {
            let first_seq = seq + 1;
            seq += write.numbers() as i64;
            revisions.push(seq);
            if let (None, Some(seen_at)) = (write.revision_before, write.seen_at) {
                inbox::let_in(&mut tx, &write.deal.id, seen_at).await?;
            }
            if let Some(document) = &write.document {
                upsert_deal(&mut tx, &write.deal, document, seq, write.at).await?;
            }
            for (event_seq, event) in (first_seq..).zip(&write.log) {
                let id = &write.deal.id;
                if !insert_event(&mut tx, event_seq, id, event, cause, write.at).await? {
                    return Ok(Commit::Outdated);
                }
            }
            if let Some(shadow) = &write.shadow {
                shadow::put(&mut tx, shadow).await?;
            }
            let Some(generation) = generation else {
                continue;
            };
            match &write.score {
                ScoreWrite::Keep => {}
                ScoreWrite::Set(standing) => {
                    ledger::end(&mut tx, generation, &write.deal.id, seq).await?;
                    standings.push((seq, &**standing));
                    moved.push((seq, *write));
                }
                ScoreWrite::End => ledger::end(&mut tx, generation, &write.deal.id, seq).await?,
            }
        }
        if let Some(generation) = generation {
            ledger::insert(&mut tx, generation, cause, &standings).await?;
        }
        let is_told = outbox::tell_scores(&mut tx, &moved, cause).await?;
        tx.commit().await?;
        if is_told {
            self.outbox_filled.notify_one();
        }
        Ok(Commit::Done(revisions, last_seq))
    }

    /// Forgets a deal, its events and its ledger, if it is still as it was when that was worked out; with
    /// all that was received of it, or, where it left its CRM, what that told of it before. What it told
    /// of later is new once more.
    pub(crate) async fn erase(
        &self,
        id: &DealId,
        generation: Option<i64>,
        revision_before: i64,
        departing: Option<&Departing>,
    ) -> Result<Commit<()>> {
        let mut tx = self.writer.write().await?;
        let seq = take_seqs(&mut tx, 1).await?;
        let known = HashMap::from([(id, Some(revision_before))]);
        if !is_as_planned(&mut tx, generation, known).await? {
            return Ok(Commit::Outdated);
        }
        match departing {
            None => inbox::forget(&mut tx, id).await?,
            Some(departing) => {
                if !inbox::forget_before(&mut tx, id, departing).await? {
                    return Ok(Commit::Outdated);
                }
            }
        }
        Sql::new("DELETE FROM deals WHERE id = $1")
            .bind(id.as_str())
            .execute(&mut tx)
            .await?;
        following::note_erased(&mut tx, id, seq).await?;
        tx.commit().await?;
        Ok(Commit::Done((), seq))
    }
}

/// Whether the champion and the deals are those that a write was worked out from; the transaction holds
/// the sequence, so that they stay so. In one process that is certain, with several it is not.
async fn is_as_planned(
    tx: &mut Tx,
    generation: Option<i64>,
    mut known: HashMap<&DealId, Option<i64>>,
) -> Result<bool> {
    let active = generations::active(tx).await?;
    if active.map(|active| active.id) != generation {
        return Ok(false);
    }
    let mut sql = Sql::new("SELECT id, revision FROM deals WHERE id IN ");
    sql.push_list(known.keys().map(|id| id.as_str()));
    for row in sql.fetch_all(tx).await? {
        let id = deal_id(row.get("id")?)?;
        if known.remove(&id) != Some(Some(row.get("revision")?)) {
            return Ok(false);
        }
    }
    // Those that are left are new, or were erased.
    Ok(known.values().all(Option::is_none))
}

pub(super) async fn stored_deals(tx: &mut Tx, ids: &[DealId]) -> Result<Vec<StoredDeal>> {
    let mut sql = Sql::new("SELECT document, revision, updated_at FROM deals WHERE id IN ");
    sql.push_list(ids.iter().map(DealId::as_str));
    let rows = sql.fetch_all(tx).await?;
    rows.iter().map(stored_deal).collect()
}

async fn known_events(
    tx: &mut Tx,
    ids: &[DealId],
    external_ids: &[&str],
) -> Result<Vec<(DealId, String)>> {
    let mut sql = Sql::new("SELECT deal_id, external_id FROM events WHERE deal_id IN ");
    sql.push_list(ids.iter().map(DealId::as_str))
        .push(" AND external_id IN ")
        .push_list(external_ids.iter().copied());
    let rows = sql.fetch_all(tx).await?;
    rows.iter()
        .map(|row| Ok((deal_id(row.get("deal_id")?)?, row.get("external_id")?)))
        .collect()
}

async fn upsert_deal(
    tx: &mut Tx,
    deal: &Deal,
    document: &str,
    revision: i64,
    at: Timestamp,
) -> Result<()> {
    Sql::new(
        "INSERT INTO deals (id, document, outcome, owner, pipeline, stage, amount, currency,
                            created_at, expected_close_at, closed_at, revision, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
         ON CONFLICT (id) DO UPDATE SET
             document = excluded.document, outcome = excluded.outcome, owner = excluded.owner,
             pipeline = excluded.pipeline, stage = excluded.stage, amount = excluded.amount,
             currency = excluded.currency, created_at = excluded.created_at,
             expected_close_at = excluded.expected_close_at, closed_at = excluded.closed_at,
             revision = excluded.revision, updated_at = excluded.updated_at",
    )
    .bind(deal.id.as_str())
    .bind(document)
    .bind(deal.outcome.as_str())
    .bind(&deal.owner)
    .bind(&deal.pipeline)
    .bind(&deal.stage)
    .bind(deal.amount.map(|amount| amount.to_string()))
    .bind(deal.currency.map(|code| code.to_string()))
    .bind(deal.created_at.map(micros))
    .bind(deal.expected_close_at.map(micros))
    .bind(deal.closed_at.map(micros))
    .bind(revision)
    .bind(micros(at))
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether the event is new.
async fn insert_event(
    tx: &mut Tx,
    seq: i64,
    deal_id: &DealId,
    event: &LoggedEvent,
    cause: &str,
    at: Timestamp,
) -> Result<bool> {
    let inserted = Sql::new(
        "INSERT INTO events (seq, deal_id, received_at, cause, external_id, body)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (deal_id, external_id) DO NOTHING",
    )
    .bind(seq)
    .bind(deal_id.as_str())
    .bind(micros(at))
    .bind(cause)
    .bind(&event.external_id)
    .bind(event.body.to_string())
    .execute(tx)
    .await?;
    Ok(inserted > 0)
}

/// Ids after `after`, in their order.
fn push_page<'a>(sql: &mut Sql<'a>, which: Which, after: Option<&'a DealId>, limit: u32) {
    sql.push(" WHERE id > ")
        .push_bind(after.map_or("", DealId::as_str))
        .push(" AND ")
        .push(which.condition())
        .push(" ORDER BY id LIMIT ")
        .push_bind(limit);
}

pub(super) fn deal_id(id: String) -> Result<DealId> {
    Ok(DealId::new(&id)
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("the stored deal id `{}`", id.escape_debug()))?)
}

pub(super) fn stored_deal(row: &Row) -> Result<StoredDeal> {
    let json: &str = row.get("document")?;
    let value: Value = serde_json::from_str(json).context("a stored deal is not JSON")?;
    let deal = document::parse(value)
        .map_err(crate::error::Error::Invalid)
        .context("a stored deal cannot be read")?;
    Ok(StoredDeal {
        deal,
        revision: row.get("revision")?,
        updated_at: timestamp(row.get("updated_at")?)?,
    })
}
