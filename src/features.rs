//! The table of features: one row each, read from a snapshot and from nothing else.
//!
//! Attributes of a company's own are features too; they need no row here, since what they mean is
//! found by looking at their values (`columns`). The documentation of features is this table.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::domain::{Exchange, Snapshot};

/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// What a feature says of a deal at a moment.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading<'a> {
    Missing,
    Number(f64),
    Text(Cow<'a, str>),
    /// A value that cannot be what its column holds, such as a text among numbers.
    Unreadable(Cow<'a, str>),
}

/// A feature that every deal has by its nature.
pub struct Feature {
    pub name: &'static str,
    pub unit: &'static str,
    pub formula: &'static str,
    /// What a missing value means.
    pub missing: &'static str,
    /// Whether it can only be learned from deals whose past is on file: of a deal from a flat file
    /// the age at closing is an outcome, not a feature.
    pub needs_history: bool,
    pub read: for<'a> fn(&Snapshot<'a>, &Exchange) -> Reading<'a>,
}

/// Every built-in feature; the order is the order of columns.
pub static FEATURES: [Feature; 16] = [
    Feature {
        name: "amount",
        unit: "base currency",
        formula: "amount x rate of the day",
        missing: "no amount, or no rate for its currency",
        needs_history: false,
        read: |s, exchange| {
            let day = TimeZone::UTC.to_datetime(s.moment()).date();
            number(
                s.amount()
                    .and_then(|a| exchange.to_base(a, s.currency(), day)),
            )
        },
    },
    Feature {
        name: "pipeline",
        unit: "category",
        formula: "as given",
        missing: "not given",
        needs_history: false,
        read: |s, _| text(s.pipeline()),
    },
    Feature {
        name: "owner",
        unit: "category",
        formula: "as given",
        missing: "no owner",
        needs_history: false,
        read: |s, _| text(s.owner()),
    },
    Feature {
        name: "priority",
        unit: "category",
        formula: "as given",
        missing: "no flag",
        needs_history: false,
        read: |s, _| text(s.priority()),
    },
    Feature {
        name: "stage",
        unit: "category",
        formula: "the stage at the moment",
        missing: "not known at the moment",
        needs_history: true,
        read: |s, _| text(s.stage()),
    },
    Feature {
        name: "age_days",
        unit: "days",
        formula: "whole days since creation",
        missing: "creation unknown",
        needs_history: true,
        read: |s, _| number(s.created_at().map(|at| days_between(at, s.moment()))),
    },
    Feature {
        name: "days_in_stage",
        unit: "days",
        formula: "whole days since the stage was entered",
        missing: "stage unknown",
        needs_history: true,
        read: |s, _| number(s.stage_entered_at().map(|at| days_between(at, s.moment()))),
    },
    Feature {
        name: "stages_entered",
        unit: "count",
        formula: "stages entered so far; 1 for a deal that is still in its first",
        missing: "never",
        needs_history: true,
        read: |s, _| {
            let entered = s.stages().count().max(usize::from(s.stage().is_some()));
            Reading::Number(entered as f64)
        },
    },
    Feature {
        name: "days_to_expected_close",
        unit: "days",
        formula: "whole days to the expected close; negative when overdue",
        missing: "no expected close",
        needs_history: true,
        read: |s, _| number(s.expected_close_at().map(|at| days_between(s.moment(), at))),
    },
    Feature {
        name: "close_pushes",
        unit: "count",
        formula: "times the expected close moved to a later day",
        missing: "never",
        needs_history: true,
        read: |s, _| Reading::Number(s.close_pushes() as f64),
    },
    Feature {
        name: "activities_7d",
        unit: "count",
        formula: "activities in the last 7 days",
        missing: "never",
        needs_history: true,
        read: |s, _| Reading::Number(activities_since(s, 7, None)),
    },
    Feature {
        name: "activities_30d",
        unit: "count",
        formula: "activities in the last 30 days",
        missing: "never",
        needs_history: true,
        read: |s, _| Reading::Number(activities_since(s, 30, None)),
    },
    Feature {
        name: "activities_90d",
        unit: "count",
        formula: "activities in the last 90 days",
        missing: "never",
        needs_history: true,
        read: |s, _| Reading::Number(activities_since(s, 90, None)),
    },
    Feature {
        name: "inbound_30d",
        unit: "count",
        formula: "inbound activities in the last 30 days",
        missing: "never",
        needs_history: true,
        read: |s, _| Reading::Number(activities_since(s, 30, Some("inbound"))),
    },
    Feature {
        name: "activities_per_30d",
        unit: "count per 30 days",
        formula: "30 x activities so far / (days since creation + 1)",
        missing: "creation unknown",
        needs_history: true,
        read: |s, _| {
            number(s.created_at().map(|at| {
                30.0 * s.activities().len() as f64 / (days_between(at, s.moment()).max(0.0) + 1.0)
            }))
        },
    },
    Feature {
        name: "days_since_activity",
        unit: "days",
        formula: "whole days since the last activity",
        missing: "no activity yet",
        needs_history: true,
        read: |s, _| {
            number(
                s.activities()
                    .last()
                    .map(|a| days_between(a.at, s.moment())),
            )
        },
    },
];

/// The row of that name.
pub fn feature(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

/// Whole days from `from` to `to`, rounded down; negative when `to` is earlier.
pub fn days_between(from: Timestamp, to: Timestamp) -> f64 {
    (to.as_second() - from.as_second()).div_euclid(DAY_S) as f64
}

fn activities_since(snapshot: &Snapshot, days: i64, direction: Option<&str>) -> f64 {
    let since_s = snapshot.moment().as_second() - days * DAY_S;
    let recent = snapshot.activities().iter().rev();
    recent
        .take_while(|activity| activity.at.as_second() > since_s)
        .filter(|activity| direction.is_none() || activity.direction.as_deref() == direction)
        .count() as f64
}

fn number<'a>(value: Option<f64>) -> Reading<'a> {
    value.map_or(Reading::Missing, Reading::Number)
}

fn text(value: Option<&str>) -> Reading<'_> {
    match value.map(str::trim) {
        None | Some("") => Reading::Missing,
        Some(text) => Reading::Text(Cow::Borrowed(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Activity, Deal, DealId};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn read<'a>(deal: &'a Deal, name: &str, moment: &str) -> Reading<'a> {
        let exchange = Exchange::only("EUR".parse().unwrap());
        (feature(name).unwrap().read)(&Snapshot::at(deal, at(moment)), &exchange)
    }

    #[test]
    fn names_are_unique() {
        for (index, feature) in FEATURES.iter().enumerate() {
            assert!(FEATURES[..index].iter().all(|f| f.name != feature.name));
        }
    }

    #[test]
    fn days_are_whole_and_rounded_down() {
        let noon = at("2026-01-01T12:00:00Z");
        assert_eq!(days_between(noon, at("2026-01-02T11:59:59Z")), 0.0);
        assert_eq!(days_between(noon, at("2026-01-02T12:00:00Z")), 1.0);
        assert_eq!(days_between(noon, at("2026-01-01T11:00:00Z")), -1.0);
    }

    #[test]
    fn activities_are_counted_in_their_window() {
        let activity = |at_text: &str, direction: &str| Activity {
            at: at(at_text),
            kind: "email".into(),
            direction: Some(direction.into()),
            outcome: None,
        };
        let deal = Deal {
            created_at: Some(at("2026-01-01T00:00:00Z")),
            activities: vec![
                activity("2026-01-02T00:00:00Z", "outbound"),
                activity("2026-01-20T00:00:00Z", "inbound"),
                activity("2026-01-25T00:00:00Z", "outbound"),
                activity("2026-03-01T00:00:00Z", "inbound"),
            ],
            ..Deal::new(DealId::new("d").unwrap())
        };
        let moment = "2026-01-27T00:00:00Z";
        assert_eq!(read(&deal, "activities_7d", moment), Reading::Number(1.0));
        assert_eq!(read(&deal, "activities_30d", moment), Reading::Number(3.0));
        assert_eq!(read(&deal, "inbound_30d", moment), Reading::Number(1.0));
        assert_eq!(
            read(&deal, "days_since_activity", moment),
            Reading::Number(2.0)
        );
        assert_eq!(read(&deal, "age_days", moment), Reading::Number(26.0));
        assert_eq!(read(&deal, "stage", moment), Reading::Missing);
    }

    #[test]
    fn a_deal_without_a_past_is_in_its_first_stage() {
        let deal = Deal {
            stage: Some("demo".into()),
            created_at: Some(at("2026-01-01T00:00:00Z")),
            ..Deal::new(DealId::new("d").unwrap())
        };
        let moment = "2026-01-11T00:00:00Z";
        assert_eq!(read(&deal, "stages_entered", moment), Reading::Number(1.0));
        assert_eq!(read(&deal, "days_in_stage", moment), Reading::Number(10.0));
    }
}
