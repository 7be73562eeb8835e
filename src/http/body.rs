//! Reading request bodies, each within its limits: as one JSON value, as a file, or line by line.

use std::path::Path;
use std::time::Duration;

use actix_web::dev::Decompress;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use actix_web::web::{Bytes, Payload};
use actix_web::{FromRequest, HttpRequest, error::PayloadError};
use anyhow::Context;
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::problem::Problem;
use crate::config::Limits;
use crate::error::{Error, FieldError, Result};

/// Rest of a body that is too large which is still read (and dropped), so that the client, who is
/// busy sending, gets to see the answer instead of a broken connection.
const DRAIN_BYTES_MAX: usize = 64 << 20;

/// The essence of the content type (`text/csv`), in lower case; `None` when there is none.
///
/// # Errors
/// 415 when it cannot be read, or names a charset other than UTF-8.
pub fn media_type(request: &HttpRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get(CONTENT_TYPE) else {
        return Ok(None);
    };
    let unreadable = || Problem::unsupported_media_type("the content type cannot be read");
    let text = value.to_str().map_err(|_| unreadable())?.to_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_owned();
    if !essence.contains('/') {
        return Err(unreadable());
    }
    for parameter in parts {
        if let Some(charset) = parameter.strip_prefix("charset=") {
            let charset = charset.trim_matches('"');
            if !["utf-8", "utf8", "us-ascii"].contains(&charset) {
                let detail = format!("the charset must be UTF-8, not `{charset}`");
                return Err(Problem::unsupported_media_type(detail));
            }
        }
    }
    Ok(Some(essence))
}

pub fn is_ndjson(media_type: &str) -> bool {
    [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
    ]
    .contains(&media_type)
}

/// The body as JSON.
///
/// # Errors
/// 415 for another content type, 413 above `limits.body_bytes_max`, 400 with line and column for
/// what is not JSON or nested too deeply.
pub async fn json(
    request: &HttpRequest,
    payload: Payload,
    limits: &Limits,
) -> Result<Value, Problem> {
    let empty = || Error::Malformed("the body is empty".into()).into();
    json_or_nothing(request, payload, limits)
        .await?
        .ok_or_else(empty)
}

/// The body as JSON, or `None` when it is empty.
///
/// # Errors
/// As [`json`].
pub async fn json_or_nothing(
    request: &HttpRequest,
    payload: Payload,
    limits: &Limits,
) -> Result<Option<Value>, Problem> {
    let media_type = media_type(request)?;
    let is_json = media_type
        .as_deref()
        .is_none_or(|kind| kind == "application/json" || kind.ends_with("+json"));
    let bytes = read_all(request, payload, limits).await?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    if !is_json {
        let detail = format!(
            "send JSON with `content-type: application/json`, not `{}`",
            media_type.unwrap_or_default()
        );
        return Err(Problem::unsupported_media_type(detail));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    serde_json::from_slice(bytes)
        .map(Some)
        .map_err(|e| Error::Malformed(format!("the body is not JSON: {e}")).into())
}

/// A JSON value as a type, each mistake named by its path.
pub fn typed<T: DeserializeOwned>(value: Value) -> Result<T> {
    // Serde would take an array for the fields in their order.
    if !value.is_object() {
        return Err(Error::invalid("", "expected an object"));
    }
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let field = if path == "." { String::new() } else { path };
        Error::Invalid(vec![FieldError::new(field, e.inner().to_string())])
    })
}

/// The body byte by byte as it was sent, for signatures; `limit` is the name and the number of the bytes
/// that it may have.
///
/// # Errors
/// 415 for an encoded one, 413 above the limit.
pub async fn raw(
    request: &HttpRequest,
    payload: Payload,
    limits: &Limits,
    (limit, bytes_max): (&'static str, usize),
) -> Result<Vec<u8>, Problem> {
    let encoding = request.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        let detail = "the content encoding must be left out";
        return Err(Problem::unsupported_media_type(detail));
    }
    let mut chunks = Chunks {
        stream: payload,
        pause_max: Duration::from_secs(limits.body_pause_seconds_max),
    };
    let mut body = Vec::new();
    while let Some(chunk) = chunks.next().await? {
        if body.len() + chunk.len() > bytes_max {
            drop(body);
            chunks.drain().await;
            return Err(too_large(limit, bytes_max as u64));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn read_all(
    request: &HttpRequest,
    payload: Payload,
    limits: &Limits,
) -> Result<Vec<u8>, Problem> {
    let max = limits.body_bytes_max;
    let mut chunks = Chunks::new(request, payload, limits)?;
    let mut body = Vec::new();
    while let Some(chunk) = chunks.next().await? {
        if body.len() + chunk.len() > max {
            drop(body);
            chunks.drain().await;
            return Err(too_large("body_bytes_max", max as u64));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn too_large(limit: &'static str, max: u64) -> Problem {
    Error::TooLarge { limit, max }.into()
}

/// The chunks of a body, decompressed.
struct Chunks<S> {
    stream: S,
    pause_max: Duration,
}

impl Chunks<Decompress<Payload>> {
    /// # Errors
    /// 415 for an encoding that cannot be undone.
    fn new(request: &HttpRequest, payload: Payload, limits: &Limits) -> Result<Self, Problem> {
        let encoding = request.headers().get(CONTENT_ENCODING);
        let encoding = encoding.map_or(Ok("identity"), |v| v.to_str());
        let is_known = |name: &str| ["identity", "gzip", "deflate"].contains(&name);
        if !encoding.is_ok_and(|name| is_known(&name.to_ascii_lowercase())) {
            let detail = "the content encoding must be gzip or deflate, or be left out";
            return Err(Problem::unsupported_media_type(detail));
        }
        Ok(Self {
            stream: Decompress::from_headers(payload, request.headers()),
            pause_max: Duration::from_secs(limits.body_pause_seconds_max),
        })
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Chunks<S> {
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match tokio::time::timeout(self.pause_max, self.stream.next()).await {
            Err(_) => Err(Problem::body_timeout()),
            Ok(None) => Ok(None),
            Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
            Ok(Some(Err(e))) => {
                Err(Error::Malformed(format!("the body cannot be read: {e}")).into())
            }
        }
    }

    async fn drain(&mut self) {
        let mut drained = 0;
        while let Ok(Some(chunk)) = self.next().await {
            drained += chunk.len();
            if drained > DRAIN_BYTES_MAX {
                return;
            }
        }
    }
}

/// Writes a body to a new file at `path`; returns its length in bytes.
///
/// # Errors
/// 413 above `limits.import_bytes_max`; the file may be there in part.
pub async fn save(
    request: &HttpRequest,
    payload: Payload,
    limits: &Limits,
    path: &Path,
) -> Result<u64, Problem> {
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced = announced.and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limits.import_bytes_max) {
        return Err(too_large("import_bytes_max", limits.import_bytes_max));
    }
    let mut chunks = Chunks::new(request, payload, limits)?;
    let mut file = create(path).await?;
    let mut written = 0;
    while let Some(chunk) = chunks.next().await? {
        written += chunk.len() as u64;
        if written > limits.import_bytes_max {
            chunks.drain().await;
            return Err(too_large("import_bytes_max", limits.import_bytes_max));
        }
        write(&mut file, &chunk).await?;
    }
    finish(file).await?;
    Ok(written)
}

pub async fn create(path: &Path) -> Result<File> {
    let failed = || format!("cannot create {}", path.display());
    Ok(File::create_new(path).await.with_context(failed)?)
}

pub async fn write(file: &mut File, chunk: &[u8]) -> Result<()> {
    Ok(file
        .write_all(chunk)
        .await
        .context("cannot write an upload")?)
}

pub async fn finish(mut file: File) -> Result<()> {
    Ok(file.flush().await.context("cannot write an upload")?)
}

/// One line of a body, without its end.
pub struct Line {
    /// Counted from 1.
    pub number: u64,
    pub text: Result<Vec<u8>, Problem>,
}

/// The lines of a body that is answered while it still arrives.
///
/// The body flows through an unnamed file. Without it, a client that sends everything before it
/// reads anything would wait for us to read while we wait for it to read; with it, such a client
/// costs disk (at most `import_bytes_max`), and memory stays small either way.
pub struct Lines {
    spooled: watch::Receiver<Spooled>,
    file: File,
    read_bytes: u64,
    buffer: Vec<u8>,
    /// Start of the first line in the buffer that was not handed out.
    start: usize,
    number: u64,
    /// The present line is too long; its rest is dropped.
    is_overlong: bool,
    is_ended: bool,
    line_bytes_max: usize,
}

/// How much of a body has reached the file.
#[derive(Debug, Clone, Default)]
struct Spooled {
    bytes: u64,
    end: Option<Result<(), Problem>>,
}

/// A new file without a name, to write to and to read from.
fn unnamed_file(dir: &Path) -> Result<(File, File)> {
    let file = tempfile::NamedTempFile::new_in(dir).context("cannot spool a body")?;
    let reader = file.reopen().context("cannot spool a body")?;
    Ok((File::from_std(file.into_file()), File::from_std(reader)))
}

impl Lines {
    /// # Errors
    /// 415 for an encoding that cannot be undone; 500 when the file cannot be made.
    pub fn new(
        request: &HttpRequest,
        payload: Payload,
        limits: &Limits,
        spool_dir: &Path,
    ) -> Result<Self, Problem> {
        let chunks = Chunks::new(request, payload, limits)?;
        let (writer, reader) = unnamed_file(spool_dir)?;
        let (sender, spooled) = watch::channel(Spooled::default());
        actix_web::rt::spawn(spool(chunks, writer, sender, limits.import_bytes_max));
        Ok(Self {
            spooled,
            file: reader,
            read_bytes: 0,
            buffer: Vec::new(),
            start: 0,
            number: 0,
            is_overlong: false,
            is_ended: false,
            line_bytes_max: limits.ndjson_line_bytes_max,
        })
    }

    /// The next lines, as many as are there but at most `count`; empty at the end. Blank lines are
    /// counted and left out.
    pub async fn next_lines(&mut self, count: usize) -> Vec<Line> {
        let mut lines = Vec::new();
        while lines.len() < count {
            if let Some(line) = self.buffered_line() {
                lines.extend(line);
            } else if self.is_ended || !lines.is_empty() {
                break;
            } else if let Err(problem) = self.fill().await {
                self.is_ended = true;
                let number = self.number + 1;
                let text = Err(problem);
                lines.push(Line { number, text });
            }
        }
        lines
    }

    /// A line from the buffer: `None` when there is no whole one, `Some(None)` when it is blank.
    fn buffered_line(&mut self) -> Option<Option<Line>> {
        let rest = &self.buffer[self.start..];
        let (end, skip) = match rest.iter().position(|b| *b == b'\n') {
            Some(end) => (end, 1),
            None if self.is_ended && (!rest.is_empty() || self.is_overlong) => (rest.len(), 0),
            None => {
                if rest.len() > self.line_bytes_max {
                    self.is_overlong = true;
                    self.buffer.clear();
                    self.start = 0;
                }
                return None;
            }
        };
        let text = rest[..end].trim_ascii().to_vec();
        self.start += end + skip;
        self.number += 1;
        let is_overlong = std::mem::take(&mut self.is_overlong) || end > self.line_bytes_max;
        if text.is_empty() && !is_overlong {
            return Some(None);
        }
        let text = if is_overlong {
            let max = self.line_bytes_max as u64;
            Err(too_large("ndjson_line_bytes_max", max))
        } else {
            Ok(text)
        };
        let number = self.number;
        Some(Some(Line { number, text }))
    }

    /// Waits for more of the body and adds it to the buffer.
    async fn fill(&mut self) -> Result<(), Problem> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let read_bytes = self.read_bytes;
        let state = self
            .spooled
            .wait_for(|s| s.bytes > read_bytes || s.end.is_some())
            .await
            .map(|s| s.clone())
            .map_err(|_| Error::Malformed("the body broke off".into()))?;
        if state.bytes > self.read_bytes {
            let part = (state.bytes - self.read_bytes).min(SPOOL_READ_BYTES);
            let mut reader = (&mut self.file).take(part);
            let read = reader.read_to_end(&mut self.buffer).await;
            self.read_bytes += read
                .context("cannot read a spooled body")
                .map_err(Error::from)? as u64;
            if self.number == 0 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3);
            }
            return Ok(());
        }
        self.is_ended = true;
        state.end.unwrap_or(Ok(()))
    }
}

const SPOOL_READ_BYTES: u64 = 256 << 10;

/// Moves a body into the file and tells how far it is, until the end or until nobody reads.
async fn spool(
    mut chunks: Chunks<Decompress<Payload>>,
    mut file: File,
    spooled: watch::Sender<Spooled>,
    bytes_max: u64,
) {
    let end = loop {
        let chunk = match chunks.next().await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break Ok(()),
            Err(problem) => break Err(problem),
        };
        let bytes = spooled.borrow().bytes + chunk.len() as u64;
        if bytes > bytes_max {
            break Err(too_large("import_bytes_max", bytes_max));
        }
        let written = async {
            write(&mut file, &chunk).await?;
            // Tokio's file buffers: only after a flush does the reader see the bytes.
            file.flush().await.context("cannot spool a body")?;
            Ok::<_, Error>(())
        };
        if let Err(error) = written.await {
            break Err(error.into());
        }
        if spooled.is_closed() {
            return;
        }
        spooled.send_modify(|s| s.bytes = bytes);
    };
    spooled.send_modify(|s| s.end = Some(end));
}

/// A path segment, decoded.
///
/// # Errors
/// 400 when it is not UTF-8.
pub async fn segment(request: &HttpRequest) -> Result<String, Problem> {
    let segment = actix_web::web::Path::<String>::extract(request)
        .await
        .map_err(|e| Error::Malformed(format!("the path cannot be read: {e}")))?
        .into_inner();
    // What was not UTF-8 has been replaced by now.
    if segment.contains(char::REPLACEMENT_CHARACTER) {
        return Err(Error::Malformed("the path is not UTF-8".into()).into());
    }
    Ok(segment)
}

/// A file as a body.
pub fn read_file(mut file: File) -> impl Stream<Item = std::io::Result<Bytes>> {
    async_stream::try_stream! {
        loop {
            let mut part = Vec::with_capacity(FILE_READ_BYTES);
            if file.read_buf(&mut part).await? == 0 {
                break;
            }
            yield Bytes::from(part);
        }
    }
}

const FILE_READ_BYTES: usize = 64 << 10;
