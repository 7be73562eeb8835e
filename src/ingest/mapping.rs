//! The mapping file: which column of theirs is which field of ours.
//!
//! Two things are checked here: that the file can be read, and that it can be meant. Whether it fits
//! a certain CSV is found when that CSV is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::domain::Currency;
use crate::domain::money::parse_amount;
use crate::error::{Error, FieldError, Result};

/// Largest mapping file, in bytes.
pub const MAPPING_BYTES_MAX: u64 = 1_000_000;

/// Which column is which field, and how the values are to be read. Every section may be absent.
///
/// The missing tokens and aliases of columns that are attributes are applied by the model, not while
/// reading, so that a CSV, a JSON document and a stored deal are understood alike.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mapping {
    pub deal: DealColumns,
    /// Values of fields that have no column, or an empty cell.
    #[serde(rename = "default", skip_serializing_if = "BTreeMap::is_empty")]
    pub defaults: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "OutcomeLabels::is_empty")]
    pub outcome: OutcomeLabels,
    #[serde(skip_serializing_if = "TimeFormat::is_empty")]
    pub time: TimeFormat,
    #[serde(skip_serializing_if = "MissingTokens::is_default")]
    pub missing: MissingTokens,
    #[serde(skip_serializing_if = "ColumnRules::is_empty")]
    pub columns: ColumnRules,
    /// Column, then their spelling, then ours.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "CsvFormat::is_default")]
    pub csv: CsvFormat,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub join: Vec<Join>,
    #[serde(skip_serializing_if = "EventColumns::is_empty")]
    pub events: EventColumns,
}

/// Column names of the fields of a deal.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DealColumns {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage_entered_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_close_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
}

impl DealColumns {
    /// Our fields that have a column, with their column.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("id", &self.id),
            ("outcome", &self.outcome),
            ("name", &self.name),
            ("pipeline", &self.pipeline),
            ("stage", &self.stage),
            ("stage_entered_at", &self.stage_entered_at),
            ("owner", &self.owner),
            ("amount", &self.amount),
            ("currency", &self.currency),
            ("created_at", &self.created_at),
            ("expected_close_at", &self.expected_close_at),
            ("closed_at", &self.closed_at),
            ("priority", &self.priority),
        ]
        .into_iter()
        .filter_map(|(field, column)| Some((field, column.as_deref()?)))
    }
}

/// Which values of the outcome column mean what.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutcomeLabels {
    pub won: Vec<String>,
    pub lost: Vec<String>,
    pub open: Vec<String>,
    /// A yes/no column; where it says no, the deal is open whatever the outcome column says. For
    /// exports with two flags, such as `IsClosed` and `IsWon`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_column: Option<String>,
}

impl OutcomeLabels {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How times are written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeFormat {
    /// strptime; without it RFC 3339, ISO date or ISO date-time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// IANA name of the zone of times without offset; UTC without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl TimeFormat {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Texts that mean "not known".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MissingTokens {
    pub tokens: Vec<String>,
    /// Instead of `tokens` for these columns.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, Vec<String>>,
}

impl MissingTokens {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The tokens of one column.
    pub fn of(&self, column: &str) -> &[String] {
        self.columns.get(column).unwrap_or(&self.tokens)
    }
}

impl Default for MissingTokens {
    fn default() -> Self {
        Self {
            tokens: vec![String::new()],
            columns: BTreeMap::new(),
        }
    }
}

/// What to do with columns that are attributes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnRules {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Learned from also where they seem to know how deals ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keep: Vec<String>,
    #[serde(rename = "type", skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, ColumnType>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actionable: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<String>,
}

impl ColumnRules {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the values of a column are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    Number,
    Category,
    Boolean,
    Date,
}

/// How the file is written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CsvFormat {
    /// One character; found by looking when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// `.` or `,`: the decimal mark of amounts. When absent, an amount that could be read both ways
    /// (`1.234` in a file with semicolons) is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decimal: Option<String>,
    /// Rows to leave out: column and the values that mark them, such as `is_deleted = ["true"]`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub skip: BTreeMap<String, Vec<String>>,
}

impl CsvFormat {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn delimiter_byte(&self) -> Option<u8> {
        match self.delimiter.as_deref()? {
            "tab" | "\\t" => Some(b'\t'),
            text => text.bytes().next(),
        }
    }
}

/// A small CSV whose columns are added to each row: a left join by exact value, after aliases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Relative to the folder of the mapping file.
    pub file: String,
    /// Our column.
    pub column: String,
    /// Their column.
    pub key: String,
    /// Their columns to add; all but the key when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// Put before the names of the columns added.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// Columns of the events file, and what its kinds of events mean.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventColumns {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deal_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Who did it. Read by no feature yet; the column must exist all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    #[serde(rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<EventRule>,
}

impl EventColumns {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn decides_outcomes(&self) -> bool {
        let decides = |rule: &EventRule| matches!(rule.is, EventMeaning::Won | EventMeaning::Lost);
        self.rules.iter().any(decides)
    }
}

/// What events of a kind mean. The first rule that matches wins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRule {
    /// The kind, where `*` stands for any text.
    pub kind: String,
    pub is: EventMeaning,
    /// Of `is = "field"`: the field or attribute that changed. The kind names it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// Of `is = "field"` and `is = "stage"`: the column with the new value. Without it a stage is
    /// named by the kind; a field needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Further columns and the value that each must have.
    #[serde(rename = "where", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub conditions: BTreeMap<String, String>,
}

/// What an event means for its deal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventMeaning {
    Won,
    Lost,
    Stage,
    Activity,
    Ignore,
    Field,
}

/// Fields that can have a default.
const DEFAULT_FIELDS: [&str; 7] = [
    "name", "pipeline", "stage", "owner", "amount", "currency", "priority",
];

impl Mapping {
    /// Reads a mapping file.
    ///
    /// # Errors
    /// `NotFound` without the file, `Input` with the line of what cannot be read, `Invalid` for what
    /// can be read and not be meant.
    pub fn load(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let bytes = match std::fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NotFound {
                    kind: "mapping file",
                    id: name,
                });
            }
            Err(error) => return Err(anyhow::Error::new(error).context(name).into()),
        };
        if bytes > MAPPING_BYTES_MAX {
            return Err(Error::TooLarge {
                limit: "bytes of a mapping file",
                max: MAPPING_BYTES_MAX,
            });
        }
        let text = std::fs::read(path).with_context(|| format!("Failed to read {name}"))?;
        let text = String::from_utf8(text)
            .map_err(|_| Error::Malformed(format!("{name} is not UTF-8 text")))?;
        Self::from_toml(&text, &name)
    }

    /// Reads the text of a mapping file; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`Mapping::load`].
    pub fn from_toml(text: &str, name: &str) -> Result<Self> {
        let text = text.trim_start_matches('\u{feff}');
        let mapping: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text
                .bytes()
                .take(start)
                .filter(|byte| *byte == b'\n')
                .count();
            Error::Input {
                file: name.to_owned(),
                line: line as u64,
                column: None,
                reason: error.message().to_owned(),
            }
        })?;
        mapping.check()?;
        Ok(mapping)
    }

    /// The text of the mapping file; reading it gives an equal mapping.
    ///
    /// # Errors
    /// Never for a mapping that was read or guessed.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string_pretty(self).context("Failed to write the mapping as TOML")?)
    }

    /// For callers that must not let a mapping name files on this machine.
    ///
    /// # Errors
    /// When the mapping has a join.
    pub fn refuse_joins(&self) -> Result<()> {
        match self.join.is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(
                "mapping.join",
                "joins are only for the command line",
            )),
        }
    }

    /// Whether the mapping can be meant.
    ///
    /// # Errors
    /// `Invalid` with everything that is wrong.
    pub fn check(&self) -> Result<()> {
        let mut errors = Vec::new();
        self.check_defaults(&mut errors);
        self.check_outcome(&mut errors);
        self.check_time(&mut errors);
        self.check_csv(&mut errors);
        self.check_columns(&mut errors);
        self.check_events(&mut errors);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Error::Invalid(errors))
        }
    }

    fn check_defaults(&self, errors: &mut Vec<FieldError>) {
        for (field, value) in &self.defaults {
            let checked = match field.as_str() {
                "amount" => parse_amount(value).map(drop),
                "currency" => value.parse::<Currency>().map(drop),
                known if DEFAULT_FIELDS.contains(&known) => Ok(()),
                _ => Err(format!(
                    "cannot have a default; these can: {}",
                    DEFAULT_FIELDS.join(", ")
                )),
            };
            if let Err(reason) = checked {
                errors.push(FieldError::new(format!("default.{field}"), reason));
            }
        }
    }

    fn check_outcome(&self, errors: &mut Vec<FieldError>) {
        let lists = [
            ("won", &self.outcome.won),
            ("lost", &self.outcome.lost),
            ("open", &self.outcome.open),
        ];
        let mut seen = BTreeMap::new();
        for (list, labels) in lists {
            for label in labels {
                match seen.insert(label.trim(), list) {
                    Some(other) if other != list => errors.push(FieldError::new(
                        format!("outcome.{list}"),
                        format!("`{label}` is also in `outcome.{other}`"),
                    )),
                    _ => {}
                }
            }
        }
        for (list, labels) in &lists[..2] {
            if labels.is_empty() && !seen.is_empty() {
                errors.push(FieldError::new(format!("outcome.{list}"), "is empty"));
            }
        }
    }

    fn check_time(&self, errors: &mut Vec<FieldError>) {
        if let Some(zone) = &self.time.zone
            && TimeZone::get(zone).is_err()
        {
            let reason =
                format!("`{zone}` is not a time zone; expected a name such as Europe/Paris");
            errors.push(FieldError::new("time.zone", reason));
        }
        if let Some(format) = &self.time.format
            && let Err(reason) = check_time_format(format)
        {
            errors.push(FieldError::new("time.format", reason));
        }
    }

    fn check_csv(&self, errors: &mut Vec<FieldError>) {
        if let Some(delimiter) = &self.csv.delimiter {
            let is_one = delimiter.len() == 1 && delimiter != "\"" && delimiter != "\n";
            if !is_one && delimiter != "tab" && delimiter != "\\t" {
                let reason = format!("`{delimiter}` is not one ASCII character (or `tab`)");
                errors.push(FieldError::new("csv.delimiter", reason));
            }
        }
        if let Some(decimal) = &self.csv.decimal
            && decimal != "."
            && decimal != ","
        {
            errors.push(FieldError::new("csv.decimal", "expected `.` or `,`"));
        }
    }

    fn check_columns(&self, errors: &mut Vec<FieldError>) {
        let ignored: BTreeSet<&str> = self.columns.ignore.iter().map(String::as_str).collect();
        for (field, column) in self.deal.named() {
            if column.trim().is_empty() {
                errors.push(FieldError::new(format!("deal.{field}"), "names no column"));
            }
            if ignored.contains(column) {
                let reason = format!("`{column}` is also in `columns.ignore`");
                errors.push(FieldError::new(format!("deal.{field}"), reason));
            }
        }
        for column in &self.columns.keep {
            let protected = self.columns.protected.contains(column);
            for (list, is_in) in [
                ("ignore", ignored.contains(column.as_str())),
                ("protected", protected),
            ] {
                if is_in {
                    let reason = format!("`{column}` is also in `columns.{list}`");
                    errors.push(FieldError::new("columns.keep", reason));
                }
            }
        }
        for (index, join) in self.join.iter().enumerate() {
            for (key, value) in [
                ("file", &join.file),
                ("column", &join.column),
                ("key", &join.key),
            ] {
                if value.trim().is_empty() {
                    errors.push(FieldError::new(format!("join[{index}].{key}"), "is empty"));
                }
            }
        }
    }

    fn check_events(&self, errors: &mut Vec<FieldError>) {
        let events = &self.events;
        if events.is_empty() {
            return;
        }
        let needed = [
            ("deal_id", &events.deal_id),
            ("at", &events.at),
            ("kind", &events.kind),
        ];
        for (key, column) in needed {
            if column.is_none() {
                errors.push(FieldError::new(
                    format!("events.{key}"),
                    "is required to read events",
                ));
            }
        }
        for (index, rule) in events.rules.iter().enumerate() {
            let path = |key: &str| format!("events.rule[{index}].{key}");
            let takes_value = matches!(rule.is, EventMeaning::Field | EventMeaning::Stage);
            if rule.is == EventMeaning::Field && rule.value.is_none() {
                errors.push(FieldError::new(
                    path("value"),
                    "a field needs the column of its new value",
                ));
            }
            if rule.value.is_some() && !takes_value {
                errors.push(FieldError::new(
                    path("value"),
                    "is only for `field` and `stage`",
                ));
            }
            if rule.field.is_some() && rule.is != EventMeaning::Field {
                errors.push(FieldError::new(
                    path("field"),
                    "is only for `is = \"field\"`",
                ));
            }
        }
    }
}

/// A format is good when it writes and reads a time back to at least its day.
fn check_time_format(format: &str) -> Result<(), String> {
    let noon = jiff::civil::date(2026, 3, 14)
        .at(12, 34, 56, 0)
        .in_tz("UTC");
    let noon = noon.map_err(|error| error.to_string())?;
    let written = jiff::fmt::strtime::format(format, &noon)
        .map_err(|error| format!("`{format}` is not a strptime format: {error}"))?;
    let read = BrokenDownTime::parse(format, &written)
        .map_err(|error| format!("`{format}` cannot be read back: {error}"))?;
    match read
        .to_date()
        .or_else(|_| read.to_timestamp().map(|_| noon.date()))
    {
        Ok(date) if date == noon.date() => Ok(()),
        _ => Err(format!(
            "`{format}` does not tell the year, the month and the day"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERYTHING: &str = r#"
[deal]
id = "Opportunity ID"
outcome = "Status"
amount = "Amount"
[default]
currency = "EUR"
[outcome]
won = ["Won", "1"]
lost = ["Lost", "0"]
open = ["Open", ""]
[time]
format = "%d/%m/%Y %H:%M"
zone = "Europe/Paris"
[missing]
tokens = ["", "Select"]
columns = { Country = ["", "unknown"] }
[columns]
ignore = ["Tags", "Lead Quality"]
keep = ["Probability"]
type = { "Postal code" = "category" }
actionable = ["Discount"]
protected = ["Gender"]
[aliases]
product = { GTXPro = "GTX Pro" }
[csv]
delimiter = ";"
[[join]]
file = "products.csv"
column = "product"
key = "product"
columns = ["sales_price"]
[events]
deal_id = "deal_id"
at = "at"
kind = "activity"
actor = "user"
[[events.rule]]
kind = "A_APPROVED"
is = "won"
[[events.rule]]
kind = "A_*"
is = "stage"
[[events.rule]]
kind = "W_*"
where = { lifecycle = "COMPLETE" }
is = "activity"
"#;

    fn read(text: &str) -> Result<Mapping> {
        Mapping::from_toml(text, "mapping.toml")
    }

    fn errors(text: &str) -> Vec<String> {
        match read(text) {
            Err(Error::Invalid(errors)) => errors.into_iter().map(|e| e.field).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_whole_file_is_read_and_written_back() {
        let mapping = read(EVERYTHING).unwrap();
        assert_eq!(mapping.columns.types["Postal code"], ColumnType::Category);
        assert_eq!(mapping.missing.of("Country"), ["", "unknown"]);
        assert_eq!(mapping.missing.of("City"), ["", "Select"]);
        assert_eq!(mapping.events.rules[2].conditions["lifecycle"], "COMPLETE");
        assert_eq!(read(&mapping.to_toml().unwrap()).unwrap(), mapping);
        let json = serde_json::to_string(&mapping).unwrap();
        assert_eq!(serde_json::from_str::<Mapping>(&json).unwrap(), mapping);
        assert_eq!(read("").unwrap(), Mapping::default());
    }

    #[test]
    fn the_documented_example_is_a_mapping() {
        let page = include_str!("../../docs/mapping.md");
        let (_, example) = page.split_once("```toml\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let mapping = read(example).unwrap();
        assert_eq!(
            mapping.join[0].columns.as_deref(),
            Some(&["list_price".to_owned()][..])
        );
        assert_eq!(mapping.events.rules.len(), 4);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let Err(Error::Input { line, reason, .. }) = read("[deal]\nid = \"a\"\nprize = \"b\"\n")
        else {
            panic!("accepted");
        };
        assert_eq!(line, 3);
        assert!(reason.contains("prize"), "{reason}");
        let Err(Error::Input { line, reason, .. }) = read("\n[columns]\ntype = { a = \"float\" }")
        else {
            panic!("accepted");
        };
        assert_eq!(line, 3);
        assert!(reason.contains("float"), "{reason}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert_eq!(
            errors("[time]\nzone = \"Mars/Olympus\"\nformat = \"%Q9\""),
            ["time.zone", "time.format"]
        );
        assert_eq!(errors("[time]\nformat = \"%H:%M\""), ["time.format"]);
        assert_eq!(
            errors("[outcome]\nwon = [\"1\"]\nlost = [\" 1\"]"),
            ["outcome.lost"]
        );
        assert_eq!(errors("[outcome]\nwon = [\"1\"]"), ["outcome.lost"]);
        assert_eq!(errors("[csv]\ndelimiter = \"--\""), ["csv.delimiter"]);
        assert_eq!(
            errors("[default]\ncurrency = \"EURO\"\ncolor = \"red\""),
            ["default.color", "default.currency"]
        );
        assert_eq!(
            errors("[deal]\nid = \"a\"\n[columns]\nignore = [\"a\"]"),
            ["deal.id"]
        );
        assert_eq!(
            errors(
                "[columns]\nkeep = [\"a\", \"b\", \"c\"]\nignore = [\"a\"]\nprotected = [\"c\"]"
            ),
            ["columns.keep", "columns.keep"]
        );
        assert_eq!(
            errors("[events]\nat = \"t\"\n[[events.rule]]\nkind = \"*\"\nis = \"field\""),
            ["events.deal_id", "events.kind", "events.rule[0].value"]
        );
    }

    #[test]
    fn joins_can_be_refused() {
        assert!(read(EVERYTHING).unwrap().refuse_joins().is_err());
        assert!(Mapping::default().refuse_joins().is_ok());
    }

    #[test]
    fn usual_time_formats_pass() {
        for format in [
            "%d/%m/%Y %H:%M",
            "%Y-%m-%d",
            "%d-%m-%Y",
            "%m/%d/%y",
            "%Y-%m-%dT%H:%M:%S%.f%z",
            "%s",
        ] {
            assert_eq!(check_time_format(format), Ok(()), "{format}");
        }
    }
}
