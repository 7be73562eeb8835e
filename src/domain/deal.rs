//! A deal: what is known of it now, and the dated changes and activities that led there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::money::Currency;

/// Longest deal id, in bytes.
pub const DEAL_ID_BYTES_MAX: usize = 200;

/// A deal's identifier in the company's own system: 1 to 200 bytes, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DealId(String);

impl DealId {
    /// # Errors
    /// When `id` is empty after trimming, too long, or holds control characters.
    pub fn new(id: &str) -> Result<Self, String> {
        let id = id.trim();
        if id.is_empty() {
            return Err("an id may not be empty".into());
        }
        if id.len() > DEAL_ID_BYTES_MAX {
            return Err(format!(
                "an id may have at most {DEAL_ID_BYTES_MAX} bytes, but has {}",
                id.len()
            ));
        }
        if id.chars().any(char::is_control) {
            return Err("an id may not hold control characters".into());
        }
        Ok(Self(id.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DealId {
    type Error = String;

    fn try_from(id: String) -> Result<Self, String> {
        Self::new(&id)
    }
}

impl From<DealId> for String {
    fn from(id: DealId) -> String {
        id.0
    }
}

impl std::fmt::Display for DealId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a deal ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    #[default]
    Open,
    Won,
    Lost,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Won => "won",
            Self::Lost => "lost",
        }
    }
}

/// The value of an attribute as it came in. What it means (a number in a text, a blank, an alias) is
/// decided once, by the model's treatment of the column, so that every path reads it alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AttributeValue {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
}

/// One dated change of one field. `field` is one of [`DEAL_FIELDS`] or the name of an attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FieldChange {
    pub at: Timestamp,
    pub field: String,
    pub value: AttributeValue,
}

/// Fields of a deal whose changes are kept; any other field name in a history is an attribute. An
/// attribute that bears one of these names has no history.
pub const DEAL_FIELDS: [&str; 7] = [
    "pipeline",
    "stage",
    "owner",
    "amount",
    "currency",
    "expected_close_at",
    "priority",
];

/// Something done about a deal: a call, a mail, a meeting.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Activity {
    pub at: Timestamp,
    pub kind: String,
    /// `inbound` or `outbound`, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// Something that may be won.
///
/// `history` and `activities` are sorted by time; entries of the same time keep the order in which
/// they came. Times are unknown (`None`) only for deals from flat files.
#[derive(Debug, Clone, PartialEq)]
pub struct Deal {
    pub id: DealId,
    pub name: Option<String>,
    pub pipeline: Option<String>,
    pub stage: Option<String>,
    pub owner: Option<String>,
    pub amount: Option<Decimal>,
    pub currency: Option<Currency>,
    pub created_at: Option<Timestamp>,
    pub expected_close_at: Option<Timestamp>,
    pub priority: Option<String>,
    pub attributes: BTreeMap<String, AttributeValue>,
    pub history: Vec<FieldChange>,
    pub activities: Vec<Activity>,
    pub outcome: Outcome,
    pub closed_at: Option<Timestamp>,
}

/// One dated fact about a deal, as it arrives after the deal itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Event {
    Change(FieldChange),
    Activity(Activity),
    Closed { at: Timestamp, outcome: Outcome },
}

impl Event {
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Change(change) => change.at,
            Self::Activity(activity) => activity.at,
            Self::Closed { at, .. } => *at,
        }
    }
}

impl Deal {
    /// A deal of which only the id is known.
    pub fn new(id: DealId) -> Self {
        Self {
            id,
            name: None,
            pipeline: None,
            stage: None,
            owner: None,
            amount: None,
            currency: None,
            created_at: None,
            expected_close_at: None,
            priority: None,
            attributes: BTreeMap::new(),
            history: Vec::new(),
            activities: Vec::new(),
            outcome: Outcome::Open,
            closed_at: None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.outcome == Outcome::Open
    }

    /// The present value of a field by the name it has in a history.
    pub fn field(&self, field: &str) -> AttributeValue {
        let text = |value: &Option<String>| value.clone().map(AttributeValue::Text);
        match field {
            "pipeline" => text(&self.pipeline),
            "stage" => text(&self.stage),
            "owner" => text(&self.owner),
            "priority" => text(&self.priority),
            "amount" => self.amount.map(|a| AttributeValue::Text(a.to_string())),
            "currency" => self.currency.map(|c| AttributeValue::Text(c.to_string())),
            "expected_close_at" => self
                .expected_close_at
                .map(|at| AttributeValue::Text(at.to_string())),
            attribute => self.attributes.get(attribute).cloned(),
        }
        .unwrap_or(AttributeValue::Null)
    }

    /// Takes `next` as the deal's new present, at `received_at`: fields that differ leave a dated
    /// change unless `next`'s own history tells of it; histories and activities are united, so that
    /// the same document twice changes nothing.
    pub fn revise(&mut self, mut next: Deal, received_at: Timestamp) {
        next.created_at = next.created_at.or(self.created_at);
        let is_new = |name: &&String| !self.attributes.contains_key(*name);
        let attributes = self.attributes.keys().map(String::as_str);
        let attributes =
            attributes.chain(next.attributes.keys().filter(is_new).map(String::as_str));
        let fields: Vec<String> = DEAL_FIELDS
            .into_iter()
            .chain(attributes.filter(|name| !DEAL_FIELDS.contains(name)))
            .map(str::to_owned)
            .collect();
        let mut changes = Vec::new();
        for field in fields {
            let (before, after) = (self.field(&field), next.field(&field));
            let told = next.history.iter().rev().find(|c| c.field == field);
            if before == after || told.is_some_and(|change| change.value == after) {
                continue;
            }
            let has_past = self.history.iter().any(|c| c.field == field);
            if !has_past && before != AttributeValue::Null {
                let at = next.created_at.unwrap_or(Timestamp::UNIX_EPOCH);
                let at = at.min(received_at);
                changes.push(FieldChange {
                    at,
                    field: field.clone(),
                    value: before,
                });
            }
            changes.push(FieldChange {
                at: received_at,
                field,
                value: after,
            });
        }
        let old = std::mem::replace(self, next);
        for change in old.history {
            if !self.history.contains(&change) {
                self.history.push(change);
            }
        }
        self.history.extend(changes);
        for activity in old.activities {
            if !self.activities.contains(&activity) {
                self.activities.push(activity);
            }
        }
        if !self.is_open() && self.closed_at.is_none() {
            self.closed_at = if old.outcome == self.outcome {
                old.closed_at
            } else {
                Some(received_at)
            };
        }
        self.sort();
    }

    /// Adds a dated fact. Facts may come in any order and more than once; the result is the same.
    ///
    /// # Errors
    /// When the value does not fit the field (an amount that is not a number, say).
    pub fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Activity(activity) => {
                if !self.activities.contains(&activity) {
                    self.activities.push(activity);
                }
            }
            Event::Change(change) => {
                if self.history.contains(&change) {
                    return Ok(());
                }
                let is_newest = self
                    .history
                    .iter()
                    .filter(|c| c.field == change.field)
                    .all(|c| c.at <= change.at);
                let has_past = self.history.iter().any(|c| c.field == change.field);
                let before = self.field(&change.field);
                if is_newest {
                    self.set_field(&change.field, &change.value)?;
                } else {
                    // Checked all the same: a value that does not fit must not enter the history.
                    Deal::new(self.id.clone()).set_field(&change.field, &change.value)?;
                }
                if !has_past && before != AttributeValue::Null {
                    let at = self.created_at.unwrap_or(Timestamp::UNIX_EPOCH);
                    self.history.push(FieldChange {
                        at: at.min(change.at),
                        field: change.field.clone(),
                        value: before,
                    });
                }
                self.history.push(change);
            }
            Event::Closed { at, outcome } => {
                // Of two ends at the same moment a win counts, whichever is heard of first.
                let is_later = |known| at > known || (at == known && outcome == Outcome::Won);
                if self.closed_at.is_none_or(is_later) {
                    self.outcome = outcome;
                    self.closed_at = (outcome != Outcome::Open).then_some(at);
                }
            }
        }
        self.sort();
        Ok(())
    }

    /// Restores the order of `history` and `activities`; entries of the same time keep theirs.
    pub fn sort(&mut self) {
        self.history.sort_by_key(|change| change.at);
        self.activities.sort_by_key(|activity| activity.at);
    }

    /// Sets the present value of a field by the name it has in a history.
    pub(crate) fn set_field(&mut self, field: &str, value: &AttributeValue) -> Result<(), String> {
        let text = match value {
            AttributeValue::Null => None,
            AttributeValue::Text(text) => Some(text.clone()),
            AttributeValue::Number(number) => Some(number.to_string()),
            AttributeValue::Bool(bool) => Some(bool.to_string()),
        };
        match field {
            "pipeline" => self.pipeline = text,
            "stage" => self.stage = text,
            "owner" => self.owner = text,
            "priority" => self.priority = text,
            "amount" => {
                self.amount = text
                    .as_deref()
                    .map(super::money::parse_amount)
                    .transpose()?;
            }
            "currency" => self.currency = text.as_deref().map(str::parse).transpose()?,
            "expected_close_at" => {
                self.expected_close_at = text
                    .as_deref()
                    .map(|t| {
                        t.parse()
                            .map_err(|_| format!("`{t}` is not an RFC 3339 time"))
                    })
                    .transpose()?;
            }
            attribute => {
                self.attributes.insert(attribute.to_owned(), value.clone());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn deal(stage: &str) -> Deal {
        Deal {
            stage: Some(stage.into()),
            created_at: Some(at("2026-01-01T00:00:00Z")),
            ..Deal::new(DealId::new("d1").unwrap())
        }
    }

    fn stage(day: &str, value: &str) -> FieldChange {
        FieldChange {
            at: at(&format!("{day}T00:00:00Z")),
            field: "stage".into(),
            value: AttributeValue::Text(value.into()),
        }
    }

    #[test]
    fn a_revision_leaves_a_dated_change_and_the_value_before() {
        let mut stored = deal("demo");
        stored.revise(deal("proposal"), at("2026-02-01T00:00:00Z"));
        assert_eq!(
            stored.history,
            [stage("2026-01-01", "demo"), stage("2026-02-01", "proposal")]
        );
        let again = stored.clone();
        stored.revise(deal("proposal"), at("2026-03-01T00:00:00Z"));
        assert_eq!(stored, again, "the same document twice changes nothing");
    }

    #[test]
    fn an_attribute_with_the_name_of_a_field_leaves_the_fields_history_alone() {
        let with = |stage: &str, attribute: &str| {
            let attribute = AttributeValue::Text(attribute.into());
            let attributes = [("stage".to_owned(), attribute)].into();
            Deal {
                attributes,
                ..deal(stage)
            }
        };
        let mut known = with("demo", "a");
        known.revise(with("demo", "b"), at("2026-02-01T00:00:00Z"));
        assert_eq!(known.history, []);
        known.revise(with("proposal", "c"), at("2026-03-01T00:00:00Z"));
        let values: Vec<_> = known.history.iter().map(|c| &c.value).collect();
        assert_eq!(
            values,
            [
                &AttributeValue::Text("demo".into()),
                &AttributeValue::Text("proposal".into())
            ]
        );
    }

    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let events = [
            Event::Change(stage("2026-02-01", "demo")),
            Event::Change(stage("2026-03-01", "proposal")),
            Event::Closed {
                at: at("2026-04-01T00:00:00Z"),
                outcome: Outcome::Won,
            },
        ];
        let mut forward = deal("new");
        let mut backward = deal("new");
        for event in &events {
            forward.apply(event.clone()).unwrap();
            forward.apply(event.clone()).unwrap();
        }
        for event in events.iter().rev() {
            backward.apply(event.clone()).unwrap();
        }
        assert_eq!(forward, backward);
        assert_eq!(forward.stage.as_deref(), Some("proposal"));
        assert_eq!(forward.history.len(), 3);
    }

    #[test]
    fn of_two_ends_at_the_same_moment_a_win_counts() {
        let at = at("2026-04-01T00:00:00Z");
        let closed = |outcome| Event::Closed { at, outcome };
        let (won, lost) = (closed(Outcome::Won), closed(Outcome::Lost));
        for events in [[&won, &lost], [&lost, &won]] {
            let mut ended = deal("demo");
            for event in events {
                ended.apply(event.clone()).unwrap();
            }
            assert_eq!(ended.outcome, Outcome::Won);
        }
    }

    #[test]
    fn a_change_that_does_not_fit_leaves_the_deal_alone() {
        let mut stored = deal("demo");
        let before = stored.clone();
        let change = FieldChange {
            at: at("2026-02-01T00:00:00Z"),
            field: "amount".into(),
            value: AttributeValue::Text("much".into()),
        };
        assert!(stored.apply(Event::Change(change)).is_err());
        assert_eq!(stored, before);
    }
}
