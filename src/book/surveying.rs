//! All deals in memory, for insights: built once in the background, then kept up to date by what the
//! store says has happened since.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Mutex, Notify, watch};

use super::{Active, Book, Inner};
use crate::app::now;
use crate::error::{Error, Result};
use crate::insight::{DealFacts, InsightSettings, Lens, Names, Survey};
use crate::parallel;
use crate::ranking::Moment;
use crate::store::Surveyed;

/// Deals read at a time.
const CHUNK_DEALS: u32 = 1000;
/// Deals read at a time by their ids.
const CHUNK_IDS: usize = 500;
/// Facts worked out by one thread at a time.
const SHARE_DEALS: usize = 100;
/// What a deal was a week ago moves with the days: a survey that is older is built anew.
const LASTS: SignedDuration = SignedDuration::from_hours(12);
/// How long a question waits for a survey that is being built; an older one is answered with after less.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_WITH_AN_OLDER: Duration = Duration::from_secs(3);
/// How long those wait who have an answer without it too.
const PATIENCE_OF_OTHERS: Duration = Duration::from_secs(1);

/// The survey of a book.
#[derive(Debug, Default)]
pub(super) struct Surveying {
    names: Arc<Names>,
    kept: RwLock<Option<Kept>>,
    /// Held while the survey is brought up to date, so that it is done once.
    amending: Mutex<()>,
    /// Rung when a survey is wanted.
    wanted: Arc<Notify>,
    /// How many have been built.
    built: watch::Sender<u64>,
}

#[derive(Debug, Clone)]
struct Kept {
    survey: Arc<Survey>,
    moment: Moment,
}

impl Drop for Surveying {
    /// Lets the task see that there is nothing to survey any more.
    fn drop(&mut self) {
        self.wanted.notify_one();
    }
}

impl Surveying {
    fn kept(&self) -> Option<Kept> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.clone()
    }

    fn keep(&self, kept: Kept) {
        *self.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(kept);
    }
}

/// Leaves a task behind that builds the survey whenever one is wanted. While it waits it does not hold the
/// book, so that it can be closed.
pub(super) fn start(inner: &Arc<Inner>) {
    let (wanted, inner) = (inner.surveying.wanted.clone(), Arc::downgrade(inner));
    tokio::spawn(async move {
        loop {
            wanted.notified().await;
            let Some(inner) = inner.upgrade() else { return };
            if let Err(error) = inner.build_if_stale().await {
                tracing::error!("the deals could not be surveyed: {error:#}");
            }
            inner.surveying.built.send_modify(|count| *count += 1);
        }
    });
}

impl Book {
    /// Asks for the survey, so that it is there when somebody comes.
    pub fn begin_survey(&self) {
        self.inner.surveying.wanted.notify_one();
    }

    /// All deals as insights see them, with everything that was committed before. After very much has
    /// changed at once it may be older for a moment; [`Survey::as_of`] tells.
    ///
    /// # Errors
    /// `Overloaded` while the first survey is being built.
    pub async fn survey(&self) -> Result<Arc<Survey>> {
        let survey = self.survey_within(PATIENCE).await?;
        survey.ok_or_else(|| {
            Error::Overloaded("the deals are being counted; ask again in a moment".into())
        })
    }

    /// As [`Self::survey`], for those who can do without: `None` if it is not there soon.
    pub async fn survey_soon(&self) -> Result<Option<Arc<Survey>>> {
        self.survey_within(PATIENCE_OF_OTHERS).await
    }

    async fn survey_within(&self, patience: Duration) -> Result<Option<Arc<Survey>>> {
        let inner = &self.inner;
        if let Some(survey) = inner.survey_of_now().await? {
            return Ok(Some(survey));
        }
        let mut built = inner.surveying.built.subscribe();
        let older = inner.surveying.kept().map(|kept| kept.survey);
        inner.surveying.wanted.notify_one();
        let patience = match older {
            Some(_) => patience.min(PATIENCE_WITH_AN_OLDER),
            None => patience,
        };
        if tokio::time::timeout(patience, built.changed())
            .await
            .is_ok()
            && let Some(survey) = inner.survey_of_now().await?
        {
            return Ok(Some(survey));
        }
        Ok(inner.surveying.kept().map(|kept| kept.survey).or(older))
    }
}

impl Inner {
    /// The survey, brought up to date; `None` if it is to be built anew.
    async fn survey_of_now(&self) -> Result<Option<Arc<Survey>>> {
        let moment = self.store.moment().await?;
        if let Some(kept) = self.surveying.kept()
            && kept.moment == moment
            && is_fresh(&kept)
        {
            return Ok(Some(kept.survey));
        }
        let _amending = self.surveying.amending.lock().await;
        let Some(kept) = self.surveying.kept().filter(is_fresh) else {
            return Ok(None);
        };
        let Some((ids, reached)) = self.store.stirred_since(kept.moment).await? else {
            return Ok(None);
        };
        let active = self.champion().await?;
        if generation_of(active.as_deref()) != kept.moment.generation {
            return Ok(None);
        }
        let mut changed = Vec::with_capacity(ids.len());
        for ids in ids.chunks(CHUNK_IDS) {
            let read = self.store.surveyed_of(reached.generation, ids).await?;
            changed.extend(self.facts(read, active.clone(), now()).await?);
        }
        let survey = match ids.is_empty() {
            true => kept.survey,
            false => Arc::new(kept.survey.amended(changed, &ids)),
        };
        self.surveying.keep(Kept {
            survey: survey.clone(),
            moment: reached,
        });
        Ok(Some(survey))
    }

    /// Those who waited for the last build may have rung for another one.
    async fn build_if_stale(&self) -> Result<()> {
        if self.survey_of_now().await?.is_none() {
            self.surveying.keep(self.build_survey().await?);
        }
        Ok(())
    }

    async fn build_survey(&self) -> Result<Kept> {
        let active = self.champion().await?;
        let moment = Moment {
            generation: generation_of(active.as_deref()),
            ..self.store.moment().await?
        };
        let as_of = now();
        let mut facts: Vec<Arc<DealFacts>> = Vec::new();
        let mut after = None;
        loop {
            let read = self
                .store
                .surveyed(moment.generation, after.as_ref(), CHUNK_DEALS);
            let read = read.await?;
            let is_last = read.len() < CHUNK_DEALS as usize;
            after = read.last().map(|(deal, _)| deal.id.clone());
            let found = self.facts(read, active.clone(), as_of).await?;
            facts.extend(found.into_iter().map(Arc::new));
            if is_last {
                break;
            }
        }
        let survey = Survey::new(
            facts,
            as_of,
            active.map(|active| active.scorer.model().version.clone()),
            self.exchange.base(),
            self.settings.insight.clone(),
            self.settings.stalled_days,
        );
        Ok(Kept {
            survey: Arc::new(survey),
            moment,
        })
    }

    /// The facts of some deals, worked out where requests do not wait for it.
    async fn facts(
        &self,
        deals: Vec<Surveyed>,
        active: Option<Arc<Active>>,
        now: Timestamp,
    ) -> Result<Vec<DealFacts>> {
        let (exchange, names) = (self.exchange.clone(), self.surveying.names.clone());
        let settings: Arc<InsightSettings> = self.settings.insight.clone();
        let work = move || {
            let lens = Lens {
                scorer: active.as_deref().map(|active| &active.scorer),
                exchange: &exchange,
                settings: &settings,
                names: &names,
                now,
            };
            let shares: Vec<&[Surveyed]> = deals.chunks(SHARE_DEALS).collect();
            let facts = parallel::share(parallel::threads(), shares.len(), |index| {
                let share = shares[index].iter();
                let facts = share.map(|(deal, standing)| DealFacts::of(deal, *standing, &lens));
                facts.collect::<Vec<_>>()
            });
            facts.into_iter().flatten().collect()
        };
        let facts = tokio::task::spawn_blocking(work).await;
        facts.map_err(|e| Error::Internal(anyhow::anyhow!("the facts of deals: {e}")))
    }
}

fn is_fresh(kept: &Kept) -> bool {
    now().duration_since(kept.survey.as_of) < LASTS
}

fn generation_of(active: Option<&Active>) -> i64 {
    active.map_or(0, |active| active.generation)
}
