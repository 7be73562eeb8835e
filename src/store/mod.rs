//! The truth: deals, what was received of them, the ledger of their scores, models and jobs, in one
//! SQLite file.
//!
//! One connection writes and several read. A commit is on the disk before it is acknowledged
//! (write-ahead log, `synchronous = FULL`): it survives `kill -9` and a power cut. All SQL is in this
//! folder.

mod activations;
mod deals;
mod generations;
mod jobs;
mod ledger;
mod models;
mod pages;
mod retention;
mod shadow;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{SqliteConnection, Transaction};

use crate::error::{Error, Result};

pub use activations::{Activation, ActivationCause};
pub(crate) use deals::{Before, DealWrite, LoggedEvent, ScoreWrite};
pub use deals::{StoredDeal, StoredEvent, Which};
pub use jobs::{Job, JobState};
pub use ledger::LedgerEntry;
pub use models::ModelSummary;
pub(crate) use pages::PageRequest;
pub use retention::Pruned;
pub use shadow::ShadowOutcomes;
pub(crate) use shadow::ShadowScore;

/// Connections that read; SQLite readers do not wait for the writer.
const READERS_MAX: u32 = 4;
/// How long a statement waits for a lock that another process holds, a backup say.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows of one INSERT: far below SQLite's 32,766 parameters, enough to make the round trips cheap.
const INSERT_ROWS_MAX: usize = 100;

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    id: String,
}

impl Store {
    /// Opens the file, or makes it, and brings its tables up to date.
    ///
    /// # Errors
    /// When the file cannot be opened, is no database, or was written by a newer dealrank.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let store = async {
            let writer = pool(1).connect_with(options.clone()).await?;
            sqlx::migrate!("migrations/sqlite").run(&writer).await?;
            let readers = pool(READERS_MAX)
                .connect_with(options.pragma("query_only", "on"))
                .await?;
            let id = store_id(&writer).await?;
            anyhow::Ok(Self {
                writer,
                readers,
                id,
            })
        };
        Ok(store
            .await
            .with_context(|| format!("cannot open the store {}", path.display()))?)
    }

    /// Names this store where several share something, Redis say. Made once, with the file.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// # Errors
    /// When the store does not answer.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    /// Ends all connections, so that another process finds everything in the one file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A transaction that writes. Taking the lock at once avoids a deadlock between two that both
    /// read first.
    async fn write(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// A transaction that reads: all its statements see the same moment.
    async fn read(&self) -> Result<Transaction<'static, Sqlite>> {
        Ok(self.readers.begin().await?)
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(connections)
        .idle_timeout(None)
        .max_lifetime(None)
}

async fn store_id(writer: &SqlitePool) -> Result<String, sqlx::Error> {
    sqlx::query(
        "INSERT INTO settings (name, value) VALUES ('store_id', $1) ON CONFLICT DO NOTHING",
    )
    .bind(random_id())
    .execute(writer)
    .await?;
    sqlx::query_scalar("SELECT value FROM settings WHERE name = 'store_id'")
        .fetch_one(writer)
        .await
}

/// Sixteen hexadecimal digits.
pub(crate) fn random_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Takes `count` numbers from the global sequence and returns the last one.
///
/// There is one writer, so numbers become visible in the order in which they are taken.
async fn take_seqs(connection: &mut SqliteConnection, count: usize) -> Result<i64> {
    let count = i64::try_from(count).context("a batch is far smaller than the sequence")?;
    Ok(
        sqlx::query_scalar("UPDATE sequence SET value = value + $1 RETURNING value")
            .bind(count)
            .fetch_one(connection)
            .await?,
    )
}

async fn current_seq(connection: &mut SqliteConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT value FROM sequence")
        .fetch_one(connection)
        .await?)
}

/// A time as the store keeps it.
fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

fn timestamp(micros: i64) -> Result<Timestamp> {
    Ok(Timestamp::from_microsecond(micros).context("a time in the store is out of range")?)
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Internal(anyhow::Error::new(error).context("the store failed"))
    }
}
