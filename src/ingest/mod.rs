//! From what a company has (CSV, NDJSON, JSON documents) to deals.

pub mod document;
pub mod input;
pub mod mapping;
pub mod reject;
pub mod table;
pub(crate) mod values;

pub use mapping::Mapping;
