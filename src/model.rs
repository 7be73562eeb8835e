//! A trained model as a value, and as one readable JSON file.

pub mod doubts;

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::baseline::Baseline;
use crate::columns::Column;
use crate::crosses::Cross;
use crate::domain::{Exchange, LogOdds, Probability, Snapshot};
use crate::error::{Error, Result};
use crate::evaluation::Evaluation;
use crate::evaluation::recalibration::Recalibration;
use crate::ingest::Mapping;
use crate::scoring::INTERVAL_Z;
use doubts::Doubts;

/// What every model file says first.
const FORMAT: &str = "dealrank-model";
const FORMAT_VERSION: u32 = 1;
/// No history gives odds of e^50; contributions have the same limit.
const INTERCEPT_MAX: f64 = 50.0;
/// Nor do intervals reach farther.
const MARGIN_MAX: f64 = 100.0;
/// Nor does any calibration stretch or shift log-odds that far.
const CALIBRATION_MAX: f64 = 20.0;

/// A model: what it reads, what each value weighs, what it was learned from, how good it was on
/// deals it had not seen. See `training` for how one is made and `scoring` for its use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    format: String,
    format_version: u32,
    /// Time of training and twelve hex digits of a hash of everything else in the model.
    pub version: String,
    /// The dealrank version that wrote it.
    pub dealrank: String,
    pub trained_at: Timestamp,
    pub training: Training,
    pub report: Report,
    /// The training rows in outline, for drift from them.
    pub baseline: Baseline,
    /// Lower bounds of the grades A, B and C: quartiles of the training rows' probabilities.
    pub grades: [Probability; 3],
    /// Log-odds of the average deal: the coefficient of the intercept plus all centers.
    pub intercept: f64,
    pub columns: Vec<Column>,
    /// Pairs of columns, in a model of that form.
    pub crosses: Vec<Cross>,
    /// Of the log-odds; `None` where they are best as they are.
    pub calibration: Option<Calibration>,
    /// How the calibration was shifted after the training; the report is that of the training.
    pub recalibrated: Option<Recalibrated>,
    pub dropped: Vec<Dropped>,
    /// Columns that seem to know how deals ended; those left out are in `dropped` too.
    pub findings: Vec<Finding>,
    /// Missing tokens, aliases, types and column names, as given for training.
    pub mapping: Mapping,
    /// Rates for the amount as a feature. Expected values use the rates of the service.
    pub exchange: Exchange,
    /// Covariance of the coefficients: of the columns in the order of their design, of the crosses'
    /// cells, and of the intercept.
    pub covariance: Covariance,
}

/// What a model was learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    pub deals: usize,
    pub won_deals: usize,
    pub lost_deals: usize,
    /// Deals with landmarks have several rows each.
    pub rows: usize,
    /// Won share of the rows.
    pub base_rate: f64,
    /// First and last creation (or closing, where creations are unknown) among the deals.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
    /// Nothing later was known.
    pub as_of: Timestamp,
    pub basis: Basis,
    /// How far the model bends, from cross-validation.
    pub form: Form,
    /// Days between the landmarks of deals with a past.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landmark_days: Option<i64>,
    /// The commonest first; empty where no deal names one.
    pub pipelines: Vec<PipelineHistory>,
    /// Weight of half the squared norm against the summed log loss, from cross-validation. The norm is
    /// of weights in units of what the evidence expects of their column.
    pub alpha: f64,
    /// The same for the cells of crosses, in log-odds; `None` in a model without.
    pub cross_penalty: Option<f64>,
    /// What intervals add to the covariance of the coefficients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubts: Option<Doubts>,
    /// Of models without doubts, which were trained before: the variance between forms, the same at all
    /// log-odds, and that of deals that have moved on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disagreement_later: Option<f64>,
    /// What cross-validation tried, each form with its best penalty; empty where deals were too few.
    pub tried: Vec<Tried>,
    /// Whether linfa checked the optimum.
    pub is_confirmed_by_linfa: bool,
}

/// A form of the model, judged by folds of whole deals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    pub form: Form,
    pub alpha: f64,
    pub cross_penalty: Option<f64>,
    /// Mean log loss on rows that the coefficients had not seen.
    pub log_loss: f64,
}

/// How many deals of a pipeline a model was learned from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineHistory {
    /// `None` for the deals without one.
    pub pipeline: Option<String>,
    pub won_deals: usize,
    pub lost_deals: usize,
}

/// What the training rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Each deal once, as its file has it; nothing about elapsed time.
    Flat,
    /// Each deal at its creation and on regular days while it was open.
    Landmarks,
}

/// How good the recipe was on deals it had not seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// How rows were held out.
    pub split: String,
    pub train_deals: usize,
    /// `None` when there were too few deals to hold any out.
    pub held_out: Option<Evaluation>,
}

/// A column that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    pub column: String,
    pub reason: String,
}

/// What log-odds are turned into before they become a probability, by how far a deal has come: the
/// weights are a compromise between new deals, of which little but their attributes is known, and old
/// ones, of which those tell less. Fitted on deals that the coefficients had not seen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// For deals in the stage that they began in, and those of which no stage is known.
    pub first_stage: Scaling,
    /// For deals that have moved on; the same where nothing speaks for another.
    pub later: Scaling,
}

/// `shift + slope x log-odds` (Platt 1999).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Above zero: the order of deals stays.
    pub slope: f64,
    pub shift: f64,
}

impl Calibration {
    /// Changes nothing.
    pub const IDENTITY: Self = Self {
        first_stage: Scaling::IDENTITY,
        later: Scaling::IDENTITY,
    };

    /// The same for all deals.
    pub fn of_all(scaling: Scaling) -> Self {
        Self {
            first_stage: scaling,
            later: scaling,
        }
    }

    pub fn scaling(&self, has_moved: bool) -> Scaling {
        match has_moved {
            false => self.first_stage,
            true => self.later,
        }
    }

    /// With all log-odds shifted further.
    fn shifted(mut self, by: f64) -> Self {
        self.first_stage.shift += by;
        self.later.shift += by;
        self
    }

    fn is_sound(&self) -> bool {
        self.first_stage.is_sound() && self.later.is_sound()
    }
}

impl Scaling {
    /// Changes nothing.
    pub const IDENTITY: Self = Self {
        slope: 1.0,
        shift: 0.0,
    };

    /// This one on top of another.
    pub fn after(self, first: Self) -> Self {
        Self {
            slope: self.slope * first.slope,
            shift: self.apply(first.shift),
        }
    }

    /// The calibrated log-odds.
    pub fn apply(&self, log_odds: f64) -> f64 {
        self.shift + self.slope * log_odds
    }

    fn is_sound(&self) -> bool {
        // NaN is in no range.
        (f64::MIN_POSITIVE..=CALIBRATION_MAX).contains(&self.slope)
            && self.shift.abs() <= CALIBRATION_MAX
    }
}

/// A shift of the calibration to newer outcomes, with everything else left as it was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recalibrated {
    /// The model that it was before.
    pub from_version: String,
    /// No outcome after it was known.
    pub at: Timestamp,
    /// The shift, and what it was found on.
    pub by: Recalibration,
}

/// How far a model bends; the more it may, the more deals it takes to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Numbers weigh by a line.
    Lines,
    /// Numbers weigh by a line that may bend.
    Curves,
    /// Numbers weigh by a curve and by the band that they fall in.
    Bands,
    /// Bands, and pairs of columns together.
    Crosses,
}

/// A column that seems to know how deals ended, and what makes it seem so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    pub column: String,
    pub grade: FindingGrade,
    /// The kind of the evidence; stable.
    pub code: Clue,
    /// The evidence with its numbers, and what to check of a column that is kept.
    pub evidence: String,
}

/// What became of a column; the graver first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingGrade {
    /// Not learned from.
    LeftOut,
    /// Learned from; to be checked.
    Suspect,
}

/// Kinds of evidence; `training::leakage` has their rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clue {
    /// Mapped as the closing date.
    ClosingDate,
    /// Another value in every deal.
    Id,
    /// Dates after the creation or the closing.
    LateDates,
    /// Filled in closed deals only.
    FilledAtClosing,
    /// Filled much more or less often in closed deals than in open ones.
    FilledUnlike,
    /// Filled for one outcome only.
    OneOutcome,
    /// It alone tells won from lost deals.
    AloneRanks,
    /// Called like what CRMs fill in after the fact.
    Name,
}

/// A factor `F` of the covariance `F F'` of the coefficients: one row for each, as 16-bit fractions of
/// the row's largest entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "CovarianceText", into = "CovarianceText")]
pub struct Covariance {
    columns: usize,
    scales: Vec<f32>,
    cells: Vec<i16>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CovarianceText {
    columns: usize,
    /// Little-endian f32 in base64.
    scales: String,
    /// Row after row, little-endian i16 in base64.
    cells: String,
}

impl Covariance {
    /// Of the rows of a factor, each as long as the others and of finite numbers.
    pub fn new(rows: impl Iterator<Item = Vec<f64>>) -> Self {
        let (mut columns, mut scales, mut cells) = (0, Vec::new(), Vec::new());
        for row in rows {
            columns = row.len();
            let largest = row.iter().fold(0.0f64, |max, x| max.max(x.abs()));
            let scale = (largest / f64::from(i16::MAX)).max(f64::MIN_POSITIVE);
            scales.push(scale as f32);
            cells.extend(row.iter().map(|x| (x / scale).round() as i16));
        }
        Self {
            columns,
            scales,
            cells,
        }
    }

    fn holds(&self, rows: usize) -> bool {
        self.scales.len() == rows
            && rows.checked_mul(self.columns) == Some(self.cells.len())
            && self.scales.iter().all(|scale| scale.is_finite())
    }

    /// `x' F F' x` for a vector of zeros and ones given by the places of its ones, and numbers given
    /// with their places.
    pub fn variance(&self, ones: &[usize], numbers: &[(usize, f64)]) -> f64 {
        let mut sums = vec![0.0f32; self.columns];
        let ones = ones.iter().map(|&place| (place, 1.0));
        for (place, x) in ones.chain(numbers.iter().copied()) {
            let scale = self.scales[place] * x as f32;
            let row = &self.cells[place * self.columns..(place + 1) * self.columns];
            for (sum, &cell) in sums.iter_mut().zip(row) {
                *sum += scale * f32::from(cell);
            }
        }
        sums.iter()
            .map(|&sum| f64::from(sum) * f64::from(sum))
            .sum()
    }

    /// The standard error of the coefficient at a place.
    pub fn standard_error(&self, place: usize) -> f64 {
        self.variance(&[place], &[]).sqrt()
    }
}

impl TryFrom<CovarianceText> for Covariance {
    type Error = String;

    fn try_from(text: CovarianceText) -> Result<Self, String> {
        let decode = |text: &str| {
            let bytes = BASE64.decode(text);
            bytes.map_err(|e| format!("covariance: {e}"))
        };
        let (scales, cells) = (decode(&text.scales)?, decode(&text.cells)?);
        let ((scales, []), (cells, [])) = (scales.as_chunks::<4>(), cells.as_chunks::<2>()) else {
            return Err("covariance: not a whole number of entries".into());
        };
        Ok(Self {
            columns: text.columns,
            scales: scales.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            cells: cells.iter().map(|b| i16::from_le_bytes(*b)).collect(),
        })
    }
}

impl From<Covariance> for CovarianceText {
    fn from(covariance: Covariance) -> Self {
        let scales: Vec<u8> = covariance
            .scales
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let cells: Vec<u8> = covariance
            .cells
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        Self {
            columns: covariance.columns,
            scales: BASE64.encode(scales),
            cells: BASE64.encode(cells),
        }
    }
}

/// The parts of a model that training finds.
pub struct ModelParts {
    pub trained_at: Timestamp,
    pub training: Training,
    pub report: Report,
    pub baseline: Baseline,
    pub grades: [Probability; 3],
    pub intercept: f64,
    pub columns: Vec<Column>,
    pub crosses: Vec<Cross>,
    pub calibration: Option<Calibration>,
    pub dropped: Vec<Dropped>,
    pub findings: Vec<Finding>,
    pub mapping: Mapping,
    pub exchange: Exchange,
    pub covariance: Covariance,
}

impl Model {
    /// Puts a model together and gives it its version.
    pub fn new(parts: ModelParts) -> Self {
        let mut model = Self {
            format: FORMAT.into(),
            format_version: FORMAT_VERSION,
            version: String::new(),
            dealrank: env!("CARGO_PKG_VERSION").into(),
            trained_at: parts.trained_at,
            training: parts.training,
            report: parts.report,
            baseline: parts.baseline,
            grades: parts.grades,
            intercept: parts.intercept,
            columns: parts.columns,
            crosses: parts.crosses,
            calibration: parts.calibration,
            recalibrated: None,
            dropped: parts.dropped,
            findings: parts.findings,
            mapping: parts.mapping,
            exchange: parts.exchange,
            covariance: parts.covariance,
        };
        model.version = model.computed_version();
        model
    }

    /// The same model with log-odds shifted by a recalibration, under a version of its own. The bounds of
    /// the grades move along: a deal keeps its grade.
    ///
    /// # Errors
    /// `Unusable` when the shift is beyond what a model can have.
    pub fn recalibrated(&self, by: Recalibration, at: Timestamp) -> Result<Self> {
        let before = self.calibration.unwrap_or(Calibration::IDENTITY);
        let calibration = before.shifted(by.shift);
        let too_far = |reason: String| Error::Unusable(format!("cannot recalibrate: {reason}"));
        if !calibration.is_sound() {
            let shift = by.shift;
            return Err(too_far(format!(
                "log-odds would be shifted by {shift:.1} more"
            )));
        }
        let mut grades = self.grades;
        for bound in &mut grades {
            let moved = LogOdds::new(bound.log_odds().get() + by.shift).map_err(too_far)?;
            *bound = moved.probability();
        }
        let mut model = Self {
            grades,
            calibration: Some(calibration),
            recalibrated: Some(Recalibrated {
                from_version: self.version.clone(),
                at,
                by,
            }),
            ..self.clone()
        };
        model.version = model.computed_version();
        Ok(model)
    }

    /// No outcome after it was known to the training, or to the recalibration that followed.
    pub fn known_until(&self) -> Timestamp {
        let recalibrated = self.recalibrated.as_ref();
        recalibrated.map_or(self.training.as_of, |r| r.at.max(self.training.as_of))
    }

    /// Columns of the design without the intercept.
    pub fn width(&self) -> usize {
        let cells: usize = self.crosses.iter().map(|cross| cross.cells.len()).sum();
        self.columns.iter().map(Column::width).sum::<usize>() + cells
    }

    /// How the log-odds of a deal like this are calibrated, also where that changes nothing.
    pub fn scaling(&self, snapshot: &Snapshot) -> Scaling {
        let calibration = self.calibration.unwrap_or(Calibration::IDENTITY);
        calibration.scaling(snapshot.has_moved())
    }

    /// How far the interval of a deal reaches below and above its calibrated log-odds, given the log-odds
    /// before calibration and the variance that the coefficients leave.
    pub fn margins(&self, snapshot: &Snapshot, log_odds: f64, variance: f64) -> (f64, f64) {
        let slope = self.scaling(snapshot).slope;
        // The smaller of two is also the one that is a number.
        let half = |variance: f64| (slope * INTERVAL_Z * variance.sqrt()).min(MARGIN_MAX);
        let Some(doubts) = &self.training.doubts else {
            let later = self.training.disagreement_later;
            let later = later.filter(|_| snapshot.has_moved());
            let margin = half(variance + later.or(self.training.disagreement).unwrap_or(0.0));
            return (margin, margin);
        };
        let phase = snapshot.phase();
        let half = half(variance + doubts::form_variance(doubts.forms.of(phase), log_odds));
        let (below, above) = doubts::reliability_at(doubts.reliability.of(phase), log_odds);
        (half.max(below), half.max(above))
    }

    /// The place of a column among the model's.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn is_sound_cross(&self, cross: &Cross) -> bool {
        match (self.column(&cross.left), self.column(&cross.right)) {
            (Some(left), Some(right)) => cross.is_sound(&self.columns[left], &self.columns[right]),
            _ => false,
        }
    }

    /// The model as indented JSON; `from_json` reads back an equal model.
    pub fn to_json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self)
            .expect("a model is made of strings, finite numbers and lists");
        json.push('\n');
        json
    }

    /// # Errors
    /// `Malformed` when the text is not JSON, not a dealrank model, of a newer format, or not what was
    /// written: a version carries a hash of the content.
    pub fn from_json(text: &str) -> Result<Self> {
        let head: Head = serde_json::from_str(text)
            .map_err(|e| Error::Malformed(format!("not a dealrank model: {e}")))?;
        if head.format.as_deref() != Some(FORMAT) {
            return Err(Error::Malformed(format!(
                "not a dealrank model: its `format` is not `{FORMAT}`"
            )));
        }
        if head.format_version != Some(FORMAT_VERSION) {
            return Err(Error::Malformed(format!(
                "this model has format {}, and this dealrank reads format {FORMAT_VERSION}",
                head.format_version.map_or("none".into(), |v| v.to_string())
            )));
        }
        let reader = &mut serde_json::Deserializer::from_str(text);
        let model: Self = serde_path_to_error::deserialize(reader)
            .map_err(|e| Error::Malformed(format!("a damaged model, at `{}`: {e}", e.path())))?;
        model.check()?;
        Ok(model)
    }

    fn check(&self) -> Result<()> {
        let damaged = |what: &str| Err(Error::Malformed(format!("a damaged model: {what}")));
        if self.version != self.computed_version() {
            return damaged(
                "its content does not match its version; it was changed after training",
            );
        }
        let finite = |numbers: &[f64]| numbers.iter().all(|n| n.is_finite());
        if !finite(&[self.intercept]) || !self.columns.iter().all(|c| finite(&c.numbers())) {
            return damaged("a coefficient is not a finite number");
        }
        let is_variance = |variance: f64| variance.is_finite() && variance >= 0.0;
        // Scoring counts on all of them: nothing it is given may make it fail.
        if self.intercept.abs() > INTERCEPT_MAX
            || !self.training.disagreement_later.is_none_or(is_variance)
            || !self.training.disagreement.is_none_or(is_variance)
            || !self.training.doubts.as_ref().is_none_or(Doubts::is_sound)
            || !self.columns.iter().all(Column::is_sound)
        {
            return damaged("a number is beyond what training can give");
        }
        let names: HashSet<&str> = self.columns.iter().map(|c| c.name.as_str()).collect();
        if names.len() < self.columns.len() {
            return damaged("two columns have the same name");
        }
        if !self.crosses.iter().all(|cross| self.is_sound_cross(cross)) {
            return damaged("a cross does not fit its columns");
        }
        if !self.calibration.iter().all(Calibration::is_sound) {
            return damaged("its calibration is beyond what training can give");
        }
        if !self.covariance.holds(self.width() + 1) {
            return damaged("its covariance does not fit its columns");
        }
        Ok(())
    }

    /// `20260131T120000Z-` and the first twelve hex digits of the SHA-256 of the model without version.
    fn computed_version(&self) -> String {
        let unnamed = Self {
            version: String::new(),
            ..self.clone()
        };
        let digest = Sha256::digest(unnamed.to_json());
        let hex: String = digest[..6].iter().map(|b| format!("{b:02x}")).collect();
        let utc = TimeZone::UTC.to_datetime(self.trained_at);
        format!("{}-{hex}", utc.strftime("%Y%m%dT%H%M%SZ"))
    }
}

#[derive(Deserialize)]
struct Head {
    format: Option<String>,
    format_version: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variance_is_the_quadratic_form() {
        let factor = [[2.0, 0.5], [0.5, 1.0], [0.0, -0.25]];
        let covariance = Covariance::new(factor.iter().map(|row| row.to_vec()));
        let x = [1.0, -2.0, 1.0];
        let sums = [0, 1].map(|c| (0..3).map(|r| x[r] * factor[r][c]).sum::<f64>());
        let expected = sums[0] * sums[0] + sums[1] * sums[1];
        let variance = covariance.variance(&[2, 0], &[(1, -2.0)]);
        assert!((variance / expected - 1.0).abs() < 1e-3, "{variance}");
        assert!((covariance.standard_error(2) - 0.25).abs() < 1e-4);
        let text = CovarianceText::from(covariance.clone());
        assert_eq!(Covariance::try_from(text), Ok(covariance));
    }

    #[test]
    fn foreign_files_are_told_apart() {
        let reason = |text: &str| Model::from_json(text).unwrap_err().to_string();
        assert!(reason("").contains("not a dealrank model"));
        assert!(reason("[1, 2]").contains("not a dealrank model"));
        assert!(reason("{\"learner\": \"xgboost\"}").contains("`format` is not"));
        assert!(reason(r#"{"format":"dealrank-model","format_version":9}"#).contains("format 9"));
        let bare = r#"{"format":"dealrank-model","format_version":1}"#;
        assert!(reason(bare).contains("damaged"));
    }
}
