//! `/v1/pipeline/*`: the key metrics of a pipeline.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::civil::Date;

use super::insights::{Answer, scope};
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::{App, now};
use crate::insight::period::{Period, Step};
use crate::insight::summary::{Summary, summary};

/// Longest period that can be asked for, in days: 20 years.
pub(crate) const PERIOD_DAYS_MAX: i64 = 20 * 366;

/// The key metrics of a pipeline
///
/// What is open now; what closed deals of the period say: win rate, cycle length, time in each stage,
/// conversion from stage to stage; and how much hangs on how little.
#[utoipa::path(get, path = "/v1/pipeline/summary", operation_id = "readSummary", tag = "pipeline",
    params(
        ("pipeline" = Option<String>, Query), ("owner" = Option<String>, Query),
        ("team" = Option<String>, Query), ("source" = Option<String>, Query),
        ("from" = Option<String>, Query, format = Date, description = "first day of the period, in UTC; without both, the present month and the eleven before it"),
        ("to" = Option<String>, Query, format = Date, description = "last day of the period"),
        ("step" = Option<Step>, Query, description = "of the series; months unless asked otherwise"),
    ),
    responses(
        (status = 200, body = Answer<Summary>),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read_summary(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let at = now();
    let mut params = Params::of(&request)?;
    let scope = scope(&mut params);
    let period = period(&mut params, Period::last_twelve_months(at), PERIOD_DAYS_MAX);
    let step = params.one_of("step").unwrap_or_default();
    params.finish()?;
    let survey = app.book.survey().await?;
    let found = summary(&survey, &scope, period, step, at);
    let notes = found.notes.clone();
    Ok(HttpResponse::Ok().json(Answer::noted(&survey, notes, found, at)))
}

/// Takes the days of a period. With one end given the other is that of `usual`, if that makes a period.
pub(crate) fn period(params: &mut Params, usual: Period, days_max: i64) -> Period {
    const EXPECTED: &str = "a day such as 2026-10-01";
    let mut day = |name: &str| {
        let day: Option<Date> = params.parsed(name, EXPECTED);
        if day.is_some_and(|day| !(Period::FIRST..=Period::LAST).contains(&day)) {
            let range = format!("lies between {} and {}", Period::FIRST, Period::LAST);
            params.refuse(name, range);
            return None;
        }
        day
    };
    let period = match (day("from"), day("to")) {
        (None, None) => usual,
        (from, to) => Period {
            from: from.unwrap_or(usual.from),
            to: to.unwrap_or(usual.to),
        },
    };
    if period.to < period.from {
        let days = format!("{} to {}", period.from, period.to);
        params.refuse("to", format!("is before `from`: {days}"));
        return usual;
    }
    if period.days() > days_max {
        params.refuse("from", format!("is more than {days_max} days before `to`"));
        return usual;
    }
    period
}
