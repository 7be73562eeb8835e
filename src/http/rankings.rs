//! `/v1/rankings` and `/v1/queues`: open deals in order of worth.

use std::collections::HashMap;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use rust_decimal::prelude::ToPrimitive;
use serde::Serialize;
use utoipa::ToSchema;

use super::body::segment;
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use super::scores::ScoreBody;
use crate::app::{App, now};
use crate::error::Result;
use crate::insight::queue::{Outlook, outlooks};
use crate::ranking::{DealSummary, RankingPage, RankingQuery, RankingRow, Sort};

/// A page of a ranking. All pages reached through `next_cursor` show the ranking as it stood at the
/// first one.
#[derive(Serialize, ToSchema)]
pub(super) struct Ranking {
    sort: Sort,
    model_version: String,
    rows: Vec<RankedDeal>,
    /// The parameter `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RankedDeal {
    deal: DealSummaryBody,
    score: ScoreBody,
    /// Where the deal stands in its owner's queue; of queues alone, and not while deals are being counted
    /// after a start.
    #[serde(skip_serializing_if = "Option::is_none")]
    outlook: Option<Outlook>,
}

/// A deal as its ranking knew it when it was scored.
#[derive(Serialize, ToSchema)]
#[schema(as = DealSummary)]
pub(super) struct DealSummaryBody {
    id: String,
    name: Option<String>,
    owner: Option<String>,
    pipeline: Option<String>,
    stage: Option<String>,
    amount: Option<f64>,
    currency: Option<String>,
    /// The amount in the base currency, at the rate of the day of scoring.
    base_amount: Option<f64>,
    #[schema(format = DateTime)]
    created_at: Option<String>,
    #[schema(format = DateTime)]
    stage_entered_at: Option<String>,
    #[schema(format = DateTime)]
    expected_close_at: Option<String>,
    #[schema(format = DateTime)]
    last_activity_at: Option<String>,
}

impl From<DealSummary> for DealSummaryBody {
    fn from(deal: DealSummary) -> Self {
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            id: deal.id.into(),
            name: deal.name,
            owner: deal.owner,
            pipeline: deal.pipeline,
            stage: deal.stage,
            amount: deal.amount.and_then(|amount| amount.to_f64()),
            currency: deal.currency.map(String::from),
            base_amount: deal.base_amount,
            created_at: text(deal.created_at),
            stage_entered_at: text(deal.stage_entered_at),
            expected_close_at: text(deal.expected_close_at),
            last_activity_at: text(deal.last_activity_at),
        }
    }
}

impl RankedDeal {
    fn new(row: RankingRow, with_reasons: bool) -> Self {
        let mut score = ScoreBody::from(row.score);
        score.reasons = score.reasons.filter(|_| with_reasons);
        Self {
            deal: row.deal.into(),
            score,
            outlook: None,
        }
    }
}

/// Open deals in order of worth
///
/// Largest first, unknown last. Following `next_cursor` neither repeats nor skips a deal while
/// scores change.
#[utoipa::path(get, path = "/v1/rankings", operation_id = "readRanking", tag = "rankings",
    params(
        ("sort" = Option<Sort>, Query),
        ("owner" = Option<String>, Query),
        ("pipeline" = Option<String>, Query),
        ("stage" = Option<String>, Query),
        ("grade" = Option<String>, Query, description = "A, B, C or D"),
        ("stalled" = Option<bool>, Query, description = "only deals that are too long in their stage"),
        ("min_amount" = Option<f64>, Query, description = "at least this amount, in the base currency"),
        ("limit" = Option<u32>, Query, description = "rows of a page, 1 to 200"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Ranking),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn ranking(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request)?;
    let owner = params.text("owner");
    answer(&app, params, owner, false).await
}

/// A rep's open deals in order of worth, with reasons
#[utoipa::path(get, path = "/v1/queues/{owner}", operation_id = "readQueue", tag = "rankings",
    params(
        ("owner" = String, Path),
        ("sort" = Option<Sort>, Query),
        ("pipeline" = Option<String>, Query),
        ("stage" = Option<String>, Query),
        ("grade" = Option<String>, Query, description = "A, B, C or D"),
        ("stalled" = Option<bool>, Query, description = "only deals that are too long in their stage"),
        ("min_amount" = Option<f64>, Query, description = "at least this amount, in the base currency"),
        ("limit" = Option<u32>, Query, description = "rows of a page, 1 to 200"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, body = Ranking),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn queue(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let owner = segment(&request).await?;
    let params = Params::of(&request)?;
    answer(&app, params, Some(owner), true).await
}

/// Takes the parameters that say which deals are wanted, and in which order.
pub(crate) fn query(params: &mut Params, owner: Option<String>) -> RankingQuery {
    let defaults = RankingQuery::default();
    RankingQuery {
        sort: params.one_of("sort").unwrap_or_default(),
        owner,
        pipeline: params.text("pipeline"),
        stage: params.text("stage"),
        grade: params.one_of("grade"),
        min_amount: params.parsed("min_amount", "an amount"),
        stalled: params
            .parsed("stalled", "`true` or `false`")
            .unwrap_or(defaults.stalled),
        limit: defaults.limit,
    }
}

async fn answer(
    app: &App,
    mut params: Params,
    owner: Option<String>,
    is_queue: bool,
) -> Result<HttpResponse, Problem> {
    let mut query = query(&mut params, owner);
    if let Some(limit) = params.parsed("limit", "a whole number") {
        query.limit = limit;
    }
    let cursor = params.text("cursor");
    params.finish()?;
    let at = now();
    let page = app.book.ranking(&query, cursor.as_deref(), at).await?;
    let outlooks = match &query.owner {
        Some(owner) if is_queue => match app.book.survey_soon().await? {
            Some(survey) => outlooks(&survey, owner, at),
            None => HashMap::new(),
        },
        _ => HashMap::new(),
    };
    let RankingPage {
        rows,
        next_cursor,
        model_version,
    } = page;
    Ok(HttpResponse::Ok().json(Ranking {
        sort: query.sort,
        model_version,
        rows: rows
            .into_iter()
            .map(|row| RankedDeal {
                outlook: outlooks.get(&row.deal.id).cloned(),
                ..RankedDeal::new(row, is_queue)
            })
            .collect(),
        next_cursor,
    }))
}
