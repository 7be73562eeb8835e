//! A trained model as a value, and as one readable JSON file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::columns::Column;
use crate::domain::{Exchange, Probability};
use crate::error::{Error, Result};
use crate::evaluation::Evaluation;
use crate::ingest::Mapping;

/// What every model file says first.
const FORMAT: &str = "dealrank-model";
const FORMAT_VERSION: u32 = 1;
/// No history gives odds of e^50; contributions have the same limit.
const INTERCEPT_MAX: f64 = 50.0;

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
    /// Lower bounds of the grades A, B and C: quartiles of the training rows' probabilities.
    pub grades: [Probability; 3],
    /// Log-odds of the average deal: the coefficient of the intercept plus all centers.
    pub intercept: f64,
    pub columns: Vec<Column>,
    pub dropped: Vec<Dropped>,
    /// Missing tokens, aliases, types and column names, as given for training.
    pub mapping: Mapping,
    /// Rates for the amount as a feature. Expected values use the rates of the service.
    pub exchange: Exchange,
    /// Covariance of the coefficients in the order of the columns' design, the intercept last:
    /// lower triangle by rows, little-endian f32 in base64.
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
    /// Weight of half the squared norm against the summed log loss, from cross-validation.
    pub alpha: f64,
    /// Whether linfa checked the optimum.
    pub is_confirmed_by_linfa: bool,
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

/// A symmetric matrix, kept as its lower triangle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Covariance {
    /// Row after row, up to the diagonal.
    triangle: Vec<f32>,
}

impl Covariance {
    /// From the entries `(row, column)` with `column <= row < size`.
    pub fn from_fn(size: usize, entry: impl Fn(usize, usize) -> f64) -> Self {
        let rows = (0..size).flat_map(|r| (0..=r).map(move |c| (r, c)));
        Self {
            triangle: rows.map(|(r, c)| entry(r, c) as f32).collect(),
        }
    }

    fn holds(&self, size: usize) -> bool {
        self.triangle.len() == size * (size + 1) / 2 && self.triangle.iter().all(|v| v.is_finite())
    }

    /// `x' C x` for a vector given by its non-zero entries.
    pub fn variance(&self, entries: &[(usize, f64)]) -> f64 {
        let mut sum = 0.0;
        for (index, &(i, x)) in entries.iter().enumerate() {
            for &(j, z) in &entries[..index] {
                sum += 2.0 * x * z * self.at(i, j);
            }
            sum += x * x * self.at(i, i);
        }
        sum.max(0.0)
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        let (row, column) = (i.max(j), i.min(j));
        f64::from(self.triangle[row * (row + 1) / 2 + column])
    }
}

impl TryFrom<String> for Covariance {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = BASE64
            .decode(text)
            .map_err(|e| format!("covariance: {e}"))?;
        let (numbers, []) = bytes.as_chunks::<4>() else {
            return Err("covariance: not a whole number of f32".into());
        };
        Ok(Self {
            triangle: numbers.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        })
    }
}

impl From<Covariance> for String {
    fn from(covariance: Covariance) -> String {
        let bytes: Vec<u8> = covariance
            .triangle
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        BASE64.encode(bytes)
    }
}

/// The parts of a model that training finds.
pub struct ModelParts {
    pub trained_at: Timestamp,
    pub training: Training,
    pub report: Report,
    pub grades: [Probability; 3],
    pub intercept: f64,
    pub columns: Vec<Column>,
    pub dropped: Vec<Dropped>,
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
            grades: parts.grades,
            intercept: parts.intercept,
            columns: parts.columns,
            dropped: parts.dropped,
            mapping: parts.mapping,
            exchange: parts.exchange,
            covariance: parts.covariance,
        };
        model.version = model.computed_version();
        model
    }

    /// Columns of the design without the intercept.
    pub fn width(&self) -> usize {
        self.columns.iter().map(Column::width).sum()
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
        // Scoring counts on both: nothing it is given may make it fail.
        if self.intercept.abs() > INTERCEPT_MAX || !self.columns.iter().all(Column::is_sound) {
            return damaged("a number is beyond what training can give");
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
        let matrix = [[2.0, 0.5, 0.0], [0.5, 1.0, -0.25], [0.0, -0.25, 4.0]];
        let covariance = Covariance::from_fn(3, |r, c| matrix[r][c]);
        let x = [1.0, -2.0, 3.0];
        let mut expected = 0.0;
        for r in 0..3 {
            for c in 0..3 {
                expected += x[r] * matrix[r][c] * x[c];
            }
        }
        let entries = [(2, 3.0), (0, 1.0), (1, -2.0)];
        assert_eq!(covariance.variance(&entries), expected);
        let text = String::from(covariance.clone());
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
