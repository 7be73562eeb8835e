//! From a CRM's fields to dated facts, by a table.
//!
//! A CRM tells that some of its fields have these values as of a moment. Each one becomes a fact of that
//! moment, so that what arrives late changes the past and not the present.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::domain::deal::{DEAL_FIELDS, Event};
use crate::domain::{Currency, Outcome};
use crate::error::FieldError;
use crate::ingest::document;

/// Nested deeper than this, a value is none of ours.
const DEPTH_MAX: usize = 4;

/// Epoch numbers above this are milliseconds: as seconds they would lie after the year 5100.
const EPOCH_SECONDS_MAX: i64 = 100_000_000_000;

/// What one of their fields means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One of [`DEAL_FIELDS`].
    Field(String),
    /// `None`: under its own name.
    Attribute(Option<String>),
    /// The moment as of which the other values hold.
    AsOf,
    CreatedAt,
    ClosedAt,
    StageEnteredAt,
    /// A word for how the deal ended: see [`Table::outcomes`].
    Outcome,
    IsWon,
    IsLost,
    IsClosed,
    /// False for what was put away, which counts as lost.
    IsActive,
    /// The time of the last activity of a kind.
    Activity {
        kind: String,
        direction: Option<String>,
    },
    Ignore,
}

impl Target {
    /// # Errors
    /// When `text` is not the name of anything of ours.
    pub fn parse(text: &str) -> Result<Self, String> {
        if DEAL_FIELDS.contains(&text) {
            return Ok(Self::Field(text.to_owned()));
        }
        if let Some(name) = text.strip_prefix("attributes.") {
            return Ok(Self::Attribute((name != "*").then(|| name.to_owned())));
        }
        if let Some(activity) = text.strip_prefix("activity.") {
            let (kind, direction) = match activity.split_once('.') {
                Some((kind, direction)) => (kind, Some(direction.to_owned())),
                None => (activity, None),
            };
            let kind = kind.to_owned();
            return Ok(Self::Activity { kind, direction });
        }
        Ok(match text {
            "as_of" => Self::AsOf,
            "created_at" => Self::CreatedAt,
            "closed_at" => Self::ClosedAt,
            "stage_entered_at" => Self::StageEnteredAt,
            "outcome" => Self::Outcome,
            "is_won" => Self::IsWon,
            "is_lost" => Self::IsLost,
            "is_closed" => Self::IsClosed,
            "is_active" => Self::IsActive,
            "ignore" => Self::Ignore,
            _ => {
                return Err(format!(
                    "`{text}` is none of {}, created_at, closed_at, stage_entered_at, as_of, outcome, \
                     is_won, is_lost, is_closed, is_active, activity.KIND, attributes.NAME, ignore",
                    DEAL_FIELDS.join(", ")
                ));
            }
        })
    }
}

/// How the fields of one CRM are read.
#[derive(Debug, Clone)]
pub struct Table {
    exact: BTreeMap<String, Target>,
    /// Beginnings of names, the longest first.
    patterns: Vec<(String, Target)>,
    /// What one unit of the currency is in theirs: 100 where amounts are in cents.
    pub amount_units: u32,
    /// Words for outcomes, in lower case.
    pub outcomes: &'static [(&'static str, Outcome)],
    /// With both empty a stage says nothing about the outcome.
    pub won_stages: Vec<String>,
    pub lost_stages: Vec<String>,
    pub values: BTreeMap<String, BTreeMap<String, String>>,
    pub zone: TimeZone,
    pub currency: Option<Currency>,
}

/// Some of a deal's fields as a CRM has them, at a moment.
#[derive(Debug)]
pub struct Sighting<'a> {
    pub fields: Vec<(String, &'a Value)>,
    pub at: Timestamp,
    /// Whether it is the deal as it is, rather than something that changed about it.
    pub is_whole: bool,
}

impl Table {
    /// A table of nothing; `zone` is that of times without an offset.
    pub fn new(zone: TimeZone) -> Self {
        Self {
            exact: BTreeMap::new(),
            patterns: Vec::new(),
            amount_units: 1,
            outcomes: &[],
            won_stages: Vec::new(),
            lost_stages: Vec::new(),
            values: BTreeMap::new(),
            zone,
            currency: None,
        }
    }

    pub fn insert(&mut self, theirs: &str, target: Target) {
        match theirs.strip_suffix('*') {
            Some(beginning) => {
                self.patterns.retain(|(known, _)| known != beginning);
                self.patterns.push((beginning.to_owned(), target));
                self.patterns
                    .sort_by_key(|(b, _)| std::cmp::Reverse(b.len()));
            }
            None => {
                self.exact.insert(theirs.to_owned(), target);
            }
        }
    }

    /// Their names of the fields that are read.
    pub fn names(&self) -> Vec<&str> {
        let read = self
            .exact
            .iter()
            .filter(|(_, target)| **target != Target::Ignore);
        read.map(|(theirs, _)| theirs.as_str()).collect()
    }

    fn target(&self, theirs: &str) -> &Target {
        let by_pattern = || {
            let mut patterns = self.patterns.iter();
            patterns.find(|(beginning, _)| theirs.starts_with(beginning.as_str()))
        };
        match self.exact.get(theirs) {
            Some(target) => target,
            None => by_pattern().map_or(&Target::Ignore, |(_, target)| target),
        }
    }

    /// The fields of an object; those of an object within have the path as their name.
    pub fn fields<'a>(&self, object: &'a Value) -> Vec<(String, &'a Value)> {
        let mut fields = Vec::new();
        self.flatten("", object, 0, &mut fields);
        fields
    }

    fn flatten<'a>(
        &self,
        parent: &str,
        object: &'a Value,
        depth: usize,
        fields: &mut Vec<(String, &'a Value)>,
    ) {
        let Value::Object(object) = object else {
            return;
        };
        for (name, value) in object {
            let path = match parent {
                "" => name.clone(),
                parent => format!("{parent}.{name}"),
            };
            if value.is_object() && !self.exact.contains_key(&path) && depth < DEPTH_MAX {
                self.flatten(&path, value, depth + 1, fields);
            } else {
                fields.push((path, value));
            }
        }
    }

    /// The latest time among the fields that say as of when the others hold.
    pub fn as_of(&self, fields: &[(String, &Value)]) -> Option<Timestamp> {
        let of = fields.iter();
        let of = of.filter(|(name, _)| *self.target(name) == Target::AsOf);
        of.filter_map(|(_, value)| self.time(value).ok().flatten())
            .max()
    }

    /// Their time: RFC 3339, a date, a date and time without offset (then in the CRM's zone), or the
    /// seconds or milliseconds since 1970.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn time(&self, value: &Value) -> Result<Option<Timestamp>, String> {
        match scalar(value) {
            Value::Null => Ok(None),
            Value::Number(number) => {
                let number = number.as_f64().unwrap_or(f64::NAN);
                epoch(number as i64).map(Some)
            }
            Value::String(text) if text.trim().is_empty() => Ok(None),
            Value::String(text) => self.time_of_text(text.trim()).map(Some),
            other => Err(format!("`{other}` is not a time")),
        }
    }

    fn time_of_text(&self, text: &str) -> Result<Timestamp, String> {
        let wrong = || format!("`{}` is not a time", text.escape_debug());
        if text.bytes().all(|b| b.is_ascii_digit()) {
            return epoch(text.parse().map_err(|_| wrong())?);
        }
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(at);
        }
        // Salesforce and others leave the colon out of the offset.
        if let Ok(at) = Timestamp::strptime("%Y-%m-%dT%H:%M:%S%.f%z", text) {
            return Ok(at);
        }
        let civil = match text.parse::<Date>() {
            Ok(date) if text.len() == 10 => date.at(0, 0, 0, 0),
            _ => text.parse::<DateTime>().map_err(|_| wrong())?,
        };
        let zoned = self.zone.to_ambiguous_timestamp(civil);
        zoned.compatible().map_err(|_| wrong())
    }

    /// What the sighting says, as facts.
    ///
    /// # Errors
    /// Each field whose value cannot be meant, under their name for it.
    pub fn facts(
        &self,
        sighting: &Sighting,
        now: Timestamp,
    ) -> Result<Vec<Event>, Vec<FieldError>> {
        let mut facts = Facts {
            table: self,
            at: sighting.at,
            now,
            events: Vec::new(),
            errors: Vec::new(),
            ending: Ending::default(),
        };
        for (name, value) in &sighting.fields {
            facts.take(name, value);
        }
        facts.finish(sighting.is_whole)
    }
}

/// Facts while they are read from the fields.
struct Facts<'a> {
    table: &'a Table,
    at: Timestamp,
    now: Timestamp,
    events: Vec<Event>,
    errors: Vec<FieldError>,
    ending: Ending,
}

/// What is said about the outcome, by several fields.
#[derive(Debug, Default)]
struct Ending {
    outcome: Option<Outcome>,
    is_won: Option<bool>,
    is_lost: Option<bool>,
    is_closed: Option<bool>,
    is_active: Option<bool>,
    by_stage: Option<Outcome>,
    closed_at: Option<Timestamp>,
    stage: Option<(String, Value)>,
    stage_entered_at: Option<Timestamp>,
}

impl Ending {
    fn outcome(&self) -> Option<Outcome> {
        match self {
            Self {
                outcome: Some(outcome),
                ..
            } => Some(*outcome),
            Self {
                is_won: Some(true), ..
            } => Some(Outcome::Won),
            Self {
                is_lost: Some(true),
                ..
            }
            | Self {
                is_active: Some(false),
                ..
            } => Some(Outcome::Lost),
            Self {
                is_closed: Some(true),
                is_won: Some(false),
                ..
            } => Some(Outcome::Lost),
            Self {
                is_closed: Some(false),
                ..
            } => Some(Outcome::Open),
            _ => self.by_stage,
        }
    }
}

impl Facts<'_> {
    fn take(&mut self, name: &str, value: &Value) {
        let taken = match self.table.target(name) {
            Target::Ignore | Target::AsOf => Ok(()),
            Target::Field(field) => self.field(name, field, value),
            Target::Attribute(attribute) => {
                let attribute = attribute_name(attribute.as_deref().unwrap_or(name));
                self.change(name, &attribute, joined(value));
                Ok(())
            }
            Target::CreatedAt => self.time(value).map(|at| {
                if let Some(at) = at {
                    self.event(name, json!({"type": "created", "at": at}));
                }
            }),
            Target::ClosedAt => self.time(value).map(|at| {
                self.ending.closed_at = self.ending.closed_at.max(at);
            }),
            Target::StageEnteredAt => self.time(value).map(|at| {
                self.ending.stage_entered_at = self.ending.stage_entered_at.max(at);
            }),
            Target::Outcome => self.outcome(value),
            Target::IsWon => boolean(value).map(|is| self.ending.is_won = is),
            Target::IsLost => boolean(value).map(|is| self.ending.is_lost = is),
            Target::IsClosed => boolean(value).map(|is| self.ending.is_closed = is),
            Target::IsActive => boolean(value).map(|is| self.ending.is_active = is),
            Target::Activity { kind, direction } => self.time(value).map(|at| {
                if let Some(at) = at {
                    let (kind, direction) = (kind.clone(), direction.clone());
                    let activity =
                        json!({"type": "activity", "at": at, "kind": kind, "direction": direction});
                    self.event(name, activity);
                }
            }),
        };
        if let Err(reason) = taken {
            self.errors.push(FieldError::new(name, reason));
        }
    }

    fn time(&self, value: &Value) -> Result<Option<Timestamp>, String> {
        self.table.time(value)
    }

    fn field(&mut self, name: &str, field: &str, value: &Value) -> Result<(), String> {
        let value = match field {
            "amount" => amount(value, self.table.amount_units)?,
            "expected_close_at" => self.time(value)?.map_or(Value::Null, |at| json!(at)),
            "currency" => json!(text(value).filter(|code| !code.is_empty())),
            _ => {
                let theirs = text(value);
                let names = self.table.values.get(field);
                let ours = theirs.as_ref().and_then(|theirs| names?.get(theirs));
                if field == "stage" {
                    self.ending.by_stage = self.table.outcome_of_stage(&theirs, ours);
                }
                json!(ours.cloned().or(theirs))
            }
        };
        if field == "stage" {
            // When it was entered may be told by another field.
            self.ending.stage = Some((name.to_owned(), value));
            return Ok(());
        }
        self.change(name, field, value);
        Ok(())
    }

    fn outcome(&mut self, value: &Value) -> Result<(), String> {
        let Some(word) = text(value).filter(|word| !word.is_empty()) else {
            return Ok(());
        };
        let lower = word.to_lowercase();
        let mut words = self.table.outcomes.iter();
        match words.find(|(known, _)| *known == lower) {
            Some((_, outcome)) => {
                self.ending.outcome = Some(*outcome);
                Ok(())
            }
            None => Err(format!(
                "`{}` is no outcome that is known",
                word.escape_debug()
            )),
        }
    }

    fn change(&mut self, name: &str, field: &str, value: Value) {
        let at = self.at;
        self.event(
            name,
            json!({"type": "change", "at": at, "field": field, "value": value}),
        );
    }

    /// Takes a fact as a document has it, so that the same rules hold on every path.
    fn event(&mut self, name: &str, event: Value) {
        match document::parse_event(event, self.now) {
            Ok(event) => self.events.push(event),
            Err(errors) => {
                let reasons = errors.into_iter().map(|e| FieldError::new(name, e.reason));
                self.errors.extend(reasons);
            }
        }
    }

    fn finish(mut self, is_whole: bool) -> Result<Vec<Event>, Vec<FieldError>> {
        let at = self.at;
        if let Some((name, stage)) = self.ending.stage.take() {
            let entered_at = self
                .ending
                .stage_entered_at
                .filter(|entered| *entered <= at);
            let entered_at = entered_at.unwrap_or(at);
            let change =
                json!({"type": "change", "at": entered_at, "field": "stage", "value": stage});
            self.event(&name, change);
        }
        if let Some(outcome) = self.ending.outcome() {
            let closed_at = self.ending.closed_at.filter(|closed| *closed <= at);
            if let (Some(at), true) = (closed_at, outcome != Outcome::Open) {
                self.events.push(Event::Closed { at, outcome });
            }
            self.events.push(Event::Closed { at, outcome });
        }
        if is_whole {
            self.birth();
        }
        match self.errors.is_empty() {
            true => Ok(self.events),
            false => Err(self.errors),
        }
    }

    /// What a deal that was not known may lack.
    fn birth(&mut self) {
        let at = self.at;
        let is_dated = (self.events.iter()).any(|event| matches!(event, Event::Created { .. }));
        if !is_dated {
            // It was there when it was seen, and may be older.
            self.events.push(Event::Created { at });
        }
        let has_currency = self
            .events
            .iter()
            .any(|event| matches!(event, Event::Change(change) if change.field == "currency"));
        if let Some(currency) = self.table.currency.filter(|_| !has_currency) {
            self.change("currency", "currency", json!(currency));
        }
    }
}

impl Table {
    fn outcome_of_stage(&self, theirs: &Option<String>, ours: Option<&String>) -> Option<Outcome> {
        let stage = theirs.as_ref()?;
        let is_in = |stages: &[String]| {
            stages.contains(stage) || ours.is_some_and(|ours| stages.contains(ours))
        };
        if is_in(&self.won_stages) {
            Some(Outcome::Won)
        } else if is_in(&self.lost_stages) {
            Some(Outcome::Lost)
        } else {
            let says_nothing = self.won_stages.is_empty() && self.lost_stages.is_empty();
            (!says_nothing).then_some(Outcome::Open)
        }
    }
}

/// How an attribute is called: under the name of a field it would be taken for the field.
pub fn attribute_name(name: &str) -> String {
    match DEAL_FIELDS.contains(&name) {
        true => format!("crm.{name}"),
        false => name.to_owned(),
    }
}

/// A value that some CRMs wrap into an object.
fn scalar(value: &Value) -> &Value {
    match value {
        Value::Object(fields) => (fields.get("value").or_else(|| fields.get("id")))
            .filter(|inner| !inner.is_object())
            .unwrap_or(&Value::Null),
        other => other,
    }
}

/// A list as one text; what cannot be one is nothing.
fn joined(value: &Value) -> Value {
    match scalar(value) {
        Value::Array(items) => {
            let mut texts: Vec<String> = items.iter().filter_map(text).collect();
            texts.sort();
            match texts.is_empty() {
                true => Value::Null,
                false => json!(texts.join("; ")),
            }
        }
        Value::String(text) if text.is_empty() => Value::Null,
        other => other.clone(),
    }
}

/// A name or an id, whether it came as a text or as a number.
pub fn text(value: &Value) -> Option<String> {
    match scalar(value) {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(bool) => Some(bool.to_string()),
        _ => None,
    }
}

fn amount(value: &Value, units: u32) -> Result<Value, String> {
    let value = scalar(value);
    if units <= 1 {
        return Ok(value.clone());
    }
    let Some(text) = text(value).filter(|text| !text.is_empty()) else {
        return Ok(Value::Null);
    };
    let amount: Decimal = text
        .parse()
        .map_err(|_| format!("`{}` is not an amount", text.escape_debug()))?;
    Ok(json!((amount / Decimal::from(units)).to_string()))
}

fn boolean(value: &Value) -> Result<Option<bool>, String> {
    match scalar(value) {
        Value::Null => Ok(None),
        Value::Bool(bool) => Ok(Some(*bool)),
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "" => Ok(None),
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(format!(
                "`{}` is neither true nor false",
                text.escape_debug()
            )),
        },
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

fn epoch(number: i64) -> Result<Timestamp, String> {
    let at = if number.abs() > EPOCH_SECONDS_MAX {
        Timestamp::from_millisecond(number)
    } else {
        Timestamp::from_second(number)
    };
    at.map_err(|_| format!("`{number}` is not a time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table {
            amount_units: 100,
            won_stages: vec!["Won".into()],
            lost_stages: vec!["Lost".into()],
            ..Table::new(TimeZone::get("Europe/Paris").unwrap())
        };
        for (theirs, ours) in [
            ("value", "amount"),
            ("stage", "stage"),
            ("entered", "stage_entered_at"),
            ("updated", "as_of"),
            ("x_*", "ignore"),
            ("*", "attributes.*"),
        ] {
            table.insert(theirs, Target::parse(ours).unwrap());
        }
        table
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_come_in_many_forms() {
        let table = table();
        let time = |value: Value| table.time(&value).unwrap();
        let expected = Some(at("2026-01-15T09:00:00Z"));
        for value in [
            json!("2026-01-15T09:00:00Z"),
            json!("2026-01-15T10:00:00+01:00"),
            json!("2026-01-15T10:00:00.000+0100"),
            json!("2026-01-15 10:00:00"),
            json!("2026-01-15T10:00:00.000"),
            json!(1768467600),
            json!(1768467600000i64),
            json!("1768467600000"),
            json!({"value": "2026-01-15T09:00:00Z"}),
        ] {
            assert_eq!(time(value.clone()), expected, "{value}");
        }
        assert_eq!(time(json!("2026-01-15")), Some(at("2026-01-14T23:00:00Z")));
        assert_eq!(time(json!("")), None);
        assert!(table.time(&json!("soon")).is_err());
        assert!(table.time(&json!([1])).is_err());
    }

    #[test]
    fn a_sighting_becomes_facts_of_its_moment() {
        let object = json!({
            "value": "120050", "stage": "Won", "entered": "2026-01-02T00:00:00Z",
            "updated": "2026-01-05T00:00:00Z", "x_hidden": 1, "City": {"name": {"short": "P"}},
            "tags": ["b", "a"]
        });
        let table = table();
        let fields = table.fields(&object);
        let at_ = table.as_of(&fields).unwrap();
        let sighting = Sighting {
            fields,
            at: at_,
            is_whole: true,
        };
        let facts = table.facts(&sighting, at("2026-02-01T00:00:00Z")).unwrap();
        let mut deal = crate::domain::Deal::new(crate::domain::DealId::new("d").unwrap());
        for fact in facts {
            deal.apply(fact).unwrap();
        }
        assert_eq!(deal.amount, Some("1200.5".parse().unwrap()));
        assert_eq!((deal.outcome, deal.closed_at), (Outcome::Won, Some(at_)));
        let stage = deal.history.iter().find(|c| c.field == "stage").unwrap();
        assert_eq!(stage.at, at("2026-01-02T00:00:00Z"));
        let names: Vec<&str> = deal.attributes.keys().map(String::as_str).collect();
        assert_eq!(names, ["City.name.short", "tags"]);
        assert_eq!(json!(deal.attributes["tags"]), json!("a; b"));
    }

    #[test]
    fn what_cannot_be_meant_is_named_as_they_name_it() {
        let object = json!({"value": "much", "stage": "demo"});
        let table = table();
        let sighting = Sighting {
            fields: table.fields(&object),
            at: at("2026-01-05T00:00:00Z"),
            is_whole: true,
        };
        let errors = table
            .facts(&sighting, at("2026-02-01T00:00:00Z"))
            .unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].field, "value");
    }
}
