//! All figures of a board, worked out together.
//!
//! A forecast draws many futures. What took long is kept: given out again for a moment as it is, later once
//! more while it is worked out anew, so that nobody waits for it, unless much has changed. Small pipelines are
//! always worked out anew.

use std::collections::HashSet;
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
use crate::insight::{Scope, Survey};
use crate::pages::format::Html;

/// Rows of a list on the page; files have more.
const ROWS_SHOWN: usize = 10;
/// How long figures are given out as they are.
const FRESH: SignedDuration = SignedDuration::from_secs(30);
/// How long they are given out while newer ones are worked out.
const KEPT: Duration = Duration::from_secs(600);
/// How often the usual board is worked out unasked, where that takes long.
const WARMED_EVERY: Duration = Duration::from_secs(300);
/// Figures that took less are worked out anew as soon as a deal has changed.
const QUICK: Duration = Duration::from_millis(30);
/// If more deals than one in so many have changed, whoever looks waits for new figures.
const CHANGED_ONE_IN: usize = 100;
/// Boards that are kept at once.
const BOARDS_MAX: u64 = 64;

/// What a board is about: what its figures depend on, beside the deals.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Question {
    scope: Scope,
    period: Period,
    step: Step,
    horizon: Period,
    /// The bits of the target.
    target: Option<u64>,
}

#[derive(Debug)]
pub struct Figures {
    pub at: Timestamp,
    pub summary: Summary,
    pub attention: Misprioritized,
    pub attention_chart: Option<Html>,
    pub stalled: Stalled,
    pub slipping: Slipping,
    pub forecast: Forecast,
    pub coverage: Coverage,
    pub reps: Reps,
    survey: Arc<Survey>,
    took: Duration,
}

/// The boards of the last minutes.
#[derive(Debug, Clone)]
pub struct Boards {
    kept: Cache<Question, Arc<Figures>>,
    /// What is being worked out anew.
    under_way: Arc<Mutex<HashSet<Question>>>,
}

impl Default for Boards {
    fn default() -> Self {
        let kept = Cache::builder().max_capacity(BOARDS_MAX);
        Self {
            kept: kept.time_to_live(KEPT).build(),
            under_way: Arc::default(),
        }
    }
}

impl Boards {
    pub async fn figures(
        &self,
        survey: Arc<Survey>,
        filters: &Filters,
        now: Timestamp,
    ) -> Result<Arc<Figures>> {
        let horizon = filters.horizon.period(now);
        let question = Question {
            scope: filters.scope.clone(),
            period: filters.period,
            step: filters.step,
            horizon,
            target: filters.target.map(f64::to_bits),
        };
        let kept = self.kept.get(&question);
        if let Some(kept) = kept.filter(|kept| kept.is_good_enough(&survey, now)) {
            if now.duration_since(kept.at) > FRESH {
                self.work_out_anew(survey, question, now);
            }
            return Ok(kept);
        }
        let boards = self.clone();
        let work = move || boards.work_out(survey, question, now);
        let figures = web::block(work).await;
        figures.map_err(|e| Error::Internal(e.into()))
    }

    /// Works out the usual board every now and then until the service ends, so that who comes first on a
    /// morning need not wait for a large one.
    pub async fn keep_warm(self, app: Data<App>) {
        let mut stopping = app.stopping();
        let warm = || async {
            if let Ok(survey) = app.book.survey().await {
                let _ = self.figures(survey, &Filters::usual(now()), now()).await;
            }
            tokio::time::sleep(WARMED_EVERY).await;
        };
        tokio::select! {
            _ = stopping.wait_for(|is_stopping| *is_stopping) => {}
            () = async { loop { warm().await } } => {}
        }
    }

    fn work_out(&self, survey: Arc<Survey>, question: Question, now: Timestamp) -> Arc<Figures> {
        let figures = Arc::new(Figures::of(survey, &question, now));
        self.kept.insert(question, figures.clone());
        figures
    }

    /// Once at a time.
    fn work_out_anew(&self, survey: Arc<Survey>, question: Question, now: Timestamp) {
        let boards = self.clone();
        if boards.under_way().insert(question.clone()) {
            tokio::task::spawn_blocking(move || {
                boards.work_out(survey, question.clone(), now);
                boards.under_way().remove(&question);
            });
        }
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashSet<Question>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
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

impl Figures {
    /// Whether these figures will do: nothing has changed, or little, and they take long to work out.
    fn is_good_enough(&self, survey: &Arc<Survey>, now: Timestamp) -> bool {
        if Arc::ptr_eq(&self.survey, survey) {
            return self.took > QUICK || now.duration_since(self.at) <= FRESH;
        }
        let changed = || survey.differences(&self.survey);
        self.took > QUICK && CHANGED_ONE_IN * changed() <= survey.deals().len()
    }

    fn of(survey: Arc<Survey>, question: &Question, now: Timestamp) -> Self {
        let started = Instant::now();
        let Question {
            scope,
            period,
            step,
            horizon,
            target,
        } = question;
        let target = target.map(f64::from_bits);
        let asked = Asked {
            period: *horizon,
            target,
            confidence: None,
        };
        let queues = attention::queues(&survey, scope, now);
        let about_deals = || {
            (
                summary(&survey, scope, *period, *step, now),
                attention::compared(&survey, &queues, now, ROWS_SHOWN),
                stalled(&survey, scope, now, ROWS_SHOWN),
                slipping(&survey, scope, now, ROWS_SHOWN),
            )
        };
        let about_periods = || {
            (
                forecast(&survey, scope, *horizon, target, now),
                coverage(&survey, scope, asked, now),
                reps(&survey, scope, *period, now),
            )
        };
        let (of_deals, of_periods) = both(about_deals, about_periods);
        let (summary, attention, stalled, slipping) = of_deals;
        let (forecast, coverage, reps) = of_periods;
        Self {
            at: now,
            summary,
            attention,
            attention_chart: super::attention_chart(&survey, &queues),
            stalled,
            slipping,
            forecast,
            coverage,
            reps,
            took: started.elapsed(),
            survey: survey.clone(),
        }
    }
}
