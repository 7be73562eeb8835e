//! What all insights ask of one deal, worked out once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use rust_decimal::prelude::ToPrimitive;

use super::InsightSettings;
use super::period::{Period, day_of};
use crate::domain::{AttributeValue, Currency, Deal, DealId, Exchange, Outcome, Snapshot};
use crate::scoring::{Grade, Scorer};

/// Activities that are older are counted by nobody.
const ACTIVITIES_KEPT: SignedDuration = SignedDuration::from_hours(24 * 90);
/// What a trend compares with.
const WEEK: SignedDuration = SignedDuration::from_hours(24 * 7);
/// What a falling probability is compared with.
const MONTH: SignedDuration = SignedDuration::from_hours(24 * 30);

/// A deal as insights see it. Texts are shared between deals.
#[derive(Debug, Clone, PartialEq)]
pub struct DealFacts {
    pub id: DealId,
    pub name: Option<Arc<str>>,
    pub company: Option<Arc<str>>,
    pub pipeline: Option<Arc<str>>,
    /// Of an open deal the present stage; of a closed one the stage that it ended in.
    pub stage: Option<Arc<str>>,
    pub owner: Option<Arc<str>>,
    pub team: Option<Arc<str>>,
    pub source: Option<Arc<str>>,
    pub industry: Option<Arc<str>>,
    pub outcome: Outcome,
    /// In its own currency.
    pub amount: Option<f64>,
    pub currency: Option<Currency>,
    /// In the base currency, at the rate of the day of scoring, or of closing.
    pub base_amount: Option<f64>,
    pub created_at: Option<Timestamp>,
    pub closed_at: Option<Timestamp>,
    pub expected_close_at: Option<Timestamp>,
    pub stage_entered_at: Option<Timestamp>,
    /// The stages gone through, each visit once, oldest first.
    pub visits: Vec<Visit>,
    /// Each time the expected close was moved to a later day, oldest first.
    pub pushes: Vec<Push>,
    pub last_activity_at: Option<Timestamp>,
    /// When something was done about the deal in the last 90 days, by us or by them, oldest first.
    pub activities: Vec<Timestamp>,
    /// Those of them that did not come from the other side.
    pub efforts: Vec<Timestamp>,
    /// Whether the CRM's own priority marks the deal as urgent.
    pub is_priority: bool,
    pub priority: Option<Arc<str>>,
    /// Of open deals, while there is a model.
    pub standing: Option<Standing>,
    /// What the present model would have said earlier.
    pub past: Past,
    /// What it would have said at the beginnings of the last four quarters, where the deal was open then;
    /// also of deals that are closed by now. Oldest first.
    pub quarters: Vec<QuarterStart>,
}

/// A stay in a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Visit {
    pub stage: Arc<str>,
    pub entered_at: Timestamp,
    /// When it was left for another one, or the deal closed.
    pub left_at: Option<Timestamp>,
}

impl Visit {
    /// How long the stay was, or has been until `now`.
    pub fn days(&self, now: Timestamp) -> f64 {
        days_between(self.entered_at, self.left_at.unwrap_or(now))
    }
}

/// The expected close moved to a later day.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Push {
    pub at: Timestamp,
    pub days: f64,
}

/// A deal's present score in short.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    pub win_probability: f64,
    /// The ends of the 90% interval.
    pub low: f64,
    pub high: f64,
    pub score: u8,
    pub grade: Grade,
    /// In the base currency.
    pub expected_value: Option<f64>,
}

/// Win probabilities by the present model, of the deal as it was; `None` where it was not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Past {
    pub week_ago: Option<f64>,
    /// In the base currency, at today's rate.
    pub expected_value_week_ago: Option<f64>,
    pub month_ago: Option<f64>,
    /// When the present stage was entered.
    pub at_stage_entry: Option<f64>,
    /// Just before the expected close was last pushed.
    pub before_last_push: Option<f64>,
}

/// An open deal as it was when a quarter began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuarterStart {
    pub at: Timestamp,
    /// By the present model, which may have learned from how the deal ended.
    pub win_probability: f64,
    /// The amount of then, in the base currency at the rate of then.
    pub base_amount: Option<f64>,
}

/// Texts that many deals have in common, each kept once.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashSet<Arc<str>>>);

impl Names {
    pub fn get(&self, text: &str) -> Arc<str> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(text) {
            return name.clone();
        }
        let name: Arc<str> = text.into();
        names.insert(name.clone());
        name
    }
}

/// What deals are looked at with.
#[derive(Debug, Clone, Copy)]
pub struct Lens<'a> {
    /// The champion; without one there are no probabilities.
    pub scorer: Option<&'a Scorer>,
    pub exchange: &'a Exchange,
    pub settings: &'a InsightSettings,
    pub names: &'a Names,
    pub now: Timestamp,
}

impl DealFacts {
    /// `standing` and the moment at which it was worked out, which the amount's rate is of.
    pub fn of(deal: &Deal, standing: Option<(Standing, Timestamp)>, lens: &Lens) -> Self {
        let known = Snapshot::at(deal, deal.closed_at.unwrap_or(lens.now));
        let shared = |text: &Option<String>| text.as_deref().map(|text| lens.names.get(text));
        let attribute = |names: &[String]| attribute(deal, names).map(|text| lens.names.get(&text));
        let owner = shared(&deal.owner);
        let settings = lens.settings;
        let team = attribute(&settings.team).or_else(|| {
            let team = settings.team_of(owner.as_deref()?)?;
            Some(lens.names.get(team))
        });
        let (amount, currency) = match deal.is_open() {
            true => (known.amount(), known.currency()),
            false => (deal.amount, deal.currency),
        };
        let valued_at = match (deal.is_open(), &standing) {
            (true, Some((_, scored_at))) => *scored_at,
            _ => deal.closed_at.unwrap_or(lens.now),
        };
        let day = day_of(valued_at);
        let base_amount = amount.and_then(|a| lens.exchange.to_base(a, currency, day));
        let recent = recent_activities(&known);
        let pushes = pushes(deal, known.moment());
        let past = match (lens.scorer, deal.is_open()) {
            (Some(scorer), true) => past(deal, scorer, &pushes, base_amount, lens.now),
            _ => Past::default(),
        };
        Self {
            id: deal.id.clone(),
            name: deal.name.as_deref().map(Arc::from),
            company: attribute(&settings.company),
            pipeline: shared(&deal.pipeline),
            stage: shared(&deal.stage),
            team,
            source: attribute(&settings.source),
            industry: attribute(&settings.industry),
            outcome: deal.outcome,
            amount: amount.and_then(|a| a.to_f64()),
            currency,
            base_amount,
            created_at: deal.created_at,
            closed_at: deal.closed_at,
            expected_close_at: known.expected_close_at(),
            stage_entered_at: known.stage_entered_at(),
            visits: (deal.visits(known.moment()).into_iter())
                .map(|visit| Visit {
                    stage: lens.names.get(visit.stage),
                    entered_at: visit.entered_at,
                    left_at: visit.left_at,
                })
                .collect(),
            pushes,
            last_activity_at: known.activities().last().map(|activity| activity.at),
            activities: recent.iter().map(|activity| activity.at).collect(),
            efforts: (recent.iter())
                .filter(|activity| activity.direction.as_deref() != Some("inbound"))
                .map(|activity| activity.at)
                .collect(),
            is_priority: (deal.priority.as_deref())
                .is_some_and(|priority| settings.is_high_priority(priority)),
            priority: shared(&deal.priority),
            standing: standing.map(|(standing, _)| standing),
            past,
            quarters: quarters(deal, lens),
            owner,
        }
    }

    pub fn is_open(&self) -> bool {
        self.outcome == Outcome::Open
    }

    pub fn is_won(&self) -> bool {
        self.outcome == Outcome::Won
    }

    pub fn win_probability(&self) -> Option<f64> {
        Some(self.standing?.win_probability)
    }

    /// Win probability times amount, in the base currency.
    pub fn expected_value(&self) -> Option<f64> {
        self.standing?.expected_value
    }

    pub fn days_in_stage(&self, now: Timestamp) -> Option<f64> {
        Some(days_between(self.stage_entered_at?, now))
    }

    /// Since something was last done about it; since its creation where nothing was.
    pub fn days_since_touch(&self, now: Timestamp) -> Option<f64> {
        Some(days_between(
            self.last_activity_at.or(self.created_at)?,
            now,
        ))
    }

    /// From creation to close.
    pub fn cycle_days(&self) -> Option<f64> {
        Some(days_between(self.created_at?, self.closed_at?))
    }

    /// By how many days the expected close lies in the past; `None` if it does not.
    pub fn days_overdue(&self, now: Timestamp) -> Option<f64> {
        let days = days_between(self.expected_close_at?, now);
        (days > 0.0).then_some(days)
    }
}

/// The moment so many days before another.
pub fn days_ago(at: Timestamp, days: i64) -> Timestamp {
    let ago = at.saturating_sub(SignedDuration::from_hours(24 * days));
    ago.unwrap_or(Timestamp::MIN)
}

/// Days from one moment to another, never negative: clocks of CRMs differ.
pub fn days_between(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64().max(0.0) / 86_400.0
}

/// The first of the attributes that the deal has, as text.
fn attribute(deal: &Deal, names: &[String]) -> Option<String> {
    let mut values = names.iter().filter_map(|wanted| {
        let wanted = plain(wanted);
        let mut attributes = deal.attributes.iter();
        let (_, value) = attributes.find(|(name, _)| plain(name).eq(wanted.clone()))?;
        match value {
            AttributeValue::Text(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
            AttributeValue::Number(number) => Some(number.to_string()),
            AttributeValue::Bool(flag) => Some(flag.to_string()),
            AttributeValue::Text(_) | AttributeValue::Null => None,
        }
    });
    values.next()
}

/// A name without capitals, blanks and punctuation: `Lead Source` and `lead_source` are one.
fn plain(name: &str) -> impl Iterator<Item = char> + Clone {
    let letters = name.chars().filter(|c| c.is_alphanumeric());
    letters.flat_map(char::to_lowercase)
}

fn recent_activities<'a>(known: &Snapshot<'a>) -> &'a [crate::domain::Activity] {
    let activities = known.activities();
    let since = known.moment().saturating_sub(ACTIVITIES_KEPT);
    let since = since.unwrap_or(Timestamp::MIN);
    let first = activities.partition_point(|activity| activity.at < since);
    &activities[first..]
}

fn pushes(deal: &Deal, until: Timestamp) -> Vec<Push> {
    let changes = deal.history.iter().filter(|change| change.at <= until);
    let dates: Vec<(Timestamp, Timestamp)> = changes
        .filter(|change| change.field == "expected_close_at")
        .filter_map(|change| match &change.value {
            AttributeValue::Text(text) => Some((change.at, text.parse().ok()?)),
            _ => None,
        })
        .collect();
    let moves = dates.windows(2).map(|pair| Push {
        at: pair[1].0,
        days: days_between(pair[0].1, pair[1].1),
    });
    moves.filter(|push| push.days > 0.0).collect()
}

/// How many quarters' forecasts are looked at again.
pub(super) const QUARTERS: usize = 4;

fn quarters(deal: &Deal, lens: &Lens) -> Vec<QuarterStart> {
    let (Some(scorer), Some(created_at)) = (lens.scorer, deal.created_at) else {
        return Vec::new();
    };
    let starts = Period::quarters_before(day_of(lens.now), QUARTERS).into_iter();
    let was_open = |at: &Timestamp| {
        created_at < *at && deal.closed_at.is_none_or(|closed_at| closed_at >= *at)
    };
    let starts = starts.rev().map(|quarter| quarter.span().begin);
    let known = starts.filter(was_open).map(|at| {
        let then = Snapshot::at(deal, at);
        let base = |amount| lens.exchange.to_base(amount, then.currency(), day_of(at));
        QuarterStart {
            at,
            win_probability: scorer.win_probability(&then).get(),
            base_amount: then.amount().and_then(base),
        }
    });
    known.collect()
}

fn past(
    deal: &Deal,
    scorer: &Scorer,
    pushes: &[Push],
    base_amount: Option<f64>,
    now: Timestamp,
) -> Past {
    let then = |at: Timestamp| {
        let was_there = deal.created_at.is_some_and(|created_at| created_at <= at);
        was_there.then(|| scorer.win_probability(&Snapshot::at(deal, at)).get())
    };
    let ago = |duration| now.saturating_sub(duration).ok().and_then(then);
    let week_ago = ago(WEEK);
    let last_push = pushes.last().map(|push| push.at);
    let before = |at: Timestamp| at.saturating_sub(SignedDuration::from_micros(1)).ok();
    let known = Snapshot::at(deal, now);
    // The amount of then, at the rate that today's has.
    let rate = known.amount().and_then(|amount| {
        let amount = amount.to_f64()?;
        (amount != 0.0).then_some(base_amount? / amount)
    });
    let amount_week_ago = (now.saturating_sub(WEEK).ok())
        .and_then(|at| Snapshot::at(deal, at).amount())
        .and_then(|amount| Some(amount.to_f64()? * rate?));
    Past {
        week_ago,
        expected_value_week_ago: week_ago
            .zip(amount_week_ago)
            .map(|(probability, amount)| probability * amount),
        month_ago: ago(MONTH),
        at_stage_entry: known.stage_entered_at().and_then(then),
        before_last_push: last_push.and_then(before).and_then(then),
    }
}
