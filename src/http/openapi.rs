//! The description of the interface: OpenAPI 3.1, the same as 3.0 for tools that read no newer one,
//! and as pages under `/docs`.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_swagger_ui::{Config, SwaggerUi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "dealrank",
        description = "Learns from closed deals how likely an open one is won, and ranks pipelines by expected value. Every failure is an `application/problem+json` document with a stable `code`."
    ),
    paths(
        super::scores::score,
        super::scores::score_batch,
        super::flat_scores::score,
        super::deals::read,
        super::deals::put,
        super::deals::patch,
        super::deals::erase,
        super::deals::scores,
        super::deals::append,
        super::what_if::ask,
        super::imports::import,
        super::imports::rejects,
        super::rankings::ranking,
        super::rankings::queue,
        super::insights::read_misprioritized,
        super::insights::read_stalled,
        super::insights::read_slipping,
        super::insights::read_reps,
        super::pipeline::read_summary,
        super::pipeline::read_coverage,
        super::pipeline::read_forecast,
        super::models::train,
        super::models::list,
        super::models::read,
        super::models::report,
        super::models::export,
        super::models::activate,
        super::models::recalibrate,
        super::models::roll_back,
        super::webhooks::receive,
        super::webhooks::receive_unsigned,
        super::deadletters::list,
        super::deadletters::read,
        super::deadletters::replace,
        super::deadletters::patch,
        super::deadletters::replay,
        super::deadletters::replay_all,
        super::deadletters::discard,
        super::jobs::list,
        super::jobs::read,
        super::jobs::events,
        super::subscriptions::create,
        super::subscriptions::list,
        super::subscriptions::read,
        super::subscriptions::change,
        super::subscriptions::delete,
        super::subscriptions::deliveries,
        super::subscriptions::test,
        super::subscriptions::redeliver,
        super::health::live,
        super::health::ready,
        super::health::metrics,
    ),
    components(schemas(crate::inbound::Source)),
    modifiers(&Keys)
)]
struct Description;

/// Keys are wanted where the settings say so: `[access] api_key_required`.
struct Keys;

impl Modify for Keys {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("key", scheme);
        let with_key = SecurityRequirement::new::<_, [&str; 0], &str>("key", []);
        description.security = Some(vec![with_key, SecurityRequirement::default()]);
    }
}

static CURRENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::to_value(Description::openapi()).unwrap_or_default());

static OLDER: LazyLock<Value> = LazyLock::new(|| to_3_0(CURRENT.clone()));

pub async fn current() -> HttpResponse {
    HttpResponse::Ok().json(&*CURRENT)
}

pub async fn older() -> HttpResponse {
    HttpResponse::Ok().json(&*OLDER)
}

/// The pages that show it.
pub fn docs() -> SwaggerUi {
    SwaggerUi::new("/docs/{_:.*}").config(Config::from("/openapi.json"))
}

/// An OpenAPI 3.1 document in the words of 3.0.
fn to_3_0(mut document: Value) -> Value {
    document["openapi"] = json!("3.0.3");
    if let Some(license) = document
        .pointer_mut("/info/license")
        .and_then(Value::as_object_mut)
    {
        license.remove("identifier");
    }
    convert(&mut document);
    document
}

fn convert(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(convert),
        Value::Object(fields) => {
            without_type_arrays(fields);
            without_null_branches(fields);
            without_newer_words(fields);
            fields.values_mut().for_each(convert);
        }
        _ => {}
    }
}

/// `"type": ["number", "null"]` becomes `"type": "number", "nullable": true`.
fn without_type_arrays(fields: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = fields.get("type") else {
        return;
    };
    let named: Vec<Value> = types.iter().filter(|t| *t != "null").cloned().collect();
    let is_nullable = named.len() < types.len();
    match <[Value; 1]>::try_from(named) {
        Ok([only]) => fields.insert("type".into(), only),
        // Several types are, in 3.0, no type.
        Err(_) => fields.remove("type"),
    };
    if is_nullable {
        fields.insert("nullable".into(), json!(true));
    }
}

/// `oneOf: [null, X]` becomes `allOf: [X], nullable: true`; a `$ref` may have no neighbours in 3.0.
fn without_null_branches(fields: &mut Map<String, Value>) {
    for word in ["oneOf", "anyOf"] {
        let Some(Value::Array(branches)) = fields.get_mut(word) else {
            continue;
        };
        let before = branches.len();
        branches.retain(|branch| branch.get("type") != Some(&json!("null")));
        if branches.len() == before {
            continue;
        }
        if branches.len() == 1
            && let Some(branches) = fields.remove(word)
        {
            fields.insert("allOf".into(), branches);
        }
        fields.insert("nullable".into(), json!(true));
    }
}

/// `examples`, `const`, numeric exclusive bounds and the like have older forms, or none.
fn without_newer_words(fields: &mut Map<String, Value>) {
    let is_schema = fields.contains_key("type") || fields.contains_key("nullable");
    if let Some(constant) = fields.remove("const") {
        fields.insert("enum".into(), json!([constant]));
    }
    if is_schema && let Some(Value::Array(examples)) = fields.get("examples") {
        if let Some(example) = examples.first().cloned() {
            fields.insert("example".into(), example);
        }
        fields.remove("examples");
    }
    if is_schema {
        fields.remove("propertyNames");
    }
    for (exclusive, bound) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        if let Some(limit) = fields.get(exclusive).filter(|v| v.is_number()).cloned() {
            fields.insert(bound.into(), limit);
            fields.insert(exclusive.into(), json!(true));
        }
    }
    if fields.contains_key("$ref") {
        fields.retain(|word, _| word == "$ref");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(value: &Value, path: &str, seen: &mut dyn FnMut(&str, &Map<String, Value>)) {
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    visit(item, &format!("{path}/{index}"), seen);
                }
            }
            Value::Object(fields) => {
                seen(path, fields);
                for (name, field) in fields {
                    visit(field, &format!("{path}/{name}"), seen);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn nothing_of_3_1_is_left_in_the_older_description() {
        let mut nullable_count = 0;
        visit(&OLDER, "", &mut |path, fields| {
            if path.ends_with("/properties") {
                return;
            }
            assert!(
                !matches!(fields.get("type"), Some(Value::Array(_))),
                "{path}"
            );
            assert_ne!(fields.get("type"), Some(&json!("null")), "{path}");
            for word in [
                "const",
                "propertyNames",
                "$defs",
                "prefixItems",
                "contentMediaType",
            ] {
                assert!(!fields.contains_key(word), "{path} has {word}");
            }
            for word in ["exclusiveMinimum", "exclusiveMaximum"] {
                assert!(!fields.get(word).is_some_and(Value::is_number), "{path}");
            }
            if fields.contains_key("$ref") {
                assert_eq!(fields.len(), 1, "{path}: a $ref has neighbours");
            }
            nullable_count += usize::from(fields.get("nullable") == Some(&json!(true)));
        });
        assert_eq!(OLDER["openapi"], "3.0.3");
        assert!(nullable_count > 10, "{nullable_count}");
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_every_reference_a_target() {
        let mut names = Vec::new();
        for (path, operations) in CURRENT["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let name = operation["operationId"].as_str();
                names.push(name.unwrap_or_else(|| panic!("{method} {path}")).to_owned());
                assert!(operation["summary"].is_string(), "{method} {path}");
            }
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        visit(&CURRENT, "", &mut |path, fields| {
            if let Some(Value::String(target)) = fields.get("$ref") {
                let pointer = target.trim_start_matches('#');
                assert!(CURRENT.pointer(pointer).is_some(), "{path}: {target}");
            }
        });
    }
}
