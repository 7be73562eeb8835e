//! What will be won in a period.

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::QUARTERS;
use super::outlook::{Outlook, When, typical_spread};
use super::period::{Period, day_of};
use super::simulation::{Draws, Effort, draw};
use super::stats::quantile;
use super::survey::{Note, Scope, Survey};
use super::timing::Bins;

const EFFORT: Effort = Effort {
    draws: 4000,
    single_deals: 256,
};
/// Of forecasts of past quarters.
const EFFORT_PAST: Effort = Effort {
    draws: 1000,
    single_deals: 128,
};
/// Won deals in a year below which the forecast is said to stand on little.
const FEW_WON: usize = 10;

/// The distribution of what is won in a period, in the base currency.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Forecast {
    pub period: Period,
    pub filters: Scope,
    /// What the period should bring; null without a target.
    pub target: Option<f64>,
    /// Chance to win at least the target, 0 to 1.
    pub chance: Option<f64>,
    /// What the period brings in all; null where the past does not say enough.
    pub total: Option<Range>,
    /// Already won in the period.
    pub won_deals: usize,
    pub won_value: f64,
    /// Of the deals that are open now, those that will be won in the period.
    pub open: Option<Range>,
    /// Of deals that are not created yet.
    pub not_created: Option<Range>,
    pub basis: Basis,
    /// The sum since the beginning of the period, at the end of each week.
    pub weeks: Vec<Week>,
    /// The quarters before the present one, as they would have been forecast on their first day by the
    /// present model; newest first. With hindsight: see the notes.
    pub past: Vec<PastForecast>,
    /// In how many of them the won value lay between P10 and P90: 8 of 10 would be right.
    pub past_within: usize,
    /// What keeps figures away; the answer has them beside.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

/// A distribution in short, in the base currency.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Range {
    pub mean: f64,
    /// It will be more in nine of ten cases,
    pub p10: f64,
    /// in half of them,
    pub p50: f64,
    /// in one of ten.
    pub p90: f64,
}

/// What the forecast was worked out from.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Basis {
    /// Open deals with a score and an amount.
    pub open_deals: usize,
    /// Open deals without, which are left out.
    pub open_deals_left_out: usize,
    /// Days that the next four are of.
    pub history_days: f64,
    pub created_per_day: f64,
    pub win_rate: Option<f64>,
    /// Of won deals, in the base currency.
    pub average_won_value: Option<f64>,
    /// Median days from creation to the win.
    pub won_cycle_days: Option<f64>,
    /// How many futures were drawn.
    pub draws: usize,
}

/// The end of a week of the period.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Week {
    /// Its last day.
    #[schema(value_type = String, format = Date)]
    pub to: Date,
    /// Whether it is over: then all figures are what was won.
    pub is_over: bool,
    #[serde(flatten)]
    pub sum: Range,
}

/// A past quarter.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PastForecast {
    pub period: Period,
    #[serde(flatten)]
    pub forecast: Range,
    /// What was won in it.
    pub won_value: f64,
    /// The share of the drawn futures that brought no more than that: 0.5 is the middle.
    pub place: f64,
    /// Whether it lay between P10 and P90.
    pub is_within: bool,
}

/// The forecast of the deals in scope; without a `target`, that of the settings.
pub fn forecast(
    survey: &Survey,
    scope: &Scope,
    period: Period,
    target: Option<f64>,
    now: Timestamp,
) -> Forecast {
    let calendar = Calendar::of(period, now);
    let outlook = Outlook::of(survey, scope, When::Now(now), &calendar.bins);
    let won = won_by_week(survey, scope, &calendar);
    let target = target_of(survey, period, target);
    let mut forecast = Forecast {
        period,
        filters: scope.clone(),
        target,
        chance: None,
        total: None,
        won_deals: won.deals,
        won_value: won.value,
        open: None,
        not_created: None,
        basis: basis(&outlook),
        weeks: Vec::new(),
        past: past(survey, scope),
        past_within: 0,
        notes: survey.notes(),
    };
    forecast.past_within = forecast.past.iter().filter(|past| past.is_within).count();
    if is_told(&outlook, &calendar) {
        tell(&mut forecast, &outlook, &calendar, &won);
    }
    let notes = notes(&forecast, &outlook, now);
    forecast.notes.extend(notes);
    forecast
}

/// What a period should bring: as asked, else as set; `None` for no target.
pub(super) fn target_of(survey: &Survey, period: Period, asked: Option<f64>) -> Option<f64> {
    let set = || period.share_of_quarters(survey.settings.target_per_quarter);
    Some(asked.unwrap_or_else(set)).filter(|target| *target > 0.0)
}

/// A forecast needs past wins, and a model if deals are open; a period that is over needs nothing.
fn is_told(outlook: &Outlook, calendar: &Calendar) -> bool {
    let has_chances = !outlook.chances.is_empty() || outlook.unknown == 0;
    calendar.is_over() || (outlook.is_timed && has_chances)
}

fn tell(forecast: &mut Forecast, outlook: &Outlook, calendar: &Calendar, won: &Won) {
    let draws = draw(outlook, EFFORT);
    let totals: Vec<f64> = draws
        .totals(true, true)
        .iter()
        .map(|sum| sum + won.value)
        .collect();
    let (of_open, of_newcomers) = (outlook.mean_of_open(), mean_of_newcomers(outlook));
    forecast.chance = forecast.target.map(|target| {
        let reached = totals.iter().filter(|total| **total >= target).count();
        reached as f64 / totals.len() as f64
    });
    forecast.total = Some(range(totals, won.value + of_open + of_newcomers));
    forecast.open = Some(range(draws.totals(true, false), of_open));
    forecast.not_created = Some(range(draws.totals(false, true), of_newcomers));
    forecast.weeks = weeks(outlook, calendar, won, &draws);
}

fn mean_of_newcomers(outlook: &Outlook) -> f64 {
    let value = super::stats::mean(&outlook.flow.values).unwrap_or(0.0);
    outlook.newcomers.iter().sum::<f64>() * value + 0.0
}

/// `mean` is known exactly; the quantiles are those of the draws.
fn range(mut draws: Vec<f64>, mean: f64) -> Range {
    draws.sort_unstable_by(f64::total_cmp);
    let at = |q| quantile(&draws, q).unwrap_or(0.0);
    Range {
        mean,
        p10: at(0.1),
        p50: at(0.5),
        p90: at(0.9),
    }
}

/// The weeks of a period, seen from a moment.
struct Calendar {
    begin: Timestamp,
    /// The end of each week, which is not part of it.
    ends: Vec<Timestamp>,
    /// The same in days from the moment; weeks that are over are empty.
    bins: Bins,
    now: Timestamp,
}

impl Calendar {
    fn of(period: Period, now: Timestamp) -> Self {
        const WEEK: SignedDuration = SignedDuration::from_hours(24 * 7);
        let span = period.span();
        let mut ends = Vec::new();
        let mut end = span.begin;
        while end < span.end {
            end = end
                .saturating_add(WEEK)
                .map_or(span.end, |end| end.min(span.end));
            ends.push(end);
        }
        let from_now = |at: &Timestamp| super::facts::days_between(now, *at);
        let bins = Bins {
            begin: from_now(&span.begin),
            ends: ends.iter().map(from_now).collect(),
        };
        Self {
            begin: span.begin,
            ends,
            bins,
            now,
        }
    }

    fn is_over(&self) -> bool {
        self.ends.last().is_none_or(|end| *end <= self.now)
    }
}

/// What was won in a period so far.
struct Won {
    deals: usize,
    value: f64,
    /// By week.
    weeks: Vec<f64>,
}

fn won_by_week(survey: &Survey, scope: &Scope, calendar: &Calendar) -> Won {
    let mut won = Won {
        deals: 0,
        value: 0.0,
        weeks: vec![0.0; calendar.ends.len()],
    };
    for deal in survey.closed(scope).filter(|deal| deal.is_won()) {
        let Some(closed_at) = deal.closed_at.filter(|at| *at >= calendar.begin) else {
            continue;
        };
        let week = calendar.ends.partition_point(|end| *end <= closed_at);
        if let Some(sum) = won.weeks.get_mut(week) {
            let value = deal.base_amount.unwrap_or(0.0);
            won.deals += 1;
            won.value += value;
            *sum += value;
        }
    }
    won
}

fn weeks(outlook: &Outlook, calendar: &Calendar, won: &Won, draws: &Draws) -> Vec<Week> {
    let mut sums = vec![0.0; draws.open.len() / draws.bins.max(1)];
    let mut mean = 0.0;
    let value = super::stats::mean(&outlook.flow.values).unwrap_or(0.0);
    let mut of_cells = vec![0.0; outlook.cells.len()];
    for chance in &outlook.chances {
        of_cells[chance.cell] += chance.win_probability * chance.amount;
    }
    let weeks = calendar.ends.iter().enumerate().map(|(week, end)| {
        for (draw, sum) in sums.iter_mut().enumerate() {
            let place = draw * draws.bins + week;
            *sum += won.weeks[week] + draws.open[place] + draws.newcomers[place];
        }
        let cells = outlook.cells.iter().zip(&of_cells);
        let of_open: f64 = cells.map(|(cell, worth)| cell[week] * worth).sum();
        mean += won.weeks[week] + of_open + outlook.newcomers[week] * value;
        let last_moment = end.saturating_sub(SignedDuration::from_secs(1));
        Week {
            to: day_of(last_moment.unwrap_or(*end)),
            is_over: *end <= calendar.now,
            sum: range(sums.clone(), mean),
        }
    });
    weeks.collect()
}

fn past(survey: &Survey, scope: &Scope) -> Vec<PastForecast> {
    if survey.model_version.is_none() {
        return Vec::new();
    }
    let spread = typical_spread(survey, scope);
    let quarters = Period::quarters_before(day_of(survey.as_of), QUARTERS).into_iter();
    quarters
        .filter_map(|quarter| past_forecast(survey, scope, quarter, spread))
        .collect()
}

/// `None` where the time before it knows of no win.
fn past_forecast(
    survey: &Survey,
    scope: &Scope,
    quarter: Period,
    spread: f64,
) -> Option<PastForecast> {
    let span = quarter.span();
    let when = When::Quarter {
        begin: span.begin,
        spread,
    };
    let bins = Bins {
        begin: 0.0,
        ends: vec![quarter.days() as f64],
    };
    let outlook = Outlook::of(survey, scope, when, &bins);
    if !outlook.is_timed || outlook.flow.win_rate().is_none() {
        return None;
    }
    let totals = draw(&outlook, EFFORT_PAST).totals(true, true);
    let won = survey
        .closed(scope)
        .filter(|deal| deal.is_won() && deal.closed_at.is_some_and(|at| span.holds(at)));
    let won_value = won.filter_map(|deal| deal.base_amount).sum::<f64>() + 0.0;
    let below = totals.iter().filter(|total| **total <= won_value).count();
    let place = below as f64 / totals.len() as f64;
    let mean = outlook.mean_of_open() + mean_of_newcomers(&outlook);
    let forecast = range(totals, mean);
    Some(PastForecast {
        period: quarter,
        forecast,
        won_value,
        place,
        is_within: (forecast.p10..=forecast.p90).contains(&won_value),
    })
}

fn basis(outlook: &Outlook) -> Basis {
    let flow = &outlook.flow;
    Basis {
        open_deals: outlook.chances.len(),
        open_deals_left_out: outlook.unknown,
        history_days: flow.days,
        created_per_day: flow.created_per_day(),
        win_rate: flow.win_rate(),
        average_won_value: super::stats::mean(&flow.values),
        won_cycle_days: quantile(&flow.cycles, 0.5),
        draws: EFFORT.draws,
    }
}

fn notes(forecast: &Forecast, outlook: &Outlook, now: Timestamp) -> Vec<Note> {
    let mut notes = Vec::new();
    if forecast.target.is_none() {
        notes.push(Note::new(
            "no_target",
            "there is no target to compare with: ask with `target`, or set insight.target_per_quarter",
        ));
    }
    if !outlook.is_timed {
        notes.push(Note::new(
            "no_won_deals",
            "no won deal says how long a deal takes, so it is not known when open ones will close: import won deals with `created_at` and `closed_at`",
        ));
    } else if outlook.flow.won < FEW_WON {
        let won = outlook.flow.won;
        notes.push(Note::new(
            "few_won_deals",
            format!("only {won} deals in scope were won in the year before: what deals to come will bring rests on little"),
        ));
    }
    if outlook.unknown > 0 {
        let unknown = outlook.unknown;
        notes.push(Note::new(
            "deals_left_out",
            format!("{unknown} open deals have no score or no amount in the base currency and are left out: fill in the amounts, and train a model if there is none"),
        ));
    }
    if forecast.period.span().end <= now {
        notes.push(Note::new(
            "period_over",
            "the period is over: this is what was won in it",
        ));
    }
    if !forecast.past.is_empty() {
        notes.push(Note::new(
            "hindsight",
            "past quarters are forecast from what was known of the deals on their first day, but by the present model, which may have learned from how some of them ended; owners and pipelines are those of today",
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::QuarterStart;
    use crate::insight::facts::DealFacts;
    use crate::insight::samples::{closed, days, now, open, survey, ten};
    use jiff::civil::date;

    fn this_quarter() -> Period {
        Period::quarter(date(2026, 10, 1))
    }

    /// Twenty deals that were won after 30 days in Demo, worth 1000 each, and an open one ten days into it.
    fn steady() -> Vec<DealFacts> {
        let mut deals: Vec<DealFacts> = (0..20)
            .map(|i| closed(&format!("w{i:02}"), true, &[("Demo", 30.0)]))
            .collect();
        deals.push(open("o", 0.4, 500_000.0, &[("Demo", 10.5)]));
        deals
    }

    #[test]
    fn what_is_open_comes_when_it_is_due() {
        let found = forecast(
            &survey(steady()),
            &Scope::default(),
            this_quarter(),
            Some(500_000.0),
            now(),
        );
        // Days 10 to 14 are looked at as day 12, so it would be won 18 days from now, on 19 October.
        let open = found.open.unwrap();
        assert_eq!((open.mean, open.p10, open.p90), (200_000.0, 0.0, 500_000.0));
        let chance = found.chance.unwrap();
        assert!((chance - 0.4).abs() < 0.03, "{chance}");
        let of_open: Vec<bool> = found
            .weeks
            .iter()
            .map(|week| week.sum.mean > 100_000.0)
            .collect();
        assert_eq!(of_open[..4], [false, false, true, true]);
        assert_eq!(found.weeks.len(), 14);
        assert_eq!(found.weeks[2].to, date(2026, 10, 21));
        assert_eq!(found.weeks[13].to, date(2026, 12, 31));
        let total = found.total.unwrap();
        assert_eq!(found.weeks[13].sum.mean, total.mean);
        assert!((found.weeks[13].sum.p50 - total.p50).abs() < 1e-6);
    }

    #[test]
    fn deals_to_come_are_counted_from_the_rate_of_the_past() {
        let found = forecast(
            &survey(steady()),
            &Scope::default(),
            this_quarter(),
            None,
            now(),
        );
        // 21 deals in 40 days, all that closed were won, each after 30 days for 1000; the quarter has 91.5
        // days left, so that those of the next 61.5 count.
        let basis = &found.basis;
        assert_eq!(
            (basis.win_rate, basis.average_won_value),
            (Some(1.0), Some(1000.0))
        );
        assert!((basis.created_per_day - 21.0 / 40.0).abs() < 1e-12);
        let coming = found.not_created.unwrap();
        assert!(
            (coming.mean - 21.0 / 40.0 * 61.5 * 1000.0).abs() < 1e-6,
            "{coming:?}"
        );
        assert!(coming.p10 < coming.mean && coming.mean < coming.p90);
        assert!((coming.p50 / coming.mean - 1.0).abs() < 0.1);
        assert_eq!(found.chance, None);
        assert!(found.notes.iter().any(|note| note.code == "no_target"));
    }

    #[test]
    fn a_period_that_is_over_brings_what_it_brought() {
        let past = Period::quarter(date(2026, 9, 1));
        let found = forecast(&survey(ten()), &Scope::default(), past, Some(5000.0), now());
        assert_eq!((found.won_deals, found.won_value), (3, 6000.0));
        let total = found.total.unwrap();
        assert_eq!((total.p10, total.p90, total.mean), (6000.0, 6000.0, 6000.0));
        assert_eq!(found.chance, Some(1.0));
        // All three closed on 21 September, in the twelfth week.
        let over: Vec<(bool, f64)> = found
            .weeks
            .iter()
            .map(|week| (week.is_over, week.sum.p50))
            .collect();
        assert_eq!(over[10..12], [(true, 0.0), (true, 6000.0)]);
    }

    #[test]
    fn draws_have_the_spread_that_they_should() {
        // 600 deals that are due in the quarter: some drawn one by one, the rest together.
        let mut deals = steady();
        deals.truncate(20);
        for i in 0..600 {
            let amount = 1000.0 + 10.0 * f64::from(i);
            deals.push(open(&format!("o{i:03}"), 0.3, amount, &[("Demo", 10.5)]));
        }
        let survey = survey(deals);
        let found = forecast(&survey, &Scope::default(), this_quarter(), None, now())
            .open
            .unwrap();
        let squares: f64 = (0..600)
            .map(|i| (1000.0 + 10.0 * f64::from(i)).powi(2))
            .sum();
        let half = 1.281_551_6 * (0.3 * 0.7 * squares).sqrt();
        assert!((found.mean - 0.3 * 600.0 * 3995.0).abs() < 1e-3);
        assert!(
            ((found.p90 - found.p10) / (2.0 * half) - 1.0).abs() < 0.08,
            "{found:?}"
        );
        assert!((found.p50 / found.mean - 1.0).abs() < 0.02, "{found:?}");
        let again = forecast(&survey, &Scope::default(), this_quarter(), None, now());
        assert_eq!(again.open, Some(found));
    }

    #[test]
    fn past_quarters_are_forecast_from_what_was_known_then() {
        let begin: Timestamp = "2026-07-01T00:00:00Z".parse().unwrap();
        // Won in May after 30 days; the rates of July come from them.
        let mut deals = steady();
        for deal in &mut deals[..20] {
            let shift = days(120.0);
            deal.created_at = deal.created_at.map(|at| at - shift);
            deal.closed_at = deal.closed_at.map(|at| at - shift);
            for visit in &mut deal.visits {
                visit.entered_at -= shift;
                visit.left_at = visit.left_at.map(|at| at - shift);
            }
        }
        // Open on 1 July at even odds, won in September for more than was thought.
        let mut won = closed("x", true, &[("Demo", 90.0)]);
        won.base_amount = Some(90_000.0);
        won.quarters = vec![QuarterStart {
            at: begin,
            win_probability: 0.5,
            base_amount: Some(80_000.0),
        }];
        deals.push(won);
        let found = forecast(
            &survey(deals),
            &Scope::default(),
            this_quarter(),
            None,
            now(),
        );
        let past = &found.past[0];
        assert_eq!(past.period.from, date(2026, 7, 1));
        assert_eq!(past.won_value, 90_000.0);
        // On 1 July the year before had 20 deals in 71 days (12:00 on 21 April on), all of them won.
        let coming = past.forecast.mean - 40_000.0;
        assert!(
            (40_000.0..60_000.0).contains(&past.forecast.mean),
            "{past:?}"
        );
        assert!(coming > 10_000.0 && past.place > 0.5);
        assert!(found.notes.iter().any(|note| note.code == "hindsight"));
        assert_eq!(
            found.past_within,
            found.past.iter().filter(|past| past.is_within).count()
        );
    }

    #[test]
    fn nothing_is_forecast_from_nothing() {
        let open: Vec<DealFacts> = ten().into_iter().filter(DealFacts::is_open).collect();
        let found = forecast(
            &survey(open),
            &Scope::default(),
            this_quarter(),
            None,
            now(),
        );
        assert_eq!(
            (found.total, found.open, found.weeks.len()),
            (None, None, 0)
        );
        assert!(found.notes.iter().any(|note| note.code == "no_won_deals"));
    }
}
