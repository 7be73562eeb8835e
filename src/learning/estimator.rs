//! linfa-logistic 0.8.1 behind one door, with its traps closed.
//!
//! Newton's method finds the optimum, linfa is started there, checks it by its own gradient and
//! returns the fitted model that is kept. What is asked of linfa here, and why:
//!
//! - Its "positive" class is the more frequent one (linfa issue 393), so its coefficients speak of
//!   losing wherever losses are the majority. `labels()` says which, and the sign is turned here.
//! - It ends with `Ok` when it runs out of iterations: the gradient is checked here.
//! - Its line search can fail at a point that is optimal to the last digit (linfa issue 334): the
//!   optimum found by Newton, whose gradient was checked, is then kept as it is.
//! - It ignores sample weights: a weighted fit is Newton's alone.
//! - Its `alpha` multiplies the norm against the *summed* loss: `alpha = 1/C` of scikit-learn.

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

use super::cholesky::Factor;
use super::newton;
pub use super::newton::Problem;
use crate::error::{Error, Result};

/// Largest absolute entry of the gradient of the mean loss at which a fit counts as converged.
const GRADIENT_TOLERANCE: f64 = 1e-7;
/// What the fit that is kept aims at: its last digits are then the optimum's.
const GRADIENT_SOUGHT: f64 = 1e-10;
/// What is near enough to compare penalties by their log loss.
const GRADIENT_COMPARED: f64 = 2e-5;
/// Cells of the dense matrix up to which linfa is asked to confirm: 400 MB.
const CONFIRM_CELLS_MAX: usize = 50_000_000;
const CONFIRM_ITERATIONS_MAX: u64 = 50;
/// Width up to which the information matrix is written out for the covariance: 200 MB.
const FACTORED_WIDTH_MAX: usize = 5000;
/// What is left of a draw when it counts as solved: far less than draws differ.
const SOLVED: f64 = 1e-3;
/// A fitted logistic regression for the probability of **winning**, whichever class is larger.
#[derive(Debug, Clone)]
pub struct Fitted {
    pub intercept: f64,
    /// One for each column of the design, in its order.
    pub coefficients: Vec<f64>,
    /// Largest absolute entry of the gradient of the mean loss.
    pub gradient_max: f64,
    /// Whether linfa checked the optimum; not with row weights, which it ignores, nor on matrices too
    /// large to write out.
    pub is_confirmed: bool,
}

impl Fitted {
    /// The coefficients followed by the intercept.
    pub fn params(&self) -> Vec<f64> {
        let mut params = self.coefficients.clone();
        params.push(self.intercept);
        params
    }
}

/// Fits and has linfa confirm.
///
/// # Errors
/// `Unusable` when there are no rows or only one class, when the penalty is not above zero (without
/// one separable data have no optimum), or when the search does not converge.
pub fn fit(problem: Problem, start: Option<Vec<f64>>) -> Result<Fitted> {
    let optimum = search(problem, start, GRADIENT_SOUGHT, GRADIENT_TOLERANCE)?;
    let (rows, width) = (problem.design.rows(), problem.design.width());
    let is_too_large = rows.saturating_mul(width) > CONFIRM_CELLS_MAX;
    if is_too_large || width == 0 || problem.weights.is_some() {
        return Ok(split(optimum, false));
    }
    match confirm(problem, &optimum.params) {
        Some(confirmed) => Ok(split(confirmed, true)),
        None => Ok(split(optimum, false)),
    }
}

/// Fits to the same optimum, without the confirmation.
///
/// # Errors
/// As [`fit`].
pub fn optimum(problem: Problem, start: Option<Vec<f64>>) -> Result<Fitted> {
    let optimum = search(problem, start, GRADIENT_TOLERANCE, GRADIENT_TOLERANCE)?;
    Ok(split(optimum, false))
}

/// Fits near enough to compare log losses, without the confirmation: for the many fits of a
/// cross-validation.
///
/// # Errors
/// As [`fit`].
pub fn search_only(problem: Problem, start: Option<Vec<f64>>) -> Result<Fitted> {
    let optimum = search(problem, start, GRADIENT_COMPARED, GRADIENT_COMPARED)?;
    Ok(split(optimum, false))
}

/// How the errors of coefficients come about, and how exactly they are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Errors<'a> {
    /// The group of each row; the rows of one stand together.
    pub groups: &'a [usize],
    /// The square to expect of a coefficient that is not known yet.
    pub expected_square: f64,
    /// Columns of the factor.
    pub draws: usize,
    pub seed: u64,
}

/// A factor `F` of the covariance `F F'` of coefficients and intercept (last), shape
/// `(width + 1, at most draws)`; `None` when the penalised information has no Cholesky factor.
///
/// The covariance is `H^-1 (G + alpha^2 s I) H^-1`: `H` the penalised information, `G` the sum over
/// groups of rows of the outer products of their scores, `s` the square expected of a coefficient. The
/// first part is how far the coefficients vary with the rows, the second how far the penalty pulls
/// them from what they are: both miss the truth. With rows that are independent, a right model and
/// `s = 1/alpha`, `G` is the information and the whole is `H^-1`, the posterior of a normal prior of that
/// variance (Nychka, JASA 1988, on why such intervals hold the truth on average over rows); where
/// rows stand together, as the landmarks of a deal do, it widens as it must (Liang and Zeger,
/// Biometrika 1986). Up to `draws` wide the factor is exact; beyond, its columns are that many random
/// draws, whose standard errors are off by `1/sqrt(2 draws)`.
pub fn covariance_factor(problem: Problem, fitted: &Fitted, errors: Errors) -> Option<Array2<f64>> {
    let eta = problem.design.linear_predictor(&fitted.params());
    let size = problem.design.width() + 1;
    let residuals = problem.residuals(&eta);
    if size > FACTORED_WIDTH_MAX {
        let drawn = drawn_scores(problem, &residuals, errors);
        let drawn = solved_by_products(problem, &eta, drawn);
        return drawn.iter().all(|v| v.is_finite()).then_some(drawn);
    }
    let information = Factor::of(problem.hessian(&eta))?;
    let root = if size <= errors.draws {
        let spread = grouped_scores(problem, &residuals, errors);
        Factor::of(spread)?.times(&Array2::eye(size))
    } else {
        drawn_scores(problem, &residuals, errors)
    };
    let factor = information.solve(root);
    factor.iter().all(|v| v.is_finite()).then_some(factor)
}

/// `H^-1 b` for each column of `b`, without the matrix `H`.
fn solved_by_products(problem: Problem, eta: &[f64], mut b: Array2<f64>) -> Array2<f64> {
    let curvature = problem.curvature(eta);
    for mut column in b.columns_mut() {
        let solved = problem.wide_step(&curvature, &column.to_vec(), SOLVED);
        column.assign(&Array1::from(solved));
    }
    b
}

/// The variance of what the penalty adds to a score.
fn pull(problem: Problem, errors: Errors) -> f64 {
    problem.alpha * problem.alpha * errors.expected_square
}

/// `G + alpha^2 s I`.
fn grouped_scores(problem: Problem, residuals: &[f64], errors: Errors) -> Array2<f64> {
    let groups = errors.groups;
    let size = problem.design.width() + 1;
    let mut order: Vec<usize> = (0..residuals.len()).collect();
    order.sort_by_key(|&row| groups[row]);
    let mut spread = Array2::from_diag(&Array1::from_elem(size, pull(problem, errors)));
    // The intercept has no penalty, but its scores may all be zero.
    spread[(size - 1, size - 1)] = f64::EPSILON;
    for rows in order.chunk_by(|&a, &b| groups[a] == groups[b]) {
        let mut score = vec![0.0; size];
        for &row in rows {
            problem.design.add_row(row, residuals[row], &mut score);
        }
        let present: Vec<usize> = (0..size).filter(|&i| score[i] != 0.0).collect();
        for &i in &present {
            for &j in &present {
                spread[(i, j)] += score[i] * score[j];
            }
        }
    }
    spread
}

/// Draws whose covariance is `G + alpha^2 s I`, divided by the root of their number.
fn drawn_scores(problem: Problem, residuals: &[f64], errors: Errors) -> Array2<f64> {
    let Errors {
        groups,
        draws,
        seed,
        ..
    } = errors;
    let pull = pull(problem, errors).sqrt();
    let size = problem.design.width() + 1;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut normal = move || -> f64 { StandardNormal.sample(&mut rng) };
    let group_count = groups.iter().max().map_or(0, |last| last + 1);
    let mut drawn = Array2::zeros((size, draws));
    for mut column in drawn.columns_mut() {
        let of_group: Vec<f64> = (0..group_count).map(|_| normal()).collect();
        let weighted = residuals.iter().zip(groups).map(|(r, &g)| r * of_group[g]);
        let scores = problem
            .design
            .transposed_times(&weighted.collect::<Vec<f64>>());
        for (index, (cell, score)) in column.iter_mut().zip(scores).enumerate() {
            let prior = if index + 1 < size {
                pull * normal()
            } else {
                0.0
            };
            *cell = (score + prior) / (draws as f64).sqrt();
        }
    }
    drawn
}

/// The log loss of each row's linear predictor.
pub fn log_losses<'a>(eta: &'a [f64], won: &'a [bool]) -> impl Iterator<Item = f64> + 'a {
    let rows = eta.iter().zip(won);
    rows.map(|(&e, &won)| newton::softplus(if won { -e } else { e }))
}

/// Searches until the gradient is as small as sought; what is not `accepted` is an error.
fn search(
    problem: Problem,
    start: Option<Vec<f64>>,
    sought: f64,
    accepted: f64,
) -> Result<newton::Optimum> {
    let Problem {
        design, won, alpha, ..
    } = problem;
    let won_count = won.iter().filter(|w| **w).count();
    if won.len() != design.rows() {
        return Err(Error::Internal(anyhow::anyhow!(
            "{} outcomes for {} rows",
            won.len(),
            design.rows()
        )));
    }
    if won_count == 0 || won_count == won.len() {
        return Err(Error::Unusable(format!(
            "learning needs won and lost deals, but of {} rows {won_count} are won",
            won.len()
        )));
    }
    if !(alpha > 0.0 && alpha.is_finite()) {
        return Err(Error::Unusable(format!(
            "the penalty must be above zero, not {alpha}"
        )));
    }
    let optimum = newton::minimise(problem, start, sought);
    let is_finite = optimum.params.iter().all(|p| p.is_finite());
    if !is_finite || optimum.gradient_max > accepted {
        return Err(Error::Unusable(format!(
            "the fit did not converge at a penalty of {alpha}: its gradient is still {:.2e}",
            optimum.gradient_max
        )));
    }
    Ok(optimum)
}

/// Starts linfa at `params`. `None` when its line search fails, it wanders off, or it ends where the
/// gradient is not small.
fn confirm(problem: Problem, params: &[f64]) -> Option<newton::Optimum> {
    let Problem {
        design, won, alpha, ..
    } = problem;
    let won_count = won.iter().filter(|w| **w).count();
    // linfa's positive class: the more frequent one, on a tie the one seen first.
    let win_is_positive = match (2 * won_count).cmp(&won.len()) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => won[0],
    };
    let sign = if win_is_positive { 1.0 } else { -1.0 };
    let start: Array1<f64> = params.iter().map(|p| sign * p).collect();
    let fitted = run_linfa(
        design.to_dense(),
        won,
        alpha,
        Some(start),
        CONFIRM_ITERATIONS_MAX,
    )
    .ok()?;
    let before = problem.mean_objective(params);
    let after = problem.mean_objective(&fitted);
    let gradient_max = problem.gradient_max(&fitted);
    let is_optimal = after <= before + 1e-9 * before.abs() && gradient_max <= GRADIENT_TOLERANCE;
    is_optimal.then_some(newton::Optimum {
        params: fitted,
        gradient_max,
    })
}

/// linfa's fit as parameters of **winning**: coefficients followed by the intercept.
fn run_linfa(
    dense: Array2<f64>,
    won: &[bool],
    alpha: f64,
    start: Option<Array1<f64>>,
    iterations_max: u64,
) -> Result<Vec<f64>, linfa_logistic::error::Error> {
    let rows = dense.nrows();
    let mut settings = LogisticRegression::default()
        .alpha(alpha)
        .max_iterations(iterations_max)
        .gradient_tolerance(GRADIENT_TOLERANCE * rows as f64);
    if let Some(start) = start {
        settings = settings.initial_params(start);
    }
    let dataset = DatasetBase::new(dense, Array1::from(won.to_vec()));
    let fitted = settings.fit(&dataset)?;
    let sign = if fitted.labels().pos.class { 1.0 } else { -1.0 };
    let mut params: Vec<f64> = fitted.params().iter().map(|w| sign * w).collect();
    params.push(sign * fitted.intercept());
    Ok(params)
}

fn split(optimum: newton::Optimum, is_confirmed: bool) -> Fitted {
    let mut coefficients = optimum.params;
    let intercept = coefficients.pop().unwrap_or_default();
    Fitted {
        intercept,
        coefficients,
        gradient_max: optimum.gradient_max,
        is_confirmed,
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::design::{Block, Design, NO_LEVEL};
    use super::*;

    fn problem_of<'a>(design: &'a Design, won: &'a [bool], alpha: f64) -> Problem<'a> {
        Problem {
            design,
            won,
            weights: None,
            alpha,
        }
    }

    #[test]
    fn products_solve_what_a_factor_solves() {
        let (design, won) = problem(2000, -0.5, 4);
        let problem = problem_of(&design, &won, 0.5);
        let eta = design.linear_predictor(&optimum(problem, None).unwrap().params());
        let b = Array2::from_shape_fn((design.width() + 1, 3), |(r, c)| (1 + r) as f64 - c as f64);
        let wanted = Factor::of(problem.hessian(&eta)).unwrap().solve(b.clone());
        for (a, b) in solved_by_products(problem, &eta, b).iter().zip(&wanted) {
            assert!(
                (a - b).abs() < 0.01 * wanted[(0, 0)].abs().max(b.abs()),
                "{a} {b}"
            );
        }
    }

    /// Deals whose odds of winning rise with the first column, at about the given base rate.
    fn problem(rows: usize, intercept: f64, seed: u64) -> (Design, Vec<bool>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let x: Vec<f64> = (0..rows).map(|_| rng.random_range(-2.0..2.0)).collect();
        let codes: Vec<u32> = (0..rows).map(|_| rng.random_range(0..4)).collect();
        let won = x
            .iter()
            .zip(&codes)
            .map(|(x, &c)| {
                let eta = intercept + 1.5 * x + 0.4 * f64::from(c);
                rng.random::<f64>() < crate::domain::probability::logistic(eta)
            })
            .collect();
        let codes = codes
            .into_iter()
            .map(|c| if c == 3 { NO_LEVEL } else { c })
            .collect();
        let blocks = vec![Block::Numeric(x), Block::Codes { codes, levels: 3 }];
        (Design::new(rows, blocks).unwrap(), won)
    }

    fn win_share(won: &[bool]) -> f64 {
        won.iter().filter(|w| **w).count() as f64 / won.len() as f64
    }

    #[test]
    fn the_sign_is_right_whichever_class_is_larger() {
        for (intercept, is_minority) in [(-2.5, true), (1.5, false)] {
            let (design, won) = problem(2000, intercept, 1);
            assert_eq!(win_share(&won) < 0.5, is_minority);
            let fitted = fit(problem_of(&design, &won, 1.0), None).unwrap();
            assert!(fitted.is_confirmed);
            assert!(fitted.coefficients[0] > 1.0, "{fitted:?}");
            let from_zero = run_linfa(design.to_dense(), &won, 1.0, None, 1000).unwrap();
            for (a, b) in from_zero.iter().zip(fitted.params()) {
                assert!((a - b).abs() < 1e-4, "linfa from zero {a}, from Newton {b}");
            }
        }
    }

    #[test]
    fn the_sign_is_right_on_a_tie_whichever_class_comes_first() {
        let x = vec![-1.0, 1.0, -2.0, 2.0, 0.5, -0.5];
        let won: Vec<bool> = x.iter().map(|v| *v > 0.0).collect();
        let design = Design::new(6, vec![Block::Numeric(x.clone())]).unwrap();
        let first_lost = fit(problem_of(&design, &won, 1.0), None).unwrap();
        let order = [1, 0, 3, 2, 5, 4];
        let won_first: Vec<bool> = order.iter().map(|&i| won[i]).collect();
        let first_won = fit(problem_of(&design.select(&order), &won_first, 1.0), None).unwrap();
        assert!(first_lost.coefficients[0] > 0.5 && first_lost.is_confirmed);
        assert!((first_lost.coefficients[0] - first_won.coefficients[0]).abs() < 1e-9);
        assert!(first_won.is_confirmed);
    }

    /// scikit-learn 1.7.2, LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12).
    #[test]
    fn coefficients_agree_with_scikit_learn() {
        let a = vec![0.5, -1.2, 3.3, 0.0, 2.1, -0.7, 1.4, -2.2, 0.9, 0.1];
        let b = vec![1.0, 0.0, 2.0, 1.0, 0.5, -1.0, 0.3, 0.2, -0.4, 2.5];
        let won = [
            true, false, true, false, true, false, false, false, true, true,
        ];
        let design = Design::new(10, vec![Block::Numeric(a), Block::Numeric(b)]).unwrap();
        let fitted = fit(problem_of(&design, &won, 2.0), None).unwrap();
        let expected = [0.6565734497446749, 0.43737084540429666, -0.5257634555606338];
        for (a, b) in fitted.params().iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{:?}", fitted.params());
        }
    }

    #[test]
    fn separable_data_converge_with_a_penalty_and_are_refused_without() {
        let x: Vec<f64> = (0..40).map(|i| f64::from(i) - 19.5).collect();
        let won: Vec<bool> = x.iter().map(|v| *v > 0.0).collect();
        let design = Design::new(40, vec![Block::Numeric(x)]).unwrap();
        let fitted = fit(problem_of(&design, &won, 0.1), None).unwrap();
        assert!(fitted.coefficients[0].is_finite() && fitted.coefficients[0] < 10.0);
        let refused = fit(problem_of(&design, &won, 0.0), None).unwrap_err();
        assert!(matches!(refused, Error::Unusable(_)), "{refused}");
    }

    #[test]
    fn running_out_of_iterations_is_not_taken_for_an_optimum() {
        let (design, won) = problem(500, -1.0, 3);
        let stopped = run_linfa(design.to_dense(), &won, 1.0, None, 1).unwrap();
        let fitted = fit(problem_of(&design, &won, 1.0), None).unwrap();
        let distance = (stopped[0] - fitted.coefficients[0]).abs();
        assert!(
            distance > 0.01,
            "one iteration of linfa is Ok, and is far off"
        );
        assert!(fitted.gradient_max <= GRADIENT_TOLERANCE);
    }

    #[test]
    fn one_class_and_no_rows_are_refused() {
        let design = Design::new(3, vec![Block::Numeric(vec![1.0, 2.0, 3.0])]).unwrap();
        assert!(matches!(
            fit(problem_of(&design, &[true; 3], 1.0), None),
            Err(Error::Unusable(_))
        ));
        let empty = Design::new(0, vec![]).unwrap();
        assert!(matches!(
            fit(problem_of(&empty, &[], 1.0), None),
            Err(Error::Unusable(_))
        ));
        let single = Design::new(1, vec![Block::Numeric(vec![1.0])]).unwrap();
        assert!(matches!(
            fit(problem_of(&single, &[true], 1.0), None),
            Err(Error::Unusable(_))
        ));
    }

    #[test]
    fn huge_scales_and_collinear_columns_stay_finite() {
        let (design, won) = problem(300, 0.0, 5);
        let Block::Numeric(x) = &design.blocks()[0] else {
            unreachable!()
        };
        let huge: Vec<f64> = x.iter().map(|v| v * 1e9).collect();
        let tiny: Vec<f64> = x.iter().map(|v| v * 1e-9).collect();
        let twice = vec![
            Block::Numeric(x.clone()),
            Block::Numeric(x.clone()),
            Block::Numeric(huge),
            Block::Numeric(tiny),
        ];
        let design = Design::new(300, twice).unwrap();
        let fitted = fit(problem_of(&design, &won, 1.0), None).unwrap();
        assert!(fitted.params().iter().all(|p| p.is_finite()));
        let eta = design.linear_predictor(&fitted.params());
        assert!(eta.iter().all(|e| e.is_finite()));
        assert!(eta[0] != eta[1]);
    }

    #[test]
    fn a_design_without_columns_gives_the_base_rate() {
        let design = Design::new(4, vec![]).unwrap();
        let fitted = fit(problem_of(&design, &[true, false, false, false], 1.0), None).unwrap();
        assert!((fitted.intercept - (1.0f64 / 3.0).ln()).abs() < 1e-9);
    }

    #[test]
    fn the_covariance_of_a_mean_is_the_textbook_one() {
        let design = Design::new(100, vec![]).unwrap();
        let won: Vec<bool> = (0..100).map(|i| i < 20).collect();
        let problem = problem_of(&design, &won, 1.0);
        let fitted = fit(problem, None).unwrap();
        let variance = |groups: &[usize]| -> f64 {
            let errors = Errors {
                groups,
                expected_square: 1.0,
                draws: 4,
                seed: 1,
            };
            let factor = covariance_factor(problem, &fitted, errors).unwrap();
            factor.row(0).iter().map(|f| f * f).sum()
        };
        let apart: Vec<usize> = (0..100).collect();
        assert!((variance(&apart) - 1.0 / (100.0 * 0.2 * 0.8)).abs() < 1e-9);
        // Five rows of one deal say what one says.
        let together: Vec<usize> = (0..100).map(|i| i / 5).collect();
        assert!((variance(&together) - 5.0 / (100.0 * 0.2 * 0.8)).abs() < 1e-9);
    }

    /// statsmodels 0.15.0, `Logit.fit(cov_type="cluster", cov_kwds={"groups": ..., "use_correction": False})`,
    /// which has no penalty.
    #[test]
    fn standard_errors_agree_with_statsmodels() {
        let rows = || 0..60u32;
        let a = rows()
            .map(|i| f64::from(i * 37 % 23) / 10.0 - 1.0)
            .collect();
        let b = rows().map(|i| f64::from(i * 11 % 7) / 3.0 - 1.0).collect();
        let is_won = |i: u32| f64::from(i * 29 % 13) + f64::from(i * 37 % 23) / 4.0 > 8.0;
        let won: Vec<bool> = rows().map(is_won).collect();
        let design = Design::new(60, vec![Block::Numeric(a), Block::Numeric(b)]).unwrap();
        let problem = problem_of(&design, &won, 1e-9);
        let fitted = fit(problem, None).unwrap();
        let coefficients = [0.515_704_385_443, 0.174_605_999_936, 0.094_528_226_095];
        for (ours, theirs) in fitted.params().iter().zip(coefficients) {
            assert!((ours - theirs).abs() < 1e-7, "{ours} {theirs}");
        }
        let deals: Vec<usize> = (0..60).map(|i| i / 3).collect();
        let factor = covariance_factor(
            problem,
            &fitted,
            Errors {
                groups: &deals,
                expected_square: 1e9,
                draws: 3,
                seed: 1,
            },
        )
        .unwrap();
        let errors = [0.441_424_477_018, 0.358_871_273_530, 0.243_224_717_024];
        for (row, theirs) in factor.rows().into_iter().zip(errors) {
            let ours = row.dot(&row).sqrt();
            assert!((ours - theirs).abs() < 1e-7, "{ours} {theirs}");
        }
    }

    /// Under a penalty that leaves nothing of a coefficient, its error is its own size.
    #[test]
    fn what_the_penalty_hides_is_in_the_error() {
        let (design, won) = problem(500, -0.5, 9);
        let problem = problem_of(&design, &won, 1e7);
        let fitted = fit(problem, None).unwrap();
        let groups: Vec<usize> = (0..500).collect();
        let errors = Errors {
            groups: &groups,
            expected_square: 0.25,
            draws: 5,
            seed: 1,
        };
        let factor = covariance_factor(problem, &fitted, errors).unwrap();
        let of_first = factor.row(0).iter().map(|f| f * f).sum::<f64>().sqrt();
        assert!((of_first - 0.5).abs() < 1e-3, "{of_first}");
    }

    #[test]
    fn drawn_and_exact_covariances_agree() {
        let (design, won) = problem(3000, -0.5, 9);
        let problem = problem_of(&design, &won, 3.0);
        let fitted = fit(problem, None).unwrap();
        let groups: Vec<usize> = (0..3000).map(|i| i / 3).collect();
        let errors = |draws: usize| -> Vec<f64> {
            let errors = Errors {
                groups: &groups,
                expected_square: 1.0 / 3.0,
                draws,
                seed: 5,
            };
            let factor = covariance_factor(problem, &fitted, errors).unwrap();
            let rows = factor.rows();
            rows.into_iter().map(|row| row.dot(&row).sqrt()).collect()
        };
        let (drawn, exact) = (errors(4), errors(5));
        assert_eq!((drawn.len(), exact.len()), (5, 5));
        for (a, b) in drawn.iter().zip(&exact) {
            assert!((a / b).ln().abs() < 1.5, "{a} {b}");
        }
    }

    #[test]
    fn a_weight_of_two_is_a_row_given_twice() {
        let (design, won) = problem(400, 0.3, 4);
        let rows: Vec<usize> = (0..400).chain(0..100).collect();
        let twice = design.select(&rows);
        let twice_won: Vec<bool> = rows.iter().map(|&row| won[row]).collect();
        let expected = fit(problem_of(&twice, &twice_won, 2.0), None).unwrap();
        let weights: Vec<f64> = (0..400).map(|i| if i < 100 { 2.0 } else { 1.0 }).collect();
        let weighted = Problem {
            weights: Some(&weights),
            ..problem_of(&design, &won, 2.0)
        };
        let fitted = fit(weighted, None).unwrap();
        assert!(!fitted.is_confirmed && expected.is_confirmed);
        for (a, b) in fitted.params().iter().zip(expected.params()) {
            assert!((a - b).abs() < 1e-7, "{a} {b}");
        }
    }

    /// Wide enough for conjugate gradients, narrow enough to be factored beside it.
    #[test]
    fn wide_designs_reach_the_same_optimum() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let mut blocks: Vec<Block> = (0..8)
            .map(|_| Block::Codes {
                codes: (0..1500).map(|_| rng.random_range(0..50)).collect(),
                levels: 50,
            })
            .collect();
        let (narrow, won) = problem(1500, -1.0, 6);
        blocks.extend(narrow.blocks().iter().cloned());
        let design = Design::new(1500, blocks).unwrap();
        assert!(design.width() > 400);
        let problem = problem_of(&design, &won, 5.0);
        let fitted = fit(problem, None).unwrap();
        assert!(fitted.is_confirmed && fitted.gradient_max < 1e-8);
        let from_zero = run_linfa(design.to_dense(), &won, 5.0, None, 1000).unwrap();
        for (a, b) in from_zero.iter().zip(fitted.params()) {
            assert!((a - b).abs() < 1e-4, "linfa from zero {a}, from Newton {b}");
        }
    }
}
