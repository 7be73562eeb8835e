//! Bringing a file of deals into the store.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::app::now;
use crate::book::{Book, Imported};
use crate::domain::{Deal, DealId};
use crate::error::{Error, Result};
use crate::ingest::{DealsReader, Mapping, Purpose, ReadOptions, Reject, RejectsWriter};
use crate::progress::Progress;

/// Deals that are stored in one go.
const CHUNK_DEALS: usize = 500;

/// Chunks that are read ahead of the store.
const CHUNKS_AHEAD: usize = 2;

/// Rejected rows that the result shows; the file of rejects has all.
const REJECTS_SHOWN_MAX: usize = 100;

/// A file to import, and how to read it.
#[derive(Debug, Clone)]
pub struct ImportTask {
    pub path: PathBuf,
    /// What messages call the file; its extension may tell the format.
    pub name: String,
    /// Without one, it is guessed.
    pub mapping: Option<Mapping>,
    /// Where files that the mapping joins are sought.
    pub folder: Option<PathBuf>,
    pub events: Option<PathBuf>,
    /// Whether the first bad row ends the import.
    pub is_strict: bool,
    /// The folder that goes with the job, if the files are ours.
    pub upload_dir: Option<PathBuf>,
}

/// What became of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportReport {
    pub file: String,
    /// Rows of the file.
    pub read: u64,
    /// Deals that were stored.
    pub stored: u64,
    pub created: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// Rows that could not be read, and deals that could not be stored.
    pub rejected: u64,
    /// Rows with the id of an earlier row; the last one counts.
    pub duplicates: u64,
    /// Oddities that are no errors.
    pub notices: Vec<String>,
    /// How columns were understood; none for deal documents.
    pub mapping: Option<Mapping>,
    /// How the mapping was guessed, if it was.
    pub guessed: Option<Vec<String>>,
    /// The first of the rejected rows.
    pub rejects: Vec<RejectedRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RejectedRow {
    pub line: u64,
    pub column: Option<String>,
    pub reason: String,
}

impl ImportReport {
    /// Deals that could be read, but not be brought together with what is stored of them.
    fn add_refused(&mut self, refused: &[(DealId, String)]) {
        let count = refused.len() as u64;
        self.stored = self.stored.saturating_sub(count);
        self.rejected += count;
        let shown = refused.iter().take(REJECTS_SHOWN_MAX);
        let notices = shown.map(|(id, reason)| format!("deal {id} was not stored: {reason}"));
        self.notices.extend(notices);
    }
}

impl ImportTask {
    pub fn new(path: PathBuf, name: impl Into<String>) -> Self {
        Self {
            path,
            name: name.into(),
            mapping: None,
            folder: None,
            events: None,
            is_strict: false,
            upload_dir: None,
        }
    }

    fn options(&self) -> ReadOptions {
        ReadOptions {
            mapping: self.mapping.clone(),
            folder: self.folder.clone(),
            events: self.events.clone(),
            is_strict: self.is_strict,
            ..ReadOptions::new(Purpose::Import, now())
        }
    }

    /// Opens the file, so that what is wrong with it as a whole is told before the work starts.
    ///
    /// # Errors
    /// When it cannot be read, or the mapping does not fit it.
    pub fn check(&self) -> Result<()> {
        let options = ReadOptions {
            events: None,
            ..self.options()
        };
        DealsReader::open_as(&self.path, &self.name, &options).map(drop)
    }

    /// Forgets the files, where they are ours.
    pub fn clean_up(&self) {
        if let Some(dir) = &self.upload_dir
            && let Err(e) = std::fs::remove_dir_all(dir)
        {
            tracing::warn!("cannot remove {}: {e}", dir.display());
        }
    }
}

/// Imports a file; bad rows go to a file at `rejects_path`, which is made if there are any.
pub async fn import(
    book: &Book,
    task: ImportTask,
    rejects_path: PathBuf,
    on_progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<ImportReport> {
    let (chunks, mut read_chunks) = mpsc::channel(CHUNKS_AHEAD);
    let reading = tokio::task::spawn_blocking(move || {
        let reader = DealsReader::open_as(&task.path, &task.name, &task.options())?;
        Reading::new(&task, reader, rejects_path)?.run(&chunks, &on_progress)
    });
    let now = now();
    let mut imported = Imported::default();
    while let Some(chunk) = read_chunks.recv().await {
        let part = book.import(chunk, now).await?;
        imported.created += part.created;
        imported.changed += part.changed;
        imported.unchanged += part.unchanged;
        imported.refused.extend(part.refused);
    }
    let mut report = reading.await.map_err(anyhow::Error::from)??;
    report.created = imported.created;
    report.changed = imported.changed;
    report.unchanged = imported.unchanged;
    report.add_refused(&imported.refused);
    Ok(report)
}

/// The part that reads, on a thread of its own.
struct Reading {
    reader: DealsReader,
    rejects: RejectsWriter,
    is_strict: bool,
    /// Hashes of all ids so far: eight bytes a deal, however many come.
    seen: HashSet<u64>,
    hasher: RandomState,
    chunk: Vec<Deal>,
    /// Where in the chunk a deal is.
    places: HashMap<DealId, usize>,
    report: ImportReport,
}

impl Reading {
    fn new(task: &ImportTask, reader: DealsReader, rejects_path: PathBuf) -> Result<Self> {
        if let Some(dir) = rejects_path.parent() {
            std::fs::create_dir_all(dir).context("cannot make the folder of rejects")?;
        }
        if task.is_strict
            && let Some(events) = reader.events()
            && let Some(reject) = events.rejects().0.first()
        {
            return Err(reject.clone().into_error(events.file()));
        }
        let is_documents = reader.headers().is_empty();
        let mapping = (!is_documents || task.mapping.is_some()).then(|| reader.mapping().clone());
        Ok(Self {
            rejects: RejectsWriter::new(rejects_path, reader.headers()),
            is_strict: task.is_strict,
            seen: HashSet::new(),
            hasher: RandomState::new(),
            chunk: Vec::new(),
            places: HashMap::new(),
            report: ImportReport {
                file: task.name.clone(),
                read: 0,
                stored: 0,
                created: 0,
                changed: 0,
                unchanged: 0,
                rejected: 0,
                duplicates: 0,
                notices: Vec::new(),
                mapping,
                guessed: reader.guess().map(<[String]>::to_vec),
                rejects: Vec::new(),
            },
            reader,
        })
    }

    /// Stops early, without an error of its own, when the other end has failed and takes no more.
    fn run(
        mut self,
        chunks: &mpsc::Sender<Vec<Deal>>,
        on_progress: &dyn Fn(Progress),
    ) -> Result<ImportReport> {
        let phase = "importing";
        while let Some(row) = self.reader.next() {
            self.report.read += 1;
            match row? {
                Ok(deal) => self.take(deal),
                Err(reject) if self.is_strict => return Err(reject.into_error(&self.report.file)),
                Err(reject) => self.reject(reject)?,
            }
            if self.chunk.len() >= CHUNK_DEALS {
                self.places.clear();
                if chunks
                    .blocking_send(std::mem::take(&mut self.chunk))
                    .is_err()
                {
                    return Ok(self.report);
                }
                let (done, total) = (self.reader.size().done(), self.reader.size().total);
                on_progress(Progress { phase, done, total });
            }
        }
        if !self.chunk.is_empty() {
            // Who no longer takes deals has an error of its own to tell.
            let _ = chunks.blocking_send(std::mem::take(&mut self.chunk));
        }
        let total = self.reader.size().total;
        on_progress(Progress {
            phase,
            done: total,
            total,
        });
        self.finish()
    }

    /// The last row of an id counts.
    fn take(&mut self, deal: Deal) {
        if !self.seen.insert(self.hasher.hash_one(&deal.id)) {
            self.report.duplicates += 1;
        }
        match self.places.get(&deal.id) {
            Some(place) => self.chunk[*place] = deal,
            None => {
                self.places.insert(deal.id.clone(), self.chunk.len());
                self.chunk.push(deal);
            }
        }
    }

    fn reject(&mut self, reject: Reject) -> Result<()> {
        self.rejects.write(&reject)?;
        self.report.rejected += 1;
        if self.report.rejects.len() < REJECTS_SHOWN_MAX {
            self.report.rejects.push(RejectedRow {
                line: reject.line,
                column: reject.column,
                reason: reject.reason,
            });
        }
        Ok(())
    }

    fn finish(self) -> Result<ImportReport> {
        self.rejects.finish()?;
        let mut report = self.report;
        report.stored = self.seen.len() as u64;
        report.notices = self.reader.notices();
        if report.read == 0 {
            return Err(Error::Unusable(format!("{} has no deals", report.file)));
        }
        if report.stored == 0
            && let Some(first) = report.rejects.first_mut()
        {
            return Err(Error::Input {
                file: report.file,
                line: first.line,
                column: first.column.take(),
                reason: format!(
                    "none of {} rows can be read; here: {}",
                    report.read, first.reason
                ),
            });
        }
        Ok(report)
    }
}
