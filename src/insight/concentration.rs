//! How much of the expected value hangs on few deals, sources, industries or owners.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::facts::DealFacts;
use super::stats::Counts;

/// The largest deals are counted for these percentages of all.
const TOPS_PERCENT: [usize; 3] = [1, 5, 10];
/// Groups that are listed one by one; smaller ones are left out of the list and stay in the index.
const GROUPS_MAX: usize = 20;

/// Of what the expected value consists.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Concentration {
    /// Open deals with an expected value.
    pub deals: usize,
    /// Their sum, in the base currency.
    pub expected_value: f64,
    pub top: Vec<TopShare>,
    pub source: Grouping,
    pub industry: Grouping,
    /// By name, not by value.
    pub owner: Grouping,
}

/// The share of the largest deals.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TopShare {
    /// The largest 1, 5 or 10 percent of the deals, rounded up.
    pub percent: usize,
    pub deals: usize,
    /// In the base currency.
    pub expected_value: f64,
    /// Of the expected value of all, 0 to 1.
    pub share: f64,
}

/// The expected value by the values of one attribute.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Grouping {
    /// Sum of the squared shares of all groups (Herfindahl and Hirschman): 1 where one group has all of it,
    /// 1/n where n have equal parts.
    pub herfindahl: f64,
    /// How many groups there are, and how many of them are listed.
    pub groups: usize,
    pub listed: Vec<GroupShare>,
}

/// One group's part.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupShare {
    /// Null for the deals that do not say.
    pub name: Option<String>,
    pub deals: usize,
    /// In the base currency.
    pub expected_value: f64,
    /// Of the expected value of all, 0 to 1.
    pub share: f64,
}

/// `None` if nothing is expected of any deal.
pub fn concentration(open: &[&DealFacts]) -> Option<Concentration> {
    let worths: Vec<(f64, &DealFacts)> = open
        .iter()
        .filter_map(|deal| Some((deal.expected_value()?, *deal)))
        .collect();
    let total: f64 = worths.iter().map(|(worth, _)| worth).sum();
    if total <= 0.0 {
        return None;
    }
    let mut largest: Vec<f64> = worths.iter().map(|(worth, _)| *worth).collect();
    largest.sort_unstable_by(|a, b| b.total_cmp(a));
    let top = TOPS_PERCENT.map(|percent| {
        let deals = (worths.len() * percent).div_ceil(100);
        let expected_value: f64 = largest[..deals].iter().sum();
        TopShare {
            percent,
            deals,
            expected_value,
            share: expected_value / total,
        }
    });
    let mut owner = grouping(&worths, total, |deal| deal.owner.as_deref());
    owner.listed.sort_by(|a, b| a.name.cmp(&b.name));
    Some(Concentration {
        deals: worths.len(),
        expected_value: total,
        top: top.to_vec(),
        source: grouping(&worths, total, |deal| deal.source.as_deref()),
        industry: grouping(&worths, total, |deal| deal.industry.as_deref()),
        owner,
    })
}

fn grouping<'a>(
    worths: &[(f64, &'a DealFacts)],
    total: f64,
    name: impl Fn(&'a DealFacts) -> Option<&'a str>,
) -> Grouping {
    let mut groups: Counts<Option<&str>, (usize, f64)> = Counts::default();
    for (worth, deal) in worths {
        let group = groups.entry(name(deal)).or_default();
        group.0 += 1;
        group.1 += worth;
    }
    // In an order, so that sums are the same each time.
    let groups: BTreeMap<_, _> = groups.into_iter().collect();
    let mut listed: Vec<GroupShare> = (groups.into_iter())
        .map(|(name, (deals, expected_value))| GroupShare {
            name: name.map(str::to_owned),
            deals,
            expected_value,
            share: expected_value / total,
        })
        .collect();
    let herfindahl = listed.iter().map(|group| group.share * group.share).sum();
    let groups = listed.len();
    listed.sort_by(|a, b| {
        let by_value = b.expected_value.total_cmp(&a.expected_value);
        by_value.then_with(|| a.name.cmp(&b.name))
    });
    listed.truncate(GROUPS_MAX);
    Grouping {
        herfindahl,
        groups,
        listed,
    }
}
