//! The one way to score: a model, a deal, a moment.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::{Currency, Deal, DealId, Exchange, Probability};
use crate::model::Model;

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

/// A model with the rate table for expected values.
#[derive(Debug, Clone)]
pub struct Scorer {
    model: Arc<Model>,
    exchange: Arc<Exchange>,
}

impl Scorer {
    pub fn new(model: Arc<Model>, exchange: Arc<Exchange>) -> Self {
        Self { model, exchange }
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Scores a deal as known at `at`. Never fails: what cannot be read becomes a warning.
    pub fn score(&self, deal: &Deal, at: Timestamp) -> Score {
        let _ = (deal, at, &self.exchange);
        todo!("learning")
    }
}
