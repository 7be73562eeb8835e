//! `/models`: which models there are, which one scores, and what to do about it.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;

use super::csv;
use super::format::{Count, Day, Moment, href};
use super::forms::{Form, see};
use super::job::JobPanel;
use super::layout::{Page, PageError, Place, Tone, Viewer, render};
use crate::app::App;
use crate::book::Shadow;
use crate::error::{Error, Result};
use crate::http::body::segment;
use crate::http::query::Params;
use crate::jobs::{Task, TrainRequest, recalibrate as shift};
use crate::model::Model;
use crate::progress::silent;
use crate::store::{Activation, ActivationCause, Job, JobState, ModelSummary, Store, Which};

/// Models that the page lists; the API has all.
const MODELS_SHOWN_MAX: usize = 50;
const ACTIVATIONS_SHOWN_MAX: u32 = 20;
const ACTIVATIONS_EXPORTED_MAX: u32 = 10_000;
/// Jobs among which one under way is looked for: those that wait, and a few more.
const JOBS_SEARCHED: u32 = 50;

#[derive(Template)]
#[template(path = "models.html")]
struct ModelsPage {
    page: Page,
    job: Option<JobPanel>,
    champion: Option<Standing>,
    challenger: Option<Standing>,
    models: Vec<ModelSummary>,
    unshown: usize,
    activations: Vec<Activation>,
    can_roll_back: bool,
    /// Deals that a training could learn from.
    closed_deals: u64,
}

/// A model in a role, with what is known of how good it is.
struct Standing {
    summary: ModelSummary,
    model: Model,
    shadow: Option<Shadow>,
}

impl Standing {
    async fn of(app: &App, summary: Option<&ModelSummary>) -> Result<Option<Self>> {
        let Some(summary) = summary else {
            return Ok(None);
        };
        Ok(Some(Self {
            model: app.book.store().model(&summary.version).await?,
            shadow: app.book.shadow(&summary.version).await?,
            summary: summary.clone(),
        }))
    }

    fn verdict(&self) -> Option<&str> {
        let held_out = self.model.report.held_out.as_ref()?;
        Some(&held_out.verdict)
    }

    fn has_skill(&self) -> bool {
        let held_out = self.model.report.held_out.as_ref();
        held_out.is_some_and(|held_out| held_out.has_skill)
    }
}

/// The address of a model's report.
pub fn report_href(version: &str) -> String {
    format!("/models/{}", href::encoded(version))
}

/// Where a model came from, in words.
pub fn origin_in_words(origin: &str) -> &str {
    match origin {
        "trained" => "trained here",
        "recalibrated" => "recalibrated here",
        "shipped" => "came with dealrank",
        "imported" => "trained on a file",
        other => other,
    }
}

pub async fn list(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let mut params = Params::of(&request)?;
    let asked = params.text("job");
    let (format, table) = (params.text("format"), params.text("table"));
    params.finish()?;
    let store = app.book.store();
    if format.as_deref() == Some("csv") {
        return Ok(export(store, table.as_deref()).await?);
    }
    let mut page = Page::new(&viewer, "Models", Place::Models);
    let job = match asked {
        Some(id) => Some(app.jobs.get(&id).await?),
        None => under_way(&app).await?,
    };
    if let Some((tone, text)) = job.as_ref().and_then(outcome) {
        page = page.with_notice(tone, text);
    }
    let mut models = store.models().await?;
    let active = models.iter().find(|model| model.is_active);
    let waiting = models.iter().find(|model| model.is_challenger);
    let (champion, challenger) = (
        Standing::of(&app, active).await?,
        Standing::of(&app, waiting).await?,
    );
    let unshown = models.len().saturating_sub(MODELS_SHOWN_MAX);
    models.truncate(MODELS_SHOWN_MAX);
    render(&ModelsPage {
        page,
        job: job.as_ref().and_then(JobPanel::of),
        champion,
        challenger,
        models,
        unshown,
        activations: store.activations(ACTIVATIONS_SHOWN_MAX).await?,
        can_roll_back: store.previous_champion().await.is_ok(),
        closed_deals: app.book.store().count_deals(Which::Closed).await?,
    })
}

/// The tables of the page for a spreadsheet.
async fn export(store: &Store, table: Option<&str>) -> Result<HttpResponse> {
    match table {
        None => csv::answer(
            "models",
            &["version", "origin", "created_at", "role", "verdict"],
            store.models().await?.into_iter().map(|model| {
                let role = match (model.is_active, model.is_challenger) {
                    (true, _) => "champion",
                    (_, true) => "challenger",
                    _ => "",
                };
                vec![
                    model.version.into(),
                    model.origin.into(),
                    model.created_at.into(),
                    role.into(),
                    model.challenge.map(|challenge| challenge.verdict).into(),
                ]
            }),
        ),
        Some("activations") => csv::answer(
            "activations",
            &["at", "version", "cause"],
            store
                .activations(ACTIVATIONS_EXPORTED_MAX)
                .await?
                .into_iter()
                .map(|activation| {
                    vec![
                        activation.at.into(),
                        activation.model_version.into(),
                        activation.cause.as_str().into(),
                    ]
                }),
        ),
        Some(_) => Err(Error::invalid("table", "activations, or none")),
    }
}

/// A job about models that is queued or running.
async fn under_way(app: &App) -> Result<Option<Job>> {
    let mut jobs = app.jobs.list(JOBS_SEARCHED).await?;
    jobs.retain(|job| ["train", "activate", "rollback"].contains(&&*job.kind) && !job.is_over());
    // The newest come first; the one that runs is the oldest.
    Ok(jobs.pop())
}

/// How a job ended.
fn outcome(job: &Job) -> Option<(Tone, String)> {
    let failed = |what: &str| {
        let reason = job.error.as_deref().unwrap_or("it did not end");
        (Tone::Bad, format!("{what} failed: {reason}"))
    };
    let what = match &*job.kind {
        "train" => "the training",
        "activate" => "the activation",
        "rollback" => "the way back",
        _ => "the job",
    };
    match job.state {
        JobState::Queued | JobState::Running => None,
        JobState::Failed => Some(failed(what)),
        JobState::Done => {
            let result = job.result.as_ref()?;
            let version = result["model_version"].as_str()?;
            Some(match (&*job.kind, result["is_active"].as_bool()) {
                ("train", Some(true)) => {
                    let why = result["note"].as_str().unwrap_or("activated");
                    (Tone::Good, format!("model {version} was trained and {why}"))
                }
                ("train", _) => (
                    Tone::Good,
                    format!("model {version} was trained; it waits below to be activated"),
                ),
                _ => {
                    let scored = result["scored"].as_u64().unwrap_or_default();
                    let text =
                        format!("{version} is the champion; {scored} open deals were scored");
                    (Tone::Good, text)
                }
            })
        }
    }
}

pub async fn train(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    sent_by_manager(&app, &viewer, &request, payload).await?;
    submit(&app, Task::Train(TrainRequest::default())).await
}

pub async fn roll_back(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    sent_by_manager(&app, &viewer, &request, payload).await?;
    app.book.store().previous_champion().await?;
    submit(&app, Task::RollBack).await
}

pub async fn activate(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    sent_by_manager(&app, &viewer, &request, payload).await?;
    let version = segment(&request).await?;
    let version = app.book.store().model(&version).await?.version;
    submit(&app, Task::Activate { version }).await
}

pub async fn recalibrate(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    sent_by_manager(&app, &viewer, &request, payload).await?;
    let version = segment(&request).await?;
    let shifted = shift(&app.book, &version, false, silent).await?;
    Ok(see(&report_href(&shifted.model_version)))
}

async fn sent_by_manager(
    app: &App,
    viewer: &Viewer,
    request: &HttpRequest,
    payload: Payload,
) -> Result<Form, PageError> {
    viewer.require_manager()?;
    Form::of(viewer, request, payload, &app.config.limits).await
}

async fn submit(app: &App, task: Task) -> Result<HttpResponse, PageError> {
    let job = app.jobs.submit(task).await?;
    Ok(see(&format!("/models?job={}", job.id)))
}

/// Why a model became the champion.
fn cause_in_words(cause: &ActivationCause) -> &'static str {
    match cause {
        ActivationCause::First => "the first model",
        ActivationCause::Challenge => "better than the champion on newer deals",
        ActivationCause::Command => "somebody activated it",
        ActivationCause::Rollback => "somebody rolled back to it",
    }
}

/// The days that a model learned from.
pub fn period(model: &Model) -> Option<(Day, Day)> {
    Some((Day(model.training.from?), Day(model.training.to?)))
}
