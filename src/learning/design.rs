//! The design matrix: numeric columns and category codes, one-hot columns never materialised.

use std::ops::Range;

use ndarray::{Array2, ShapeBuilder};

use crate::parallel;

/// The code of a row that has none of a block's levels: all its one-hot columns are zero.
pub const NO_LEVEL: u32 = u32::MAX;
/// Rows whose sums stay in the first cache while the blocks pass by.
const TILE_ROWS: usize = 2048;
/// Parts that the rows are walked over in, each by one thread: enough to keep threads busy, and the
/// same whatever their number.
const PARTS: usize = 16;
/// Rows x blocks below which starting threads costs more than it brings.
const THREADED_CELLS_MIN: usize = 500_000;

/// One column of the source, `width()` columns of the matrix.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// One column of finite numbers.
    Numeric(Vec<f64>),
    /// `levels` one-hot columns, kept as one code a row: below `levels`, or [`NO_LEVEL`].
    Codes { codes: Vec<u32>, levels: usize },
}

impl Block {
    /// Columns of the matrix that this block stands for.
    pub fn width(&self) -> usize {
        match self {
            Self::Numeric(_) => 1,
            Self::Codes { levels, .. } => *levels,
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Numeric(values) => values.len(),
            Self::Codes { codes, .. } => codes.len(),
        }
    }

    /// Adds `X w` of the rows from `first` on; `weights` have a zero at the end, for rows without a level.
    fn add_products(&self, first: usize, weights: &[f64], sums: &mut [f64]) {
        match self {
            Self::Numeric(values) => {
                for (sum, value) in sums.iter_mut().zip(&values[first..]) {
                    *sum += weights[0] * value;
                }
            }
            Self::Codes { codes, levels, .. } => {
                for (sum, &code) in sums.iter_mut().zip(&codes[first..]) {
                    *sum += weights[(code as usize).min(*levels)];
                }
            }
        }
    }

    /// Adds `X' v` of the rows from `first` on to `sums`, which have one more at the end for rows without
    /// a level.
    fn add_transposed(&self, first: usize, v: &[f64], sums: &mut [f64]) {
        match self {
            Self::Numeric(values) => sums[0] += dot(&values[first..first + v.len()], v),
            Self::Codes { codes, levels } => {
                for (&code, v) in codes[first..].iter().zip(v) {
                    sums[(code as usize).min(*levels)] += v;
                }
            }
        }
    }

    /// `X' v` of this block into `out`, which has its width.
    fn transposed_times(&self, v: &[f64], out: &mut [f64]) {
        match self {
            Self::Numeric(values) => out[0] = dot(values, v),
            Self::Codes { codes, levels } => {
                let mut sums = vec![0.0; levels + 1];
                for (&code, v) in codes.iter().zip(v) {
                    sums[(code as usize).min(*levels)] += v;
                }
                out.copy_from_slice(&sums[..*levels]);
            }
        }
    }

    /// The given rows, in the given order.
    pub fn select(&self, rows: &[usize]) -> Self {
        match self {
            Self::Numeric(values) => Self::Numeric(rows.iter().map(|&r| values[r]).collect()),
            Self::Codes { codes, levels } => Self::Codes {
                codes: rows.iter().map(|&r| codes[r]).collect(),
                levels: *levels,
            },
        }
    }
}

/// A matrix of shape `(rows, width)` made of blocks side by side, each multiplied by its height. A
/// height below one is a stronger penalty: the coefficient must be larger for the same effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Design {
    rows: usize,
    blocks: Vec<Block>,
    /// One for each block.
    heights: Vec<f64>,
    /// First matrix column of each block, and the width at the end.
    offsets: Vec<usize>,
    is_serial: bool,
}

impl Design {
    /// # Errors
    /// When a block has another number of rows, a number is not finite, or a code has no level.
    pub fn new(rows: usize, blocks: Vec<Block>) -> Result<Self, String> {
        let mut offsets = vec![0];
        for (index, block) in blocks.iter().enumerate() {
            if block.rows() != rows {
                return Err(format!(
                    "block {index} has {} rows, not {rows}",
                    block.rows()
                ));
            }
            let sound = match block {
                Block::Numeric(values) => values.iter().all(|v| v.is_finite()),
                Block::Codes { codes, levels } => {
                    let has_level = |&c: &u32| c == NO_LEVEL || (c as usize) < *levels;
                    codes.iter().all(has_level)
                }
            };
            if !sound {
                return Err(format!(
                    "block {index} holds a number that is not finite or a code without a level"
                ));
            }
            offsets.push(offsets[index] + block.width());
        }
        Ok(Self {
            rows,
            heights: vec![1.0; blocks.len()],
            blocks,
            offsets,
            is_serial: false,
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix, without the intercept.
    pub fn width(&self) -> usize {
        self.offsets[self.blocks.len()]
    }

    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// First matrix column of block `index`.
    pub fn offset(&self, index: usize) -> usize {
        self.offsets[index]
    }

    /// The same rows with more blocks to the right, which have as many rows.
    pub fn with(&self, blocks: Vec<Block>) -> Self {
        let mut all = self.clone();
        for block in blocks {
            debug_assert_eq!(block.rows(), self.rows);
            all.offsets.push(all.width() + block.width());
            all.heights.push(1.0);
            all.blocks.push(block);
        }
        all
    }

    /// The same matrix with other heights, one for each block.
    pub fn set_heights(&mut self, heights: &[f64]) {
        debug_assert_eq!(heights.len(), self.blocks.len());
        self.heights.copy_from_slice(heights);
    }

    /// One for each block.
    pub fn heights(&self) -> &[f64] {
        &self.heights
    }

    /// The height of each column of the matrix.
    fn column_heights(&self) -> impl Iterator<Item = f64> + '_ {
        let blocks = self.blocks.iter().zip(&self.heights);
        blocks.flat_map(|(block, &height)| std::iter::repeat_n(height, block.width()))
    }

    /// What one of each column, or one unit of a number, weighs: the coefficients times the heights.
    /// The intercept, if given, follows as it is.
    pub fn weights(&self, params: &[f64]) -> Vec<f64> {
        let heights = self.column_heights().chain([1.0]);
        params.iter().zip(heights).map(|(p, h)| p * h).collect()
    }

    /// The coefficients that have these weights.
    pub fn params(&self, weights: &[f64]) -> Vec<f64> {
        let heights = self.column_heights().chain([1.0]);
        weights.iter().zip(heights).map(|(w, h)| w / h).collect()
    }

    /// The given rows, in the given order.
    pub fn select(&self, rows: &[usize]) -> Self {
        Self {
            rows: rows.len(),
            blocks: self.blocks.iter().map(|b| b.select(rows)).collect(),
            heights: self.heights.clone(),
            offsets: self.offsets.clone(),
            is_serial: self.is_serial,
        }
    }

    /// `intercept + X w` for each row; `params` is `w` followed by the intercept.
    pub fn linear_predictor(&self, params: &[f64]) -> Vec<f64> {
        let width = self.width();
        debug_assert_eq!(params.len(), width + 1);
        let weights = self.block_weights(params);
        let parts = parallel::share(self.threads(), PARTS, |part| {
            let rows = self.part(part);
            let mut eta = vec![params[width]; rows.len()];
            for (tile, first) in eta.chunks_mut(TILE_ROWS).zip(rows.step_by(TILE_ROWS)) {
                self.add_products(first, &weights, tile);
            }
            eta
        });
        parts.concat()
    }

    /// Walks over the rows once, a tile at a time: `turn` gets the number of the first row of a tile
    /// and `intercept + X w` of its rows, puts a factor in the place of each, and answers with
    /// something to be summed. Gives that sum, and `X' factors` followed by the sum of the factors.
    pub fn walk(
        &self,
        params: &[f64],
        turn: impl Fn(usize, &mut [f64]) -> f64 + Sync,
    ) -> (f64, Vec<f64>) {
        let width = self.width();
        debug_assert_eq!(params.len(), width + 1);
        let weights = self.block_weights(params);
        let parts = parallel::share(self.threads(), PARTS, |part| {
            let rows = self.part(part);
            let mut total = 0.0;
            let mut ones = 0.0;
            let mut sums: Vec<Vec<f64>> = weights.iter().map(|w| vec![0.0; w.len()]).collect();
            let mut tile = vec![0.0; TILE_ROWS];
            for first in rows.clone().step_by(TILE_ROWS) {
                let tile = &mut tile[..TILE_ROWS.min(rows.end - first)];
                tile.fill(params[width]);
                self.add_products(first, &weights, tile);
                total += turn(first, tile);
                ones += tile.iter().sum::<f64>();
                for (block, sums) in self.blocks.iter().zip(&mut sums) {
                    block.add_transposed(first, tile, sums);
                }
            }
            (total, ones, sums)
        });
        let mut total = 0.0;
        let mut out = vec![0.0; width + 1];
        for (part_total, ones, sums) in parts {
            total += part_total;
            out[width] += ones;
            for (block, sums) in sums.iter().enumerate() {
                let own = &mut out[self.offsets[block]..self.offsets[block + 1]];
                own.iter_mut().zip(sums).for_each(|(o, s)| *o += s);
            }
        }
        for (out, height) in out.iter_mut().zip(self.column_heights()) {
            *out *= height;
        }
        (total, out)
    }

    /// The rows of one of the parts.
    fn part(&self, part: usize) -> Range<usize> {
        let rows = self.rows.div_ceil(PARTS);
        let first = self.rows.min(part * rows);
        first..self.rows.min(first + rows)
    }

    /// For each block what its columns weigh, and a zero at the end for rows without a level.
    fn block_weights(&self, params: &[f64]) -> Vec<Vec<f64>> {
        let blocks = self.blocks.iter().zip(&self.offsets).zip(&self.heights);
        let weights = blocks.map(|((block, &offset), &height)| {
            let own = &params[offset..offset + block.width()];
            own.iter().map(|w| w * height).chain([0.0]).collect()
        });
        weights.collect()
    }

    /// Adds `X w` of the rows from `first` on.
    fn add_products(&self, first: usize, weights: &[Vec<f64>], sums: &mut [f64]) {
        for (block, weights) in self.blocks.iter().zip(weights) {
            block.add_products(first, weights, sums);
        }
    }

    /// `X' v` followed by the sum of `v` (the intercept's column of ones).
    pub fn transposed_times(&self, v: &[f64]) -> Vec<f64> {
        let parts = parallel::share(self.threads(), self.blocks.len(), |index| {
            let mut own = vec![0.0; self.blocks[index].width()];
            self.blocks[index].transposed_times(v, &mut own);
            own
        });
        let mut out = parts.concat();
        out.push(v.iter().sum());
        for (out, height) in out.iter_mut().zip(self.column_heights()) {
            *out *= height;
        }
        out
    }

    /// `X^2' v`, entry by entry squared, followed by the sum of `v`: the diagonal of an information
    /// matrix.
    pub fn squared_transposed_times(&self, v: &[f64]) -> Vec<f64> {
        let mut out = self.transposed_times(v);
        for (index, block) in self.blocks.iter().enumerate() {
            let own = &mut out[self.offsets[index]..self.offsets[index + 1]];
            let height = self.heights[index];
            match block {
                Block::Numeric(values) => {
                    let squares = values.iter().zip(v).map(|(x, v)| x * x * v);
                    own[0] = height * height * squares.sum::<f64>();
                }
                // Zeros and ones are their own squares.
                Block::Codes { .. } => own.iter_mut().for_each(|o| *o *= height),
            }
        }
        out
    }

    /// Adds a row times `factor` to `out`, which has the width and the intercept's one.
    pub fn add_row(&self, row: usize, factor: f64, out: &mut [f64]) {
        for ((block, &offset), height) in self.blocks.iter().zip(&self.offsets).zip(&self.heights) {
            match block {
                Block::Numeric(values) => out[offset] += factor * height * values[row],
                Block::Codes { codes, .. } if codes[row] != NO_LEVEL => {
                    out[offset + codes[row] as usize] += factor * height;
                }
                Block::Codes { .. } => {}
            }
        }
        out[self.width()] += factor;
    }

    /// Threads worth starting: each cell is summed by one of them in row order, so that results are
    /// the same to the bit whatever their number.
    fn threads(&self) -> usize {
        if self.is_serial || self.rows * self.blocks.len() < THREADED_CELLS_MIN {
            1
        } else {
            parallel::threads()
        }
    }

    /// The same matrix, used by one thread: for callers that are many themselves.
    pub fn serial(self) -> Self {
        Self {
            is_serial: true,
            ..self
        }
    }

    /// `X' diag(weights) X` with the column of ones last; shape `(width + 1, width + 1)`.
    ///
    /// Each pair of blocks is one task and each cell is summed by one thread in row order, so that
    /// the result is the same to the bit whatever the number of threads.
    pub fn information(&self, weights: &[f64]) -> Array2<f64> {
        let width = self.width();
        let mut info = Array2::zeros((width + 1, width + 1));
        let strips = parallel::share(self.threads(), self.blocks.len(), |index| {
            self.strip(index, weights)
        });
        for (index, strip) in strips.into_iter().enumerate() {
            let offset = self.offsets[index];
            for (r, row) in strip.cells.chunks_exact(strip.width).enumerate() {
                for (c, &cell) in row.iter().enumerate() {
                    info[(offset + r, offset + c)] = cell;
                    info[(offset + c, offset + r)] = cell;
                }
            }
        }
        info[(width, width)] = weights.iter().sum();
        info
    }

    /// A block's rows of the information matrix, from its own column to the intercept's.
    fn strip(&self, index: usize, weights: &[f64]) -> Strip {
        let offset = self.offsets[index];
        let mut strip = Strip::new(self.blocks[index].width(), self.width() + 1 - offset);
        let ones_column = self.width() - offset;
        let others = (index + 1..self.blocks.len())
            .map(|other| (&self.blocks[other], self.offsets[other] - offset));
        match &self.blocks[index] {
            Block::Numeric(values) => {
                let weighted: Vec<f64> = values.iter().zip(weights).map(|(x, w)| x * w).collect();
                strip.cells[0] = dot(&weighted, values);
                strip.cells[ones_column] = weighted.iter().sum();
                for (other, column) in others {
                    let cells = &mut strip.cells[column..column + other.width()];
                    other.transposed_times(&weighted, cells);
                }
            }
            Block::Codes { codes, .. } => {
                for (&code, &w) in codes.iter().zip(weights) {
                    strip.add(code, code as usize, w);
                    strip.add(code, ones_column, w);
                }
                for (other, column) in others {
                    match other {
                        Block::Numeric(values) => {
                            for ((&code, w), x) in codes.iter().zip(weights).zip(values) {
                                strip.add(code, column, w * x);
                            }
                        }
                        Block::Codes { codes: others, .. } => {
                            for ((&code, &w), &other) in codes.iter().zip(weights).zip(others) {
                                if other != NO_LEVEL {
                                    strip.add(code, column + other as usize, w);
                                }
                            }
                        }
                    }
                }
            }
        }
        let heights: Vec<f64> = self.column_heights().skip(offset).chain([1.0]).collect();
        for row in strip.cells.chunks_exact_mut(strip.width) {
            for (cell, height) in row.iter_mut().zip(&heights) {
                *cell *= self.heights[index] * height;
            }
        }
        strip
    }

    /// The matrix with its one-hot columns written out, column-major, which is the order that
    /// linfa's passes over columns want. Shape `(rows, width)`.
    pub fn to_dense(&self) -> Array2<f64> {
        let mut dense = Array2::zeros((self.rows, self.width()).f());
        for ((block, &offset), height) in self.blocks.iter().zip(&self.offsets).zip(&self.heights) {
            match block {
                Block::Numeric(values) => {
                    for (row, value) in values.iter().enumerate() {
                        dense[(row, offset)] = height * value;
                    }
                }
                Block::Codes { codes, .. } => {
                    for (row, &code) in codes.iter().enumerate() {
                        if code != NO_LEVEL {
                            dense[(row, offset + code as usize)] = *height;
                        }
                    }
                }
            }
        }
        dense
    }
}

/// A block's rows of the information matrix, from its own first column to that of the ones.
struct Strip {
    width: usize,
    cells: Vec<f64>,
}

impl Strip {
    fn new(height: usize, width: usize) -> Self {
        Self {
            width,
            cells: vec![0.0; height * width],
        }
    }

    fn add(&mut self, code: u32, column: usize, amount: f64) {
        if code != NO_LEVEL {
            self.cells[code as usize * self.width + column] += amount;
        }
    }
}

/// The dot product in four interleaved sums: fixed order, and open to vector instructions.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 4];
    let (a4, a_rest) = a.as_chunks::<4>();
    let (b4, b_rest) = b.as_chunks::<4>();
    for (x, y) in a4.iter().zip(b4) {
        for lane in 0..4 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    (sums[0] + sums[1]) + (sums[2] + sums[3]) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn design() -> Design {
        Design::new(
            4,
            vec![
                Block::Numeric(vec![1.0, -2.0, 0.5, 3.0]),
                Block::Codes {
                    codes: vec![0, 2, NO_LEVEL, 2],
                    levels: 3,
                },
                Block::Codes {
                    codes: vec![1, 0, 1, NO_LEVEL],
                    levels: 2,
                },
                Block::Numeric(vec![0.0, 1.0, 1.0, 2.0]),
            ],
        )
        .unwrap()
    }

    #[test]
    fn codes_stand_for_the_dense_matrix() {
        let mut design = design();
        design.set_heights(&[1.0, 0.5, 3.0, 0.1]);
        let dense = design.to_dense();
        let mut ones = Array2::ones((4, 8));
        ones.slice_mut(ndarray::s![.., ..7]).assign(&dense);
        let weights = [0.1, 0.2, 0.25, 0.05];
        let diag = Array2::from_diag(&ndarray::arr1(&weights));
        let expected = ones.t().dot(&diag).dot(&ones);
        let info = design.information(&weights);
        for (a, b) in info.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-15, "{info} against {expected}");
        }
        let params: Vec<f64> = (0..8).map(|i| f64::from(i) * 0.3 - 1.0).collect();
        let eta = design.linear_predictor(&params);
        let expected = ones.dot(&ndarray::arr1(&params));
        for (a, b) in eta.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-15);
        }
        let back = design.transposed_times(&weights);
        let expected = ones.t().dot(&ndarray::arr1(&weights));
        for (a, b) in back.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-15);
        }
    }

    #[test]
    fn unsound_blocks_are_refused() {
        assert!(Design::new(1, vec![Block::Numeric(vec![f64::NAN])]).is_err());
        assert!(Design::new(2, vec![Block::Numeric(vec![1.0])]).is_err());
        let too_high = Block::Codes {
            codes: vec![3],
            levels: 3,
        };
        assert!(Design::new(1, vec![too_high]).is_err());
    }

    #[test]
    fn selected_rows_keep_their_values() {
        let picked = design().select(&[3, 0]);
        assert_eq!(picked.rows(), 2);
        assert_eq!(picked.to_dense()[(0, 0)], 3.0);
        assert_eq!(picked.to_dense()[(1, 1)], 1.0);
    }
}
