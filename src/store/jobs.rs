//! Long work that outlives its request: what was asked, how far it is, how it ended.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Store;
use crate::error::Result;
use crate::progress::Progress;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    Queued,
    Running,
    Done,
    Failed,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: String,
    /// `import`, `train`, `activate`, `refresh`.
    pub kind: String,
    pub state: JobState,
    pub phase: Option<String>,
    pub done: u64,
    /// 0 while unknown.
    pub total: u64,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
    pub result: Option<Value>,
}

impl Store {
    /// A new job in the queue, with an id of its own.
    pub async fn create_job(&self, kind: &str, at: Timestamp) -> Result<Job> {
        let _ = (kind, at);
        todo!("store")
    }

    pub async fn start_job(&self, id: &str, at: Timestamp) -> Result<()> {
        let _ = (id, at);
        todo!("store")
    }

    pub async fn advance_job(&self, id: &str, progress: Progress) -> Result<()> {
        let _ = (id, progress);
        todo!("store")
    }

    /// `outcome` is the job's result, or why it failed.
    pub async fn finish_job(
        &self,
        id: &str,
        outcome: Result<Value, String>,
        at: Timestamp,
    ) -> Result<()> {
        let _ = (id, outcome, at);
        todo!("store")
    }

    /// # Errors
    /// `NotFound`.
    pub async fn job(&self, id: &str) -> Result<Job> {
        let _ = id;
        todo!("store")
    }

    /// Newest first.
    pub async fn jobs(&self, limit: u32) -> Result<Vec<Job>> {
        let _ = limit;
        todo!("store")
    }

    /// Fails what an earlier process left queued or running; returns how many. For the start.
    pub async fn fail_interrupted_jobs(&self, at: Timestamp) -> Result<u64> {
        let _ = at;
        todo!("store")
    }
}
