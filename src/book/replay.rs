//! A deal as it was, from the log of what was received: what the ledger says of it can be computed
//! again.

use std::collections::HashSet;

use anyhow::Context;
use serde_json::Value;

use super::ReceivedEvent;
use super::observing::{FACTS, Sighting};
use super::writing::{Intent, Revision};
use crate::domain::{Deal, DealId};
use crate::error::{Error, Result};
use crate::ingest::document;
use crate::store::StoredEvent;

/// The deal after `events`, which are the first ones received of it, in their order; `None` without
/// any. Goes the way that each of them went when it came in.
///
/// # Errors
/// `Internal` when an event is none that the store has written.
pub fn replay(id: &DealId, events: &[StoredEvent]) -> Result<Option<Deal>> {
    let mut revision = Revision {
        deal: None,
        known_events: HashSet::new(),
        log: Vec::new(),
    };
    for event in events {
        let intent =
            intent(id, event).with_context(|| format!("event {} of deal {id}", event.seq))?;
        revision.take(id, intent, event.received_at)?;
    }
    Ok(revision.deal)
}

/// What was wanted when the event was received.
fn intent(id: &DealId, event: &StoredEvent) -> Result<Intent> {
    let part = |name: &str| event.body.get(name).cloned().unwrap_or(Value::Null);
    match event.body.get("type").and_then(Value::as_str) {
        Some("document") => {
            let deal = document::parse(part("document")).map_err(Error::Invalid)?;
            Ok(Intent::Put(Box::new(deal)))
        }
        Some("patch") => Ok(Intent::Patch(part("patch"))),
        Some(FACTS) => {
            let facts = serde_json::from_value(part("facts"));
            Ok(Intent::Observe(Sighting {
                deal_id: id.clone(),
                key: None,
                at: event.received_at,
                facts: facts.context("are no dated facts")?,
                is_birth: true,
            }))
        }
        _ => {
            let fact = serde_json::from_value(event.body.clone());
            let fact = fact.context("is no document, no patch and no dated fact")?;
            let received = ReceivedEvent {
                id: None,
                event: fact,
            };
            Ok(Intent::Append(vec![received]))
        }
    }
}
