//! Interactions inside a linear model: pairs of columns, one weight for each pair of their levels that
//! is common enough.
//!
//! A fit puts part of what a column means by itself into its crosses. For reasons that read true this
//! is put back: from each cross the mean of every level is taken away and given to the level itself
//! (Lengerich et al., "Purifying Interaction Effects", AISTATS 2020). The log-odds of a deal stay the
//! same; what is left in a cross is what only the pair can say, and each column has half of it (its
//! Shapley value).

use serde::{Deserialize, Serialize};

use crate::columns::Column;
use crate::learning::design::{Block, Design, NO_LEVEL};

/// Deals that a pair of levels needs for a weight of its own.
const CELL_DEALS_MIN: usize = 20;
/// Crosses of one model.
const CROSSES_MAX: usize = 150;
/// Cells of all crosses of one model.
const CELLS_MAX: usize = 3000;
/// Rows x crosses of one model: what fits into seconds and some dozens of megabytes.
const ROWS_TIMES_CROSSES_MAX: usize = 12_000_000;
/// Pairs of levels that two columns may have for them to be crossed.
const LEVEL_PAIRS_MAX: usize = 20_000;
/// Rows that the choice of the pairs looks at.
const SCREENED_ROWS_MAX: usize = 40_000;
/// Rows x pairs that it looks at: some seconds, also for hundreds of columns.
const SCREENED_CELLS_MAX: usize = 1_000_000_000;
/// Sweeps of the purification; it has settled long before.
const SWEEPS_MAX: usize = 100;

/// What pairs of levels of two columns weigh beyond the columns themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cross {
    /// Names of the two columns.
    pub left: String,
    pub right: String,
    /// By code of the left, then of the right level.
    pub cells: Vec<Cell>,
    /// What was put back into the levels of the left and of the right column, by code: a pair weighs
    /// its cell, or nothing, less both.
    pub left_means: Vec<f64>,
    pub right_means: Vec<f64>,
}

/// A pair of levels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cell {
    /// Codes of the levels.
    pub left: u32,
    pub right: u32,
    /// Training deals.
    pub deals: usize,
    /// Log-odds.
    pub coefficient: f64,
}

impl Cross {
    /// The weight of each pair of levels, log-odds, by `left x right_levels + right`.
    pub fn table(&self) -> Vec<f64> {
        let (left, right) = (&self.left_means, &self.right_means);
        let pairs = left.iter().flat_map(|l| right.iter().map(move |r| -l - r));
        let mut table: Vec<f64> = pairs.collect();
        for cell in &self.cells {
            table[cell.left as usize * right.len() + cell.right as usize] += cell.coefficient;
        }
        table
    }

    /// Whether the cross fits the two columns and all its numbers are finite.
    pub fn is_sound(&self, left: &Column, right: &Column) -> bool {
        let means = self.left_means.iter().chain(&self.right_means);
        let weights = self.cells.iter().map(|cell| &cell.coefficient);
        let has_levels = |cell: &Cell| {
            (cell.left as usize) < left.levels() && (cell.right as usize) < right.levels()
        };
        (self.left_means.len(), self.right_means.len()) == (left.levels(), right.levels())
            && left.levels().saturating_mul(right.levels()) <= LEVEL_PAIRS_MAX
            && means.chain(weights).all(|x| x.is_finite())
            && self.cells.iter().all(has_levels)
    }
}

/// A pair of columns, and the code of its cell for each row.
pub struct Pair {
    left: usize,
    right: usize,
    cells: Vec<Cell>,
    codes: Vec<u32>,
}

/// What a prediction leaves unexplained of a row.
#[derive(Debug, Clone, Copy)]
pub struct Unexplained {
    pub row: usize,
    /// Predicted minus actual.
    pub residual: f64,
    /// `p (1 - p)`.
    pub curvature: f64,
}

/// The codes of each column's levels in a design; `None` where a column has fewer than two.
pub struct LevelCodes<'a> {
    columns: Vec<Option<(&'a [u32], usize)>>,
}

impl<'a> LevelCodes<'a> {
    /// Of a design that is made of these columns' blocks.
    pub fn of(columns: &[Column], design: &'a Design) -> Self {
        let mut blocks = design.blocks().iter();
        let columns = columns.iter().map(|column| {
            let own = blocks
                .by_ref()
                .take(column.lines() + usize::from(column.levels() > 0));
            let codes = own.filter_map(|block| match block {
                Block::Codes { codes, levels, .. } if *levels > 1 => Some((&codes[..], *levels)),
                _ => None,
            });
            codes.last()
        });
        Self {
            columns: columns.collect(),
        }
    }

    fn of_pair(&self, left: usize, right: usize) -> Option<PairCodes<'a>> {
        let (left_codes, left_levels) = self.columns[left]?;
        let (right_codes, right_levels) = self.columns[right]?;
        (left_levels * right_levels <= LEVEL_PAIRS_MAX).then_some(PairCodes {
            left: left_codes,
            right: right_codes,
            right_levels,
            size: left_levels * right_levels,
        })
    }

    /// The pairs worth crossing, the most telling first by what predictions without crosses leave
    /// `unexplained`. `deals` is of all rows, which are `rows_per_deal` a deal; `penalty` is that of a cell's
    /// weight.
    pub fn pairs(
        &self,
        unexplained: &[Unexplained],
        deals: &[usize],
        rows_per_deal: f64,
        penalty: f64,
    ) -> Vec<Pair> {
        let count = self.columns.len();
        let all = (0..count).flat_map(|left| (left + 1..count).map(move |right| (left, right)));
        let pairs_count = count * count.saturating_sub(1) / 2;
        let rows_max = SCREENED_ROWS_MAX.min(SCREENED_CELLS_MAX / pairs_count.max(1));
        let stride = unexplained.len().div_ceil(rows_max.max(1)).max(1);
        let screened_rows: Vec<Unexplained> = unexplained.iter().step_by(stride).copied().collect();
        let mut screened: Vec<(f64, usize, usize)> = all
            .filter_map(|(left, right)| {
                let codes = self.of_pair(left, right)?;
                let gain = codes.gain(&screened_rows, rows_per_deal, penalty);
                Some((gain, left, right))
            })
            .collect();
        screened.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let pairs_max = CROSSES_MAX.min(ROWS_TIMES_CROSSES_MAX / deals.len().max(1));
        let mut cells = 0;
        let mut pairs = Vec::new();
        for (_, left, right) in screened {
            if pairs.len() == pairs_max {
                break;
            }
            let pair = self
                .of_pair(left, right)
                .map(|codes| codes.pair(left, right, deals));
            if let Some(pair) =
                pair.filter(|p| p.cells.len() > 1 && cells + p.cells.len() <= CELLS_MAX)
            {
                cells += pair.cells.len();
                pairs.push(pair);
            }
        }
        pairs
    }

    /// The cross of a pair whose cells have their weights, and what its purification gives to the
    /// levels of the two columns.
    fn purified(&self, pair: Pair, columns: &[Column]) -> Cross {
        let (left_means, right_means) = match self.of_pair(pair.left, pair.right) {
            Some(codes) => codes.means(&pair.cells),
            None => (Vec::new(), Vec::new()),
        };
        Cross {
            left: columns[pair.left].name.clone(),
            right: columns[pair.right].name.clone(),
            cells: pair.cells,
            left_means,
            right_means,
        }
    }

    /// Crosses of fitted pairs, in their order; `coefficients` are the weights of their blocks. The
    /// levels of the columns get what is theirs.
    pub fn crosses(
        &self,
        pairs: Vec<Pair>,
        mut coefficients: &[f64],
        columns: &mut [Column],
    ) -> Vec<Cross> {
        let mut crosses = Vec::with_capacity(pairs.len());
        for mut pair in pairs {
            let (own, rest) = coefficients.split_at(pair.cells.len());
            coefficients = rest;
            for (cell, coefficient) in pair.cells.iter_mut().zip(own) {
                cell.coefficient = *coefficient;
            }
            let (left, right) = (pair.left, pair.right);
            let cross = self.purified(pair, columns);
            columns[left].shift_levels(&cross.left_means);
            columns[right].shift_levels(&cross.right_means);
            crosses.push(cross);
        }
        crosses
    }
}

impl Pair {
    /// The design block of the pair.
    pub fn block(&self) -> Block {
        Block::Codes {
            codes: self.codes.clone(),
            levels: self.cells.len(),
        }
    }
}

/// The codes of two columns, row by row.
struct PairCodes<'a> {
    left: &'a [u32],
    right: &'a [u32],
    right_levels: usize,
    /// Pairs of levels.
    size: usize,
}

impl PairCodes<'_> {
    /// The pair of levels of a row; `None` where one of the columns has no level.
    fn at(&self, row: usize) -> Option<usize> {
        let (left, right) = (self.left[row], self.right[row]);
        (left != NO_LEVEL && right != NO_LEVEL)
            .then(|| left as usize * self.right_levels + right as usize)
    }

    /// How much the log loss would fall by one Newton step on the cells alone, beyond what it would
    /// fall by chance, given that the rows of a deal stand together.
    fn gain(&self, rows: &[Unexplained], rows_per_deal: f64, penalty: f64) -> f64 {
        let mut sums = vec![(0.0, 0.0); self.size];
        for unexplained in rows {
            if let Some(pair) = self.at(unexplained.row) {
                sums[pair].0 += unexplained.residual;
                sums[pair].1 += unexplained.curvature;
            }
        }
        let cells = sums.iter().filter(|(_, information)| *information > 0.0);
        cells
            .map(|(score, information)| {
                let by_chance = information * rows_per_deal;
                (score * score - by_chance) / (information + penalty)
            })
            .sum()
    }

    /// The pair with its cells: the pairs of levels that enough deals have.
    fn pair(&self, left: usize, right: usize, deals: &[usize]) -> Pair {
        let mut counts = vec![(0usize, usize::MAX); self.size];
        for (row, &deal) in deals.iter().enumerate() {
            if let Some(pair) = self.at(row) {
                let (count, last) = &mut counts[pair];
                *count += usize::from(*last != deal);
                *last = deal;
            }
        }
        let mut code_of = vec![NO_LEVEL; self.size];
        let mut cells = Vec::new();
        for (pair, &(count, _)) in counts.iter().enumerate() {
            if count >= CELL_DEALS_MIN {
                code_of[pair] = cells.len() as u32;
                cells.push(Cell {
                    left: (pair / self.right_levels) as u32,
                    right: (pair % self.right_levels) as u32,
                    deals: count,
                    coefficient: 0.0,
                });
            }
        }
        let code = |row| self.at(row).map_or(NO_LEVEL, |pair| code_of[pair]);
        Pair {
            left,
            right,
            codes: (0..deals.len()).map(code).collect(),
            cells,
        }
    }

    /// The means of the left and the right levels, such that what is left of the cells has mean zero
    /// in each level, over the rows.
    fn means(&self, cells: &[Cell]) -> (Vec<f64>, Vec<f64>) {
        let right_levels = self.right_levels;
        let mut counts = vec![0.0; self.size];
        (0..self.left.len())
            .filter_map(|row| self.at(row))
            .for_each(|pair| counts[pair] += 1.0);
        let mut weights = vec![0.0; self.size];
        for cell in cells {
            weights[cell.left as usize * right_levels + cell.right as usize] = cell.coefficient;
        }
        let mut left = vec![0.0; self.size / right_levels];
        let mut right = vec![0.0; right_levels];
        for _ in 0..SWEEPS_MAX {
            let before = (left.clone(), right.clone());
            let (mut sums, mut rows) = (vec![0.0; left.len()], vec![0.0; left.len()]);
            for (pair, count) in counts.iter().enumerate() {
                sums[pair / right_levels] += count * (weights[pair] - right[pair % right_levels]);
                rows[pair / right_levels] += count;
            }
            left = means_of(&sums, &rows);
            let (mut sums, mut rows) = (vec![0.0; right_levels], vec![0.0; right_levels]);
            for (pair, count) in counts.iter().enumerate() {
                sums[pair % right_levels] += count * (weights[pair] - left[pair / right_levels]);
                rows[pair % right_levels] += count;
            }
            right = means_of(&sums, &rows);
            let moved = |a: &[f64], b: &[f64]| a.iter().zip(b).any(|(a, b)| (a - b).abs() > 1e-12);
            if !moved(&left, &before.0) && !moved(&right, &before.1) {
                break;
            }
        }
        (left, right)
    }
}

fn means_of(sums: &[f64], counts: &[f64]) -> Vec<f64> {
    let pairs = sums.iter().zip(counts);
    pairs
        .map(|(sum, count)| if *count > 0.0 { sum / count } else { 0.0 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purified_cells_have_mean_zero_in_every_level() {
        let left: Vec<u32> = (0..600).map(|i| i % 3).collect();
        let right: Vec<u32> = (0..600).map(|i| (i / 7) % 2).collect();
        let codes = PairCodes {
            left: &left,
            right: &right,
            right_levels: 2,
            size: 6,
        };
        let deals: Vec<usize> = (0..600).collect();
        let mut pair = codes.pair(0, 1, &deals);
        assert_eq!(pair.cells.len(), 6);
        for (cell, weight) in pair.cells.iter_mut().zip([0.5, -1.0, 2.0, 0.1, 0.0, 0.3]) {
            cell.coefficient = weight;
        }
        let (left_means, right_means) = codes.means(&pair.cells);
        let cross = Cross {
            left: "a".into(),
            right: "b".into(),
            cells: pair.cells,
            left_means,
            right_means,
        };
        let table = cross.table();
        let mean = |is_in: &dyn Fn(usize) -> bool| {
            let rows: Vec<usize> = (0..600).filter(|&row| is_in(row)).collect();
            let weights = rows.iter().map(|&row| table[codes.at(row).unwrap()]);
            weights.sum::<f64>() / rows.len() as f64
        };
        for level in 0..3 {
            assert!(mean(&|row| left[row] == level).abs() < 1e-9);
        }
        for level in 0..2 {
            assert!(mean(&|row| right[row] == level).abs() < 1e-9);
        }
    }

    #[test]
    fn rare_pairs_of_levels_have_no_cell() {
        let left: Vec<u32> = (0..100).map(|i| u32::from(i < 19)).collect();
        let right = vec![0; 100];
        let codes = PairCodes {
            left: &left,
            right: &right,
            right_levels: 1,
            size: 2,
        };
        let apart: Vec<usize> = (0..100).collect();
        let pair = codes.pair(0, 1, &apart);
        assert_eq!((pair.cells.len(), pair.cells[0].left), (1, 0));
        assert_eq!(pair.codes[0], NO_LEVEL);
        // Rows of one deal are one.
        let together: Vec<usize> = (0..100).map(|i| i / 10).collect();
        assert!(codes.pair(0, 1, &together).cells.is_empty());
    }
}
