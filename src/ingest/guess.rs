//! A mapping for a CSV that has none, from its column names and its values.
//!
//! Names decide which column is which field; values decide the outcome labels and veto names that
//! do not fit. What a value could mean in two ways (day or month first, say) is left to people.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::Path;

use csv::StringRecord;
use jiff::Timestamp;

use super::input::Input;
use super::mapping::{EventColumns, Mapping, OutcomeLabels, TimeFormat};
use super::table::{Headers, Table, fold};
use super::values::{MoneyReader, TimeReader, everyday_outcome, read_boolean, shown};
use crate::domain::{Currency, Outcome};
use crate::error::Result;

/// Rows that are looked at.
pub const GUESS_ROWS_MAX: u64 = 100_000;

/// A column with more different values than this is no outcome.
const LABELS_MAX: usize = 40;
/// Values of a column that are tried as amounts and times.
const SAMPLE_MAX: u64 = 1_000;
/// Rows kept whole, to compare columns with each other.
const ROWS_KEPT_MAX: usize = 1_000;
/// Values of a column that people are shown.
const SAMPLES_SHOWN_MAX: usize = 3;
/// Share of values that must be readable for a name to be believed.
const READABLE_MIN: f64 = 0.95;
/// Share of rows from which on a word for "not known" is worth a line.
const SUSPECT_MIN: f64 = 0.05;

/// Words that often mean "not known", and sometimes do not.
const SUSPECTS: [&str; 6] = ["select", "unknown", "n/a", "null", "none", "-"];

/// Column names by field, in the form of [`fold`] and without a leading `deal` or the like; the
/// first that is there wins.
const SYNONYMS: [(&str, &[&str]); 12] = [
    (
        "id",
        &[
            "id",
            "dealid",
            "opportunityid",
            "recordid",
            "hsobjectid",
            "leadid",
            "prospectid",
            "uuid",
        ],
    ),
    ("name", &["name", "title"]),
    ("pipeline", &["pipeline", "pipelinename", "pipelineid"]),
    (
        "stage",
        &[
            "stage",
            "stagename",
            "currentstage",
            "pipelinestage",
            "pipelinestageid",
            "salesstage",
            "stageid",
        ],
    ),
    (
        "stage_entered_at",
        &[
            "stageenteredat",
            "laststagechangedate",
            "stagechangedate",
            "laststagechange",
            "stagechangetime",
            "datestageentered",
        ],
    ),
    (
        "owner",
        &[
            "owner",
            "ownername",
            "salesagent",
            "salesrep",
            "rep",
            "agent",
            "assignedto",
            "hubspotownerid",
            "ownerid",
            "user",
        ],
    ),
    (
        "amount",
        &[
            "amount",
            "value",
            "totalamount",
            "totalvalue",
            "amountinhomecurrency",
            "listprice",
        ],
    ),
    ("currency", &["currency", "currencycode", "currencyisocode"]),
    (
        "created_at",
        &[
            "createdat",
            "createdate",
            "createddate",
            "created",
            "creationdate",
            "createdon",
            "datecreated",
            "addtime",
            "engagedate",
            "opendate",
        ],
    ),
    (
        "expected_close_at",
        &[
            "expectedcloseat",
            "expectedclosedate",
            "expectedclosingdate",
            "expectedclose",
            "closedateexpected",
            "forecastclosedate",
        ],
    ),
    (
        "closed_at",
        &[
            "closedat",
            "closedate",
            "closeddate",
            "closetime",
            "dateclosed",
            "closedon",
            "wonlostdate",
            "closingdate",
        ],
    ),
    ("priority", &["priority", "hspriority"]),
];

/// Names of outcome columns, the surest first.
const OUTCOME_NAMES: [&str; 19] = [
    "outcome",
    "iswon",
    "won",
    "isclosedwon",
    "closedwon",
    "hsisclosedwon",
    "converted",
    "isconverted",
    "wonlost",
    "result",
    "status",
    "stage",
    "stagename",
    "currentstage",
    "salesstage",
    "target",
    "label",
    "y",
    "conversion",
];

/// A guessed mapping, and how it came about, a line for each finding.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Guess {
    pub mapping: Mapping,
    pub lines: Vec<String>,
}

/// What a file looks like to people: what was guessed, and what they would guess it from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Look {
    pub guess: Guess,
    /// Rows that were looked at.
    pub rows: u64,
    pub columns: Vec<ColumnLook>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ColumnLook {
    pub name: String,
    /// Rows with a value.
    pub filled: u64,
    /// A few different values, the first ones.
    pub samples: Vec<String>,
    /// All values with their counts; `None` where they are too many for outcomes.
    pub labels: Option<Vec<(String, u64)>>,
}

/// What a file looks like: its columns and a summary of their values.
#[derive(Debug)]
pub struct Profile {
    columns: Vec<Column>,
    rows: u64,
    /// Every `kept_every`th row.
    kept: Vec<StringRecord>,
    kept_every: u64,
}

#[derive(Debug)]
struct Column {
    name: String,
    place: usize,
    filled: u64,
    /// Values with their counts; `None` once there are too many.
    labels: Option<BTreeMap<String, u64>>,
    /// Hashes of the values; `None` once one has occurred twice.
    unique: Option<HashSet<u64>>,
    tried: u64,
    amounts: u64,
    times: u64,
    unread_time: Option<String>,
    suspects: BTreeMap<&'static str, u64>,
}

impl Column {
    fn new(name: &str, place: usize) -> Self {
        Self {
            name: name.to_owned(),
            place,
            filled: 0,
            labels: Some(BTreeMap::new()),
            unique: Some(HashSet::new()),
            tried: 0,
            amounts: 0,
            times: 0,
            unread_time: None,
            suspects: BTreeMap::new(),
        }
    }

    fn add(&mut self, cell: &str, readers: &Readers) {
        if let Some(labels) = &mut self.labels {
            *labels.entry(cell.to_owned()).or_default() += 1;
            if labels.len() > LABELS_MAX {
                self.labels = None;
            }
        }
        if cell.is_empty() {
            return;
        }
        self.filled += 1;
        if let Some(unique) = &mut self.unique {
            let mut hasher = DefaultHasher::new();
            cell.hash(&mut hasher);
            if !unique.insert(hasher.finish()) {
                self.unique = None;
            }
        }
        if let Some(word) = SUSPECTS.iter().find(|word| word.eq_ignore_ascii_case(cell)) {
            *self.suspects.entry(word).or_default() += 1;
        }
        if self.tried < SAMPLE_MAX {
            self.tried += 1;
            self.amounts += u64::from(readers.money.read(cell).is_ok());
            match readers.times.read(cell, false) {
                Ok(_) => self.times += 1,
                Err(_) => {
                    self.unread_time = self.unread_time.take().or_else(|| Some(cell.to_owned()))
                }
            }
        }
    }

    fn is_unique(&self, rows: u64) -> bool {
        rows > 1 && self.filled == rows && self.unique.is_some()
    }

    fn readable(&self, count: u64) -> bool {
        count as f64 >= READABLE_MIN * self.tried as f64
    }

    fn cell<'r>(&self, row: &'r StringRecord) -> &'r str {
        row.get(self.place).unwrap_or_default().trim()
    }

    /// The folded name, and without what stands before it in many exports.
    fn names(&self) -> [String; 2] {
        let folded = fold(&self.name);
        let mut short = folded.as_str();
        for prefix in ["property", "properties", "opportunity", "deal", "lead"] {
            short = short
                .strip_prefix(prefix)
                .filter(|rest| !rest.is_empty())
                .unwrap_or(short);
        }
        let short = short.to_owned();
        [folded, short]
    }

    fn is_called(&self, names: &[&str]) -> bool {
        self.names()
            .iter()
            .any(|name| names.contains(&name.as_str()))
    }
}

struct Readers {
    money: MoneyReader,
    times: TimeReader,
}

impl Profile {
    /// `rows` are looked at as far as [`GUESS_ROWS_MAX`].
    pub fn new<'a>(
        headers: &[String],
        rows: impl IntoIterator<Item = &'a StringRecord>,
    ) -> Result<Self> {
        let named = headers
            .iter()
            .enumerate()
            .filter(|(_, name)| !name.is_empty());
        let mut profile = Self::empty(named.map(|(place, name)| (place, name.as_str())));
        let readers = Readers::new(b',')?;
        rows.into_iter().for_each(|row| profile.add(row, &readers));
        Ok(profile)
    }

    fn empty<'a>(columns: impl Iterator<Item = (usize, &'a str)>) -> Self {
        let columns = columns
            .map(|(place, name)| Column::new(name, place))
            .collect();
        Self {
            columns,
            rows: 0,
            kept: Vec::new(),
            kept_every: 1,
        }
    }

    fn of_headers(headers: &Headers) -> Self {
        Self::empty(headers.named())
    }

    fn add(&mut self, row: &StringRecord, readers: &Readers) {
        self.rows += 1;
        for column in &mut self.columns {
            column.add(column.cell(row), readers);
        }
        if (self.rows - 1).is_multiple_of(self.kept_every) {
            self.kept.push(row.clone());
        }
        if self.kept.len() > ROWS_KEPT_MAX {
            // Every other one, so that rows from all over the file stay.
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.kept_every *= 2;
        }
    }

    /// The first few different values of a column.
    fn samples(&self, column: &Column) -> Vec<String> {
        let mut samples: Vec<String> = Vec::new();
        let cells = self.kept.iter().map(|row| column.cell(row));
        for cell in cells.filter(|cell| !cell.is_empty()) {
            let cell = shown(cell);
            if !samples.contains(&cell) {
                samples.push(cell);
            }
            if samples.len() == SAMPLES_SHOWN_MAX {
                break;
            }
        }
        samples
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl Readers {
    fn new(delimiter: u8) -> Result<Self> {
        Ok(Self {
            money: MoneyReader::new(&Mapping::default(), delimiter),
            times: TimeReader::new(&TimeFormat::default(), Timestamp::MAX)?,
        })
    }
}

/// Looks at a file and guesses its mapping.
///
/// # Errors
/// When the file cannot be read as CSV.
pub fn guess_file(path: &Path, name: &str) -> Result<Guess> {
    Ok(guess(&profile_file(path, name)?))
}

/// Looks at a file for people, who see what was guessed, and from what.
///
/// # Errors
/// As [`guess_file`].
pub fn look_at(path: &Path, name: &str) -> Result<Look> {
    let profile = profile_file(path, name)?;
    let of_column = |column: &Column| ColumnLook {
        name: column.name.clone(),
        filled: column.filled,
        samples: profile.samples(column),
        labels: column
            .labels
            .as_ref()
            .map(|labels| labels.iter().map(|(l, n)| (l.clone(), *n)).collect()),
    };
    Ok(Look {
        guess: guess(&profile),
        rows: profile.rows,
        columns: profile.columns.iter().map(of_column).collect(),
    })
}

/// What the values of an outcome column seem to mean: those in everyday words, and yes and no. All
/// others are taken for open.
pub fn sort_labels<'a>(labels: impl IntoIterator<Item = &'a str>) -> OutcomeLabels {
    let mut sorted = OutcomeLabels::default();
    for label in labels {
        let outcome = read_boolean(label)
            .map(|is_won| if is_won { Outcome::Won } else { Outcome::Lost })
            .or_else(|| everyday_outcome(label));
        let list = match outcome {
            Some(Outcome::Won) => &mut sorted.won,
            Some(Outcome::Lost) => &mut sorted.lost,
            _ => &mut sorted.open,
        };
        list.push(label.to_owned());
    }
    sorted
}

fn profile_file(path: &Path, name: &str) -> Result<Profile> {
    let mut table = Table::open(Input::open_as(path, name)?, None)?;
    let readers = Readers::new(table.delimiter)?;
    let mut profile = Profile::of_headers(&table.headers);
    while profile.rows < GUESS_ROWS_MAX
        && let Some(row) = table.next_row()?
    {
        if let Ok((_, row)) = row {
            profile.add(&row, &readers);
        }
    }
    Ok(profile)
}

/// The mapping that fits names and values best.
pub fn guess(profile: &Profile) -> Guess {
    let mut guesser = Guesser {
        profile,
        mapping: Mapping::default(),
        lines: Vec::new(),
    };
    guesser.outcome();
    guesser.fields();
    guesser.shared_close_column();
    guesser.other_ids();
    guesser.suspects();
    Guess {
        mapping: guesser.mapping,
        lines: guesser.lines,
    }
}

/// Guesses the columns of an events file by their names.
///
/// # Errors
/// When the file cannot be read as CSV.
pub(crate) fn guess_events_file(path: &Path, lines: &mut Vec<String>) -> Result<EventColumns> {
    let table = Table::open(Input::open(path)?, None)?;
    let find = |names: &[&str]| {
        names.iter().find_map(|wanted| {
            let mut named = table.headers.named();
            named
                .find(|(_, name)| fold(name) == *wanted)
                .map(|(_, name)| name.to_owned())
        })
    };
    let events = EventColumns {
        deal_id: find(&["dealid", "opportunityid", "recordid", "leadid", "id"]),
        at: find(&[
            "at",
            "timestamp",
            "time",
            "date",
            "createdat",
            "occurredat",
            "createddate",
        ]),
        kind: find(&[
            "kind",
            "activity",
            "type",
            "event",
            "eventtype",
            "activitytype",
            "name",
        ]),
        ..EventColumns::default()
    };
    for (key, column) in [
        ("deal_id", &events.deal_id),
        ("at", &events.at),
        ("kind", &events.kind),
    ] {
        if let Some(column) = column {
            lines.push(format!("events.{key} = `{column}`, by its name"));
        }
    }
    lines.push(
        "every event is taken as an activity; [[events.rule]] can say what else some are".into(),
    );
    Ok(events)
}

struct Guesser<'a> {
    profile: &'a Profile,
    mapping: Mapping,
    lines: Vec<String>,
}

/// A column that may tell the outcome.
struct OutcomeCandidate<'a> {
    column: &'a Column,
    /// Higher is surer.
    strength: u32,
    won: Vec<String>,
    lost: Vec<String>,
    open: Vec<String>,
}

impl<'a> Guesser<'a> {
    fn outcome(&mut self) {
        let candidates = self.profile.columns.iter().filter_map(outcome_candidate);
        // The first of the surest: `max_by_key` would take the last.
        let best = candidates.reduce(|best, next| {
            if next.strength > best.strength {
                next
            } else {
                best
            }
        });
        let Some(best) = best else {
            let looked_at = self
                .profile
                .columns
                .iter()
                .filter(|column| column.labels.is_some());
            let looked_at: Vec<String> = looked_at
                .take(20)
                .map(|c| format!("`{}`", c.name))
                .collect();
            self.lines.push(match looked_at.as_slice() {
                [] => {
                    "no column tells the outcome: every column has too many different values".into()
                }
                names => format!(
                    "no column tells the outcome; looked at {}",
                    names.join(", ")
                ),
            });
            return;
        };
        let list = |labels: &[String]| {
            let labels: Vec<String> = labels
                .iter()
                .map(|label| format!("`{}`", shown(label)))
                .collect();
            if labels.is_empty() {
                "none".to_owned()
            } else {
                labels.join(", ")
            }
        };
        self.lines.push(format!(
            "outcome = `{}`; won: {}; lost: {}; open: {}",
            best.column.name,
            list(&best.won),
            list(&best.lost),
            list(&best.open)
        ));
        self.mapping.deal.outcome = Some(best.column.name.clone());
        let labels = &mut self.mapping.outcome;
        (labels.won, labels.lost, labels.open) = (best.won, best.lost, best.open);
        if labels.open.is_empty() {
            self.closed_column();
        }
    }

    /// `IsWon` says false for open deals too; `IsClosed` tells them apart.
    fn closed_column(&mut self) {
        let is_flag = |column: &&Column| {
            let labels = column.labels.as_ref();
            let is_boolean = labels
                .is_some_and(|labels| labels.keys().all(|label| read_boolean(label).is_some()));
            column.is_called(&["isclosed", "hsisclosed"]) && is_boolean
        };
        if let Some(column) = self.profile.columns.iter().find(is_flag) {
            self.lines
                .push(format!("a deal is open where `{}` says no", column.name));
            self.mapping.outcome.closed_column = Some(column.name.clone());
        }
    }

    fn fields(&mut self) {
        for (field, names) in SYNONYMS {
            let found = names.iter().find_map(|name| {
                let mut columns = self.profile.columns.iter();
                columns.find(|column| {
                    column.is_called(&[*name]) && !self.is_taken(&column.name, field)
                })
            });
            let currency = if field == "amount" {
                self.amount_with_currency()
            } else {
                None
            };
            let Some(column) = found.or(currency.map(|(column, _)| column)) else {
                continue;
            };
            if let Err(reason) = self.veto(field, column) {
                self.lines.push(reason);
                continue;
            }
            if let (None, Some((_, code))) = (found, currency) {
                self.mapping
                    .defaults
                    .insert("currency".into(), code.to_string());
                self.lines.push(format!(
                    "amounts are in {code}, by the name of `{}`",
                    column.name
                ));
            }
            self.lines
                .push(format!("{field} = `{}`, by its name", column.name));
            *self.slot(field) = Some(column.name.clone());
        }
    }

    /// A stage column may be the outcome column too; nothing else is taken twice.
    fn is_taken(&self, column: &str, field: &str) -> bool {
        self.mapping
            .deal
            .named()
            .any(|(other, taken)| taken == column && !(field == "stage" && other == "outcome"))
    }

    /// `Amount (USD)`: an amount whose name ends with the code of its currency.
    fn amount_with_currency(&self) -> Option<(&'a Column, Currency)> {
        self.profile.columns.iter().find_map(|column| {
            let [_, short] = column.names();
            let code = short
                .strip_prefix("amount")
                .or_else(|| short.strip_prefix("value"))?;
            let known = [
                "usd", "eur", "gbp", "chf", "jpy", "inr", "cad", "aud", "sek", "nok", "dkk", "pln",
                "brl", "cny",
            ];
            known
                .contains(&code)
                .then(|| Some((column, code.parse().ok()?)))?
        })
    }

    /// Values that do not fit the field that the name promises.
    fn veto(&self, field: &str, column: &Column) -> Result<(), String> {
        match field {
            "amount" if !column.readable(column.amounts) => Err(format!(
                "`{}` is called like an amount, but its values are none",
                column.name
            )),
            _ if field.ends_with("_at") && !column.readable(column.times) => Err(format!(
                "`{}` is called like {field}, but values such as `{}` need `format` under [time]",
                column.name,
                shown(column.unread_time.as_deref().unwrap_or_default())
            )),
            "id" if column.filled < self.profile.rows => Err(format!(
                "`{}` is called like an id, but is empty in some rows",
                column.name
            )),
            _ => Ok(()),
        }
    }

    fn slot(&mut self, field: &str) -> &mut Option<String> {
        let deal = &mut self.mapping.deal;
        match field {
            "id" => &mut deal.id,
            "name" => &mut deal.name,
            "pipeline" => &mut deal.pipeline,
            "stage" => &mut deal.stage,
            "stage_entered_at" => &mut deal.stage_entered_at,
            "owner" => &mut deal.owner,
            "amount" => &mut deal.amount,
            "currency" => &mut deal.currency,
            "created_at" => &mut deal.created_at,
            "expected_close_at" => &mut deal.expected_close_at,
            "closed_at" => &mut deal.closed_at,
            _ => &mut deal.priority,
        }
    }

    /// In many exports one "close date" is the expected one of open deals and the real one of
    /// closed ones: then it is filled for open deals.
    fn shared_close_column(&mut self) {
        let deal = &self.mapping.deal;
        let (Some(name), None) = (&deal.closed_at, &deal.expected_close_at) else {
            return;
        };
        let Some(column) = self.profile.column(name) else {
            return;
        };
        let (open, _) = self.open_and_closed();
        if open.iter().any(|row| !column.cell(row).is_empty()) {
            self.lines.push(format!(
                "expected_close_at = `{name}` while a deal is open, since it is filled then"
            ));
            self.mapping.deal.expected_close_at = Some(name.clone());
        }
    }

    /// The rows kept, by whether their deal is open.
    fn open_and_closed(&self) -> (Vec<&'a StringRecord>, Vec<&'a StringRecord>) {
        let find =
            |name: &Option<String>| name.as_deref().and_then(|name| self.profile.column(name));
        let labels = &self.mapping.outcome;
        let Some(outcome) = find(&self.mapping.deal.outcome) else {
            return (Vec::new(), Vec::new());
        };
        let closed_column = find(&labels.closed_column);
        self.profile.kept.iter().partition(|row| {
            let is_labelled = labels.open.iter().any(|label| label == outcome.cell(row));
            let is_flagged =
                closed_column.is_some_and(|flag| read_boolean(flag.cell(row)) == Some(false));
            is_labelled || is_flagged
        })
    }

    /// Numbers and keys that only tell rows apart.
    fn other_ids(&mut self) {
        let is_id = |column: &Column| {
            let name = fold(&column.name);
            ["id", "number", "no", "key", "uuid", "guid"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        for column in &self.profile.columns {
            let is_taken = self.mapping.columns.ignore.contains(&column.name)
                || self
                    .mapping
                    .deal
                    .named()
                    .any(|(_, taken)| taken == column.name);
            if !is_taken && is_id(column) && column.is_unique(self.profile.rows) {
                self.lines.push(format!(
                    "`{}` is ignored: another value in every row, and named like an id",
                    column.name
                ));
                self.mapping.columns.ignore.push(column.name.clone());
            }
        }
    }

    fn suspects(&mut self) {
        for column in &self.profile.columns {
            for (word, count) in &column.suspects {
                if *count as f64 >= SUSPECT_MIN * self.profile.rows as f64 {
                    self.lines.push(format!(
                        "`{}` says `{word}` in {count} of {} rows: if that means \"not known\", name it under [missing]",
                        column.name, self.profile.rows
                    ));
                }
            }
        }
    }
}

fn outcome_candidate(column: &Column) -> Option<OutcomeCandidate<'_>> {
    let labels = column.labels.as_ref()?;
    let name_rank = OUTCOME_NAMES
        .iter()
        .position(|name| column.is_called(&[*name]));
    let name_strength = name_rank.map_or(0, |rank| (OUTCOME_NAMES.len() - rank) as u32);
    let is_binary = |label: &String| read_boolean(label).is_some();
    let mut sorted = [Vec::new(), Vec::new(), Vec::new()];
    let [won, lost, open] = &mut sorted;
    let filled: Vec<&String> = labels.keys().filter(|label| !label.is_empty()).collect();
    if filled.iter().all(|label| is_binary(label)) {
        // Yes and no say nothing about winning unless the name does.
        let says_won = name_rank.is_some_and(|rank| OUTCOME_NAMES[rank] != "stage");
        if !says_won || filled.len() < 2 {
            return None;
        }
        for label in labels.keys() {
            match read_boolean(label) {
                Some(true) => won.push(label.clone()),
                Some(false) => lost.push(label.clone()),
                None => open.push(label.clone()),
            }
        }
    } else {
        for label in labels.keys() {
            match everyday_outcome(label) {
                Some(Outcome::Won) if !is_binary(label) => won.push(label.clone()),
                Some(Outcome::Lost) if !is_binary(label) => lost.push(label.clone()),
                _ => open.push(label.clone()),
            }
        }
        if won.is_empty() && lost.is_empty()
            || (won.is_empty() || lost.is_empty()) && name_rank.is_none()
        {
            return None;
        }
    }
    let has_both = !won.is_empty() && !lost.is_empty();
    // A file may hold one kind only; the other label is then the usual one.
    if won.is_empty() {
        won.push("Won".into());
    }
    if lost.is_empty() {
        lost.push("Lost".into());
    }
    let strength = name_strength + if has_both { 100 } else { 0 };
    let [won, lost, open] = sorted;
    Some(OutcomeCandidate {
        column,
        strength,
        won,
        lost,
        open,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guessed(text: &str) -> Guess {
        let mut lines = text
            .lines()
            .map(|line| StringRecord::from(line.split(',').collect::<Vec<_>>()));
        let headers: Vec<String> = lines.next().unwrap().iter().map(str::to_owned).collect();
        let rows: Vec<StringRecord> = lines.collect();
        let guess = guess(&Profile::new(&headers, &rows).unwrap());
        guess.mapping.check().unwrap();
        guess
    }

    fn mapped(guess: &Guess) -> Vec<(&'static str, &str)> {
        guess.mapping.deal.named().collect()
    }

    #[test]
    fn a_pipeline_with_stages_is_understood() {
        let guess = guessed(
            "opportunity_id,sales_agent,product,deal_stage,engage_date,close_date\n\
             A1,Ann,X,Won,2026-01-01,2026-02-01\n\
             A2,Bob,X,Engaging,2026-01-02,\n\
             A3,Ann,Y,Lost,2026-01-03,2026-02-03\n\
             A4,Ann,Y,Prospecting,,",
        );
        assert_eq!(
            mapped(&guess),
            [
                ("id", "opportunity_id"),
                ("outcome", "deal_stage"),
                ("stage", "deal_stage"),
                ("owner", "sales_agent"),
                ("created_at", "engage_date"),
                ("closed_at", "close_date"),
            ]
        );
        assert_eq!(guess.mapping.outcome.open, ["Engaging", "Prospecting"]);
    }

    #[test]
    fn common_exports_are_understood() {
        let hubspot = guessed(
            "Record ID,Deal Name,Deal Stage,Amount (USD),Create Date,Close Date,Deal owner,Pipeline\n\
             1,a,Closed Won,100,2026-01-01 10:00,2026-02-01 10:00,Ann,Sales\n\
             2,b,Closed Lost,,2026-01-01 10:00,2026-02-01 10:00,Ann,Sales\n\
             3,c,Demo,5,2026-01-01 10:00,2026-09-01 10:00,Ann,Sales",
        );
        assert_eq!(hubspot.mapping.deal.amount.as_deref(), Some("Amount (USD)"));
        assert_eq!(hubspot.mapping.defaults["currency"], "USD");
        assert_eq!(
            hubspot.mapping.deal.expected_close_at,
            hubspot.mapping.deal.closed_at
        );
        let salesforce = guessed(
            "Id,Name,StageName,IsClosed,IsWon,CloseDate\n1,a,x,true,true,2026-01-01\n2,b,y,false,false,2026-01-01",
        );
        assert_eq!(salesforce.mapping.deal.outcome.as_deref(), Some("IsWon"));
        assert_eq!(
            salesforce.mapping.outcome.closed_column.as_deref(),
            Some("IsClosed")
        );
    }

    #[test]
    fn people_see_what_was_guessed_and_from_what() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "id,Status,Note\n1,Won,\n2,Lost,x\n3,Demo,x\n4,Demo,y\n";
        std::fs::write(file.path(), text).unwrap();
        let look = look_at(file.path(), "deals.csv").unwrap();
        assert_eq!(look.guess, guess_file(file.path(), "deals.csv").unwrap());
        assert_eq!(look.rows, 4);
        let [id, status, note] = &look.columns[..] else {
            panic!("{look:?}");
        };
        assert_eq!((id.filled, note.filled), (4, 3));
        assert_eq!(status.samples, ["Won", "Lost", "Demo"]);
        assert_eq!(note.samples, ["x", "y"]);
        let labels = status.labels.as_ref().unwrap();
        assert_eq!(labels[0], ("Demo".to_owned(), 2));
        let sorted = sort_labels(labels.iter().map(|(label, _)| label.as_str()));
        assert_eq!(
            (sorted.won, sorted.lost),
            (vec!["Won".to_owned()], vec!["Lost".to_owned()])
        );
        assert_eq!(sorted.open, ["Demo"]);
    }

    #[test]
    fn a_flag_is_an_outcome_only_by_its_name() {
        let guess = guessed(
            "Prospect ID,Lead Number,Converted,Search,City\nu1,7,1,Yes,Select\nu2,8,0,No,Select\nu3,9,0,No,Paris",
        );
        assert_eq!(guess.mapping.deal.outcome.as_deref(), Some("Converted"));
        assert_eq!(guess.mapping.outcome.won, ["1"]);
        assert_eq!(guess.mapping.deal.id.as_deref(), Some("Prospect ID"));
        assert_eq!(guess.mapping.columns.ignore, ["Lead Number"]);
        assert_eq!(guess.mapping.missing.tokens, [""], "suggested, not done");
        assert!(
            guess
                .lines
                .iter()
                .any(|line| line.contains("`City` says `select` in 2 of 3 rows"))
        );
    }

    #[test]
    fn without_an_outcome_it_says_where_it_looked() {
        let guess = guessed("color,Search\nred,Yes\nblue,No");
        assert_eq!(guess.mapping.deal.outcome, None);
        assert_eq!(
            guess.lines,
            ["no column tells the outcome; looked at `color`, `Search`"]
        );
    }

    #[test]
    fn dates_that_could_be_read_two_ways_are_left_to_people() {
        let guess = guessed("id,outcome,created\n1,won,26-02-2018 19:58\n2,lost,27-02-2018 19:58");
        assert_eq!(guess.mapping.deal.created_at, None);
        assert!(
            guess
                .lines
                .iter()
                .any(|line| line.contains("26-02-2018 19:58") && line.contains("[time]"))
        );
    }

    #[test]
    fn the_rows_kept_come_from_the_whole_file() {
        let rows: Vec<StringRecord> = (0..10_000)
            .map(|n| StringRecord::from(vec![n.to_string()]))
            .collect();
        let profile = Profile::new(&["n".into()], &rows).unwrap();
        assert!(profile.kept.len() > ROWS_KEPT_MAX / 2 && profile.kept.len() <= ROWS_KEPT_MAX);
        assert!(profile.kept.last().unwrap()[0].parse::<u32>().unwrap() > 9_900);
    }

    #[test]
    fn a_file_with_only_wins_has_an_outcome_all_the_same() {
        let guess = guessed("id,status\n1,won\n2,won");
        assert_eq!(guess.mapping.deal.outcome.as_deref(), Some("status"));
    }
}
