//! The JSON deal document, in both directions.
//!
//! Reading takes nothing on trust and reports everything that is wrong, each by the path of its
//! field; writing and reading back gives an equal deal.

use std::collections::BTreeMap;
use std::fmt::Display;

use jiff::fmt::temporal::Pieces;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde_json::{Map, Value, json};

use crate::domain::deal::{DEAL_FIELDS, Event, OutcomeAt};
use crate::domain::money::{AMOUNT_MAX, parse_amount};
use crate::domain::{Activity, AttributeValue, Currency, Deal, DealId, FieldChange, Outcome};
use crate::error::FieldError;

/// Most attributes of one deal.
pub const ATTRIBUTES_MAX: usize = 500;
/// Longest name of an attribute, in bytes.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 200;
/// Longest text in a deal, in bytes.
pub const TEXT_BYTES_MAX: usize = 10_000;
/// Most changes in the history of one document.
pub const HISTORY_MAX: usize = 10_000;
/// Most activities in one document.
pub const ACTIVITIES_MAX: usize = 10_000;
/// How far a time of something that has happened may lie ahead of our clock: time zones get lost on
/// the way, so a day is forgiven.
pub const FUTURE_HOURS_MAX: i64 = 24;
/// Earliest and latest time taken; beyond them lie sentinels and typing errors.
pub const TIME_MIN: &str = "1970-01-01T00:00:00Z";
pub const TIME_MAX: &str = "2200-01-01T00:00:00Z";
/// Most errors reported about one document; the rest are counted.
pub const ERRORS_MAX: usize = 100;

/// Fields of a document of whose past nothing is kept: an event about one of them would be taken for
/// an attribute of that name.
const FIELDS_WITHOUT_HISTORY: [&str; 8] = [
    "id",
    "created_at",
    "closed_at",
    "outcome",
    "outcomes",
    "attributes",
    "history",
    "activities",
];

const SECOND_MAX: i64 = 7_258_118_400;

/// Reads a document that we wrote ourselves, or one that needs no clock: see [`parse_at`].
///
/// # Errors
/// As [`parse_at`], except that times in the future pass.
pub fn parse(document: Value) -> Result<Deal, Vec<FieldError>> {
    Reader::new(None).finish(|reader| reader.deal(document))
}

/// Reads a deal document that arrived at `now` and reports everything that is wrong with it, not
/// only the first thing.
///
/// # Errors
/// One entry for each field that is unknown, missing, of the wrong type, out of range, or dated more
/// than [`FUTURE_HOURS_MAX`] ahead though it tells of something that has happened.
pub fn parse_at(document: Value, now: Timestamp) -> Result<Deal, Vec<FieldError>> {
    Reader::new(Some(now)).finish(|reader| reader.deal(document))
}

/// The deal after a JSON merge patch (RFC 7396): null clears a field, attributes are merged by name.
/// Unlike in the RFC, `history` and `activities` are added to what is there, since the past does not
/// change. A patch that reopens a deal also clears `closed_at`.
///
/// # Errors
/// As [`parse_at`], and when the patch would change the id.
pub fn patch(deal: &Deal, patch: Value, now: Timestamp) -> Result<Deal, Vec<FieldError>> {
    let Value::Object(mut patch) = patch else {
        return Err(vec![FieldError::new("", expected("an object", &patch))]);
    };
    if let Some(id) = patch.remove("id")
        && id.as_str().map(str::trim) != Some(deal.id.as_str())
    {
        let reason = format!("the id of a deal cannot change; it is `{}`", deal.id);
        return Err(vec![FieldError::new("id", reason)]);
    }
    let reopens =
        matches!(patch.get("outcome"), Some(outcome) if outcome == "open" || outcome.is_null());
    if reopens && !patch.contains_key("closed_at") {
        patch.insert("closed_at".into(), Value::Null);
    }
    let log = ["history", "activities", "outcomes"].map(|key| (key, patch.remove(key)));
    let mut document = write(deal);
    merge(&mut document, Value::Object(patch));
    for key in ["stage", "created_at"] {
        if document.get(key).is_none() {
            document[key] = Value::Null;
        }
    }
    for (key, entries) in log {
        match (document.get_mut(key), entries) {
            (_, None) => {}
            (Some(Value::Array(known)), Some(Value::Array(added))) => known.extend(added),
            (_, Some(entries)) => document[key] = entries,
        }
    }
    parse_at(document, now)
}

/// Reads one event: `{"type": "activity", "at", "kind", "direction"?, "outcome"?}`,
/// `{"type": "change", "at", "field", "value"}`, `{"type": "closed", "at", "outcome"}`,
/// `{"type": "reopened", "at"}` or `{"type": "created", "at"}`.
///
/// # Errors
/// One entry for each field that is unknown, missing, of the wrong type, or out of range.
pub fn parse_event(event: Value, now: Timestamp) -> Result<Event, Vec<FieldError>> {
    Reader::new(Some(now)).finish(|reader| reader.event(event))
}

/// The document of a deal; [`parse`] reads it back to an equal deal.
pub fn write(deal: &Deal) -> Value {
    let mut document = json!({
        "id": deal.id.as_str(),
        "stage": deal.stage,
        "created_at": deal.created_at.map(|at| at.to_string()),
        "outcome": deal.outcome.as_str(),
        "attributes": deal.attributes,
    });
    let optional = [
        ("name", deal.name.clone()),
        ("pipeline", deal.pipeline.clone()),
        ("owner", deal.owner.clone()),
        ("amount", deal.amount.map(|amount| amount.to_string())),
        ("currency", deal.currency.map(|code| code.to_string())),
        (
            "expected_close_at",
            deal.expected_close_at.map(|at| at.to_string()),
        ),
        ("priority", deal.priority.clone()),
        ("closed_at", deal.closed_at.map(|at| at.to_string())),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            document[key] = Value::String(value);
        }
    }
    if !deal.history.is_empty() {
        document["history"] = json!(deal.history);
    }
    if !deal.activities.is_empty() {
        document["activities"] = json!(deal.activities);
    }
    if !deal.outcomes.is_empty() {
        document["outcomes"] = json!(deal.outcomes);
    }
    document
}

/// A JSON merge patch (RFC 7396).
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Whether a time is one that a deal can have; `has_happened` tells that it cannot lie ahead.
///
/// # Errors
/// When it is before [`TIME_MIN`], after [`TIME_MAX`], or further ahead of `now` than a day.
pub(crate) fn check_time(
    at: Timestamp,
    has_happened: bool,
    now: Option<Timestamp>,
) -> Result<Timestamp, String> {
    if at.as_second() < 0 {
        return Err(format!("{at} is before {TIME_MIN}"));
    }
    if at.as_second() > SECOND_MAX {
        return Err(format!("{at} is after {TIME_MAX}"));
    }
    let future_max = SignedDuration::from_hours(FUTURE_HOURS_MAX);
    match now {
        Some(now) if has_happened && at.duration_since(now) > future_max => {
            Err(format!("{at} is in the future; it is now {now}"))
        }
        _ => Ok(at),
    }
}

/// Collects what is wrong while it reads.
struct Reader {
    now: Option<Timestamp>,
    errors: Vec<FieldError>,
    /// Errors beyond [`ERRORS_MAX`].
    unnamed_errors: usize,
}

impl Reader {
    fn new(now: Option<Timestamp>) -> Self {
        Self {
            now,
            errors: Vec::new(),
            unnamed_errors: 0,
        }
    }

    /// The value that `read` makes, if nothing was wrong.
    fn finish<T>(
        mut self,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<T, Vec<FieldError>> {
        let value = read(&mut self);
        if self.unnamed_errors > 0 {
            let reason = format!("{} more errors are not listed", self.unnamed_errors);
            self.errors.push(FieldError::new("", reason));
        }
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(self.errors),
        }
    }

    fn wrong(&mut self, path: impl Display, reason: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(FieldError::new(path.to_string(), reason));
        } else {
            self.unnamed_errors += 1;
        }
    }

    fn checked<T>(&mut self, path: impl Display, result: Result<T, String>) -> Option<T> {
        result.map_err(|reason| self.wrong(path, reason)).ok()
    }

    fn deal(&mut self, document: Value) -> Option<Deal> {
        let mut fields = self.object("", document)?;
        let id = self.id(fields.remove("id"));
        for required in ["stage", "created_at"] {
            if !fields.contains_key(required) {
                self.wrong(required, "is required; give null when it is not known");
            }
        }
        // Only a stand-in: without an id the document is refused anyway.
        let mut deal = Deal::new(id.or_else(|| DealId::new("?").ok())?);
        deal.name = self.text("name", fields.remove("name"));
        deal.pipeline = self.text("pipeline", fields.remove("pipeline"));
        deal.stage = self.text("stage", fields.remove("stage"));
        deal.owner = self.text("owner", fields.remove("owner"));
        deal.amount = self.amount("amount", fields.remove("amount"));
        deal.currency = self.currency("currency", fields.remove("currency"));
        deal.created_at = self.time("created_at", fields.remove("created_at"), true);
        deal.expected_close_at = self.time(
            "expected_close_at",
            fields.remove("expected_close_at"),
            false,
        );
        deal.priority = self.text("priority", fields.remove("priority"));
        deal.attributes = self.attributes(fields.remove("attributes"));
        deal.history = self.list(
            "history",
            HISTORY_MAX,
            fields.remove("history"),
            Self::change,
        );
        let activities = fields.remove("activities");
        deal.activities = self.list("activities", ACTIVITIES_MAX, activities, Self::activity);
        deal.outcome = self
            .outcome("outcome", fields.remove("outcome"))
            .unwrap_or_default();
        deal.closed_at = self.time("closed_at", fields.remove("closed_at"), true);
        let outcomes = fields.remove("outcomes");
        deal.outcomes = self.list("outcomes", HISTORY_MAX, outcomes, Self::outcome_at);
        if deal.is_open() && deal.closed_at.is_some() {
            self.wrong(
                "closed_at",
                "an open deal has no closing time; is `outcome` missing?",
            );
        }
        // Files hold such orders, and what is stored is read back; whoever sends one can mend it.
        if let (Some(_), Some(created), Some(closed)) = (self.now, deal.created_at, deal.closed_at)
            && closed < created
        {
            self.wrong(
                "closed_at",
                format!("{closed} is before `created_at`, {created}"),
            );
        }
        self.unknown("", &fields);
        deal.sort();
        Some(deal)
    }

    fn event(&mut self, event: Value) -> Option<Event> {
        let mut fields = self.object("", event)?;
        match fields.remove("type").as_ref().and_then(Value::as_str) {
            Some("activity") => self
                .activity("", Value::Object(fields))
                .map(Event::Activity),
            Some("change") => {
                let change = self.change("", Value::Object(fields))?;
                if FIELDS_WITHOUT_HISTORY.contains(&change.field.as_str()) {
                    let reason = match change.field.as_str() {
                        "outcome" | "closed_at" => "send an event of the type `closed`",
                        _ => "its changes are not kept; change it by PATCH",
                    };
                    self.wrong("field", reason);
                }
                Some(Event::Change(change))
            }
            Some("closed") => {
                let at = self.required_time("at", fields.remove("at"));
                let is_given = fields.contains_key("outcome");
                if !is_given {
                    self.wrong("outcome", "is required");
                }
                let outcome = self.outcome("outcome", fields.remove("outcome"));
                if is_given && outcome == Some(Outcome::Open) {
                    self.wrong(
                        "outcome",
                        "expected `won` or `lost`; send an event of the type `reopened`",
                    );
                }
                self.unknown("", &fields);
                Some(Event::Closed {
                    at: at?,
                    outcome: outcome?,
                })
            }
            Some(kind @ ("created" | "reopened")) => {
                let at = self.required_time("at", fields.remove("at"));
                self.unknown("", &fields);
                let at = at?;
                let outcome = Outcome::Open;
                Some(match kind {
                    "created" => Event::Created { at },
                    _ => Event::Closed { at, outcome },
                })
            }
            _ => {
                let kinds = "`activity`, `change`, `closed`, `reopened` or `created`";
                self.wrong("type", format!("expected {kinds}"));
                None
            }
        }
    }

    fn outcome_at(&mut self, path: &str, seen: Value) -> Option<OutcomeAt> {
        let mut fields = self.object(path, seen)?;
        let at = self.required_time(Sub(path, "at"), fields.remove("at"));
        let outcome = self.outcome(Sub(path, "outcome"), fields.remove("outcome"));
        self.unknown(path, &fields);
        Some(OutcomeAt {
            at: at?,
            outcome: outcome?,
        })
    }

    fn change(&mut self, path: &str, change: Value) -> Option<FieldChange> {
        let mut fields = self.object(path, change)?;
        let at = self.required_time(Sub(path, "at"), fields.remove("at"));
        let field = self.required_text(Sub(path, "field"), fields.remove("field"));
        if let Some(field) = &field
            && let Err(reason) = check_name(field)
        {
            self.wrong(Sub(path, "field"), reason);
        }
        let value = match fields.remove("value") {
            Some(value) => self.field_value(Sub(path, "value"), field.as_deref()?, value),
            None => {
                self.wrong(Sub(path, "value"), "is required; null when it was cleared");
                None
            }
        };
        self.unknown(path, &fields);
        Some(FieldChange {
            at: at?,
            field: field?,
            value: value?,
        })
    }

    /// The value of a change, in the form that [`Deal::field`] has, so that the two can be compared.
    fn field_value(
        &mut self,
        path: impl Display + Copy,
        field: &str,
        value: Value,
    ) -> Option<AttributeValue> {
        if !DEAL_FIELDS.contains(&field) {
            return self.scalar(path, value);
        }
        let errors_before = self.errors.len() + self.unnamed_errors;
        let text = match field {
            "amount" => self
                .amount(path, Some(value))
                .map(|amount| amount.to_string()),
            "currency" => self
                .currency(path, Some(value))
                .map(|code| code.to_string()),
            "expected_close_at" => self.time(path, Some(value), false).map(|at| at.to_string()),
            _ => self.text(path, Some(value)),
        };
        let is_fine = self.errors.len() + self.unnamed_errors == errors_before;
        is_fine.then(|| text.map_or(AttributeValue::Null, AttributeValue::Text))
    }

    fn activity(&mut self, path: &str, activity: Value) -> Option<Activity> {
        let mut fields = self.object(path, activity)?;
        let at = self.required_time(Sub(path, "at"), fields.remove("at"));
        let kind = self.required_text(Sub(path, "kind"), fields.remove("kind"));
        let direction = self.text(Sub(path, "direction"), fields.remove("direction"));
        let outcome = self.text(Sub(path, "outcome"), fields.remove("outcome"));
        self.unknown(path, &fields);
        Some(Activity {
            at: at?,
            kind: kind?,
            direction,
            outcome,
        })
    }

    fn attributes(&mut self, value: Option<Value>) -> BTreeMap<String, AttributeValue> {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            return BTreeMap::new();
        };
        let Some(attributes) = self.object("attributes", value) else {
            return BTreeMap::new();
        };
        if attributes.len() > ATTRIBUTES_MAX {
            let reason = format!(
                "at most {ATTRIBUTES_MAX} attributes, found {}",
                attributes.len()
            );
            self.wrong("attributes", reason);
            return BTreeMap::new();
        }
        let mut read = BTreeMap::new();
        for (name, value) in attributes {
            if let Err(reason) = check_name(&name) {
                self.wrong("attributes", reason);
            } else if let Some(value) = self.scalar(Sub("attributes", &name), value) {
                read.insert(name, value);
            }
        }
        read
    }

    fn scalar(&mut self, path: impl Display, value: Value) -> Option<AttributeValue> {
        match value {
            Value::Null => Some(AttributeValue::Null),
            Value::Bool(bool) => Some(AttributeValue::Bool(bool)),
            Value::Number(number) => number.as_f64().map(AttributeValue::Number),
            Value::String(text) => {
                let text = check_text(text);
                self.checked(path, text).map(AttributeValue::Text)
            }
            nested @ (Value::Array(_) | Value::Object(_)) => {
                self.wrong(
                    path,
                    expected("a string, a number, a boolean or null", &nested),
                );
                None
            }
        }
    }

    fn list<T>(
        &mut self,
        path: &str,
        entries_max: usize,
        value: Option<Value>,
        read: impl Fn(&mut Self, &str, Value) -> Option<T>,
    ) -> Vec<T> {
        let entries = match value {
            None | Some(Value::Null) => return Vec::new(),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                self.wrong(path, expected("an array", &other));
                return Vec::new();
            }
        };
        if entries.len() > entries_max {
            let reason = format!("at most {entries_max} entries, found {}", entries.len());
            self.wrong(path, reason);
            return Vec::new();
        }
        let entries = entries.into_iter().enumerate();
        entries
            .filter_map(|(index, entry)| read(self, &format!("{path}[{index}]"), entry))
            .collect()
    }

    fn object(&mut self, path: &str, value: Value) -> Option<Map<String, Value>> {
        match value {
            Value::Object(fields) => Some(fields),
            other => {
                self.wrong(path, expected("an object", &other));
                None
            }
        }
    }

    fn unknown(&mut self, path: &str, left: &Map<String, Value>) {
        for name in left.keys() {
            self.wrong(Sub(path, name), "is not a known field");
        }
    }

    fn id(&mut self, value: Option<Value>) -> Option<DealId> {
        match value {
            None | Some(Value::Null) => {
                self.wrong("id", "is required");
                None
            }
            Some(Value::String(id)) => self.checked("id", DealId::new(&id)),
            Some(other) => {
                self.wrong("id", expected("a string", &other));
                None
            }
        }
    }

    /// A text without surrounding blanks; a blank one is none, as in a CSV.
    fn text(&mut self, path: impl Display, value: Option<Value>) -> Option<String> {
        match value {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => {
                let text = self.checked(path, check_text(text))?;
                let trimmed = text.trim();
                match trimmed.len() {
                    0 => None,
                    len if len == text.len() => Some(text),
                    _ => Some(trimmed.to_owned()),
                }
            }
            Some(other) => {
                self.wrong(path, expected("a string", &other));
                None
            }
        }
    }

    fn required_text(&mut self, path: impl Display + Copy, value: Option<Value>) -> Option<String> {
        match value {
            None | Some(Value::Null) => {
                self.wrong(path, "is required");
                None
            }
            Some(Value::String(blank)) if blank.trim().is_empty() => {
                self.wrong(path, "may not be empty");
                None
            }
            text => self.text(path, text),
        }
    }

    fn amount(&mut self, path: impl Display, value: Option<Value>) -> Option<Decimal> {
        let amount = match value {
            None | Some(Value::Null) => return None,
            Some(Value::String(blank)) if blank.trim().is_empty() => return None,
            Some(Value::String(text)) => check_text(text).and_then(|text| parse_amount(&text)),
            Some(Value::Number(number))
                if number.as_f64().is_some_and(|n| n > AMOUNT_MAX as f64) =>
            {
                Err(format!(
                    "an amount may be at most {AMOUNT_MAX}, but is {number}"
                ))
            }
            // The shortest text that gives this number: 1234.1 stays 1234.1.
            Some(Value::Number(number)) => parse_amount(&number.to_string()),
            Some(other) => Err(expected("a number or a decimal string", &other)),
        };
        self.checked(path, amount)
    }

    fn currency(&mut self, path: impl Display + Copy, value: Option<Value>) -> Option<Currency> {
        let code = self.text(path, value)?;
        self.checked(path, code.parse())
    }

    fn time(
        &mut self,
        path: impl Display,
        value: Option<Value>,
        has_happened: bool,
    ) -> Option<Timestamp> {
        let text = match value {
            None | Some(Value::Null) => return None,
            Some(Value::String(text)) => text,
            Some(other) => {
                self.wrong(path, expected("an RFC 3339 time", &other));
                return None;
            }
        };
        let time = text.trim().parse().map_err(|_| not_a_time(text.trim()));
        let now = self.now;
        self.checked(path, time.and_then(|at| check_time(at, has_happened, now)))
    }

    fn required_time(
        &mut self,
        path: impl Display + Copy,
        value: Option<Value>,
    ) -> Option<Timestamp> {
        if matches!(value, None | Some(Value::Null)) {
            self.wrong(path, "is required");
            return None;
        }
        self.time(path, value, true)
    }

    fn outcome(&mut self, path: impl Display, value: Option<Value>) -> Option<Outcome> {
        match value {
            None | Some(Value::Null) => Some(Outcome::Open),
            Some(Value::String(text)) => match text.as_str() {
                "open" => Some(Outcome::Open),
                "won" => Some(Outcome::Won),
                "lost" => Some(Outcome::Lost),
                _ => {
                    self.wrong(path, "expected `open`, `won` or `lost`");
                    None
                }
            },
            Some(other) => {
                self.wrong(path, expected("`open`, `won` or `lost`", &other));
                None
            }
        }
    }
}

/// The path of a field within an object; written out only when something is wrong with it.
#[derive(Clone, Copy)]
struct Sub<'a>(&'a str, &'a str);

impl Display for Sub<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            f.write_str(self.1)
        } else {
            write!(f, "{}.{}", self.0, self.1)
        }
    }
}

fn expected(wanted: &str, found: &Value) -> String {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("expected {wanted}, found {found}")
}

/// The library's own last moment is a day before 9999-12-31, a popular way to say "never".
fn not_a_time(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    match Pieces::parse(text) {
        Ok(pieces) if pieces.time().is_some() && pieces.offset().is_some() => {
            format!("{shown} is not between {TIME_MIN} and {TIME_MAX}")
        }
        _ => format!(
            "`{}` is not an RFC 3339 time such as 2026-01-31T09:00:00Z",
            shown.escape_debug()
        ),
    }
}

/// NUL is refused because not every database can store it.
pub(crate) fn check_text(text: String) -> Result<String, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!(
            "a text may have at most {TEXT_BYTES_MAX} bytes, but has {}",
            text.len()
        ));
    }
    if text.contains('\0') {
        return Err("a text may not hold the character U+0000".into());
    }
    Ok(text)
}

fn check_name(name: &str) -> Result<(), String> {
    let shown: String = name.chars().take(40).collect();
    if name.trim().is_empty() {
        return Err("the name of an attribute may not be empty".into());
    }
    if name.len() > ATTRIBUTE_NAME_BYTES_MAX {
        return Err(format!(
            "the name of an attribute may have at most {ATTRIBUTE_NAME_BYTES_MAX} bytes, but `{}...` has {}",
            shown.escape_debug(),
            name.len()
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(format!(
            "the name of an attribute may not hold control characters: `{}`",
            shown.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    fn document() -> Value {
        json!({"id": "d1", "stage": "demo", "created_at": "2026-01-01T09:00:00+01:00"})
    }

    fn with(field: &str, value: Value) -> Value {
        let mut document = document();
        document[field] = value;
        document
    }

    /// What is said about the one field that is wrong.
    fn reason(document: Value, field: &str) -> String {
        let errors = parse_at(document, now()).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert_eq!(errors[0].field, field);
        errors[0].reason.clone()
    }

    #[test]
    fn a_full_document_is_read() {
        let deal = parse_at(
            json!({
                "id": " d1 ", "name": "Acme", "pipeline": "new business", "stage": "demo",
                "owner": "ann", "amount": 1234.1, "currency": "eur",
                "created_at": "2026-01-01T09:00:00+01:00", "expected_close_at": "2027-01-01T00:00:00Z",
                "priority": "high", "attributes": {"Country": "FR", "Size": 12, "VIP": true, "Note": null},
                "history": [
                    {"at": "2026-02-01T00:00:00Z", "field": "amount", "value": 1234.1},
                    {"at": "2026-01-02T00:00:00Z", "field": "stage", "value": "new"}
                ],
                "activities": [{"at": "2026-01-03T00:00:00Z", "kind": "call", "direction": "outbound"}],
                "outcome": "won", "closed_at": "2026-03-01T00:00:00Z"
            }),
            now(),
        )
        .unwrap();
        assert_eq!(deal.id.as_str(), "d1");
        assert_eq!(deal.amount.unwrap().to_string(), "1234.1");
        assert_eq!(deal.currency.unwrap().as_str(), "EUR");
        assert_eq!(deal.created_at.unwrap().to_string(), "2026-01-01T08:00:00Z");
        assert_eq!(deal.attributes["Size"], AttributeValue::Number(12.0));
        assert_eq!(deal.history[0].field, "stage", "sorted by time");
        assert_eq!(deal.history[1].value, deal.field("amount"));
        assert_eq!(deal.outcome, Outcome::Won);
    }

    #[test]
    fn everything_wrong_is_reported_at_once() {
        let errors = parse_at(
            json!({
                "amount": true, "currency": "EURO", "color": "red", "stage": 5, "outcome": "maybe",
                "created_at": "yesterday",
                "attributes": {"Country": ["FR"], "": 1},
                "history": [
                    {"at": "2026-02-01T00:00:00Z", "field": "stage", "value": "new"},
                    {"at": "soon", "field": "amount", "value": -1, "by": "ann"}
                ],
                "activities": [{"at": "2026-02-01T00:00:00Z"}]
            }),
            now(),
        )
        .unwrap_err();
        let said: Vec<String> = errors
            .iter()
            .map(|e| format!("{}: {}", e.field, e.reason))
            .collect();
        for expected in [
            "id: is required",
            "stage: expected a string, found a number",
            "amount: expected a number or a decimal string, found a boolean",
            "currency: `EURO` is not a three-letter currency code",
            "created_at: `yesterday` is not an RFC 3339 time such as 2026-01-31T09:00:00Z",
            "attributes: the name of an attribute may not be empty",
            "attributes.Country: expected a string, a number, a boolean or null, found an array",
            "history[1].at: `soon` is not an RFC 3339 time such as 2026-01-31T09:00:00Z",
            "history[1].value: an amount may not be negative, but is -1",
            "history[1].by: is not a known field",
            "activities[0].kind: is required",
            "outcome: expected `open`, `won` or `lost`",
            "color: is not a known field",
        ] {
            assert!(
                said.iter().any(|s| s == expected),
                "no `{expected}` in {said:#?}"
            );
        }
        assert_eq!(said.len(), 13, "{said:#?}");
    }

    #[test]
    fn absent_is_not_null_for_stage_and_created_at() {
        let deal = parse(json!({"id": "d1", "stage": null, "created_at": null})).unwrap();
        assert_eq!((deal.stage, deal.created_at), (None, None));
        let errors = parse(json!({"id": "d1"})).unwrap_err();
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["stage", "created_at"]);
        assert!(
            parse(json!([1])).unwrap_err()[0]
                .reason
                .contains("found an array")
        );
    }

    #[test]
    fn amounts_are_decimal_and_possible() {
        for (given, read) in [
            (json!(1234.1), "1234.1"),
            (json!("1234.10"), "1234.1"),
            (json!(1e3), "1000"),
            (json!(0), "0"),
        ] {
            let deal = parse(with("amount", given)).unwrap();
            assert_eq!(deal.amount.unwrap().to_string(), read);
        }
        assert!(reason(with("amount", json!(-5)), "amount").contains("negative"));
        assert!(reason(with("amount", json!(1e300)), "amount").contains("at most"));
        assert!(reason(with("amount", json!("1,000")), "amount").contains("not an amount"));
        assert!(reason(with("amount", json!({})), "amount").contains("found an object"));
    }

    #[test]
    fn what_has_happened_cannot_lie_ahead() {
        let later = "2026-06-03T12:00:00Z";
        assert!(reason(with("created_at", json!(later)), "created_at").contains("in the future"));
        let activity = json!([{"at": later, "kind": "call"}]);
        assert!(reason(with("activities", activity), "activities[0].at").contains("in the future"));
        assert!(parse_at(with("expected_close_at", json!(later)), now()).is_ok());
        assert!(parse_at(with("created_at", json!("2026-06-02T11:00:00Z")), now()).is_ok());
        assert!(
            parse(with("created_at", json!(later))).is_ok(),
            "no clock, no future"
        );
    }

    #[test]
    fn absurd_times_are_refused_and_impossible_orders_are_not() {
        assert!(
            reason(
                with("created_at", json!("1969-12-31T23:59:59Z")),
                "created_at"
            )
            .contains("before")
        );
        let never = with("expected_close_at", json!("9999-12-31T23:59:59Z"));
        assert!(reason(never, "expected_close_at").contains("not between"));
        let far = with("expected_close_at", json!("3000-01-01T00:00:00Z"));
        assert!(reason(far, "expected_close_at").contains("after"));
        assert_eq!(
            TIME_MAX.parse::<Timestamp>().unwrap().as_second(),
            SECOND_MAX
        );
        let mut backwards = with("outcome", json!("lost"));
        backwards["closed_at"] = json!("2025-01-01T00:00:00Z");
        assert!(
            parse(backwards.clone()).is_ok(),
            "stored deals are read back"
        );
        let errors = parse_at(backwards, "2026-06-01T00:00:00Z".parse().unwrap()).unwrap_err();
        assert!(
            errors[0].reason.contains("is before `created_at`"),
            "{errors:?}"
        );
    }

    #[test]
    fn an_open_deal_has_no_closing_time() {
        let open = with("closed_at", json!("2026-02-01T00:00:00Z"));
        assert!(reason(open, "closed_at").contains("open deal"));
        assert!(parse(with("outcome", json!("won"))).is_ok());
    }

    #[test]
    fn limits_are_named() {
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        assert!(reason(with("owner", json!(long)), "owner").contains("10000 bytes"));
        let many: Map<String, Value> = (0..=ATTRIBUTES_MAX)
            .map(|i| (i.to_string(), json!(i)))
            .collect();
        assert!(reason(with("attributes", json!(many)), "attributes").contains("at most 500"));
        let call = json!({"at": "2026-01-01T00:00:00Z", "kind": "call"});
        let calls = vec![call; ACTIVITIES_MAX + 1];
        assert!(reason(with("activities", json!(calls)), "activities").contains("found 10001"));
        let name = "n".repeat(ATTRIBUTE_NAME_BYTES_MAX + 1);
        assert!(reason(with("attributes", json!({name: 1})), "attributes").contains("200 bytes"));
        let bad = vec![json!(1); 500];
        let errors = parse(with("history", json!(bad))).unwrap_err();
        assert_eq!(errors.len(), ERRORS_MAX + 1);
        assert!(errors[ERRORS_MAX].reason.contains("400 more"));
        assert!(reason(with("owner", json!("a\0b")), "owner").contains("U+0000"));
    }

    #[test]
    fn a_patch_merges_clears_and_appends() {
        let mut stored = document();
        stored["amount"] = json!("10");
        stored["attributes"] = json!({"Country": "FR", "Size": 3});
        stored["activities"] = json!([{"at": "2026-01-03T00:00:00Z", "kind": "call"}]);
        let deal = parse(stored).unwrap();
        let patched = patch(
            &deal,
            json!({
                "stage": null, "amount": 20, "attributes": {"Size": null, "City": "Paris"},
                "activities": [{"at": "2026-01-02T00:00:00Z", "kind": "mail"}]
            }),
            now(),
        )
        .unwrap();
        assert_eq!(patched.stage, None);
        assert_eq!(patched.amount, Some(Decimal::from(20)));
        let names: Vec<&str> = patched.attributes.keys().map(String::as_str).collect();
        assert_eq!(names, ["City", "Country"]);
        let kinds: Vec<&str> = patched.activities.iter().map(|a| a.kind.as_str()).collect();
        assert_eq!(kinds, ["mail", "call"]);
        assert_eq!(patch(&deal, json!({}), now()).unwrap(), deal);
    }

    #[test]
    fn a_patch_is_checked_like_a_document() {
        let deal = parse(document()).unwrap();
        let field = |change: Value| patch(&deal, change, now()).unwrap_err()[0].field.clone();
        assert_eq!(field(json!({"id": "other"})), "id");
        assert_eq!(field(json!({"color": "red"})), "color");
        assert_eq!(field(json!({"history": 5})), "history");
        assert_eq!(field(json!({"attributes": 5})), "attributes");
        assert_eq!(field(json!("won")), "");
        assert!(patch(&deal, json!({"id": "d1", "owner": "ann"}), now()).is_ok());
    }

    #[test]
    fn reopening_clears_the_closing_time() {
        let mut lost = with("outcome", json!("lost"));
        lost["closed_at"] = json!("2026-02-01T00:00:00Z");
        let lost = parse(lost).unwrap();
        let reopened = patch(&lost, json!({"outcome": "open"}), now()).unwrap();
        assert_eq!(
            (reopened.outcome, reopened.closed_at),
            (Outcome::Open, None)
        );
    }

    #[test]
    fn events_are_read_by_type() {
        let event = parse_event(
            json!({"type": "change", "at": "2026-02-01T00:00:00Z", "field": "amount", "value": 5.50}),
            now(),
        );
        let Ok(Event::Change(change)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(change.value, AttributeValue::Text("5.5".into()));
        let closed = json!({"type": "closed", "at": "2026-02-01T00:00:00Z", "outcome": "won"});
        assert!(matches!(
            parse_event(closed, now()),
            Ok(Event::Closed {
                outcome: Outcome::Won,
                ..
            })
        ));
        let fields = |event: Value| -> Vec<String> {
            parse_event(event, now())
                .unwrap_err()
                .into_iter()
                .map(|e| e.field)
                .collect()
        };
        assert_eq!(fields(json!({"type": "phone"})), ["type"]);
        assert_eq!(
            fields(json!({"type": "activity", "by": 1})),
            ["at", "kind", "by"]
        );
        assert_eq!(
            fields(json!({"type": "closed", "at": null})),
            ["at", "outcome"]
        );
        assert_eq!(
            fields(json!({"type": "change", "at": "2027-01-01T00:00:00Z", "field": "x"})),
            ["at", "value"]
        );
        for open in [json!("open"), json!(null)] {
            let reopened = json!({"type": "closed", "at": "2026-02-01T00:00:00Z", "outcome": open});
            assert_eq!(fields(reopened), ["outcome"]);
        }
    }

    fn any_time() -> impl Strategy<Value = Timestamp> {
        (0..SECOND_MAX, 0..1_000_000_000i32).prop_map(|(s, ns)| Timestamp::new(s, ns).unwrap())
    }

    fn any_text() -> impl Strategy<Value = String> {
        "[a-zA-Z\"{}é]{1,3}( [a-z]{1,3})?"
    }

    fn any_attribute() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            Just(AttributeValue::Null),
            any::<bool>().prop_map(AttributeValue::Bool),
            (-1e300..1e300f64).prop_map(AttributeValue::Number),
            "[ a-z]{0,4}".prop_map(AttributeValue::Text),
        ]
    }

    prop_compose! {
        fn any_log()(
            history in proptest::collection::vec((any_time(), "[a-d]", any_attribute()), 0..4),
            activities in proptest::collection::vec((any_time(), any_text(), proptest::option::of(any_text())), 0..4),
        ) -> (Vec<FieldChange>, Vec<Activity>) {
            let change = |(at, field, value)| FieldChange { at, field, value };
            let activity = |(at, kind, outcome)| Activity { at, kind, direction: None, outcome };
            (history.into_iter().map(change).collect(), activities.into_iter().map(activity).collect())
        }
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        proptest::sample::select(vec![Outcome::Open, Outcome::Won, Outcome::Lost])
    }

    prop_compose! {
        fn any_deal()(
            id in "[a-z0-9]{1,8}",
            texts in proptest::array::uniform5(proptest::option::of(any_text())),
            amount in proptest::option::of((0..1_000_000_000i64, 0..6u32)),
            currency in proptest::option::of("[A-Z]{3}"),
            times in proptest::array::uniform3(proptest::option::of(any_time())),
            attributes in proptest::collection::btree_map(any_text(), any_attribute(), 0..4),
            (history, activities) in any_log(),
            outcome in 0..3usize,
            outcomes in proptest::collection::vec((any_time(), any_outcome()), 0..3),
        ) -> Deal {
            let [name, pipeline, stage, owner, priority] = texts;
            let outcome = [Outcome::Open, Outcome::Won, Outcome::Lost][outcome];
            let mut deal = Deal {
                id: DealId::new(&id).unwrap(),
                name, pipeline, stage, owner, priority, attributes, history, activities, outcome,
                amount: amount.map(|(units, scale)| Decimal::new(units, scale).normalize()),
                currency: currency.map(|code| code.parse().unwrap()),
                created_at: times[0],
                expected_close_at: times[1],
                closed_at: times[2].filter(|_| outcome != Outcome::Open),
                outcomes: Vec::new(),
            };
            for (at, outcome) in outcomes {
                deal.apply(Event::Closed { at, outcome }).unwrap();
            }
            deal.sort();
            deal
        }
    }

    proptest! {
        #[test]
        fn writing_and_reading_gives_an_equal_deal(deal in any_deal()) {
            let text = write(&deal).to_string();
            prop_assert_eq!(parse(serde_json::from_str(&text).unwrap()).unwrap(), deal);
        }
    }
}
