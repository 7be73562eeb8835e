//! Whether deals are won as often, and for as much, as predicted.

use serde::{Deserialize, Serialize};

use super::Judged;

const BINS: usize = 10;

/// A tenth of the rows, by rising probability; more where many rows have the same one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bin {
    pub rows: usize,
    /// A deal with several rows may be in several bins.
    pub deals: usize,
    pub probability_low: f64,
    pub probability_high: f64,
    /// Sum of the probabilities.
    pub predicted_wins: f64,
    pub actual_wins: usize,
    /// Sum of the expected values of rows with an amount, in the base currency; `None` where no row
    /// of any bin has one.
    pub predicted_won_value: Option<f64>,
    /// Sum of the amounts of won rows, in the base currency.
    pub actual_won_value: Option<f64>,
}

/// At most ten bins by rising probability, of equal count as far as rows of one probability stay in
/// one bin; the first ones are larger by one row if need be.
pub fn bins(rows: &[Judged]) -> Vec<Bin> {
    let mut sorted: Vec<&Judged> = rows.iter().collect();
    sorted.sort_by(|a, b| a.probability.total_cmp(&b.probability));
    let has_amounts = rows.iter().any(|r| r.amount.is_some());
    let bins = BINS.min(rows.len()).max(1);
    let (small, larger) = (rows.len() / bins, rows.len() % bins);
    let mut rest = sorted.as_slice();
    let mut planned_end = 0;
    (0..bins)
        .filter_map(|index| {
            planned_end += small + usize::from(index < larger);
            let taken = rows.len() - rest.len();
            let last = sorted.get(planned_end.checked_sub(1)?)?.probability;
            let end = sorted.partition_point(|r| r.probability <= last);
            let (rows, tail) = rest.split_at(end.saturating_sub(taken));
            rest = tail;
            bin(rows, has_amounts)
        })
        .collect()
}

fn bin(sorted: &[&Judged], has_amounts: bool) -> Option<Bin> {
    let (first, last) = (sorted.first()?, sorted.last()?);
    let rows = || sorted.iter();
    let mut deals: Vec<usize> = rows().map(|r| r.deal).collect();
    deals.sort_unstable();
    deals.dedup();
    Some(Bin {
        rows: sorted.len(),
        deals: deals.len(),
        probability_low: first.probability,
        probability_high: last.probability,
        predicted_wins: rows().map(|r| r.probability).sum(),
        actual_wins: rows().filter(|r| r.won).count(),
        predicted_won_value: has_amounts.then(|| total(rows().filter_map(|r| r.expected_value()))),
        actual_won_value: has_amounts
            .then(|| total(rows().filter(|r| r.won).filter_map(|r| r.amount))),
    })
}

/// The sum of an empty iterator is -0, which people would read.
fn total(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

/// Expected calibration error: the mean over rows of `|predicted - actual|` win rate of their bin.
pub fn ece(bins: &[Bin]) -> f64 {
    let rows: usize = bins.iter().map(|bin| bin.rows).sum();
    let off = |bin: &Bin| (bin.predicted_wins - bin.actual_wins as f64).abs();
    bins.iter().map(off).sum::<f64>() / rows.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{judge, rows};
    use super::*;

    #[test]
    fn rows_of_one_probability_stay_together() {
        let constant: Vec<_> = (0..100).map(|i| (0.25, i < 25)).collect();
        let e = judge(&constant, 0.25);
        assert_eq!((e.reliability.len(), e.ece), (1, 0.0));
        let halves: Vec<_> = (0..100)
            .map(|i| (if i < 55 { 0.2 } else { 0.8 }, i % 5 == 0))
            .collect();
        let counts: Vec<usize> = bins(&rows(&halves)).iter().map(|bin| bin.rows).collect();
        assert_eq!(counts, [55, 45]);
    }

    #[test]
    fn ten_bins_hold_all_rows() {
        let predictions: Vec<_> = (0..23).map(|i| (f64::from(i) / 23.0, i % 2 == 0)).collect();
        let bins = bins(&rows(&predictions));
        assert_eq!(bins.len(), 10);
        assert_eq!(bins.iter().map(|b| b.rows).sum::<usize>(), 23);
        assert_eq!(bins[0].rows, 3);
        assert!(super::bins(&[]).is_empty());
    }

    #[test]
    fn money_counts_where_it_is_known() {
        let mut judged = rows(&[(0.5, true), (0.5, false), (0.5, true), (0.5, true)]);
        assert_eq!(bins(&judged)[0].actual_won_value, None);
        judged[1].amount = Some(40.0);
        let nothing_won = bins(&judged[1..2])[0].actual_won_value;
        assert!(nothing_won.is_some_and(|value| value == 0.0 && value.is_sign_positive()));
        for (row, amount) in judged.iter_mut().zip([100.0, 40.0, 10.0]) {
            row.amount = Some(amount);
        }
        judged[3].deal = judged[0].deal;
        let bin = bins(&judged)[0];
        assert_eq!((bin.rows, bin.deals), (4, 3));
        assert_eq!(bin.predicted_won_value, Some(75.0));
        assert_eq!(bin.actual_won_value, Some(110.0));
    }
}
