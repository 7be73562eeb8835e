//! The rows that a model learns from: closed deals at moments when they were still open.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use crate::domain::{Deal, Outcome, Snapshot};
use crate::error::{Error, Result};
use crate::model::Basis;

/// Landmarks that the average deal has besides its creation: 1 to 5 of them judge open deals about as
/// well, and the more there are the less the creations count (`docs/features.md` has the figures).
const LANDMARKS_PER_DEAL: f64 = 1.5;
/// Landmarks in all, besides creations, at about which the days between them become more.
const LANDMARKS_AIM_MAX: f64 = 300_000.0;
/// Days between landmarks at most.
const LANDMARK_DAYS_MAX: i64 = 90;
/// Landmarks of one deal besides its creation, so that no deal outweighs the others by its age.
const LANDMARKS_MAX: usize = 40;
/// Share of the newest deals that is held out.
const TEST_SHARE: f64 = 0.25;
/// Share of deals whose date must be known for a split by it.
const DATED_SHARE_MIN: f64 = 0.9;
/// Landmarks younger than this quantile of deal durations are left out at the end of the period:
/// of those, only the deals that ended quickly are known.
pub(super) const CENSORING_QUANTILE: f64 = 0.9;

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
    /// Days between landmarks.
    pub landmark_days: Option<i64>,
}

/// Which deals to learn from and which to judge on.
pub struct Split {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
    /// Nothing later was known to the training part.
    pub known_at: Option<Timestamp>,
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
        let last_end = history.closed.iter().filter_map(|d| d.closed_at).max();
        if let Some(last_end) = last_end {
            let all = history.all_rows();
            let kept = history.without_censored(all, last_end);
            history.rows = kept.into_iter().map(|index| history.rows[index]).collect();
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
            landmark_days: None,
        })
    }

    fn build(closed: Vec<&'a Deal>, basis: Basis, as_of: Timestamp) -> Result<Self> {
        let mut rows = Vec::with_capacity(closed.len());
        let landmark_days = (basis == Basis::Landmarks).then(|| landmark_days(&closed));
        for (index, deal) in closed.iter().enumerate() {
            let won = deal.outcome == Outcome::Won;
            let moments = match landmark_days {
                None => vec![deal.created_at.or(deal.closed_at).unwrap_or(as_of)],
                Some(days) => landmarks(deal, days),
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
            landmark_days,
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
                known_at: None,
                how: format!("deals {word} from {day} on are held out"),
            };
        }
        Split {
            train,
            test,
            known_at: Some(cut),
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
            known_at: None,
            how: "no dates: a quarter of the deals is held out by a hash of their ids, so drift over time goes unseen".into(),
        }
    }

    /// The rows to learn from: of the split's training deals, as far as they can be judged when
    /// nothing later than the split is known.
    pub fn training_rows(&self, split: &Split) -> Vec<usize> {
        let rows = self.rows_of(&split.train);
        match split.known_at {
            Some(known_at) => self.without_censored(rows, known_at),
            None => rows,
        }
    }

    /// Leaves out landmarks so young that, when it is `known_at`, deals like them are mostly still
    /// open: of those, only the quickly decided are among the closed.
    fn without_censored(&self, rows: Vec<usize>, known_at: Timestamp) -> Vec<usize> {
        if self.basis == Basis::Flat {
            return rows;
        }
        let deals: BTreeSet<usize> = rows.iter().map(|&index| self.rows[index].deal).collect();
        let mut durations: Vec<SignedDuration> = deals
            .into_iter()
            .filter_map(|deal| open_for(self.closed[deal]))
            .collect();
        durations.sort_unstable();
        let usual = durations.get((durations.len() as f64 * CENSORING_QUANTILE) as usize);
        let Some(newest) = usual.and_then(|usual| known_at.checked_sub(*usual).ok()) else {
            return rows;
        };
        let is_old = |index: &usize| self.rows[*index].at <= newest;
        let kept: Vec<usize> = rows.iter().copied().filter(is_old).collect();
        let won = kept.iter().filter(|&&index| self.rows[index].won).count();
        if kept.len() * 2 >= rows.len() && won > 0 && won < kept.len() {
            kept
        } else {
            rows
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

/// How long a closed deal was open.
fn open_for(deal: &Deal) -> Option<SignedDuration> {
    let open_for = deal.closed_at?.duration_since(deal.created_at?);
    (!open_for.is_negative()).then_some(open_for)
}

/// Days between landmarks: as many as give the average deal [`LANDMARKS_PER_DEAL`], and not whole
/// weeks, so that landmarks fall on every day of the week.
fn landmark_days(closed: &[&Deal]) -> i64 {
    let open_for = closed.iter().filter_map(|deal| open_for(deal));
    let days_open: f64 = open_for.map(|d| d.as_secs_f64() / 86_400.0).sum();
    let landmarks = (LANDMARKS_PER_DEAL * closed.len() as f64).min(LANDMARKS_AIM_MAX);
    let days = ((days_open / landmarks).round() as i64).clamp(1, LANDMARK_DAYS_MAX);
    if days % 7 == 0 { days + 1 } else { days }
}

/// The creation of a deal, and the regular dates after it on which the deal was open. The dates (UTC
/// midnights, counted from 1970) are the same for all deals: at each, these rows are the pipeline as
/// it stood, which is what a ranking meets. Rows at fixed ages would show every deal at the same few.
fn landmarks(deal: &Deal, every_days: i64) -> Vec<Timestamp> {
    let (Some(created_at), Some(closed_at)) = (deal.created_at, deal.closed_at) else {
        return Vec::new();
    };
    let step_s = every_days * 86_400;
    let first = created_at.as_second().div_euclid(step_s) + 1;
    let dates = (first..).map_while(|step| Timestamp::from_second(step.checked_mul(step_s)?).ok());
    std::iter::once(created_at)
        .chain(dates.take(LANDMARKS_MAX))
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

    fn days(moments: &[Timestamp]) -> Vec<String> {
        let day = |at: &Timestamp| at.strftime("%F %R").to_string();
        moments.iter().map(day).collect()
    }

    #[test]
    fn landmarks_are_the_creation_and_the_same_dates_for_all_deals() {
        let mut early = deal("a", "2026-01-01", "2026-01-30", Outcome::Won);
        early.created_at = Some("2026-01-01T15:30:00Z".parse().unwrap());
        let late = deal("b", "2026-01-16", "2026-01-26", Outcome::Lost);
        assert_eq!(
            days(&landmarks(&early, 5)),
            [
                "2026-01-01 15:30",
                "2026-01-02 00:00",
                "2026-01-07 00:00",
                "2026-01-12 00:00",
                "2026-01-17 00:00",
                "2026-01-22 00:00",
                "2026-01-27 00:00"
            ]
        );
        assert_eq!(
            days(&landmarks(&late, 5)),
            ["2026-01-16 00:00", "2026-01-17 00:00", "2026-01-22 00:00"]
        );
        let at_once = deal("c", "2026-01-05", "2026-01-05", Outcome::Lost);
        assert_eq!(landmarks(&at_once, 5), []);
        let ancient = deal("d", "1980-01-01", "2026-01-05", Outcome::Lost);
        assert_eq!(landmarks(&ancient, 5).len(), 1 + LANDMARKS_MAX);
    }

    #[test]
    fn days_between_landmarks_follow_how_long_deals_live() {
        let living = |days: i64| {
            let mut deal = deal("a", "2026-01-01", "2026-01-01", Outcome::Won);
            deal.closed_at = deal
                .created_at
                .map(|at| at + SignedDuration::from_hours(24 * days));
            deal
        };
        let step = |days: &[i64]| {
            let deals: Vec<Deal> = days.iter().map(|&days| living(days)).collect();
            landmark_days(&deals.iter().collect::<Vec<_>>())
        };
        let per_deal = |days: i64| (LANDMARKS_PER_DEAL * days as f64) as i64;
        assert_eq!(step(&[per_deal(10), per_deal(6)]), 8);
        assert_eq!(step(&[per_deal(7)]), 8, "weeks would be one weekday only");
        assert_eq!(step(&[0, 0]), 1);
        assert_eq!(step(&[100_000]), LANDMARK_DAYS_MAX);
    }

    #[test]
    fn landmarks_lie_before_the_end() {
        let deals = [
            deal("a", "2026-01-01", "2026-01-30", Outcome::Won),
            deal("b", "2026-01-01", "2026-01-02", Outcome::Lost),
        ];
        let history = History::of(&deals, at("2026-06-01")).unwrap();
        assert_eq!(history.basis, Basis::Landmarks);
        for row in &history.rows {
            let deal = &deals[row.deal];
            assert!(deal.created_at <= Some(row.at) && Some(row.at) < deal.closed_at);
            assert_eq!(row.won, deal.outcome == Outcome::Won);
        }
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
        // Deals take 20 days: of a landmark younger than that, nothing is known at the cut.
        let known_at = split.known_at.unwrap();
        let newest = known_at - SignedDuration::from_hours(24 * 20);
        let rows = history.training_rows(&split);
        assert!(rows.iter().all(|&row| history.rows[row].at <= newest));
        let is_old = |row: &usize| history.rows[*row].at <= newest;
        let old = history.rows_of(&split.train).into_iter().filter(is_old);
        assert_eq!(rows, old.collect::<Vec<_>>());
    }
}
