//! Intervals by drawing whole deals with replacement.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::Judged;
use crate::parallel;

/// Resamples where deals are few, and where they are very many: then each takes long, and the
/// intervals are narrow whatever their edges.
const RESAMPLES_MAX: usize = 500;
const RESAMPLES_MIN: usize = 200;
/// Rows of all resamples together, as far as the two limits allow.
const RESAMPLED_ROWS: usize = 40_000_000;

/// A value with its 95% interval, from the percentiles of a bootstrap over whole deals (Efron 1979).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// A value and what it was in each resample; without resamples the interval is the value.
    pub fn new(value: f64, mut resampled: Vec<f64>) -> Self {
        resampled.sort_by(f64::total_cmp);
        let last = resampled.len().saturating_sub(1);
        let at = |q: f64| {
            let found = resampled.get((last as f64 * q).round() as usize);
            found.copied().unwrap_or(value)
        };
        Self {
            value,
            low: at(0.025),
            high: at(0.975),
        }
    }
}

/// How often each deal is drawn, resample after resample.
pub struct Resamples {
    /// Position of each row's deal among the deals.
    deal_of: Vec<u32>,
    deals: usize,
    count: usize,
    seed: u64,
}

impl Resamples {
    pub fn of(rows: &[Judged], seed: u64) -> Self {
        let mut deals: Vec<usize> = rows.iter().map(|r| r.deal).collect();
        deals.sort_unstable();
        deals.dedup();
        let position = |row: &Judged| deals.partition_point(|deal| *deal < row.deal) as u32;
        Self {
            deal_of: rows.iter().map(position).collect(),
            deals: deals.len(),
            count: (RESAMPLED_ROWS / rows.len().max(1)).clamp(RESAMPLES_MIN, RESAMPLES_MAX),
            seed,
        }
    }

    pub fn deals(&self) -> usize {
        self.deals
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Position of a row's deal among the weights.
    pub fn deal_of(&self, row: usize) -> u32 {
        self.deal_of[row]
    }

    /// The weights of what was really seen.
    pub fn once_each(&self) -> Vec<u32> {
        vec![1; self.deals]
    }

    /// Sums a value of each row over the rows of each deal.
    pub fn sum_by_deal(&self, values: impl Iterator<Item = f64>) -> Vec<f64> {
        let mut sums = vec![0.0; self.deals];
        for (value, &deal) in values.zip(&self.deal_of) {
            sums[deal as usize] += value;
        }
        sums
    }

    /// What `measure` makes of the weights of each resample: as many draws as there are deals. Each
    /// resample has a random stream of its own, so that the threads they are shared among do not matter.
    pub fn map<T: Send>(&self, measure: impl Fn(&[u32]) -> T + Sync) -> Vec<T> {
        parallel::share(parallel::threads(), self.count, |resample| {
            let mut weights = vec![0; self.deals];
            self.draw(resample, &mut weights);
            measure(&weights)
        })
    }

    fn draw(&self, resample: usize, weights: &mut [u32]) {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(resample as u64);
        weights.fill(0);
        for _ in 0..self.deals {
            weights[rng.random_range(0..self.deals as u32) as usize] += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(deals: &[usize]) -> Vec<Judged> {
        deals
            .iter()
            .map(|&deal| Judged::new(0.5, true, deal))
            .collect()
    }

    #[test]
    fn every_resample_draws_as_many_deals_as_there_are() {
        let resamples = Resamples::of(&rows(&[7, 7, 90, 3]), 1);
        assert_eq!(resamples.deals(), 3);
        assert_eq!(
            resamples.sum_by_deal([1.0, 2.0, 4.0, 8.0].into_iter()),
            [8.0, 3.0, 4.0]
        );
        let drawn = resamples.map(<[u32]>::to_vec);
        assert_eq!(drawn.len(), 500);
        assert!(drawn.iter().all(|weights| weights.iter().sum::<u32>() == 3));
        assert!(drawn.iter().any(|weights| *weights != drawn[0]));
        assert_eq!(drawn, resamples.map(<[u32]>::to_vec));
    }

    /// The standard error of the mean of 0..1000 is 289 / sqrt(1000) = 9.13.
    #[test]
    fn the_interval_of_a_mean_is_that_of_its_standard_error() {
        let count = 1000;
        let resamples = Resamples::of(&rows(&(0..count).collect::<Vec<_>>()), 5);
        let mean = |weights: &[u32]| {
            let sum: f64 = weights
                .iter()
                .enumerate()
                .map(|(i, &w)| i as f64 * f64::from(w))
                .sum();
            sum / count as f64
        };
        let estimate = Estimate::new(mean(&resamples.once_each()), resamples.map(mean));
        assert_eq!(estimate.value, 499.5);
        for edge in [499.5 - estimate.low, estimate.high - 499.5] {
            assert!((edge / (1.96 * 9.13) - 1.0).abs() < 0.12, "{estimate:?}");
        }
    }

    #[test]
    fn very_many_rows_are_resampled_less_often() {
        let resamples = Resamples::of(&rows(&vec![1; 400_000]), 1);
        assert_eq!(resamples.count(), 200);
    }
}
