//! `/v1/insights/*`: the manager's lists.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::pipeline;
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::{App, now};
use crate::error::{Error, Result};
use crate::insight::attention::{Misprioritized, misprioritized};
use crate::insight::period::Period;
use crate::insight::reps::{Reps, reps};
use crate::insight::slipping::{Slipping, slipping};
use crate::insight::stalled::{Stalled, stalled};
use crate::insight::{Note, Scope, Survey};

/// Rows of a list, unless asked otherwise, and at most.
const ROWS_DEFAULT: usize = 50;
const ROWS_MAX: usize = 1000;

/// An insight with what it was worked out from.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answer<T> {
    /// The moment that ages are counted to.
    #[schema(format = DateTime)]
    as_of: String,
    /// The model whose probabilities these are; null while none is active.
    model_version: Option<String>,
    /// The currency of all values.
    base_currency: String,
    /// What keeps figures away, and what to do about it.
    notes: Vec<Note>,
    #[serde(flatten)]
    insight: T,
}

/// Takes the parameters that say which deals are looked at.
pub(crate) fn scope(params: &mut Params) -> Scope {
    Scope {
        pipeline: params.text("pipeline"),
        owner: params.text("owner"),
        team: params.text("team"),
        source: params.text("source"),
    }
}

/// Deals that get too little or too much attention
///
/// Compares, within each owner's queue, the order by expected value with the order by what the owner
/// gave: efforts lately, and the CRM's priority flag.
#[utoipa::path(get, path = "/v1/insights/misprioritized", operation_id = "readMisprioritized", tag = "insights",
    params(
        Scope,
        ("limit" = Option<usize>, Query, description = "rows of each list, 1 to 1000"),
    ),
    responses(
        (status = 200, body = Answer<Misprioritized>),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read_misprioritized(
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    list(&app, &request, misprioritized).await
}

/// Deals that wait in their stage
///
/// Longer than most deals that were won there; with the probability that was lost meanwhile, and for each
/// stage the age beyond which hardly any deal was won.
#[utoipa::path(get, path = "/v1/insights/stalled", operation_id = "readStalled", tag = "insights",
    params(
        Scope,
        ("limit" = Option<usize>, Query, description = "rows of the list, 1 to 1000"),
    ),
    responses(
        (status = 200, body = Answer<Stalled>),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read_stalled(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    list(&app, &request, stalled).await
}

/// Deals that slip
///
/// Their close was pushed or has passed, and they became less likely to be won.
#[utoipa::path(get, path = "/v1/insights/slipping", operation_id = "readSlipping", tag = "insights",
    params(
        Scope,
        ("limit" = Option<usize>, Query, description = "rows of the list, 1 to 1000"),
    ),
    responses(
        (status = 200, body = Answer<Slipping>),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read_slipping(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    list(&app, &request, slipping).await
}

/// Where coaching helps
///
/// Each rep's conversion by stage and win rate, drawn towards the team's as far as few deals say little; a
/// slump only where it is more than luck; and the stage in which most could be gained. By name: there is
/// no order of people.
#[utoipa::path(get, path = "/v1/insights/reps", operation_id = "readReps", tag = "insights",
    params(
        Scope,
        ("from" = Option<String>, Query, format = Date, description = "first day of the period, in UTC; without both, the present month and the eleven before it"),
        ("to" = Option<String>, Query, format = Date, description = "last day of the period"),
    ),
    responses(
        (status = 200, body = Answer<Reps>),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read_reps(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let at = now();
    let mut params = Params::of(&request)?;
    let scope = scope(&mut params);
    let usual = Period::last_twelve_months(at);
    let period = pipeline::period(&mut params, usual, pipeline::PERIOD_DAYS_MAX);
    params.finish()?;
    let work = move |survey: &Survey| reps(survey, &scope, period, at);
    answer(&app, at, work, |_, found| found.notes.clone()).await
}

/// Works an insight out, where other requests do not wait for it, and answers with it. `notes` says what
/// keeps figures away.
pub(super) async fn answer<T: Serialize + Send + 'static>(
    app: &App,
    at: Timestamp,
    work: impl FnOnce(&Survey) -> T + Send + 'static,
    notes: fn(&Survey, &T) -> Vec<Note>,
) -> Result<HttpResponse, Problem> {
    let survey = app.book.survey().await?;
    let surveyed = survey.clone();
    let insight = actix_web::web::block(move || work(&surveyed)).await;
    let insight = insight.map_err(|e| Error::Internal(e.into()))?;
    Ok(HttpResponse::Ok().json(Answer {
        as_of: at.to_string(),
        model_version: survey.model_version.clone(),
        base_currency: survey.base_currency.to_string(),
        notes: notes(&survey, &insight),
        insight,
    }))
}

async fn list<T: Serialize + Send + 'static>(
    app: &App,
    request: &HttpRequest,
    insight: fn(&Survey, &Scope, Timestamp, usize) -> T,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(request)?;
    let scope = scope(&mut params);
    let limit = params
        .parsed("limit", "a whole number")
        .unwrap_or(ROWS_DEFAULT);
    if !(1..=ROWS_MAX).contains(&limit) {
        params.refuse("limit", format!("is 1 to {ROWS_MAX}"));
    }
    params.finish()?;
    let at = now();
    let work = move |survey: &Survey| insight(survey, &scope, at, limit);
    answer(app, at, work, |survey, _| survey.notes()).await
}
