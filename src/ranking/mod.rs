//! Open deals in order of worth: what can be asked, how pages follow each other, and the
//! accelerator that answers the commonest questions without the store.
//!
//! The store's ledger is the truth and can answer everything. An [`Accelerator`] holds the order by
//! expected value (of all deals, of each owner, of each pipeline), in process or in Redis, and says
//! "not me" whenever it is not sure: answers get slower, never different.

mod accelerator;
mod cursor;
mod memory;
mod order;
mod query;
mod redis;

pub use accelerator::{Accelerator, AcceleratorHealth};
pub(crate) use accelerator::{Change, Draft, Keys, Moment};
pub(crate) use cursor::Position;
pub(crate) use order::{Member, View};
pub use query::{
    DealSummary, PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX, RankingPage, RankingQuery, RankingRow, Sort,
};
pub use redis::{CacheStatus, RedisSettings};
pub(crate) use redis::{Gap, Mark, RedisRanking};
