//! Newton's method for penalised logistic regression.
//!
//! Minimises `sum v ln(1 + exp(-y eta)) + alpha/2 |w|^2` with `y` in {-1, 1}, `eta = intercept + X w`,
//! row weights `v` and a free intercept: without weights the objective of linfa-logistic 0.8.1, and
//! of scikit-learn with `C = 1/alpha`. The gradient and the Hessian are the usual ones of the
//! logistic model (McCullagh and Nelder, Generalized Linear Models, 1989, ch. 4). Narrow systems are
//! solved by a Cholesky factor, wide ones by conjugate gradients, which never write the Hessian down
//! (Nocedal and Wright, Numerical Optimization, 2006, ch. 7.1).

use ndarray::{Array1, Array2, Axis};

use super::cholesky::Factor;
use super::design::{Block, Design};
use crate::domain::probability::logistic;

/// Steps before giving up; from a cold start ten are usual.
const STEPS_MAX: usize = 100;
/// Halvings of one step before it is called fruitless.
const HALVINGS_MAX: usize = 40;
/// Relative addition to each diagonal entry, so that columns which are collinear to the last digit
/// still have a Cholesky factor.
const RIDGE: f64 = 1e-12;
/// Width up to which a step is solved by factoring the Hessian.
const FACTORED_WIDTH_MAX: usize = 300;
/// How many times smaller a step must make the gradient for its factor to serve once more.
const FACTOR_WORTH: f64 = 20.0;
/// Rows of the sample that preconditions the steps of many rows.
const SAMPLED_ROWS: usize = 20_000;
/// Products with the Hessian that one step may take.
const PRODUCTS_MAX: usize = 500;

/// Rows, what became of them, and how much each counts.
#[derive(Clone, Copy)]
pub struct Problem<'a> {
    pub design: &'a Design,
    pub won: &'a [bool],
    /// Without them each row counts one.
    pub weights: Option<&'a [f64]>,
    /// Weight of half the squared norm of the coefficients against the summed log loss.
    pub alpha: f64,
}

/// Where the search ended.
pub struct Optimum {
    /// The coefficients followed by the intercept.
    pub params: Vec<f64>,
    /// Largest absolute entry of the gradient of the *mean* loss, each divided by the root mean
    /// square of its column where that is above one, so that units do not matter.
    pub gradient_max: f64,
}

/// Searches from `start` until no entry of the mean gradient exceeds `tolerance`, or no step helps.
pub fn minimise(problem: Problem, start: Vec<f64>, tolerance: f64) -> Optimum {
    let scales = problem.column_scales();
    let mut params = start;
    let mut eta = problem.design.linear_predictor(&params);
    let mut loss = problem.objective(&eta, &params);
    let mut gradient = problem.gradient(&eta, &params);
    let mut largest = problem.largest(&gradient, &scales);
    let is_narrow = problem.design.width() <= FACTORED_WIDTH_MAX;
    // Of many rows, a sample says nearly as well where the optimum lies, at a fraction of the cost.
    let sampled = (is_narrow && problem.design.rows() >= 2 * SAMPLED_ROWS)
        .then(|| Factor::of(problem.sampled_hessian(&params)))
        .flatten();
    let mut factor = None;
    for _ in 0..STEPS_MAX {
        if largest <= tolerance {
            break;
        }
        // Closer as the optimum nears, never closer than the search needs.
        let accuracy = largest.sqrt().min(0.1).max(0.1 * tolerance / largest);
        let step = if let Some(sampled) = &sampled {
            // So near a solution already that accuracy is cheaper than another step.
            let accuracy = accuracy.min(largest).max(0.1 * tolerance / largest);
            let precondition = |r: &[f64]| solve(sampled, r);
            let curvature = problem.curvature(&eta);
            Some(problem.conjugate_step(&curvature, &gradient, accuracy, precondition))
        } else if is_narrow {
            factor = factor.or_else(|| Factor::of(problem.hessian(&eta)));
            factor.as_ref().map(|factor| solve(factor, &gradient))
        } else {
            Some(problem.wide_step(&problem.curvature(&eta), &gradient, accuracy))
        };
        let step = step.filter(|step| step.iter().all(|s| s.is_finite()));
        let found = step.and_then(|step| problem.line_search(&params, &eta, &step, loss));
        let Some(found) = found else {
            break;
        };
        (params, eta, loss) = found;
        gradient = problem.gradient(&eta, &params);
        let before = std::mem::replace(&mut largest, problem.largest(&gradient, &scales));
        // Near the optimum a factor serves for several steps, at a fraction of the cost of a new one.
        if largest > before / FACTOR_WORTH {
            factor = None;
        }
    }
    Optimum {
        gradient_max: largest,
        params,
    }
}

impl Problem<'_> {
    fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |weights| weights[row])
    }

    /// The sum of the rows' weights.
    fn total(&self) -> f64 {
        match self.weights {
            Some(weights) => weights.iter().sum(),
            None => self.won.len() as f64,
        }
    }

    /// The largest entry of the mean gradient at any parameters, scaled as that of an optimum.
    pub fn gradient_max(&self, params: &[f64]) -> f64 {
        let eta = self.design.linear_predictor(params);
        self.largest(&self.gradient(&eta, params), &self.column_scales())
    }

    fn largest(&self, gradient: &[f64], scales: &[f64]) -> f64 {
        let scaled = gradient.iter().zip(scales).map(|(g, s)| (g / s).abs());
        scaled.fold(0.0, f64::max) / self.total()
    }

    /// Root mean square of each column, at least one; one for the intercept.
    fn column_scales(&self) -> Vec<f64> {
        let mut scales = vec![1.0; self.design.width() + 1];
        for (index, block) in self.design.blocks().iter().enumerate() {
            if let Block::Numeric(values) = block {
                let squares: f64 = values.iter().map(|v| v * v).sum();
                let scale = self.design.heights()[index] * (squares / values.len() as f64).sqrt();
                scales[self.design.offset(index)] = scale.max(1.0);
            }
        }
        scales
    }

    /// The weighted sum of log losses plus the penalty.
    pub fn objective(&self, eta: &[f64], params: &[f64]) -> f64 {
        let loss = |(&e, &won): (&f64, &bool)| softplus(if won { -e } else { e });
        let losses = eta.iter().zip(self.won).map(loss);
        let loss: f64 = match self.weights {
            Some(weights) => losses
                .zip(weights)
                .map(|(loss, weight)| loss * weight)
                .sum(),
            None => losses.sum(),
        };
        let coefficients = &params[..params.len() - 1];
        loss + 0.5 * self.alpha * coefficients.iter().map(|w| w * w).sum::<f64>()
    }

    /// Predicted minus actual, weighted: the derivative of each row's loss by its log-odds.
    pub fn residuals(&self, eta: &[f64]) -> Vec<f64> {
        let rows = eta.iter().zip(self.won).enumerate();
        rows.map(|(row, (&e, &won))| self.weight(row) * (logistic(e) - f64::from(u8::from(won))))
            .collect()
    }

    fn gradient(&self, eta: &[f64], params: &[f64]) -> Vec<f64> {
        let mut gradient = self.design.transposed_times(&self.residuals(eta));
        for (g, w) in gradient.iter_mut().zip(&params[..self.design.width()]) {
            *g += self.alpha * w;
        }
        gradient
    }

    /// `v p (1 - p)` of each row: the second derivative of its loss by its log-odds.
    pub fn curvature(&self, eta: &[f64]) -> Vec<f64> {
        let rows = eta.iter().enumerate();
        rows.map(|(row, &e)| {
            let p = logistic(e);
            self.weight(row) * p * (1.0 - p)
        })
        .collect()
    }

    /// The Hessian at `eta`: `X' diag(v p (1 - p)) X + alpha I`, the intercept last and not penalised.
    pub fn hessian(&self, eta: &[f64]) -> Array2<f64> {
        let mut hessian = self.design.information(&self.curvature(eta));
        for column in 0..=self.design.width() {
            let diagonal = &mut hessian[(column, column)];
            *diagonal = (*diagonal + self.penalty(column)) * (1.0 + RIDGE) + f64::MIN_POSITIVE;
        }
        hessian
    }

    /// The Hessian of an even sample of the rows, in the measure of all.
    fn sampled_hessian(&self, params: &[f64]) -> Array2<f64> {
        let stride = (self.design.rows() / SAMPLED_ROWS).max(1);
        let rows: Vec<usize> = (0..self.design.rows()).step_by(stride).collect();
        let scale = self.design.rows() as f64 / rows.len() as f64;
        let design = self.design.select(&rows);
        let weights: Vec<f64> = rows.iter().map(|&row| scale * self.weight(row)).collect();
        let sample = Problem {
            design: &design,
            won: &[],
            weights: Some(&weights),
            alpha: self.alpha,
        };
        sample.hessian(&design.linear_predictor(params))
    }

    fn penalty(&self, column: usize) -> f64 {
        if column < self.design.width() {
            self.alpha
        } else {
            0.0
        }
    }

    /// Solves `H step = gradient` without writing the Hessian down, the residual to `accuracy` of the
    /// gradient.
    pub fn wide_step(&self, curvature: &[f64], gradient: &[f64], accuracy: f64) -> Vec<f64> {
        let diagonal = self.diagonal(curvature);
        let precondition = |r: &[f64]| r.iter().zip(&diagonal).map(|(r, d)| r / d).collect();
        self.conjugate_step(curvature, gradient, accuracy, precondition)
    }

    /// Solves `H step = gradient` by conjugate gradients, until the residual is `accuracy` of the
    /// gradient. `precondition` solves it for something near `H`.
    fn conjugate_step(
        &self,
        curvature: &[f64],
        gradient: &[f64],
        accuracy: f64,
        precondition: impl Fn(&[f64]) -> Vec<f64>,
    ) -> Vec<f64> {
        let mut step = vec![0.0; gradient.len()];
        let mut residual = gradient.to_vec();
        let mut preconditioned = precondition(&residual);
        let mut direction = preconditioned.clone();
        let mut size = dot(&residual, &preconditioned);
        let enough = accuracy * accuracy * size;
        for _ in 0..PRODUCTS_MAX {
            if size <= enough || size == 0.0 {
                break;
            }
            let product = self.hessian_times(curvature, &direction);
            let length = size / dot(&direction, &product);
            if !length.is_finite() {
                break;
            }
            add_scaled(&mut step, length, &direction);
            add_scaled(&mut residual, -length, &product);
            preconditioned = precondition(&residual);
            let size_before = std::mem::replace(&mut size, dot(&residual, &preconditioned));
            for (d, p) in direction.iter_mut().zip(&preconditioned) {
                *d = p + size / size_before * *d;
            }
        }
        step
    }

    fn hessian_times(&self, curvature: &[f64], direction: &[f64]) -> Vec<f64> {
        let mut along = self.design.linear_predictor(direction);
        along.iter_mut().zip(curvature).for_each(|(a, c)| *a *= c);
        let mut product = self.design.transposed_times(&along);
        for (p, d) in product.iter_mut().zip(&direction[..self.design.width()]) {
            *p += self.alpha * d;
        }
        product
    }

    /// The diagonal of the Hessian.
    fn diagonal(&self, curvature: &[f64]) -> Vec<f64> {
        let mut diagonal = self.design.squared_transposed_times(curvature);
        for (column, d) in diagonal.iter_mut().enumerate() {
            *d += self.penalty(column) + f64::MIN_POSITIVE;
        }
        diagonal
    }

    /// The longest of the step, half of it, a quarter and so on that lowers the objective.
    fn line_search(
        &self,
        params: &[f64],
        eta: &[f64],
        step: &[f64],
        loss: f64,
    ) -> Option<(Vec<f64>, Vec<f64>, f64)> {
        let along = self.design.linear_predictor(step);
        let moved = |from: &[f64], by: &[f64], length: f64| -> Vec<f64> {
            from.iter().zip(by).map(|(f, b)| f - length * b).collect()
        };
        let mut length = 1.0;
        for _ in 0..HALVINGS_MAX {
            let tried = moved(params, step, length);
            let tried_eta = moved(eta, &along, length);
            let tried_loss = self.objective(&tried_eta, &tried);
            if tried_loss < loss {
                return Some((tried, tried_eta, tried_loss));
            }
            length /= 2.0;
        }
        None
    }
}

fn solve(factor: &Factor, b: &[f64]) -> Vec<f64> {
    let b = Array1::from(b.to_vec()).insert_axis(Axis(1));
    factor.solve(b).into_iter().collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add_scaled(sum: &mut [f64], scale: f64, other: &[f64]) {
    sum.iter_mut().zip(other).for_each(|(s, o)| *s += scale * o);
}

/// `ln(1 + exp(x))` without overflow.
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}
