//! The one way to score: a model, a deal, a moment.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::columns::{Column, ColumnReader, Encoded, Encoder, Oddity, Treatment};
use crate::domain::{Currency, Deal, DealId, Exchange, LogOdds, Probability, Snapshot};
use crate::error::Result;
use crate::features::Reading;
use crate::learning::design::NO_LEVEL;
use crate::model::Model;

/// Probability that an interval holds the true probability.
pub const INTERVAL_LEVEL: f64 = 0.9;
/// 95th percentile of the standard normal distribution: both sides of the level.
const INTERVAL_Z: f64 = 1.644_853_626_951_472_2;
/// Contributions are multiples of 2^-40 (about 1e-12), so that their sums are exact in f64 and do
/// not depend on the order, as long as they stay below 2^13: real log-odds stay below 2^5.
const CONTRIBUTION_UNIT: f64 = 1.0 / (1u64 << 40) as f64;
/// Larger contributions would be nonsense, and would leave the exact range.
const CONTRIBUTION_MAX: f64 = 50.0;
/// Won and lost deals below which every score says `insufficient_history`.
pub const HISTORY_MIN: usize = 30;

/// What a deal is worth at a moment, under one model, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub deal_id: DealId,
    pub win_probability: Probability,
    pub interval: Interval,
    /// 1 to 99: the probability in percent.
    pub score: u8,
    pub grade: Grade,
    /// In units of `currency`.
    pub amount: Option<f64>,
    pub currency: Option<Currency>,
    /// `win_probability` x amount in the base currency, rounded to hundredths.
    pub expected_value: Option<f64>,
    pub base_currency: Currency,
    pub model_version: String,
    pub scored_at: Timestamp,
    /// Log-odds of the average deal of the training rows.
    pub intercept: f64,
    /// Uncalibrated log-odds: the intercept plus all contributions, exactly, in any order.
    pub log_odds: f64,
    /// By falling absolute contribution; contributions of zero are left out.
    pub reasons: Vec<Reason>,
    pub warnings: Vec<Warning>,
}

/// A range that holds the true probability with probability `level`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub level: f64,
    pub low: Probability,
    pub high: Probability,
}

/// Quarter of the training deals that the probability falls in; A is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Grade {
    A,
    B,
    C,
    D,
}

impl Grade {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::D => "D",
        }
    }
}

/// What one column adds to the log-odds, against the average deal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub feature: String,
    /// The value as it was read: a number, a text, a boolean, or null when missing.
    pub value: serde_json::Value,
    /// Log-odds.
    pub contribution: f64,
    pub text: String,
}

/// Something to know before trusting a score. Codes are stable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warning {
    pub code: String,
    pub field: Option<String>,
    pub detail: String,
}

/// A model made ready for scoring, with the rate table for expected values.
#[derive(Debug, Clone)]
pub struct Scorer {
    model: Arc<Model>,
    exchange: Arc<Exchange>,
    columns: Arc<Vec<ReadyColumn>>,
    intercept: f64,
}

#[derive(Debug)]
struct ReadyColumn {
    reader: ColumnReader,
    encoder: Encoder,
    /// First column in the model's design.
    offset: usize,
}

impl Scorer {
    /// # Errors
    /// `Malformed` when the model names a feature that this version does not know.
    pub fn new(model: Arc<Model>, exchange: Arc<Exchange>) -> Result<Self> {
        let mut columns = Vec::with_capacity(model.columns.len());
        let mut offset = 0;
        for column in &model.columns {
            columns.push(ReadyColumn {
                reader: ColumnReader::new(&column.source, column.holds, &model.mapping)?,
                encoder: Encoder::new(column),
                offset,
            });
            offset += column.width();
        }
        Ok(Self {
            intercept: to_unit(model.intercept),
            columns: Arc::new(columns),
            model,
            exchange,
        })
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// The uncalibrated log-odds of a snapshot, without reasons: what [`Self::score`] starts from.
    pub fn log_odds(&self, snapshot: &Snapshot) -> f64 {
        let contributions = self.model.columns.iter().zip(self.columns.iter());
        contributions
            .map(|(column, ready)| {
                let reading = ready.reader.read(snapshot, &self.model.exchange);
                contribution(column, ready.encoder.encode(column, &reading))
            })
            .fold(self.intercept, |sum, c| sum + c)
    }

    /// Scores a deal as known at `at`. Never fails: what cannot be read becomes a warning.
    pub fn score(&self, deal: &Deal, at: Timestamp) -> Score {
        let snapshot = Snapshot::at(deal, at);
        let mut reasons = Vec::new();
        let mut warnings = self.history_warning();
        let mut log_odds = self.intercept;
        // Non-zero entries of the deal's row in the design; the intercept is its last column.
        let mut entries = vec![(self.model.width(), 1.0)];
        for (column, ready) in self.model.columns.iter().zip(self.columns.iter()) {
            let reading = ready.reader.read(&snapshot, &self.model.exchange);
            let encoded = ready.encoder.encode(column, &reading);
            let contribution = contribution(column, encoded);
            log_odds += contribution;
            entries.extend(ready.entries(column, encoded));
            warnings.extend(oddity_warning(column, &reading, encoded));
            if contribution != 0.0 {
                reasons.push(reason(column, &reading, contribution));
            }
        }
        reasons.sort_by(|a, b| {
            let by_size = b.contribution.abs().total_cmp(&a.contribution.abs());
            by_size.then_with(|| a.feature.cmp(&b.feature))
        });
        let probability = probability(log_odds);
        let margin = INTERVAL_Z * self.model.covariance.variance(&entries).sqrt();
        let (expected_value, value_warning) = self.expected_value(&snapshot, probability);
        warnings.extend(value_warning);
        Score {
            deal_id: deal.id.clone(),
            win_probability: probability,
            interval: Interval {
                level: INTERVAL_LEVEL,
                low: self::probability(log_odds - margin),
                high: self::probability(log_odds + margin),
            },
            score: (100.0 * probability.get()).round().clamp(1.0, 99.0) as u8,
            grade: self.grade(probability),
            amount: snapshot.amount().and_then(|a| a.to_f64()),
            currency: snapshot.currency(),
            expected_value,
            base_currency: self.exchange.base(),
            model_version: self.model.version.clone(),
            scored_at: at,
            intercept: self.intercept,
            log_odds,
            reasons,
            warnings,
        }
    }

    fn grade(&self, probability: Probability) -> Grade {
        let [a, b, c] = self.model.grades;
        match probability {
            p if p >= a => Grade::A,
            p if p >= b => Grade::B,
            p if p >= c => Grade::C,
            _ => Grade::D,
        }
    }

    fn history_warning(&self) -> Vec<Warning> {
        let training = &self.model.training;
        if training.won_deals.min(training.lost_deals) >= HISTORY_MIN {
            return Vec::new();
        }
        vec![Warning {
            code: "insufficient_history".into(),
            field: None,
            detail: format!(
                "the model has seen {} won and {} lost deals; below {HISTORY_MIN} of each, probabilities are little more than the base rate",
                training.won_deals, training.lost_deals
            ),
        }]
    }

    /// Probability x amount in the base currency, to hundredths; `None` with a warning where there is
    /// no amount or no rate.
    fn expected_value(
        &self,
        snapshot: &Snapshot,
        probability: Probability,
    ) -> (Option<f64>, Option<Warning>) {
        let warning = |code: &str, field: &str, detail: String| {
            let (code, field) = (code.to_owned(), Some(field.to_owned()));
            (
                None,
                Some(Warning {
                    code,
                    field,
                    detail,
                }),
            )
        };
        let Some(amount) = snapshot.amount() else {
            let detail = "without an amount there is no expected value; the deal ranks last";
            return warning("no_amount", "amount", detail.into());
        };
        let day = TimeZone::UTC.to_datetime(snapshot.moment()).date();
        match self.exchange.to_base(amount, snapshot.currency(), day) {
            Some(amount) => {
                let value = (probability.get() * amount * 100.0).round() / 100.0;
                (Some(value), None)
            }
            None => {
                let currency = snapshot.currency().unwrap_or(self.exchange.base());
                let base = self.exchange.base();
                let detail = format!(
                    "no rate from {currency} to {base} on {day}; the settings' [exchange] has base and rates"
                );
                warning("no_rate", "currency", detail)
            }
        }
    }
}

impl ReadyColumn {
    /// The non-zero entries of the design row, uncentered as the covariance is.
    fn entries(&self, column: &Column, encoded: Encoded) -> impl Iterator<Item = (usize, f64)> {
        let first_code = match column.treatment {
            Treatment::Number(_) => self.offset + 1,
            Treatment::Category(_) => self.offset,
        };
        let number = (encoded.number != 0.0).then_some((self.offset, encoded.number));
        let level = (encoded.code != NO_LEVEL).then(|| (first_code + encoded.code as usize, 1.0));
        number.into_iter().chain(level)
    }
}

fn to_unit(x: f64) -> f64 {
    (x / CONTRIBUTION_UNIT).round() * CONTRIBUTION_UNIT
}

/// What a value adds to the log-odds of the average deal.
fn contribution(column: &Column, encoded: Encoded) -> f64 {
    let against_average = column.weight(encoded) - column.center;
    to_unit(against_average.clamp(-CONTRIBUTION_MAX, CONTRIBUTION_MAX))
}

fn probability(log_odds: f64) -> Probability {
    LogOdds::new(log_odds)
        .expect("a sum of bounded contributions is finite")
        .probability()
}

fn reason(column: &Column, reading: &Reading, contribution: f64) -> Reason {
    let factor = contribution.abs().exp();
    let effect = if contribution >= 0.0 {
        format!("odds x {factor:.2}")
    } else {
        format!("odds / {factor:.2}")
    };
    let shown = match reading {
        Reading::Missing => "is missing".to_owned(),
        Reading::Number(number) => format!("is {}", rounded(*number)),
        Reading::Text(text) => format!("is {text}"),
        Reading::Unreadable(text) => format!("is unreadable (`{text}`)"),
    };
    Reason {
        feature: column.name.clone(),
        value: match reading {
            Reading::Missing => Value::Null,
            Reading::Number(number) => Value::from(*number),
            Reading::Text(text) if column.holds == crate::ingest::mapping::ColumnType::Boolean => {
                Value::Bool(text == "true")
            }
            Reading::Text(text) | Reading::Unreadable(text) => Value::from(text.as_ref()),
        },
        contribution,
        text: format!("{} {shown}: {effect} against the average deal", column.name),
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

fn oddity_warning(column: &Column, reading: &Reading, encoded: Encoded) -> Option<Warning> {
    let name = &column.name;
    let (code, detail) = match (encoded.oddity?, reading, &column.treatment) {
        (Oddity::UnseenCategory, Reading::Text(text), Treatment::Category(t)) => {
            let weighs = if t.other.is_some() {
                "it weighs what rare values weigh"
            } else {
                "it weighs nothing"
            };
            let detail = format!("`{text}` was too rare or absent in training; {weighs}");
            ("unseen_category", detail)
        }
        (Oddity::BelowRange, Reading::Number(x), Treatment::Number(t)) => {
            let detail = format!(
                "{x} is below {}, the smallest seen in training; it weighs the same as that",
                t.low
            );
            ("out_of_range", detail)
        }
        (Oddity::AboveRange, Reading::Number(x), Treatment::Number(t)) => {
            let detail = format!(
                "{x} is above {}, the largest seen in training; it weighs the same as that",
                t.high
            );
            ("out_of_range", detail)
        }
        (Oddity::Unreadable, reading, _) => {
            let text = match reading {
                Reading::Text(text) | Reading::Unreadable(text) => text.as_ref(),
                Reading::Number(_) | Reading::Missing => "",
            };
            let detail = format!("`{text}` is not what {name} holds; taken as missing");
            ("unreadable_value", detail)
        }
        (Oddity::MissingUnseen, _, _) => {
            let detail = format!("{name} was hardly ever missing in training; it weighs nothing");
            ("missing_unseen", detail)
        }
        _ => return None,
    };
    Some(Warning {
        code: code.into(),
        field: Some(name.clone()),
        detail,
    })
}
