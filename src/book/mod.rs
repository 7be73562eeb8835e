//! The book of business: every deal with its score and its rank. It ties the store, the scorer and
//! the ranking together; HTTP and the command line do nothing to deals but through it.

//!
//! - `writing`: what a write does to a deal, and how it reaches the store and the ranking.
//! - `observing`: dated facts about many deals, as CRMs tell them.
//! - `activation`: another model, or the same one on another day, over all open deals.
//! - `challenging`: the model that waits, and its shadow scores.
//! - `replay`: a deal as it was, from the log of what was received.
//! - `paging`: pages of a ranking, from the accelerator or from the store.
//! - `healing`: fills the accelerator from the store.

mod activation;
mod challenging;
mod healing;
mod locks;
mod observing;
mod paging;
mod replay;
mod writing;

use std::sync::{Arc, PoisonError};

use anyhow::Context;
use jiff::Timestamp;
use tokio::sync::{Mutex, RwLock};

pub use self::activation::{Activated, Refreshed};
pub use self::challenging::Shadow;
use self::healing::Journal;
use self::locks::DealLocks;
pub use self::observing::{Observed, Sighting};
pub use self::paging::RETIRED_CURSOR_MINUTES;
pub use self::replay::replay;
use crate::domain::deal::Event;
use crate::domain::{Deal, DealId, Exchange};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ranking::{Accelerator, AcceleratorHealth};
use crate::scoring::{Score, Scorer};
use crate::store::{LedgerEntry, Store};

/// What an installation may want different.
#[derive(Debug, Clone, PartialEq)]
pub struct BookSettings {
    /// A deal longer than this in its stage is stalled.
    pub stalled_days: u32,
    /// Opens the book without its active model, so that another one can take the place of one that
    /// cannot be read. Such a book is good for [`Book::activate`] alone.
    pub is_without_champion: bool,
}

impl Default for BookSettings {
    fn default() -> Self {
        Self {
            stalled_days: 30,
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
    /// Writers pass together; the swap to another generation waits for them and holds up new ones.
    gate: RwLock<()>,
    /// Held from a commit until the accelerator has followed, so that it follows in order.
    order: Mutex<()>,
    active: std::sync::RwLock<Option<Arc<Active>>>,
    /// Scores open deals unseen, beside the champion.
    challenger: std::sync::RwLock<Option<Scorer>>,
    journal: Journal,
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
        let active = match store.active_generation().await? {
            Some(generation) if !settings.is_without_champion => {
                let model = store.model(&generation.model_version).await;
                let model = model.context("the champion cannot be used; `dealrank models` lists others, and `dealrank models activate VERSION` takes one in its place")?;
                Some(Arc::new(Active {
                    generation: generation.id,
                    scorer: Scorer::new(Arc::new(model), exchange.clone())?,
                }))
            }
            _ => None,
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
            gate: RwLock::default(),
            order: Mutex::default(),
            active: std::sync::RwLock::new(active),
            challenger: std::sync::RwLock::new(challenger),
            journal: Journal::default(),
        });
        healing::start(&inner).await?;
        Ok(Self { inner })
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.inner.exchange
    }

    /// The active model as a scorer; `None` when no model is active.
    pub fn scorer(&self) -> Option<Scorer> {
        self.inner.active().map(|active| active.scorer.clone())
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
        if let Some(active) = self.inner.active() {
            let version = &active.scorer.model().version;
            if let Some(score) = self.inner.accelerator.cached_score(version, id).await {
                return Ok(Some(score));
            }
        }
        // No write and no swap may come between reading and caching, or the cache would keep what was
        // before.
        let _lock = self.inner.deals.lock([id]).await;
        let _gate = self.inner.gate.read().await;
        let score = self.deal(id).await?.score;
        if let Some(score) = &score {
            self.inner.accelerator.cache_score(score.clone()).await;
        }
        Ok(score)
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
            redis_outages: self.inner.accelerator.outages(),
            ranking_rebuilt_at: self.inner.accelerator.rebuilt_at(),
        }
    }
}

impl Inner {
    fn active(&self) -> Option<Arc<Active>> {
        self.active
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn no_deal(id: &DealId) -> Error {
    Error::NotFound {
        kind: "deal",
        id: id.to_string(),
    }
}
