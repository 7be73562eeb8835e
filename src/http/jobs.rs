//! `/v1/jobs`: how far long work is, and how it ended.

use std::convert::Infallible;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;
use utoipa::ToSchema;

use super::body::segment;
use super::problem::{Problem, ProblemDocument};
use super::query::Params;
use crate::app::App;
use crate::error::Result;
use crate::store::{Job, JobState};

const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 200;

/// A silent connection is cut by proxies; a comment now and then keeps it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Least time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Long work: what was asked, how far it is, how it ended.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobBody {
    pub id: String,
    /// `import`, `train`, `activate`, `rollback` or `refresh`.
    kind: String,
    /// `queued`, `running`, `done` or `failed`.
    #[schema(value_type = String, example = "running")]
    state: JobState,
    progress: ProgressBody,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// Why it failed.
    error: Option<String>,
    /// Depends on the kind; null until it is done.
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Progress)]
pub struct ProgressBody {
    phase: Option<String>,
    done: u64,
    /// 0 while unknown.
    total: u64,
}

impl From<Job> for JobBody {
    fn from(job: Job) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            state: job.state,
            progress: ProgressBody {
                phase: job.phase,
                done: job.done,
                total: job.total,
            },
            created_at: job.created_at.to_string(),
            started_at: job.started_at.map(|at| at.to_string()),
            finished_at: job.finished_at.map(|at| at.to_string()),
            error: job.error,
            result: job.result,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(super) struct JobList {
    jobs: Vec<JobBody>,
}

/// 202 with the job and where to follow it.
pub fn accepted(job: Job) -> HttpResponse {
    HttpResponse::Accepted()
        .insert_header(("location", format!("/v1/jobs/{}", job.id)))
        .json(JobBody::from(job))
}

/// List the newest jobs
#[utoipa::path(get, path = "/v1/jobs", operation_id = "listJobs", tag = "jobs",
    params(("limit" = Option<u32>, Query, description = "1 to 200")),
    responses(
        (status = 200, body = JobList),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn list(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request)?;
    let limit = params
        .parsed("limit", "a whole number")
        .unwrap_or(LIST_DEFAULT);
    if !(1..=LIST_MAX).contains(&limit) {
        params.refuse("limit", format!("must be 1 to {LIST_MAX}, but is {limit}"));
    }
    params.finish()?;
    let jobs = app.jobs.list(limit).await?;
    let jobs = jobs.into_iter().map(JobBody::from).collect();
    Ok(HttpResponse::Ok().json(JobList { jobs }))
}

/// Read a job
#[utoipa::path(get, path = "/v1/jobs/{id}", operation_id = "readJob", tag = "jobs",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = JobBody),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn read(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = segment(&request).await?;
    let job = app.jobs.get(&id).await?;
    Ok(HttpResponse::Ok().json(JobBody::from(job)))
}

/// Follow a job
///
/// Server-sent events: `progress` whenever it advances, at last `done` or `failed`, each with the
/// job. The stream ends with the job.
#[utoipa::path(get, path = "/v1/jobs/{id}/events", operation_id = "followJob", tag = "jobs",
    params(("id" = String, Path)),
    responses(
        (status = 200, body = String, content_type = "text/event-stream"),
        (status = "4XX", body = ProblemDocument, content_type = "application/problem+json"),
    ))]
pub async fn events(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let id = segment(&request).await?;
    let live = app.jobs.follow(&id).await?;
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-cache"));
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    Ok(response.streaming(follow(live, app.stopping())))
}

fn follow(
    mut live: watch::Receiver<Job>,
    mut stopping: watch::Receiver<bool>,
) -> impl futures_util::Stream<Item = Result<Bytes, Infallible>> {
    async_stream::stream! {
        let mut job = live.borrow_and_update().clone();
        loop {
            yield Ok(event(job.clone()));
            if job.is_over() {
                break;
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
            loop {
                tokio::select! {
                    changed = live.changed() => {
                        // Without a sender the job is over, and its last state is still there.
                        let is_abandoned = changed.is_err() && *live.borrow() == job;
                        if is_abandoned {
                            return;
                        }
                        break;
                    }
                    _ = stopping.wait_for(|is_stopping| *is_stopping) => return,
                    () = tokio::time::sleep(KEEP_ALIVE) => {
                        yield Ok(Bytes::from_static(b": still here\n\n"));
                    }
                }
            }
            job = live.borrow_and_update().clone();
        }
    }
}

fn event(job: Job) -> Bytes {
    let name = match job.state {
        JobState::Queued | JobState::Running => "progress",
        JobState::Done => "done",
        JobState::Failed => "failed",
    };
    let job = serde_json::to_string(&JobBody::from(job)).expect("texts and numbers only");
    Bytes::from(format!("event: {name}\ndata: {job}\n\n"))
}
