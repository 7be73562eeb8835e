//! Recalibration on the deals in the store.

use serde::Serialize;
use tokio::sync::Mutex;

use super::train::read_deals;
use crate::app::now;
use crate::book::Book;
use crate::error::Result;
use crate::evaluation::recalibration::Recalibration;
use crate::progress::Progress;
use crate::training::recalibration::{RecalibrateOptions, recalibrate as shifted};

/// All deals are in memory meanwhile: one after the other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A model that was shifted to the newest outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub struct RecalibratedModel {
    pub model_version: String,
    /// The model that it was made from.
    pub from_version: String,
    pub recalibration: Recalibration,
}

/// Shifts a registered model to the deals that closed since it was trained, and registers the result,
/// which waits to be activated. `force` applies what is not offered.
///
/// # Errors
/// `NotOffered`; `NotFound` when there is no such model.
pub async fn recalibrate(
    book: &Book,
    version: &str,
    force: bool,
    on_progress: impl Fn(Progress) + Send + Sync,
) -> Result<RecalibratedModel> {
    let scorer = book.scorer_of(version).await?;
    let _turn = ONE_AT_A_TIME.lock().await;
    let deals = read_deals(book, None, &on_progress).await?;
    let at = now();
    let options = RecalibrateOptions {
        at,
        or_all: false,
        force,
    };
    let shift = move || shifted(&scorer, &deals, options);
    let (model, recalibration) = tokio::task::spawn_blocking(shift)
        .await
        .map_err(anyhow::Error::from)??;
    book.register(&model, "recalibrated", at).await?;
    Ok(RecalibratedModel {
        model_version: model.version,
        from_version: version.to_owned(),
        recalibration,
    })
}
