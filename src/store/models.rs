//! The registry of models.

use jiff::Timestamp;

use super::Store;
use crate::error::Result;
use crate::model::Model;

/// A registered model without its content.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    pub version: String,
    /// Where it came from: `trained`, `shipped`, `imported`.
    pub origin: String,
    pub created_at: Timestamp,
    pub is_active: bool,
}

impl Store {
    /// Registers a model; registering the same one again changes nothing.
    pub async fn insert_model(&self, model: &Model, origin: &str, at: Timestamp) -> Result<()> {
        let _ = (model, origin, at);
        todo!("store")
    }

    /// All models, newest first.
    pub async fn models(&self) -> Result<Vec<ModelSummary>> {
        todo!("store")
    }

    /// # Errors
    /// `NotFound`; `Malformed` when the stored content is damaged.
    pub async fn model(&self, version: &str) -> Result<Model> {
        let _ = version;
        todo!("store")
    }
}
