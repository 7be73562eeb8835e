//! The stays of a deal in its stages.

use jiff::Timestamp;

use super::deal::{AttributeValue, Deal};

/// A stay in a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit<'a> {
    pub stage: &'a str,
    pub entered_at: Timestamp,
    /// When it was left for another one, or the deal closed.
    pub left_at: Option<Timestamp>,
}

impl Deal {
    /// The stages gone through up to a moment, each visit once, oldest first.
    pub fn visits(&self, until: Timestamp) -> Vec<Visit<'_>> {
        let mut visits: Vec<Visit> = Vec::new();
        let ended_at = self.closed_at.filter(|_| !self.is_open());
        for change in &self.history {
            let (AttributeValue::Text(stage), "stage") = (&change.value, change.field.as_str())
            else {
                continue;
            };
            // What a deal is moved to as it closes is no stage that it waits in.
            let is_close = ended_at.is_some_and(|ended_at| change.at >= ended_at);
            if change.at > until || is_close {
                break;
            }
            if let Some(last) = visits.last_mut() {
                if last.stage == *stage {
                    continue;
                }
                last.left_at = Some(change.at);
            }
            visits.push(Visit {
                stage,
                entered_at: change.at,
                left_at: None,
            });
        }
        match visits.last_mut() {
            Some(last) => last.left_at = ended_at,
            None => visits.extend(self.only_stage()),
        }
        visits
    }

    /// The stay of an open deal in a stage that it never left.
    fn only_stage(&self) -> Option<Visit<'_>> {
        Some(Visit {
            stage: self.stage.as_deref().filter(|_| self.is_open())?,
            entered_at: self.created_at?,
            left_at: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DealId, FieldChange, Outcome};

    fn at(day: &str) -> Timestamp {
        format!("{day}T00:00:00Z").parse().unwrap()
    }

    fn staged(stages: &[(&str, &str)]) -> Deal {
        let change = |(day, stage): &(&str, &str)| FieldChange {
            at: at(day),
            field: "stage".into(),
            value: AttributeValue::Text((*stage).into()),
        };
        Deal {
            created_at: Some(at("2026-01-01")),
            history: stages.iter().map(change).collect(),
            ..Deal::new(DealId::new("d").unwrap())
        }
    }

    #[test]
    fn a_stay_ends_where_the_next_begins() {
        let mut deal = staged(&[
            ("2026-01-01", "new"),
            ("2026-01-05", "new"),
            ("2026-01-10", "demo"),
            ("2026-02-01", "Closed Won"),
        ]);
        let visit = |stage, from: &str, to: Option<&str>| Visit {
            stage,
            entered_at: at(from),
            left_at: to.map(at),
        };
        (deal.outcome, deal.closed_at) = (Outcome::Won, Some(at("2026-02-01")));
        let new = visit("new", "2026-01-01", Some("2026-01-10"));
        let demo = visit("demo", "2026-01-10", Some("2026-02-01"));
        assert_eq!(deal.visits(at("2026-03-01")), [new, demo]);
        // Of an open deal the last has no end, and what is to come is not there.
        (deal.outcome, deal.closed_at) = (Outcome::Open, None);
        let until = at("2026-01-07");
        assert_eq!(deal.visits(until), [visit("new", "2026-01-01", None)]);
    }

    #[test]
    fn an_open_deal_without_history_has_been_where_it_is() {
        let mut deal = staged(&[]);
        deal.stage = Some("new".into());
        let visits = deal.visits(at("2026-03-01"));
        assert_eq!((visits.len(), visits[0].entered_at), (1, at("2026-01-01")));
        deal.outcome = Outcome::Lost;
        assert_eq!(deal.visits(at("2026-03-01")), []);
    }
}
