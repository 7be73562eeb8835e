//! From what a company has (CSV, NDJSON, JSON documents) to deals.

pub mod document;
pub mod mapping;

pub use mapping::Mapping;
