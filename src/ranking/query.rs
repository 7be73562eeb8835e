//! What can be asked of a ranking, and what comes back.

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::domain::{Currency, DealId};
use crate::error::{FieldError, Result};
use crate::scoring::{Grade, Score};

/// Most rows of a page.
pub const PAGE_ROWS_MAX: u32 = 200;
/// Rows of a page when nothing is said.
pub const PAGE_ROWS_DEFAULT: u32 = 50;

/// The order of a ranking: largest first, unknown last, ties by deal id ascending.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Sort {
    /// Win probability x amount, in the base currency.
    #[default]
    ExpectedValue,
    WinProbability,
    /// The amount in the base currency.
    Amount,
    /// Expected value / days until the expected close, at least 1; unknown without a date.
    EvPerDay,
    /// Expected value x whole days since the last activity, or since the creation.
    Neglect,
}

/// One question; all filters must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankingQuery {
    pub sort: Sort,
    pub owner: Option<String>,
    pub pipeline: Option<String>,
    pub stage: Option<String>,
    pub grade: Option<Grade>,
    /// Only deals of at least this amount in the base currency; deals without an amount are left out.
    pub min_amount: Option<f64>,
    /// Only deals that have been in their stage for more than the configured number of days.
    pub stalled: bool,
    /// Rows of a page: 1 to [`PAGE_ROWS_MAX`].
    pub limit: u32,
}

impl Default for RankingQuery {
    fn default() -> Self {
        Self {
            sort: Sort::default(),
            owner: None,
            pipeline: None,
            stage: None,
            grade: None,
            min_amount: None,
            stalled: false,
            limit: PAGE_ROWS_DEFAULT,
        }
    }
}

impl RankingQuery {
    /// # Errors
    /// `Invalid` with an entry for each field out of range.
    pub fn check(&self) -> Result<()> {
        let mut errors = Vec::new();
        if !(1..=PAGE_ROWS_MAX).contains(&self.limit) {
            let reason = format!("must be 1 to {PAGE_ROWS_MAX}, but is {}", self.limit);
            errors.push(FieldError::new("limit", reason));
        }
        if let Some(amount) = self.min_amount
            && !(amount.is_finite() && amount >= 0.0)
        {
            let reason = format!("must be an amount of at least 0, but is {amount}");
            errors.push(FieldError::new("min_amount", reason));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.into())
        }
    }
}

/// A deal as its ranking knew it when it was scored.
#[derive(Debug, Clone, PartialEq)]
pub struct DealSummary {
    pub id: DealId,
    pub name: Option<String>,
    pub owner: Option<String>,
    pub pipeline: Option<String>,
    pub stage: Option<String>,
    pub amount: Option<Decimal>,
    pub currency: Option<Currency>,
    /// The amount in the base currency, at the rate of the day of scoring.
    pub base_amount: Option<f64>,
    pub created_at: Option<Timestamp>,
    pub stage_entered_at: Option<Timestamp>,
    pub expected_close_at: Option<Timestamp>,
    pub last_activity_at: Option<Timestamp>,
}

/// One line of a ranking.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingRow {
    pub deal: DealSummary,
    pub score: Score,
    /// Of what the score was computed from; `None` of scores that are older than such hashes.
    pub inputs_hash: Option<String>,
}

/// A page of a ranking. All rows are scored by one model version, and all pages reached through
/// `next_cursor` show the ranking as it stood at the first.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingPage {
    pub rows: Vec<RankingRow>,
    /// Opaque; `None` on the last page.
    pub next_cursor: Option<String>,
    pub model_version: String,
}
