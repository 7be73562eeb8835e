//! How good probabilities are, on deals the model has not seen: [`measures`] of the probabilities
//! themselves, their [`reliability`] in deals and in money, what a ranking by them would have been worth
//! ([`backtest`]), how far the deals have moved from those learned from ([`drift`]), whether the
//! probabilities have become too high or too low as a whole ([`recalibration`]), and whether groups of
//! people are selected alike ([`fairness`]).

pub mod backtest;
mod bootstrap;
pub mod drift;
pub mod fairness;
pub mod measures;
pub mod recalibration;
pub mod reliability;

use serde::{Deserialize, Serialize};

use crate::domain::Currency;
use backtest::{Backtest, Order};
pub use bootstrap::Estimate;
use bootstrap::Resamples;
use drift::Drift;
use fairness::Fairness;
pub use measures::{auc, log_loss};
use measures::{lift, pr_auc, square_error};
use recalibration::Recalibration;
use reliability::Bin;

/// A row to judge by: what was predicted, what happened, and what else a ranking could have gone by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    pub probability: f64,
    pub won: bool,
    /// Rows of one deal share a number; they are resampled together.
    pub deal: usize,
    /// In the base currency, at the rate of the row's day.
    pub amount: Option<f64>,
    /// Win rate of the row's stage among the rows that the model was trained on.
    pub stage_win_rate: Option<f64>,
    /// Time since the creation, in any one unit; the longest is first in.
    pub waiting: Option<f64>,
    /// What the deal was given lately, on any scale; reps worked on the highest.
    pub attention: Option<f64>,
}

impl Judged {
    /// A row of which nothing is known but the prediction and the outcome.
    pub fn new(probability: f64, won: bool, deal: usize) -> Self {
        Self {
            probability,
            won,
            deal,
            amount: None,
            stage_win_rate: None,
            waiting: None,
            attention: None,
        }
    }

    /// Probability x amount, in the base currency.
    pub fn expected_value(&self) -> Option<f64> {
        Some(self.probability * self.amount?)
    }
}

/// What predictions are judged against.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reference {
    /// Won share of the rows that the model was trained on: the forecast to beat.
    pub base_rate: f64,
    /// The currency of the amounts.
    pub base_currency: Currency,
}

/// Measures of a set of predictions. All are of the rows given, which the model must not have seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    pub rows: usize,
    pub deals: usize,
    pub won_rows: usize,
    /// Won share of these rows.
    pub base_rate: f64,
    /// Won share of the rows that the model was trained on: the forecast to beat.
    pub training_base_rate: f64,
    /// Area under the ROC curve, ties counted half; the base rate's is 0.5. `None` when all rows have
    /// one outcome.
    pub auc: Option<f64>,
    /// Area under the precision-recall curve (average precision); the base rate's is
    /// [`Self::base_rate`]. `None` without a won row.
    pub pr_auc: Option<f64>,
    pub log_loss: f64,
    /// Log loss of giving every row the training base rate.
    pub log_loss_of_base_rate: f64,
    pub brier: f64,
    pub brier_of_base_rate: f64,
    /// Expected calibration error over ten bins of equal count; see [`Bin`].
    pub ece: f64,
    /// Won share of the best tenth over the won share of all; likewise of the best fifth.
    pub lift_10: f64,
    pub lift_20: f64,
    /// Log loss of the base rate minus that of the model.
    pub gain: Estimate,
    /// Whether the interval of the gain lies above zero.
    pub has_skill: bool,
    /// The above in one sentence.
    pub verdict: String,
    /// Resamples that the intervals come from.
    pub resamples: usize,
    /// The currency of all values.
    pub base_currency: Currency,
    pub reliability: Vec<Bin>,
    /// `None` where no won row has an amount.
    pub backtest: Option<Backtest>,
    /// `None` where the predictions were judged without their deals.
    pub drift: Option<Drift>,
    /// `None` where the predictions were judged without their deals, or too few of these are old enough.
    pub recalibration: Option<Recalibration>,
    /// One entry a protected attribute.
    pub fairness: Vec<Fairness>,
}

/// Judges predictions; `None` when there are no rows. `seed` drives the bootstrap. Drift and fairness
/// need more than predictions and are left empty, as is the recalibration.
pub fn evaluate(rows: &[Judged], reference: Reference, seed: u64) -> Option<Evaluation> {
    if rows.is_empty() {
        return None;
    }
    let count = rows.len() as f64;
    let won_rows = rows.iter().filter(|r| r.won).count();
    let mean = |f: &dyn Fn(&Judged) -> f64| rows.iter().map(f).sum::<f64>() / count;
    let base_rate = reference.base_rate;
    let resamples = Resamples::of(rows, seed);
    let (gain, backtest) = resampled(rows, base_rate, &resamples);
    let reliability = reliability::bins(rows);
    let mut evaluation = Evaluation {
        rows: rows.len(),
        deals: resamples.deals(),
        won_rows,
        base_rate: won_rows as f64 / count,
        training_base_rate: base_rate,
        auc: auc(rows),
        pr_auc: pr_auc(rows),
        log_loss: mean(&|r| log_loss(r.probability, r.won)),
        log_loss_of_base_rate: mean(&|r| log_loss(base_rate, r.won)),
        brier: mean(&|r| square_error(r.probability, r.won)),
        brier_of_base_rate: mean(&|r| square_error(base_rate, r.won)),
        ece: reliability::ece(&reliability),
        lift_10: lift(rows, 0.1),
        lift_20: lift(rows, 0.2),
        gain,
        has_skill: gain.low > 0.0,
        verdict: String::new(),
        resamples: resamples.count(),
        base_currency: reference.base_currency,
        reliability,
        backtest,
        drift: None,
        recalibration: None,
        fairness: Vec::new(),
    };
    evaluation.verdict = verdict(&evaluation);
    Some(evaluation)
}

/// The gain in log loss over the base rate and the backtest, both from the same resamples.
fn resampled(
    rows: &[Judged],
    base_rate: f64,
    resamples: &Resamples,
) -> (Estimate, Option<Backtest>) {
    let gains = rows
        .iter()
        .map(|r| log_loss(base_rate, r.won) - log_loss(r.probability, r.won));
    let gains = resamples.sum_by_deal(gains);
    let sizes = resamples.sum_by_deal(rows.iter().map(|_| 1.0));
    let gain = |weights: &[u32]| weighted(&gains, weights) / weighted(&sizes, weights);
    let plan = backtest::Plan::of(rows, resamples);
    let drawn = resamples.map(|weights| {
        let captured = plan.as_ref().and_then(|plan| plan.captured(weights));
        (gain(weights), captured)
    });
    let (drawn_gains, captured): (Vec<f64>, Vec<_>) = drawn.into_iter().unzip();
    let gain = Estimate::new(gain(&resamples.once_each()), drawn_gains);
    (
        gain,
        plan.and_then(|plan| plan.backtest(resamples, captured)),
    )
}

/// The sum over deals, each as often as it was drawn.
fn weighted(by_deal: &[f64], weights: &[u32]) -> f64 {
    let deals = by_deal.iter().zip(weights);
    deals.map(|(value, &w)| value * f64::from(w)).sum()
}

fn verdict(e: &Evaluation) -> String {
    let mut text = format!(
        "log loss {:.3} against {:.3} of the base rate on {} deals it had not seen (gain {:.3}, 95% interval {:.3} to {:.3})",
        e.log_loss, e.log_loss_of_base_rate, e.deals, e.gain.value, e.gain.low, e.gain.high
    );
    if !e.has_skill {
        return format!(
            "The model shows no skill: {text}; a ranking by expected value is then in effect a ranking by amount."
        );
    }
    if let Some(money) = e.backtest.as_ref().and_then(verdict_on_money) {
        text.push_str(&money);
    }
    format!("The model has skill: {text}.")
}

/// What the top fifth by expected value captured, against the top fifth by amount.
fn verdict_on_money(backtest: &Backtest) -> Option<String> {
    const TOP: f64 = 0.2;
    let by_value = backtest.captured(Order::ExpectedValue, TOP)?;
    let by_amount = backtest.captured(Order::Amount, TOP)?;
    let more = backtest.over_amount.iter().find(|c| c.top == TOP)?.share;
    Some(format!(
        "; the top 20% by expected value held {:.1}% of the won value against {:.1}% by amount ({:+.1} points, 95% interval {:+.1} to {:+.1})",
        100.0 * by_value.value,
        100.0 * by_amount.value,
        100.0 * more.value,
        100.0 * more.low,
        100.0 * more.high
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn rows(predictions: &[(f64, bool)]) -> Vec<Judged> {
        let judged = predictions.iter().enumerate();
        judged
            .map(|(deal, &(probability, won))| Judged::new(probability, won, deal))
            .collect()
    }

    pub fn judge(predictions: &[(f64, bool)], base_rate: f64) -> Evaluation {
        evaluate(&rows(predictions), reference(base_rate), 7).unwrap()
    }

    pub fn reference(base_rate: f64) -> Reference {
        Reference {
            base_rate,
            base_currency: "EUR".parse().unwrap(),
        }
    }

    #[test]
    fn perfect_and_useless_predictions_are_told_apart() {
        let outcomes: Vec<bool> = (0..200).map(|i| i % 4 == 0).collect();
        let good: Vec<_> = outcomes
            .iter()
            .map(|&w| (if w { 0.8 } else { 0.1 }, w))
            .collect();
        let good = judge(&good, 0.25);
        assert!(good.has_skill && good.verdict.contains("has skill"));
        assert_eq!((good.auc, good.pr_auc), (Some(1.0), Some(1.0)));
        assert!((good.lift_10 - 4.0).abs() < 1e-12);
        let flat: Vec<_> = outcomes.iter().map(|&w| (0.25, w)).collect();
        let flat = judge(&flat, 0.25);
        assert!(!flat.has_skill && flat.verdict.contains("no skill"));
        assert_eq!((flat.auc, flat.pr_auc), (Some(0.5), Some(0.25)));
        assert!(evaluate(&[], reference(0.5), 1).is_none());
    }

    /// Ten thousand rows of a deal tell no more of it than one.
    #[test]
    fn the_interval_of_the_gain_is_as_wide_as_the_deals_are_few() {
        let predictions: Vec<_> = (0..400).map(|i| (0.3, i % 3 == 0)).collect();
        let apart = rows(&predictions);
        let together: Vec<Judged> = (0..10).flat_map(|_| apart.iter().copied()).collect();
        let [apart, together] =
            [apart, together].map(|rows| evaluate(&rows, reference(0.5), 1).unwrap());
        assert_eq!((apart.deals, together.deals), (400, 400));
        assert!((apart.gain.low - together.gain.low).abs() < 1e-12);
        assert!((apart.gain.high - together.gain.high).abs() < 1e-12);
    }

    #[test]
    fn money_is_in_the_verdict_where_it_is_known() {
        let mut judged = rows(
            &(0..100)
                .map(|i| (if i % 5 == 0 { 0.9 } else { 0.1 }, i % 5 == 0))
                .collect::<Vec<_>>(),
        );
        for row in &mut judged {
            row.amount = Some(100.0);
        }
        let e = evaluate(&judged, reference(0.2), 1).unwrap();
        assert!(
            e.verdict.contains(
                "held 100.0% of the won value against 20.0% by amount (+80.0 points, 95% interval"
            ),
            "{}",
            e.verdict
        );
    }
}
