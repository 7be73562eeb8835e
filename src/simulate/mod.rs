//! A believable B2B pipeline whose true win probabilities are known.
//!
//! The same [`Settings`] give the same deals, byte for byte: everything is drawn from one ChaCha
//! stream per deal, and no clock or environment is read.
//!
//! # How outcomes come about
//!
//! 1. A deal is created with its attributes, its owner and an amount. They add up to log-odds
//!    (`world` lists the effects; the amount acts as a parabola of its logarithm, and a champion is
//!    worth more in a large company), and `p0 = 1 / (1 + exp(-log-odds))` is the probability of a win.
//! 2. The deal goes through the stages of its pipeline. From stage `s` it advances with probability
//!    `a_s = p0 ^ w_s`, or is lost there. As the weights `w_s` of a pipeline add up to 1, the product
//!    of all `a_s`, the probability of a win, is exactly `p0`.
//! 3. The time in stage `s` is Weibull, with survival `S(t) = exp(-(t / scale) ^ shape)`, and another
//!    Weibull for deals that will advance (`A`) than for deals that will be lost there (`L`).
//! 4. Activities of kind `k` are a Poisson process with rate `m A_k` in a stage from which the deal
//!    will advance and `m L_k` in the one where it will be lost; `m` is known from the deal's owner
//!    and priority.
//!
//! # The probability of a win at a later moment
//!
//! For a deal that has been in stage `s` for `t` days, with `n_k` activities of each kind in them,
//! Bayes gives the odds of advancing as prior odds times likelihood ratio:
//!
//! ```text
//! odds = a_s / (1 - a_s)  *  S_A(t) / S_L(t)  *  product over k of (A_k / L_k) ^ n_k * exp(-m (A_k - L_k) t)
//! P(win | observed) = odds / (1 + odds)  *  product of a_j over the stages j after s
//! ```
//!
//! Observed are the attributes (a blank as a blank), owner, amount and priority at creation, the
//! pipeline, the stages entered and when, and all activities. What happened in earlier stages is
//! observed too and drops out: that the deal advanced from them is known. Changes of the amount and
//! of the expected close are drawn without regard to the outcome; given the rest they tell nothing.
//! Not counted as unknown are the constants of the simulation, such as a rep's skill: the truth is
//! that of someone who knows the company perfectly, which no model trained on a sample can reach.
//!
//! Days are business days of the simulation's own calendar (`clock`), in which a quarter's end passes
//! faster and a weekend not at all. It is the same for won and lost deals, so seasons change dates
//! and leave the formulas alone.

mod clock;
mod course;
mod export;
mod extra;
mod opening;
mod world;

use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::domain::money::Rate;
use crate::domain::{AttributeValue, Deal, DealId, Exchange};
use crate::error::{Error, FieldError};

pub use export::{Files, export};
pub use opening::ATTRIBUTES;

pub const DEALS_MAX: u64 = 10_000_000;
pub const EXTRA_COLUMNS_MAX: u32 = 400;
/// Shortest and longest history, in days.
pub const HISTORY_DAYS: std::ops::RangeInclusive<u32> = 60..=3650;
pub const AS_OF: std::ops::RangeInclusive<Date> = date(1990, 1, 1)..=date(2199, 12, 31);

/// What to simulate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How many deals are created during the history.
    pub deals_count: u64,
    pub seed: u64,
    /// The history ends at the beginning of this day (UTC); what comes later is not in the deals.
    pub as_of: Date,
    /// Length of the history.
    pub history_days: u32,
    /// Further attributes, most of them noise.
    pub extra_columns: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deals_count: 1000,
            seed: 1,
            as_of: date(2026, 10, 1),
            history_days: 730,
            extra_columns: 0,
        }
    }
}

impl Settings {
    fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = Vec::new();
        if !(1..=DEALS_MAX).contains(&self.deals_count) {
            let reason = format!("must be 1 to {DEALS_MAX}, but is {}", self.deals_count);
            errors.push(FieldError::new("deals", reason));
        }
        if !HISTORY_DAYS.contains(&self.history_days) {
            let (min, max) = (HISTORY_DAYS.start(), HISTORY_DAYS.end());
            let reason = format!("must be {min} to {max}, but is {}", self.history_days);
            errors.push(FieldError::new("days", reason));
        }
        if self.extra_columns > EXTRA_COLUMNS_MAX {
            let reason = format!(
                "may be at most {EXTRA_COLUMNS_MAX}, but is {}",
                self.extra_columns
            );
            errors.push(FieldError::new("extra-columns", reason));
        }
        if !AS_OF.contains(&self.as_of) {
            let (min, max) = (AS_OF.start(), AS_OF.end());
            let reason = format!("must lie from {min} to {max}, but is {}", self.as_of);
            errors.push(FieldError::new("as-of", reason));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

/// A deal as a CRM holds it at the end of the history, and what no CRM knows.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedDeal {
    pub deal: Deal,
    pub truth: Truth,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// Probability of a win, given what was known when the deal was created.
    pub p_at_creation: f64,
    /// Probability of a win, given all that is observed up to the end of the history; `None` for
    /// closed deals.
    pub p_now: Option<f64>,
    /// How the deal ends, if need be after the history.
    pub wins: bool,
}

/// The deals of a pipeline, in order of creation, one at a time.
///
/// # Errors
/// When a setting is out of range.
pub fn pipeline(settings: &Settings) -> Result<impl Iterator<Item = SimulatedDeal>, Error> {
    let simulation = Simulation::new(settings)?;
    Ok((0..settings.deals_count).map(move |index| simulation.deal(index)))
}

/// The exchange rates of the simulated world, to EUR, the same on every day.
pub fn exchange() -> Exchange {
    let rates = world::EUR_PER_UNIT.map(|(currency, rate)| Rate {
        currency: currency.parse().expect("made of three capitals"),
        from: *AS_OF.start(),
        rate: rate.try_into().expect("a small positive number"),
    });
    let euro = "EUR".parse().expect("made of three capitals");
    Exchange::new(euro, rates).expect("positive rates, one a currency")
}

/// Moves a deal in time with everything that is dated about it, so that a sample need not look old.
pub fn move_by(deal: &mut Deal, days: i64) {
    let by = SignedDuration::from_hours(24 * days);
    let moved = |at: Timestamp| at.saturating_add(by).unwrap_or(at);
    let moved_text = |value: &mut AttributeValue| {
        let AttributeValue::Text(text) = value else {
            return;
        };
        if let Ok(at) = text.parse::<Timestamp>() {
            *text = moved(at).to_string();
        } else if let Ok(day) = text.parse::<Date>() {
            *text = day.saturating_add(days.days()).to_string();
        }
    };
    for at in [
        &mut deal.created_at,
        &mut deal.expected_close_at,
        &mut deal.closed_at,
    ] {
        *at = at.map(moved);
    }
    deal.attributes.values_mut().for_each(moved_text);
    for change in &mut deal.history {
        change.at = moved(change.at);
        moved_text(&mut change.value);
    }
    for activity in &mut deal.activities {
        activity.at = moved(activity.at);
    }
}

struct Simulation {
    settings: Settings,
    clock: clock::Clock,
    as_of: Timestamp,
    /// Business days in the history.
    history_length: f64,
    team: Vec<world::Rep>,
}

/// What a stream of random numbers is for. Streams do not meet, so that further columns, say, leave
/// everything else about a deal as it is.
#[derive(Clone, Copy)]
enum Stream {
    Team,
    Opening(u64),
    Extra(u64),
    Course(u64),
}

impl Simulation {
    fn new(settings: &Settings) -> Result<Self, Error> {
        settings.check()?;
        let first_day = settings
            .as_of
            .saturating_sub(i64::from(settings.history_days).days());
        let clock = clock::Clock::new(first_day, settings.history_days)
            .map_err(|error| Error::invalid("as-of", error.to_string()))?;
        let as_of = settings
            .as_of
            .to_zoned_datetime(TimeZone::UTC)
            .map_err(|error| Error::invalid("as-of", error.to_string()))?
            .timestamp();
        Ok(Self {
            settings: settings.clone(),
            as_of,
            history_length: clock.business_days(as_of),
            team: world::team(&mut stream(settings.seed, Stream::Team)),
            clock,
        })
    }

    fn deal(&self, index: u64) -> SimulatedDeal {
        let course = self.course(index);
        let id = DealId::new(&format!("D-{:06}", index + 1)).expect("short and printable");
        SimulatedDeal {
            deal: course.observe(id, &self.clock, self.as_of),
            truth: Truth {
                p_at_creation: course.p_at_creation(),
                p_now: course.win_probability(self.history_length),
                wins: course.wins(),
            },
        }
    }

    fn course(&self, index: u64) -> course::Course {
        let seed = self.settings.seed;
        let mut rng = stream(seed, Stream::Opening(index));
        let elapsed = self.elapsed_at_creation(index, rng.random());
        let created_at = elapsed * self.history_length;
        let day = self
            .clock
            .timestamp(created_at)
            .to_zoned_datetime(TimeZone::UTC)
            .date();
        let mut opening = opening::Opening::draw(&mut rng, &self.team, day, elapsed);
        let columns = self.settings.extra_columns;
        extra::draw(
            &mut stream(seed, Stream::Extra(index)),
            columns,
            &mut opening,
        );
        let mut rng = stream(seed, Stream::Course(index));
        course::Course::draw(&mut rng, &self.clock, opening, created_at)
    }

    /// Share of the history before the deal is created. The company grows: later parts of the
    /// history have more deals. Each deal has its own slot, so that they come in order.
    fn elapsed_at_creation(&self, index: u64, place_in_slot: f64) -> f64 {
        ((index as f64 + place_in_slot) / self.settings.deals_count as f64).powf(0.85)
    }
}

fn stream(seed: u64, stream: Stream) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(match stream {
        Stream::Team => 0,
        Stream::Opening(deal) => 4 * deal + 1,
        Stream::Extra(deal) => 4 * deal + 2,
        Stream::Course(deal) => 4 * deal + 3,
    });
    rng
}

#[cfg(test)]
mod tests;
