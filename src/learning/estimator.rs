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
//! - It ignores sample weights, so none are offered.
//! - Its `alpha` multiplies the norm against the *summed* loss: `alpha = 1/C` of scikit-learn.

use linfa::DatasetBase;
use linfa::traits::Fit;
use linfa_linalg::cholesky::InverseCInplace;
use linfa_logistic::LogisticRegression;
use ndarray::{Array1, Array2};

use super::design::Design;
use super::newton;
use crate::error::{Error, Result};

/// Largest absolute entry of the gradient of the mean loss at which a fit counts as converged.
const GRADIENT_TOLERANCE: f64 = 1e-7;
/// What the fit that is kept aims at: its last digits are then the optimum's.
const GRADIENT_SOUGHT: f64 = 1e-10;
/// Cells of the dense matrix up to which linfa is asked to confirm: 400 MB.
const CONFIRM_CELLS_MAX: usize = 50_000_000;
const CONFIRM_ITERATIONS_MAX: u64 = 50;
/// Rows of the sample that a large fit starts from.
const SAMPLE_ROWS: usize = 20_000;

/// A fitted logistic regression for the probability of **winning**, whichever class is larger.
#[derive(Debug, Clone)]
pub struct Fitted {
    pub intercept: f64,
    /// One for each column of the design, in its order.
    pub coefficients: Vec<f64>,
    /// Largest absolute entry of the gradient of the mean loss.
    pub gradient_max: f64,
    /// Whether linfa checked the optimum; not on matrices too large to write out.
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

/// Fits and has linfa confirm. `alpha` weighs half the squared norm against the summed log loss.
///
/// # Errors
/// `Unusable` when there are no rows or only one class, when `alpha` is not above zero (without a
/// penalty separable data have no optimum), or when the search does not converge.
pub fn fit(design: &Design, won: &[bool], alpha: f64, start: Option<Vec<f64>>) -> Result<Fitted> {
    let optimum = search(design, won, alpha, start, GRADIENT_SOUGHT)?;
    if design.rows().saturating_mul(design.width()) > CONFIRM_CELLS_MAX || design.width() == 0 {
        return Ok(split(optimum, false));
    }
    match confirm(design, won, alpha, &optimum.params) {
        Some(confirmed) => Ok(split(confirmed, true)),
        None => Ok(split(optimum, false)),
    }
}

/// Fits without the confirmation: for the many fits of a cross-validation.
///
/// # Errors
/// As [`fit`].
pub fn search_only(
    design: &Design,
    won: &[bool],
    alpha: f64,
    start: Option<Vec<f64>>,
) -> Result<Fitted> {
    let optimum = search(design, won, alpha, start, GRADIENT_TOLERANCE)?;
    Ok(split(optimum, false))
}

/// The inverse of the penalised information matrix at the fit: the covariance of coefficients and
/// intercept (last) in the normal approximation. `None` when it has no Cholesky factor.
pub fn covariance(design: &Design, fitted: &Fitted, alpha: f64) -> Option<Array2<f64>> {
    let eta = design.linear_predictor(&fitted.params());
    let mut hessian = newton::hessian(design, &eta, alpha);
    let inverse = hessian.invc_inplace().ok()?;
    inverse.iter().all(|v| v.is_finite()).then_some(inverse)
}

/// The summed log loss of linear predictors.
pub fn log_loss_sum(eta: &[f64], won: &[bool]) -> f64 {
    newton::objective(eta, won, 0.0, &[0.0])
}

fn search(
    design: &Design,
    won: &[bool],
    alpha: f64,
    start: Option<Vec<f64>>,
    tolerance: f64,
) -> Result<newton::Optimum> {
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
    let start = match start {
        Some(start) => start,
        None => sampled_start(design, won, alpha)
            .unwrap_or_else(|| base_rate_params(design.width(), won_count, won.len())),
    };
    let optimum = newton::minimise(design, won, alpha, start, tolerance);
    let is_finite = optimum.params.iter().all(|p| p.is_finite());
    if !is_finite || optimum.gradient_max > GRADIENT_TOLERANCE {
        return Err(Error::Unusable(format!(
            "the fit did not converge at a penalty of {alpha}: its gradient is still {:.2e}",
            optimum.gradient_max
        )));
    }
    Ok(optimum)
}

/// The optimum of an even sample of the rows: close to that of all rows at a fraction of the cost. `None`
/// where there are few rows anyway, or the sample will not converge.
fn sampled_start(design: &Design, won: &[bool], alpha: f64) -> Option<Vec<f64>> {
    let stride = design.rows() / SAMPLE_ROWS;
    if stride < 2 {
        return None;
    }
    let rows: Vec<usize> = (0..design.rows()).step_by(stride).collect();
    let sampled_won: Vec<bool> = rows.iter().map(|&row| won[row]).collect();
    // Fewer rows weigh less against the penalty.
    let sampled_alpha = alpha / stride as f64;
    search(
        &design.select(&rows),
        &sampled_won,
        sampled_alpha,
        None,
        GRADIENT_TOLERANCE,
    )
    .ok()
    .map(|optimum| optimum.params)
}

/// Zero coefficients and the log-odds of the base rate.
fn base_rate_params(width: usize, won_count: usize, count: usize) -> Vec<f64> {
    let mut params = vec![0.0; width + 1];
    params[width] = (won_count as f64 / (count - won_count) as f64).ln();
    params
}

/// Starts linfa at `params`. `None` when its line search fails, it wanders off, or it ends where the
/// gradient is not small.
fn confirm(design: &Design, won: &[bool], alpha: f64, params: &[f64]) -> Option<newton::Optimum> {
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
    let eta = design.linear_predictor(params);
    let confirmed_eta = design.linear_predictor(&fitted);
    let before = newton::objective(&eta, won, alpha, params);
    let after = newton::objective(&confirmed_eta, won, alpha, &fitted);
    let gradient_max = newton::gradient_max(design, won, alpha, &fitted);
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

    use super::super::design::{Block, NO_LEVEL};
    use super::*;

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
            let fitted = fit(&design, &won, 1.0, None).unwrap();
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
        let first_lost = fit(&design, &won, 1.0, None).unwrap();
        let order = [1, 0, 3, 2, 5, 4];
        let won_first: Vec<bool> = order.iter().map(|&i| won[i]).collect();
        let first_won = fit(&design.select(&order), &won_first, 1.0, None).unwrap();
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
        let fitted = fit(&design, &won, 2.0, None).unwrap();
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
        let fitted = fit(&design, &won, 0.1, None).unwrap();
        assert!(fitted.coefficients[0].is_finite() && fitted.coefficients[0] < 10.0);
        let refused = fit(&design, &won, 0.0, None).unwrap_err();
        assert!(matches!(refused, Error::Unusable(_)), "{refused}");
    }

    #[test]
    fn running_out_of_iterations_is_not_taken_for_an_optimum() {
        let (design, won) = problem(500, -1.0, 3);
        let stopped = run_linfa(design.to_dense(), &won, 1.0, None, 1).unwrap();
        let fitted = fit(&design, &won, 1.0, None).unwrap();
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
            fit(&design, &[true; 3], 1.0, None),
            Err(Error::Unusable(_))
        ));
        let empty = Design::new(0, vec![]).unwrap();
        assert!(matches!(
            fit(&empty, &[], 1.0, None),
            Err(Error::Unusable(_))
        ));
        let single = Design::new(1, vec![Block::Numeric(vec![1.0])]).unwrap();
        assert!(matches!(
            fit(&single, &[true], 1.0, None),
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
        let fitted = fit(&design, &won, 1.0, None).unwrap();
        assert!(fitted.params().iter().all(|p| p.is_finite()));
        let eta = design.linear_predictor(&fitted.params());
        assert!(eta.iter().all(|e| e.is_finite()));
        assert!(eta[0] != eta[1]);
    }

    #[test]
    fn a_design_without_columns_gives_the_base_rate() {
        let design = Design::new(4, vec![]).unwrap();
        let fitted = fit(&design, &[true, false, false, false], 1.0, None).unwrap();
        assert!((fitted.intercept - (1.0f64 / 3.0).ln()).abs() < 1e-9);
    }

    #[test]
    fn the_covariance_of_a_mean_is_the_textbook_one() {
        let design = Design::new(100, vec![]).unwrap();
        let won: Vec<bool> = (0..100).map(|i| i < 20).collect();
        let fitted = fit(&design, &won, 1.0, None).unwrap();
        let covariance = covariance(&design, &fitted, 1.0).unwrap();
        assert!((covariance[(0, 0)] - 1.0 / (100.0 * 0.2 * 0.8)).abs() < 1e-9);
    }
}
