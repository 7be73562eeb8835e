//! Rows that could not be taken: what is wrong, where, and the row itself to mend.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::error::{Error, FieldError, Result};

/// A row that could not be taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Reject {
    /// Line of the file, from 1.
    pub line: u64,
    pub column: Option<String>,
    pub reason: String,
    /// The row as it came.
    pub raw: csv::ByteRecord,
}

impl Reject {
    /// The error of a run that stops at the first bad row.
    pub fn into_error(self, file: &str) -> Error {
        Error::Input {
            file: file.to_owned(),
            line: self.line,
            column: self.column,
            reason: self.reason,
        }
    }

    /// From everything that is wrong with a document.
    pub(crate) fn from_fields(
        line: u64,
        mut errors: Vec<FieldError>,
        raw: csv::ByteRecord,
    ) -> Self {
        if errors.len() == 1
            && let Some(error) = errors.pop()
        {
            let column = Some(error.field).filter(|field| !field.is_empty());
            return Self {
                line,
                column,
                reason: error.reason,
                raw,
            };
        }
        let column = errors.first().map(|error| error.field.clone());
        let reason = Error::Invalid(errors).to_string();
        Self {
            line,
            column,
            reason,
            raw,
        }
    }
}

/// Where the rejects of a file go: beside it, `deals.csv.gz` to `deals.rejects.csv`.
pub fn rejects_path(input: &Path) -> PathBuf {
    let plain = match input.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("gz") => input.with_extension(""),
        _ => input.to_owned(),
    };
    plain.with_extension("rejects.csv")
}

/// Writes rejects as a CSV: line, column, reason, and the row. Made at the first reject, so that a
/// clean file leaves nothing behind.
#[derive(Debug)]
pub struct RejectsWriter {
    path: PathBuf,
    /// Column names of the rows.
    headers: Vec<String>,
    writer: Option<csv::Writer<File>>,
}

impl RejectsWriter {
    /// `headers` are the columns of the rejected rows; none for NDJSON.
    pub fn new(path: PathBuf, headers: &[String]) -> Self {
        let headers = match headers {
            [] => vec!["row".to_owned()],
            names => names.to_vec(),
        };
        Self {
            path,
            headers,
            writer: None,
        }
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&mut self, reject: &Reject) -> Result<()> {
        let context = || format!("Failed to write {}", self.path.display());
        if self.writer.is_none() {
            let file = File::create(&self.path).with_context(context)?;
            let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(file);
            let names = ["line", "column", "reason"].into_iter();
            let names = names.chain(self.headers.iter().map(String::as_str));
            writer.write_record(names).with_context(context)?;
            self.writer = Some(writer);
        }
        if let Some(writer) = &mut self.writer {
            let mut row = csv::ByteRecord::new();
            row.push_field(reject.line.to_string().as_bytes());
            row.push_field(reject.column.as_deref().unwrap_or_default().as_bytes());
            row.push_field(reject.reason.as_bytes());
            row.extend(reject.raw.iter());
            writer.write_byte_record(&row).with_context(context)?;
        }
        Ok(())
    }

    /// The file, if there was a reject.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(self) -> Result<Option<PathBuf>> {
        let Some(mut writer) = self.writer else {
            return Ok(None);
        };
        let written = writer.flush();
        written.with_context(|| format!("Failed to write {}", self.path.display()))?;
        Ok(Some(self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_lie_beside_their_file() {
        for (input, rejects) in [
            ("a/deals.csv", "a/deals.rejects.csv"),
            ("deals.csv.gz", "deals.rejects.csv"),
            ("deals", "deals.rejects.csv"),
        ] {
            assert_eq!(rejects_path(Path::new(input)), Path::new(rejects));
        }
    }

    #[test]
    fn a_rejects_file_holds_the_place_the_reason_and_the_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.csv");
        let unused = RejectsWriter::new(path.clone(), &[]);
        assert_eq!(unused.finish().unwrap(), None);
        assert!(!path.exists());
        let mut writer = RejectsWriter::new(path.clone(), &["id".into(), "amount".into()]);
        let raw = csv::ByteRecord::from(vec![b"7".as_slice(), b"\xff,", b"extra"]);
        let reject = Reject {
            line: 8,
            column: Some("amount".into()),
            reason: "bad".into(),
            raw,
        };
        writer.write(&reject).unwrap();
        assert_eq!(writer.finish().unwrap(), Some(path.clone()));
        let written = std::fs::read(path).unwrap();
        assert_eq!(
            written,
            b"line,column,reason,id,amount\n8,amount,bad,7,\"\xff,\",extra\n"
        );
    }
}
