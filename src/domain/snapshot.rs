//! What was known of a deal at a moment, and nothing later.

use std::collections::HashSet;

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;

use super::deal::{Activity, AttributeValue, DEAL_FIELDS, Deal, FieldChange};
use super::money::{Currency, parse_amount};

/// A deal as it stood at a moment.
///
/// The deal itself is private to this file and there is no way from here to the outcome, the closing
/// date, or anything dated after the moment: a feature that would leak cannot be written.
#[derive(Debug, Clone, Copy)]
pub struct Snapshot<'a> {
    deal: &'a Deal,
    at: Timestamp,
    /// The changes and activities up to and including the moment.
    history: &'a [FieldChange],
    activities: &'a [Activity],
}

/// Where in its life a deal stands. What is known of it, and how well, differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Created within a day, or nobody knows when, and in its first stage: it is what it was made.
    New,
    /// Older, in the stage that it began in.
    FirstStage,
    /// It has left that stage.
    Later,
}

impl<'a> Snapshot<'a> {
    /// The deal at `at`. A deal without a past is what it is now, whatever the moment.
    pub fn at(deal: &'a Deal, at: Timestamp) -> Self {
        let history_len = deal.history.partition_point(|change| change.at <= at);
        let activities_len = deal.activities.partition_point(|a| a.at <= at);
        Self {
            deal,
            at,
            history: &deal.history[..history_len],
            activities: &deal.activities[..activities_len],
        }
    }

    pub fn moment(&self) -> Timestamp {
        self.at
    }

    /// The last dated value of a field, or its only value if it never changed; nothing when it
    /// changed later and what it was before is not known.
    fn value(&self, field: &str) -> Known<'a> {
        let changes_later = self.deal.history[self.history.len()..]
            .iter()
            .any(|change| change.field == field);
        // The present of an open deal is known, also where its history does not tell of it.
        if self.deal.is_open() && !changes_later {
            return Known::Undated;
        }
        match self.history.iter().rev().find(|c| c.field == field) {
            Some(change) => Known::Dated(&change.value),
            None if changes_later => Known::Nothing,
            None => Known::Undated,
        }
    }

    fn text(&self, field: &str, present: &'a Option<String>) -> Option<&'a str> {
        match self.value(field) {
            Known::Dated(AttributeValue::Text(text)) => Some(text),
            Known::Dated(_) | Known::Nothing => None,
            Known::Undated => present.as_deref(),
        }
    }

    pub fn pipeline(&self) -> Option<&'a str> {
        self.text("pipeline", &self.deal.pipeline)
    }

    pub fn owner(&self) -> Option<&'a str> {
        self.text("owner", &self.deal.owner)
    }

    pub fn priority(&self) -> Option<&'a str> {
        self.text("priority", &self.deal.priority)
    }

    /// The stage; of a closed deal without stage history it is unknown, since the only stage on file
    /// is how the deal ended.
    pub fn stage(&self) -> Option<&'a str> {
        match self.value("stage") {
            Known::Undated if !self.deal.is_open() => None,
            _ => self.text("stage", &self.deal.stage),
        }
    }

    /// When the present stage was entered; the creation if the deal never left its first one. Unknown
    /// where the history ends in another stage.
    pub fn stage_entered_at(&self) -> Option<Timestamp> {
        let stage = self.stage()?;
        let mut visit = self
            .history
            .iter()
            .rev()
            .filter(|c| c.field == "stage")
            .peekable();
        if visit.peek().is_none() {
            return self.deal.created_at;
        }
        let entered_at = visit
            .take_while(|change| matches!(&change.value, AttributeValue::Text(s) if s == stage))
            .last()?
            .at;
        // What was there at an unknown creation has no date.
        (entered_at > Timestamp::UNIX_EPOCH).then_some(entered_at)
    }

    /// The stages gone through, in order, each once per visit.
    pub fn stages(&self) -> impl Iterator<Item = &'a str> {
        runs(self.texts("stage"))
    }

    /// Whether the deal has left the stage that it began in, as far as its stages are known.
    pub fn has_moved(&self) -> bool {
        self.stages().nth(1).is_some()
    }

    pub fn phase(&self) -> Phase {
        let age = self.created_at().map(|at| self.at.duration_since(at));
        if self.has_moved() {
            Phase::Later
        } else if age.is_none_or(|age| age < SignedDuration::from_hours(24)) {
            Phase::New
        } else {
            Phase::FirstStage
        }
    }

    /// The stage before the present one; unknown for a deal that is still in its first.
    pub fn previous_stage(&self) -> Option<&'a str> {
        let present = self.stage()?;
        let mut earlier = self.texts("stage").rev();
        earlier.find(|stage| *stage != present)
    }

    /// How often a stage was entered that the deal had left before.
    pub fn stages_reentered(&self) -> usize {
        self.stages().count() - self.stages().collect::<HashSet<_>>().len()
    }

    /// How often the owner changed.
    pub fn owner_changes(&self) -> usize {
        runs(self.texts("owner")).count().saturating_sub(1)
    }

    /// The dated texts of a field, oldest first.
    fn texts(&self, field: &'static str) -> impl DoubleEndedIterator<Item = &'a str> {
        let changes = self.history.iter().filter(move |c| c.field == field);
        changes.filter_map(|change| match &change.value {
            AttributeValue::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The amounts up to the moment, oldest first, each once until it changes; the last is the
    /// present one. In whatever currency they were given.
    pub fn amounts(&self) -> Vec<Decimal> {
        let changes = self.history.iter().filter(|c| c.field == "amount");
        let dated = changes.filter_map(|change| amount_of(&change.value));
        runs(dated.chain(self.amount())).collect()
    }

    pub fn amount(&self) -> Option<Decimal> {
        match self.value("amount") {
            Known::Dated(value) => amount_of(value),
            Known::Nothing => None,
            Known::Undated => self.deal.amount,
        }
    }

    pub fn currency(&self) -> Option<Currency> {
        match self.value("currency") {
            Known::Dated(AttributeValue::Text(text)) => text.parse().ok(),
            Known::Dated(_) | Known::Nothing => None,
            Known::Undated => self.deal.currency,
        }
    }

    pub fn created_at(&self) -> Option<Timestamp> {
        self.deal.created_at
    }

    pub fn expected_close_at(&self) -> Option<Timestamp> {
        match self.value("expected_close_at") {
            Known::Dated(AttributeValue::Text(text)) => text.parse().ok(),
            Known::Dated(_) | Known::Nothing => None,
            Known::Undated => self.deal.expected_close_at,
        }
    }

    /// By how much the expected close was moved to a later time, each time that it was.
    pub fn close_pushes(&self) -> Vec<SignedDuration> {
        let changes = self.texts("expected_close_at");
        let dates: Vec<Timestamp> = changes.filter_map(|text| text.parse().ok()).collect();
        let moves = dates.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        moves.filter(SignedDuration::is_positive).collect()
    }

    /// An attribute with the name of a field has no history: that one is the field's.
    pub fn attribute(&self, name: &str) -> Option<&'a AttributeValue> {
        if DEAL_FIELDS.contains(&name) {
            return self.deal.attributes.get(name);
        }
        match self.value(name) {
            Known::Dated(value) => Some(value),
            Known::Nothing => None,
            Known::Undated => self.deal.attributes.get(name),
        }
    }

    /// Activities up to the moment, oldest first.
    pub fn activities(&self) -> &'a [Activity] {
        self.activities
    }

    /// Activities since the present stage was entered; unknown where that is.
    pub fn activities_in_stage(&self) -> Option<&'a [Activity]> {
        let entered_at = self.stage_entered_at()?;
        let before = self.activities.partition_point(|a| a.at < entered_at);
        Some(&self.activities[before..])
    }
}

/// Values in order, without those that repeat the one before.
fn runs<T: PartialEq + Copy>(values: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let mut last = None;
    values.filter(move |value| last.replace(*value) != Some(*value))
}

fn amount_of(value: &AttributeValue) -> Option<Decimal> {
    match value {
        AttributeValue::Text(text) => parse_amount(text).ok(),
        AttributeValue::Number(number) => parse_amount(&number.to_string()).ok(),
        AttributeValue::Bool(_) | AttributeValue::Null => None,
    }
}

enum Known<'a> {
    Dated(&'a AttributeValue),
    Undated,
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DealId, Outcome};

    fn at(day: &str) -> Timestamp {
        format!("{day}T00:00:00Z").parse().unwrap()
    }

    fn change(day: &str, field: &str, value: &str) -> FieldChange {
        FieldChange {
            at: at(day),
            field: field.into(),
            value: AttributeValue::Text(value.into()),
        }
    }

    fn won_deal() -> Deal {
        Deal {
            stage: Some("Closed Won".into()),
            outcome: Outcome::Won,
            created_at: Some(at("2026-01-01")),
            closed_at: Some(at("2026-04-01")),
            history: vec![
                change("2026-01-01", "stage", "new"),
                change("2026-01-10", "expected_close_at", "2026-03-01T00:00:00Z"),
                change("2026-02-01", "stage", "demo"),
                change("2026-02-15", "expected_close_at", "2026-03-20T00:00:00Z"),
                change("2026-04-01", "stage", "Closed Won"),
            ],
            ..Deal::new(DealId::new("d").unwrap())
        }
    }

    #[test]
    fn a_snapshot_knows_nothing_later_than_its_moment() {
        let deal = won_deal();
        let then = Snapshot::at(&deal, at("2026-02-10"));
        assert_eq!(then.stage(), Some("demo"));
        assert_eq!(then.stage_entered_at(), Some(at("2026-02-01")));
        assert_eq!(then.close_pushes(), []);
        assert_eq!(then.stages().collect::<Vec<_>>(), ["new", "demo"]);
        let before_first_date = Snapshot::at(&deal, at("2026-01-05"));
        assert_eq!(before_first_date.expected_close_at(), None);
        let pushed = Snapshot::at(&deal, at("2026-03-01")).close_pushes();
        assert_eq!(pushed, [SignedDuration::from_hours(24 * 19)]);
    }

    #[test]
    fn the_present_of_an_open_deal_counts_also_where_its_history_is_silent() {
        let mut deal = won_deal();
        deal.outcome = Outcome::Open;
        deal.stage = Some("proposal".into());
        let now = Snapshot::at(&deal, at("2026-05-01"));
        assert_eq!(now.stage(), Some("proposal"));
        assert_eq!(now.stage_entered_at(), None);
        assert_eq!(Snapshot::at(&deal, at("2026-02-10")).stage(), Some("demo"));
    }

    #[test]
    fn a_deal_is_new_then_waits_then_moves_on() {
        let deal = won_deal();
        let phase = |moment: &str| Snapshot::at(&deal, moment.parse().unwrap()).phase();
        assert_eq!(phase("2026-01-01T00:00:00Z"), Phase::New);
        assert_eq!(phase("2026-01-01T23:59:59Z"), Phase::New);
        assert_eq!(phase("2026-01-02T00:00:00Z"), Phase::FirstStage);
        assert_eq!(phase("2026-02-01T00:00:00Z"), Phase::Later);
        let undated = Deal::new(DealId::new("d").unwrap());
        assert_eq!(Snapshot::at(&undated, at("2026-01-05")).phase(), Phase::New);
    }

    #[test]
    fn an_attribute_with_the_name_of_a_field_is_not_taken_for_it() {
        let mut deal = won_deal();
        let own = AttributeValue::Text("own".into());
        deal.attributes.insert("stage".into(), own.clone());
        let then = Snapshot::at(&deal, at("2026-02-10"));
        assert_eq!(then.stage(), Some("demo"));
        assert_eq!(then.attribute("stage"), Some(&own));
    }

    #[test]
    fn the_stage_of_a_closed_deal_without_history_is_unknown() {
        let mut deal = won_deal();
        deal.history.clear();
        assert_eq!(Snapshot::at(&deal, at("2026-02-10")).stage(), None);
        deal.outcome = Outcome::Open;
        assert!(Snapshot::at(&deal, at("2026-02-10")).stage().is_some());
    }
}
