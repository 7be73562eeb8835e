//! The mapping of a file as a form: what each column is taken for, and what each outcome means. Pure.
//!
//! The form carries the mapping that it shows and changes what was changed in it: what has no place in the
//! form (aliases, types, rules of events) stays as it is.

use super::forms::Form;
use crate::error::{Error, FieldError, Result};
use crate::ingest::Mapping;
use crate::ingest::guess::{ColumnLook, Look, sort_labels};
use crate::ingest::mapping::{DealColumns, MAPPING_BYTES_MAX, OutcomeLabels};

/// What a column can be taken for: the value in the form, and in words. Several columns may be each of the
/// first four, one at most each of the others.
pub const CHOICES: [(&str, &str); 20] = [
    ("attribute", "Attribute"),
    ("actionable", "Attribute that people can change"),
    ("protected", "Protected: never learned from"),
    ("ignore", "Leave out"),
    ("id", "Id"),
    ("name", "Name"),
    ("outcome", "Outcome"),
    ("stage", "Stage"),
    ("stage_outcome", "Stage, and tells the outcome"),
    ("closed_flag", "Yes or no: is it closed"),
    ("owner", "Owner"),
    ("pipeline", "Pipeline"),
    ("amount", "Amount"),
    ("currency", "Currency"),
    ("created_at", "Created"),
    ("expected_close_at", "Expected close"),
    ("closed_at", "Closed"),
    ("close", "Close date: expected while open"),
    ("stage_entered_at", "Stage entered"),
    ("priority", "Priority"),
];
const SHARED: usize = 4;

/// A row of the form: a column, and what it is taken for.
#[derive(Debug)]
pub struct ColumnRow<'a> {
    pub look: &'a ColumnLook,
    pub choice: &'static str,
}

/// What a label of the outcome column means.
#[derive(Debug, PartialEq)]
pub struct LabelRow<'a> {
    pub label: &'a str,
    pub count: u64,
    pub meaning: &'static str,
}

/// The columns of a file under a mapping.
pub fn columns<'a>(look: &'a Look, mapping: &Mapping) -> Vec<ColumnRow<'a>> {
    let row = |look: &'a ColumnLook| ColumnRow {
        look,
        choice: choice_of(mapping, &look.name),
    };
    look.columns.iter().map(row).collect()
}

/// The labels of the outcome column under a mapping; none where they are too many, or no column is it.
pub fn labels<'a>(look: &'a Look, mapping: &Mapping) -> Vec<LabelRow<'a>> {
    let lists = &mapping.outcome;
    let row = |(label, count): &'a (String, u64)| LabelRow {
        label,
        count: *count,
        meaning: if lists.won.contains(label) {
            "won"
        } else if lists.lost.contains(label) {
            "lost"
        } else {
            "open"
        },
    };
    labels_of(look, mapping).iter().map(row).collect()
}

fn labels_of<'a>(look: &'a Look, mapping: &Mapping) -> &'a [(String, u64)] {
    let named = mapping.deal.outcome.as_deref();
    let column = look.columns.iter().find(|c| named == Some(&c.name));
    column.and_then(|c| c.labels.as_deref()).unwrap_or_default()
}

/// What became of a form.
#[derive(Debug, PartialEq)]
pub struct Filled {
    pub mapping: Mapping,
    /// Another column tells the outcome now, so that what its labels mean should be looked at first.
    pub is_outcome_new: bool,
}

/// The mapping that a form says.
///
/// # Errors
/// `Invalid` where two columns are taken for the same, and as [`Mapping::check`].
pub fn filled(look: &Look, form: &Form) -> Result<Filled> {
    let base = form.text("base").unwrap_or_default();
    let base = of_toml(base)?;
    let mut mapping = base.clone();
    let mut errors = Vec::new();
    let mut taken: Vec<(&str, &str)> = Vec::new();
    for (index, column) in look.columns.iter().enumerate() {
        let before = choice_of(&base, &column.name);
        let now = form.text(&format!("as_{index}")).and_then(known);
        let now = now.unwrap_or(before);
        if let Some(other) = conflict(&taken, now) {
            let reason = format!("`{other}` is taken for the same");
            errors.push(FieldError::new(column.name.clone(), reason));
        }
        taken.push((now, &column.name));
        if now != before {
            forget(&mut mapping, &column.name);
        }
    }
    for ((now, name), column) in taken.iter().zip(&look.columns) {
        if *now != choice_of(&base, &column.name) {
            take(&mut mapping, name, now);
        }
    }
    let is_outcome_new = mapping.deal.outcome != base.deal.outcome;
    if is_outcome_new {
        let labels = labels_of(look, &mapping).iter();
        let sorted = sort_labels(labels.map(|(label, _)| label.as_str()));
        let closed_column = mapping.outcome.closed_column.take();
        mapping.outcome = OutcomeLabels {
            closed_column,
            ..sorted
        };
    } else {
        set_labels(&mut mapping, look, form);
    }
    settings(&mut mapping, form);
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    Ok(Filled {
        mapping,
        is_outcome_new,
    })
}

/// A mapping file that was sent: it may not name files of ours.
///
/// # Errors
/// As [`Mapping::from_toml`].
pub fn of_toml(text: &str) -> Result<Mapping> {
    if text.len() as u64 > MAPPING_BYTES_MAX {
        return Err(Error::TooLarge {
            limit: "mapping_bytes_max",
            max: MAPPING_BYTES_MAX,
        });
    }
    let mapping = Mapping::from_toml(text, "the mapping")?;
    mapping.refuse_joins()?;
    Ok(mapping)
}

fn known(choice: &str) -> Option<&'static str> {
    let known = CHOICES.iter().find(|(known, _)| *known == choice);
    known.map(|(known, _)| *known)
}

/// The column that is taken for the same already, of choices that one column can have.
fn conflict<'a>(taken: &[(&str, &'a str)], choice: &str) -> Option<&'a str> {
    let fields = fields_of(choice);
    let is_same = |(other, _): &&(&str, &str)| {
        let shares = fields_of(other).iter().any(|field| fields.contains(field));
        shares || (*other == choice && choice == "closed_flag")
    };
    taken.iter().find(is_same).map(|(_, column)| *column)
}

/// The fields of a deal that a choice fills.
fn fields_of(choice: &str) -> &[&str] {
    let shared = CHOICES[..SHARED].iter().map(|(choice, _)| *choice);
    match choice {
        "stage_outcome" => &["outcome", "stage"],
        "close" => &["expected_close_at", "closed_at"],
        "closed_flag" => &[],
        _ if shared.into_iter().any(|shared| shared == choice) => &[],
        _ => CHOICES
            .iter()
            .find(|(known, _)| *known == choice)
            .map_or(&[], |(known, _)| std::slice::from_ref(known)),
    }
}

fn choice_of(mapping: &Mapping, column: &str) -> &'static str {
    let named = mapping.deal.named();
    let fields: Vec<&str> = named
        .filter(|(_, taken)| *taken == column)
        .map(|(field, _)| field)
        .collect();
    let is_in = |list: &[String]| list.iter().any(|listed| listed == column);
    let rules = &mapping.columns;
    match &fields[..] {
        [] if mapping.outcome.closed_column.as_deref() == Some(column) => "closed_flag",
        [] if is_in(&rules.ignore) => "ignore",
        [] if is_in(&rules.protected) => "protected",
        [] if is_in(&rules.actionable) => "actionable",
        [] => "attribute",
        fields if fields.contains(&"outcome") && fields.contains(&"stage") => "stage_outcome",
        fields if fields.contains(&"closed_at") && fields.contains(&"expected_close_at") => "close",
        fields => known(fields[0]).unwrap_or("attribute"),
    }
}

/// Takes a column for nothing any more.
fn forget(mapping: &mut Mapping, column: &str) {
    for (_, slot) in slots(&mut mapping.deal) {
        if slot.as_deref() == Some(column) {
            *slot = None;
        }
    }
    let closed_column = &mut mapping.outcome.closed_column;
    if closed_column.as_deref() == Some(column) {
        *closed_column = None;
    }
    let rules = &mut mapping.columns;
    for list in [
        &mut rules.ignore,
        &mut rules.protected,
        &mut rules.actionable,
    ] {
        list.retain(|listed| listed != column);
    }
}

fn take(mapping: &mut Mapping, column: &str, choice: &str) {
    let rules = &mut mapping.columns;
    match choice {
        "ignore" => rules.ignore.push(column.to_owned()),
        "protected" => rules.protected.push(column.to_owned()),
        "actionable" => rules.actionable.push(column.to_owned()),
        "closed_flag" => mapping.outcome.closed_column = Some(column.to_owned()),
        _ => {
            let fields = fields_of(choice);
            for (field, slot) in slots(&mut mapping.deal) {
                if fields.contains(&field) {
                    *slot = Some(column.to_owned());
                }
            }
        }
    }
}

fn slots(deal: &mut DealColumns) -> [(&'static str, &mut Option<String>); 13] {
    [
        ("id", &mut deal.id),
        ("outcome", &mut deal.outcome),
        ("name", &mut deal.name),
        ("pipeline", &mut deal.pipeline),
        ("stage", &mut deal.stage),
        ("stage_entered_at", &mut deal.stage_entered_at),
        ("owner", &mut deal.owner),
        ("amount", &mut deal.amount),
        ("currency", &mut deal.currency),
        ("created_at", &mut deal.created_at),
        ("expected_close_at", &mut deal.expected_close_at),
        ("closed_at", &mut deal.closed_at),
        ("priority", &mut deal.priority),
    ]
}

/// Labels that the file does not have keep their meaning: other files may have them.
fn set_labels(mapping: &mut Mapping, look: &Look, form: &Form) {
    for (index, (label, _)) in labels_of(look, mapping).iter().enumerate() {
        let Some(meaning) = form.text(&format!("label_{index}")) else {
            continue;
        };
        let outcome = &mut mapping.outcome;
        for list in [&mut outcome.won, &mut outcome.lost, &mut outcome.open] {
            list.retain(|listed| listed != label);
        }
        let list = match meaning {
            "won" => &mut outcome.won,
            "lost" => &mut outcome.lost,
            _ => &mut outcome.open,
        };
        list.push(label.clone());
    }
}

fn settings(mapping: &mut Mapping, form: &Form) {
    let text = |name| form.text(name).map(str::to_owned);
    match text("currency") {
        Some(currency) => drop(mapping.defaults.insert("currency".into(), currency)),
        None => drop(mapping.defaults.remove("currency")),
    }
    mapping.time.format = text("time_format");
    mapping.time.zone = text("time_zone");
    mapping.csv.decimal = text("decimal");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look() -> Look {
        let column = |name: &str, labels: &[&str]| ColumnLook {
            name: name.into(),
            filled: 4,
            samples: Vec::new(),
            labels: Some(labels.iter().map(|l| (l.to_string(), 1)).collect()),
        };
        Look {
            columns: vec![
                column("Id", &[]),
                column("Step", &["Demo", "Lost", "Won"]),
                column("Result", &["no", "yes"]),
                column("Sum", &[]),
                column("Total", &[]),
            ],
            ..Look::default()
        }
    }

    fn base() -> Mapping {
        let toml = r#"
            [deal]
            id = "Id"
            outcome = "Step"
            stage = "Step"
            amount = "Sum"
            [outcome]
            won = ["Won", "Gewonnen"]
            lost = ["Lost"]
            open = ["Demo"]
            [aliases]
            Result = { y = "yes" }
        "#;
        Mapping::from_toml(toml, "base").unwrap()
    }

    fn fill(changes: &[(&str, &str)]) -> Result<Filled> {
        let base = base().to_toml().unwrap();
        let fields = [("base", base.as_str())].into_iter();
        let fields = fields.chain(changes.iter().copied());
        filled(&look(), &Form::from_pairs(fields))
    }

    #[test]
    fn what_is_not_changed_stays_as_it_was() {
        let look = look();
        let shown: Vec<(String, String)> = columns(&look, &base())
            .iter()
            .enumerate()
            .map(|(index, row)| (format!("as_{index}"), row.choice.to_owned()))
            .collect();
        let choices: Vec<&str> = shown.iter().map(|(_, choice)| choice.as_str()).collect();
        assert_eq!(
            choices,
            ["id", "stage_outcome", "attribute", "amount", "attribute"]
        );
        let shown: Vec<(&str, &str)> = shown
            .iter()
            .map(|(n, c)| (n.as_str(), c.as_str()))
            .collect();
        let filled = fill(&shown).unwrap();
        assert_eq!(filled.mapping, base());
        assert!(!filled.is_outcome_new);
    }

    #[test]
    fn columns_change_places() {
        let changes = [
            ("as_3", "attribute"),
            ("as_4", "amount"),
            ("as_2", "protected"),
        ];
        let mapping = fill(&changes).unwrap().mapping;
        assert_eq!(mapping.deal.amount.as_deref(), Some("Total"));
        assert_eq!(mapping.columns.protected, ["Result"]);
        assert_eq!(mapping.aliases, base().aliases);
        let error = fill(&[("as_4", "amount")]).unwrap_err().to_string();
        assert_eq!(error, "Total: `Sum` is taken for the same");
        assert!(fill(&[("as_2", "outcome")]).is_err(), "two outcomes");
    }

    #[test]
    fn labels_change_their_meaning_and_a_new_outcome_column_has_its_own() {
        let mapping = fill(&[("label_0", "lost"), ("label_2", "open")])
            .unwrap()
            .mapping;
        assert_eq!(mapping.outcome.won, ["Gewonnen"]);
        assert_eq!(mapping.outcome.lost, ["Lost", "Demo"]);
        assert_eq!(mapping.outcome.open, ["Won"]);
        let filled = fill(&[("as_1", "stage"), ("as_2", "outcome"), ("label_0", "won")]).unwrap();
        assert!(filled.is_outcome_new);
        assert_eq!(filled.mapping.deal.stage.as_deref(), Some("Step"));
        assert_eq!(filled.mapping.outcome.won, ["yes"]);
        assert_eq!(filled.mapping.outcome.lost, ["no"]);
    }

    #[test]
    fn settings_are_set_and_removed() {
        let mapping = fill(&[("currency", "EUR"), ("time_format", "%d/%m/%Y")])
            .unwrap()
            .mapping;
        assert_eq!(mapping.defaults["currency"], "EUR");
        assert_eq!(mapping.time.format.as_deref(), Some("%d/%m/%Y"));
        assert!(fill(&[]).unwrap().mapping.defaults.is_empty());
    }

    #[test]
    fn a_mapping_that_names_files_of_ours_is_refused() {
        let join = "[[join]]\nfile = \"/etc/passwd\"\ncolumn = \"a\"\nkey = \"b\"\n";
        assert!(of_toml(join).is_err());
    }
}
