//! Small pipelines for tests.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{DealFacts, InsightSettings, Past, Standing, Survey, Visit};
use crate::domain::{DealId, Outcome};
use crate::scoring::Grade;

pub fn now() -> Timestamp {
    "2026-10-01T12:00:00Z".parse().unwrap()
}

pub fn days(days: f64) -> SignedDuration {
    SignedDuration::from_secs_f64(days * 86_400.0)
}

/// An open deal of Ann's in Proposal, 50 days old, with a base amount.
pub fn deal(id: &str, win_probability: f64, amount: f64) -> DealFacts {
    DealFacts {
        id: DealId::new(id).unwrap(),
        name: Some(id.into()),
        company: None,
        pipeline: Some("New".into()),
        stage: Some("Proposal".into()),
        owner: Some("Ann".into()),
        team: None,
        source: None,
        industry: None,
        outcome: Outcome::Open,
        amount: Some(amount),
        currency: None,
        base_amount: Some(amount),
        created_at: Some(now() - days(50.0)),
        closed_at: None,
        expected_close_at: None,
        stage_entered_at: Some(now() - days(10.0)),
        visits: vec![visit("Proposal", 10.0, None)],
        pushes: Vec::new(),
        last_activity_at: None,
        activities: Vec::new(),
        efforts: Vec::new(),
        is_priority: false,
        priority: None,
        standing: Some(Standing {
            win_probability,
            low: win_probability / 2.0,
            high: (win_probability * 1.5).min(0.99),
            score: (100.0 * win_probability) as u8,
            grade: Grade::B,
            expected_value: Some(win_probability * amount),
        }),
        past: Past::default(),
        quarters: Vec::new(),
    }
}

/// A stay that began `began` days ago and ended `ended` days ago.
pub fn visit(stage: &str, began: f64, ended: Option<f64>) -> Visit {
    Visit {
        stage: stage.into(),
        entered_at: now() - days(began),
        left_at: ended.map(|ended| now() - days(ended)),
    }
}

/// A deal worth 1000 that closed ten days ago, after so many days in each stage.
pub fn closed(id: &str, is_won: bool, stays: &[(&str, f64)]) -> DealFacts {
    let mut began = 10.0 + stays.iter().map(|(_, days)| days).sum::<f64>();
    let created_at = now() - days(began);
    let visits = stays.iter().map(|(stage, lasted)| {
        let stay = visit(stage, began, Some(began - lasted));
        began -= lasted;
        stay
    });
    DealFacts {
        visits: visits.collect(),
        outcome: if is_won { Outcome::Won } else { Outcome::Lost },
        stage: Some(if is_won { "Won" } else { "Lost" }.into()),
        created_at: Some(created_at),
        closed_at: Some(now() - days(10.0)),
        stage_entered_at: None,
        standing: None,
        ..deal(id, 0.5, 1000.0)
    }
}

pub fn survey(deals: Vec<DealFacts>) -> Survey {
    survey_with(deals, InsightSettings::default())
}

pub fn survey_with(deals: Vec<DealFacts>, settings: InsightSettings) -> Survey {
    Survey::new(
        deals.into_iter().map(Arc::new).collect(),
        now(),
        Some("m".into()),
        "EUR".parse().unwrap(),
        Arc::new(settings),
        30,
    )
}

/// Ten deals whose figures can be worked out by hand: three won, three lost, four open; their stages are
/// Lead, Demo and Proposal. Probabilities are known for sure.
pub fn ten() -> Vec<DealFacts> {
    let amount = |amount: f64, deal: DealFacts| DealFacts {
        amount: Some(amount),
        base_amount: Some(amount),
        ..deal
    };
    let owned = |owner: &str, source: &str, deal: DealFacts| DealFacts {
        owner: Some(owner.into()),
        source: Some(source.into()),
        ..deal
    };
    let (lead, demo, proposal) = ("Lead", "Demo", "Proposal");
    let w1 = closed("w1", true, &[(lead, 10.0), (demo, 20.0), (proposal, 10.0)]);
    let w2 = closed("w2", true, &[(lead, 10.0), (demo, 10.0)]);
    let w3 = closed("w3", true, &[(lead, 20.0), (demo, 20.0), (proposal, 40.0)]);
    let l1 = closed("l1", false, &[(lead, 5.0)]);
    let l2 = closed("l2", false, &[(lead, 10.0), (demo, 30.0)]);
    let l3 = closed("l3", false, &[(lead, 10.0), (demo, 10.0), (lead, 10.0)]);
    let o1 = open("o1", 0.2, 1000.0, &[(lead, 10.0)]);
    let o2 = open("o2", 0.4, 2000.0, &[(lead, 20.0), (demo, 30.0)]);
    let o3 = open(
        "o3",
        0.6,
        5000.0,
        &[(lead, 10.0), (demo, 10.0), (proposal, 5.0)],
    );
    let o4 = open("o4", 0.1, 0.0, &[(lead, 10.0), (demo, 10.0), (lead, 30.0)]);
    vec![
        owned("Ann", "web", w1),
        owned("Bob", "web", amount(3000.0, w2)),
        owned("Ann", "web", amount(2000.0, w3)),
        owned("Ann", "fair", l1),
        owned("Bob", "fair", amount(4000.0, l2)),
        owned("Bob", "fair", without_amount(l3)),
        owned("Ann", "web", o1),
        owned("Ann", "fair", o2),
        owned("Bob", "web", o3),
        owned("Bob", "fair", without_amount(o4)),
    ]
}

/// An open deal that has gone through these stages, so many days in each, and is in the last one.
pub fn open(id: &str, win_probability: f64, amount: f64, stays: &[(&str, f64)]) -> DealFacts {
    let mut began: f64 = stays.iter().map(|(_, days)| days).sum();
    let created_at = now() - days(began);
    let mut visits = Vec::new();
    for (stage, lasted) in stays {
        visits.push(visit(stage, began, Some(began - lasted)));
        began -= lasted;
    }
    let deal = deal(id, win_probability, amount);
    let last = visits.last_mut().unwrap();
    last.left_at = None;
    DealFacts {
        stage: Some(last.stage.clone()),
        stage_entered_at: Some(last.entered_at),
        created_at: Some(created_at),
        standing: deal.standing.map(|standing| Standing {
            low: win_probability,
            high: win_probability,
            ..standing
        }),
        visits,
        ..deal
    }
}

fn without_amount(mut deal: DealFacts) -> DealFacts {
    (deal.amount, deal.base_amount) = (None, None);
    if let Some(standing) = &mut deal.standing {
        standing.expected_value = None;
    }
    deal
}
