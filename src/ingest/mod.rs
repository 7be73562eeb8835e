//! From what a company has (CSV, NDJSON, JSON documents) to deals.

pub mod document;
pub mod mapping;
pub(crate) mod values;

pub use mapping::Mapping;
