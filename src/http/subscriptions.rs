//! `/v1/subscriptions`: who is told of what happens here, and whether it arrives.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{self, segment};
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::{App, now};
use crate::error::{Error, FieldError, Result};
use crate::outbound::courier::Outcome;
use crate::outbound::guard::Guard;
use crate::outbound::patience::Circuit;
use crate::outbound::subscription::Disabled;
use crate::outbound::{EventType, Filters, Format, Receiver, Subscription, Webhook};
use crate::standard_webhooks::Key;
use crate::store::{Delivery, DeliveryState, random_id};

/// Deliveries on one page.
const PAGE_DEFAULT: u32 = 50;
const PAGE_MAX: u32 = 200;

/// Longest description, in bytes.
const DESCRIPTION_BYTES_MAX: usize = 500;

/// What a subscription begins with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSubscription {
    /// Where messages go: `https://`, a public address.
    #[schema(example = "https://example.com/hooks/dealrank")]
    url: String,
    event_types: Vec<EventType>,
    #[serde(default)]
    format: Format,
    description: Option<String>,
    #[serde(default)]
    filters: Filters,
    /// The key to sign with, `whsec_` and base64 of 24 to 64 bytes; made when left out.
    secret: Option<String>,
}

/// What is to be different; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SubscriptionChange {
    url: Option<String>,
    event_types: Option<Vec<EventType>>,
    format: Option<Format>,
    description: Option<String>,
    filters: Option<Filters>,
    /// `false` stops it, and keeps what waits; `true` goes on.
    enabled: Option<bool>,
    /// `true` makes a new key. The old one signs too for `outbound.secret_overlap_hours`.
    rotate_secret: Option<bool>,
}

/// Who is told of what.
#[derive(Serialize, ToSchema)]
#[schema(as = Subscription)]
pub(super) struct SubscriptionBody {
    id: String,
    url: String,
    event_types: Vec<EventType>,
    format: Format,
    description: Option<String>,
    filters: Filters,
    #[schema(format = DateTime)]
    created_at: String,
    enabled: bool,
    /// Why it is not, and since when.
    disabled: Option<DisabledBody>,
    /// Until when the key before signs too.
    #[schema(format = DateTime)]
    previous_secret_until: Option<String>,
    /// Attempts that failed since one succeeded.
    failures_in_row: u32,
    /// Whether it failed so often that it is left alone, but for one message now and then.
    circuit_open: bool,
    /// Nothing is sent before.
    #[schema(format = DateTime)]
    paused_until: Option<String>,
    /// The key. Shown once: in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Disabled)]
pub(super) struct DisabledBody {
    #[schema(format = DateTime)]
    at: String,
    #[schema(example = "the receiver answered 410 Gone")]
    reason: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct SubscriptionList {
    subscriptions: Vec<SubscriptionBody>,
}

/// Deliveries, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct DeliveryList {
    deliveries: Vec<DeliveryBody>,
    /// Where the next page starts: the parameter `before`. Null on the last one.
    next_before: Option<i64>,
}

/// One event on its way to one receiver.
#[derive(Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryBody {
    /// The `webhook-id` of all attempts.
    event_id: String,
    event_type: String,
    deal_id: Option<String>,
    #[schema(format = DateTime)]
    happened_at: String,
    /// `pending`, `delivered`, `failed` (all attempts did) or `dropped` (the receiver wants nothing any
    /// more).
    #[schema(example = "delivered")]
    state: &'static str,
    attempts: u32,
    /// Null unless it is pending.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
    #[schema(format = DateTime)]
    attempted_at: Option<String>,
    /// What the receiver answered last; null when no answer came.
    status: Option<u16>,
    /// Why the last attempt failed.
    reason: Option<String>,
    duration_ms: Option<u64>,
}

/// What became of a test message.
#[derive(Serialize, ToSchema)]
pub(super) struct TestDelivery {
    event_id: String,
    delivered: bool,
    status: Option<u16>,
    reason: Option<String>,
    duration_ms: u64,
}

/// How many deliveries wait again.
#[derive(Serialize, ToSchema)]
pub(super) struct Redelivered {
    redelivered: u64,
}

/// Subscribe to events
///
/// Messages follow Standard Webhooks: verify `webhook-signature` with the `secret` of this answer, which is
/// not shown again. They begin with what happens from now on.
#[utoipa::path(post, path = "/v1/subscriptions", operation_id = "createSubscription", tag = "subscriptions",
    request_body = NewSubscription,
    responses(
        (status = 201, description = "With its secret", body = SubscriptionBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn create(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let new = body::json(&request, payload, &app.config.limits).await?;
    let new: NewSubscription = body::typed(new)?;
    let mut errors = Errors::default();
    errors.target(app.outbound.guard(), &new.url).await;
    errors.rest(&new.event_types, &new.description, &new.filters);
    let key = match new.secret.as_deref().map(str::parse::<Key>) {
        None => Key::random(),
        Some(Ok(key)) => key,
        Some(Err(reason)) => {
            errors.add("secret", reason);
            Key::random()
        }
    };
    errors.finish()?;
    let subscription = Subscription {
        id: format!("sub_{}", random_id()),
        description: new.description,
        receiver: Receiver::Webhook(Webhook {
            url: new.url,
            format: new.format,
            key,
            previous_key: None,
        }),
        event_types: in_order(new.event_types),
        filters: new.filters,
        created_at: now(),
        since_seq: 0,
        disabled: None,
        circuit: Circuit::default(),
    };
    let max = app.config.outbound.subscriptions_max;
    let subscription = app.book.store().subscribe(subscription, max).await?;
    Ok(HttpResponse::Created().json(body_of(&app, subscription, true)?))
}

/// List the subscriptions
#[utoipa::path(get, path = "/v1/subscriptions", operation_id = "listSubscriptions", tag = "subscriptions",
    responses((status = 200, body = SubscriptionList)))]
pub async fn list(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Params::of(&request)?.finish()?;
    let all = app.book.store().subscriptions().await?;
    let subscriptions = all
        .into_iter()
        .filter(|subscription| matches!(subscription.receiver, Receiver::Webhook(_)))
        .map(|subscription| body_of(&app, subscription, false))
        .collect::<Result<_>>()?;
    Ok(HttpResponse::Ok().json(SubscriptionList { subscriptions }))
}

/// Read a subscription
#[utoipa::path(get, path = "/v1/subscriptions/{id}", operation_id = "readSubscription", tag = "subscriptions",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = SubscriptionBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let subscription = find(&app, &request).await?;
    Ok(HttpResponse::Ok().json(body_of(&app, subscription, false)?))
}

/// Change a subscription, stop it, or replace its secret
///
/// What waits is sent to the new address. A change makes a receiver that is left alone count as new.
#[utoipa::path(patch, path = "/v1/subscriptions/{id}", operation_id = "changeSubscription", tag = "subscriptions",
    params(("id" = String, Path)), request_body = SubscriptionChange,
    responses(
        (status = 200, description = "With its secret, if that is new", body = SubscriptionBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn change(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let mut subscription = find(&app, &request).await?;
    let change = body::json(&request, payload, &app.config.limits).await?;
    let change: SubscriptionChange = body::typed(change)?;
    let mut errors = Errors::default();
    if let Some(url) = &change.url {
        errors.target(app.outbound.guard(), url).await;
    }
    let is_new_secret = change.rotate_secret == Some(true);
    apply(&mut subscription, change, &app, now());
    errors.rest(
        &subscription.event_types,
        &subscription.description,
        &subscription.filters,
    );
    errors.finish()?;
    app.book.store().change_subscription(&subscription).await?;
    let subscription = app.book.store().subscription(&subscription.id).await?;
    Ok(HttpResponse::Ok().json(body_of(&app, subscription, is_new_secret)?))
}

/// End a subscription
///
/// What waits is not sent any more.
#[utoipa::path(delete, path = "/v1/subscriptions/{id}", operation_id = "deleteSubscription", tag = "subscriptions",
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "It is forgotten"),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn delete(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = segment(&request).await?;
    app.book.store().unsubscribe(&id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// List the deliveries of a subscription, newest first
#[utoipa::path(get, path = "/v1/subscriptions/{id}/deliveries", operation_id = "listDeliveries", tag = "subscriptions",
    params(
        ("id" = String, Path),
        ("state" = Option<String>, Query, description = "`pending`, `delivered`, `failed` or `dropped`"),
        ("before" = Option<i64>, Query, description = "`next_before` of the page before"),
        ("limit" = Option<u32>, Query, description = "deliveries of a page, 1 to 200"),
    ),
    responses(
        (status = 200, body = DeliveryList),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn deliveries(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let subscription = find(&app, &request).await?;
    let mut params = Params::of(&request)?;
    let state = params.text("state").and_then(|text| {
        let state = DeliveryState::of(&text);
        if state.is_none() {
            params.refuse(
                "state",
                "is not `pending`, `delivered`, `failed` or `dropped`",
            );
        }
        state
    });
    let before = params.parsed("before", "a whole number");
    let limit = params
        .parsed("limit", "a whole number")
        .unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        params.refuse("limit", format!("must be 1 to {PAGE_MAX}, but is {limit}"));
    }
    params.finish()?;
    let store = app.book.store();
    let mut found = store
        .deliveries(&subscription.id, state, before, limit + 1)
        .await?;
    let has_more = found.len() > limit as usize;
    found.truncate(limit as usize);
    let next_before = found.last().map(|last| last.seq).filter(|_| has_more);
    Ok(HttpResponse::Ok().json(DeliveryList {
        deliveries: found.into_iter().map(DeliveryBody::from).collect(),
        next_before,
    }))
}

/// Send a test message
///
/// At once, once, of the type `test`; the answer says what became of it. It is sent to a subscription that
/// is disabled, too.
#[utoipa::path(post, path = "/v1/subscriptions/{id}/test", operation_id = "testSubscription", tag = "subscriptions",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = TestDelivery),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn test(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let subscription = find(&app, &request).await?;
    let webhook = webhook(&subscription)?;
    let (event, attempt) = app.outbound.try_out(&subscription.id, webhook).await;
    let reason = match attempt.outcome {
        Outcome::Delivered => None,
        Outcome::Gone => Some("answered 410 Gone: it wants nothing any more".to_owned()),
        Outcome::Failed { reason, .. } => Some(reason),
    };
    Ok(HttpResponse::Ok().json(TestDelivery {
        event_id: event.id,
        delivered: reason.is_none(),
        status: attempt.status,
        reason,
        duration_ms: millis(attempt.duration),
    }))
}

/// Send again what has failed
///
/// All deliveries that have failed for good, or were dropped, wait again as if they were new.
#[utoipa::path(post, path = "/v1/subscriptions/{id}/redeliver", operation_id = "redeliver", tag = "subscriptions",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = Redelivered),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn redeliver(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let subscription = find(&app, &request).await?;
    let store = app.book.store();
    let redelivered = store.redeliver(&subscription.id, now()).await?;
    Ok(HttpResponse::Ok().json(Redelivered { redelivered }))
}

async fn find(app: &App, request: &HttpRequest) -> Result<Subscription, Problem> {
    let id = segment(request).await?;
    Ok(app.book.store().subscription(&id).await?)
}

fn webhook(subscription: &Subscription) -> Result<&Webhook> {
    match &subscription.receiver {
        Receiver::Webhook(webhook) => Ok(webhook),
        Receiver::WriteBack { .. } => Err(Error::NotFound {
            kind: "subscription",
            id: subscription.id.clone(),
        }),
    }
}

fn apply(subscription: &mut Subscription, change: SubscriptionChange, app: &App, at: Timestamp) {
    if let Some(event_types) = change.event_types {
        subscription.event_types = in_order(event_types);
    }
    if let Some(filters) = change.filters {
        subscription.filters = filters;
    }
    if let Some(description) = change.description {
        subscription.description = Some(description).filter(|text| !text.is_empty());
    }
    match change.enabled {
        Some(true) => subscription.disabled = None,
        Some(false) if subscription.disabled.is_none() => {
            subscription.disabled = Some(Disabled {
                at,
                reason: "its owner stopped it".into(),
            });
        }
        _ => {}
    }
    let Receiver::Webhook(webhook) = &mut subscription.receiver else {
        return;
    };
    if let Some(url) = change.url {
        webhook.url = url;
    }
    if let Some(format) = change.format {
        webhook.format = format;
    }
    if change.rotate_secret == Some(true) {
        let until = at.saturating_add(app.config.outbound.secret_overlap());
        let old = std::mem::replace(&mut webhook.key, Key::random());
        webhook.previous_key = Some((old, until.unwrap_or(Timestamp::MAX)));
    }
}

/// Everything that is wrong with a subscription.
#[derive(Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, field: &str, reason: impl Into<String>) {
        self.0.push(FieldError::new(field, reason));
    }

    async fn target(&mut self, guard: &Guard, url: &str) {
        match guard.target(url) {
            Err(reason) => self.add("url", reason),
            Ok(url) => {
                if let Err(forbidden) = guard.check_name(&url).await {
                    self.add("url", forbidden.to_string());
                }
            }
        }
    }

    fn rest(&mut self, types: &[EventType], description: &Option<String>, filters: &Filters) {
        if types.is_empty() {
            self.add("event_types", "is empty");
        }
        if types.contains(&EventType::Test) {
            self.add("event_types", "`test` is sent on demand, to all");
        }
        let length = description.as_ref().map_or(0, String::len);
        if length > DESCRIPTION_BYTES_MAX {
            let reason = format!("at most {DESCRIPTION_BYTES_MAX} bytes, but has {length}");
            self.add("description", reason);
        }
        self.0.extend(filters.errors());
    }

    fn finish(self) -> Result<()> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Error::Invalid(self.0)),
        }
    }
}

fn in_order(mut types: Vec<EventType>) -> Vec<EventType> {
    types.sort();
    types.dedup();
    types
}

fn body_of(app: &App, subscription: Subscription, with_secret: bool) -> Result<SubscriptionBody> {
    let text = |at: Timestamp| at.to_string();
    let circuit_open = app.outbound.is_circuit_open(&subscription);
    let webhook = webhook(&subscription)?.clone();
    let now = now();
    Ok(SubscriptionBody {
        id: subscription.id,
        url: webhook.url,
        event_types: subscription.event_types,
        format: webhook.format,
        description: subscription.description,
        filters: subscription.filters,
        created_at: subscription.created_at.to_string(),
        enabled: subscription.disabled.is_none(),
        disabled: subscription.disabled.map(|disabled| DisabledBody {
            at: disabled.at.to_string(),
            reason: disabled.reason,
        }),
        previous_secret_until: webhook
            .previous_key
            .map(|(_, until)| until)
            .filter(|until| *until > now)
            .map(text),
        failures_in_row: subscription.circuit.failures_in_row,
        circuit_open,
        paused_until: subscription
            .circuit
            .paused_until
            .filter(|until| *until > now)
            .map(text),
        secret: with_secret.then(|| webhook.key.reveal()),
    })
}

impl From<Delivery> for DeliveryBody {
    fn from(delivery: Delivery) -> Self {
        let is_pending = delivery.state == DeliveryState::Pending;
        Self {
            event_id: delivery.event_id,
            event_type: delivery.kind,
            deal_id: delivery.deal_id,
            happened_at: delivery.happened_at.to_string(),
            state: delivery.state.as_str(),
            attempts: delivery.attempts,
            next_attempt_at: is_pending.then(|| delivery.next_at.to_string()),
            attempted_at: delivery.attempted_at.map(|at| at.to_string()),
            status: delivery.status,
            reason: delivery.reason,
            duration_ms: delivery.duration.map(millis),
        }
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
