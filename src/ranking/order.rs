//! The order by expected value as a value: members by rank, then by deal id.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::query::{RankingQuery, RankingRow, Sort};
use crate::domain::DealId;

/// A deal's place in the order by expected value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Member {
    pub deal_id: DealId,
    /// Smallest first: the negative expected value, or 1 if there is none.
    pub rank: f64,
    pub owner: Option<String>,
    pub pipeline: Option<String>,
}

impl Member {
    pub fn of(row: &RankingRow) -> Self {
        Self {
            deal_id: row.deal.id.clone(),
            rank: expected_value_rank(row.score.expected_value),
            owner: row.deal.owner.clone(),
            pipeline: row.deal.pipeline.clone(),
        }
    }
}

/// The same number as the store's column of this name.
pub(crate) fn expected_value_rank(expected_value: Option<f64>) -> f64 {
    // Adding zero turns -0 into 0: they are equal, but only one of them sorts as equal.
    expected_value.map_or(1.0, |value| -value + 0.0)
}

/// The rankings that are kept in order: of all open deals, of an owner, of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum View<'a> {
    All,
    Owner(&'a str),
    Pipeline(&'a str),
}

impl<'a> View<'a> {
    /// The view that answers a query, if one does.
    pub fn of(query: &'a RankingQuery) -> Option<Self> {
        let is_plain = query.sort == Sort::ExpectedValue
            && query.stage.is_none()
            && query.grade.is_none()
            && query.min_amount.is_none()
            && !query.stalled;
        match (is_plain, &query.owner, &query.pipeline) {
            (true, None, None) => Some(Self::All),
            (true, Some(owner), None) => Some(Self::Owner(owner)),
            (true, None, Some(pipeline)) => Some(Self::Pipeline(pipeline)),
            _ => None,
        }
    }

    /// The views that a member is in.
    pub fn with(member: &'a Member) -> impl Iterator<Item = Self> {
        [
            Some(Self::All),
            member.owner.as_deref().map(Self::Owner),
            member.pipeline.as_deref().map(Self::Pipeline),
        ]
        .into_iter()
        .flatten()
    }
}

/// All views, in memory.
#[derive(Debug, Default)]
pub(crate) struct Order {
    members: HashMap<DealId, Arc<Member>>,
    all: BTreeSet<Place>,
    owners: HashMap<String, BTreeSet<Place>>,
    pipelines: HashMap<String, BTreeSet<Place>>,
}

impl Order {
    /// Up to `limit` deals after a place, in order.
    pub fn page(&self, view: View<'_>, after: Option<(f64, &DealId)>, limit: usize) -> Vec<DealId> {
        let set = match view {
            View::All => Some(&self.all),
            View::Owner(owner) => self.owners.get(owner),
            View::Pipeline(pipeline) => self.pipelines.get(pipeline),
        };
        let Some(set) = set else { return Vec::new() };
        let ids = |place: &Place| place.0.deal_id.clone();
        match after {
            None => set.iter().take(limit).map(ids).collect(),
            Some((rank, deal_id)) => {
                let place = Place(Arc::new(Member {
                    deal_id: deal_id.clone(),
                    rank,
                    owner: None,
                    pipeline: None,
                }));
                let rest = (std::ops::Bound::Excluded(place), std::ops::Bound::Unbounded);
                set.range(rest).take(limit).map(ids).collect()
            }
        }
    }

    /// Puts a deal in its place, or out of the order.
    pub fn set(&mut self, deal_id: &DealId, member: Option<Member>) {
        if let Some(old) = self.members.remove(deal_id) {
            let place = Place(old);
            for view in View::with(&place.0) {
                self.remove(view, &place);
            }
        }
        if let Some(member) = member {
            let member = Arc::new(member);
            for view in View::with(&member) {
                let set = match view {
                    View::All => &mut self.all,
                    View::Owner(owner) => self.owners.entry(owner.to_owned()).or_default(),
                    View::Pipeline(name) => self.pipelines.entry(name.to_owned()).or_default(),
                };
                set.insert(Place(member.clone()));
            }
            self.members.insert(deal_id.clone(), member);
        }
    }

    fn remove(&mut self, view: View<'_>, place: &Place) {
        let (sets, name) = match view {
            View::All => {
                self.all.remove(place);
                return;
            }
            View::Owner(owner) => (&mut self.owners, owner),
            View::Pipeline(pipeline) => (&mut self.pipelines, pipeline),
        };
        if let Some(set) = sets.get_mut(name) {
            set.remove(place);
            if set.is_empty() {
                sets.remove(name);
            }
        }
    }
}

/// A member, compared by its place in the order.
#[derive(Debug)]
struct Place(Arc<Member>);

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_rank = self.0.rank.total_cmp(&other.0.rank);
        by_rank.then_with(|| self.0.deal_id.cmp(&other.0.deal_id))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Place {}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, expected_value: Option<f64>, owner: &str) -> Member {
        Member {
            deal_id: DealId::new(id).unwrap(),
            rank: expected_value_rank(expected_value),
            owner: Some(owner.into()),
            pipeline: None,
        }
    }

    fn ids(ids: &[DealId]) -> Vec<&str> {
        ids.iter().map(DealId::as_str).collect()
    }

    fn order(members: &[Member]) -> Order {
        let mut order = Order::default();
        for member in members {
            order.set(&member.deal_id, Some(member.clone()));
        }
        order
    }

    #[test]
    fn the_largest_come_first_and_the_unknown_last() {
        let order = order(&[
            member("unknown-b", None, "eve"),
            member("zero", Some(0.0), "eve"),
            member("large", Some(10.0), "eve"),
            member("unknown-a", None, "eve"),
            member("also-large", Some(10.0), "eve"),
        ]);
        assert_eq!(
            ids(&order.page(View::All, None, 10)),
            ["also-large", "large", "zero", "unknown-a", "unknown-b"]
        );
        let zero = DealId::new("zero").unwrap();
        let after = Some((expected_value_rank(Some(0.0)), &zero));
        assert_eq!(ids(&order.page(View::All, after, 1)), ["unknown-a"]);
    }

    #[test]
    fn a_deal_that_changes_hands_leaves_no_trace() {
        let mut order = order(&[member("d", Some(1.0), "eve")]);
        let id = DealId::new("d").unwrap();
        order.set(&id, Some(member("d", Some(2.0), "bob")));
        assert!(order.page(View::Owner("eve"), None, 10).is_empty());
        assert!(!order.owners.contains_key("eve"));
        assert_eq!(ids(&order.page(View::Owner("bob"), None, 10)), ["d"]);
        order.set(&id, None);
        assert!(order.page(View::All, None, 10).is_empty());
    }
}
