//! The truth: deals, what was received of them, the ledger of their scores, models and jobs; in one
//! SQLite file of this process, or in a PostgreSQL that many processes share.
//!
//! A commit is on the disk before it is acknowledged: it survives `kill -9` and a power cut. In the file
//! (write-ahead log, `synchronous = FULL`) one connection writes and several read. In PostgreSQL writers
//! of all processes take their numbers from one row, which they hold until they have committed. All SQL
//! is in this folder; `engine` is where the two differ.

mod access;
mod activations;
mod deals;
mod engine;
mod following;
mod generations;
mod inbox;
mod jobs;
mod leases;
mod ledger;
mod location;
mod misprioritized;
mod models;
mod moving;
mod outbox;
mod pages;
mod retention;
mod shadow;
mod subscriptions;
mod surveying;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use sqlx::ConnectOptions;
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use tokio::sync::Notify;

use crate::error::Result;

pub use access::AccessKey;
pub use activations::{Activation, ActivationCause};
pub(crate) use deals::{Before, Commit, DealWrite, LoggedEvent, ScoreWrite};
pub use deals::{StoredDeal, StoredEvent, Which};
use engine::{Engine, Pool, Sql, Tx};
pub(crate) use following::ScoringNow;
pub(crate) use inbox::{Arrival, Claim, Departing, Departure, Settled};
pub use inbox::{InboxEvent, InboxHealth};
pub use jobs::{Job, JobState};
pub(crate) use jobs::{NODE_LEASE, node_lease};
pub use leases::Fence;
pub use ledger::LedgerEntry;
pub use location::{DatabaseUrl, StoreLocation};
pub use models::ModelSummary;
pub use moving::{Contents, MovedTable, back_up, move_to, restore};
pub(crate) use outbox::{Attempted, Delivery, DeliveryState, Due, Next, Queued, Told};
pub(crate) use pages::PageRequest;
pub use retention::Pruned;
pub use shadow::ShadowOutcomes;
pub(crate) use shadow::ShadowScore;
pub(crate) use surveying::Surveyed;

/// Connections that read the file; SQLite readers do not wait for the writer.
const READERS_MAX: u32 = 4;
/// How long a statement waits for a lock that another process holds on the file, a backup say.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections to PostgreSQL unless the settings say otherwise.
pub const CONNECTIONS_MAX: u32 = 12;
/// Of the connections to PostgreSQL, one in this many writes: writers wait for each other anyway.
const CONNECTIONS_PER_WRITER: u32 = 3;
/// How long a request waits for a connection to PostgreSQL, and so for a PostgreSQL that is away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a writer waits for those of other processes.
const LOCK_SECONDS_MAX: u64 = 10;
/// A process that stopped inside a transaction holds up all others no longer than this.
const IDLE_IN_TRANSACTION_SECONDS_MAX: u64 = 10;
/// Rows of one INSERT: far below the parameters that a statement may have, 32,766 in SQLite and 65,535
/// in PostgreSQL, and enough to make the round trips cheap.
const INSERT_ROWS_MAX: usize = 100;

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    writer: Pool,
    readers: Pool,
    id: String,
    outbox_filled: Arc<Notify>,
}

impl Store {
    /// Opens the store, and brings its tables up to date.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::connect`].
    pub async fn at(location: &StoreLocation, connections_max: u32) -> Result<Self> {
        match location {
            StoreLocation::File(path) => Self::open(path).await,
            StoreLocation::Postgres(url) => Self::connect(url, connections_max).await,
        }
    }

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
            let writer = lasting(1).connect_with(options.clone()).await?;
            sqlx::migrate!("migrations/sqlite").run(&writer).await?;
            let readers = lasting(READERS_MAX)
                .connect_with(options.pragma("query_only", "on"))
                .await?;
            Self::of(Pool::Sqlite(writer), Pool::Sqlite(readers)).await
        };
        Ok(store
            .await
            .with_context(|| format!("cannot open the store {}", path.display()))?)
    }

    /// Connects to a PostgreSQL, and makes its tables or brings them up to date; several processes may do
    /// so at once.
    ///
    /// # Errors
    /// When it does not answer, refuses us, or its tables were made by a newer dealrank.
    pub async fn connect(url: &DatabaseUrl, connections_max: u32) -> Result<Self> {
        let store = async {
            let options = url
                .options()?
                .application_name("dealrank")
                // That a table is there already is no news.
                .options([("client_min_messages", "warning")]);
            // Without limits of time: a migration of many rows takes as long as it takes.
            let mut migrating = within(CONNECT_TIMEOUT, options.connect()).await?;
            sqlx::migrate!("migrations/postgres")
                .run(&mut migrating)
                .await?;
            sqlx::Connection::close(migrating).await?;
            let seconds = |seconds: u64| format!("{seconds}s");
            let options = options.options([
                ("statement_timeout", seconds(engine::STATEMENT_SECONDS_MAX)),
                ("lock_timeout", seconds(LOCK_SECONDS_MAX)),
                (
                    "idle_in_transaction_session_timeout",
                    seconds(IDLE_IN_TRANSACTION_SECONDS_MAX),
                ),
            ]);
            let writers_max = (connections_max / CONNECTIONS_PER_WRITER).max(1);
            let readers_max = connections_max.saturating_sub(writers_max).max(1);
            let pool = |connections| {
                PoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(CONNECT_TIMEOUT)
                    .connect_lazy_with(options.clone())
            };
            let (writer, readers) = (pool(writers_max), pool(readers_max));
            Self::of(Pool::Postgres(writer), Pool::Postgres(readers)).await
        };
        Ok(store
            .await
            .with_context(|| format!("cannot open the store {url}"))?)
    }

    async fn of(writer: Pool, readers: Pool) -> anyhow::Result<Self> {
        let id = store_id(&writer).await?;
        Ok(Self {
            writer,
            readers,
            id,
            outbox_filled: Arc::default(),
        })
    }

    /// Names this store where several share something, Redis say. Made once, with the store.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether other processes may write to it at the same time.
    pub fn is_shared(&self) -> bool {
        self.writer.engine() == Engine::Postgres
    }

    /// Returns when this process has put something into the outbox. One waits at a time.
    pub(crate) async fn outbox_filled(&self) {
        self.outbox_filled.notified().await;
    }

    /// # Errors
    /// When the store does not answer.
    pub async fn ping(&self) -> Result<()> {
        Sql::new("SELECT 1").execute(&self.readers).await?;
        Ok(())
    }

    /// Ends all connections. Of the embedded store another process then finds everything in the one file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Connections to the file, kept for good.
fn lasting<DB: sqlx::Database>(connections: u32) -> PoolOptions<DB> {
    PoolOptions::new()
        .min_connections(1)
        .max_connections(connections)
        .idle_timeout(None)
        .max_lifetime(None)
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    let late = |_| sqlx::Error::PoolTimedOut;
    tokio::time::timeout(limit, work).await.map_err(late)?
}

async fn store_id(writer: &Pool) -> Result<String> {
    Sql::new("INSERT INTO settings (name, value) VALUES ('store_id', $1) ON CONFLICT DO NOTHING")
        .bind(random_id())
        .execute(writer)
        .await?;
    Sql::new("SELECT value FROM settings WHERE name = 'store_id'")
        .scalar(writer)
        .await
}

/// Sixteen hexadecimal digits.
pub(crate) fn random_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// Takes `count` numbers from the global sequence and returns the last one. Until it commits, nobody
/// else can: numbers become visible in the order in which they are taken, and what is read from here on
/// stays as it is but for what this transaction writes.
async fn take_seqs(tx: &mut Tx, count: usize) -> Result<i64> {
    let count = i64::try_from(count).context("a batch is far smaller than the sequence")?;
    Sql::new("UPDATE sequence SET value = value + $1 RETURNING value")
        .bind(count)
        .scalar(tx)
        .await
}

async fn current_seq(tx: &mut Tx) -> Result<i64> {
    Sql::new("SELECT value FROM sequence").scalar(tx).await
}

/// A time as the store keeps it.
fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

fn timestamp(micros: i64) -> Result<Timestamp> {
    Ok(Timestamp::from_microsecond(micros).context("a time in the store is out of range")?)
}
