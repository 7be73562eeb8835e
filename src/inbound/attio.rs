//! Attio: tells which record changed, and nothing of how.

use serde_json::Value;

use super::settings::{SourceSettings, any_secret};
use super::signature::{Refusal, any, hex, is_hmac};
use super::{
    Adapter, Context, Delivery, Meaning, Part, Reading, Unreadable, at_path, key, missing, unique,
};
use crate::domain::Outcome;
use crate::error::FieldError;

pub static ADAPTER: Adapter = Adapter {
    fields: &[],
    amount_units: 1,
    outcomes: &[("open", Outcome::Open)],
    won_stages: &[],
    lost_stages: &[],
    check_secret: any_secret,
    authenticate: |delivery, settings, _| {
        let given = delivery.required("attio-signature")?;
        let given = hex(given).ok_or(Refusal::UnreadableHeader("attio-signature"))?;
        any(&settings.secrets, |secret| {
            is_hmac(secret.as_bytes(), &[&delivery.body], &given)
        })
    },
    split,
    deal: |body| Some(at_path(body, "/id/record_id")).filter(|id| !id.is_empty()),
    read,
    whole: None,
};

fn split(delivery: &Delivery, settings: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    let body = delivery.json()?;
    let Some(events) = body.get("events").and_then(Value::as_array) else {
        return Err(Unreadable::Kept("has no `events`".into()));
    };
    let delivery_key = delivery.header("idempotency-key");
    let parts = events.iter().enumerate().map(|(index, event)| {
        let kind = at_path(event, "/event_type");
        let object = at_path(event, "/id/object_id");
        let is_deal = settings.object_ids.is_empty() || settings.object_ids.contains(&object);
        if !kind.starts_with("record.") || kind == "record.merged" || !is_deal {
            return Part::Unknown { kind };
        }
        Part::Event {
            key: delivery_key.map_or_else(unique, |given| key(&[given, &index.to_string()])),
            body: event.clone(),
        }
    });
    Ok(parts.collect())
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    let meaning = match at_path(body, "/event_type").as_str() {
        "record.deleted" => Meaning::Deleted,
        "record.created" | "record.updated" => Meaning::Touched,
        _ => return Err(missing("event_type")),
    };
    let at = context.received_at;
    Ok(Reading { at, meaning })
}
