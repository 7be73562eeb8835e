//! Training on the deals in the store.

use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::app::now;
use crate::book::Book;
use crate::domain::Deal;
use crate::error::Result;
use crate::ingest::Mapping;
use crate::model::Model;
use crate::progress::{OnProgress, Progress};
use crate::scoring::Scorer;
use crate::store::{ActivationCause, Fence, Which};
use crate::training::challenge::{Challenge, challenge};
use crate::training::{self, TrainOptions};

/// Deals that are read from the store at once.
const PAGE_DEALS: u32 = 1000;

/// What to train on. Everything may be left out.
#[derive(Debug, Clone, Default, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainRequest {
    /// Knows nothing later than this; now by default.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub as_of: Option<Timestamp>,
    /// Leaves out deals that were closed before.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub closed_since: Option<Timestamp>,
    /// Missing tokens, aliases and column rules, as in a mapping file. By default those of the latest
    /// import that had a mapping.
    #[schema(value_type = Option<Object>)]
    pub mapping: Option<Mapping>,
}

/// What became of a training.
#[derive(Debug, Serialize)]
pub struct Trained {
    pub model_version: String,
    pub deals: usize,
    /// Whether the model was activated at once, being the only one or better than the champion.
    pub is_active: bool,
    pub note: &'static str,
    /// How it did against the champion; null where there was none.
    pub challenge: Option<Challenge>,
}

/// Trains and registers a model. It becomes the champion if there is none, or if it beat the present
/// one on deals newer than both had seen; else it waits. Under a `fence`, it becomes nothing once
/// the lease has changed hands.
pub async fn train(
    book: &Book,
    request: TrainRequest,
    fence: Option<&Fence>,
    on_progress: impl Fn(Progress) + Send + Sync + 'static,
) -> Result<Trained> {
    let mapping = match request.mapping {
        Some(mapping) => mapping,
        None => latest_mapping(book).await?.unwrap_or_default(),
    };
    let trained_at = now();
    let options = TrainOptions {
        as_of: request.as_of.unwrap_or(trained_at),
        trained_at,
        mapping,
        exchange: book.exchange().as_ref().clone(),
    };
    let on_progress = Arc::new(on_progress);
    let deals = read_deals(book, request.closed_since, &*on_progress).await?;
    let deals_count = deals.iter().filter(|deal| !deal.is_open()).count();
    let listener = Arc::clone(&on_progress);
    let champion = book.scorer().await?;
    let learn = move || learn(&deals, champion.as_ref(), &options, &*listener);
    let (model, challenge) = tokio::task::spawn_blocking(learn)
        .await
        .map_err(anyhow::Error::from)??;
    let activated_by = match &challenge {
        None => {
            book.register(&model, "trained", trained_at).await?;
            Some(ActivationCause::First)
        }
        Some(challenge) => {
            book.register_challenger(&model, challenge, fence, trained_at, &*on_progress)
                .await?;
            challenge.is_better.then_some(ActivationCause::Challenge)
        }
    };
    if let Some(cause) = activated_by {
        book.activate_by(&model.version, cause, fence, now(), &*on_progress)
            .await?;
    }
    Ok(Trained {
        model_version: model.version,
        deals: deals_count,
        is_active: activated_by.is_some(),
        note: match activated_by {
            Some(ActivationCause::First) => "activated, since no model was active",
            Some(_) => "activated, since it was better than the champion on newer deals",
            None => "a challenger: activate it with POST /v1/models/{version}/activate",
        },
        challenge,
    })
}

/// The model, and how its recipe does against the champion.
fn learn(
    deals: &[Deal],
    champion: Option<&Scorer>,
    options: &TrainOptions,
    on_progress: OnProgress,
) -> Result<(Model, Option<Challenge>)> {
    let model = training::train(deals, options, on_progress)?;
    let challenge = champion.map(|champion| challenge(deals, champion, options, on_progress));
    Ok((model, challenge))
}

/// The open deals and the closed ones that are wanted.
pub(super) async fn read_deals(
    book: &Book,
    closed_since: Option<Timestamp>,
    on_progress: OnProgress<'_>,
) -> Result<Vec<Deal>> {
    let store = book.store();
    let total = store.count_deals(Which::All).await?;
    let mut deals: Vec<Deal> = Vec::new();
    let mut after = None;
    let mut done = 0;
    loop {
        let page = store.deals(Which::All, after.as_ref(), PAGE_DEALS).await?;
        let Some(last) = page.last() else {
            return Ok(deals);
        };
        after = Some(last.deal.id.clone());
        done += page.len() as u64;
        let phase = "reading";
        on_progress(Progress { phase, done, total });
        let is_wanted = |deal: &Deal| match (closed_since, deal.closed_at) {
            (Some(since), Some(closed_at)) => closed_at >= since,
            (Some(_), None) => deal.is_open(),
            (None, _) => true,
        };
        deals.extend(page.into_iter().map(|stored| stored.deal).filter(is_wanted));
    }
}

/// The mapping of the latest import that had one. Attributes are stored as they came; what means
/// "missing" among them, say, is known to the mapping alone.
async fn latest_mapping(book: &Book) -> Result<Option<Mapping>> {
    let mapping = book.store().latest_import_mapping().await?;
    let mapping = mapping.map(serde_json::from_value).transpose();
    Ok(mapping.context("the mapping of the latest import cannot be read")?)
}
