//! `/v1/deals`: the deals that are kept, each with its score.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::body::{self, segment};
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use super::scores::{MovedBody, ScoreBody};
use crate::app::{App, now};
use crate::book::{ReceivedEvent, ScoredDeal};
use crate::domain::DealId;
use crate::error::{Error, FieldError, Result};
use crate::ingest::document;
use crate::scoring::moved;
use crate::store::LedgerEntry;

/// Entries of a score's history on one page.
const LEDGER_PAGE_DEFAULT: u32 = 50;
const LEDGER_PAGE_MAX: u32 = 200;

/// Longest id that a sender may give an event, in bytes.
const EVENT_ID_BYTES_MAX: usize = 200;

/// A deal as a document. `stage` and `created_at` may be null where they are not known; unknown
/// fields are errors, unknown attributes are kept.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes what `ingest::document` reads and writes"
)]
pub struct DealDocument {
    #[schema(example = "d-17")]
    id: String,
    name: Option<String>,
    pipeline: Option<String>,
    #[schema(required, example = "proposal")]
    stage: Option<String>,
    owner: Option<String>,
    /// A JSON number, or a decimal in a string.
    #[schema(value_type = Option<f64>, example = 1200.5)]
    amount: Option<f64>,
    #[schema(example = "EUR")]
    currency: Option<String>,
    #[schema(required, format = DateTime)]
    created_at: Option<String>,
    #[schema(format = DateTime)]
    expected_close_at: Option<String>,
    priority: Option<String>,
    /// Texts, numbers, booleans and nulls by name.
    #[schema(value_type = Option<Object>, example = json!({"industry": "retail", "employees": 40}))]
    attributes: Option<Value>,
    history: Option<Vec<ChangeDocument>>,
    activities: Option<Vec<ActivityDocument>>,
    /// `open`, `won` or `lost`; `open` by default.
    outcome: Option<String>,
    #[schema(format = DateTime)]
    closed_at: Option<String>,
    /// What was told of the outcome, where `outcome` and `closed_at` do not say it all: a deal that was
    /// reopened, or known to be open at some moment.
    outcomes: Option<Vec<OutcomeDocument>>,
}

/// What the outcome was at a moment.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes what `ingest::document` reads and writes"
)]
pub struct OutcomeDocument {
    #[schema(format = DateTime)]
    at: String,
    #[schema(example = "open")]
    outcome: String,
}

/// One dated change of one field.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes what `ingest::document` reads and writes"
)]
pub struct ChangeDocument {
    #[schema(format = DateTime)]
    at: String,
    /// `stage`, `amount`, `owner` and so on, or the name of an attribute.
    field: String,
    value: Option<Value>,
}

/// Something done about a deal.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes what `ingest::document` reads and writes"
)]
pub struct ActivityDocument {
    #[schema(format = DateTime)]
    at: String,
    #[schema(example = "call")]
    kind: String,
    direction: Option<String>,
    outcome: Option<String>,
}

/// A dated fact: `activity` has `kind`, `direction?` and `outcome?`; `change` has `field` and
/// `value`; `closed` has `outcome`; `reopened` and `created` have no more than their time. An `id` makes
/// a second delivery count once.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes what `ingest::document` reads and writes"
)]
pub struct EventDocument {
    id: Option<String>,
    #[schema(rename = "type", example = "activity")]
    kind_of_event: String,
    #[schema(format = DateTime)]
    at: String,
    kind: Option<String>,
    direction: Option<String>,
    outcome: Option<String>,
    field: Option<String>,
    value: Option<Value>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, which is read field by field")]
pub(super) struct Events {
    events: Vec<EventDocument>,
}

/// A deal with what it is worth.
#[derive(Serialize, ToSchema)]
#[schema(as = Deal)]
pub(super) struct DealBody {
    #[schema(value_type = DealDocument)]
    deal: Value,
    /// Null while no model is active, and once the deal is closed.
    score: Option<ScoreBody>,
    /// Grows with every change.
    revision: i64,
    #[schema(format = DateTime)]
    updated_at: String,
}

impl From<ScoredDeal> for DealBody {
    fn from(scored: ScoredDeal) -> Self {
        Self {
            deal: document::write(&scored.deal),
            score: scored.score.map(ScoreBody::from),
            revision: scored.revision,
            updated_at: scored.updated_at.to_string(),
        }
    }
}

/// What became of events.
#[derive(Serialize, ToSchema)]
pub(super) struct AppendedBody {
    applied: usize,
    /// Delivered before.
    duplicates: usize,
    #[serde(flatten)]
    deal: DealBody,
}

/// The history of a deal's score, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct ScoreHistory {
    scores: Vec<HistoryEntry>,
    /// Where the next page starts: the parameter `before`. Null on the last one.
    next_before: Option<i64>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct HistoryEntry {
    seq: i64,
    /// What made the deal be scored: `put`, `patch`, `events`, `import`, `activation`, `refresh`.
    cause: String,
    /// What moved the score: an `event` of the deal, another `model`, or `time` alone.
    #[schema(example = "event")]
    moved_by: &'static str,
    is_current: bool,
    /// Of all inputs but the model: two entries of one model with the same hash say the same.
    inputs_hash: Option<String>,
    /// Change of the probability since the entry before; null where there is none.
    win_probability_difference: Option<f64>,
    /// The contributions that moved since the entry before, the farthest first. Empty for the first
    /// entry, and where only what is not a reason moved, such as the amount's worth.
    changed: Vec<MovedBody>,
    score: ScoreBody,
}

impl HistoryEntry {
    fn new(entry: &LedgerEntry, before: Option<&LedgerEntry>) -> Self {
        let changed = before.map(|before| moved(&before.score, &entry.score));
        let changed = changed.unwrap_or_default().into_iter();
        let probability = |entry: &LedgerEntry| entry.score.win_probability.get();
        Self {
            seq: entry.seq,
            moved_by: match entry.cause.as_str() {
                "activation" => "model",
                "refresh" => "time",
                _ => "event",
            },
            is_current: entry.is_current,
            inputs_hash: entry.inputs_hash.clone(),
            win_probability_difference: before
                .map(|before| probability(entry) - probability(before)),
            changed: changed.map(MovedBody::from).collect(),
            cause: entry.cause.clone(),
            score: entry.score.clone().into(),
        }
    }
}

pub(super) async fn deal_id(request: &HttpRequest) -> Result<DealId, Problem> {
    let id = segment(request).await?;
    DealId::new(&id).map_err(|reason| Error::invalid("id", reason).into())
}

/// Read a deal with its score
#[utoipa::path(get, path = "/v1/deals/{id}", operation_id = "readDeal", tag = "deals",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = DealBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = deal_id(&request).await?;
    let deal = app.book.deal(&id).await?;
    Ok(HttpResponse::Ok().json(DealBody::from(deal)))
}

/// Create or replace a deal
///
/// What changed against the stored deal becomes part of its history. The `id` in the document may
/// be left out; if it is there, it is that of the path.
#[utoipa::path(put, path = "/v1/deals/{id}", operation_id = "putDeal", tag = "deals",
    params(("id" = String, Path)), request_body = DealDocument,
    responses(
        (status = 200, description = "The deal was known", body = DealBody),
        (status = 201, description = "The deal is new", body = DealBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn put(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let id = deal_id(&request).await?;
    let mut document = body::json(&request, payload, &app.config.limits).await?;
    if let Value::Object(fields) = &mut document {
        fields.entry("id").or_insert_with(|| id.as_str().into());
    }
    let now = now();
    let deal = document::parse_at(document, now).map_err(Error::Invalid)?;
    if deal.id != id {
        let reason = format!("is `{}`, but the path says `{id}`", deal.id);
        return Err(Error::invalid("id", reason).into());
    }
    let written = app.book.put(deal, now).await?;
    let mut response = if written.is_created {
        HttpResponse::Created()
    } else {
        HttpResponse::Ok()
    };
    Ok(response.json(DealBody::from(written.deal)))
}

/// Change some fields of a deal
///
/// A JSON merge patch (RFC 7396): null clears a field, attributes are merged by name, entries of
/// `history` and `activities` are added.
#[utoipa::path(patch, path = "/v1/deals/{id}", operation_id = "patchDeal", tag = "deals",
    params(("id" = String, Path)),
    request_body(content((Object = "application/merge-patch+json"), (Object = "application/json"))),
    responses(
        (status = 200, body = DealBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn patch(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let id = deal_id(&request).await?;
    let patch = body::json(&request, payload, &app.config.limits).await?;
    let written = app.book.patch(&id, patch, now()).await?;
    Ok(HttpResponse::Ok().json(DealBody::from(written.deal)))
}

/// Erase a deal with everything derived from it
#[utoipa::path(delete, path = "/v1/deals/{id}", operation_id = "eraseDeal", tag = "deals",
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "Nothing of the deal is left"),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn erase(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = deal_id(&request).await?;
    app.book.erase(&id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Read the history of a deal's score
///
/// Newest first: when it changed, under which model, by what, and which contributions moved.
#[utoipa::path(get, path = "/v1/deals/{id}/scores", operation_id = "readScoreHistory", tag = "deals",
    params(
        ("id" = String, Path),
        ("before" = Option<i64>, Query, description = "`next_before` of the page before"),
        ("limit" = Option<u32>, Query, description = "entries of a page, 1 to 200"),
    ),
    responses(
        (status = 200, body = ScoreHistory),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn scores(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = deal_id(&request).await?;
    let mut params = Params::of(&request)?;
    let before = params.parsed("before", "a whole number");
    let limit = params
        .parsed("limit", "a whole number")
        .unwrap_or(LEDGER_PAGE_DEFAULT);
    if !(1..=LEDGER_PAGE_MAX).contains(&limit) {
        let reason = format!("must be 1 to {LEDGER_PAGE_MAX}, but is {limit}");
        params.refuse("limit", reason);
    }
    params.finish()?;
    // One more than asked for: what the last one of the page moved from.
    let entries = app.book.ledger(&id, before, limit + 1).await?;
    let page = &entries[..entries.len().min(limit as usize)];
    let has_more = entries.len() > page.len();
    let next_before = page.last().map(|e| e.seq).filter(|_| has_more);
    let scores = page
        .iter()
        .enumerate()
        .map(|(index, entry)| HistoryEntry::new(entry, entries.get(index + 1)))
        .collect();
    Ok(HttpResponse::Ok().json(ScoreHistory {
        scores,
        next_before,
    }))
}

/// Add dated facts to a deal
///
/// One event, an array of them, or `{"events": [...]}`; all or none. They may come in any order and
/// more than once.
#[utoipa::path(post, path = "/v1/deals/{id}/events", operation_id = "appendEvents", tag = "deals",
    params(("id" = String, Path)), request_body = Events,
    responses(
        (status = 200, body = AppendedBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn append(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let id = deal_id(&request).await?;
    let limits = &app.config.limits;
    let events = body::json(&request, payload, limits).await?;
    let now = now();
    let events = read_events(events, limits.batch_rows_max, now)?;
    let appended = app.book.append(&id, events, now).await?;
    Ok(HttpResponse::Ok().json(AppendedBody {
        applied: appended.applied,
        duplicates: appended.duplicates,
        deal: appended.deal.into(),
    }))
}

fn read_events(body: Value, count_max: usize, now: Timestamp) -> Result<Vec<ReceivedEvent>> {
    let events = match body {
        Value::Array(events) => events,
        Value::Object(mut body) if body.contains_key("events") => match body.remove("events") {
            _ if !body.is_empty() => {
                let unknown = body
                    .keys()
                    .map(|key| FieldError::new(key, "there is no such field"));
                return Err(Error::Invalid(unknown.collect()));
            }
            Some(Value::Array(events)) => events,
            _ => return Err(Error::invalid("events", "expected an array of events")),
        },
        event @ Value::Object(_) => vec![event],
        _ => return Err(Error::invalid("events", "expected an array of events")),
    };
    if events.len() > count_max {
        return Err(Error::TooLarge {
            limit: "batch_rows_max",
            max: count_max as u64,
        });
    }
    if events.is_empty() {
        return Err(Error::invalid("events", "is empty"));
    }
    let mut received = Vec::with_capacity(events.len());
    let mut errors = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        match read_event(event, now) {
            Ok(event) => received.push(event),
            Err(fields) => {
                let place = format!("events[{index}]");
                errors.extend(fields.into_iter().map(|e| e.within(&place)));
            }
        }
        if errors.len() >= document::ERRORS_MAX {
            break;
        }
    }
    if errors.is_empty() {
        Ok(received)
    } else {
        Err(Error::Invalid(errors))
    }
}

fn read_event(mut event: Value, now: Timestamp) -> Result<ReceivedEvent, Vec<FieldError>> {
    let id = event
        .as_object_mut()
        .and_then(|fields: &mut Map<_, _>| fields.remove("id"));
    let id = match id {
        None | Some(Value::Null) => None,
        Some(Value::String(id))
            if (1..=EVENT_ID_BYTES_MAX).contains(&id.len()) && !id.contains('\0') =>
        {
            Some(id)
        }
        Some(_) => {
            let reason =
                format!("expected a text of 1 to {EVENT_ID_BYTES_MAX} bytes without U+0000");
            return Err(vec![FieldError::new("id", reason)]);
        }
    };
    let event = document::parse_event(event, now)?;
    Ok(ReceivedEvent { id, event })
}
