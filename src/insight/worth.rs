//! What open deals will bring, as a mean and a spread.

use super::facts::Standing;
use super::stats::{Estimated, Z};
use crate::domain::probability::logit;

/// The part of the uncertainty about a probability that all deals have in common: the model may be wrong
/// about the market as well as about a deal. As a share of the variance of the log-odds.
pub const COMMON_SHARE: f64 = 0.5;

impl Standing {
    /// The standard deviation of the log-odds that the 90% interval stands for.
    pub fn log_odds_spread(&self) -> f64 {
        let spread = (logit(self.high) - logit(self.low)) / (2.0 * Z);
        if spread.is_finite() {
            spread.max(0.0)
        } else {
            0.0
        }
    }
}

/// The sum of what deals bring, each its amount if it is won and nothing if it is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Worth {
    /// The sum of the expected values.
    pub mean: f64,
    /// The sum of the amounts: more cannot be won.
    pub most: f64,
    /// Of the outcomes, each independent of the others: the sum of p (1 - p) amount^2.
    outcomes: f64,
    /// By how much all of it moves when the log-odds of all deals err in common by one standard deviation.
    common: f64,
}

impl Worth {
    /// The expected value is that of the score, which is rounded, so that all sums of it are the same.
    pub fn add(&mut self, standing: &Standing, amount: f64) {
        let p = standing.win_probability;
        self.mean += standing.expected_value.unwrap_or(p * amount);
        self.most += amount;
        self.outcomes += p * (1.0 - p) * amount * amount;
        self.common += p * (1.0 - p) * amount * COMMON_SHARE.sqrt() * standing.log_odds_spread();
    }

    /// Of the sum. What is uncertain about one deal's probability alone adds nothing: an outcome with an
    /// uncertain probability is an outcome with the mean of it.
    pub fn standard_deviation(&self) -> f64 {
        (self.outcomes + self.common * self.common).sqrt()
    }

    /// With the 90% interval of a normal distribution, cut off where nothing or everything is won.
    pub fn estimated(&self) -> Estimated {
        let half = Z * self.standard_deviation();
        Estimated {
            value: self.mean,
            low: (self.mean - half).max(0.0),
            high: (self.mean + half).min(self.most).max(self.mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::samples;

    #[test]
    fn outcomes_and_common_errors_add_up() {
        // Two deals of 100 and 50, at even odds, whose log-odds have a standard deviation of 1.
        let mut worth = Worth::default();
        let end = 1.0 / (1.0 + (-Z).exp());
        let standing = Standing {
            win_probability: 0.5,
            low: 1.0 - end,
            high: end,
            expected_value: None,
            ..samples::deal("a", 0.5, 100.0).standing.unwrap()
        };
        assert!((standing.log_odds_spread() - 1.0).abs() < 1e-12);
        worth.add(&standing, 100.0);
        worth.add(&standing, 50.0);
        assert_eq!(worth.mean, 75.0);
        // 0.25 (100^2 + 50^2) of outcomes; (0.25 * 150)^2 / 2 in common.
        let variance: f64 = 3125.0 + 703.125;
        assert!((worth.standard_deviation() - variance.sqrt()).abs() < 1e-9);
        let estimated = worth.estimated();
        assert_eq!(estimated.low, 0.0);
        assert_eq!(estimated.high, 150.0);
    }

    #[test]
    fn an_interval_that_ends_at_certainty_is_no_nan() {
        let mut standing = samples::deal("a", 0.5, 100.0).standing.unwrap();
        (standing.low, standing.high) = (0.0, 1.0);
        assert_eq!(standing.log_odds_spread(), 0.0);
    }
}
