//! When open deals will close if they are won: what won deals took from where a deal stands.

use jiff::Timestamp;

use super::facts::{DealFacts, days_between};
use super::flow::Course;
use super::stats::Counts;
use super::survey::{Scope, Survey};

/// Won deals that have to say how long it takes, before what is less alike is asked.
const WON_MIN: usize = 20;
/// Of each stage the newest won deals are kept.
const STAYS_MAX: usize = 1000;
/// Deals whose days in their stage, and since creation, lie between the same two of these are alike.
const AGES: [f64; 17] = [
    0.0, 1.0, 2.0, 4.0, 7.0, 10.0, 14.0, 21.0, 28.0, 42.0, 60.0, 90.0, 135.0, 200.0, 300.0, 450.0,
    700.0,
];

/// The bins that remaining days fall into: upper ends, ascending; the first one begins at `begin`.
#[derive(Debug, Clone, PartialEq)]
pub struct Bins {
    pub begin: f64,
    pub ends: Vec<f64>,
}

impl Bins {
    /// The share of `days` in each bin.
    fn shares(&self, days: impl Iterator<Item = f64>) -> Box<[f64]> {
        let mut counts = vec![0usize; self.ends.len()];
        let mut all = 0;
        for days in days {
            all += 1;
            // What closed on the day it began would else be in no bin.
            let days = days.max(f64::MIN_POSITIVE);
            let bin = self.ends.partition_point(|end| *end < days);
            if days > self.begin && bin < counts.len() {
                counts[bin] += 1;
            }
        }
        let of = (all as f64).max(1.0);
        counts.into_iter().map(|count| count as f64 / of).collect()
    }
}

/// A stay of a won deal in a stage.
#[derive(Debug, Clone, Copy)]
struct Stay {
    closed_at: Timestamp,
    days: f64,
    /// From the entry until the deal was won.
    until_won: f64,
}

/// What the deals that were won before a moment took.
pub struct Timing<'a> {
    course: Course<'a>,
    bins: Bins,
    stays: Vec<Vec<Stay>>,
    /// Days from creation to the win, ascending: by pipeline, and of all.
    cycles: Counts<Option<&'a str>, Vec<f64>>,
    all_cycles: Vec<f64>,
    /// The shares of the bins, for each kind of deal that was asked about.
    cells: Vec<Box<[f64]>>,
    known: Counts<(usize, usize, usize), usize>,
}

impl<'a> Timing<'a> {
    pub fn of(survey: &'a Survey, before: Timestamp, bins: Bins) -> Self {
        let course = Course::of(survey);
        let mut stays: Vec<Vec<Stay>> = vec![Vec::new(); course.keys().len()];
        let mut cycles: Counts<Option<&str>, Vec<f64>> = Counts::default();
        let won = survey
            .closed(&Scope::default())
            .filter(|deal| deal.is_won());
        for deal in won {
            let Some(closed_at) = deal.closed_at.filter(|at| *at < before) else {
                continue;
            };
            let pipeline = deal.pipeline.as_deref();
            cycles
                .entry(pipeline)
                .or_default()
                .extend(deal.cycle_days());
            for visit in &deal.visits {
                if let Some(place) = course.place(pipeline, &visit.stage) {
                    stays[place].push(Stay {
                        closed_at,
                        days: visit.days(closed_at),
                        until_won: days_between(visit.entered_at, closed_at),
                    });
                }
            }
        }
        for stays in stays.iter_mut().filter(|stays| stays.len() > STAYS_MAX) {
            stays.select_nth_unstable_by_key(STAYS_MAX, |stay| std::cmp::Reverse(stay.closed_at));
            stays.truncate(STAYS_MAX);
        }
        let all_cycles = cycles.values().flatten().copied().collect();
        Self {
            course,
            bins,
            stays,
            cycles,
            all_cycles,
            cells: Vec::new(),
            known: Counts::default(),
        }
    }

    /// Whether any deal was won whose days are known.
    pub fn is_known(&self) -> bool {
        !self.all_cycles.is_empty() || self.stays.iter().any(|stays| !stays.is_empty())
    }

    /// The cell with the shares of won deals like this one that close in each bin. `days_in_stage` and
    /// `age` (since creation) are as of the moment that the bins count from.
    pub fn cell(
        &mut self,
        deal: &'a DealFacts,
        stage: Option<&str>,
        days_in_stage: f64,
        age: f64,
    ) -> usize {
        let pipeline = deal.pipeline.as_deref();
        let place = stage.and_then(|stage| self.course.place(pipeline, stage));
        let key = (
            place.unwrap_or(usize::MAX),
            bucket(days_in_stage),
            bucket(age),
        );
        if let Some(cell) = self.known.get(&key) {
            return *cell;
        }
        let shares = self.shares(pipeline, place, middle(key.1), middle(key.2));
        self.cells.push(shares);
        self.known.insert(key, self.cells.len() - 1);
        self.cells.len() - 1
    }

    /// The shares of each cell.
    pub fn cells(&self) -> &[Box<[f64]>] {
        &self.cells
    }

    /// Of the deals most alike of which there are enough.
    fn shares(
        &self,
        pipeline: Option<&str>,
        place: Option<usize>,
        days_in_stage: f64,
        age: f64,
    ) -> Box<[f64]> {
        let none: &[Stay] = &[];
        let stays = place.map_or(none, |place| self.stays[place].as_slice());
        let longer = stays.iter().filter(|stay| stay.days > days_in_stage);
        let left: Vec<f64> = longer.map(|stay| stay.until_won - days_in_stage).collect();
        if left.len() >= WON_MIN {
            return self.bins.shares(left.into_iter());
        }
        // Hardly any won deal was there for so long: as if it had just come.
        if stays.len() >= WON_MIN {
            return self.bins.shares(stays.iter().map(|stay| stay.until_won));
        }
        let of_pipeline = place.and_then(|_| self.cycles.get(&pipeline));
        for cycles in of_pipeline.into_iter().chain([&self.all_cycles]) {
            let older = cycles.iter().filter(|days| **days > age);
            let left: Vec<f64> = older.map(|days| days - age).collect();
            if left.len() >= WON_MIN {
                return self.bins.shares(left.into_iter());
            }
        }
        self.bins.shares(self.all_cycles.iter().copied())
    }
}

fn bucket(days: f64) -> usize {
    AGES.partition_point(|age| *age <= days).saturating_sub(1)
}

fn middle(bucket: usize) -> f64 {
    match AGES.get(bucket + 1) {
        Some(next) => f64::midpoint(AGES[bucket], *next),
        None => AGES[bucket],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::samples::{closed, now, open, survey};

    fn bins() -> Bins {
        Bins {
            begin: 0.0,
            ends: vec![7.0, 14.0, 21.0],
        }
    }

    /// Twenty won deals that were in Demo for `1..=20` days and in Proposal for ten more.
    fn won() -> Vec<DealFacts> {
        (1..=20)
            .map(|i| {
                closed(
                    &format!("w{i:02}"),
                    true,
                    &[("Demo", f64::from(i)), ("Proposal", 10.0)],
                )
            })
            .collect()
    }

    #[test]
    fn deals_close_as_won_ones_of_their_stage_did() {
        let mut deals = won();
        deals.push(open("o", 0.5, 1000.0, &[("Demo", 0.5)]));
        let survey = survey(deals);
        let deal = survey.deals().iter().find(|deal| deal.is_open()).unwrap();
        let mut timing = Timing::of(&survey, now(), bins());
        // Middle of the first day: all twenty stayed longer, and took 10.5, 11.5, ... 29.5 days more.
        let cell = timing.cell(deal, Some("Demo"), 0.5, 0.5);
        assert_eq!(*timing.cells()[cell], [0.0, 4.0 / 20.0, 7.0 / 20.0]);
        // Nobody was in Proposal for more than ten days: as if it had just come, so 10 days are left.
        let cell = timing.cell(deal, Some("Proposal"), 50.0, 60.0);
        assert_eq!(*timing.cells()[cell], [0.0, 1.0, 0.0]);
        assert_eq!(timing.cell(deal, Some("Proposal"), 55.0, 65.0), cell);
    }

    #[test]
    fn without_a_stage_the_whole_cycle_speaks() {
        let survey = survey(won());
        let deal = &survey.deals()[0];
        let mut timing = Timing::of(&survey, now(), bins());
        // Cycles of 11 to 30 days; at an age of half a day, three of them end within 14 days.
        let cell = timing.cell(deal, None, 0.0, 0.0);
        assert_eq!(*timing.cells()[cell], [0.0, 4.0 / 20.0, 7.0 / 20.0]);
        let early = now() - jiff::SignedDuration::from_hours(24 * 11);
        assert!(!Timing::of(&survey, early, bins()).is_known());
    }
}
