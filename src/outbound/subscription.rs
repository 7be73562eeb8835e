//! Who wants to be told of what. Pure.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::event::{Event, EventType, Format};
use super::patience::Circuit;
use crate::crm::CrmKind;
use crate::error::FieldError;
use crate::scoring::Grade;
use crate::standard_webhooks::Key;

/// Values of one list of a filter.
const FILTER_VALUES_MAX: usize = 100;

/// A receiver with what it is told of.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    pub id: String,
    pub description: Option<String>,
    pub receiver: Receiver,
    /// Without repetition, in order.
    pub event_types: Vec<EventType>,
    pub filters: Filters,
    pub created_at: Timestamp,
    /// Events with a larger number are told.
    pub since_seq: i64,
    /// Nothing is told any more, and why.
    pub disabled: Option<Disabled>,
    pub circuit: Circuit,
}

/// Where events go.
#[derive(Debug, Clone, PartialEq)]
pub enum Receiver {
    Webhook(Webhook),
    /// The fields of a CRM; while all of its deals are gone through, how far.
    WriteBack {
        crm: CrmKind,
        sweep: Option<Sweep>,
    },
}

/// How far all deals have been gone through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// The number of what asked for it: a later one begins anew.
    pub since_seq: i64,
    /// The last deal that was looked at; empty at the beginning.
    pub after: String,
}

impl Sweep {
    pub fn from(since_seq: i64) -> Self {
        Self {
            since_seq,
            after: String::new(),
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        let (since_seq, after) = text.split_once(':')?;
        Some(Self {
            since_seq: since_seq.parse().ok()?,
            after: after.to_owned(),
        })
    }
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.since_seq, self.after)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    pub url: String,
    pub format: Format,
    pub key: Key,
    /// The key before, while receivers go from one to the next.
    pub previous_key: Option<(Key, Timestamp)>,
}

impl Webhook {
    /// The keys that sign at a moment.
    pub fn keys(&self, at: Timestamp) -> Vec<Key> {
        let previous = self.previous_key.iter().filter(|(_, until)| *until > at);
        let previous = previous.map(|(key, _)| key.clone());
        std::iter::once(self.key.clone()).chain(previous).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disabled {
    pub at: Timestamp,
    pub reason: String,
}

/// Which events of the subscribed types are told; all that are given must hold. They look at the deal
/// as the event has it. `model.activated` is about no deal and passes all of them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
#[schema(as = SubscriptionFilters)]
pub struct Filters {
    /// One of these owners; empty for any.
    pub owners: Vec<String>,
    /// One of these pipelines; empty for any.
    pub pipelines: Vec<String>,
    /// One of these stages; empty for any.
    pub stages: Vec<String>,
    /// One of these grades (`A` to `D`); empty for any.
    #[schema(value_type = Vec<String>, example = json!(["A", "B"]))]
    pub grades: Vec<Grade>,
    /// At least this expected value, in the base currency; deals without one are left out.
    pub min_expected_value: Option<f64>,
    /// `score.changed` only when the probability is at least this far from the one told last.
    pub min_probability_change: Option<f64>,
}

impl Filters {
    /// What is wrong with them, by field.
    pub fn errors(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (field, count) in [
            ("filters.owners", self.owners.len()),
            ("filters.pipelines", self.pipelines.len()),
            ("filters.stages", self.stages.len()),
            ("filters.grades", self.grades.len()),
        ] {
            if count > FILTER_VALUES_MAX {
                let reason = format!("at most {FILTER_VALUES_MAX}, but there are {count}");
                errors.push(FieldError::new(field, reason));
            }
        }
        let is_amount = |value: f64| value.is_finite() && value >= 0.0;
        if !self.min_expected_value.is_none_or(is_amount) {
            let reason = "must be an amount of at least 0";
            errors.push(FieldError::new("filters.min_expected_value", reason));
        }
        if !self
            .min_probability_change
            .is_none_or(|value| (0.0..=1.0).contains(&value))
        {
            let reason = "must be from 0 to 1";
            errors.push(FieldError::new("filters.min_probability_change", reason));
        }
        errors
    }

    /// Whether an event passes; `told` is the probability that was told last of this deal.
    pub fn pass(&self, event: &Event, told: Option<f64>) -> bool {
        let Some(deal) = &event.deal else { return true };
        let is_in = |list: &[String], value: &Option<String>| {
            list.is_empty() || value.as_ref().is_some_and(|value| list.contains(value))
        };
        let has_moved = || match (self.min_probability_change, told) {
            (Some(least), Some(told)) if event.kind == EventType::ScoreChanged => {
                (deal.win_probability - told).abs() >= least
            }
            _ => true,
        };
        is_in(&self.owners, &deal.owner)
            && is_in(&self.pipelines, &deal.pipeline)
            && is_in(&self.stages, &deal.stage)
            && (self.grades.is_empty() || deal.grade.is_some_and(|g| self.grades.contains(&g)))
            && self
                .min_expected_value
                .is_none_or(|least| deal.expected_value.is_some_and(|value| value >= least))
            && has_moved()
    }
}

impl Subscription {
    pub fn is_enabled(&self) -> bool {
        self.disabled.is_none()
    }

    /// Whether it matters what was told last.
    pub fn asks_what_was_told(&self) -> bool {
        self.filters.min_probability_change.is_some()
    }

    /// Whether an event with a number is told; `told` as in [`Filters::pass`].
    pub fn wants(&self, seq: i64, event: &Event, told: Option<f64>) -> bool {
        seq > self.since_seq
            && self.event_types.contains(&event.kind)
            && self.filters.pass(event, told)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::tests::row;
    use super::*;

    fn event(probability: f64) -> Event {
        let row = row("d-1", probability, Grade::B);
        Event::score_changed(None, &row, "put", row.score.scored_at).unwrap()
    }

    fn filters(json: &str) -> Filters {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_filter_that_is_given_must_hold() {
        let event = event(0.4);
        for (json, expected) in [
            ("{}", true),
            (r#"{"owners": ["Ada"]}"#, true),
            (r#"{"owners": ["Ben"]}"#, false),
            (r#"{"pipelines": ["new", "old"]}"#, true),
            (r#"{"stages": ["won"]}"#, false),
            (r#"{"grades": ["A"]}"#, false),
            (r#"{"grades": ["A", "B"]}"#, true),
            (r#"{"min_expected_value": 400}"#, true),
            (r#"{"min_expected_value": 401}"#, false),
            (r#"{"owners": ["Ada"], "grades": ["A"]}"#, false),
        ] {
            assert_eq!(filters(json).pass(&event, None), expected, "{json}");
        }
    }

    #[test]
    fn small_steps_add_up_to_one_that_is_told() {
        let filters = filters(r#"{"min_probability_change": 0.05}"#);
        assert!(filters.pass(&event(0.40), None));
        assert!(!filters.pass(&event(0.44), Some(0.40)));
        assert!(filters.pass(&event(0.46), Some(0.40)));
        assert!(filters.pass(&event(0.34), Some(0.40)));
    }

    #[test]
    fn a_model_passes_all_filters_on_deals() {
        let filters = filters(r#"{"owners": ["Ben"], "min_expected_value": 1e9}"#);
        let event = Event::model_activated("m2", None, "first", Timestamp::UNIX_EPOCH);
        assert!(filters.pass(&event, None));
    }

    #[test]
    fn filters_that_cannot_be_meant_are_named() {
        let fields = |json: &str| -> Vec<String> {
            let errors = filters(json).errors();
            errors.into_iter().map(|error| error.field).collect()
        };
        assert!(fields("{}").is_empty());
        assert_eq!(
            fields(r#"{"min_expected_value": -1}"#),
            ["filters.min_expected_value"]
        );
        assert_eq!(
            fields(r#"{"min_probability_change": 1.5}"#),
            ["filters.min_probability_change"]
        );
    }
}
