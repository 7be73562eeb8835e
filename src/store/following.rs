//! What others need to follow the store: how far it is, and what has changed since a number of the
//! global sequence.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::deals::deal_id;
use super::engine::{Sql, Tx};
use super::{Store, current_seq, generations, ledger, micros, retention};
use crate::domain::DealId;
use crate::error::Result;
use crate::ranking::{Change, Gap, Member, Moment};
use crate::scoring::Score;

/// More changes than these are not followed: building anew is quicker then.
const GAP_ROWS_MAX: i64 = 20_000;
/// How long it is known which deals were erased. Whoever follows looks every second.
const ERASED_KEPT: SignedDuration = SignedDuration::from_hours(1);
/// The setting with the number up to which it is known no more which deals were erased.
const ERASED_HORIZON: &str = "erased_seq";

/// Who scores at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScoringNow {
    pub generation: Option<i64>,
    /// The version of the model that scores unseen.
    pub challenger: Option<String>,
}

impl Store {
    /// The active generation and how far the store is.
    pub(crate) async fn moment(&self) -> Result<Moment> {
        let row = Sql::new(
            "SELECT q.value, coalesce(g.id, 0) AS generation FROM sequence q
             LEFT JOIN generations g ON g.state = 'active'",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok(Moment {
            generation: row.get("generation")?,
            seq: row.get("value")?,
        })
    }

    /// Who scores: the active generation and the challenger, both of the same moment.
    pub(crate) async fn scoring_now(&self) -> Result<ScoringNow> {
        let row = Sql::new(
            "SELECT (SELECT id FROM generations WHERE state = 'active') AS generation,
                    (SELECT version FROM models WHERE is_challenger = 1) AS challenger",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok(ScoringNow {
            generation: row.get("generation")?,
            challenger: row.get("challenger")?,
        })
    }

    /// What has happened to a generation's ranking since a number; `None` if that is too much or not
    /// known any more.
    pub(crate) async fn gap(&self, since: Moment) -> Result<Option<Gap>> {
        let mut tx = self.readers.read().await?;
        let now = moment(&mut tx).await?;
        let horizon = retention::horizon(&mut tx).await?;
        let is_known = since.seq >= horizon.max(erased_horizon(&mut tx).await?);
        if now.generation != since.generation || since.seq > now.seq || !is_known {
            return Ok(None);
        }
        // Lines that held then and ended since, and lines that hold now and did not then. These are found
        // by their number: the sum keeps SQLite from an index that has all lines that hold.
        let rows = Sql::new(
            "SELECT deal_id, expected_value_rank, owner, pipeline, CAST(0 AS BIGINT) AS holds FROM scores
             WHERE generation = $1 AND to_seq > $2 AND from_seq <= $2
             UNION ALL
             SELECT deal_id, expected_value_rank, owner, pipeline, CAST(1 AS BIGINT) AS holds FROM scores
             WHERE generation + 0 = $1 AND to_seq IS NULL AND from_seq > $2
             LIMIT $3",
        )
        .bind(since.generation)
        .bind(since.seq)
        .bind(GAP_ROWS_MAX)
        .fetch_all(&mut tx)
        .await?;
        let erased = erased_since(&mut tx, since.seq).await?;
        if (rows.len() + erased.len()) as i64 >= GAP_ROWS_MAX {
            return Ok(None);
        }
        let mut changes: HashMap<DealId, Change> = HashMap::with_capacity(rows.len());
        for row in &rows {
            let member = Member {
                deal_id: deal_id(row.get("deal_id")?)?,
                rank: row.get("expected_value_rank")?,
                owner: row.get("owner")?,
                pipeline: row.get("pipeline")?,
            };
            let change = changes
                .entry(member.deal_id.clone())
                .or_insert_with(|| Change {
                    deal_id: member.deal_id.clone(),
                    before: None,
                    after: None,
                });
            let holds: i64 = row.get("holds")?;
            match holds {
                0 => change.before = Some(member),
                _ => change.after = Some(member),
            }
        }
        Ok(Some(Gap {
            seq: now.seq,
            changes: changes.into_values().collect(),
            erased,
        }))
    }

    /// The deals that were changed or erased since a number, and the number up to which these are all.
    pub(crate) async fn touched_since(&self, seq: i64) -> Result<(Vec<DealId>, i64)> {
        let mut tx = self.readers.read().await?;
        let now = current_seq(&mut tx).await?;
        Ok((touched_since(&mut tx, seq).await?, now))
    }

    /// The number in the ledger of a deal's present score; `None` if there is no such deal, and
    /// `Some(None)` if it has no score.
    pub(crate) async fn score_number(&self, id: &DealId) -> Result<Option<Option<i64>>> {
        Sql::new(
            "SELECT s.from_seq FROM deals d
             LEFT JOIN generations g ON g.state = 'active'
             LEFT JOIN scores s
                 ON s.generation = g.id AND s.deal_id = d.id AND s.to_seq IS NULL
             WHERE d.id = $1",
        )
        .bind(id.as_str())
        .scalar_optional(&self.readers)
        .await
    }

    /// The score that has a number in the ledger, if it is still there.
    pub(crate) async fn score_numbered(&self, number: i64) -> Result<Option<Score>> {
        let json: Option<String> =
            Sql::new("SELECT score FROM score_documents WHERE from_seq = $1")
                .bind(number)
                .scalar_optional(&self.readers)
                .await?;
        json.as_deref().map(ledger::parse_score).transpose()
    }

    /// The deals that were erased lately.
    pub(crate) async fn erased_lately(&self) -> Result<Vec<DealId>> {
        let mut tx = self.readers.read().await?;
        erased_since(&mut tx, 0).await
    }

    /// Forgets which deals were erased long enough ago.
    pub(crate) async fn forget_erased(&self) -> Result<()> {
        let mut tx = self.writer.write().await?;
        forget_erased(&mut tx, Timestamp::now()).await?;
        tx.commit().await
    }
}

async fn moment(tx: &mut Tx) -> Result<Moment> {
    let active = generations::active(tx).await?;
    Ok(Moment {
        generation: active.map_or(0, |active| active.id),
        seq: current_seq(tx).await?,
    })
}

pub(super) async fn touched_since(tx: &mut Tx, seq: i64) -> Result<Vec<DealId>> {
    let ids: Vec<String> = Sql::new(
        "SELECT id FROM deals WHERE revision > $1
         UNION SELECT deal_id FROM erased_deals WHERE seq > $1",
    )
    .bind(seq)
    .scalars(tx)
    .await?;
    ids.into_iter().map(deal_id).collect()
}

async fn erased_since(tx: &mut Tx, seq: i64) -> Result<Vec<DealId>> {
    let ids: Vec<String> =
        Sql::new("SELECT DISTINCT deal_id FROM erased_deals WHERE seq > $1 LIMIT $2")
            .bind(seq)
            .bind(GAP_ROWS_MAX)
            .scalars(tx)
            .await?;
    ids.into_iter().map(deal_id).collect()
}

/// Notes that a deal was erased, in the transaction that erases it.
pub(super) async fn note_erased(tx: &mut Tx, id: &DealId, seq: i64) -> Result<()> {
    let now = Timestamp::now();
    forget_erased(tx, now).await?;
    Sql::new("INSERT INTO erased_deals (seq, deal_id, erased_at) VALUES ($1, $2, $3)")
        .bind(seq)
        .bind(id.as_str())
        .bind(micros(now))
        .execute(tx)
        .await?;
    Ok(())
}

async fn forget_erased(tx: &mut Tx, now: Timestamp) -> Result<()> {
    let before = now.saturating_sub(ERASED_KEPT).unwrap_or(Timestamp::MIN);
    let last: Option<i64> = Sql::new("SELECT max(seq) FROM erased_deals WHERE erased_at < $1")
        .bind(micros(before))
        .scalar(&mut *tx)
        .await?;
    let Some(last) = last else { return Ok(()) };
    Sql::new("DELETE FROM erased_deals WHERE seq <= $1")
        .bind(last)
        .execute(&mut *tx)
        .await?;
    Sql::new(
        "INSERT INTO settings (name, value) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(ERASED_HORIZON)
    .bind(last.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

async fn erased_horizon(tx: &mut Tx) -> Result<i64> {
    let value: Option<String> = Sql::new("SELECT value FROM settings WHERE name = $1")
        .bind(ERASED_HORIZON)
        .scalar_optional(tx)
        .await?;
    Ok(value.and_then(|seq| seq.parse().ok()).unwrap_or(0))
}
