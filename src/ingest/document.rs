//! The JSON deal document, in both directions.

use serde_json::Value;

use crate::domain::Deal;
use crate::error::FieldError;

/// Reads a deal document and reports everything that is wrong with it, not only the first thing.
///
/// # Errors
/// One entry for each field that is unknown, missing, of the wrong type, or out of range.
pub fn parse(document: Value) -> Result<Deal, Vec<FieldError>> {
    let _ = document;
    todo!("ingest")
}

/// The document of a deal; `parse` reads it back to an equal deal.
pub fn write(deal: &Deal) -> Value {
    let _ = deal;
    todo!("ingest")
}
