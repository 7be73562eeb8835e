//! Small pipelines for tests.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{DealFacts, InsightSettings, Past, Standing, Survey, Visit};
use crate::domain::{DealId, Outcome};
use crate::scoring::Grade;

pub fn now() -> Timestamp {
    "2026-10-01T12:00:00Z".parse().unwrap()
}

fn days(days: f64) -> SignedDuration {
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
