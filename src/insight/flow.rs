//! How deals move through the stages of their pipelines.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::facts::DealFacts;
use super::period::Span;
use super::stats::{Counts, Estimated, Quartiles, share};
use super::survey::{Scope, StageKey, Survey};

/// One stage of a pipeline: who is in it, and what became of the deals that entered it.
///
/// A deal counts once for each stage that it entered, by its first entry there, if that was in the
/// period. What followed the entry, up to now, is one of five: it went on to a later stage, it was won or
/// lost without going on, it is still there, or it was moved back to an earlier stage.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StageFlow {
    pub pipeline: Option<String>,
    pub stage: String,
    /// Deals that are open in this stage now.
    pub open_deals: usize,
    /// Their amounts, in the base currency.
    pub open_value: f64,
    /// Null while no open deal has a score and an amount.
    pub open_expected_value: Option<f64>,
    /// How long those deals have been in it, in days.
    pub open_days: Option<Quartiles>,
    /// How long stays took that ended in the period, in days; each stay counts.
    pub days: Option<Quartiles>,
    /// Deals that entered the stage in the period for the first time.
    pub entered: usize,
    pub went_on: usize,
    /// Won from this stage, without going on to a later one.
    pub won: usize,
    pub lost: usize,
    pub still_there: usize,
    pub moved_back: usize,
    /// Of the deals that entered and went on, were won or lost: the share that was not lost.
    pub conversion: Option<Estimated>,
    /// Of the deals that entered and are closed: the share that was won in the end.
    pub won_in_the_end: Option<Estimated>,
    /// The later stages that deals went on to first.
    pub next: Vec<NextStage>,
}

/// A later stage, and how many deals it was the first later one of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NextStage {
    pub stage: String,
    pub deals: usize,
}

/// Deals created in the period, and how many of them turned out to be more than a lead.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Prospects {
    /// Deals created in the period whose first stage is known and is one of leads.
    pub leads: usize,
    /// Those of them that went on to a later stage which is not one of leads, or were won.
    pub converted: usize,
    /// Those that were lost before.
    pub lost: usize,
    /// Those that are still leads.
    pub waiting: usize,
    /// Deals created in the period that began in a later stage: they came as prospects.
    pub came_as_prospects: usize,
    /// Converted, of all leads that are no longer waiting.
    pub conversion: Option<Estimated>,
    /// The stages of leads as set by `insight.lead_stages`; none: the stage that each deal began in.
    pub lead_stages: Vec<String>,
}

/// What followed a deal's first entry into a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next<'a> {
    /// The stage that it went on to.
    On(&'a str),
    Won,
    Lost,
    StillThere,
    Back,
}

/// The stages of all pipelines, by name, in the order in which deals go through them.
pub struct Course<'a> {
    keys: Vec<&'a StageKey>,
    places: Counts<Option<&'a str>, Counts<&'a str, usize>>,
}

impl<'a> Course<'a> {
    pub fn of(survey: &'a Survey) -> Self {
        let stages = survey.stages_in_order();
        let keys: Vec<&StageKey> = stages.into_iter().map(|(key, _)| key).collect();
        let mut places: Counts<Option<&str>, Counts<&str, usize>> = Counts::default();
        for (place, (pipeline, stage)) in keys.iter().enumerate() {
            let places = places.entry(pipeline.as_deref()).or_default();
            places.insert(stage, place);
        }
        Self { keys, places }
    }

    pub fn keys(&self) -> &[&'a StageKey] {
        &self.keys
    }

    /// The place of a stage among all: later stages of a pipeline have larger ones.
    pub fn place(&self, pipeline: Option<&str>, stage: &str) -> Option<usize> {
        self.places.get(&pipeline)?.get(stage).copied()
    }

    /// Each stage that a deal was in, by its place, with the first entry and what followed.
    pub fn entries<'d>(&self, deal: &'d DealFacts) -> Vec<(usize, Timestamp, Next<'d>)> {
        let Some(places) = self.places.get(&deal.pipeline.as_deref()) else {
            return Vec::new();
        };
        let visits = deal.visits.iter();
        let visits: Vec<(usize, &str, Timestamp)> = visits
            .filter_map(|visit| {
                Some((*places.get(&*visit.stage)?, &*visit.stage, visit.entered_at))
            })
            .collect();
        let mut entries: Vec<(usize, Timestamp, Next)> = Vec::with_capacity(visits.len());
        let last = visits.last().map(|(place, ..)| *place);
        for (index, &(place, _, entered_at)) in visits.iter().enumerate() {
            if visits[..index]
                .iter()
                .any(|(earlier, ..)| *earlier == place)
            {
                continue;
            }
            let on = visits[index..].iter().find(|(later, ..)| *later > place);
            let next = match on {
                Some((_, stage, _)) => Next::On(stage),
                None if deal.is_won() => Next::Won,
                None if !deal.is_open() => Next::Lost,
                None if last == Some(place) => Next::StillThere,
                None => Next::Back,
            };
            entries.push((place, entered_at, next));
        }
        entries
    }
}

#[derive(Default)]
struct Tally<'a> {
    open_deals: usize,
    open_value: f64,
    open_expected_value: Option<f64>,
    open_days: Vec<f64>,
    days: Vec<f64>,
    entered: usize,
    won: usize,
    lost: usize,
    still_there: usize,
    moved_back: usize,
    closed: usize,
    won_in_the_end: usize,
    next: BTreeMap<&'a str, usize>,
}

/// The stages of the pipelines in scope in which deals are, or were in the period.
pub fn stage_flows(survey: &Survey, scope: &Scope, span: Span, now: Timestamp) -> Vec<StageFlow> {
    let course = Course::of(survey);
    let mut tallies: Vec<Tally> = Vec::new();
    tallies.resize_with(course.keys().len(), Tally::default);
    for deal in survey.within(scope) {
        count_present(deal, &course, &mut tallies, now);
        count_entries(deal, &course, &mut tallies, span);
        count_stays(deal, &course, &mut tallies, span);
    }
    let stages = course.keys().iter().zip(tallies);
    let flows = stages
        .filter(|(_, tally)| tally.open_deals > 0 || tally.entered > 0 || !tally.days.is_empty());
    flows.map(|(key, tally)| flow(key, tally)).collect()
}

fn count_present(deal: &DealFacts, course: &Course, tallies: &mut [Tally], now: Timestamp) {
    let Some(stage) = deal.stage.as_deref().filter(|_| deal.is_open()) else {
        return;
    };
    let Some(place) = course.place(deal.pipeline.as_deref(), stage) else {
        return;
    };
    let tally = &mut tallies[place];
    tally.open_deals += 1;
    tally.open_value += deal.base_amount.unwrap_or(0.0);
    if let Some(value) = deal.expected_value() {
        *tally.open_expected_value.get_or_insert(0.0) += value;
    }
    tally.open_days.extend(deal.days_in_stage(now));
}

fn count_entries<'a>(deal: &'a DealFacts, course: &Course, tallies: &mut [Tally<'a>], span: Span) {
    for (place, entered_at, next) in course.entries(deal) {
        if !span.holds(entered_at) {
            continue;
        }
        let tally = &mut tallies[place];
        tally.entered += 1;
        tally.closed += usize::from(!deal.is_open());
        tally.won_in_the_end += usize::from(deal.is_won());
        match next {
            Next::On(stage) => *tally.next.entry(stage).or_default() += 1,
            Next::Won => tally.won += 1,
            Next::Lost => tally.lost += 1,
            Next::StillThere => tally.still_there += 1,
            Next::Back => tally.moved_back += 1,
        }
    }
}

fn count_stays(deal: &DealFacts, course: &Course, tallies: &mut [Tally], span: Span) {
    for visit in &deal.visits {
        if let Some(left_at) = visit.left_at
            && span.holds(left_at)
            && let Some(place) = course.place(deal.pipeline.as_deref(), &visit.stage)
        {
            tallies[place].days.push(visit.days(left_at));
        }
    }
}

fn flow(key: &StageKey, mut tally: Tally) -> StageFlow {
    tally.open_days.sort_unstable_by(f64::total_cmp);
    tally.days.sort_unstable_by(f64::total_cmp);
    let went_on: usize = tally.next.values().sum();
    let mut next: Vec<NextStage> = (tally.next.into_iter())
        .map(|(stage, deals)| NextStage {
            stage: stage.to_owned(),
            deals,
        })
        .collect();
    next.sort_by(|a, b| b.deals.cmp(&a.deals).then_with(|| a.stage.cmp(&b.stage)));
    StageFlow {
        pipeline: key.0.as_deref().map(str::to_owned),
        stage: key.1.to_string(),
        open_deals: tally.open_deals,
        open_value: tally.open_value,
        open_expected_value: tally.open_expected_value,
        open_days: Quartiles::of(&tally.open_days),
        days: Quartiles::of(&tally.days),
        entered: tally.entered,
        went_on,
        won: tally.won,
        lost: tally.lost,
        still_there: tally.still_there,
        moved_back: tally.moved_back,
        conversion: share_of_some(went_on + tally.won, went_on + tally.won + tally.lost),
        won_in_the_end: share_of_some(tally.won_in_the_end, tally.closed),
        next,
    }
}

/// `None` of nothing.
pub fn share_of_some(hits: usize, of: usize) -> Option<Estimated> {
    (of > 0).then(|| share(hits, of))
}

/// Leads of the period, and what became of them.
pub fn prospects(survey: &Survey, scope: &Scope, span: Span) -> Prospects {
    let course = Course::of(survey);
    let lead_stages = &survey.settings.lead_stages;
    let named: BTreeSet<&str> = lead_stages.iter().map(String::as_str).collect();
    let (mut leads, mut converted, mut lost, mut came) = (0, 0, 0, 0);
    let created = survey
        .within(scope)
        .filter(|deal| deal.created_at.is_some_and(|at| span.holds(at)));
    for deal in created {
        let Some(first) = deal.visits.first() else {
            continue;
        };
        if !named.is_empty() && !named.contains(&*first.stage) {
            came += 1;
            continue;
        }
        leads += 1;
        let pipeline = deal.pipeline.as_deref();
        let began_at = course.place(pipeline, &first.stage);
        let is_beyond =
            |stage: &str| !named.contains(stage) && course.place(pipeline, stage) > began_at;
        let went_on = deal.visits.iter().any(|visit| is_beyond(&visit.stage));
        if went_on || deal.is_won() {
            converted += 1;
        } else if !deal.is_open() {
            lost += 1;
        }
    }
    Prospects {
        leads,
        converted,
        lost,
        waiting: leads - converted - lost,
        came_as_prospects: came,
        conversion: share_of_some(converted, converted + lost),
        lead_stages: lead_stages.clone(),
    }
}
