//! Days in the present stage against what won deals took there. How long that is, is found by looking
//! at the training deals; the model keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{DAY_S, Reading, days_between, seconds_between};
use crate::domain::{Deal, Outcome, Snapshot};

/// The name of the column.
pub const NAME: &str = "days_in_stage_ratio";
/// Visits of won deals that tell what is usual in a stage.
const VISITS_MIN: usize = 20;
/// The usual days at least: below it, hours decide, and those are chance.
const USUAL_DAYS_MIN: f64 = 1.0;
/// Beyond so many times the usual days, how many more does not matter.
const RATIO_MAX: f64 = 20.0;

/// What won deals took in the stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    stages: Vec<Usual>,
    /// Days in stages of too few won deals: the median over the visits of all.
    other_days: f64,
}

/// The median of the days that won deals spent in a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Usual {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pipeline: Option<String>,
    stage: String,
    days: f64,
}

impl Pace {
    /// Of the won deals among these, which must have been closed when the model learned. `None` where too
    /// few visits are known.
    pub fn of<'a>(deals: impl Iterator<Item = &'a Deal>) -> Option<Self> {
        let mut days_of: BTreeMap<(Option<&str>, &str), Vec<f64>> = BTreeMap::new();
        for deal in deals.filter(|deal| deal.outcome == Outcome::Won) {
            let Some(closed_at) = deal.closed_at else {
                continue;
            };
            for visit in deal.visits(closed_at) {
                let left_at = visit.left_at.unwrap_or(closed_at);
                let days = seconds_between(visit.entered_at, left_at) / DAY_S as f64;
                let key = (deal.pipeline.as_deref(), visit.stage);
                days_of.entry(key).or_default().push(days);
            }
        }
        let all: Vec<f64> = days_of.values().flatten().copied().collect();
        if all.len() < VISITS_MIN {
            return None;
        }
        let stages = days_of.into_iter();
        let stages = stages.filter(|(_, days)| days.len() >= VISITS_MIN);
        Some(Self {
            stages: stages
                .map(|((pipeline, stage), days)| Usual {
                    pipeline: pipeline.map(str::to_owned),
                    stage: stage.to_owned(),
                    days: usual(days),
                })
                .collect(),
            other_days: usual(all),
        })
    }

    /// Whole days since the stage was entered, in units of what is usual there; missing where it is unknown
    /// when that was.
    pub fn read<'a>(&self, snapshot: &Snapshot<'a>) -> Reading<'a> {
        let (Some(stage), Some(entered_at)) = (snapshot.stage(), snapshot.stage_entered_at())
        else {
            return Reading::Missing;
        };
        let pipeline = snapshot.pipeline();
        let is_here =
            |usual: &&Usual| usual.stage == stage && usual.pipeline.as_deref() == pipeline;
        let usual = self.stages.iter().find(is_here);
        let usual_days = usual.map_or(self.other_days, |usual| usual.days);
        let days = days_between(entered_at, snapshot.moment());
        Reading::Number((days.max(0.0) / usual_days).min(RATIO_MAX))
    }

    /// Whether every deal has a finite ratio.
    pub fn is_sound(&self) -> bool {
        let mut days = self.stages.iter().map(|usual| usual.days);
        let is_sound = |days: f64| days.is_finite() && days >= USUAL_DAYS_MIN;
        is_sound(self.other_days) && days.all(is_sound)
    }
}

/// The median, at least [`USUAL_DAYS_MIN`].
fn usual(mut days: Vec<f64>) -> f64 {
    let middle = days.len() / 2;
    let (_, median, _) = days.select_nth_unstable_by(middle, f64::total_cmp);
    median.max(USUAL_DAYS_MIN)
}
