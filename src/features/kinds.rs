//! Activities counted by kind. Kinds are a company's own words, so that which are counted is found by
//! looking at the training rows; the model names them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{DAY_S, Reading};
use crate::domain::Snapshot;

/// Kinds that are counted at most, the commonest first.
const KINDS_MAX: usize = 7;
/// Deals that must have a kind for it to be counted.
const KIND_DEALS_MIN: usize = 20;

/// How many activities of one kind there were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCount {
    pub kind: String,
    pub within: Within,
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
    /// The name of its column: `activities_in_stage:call`, `activities_30d:call`.
    pub fn name(&self) -> String {
        match self.within {
            Within::Stage => format!("activities_in_stage:{}", self.kind),
            Within::Days(days) => format!("activities_{days}d:{}", self.kind),
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
        let alike = activities.iter().filter(|a| a.kind == self.kind);
        Reading::Number(alike.count() as f64)
    }
}

/// The counts worth a column: of the kinds that enough deals have. `deals` tells which snapshots are
/// of the same deal.
pub fn counts(snapshots: &[Snapshot], deals: &[usize]) -> Vec<KindCount> {
    let mut deals_of: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (snapshot, &deal) in snapshots.iter().zip(deals) {
        for activity in snapshot.activities() {
            deals_of.entry(&activity.kind).or_default().insert(deal);
        }
    }
    let mut kinds: Vec<(usize, &str)> = deals_of
        .into_iter()
        .map(|(kind, deals)| (deals.len(), kind))
        .filter(|(deals, _)| *deals >= KIND_DEALS_MIN)
        .collect();
    kinds.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    kinds.truncate(KINDS_MAX);
    // One kind alone is what the counts of all activities tell.
    if kinds.len() < 2 {
        return Vec::new();
    }
    let counts = |(_, kind): &(usize, &str)| {
        COUNTED.map(|within| KindCount {
            kind: (*kind).to_owned(),
            within,
        })
    };
    kinds.iter().flat_map(counts).collect()
}

/// Whether a column of that name could be a count of a kind.
pub fn is_name_of_count(name: &str) -> bool {
    COUNTED.iter().any(|&within| {
        let kind = String::new();
        name.starts_with(&KindCount { kind, within }.name())
    })
}
