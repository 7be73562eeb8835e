//! The one way to score: a model, a deal, a moment.

mod inputs;
mod moved;

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::columns::{Column, ColumnReader, Encoded, Encoder, Oddity, Treatment, rounded};
use crate::crosses::Cross;
use crate::domain::{Currency, Deal, DealId, Exchange, LogOdds, Probability, Snapshot};
use crate::error::Result;
use crate::features::Reading;
use crate::learning::design::NO_LEVEL;
use crate::model::Model;

pub use moved::{Moved, moved};

/// Probability that an interval holds the true probability.
pub const INTERVAL_LEVEL: f64 = 0.9;
/// 95th percentile of the standard normal distribution: both sides of the level.
pub(crate) const INTERVAL_Z: f64 = 1.644_853_626_951_472_2;
/// Half of a cross that is worth a word in a reason: a tenth of the odds.
const TOGETHER_MIN: f64 = 0.0953;
/// Contributions are multiples of 2^-40 (about 1e-12), so that their sums are exact in f64 and do
/// not depend on the order, as long as they stay below 2^13: real log-odds stay below 2^5.
const CONTRIBUTION_UNIT: f64 = 1.0 / (1u64 << 40) as f64;
/// Larger contributions would be nonsense, and would leave the exact range.
const CONTRIBUTION_MAX: f64 = 50.0;
/// Won deals, and lost deals, that a model must have seen, and those of a pipeline. Below it scores
/// say `insufficient_history`; below it in all, the fit is held closer to the base rate as well.
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
    crosses: Arc<Vec<ReadyCross>>,
    intercept: f64,
}

#[derive(Debug)]
struct ReadyColumn {
    reader: ColumnReader,
    encoder: Encoder,
    /// First column in the model's design.
    offset: usize,
}

/// Two columns that weigh together.
#[derive(Debug)]
struct ReadyCross {
    left: usize,
    right: usize,
    right_levels: u32,
    /// By pair of levels: half of the weight, which each of the columns has, and the cell's place in
    /// the design, if it has one.
    cells: Vec<(f64, Option<u32>)>,
}

impl ReadyCross {
    /// `offset` is the place of the first cell in the design.
    fn new(cross: &Cross, left: usize, right: usize, offset: usize) -> Self {
        let halves = cross
            .table()
            .into_iter()
            .map(|weight| to_unit((0.5 * weight).clamp(-CONTRIBUTION_MAX, CONTRIBUTION_MAX)));
        let mut cells: Vec<(f64, Option<u32>)> = halves.map(|half| (half, None)).collect();
        let right_levels = cross.right_means.len();
        for (index, cell) in cross.cells.iter().enumerate() {
            let pair = cell.left as usize * right_levels + cell.right as usize;
            cells[pair].1 = Some((offset + index) as u32);
        }
        Self {
            left,
            right,
            right_levels: right_levels as u32,
            cells,
        }
    }

    /// What the pair weighs for each of its columns, and its place; nothing where one has no level.
    fn at(&self, encoded: &[Encoded]) -> (f64, Option<u32>) {
        let (left, right) = (encoded[self.left].code, encoded[self.right].code);
        if left == NO_LEVEL || right == NO_LEVEL {
            return (0.0, None);
        }
        self.cells[(left * self.right_levels + right) as usize]
    }
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
        let mut crosses = Vec::with_capacity(model.crosses.len());
        for cross in &model.crosses {
            // A model whose crosses do not fit its columns cannot be read in the first place.
            if let (Some(left), Some(right)) =
                (model.column(&cross.left), model.column(&cross.right))
            {
                crosses.push(ReadyCross::new(cross, left, right, offset));
            }
            offset += cross.cells.len();
        }
        Ok(Self {
            intercept: to_unit(model.intercept),
            columns: Arc::new(columns),
            crosses: Arc::new(crosses),
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

    /// The value of each column, read and encoded.
    fn readings<'a>(&'a self, snapshot: &Snapshot<'a>) -> (Vec<Reading<'a>>, Vec<Encoded>) {
        let columns = self.model.columns.iter().zip(self.columns.iter());
        columns
            .map(|(column, ready)| {
                let reading = ready.reader.read(snapshot, &self.model.exchange);
                let encoded = ready.encoder.encode(column, &reading);
                (reading, encoded)
            })
            .unzip()
    }

    /// The uncalibrated log-odds of a snapshot, without reasons: what [`Self::score`] starts from.
    pub fn log_odds(&self, snapshot: &Snapshot) -> f64 {
        let (_, encoded) = self.readings(snapshot);
        let columns = self.model.columns.iter().zip(&encoded);
        let alone: f64 = columns
            .map(|(column, encoded)| contribution(column, *encoded))
            .sum();
        let together: f64 = self
            .crosses
            .iter()
            .map(|cross| 2.0 * cross.at(&encoded).0)
            .sum();
        self.intercept + alone + together
    }

    /// The probability that [`Self::score`] gives a deal that is known like this.
    pub fn win_probability(&self, snapshot: &Snapshot) -> Probability {
        probability(self.calibrated_log_odds(snapshot))
    }

    /// The calibrated log-odds of a snapshot, without reasons: those of [`Self::score`].
    pub fn calibrated_log_odds(&self, snapshot: &Snapshot) -> f64 {
        let scaling = self.model.scaling(snapshot);
        scaling.apply(self.log_odds(snapshot))
    }

    /// Scores a deal as known at `at`. Never fails: what cannot be read becomes a warning.
    pub fn score(&self, deal: &Deal, at: Timestamp) -> Score {
        let snapshot = Snapshot::at(deal, at);
        let (readings, encoded) = self.readings(&snapshot);
        let mut warnings: Vec<Warning> = self.history_warning(&snapshot).into_iter().collect();
        let mut contributions: Vec<Contribution> = Vec::with_capacity(encoded.len());
        // The deal's row in the design, uncentered as the covariance is; the intercept comes last.
        let (mut ones, mut numbers) = (vec![self.model.width()], Vec::new());
        let mut unknown = 0.0;
        for ((column, ready), (reading, &encoded)) in (self.model.columns.iter())
            .zip(self.columns.iter())
            .zip(readings.iter().zip(&encoded))
        {
            contributions.push(Contribution::alone(contribution(column, encoded)));
            unknown += column.unknown_variance(encoded);
            let first_level = ready.offset + column.lines();
            if encoded.code != NO_LEVEL {
                ones.push(first_level + encoded.code as usize);
            }
            if encoded.bend != 0.0 {
                numbers.push((ready.offset + 1, encoded.bend));
            }
            if encoded.number != 0.0 {
                numbers.push((ready.offset, encoded.number));
            }
            warnings.extend(oddity_warning(column, reading, encoded));
        }
        for cross in self.crosses.iter() {
            let (half, place) = cross.at(&encoded);
            contributions[cross.left].add_half(half, cross.right);
            contributions[cross.right].add_half(half, cross.left);
            ones.extend(place.map(|place| place as usize));
        }
        let log_odds = self.intercept + contributions.iter().map(|c| c.total).sum::<f64>();
        let reasons = self.reasons(&readings, &encoded, &contributions);
        let scaling = self.model.scaling(&snapshot);
        let variance = self.model.covariance.variance(&ones, &numbers) + unknown;
        let (below, above) = self.model.margins(&snapshot, log_odds, variance);
        let calibrated = scaling.apply(log_odds);
        let probability = probability(calibrated);
        let (expected_value, value_warning) = self.expected_value(&snapshot, probability);
        warnings.extend(value_warning);
        Score {
            deal_id: deal.id.clone(),
            win_probability: probability,
            interval: Interval {
                level: INTERVAL_LEVEL,
                low: self::probability(calibrated - below),
                high: self::probability(calibrated + above),
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

    /// By falling absolute contribution, without those of zero.
    fn reasons(
        &self,
        readings: &[Reading],
        encoded: &[Encoded],
        contributions: &[Contribution],
    ) -> Vec<Reason> {
        let columns = &self.model.columns;
        let mut reasons: Vec<Reason> = (columns.iter().zip(readings).zip(contributions))
            .filter(|(_, contribution)| contribution.total != 0.0)
            .map(|((column, reading), contribution)| {
                let mut reason = reason(column, reading, contribution.total);
                if let Some((half, partner)) = contribution.strongest
                    && half.abs() >= TOGETHER_MIN
                {
                    let partner_name = &columns[partner].name;
                    let level = columns[partner].level_text(encoded[partner].code);
                    reason.text +=
                        &format!(", {} of it because {partner_name} {level}", odds_text(half));
                }
                reason
            })
            .collect();
        reasons.sort_by(|a, b| {
            let by_size = b.contribution.abs().total_cmp(&a.contribution.abs());
            by_size.then_with(|| a.feature.cmp(&b.feature))
        });
        reasons
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

    /// Too few deals of the past, in all or in the deal's pipeline.
    fn history_warning(&self, snapshot: &Snapshot) -> Option<Warning> {
        let training = &self.model.training;
        let warning = |field: Option<&str>, detail: String| {
            Some(Warning {
                code: "insufficient_history".into(),
                field: field.map(Into::into),
                detail,
            })
        };
        if training.won_deals.min(training.lost_deals) < HISTORY_MIN {
            let detail = format!(
                "the model has seen {} won and {} lost deals; below {HISTORY_MIN} of each, probabilities are little more than the base rate",
                training.won_deals, training.lost_deals
            );
            return warning(None, detail);
        }
        if training.pipelines.is_empty() {
            return None;
        }
        let pipeline = snapshot.pipeline().map(str::trim);
        let known = training.pipelines.iter();
        let known = known.filter(|known| known.pipeline.as_deref() == pipeline);
        let (won, lost) = known.fold((0, 0), |(won, lost), known| {
            (won + known.won_deals, lost + known.lost_deals)
        });
        if won.min(lost) >= HISTORY_MIN {
            return None;
        }
        let where_to = pipeline.map_or("without a pipeline".into(), |p| format!("of `{p}`"));
        let detail = format!(
            "the model has seen {won} won and {lost} lost deals {where_to}; below {HISTORY_MIN} of each, the probability borrows from the whole"
        );
        warning(Some("pipeline"), detail)
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

/// What a column adds to the log-odds: by itself, and its halves of what it says together with others.
#[derive(Clone, Copy)]
struct Contribution {
    total: f64,
    /// The half of the largest cross, and the other column.
    strongest: Option<(f64, usize)>,
}

impl Contribution {
    fn alone(total: f64) -> Self {
        Self {
            total,
            strongest: None,
        }
    }

    fn add_half(&mut self, half: f64, partner: usize) {
        self.total += half;
        if self
            .strongest
            .is_none_or(|(largest, _)| half.abs() > largest.abs())
        {
            self.strongest = Some((half, partner));
        }
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
    let effect = odds_text(contribution);
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

fn odds_text(contribution: f64) -> String {
    let factor = contribution.abs().exp();
    if contribution >= 0.0 {
        format!("odds x {factor:.2}")
    } else {
        format!("odds / {factor:.2}")
    }
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
        (Oddity::AboveRange, ..) if column.is_trend() => return None,
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
