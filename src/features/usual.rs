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
            Self::DaysRatio => "days_in_stage_vs_usual",
            Self::Activities => "usual_activities_in_stage",
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
    /// All that can be told from these deals, which must have been closed when the model learned, by traits
    /// that it may use.
    pub fn of<'a>(deals: impl Iterator<Item = &'a Deal> + Clone, traits: &[Trait]) -> Vec<Self> {
        let rhythm = Rhythm::of(deals.clone());
        let usual = |measure| Self::fit(measure, &rhythm, traits, deals.clone());
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

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::domain::{Activity, DealId, FieldChange};

    /// A deal that stayed so many days in its only stage, with an activity on every so manieth of them.
    fn deal(size: &str, days: i64, every: usize, outcome: Outcome) -> Deal {
        let created_at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let day = |day: i64| created_at + SignedDuration::from_hours(24 * day);
        let mut deal = Deal {
            created_at: Some(created_at),
            closed_at: Some(day(days)),
            outcome,
            stage: Some("demo".into()),
            history: vec![FieldChange {
                at: created_at,
                field: "stage".into(),
                value: AttributeValue::Text("demo".into()),
            }],
            ..Deal::new(DealId::new("d").unwrap())
        };
        let size = AttributeValue::Text(size.into());
        deal.attributes.insert("size".into(), size);
        let activities = (1..days).step_by(every).map(|at| Activity {
            at: day(at),
            kind: "call".into(),
            direction: None,
            outcome: None,
        });
        deal.activities = activities.collect();
        deal
    }

    fn number(usual: &Usual, deal: &Deal, day: i64) -> f64 {
        let moment = deal.created_at.unwrap() + SignedDuration::from_hours(24 * day);
        match usual.read(&Snapshot::at(deal, moment)) {
            Reading::Number(number) => number,
            other => panic!("{other:?}"),
        }
    }

    /// 400 small deals that are won in 10 days, 400 large ones in 40, and lost ones that linger.
    fn known() -> Vec<Deal> {
        let won = (0..800).map(|i| match i % 2 {
            0 => deal("small", 10, 1, Outcome::Won),
            _ => deal("large", 40, 4, Outcome::Won),
        });
        won.chain((0..50).map(|_| deal("small", 300, 1, Outcome::Lost)))
            .collect()
    }

    fn fit(measure: Measure, deals: &[Deal]) -> Usual {
        let traits = [Trait::Stage, Trait::Attribute("size".into())];
        Usual::fit(measure, &None, &traits, deals.iter()).unwrap()
    }

    #[test]
    fn days_are_compared_with_those_of_won_deals_alike() {
        let usual = fit(Measure::DaysRatio, &known());
        for (size, days, ratio) in [("small", 10, 1.0), ("large", 40, 1.0), ("small", 40, 4.0)] {
            let open = deal(size, 400, 1, Outcome::Open);
            let seen = number(&usual, &open, days);
            assert!((seen / ratio - 1.0).abs() < 0.1, "{size}: {seen}");
        }
        // Of a size that nobody has seen, neither is known: it is as the mean of the logarithms.
        let unknown = deal("medium", 400, 1, Outcome::Open);
        assert!((number(&usual, &unknown, 20) - 1.0).abs() < 0.1);
        assert_eq!(
            number(&usual, &unknown, 399),
            (399.0f64 / 20.0).min(RATIO_MAX)
        );
        let no_stage = Deal::new(DealId::new("d").unwrap());
        let moment = Timestamp::UNIX_EPOCH;
        assert_eq!(
            usual.read(&Snapshot::at(&no_stage, moment)),
            Reading::Missing
        );
    }

    #[test]
    fn activities_are_those_that_deals_alike_get_in_as_many_days() {
        let usual = fit(Measure::Activities, &known());
        let small = number(&usual, &deal("small", 400, 1, Outcome::Open), 100);
        let large = number(&usual, &deal("large", 400, 1, Outcome::Open), 100);
        assert!((90.0..=100.0).contains(&small), "{small}");
        assert!((22.0..=30.0).contains(&large), "{large}");
    }

    #[test]
    fn little_is_no_custom() {
        let few: Vec<Deal> = known().into_iter().take(VISITS_MIN - 1).collect();
        let fit = |deals: &[Deal]| Usual::fit(Measure::DaysRatio, &None, &[], deals.iter());
        assert_eq!(fit(&few), None);
        assert_eq!(
            fit(&known()[800..]),
            None,
            "lost deals tell nothing of won ones"
        );
        // Levels of fewer deals than that have no factor of their own.
        let mut deals = known();
        deals.truncate(100);
        deals.extend((0..5).map(|_| deal("huge", 200, 1, Outcome::Won)));
        let traits = [Trait::Attribute("size".into())];
        let usual = Usual::fit(Measure::DaysRatio, &None, &traits, deals.iter()).unwrap();
        let names: Vec<&String> = usual.fields[0].factors.keys().collect();
        assert_eq!(names, ["large", "small"]);
    }

    #[test]
    fn only_what_gives_a_number_for_every_deal_is_sound() {
        let mut usual = fit(Measure::Activities, &known());
        assert!(usual.is_sound());
        usual.common = f64::INFINITY;
        assert!(!usual.is_sound());
        usual.common = 1.0;
        let factors = &mut usual.fields[0].factors;
        factors.insert("large".into(), f64::NAN);
        assert!(!usual.is_sound());
        usual.fields[0].factors.insert("large".into(), f64::MAX);
        assert!(!usual.is_sound());
    }
}
