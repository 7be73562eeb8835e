//! Curvature inside a linear model: a number weighs by its line, and beside it by the band that it
//! falls in. Values that recur far more often than their neighbours, as round amounts do, are bands
//! of their own.

use serde::{Deserialize, Serialize};

/// Bands of a number with many deals; about 5% of them in each.
const BANDS_MAX: usize = 20;
/// Deals for each band that is cut: small data get few bands or none.
const DEALS_PER_BAND: usize = 40;
/// Deals that a band or a recurring value needs.
const DEALS_MIN: usize = 20;
/// Share of all deals that a recurring value needs.
const RECURRING_SHARE_MIN: f64 = 0.005;
/// How many times as common as the mean value of its band a recurring value is.
const RECURRING_FACTOR: f64 = 5.0;

/// Numbers from `low` to `high` of the training rows, both included.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Band {
    pub low: f64,
    pub high: f64,
    /// Training rows.
    pub count: usize,
    /// Log-odds beside the line.
    pub coefficient: f64,
}

impl Band {
    fn new(low: f64, high: f64, count: usize) -> Self {
        Self {
            low,
            high,
            count,
            coefficient: 0.0,
        }
    }
}

/// The bands of a number: first the recurring values, by their size, then what lies between, by size.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bands {
    pub recurring: Vec<Band>,
    pub between: Vec<Band>,
}

/// A distinct value and how common it is.
#[derive(Clone, Copy)]
struct Value {
    value: f64,
    rows: usize,
    deals: usize,
}

impl Bands {
    /// Cuts the numbers of training rows, given with the deal of each row. Empty where there are too
    /// few deals, or all numbers fall into one band.
    pub fn cut(numbers: &[(f64, usize)]) -> Self {
        let values = distinct(numbers);
        let deals: usize = values.iter().map(|v| v.deals).sum();
        let bands_count = (deals / DEALS_PER_BAND).min(BANDS_MAX);
        if bands_count < 2 || values.len() < 2 {
            return Self::default();
        }
        let groups = quantile_groups(&values, deals.div_ceil(bands_count));
        let recurring_min = DEALS_MIN.max((deals as f64 * RECURRING_SHARE_MIN) as usize);
        let (mut recurring, mut rest): (Vec<Band>, Vec<Vec<Value>>) = (Vec::new(), Vec::new());
        for group in groups {
            let mean = group.iter().map(|v| v.deals).sum::<usize>() as f64 / group.len() as f64;
            let is_recurring =
                |v: &Value| v.deals >= recurring_min && v.deals as f64 >= RECURRING_FACTOR * mean;
            let (own, others): (Vec<Value>, Vec<Value>) = group.into_iter().partition(is_recurring);
            recurring.extend(own.iter().map(|v| Band::new(v.value, v.value, v.rows)));
            rest.push(others);
        }
        let between = merge_small(rest);
        if recurring.len() + between.len() < 2 {
            return Self::default();
        }
        Self { recurring, between }
    }

    pub fn len(&self) -> usize {
        self.recurring.len() + self.between.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The band of a number; one between two bands belongs to the upper one, one beyond them to the
    /// nearest.
    pub fn code(&self, number: f64) -> Option<u32> {
        // Adding zero makes one of the two zeros.
        let number = number + 0.0;
        let found = self
            .recurring
            .binary_search_by(|band| band.low.total_cmp(&number));
        if let Ok(index) = found {
            return Some(index as u32);
        }
        let index = self.between.partition_point(|band| band.high < number);
        let last = self.between.len().checked_sub(1)?;
        Some((self.recurring.len() + index.min(last)) as u32)
    }

    pub fn get(&self, code: usize) -> Option<&Band> {
        let between = || self.between.get(code - self.recurring.len());
        self.recurring.get(code).or_else(between)
    }

    /// In the order of codes.
    pub fn all(&self) -> impl Iterator<Item = &Band> {
        self.recurring.iter().chain(&self.between)
    }

    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Band> {
        self.recurring.iter_mut().chain(&mut self.between)
    }
}

/// By size.
fn distinct(numbers: &[(f64, usize)]) -> Vec<Value> {
    // Adding zero makes one of the two zeros.
    let mut sorted: Vec<(f64, usize)> = numbers.iter().map(|(v, deal)| (v + 0.0, *deal)).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let same_value = sorted.chunk_by(|a, b| a.0 == b.0);
    same_value
        .map(|rows| Value {
            value: rows[0].0,
            rows: rows.len(),
            deals: rows.chunk_by(|a, b| a.1 == b.1).count(),
        })
        .collect()
}

/// Runs of values that hold about `target` deals each; a value with as many stands alone.
fn quantile_groups(values: &[Value], target: usize) -> Vec<Vec<Value>> {
    let mut groups: Vec<Vec<Value>> = Vec::new();
    let (mut group, mut held) = (Vec::new(), 0);
    for &value in values {
        if value.deals >= target && !group.is_empty() {
            groups.push(std::mem::take(&mut group));
            held = 0;
        }
        group.push(value);
        held += value.deals;
        if held >= target {
            groups.push(std::mem::take(&mut group));
            held = 0;
        }
    }
    groups.extend((!group.is_empty()).then_some(group));
    groups
}

/// Groups too small for a band join the next one, the last one the one before.
fn merge_small(groups: Vec<Vec<Value>>) -> Vec<Band> {
    let deals = |group: &[Value]| group.iter().map(|v| v.deals).sum::<usize>();
    let mut merged: Vec<Vec<Value>> = Vec::new();
    let mut pending: Vec<Value> = Vec::new();
    for group in groups {
        pending.extend(group);
        if deals(&pending) >= DEALS_MIN {
            merged.push(std::mem::take(&mut pending));
        }
    }
    match merged.last_mut() {
        Some(last) => last.extend(pending),
        None if !pending.is_empty() => merged.push(pending),
        None => {}
    }
    merged
        .iter()
        .map(|group| {
            let rows = group.iter().map(|v| v.rows).sum();
            Band::new(group[0].value, group[group.len() - 1].value, rows)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(values: impl Iterator<Item = f64>) -> Vec<(f64, usize)> {
        values.zip(0..).collect()
    }

    #[test]
    fn bands_hold_about_a_twentieth_each() {
        let bands = Bands::cut(&numbers((0..2000).map(f64::from)));
        assert!(bands.recurring.is_empty());
        assert_eq!(bands.between.len(), 20);
        assert!(bands.between.iter().all(|band| band.count == 100));
        assert_eq!(bands.code(-5.0), Some(0));
        assert_eq!(bands.code(99.0), Some(0));
        assert_eq!(bands.code(99.5), Some(1));
        assert_eq!(bands.code(1e9), Some(19));
    }

    #[test]
    fn round_amounts_are_bands_of_their_own() {
        let amounts = (0..3000).map(|i| match i % 10 {
            0..3 => 5000.0,
            3..5 => 10_000.0,
            _ => 1000.0 + f64::from(i * 7 % 14_000),
        });
        let bands = Bands::cut(&numbers(amounts));
        let round: Vec<f64> = bands.recurring.iter().map(|band| band.low).collect();
        let alone = |value: f64| {
            let is_it = |band: &&Band| band.low == value && band.high == value;
            bands.all().filter(is_it).count()
        };
        assert_eq!((alone(5000.0), alone(10_000.0)), (1, 1), "{round:?}");
        assert_ne!(bands.code(5000.0), bands.code(5001.0));
        let rows: usize = bands.all().map(|band| band.count).sum();
        assert_eq!(rows, 3000);
    }

    #[test]
    fn few_deals_and_one_value_have_no_bands() {
        assert!(Bands::cut(&numbers((0..79).map(f64::from))).is_empty());
        assert_eq!(Bands::cut(&numbers((0..80).map(f64::from))).len(), 2);
        assert!(Bands::cut(&numbers((0..500).map(|_| 3.0))).is_empty());
        let of_one_deal: Vec<(f64, usize)> = (0..500).map(|i| (f64::from(i), 1)).collect();
        assert!(Bands::cut(&of_one_deal).len() <= 20);
    }
}
