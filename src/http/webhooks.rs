//! `/v1/webhooks`: what CRMs send. Kept before it is answered, applied afterwards.

use std::collections::BTreeMap;

use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::body;
use super::problem::{Problem, ProblemDocument};
use crate::app::{App, now};
use crate::inbound::{ACKNOWLEDGEMENT, Action, Delivery, Rejected, Source};

/// What was taken of a delivery.
#[derive(Serialize, ToSchema)]
pub(super) struct ReceiptBody {
    /// Events that are kept, or were already.
    received: usize,
    /// Events that are not about deals.
    unknown: usize,
}

impl From<Rejected> for Problem {
    fn from(rejected: Rejected) -> Self {
        match rejected {
            Rejected::Failed(error) => error.into(),
            Rejected::Off(_) => Self::webhook_off(rejected.to_string()),
            Rejected::Unauthentic(refusal) => Self::unauthenticated(refusal.to_string()),
        }
    }
}

/// Take what a CRM sends
///
/// For HubSpot, Salesforce, Pipedrive, Close, Attio, Zoho, Odoo and the form of Standard Webhooks, each
/// with its own signature and payload. Answered once the events are on the disk; they are applied
/// afterwards, each once, in whatever order they come. What is not about deals is counted; what cannot be
/// read becomes a dead letter: neither is refused. HubSpot's custom workflow action is answered with the
/// deal's score.
#[utoipa::path(post, path = "/v1/webhooks/{source}", operation_id = "receiveWebhook", tag = "webhooks",
    params(("source" = Source, Path)),
    request_body(content((Object = "application/json"))),
    responses(
        (status = 200, description = "The events are kept", body = ReceiptBody),
        (status = 401, description = "The signature is not right", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The source has no secrets in the settings", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Too many events wait; try again", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn receive(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    take(app, request, payload).await
}

/// Take what a CRM sends that signs nothing
///
/// Salesforce and Odoo: a secret at the end of the address is what they are known by. Salesforce gets the
/// acknowledgement that its Outbound Messages want.
#[utoipa::path(post, path = "/v1/webhooks/{source}/{secret}", operation_id = "receiveUnsignedWebhook",
    tag = "webhooks",
    params(("source" = Source, Path), ("secret" = String, Path)),
    request_body(content((Object = "application/json"), (String = "text/xml"))),
    responses(
        (status = 200, description = "The events are kept",
            content((ReceiptBody = "application/json"), (String = "text/xml"))),
        (status = 401, description = "The secret is not right", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "The source has no secrets in the settings", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Too many events wait; try again", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn receive_unsigned(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    take(app, request, payload).await
}

async fn take(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    // Neither has anything that would be escaped in a path.
    let path = request.match_info();
    let source = path.get("source").and_then(Source::parse);
    let source = source.ok_or_else(|| Problem::unknown_route(request.path()))?;
    app.inbound.check_on(source)?;
    let settings = app.inbound.settings();
    let body = body::raw(
        &request,
        payload,
        &app.config.limits,
        ("webhooks.body_bytes_max", settings.body_bytes_max),
    )
    .await?;
    let delivery = Delivery {
        method: request.method().to_string(),
        url: url(&request, settings.public_base_url.as_deref()),
        headers: headers(&request),
        path_secret: path.get("secret").map(str::to_owned),
        body,
    };
    if source == Source::Hubspot
        && let Some(action) = Action::of(&delivery)
    {
        let answer = app.inbound.act(&action, &delivery, now()).await?;
        return Ok(HttpResponse::Ok().json(answer));
    }
    let receipt = app.inbound.receive(source, &delivery, now()).await;
    let receipt = receipt.map_err(|rejected| match (source, &rejected) {
        (Source::Pipedrive, Rejected::Unauthentic(_)) => {
            let challenge = HeaderValue::from_static("Basic realm=\"dealrank\"");
            Problem::from(rejected).with_header(header::WWW_AUTHENTICATE, challenge)
        }
        _ => rejected.into(),
    })?;
    if source == Source::Salesforce && !delivery.is_json() {
        let mut answer = HttpResponse::Ok();
        return Ok(answer
            .content_type("text/xml; charset=utf-8")
            .body(ACKNOWLEDGEMENT));
    }
    Ok(HttpResponse::Ok().json(ReceiptBody {
        received: receipt.received,
        unknown: receipt.unknown,
    }))
}

/// The address that the sender wrote to, which HubSpot signs.
fn url(request: &HttpRequest, base: Option<&str>) -> String {
    let path = request.uri().path_and_query();
    let path = path.map_or("/", |path| path.as_str());
    match base {
        Some(base) => format!("{}{path}", base.trim_end_matches('/')),
        None => {
            let connection = request.connection_info();
            format!("{}://{}{path}", connection.scheme(), connection.host())
        }
    }
}

fn headers(request: &HttpRequest) -> BTreeMap<String, String> {
    let headers = request.headers().iter();
    let readable = headers.filter_map(|(name, value)| {
        let value = value.to_str().ok()?;
        Some((name.as_str().to_lowercase(), value.to_owned()))
    });
    readable.collect()
}
