//! Where coaching helps. No order by anything but the name: a small sample is not a bad rep.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::beta::{Beta, prior};
use super::capacity::{Capacity, RepLoad, capacity};
use super::facts::{DealFacts, days_ago};
use super::flow::{Course, Next, share_of_some};
use super::period::{Period, Span, day_of, midnight};
use super::stats::{Counts, Estimated, Quartiles};
use super::survey::{Note, Scope, Survey};

/// What counts as recent when a slump is looked for, and what as before.
const RECENT_DAYS: i64 = 90;
const BEFORE_DAYS: i64 = 365;
/// Closed deals that both take, before anything is compared.
const RECENT_MIN: usize = 5;
const BEFORE_MIN: usize = 10;
/// What is believed of a rep's win rate before, and lately: the team's, counting as so many deals. Weak, so
/// that a change can show.
const SLUMP_PRIOR: f64 = 4.0;
/// In a team where nothing has changed, the chance that anybody is said to be in a slump.
const FALSE_ALARM: f64 = 0.05;
/// How sure it has to be that a rep converts less than the team, before a stage is suggested.
const FOCUS_CHANCE: f64 = 0.8;

/// The reps in scope, against their team: all reps of the same pipeline, team and source.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Reps {
    pub period: Period,
    pub filters: Scope,
    pub team: Team,
    /// A slump is said to be one with at least this probability: 1 - 0.05 / reps that are looked at.
    pub slump_threshold: f64,
    /// Lately, for slumps.
    pub recent: Period,
    /// What that is compared with.
    pub before: Period,
    /// Open deals at a time that are usual for reps who win, as in the coverage.
    pub usual_open_deals: Option<Quartiles>,
    /// By name.
    pub reps: Vec<Rep>,
    /// What keeps figures away; the answer has them beside.
    #[serde(skip)]
    pub notes: Vec<Note>,
}

/// All reps together.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Team {
    pub reps: usize,
    pub won: usize,
    pub lost: usize,
    pub win_rate: Option<Estimated>,
    /// As how many deals the team's rate counts for a rep: many where reps hardly differ.
    pub win_rate_weight: Option<f64>,
    /// By pipeline, in the order in which deals go through them.
    pub stages: Vec<TeamStage>,
}

/// A stage, by all reps.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct TeamStage {
    pub pipeline: Option<String>,
    pub stage: String,
    /// Of the deals that entered the stage in the period: those that went on or were won from it,
    pub converted: usize,
    /// and those that did or were lost.
    pub decided: usize,
    pub conversion: Option<Estimated>,
    /// As how many deals the team's conversion counts for a rep.
    pub weight: f64,
}

/// One rep.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Rep {
    pub owner: String,
    pub open_deals: usize,
    /// In the base currency; null while no open deal has a score and an amount.
    pub expected_value: Option<f64>,
    pub load: Option<RepLoad>,
    /// Closed in the period.
    pub won: usize,
    pub lost: usize,
    /// Drawn towards the team's.
    pub win_rate: Option<Estimated>,
    /// Null with too few closed deals lately or before.
    pub lately: Option<Lately>,
    /// The stages of the team's list in which the rep has or had deals.
    pub stages: Vec<RepStage>,
    /// Where the rep could gain the most; null where nothing stands out.
    pub focus: Option<Focus>,
}

/// The deals that closed lately against those before.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Lately {
    pub won: usize,
    pub lost: usize,
    pub win_rate: f64,
    pub won_before: usize,
    pub lost_before: usize,
    pub win_rate_before: f64,
    /// Probability that the rep's chances to win are lower than before.
    pub chance_lower: f64,
    /// Whether that is more than luck explains.
    pub is_slump: bool,
}

/// One rep in one stage.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RepStage {
    pub pipeline: Option<String>,
    pub stage: String,
    pub converted: usize,
    pub decided: usize,
    /// Drawn towards the team's.
    pub conversion: Estimated,
    /// Of all reps together.
    pub team_conversion: f64,
    /// Probability that the rep's conversion is lower than the team's.
    pub chance_below_team: f64,
    /// Open in this stage now.
    pub open_deals: usize,
    /// In the base currency.
    pub expected_value: f64,
    /// What these would be worth more if the rep converted as the team does; 0 if not less.
    pub gain: f64,
}

/// A stage worth talking about.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Focus {
    pub pipeline: Option<String>,
    pub stage: String,
    pub conversion: f64,
    pub team_conversion: f64,
    /// In the base currency.
    pub gain: f64,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    converted: usize,
    decided: usize,
    open_deals: usize,
    expected_value: f64,
}

#[derive(Clone, Copy, Default)]
struct Ends {
    won: usize,
    lost: usize,
}

impl Ends {
    fn add(&mut self, deal: &DealFacts) {
        if deal.is_won() {
            self.won += 1;
        } else {
            self.lost += 1;
        }
    }

    fn closed(&self) -> usize {
        self.won + self.lost
    }
}

#[derive(Default)]
struct Tally {
    open_deals: usize,
    expected_value: Option<f64>,
    ends: Ends,
    recent: Ends,
    before: Ends,
    /// By the place of the stage.
    cells: BTreeMap<usize, Cell>,
}

/// The moments that are told apart.
struct Spans {
    period: Span,
    recent: Span,
    before: Span,
}

/// What is believed of a rep's conversion in a stage before any of their deals is seen.
struct StagePrior {
    belief: Beta,
    weight: f64,
    /// The team's conversion.
    share: f64,
}

/// The reps in scope. The team they are compared with is the same whichever owner is asked for.
pub fn reps(survey: &Survey, scope: &Scope, period: Period, now: Timestamp) -> Reps {
    let team_scope = scope.of_team();
    let course = Course::of(survey);
    let recent = days_before(now, RECENT_DAYS);
    let before = days_before(recent.span().begin, BEFORE_DAYS);
    let spans = Spans {
        period: period.span(),
        recent: recent.span(),
        before: before.span(),
    };
    let tallies = tallies(survey, &team_scope, &course, &spans);
    let stages = stage_priors(&tallies);
    let team = team(&tallies, &course, &stages);
    let ends: Vec<(usize, usize)> = tallies
        .values()
        .map(|tally| (tally.ends.won, tally.ends.closed()))
        .collect();
    let compared = tallies.values().filter(|tally| is_compared(tally)).count();
    let slump_threshold = 1.0 - FALSE_ALARM / compared.max(1) as f64;
    let Capacity {
        usual, reps: loads, ..
    } = capacity(survey, scope, now);
    let loads: HashMap<String, RepLoad> = (loads.into_iter())
        .map(|load| (load.owner.clone(), load))
        .collect();
    let context = Context {
        course: &course,
        stages: &stages,
        win_rate: prior(&ends).map(|(belief, _)| belief),
        slump_threshold,
        loads: &loads,
    };
    let wanted = tallies.iter().filter(|(owner, tally)| {
        scope.asks_for(owner) && (tally.open_deals > 0 || tally.ends.closed() > 0)
    });
    let reps: Vec<Rep> = wanted
        .map(|(owner, tally)| context.rep(owner, tally))
        .collect();
    let mut notes = survey.notes();
    notes.extend(own_notes(&reps, compared));
    Reps {
        period,
        filters: scope.clone(),
        team,
        slump_threshold,
        recent,
        before,
        usual_open_deals: usual,
        reps,
        notes,
    }
}

/// The days before the day of a moment.
fn days_before(at: Timestamp, days: i64) -> Period {
    let day = day_of(at);
    let ago = |days: i64| day_of(days_ago(midnight(day), days));
    Period {
        from: ago(days),
        to: ago(1),
    }
}

fn tallies<'a>(
    survey: &'a Survey,
    scope: &Scope,
    course: &Course,
    spans: &Spans,
) -> BTreeMap<&'a str, Tally> {
    let mut tallies: Counts<&str, Tally> = Counts::default();
    for deal in survey.within(scope) {
        let Some(owner) = deal.owner.as_deref() else {
            continue;
        };
        let tally = tallies.entry(owner).or_default();
        tally.add_entries(deal, course, spans.period);
        match deal.closed_at.filter(|_| !deal.is_open()) {
            Some(closed_at) => tally.add_end(deal, closed_at, spans),
            None if deal.is_open() => tally.add_open(deal, course),
            None => {}
        }
    }
    tallies.into_iter().collect()
}

impl Tally {
    fn add_entries(&mut self, deal: &DealFacts, course: &Course, span: Span) {
        for (place, entered_at, next) in course.entries(deal) {
            if !span.holds(entered_at) || matches!(next, Next::StillThere | Next::Back) {
                continue;
            }
            let cell = self.cells.entry(place).or_default();
            cell.decided += 1;
            cell.converted += usize::from(next != Next::Lost);
        }
    }

    fn add_end(&mut self, deal: &DealFacts, closed_at: Timestamp, spans: &Spans) {
        if spans.period.holds(closed_at) {
            self.ends.add(deal);
        }
        if spans.recent.holds(closed_at) {
            self.recent.add(deal);
        } else if spans.before.holds(closed_at) {
            self.before.add(deal);
        }
    }

    fn add_open(&mut self, deal: &DealFacts, course: &Course) {
        self.open_deals += 1;
        let value = deal.expected_value();
        if let Some(value) = value {
            *self.expected_value.get_or_insert(0.0) += value;
        }
        let stage = deal.stage.as_deref();
        let place = stage.and_then(|stage| course.place(deal.pipeline.as_deref(), stage));
        if let Some(place) = place {
            let cell = self.cells.entry(place).or_default();
            cell.open_deals += 1;
            cell.expected_value += value.unwrap_or(0.0);
        }
    }
}

fn is_compared(tally: &Tally) -> bool {
    tally.recent.closed() >= RECENT_MIN && tally.before.closed() >= BEFORE_MIN
}

fn stage_priors(tallies: &BTreeMap<&str, Tally>) -> BTreeMap<usize, StagePrior> {
    let mut counts: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for tally in tallies.values() {
        for (place, cell) in &tally.cells {
            let counts = counts.entry(*place).or_default();
            counts.push((cell.converted, cell.decided));
        }
    }
    let priors = counts.into_iter().filter_map(|(place, counts)| {
        let (belief, weight) = prior(&counts)?;
        let (converted, decided) = sum(&counts);
        let prior = StagePrior {
            belief,
            weight,
            share: converted as f64 / decided as f64,
        };
        Some((place, prior))
    });
    priors.collect()
}

fn sum(counts: &[(usize, usize)]) -> (usize, usize) {
    counts
        .iter()
        .fold((0, 0), |(hits, all), (hit, of)| (hits + hit, all + of))
}

fn team(
    tallies: &BTreeMap<&str, Tally>,
    course: &Course,
    priors: &BTreeMap<usize, StagePrior>,
) -> Team {
    let ends: Vec<(usize, usize)> = tallies
        .values()
        .map(|tally| (tally.ends.won, tally.ends.closed()))
        .collect();
    let (won, closed) = sum(&ends);
    let stages = priors.iter().map(|(place, prior)| {
        let cells = tallies.values().filter_map(|tally| tally.cells.get(place));
        let counts: Vec<(usize, usize)> =
            cells.map(|cell| (cell.converted, cell.decided)).collect();
        let (converted, decided) = sum(&counts);
        let (pipeline, stage) = course.keys()[*place];
        TeamStage {
            pipeline: pipeline.as_deref().map(str::to_owned),
            stage: stage.to_string(),
            converted,
            decided,
            conversion: share_of_some(converted, decided),
            weight: prior.weight,
        }
    });
    Team {
        reps: tallies.len(),
        won,
        lost: closed - won,
        win_rate: share_of_some(won, closed),
        win_rate_weight: prior(&ends).map(|(_, weight)| weight),
        stages: stages.collect(),
    }
}

/// What one rep is seen against.
struct Context<'a> {
    course: &'a Course<'a>,
    stages: &'a BTreeMap<usize, StagePrior>,
    win_rate: Option<Beta>,
    slump_threshold: f64,
    loads: &'a HashMap<String, RepLoad>,
}

impl Context<'_> {
    fn rep(&self, owner: &str, tally: &Tally) -> Rep {
        let stages: Vec<RepStage> = tally
            .cells
            .iter()
            .filter_map(|(place, cell)| self.stage(*place, cell))
            .collect();
        let ends = &tally.ends;
        let win_rate = self
            .win_rate
            .map(|belief| belief.after(ends.won, ends.closed()));
        Rep {
            owner: owner.to_owned(),
            open_deals: tally.open_deals,
            expected_value: tally.expected_value,
            load: self.loads.get(owner).cloned(),
            won: ends.won,
            lost: ends.lost,
            win_rate: win_rate.map(|belief| belief.estimated()),
            lately: self.lately(tally),
            focus: focus(&stages),
            stages,
        }
    }

    fn stage(&self, place: usize, cell: &Cell) -> Option<RepStage> {
        let prior = self.stages.get(&place)?;
        let belief = prior.belief.after(cell.converted, cell.decided);
        let conversion = belief.estimated();
        let gain = cell.expected_value * (prior.share / conversion.value - 1.0);
        let (pipeline, stage) = self.course.keys()[place];
        Some(RepStage {
            pipeline: pipeline.as_deref().map(str::to_owned),
            stage: stage.to_string(),
            converted: cell.converted,
            decided: cell.decided,
            conversion,
            team_conversion: prior.share,
            chance_below_team: belief.below(prior.share),
            open_deals: cell.open_deals,
            expected_value: cell.expected_value,
            gain: gain.max(0.0),
        })
    }

    fn lately(&self, tally: &Tally) -> Option<Lately> {
        if !is_compared(tally) {
            return None;
        }
        let weak = Beta::with_mean(self.win_rate?.mean(), SLUMP_PRIOR);
        let belief = |ends: &Ends| weak.after(ends.won, ends.closed());
        let (recent, before) = (belief(&tally.recent), belief(&tally.before));
        let chance_lower = recent.is_below(&before);
        Some(Lately {
            won: tally.recent.won,
            lost: tally.recent.lost,
            win_rate: recent.mean(),
            won_before: tally.before.won,
            lost_before: tally.before.lost,
            win_rate_before: before.mean(),
            chance_lower,
            is_slump: chance_lower > self.slump_threshold,
        })
    }
}

fn focus(stages: &[RepStage]) -> Option<Focus> {
    let certain = stages
        .iter()
        .filter(|stage| stage.gain > 0.0 && stage.chance_below_team >= FOCUS_CHANCE);
    let largest = certain.max_by(|a, b| a.gain.total_cmp(&b.gain))?;
    Some(Focus {
        pipeline: largest.pipeline.clone(),
        stage: largest.stage.clone(),
        conversion: largest.conversion.value,
        team_conversion: largest.team_conversion,
        gain: largest.gain,
    })
}

fn own_notes(reps: &[Rep], compared: usize) -> Vec<Note> {
    let mut notes = Vec::new();
    if reps.is_empty() {
        notes.push(Note::new(
            "no_reps",
            "no deal in scope that is open or closed in the period has an owner: widen the filters, or import deals with their owner",
        ));
    } else if reps
        .iter()
        .all(|rep| rep.stages.iter().all(|stage| stage.decided == 0))
    {
        notes.push(Note::new(
            "no_stage_history",
            "no deal in scope says when it entered its stages in the period, so there is no conversion by stage: import deals with their history, or let the CRM's webhooks tell it from now on",
        ));
    }
    if compared == 0 && !reps.is_empty() {
        notes.push(Note::new(
            "too_few_to_compare",
            format!("nobody closed {RECENT_MIN} deals in the last {RECENT_DAYS} days and {BEFORE_MIN} in the year before them, so nobody is said to be better or worse than before"),
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::samples::{closed, days, now, open, survey, ten};

    fn year() -> Period {
        Period::last_twelve_months(now())
    }

    /// Deals that closed so many days ago after five days in Demo, the first `won` of them won.
    fn closings(owner: &str, won: usize, lost: usize, days_ago: f64) -> Vec<DealFacts> {
        let deal = |index: usize| {
            let id = format!("{owner} {days_ago} {index}");
            let mut deal = closed(&id, index < won, &[("Demo", 5.0)]);
            let shift = days(days_ago - 10.0);
            deal.owner = Some(owner.into());
            deal.closed_at = deal.closed_at.map(|at| at - shift);
            deal.created_at = deal.created_at.map(|at| at - shift);
            for visit in &mut deal.visits {
                visit.entered_at -= shift;
                visit.left_at = visit.left_at.map(|at| at - shift);
            }
            deal
        };
        (0..won + lost).map(deal).collect()
    }

    #[test]
    fn ten_deals_by_stage_and_rep() {
        let found = reps(&survey(ten()), &Scope::default(), year(), now());
        let [ann, bob] = found.reps.as_slice() else {
            panic!("{:?}", found.reps);
        };
        assert_eq!(
            (&*ann.owner, ann.open_deals, ann.won, ann.lost),
            ("Ann", 2, 2, 1)
        );
        assert_eq!(
            (&*bob.owner, bob.open_deals, bob.won, bob.lost),
            ("Bob", 2, 1, 2)
        );
        assert_eq!(
            (ann.expected_value, bob.expected_value),
            (Some(1000.0), Some(3000.0))
        );
        // Lead: of Ann's decided four (w1, w3, l1, o2) three went on, of Bob's five (w2, l2, l3, o3, o4) five.
        let stages: Vec<(usize, usize)> = (found.team.stages.iter())
            .map(|stage| (stage.converted, stage.decided))
            .collect();
        assert_eq!(stages, [(8, 9), (4, 6), (2, 2)]);
        let leads: Vec<(usize, usize)> = [ann, bob]
            .iter()
            .map(|rep| (rep.stages[0].converted, rep.stages[0].decided))
            .collect();
        assert_eq!(leads, [(3, 4), (5, 5)]);
        // Between 5/36, within 3/28, typical 40/9: r = 1/16, weight 15. So Ann is at (8.5 / 10 * 15 + 3) / 19.
        let lead = &ann.stages[0];
        assert!((found.team.stages[0].weight - 15.0).abs() < 1e-9);
        assert!((lead.conversion.value - 15.75 / 19.0).abs() < 1e-12);
        let gain = 200.0 * ((8.0 / 9.0) / (15.75 / 19.0) - 1.0);
        assert!((lead.gain - gain).abs() < 1e-9, "{lead:?}");
        assert_eq!(ann.lately, None);
    }

    #[test]
    fn a_new_rep_is_not_bad_and_a_slump_has_to_beat_luck() {
        let team = [
            closings("Ann", 20, 20, 200.0),
            closings("Ann", 8, 8, 20.0),
            closings("Bob", 20, 20, 200.0),
            closings("Bob", 5, 8, 20.0),
            closings("Cem", 30, 10, 200.0),
            closings("Cem", 0, 16, 20.0),
            closings("Dee", 1, 5, 20.0),
        ];
        let found = reps(&survey(team.concat()), &Scope::default(), year(), now());
        let slump = |rep: &Rep| rep.lately.as_ref().map(|lately| lately.is_slump);
        let slumps: Vec<Option<bool>> = found.reps.iter().map(slump).collect();
        // Bob's 5 of 13 after 20 of 40 may be luck, Cem's 0 of 16 after 30 of 40 is not, and of Dee nothing is
        // known from before.
        assert_eq!(slumps, [Some(false), Some(false), Some(true), None]);
        assert!((found.slump_threshold - (1.0 - 0.05 / 3.0)).abs() < 1e-12);
        let dee = found.reps[3].win_rate.unwrap();
        let team_rate = found.team.win_rate.unwrap().value;
        assert!(
            dee.high > team_rate && dee.value > 1.0 / 6.0 + 0.1,
            "{dee:?}"
        );
    }

    #[test]
    fn where_a_rep_lags_and_much_waits_there_is_most_to_gain() {
        let mut team = [
            closings("Ann", 40, 10, 100.0),
            closings("Bob", 10, 40, 100.0),
            closings("Cem", 40, 10, 100.0),
        ]
        .concat();
        for (id, owner) in [("a", "Ann"), ("b", "Bob")] {
            let mut deal = open(id, 0.5, 1000.0, &[("Demo", 3.0)]);
            deal.owner = Some(owner.into());
            team.push(deal);
        }
        let found = reps(&survey(team), &Scope::default(), year(), now());
        assert_eq!(found.reps[0].focus, None);
        let focus = found.reps[1].focus.as_ref().unwrap();
        assert_eq!((&*focus.stage, focus.team_conversion), ("Demo", 0.6));
        let more = 500.0 * (0.6 / focus.conversion - 1.0);
        assert!(
            (focus.gain - more).abs() < 1e-9 && focus.gain > 300.0,
            "{focus:?}"
        );
        let bob = Scope {
            owner: Some("Bob".into()),
            ..Scope::default()
        };
        let alone = reps(&survey(Vec::new()), &bob, year(), now());
        assert!(alone.reps.is_empty() && alone.notes.iter().any(|note| note.code == "no_reps"));
    }
}
