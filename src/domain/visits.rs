//! The stays of a deal in its stages.

use jiff::Timestamp;

use super::deal::{AttributeValue, Deal};

/// A stay in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit<'a> {
    pub stage: &'a str,
    pub entered_at: Timestamp,
    /// When it was left for another one, or the deal closed.
    pub left_at: Option<Timestamp>,
}

impl Deal {
    /// The stages gone through up to a moment, each visit once, oldest first.
    pub fn visits(&self, until: Timestamp) -> Vec<Visit<'_>> {
        let mut visits: Vec<Visit> = Vec::new();
        let ended_at = self.closed_at.filter(|_| !self.is_open());
        for change in &self.history {
            let (AttributeValue::Text(stage), "stage") = (&change.value, change.field.as_str())
            else {
                continue;
            };
            // What a deal is moved to as it closes is no stage that it waits in.
            let is_close = ended_at.is_some_and(|ended_at| change.at >= ended_at);
            if change.at > until || is_close {
                break;
            }
            if let Some(last) = visits.last_mut() {
                if last.stage == *stage {
                    continue;
                }
                last.left_at = Some(change.at);
            }
            visits.push(Visit {
                stage,
                entered_at: change.at,
                left_at: None,
            });
        }
        match visits.last_mut() {
            Some(last) => last.left_at = ended_at,
            None => visits.extend(self.only_stage()),
        }
        visits
    }

    /// The stay of an open deal in a stage that it never left.
    fn only_stage(&self) -> Option<Visit<'_>> {
        Some(Visit {
            stage: self.stage.as_deref().filter(|_| self.is_open())?,
            entered_at: self.created_at?,
            left_at: None,
        })
    }
}
