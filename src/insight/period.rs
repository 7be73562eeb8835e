//! Whole days, months and quarters, in UTC.

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The days of a period. Days begin at midnight UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
pub struct Period {
    #[schema(value_type = String, format = Date)]
    pub from: Date,
    /// The last day; it belongs to the period.
    #[schema(value_type = String, format = Date)]
    pub to: Date,
}

/// From a moment up to, and without, another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub begin: Timestamp,
    pub end: Timestamp,
}

/// How long a bar of a series lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    #[default]
    Month,
    Quarter,
}

impl Span {
    pub fn holds(&self, at: Timestamp) -> bool {
        self.begin <= at && at < self.end
    }
}

impl Period {
    /// First and last day that can be asked for.
    pub const FIRST: Date = date(1970, 1, 1);
    pub const LAST: Date = date(2200, 12, 31);

    /// The quarter of the calendar in which `day` lies.
    pub fn quarter(day: Date) -> Self {
        let month = (day.month() - 1) / 3 * 3 + 1;
        let from = date(day.year(), month, 1);
        Self {
            from,
            to: add_months(from, 2).last_of_month(),
        }
    }

    /// The month in which `now` lies and the eleven before it.
    pub fn last_twelve_months(now: Timestamp) -> Self {
        let today = day_of(now);
        Self {
            from: add_months(today.first_of_month(), -11),
            to: today.last_of_month(),
        }
    }

    /// The `count` quarters before this period's first day, newest first.
    pub fn quarters_before(day: Date, count: usize) -> Vec<Self> {
        let mut quarter = Self::quarter(day);
        let before = (0..count).map(|_| {
            quarter = Self::quarter(add_months(quarter.from, -1));
            quarter
        });
        before.collect()
    }

    pub fn span(&self) -> Span {
        Span {
            begin: midnight(self.from),
            end: midnight(self.to.saturating_add(1.day())),
        }
    }

    pub fn days(&self) -> i64 {
        days_from(self.from, self.to) + 1
    }

    /// The calendar's months or quarters, as far as they lie in the period, oldest first.
    pub fn steps(&self, step: Step) -> Vec<Self> {
        let mut steps = Vec::new();
        let mut from = self.from;
        while from <= self.to {
            let last = match step {
                Step::Month => from.last_of_month(),
                Step::Quarter => Self::quarter(from).to,
            };
            let to = last.min(self.to);
            steps.push(Self { from, to });
            from = to.saturating_add(1.day());
        }
        steps
    }

    /// What is asked of the period when each quarter is asked for `per_quarter`, in proportion to days.
    pub fn share_of_quarters(&self, per_quarter: f64) -> f64 {
        let steps = self.steps(Step::Quarter).into_iter();
        let shares = steps.map(|part| part.days() as f64 / Self::quarter(part.from).days() as f64);
        per_quarter * shares.sum::<f64>()
    }
}

/// The day, in UTC.
pub fn day_of(at: Timestamp) -> Date {
    TimeZone::UTC.to_datetime(at).date()
}

/// The beginning of a day, in UTC.
pub fn midnight(day: Date) -> Timestamp {
    let begin = TimeZone::UTC.to_timestamp(day.at(0, 0, 0, 0));
    begin.unwrap_or(Timestamp::MAX)
}

fn add_months(day: Date, months: i64) -> Date {
    day.saturating_add(months.months())
}

fn days_from(from: Date, to: Date) -> i64 {
    (midnight(to).as_second() - midnight(from).as_second()) / 86_400
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarters_are_those_of_the_calendar() {
        let quarter = Period::quarter(date(2026, 11, 23));
        assert_eq!(quarter.from, date(2026, 10, 1));
        assert_eq!((quarter.to, quarter.days()), (date(2026, 12, 31), 92));
        let before = Period::quarters_before(quarter.from, 4);
        let first_days: Vec<Date> = before.iter().map(|quarter| quarter.from).collect();
        assert_eq!(
            first_days,
            [
                date(2026, 7, 1),
                date(2026, 4, 1),
                date(2026, 1, 1),
                date(2025, 10, 1)
            ]
        );
        let span = quarter.span();
        assert!(span.holds(span.begin) && !span.holds(span.end));
        assert_eq!(span.end.to_string(), "2027-01-01T00:00:00Z");
    }

    #[test]
    fn a_period_falls_into_months_and_quarters() {
        let period = Period {
            from: date(2026, 1, 31),
            to: date(2026, 4, 1),
        };
        let months = period.steps(Step::Month);
        let days: Vec<i64> = months.iter().map(Period::days).collect();
        assert_eq!(days, [1, 28, 31, 1]);
        assert_eq!(period.steps(Step::Quarter).len(), 2);
        let year = Period::last_twelve_months("2026-11-23T09:00:00Z".parse().unwrap());
        assert_eq!(
            (year.from, year.to),
            (date(2025, 12, 1), date(2026, 11, 30))
        );
        assert_eq!(year.steps(Step::Month).len(), 12);
    }

    #[test]
    fn targets_are_in_proportion_to_days() {
        let quarter = Period::quarter(date(2026, 11, 23));
        assert_eq!(quarter.share_of_quarters(900.0), 900.0);
        let half = Period {
            from: quarter.from,
            to: date(2026, 11, 15),
        };
        assert_eq!(half.share_of_quarters(920.0), 460.0);
        let year = Period {
            from: date(2026, 1, 1),
            to: date(2026, 12, 31),
        };
        assert!((year.share_of_quarters(900.0) - 3600.0).abs() < 1e-9);
    }
}
