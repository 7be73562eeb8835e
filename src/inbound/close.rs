//! Close: the whole opportunity with each event; amounts are in cents.

use jiff::Timestamp;
use serde_json::Value;

use super::fields::Sighting;
use super::settings::{Secret, SourceSettings};
use super::signature::{Refusal, any, check_time, hex, is_hmac};
use super::{
    Adapter, Context, Delivery, Meaning, Part, Reading, Unreadable, at_path, facts, key, missing,
};
use crate::domain::Outcome;
use crate::error::FieldError;

pub static ADAPTER: Adapter = Adapter {
    fields: &[
        ("lead_name", "name"),
        ("value", "amount"),
        ("value_currency", "currency"),
        ("value_period", "attributes.value_period"),
        ("status_label", "stage"),
        ("status_type", "outcome"),
        ("pipeline_name", "pipeline"),
        ("user_name", "owner"),
        ("date_created", "created_at"),
        ("date_updated", "as_of"),
        // Of an open opportunity this is the estimate, and when it was won stands nowhere else.
        ("date_won", "expected_close_at"),
        ("date_lost", "closed_at"),
    ],
    amount_units: 100,
    outcomes: &[
        ("active", Outcome::Open),
        ("won", Outcome::Won),
        ("lost", Outcome::Lost),
    ],
    won_stages: &[],
    lost_stages: &[],
    check_secret: hexadecimal,
    authenticate,
    split,
    deal: |body| Some(at_path(body, "/event/object_id")).filter(|id| !id.is_empty()),
    read,
    whole: None,
};

fn hexadecimal(secret: &Secret) -> Result<(), String> {
    match hex(secret.expose()) {
        Some(key) if !key.is_empty() => Ok(()),
        _ => Err("expected the hexadecimal signature key of the subscription".into()),
    }
}

fn authenticate(
    delivery: &Delivery,
    settings: &SourceSettings,
    now: Timestamp,
) -> Result<(), Refusal> {
    let given = delivery.required("close-sig-hash")?;
    let given = hex(given).ok_or(Refusal::UnreadableHeader("close-sig-hash"))?;
    let stamp = delivery.required("close-sig-timestamp")?;
    let unreadable = Refusal::UnreadableHeader("close-sig-timestamp");
    let seconds = stamp.parse().map_err(|_| unreadable.clone())?;
    check_time(
        Timestamp::from_second(seconds).map_err(|_| unreadable)?,
        now,
    )?;
    let parts = [stamp.as_bytes(), &delivery.body[..]];
    any(&settings.secrets, |secret| {
        hex(secret.expose()).is_some_and(|key| is_hmac(&key, &parts, &given))
    })
}

fn split(delivery: &Delivery, _: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    let body = delivery.json()?;
    let part = |pointer| at_path(&body, pointer);
    let (object, action) = (part("/event/object_type"), part("/event/action"));
    if object.is_empty() {
        return Err(Unreadable::Kept(
            "does not say what it is about: `event.object_type` is missing".into(),
        ));
    }
    let is_known = ["created", "updated", "deleted"].contains(&action.as_str());
    if object != "opportunity" || !is_known {
        let kind = format!("{object}.{action}");
        return Ok(vec![Part::Unknown { kind }]);
    }
    let key = key(&[&part("/event/id")]);
    Ok(vec![Part::Event { key, body }])
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    let event = &body["event"];
    let table = context.table;
    let stamp = ["date_updated", "date_created"].iter();
    let mut stamp = stamp.filter_map(|name| table.time(&event[*name]).ok().flatten());
    let stamp = stamp.next().ok_or_else(|| missing("event.date_updated"))?;
    if event["action"] == "deleted" || !event["data"].is_object() {
        let meaning = Meaning::Deleted;
        return Ok(Reading { at: stamp, meaning });
    }
    let fields = table.fields(&event["data"]);
    let at = table.as_of(&fields).unwrap_or(stamp);
    let sighting = Sighting {
        fields,
        at,
        is_whole: true,
    };
    Ok(facts(at, table.facts(&sighting, context.now)?, true))
}
