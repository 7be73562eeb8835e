//! The words of the trade as types: each is made by a fallible constructor and trusted ever after.
//!
//! Nothing here does I/O or reads a clock; time is always an argument.

pub mod deal;
pub mod money;
pub mod probability;
pub mod snapshot;
pub mod visits;

pub use deal::{Activity, AttributeValue, Deal, DealId, FieldChange, Outcome};
pub use money::{Currency, Exchange};
pub use probability::{LogOdds, Probability};
pub use snapshot::{Phase, Snapshot};
