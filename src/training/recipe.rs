//! How far the model may bend and how far its weights are shrunk: found by looking at the training
//! rows alone, and the same for every data set.

use std::borrow::Cow;

use super::choice::{Beside, Folds, Judgement, Step};
use super::phase;
use crate::columns::Column;
use crate::crosses::{LevelCodes, Pair, Unexplained};
use crate::domain::Phase;
use crate::domain::probability::logistic;
use crate::error::Result;
use crate::learning::design::{Block, Design, NO_LEVEL};
use crate::learning::estimator::{self, Problem};
use crate::learning::shrinkage;
use crate::model::doubts::Doubts;
use crate::model::{Calibration, Form, Tried};
use crate::progress::OnProgress;

/// Penalties tried, the strongest first; one is what the evidence asks for.
const ALPHAS: [f64; 6] = [100.0, 30.0, 10.0, 3.0, 1.0, 0.3];
/// Penalties tried for the cells of crosses, per deal's row.
const CROSS_PENALTIES: [f64; 6] = [3000.0, 1000.0, 300.0, 100.0, 30.0, 10.0];
/// How much stronger the columns' own penalty is beside crosses, which share their work. Where much hangs
/// on few columns, as on the time of landmarks, it is better as strong as without.
const BESIDE_CROSSES: [f64; 2] = [3.0, 1.0];
/// The penalty where there are too few deals to choose one.
const ALPHA_UNCHOSEN: f64 = 10.0;
/// Rows that the calibration of the fit that is kept looks at.
const CALIBRATION_ROWS_MAX: usize = 60_000;
/// Rows that the shrinkage of the columns looks at, fewer of many columns: seconds for each look.
const EVIDENCE_ROWS_MAX: usize = 20_000;
const EVIDENCE_PRODUCTS_MAX: usize = 200_000_000;

/// What is chosen by looking at the training rows, and serves the fit on all of them.
#[derive(Debug, Clone)]
pub struct Recipe {
    pub alpha: f64,
    pub calibration: Option<Calibration>,
    pub doubts: Doubts,
    pub tried: Vec<Tried>,
    bends: Bends,
}

/// A form at its best penalty, and how it did.
struct Candidate {
    alpha: f64,
    bends: Bends,
    judged: Judgement,
}

#[derive(Debug, Clone, Copy)]
enum Bends {
    /// Lines with one penalty for all: too few deals for more.
    Unchosen,
    Lines,
    Curves,
    Bands,
    Crosses {
        penalty: f64,
        /// The penalty of the columns without crosses.
        alpha_alone: f64,
    },
}

impl Bends {
    fn form(self) -> Form {
        match self {
            Self::Unchosen | Self::Lines => Form::Lines,
            Self::Curves => Form::Curves,
            Self::Bands => Form::Bands,
            Self::Crosses { .. } => Form::Crosses,
        }
    }

    fn cross_penalty(self) -> Option<f64> {
        match self {
            Self::Crosses { penalty, .. } => Some(penalty),
            Self::Unchosen | Self::Lines | Self::Curves | Self::Bands => None,
        }
    }
}

impl Recipe {
    /// The simplest form that none of the richer ones beats beyond doubt, its penalty, and a
    /// calibration if it helps. `bands` is the design of the columns' blocks.
    pub fn choose(
        columns: &[Column],
        bands: &Design,
        won: &[bool],
        deals: &[usize],
        phases: &[Phase],
        on_progress: OnProgress,
    ) -> Self {
        let unchosen = Self {
            alpha: ALPHA_UNCHOSEN,
            calibration: None,
            doubts: Doubts::default(),
            tried: Vec::new(),
            bends: Bends::Unchosen,
        };
        let sample = Folds::sample(deals);
        let bands = &bands.select(&sample);
        let won: Vec<bool> = sample.iter().map(|&row| won[row]).collect();
        let deals: Vec<usize> = sample.iter().map(|&row| deals[row]).collect();
        let phases: Vec<Phase> = sample.iter().map(|&row| phases[row]).collect();
        let (won, deals) = (&won[..], &deals[..]);
        let Some(folds) = Folds::new(won, deals) else {
            return unchosen;
        };
        let rows_per_deal = rows_per_deal(deals);
        let alphas = ALPHAS.map(|alpha| alpha * rows_per_deal);
        let judge = |name, design: &Design, beside: Vec<Beside>| {
            folds.judge(design, beside, |done, total| {
                on_progress(phase(name, done, total))
            })
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        let (mut width, mut band_heights) = (0, Vec::new());
        for (bends, name) in [
            (Bends::Lines, "choosing the penalty"),
            (Bends::Curves, "trying curves"),
            (Bends::Bands, "trying bands"),
        ] {
            let design = &*simplified(&mut columns.to_vec(), Cow::Borrowed(bands), bends);
            if candidates.last().is_some() && design.width() == width {
                // No number bends any further.
                continue;
            }
            width = design.width();
            let heights = folds.in_each(|_, rows| heights_by(design, won, deals, rows));
            let steps = heights.iter().map(|h| alone(h, &alphas)).collect();
            if let Some(judged) = judge(name, design, steps) {
                candidates.push(Candidate {
                    alpha: alphas[judged.step],
                    bends,
                    judged,
                });
            }
            band_heights = heights;
        }
        let Some(alpha_of_bands) = candidates.last().map(|candidate| candidate.alpha) else {
            return unchosen;
        };

        let penalties = CROSS_PENALTIES.map(|penalty| penalty * rows_per_deal);
        let mut penalties = &penalties[..];
        for beside in BESIDE_CROSSES {
            let alpha = beside * alpha_of_bands;
            let crossing = Crossing {
                columns,
                bands,
                won,
                deals,
                alpha_alone: alpha_of_bands,
                alpha,
                penalties,
            };
            let steps = folds.in_each(|fold, rows| crossing.beside(&band_heights[fold], rows));
            let Some(judged) = judge("trying crosses", bands, steps) else {
                break;
            };
            // The cells' own penalty hardly depends on that of the columns.
            penalties = &penalties[judged.step..=judged.step];
            candidates.push(Candidate {
                alpha,
                bends: Bends::Crosses {
                    penalty: penalties[0],
                    alpha_alone: alpha_of_bands,
                },
                judged,
            });
        }
        Self::simplest_of(&folds, &candidates, &phases)
    }

    /// The simplest candidate that none of the richer ones, which follow it, beats by more than the
    /// standard error of the difference. A curve is as simple as a line: it has to be better.
    fn simplest_of(folds: &Folds, candidates: &[Candidate], phases: &[Phase]) -> Self {
        let better = |best, rich: &Candidate| {
            let errors = match rich.bends {
                Bends::Curves => 0.0,
                _ => 1.0,
            };
            folds.is_better(best, &rich.judged, errors)
        };
        let chosen = candidates.iter().reduce(|best, rich| {
            if better(&best.judged, rich) {
                rich
            } else {
                best
            }
        });
        let chosen = chosen.expect("lines are always among the candidates");
        let others = candidates.iter().filter(|c| !std::ptr::eq(*c, chosen));
        let others: Vec<&Judgement> = others.map(|c| &c.judged).collect();
        let tried = candidates.iter().map(|c| Tried {
            form: c.bends.form(),
            alpha: c.alpha,
            cross_penalty: c.bends.cross_penalty(),
            log_loss: folds.log_loss(&c.judged),
        });
        let calibration = folds.calibration(&chosen.judged, phases);
        Self {
            alpha: chosen.alpha,
            calibration,
            doubts: Doubts {
                forms: folds.form_errors(&chosen.judged, &others, phases),
                reliability: folds.reliability(&chosen.judged, calibration, phases),
            },
            tried: tried.collect(),
            bends: chosen.bends,
        }
    }

    /// The same, calibrated on more rows than it was chosen by: what sets new deals apart from old ones
    /// is small, and takes many rows to tell. Where no deal has moved on, nothing changes.
    pub fn calibrated(
        self,
        columns: &[Column],
        bands: &Design,
        won: &[bool],
        deals: &[usize],
        phases: &[Phase],
    ) -> Self {
        let folds = match phases.contains(&Phase::Later) {
            true => Folds::of_at_most(CALIBRATION_ROWS_MAX, won, deals),
            false => None,
        };
        let Some(folds) = folds else {
            return self;
        };
        let heights = |design: &Design, rows: &[usize]| heights_by(design, won, deals, rows);
        let alphas = [self.alpha];
        let design = &*simplified(&mut columns.to_vec(), Cow::Borrowed(bands), self.bends);
        let beside = match self.bends {
            Bends::Unchosen => return self,
            Bends::Lines | Bends::Curves | Bends::Bands => {
                folds.in_each(|_, rows| alone(&heights(design, rows), &alphas))
            }
            Bends::Crosses {
                penalty,
                alpha_alone,
            } => {
                let crossing = Crossing {
                    columns,
                    bands,
                    won,
                    deals,
                    alpha_alone,
                    alpha: self.alpha,
                    penalties: &[penalty],
                };
                folds.in_each(|_, rows| crossing.beside(&heights(design, rows), rows))
            }
        };
        match folds.judge(design, beside, |_, _| ()) {
            Some(judged) => {
                let calibration = folds.calibration(&judged, phases);
                Self {
                    calibration,
                    doubts: Doubts {
                        reliability: folds.reliability(&judged, calibration, phases),
                        ..self.doubts
                    },
                    ..self
                }
            }
            None => self,
        }
    }

    /// Lines under one strong penalty, and no calibration: for too few deals to choose by.
    pub fn plain(self) -> Self {
        Self {
            alpha: ALPHA_UNCHOSEN,
            calibration: None,
            bends: Bends::Unchosen,
            ..self
        }
    }

    pub fn form(&self) -> Form {
        self.bends.form()
    }

    pub fn cross_penalty(&self) -> Option<f64> {
        self.bends.cross_penalty()
    }

    /// The square to expect of a coefficient, in units of its height: what the evidence found where it
    /// shaped the heights, or what the penalty stands for.
    pub fn expected_square(&self, deals: &[usize]) -> f64 {
        let presumed = rows_per_deal(deals) / self.alpha;
        match self.bends {
            Bends::Lines | Bends::Curves | Bends::Bands => presumed.max(1.0),
            Bends::Unchosen | Bends::Crosses { .. } => presumed,
        }
    }

    /// The design to fit, with the crossed pairs whose blocks come last; `bands` is the design of the
    /// columns' blocks, and the columns lose the curves and bands that the form does not have.
    ///
    /// # Errors
    /// `Unusable` when the fit that tells which pairs are worth crossing does not converge.
    pub fn design(
        &self,
        columns: &mut [Column],
        bands: Design,
        won: &[bool],
        deals: &[usize],
    ) -> Result<(Design, Vec<Pair>)> {
        let mut design = simplified(columns, Cow::Owned(bands), self.bends).into_owned();
        if let Bends::Unchosen = self.bends {
            return Ok((design, Vec::new()));
        }
        let own_heights = heights(&design, won, deals);
        design.set_heights(&own_heights);
        let Bends::Crosses {
            penalty,
            alpha_alone,
        } = self.bends
        else {
            return Ok((design, Vec::new()));
        };
        let rows = Folds::sample(deals);
        let sampled_won: Vec<bool> = rows.iter().map(|&row| won[row]).collect();
        // Fewer rows weigh less against the penalty.
        let share = rows.len() as f64 / design.rows() as f64;
        let alpha_alone = share * alpha_alone;
        let unexplained = unexplained(&design.select(&rows), &sampled_won, &rows, alpha_alone)?;
        let pairs = worthy_pairs(columns, &design, &unexplained, deals);
        let mut crossed = design.with(pairs.iter().map(Pair::block).collect());
        crossed.set_heights(&crossed_heights(
            &own_heights,
            pairs.len(),
            self.alpha,
            penalty,
        ));
        Ok((crossed, pairs))
    }
}

/// Nothing but the blocks that all folds have, under these penalties.
fn alone(heights: &[f64], alphas: &[f64]) -> Beside {
    let step = |&alpha: &f64| Step {
        alpha,
        heights: heights.to_vec(),
    };
    Beside {
        blocks: Vec::new(),
        steps: alphas.iter().map(step).collect(),
    }
}

/// What it takes to cross columns, for each fold anew.
struct Crossing<'a> {
    columns: &'a [Column],
    bands: &'a Design,
    won: &'a [bool],
    deals: &'a [usize],
    /// Penalty of the columns without crosses, and beside them.
    alpha_alone: f64,
    alpha: f64,
    /// Of the crosses' cells.
    penalties: &'a [f64],
}

impl Crossing<'_> {
    /// The pairs worth crossing by what these rows say; `heights` are of the bands.
    fn beside(&self, heights: &[f64], rows: &[usize]) -> Beside {
        let mut design = self.bands.select(rows).serial();
        design.set_heights(heights);
        let won: Vec<bool> = rows.iter().map(|&row| self.won[row]).collect();
        let unexplained = unexplained(&design, &won, rows, self.alpha_alone);
        let pairs =
            unexplained.map(|rows| worthy_pairs(self.columns, self.bands, &rows, self.deals));
        let pairs = pairs.unwrap_or_default();
        let step = |&penalty: &f64| Step {
            alpha: self.alpha,
            heights: crossed_heights(heights, pairs.len(), self.alpha, penalty),
        };
        Beside {
            steps: match pairs.is_empty() {
                true => Vec::new(),
                false => self.penalties.iter().map(step).collect(),
            },
            blocks: pairs.iter().map(Pair::block).collect(),
        }
    }
}

fn rows_per_deal(deals: &[usize]) -> f64 {
    // The rows of a deal stand side by side.
    let deals_count = deals.chunk_by(|a, b| a == b).count();
    deals.len() as f64 / deals_count.max(1) as f64
}

/// Heights by the evidence of all rows.
fn heights(design: &Design, won: &[bool], deals: &[usize]) -> Vec<f64> {
    heights_by(design, won, deals, &(0..design.rows()).collect::<Vec<_>>())
}

/// Heights by the evidence of a sample of the given rows, which stand for fewer where deals have
/// several.
fn heights_by(design: &Design, won: &[bool], deals: &[usize], rows: &[usize]) -> Vec<f64> {
    let blocks = design.blocks().len().max(1);
    let rows_max = EVIDENCE_ROWS_MAX
        .min(EVIDENCE_PRODUCTS_MAX / (blocks * blocks))
        .max(1);
    let stride = rows.len().div_ceil(rows_max).max(1);
    let rows: Vec<usize> = rows.iter().copied().step_by(stride).collect();
    let won: Vec<bool> = rows.iter().map(|&row| won[row]).collect();
    let deals: Vec<usize> = rows.iter().map(|&row| deals[row]).collect();
    shrinkage::heights(design.select(&rows), &won, 1.0 / rows_per_deal(&deals))
}

/// The heights of bands followed by those of crosses.
fn crossed_heights(bands: &[f64], pairs: usize, alpha: f64, penalty: f64) -> Vec<f64> {
    let height = (alpha / penalty).sqrt();
    let crosses = std::iter::repeat_n(height, pairs);
    bands.iter().copied().chain(crosses).collect()
}

/// The design of this form, crosses apart; the columns lose the curves and bands that it does not have.
fn simplified<'a>(columns: &mut [Column], bands: Cow<'a, Design>, bends: Bends) -> Cow<'a, Design> {
    let simplify: fn(&mut Column) = match bends {
        Bends::Unchosen | Bends::Lines => Column::straighten,
        Bends::Curves => Column::drop_bands,
        Bends::Bands | Bends::Crosses { .. } => return bands,
    };
    let mut source = bands.blocks().iter();
    let mut blocks = Vec::new();
    for column in columns {
        let (before, lines_before) = (column.levels(), column.lines());
        let own = source.by_ref().take(lines_before + usize::from(before > 0));
        let own: Vec<&Block> = own.collect();
        simplify(column);
        let gone = (before - column.levels()) as u32;
        let curves = column.lines()..lines_before;
        for (_, block) in own
            .into_iter()
            .enumerate()
            .filter(|(place, _)| !curves.contains(place))
        {
            match block {
                Block::Codes { codes, .. } if gone > 0 => {
                    let code = |&code: &u32| match code {
                        NO_LEVEL => NO_LEVEL,
                        code => code.checked_sub(gone).unwrap_or(NO_LEVEL),
                    };
                    if column.levels() > 0 {
                        blocks.push(Block::Codes {
                            codes: codes.iter().map(code).collect(),
                            levels: column.levels(),
                        });
                    }
                }
                block => blocks.push(block.clone()),
            }
        }
    }
    let design = Design::new(bands.rows(), blocks);
    Cow::Owned(design.expect("parts of a sound design are sound"))
}

/// What a fit without crosses leaves unexplained; `rows` are the numbers of the design's rows.
fn unexplained(
    design: &Design,
    won: &[bool],
    rows: &[usize],
    alpha: f64,
) -> Result<Vec<Unexplained>> {
    let problem = Problem {
        design,
        won,
        weights: None,
        alpha,
    };
    let fitted = estimator::search_only(problem, None)?;
    let eta = design.linear_predictor(&fitted.params());
    let rows = rows.iter().zip(eta.iter().zip(won));
    let unexplained = rows.map(|(&row, (&eta, &won))| {
        let p = logistic(eta);
        Unexplained {
            row,
            residual: p - f64::from(u8::from(won)),
            curvature: p * (1.0 - p),
        }
    });
    Ok(unexplained.collect())
}

/// The pairs of columns worth crossing, told by what a fit without crosses leaves unexplained.
fn worthy_pairs(
    columns: &[Column],
    bands: &Design,
    unexplained: &[Unexplained],
    deals: &[usize],
) -> Vec<Pair> {
    // Any of the penalties that may be chosen: the order of the pairs hardly depends on it.
    let rows_per_deal = rows_per_deal(deals);
    let penalty = CROSS_PENALTIES[3] * rows_per_deal;
    LevelCodes::of(columns, bands).pairs(unexplained, deals, rows_per_deal, penalty)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::columns::Source;
    use crate::features::Reading;
    use crate::ingest::mapping::ColumnType;
    use crate::progress::silent;

    /// Deals of middling size are won most often.
    #[test]
    fn what_bends_is_told_by_a_curve() {
        const ROWS: usize = 6000;
        let mut rng = ChaCha8Rng::seed_from_u64(8);
        let deals: Vec<usize> = (0..ROWS).collect();
        let sizes: Vec<f64> = (0..ROWS).map(|_| rng.random_range(-2.0..2.0)).collect();
        let won: Vec<bool> = (sizes.iter())
            .map(|size| rng.random::<f64>() < logistic(0.3 - 0.5 * size * size))
            .collect();
        let readings: Vec<Reading> = sizes.into_iter().map(Reading::Number).collect();
        let source = Source::Attribute("size".into());
        let column = Column::fit("size".into(), source, ColumnType::Number, &readings, &deals);
        let mut columns = vec![column.unwrap()];
        let design = Design::new(ROWS, columns[0].blocks(&readings)).unwrap();
        let recipe = Recipe::choose(
            &columns,
            &design,
            &won,
            &deals,
            &[Phase::New; ROWS],
            &silent,
        );
        assert_eq!(recipe.form(), Form::Curves, "{:?}", recipe.tried);
        let (design, pairs) = recipe.design(&mut columns, design, &won, &deals).unwrap();
        assert_eq!((design.width(), columns[0].width(), pairs.len()), (2, 2, 0));
    }

    /// Among hundreds of pairs some seem to tell of any outcome; they do not tell of others.
    #[test]
    fn crosses_of_nothing_are_not_chosen() {
        const ROWS: usize = 3000;
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let deals: Vec<usize> = (0..ROWS).collect();
        let won: Vec<bool> = (0..ROWS).map(|_| rng.random::<f64>() < 0.3).collect();
        let (mut columns, mut blocks) = (Vec::new(), Vec::new());
        for index in 0..25 {
            let levels = ["a", "b", "c", "d"];
            let readings: Vec<Reading> = (0..ROWS)
                .map(|_| Reading::Text(levels[rng.random_range(0..4)].into()))
                .collect();
            let name = format!("c{index}");
            let source = Source::Attribute(name.clone());
            let column = Column::fit(name, source, ColumnType::Category, &readings, &deals);
            let column = column.unwrap();
            blocks.extend(column.blocks(&readings));
            columns.push(column);
        }
        let design = Design::new(ROWS, blocks).unwrap();
        let recipe = Recipe::choose(
            &columns,
            &design,
            &won,
            &deals,
            &[Phase::New; ROWS],
            &silent,
        );
        assert_eq!(recipe.tried.len(), 3, "{:?}", recipe.tried);
        assert_eq!(recipe.form(), Form::Lines, "{:?}", recipe.tried);
        let wins = won.iter().filter(|won| **won).count() as f64 / ROWS as f64;
        let entropy = -wins * wins.ln() - (1.0 - wins) * (1.0 - wins).ln();
        let best = recipe.tried.iter().map(|tried| tried.log_loss);
        let best = best.fold(f64::INFINITY, f64::min);
        assert!(best > entropy - 0.002, "{best} {entropy}");
    }
}
