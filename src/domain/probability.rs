//! Probabilities and log-odds, converted by name and never by accident.

use serde::{Deserialize, Serialize};

/// Smallest probability that dealrank reports, and one minus the largest: no finite history
/// justifies certainty, and a 0 or 1 would make log loss infinite.
pub const PROBABILITY_MIN: f64 = 1e-6;

/// A win probability in `[1e-6, 1 - 1e-6]`, never NaN.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

impl Probability {
    /// A probability from any number in `[0, 1]`, moved into `[1e-6, 1 - 1e-6]`.
    ///
    /// # Errors
    /// When `p` is NaN or outside `[0, 1]`.
    pub fn new(p: f64) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&p) {
            return Err(format!("{p} is not a probability"));
        }
        Ok(Self(p.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN)))
    }

    pub fn get(self) -> f64 {
        self.0
    }

    /// `ln(p / (1 - p))`.
    pub fn log_odds(self) -> LogOdds {
        LogOdds(logit(self.0))
    }
}

impl TryFrom<f64> for Probability {
    type Error = String;

    fn try_from(p: f64) -> Result<Self, String> {
        Self::new(p)
    }
}

impl From<Probability> for f64 {
    fn from(p: Probability) -> f64 {
        p.0
    }
}

/// Log-odds of winning: `ln(p / (1 - p))`, always finite.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct LogOdds(f64);

impl LogOdds {
    /// # Errors
    /// When `value` is NaN or infinite.
    pub fn new(value: f64) -> Result<Self, String> {
        if value.is_finite() {
            Ok(Self(value))
        } else {
            Err(format!("{value} is not a finite log-odds"))
        }
    }

    pub fn get(self) -> f64 {
        self.0
    }

    /// The logistic function, `1 / (1 + exp(-x))`, moved into the range of [`Probability`].
    pub fn probability(self) -> Probability {
        Probability(logistic(self.0).clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN))
    }
}

/// `ln(p / (1 - p))`; infinite at 0 and 1.
pub fn logit(p: f64) -> f64 {
    (p / (1.0 - p)).ln()
}

/// `1 / (1 + exp(-x))`, without overflow for any finite `x`.
pub fn logistic(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probability_is_never_zero_one_or_nan() {
        assert!(Probability::new(f64::NAN).is_err());
        assert!(Probability::new(1.0 + 1e-12).is_err());
        assert_eq!(Probability::new(0.0).unwrap().get(), PROBABILITY_MIN);
        for x in [-1e300, -800.0, 800.0, 1e300] {
            let p = LogOdds::new(x).unwrap().probability().get();
            assert!(p > 0.0 && p < 1.0, "{x} gave {p}");
        }
        assert!(LogOdds::new(f64::INFINITY).is_err());
    }

    #[test]
    fn log_odds_and_probability_are_inverse() {
        for p in [0.001, 0.25, 0.5, 0.9] {
            let back = Probability::new(p).unwrap().log_odds().probability().get();
            assert!((back - p).abs() < 1e-15);
        }
    }
}
