//! `/v1/deadletters`: events of CRMs that could not be applied.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::body::{self, segment};
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::App;
use crate::error::Error;
use crate::inbound::{Replayed, Source};
use crate::ingest::document::merge;
use crate::store::InboxEvent;

const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 200;

#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetters {
    deadletters: Vec<DeadLetterBody>,
    /// Where the next page starts: the parameter `after`. Null on the last one.
    next_after: Option<i64>,
}

/// An event that could not be applied.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(super) struct DeadLetterBody {
    id: i64,
    #[schema(example = "hubspot")]
    source: String,
    /// By which a second delivery of the event is known.
    key: String,
    /// Null where the event does not say it.
    deal_id: Option<String>,
    #[schema(format = DateTime)]
    received_at: String,
    /// Since when it is a dead letter.
    #[schema(format = DateTime)]
    failed_at: Option<String>,
    /// Why it could not be applied.
    reason: String,
    /// One event as its source sent it; as a text where it could not be read. Left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    body: Option<Value>,
}

impl DeadLetterBody {
    fn new(letter: InboxEvent, has_body: bool) -> Self {
        Self {
            id: letter.seq,
            source: letter.source,
            key: letter.key,
            deal_id: letter.deal_id,
            received_at: letter.received_at.to_string(),
            failed_at: letter.settled_at.map(|at| at.to_string()),
            reason: letter.reason.unwrap_or_default(),
            body: has_body.then_some(letter.body),
        }
    }
}

/// What a replayed event came to.
#[derive(Serialize, ToSchema)]
pub(super) struct ReplayedBody {
    /// `applied`; `waiting` for its deal to become known; `dead` again.
    #[schema(example = "applied")]
    state: &'static str,
    /// Why it is dead again.
    reason: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ReplayedAll {
    /// Dead letters that are events to be applied again.
    replayed: u64,
}

async fn letter_id(request: &HttpRequest) -> Result<i64, Problem> {
    let id = segment(request).await?;
    let kind = "dead letter";
    Ok(id.parse().map_err(|_| Error::NotFound { kind, id })?)
}

fn source_param(params: &mut Params) -> Option<Source> {
    let name = params.text("source")?;
    let source = Source::parse(&name);
    if source.is_none() {
        params.refuse("source", format!("`{}` is no source", name.escape_debug()));
    }
    source
}

/// List events of CRMs that could not be applied
///
/// The oldest first.
#[utoipa::path(get, path = "/v1/deadletters", operation_id = "listDeadLetters", tag = "webhooks",
    params(
        ("source" = Option<Source>, Query),
        ("after" = Option<i64>, Query, description = "`next_after` of the page before"),
        ("limit" = Option<u32>, Query, description = "entries of a page, 1 to 200"),
    ),
    responses(
        (status = 200, body = DeadLetters),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn list(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request)?;
    let source = source_param(&mut params);
    let after = params.parsed("after", "a whole number").unwrap_or(0);
    let limit = params
        .parsed("limit", "a whole number")
        .unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        params.refuse("limit", format!("must be 1 to {PAGE_MAX}, but is {limit}"));
    }
    params.finish()?;
    let store = app.book.store();
    let mut letters = store
        .dead_letters(source.map(Source::as_str), after, limit + 1)
        .await?;
    let has_more = letters.len() > limit as usize;
    letters.truncate(limit as usize);
    let next_after = letters.last().map(|letter| letter.seq).filter(|_| has_more);
    let deadletters = letters.into_iter();
    let deadletters = deadletters.map(|letter| DeadLetterBody::new(letter, false));
    Ok(HttpResponse::Ok().json(DeadLetters {
        deadletters: deadletters.collect(),
        next_after,
    }))
}

/// Read an event that could not be applied
#[utoipa::path(get, path = "/v1/deadletters/{id}", operation_id = "readDeadLetter", tag = "webhooks",
    params(("id" = i64, Path)),
    responses(
        (status = 200, body = DeadLetterBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = letter_id(&request).await?;
    let letter = app.book.store().dead_letter(id).await?;
    Ok(HttpResponse::Ok().json(DeadLetterBody::new(letter, true)))
}

/// Repair an event: give it another body
///
/// An event, as its source sends it. It stays a dead letter until it is replayed. Where the body has
/// several events, the others become dead letters too.
#[utoipa::path(put, path = "/v1/deadletters/{id}", operation_id = "replaceDeadLetter", tag = "webhooks",
    params(("id" = i64, Path)), request_body = Object,
    responses(
        (status = 200, body = DeadLetterBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn replace(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let id = letter_id(&request).await?;
    let body = body::json(&request, payload, &app.config.limits).await?;
    let letter = app.inbound.repair(id, body).await?;
    Ok(HttpResponse::Ok().json(DeadLetterBody::new(letter, true)))
}

/// Repair an event: change some fields of its body
///
/// A JSON merge patch (RFC 7396) of the body.
#[utoipa::path(patch, path = "/v1/deadletters/{id}", operation_id = "repairDeadLetter", tag = "webhooks",
    params(("id" = i64, Path)),
    request_body(content((Object = "application/merge-patch+json"), (Object = "application/json"))),
    responses(
        (status = 200, body = DeadLetterBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn patch(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let id = letter_id(&request).await?;
    let patch = body::json(&request, payload, &app.config.limits).await?;
    let mut body = app.book.store().dead_letter(id).await?.body;
    merge(&mut body, patch);
    let letter = app.inbound.repair(id, body).await?;
    Ok(HttpResponse::Ok().json(DeadLetterBody::new(letter, true)))
}

/// Apply an event again
///
/// By the settings as they are now: a table of fields that was mended counts.
#[utoipa::path(post, path = "/v1/deadletters/{id}/replay", operation_id = "replayDeadLetter",
    tag = "webhooks",
    params(("id" = i64, Path)),
    responses(
        (status = 200, body = ReplayedBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn replay(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = letter_id(&request).await?;
    let (state, reason) = match app.inbound.replay(id).await? {
        Replayed::Applied => ("applied", None),
        Replayed::Waiting => ("waiting", None),
        Replayed::Dead(reason) => ("dead", Some(reason)),
    };
    Ok(HttpResponse::Ok().json(ReplayedBody { state, reason }))
}

/// Apply all events again
///
/// Those that still cannot be applied are dead letters again soon.
#[utoipa::path(post, path = "/v1/deadletters/replay", operation_id = "replayDeadLetters", tag = "webhooks",
    params(("source" = Option<Source>, Query)),
    responses(
        (status = 202, body = ReplayedAll),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn replay_all(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request)?;
    let source = source_param(&mut params);
    params.finish()?;
    let replayed = app.inbound.replay_all(source).await?;
    Ok(HttpResponse::Accepted().json(json!(ReplayedAll { replayed })))
}

/// Discard an event
#[utoipa::path(delete, path = "/v1/deadletters/{id}", operation_id = "discardDeadLetter", tag = "webhooks",
    params(("id" = i64, Path)),
    responses(
        (status = 204, description = "It is gone"),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn discard(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = letter_id(&request).await?;
    app.book.store().discard_dead_letter(id).await?;
    Ok(HttpResponse::NoContent().finish())
}
