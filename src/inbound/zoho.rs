//! Zoho: which deals changed, with the values that the channel was told to send.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{Sighting, text};
use super::settings::{SourceSettings, any_secret};
use super::signature::{Refusal, is_one_of};
use super::{
    Adapter, Context, Delivery, Meaning, Part, Reading, Unreadable, at_path, facts, hashed, missing,
};
use crate::error::FieldError;

pub static ADAPTER: Adapter = Adapter {
    fields: &[
        ("Deal_Name", "name"),
        ("Amount", "amount"),
        ("Currency", "currency"),
        ("Stage", "stage"),
        ("Pipeline", "pipeline"),
        ("Owner", "owner"),
        ("Created_Time", "created_at"),
        ("Closing_Date", "expected_close_at"),
        ("Modified_Time", "as_of"),
        ("Last_Activity_Time", "activity.activity"),
        ("id", "ignore"),
        ("Probability", "ignore"),
        ("Expected_Revenue", "ignore"),
        ("Forecast*", "ignore"),
        ("Reason_For_Loss*", "ignore"),
        ("Overall_Sales_Duration", "ignore"),
        ("Sales_Cycle_Duration", "ignore"),
        ("$*", "ignore"),
        ("*", "attributes.*"),
    ],
    amount_units: 1,
    outcomes: &[],
    won_stages: &["Closed Won"],
    lost_stages: &["Closed Lost", "Closed-Lost to Competition"],
    check_secret: any_secret,
    authenticate: |delivery, settings, _| {
        let token = delivery.json().ok();
        let token = token.as_ref().and_then(|body| body.get("token")?.as_str());
        let token = token.ok_or(Refusal::Missing("the `token` in the body"))?;
        is_one_of(&settings.secrets, token.as_bytes())
            .then_some(())
            .ok_or(Refusal::Mismatch)
    },
    split,
    deal: |body| Some(at_path(body, "/id")).filter(|id| !id.is_empty()),
    read,
    whole: None,
};

fn split(delivery: &Delivery, _: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    let body = delivery.json()?;
    let (module, operation) = (at_path(&body, "/module"), at_path(&body, "/operation"));
    if module.is_empty() {
        return Err(Unreadable::Kept(
            "does not say what it is about: `module` is missing".into(),
        ));
    }
    let is_known = ["insert", "update", "delete"].contains(&operation.as_str());
    if !["Deals", "Potentials"].contains(&module.as_str()) || !is_known {
        let kind = format!("{module}.{operation}");
        return Ok(vec![Part::Unknown { kind }]);
    }
    let list = |name: &str| {
        body.get(name)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let mut ids: Vec<String> = list("ids").filter_map(text).collect();
    let affected: Vec<&Value> = list("affected_values").collect();
    let told = affected.iter().map(|value| at_path(value, "/record_id"));
    ids.extend(told.filter(|id| !id.is_empty()));
    ids.sort();
    ids.dedup();
    let parts = ids.into_iter().map(|id| {
        let values = (affected.iter()).find(|value| at_path(value, "/record_id") == id);
        let event = json!({
            "id": id, "operation": operation, "server_time": body["server_time"],
            "values": values.map_or(&Value::Null, |value| &value["values"]),
        });
        let content = format!("{}:{event}", at_path(&body, "/channel_id"));
        Part::Event {
            key: hashed(content.as_bytes()),
            body: event,
        }
    });
    Ok(parts.collect())
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    let at = text(&body["server_time"]).and_then(|millis| millis.parse().ok());
    let at = at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let at = at.ok_or_else(|| missing("server_time"))?;
    let is_birth = body["operation"] == "insert";
    let meaning = match (body["operation"].as_str(), body["values"].is_object()) {
        (Some("delete"), _) => Meaning::Deleted,
        (_, false) => Meaning::Touched,
        (_, true) => {
            let fields = context.table.fields(&body["values"]);
            let sighting = Sighting {
                fields,
                at,
                is_whole: is_birth,
            };
            let read = context.table.facts(&sighting, context.now)?;
            return Ok(facts(at, read, is_birth));
        }
    };
    Ok(Reading { at, meaning })
}
