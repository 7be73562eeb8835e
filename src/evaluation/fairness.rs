//! Whether the groups of a protected attribute are selected alike.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Judged;
use super::measures::top;
use crate::features::Reading;

/// Share of the rows that counts as selected.
const SELECTED: f64 = 0.2;
/// Deals that a group needs for its rate to mean anything.
const GROUP_DEALS_MIN: usize = 20;
/// The four-fifths rule (29 CFR 1607.4 D): a lowest rate of selection under four fifths of the highest
/// is taken as evidence of adverse impact.
const RATIO_MIN: f64 = 0.8;
/// Different numbers that are groups by themselves; of more, each quarter of the rows is one.
const NUMBERS_MAX: usize = 10;

/// How the groups of a protected attribute fare in the top fifth. The attribute is never a feature;
/// others may stand for it all the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fairness {
    pub attribute: String,
    /// Share of the rows that counts as selected.
    pub top: f64,
    /// Groups of at least 20 deals, by name. Rows without a value belong to none.
    pub groups: Vec<Group>,
    /// The lowest rate over the highest; `None` with fewer than two groups, or where nobody is
    /// selected.
    pub ratio_by_expected_value: Option<f64>,
    pub ratio_by_probability: Option<f64>,
    /// Whether a ratio is under 0.8.
    pub is_flagged: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub group: String,
    pub rows: usize,
    pub deals: usize,
    /// Share of the group's rows in the top of all rows; `None` where no row has an amount.
    pub selected_by_expected_value: Option<f64>,
    pub selected_by_probability: f64,
}

/// Compares the groups of one attribute; `groups` has one for each row, or none where it is unknown.
pub fn compare(attribute: &str, rows: &[Judged], groups: &[Option<String>]) -> Fairness {
    let probabilities: Vec<f64> = rows.iter().map(|r| r.probability).collect();
    let by_probability = top(&probabilities, SELECTED);
    let by_value = rows.iter().any(|r| r.amount.is_some()).then(|| {
        let key = |r: &Judged| r.expected_value().unwrap_or(f64::NEG_INFINITY);
        top(&rows.iter().map(key).collect::<Vec<f64>>(), SELECTED)
    });
    let mut members: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, group) in groups.iter().enumerate().take(rows.len()) {
        if let Some(group) = group {
            members.entry(group).or_default().push(row);
        }
    }
    let rate = |selected: &[f64], members: &[usize]| {
        members.iter().map(|&row| selected[row]).sum::<f64>() / members.len() as f64
    };
    let groups: Vec<Group> = members
        .into_iter()
        .map(|(group, members)| Group {
            group: group.to_owned(),
            rows: members.len(),
            deals: members
                .iter()
                .map(|&row| rows[row].deal)
                .collect::<BTreeSet<_>>()
                .len(),
            selected_by_expected_value: by_value.as_ref().map(|selected| rate(selected, &members)),
            selected_by_probability: rate(&by_probability, &members),
        })
        .filter(|group| group.deals >= GROUP_DEALS_MIN)
        .collect();
    let by_value: Option<Vec<f64>> = groups
        .iter()
        .map(|g| g.selected_by_expected_value)
        .collect();
    let by_probability: Vec<f64> = groups.iter().map(|g| g.selected_by_probability).collect();
    let ratios = [
        by_value.and_then(|rates| ratio(&rates)),
        ratio(&by_probability),
    ];
    Fairness {
        attribute: attribute.to_owned(),
        top: SELECTED,
        groups,
        ratio_by_expected_value: ratios[0],
        ratio_by_probability: ratios[1],
        is_flagged: ratios.iter().flatten().any(|ratio| *ratio < RATIO_MIN),
    }
}

/// The group of each row by the value of a protected attribute; none where it is missing.
pub fn groups(readings: &[Reading]) -> Vec<Option<String>> {
    let mut sorted: Vec<f64> = readings.iter().filter_map(number).collect();
    sorted.sort_by(f64::total_cmp);
    let mut different = sorted.clone();
    different.dedup();
    let mut ends: Vec<f64> = (1..=4)
        .filter_map(|quarter| {
            sorted
                .get((sorted.len() * quarter / 4).checked_sub(1)?)
                .copied()
        })
        .collect();
    ends.dedup();
    let range = |x: f64| {
        let place = ends.partition_point(|end| *end < x);
        let low = match place {
            0 => sorted.first().copied(),
            _ => different
                .get(different.partition_point(|v| *v <= ends[place - 1]))
                .copied(),
        };
        Some(format!("{} to {}", low?, ends.get(place)?))
    };
    let group = |reading: &Reading| match reading {
        Reading::Text(text) => Some(text.clone().into_owned()),
        Reading::Number(x) if different.len() <= NUMBERS_MAX => Some(x.to_string()),
        Reading::Number(x) => range(*x),
        Reading::Missing | Reading::Unreadable(_) => None,
    };
    readings.iter().map(group).collect()
}

fn number(reading: &Reading) -> Option<f64> {
    match reading {
        Reading::Number(x) => Some(*x),
        _ => None,
    }
}

fn ratio(rates: &[f64]) -> Option<f64> {
    let highest = rates.iter().copied().fold(0.0, f64::max);
    let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    (rates.len() > 1 && highest > 0.0).then_some(lowest / highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 deals, 20 selected: 12 of the 40 in `a`, 8 of the 50 in `b`, none of the 10 in `c`.
    fn example() -> (Vec<Judged>, Vec<Option<String>>) {
        let group = |deal| match deal {
            0..40 => "a",
            40..90 => "b",
            _ => "c",
        };
        let is_selected = |deal| deal < 12 || (40..48).contains(&deal);
        (0..100)
            .map(|deal| {
                let probability = if is_selected(deal) { 0.9 } else { 0.1 };
                (
                    Judged::new(probability, false, deal),
                    Some(group(deal).to_owned()),
                )
            })
            .unzip()
    }

    #[test]
    fn a_lowest_rate_under_four_fifths_of_the_highest_is_flagged() {
        let (rows, groups) = example();
        let found = compare("Gender", &rows, &groups);
        let rates: Vec<f64> = found
            .groups
            .iter()
            .map(|g| g.selected_by_probability)
            .collect();
        assert_eq!(rates, [0.3, 0.16], "ten deals are too few to tell");
        assert!((found.ratio_by_probability.unwrap() - 0.16 / 0.3).abs() < 1e-12);
        assert!(found.is_flagged);
        assert_eq!(found.ratio_by_expected_value, None);
    }

    #[test]
    fn expected_values_select_for_themselves() {
        let (mut rows, groups) = example();
        for row in &mut rows {
            row.probability = 0.5;
            row.amount = Some(if row.deal % 5 == 0 { 10.0 } else { 1.0 });
        }
        let found = compare("Gender", &rows, &groups);
        for ratio in [found.ratio_by_expected_value, found.ratio_by_probability] {
            assert!((ratio.unwrap() - 1.0).abs() < 1e-12);
        }
        assert!(!found.is_flagged);
    }

    #[test]
    fn many_numbers_are_grouped_by_quarters() {
        let ages: Vec<Reading> = (18..58)
            .map(|age| Reading::Number(f64::from(age)))
            .collect();
        let found = groups(&ages);
        let group = |index: usize| found[index].as_deref();
        assert_eq!([group(0), group(9)], [Some("18 to 27"); 2]);
        assert_eq!([group(10), group(39)], [Some("28 to 37"), Some("48 to 57")]);
        let few = [
            Reading::Number(1.0),
            Reading::Missing,
            Reading::Text("a".into()),
        ];
        assert_eq!(groups(&few), [Some("1".into()), None, Some("a".into())]);
    }

    #[test]
    fn one_group_alone_has_nothing_to_be_compared_with() {
        let (rows, mut groups) = example();
        for group in &mut groups[40..] {
            *group = None;
        }
        let found = compare("Gender", &rows, &groups);
        assert_eq!(found.groups.len(), 1);
        assert_eq!(
            (found.ratio_by_probability, found.is_flagged),
            (None, false)
        );
    }
}
