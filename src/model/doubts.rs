//! What the covariance of the coefficients does not know of a score: that the form of the model may be
//! wrong, that deals like this one ended otherwise than predicted, and that days differ.

use serde::{Deserialize, Serialize};

/// Found on rows that the coefficients had not seen; log-odds are before calibration unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doubts {
    /// How far forms of the model are apart that the data hardly tell from the one that was chosen.
    pub forms: ByPhase<Vec<FormsApart>>,
    /// How far deals like this one may be from what was predicted of them.
    pub reliability: ByPhase<Vec<Reliability>>,
    /// Variance of what all open deals of a day share: an August, a quarter's end. Deals that were created
    /// within a day have none of it yet.
    pub days: ByPhase<f64>,
}

/// Of deals that are in the stage in which they began or have none, and of those that have moved on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByPhase<T> {
    pub first_stage: T,
    /// `None` where nothing sets them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<T>,
}

/// The variance between forms at some log-odds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormsApart {
    pub log_odds: f64,
    pub variance: f64,
}

/// How far below and above the calibrated log-odds deals of some log-odds may be won in truth, both 0 or
/// more: 90% limits of their share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reliability {
    pub log_odds: f64,
    pub below: f64,
    pub above: f64,
}

impl<T> ByPhase<T> {
    pub fn of(&self, has_moved: bool) -> &T {
        let later = self.later.as_ref().filter(|_| has_moved);
        later.unwrap_or(&self.first_stage)
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first_stage).chain(&self.later)
    }
}

impl Doubts {
    /// Whether every score gets an interval from it.
    pub fn is_sound(&self) -> bool {
        let is_distance = |x: f64| x.is_finite() && x >= 0.0;
        let rises = |log_odds: &mut dyn Iterator<Item = f64>| {
            let log_odds: Vec<f64> = log_odds.collect();
            log_odds.iter().all(|x| x.is_finite()) && log_odds.is_sorted()
        };
        self.days.all().all(|&variance| is_distance(variance))
            && self.forms.all().all(|forms| {
                rises(&mut forms.iter().map(|at| at.log_odds))
                    && forms.iter().all(|at| is_distance(at.variance))
            })
            && self.reliability.all().all(|shares| {
                rises(&mut shares.iter().map(|at| at.log_odds))
                    && (shares.iter()).all(|at| is_distance(at.below) && is_distance(at.above))
            })
    }
}

/// What forms add to the variance at these log-odds.
pub fn variance_between(forms: &[FormsApart], log_odds: f64) -> f64 {
    between(forms, log_odds, |at| at.log_odds, |at| at.variance)
}

/// How far below and above at these log-odds.
pub fn reliability_at(shares: &[Reliability], log_odds: f64) -> (f64, f64) {
    let at = |value| between(shares, log_odds, |at| at.log_odds, value);
    (at(|at| at.below), at(|at| at.above))
}

/// Linear between known points, and constant beyond them; 0 without any.
fn between<T>(points: &[T], x: f64, place: fn(&T) -> f64, value: fn(&T) -> f64) -> f64 {
    let right = points.partition_point(|point| place(point) < x);
    match (points.get(right.wrapping_sub(1)), points.get(right)) {
        (Some(low), Some(high)) => {
            let share = (x - place(low)) / (place(high) - place(low));
            value(low) + share * (value(high) - value(low))
        }
        (Some(only), None) | (None, Some(only)) => value(only),
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variances_are_linear_between_points_and_constant_beyond() {
        let forms: Vec<FormsApart> = [(-2.0, 0.4), (0.0, 0.0), (1.0, 0.1)]
            .map(|(log_odds, variance)| FormsApart { log_odds, variance })
            .into();
        for (log_odds, variance) in [
            (-9.0, 0.4),
            (-1.5, 0.3),
            (0.0, 0.0),
            (0.5, 0.05),
            (7.0, 0.1),
        ] {
            assert!((variance_between(&forms, log_odds) - variance).abs() < 1e-12);
        }
        assert_eq!(variance_between(&[], 1.0), 0.0);
        let shares = [Reliability {
            log_odds: 1.0,
            below: 2.0,
            above: 3.0,
        }];
        assert_eq!(reliability_at(&shares, -4.0), (2.0, 3.0));
    }

    #[test]
    fn only_what_gives_intervals_is_sound() {
        let mut doubts = Doubts::default();
        assert!(doubts.is_sound());
        doubts.days.later = Some(-0.1);
        assert!(!doubts.is_sound());
        doubts.days.later = None;
        let at = |log_odds: f64| FormsApart {
            log_odds,
            variance: 0.1,
        };
        doubts.forms.first_stage = vec![at(-1.0), at(2.0)];
        assert!(doubts.is_sound());
        doubts.forms.first_stage.push(at(0.0));
        assert!(!doubts.is_sound(), "not in order");
        doubts.forms.first_stage.clear();
        doubts.reliability.first_stage = vec![Reliability {
            log_odds: 0.0,
            below: f64::NAN,
            above: 0.0,
        }];
        assert!(!doubts.is_sound());
    }
}
