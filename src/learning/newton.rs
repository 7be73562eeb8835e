//! Newton's method for penalised logistic regression.
//!
//! Minimises `sum ln(1 + exp(-y eta)) + alpha/2 |w|^2` with `y` in {-1, 1}, `eta = intercept + X w`
//! and a free intercept: the objective of linfa-logistic 0.8.1, and of scikit-learn with
//! `C = 1/alpha`. The gradient and the Hessian are the usual ones of the logistic model (McCullagh
//! and Nelder, Generalized Linear Models, 1989, ch. 4).

use linfa_linalg::cholesky::SolveCInplace;
use ndarray::{Array1, Array2, Axis};

use super::design::{Block, Design};
use crate::domain::probability::logistic;

/// Steps before giving up; from a cold start ten are usual.
const STEPS_MAX: usize = 100;
/// Halvings of one step before it is called fruitless.
const HALVINGS_MAX: usize = 40;
/// Relative addition to each diagonal entry, so that columns which are collinear to the last digit
/// still have a Cholesky factor.
const RIDGE: f64 = 1e-12;

/// Where the search ended.
pub struct Optimum {
    /// The coefficients followed by the intercept.
    pub params: Vec<f64>,
    /// Largest absolute entry of the gradient of the *mean* loss, each divided by the root mean
    /// square of its column where that is above one, so that units do not matter.
    pub gradient_max: f64,
}

/// Searches from `start` until no entry of the mean gradient exceeds `tolerance`, or no step helps.
pub fn minimise(
    design: &Design,
    won: &[bool],
    alpha: f64,
    start: Vec<f64>,
    tolerance: f64,
) -> Optimum {
    let scales = column_scales(design);
    let gradient_max = |gradient: &[f64]| largest(gradient, &scales, design.rows());
    let mut params = start;
    let mut eta = design.linear_predictor(&params);
    let mut loss = objective(&eta, won, alpha, &params);
    let mut gradient = gradient(design, &eta, won, alpha, &params);
    for _ in 0..STEPS_MAX {
        if gradient_max(&gradient) <= tolerance {
            break;
        }
        let Some(step) = newton_step(design, &eta, alpha, &gradient) else {
            break;
        };
        let Some(found) = line_search(design, won, alpha, &params, &step, loss) else {
            break;
        };
        (params, eta, loss) = found;
        gradient = self::gradient(design, &eta, won, alpha, &params);
    }
    Optimum {
        gradient_max: gradient_max(&gradient),
        params,
    }
}

/// [`Optimum::gradient_max`] at any parameters.
pub fn gradient_max(design: &Design, won: &[bool], alpha: f64, params: &[f64]) -> f64 {
    let eta = design.linear_predictor(params);
    let gradient = gradient(design, &eta, won, alpha, params);
    largest(&gradient, &column_scales(design), design.rows())
}

/// The Hessian at `eta`: `X' diag(p (1 - p)) X + alpha I`, the intercept last and not penalised.
pub fn hessian(design: &Design, eta: &[f64], alpha: f64) -> Array2<f64> {
    let weights: Vec<f64> = eta
        .iter()
        .map(|&e| {
            let p = logistic(e);
            p * (1.0 - p)
        })
        .collect();
    let mut hessian = design.information(&weights);
    for column in 0..=design.width() {
        let penalty = if column < design.width() { alpha } else { 0.0 };
        let diagonal = &mut hessian[(column, column)];
        *diagonal = (*diagonal + penalty) * (1.0 + RIDGE) + f64::MIN_POSITIVE;
    }
    hessian
}

/// Root mean square of each column, at least one; one for the intercept.
fn column_scales(design: &Design) -> Vec<f64> {
    let mut scales = vec![1.0; design.width() + 1];
    for (index, block) in design.blocks().iter().enumerate() {
        if let Block::Numeric(values) = block {
            let squares: f64 = values.iter().map(|v| v * v).sum();
            scales[design.offset(index)] = (squares / values.len() as f64).sqrt().max(1.0);
        }
    }
    scales
}

fn largest(gradient: &[f64], scales: &[f64], rows: usize) -> f64 {
    let scaled = gradient.iter().zip(scales).map(|(g, s)| (g / s).abs());
    scaled.fold(0.0, f64::max) / rows as f64
}

fn newton_step(design: &Design, eta: &[f64], alpha: f64, gradient: &[f64]) -> Option<Vec<f64>> {
    let mut hessian = hessian(design, eta, alpha);
    // Scaled to a diagonal of ones first: columns in euros beside columns in shares would cost the
    // factorisation all its digits.
    let scale: Array1<f64> = hessian.diag().mapv(|h| h.sqrt().recip());
    hessian
        .indexed_iter_mut()
        .for_each(|((r, c), h)| *h *= scale[r] * scale[c]);
    let mut step = (&Array1::from(gradient.to_vec()) * &scale).insert_axis(Axis(1));
    hessian.solvec_inplace(&mut step).ok()?;
    let step: Vec<f64> = step.iter().zip(&scale).map(|(s, k)| s * k).collect();
    step.iter().all(|s| s.is_finite()).then_some(step)
}

/// The longest of the step, half of it, a quarter and so on that lowers the objective.
fn line_search(
    design: &Design,
    won: &[bool],
    alpha: f64,
    params: &[f64],
    step: &[f64],
    loss: f64,
) -> Option<(Vec<f64>, Vec<f64>, f64)> {
    let mut length = 1.0;
    for _ in 0..HALVINGS_MAX {
        let tried: Vec<f64> = params
            .iter()
            .zip(step)
            .map(|(p, s)| p - length * s)
            .collect();
        let eta = design.linear_predictor(&tried);
        let tried_loss = objective(&eta, won, alpha, &tried);
        if tried_loss < loss {
            return Some((tried, eta, tried_loss));
        }
        length /= 2.0;
    }
    None
}

/// The sum of log losses plus the penalty.
pub fn objective(eta: &[f64], won: &[bool], alpha: f64, params: &[f64]) -> f64 {
    let loss: f64 = eta
        .iter()
        .zip(won)
        .map(|(&e, &won)| softplus(if won { -e } else { e }))
        .sum();
    let coefficients = &params[..params.len() - 1];
    loss + 0.5 * alpha * coefficients.iter().map(|w| w * w).sum::<f64>()
}

fn gradient(design: &Design, eta: &[f64], won: &[bool], alpha: f64, params: &[f64]) -> Vec<f64> {
    let residuals: Vec<f64> = eta
        .iter()
        .zip(won)
        .map(|(&e, &won)| logistic(e) - f64::from(u8::from(won)))
        .collect();
    let mut gradient = design.transposed_times(&residuals);
    for (g, w) in gradient.iter_mut().zip(&params[..design.width()]) {
        *g += alpha * w;
    }
    gradient
}

/// `ln(1 + exp(x))` without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
