//! Whether there are enough deals for the target.

use jiff::Timestamp;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use statrs::function::erf::erf_inv;
use utoipa::ToSchema;

use super::capacity::{Capacity, capacity};
use super::facts::{DealFacts, days_ago, days_between};
use super::flow::share_of_some;
use super::forecast::target_of;
use super::outlook::{Flow, HISTORY_DAYS, Outlook, When};
use super::period::Period;
use super::stats::{Estimated, mean};
use super::summary::{share_by_value, worth_of};
use super::survey::{Note, Scope, Survey};
use super::timing::Bins;
use crate::domain::money::grouped;

/// Sequences of prospects that are drawn.
const DRAWS: usize = 2000;
/// Wins up to which sequences are drawn; with more, a normal distribution is as good.
const DRAWN_WINS_MAX: f64 = 500.0;
/// Won deals in a year below which the rates are said to be of few.
const FEW_WON: usize = 10;
const SEED: u64 = 1_713;

/// What the pipeline can bring against what is asked of a period. Values are in the base currency.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Coverage {
    pub period: Period,
    pub filters: Scope,
    /// Null without a target.
    pub target: Option<f64>,
    /// Chance with which there should be enough.
    pub confidence: f64,
    pub verdict: Verdict,
    /// Won in the period so far.
    pub won_deals: usize,
    pub won_value: f64,
    /// What the target still asks for.
    pub missing: Option<f64>,
    /// Until the end of the period.
    pub days_left: f64,
    pub rates: Rates,
    pub open_deals: usize,
    pub open_value: f64,
    /// What the open deals bring, whenever that is.
    pub expected_value: Option<Estimated>,
    /// What they bring until the end of the period, on average; null while it is not known how long deals
    /// take.
    pub expected_value_in_period: Option<f64>,
    /// Null without a target or a win rate.
    pub prospects: Option<ProspectsNeeded>,
    /// Null without a target, or when it is reached.
    pub by_value: Option<ValueCoverage>,
    pub capacity: Capacity,
    /// What keeps figures away; the answer has them beside.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

/// Whether there are enough deals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// There is nothing to compare with.
    NoTarget,
    /// No closed deals say how many are won.
    Unknown,
    /// The target is reached already.
    Reached,
    /// As many open deals as it takes with the confidence that was asked for.
    Enough,
    /// As many as it takes on average, but not for the confidence.
    Tight,
    /// Fewer than it takes on average.
    Short,
}

/// The present rates: of deals that closed in the year before now.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Rates {
    pub won: usize,
    pub lost: usize,
    pub win_rate: Option<Estimated>,
    pub win_rate_by_value: Option<Estimated>,
    /// With fewer than ten won deals in scope, of all won deals.
    pub average_won_value: Option<f64>,
}

/// Prospects that it takes to win what is missing.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ProspectsNeeded {
    /// Wins of average value.
    pub wins: f64,
    /// On average.
    pub mean: u64,
    /// With the confidence.
    pub at_confidence: u64,
    /// How many more than the open deals these are; 0 if there are enough.
    pub more_for_mean: u64,
    pub more_for_confidence: u64,
    /// With the figures filled in.
    pub formula_mean: String,
    pub formula_confidence: String,
}

/// What is open against what is missing: 1 is just enough.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ValueCoverage {
    /// Open value times the win rate by value; null without such a rate.
    pub by_win_rate: Option<f64>,
    /// Expected value, whenever the deals close; null without a model.
    pub by_expected_value: Option<f64>,
    /// Expected value until the end of the period.
    pub by_expected_value_in_period: Option<f64>,
    /// With the figures filled in.
    pub formulas: Vec<String>,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked {
    pub period: Period,
    /// In the base currency; without one, that of the settings.
    pub target: Option<f64>,
    /// Without one, that of the settings.
    pub confidence: Option<f64>,
}

/// The coverage by the deals in scope.
pub fn coverage(survey: &Survey, scope: &Scope, asked: Asked, now: Timestamp) -> Coverage {
    let span = asked.period.span();
    let bins = Bins {
        begin: days_between(now, span.begin),
        ends: vec![days_between(now, span.end)],
    };
    let outlook = Outlook::of(survey, scope, When::Now(now), &bins);
    let open: Vec<&DealFacts> = survey.open(scope).collect();
    let (worth, scored) = worth_of(&open);
    let won: Vec<&DealFacts> = survey
        .closed(scope)
        .filter(|deal| deal.is_won() && deal.closed_at.is_some_and(|at| span.holds(at)))
        .collect();
    let won_value = sum(&won);
    let target = target_of(survey, asked.period, asked.target);
    let mut coverage = Coverage {
        period: asked.period,
        filters: scope.clone(),
        target,
        confidence: asked
            .confidence
            .unwrap_or(survey.settings.coverage_confidence),
        verdict: Verdict::NoTarget,
        won_deals: won.len(),
        won_value,
        missing: target.map(|target| (target - won_value).max(0.0)),
        days_left: days_between(now.max(span.begin), span.end),
        rates: rates(survey, scope, &outlook.flow, now),
        open_deals: open.len(),
        open_value: sum(&open),
        expected_value: (scored > 0).then(|| worth.estimated()),
        expected_value_in_period: (scored > 0 && outlook.is_timed).then(|| outlook.mean_of_open()),
        prospects: None,
        by_value: None,
        capacity: capacity(survey, scope, now),
        notes: survey.notes(),
    };
    coverage.prospects = prospects_needed(&coverage, &outlook.flow);
    coverage.by_value = value_coverage(&coverage);
    coverage.verdict = verdict(&coverage);
    let notes = notes(&coverage, &outlook);
    coverage.notes.extend(notes);
    coverage
}

fn sum(deals: &[&DealFacts]) -> f64 {
    deals
        .iter()
        .filter_map(|deal| deal.base_amount)
        .sum::<f64>()
        + 0.0
}

fn rates(survey: &Survey, scope: &Scope, flow: &Flow, now: Timestamp) -> Rates {
    let since = days_ago(now, HISTORY_DAYS);
    let closed: Vec<&DealFacts> = survey
        .closed(scope)
        .filter(|deal| deal.closed_at.is_some_and(|at| since <= at && at < now))
        .collect();
    Rates {
        won: flow.won,
        lost: flow.lost,
        win_rate: share_of_some(flow.won, flow.won + flow.lost),
        win_rate_by_value: share_by_value(&closed),
        average_won_value: mean(&flow.values),
    }
}

fn verdict(coverage: &Coverage) -> Verdict {
    let Some(missing) = coverage.missing else {
        return Verdict::NoTarget;
    };
    if missing == 0.0 {
        return Verdict::Reached;
    }
    match &coverage.prospects {
        None => Verdict::Unknown,
        Some(needed) if needed.more_for_confidence == 0 => Verdict::Enough,
        Some(needed) if needed.more_for_mean == 0 => Verdict::Tight,
        Some(_) => Verdict::Short,
    }
}

fn prospects_needed(coverage: &Coverage, flow: &Flow) -> Option<ProspectsNeeded> {
    let missing = coverage.missing?;
    let win_rate = flow.win_rate().filter(|rate| *rate > 0.0)?;
    let value = mean(&flow.values).filter(|value| *value > 0.0)?;
    let wins = missing / value;
    let exact = wins / win_rate;
    let mean = exact.ceil() as u64;
    let at_confidence = fewest(missing, win_rate, &flow.values, coverage.confidence);
    let open_deals = coverage.open_deals as u64;
    let percent = 100.0 * coverage.confidence;
    Some(ProspectsNeeded {
        wins,
        mean,
        at_confidence,
        more_for_mean: mean.saturating_sub(open_deals),
        more_for_confidence: at_confidence.saturating_sub(open_deals),
        formula_mean: format!(
            "missing ÷ (win rate × average won value) = {} ÷ ({win_rate:.3} × {}) = {exact:.1}, so {mean}",
            grouped(missing, 0),
            grouped(value, 0),
        ),
        formula_confidence: format!(
            "the fewest n prospects that bring {} with a chance of at least {percent:.0}%: each is won with a chance of {win_rate:.3} and then worth one of the {} won values, {} on average; n = {at_confidence}",
            grouped(missing, 0),
            flow.values.len(),
            grouped(value, 0),
        ),
    })
}

/// The fewest prospects whose wins sum to `missing` with this confidence. Each prospect is won with
/// `win_rate`, and then worth one of `values`, each as likely; the number of prospects until the sum is
/// reached is drawn many times, and its quantile taken. With equal values that is the negative binomial
/// distribution.
fn fewest(missing: f64, win_rate: f64, values: &[f64], confidence: f64) -> u64 {
    let value = mean(values).unwrap_or(0.0);
    if missing <= 0.0 || value <= 0.0 {
        return 0;
    }
    if missing / value > DRAWN_WINS_MAX {
        return fewest_of_many(missing, win_rate, values, confidence);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut draws: Vec<u64> = (0..DRAWS)
        .map(|_| {
            let (mut prospects, mut sum) = (0, 0.0);
            while sum < missing {
                prospects += until_win(&mut rng, win_rate);
                sum += values[rng.random_range(0..values.len())];
            }
            prospects
        })
        .collect();
    draws.sort_unstable();
    let place = (confidence * DRAWS as f64).ceil() as usize;
    draws[place.clamp(1, DRAWS) - 1]
}

/// Prospects up to and with the first win: a geometric distribution.
fn until_win(rng: &mut ChaCha8Rng, win_rate: f64) -> u64 {
    if win_rate >= 1.0 {
        return 1;
    }
    let chance = 1.0 - rng.random::<f64>();
    1 + (chance.ln() / (1.0 - win_rate).ln()) as u64
}

/// Where n w v - z sqrt(n) s = missing, with s^2 = w E(v^2) - (w v)^2 the variance of one prospect.
fn fewest_of_many(missing: f64, win_rate: f64, values: &[f64], confidence: f64) -> u64 {
    let value = mean(values).unwrap_or(0.0);
    let square = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
    let each = win_rate * value;
    let spread = (win_rate * square - each * each).max(0.0).sqrt();
    let half = normal_quantile(confidence) * spread;
    let root = (half + (half * half + 4.0 * each * missing).sqrt()) / (2.0 * each);
    (root * root).ceil() as u64
}

/// The standard normal quantile.
fn normal_quantile(p: f64) -> f64 {
    std::f64::consts::SQRT_2 * erf_inv(2.0 * p - 1.0)
}

fn value_coverage(coverage: &Coverage) -> Option<ValueCoverage> {
    let missing = coverage.missing.filter(|missing| *missing > 0.0)?;
    let mut formulas = Vec::new();
    let mut against = |value: f64, words: String| {
        formulas.push(format!(
            "{words} ÷ missing {} = {:.2}",
            grouped(missing, 0),
            value / missing
        ));
        value / missing
    };
    let rate = coverage.rates.win_rate_by_value.map(|rate| rate.value);
    let by_win_rate = rate.map(|rate| {
        let open = coverage.open_value;
        let words = format!(
            "open value {} × win rate by value {rate:.3}",
            grouped(open, 0)
        );
        against(open * rate, words)
    });
    let by_expected_value = coverage.expected_value.map(|expected| {
        let words = format!("expected value {}", grouped(expected.value, 0));
        against(expected.value, words)
    });
    let by_expected_value_in_period = coverage.expected_value_in_period.map(|expected| {
        let words = format!("expected value in the period {}", grouped(expected, 0));
        against(expected, words)
    });
    Some(ValueCoverage {
        by_win_rate,
        by_expected_value,
        by_expected_value_in_period,
        formulas,
    })
}

fn notes(coverage: &Coverage, outlook: &Outlook) -> Vec<Note> {
    let mut notes = Vec::new();
    if coverage.target.is_none() {
        notes.push(Note::new(
            "no_target",
            "no target is set, so it cannot be said whether the deals are enough: ask with `target`, or set insight.target_per_quarter; rates, expected value and capacity hold without it",
        ));
    }
    let flow = &outlook.flow;
    if flow.won == 0 {
        notes.push(Note::new(
            "no_won_deals",
            "no deal in scope was won in the year before, so there is no win rate to count with: widen the filters, or import closed deals with their `closed_at`",
        ));
    } else if flow.won < FEW_WON {
        let won = flow.won;
        notes.push(Note::new(
            "few_won_deals",
            format!("only {won} deals in scope were won in the year before: mind the interval of the win rate; what a win is worth is taken from all won deals"),
        ));
    }
    if outlook.unknown > 0 {
        let unknown = outlook.unknown;
        notes.push(Note::new(
            "deals_left_out",
            format!("{unknown} open deals have no score or no amount in the base currency and add nothing to the expected value: fill in the amounts, and train a model if there is none"),
        ));
    }
    if coverage.capacity.usual.is_none() {
        notes.push(Note::new(
            "few_reps",
            "it takes at least three reps who win to say how many deals at a time are usual: look at more of the team, or for longer",
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::InsightSettings;
    use crate::insight::samples::{now, survey, survey_with, ten};

    fn asked(target: Option<f64>) -> Asked {
        Asked {
            period: Period::quarter(jiff::civil::date(2026, 9, 30)),
            target,
            confidence: Some(0.8),
        }
    }

    #[test]
    fn what_ten_deals_lack_for_a_target() {
        // 6000 are won in the quarter; of six closed deals three were won, worth 2000 each on average.
        let found = coverage(
            &survey(ten()),
            &Scope::default(),
            asked(Some(16_000.0)),
            now(),
        );
        assert_eq!((found.won_deals, found.won_value), (3, 6000.0));
        assert_eq!((found.missing, found.days_left), (Some(10_000.0), 0.0));
        assert_eq!((found.open_deals, found.open_value), (4, 8000.0));
        assert_eq!(found.expected_value.unwrap().value, 4000.0);
        let needed = found.prospects.as_ref().unwrap();
        assert_eq!(
            (needed.wins, needed.mean, needed.more_for_mean),
            (5.0, 10, 6)
        );
        assert_eq!(
            needed.formula_mean,
            "missing ÷ (win rate × average won value) = 10,000 ÷ (0.500 × 2,000) = 10.0, so 10"
        );
        assert!(needed.at_confidence > 10, "{needed:?}");
        assert_eq!(found.verdict, Verdict::Short);
        let by_value = found.by_value.unwrap();
        let by_win_rate = by_value.by_win_rate.unwrap();
        assert!((by_win_rate - 8000.0 * (6.0 / 11.0) / 10_000.0).abs() < 1e-12);
        assert_eq!(by_value.by_expected_value, Some(0.4));
        assert_eq!(
            by_value.formulas[1],
            "expected value 4,000 ÷ missing 10,000 = 0.40"
        );
    }

    #[test]
    fn without_a_target_the_rest_still_holds() {
        let found = coverage(&survey(ten()), &Scope::default(), asked(None), now());
        assert_eq!((found.target, found.missing), (None, None));
        assert_eq!(found.verdict, Verdict::NoTarget);
        assert!(found.prospects.is_none() && found.by_value.is_none());
        assert_eq!(found.rates.average_won_value, Some(2000.0));
        assert!(found.notes.iter().any(|note| note.code == "no_target"));
    }

    #[test]
    fn the_target_of_the_settings_is_that_of_a_quarter() {
        let settings = InsightSettings {
            target_per_quarter: 5000.0,
            ..InsightSettings::default()
        };
        let survey = survey_with(ten(), settings);
        let found = coverage(&survey, &Scope::default(), asked(None), now());
        assert_eq!((found.target, found.missing), (Some(5000.0), Some(0.0)));
        assert_eq!(found.verdict, Verdict::Reached);
        assert_eq!(found.prospects.unwrap().at_confidence, 0);
    }

    #[test]
    fn with_equal_values_it_is_the_negative_binomial() {
        // scipy 1.17.1: nbinom.ppf(0.8, 5, 0.3) + 5 = 21, nbinom.ppf(0.5, 5, 0.3) + 5 = 16; the quantiles of
        // 2,000 draws lie within one of them.
        assert!(fewest(10_000.0, 0.3, &[2000.0], 0.8).abs_diff(21) <= 1);
        assert!(fewest(10_000.0, 0.3, &[2000.0], 0.5).abs_diff(16) <= 1);
        // The more the values differ, the more prospects it takes to be sure.
        assert!(fewest(10_000.0, 0.3, &[100.0, 100.0, 5800.0], 0.8) > 23);
        assert_eq!(fewest(10_000.0, 1.0, &[2000.0], 0.99), 5);
    }

    #[test]
    fn of_very_many_a_normal_distribution_says_the_same() {
        let values = [1000.0, 2000.0, 6000.0];
        let missing = 3000.0 * 490.0;
        let drawn = fewest(missing, 0.4, &values, 0.8) as f64;
        let normal = fewest_of_many(missing, 0.4, &values, 0.8) as f64;
        assert!((drawn / normal - 1.0).abs() < 0.01, "{drawn} {normal}");
        assert!((normal_quantile(0.8) - 0.841_621_233_572_914_3).abs() < 1e-8);
        assert!((normal_quantile(0.99) - 2.326_347_874_040_841).abs() < 1e-8);
        assert_eq!(normal_quantile(0.5), 0.0);
    }

    #[test]
    fn without_closed_deals_nothing_is_counted_with() {
        let open: Vec<DealFacts> = ten().into_iter().filter(DealFacts::is_open).collect();
        let found = coverage(&survey(open), &Scope::default(), asked(Some(1000.0)), now());
        assert_eq!(found.verdict, Verdict::Unknown);
        assert!(found.prospects.is_none() && found.expected_value_in_period.is_none());
        assert!(found.notes.iter().any(|note| note.code == "no_won_deals"));
        assert_eq!(grouped(1_234_567.4, 0), "1,234,567");
    }
}
