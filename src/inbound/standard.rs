//! Standard Webhooks with deals in our own words, for what has no adapter: `deal.upserted` with a deal
//! document or a part of one, `deal.events` with dated facts, `deal.deleted`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{Sighting, attribute_name};
use super::settings::{Secret, SourceSettings};
use super::signature::Refusal;
use super::{
    Adapter, Context, Delivery, Meaning, Part, Reading, Unreadable, at_path, facts, key, missing,
};
use crate::domain::Outcome;
use crate::domain::deal::Event;
use crate::error::FieldError;
use crate::ingest::document;
use crate::standard_webhooks::{
    Headers, ID_HEADER, Key, Refused, SIGNATURE_HEADER, TIMESTAMP_HEADER, verify,
};

/// Parts of a document that are lists of dated facts already.
const LOGS: [&str; 3] = ["history", "activities", "outcomes"];

pub static ADAPTER: Adapter = Adapter {
    fields: &[
        ("name", "name"),
        ("pipeline", "pipeline"),
        ("stage", "stage"),
        ("owner", "owner"),
        ("amount", "amount"),
        ("currency", "currency"),
        ("priority", "priority"),
        ("expected_close_at", "expected_close_at"),
        ("created_at", "created_at"),
        ("outcome", "outcome"),
        ("closed_at", "closed_at"),
    ],
    amount_units: 1,
    outcomes: &[
        ("open", Outcome::Open),
        ("won", Outcome::Won),
        ("lost", Outcome::Lost),
    ],
    won_stages: &[],
    lost_stages: &[],
    check_secret: |secret| secret.expose().parse::<Key>().map(|_| ()),
    authenticate,
    split,
    deal: |body| {
        let ids = ["/data/deal_id", "/data/id"].map(|pointer| at_path(body, pointer));
        ids.into_iter().find(|id| !id.is_empty())
    },
    read,
    whole: None,
};

fn authenticate(
    delivery: &Delivery,
    settings: &SourceSettings,
    now: Timestamp,
) -> Result<(), Refusal> {
    let headers = Headers {
        id: delivery.required(ID_HEADER)?,
        timestamp: delivery.required(TIMESTAMP_HEADER)?,
        signature: delivery.required(SIGNATURE_HEADER)?,
    };
    let keys = settings.secrets.iter().map(Secret::expose);
    // They were checked with the settings.
    let keys: Vec<Key> = keys.filter_map(|key| key.parse().ok()).collect();
    verify(&keys, headers, &delivery.body, now).map_err(|refused| match refused {
        Refused::UnreadableTimestamp => Refusal::UnreadableHeader(TIMESTAMP_HEADER),
        Refused::TimestampOff => Refusal::Stale,
        Refused::WrongSignature => Refusal::Mismatch,
    })
}

fn split(delivery: &Delivery, _: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    let body = delivery.json()?;
    let kind = at_path(&body, "/type");
    let known = ["deal.upserted", "deal.events", "deal.deleted"];
    if kind.is_empty() {
        return Err(Unreadable::Kept("has no `type`".into()));
    }
    if !known.contains(&kind.as_str()) {
        return Ok(vec![Part::Unknown { kind }]);
    }
    let key = key(&[delivery.header(ID_HEADER).unwrap_or_default()]);
    Ok(vec![Part::Event { key, body }])
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    let at = context.table.time(&body["timestamp"]).ok().flatten();
    let at = at.ok_or_else(|| missing("timestamp"))?;
    let data = &body["data"];
    match body["type"].as_str() {
        Some("deal.upserted") => Ok(facts(at, of_document(context, data, at)?, true)),
        Some("deal.events") => {
            let events = of_list(context, data, "events", |event| Some(event.clone()))?;
            let is_birth = events
                .iter()
                .any(|event| matches!(event, Event::Created { .. }));
            Ok(facts(at, events, is_birth))
        }
        Some("deal.deleted") => {
            let meaning = Meaning::Deleted;
            Ok(Reading { at, meaning })
        }
        _ => Err(missing("type")),
    }
}

/// A document says what it names, as of its moment; a field that it does not name stays.
fn of_document(
    context: &Context,
    data: &Value,
    at: Timestamp,
) -> Result<Vec<Event>, Vec<FieldError>> {
    let Value::Object(document) = data else {
        return Err(missing("data"));
    };
    let known = |name: &&String| {
        let own = ADAPTER.fields.iter().map(|(theirs, _)| *theirs);
        own.chain(LOGS)
            .chain(["id", "attributes"])
            .any(|own| own == name.as_str())
    };
    let unknown = document.keys().filter(|name| !known(name));
    let unknown: Vec<FieldError> = unknown
        .map(|name| FieldError::new(format!("data.{name}"), "is not a known field"))
        .collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let fields = document
        .iter()
        .filter(|(name, _)| !LOGS.contains(&name.as_str()));
    let fields = fields.filter(|(name, _)| *name != "attributes");
    let fields = fields.map(|(name, value)| (name.clone(), value)).collect();
    let sighting = Sighting {
        fields,
        at,
        is_whole: true,
    };
    let mut events = context.table.facts(&sighting, context.now)?;
    for (name, value) in data["attributes"].as_object().into_iter().flatten() {
        let field = attribute_name(name);
        let change = json!({"type": "change", "at": at, "field": field, "value": value});
        events.push(document::parse_event(change, context.now)?);
    }
    events.extend(of_list(context, data, "history", |entry| {
        typed(entry, "change")
    })?);
    events.extend(of_list(context, data, "activities", |entry| {
        typed(entry, "activity")
    })?);
    events.extend(of_list(context, data, "outcomes", |entry| {
        match &entry["outcome"] {
            Value::String(outcome) if outcome == "open" => {
                Some(json!({"type": "reopened", "at": entry["at"]}))
            }
            _ => typed(entry, "closed"),
        }
    })?);
    Ok(events)
}

/// An entry of a log as an event.
fn typed(entry: &Value, kind: &str) -> Option<Value> {
    let mut event = entry.clone();
    event.as_object_mut()?.insert("type".into(), json!(kind));
    Some(event)
}

fn of_list(
    context: &Context,
    data: &Value,
    name: &str,
    event: impl Fn(&Value) -> Option<Value>,
) -> Result<Vec<Event>, Vec<FieldError>> {
    let (mut events, mut errors) = (Vec::new(), Vec::new());
    let entries = data.get(name).and_then(Value::as_array);
    for (index, entry) in entries.into_iter().flatten().enumerate() {
        let place = format!("data.{name}[{index}]");
        let Some(mut event) = event(entry) else {
            errors.push(FieldError::new(place, "expected an object"));
            continue;
        };
        if let Some(fields) = event.as_object_mut() {
            fields.remove("id");
        }
        match document::parse_event(event, context.now) {
            Ok(event) => events.push(event),
            Err(fields) => errors.extend(fields.into_iter().map(|e| e.within(&place))),
        }
    }
    match errors.is_empty() {
        true => Ok(events),
        false => Err(errors),
    }
}
