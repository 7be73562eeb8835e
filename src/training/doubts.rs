//! What rows that the coefficients had not seen tell of how wrong scores may be.

use std::collections::BTreeMap;

use jiff::Timestamp;
use statrs::function::beta::inv_beta_reg;

use crate::domain::probability::{logistic, logit};
use crate::model::doubts::{ByPhase, FormsApart, Reliability};

/// Rows of a phase that it takes to tell of it apart.
const PHASE_ROWS_MIN: usize = 100;
/// Log-odds at which forms are compared: as many groups of rows, fewer of few rows.
const GROUPS_MAX: usize = 8;
const GROUP_ROWS_MIN: usize = 250;
/// Rows of the outermost groups whose wins are compared with what was predicted; inwards each group is
/// twice as large as the one before. It is the ends of the range where there is most to doubt.
const END_ROWS: usize = 250;
/// Each side of 90%.
const TAIL: f64 = 0.05;
/// Log-odds that a share without any win, or any loss, may be off: as good as never, or as always.
const OFF_MAX: f64 = 14.0;
/// Dates that it takes to tell how they differ, and what rows of one must tell of its mean.
const DATES_MIN: usize = 5;
const DATE_INFORMATION_MIN: f64 = 3.0;

/// Where in its life a deal stands in a row.
#[derive(Debug, Clone, Copy, Default)]
pub struct Phase {
    /// Whether it has left the stage in which it began.
    pub has_moved: bool,
    /// The date of the landmark; none of a creation and of a deal from a flat file.
    pub date: Option<Timestamp>,
}

/// The answers for rows of either phase, given by their places; one for all where a phase has too few.
pub fn by_phase<T>(phases: &[Phase], of: impl Fn(&[usize]) -> T) -> ByPhase<T> {
    let places = 0..phases.len();
    let (later, first): (Vec<usize>, Vec<usize>) =
        places.clone().partition(|&place| phases[place].has_moved);
    if first.len().min(later.len()) < PHASE_ROWS_MIN {
        return ByPhase {
            first_stage: of(&places.collect::<Vec<_>>()),
            later: None,
        };
    }
    ByPhase {
        first_stage: of(&first),
        later: Some(of(&later)),
    }
}

/// Another form of the model, and how much its log-odds count, 0 to 1.
pub struct Rival<'a> {
    pub eta: &'a [f64],
    pub weight: f64,
}

/// How far the log-odds of other forms are from those of the chosen one, `eta`: the mean squared difference
/// over rows of about the same log-odds, of the form where it counts for most. What the data cannot tell
/// apart, an interval must cover (Buckland, Burnham and Augustin, "Model Selection: An Integral Part of
/// Inference", Biometrics 1997, average where this takes the farthest).
pub fn forms_apart(eta: &[f64], rivals: &[Rival], places: &[usize]) -> Vec<FormsApart> {
    let sorted = by_log_odds(eta, places);
    let groups = (sorted.len() / GROUP_ROWS_MIN).clamp(1, GROUPS_MAX);
    let group_of = |places: &[usize]| {
        let mean = |value: &dyn Fn(usize) -> f64| {
            places.iter().map(|&place| value(place)).sum::<f64>() / places.len() as f64
        };
        let apart = rivals.iter().map(|rival| {
            let square = |place: usize| (rival.eta[place] - eta[place]).powi(2);
            rival.weight * mean(&square)
        });
        FormsApart {
            log_odds: mean(&|place| eta[place]),
            variance: apart.fold(0.0, f64::max),
        }
    };
    let groups = sorted.chunks(sorted.len().div_ceil(groups).max(1));
    groups.map(group_of).collect()
}

/// How far the won share of deals of about the same log-odds may be from their predicted one: the exact
/// limits of a binomial share (Clopper and Pearson 1934), against the mean of `calibrated`. The rows of a
/// deal, told by `deals`, count as one.
pub fn reliability(
    eta: &[f64],
    calibrated: &[f64],
    won: &[bool],
    deals: &[usize],
    places: &[usize],
) -> Vec<Reliability> {
    let sorted = by_log_odds(eta, places);
    let share_of = |places: &[usize]| {
        let rows = places.len() as f64;
        let mut own: Vec<usize> = places.iter().map(|&place| deals[place]).collect();
        own.sort_unstable();
        own.dedup();
        let count = own.len() as f64;
        let wins = places.iter().filter(|&&place| won[place]).count() as f64 * count / rows;
        let predicted = places.iter().map(|&place| logistic(calibrated[place]));
        let predicted = logit(predicted.sum::<f64>() / rows);
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
    let groups = groups_from_the_ends(sorted.len());
    let shares = groups
        .windows(2)
        .map(|ends| share_of(&sorted[ends[0]..ends[1]]));
    shares.collect()
}

/// Where groups begin and end that grow from the ends inwards.
fn groups_from_the_ends(rows: usize) -> Vec<usize> {
    let mut begins = vec![0];
    let (mut begin, mut size) = (0, END_ROWS);
    while begin + 2 * size <= rows / 2 {
        begin += size;
        begins.push(begin);
        size *= 2;
    }
    let ends: Vec<usize> = begins.iter().rev().map(|begin| rows - begin).collect();
    begins.into_iter().chain(ends).collect()
}

/// The variance of what the open deals of a date share, log-odds squared: by how much more the dates differ
/// from what was predicted of them than chance would have it (DerSimonian and Laird, "Meta-analysis in
/// clinical trials", 1986).
pub fn variance_of_dates(
    calibrated: &[f64],
    won: &[bool],
    phases: &[Phase],
    places: &[usize],
) -> f64 {
    let mut dates: BTreeMap<Timestamp, (f64, f64)> = BTreeMap::new();
    for &place in places {
        let Some(date) = phases[place].date else {
            continue;
        };
        let p = logistic(calibrated[place]);
        let (residual, information) = dates.entry(date).or_default();
        *residual += f64::from(u8::from(won[place])) - p;
        *information += p * (1.0 - p);
    }
    dates.retain(|_, (_, information)| *information >= DATE_INFORMATION_MIN);
    if dates.len() < DATES_MIN {
        return 0.0;
    }
    // The calibration has taken the mean: about zero there are as many squares as dates.
    let heterogeneity: f64 = dates
        .values()
        .map(|(r, information)| r * r / information)
        .sum();
    let sum: f64 = dates.values().map(|(_, information)| information).sum();
    let squares: f64 = dates
        .values()
        .map(|(_, information)| information * information)
        .sum();
    ((heterogeneity - dates.len() as f64) / (sum - squares / sum)).max(0.0)
}

/// Places in the order of their log-odds.
fn by_log_odds(eta: &[f64], places: &[usize]) -> Vec<usize> {
    let mut sorted = places.to_vec();
    sorted.sort_by(|&a, &b| eta[a].total_cmp(&eta[b]));
    sorted
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn places(count: usize) -> Vec<usize> {
        (0..count).collect()
    }

    #[test]
    fn groups_grow_from_the_ends() {
        assert_eq!(groups_from_the_ends(300), [0, 300]);
        assert_eq!(groups_from_the_ends(1000), [0, 250, 750, 1000]);
        assert_eq!(groups_from_the_ends(4000), [0, 250, 750, 3250, 3750, 4000]);
    }

    /// Forms that differ by 0.5 at low log-odds only; one that is hardly believed counts for little.
    #[test]
    fn forms_are_apart_where_they_differ() {
        const ROWS: usize = 4000;
        let eta: Vec<f64> = (0..ROWS).map(|row| row as f64 / 1000.0 - 2.0).collect();
        let low: Vec<f64> = eta
            .iter()
            .map(|&x| if x < -1.0 { x + 0.5 } else { x })
            .collect();
        let far: Vec<f64> = eta.iter().map(|x| x + 1.0).collect();
        let rivals = [(&low, 1.0), (&far, 0.04)];
        let rivals = rivals.map(|(eta, weight)| Rival { eta, weight });
        let apart = forms_apart(&eta, &rivals, &places(ROWS));
        assert_eq!(apart.len(), GROUPS_MAX);
        assert!((apart[0].variance - 0.25).abs() < 1e-12, "{apart:?}");
        assert!((apart[7].variance - 0.04).abs() < 1e-12, "{apart:?}");
        assert!(apart.is_sorted_by_key(|at| at.log_odds));
    }

    /// 300 deals at even odds: the limits of a share of a half, from R's `binom.test(150, 300,
    /// conf.level = 0.9)`: 0.4507 to 0.5493. And one that was never won.
    #[test]
    fn limits_are_those_of_a_binomial_share() {
        let eta = vec![0.0; 300];
        let won: Vec<bool> = (0..300).map(|row| row % 2 == 0).collect();
        let shares = reliability(&eta, &eta, &won, &places(300), &places(300));
        assert_eq!(shares.len(), 1);
        assert!(
            (logistic(shares[0].above) - 0.5493).abs() < 1e-3,
            "{shares:?}"
        );
        assert!((shares[0].above - shares[0].below).abs() < 1e-9);
        let never = reliability(&eta, &eta, &[false; 300], &places(300), &places(300));
        assert_eq!((never[0].below, never[0].above), (OFF_MAX, 0.0));
        // As many rows of a tenth of the deals tell less.
        let deals: Vec<usize> = (0..300).map(|row| row / 10).collect();
        let few = reliability(&eta, &eta, &won, &deals, &places(300));
        assert!(few[0].above > 2.5 * shares[0].above, "{few:?}");
    }

    /// Dates of which each moves all of its deals by chance, of standard deviation 0.4, and dates that do not.
    #[test]
    fn what_dates_share_is_found() {
        const DATES: usize = 200;
        const DEALS: usize = 200;
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut variance = |deviation: f64| {
            let (mut won, mut phases) = (Vec::new(), Vec::new());
            for date in 0..DATES {
                let shared = deviation * 12f64.sqrt() * (rng.random::<f64>() - 0.5);
                for _ in 0..DEALS {
                    won.push(rng.random::<f64>() < logistic(shared));
                    phases.push(Phase {
                        has_moved: false,
                        date: Timestamp::from_second(date as i64).ok(),
                    });
                }
            }
            let eta = vec![0.0; won.len()];
            variance_of_dates(&eta, &won, &phases, &places(won.len()))
        };
        let (moved, still) = (variance(0.4), variance(0.0));
        assert!((moved.sqrt() - 0.4).abs() < 0.06, "{moved}");
        assert!(still < 0.01, "{still}");
    }

    #[test]
    fn a_phase_of_few_rows_is_not_told_apart() {
        let phases = |later: usize| -> Vec<Phase> {
            let phase = |row: usize| Phase {
                has_moved: row < later,
                date: None,
            };
            (0..400).map(phase).collect()
        };
        let counts = by_phase(&phases(50), <[usize]>::len);
        assert_eq!((counts.first_stage, counts.later), (400, None));
        let counts = by_phase(&phases(150), <[usize]>::len);
        assert_eq!((*counts.of(false), *counts.of(true)), (250, 150));
    }
}
