//! Another model over all open deals, or the same model on another day.

use std::sync::{Arc, PoisonError};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use super::healing::{self, CHUNK_AMENDED};
use super::writing::{CHUNK_DEALS, Intent, Wish, finish, standing};
use super::{Active, Book, Inner, challenging};
use crate::domain::DealId;
use crate::error::{Error, Result};
use crate::nodes::Lease;
use crate::progress::{OnProgress, Progress, silent};
use crate::ranking::{Draft, Member, RankingRow};
use crate::scoring::Scorer;
use crate::store::{ActivationCause, Fence, StoredDeal, Which, random_id};

/// Deals scored at a time.
const CHUNK_SCORED: u32 = 1000;
/// With so few deals left to score again, writers are held up for the last round.
const LAST_ROUND_DEALS: usize = 100;
/// The lease of the one process that activates a model.
const ACTIVATION: &str = "activation";
/// Rounds of catching up before the last one comes regardless.
const ROUNDS_MAX: usize = 10;

/// What an activation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Activated {
    pub model_version: String,
    pub generation: i64,
    /// Open deals that were scored.
    pub scored: u64,
}

/// What a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Refreshed {
    pub scored: u64,
    pub changed: u64,
}

impl Book {
    /// Makes a registered model the champion: scores every open deal with it, then swaps the
    /// rankings in one step. Two at once wait for each other; writes go on meanwhile.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn activate(
        &self,
        version: &str,
        at: Timestamp,
        on_progress: OnProgress<'_>,
    ) -> Result<Activated> {
        let cause = match self.inner.store.activations(1).await?.is_empty() {
            true => ActivationCause::First,
            false => ActivationCause::Command,
        };
        self.activate_by(version, cause, None, at, on_progress)
            .await
    }

    /// Makes the model the champion that was it before the present one, as [`Self::activate`] does. A
    /// second time leads one further back.
    ///
    /// # Errors
    /// `NoPreviousModel`.
    pub async fn roll_back(&self, at: Timestamp, on_progress: OnProgress<'_>) -> Result<Activated> {
        let version = self.inner.store.previous_champion().await?;
        self.activate_by(&version, ActivationCause::Rollback, None, at, on_progress)
            .await
    }

    /// As [`Self::activate`]; under a `fence`, `Conflict` once that lease has changed hands.
    pub(crate) async fn activate_by(
        &self,
        version: &str,
        cause: ActivationCause,
        fence: Option<&Fence>,
        at: Timestamp,
        on_progress: OnProgress<'_>,
    ) -> Result<Activated> {
        let inner = &self.inner;
        let scorer = self.scorer_of(version).await?;
        let building = inner.building.clone().lock_owned().await;
        let mut lease = None;
        if inner.store.is_shared() {
            let competing = Lease::compete(inner.store.clone(), ACTIVATION, random_id());
            lease = Some((competing.acquired().await, competing));
        }
        let own_fence = lease.as_ref().map(|(fence, _)| fence.clone());
        let mut next = NextGeneration {
            fences: [own_fence, fence.cloned()],
            generation: inner.store.begin_generation(version).await?,
            scorer,
            at,
            cause,
            seq: inner.store.moment().await?.seq,
        };
        let generation = next.generation;
        let scored = inner.score_all(&next, on_progress).await?;
        let mut draft = inner.accelerator.draft(generation).await;
        let (store, accelerator) = (&inner.store, &inner.accelerator);
        healing::fill(
            store,
            accelerator,
            &mut draft,
            generation,
            i64::MAX,
            &silent,
        )
        .await?;
        for _ in 0..ROUNDS_MAX {
            if inner.catch_up(&mut next, &mut draft).await? <= LAST_ROUND_DEALS {
                break;
            }
        }
        let inner = inner.clone();
        finish(async move {
            let swapped = inner.swap(&next, draft).await;
            if let Some((_, lease)) = lease
                && let Err(error) = lease.give_back().await
            {
                tracing::debug!("the lease of an activation runs out: {error:#}");
            }
            drop(building);
            swapped
        })
        .await?;
        Ok(Activated {
            model_version: version.to_owned(),
            generation,
            scored,
        })
    }

    /// Scores every open deal again, since time alone moves scores; only those that changed leave a
    /// trace in the ledger.
    ///
    /// # Errors
    /// `NoModel`; under a `fence`, `Conflict` once that lease has changed hands.
    pub async fn refresh(
        &self,
        at: Timestamp,
        fence: Option<&Fence>,
        on_progress: OnProgress<'_>,
    ) -> Result<Refreshed> {
        let inner = &self.inner;
        inner.champion().await?.ok_or(Error::NoModel)?;
        let total = inner.store.count_deals(Which::Open).await?;
        let mut refreshed = Refreshed::default();
        let mut last = None;
        loop {
            let ids = inner
                .store
                .deal_ids(Which::Open, last.as_ref(), CHUNK_DEALS as u32)
                .await?;
            match ids.last() {
                Some(id) => last = Some(id.clone()),
                None => return Ok(refreshed),
            }
            let wish = |deal_id| Wish {
                deal_id,
                intents: vec![Intent::Refresh],
            };
            let wishes = ids.into_iter().map(wish).collect();
            let fulfilled = self.fulfil_under(fence, wishes, "refresh", at);
            for (_, fulfilled) in fulfilled.await? {
                match fulfilled {
                    Ok(fulfilled) => {
                        refreshed.scored += 1;
                        refreshed.changed += u64::from(fulfilled.is_score_changed);
                    }
                    // Erased since its id was read.
                    Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            on_progress(Progress {
                phase: "score",
                done: refreshed.scored,
                total: total.max(refreshed.scored),
            });
        }
    }
}

/// A generation that is being built.
struct NextGeneration {
    /// Of the activation, and of whoever asked for it.
    fences: [Option<Fence>; 2],
    generation: i64,
    scorer: Scorer,
    at: Timestamp,
    cause: ActivationCause,
    /// Deals that were written up to this number of the global sequence are scored.
    seq: i64,
}

impl NextGeneration {
    fn fences(&self) -> [Option<&Fence>; 2] {
        self.fences.each_ref().map(Option::as_ref)
    }
}

impl Inner {
    /// Scores all open deals, a chunk at a time; those written meanwhile have to be scored again.
    async fn score_all(&self, next: &NextGeneration, on_progress: OnProgress<'_>) -> Result<u64> {
        let total = self.store.count_deals(Which::Open).await?;
        let mut scored = 0;
        let mut last: Option<DealId> = None;
        loop {
            let deals = self
                .store
                .deals(Which::Open, last.as_ref(), CHUNK_SCORED)
                .await?;
            match deals.last() {
                Some(stored) => last = Some(stored.deal.id.clone()),
                None => return Ok(scored),
            }
            let ids: Vec<DealId> = deals.iter().map(|s| s.deal.id.clone()).collect();
            let standings = self.standings(next, deals).await?;
            scored += standings.len() as u64;
            self.store
                .set_unseen(next.generation, &next.fences(), &ids, &standings)
                .await?;
            on_progress(Progress {
                phase: "score",
                done: scored,
                total: total.max(scored),
            });
        }
    }

    /// Scores again what was written since it was read; answers with how many deals that were.
    async fn catch_up(&self, next: &mut NextGeneration, draft: &mut Draft) -> Result<usize> {
        let (touched, seq) = self.store.touched_since(next.seq).await?;
        for ids in touched.chunks(CHUNK_AMENDED) {
            let deals = self.store.deals_of(ids).await?;
            let standings = self.standings(next, deals).await?;
            self.store
                .set_unseen(next.generation, &next.fences(), ids, &standings)
                .await?;
            let members = standings.iter().map(Member::of).collect();
            self.accelerator.amend(draft, ids, members).await;
        }
        next.seq = seq;
        Ok(touched.len())
    }

    async fn standings(
        &self,
        next: &NextGeneration,
        deals: Vec<StoredDeal>,
    ) -> Result<Vec<RankingRow>> {
        let (scorer, exchange, at) = (next.scorer.clone(), self.exchange.clone(), next.at);
        let score = move || {
            let open = deals.iter().filter(|stored| stored.deal.is_open());
            // What was written since the beginning is part of what is known.
            open.map(|s| standing(&s.deal, &scorer, &exchange, at.max(s.updated_at)))
                .collect()
        };
        Ok(tokio::task::spawn_blocking(score)
            .await
            .context("scoring broke off")?)
    }

    /// Holds writers up, in all processes, catches up for the last time, and makes the generation the one
    /// that is seen: in the store, in the accelerator, in this process.
    async fn swap(&self, next: &NextGeneration, mut draft: Draft) -> Result<()> {
        let generation = next.generation;
        if let Some(redis) = self.accelerator.in_redis() {
            // Between the store and Redis nobody else has to mend anything.
            redis.claim_building(true).await;
        }
        let _order = self.order.lock().await;
        let mut swap = self.store.begin_swap(generation, &next.fences()).await?;
        let touched = swap.touched_since(next.seq).await?;
        let mut members = Vec::new();
        for ids in touched.chunks(CHUNK_AMENDED) {
            let deals = swap.deals_of(ids).await?;
            let standings = self.standings(next, deals).await?;
            swap.set_unseen(ids, &standings).await?;
            members.extend(standings.iter().map(Member::of));
        }
        let seq = swap.activate(next.at, next.cause).await?;
        self.accelerator.amend(&mut draft, &touched, members).await;
        self.accelerator.publish(draft, generation, seq).await;
        *self.active.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(Active {
            generation,
            scorer: next.scorer.clone(),
        }));
        self.set_challenger(challenging::load(&self.store, &self.exchange).await?);
        Ok(())
    }
}
