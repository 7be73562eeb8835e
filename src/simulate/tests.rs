use std::collections::BTreeSet;

use rust_decimal::prelude::ToPrimitive;

use super::*;
use crate::domain::{Outcome, Snapshot};

fn simulated(settings: &Settings) -> Vec<SimulatedDeal> {
    pipeline(settings).unwrap().collect()
}

fn settings(deals_count: u64, seed: u64) -> Settings {
    Settings {
        deals_count,
        seed,
        ..Settings::default()
    }
}

/// How far the number of wins lies from what the probabilities announce, in standard deviations.
fn surprise(forecasts: &[(f64, bool)]) -> f64 {
    let won = forecasts.iter().filter(|(_, won)| *won).count() as f64;
    let announced: f64 = forecasts.iter().map(|(p, _)| p).sum();
    let variance: f64 = forecasts.iter().map(|(p, _)| p * (1.0 - p)).sum();
    (won - announced) / variance.sqrt()
}

/// The largest surprise in ten equal groups by probability.
fn worst_surprise(mut forecasts: Vec<(f64, bool)>) -> f64 {
    forecasts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let group_len = forecasts.len().div_ceil(10);
    forecasts
        .chunks(group_len)
        .map(|group| surprise(group).abs())
        .fold(0.0, f64::max)
}

#[test]
fn the_same_seed_gives_the_same_deals_and_another_seed_others() {
    let first = simulated(&settings(200, 7));
    assert_eq!(first, simulated(&settings(200, 7)));
    let other = simulated(&settings(200, 8));
    assert_ne!(first[0].deal.attributes, other[0].deal.attributes);
}

#[test]
fn the_true_probability_at_creation_is_the_won_share() {
    let settings = settings(12_000, 3);
    let simulation = Simulation::new(&settings).unwrap();
    let courses: Vec<_> = (0..12_000).map(|index| simulation.course(index)).collect();
    let forecasts: Vec<_> = courses
        .iter()
        .map(|course| (course.p_at_creation(), course.wins()))
        .collect();
    assert!(worst_surprise(forecasts) < 3.5);
}

#[test]
fn closed_deals_of_the_first_half_year_are_won_as_often_as_announced() {
    let settings = Settings {
        history_days: 2000,
        ..settings(20_000, 5)
    };
    let old: Vec<_> = simulated(&settings)
        .into_iter()
        .take(4000)
        .filter(|simulated| !simulated.deal.is_open())
        .map(|s| (s.truth.p_at_creation, s.deal.outcome == Outcome::Won))
        .collect();
    assert!(old.len() >= 3990, "all but a few are closed by now");
    assert!(surprise(&old).abs() < 3.5);
}

/// The test that matters: whoever is told `p_now` on open deals can take it at its word.
#[test]
fn the_true_probability_of_open_deals_is_calibrated() {
    let open: Vec<_> = [11, 12, 13]
        .into_iter()
        .flat_map(|seed| {
            simulated(&Settings {
                history_days: 150,
                ..settings(15_000, seed)
            })
        })
        .filter(|simulated| simulated.deal.is_open())
        .collect();
    assert!(open.len() > 10_000, "{}", open.len());
    let now = |s: &SimulatedDeal| (s.truth.p_now.unwrap(), s.truth.wins);
    let forecasts: Vec<_> = open.iter().map(now).collect();
    assert!(worst_surprise(forecasts) < 3.5);

    // A wrong probability does not get through: what was true at creation is not any more.
    let stale = open
        .iter()
        .map(|s| (s.truth.p_at_creation, s.truth.wins))
        .collect();
    assert!(worst_surprise(stale) > 5.0);
}

#[test]
fn the_true_probability_stays_calibrated_in_each_stage_age_and_priority() {
    let settings = settings(60_000, 21);
    let simulation = Simulation::new(&settings).unwrap();
    let moment = simulation.history_length / 2.0;
    let at = simulation.clock.timestamp(moment);
    let mut by_group = std::collections::BTreeMap::<String, Vec<(f64, bool)>>::new();
    for index in 0..settings.deals_count {
        let course = simulation.course(index);
        let Some(p) = course.win_probability(moment) else {
            continue;
        };
        let deal = course.observe(DealId::new("d").unwrap(), &simulation.clock, at);
        let age_days = (at.as_second() - deal.created_at.unwrap().as_second()) / 86_400;
        let age = if age_days < 30 { "young" } else { "old" };
        let priority = deal.priority.unwrap_or_default();
        for group in [deal.stage.unwrap(), age.to_owned(), priority] {
            let forecast = (p, course.wins());
            by_group.entry(group).or_default().push(forecast);
        }
    }
    for name in ["Qualification", "Negotiation", "old", "High", "Low"] {
        assert!(by_group[name].len() > 100, "{name}");
    }
    for (name, forecasts) in by_group {
        assert!(surprise(&forecasts).abs() < 3.5, "{name}");
    }
}

#[test]
fn nothing_happens_after_closing_or_after_the_export_or_before_creation() {
    let as_of: Timestamp = "2026-10-01T00:00:00Z".parse().unwrap();
    for SimulatedDeal { deal, .. } in simulated(&settings(3000, 2)) {
        let created_at = deal.created_at.unwrap();
        let end = deal.closed_at.unwrap_or(as_of);
        assert!(end <= as_of);
        let times = deal.history.iter().map(|change| change.at);
        for at in times.chain(deal.activities.iter().map(|activity| activity.at)) {
            assert!(created_at <= at && at <= end, "{}: {at}", deal.id);
        }
        assert_eq!(deal.is_open(), deal.closed_at.is_none());
    }
}

#[test]
fn a_deal_seen_later_has_the_past_of_the_deal_seen_earlier() {
    let simulation = Simulation::new(&settings(1000, 4)).unwrap();
    let early: Timestamp = "2025-10-01T00:00:00Z".parse().unwrap();
    let mut seen_open = 0;
    for index in 0..550 {
        let course = simulation.course(index);
        let id = DealId::new("d").unwrap();
        let then = course.observe(id.clone(), &simulation.clock, early);
        let now = course.observe(id, &simulation.clock, simulation.as_of);
        if then.created_at > Some(early) {
            continue;
        }
        let (then_known, now_known) = (Snapshot::at(&then, early), Snapshot::at(&now, early));
        assert_eq!(then_known.activities(), now_known.activities());
        assert_eq!(then_known.amount(), now_known.amount());
        assert_eq!(then_known.stage(), now_known.stage());
        assert_eq!(
            then_known.expected_close_at(),
            now_known.expected_close_at()
        );
        seen_open += usize::from(then.is_open() && !now.is_open());
    }
    assert!(seen_open > 20, "many deals close in between");
}

#[test]
fn the_pipeline_is_believable() {
    let deals = simulated(&settings(6000, 1));
    let closed = deals.iter().filter(|s| !s.deal.is_open()).count() as f64;
    let won = deals.iter().filter(|s| s.deal.outcome == Outcome::Won);
    let won_share = won.count() as f64 / closed;
    assert!((0.25..0.31).contains(&won_share), "{won_share}");
    let open_share = 1.0 - closed / deals.len() as f64;
    assert!((0.05..0.25).contains(&open_share), "{open_share}");

    let pushed = deals
        .iter()
        .filter(|s| {
            !Snapshot::at(&s.deal, Timestamp::MAX)
                .close_pushes()
                .is_empty()
        })
        .count();
    assert!(pushed * 5 > deals.len(), "a good part is pushed: {pushed}");
    let distinct = |of: fn(&Deal) -> Option<String>| {
        deals
            .iter()
            .filter_map(|s| of(&s.deal))
            .collect::<BTreeSet<_>>()
            .len()
    };
    assert_eq!(distinct(|deal| deal.owner.clone()), 25);
    assert_eq!(distinct(|deal| deal.pipeline.clone()), 3);
    assert_eq!(distinct(|deal| deal.currency.map(|c| c.to_string())), 4);
    assert_eq!(distinct(|deal| deal.priority.clone()), 3);
    let blank_amounts = deals.iter().filter(|s| s.deal.amount.is_none()).count();
    assert!((200..400).contains(&blank_amounts), "{blank_amounts}");
}

#[test]
fn a_tenth_of_the_deals_holds_almost_half_of_the_value() {
    let mut amounts: Vec<f64> = simulated(&settings(6000, 1))
        .iter()
        .filter_map(|s| s.deal.amount?.to_f64())
        .collect();
    amounts.sort_by(|a, b| b.total_cmp(a));
    let largest: f64 = amounts[..amounts.len() / 10].iter().sum();
    let share = largest / amounts.iter().sum::<f64>();
    assert!((0.4..0.65).contains(&share), "{share}");
}

#[test]
fn further_columns_leave_the_others_alone() {
    let plain = simulated(&settings(50, 9));
    let wide = simulated(&Settings {
        extra_columns: 60,
        ..settings(50, 9)
    });
    let mut names = BTreeSet::new();
    for (plain, wide) in plain.iter().zip(&wide) {
        names.extend(wide.deal.attributes.keys().cloned());
        for (name, value) in &plain.deal.attributes {
            assert_eq!(wide.deal.attributes.get(name), Some(value));
        }
    }
    assert_eq!(names.len(), ATTRIBUTES.len() + 60);
}

#[test]
fn every_attribute_has_its_column() {
    let deals = simulated(&settings(500, 9));
    let names: BTreeSet<&str> = deals
        .iter()
        .flat_map(|s| s.deal.attributes.keys().map(String::as_str))
        .collect();
    assert_eq!(names, BTreeSet::from(ATTRIBUTES));
}

#[test]
fn nonsense_is_refused_by_name() {
    let nonsense = Settings {
        deals_count: 0,
        seed: 1,
        as_of: date(1, 1, 1),
        history_days: 1,
        extra_columns: 1_000_000,
    };
    let message = pipeline(&nonsense).err().unwrap().to_string();
    for name in ["deals", "days", "extra-columns", "as-of"] {
        assert!(message.contains(&format!("{name}: ")), "{message}");
    }
    for as_of in [*AS_OF.start(), *AS_OF.end()] {
        for history_days in [*HISTORY_DAYS.start(), *HISTORY_DAYS.end()] {
            let extreme = Settings {
                as_of,
                history_days,
                ..settings(1, u64::MAX)
            };
            assert_eq!(simulated(&extreme).len(), 1);
        }
    }
}

#[test]
fn the_rates_of_the_simulated_world_hold_on_every_day() {
    let exchange = exchange();
    for SimulatedDeal { deal, .. } in simulated(&settings(200, 1)) {
        let rate = exchange.rate(deal.currency.unwrap(), date(1990, 1, 1));
        assert!(rate.is_some(), "{:?}", deal.currency);
    }
    let pound = "GBP".parse().unwrap();
    let rate = exchange.rate(pound, date(2026, 10, 1)).unwrap();
    assert_eq!(rate.to_string(), "1.17");
}

#[test]
fn a_moved_deal_keeps_its_distances() {
    let original = simulated(&settings(50, 7)).swap_remove(20).deal;
    let mut moved = original.clone();
    move_by(&mut moved, 40);
    let later = SignedDuration::from_hours(24 * 40);
    assert_eq!(
        moved.created_at.unwrap(),
        original.created_at.unwrap() + later
    );
    let moment = original.created_at.unwrap() + SignedDuration::from_hours(24 * 30);
    let (then, now) = (
        Snapshot::at(&original, moment),
        Snapshot::at(&moved, moment + later),
    );
    assert_eq!(then.stage(), now.stage());
    assert_eq!(then.activities().len(), now.activities().len());
    assert_eq!(
        then.expected_close_at().map(|at| at + later),
        now.expected_close_at()
    );
    assert_eq!(then.close_pushes(), now.close_pushes());
}
