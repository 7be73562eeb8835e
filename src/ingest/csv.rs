//! Rows of a CSV file to deals, as a mapping says.

use std::collections::BTreeMap;
use std::path::Path;

use csv::StringRecord;
use jiff::Timestamp;

use super::document::{ATTRIBUTES_MAX, TEXT_BYTES_MAX, check_text};
use super::join::Joined;
use super::mapping::Mapping;
use super::reject::Reject;
use super::table::{Headers, Table};
use super::values::{MoneyReader, OutcomeReader, TimeReader, read_boolean, shown};
use super::{Purpose, Row};
use crate::domain::money::parse_amount;
use crate::domain::{AttributeValue, Currency, Deal, DealId, FieldChange, Outcome};
use crate::error::{Error, Result};

/// What is wrong with one cell: its column, if it has one, and the reason.
type CellError = (Option<String>, String);

/// Reads one file row by row.
pub(crate) struct CsvDeals {
    table: Table,
    plan: Plan,
    joins: Vec<Joined>,
    rows: u64,
    tally: Tally,
}

/// Oddities that are no errors, counted.
#[derive(Debug, Default)]
struct Tally {
    skipped: u64,
    open_with_closing_time: u64,
    closed_before_created: u64,
}

impl CsvDeals {
    /// Fits the mapping to the columns of the file. Joined files are sought in `folder`.
    ///
    /// # Errors
    /// `Input` when mapped columns are not in the file; for scoring, the columns of the outcome and
    /// of the closing time are not asked for.
    pub(crate) fn new(
        table: Table,
        mapping: &Mapping,
        purpose: Purpose,
        folder: &Path,
        now: Timestamp,
    ) -> Result<Self> {
        let joins = mapping
            .join
            .iter()
            .map(|join| Joined::load(join, mapping, folder, &table.headers))
            .collect::<Result<Vec<_>>>()?;
        let plan = Plan::new(&table, mapping, purpose, &joins, now)?;
        Ok(Self {
            table,
            plan,
            joins,
            rows: 0,
            tally: Tally::default(),
        })
    }

    pub(crate) fn headers(&self) -> &[String] {
        &self.table.headers.names
    }

    /// # Errors
    /// When the file cannot be read further.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>> {
        loop {
            let Some(row) = self.table.next_row()? else {
                return Ok(None);
            };
            self.rows += 1;
            let (line, row) = match row {
                Ok(row) => row,
                Err(reject) => return Ok(Some(Err(reject))),
            };
            if self.plan.skips(&row) {
                self.tally.skipped += 1;
                continue;
            }
            let joined: Vec<Option<&[String]>> =
                self.joins.iter_mut().map(|join| join.find(&row)).collect();
            let cells = Cells {
                row: &row,
                joined: &joined,
            };
            let deal = self.plan.deal(cells, self.rows, &mut self.tally);
            return Ok(Some(deal.map_err(|(column, reason)| Reject {
                line,
                column,
                reason,
                raw: row.into_byte_record(),
            })));
        }
    }

    /// What to tell about the rows read so far.
    pub(crate) fn notices(&self) -> Vec<String> {
        let mut notices = self.plan.notices.clone();
        notices.extend(self.joins.iter().filter_map(Joined::notice));
        let counts = [
            (self.tally.skipped, "rows were left out by `csv.skip`"),
            (
                self.tally.open_with_closing_time,
                "open deals have a closing time; it was not taken",
            ),
            (
                self.tally.closed_before_created,
                "deals were closed before they were created",
            ),
        ];
        let counted = counts.iter().filter(|(count, _)| *count > 0);
        notices.extend(counted.map(|(count, what)| format!("{count} {what}")));
        notices
    }
}

/// A row with what was joined to it.
#[derive(Clone, Copy)]
struct Cells<'r> {
    row: &'r StringRecord,
    joined: &'r [Option<&'r [String]>],
}

/// Where a value lies.
#[derive(Debug, Clone, Copy)]
enum Place {
    Column(usize),
    Joined { join: usize, column: usize },
}

impl<'r> Cells<'r> {
    fn get(&self, place: Place) -> &'r str {
        let cell = match place {
            Place::Column(column) => self.row.get(column),
            Place::Joined { join, column } => {
                self.joined[join].map(|values| values[column].as_str())
            }
        };
        cell.unwrap_or_default().trim()
    }
}

/// A column that is mapped to a field of the deal.
#[derive(Debug)]
struct Field {
    column: String,
    place: Place,
    missing: Vec<String>,
    aliases: BTreeMap<String, String>,
}

impl Field {
    /// The text of the cell in our spelling, missing or not.
    fn label<'a>(&'a self, cells: Cells<'a>) -> &'a str {
        let cell = cells.get(self.place);
        self.aliases.get(cell).map_or(cell, String::as_str)
    }

    /// The text of the cell in our spelling, if it says something.
    fn text<'a>(&'a self, cells: Cells<'a>) -> Option<&'a str> {
        let text = self.label(cells);
        let is_missing = text.is_empty() || self.missing.iter().any(|token| token.trim() == text);
        (!is_missing).then_some(text)
    }

    fn wrong(&self, reason: String) -> CellError {
        (Some(self.column.clone()), reason)
    }
}

/// What to read from where: the mapping, fitted to the columns of one file.
struct Plan {
    id: Option<Field>,
    name: Option<Field>,
    pipeline: Option<Field>,
    stage: Option<Field>,
    stage_entered_at: Option<Field>,
    owner: Option<Field>,
    amount: Option<Field>,
    currency: Option<Field>,
    created_at: Option<Field>,
    expected_close_at: Option<Field>,
    priority: Option<Field>,
    /// `None` for scoring: the outcome is never read.
    outcome: Option<Field>,
    closed_column: Option<Field>,
    closed_at: Option<Field>,
    /// The expected close and the closing time are the same column, which means the one for open
    /// deals and the other for closed ones.
    shares_close_column: bool,
    /// The stage is read from the column of the outcome.
    shares_outcome_column: bool,
    /// By name, so that the map of a deal is built in order.
    attributes: Vec<(String, Place)>,
    skip: Vec<(Place, Vec<String>)>,
    defaults: Defaults,
    labels: OutcomeReader,
    times: TimeReader,
    money: MoneyReader,
    notices: Vec<String>,
}

/// Values for empty cells.
#[derive(Debug, Default)]
struct Defaults {
    texts: BTreeMap<String, String>,
    amount: Option<rust_decimal::Decimal>,
    currency: Option<Currency>,
}

impl Plan {
    fn new(
        table: &Table,
        mapping: &Mapping,
        purpose: Purpose,
        joins: &[Joined],
        now: Timestamp,
    ) -> Result<Self> {
        let finder = Finder {
            table,
            mapping,
            joins,
        };
        finder.check(purpose)?;
        let field = |column: &Option<String>| column.as_deref().and_then(|name| finder.field(name));
        let known = |column: &Option<String>| field(column).filter(|_| purpose != Purpose::Score);
        let deal = &mapping.deal;
        let default_of = |name: &str| mapping.defaults.get(name);
        let invalid = |reason| Error::invalid("default", reason);
        let defaults = Defaults {
            texts: mapping.defaults.clone(),
            amount: default_of("amount")
                .map(|text| parse_amount(text))
                .transpose()
                .map_err(invalid)?,
            currency: default_of("currency")
                .map(|code| code.parse())
                .transpose()
                .map_err(invalid)?,
        };
        Ok(Self {
            id: field(&deal.id),
            name: field(&deal.name),
            pipeline: field(&deal.pipeline),
            stage: field(&deal.stage),
            stage_entered_at: field(&deal.stage_entered_at),
            owner: field(&deal.owner),
            amount: field(&deal.amount),
            currency: field(&deal.currency),
            created_at: field(&deal.created_at),
            expected_close_at: field(&deal.expected_close_at),
            priority: field(&deal.priority),
            outcome: known(&deal.outcome),
            closed_column: known(&mapping.outcome.closed_column),
            closed_at: known(&deal.closed_at),
            shares_close_column: deal.closed_at.is_some()
                && deal.closed_at == deal.expected_close_at,
            shares_outcome_column: deal.outcome.is_some() && deal.outcome == deal.stage,
            attributes: finder.attributes()?,
            skip: finder.skip()?,
            defaults,
            labels: OutcomeReader::new(&mapping.outcome),
            times: TimeReader::new(&mapping.time, now)?,
            money: MoneyReader::new(mapping, table.delimiter),
            notices: finder.notices(),
        })
    }

    fn skips(&self, row: &StringRecord) -> bool {
        let cells = Cells { row, joined: &[] };
        self.skip.iter().any(|(place, marks)| {
            let cell = cells.get(*place);
            marks
                .iter()
                .any(|mark| mark.trim().eq_ignore_ascii_case(cell))
        })
    }

    fn deal(&self, cells: Cells, number: u64, tally: &mut Tally) -> Result<Deal, CellError> {
        let mut deal = Deal::new(self.id(cells, number)?);
        deal.name = self.text(&self.name, "name", cells)?;
        deal.pipeline = self.text(&self.pipeline, "pipeline", cells)?;
        deal.owner = self.text(&self.owner, "owner", cells)?;
        deal.priority = self.text(&self.priority, "priority", cells)?;
        (deal.amount, deal.currency) = self.money(cells)?;
        deal.created_at = self.time(&self.created_at, cells, true)?;
        deal.outcome = self.outcome(cells)?;
        self.read_closing(&mut deal, cells, tally)?;
        self.read_stage(&mut deal, cells)?;
        let attributes = self.attributes.iter().map(|(name, place)| {
            let value =
                checked(cells.get(*place)).map_err(|reason| (Some(name.clone()), reason))?;
            Ok((name.clone(), AttributeValue::Text(value)))
        });
        deal.attributes = attributes.collect::<Result<_, CellError>>()?;
        Ok(deal)
    }

    /// Without a column, or in an empty cell, the number of the row.
    fn id(&self, cells: Cells, number: u64) -> Result<DealId, CellError> {
        let fallback = number.to_string();
        match &self.id {
            None => DealId::new(&fallback).map_err(|reason| (None, reason)),
            Some(field) => {
                let id = field
                    .text(cells)
                    .ok_or_else(|| field.wrong("the id is empty".into()))?;
                DealId::new(id).map_err(|reason| field.wrong(reason))
            }
        }
    }

    fn text(
        &self,
        field: &Option<Field>,
        name: &str,
        cells: Cells,
    ) -> Result<Option<String>, CellError> {
        if let Some(field) = field
            && let Some(text) = field.text(cells)
        {
            return checked(text)
                .map(Some)
                .map_err(|reason| field.wrong(reason));
        }
        Ok(self.defaults.texts.get(name).cloned())
    }

    fn time(
        &self,
        field: &Option<Field>,
        cells: Cells,
        has_happened: bool,
    ) -> Result<Option<Timestamp>, CellError> {
        let Some(field) = field else {
            return Ok(None);
        };
        let text = field.text(cells);
        let time = text
            .map(|text| self.times.read(text, has_happened))
            .transpose();
        time.map_err(|reason| field.wrong(reason))
    }

    /// The currency column wins over a currency in the amount's cell, and that over the default.
    fn money(
        &self,
        cells: Cells,
    ) -> Result<(Option<rust_decimal::Decimal>, Option<Currency>), CellError> {
        let mut amount = self.defaults.amount;
        let mut currency = self.defaults.currency;
        if let Some(field) = &self.amount
            && let Some(text) = field.text(cells)
        {
            let (read, named) = self
                .money
                .read(text)
                .map_err(|reason| field.wrong(reason))?;
            amount = Some(read);
            currency = named.or(currency);
        }
        if let Some(field) = &self.currency
            && let Some(code) = field.text(cells)
        {
            currency = Some(code.parse().map_err(|reason| field.wrong(reason))?);
        }
        Ok((amount, currency))
    }

    fn outcome(&self, cells: Cells) -> Result<Outcome, CellError> {
        if let Some(field) = &self.closed_column {
            let text = field.label(cells);
            match read_boolean(text) {
                Some(true) => {}
                Some(false) => return Ok(Outcome::Open),
                None => return Err(field.wrong(format!("`{}` is neither yes nor no", shown(text)))),
            }
        }
        let Some(field) = &self.outcome else {
            return Ok(Outcome::Open);
        };
        let label = field.label(cells);
        self.labels.read(label).ok_or_else(|| {
            let label = if label.is_empty() {
                "an empty cell".into()
            } else {
                format!("`{}`", shown(label))
            };
            field.wrong(format!(
                "{label} is in none of the lists `won`, `lost` and `open` of the mapping"
            ))
        })
    }

    fn read_closing(
        &self,
        deal: &mut Deal,
        cells: Cells,
        tally: &mut Tally,
    ) -> Result<(), CellError> {
        let is_expected = deal.is_open() || !self.shares_close_column;
        if is_expected {
            deal.expected_close_at = self.time(&self.expected_close_at, cells, false)?;
        }
        if !deal.is_open() {
            deal.closed_at = self.time(&self.closed_at, cells, true)?;
        } else if let Some(field) = &self.closed_at {
            let is_odd = !self.shares_close_column && field.text(cells).is_some();
            tally.open_with_closing_time += u64::from(is_odd);
        }
        let is_backwards = deal
            .closed_at
            .zip(deal.created_at)
            .is_some_and(|(closed, created)| closed < created);
        tally.closed_before_created += u64::from(is_backwards);
        Ok(())
    }

    /// The stage, and the moment it was entered as an entry of the history.
    ///
    /// Where the stage column is the outcome column, a stage that says won or lost is no stage: for
    /// scoring, a closed deal must look as it does when its outcome is known.
    fn read_stage(&self, deal: &mut Deal, cells: Cells) -> Result<(), CellError> {
        deal.stage = self.text(&self.stage, "stage", cells)?;
        if self.outcome.is_none()
            && self.shares_outcome_column
            && let Some(stage) = &deal.stage
            && matches!(self.labels.read(stage), Some(Outcome::Won | Outcome::Lost))
        {
            deal.stage = None;
        }
        let entered_at = self.time(&self.stage_entered_at, cells, true)?;
        if let (Some(at), Some(stage)) = (entered_at, &deal.stage) {
            deal.history.push(FieldChange {
                at,
                field: "stage".into(),
                value: AttributeValue::Text(stage.clone()),
            });
        }
        Ok(())
    }
}

fn checked(text: &str) -> Result<String, String> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(format!(
            "a text may have at most {TEXT_BYTES_MAX} bytes, but has {}",
            text.len()
        ));
    }
    check_text(text.to_owned())
}

/// Finds the columns that a mapping names.
struct Finder<'a> {
    table: &'a Table,
    mapping: &'a Mapping,
    joins: &'a [Joined],
}

impl Finder<'_> {
    fn headers(&self) -> &Headers {
        &self.table.headers
    }

    fn place(&self, name: &str) -> Option<Place> {
        if let Some(column) = self.headers().find(name) {
            return Some(Place::Column(column));
        }
        self.joins.iter().enumerate().find_map(|(join, joined)| {
            let column = joined.names.iter().position(|added| added == name.trim())?;
            Some(Place::Joined { join, column })
        })
    }

    fn field(&self, name: &str) -> Option<Field> {
        Some(Field {
            column: name.to_owned(),
            place: self.place(name)?,
            missing: self.mapping.missing.of(name).to_vec(),
            aliases: self.mapping.aliases.get(name).cloned().unwrap_or_default(),
        })
    }

    /// Every column that is mapped must be there, except those of the outcome when scoring.
    fn check(&self, purpose: Purpose) -> Result<()> {
        let is_of_outcome = |field: &str| field == "outcome" || field == "closed_at";
        let closed_column = self.mapping.outcome.closed_column.as_deref();
        let all = self.mapping.deal.named();
        let all = all.chain(closed_column.map(|column| ("outcome", column)));
        let needed: Vec<(&str, &str)> = all
            .filter(|(field, _)| purpose != Purpose::Score || !is_of_outcome(field))
            .collect();
        let missing: Vec<(&str, &str)> = needed
            .iter()
            .filter(|(_, column)| self.place(column).is_none())
            .copied()
            .collect();
        let Some((_, first)) = missing.first() else {
            return Ok(());
        };
        let wanted: Vec<String> = missing
            .iter()
            .map(|(field, column)| match self.headers().similar(column) {
                Some(similar) => format!("`{column}` ({field}; did you mean `{similar}`?)"),
                None => format!("`{column}` ({field})"),
            })
            .collect();
        let (wanted, found) = (wanted.join(", "), self.headers().list());
        let reason = if missing.len() == needed.len() {
            format!(
                "none of the mapped columns found: looked for {wanted}; found {found}. Is the header line missing?"
            )
        } else {
            format!("mapped columns are not in the file: {wanted}; it has {found}")
        };
        Err(Error::Input {
            file: self.table.name.clone(),
            line: 1,
            column: Some((*first).to_owned()),
            reason,
        })
    }

    /// Every column, of the file or joined, that is neither mapped nor ignored.
    fn attributes(&self) -> Result<Vec<(String, Place)>> {
        let mapping = self.mapping;
        let skip = mapping.csv.skip.keys().map(String::as_str);
        let taken: std::collections::HashSet<&str> = mapping
            .deal
            .named()
            .map(|(_, column)| column)
            .chain(mapping.outcome.closed_column.as_deref())
            .chain(mapping.columns.ignore.iter().map(String::as_str))
            .chain(skip)
            .map(str::trim)
            .collect();
        let own = self
            .headers()
            .named()
            .map(|(column, name)| (name, Place::Column(column)));
        let joined = self.joins.iter().enumerate().flat_map(|(join, joined)| {
            let names = joined.names.iter().enumerate();
            names.map(move |(column, name)| (name.as_str(), Place::Joined { join, column }))
        });
        let free = own.chain(joined).filter(|(name, _)| !taken.contains(name));
        let mut attributes: Vec<(String, Place)> =
            free.map(|(name, place)| (name.to_owned(), place)).collect();
        if attributes.len() > ATTRIBUTES_MAX {
            let reason = format!(
                "{} columns would be attributes, but at most {ATTRIBUTES_MAX} can be; name some in `columns.ignore`",
                attributes.len()
            );
            return Err(Error::Unusable(format!("{}: {reason}", self.table.name)));
        }
        attributes.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(attributes)
    }

    fn skip(&self) -> Result<Vec<(Place, Vec<String>)>> {
        let rules = self.mapping.csv.skip.iter();
        rules
            .map(|(column, marks)| {
                let place = self
                    .headers()
                    .find(column)
                    .map(Place::Column)
                    .ok_or_else(|| {
                        let reason = format!("`{column}` is not a column of {}", self.table.name);
                        Error::invalid("csv.skip", reason)
                    })?;
                Ok((place, marks.clone()))
            })
            .collect()
    }

    fn notices(&self) -> Vec<String> {
        let renamed = &self.headers().renamed;
        let mut notices: Vec<String> = renamed
            .iter()
            .map(|name| {
                format!("two columns have the same name; the later one is read as `{name}`")
            })
            .collect();
        let mapping = self.mapping;
        let spoken_of: std::collections::BTreeSet<&str> = mapping
            .columns
            .types
            .keys()
            .chain(&mapping.columns.actionable)
            .chain(&mapping.columns.keep)
            .chain(&mapping.columns.protected)
            .chain(mapping.missing.columns.keys())
            .chain(mapping.aliases.keys())
            .map(String::as_str)
            .collect();
        let absent = spoken_of
            .into_iter()
            .filter(|name| self.place(name).is_none());
        notices.extend(absent.map(|name| {
            format!("the mapping speaks of a column `{name}` that is not in {}: its values count as missing", self.table.name)
        }));
        notices
    }
}
