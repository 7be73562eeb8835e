//! Business time: deals are made on weekdays from 8 to 18 h UTC, more so before a quarter ends, less
//! so in summer.
//!
//! Everything that happens is drawn in business time and only then dated. Since the clock is the
//! same for deals that will be won and deals that will be lost, seasons leave the closed forms of
//! [`super::course`] untouched.

use jiff::civil::{Date, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

const OPENS_AT_HOUR: i64 = 8;
const OPEN_SECONDS: f64 = 10.0 * 3600.0;
const DAY_SECONDS: i64 = 24 * 3600;

/// Days after the last day of the history that can still be dated. Later moments fall on the last
/// one, which no export ever shows.
const MARGIN_DAYS: i64 = 4000;

/// Translates between business days since the start of the history and times of the calendar.
#[derive(Debug, Clone)]
pub struct Clock {
    starts_at: Timestamp,
    /// Business days passed at the beginning of each calendar day.
    passed: Vec<f64>,
}

impl Clock {
    /// # Errors
    /// When the calendar does not reach that far.
    pub fn new(first_day: Date, history_days: u32) -> Result<Self, jiff::Error> {
        let starts_at = first_day.to_zoned_datetime(TimeZone::UTC)?.timestamp();
        let days = i64::from(history_days) + MARGIN_DAYS;
        let mut passed = vec![0.0];
        let mut total = 0.0;
        let mut day = first_day;
        for _ in 0..days {
            total += speed(day);
            passed.push(total);
            day = day.checked_add(1.day())?;
        }
        Ok(Self { starts_at, passed })
    }

    /// Business days from the start of the history to `at`; 0 before it.
    pub fn business_days(&self, at: Timestamp) -> f64 {
        let seconds = (at.as_second() - self.starts_at.as_second()).max(0);
        let day = usize::try_from(seconds / DAY_SECONDS).unwrap_or(usize::MAX);
        let Some([begin, end]) = self.passed.get(day..day.saturating_add(2)) else {
            return self.passed[self.passed.len() - 1];
        };
        let second = seconds % DAY_SECONDS - OPENS_AT_HOUR * 3600;
        begin + (end - begin) * (second as f64 / OPEN_SECONDS).clamp(0.0, 1.0)
    }

    /// The second in which `business_days` have passed, always in opening hours.
    pub fn timestamp(&self, business_days: f64) -> Timestamp {
        let day = self
            .passed
            .partition_point(|passed| *passed <= business_days)
            .clamp(1, self.passed.len() - 1)
            - 1;
        let (begin, end) = (self.passed[day], self.passed[day + 1]);
        let share = if end > begin {
            ((business_days - begin) / (end - begin)).clamp(0.0, 1.0)
        } else {
            1.0
        };
        let second = (share * OPEN_SECONDS) as i64;
        let since_start = day as i64 * DAY_SECONDS + OPENS_AT_HOUR * 3600 + second;
        Timestamp::from_second(self.starts_at.as_second() + since_start)
            .expect("`new` has walked the calendar to its end")
    }
}

/// Business days in a calendar day.
fn speed(day: Date) -> f64 {
    if matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday) {
        return 0.0;
    }
    match (day.month(), day.day()) {
        (12, 24..) | (1, 1) => 0.25,
        (3 | 6 | 9 | 12, 15..) => 1.4,
        (7, 15..) | (8, _) => 0.6,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn time_stands_still_at_night_and_on_weekends() {
        let clock = Clock::new(date(2026, 1, 5), 30).unwrap();
        let days = |at: &str| clock.business_days(at.parse().unwrap());
        assert_eq!(days("2026-01-05T08:00:00Z"), 0.0);
        assert_eq!(days("2026-01-05T13:00:00Z"), 0.5);
        assert_eq!(days("2026-01-05T18:00:00Z"), days("2026-01-06T08:00:00Z"));
        assert_eq!(days("2026-01-09T18:00:00Z"), days("2026-01-12T08:00:00Z"));
        assert_eq!(days("2025-01-01T00:00:00Z"), 0.0, "before the start");
    }

    #[test]
    fn a_quarter_ends_faster_than_august_passes() {
        let clock = Clock::new(date(2026, 1, 1), 365).unwrap();
        let days = |at: &str| clock.business_days(at.parse().unwrap());
        let week_of_june = days("2026-06-27T00:00:00Z") - days("2026-06-20T00:00:00Z");
        let week_of_august = days("2026-08-15T00:00:00Z") - days("2026-08-08T00:00:00Z");
        assert!((week_of_june - 7.0).abs() < 1e-9);
        assert!((week_of_august - 3.0).abs() < 1e-9);
    }

    #[test]
    fn both_directions_agree_to_the_second() {
        let clock = Clock::new(date(2026, 1, 1), 365).unwrap();
        for tenth in 0..2000 {
            let business_days = f64::from(tenth) / 10.0;
            let at = clock.timestamp(business_days);
            let back = clock.business_days(at);
            assert!(back <= business_days + 1e-9);
            assert!(business_days - back < 1.5 / OPEN_SECONDS * 1.4, "{at}");
        }
        let end_of_time = clock.timestamp(1e9);
        assert!(end_of_time > clock.timestamp(2000.0));
    }
}
