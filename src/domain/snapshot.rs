//! What was known of a deal at a moment, and nothing later.

use jiff::Timestamp;
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
        visit
            .take_while(|change| matches!(&change.value, AttributeValue::Text(s) if s == stage))
            .last()
            .map(|change| change.at)
    }

    /// The stages gone through, in order, each once per visit.
    pub fn stages(&self) -> impl Iterator<Item = &'a str> {
        let mut last = None;
        self.history
            .iter()
            .filter(|change| change.field == "stage")
            .filter_map(|change| match &change.value {
                AttributeValue::Text(stage) => Some(stage.as_str()),
                _ => None,
            })
            .filter(move |stage| last.replace(*stage) != Some(*stage))
    }

    pub fn amount(&self) -> Option<Decimal> {
        match self.value("amount") {
            Known::Dated(AttributeValue::Text(text)) => parse_amount(text).ok(),
            Known::Dated(AttributeValue::Number(number)) => parse_amount(&number.to_string()).ok(),
            Known::Dated(_) | Known::Nothing => None,
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

    /// How often the expected close was moved to a later day.
    pub fn close_pushes(&self) -> usize {
        let dates: Vec<Timestamp> = self
            .history
            .iter()
            .filter(|change| change.field == "expected_close_at")
            .filter_map(|change| match &change.value {
                AttributeValue::Text(text) => text.parse().ok(),
                _ => None,
            })
            .collect();
        dates.windows(2).filter(|pair| pair[1] > pair[0]).count()
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
        assert_eq!(then.close_pushes(), 0);
        assert_eq!(then.stages().collect::<Vec<_>>(), ["new", "demo"]);
        let before_first_date = Snapshot::at(&deal, at("2026-01-05"));
        assert_eq!(before_first_date.expected_close_at(), None);
        assert_eq!(Snapshot::at(&deal, at("2026-03-01")).close_pushes(), 1);
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
