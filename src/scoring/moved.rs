//! What moved between two scores of a deal.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Reason, Score};

/// One feature whose contribution is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub struct Moved {
    pub feature: String,
    /// As it was read; null where it was missing, or weighed nothing.
    pub from_value: Value,
    pub to_value: Value,
    /// Log-odds.
    pub contribution_before: f64,
    pub contribution_after: f64,
}

/// The features that contribute something else than before, by how far they moved; the largest first.
/// Between scores of different models, the intercept may have moved too.
pub fn moved(before: &Score, after: &Score) -> Vec<Moved> {
    let mut features: BTreeMap<&str, [Option<&Reason>; 2]> = BTreeMap::new();
    for (side, score) in [before, after].into_iter().enumerate() {
        for reason in &score.reasons {
            features.entry(&reason.feature).or_default()[side] = Some(reason);
        }
    }
    let contribution = |reason: Option<&Reason>| reason.map_or(0.0, |r| r.contribution);
    let value = |reason: Option<&Reason>| reason.map_or(Value::Null, |r| r.value.clone());
    let mut moved: Vec<Moved> = features
        .into_iter()
        .map(|(feature, [before, after])| Moved {
            feature: feature.to_owned(),
            from_value: value(before),
            to_value: value(after),
            contribution_before: contribution(before),
            contribution_after: contribution(after),
        })
        .filter(|moved| moved.contribution_before != moved.contribution_after)
        .collect();
    moved.sort_by(|a, b| b.distance().total_cmp(&a.distance()));
    moved
}

impl Moved {
    fn distance(&self) -> f64 {
        (self.contribution_after - self.contribution_before).abs()
    }
}
