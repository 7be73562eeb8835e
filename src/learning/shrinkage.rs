//! How far each block of columns is shrunk, by the evidence of the data.
//!
//! One penalty for all would shrink what matters as far as what does not. A block's weights are taken
//! as draws from a normal distribution of the block's own variance, and the variance is set to what
//! the fit and its uncertainty say it is, until it settles (MacKay, "Bayesian Interpolation", Neural
//! Computation 1992, eq. 4.2: squared weights over the number of weights that the data determine). A
//! variance is the square of the
//! block's height in the design: a penalty of one then shrinks each block as the evidence asks, a new
//! rep to the mean of reps, and hundreds of idle levels to nearly nothing.

use ndarray::Array2;

use super::cholesky::Factor;
use super::design::Design;
use super::estimator::{Problem, search_only};

/// Variance that each block starts from.
const VARIANCE_START: f64 = 0.1;
/// Weights of a tenth of the smallest effect worth a word, and of more than any real effect.
const VARIANCES: std::ops::RangeInclusive<f64> = 1e-4..=4.0;
const ROUNDS_MAX: usize = 10;
/// Change of every height, as a factor, at which the rounds end.
const SETTLED: f64 = 1.05;
/// Width beyond which the matrices would take minutes; heights are then equal.
const WIDTH_MAX: usize = 1500;

/// The height of each block of a design. `row_weight` is what a row counts against rows that are
/// independent of each other: deals per row, as the rows of a deal stand together.
pub fn heights(mut design: Design, won: &[bool], row_weight: f64) -> Vec<f64> {
    let mut heights = vec![VARIANCE_START.sqrt(); design.blocks().len()];
    if design.width() > WIDTH_MAX || design.width() == 0 {
        return heights;
    }
    let weights = vec![row_weight; design.rows()];
    let mut start: Option<Vec<f64>> = None;
    for _ in 0..ROUNDS_MAX {
        design.set_heights(&heights);
        let problem = Problem {
            design: &design,
            won,
            weights: Some(&weights),
            alpha: 1.0,
        };
        let start_params = start.take().map(|weights| design.params(&weights));
        let Ok(fitted) = search_only(problem, start_params) else {
            return heights;
        };
        let params = fitted.params();
        let Some(factor) = Factor::of(problem.hessian(&design.linear_predictor(&params))) else {
            return heights;
        };
        let variances = factor.solve(Array2::eye(params.len())).into_diag();
        start = Some(design.weights(&params));
        let mut changed = 1.0f64;
        for (block, height) in heights.iter_mut().enumerate() {
            let own = design.offset(block)..design.offset(block) + design.blocks()[block].width();
            let width = own.len() as f64;
            let determined = width - own.clone().map(|i| variances[i]).sum::<f64>();
            let squares: f64 = own.map(|i| params[i] * params[i]).sum();
            let variance = *height * *height * squares / determined.max(1e-6 * width);
            let next = variance.clamp(*VARIANCES.start(), *VARIANCES.end()).sqrt();
            changed = changed.max(next / *height).max(*height / next);
            *height = next;
        }
        if changed < SETTLED {
            break;
        }
    }
    heights
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::design::Block;
    use super::*;
    use crate::domain::probability::logistic;

    #[test]
    fn idle_levels_are_shrunk_and_telling_ones_are_not() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut codes = || -> Vec<u32> { (0..4000).map(|_| rng.random_range(0..20)).collect() };
        let (telling, idle) = (codes(), codes());
        let effect = |code: u32| if code.is_multiple_of(2) { 0.8 } else { -0.8 };
        let won: Vec<bool> = telling
            .iter()
            .map(|&code| rng.random::<f64>() < logistic(effect(code) - 0.5))
            .collect();
        let blocks = [telling, idle].map(|codes| Block::Codes { codes, levels: 20 });
        let design = Design::new(4000, blocks.to_vec()).unwrap();
        let found = heights(design.clone(), &won, 1.0);
        assert!((found[0] - 0.8).abs() < 0.25, "{found:?}");
        assert!(found[1] < 0.12, "{found:?}");
        // Rows that count little are no evidence of anything.
        let doubted = heights(design, &won, 0.01);
        assert!(doubted[0] < 0.5 * found[0], "{doubted:?}");
    }
}
