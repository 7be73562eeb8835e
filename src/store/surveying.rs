//! Deals with their present scores in short, for insights.

use jiff::Timestamp;
use serde::Deserialize;

use super::Store;
use super::deals::stored_deal;
use super::engine::{Row, Sql};
use crate::domain::{Deal, DealId};
use crate::error::{Error, Result};
use crate::insight::Standing;
use crate::ranking::Moment;
use crate::scoring::Grade;

/// A deal with its present score and the moment of that, if it has one.
pub(crate) type Surveyed = (Deal, Option<(Standing, Timestamp)>);

/// What insights need of a stored score; the rest is not even read.
#[derive(Deserialize)]
struct Outline {
    win_probability: f64,
    interval: Ends,
    score: u8,
    grade: Grade,
    expected_value: Option<f64>,
    scored_at: Timestamp,
}

#[derive(Deserialize)]
struct Ends {
    low: f64,
    high: f64,
}

const COLUMNS: &str = "SELECT d.document, d.revision, d.updated_at, b.score FROM deals d
     LEFT JOIN scores s ON s.deal_id = d.id AND s.to_seq IS NULL AND s.generation = ";
const JOIN: &str = " LEFT JOIN score_documents b ON b.from_seq = s.from_seq WHERE d.id ";

impl Store {
    /// Deals with ids after `after`, by id, with their scores in a generation.
    pub(crate) async fn surveyed(
        &self,
        generation: i64,
        after: Option<&DealId>,
        limit: u32,
    ) -> Result<Vec<Surveyed>> {
        let mut sql = Sql::new(COLUMNS);
        sql.push_bind(generation)
            .push(JOIN)
            .push("> ")
            .push_bind(after.map_or("", DealId::as_str))
            .push(" ORDER BY d.id LIMIT ")
            .push_bind(limit);
        let rows = sql.fetch_all(&self.readers).await?;
        rows.iter().map(surveyed).collect()
    }

    /// Those of `ids` that are there, with their scores in a generation.
    pub(crate) async fn surveyed_of(
        &self,
        generation: i64,
        ids: &[DealId],
    ) -> Result<Vec<Surveyed>> {
        let mut sql = Sql::new(COLUMNS);
        sql.push_bind(generation)
            .push(JOIN)
            .push("IN ")
            .push_list(ids.iter().map(DealId::as_str));
        let rows = sql.fetch_all(&self.readers).await?;
        rows.iter().map(surveyed).collect()
    }

    /// The deals that were changed, scored anew or erased since a moment, and how far that is; `None`
    /// when that is too much, not known any more, or another model scores now.
    pub(crate) async fn stirred_since(
        &self,
        since: Moment,
    ) -> Result<Option<(Vec<DealId>, Moment)>> {
        let Some(gap) = self.gap(since).await? else {
            return Ok(None);
        };
        let (mut ids, _) = self.touched_since(since.seq).await?;
        ids.extend(gap.changes.into_iter().map(|change| change.deal_id));
        ids.extend(gap.erased);
        ids.sort_unstable();
        ids.dedup();
        let now = Moment {
            generation: since.generation,
            seq: gap.seq,
        };
        Ok(Some((ids, now)))
    }
}

fn surveyed(row: &Row) -> Result<Surveyed> {
    let score: Option<&str> = row.get("score")?;
    let standing = score.map(outline).transpose()?;
    Ok((stored_deal(row)?.deal, standing))
}

fn outline(score: &str) -> Result<(Standing, Timestamp)> {
    let outline: Outline = serde_json::from_str(score)
        .map_err(|e| Error::Internal(anyhow::anyhow!("a stored score cannot be read: {e}")))?;
    let standing = Standing {
        win_probability: outline.win_probability,
        low: outline.interval.low,
        high: outline.interval.high,
        score: outline.score,
        grade: outline.grade,
        expected_value: outline.expected_value,
    };
    Ok((standing, outline.scored_at))
}
