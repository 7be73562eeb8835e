//! HubSpot: `/crm/v3/objects/deals`.

use std::collections::HashMap;

use reqwest::Method;
use serde_json::{Value, json};

use super::api::{Answer, Api, reason};
use super::{CrmError, FieldUpdate, Updated};

/// Deals of one update.
pub(super) const BATCH_MAX: usize = 100;

/// The deal with the properties that are asked for, as `{"id", "properties": {...}, ...}`.
pub(super) async fn deal(
    api: &Api,
    version: &str,
    id: &str,
    properties: &[&str],
) -> Result<Value, CrmError> {
    let properties = properties.join(",");
    let query: &[_] = match properties.as_str() {
        "" => &[],
        properties => &[("properties", properties)],
    };
    let answer = api
        .get(&format!("crm/{version}/objects/deals/{id}"), query)
        .await?;
    found(answer)
}

fn found(answer: Answer) -> Result<Value, CrmError> {
    match answer.status.is_success() && answer.body.is_object() {
        true => Ok(answer.body),
        false => Err(CrmError::Refused(reason(answer.status, &answer.body))),
    }
}

/// One deal that is wrong makes HubSpot refuse all of a batch: what was refused is tried again in
/// halves, so that the others are written.
pub(super) async fn write(
    api: &Api,
    version: &str,
    updates: &[FieldUpdate],
) -> Result<Vec<Updated>, CrmError> {
    match write_batch(api, version, updates).await {
        Err(CrmError::Refused(_) | CrmError::NotFound) if updates.len() > 1 => {
            let (left, right) = updates.split_at(updates.len() / 2);
            let mut written = Box::pin(write(api, version, left)).await?;
            written.extend(Box::pin(write(api, version, right)).await?);
            Ok(written)
        }
        Err(error @ (CrmError::Refused(_) | CrmError::NotFound)) => Ok(vec![Err(error)]),
        written => written,
    }
}

async fn write_batch(
    api: &Api,
    version: &str,
    updates: &[FieldUpdate],
) -> Result<Vec<Updated>, CrmError> {
    let inputs: Vec<Value> = updates
        .iter()
        .map(|update| json!({ "id": update.deal_id, "properties": texts(update) }))
        .collect();
    let path = format!("crm/{version}/objects/deals/batch/update");
    let answer = api
        .send_json(Method::POST, &path, &json!({ "inputs": inputs }))
        .await?;
    if !answer.status.is_success() {
        let reason = reason(answer.status, &answer.body);
        // The settings name a property that is not there: no deal of any batch will be written.
        return Err(
            match answer.body.to_string().contains("PROPERTY_DOESNT_EXIST") {
                true => CrmError::Misconfigured(reason),
                false => CrmError::Refused(reason),
            },
        );
    }
    // 207: some were written. Those that were not are named, by kind of failure.
    let failures = failures(&answer.body);
    Ok(updates
        .iter()
        .map(|update| match failures.get(update.deal_id.as_str()) {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        })
        .collect())
}

/// Values of properties are texts; an empty one clears the property.
fn texts(update: &FieldUpdate) -> Value {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    update
        .fields
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(text(value))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn failures(body: &Value) -> HashMap<&str, CrmError> {
    let mut failures = HashMap::new();
    for error in body["errors"].as_array().into_iter().flatten() {
        let message = error["message"].as_str().unwrap_or("was not written");
        let failure = match error["category"].as_str() {
            Some("OBJECT_NOT_FOUND") => CrmError::NotFound,
            _ => CrmError::Refused(message.to_owned()),
        };
        let ids = error["context"]["ids"].as_array().into_iter().flatten();
        for id in ids.filter_map(Value::as_str) {
            failures.insert(id, failure.clone());
        }
    }
    failures
}
