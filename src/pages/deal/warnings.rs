//! What to know about a deal, in words.

use jiff::Timestamp;

use super::super::format::{Days, Points};
use super::super::words;
use crate::insight::slipping::FALL_MIN;
use crate::insight::survey::LimitFrom;
use crate::insight::{DealFacts, Survey};
use crate::scoring::Score;

/// Since so long nothing was done about a deal that it is said.
const QUIET_DAYS: f64 = 21.0;

/// Something to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caution {
    pub title: &'static str,
    pub detail: String,
    /// Whether somebody should act, or only take the figure with care.
    pub is_urgent: bool,
}

/// How long a deal is in its stage, against those that were won.
#[derive(Debug, Clone, PartialEq)]
pub struct Stay {
    pub stage: String,
    pub days: Days,
    /// In words.
    pub against: String,
    pub is_stalled: bool,
    limit: String,
}

pub fn stay(survey: &Survey, facts: &DealFacts, now: Timestamp) -> Option<Stay> {
    let days = facts.days_in_stage(now).filter(|_| facts.is_open())?;
    let benchmark = survey.stage_of(facts)?;
    let won = benchmark.won_days.as_ref();
    Some(Stay {
        stage: facts.stage.as_deref()?.to_owned(),
        days: Days(days),
        against: won.map_or_else(
            || "no deal that was won is known to have been here".into(),
            |won| format!("deals that were won took {}", range(won.lower, won.upper)),
        ),
        is_stalled: survey.is_stalled(facts, now),
        limit: match benchmark.limit_from {
            LimitFrom::WonDeals => format!(
                "{:.0}% of the deals that were won had left it within {}",
                100.0 * survey.settings.stalled_quantile,
                Days(benchmark.limit_days.round()).text()
            ),
            LimitFrom::Setting => format!(
                "the limit of the settings is {}, as few deals that were won tell",
                Days(benchmark.limit_days).text()
            ),
        },
    })
}

/// `9 to 20 days`.
pub fn range(lower: f64, upper: f64) -> String {
    let (lower, upper) = (lower.round(), upper.round());
    if lower == upper {
        return Days(lower).text();
    }
    format!("{lower:.0} to {}", Days(upper).text())
}

/// What asks for action first, then what the score says about itself.
pub fn cautions(
    score: Option<&Score>,
    facts: Option<&DealFacts>,
    stay: Option<&Stay>,
    now: Timestamp,
) -> Vec<Caution> {
    let urgent = |title, detail| Caution {
        title,
        detail,
        is_urgent: true,
    };
    let mut cautions = Vec::new();
    if let Some(stay) = stay.filter(|stay| stay.is_stalled) {
        let detail = format!("{} in {}; {}", stay.days.text(), stay.stage, stay.limit);
        cautions.push(urgent("Stalled", detail));
    }
    if let Some(facts) = facts.filter(|facts| facts.is_open()) {
        cautions.extend(of_dates(facts, now).map(|(title, detail)| urgent(title, detail)));
        cautions.extend(of_falls(facts).map(|(title, detail)| urgent(title, detail)));
    }
    let warnings = score.iter().flat_map(|score| &score.warnings);
    cautions.extend(warnings.map(|warning| {
        let (title, detail) = words::warning(warning);
        Caution {
            title,
            detail,
            is_urgent: false,
        }
    }));
    cautions
}

fn of_dates(facts: &DealFacts, now: Timestamp) -> impl Iterator<Item = (&'static str, String)> {
    let overdue = facts.days_overdue(now).map(|days| {
        let days = Days(days.floor()).text();
        ("Overdue", format!("was expected to close {days} ago"))
    });
    let pushed = (!facts.pushes.is_empty()).then(|| {
        let days: f64 = facts.pushes.iter().map(|push| push.days).sum();
        let times = words::counted(facts.pushes.len(), "time", "times");
        let detail = format!(
            "the close was moved {times}, by {} in all",
            Days(days.round()).text()
        );
        ("Pushed", detail)
    });
    let quiet = (facts.days_since_touch(now)).filter(|days| *days >= QUIET_DAYS);
    let quiet = quiet.map(|days| {
        let days = Days(days.floor()).text();
        ("Quiet", format!("nothing was done about it for {days}"))
    });
    [overdue, pushed, quiet].into_iter().flatten()
}

fn of_falls(facts: &DealFacts) -> Option<(&'static str, String)> {
    let present = facts.win_probability()?;
    if let Some(before) = facts
        .past
        .before_last_push
        .filter(|before| before - present >= FALL_MIN)
    {
        let detail = format!(
            "the win probability is {} points lower than before the close was last moved: look again at what they need",
            Points(before - present).text().trim_start_matches('+')
        );
        return Some(("Pushed but losing", detail));
    }
    let month_ago = facts.past.month_ago?;
    (month_ago - present >= FALL_MIN).then(|| {
        let fall = Points(month_ago - present).text();
        let detail = format!(
            "the win probability fell by {} points within 30 days",
            fall.trim_start_matches('+')
        );
        ("Falling", detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_days_has_its_unit_once() {
        assert_eq!(range(8.6, 20.2), "9 to 20 days");
        assert_eq!(range(0.6, 1.2), "1 day");
    }
}
