//! The model that waits to take the champion's place. It scores open deals unseen, so that both can
//! be judged on what becomes of them.

use std::sync::{Arc, PoisonError};

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;

use super::{Book, Inner};
use crate::domain::{Deal, DealId, Exchange};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::progress::{OnProgress, Progress};
use crate::scoring::{Score, Scorer};
use crate::store::{Fence, ShadowScore, Store, Which};
use crate::training::challenge::{Challenge, Paired, compare_forecasts};

/// Deals scored at a time.
const CHUNK_DEALS: u32 = 500;

/// What became of the deals that a challenger scored beside the champion, each judged by the last
/// scores before its end.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Shadow {
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Deals that are open still.
    pub open_deals: usize,
    /// Deals that have ended.
    pub deals: usize,
    pub won_deals: usize,
    /// Null until a deal has ended.
    pub log_loss: Option<Paired>,
}

impl Book {
    /// Adds a model that was compared with the champion to the registry. Unless it was better, it
    /// scores open deals beside the champion from now on, the present ones at once; an earlier
    /// challenger no longer does.
    ///
    /// # Errors
    /// `Conflict` when it is done under a lease that has changed hands.
    pub async fn register_challenger(
        &self,
        model: &Model,
        challenge: &Challenge,
        fence: Option<&Fence>,
        at: Timestamp,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let inner = &self.inner;
        let scorer = Scorer::new(Arc::new(model.clone()), inner.exchange.clone())?;
        inner
            .store
            .insert_challenger(model, challenge, fence, at)
            .await?;
        if challenge.is_better {
            inner.set_challenger(None);
            return Ok(());
        }
        inner.set_challenger(Some(scorer.clone()));
        inner.shadow_all(&scorer, at, on_progress).await
    }

    /// What became of the deals that a challenger scored; `None` for a model that never was one, or
    /// whose shadow scores went when another model became the champion.
    pub async fn shadow(&self, version: &str) -> Result<Option<Shadow>> {
        let outcomes = self.inner.store.shadow_outcomes(version).await?;
        Ok(outcomes.map(|outcomes| Shadow {
            since: outcomes.since,
            open_deals: outcomes.open_deals,
            deals: outcomes.forecasts.len(),
            won_deals: outcomes.forecasts.iter().filter(|f| f.won).count(),
            log_loss: compare_forecasts(&outcomes.forecasts),
        }))
    }
}

/// The challenger of the store as a scorer. One that cannot be read is left alone: the service does
/// not need it.
pub(super) async fn load(store: &Store, exchange: &Arc<Exchange>) -> Result<Option<Scorer>> {
    let Some(version) = store.challenger().await? else {
        return Ok(None);
    };
    let model = store.model(&version).await;
    match model.and_then(|model| Scorer::new(Arc::new(model), exchange.clone())) {
        Ok(scorer) => Ok(Some(scorer)),
        Err(error) => {
            tracing::warn!(version, "the challenger cannot be used: {error:#}");
            Ok(None)
        }
    }
}

impl Inner {
    pub(super) fn challenger(&self) -> Option<Scorer> {
        let challenger = self.challenger.read();
        challenger.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_challenger(&self, challenger: Option<Scorer>) {
        let place = self.challenger.write();
        *place.unwrap_or_else(PoisonError::into_inner) = challenger;
    }

    /// Scores all open deals with the challenger and the champion, a chunk at a time.
    async fn shadow_all(
        &self,
        challenger: &Scorer,
        at: Timestamp,
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let champion = self.champion().await?.ok_or(Error::NoModel)?;
        let total = self.store.count_deals(Which::Open).await?;
        let mut done = 0;
        let mut last: Option<DealId> = None;
        loop {
            let deals = self
                .store
                .deals(Which::Open, last.as_ref(), CHUNK_DEALS)
                .await?;
            match deals.last() {
                Some(stored) => last = Some(stored.deal.id.clone()),
                None => return Ok(()),
            }
            done += deals.len() as u64;
            let (challenger, champion) = (challenger.clone(), champion.scorer.clone());
            let score = move || {
                let shadows = deals.iter().map(|stored| {
                    let at = at.max(stored.updated_at);
                    shadow(&stored.deal, &champion.score(&stored.deal, at), &challenger)
                });
                shadows.collect::<Vec<_>>()
            };
            let shadows = tokio::task::spawn_blocking(score).await;
            let shadows = shadows.context("scoring broke off")?;
            self.store.add_shadows(&shadows).await?;
            let phase = "shadow scores";
            let total = total.max(done);
            on_progress(Progress { phase, done, total });
        }
    }
}

/// What the challenger makes of a deal at the moment of the champion's score.
pub(super) fn shadow(deal: &Deal, champion: &Score, challenger: &Scorer) -> ShadowScore {
    let score = challenger.score(deal, champion.scored_at);
    ShadowScore {
        model_version: score.model_version,
        deal_id: deal.id.clone(),
        probability: score.win_probability.get(),
        champion_probability: champion.win_probability.get(),
        scored_at: champion.scored_at,
    }
}
