//! Bytes from a file to plain text: gzip, byte order marks, and what kind of file it is.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// How much of a file is looked at to tell what it is.
const HEAD_BYTES: u64 = 64 * 1024;

/// What a file of deals is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Csv,
    Ndjson,
}

/// An opened file: plain text from here on.
pub(crate) struct Input {
    /// What errors call it.
    pub(crate) name: String,
    pub(crate) format: Format,
    /// The beginning, without byte order mark; `reader` starts with it too.
    pub(crate) head: Vec<u8>,
    pub(crate) reader: Box<dyn Read + Send>,
    pub(crate) size: Size,
}

/// How much of a file has been read, in bytes as they lie on disk.
#[derive(Debug, Clone, Default)]
pub struct Size {
    /// 0 when not known.
    pub total: u64,
    done: Arc<AtomicU64>,
}

impl Size {
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Input {
    /// # Errors
    /// As [`Input::open_as`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, &path.display().to_string())
    }

    /// `name` is what errors call the file; its extension tells the format where it can.
    ///
    /// # Errors
    /// `NotFound`, or `Malformed` when it is no text file.
    pub(crate) fn open_as(path: &Path, name: &str) -> Result<Self> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound {
                kind: "file",
                id: name.to_owned(),
            },
            _ => unreadable(name, error),
        })?;
        let metadata = file.metadata().map_err(|error| unreadable(name, error))?;
        if metadata.is_dir() {
            return Err(Error::Malformed(format!("{name} is a folder, not a file")));
        }
        Self::from_reader(Box::new(file), name, metadata.len())
    }

    /// `name` is what errors call it; its extension tells the format where it can.
    ///
    /// # Errors
    /// As [`Input::open`].
    pub(crate) fn from_reader(
        reader: Box<dyn Read + Send>,
        name: &str,
        total: u64,
    ) -> Result<Self> {
        let size = Size {
            total,
            ..Size::default()
        };
        let counted = Box::new(Counted {
            inner: reader,
            done: size.done.clone(),
        });
        let (mut head, mut reader) = look(counted, name)?;
        if head.starts_with(&[0x1f, 0x8b]) {
            (head, reader) = look(Box::new(MultiGzDecoder::new(reader)), name)?;
        }
        let what = match head.get(..4) {
            Some([b'P', b'K', 3, 4]) => Some("a zip file or spreadsheet; export it as CSV"),
            Some([0xff, 0xfe, ..] | [0xfe, 0xff, ..]) => Some("UTF-16 text; save it as UTF-8"),
            _ => None,
        };
        if let Some(what) = what {
            return Err(Error::Malformed(format!("{name} is {what}")));
        }
        if head.starts_with("\u{feff}".as_bytes()) {
            head.drain(..3);
            let mut mark = [0; 3];
            reader
                .read_exact(&mut mark)
                .map_err(|error| unreadable(name, error))?;
        }
        let format = format_of(name, &head);
        Ok(Self {
            name: name.to_owned(),
            format,
            head,
            reader,
            size,
        })
    }
}

fn format_of(name: &str, head: &[u8]) -> Format {
    let name = name.to_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        "csv" | "tsv" => Format::Csv,
        "ndjson" | "jsonl" => Format::Ndjson,
        _ => match head.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{' | b'[') => Format::Ndjson,
            _ => Format::Csv,
        },
    }
}

/// The beginning, and a reader that starts with it.
fn look(mut reader: Box<dyn Read + Send>, name: &str) -> Result<(Vec<u8>, Box<dyn Read + Send>)> {
    let mut head = Vec::new();
    let mut limited = reader.by_ref().take(HEAD_BYTES);
    limited
        .read_to_end(&mut head)
        .map_err(|error| unreadable(name, error))?;
    let whole = Cursor::new(head.clone()).chain(reader);
    Ok((head, Box::new(whole)))
}

/// An error while reading: damaged data is the sender's fault, anything else ours.
pub(crate) fn unreadable(name: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
            Error::Malformed(format!("{name} is damaged: {error}"))
        }
        _ => Error::Internal(anyhow::Error::new(error).context(format!("Failed to read {name}"))),
    }
}

struct Counted {
    inner: Box<dyn Read + Send>,
    done: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn input(bytes: &[u8], name: &str) -> Result<Input> {
        Input::from_reader(
            Box::new(Cursor::new(bytes.to_vec())),
            name,
            bytes.len() as u64,
        )
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn text(mut input: Input) -> String {
        let mut text = String::new();
        input.reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn gzip_and_byte_order_marks_are_taken_off() {
        let marked = "\u{feff}id\n1\n";
        for bytes in [marked.as_bytes().to_vec(), gzip(marked.as_bytes())] {
            let input = input(&bytes, "deals.csv").unwrap();
            assert_eq!(input.head, b"id\n1\n");
            let size = input.size.clone();
            assert_eq!(text(input), "id\n1\n");
            assert_eq!(size.done(), size.total);
        }
    }

    #[test]
    fn the_format_is_told_by_the_name_and_else_by_looking() {
        let format = |bytes: &[u8], name| input(bytes, name).unwrap().format;
        assert_eq!(format(b"{}", "deals.csv.gz"), Format::Csv);
        assert_eq!(format(b"", "deals.jsonl"), Format::Ndjson);
        assert_eq!(format(b" {\"id\"", "deals"), Format::Ndjson);
        assert_eq!(format(b"id,name", "upload.txt"), Format::Csv);
    }

    #[test]
    fn what_is_no_text_is_said_so() {
        let error = |bytes: &[u8]| input(bytes, "deals.csv").err().unwrap().to_string();
        assert!(error(b"PK\x03\x04...").contains("spreadsheet"));
        assert!(error(&[0xff, 0xfe, b'i', 0]).contains("UTF-16"));
        let whole = gzip(b"id,name\n1,a\n");
        assert!(error(&whole[..whole.len() - 9]).contains("damaged"));
    }
}
