//! Salesforce: the Outbound Message of a flow or a workflow rule, and change events that something in
//! between hands on as JSON.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{Sighting, text};
use super::settings::{SourceSettings, url_secret};
use super::{
    Adapter, Context, Delivery, Meaning, Part, Reading, Unreadable, at_path, facts, key, signature,
    soap,
};
use crate::error::FieldError;

/// An id without the three characters that make it safe in systems that fold case.
const ID_CHARS: usize = 15;

pub static ADAPTER: Adapter = Adapter {
    fields: &[
        ("Name", "name"),
        ("Amount", "amount"),
        ("CurrencyIsoCode", "currency"),
        ("StageName", "stage"),
        ("LastStageChangeDate", "stage_entered_at"),
        ("OwnerId", "owner"),
        ("CreatedDate", "created_at"),
        ("CloseDate", "expected_close_at"),
        ("LastModifiedDate", "as_of"),
        ("SystemModstamp", "as_of"),
        ("IsWon", "is_won"),
        ("IsClosed", "is_closed"),
        ("Id", "ignore"),
        ("IsDeleted", "ignore"),
        ("ChangeEventHeader*", "ignore"),
        ("attributes*", "ignore"),
        ("Dealrank_*", "ignore"),
        ("Last*", "ignore"),
        ("HasOpenActivity", "ignore"),
        ("HasOverdueTask", "ignore"),
        // They follow from the stage, and end at 0 or 100.
        ("Probability", "ignore"),
        ("ForecastCategory*", "ignore"),
        ("ExpectedRevenue", "ignore"),
        ("Fiscal*", "ignore"),
        ("*", "attributes.*"),
    ],
    amount_units: 1,
    outcomes: &[],
    won_stages: &["Closed Won"],
    lost_stages: &["Closed Lost"],
    check_secret: url_secret,
    authenticate: |delivery, settings, _| signature::secret_url(delivery, &settings.secrets),
    split,
    deal: |body| Some(at_path(body, "/fields/Id")).filter(|id| !id.is_empty()),
    read,
    whole: Some(|record, _| json!({ "fields": record })),
};

fn split(delivery: &Delivery, settings: &SourceSettings) -> Result<Vec<Part>, Unreadable> {
    if delivery.is_json() {
        return change_event(&delivery.json()?);
    }
    let message = soap::parse(&delivery.body)?;
    if !is_expected(&message.organization_id, &settings.organization_ids) {
        let reason = "the message is of an organization that is not listened to";
        return Err(Unreadable::Refused(reason.into()));
    }
    let parts = message.notifications.into_iter().map(|notification| {
        // A record that was deleted meanwhile comes without its fields.
        let is_empty = notification.fields.get("Id").and_then(text).is_none();
        if notification.kind != "Opportunity" || is_empty {
            let of = if is_empty { "deleted" } else { "notification" };
            let kind = format!("{}.{of}", notification.kind);
            return Part::Unknown { kind };
        }
        Part::Event {
            key: key(&[&notification.id]),
            body: json!({ "notification": notification.id, "fields": notification.fields }),
        }
    });
    Ok(parts.collect())
}

/// Ids are the same if their first 15 characters are; the last three follow from them.
fn is_expected(organization: &str, expected: &[String]) -> bool {
    let core = |id: &str| id.get(..ID_CHARS).map(str::to_owned);
    let is_same = |id: &String| match (id.len(), organization.len()) {
        (15 | 18, 15 | 18) => core(id) == core(organization),
        _ => id == organization,
    };
    expected.is_empty() || expected.iter().any(is_same)
}

/// One part for each record of a change event.
fn change_event(body: &Value) -> Result<Vec<Part>, Unreadable> {
    let Some(header) = body.pointer("/payload/ChangeEventHeader") else {
        let reason = "is neither an Outbound Message nor a change event";
        return Err(Unreadable::Kept(reason.into()));
    };
    let part = |pointer| at_path(header, pointer);
    let change = part("/changeType");
    let known = ["CREATE", "UPDATE", "DELETE", "UNDELETE"];
    if part("/entityName") != "Opportunity" || !known.contains(&change.as_str()) {
        let kind = format!("{}.{change}", part("/entityName"));
        return Ok(vec![Part::Unknown { kind }]);
    }
    let records = header["recordIds"].as_array().into_iter().flatten();
    let parts = records.filter_map(text).map(|id| {
        let mut fields = body["payload"].clone();
        fields["Id"] = json!(id);
        Part::Event {
            key: key(&[&part("/transactionKey"), &part("/sequenceNumber"), &id]),
            body: json!({
                "change": change, "committed_at": header["commitTimestamp"], "fields": fields,
            }),
        }
    });
    Ok(parts.collect())
}

fn read(context: &Context, body: &Value) -> Result<Reading, Vec<FieldError>> {
    let fields = context.table.fields(&body["fields"]);
    let committed_at = text(&body["committed_at"]).and_then(|millis| millis.parse().ok());
    let committed_at = committed_at.and_then(|millis| Timestamp::from_millisecond(millis).ok());
    let as_of = committed_at.or_else(|| context.table.as_of(&fields));
    let at = as_of.unwrap_or(context.received_at);
    let change = body["change"].as_str();
    if change == Some("DELETE") || at_path(body, "/fields/IsDeleted") == "true" {
        let meaning = Meaning::Deleted;
        return Ok(Reading { at, meaning });
    }
    // An update names what changed alone.
    let is_whole = change != Some("UPDATE");
    let sighting = Sighting {
        fields,
        at,
        is_whole,
    };
    Ok(facts(
        at,
        context.table.facts(&sighting, context.now)?,
        is_whole,
    ))
}

#[cfg(test)]
mod tests {
    use super::is_expected;

    #[test]
    fn an_organization_is_the_same_with_15_and_18_characters() {
        let expected = ["00D7F00000107Xs".to_owned()];
        assert!(is_expected("00D7F00000107XsUAI", &expected));
        assert!(is_expected("00D7F00000107Xs", &expected));
        assert!(!is_expected("00D7F00000107xsUAI", &expected));
        assert!(!is_expected("00D", &expected));
        assert!(is_expected("00D7F00000107XsUAI", &[]));
    }
}
