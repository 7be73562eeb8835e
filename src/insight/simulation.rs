//! Draws of what will be won, bin by bin.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma, Poisson, StandardNormal};

use super::outlook::{Chance, Outlook};
use super::worth::COMMON_SHARE;
use crate::domain::probability::{logistic, logit};

/// Standard deviations of the common error at which all probabilities are worked out; between two of them
/// they are taken as linear.
const NODES: [f64; 7] = [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0];
/// More wins of deals to come than these are drawn from a normal distribution.
const NEWCOMERS_MAX: f64 = 200.0;
const SEED: u64 = 1_608;

/// How much is drawn.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub draws: usize,
    /// Deals that are drawn one by one: those that add most to the variance.
    pub single_deals: usize,
}

/// Values in the base currency: `[draw * bins + bin]`.
pub struct Draws {
    pub bins: usize,
    pub open: Vec<f64>,
    pub newcomers: Vec<f64>,
}

impl Draws {
    /// Of each draw, the sum over all bins of open deals, of deals to come, or of both.
    pub fn totals(&self, of_open: bool, of_newcomers: bool) -> Vec<f64> {
        let sums = |values: &[f64], is_wanted: bool| -> Vec<f64> {
            let draws = values.chunks(self.bins.max(1));
            draws
                .map(|draw| if is_wanted { draw.iter().sum() } else { 0.0 })
                .collect()
        };
        let open = sums(&self.open, of_open);
        let newcomers = sums(&self.newcomers, of_newcomers);
        open.iter().zip(&newcomers).map(|(a, b)| a + b).collect()
    }
}

/// The probabilities of a deal at the nodes. Spread by the common error, their mean is still the deal's
/// own: the log-odds are stretched by sqrt(1 + pi/8 variance) first.
fn at_nodes(chance: &Chance) -> [f64; NODES.len()] {
    let spread = COMMON_SHARE.sqrt() * chance.spread;
    if spread == 0.0 {
        return [chance.win_probability; NODES.len()];
    }
    let stretch = (1.0 + std::f64::consts::PI / 8.0 * spread * spread).sqrt();
    let middle = logit(chance.win_probability) * stretch;
    NODES.map(|node| logistic(middle + spread * node))
}

/// Which two nodes an error lies between, and how far it is from the first.
fn between(error: f64) -> (usize, f64) {
    let last = NODES.len() - 1;
    let place = (error - NODES[0]).clamp(0.0, last as f64);
    let below = (place as usize).min(last - 1);
    (below, place - below as f64)
}

fn at_error(nodes: &[f64; NODES.len()], (below, part): (usize, f64)) -> f64 {
    nodes[below] + part * (nodes[below + 1] - nodes[below])
}

/// A deal that is drawn by itself.
struct Single<'a> {
    nodes: [f64; NODES.len()],
    amount: f64,
    /// The chance to close, if won, up to the end of each bin.
    closed_by: &'a [f64],
}

/// All other deals, by bin.
struct Rest {
    means: Vec<[f64; NODES.len()]>,
    /// Standard deviations, so that those of the bins together make that of their sum.
    spreads: Vec<f64>,
}

/// Draws what is won in each bin. The same outlook gives the same draws.
pub fn draw(outlook: &Outlook, effort: Effort) -> Draws {
    let bins = outlook.newcomers.len();
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let closed_by: Vec<Vec<f64>> = outlook.cells.iter().map(|cell| sums(cell)).collect();
    let (singles, rest) = split(outlook, &closed_by, effort.single_deals);
    let mut draws = Draws {
        bins,
        open: vec![0.0; bins * effort.draws],
        newcomers: vec![0.0; bins * effort.draws],
    };
    let arrivals = Arrivals::of(outlook);
    for index in 0..effort.draws {
        let range = index * bins..(index + 1) * bins;
        let error = between(StandardNormal.sample(&mut rng));
        let open = &mut draws.open[range.clone()];
        for single in &singles {
            let p = at_error(&single.nodes, error);
            let chance: f64 = rng.random();
            let closes_by = chance / p;
            if single
                .closed_by
                .last()
                .is_some_and(|last| closes_by < *last)
            {
                let bin = single.closed_by.partition_point(|by| *by <= closes_by);
                open[bin] += single.amount;
            }
        }
        for (bin, value) in open.iter_mut().enumerate() {
            if rest.spreads[bin] > 0.0 {
                let noise: f64 = StandardNormal.sample(&mut rng);
                let mean = at_error(&rest.means[bin], error);
                *value += (mean + rest.spreads[bin] * noise).max(0.0);
            }
        }
        arrivals.draw(&mut rng, &mut draws.newcomers[range]);
    }
    draws
}

fn sums(shares: &[f64]) -> Vec<f64> {
    let mut sum = 0.0;
    let sums = shares.iter().map(|share| {
        sum += share;
        sum
    });
    sums.collect()
}

/// The deals with the largest variance one by one, the others together.
fn split<'a>(
    outlook: &Outlook,
    closed_by: &'a [Vec<f64>],
    single_deals: usize,
) -> (Vec<Single<'a>>, Rest) {
    let within = |chance: &Chance| closed_by[chance.cell].last().copied().unwrap_or(0.0);
    let variance = |chance: &Chance| {
        let p = chance.win_probability * within(chance);
        p * (1.0 - p) * chance.amount * chance.amount
    };
    let mut order: Vec<(f64, usize)> = (outlook.chances.iter().enumerate())
        .map(|(index, chance)| (variance(chance), index))
        .filter(|(variance, _)| *variance > 0.0)
        .collect();
    let single_count = single_deals.min(order.len());
    if single_count < order.len() {
        order.select_nth_unstable_by(single_count, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    }
    let (single, rest) = order.split_at_mut(single_count);
    // What the selection left in some order is put in one, so that draws are the same everywhere.
    single.sort_unstable_by_key(|(_, index)| *index);
    rest.sort_unstable_by_key(|(_, index)| *index);
    let singles = single.iter().map(|(_, index)| {
        let chance = &outlook.chances[*index];
        Single {
            nodes: at_nodes(chance),
            amount: chance.amount,
            closed_by: &closed_by[chance.cell],
        }
    });
    (singles.collect(), together(outlook, rest))
}

/// The sums over deals of like timing, spread over the bins.
fn together(outlook: &Outlook, rest: &[(f64, usize)]) -> Rest {
    let bins = outlook.newcomers.len();
    let cells = outlook.cells.len();
    let mut means = vec![[0.0; NODES.len()]; cells];
    let mut squares = vec![(0.0, 0.0); cells];
    let mut variance = 0.0;
    for (own, index) in rest {
        let chance = &outlook.chances[*index];
        let nodes = at_nodes(chance);
        for (mean, p) in means[chance.cell].iter_mut().zip(nodes) {
            *mean += p * chance.amount;
        }
        let (p, amount) = (chance.win_probability, chance.amount);
        squares[chance.cell].0 += p * amount * amount;
        squares[chance.cell].1 += p * p * amount * amount;
        variance += own;
    }
    let mut together = Rest {
        means: vec![[0.0; NODES.len()]; bins],
        spreads: vec![0.0; bins],
    };
    for (cell, shares) in outlook.cells.iter().enumerate() {
        for (bin, share) in shares.iter().enumerate() {
            for (sum, mean) in together.means[bin].iter_mut().zip(means[cell]) {
                *sum += share * mean;
            }
            together.spreads[bin] += share * squares[cell].0 - share * share * squares[cell].1;
        }
    }
    // A deal closes in one bin only, so the bins hang together; drawn each by itself they vary too much.
    let by_bins: f64 = together.spreads.iter().sum();
    let scale = if by_bins > 0.0 {
        variance / by_bins
    } else {
        0.0
    };
    for spread in &mut together.spreads {
        *spread = (*spread * scale).max(0.0).sqrt();
    }
    together
}

/// Wins of deals that do not exist yet.
struct Arrivals<'a> {
    wins: &'a [f64],
    values: &'a [f64],
    mean: f64,
    /// Mean of the squared values.
    square: f64,
    /// How well the rate is known: by so many wins.
    rate: Option<Gamma<f64>>,
    is_many: bool,
}

impl<'a> Arrivals<'a> {
    fn of(outlook: &'a Outlook) -> Self {
        let values = outlook.flow.values.as_slice();
        let count = values.len().max(1) as f64;
        let won = outlook.flow.won as f64;
        Self {
            wins: &outlook.newcomers,
            values,
            mean: values.iter().sum::<f64>() / count,
            square: values.iter().map(|value| value * value).sum::<f64>() / count,
            rate: Gamma::new(won, 1.0 / won).ok(),
            is_many: outlook.newcomers.iter().sum::<f64>() > NEWCOMERS_MAX,
        }
    }

    /// Poisson counts at an uncertain rate, each win worth a past one.
    fn draw(&self, rng: &mut ChaCha8Rng, bins: &mut [f64]) {
        let (Some(rate), false) = (&self.rate, self.values.is_empty()) else {
            return;
        };
        let rate = rate.sample(rng);
        for (wins, value) in self.wins.iter().zip(bins) {
            let expected = rate * wins;
            if self.is_many {
                let noise: f64 = StandardNormal.sample(rng);
                let sum = expected * self.mean + (expected * self.square).sqrt() * noise;
                *value = sum.max(0.0);
            } else if let Ok(count) = Poisson::new(expected) {
                let count = count.sample(rng) as usize;
                let won = (0..count).map(|_| self.values[rng.random_range(0..self.values.len())]);
                *value = won.sum::<f64>() + 0.0;
            }
        }
    }
}
