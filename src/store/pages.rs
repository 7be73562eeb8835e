//! Pages of a ranking, read from the ledger as it stood at a sequence number.

use jiff::{SignedDuration, Timestamp};

use super::deals::deal_id;
use super::engine::{Sql, Tx};
use super::generations::{self, Generation};
use super::ledger::{ROW_COLUMNS, ranking_row};
use super::{Store, current_seq, micros, retention};
use crate::domain::DealId;
use crate::error::{Error, Result};
use crate::insight::StageLimit;
use crate::ranking::{Member, Position, RankingQuery, RankingRow, Sort};

const DAY_MICROS: i64 = 86_400_000_000;

/// What a page is asked of the store for.
#[derive(Debug)]
pub(crate) struct PageRequest<'a> {
    pub query: &'a RankingQuery,
    /// Where the page before ended; `None` asks for the first page, as of now.
    pub after: Option<&'a Position>,
    /// The present of the first page, for sorts and filters that count days.
    pub at: Timestamp,
    /// How long a deal may be in each stage; for queries of stalled deals.
    pub limits: &'a [StageLimit],
    /// Cursors of a generation that was retired before this are expired.
    pub retired_after: Timestamp,
    pub limit: u32,
}

/// A page as the store has it.
#[derive(Debug)]
pub(crate) struct StorePage {
    pub generation: Generation,
    pub seq: i64,
    /// Each with its sort key.
    pub rows: Vec<(f64, RankingRow)>,
}

impl Store {
    /// # Errors
    /// `NoModel`; `Invalid` for a position that never was; `CursorExpired`.
    pub(crate) async fn page(&self, request: &PageRequest<'_>) -> Result<StorePage> {
        let mut tx = self.readers.read().await?;
        let present_seq = current_seq(&mut tx).await?;
        let (generation, seq) = match request.after {
            None => {
                let active = generations::active(&mut tx).await?;
                (active.ok_or(Error::NoModel)?, present_seq)
            }
            Some(position) => {
                let generation = readable(&mut tx, position, present_seq, request).await?;
                (generation, position.seq)
            }
        };
        let key = sort_key(request.query.sort, request.at);
        let mut sql = Sql::new("SELECT b.score, s.rank, ");
        sql.push(ROW_COLUMNS).push(" FROM (");
        AsOf {
            generation: generation.id,
            seq,
            key: &key,
            after: request.after.map(|p| (p.rank, &p.deal_id)),
            limit: request.limit,
        }
        .push(&mut sql, "*", |sql| push_filters(sql, request));
        sql.push(
            ") s JOIN score_documents b ON b.from_seq = s.from_seq ORDER BY s.rank, s.deal_id",
        );
        // Sort keys that count days carry the day in their text: not worth a place among the
        // prepared statements.
        let rows = sql.unkept().fetch_all(&mut tx).await?;
        let rows = rows
            .iter()
            // PostgreSQL has a zero below zero, SQLite has none.
            .map(|row| Ok((row.get::<f64>("rank")? + 0.0, ranking_row(row)?)))
            .collect::<Result<_>>()?;
        Ok(StorePage {
            generation,
            seq,
            rows,
        })
    }

    /// The lines of `ids` as of `seq`, in no order; a deal erased meanwhile has none.
    pub(crate) async fn rows_as_of(
        &self,
        generation: i64,
        seq: i64,
        ids: &[DealId],
    ) -> Result<Vec<RankingRow>> {
        let mut sql = Sql::new("");
        for still_holds in [true, false] {
            sql.push("SELECT b.score, ")
                .push(ROW_COLUMNS)
                .push(" FROM scores s JOIN score_documents b ON b.from_seq = s.from_seq")
                .push(" WHERE s.generation = ")
                .push_bind(generation)
                .push(" AND s.from_seq <= ")
                .push_bind(seq)
                .push(" AND s.deal_id IN ")
                .push_list(ids.iter().map(DealId::as_str));
            if still_holds {
                sql.push(" AND s.to_seq IS NULL UNION ALL ");
            } else {
                sql.push(" AND s.to_seq > ").push_bind(seq);
            }
        }
        let rows = sql.fetch_all(&self.readers).await?;
        rows.iter().map(ranking_row).collect()
    }

    /// The members of a generation's ranking as of `seq`, in its order, after `after`.
    pub(crate) async fn members(
        &self,
        generation: i64,
        seq: i64,
        after: Option<&Member>,
        limit: u32,
    ) -> Result<Vec<Member>> {
        let mut sql = Sql::new("");
        AsOf {
            generation,
            seq,
            key: EXPECTED_VALUE_KEY,
            after: after.map(|member| (member.rank, &member.deal_id)),
            limit,
        }
        .push(&mut sql, "deal_id, owner, pipeline", |_| {});
        let rows = sql.fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                Ok(Member {
                    deal_id: deal_id(row.get("deal_id")?)?,
                    rank: row.get("rank")?,
                    owner: row.get("owner")?,
                    pipeline: row.get("pipeline")?,
                })
            })
            .collect()
    }
}

/// The generation of a position, if it can still be read.
async fn readable(
    tx: &mut Tx,
    position: &Position,
    present_seq: i64,
    request: &PageRequest<'_>,
) -> Result<Generation> {
    if position.seq > present_seq {
        return Err(Error::invalid("cursor", "is not a cursor of this service"));
    }
    if position.seq < retention::horizon(tx).await? {
        return Err(Error::CursorExpired);
    }
    generations::seen(tx, position.generation)
        .await?
        .filter(|g| g.retired_at.is_none_or(|at| at > request.retired_after))
        .ok_or(Error::CursorExpired)
}

/// The lines that held at `seq`, from a place in the order on.
///
/// Two arms: the lines that hold still, few of which are too young, by their partial index; and
/// those that have ended since, of which there are few. So the length of the history costs nothing.
struct AsOf<'a> {
    generation: i64,
    seq: i64,
    key: &'a str,
    after: Option<(f64, &'a DealId)>,
    limit: u32,
}

impl<'a> AsOf<'a> {
    fn push(&self, sql: &mut Sql<'a>, columns: &str, push_filters: impl Fn(&mut Sql<'a>)) {
        let Self { key, limit, .. } = self;
        for still_holds in [true, false] {
            sql.push(format_args!(
                "SELECT * FROM (SELECT {columns}, {key} AS rank FROM scores WHERE generation = "
            ))
            .push_bind(self.generation)
            .push(" AND from_seq <= ")
            .push_bind(self.seq);
            if still_holds {
                sql.push(" AND to_seq IS NULL");
            } else {
                sql.push(" AND to_seq > ").push_bind(self.seq);
            }
            push_filters(sql);
            if let Some((rank, id)) = self.after {
                sql.push(format_args!(" AND ({key}, deal_id) > ("))
                    .push_bind(rank)
                    .push(", ")
                    .push_bind(id.as_str())
                    .push(")");
            }
            sql.push(format_args!(
                " ORDER BY {key}, deal_id LIMIT {limit}) AS arm"
            ));
            if still_holds {
                sql.push(" UNION ALL ");
            }
        }
        sql.push(format_args!(" ORDER BY rank, deal_id LIMIT {limit}"));
    }
}

const EXPECTED_VALUE_KEY: &str = "expected_value_rank";

/// The expression that is smallest for the first row: what is largest negated, and 1 for unknown.
fn sort_key(sort: Sort, at: Timestamp) -> String {
    let now = micros(at);
    match sort {
        Sort::ExpectedValue => EXPECTED_VALUE_KEY.into(),
        Sort::WinProbability => "win_probability_rank".into(),
        Sort::Amount => "amount_rank".into(),
        Sort::EvPerDay => {
            let days = format!("((expected_close_at - {now}) / {DAY_MICROS})");
            // A CASE without ELSE is NULL where the date is.
            format!(
                "coalesce(-expected_value
                          / CASE WHEN {days} < 1 THEN 1 WHEN {days} >= 1 THEN {days} END, 1.0)"
            )
        }
        Sort::Neglect => {
            let days = format!("(({now} - coalesce(last_activity_at, created_at)) / {DAY_MICROS})");
            format!("coalesce(-expected_value * CASE WHEN {days} < 0 THEN 0 ELSE {days} END, 1.0)")
        }
    }
}

fn push_filters<'a>(sql: &mut Sql<'a>, request: &PageRequest<'a>) {
    let query = request.query;
    for (column, value) in [
        ("owner", query.owner.as_deref()),
        ("pipeline", query.pipeline.as_deref()),
        ("stage", query.stage.as_deref()),
        ("grade", query.grade.map(|grade| grade.as_str())),
    ] {
        if let Some(value) = value {
            sql.push(format_args!(" AND {column} = ")).push_bind(value);
        }
    }
    if let Some(amount) = query.min_amount {
        sql.push(" AND base_amount >= ").push_bind(amount);
    }
    if query.stalled {
        push_stalled(sql, request.limits, request.at);
    }
}

/// Lines of the table `scores` whose deal was longer in its stage at `at` than the stage allows.
pub(super) fn push_stalled<'a>(sql: &mut Sql<'a>, limits: &'a [StageLimit], at: Timestamp) {
    sql.push(" AND (1 = 0");
    for limit in limits {
        sql.push(" OR (stage = ").push_bind(limit.stage.as_str());
        match &limit.pipeline {
            Some(pipeline) => sql.push(" AND pipeline = ").push_bind(pipeline.as_str()),
            None => sql.push(" AND pipeline IS NULL"),
        };
        let longest = SignedDuration::try_from_secs_f64(86_400.0 * limit.days);
        let longest = longest.unwrap_or(SignedDuration::MAX);
        let entered_before = at.saturating_sub(longest).map_or(i64::MIN, micros);
        sql.push(" AND stage_entered_at < ")
            .push_bind(entered_before)
            .push(")");
    }
    sql.push(")");
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn plan(after: bool, view: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.db")).await.unwrap();
        let id = DealId::new("d").unwrap();
        let key = sort_key(Sort::ExpectedValue, Timestamp::UNIX_EPOCH);
        let mut sql = Sql::new("EXPLAIN QUERY PLAN ");
        AsOf {
            generation: 1,
            seq: 1,
            key: &key,
            after: after.then_some((-1.0, &id)),
            limit: 50,
        }
        .push(&mut sql, "*", |sql| {
            if !view.is_empty() {
                sql.push(format_args!(" AND {view} = ")).push_bind("x");
            }
        });
        let steps = sql.fetch_all(&store.readers).await.unwrap();
        let steps: Vec<String> = steps.iter().map(|s| s.get("detail").unwrap()).collect();
        steps.join("\n")
    }

    #[tokio::test]
    async fn a_page_by_expected_value_is_found_and_not_sorted() {
        for (view, index) in [
            ("", "scores_by_expected_value (generation=?"),
            ("owner", "scores_by_owner (generation=? AND owner=?"),
            (
                "pipeline",
                "scores_by_pipeline (generation=? AND pipeline=?",
            ),
        ] {
            for (is_later, keyset) in [
                (false, ")"),
                (true, " AND (expected_value_rank,deal_id)>(?,?))"),
            ] {
                let plan = plan(is_later, view).await;
                let search = format!("SEARCH scores USING INDEX {index}{keyset}\n");
                let (_, then) = plan.split_once(&search).expect(&plan);
                assert!(!then.starts_with("USE TEMP B-TREE"), "{plan}");
            }
        }
    }
}
