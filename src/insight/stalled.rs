//! Deals that stay in their stage for longer than those that were won.

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::DealFacts;
use super::flow::Course;
use super::survey::{DealRef, Scope, StageBenchmark, Survey};

/// Stalled deals, and the limits of the stages.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Stalled {
    /// How many deals have stalled.
    pub count: usize,
    /// Their amounts, in the base currency.
    pub amount: f64,
    /// Expected value that was lost while they waited in their stage.
    pub value_lost: f64,
    /// By pipeline, then as deals go through them.
    pub stages: Vec<StalledStage>,
    /// By expected value, the largest first.
    pub deals: Vec<StalledDeal>,
}

/// A stage with its limit and who is beyond it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StalledStage {
    #[serde(flatten)]
    pub benchmark: StageBenchmark,
    /// Open deals in the stage.
    pub open: usize,
    pub stalled: usize,
    /// Open deals beyond the suggested cut-off.
    pub beyond_cutoff_now: usize,
}

/// A deal that is longer in its stage than it should be.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StalledDeal {
    pub deal: DealRef,
    pub days_in_stage: f64,
    pub limit_days: f64,
    pub win_probability: Option<f64>,
    /// By the present model, as the deal was when it entered the stage.
    pub probability_at_entry: Option<f64>,
    /// What it lost while it waited; below 0 if it gained.
    pub probability_lost: Option<f64>,
    pub expected_value: Option<f64>,
    /// Probability lost times amount, in the base currency.
    pub value_lost: Option<f64>,
    pub days_since_touch: Option<f64>,
    /// Whether it is older than the age beyond which hardly any deal of its stage was won.
    pub is_beyond_cutoff: bool,
}

/// Open deals beyond the limit of their stage; lists at most `limit` of them, counts all.
pub fn stalled(survey: &Survey, scope: &Scope, now: Timestamp, limit: usize) -> Stalled {
    let mut found: Vec<(f64, &DealFacts)> = survey
        .open(scope)
        .filter(|deal| survey.is_stalled(deal, now))
        .map(|deal| (deal.expected_value().unwrap_or(-1.0), deal))
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
    let found: Vec<&DealFacts> = found.into_iter().map(|(_, deal)| deal).collect();
    let lost = found.iter().filter_map(|deal| value_lost(deal));
    Stalled {
        count: found.len(),
        amount: found
            .iter()
            .filter_map(|deal| deal.base_amount)
            .sum::<f64>()
            + 0.0,
        value_lost: lost.sum::<f64>() + 0.0,
        stages: stages(survey, scope, now),
        deals: (found.iter().take(limit))
            .map(|deal| listed(survey, deal, now))
            .collect(),
    }
}

fn stages(survey: &Survey, scope: &Scope, now: Timestamp) -> Vec<StalledStage> {
    let benchmarks = survey.stages_in_order().into_iter();
    let mut stages: Vec<StalledStage> = benchmarks
        .map(|(_, benchmark)| StalledStage {
            benchmark: benchmark.clone(),
            open: 0,
            stalled: 0,
            beyond_cutoff_now: 0,
        })
        .collect();
    let course = Course::of(survey);
    for deal in survey.open(scope) {
        let Some(stage) = &deal.stage else { continue };
        if let Some(place) = course.place(deal.pipeline.as_deref(), stage) {
            let stage = &mut stages[place];
            stage.open += 1;
            stage.stalled += usize::from(survey.is_stalled(deal, now));
            stage.beyond_cutoff_now += usize::from(is_beyond_cutoff(&stage.benchmark, deal, now));
        }
    }
    stages.retain(|stage| {
        let pipeline = &stage.benchmark.pipeline;
        scope.pipeline.is_none() || *pipeline == scope.pipeline
    });
    stages
}

fn listed(survey: &Survey, deal: &DealFacts, now: Timestamp) -> StalledDeal {
    let stage = survey.stage_of(deal);
    StalledDeal {
        deal: deal.into(),
        days_in_stage: deal.days_in_stage(now).unwrap_or_default(),
        limit_days: stage.map_or(f64::from(survey.stalled_days), |stage| stage.limit_days),
        win_probability: deal.win_probability(),
        probability_at_entry: deal.past.at_stage_entry,
        probability_lost: probability_lost(deal),
        expected_value: deal.expected_value(),
        value_lost: value_lost(deal),
        days_since_touch: deal.days_since_touch(now),
        is_beyond_cutoff: stage.is_some_and(|stage| is_beyond_cutoff(stage, deal, now)),
    }
}

fn probability_lost(deal: &DealFacts) -> Option<f64> {
    Some(deal.past.at_stage_entry? - deal.win_probability()?)
}

fn value_lost(deal: &DealFacts) -> Option<f64> {
    Some(probability_lost(deal)? * deal.base_amount?)
}

fn is_beyond_cutoff(stage: &StageBenchmark, deal: &DealFacts, now: Timestamp) -> bool {
    let days = deal.days_in_stage(now);
    (stage.cutoff_days.zip(days)).is_some_and(|(cutoff, days)| days > cutoff)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{closed, deal, now, survey, survey_with, visit};
    use super::super::survey::LimitFrom;
    use super::*;
    use crate::insight::InsightSettings;

    fn waiting(id: &str, days: f64) -> DealFacts {
        let mut facts = deal(id, 0.2, 1000.0);
        facts.visits = vec![visit("Proposal", days, None)];
        facts.stage_entered_at = Some(facts.visits[0].entered_at);
        facts.past.at_stage_entry = Some(0.35);
        facts
    }

    /// Ten won deals that took 1 to 10 days in the stage, and ten lost ones that took 10 to 100.
    fn history() -> Vec<DealFacts> {
        let won = (1..=10).map(|d| closed(&format!("w{d}"), true, &[("Proposal", f64::from(d))]));
        let lost = (1..=10).map(|d| {
            closed(
                &format!("l{d}"),
                false,
                &[("Proposal", 10.0 * f64::from(d))],
            )
        });
        won.chain(lost).collect()
    }

    #[test]
    fn the_limit_is_a_quantile_of_won_deals_where_there_are_enough() {
        let settings = InsightSettings {
            stalled_won_deals_min: 10,
            ..InsightSettings::default()
        };
        let deals = || {
            history()
                .into_iter()
                .chain([waiting("slow", 9.0), waiting("fast", 8.0)])
        };
        let enough = survey_with(deals().collect(), settings);
        let found = stalled(&enough, &Scope::default(), now(), 10);
        // The 80th percentile of 1 to 10 is 8.2.
        let stage = &found.stages[0];
        assert!((stage.benchmark.limit_days - 8.2).abs() < 1e-9);
        assert_eq!(stage.benchmark.limit_from, LimitFrom::WonDeals);
        assert_eq!((stage.open, stage.stalled, found.count), (2, 1, 1));
        let slow = &found.deals[0];
        assert_eq!(slow.deal.id, "slow");
        assert!((slow.probability_lost.unwrap() - 0.15).abs() < 1e-12);
        assert!((found.value_lost - 150.0).abs() < 1e-9);
        // Beyond 9 days ten of eleven were lost; beyond 10, all of nine, which are too few to tell.
        assert_eq!(stage.benchmark.cutoff_days, None);
    }

    #[test]
    fn with_few_won_deals_the_setting_holds() {
        let deals = history()
            .into_iter()
            .chain([waiting("a", 29.0), waiting("b", 31.0)]);
        let found = stalled(&survey(deals.collect()), &Scope::default(), now(), 10);
        assert_eq!(found.stages[0].benchmark.limit_from, LimitFrom::Setting);
        assert_eq!(found.deals.len(), 1);
        assert_eq!(
            (found.deals[0].deal.id.as_str(), found.deals[0].limit_days),
            ("b", 30.0)
        );
    }

    #[test]
    fn the_cutoff_is_where_hardly_any_deal_was_won_any_more() {
        let settings = InsightSettings {
            stalled_won_deals_min: 9,
            ..InsightSettings::default()
        };
        let deals = history()
            .into_iter()
            .chain([waiting("a", 12.0), waiting("b", 10.0)]);
        let found = stalled(
            &survey_with(deals.collect(), settings),
            &Scope::default(),
            now(),
            10,
        );
        let stage = &found.stages[0];
        assert_eq!(stage.benchmark.cutoff_days, Some(10.0));
        assert_eq!(
            (
                stage.benchmark.beyond_cutoff,
                stage.benchmark.won_beyond_cutoff
            ),
            (9, 0)
        );
        assert_eq!(stage.beyond_cutoff_now, 1);
    }
}
