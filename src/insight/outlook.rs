//! What is known at a moment about what will be won: open deals, and deals that are still to come.

use jiff::Timestamp;

use super::facts::{DealFacts, QuarterStart, days_ago, days_between};
use super::survey::{Scope, Survey};
use super::timing::{Bins, Timing};

/// Rates are of this long before the moment.
pub(super) const HISTORY_DAYS: i64 = 365;
/// Less of a history is counted as this.
const HISTORY_DAYS_MIN: f64 = 28.0;
/// Won deals that have to say what a win is worth and takes, before those of all others are asked.
const WON_MIN: usize = 10;

/// An open deal with what a forecast asks of it.
#[derive(Debug, Clone, Copy)]
pub struct Chance {
    pub win_probability: f64,
    /// Standard deviation of the log-odds.
    pub spread: f64,
    /// In the base currency.
    pub amount: f64,
    /// Which shares of [`Outlook::cells`] say when it closes if it is won.
    pub cell: usize,
}

/// What a year of closed and created deals says.
#[derive(Debug, Clone, PartialEq)]
pub struct Flow {
    /// Days that were looked back.
    pub days: f64,
    pub created: usize,
    pub won: usize,
    pub lost: usize,
    /// Amounts of won deals, in the base currency.
    pub values: Vec<f64>,
    /// Days from creation to the win.
    pub cycles: Vec<f64>,
}

/// What is known at a moment.
pub struct Outlook {
    pub chances: Vec<Chance>,
    /// Open deals that have no amount or no probability.
    pub unknown: usize,
    pub cells: Vec<Box<[f64]>>,
    pub flow: Flow,
    /// Wins of deals not created yet, by bin.
    pub newcomers: Vec<f64>,
    /// Whether past wins say how long a deal takes.
    pub is_timed: bool,
}

/// The moment that is asked about.
#[derive(Debug, Clone, Copy)]
pub enum When {
    Now(Timestamp),
    /// The beginning of one of the last quarters. How unsure the model was of a deal then is not kept:
    /// all have this `spread`.
    Quarter {
        begin: Timestamp,
        spread: f64,
    },
}

impl When {
    pub fn at(self) -> Timestamp {
        match self {
            Self::Now(at) | Self::Quarter { begin: at, .. } => at,
        }
    }
}

impl Outlook {
    /// What is known of the deals in scope; `bins` count days from the moment.
    pub fn of(survey: &Survey, scope: &Scope, when: When, bins: &Bins) -> Self {
        let at = when.at();
        let mut timing = Timing::of(survey, at, bins.clone());
        let mut chances = Vec::new();
        let mut unknown = 0;
        for deal in survey.within(scope) {
            let chance = match when {
                When::Now(_) if deal.is_open() => present(deal),
                When::Quarter { begin, spread } => match quarter_start(deal, begin) {
                    Some(then) => then
                        .base_amount
                        .map(|amount| (then.win_probability, spread, amount)),
                    None => continue,
                },
                When::Now(_) => continue,
            };
            let Some((win_probability, spread, amount)) = chance else {
                unknown += 1;
                continue;
            };
            let age = deal
                .created_at
                .map_or(0.0, |created| days_between(created, at));
            let (stage, days_in_stage) = stage_at(deal, when);
            chances.push(Chance {
                win_probability,
                spread,
                amount,
                cell: timing.cell(deal, stage, days_in_stage, age),
            });
        }
        let flow = Flow::of(survey, scope, at);
        Self {
            chances,
            unknown,
            newcomers: flow.newcomers(bins),
            flow,
            is_timed: timing.is_known(),
            cells: timing.cells().to_vec(),
        }
    }

    /// What the open deals bring within the bins, on average.
    pub fn mean_of_open(&self) -> f64 {
        let within = |chance: &Chance| self.cells[chance.cell].iter().sum::<f64>();
        let means = self.chances.iter();
        means
            .map(|chance| chance.win_probability * chance.amount * within(chance))
            .sum()
    }
}

fn present(deal: &DealFacts) -> Option<(f64, f64, f64)> {
    let standing = deal.standing?;
    Some((
        standing.win_probability,
        standing.log_odds_spread(),
        deal.base_amount?,
    ))
}

fn quarter_start(deal: &DealFacts, at: Timestamp) -> Option<&QuarterStart> {
    deal.quarters.iter().find(|quarter| quarter.at == at)
}

/// The stage that a deal was in, and for how many days.
fn stage_at(deal: &DealFacts, when: When) -> (Option<&str>, f64) {
    let at = when.at();
    if let When::Now(_) = when {
        return (deal.stage.as_deref(), deal.days_in_stage(at).unwrap_or(0.0));
    }
    let visit = deal
        .visits
        .iter()
        .rev()
        .find(|visit| visit.entered_at <= at);
    visit.map_or((None, 0.0), |visit| {
        (Some(&*visit.stage), days_between(visit.entered_at, at))
    })
}

/// The mean standard deviation of the log-odds of the present deals.
pub(super) fn typical_spread(survey: &Survey, scope: &Scope) -> f64 {
    let standings = survey.open(scope).filter_map(|deal| deal.standing);
    let (mut sum, mut count) = (0.0, 0.0);
    for standing in standings {
        sum += standing.log_odds_spread();
        count += 1.0;
    }
    if count > 0.0 { sum / count } else { 0.0 }
}

impl Flow {
    /// Of the year before `at`; where few deals in scope were won, what a win is worth and takes is that of
    /// all won deals.
    pub fn of(survey: &Survey, scope: &Scope, at: Timestamp) -> Self {
        let since = days_ago(at, HISTORY_DAYS);
        let is_recent = |moment: Timestamp| since <= moment && moment < at;
        let mut first = at;
        let (mut created, mut won, mut lost) = (0, 0, 0);
        let (mut values, mut cycles) = (Vec::new(), Vec::new());
        for deal in survey.within(scope) {
            if let Some(created_at) = deal.created_at {
                first = first.min(created_at);
                created += usize::from(is_recent(created_at));
            }
            if deal.is_open() || !deal.closed_at.is_some_and(is_recent) {
                continue;
            }
            if deal.is_won() {
                won += 1;
                values.extend(deal.base_amount);
                cycles.extend(deal.cycle_days());
            } else {
                lost += 1;
            }
        }
        if won < WON_MIN && *scope != Scope::default() {
            let all = Self::of(survey, &Scope::default(), at);
            (values, cycles) = (all.values, all.cycles);
        }
        cycles.sort_unstable_by(f64::total_cmp);
        values.sort_unstable_by(f64::total_cmp);
        Self {
            days: days_between(first.max(since), at).max(HISTORY_DAYS_MIN),
            created,
            won,
            lost,
            values,
            cycles,
        }
    }

    pub fn created_per_day(&self) -> f64 {
        self.created as f64 / self.days
    }

    /// Won, of all that closed.
    pub fn win_rate(&self) -> Option<f64> {
        let closed = self.won + self.lost;
        (closed > 0).then(|| self.won as f64 / closed as f64)
    }

    /// Wins by bin of deals that will be created: `created_per_day * win_rate` a day, each after a cycle of
    /// a past win. By day t that makes the rate times the mean over the cycles c of max(t - c, 0).
    fn newcomers(&self, bins: &Bins) -> Vec<f64> {
        let rate = self.created_per_day() * self.win_rate().unwrap_or(0.0);
        let count = self.cycles.len().max(1) as f64;
        let by_day = |day: f64| {
            let over = self.cycles.iter().take_while(|cycle| **cycle < day);
            rate * over.map(|cycle| day - cycle).sum::<f64>() / count
        };
        let mut before = by_day(bins.begin);
        let ends = bins.ends.iter();
        let wins = ends.map(|end| {
            let until = by_day(*end);
            let wins = until - before;
            before = until;
            wins.max(0.0)
        });
        wins.collect()
    }
}
