//! Generations: each is the ranking under one model, built unseen and then made active in one step.

use std::collections::HashSet;

use jiff::Timestamp;

use super::engine::{Row, Sql, Tx};
use super::{
    ActivationCause, Fence, Store, StoredDeal, activations, deals, following, leases, ledger,
    micros, outbox, take_seqs, timestamp,
};
use crate::domain::DealId;
use crate::error::{Error, Result};
use crate::outbound::Event;
use crate::ranking::RankingRow;

/// A generation that has been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generation {
    pub id: i64,
    pub model_version: String,
    /// When another one took its place.
    pub retired_at: Option<Timestamp>,
}

impl Store {
    pub(crate) async fn active_generation(&self) -> Result<Option<Generation>> {
        let mut tx = self.readers.read().await?;
        active(&mut tx).await
    }

    /// Begins a generation, and clears away one that was never finished.
    pub(crate) async fn begin_generation(&self, model_version: &str) -> Result<i64> {
        let mut tx = self.writer.write().await?;
        // Never an id again: somebody may still be at work on what is cleared away here.
        let id = take_seqs(&mut tx, 1).await?;
        for clean_up in [
            "DELETE FROM scores
             WHERE generation IN (SELECT id FROM generations WHERE state = 'building')",
            "DELETE FROM generations WHERE state = 'building'",
        ] {
            Sql::new(clean_up).execute(&mut tx).await?;
        }
        Sql::new("INSERT INTO generations (id, model_version, state) VALUES ($1, $2, 'building')")
            .bind(id)
            .bind(model_version)
            .execute(&mut tx)
            .await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Sets the lines of `ids` in a generation that nobody sees yet: those in `standings`, none for
    /// the others. Deals that were erased meanwhile get no line.
    ///
    /// # Errors
    /// `Conflict` when one of the leases has changed hands.
    pub(crate) async fn set_unseen(
        &self,
        generation: i64,
        fences: &[Option<&Fence>],
        ids: &[DealId],
        standings: &[RankingRow],
    ) -> Result<()> {
        let mut tx = self.writer.write().await?;
        take_seqs(&mut tx, 0).await?;
        for fence in fences {
            leases::check(&mut tx, *fence).await?;
        }
        set_unseen(&mut tx, generation, ids, standings).await?;
        tx.commit().await
    }

    /// Begins the last step of an activation. From here on nobody else commits, in any process.
    ///
    /// # Errors
    /// `Conflict` when one of the leases has changed hands.
    pub(crate) async fn begin_swap(
        &self,
        generation: i64,
        fences: &[Option<&Fence>],
    ) -> Result<Swap> {
        let mut tx = self.writer.write().await?;
        take_seqs(&mut tx, 0).await?;
        for fence in fences {
            leases::check(&mut tx, *fence).await?;
        }
        Ok(Swap { tx, generation })
    }
}

/// The last step of an activation, in one transaction; dropped, it is as if it had not begun.
#[derive(Debug)]
pub(crate) struct Swap {
    tx: Tx,
    generation: i64,
}

impl Swap {
    /// The deals that were changed or erased since a number.
    pub async fn touched_since(&mut self, seq: i64) -> Result<Vec<DealId>> {
        following::touched_since(&mut self.tx, seq).await
    }

    /// The deals among `ids` that are there.
    pub async fn deals_of(&mut self, ids: &[DealId]) -> Result<Vec<StoredDeal>> {
        deals::stored_deals(&mut self.tx, ids).await
    }

    /// As [`Store::set_unseen`].
    pub async fn set_unseen(&mut self, ids: &[DealId], standings: &[RankingRow]) -> Result<()> {
        set_unseen(&mut self.tx, self.generation, ids, standings).await
    }

    /// Makes the generation the active one, in one step. Answers with the sequence of that step.
    pub async fn activate(mut self, at: Timestamp, cause: ActivationCause) -> Result<i64> {
        let tx = &mut self.tx;
        let seq = take_seqs(tx, 1).await?;
        Sql::new(
            "UPDATE generations SET state = 'retired', retired_at = $1, retired_seq = $2
             WHERE state = 'active'",
        )
        .bind(micros(at))
        .bind(seq)
        .execute(&mut *tx)
        .await?;
        let version: Option<String> = Sql::new(
            "UPDATE generations SET state = 'active', activated_at = $1
             WHERE id = $2 AND state = 'building' RETURNING model_version",
        )
        .bind(micros(at))
        .bind(self.generation)
        .scalar_optional(&mut *tx)
        .await?;
        let version = version.ok_or_else(|| {
            Error::Conflict("another activation has begun meanwhile: this one is given up".into())
        })?;
        let previous = activations::record(tx, &version, at, cause).await?;
        let event = Event::model_activated(&version, previous.as_deref(), cause.as_str(), at);
        outbox::tell_model(tx, seq, event).await?;
        self.tx.commit().await?;
        Ok(seq)
    }
}

async fn set_unseen(
    tx: &mut Tx,
    generation: i64,
    ids: &[DealId],
    standings: &[RankingRow],
) -> Result<()> {
    let last_seq = take_seqs(tx, standings.len()).await?;
    let mut delete = Sql::new("DELETE FROM scores WHERE generation = ");
    delete
        .push_bind(generation)
        .push(" AND to_seq IS NULL AND deal_id IN ")
        .push_list(ids.iter().map(DealId::as_str));
    delete.execute(&mut *tx).await?;
    let mut present = Sql::new("SELECT id FROM deals WHERE id IN ");
    present.push_list(ids.iter().map(DealId::as_str));
    let present: HashSet<String> = present.scalars(&mut *tx).await?.into_iter().collect();
    let first_seq = last_seq - standings.len() as i64 + 1;
    let rows: Vec<_> = (first_seq..)
        .zip(standings)
        .filter(|(_, standing)| present.contains(standing.deal.id.as_str()))
        .collect();
    ledger::insert(tx, generation, "activation", &rows).await
}

pub(super) async fn active(tx: &mut Tx) -> Result<Option<Generation>> {
    let row = Sql::new("SELECT * FROM generations WHERE state = 'active'")
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(generation).transpose()
}

/// A generation that is or was active; `None` if there is none of that id.
pub(super) async fn seen(tx: &mut Tx, id: i64) -> Result<Option<Generation>> {
    let row = Sql::new("SELECT * FROM generations WHERE id = $1 AND state <> 'building'")
        .bind(id)
        .fetch_optional(tx)
        .await?;
    row.as_ref().map(generation).transpose()
}

fn generation(row: &Row) -> Result<Generation> {
    let retired_at: Option<i64> = row.get("retired_at")?;
    Ok(Generation {
        id: row.get("id")?,
        model_version: row.get("model_version")?,
        retired_at: retired_at.map(timestamp).transpose()?,
    })
}
