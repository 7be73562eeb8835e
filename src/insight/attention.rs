//! Deals that get the wrong attention: the order in which a rep gave them attention against the order by
//! expected value, within each owner's queue.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::{DealFacts, days_between};
use super::stats::{Counts, Estimated, rank_correlation, ranks};
use super::survey::{DealRef, Scope, Survey};

/// After so many days an activity counts half.
pub const HALF_LIFE_DAYS: f64 = 14.0;
/// What the CRM's own priority flag counts for: as much as two activities of today.
pub const PRIORITY_WEIGHT: f64 = 2.0;
/// Fewer deals have no order worth comparing.
const QUEUE_MIN: usize = 5;

/// Who gives which deals the wrong attention.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Misprioritized {
    /// Expected value of all neglected deals: money at risk.
    pub neglected_value: f64,
    pub overworked_value: f64,
    /// By name.
    pub owners: Vec<OwnerAttention>,
    /// High value and little attention; the most valuable first.
    pub neglected: Vec<MisprioritizedDeal>,
    /// Little value and much attention; the most attended first.
    pub overworked: Vec<MisprioritizedDeal>,
}

/// Which attention a deal gets that it should not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WrongAttention {
    /// Little, at high value.
    Neglected,
    /// Much, at little value.
    Overworked,
}

impl WrongAttention {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Neglected => "neglected",
            Self::Overworked => "overworked",
        }
    }
}

/// How an owner's attention follows expected value.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OwnerAttention {
    /// Null for deals that nobody owns.
    pub owner: Option<String>,
    /// Open deals with an expected value.
    pub deals: usize,
    /// Spearman's rank correlation of attention and expected value, with a 90% interval: 1 follows value
    /// in everything, 0 not at all. Null below five deals or where all attention is equal.
    pub correlation: Option<Estimated>,
    pub neglected: usize,
    pub neglected_value: f64,
    pub overworked: usize,
    pub overworked_value: f64,
}

/// A deal whose attention does not fit its worth, or does.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MisprioritizedDeal {
    pub deal: DealRef,
    pub win_probability: f64,
    /// In the base currency.
    pub expected_value: f64,
    /// Rank in the owner's queue, 1 first; equal ones share the mean of their ranks.
    pub value_rank: f64,
    pub attention_rank: f64,
    /// Deals of the queue.
    pub of: usize,
    /// See [`attention`].
    pub attention: f64,
    /// Calls, mails and meetings of the last 30 days that did not come from the other side.
    pub efforts_30_days: usize,
    pub days_since_touch: Option<f64>,
    pub priority: Option<String>,
    /// The difference of the two ranks as a share of the queue: above 0 more value than attention.
    pub gap: f64,
}

/// What a rep gave a deal lately: each effort of the last 90 days counts 1 and halves every 14 days, and
/// the CRM's priority flag counts 2.
pub fn attention(deal: &DealFacts, now: Timestamp) -> f64 {
    let efforts = deal.efforts.iter().filter(|at| **at <= now);
    let worth = efforts.map(|at| 0.5_f64.powf(days_between(*at, now) / HALF_LIFE_DAYS));
    let flag = if deal.is_priority {
        PRIORITY_WEIGHT
    } else {
        0.0
    };
    worth.sum::<f64>() + flag
}

/// A deal's place in its owner's queue by value and by attention.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    pub deal: &'a DealFacts,
    pub expected_value: f64,
    pub attention: f64,
    pub value_rank: f64,
    pub attention_rank: f64,
    pub of: usize,
}

impl Place<'_> {
    /// See [`MisprioritizedDeal::gap`].
    pub fn gap(&self) -> f64 {
        match self.of {
            0 | 1 => 0.0,
            of => (self.attention_rank - self.value_rank) / (of - 1) as f64,
        }
    }

    /// In the better half by value, and that much further down by attention.
    pub fn is_neglected(&self, gap: f64) -> bool {
        self.of >= QUEUE_MIN && self.gap() >= gap && self.value_rank <= self.middle()
    }

    /// In the lesser half by value, and that much further up by attention.
    pub fn is_overworked(&self, gap: f64) -> bool {
        self.of >= QUEUE_MIN && self.gap() <= -gap && self.value_rank > self.middle()
    }

    fn middle(&self) -> f64 {
        (self.of + 1) as f64 / 2.0
    }

    fn listed(&self, now: Timestamp) -> MisprioritizedDeal {
        let deal = self.deal;
        let efforts = deal.efforts.iter();
        MisprioritizedDeal {
            deal: deal.into(),
            win_probability: deal.win_probability().unwrap_or_default(),
            expected_value: self.expected_value,
            value_rank: self.value_rank,
            attention_rank: self.attention_rank,
            of: self.of,
            attention: self.attention,
            efforts_30_days: efforts.filter(|at| days_between(**at, now) <= 30.0).count(),
            days_since_touch: deal.days_since_touch(now),
            priority: deal.priority.as_deref().map(str::to_owned),
            gap: self.gap(),
        }
    }
}

/// Places by owner.
pub type Queues<'a> = BTreeMap<Option<Arc<str>>, Vec<Place<'a>>>;

/// The queues of all owners in a scope: open deals with an expected value, each with its places.
pub fn queues<'a>(survey: &'a Survey, scope: &Scope, now: Timestamp) -> Queues<'a> {
    let mut queues: Counts<Option<&Arc<str>>, Vec<Place>> = Counts::default();
    for deal in survey.open(scope) {
        let Some(expected_value) = deal.expected_value() else {
            continue;
        };
        queues.entry(deal.owner.as_ref()).or_default().push(Place {
            deal,
            expected_value,
            attention: attention(deal, now),
            value_rank: 0.0,
            attention_rank: 0.0,
            of: 0,
        });
    }
    for queue in queues.values_mut() {
        let values: Vec<f64> = queue.iter().map(|place| place.expected_value).collect();
        let attentions: Vec<f64> = queue.iter().map(|place| place.attention).collect();
        let both = ranks(&values).into_iter().zip(ranks(&attentions));
        let of = queue.len();
        for (place, (value_rank, attention_rank)) in queue.iter_mut().zip(both) {
            (place.value_rank, place.attention_rank, place.of) = (value_rank, attention_rank, of);
        }
    }
    let queues = queues.into_iter();
    queues
        .map(|(owner, queue)| (owner.cloned(), queue))
        .collect()
}

/// Compares attention with expected value in each owner's queue; lists at most `limit` deals of either
/// kind, sums count all of them. A scope narrows the queues themselves.
pub fn misprioritized(
    survey: &Survey,
    scope: &Scope,
    now: Timestamp,
    limit: usize,
) -> Misprioritized {
    compared(survey, &queues(survey, scope, now), now, limit)
}

/// As [`misprioritized`], of queues that are there already.
pub fn compared(survey: &Survey, queues: &Queues, now: Timestamp, limit: usize) -> Misprioritized {
    let gap = survey.settings.misprioritized_gap;
    let mut owners = Vec::with_capacity(queues.len());
    let (mut neglected, mut overworked) = (Vec::new(), Vec::new());
    for (owner, queue) in queues {
        let of = |is: &dyn Fn(&Place) -> bool| -> Vec<Place> {
            queue.iter().filter(|place| is(place)).copied().collect()
        };
        let mine_neglected = of(&|place| place.is_neglected(gap));
        let mine_overworked = of(&|place| place.is_overworked(gap));
        let values: Vec<f64> = queue.iter().map(|place| place.expected_value).collect();
        let attentions: Vec<f64> = queue.iter().map(|place| place.attention).collect();
        owners.push(OwnerAttention {
            owner: owner.as_deref().map(str::to_owned),
            deals: queue.len(),
            correlation: rank_correlation(&attentions, &values)
                .filter(|_| queue.len() >= QUEUE_MIN),
            neglected: mine_neglected.len(),
            neglected_value: value_of(&mine_neglected),
            overworked: mine_overworked.len(),
            overworked_value: value_of(&mine_overworked),
        });
        neglected.extend(mine_neglected);
        overworked.extend(mine_overworked);
    }
    neglected.sort_by(|a, b| descending(a.expected_value, b.expected_value, a, b));
    overworked.sort_by(|a, b| descending(a.attention, b.attention, a, b));
    let listed = |places: &[Place]| {
        let places = places.iter().take(limit);
        places.map(|place| place.listed(now)).collect()
    };
    Misprioritized {
        neglected_value: value_of(&neglected),
        overworked_value: value_of(&overworked),
        owners,
        neglected: listed(&neglected),
        overworked: listed(&overworked),
    }
}

fn value_of(places: &[Place]) -> f64 {
    // Adding zero: the sum of nothing is -0.
    places.iter().map(|place| place.expected_value).sum::<f64>() + 0.0
}

fn descending(a: f64, b: f64, first: &Place, second: &Place) -> std::cmp::Ordering {
    b.total_cmp(&a)
        .then_with(|| first.deal.id.cmp(&second.deal.id))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{deal, now, survey};
    use super::*;
    use crate::insight::DealFacts;
    use jiff::SignedDuration;

    fn worked(id: &str, expected_value: f64, efforts_days_ago: &[i64]) -> DealFacts {
        let mut facts = deal(id, 0.5, 2.0 * expected_value);
        let at = |days: &i64| now() - SignedDuration::from_hours(24 * days);
        facts.efforts = efforts_days_ago.iter().map(at).collect();
        facts.activities = facts.efforts.clone();
        facts.last_activity_at = facts.efforts.last().copied();
        facts
    }

    #[test]
    fn an_effort_halves_every_two_weeks_and_a_flag_counts_two() {
        let mut facts = worked("a", 100.0, &[28, 14, 0]);
        assert!((attention(&facts, now()) - 1.75).abs() < 1e-12);
        facts.is_priority = true;
        assert!((attention(&facts, now()) - 3.75).abs() < 1e-12);
    }

    #[test]
    fn high_value_without_attention_is_neglected_and_the_reverse_overworked() {
        // By value: a b c d e. By attention: e (3 today), c, b, d, and a, which nobody touched.
        let survey = survey(vec![
            worked("a", 500.0, &[]),
            worked("b", 400.0, &[14]),
            worked("c", 300.0, &[0]),
            worked("d", 200.0, &[28]),
            worked("e", 100.0, &[0, 0, 0]),
        ]);
        let found = misprioritized(&survey, &Scope::default(), now(), 10);
        let ids = |deals: &[MisprioritizedDeal]| -> Vec<String> {
            deals.iter().map(|deal| deal.deal.id.clone()).collect()
        };
        assert_eq!(ids(&found.neglected), ["a"]);
        assert_eq!(ids(&found.overworked), ["e"]);
        assert_eq!(
            (found.neglected_value, found.overworked_value),
            (500.0, 100.0)
        );
        let a = &found.neglected[0];
        assert_eq!(
            (a.value_rank, a.attention_rank, a.of, a.gap),
            (1.0, 5.0, 5, 1.0)
        );
        assert_eq!((a.efforts_30_days, a.attention), (0, 0.0));
        // Ranks by attention 5 3 2 4 1 against 1 2 3 4 5: 1 - 6 * 34 / 120 = -0.7.
        let owner = &found.owners[0];
        assert!((owner.correlation.unwrap().value + 0.7).abs() < 1e-12);
        assert_eq!((owner.deals, owner.neglected, owner.overworked), (5, 1, 1));
    }

    #[test]
    fn four_deals_have_no_order() {
        let deals = (0..4).map(|i| worked(&format!("d{i}"), 100.0 * f64::from(i), &[]));
        let survey = survey(deals.collect());
        let found = misprioritized(&survey, &Scope::default(), now(), 10);
        assert!(found.neglected.is_empty() && found.overworked.is_empty());
        assert_eq!(found.owners[0].correlation, None);
    }
}
