//! What the training rows looked like, kept in the model for the reports that come later: drift from
//! them, and the win rate of each stage as a ranking to beat.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::columns::{Column, ColumnReader, Source};
use crate::domain::{Exchange, Snapshot};
use crate::error::Result;
use crate::evaluation::drift::{Distribution, Drift};
use crate::features::Reading;
use crate::ingest::Mapping;
use crate::ingest::mapping::ColumnType;

/// Rows that the outline is taken from, evenly spread over all: more change no tenth by much.
const ROWS_MAX: usize = 50_000;
/// Rows of the base rate that a stage starts with: a stage seen once is an average one.
const STAGE_PRIOR_ROWS: f64 = 20.0;
/// The name of the score among the distributions.
const SCORE: &str = "win_probability";

/// The training rows in outline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Training deals.
    deals: usize,
    /// Win probabilities of the training rows.
    score: Distribution,
    columns: Vec<ColumnBaseline>,
    /// By name; empty where no stage is known of the past.
    stages: Vec<StageWinRate>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnBaseline {
    column: String,
    source: Source,
    holds: ColumnType,
    distribution: Distribution,
}

/// How many of the rows in a stage were won in the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageWinRate {
    pub stage: String,
    pub rows: usize,
    pub won_rows: usize,
    /// Shrunk to the base rate: `(won_rows + 20 x base rate) / (rows + 20)`.
    pub rate: f64,
}

/// What a model reads values with.
#[derive(Clone, Copy)]
pub struct Reads<'a> {
    pub mapping: &'a Mapping,
    pub exchange: &'a Exchange,
}

/// Rows: what was known of each, and the win probability given.
#[derive(Clone, Copy)]
pub struct Scored<'a, 'd> {
    pub snapshots: &'a [Snapshot<'d>],
    pub probabilities: &'a [f64],
    /// Deals that there are rows of, also where not all rows are given.
    pub deals: usize,
}

impl Baseline {
    /// The outline of training rows, which [`spread`] may have thinned; `won` has an outcome for each.
    ///
    /// # Errors
    /// When a column cannot be read; see [`ColumnReader::new`].
    pub fn of(columns: &[Column], rows: Scored, won: &[bool], reads: Reads) -> Result<Self> {
        // That the calendar has moved on is no news.
        let columns = columns.iter().filter(|column| !column.is_trend());
        let columns = columns.map(|column| {
            let reader = ColumnReader::new(&column.source, column.holds, reads.mapping)?;
            Ok(ColumnBaseline {
                column: column.name.clone(),
                source: column.source.clone(),
                holds: column.holds,
                distribution: Distribution::of(&readings(&reader, rows.snapshots, reads.exchange)),
            })
        });
        Ok(Self {
            deals: rows.deals,
            score: Distribution::of(&numbers(rows.probabilities)),
            columns: columns.collect::<Result<_>>()?,
            stages: stages(rows.snapshots, won),
        })
    }

    /// How far other rows have moved from these.
    ///
    /// # Errors
    /// When a column cannot be read; see [`ColumnReader::new`].
    pub fn drift(&self, rows: Scored, reads: Reads) -> Result<Drift> {
        let deals = [self.deals, rows.deals];
        let mut columns = Vec::with_capacity(self.columns.len());
        for known in &self.columns {
            let reader = ColumnReader::new(&known.source, known.holds, reads.mapping)?;
            let now = readings(&reader, rows.snapshots, reads.exchange);
            columns.push(known.distribution.shift(&known.column, &now, deals));
        }
        columns.sort_by(|a, b| b.psi.total_cmp(&a.psi));
        let score = self.score.shift(SCORE, &numbers(rows.probabilities), deals);
        Ok(Drift { score, columns })
    }

    /// The win rate of a stage among the training rows; `None` for one that they did not have.
    pub fn stage_win_rate(&self, stage: &str) -> Option<f64> {
        let place = self
            .stages
            .binary_search_by(|known| known.stage.as_str().cmp(stage));
        Some(self.stages[place.ok()?].rate)
    }
}

/// The rows to look at of so many: one of every so many, at most 50,000. Which one of them changes from
/// one to the next, so that deals with equally many rows each do not give the same one always.
pub fn spread(rows: usize) -> impl Iterator<Item = usize> {
    let step = rows.div_ceil(ROWS_MAX).max(1);
    let firsts = (0..rows).step_by(step).enumerate();
    firsts.map(move |(index, first)| (first + index % step).min(rows - 1))
}

fn readings<'a>(
    reader: &'a ColumnReader,
    snapshots: &[Snapshot<'a>],
    exchange: &Exchange,
) -> Vec<Reading<'a>> {
    let rows = spread(snapshots.len());
    rows.map(|row| reader.read(&snapshots[row], exchange))
        .collect()
}

fn numbers(values: &[f64]) -> Vec<Reading<'static>> {
    let rows = spread(values.len());
    rows.map(|row| Reading::Number(values[row])).collect()
}

fn stages(snapshots: &[Snapshot], won: &[bool]) -> Vec<StageWinRate> {
    let mut counts: BTreeMap<Cow<str>, (usize, usize)> = BTreeMap::new();
    for (snapshot, won) in snapshots.iter().zip(won) {
        if let Some(stage) = snapshot.stage() {
            let (rows, won_rows) = counts.entry(stage.into()).or_default();
            *rows += 1;
            *won_rows += usize::from(*won);
        }
    }
    let base_rate = won.iter().filter(|won| **won).count() as f64 / won.len().max(1) as f64;
    let rates = counts
        .into_iter()
        .map(|(stage, (rows, won_rows))| StageWinRate {
            stage: stage.into_owned(),
            rows,
            won_rows,
            rate: (won_rows as f64 + STAGE_PRIOR_ROWS * base_rate)
                / (rows as f64 + STAGE_PRIOR_ROWS),
        });
    rates.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Deal, DealId};
    use crate::evaluation::drift::{Shift, Stability};
    use jiff::Timestamp;

    fn deals(count: usize) -> Vec<Deal> {
        let deal = |index: usize| Deal {
            amount: Some(((index * 7919 % 503) as u32).into()),
            stage: Some(
                if index.is_multiple_of(4) {
                    "offer"
                } else {
                    "demo"
                }
                .into(),
            ),
            ..Deal::new(DealId::new(&format!("d{index}")).unwrap())
        };
        (0..count).map(deal).collect()
    }

    fn columns(snapshots: &[Snapshot], exchange: &Exchange) -> Vec<Column> {
        let column = |(name, holds): (&str, ColumnType)| {
            let source = Source::Feature(name.into());
            let reader = ColumnReader::new(&source, holds, &Mapping::default()).unwrap();
            let readings = readings(&reader, snapshots, exchange);
            let deals: Vec<usize> = (0..snapshots.len()).collect();
            Column::fit(name.into(), source, holds, &readings, &deals).unwrap()
        };
        let fitted = [
            ("amount", ColumnType::Number),
            ("stage", ColumnType::Category),
        ]
        .map(column);
        fitted.into()
    }

    #[test]
    fn what_moved_is_named_and_what_stayed_is_stable() {
        let exchange = Exchange::only("EUR".parse().unwrap());
        let mapping = Mapping::default();
        let reads = Reads {
            mapping: &mapping,
            exchange: &exchange,
        };
        let then = deals(1000);
        let mut now = deals(1000);
        for deal in &mut now {
            deal.amount = deal
                .amount
                .map(|amount| amount * rust_decimal::Decimal::TWO);
        }
        let at = Timestamp::UNIX_EPOCH;
        let [then, now] = [&then, &now].map(|deals| {
            deals
                .iter()
                .map(|deal| Snapshot::at(deal, at))
                .collect::<Vec<_>>()
        });
        let probabilities: Vec<f64> = (0..1000).map(|i| f64::from(i) / 1000.0).collect();
        let scored = |snapshots| Scored {
            snapshots,
            probabilities: &probabilities,
            deals: 1000,
        };
        let won = vec![false; 1000];
        let baseline =
            Baseline::of(&columns(&then, &exchange), scored(&then), &won, reads).unwrap();
        let drift = baseline.drift(scored(&now), reads).unwrap();
        let grade = |shift: &Shift| (shift.column.clone(), shift.grade);
        let grades: Vec<(String, Stability)> = drift.columns.iter().map(grade).collect();
        let expected = [("amount", Stability::Shifted), ("stage", Stability::Stable)];
        assert_eq!(grades, expected.map(|(name, grade)| (name.into(), grade)));
        assert_eq!(
            (drift.score.psi, drift.score.grade),
            (0.0, Stability::Stable)
        );
    }

    #[test]
    fn a_sample_of_rows_takes_every_place_of_a_deal() {
        assert_eq!(spread(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(spread(0).count(), 0);
        let places: Vec<usize> = spread(200_000).map(|row| row % 4).collect();
        assert_eq!(places.len(), 50_000);
        for place in 0..4 {
            assert_eq!(places.iter().filter(|p| **p == place).count(), 12_500);
        }
    }

    #[test]
    fn a_stage_seen_once_is_an_average_one() {
        let deals = deals(9);
        let at = Timestamp::UNIX_EPOCH;
        let snapshots: Vec<Snapshot> = deals.iter().map(|deal| Snapshot::at(deal, at)).collect();
        // Of the stages offer, demo, demo, demo, offer, ...: won are two offers and one demo.
        let won = [true, true, false, false, true, false, false, false, false];
        let found = stages(&snapshots, &won);
        let counts: Vec<(&str, usize, usize)> = found
            .iter()
            .map(|s| (s.stage.as_str(), s.rows, s.won_rows))
            .collect();
        assert_eq!(counts, [("demo", 6, 1), ("offer", 3, 2)]);
        assert!((found[0].rate - (1.0 + 20.0 / 3.0) / 26.0).abs() < 1e-12);
        assert!((found[1].rate - (2.0 + 20.0 / 3.0) / 23.0).abs() < 1e-12);
    }
}
