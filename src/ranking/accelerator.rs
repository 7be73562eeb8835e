use jiff::Timestamp;
use serde::Serialize;

use super::redis::RedisSettings;
use crate::error::Result;

/// Holds the order by expected value, so that the commonest pages need no sorting.
#[derive(Debug)]
pub enum Accelerator {
    Memory,
    Redis,
}

impl Accelerator {
    /// In this process; nothing to install.
    pub fn memory() -> Self {
        Self::Memory
    }

    /// In Redis. Does not connect yet: a Redis that is down at the start heals like any other.
    ///
    /// # Errors
    /// `Invalid` when the URL cannot be read.
    pub fn redis(settings: RedisSettings) -> Result<Self> {
        let _ = settings;
        todo!("store")
    }
}

/// How the accelerator is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AcceleratorHealth {
    /// No Redis is configured; rankings are kept in process.
    Disabled,
    Up,
    /// Redis answers again and the rankings are being rebuilt; the store answers meanwhile.
    Healing,
    /// The store answers.
    Down,
}

#[allow(dead_code)]
type RebuiltAt = Option<Timestamp>;
