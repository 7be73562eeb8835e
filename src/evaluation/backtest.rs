//! What a ranking would have been worth: the share of the won value among the rows worked first.

use serde::{Deserialize, Serialize};

use super::Judged;
use super::bootstrap::{Estimate, Resamples};
use super::measures::top_count;

/// Shares of the rows that are worked.
pub const TOPS: [f64; 3] = [0.1, 0.2, 0.3];

/// Orders in which the rows could have been worked, by the won value that they bring in first.
///
/// Rows without an amount come last in every order and have no value; of ties that do not all fit in,
/// each counts in part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backtest {
    pub rows_with_amount: usize,
    /// Summed amounts of the won rows, in the base currency.
    pub won_value: f64,
    /// Orders that could not be told from the deals are left out.
    pub orders: Vec<Worked>,
    /// By expected value minus by amount, both of the same resamples.
    pub over_amount: Vec<Captured>,
}

/// An order and what it brings in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Worked {
    pub order: Order,
    pub captured: Vec<Captured>,
}

/// The share of the won value in the top of an order (or a difference of two such shares).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Captured {
    /// Share of the rows, one of [`TOPS`].
    pub top: f64,
    pub share: Estimate,
}

/// What rows are worked by, the highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    ExpectedValue,
    Amount,
    Probability,
    /// The win rate of the row's stage in the training rows.
    StageWinRate,
    /// The longest waiting first.
    FirstInFirstOut,
    /// What reps gave most attention.
    AsWorked,
}

impl Order {
    pub const ALL: [Self; 6] = [
        Self::ExpectedValue,
        Self::Amount,
        Self::Probability,
        Self::StageWinRate,
        Self::FirstInFirstOut,
        Self::AsWorked,
    ];

    /// In words, for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::ExpectedValue => "expected value",
            Self::Amount => "amount",
            Self::Probability => "win probability",
            Self::StageWinRate => "stage win rate",
            Self::FirstInFirstOut => "first in, first out",
            Self::AsWorked => "as reps worked",
        }
    }

    fn key(self, row: &Judged) -> Option<f64> {
        match self {
            Self::ExpectedValue => row.expected_value(),
            Self::Amount => row.amount,
            Self::Probability => Some(row.probability),
            Self::StageWinRate => row.stage_win_rate,
            Self::FirstInFirstOut => row.waiting,
            Self::AsWorked => row.attention,
        }
    }
}

impl Backtest {
    /// The share of the won value in the top of an order; `None` where the order is not known.
    pub fn captured(&self, order: Order, top: f64) -> Option<Estimate> {
        let worked = self.orders.iter().find(|worked| worked.order == order)?;
        let captured = worked
            .captured
            .iter()
            .find(|captured| captured.top == top)?;
        Some(captured.share)
    }
}

/// Shares of the won value, an order each.
pub(super) type Shares = Vec<[f64; TOPS.len()]>;

/// The rows in each order, ready to be counted with other weights again and again.
pub(super) struct Plan {
    rows_with_amount: usize,
    /// Rows and won value of each deal.
    rows: Vec<f64>,
    value: Vec<f64>,
    rankings: Vec<(Order, Vec<Step>)>,
}

/// A row in its place of an order.
struct Step {
    deal: u32,
    is_last_of_ties: bool,
    won_value: f64,
}

impl Plan {
    /// `None` where no won row has an amount.
    pub fn of(rows: &[Judged], resamples: &Resamples) -> Option<Self> {
        let value = resamples.sum_by_deal(rows.iter().map(won_value));
        if value.iter().sum::<f64>() <= 0.0 {
            return None;
        }
        let rankings = Order::ALL
            .into_iter()
            .filter(|order| rows.iter().any(|row| order.key(row).is_some()))
            .map(|order| (order, ranking(order, rows, resamples)));
        Some(Self {
            rows_with_amount: rows.iter().filter(|r| r.amount.is_some()).count(),
            rankings: rankings.collect(),
            rows: resamples.sum_by_deal(rows.iter().map(|_| 1.0)),
            value,
        })
    }

    /// Shares with each deal counted as often as its weight says; `None` when nothing of value is left.
    pub fn captured(&self, weights: &[u32]) -> Option<Shares> {
        let rows = super::weighted(&self.rows, weights);
        let value = super::weighted(&self.value, weights);
        let cuts = TOPS.map(|top| top_count(rows, top));
        let rankings = self.rankings.iter();
        let shares = rankings.map(|(_, steps)| won_above(steps, weights, cuts).map(|v| v / value));
        (value > 0.0).then(|| shares.collect())
    }

    /// Puts the shares of all resamples together.
    pub fn backtest(self, resamples: &Resamples, drawn: Vec<Option<Shares>>) -> Option<Backtest> {
        let seen = self.captured(&resamples.once_each())?;
        let drawn: Vec<Shares> = drawn.into_iter().flatten().collect();
        let estimate = |of: &dyn Fn(&Shares, usize) -> f64| -> Vec<Captured> {
            let tops = TOPS.iter().enumerate();
            tops.map(|(index, &top)| Captured {
                top,
                share: Estimate::new(
                    of(&seen, index),
                    drawn.iter().map(|shares| of(shares, index)).collect(),
                ),
            })
            .collect()
        };
        let place = |order| self.rankings.iter().position(|(o, _)| *o == order);
        let (by_value, by_amount) = (place(Order::ExpectedValue)?, place(Order::Amount)?);
        let orders = self.rankings.iter().enumerate();
        Some(Backtest {
            rows_with_amount: self.rows_with_amount,
            won_value: self.value.iter().sum(),
            orders: orders
                .map(|(place, (order, _))| Worked {
                    order: *order,
                    captured: estimate(&|shares, top| shares[place][top]),
                })
                .collect(),
            over_amount: estimate(&|shares, top| shares[by_value][top] - shares[by_amount][top]),
        })
    }
}

fn won_value(row: &Judged) -> f64 {
    row.amount.filter(|_| row.won).unwrap_or(0.0)
}

fn ranking(order: Order, rows: &[Judged], resamples: &Resamples) -> Vec<Step> {
    // Unknown keys come after all others, unknown amounts after those.
    let key = |row: &Judged| match (row.amount, order.key(row)) {
        (None, _) => f64::NEG_INFINITY,
        (Some(_), None) => f64::MIN,
        (Some(_), Some(key)) => key,
    };
    let mut sorted: Vec<(f64, usize)> = rows.iter().map(key).zip(0..).collect();
    sorted.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let steps = sorted.iter().enumerate().map(|(place, &(key, row))| Step {
        deal: resamples.deal_of(row),
        is_last_of_ties: sorted.get(place + 1).is_none_or(|next| next.0 != key),
        won_value: won_value(&rows[row]),
    });
    steps.collect()
}

/// The won value above each of the rising cuts, which are numbers of rows.
fn won_above<const N: usize>(steps: &[Step], weights: &[u32], cuts: [f64; N]) -> [f64; N] {
    let mut above = [0.0; N];
    let mut reached = 0;
    let (mut rows, mut value) = (0.0, 0.0);
    let (mut tied_rows, mut tied_value) = (0.0, 0.0);
    for step in steps {
        let weight = f64::from(weights[step.deal as usize]);
        tied_rows += weight;
        tied_value += weight * step.won_value;
        if !step.is_last_of_ties || tied_rows == 0.0 {
            continue;
        }
        while reached < N && cuts[reached] <= rows + tied_rows {
            above[reached] = value + tied_value * (cuts[reached] - rows) / tied_rows;
            reached += 1;
        }
        if reached == N {
            break;
        }
        rows += tied_rows;
        value += tied_value;
        (tied_rows, tied_value) = (0.0, 0.0);
    }
    above
}

#[cfg(test)]
mod tests {
    use super::super::evaluate;
    use super::super::tests::reference;
    use super::*;

    fn row(deal: usize, probability: f64, amount: Option<f64>, won: bool) -> Judged {
        Judged {
            amount,
            ..Judged::new(probability, won, deal)
        }
    }

    fn backtest(rows: &[Judged]) -> Option<Backtest> {
        evaluate(rows, reference(0.5), 3).unwrap().backtest
    }

    /// Ten deals, 1000 of won value: by amount the top is a lost 900, then won 600 and 300; by expected
    /// value won 600, won 300, won 100.
    #[test]
    fn each_order_brings_in_what_it_puts_first() {
        let mut rows = vec![
            row(0, 0.05, Some(900.0), false),
            row(1, 0.8, Some(600.0), true),
            row(2, 0.7, Some(300.0), true),
            row(3, 0.9, Some(100.0), true),
        ];
        rows.extend((4..10).map(|deal| row(deal, 0.2, Some(50.0), false)));
        let found = backtest(&rows).unwrap();
        assert_eq!((found.won_value, found.rows_with_amount), (1000.0, 10));
        let shares = |order| TOPS.map(|top| found.captured(order, top).map(|share| share.value));
        assert_eq!(
            shares(Order::ExpectedValue),
            [Some(0.6), Some(0.9), Some(1.0)]
        );
        assert_eq!(shares(Order::Amount), [Some(0.0), Some(0.6), Some(0.9)]);
        assert_eq!(
            shares(Order::Probability),
            [Some(0.1), Some(0.7), Some(1.0)]
        );
        assert_eq!(
            shares(Order::AsWorked),
            [None; 3],
            "nobody says how they were worked"
        );
        let more = found.over_amount[1].share;
        assert!((more.value - 0.3).abs() < 1e-12);
        assert!(more.low <= more.value && more.value <= more.high && more.low < more.high);
    }

    #[test]
    fn ties_and_rows_without_an_amount_do_not_depend_on_their_place() {
        let mut rows: Vec<Judged> = (0..8)
            .map(|deal| row(deal, 0.5, Some(100.0), deal < 2))
            .collect();
        rows.push(row(8, 0.99, None, true));
        rows.push(row(9, 0.99, None, true));
        for _ in 0..2 {
            let found = backtest(&rows).unwrap();
            assert_eq!(found.won_value, 200.0);
            for order in [Order::ExpectedValue, Order::Amount, Order::Probability] {
                assert_eq!(found.captured(order, 0.2).unwrap().value, 0.25, "{order:?}");
            }
            rows.reverse();
        }
        let unpriced: Vec<Judged> = (0..9).map(|deal| row(deal, 0.5, None, true)).collect();
        assert_eq!(backtest(&unpriced), None);
        let lost: Vec<Judged> = (0..9)
            .map(|deal| row(deal, 0.5, Some(1.0), false))
            .collect();
        assert_eq!(backtest(&lost), None);
    }

    /// Counting a deal three times is the same as having it three times.
    #[test]
    fn a_weight_stands_for_copies() {
        let rows: Vec<Judged> = (0..60)
            .map(|i| {
                row(
                    i / 2,
                    (i * 7 % 11) as f64 / 11.0,
                    Some((i * 13 % 17) as f64),
                    i % 3 == 0,
                )
            })
            .collect();
        let weights: Vec<u32> = (0..30).map(|deal| deal % 4).collect();
        let copied: Vec<Judged> = rows
            .iter()
            .flat_map(|row| (0..weights[row.deal]).map(|_| *row))
            .collect();
        let of = |rows: &[Judged], weights: Option<&[u32]>| {
            let resamples = Resamples::of(rows, 1);
            let plan = Plan::of(rows, &resamples).unwrap();
            plan.captured(weights.unwrap_or(&resamples.once_each()))
                .unwrap()
        };
        let (weighted, copied) = (of(&rows, Some(&weights)), of(&copied, None));
        for (a, b) in weighted.iter().flatten().zip(copied.iter().flatten()) {
            assert!((a - b).abs() < 1e-12, "{a} {b}");
        }
    }
}
