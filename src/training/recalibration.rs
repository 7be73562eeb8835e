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
    let is_settled = |index: &usize| history.rows[*index].at <= newest;
    let settled: Vec<usize> = picked.iter().copied().filter(is_settled).collect();
    Recalibration::of(forecasts(scorer, history, &settled))
}

/// What the model says of the rows: deal after deal, those whose first row is older first, of one moment
/// those created earlier.
fn forecasts(scorer: &Scorer, history: &History, picked: &[usize]) -> Vec<Forecast> {
    let rows = || picked.iter().map(|&index| &history.rows[index]);
    let mut begins: BTreeMap<usize, Timestamp> = BTreeMap::new();
    for row in rows() {
        let begin = begins.entry(row.deal).or_insert(row.at);
        *begin = row.at.min(*begin);
    }
    let forecast = |row: &Row| Forecast {
        log_odds: scorer.calibrated_log_odds(&history.snapshot(row)),
        won: row.won,
        deal: row.deal,
    };
    let mut forecasts: Vec<Forecast> = rows().map(forecast).collect();
    forecasts.sort_by_key(|row| (begins[&row.deal], history.dated(row.deal), row.deal));
    forecasts
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
    use crate::scoring::Grade;
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
            deals_count: 8000,
            seed: 1,
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

    /// Probability that the model gives to each deal that began after the cut, and the true one.
    fn beside_truth(model: &Model) -> Vec<(f64, f64)> {
        let scorer = scorer(model);
        let later = MARKET.iter().filter(|s| s.deal.created_at >= Some(at(CUT)));
        let beside = later.map(|simulated| {
            let created = simulated.deal.created_at.unwrap();
            let score = scorer.score(&simulated.deal, created);
            (score.win_probability.get(), simulated.truth.p_at_creation)
        });
        beside.collect()
    }

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = values.len() as f64;
        values.sum::<f64>() / count
    }

    fn off_truth(model: &Model) -> f64 {
        mean(beside_truth(model).iter().map(|(p, truth)| p - truth))
    }

    /// Log loss above that of the true probabilities, expected over outcomes.
    fn excess_log_loss(model: &Model) -> f64 {
        let expected =
            |p: f64, truth: f64| truth * log_loss(p, true) + (1.0 - truth) * log_loss(p, false);
        let beside = beside_truth(model);
        mean(
            beside
                .iter()
                .map(|&(p, truth)| expected(p, truth) - expected(truth, truth)),
        )
    }

    #[test]
    fn a_market_that_became_harder_is_followed() {
        let (after, found) = recalibrate(&scorer(&MODEL), &DEALS, options(at(END))).unwrap();
        assert!(found.shift < -0.1, "{found:?}");
        assert!(
            off_truth(&after).abs() < 0.5 * off_truth(&MODEL),
            "{found:?}"
        );
        assert!(excess_log_loss(&after) < 0.9 * excess_log_loss(&MODEL));

        let recalibrated = after.recalibrated.as_ref().unwrap();
        assert_eq!(
            (&recalibrated.from_version, &recalibrated.by),
            (&MODEL.version, &found)
        );
        assert_ne!(after.version, MODEL.version);
        assert_eq!(Model::from_json(&after.to_json()).unwrap(), after);
        let grades = |model: &Model| -> Vec<Grade> {
            let scorer = scorer(model);
            DEALS
                .iter()
                .map(|deal| scorer.score(deal, at(END)).grade)
                .collect()
        };
        assert_eq!(grades(&after), grades(&MODEL));

        // What it was shifted by is no news to it.
        let again = recalibrate(&scorer(&after), &DEALS, options(at(END)));
        let reason = again.unwrap_err().to_string();
        assert!(reason.contains("10 won and 10 lost deals"), "{reason}");
        let all = RecalibrateOptions {
            or_all: true,
            force: true,
            ..options(at(END))
        };
        assert!(recalibrate(&scorer(&after), &DEALS, all).is_ok());
    }

    #[test]
    fn a_shift_beyond_all_reason_is_refused() {
        let (_, mut found) = recalibrate(&scorer(&MODEL), &DEALS, options(at(END))).unwrap();
        for shift in [-25.0, 25.0, f64::NAN] {
            found.shift = shift;
            assert!(
                MODEL.recalibrated(found.clone(), at(END)).is_err(),
                "{shift}"
            );
        }
    }

    /// Two months after the cut, most deals that began since and have ended are lost.
    #[test]
    fn haste_is_not_taken_for_a_falling_market() {
        let soon = at(CUT) + SignedDuration::from_hours(24 * 60);
        let scorer = scorer(&MODEL);
        let refused = recalibrate(&scorer, &DEALS, options(soon)).unwrap_err();
        assert!(
            refused.to_string().contains("10 won and 10 lost deals"),
            "{refused}"
        );
        let history = History::with_basis(&DEALS, soon, MODEL.training.basis).unwrap();
        let hasty = forecasts(&scorer, &history, &rows_since(&history, at(CUT)));
        let hasty = Recalibration::of(hasty).unwrap();
        // The fifteen months up to the end ask for less than half of it.
        assert!(hasty.shift < -0.5, "{hasty:?}");
    }
}
