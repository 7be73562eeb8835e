//! Lines of deal documents to deals.

use std::io::{BufRead, BufReader, Read};

use jiff::Timestamp;
use serde_json::Value;

use super::document::parse_at;
use super::input::{Input, unreadable};
use super::reject::Reject;
use super::{Purpose, Row};
use crate::domain::{Deal, Outcome};
use crate::error::Result;

/// Longest line, in bytes.
pub const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How much of a bad line is kept to show.
const RAW_BYTES_MAX: usize = 64 * 1024;

/// Reads one file line by line.
pub(crate) struct NdjsonDeals {
    name: String,
    reader: BufReader<Box<dyn Read + Send>>,
    purpose: Purpose,
    now: Timestamp,
    line: u64,
    buffer: Vec<u8>,
}

impl NdjsonDeals {
    pub(crate) fn new(input: Input, purpose: Purpose, now: Timestamp) -> Self {
        Self {
            name: input.name,
            reader: BufReader::with_capacity(64 * 1024, input.reader),
            purpose,
            now,
            line: 0,
            buffer: Vec::new(),
        }
    }

    /// # Errors
    /// When the file cannot be read further.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row>> {
        loop {
            self.buffer.clear();
            let mut limited = self.reader.by_ref().take(LINE_BYTES_MAX + 1);
            let read = limited.read_until(b'\n', &mut self.buffer);
            if read.map_err(|error| unreadable(&self.name, error))? == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.buffer.len() as u64 > LINE_BYTES_MAX && !self.buffer.ends_with(b"\n") {
                self.skip_line()?;
                let reason = format!("the line is longer than {LINE_BYTES_MAX} bytes");
                return Ok(Some(Err(self.reject(reason))));
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some(self.deal()));
            }
        }
    }

    fn deal(&self) -> Row {
        let document: Value =
            serde_json::from_slice(&self.buffer).map_err(|error| self.reject(not_json(&error)))?;
        let mut deal = parse_at(document, self.now)
            .map_err(|errors| Reject::from_fields(self.line, errors, self.raw()))?;
        if self.purpose == Purpose::Score {
            forget_outcome(&mut deal);
        }
        Ok(deal)
    }

    fn reject(&self, reason: String) -> Reject {
        Reject {
            line: self.line,
            column: None,
            reason,
            raw: self.raw(),
        }
    }

    fn raw(&self) -> csv::ByteRecord {
        let line = self.buffer.trim_ascii();
        csv::ByteRecord::from(vec![&line[..line.len().min(RAW_BYTES_MAX)]])
    }

    fn skip_line(&mut self) -> Result<()> {
        loop {
            let buffer = self
                .reader
                .fill_buf()
                .map_err(|error| unreadable(&self.name, error))?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let (skipped, is_done) = match end {
                Some(end) => (end + 1, true),
                None => (buffer.len(), buffer.is_empty()),
            };
            self.reader.consume(skipped);
            if is_done {
                return Ok(());
            }
        }
    }
}

/// What is known of the deal before it ended. The stage of a closed deal that has no stage history
/// tells how it ended, and goes too.
fn forget_outcome(deal: &mut Deal) {
    if !deal.is_open() && !deal.history.iter().any(|change| change.field == "stage") {
        deal.stage = None;
    }
    deal.outcome = Outcome::Open;
    deal.closed_at = None;
}

/// The parser counts lines within what it is given; here that is always one.
fn not_json(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or(&message);
    format!("is not JSON: {what} at column {}", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8], purpose: Purpose) -> Vec<Row> {
        let reader = Box::new(std::io::Cursor::new(text.to_vec()));
        let input = Input::from_reader(reader, "deals.ndjson", 0).unwrap();
        let mut deals = NdjsonDeals::new(input, purpose, "2026-06-01T00:00:00Z".parse().unwrap());
        std::iter::from_fn(|| deals.next_row().unwrap()).collect()
    }

    const LOST: &str = r#"{"id":"d","stage":"Lost","created_at":null,"outcome":"lost"}"#;

    #[test]
    fn lines_are_read_and_bad_ones_named() {
        let text = format!(
            "\u{feff}{LOST}\r\n\n{{\"id\": }}\n{{\"id\":5,\"stage\":null}}\n\"\u{7f}\"\n{LOST}"
        );
        let rows = rows(text.as_bytes(), Purpose::Import);
        assert_eq!(rows.len(), 5);
        assert_eq!(rows[0].as_ref().unwrap(), rows[4].as_ref().unwrap());
        let bad: Vec<&Reject> = rows.iter().filter_map(|row| row.as_ref().err()).collect();
        assert_eq!(
            (bad[0].line, bad[0].reason.as_str()),
            (3, "is not JSON: expected value at column 8")
        );
        assert_eq!(bad[1].line, 4);
        assert!(
            bad[1].reason.contains("created_at: is required"),
            "{}",
            bad[1].reason
        );
        assert_eq!(bad[2].reason, "expected an object, found a string");
    }

    #[test]
    fn broken_utf8_and_long_lines_do_not_end_the_reading() {
        let mut text = b"{\"id\":\"\xff\"}\n\"".to_vec();
        text.extend(vec![b'x'; LINE_BYTES_MAX as usize + 1_000_000]);
        text.extend(b"\"\n");
        text.extend(LOST.as_bytes());
        let rows = rows(&text, Purpose::Import);
        assert!(
            rows[0]
                .as_ref()
                .unwrap_err()
                .reason
                .contains("invalid unicode")
        );
        let long = rows[1].as_ref().unwrap_err();
        assert!(long.reason.contains("longer than") && long.raw.as_slice().len() == RAW_BYTES_MAX);
        assert!(rows[2].is_ok());
    }

    #[test]
    fn scoring_knows_no_outcome() {
        let row = rows(LOST.as_bytes(), Purpose::Score).remove(0).unwrap();
        assert_eq!((row.outcome, row.stage), (Outcome::Open, None));
    }
}
