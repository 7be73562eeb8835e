//! Pipedrive: the whole deal with each event, in version 2 and in the older version 1.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{Sighting, text};
use super::settings::{Secret, SourceSettings};
use super::{
    Adapter, Context, Delivery, Meaning, Part, Reading, Unreadable, at_path, facts, hashed, key,
    missing, signature,
};
use crate::domain::Outcome;
use crate::error::FieldError;
use crate::ingest::document;

pub static ADAPTER: Adapter = Adapter {
    fields: &[
        ("title", "name"),
        ("value", "amount"),
        ("currency", "currency"),
        ("stage_id", "stage"),
        ("stage_change_time", "stage_entered_at"),
        ("pipeline_id", "pipeline"),
        ("owner_id", "owner"),
        ("user_id", "owner"),
        ("add_time", "created_at"),
        ("update_time", "as_of"),
        ("expected_close_date", "expected_close_at"),
        ("status", "outcome"),
        ("won_time", "closed_at"),
        ("lost_time", "closed_at"),
        ("last_incoming_mail_time", "activity.mail.inbound"),
        ("last_outgoing_mail_time", "activity.mail.outbound"),
    ],
    amount_units: 1,
    outcomes: &[
        ("open", Outcome::Open),
        ("won", Outcome::Won),
        ("lost", Outcome::Lost),
    ],
    won_stages: &[],
    lost_stages: &[],
    check_secret: user_and_password,
    authenticate: |delivery, settings, _| signature::basic(delivery, &settings.secrets),
    split,
    deal,
    read,
    whole: Some(|deal, now| {
        let stamp = deal.get("update_time").cloned();
        let stamp = stamp.unwrap_or_else(|| json!(now));
        json!({"meta": {"entity": "deal", "action": "pull", "timestamp": stamp}, "data": deal})
    }),
};

fn user_and_password(secret: &Secret) -> Result<(), String> {
    match secret.expose().split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => Ok(()),
        _ => Err("expected `user:password`".into()),
    }
}

fn entity(body: &Value) -> String {
    match at_path(body, "/meta/entity") {
        entity if entity.is_empty() => at_path(body, "/meta/object"),
        entity => entity,
    }
}

/// The record as it is: `data` in version 2, `current` in version 1.
fn record(body: &Value) -> Option<&Value> {
    let record = body.get("data").or_else(|| body.get("current"));
    record.filter(|record| record.is_object())
}

fn split(delivery: &Delivery, _: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    let body = delivery.json()?;
    let (entity, action) = (entity(&body), at_path(&body, "/meta/action"));
    if entity.is_empty() {
        return Err(Unreadable::Kept(
            "does not say what it is about: `meta` is missing".into(),
        ));
    }
    // An activity that belongs to no deal says nothing about one.
    let is_known = match entity.as_str() {
        "deal" => true,
        "activity" => deal(&body).is_some(),
        _ => false,
    };
    if !is_known {
        let kind = format!("{action}.{entity}");
        return Ok(vec![Part::Unknown { kind }]);
    }
    let part = |pointer| at_path(&body, pointer);
    let stamp = match part("/meta/timestamp_milli") {
        stamp if stamp.is_empty() => part("/meta/timestamp"),
        stamp => stamp,
    };
    let id = match part("/meta/entity_id") {
        id if id.is_empty() => part("/meta/id"),
        id => id,
    };
    // In version 2 `meta.id` is a delivery's own, or the entity's once more; and where the stamp has but
    // seconds, only the record tells two changes of one second from each other.
    let content = record(&body).map(Value::to_string).unwrap_or_default();
    let key = key(&[
        &part("/meta/company_id"),
        &action,
        &entity,
        &id,
        &stamp,
        &part("/meta/id"),
        &hashed(content.as_bytes()),
    ]);
    Ok(vec![Part::Event { key, body }])
}

fn deal(body: &Value) -> Option<String> {
    if entity(body) == "activity" {
        return text(record(body)?.get("deal_id")?);
    }
    let places = ["/meta/entity_id", "/data/id", "/current/id", "/meta/id"];
    let ids = places.iter().map(|pointer| at_path(body, pointer));
    ids.into_iter().find(|id| !id.is_empty())
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    let stamp = ["/meta/timestamp_milli", "/meta/timestamp"];
    let stamp = stamp.iter().find_map(|pointer| body.pointer(pointer));
    let stamp = stamp.unwrap_or(&Value::Null);
    let stamp = context.table.time(stamp).ok().flatten();
    let stamp = stamp.ok_or_else(|| missing("meta.timestamp"))?;
    let record = record(body);
    if entity(body) == "activity" {
        return activity(context, record.unwrap_or(&Value::Null), stamp);
    }
    let action = at_path(body, "/meta/action");
    let is_gone = |record: &Value| record["status"] == "deleted" || record["deleted"] == true;
    let record = match record {
        Some(record) if !["delete", "deleted"].contains(&action.as_str()) && !is_gone(record) => {
            record
        }
        _ => {
            let meaning = Meaning::Deleted;
            return Ok(Reading { at: stamp, meaning });
        }
    };
    let mut fields = context.table.fields(record);
    // Without one, the deal is still in the stage that it was created in.
    let never_moved = record.get("stage_change_time").is_some_and(Value::is_null);
    if never_moved && let Some(created) = record.get("add_time") {
        fields.push(("stage_change_time".into(), created));
    }
    let at = context
        .table
        .as_of(&fields)
        .max(Some(stamp))
        .unwrap_or(stamp);
    let sighting = Sighting {
        fields,
        at,
        is_whole: true,
    };
    Ok(facts(
        at,
        context.table.facts(&sighting, context.now)?,
        true,
    ))
}

/// An activity counts once it is done.
fn activity(context: &Context, record: &Value, at: Timestamp) -> Result<Reading, Vec<FieldError>> {
    let is_done = record["done"] == true || record["done"] == 1;
    if !is_done {
        return Ok(facts(at, Vec::new(), false));
    }
    let done_at = record.get("marked_as_done_time").unwrap_or(&Value::Null);
    let done_at = context.table.time(done_at).ok().flatten().unwrap_or(at);
    let kind = text(&record["type"]).ok_or_else(|| missing("type"))?;
    let event = json!({"type": "activity", "at": done_at, "kind": kind});
    Ok(facts(
        at,
        vec![document::parse_event(event, context.now)?],
        false,
    ))
}
