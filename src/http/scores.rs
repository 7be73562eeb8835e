//! `/v1/scores`: scoring deals that are not stored.

use std::sync::Arc;

use actix_web::web::{self, Bytes, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::body::{self, Line, Lines};
use super::problem::{Problem, ProblemDocument};
use super::what_if::{ScoreAnswer, ScoreRequest, take_changes};
use crate::app::{App, now};
use crate::domain::Deal;
use crate::error::{Error, FieldError, Result};
use crate::ingest::document;
use crate::scoring::{Score, Scorer};
use crate::what_if::what_if;

/// Lines of NDJSON that are scored in one go.
const CHUNK_LINES: usize = 256;

/// What a deal is worth at a moment, under one model, and why.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Score)]
pub struct ScoreBody {
    pub deal_id: String,
    /// Above 0 and below 1.
    #[schema(example = 0.42)]
    pub win_probability: f64,
    pub interval: IntervalBody,
    /// The probability in percent, 1 to 99.
    #[schema(minimum = 1, maximum = 99)]
    pub score: u8,
    /// Quarter of the training deals that the probability falls in.
    #[schema(example = "A")]
    pub grade: &'static str,
    /// In units of `currency`.
    pub amount: Option<f64>,
    pub currency: Option<String>,
    /// `win_probability` x amount in the base currency; null without an amount or a rate.
    pub expected_value: Option<f64>,
    pub base_currency: String,
    pub model_version: String,
    #[schema(format = DateTime)]
    pub scored_at: String,
    /// Log-odds of the average deal.
    pub intercept: f64,
    /// Uncalibrated log-odds: the intercept plus the contributions of all reasons, exactly.
    pub log_odds: f64,
    /// By falling absolute contribution. Left out of rankings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasons: Option<Vec<ReasonBody>>,
    pub warnings: Vec<WarningBody>,
}

/// A range that holds the true probability with probability `level`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Interval)]
pub struct IntervalBody {
    pub level: f64,
    pub low: f64,
    pub high: f64,
}

/// What one feature adds to the log-odds, against the average deal.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Reason)]
pub struct ReasonBody {
    pub feature: String,
    /// As it was read; null when missing.
    pub value: Value,
    /// Log-odds.
    pub contribution: f64,
    pub text: String,
}

/// One feature whose contribution moved.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Moved)]
pub struct MovedBody {
    pub feature: String,
    /// As it was read; null where it was missing, or weighed nothing.
    pub from_value: Value,
    pub to_value: Value,
    /// Log-odds.
    pub contribution_before: f64,
    pub contribution_after: f64,
}

impl From<crate::scoring::Moved> for MovedBody {
    fn from(moved: crate::scoring::Moved) -> Self {
        Self {
            feature: moved.feature,
            from_value: moved.from_value,
            to_value: moved.to_value,
            contribution_before: moved.contribution_before,
            contribution_after: moved.contribution_after,
        }
    }
}

/// Something to know before trusting a score.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Warning)]
pub struct WarningBody {
    /// Stable.
    pub code: String,
    pub field: Option<String>,
    pub detail: String,
}

impl From<Score> for ScoreBody {
    fn from(score: Score) -> Self {
        Self {
            deal_id: score.deal_id.into(),
            win_probability: score.win_probability.get(),
            interval: IntervalBody {
                level: score.interval.level,
                low: score.interval.low.get(),
                high: score.interval.high.get(),
            },
            score: score.score,
            grade: score.grade.as_str(),
            amount: score.amount,
            currency: score.currency.map(String::from),
            expected_value: score.expected_value,
            base_currency: score.base_currency.into(),
            model_version: score.model_version,
            scored_at: score.scored_at.to_string(),
            intercept: score.intercept,
            log_odds: score.log_odds,
            reasons: Some(score.reasons.into_iter().map(ReasonBody::from).collect()),
            warnings: score.warnings.into_iter().map(WarningBody::from).collect(),
        }
    }
}

impl From<crate::scoring::Reason> for ReasonBody {
    fn from(reason: crate::scoring::Reason) -> Self {
        Self {
            feature: reason.feature,
            value: reason.value,
            contribution: reason.contribution,
            text: reason.text,
        }
    }
}

impl From<crate::scoring::Warning> for WarningBody {
    fn from(warning: crate::scoring::Warning) -> Self {
        Self {
            code: warning.code,
            field: warning.field,
            detail: warning.detail,
        }
    }
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub(super) struct Batch {
    deals: Vec<super::deals::DealDocument>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct Scores {
    scores: Vec<ScoreBody>,
}

/// The answer to a line that is wrong.
#[derive(Serialize)]
struct FailedLine {
    line: u64,
    error: Problem,
}

/// Score one deal
///
/// Nothing is stored. The deal is scored as known now. With `changes` beside the deal's own fields, the
/// answer has `what_if` too: the score that the deal would have with them.
#[utoipa::path(post, path = "/v1/scores", operation_id = "scoreDeal", tag = "scores",
    request_body = ScoreRequest,
    responses(
        (status = 200, body = ScoreAnswer),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn score(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let mut document = body::json(&request, payload, &app.config.limits).await?;
    let changes = take_changes(&mut document)?;
    let now = now();
    let deal = document::parse_at(document, now).map_err(Error::Invalid)?;
    let scorer = app.scorer().await?;
    let answer = match changes {
        Some(changes) => what_if(&scorer, &deal, changes, now)?.into(),
        None => ScoreAnswer::from(ScoreBody::from(scorer.score(&deal, now))),
    };
    Ok(HttpResponse::Ok().json(answer))
}

/// Score many deals
///
/// As JSON, all or none: one deal that is wrong fails the request, with the place of each mistake
/// (`deals[3].stage`). As NDJSON (`content-type: application/x-ndjson`), a deal a line, answered in
/// the same order while the body still arrives; a line that is wrong is answered with
/// `{"line": n, "error": problem}`, and blank lines with nothing.
#[utoipa::path(post, path = "/v1/scores/batch", operation_id = "scoreDeals", tag = "scores",
    request_body(content((Batch = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, content((Scores = "application/json"), (String = "application/x-ndjson"))),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn score_batch(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let scorer = app.scorer().await?;
    if body::media_type(&request)?.is_some_and(|kind| body::is_ndjson(&kind)) {
        return score_lines(app, request, payload, scorer).await;
    }
    let batch = body::json(&request, payload, &app.config.limits).await?;
    let documents = batch_documents(batch, app.config.limits.batch_rows_max)?;
    let now = now();
    let scores = web::block(move || {
        let deals = parse_all(documents, now)?;
        let score = |deal| ScoreBody::from(scorer.score(deal, now));
        Ok::<_, Error>(deals.iter().map(score).collect())
    })
    .await
    .map_err(|e| Error::Internal(e.into()))??;
    Ok(HttpResponse::Ok().json(Scores { scores }))
}

/// The documents of `{"deals": [...]}`.
fn batch_documents(batch: Value, rows_max: usize) -> Result<Vec<Value>> {
    let Value::Object(mut batch) = batch else {
        return Err(Error::invalid("", "expected an object with `deals`"));
    };
    let deals = batch.remove("deals");
    if let Some(unknown) = batch.keys().next() {
        return Err(Error::invalid(unknown, "there is no such field"));
    }
    match deals {
        Some(Value::Array(deals)) if deals.len() > rows_max => Err(Error::TooLarge {
            limit: "batch_rows_max",
            max: rows_max as u64,
        }),
        Some(Value::Array(deals)) => Ok(deals),
        Some(_) => Err(Error::invalid("deals", "expected an array of deals")),
        None => Err(Error::invalid("deals", "is required")),
    }
}

fn parse_all(documents: Vec<Value>, now: Timestamp) -> Result<Vec<Deal>> {
    let mut deals = Vec::with_capacity(documents.len());
    let mut errors = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        match document::parse_at(document, now) {
            Ok(deal) => deals.push(deal),
            Err(fields) => errors.extend(
                fields
                    .into_iter()
                    .map(|e| e.within(&format!("deals[{index}]"))),
            ),
        }
        if errors.len() > document::ERRORS_MAX {
            errors.truncate(document::ERRORS_MAX);
            errors.push(FieldError::new(
                "deals",
                "has more errors; these are the first",
            ));
            break;
        }
    }
    if errors.is_empty() {
        Ok(deals)
    } else {
        Err(Error::Invalid(errors))
    }
}

async fn score_lines(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
    scorer: Scorer,
) -> Result<HttpResponse, Problem> {
    let spool_dir = app.uploads_dir.clone();
    let mut lines = Lines::new(&request, payload, &app.config.limits, &spool_dir)?;
    let scorer = Arc::new(scorer);
    let now = now();
    let mut chunk = lines.next_lines(CHUNK_LINES).await;
    if chunk.is_empty() {
        return Err(Error::Malformed("the body is empty".into()).into());
    }
    let answers = async_stream::stream! {
        while !chunk.is_empty() {
            let scorer = Arc::clone(&scorer);
            let answer = web::block(move || answer_lines(&scorer, chunk, now)).await;
            let is_over = answer.is_err();
            yield answer.map(Bytes::from);
            if is_over {
                break;
            }
            chunk = lines.next_lines(CHUNK_LINES).await;
        }
    };
    Ok(HttpResponse::Ok()
        .content_type("application/x-ndjson")
        .streaming(answers))
}

/// A line of answer for each line.
fn answer_lines(scorer: &Scorer, lines: Vec<Line>, now: Timestamp) -> Vec<u8> {
    let mut answers = Vec::new();
    for Line { number, text } in lines {
        let answer = text.and_then(|text| {
            let document = serde_json::from_slice(&text)
                .map_err(|e| Error::Malformed(format!("the line is not JSON: {e}")))?;
            let deal = document::parse_at(document, now).map_err(Error::Invalid)?;
            Ok(ScoreBody::from(scorer.score(&deal, now)))
        });
        let written = match answer {
            Ok(score) => serde_json::to_writer(&mut answers, &score),
            Err(error) => serde_json::to_writer(
                &mut answers,
                &FailedLine {
                    line: number,
                    error,
                },
            ),
        };
        written.expect("texts and numbers fit into memory");
        answers.push(b'\n');
    }
    answers
}
