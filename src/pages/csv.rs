//! Tables for a spreadsheet.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION};
use jiff::Timestamp;

use crate::error::{Error, Result};

/// A cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Empty,
    Text(String),
    Number(f64),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Cell {
    fn from(number: usize) -> Self {
        Self::Number(number as f64)
    }
}

impl From<Timestamp> for Cell {
    fn from(at: Timestamp) -> Self {
        Self::Text(at.to_string())
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Empty, Into::into)
    }
}

impl Cell {
    /// Spreadsheets take a text for a formula that begins like one; CRMs hold what strangers typed into
    /// forms. An apostrophe makes it a text again.
    fn written(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => {
                format!("'{text}")
            }
            Self::Text(text) => text.clone(),
        }
    }
}

/// A table as a file.
#[derive(Debug)]
pub struct File {
    /// Without the ending.
    name: String,
    text: Vec<u8>,
}

impl File {
    /// # Errors
    /// When it cannot be written, which is our fault.
    pub fn of(
        name: &str,
        columns: &[&str],
        rows: impl IntoIterator<Item = Vec<Cell>>,
    ) -> Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            text: write(columns, rows).map_err(|e| Error::Internal(e.into()))?,
        })
    }

    pub fn answer(self) -> HttpResponse {
        HttpResponse::Ok()
            .content_type("text/csv; charset=utf-8")
            .insert_header((
                CONTENT_DISPOSITION,
                format!("attachment; filename=\"{}.csv\"", self.name),
            ))
            .insert_header((CACHE_CONTROL, "private, no-cache"))
            .insert_header(("x-content-type-options", "nosniff"))
            .body(self.text)
    }
}

/// Answers with a table as a file called `name`.csv.
///
/// # Errors
/// As [`File::of`].
pub fn answer(
    name: &str,
    columns: &[&str],
    rows: impl IntoIterator<Item = Vec<Cell>>,
) -> Result<HttpResponse> {
    Ok(File::of(name, columns, rows)?.answer())
}

fn write(
    columns: &[&str],
    rows: impl IntoIterator<Item = Vec<Cell>>,
) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(columns)?;
    for row in rows {
        writer.write_record(row.iter().map(Cell::written))?;
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_look_like_formulas_are_texts() {
        let rows = vec![vec![
            Cell::from("=1+1"),
            Cell::from(-2.5),
            Cell::from(Some("a, \"b\"")),
            Cell::from(None::<&str>),
        ]];
        let text = write(&["a", "b", "c", "d"], rows).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "a,b,c,d\n'=1+1,-2.5,\"a, \"\"b\"\"\",\n");
    }
}
