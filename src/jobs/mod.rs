//! Long work, one at a time and first come first served, while the service keeps answering.

mod import;
mod periodic;
mod recalibrate;
mod train;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use crate::app::now;
use crate::book::Book;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::nodes::Lease;
use crate::progress::Progress;
use crate::store::{Fence, Job, JobState, node_lease, random_id};

pub use import::{ImportReport, ImportTask, import};
pub use recalibrate::{RecalibratedModel, recalibrate};
pub use train::{TrainRequest, Trained, train};

/// How often the progress of a running job is written to the store, and read where it runs elsewhere.
const PERSIST_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before a store that is away is asked again.
const STORE_AWAY_PAUSE: Duration = Duration::from_millis(500);
/// The lease of the one process that does what is done now and then.
const LEADER: &str = "periodic";

/// What a job does.
#[derive(Debug)]
pub enum Task {
    Import(ImportTask),
    Train(TrainRequest),
    Activate { version: String },
    RollBack,
    Refresh,
}

impl Task {
    fn kind(&self) -> &'static str {
        match self {
            Self::Import(_) => "import",
            Self::Train(_) => "train",
            Self::Activate { .. } => "activate",
            Self::RollBack => "rollback",
            Self::Refresh => "refresh",
        }
    }

    /// `fence` is that of the leader, where it is its work.
    async fn run(
        self,
        book: Book,
        rejects_dir: PathBuf,
        fence: Option<Fence>,
        report: Report,
    ) -> Result<Value> {
        let fence = fence.as_ref();
        let reporter = report.clone();
        let on_progress = move |progress| reporter.progress(progress);
        match self {
            Self::Import(task) => {
                let rejects_path = rejects_path(&rejects_dir, &report.id());
                let files = task.clone();
                let imported = import(&book, task, rejects_path, on_progress).await;
                files.clean_up();
                Ok(json!(imported?))
            }
            Self::Train(request) => Ok(json!(train(&book, request, fence, on_progress).await?)),
            Self::Activate { version } => {
                let activated = book.activate(&version, now(), &on_progress);
                Ok(json!(activated.await?))
            }
            Self::RollBack => Ok(json!(book.roll_back(now(), &on_progress).await?)),
            Self::Refresh => Ok(json!(book.refresh(now(), fence, &on_progress).await?)),
        }
    }
}

/// The queue of jobs; clones share it.
#[derive(Debug, Clone)]
pub struct Jobs {
    book: Book,
    queue: mpsc::Sender<Entry>,
    queued_max: usize,
    live: Live,
    /// Names this process.
    node: Arc<str>,
    /// Says that this process lives, so that its jobs are not taken for interrupted. Nobody else is on
    /// an embedded store.
    _alive: Option<Arc<Lease>>,
    leader: Arc<Lease>,
    leading: watch::Sender<bool>,
}

/// The jobs that are queued or running, as they are this moment.
type Live = Arc<Mutex<HashMap<String, watch::Receiver<Job>>>>;

struct Entry {
    task: Task,
    fence: Option<Fence>,
    report: Report,
}

/// Where a running job tells how far it is.
#[derive(Debug, Clone)]
pub struct Report {
    job: Arc<watch::Sender<Job>>,
    progress: Arc<Mutex<Option<Progress>>>,
}

impl Report {
    fn new(job: watch::Sender<Job>) -> Self {
        Self {
            job: Arc::new(job),
            progress: Arc::default(),
        }
    }

    fn id(&self) -> String {
        self.job.borrow().id.clone()
    }

    pub fn progress(&self, progress: Progress) {
        *lock(&self.progress) = Some(progress);
        self.job.send_modify(|job| {
            job.phase = Some(progress.phase.to_owned());
            job.done = progress.done;
            job.total = progress.total;
        });
    }
}

impl Jobs {
    /// Starts the worker, and the timers of what is done now and then. What processes that are gone left
    /// unfinished has failed; `gone` is one that is known to be.
    pub async fn start(book: Book, config: &Config, gone: Option<&str>) -> Result<Self> {
        let node: Arc<str> = random_id().into();
        let store = book.store();
        let alive = match store.is_shared() {
            true => Some(Lease::compete(store.clone(), node_lease(&node), &*node)),
            false => None,
        };
        match &alive {
            Some(alive) => drop(alive.acquired().await),
            // Alone: who held what is gone.
            None => store.free_leases().await?,
        }
        let leader = Lease::compete(book.store().clone(), LEADER, &*node);
        fail_interrupted(&book, &node, gone).await?;
        let queued_max = config.limits.jobs_queued_max;
        let (queue, entries) = mpsc::channel(queued_max);
        let live = Live::default();
        let worker = Worker {
            book: book.clone(),
            rejects_dir: config.rejects_dir(),
            live: Arc::clone(&live),
        };
        tokio::spawn(worker.work(entries));
        let jobs = Self {
            book,
            queue,
            queued_max,
            live,
            node,
            _alive: alive.map(Arc::new),
            leader: Arc::new(leader),
            leading: watch::Sender::new(false),
        };
        periodic::start(&jobs, config);
        Ok(jobs)
    }

    /// Puts a task at the end of the queue.
    ///
    /// # Errors
    /// `Busy` when `jobs_queued_max` are waiting.
    pub async fn submit(&self, task: Task) -> Result<Job> {
        self.submit_under(task, None).await
    }

    /// As [`Self::submit`], for the one process that does what is done now and then.
    ///
    /// # Errors
    /// `Conflict` when another process is that one now.
    async fn submit_under(&self, task: Task, fence: Option<Fence>) -> Result<Job> {
        let place = self.queue.try_reserve().map_err(|_| {
            let max = self.queued_max;
            Error::Busy(format!("jobs_queued_max: {max} jobs are waiting already"))
        })?;
        let store = self.book.store();
        let job = store
            .create_job(task.kind(), &self.node, fence.as_ref(), now())
            .await?;
        let (report, receiver) = watch::channel(job.clone());
        lock(&self.live).insert(job.id.clone(), receiver);
        let report = Report::new(report);
        place.send(Entry {
            task,
            fence,
            report,
        });
        Ok(job)
    }

    /// A job as it is this moment.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, id: &str) -> Result<Job> {
        match self.watch(id) {
            Some(live) => Ok(live.borrow().clone()),
            None => self.book.store().job(id).await,
        }
    }

    /// The newest jobs, newest first, each as it is this moment.
    pub async fn list(&self, limit: u32) -> Result<Vec<Job>> {
        let mut jobs = self.book.store().jobs(limit).await?;
        for job in &mut jobs {
            if let Some(live) = self.watch(&job.id) {
                *job = live.borrow().clone();
            }
        }
        Ok(jobs)
    }

    /// Follows a job that is queued or running, here or in another process.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn follow(&self, id: &str) -> Result<watch::Receiver<Job>> {
        if let Some(live) = self.watch(id) {
            return Ok(live);
        }
        let (sender, receiver) = watch::channel(self.get(id).await?);
        let jobs = self.clone();
        tokio::spawn(async move {
            while !sender.is_closed() && !sender.borrow().is_over() {
                tokio::time::sleep(PERSIST_EVERY).await;
                let id = sender.borrow().id.clone();
                let Ok(job) = jobs.get(&id).await else { return };
                sender.send_if_modified(|present| {
                    let is_changed = *present != job;
                    *present = job;
                    is_changed
                });
            }
        });
        Ok(receiver)
    }

    /// Names this process among those on the store.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Whether this process does what is done now and then: one on a store does.
    pub fn is_leader(&self) -> bool {
        self.leader.fence().is_some()
    }

    /// Follows whether this process is the one that does what is done now and then.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Lets another process take over at once what is done now and then. For the end.
    pub async fn resign(&self) {
        if let Err(error) = self.leader.give_back().await {
            tracing::debug!("the lease of the leader runs out: {error:#}");
        }
    }

    /// Follows a job that is queued or running here.
    pub fn watch(&self, id: &str) -> Option<watch::Receiver<Job>> {
        lock(&self.live).get(id).cloned()
    }
}

/// A panic while one of our locks is held cannot leave anything half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fails what processes that are gone left unfinished.
async fn fail_interrupted(book: &Book, node: &str, gone: Option<&str>) -> Result<()> {
    let store = book.store();
    let interrupted = store.fail_interrupted_jobs(node, gone, now()).await?;
    if interrupted > 0 {
        tracing::warn!(interrupted, "jobs were interrupted by the end of a process");
    }
    Ok(())
}

/// The file with the rejected rows of an import.
pub fn rejects_path(rejects_dir: &Path, job_id: &str) -> PathBuf {
    rejects_dir.join(format!("{job_id}.csv"))
}

/// Asks the store again while it is away: a job whose state is not kept would be under way for ever.
async fn patiently<T, F: Future<Output = Result<T>>>(ask: impl Fn() -> F) -> Result<T> {
    loop {
        match ask().await {
            Err(Error::StoreAway(cause)) => {
                tracing::warn!("the state of a job waits for the store: {cause:#}");
                tokio::time::sleep(STORE_AWAY_PAUSE).await;
            }
            answered => return answered,
        }
    }
}

struct Worker {
    book: Book,
    rejects_dir: PathBuf,
    live: Live,
}

impl Worker {
    async fn work(self, mut entries: mpsc::Receiver<Entry>) {
        while let Some(entry) = entries.recv().await {
            let Entry {
                task,
                fence,
                report,
            } = entry;
            let id = report.id();
            if let Err(error) = self.run(task, fence, &report).await {
                tracing::error!(job = id, "cannot keep the state of a job: {error:#}");
            }
            lock(&self.live).remove(&id);
        }
    }

    /// Runs a task from start to end and keeps the store and those who follow informed.
    async fn run(&self, task: Task, fence: Option<Fence>, report: &Report) -> Result<()> {
        let store = self.book.store();
        let id = report.id();
        let started_at = now();
        if !patiently(|| store.start_job(&id, started_at)).await? {
            let job = patiently(|| store.job(&id)).await?;
            report.job.send_replace(job);
            return Ok(());
        }
        report.job.send_modify(|job| {
            job.state = JobState::Running;
            job.started_at = Some(started_at);
        });
        let outcome = self.outcome(task, fence, report).await;
        let finished_at = now();
        patiently(|| store.finish_job(&id, outcome.clone(), finished_at)).await?;
        report.job.send_modify(|job| {
            job.finished_at = Some(finished_at);
            match outcome {
                Ok(result) => {
                    job.state = JobState::Done;
                    job.result = Some(result);
                }
                Err(reason) => {
                    job.state = JobState::Failed;
                    job.error = Some(reason);
                }
            }
        });
        Ok(())
    }

    /// The result of a task, or why it failed; writes its progress to the store now and then.
    async fn outcome(
        &self,
        task: Task,
        fence: Option<Fence>,
        report: &Report,
    ) -> Result<Value, String> {
        let id = report.id();
        let (book, rejects_dir) = (self.book.clone(), self.rejects_dir.clone());
        let running = task.run(book, rejects_dir, fence, report.clone());
        // On a task of its own, so that a panic ends the job and not the worker.
        let mut running = tokio::spawn(running);
        let mut persist = tokio::time::interval(PERSIST_EVERY);
        let outcome = loop {
            tokio::select! {
                outcome = &mut running => break outcome,
                _ = persist.tick() => self.persist(report).await,
            }
        };
        self.persist(report).await;
        match outcome {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(explain(&id, &error)),
            Err(panic) => Err(explain(&id, &Error::Internal(panic.into()))),
        }
    }

    /// Writes progress to the store, if there is any since the last time. Where that fails the work
    /// goes on: to leave it alone would let the next job run beside it.
    async fn persist(&self, report: &Report) {
        let Some(progress) = lock(&report.progress).take() else {
            return;
        };
        let id = report.id();
        if let Err(error) = self.book.store().advance_job(&id, progress).await {
            tracing::warn!(job = id, "cannot keep the progress of a job: {error:#}");
        }
    }
}

/// Why a job failed, for those who asked for it; what is not theirs to mend stays in the log.
fn explain(id: &str, error: &Error) -> String {
    match error {
        Error::Internal(cause) => {
            tracing::error!(job = id, error = format!("{cause:#}"), "a job failed");
            "something went wrong here; the log has more under the id of the job".into()
        }
        other => other.to_string(),
    }
}
