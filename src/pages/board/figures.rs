//! All figures of a board, worked out together.
//!
//! A forecast draws many futures. What took long is kept: given out again for a moment as it is, later once
//! more while it is worked out anew, so that nobody waits for it, unless much has changed. Small pipelines are
//! always worked out anew. The figures are of three kinds, by what they depend on, so that another period
//! leaves the forecast as it is.

use std::collections::HashSet;
use std::hash::Hash;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_web::web::{self, Data};
use jiff::{SignedDuration, Timestamp};
use moka::sync::Cache;

use super::filters::Filters;
use crate::app::{App, now};
use crate::error::{Error, Result};
use crate::insight::attention::{self, Misprioritized};
use crate::insight::coverage::{Asked, Coverage, coverage};
use crate::insight::forecast::{Forecast, forecast};
use crate::insight::period::{Period, Step};
use crate::insight::reps::{Reps, reps};
use crate::insight::slipping::{Slipping, slipping};
use crate::insight::stalled::{Stalled, stalled};
use crate::insight::summary::{Summary, summary};
use crate::insight::{DealFacts, Scope, Survey};
use crate::pages::format::Html;

/// Rows of a list on the page; files have more.
const ROWS_SHOWN: usize = 10;
/// How long figures are given out as they are.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
/// How long they are given out while newer ones are worked out.
const KEPT: Duration = Duration::from_secs(600);
/// How often the usual boards are worked out unasked, where that takes long.
const WARMED_EVERY: Duration = Duration::from_secs(300);
/// Pipelines whose boards are among these.
const WARMED_PIPELINES_MAX: usize = 8;
/// Figures that took less are worked out anew as soon as a deal has changed.
const QUICK: Duration = Duration::from_millis(10);
/// If more deals than one in so many have changed, whoever looks waits for new figures.
const CHANGED_ONE_IN: usize = 100;
/// Figures of one kind that are kept at once.
const KEPT_MAX: u64 = 64;

/// The figures of a board.
#[derive(Debug)]
pub struct Figures {
    pub deals: Arc<Part<OfDeals>>,
    pub period: Arc<Part<OfPeriod>>,
    pub horizon: Arc<Part<OfHorizon>>,
}

impl Figures {
    /// When the oldest of them were worked out.
    pub fn at(&self) -> Timestamp {
        self.deals.at.min(self.period.at).min(self.horizon.at)
    }
}

/// Figures of the open deals as they stand.
#[derive(Debug)]
pub struct OfDeals {
    pub attention: Misprioritized,
    pub attention_chart: Option<Html>,
    pub stalled: Stalled,
    pub slipping: Slipping,
}

impl OfDeals {
    fn of(survey: &Survey, scope: &Scope, now: Timestamp) -> Self {
        let queues = attention::queues(survey, scope, now);
        Self {
            attention: attention::compared(survey, &queues, now, ROWS_SHOWN),
            attention_chart: super::attention_chart(survey, &queues),
            stalled: stalled(survey, scope, now, ROWS_SHOWN),
            slipping: slipping(survey, scope, now, ROWS_SHOWN),
        }
    }
}

/// Figures of the deals of a period.
#[derive(Debug)]
pub struct OfPeriod {
    pub summary: Summary,
    pub reps: Reps,
}

type PeriodAsked = (Scope, Period, Step);

impl OfPeriod {
    fn of(survey: &Survey, (scope, period, step): &PeriodAsked, now: Timestamp) -> Self {
        let (summary, reps) = both(
            || summary(survey, scope, *period, *step, now),
            || reps(survey, scope, *period, now),
        );
        Self { summary, reps }
    }
}

/// Figures of what is to come.
#[derive(Debug)]
pub struct OfHorizon {
    pub forecast: Forecast,
    pub coverage: Coverage,
}

/// With the bits of the target.
type HorizonAsked = (Scope, Period, Option<u64>);

impl OfHorizon {
    fn of(survey: &Survey, (scope, period, target): &HorizonAsked, now: Timestamp) -> Self {
        let target = target.map(f64::from_bits);
        let asked = Asked {
            period: *period,
            target,
            confidence: None,
        };
        let (forecast, coverage) = both(
            || forecast(survey, scope, *period, target, now),
            || coverage(survey, scope, asked, now),
        );
        Self { forecast, coverage }
    }
}

/// Figures with the moment they are of.
#[derive(Debug)]
pub struct Part<V> {
    figures: V,
    at: Timestamp,
    /// The deals that they are of, by id.
    of: Arc<[Arc<DealFacts>]>,
    took: Duration,
}

impl<V> Deref for Part<V> {
    type Target = V;

    fn deref(&self) -> &V {
        &self.figures
    }
}

impl<V> Part<V> {
    /// Whether these figures will do: nothing has changed, or little, and they take long to work out.
    fn is_good_enough(&self, survey: &Arc<Survey>, now: Timestamp) -> bool {
        if Arc::ptr_eq(&self.of, survey.deals()) {
            return self.took > QUICK || now.duration_since(self.at) <= FRESH;
        }
        let changed = || survey.differences(&self.of);
        self.took > QUICK && CHANGED_ONE_IN * changed() <= survey.deals().len()
    }
}

/// Figures of one kind: those of the last minutes, by what was asked, and how to work them out.
struct Kept<K, V> {
    parts: Cache<K, Arc<Part<V>>>,
    /// What is being worked out anew.
    under_way: Arc<Mutex<HashSet<K>>>,
    of: fn(&Survey, &K, Timestamp) -> V,
}

impl<K, V> Clone for Kept<K, V> {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
            under_way: self.under_way.clone(),
            of: self.of,
        }
    }
}

impl<K, V> Kept<K, V>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    fn new(of: fn(&Survey, &K, Timestamp) -> V) -> Self {
        let parts = Cache::builder().max_capacity(KEPT_MAX).time_to_live(KEPT);
        Self {
            parts: parts.build(),
            under_way: Arc::default(),
            of,
        }
    }

    /// What is known, if it is good enough; what is no longer fresh is worked out anew meanwhile.
    fn known(&self, survey: &Arc<Survey>, asked: &K, now: Timestamp) -> Option<Arc<Part<V>>> {
        let part = self.parts.get(asked)?;
        if !part.is_good_enough(survey, now) {
            return None;
        }
        if now.duration_since(part.at) > FRESH {
            self.work_out_anew(survey.clone(), asked.clone(), now);
        }
        Some(part)
    }

    fn work_out(&self, survey: Arc<Survey>, asked: K, now: Timestamp) -> Arc<Part<V>> {
        let started = Instant::now();
        let figures = (self.of)(&survey, &asked, now);
        let part = Arc::new(Part {
            figures,
            at: now,
            of: survey.deals().clone(),
            took: started.elapsed(),
        });
        self.parts.insert(asked, part.clone());
        part
    }

    /// Once at a time.
    fn work_out_anew(&self, survey: Arc<Survey>, asked: K, now: Timestamp) {
        let kept = self.clone();
        if kept.under_way().insert(asked.clone()) {
            tokio::task::spawn_blocking(move || {
                kept.work_out(survey, asked.clone(), now);
                kept.under_way().remove(&asked);
            });
        }
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashSet<K>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The figures of the last minutes.
#[derive(Clone)]
pub struct Boards {
    deals: Kept<Scope, OfDeals>,
    period: Kept<PeriodAsked, OfPeriod>,
    horizon: Kept<HorizonAsked, OfHorizon>,
}

impl Default for Boards {
    fn default() -> Self {
        Self {
            deals: Kept::new(OfDeals::of),
            period: Kept::new(OfPeriod::of),
            horizon: Kept::new(OfHorizon::of),
        }
    }
}

impl Boards {
    pub async fn figures(
        &self,
        survey: Arc<Survey>,
        filters: &Filters,
        now: Timestamp,
    ) -> Result<Figures> {
        let scope = filters.scope.clone();
        let target = filters.target.map(f64::to_bits);
        let of_period = (scope.clone(), filters.period, filters.step);
        let of_horizon = (scope.clone(), filters.horizon.period(now), target);
        let deals = self.deals.known(&survey, &scope, now);
        let period = self.period.known(&survey, &of_period, now);
        let horizon = self.horizon.known(&survey, &of_horizon, now);
        if let (Some(deals), Some(period), Some(horizon)) = (&deals, &period, &horizon) {
            return Ok(Figures {
                deals: deals.clone(),
                period: period.clone(),
                horizon: horizon.clone(),
            });
        }
        let boards = self.clone();
        let work = move || {
            let of = || survey.clone();
            let deals = || deals.unwrap_or_else(|| boards.deals.work_out(of(), scope, now));
            let period = || period.unwrap_or_else(|| boards.period.work_out(of(), of_period, now));
            let horizon =
                || horizon.unwrap_or_else(|| boards.horizon.work_out(of(), of_horizon, now));
            let ((deals, period), horizon) = both(|| both(deals, period), horizon);
            Figures {
                deals,
                period,
                horizon,
            }
        };
        let figures = web::block(work).await;
        figures.map_err(|e| Error::Internal(e.into()))
    }

    /// Works out the usual boards, of all and of each pipeline, every now and then until the service ends,
    /// so that who comes first on a morning need not wait for a large one.
    pub async fn keep_warm(self, app: Data<App>) {
        let mut stopping = app.stopping();
        let warm = || async {
            if let Ok(survey) = app.book.survey().await {
                for filters in usual(&survey) {
                    let _ = self.figures(survey.clone(), &filters, now()).await;
                }
            }
            tokio::time::sleep(WARMED_EVERY).await;
        };
        tokio::select! {
            _ = stopping.wait_for(|is_stopping| *is_stopping) => {}
            () = async { loop { warm().await } } => {}
        }
    }
}

/// The boards that people look at first.
fn usual(survey: &Survey) -> Vec<Filters> {
    let pipelines = survey.named().pipelines.iter();
    let pipelines = pipelines
        .take(WARMED_PIPELINES_MAX)
        .map(|name| name.to_string());
    let scoped = [None].into_iter().chain(pipelines.map(Some));
    let filters = scoped.map(|pipeline| {
        let mut filters = Filters::usual(now());
        filters.scope.pipeline = pipeline;
        filters
    });
    filters.collect()
}

/// Works out both at the same time.
fn both<A, B: Send>(first: impl FnOnce() -> A, second: impl FnOnce() -> B + Send) -> (A, B) {
    std::thread::scope(|scope| {
        let second = scope.spawn(second);
        let first = first();
        match second.join() {
            Ok(second) => (first, second),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
