//! Activities counted by kind, and where a kind comes in several sorts, by direction and outcome: a call
//! that nobody answered tells something else than one that the customer made. Kinds and outcomes are a
//! company's own words, so that which are counted is found by looking at the training rows; the model
//! names them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{DAY_S, Reading};
use crate::domain::{Activity, Snapshot};

/// Kinds that are counted at most, the commonest first.
const KINDS_MAX: usize = 7;
/// Sorts that a kind is counted by at most, the commonest first.
const SORTS_MAX: usize = 4;
/// Deals that must have a kind, or a sort of it, for it to be counted.
const KIND_DEALS_MIN: usize = 20;

/// How many activities of one kind there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCount {
    pub kind: String,
    /// Those of one sort alone; all of the kind where it comes in one sort only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<Sort>,
    pub within: Within,
}

/// What is told of an activity besides its kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sort {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The outcome is not looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_of_any_outcome: bool,
}

impl Sort {
    fn is_of(&self, activity: &Activity) -> bool {
        self.direction == activity.direction
            && (self.is_of_any_outcome || self.outcome == activity.outcome)
    }
}

/// Which activities count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Within {
    /// Those since the present stage was entered.
    Stage,
    /// Those of the last days.
    Days(u32),
}

/// The counts made of every kind.
const COUNTED: [Within; 2] = [Within::Stage, Within::Days(30)];

impl KindCount {
    /// The name of its column: `activities_in_stage:call`, `activities_30d:call/outbound/no_answer`.
    pub fn name(&self) -> String {
        let sort = self.sort.iter();
        let told = sort.flat_map(|sort| sort.direction.iter().chain(&sort.outcome));
        let words: Vec<&str> = std::iter::once(&self.kind)
            .chain(told)
            .map(String::as_str)
            .collect();
        let words = words.join("/");
        match self.within {
            Within::Stage => format!("activities_in_stage:{words}"),
            Within::Days(days) => format!("activities_{days}d:{words}"),
        }
    }

    /// The count at the moment of the snapshot; missing where it is unknown when the stage was entered.
    pub fn read<'a>(&self, snapshot: &Snapshot<'a>) -> Reading<'a> {
        let activities = match self.within {
            Within::Stage => match snapshot.activities_in_stage() {
                Some(activities) => activities,
                None => return Reading::Missing,
            },
            Within::Days(days) => {
                let since_s = snapshot.moment().as_second() - i64::from(days) * DAY_S;
                let all = snapshot.activities();
                &all[all.partition_point(|a| a.at.as_second() <= since_s)..]
            }
        };
        let is_alike = |activity: &&Activity| {
            let is_of_sort = |sort: &Sort| sort.is_of(activity);
            activity.kind == self.kind && self.sort.as_ref().is_none_or(is_of_sort)
        };
        Reading::Number(activities.iter().filter(is_alike).count() as f64)
    }
}

/// The counts worth a column: of the kinds that enough deals have, and where enough have several sorts of
/// a kind, of each of these. `deals` tells which snapshots are of the same deal, and `hides_outcomes` the kinds
/// whose outcomes are no part of their sort.
pub fn counts(
    snapshots: &[Snapshot],
    deals: &[usize],
    hides_outcomes: impl Fn(&str) -> bool,
) -> Vec<KindCount> {
    let mut deals_of: BTreeMap<&str, DealsOf> = BTreeMap::new();
    for (snapshot, &deal) in snapshots.iter().zip(deals) {
        for activity in snapshot.activities() {
            let kind = deals_of.entry(&activity.kind);
            let kind = kind.or_insert_with_key(|kind| DealsOf {
                hides_outcomes: hides_outcomes(kind),
                ..DealsOf::default()
            });
            kind.all.insert(deal);
            let told = activity.outcome.as_deref();
            let outcome = told.filter(|_| !kind.hides_outcomes);
            let sort = (activity.direction.as_deref(), outcome);
            kind.by_sort.entry(sort).or_default().insert(deal);
        }
    }
    let kinds = deals_of.iter().map(|(kind, of)| (*kind, &of.all));
    let kinds = commonest(kinds, KINDS_MAX);
    let mut sorts: Vec<(&str, Option<Sort>)> = Vec::new();
    for kind in kinds {
        let of = &deals_of[kind];
        let own = of.by_sort.iter().map(|(sort, deals)| (*sort, deals));
        let own = commonest(own, SORTS_MAX);
        if own.len() < 2 {
            sorts.push((kind, None));
            continue;
        }
        sorts.extend(own.into_iter().map(|(direction, outcome)| {
            let sort = Sort {
                direction: direction.map(str::to_owned),
                outcome: outcome.map(str::to_owned),
                is_of_any_outcome: of.hides_outcomes,
            };
            (kind, Some(sort))
        }));
    }
    // One alone is what the counts of all activities tell.
    if sorts.len() < 2 {
        return Vec::new();
    }
    let counts = sorts.into_iter().flat_map(|(kind, sort)| {
        COUNTED.map(|within| KindCount {
            kind: kind.to_owned(),
            sort: sort.clone(),
            within,
        })
    });
    // A slash within a word may make two names the same.
    let mut names = BTreeSet::new();
    counts.filter(|count| names.insert(count.name())).collect()
}

/// The deals that have activities of a kind, and of its sorts by direction and outcome.
#[derive(Default)]
struct DealsOf<'a> {
    hides_outcomes: bool,
    all: BTreeSet<usize>,
    by_sort: BTreeMap<(Option<&'a str>, Option<&'a str>), BTreeSet<usize>>,
}

/// What most deals have, as long as enough have it; equals in their order.
fn commonest<'a, K: Ord>(
    deals_of: impl Iterator<Item = (K, &'a BTreeSet<usize>)>,
    count_max: usize,
) -> Vec<K> {
    let counted = deals_of.map(|(of, deals)| (Reverse(deals.len()), of));
    let mut counted: Vec<(Reverse<usize>, K)> = counted
        .filter(|(Reverse(deals), _)| *deals >= KIND_DEALS_MIN)
        .collect();
    counted.sort();
    counted.truncate(count_max);
    counted.into_iter().map(|(_, of)| of).collect()
}

/// Whether a column of that name could be a count of a kind.
pub fn is_name_of_count(name: &str) -> bool {
    COUNTED.iter().any(|&within| {
        let (kind, sort) = (String::new(), None);
        name.starts_with(&KindCount { kind, sort, within }.name())
    })
}
