//! The ledger: which score a deal had from when until when. A temporal table, so that any page of a
//! ranking can be read as it stood at the first.

use anyhow::Context;

use super::deals::deal_id;
use super::engine::{Argument, Row, Sql, Tx};
use super::{INSERT_ROWS_MAX, Store, micros, timestamp};
use crate::domain::DealId;
use crate::error::Result;
use crate::ranking::{DealSummary, RankingRow};
use crate::scoring::Score;

/// One score in a deal's history.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// From the global sequence; later entries have larger ones.
    pub seq: i64,
    /// What made the deal be scored: `put`, `patch`, `events`, `import`, `activation`, `refresh`.
    pub cause: String,
    /// Whether it is the deal's present score.
    pub is_current: bool,
    /// See [`crate::scoring::Scorer::inputs_hash`]; `None` of scores that are older than it.
    pub inputs_hash: Option<String>,
    pub score: Score,
}

/// The columns that [`ranking_row`] reads, of the tables `scores s` and `score_documents b`.
pub(super) const ROW_COLUMNS: &str =
    "s.from_seq, s.deal_id, s.name, s.owner, s.pipeline, s.stage, s.amount, s.currency, s.base_amount,
     s.inputs_hash, s.created_at, s.stage_entered_at, s.expected_close_at, s.last_activity_at";

impl Store {
    /// The history of a deal's score, newest first, from entries before `before`.
    pub async fn ledger(
        &self,
        id: &DealId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>> {
        let rows = Sql::new(
            "SELECT s.from_seq, s.cause, s.inputs_hash, b.score,
                    s.to_seq IS NULL AND g.state = 'active' AS is_current
             FROM scores s
             JOIN generations g ON g.id = s.generation AND g.state <> 'building'
             JOIN score_documents b ON b.from_seq = s.from_seq
             WHERE s.deal_id = $1 AND s.from_seq < $2
             ORDER BY s.from_seq DESC LIMIT $3",
        )
        .bind(id.as_str())
        .bind(before.unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(LedgerEntry {
                    seq: row.get("from_seq")?,
                    cause: row.get("cause")?,
                    is_current: row.get("is_current")?,
                    inputs_hash: row.get("inputs_hash")?,
                    score: parse_score(row.get("score")?)?,
                })
            })
            .collect()
    }
}

/// The present lines of `ids` in a generation.
pub(super) async fn current_rows(
    tx: &mut Tx,
    generation: i64,
    ids: &[DealId],
) -> Result<Vec<RankingRow>> {
    let mut sql = Sql::new("SELECT b.score, ");
    sql.push(ROW_COLUMNS)
        .push(" FROM scores s JOIN score_documents b ON b.from_seq = s.from_seq")
        .push(" WHERE s.to_seq IS NULL AND s.generation = ")
        .push_bind(generation)
        .push(" AND s.deal_id IN ")
        .push_list(ids.iter().map(DealId::as_str));
    let rows = sql.fetch_all(tx).await?;
    rows.iter().map(ranking_row).collect()
}

/// Ends the present line of a deal, if it has one.
pub(super) async fn end(tx: &mut Tx, generation: i64, id: &DealId, seq: i64) -> Result<()> {
    Sql::new(
        "UPDATE scores SET to_seq = $3
         WHERE generation = $1 AND deal_id = $2 AND to_seq IS NULL",
    )
    .bind(generation)
    .bind(id.as_str())
    .bind(seq)
    .execute(tx)
    .await?;
    Ok(())
}

/// Adds lines that hold from their sequence number on.
pub(super) async fn insert(
    tx: &mut Tx,
    generation: i64,
    cause: &str,
    standings: &[(i64, &RankingRow)],
) -> Result<()> {
    for chunk in standings.chunks(INSERT_ROWS_MAX) {
        let mut scores = Sql::new(
            "INSERT INTO scores (from_seq, deal_id, generation, model_version, scored_at, cause,
                 win_probability, expected_value, base_amount, grade, name, owner, pipeline, stage,
                 amount, currency, created_at, stage_entered_at, expected_close_at,
                 last_activity_at, inputs_hash) VALUES ",
        );
        let mut documents = Sql::new("INSERT INTO score_documents (from_seq, score) VALUES ");
        for (index, (seq, standing)) in chunk.iter().enumerate() {
            let (deal, score) = (&standing.deal, &standing.score);
            let separator = if index > 0 { ", " } else { "" };
            scores.push(separator).push_list::<Argument<'_>>([
                (*seq).into(),
                deal.id.as_str().into(),
                generation.into(),
                (&score.model_version).into(),
                micros(score.scored_at).into(),
                cause.into(),
                score.win_probability.get().into(),
                score.expected_value.into(),
                deal.base_amount.into(),
                score.grade.as_str().into(),
                (&deal.name).into(),
                (&deal.owner).into(),
                (&deal.pipeline).into(),
                (&deal.stage).into(),
                deal.amount.map(|amount| amount.to_string()).into(),
                deal.currency.map(|code| code.to_string()).into(),
                deal.created_at.map(micros).into(),
                deal.stage_entered_at.map(micros).into(),
                deal.expected_close_at.map(micros).into(),
                deal.last_activity_at.map(micros).into(),
                (&standing.inputs_hash).into(),
            ]);
            let json = serde_json::to_string(score).context("a score is JSON")?;
            documents
                .push(separator)
                .push_list::<Argument<'_>>([(*seq).into(), json.into()]);
        }
        scores.execute(&mut *tx).await?;
        documents.execute(&mut *tx).await?;
    }
    Ok(())
}

pub(super) fn ranking_row(row: &Row) -> Result<RankingRow> {
    let at = |micros: Option<i64>| micros.map(timestamp).transpose();
    let amount: Option<&str> = row.get("amount")?;
    let currency: Option<&str> = row.get("currency")?;
    Ok(RankingRow {
        deal: DealSummary {
            id: deal_id(row.get("deal_id")?)?,
            name: row.get("name")?,
            owner: row.get("owner")?,
            pipeline: row.get("pipeline")?,
            stage: row.get("stage")?,
            amount: amount
                .map(str::parse)
                .transpose()
                .context("a stored amount is no number")?,
            currency: currency
                .map(str::parse)
                .transpose()
                .map_err(anyhow::Error::msg)?,
            base_amount: row.get("base_amount")?,
            created_at: at(row.get("created_at")?)?,
            stage_entered_at: at(row.get("stage_entered_at")?)?,
            expected_close_at: at(row.get("expected_close_at")?)?,
            last_activity_at: at(row.get("last_activity_at")?)?,
        },
        score: parse_score(row.get("score")?)?,
        inputs_hash: row.get("inputs_hash")?,
    })
}

pub(super) fn parse_score(json: &str) -> Result<Score> {
    Ok(serde_json::from_str(json).context("a stored score cannot be read")?)
}
