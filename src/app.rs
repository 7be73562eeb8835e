//! The service as one value, built once from its settings and handed to every handler.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use crate::access::{Access, Exposure};
use crate::book::{Book, BookSettings, Cache};
use crate::config::Config;
use crate::crm::Crm;
use crate::error::{Error, Result};
use crate::inbound::Inbound;
use crate::jobs::Jobs;
use crate::outbound::Outbound;
use crate::ranking::{Accelerator, RedisSettings};
use crate::scoring::Scorer;
use crate::store::{Store, StoreLocation};
use crate::uploads::{KEPT, Uploads};

/// Processes that may share a data folder; more are a mistake.
const PROCESSES_MAX: usize = 64;

#[derive(Debug)]
pub struct App {
    pub config: Config,
    pub access: Access,
    pub book: Book,
    pub jobs: Jobs,
    pub outbound: Outbound,
    pub inbound: Inbound,
    pub metrics: PrometheusHandle,
    /// Where uploads wait for their job; of this process alone.
    pub uploads_dir: PathBuf,
    /// Those that people have not decided about yet.
    pub uploads: Uploads,
    stopping: watch::Sender<bool>,
    _store_lock: Option<DirLock>,
    _uploads_lock: Option<DirLock>,
}

impl App {
    /// Opens the store and the rankings and starts the worker of the jobs. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `Conflict` when another process uses the same embedded store.
    pub async fn open(
        config: Config,
        exposure: Exposure,
        metrics: PrometheusHandle,
    ) -> Result<Self> {
        let store_lock = lock_store(&config)?;
        let (uploads_dir, uploads_lock) = own_uploads_dir(&config)?;
        clear(&uploads_dir)?;
        let book = open_book_with(&config, settings(&config), Accelerator::memory).await?;
        let gone = uploads_lock.as_ref().and_then(DirLock::signature);
        let jobs = Jobs::start(book.clone(), &config, gone.as_deref()).await?;
        if let Some(lock) = &uploads_lock {
            lock.sign(jobs.node());
        }
        let access = Access::new(book.store().clone(), config.access.clone(), exposure);
        // One client of each CRM: what is read and what is written keep to one rate limit.
        let crms = Crm::all(&config.crm)?;
        let outbound = Outbound::start(&book, &config, &crms, jobs.leading()).await?;
        book.begin_survey();
        let inbound = Inbound::start(book.clone(), &config, crms)?;
        let uploads = Uploads::new(config.limits.uploads_waiting_max, KEPT);
        Ok(Self {
            config,
            access,
            book,
            jobs,
            outbound,
            inbound,
            metrics,
            uploads_dir,
            uploads,
            stopping: watch::Sender::new(false),
            _store_lock: store_lock,
            _uploads_lock: uploads_lock,
        })
    }

    /// # Errors
    /// `NoModel`.
    pub async fn scorer(&self) -> Result<Scorer> {
        self.book.scorer().await?.ok_or(Error::NoModel)
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

/// The book of an installation, for a command: rankings in process would be filled, and ended with it.
pub async fn open_book(config: &Config) -> Result<Book> {
    open_book_with(config, settings(config), Accelerator::none).await
}

/// The book of an installation whose champion nobody needs: another one is about to be activated.
pub async fn open_book_without_champion(config: &Config) -> Result<Book> {
    let settings = BookSettings {
        is_without_champion: true,
        ..settings(config)
    };
    open_book_with(config, settings, Accelerator::none).await
}

fn settings(config: &Config) -> BookSettings {
    BookSettings {
        stalled_days: config.stalled_days,
        insight: Arc::new(config.insight.clone()),
        ..BookSettings::default()
    }
}

/// The store of an installation, for those who need no scores and no rankings.
pub async fn open_store(config: &Config) -> Result<Store> {
    let location = config.store_location();
    if let StoreLocation::File(_) = location {
        make_dir(&config.data_dir)?;
    }
    Store::at(&location, config.database_connections_max).await
}

/// The cache of an installation, for those who operate it.
pub async fn open_cache(config: &Config) -> Result<Cache> {
    let store = open_store(config).await?;
    let accelerator = accelerator(config, &store, Accelerator::none)?;
    Ok(Cache::new(store, accelerator))
}

async fn open_book_with(
    config: &Config,
    settings: BookSettings,
    embedded: fn() -> Accelerator,
) -> Result<Book> {
    let store = open_store(config).await?;
    let accelerator = accelerator(config, &store, embedded)?;
    let exchange = Arc::new(config.exchange.clone());
    Book::open(store, accelerator, exchange, settings).await
}

/// The accelerator of a store; `embedded` where there is neither Redis nor another process.
fn accelerator(
    config: &Config,
    store: &Store,
    embedded: fn() -> Accelerator,
) -> Result<Accelerator> {
    match &config.redis_url {
        None if store.is_shared() => Ok(Accelerator::none()),
        None => Ok(embedded()),
        Some(url) => {
            let mut settings = RedisSettings::new(url);
            settings.score_ttl = Duration::from_secs(config.score_ttl_seconds);
            Accelerator::redis(settings)
        }
    }
}

/// Holds the embedded store for one process at a time: rankings in process would not notice what
/// another process writes. A shared store is held by nobody.
///
/// # Errors
/// `Conflict` when another process holds it.
pub fn lock_store(config: &Config) -> Result<Option<DirLock>> {
    if config.database_url.is_some() {
        return Ok(None);
    }
    let dir = &config.data_dir;
    match DirLock::take(dir)? {
        Some(lock) => Ok(Some(lock)),
        None => Err(Error::Conflict(format!(
            "another dealrank uses the data folder {}: stop it, or work through its HTTP interface",
            dir.display()
        ))),
    }
}

/// Holds a folder for one process at a time. The system lets go of it when the process ends, however it
/// ends.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// Makes the folder if need be; `None` when another process holds it.
    fn take(dir: &Path) -> Result<Option<Self>> {
        make_dir(dir)?;
        let path = dir.join("lock");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("cannot write {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => {
                tracing::warn!("cannot lock {}: {e}", path.display());
            }
        }
        Ok(Some(Self { file }))
    }

    /// The process that held the folder before, if it said so: it is gone.
    fn signature(&self) -> Option<String> {
        let mut signature = String::new();
        (&self.file).read_to_string(&mut signature).ok()?;
        Some(signature).filter(|signature| !signature.is_empty())
    }

    /// Says who holds the folder. Where that cannot be written, the next one finds out later.
    fn sign(&self, node: &str) {
        let signed = self.file.set_len(0).and_then(|()| {
            (&self.file).seek(SeekFrom::Start(0))?;
            (&self.file).write_all(node.as_bytes())
        });
        if let Err(error) = signed {
            tracing::debug!(%error, "cannot sign the lock of the uploads");
        }
    }
}

/// A folder for the uploads of this process. Processes on a shared store may have the same data folder.
fn own_uploads_dir(config: &Config) -> Result<(PathBuf, Option<DirLock>)> {
    let uploads = config.uploads_dir();
    if config.database_url.is_none() {
        return Ok((uploads, None));
    }
    for number in 0..PROCESSES_MAX {
        let dir = uploads.join(number.to_string());
        if let Some(lock) = DirLock::take(&dir)? {
            return Ok((dir.join("files"), Some(lock)));
        }
    }
    Err(Error::Conflict(format!(
        "{PROCESSES_MAX} processes use the data folder {}: give each of them one of its own",
        config.data_dir.display()
    )))
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
