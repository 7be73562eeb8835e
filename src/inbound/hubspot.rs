//! HubSpot: changes of single properties in batches, whole deals from workflows, and the custom
//! workflow action that waits for a score.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{Sighting, text};
use super::settings::{SourceSettings, any_secret};
use super::{
    Adapter, Context, Delivery, Meaning, Part, Reading, Unreadable, at_path, facts, hashed, key,
    missing, signature, unique,
};
use crate::domain::deal::Event;
use crate::error::FieldError;
use crate::scoring::Score;

pub static ADAPTER: Adapter = Adapter {
    fields: &[
        ("dealname", "name"),
        ("amount", "amount"),
        ("deal_currency_code", "currency"),
        ("dealstage", "stage"),
        ("pipeline", "pipeline"),
        ("hubspot_owner_id", "owner"),
        ("createdate", "created_at"),
        ("closedate", "expected_close_at"),
        ("hs_priority", "priority"),
        ("hs_lastmodifieddate", "as_of"),
        ("lastmodifieddate", "as_of"),
        ("hs_v2_date_entered_current_stage", "stage_entered_at"),
        ("hs_is_closed", "is_closed"),
        ("hs_is_closed_won", "is_won"),
        ("hs_is_closed_lost", "is_lost"),
        ("notes_last_contacted", "activity.contact.outbound"),
        ("hs_last_sales_activity_timestamp", "activity.sales"),
        ("dealrank_*", "ignore"),
        ("hs_*", "ignore"),
        ("notes_*", "ignore"),
        ("num_*", "ignore"),
        ("amount_in_home_currency", "ignore"),
        ("days_to_close", "ignore"),
        // Written when a deal ends.
        ("closed_won_reason", "ignore"),
        ("closed_lost_reason", "ignore"),
        ("hubspot_owner_assigneddate", "ignore"),
        ("hubspot_team_id", "ignore"),
        ("*", "attributes.*"),
    ],
    amount_units: 1,
    outcomes: &[],
    won_stages: &["closedwon"],
    lost_stages: &["closedlost"],
    check_secret: any_secret,
    authenticate: |delivery, settings, now| signature::hubspot(delivery, &settings.secrets, now),
    split,
    deal: |body| {
        let place = ["/objectId", "/dealId", "/properties/hs_object_id"];
        (place.iter())
            .map(|pointer| at_path(body, pointer))
            .find(|id| !id.is_empty())
    },
    read,
    whole: Some(|mut deal, _| {
        if let (Some(id), Value::Object(fields)) = (deal.get("id").cloned(), &mut deal) {
            fields.insert("objectId".into(), id);
        }
        deal
    }),
};

fn split(delivery: &Delivery, _: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    match delivery.json()? {
        Value::Array(events) => Ok(events.into_iter().flat_map(change).collect()),
        deal @ Value::Object(_) => Ok(vec![whole(deal)]),
        _ => Err(Unreadable::Kept(
            "is neither a list of events nor a deal".into(),
        )),
    }
}

/// One of the events of a batch; a merge ends the deals that went into another one.
fn change(event: Value) -> Vec<Part> {
    let kind = match at_path(&event, "/subscriptionType") {
        kind if kind.is_empty() => at_path(&event, "/eventType"),
        kind => kind,
    };
    let Some(action) = action(&kind, &event) else {
        return vec![Part::Unknown { kind }];
    };
    let part = |pointer| at_path(&event, pointer);
    // What HubSpot calls an event's id is not unique.
    let key_of = |object: &str| {
        let [portal, subscription, event, at] =
            ["/portalId", "/subscriptionId", "/eventId", "/occurredAt"].map(part);
        key(&[&portal, &subscription, &event, object, &at])
    };
    match action {
        "propertyChange" | "creation" | "deletion" | "restore" | "privacyDeletion" => {
            let key = key_of(&part("/objectId"));
            vec![Part::Event { key, body: event }]
        }
        "merge" => {
            let merged = event.get("mergedObjectIds").and_then(Value::as_array);
            let into = text(
                event
                    .get("newObjectId")
                    .unwrap_or(&event["primaryObjectId"]),
            );
            let merged = merged.into_iter().flatten().filter_map(text);
            merged
                .filter(|id| Some(id) != into.as_ref())
                .map(|id| Part::Event {
                    key: key_of(&id),
                    body: json!({
                        "subscriptionType": "deal.deletion", "objectId": id,
                        "occurredAt": event["occurredAt"], "changeFlag": "MERGED",
                    }),
                })
                .collect()
        }
        _ => vec![Part::Unknown { kind }],
    }
}

/// What happened, if it did to a deal: `deal.creation`, or `object.creation` of the type of deals.
fn action<'a>(kind: &'a str, event: &Value) -> Option<&'a str> {
    let (object, action) = kind.split_once('.')?;
    let is_deal = object == "deal" || object == "object" && event["objectTypeId"] == "0-3";
    is_deal.then_some(action)
}

/// Whether an object of a type is a deal; most deals do not say it.
fn is_deal(object_type: &str) -> bool {
    ["", "0-3", "DEAL"].contains(&object_type)
}

/// A deal with its properties, from a workflow.
fn whole(deal: Value) -> Part {
    let kind = ["/objectTypeId", "/objectType"].map(|pointer| at_path(&deal, pointer));
    // A contact comes without its type, and with an id of its own.
    if deal.get("vid").is_some() {
        return Part::Unknown {
            kind: "contact".into(),
        };
    }
    if !kind.iter().all(|kind| is_deal(kind)) {
        let [id, name] = kind;
        let kind = if name.is_empty() { id } else { name };
        return Part::Unknown { kind };
    }
    let is_dated = deal.pointer("/properties/hs_lastmodifieddate").is_some()
        || values(&deal).any(|(_, _, at)| at.is_some());
    // Without a time of its own, an equal one may tell of a change there and back.
    let key = if is_dated {
        hashed(deal.to_string().as_bytes())
    } else {
        unique()
    };
    Part::Event { key, body: deal }
}

/// The properties of a deal, each plain or as `{"value", "timestamp"}`.
fn values(deal: &Value) -> impl Iterator<Item = (&String, &Value, Option<Timestamp>)> {
    let properties = deal.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(|(name, property)| {
        let at = property.get("timestamp").and_then(millis);
        let value = match property {
            Value::Object(property) => property.get("value").unwrap_or(&Value::Null),
            plain => plain,
        };
        (name, value, at)
    })
}

fn millis(value: &Value) -> Option<Timestamp> {
    let millis = text(value)?.parse().ok()?;
    Timestamp::from_millisecond(millis).ok()
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    if body.get("properties").is_some_and(Value::is_object) {
        return read_whole(context, body);
    }
    let at = millis(&body["occurredAt"]).ok_or_else(|| missing("occurredAt"))?;
    let kind = ["/subscriptionType", "/eventType"].map(|pointer| at_path(body, pointer));
    let kind = kind.iter().find_map(|kind| action(kind, body));
    let meaning = match kind {
        Some("creation") => Meaning::Born {
            facts: vec![Event::Created { at }],
        },
        Some("deletion" | "privacyDeletion") => Meaning::Deleted,
        Some("restore") => Meaning::Restored,
        Some("propertyChange") => {
            let name = text(&body["propertyName"]).ok_or_else(|| missing("propertyName"))?;
            let value = body.get("propertyValue").unwrap_or(&Value::Null);
            let fields = vec![(name, value)];
            let sighting = Sighting {
                fields,
                at,
                is_whole: false,
            };
            let read = context.table.facts(&sighting, context.now)?;
            return Ok(facts(at, read, false));
        }
        _ => return Err(missing("subscriptionType")),
    };
    Ok(Reading { at, meaning })
}

/// Each property as of its own time where that is told, else as of the deal's last change.
fn read_whole(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    let (mut dated, mut undated) = (Vec::new(), Vec::new());
    for (name, value, at) in values(body) {
        match at {
            Some(at) => dated.push((name.clone(), value, at)),
            None => undated.push((name.clone(), value)),
        }
    }
    let latest = dated.iter().map(|(_, _, at)| *at).max();
    let as_of = context.table.as_of(&undated).max(latest);
    let at = as_of.unwrap_or(context.received_at);
    let mut read = Vec::new();
    for (name, value, at) in dated {
        let fields = vec![(name, value)];
        let sighting = Sighting {
            fields,
            at,
            is_whole: false,
        };
        read.extend(context.table.facts(&sighting, context.now)?);
    }
    // A deal that is all dated was there when its first property was.
    let fields = undated;
    let sighting = Sighting {
        fields,
        at,
        is_whole: true,
    };
    read.extend(context.table.facts(&sighting, context.now)?);
    Ok(facts(at, read, true))
}

/// A request of the custom workflow action: it waits for the score.
#[derive(Debug)]
pub struct Action {
    pub deal: Option<String>,
    pub body: Value,
}

impl Action {
    /// Whether a delivery is one; its body is then a deal as a workflow has it.
    pub fn of(delivery: &Delivery) -> Option<Self> {
        let body = delivery.json().ok()?;
        body.get("callbackId")?;
        let object = body.get("object")?.clone();
        Some(Self {
            deal: (ADAPTER.deal)(&object),
            body: object,
        })
    }

    pub fn is_of_deal(&self) -> bool {
        is_deal(&at_path(&self.body, "/objectType"))
    }

    /// What the deal's properties say now.
    ///
    /// # Errors
    /// Each property that cannot be meant.
    pub fn facts(&self, context: &Context) -> Result<Vec<Event>, Vec<FieldError>> {
        let fields = values(&self.body).map(|(name, value, _)| (name.clone(), value));
        let sighting = Sighting {
            fields: fields.collect(),
            at: context.received_at,
            is_whole: false,
        };
        context.table.facts(&sighting, context.now)
    }
}

/// The answer to the action: flat texts, which a workflow can branch on and copy into properties.
pub fn action_answer(score: Result<&Score, &str>) -> Value {
    let fields = match score {
        Ok(score) => json!({
            "hs_execution_state": "SUCCESS",
            "win_probability": format!("{:.4}", score.win_probability.get()),
            "score": score.score.to_string(),
            "tier": score.grade.as_str(),
            "expected_value": score.expected_value.map(|ev| format!("{ev:.2}")).unwrap_or_default(),
            "top_reason": score.reasons.first().map(|r| r.text.as_str()).unwrap_or_default(),
            "model_version": score.model_version,
        }),
        Err(reason) => json!({
            "hs_execution_state": "FAIL_CONTINUE",
            "error": reason,
        }),
    };
    json!({ "outputFields": fields })
}
