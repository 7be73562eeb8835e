//! `/healthz`, `/readyz`, `/metrics`: for those who operate the service.

use actix_web::HttpResponse;
use actix_web::web::Data;
use serde::Serialize;
use utoipa::ToSchema;

use crate::app::App;
use crate::ranking::AcceleratorHealth;

#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    #[schema(example = "ok")]
    status: &'static str,
    version: &'static str,
}

/// What the service depends on, each by name.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    /// `ready`; `degraded`: answers are right but slower, or wait for a model; `unready`.
    status: &'static str,
    /// `up` or `down`.
    store: &'static str,
    /// `disabled`, `up`, `healing` or `down`; without it the store answers.
    #[schema(value_type = String, example = "disabled")]
    redis: AcceleratorHealth,
    /// `single` or `cluster`; null without Redis.
    redis_mode: Option<&'static str>,
    node: NodeReadiness,
    model: ModelReadiness,
    /// When this process last built the rankings from the store; null where it uses those of another.
    #[schema(format = DateTime)]
    ranking_rebuilt_at: Option<String>,
}

/// This process among those on the same store.
#[derive(Serialize, ToSchema)]
pub(super) struct NodeReadiness {
    id: String,
    /// `leader` does what is done now and then, for all; `follower` would take over within seconds.
    role: &'static str,
}

#[derive(Serialize, ToSchema)]
pub(super) struct ModelReadiness {
    /// `active`, or `none`: then requests for scores get 503 `no_model`.
    status: &'static str,
    version: Option<String>,
}

/// Whether the process runs
#[utoipa::path(get, path = "/healthz", operation_id = "readHealth", tag = "operations",
    responses((status = 200, body = Health)))]
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Whether requests are answered correctly
///
/// 503 only when they cannot be: without Redis answers are slower, never different.
#[utoipa::path(get, path = "/readyz", operation_id = "readReadiness", tag = "operations",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub async fn ready(app: Data<App>) -> HttpResponse {
    let health = app.book.health().await;
    let scorer = app.book.scorer().await.ok().flatten();
    let version = scorer.map(|scorer| scorer.model().version.clone());
    let is_whole = version.is_some()
        && matches!(
            health.redis,
            AcceleratorHealth::Up | AcceleratorHealth::Disabled
        );
    let (mut response, status) = match (health.is_store_up, is_whole) {
        (false, _) => (HttpResponse::ServiceUnavailable(), "unready"),
        (true, false) => (HttpResponse::Ok(), "degraded"),
        (true, true) => (HttpResponse::Ok(), "ready"),
    };
    response.json(Readiness {
        status,
        store: if health.is_store_up { "up" } else { "down" },
        redis: health.redis,
        redis_mode: health
            .is_redis_cluster
            .map(|is_cluster| if is_cluster { "cluster" } else { "single" }),
        node: NodeReadiness {
            id: app.jobs.node().to_owned(),
            role: if app.jobs.is_leader() {
                "leader"
            } else {
                "follower"
            },
        },
        model: ModelReadiness {
            status: if version.is_some() { "active" } else { "none" },
            version,
        },
        ranking_rebuilt_at: health.ranking_rebuilt_at.map(|at| at.to_string()),
    })
}

/// Metrics in the text format of Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "readMetrics", tag = "operations",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub async fn metrics(app: Data<App>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(app.metrics.render())
}
