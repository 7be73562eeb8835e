//! How far what is judged has moved from what was learned from.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::features::Reading;

/// Bins of numbers: tenths of the training values.
const NUMBER_BINS: usize = 10;
/// Levels of a category that are counted by themselves, the commonest first.
const LEVELS_MAX: usize = 20;
/// Shares below this are taken for it: an empty bin has no logarithm.
const SHARE_MIN: f64 = 1e-4;
/// From here on a population has moved, from there on it is another one (Siddiqi 2006).
const MOVED: f64 = 0.1;
const SHIFTED: f64 = 0.25;
/// 95th percentile of the standard normal distribution.
const CHANCE_Z: f64 = 1.644_853_626_951_472_2;

/// How the values of a column are spread: what [`psi`] compares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    bins: Bins,
    /// Rows without a value, or with one that cannot be read.
    missing: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Bins {
    Numbers(Vec<NumberBin>),
    Levels(Vec<LevelBin>),
}

/// Rows whose number is at most `up_to` and above the bin before; the last bin has no end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NumberBin {
    up_to: Option<f64>,
    count: usize,
}

/// Rows of one level; the last bin holds all others and has no name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelBin {
    level: Option<String>,
    count: usize,
}

/// How far a column, or the score, has moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    pub column: String,
    pub psi: f64,
    /// What chance alone would exceed once in twenty, given how few deals there are.
    pub by_chance: f64,
    pub grade: Stability,
}

/// Grade of a population stability index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stability {
    /// Below 0.1, or no more than chance.
    Stable,
    /// 0.1 to 0.25.
    Moved,
    /// Above 0.25.
    Shifted,
}

/// Drift between the training rows and the judged ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// Of the win probability.
    pub score: Shift,
    /// By falling index.
    pub columns: Vec<Shift>,
}

impl Distribution {
    /// Of the values of a column, which are texts or numbers. Numbers are cut at the tenths of their
    /// values (`inverted_cdf` quantiles), fewer where many rows have the same one.
    pub fn of(readings: &[Reading]) -> Self {
        let is_text = readings.iter().any(|r| matches!(r, Reading::Text(_)));
        let bins = if is_text {
            Bins::Levels(levels(readings))
        } else {
            Bins::Numbers(tenths(readings))
        };
        let mut distribution = Self { bins, missing: 0 };
        let counts = distribution.counts(readings);
        distribution.missing = counts.last().copied().unwrap_or(0);
        match &mut distribution.bins {
            Bins::Numbers(bins) => {
                for (bin, count) in bins.iter_mut().zip(counts) {
                    bin.count = count;
                }
            }
            Bins::Levels(bins) => {
                for (bin, count) in bins.iter_mut().zip(counts) {
                    bin.count = count;
                }
            }
        }
        distribution
    }

    /// How far other values of the column have moved. Rows of one deal stand together, so that chance
    /// is a matter of the numbers of deals.
    pub fn shift(&self, column: &str, readings: &[Reading], deals: [usize; 2]) -> Shift {
        let (expected, actual) = (self.own_counts(), self.counts(readings));
        let in_use = expected.iter().zip(&actual).filter(|(e, a)| **e + **a > 0);
        let by_chance = by_chance(in_use.count(), deals);
        let psi = psi(&expected, &actual);
        Shift {
            column: column.to_owned(),
            psi,
            by_chance,
            grade: Stability::of(psi, by_chance),
        }
    }

    /// Rows in each bin, the missing ones last.
    fn own_counts(&self) -> Vec<usize> {
        let mut counts: Vec<usize> = match &self.bins {
            Bins::Numbers(bins) => bins.iter().map(|bin| bin.count).collect(),
            Bins::Levels(bins) => bins.iter().map(|bin| bin.count).collect(),
        };
        counts.push(self.missing);
        counts
    }

    /// The same of other rows.
    fn counts(&self, readings: &[Reading]) -> Vec<usize> {
        let mut counts = vec![0; self.own_counts().len()];
        let missing = counts.len() - 1;
        // A level that is not listed belongs to the last bin, which is the one before the missing.
        let others = missing.saturating_sub(1);
        let levels: HashMap<&str, usize> = match &self.bins {
            Bins::Numbers(_) => HashMap::new(),
            Bins::Levels(bins) => {
                let named = bins.iter().enumerate();
                named
                    .filter_map(|(index, bin)| Some((bin.level.as_deref()?, index)))
                    .collect()
            }
        };
        for reading in readings {
            let bin = match (&self.bins, reading) {
                (Bins::Numbers(bins), Reading::Number(x)) => {
                    bins.partition_point(|bin| bin.up_to.is_some_and(|up_to| up_to < *x))
                }
                (Bins::Levels(_), Reading::Text(text)) => {
                    levels.get(text.as_ref()).copied().unwrap_or(others)
                }
                _ => missing,
            };
            counts[bin.min(missing)] += 1;
        }
        counts
    }
}

impl Stability {
    fn of(psi: f64, by_chance: f64) -> Self {
        match psi {
            _ if psi < MOVED || psi <= by_chance => Self::Stable,
            _ if psi <= SHIFTED => Self::Moved,
            _ => Self::Shifted,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Moved => "moved",
            Self::Shifted => "shifted",
        }
    }
}

fn tenths(readings: &[Reading]) -> Vec<NumberBin> {
    let numbers = readings.iter().filter_map(|reading| match reading {
        Reading::Number(x) => Some(*x),
        _ => None,
    });
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    let quantile = |tenth: usize| {
        let rank = (sorted.len() * tenth).div_ceil(NUMBER_BINS);
        sorted.get(rank.saturating_sub(1)).copied()
    };
    let mut edges: Vec<f64> = (1..NUMBER_BINS).filter_map(quantile).collect();
    edges.dedup();
    // Nothing lies above the largest value.
    edges.retain(|edge| sorted.last() != Some(edge));
    let ends = edges.into_iter().map(Some).chain([None]);
    ends.map(|up_to| NumberBin { up_to, count: 0 }).collect()
}

fn levels(readings: &[Reading]) -> Vec<LevelBin> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for reading in readings {
        if let Reading::Text(text) = reading {
            *counts.entry(text.as_ref()).or_default() += 1;
        }
    }
    let mut by_count: Vec<(&str, usize)> = counts.into_iter().collect();
    by_count.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    by_count.truncate(LEVELS_MAX);
    let named = by_count
        .into_iter()
        .map(|(level, _)| Some(level.to_owned()));
    named
        .chain([None])
        .map(|level| LevelBin { level, count: 0 })
        .collect()
}

/// The population stability index, `sum over bins of (a - e) ln(a / e)` of the shares `e` expected and
/// `a` actual (Siddiqi, Credit Risk Scorecards, 2006, ch. 8); it is the Jeffreys divergence of the two.
/// Shares below 0.0001 are taken for 0.0001, bins empty on both sides add nothing. 0 without rows on
/// either side.
pub fn psi(expected: &[usize], actual: &[usize]) -> f64 {
    let total = |counts: &[usize]| counts.iter().sum::<usize>() as f64;
    let (all_expected, all_actual) = (total(expected), total(actual));
    if all_expected == 0.0 || all_actual == 0.0 {
        return 0.0;
    }
    let bins = expected.iter().zip(actual);
    bins.map(|(&e, &a)| {
        let e = (e as f64 / all_expected).max(SHARE_MIN);
        let a = (a as f64 / all_actual).max(SHARE_MIN);
        (a - e) * (a / e).ln()
    })
    .sum()
}

/// 95th percentile of the index of two samples of one population: about `(1/n + 1/m)` times a
/// chi-squared of `bins - 1` degrees of freedom (Yurdakul, Statistical Properties of Population
/// Stability Index, 2018), whose percentile is `k (1 - 2/9k + z sqrt(2/9k))^3` (Wilson and Hilferty 1931).
fn by_chance(bins: usize, deals: [usize; 2]) -> f64 {
    let k = bins.saturating_sub(1) as f64;
    if k == 0.0 || deals.contains(&0) {
        return 0.0;
    }
    let spread = 2.0 / (9.0 * k);
    let chi_squared = k * (1.0 - spread + CHANCE_Z * spread.sqrt()).powi(3);
    chi_squared * deals.iter().map(|&n| 1.0 / n as f64).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn close(ours: f64, theirs: f64) {
        assert!((ours - theirs).abs() < 1e-12, "{ours} is not {theirs}");
    }

    /// `rows` numbers by a rule that Python can follow, each `gap`th missing.
    fn numbers(rows: u64, gap: u64, of: impl Fn(u64) -> f64) -> Vec<Reading<'static>> {
        let reading = |i: u64| match i % gap {
            0 => Reading::Missing,
            _ => Reading::Number(of(i)),
        };
        (0..rows).map(reading).collect()
    }

    fn texts(counts: &[(&str, usize)]) -> Vec<Reading<'static>> {
        let readings = counts
            .iter()
            .flat_map(|(text, count)| vec![Reading::Text(Cow::Owned((*text).to_owned())); *count]);
        readings.collect()
    }

    /// Values computed with NumPy 2: `quantile(method="inverted_cdf")`, `searchsorted`, `bincount`.
    #[test]
    fn the_index_agrees_with_numpy() {
        close(
            psi(&[50, 30, 20, 0], &[40, 0, 50, 10]),
            3.388_395_960_602_292,
        );
        let then = numbers(1000, 11, |i| ((i * 7919 % 1009) as f64).powf(1.5) / 100.0);
        let now = numbers(700, 7, |i| ((i * 104_729 % 911) as f64).powf(1.5) / 80.0);
        let shift = Distribution::of(&then).shift("x", &now, [1000, 700]);
        close(shift.psi, 0.062_944_707_338_307_16);
        let mostly_zero = |rows: u32, zeros: u32| -> Vec<Reading> {
            let number = |i: u32| Reading::Number(f64::from((i % 10).saturating_sub(zeros)));
            (0..rows).map(number).collect()
        };
        let then = Distribution::of(&mostly_zero(1000, 5));
        let shift = then.shift("x", &mostly_zero(300, 3), [1000, 300]);
        close(shift.psi, 0.300_815_479_355_254_77);
        assert_eq!(shift.grade, Stability::Shifted);
    }

    #[test]
    fn levels_beyond_the_commonest_are_counted_together() {
        let then = texts(&[("a", 60), ("b", 40)]);
        let known = Distribution::of(&then);
        let same = known.shift("x", &then, [100, 100]);
        assert_eq!((same.psi, same.grade), (0.0, Stability::Stable));
        let new = known.shift(
            "x",
            &texts(&[("a", 30), ("b", 20), ("new", 50)]),
            [100, 100],
        );
        close(new.psi, psi(&[60, 40, 0], &[30, 20, 50]));
        assert_eq!(new.grade, Stability::Shifted);
        let names: Vec<String> = (0..30).map(|i| format!("level {i:02}")).collect();
        let many: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        let many = Distribution::of(&texts(&many));
        assert_eq!(many.own_counts(), [vec![2; 20], vec![20, 0]].concat());
    }

    #[test]
    fn an_empty_column_has_not_moved() {
        let nothing = vec![Reading::Missing; 5];
        let shift = Distribution::of(&nothing).shift("x", &nothing, [5, 5]);
        assert_eq!((shift.psi, shift.grade), (0.0, Stability::Stable));
        let shift = Distribution::of(&[]).shift("x", &nothing, [0, 5]);
        assert_eq!(shift.psi, 0.0);
    }

    /// 95th percentiles of the chi-squared distribution by SciPy, times 1/400 + 1/100.
    #[test]
    fn few_deals_move_by_chance() {
        for (bins, expected) in [(5, 0.118_60), (11, 0.228_84), (21, 0.392_63)] {
            let ours = by_chance(bins, [400, 100]);
            assert!((ours / expected - 1.0).abs() < 0.005, "{bins}: {ours}");
        }
        assert_eq!(Stability::of(0.3, 0.31), Stability::Stable);
        assert_eq!(Stability::of(0.3, 0.05), Stability::Shifted);
        assert_eq!(Stability::of(0.2, 0.05), Stability::Moved);
        assert_eq!(Stability::of(0.09, 0.0), Stability::Stable);
    }

    #[test]
    fn a_distribution_survives_its_json() {
        for readings in [
            numbers(50, 4, |i| i as f64 / 3.0),
            texts(&[("a", 3), ("b", 1)]),
        ] {
            let distribution = Distribution::of(&readings);
            let json = serde_json::to_string(&distribution).unwrap();
            assert_eq!(
                serde_json::from_str::<Distribution>(&json).unwrap(),
                distribution
            );
        }
    }
}
