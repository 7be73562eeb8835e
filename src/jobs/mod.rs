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
use crate::progress::Progress;
use crate::store::{Job, JobState};

pub use import::{ImportReport, ImportTask, import};
pub use recalibrate::{RecalibratedModel, recalibrate};
pub use train::{TrainRequest, Trained, train};

/// How often the progress of a running job is written to the store.
const PERSIST_EVERY: Duration = Duration::from_secs(1);

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

    async fn run(self, book: Book, rejects_dir: PathBuf, report: Report) -> Result<Value> {
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
            Self::Train(request) => Ok(json!(train(&book, request, on_progress).await?)),
            Self::Activate { version } => {
                let activated = book.activate(&version, now(), &on_progress);
                Ok(json!(activated.await?))
            }
            Self::RollBack => Ok(json!(book.roll_back(now(), &on_progress).await?)),
            Self::Refresh => Ok(json!(book.refresh(now(), &on_progress).await?)),
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
}

/// The jobs that are queued or running, as they are this moment.
type Live = Arc<Mutex<HashMap<String, watch::Receiver<Job>>>>;

struct Entry {
    task: Task,
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
    /// Starts the worker, and the timers of what is done now and then. What an earlier process left
    /// unfinished has failed.
    pub async fn start(book: Book, config: &Config) -> Result<Self> {
        let interrupted = book.store().fail_interrupted_jobs(now()).await?;
        if interrupted > 0 {
            tracing::warn!(interrupted, "jobs were interrupted by the restart");
        }
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
        };
        periodic::start(&jobs, config);
        Ok(jobs)
    }

    /// Puts a task at the end of the queue.
    ///
    /// # Errors
    /// `Busy` when `jobs_queued_max` are waiting.
    pub async fn submit(&self, task: Task) -> Result<Job> {
        let place = self.queue.try_reserve().map_err(|_| {
            let max = self.queued_max;
            Error::Busy(format!("jobs_queued_max: {max} jobs are waiting already"))
        })?;
        let store = self.book.store();
        let job = store.create_job(task.kind(), now()).await?;
        let (report, receiver) = watch::channel(job.clone());
        lock(&self.live).insert(job.id.clone(), receiver);
        let report = Report::new(report);
        place.send(Entry { task, report });
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

    /// Follows a job that is queued or running.
    pub fn watch(&self, id: &str) -> Option<watch::Receiver<Job>> {
        lock(&self.live).get(id).cloned()
    }
}

/// A panic while one of our locks is held cannot leave anything half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file with the rejected rows of an import.
pub fn rejects_path(rejects_dir: &Path, job_id: &str) -> PathBuf {
    rejects_dir.join(format!("{job_id}.csv"))
}

struct Worker {
    book: Book,
    rejects_dir: PathBuf,
    live: Live,
}

impl Worker {
    async fn work(self, mut entries: mpsc::Receiver<Entry>) {
        while let Some(Entry { task, report }) = entries.recv().await {
            let id = report.id();
            if let Err(error) = self.run(task, &report).await {
                tracing::error!(job = id, "cannot keep the state of a job: {error:#}");
            }
            lock(&self.live).remove(&id);
        }
    }

    /// Runs a task from start to end and keeps the store and those who follow informed.
    async fn run(&self, task: Task, report: &Report) -> Result<()> {
        let store = self.book.store();
        let id = report.id();
        let started_at = now();
        store.start_job(&id, started_at).await?;
        report.job.send_modify(|job| {
            job.state = JobState::Running;
            job.started_at = Some(started_at);
        });
        let outcome = self.outcome(task, report).await;
        let finished_at = now();
        store.finish_job(&id, outcome.clone(), finished_at).await?;
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
    async fn outcome(&self, task: Task, report: &Report) -> Result<Value, String> {
        let id = report.id();
        let running = task.run(self.book.clone(), self.rejects_dir.clone(), report.clone());
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
