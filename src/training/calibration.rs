//! How the log-odds of deals in their first stage are scaled, and those of deals that have moved on.
//!
//! Landmarks of all ages share one set of weights, a compromise. Of a new deal little is known but its
//! attributes, and these tell more of it than of a deal that is nearly done, so that the probabilities
//! of new deals are too near the mean and those of old ones too far from it. On simulated deals (20,000)
//! slopes are 1.04 to 1.08 in the first stage and 0.89 to 0.94 later.

use crate::domain::probability::logistic;
use crate::model::Scaling;

/// Standard deviation that slopes and shifts are expected to have about 1 and 0: with few rows they
/// stay there, without a threshold at which probabilities would jump.
const DEVIATION: f64 = 0.1;
const STEPS_MAX: usize = 50;
const STEP_MIN: f64 = 1e-9;

/// The most probable scaling of log-odds, given how the deals ended (Platt 1999, with a normal prior).
/// `row_weight` is what a row counts: deals per row, as the rows of a deal stand together.
pub fn scaling(rows: &[(f64, bool)], row_weight: f64) -> Scaling {
    let precision = DEVIATION.powi(-2);
    let mut found = Scaling::IDENTITY;
    for _ in 0..STEPS_MAX {
        // Gradient and Hessian of half the deviance and the prior: Newton's method.
        let mut gradient = [precision * (found.slope - 1.0), precision * found.shift];
        let (mut slopes, mut both, mut shifts) = (precision, 0.0, precision);
        for &(eta, won) in rows {
            let p = logistic(found.apply(eta));
            let residual = row_weight * (p - f64::from(u8::from(won)));
            let curvature = row_weight * p * (1.0 - p);
            gradient[0] += residual * eta;
            gradient[1] += residual;
            slopes += curvature * eta * eta;
            both += curvature * eta;
            shifts += curvature;
        }
        let determinant = slopes * shifts - both * both;
        let step = [
            (shifts * gradient[0] - both * gradient[1]) / determinant,
            (slopes * gradient[1] - both * gradient[0]) / determinant,
        ];
        found.slope -= step[0];
        found.shift -= step[1];
        if step[0].abs().max(step[1].abs()) < STEP_MIN {
            break;
        }
    }
    let is_sound = found.slope > 0.0 && found.slope.is_finite() && found.shift.is_finite();
    if is_sound { found } else { Scaling::IDENTITY }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Log-odds between -4 and 2, of deals whose odds of winning are those of a scaling.
    fn rows(count: usize, truth: Scaling) -> Vec<(f64, bool)> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        (0..count)
            .map(|_| {
                let eta = rng.random_range(-4.0..2.0);
                (eta, rng.random::<f64>() < logistic(truth.apply(eta)))
            })
            .collect()
    }

    const TRUTH: Scaling = Scaling {
        slope: 1.2,
        shift: 0.15,
    };

    #[test]
    fn many_rows_are_believed_and_few_are_not() {
        let many = scaling(&rows(100_000, TRUTH), 1.0);
        assert!((many.slope - TRUTH.slope).abs() < 0.02, "{many:?}");
        assert!((many.shift - TRUTH.shift).abs() < 0.02, "{many:?}");
        let few = scaling(&rows(20, TRUTH), 1.0);
        assert!((few.slope - 1.0).abs() < 0.1, "{few:?}");
        assert_eq!(scaling(&[], 1.0), Scaling::IDENTITY);
    }

    #[test]
    fn rows_that_stand_together_count_less() {
        let rows = rows(400, TRUTH);
        let (apart, together) = (scaling(&rows, 1.0), scaling(&rows, 0.1));
        assert!((together.slope - 1.0).abs() < (apart.slope - 1.0).abs());
    }

    #[test]
    fn perfect_and_extreme_log_odds_break_nothing() {
        for size in [1.0, 50.0, 1e6] {
            let perfect: Vec<(f64, bool)> = (0..1000)
                .map(|i| (if i % 2 == 0 { size } else { -size }, i % 2 == 0))
                .collect();
            let found = scaling(&perfect, 1.0);
            assert!(found.slope > 0.0 && found.slope.is_finite(), "{found:?}");
            assert!(found.shift.is_finite(), "{found:?}");
        }
    }

    #[test]
    fn one_scaling_on_top_of_another_is_both_in_turn() {
        let other = Scaling {
            slope: 0.9,
            shift: -0.3,
        };
        let both = TRUTH.after(other);
        assert!((both.apply(-1.7) - TRUTH.apply(other.apply(-1.7))).abs() < 1e-12);
    }
}
