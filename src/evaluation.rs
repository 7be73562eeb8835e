//! How good probabilities are, on deals the model has not seen.

use std::cmp::Ordering;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Resamples for the interval of the gain in log loss.
const RESAMPLES: usize = 500;
const RELIABILITY_BINS: usize = 10;
/// Probabilities are moved this far from 0 and 1 before a logarithm is taken.
const CLIP: f64 = 1e-15;

/// A row to judge by: what was predicted, what happened, and which deal it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    pub probability: f64,
    pub won: bool,
    /// Rows of one deal share a number; they are resampled together.
    pub deal: usize,
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
    /// Area under the ROC curve, ties counted half; `None` when all rows have one outcome.
    pub auc: Option<f64>,
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
    /// Log loss of the base rate minus that of the model, with its 95% bootstrap interval by deal.
    pub gain: Gain,
    /// Whether the interval of the gain lies above zero.
    pub has_skill: bool,
    /// The above in one sentence.
    pub verdict: String,
    pub reliability: Vec<Bin>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gain {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// A tenth of the rows, by rising probability; more where many rows have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    pub rows: usize,
    pub probability_low: f64,
    pub probability_high: f64,
    /// Mean probability x rows.
    pub predicted_wins: f64,
    pub actual_wins: usize,
}

/// Judges predictions; `None` when there are no rows. `seed` drives the bootstrap.
pub fn evaluate(rows: &[Judged], training_base_rate: f64, seed: u64) -> Option<Evaluation> {
    if rows.is_empty() {
        return None;
    }
    let count = rows.len() as f64;
    let won_rows = rows.iter().filter(|r| r.won).count();
    let base_rate = won_rows as f64 / count;
    let mean = |f: &dyn Fn(&Judged) -> f64| rows.iter().map(f).sum::<f64>() / count;
    let reference = training_base_rate;
    let gain = gain(rows, reference, seed);
    let reliability = reliability(rows);
    let ece = reliability
        .iter()
        .map(|bin| (bin.predicted_wins - bin.actual_wins as f64).abs() / count)
        .sum();
    let auc = auc(rows);
    let has_skill = gain.low > 0.0;
    let mut evaluation = Evaluation {
        rows: rows.len(),
        deals: deal_count(rows),
        won_rows,
        base_rate,
        training_base_rate,
        auc,
        log_loss: mean(&|r| log_loss(r.probability, r.won)),
        log_loss_of_base_rate: mean(&|r| log_loss(reference, r.won)),
        brier: mean(&|r| square_error(r.probability, r.won)),
        brier_of_base_rate: mean(&|r| square_error(reference, r.won)),
        ece,
        lift_10: lift(rows, 0.1),
        lift_20: lift(rows, 0.2),
        gain,
        has_skill,
        verdict: String::new(),
        reliability,
    };
    evaluation.verdict = verdict(&evaluation);
    Some(evaluation)
}

fn verdict(e: &Evaluation) -> String {
    let measured = format!(
        "log loss {:.3} against {:.3} of the base rate on {} deals it had not seen (gain {:.3}, 95% interval {:.3} to {:.3})",
        e.log_loss, e.log_loss_of_base_rate, e.deals, e.gain.value, e.gain.low, e.gain.high
    );
    if e.has_skill {
        format!("The model has skill: {measured}.")
    } else {
        format!(
            "The model shows no skill: {measured}; a ranking by expected value is then in effect a ranking by amount."
        )
    }
}

/// `-ln(p)` of what happened, with p clipped to `[1e-15, 1 - 1e-15]`.
pub fn log_loss(probability: f64, won: bool) -> f64 {
    let p = probability.clamp(CLIP, 1.0 - CLIP);
    if won { -p.ln() } else { -(1.0 - p).ln() }
}

fn square_error(probability: f64, won: bool) -> f64 {
    let error = probability - f64::from(u8::from(won));
    error * error
}

/// The share of pairs of a won and a lost row in which the won one has the higher probability, ties
/// counted half (Mann-Whitney U). `None` with one class only.
pub fn auc(rows: &[Judged]) -> Option<f64> {
    let mut sorted: Vec<&Judged> = rows.iter().collect();
    sorted.sort_by(|a, b| a.probability.total_cmp(&b.probability));
    let won = rows.iter().filter(|r| r.won).count() as f64;
    let lost = rows.len() as f64 - won;
    if won == 0.0 || lost == 0.0 {
        return None;
    }
    let mut rank_sum = 0.0;
    let mut before = 0;
    for ties in sorted.chunk_by(|a, b| a.probability == b.probability) {
        let mean_rank = before as f64 + (ties.len() as f64 + 1.0) / 2.0;
        rank_sum += mean_rank * ties.iter().filter(|r| r.won).count() as f64;
        before += ties.len();
    }
    Some((rank_sum - won * (won + 1.0) / 2.0) / (won * lost))
}

/// Won share of the best `share` of rows over that of all; of ties that do not all fit in, each counts
/// in part, so that the order of the rows says nothing.
fn lift(rows: &[Judged], share: f64) -> f64 {
    let mut sorted: Vec<&Judged> = rows.iter().collect();
    sorted.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let won = |rows: &[&Judged]| rows.iter().filter(|r| r.won).count() as f64;
    let top = ((rows.len() as f64 * share).round() as usize).max(1);
    let (mut top_won, mut before) = (0.0, 0);
    for ties in sorted.chunk_by(|a, b| a.probability == b.probability) {
        let taken = ties.len().min(top - before);
        top_won += won(ties) * taken as f64 / ties.len() as f64;
        before += taken;
    }
    let (top_rate, rate) = (top_won / top as f64, won(&sorted) / rows.len() as f64);
    if rate > 0.0 { top_rate / rate } else { 0.0 }
}

/// At most ten bins by rising probability, of equal count as far as rows of one probability stay in
/// one bin; the first ones are larger by one row if need be.
fn reliability(rows: &[Judged]) -> Vec<Bin> {
    let mut sorted: Vec<&Judged> = rows.iter().collect();
    sorted.sort_by(|a, b| a.probability.total_cmp(&b.probability));
    let bins = RELIABILITY_BINS.min(rows.len());
    let (small, larger) = (rows.len() / bins, rows.len() % bins);
    let mut rest = sorted.as_slice();
    let mut planned_end = 0;
    (0..bins)
        .filter_map(|index| {
            planned_end += small + usize::from(index < larger);
            let taken = rows.len() - rest.len();
            let last = sorted[planned_end - 1].probability;
            let end = sorted.partition_point(|r| r.probability <= last);
            let (bin, tail) = rest.split_at(end.saturating_sub(taken));
            rest = tail;
            (!bin.is_empty()).then(|| Bin {
                rows: bin.len(),
                probability_low: bin[0].probability,
                probability_high: bin[bin.len() - 1].probability,
                predicted_wins: bin.iter().map(|r| r.probability).sum(),
                actual_wins: bin.iter().filter(|r| r.won).count(),
            })
        })
        .collect()
}

fn deal_count(rows: &[Judged]) -> usize {
    let mut deals: Vec<usize> = rows.iter().map(|r| r.deal).collect();
    deals.sort_unstable();
    deals.dedup();
    deals.len()
}

/// The gain and its percentile interval, whole deals drawn with replacement (Efron 1979).
fn gain(rows: &[Judged], reference: f64, seed: u64) -> Gain {
    let mut by_deal = std::collections::BTreeMap::<usize, (f64, f64)>::new();
    for row in rows {
        let gain = log_loss(reference, row.won) - log_loss(row.probability, row.won);
        let entry = by_deal.entry(row.deal).or_default();
        *entry = (entry.0 + gain, entry.1 + 1.0);
    }
    let deals: Vec<(f64, f64)> = by_deal.into_values().collect();
    let mean = |picked: &mut dyn Iterator<Item = &(f64, f64)>| {
        let (sum, count) = picked.fold((0.0, 0.0), |(s, c), (gain, rows)| (s + gain, c + rows));
        sum / count
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut resampled: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut picks = (0..deals.len()).map(|_| &deals[rng.random_range(0..deals.len())]);
            mean(&mut picks)
        })
        .collect();
    resampled.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    let at = |q: f64| resampled[((RESAMPLES - 1) as f64 * q).round() as usize];
    Gain {
        value: mean(&mut deals.iter()),
        low: at(0.025),
        high: at(0.975),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(predictions: &[(f64, bool)]) -> Vec<Judged> {
        let judged = predictions.iter().enumerate();
        judged
            .map(|(deal, &(probability, won))| Judged {
                probability,
                won,
                deal,
            })
            .collect()
    }

    /// Values from scikit-learn 1.7.2: roc_auc_score, log_loss, brier_score_loss.
    #[test]
    fn measures_agree_with_scikit_learn() {
        let rows = rows(&[
            (0.1, false),
            (0.4, false),
            (0.35, true),
            (0.8, true),
            (0.4, true),
            (0.65, false),
            (0.9, true),
            (0.05, false),
        ]);
        let e = evaluate(&rows, 0.5, 1).unwrap();
        assert!((e.auc.unwrap() - 0.78125).abs() < 1e-12);
        assert!(
            (e.log_loss - 0.501_489_810_206_864_3).abs() < 1e-12,
            "{}",
            e.log_loss
        );
        assert!((e.brier - 0.178_437_5).abs() < 1e-12, "{}", e.brier);
        assert!((e.log_loss_of_base_rate - 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn perfect_and_useless_predictions_are_told_apart() {
        let outcomes: Vec<bool> = (0..200).map(|i| i % 4 == 0).collect();
        let good: Vec<_> = outcomes
            .iter()
            .map(|&w| (if w { 0.8 } else { 0.1 }, w))
            .collect();
        let good = evaluate(&rows(&good), 0.25, 7).unwrap();
        assert!(good.has_skill && good.verdict.contains("has skill"));
        assert_eq!(good.auc, Some(1.0));
        assert!((good.lift_10 - 4.0).abs() < 1e-12);
        let flat: Vec<_> = outcomes.iter().map(|&w| (0.25, w)).collect();
        let flat = evaluate(&rows(&flat), 0.25, 7).unwrap();
        assert!(!flat.has_skill && flat.verdict.contains("no skill"));
        assert_eq!(flat.auc, Some(0.5));
    }

    #[test]
    fn the_order_of_rows_with_one_probability_says_nothing() {
        let constant: Vec<_> = (0..100).map(|i| (0.25, i < 25)).collect();
        let e = evaluate(&rows(&constant), 0.25, 1).unwrap();
        assert_eq!((e.lift_10, e.lift_20), (1.0, 1.0));
        assert_eq!((e.reliability.len(), e.ece), (1, 0.0));
        let halves: Vec<_> = (0..100)
            .map(|i| (if i < 55 { 0.2 } else { 0.8 }, i % 5 == 0))
            .collect();
        let e = evaluate(&rows(&halves), 0.2, 1).unwrap();
        let counts: Vec<usize> = e.reliability.iter().map(|bin| bin.rows).collect();
        assert_eq!(counts, [55, 45]);
    }

    #[test]
    fn ten_bins_hold_all_rows() {
        let predictions: Vec<_> = (0..23).map(|i| (f64::from(i) / 23.0, i % 2 == 0)).collect();
        let e = evaluate(&rows(&predictions), 0.5, 1).unwrap();
        assert_eq!(e.reliability.len(), 10);
        assert_eq!(e.reliability.iter().map(|b| b.rows).sum::<usize>(), 23);
        assert_eq!(e.reliability[0].rows, 3);
        assert!(evaluate(&[], 0.5, 1).is_none());
    }
}
