//! The truth: deals, what was received of them, the ledger of their scores, models and jobs, in one
//! SQLite file.

mod jobs;
mod models;

use std::path::Path;

use jiff::Timestamp;

use crate::domain::{Deal, DealId};
use crate::error::Result;
use crate::scoring::Score;

pub use jobs::{Job, JobState};
pub use models::ModelSummary;

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {}

/// A deal as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredDeal {
    pub deal: Deal,
    /// From the global sequence; grows with every change of any deal.
    pub revision: i64,
    pub updated_at: Timestamp,
}

/// One score in a deal's history.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerEntry {
    /// From the global sequence; later entries have larger ones.
    pub seq: i64,
    /// What made the deal be scored: `put`, `patch`, `events`, `import`, `activation`, `refresh`.
    pub cause: String,
    /// Whether it is the deal's present score.
    pub is_current: bool,
    pub score: Score,
}

/// Which deals to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    Open,
    Closed,
}

impl Store {
    /// Opens the file, or makes it, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, is no database, or was written by a newer dealrank.
    pub async fn open(path: &Path) -> Result<Self> {
        let _ = path;
        todo!("store")
    }

    /// # Errors
    /// When the store does not answer.
    pub async fn ping(&self) -> Result<()> {
        todo!("store")
    }

    pub async fn deal(&self, id: &DealId) -> Result<Option<StoredDeal>> {
        let _ = id;
        todo!("store")
    }

    /// Deals with ids after `after`, by id: a stream in pages, so that not all are in memory at once.
    pub async fn deals(
        &self,
        which: Which,
        after: Option<&DealId>,
        limit: u32,
    ) -> Result<Vec<StoredDeal>> {
        let _ = (which, after, limit);
        todo!("store")
    }

    pub async fn count_deals(&self, which: Which) -> Result<u64> {
        let _ = which;
        todo!("store")
    }
}
