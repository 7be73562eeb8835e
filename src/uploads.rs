//! Files that people sent and have not decided about yet: kept between two pages, for an hour at most and
//! only so many, and gone with the process.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::ingest::guess::Look;
use crate::store::random_id;

/// How long a file waits.
pub const KEPT: Duration = Duration::from_secs(3600);

/// A file that waits, and what it looks like.
#[derive(Debug)]
pub struct Waiting {
    /// Goes with this value, unless a job takes it over.
    dir: Mutex<Option<TempDir>>,
    pub path: PathBuf,
    /// What people call the file.
    pub name: String,
    /// The events of its deals.
    pub events: Option<PathBuf>,
    pub look: Look,
}

impl Waiting {
    pub fn new(dir: TempDir, path: PathBuf, name: String, look: Look) -> Self {
        Self {
            dir: Mutex::new(Some(dir)),
            path,
            name,
            events: None,
            look,
        }
    }

    /// The folder, for who cleans it up from now on; `None` for all but the first who asks.
    pub fn hand_over(&self) -> Option<PathBuf> {
        lock(&self.dir).take().map(TempDir::keep)
    }
}

/// A panic while a lock is held cannot leave anything half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The files that wait; clones share them.
#[derive(Debug, Clone)]
pub struct Uploads {
    waiting: Arc<Mutex<HashMap<String, Entry>>>,
    waiting_max: usize,
    kept: Duration,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    file: Arc<Waiting>,
}

impl Uploads {
    pub fn new(waiting_max: usize, kept: Duration) -> Self {
        Self {
            waiting: Arc::default(),
            waiting_max,
            kept,
        }
    }

    /// Keeps a file, and gives it an id that nobody can guess. Where too many wait, the oldest one goes.
    /// Needs a Tokio runtime.
    pub fn keep(&self, file: Waiting) -> String {
        let id = format!("{}{}", random_id(), random_id());
        let mut waiting = lock(&self.waiting);
        while waiting.len() >= self.waiting_max {
            let oldest = waiting.iter().min_by_key(|(_, entry)| entry.since);
            let Some(oldest) = oldest.map(|(id, _)| id.clone()) else {
                break;
            };
            waiting.remove(&oldest);
        }
        let entry = Entry {
            since: Instant::now(),
            file: Arc::new(file),
        };
        waiting.insert(id.clone(), entry);
        let (uploads, late) = (self.clone(), id.clone());
        tokio::spawn(async move {
            tokio::time::sleep(uploads.kept).await;
            lock(&uploads.waiting).remove(&late);
        });
        id
    }

    /// # Errors
    /// `NotFound` when it was taken, is too old, or went to make room.
    pub fn get(&self, id: &str) -> Result<Arc<Waiting>> {
        let waiting = lock(&self.waiting);
        let entry = waiting.get(id).filter(|e| e.since.elapsed() < self.kept);
        Ok(Arc::clone(&entry.ok_or_else(|| not_found(id))?.file))
    }

    /// Hands a file over: it waits no longer.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn take(&self, id: &str) -> Result<Arc<Waiting>> {
        let file = self.get(id)?;
        lock(&self.waiting).remove(id);
        Ok(file)
    }
}

fn not_found(id: &str) -> Error {
    Error::NotFound {
        kind: "upload",
        id: id.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Waiting {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "id\n").unwrap();
        Waiting::new(dir, path, "deals.csv".into(), Look::default())
    }

    #[tokio::test]
    async fn the_oldest_file_makes_room_and_leaves_nothing_behind() {
        let uploads = Uploads::new(2, KEPT);
        let first = uploads.keep(file());
        let path = uploads.get(&first).unwrap().path.clone();
        assert!(path.exists());
        let second = uploads.keep(file());
        let third = uploads.keep(file());
        assert!(uploads.get(&first).is_err() && !path.exists());
        assert!(uploads.get(&second).is_ok() && uploads.get(&third).is_ok());
        uploads.take(&second).unwrap();
        assert!(uploads.take(&second).is_err());
    }

    #[tokio::test]
    async fn a_file_that_waited_too_long_is_not_there() {
        let uploads = Uploads::new(2, Duration::ZERO);
        let id = uploads.keep(file());
        assert!(uploads.get(&id).is_err() && uploads.take(&id).is_err());
    }

    #[tokio::test]
    async fn a_file_is_handed_over_once_and_then_stays() {
        let uploads = Uploads::new(2, KEPT);
        let taken = uploads.take(&uploads.keep(file())).unwrap();
        let folder = taken.hand_over().unwrap();
        assert_eq!(taken.hand_over(), None);
        drop(taken);
        assert!(folder.join("file").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
