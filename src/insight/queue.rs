//! How each deal of a rep's queue stands.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::DealFacts;
use super::stats::Quartiles;
use super::survey::{Scope, Survey};
use crate::domain::DealId;

/// Where a deal stands in its owner's queue, and where it stood a week ago.
///
/// What was a week ago is what the present model says of the deal as it was then, so that a change is one
/// of the deal and never one of the model.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Outlook {
    /// By expected value among the owner's open deals, 1 first.
    pub rank: usize,
    /// Among the same deals a week ago; null for a deal that was not there yet.
    pub rank_week_ago: Option<usize>,
    /// Places gained since; below 0 if it lost some.
    pub rank_change: Option<i64>,
    pub win_probability_week_ago: Option<f64>,
    /// Win probability gained within the week.
    pub trend: Option<f64>,
    pub company: Option<String>,
    pub days_in_stage: Option<f64>,
    /// What deals that were won took in this stage, in days.
    pub stage_won_days: Option<Quartiles>,
    /// A deal longer than this in the stage has stalled.
    pub stage_limit_days: f64,
    pub is_stalled: bool,
    /// How often the expected close was moved to a later day, and by how much in all.
    pub pushes: usize,
    pub days_pushed: f64,
    /// Days since the expected close, if it has passed.
    pub days_overdue: Option<f64>,
    /// Since the last activity; since the creation where there was none.
    pub days_since_touch: Option<f64>,
}

/// How the open deals of an owner stand.
pub fn outlooks(survey: &Survey, owner: &str, now: Timestamp) -> HashMap<DealId, Outlook> {
    let scope = Scope {
        owner: Some(owner.to_owned()),
        ..Scope::default()
    };
    let deals: Vec<&DealFacts> = survey.open(&scope).collect();
    let present = places(&deals, DealFacts::expected_value);
    let earlier = places(&deals, |deal| deal.past.expected_value_week_ago);
    let outlook = |(index, deal): (usize, &&DealFacts)| {
        let was_there = deal.past.expected_value_week_ago.is_some();
        let rank_week_ago = was_there.then(|| earlier[index]);
        (
            deal.id.clone(),
            outlook(survey, deal, present[index], rank_week_ago, now),
        )
    };
    deals.iter().enumerate().map(outlook).collect()
}

fn outlook(
    survey: &Survey,
    deal: &DealFacts,
    rank: usize,
    rank_week_ago: Option<usize>,
    now: Timestamp,
) -> Outlook {
    let stage = survey.stage_of(deal);
    Outlook {
        rank,
        rank_week_ago,
        rank_change: rank_week_ago.map(|earlier| earlier as i64 - rank as i64),
        win_probability_week_ago: deal.past.week_ago,
        trend: (deal.win_probability().zip(deal.past.week_ago))
            .map(|(present, earlier)| present - earlier),
        company: deal.company.as_deref().map(str::to_owned),
        days_in_stage: deal.days_in_stage(now),
        stage_won_days: stage.and_then(|stage| stage.won_days),
        stage_limit_days: stage.map_or(f64::from(survey.stalled_days), |s| s.limit_days),
        is_stalled: survey.is_stalled(deal, now),
        pushes: deal.pushes.len(),
        days_pushed: deal.pushes.iter().map(|push| push.days).sum::<f64>() + 0.0,
        days_overdue: deal.days_overdue(now),
        days_since_touch: deal.days_since_touch(now),
    }
}

/// The place of each deal by falling value, from 1; unknown values last, equal ones by id as in every
/// ranking.
fn places(deals: &[&DealFacts], value: impl Fn(&DealFacts) -> Option<f64>) -> Vec<usize> {
    let key = |deal: &DealFacts| value(deal).map_or(1.0, |value| -value);
    let mut order: Vec<usize> = (0..deals.len()).collect();
    order.sort_by(|&a, &b| {
        let by_value = key(deals[a]).total_cmp(&key(deals[b]));
        by_value.then_with(|| deals[a].id.cmp(&deals[b].id))
    });
    let mut places = vec![0; deals.len()];
    for (place, index) in order.into_iter().enumerate() {
        places[index] = place + 1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::super::samples::{deal, now, survey};
    use super::*;

    #[test]
    fn ranks_move_with_expected_value_and_new_deals_have_none_before() {
        let with_past = |id: &str, probability: f64, week_ago: Option<f64>| {
            let mut facts = deal(id, probability, 1000.0);
            facts.past.week_ago = week_ago;
            facts.past.expected_value_week_ago = week_ago.map(|p| 1000.0 * p);
            facts
        };
        let survey = survey(vec![
            with_past("rose", 0.6, Some(0.2)),
            with_past("fell", 0.4, Some(0.5)),
            with_past("new", 0.5, None),
        ]);
        let outlooks = outlooks(&survey, "Ann", now());
        let of = |id: &str| outlooks[&DealId::new(id).unwrap()].clone();
        assert_eq!((of("rose").rank, of("rose").rank_week_ago), (1, Some(2)));
        assert_eq!(of("rose").rank_change, Some(1));
        assert!((of("rose").trend.unwrap() - 0.4).abs() < 1e-12);
        assert_eq!((of("fell").rank, of("fell").rank_change), (3, Some(-2)));
        assert_eq!(
            (of("new").rank, of("new").rank_change, of("new").trend),
            (2, None, None)
        );
        assert!(!of("rose").is_stalled);
    }
}
