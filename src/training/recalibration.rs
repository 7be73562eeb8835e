//! Intercept recalibration: a model's probabilities moved to the level of the newest outcomes, without
//! learning anew. See [`crate::evaluation::recalibration`] for the shift itself.
//!
//! # Which rows
//!
//! Of deals that began lately only the quick ones have ended, and those are mostly lost: a shift found
//! on them would take haste for a falling market. Rows count only if they are older than nine of ten
//! deals take to end, and only if they stand later than what the model has seen: a deal that was open
//! then and has ended since is slower than most.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::rows::{CENSORING_QUANTILE, History, Row};
use crate::domain::Deal;
use crate::error::{Error, Result};
use crate::evaluation::recalibration::{Forecast, Recalibration};
use crate::model::Model;
use crate::scoring::Scorer;

/// The shift that the picked rows ask for, as far as they are old enough; `None` where too few are.
pub fn recalibration(
    scorer: &Scorer,
    history: &History,
    picked: &[usize],
) -> Option<Recalibration> {
    let newest = newest_settled(history);
    let rows = picked.iter().map(|&index| &history.rows[index]);
    let rows: Vec<&Row> = rows.filter(|row| row.at <= newest).collect();
    let mut begins: BTreeMap<usize, Timestamp> = BTreeMap::new();
    for row in &rows {
        let begin = begins.entry(row.deal).or_insert(row.at);
        *begin = row.at.min(*begin);
    }
    let forecast = |row: &&Row| Forecast {
        log_odds: (scorer.model()).calibrate(scorer.log_odds(&history.snapshot(row))),
        won: row.won,
        deal: row.deal,
    };
    let mut forecasts: Vec<Forecast> = rows.iter().map(forecast).collect();
    // Deals of one moment in the order of their creation.
    let age = |row: &Forecast| (begins[&row.deal], history.dated(row.deal), row.deal);
    forecasts.sort_by_key(age);
    Recalibration::of(forecasts)
}

/// What to recalibrate on.
#[derive(Debug, Clone, Copy)]
pub struct RecalibrateOptions {
    /// No outcome after it is known.
    pub at: Timestamp,
    /// Where no deal ended after what the model has seen, take all of them: it need not have learned
    /// from what it could have seen.
    pub or_all: bool,
    /// Apply what is not offered.
    pub force: bool,
}

/// The model shifted to the deals that ended after what it has seen.
///
/// # Errors
/// `NotOffered` when the shift is within chance or does not help, unless forced; and always with fewer
/// than 10 won and 10 lost deals in either half of what is old enough.
pub fn recalibrate(
    scorer: &Scorer,
    deals: &[Deal],
    options: RecalibrateOptions,
) -> Result<(Model, Recalibration)> {
    let (model, at) = (scorer.model(), options.at);
    let history = History::with_basis(deals, at, model.training.basis)
        .map_err(|reason| Error::NotOffered(format!("No recalibration is offered: {reason}.")))?;
    let seen = model.known_until();
    let mut picked = rows_since(&history, seen);
    if picked.is_empty() && options.or_all {
        picked = history.all_rows();
    }
    let found = recalibration(scorer, &history, &picked).ok_or_else(|| too_few(seen))?;
    if !found.is_offered && !options.force {
        return Err(Error::NotOffered(found.summary));
    }
    Ok((model.recalibrated(found.clone(), at)?, found))
}

fn too_few(seen: Timestamp) -> Error {
    Error::NotOffered(format!(
        "No recalibration is offered: it takes 10 won and 10 lost deals in each half of those that are newer than what the model has seen ({seen}), counting none so new that deals like it are mostly open still."
    ))
}

/// The unseen rows that stand at or after `seen`. The row of a flat file stands at the deal's creation,
/// if that is known.
fn rows_since(history: &History, seen: Timestamp) -> Vec<usize> {
    let mut picked = history.unseen_rows(seen);
    picked.retain(|&index| {
        let row = &history.rows[index];
        row.at >= seen || history.closed()[row.deal].created_at.is_none()
    });
    picked
}

/// The newest moment from which nine of ten deals have ended by the last end that is known. The whole
/// history tells how long deals take; one without dates tells nothing, and all its rows count.
fn newest_settled(history: &History) -> Timestamp {
    let closed = history.closed().iter();
    let mut open_for: Vec<SignedDuration> = closed
        .clone()
        .filter_map(|deal| Some(deal.closed_at?.duration_since(deal.created_at?)))
        .collect();
    open_for.sort_unstable();
    let usual = open_for.get((open_for.len() as f64 * CENSORING_QUANTILE) as usize);
    let last = closed.filter_map(|deal| deal.closed_at).max();
    match (last, usual) {
        (Some(last), Some(&usual)) => last.saturating_sub(usual).unwrap_or(Timestamp::MIN),
        _ => Timestamp::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::log_loss;
    use crate::model::Model;
    use crate::progress::silent;
    use crate::simulate::{self, Settings, SimulatedDeal};
    use crate::training::{TrainOptions, train};
    use std::sync::LazyLock;

    const CUT: &str = "2025-07-01T00:00:00Z";
    const END: &str = "2026-10-01T00:00:00Z";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Two years and a half in which the log-odds of all deals fall by 0.3.
    static MARKET: LazyLock<Vec<SimulatedDeal>> = LazyLock::new(|| {
        let settings = Settings {
            deals_count: 6000,
            seed: 11,
            as_of: "2026-10-01".parse().unwrap(),
            history_days: 913,
            extra_columns: 0,
        };
        simulate::pipeline(&settings).unwrap().collect()
    });

    static DEALS: LazyLock<Vec<Deal>> = LazyLock::new(|| {
        MARKET
            .iter()
            .map(|simulated| simulated.deal.clone())
            .collect()
    });

    /// Knows the first half of the time.
    static MODEL: LazyLock<Model> = LazyLock::new(|| {
        let options = TrainOptions {
            as_of: at(CUT),
            trained_at: at(CUT),
            mapping: Default::default(),
            exchange: simulate::exchange(),
        };
        train(&DEALS, &options, &silent).unwrap()
    });

    fn scorer(model: &Model) -> Scorer {
        Scorer::new(model.clone().into(), simulate::exchange().into()).unwrap()
    }

    fn options(at: Timestamp) -> RecalibrateOptions {
        RecalibrateOptions {
            at,
            or_all: false,
            force: false,
        }
    }

    /// How far the model is from the truth at the creation of deals after a time: log loss above that
    /// of the true probabilities, expected over outcomes.
    fn excess_log_loss(model: &Model, after: Timestamp) -> f64 {
        let scorer = scorer(model);
        let later = MARKET.iter().filter(|s| s.deal.created_at >= Some(after));
        let excess: Vec<f64> = later
            .map(|simulated| {
                let created = simulated.deal.created_at.unwrap();
                let p = scorer.score(&simulated.deal, created).win_probability.get();
                let truth = simulated.truth.p_at_creation;
                let expected =
                    |p: f64| truth * log_loss(p, true) + (1.0 - truth) * log_loss(p, false);
                expected(p) - expected(truth)
            })
            .collect();
        excess.iter().sum::<f64>() / excess.len() as f64
    }

    #[test]
    fn a_market_that_became_harder_is_followed() {
        let scorer_before = scorer(&MODEL);
        let (after, found) = recalibrate(&scorer_before, &DEALS, options(at(END))).unwrap();
        eprintln!(
            "{} {:?}",
            found.summary,
            (
                excess_log_loss(&MODEL, at(CUT)),
                excess_log_loss(&after, at(CUT))
            )
        );
        assert!((-0.35..-0.05).contains(&found.shift), "{found:?}");
        assert!(excess_log_loss(&after, at(CUT)) < excess_log_loss(&MODEL, at(CUT)));
    }
}
