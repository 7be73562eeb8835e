//! Odoo: the fields that the automation rule was told to send, unsigned and never sent twice.

use serde_json::Value;

use super::fields::Sighting;
use super::settings::{SourceSettings, url_secret};
use super::{
    Adapter, Context, Delivery, Part, Reading, Unreadable, at_path, facts, hashed, signature,
    unique,
};
use crate::domain::Outcome;
use crate::error::FieldError;

pub static ADAPTER: Adapter = Adapter {
    fields: &[
        ("name", "name"),
        ("expected_revenue", "amount"),
        ("stage_id", "stage"),
        ("date_last_stage_update", "stage_entered_at"),
        ("team_id", "pipeline"),
        ("user_id", "owner"),
        ("priority", "priority"),
        ("create_date", "created_at"),
        ("date_deadline", "expected_close_at"),
        ("date_closed", "closed_at"),
        ("write_date", "as_of"),
        ("won_status", "outcome"),
        ("active", "is_active"),
        ("_*", "ignore"),
        ("id", "ignore"),
        ("display_name", "ignore"),
        ("create_uid", "ignore"),
        ("write_uid", "ignore"),
        ("color", "ignore"),
        // Odoo's own guess, which ends at 0 or 100.
        ("probability", "ignore"),
        ("automated_probability", "ignore"),
        ("prorated_revenue", "ignore"),
        ("lost_reason_id", "ignore"),
        ("day_close", "ignore"),
        ("message_*", "ignore"),
        ("activity_*", "ignore"),
        ("*", "attributes.*"),
    ],
    amount_units: 1,
    outcomes: &[
        ("pending", Outcome::Open),
        ("won", Outcome::Won),
        ("lost", Outcome::Lost),
    ],
    won_stages: &[],
    lost_stages: &[],
    check_secret: url_secret,
    authenticate: |delivery, settings, _| signature::secret_url(delivery, &settings.secrets),
    split,
    deal: |body| {
        let ids = ["/_id", "/id"].map(|pointer| at_path(body, pointer));
        ids.into_iter().find(|id| !id.is_empty())
    },
    read,
    whole: None,
};

fn split(delivery: &Delivery, _: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    let body = delivery.json()?;
    match at_path(&body, "/_model").as_str() {
        "" => Err(Unreadable::Kept(
            "does not say what it is about: `_model` is missing".into(),
        )),
        "crm.lead" => {
            // Without a time of its own, an equal one may tell of a change there and back.
            let is_dated = body.get("write_date").is_some();
            let key = if is_dated {
                hashed(&delivery.body)
            } else {
                unique()
            };
            Ok(vec![Part::Event { key, body }])
        }
        other => Ok(vec![Part::Unknown {
            kind: other.to_owned(),
        }]),
    }
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    // Odoo writes false where there is nothing.
    let fields = context.table.fields(body).into_iter();
    let fields = fields.map(|(name, value)| match value {
        Value::Bool(false) if name != "active" => (name, &Value::Null),
        _ => (name, value),
    });
    let fields: Vec<_> = fields.collect();
    let at = context.table.as_of(&fields).unwrap_or(context.received_at);
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
