//! The rows that a model learns from: closed deals at moments when they were still open.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::domain::{Deal, Outcome, Snapshot};
use crate::error::{Error, Result};
use crate::model::Basis;

/// Days between the landmarks of a deal; the first is its creation.
const LANDMARK_DAYS: i64 = 14;
/// Landmarks of one deal: a year of them.
const LANDMARKS_MAX: i64 = 26;
/// Share of the newest deals that is held out.
const TEST_SHARE: f64 = 0.25;
/// Share of deals whose date must be known for a split by it.
const DATED_SHARE_MIN: f64 = 0.9;
/// Landmarks younger than this quantile of deal durations are left out at the end of the period:
/// of those, only the deals that ended quickly are known.
const CENSORING_QUANTILE: f64 = 0.9;

/// A deal at a moment when it was open, and how it ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// Position among the closed deals.
    pub deal: usize,
    pub at: Timestamp,
    pub won: bool,
}

/// Closed deals and their rows.
pub struct History<'a> {
    closed: Vec<&'a Deal>,
    pub rows: Vec<Row>,
    pub basis: Basis,
}

/// Which deals to learn from and which to judge on.
pub struct Split {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
    /// In a sentence for the report.
    pub how: String,
}

impl<'a> History<'a> {
    /// The rows of the deals whose end was known at `as_of`.
    ///
    /// # Errors
    /// `Unusable` without closed deals, or with only one outcome among them.
    pub fn of(deals: &'a [Deal], as_of: Timestamp) -> Result<Self> {
        let closed = closed(deals, as_of)?;
        let won = closed.iter().filter(|d| d.outcome == Outcome::Won).count();
        if won == 0 || won == closed.len() {
            let kind = if won == 0 { "lost" } else { "won" };
            return Err(Error::Unusable(format!(
                "all {} closed deals are {kind}; learning needs won and lost ones",
                closed.len()
            )));
        }
        let with_past = closed.iter().filter(|deal| has_past(deal)).count();
        let basis = if with_past * 2 >= closed.len() {
            Basis::Landmarks
        } else {
            Basis::Flat
        };
        let mut history = Self::build(closed, basis, as_of)?;
        if basis == Basis::Landmarks {
            history.drop_censored();
        }
        Ok(history)
    }

    /// As [`Self::of`], with rows of a given kind and nothing left out: for judging.
    ///
    /// # Errors
    /// `Unusable` without closed deals.
    pub fn with_basis(deals: &'a [Deal], as_of: Timestamp, basis: Basis) -> Result<Self> {
        Self::build(closed(deals, as_of)?, basis, as_of)
    }

    /// One row for each deal that was open at `at` and whose end is known now.
    ///
    /// # Errors
    /// `Unusable` when there are none.
    pub fn open_at(deals: &'a [Deal], at: Timestamp, basis: Basis) -> Result<Self> {
        let was_open = |deal: &&Deal| {
            !deal.is_open()
                && deal.created_at.is_none_or(|created| created <= at)
                && deal.closed_at.is_some_and(|closed| closed > at)
        };
        let closed: Vec<&Deal> = deals.iter().filter(was_open).collect();
        if closed.is_empty() {
            return Err(Error::Unusable(format!(
                "no deal was open at {at} and closed later"
            )));
        }
        let rows = closed.iter().enumerate().map(|(index, deal)| Row {
            deal: index,
            at,
            won: deal.outcome == Outcome::Won,
        });
        Ok(Self {
            rows: rows.collect(),
            closed,
            basis,
        })
    }

    fn build(closed: Vec<&'a Deal>, basis: Basis, as_of: Timestamp) -> Result<Self> {
        let mut rows = Vec::with_capacity(closed.len());
        for (index, deal) in closed.iter().enumerate() {
            let won = deal.outcome == Outcome::Won;
            let moments = match basis {
                Basis::Flat => vec![deal.created_at.or(deal.closed_at).unwrap_or(as_of)],
                Basis::Landmarks => landmarks(deal),
            };
            rows.extend(moments.into_iter().map(|at| Row {
                deal: index,
                at,
                won,
            }));
        }
        if rows.is_empty() {
            return Err(Error::Unusable(
                "no closed deal has a creation before its closing; its past cannot be told".into(),
            ));
        }
        Ok(Self {
            closed,
            rows,
            basis,
        })
    }

    pub fn snapshot(&self, row: &Row) -> Snapshot<'a> {
        Snapshot::at(self.closed[row.deal], row.at)
    }

    /// The deals that rows point to.
    pub fn closed(&self) -> &[&'a Deal] {
        &self.closed
    }

    pub fn is_won(&self, deal: usize) -> bool {
        self.closed[deal].outcome == Outcome::Won
    }

    /// How many of the deals were won and lost. The rows of a deal stand together, and a deal named
    /// several times in a row counts once.
    pub fn outcomes(&self, deals: &[usize]) -> (usize, usize) {
        let firsts = deals.chunk_by(|a, b| a == b).map(|same| same[0]);
        let (won, lost): (Vec<usize>, Vec<usize>) = firsts.partition(|&deal| self.is_won(deal));
        (won.len(), lost.len())
    }

    /// The deal's creation, or its closing where creations are unknown.
    pub fn dated(&self, deal: usize) -> Option<Timestamp> {
        self.closed[deal].created_at.or(self.closed[deal].closed_at)
    }

    /// When the deal ended, or began where that is unknown.
    pub fn ended(&self, deal: usize) -> Option<Timestamp> {
        self.closed[deal].closed_at.or(self.closed[deal].created_at)
    }

    /// The rows from `seen` on of deals whose end was not known at `seen`. A row of a flat file stands
    /// for no moment: there the deal decides.
    pub fn unseen_rows(&self, seen: Timestamp) -> Vec<usize> {
        let is_unseen = |row: &Row| {
            let is_later = self.basis == Basis::Flat || row.at >= seen;
            is_later && !is_known(self.closed[row.deal], seen)
        };
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| is_unseen(row))
            .map(|(index, _)| index)
            .collect()
    }

    /// The deals that the rows are of.
    pub fn deals_of(&self, rows: &[usize]) -> BTreeSet<usize> {
        rows.iter().map(|&row| self.rows[row].deal).collect()
    }

    /// All attributes that occur, in the order of their names.
    pub fn attribute_names(&self) -> BTreeSet<&'a str> {
        let names = self.closed.iter().flat_map(|deal| deal.attributes.keys());
        names.map(String::as_str).collect()
    }

    pub fn all_rows(&self) -> Vec<usize> {
        (0..self.rows.len()).collect()
    }

    pub fn rows_of(&self, deals: &[usize]) -> Vec<usize> {
        let wanted: std::collections::HashSet<usize> = deals.iter().copied().collect();
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| wanted.contains(&row.deal))
            .map(|(index, _)| index)
            .collect()
    }

    /// The newest quarter of the deals is held out. What it is judged against learned only from deals
    /// that had ended before.
    pub fn split(&self) -> Split {
        let deals: Vec<usize> = {
            let mut deals: Vec<usize> = self.rows.iter().map(|row| row.deal).collect();
            deals.dedup();
            deals
        };
        let created = |deal: usize| self.closed[deal].created_at;
        let ended = |deal: usize| self.closed[deal].closed_at;
        let (key, word): (&dyn Fn(usize) -> Option<Timestamp>, &str) =
            if dated_share(&deals, &created) >= DATED_SHARE_MIN {
                (&created, "created")
            } else if dated_share(&deals, &ended) >= DATED_SHARE_MIN {
                (&ended, "closed")
            } else {
                return self.split_by_hash(&deals);
            };
        let mut dates: Vec<Timestamp> = deals.iter().filter_map(|&deal| key(deal)).collect();
        dates.sort_unstable();
        let cut = dates[((dates.len() as f64 * (1.0 - TEST_SHARE)) as usize).min(dates.len() - 1)];
        let is_new = |deal: &usize| key(*deal).is_some_and(|at| at >= cut);
        let (test, older): (Vec<usize>, Vec<usize>) = deals.into_iter().partition(is_new);
        let had_ended = |deal: &usize| ended(*deal).is_none_or(|at| at < cut);
        let train: Vec<usize> = older.iter().copied().filter(had_ended).collect();
        let day = jiff::tz::TimeZone::UTC.to_datetime(cut).date();
        if train.len() * 2 < older.len() {
            return Split {
                train: older,
                test,
                how: format!("deals {word} from {day} on are held out"),
            };
        }
        Split {
            train,
            test,
            how: format!(
                "learned from deals closed before {day}, judged on deals {word} from then on"
            ),
        }
    }

    /// Without dates: a quarter of the deals by a hash of the id, which twins share.
    fn split_by_hash(&self, deals: &[usize]) -> Split {
        let in_test = |deal: &usize| {
            let digest = Sha256::digest(self.closed[*deal].id.as_str());
            f64::from(digest[0]) < 256.0 * TEST_SHARE
        };
        let (test, train) = deals.iter().copied().partition(in_test);
        Split {
            train,
            test,
            how: "no dates: a quarter of the deals is held out by a hash of their ids, so drift over time goes unseen".into(),
        }
    }

    /// Leaves out landmarks so young that deals like them are mostly still open.
    fn drop_censored(&mut self) {
        let ends = self.closed.iter().filter_map(|deal| deal.closed_at);
        let Some(last) = ends.max() else {
            return;
        };
        let mut durations: Vec<SignedDuration> = self
            .closed
            .iter()
            .filter_map(|deal| Some(deal.closed_at?.duration_since(deal.created_at?)))
            .collect();
        durations.sort_unstable();
        let index = (durations.len() as f64 * CENSORING_QUANTILE) as usize;
        let Some(usual) = durations.get(index) else {
            return;
        };
        let Ok(newest) = last.checked_sub(*usual) else {
            return;
        };
        let is_old = |row: &&Row| row.at <= newest;
        let kept: Vec<Row> = self.rows.iter().filter(is_old).copied().collect();
        let has_both = kept.iter().any(|row| row.won) && kept.iter().any(|row| !row.won);
        if kept.len() * 2 >= self.rows.len() && has_both {
            self.rows = kept;
        }
    }
}

fn closed(deals: &[Deal], as_of: Timestamp) -> Result<Vec<&Deal>> {
    let closed: Vec<&Deal> = deals.iter().filter(|deal| is_known(deal, as_of)).collect();
    if closed.is_empty() {
        return Err(Error::Unusable(format!(
            "no closed deals to learn from among {} deals known at {as_of}",
            deals.len()
        )));
    }
    Ok(closed)
}

/// Whether it was known at `as_of` how the deal ended.
fn is_known(deal: &Deal, as_of: Timestamp) -> bool {
    !deal.is_open()
        && deal.closed_at.is_none_or(|at| at <= as_of)
        && deal.created_at.is_none_or(|at| at <= as_of)
}

/// Whether anything is on file from before the deal's end.
fn has_past(deal: &Deal) -> bool {
    let (Some(_), Some(closed_at)) = (deal.created_at, deal.closed_at) else {
        return false;
    };
    deal.history.first().is_some_and(|c| c.at < closed_at)
        || deal.activities.first().is_some_and(|a| a.at < closed_at)
}

/// The creation and every second week after it, while the deal was open.
fn landmarks(deal: &Deal) -> Vec<Timestamp> {
    let (Some(created_at), Some(closed_at)) = (deal.created_at, deal.closed_at) else {
        return Vec::new();
    };
    (0..LANDMARKS_MAX)
        .map_while(|step| {
            let after = SignedDuration::from_hours(24 * LANDMARK_DAYS * step);
            created_at.checked_add(after).ok()
        })
        .take_while(|at| *at < closed_at)
        .collect()
}

fn dated_share(deals: &[usize], date: &dyn Fn(usize) -> Option<Timestamp>) -> f64 {
    let dated = deals.iter().filter(|&&deal| date(deal).is_some()).count();
    dated as f64 / deals.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttributeValue, DealId, FieldChange};

    fn at(day: &str) -> Timestamp {
        format!("{day}T00:00:00Z").parse().unwrap()
    }

    fn deal(id: &str, created: &str, closed: &str, outcome: Outcome) -> Deal {
        Deal {
            created_at: Some(at(created)),
            closed_at: Some(at(closed)),
            outcome,
            history: vec![FieldChange {
                at: at(created),
                field: "stage".into(),
                value: AttributeValue::Text("new".into()),
            }],
            ..Deal::new(DealId::new(id).unwrap())
        }
    }

    #[test]
    fn landmarks_lie_before_the_end() {
        let deals = [
            deal("a", "2026-01-01", "2026-01-30", Outcome::Won),
            deal("b", "2026-01-01", "2026-01-02", Outcome::Lost),
        ];
        let history = History::of(&deals, at("2026-06-01")).unwrap();
        assert_eq!(history.basis, Basis::Landmarks);
        let of_a: Vec<Timestamp> = history
            .rows
            .iter()
            .filter(|r| r.won)
            .map(|r| r.at)
            .collect();
        assert_eq!(of_a[0], at("2026-01-01"));
        assert!(of_a.iter().all(|moment| *moment < at("2026-01-30")));
    }

    #[test]
    fn what_ended_later_is_not_known_yet() {
        let deals = [
            deal("a", "2026-01-01", "2026-01-30", Outcome::Won),
            deal("b", "2026-01-01", "2026-02-20", Outcome::Lost),
        ];
        let error = History::of(&deals, at("2026-02-10")).err().unwrap();
        assert!(error.to_string().contains("all 1 closed deals are won"));
        let error = History::of(&deals, at("2025-02-10")).err().unwrap();
        assert!(error.to_string().contains("no closed deals"));
    }

    #[test]
    fn the_newest_deals_are_held_out_and_learning_ends_before_them() {
        let deals: Vec<Deal> = (0..40)
            .map(|i| {
                let created = at("2026-01-01") + SignedDuration::from_hours(24 * 5 * i);
                let mut deal = deal(&format!("d{i}"), "2026-01-01", "2026-01-02", Outcome::Won);
                deal.created_at = Some(created);
                deal.closed_at = Some(created + SignedDuration::from_hours(24 * 20));
                deal.history[0].at = created;
                deal.outcome = if i % 3 == 0 {
                    Outcome::Won
                } else {
                    Outcome::Lost
                };
                deal
            })
            .collect();
        let history = History::with_basis(&deals, at("2027-01-01"), Basis::Landmarks).unwrap();
        let split = history.split();
        assert_eq!(split.test.len(), 10);
        let first_test = split
            .test
            .iter()
            .map(|d| deals[*d].created_at)
            .min()
            .unwrap();
        let last_train = split
            .train
            .iter()
            .map(|d| deals[*d].closed_at)
            .max()
            .unwrap();
        assert!(last_train < first_test);
    }
}
