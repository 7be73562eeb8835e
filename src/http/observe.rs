//! What every request gets, whatever becomes of it: an id, a measurement, and a problem document
//! when it failed, also where the failure is a library's or a panic.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, ResponseError};
use futures_util::FutureExt;
use tracing::Span;
use tracing_actix_web::{RequestId, RootSpanBuilder};

use super::problem::{self, Problem};
use crate::pages::layout;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Label of all requests that no route matched: their paths are anything, and would fill the metrics.
const UNMATCHED: &str = "unmatched";

/// Everything that is logged in the course of a request carries its id and route. Its path and query
/// do not enter the log: they hold the names of deals and people.
pub struct RequestSpan;

impl RootSpanBuilder for RequestSpan {
    fn on_request_start(request: &ServiceRequest) -> Span {
        let id = request.extensions().get::<RequestId>().copied();
        tracing::info_span!(
            "request",
            id = id.map(|id| id.to_string()),
            method = method_label(request.method()),
            route = request.match_pattern(),
        )
    }

    fn on_request_end<B: MessageBody>(_: Span, _: &Result<ServiceResponse<B>, Error>) {}
}

pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request.extensions().get::<RequestId>().copied();
    let id = id.and_then(|id| HeaderValue::from_str(&id.to_string()).ok());
    let method = method_label(request.method());
    let route = request.match_pattern();
    let outcome = AssertUnwindSafe(next.call(request)).catch_unwind().await;
    let mut response = match outcome {
        Ok(outcome) => documented(outcome?.map_into_boxed_body()),
        Err(_) => {
            // The panic hook has told the log why. The request is gone with its handler, so the
            // answer leaves as an error.
            record(method, route, StatusCode::INTERNAL_SERVER_ERROR, started);
            let problem = Problem::internal();
            return Err(match id {
                Some(id) => problem.with_header(REQUEST_ID, id).into(),
                None => problem.into(),
            });
        }
    };
    record(method, route, response.status(), started);
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

fn record(method: &'static str, route: Option<String>, status: StatusCode, started: Instant) {
    let elapsed = started.elapsed();
    tracing::debug!(status = status.as_u16(), ?elapsed, "answered");
    let labels = [
        ("method", method.to_owned()),
        ("route", route.unwrap_or_else(|| UNMATCHED.to_owned())),
        ("status", status.as_u16().to_string()),
    ];
    metrics::histogram!("http_request_duration_seconds", &labels[..2])
        .record(elapsed.as_secs_f64());
    metrics::counter!("http_requests_total", &labels).increment(1);
}

/// A method is any word that a client likes; only those that exist become labels.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

/// Answers of libraries that are errors without a document get one. Our own are problems, pages, or say
/// in JSON how things stand, as `/readyz` does.
fn documented(response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let is_documented = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
        let own = [problem::MEDIA_TYPE, layout::MEDIA_TYPE, "application/json"];
        own.iter().any(|own| own.as_bytes() == kind.as_bytes())
    });
    if !is_error || is_documented {
        return response;
    }
    let detail = match response.response().error() {
        Some(error) => error.to_string(),
        None => match status.canonical_reason() {
            Some(reason) => reason.to_lowercase(),
            None => status.to_string(),
        },
    };
    response.into_response(Problem::of_status(status, detail).error_response())
}
