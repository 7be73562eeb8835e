//! The course of a deal from creation to its end, and the probability of a win at any moment of it.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use rand::{Rng, RngExt};
use rand_distr::{Distribution, Exp1};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::clock::Clock;
use super::opening::{Opening, decimal, round_amount};
use super::world::{ADVANCING_SHAPE, CHANNELS, LOST_SHAPE, Stage, normal};
use crate::domain::probability::logistic;
use crate::domain::{Activity, AttributeValue, Deal, DealId, FieldChange, Outcome};

/// All that ever happens to a deal. Times are in business days of the [`Clock`].
pub struct Course {
    opening: Opening,
    created_at: f64,
    p_at_creation: f64,
    /// The stages that the deal enters; it advances from all but the last, and from that too if won.
    visits: Vec<Visit>,
    wins: bool,
    amount_revision: Option<(f64, Decimal)>,
    expected_closes: Vec<(f64, Date)>,
}

struct Visit {
    stage: &'static Stage,
    advance_probability: f64,
    entered_at: f64,
    left_at: f64,
    /// Times, in order, with positions in [`CHANNELS`].
    activities: Vec<(f64, usize)>,
}

impl Course {
    pub fn draw(rng: &mut impl Rng, clock: &Clock, opening: Opening, created_at: f64) -> Self {
        let p_at_creation = opening.win_probability();
        let mut visits = Vec::with_capacity(opening.pipeline.stages.len());
        let mut now = created_at;
        let mut wins = true;
        for stage in opening.pipeline.stages {
            let advance_probability = p_at_creation.powf(stage.weight);
            wins = rng.random::<f64>() < advance_probability;
            let days = Weibull::of(stage, opening.pace, wins).draw(rng);
            visits.push(Visit {
                stage,
                advance_probability,
                entered_at: now,
                left_at: now + days,
                activities: draw_activities(rng, now, now + days, opening.effort, wins),
            });
            now += days;
            if !wins {
                break;
            }
        }
        let mut course = Self {
            opening,
            created_at,
            p_at_creation,
            visits,
            wins,
            amount_revision: None,
            expected_closes: Vec::new(),
        };
        course.amount_revision = course.draw_amount_revision(rng);
        course.expected_closes = course.draw_expected_closes(rng, clock);
        course
    }

    pub fn wins(&self) -> bool {
        self.wins
    }

    pub fn p_at_creation(&self) -> f64 {
        self.p_at_creation
    }

    fn closed_at(&self) -> f64 {
        self.visits.last().map_or(self.created_at, |v| v.left_at)
    }

    /// Many offers differ from the first guess. By how much says nothing about the outcome.
    fn draw_amount_revision(&self, rng: &mut impl Rng) -> Option<(f64, Decimal)> {
        let revised = rng.random_bool(0.4);
        let factor = (0.05 + 0.25 * normal(rng)).exp();
        let visit = self.visits.iter().find(|v| v.stage.name == "Proposal")?;
        let amount = self.opening.amount?;
        let offered = decimal(round_amount(amount.to_f64()? * factor));
        (revised && offered != amount).then_some((visit.entered_at, offered))
    }

    /// The first guess of the closing day, and its pushes: when the day has passed and the deal is
    /// still open, the rep moves it, or stops looking after it.
    fn draw_expected_closes(&self, rng: &mut impl Rng, clock: &Clock) -> Vec<(f64, Date)> {
        let usual_days: f64 = self
            .opening
            .pipeline
            .stages
            .iter()
            .map(|stage| stage.advancing_days * self.opening.pace)
            .sum();
        let planned_days = usual_days * rng.random_range(0.4..1.1);
        let mut day = day_of(clock.timestamp(self.created_at + planned_days));
        if rng.random_bool(0.45) {
            day = day.last_of_month();
        }
        let mut closes = vec![(self.created_at, day)];
        loop {
            let passed_at = clock.business_days(midnight_after(day));
            let pushed_at = passed_at + 2.0 * rng.random::<f64>();
            if pushed_at >= self.closed_at() || rng.random_bool(0.2) {
                return closes;
            }
            let today = day_of(clock.timestamp(pushed_at));
            day = today.saturating_add(rng.random_range(14..60).days());
            closes.push((pushed_at, day));
        }
    }

    /// Probability that the deal is won, given all that is observed up to `at` (see the formula in
    /// [the module](super)); `None` unless the deal is open at that time.
    pub fn win_probability(&self, at: f64) -> Option<f64> {
        let here = self
            .visits
            .iter()
            .position(|visit| visit.entered_at <= at && at < visit.left_at)?;
        let later: f64 = self.opening.pipeline.stages[here + 1..]
            .iter()
            .map(|stage| self.p_at_creation.powf(stage.weight))
            .product();
        Some(self.advance_probability(&self.visits[here], at) * later)
    }

    /// Posterior probability that the deal advances from the stage in which it is at `at`.
    fn advance_probability(&self, visit: &Visit, at: f64) -> f64 {
        let days = at - visit.entered_at;
        let pace = self.opening.pace;
        let advancing = Weibull::of(visit.stage, pace, true);
        let lost = Weibull::of(visit.stage, pace, false);
        let prior = visit.advance_probability.ln() - (-visit.advance_probability).ln_1p();
        let survival = advancing.ln_survival(days) - lost.ln_survival(days);
        let seen: f64 = visit
            .activities
            .iter()
            .take_while(|(time, _)| *time <= at)
            .map(|(_, channel)| {
                (CHANNELS[*channel].advancing_rate / CHANNELS[*channel].lost_rate).ln()
            })
            .sum();
        let rates: f64 = CHANNELS
            .iter()
            .map(|channel| channel.advancing_rate - channel.lost_rate)
            .sum();
        let silence = -self.opening.effort * rates * days;
        logistic(prior + survival + seen + silence)
    }

    /// The deal as a CRM holds it at `as_of`: nothing later is in it.
    pub fn observe(&self, id: DealId, clock: &Clock, as_of: Timestamp) -> Deal {
        let closed_at = Some(clock.timestamp(self.closed_at())).filter(|at| *at <= as_of);
        let outcome = match (closed_at, self.wins) {
            (None, _) => Outcome::Open,
            (Some(_), true) => Outcome::Won,
            (Some(_), false) => Outcome::Lost,
        };
        let stages = self.stage_history(clock, as_of, outcome);
        let closes = self.expected_close_history(clock, as_of);
        let amounts = self.amount_history(clock, as_of);
        let opening = &self.opening;
        let mut deal = Deal {
            name: Some(opening.name.clone()),
            pipeline: Some(opening.pipeline.name.to_owned()),
            stage: last_text(&stages),
            owner: Some(opening.owner.to_owned()),
            amount: match (&self.amount_revision, amounts.is_empty()) {
                (Some((_, revised)), false) => Some(*revised),
                _ => opening.amount,
            },
            currency: Some(opening.currency),
            created_at: Some(clock.timestamp(self.created_at)),
            expected_close_at: last_text(&closes).and_then(|at| at.parse().ok()),
            priority: opening.priority.map(str::to_owned),
            attributes: opening.attributes.clone(),
            history: [stages, closes, amounts].concat(),
            activities: self.activities(clock, as_of),
            outcome,
            closed_at,
            outcomes: Vec::new(),
            ..Deal::new(id)
        };
        deal.sort();
        deal
    }

    fn stage_history(&self, clock: &Clock, as_of: Timestamp, outcome: Outcome) -> Vec<FieldChange> {
        let last = match outcome {
            Outcome::Open => None,
            Outcome::Won => Some("Closed Won"),
            Outcome::Lost => Some("Closed Lost"),
        };
        self.visits
            .iter()
            .map(|visit| (visit.entered_at, visit.stage.name))
            .chain(last.map(|stage| (self.closed_at(), stage)))
            .map(|(at, stage)| change(clock.timestamp(at), "stage", stage.to_owned()))
            .take_while(|change| change.at <= as_of)
            .collect()
    }

    fn expected_close_history(&self, clock: &Clock, as_of: Timestamp) -> Vec<FieldChange> {
        self.expected_closes
            .iter()
            .map(|(at, day)| {
                let midnight = format!("{day}T00:00:00Z");
                change(clock.timestamp(*at), "expected_close_at", midnight)
            })
            .take_while(|change| change.at <= as_of)
            .collect()
    }

    /// Both amounts if the revision is known by `as_of`, else nothing.
    fn amount_history(&self, clock: &Clock, as_of: Timestamp) -> Vec<FieldChange> {
        let revision = self.amount_revision.zip(self.opening.amount);
        revision
            .map(|((at, revised), first)| (clock.timestamp(at), revised, first))
            .filter(|(at, ..)| *at <= as_of)
            .map(|(at, revised, first)| {
                let created_at = clock.timestamp(self.created_at);
                vec![
                    change(created_at, "amount", first.to_string()),
                    change(at, "amount", revised.to_string()),
                ]
            })
            .unwrap_or_default()
    }

    fn activities(&self, clock: &Clock, as_of: Timestamp) -> Vec<Activity> {
        self.visits
            .iter()
            .flat_map(|visit| &visit.activities)
            .map(|(at, channel)| (clock.timestamp(*at), &CHANNELS[*channel]))
            .take_while(|(at, _)| *at <= as_of)
            .map(|(at, channel)| Activity {
                at,
                kind: channel.kind.to_owned(),
                direction: channel.direction.map(str::to_owned),
                outcome: channel.outcome.map(str::to_owned),
            })
            .collect()
    }
}

/// Time in a stage: survival `exp(-(t / scale) ^ shape)`, in business days.
struct Weibull {
    shape: f64,
    scale: f64,
}

impl Weibull {
    fn of(stage: &Stage, pace: f64, advances: bool) -> Self {
        if advances {
            Self {
                shape: ADVANCING_SHAPE,
                scale: stage.advancing_days * pace,
            }
        } else {
            Self {
                shape: LOST_SHAPE,
                scale: stage.lost_days * pace,
            }
        }
    }

    fn draw(&self, rng: &mut impl Rng) -> f64 {
        let exponential: f64 = Exp1.sample(rng);
        self.scale * exponential.powf(1.0 / self.shape)
    }

    fn ln_survival(&self, days: f64) -> f64 {
        -(days / self.scale).powf(self.shape)
    }
}

/// Independent Poisson processes, one a channel, drawn as one process whose points are then dealt out.
fn draw_activities(
    rng: &mut impl Rng,
    from: f64,
    to: f64,
    effort: f64,
    advances: bool,
) -> Vec<(f64, usize)> {
    let rate = |channel: usize| {
        if advances {
            CHANNELS[channel].advancing_rate
        } else {
            CHANNELS[channel].lost_rate
        }
    };
    let channels: [usize; CHANNELS.len()] = std::array::from_fn(|channel| channel);
    let total: f64 = channels.iter().map(|channel| rate(*channel)).sum();
    let mut activities = Vec::new();
    let mut now = from;
    loop {
        let gap: f64 = Exp1.sample(rng);
        now += gap / (total * effort);
        if now >= to {
            return activities;
        }
        let channel = super::world::draw(rng, &channels, |channel| rate(*channel));
        activities.push((now, *channel));
    }
}

fn change(at: Timestamp, field: &str, value: String) -> FieldChange {
    FieldChange {
        at,
        field: field.to_owned(),
        value: AttributeValue::Text(value),
    }
}

fn last_text(changes: &[FieldChange]) -> Option<String> {
    match &changes.last()?.value {
        AttributeValue::Text(text) => Some(text.clone()),
        _ => None,
    }
}

fn day_of(at: Timestamp) -> Date {
    at.to_zoned_datetime(TimeZone::UTC).date()
}

fn midnight_after(day: Date) -> Timestamp {
    let next = day.saturating_add(1.day());
    next.to_zoned_datetime(TimeZone::UTC)
        .map_or(Timestamp::MAX, |midnight| midnight.timestamp())
}
