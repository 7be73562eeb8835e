//! Cholesky factors of matrices thousands wide, by blocks: linfa-linalg factors the small ones on
//! the diagonal, products of matrices do the rest (Golub and Van Loan, Matrix Computations, 4.2.9).

use std::sync::Mutex;

use linfa_linalg::cholesky::CholeskyInplace;
use linfa_linalg::triangular::{SolveTriangularInplace, UPLO};
use ndarray::linalg::general_mat_mul;
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, s};

/// Rows of a block on the diagonal.
const BLOCK: usize = 96;
/// Columns that one thread updates at a time.
const STRIP: usize = 192;
/// Width below which starting threads costs more than it brings.
const THREADED_WIDTH_MIN: usize = 500;

/// `A = D L L' D` of a symmetric positive definite matrix, D the roots of its diagonal: columns in
/// euros beside columns in shares would otherwise cost the factor all its digits.
pub struct Factor {
    /// The lower triangle of L; what is above the diagonal means nothing.
    lower: Array2<f64>,
    /// The inverses of the blocks on the diagonal of L.
    inverses: Vec<Array2<f64>>,
    /// The diagonal of the inverse of D.
    scale: Array1<f64>,
}

impl Factor {
    /// Factors the matrix whose lower triangle is given; `None` when it is not positive definite.
    pub fn of(mut matrix: Array2<f64>) -> Option<Self> {
        let scale = matrix.diag().mapv(|d| d.sqrt().recip());
        for ((r, c), cell) in matrix.indexed_iter_mut() {
            *cell *= scale[r] * scale[c];
        }
        let size = matrix.nrows();
        let mut inverses = Vec::with_capacity(size.div_ceil(BLOCK));
        for first in (0..size).step_by(BLOCK) {
            let next = size.min(first + BLOCK);
            let mut corner = matrix.slice(s![first..next, first..next]).to_owned();
            corner.cholesky_inplace().ok()?;
            let mut inverse = Array2::eye(next - first);
            corner
                .solve_triangular_inplace(&mut inverse, UPLO::Lower)
                .ok()?;
            matrix
                .slice_mut(s![first..next, first..next])
                .assign(&corner);
            let panel = matrix.slice(s![next.., first..next]).dot(&inverse.t());
            matrix.slice_mut(s![next.., first..next]).assign(&panel);
            subtract_square(&panel, matrix.slice_mut(s![next.., next..]));
            inverses.push(inverse);
        }
        let factor = Self {
            lower: matrix,
            inverses,
            scale,
        };
        let diagonal = factor.lower.diag();
        let is_sound = diagonal.iter().all(|d| d.is_finite() && *d > 0.0);
        is_sound.then_some(factor)
    }

    /// `x` of `A x = b` for each column of `b`.
    pub fn solve(&self, mut b: Array2<f64>) -> Array2<f64> {
        self.rescale(&mut b);
        let size = self.lower.nrows();
        let blocks = || self.inverses.iter().zip((0..size).step_by(BLOCK));
        for (inverse, first) in blocks() {
            let next = size.min(first + BLOCK);
            let (mut own, mut rest) = b.view_mut().split_at(Axis(0), next);
            let mut own = own.slice_mut(s![first.., ..]);
            own.assign(&inverse.dot(&own));
            let panel = self.lower.slice(s![next.., first..next]);
            general_mat_mul(-1.0, &panel, &own, 1.0, &mut rest);
        }
        for (inverse, first) in blocks().rev() {
            let next = size.min(first + BLOCK);
            let (mut own, rest) = b.view_mut().split_at(Axis(0), next);
            let mut own = own.slice_mut(s![first.., ..]);
            let panel = self.lower.slice(s![next.., first..next]);
            general_mat_mul(-1.0, &panel.t(), &rest, 1.0, &mut own);
            own.assign(&inverse.t().dot(&own));
        }
        self.rescale(&mut b);
        b
    }

    /// `D L b`: columns of standard normal numbers become draws whose covariance is the matrix.
    pub fn times(&self, b: &Array2<f64>) -> Array2<f64> {
        let mut lower = self.lower.clone();
        for ((r, c), cell) in lower.indexed_iter_mut() {
            *cell = if c <= r { *cell / self.scale[r] } else { 0.0 };
        }
        lower.dot(b)
    }

    fn rescale(&self, b: &mut Array2<f64>) {
        for (mut row, scale) in b.rows_mut().into_iter().zip(&self.scale) {
            row *= *scale;
        }
    }
}

/// `trailing -= panel panel'`, in its lower triangle. Each strip of columns is one task of one thread,
/// so that the result is the same to the bit whatever the number of threads.
fn subtract_square(panel: &Array2<f64>, mut trailing: ArrayViewMut2<f64>) {
    let size = panel.nrows();
    let subtract = |first: usize, mut strip: ArrayViewMut2<f64>| {
        let width = strip.ncols();
        let own: ArrayView2<f64> = panel.slice(s![first..first + width, ..]);
        let below = panel.slice(s![first.., ..]);
        general_mat_mul(
            -1.0,
            &below,
            &own.t(),
            1.0,
            &mut strip.slice_mut(s![first.., ..]),
        );
    };
    let strips = (0..size)
        .step_by(STRIP)
        .zip(trailing.axis_chunks_iter_mut(Axis(1), STRIP));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    if threads == 1 || size < THREADED_WIDTH_MIN {
        strips.for_each(|(first, strip)| subtract(first, strip));
        return;
    }
    let queue = Mutex::new(strips);
    let next = || queue.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((first, strip)) = next() {
                    subtract(first, strip);
                }
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// A positive definite matrix with scales from 1e-3 to 1e3.
    fn matrix(size: usize) -> Array2<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(size as u64);
        let half = Array2::from_shape_fn((size, size), |_| rng.random_range(-1.0..1.0));
        let mut matrix: Array2<f64> = half.dot(&half.t()) + Array2::<f64>::eye(size);
        for ((r, c), cell) in matrix.indexed_iter_mut() {
            let scale = |i: usize| 10f64.powi((i % 7) as i32 - 3);
            *cell *= scale(r) * scale(c);
        }
        matrix
    }

    #[test]
    fn factors_of_every_size_solve_their_systems() {
        for size in [1, 5, BLOCK, BLOCK + 1, 3 * BLOCK - 7, 700] {
            let matrix = matrix(size);
            let wanted = Array2::from_shape_fn((size, 3), |(r, c)| (r + c) as f64 / size as f64);
            let b = matrix.dot(&wanted);
            let found = Factor::of(matrix.clone()).unwrap().solve(b);
            for (a, b) in found.iter().zip(&wanted) {
                assert!((a - b).abs() < 1e-7, "{size}: {a} {b}");
            }
            let factor = Factor::of(matrix.clone()).unwrap();
            let root = factor.times(&Array2::eye(size));
            for (a, b) in root.dot(&root.t()).iter().zip(&matrix) {
                assert!((a - b).abs() <= 1e-9 * b.abs().max(1e-3), "{size}: {a} {b}");
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        assert!(Factor::of(ndarray::arr2(&[[1.0, 2.0], [2.0, 1.0]])).is_none());
        assert!(Factor::of(ndarray::arr2(&[[f64::NAN]])).is_none());
        assert!(Factor::of(ndarray::arr2(&[[-1.0]])).is_none());
    }
}
