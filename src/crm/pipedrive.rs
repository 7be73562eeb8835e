//! Pipedrive: `/api/v2/deals`, or `/api/v1/deals` where the settings say so.

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::api::{Answer, Api, reason};
use super::{CrmError, FieldUpdate, Updated};

/// Deals that are written at a time, each by a request of its own.
pub(super) const BATCH_MAX: usize = 50;

/// Length of the keys that Pipedrive gives to fields which users made.
const CUSTOM_KEY_DIGITS: usize = 40;

/// The deal itself, without the envelope around it.
pub(super) async fn deal(api: &Api, version: &str, id: &str) -> Result<Value, CrmError> {
    let answer = api.get(&format!("api/{version}/deals/{id}"), &[]).await?;
    let Answer { status, mut body } = answer;
    match body.get_mut("data") {
        Some(deal @ Value::Object(_)) if status.is_success() => Ok(deal.take()),
        // v1 answers like this for a deal that is gone.
        Some(Value::Null) if status.is_success() => Err(CrmError::NotFound),
        _ => Err(CrmError::Refused(reason(status, &body))),
    }
}

/// As many at once as the settings allow. What stops one of them for good, a wrong token say, stops
/// all; what passes is each deal's own, so that those that were written are known to be.
pub(super) async fn write(
    api: &Api,
    version: &str,
    updates: &[FieldUpdate],
) -> Result<Vec<Updated>, CrmError> {
    let written = join_all(updates.iter().map(|update| write_one(api, version, update))).await;
    if let Some(Err(error)) = written
        .iter()
        .find(|w| matches!(w, Err(CrmError::Misconfigured(_))))
    {
        return Err(error.clone());
    }
    Ok(written)
}

async fn write_one(api: &Api, version: &str, update: &FieldUpdate) -> Updated {
    let path = format!("api/{version}/deals/{}", update.deal_id);
    let answer = match version {
        "v1" => {
            api.send_json(Method::PUT, &path, &json!(update.fields))
                .await?
        }
        _ => {
            api.send_json(Method::PATCH, &path, &body_v2(&update.fields))
                .await?
        }
    };
    match answer.status.is_success() {
        true => Ok(()),
        // A deal that was deleted.
        false if answer.status.as_u16() == 410 => Err(CrmError::NotFound),
        false => Err(CrmError::Refused(reason(answer.status, &answer.body))),
    }
}

/// Version 2 has fields that users made in an object of their own.
fn body_v2(fields: &Map<String, Value>) -> Value {
    let is_custom =
        |name: &str| name.len() == CUSTOM_KEY_DIGITS && name.bytes().all(|b| b.is_ascii_hexdigit());
    let (custom, mut body): (Map<_, _>, Map<_, _>) = fields
        .clone()
        .into_iter()
        .partition(|(name, _)| is_custom(name));
    if !custom.is_empty() {
        body.insert("custom_fields".into(), custom.into());
    }
    body.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_users_made_have_a_place_of_their_own() {
        let custom = "0123456789abcdef0123456789abcdef01234567";
        let Value::Object(fields) = json!({ "probability": 42, custom: "A" }) else {
            panic!("no object");
        };
        assert_eq!(
            body_v2(&fields),
            json!({ "probability": 42, "custom_fields": { custom: "A" } })
        );
    }
}
