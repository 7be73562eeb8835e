//! All figures of a board, worked out together.
//!
//! A forecast draws many futures. What took long is kept for a moment, so that looking again, or a click
//! on a filter and back, costs nothing; small pipelines are always worked out anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web;
use jiff::Timestamp;
use moka::sync::Cache;

use super::filters::Filters;
use crate::error::{Error, Result};
use crate::insight::attention::{Misprioritized, misprioritized};
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
/// How long figures are kept.
const KEPT: Duration = Duration::from_secs(30);
/// Figures that took less are worked out anew as soon as a deal has changed.
const QUICK: Duration = Duration::from_millis(30);
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

/// The boards of the last moments.
#[derive(Debug, Clone)]
pub struct Boards(Cache<Question, Arc<Figures>>);

impl Default for Boards {
    fn default() -> Self {
        let kept = Cache::builder().max_capacity(BOARDS_MAX);
        Self(kept.time_to_live(KEPT).build())
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
        if let Some(kept) = self.0.get(&question)
            && (kept.took > QUICK || Arc::ptr_eq(&kept.survey, &survey))
        {
            return Ok(kept);
        }
        let kept = self.0.clone();
        let target = filters.target;
        let work = move || {
            let figures = Arc::new(Figures::of(survey, &question, target, now));
            kept.insert(question, figures.clone());
            figures
        };
        let figures = web::block(work).await;
        figures.map_err(|e| Error::Internal(e.into()))
    }
}

impl Figures {
    fn of(survey: Arc<Survey>, question: &Question, target: Option<f64>, now: Timestamp) -> Self {
        let started = Instant::now();
        let Question {
            scope,
            period,
            step,
            horizon,
            ..
        } = question;
        let asked = Asked {
            period: *horizon,
            target,
            confidence: None,
        };
        Self {
            at: now,
            summary: summary(&survey, scope, *period, *step, now),
            attention: misprioritized(&survey, scope, now, ROWS_SHOWN),
            attention_chart: super::attention_chart(&survey, scope, now),
            stalled: stalled(&survey, scope, now, ROWS_SHOWN),
            slipping: slipping(&survey, scope, now, ROWS_SHOWN),
            forecast: forecast(&survey, scope, *horizon, target, now),
            coverage: coverage(&survey, scope, asked, now),
            reps: reps(&survey, scope, *period, now),
            took: started.elapsed(),
            survey,
        }
    }
}
