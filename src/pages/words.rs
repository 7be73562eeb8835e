//! Names and values of CRMs as people read them.

use serde_json::Value;

use super::charts::waterfall::odds;
use super::format::grouped;
use crate::domain::AttributeValue;
use crate::scoring::{Reason, Warning};

/// A column's name: `days_in_stage` is "Days in stage"; what has capitals or blanks stays as it is.
///
/// A count of the features (`calls_30d`, `activities_in_stage:call/inbound`) says of what and since when.
pub fn name(column: &str) -> String {
    if let Some((count, kind)) = column.split_once(':')
        && count.starts_with("activities")
    {
        return format!("{}, {}", name(count), kind.replace('/', ", "));
    }
    let is_plain = column
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !is_plain {
        return column.to_owned();
    }
    let days = |word: &str| {
        Some(format!(
            "in {} days",
            word.strip_suffix('d')?.parse::<u16>().ok()?
        ))
    };
    let words = column
        .split('_')
        .map(|word| days(word).unwrap_or_else(|| word.to_owned()));
    let spaced = words.collect::<Vec<_>>().join(" ");
    let mut chars = spaced.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => spaced,
    }
}

/// A value as JSON has it: `yes`, `1,234.5`, `unknown`.
pub fn value(value: &Value) -> String {
    match value {
        Value::Null => "unknown".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.as_f64().map_or(number.to_string(), short_number),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value of a deal, as [`value`].
pub fn attribute(attribute: &AttributeValue) -> String {
    match attribute {
        AttributeValue::Null => "unknown".into(),
        AttributeValue::Bool(flag) => value(&Value::Bool(*flag)),
        AttributeValue::Number(number) => short_number(*number),
        AttributeValue::Text(text) => text.clone(),
    }
}

fn short_number(number: f64) -> String {
    if number.fract() == 0.0 || number.abs() >= 1000.0 {
        grouped(number, 0)
    } else {
        grouped(number, if number.abs() < 10.0 { 2 } else { 1 })
    }
}

/// A reason: `Source: Inbound`.
pub fn reason(reason: &Reason) -> String {
    format!("{}: {}", name(&reason.feature), value(&reason.value))
}

/// What a reason does to the odds: `×1.8`.
pub fn effect(reason: &Reason) -> String {
    odds(reason.contribution)
}

/// A warning of a score: what it is, and more about it.
pub fn warning(warning: &Warning) -> (&'static str, String) {
    let title = match warning.code.as_str() {
        "insufficient_history" => "Little history",
        "no_amount" => "No amount",
        "no_rate" => "No exchange rate",
        "unseen_category" => "Not seen before",
        "out_of_range" => "Outside of what was seen",
        "unreadable_value" => "Unreadable value",
        "missing_unseen" => "Value is missing",
        _ => "Note",
    };
    let detail = match &warning.field {
        // The detail of these does not name the field.
        Some(field) if matches!(warning.code.as_str(), "unseen_category" | "out_of_range") => {
            format!("{}: {}", name(field), warning.detail)
        }
        _ => warning.detail.clone(),
    };
    (title, detail)
}

/// Why a deal was scored.
pub fn cause(cause: &str) -> &str {
    match cause {
        "activation" => "another model",
        "refresh" => "the passing of time",
        "import" => "an import",
        "events" => "events",
        "put" | "patch" => "a change of the deal",
        other => other,
    }
}

/// `1 deal`, `2 deals`.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    format!(
        "{} {}",
        grouped(count as f64, 0),
        if count == 1 { one } else { many }
    )
}

/// With a capital and a full stop.
pub fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else {
        return String::new();
    };
    let stop = if text.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    format!("{}{}{stop}", first.to_uppercase(), chars.as_str())
}

#[cfg(test)]
mod tests {

    use serde_json::json;

    use super::*;

    #[test]
    fn columns_and_values_read_like_words() {
        assert_eq!(name("days_in_stage"), "Days in stage");
        assert_eq!(name("Lead Source"), "Lead Source");
        assert_eq!(name(""), "");
        assert_eq!(name("inbound_30d"), "Inbound in 30 days");
        assert_eq!(
            name("activities_in_stage:call/outbound"),
            "Activities in stage, call, outbound"
        );
        assert_eq!(value(&json!(true)), "yes");
        assert_eq!(value(&json!(672000.0)), "672,000");
        assert_eq!(value(&json!(2.345)), "2.35");
        assert_eq!(value(&Value::Null), "unknown");
        assert_eq!(counted(1, "deal", "deals"), "1 deal");
        assert_eq!(counted(1200, "deal", "deals"), "1,200 deals");
    }

    #[test]
    fn a_detail_becomes_a_sentence() {
        assert_eq!(sentence("there is no deal `x`"), "There is no deal `x`.");
        assert_eq!(sentence("Why?"), "Why?");
        assert_eq!(sentence(""), "");
    }
}
