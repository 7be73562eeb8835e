//! The book of business: every deal with its score and its rank. It ties the store, the scorer and
//! the ranking together; HTTP and the command line do nothing to deals but through it.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::domain::deal::Event;
use crate::domain::{Deal, DealId, Exchange};
use crate::error::Result;
use crate::model::Model;
use crate::progress::OnProgress;
use crate::ranking::{Accelerator, AcceleratorHealth, RankingPage, RankingQuery};
use crate::scoring::{Score, Scorer};
use crate::store::{LedgerEntry, Store};

/// What an installation may want different.
#[derive(Debug, Clone, PartialEq)]
pub struct BookSettings {
    /// A deal longer than this in its stage is stalled.
    pub stalled_days: u32,
}

impl Default for BookSettings {
    fn default() -> Self {
        Self { stalled_days: 30 }
    }
}

/// A handle on the book; clones share it.
#[derive(Debug, Clone)]
pub struct Book {}

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Imported {
    pub created: u64,
    pub changed: u64,
    pub unchanged: u64,
}

/// What an activation did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Activated {
    pub model_version: String,
    pub generation: i64,
    pub scored: u64,
}

/// What a refresh did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Refreshed {
    pub scored: u64,
    pub changed: u64,
}

/// How the book is doing, for `readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BookHealth {
    pub is_store_up: bool,
    pub redis: AcceleratorHealth,
    /// When the ranking was last built from the store; `None` before the first time.
    pub ranking_rebuilt_at: Option<Timestamp>,
}

impl Book {
    /// Opens the book on a store: loads the active model, builds the ranking, and starts the task
    /// that heals it.
    pub async fn open(
        store: Store,
        accelerator: Accelerator,
        exchange: Arc<Exchange>,
        settings: BookSettings,
    ) -> Result<Self> {
        let _ = (store, accelerator, exchange, settings);
        todo!("store")
    }

    pub fn store(&self) -> &Store {
        todo!("store")
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        todo!("store")
    }

    /// The active model as a scorer; `None` when no model is active.
    pub fn scorer(&self) -> Option<Scorer> {
        todo!("store")
    }

    /// A scorer of any registered model.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn scorer_of(&self, version: &str) -> Result<Scorer> {
        let _ = version;
        todo!("store")
    }

    /// Takes `deal` as the deal's present: a new deal, or a revision of the stored one.
    pub async fn put(&self, deal: Deal, at: Timestamp) -> Result<Written> {
        let _ = (deal, at);
        todo!("store")
    }

    /// Changes the fields named in `patch`, a JSON merge patch (RFC 7396) on the deal document.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the patched document is not a deal, or has another id.
    pub async fn patch(&self, id: &DealId, patch: Value, at: Timestamp) -> Result<Written> {
        let _ = (id, patch, at);
        todo!("store")
    }

    /// Adds dated facts to a deal, each once however often it is delivered.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` (`events[2].value`) when a value does not fit its field: then none is added.
    pub async fn append(
        &self,
        id: &DealId,
        events: Vec<ReceivedEvent>,
        at: Timestamp,
    ) -> Result<Appended> {
        let _ = (id, events, at);
        todo!("store")
    }

    /// Forgets a deal with everything derived from it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn erase(&self, id: &DealId) -> Result<()> {
        let _ = id;
        todo!("store")
    }

    /// # Errors
    /// `NotFound`.
    pub async fn deal(&self, id: &DealId) -> Result<ScoredDeal> {
        let _ = id;
        todo!("store")
    }

    /// What the deal is worth now, from the cache where possible.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn score(&self, id: &DealId) -> Result<Option<Score>> {
        let _ = id;
        todo!("store")
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
        let _ = (id, before, limit);
        todo!("store")
    }

    /// Puts many deals, in chunks; meant to be called again and again with parts of a long file.
    pub async fn import(&self, deals: Vec<Deal>, at: Timestamp) -> Result<Imported> {
        let _ = (deals, at);
        todo!("store")
    }

    /// Adds a model to the registry without activating it.
    pub async fn register(&self, model: &Model, origin: &str, at: Timestamp) -> Result<()> {
        let _ = (model, origin, at);
        todo!("store")
    }

    /// Makes a registered model the champion: scores every open deal with it, then swaps the
    /// rankings in one step. Two at once wait for each other.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn activate(
        &self,
        version: &str,
        at: Timestamp,
        on_progress: OnProgress<'_>,
    ) -> Result<Activated> {
        let _ = (version, at, on_progress);
        todo!("store")
    }

    /// Scores every open deal again, since time alone moves scores; only those that changed leave a
    /// trace in the ledger.
    ///
    /// # Errors
    /// `NoModel`.
    pub async fn refresh(&self, at: Timestamp, on_progress: OnProgress<'_>) -> Result<Refreshed> {
        let _ = (at, on_progress);
        todo!("store")
    }

    /// A page of the open deals in order of worth. `cursor` is the `next_cursor` of the page before.
    ///
    /// # Errors
    /// `NoModel`; `Invalid` for a query out of range, or a cursor that is not ours or of another
    /// query; `CursorExpired`.
    pub async fn ranking(
        &self,
        query: &RankingQuery,
        cursor: Option<&str>,
        at: Timestamp,
    ) -> Result<RankingPage> {
        let _ = (query, cursor, at);
        todo!("store")
    }

    pub async fn health(&self) -> BookHealth {
        todo!("store")
    }
}
