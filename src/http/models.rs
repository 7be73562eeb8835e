//! `/v1/models`: training, the registry, and which model is the champion.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::{self, segment};
use super::jobs::{JobBody, accepted};
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::App;
use crate::book::Shadow;
use crate::error::{Error, Result};
use crate::jobs::{RecalibratedModel, Task, TrainRequest, recalibrate as shift};
use crate::model::{Dropped, Finding, Model, Recalibrated, Training};
use crate::progress::silent;
use crate::report::ModelReport;
use crate::store::{Activation, ModelSummary};
use crate::training::challenge::Challenge;

/// Activations that a list of models tells of.
const ACTIVATIONS_MAX: u32 = 100;

#[derive(Serialize, ToSchema)]
pub(super) struct ModelList {
    models: Vec<ModelBody>,
    /// Which model became the champion when, newest first.
    activations: Vec<ActivationBody>,
}

/// A model became the champion.
#[derive(Serialize, ToSchema)]
#[schema(as = Activation)]
pub(super) struct ActivationBody {
    model_version: String,
    #[schema(format = DateTime)]
    at: String,
    /// `first`, `challenge` (it beat the champion on newer deals), `command` or `rollback`.
    #[schema(example = "challenge")]
    cause: &'static str,
}

impl From<Activation> for ActivationBody {
    fn from(activation: Activation) -> Self {
        Self {
            model_version: activation.model_version,
            at: activation.at.to_string(),
            cause: activation.cause.as_str(),
        }
    }
}

/// A registered model.
#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
pub(super) struct ModelBody {
    version: String,
    /// `trained`, `recalibrated`, `shipped` or `imported`.
    origin: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// Whether scores come from it.
    is_active: bool,
    /// Whether it waits to take the champion's place, and scores open deals unseen meanwhile.
    is_challenger: bool,
    /// How it did against the champion of its day; null where there was none.
    challenge: Option<Challenge>,
}

impl From<ModelSummary> for ModelBody {
    fn from(model: ModelSummary) -> Self {
        Self {
            version: model.version,
            origin: model.origin,
            created_at: model.created_at.to_string(),
            is_active: model.is_active,
            is_challenger: model.is_challenger,
            challenge: model.challenge,
        }
    }
}

/// A model with what it was trained on.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelDetail {
    #[serde(flatten)]
    model: ModelBody,
    #[schema(format = DateTime)]
    trained_at: String,
    /// Deals, rows, period, base rate, penalty.
    #[schema(value_type = Object)]
    training: Training,
    /// From which model it was made, when, and by what shift; null for a model as it was trained.
    #[schema(value_type = Option<Object>)]
    recalibrated: Option<Recalibrated>,
    /// Columns that were left out, and why.
    #[schema(value_type = Vec<Object>)]
    dropped: Vec<Dropped>,
    /// Columns that seem to know how deals ended, `left_out` or `suspect`, with the evidence.
    #[schema(value_type = Vec<Object>)]
    findings: Vec<Finding>,
}

/// The report that is in the model, and what was found out since.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelReport)]
pub(super) struct ReportBody<'a> {
    #[serde(flatten)]
    #[schema(value_type = Object)]
    report: ModelReport<'a>,
    /// How it did against the champion of its day; null where there was none.
    challenge: Option<Challenge>,
    /// Null unless it waits to take the champion's place.
    shadow: Option<Shadow>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Json,
    Sql,
    Onnx,
}

/// Train a model
///
/// A job. It learns from the closed deals in the store. The model becomes the champion at once if there
/// is none, or if it beat the present one on deals newer than both had seen: the 95% interval of the
/// difference in log loss lies above zero, and its best fifth by expected value holds more of the won
/// value. Else it waits, and scores open deals unseen beside the champion.
#[utoipa::path(post, path = "/v1/models", operation_id = "trainModel", tag = "models",
    request_body(content = TrainRequest),
    responses(
        (status = 202, description = "Queued; follow the header `location`", body = JobBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn train(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::json_or_nothing(&request, payload, &app.config.limits).await?;
    let request: TrainRequest = body.map(body::typed).transpose()?.unwrap_or_default();
    Ok(accepted(app.jobs.submit(Task::Train(request)).await?))
}

/// List the models, newest first
///
/// With how each did against the champion of its day, and which one was the champion when.
#[utoipa::path(get, path = "/v1/models", operation_id = "listModels", tag = "models",
    responses((status = 200, body = ModelList)))]
pub async fn list(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Params::of(&request)?.finish()?;
    let store = app.book.store();
    let models = store.models().await?;
    let activations = store.activations(ACTIVATIONS_MAX).await?;
    Ok(HttpResponse::Ok().json(ModelList {
        models: models.into_iter().map(ModelBody::from).collect(),
        activations: activations.into_iter().map(ActivationBody::from).collect(),
    }))
}

/// Read what is known of a model
#[utoipa::path(get, path = "/v1/models/{version}", operation_id = "readModel", tag = "models",
    params(("version" = String, Path, description = "or `active`")),
    responses(
        (status = 200, body = ModelDetail),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let model = model(&app, &request).await?;
    let summary = summary(&app, &model.version).await?;
    Ok(HttpResponse::Ok().json(ModelDetail {
        model: summary.into(),
        trained_at: model.trained_at.to_string(),
        training: model.training,
        recalibrated: model.recalibrated,
        dropped: model.dropped,
        findings: model.findings,
    }))
}

/// Read how good a model is on deals that it has not seen
///
/// Measures against the base rate, reliability in deals and in money, the won value that a ranking by
/// expected value captures against other orders, drift, fairness, and whether a recalibration would have
/// been offered (all under `held_out`, which is null when there were too few deals to hold any out), the
/// coefficients with their standard errors,
/// and the columns that were left out.
///
/// With how it did against the champion of its day (`challenge`), and, while it waits, what became of
/// the open deals that it scored beside the champion (`shadow`).
#[utoipa::path(get, path = "/v1/models/{version}/report", operation_id = "readModelReport", tag = "models",
    params(("version" = String, Path, description = "or `active`")),
    responses(
        (status = 200, body = ReportBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn report(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let model = model(&app, &request).await?;
    let shadow = app.book.shadow(&model.version).await?;
    let challenge = summary(&app, &model.version).await?.challenge;
    Ok(HttpResponse::Ok().json(ReportBody {
        report: ModelReport::of(&model),
        challenge,
        shadow,
    }))
}

/// Export a model
///
/// As JSON: the file that `dealrank score --model` reads.
#[utoipa::path(get, path = "/v1/models/{version}/export", operation_id = "exportModel", tag = "models",
    params(
        ("version" = String, Path, description = "or `active`"),
        ("format" = Option<String>, Query, description = "`json`"),
    ),
    responses(
        (status = 200, body = Object),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn export(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request)?;
    let format = params.one_of("format").unwrap_or(Format::Json);
    params.finish()?;
    let model = model(&app, &request).await?;
    match format {
        Format::Json => {
            let name = format!("attachment; filename=\"{}.json\"", model.version);
            Ok(HttpResponse::Ok()
                .content_type("application/json")
                .insert_header(("content-disposition", name))
                .body(model.to_json()))
        }
        Format::Sql | Format::Onnx => Err(Problem::unsupported_format(
            "this version of dealrank exports models as `json` only",
        )),
    }
}

/// Make a model the champion
///
/// A job: scores every open deal with it, then swaps all rankings in one step.
#[utoipa::path(post, path = "/v1/models/{version}/activate", operation_id = "activateModel", tag = "models",
    params(("version" = String, Path)),
    responses(
        (status = 202, description = "Queued; follow the header `location`", body = JobBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn activate(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let version = model(&app, &request).await?.version;
    Ok(accepted(app.jobs.submit(Task::Activate { version }).await?))
}

/// Shift a model to the outcomes since it was trained
///
/// Where more or fewer deals are won than it expects, all log-odds are shifted by one number; the order
/// of deals stays. Found on the deals in the store that closed since, as far as they are old enough, and
/// offered only if it exceeds chance and helps the newer half of them. The result is a model of its own
/// that waits to be activated.
#[utoipa::path(post, path = "/v1/models/{version}/recalibrate", operation_id = "recalibrateModel", tag = "models",
    params(
        ("version" = String, Path, description = "or `active`"),
        ("force" = Option<bool>, Query, description = "`true` applies a shift that is not offered"),
    ),
    responses(
        (status = 201, description = "Registered; the header `location` leads to it", body = RecalibratedModel),
        (status = 409, description = "`not_offered`: within chance, of no help, or too few deals to tell",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn recalibrate(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request)?;
    let force = params.parsed("force", "true or false").unwrap_or(false);
    params.finish()?;
    let version = version(&app, &request).await?;
    let shifted = shift(&app.book, &version, force, silent).await?;
    Ok(HttpResponse::Created()
        .insert_header(("location", format!("/v1/models/{}", shifted.model_version)))
        .json(shifted))
}

/// Go back to the champion before the present one
///
/// A job, as an activation. A second time leads one further back.
#[utoipa::path(post, path = "/v1/models/rollback", operation_id = "rollBackModel", tag = "models",
    responses(
        (status = 202, description = "Queued; follow the header `location`", body = JobBody),
        (status = 409, description = "`no_previous_model`: there is nothing to go back to",
            body = ProblemDocument, content_type = "application/problem+json"),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn roll_back(app: Data<App>) -> Result<HttpResponse, Problem> {
    app.book.store().previous_champion().await?;
    Ok(accepted(app.jobs.submit(Task::RollBack).await?))
}

async fn summary(app: &App, version: &str) -> Result<ModelSummary, Problem> {
    let models = app.book.store().models().await?;
    let summary = models.into_iter().find(|model| model.version == version);
    let not_found = || Error::NotFound {
        kind: "model",
        id: version.to_owned(),
    };
    Ok(summary.ok_or_else(not_found)?)
}

/// The version in the path, where `active` stands for the champion's.
async fn version(app: &App, request: &HttpRequest) -> Result<String, Problem> {
    match segment(request).await?.as_str() {
        "active" => Ok(app.scorer().await?.model().version.clone()),
        version => Ok(version.to_owned()),
    }
}

async fn model(app: &App, request: &HttpRequest) -> Result<Model, Problem> {
    let version = version(app, request).await?;
    Ok(app.book.store().model(&version).await?)
}
