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
use crate::error::{Error, Result};
use crate::jobs::{Task, TrainRequest};
use crate::model::{Dropped, Model, Training};
use crate::store::ModelSummary;

#[derive(Serialize, ToSchema)]
pub(super) struct ModelList {
    models: Vec<ModelBody>,
}

/// A registered model.
#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
pub(super) struct ModelBody {
    version: String,
    /// `trained`, `shipped` or `imported`.
    origin: String,
    #[schema(format = DateTime)]
    created_at: String,
    /// Whether scores come from it.
    is_active: bool,
}

impl From<ModelSummary> for ModelBody {
    fn from(model: ModelSummary) -> Self {
        Self {
            version: model.version,
            origin: model.origin,
            created_at: model.created_at.to_string(),
            is_active: model.is_active,
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
    /// Columns that were left out, and why.
    #[schema(value_type = Vec<Object>)]
    dropped: Vec<Dropped>,
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
/// A job. It learns from the closed deals in the store and registers the model as a candidate; only
/// if no model is active is it activated at once.
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
#[utoipa::path(get, path = "/v1/models", operation_id = "listModels", tag = "models",
    responses((status = 200, body = ModelList)))]
pub async fn list(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    Params::of(&request)?.finish()?;
    let models = app.book.store().models().await?;
    let models = models.into_iter().map(ModelBody::from).collect();
    Ok(HttpResponse::Ok().json(ModelList { models }))
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
    let models = app.book.store().models().await?;
    let summary = models.into_iter().find(|m| m.version == model.version);
    let summary = summary.ok_or_else(|| Error::NotFound {
        kind: "model",
        id: model.version,
    })?;
    Ok(HttpResponse::Ok().json(ModelDetail {
        model: summary.into(),
        trained_at: model.trained_at.to_string(),
        training: model.training,
        dropped: model.dropped,
    }))
}

/// Read how good a model is on deals that it has not seen
#[utoipa::path(get, path = "/v1/models/{version}/report", operation_id = "readModelReport", tag = "models",
    params(("version" = String, Path, description = "or `active`")),
    responses(
        (status = 200, body = Object),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn report(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let model = model(&app, &request).await?;
    Ok(HttpResponse::Ok().json(model.report))
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

/// The version in the path, where `active` stands for the champion's.
async fn version(app: &App, request: &HttpRequest) -> Result<String, Problem> {
    match segment(request).await?.as_str() {
        "active" => Ok(app.scorer()?.model().version.clone()),
        version => Ok(version.to_owned()),
    }
}

async fn model(app: &App, request: &HttpRequest) -> Result<Model, Problem> {
    let version = version(app, request).await?;
    Ok(app.book.store().model(&version).await?)
}
