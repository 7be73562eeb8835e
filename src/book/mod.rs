//! The book of business: every deal with its score and its rank. It ties the store, the scorer and
//! the ranking together; HTTP and the command line do nothing to deals but through it.

//!
//! - `writing`: what a write does to a deal, and how it reaches the store and the ranking.
//! - `observing`: dated facts about many deals, as CRMs tell them.
//! - `activation`: another model, or the same one on another day, over all open deals.
//! - `challenging`: the model that waits, and its shadow scores.
//! - `replay`: a deal as it was, from the log of what was received.
//! - `paging`: pages of a ranking, from the accelerator or from the store.
//! - `tending`: Redis on its own, for those who operate it.
//! - `surveying`: all deals in memory, for insights.
//! - `healing`: fills the accelerator from the store, and lets it catch up with it.

mod activation;
mod challenging;
mod healing;
mod locks;
mod observing;
mod paging;
mod replay;
mod surveying;
mod tending;
mod writing;

use std::sync::{Arc, PoisonError};

use anyhow::Context;
use jiff::Timestamp;
use tokio::sync::Mutex;

pub use self::activation::{Activated, Refreshed};
pub use self::challenging::Shadow;
use self::locks::DealLocks;
pub use self::observing::{KeptEvent, Observed, Sighting};
pub use self::paging::RETIRED_CURSOR_MINUTES;
pub use self::replay::replay;
use self::surveying::Surveying;
pub use self::tending::{Cache, Compared};
use crate::domain::deal::Event;
use crate::domain::{Deal, DealId, Exchange};
use crate::error::{Error, Result};
use crate::insight::InsightSettings;
use crate::model::Model;
use crate::ranking::{Accelerator, AcceleratorHealth};
use crate::scoring::{Score, Scorer};
use crate::store::{LedgerEntry, ScoringNow, Store};

/// What an installation may want different.
#[derive(Debug, Clone, PartialEq)]
pub struct BookSettings {
    /// A deal longer than this in its stage is stalled.
    pub stalled_days: u32,
    /// What insights call things, and where they draw lines.
    pub insight: Arc<InsightSettings>,
    /// Opens the book without its active model, so that another one can take the place of one that
    /// cannot be read. Such a book is good for [`Book::activate`] alone.
    pub is_without_champion: bool,
}

impl Default for BookSettings {
    fn default() -> Self {
        Self {
            stalled_days: 30,
            insight: Arc::default(),
            is_without_champion: false,
        }
    }
}

/// A handle on the book; clones share it.
#[derive(Debug, Clone)]
pub struct Book {
    inner: Arc<Inner>,
}

/// Locks are taken in the order of their fields.
#[derive(Debug)]
struct Inner {
    store: Store,
    accelerator: Accelerator,
    exchange: Arc<Exchange>,
    settings: BookSettings,
    /// Held while a ranking is built, so that one is built at a time.
    building: Arc<Mutex<()>>,
    /// One write of a deal at a time: a later one must see what an earlier one left.
    deals: DealLocks,
    /// Held while the champion of the store is taken over, so that an older one does not come last.
    following: Mutex<()>,
    /// Held from a commit until the accelerator has followed, so that it follows in order.
    order: Mutex<()>,
    active: std::sync::RwLock<Option<Arc<Active>>>,
    /// Scores open deals unseen, beside the champion.
    challenger: std::sync::RwLock<Option<Scorer>>,
    /// The version of a challenger that cannot be read here, so that it is not tried again and again.
    unusable_challenger: std::sync::Mutex<Option<String>>,
    surveying: Surveying,
}

/// The champion, and the generation whose ranking it made.
#[derive(Debug)]
struct Active {
    generation: i64,
    scorer: Scorer,
}

/// A deal with its present score: `None` while no model is active, and once the deal is closed.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredDeal {
    pub deal: Deal,
    pub revision: i64,
    pub updated_at: Timestamp,
    pub score: Option<Score>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    pub deal: ScoredDeal,
    /// Whether the deal is new.
    pub is_created: bool,
    /// Whether anything about the deal changed.
    pub is_changed: bool,
}

/// An event with the id that its sender gave it, by which a second delivery is known.
#[derive(Debug, Clone, PartialEq)]
pub struct ReceivedEvent {
    pub id: Option<String>,
    pub event: Event,
}

/// What became of events.
#[derive(Debug, Clone, PartialEq)]
pub struct Appended {
    pub deal: ScoredDeal,
    pub applied: usize,
    /// Delivered before.
    pub duplicates: usize,
}

/// What became of a bulk of deals.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Imported {
    pub created: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// Deals that could not be revised, each with the reason.
    pub refused: Vec<(DealId, String)>,
}

/// How the book is doing, for `readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookHealth {
    pub is_store_up: bool,
    pub redis: AcceleratorHealth,
    /// Whether Redis is a cluster; `None` without Redis.
    pub is_redis_cluster: Option<bool>,
    /// How often Redis has gone out since the start; the log tells of each once.
    pub redis_outages: u64,
    /// When the ranking was last built from the store; `None` before the first time.
    pub ranking_rebuilt_at: Option<Timestamp>,
}

impl Book {
    /// Opens the book on a store: loads the active model, builds the ranking, and starts the task
    /// that heals it.
    ///
    /// # Errors
    /// When the store cannot be read. A Redis that is out is no error.
    pub async fn open(
        store: Store,
        accelerator: Accelerator,
        exchange: Arc<Exchange>,
        settings: BookSettings,
    ) -> Result<Self> {
        let active = match settings.is_without_champion {
            false => load_champion(&store, &exchange).await?,
            true => None,
        };
        let challenger = match &active {
            Some(_) => challenging::load(&store, &exchange).await?,
            None => None,
        };
        let inner = Arc::new(Inner {
            store,
            accelerator,
            exchange,
            settings,
            building: Arc::default(),
            deals: DealLocks::new(),
            following: Mutex::default(),
            order: Mutex::default(),
            active: std::sync::RwLock::new(active),
            challenger: std::sync::RwLock::new(challenger),
            unusable_challenger: std::sync::Mutex::default(),
            surveying: Surveying::default(),
        });
        healing::start(&inner).await?;
        surveying::start(&inner);
        Ok(Self { inner })
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.inner.exchange
    }

    /// The active model of this moment as a scorer; `None` when no model is active.
    ///
    /// # Errors
    /// When a shared store cannot be asked whether it is still the same.
    pub async fn scorer(&self) -> Result<Option<Scorer>> {
        let active = self.inner.champion().await?;
        Ok(active.map(|active| active.scorer.clone()))
    }

    /// A scorer of any registered model.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn scorer_of(&self, version: &str) -> Result<Scorer> {
        let model = Arc::new(self.inner.store.model(version).await?);
        Scorer::new(model, self.inner.exchange.clone())
    }

    /// Adds a model to the registry without activating it.
    pub async fn register(&self, model: &Model, origin: &str, at: Timestamp) -> Result<()> {
        self.inner.store.insert_model(model, origin, at).await
    }

    /// # Errors
    /// `NotFound`.
    pub async fn deal(&self, id: &DealId) -> Result<ScoredDeal> {
        let found = self.inner.store.scored_deal(id).await?;
        let (stored, score) = found.ok_or_else(|| no_deal(id))?;
        Ok(ScoredDeal {
            deal: stored.deal,
            revision: stored.revision,
            updated_at: stored.updated_at,
            score,
        })
    }

    /// What the deal is worth now, from the cache where possible.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn score(&self, id: &DealId) -> Result<Option<Score>> {
        let (store, accelerator) = (&self.inner.store, &self.inner.accelerator);
        let number = store.score_number(id).await?;
        let Some(number) = number.ok_or_else(|| no_deal(id))? else {
            return Ok(None);
        };
        if let Some(score) = accelerator.cached_score(id, number).await {
            return Ok(Some(score));
        }
        let Some(score) = store.score_numbered(number).await? else {
            // It has just ended, with all that the ledger had of it.
            return Ok(self.deal(id).await?.score);
        };
        accelerator.cache_score(number, score.clone()).await;
        if store.score_number(id).await?.is_none() {
            // Erased in between: of such a deal nothing stays in a cache.
            accelerator.forget(id).await;
            return Err(no_deal(id));
        }
        Ok(Some(score))
    }

    /// The history of a deal's score, newest first, from entries before `before`.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn ledger(
        &self,
        id: &DealId,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<LedgerEntry>> {
        let entries = self.inner.store.ledger(id, before, limit).await?;
        if entries.is_empty() && self.inner.store.deal(id).await?.is_none() {
            return Err(no_deal(id));
        }
        Ok(entries)
    }

    /// Waits until Redis is in a state, however it gets there; without Redis, not at all.
    pub async fn redis_is(&self, health: AcceleratorHealth) {
        self.inner.accelerator.wait_until(health).await;
    }

    pub async fn health(&self) -> BookHealth {
        BookHealth {
            is_store_up: self.inner.store.ping().await.is_ok(),
            redis: self.inner.accelerator.health(),
            is_redis_cluster: self.inner.accelerator.is_cluster(),
            redis_outages: self.inner.accelerator.outages(),
            ranking_rebuilt_at: self.inner.accelerator.rebuilt_at(),
        }
    }
}

impl Inner {
    /// The champion of this moment: on a shared store another process may have activated one.
    async fn champion(&self) -> Result<Option<Arc<Active>>> {
        if self.store.is_shared() {
            self.follow_champion().await?;
        }
        Ok(self.active())
    }

    /// Takes the champion and the challenger of the store, where they are others than here.
    async fn follow_champion(&self) -> Result<()> {
        if self.settings.is_without_champion || self.is_up_to(&self.store.scoring_now().await?) {
            return Ok(());
        }
        let _following = self.following.lock().await;
        let found = self.store.scoring_now().await?;
        if self.is_up_to(&found) {
            return Ok(());
        }
        if self.active().map(|active| active.generation) != found.generation {
            let active = load_champion(&self.store, &self.exchange).await?;
            *self.active.write().unwrap_or_else(PoisonError::into_inner) = active;
        }
        self.set_challenger(challenging::load(&self.store, &self.exchange).await?);
        *self
            .unusable_challenger
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = match &found.challenger {
            Some(version) if self.challenger_version().as_ref() != Some(version) => {
                Some(version.clone())
            }
            _ => None,
        };
        Ok(())
    }

    fn is_up_to(&self, found: &ScoringNow) -> bool {
        let unusable = self
            .unusable_challenger
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_challenger_known = self.challenger_version() == found.challenger
            || (found.challenger.is_some() && *unusable == found.challenger);
        self.active().map(|active| active.generation) == found.generation
            && (is_challenger_known || found.generation.is_none())
    }

    fn challenger_version(&self) -> Option<String> {
        self.challenger().map(|c| c.model().version.clone())
    }

    fn active(&self) -> Option<Arc<Active>> {
        self.active
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn load_champion(store: &Store, exchange: &Arc<Exchange>) -> Result<Option<Arc<Active>>> {
    let Some(generation) = store.active_generation().await? else {
        return Ok(None);
    };
    let model = store.model(&generation.model_version).await;
    let model = model.context("the champion cannot be used; `dealrank models` lists others, and `dealrank models activate VERSION` takes one in its place")?;
    Ok(Some(Arc::new(Active {
        generation: generation.id,
        scorer: Scorer::new(Arc::new(model), exchange.clone())?,
    })))
}

fn no_deal(id: &DealId) -> Error {
    Error::NotFound {
        kind: "deal",
        id: id.to_string(),
    }
}
