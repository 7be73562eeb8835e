//! What a deal would score with other values: asked for with `changes`.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::body;
use super::deals::{DealDocument, deal_id};
use super::problem::{Problem, ProblemDocument};
use super::scores::{MovedBody, ScoreBody};
use crate::app::{App, now};
use crate::error::{Error, Result};
use crate::scoring::moved;
use crate::what_if::{self, WhatIf};

/// A deal document, and with it what may be changed.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub(super) struct ScoreRequest {
    #[serde(flatten)]
    #[schema(value_type = DealDocument)]
    deal: Value,
    /// New values by field (`stage`, `amount`, `owner`, ...) or attribute; null clears one. Only what
    /// the model's mapping marks as actionable: others are a 422 with the code `not_actionable`.
    #[schema(value_type = Option<Object>, example = json!({"discount": 10}))]
    changes: Option<Map<String, Value>>,
}

/// What may be changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Changes {
    /// New values by field or attribute; null clears one. Only what the model's mapping marks as
    /// actionable.
    #[schema(value_type = Object, example = json!({"discount": 10}))]
    changes: Map<String, Value>,
}

/// A score, and what it would be with the changes that were asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct ScoreAnswer {
    #[serde(flatten)]
    score: ScoreBody,
    /// Only where changes were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    what_if: Option<WhatIfBody>,
}

/// The score right after the changes, as if they had come in now.
#[derive(Serialize, ToSchema)]
#[schema(as = WhatIf)]
pub(super) struct WhatIfBody {
    score: ScoreBody,
    difference: DifferenceBody,
    /// The contributions that the changes move, the farthest first. Some may be of other features:
    /// another stage has just been entered.
    changed: Vec<MovedBody>,
    /// That this is an association and not a cause.
    note: &'static str,
}

/// With the changes minus without.
#[derive(Serialize, ToSchema)]
#[schema(as = ScoreDifference)]
pub(super) struct DifferenceBody {
    win_probability: f64,
    log_odds: f64,
    /// In points of the score.
    score: i16,
    /// Null where either has none.
    expected_value: Option<f64>,
}

impl From<ScoreBody> for ScoreAnswer {
    fn from(score: ScoreBody) -> Self {
        Self {
            score,
            what_if: None,
        }
    }
}

impl From<WhatIf> for ScoreAnswer {
    fn from(WhatIf { without, with }: WhatIf) -> Self {
        let probability = with.win_probability.get() - without.win_probability.get();
        let values = without.expected_value.zip(with.expected_value);
        let difference = DifferenceBody {
            win_probability: probability,
            log_odds: with.log_odds - without.log_odds,
            score: i16::from(with.score) - i16::from(without.score),
            expected_value: values.map(|(without, with)| with - without),
        };
        let changed = moved(&without, &with).into_iter();
        let what_if = WhatIfBody {
            difference,
            changed: changed.map(MovedBody::from).collect(),
            score: with.into(),
            note: what_if::NOTE,
        };
        Self {
            score: without.into(),
            what_if: Some(what_if),
        }
    }
}

/// Takes the changes out of a body; `None` when it has none.
pub(super) fn take_changes(body: &mut Value) -> Result<Option<Map<String, Value>>> {
    match body.as_object_mut().and_then(|body| body.remove("changes")) {
        None => Ok(None),
        Some(Value::Object(changes)) => Ok(Some(changes)),
        Some(_) => Err(Error::invalid("changes", "expected new values by name")),
    }
}

/// Ask what a stored deal would score with other values
///
/// Nothing is stored. The deal is scored as known now, without the changes and with them.
#[utoipa::path(post, path = "/v1/deals/{id}/what-if", operation_id = "askWhatIf", tag = "deals",
    params(("id" = String, Path)), request_body = Changes,
    responses(
        (status = 200, body = ScoreAnswer),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn ask(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let id = deal_id(&request).await?;
    let body = body::json(&request, payload, &app.config.limits).await?;
    let Changes { changes } = body::typed(body)?;
    let deal = app.book.deal(&id).await?.deal;
    if !deal.is_open() {
        return Err(Error::Conflict(format!("the deal {id} is closed")).into());
    }
    let answer = what_if::what_if(&app.scorer().await?, &deal, changes, now())?;
    Ok(HttpResponse::Ok().json(ScoreAnswer::from(answer)))
}
