//! What rows that the coefficients had not seen tell of how wrong scores may be.

use statrs::function::beta::inv_beta_reg;

use crate::domain::Phase;
use crate::domain::probability::{PROBABILITY_MIN, logistic, logit};
use crate::model::doubts::{ByPhase, FormError, Reliability};

/// Rows of a phase that it takes to tell of it apart.
const PHASE_ROWS_MIN: usize = 100;
/// Rows of about the same log-odds that are looked at together: so many in the outermost groups, inwards
/// each group is twice as large as the one before. It is the ends of the range where there is most to doubt.
/// Outcomes take more rows to tell anything than differences between forms, and of new deals, whose log-odds
/// do not go as far, more can be taken together than of deals under way.
const FORMS_END_ROWS: usize = 50;
const OUTCOMES_END_ROWS_NEW: usize = 1000;
const OUTCOMES_END_ROWS_UNDER_WAY: usize = 250;
/// Correlation of what two forms are wrong about. They read the same columns of the same rows; and they all
/// add up what these say, which holds for what a deal was made, and less for what has happened to it. With
/// it, 90% intervals hold about 90% of the true probabilities of simulated deals (`docs/model.md`).
const CORRELATION_NEW: f64 = 0.5;
const CORRELATION_UNDER_WAY: f64 = 0.75;
/// Each side of 90%.
const TAIL: f64 = 0.05;
/// Log-odds that a share without any win, or any loss, may be off: as good as never, or as always.
const OFF_MAX: f64 = 14.0;

/// The answers for the rows of each phase, given by their places. One of too few rows has none of its own;
/// if it is that of new deals, the answer is for all.
pub fn by_phase<T>(phases: &[Phase], of: impl Fn(Phase, &[usize]) -> T) -> ByPhase<T> {
    let own = |phase| {
        let places: Vec<usize> = (0..phases.len())
            .filter(|&place| phases[place] == phase)
            .collect();
        (places.len() >= PHASE_ROWS_MIN).then(|| of(phase, &places))
    };
    ByPhase {
        new: own(Phase::New).unwrap_or_else(|| of(Phase::New, &Vec::from_iter(0..phases.len()))),
        first_stage: own(Phase::FirstStage),
        later: own(Phase::Later),
    }
}

/// Another form of the model, and how much its log-odds count, 0 to 1.
pub struct Rival<'a> {
    pub eta: &'a [f64],
    pub weight: f64,
}

/// How wrong the form of the model may be, by how far the log-odds of other forms are from those of the
/// chosen one, `eta`. What the data cannot tell apart, an interval must cover (Buckland, Burnham and
/// Augustin, "Model Selection: An Integral Part of Inference", Biometrics 1997, average where this takes the
/// farthest).
///
/// If two forms are wrong by errors of variance `v` and correlation `r`, the mean square of their difference
/// is `2 v (1 - r)`; it is taken over rows of about the same log-odds.
pub fn form_errors(
    phase: Phase,
    eta: &[f64],
    rivals: &[Rival],
    places: &[usize],
) -> Vec<FormError> {
    let correlation = match phase {
        Phase::New => CORRELATION_NEW,
        Phase::FirstStage | Phase::Later => CORRELATION_UNDER_WAY,
    };
    let group_of = |places: &[usize]| {
        let mean = |value: &dyn Fn(usize) -> f64| {
            places.iter().map(|&place| value(place)).sum::<f64>() / places.len() as f64
        };
        let apart = rivals.iter().map(|rival| {
            let square = |place: usize| (rival.eta[place] - eta[place]).powi(2);
            rival.weight * mean(&square) / (2.0 * (1.0 - correlation))
        });
        FormError {
            log_odds: mean(&|place| eta[place]),
            variance: apart.fold(0.0, f64::max),
        }
    };
    of_groups(eta, places, FORMS_END_ROWS, group_of)
}

/// How far the won share of deals of about the same log-odds may be from their predicted one: the exact
/// limits of a binomial share (Clopper and Pearson 1934), against the mean of `calibrated`. The rows of a
/// deal, told by `deals`, count as one.
pub fn reliability(
    phase: Phase,
    eta: &[f64],
    calibrated: &[f64],
    won: &[bool],
    deals: &[usize],
    places: &[usize],
) -> Vec<Reliability> {
    let share_of = |places: &[usize]| {
        let rows = places.len() as f64;
        let mut own: Vec<usize> = places.iter().map(|&place| deals[place]).collect();
        own.sort_unstable();
        own.dedup();
        let count = own.len() as f64;
        let wins = places.iter().filter(|&&place| won[place]).count() as f64 * count / rows;
        let predicted = places.iter().map(|&place| logistic(calibrated[place]));
        let predicted = predicted.sum::<f64>() / rows;
        let predicted = logit(predicted.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN));
        let losses = count - wins;
        let low = match wins > 0.0 {
            true => logit(inv_beta_reg(wins, losses + 1.0, TAIL)),
            false => f64::NEG_INFINITY,
        };
        let high = match losses > 0.0 {
            true => logit(inv_beta_reg(wins + 1.0, losses, 1.0 - TAIL)),
            false => f64::INFINITY,
        };
        Reliability {
            log_odds: places.iter().map(|&place| eta[place]).sum::<f64>() / rows,
            below: (predicted - low).clamp(0.0, OFF_MAX),
            above: (high - predicted).clamp(0.0, OFF_MAX),
        }
    };
    let end_rows = match phase {
        Phase::New => OUTCOMES_END_ROWS_NEW,
        Phase::FirstStage | Phase::Later => OUTCOMES_END_ROWS_UNDER_WAY,
    };
    of_groups(eta, places, end_rows, share_of)
}

/// Where groups begin and end that grow from the ends inwards.
fn groups_from_the_ends(rows: usize, end_rows: usize) -> Vec<usize> {
    let mut begins = vec![0];
    let (mut begin, mut size) = (0, end_rows);
    while begin + 2 * size <= rows / 2 {
        begin += size;
        begins.push(begin);
        size *= 2;
    }
    let ends: Vec<usize> = begins.iter().rev().map(|begin| rows - begin).collect();
    begins.into_iter().chain(ends).collect()
}

/// The answers for groups of places of about the same log-odds, in the order of these.
fn of_groups<T>(
    eta: &[f64],
    places: &[usize],
    end_rows: usize,
    of: impl Fn(&[usize]) -> T,
) -> Vec<T> {
    let mut sorted = places.to_vec();
    sorted.sort_by(|&a, &b| eta[a].total_cmp(&eta[b]));
    let groups = groups_from_the_ends(sorted.len(), end_rows);
    let groups = groups.windows(2).filter(|ends| ends[0] < ends[1]);
    groups.map(|ends| of(&sorted[ends[0]..ends[1]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(count: usize) -> Vec<usize> {
        (0..count).collect()
    }

    #[test]
    fn groups_grow_from_the_ends() {
        assert_eq!(groups_from_the_ends(300, 250), [0, 300]);
        assert_eq!(groups_from_the_ends(1000, 250), [0, 250, 750, 1000]);
        assert_eq!(
            groups_from_the_ends(4000, 250),
            [0, 250, 750, 3250, 3750, 4000]
        );
    }

    /// Forms that differ by 0.5 at low log-odds only; one that is hardly believed counts for little. Deals
    /// under way are doubted twice as much.
    #[test]
    fn forms_are_doubted_where_others_differ() {
        const ROWS: usize = 4000;
        let eta: Vec<f64> = (0..ROWS).map(|row| row as f64 / 1000.0 - 2.0).collect();
        let low: Vec<f64> = eta
            .iter()
            .map(|&x| if x < -1.0 { x + 0.5 } else { x })
            .collect();
        let far: Vec<f64> = eta.iter().map(|x| x + 1.0).collect();
        let rivals = [(&low, 1.0), (&far, 0.04)];
        let rivals = rivals.map(|(eta, weight)| Rival { eta, weight });
        for (phase, times) in [(Phase::New, 1.0), (Phase::Later, 2.0)] {
            let errors = form_errors(phase, &eta, &rivals, &places(ROWS));
            assert_eq!(errors.len(), 9);
            let (first, last) = (errors[0].variance, errors[8].variance);
            assert!((first - 0.25 * times).abs() < 1e-12, "{errors:?}");
            assert!((last - 0.04 * times).abs() < 1e-12, "{errors:?}");
            assert!(errors.is_sorted_by_key(|at| at.log_odds));
        }
    }

    /// 300 deals at even odds: the limits of a share of a half, from R's `binom.test(150, 300,
    /// conf.level = 0.9)`: 0.4507 to 0.5493. And one that was never won.
    #[test]
    fn limits_are_those_of_a_binomial_share() {
        let eta = vec![0.0; 300];
        let won: Vec<bool> = (0..300).map(|row| row % 2 == 0).collect();
        let shares = reliability(Phase::Later, &eta, &eta, &won, &places(300), &places(300));
        assert_eq!(shares.len(), 1);
        assert!(
            (logistic(shares[0].above) - 0.5493).abs() < 1e-3,
            "{shares:?}"
        );
        assert!((shares[0].above - shares[0].below).abs() < 1e-9);
        // However sure the model is.
        let sure = vec![800.0; 300];
        let always = reliability(
            Phase::Later,
            &sure,
            &sure,
            &[true; 300],
            &places(300),
            &places(300),
        );
        assert_eq!(always[0].above, OFF_MAX);
        assert!(
            always[0].below > 0.0 && always[0].below < OFF_MAX,
            "{always:?}"
        );
        let never = reliability(
            Phase::Later,
            &eta,
            &eta,
            &[false; 300],
            &places(300),
            &places(300),
        );
        assert_eq!((never[0].below, never[0].above), (OFF_MAX, 0.0));
        // As many rows of a tenth of the deals tell less.
        let deals: Vec<usize> = (0..300).map(|row| row / 10).collect();
        let few = reliability(Phase::Later, &eta, &eta, &won, &deals, &places(300));
        assert!(few[0].above > 2.5 * shares[0].above, "{few:?}");
    }

    #[test]
    fn a_phase_of_few_rows_is_not_told_apart() {
        let phases = |later: usize| -> Vec<Phase> {
            let phase = |row: usize| {
                if row < later {
                    Phase::Later
                } else {
                    Phase::New
                }
            };
            (0..400).map(phase).collect()
        };
        let counts = |later: usize| by_phase(&phases(later), |_, places| places.len());
        let few = counts(50);
        assert_eq!((few.new, few.first_stage, few.later), (350, None, None));
        assert_eq!(*few.of(Phase::Later), 350);
        let enough = counts(150);
        assert_eq!(
            (*enough.of(Phase::New), *enough.of(Phase::Later)),
            (250, 150)
        );
        assert_eq!(*enough.of(Phase::FirstStage), 250);
        // Not one of them is new: the answer for new deals is that of all.
        assert_eq!(counts(400).new, 400);
    }
}
