//! How long figures take with 100,000 open deals:
//! cargo test --release --lib insight::load -- --ignored --nocapture

use std::time::{Duration, Instant};

use jiff::SignedDuration;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::coverage::{Asked, coverage};
use super::forecast::forecast;
use super::period::{Period, Step, day_of};
use super::reps::reps;
use super::samples::{closed, now, open, survey};
use super::summary::summary;
use super::{DealFacts, QuarterStart, Scope, Standing, Survey};

const OPEN: usize = 100_000;
const CLOSED: usize = 50_000;
const STAGES: [&str; 5] = ["Lead", "Qualified", "Demo", "Proposal", "Negotiation"];

/// A large company: 200 reps, each deal as far as chance took it.
fn large() -> Survey {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let quarters = Period::quarters_before(day_of(now()), 4);
    let deals = (0..OPEN + CLOSED).map(|i| {
        let reached = rng.random_range(1..=STAGES.len());
        let stays: Vec<(&str, f64)> = (STAGES[..reached].iter())
            .map(|stage| (*stage, rng.random_range(1.0..60.0)))
            .collect();
        let amount = 1000.0 * (2.0 * rng.random::<f64>()).exp().powi(3);
        let id = format!("{i:06}");
        let mut deal = match i < OPEN {
            true => open(&id, rng.random_range(0.02..0.9), amount, &stays),
            false => closed(&id, rng.random_bool(0.3), &stays),
        };
        deal.base_amount = Some(amount);
        deal.owner = Some(format!("rep {}", rng.random_range(0..200)).into());
        deal.source = Some(format!("source {}", rng.random_range(0..12)).into());
        if i >= OPEN {
            backdate(&mut deal, rng.random_range(0.0..700.0));
        }
        deal.standing = deal.standing.map(|standing| Standing {
            low: standing.win_probability * 0.8,
            high: (standing.win_probability * 1.2).min(0.99),
            ..standing
        });
        for quarter in &quarters {
            let at = quarter.span().begin;
            if deal.created_at < Some(at) && deal.closed_at.is_none_or(|closed_at| closed_at > at) {
                deal.quarters.push(QuarterStart {
                    at,
                    win_probability: 0.3,
                    base_amount: Some(amount),
                });
            }
        }
        deal
    });
    survey(deals.collect())
}

fn backdate(deal: &mut DealFacts, days: f64) {
    let shift = SignedDuration::from_secs_f64(days * 86_400.0);
    deal.created_at = deal.created_at.map(|at| at - shift);
    deal.closed_at = deal.closed_at.map(|at| at - shift);
    for visit in &mut deal.visits {
        visit.entered_at -= shift;
        visit.left_at = visit.left_at.map(|at| at - shift);
    }
}

fn timed<T>(what: &str, work: impl Fn() -> T) -> Duration {
    // The first time fills what is worked out once per survey.
    let _warm = work();
    let started = Instant::now();
    let _kept = work();
    let took = started.elapsed();
    println!("{what}: {took:.1?}");
    took
}

#[test]
#[ignore = "a measurement: run it with --release"]
fn figures_of_a_hundred_thousand_open_deals_take_less_than_a_blink() {
    let survey = large();
    let scope = Scope::default();
    let year = Period::last_twelve_months(now());
    let quarter = Period::quarter(day_of(now()));
    let asked = Asked {
        period: quarter,
        target: Some(1e9),
        confidence: None,
    };
    let took = [
        timed("summary", || {
            summary(&survey, &scope, year, Step::Month, now())
        }),
        timed("coverage", || coverage(&survey, &scope, asked, now())),
        timed("forecast", || {
            forecast(&survey, &scope, quarter, None, now())
        }),
        timed("reps", || reps(&survey, &scope, year, now())),
    ];
    for took in took {
        assert!(took < Duration::from_millis(100), "{took:?}");
    }
}
