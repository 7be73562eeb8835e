//! What the covariance of the coefficients does not know of a score: that the form of the model may be
//! wrong, and that deals like this one ended otherwise than predicted.

use serde::{Deserialize, Serialize};

use crate::domain::Phase;

/// Found on rows that the coefficients had not seen; log-odds are before calibration unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doubts {
    /// How wrong the form of the model may be.
    pub forms: ByPhase<Vec<FormError>>,
    /// How far deals like this one may be from what was predicted of them.
    pub reliability: ByPhase<Vec<Reliability>>,
}

/// An answer for each phase of life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByPhase<T> {
    pub new: T,
    /// Without one of its own, a phase has the answer for new deals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_stage: Option<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub later: Option<T>,
}

/// The variance of what the form is wrong by, at some log-odds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormError {
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
    pub fn of(&self, phase: Phase) -> &T {
        let own = match phase {
            Phase::New => None,
            Phase::FirstStage => self.first_stage.as_ref(),
            Phase::Later => self.later.as_ref(),
        };
        own.unwrap_or(&self.new)
    }

    fn all(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.new)
            .chain(&self.first_stage)
            .chain(&self.later)
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
        self.forms.all().all(|forms| {
            rises(&mut forms.iter().map(|at| at.log_odds))
                && forms.iter().all(|at| is_distance(at.variance))
        }) && self.reliability.all().all(|shares| {
            rises(&mut shares.iter().map(|at| at.log_odds))
                && (shares.iter()).all(|at| is_distance(at.below) && is_distance(at.above))
        })
    }
}

/// What the form adds to the variance at these log-odds.
pub fn form_variance(forms: &[FormError], log_odds: f64) -> f64 {
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
        let forms: Vec<FormError> = [(-2.0, 0.4), (0.0, 0.0), (1.0, 0.1)]
            .map(|(log_odds, variance)| FormError { log_odds, variance })
            .into();
        for (log_odds, variance) in [
            (-9.0, 0.4),
            (-1.5, 0.3),
            (0.0, 0.0),
            (0.5, 0.05),
            (7.0, 0.1),
        ] {
            assert!((form_variance(&forms, log_odds) - variance).abs() < 1e-12);
        }
        assert_eq!(form_variance(&[], 1.0), 0.0);
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
        let at = |log_odds: f64| FormError {
            log_odds,
            variance: 0.1,
        };
        doubts.forms.new = vec![at(-1.0), at(2.0)];
        assert!(doubts.is_sound());
        doubts.forms.new.push(at(0.0));
        assert!(!doubts.is_sound(), "not in order");
        doubts.forms.new.clear();
        doubts.reliability.new = vec![Reliability {
            log_odds: 0.0,
            below: f64::NAN,
            above: 0.0,
        }];
        assert!(!doubts.is_sound());
    }
}
