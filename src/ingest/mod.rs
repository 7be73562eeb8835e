//! From what a company has (CSV, NDJSON, JSON documents) to deals.
//!
//! - [`document`]: the JSON deal document, read with all its errors and written back.
//! - [`mapping`]: the mapping file; [`guess`] makes one for a CSV that has none.
//! - [`deals`]: files to deals, row by row ([`DealsReader`]) or all at once ([`read_deals`]).
//! - [`events`]: the events file that may go with one.
//!
//! A bad row never ends an import: it becomes a [`Reject`] with its line, column and reason.

mod csv;
pub mod deals;
pub mod document;
pub mod events;
pub mod guess;
pub mod input;
mod join;
pub mod mapping;
mod ndjson;
pub mod reject;
mod spool;
mod table;
pub(crate) mod values;

pub use deals::{Deals, DealsReader, ReadOptions, read_deals};
pub use join::JOIN_ROWS_MAX;
pub use mapping::Mapping;
pub use ndjson::LINE_BYTES_MAX;
pub use reject::{Reject, RejectsWriter, rejects_path};
pub use table::{COLUMNS_MAX, ROW_BYTES_MAX};

use crate::domain::Deal;

/// What deals are read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The outcome is needed.
    Train,
    /// The outcome is never read; every deal is taken as open.
    Score,
    /// The outcome is read where there is one.
    Import,
}

/// One row of a file: a deal, or why it is none.
pub type Row = Result<Deal, Reject>;
