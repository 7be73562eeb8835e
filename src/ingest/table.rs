//! A CSV file as a header and rows, whatever program wrote it.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use csv::{ByteRecord, StringRecord};

use super::document::ATTRIBUTE_NAME_BYTES_MAX;
use super::input::{Input, unreadable};
use super::reject::Reject;
use super::values::shown;
use crate::error::{Error, Result};

/// Most columns of a file.
pub const COLUMNS_MAX: usize = 2_000;
/// Longest row, in bytes. A quote left open makes a row of the rest of the file.
pub const ROW_BYTES_MAX: u64 = 4 * 1024 * 1024;

const DELIMITERS: [u8; 4] = *b",;\t|";

/// A row with the line on which it starts.
pub(crate) type Row = Result<(u64, StringRecord), Reject>;

/// An opened CSV file.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) delimiter: u8,
    pub(crate) headers: Headers,
    rows: Rows,
}

/// The column names of a file, trimmed; a trailing column without a name is left out.
#[derive(Debug, Clone)]
pub(crate) struct Headers {
    pub(crate) names: Vec<String>,
    index: HashMap<String, usize>,
    /// Names that occurred again, as they are called now.
    pub(crate) renamed: Vec<String>,
}

impl Headers {
    fn new(record: &StringRecord) -> Result<Self, (String, String)> {
        let mut headers = Self {
            names: Vec::new(),
            index: HashMap::new(),
            renamed: Vec::new(),
        };
        for (index, name) in record.iter().enumerate() {
            let clean = |c: char| if c.is_control() { ' ' } else { c };
            let mut name = name.trim().chars().map(clean).collect::<String>();
            if name.len() > ATTRIBUTE_NAME_BYTES_MAX {
                let reason = format!(
                    "the name of a column may have at most {ATTRIBUTE_NAME_BYTES_MAX} bytes"
                );
                return Err((shown(&name), reason));
            }
            let mut copy = 2;
            while !name.is_empty() && headers.index.contains_key(&name) {
                let again = format!("{} ({copy})", record[index].trim());
                copy += 1;
                if !headers.index.contains_key(&again) {
                    headers.renamed.push(again.clone());
                }
                name = again;
            }
            if !name.is_empty() {
                headers.index.insert(name.clone(), index);
            }
            headers.names.push(name);
        }
        Ok(headers)
    }

    /// The place of a column, by its name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name.trim()).copied()
    }

    /// Named columns with their places.
    pub(crate) fn named(&self) -> impl Iterator<Item = (usize, &str)> {
        let all = self.names.iter().map(String::as_str).enumerate();
        all.filter(|(_, name)| !name.is_empty())
    }

    /// For a message: the names that are there, at most twenty.
    pub(crate) fn list(&self) -> String {
        const LISTED_MAX: usize = 20;
        let names: Vec<String> = self
            .named()
            .map(|(_, name)| format!("`{}`", shown(name)))
            .collect();
        match names.len() {
            0..=LISTED_MAX => names.join(", "),
            len => format!(
                "{} and {} more",
                names[..LISTED_MAX].join(", "),
                len - LISTED_MAX
            ),
        }
    }

    /// A column that differs only by case or by what is no letter: a likely typing error.
    pub(crate) fn similar(&self, name: &str) -> Option<&str> {
        let wanted = fold(name);
        self.named()
            .map(|(_, name)| name)
            .find(|name| fold(name) == wanted)
    }
}

/// Letters and digits alone, in lower case: `Deal Stage`, `deal_stage` and `DealStage` are one name.
pub(crate) fn fold(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

impl Table {
    /// Reads the header.
    ///
    /// # Errors
    /// When the file is empty, or its header is not UTF-8, too wide, or without any name.
    pub(crate) fn open(input: Input, delimiter: Option<u8>) -> Result<Self> {
        let delimiter = delimiter.unwrap_or_else(|| find_delimiter(&input.head));
        let mut rows = Rows::new(&input.name, input.reader, delimiter);
        let Some((line, first)) = rows.next()? else {
            return Err(Error::Unusable(format!("{} is empty", input.name)));
        };
        let wrong = |column: Option<String>, reason: String| Error::Input {
            file: input.name.clone(),
            line,
            column,
            reason,
        };
        if first.len() > COLUMNS_MAX {
            return Err(Error::TooLarge {
                limit: "columns of a CSV file",
                max: COLUMNS_MAX as u64,
            });
        }
        let first = StringRecord::from_byte_record(first)
            .map_err(|_| wrong(None, "the header is not UTF-8 text".into()))?;
        let headers =
            Headers::new(&first).map_err(|(column, reason)| wrong(Some(column), reason))?;
        if headers.named().next().is_none() {
            return Err(wrong(None, "the header names no column".into()));
        }
        Ok(Self {
            name: input.name,
            delimiter,
            headers,
            rows,
        })
    }

    /// The next row, with at least as many fields as there are columns.
    ///
    /// # Errors
    /// When the file cannot be read further; a row that cannot be taken is a reject.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>> {
        let next = self.rows.next()?;
        Ok(next.map(|(line, row)| self.check(line, row)))
    }

    fn check(&self, line: u64, row: ByteRecord) -> Row {
        let columns = self.headers.names.len();
        let too_many = row
            .iter()
            .skip(columns)
            .any(|field| !field.trim_ascii().is_empty());
        // A missing last field is forgiven where the last column has no name.
        let needed = self
            .headers
            .named()
            .last()
            .map_or(0, |(index, _)| index + 1);
        if too_many || row.len() < needed {
            let reason = format!(
                "the row has {} fields, but the header has {columns}",
                row.len()
            );
            return Err(Reject {
                line,
                column: None,
                reason,
                raw: row,
            });
        }
        let row = StringRecord::from_byte_record(row).map_err(|error| {
            let (column, byte) = (error.utf8_error().field(), error.utf8_error().valid_up_to());
            Reject {
                line,
                column: self.headers.names.get(column).cloned(),
                reason: format!("is not UTF-8 text (byte {} of the value)", byte + 1),
                raw: error.into_byte_record(),
            }
        })?;
        Ok((line, row))
    }
}

/// Records with the line on which each starts.
struct Rows {
    name: String,
    reader: csv::Reader<Bounded>,
    bytes_since_row: Arc<AtomicU64>,
    has_ended: bool,
}

impl Rows {
    /// Lines end with LF here, and the CR before it is taken off afterwards: left to itself, the
    /// library counts the lines of CRLF files and of files with blank lines one off.
    fn new(name: &str, reader: Box<dyn Read + Send>, delimiter: u8) -> Self {
        let bytes_since_row = Arc::new(AtomicU64::new(0));
        let bounded = Bounded {
            inner: reader,
            bytes_since_row: bytes_since_row.clone(),
            last: b'\n',
        };
        let reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .terminator(csv::Terminator::Any(b'\n'))
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(64 * 1024)
            .from_reader(bounded);
        Self {
            name: name.to_owned(),
            reader,
            bytes_since_row,
            has_ended: false,
        }
    }

    fn next(&mut self) -> Result<Option<(u64, ByteRecord)>> {
        let mut row = ByteRecord::new();
        while !self.has_ended {
            self.bytes_since_row.store(0, Ordering::Relaxed);
            match self.reader.read_byte_record(&mut row) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    self.has_ended = true;
                    return Err(unreadable_row(
                        &self.name,
                        self.reader.position().line(),
                        error,
                    ));
                }
            }
            take_off_carriage_return(&mut row);
            let is_blank = row.len() == 1 && row[0].is_empty();
            if !is_blank {
                let inner = row.as_slice().iter().filter(|byte| **byte == b'\n').count() as u64;
                let line = self.reader.position().line().saturating_sub(1 + inner);
                return Ok(Some((line, row)));
            }
        }
        self.has_ended = true;
        Ok(None)
    }
}

fn take_off_carriage_return(row: &mut ByteRecord) {
    if !row.as_slice().ends_with(b"\r") {
        return;
    }
    let kept = row.len() - 1;
    let last = row[kept].strip_suffix(b"\r").map(<[u8]>::to_vec);
    if let Some(last) = last {
        row.truncate(kept);
        row.push_field(&last);
    }
}

/// The delimiter that the header holds most of, outside quotes; the comma if it holds none.
fn find_delimiter(head: &[u8]) -> u8 {
    let mut counts = [0usize; DELIMITERS.len()];
    let mut is_quoted = false;
    let content = head.iter().skip_while(|byte| matches!(byte, b'\n' | b'\r'));
    for byte in content {
        match byte {
            b'"' => is_quoted = !is_quoted,
            b'\n' | b'\r' if !is_quoted => break,
            _ if is_quoted => {}
            _ => {
                if let Some(index) = DELIMITERS.iter().position(|delimiter| delimiter == byte) {
                    counts[index] += 1;
                }
            }
        }
    }
    let mut best = 0;
    for index in 1..DELIMITERS.len() {
        if counts[index] > counts[best] {
            best = index;
        }
    }
    DELIMITERS[best]
}

fn unreadable_row(name: &str, line: u64, error: csv::Error) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => Error::Input {
            file: name.to_owned(),
            line,
            column: None,
            reason: format!(
                "a row longer than {ROW_BYTES_MAX} bytes starts here; is a quote left open?"
            ),
        },
        csv::ErrorKind::Io(error) => unreadable(name, error),
        other => Error::Internal(anyhow::anyhow!("{name}: {other:?}")),
    }
}

/// Ends the reading of a row that does not end, and ends the last line where the file does not.
struct Bounded {
    inner: Box<dyn Read + Send>,
    bytes_since_row: Arc<AtomicU64>,
    last: u8,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let read = count as u64;
        if self.bytes_since_row.fetch_add(read, Ordering::Relaxed) + read > ROW_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match (count, buffer.first_mut()) {
            (0, Some(first)) if self.last != b'\n' => {
                *first = b'\n';
                self.last = b'\n';
                Ok(1)
            }
            _ => {
                self.last = buffer[..count].last().copied().unwrap_or(self.last);
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &[u8]) -> Result<Table> {
        let reader = Box::new(io::Cursor::new(text.to_vec()));
        Table::open(Input::from_reader(reader, "t.csv", 0)?, None)
    }

    fn rows(text: &str) -> Vec<Vec<String>> {
        let mut table = table(text.as_bytes()).unwrap();
        let mut rows = Vec::new();
        while let Some(row) = table.next_row().unwrap() {
            rows.push(row.unwrap().1.iter().map(str::to_owned).collect());
        }
        rows
    }

    fn rejects(text: &[u8]) -> Vec<(u64, Option<String>, String)> {
        let mut table = table(text).unwrap();
        let mut rejects = Vec::new();
        while let Some(row) = table.next_row().unwrap() {
            rejects.extend(row.err().map(|r| (r.line, r.column, r.reason)));
        }
        rejects
    }

    #[test]
    fn delimiters_are_found_by_looking() {
        for delimiter in [",", ";", "\t", "|"] {
            let text = ["\"a,;b\"", "c", "d\n1", "\"2,5\"", "3\n"].join(delimiter);
            assert_eq!(rows(&text), [["1", "2,5", "3"]], "{delimiter}");
        }
        assert_eq!(rows("only\n1\n\n2"), [["1"], ["2"]]);
    }

    #[test]
    fn line_ends_blank_lines_and_trailing_commas_do_not_matter() {
        let text = "\u{feff} a , b ,\r\n1,\"x, y\",\r\n\r\n2,\"two\r\nlines\",\r\n3,z";
        let mut table = table(text.as_bytes()).unwrap();
        let names: Vec<&str> = table.headers.named().map(|(_, name)| name).collect();
        assert_eq!(names, ["a", "b"]);
        let mut lines = Vec::new();
        while let Some(row) = table.next_row().unwrap() {
            lines.push(row.unwrap().0);
        }
        assert_eq!(lines, [2, 4, 6]);
    }

    #[test]
    fn rows_of_another_width_are_rejected_with_their_line() {
        let rejects = rejects(b"a,b\n1,2\n1\n1,2,3\n1,2,\n");
        let lines: Vec<u64> = rejects.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [3, 4]);
        assert_eq!(rejects[0].2, "the row has 1 fields, but the header has 2");
    }

    #[test]
    fn broken_utf8_is_rejected_with_line_and_column() {
        let rejects = rejects(b"a,b\n1,M\xfcller\n2,ok\n");
        assert_eq!(
            rejects,
            [(
                2,
                Some("b".into()),
                "is not UTF-8 text (byte 2 of the value)".into()
            )]
        );
        assert!(
            table(b"a,\xff\n1,2\n")
                .err()
                .unwrap()
                .to_string()
                .contains("UTF-8")
        );
    }

    #[test]
    fn an_empty_file_and_a_nameless_header_are_refused() {
        assert!(matches!(table(b""), Err(Error::Unusable(_))));
        assert!(matches!(table(b"\n\n"), Err(Error::Unusable(_))));
        assert!(matches!(table(b",,\n1,2,3"), Err(Error::Input { .. })));
        let wide = vec!["a"; COLUMNS_MAX + 1].join(",");
        assert!(matches!(
            table(wide.as_bytes()),
            Err(Error::TooLarge { .. })
        ));
    }

    #[test]
    fn a_name_that_occurs_twice_is_told_apart() {
        let table = table(b"a,b,a,a\n").unwrap();
        assert_eq!(table.headers.names, ["a", "b", "a (2)", "a (3)"]);
        assert_eq!(table.headers.find("a"), Some(0));
    }

    #[test]
    fn a_quote_left_open_does_not_swallow_a_large_file() {
        let mut text = b"a,b\n1,2\n3,\"open\n".to_vec();
        text.extend(b"4,5\n".repeat(ROW_BYTES_MAX as usize / 4 + 100_000));
        let mut table = table(&text).unwrap();
        assert!(table.next_row().unwrap().unwrap().is_ok());
        let error = table.next_row().unwrap_err().to_string();
        assert!(error.contains("quote left open"), "{error}");
        assert!(table.next_row().unwrap().is_none());
    }
}
