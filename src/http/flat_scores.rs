//! `/v1/scores/flat`: a score for callers that know named parameters and flat answers alone, such as
//! Salesforce's Flow and External Services.

use actix_web::HttpRequest;
use actix_web::HttpResponse;
use actix_web::web::{Data, Payload};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::body;
use super::problem::{Problem, ProblemDocument};
use crate::app::{App, now};
use crate::domain::{Deal, DealId};
use crate::error::{Error, Result};
use crate::inbound::fields::Table;
use crate::ingest::document;
use crate::scoring::Score;

/// Fields of a deal; what is null or left out is taken from the deal that is kept under the id, if there
/// is one.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub(super) struct FlatDeal {
    #[schema(example = "0067F000003pmdWQAQ")]
    deal_id: String,
    name: Option<String>,
    pipeline: Option<String>,
    stage: Option<String>,
    owner: Option<String>,
    amount: Option<f64>,
    #[schema(example = "EUR")]
    currency: Option<String>,
    priority: Option<String>,
    /// A time, or a date.
    created_at: Option<String>,
    /// A time, or a date.
    expected_close_at: Option<String>,
}

/// A score without lists or objects in it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct FlatScore {
    deal_id: String,
    /// Whether the deal is kept here.
    is_known: bool,
    /// Above 0 and below 1.
    win_probability: f64,
    interval_low: f64,
    interval_high: f64,
    /// The probability in percent, 1 to 99.
    score: i32,
    #[schema(example = "A")]
    grade: String,
    /// Null without an amount or a rate.
    expected_value: Option<f64>,
    base_currency: String,
    reason_1: String,
    reason_2: String,
    reason_3: String,
    /// What to know before trusting the score; empty where there is nothing.
    warning: String,
    model_version: String,
    scored_at: String,
}

impl FlatScore {
    fn new(score: Score, is_known: bool) -> Self {
        let mut reasons = score.reasons.into_iter().map(|reason| reason.text);
        let mut reason = || reasons.next().unwrap_or_default();
        let warnings: Vec<String> = score.warnings.into_iter().map(|w| w.detail).collect();
        Self {
            deal_id: score.deal_id.into(),
            is_known,
            win_probability: score.win_probability.get(),
            interval_low: score.interval.low.get(),
            interval_high: score.interval.high.get(),
            score: score.score.into(),
            grade: score.grade.as_str().to_owned(),
            expected_value: score.expected_value,
            base_currency: score.base_currency.into(),
            reason_1: reason(),
            reason_2: reason(),
            reason_3: reason(),
            warning: warnings.join("; "),
            model_version: score.model_version,
            scored_at: score.scored_at.to_string(),
        }
    }
}

/// Score a deal by named parameters
///
/// For callers that read no nested documents (Salesforce Flow HTTP Callout, External Services). Nothing
/// is stored. Any other parameter is an attribute of the deal by its name.
#[utoipa::path(post, path = "/v1/scores/flat", operation_id = "scoreDealFlat", tag = "scores",
    request_body = FlatDeal,
    responses(
        (status = 200, body = FlatScore),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn score(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::json(&request, payload, &app.config.limits).await?;
    let Value::Object(mut fields) = body else {
        return Err(Error::invalid("", "expected an object").into());
    };
    fields.retain(|_, value| !value.is_null() && value.as_str() != Some(""));
    let id = match fields.remove("deal_id") {
        Some(Value::String(id)) => DealId::new(&id),
        Some(_) => Err("expected a string".into()),
        None => Err("is required".into()),
    };
    let id = id.map_err(|reason| Error::invalid("deal_id", reason))?;
    let now = now();
    let scorer = app.scorer().await?;
    let stored = app.book.store().deal(&id).await?;
    let is_known = stored.is_some();
    let deal = stored.map_or_else(|| Deal::new(id), |stored| stored.deal);
    let deal = document::patch(&deal, patch(fields)?, now).map_err(Error::Invalid)?;
    let score = scorer.score(&deal, now);
    Ok(HttpResponse::Ok().json(FlatScore::new(score, is_known)))
}

/// The parameters as a merge patch of a deal.
fn patch(fields: Map<String, Value>) -> Result<Value> {
    const TEXTS: [&str; 6] = ["name", "pipeline", "stage", "owner", "currency", "priority"];
    let mut patch = Map::new();
    let mut attributes = Map::new();
    let times = Table::new(TimeZone::UTC);
    for (name, value) in fields {
        let value = match name.as_str() {
            "created_at" | "expected_close_at" => {
                let at = times.time(&value).map_err(|e| Error::invalid(&name, e))?;
                json!(at)
            }
            "amount" => value,
            name if TEXTS.contains(&name) => value,
            _ => {
                attributes.insert(name, value);
                continue;
            }
        };
        patch.insert(name, value);
    }
    if !attributes.is_empty() {
        patch.insert("attributes".into(), attributes.into());
    }
    Ok(patch.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_fields_and_the_rest_attributes() {
        let fields = json!({"stage": "demo", "amount": 5, "created_at": "2026-01-31", "Size": 3});
        let Value::Object(fields) = fields else {
            panic!()
        };
        let patch = patch(fields).unwrap();
        assert_eq!(
            patch,
            json!({"stage": "demo", "amount": 5, "created_at": "2026-01-31T00:00:00Z", "attributes": {"Size": 3}})
        );
    }
}
