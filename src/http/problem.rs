//! Every failure as one document: `application/problem+json` (RFC 9457) with a stable `code`.

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::error::{Error, FieldError};

pub const MEDIA_TYPE: &str = "application/problem+json";

/// A kind of problem: what a program decides by, and what a person reads first.
#[derive(Debug)]
struct Kind {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
}

macro_rules! kinds {
    ($($name:ident: $status:ident, $code:literal, $title:literal;)*) => {
        $(static $name: Kind = Kind { status: StatusCode::$status, code: $code, title: $title };)*
    };
}

kinds! {
    MALFORMED: BAD_REQUEST, "malformed", "The request cannot be read";
    UNKNOWN_ROUTE: NOT_FOUND, "unknown_route", "There is nothing at this address";
    NOT_FOUND: NOT_FOUND, "not_found", "There is no such thing";
    WEBHOOK_OFF: NOT_FOUND, "webhook_off", "Webhooks from this source are off";
    UNAUTHENTICATED: UNAUTHORIZED, "unauthenticated", "It is not known who sent this";
    FORBIDDEN: FORBIDDEN, "forbidden", "This is for others";
    METHOD_NOT_ALLOWED: METHOD_NOT_ALLOWED, "method_not_allowed", "The resource does not have this method";
    BODY_TIMEOUT: REQUEST_TIMEOUT, "body_timeout", "The body did not arrive in time";
    CONFLICT: CONFLICT, "conflict", "The request contradicts what is there";
    NO_PREVIOUS_MODEL: CONFLICT, "no_previous_model", "There is no model to go back to";
    NOT_OFFERED: CONFLICT, "not_offered", "A recalibration is not called for";
    CURSOR_EXPIRED: GONE, "cursor_expired", "The cursor is older than what is kept";
    TOO_LARGE: PAYLOAD_TOO_LARGE, "too_large", "A limit was passed";
    MEDIA_TYPE_UNSUPPORTED: UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body is of a type that is not taken here";
    INVALID: UNPROCESSABLE_ENTITY, "invalid", "Some fields cannot be meant";
    INVALID_INPUT: UNPROCESSABLE_ENTITY, "invalid_input", "The file has a place that cannot be read";
    UNUSABLE: UNPROCESSABLE_ENTITY, "unusable", "What was given cannot be used for this";
    NOT_ACTIONABLE: UNPROCESSABLE_ENTITY, "not_actionable", "The model's mapping does not mark the fields as actionable";
    UNSUPPORTED_FORMAT: UNPROCESSABLE_ENTITY, "unsupported_format", "The model cannot be exported in this format";
    TOO_MANY_ATTEMPTS: TOO_MANY_REQUESTS, "too_many_attempts", "Too many wrong keys";
    BUSY: TOO_MANY_REQUESTS, "busy", "A queue is full";
    OVERLOADED: SERVICE_UNAVAILABLE, "overloaded", "Too much is waiting";
    INTERNAL: INTERNAL_SERVER_ERROR, "internal", "Something went wrong here";
    STORE_AWAY: SERVICE_UNAVAILABLE, "store_away", "The store does not answer";
    NO_MODEL: SERVICE_UNAVAILABLE, "no_model", "No model is active yet";
}

/// Why a request was not answered as asked.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: &'static Kind,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request was not answered as asked.
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// Names the kind of problem; the same for the same `code`.
    #[serde(rename = "type")]
    #[schema(example = "urn:dealrank:problem:invalid")]
    kind: String,
    /// The kind of problem in words.
    title: &'static str,
    #[schema(example = 422)]
    status: u16,
    /// What is wrong with this very request.
    detail: &'a str,
    /// Stable; what a program decides by.
    #[schema(example = "invalid")]
    code: &'static str,
    /// Each field that is wrong.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Kind {
            status,
            code,
            title,
        } = self.kind;
        let document = ProblemDocument {
            kind: format!("urn:dealrank:problem:{code}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            code,
            errors: &self.errors,
        };
        document.serialize(serializer)
    }
}

impl Problem {
    fn new(kind: &'static Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            headers: Vec::new(),
        }
    }

    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// What went wrong is in the log, under the request's id.
    pub fn internal() -> Self {
        let detail = "not your fault; the log has more under the id in the header x-request-id";
        Self::new(&INTERNAL, detail)
    }

    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(&MEDIA_TYPE_UNSUPPORTED, detail)
    }

    pub fn unsupported_format(detail: impl Into<String>) -> Self {
        Self::new(&UNSUPPORTED_FORMAT, detail)
    }

    pub fn webhook_off(detail: impl Into<String>) -> Self {
        Self::new(&WEBHOOK_OFF, detail)
    }

    pub fn unauthenticated(detail: impl Into<String>) -> Self {
        Self::new(&UNAUTHENTICATED, detail)
    }

    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(&FORBIDDEN, detail)
    }

    pub fn too_many_attempts(detail: impl Into<String>) -> Self {
        Self::new(&TOO_MANY_ATTEMPTS, detail)
            .with_header(header::RETRY_AFTER, HeaderValue::from_static("60"))
    }

    pub fn unknown_route(path: &str) -> Self {
        let detail = format!("nothing is at {path}; /docs lists what there is");
        Self::new(&UNKNOWN_ROUTE, detail)
    }

    /// `allow` lists the methods that the resource has.
    pub fn method_not_allowed(method: &str, allow: &str) -> Self {
        let detail = format!("{method} is not among {allow}");
        let problem = Self::new(&METHOD_NOT_ALLOWED, detail);
        match HeaderValue::from_str(allow) {
            Ok(allow) => problem.with_header(header::ALLOW, allow),
            Err(_) => problem,
        }
    }

    pub fn body_timeout() -> Self {
        let detail = "body_pause_seconds_max: nothing more of the body came for this long";
        Self::new(&BODY_TIMEOUT, detail)
    }

    /// The kind of problem in words.
    pub fn title(&self) -> &'static str {
        self.kind.title
    }

    /// Stable; what a program decides by.
    pub fn code(&self) -> &'static str {
        self.kind.code
    }

    /// What is wrong with this very request.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Each field that is wrong.
    pub fn fields(&self) -> &[FieldError] {
        &self.errors
    }

    /// What the answer has beside the usual headers.
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// For answers that are not ours: a status and what the library said about it.
    pub fn of_status(status: StatusCode, detail: impl Into<String>) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::new(&UNKNOWN_ROUTE, detail),
            StatusCode::PAYLOAD_TOO_LARGE => Self::new(&TOO_LARGE, detail),
            _ if status.is_client_error() => Self::new(&MALFORMED, detail),
            _ => Self::internal(),
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::Malformed(_) => Self::new(&MALFORMED, detail),
            Error::Invalid(errors) => Self {
                errors,
                ..Self::new(&INVALID, detail)
            },
            Error::NotActionable(errors) => Self {
                errors,
                ..Self::new(&NOT_ACTIONABLE, detail)
            },
            Error::Input { .. } => Self::new(&INVALID_INPUT, detail),
            Error::Unusable(_) => Self::new(&UNUSABLE, detail),
            Error::TooLarge { .. } => Self::new(&TOO_LARGE, detail),
            Error::NotFound { .. } => Self::new(&NOT_FOUND, detail),
            Error::Conflict(_) => Self::new(&CONFLICT, detail),
            Error::NoPreviousModel => Self::new(&NO_PREVIOUS_MODEL, detail),
            Error::NotOffered(_) => Self::new(&NOT_OFFERED, detail),
            Error::CursorExpired => Self::new(&CURSOR_EXPIRED, detail),
            Error::NoModel => Self::new(
                &NO_MODEL,
                "train one with POST /v1/models; the first one is activated at once",
            ),
            Error::Busy(_) => Self::new(&BUSY, detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("5")),
            Error::StoreAway(cause) => {
                tracing::warn!(error = format!("{cause:#}"), "the store does not answer");
                let detail = "the store does not answer at the moment; ask again, a write may have been done or not";
                Self::new(&STORE_AWAY, detail)
                    .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))
            }
            Error::Overloaded(_) => Self::new(&OVERLOADED, detail)
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("1")),
            Error::Internal(cause) => {
                tracing::error!(error = format!("{cause:#}"), "a request failed");
                Self::internal()
            }
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.code, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.status
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponseBuilder::new(self.kind.status);
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        let document = serde_json::to_string(self).expect("texts and numbers only");
        response.content_type(MEDIA_TYPE).body(document)
    }
}
