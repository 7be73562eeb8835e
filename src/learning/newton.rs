//! Newton's method for penalised logistic regression.
//!
//! Minimises `sum v ln(1 + exp(-y eta)) + alpha/2 |w|^2` with `y` in {-1, 1}, `eta = intercept + X w`,
//! row weights `v` and a free intercept: without weights the objective of linfa-logistic 0.8.1, and
//! of scikit-learn with `C = 1/alpha`. The gradient and the Hessian are the usual ones of the
//! logistic model (McCullagh and Nelder, Generalized Linear Models, 1989, ch. 4).
//!
//! Wide systems are solved by conjugate gradients, which never write the Hessian down (Nocedal and
//! Wright, Numerical Optimization, 2006, ch. 7.1). Of narrow ones the Hessian is factored, and the
//! factor serves for as many steps as it is worth: what it misses, of rows that it has not seen or
//! since it was made, is learned from the steps themselves (L-BFGS from that Hessian; ibid., ch. 7.2).
//! So of many rows a sample says where the optimum lies and how the objective is curved, at a fraction of
//! the cost; a few walks over all rows do the rest.

use std::collections::VecDeque;

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
const FACTOR_WORTH: f64 = 3.0;
/// Steps that a factor is corrected by.
const CORRECTIONS_MAX: usize = 12;
/// Rows of the smallest sample that a search begins with, and how many times more each next has.
const SAMPLE_ROWS_MIN: usize = 2_000;
const SAMPLE_GROWTH: usize = 5;
/// Neighbouring rows that are sampled together: as many as memory hands over at once, about.
const SAMPLE_RUN: usize = 16;
/// Nearer to a sample's optimum there is nothing to learn about that of all rows.
const GRADIENT_SAMPLED: f64 = 1e-4;
/// Products with the Hessian that one step may take.
const PRODUCTS_MAX: usize = 500;
/// Factors `1 + u`, u at most one, whose product is far from overflowing.
const FACTORS_MAX: usize = 512;

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

/// Searches from `start`, or from the optimum of a sample, until no entry of the mean gradient exceeds
/// `tolerance`, or no step helps.
pub fn minimise(problem: Problem, start: Option<Vec<f64>>, tolerance: f64) -> Optimum {
    let is_narrow = problem.design.width() <= FACTORED_WIDTH_MAX;
    let (params, curvature) = match start {
        Some(start) => (start, None),
        None => sampled(problem).unwrap_or_else(|| (problem.base_rate_params(), None)),
    };
    if is_narrow {
        narrow(problem, params, curvature, tolerance).0
    } else {
        wide(problem, params, tolerance)
    }
}

/// The optimum of an even sample of the rows, found from that of a smaller one, with what was learned of
/// the curvature. `None` where there are few rows anyway, or the sample is of one class.
fn sampled(problem: Problem) -> Option<(Vec<f64>, Option<Curvature>)> {
    if problem.design.rows() < SAMPLE_GROWTH * SAMPLE_ROWS_MIN {
        return None;
    }
    let runs = (0..problem.design.rows()).step_by(SAMPLE_GROWTH * SAMPLE_RUN);
    let rows: Vec<usize> = runs
        .flat_map(|first| first..(first + SAMPLE_RUN).min(problem.design.rows()))
        .collect();
    let won: Vec<bool> = rows.iter().map(|&row| problem.won[row]).collect();
    if won.iter().all(|&is_won| is_won == won[0]) {
        return None;
    }
    let weights: Option<Vec<f64>> =
        (problem.weights).map(|weights| rows.iter().map(|&row| weights[row]).collect());
    let sample = Problem {
        design: &problem.design.select(&rows),
        won: &won,
        weights: weights.as_deref(),
        // Fewer rows weigh less against the penalty.
        alpha: problem.alpha / SAMPLE_GROWTH as f64,
    };
    let (params, curvature) = sampled(sample).unwrap_or_else(|| (sample.base_rate_params(), None));
    if problem.design.width() > FACTORED_WIDTH_MAX {
        return Some((wide(sample, params, GRADIENT_SAMPLED).params, None));
    }
    let (optimum, curvature) = narrow(sample, params, curvature, GRADIENT_SAMPLED);
    Some((
        optimum.params,
        curvature.map(|c| c.of_more_rows(SAMPLE_GROWTH)),
    ))
}

/// By a factor of the Hessian, corrected by the steps taken since.
fn narrow(
    problem: Problem,
    params: Vec<f64>,
    mut curvature: Option<Curvature>,
    tolerance: f64,
) -> (Optimum, Option<Curvature>) {
    let scales = problem.column_scales();
    let mut here = problem.place(params);
    let mut largest = problem.largest(&here.gradient, &scales);
    for _ in 0..STEPS_MAX {
        if largest <= tolerance {
            break;
        }
        let is_new = curvature.is_none();
        curvature = curvature.or_else(|| Curvature::at(problem, &here.params));
        let Some(known) = &mut curvature else { break };
        let step = known.step(&here.gradient);
        let Some(next) = problem.search(&here, &step) else {
            if is_new {
                break;
            }
            curvature = None;
            continue;
        };
        known.learn(&here, &next);
        here = next;
        let before = std::mem::replace(&mut largest, problem.largest(&here.gradient, &scales));
        if largest > before / FACTOR_WORTH {
            curvature = None;
        }
    }
    let optimum = Optimum {
        gradient_max: largest,
        params: here.params,
    };
    (optimum, curvature)
}

/// By conjugate gradients.
fn wide(problem: Problem, start: Vec<f64>, tolerance: f64) -> Optimum {
    let scales = problem.column_scales();
    let mut here = problem.place(start);
    let mut largest = problem.largest(&here.gradient, &scales);
    for _ in 0..STEPS_MAX {
        if largest <= tolerance {
            break;
        }
        // Closer as the optimum nears, never closer than the search needs.
        let accuracy = largest.sqrt().min(0.1).max(0.1 * tolerance / largest);
        let eta = problem.design.linear_predictor(&here.params);
        let step = problem.wide_step(&problem.curvature(&eta), &here.gradient, accuracy);
        let Some(next) = problem.search(&here, &step) else {
            break;
        };
        here = next;
        largest = problem.largest(&here.gradient, &scales);
    }
    Optimum {
        gradient_max: largest,
        params: here.params,
    }
}

/// Coefficients and intercept with the objective and its gradient there.
struct Place {
    params: Vec<f64>,
    loss: f64,
    gradient: Vec<f64>,
}

/// What is known of the Hessian: a factor of it somewhere, and steps with how they turned the gradient.
struct Curvature {
    factor: Factor,
    /// The Hessian is this many times what was factored.
    multiple: f64,
    corrections: VecDeque<Correction>,
}

struct Correction {
    step: Vec<f64>,
    turned: Vec<f64>,
    /// `1 / (step . turned)`.
    scale: f64,
}

impl Curvature {
    /// `None` when the Hessian has no Cholesky factor.
    fn at(problem: Problem, params: &[f64]) -> Option<Self> {
        let hessian = problem.hessian(&problem.design.linear_predictor(params));
        Some(Self {
            factor: Factor::of(hessian)?,
            multiple: 1.0,
            corrections: VecDeque::new(),
        })
    }

    /// Of a sample: that of all rows, so many times as many. What the steps taught was of the sample.
    fn of_more_rows(self, times: usize) -> Self {
        Self {
            multiple: self.multiple * times as f64,
            corrections: VecDeque::new(),
            ..self
        }
    }

    /// The inverse Hessian times the gradient, by the two loops of L-BFGS (Nocedal and Wright, algorithm
    /// 7.4).
    fn step(&self, gradient: &[f64]) -> Vec<f64> {
        let mut direction = gradient.to_vec();
        let mut shares = Vec::with_capacity(self.corrections.len());
        for past in self.corrections.iter().rev() {
            let share = past.scale * dot(&past.step, &direction);
            add_scaled(&mut direction, -share, &past.turned);
            shares.push(share);
        }
        direction = solve(&self.factor, &direction);
        direction.iter_mut().for_each(|d| *d /= self.multiple);
        for (past, share) in self.corrections.iter().zip(shares.into_iter().rev()) {
            let back = past.scale * dot(&past.turned, &direction);
            add_scaled(&mut direction, share - back, &past.step);
        }
        direction
    }

    fn learn(&mut self, from: &Place, to: &Place) {
        let difference = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
        let step: Vec<f64> = difference(&to.params, &from.params);
        let turned: Vec<f64> = difference(&to.gradient, &from.gradient);
        let product = dot(&step, &turned);
        // Convex, so above zero but for rounding.
        if product > f64::EPSILON * dot(&turned, &turned).sqrt() * dot(&step, &step).sqrt() {
            if self.corrections.len() == CORRECTIONS_MAX {
                self.corrections.pop_front();
            }
            self.corrections.push_back(Correction {
                step,
                turned,
                scale: product.recip(),
            });
        }
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
        self.largest(&self.place(params.to_vec()).gradient, &self.column_scales())
    }

    /// Zero coefficients and the log-odds of the rows' share of wins.
    fn base_rate_params(&self) -> Vec<f64> {
        let mut params = vec![0.0; self.design.width() + 1];
        let won = self.won.iter().filter(|won| **won).count();
        params[self.design.width()] = (won as f64 / (self.won.len() - won) as f64).ln();
        params
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

    /// The weighted sum of log losses plus the penalty, and its gradient, in one walk over the rows.
    fn place(&self, params: Vec<f64>) -> Place {
        let (loss, mut gradient) = self.design.walk(&params, |first, tile| {
            let rows = first..first + tile.len();
            match self.weights {
                Some(weights) => weighted_losses(tile, &self.won[rows.clone()], &weights[rows]),
                None => losses(tile, &self.won[rows]),
            }
        });
        let coefficients = &params[..self.design.width()];
        add_scaled(&mut gradient, self.alpha, coefficients);
        Place {
            loss: loss + 0.5 * self.alpha * dot(coefficients, coefficients),
            gradient,
            params,
        }
    }

    /// The mean of the objective over the rows: log loss and penalty.
    pub fn mean_objective(&self, params: &[f64]) -> f64 {
        self.place(params.to_vec()).loss / self.total()
    }

    /// Predicted minus actual, weighted: the derivative of each row's loss by its log-odds.
    pub fn residuals(&self, eta: &[f64]) -> Vec<f64> {
        let rows = eta.iter().zip(self.won).enumerate();
        rows.map(|(row, (&e, &won))| self.weight(row) * (logistic(e) - f64::from(u8::from(won))))
            .collect()
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

    fn penalty(&self, column: usize) -> f64 {
        if column < self.design.width() {
            self.alpha
        } else {
            0.0
        }
    }

    /// Solves `H step = gradient` by conjugate gradients, which never write the Hessian down, until the
    /// residual is `accuracy` of the gradient; the diagonal preconditions.
    pub fn wide_step(&self, curvature: &[f64], gradient: &[f64], accuracy: f64) -> Vec<f64> {
        let diagonal = self.diagonal(curvature);
        let precondition =
            |r: &[f64]| -> Vec<f64> { r.iter().zip(&diagonal).map(|(r, d)| r / d).collect() };
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
        let (_, mut product) = self.design.walk(direction, |first, tile| {
            let curvature = &curvature[first..];
            tile.iter_mut().zip(curvature).for_each(|(t, c)| *t *= c);
            0.0
        });
        add_scaled(&mut product, self.alpha, &direction[..self.design.width()]);
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

    /// The first of the step, half of it, a quarter and so on that lowers the objective.
    fn search(&self, from: &Place, step: &[f64]) -> Option<Place> {
        if !step.iter().all(|s| s.is_finite()) {
            return None;
        }
        let mut length = 1.0;
        for _ in 0..HALVINGS_MAX {
            let mut params = from.params.clone();
            add_scaled(&mut params, -length, step);
            let tried = self.place(params);
            if tried.loss < from.loss {
                return Some(tried);
            }
            length /= 2.0;
        }
        None
    }
}

/// The sum of the log losses of rows; turns each one's log-odds into predicted minus actual.
fn losses(eta: &mut [f64], won: &[bool]) -> f64 {
    let mut loss = 0.0;
    for (eta, won) in eta.chunks_mut(FACTORS_MAX).zip(won.chunks(FACTORS_MAX)) {
        // One logarithm of a product is cheaper than the sum of many.
        let mut factors = 1.0;
        for (e, &won) in eta.iter_mut().zip(won) {
            let (misplaced, factor, residual) = loss_parts(*e, won);
            loss += misplaced;
            factors *= factor;
            *e = residual;
        }
        loss += factors.ln();
    }
    loss
}

/// As [`losses`], each row counted by its weight.
fn weighted_losses(eta: &mut [f64], won: &[bool], weights: &[f64]) -> f64 {
    let mut loss = 0.0;
    for ((e, &won), weight) in eta.iter_mut().zip(won).zip(weights) {
        let (misplaced, factor, residual) = loss_parts(*e, won);
        loss += weight * (misplaced + factor.ln());
        *e = weight * residual;
    }
    loss
}

/// The log loss at log-odds `eta` as `a + ln b`, and predicted minus actual.
fn loss_parts(eta: f64, won: bool) -> (f64, f64, f64) {
    let towards_loss = if won { -eta } else { eta };
    let small = (-eta.abs()).exp();
    let larger = (1.0 + small).recip();
    let probability = if eta >= 0.0 { larger } else { small * larger };
    let actual = f64::from(u8::from(won));
    (towards_loss.max(0.0), 1.0 + small, probability - actual)
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
