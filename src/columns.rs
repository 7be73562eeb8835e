//! From the values of a column to numbers that a linear model can weigh: what a column holds is
//! found by looking, how it is treated is fitted on training rows and kept in the model.

pub mod bands;
pub mod usual;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{AttributeValue, Exchange, Snapshot};
use crate::error::Result;
use crate::features::kinds::KindCount;
use crate::features::{Feature, Needs, Reading, days_between, feature, is_name_of_feature};
use crate::ingest::Mapping;
use crate::ingest::mapping::ColumnType;
use crate::ingest::values::{TimeReader, read_boolean};
use crate::learning::design::{Block, NO_LEVEL};
use bands::Bands;
use usual::{Usual, UsualReader, is_name_of_usual};

/// Share of the values that must be numbers (or dates) for the column to be one of numbers (or
/// dates); the odd rest is treated as missing.
const TYPE_SHARE_MIN: f64 = 0.98;
/// Rows that must be missing for the missing value to get a coefficient of its own.
const MISSING_ROWS_MIN: usize = 5;
/// Rows that must differ from the commonest value for a column to be worth a coefficient.
const DIFFERING_ROWS_MIN: usize = 5;
/// Levels of one category that get a coefficient of their own, the commonest first.
const LEVELS_MAX: usize = 300;
/// Bands that a number needs for a curve: of two values it would be the line once more.
const CURVE_BANDS_MIN: usize = 3;
/// Four deviations from the mean, where the curve ends: a few far out do not decide on all.
const CURVE_SQUARE_MAX: f64 = 16.0;
/// Squares that differ by less than this are all the same.
const CURVE_DEVIATION_MIN: f64 = 1e-6;
/// Distinct texts above which "nearly every row has its own" can be said.
const UNIQUE_TEXTS_MIN: usize = 20;
/// Deals with a whole number of their own from which on that number is an id.
const ID_DEALS_MIN: usize = 100;

/// What tells the name of an attribute from that of a feature.
const ATTRIBUTE: &str = "attributes.";

/// Where the values of a column come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A row of the table of features.
    Feature(String),
    /// Activities of a kind; kinds are the company's own words.
    Activities(KindCount),
    /// What is usual in the stage, for a deal like this.
    Usual(Usual),
    /// An attribute of the company's own.
    Attribute(String),
}

impl Source {
    /// The name of the column, unique in a model: an attribute with the name of a feature is told
    /// apart from it.
    pub fn column_name(&self) -> String {
        match self {
            Self::Activities(count) => count.name(),
            Self::Usual(usual) => usual.name().to_owned(),
            Self::Attribute(name)
                if is_name_of_feature(name)
                    || is_name_of_usual(name)
                    || name.starts_with(ATTRIBUTE) =>
            {
                format!("{ATTRIBUTE}{name}")
            }
            Self::Feature(name) | Self::Attribute(name) => name.clone(),
        }
    }
}

/// A column of the model: where it reads, how, and what each value weighs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The name that reasons give; unique in a model.
    pub name: String,
    pub source: Source,
    pub holds: ColumnType,
    #[serde(flatten)]
    pub treatment: Treatment,
    /// Mean of the column's weight over the training rows, log-odds: subtracted from every weight,
    /// so that a contribution is against the average deal.
    pub center: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "treatment", rename_all = "snake_case")]
pub enum Treatment {
    Number(NumberTreatment),
    Category(CategoryTreatment),
}

/// `coefficient x z` with `z = (transform(clamp(x, low, high)) - mean) / deviation`, and what the curve
/// and the number's band weigh beside that line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NumberTreatment {
    pub transform: Transform,
    /// Mean and standard deviation of the transformed values of the training rows.
    pub mean: f64,
    pub deviation: f64,
    /// Smallest and largest value of the training rows: beyond them nothing is known, and the effect
    /// stays what it is at the edge.
    pub low: f64,
    pub high: f64,
    /// Log-odds for one deviation.
    pub coefficient: f64,
    /// How the line bends; not in a model of lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub curve: Option<Curve>,
    /// Where the effect leaves line and curve; none in a model of lines.
    pub bands: Bands,
    /// What a missing value weighs; without it, a missing value weighs nothing.
    pub missing: Option<Level>,
}

/// The square of a standardised number, itself standardised: what bands tell of the many in the middle
/// only roughly, and of the few far out not at all. `coefficient x (min(z^2, 16) - mean) / deviation`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    /// Mean and standard deviation of the squares of the training rows.
    pub mean: f64,
    pub deviation: f64,
    /// Log-odds for one deviation.
    pub coefficient: f64,
}

impl Curve {
    /// Of the standardised numbers of the training rows. `None` where their squares do not differ.
    fn fit(numbers: impl Iterator<Item = f64>) -> Option<Self> {
        let squares: Vec<f64> = numbers.map(Self::square).collect();
        let (mean, deviation) = moments(&squares);
        (deviation > CURVE_DEVIATION_MIN).then_some(Self {
            mean,
            deviation,
            coefficient: 0.0,
        })
    }

    /// Of a standardised number.
    fn at(&self, z: f64) -> f64 {
        (Self::square(z) - self.mean) / self.deviation
    }

    fn square(z: f64) -> f64 {
        (z * z).min(CURVE_SQUARE_MAX)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    Identity,
    /// `ln(1 + x)`, for counts and amounts with a long tail.
    Log1p,
}

/// One weight a level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CategoryTreatment {
    /// By falling count of deals.
    pub levels: Vec<Level>,
    /// The rare levels together; the place of a level never seen.
    pub other: Option<Level>,
    /// What a missing value weighs; without it, a missing value weighs nothing.
    pub missing: Option<Level>,
    /// Variance to expect of a level's weight, log-odds squared: what is not known of one never seen. Not in
    /// models that were trained before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level_variance: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub value: String,
    /// Training rows.
    pub count: usize,
    /// Log-odds.
    pub coefficient: f64,
}

impl Level {
    fn new(value: &str, count: usize) -> Self {
        Self {
            value: value.to_owned(),
            count,
            coefficient: 0.0,
        }
    }
}

impl Transform {
    /// The transformed value.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Self::Identity => x,
            Self::Log1p => x.ln_1p(),
        }
    }
}

/// A value as the design matrix has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Encoded {
    /// The standardised number; 0 for a missing one and for categories.
    pub number: f64,
    /// Its place on the curve; 0 where there is none, and for a missing number.
    pub bend: f64,
    /// The level among the column's own ([`Column::levels`]), or [`NO_LEVEL`].
    pub code: u32,
    pub oddity: Option<Oddity>,
}

/// What is unusual about a value; becomes a warning of the score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    UnseenCategory,
    BelowRange,
    AboveRange,
    Unreadable,
    MissingUnseen,
}

impl Column {
    /// Fits the treatment of a column to its training values. `deals` tells which rows are of the same
    /// deal, which stand together: a value is as common as the deals that have it.
    ///
    /// # Errors
    /// The reason why the column is of no use: constant, unique texts, nothing there.
    pub fn fit(
        name: String,
        source: Source,
        holds: ColumnType,
        readings: &[Reading],
        deals: &[usize],
    ) -> Result<Self, String> {
        debug_assert_eq!(readings.len(), deals.len());
        let treatment = match holds {
            ColumnType::Number | ColumnType::Date => {
                let is_usual = matches!(source, Source::Usual(_));
                Treatment::Number(fit_number(readings, deals, is_usual)?)
            }
            ColumnType::Category | ColumnType::Boolean => {
                Treatment::Category(fit_category(readings, deals)?)
            }
        };
        let mut column = Self {
            name,
            source,
            holds,
            treatment,
            center: 0.0,
        };
        if column.is_trend() {
            column.straighten();
        }
        Ok(column)
    }

    /// Columns of the design matrix: a number has its line, a category has not; both have levels.
    pub fn width(&self) -> usize {
        self.lines() + self.levels()
    }

    /// Columns of the design matrix before the levels: a number has its line and perhaps a curve, a
    /// category none.
    pub fn lines(&self) -> usize {
        match &self.treatment {
            Treatment::Number(t) => 1 + usize::from(t.curve.is_some()),
            Treatment::Category(_) => 0,
        }
    }

    /// Levels, in the order of codes: a number has its bands and perhaps a missing level, a category
    /// its own levels, perhaps the rest, perhaps a missing level.
    pub fn levels(&self) -> usize {
        match &self.treatment {
            Treatment::Number(t) => t.bands.len() + usize::from(t.missing.is_some()),
            Treatment::Category(t) => t.width(),
        }
    }

    /// Whether the column grows with the calendar, so that new deals are always beyond what training has
    /// seen: it has a line that ends where training does, no curve and no bands.
    pub fn is_trend(&self) -> bool {
        match &self.source {
            Source::Feature(name) => feature(name).is_some_and(|f| f.needs == Needs::Trend),
            _ => false,
        }
    }

    /// Drops the curve and the bands of a number: its effect becomes a line.
    pub fn straighten(&mut self) {
        if let Treatment::Number(t) = &mut self.treatment {
            t.curve = None;
        }
        self.drop_bands();
    }

    /// Drops the bands of a number: its effect becomes a line that may bend.
    pub fn drop_bands(&mut self) {
        if let Treatment::Number(t) = &mut self.treatment {
            t.bands = Bands::default();
        }
    }

    /// The design blocks of training rows: line, curve, levels, each where there are any.
    pub fn blocks(&self, readings: &[Reading]) -> Vec<Block> {
        let encoder = Encoder::new(self);
        let encoded = readings.iter().map(|r| encoder.encode(self, r));
        let rows: Vec<Encoded> = encoded.collect();
        let mut blocks = Vec::new();
        let lines = [|e: &Encoded| e.number, |e: &Encoded| e.bend];
        for line in &lines[..self.lines()] {
            blocks.push(Block::Numeric(rows.iter().map(line).collect()));
        }
        if self.levels() > 0 {
            blocks.push(Block::Codes {
                codes: rows.iter().map(|e| e.code).collect(),
                levels: self.levels(),
            });
        }
        blocks
    }

    /// Takes the fitted coefficients, in the order of [`Self::blocks`].
    pub fn take_coefficients(&mut self, coefficients: &[f64]) {
        debug_assert_eq!(coefficients.len(), self.width());
        let (lines, levels) = coefficients.split_at(self.lines());
        if let (Treatment::Number(t), [line, bend @ ..]) = (&mut self.treatment, lines) {
            t.coefficient = *line;
            for (curve, bend) in t.curve.iter_mut().zip(bend) {
                curve.coefficient = *bend;
            }
        }
        self.add_to_levels(levels, |_, added| added);
    }

    /// Takes the variance that weights of levels are expected to have.
    pub fn take_level_variance(&mut self, variance: f64) {
        if let Treatment::Category(t) = &mut self.treatment {
            t.level_variance = Some(variance);
        }
    }

    /// The variance that comes with a level of which nothing is known, log-odds squared: a new rep is average
    /// until shown otherwise, and may be anybody.
    pub fn unknown_variance(&self, value: Encoded) -> f64 {
        let is_unknown = value.code == NO_LEVEL || value.oddity == Some(Oddity::UnseenCategory);
        match &self.treatment {
            Treatment::Category(t) if is_unknown => t.level_variance.unwrap_or(0.0),
            Treatment::Category(_) | Treatment::Number(_) => 0.0,
        }
    }

    /// Adds to the weight of each level, in the order of codes.
    pub fn shift_levels(&mut self, shifts: &[f64]) {
        debug_assert_eq!(shifts.len(), self.levels());
        self.add_to_levels(shifts, |before, added| before + added);
    }

    fn add_to_levels(&mut self, values: &[f64], change: impl Fn(f64, f64) -> f64) {
        let weights: Box<dyn Iterator<Item = &mut f64>> = match &mut self.treatment {
            Treatment::Number(t) => {
                let bands = t.bands.all_mut().map(|band| &mut band.coefficient);
                Box::new(bands.chain(t.missing.iter_mut().map(|level| &mut level.coefficient)))
            }
            Treatment::Category(t) => Box::new(t.all_mut().map(|level| &mut level.coefficient)),
        };
        for (weight, value) in weights.zip(values) {
            *weight = change(*weight, *value);
        }
    }

    /// Centers the column on its mean weight over the training rows and returns it: it belongs into
    /// the intercept. A standardised number has mean 0, and so has its place on the curve.
    pub fn centered(&mut self, rows: usize) -> f64 {
        let weights = self.level_weights();
        self.center = weights
            .map(|(weight, count)| weight * count as f64 / rows as f64)
            .sum();
        self.center
    }

    /// Weight and training rows of each level, in the order of codes.
    pub fn level_weights(&self) -> Box<dyn Iterator<Item = (f64, usize)> + '_> {
        match &self.treatment {
            Treatment::Number(t) => {
                let bands = t.bands.all().map(|band| (band.coefficient, band.count));
                Box::new(bands.chain(t.missing.iter().map(|l| (l.coefficient, l.count))))
            }
            Treatment::Category(t) => Box::new(t.all().map(|l| (l.coefficient, l.count))),
        }
    }

    /// The weight of an encoded value, log-odds, before centering.
    pub fn weight(&self, value: Encoded) -> f64 {
        let code = value.code as usize;
        match &self.treatment {
            Treatment::Number(t) => {
                let beside = match t.bands.get(code) {
                    Some(band) => band.coefficient,
                    None if code == t.bands.len() => t
                        .missing
                        .as_ref()
                        .map_or(0.0, |missing| missing.coefficient),
                    // Missing, which in training it was not, or hardly: as the average deal.
                    None if !t.bands.is_empty() => self.center,
                    None => 0.0,
                };
                let bend = t.curve.map_or(0.0, |curve| curve.coefficient);
                t.coefficient * value.number + bend * value.bend + beside
            }
            Treatment::Category(t) => t.level(code).map_or(self.center, |level| level.coefficient),
        }
    }

    /// A level in words: `is Google`, `is from 200 to 400`, `is missing`.
    pub fn level_text(&self, code: u32) -> String {
        let code = code as usize;
        match &self.treatment {
            Treatment::Number(t) => match t.bands.get(code) {
                Some(band) if band.low == band.high => format!("is {}", rounded(band.low)),
                Some(band) => format!("is from {} to {}", rounded(band.low), rounded(band.high)),
                None => "is missing".into(),
            },
            Treatment::Category(t) if code < t.levels.len() => {
                format!("is {}", t.levels[code].value)
            }
            Treatment::Category(t) if code == t.levels.len() && t.other.is_some() => {
                "is rare".into()
            }
            Treatment::Category(_) => "is missing".into(),
        }
    }

    /// Whether every value in the column's range has a finite weight.
    pub fn is_sound(&self) -> bool {
        if let Source::Usual(usual) = &self.source
            && !usual.is_sound()
        {
            return false;
        }
        match &self.treatment {
            Treatment::Number(t) => {
                let is_finite = |x: f64| {
                    let z = (t.transform.apply(x) - t.mean) / t.deviation;
                    let bend = t.curve.map_or(0.0, |curve| curve.coefficient * curve.at(z));
                    z.is_finite() && (t.coefficient * z + bend).is_finite()
                };
                t.low <= t.high && is_finite(t.low) && is_finite(t.high)
            }
            Treatment::Category(t) => t.level_variance.is_none_or(|variance| variance >= 0.0),
        }
    }

    /// All numbers of the column, to check that they are finite.
    pub fn numbers(&self) -> Vec<f64> {
        let mut numbers = vec![self.center];
        match &self.treatment {
            Treatment::Number(t) => {
                numbers.extend([t.mean, t.deviation, t.low, t.high, t.coefficient]);
                let curve = t.curve.iter();
                numbers.extend(curve.flat_map(|c| [c.mean, c.deviation, c.coefficient]));
                let bands = t.bands.all();
                numbers.extend(bands.flat_map(|b| [b.low, b.high, b.coefficient]));
                numbers.extend(t.missing.iter().map(|level| level.coefficient));
            }
            Treatment::Category(t) => {
                numbers.extend(t.all().map(|level| level.coefficient));
                numbers.extend(t.level_variance);
            }
        }
        numbers
    }
}

impl CategoryTreatment {
    fn width(&self) -> usize {
        self.levels.len() + usize::from(self.other.is_some()) + usize::from(self.missing.is_some())
    }

    /// Levels, other, missing: the order of codes.
    pub fn all(&self) -> impl Iterator<Item = &Level> {
        self.levels.iter().chain(&self.other).chain(&self.missing)
    }

    fn level(&self, code: usize) -> Option<&Level> {
        self.levels.get(code).or_else(|| self.all().nth(code))
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Level> {
        let rest = self.other.iter_mut().chain(self.missing.iter_mut());
        self.levels.iter_mut().chain(rest)
    }
}

/// Reads one column from snapshots: the same for training rows and for scores.
#[derive(Debug)]
pub struct ColumnReader {
    place: Place,
    holds: ColumnType,
    missing: HashSet<String>,
    aliases: HashMap<String, String>,
    times: TimeReader,
}

enum Place {
    Feature(&'static Feature),
    Activities(KindCount),
    Usual(Box<UsualReader>),
    Attribute(String),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Feature(feature) => f.debug_tuple("Feature").field(&feature.name).finish(),
            Self::Activities(count) => count.fmt(f),
            Self::Usual(usual) => usual.fmt(f),
            Self::Attribute(name) => f.debug_tuple("Attribute").field(name).finish(),
        }
    }
}

impl ColumnReader {
    /// # Errors
    /// When the source is a feature that this version does not know, or the mapping's zone is unknown.
    pub fn new(source: &Source, holds: ColumnType, mapping: &Mapping) -> Result<Self> {
        let (place, name): (Place, &str) = match source {
            Source::Feature(name) => {
                let feature = feature(name).ok_or_else(|| {
                    crate::error::Error::Malformed(format!(
                        "this version of dealrank has no feature `{name}`"
                    ))
                })?;
                (Place::Feature(feature), name)
            }
            // The mapping's tokens and aliases are of attributes.
            Source::Activities(count) => (Place::Activities(count.clone()), ""),
            Source::Usual(usual) => {
                let reader = UsualReader::new(usual.clone(), mapping)?;
                (Place::Usual(Box::new(reader)), "")
            }
            Source::Attribute(name) => (Place::Attribute(name.clone()), name),
        };
        let aliases = mapping.aliases.get(name).cloned().unwrap_or_default();
        Ok(Self {
            place,
            holds,
            missing: mapping.missing.of(name).iter().cloned().collect(),
            aliases: aliases.into_iter().collect(),
            times: TimeReader::new(&mapping.time, Timestamp::MAX)?,
        })
    }

    /// The same column, holding something else.
    pub fn holding(self, holds: ColumnType) -> Self {
        Self { holds, ..self }
    }

    pub fn holds(&self) -> ColumnType {
        self.holds
    }

    /// Whether there is a value, one that can be read or not.
    pub fn is_given(&self, snapshot: &Snapshot, exchange: &Exchange) -> bool {
        match &self.place {
            Place::Feature(feature) => (feature.read)(snapshot, exchange) != Reading::Missing,
            Place::Activities(count) => count.read(snapshot) != Reading::Missing,
            Place::Usual(usual) => usual.read(snapshot, exchange) != Reading::Missing,
            Place::Attribute(name) => self.text(snapshot.attribute(name)).is_some(),
        }
    }

    /// The date in a column of dates, also one that was not known at the deal's creation.
    pub fn date(&self, snapshot: &Snapshot) -> Option<Timestamp> {
        match &self.place {
            Place::Attribute(name) if self.holds == ColumnType::Date => {
                self.times.parse(&self.text(snapshot.attribute(name))?)
            }
            _ => None,
        }
    }

    pub fn read<'a>(&'a self, snapshot: &Snapshot<'a>, exchange: &Exchange) -> Reading<'a> {
        match &self.place {
            Place::Feature(feature) => (feature.read)(snapshot, exchange),
            Place::Activities(count) => count.read(snapshot),
            Place::Usual(usual) => usual.read(snapshot, exchange),
            Place::Attribute(name) => {
                let Some(text) = self.text(snapshot.attribute(name)) else {
                    return Reading::Missing;
                };
                self.interpret(text, snapshot)
            }
        }
    }

    /// The value of an attribute as a text, with missing tokens and aliases applied.
    fn text<'a>(&'a self, value: Option<&'a AttributeValue>) -> Option<Cow<'a, str>> {
        let text = match value? {
            AttributeValue::Null => return None,
            AttributeValue::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            AttributeValue::Number(value) => Cow::Owned(value.to_string()),
            AttributeValue::Text(text) => Cow::Borrowed(text.trim()),
        };
        if text.is_empty() || self.missing.contains(text.as_ref()) {
            return None;
        }
        match self.aliases.get(text.as_ref()) {
            Some(alias) => Some(Cow::Borrowed(alias)),
            None => Some(text),
        }
    }

    fn interpret<'a>(&'a self, text: Cow<'a, str>, snapshot: &Snapshot<'a>) -> Reading<'a> {
        match self.holds {
            ColumnType::Category => Reading::Text(text),
            ColumnType::Boolean => match read_boolean(&text) {
                Some(true) => Reading::Text(Cow::Borrowed("true")),
                Some(false) => Reading::Text(Cow::Borrowed("false")),
                None => Reading::Unreadable(text),
            },
            ColumnType::Number => match read_number(&text) {
                Some(number) => Reading::Number(number),
                None => Reading::Unreadable(text),
            },
            ColumnType::Date => match self.times.parse(&text) {
                Some(date) => days_before_creation(date, snapshot),
                None => Reading::Unreadable(text),
            },
        }
    }

    /// What the values of an attribute hold, by looking at all of them.
    pub fn discover<'a>(&'a self, snapshots: &[Snapshot<'a>]) -> ColumnType {
        let Place::Attribute(name) = &self.place else {
            return self.holds;
        };
        let (mut values, mut booleans, mut numbers, mut dates) = (0usize, 0usize, 0usize, 0usize);
        for snapshot in snapshots {
            let Some(text) = self.text(snapshot.attribute(name)) else {
                continue;
            };
            values += 1;
            booleans += usize::from(read_boolean(&text).is_some());
            let is_number = read_number(&text).is_some();
            numbers += usize::from(is_number);
            dates += usize::from(!is_number && self.times.parse(&text).is_some());
        }
        let is_mostly = |count: usize| values > 0 && count as f64 >= TYPE_SHARE_MIN * values as f64;
        if values > 0 && booleans == values {
            ColumnType::Boolean
        } else if is_mostly(numbers) {
            ColumnType::Number
        } else if is_mostly(dates) {
            ColumnType::Date
        } else {
            ColumnType::Category
        }
    }
}

/// A date counts as days before the deal's creation. A later date was not known then, and without a
/// creation there is nothing to count from.
fn days_before_creation<'a>(date: Timestamp, snapshot: &Snapshot<'a>) -> Reading<'a> {
    match snapshot.created_at() {
        Some(created_at) if date <= created_at => Reading::Number(days_between(date, created_at)),
        _ => Reading::Missing,
    }
}

/// A finite number as people write them: `1200`, `-3.5e2`, `$1,200.50`, `12%`.
pub fn read_number(text: &str) -> Option<f64> {
    let text = text.trim().trim_start_matches(['$', '€', '£']);
    let text = text.strip_suffix('%').unwrap_or(text).trim();
    // `inf`, `nan` and their like are words here, not numbers.
    let starts_as_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    if !starts_as_number || text.contains(['i', 'I', 'n', 'N']) {
        return None;
    }
    let number = match text.parse::<f64>() {
        Ok(number) => number,
        Err(_) if has_thousands_commas(text) => text.replace(',', "").parse().ok()?,
        Err(_) => return None,
    };
    number.is_finite().then_some(number)
}

fn has_thousands_commas(text: &str) -> bool {
    let whole = text.trim_start_matches(['+', '-']);
    let whole = whole.split('.').next().unwrap_or_default();
    let mut groups = whole.split(',');
    let first = groups.next().unwrap_or_default();
    whole.contains(',')
        && (1..=3).contains(&first.len())
        && groups.all(|g| g.len() == 3 && g.bytes().all(|b| b.is_ascii_digit()))
}

/// What is usual keeps its scale, lopsided or not: each further day that a deal is late, and each activity that
/// would have come by now, tells as much as the one before, and a logarithm would flatten that.
fn fit_number(
    readings: &[Reading],
    deals: &[usize],
    is_usual: bool,
) -> Result<NumberTreatment, String> {
    let values: Vec<f64> = readings
        .iter()
        .filter_map(|reading| match reading {
            Reading::Number(number) => Some(*number),
            _ => None,
        })
        .collect();
    let missing_count = readings.len() - values.len();
    if values.is_empty() {
        return Err("no value in any row".into());
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let common = commonest_count(values.iter().map(|v| v.to_bits()));
    let differing = values.len() - common;
    if differing < DIFFERING_ROWS_MIN {
        if missing_count < DIFFERING_ROWS_MIN {
            return Err(constant_reason(differing + missing_count, readings.len()));
        }
        return Err(format!(
            "the same number wherever it is not missing ({differing} rows differ)"
        ));
    }
    let transform = match is_usual {
        true => Transform::Identity,
        false => choose_transform(&values, low),
    };
    let transformed: Vec<f64> = values.iter().map(|v| transform.apply(*v)).collect();
    let (mean, deviation) = moments(&transformed);
    if !(deviation.is_finite() && deviation > 0.0) {
        return Err("its numbers are too large to compare".into());
    }
    let bands = Bands::cut(&numbered(readings, deals));
    let standardised = transformed.iter().map(|value| (value - mean) / deviation);
    let curve = (bands.len() >= CURVE_BANDS_MIN).then(|| Curve::fit(standardised));
    Ok(NumberTreatment {
        transform,
        mean,
        deviation,
        low,
        high,
        coefficient: 0.0,
        curve: curve.flatten(),
        bands,
        missing: (missing_count >= MISSING_ROWS_MIN).then(|| Level::new("missing", missing_count)),
    })
}

fn numbered(readings: &[Reading], deals: &[usize]) -> Vec<(f64, usize)> {
    let rows = readings.iter().zip(deals);
    rows.filter_map(|(reading, &deal)| match reading {
        Reading::Number(number) => Some((*number, deal)),
        _ => None,
    })
    .collect()
}

fn constant_reason(differing: usize, rows: usize) -> String {
    if differing == 0 {
        "constant".into()
    } else {
        format!("all but constant: {differing} of {rows} rows differ")
    }
}

fn commonest_count<T: std::hash::Hash + Eq>(values: impl Iterator<Item = T>) -> usize {
    let mut counts: HashMap<T, usize> = HashMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts.into_values().max().unwrap_or(0)
}

/// Why the readings of a column, one a deal, are an id or a name and tell nothing but deals apart.
/// Whole numbers that no two deals share are a counter, not a measure; few deals prove nothing.
pub fn id_reason(readings: &[&Reading]) -> Option<String> {
    let (mut numbers, mut texts) = (HashSet::new(), HashSet::new());
    let (mut numbers_given, mut texts_given) = (0, 0);
    for reading in readings {
        match reading {
            Reading::Number(number) if number.fract() != 0.0 => return None,
            Reading::Number(number) => {
                numbers_given += 1;
                numbers.insert(number.to_bits());
            }
            Reading::Text(text) => {
                texts_given += 1;
                texts.insert(text.as_ref());
            }
            Reading::Missing | Reading::Unreadable(_) => {}
        }
    }
    if numbers_given >= ID_DEALS_MIN && numbers.len() == numbers_given {
        return Some(format!(
            "{numbers_given} deals have a whole number each that no other has: an id"
        ));
    }
    unique_texts_reason(texts.len(), texts_given)
}

fn unique_texts_reason(texts: usize, deals: usize) -> Option<String> {
    (texts > UNIQUE_TEXTS_MIN && texts * 2 > deals).then(|| {
        format!("{texts} different texts in {deals} deals: a name or an id, not a category")
    })
}

/// The logarithm where it makes a lopsided column of positive numbers more even.
fn choose_transform(values: &[f64], low: f64) -> Transform {
    if low < 0.0 {
        return Transform::Identity;
    }
    let logs: Vec<f64> = values.iter().map(|v| v.ln_1p()).collect();
    let (plain, logged) = (skewness(values), skewness(&logs));
    if plain > 1.0 && logged.abs() < plain.abs() {
        Transform::Log1p
    } else {
        Transform::Identity
    }
}

/// Mean and standard deviation (divided by n).
fn moments(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// To hundredths, as people read numbers.
pub fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Third standardised moment.
fn skewness(values: &[f64]) -> f64 {
    let (mean, deviation) = moments(values);
    let cubes: f64 = values
        .iter()
        .map(|v| ((v - mean) / deviation).powi(3))
        .sum();
    cubes / values.len() as f64
}

fn fit_category(readings: &[Reading], deals: &[usize]) -> Result<CategoryTreatment, String> {
    let mut counts: HashMap<&str, LevelCount> = HashMap::new();
    let mut deals_present = HashSet::new();
    for (reading, &deal) in readings.iter().zip(deals) {
        if let Reading::Text(text) = reading {
            counts.entry(text.as_ref()).or_default().add(deal);
            deals_present.insert(deal);
        }
    }
    let present: usize = counts.values().map(|count| count.rows).sum();
    let missing_count = readings.len() - present;
    if present == 0 {
        return Err("no value in any row".into());
    }
    if let Some(reason) = unique_texts_reason(counts.len(), deals_present.len()) {
        return Err(reason);
    }
    let mut levels: Vec<(&str, LevelCount)> = counts.into_iter().collect();
    levels.sort_by(|a, b| {
        let by_count = (b.1.deals, b.1.rows).cmp(&(a.1.deals, a.1.rows));
        by_count.then(a.0.cmp(b.0))
    });
    let most_rows = levels.iter().map(|(_, count)| count.rows).max();
    let commonest = most_rows.unwrap_or(0).max(missing_count);
    if readings.len() - commonest < DIFFERING_ROWS_MIN {
        return Err(constant_reason(readings.len() - commonest, readings.len()));
    }
    let deals_min = level_deals_min(deals.iter().collect::<HashSet<_>>().len());
    let kept = levels
        .iter()
        .take(LEVELS_MAX)
        .take_while(|(_, count)| count.deals >= deals_min)
        .count();
    // Rare levels of too few deals even together weigh nothing: one deal is no evidence.
    let rare_deals: usize = levels[kept..].iter().map(|(_, count)| count.deals).sum();
    let rare_count: usize = levels[kept..].iter().map(|(_, count)| count.rows).sum();
    let kept_levels = levels[..kept].iter();
    Ok(CategoryTreatment {
        levels: kept_levels.map(|(v, n)| Level::new(v, n.rows)).collect(),
        other: (rare_deals >= deals_min).then(|| Level::new("other", rare_count)),
        missing: (missing_count >= MISSING_ROWS_MIN).then(|| Level::new("missing", missing_count)),
        level_variance: None,
    })
}

/// Deals that a level needs for a coefficient of its own: 3 in small data, 10 from 2,000 deals on.
fn level_deals_min(deals: usize) -> usize {
    (deals / 200).clamp(3, 10)
}

/// How common a level is. The rows of a deal stand together.
#[derive(Clone, Copy, Default)]
struct LevelCount {
    rows: usize,
    deals: usize,
    last_deal: Option<usize>,
}

impl LevelCount {
    fn add(&mut self, deal: usize) {
        self.rows += 1;
        self.deals += usize::from(self.last_deal.replace(deal) != Some(deal));
    }
}

/// Finds the codes of a column's levels; made once, for training rows and for scores alike.
#[derive(Debug)]
pub struct Encoder {
    codes: HashMap<String, u32>,
}

impl Encoder {
    pub fn new(column: &Column) -> Self {
        let codes = match &column.treatment {
            Treatment::Number(_) => HashMap::new(),
            Treatment::Category(t) => {
                let values = t.levels.iter().map(|level| level.value.clone());
                values.zip(0..).collect()
            }
        };
        Self { codes }
    }

    /// Encodes one reading of the column that this was made of.
    pub fn encode(&self, column: &Column, reading: &Reading) -> Encoded {
        match &column.treatment {
            Treatment::Number(t) => encode_number(t, reading),
            Treatment::Category(t) => {
                encode_category(t, reading, |text| self.codes.get(text).copied())
            }
        }
    }
}

fn encode_number(t: &NumberTreatment, reading: &Reading) -> Encoded {
    let missing = |oddity: Option<Oddity>| Encoded {
        number: 0.0,
        bend: 0.0,
        code: if t.missing.is_some() {
            t.bands.len() as u32
        } else {
            NO_LEVEL
        },
        oddity: oddity.or_else(|| t.missing.is_none().then_some(Oddity::MissingUnseen)),
    };
    match reading {
        Reading::Number(x) => {
            let oddity = if *x < t.low {
                Some(Oddity::BelowRange)
            } else if *x > t.high {
                Some(Oddity::AboveRange)
            } else {
                None
            };
            let known = x.clamp(t.low, t.high);
            let number = (t.transform.apply(known) - t.mean) / t.deviation;
            Encoded {
                number,
                bend: t.curve.map_or(0.0, |curve| curve.at(number)),
                code: t.bands.code(known).unwrap_or(NO_LEVEL),
                oddity,
            }
        }
        Reading::Missing => missing(None),
        Reading::Text(_) | Reading::Unreadable(_) => missing(Some(Oddity::Unreadable)),
    }
}

fn encode_category(
    t: &CategoryTreatment,
    reading: &Reading,
    code_of: impl Fn(&str) -> Option<u32>,
) -> Encoded {
    let other_code = t.levels.len() as u32;
    let missing_code = other_code + u32::from(t.other.is_some());
    let (code, oddity) = match reading {
        Reading::Text(text) => match code_of(text) {
            Some(code) => (code, None),
            None if t.other.is_some() => (other_code, Some(Oddity::UnseenCategory)),
            None => (NO_LEVEL, Some(Oddity::UnseenCategory)),
        },
        Reading::Missing if t.missing.is_some() => (missing_code, None),
        Reading::Missing => (NO_LEVEL, Some(Oddity::MissingUnseen)),
        Reading::Number(_) | Reading::Unreadable(_) => {
            let code = if t.missing.is_some() {
                missing_code
            } else {
                NO_LEVEL
            };
            (code, Some(Oddity::Unreadable))
        }
    };
    Encoded {
        number: 0.0,
        bend: 0.0,
        code,
        oddity,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Deal, DealId};

    fn texts<'a>(values: &[(&'a str, usize)]) -> Vec<Reading<'a>> {
        let repeated = values.iter().flat_map(|&(v, n)| std::iter::repeat_n(v, n));
        repeated
            .map(|v| match v {
                "" => Reading::Missing,
                v => Reading::Text(Cow::Borrowed(v)),
            })
            .collect()
    }

    fn fit(holds: ColumnType, readings: &[Reading]) -> Result<Column, String> {
        fit_deals(holds, readings, 1)
    }

    /// As many rows to a deal.
    fn fit_deals(
        holds: ColumnType,
        readings: &[Reading],
        rows_each: usize,
    ) -> Result<Column, String> {
        let deals: Vec<usize> = (0..readings.len()).map(|row| row / rows_each).collect();
        let source = Source::Attribute("c".into());
        Column::fit("c".into(), source, holds, readings, &deals)
    }

    fn numbers(values: &[f64]) -> Vec<Reading<'static>> {
        values.iter().map(|v| Reading::Number(*v)).collect()
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for (text, number) in [
            ("1200", 1200.0),
            (" -3.5e2 ", -350.0),
            ("$1,200.50", 1200.5),
            ("12%", 12.0),
            ("1,234,567", 1_234_567.0),
        ] {
            assert_eq!(read_number(text), Some(number), "{text}");
        }
        for text in [
            "",
            "nan",
            "inf",
            "-inf",
            "1e999",
            "12,34",
            "02.Medium",
            "1 2",
            "-",
        ] {
            assert_eq!(read_number(text), None, "{text}");
        }
    }

    #[test]
    fn rare_and_unseen_categories_have_a_place() {
        let readings = texts(&[
            ("web", 50),
            ("event", 40),
            ("fax", 1),
            ("telex", 2),
            ("", 20),
        ]);
        let column = fit(ColumnType::Category, &readings).unwrap();
        assert_eq!(column.width(), 4, "web, event, other, missing");
        let encoder = Encoder::new(&column);
        let encode =
            |text: &'static str| encoder.encode(&column, &Reading::Text(Cow::Borrowed(text)));
        assert_eq!(encode("web").code, 0);
        assert_eq!(encode("web").oddity, None);
        assert_eq!((encode("fax").code, encode("never").code), (2, 2));
        assert_eq!(encode("never").oddity, Some(Oddity::UnseenCategory));
        assert_eq!(encoder.encode(&column, &Reading::Missing).code, 3);
    }

    #[test]
    fn an_unseen_value_without_a_place_weighs_nothing() {
        let mut column = fit(ColumnType::Category, &texts(&[("a", 30), ("b", 10)])).unwrap();
        column.take_coefficients(&[1.0, -1.0]);
        assert_eq!(column.centered(40), 0.5);
        let encoder = Encoder::new(&column);
        for odd in [Reading::Missing, Reading::Text("c".into())] {
            let encoded = encoder.encode(&column, &odd);
            assert!(encoded.oddity.is_some());
            assert_eq!(column.weight(encoded) - column.center, 0.0);
        }
    }

    #[test]
    fn a_missing_number_without_a_place_weighs_nothing_beside_bands() {
        let values: Vec<f64> = (0..400).map(f64::from).collect();
        let mut column = fit(ColumnType::Number, &numbers(&values)).unwrap();
        let bands = column.levels();
        assert!(bands >= 2);
        let weights: Vec<f64> = (0..column.width()).map(|i| 0.3 * i as f64).collect();
        column.take_coefficients(&weights);
        assert!(column.centered(400) > 0.5);
        let encoded = Encoder::new(&column).encode(&column, &Reading::Missing);
        assert_eq!(encoded.oddity, Some(Oddity::MissingUnseen));
        assert_eq!(column.weight(encoded) - column.center, 0.0);
    }

    #[test]
    fn no_two_columns_have_one_name() {
        let name = |name: &str| Source::Attribute(name.into()).column_name();
        assert_eq!(name("amount"), "attributes.amount");
        assert_ne!(name("attributes.amount"), name("amount"));
    }

    #[test]
    fn useless_columns_say_why() {
        let constant = fit(ColumnType::Category, &texts(&[("No", 9240)]));
        assert_eq!(constant.unwrap_err(), "constant");
        let nearly = fit(ColumnType::Category, &texts(&[("No", 9238), ("Yes", 2)]));
        assert_eq!(
            nearly.unwrap_err(),
            "all but constant: 2 of 9240 rows differ"
        );
        let names: Vec<String> = (0..100).map(|i| format!("deal {i}")).collect();
        let names: Vec<Reading> = names.iter().map(|n| Reading::Text(n.into())).collect();
        assert!(
            fit(ColumnType::Category, &names)
                .unwrap_err()
                .contains("100 different")
        );
        let none = fit(ColumnType::Number, &[Reading::Missing, Reading::Missing]);
        assert_eq!(none.unwrap_err(), "no value in any row");
    }

    #[test]
    fn a_number_of_each_deals_own_is_an_id() {
        let reason = |count: usize, number: &dyn Fn(usize) -> f64| {
            let readings: Vec<f64> = (0..count).map(number).collect();
            let readings = numbers(&readings);
            id_reason(&readings.iter().collect::<Vec<_>>())
        };
        let is_id = |reason: Option<String>| reason.is_some_and(|r| r.ends_with("an id"));
        assert!(is_id(reason(200, &|i| 579_533.0 + 7.0 * i as f64)));
        assert_eq!(reason(200, &|i| (i / 2) as f64), None, "shared");
        assert_eq!(reason(200, &|i| i as f64 + 0.5), None, "not whole");
        assert_eq!(reason(50, &|i| i as f64), None, "few");
    }

    #[test]
    fn a_deal_with_many_rows_does_not_make_its_own_texts_common() {
        let names: Vec<String> = (0..100).map(|i| format!("deal {i}")).collect();
        let repeated = names.iter().flat_map(|name| std::iter::repeat_n(name, 12));
        let names: Vec<Reading> = repeated.map(|name| Reading::Text(name.into())).collect();
        let reason = fit_deals(ColumnType::Category, &names, 12).unwrap_err();
        assert!(
            reason.contains("100 different texts in 100 deals"),
            "{reason}"
        );
        let levels = texts(&[("web", 600), ("event", 600), ("fax", 24)]);
        let column = fit_deals(ColumnType::Category, &levels, 12).unwrap();
        assert_eq!(column.width(), 2, "two deals are few, even as the rest");
    }

    #[test]
    fn numbers_are_standardised_and_stay_inside_what_was_seen() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i % 10)).collect();
        let column = fit(ColumnType::Number, &numbers(&values)).unwrap();
        let encoder = Encoder::new(&column);
        let encode = |x: f64| encoder.encode(&column, &Reading::Number(x));
        let mean: f64 = values.iter().map(|v| encode(*v).number).sum::<f64>() / 100.0;
        let square: f64 = values
            .iter()
            .map(|v| encode(*v).number.powi(2))
            .sum::<f64>()
            / 100.0;
        assert!(mean.abs() < 1e-12 && (square - 1.0).abs() < 1e-12);
        assert_eq!(encode(1e300).number, encode(9.0).number);
        assert_eq!(encode(1e300).oddity, Some(Oddity::AboveRange));
        assert_eq!(encode(-1.0).oddity, Some(Oddity::BelowRange));
        assert_eq!(
            encoder.encode(&column, &Reading::Missing).oddity,
            Some(Oddity::MissingUnseen)
        );
    }

    #[test]
    fn the_curve_of_a_number_is_its_standardised_square() {
        let values: Vec<f64> = (0..2000).map(f64::from).chain([1e6]).collect();
        let mut column = fit(ColumnType::Number, &numbers(&values)).unwrap();
        assert_eq!((column.lines(), column.levels()), (2, 20));
        let encoder = Encoder::new(&column);
        let bends = |column: &Column| -> Vec<f64> {
            let encoded = values
                .iter()
                .map(|v| encoder.encode(column, &Reading::Number(*v)));
            encoded.map(|encoded| encoded.bend).collect()
        };
        let (mean, deviation) = moments(&bends(&column));
        assert!(mean.abs() < 1e-9 && (deviation - 1.0).abs() < 1e-9);
        // Beyond four deviations it bends no further, and of a missing number nothing.
        let encode = |reading| encoder.encode(&column, &reading);
        let far = encode(Reading::Number(1e6));
        assert!(far.number > 4.0);
        let Treatment::Number(t) = &column.treatment else {
            unreachable!()
        };
        let curve = t.curve.unwrap();
        assert_eq!(far.bend, (16.0 - curve.mean) / curve.deviation);
        assert_eq!(encode(Reading::Missing).bend, 0.0);

        let mut weights = vec![0.0; column.width()];
        (weights[0], weights[1]) = (0.5, -2.0);
        column.take_coefficients(&weights);
        let weight = column.weight(far);
        assert!((weight - (0.5 * far.number - 2.0 * far.bend)).abs() < 1e-12);
        column.drop_bands();
        assert_eq!((column.lines(), column.levels()), (2, 0));
        column.straighten();
        assert_eq!(column.width(), 1);
    }

    #[test]
    fn of_two_values_there_is_no_curve() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let column = fit(ColumnType::Number, &numbers(&values)).unwrap();
        assert_eq!(column.lines(), 1);
    }

    #[test]
    fn long_tails_are_taken_on_a_log_scale() {
        let amounts: Vec<f64> = (0..200).map(|i| (f64::from(i) / 20.0).exp()).collect();
        let Treatment::Number(t) = fit(ColumnType::Number, &numbers(&amounts))
            .unwrap()
            .treatment
        else {
            unreachable!()
        };
        assert_eq!(t.transform, Transform::Log1p);
    }

    #[test]
    fn what_a_column_holds_is_found_by_looking() {
        let columns = [
            ("yes", ColumnType::Boolean),
            ("1", ColumnType::Boolean),
            ("17.5", ColumnType::Number),
            ("2026-01-05", ColumnType::Date),
            ("Web", ColumnType::Category),
        ];
        for (text, holds) in columns {
            let mut deal = Deal::new(DealId::new("d").unwrap());
            let value = AttributeValue::Text(text.into());
            deal.attributes.insert("c".into(), value);
            let source = Source::Attribute("c".into());
            let mapping = Mapping::default();
            let reader = ColumnReader::new(&source, ColumnType::Category, &mapping).unwrap();
            let snapshot = Snapshot::at(&deal, Timestamp::UNIX_EPOCH);
            assert_eq!(reader.discover(&[snapshot]), holds, "{text}");
        }
    }
}
