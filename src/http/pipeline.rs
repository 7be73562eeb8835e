//! `/v1/pipeline/*`: the key metrics of a pipeline.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use jiff::civil::Date;

use super::insights::{Answer, answer, scope};
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::{App, now};
use crate::insight::coverage::{Asked, Coverage, coverage};
use crate::insight::forecast::{Forecast, forecast};
use crate::insight::period::{Period, Step, day_of};
use crate::insight::summary::{Summary, summary};
use crate::insight::{Scope, Survey};

/// Longest period that can be asked for, in days: 20 years.
pub(crate) const PERIOD_DAYS_MAX: i64 = 20 * 366;
/// Longest period that is forecast, in days: two years.
pub(crate) const FORECAST_DAYS_MAX: i64 = 2 * 366;
/// Largest target, in the base currency: as large as the largest amount.
const TARGET_MAX: f64 = 1e15;

/// The key metrics of a pipeline
///
/// What is open now; what closed deals of the period say: win rate, cycle length, time in each stage,
/// conversion from stage to stage; and how much hangs on how little.
#[utoipa::path(get, path = "/v1/pipeline/summary", operation_id = "readSummary", tag = "pipeline",
    params(
        Scope,
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
    let work = move |survey: &Survey| summary(survey, &scope, period, step, at);
    answer(&app, at, work, |_, found| found.notes.clone()).await
}

/// Whether there are enough deals for a target
///
/// Prospects needed at the present win rate, on average and with a chosen confidence, with the formulas and
/// their figures; what is open and expected against what is missing; and how many deals a rep handles.
#[utoipa::path(get, path = "/v1/pipeline/coverage", operation_id = "readCoverage", tag = "pipeline",
    params(
        Scope,
        ("from" = Option<String>, Query, format = Date, description = "first day of the period, in UTC; without both, the present quarter"),
        ("to" = Option<String>, Query, format = Date, description = "last day of the period"),
        ("target" = Option<f64>, Query, description = "won value asked of the period, in the base currency; else `insight.target_per_quarter` in proportion to days, 0 for none"),
        ("confidence" = Option<f64>, Query, description = "0.5 to below 1; else `insight.coverage_confidence`"),
    ),
    responses(
        (status = 200, body = Answer<Coverage>),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read_coverage(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let at = now();
    let mut params = Params::of(&request)?;
    let scope = scope(&mut params);
    let period = period(&mut params, Period::quarter(day_of(at)), FORECAST_DAYS_MAX);
    let target = target(&mut params);
    let confidence: Option<f64> = params.parsed("confidence", "a number");
    if confidence.is_some_and(|confidence| !(0.5..1.0).contains(&confidence)) {
        params.refuse("confidence", "is at least 0.5 and below 1");
    }
    params.finish()?;
    let asked = Asked {
        period,
        target,
        confidence,
    };
    let work = move |survey: &Survey| coverage(survey, &scope, asked, at);
    answer(&app, at, work, |_, found| found.notes.clone()).await
}

/// What will be won in a period
///
/// What is won already, what open deals will bring and what deals to come will bring, each as a
/// distribution and against a target; the same by week; and how forecasts of past quarters did.
#[utoipa::path(get, path = "/v1/pipeline/forecast", operation_id = "readForecast", tag = "pipeline",
    params(
        Scope,
        ("from" = Option<String>, Query, format = Date, description = "first day of the period, in UTC; without both, the present quarter"),
        ("to" = Option<String>, Query, format = Date, description = "last day of the period"),
        ("target" = Option<f64>, Query, description = "won value asked of the period, in the base currency; else `insight.target_per_quarter` in proportion to days, 0 for none"),
    ),
    responses(
        (status = 200, body = Answer<Forecast>),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read_forecast(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let at = now();
    let mut params = Params::of(&request)?;
    let scope = scope(&mut params);
    let period = period(&mut params, Period::quarter(day_of(at)), FORECAST_DAYS_MAX);
    let target = target(&mut params);
    params.finish()?;
    let work = move |survey: &Survey| forecast(survey, &scope, period, target, at);
    answer(&app, at, work, |_, found| found.notes.clone()).await
}

/// Takes the target.
pub(crate) fn target(params: &mut Params) -> Option<f64> {
    let target: Option<f64> = params.parsed("target", "a number");
    if target.is_some_and(|target| !(0.0..=TARGET_MAX).contains(&target)) {
        params.refuse("target", format!("is 0 to {TARGET_MAX}"));
    }
    target
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
