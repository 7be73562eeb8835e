//! The pipeline at a glance: what is open, what closed deals of a period say, and how both move.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::concentration::{Concentration, concentration};
use super::facts::DealFacts;
use super::flow::{Prospects, StageFlow, prospects, share_of_some, stage_flows};
use super::period::{Period, Span, Step};
use super::stats::{Estimated, Quartiles, mean, quantile, wilson};
use super::survey::{Note, Scope, Survey};
use super::worth::Worth;

/// Closed deals below which rates are said to be of few.
const FEW_CLOSED: usize = 20;
/// Segments of one kind that are listed, those with the most won deals.
const SEGMENTS_MAX: usize = 20;
/// Won deals that a segment has to have.
const SEGMENT_WON_MIN: usize = 3;

/// The key metrics of a pipeline. Deals count as open by what is known now; closed and created ones, the
/// series and the stages are of the period.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Summary {
    pub period: Period,
    pub filters: Scope,
    pub open: OpenDeals,
    pub closed: ClosedDeals,
    pub created: CreatedDeals,
    /// By pipeline, in the order in which deals go through them.
    pub stages: Vec<StageFlow>,
    pub prospects: Prospects,
    /// Null while nothing is expected of any open deal.
    pub concentration: Option<Concentration>,
    pub cycle_by_segment: Vec<SegmentCycle>,
    pub step: Step,
    /// By month or quarter, oldest first; the last one may not be over.
    pub series: Vec<SeriesStep>,
    /// What keeps figures away; the answer has them beside.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

/// What is open now.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct OpenDeals {
    pub deals: usize,
    /// Those with an amount in the base currency.
    pub valued_deals: usize,
    /// The sum of the amounts, in the base currency.
    pub value: f64,
    /// Of those with an amount.
    pub average_value: Option<f64>,
    /// Those with an amount and a score.
    pub scored_deals: usize,
    /// The sum of probability times amount, in the base currency, with the 90% interval of what these deals
    /// will bring; null while none has a score.
    pub expected_value: Option<Estimated>,
}

/// The deals that closed in the period.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ClosedDeals {
    pub won: usize,
    pub lost: usize,
    /// In the base currency, at the rates of the days of closing.
    pub won_value: f64,
    pub lost_value: f64,
    /// Of the won deals with an amount.
    pub average_won_value: Option<f64>,
    /// Won, of all closed: 0 to 1.
    pub win_rate: Option<Estimated>,
    /// Won value, of the value of all closed: 0 to 1.
    pub win_rate_by_value: Option<Estimated>,
    /// From creation to close.
    pub won_cycle: Option<CycleDays>,
    pub lost_cycle: Option<CycleDays>,
}

/// The deals that were created in the period.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CreatedDeals {
    pub deals: usize,
    /// Their present amounts, in the base currency.
    pub value: f64,
}

/// How long deals took, in days.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct CycleDays {
    pub mean: f64,
    #[serde(flatten)]
    pub quartiles: Quartiles,
}

/// How long the won deals of one kind took.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SegmentCycle {
    pub by: Segment,
    pub name: String,
    pub won_cycle: CycleDays,
}

/// By what won deals are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    Pipeline,
    Team,
    Source,
    Industry,
    /// A quarter of the won deals, by amount.
    Amount,
}

/// A month or a quarter, or the part of it that lies in the period.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SeriesStep {
    #[serde(flatten)]
    pub period: Period,
    pub created: usize,
    /// In the base currency, as are all values.
    pub created_value: f64,
    pub won: usize,
    pub lost: usize,
    pub won_value: f64,
    pub lost_value: f64,
    pub win_rate: Option<Estimated>,
}

/// The figures of the deals in scope.
pub fn summary(
    survey: &Survey,
    scope: &Scope,
    period: Period,
    step: Step,
    now: Timestamp,
) -> Summary {
    let span = period.span();
    let open: Vec<&DealFacts> = survey.open(scope).collect();
    let closed: Vec<&DealFacts> = survey
        .closed(scope)
        .filter(|deal| deal.closed_at.is_some_and(|at| span.holds(at)))
        .collect();
    let mut summary = Summary {
        period,
        filters: scope.clone(),
        open: open_deals(&open),
        closed: closed_deals(&closed),
        created: created_deals(survey, scope, span),
        stages: stage_flows(survey, scope, span, now),
        prospects: prospects(survey, scope, span),
        concentration: concentration(&open),
        cycle_by_segment: cycles_by_segment(&closed),
        step,
        series: series(survey, scope, period, step),
        notes: survey.notes(),
    };
    let notes = notes(&summary, &closed);
    summary.notes.extend(notes);
    summary
}

fn open_deals(open: &[&DealFacts]) -> OpenDeals {
    let amounts: Vec<f64> = open.iter().filter_map(|deal| deal.base_amount).collect();
    let (worth, scored_deals) = worth_of(open);
    OpenDeals {
        deals: open.len(),
        valued_deals: amounts.len(),
        value: total(&amounts),
        average_value: mean(&amounts),
        scored_deals,
        expected_value: (scored_deals > 0).then(|| worth.estimated()),
    }
}

/// What deals are worth together, and how many of them have a score and an amount.
pub(super) fn worth_of(open: &[&DealFacts]) -> (Worth, usize) {
    let mut worth = Worth::default();
    let mut scored = 0;
    for deal in open {
        if let (Some(standing), Some(amount)) = (&deal.standing, deal.base_amount) {
            worth.add(standing, amount);
            scored += 1;
        }
    }
    (worth, scored)
}

fn closed_deals(closed: &[&DealFacts]) -> ClosedDeals {
    let (won, lost): (Vec<&DealFacts>, Vec<&DealFacts>) =
        closed.iter().partition(|deal| deal.is_won());
    let won_values = values(&won);
    ClosedDeals {
        won: won.len(),
        lost: lost.len(),
        won_value: total(&won_values),
        lost_value: total(&values(&lost)),
        average_won_value: mean(&won_values),
        win_rate: share_of_some(won.len(), closed.len()),
        win_rate_by_value: share_by_value(closed),
        won_cycle: cycle(&won),
        lost_cycle: cycle(&lost),
    }
}

fn values(deals: &[&DealFacts]) -> Vec<f64> {
    deals.iter().filter_map(|deal| deal.base_amount).collect()
}

/// Never -0, which no reader expects.
fn total(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() + 0.0
}

/// The won share of the value that closed. Its interval is that of as many deals of equal value as would
/// say as much: (sum of amounts)^2 / sum of squares (Kish 1965).
pub(super) fn share_by_value(closed: &[&DealFacts]) -> Option<Estimated> {
    let (mut won, mut all, mut squares) = (0.0, 0.0, 0.0);
    for deal in closed {
        let amount = deal.base_amount.unwrap_or(0.0);
        all += amount;
        squares += amount * amount;
        if deal.is_won() {
            won += amount;
        }
    }
    (all > 0.0).then(|| wilson(won / all, all * all / squares))
}

fn cycle(deals: &[&DealFacts]) -> Option<CycleDays> {
    let mut days: Vec<f64> = deals.iter().filter_map(|deal| deal.cycle_days()).collect();
    days.sort_unstable_by(f64::total_cmp);
    Some(CycleDays {
        mean: mean(&days)?,
        quartiles: Quartiles::of(&days)?,
    })
}

fn created_deals(survey: &Survey, scope: &Scope, span: Span) -> CreatedDeals {
    let created: Vec<&DealFacts> = survey
        .within(scope)
        .filter(|deal| deal.created_at.is_some_and(|at| span.holds(at)))
        .collect();
    CreatedDeals {
        deals: created.len(),
        value: total(&values(&created)),
    }
}

fn cycles_by_segment(closed: &[&DealFacts]) -> Vec<SegmentCycle> {
    let won: Vec<&DealFacts> = closed
        .iter()
        .filter(|deal| deal.is_won())
        .copied()
        .collect();
    let text = |name: &Option<std::sync::Arc<str>>| name.as_deref().map(str::to_owned);
    let bands = AmountBands::of(&won);
    let mut segments = segment(Segment::Pipeline, &won, |deal| text(&deal.pipeline));
    segments.extend(segment(Segment::Team, &won, |deal| text(&deal.team)));
    segments.extend(segment(Segment::Source, &won, |deal| text(&deal.source)));
    segments.extend(segment(Segment::Industry, &won, |deal| {
        text(&deal.industry)
    }));
    segments.extend(segment(Segment::Amount, &won, |deal| bands.name(deal)));
    segments
}

/// By name; with many, those with the most won deals.
fn segment(
    by: Segment,
    won: &[&DealFacts],
    name: impl Fn(&DealFacts) -> Option<String>,
) -> Vec<SegmentCycle> {
    let mut groups: BTreeMap<String, Vec<&DealFacts>> = BTreeMap::new();
    for deal in won {
        if let Some(name) = name(deal) {
            groups.entry(name).or_default().push(deal);
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.retain(|(_, deals)| deals.len() >= SEGMENT_WON_MIN);
    groups.sort_by_key(|(_, deals)| std::cmp::Reverse(deals.len()));
    groups.truncate(SEGMENTS_MAX);
    groups.sort_by(|a, b| a.0.cmp(&b.0));
    let segments = groups.into_iter().filter_map(|(name, deals)| {
        Some(SegmentCycle {
            by,
            name,
            won_cycle: cycle(&deals)?,
        })
    });
    segments.collect()
}

/// Quarters of the won deals by amount.
struct AmountBands {
    /// The lower quartile, the median and the upper quartile.
    ends: Vec<f64>,
}

impl AmountBands {
    fn of(won: &[&DealFacts]) -> Self {
        let mut amounts = values(won);
        amounts.sort_unstable_by(f64::total_cmp);
        let ends = [0.25, 0.5, 0.75].into_iter();
        Self {
            ends: ends.filter_map(|q| quantile(&amounts, q)).collect(),
        }
    }

    /// Numbered, so that names sort as amounts do.
    fn name(&self, deal: &DealFacts) -> Option<String> {
        let amount = deal.base_amount?;
        let band = self.ends.partition_point(|end| *end < amount);
        let name = match (band, self.ends.as_slice()) {
            (0, [first, ..]) => format!("1: up to {first:.0}"),
            (_, [.., last]) if band == self.ends.len() => format!("4: above {last:.0}"),
            (_, ends) => {
                let (low, high) = (ends.get(band - 1)?, ends.get(band)?);
                format!("{}: above {low:.0}, up to {high:.0}", band + 1)
            }
        };
        Some(name)
    }
}

fn series(survey: &Survey, scope: &Scope, period: Period, step: Step) -> Vec<SeriesStep> {
    let periods = period.steps(step);
    let begins: Vec<Timestamp> = periods.iter().map(|step| step.span().begin).collect();
    let span = period.span();
    let place = |at: Option<Timestamp>| {
        let at = at.filter(|at| span.holds(*at))?;
        begins.partition_point(|begin| *begin <= at).checked_sub(1)
    };
    let mut series: Vec<SeriesStep> = periods.iter().map(|step| empty_step(*step)).collect();
    for deal in survey.within(scope) {
        let value = deal.base_amount.unwrap_or(0.0);
        if let Some(step) = place(deal.created_at).and_then(|place| series.get_mut(place)) {
            step.created += 1;
            step.created_value += value;
        }
        let closed_at = deal.closed_at.filter(|_| !deal.is_open());
        let Some(step) = place(closed_at).and_then(|place| series.get_mut(place)) else {
            continue;
        };
        if deal.is_won() {
            step.won += 1;
            step.won_value += value;
        } else {
            step.lost += 1;
            step.lost_value += value;
        }
    }
    for step in &mut series {
        step.win_rate = share_of_some(step.won, step.won + step.lost);
    }
    series
}

fn empty_step(period: Period) -> SeriesStep {
    SeriesStep {
        period,
        created: 0,
        created_value: 0.0,
        won: 0,
        lost: 0,
        won_value: 0.0,
        lost_value: 0.0,
        win_rate: None,
    }
}

fn notes(summary: &Summary, closed: &[&DealFacts]) -> Vec<Note> {
    let mut notes = Vec::new();
    let open = &summary.open;
    match closed.len() {
        0 => notes.push(Note::new(
            "no_closed_deals",
            "no deal in scope closed in the period, so there is no win rate and no cycle length: take a longer period, or import closed deals with their `closed_at`",
        )),
        few if few < FEW_CLOSED => notes.push(Note::new(
            "few_closed_deals",
            format!("only {few} deals in scope closed in the period: mind the intervals, or take a longer one"),
        )),
        _ => {}
    }
    if !closed.is_empty() && closed.iter().all(|deal| deal.visits.is_empty()) {
        notes.push(Note::new(
            "no_stage_history",
            "the closed deals do not say when they entered their stages, so there is no time in stage and no conversion: import deals with their history, or let the CRM's webhooks tell it from now on",
        ));
    }
    if open.valued_deals < open.deals {
        let missing = open.deals - open.valued_deals;
        notes.push(Note::new(
            "amounts_missing",
            format!("{missing} open deals have no amount in the base currency and count as 0: fill in the amount, or give their currency a rate under [exchange]"),
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::samples::{self, now, survey, survey_with, ten};
    use crate::insight::{InsightSettings, flow::NextStage};

    fn of(survey: &Survey, scope: &Scope) -> Summary {
        let period = Period::last_twelve_months(now());
        summary(survey, scope, period, Step::Month, now())
    }

    fn quartiles(lower: f64, median: f64, upper: f64, count: usize) -> Quartiles {
        Quartiles {
            lower,
            median,
            upper,
            count,
        }
    }

    #[test]
    fn what_is_open_and_what_closed_of_ten_deals() {
        let found = of(&survey(ten()), &Scope::default());
        let open = &found.open;
        assert_eq!((open.deals, open.valued_deals, open.value), (4, 3, 8000.0));
        assert_eq!(open.average_value, Some(8000.0 / 3.0));
        // 0.2 * 1000 + 0.4 * 2000 + 0.6 * 5000, give or take 1.645 * sqrt(7,120,000), within 0 to 8000.
        let expected = open.expected_value.unwrap();
        assert_eq!(
            (expected.value, expected.low, expected.high),
            (4000.0, 0.0, 8000.0)
        );
        let closed = &found.closed;
        assert_eq!((closed.won, closed.lost), (3, 3));
        assert_eq!((closed.won_value, closed.lost_value), (6000.0, 5000.0));
        assert_eq!(closed.average_won_value, Some(2000.0));
        assert_eq!(closed.win_rate, share_of_some(3, 6));
        // (1 + 3 + 2 + 1 + 4)^2 / (1 + 9 + 4 + 1 + 16) deals of equal value.
        let by_value = closed.win_rate_by_value.unwrap();
        assert_eq!(by_value, wilson(6.0 / 11.0, 121.0 / 31.0));
        let (won, lost) = (
            closed.won_cycle.as_ref().unwrap(),
            closed.lost_cycle.as_ref().unwrap(),
        );
        assert!((won.mean - 140.0 / 3.0).abs() < 1e-9 && (lost.mean - 25.0).abs() < 1e-9);
        assert_eq!(won.quartiles, quartiles(30.0, 40.0, 60.0, 3));
        assert_eq!(lost.quartiles, quartiles(17.5, 30.0, 35.0, 3));
        assert_eq!((found.created.deals, found.created.value), (10, 19_000.0));
    }

    #[test]
    fn how_ten_deals_moved_through_their_stages() {
        let found = of(&survey(ten()), &Scope::default());
        let [lead, demo, proposal] = found.stages.as_slice() else {
            panic!("{:?}", found.stages);
        };
        assert_eq!(
            (&*lead.stage, &*demo.stage, &*proposal.stage),
            ("Lead", "Demo", "Proposal")
        );
        assert_eq!(
            (lead.entered, lead.went_on, lead.won, lead.lost),
            (10, 8, 0, 1)
        );
        assert_eq!((lead.still_there, lead.moved_back), (1, 0));
        assert_eq!((lead.open_deals, lead.open_value), (2, 1000.0));
        assert_eq!(lead.open_expected_value, Some(200.0));
        assert_eq!(lead.open_days, Some(quartiles(15.0, 20.0, 25.0, 2)));
        // 5, seven times 10, 20, 20: the stay that follows a move back counts too.
        assert_eq!(lead.days, Some(quartiles(10.0, 10.0, 10.0, 10)));
        assert_eq!(lead.conversion, share_of_some(8, 9));
        assert_eq!(
            (demo.entered, demo.went_on, demo.won, demo.lost),
            (8, 3, 1, 2)
        );
        assert_eq!((demo.still_there, demo.moved_back), (1, 1));
        assert_eq!(demo.conversion, share_of_some(4, 6));
        assert_eq!(demo.won_in_the_end, share_of_some(3, 5));
        assert_eq!(demo.days, Some(quartiles(10.0, 10.0, 20.0, 7)));
        let next = NextStage {
            stage: "Proposal".into(),
            deals: 3,
        };
        assert_eq!(demo.next, [next]);
        assert_eq!(
            (proposal.entered, proposal.won, proposal.still_there),
            (3, 2, 1)
        );
        assert_eq!(proposal.days, Some(quartiles(17.5, 25.0, 32.5, 2)));
    }

    #[test]
    fn leads_are_what_the_settings_say() {
        let prospects = of(&survey(ten()), &Scope::default()).prospects;
        assert_eq!((prospects.leads, prospects.converted), (10, 8));
        assert_eq!((prospects.lost, prospects.waiting), (1, 1));
        assert_eq!(prospects.conversion, share_of_some(8, 9));
        let settings = InsightSettings {
            lead_stages: vec!["Lead".into(), "Demo".into()],
            ..InsightSettings::default()
        };
        let prospects = of(&survey_with(ten(), settings), &Scope::default()).prospects;
        assert_eq!((prospects.leads, prospects.converted), (10, 4));
        assert_eq!((prospects.lost, prospects.waiting), (3, 3));
        let settings = InsightSettings {
            lead_stages: vec!["Inbox".into()],
            ..InsightSettings::default()
        };
        let prospects = of(&survey_with(ten(), settings), &Scope::default()).prospects;
        assert_eq!((prospects.leads, prospects.came_as_prospects), (0, 10));
        assert_eq!(prospects.conversion, None);
    }

    #[test]
    fn how_much_of_ten_deals_hangs_on_how_little() {
        let found = of(&survey(ten()), &Scope::default()).concentration.unwrap();
        assert_eq!((found.deals, found.expected_value), (3, 4000.0));
        let tops: Vec<(usize, f64)> = found.top.iter().map(|top| (top.deals, top.share)).collect();
        assert_eq!(tops, [(1, 0.75); 3]);
        // Ann 1000 of 4000, Bob 3000; web 3200, fair 800; no industry is known.
        assert_eq!(found.owner.herfindahl, 0.625);
        assert_eq!(found.owner.listed[0].name.as_deref(), Some("Ann"));
        assert_eq!(found.owner.listed[0].share, 0.25);
        assert!((found.source.herfindahl - 0.68).abs() < 1e-12);
        assert_eq!(found.source.listed[0].name.as_deref(), Some("web"));
        assert_eq!((found.industry.groups, found.industry.herfindahl), (1, 1.0));
    }

    #[test]
    fn the_series_counts_by_month() {
        let found = of(&survey(ten()), &Scope::default());
        assert_eq!(found.series.len(), 12);
        let created: Vec<usize> = found.series.iter().map(|step| step.created).collect();
        assert_eq!(created, [0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 4, 0]);
        let september = &found.series[10];
        assert_eq!((september.won, september.lost), (3, 3));
        assert_eq!(september.won_value, 6000.0);
        assert_eq!(september.win_rate, share_of_some(3, 6));
        let segments: Vec<(Segment, &str)> = found
            .cycle_by_segment
            .iter()
            .map(|segment| (segment.by, &*segment.name))
            .collect();
        assert_eq!(
            segments,
            [(Segment::Pipeline, "New"), (Segment::Source, "web")]
        );
    }

    #[test]
    fn a_scope_leaves_others_out() {
        let ann = Scope {
            owner: Some("Ann".into()),
            ..Scope::default()
        };
        let found = of(&survey(ten()), &ann);
        assert_eq!((found.open.deals, found.open.value), (2, 3000.0));
        assert_eq!((found.closed.won, found.closed.lost), (2, 1));
        assert_eq!(found.stages[0].entered, 5);
        let september = Period {
            from: jiff::civil::date(2026, 9, 22),
            to: jiff::civil::date(2026, 9, 30),
        };
        let found = summary(&survey(ten()), &ann, september, Step::Month, now());
        assert_eq!((found.closed.won, found.closed.win_rate), (0, None));
        assert_eq!(found.stages[0].entered, 0);
        assert!(
            found
                .notes
                .iter()
                .any(|note| note.code == "no_closed_deals")
        );
    }

    #[test]
    fn bands_of_amounts_are_quarters() {
        let won: Vec<DealFacts> = (1..=8)
            .map(|i| samples::deal(&format!("d{i}"), 0.5, 100.0 * f64::from(i)))
            .collect();
        let won: Vec<&DealFacts> = won.iter().collect();
        let bands = AmountBands::of(&won);
        let names: Vec<String> = won.iter().filter_map(|deal| bands.name(deal)).collect();
        assert_eq!(names[0], "1: up to 275");
        assert_eq!(names[2], "2: above 275, up to 450");
        assert_eq!(names[7], "4: above 625");
        let alike = [won[0]; 4];
        assert_eq!(
            AmountBands::of(&alike).name(won[0]).unwrap(),
            "1: up to 100"
        );
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        let found = of(&survey(Vec::new()), &Scope::default());
        assert_eq!(found.open.expected_value, None);
        assert_eq!(
            (&found.closed.win_rate, &found.closed.won_cycle),
            (&None, &None)
        );
        assert_eq!((found.stages.len(), found.concentration), (0, None));
        let codes: Vec<&str> = found.notes.iter().map(|note| &*note.code).collect();
        assert_eq!(codes, ["no_deals", "no_closed_deals"]);
    }
}
