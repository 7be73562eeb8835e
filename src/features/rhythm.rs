//! How much gets done on a day: next to nothing on a Sunday, little in August, a lot before a quarter ends.
//! A deal ages by that, not by the calendar. It is found by looking at when people worked on the training
//! deals, never at how these ended; the model keeps it.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::{DAY_S, day_of};
use crate::domain::Deal;

/// Activities and stages entered that it takes to tell days apart.
const EVENTS_MIN: usize = 500;
/// Days that count at most: ten years, before which a date is rather wrong than old.
pub const DAYS_MAX: i64 = 3652;
/// Ages in days at which a new bracket begins: of a new deal more is done in a day than of an old one, and
/// a growing company has more new ones.
const AGE_BRACKETS: [i64; 7] = [1, 2, 4, 8, 16, 32, 64];
/// So many usual events stand beside those of a week or a weekday: one that was seen little is as any other.
const PRIOR_EVENTS: f64 = 100.0;
/// Rounds between weekdays and weeks; they hardly depend on each other.
const ROUNDS: usize = 4;
/// 2000-01-01 in days since 1970, and the days of a [`Calendar`].
const FIRST_DAY: i64 = 10_957;
const CALENDAR_DAYS: usize = 36_525;
/// Seven days each from the first of January on, the last one longer.
const WEEKS: usize = 52;

/// What a day counts, in usual days: the product of its weekday's and its week's factor, 1 on average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rhythm {
    /// From Monday on.
    weekdays: Vec<f64>,
    /// By the day of the year.
    weeks: Vec<f64>,
}

impl Rhythm {
    /// From the activities and the stages of deals that have ended. `None` where they are too few to tell.
    pub fn of<'a>(deals: impl Iterator<Item = &'a Deal> + Clone) -> Option<Self> {
        let lives = deals.filter_map(Life::of);
        let first_day = lives.clone().map(|life| life.created_on).min()?;
        let last_day = lives.clone().map(|life| life.last_day()).max()?;
        let rates = usual_rates(lives.clone())?;
        let days = usize::try_from(last_day - first_day + 1).ok()?;
        let mut done = vec![0.0; days];
        let mut expected = vec![0.0; days];
        for life in lives {
            for day in life.event_days() {
                done[(day - first_day) as usize] += 1.0;
            }
            for age in 0..life.days {
                expected[(life.created_on + age - first_day) as usize] += rates[bracket(age)];
            }
        }
        let mut rhythm = Self {
            weekdays: vec![1.0; 7],
            weeks: vec![1.0; WEEKS],
        };
        let places: Vec<Place> = walk(first_day).take(days).collect();
        for _ in 0..ROUNDS {
            rhythm.weekdays = factors(&places, &done, &expected, 7, |place| {
                (place.weekday, rhythm.weeks[place.week])
            });
            rhythm.weeks = factors(&places, &done, &expected, WEEKS, |place| {
                (place.week, rhythm.weekdays[place.weekday])
            });
        }
        Some(rhythm)
    }

    /// The most that a day counts.
    pub fn day_max(&self) -> f64 {
        let largest = |factors: &[f64]| factors.iter().copied().fold(0.0, f64::max);
        largest(&self.weekdays) * largest(&self.weeks)
    }

    /// Whether it has a factor for every day.
    pub fn is_sound(&self) -> bool {
        let mut factors = self.weekdays.iter().chain(&self.weeks);
        (self.weekdays.len(), self.weeks.len()) == (7, WEEKS)
            && factors.all(|factor| factor.is_finite() && *factor >= 0.0)
    }
}

/// The days of a century, by a rhythm or without one: adding them up for each score would take longer than
/// the score.
#[derive(Debug)]
pub struct Calendar {
    /// Usual days passed at the beginning of each day from [`FIRST_DAY`] on; empty without a rhythm. Before
    /// and after it all days count the same.
    passed: Vec<f64>,
}

impl Calendar {
    pub fn of(rhythm: Option<&Rhythm>) -> Self {
        let Some(rhythm) = rhythm else {
            return Self { passed: Vec::new() };
        };
        let days = walk(FIRST_DAY).take(CALENDAR_DAYS);
        let mut sum = 0.0;
        let passed = days.map(|place| {
            let before = sum;
            sum += rhythm.weekdays[place.weekday] * rhythm.weeks[place.week];
            before
        });
        Self {
            passed: passed.collect(),
        }
    }

    /// Usual days in the whole days from a moment to a later one, counted from the day after the first; of
    /// no more than [`DAYS_MAX`].
    pub fn days_between(&self, from: Timestamp, to: Timestamp) -> f64 {
        let whole_days = (to.as_second() - from.as_second()) / DAY_S;
        let first = day_of(from) + 1;
        self.passed(first + whole_days.clamp(0, DAYS_MAX)) - self.passed(first)
    }

    fn passed(&self, day: i64) -> f64 {
        let place = day - FIRST_DAY;
        match (usize::try_from(place), self.passed.last()) {
            (Ok(within), Some(last)) => match self.passed.get(within) {
                Some(passed) => *passed,
                None => last + (within + 1 - self.passed.len()) as f64,
            },
            _ => place as f64,
        }
    }
}

/// Events of each weekday or week over those expected of it, given what the other of the two explains.
fn factors(
    places: &[Place],
    done: &[f64],
    expected: &[f64],
    count: usize,
    of: impl Fn(&Place) -> (usize, f64),
) -> Vec<f64> {
    let mut sums = vec![(PRIOR_EVENTS, PRIOR_EVENTS); count];
    for ((place, done), expected) in places.iter().zip(done).zip(expected) {
        let (index, explained) = of(place);
        sums[index].0 += done;
        sums[index].1 += expected * explained;
    }
    sums.into_iter()
        .map(|(done, expected)| done / expected)
        .collect()
}

/// The life of a deal in days since 1970 (UTC).
#[derive(Clone)]
struct Life<'a> {
    deal: &'a Deal,
    created_on: i64,
    days: i64,
}

impl<'a> Life<'a> {
    fn of(deal: &'a Deal) -> Option<Self> {
        let created_on = day_of(deal.created_at?);
        let days = day_of(deal.closed_at?) - created_on + 1;
        (days > 0).then(|| Self {
            deal,
            created_on,
            days: days.min(DAYS_MAX),
        })
    }

    fn last_day(&self) -> i64 {
        self.created_on + self.days - 1
    }

    /// The days of its activities and stages, as far as they are in its life. What happens in the moment of
    /// its end is its end. Other changes are left out: many at once are nobody's work.
    fn event_days(&self) -> impl Iterator<Item = i64> {
        let activities = self.deal.activities.iter().map(|activity| activity.at);
        let changes = self
            .deal
            .history
            .iter()
            .filter(|change| change.field == "stage");
        let changes = changes.map(|change| change.at);
        let before_end = |at: &Timestamp| Some(*at) < self.deal.closed_at;
        let days = activities.chain(changes).filter(before_end).map(day_of);
        let life = self.created_on..=self.last_day();
        days.filter(move |day| life.contains(day))
    }
}

/// Events a day by the age of a deal. `None` where there are too few.
fn usual_rates<'a>(lives: impl Iterator<Item = Life<'a>>) -> Option<Vec<f64>> {
    let mut sums = vec![(0.0, 0.0); AGE_BRACKETS.len() + 1];
    let mut events = 0;
    for life in lives {
        for age in 0..life.days {
            sums[bracket(age)].1 += 1.0;
        }
        for day in life.event_days() {
            sums[bracket(day - life.created_on)].0 += 1.0;
            events += 1;
        }
    }
    let rate = |(done, days): (f64, f64)| if days > 0.0 { done / days } else { 0.0 };
    (events >= EVENTS_MIN).then(|| sums.into_iter().map(rate).collect())
}

fn bracket(age: i64) -> usize {
    AGE_BRACKETS.partition_point(|begin| *begin <= age)
}

/// Where a day stands in its week and in its year.
struct Place {
    weekday: usize,
    week: usize,
}

/// The days from a day since 1970 on.
fn walk(day: i64) -> impl Iterator<Item = Place> {
    let at = Timestamp::from_second(day.saturating_mul(DAY_S)).unwrap_or(Timestamp::MAX);
    let mut date: Date = TimeZone::UTC.to_datetime(at).date();
    std::iter::from_fn(move || {
        let place = Place {
            weekday: date.weekday().to_monday_zero_offset() as usize,
            week: ((date.day_of_year() - 1) as usize / 7).min(WEEKS - 1),
        };
        date = date.tomorrow().ok()?;
        Some(place)
    })
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::domain::{Activity, DealId};

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Deals of a year, two a day, open for 50 days. One activity is done about each on weekdays; in
    /// August on Mondays only.
    fn year() -> Vec<Deal> {
        let deal = |index: i64| {
            let created_at = at("2025-01-01T00:00:00Z") + SignedDuration::from_hours(12 * index);
            let day = |day: i64| created_at + SignedDuration::from_hours(24 * day);
            let is_worked_on = |at: &Timestamp| {
                let date = TimeZone::UTC.to_datetime(*at).date();
                let weekday = date.weekday().to_monday_zero_offset();
                weekday < if date.month() == 8 { 1 } else { 5 }
            };
            let activity = |at| Activity {
                at,
                kind: "call".into(),
                direction: None,
                outcome: None,
            };
            Deal {
                created_at: Some(created_at),
                closed_at: Some(day(50)),
                activities: (0..50)
                    .map(day)
                    .filter(is_worked_on)
                    .map(activity)
                    .collect(),
                ..Deal::new(DealId::new("d").unwrap())
            }
        };
        (0..630).map(deal).collect()
    }

    #[test]
    fn a_deal_ages_while_people_work() {
        let rhythm = Rhythm::of(year().iter()).unwrap();
        let calendar = Calendar::of(Some(&rhythm));
        let days = |from: &str, to: &str| calendar.days_between(at(from), at(to));
        let week_of_march = days("2026-03-02T00:00:00Z", "2026-03-09T00:00:00Z");
        let week_of_august = days("2026-08-10T00:00:00Z", "2026-08-17T00:00:00Z");
        assert!((week_of_march - 7.0).abs() < 1.0, "{week_of_march}");
        let share = week_of_august / week_of_march;
        // A fifth; with what is usual standing beside it, somewhat more.
        assert!((0.2..0.4).contains(&share), "{share}");
        let weekend = days("2026-03-06T17:00:00Z", "2026-03-09T09:00:00Z");
        assert!(weekend < 0.1, "{weekend}");
        assert_eq!(days("2026-03-09T09:00:00Z", "2026-03-10T08:59:59Z"), 0.0);
        assert_eq!(days("2026-03-09T09:00:00Z", "2026-03-01T09:00:00Z"), 0.0);
        let ages = days("-009000-01-01T00:00:00Z", "2026-03-01T09:00:00Z");
        assert_eq!(ages, DAYS_MAX as f64);
        // Around the century that is known, days are all alike.
        assert_eq!(days("1999-12-20T00:00:00Z", "1999-12-29T00:00:00Z"), 9.0);
        assert_eq!(days("2150-01-01T00:00:00Z", "2150-01-10T00:00:00Z"), 9.0);
        let into = days("1999-12-30T00:00:00Z", "2000-01-03T00:00:00Z");
        assert!((0.0..=4.0).contains(&(into - 1.0)), "{into}");
        let plain = Calendar::of(None);
        let month = plain.days_between(at("2026-03-01T12:00:00Z"), at("2026-03-31T13:00:00Z"));
        assert_eq!(month, 30.0);
    }

    /// A growing company has more new deals, and more is done about these: that makes no late week busier.
    #[test]
    fn many_new_deals_are_no_season() {
        let deals: Vec<Deal> = (0..4000)
            .map(|index: i64| {
                // The later, the closer together.
                let share = (index as f64 / 4000.0).sqrt();
                let created_at = at("2025-01-01T00:00:00Z")
                    + SignedDuration::from_hours(24 * (300.0 * share) as i64);
                let day = |day: i64| created_at + SignedDuration::from_hours(24 * day);
                let activity = |days| Activity {
                    at: day(days),
                    kind: "call".into(),
                    direction: None,
                    outcome: None,
                };
                Deal {
                    created_at: Some(created_at),
                    closed_at: Some(day(40)),
                    activities: [0, 0, 0, 1, 2 + index % 38].map(activity).into(),
                    ..Deal::new(DealId::new("d").unwrap())
                }
            })
            .collect();
        let rhythm = Rhythm::of(deals.iter()).unwrap();
        for factor in rhythm.weekdays.iter().chain(&rhythm.weeks) {
            assert!((factor - 1.0).abs() < 0.25, "{rhythm:?}");
        }
    }

    #[test]
    fn few_activities_tell_no_rhythm() {
        let year = year();
        assert_eq!(Rhythm::of(year[..10].iter()), None);
        let mut rhythm = Rhythm::of(year.iter()).unwrap();
        assert!(rhythm.is_sound());
        rhythm.weeks[3] = f64::NAN;
        assert!(!rhythm.is_sound());
        rhythm.weeks.pop();
        assert!(!rhythm.is_sound());
    }
}
