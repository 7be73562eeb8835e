//! Salesforce: `/services/data/vXX.0`, deals as records of `Opportunity`.

use reqwest::Method;
use serde_json::{Value, json};

use super::api::{Api, reason};
use super::{CrmError, FieldUpdate, Updated};

/// Records of one update of a collection.
pub(super) const BATCH_MAX: usize = 200;

/// The record as a flat object; all fields that the token's user may see, or those asked for.
pub(super) async fn deal(
    api: &Api,
    version: &str,
    id: &str,
    fields: &[&str],
) -> Result<Value, CrmError> {
    let fields = fields.join(",");
    let query: &[_] = match fields.as_str() {
        "" => &[],
        fields => &[("fields", fields)],
    };
    let path = format!("services/data/{version}/sobjects/Opportunity/{id}");
    let answer = api.get(&path, query).await?;
    match answer.status.is_success() && answer.body.is_object() {
        true => Ok(answer.body),
        false => Err(CrmError::Refused(reason(answer.status, &answer.body))),
    }
}

/// Each record stands for itself (`allOrNone` is false). Where the request as a whole is refused all the
/// same, one record may be why: it is tried again in halves, so that the others are written.
pub(super) async fn write(
    api: &Api,
    version: &str,
    updates: &[FieldUpdate],
) -> Result<Vec<Updated>, CrmError> {
    match write_batch(api, version, updates).await {
        Err(CrmError::Refused(_)) if updates.len() > 1 => {
            let (left, right) = updates.split_at(updates.len() / 2);
            let mut written = Box::pin(write(api, version, left)).await?;
            written.extend(Box::pin(write(api, version, right)).await?);
            Ok(written)
        }
        Err(error @ CrmError::Refused(_)) => Ok(vec![Err(error)]),
        written => written,
    }
}

async fn write_batch(
    api: &Api,
    version: &str,
    updates: &[FieldUpdate],
) -> Result<Vec<Updated>, CrmError> {
    let record = |update: &FieldUpdate| {
        let mut record = update.fields.clone();
        record.insert("attributes".into(), json!({ "type": "Opportunity" }));
        record.insert("id".into(), json!(update.deal_id));
        record
    };
    let records: Vec<_> = updates.iter().map(record).collect();
    let body = json!({ "allOrNone": false, "records": records });
    let path = format!("services/data/{version}/composite/sobjects");
    let answer = match api.send_json(Method::PATCH, &path, &body).await {
        // Records that are not there are told one by one: it is the interface that is not.
        Err(CrmError::NotFound) => {
            let reason = format!("there is no `{path}`: does Salesforce have that `api_version`?");
            return Err(CrmError::Misconfigured(reason));
        }
        answer => answer?,
    };
    let results = answer.body.as_array();
    match results {
        Some(results) if answer.status.is_success() && results.len() == updates.len() => {
            Ok(results.iter().map(updated).collect())
        }
        // A field that is not there: no record of any update will be written.
        _ if answer.body.to_string().contains("INVALID_FIELD") => {
            Err(CrmError::Misconfigured(reason(answer.status, &answer.body)))
        }
        _ => Err(CrmError::Refused(reason(answer.status, &answer.body))),
    }
}

/// The answer to one record, in the order of the records.
fn updated(result: &Value) -> Updated {
    if result["success"] == true {
        return Ok(());
    }
    let error = &result["errors"][0];
    let message = error["message"].as_str().unwrap_or("was not written");
    Err(match error["statusCode"].as_str() {
        Some("ENTITY_IS_DELETED" | "INVALID_CROSS_REFERENCE_KEY" | "NOT_FOUND") => {
            CrmError::NotFound
        }
        Some("UNABLE_TO_LOCK_ROW") => CrmError::Unavailable(message.to_owned()),
        Some(code) => CrmError::Refused(format!("{code}: {message}")),
        None => CrmError::Refused(message.to_owned()),
    })
}
