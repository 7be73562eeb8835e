//! Shares of small samples, drawn towards those of the team.

use statrs::function::beta::{checked_beta_reg, ln_beta};

use super::stats::Estimated;

/// Steps in which a quantile is looked for, and how near is near enough; some six steps lead there.
const STEPS_MAX: usize = 60;
const NEAR: f64 = 1e-10;
/// Points of a numerical integral.
const POINTS: usize = 64;
/// A prior counts as at least and at most so many cases; as many as the second where members of a team differ
/// by no more than chance.
const WEIGHT_MIN: f64 = 4.0;
const WEIGHT_MAX: f64 = 200.0;
/// What it counts as where there are too few members to say.
const WEIGHT_USUAL: f64 = 20.0;

/// A beta distribution: what is believed about a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beta {
    a: f64,
    b: f64,
}

impl Beta {
    /// With a mean strictly between 0 and 1, counting as `weight` cases.
    pub fn with_mean(mean: f64, weight: f64) -> Self {
        Self {
            a: mean * weight,
            b: (1.0 - mean) * weight,
        }
    }

    /// After seeing `hits` in `of` cases.
    pub fn after(self, hits: usize, of: usize) -> Self {
        Self {
            a: self.a + hits as f64,
            b: self.b + (of - hits) as f64,
        }
    }

    pub fn mean(&self) -> f64 {
        self.a / (self.a + self.b)
    }

    /// The mean with the 90% interval.
    pub fn estimated(&self) -> Estimated {
        Estimated {
            value: self.mean(),
            low: self.quantile(0.05),
            high: self.quantile(0.95),
        }
    }

    /// The probability to be below `x`.
    pub fn below(&self, x: f64) -> f64 {
        checked_beta_reg(self.a, self.b, x.clamp(0.0, 1.0)).unwrap_or(f64::NAN)
    }

    pub fn quantile(&self, q: f64) -> f64 {
        // Newton's steps, and halves of what is left where one of them leads out of it.
        let (mut low, mut high) = (0.0, 1.0);
        let log_total = ln_beta(self.a, self.b);
        let mut x = self.mean();
        for _ in 0..STEPS_MAX {
            let missing = q - self.below(x);
            if missing > 0.0 {
                low = x;
            } else {
                high = x;
            }
            let step = missing / (self.log_density(x) - log_total).exp();
            let next = x + step;
            let is_inside = low < next && next < high;
            let next = if is_inside {
                next
            } else {
                f64::midpoint(low, high)
            };
            if (next - x).abs() < NEAR {
                return next;
            }
            x = next;
        }
        x
    }

    /// The logarithm of the density, but for a constant.
    fn log_density(&self, x: f64) -> f64 {
        (self.a - 1.0) * x.ln() + (self.b - 1.0) * (1.0 - x).ln()
    }

    /// The probability that this share is smaller than another, independent one.
    pub fn is_below(&self, other: &Self) -> f64 {
        let (from, to) = other.range();
        let (mut sum, mut weights) = (0.0, 0.0);
        for point in 0..POINTS {
            // Points lie closer towards the ends, where the density may grow without bound.
            let share = (point as f64 + 0.5) / POINTS as f64;
            let x = from + (to - from) * share * share * (3.0 - 2.0 * share);
            let density = (other.log_density(x) - other.log_peak()).exp();
            let weight = share * (1.0 - share) * density;
            sum += weight * self.below(x);
            weights += weight;
        }
        sum / weights
    }

    /// Where nearly all of it lies: eight standard deviations about the mean.
    fn range(&self) -> (f64, f64) {
        let n = self.a + self.b;
        let half = 8.0 * (self.a * self.b / (n * n * (n + 1.0))).sqrt();
        ((self.mean() - half).max(0.0), (self.mean() + half).min(1.0))
    }

    /// Something near the logarithm of the largest density, against overflow.
    fn log_peak(&self) -> f64 {
        self.log_density(self.mean())
    }
}

/// What is believed about the share of a member of a team before any of their cases is seen: the share of
/// all, with a weight by how much members differ. `counts` has the hits and cases of each member.
///
/// The weight is 1/r - 1, with r the correlation of two cases of the same member by analysis of variance
/// (Ridout, Demétrio and Firth 1999). `None` without cases.
pub fn prior(counts: &[(usize, usize)]) -> Option<(Beta, f64)> {
    let counts: Vec<(f64, f64)> = counts
        .iter()
        .filter(|(_, of)| *of > 0)
        .map(|(hits, of)| (*hits as f64, *of as f64))
        .collect();
    let hits: f64 = counts.iter().map(|(hits, _)| hits).sum();
    let all: f64 = counts.iter().map(|(_, of)| of).sum();
    if all == 0.0 {
        return None;
    }
    // Half a case more on either side: a share of 0 or 1 is no certainty.
    let mean = (hits + 0.5) / (all + 1.0);
    let weight = weight(&counts, hits / all, all);
    Some((Beta::with_mean(mean, weight), weight))
}

fn weight(counts: &[(f64, f64)], share: f64, all: f64) -> f64 {
    let members = counts.len() as f64;
    if members < 2.0 || all <= members || share <= 0.0 || share >= 1.0 {
        return WEIGHT_USUAL;
    }
    let sum = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
        let terms = counts.iter().map(|(hits, of)| term(hits / of, *of));
        terms.sum()
    };
    let between = sum(&|own, of| of * (own - share) * (own - share)) / (members - 1.0);
    let within = sum(&|own, of| of * own * (1.0 - own)) / (all - members);
    let typical = (all - sum(&|_, of| of * of) / all) / (members - 1.0);
    let correlation = (between - within) / (between + (typical - 1.0) * within);
    if correlation > 0.0 {
        (1.0 / correlation - 1.0).clamp(WEIGHT_MIN, WEIGHT_MAX)
    } else {
        WEIGHT_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beta(a: f64, b: f64) -> Beta {
        Beta { a, b }
    }

    #[test]
    fn the_distribution_is_that_of_scipy() {
        // scipy 1.17.1: beta.cdf and beta.ppf
        assert!((beta(2.5, 4.0).below(0.3) - 0.352_197_585_906_767_2).abs() < 1e-10);
        assert!((beta(100.0, 20.0).below(0.9) - 0.985_537_491_324_955_5).abs() < 1e-10);
        let found = beta(2.5, 4.0).estimated();
        assert!(
            (found.low - 0.114_819_641_930_974_45).abs() < 1e-9,
            "{found:?}"
        );
        assert!(
            (found.high - 0.697_399_450_862_176_8).abs() < 1e-9,
            "{found:?}"
        );
    }

    #[test]
    fn one_share_is_below_another_with_a_probability() {
        // scipy 1.17.1: quad(lambda y: beta.pdf(y, c, d) * beta.cdf(y, a, b), 0, 1)
        let sure = beta(3.0, 12.0).is_below(&beta(21.0, 21.0));
        assert!((sure - 0.984_934_907_743_310_9).abs() < 1e-4, "{sure}");
        let likely = beta(2.5, 4.0).is_below(&beta(4.0, 2.5));
        assert!((likely - 0.815_624_169_220_488_2).abs() < 1e-4, "{likely}");
        assert!((beta(9.0, 9.0).is_below(&beta(9.0, 9.0)) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_prior_says_how_much_members_differ() {
        // By hand: shares 0.2 and 0.8 of ten each. Between 1.8, within 3.2 / 18, typical 10:
        // r = (1.8 - 0.1778) / (1.8 + 9 * 0.1778) = 0.4771, weight 1.096, at least 4.
        let (differ, weight) = prior(&[(2, 10), (8, 10)]).unwrap();
        assert_eq!(weight, WEIGHT_MIN);
        assert!((differ.mean() - 0.5).abs() < 1e-12);
        // Shares 0.3, 0.5 and 0.7 of fifty: between 2, within 33.5 / 147, typical 50:
        // r = 1.7721 / (2 + 49 * 0.2279) = 0.13459, weight 6.430.
        let (_, weight) = prior(&[(15, 50), (25, 50), (35, 50), (0, 0)]).unwrap();
        assert!((weight - 6.430).abs() < 0.001, "{weight}");
        assert_eq!(prior(&[(5, 10), (5, 10)]).unwrap().1, WEIGHT_MAX);
        assert_eq!(prior(&[(5, 10)]).unwrap().1, WEIGHT_USUAL);
        assert!(prior(&[(0, 0)]).is_none());
        let (never, _) = prior(&[(0, 10), (0, 5)]).unwrap();
        assert!(never.mean() > 0.0);
    }

    #[test]
    fn one_of_six_is_not_yet_bad() {
        let (prior, weight) = prior(&[(1, 6), (30, 60), (27, 60), (33, 60)]).unwrap();
        let new = prior.after(1, 6).estimated();
        assert!(weight > 100.0 && new.value > 0.4, "{weight} {new:?}");
        assert!(new.low < 0.48 && new.high > 0.48);
    }
}
