//! The one error type. `?` everywhere; `http` turns it into one problem document, `cli` into one
//! message and an exit code.

use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong with one field of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FieldError {
    /// Path of the field: `amount`, `attributes.Country`, `deals[3].stage`.
    pub field: String,
    pub reason: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The same mistake, seen from the document around it: `stage` becomes `deals[3].stage`.
    pub fn within(self, parent: &str) -> Self {
        let field = match self.field.as_str() {
            "" => parent.to_owned(),
            field => format!("{parent}.{field}"),
        };
        Self { field, ..self }
    }
}

/// Everything that can go wrong, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the format it claims to be: broken JSON, an unreadable header. 400, exit code 2.
    #[error("{0}")]
    Malformed(String),
    /// Well-formed, but some fields cannot be meant. 422, exit code 2.
    #[error("{}", join(.0))]
    Invalid(Vec<FieldError>),
    /// A place in a file. 422, exit code 2.
    #[error("{file}, line {line}{}: {reason}", .column.as_ref().map(|c| format!(", column {c}")).unwrap_or_default())]
    Input {
        file: String,
        line: u64,
        column: Option<String>,
        reason: String,
    },
    /// What was given is usable as a format, but not for this purpose: only wins, no rows. 422, exit code 2.
    #[error("{0}")]
    Unusable(String),
    /// A named limit was passed. 413, exit code 2.
    #[error("{limit}: at most {max}")]
    TooLarge { limit: &'static str, max: u64 },
    /// 404, exit code 2.
    #[error("there is no {kind} `{id}`")]
    NotFound { kind: &'static str, id: String },
    /// 409, exit code 1.
    #[error("{0}")]
    Conflict(String),
    /// A cursor that is older than what is kept. 410.
    #[error("the cursor has expired; start again from the first page")]
    CursorExpired,
    /// 503, exit code 1.
    #[error("no model is active yet: train one first")]
    NoModel,
    /// 409, exit code 1.
    #[error("no other model was active before this one: there is nothing to go back to")]
    NoPreviousModel,
    /// Outcomes do not ask for a recalibration, or too few are known. 409, exit code 1.
    #[error("{0}")]
    NotOffered(String),
    /// Well-formed, but not what a model's mapping marks as actionable. 422, exit code 2.
    #[error("{}", join(.0))]
    NotActionable(Vec<FieldError>),
    /// A queue is full. 429.
    #[error("{0}")]
    Busy(String),
    /// The store does not answer; it may again in a moment. What was asked for may or may not have been
    /// done. 503, exit code 1.
    #[error("{0:#}")]
    StoreAway(anyhow::Error),
    /// More is asked at once than can be done; again in a moment. 503, exit code 1.
    #[error("{0}")]
    Overloaded(String),
    /// Not the caller's fault; logged where it is handled, never shown over HTTP. 500, exit code 1.
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

impl Error {
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid(vec![FieldError::new(field, reason)])
    }
}

impl From<Vec<FieldError>> for Error {
    fn from(fields: Vec<FieldError>) -> Self {
        Self::Invalid(fields)
    }
}

fn join(fields: &[FieldError]) -> String {
    let parts: Vec<String> = fields
        .iter()
        .map(|f| match f.field.as_str() {
            "" => f.reason.clone(),
            field => format!("{field}: {}", f.reason),
        })
        .collect();
    parts.join("; ")
}
