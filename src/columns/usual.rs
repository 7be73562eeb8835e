//! What is usual for a deal like this in the stage where it is: how long won deals took there, and how
//! much was done about deals by now. What is overdue or neglected for one deal is early or busy for
//! another. It is found by looking at the training deals; the model keeps it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ColumnReader, Source};
use crate::domain::{Deal, Exchange, Outcome, Snapshot};
use crate::error::Result;
use crate::features::Reading;
use crate::features::rhythm::{Calendar, DAYS_MAX, Rhythm};
use crate::ingest::Mapping;
use crate::ingest::mapping::ColumnType;

/// Stays that tell what is usual at all, and those of a level that tell what is usual for it.
const STAYS_MIN: usize = 20;
/// Stays that are looked at, evenly over all.
const STAYS_MAX: usize = 50_000;
/// So many usual stays, or activities, stand beside those of a level: one that was seen little is as any
/// other.
const PRIOR_STAYS: f64 = 20.0;
const PRIOR_ACTIVITIES: f64 = 100.0;
/// Levels of a field, beyond which it is no category that tells of many deals.
const LEVELS_MAX: usize = 300;
/// Rounds over the fields, each with what the others leave.
const ROUNDS: usize = 5;
/// Parts of the deals: a training row is compared with what is usual in the parts that its deal is not of.
const PARTS: usize = 5;
/// The usual days at least: below it, hours decide, and those are chance.
const USUAL_DAYS_MIN: f64 = 1.0;
/// Beyond so many times the usual days, how many more does not matter.
const RATIO_MAX: f64 = 20.0;
/// Fields of every deal that may make it slower, or get it more attention; attributes may too.
const FIELDS: [&str; 4] = ["pipeline", "stage", "owner", "priority"];

/// What is asked about the present stay in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Days so far over those that won deals take.
    DaysRatio,
    /// Activities that there usually are in so many days.
    Activities,
}

const MEASURES: [Measure; 2] = [Measure::DaysRatio, Measure::Activities];

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
    traits: Vec<Trait>,
}

/// A field of deals, and the factor of each of its levels that was seen often enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trait {
    source: Source,
    holds: ColumnType,
    factors: BTreeMap<String, f64>,
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
    MEASURES.map(Measure::name).contains(&name)
}

/// Whether levels of this column may be a trait.
pub fn is_trait(source: &Source, holds: ColumnType) -> bool {
    let is_field = match source {
        Source::Feature(name) => FIELDS.contains(&name.as_str()),
        Source::Attribute(_) => true,
        Source::Activities(_) | Source::Usual(_) => false,
    };
    is_field && matches!(holds, ColumnType::Category | ColumnType::Boolean)
}

impl Usual {
    /// The name of its column.
    pub fn name(&self) -> &'static str {
        self.measure.name()
    }

    /// Whether every deal has a finite number, and no trait is but a field of deals.
    pub fn is_sound(&self) -> bool {
        let mut factors = self.traits.iter().flat_map(|of| of.factors.values());
        let largest = self
            .traits
            .iter()
            .map(|of| of.factors.values().fold(1.0f64, |a, b| a.max(*b)));
        let days_max = DAYS_MAX as f64 * self.rhythm.as_ref().map_or(1.0, Rhythm::day_max);
        let number_max = days_max * self.common.max(1.0) * largest.product::<f64>();
        self.common >= 0.0
            && factors.all(|factor| *factor >= 0.0)
            && number_max.is_finite()
            && self.rhythm.as_ref().is_none_or(Rhythm::is_sound)
            && self.traits.iter().all(|of| is_trait(&of.source, of.holds))
    }
}

/// Reads what is usual from snapshots: the same for training rows and for scores.
#[derive(Debug)]
pub struct UsualReader {
    usual: Usual,
    calendar: Arc<Calendar>,
    /// Of the traits, in their order.
    readers: Vec<ColumnReader>,
}

impl UsualReader {
    /// # Errors
    /// As [`ColumnReader::new`].
    pub fn new(usual: Usual, mapping: &Mapping) -> Result<Self> {
        let calendar = Calendar::of(usual.rhythm.as_ref());
        Self::by(usual, calendar.into(), mapping)
    }

    /// By the calendar of its rhythm, which others may share.
    fn by(usual: Usual, calendar: Arc<Calendar>, mapping: &Mapping) -> Result<Self> {
        let readers = usual
            .traits
            .iter()
            .map(|of| ColumnReader::new(&of.source, of.holds, mapping));
        Ok(Self {
            readers: readers.collect::<Result<_>>()?,
            calendar,
            usual,
        })
    }

    /// Missing where it is unknown when the stage was entered.
    pub fn read<'a>(&self, snapshot: &Snapshot<'a>, exchange: &Exchange) -> Reading<'a> {
        let Some(entered_at) = snapshot.stage_entered_at() else {
            return Reading::Missing;
        };
        let days = self.calendar.days_between(entered_at, snapshot.moment());
        let mut usual = self.usual.common;
        for (of, reader) in self.usual.traits.iter().zip(&self.readers) {
            if let Some(level) = level(reader, snapshot, exchange) {
                usual *= of.factors.get(level.as_ref()).unwrap_or(&1.0);
            }
        }
        Reading::Number(match self.usual.measure {
            Measure::DaysRatio => (days / usual.max(USUAL_DAYS_MIN)).min(RATIO_MAX),
            Measure::Activities => days * usual,
        })
    }
}

fn level<'a>(
    reader: &'a ColumnReader,
    snapshot: &Snapshot<'a>,
    exchange: &Exchange,
) -> Option<Cow<'a, str>> {
    match reader.read(snapshot, exchange) {
        Reading::Text(text) => Some(text),
        _ => None,
    }
}

/// What is usual in all training deals, and for each part of them what is usual in the others.
pub struct CrossFitted {
    pub usual: Usual,
    of_others: Vec<UsualReader>,
}

impl CrossFitted {
    /// All that can be told from these deals, by their traits: columns with what reads them. `None` stands for
    /// a deal that nothing is learned from; the others must have been closed when the model learned.
    ///
    /// # Errors
    /// As [`ColumnReader::new`].
    pub fn all(
        deals: &[Option<&Deal>],
        traits: &[(&Source, &ColumnReader)],
        mapping: &Mapping,
        exchange: &Exchange,
    ) -> Result<Vec<Self>> {
        let rhythm = Rhythm::of(deals.iter().flatten().copied());
        let calendar = Arc::new(Calendar::of(rhythm.as_ref()));
        let fitted = MEASURES.into_iter().filter_map(|measure| {
            let stays = Stays::of(measure, &calendar, deals, traits, exchange);
            Self::fit(measure, &rhythm, &calendar, &stays, mapping).transpose()
        });
        fitted.collect()
    }

    /// `None` where too few stays are known.
    fn fit(
        measure: Measure,
        rhythm: &Option<Rhythm>,
        calendar: &Arc<Calendar>,
        stays: &Stays,
        mapping: &Mapping,
    ) -> Result<Option<Self>> {
        let of = |part: Option<usize>| {
            let usual = stays.usual(measure, rhythm, part);
            usual.filter(|usual| usual.common > 0.0 && usual.is_sound())
        };
        let Some(usual) = of(None) else {
            return Ok(None);
        };
        let of_others = (0..PARTS).map(|part| {
            let usual = of(Some(part)).unwrap_or_else(|| usual.clone());
            UsualReader::by(usual, calendar.clone(), mapping)
        });
        Ok(Some(Self {
            of_others: of_others.collect::<Result<_>>()?,
            usual,
        }))
    }

    /// The reading of a training row, given the place of its deal.
    pub fn read<'a>(
        &self,
        snapshot: &Snapshot<'a>,
        deal: usize,
        exchange: &Exchange,
    ) -> Reading<'a> {
        self.of_others[deal % PARTS].read(snapshot, exchange)
    }
}

/// Stays in stages that have ended, as they began, and their levels.
struct Stays<'t> {
    stays: Vec<Stay>,
    columns: Vec<Levels<'t>>,
}

struct Stay {
    /// Part of the deal.
    part: usize,
    days: f64,
    activities: f64,
}

/// The levels of a trait that were seen often enough, and that of each stay.
struct Levels<'t> {
    source: &'t Source,
    holds: ColumnType,
    names: Vec<String>,
    codes: Vec<Option<usize>>,
}

impl<'t> Stays<'t> {
    fn of(
        measure: Measure,
        calendar: &Calendar,
        deals: &[Option<&Deal>],
        traits: &[(&'t Source, &ColumnReader)],
        exchange: &Exchange,
    ) -> Self {
        let deals = deals.iter().enumerate();
        let deals = deals.filter_map(|(place, deal)| Some((place % PARTS, (*deal)?)));
        let deals = deals
            .filter(|(_, deal)| measure == Measure::Activities || deal.outcome == Outcome::Won);
        let stays = deals.flat_map(|(part, deal)| Stay::of(deal, part, calendar));
        let mut stays: Vec<(Snapshot, Stay)> = stays.collect();
        let stride = stays.len().div_ceil(STAYS_MAX).max(1);
        let mut place = 0;
        stays.retain(|_| {
            place += 1;
            (place - 1) % stride == 0
        });
        let columns = traits.iter().filter_map(|(source, reader)| {
            let levels = stays
                .iter()
                .map(|(snapshot, _)| level(reader, snapshot, exchange));
            let levels: Vec<Option<Cow<str>>> = levels.collect();
            Levels::of(source, reader.holds(), &levels)
        });
        Self {
            columns: columns.collect(),
            stays: stays.into_iter().map(|(_, stay)| stay).collect(),
        }
    }

    /// What is usual in all stays, or in those of deals that are not of a part; `None` where they are too
    /// few.
    fn usual(
        &self,
        measure: Measure,
        rhythm: &Option<Rhythm>,
        without: Option<usize>,
    ) -> Option<Usual> {
        let is_in = |stay: &Stay| without != Some(stay.part);
        if self.stays.iter().filter(|stay| is_in(stay)).count() < STAYS_MIN {
            return None;
        }
        let (common, effects) = match measure {
            Measure::DaysRatio => self.effects(is_in, mean_of_logs),
            Measure::Activities => self.effects(is_in, log_of_rate),
        };
        let traits = self
            .columns
            .iter()
            .zip(effects)
            .map(|(column, effects)| Trait {
                source: column.source.clone(),
                holds: column.holds,
                factors: column
                    .names
                    .iter()
                    .cloned()
                    .zip(effects.into_iter().map(f64::exp))
                    .collect(),
            });
        Some(Usual {
            measure,
            rhythm: rhythm.clone(),
            common: common.exp(),
            traits: traits.collect(),
        })
    }

    /// The logarithms of the common number and of each level's factor. Each trait gets what the others leave,
    /// in turn; `estimate` is told of stays with the logarithm that the others expect, and how much of the
    /// prior counts.
    fn effects(
        &self,
        is_in: impl Fn(&Stay) -> bool,
        estimate: fn(&mut dyn Iterator<Item = (&Stay, f64)>, f64) -> f64,
    ) -> (f64, Vec<Vec<f64>>) {
        let places: Vec<usize> = (0..self.stays.len())
            .filter(|&place| is_in(&self.stays[place]))
            .collect();
        let mut expected = vec![0.0; self.stays.len()];
        let mut common = 0.0;
        let members = self.columns.iter().map(|column| {
            let mut members = vec![Vec::new(); column.names.len()];
            for &place in &places {
                if let Some(code) = column.codes[place] {
                    members[code].push(place);
                }
            }
            members
        });
        let members: Vec<Vec<Vec<usize>>> = members.collect();
        let mut effects: Vec<Vec<f64>> = members
            .iter()
            .map(|levels| vec![0.0; levels.len()])
            .collect();
        for _ in 0..ROUNDS {
            let all = |place: &usize| (&self.stays[*place], expected[*place]);
            let shift = estimate(&mut places.iter().map(all), 0.0);
            common += shift;
            expected.iter_mut().for_each(|expected| *expected += shift);
            for (levels, effects) in members.iter().zip(&mut effects) {
                for (members, effect) in levels.iter().zip(effects) {
                    let others = |place: &usize| (&self.stays[*place], expected[*place] - *effect);
                    let found = estimate(&mut members.iter().map(others), 1.0);
                    for &place in members {
                        expected[place] += found - *effect;
                    }
                    *effect = found;
                }
            }
        }
        (common, effects)
    }
}

impl Stay {
    fn of<'a>(deal: &'a Deal, part: usize, calendar: &Calendar) -> Vec<(Snapshot<'a>, Self)> {
        let Some(closed_at) = deal.closed_at else {
            return Vec::new();
        };
        // What was there at an unknown creation has no date.
        let visits = deal.visits(closed_at).into_iter();
        let visits = visits.filter(|visit| visit.entered_at > Timestamp::UNIX_EPOCH);
        let stays = visits.map(|visit| {
            let left_at = visit.left_at.unwrap_or(closed_at);
            let until = |at| deal.activities.partition_point(|activity| activity.at < at);
            let activities = until(left_at).saturating_sub(until(visit.entered_at));
            let stay = Self {
                part,
                days: calendar.days_between(visit.entered_at, left_at),
                activities: activities as f64,
            };
            (Snapshot::at(deal, visit.entered_at), stay)
        });
        stays.collect()
    }
}

impl<'t> Levels<'t> {
    /// `None` where there is nothing to compare.
    fn of(source: &'t Source, holds: ColumnType, levels: &[Option<Cow<str>>]) -> Option<Self> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for level in levels.iter().flatten() {
            *counts.entry(level).or_default() += 1;
        }
        if counts.len() > LEVELS_MAX {
            return None;
        }
        counts.retain(|_, count| *count >= STAYS_MIN);
        if counts.len() < 2 {
            return None;
        }
        let names: Vec<String> = counts.into_keys().map(str::to_owned).collect();
        let code = |level: &Option<Cow<str>>| {
            let level = level.as_deref()?;
            names.binary_search_by(|name| name.as_str().cmp(level)).ok()
        };
        let codes = levels.iter().map(code).collect();
        Some(Self {
            source,
            holds,
            names,
            codes,
        })
    }
}

/// Of days: the mean of the logarithms beyond those expected.
fn mean_of_logs(stays: &mut dyn Iterator<Item = (&Stay, f64)>, prior: f64) -> f64 {
    let (mut sum, mut count) = (0.0, PRIOR_STAYS * prior);
    for (stay, expected) in stays {
        sum += stay.days.max(USUAL_DAYS_MIN).ln() - expected;
        count += 1.0;
    }
    sum / count
}

/// Of activities: the logarithm of their number over that expected in as many days.
fn log_of_rate(stays: &mut dyn Iterator<Item = (&Stay, f64)>, prior: f64) -> f64 {
    let prior = PRIOR_ACTIVITIES * prior;
    let (mut done, mut expected) = (prior, prior);
    for (stay, rate) in stays {
        done += stay.activities;
        expected += stay.days * rate.exp();
    }
    (done / expected).ln()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::domain::{Activity, AttributeValue, DealId, FieldChange};

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

    fn reader(source: &Source) -> ColumnReader {
        ColumnReader::new(source, ColumnType::Category, &Mapping::default()).unwrap()
    }

    fn euro() -> Exchange {
        Exchange::only("EUR".parse().unwrap())
    }

    fn number(usual: &Usual, deal: &Deal, day: i64) -> f64 {
        let moment = deal.created_at.unwrap() + SignedDuration::from_hours(24 * day);
        let reader = UsualReader::new(usual.clone(), &Mapping::default()).unwrap();
        match reader.read(&Snapshot::at(deal, moment), &euro()) {
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

    fn fitted(measure: Measure, deals: &[Deal]) -> Option<CrossFitted> {
        let sources = [
            Source::Feature("stage".into()),
            Source::Attribute("size".into()),
        ];
        let readers = sources.each_ref().map(reader);
        let traits: Vec<(&Source, &ColumnReader)> = sources.iter().zip(&readers).collect();
        let deals: Vec<Option<&Deal>> = deals.iter().map(Some).collect();
        let plain = Arc::new(Calendar::of(None));
        let stays = Stays::of(measure, &plain, &deals, &traits, &euro());
        CrossFitted::fit(measure, &None, &plain, &stays, &Mapping::default()).unwrap()
    }

    fn fit(measure: Measure, deals: &[Deal]) -> Usual {
        fitted(measure, deals).unwrap().usual
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
        assert_eq!(number(&usual, &unknown, 900), RATIO_MAX);
        let no_stage = Deal::new(DealId::new("d").unwrap());
        let none = Snapshot::at(&no_stage, Timestamp::UNIX_EPOCH);
        let reader = UsualReader::new(usual, &Mapping::default()).unwrap();
        assert_eq!(reader.read(&none, &euro()), Reading::Missing);
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
        let few: Vec<Deal> = known().into_iter().take(STAYS_MIN - 1).collect();
        assert!(fitted(Measure::DaysRatio, &few).is_none());
        let lost = &known()[800..];
        assert!(
            fitted(Measure::DaysRatio, lost).is_none(),
            "they tell nothing of won ones"
        );
        // What began at an unknown time took nobody knows how long.
        let mut undated = known();
        for deal in &mut undated {
            deal.history[0].at = Timestamp::UNIX_EPOCH;
        }
        assert!(fitted(Measure::Activities, &undated).is_none());
        // Levels of fewer deals than that have no factor of their own.
        let mut deals = known();
        deals.truncate(100);
        deals.extend((0..5).map(|_| deal("huge", 200, 1, Outcome::Won)));
        let usual = fit(Measure::DaysRatio, &deals);
        let names: Vec<&String> = usual.traits[0].factors.keys().collect();
        assert_eq!(names, ["large", "small"]);
    }

    /// Each deal has a size of its own with as many others; what they took is not in what they are read by.
    #[test]
    fn a_training_row_is_not_compared_with_its_own_deal() {
        let mut deals = known();
        // The parts of places 1, 6, 11, ... take five times as long.
        for place in (1..800).step_by(PARTS) {
            deals[place] = deal("small", 50, 1, Outcome::Won);
        }
        let fitted = fitted(Measure::DaysRatio, &deals).unwrap();
        let open = deal("small", 400, 1, Outcome::Open);
        let moment = open.created_at.unwrap() + SignedDuration::from_hours(24 * 10);
        let read = |place| match fitted.read(&Snapshot::at(&open, moment), place, &euro()) {
            Reading::Number(number) => number,
            other => panic!("{other:?}"),
        };
        assert!((read(1) - 1.0).abs() < 0.1, "{}", read(1));
        assert!(read(0) < 0.8, "{}", read(0));
        assert_eq!(read(0), read(5));
    }

    #[test]
    fn only_what_gives_a_number_for_every_deal_is_sound() {
        let usual = fit(Measure::Activities, &known());
        assert!(usual.is_sound());
        let unsound: [fn(&mut Usual); 5] = [
            |usual| usual.common = f64::INFINITY,
            |usual| usual.common = -1.0,
            |usual| *usual.traits[0].factors.get_mut("large").unwrap() = f64::NAN,
            |usual| *usual.traits[0].factors.get_mut("large").unwrap() = f64::MAX,
            |usual| usual.traits[0].source = Source::Usual(usual.clone()),
        ];
        for change in unsound {
            let mut usual = usual.clone();
            change(&mut usual);
            assert!(!usual.is_sound(), "{usual:?}");
        }
    }
}
