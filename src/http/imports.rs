//! `/v1/imports`: deals in bulk, as a file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use actix_multipart::{Field, Multipart};
use actix_web::web::{self, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use anyhow::Context;
use futures_util::StreamExt;
use utoipa::ToSchema;

use super::body::{self, segment};
use super::jobs::{JobBody, accepted};
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::App;
use crate::config::Limits;
use crate::error::{Error, FieldError, Result};
use crate::ingest::Mapping;
use crate::ingest::mapping::MAPPING_BYTES_MAX;
use crate::jobs::{ImportTask, Task, rejects_path};

#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form, which is read part by part")]
pub(super) struct ImportForm {
    /// CSV or NDJSON, also gzipped.
    #[schema(format = Binary)]
    file: String,
    /// A mapping file (TOML), for CSV; guessed without it.
    mapping: Option<String>,
    /// The events of the deals (CSV), mapped by the same mapping.
    #[schema(format = Binary)]
    events: Option<String>,
}

/// Import many deals
///
/// A job. The body is the file itself, or a form with the parts `file`, `mapping` and `events`.
/// Without a mapping, the columns of a CSV are understood by looking. Rows that cannot be read are
/// counted and kept, and stop nothing, unless `strict`. The job's result has the counts, the mapping,
/// and the first rejected rows.
#[utoipa::path(post, path = "/v1/imports", operation_id = "importDeals", tag = "imports",
    params(
        ("mapping" = Option<String>, Query, description = "`guess`, as without it"),
        ("strict" = Option<bool>, Query, description = "stop at the first row that cannot be read"),
    ),
    request_body(content(
        (String = "text/csv"), (String = "application/x-ndjson"), (ImportForm = "multipart/form-data"))),
    responses(
        (status = 202, description = "Queued; follow the header `location`", body = JobBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn import(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request)?;
    let is_strict = params
        .parsed("strict", "`true` or `false`")
        .unwrap_or(false);
    if params
        .text("mapping")
        .is_some_and(|mapping| mapping != "guess")
    {
        let reason = "only `guess`; send a mapping as a part of a form (multipart/form-data)";
        params.refuse("mapping", reason);
    }
    params.finish()?;
    let upload = Upload::new(&app.uploads_dir)?;
    let limits = &app.config.limits;
    let mut task = match body::media_type(&request)?.as_deref() {
        Some("multipart/form-data") => {
            let parts = upload.parts(&request, payload, limits, &PARTS).await?;
            parts.task()?
        }
        kind => {
            let name = file_name(kind)?;
            let path = upload.dir.join("file");
            if body::save(&request, payload, limits, &path).await? == 0 {
                return Err(Error::Malformed("the body is empty".into()).into());
            }
            ImportTask::new(path, name)
        }
    };
    task.is_strict = is_strict;
    let task = web::block(move || task.check().map(|()| task))
        .await
        .map_err(|e| Error::Internal(e.into()))??;
    let task = upload.hand_over(task);
    Ok(accepted(app.jobs.submit(Task::Import(task)).await?))
}

/// Read the rows of an import that could not be taken
///
/// A CSV: line, column, reason, and the row as it came.
#[utoipa::path(get, path = "/v1/imports/{id}/rejects", operation_id = "readRejects", tag = "imports",
    params(("id" = String, Path, description = "of the import's job")),
    responses(
        (status = 200, body = String, content_type = "text/csv"),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn rejects(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = segment(&request).await?;
    // The store knows the ids; what it does not know never becomes a path.
    let job = app.jobs.get(&id).await?;
    let path = rejects_path(&app.config.rejects_dir(), &job.id);
    let file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NotFound {
                kind: "file of rejects for import",
                id,
            }
            .into());
        }
        Err(e) => return Err(Error::Internal(e.into()).into()),
    };
    Ok(HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8")
        .streaming(body::read_file(file)))
}

/// The parts that programs may send.
const PARTS: [&str; 3] = ["file", "mapping", "events"];

/// A folder for the files of one request; gone with it, unless a job takes it over.
pub(crate) struct Upload {
    pub dir: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Upload {
    pub fn new(uploads_dir: &Path) -> Result<Self> {
        let dir = tempfile::TempDir::new_in(uploads_dir).context("cannot take an upload")?;
        Ok(Self {
            dir: dir.path().to_owned(),
            temporary: Some(dir),
        })
    }

    /// The folder, which goes when the value goes that is returned.
    pub fn into_dir(self) -> Option<tempfile::TempDir> {
        self.temporary
    }

    /// From here on the job cleans up.
    pub fn hand_over(mut self, task: ImportTask) -> ImportTask {
        let upload_dir = self.temporary.take().map(tempfile::TempDir::keep);
        ImportTask { upload_dir, ..task }
    }

    /// The parts of a form, each to a file. All are read before any is judged, so that the client
    /// has sent everything when it hears what is wrong.
    pub async fn parts(
        &self,
        request: &HttpRequest,
        payload: Payload,
        limits: &Limits,
        known: &[&str],
    ) -> Result<Parts, Problem> {
        let mut form = Multipart::new(request.headers(), payload);
        let mut parts = Parts::default();
        let mut bytes_left = limits.import_bytes_max;
        let pause_max = Duration::from_secs(limits.body_pause_seconds_max);
        loop {
            let field = tokio::time::timeout(pause_max, form.next()).await;
            match field.map_err(|_| Problem::body_timeout())? {
                None => break,
                Some(field) => {
                    let mut field = field.map_err(unreadable)?;
                    let path = parts.place(&field, &self.dir, known);
                    save_part(&mut field, path, &mut bytes_left, limits).await?;
                }
            }
        }
        Ok(parts)
    }
}

/// Which parts a form had.
#[derive(Default)]
pub(crate) struct Parts {
    file: Option<(PathBuf, String)>,
    mapping: Option<PathBuf>,
    events: Option<PathBuf>,
    csrf: Option<PathBuf>,
    errors: Vec<FieldError>,
}

impl Parts {
    /// Where to save a part; `None` for one that is not wanted.
    fn place(&mut self, field: &Field, dir: &Path, known: &[&str]) -> Option<PathBuf> {
        let name = field.name().unwrap_or_default().to_owned();
        let sent = field.content_disposition().and_then(|d| d.get_filename());
        if !known.contains(&name.as_str()) {
            self.errors
                .push(FieldError::new(name, "there is no such part"));
            return None;
        }
        // So browsers say that no file was chosen.
        if sent == Some("") {
            return None;
        }
        let path = dir.join(&name);
        let is_repeated = match name.as_str() {
            "file" => {
                let sent = sent.map(last_segment).filter(|name| !name.is_empty());
                let called = sent.unwrap_or("file").to_owned();
                self.file.replace((path.clone(), called)).is_some()
            }
            "mapping" => self.mapping.replace(path.clone()).is_some(),
            "events" => self.events.replace(path.clone()).is_some(),
            _ => self.csrf.replace(path.clone()).is_some(),
        };
        if is_repeated {
            self.errors
                .push(FieldError::new(name, "is given more than once"));
            return None;
        }
        Some(path)
    }

    /// The token of the page that a form was on.
    pub fn csrf(&self) -> Option<String> {
        std::fs::read_to_string(self.csrf.as_ref()?).ok()
    }

    pub fn task(mut self) -> Result<ImportTask, Problem> {
        if self.file.is_none() {
            self.errors.push(FieldError::new("file", "is required"));
        }
        let (Some((path, name)), []) = (self.file, self.errors.as_slice()) else {
            return Err(Error::Invalid(self.errors).into());
        };
        let mapping = self.mapping.map(|path| read_mapping(&path)).transpose()?;
        Ok(ImportTask {
            mapping,
            events: self.events,
            ..ImportTask::new(path, name)
        })
    }
}

/// A mapping that was sent: it may not name files of ours.
fn read_mapping(path: &Path) -> Result<Mapping> {
    let length = std::fs::metadata(path)
        .context("cannot read an upload")?
        .len();
    if length > MAPPING_BYTES_MAX {
        return Err(Error::TooLarge {
            limit: "mapping_bytes_max",
            max: MAPPING_BYTES_MAX,
        });
    }
    let text = std::fs::read(path).context("cannot read an upload")?;
    let text = String::from_utf8(text).map_err(|_| Error::invalid("mapping", "is not UTF-8"))?;
    let mapping = Mapping::from_toml(&text, "mapping")?;
    mapping.refuse_joins()?;
    Ok(mapping)
}

async fn save_part(
    field: &mut Field,
    path: Option<PathBuf>,
    bytes_left: &mut u64,
    limits: &Limits,
) -> Result<(), Problem> {
    let mut file = match path {
        Some(path) => Some(body::create(&path).await?),
        None => None,
    };
    let pause_max = Duration::from_secs(limits.body_pause_seconds_max);
    loop {
        let chunk = tokio::time::timeout(pause_max, field.next()).await;
        let Some(chunk) = chunk.map_err(|_| Problem::body_timeout())? else {
            break;
        };
        let chunk = chunk.map_err(unreadable)?;
        *bytes_left = bytes_left
            .checked_sub(chunk.len() as u64)
            .ok_or(Error::TooLarge {
                limit: "import_bytes_max",
                max: limits.import_bytes_max,
            })?;
        if let Some(file) = &mut file {
            body::write(file, &chunk).await?;
        }
    }
    match file {
        Some(file) => Ok(body::finish(file).await?),
        None => Ok(()),
    }
}

fn unreadable(error: actix_multipart::MultipartError) -> Problem {
    Error::Malformed(format!("the form cannot be read: {error}")).into()
}

fn last_segment(name: &str) -> &str {
    name.rsplit(['/', '\\']).next().unwrap_or_default()
}

/// What messages call a body that has no name, by its content type; the extension tells the format.
fn file_name(media_type: Option<&str>) -> Result<&'static str, Problem> {
    match media_type {
        None | Some("application/octet-stream" | "application/gzip" | "application/x-gzip") => {
            Ok("upload")
        }
        Some("text/csv" | "application/csv" | "text/plain" | "application/vnd.ms-excel") => {
            Ok("upload.csv")
        }
        Some(kind) if body::is_ndjson(kind) => Ok("upload.ndjson"),
        Some(kind) => Err(Problem::unsupported_media_type(format!(
            "send text/csv, application/x-ndjson or multipart/form-data, not `{kind}`"
        ))),
    }
}
