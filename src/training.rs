//! From deals as they were to a model.

use jiff::Timestamp;

use crate::domain::{Deal, Exchange};
use crate::error::Result;
use crate::ingest::Mapping;
use crate::model::Model;
use crate::progress::OnProgress;

/// What training needs besides deals.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Nothing later than this is known to the model.
    pub as_of: Timestamp,
    /// Written into the model as its time of training.
    pub trained_at: Timestamp,
    /// Missing tokens, aliases, column types, ignored and protected columns; kept in the model.
    pub mapping: Mapping,
    /// Rates for the amount as a feature; kept in the model.
    pub exchange: Exchange,
}

/// Trains on the closed deals among `deals`; the open ones only inform warnings.
///
/// # Errors
/// `Unusable` when there are no closed deals, only wins, or only losses.
pub fn train(deals: &[Deal], options: &TrainOptions, on_progress: OnProgress) -> Result<Model> {
    let _ = (deals, options, on_progress);
    todo!("learning")
}
