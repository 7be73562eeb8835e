//! The ledger: which score a deal had from when until when. A temporal table, so that any page of a
//! ranking can be read as it stood at the first.

use anyhow::Context;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{QueryBuilder, Row, SqliteConnection};

use super::deals::{deal_id, push_ids};
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
        let rows = sqlx::query(
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
                    seq: row.try_get("from_seq")?,
                    cause: row.try_get("cause")?,
                    is_current: row.try_get("is_current")?,
                    inputs_hash: row.try_get("inputs_hash")?,
                    score: parse_score(row.try_get("score")?)?,
                })
            })
            .collect()
    }
}

/// The present lines of `ids` in a generation.
pub(super) async fn current_rows(
    connection: &mut SqliteConnection,
    generation: i64,
    ids: &[DealId],
) -> Result<Vec<RankingRow>> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT b.score, ");
    query
        .push(ROW_COLUMNS)
        .push(" FROM scores s JOIN score_documents b ON b.from_seq = s.from_seq")
        .push(" WHERE s.to_seq IS NULL AND s.generation = ")
        .push_bind(generation)
        .push(" AND s.deal_id IN ");
    push_ids(&mut query, ids);
    let rows = query.build().fetch_all(connection).await?;
    rows.iter().map(ranking_row).collect()
}

/// Ends the present line of a deal, if it has one.
pub(super) async fn end(
    connection: &mut SqliteConnection,
    generation: i64,
    id: &DealId,
    seq: i64,
) -> Result<()> {
    sqlx::query(
        "UPDATE scores SET to_seq = $3
         WHERE generation = $1 AND deal_id = $2 AND to_seq IS NULL",
    )
    .bind(generation)
    .bind(id.as_str())
    .bind(seq)
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds lines that hold from their sequence number on.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    generation: i64,
    cause: &str,
    standings: &[(i64, &RankingRow)],
) -> Result<()> {
    for chunk in standings.chunks(INSERT_ROWS_MAX) {
        QueryBuilder::<Sqlite>::new(
            "INSERT INTO scores (from_seq, deal_id, generation, model_version, scored_at, cause,
                 win_probability, expected_value, base_amount, grade, name, owner, pipeline, stage,
                 amount, currency, created_at, stage_entered_at, expected_close_at,
                 last_activity_at, inputs_hash) ",
        )
        .push_values(chunk, |mut row, (seq, standing)| {
            let (deal, score) = (&standing.deal, &standing.score);
            row.push_bind(seq)
                .push_bind(deal.id.as_str())
                .push_bind(generation)
                .push_bind(&score.model_version)
                .push_bind(micros(score.scored_at))
                .push_bind(cause)
                .push_bind(score.win_probability.get())
                .push_bind(score.expected_value)
                .push_bind(deal.base_amount)
                .push_bind(score.grade.as_str())
                .push_bind(&deal.name)
                .push_bind(&deal.owner)
                .push_bind(&deal.pipeline)
                .push_bind(&deal.stage)
                .push_bind(deal.amount.map(|amount| amount.to_string()))
                .push_bind(deal.currency.map(|code| code.to_string()))
                .push_bind(deal.created_at.map(micros))
                .push_bind(deal.stage_entered_at.map(micros))
                .push_bind(deal.expected_close_at.map(micros))
                .push_bind(deal.last_activity_at.map(micros))
                .push_bind(&standing.inputs_hash);
        })
        .build()
        .execute(&mut *connection)
        .await?;
        let mut documents = Vec::with_capacity(chunk.len());
        for (seq, standing) in chunk {
            let json = serde_json::to_string(&standing.score).context("a score is JSON")?;
            documents.push((seq, json));
        }
        QueryBuilder::<Sqlite>::new("INSERT INTO score_documents (from_seq, score) ")
            .push_values(documents, |mut row, (seq, json)| {
                row.push_bind(seq).push_bind(json);
            })
            .build()
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) fn ranking_row(row: &SqliteRow) -> Result<RankingRow> {
    let at = |micros: Option<i64>| micros.map(timestamp).transpose();
    let amount: Option<&str> = row.try_get("amount")?;
    let currency: Option<&str> = row.try_get("currency")?;
    Ok(RankingRow {
        deal: DealSummary {
            id: deal_id(row.try_get("deal_id")?)?,
            name: row.try_get("name")?,
            owner: row.try_get("owner")?,
            pipeline: row.try_get("pipeline")?,
            stage: row.try_get("stage")?,
            amount: amount
                .map(str::parse)
                .transpose()
                .context("a stored amount is no number")?,
            currency: currency
                .map(str::parse)
                .transpose()
                .map_err(anyhow::Error::msg)?,
            base_amount: row.try_get("base_amount")?,
            created_at: at(row.try_get("created_at")?)?,
            stage_entered_at: at(row.try_get("stage_entered_at")?)?,
            expected_close_at: at(row.try_get("expected_close_at")?)?,
            last_activity_at: at(row.try_get("last_activity_at")?)?,
        },
        score: parse_score(row.try_get("score")?)?,
        inputs_hash: row.try_get("inputs_hash")?,
    })
}

pub(super) fn parse_score(json: &str) -> Result<Score> {
    Ok(serde_json::from_str(json).context("a stored score cannot be read")?)
}
