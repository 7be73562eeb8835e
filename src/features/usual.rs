//! What is usual for a deal like this in the stage where it is: how long won deals took there, and how
//! much was done about deals by now. What is overdue or neglected for one deal is early or busy for
//! another. It is found by looking at the training deals; the model keeps it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Reading;
use super::rhythm::{DAYS_MAX, Rhythm};
use crate::domain::{AttributeValue, Deal, Outcome, Snapshot};

/// Visits that tell what is usual at all, and those of a level that tell what is usual for it.
const VISITS_MIN: usize = 20;
/// Visits that are looked at, evenly over all.
const VISITS_MAX: usize = 50_000;
/// So many usual visits, or activities, stand beside those of a level: one that was seen little is as any
/// other.
const PRIOR_VISITS: f64 = 20.0;
const PRIOR_ACTIVITIES: f64 = 100.0;
/// Levels of a field, beyond which it is no category that tells of many deals.
const LEVELS_MAX: usize = 300;
/// Rounds over the fields, each with what the others leave.
const ROUNDS: usize = 5;
/// The usual days at least: below it, hours decide, and those are chance.
const USUAL_DAYS_MIN: f64 = 1.0;
/// Beyond so many times the usual days, how many more does not matter.
const RATIO_MAX: f64 = 20.0;

/// What is asked about the present stay in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Days so far over those that won deals take.
    DaysRatio,
    /// Activities that there usually are in so many days.
    Activities,
}

/// What is usual: a number for all, times a factor for each trait of a deal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usual {
    measure: Measure,
    /// How days count; without it, all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rhythm: Option<Rhythm>,
    /// Days, or activities a day.
    common: f64,
    fields: Vec<Field>,
}

/// A field of deals, and the factor of each of its levels that was seen often enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Field {
    of: Trait,
    factors: BTreeMap<String, f64>,
}

/// What may make a deal slower, or get it more attention.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trait {
    /// Together with its pipeline: stages of several may have the same name.
    Stage,
    Owner,
    Priority,
    Attribute(String),
}

impl Measure {
    /// The name of its column.
    pub fn name(self) -> &'static str {
        match self {
            Self::DaysRatio => "days_in_stage_ratio",
            Self::Activities => "activities_in_stage_usual",
        }
    }
}

/// Whether a column of that name is about what is usual.
pub fn is_name_of_usual(name: &str) -> bool {
    [Measure::DaysRatio, Measure::Activities]
        .map(Measure::name)
        .contains(&name)
}

impl Usual {
    /// All that can be told from these deals, which must have been closed when the model learned, by the
    /// attributes that it may use.
    pub fn of<'a>(deals: impl Iterator<Item = &'a Deal> + Clone, attributes: &[&str]) -> Vec<Self> {
        let rhythm = Rhythm::of(deals.clone());
        let own = attributes
            .iter()
            .map(|name| Trait::Attribute((*name).to_owned()));
        let traits: Vec<Trait> = [Trait::Stage, Trait::Owner, Trait::Priority]
            .into_iter()
            .chain(own)
            .collect();
        let usual = |measure| Self::fit(measure, &rhythm, &traits, deals.clone());
        [Measure::DaysRatio, Measure::Activities]
            .into_iter()
            .filter_map(usual)
            .collect()
    }

    /// `None` where too few visits are known.
    fn fit<'a>(
        measure: Measure,
        rhythm: &Option<Rhythm>,
        traits: &[Trait],
        deals: impl Iterator<Item = &'a Deal>,
    ) -> Option<Self> {
        let deals =
            deals.filter(|deal| measure == Measure::Activities || deal.outcome == Outcome::Won);
        let visits: Vec<Visit> = deals.flat_map(|deal| Visit::of(deal, rhythm)).collect();
        let visits: Vec<Visit> = {
            let stride = visits.len().div_ceil(VISITS_MAX).max(1);
            visits.into_iter().step_by(stride).collect()
        };
        if visits.len() < VISITS_MIN {
            return None;
        }
        let columns = traits.iter().filter_map(|of| Levels::of(of, &visits));
        let columns: Vec<Levels> = columns.collect();
        let (common, effects) = match measure {
            Measure::DaysRatio => effects(&visits, &columns, mean_of_logs),
            Measure::Activities => effects(&visits, &columns, log_of_rate),
        };
        let fields = columns
            .into_iter()
            .zip(effects)
            .map(|(column, effects)| Field {
                of: column.of.clone(),
                factors: column
                    .names
                    .into_iter()
                    .zip(effects.into_iter().map(f64::exp))
                    .collect(),
            });
        let usual = Self {
            measure,
            rhythm: rhythm.clone(),
            common: common.exp(),
            fields: fields.collect(),
        };
        (usual.common > 0.0 && usual.is_sound()).then_some(usual)
    }

    /// The name of its column.
    pub fn name(&self) -> &'static str {
        self.measure.name()
    }

    /// Missing where it is unknown when the stage was entered.
    pub fn read<'a>(&self, snapshot: &Snapshot<'a>) -> Reading<'a> {
        let Some(entered_at) = snapshot.stage_entered_at() else {
            return Reading::Missing;
        };
        let days = days_between(&self.rhythm, entered_at, snapshot.moment());
        let factors = self.fields.iter().filter_map(|field| {
            let level = field.of.level(snapshot)?;
            field.factors.get(level.as_ref())
        });
        let usual = self.common * factors.product::<f64>();
        Reading::Number(match self.measure {
            Measure::DaysRatio => (days / usual.max(USUAL_DAYS_MIN)).min(RATIO_MAX),
            Measure::Activities => days * usual,
        })
    }

    /// Whether every deal has a finite number.
    pub fn is_sound(&self) -> bool {
        let factors = self.fields.iter().flat_map(|field| field.factors.values());
        let largest = factors
            .clone()
            .fold(self.common, |product, factor| product * factor.max(1.0));
        let mut all = factors.chain([&self.common]);
        all.all(|factor| *factor >= 0.0)
            && (largest * DAYS_MAX as f64).is_finite()
            && self.rhythm.as_ref().is_none_or(Rhythm::is_sound)
    }
}

impl Trait {
    fn level<'a>(&self, snapshot: &Snapshot<'a>) -> Option<Cow<'a, str>> {
        match self {
            Self::Stage => {
                let stage = snapshot.stage()?;
                Some(match snapshot.pipeline() {
                    Some(pipeline) => Cow::Owned(format!("{pipeline}: {stage}")),
                    None => Cow::Borrowed(stage),
                })
            }
            Self::Owner => snapshot.owner().map(Cow::Borrowed),
            Self::Priority => snapshot.priority().map(Cow::Borrowed),
            Self::Attribute(name) => match snapshot.attribute(name)? {
                AttributeValue::Text(text) => Some(Cow::Borrowed(text.trim())),
                AttributeValue::Bool(true) => Some(Cow::Borrowed("true")),
                AttributeValue::Bool(false) => Some(Cow::Borrowed("false")),
                AttributeValue::Number(_) | AttributeValue::Null => None,
            },
        }
    }
}

/// A stay in a stage that has ended, as it began.
struct Visit<'a> {
    snapshot: Snapshot<'a>,
    days: f64,
    activities: f64,
}

impl<'a> Visit<'a> {
    fn of(deal: &'a Deal, rhythm: &Option<Rhythm>) -> Vec<Self> {
        let Some(closed_at) = deal.closed_at else {
            return Vec::new();
        };
        let visits = deal.visits(closed_at).into_iter().map(|visit| {
            let left_at = visit.left_at.unwrap_or(closed_at);
            let until = |at| deal.activities.partition_point(|activity| activity.at < at);
            let activities = until(left_at).saturating_sub(until(visit.entered_at));
            Self {
                snapshot: Snapshot::at(deal, visit.entered_at),
                days: days_between(rhythm, visit.entered_at, left_at),
                activities: activities as f64,
            }
        });
        visits.collect()
    }
}

/// The levels of a field that were seen often enough, and that of each visit.
struct Levels<'t> {
    of: &'t Trait,
    names: Vec<String>,
    codes: Vec<Option<usize>>,
}

impl<'t> Levels<'t> {
    /// `None` where there is nothing to compare.
    fn of(of: &'t Trait, visits: &[Visit]) -> Option<Self> {
        let levels: Vec<Option<Cow<str>>> = visits
            .iter()
            .map(|visit| of.level(&visit.snapshot))
            .collect();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for level in levels.iter().flatten() {
            *counts.entry(level).or_default() += 1;
        }
        if counts.len() > LEVELS_MAX {
            return None;
        }
        counts.retain(|_, count| *count >= VISITS_MIN);
        if counts.len() < 2 {
            return None;
        }
        let names: Vec<String> = counts.into_keys().map(str::to_owned).collect();
        let code = |level: &Option<Cow<str>>| {
            let level = level.as_deref()?;
            names.binary_search_by(|name| name.as_str().cmp(level)).ok()
        };
        let codes = levels.iter().map(code).collect();
        Some(Self { of, names, codes })
    }
}

/// The logarithms of the common number and of each level's factor. Each field gets what the others leave,
/// in turn; `estimate` is told of visits with the logarithm that the others expect.
fn effects(
    visits: &[Visit],
    fields: &[Levels],
    estimate: fn(&mut dyn Iterator<Item = (&Visit, f64)>, prior: f64) -> f64,
) -> (f64, Vec<Vec<f64>>) {
    let mut expected = vec![0.0; visits.len()];
    let mut common = 0.0;
    let mut effects: Vec<Vec<f64>> = fields
        .iter()
        .map(|field| vec![0.0; field.names.len()])
        .collect();
    for _ in 0..ROUNDS {
        let shift = estimate(&mut visits.iter().zip(expected.iter().copied()), 0.0);
        common += shift;
        expected.iter_mut().for_each(|expected| *expected += shift);
        for (field, effects) in fields.iter().zip(&mut effects) {
            let mut members = vec![Vec::new(); effects.len()];
            for (place, code) in field.codes.iter().enumerate() {
                if let Some(code) = code {
                    members[*code].push(place);
                }
            }
            for (effect, members) in effects.iter_mut().zip(members) {
                let others = |place: &usize| (&visits[*place], expected[*place] - *effect);
                let found = estimate(&mut members.iter().map(others), 1.0);
                for place in members {
                    expected[place] += found - *effect;
                }
                *effect = found;
            }
        }
    }
    (common, effects)
}

/// Of days: the mean of the logarithms beyond those expected.
fn mean_of_logs(visits: &mut dyn Iterator<Item = (&Visit, f64)>, prior: f64) -> f64 {
    let (mut sum, mut count) = (0.0, PRIOR_VISITS * prior);
    for (visit, expected) in visits {
        sum += visit.days.max(USUAL_DAYS_MIN).ln() - expected;
        count += 1.0;
    }
    sum / count
}

/// Of activities: the logarithm of their number over that expected in as many days.
fn log_of_rate(visits: &mut dyn Iterator<Item = (&Visit, f64)>, prior: f64) -> f64 {
    let prior = PRIOR_ACTIVITIES * prior;
    let (mut done, mut expected) = (prior, prior);
    for (visit, rate) in visits {
        done += visit.activities;
        expected += visit.days * rate.exp();
    }
    (done / expected).ln()
}

/// Whole days from a moment to a later one, as much as is done on them.
fn days_between(rhythm: &Option<Rhythm>, from: Timestamp, to: Timestamp) -> f64 {
    match rhythm {
        Some(rhythm) => rhythm.days_between(from, to),
        None => super::days_between(from, to).clamp(0.0, DAYS_MAX as f64),
    }
}
