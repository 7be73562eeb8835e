//! Deals whose close moves away, or whose probability falls.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::DealFacts;
use super::survey::{DealRef, Scope, Survey};

/// A smaller fall in a month is noise of the days.
pub const FALL_MIN: f64 = 0.02;

/// Deals that slip.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Slipping {
    pub count: usize,
    /// Expected value that those of them lost that fell, in the base currency.
    pub value_lost: f64,
    /// Pushed, and since then less likely to be won: their needs assessment deserves another look.
    pub pushed_but_losing: usize,
    /// Whose expected close has passed.
    pub overdue: usize,
    /// By value lost, the most first.
    pub deals: Vec<SlippingDeal>,
}

/// An open deal that was pushed, is overdue, or falls.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SlippingDeal {
    pub deal: DealRef,
    pub win_probability: f64,
    pub expected_value: Option<f64>,
    /// How often the expected close was moved to a later day, and by how many days in all.
    pub pushes: usize,
    pub days_pushed: f64,
    pub days_overdue: Option<f64>,
    #[schema(format = DateTime)]
    pub expected_close_at: Option<String>,
    /// By the present model: just before the last push, or 30 days ago where there was none.
    pub probability_before: Option<f64>,
    /// What was lost since; below 0 if it rose.
    pub probability_lost: Option<f64>,
    /// Times the amount, in the base currency.
    pub value_lost: Option<f64>,
    /// Pushed, and less likely to be won since.
    pub is_pushed_but_losing: bool,
}

/// Open deals that were pushed or are overdue and lost probability, or fell by itself within a month;
/// lists at most `limit` of them, counts all.
pub fn slipping(survey: &Survey, scope: &Scope, now: Timestamp, limit: usize) -> Slipping {
    let slips = survey.open(scope).filter_map(|deal| slip(deal, now));
    let mut slips: Vec<(&DealFacts, Slip)> = slips.collect();
    let losses = slips.iter().filter_map(|(_, slip)| slip.value_lost);
    let sum: f64 = losses.filter(|lost| *lost > 0.0).sum();
    slips.sort_by(|(a, left), (b, right)| {
        let worth = |slip: &Slip| slip.value_lost.unwrap_or(-1.0);
        worth(right)
            .total_cmp(&worth(left))
            .then_with(|| a.id.cmp(&b.id))
    });
    let count_of = |is: fn(&Slip) -> bool| slips.iter().filter(|(_, slip)| is(slip)).count();
    Slipping {
        count: slips.len(),
        value_lost: sum + 0.0,
        pushed_but_losing: count_of(|slip| slip.is_pushed_but_losing),
        overdue: count_of(|slip| slip.days_overdue.is_some()),
        deals: (slips.iter().take(limit))
            .map(|(deal, slip)| listed(deal, slip))
            .collect(),
    }
}

#[derive(Debug, Clone, Copy)]
struct Slip {
    win_probability: f64,
    before: Option<f64>,
    lost: Option<f64>,
    value_lost: Option<f64>,
    days_overdue: Option<f64>,
    is_pushed_but_losing: bool,
}

fn slip(deal: &DealFacts, now: Timestamp) -> Option<(&DealFacts, Slip)> {
    let win_probability = deal.win_probability()?;
    let is_pushed = !deal.pushes.is_empty();
    let before = match is_pushed {
        true => deal.past.before_last_push,
        false => deal.past.month_ago,
    };
    let lost = before.map(|before| before - win_probability);
    let falls = lost.is_some_and(|lost| lost >= FALL_MIN);
    let days_overdue = deal.days_overdue(now);
    let slip = Slip {
        win_probability,
        before,
        lost,
        value_lost: lost
            .zip(deal.base_amount)
            .map(|(lost, amount)| lost * amount),
        days_overdue,
        is_pushed_but_losing: is_pushed && falls,
    };
    (falls || days_overdue.is_some()).then_some((deal, slip))
}

fn listed(deal: &DealFacts, slip: &Slip) -> SlippingDeal {
    SlippingDeal {
        deal: deal.into(),
        win_probability: slip.win_probability,
        expected_value: deal.expected_value(),
        pushes: deal.pushes.len(),
        days_pushed: deal.pushes.iter().map(|push| push.days).sum::<f64>() + 0.0,
        days_overdue: slip.days_overdue,
        expected_close_at: deal.expected_close_at.map(|at| at.to_string()),
        probability_before: slip.before,
        probability_lost: slip.lost,
        value_lost: slip.value_lost,
        is_pushed_but_losing: slip.is_pushed_but_losing,
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Push;
    use super::super::samples::{deal, now, survey};
    use super::*;
    use jiff::SignedDuration;

    fn pushed(id: &str, before: f64, present: f64) -> DealFacts {
        let mut facts = deal(id, present, 1000.0);
        let at = now() - SignedDuration::from_hours(24);
        facts.pushes = vec![Push { at, days: 14.0 }, Push { at, days: 30.0 }];
        facts.past.before_last_push = Some(before);
        facts
    }

    #[test]
    fn pushed_and_falling_is_losing_and_pushed_and_rising_is_not() {
        let mut fell = deal("fell", 0.30, 2000.0);
        fell.past.month_ago = Some(0.40);
        let mut overdue = deal("overdue", 0.5, 100.0);
        overdue.expected_close_at = Some(now() - SignedDuration::from_hours(48));
        let survey = survey(vec![
            pushed("losing", 0.5, 0.2),
            pushed("gaining", 0.2, 0.5),
            pushed("steady", 0.5, 0.49),
            fell,
            overdue,
        ]);
        let found = slipping(&survey, &Scope::default(), now(), 10);
        let ids: Vec<&str> = found
            .deals
            .iter()
            .map(|deal| deal.deal.id.as_str())
            .collect();
        assert_eq!(ids, ["losing", "fell", "overdue"]);
        assert_eq!(
            (found.count, found.pushed_but_losing, found.overdue),
            (3, 1, 1)
        );
        assert!((found.value_lost - (300.0 + 200.0)).abs() < 1e-9);
        let losing = &found.deals[0];
        assert_eq!((losing.pushes, losing.days_pushed), (2, 44.0));
        assert!(losing.is_pushed_but_losing && !found.deals[1].is_pushed_but_losing);
        assert_eq!(found.deals[2].days_overdue, Some(2.0));
    }
}
