//! Quantiles, ranks and intervals of small samples.

use std::collections::HashMap;

use serde::Serialize;
use utoipa::ToSchema;

/// What is counted by a few names over many deals, in no order.
pub(super) type Counts<K, T> = HashMap<K, T, foldhash::fast::RandomState>;

/// All intervals of insights are of the level that those of scores have.
pub(super) use crate::scoring::INTERVAL_Z as Z;

/// A figure with its 90% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Estimated {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// A lower quartile, median and upper quartile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Quartiles {
    pub lower: f64,
    pub median: f64,
    pub upper: f64,
    /// How many values they are of.
    pub count: usize,
}

impl Quartiles {
    /// `None` of no values. `sorted` ascends.
    pub fn of(sorted: &[f64]) -> Option<Self> {
        Some(Self {
            lower: quantile(sorted, 0.25)?,
            median: quantile(sorted, 0.5)?,
            upper: quantile(sorted, 0.75)?,
            count: sorted.len(),
        })
    }
}

/// The quantile at `q` of ascending values, linear between them as NumPy's and SQL's `percentile_cont`
/// (Hyndman and Fan 1996, type 7). `None` of no values.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = q.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    Some(sorted[below] + (place - below as f64) * (sorted[above] - sorted[below]))
}

/// The mean; `None` of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The 90% score interval of a share (Wilson 1927); 0 to 1 where nothing was counted.
pub fn share(hits: usize, of: usize) -> Estimated {
    if of == 0 {
        return Estimated {
            value: 0.0,
            low: 0.0,
            high: 1.0,
        };
    }
    wilson(hits as f64 / of as f64, of as f64)
}

/// The 90% score interval (Wilson 1927) of a share `p` that was seen in `n` cases; above 0, not always whole.
pub fn wilson(p: f64, n: f64) -> Estimated {
    let z2 = Z * Z;
    let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Estimated {
        value: p,
        low: (middle - half).max(0.0),
        high: (middle + half).min(1.0),
    }
}

/// Ranks from 1, the largest value first; equal values share the mean of their ranks.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let tied = order[start..].iter().take_while(|&&i| values[i] == value);
        let end = start + tied.count().max(1);
        let shared = (start + 1 + end) as f64 / 2.0;
        for &index in &order[start..end] {
            ranks[index] = shared;
        }
        start = end;
    }
    ranks
}

/// Spearman's rank correlation with a 90% interval by Fisher's transformation, with the variance of
/// Bonett and Wright (2000). `None` below four pairs, or where one side is all the same.
pub fn rank_correlation(left: &[f64], right: &[f64]) -> Option<Estimated> {
    if left.len() != right.len() || left.len() < 4 {
        return None;
    }
    let (a, b) = (ranks(left), ranks(right));
    let middle = (a.len() + 1) as f64 / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        let pairs = x.iter().zip(y);
        pairs.map(|(x, y)| (x - middle) * (y - middle)).sum()
    };
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    if spread == 0.0 {
        return None;
    }
    let value = (product(&a, &b) / spread).clamp(-1.0, 1.0);
    // At +-1 the transformation has no value; just inside, the interval still ends at +-1.
    let fisher = value.clamp(-0.999_999, 0.999_999).atanh();
    let error = ((1.0 + value * value / 2.0) / (a.len() as f64 - 3.0)).sqrt();
    Some(Estimated {
        value,
        low: (fisher - Z * error).tanh().min(value),
        high: (fisher + Z * error).tanh().max(value),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_numpy() {
        // NumPy 2.4: np.quantile([1, 2, 4, 8], [0.25, 0.5, 0.8]) = [1.75, 3. , 5.6]
        let values = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile(&values, 0.25), Some(1.75));
        assert_eq!(quantile(&values, 0.5), Some(3.0));
        assert!((quantile(&values, 0.8).unwrap() - 5.6).abs() < 1e-12);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[7.0], 0.9), Some(7.0));
    }

    #[test]
    fn a_share_of_few_is_a_wide_one() {
        // statsmodels 0.15: proportion_confint(1, 6, alpha=0.1, method="wilson")
        let one_of_six = share(1, 6);
        assert!(
            (one_of_six.low - 0.038_105_570_079).abs() < 1e-9,
            "{one_of_six:?}"
        );
        assert!(
            (one_of_six.high - 0.502_417_084_124).abs() < 1e-9,
            "{one_of_six:?}"
        );
        let nothing = share(0, 0);
        assert_eq!((nothing.low, nothing.high), (0.0, 1.0));
    }

    #[test]
    fn equal_values_share_their_ranks() {
        assert_eq!(ranks(&[10.0, 30.0, 10.0, 20.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(ranks(&[]), [0.0; 0]);
    }

    #[test]
    fn rank_correlations_are_those_of_scipy() {
        // scipy 1.17: spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]).statistic = 0.8207826816681233
        let found = rank_correlation(&[1.0, 2.0, 3.0, 4.0, 5.0], &[5.0, 6.0, 7.0, 8.0, 7.0]);
        let found = found.unwrap();
        assert!((found.value - 0.820_782_681_668_123_3).abs() < 1e-12);
        assert!(found.low < 0.2 && found.high > 0.95, "{found:?}");
        assert_eq!(
            rank_correlation(&[1.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0]),
            None
        );
        let perfect = rank_correlation(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!(perfect.value > 0.999_999 && perfect.high <= 1.0);
    }
}
