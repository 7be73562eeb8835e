//! The table of features: one row each, read from a snapshot and from nothing else.
//!
//! Attributes of a company's own are features too; they need no row here, since what they mean is
//! found by looking at their values (`columns`). Nor do the kinds of activities, which are a
//! company's own words ([`kinds`]), nor what is usual in its stages (`columns::usual`, by days as much is
//! done on them: [`rhythm`]). The documentation of features is this table: a test holds
//! `docs/features.md` to it.

pub mod kinds;
pub mod rhythm;

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use rust_decimal::prelude::ToPrimitive;

use crate::domain::{Activity, Exchange, Snapshot};

/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// Days that training rows must span for a season to be told from the years: each part of the year
/// twice.
const SEASONS_DAYS_MIN: i64 = 730;
/// Days that training rows must span for a trend: over less, a season passes for one.
const TREND_DAYS_MIN: i64 = 365;
/// Days of a mean calendar year.
const YEAR_DAYS: f64 = 365.2425;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

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
    pub needs: Needs,
    pub read: for<'a> fn(&Snapshot<'a>, &Exchange) -> Reading<'a>,
}

/// What training deals must have for a feature to be learned honestly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Their past: of a deal from a flat file the age at closing is an outcome, not a feature.
    Past,
    /// A past that goes through the seasons more than once: within one year, a month is
    /// nothing but a date.
    Seasons,
    /// A past of a year or more. What grows with the calendar is beyond the training rows in every
    /// new deal: the effect stays what it was at their end, and nothing is odd about that.
    Trend,
}

impl Needs {
    /// Whether rows at these moments will do.
    pub fn are_met(self, has_past: bool, moments: impl Iterator<Item = Timestamp> + Clone) -> bool {
        match self {
            Self::Nothing => true,
            Self::Past => has_past,
            Self::Seasons => has_past && spans(moments, SEASONS_DAYS_MIN),
            Self::Trend => has_past && spans(moments, TREND_DAYS_MIN),
        }
    }
}

fn spans(moments: impl Iterator<Item = Timestamp> + Clone, days: i64) -> bool {
    let ends = moments.clone().min().zip(moments.max());
    ends.is_some_and(|(first, last)| last.duration_since(first).as_hours() >= 24 * days)
}

/// Every built-in feature; the order is the order of columns.
pub static FEATURES: [Feature; 39] = [
    Feature {
        name: "amount",
        unit: "base currency",
        formula: "amount x rate of the day",
        missing: "no amount, or no rate for its currency",
        needs: Needs::Nothing,
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
        needs: Needs::Nothing,
        read: |s, _| text(s.pipeline()),
    },
    Feature {
        name: "owner",
        unit: "category",
        formula: "as given",
        missing: "no owner",
        needs: Needs::Nothing,
        read: |s, _| text(s.owner()),
    },
    Feature {
        name: "priority",
        unit: "category",
        formula: "as given",
        missing: "no flag",
        needs: Needs::Nothing,
        read: |s, _| text(s.priority()),
    },
    Feature {
        name: "stage",
        unit: "category",
        formula: "the stage at the moment",
        missing: "not known at the moment",
        needs: Needs::Past,
        read: |s, _| text(s.stage()),
    },
    Feature {
        name: "previous_stage",
        unit: "category",
        formula: "the stage before the present one",
        missing: "still in the first stage",
        needs: Needs::Past,
        read: |s, _| text(s.previous_stage()),
    },
    Feature {
        name: "age_days",
        unit: "days",
        formula: "whole days since creation",
        missing: "creation unknown",
        needs: Needs::Past,
        read: |s, _| number(s.created_at().map(|at| days_between(at, s.moment()))),
    },
    Feature {
        name: "days_in_stage",
        unit: "days",
        formula: "whole days since the stage was entered",
        missing: "stage unknown",
        needs: Needs::Past,
        read: |s, _| number(s.stage_entered_at().map(|at| days_between(at, s.moment()))),
    },
    Feature {
        name: "stages_entered",
        unit: "count",
        formula: "stages entered so far; 1 for a deal that is still in its first",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(stages_entered(s)),
    },
    Feature {
        name: "distinct_stages",
        unit: "count",
        formula: "different stages entered so far; 1 for a deal that is still in its first",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(stages_entered(s) - s.stages_reentered() as f64),
    },
    Feature {
        name: "stages_reentered",
        unit: "count",
        formula: "times that a stage was entered which the deal had left before",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(s.stages_reentered() as f64),
    },
    Feature {
        name: "days_per_stage",
        unit: "days",
        formula: "days since creation / stages entered",
        missing: "creation unknown",
        needs: Needs::Past,
        read: |s, _| {
            let age_days = |at| seconds_between(at, s.moment()) / DAY_S as f64;
            number(
                s.created_at()
                    .map(|at| age_days(at) / stages_entered(s).max(1.0)),
            )
        },
    },
    Feature {
        name: "days_to_expected_close",
        unit: "days",
        formula: "whole days to the expected close; negative when overdue",
        missing: "no expected close",
        needs: Needs::Past,
        read: |s, _| number(s.expected_close_at().map(|at| days_between(s.moment(), at))),
    },
    Feature {
        name: "days_overdue",
        unit: "days",
        formula: "whole days since the expected close; 0 when it is still to come",
        missing: "no expected close",
        needs: Needs::Past,
        read: |s, _| {
            let overdue = |at| days_between(at, s.moment()).max(0.0);
            number(s.expected_close_at().map(overdue))
        },
    },
    Feature {
        name: "close_pushes",
        unit: "count",
        formula: "times the expected close moved to a later time",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(s.close_pushes().len() as f64),
    },
    Feature {
        name: "close_push_days",
        unit: "days",
        formula: "days that the expected close moved to a later time, all pushes together",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| {
            let pushes = s.close_pushes();
            let days = pushes.iter().map(|push| push.as_secs_f64() / DAY_S as f64);
            Reading::Number(days.sum())
        },
    },
    Feature {
        name: "amount_changes",
        unit: "count",
        formula: "times the amount changed",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(s.amounts().len().saturating_sub(1) as f64),
    },
    Feature {
        name: "amount_ratio",
        unit: "ratio",
        formula: "amount / first amount; 1 if it never changed",
        missing: "no amount, or the first is 0",
        needs: Needs::Past,
        read: |s, _| {
            let amounts = s.amounts();
            let ends = amounts.first().zip(amounts.last());
            let ratio = ends.and_then(|(first, last)| last.checked_div(*first));
            number(ratio.and_then(|ratio| ratio.to_f64()))
        },
    },
    Feature {
        name: "owner_changes",
        unit: "count",
        formula: "times the owner changed",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(s.owner_changes() as f64),
    },
    Feature {
        name: "activities",
        unit: "count",
        formula: "activities so far",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(s.activities().len() as f64),
    },
    Feature {
        name: "activities_7d",
        unit: "count",
        formula: "activities in the last 7 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 7, None)),
    },
    Feature {
        name: "activities_30d",
        unit: "count",
        formula: "activities in the last 30 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 30, None)),
    },
    Feature {
        name: "activities_90d",
        unit: "count",
        formula: "activities in the last 90 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 90, None)),
    },
    Feature {
        name: "inbound_7d",
        unit: "count",
        formula: "inbound activities in the last 7 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 7, Some("inbound"))),
    },
    Feature {
        name: "inbound_30d",
        unit: "count",
        formula: "inbound activities in the last 30 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 30, Some("inbound"))),
    },
    Feature {
        name: "inbound_90d",
        unit: "count",
        formula: "inbound activities in the last 90 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 90, Some("inbound"))),
    },
    Feature {
        name: "outbound_7d",
        unit: "count",
        formula: "outbound activities in the last 7 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 7, Some("outbound"))),
    },
    Feature {
        name: "outbound_30d",
        unit: "count",
        formula: "outbound activities in the last 30 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 30, Some("outbound"))),
    },
    Feature {
        name: "outbound_90d",
        unit: "count",
        formula: "outbound activities in the last 90 days",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(recent(s, 90, Some("outbound"))),
    },
    Feature {
        name: "activities_in_stage",
        unit: "count",
        formula: "activities since the stage was entered",
        missing: "stage unknown, or when it was entered",
        needs: Needs::Past,
        read: |s, _| number(s.activities_in_stage().map(|a| a.len() as f64)),
    },
    Feature {
        name: "activities_per_30d",
        unit: "count per 30 days",
        formula: "30 x activities so far / (whole days since creation + 1)",
        missing: "creation unknown",
        needs: Needs::Past,
        read: |s, _| {
            number(s.created_at().map(|at| {
                30.0 * s.activities().len() as f64 / (days_between(at, s.moment()).max(0.0) + 1.0)
            }))
        },
    },
    Feature {
        name: "active_days",
        unit: "count",
        formula: "different days (UTC) with an activity so far",
        missing: "never",
        needs: Needs::Past,
        read: |s, _| Reading::Number(active_days(s.activities())),
    },
    Feature {
        name: "last_activity",
        unit: "category",
        formula: "kind of the last activity",
        missing: "no activity yet",
        needs: Needs::Past,
        read: |s, _| text(s.activities().last().map(|a| a.kind.as_str())),
    },
    Feature {
        name: "days_since_activity",
        unit: "days",
        formula: "whole days since the last activity",
        missing: "no activity yet",
        needs: Needs::Past,
        read: |s, _| days_since_last(s, None),
    },
    Feature {
        name: "days_since_inbound",
        unit: "days",
        formula: "whole days since the last inbound activity",
        missing: "no inbound activity yet",
        needs: Needs::Past,
        read: |s, _| days_since_last(s, Some("inbound")),
    },
    Feature {
        name: "days_since_outbound",
        unit: "days",
        formula: "whole days since the last outbound activity",
        missing: "no outbound activity yet",
        needs: Needs::Past,
        read: |s, _| days_since_last(s, Some("outbound")),
    },
    Feature {
        name: "month",
        unit: "category",
        formula: "month of the moment (UTC)",
        missing: "never",
        needs: Needs::Seasons,
        read: |s, _| {
            let month = TimeZone::UTC.to_datetime(s.moment()).month();
            let index = usize::from(month.unsigned_abs()).saturating_sub(1);
            text(MONTHS.get(index).copied())
        },
    },
    Feature {
        name: "days_to_quarter_end",
        unit: "days",
        formula: "days to the last day of the calendar quarter (UTC), 0 on that day",
        missing: "never",
        needs: Needs::Seasons,
        read: |s, _| number(days_to_quarter_end(s.moment())),
    },
    Feature {
        name: "created_year",
        unit: "years",
        formula: "year of the creation and the share of it that had passed, 2026.5 in July",
        missing: "creation unknown",
        needs: Needs::Trend,
        read: |s, _| {
            let since_1970 = |at: Timestamp| at.as_second() as f64 / DAY_S as f64 / YEAR_DAYS;
            number(s.created_at().map(|at| 1970.0 + since_1970(at)))
        },
    },
];

/// The row of that name.
pub fn feature(name: &str) -> Option<&'static Feature> {
    FEATURES.iter().find(|feature| feature.name == name)
}

/// Whether a column of that name is, or could be, a feature's.
pub fn is_name_of_feature(name: &str) -> bool {
    feature(name).is_some() || kinds::is_name_of_count(name)
}

/// Whole days from `from` to `to`, rounded down; negative when `to` is earlier.
pub fn days_between(from: Timestamp, to: Timestamp) -> f64 {
    (to.as_second() - from.as_second()).div_euclid(DAY_S) as f64
}

/// Days from 1970-01-01 to the day of a moment (UTC).
fn day_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(DAY_S)
}

fn seconds_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

fn stages_entered(snapshot: &Snapshot) -> f64 {
    let entered = snapshot.stages().count();
    entered.max(usize::from(snapshot.stage().is_some())) as f64
}

fn goes(activity: &Activity, direction: Option<&str>) -> bool {
    direction.is_none() || activity.direction.as_deref() == direction
}

/// Activities of the last days, by direction if one is given.
fn recent(snapshot: &Snapshot, days: i64, direction: Option<&str>) -> f64 {
    let since_s = snapshot.moment().as_second() - days * DAY_S;
    let recent = snapshot.activities().iter().rev();
    recent
        .take_while(|activity| activity.at.as_second() > since_s)
        .filter(|activity| goes(activity, direction))
        .count() as f64
}

fn days_since_last<'a>(snapshot: &Snapshot<'a>, direction: Option<&str>) -> Reading<'a> {
    let mut latest = snapshot.activities().iter().rev();
    let last = latest.find(|activity| goes(activity, direction));
    number(last.map(|activity| days_between(activity.at, snapshot.moment())))
}

/// Activities are in the order of time, so that those of one day stand together.
fn active_days(activities: &[Activity]) -> f64 {
    let of_one_day = activities.chunk_by(|a, b| day_of(a.at) == day_of(b.at));
    of_one_day.count() as f64
}

fn days_to_quarter_end(moment: Timestamp) -> Option<f64> {
    let today = TimeZone::UTC.to_datetime(moment).date();
    let last_month = (today.month() - 1) / 3 * 3 + 3;
    let end = Date::new(today.year(), last_month, 1).ok()?.last_of_month();
    Some(end.duration_since(today).as_hours() as f64 / 24.0)
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
mod tests;
