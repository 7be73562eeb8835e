//! What happened to a deal, and what that did to its probability.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use super::super::charts::history::{History, Said, history};
use super::super::format::{Day, Html, Moment};
use super::super::words;
use crate::domain::{AttributeValue, Deal, Snapshot};
use crate::scoring::{Score, Scorer};
use crate::store::LedgerEntry;

/// Moments at which the present model looks at the deal as it was.
const LOOKS_MAX: usize = 240;
/// Between them at most; time alone moves a probability too.
const LOOK_EVERY: SignedDuration = SignedDuration::from_hours(24 * 3);

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub at: Moment,
    /// `Call`, `Stage`, `Created`.
    pub kind: String,
    pub text: String,
}

/// All that is dated about a deal, newest first.
pub fn entries(deal: &Deal) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (index, change) in deal.history.iter().enumerate() {
        let before = deal.history[..index].iter().rev();
        let before = before
            .filter(|b| b.field == change.field)
            .map(|b| &b.value)
            .next();
        let after = shown(&change.field, &change.value);
        entries.push(Entry {
            at: Moment(change.at),
            kind: words::name(field_name(&change.field)),
            text: match before {
                Some(before) if *before != change.value => {
                    format!("{after}, was {}", shown(&change.field, before))
                }
                _ => after,
            },
        });
    }
    entries.extend(deal.activities.iter().map(|activity| {
        let details = [&activity.direction, &activity.outcome];
        let details = details
            .into_iter()
            .flatten()
            .map(|text| text.replace('_', " "));
        Entry {
            at: Moment(activity.at),
            kind: words::name(&activity.kind),
            text: details.collect::<Vec<_>>().join(", "),
        }
    }));
    let plain = |at: Option<Timestamp>, kind: &str| {
        at.map(|at| Entry {
            at: Moment(at),
            kind: kind.into(),
            text: String::new(),
        })
    };
    entries.extend(plain(
        deal.closed_at.filter(|_| !deal.is_open()),
        match deal.outcome.as_str() {
            "won" => "Won",
            _ => "Lost",
        },
    ));
    // What was known from the beginning stands above it.
    let created = plain(deal.created_at, "Created");
    entries.extend(created);
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.at.0));
    entries
}

fn field_name(field: &str) -> &str {
    match field {
        "expected_close_at" => "expected_close",
        field => field,
    }
}

/// Dates without their midnight.
fn shown(field: &str, value: &AttributeValue) -> String {
    match (field, value) {
        ("expected_close_at", AttributeValue::Text(text)) => match text.parse() {
            Ok(at) => Day(at).date().to_string(),
            Err(_) => text.clone(),
        },
        (_, value) => words::attribute(value),
    }
}

/// The chart of the probability, or nothing where there is no history.
pub fn chart(
    deal: &Deal,
    scorer: Option<&Scorer>,
    ledger: &[LedgerEntry],
    score: Option<&Score>,
    now: Timestamp,
) -> Option<Html> {
    let until = deal.closed_at.filter(|_| !deal.is_open()).unwrap_or(now);
    let mut seen_now: Vec<(Timestamp, f64)> = match scorer {
        Some(scorer) => looks(deal, until)
            .into_iter()
            .map(|at| (at, scorer.win_probability(&Snapshot::at(deal, at)).get()))
            .collect(),
        None => Vec::new(),
    };
    if let (Some(score), Some(last)) = (score, seen_now.last_mut()) {
        // The figure of the page, which is that of the last event or refresh.
        *last = (last.0, score.win_probability.get());
    }
    let said_then = ledger.iter().rev().map(|entry| Said {
        at: entry.score.scored_at,
        win_probability: entry.score.win_probability.get(),
        cause: words::cause(&entry.cause).to_owned(),
        model_version: entry.score.model_version.clone(),
    });
    let stages = deal.history.iter().filter(|change| change.field == "stage");
    let data = History {
        seen_now,
        said_then: said_then.collect(),
        stages: stages
            .filter(|change| change.at <= until)
            .map(|change| (change.at, words::attribute(&change.value)))
            .collect(),
        interval: score.map(|s| (s.interval.low.get(), s.interval.high.get())),
    };
    Some(history(&data, until)?.html())
}

/// When something happened, and some moments in between; thinned where there are too many.
fn looks(deal: &Deal, until: Timestamp) -> Vec<Timestamp> {
    let Some(from) = deal.created_at else {
        return Vec::new();
    };
    let happened = (deal.history.iter().map(|change| change.at))
        .chain(deal.activities.iter().map(|activity| activity.at));
    let mut moments: BTreeSet<Timestamp> =
        happened.filter(|at| *at > from && *at < until).collect();
    let mut at = from;
    while at < until {
        moments.insert(at);
        let Ok(next) = at.checked_add(LOOK_EVERY) else {
            break;
        };
        at = next;
    }
    moments.insert(until);
    let moments: Vec<Timestamp> = moments.into_iter().collect();
    let step = moments.len().div_ceil(LOOKS_MAX).max(1);
    let (last, others) = match moments.split_last() {
        Some((last, others)) => (*last, others),
        None => return Vec::new(),
    };
    others.iter().step_by(step).copied().chain([last]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Activity, DealId, FieldChange};

    fn at(day: u32) -> Timestamp {
        format!("2026-03-{day:02}T10:00:00Z").parse().unwrap()
    }

    fn deal() -> Deal {
        let change = |day, field: &str, value: &str| FieldChange {
            at: at(day),
            field: field.into(),
            value: AttributeValue::Text(value.into()),
        };
        Deal {
            created_at: Some(at(1)),
            history: vec![
                change(1, "stage", "new"),
                change(5, "stage", "demo"),
                change(6, "expected_close_at", "2026-04-30T00:00:00Z"),
            ],
            activities: vec![Activity {
                at: at(7),
                kind: "call".into(),
                direction: Some("outbound".into()),
                outcome: Some("no_answer".into()),
            }],
            ..Deal::new(DealId::new("d").unwrap())
        }
    }

    #[test]
    fn the_past_reads_from_the_newest_to_the_creation() {
        let entries = entries(&deal());
        let told: Vec<_> = (entries.iter())
            .map(|entry| format!("{}: {}", entry.kind, entry.text))
            .collect();
        assert_eq!(
            told,
            [
                "Call: outbound, no answer",
                "Expected close: 2026-04-30",
                "Stage: demo, was new",
                "Stage: new",
                "Created: ",
            ]
        );
    }

    #[test]
    fn looks_are_at_what_happened_and_not_too_many() {
        let moments = looks(&deal(), at(20));
        assert_eq!(moments.first(), Some(&at(1)));
        assert_eq!(moments.last(), Some(&at(20)));
        assert!(moments.contains(&at(5)) && moments.contains(&at(7)));
        let long = Deal {
            created_at: Some("2016-01-01T00:00:00Z".parse().unwrap()),
            ..deal()
        };
        assert!(looks(&long, at(20)).len() <= LOOKS_MAX + 1);
    }
}
