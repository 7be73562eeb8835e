//! Whether probabilities, good as they may be at telling deals apart, have become too high or too low
//! as a whole: the shift of the log-odds that the outcomes ask for.

use serde::{Deserialize, Serialize};

use super::log_loss;
use crate::domain::probability::{PROBABILITY_MIN, logistic};

/// Won deals, and lost deals, that each half must have.
const DEALS_MIN: usize = 10;
/// Standard errors that a shift must exceed: chance alone exceeds them once in twenty.
const STANDARD_ERRORS_MIN: f64 = 2.0;
/// Steps of Newton's method, or of halving where it would leave the bracket. Fewer than ten are usual.
const STEPS_MAX: usize = 100;
/// Change of the shift, in log-odds, at which it is found.
const TOLERANCE: f64 = 1e-12;

/// What an intercept recalibration would do: a shift of all log-odds that makes as many wins expected
/// as there were (calibration in the large; Steyerberg 2009, 15.3.3). The order of deals stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recalibration {
    /// Rows that it was found on; with landmarks, those old enough that nearly all deals like them have
    /// ended.
    pub rows: usize,
    pub deals: usize,
    /// Mean probability of the rows.
    pub predicted: f64,
    /// Won share of the rows.
    pub actual: f64,
    /// Log-odds; added to those of every deal.
    pub shift: f64,
    /// Of the shift, the rows of a deal taken together.
    pub standard_error: f64,
    /// Mean log loss of the newer half of the rows as they are predicted.
    pub log_loss_before: f64,
    /// The same with the shift that the older half alone asks for.
    pub log_loss_after: f64,
    /// Whether the shift exceeds two standard errors and helps the newer half.
    pub is_offered: bool,
    /// The above in one sentence.
    pub summary: String,
}

/// What was predicted for a row, and what happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forecast {
    /// Calibrated.
    pub log_odds: f64,
    pub won: bool,
    /// Rows of one deal stand together and have the same number.
    pub deal: usize,
}

impl Recalibration {
    /// Of rows that the model has not seen, the older deals first; `None` with fewer than 10 won and
    /// 10 lost deals in either half.
    pub fn of(mut rows: Vec<Forecast>) -> Option<Self> {
        // Probabilities are never nearer to 0 or 1 than this.
        let log_odds_max = (1.0 / PROBABILITY_MIN - 1.0).ln();
        for row in &mut rows {
            row.log_odds = row.log_odds.clamp(-log_odds_max, log_odds_max);
        }
        let (older, newer) = halves(&rows)?;
        let count = rows.len() as f64;
        let shift = shift(&rows);
        let standard_error = standard_error(&rows, shift);
        let log_loss_before = mean_log_loss(newer, 0.0);
        let log_loss_after = mean_log_loss(newer, self::shift(older));
        let mut found = Self {
            rows: rows.len(),
            deals: deals(&rows).count(),
            predicted: rows.iter().map(|row| logistic(row.log_odds)).sum::<f64>() / count,
            actual: won(&rows) as f64 / count,
            shift,
            standard_error,
            log_loss_before,
            log_loss_after,
            is_offered: shift.abs() > STANDARD_ERRORS_MIN * standard_error
                && log_loss_after < log_loss_before,
            summary: String::new(),
        };
        found.summary = found.sentence();
        Some(found)
    }

    fn sentence(&self) -> String {
        let seen = format!(
            "{:.1}% of the rows of {} deals were won where {:.1}% were expected",
            100.0 * self.actual,
            self.deals,
            100.0 * self.predicted
        );
        let shift = format!(
            "a shift of all log-odds by {:+.3} (standard error {:.3})",
            self.shift, self.standard_error
        );
        let effect = format!(
            "found on the older half alone, the log loss of the newer half goes from {:.4} to {:.4}",
            self.log_loss_before, self.log_loss_after
        );
        if self.is_offered {
            format!("Recalibration is offered: {seen}, which asks for {shift}; {effect}.")
        } else if self.shift.abs() <= STANDARD_ERRORS_MIN * self.standard_error {
            format!(
                "No recalibration is offered: {seen}, which asks for {shift}, no more than chance."
            )
        } else {
            format!(
                "No recalibration is offered: {seen}, which asks for {shift}, but it would not have helped: {effect}."
            )
        }
    }
}

/// Older and newer rows, as many in either as whole deals allow.
fn halves(rows: &[Forecast]) -> Option<(&[Forecast], &[Forecast])> {
    let middle = rows.get(rows.len() / 2)?.deal;
    let end_of_deal = rows.iter().rposition(|row| row.deal == middle)?;
    let (older, newer) = rows.split_at(end_of_deal + 1);
    let has_enough = |rows: &[Forecast]| {
        let won = deals(rows).filter(|deal| deal[0].won).count();
        won.min(deals(rows).count() - won) >= DEALS_MIN
    };
    (has_enough(older) && has_enough(newer)).then_some((older, newer))
}

fn deals(rows: &[Forecast]) -> impl Iterator<Item = &[Forecast]> {
    rows.chunk_by(|a, b| a.deal == b.deal)
}

fn won(rows: &[Forecast]) -> usize {
    rows.iter().filter(|row| row.won).count()
}

/// The shift at which the expected wins are those that were: the root of a rising function. Rows have
/// both outcomes.
fn shift(rows: &[Forecast]) -> f64 {
    let won = won(rows) as f64;
    let needed = (won / (rows.len() as f64 - won)).ln();
    let log_odds = || rows.iter().map(|row| row.log_odds);
    // With all rows as high as the highest the shift would be the lowest, and the other way round.
    let mut low = needed - log_odds().fold(f64::NEG_INFINITY, f64::max);
    let mut high = needed - log_odds().fold(f64::INFINITY, f64::min);
    let mut shift = 0f64.clamp(low, high);
    for _ in 0..STEPS_MAX {
        let (mut excess, mut slope) = (-won, 0.0);
        for p in log_odds().map(|x| logistic(x + shift)) {
            excess += p;
            slope += p * (1.0 - p);
        }
        if excess > 0.0 {
            high = shift;
        } else {
            low = shift;
        }
        let newton = shift - excess / slope;
        let next = if (low..=high).contains(&newton) {
            newton
        } else {
            0.5 * (low + high)
        };
        let change = (next - shift).abs();
        shift = next;
        if change < TOLERANCE {
            break;
        }
    }
    shift
}

/// The sandwich with whole deals as its units: residuals of one deal do not cancel those of another.
fn standard_error(rows: &[Forecast], shift: f64) -> f64 {
    let p = |row: &Forecast| logistic(row.log_odds + shift);
    let information: f64 = rows.iter().map(|row| p(row) * (1.0 - p(row))).sum();
    let residual = |row: &Forecast| p(row) - f64::from(u8::from(row.won));
    let squares = deals(rows).map(|deal| deal.iter().map(residual).sum::<f64>().powi(2));
    squares.sum::<f64>().sqrt() / information
}

fn mean_log_loss(rows: &[Forecast], shift: f64) -> f64 {
    let losses = rows
        .iter()
        .map(|row| log_loss(logistic(row.log_odds + shift), row.won));
    losses.sum::<f64>() / rows.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Deals of `rows_each` rows whose true log-odds are the predicted ones plus `drift`.
    fn drawn(deals: usize, rows_each: usize, drift: f64, seed: u64) -> Vec<Forecast> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let deal = |deal| {
            let log_odds = rng.random_range(-3.0..1.5);
            let won = rng.random_bool(logistic(log_odds + drift));
            vec![
                Forecast {
                    log_odds,
                    won,
                    deal
                };
                rows_each
            ]
        };
        (0..deals).flat_map(deal).collect()
    }

    /// Shift and standard error as statsmodels 0.15.0 gives them: `GLM(y, ones, Binomial(),
    /// offset=eta).fit(tol=1e-14, cov_type="cluster", cov_kwds={"groups": deal, "use_correction": False,
    /// "df_correction": False})`.
    #[test]
    fn shift_and_standard_error_are_those_of_statsmodels() {
        let rows: Vec<Forecast> = (0..120)
            .map(|i| Forecast {
                log_odds: f64::from(i * 37 % 101) / 20.0 - 2.5,
                won: (i / 2) * 29 % 7 < 3,
                deal: i as usize / 2,
            })
            .collect();
        let found = Recalibration::of(rows).unwrap();
        assert!(
            (found.shift + 0.264_426_465_592_300_5).abs() < 1e-9,
            "{found:?}"
        );
        assert!(
            (found.standard_error - 0.399_434_339_978_208_4).abs() < 1e-9,
            "{found:?}"
        );
        assert_eq!((found.rows, found.deals), (120, 60));
    }

    #[test]
    fn a_known_drift_is_recovered_and_taking_it_out_helps() {
        for drift in [-0.6, 0.6] {
            let found = Recalibration::of(drawn(4000, 1, drift, 3)).unwrap();
            let off = (found.shift - drift).abs();
            assert!(off < 2.5 * found.standard_error, "{found:?}");
            assert!(found.standard_error < 0.05, "{found:?}");
            assert_eq!(found.actual > found.predicted, drift > 0.0);
            assert!(found.is_offered && found.summary.starts_with("Recalibration is offered"));
        }
    }

    /// Twenty samples without any drift: two standard errors are exceeded by about one.
    #[test]
    fn without_drift_nothing_is_offered() {
        let samples = (0..20).map(|seed| Recalibration::of(drawn(600, 3, 0.0, seed)).unwrap());
        let offered: Vec<_> = samples.filter(|found| found.is_offered).collect();
        assert!(offered.len() <= 2, "{offered:?}");
    }

    #[test]
    fn many_rows_of_a_deal_tell_no_more_than_one() {
        let [once, often] =
            [1, 9].map(|rows| Recalibration::of(drawn(300, rows, -0.5, 1)).unwrap());
        assert_eq!((once.deals, often.deals), (300, 300));
        assert!((once.shift - often.shift).abs() < 1e-9);
        assert!((once.standard_error - often.standard_error).abs() < 1e-9);
    }

    #[test]
    fn what_went_away_again_is_not_offered() {
        let mut rows = drawn(1500, 1, -1.2, 5);
        rows.extend(drawn(1500, 1, 0.3, 6).into_iter().map(|row| Forecast {
            deal: row.deal + 1500,
            ..row
        }));
        let found = Recalibration::of(rows).unwrap();
        assert!(found.shift < -3.0 * found.standard_error, "{found:?}");
        assert!(found.log_loss_after > found.log_loss_before, "{found:?}");
        assert!(!found.is_offered && found.summary.contains("would not have helped"));
    }

    #[test]
    fn too_few_deals_say_nothing() {
        assert_eq!(Recalibration::of(Vec::new()), None);
        let outcomes = |won: usize| -> Vec<Forecast> {
            let row = |deal| Forecast {
                log_odds: 0.0,
                won: deal % 20 < won,
                deal,
            };
            (0..40).map(row).collect()
        };
        assert!(Recalibration::of(outcomes(10)).is_none(), "21 and 19 deals");
        let mut enough = outcomes(10);
        enough.extend(outcomes(10).into_iter().map(|row| Forecast {
            deal: row.deal + 40,
            ..row
        }));
        assert!(Recalibration::of(enough.clone()).is_some());
        // One deal with many rows is still one.
        let rows = enough.iter().take(30).flat_map(|row| [*row; 20]);
        assert!(Recalibration::of(rows.collect()).is_none());
    }

    #[test]
    fn certain_predictions_give_finite_numbers() {
        let rows = (0..100).map(|deal| Forecast {
            log_odds: if deal % 2 == 0 { 1e4 } else { -1e4 },
            won: deal % 4 < 2,
            deal,
        });
        let found = Recalibration::of(rows.collect()).unwrap();
        for number in [found.shift, found.standard_error, found.log_loss_after] {
            assert!(number.is_finite(), "{found:?}");
        }
    }
}
