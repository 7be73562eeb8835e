//! A trained model as a value, and as one readable JSON file.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// See `training` for how one is made and `scoring` for its use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Time of training and a hash of the content.
    pub version: String,
    pub trained_at: Timestamp,
}

impl Model {
    /// # Errors
    /// When the text is not JSON, not a dealrank model, of a newer format, or damaged.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let _ = text;
        todo!("learning")
    }

    pub fn to_json(&self) -> String {
        todo!("learning")
    }
}
