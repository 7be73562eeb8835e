//! Pages of a ranking, from the accelerator where it is sure, else from the store: the same rows.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};

use super::Book;
use crate::domain::DealId;
use crate::error::Result;
use crate::ranking::{Keys, Member, Moment, Position, RankingPage, RankingQuery, RankingRow, View};
use crate::store::PageRequest;

/// How long a cursor of a ranking lives on after another model took its place.
pub const RETIRED_CURSOR_MINUTES: i64 = 10;

impl Book {
    /// A page of the open deals in order of worth. `cursor` is the `next_cursor` of the page before;
    /// the pages of one run show the ranking as it stood at the first, whatever changes meanwhile.
    ///
    /// # Errors
    /// `NoModel`; `Invalid` for a query out of range, or a cursor that is not ours or of another
    /// query; `CursorExpired`.
    pub async fn ranking(
        &self,
        query: &RankingQuery,
        cursor: Option<&str>,
        at: Timestamp,
    ) -> Result<RankingPage> {
        query.check()?;
        let after = cursor
            .map(|cursor| Position::decode(cursor, query))
            .transpose()?;
        if let Some(view) = View::of(query)
            && let Some(page) = self.kept_page(query, view, after.as_ref(), at).await?
        {
            return Ok(page);
        }
        self.stored_page(query, after.as_ref(), at).await
    }

    /// The page by the accelerator's order; `None` when it has no answer.
    async fn kept_page(
        &self,
        query: &RankingQuery,
        view: View<'_>,
        after: Option<&Position>,
        at: Timestamp,
    ) -> Result<Option<RankingPage>> {
        let limit = query.limit as usize;
        let wanted = match (after, self.inner.accelerator.in_redis()) {
            (Some(position), _) => position.moment(),
            (None, Some(_)) => self.inner.store.moment().await?,
            (None, None) => Moment::default(),
        };
        let keys = self.inner.accelerator.page(view, after, limit + 1, wanted);
        let Keys::Page {
            generation,
            seq,
            mut deal_ids,
        } = keys.await
        else {
            return Ok(None);
        };
        let has_more = deal_ids.len() > limit;
        deal_ids.truncate(limit);
        let rows = self
            .inner
            .store
            .rows_as_of(generation, seq, &deal_ids)
            .await?;
        let Some(rows) = in_order(&deal_ids, rows) else {
            return Ok(None);
        };
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        let position = Position {
            generation,
            seq,
            at: after.map_or(at, |position| position.at),
            rank: Member::of(last).rank,
            deal_id: last.deal.id.clone(),
        };
        Ok(Some(RankingPage {
            next_cursor: has_more.then(|| position.encode(query)),
            model_version: last.score.model_version.clone(),
            rows,
        }))
    }

    async fn stored_page(
        &self,
        query: &RankingQuery,
        after: Option<&Position>,
        at: Timestamp,
    ) -> Result<RankingPage> {
        let kept = SignedDuration::from_mins(RETIRED_CURSOR_MINUTES);
        let limits = match query.stalled {
            true => self.survey().await?.limits(),
            false => Vec::new(),
        };
        let request = PageRequest {
            query,
            after,
            at: after.map_or(at, |position| position.at),
            limits: &limits,
            retired_after: at.saturating_sub(kept).unwrap_or(Timestamp::MIN),
            limit: query.limit + 1,
        };
        let mut page = self.inner.store.page(&request).await?;
        let has_more = page.rows.len() > query.limit as usize;
        page.rows.truncate(query.limit as usize);
        let next_cursor = page.rows.last().filter(|_| has_more).map(|(rank, row)| {
            Position {
                generation: page.generation.id,
                seq: page.seq,
                at: request.at,
                rank: *rank,
                deal_id: row.deal.id.clone(),
            }
            .encode(query)
        });
        Ok(RankingPage {
            rows: page.rows.into_iter().map(|(_, row)| row).collect(),
            next_cursor,
            model_version: page.generation.model_version,
        })
    }
}

/// The rows in the order of their ids; `None` if one is missing, since its deal was erased between
/// the two questions.
fn in_order(deal_ids: &[DealId], rows: Vec<RankingRow>) -> Option<Vec<RankingRow>> {
    let mut rows: HashMap<DealId, RankingRow> = rows
        .into_iter()
        .map(|row| (row.deal.id.clone(), row))
        .collect();
    deal_ids.iter().map(|id| rows.remove(id)).collect()
}
