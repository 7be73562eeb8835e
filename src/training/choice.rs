//! Folds of whole deals: judging recipes on rows that their coefficients had not seen.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::doubts::{Rival, by_phase, form_errors, reliability};
use super::{SEED, calibration};
use crate::domain::Phase;
use crate::error::Result;
use crate::learning::design::{Block, Design};
use crate::learning::estimator::{self, Problem};
use crate::model::doubts::{ByPhase, FormError, Reliability};
use crate::model::{Calibration, Scaling};

const FOLDS: usize = 5;
/// Rows that the choice looks at.
const ROWS_MAX: usize = 20_000;
/// Standard errors by which a recipe is worse that still counts for much: the standard deviation of a normal
/// curve.
const RIVAL_ERRORS: f64 = 3.0;
/// Steps in a row that must be worse than the best before the search stops.
const WORSE_MAX: usize = 2;
/// Twice the gain in log-likelihood that a calibration needs: chance gives this much to two
/// parameters in one of a hundred cases (chi-squared with two degrees of freedom).
const CALIBRATION_GAIN_MIN: f64 = 9.21;
/// Next to nothing: two parameters need no penalty but on separable rows.
const CALIBRATION_PENALTY: f64 = 1e-3;

/// A penalty, and the heights of the design's blocks under which it is tried.
#[derive(Clone)]
pub struct Step {
    pub alpha: f64,
    pub heights: Vec<f64>,
}

/// What a fold adds to a design: blocks of all its rows, and the penalties tried with them.
pub struct Beside {
    pub blocks: Vec<Block>,
    pub steps: Vec<Step>,
}

/// Rows held out of some of their deals' fits, and how well a recipe did on them.
pub struct Judgement {
    /// The best step, by its place.
    pub step: usize,
    /// Log-odds of each sampled row by the fit that had not seen its deal.
    eta: Vec<f64>,
    losses: Vec<f64>,
    loss: f64,
}

/// Folds of whole deals. Of many rows, a sample of deals is enough: the best penalty is a property of
/// the effects, not of the rows.
pub struct Folds {
    /// Sampled rows, deal by deal.
    rows: Vec<usize>,
    won: Vec<bool>,
    /// Deal of each sampled row.
    deals: Vec<usize>,
    /// For each fold, positions in `rows` to fit on and to judge on.
    parts: Vec<(Vec<usize>, Vec<usize>)>,
}

impl Folds {
    /// The rows of a random sample of deals, in their order; of all, where they are not too many.
    pub fn sample(deals: &[usize]) -> Vec<usize> {
        let sampled = shuffled(deals, ROWS_MAX).into_iter();
        let mut rows: Vec<usize> = sampled.flatten().collect();
        rows.sort_unstable();
        rows
    }

    /// Of a sample of deals with about so many rows; `None` where the fitting part of a fold would have
    /// one outcome only.
    pub fn of_at_most(rows_max: usize, won: &[bool], deals: &[usize]) -> Option<Self> {
        let (mut rows, mut fold_of) = (Vec::new(), Vec::new());
        for (position, own) in shuffled(deals, rows_max).into_iter().enumerate() {
            fold_of.extend(own.iter().map(|_| position % FOLDS));
            rows.extend(own);
        }
        let won: Vec<bool> = rows.iter().map(|&row| won[row]).collect();
        let parts: Vec<(Vec<usize>, Vec<usize>)> = (0..FOLDS)
            .map(|fold| (0..rows.len()).partition(|&position| fold_of[position] != fold))
            .collect();
        let has_both = |train: &[usize]| {
            let wins = train.iter().filter(|&&position| won[position]).count();
            wins > 0 && wins < train.len()
        };
        let is_usable = parts
            .iter()
            .all(|(train, test)| has_both(train) && !test.is_empty());
        is_usable.then(|| Self {
            deals: rows.iter().map(|&row| deals[row]).collect(),
            rows,
            won,
            parts,
        })
    }

    /// Of as many rows as the choice looks at; `None` as [`Self::of_at_most`].
    pub fn new(won: &[bool], deals: &[usize]) -> Option<Self> {
        Self::of_at_most(ROWS_MAX, won, deals)
    }

    /// The mean log loss over the sampled rows.
    pub fn log_loss(&self, judged: &Judgement) -> f64 {
        judged.loss / self.rows.len() as f64
    }

    /// The answers for the rows that each fold fits on. What is found by looking at outcomes is found
    /// anew for each fold: it must not have seen those that it is judged by.
    pub fn in_each<T: Send>(&self, work: impl Fn(usize, &[usize]) -> T + Sync) -> Vec<T> {
        let mut folds: Vec<usize> = (0..FOLDS).collect();
        in_parallel(&mut folds, |fold| {
            work(*fold, &self.rows_at(&self.parts[*fold].0))
        })
    }

    fn rows_at(&self, positions: &[usize]) -> Vec<usize> {
        positions.iter().map(|&place| self.rows[place]).collect()
    }

    /// The step with the lowest log loss; steps start with the strongest penalty, and each fit where
    /// the one before ended. The steps of all folds have the same penalties. `on_step` is told of each
    /// tried.
    pub fn judge(
        &self,
        design: &Design,
        beside: Vec<Beside>,
        on_step: impl Fn(usize, usize),
    ) -> Option<Judgement> {
        let parts = self.parts.iter().zip(beside);
        let mut fits: Vec<FoldFit> = parts
            .map(|(part, beside)| self.fold(design, part, beside))
            .collect();
        let steps = fits.iter().map(|fit| fit.steps.len()).min().unwrap_or(0);
        let mut best: Option<Judgement> = None;
        let mut worse = 0;
        for place in 0..steps {
            on_step(place, steps);
            // A penalty too weak for the search to converge is no candidate.
            let judged = self.judge_step(&mut fits, place).ok();
            let best_loss = best.as_ref().map_or(f64::INFINITY, |best| best.loss);
            match judged {
                Some(judged) if judged.loss < best_loss => {
                    best = Some(judged);
                    worse = 0;
                }
                _ => worse += 1,
            }
            if worse == WORSE_MAX {
                break;
            }
        }
        best
    }

    fn fold(
        &self,
        design: &Design,
        (train, test): &(Vec<usize>, Vec<usize>),
        Beside { blocks, steps }: Beside,
    ) -> FoldFit {
        let part = |positions: &[usize]| {
            let rows = self.rows_at(positions);
            let blocks = blocks.iter().map(|block| block.select(&rows)).collect();
            design.select(&rows).with(blocks).serial()
        };
        FoldFit {
            train: part(train),
            train_won: train.iter().map(|&position| self.won[position]).collect(),
            test: part(test),
            steps,
            start: None,
        }
    }

    fn judge_step(&self, fits: &mut [FoldFit], place: usize) -> Result<Judgement> {
        let predicted = in_parallel(fits, |fit| fit.predict(place));
        let mut eta = vec![0.0; self.rows.len()];
        for ((_, test), predicted) in self.parts.iter().zip(predicted) {
            for (&position, value) in test.iter().zip(predicted?) {
                eta[position] = value;
            }
        }
        let losses: Vec<f64> = estimator::log_losses(&eta, &self.won).collect();
        Ok(Judgement {
            step: place,
            loss: losses.iter().sum(),
            eta,
            losses,
        })
    }

    /// Whether the second recipe is better than the first by more than so many standard errors of the
    /// difference, over deals.
    pub fn is_better(&self, first: &Judgement, second: &Judgement, errors: f64) -> bool {
        let (gain, error) = self.gain(first, second);
        gain > errors * error
    }

    /// By how much less a deal costs under the second recipe, and the standard error of that.
    fn gain(&self, first: &Judgement, second: &Judgement) -> (f64, f64) {
        let gains = first.losses.iter().zip(&second.losses).map(|(f, s)| f - s);
        let gains = self.by_deal(gains);
        let count = gains.len() as f64;
        let mean = gains.iter().sum::<f64>() / count;
        let variance = gains.iter().map(|g| (g - mean) * (g - mean)).sum::<f64>() / count;
        (mean, (variance / count).sqrt())
    }

    /// How wrong the form of the chosen recipe may be, told from the other ones. One counts the less the more
    /// standard errors it is worse: at three of them `exp(-1/2)`. `phases` are of all rows.
    pub fn form_errors(
        &self,
        chosen: &Judgement,
        others: &[&Judgement],
        phases: &[Phase],
    ) -> ByPhase<Vec<FormError>> {
        let weight = |other: &Judgement| {
            let (gain, error) = self.gain(other, chosen);
            let errors = if gain > 0.0 { gain / error } else { 0.0 };
            (-0.5 * (errors / RIVAL_ERRORS).powi(2)).exp()
        };
        let rivals = others.iter().map(|other| Rival {
            eta: &other.eta,
            weight: weight(other),
        });
        let rivals: Vec<Rival> = rivals.collect();
        by_phase(&self.own(phases), |phase, places| {
            form_errors(phase, &chosen.eta, &rivals, places)
        })
    }

    /// How far deals may be from what was predicted of them. `phases` are of all rows.
    pub fn reliability(
        &self,
        judged: &Judgement,
        calibration: Option<Calibration>,
        phases: &[Phase],
    ) -> ByPhase<Vec<Reliability>> {
        let phases = self.own(phases);
        let calibration = calibration.unwrap_or(Calibration::IDENTITY);
        let eta = phases.iter().zip(&judged.eta);
        let calibrated: Vec<f64> = eta
            .map(|(phase, &eta)| calibration.scaling(*phase == Phase::Later).apply(eta))
            .collect();
        by_phase(&phases, |phase, places| {
            reliability(
                phase,
                &judged.eta,
                &calibrated,
                &self.won,
                &self.deals,
                places,
            )
        })
    }

    /// Of all rows to those of the sample.
    fn own(&self, phases: &[Phase]) -> Vec<Phase> {
        self.rows.iter().map(|&row| phases[row]).collect()
    }

    fn by_deal(&self, values: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut sums: Vec<f64> = Vec::new();
        let mut last = None;
        for (value, &deal) in values.zip(&self.deals) {
            if last.replace(deal) == Some(deal) {
                if let Some(sum) = sums.last_mut() {
                    *sum += value;
                }
            } else {
                sums.push(value);
            }
        }
        sums
    }

    /// A slope and a shift for the log-odds (Platt 1999), fitted on rows that the coefficients had not
    /// seen; `None` unless they help by more than chance would have it.
    fn scaling(&self, judged: &Judgement) -> Option<Scaling> {
        let design =
            Design::new(judged.eta.len(), vec![Block::Numeric(judged.eta.clone())]).ok()?;
        let problem = Problem {
            design: &design,
            won: &self.won,
            weights: None,
            alpha: CALIBRATION_PENALTY,
        };
        let fitted = estimator::search_only(problem, Some(vec![1.0, 0.0])).ok()?;
        let scaling = Scaling {
            slope: fitted.coefficients[0],
            shift: fitted.intercept,
        };
        let eta: Vec<f64> = judged.eta.iter().map(|&eta| scaling.apply(eta)).collect();
        let loss: f64 = estimator::log_losses(&eta, &self.won).sum();
        let deals = self.by_deal(judged.losses.iter().copied()).len();
        let rows_per_deal = self.rows.len() as f64 / deals as f64;
        let gain = 2.0 * (judged.loss - loss) / rows_per_deal;
        (scaling.slope > 0.0 && gain > CALIBRATION_GAIN_MIN).then_some(scaling)
    }

    /// What the rows that the coefficients had not seen say of the log-odds: in all, if it helps, and
    /// where some deals have moved on from their first stage, of those and of the others apart.
    /// `phases` are of all rows.
    pub fn calibration(&self, judged: &Judgement, phases: &[Phase]) -> Option<Calibration> {
        let of_all = self.scaling(judged);
        let (later, first): (Vec<usize>, Vec<usize>) =
            (0..self.rows.len()).partition(|&place| phases[self.rows[place]] == Phase::Later);
        if first.is_empty() || later.is_empty() {
            return of_all.map(Calibration::of_all);
        }
        let of_all = of_all.unwrap_or(Scaling::IDENTITY);
        let apart = |places: Vec<usize>| {
            let deals = places.chunk_by(|&a, &b| self.deals[a] == self.deals[b]);
            let row_weight = deals.count() as f64 / places.len() as f64;
            let eta = |&place: &usize| (of_all.apply(judged.eta[place]), self.won[place]);
            let rows: Vec<(f64, bool)> = places.iter().map(eta).collect();
            calibration::scaling(&rows, row_weight).after(of_all)
        };
        Some(Calibration {
            first_stage: apart(first),
            later: apart(later),
        })
    }
}

/// The rows of each deal, deals in a random order, as long as there are not too many rows.
fn shuffled(deals: &[usize], rows_max: usize) -> Vec<Vec<usize>> {
    let mut rows_of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (row, &deal) in deals.iter().enumerate() {
        rows_of.entry(deal).or_default().push(row);
    }
    let mut shuffled: Vec<Vec<usize>> = rows_of.into_values().collect();
    shuffled.shuffle(&mut ChaCha8Rng::seed_from_u64(SEED));
    let mut rows = 0;
    let is_within = |own: &Vec<usize>| {
        rows += own.len();
        rows <= rows_max
    };
    shuffled.into_iter().take_while(is_within).collect()
}

/// One part to fit on and one to judge on, and where the last fit ended.
struct FoldFit {
    train: Design,
    train_won: Vec<bool>,
    test: Design,
    steps: Vec<Step>,
    /// Weights.
    start: Option<Vec<f64>>,
}

impl FoldFit {
    /// Log-odds of the judged part by a fit of the step at this place.
    fn predict(&mut self, place: usize) -> Result<Vec<f64>> {
        let step = &self.steps[place];
        self.train.set_heights(&step.heights);
        self.test.set_heights(&step.heights);
        let problem = Problem {
            design: &self.train,
            won: &self.train_won,
            weights: None,
            alpha: step.alpha,
        };
        let start = self.start.take().map(|weights| self.train.params(&weights));
        let params = estimator::search_only(problem, start)?.params();
        let eta = self.test.linear_predictor(&params);
        self.start = Some(self.train.weights(&params));
        Ok(eta)
    }
}

/// The answers in the order of the items, whatever the number of threads.
fn in_parallel<T: Send, R: Send>(items: &mut [T], work: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let share = items.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let work = &work;
        let handles: Vec<_> = items
            .chunks_mut(share)
            .map(|chunk| scope.spawn(move || chunk.iter_mut().map(work).collect::<Vec<R>>()))
            .collect();
        handles
            .into_iter()
            .flat_map(|handle| match handle.join() {
                Ok(answers) => answers,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}
