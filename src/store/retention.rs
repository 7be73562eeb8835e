//! What is no longer kept: scores that ended long ago, rankings of models that were replaced long ago,
//! jobs that were over long ago. Deals and what was received of them stay.

use jiff::Timestamp;

use super::engine::{Sql, Tx};
use super::{Fence, Store, current_seq, leases, micros};
use crate::error::Result;

/// Scores removed in one transaction, so that nobody waits long for the writer.
const CHUNK_SCORES: i64 = 2000;

/// The setting with the number up to which ended scores are gone: see [`horizon`].
const HORIZON: &str = "pruned_seq";

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    pub scores: u64,
    pub generations: u64,
    /// Ids of the jobs.
    pub jobs: Vec<String>,
}

impl Store {
    /// Removes what ended before `cutoff`, and notes for later how far the sequence is at `now`: ended
    /// scores carry a number, and no time, of their end. So nothing goes before the first note is
    /// older than the cutoff. Present scores stay, and all that cursors younger than that may ask for.
    ///
    /// # Errors
    /// `Conflict` when it is done under a lease that has changed hands.
    pub async fn prune(
        &self,
        now: Timestamp,
        cutoff: Timestamp,
        fence: Option<&Fence>,
    ) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        if let Some(seq) = self.mark(now, cutoff, fence).await? {
            for generation in self.generations(None).await? {
                pruned.scores += self.delete_scores(ENDED, generation, seq).await?;
            }
        }
        for generation in self.generations(Some(cutoff)).await? {
            pruned.scores += self.delete_scores(ENDED, generation, i64::MAX).await?;
            pruned.scores += self.delete_scores(UNENDED, generation, i64::MAX).await?;
            Sql::new("DELETE FROM generations WHERE id = $1")
                .bind(generation)
                .execute(&self.writer)
                .await?;
            pruned.generations += 1;
        }
        pruned.jobs = self.delete_jobs(cutoff).await?;
        Ok(pruned)
    }

    /// Notes the present number, and answers with the one at the cutoff, which becomes the horizon.
    async fn mark(
        &self,
        now: Timestamp,
        cutoff: Timestamp,
        fence: Option<&Fence>,
    ) -> Result<Option<i64>> {
        let mut tx = self.writer.write().await?;
        leases::check(&mut tx, fence).await?;
        let seq = current_seq(&mut tx).await?;
        Sql::new(
            "INSERT INTO ledger_marks (marked_at, seq) VALUES ($1, $2)
             ON CONFLICT (marked_at) DO UPDATE SET seq = excluded.seq",
        )
        .bind(micros(now))
        .bind(seq)
        .execute(&mut tx)
        .await?;
        let seq: Option<i64> = Sql::new("SELECT max(seq) FROM ledger_marks WHERE marked_at <= $1")
            .bind(micros(cutoff))
            .scalar(&mut tx)
            .await?;
        if let Some(seq) = seq {
            Sql::new("DELETE FROM ledger_marks WHERE seq < $1")
                .bind(seq)
                .execute(&mut tx)
                .await?;
            Sql::new(
                "INSERT INTO settings (name, value) VALUES ($1, $2)
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            )
            .bind(HORIZON)
            .bind(seq.to_string())
            .execute(&mut tx)
            .await?;
        }
        tx.commit().await?;
        Ok(seq)
    }

    /// All generations that have been seen, or those that were retired before a time.
    async fn generations(&self, retired_before: Option<Timestamp>) -> Result<Vec<i64>> {
        Sql::new(
            "SELECT id FROM generations
             WHERE state <> 'building' AND ($1 IS NULL OR retired_at < $1) ORDER BY id",
        )
        .bind(retired_before.map(micros))
        .scalars(&self.readers)
        .await
    }

    /// Removes scores of a generation that `delete` finds, as of `seq`, a chunk at a time.
    async fn delete_scores(&self, delete: &'static str, generation: i64, seq: i64) -> Result<u64> {
        let mut deleted = 0;
        loop {
            let chunk = Sql::new(delete)
                .bind(generation)
                .bind(seq)
                .bind(CHUNK_SCORES)
                .execute(&self.writer)
                .await?;
            deleted += chunk;
            if chunk == 0 {
                return Ok(deleted);
            }
        }
    }

    /// Jobs that are over; the latest import with a mapping stays, since trainings go by it.
    async fn delete_jobs(&self, cutoff: Timestamp) -> Result<Vec<String>> {
        let mapping = self.writer.engine().json_object("result", "mapping");
        Sql::new(format!(
            "DELETE FROM jobs WHERE state IN ('done', 'failed') AND finished_at < $1
             AND seq NOT IN
                 (SELECT seq FROM jobs
                  WHERE kind = 'import' AND state = 'done' AND {mapping} IS NOT NULL
                  ORDER BY seq DESC LIMIT 1)
             RETURNING id"
        ))
        .bind(micros(cutoff))
        .scalars(&self.writer)
        .await
    }
}

const ENDED: &str = "DELETE FROM scores WHERE from_seq IN
    (SELECT from_seq FROM scores WHERE generation = $1 AND to_seq <= $2 LIMIT $3)";

/// Of a retired generation; these scores ended with it.
const UNENDED: &str = "DELETE FROM scores WHERE from_seq IN
    (SELECT from_seq FROM scores
     WHERE generation = $1 AND to_seq IS NULL AND from_seq <= $2 LIMIT $3)";

/// Scores that ended at this number or before may be gone: rankings as of earlier ones cannot be read.
pub(super) async fn horizon(tx: &mut Tx) -> Result<i64> {
    let value: Option<String> = Sql::new("SELECT value FROM settings WHERE name = $1")
        .bind(HORIZON)
        .scalar_optional(tx)
        .await?;
    Ok(value.and_then(|seq| seq.parse().ok()).unwrap_or(0))
}
