//! A deal: what is known of it now, and the dated changes and activities that led there.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

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
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
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

impl AttributeValue {
    /// Some order of all values, for ties that must not depend on what came first.
    fn total_cmp(&self, other: &Self) -> Ordering {
        let kind = |value: &Self| match value {
            Self::Null => 0,
            Self::Bool(_) => 1,
            Self::Number(_) => 2,
            Self::Text(_) => 3,
        };
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Text(a), Self::Text(b)) => a.cmp(b),
            _ => kind(self).cmp(&kind(other)),
        }
    }
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
pub const DEAL_FIELDS: [&str; 8] = [
    "name",
    "pipeline",
    "stage",
    "owner",
    "amount",
    "currency",
    "expected_close_at",
    "priority",
];

/// Something done about a deal: a call, a mail, a meeting. Ordered by time first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Activity {
    pub at: Timestamp,
    pub kind: String,
    /// `inbound` or `outbound`, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}

/// What a deal's outcome was at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeAt {
    pub at: Timestamp,
    pub outcome: Outcome,
}

impl OutcomeAt {
    /// Of two outcomes at the same moment an end counts more than none, and a win more than a loss,
    /// whichever is heard of first.
    fn rank(&self) -> (Timestamp, u8) {
        let rank = match self.outcome {
            Outcome::Open => 0,
            Outcome::Lost => 1,
            Outcome::Won => 2,
        };
        (self.at, rank)
    }
}

/// More entries than this are thinned: see [`Deal::apply`].
const PAST_ENTRIES_MAX: usize = 8_000;

/// Something that may be won.
///
/// `history` and `activities` are sorted by time; changes of the same time keep the order in which
/// their document has them. Times are unknown (`None`) only for deals from flat files.
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
    /// What was told of the outcome, by time. Empty where `outcome` and `closed_at` say it all; what a
    /// deal was reopened from, or when it was last known to be open, they do not.
    pub outcomes: Vec<OutcomeAt>,
}

/// One dated fact about a deal, as it arrives after the deal itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Event {
    /// The field holds the value at that moment; whether it held it before is not said.
    Change(FieldChange),
    Activity(Activity),
    /// The deal has the outcome at that moment: `Open` when it was reopened, or is known not to have
    /// ended.
    Closed {
        at: Timestamp,
        outcome: Outcome,
    },
    /// The deal was there at that moment.
    Created {
        at: Timestamp,
    },
}

impl Event {
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Change(change) => change.at,
            Self::Activity(activity) => activity.at,
            Self::Closed { at, .. } | Self::Created { at } => *at,
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
            outcomes: Vec::new(),
        }
    }

    pub fn is_open(&self) -> bool {
        self.outcome == Outcome::Open
    }

    /// The present value of a field by the name it has in a history.
    pub fn field(&self, field: &str) -> AttributeValue {
        let text = |value: &Option<String>| value.clone().map(AttributeValue::Text);
        match field {
            "name" => text(&self.name),
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
        // An attribute with the name of a field has no history of its own: the field's is under it.
        let attributes: BTreeSet<&String> = (self.attributes.keys())
            .chain(next.attributes.keys())
            .filter(|name| !DEAL_FIELDS.contains(&name.as_str()))
            .collect();
        let fields = DEAL_FIELDS
            .into_iter()
            .chain(attributes.into_iter().map(String::as_str));
        let closes = self.is_open() && !next.is_open();
        let mut changes = Vec::new();
        for field in fields {
            let (before, after) = (self.field(field), next.field(field));
            let told = next.history.iter().rev().find(|c| c.field == field);
            let moves = before != after && told.is_none_or(|change| change.value != after);
            // Of a closed deal only a dated stage is believed: this one was known while it was open.
            let ends_here = closes && field == "stage" && told.is_none();
            if (moves || ends_here) && !self.has_past(field) && before != AttributeValue::Null {
                let at = next.created_at.unwrap_or(Timestamp::UNIX_EPOCH);
                changes.push(FieldChange {
                    at: at.min(received_at),
                    field: field.to_owned(),
                    value: before,
                });
            }
            if moves {
                changes.push(FieldChange {
                    at: received_at,
                    field: field.to_owned(),
                    value: after,
                });
            }
        }
        let old = std::mem::replace(self, next);
        for change in &old.history {
            if !self.history.contains(change) {
                self.history.push(change.clone());
            }
        }
        self.history.extend(changes);
        for activity in &old.activities {
            if !self.activities.contains(activity) {
                self.activities.push(activity.clone());
            }
        }
        if !self.is_open() && self.closed_at.is_none() {
            self.closed_at = if old.outcome == self.outcome {
                old.closed_at
            } else {
                Some(received_at)
            };
        }
        self.revise_outcomes(&old, received_at);
        self.sort();
    }

    /// Adds a dated fact. Facts may come in any order and more than once; the result is the same.
    ///
    /// A past of thousands of entries is thinned: between two that say the same of a field, others that
    /// say it too are dropped. What arrives later still finds its place, only less exactly dated.
    ///
    /// # Errors
    /// When the value does not fit the field (an amount that is not a number, say).
    pub fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Activity(activity) => {
                if !self.activities.contains(&activity) {
                    self.activities.push(activity);
                    self.activities.sort();
                }
            }
            Event::Change(change) => {
                // A value that does not fit must not enter the history, however old it is.
                Deal::new(self.id.clone()).set_field(&change.field, &change.value)?;
                self.date_present(&change.field);
                if !self.history.contains(&change) {
                    self.insert(change)?;
                    thin(&mut self.history, |c| &c.field, |c| c.value.clone());
                }
            }
            Event::Closed { at, outcome } => self.observe(OutcomeAt { at, outcome }),
            Event::Created { at } => {
                if self.created_at.is_none_or(|known| at < known) {
                    // What is known without a date is of the creation that was known with it.
                    let attributes: Vec<String> = self.attributes.keys().cloned().collect();
                    let attributes = attributes.iter().map(String::as_str);
                    for field in DEAL_FIELDS.into_iter().chain(attributes) {
                        self.date_present(field);
                    }
                    self.created_at = Some(at);
                }
            }
        }
        Ok(())
    }

    /// Puts an outcome among those that are known; the latest is the present one, and the deal closed
    /// when the last ones like it began.
    fn observe(&mut self, seen: OutcomeAt) {
        if self.is_open() && seen.outcome != Outcome::Open {
            // Of a closed deal only a dated stage is believed.
            self.date_present("stage");
        }
        if self.outcomes.is_empty()
            && let Some(at) = self.closed_at
        {
            let outcome = self.outcome;
            self.outcomes.push(OutcomeAt { at, outcome });
        }
        insert_outcome(&mut self.outcomes, seen);
        if let Some(last) = self.outcomes.last() {
            self.outcome = last.outcome;
            let last_run = self.outcomes.iter().rev();
            let last_run = last_run.take_while(|seen| seen.outcome == last.outcome);
            self.closed_at = (last_run.last().map(|first| first.at)).filter(|_| !self.is_open());
        }
        thin(&mut self.outcomes, |_| "", |seen| seen.outcome);
        self.forget_plain_outcome();
    }

    /// Carries what was told of the outcome over a revision, whose own outcome is the present one.
    fn revise_outcomes(&mut self, old: &Deal, received_at: Timestamp) {
        for seen in &old.outcomes {
            insert_outcome(&mut self.outcomes, *seen);
        }
        let (outcome, is_moved) = (self.outcome, old.outcome != self.outcome);
        if !is_moved && old.closed_at == self.closed_at {
            return;
        }
        if !is_moved {
            // Another closing time for the same end.
            while self
                .outcomes
                .pop_if(|seen| seen.outcome == outcome)
                .is_some()
            {}
        } else if old.outcomes.is_empty()
            && let Some(at) = old.closed_at
        {
            let outcome = old.outcome;
            insert_outcome(&mut self.outcomes, OutcomeAt { at, outcome });
        }
        let at = self.closed_at.unwrap_or(received_at);
        insert_outcome(&mut self.outcomes, OutcomeAt { at, outcome });
        if self
            .outcomes
            .last()
            .is_some_and(|last| last.outcome != outcome)
        {
            // Dated before what it takes back.
            let at = received_at;
            insert_outcome(&mut self.outcomes, OutcomeAt { at, outcome });
        }
        self.forget_plain_outcome();
    }

    /// A single end that the deal's own fields tell of is not kept.
    fn forget_plain_outcome(&mut self) {
        if let ([only], Some(at)) = (&self.outcomes[..], self.closed_at)
            && (only.at, only.outcome) == (at, self.outcome)
        {
            self.outcomes.clear();
        }
    }

    fn has_past(&self, field: &str) -> bool {
        self.history.iter().any(|change| change.field == field)
    }

    /// Without a past, what a field holds is taken to date from the creation.
    fn date_present(&mut self, field: &str) {
        let value = self.field(field);
        if value != AttributeValue::Null && !self.has_past(field) {
            let at = self.created_at.unwrap_or(Timestamp::UNIX_EPOCH);
            let is_later = |c: &FieldChange| (c.at, c.field.as_str()) > (at, field);
            let later = self.history.iter().position(is_later);
            let place = later.unwrap_or(self.history.len());
            let field = field.to_owned();
            self.history.insert(place, FieldChange { at, field, value });
        }
    }

    /// Puts a change in its place in the history; it is the present if none of its field is later. Of
    /// two at the same moment the larger value is the later, whichever came first.
    fn insert(&mut self, change: FieldChange) -> Result<(), String> {
        let start = self.history.partition_point(|c| c.at < change.at);
        let is_later = |c: &FieldChange| {
            let by_field = (c.at, &c.field).cmp(&(change.at, &change.field));
            by_field
                .then_with(|| c.value.total_cmp(&change.value))
                .is_gt()
        };
        let later = self.history[start..].iter().position(is_later);
        let place = later.map_or(self.history.len(), |later| start + later);
        if !self.history[place..]
            .iter()
            .any(|c| c.field == change.field)
        {
            self.set_field(&change.field, &change.value)?;
        }
        self.history.insert(place, change);
        Ok(())
    }

    /// Restores the order of `history` and `activities`; changes of the same time keep theirs.
    pub fn sort(&mut self) {
        self.history.sort_by_key(|change| change.at);
        self.activities.sort();
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
            "name" => self.name = text,
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

fn insert_outcome(outcomes: &mut Vec<OutcomeAt>, seen: OutcomeAt) {
    if let Err(place) = outcomes.binary_search_by_key(&seen.rank(), OutcomeAt::rank) {
        outcomes.insert(place, seen);
    }
}

/// Beyond [`PAST_ENTRIES_MAX`], drops the entries of a field that stand between two of the same value
/// and say it too.
fn thin<T, V: PartialEq>(past: &mut Vec<T>, field: impl Fn(&T) -> &str, value: impl Fn(&T) -> V) {
    if past.len() <= PAST_ENTRIES_MAX {
        return;
    }
    // By field: the places of the last two entries.
    let mut latest: BTreeMap<&str, (Option<usize>, usize)> = BTreeMap::new();
    let mut is_dropped = vec![false; past.len()];
    for (place, entry) in past.iter().enumerate() {
        let known = latest.get(field(entry)).copied();
        let before = known.map(|(_, last)| last);
        let before = match known {
            Some((Some(first), last))
                if value(&past[first]) == value(&past[last])
                    && value(&past[last]) == value(entry) =>
            {
                is_dropped[last] = true;
                Some(first)
            }
            _ => before,
        };
        latest.insert(field(entry), (before, place));
    }
    let mut is_dropped = is_dropped.into_iter();
    past.retain(|_| !is_dropped.next().unwrap_or(false));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    fn change(at_text: &str, field: &str, value: &str) -> Event {
        Event::Change(FieldChange {
            at: at(at_text),
            field: field.into(),
            value: AttributeValue::Text(value.into()),
        })
    }

    /// Few moments and few values, so that many events are of the same moment, at the creation or
    /// before it.
    fn any_event() -> impl Strategy<Value = Event> {
        let moment = (0usize..5).prop_map(|i| {
            let day = ["2025-12-20", "2026-01-01", "2026-01-02", "2026-01-03"];
            format!("{}T00:00:00Z", day.get(i).unwrap_or(&"2026-02-01"))
        });
        let field = prop::sample::select(vec!["stage", "owner", "Size"]);
        let value = prop::sample::select(vec!["a", "demo", "z"]);
        (moment, field, value, 0..13).prop_map(|(moment, field, value, kind)| match kind {
            10 => Event::Closed {
                at: at(&moment),
                outcome: Outcome::Open,
            },
            11 => Event::Created { at: at(&moment) },
            12 => Event::Change(FieldChange {
                at: at(&moment),
                field: field.into(),
                value: AttributeValue::Null,
            }),
            0 => Event::Closed {
                at: at(&moment),
                outcome: Outcome::Won,
            },
            1 => Event::Closed {
                at: at(&moment),
                outcome: Outcome::Lost,
            },
            2 => Event::Activity(Activity {
                at: at(&moment),
                kind: value.into(),
                direction: None,
                outcome: None,
            }),
            _ => change(&moment, field, value),
        })
    }

    proptest! {
        #[test]
        fn any_events_in_any_order_give_the_same_deal(
            (events, shuffled) in prop::collection::vec(any_event(), 1..8)
                .prop_flat_map(|events| (Just(events.clone()), Just(events).prop_shuffle())),
            born in any::<bool>(),
        ) {
            let applied = |events: Vec<Event>| {
                let mut deal = if born {
                    deal("demo")
                } else {
                    Deal::new(DealId::new("d1").unwrap())
                };
                for event in events {
                    deal.apply(event).unwrap();
                }
                deal
            };
            let twice = applied(events.iter().chain(&events).cloned().collect());
            let events = applied(events);
            prop_assert_eq!(&events, &applied(shuffled));
            prop_assert_eq!(events, twice);
        }
    }

    #[test]
    fn an_event_from_before_the_creation_is_not_the_present() {
        let mut stored = deal("demo");
        stored
            .apply(change("2025-12-01T00:00:00Z", "stage", "new"))
            .unwrap();
        assert_eq!(stored.stage.as_deref(), Some("demo"));
    }

    #[test]
    fn the_stage_that_a_deal_is_closed_in_was_known_before() {
        let closed_at = at("2026-03-01T00:00:00Z");
        let mut by_event = deal("demo");
        by_event
            .apply(Event::Closed {
                at: closed_at,
                outcome: Outcome::Lost,
            })
            .unwrap();
        let mut by_document = deal("demo");
        let lost = Deal {
            outcome: Outcome::Lost,
            ..deal("demo")
        };
        by_document.revise(lost, closed_at);
        assert_eq!(by_event.history, [stage("2026-01-01", "demo")]);
        assert_eq!(by_document, by_event);
    }

    #[test]
    fn an_attribute_with_the_name_of_a_field_leaves_the_field_alone() {
        let with_owner = |owner: &str| {
            let mut deal = deal("demo");
            deal.owner = Some(owner.into());
            let value = AttributeValue::Text("someone else".into());
            deal.attributes.insert("owner".into(), value);
            deal
        };
        let mut stored = with_owner("ann");
        stored.revise(with_owner("bob"), at("2026-02-01T00:00:00Z"));
        assert_eq!(stored.history.len(), 2, "{:?}", stored.history);
        let seen = crate::domain::Snapshot::at(&stored, at("2026-03-01T00:00:00Z"));
        assert_eq!(seen.owner(), Some("bob"));
        assert_eq!(seen.attribute("owner"), stored.attributes.get("owner"));
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

    fn ended(day: &str, outcome: Outcome) -> Event {
        let at = at(&format!("{day}T00:00:00Z"));
        Event::Closed { at, outcome }
    }

    #[test]
    fn an_end_that_is_told_again_does_not_close_a_reopened_deal() {
        let lost = ended("2026-02-01", Outcome::Lost);
        let mut by_patch = deal("demo");
        by_patch.apply(lost.clone()).unwrap();
        by_patch.revise(deal("demo"), at("2026-02-05T00:00:00Z"));
        let mut by_event = deal("demo");
        by_event.apply(lost.clone()).unwrap();
        by_event.apply(ended("2026-02-05", Outcome::Open)).unwrap();
        for mut reopened in [by_patch, by_event] {
            assert!(reopened.is_open());
            let before = reopened.clone();
            reopened.apply(lost.clone()).unwrap();
            assert_eq!(reopened, before);
            reopened.apply(ended("2026-02-09", Outcome::Won)).unwrap();
            assert_eq!(reopened.outcome, Outcome::Won);
            assert_eq!(reopened.closed_at, Some(at("2026-02-09T00:00:00Z")));
        }
    }

    #[test]
    fn a_deal_closed_when_it_was_first_known_to_be() {
        let mut known = deal("demo");
        for day in ["2026-02-03", "2026-02-01", "2026-02-07"] {
            known.apply(ended(day, Outcome::Won)).unwrap();
        }
        assert_eq!(known.closed_at, Some(at("2026-02-01T00:00:00Z")));
        let mut corrected = deal("demo");
        corrected.outcome = Outcome::Won;
        corrected.closed_at = Some(at("2026-02-02T00:00:00Z"));
        known.revise(corrected, at("2026-03-01T00:00:00Z"));
        assert_eq!(known.closed_at, Some(at("2026-02-02T00:00:00Z")));
        assert_eq!(known.outcomes, []);
    }

    #[test]
    fn a_long_past_is_thinned_without_another_present() {
        let mut known = deal("demo");
        let start = at("2026-01-02T00:00:00Z");
        for second in 0..PAST_ENTRIES_MAX as i64 + 10 {
            let value = if second < 5000 { "a" } else { "b" };
            let at = start + jiff::SignedDuration::from_secs(second);
            let value = AttributeValue::Text(value.into());
            let field = "Size".to_owned();
            known
                .apply(Event::Change(FieldChange { at, field, value }))
                .unwrap();
        }
        assert!(known.history.len() < 1000, "{}", known.history.len());
        assert_eq!(known.history[0].at, start);
        let first_b = known
            .history
            .iter()
            .find(|c| c.value == AttributeValue::Text("b".into()));
        let expected = start + jiff::SignedDuration::from_secs(5000);
        assert_eq!(first_b.map(|c| c.at), Some(expected));
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
