//! `/imports`: a file is sent, its columns are looked at and corrected, and its deals are brought in.

use actix_web::http::StatusCode;
use actix_web::web::{self, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use anyhow::Context;
use askama::Template;

use super::csv::{self, Cell};
use super::format::{Count, Html, Moment, href};
use super::forms::{Form, check_csrf, see};
use super::job::JobPanel;
use super::layout::{Page, PageError, Place, Tone, Viewer, render, render_with};
use super::mapping_form::{self, CHOICES, ColumnRow, LabelRow};
use crate::app::App;
use crate::error::{Error, FieldError, Result};
use crate::http::body::segment;
use crate::http::imports::Upload;
use crate::http::query::Params;
use crate::ingest::Mapping;
use crate::ingest::guess::{Guess, guess_events_file, look_at};
use crate::ingest::input::{Format, Input};
use crate::jobs::{ImportReport, ImportTask, Task};
use crate::store::{Job, JobState};
use crate::uploads::Waiting;

/// Jobs among which imports are looked for.
const JOBS_SEARCHED: u32 = 100;
const IMPORTS_SHOWN_MAX: usize = 20;

/// The parts of the form, the token first.
const PARTS: [&str; 4] = ["csrf", "file", "mapping", "events"];

#[derive(Template)]
#[template(path = "imports.html")]
struct ImportsPage {
    page: Page,
    imports: Vec<ImportRow>,
}

/// An import that was, or is.
struct ImportRow {
    job: Job,
    report: Option<ImportReport>,
}

impl ImportRow {
    fn of(job: Job) -> Self {
        Self {
            report: report_of(&job),
            job,
        }
    }

    fn state(&self) -> &'static str {
        match self.job.state {
            JobState::Queued => "waiting for its turn",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Failed => "failed",
        }
    }
}

fn report_of(job: &Job) -> Option<ImportReport> {
    serde_json::from_value(job.result.clone()?).ok()
}

#[derive(Template)]
#[template(path = "mapping.html")]
struct MappingPage<'a> {
    page: Page,
    id: &'a str,
    file: &'a Waiting,
    columns: Vec<ColumnRow<'a>>,
    labels: Vec<LabelRow<'a>>,
    mapping: &'a Mapping,
    toml: String,
    errors: Vec<FieldError>,
    /// What was guessed from more than names; nothing any more once it was changed.
    findings: Vec<Html>,
}

impl MappingPage<'_> {
    fn outcome(&self) -> Option<&str> {
        self.mapping.deal.outcome.as_deref()
    }

    fn currency(&self) -> &str {
        let currency = self.mapping.defaults.get("currency");
        currency.map_or("", String::as_str)
    }
}

#[derive(Template)]
#[template(path = "import.html")]
struct ImportPage {
    page: Page,
    id: String,
    job: Option<JobPanel>,
    failure: Option<String>,
    report: Option<ImportReport>,
    mapping_toml: Option<String>,
}

pub async fn list(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let mut params = Params::of(&request)?;
    let format = params.text("format");
    params.finish()?;
    let mut jobs = app.jobs.list(JOBS_SEARCHED).await?;
    jobs.retain(|job| job.kind == "import");
    if format.as_deref() == Some("csv") {
        return Ok(export(jobs)?);
    }
    jobs.truncate(IMPORTS_SHOWN_MAX);
    render(&ImportsPage {
        page: Page::new(&viewer, "Imports", Place::Imports),
        imports: jobs.into_iter().map(ImportRow::of).collect(),
    })
}

/// The imports for a spreadsheet.
fn export(jobs: Vec<Job>) -> Result<HttpResponse> {
    let columns = [
        "id",
        "created_at",
        "file",
        "state",
        "read",
        "stored",
        "rejected",
        "error",
    ];
    let rows = jobs.into_iter().map(ImportRow::of).map(|row| {
        let state = row.state();
        let report = row.report.as_ref();
        let count = |count: fn(&ImportReport) -> u64| report.map(|report| count(report) as f64);
        let cells: Vec<Cell> = vec![
            row.job.id.into(),
            row.job.created_at.into(),
            report.map(|report| report.file.clone()).into(),
            state.into(),
            count(|report| report.read).into(),
            count(|report| report.stored).into(),
            count(|report| report.rejected).into(),
            row.job.error.into(),
        ];
        cells
    });
    csv::answer("imports", &columns, rows)
}

/// Takes a file. What has columns is looked at first; deal documents say themselves what they mean.
pub async fn upload(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let upload = Upload::new(&app.uploads_dir)?;
    let limits = &app.config.limits;
    let parts = upload.parts(&request, payload, limits, &PARTS).await?;
    check_csrf(&viewer, parts.csrf().as_deref())?;
    let task = parts.task().map_err(|problem| {
        let next = "Go back and choose a file: CSV or NDJSON, also gzipped.";
        PageError::from(problem).with_next(next)
    })?;
    let waiting = web::block(move || looked_at(upload, task)).await;
    match waiting.map_err(|e| Error::Internal(e.into()))?? {
        Seen::Columns(waiting) => {
            let id = app.uploads.keep(*waiting);
            Ok(see(&format!("/imports/uploads/{id}")))
        }
        Seen::Documents(task) => begin(&app, *task).await,
    }
}

/// What was sent.
enum Seen {
    Columns(Box<Waiting>),
    Documents(Box<ImportTask>),
}

fn looked_at(upload: Upload, task: ImportTask) -> Result<Seen> {
    let input = Input::open_as(&task.path, &task.name)?;
    if input.format == Format::Ndjson {
        task.check()?;
        return Ok(Seen::Documents(Box::new(upload.hand_over(task))));
    }
    let mut look = look_at(&task.path, &task.name)?;
    let mut mapping = match task.mapping {
        Some(mapping) => {
            look.guess.lines.clear();
            mapping
        }
        None => look.guess.mapping.clone(),
    };
    if let Some(events) = &task.events
        && mapping.events.deal_id.is_none()
    {
        mapping.events = guess_events_file(events, &mut look.guess.lines)?;
    }
    look.guess.mapping = mapping;
    let dir = upload.into_dir().context("a folder that nobody took")?;
    let mut waiting = Waiting::new(dir, task.path, task.name, look);
    waiting.events = task.events;
    Ok(Seen::Columns(Box::new(waiting)))
}

/// Shows what a file's columns are taken for.
pub async fn mapping(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let id = segment(&request).await?;
    let file = waiting(&app, &id)?;
    let mapping = &file.look.guess.mapping;
    let page = Page::new(&viewer, title(&file), Place::Imports);
    let page = mapping_page(page, &id, &file, mapping, Vec::new(), true)?;
    render(&page)
}

fn waiting(app: &App, id: &str) -> Result<std::sync::Arc<Waiting>, PageError> {
    app.uploads.get(id).map_err(|error| {
        let next = "Files wait for an hour, in the process that took them. Send it once more.";
        PageError::from(error).with_next(next)
    })
}

fn title(file: &Waiting) -> String {
    format!("Columns of {}", file.name)
}

fn mapping_page<'a>(
    page: Page,
    id: &'a str,
    file: &'a Waiting,
    mapping: &'a Mapping,
    errors: Vec<FieldError>,
    is_guess: bool,
) -> Result<MappingPage<'a>> {
    Ok(MappingPage {
        page,
        id,
        file,
        columns: mapping_form::columns(&file.look, mapping),
        labels: mapping_form::labels(&file.look, mapping),
        mapping,
        toml: mapping.to_toml()?,
        errors,
        findings: match is_guess {
            true => findings(&file.look.guess),
            false => Vec::new(),
        },
    })
}

/// What a guess says that the list of columns does not show anyway, with what it quotes as code.
fn findings(guess: &Guess) -> Vec<Html> {
    let lines = guess.lines.iter();
    let lines = lines.filter(|line| !line.ends_with(", by its name"));
    let marked = |line: &String| {
        let mut html = Html::default();
        for (index, part) in line.split('`').enumerate() {
            match index % 2 {
                0 => html.text(part),
                _ => html.raw("<code>").text(part).raw("</code>"),
            };
        }
        html
    };
    lines.map(marked).collect()
}

/// Takes the corrected mapping: begins the import, or shows what is wrong with it.
pub async fn correct(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let form = Form::of(&viewer, &request, payload, &app.config.limits).await?;
    let id = segment(&request).await?;
    let file = waiting(&app, &id)?;
    let action = form.text("action").unwrap_or("import");
    if action == "discard" {
        app.uploads.take(&id)?;
        return Ok(see("/imports"));
    }
    let page = Page::new(&viewer, title(&file), Place::Imports);
    let mapping = match (action, of_form(&file, &form)) {
        ("look", Ok((mapping, _))) => {
            return render(&mapping_page(
                page,
                &id,
                &file,
                &mapping,
                Vec::new(),
                false,
            )?);
        }
        (_, Ok((mapping, true))) => {
            let page = page.with_notice(
                Tone::Warning,
                "another column tells the outcome now: look at what its values mean, then import",
            );
            return render(&mapping_page(
                page,
                &id,
                &file,
                &mapping,
                Vec::new(),
                false,
            )?);
        }
        (_, Ok((mapping, false))) => mapping,
        (_, Err(error)) => {
            let shown = &file.look.guess.mapping;
            let errors = errors_of(error)?;
            let page = mapping_page(page, &id, &file, shown, errors, false)?;
            return render_with(StatusCode::UNPROCESSABLE_ENTITY, &page);
        }
    };
    let task = ImportTask {
        mapping: Some(mapping.clone()),
        events: file.events.clone(),
        ..ImportTask::new(file.path.clone(), file.name.clone())
    };
    let checked = web::block(move || task.check().map(|()| task)).await;
    match checked.map_err(|e| Error::Internal(e.into()))? {
        Ok(task) => {
            let upload_dir = app.uploads.take(&id)?.hand_over();
            begin(&app, ImportTask { upload_dir, ..task }).await
        }
        Err(error) => {
            let errors = errors_of(error)?;
            let page = mapping_page(page, &id, &file, &mapping, errors, false)?;
            render_with(StatusCode::UNPROCESSABLE_ENTITY, &page)
        }
    }
}

/// The mapping that was sent, as a file or by the choices; and whether its outcomes should be looked at.
fn of_form(file: &Waiting, form: &Form) -> Result<(Mapping, bool)> {
    if let Some(toml) = form.text("toml") {
        return Ok((mapping_form::of_toml(toml)?, false));
    }
    let filled = mapping_form::filled(&file.look, form)?;
    filled.mapping.check()?;
    Ok((filled.mapping, filled.is_outcome_new))
}

/// What people can mend; anything else is a failure of ours.
fn errors_of(error: Error) -> Result<Vec<FieldError>> {
    match error {
        Error::Invalid(errors) => Ok(errors),
        Error::Malformed(_) | Error::Input { .. } | Error::Unusable(_) | Error::TooLarge { .. } => {
            Ok(vec![FieldError::new("", error.to_string())])
        }
        other => Err(other),
    }
}

/// Puts an import in the queue; the file goes if there is no place.
async fn begin(app: &App, task: ImportTask) -> Result<HttpResponse, PageError> {
    let files = task.clone();
    let job = app.jobs.submit(Task::Import(task)).await;
    let job = job.inspect_err(|_| files.clean_up())?;
    Ok(see(&import_href(&job.id)))
}

/// How far an import is, or what became of it.
pub async fn import(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let id = segment(&request).await?;
    let job = app.jobs.get(&id).await?;
    if job.kind != "import" {
        return Err(Error::NotFound { kind: "import", id }.into());
    }
    let report = report_of(&job);
    let mapping = report.as_ref().and_then(|report| report.mapping.as_ref());
    let mapping_toml = mapping.map(Mapping::to_toml).transpose()?;
    let panel = JobPanel::of(&job);
    render(&ImportPage {
        page: Page::new(&viewer, "Import", Place::Imports),
        id: job.id,
        job: panel,
        failure: job.error,
        mapping_toml,
        report,
    })
}

fn import_href(id: &str) -> String {
    format!("/imports/{}", href::encoded(id))
}
