//! How many deals a rep works on at a time, against what reps who win handle.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::{DealFacts, days_ago, days_between};
use super::stats::{Counts, Quartiles, quantile};
use super::survey::{Scope, Survey};

/// Loads are averages over this long, or since a rep's first deal.
const DAYS: i64 = 365;
/// A rep is at work who has open deals, or created or closed one within this long.
const DAYS_AT_WORK: i64 = 90;
/// Reps who win that it takes to say what is usual.
const WINNERS_MIN: usize = 3;

/// What reps handle.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Capacity {
    /// Deals open at a time, on average over the last year, of the reps whose won value of that year is the
    /// median of all reps or more; null with fewer than three of them.
    pub usual: Option<Quartiles>,
    /// How many more deals the reps could take until each has the usual median.
    pub could_take: Option<f64>,
    /// Open deals that nobody owns.
    pub without_owner: usize,
    /// By name.
    pub reps: Vec<RepLoad>,
}

/// How much one rep has to do.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RepLoad {
    pub owner: String,
    /// Open now.
    pub open_deals: usize,
    /// Open at a time, on average over the last year or since the rep's first deal.
    pub average_open_deals: f64,
    /// Against the quartiles of what is usual; null while that is not known.
    pub against_usual: Option<AgainstUsual>,
}

/// The number of open deals against the usual quartiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgainstUsual {
    /// Below the lower quartile: room for more.
    Below,
    Within,
    /// Above the upper quartile.
    Above,
}

#[derive(Default)]
struct Load {
    open_deals: usize,
    /// Days that deals were open within the year, together.
    deal_days: f64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    won_value: f64,
}

/// The loads of the reps in scope. What is usual is told by all reps, whichever owner is asked for.
pub fn capacity(survey: &Survey, scope: &Scope, now: Timestamp) -> Capacity {
    let colleagues = scope.of_team();
    let since = days_ago(now, DAYS);
    let mut loads: Counts<&str, Load> = Counts::default();
    let mut without_owner = 0;
    for deal in survey.within(&colleagues) {
        match deal.owner.as_deref() {
            Some(owner) => loads.entry(owner).or_default().add(deal, since, now),
            None => without_owner += usize::from(deal.is_open()),
        }
    }
    let loads: BTreeMap<&str, Load> = loads.into_iter().collect();
    let usual = usual(&loads, since, now);
    let at_work = loads
        .into_iter()
        .filter(|(owner, load)| scope.asks_for(owner) && load.is_at_work(now));
    let reps: Vec<RepLoad> = at_work
        .map(|(owner, load)| RepLoad {
            owner: owner.to_owned(),
            open_deals: load.open_deals,
            average_open_deals: load.average(since, now),
            against_usual: usual.map(|usual| against(load.open_deals, &usual)),
        })
        .collect();
    let room = |usual: Quartiles| {
        let rooms = reps.iter().map(|rep| usual.median - rep.open_deals as f64);
        rooms.map(|room| room.max(0.0)).sum::<f64>() + 0.0
    };
    Capacity {
        usual,
        could_take: usual.map(room),
        without_owner: if scope.owner.is_some() {
            0
        } else {
            without_owner
        },
        reps,
    }
}

fn against(open_deals: usize, usual: &Quartiles) -> AgainstUsual {
    let open_deals = open_deals as f64;
    if open_deals < usual.lower {
        AgainstUsual::Below
    } else if open_deals > usual.upper {
        AgainstUsual::Above
    } else {
        AgainstUsual::Within
    }
}

impl Load {
    fn add(&mut self, deal: &DealFacts, since: Timestamp, now: Timestamp) {
        let closed_at = deal.closed_at.filter(|_| !deal.is_open());
        self.open_deals += usize::from(deal.is_open());
        if deal.is_won() && closed_at.is_some_and(|at| at >= since) {
            self.won_value += deal.base_amount.unwrap_or(0.0);
        }
        let Some(created_at) = deal.created_at else {
            return;
        };
        if deal.is_open() || closed_at.is_some() {
            let end = closed_at.unwrap_or(now).min(now);
            self.deal_days += days_between(created_at.max(since), end);
        }
        self.first = Some(self.first.map_or(created_at, |first| first.min(created_at)));
        self.last = self.last.max(Some(created_at)).max(closed_at);
    }

    fn average(&self, since: Timestamp, now: Timestamp) -> f64 {
        let begin = self.first.map_or(since, |first| first.max(since));
        // Of the first day alone nothing can be said.
        self.deal_days / days_between(begin, now).max(1.0)
    }

    fn is_at_work(&self, now: Timestamp) -> bool {
        self.open_deals > 0
            || self
                .last
                .is_some_and(|last| last >= days_ago(now, DAYS_AT_WORK))
    }
}

fn usual(loads: &BTreeMap<&str, Load>, since: Timestamp, now: Timestamp) -> Option<Quartiles> {
    let mut values: Vec<f64> = loads.values().map(|load| load.won_value).collect();
    values.retain(|value| *value > 0.0);
    values.sort_unstable_by(f64::total_cmp);
    let median = quantile(&values, 0.5)?;
    let winners = loads.values().filter(|load| load.won_value >= median);
    let mut averages: Vec<f64> = winners.map(|load| load.average(since, now)).collect();
    averages.sort_unstable_by(f64::total_cmp);
    Quartiles::of(&averages).filter(|usual| usual.count >= WINNERS_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::samples::{closed, now, open, survey};

    /// A rep with one deal that was won after being open for `days`, and some that are open since a day.
    fn rep(owner: &str, value: f64, days: f64, open_deals: usize) -> Vec<DealFacts> {
        let mut deals = vec![closed(&format!("{owner} w"), true, &[("Demo", days)])];
        deals[0].base_amount = Some(value);
        for i in 0..open_deals {
            deals.push(open(&format!("{owner} {i}"), 0.5, 100.0, &[("Demo", 1.0)]));
        }
        for deal in &mut deals {
            deal.owner = Some(owner.into());
        }
        deals
    }

    #[test]
    fn what_is_usual_is_what_those_who_win_handle() {
        let reps = [
            rep("a", 100.0, 90.0, 9),
            rep("b", 500.0, 90.0, 0),
            rep("c", 600.0, 40.0, 1),
            rep("d", 700.0, 90.0, 10),
            rep("e", 50.0, 90.0, 1),
        ];
        let survey = survey(reps.concat());
        let found = capacity(&survey, &Scope::default(), now());
        // The median won value is 500, so b, c and d win: (90 + 0) / 100, (40 + 1) / 50, (90 + 10) / 100.
        let usual = found.usual.unwrap();
        assert!(
            (usual.median - 0.9).abs() < 1e-9 && usual.count == 3,
            "{usual:?}"
        );
        assert!((usual.lower - 0.86).abs() < 1e-9 && (usual.upper - 0.95).abs() < 1e-9);
        let reps: Vec<(&str, usize, Option<AgainstUsual>)> = found
            .reps
            .iter()
            .map(|rep| (&*rep.owner, rep.open_deals, rep.against_usual))
            .collect();
        assert_eq!(reps[0], ("a", 9, Some(AgainstUsual::Above)));
        assert_eq!(reps[1], ("b", 0, Some(AgainstUsual::Below)));
        // Only b has fewer than the median of 0.9 deals.
        assert!((found.could_take.unwrap() - 0.9).abs() < 1e-9);
        let scope = Scope {
            owner: Some("b".into()),
            ..Scope::default()
        };
        let of_b = capacity(&survey, &scope, now());
        assert_eq!((of_b.reps.len(), of_b.usual), (1, Some(usual)));
    }

    #[test]
    fn two_who_win_make_no_rule() {
        let reps = [rep("a", 100.0, 90.0, 9), rep("b", 500.0, 90.0, 0)];
        let found = capacity(&survey(reps.concat()), &Scope::default(), now());
        assert_eq!((found.usual, found.could_take), (None, None));
        assert_eq!(found.reps[0].against_usual, None);
    }
}
