//! The service as one value, built once from its settings and handed to every handler.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::book::{Book, BookSettings};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::jobs::Jobs;
use crate::ranking::{Accelerator, RedisSettings};
use crate::scoring::Scorer;
use crate::store::Store;

#[derive(Debug)]
pub struct App {
    pub config: Config,
    pub book: Book,
    pub jobs: Jobs,
    pub metrics: PrometheusHandle,
    stopping: watch::Sender<bool>,
    _lock: DataDirLock,
}

impl App {
    /// Opens the store and the rankings and starts the worker of the jobs. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `Conflict` when another process uses the same data folder.
    pub async fn open(config: Config, metrics: PrometheusHandle) -> Result<Self> {
        let lock = DataDirLock::take(&config.data_dir)?;
        clear(&config.uploads_dir())?;
        let book = open_book(&config).await?;
        let jobs = Jobs::start(book.clone(), &config).await?;
        Ok(Self {
            config,
            book,
            jobs,
            metrics,
            stopping: watch::Sender::new(false),
            _lock: lock,
        })
    }

    /// # Errors
    /// `NoModel`.
    pub fn scorer(&self) -> Result<Scorer> {
        self.book.scorer().ok_or(Error::NoModel)
    }

    /// Tells answers without an end of their own that it is time to end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Becomes true when the service stops.
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }
}

/// The time, to the microsecond: as fine as the store keeps it, so that what is answered first and
/// what is read later are the same.
pub fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// The book of an installation.
pub async fn open_book(config: &Config) -> Result<Book> {
    let settings = BookSettings {
        stalled_days: config.stalled_days,
        ..BookSettings::default()
    };
    open_book_with(config, settings).await
}

/// The book of an installation whose champion nobody needs: another one is about to be activated.
pub async fn open_book_without_champion(config: &Config) -> Result<Book> {
    let settings = BookSettings {
        stalled_days: config.stalled_days,
        is_without_champion: true,
    };
    open_book_with(config, settings).await
}

/// The store of an installation, for those who need no scores and no rankings.
pub async fn open_store(config: &Config) -> Result<Store> {
    make_dir(&config.data_dir)?;
    Store::open(&config.database_path()).await
}

async fn open_book_with(config: &Config, settings: BookSettings) -> Result<Book> {
    let store = open_store(config).await?;
    let accelerator = match &config.redis_url {
        None => Accelerator::memory(),
        Some(url) => {
            let mut settings = RedisSettings::new(url);
            settings.score_ttl = Duration::from_secs(config.score_ttl_seconds);
            Accelerator::redis(settings)?
        }
    };
    let exchange = Arc::new(config.exchange.clone());
    Book::open(store, accelerator, exchange, settings).await
}

/// Holds the data folder for one process at a time: rankings in process would not notice what
/// another process writes. The system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

impl DataDirLock {
    /// # Errors
    /// `Conflict` when another process holds it.
    pub fn take(data_dir: &Path) -> Result<Self> {
        make_dir(data_dir)?;
        let path = data_dir.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Conflict(format!(
                    "another dealrank uses the data folder {}: stop it, or work through its HTTP interface",
                    data_dir.display()
                )));
            }
            Err(TryLockError::Error(e)) => {
                tracing::warn!("cannot lock {}: {e}", path.display());
            }
        }
        Ok(Self { _file: file })
    }
}

fn make_dir(dir: &Path) -> Result<()> {
    let failed = || format!("cannot make the folder {}", dir.display());
    Ok(std::fs::create_dir_all(dir).with_context(failed)?)
}

/// Makes the folder anew: what an earlier process left in it belongs to requests long gone.
fn clear(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            let failed = format!("cannot clear the folder {}", dir.display());
            return Err(anyhow::Error::from(e).context(failed).into());
        }
        _ => {}
    }
    make_dir(dir)
}
