//! All deals of a moment, and what past deals say about each stage.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::facts::DealFacts;
use super::stats::{Counts, Quartiles, quantile};
use super::{InsightSettings, Visit};
use crate::domain::{Currency, DealId};

/// Scopes whose deals are remembered: what a board asks for, and some others.
const PICKED_MAX: usize = 12;

/// All deals as of a moment, scored by one model.
#[derive(Debug)]
pub struct Survey {
    /// By id.
    deals: Arc<[Arc<DealFacts>]>,
    /// When the past of the deals was last looked at.
    pub as_of: Timestamp,
    /// The champion; `None` while there is none.
    pub model_version: Option<String>,
    pub base_currency: Currency,
    pub settings: Arc<InsightSettings>,
    /// Longest days in a stage where past deals do not say.
    pub stalled_days: u32,
    stages: OnceLock<BTreeMap<StageKey, StageBenchmark>>,
    /// The same by the stage's name, which few pipelines share: asked for each deal.
    by_name: OnceLock<ByName>,
    named: OnceLock<Named>,
    /// The deals in scope, for the scopes that were asked for last.
    picked: Mutex<Vec<(Scope, Arc<Picked>)>>,
}

/// Places of deals among all, by id.
#[derive(Debug, Default)]
struct Picked {
    all: Vec<u32>,
    open: Vec<u32>,
    closed: Vec<u32>,
}

/// By what deals can be told apart: every value that a deal has, in order.
#[derive(Debug, Default)]
pub struct Named {
    pub pipelines: BTreeSet<Arc<str>>,
    pub owners: BTreeSet<Arc<str>>,
    pub teams: BTreeSet<Arc<str>>,
    pub sources: BTreeSet<Arc<str>>,
}

/// A stage of a pipeline.
pub type StageKey = (Option<Arc<str>>, Arc<str>);

/// The stages of a name, with their pipelines.
type ByName = Counts<Arc<str>, Vec<(Option<Arc<str>>, StageBenchmark)>>;

/// Which deals are looked at; `None` takes all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Scope {
    pub pipeline: Option<String>,
    pub owner: Option<String>,
    pub team: Option<String>,
    pub source: Option<String>,
}

impl Scope {
    /// The same deals, whoever owns them.
    pub fn of_team(&self) -> Self {
        Self {
            owner: None,
            ..self.clone()
        }
    }

    /// Whether this owner is asked for, or all are.
    pub fn asks_for(&self, owner: &str) -> bool {
        self.owner.as_deref().is_none_or(|wanted| wanted == owner)
    }

    pub fn holds(&self, deal: &DealFacts) -> bool {
        let is = |wanted: &Option<String>, value: &Option<Arc<str>>| {
            wanted
                .as_deref()
                .is_none_or(|w| value.as_deref() == Some(w))
        };
        is(&self.pipeline, &deal.pipeline)
            && is(&self.owner, &deal.owner)
            && is(&self.team, &deal.team)
            && is(&self.source, &deal.source)
    }
}

/// Why a figure is missing, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Note {
    /// Stable: for programs.
    pub code: String,
    pub detail: String,
}

impl Note {
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            detail: detail.into(),
        }
    }
}

/// Which deal a line of an insight is about.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DealRef {
    pub id: String,
    pub name: Option<String>,
    pub company: Option<String>,
    pub owner: Option<String>,
    pub pipeline: Option<String>,
    pub stage: Option<String>,
}

impl From<&DealFacts> for DealRef {
    fn from(deal: &DealFacts) -> Self {
        let text = |value: &Option<Arc<str>>| value.as_deref().map(str::to_owned);
        Self {
            id: deal.id.to_string(),
            name: text(&deal.name),
            company: text(&deal.company),
            owner: text(&deal.owner),
            pipeline: text(&deal.pipeline),
            stage: text(&deal.stage),
        }
    }
}

/// What closed deals say about the time in a stage.
///
/// A deal counts once for each stage that it was in, with its longest stay there.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StageBenchmark {
    pub pipeline: Option<String>,
    pub stage: String,
    /// Days that deals spent in the stage that were won in the end.
    pub won_days: Option<Quartiles>,
    pub lost_days: Option<Quartiles>,
    /// A deal that is longer than this in the stage has stalled.
    pub limit_days: f64,
    /// Where the limit comes from.
    pub limit_from: LimitFrom,
    /// The age beyond which a smaller share than `insight.cutoff_win_share` was ever won, if deals tell.
    pub cutoff_days: Option<f64>,
    /// Deals that ended and had stayed beyond the cut-off, and how many of those were won.
    pub beyond_cutoff: usize,
    pub won_beyond_cutoff: usize,
    /// How many stages deals have gone through before it, on average.
    #[serde(skip)]
    pub place: f64,
}

/// How long a deal may be in a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct StageLimit {
    pub pipeline: Option<String>,
    pub stage: String,
    pub days: f64,
}

/// Where the limit of days in a stage comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitFrom {
    /// The quantile `insight.stalled_quantile` of the days that won deals spent there.
    WonDeals,
    /// The setting `stalled_days`: too few deals of this stage were won.
    Setting,
}

impl Survey {
    /// `deals` in any order.
    pub fn new(
        mut deals: Vec<Arc<DealFacts>>,
        as_of: Timestamp,
        model_version: Option<String>,
        base_currency: Currency,
        settings: Arc<InsightSettings>,
        stalled_days: u32,
    ) -> Self {
        deals.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Self {
            deals: deals.into(),
            as_of,
            model_version,
            base_currency,
            settings,
            stalled_days,
            stages: OnceLock::new(),
            by_name: OnceLock::new(),
            named: OnceLock::new(),
            picked: Mutex::default(),
        }
    }

    /// The same with other facts about some deals: `changed` in place of what was of those `touched`.
    pub fn amended(&self, changed: Vec<DealFacts>, touched: &[DealId]) -> Self {
        let mut next: BTreeMap<DealId, Option<Arc<DealFacts>>> =
            touched.iter().map(|id| (id.clone(), None)).collect();
        next.extend((changed.into_iter()).map(|deal| (deal.id.clone(), Some(Arc::new(deal)))));
        let stages = self.stages_after(&next);
        let kept = self
            .deals
            .iter()
            .filter(|deal| !next.contains_key(&deal.id));
        let deals: Vec<_> = kept
            .cloned()
            .chain(next.values().flatten().cloned())
            .collect();
        let amended = Self::new(
            deals,
            self.as_of,
            self.model_version.clone(),
            self.base_currency,
            self.settings.clone(),
            self.stalled_days,
        );
        Self {
            stages: stages.map(OnceLock::from).unwrap_or_default(),
            ..amended
        }
    }

    /// What is known of the stages, if deals that are `next` in place of what was tell nothing new: they
    /// were open and are, in stages that are known.
    fn stages_after(
        &self,
        next: &BTreeMap<DealId, Option<Arc<DealFacts>>>,
    ) -> Option<BTreeMap<StageKey, StageBenchmark>> {
        let stages = self.stages.get()?;
        let is_known = |deal: &DealFacts| {
            let stage = deal
                .stage
                .clone()
                .map(|stage| (deal.pipeline.clone(), stage));
            stage.is_none_or(|stage| stages.contains_key(&stage))
        };
        let tells_nothing = |(id, deal): (&DealId, &Option<Arc<DealFacts>>)| {
            self.deal(id).is_none_or(|was| was.is_open())
                && deal
                    .as_ref()
                    .is_none_or(|deal| deal.is_open() && is_known(deal))
        };
        next.iter().all(tells_nothing).then(|| stages.clone())
    }

    /// What keeps figures away, and what to do about it.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.model_version.is_none() {
            notes.push(Note::new(
                "no_model",
                "no model is active, so nothing has a probability: train one (`dealrank train`, or POST /v1/models)",
            ));
        }
        if self.deals.is_empty() {
            notes.push(Note::new(
                "no_deals",
                "there are no deals yet: import some (`dealrank import`, or POST /v1/imports)",
            ));
        }
        notes
    }

    /// How many deals are not what they were among `other` deals, by id, or not in both.
    pub fn differences(&self, other: &[Arc<DealFacts>]) -> usize {
        let (mut mine, mut theirs) = (self.deals.iter().peekable(), other.iter().peekable());
        let mut count = 0;
        while let (Some(a), Some(b)) = (mine.peek(), theirs.peek()) {
            let order = a.id.cmp(&b.id);
            count += usize::from(order.is_ne() || !Arc::ptr_eq(a, b));
            if order.is_le() {
                mine.next();
            }
            if order.is_ge() {
                theirs.next();
            }
        }
        count + mine.count() + theirs.count()
    }

    /// All deals, by id.
    pub fn deals(&self) -> &Arc<[Arc<DealFacts>]> {
        &self.deals
    }

    pub fn deal(&self, id: &DealId) -> Option<&Arc<DealFacts>> {
        let place = self.deals.binary_search_by(|deal| deal.id.cmp(id)).ok()?;
        self.deals.get(place)
    }

    pub fn within<'a>(&'a self, scope: &Scope) -> impl Iterator<Item = &'a DealFacts> + use<'a> {
        self.each(scope, |picked| &picked.all)
    }

    pub fn open<'a>(&'a self, scope: &Scope) -> impl Iterator<Item = &'a DealFacts> + use<'a> {
        self.each(scope, |picked| &picked.open)
    }

    pub fn closed<'a>(&'a self, scope: &Scope) -> impl Iterator<Item = &'a DealFacts> + use<'a> {
        self.each(scope, |picked| &picked.closed)
    }

    fn each<'a>(
        &'a self,
        scope: &Scope,
        which: fn(&Picked) -> &[u32],
    ) -> impl Iterator<Item = &'a DealFacts> + use<'a> {
        let picked = self.picked(scope);
        (0..which(&picked).len()).map(move |place| &*self.deals[which(&picked)[place] as usize])
    }

    /// Which deals are in scope. A board goes through them dozens of times: they are looked up once.
    fn picked(&self, scope: &Scope) -> Arc<Picked> {
        let known = || self.picked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, picked)) = known().iter().find(|(known, _)| known == scope) {
            return picked.clone();
        }
        let mut picked = Picked::default();
        for (place, deal) in (0..).zip(self.deals.iter()) {
            if !scope.holds(deal) {
                continue;
            }
            picked.all.push(place);
            match deal.is_open() {
                true => picked.open.push(place),
                false => picked.closed.push(place),
            }
        }
        let picked = Arc::new(picked);
        let mut known = known();
        known.retain(|(known, _)| known != scope);
        if known.len() == PICKED_MAX {
            known.remove(0);
        }
        known.push((scope.clone(), picked.clone()));
        picked
    }

    /// The pipelines, owners, teams and sources that occur.
    pub fn named(&self) -> &Named {
        self.named.get_or_init(|| {
            let mut named = Named::default();
            for deal in self.deals.iter() {
                for (names, name) in [
                    (&mut named.pipelines, &deal.pipeline),
                    (&mut named.owners, &deal.owner),
                    (&mut named.teams, &deal.team),
                    (&mut named.sources, &deal.source),
                ] {
                    if let Some(name) = name.as_ref().filter(|name| !names.contains(*name)) {
                        names.insert(name.clone());
                    }
                }
            }
            named
        })
    }

    /// Every stage that a deal is or was in, by pipeline and name.
    pub fn stages(&self) -> &BTreeMap<StageKey, StageBenchmark> {
        self.stages.get_or_init(|| benchmarks(self))
    }

    /// The stages by pipeline, and in each as deals go through them.
    pub fn stages_in_order(&self) -> Vec<(&StageKey, &StageBenchmark)> {
        let mut stages: Vec<_> = self.stages().iter().collect();
        stages.sort_by(|(a, left), (b, right)| {
            let by_place = left.place.total_cmp(&right.place);
            a.0.cmp(&b.0).then(by_place).then_with(|| a.1.cmp(&b.1))
        });
        stages
    }

    /// What is known of the stage that a deal is in.
    pub fn stage_of(&self, deal: &DealFacts) -> Option<&StageBenchmark> {
        let by_name = self.by_name.get_or_init(|| {
            let mut by_name = ByName::default();
            for ((pipeline, stage), benchmark) in self.stages() {
                let named = by_name.entry(stage.clone()).or_default();
                named.push((pipeline.clone(), benchmark.clone()));
            }
            by_name
        });
        let named = by_name.get(deal.stage.as_deref()?)?;
        let own = named
            .iter()
            .find(|(pipeline, _)| *pipeline == deal.pipeline);
        own.map(|(_, benchmark)| benchmark)
    }

    /// The limit of each stage.
    pub fn limits(&self) -> Vec<StageLimit> {
        let limit = |stage: &StageBenchmark| StageLimit {
            pipeline: stage.pipeline.clone(),
            stage: stage.stage.clone(),
            days: stage.limit_days,
        };
        self.stages().values().map(limit).collect()
    }

    /// Whether an open deal is longer in its stage than it should be.
    pub fn is_stalled(&self, deal: &DealFacts, now: Timestamp) -> bool {
        let (days, stage) = (deal.days_in_stage(now), self.stage_of(deal));
        let limit = stage.map_or(f64::from(self.stalled_days), |stage| stage.limit_days);
        deal.is_open() && days.is_some_and(|days| days > limit)
    }
}

/// Longest stays in a stage of deals that ended.
#[derive(Debug, Default)]
struct Stays {
    won: Vec<f64>,
    lost: Vec<f64>,
    /// How many visits there were, and how many came before each, in all.
    visits: usize,
    visits_before: usize,
}

fn benchmarks(survey: &Survey) -> BTreeMap<StageKey, StageBenchmark> {
    let mut stays: BTreeMap<StageKey, Stays> = BTreeMap::new();
    for deal in survey.deals.iter() {
        for (before, visit) in deal.visits.iter().enumerate() {
            let key = (deal.pipeline.clone(), visit.stage.clone());
            let stays = stays.entry(key).or_default();
            stays.visits += 1;
            stays.visits_before += before;
        }
        if let (true, Some(stage)) = (deal.is_open(), &deal.stage) {
            stays
                .entry((deal.pipeline.clone(), stage.clone()))
                .or_default();
        }
        if deal.is_open() {
            continue;
        }
        for (stage, days) in longest_stays(deal) {
            let stays = stays.entry((deal.pipeline.clone(), stage)).or_default();
            match deal.is_won() {
                true => stays.won.push(days),
                false => stays.lost.push(days),
            }
        }
    }
    let stages = stays.into_iter().map(|(key, stays)| {
        let benchmark = benchmark(&key, stays, survey);
        (key, benchmark)
    });
    stages.collect()
}

/// Of a closed deal, each stage with the longest stay in it, in days.
pub fn longest_stays(deal: &DealFacts) -> BTreeMap<Arc<str>, f64> {
    let mut longest: BTreeMap<Arc<str>, f64> = BTreeMap::new();
    for visit in &deal.visits {
        let Visit {
            stage,
            left_at: Some(left_at),
            ..
        } = visit
        else {
            continue;
        };
        let days = visit.days(*left_at);
        let most = longest.entry(stage.clone()).or_insert(days);
        *most = most.max(days);
    }
    longest
}

fn benchmark(key: &StageKey, mut stays: Stays, survey: &Survey) -> StageBenchmark {
    let settings = &survey.settings;
    stays.won.sort_unstable_by(f64::total_cmp);
    stays.lost.sort_unstable_by(f64::total_cmp);
    let is_told = stays.won.len() >= settings.stalled_won_deals_min.max(1);
    let limit = quantile(&stays.won, settings.stalled_quantile).filter(|_| is_told);
    let cutoff = cutoff(&stays, settings);
    StageBenchmark {
        pipeline: key.0.as_deref().map(str::to_owned),
        stage: key.1.to_string(),
        won_days: Quartiles::of(&stays.won),
        lost_days: Quartiles::of(&stays.lost),
        limit_days: limit.unwrap_or(f64::from(survey.stalled_days)),
        limit_from: match limit {
            Some(_) => LimitFrom::WonDeals,
            None => LimitFrom::Setting,
        },
        cutoff_days: cutoff.map(|cutoff| cutoff.days),
        beyond_cutoff: cutoff.map_or(0, |cutoff| cutoff.beyond),
        won_beyond_cutoff: cutoff.map_or(0, |cutoff| cutoff.won),
        place: stays.visits_before as f64 / stays.visits.max(1) as f64,
    }
}

#[derive(Debug, Clone, Copy)]
struct Cutoff {
    days: f64,
    beyond: usize,
    won: usize,
}

/// The fewest whole days after which, of at least as many deals as a limit needs, a smaller share than the
/// settings say was won.
fn cutoff(stays: &Stays, settings: &InsightSettings) -> Option<Cutoff> {
    let beyond = |sorted: &[f64], days: f64| sorted.len() - sorted.partition_point(|d| *d <= days);
    let last = stays
        .won
        .last()
        .copied()
        .unwrap_or(0.0)
        .max(*stays.lost.last()?);
    (0..=last.ceil() as u32).map(f64::from).find_map(|days| {
        let won = beyond(&stays.won, days);
        let all = won + beyond(&stays.lost, days);
        let is_rarely_won = (won as f64) < settings.cutoff_win_share * all as f64;
        (all >= settings.stalled_won_deals_min.max(1) && is_rarely_won).then_some(Cutoff {
            days,
            beyond: all,
            won,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples::{closed, deal, survey};
    use super::*;

    fn id(text: &str) -> DealId {
        DealId::new(text).unwrap()
    }

    #[test]
    fn an_amended_survey_is_the_one_of_its_deals() {
        let before = survey(vec![
            deal("a", 0.5, 100.0),
            deal("b", 0.5, 100.0),
            closed("w", true, &[("Proposal", 3.0)]),
        ]);
        before.stages();
        let after = before.amended(
            vec![deal("b", 0.7, 200.0), deal("c", 0.1, 10.0)],
            &[id("a"), id("b"), id("c")],
        );
        let ids: Vec<&str> = after.deals().iter().map(|deal| deal.id.as_str()).collect();
        assert_eq!(ids, ["b", "c", "w"]);
        assert_eq!(after.deal(&id("b")).unwrap().base_amount, Some(200.0));
        assert_eq!(after.deal(&id("a")), None);
        assert_eq!(after.stages(), before.stages());
        // a is gone, b another, c new; w is as it was.
        assert_eq!(after.differences(before.deals()), 3);
        assert_eq!(before.differences(after.deals()), 3);
        assert_eq!(before.differences(before.deals()), 0);
    }

    #[test]
    fn a_deal_that_closes_or_enters_a_new_stage_changes_what_is_known_of_stages() {
        let before = survey(vec![deal("a", 0.5, 100.0), deal("b", 0.5, 100.0)]);
        assert_eq!(before.stages().len(), 1);
        let won = closed("a", true, &[("Proposal", 3.0), ("Legal", 4.0)]);
        let after = before.amended(vec![won], &[id("a")]);
        let days: Vec<_> = after
            .stages()
            .values()
            .map(|s| s.won_days.map(|d| d.median))
            .collect();
        assert_eq!(days, [Some(4.0), Some(3.0)]);
        let mut moved = deal("b", 0.5, 100.0);
        moved.stage = Some("Demo".into());
        let after = before.amended(vec![moved], &[id("b")]);
        assert_eq!(after.stages().len(), 2);
    }
}
