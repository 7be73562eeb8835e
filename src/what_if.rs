//! What a deal would score with other values in the fields that people can act upon.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::domain::Deal;
use crate::domain::deal::DEAL_FIELDS;
use crate::error::{Error, FieldError, Result};
use crate::ingest::document;
use crate::scoring::{Score, Scorer};

/// To be said with every difference.
pub const NOTE: &str = "an association in past deals, not a cause: deals with such values were won this much more or less often, and changing a value need not change the outcome";

/// A deal's score as it is, and as it would be.
#[derive(Debug, Clone, PartialEq)]
pub struct WhatIf {
    pub without: Score,
    pub with: Score,
}

/// Scores `deal` at `at`, without `changes` and right after them, as if they had come in at `at`.
/// Each names a field of [`DEAL_FIELDS`] or an attribute (`attributes.stage` where an attribute is
/// named like a field) and its new value; null clears it.
///
/// # Errors
/// `NotActionable` when the model's mapping does not mark a name as actionable; `Invalid` when a value
/// does not fit, or there are no changes.
pub fn what_if(
    scorer: &Scorer,
    deal: &Deal,
    changes: Map<String, Value>,
    at: Timestamp,
) -> Result<WhatIf> {
    if changes.is_empty() {
        return Err(Error::invalid("changes", "names nothing to change"));
    }
    check_actionable(&scorer.model().mapping.columns.actionable, &changes)?;
    let next = document::patch(deal, to_patch(changes), at).map_err(named_by_change)?;
    let mut changed = deal.clone();
    changed.revise(next, at);
    Ok(WhatIf {
        without: scorer.score(deal, at),
        with: scorer.score(&changed, at),
    })
}

fn check_actionable(actionable: &[String], changes: &Map<String, Value>) -> Result<()> {
    let known = match actionable {
        [] => "it marks none".to_owned(),
        names => format!("it marks {}", names.join(", ")),
    };
    let refused: Vec<FieldError> = changes
        .keys()
        .filter(|name| !actionable.contains(name))
        .map(|name| {
            let reason = format!("the model's mapping does not mark it as actionable; {known}");
            FieldError::new(format!("changes.{name}"), reason)
        })
        .collect();
    if refused.is_empty() {
        Ok(())
    } else {
        Err(Error::NotActionable(refused))
    }
}

/// The changes as a merge patch of a deal document.
fn to_patch(changes: Map<String, Value>) -> Value {
    let mut patch = Map::new();
    let mut attributes = Map::new();
    for (name, value) in changes {
        if DEAL_FIELDS.contains(&name.as_str()) {
            patch.insert(name, value);
        } else {
            let attribute = name.strip_prefix("attributes.");
            let attribute = attribute.filter(|name| DEAL_FIELDS.contains(name));
            attributes.insert(attribute.unwrap_or(&name).to_owned(), value);
        }
    }
    if !attributes.is_empty() {
        patch.insert("attributes".into(), json!(attributes));
    }
    Value::Object(patch)
}

/// The mistakes by the names that the changes have.
fn named_by_change(errors: Vec<FieldError>) -> Error {
    let named = errors.into_iter().map(|error| {
        let name = error.field.strip_prefix("attributes.");
        let field = format!("changes.{}", name.unwrap_or(&error.field));
        FieldError { field, ..error }
    });
    Error::Invalid(named.collect())
}
