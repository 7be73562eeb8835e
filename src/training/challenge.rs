//! Whether what was learned anew is better than the champion, told by deals that neither has seen.
//!
//! The recipe is fitted on what was known at a cut no earlier than the champion's own knowledge, and
//! both are judged on the deals whose end was not known then, as those deals stood after the cut. The
//! model that is kept afterwards has learned from all deals, these included.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::rows::History;
use super::{HELD_OUT_MIN, SEED, TrainOptions, fit, leakage, win_probability};
use crate::domain::Deal;
use crate::error::{Error, Result};
use crate::evaluation::{Estimate, log_loss};
use crate::model::{Model, Report};
use crate::progress::OnProgress;
use crate::scoring::Scorer;

/// The share of the deals that is worked, the most valuable first by expected value.
const WORKED_SHARE: f64 = 0.2;
/// Resamples for the intervals of the differences.
const RESAMPLES: usize = 500;

/// How a newly learned model did against the champion of its day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Challenge {
    /// Version of the model it was compared with.
    pub champion: String,
    /// Whether it may take the champion's place by itself: the interval of the difference in log loss
    /// lies above zero, and it captured more of the won value.
    pub is_better: bool,
    /// The outcome in a sentence, or why there is none.
    pub verdict: String,
    /// Null when too few deals ended since the champion was trained.
    pub comparison: Option<Comparison>,
}

/// Champion and challenger on the same deals, whose end neither had seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Comparison {
    /// The challenger that was judged learned from what was known then; the judged deals ended later.
    #[schema(value_type = String, format = DateTime)]
    pub cut: Timestamp,
    pub deals: usize,
    pub won_deals: usize,
    /// Deals with a past stand on several days.
    pub rows: usize,
    /// Mean log loss of the rows.
    pub log_loss: Paired,
    /// Share of the won value in the best fifth of the deals by expected value, each deal as it first
    /// stood after the cut. Where no deal has an amount, each counts as one.
    pub captured_20: Paired,
}

/// A measure of both, and by how much the challenger is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Paired {
    pub champion: f64,
    pub challenger: f64,
    /// Positive where the challenger is better, whichever way the measure goes.
    pub difference: Difference,
}

/// A difference with its 95% bootstrap interval by deal.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Difference {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// One outcome, as both saw it coming.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecasts {
    pub champion: f64,
    pub challenger: f64,
    pub won: bool,
}

impl Forecasts {
    fn losses(&self) -> [f64; 2] {
        [self.champion, self.challenger].map(|probability| log_loss(probability, self.won))
    }
}

/// Compares the recipe on `deals` with the champion. Never fails: where nothing can be compared, the
/// verdict says why.
pub fn challenge(
    deals: &[Deal],
    champion: &Scorer,
    options: &TrainOptions,
    on_progress: OnProgress,
) -> Challenge {
    let version = champion.model().version.clone();
    match compare(deals, champion, options, on_progress) {
        Ok(comparison) => Challenge {
            champion: version,
            is_better: comparison.is_better(),
            verdict: comparison.verdict(),
            comparison: Some(comparison),
        },
        Err(reason) => Challenge {
            champion: version,
            is_better: false,
            verdict: format!("Not compared with the champion: {reason}."),
            comparison: None,
        },
    }
}

/// # Errors
/// `Unusable` when too few deals are newer than the champion, or there is nothing to learn from
/// before them.
fn compare(
    deals: &[Deal],
    champion: &Scorer,
    options: &TrainOptions,
    on_progress: OnProgress,
) -> Result<Comparison> {
    let history = History::of(deals, options.as_of)?;
    let (cut, picked) = judged_rows(&history, champion.model().known_until())?;
    let challenger = Scorer::new(
        fit_as_of(deals, cut, options, on_progress)?.into(),
        champion.exchange().clone(),
    )?;
    let trials = trials(&history, &picked, champion, &challenger);
    Ok(Comparison {
        cut,
        deals: trials.len(),
        won_deals: trials.iter().filter(|trial| trial.won).count(),
        rows: picked.len(),
        log_loss: paired_log_loss(&trials),
        captured_20: captured(&trials),
    })
}

/// The recipe on what was known at `cut`.
fn fit_as_of(
    deals: &[Deal],
    cut: Timestamp,
    options: &TrainOptions,
    on_progress: OnProgress,
) -> Result<Model> {
    let known = History::of(deals, cut)?;
    let rows = known.all_rows();
    let report = Report {
        split: format!("learned from what was known at {cut}"),
        train_deals: known.deals_of(&rows).len(),
        held_out: None,
    };
    let options = TrainOptions {
        as_of: cut,
        ..options.clone()
    };
    let findings = leakage::inspect(&known, deals, &options)?;
    let (model, _) = fit(
        &known,
        &rows,
        None,
        &findings,
        &options,
        report,
        on_progress,
    )?;
    Ok(model)
}

/// The cut and the rows to judge by. Of the deals that ended after the champion was trained the newer
/// half is judged, so that the challenger may know the older one, as it would have; where half is too
/// few, all are.
fn judged_rows(history: &History, seen: Timestamp) -> Result<(Timestamp, Vec<usize>)> {
    let newer = history.unseen_rows(seen);
    let mut dates: Vec<Timestamp> = (history.deals_of(&newer).into_iter())
        .filter_map(|deal| history.ended(deal))
        .collect();
    dates.sort_unstable();
    let half = dates.get(dates.len() / 2).copied();
    for cut in half.into_iter().chain([seen]) {
        let rows = history.unseen_rows(cut);
        if count(history, &rows).into_iter().min() >= Some(HELD_OUT_MIN) {
            return Ok((cut, rows));
        }
    }
    let [won, lost] = count(history, &newer);
    Err(Error::Unusable(format!(
        "{HELD_OUT_MIN} won and {HELD_OUT_MIN} lost deals are needed that are newer than what it had seen ({seen}), and there are {won} and {lost}"
    )))
}

/// Won and lost deals among the rows.
fn count(history: &History, rows: &[usize]) -> [usize; 2] {
    let deals = history.deals_of(rows);
    let won = deals.iter().filter(|&&deal| history.is_won(deal)).count();
    [won, deals.len() - won]
}

/// What one judged deal says of both.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Trial {
    won: bool,
    rows: f64,
    /// Summed log loss of its rows, champion first.
    losses: [f64; 2],
    /// What is gained if it is won, in the base currency.
    value: f64,
    /// Probability x value as it first stood after the cut, champion first.
    expected: [f64; 2],
}

fn trials(
    history: &History,
    picked: &[usize],
    champion: &Scorer,
    challenger: &Scorer,
) -> Vec<Trial> {
    let mut trials: BTreeMap<usize, Trial> = BTreeMap::new();
    let mut first: BTreeMap<usize, [f64; 2]> = BTreeMap::new();
    for &index in picked {
        let row = &history.rows[index];
        let snapshot = history.snapshot(row);
        let probabilities = [champion, challenger].map(|s| win_probability(s, &snapshot));
        let [champion_probability, challenger_probability] = probabilities;
        let forecasts = Forecasts {
            champion: champion_probability,
            challenger: challenger_probability,
            won: row.won,
        };
        first.entry(row.deal).or_insert(probabilities);
        let trial = trials.entry(row.deal).or_insert_with(|| Trial {
            won: row.won,
            rows: 0.0,
            losses: [0.0; 2],
            value: champion.base_amount(&snapshot).unwrap_or(0.0).max(0.0),
            expected: [0.0; 2],
        });
        trial.rows += 1.0;
        for (sum, loss) in trial.losses.iter_mut().zip(forecasts.losses()) {
            *sum += loss;
        }
    }
    let has_values = trials.values().any(|trial| trial.value > 0.0);
    for (deal, trial) in &mut trials {
        if !has_values {
            trial.value = 1.0;
        }
        trial.expected = first[deal].map(|probability| probability * trial.value);
    }
    trials.into_values().collect()
}

/// Log loss of forecasts that were made beside each other, one for each deal; `None` without any.
pub fn compare_forecasts(forecasts: &[Forecasts]) -> Option<Paired> {
    let trials: Vec<Trial> = forecasts
        .iter()
        .map(|forecasts| Trial {
            won: forecasts.won,
            rows: 1.0,
            losses: forecasts.losses(),
            value: 0.0,
            expected: [0.0; 2],
        })
        .collect();
    (!trials.is_empty()).then(|| paired_log_loss(&trials))
}

fn paired_log_loss(trials: &[Trial]) -> Paired {
    let losses = |times: &[u32]| {
        let mut sums = [0.0; 2];
        let mut rows = 0.0;
        for (trial, &times) in trials.iter().zip(times) {
            let times = f64::from(times);
            rows += times * trial.rows;
            sums[0] += times * trial.losses[0];
            sums[1] += times * trial.losses[1];
        }
        sums.map(|sum| sum / rows)
    };
    paired(trials.len(), losses, |champion, challenger| {
        champion - challenger
    })
}

/// The share of the won value among the deals that are worth working.
fn captured(trials: &[Trial]) -> Paired {
    let orders = [0, 1].map(|model| {
        let mut order: Vec<usize> = (0..trials.len()).collect();
        let expected = |deal: usize| trials[deal].expected[model];
        order.sort_by(|&a, &b| expected(b).total_cmp(&expected(a)));
        // Deals that are worth the same stand together: of those that do not all fit in, each counts
        // in part.
        let ties = order.chunk_by(|&a, &b| expected(a) == expected(b));
        ties.map(<[usize]>::to_vec).collect::<Vec<_>>()
    });
    let share = |ties: &[Vec<usize>], times: &[u32]| {
        let of = |deals: &[usize], value: &dyn Fn(&Trial) -> f64| -> f64 {
            let weigh = |&deal: &usize| f64::from(times[deal]) * value(&trials[deal]);
            deals.iter().map(weigh).sum()
        };
        let won_value = |trial: &Trial| if trial.won { trial.value } else { 0.0 };
        let mut room = WORKED_SHARE * times.iter().copied().map(f64::from).sum::<f64>();
        let (mut captured, mut total) = (0.0, 0.0);
        for deals in ties {
            let (count, value) = (of(deals, &|_| 1.0), of(deals, &won_value));
            total += value;
            if count > 0.0 {
                captured += value * (room / count).min(1.0);
                room = (room - count).max(0.0);
            }
        }
        if total > 0.0 { captured / total } else { 0.0 }
    };
    paired(
        trials.len(),
        |times| [share(&orders[0], times), share(&orders[1], times)],
        |champion, challenger| challenger - champion,
    )
}

/// A measure of both on all deals, and the percentile interval of the gain with whole deals drawn with
/// replacement (Efron 1979). `measure` is told how often each deal was drawn.
fn paired(
    deals: usize,
    measure: impl Fn(&[u32]) -> [f64; 2],
    gain: impl Fn(f64, f64) -> f64,
) -> Paired {
    let [champion, challenger] = measure(&vec![1; deals]);
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let gains: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let mut times = vec![0; deals];
            for _ in 0..deals {
                times[rng.random_range(0..deals)] += 1;
            }
            let [champion, challenger] = measure(&times);
            gain(champion, challenger)
        })
        .collect();
    let Estimate { value, low, high } = Estimate::new(gain(champion, challenger), gains);
    Paired {
        champion,
        challenger,
        difference: Difference { value, low, high },
    }
}

impl Comparison {
    /// What the noise of log loss allows to be said, and the far noisier won value as measured.
    fn is_better(&self) -> bool {
        self.has_better_log_loss() && self.captured_20.difference.value > 0.0
    }

    fn has_better_log_loss(&self) -> bool {
        self.log_loss.difference.low > 0.0
    }

    fn verdict(&self) -> String {
        let (loss, captured) = (&self.log_loss, &self.captured_20);
        let measured = format!(
            "log loss {:.3} against {:.3} on {} deals newer than both had seen (better by {:.3}, 95% interval {:.3} to {:.3}); the best fifth by expected value holds {:.1}% of the won value against {:.1}% (interval of the difference {:.1} to {:.1} points)",
            loss.challenger,
            loss.champion,
            self.deals,
            loss.difference.value,
            loss.difference.low,
            loss.difference.high,
            100.0 * captured.challenger,
            100.0 * captured.champion,
            100.0 * captured.difference.low,
            100.0 * captured.difference.high,
        );
        let finding = if self.is_better() {
            "Better than the champion"
        } else if self.has_better_log_loss() {
            "Better in log loss than the champion, but it captures no more of the won value"
        } else {
            "Not shown to be better than the champion"
        };
        format!("{finding}: {measured}.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(won: bool, value: f64, expected: [f64; 2]) -> Trial {
        Trial {
            won,
            rows: 1.0,
            losses: [0.0; 2],
            value,
            expected,
        }
    }

    #[test]
    fn the_best_fifth_is_taken_by_expected_value_and_ties_count_in_part() {
        let mut trials = vec![trial(false, 10.0, [0.0, 0.0]); 10];
        trials[0] = trial(true, 30.0, [9.0, 1.0]);
        trials[1] = trial(true, 10.0, [1.0, 9.0]);
        trials[2] = trial(false, 10.0, [1.0, 8.0]);
        let captured = captured(&trials);
        // The champion works the first deal and half of the two that it thinks alike.
        assert!((captured.champion - (30.0 + 5.0) / 40.0).abs() < 1e-12);
        assert!((captured.challenger - 10.0 / 40.0).abs() < 1e-12);
        assert!((captured.difference.value + 25.0 / 40.0).abs() < 1e-12);
        assert!(captured.difference.low <= captured.difference.value);
        assert!(captured.difference.value <= captured.difference.high);
    }

    #[test]
    fn a_clear_difference_in_log_loss_is_beyond_noise_and_none_is_not() {
        let forecasts = |champion: f64, challenger: f64| -> Vec<Forecasts> {
            let outcomes = (0..200).map(|i| i % 4 == 0);
            outcomes
                .map(|won| {
                    let toward = |p: f64| if won { p } else { 1.0 - p };
                    Forecasts {
                        champion: toward(champion),
                        challenger: toward(challenger),
                        won,
                    }
                })
                .collect()
        };
        let better = compare_forecasts(&forecasts(0.5, 0.8)).unwrap();
        assert!((better.champion - 2f64.ln()).abs() < 1e-12);
        assert!((better.challenger + 0.8f64.ln()).abs() < 1e-12);
        assert!(better.difference.low > 0.0, "{better:?}");
        let same = compare_forecasts(&forecasts(0.7, 0.7)).unwrap();
        assert_eq!(
            (
                same.difference.low,
                same.difference.value,
                same.difference.high
            ),
            (0.0, 0.0, 0.0)
        );
        assert_eq!(compare_forecasts(&[]), None);
    }

    #[test]
    fn only_a_challenger_that_is_better_on_both_takes_the_place_by_itself() {
        let paired = |value: f64, low: f64| Paired {
            champion: 0.5,
            challenger: 0.5,
            difference: Difference {
                value,
                low,
                high: value + (value - low),
            },
        };
        for (loss, captured, is_better) in [
            (paired(0.02, 0.01), paired(0.03, -0.05), true),
            (paired(0.02, 0.01), paired(0.0, -0.05), false),
            (paired(0.02, 0.01), paired(-0.01, -0.05), false),
            (paired(0.02, -0.01), paired(0.2, 0.1), false),
            (paired(-0.02, -0.03), paired(0.2, 0.1), false),
        ] {
            let comparison = Comparison {
                cut: Timestamp::UNIX_EPOCH,
                deals: 100,
                won_deals: 40,
                rows: 200,
                log_loss: loss,
                captured_20: captured,
            };
            assert_eq!(comparison.is_better(), is_better, "{comparison:?}");
            let says_so = comparison
                .verdict()
                .starts_with("Better than the champion:");
            assert_eq!(says_so, is_better);
        }
    }
}
