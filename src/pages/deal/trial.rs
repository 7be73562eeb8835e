//! What if: the score with other values in the fields that people can act upon. A form that is asked
//! for like any page, so that an answer can be kept, sent and gone back from.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::super::charts::rows;
use super::super::format::{Html, Money, Percent, Points};
use super::super::words;
use crate::columns::{Column, Source, Treatment};
use crate::domain::deal::DEAL_FIELDS;
use crate::domain::{AttributeValue, Deal};
use crate::error::{Error, FieldError, Result};
use crate::http::query::Params;
use crate::ingest::mapping::ColumnType;
use crate::scoring::{Scorer, moved};
use crate::what_if::{self, WhatIf};

/// Values that a field offers: those that most deals of the past had.
const CHOICES_MAX: usize = 100;
/// Begins the name of a parameter that changes a field.
const PREFIX: &str = "if.";

/// The form, and the answer if something was asked.
#[derive(Debug, Clone)]
pub struct Trial {
    pub fields: Vec<Field>,
    pub answer: Option<Answer>,
    pub errors: Vec<FieldError>,
    pub note: &'static str,
}

/// A field of the form.
#[derive(Debug, Clone)]
pub struct Field {
    /// Of the parameter; also the id of the input.
    pub name: String,
    pub label: String,
    pub kind: FieldKind,
    /// As it is in the form.
    pub value: String,
    /// As the deal has it; empty where it has none.
    pub present: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldKind {
    Number,
    Date,
    Text,
    /// The values that the model knows, and the present one.
    Choice(Vec<String>),
}

/// The score with the changes.
#[derive(Debug, Clone)]
pub struct Answer {
    pub before: Percent,
    pub after: Percent,
    pub difference: Points,
    pub is_better: bool,
    pub is_same: bool,
    pub bar: Html,
    pub expected_value: Option<(Money, Money)>,
    /// What moved: column, before, after.
    pub moved: Vec<(String, String, String)>,
}

/// Reads the form out of the parameters. What does not differ from the deal is no change.
pub fn read(scorer: &Scorer, deal: &Deal, params: &mut Params, now: Timestamp) -> Result<Trial> {
    let names = &scorer.model().mapping.columns.actionable;
    let mut fields: Vec<Field> = names.iter().map(|name| field(scorer, deal, name)).collect();
    let mut changes = Map::new();
    for (name, field) in names.iter().zip(&mut fields) {
        // An empty input is an answer too: without the value.
        let Some(given) = params.given(&field.name) else {
            continue;
        };
        field.value = given.trim().to_owned();
        if let FieldKind::Choice(values) = &mut field.kind
            && !field.value.is_empty()
            && !values.contains(&field.value)
        {
            values.push(field.value.clone());
        }
        if field.value != field.present {
            changes.insert(name.clone(), change(field));
        }
    }
    let mut trial = Trial {
        fields,
        answer: None,
        errors: Vec::new(),
        note: what_if::NOTE,
    };
    if changes.is_empty() {
        return Ok(trial);
    }
    match what_if::what_if(scorer, deal, changes, now) {
        Ok(what_if) => trial.answer = Some(answer(&what_if)),
        Err(Error::Invalid(errors)) => {
            let named = errors.into_iter().map(|error| {
                let field = error.field.strip_prefix("changes.").unwrap_or(&error.field);
                FieldError::new(words::name(field), error.reason)
            });
            trial.errors = named.collect();
        }
        Err(error) => return Err(error),
    }
    Ok(trial)
}

fn field(scorer: &Scorer, deal: &Deal, name: &str) -> Field {
    let own = DEAL_FIELDS.contains(&name);
    let attribute = name.strip_prefix("attributes.").unwrap_or(name);
    let present = match own {
        true => deal.field(name),
        false => deal
            .attributes
            .get(attribute)
            .cloned()
            .unwrap_or(AttributeValue::Null),
    };
    let columns = scorer.model().columns.iter();
    let column = columns.into_iter().find(|column| match &column.source {
        Source::Attribute(source) => !own && source == attribute,
        Source::Feature(source) => own && source == name,
        Source::Activities(_) | Source::Usual(_) => false,
    });
    let kind = match name {
        "amount" => FieldKind::Number,
        "expected_close_at" => FieldKind::Date,
        _ => kind(column, &present),
    };
    let present = match column.map(|column| column.holds) {
        Some(ColumnType::Boolean) => flag(&present),
        _ => plain(&present, &kind),
    };
    Field {
        name: format!("{PREFIX}{name}"),
        label: words::name(match name {
            "expected_close_at" => "expected_close",
            name => name.strip_prefix("attributes.").unwrap_or(name),
        }),
        value: present.clone(),
        present,
        kind,
    }
}

fn kind(column: Option<&Column>, present: &AttributeValue) -> FieldKind {
    let Some(column) = column else {
        return match present {
            AttributeValue::Number(_) => FieldKind::Number,
            AttributeValue::Bool(_) => FieldKind::Choice(vec!["true".into(), "false".into()]),
            _ => FieldKind::Text,
        };
    };
    match (&column.treatment, column.holds) {
        (_, ColumnType::Date) => FieldKind::Date,
        (_, ColumnType::Boolean) => FieldKind::Choice(vec!["true".into(), "false".into()]),
        (Treatment::Number(_), _) => FieldKind::Number,
        (Treatment::Category(category), _) => {
            let mut values: Vec<String> = (category.levels.iter().take(CHOICES_MAX))
                .map(|level| level.value.clone())
                .collect();
            let present = plain(present, &FieldKind::Text);
            // The deal may write it another way than the model does.
            values.retain(|value| !value.eq_ignore_ascii_case(&present));
            if !present.is_empty() {
                values.insert(0, present);
            }
            FieldKind::Choice(values)
        }
    }
}

/// A yes or no as an input has it, however the deal says it.
fn flag(value: &AttributeValue) -> String {
    let text = plain(value, &FieldKind::Text).trim().to_lowercase();
    match text.as_str() {
        "true" | "yes" | "y" | "1" | "t" => "true".into(),
        "false" | "no" | "n" | "0" | "f" => "false".into(),
        _ => text,
    }
}

/// A value as an input has it.
fn plain(value: &AttributeValue, kind: &FieldKind) -> String {
    match value {
        AttributeValue::Null => String::new(),
        AttributeValue::Bool(flag) => flag.to_string(),
        AttributeValue::Number(number) => number.to_string(),
        AttributeValue::Text(text) if *kind == FieldKind::Date => {
            text.split('T').next().unwrap_or(text).to_owned()
        }
        AttributeValue::Text(text) => text.clone(),
    }
}

/// A value as the API takes it.
fn change(field: &Field) -> Value {
    let text = field.value.as_str();
    match &field.kind {
        _ if text.is_empty() => Value::Null,
        FieldKind::Number => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Value::from(number),
            _ => Value::from(text),
        },
        FieldKind::Date if text.len() == 10 => Value::from(format!("{text}T00:00:00Z")),
        FieldKind::Choice(_) if text == "true" || text == "false" => Value::from(text == "true"),
        FieldKind::Date | FieldKind::Text | FieldKind::Choice(_) => Value::from(text),
    }
}

fn answer(WhatIf { without, with }: &WhatIf) -> Answer {
    let (before, after) = (without.win_probability.get(), with.win_probability.get());
    let values = without.expected_value.zip(with.expected_value);
    let moved = moved(without, with).into_iter().map(|moved| {
        let name = words::name(&moved.feature);
        (
            name,
            words::value(&moved.from_value),
            words::value(&moved.to_value),
        )
    });
    Answer {
        before: Percent(before),
        after: Percent(after),
        difference: Points(after - before),
        is_better: after > before,
        is_same: (after - before).abs() < 0.0005,
        bar: rows::interval(with.interval.low.get(), after, with.interval.high.get()),
        expected_value: values.map(|(without_value, with_value)| {
            (
                Money::new(without_value, without.base_currency),
                Money::new(with_value, with.base_currency),
            )
        }),
        moved: moved.collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_become_what_the_api_takes() {
        let given = |kind: FieldKind, value: &str| {
            change(&Field {
                name: "if.x".into(),
                label: "X".into(),
                kind,
                value: value.into(),
                present: String::new(),
            })
        };
        assert_eq!(given(FieldKind::Number, "10.5"), json!(10.5));
        assert_eq!(given(FieldKind::Number, "NaN"), json!("NaN"));
        assert_eq!(
            given(FieldKind::Date, "2026-04-30"),
            json!("2026-04-30T00:00:00Z")
        );
        assert_eq!(given(FieldKind::Text, ""), json!(null));
        assert_eq!(given(FieldKind::Choice(Vec::new()), "true"), json!(true));
        assert_eq!(given(FieldKind::Choice(Vec::new()), "Web"), json!("Web"));
    }
}
