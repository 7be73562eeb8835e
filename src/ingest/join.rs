//! Small CSV files whose columns are added to each row of the deals file.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::input::Input;
use super::mapping::{Join, Mapping};
use super::table::{Headers, Table};
use super::values::shown;
use crate::error::{Error, Result};

/// Most rows of a joined file.
pub const JOIN_ROWS_MAX: usize = 100_000;

/// Values named in a report of misses.
const EXAMPLES_MAX: usize = 5;

/// A joined file in memory.
#[derive(Debug)]
pub(crate) struct Joined {
    file: String,
    /// Our column, by name and place.
    column_name: String,
    column: usize,
    aliases: BTreeMap<String, String>,
    /// Names of the columns added, as they are called here.
    pub(crate) names: Vec<String>,
    rows: HashMap<String, Vec<String>>,
    misses: u64,
    missed: BTreeMap<String, u64>,
}

impl Joined {
    /// Reads the joined file, relative to `folder`, for a file with the columns `headers`.
    ///
    /// # Errors
    /// When either file lacks a column that the join names, or a name would stand for two columns.
    pub(crate) fn load(
        join: &Join,
        mapping: &Mapping,
        folder: &Path,
        headers: &Headers,
    ) -> Result<Self> {
        let column = headers.find(&join.column).ok_or_else(|| {
            let reason = format!(
                "`{}` is not a column of the deals file; it has {}",
                join.column,
                headers.list()
            );
            Error::invalid("join.column", reason)
        })?;
        let mut table = Table::open(Input::open(&folder.join(&join.file))?, None)?;
        let find = |table: &Table, key: &str, name: &str| {
            table.headers.find(name).ok_or_else(|| {
                let reason = format!(
                    "`{name}` is not a column of {}; it has {}",
                    table.name,
                    table.headers.list()
                );
                Error::invalid(format!("join.{key}"), reason)
            })
        };
        let key = find(&table, "key", &join.key)?;
        let added: Vec<(String, usize)> = match &join.columns {
            Some(names) => names
                .iter()
                .map(|name| Ok((name.trim().to_owned(), find(&table, "columns", name)?)))
                .collect::<Result<_>>()?,
            None => {
                let others = table.headers.named().filter(|(place, _)| *place != key);
                others
                    .map(|(place, name)| (name.to_owned(), place))
                    .collect()
            }
        };
        let names: Vec<String> = added
            .iter()
            .map(|(name, _)| format!("{}{name}", join.prefix))
            .collect();
        if let Some(name) = names.iter().find(|name| headers.find(name).is_some()) {
            let reason = format!("`{name}` is a column of both files; set a `prefix`");
            return Err(Error::invalid("join.prefix", reason));
        }
        let mut rows = HashMap::new();
        while let Some(row) = table.next_row()? {
            let (_, row) = row.map_err(|reject| reject.into_error(&table.name))?;
            let cell = |place: usize| row.get(place).unwrap_or_default().trim().to_owned();
            rows.insert(
                cell(key),
                added.iter().map(|(_, place)| cell(*place)).collect(),
            );
            if rows.len() > JOIN_ROWS_MAX {
                return Err(Error::TooLarge {
                    limit: "rows of a joined file",
                    max: JOIN_ROWS_MAX as u64,
                });
            }
        }
        Ok(Self {
            file: join.file.clone(),
            column_name: join.column.clone(),
            column,
            aliases: mapping
                .aliases
                .get(&join.column)
                .cloned()
                .unwrap_or_default(),
            names,
            rows,
            misses: 0,
            missed: BTreeMap::new(),
        })
    }

    /// The values added to a row; `None` when the joined file does not have its key.
    pub(crate) fn find(&mut self, row: &csv::StringRecord) -> Option<&[String]> {
        let cell = row.get(self.column).unwrap_or_default().trim();
        let key = self.aliases.get(cell).map_or(cell, String::as_str);
        let found = self.rows.get(key);
        if found.is_none() && !key.is_empty() {
            self.misses += 1;
            if self.missed.len() < EXAMPLES_MAX || self.missed.contains_key(key) {
                *self.missed.entry(key.to_owned()).or_default() += 1;
            }
        }
        found.map(Vec::as_slice)
    }

    /// What to tell of rows without a partner.
    pub(crate) fn notice(&self) -> Option<String> {
        let examples: Vec<String> = self
            .missed
            .keys()
            .map(|value| format!("`{}`", shown(value)))
            .collect();
        (self.misses > 0).then(|| {
            format!(
                "{} rows have a `{}` that {} does not have, such as {}; aliases can tell which is which",
                self.misses,
                self.column_name,
                self.file,
                examples.join(", ")
            )
        })
    }
}
