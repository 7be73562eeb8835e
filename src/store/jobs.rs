//! Long work that outlives its request: what was asked, how far it is, how it ended.

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::engine::{Row, Sql};
use super::{Fence, Store, leases, micros, random_id, timestamp};
use crate::error::{Error, Result};
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
    /// `import`, `train`, `activate`, `rollback`, `refresh`.
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

impl Job {
    pub fn is_over(&self) -> bool {
        matches!(self.state, JobState::Done | JobState::Failed)
    }
}

impl Store {
    /// A new job in the queue of a process, with an id of its own.
    ///
    /// # Errors
    /// `Conflict` when it is asked for under a lease that has changed hands.
    pub async fn create_job(
        &self,
        kind: &str,
        owner: &str,
        fence: Option<&Fence>,
        at: Timestamp,
    ) -> Result<Job> {
        let id = random_id();
        let mut tx = self.writer.write().await?;
        leases::check(&mut tx, fence).await?;
        let row = Sql::new(
            "INSERT INTO jobs (id, kind, state, created_at, owner)
             VALUES ($1, $2, 'queued', $3, $4) RETURNING *",
        )
        .bind(&id)
        .bind(kind)
        .bind(micros(at))
        .bind(owner)
        .fetch_one(&mut tx)
        .await?;
        let created = job(&row)?;
        tx.commit().await?;
        Ok(created)
    }

    /// Whether the job may start: another process may have taken us for dead, and have failed it.
    pub async fn start_job(&self, id: &str, at: Timestamp) -> Result<bool> {
        let started = Sql::new(
            "UPDATE jobs SET state = 'running', started_at = $2
             WHERE id = $1 AND state IN ('queued', 'running')",
        )
        .bind(id)
        .bind(micros(at))
        .execute(&self.writer)
        .await?;
        Ok(started > 0)
    }

    pub async fn advance_job(&self, id: &str, progress: Progress) -> Result<()> {
        Sql::new("UPDATE jobs SET phase = $2, done = $3, total = $4 WHERE id = $1")
            .bind(id)
            .bind(progress.phase)
            .bind(i64::try_from(progress.done).unwrap_or(i64::MAX))
            .bind(i64::try_from(progress.total).unwrap_or(i64::MAX))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// `outcome` is the job's result, or why it failed.
    pub async fn finish_job(
        &self,
        id: &str,
        outcome: Result<Value, String>,
        at: Timestamp,
    ) -> Result<()> {
        let (state, result, error) = match outcome {
            Ok(result) => ("done", Some(result.to_string()), None),
            Err(reason) => ("failed", None, Some(reason)),
        };
        Sql::new(
            "UPDATE jobs SET state = $2, result = $3, error = $4, finished_at = $5 WHERE id = $1",
        )
        .bind(id)
        .bind(state)
        .bind(result)
        .bind(error)
        .bind(micros(at))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// # Errors
    /// `NotFound`.
    pub async fn job(&self, id: &str) -> Result<Job> {
        let row = Sql::new("SELECT * FROM jobs WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
        match row {
            Some(row) => job(&row),
            None => Err(Error::NotFound {
                kind: "job",
                id: id.to_owned(),
            }),
        }
    }

    /// Newest first.
    pub async fn jobs(&self, limit: u32) -> Result<Vec<Job>> {
        let rows = Sql::new("SELECT * FROM jobs ORDER BY seq DESC LIMIT $1")
            .bind(limit)
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(job).collect()
    }

    /// When a training was last asked for, or a model trained; `None` before the first time.
    pub(crate) async fn last_training(&self) -> Result<Option<Timestamp>> {
        let at: Option<i64> = Sql::new(
            "SELECT max(created_at) FROM
                 (SELECT created_at FROM jobs WHERE kind = 'train'
                  UNION ALL SELECT created_at FROM models WHERE origin = 'trained') AS trainings",
        )
        .scalar(&self.readers)
        .await?;
        at.map(timestamp).transpose()
    }

    /// How the latest import understood columns; `None` if none had any.
    pub(crate) async fn latest_import_mapping(&self) -> Result<Option<Value>> {
        let mapping = self.readers.engine().json_object("result", "mapping");
        let mapping: Option<String> = Sql::new(format!(
            "SELECT {mapping} FROM jobs
             WHERE kind = 'import' AND state = 'done' AND {mapping} IS NOT NULL
             ORDER BY seq DESC LIMIT 1"
        ))
        .scalar_optional(&self.readers)
        .await?;
        let mapping = mapping.as_deref().map(serde_json::from_str).transpose();
        Ok(mapping.context("the result of a job is not JSON")?)
    }

    /// Fails what processes left queued or running that are gone; returns how many. The embedded store
    /// has one process, `present`; processes on a shared store hold a lease (`node_lease`) while they
    /// live, but for `gone`, which is known to be no more.
    pub async fn fail_interrupted_jobs(
        &self,
        present: &str,
        gone: Option<&str>,
        at: Timestamp,
    ) -> Result<u64> {
        let engine = self.writer.engine();
        let is_held = leases::is_held(engine, &format!("'{NODE_LEASE}' || coalesce(owner, '')"));
        let may_live = match self.is_shared() {
            true => is_held,
            false => "1 = 0".into(),
        };
        Sql::new(format!(
            "UPDATE jobs SET state = 'failed', finished_at = $1,
                    error = 'the service stopped before the job was done'
             WHERE state IN ('queued', 'running') AND coalesce(owner, '') <> $2
               AND NOT (coalesce(owner, '') <> $3 AND {may_live})"
        ))
        .bind(micros(at))
        .bind(present)
        .bind(gone.unwrap_or_default())
        .execute(&self.writer)
        .await
    }
}

/// What the leases of processes begin with.
pub(crate) const NODE_LEASE: &str = "node:";

/// The lease that a process holds while it lives.
pub(crate) fn node_lease(node: &str) -> String {
    format!("{NODE_LEASE}{node}")
}

fn job(row: &Row) -> Result<Job> {
    let at = |micros: Option<i64>| micros.map(timestamp).transpose();
    let state: &str = row.get("state")?;
    let result: Option<&str> = row.get("result")?;
    Ok(Job {
        id: row.get("id")?,
        kind: row.get("kind")?,
        state: match state {
            "queued" => JobState::Queued,
            "running" => JobState::Running,
            "done" => JobState::Done,
            _ => JobState::Failed,
        },
        phase: row.get("phase")?,
        done: row.get::<i64>("done")?.unsigned_abs(),
        total: row.get::<i64>("total")?.unsigned_abs(),
        created_at: timestamp(row.get("created_at")?)?,
        started_at: at(row.get("started_at")?)?,
        finished_at: at(row.get("finished_at")?)?,
        error: row.get("error")?,
        result: result
            .map(serde_json::from_str)
            .transpose()
            .context("the result of a job is not JSON")?,
    })
}
