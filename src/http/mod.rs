//! The service over HTTP: one file per resource, each with its routes' handlers and wire types.
//!
//! - `scores`, `flat_scores`, `deals`, `rankings`, `models`, `imports`, `jobs`, `subscriptions`, `insights`,
//!   `pipeline`: `/v1`.
//! - `webhooks`, `deadletters`: what CRMs send.
//! - `health`: `/healthz`, `/readyz`, `/metrics`. `openapi`: the description.
//! - [`crate::pages`]: what people look at.
//! - `gate` says who gets in.
//! - `body` and `query` read requests, `problem` is the one form of failure, `observe` wraps
//!   every request.

pub(crate) mod body;
mod deadletters;
mod deals;
mod flat_scores;
pub(crate) mod gate;
mod health;
pub(crate) mod imports;
pub(crate) mod insights;
mod jobs;
mod models;
mod observe;
pub mod openapi;
pub(crate) mod pipeline;
pub mod problem;
pub(crate) mod query;
pub(crate) mod rankings;
mod scores;
mod subscriptions;
mod webhooks;
mod what_if;

use std::net::TcpListener;
use std::time::Duration;

use actix_web::dev::HttpServiceFactory;
use actix_web::http::Method;
use actix_web::http::header::ACCEPT;
use actix_web::middleware::from_fn;
use actix_web::web::{Data, ServiceConfig};
use actix_web::{
    HttpRequest, HttpResponse, HttpServer, Resource, ResponseError, Route, guard, web,
};
use anyhow::Context;
use tracing_actix_web::TracingLogger;

use crate::app::App;
use crate::error::Result;
use crate::pages;
use crate::pages::board::Boards;
use crate::pages::layout::PageError;
use problem::Problem;

/// Serves until `shutdown` is ready and the requests then under way are answered.
pub async fn run(
    listener: TcpListener,
    app: App,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    let app = Data::new(app);
    let boards = Data::new(Boards::default());
    tokio::spawn(Boards::clone(&boards).keep_warm(app.clone()));
    let limits = app.config.limits.clone();
    let workers = app.config.http_workers;
    let jobs = app.jobs.clone();
    let stopped = app.clone();
    let shutdown = async move {
        shutdown.await;
        stopped.stop();
    };
    let factory = move || {
        actix_web::App::new()
            .app_data(app.clone())
            .app_data(boards.clone())
            .configure(routes)
            .wrap(from_fn(gate::gate))
            .wrap(from_fn(observe::observe))
            .wrap(TracingLogger::<observe::RequestSpan>::new())
    };
    let mut server = HttpServer::new(factory)
        .client_request_timeout(Duration::from_secs(limits.request_head_seconds_max))
        .shutdown_timeout(limits.shutdown_seconds_max)
        .shutdown_signal(shutdown);
    if workers > 0 {
        server = server.workers(workers);
    }
    let server = server.listen(listener).context("cannot listen")?;
    server.run().await.context("the server broke off")?;
    jobs.resign().await;
    Ok(())
}

/// Everything that can be asked of the service.
fn routes(config: &mut ServiceConfig) {
    use Method as M;
    config
        .service(resource("/healthz", [(M::GET, web::to(health::live))]))
        .service(resource("/readyz", [(M::GET, web::to(health::ready))]))
        .service(resource("/metrics", [(M::GET, web::to(health::metrics))]))
        .service(resource(
            "/openapi.json",
            [(M::GET, web::to(openapi::current))],
        ))
        .service(resource(
            "/openapi-3.0.json",
            [(M::GET, web::to(openapi::older))],
        ))
        .service(web::redirect("/docs", "/docs/"))
        .service(openapi::docs())
        .service(resource("/v1/scores", [(M::POST, web::to(scores::score))]))
        .service(resource(
            "/v1/scores/batch",
            [(M::POST, web::to(scores::score_batch))],
        ))
        .service(resource(
            "/v1/scores/flat",
            [(M::POST, web::to(flat_scores::score))],
        ))
        .service(resource(
            "/v1/deals/{id}",
            [
                (M::GET, web::to(deals::read)),
                (M::PUT, web::to(deals::put)),
                (M::PATCH, web::to(deals::patch)),
                (M::DELETE, web::to(deals::erase)),
            ],
        ))
        .service(resource(
            "/v1/deals/{id}/scores",
            [(M::GET, web::to(deals::scores))],
        ))
        .service(resource(
            "/v1/deals/{id}/events",
            [(M::POST, web::to(deals::append))],
        ))
        .service(resource(
            "/v1/deals/{id}/what-if",
            [(M::POST, web::to(what_if::ask))],
        ))
        .service(resource(
            "/v1/imports",
            [(M::POST, web::to(imports::import))],
        ))
        .service(resource(
            "/v1/imports/{id}/rejects",
            [(M::GET, web::to(imports::rejects))],
        ))
        .service(resource(
            "/v1/rankings",
            [(M::GET, web::to(rankings::ranking))],
        ))
        .service(resource(
            "/v1/queues/{owner}",
            [(M::GET, web::to(rankings::queue))],
        ))
        .service(resource(
            "/v1/models",
            [
                (M::GET, web::to(models::list)),
                (M::POST, web::to(models::train)),
            ],
        ))
        .service(resource(
            "/v1/models/rollback",
            [(M::POST, web::to(models::roll_back))],
        ))
        .service(resource(
            "/v1/models/{version}",
            [(M::GET, web::to(models::read))],
        ))
        .service(resource(
            "/v1/models/{version}/report",
            [(M::GET, web::to(models::report))],
        ))
        .service(resource(
            "/v1/models/{version}/export",
            [(M::GET, web::to(models::export))],
        ))
        .service(resource(
            "/v1/models/{version}/activate",
            [(M::POST, web::to(models::activate))],
        ))
        .service(resource(
            "/v1/models/{version}/recalibrate",
            [(M::POST, web::to(models::recalibrate))],
        ))
        .service(resource(
            "/v1/webhooks/{source}",
            [(M::POST, web::to(webhooks::receive))],
        ))
        .service(resource(
            "/v1/webhooks/{source}/{secret}",
            [(M::POST, web::to(webhooks::receive_unsigned))],
        ))
        .service(resource(
            "/v1/deadletters",
            [(M::GET, web::to(deadletters::list))],
        ))
        .service(resource(
            "/v1/deadletters/replay",
            [(M::POST, web::to(deadletters::replay_all))],
        ))
        .service(resource(
            "/v1/deadletters/{id}",
            [
                (M::GET, web::to(deadletters::read)),
                (M::PUT, web::to(deadletters::replace)),
                (M::PATCH, web::to(deadletters::patch)),
                (M::DELETE, web::to(deadletters::discard)),
            ],
        ))
        .service(resource(
            "/v1/deadletters/{id}/replay",
            [(M::POST, web::to(deadletters::replay))],
        ))
        .service(resource("/v1/jobs", [(M::GET, web::to(jobs::list))]))
        .service(resource("/v1/jobs/{id}", [(M::GET, web::to(jobs::read))]))
        .service(resource(
            "/v1/jobs/{id}/events",
            [(M::GET, web::to(jobs::events))],
        ))
        .configure(subscription_routes)
        .configure(insight_routes)
        .configure(pages::routes)
        .default_service(web::to(unknown_route));
}

fn insight_routes(config: &mut ServiceConfig) {
    use Method as M;
    config
        .service(resource(
            "/v1/insights/misprioritized",
            [(M::GET, web::to(insights::read_misprioritized))],
        ))
        .service(resource(
            "/v1/insights/stalled",
            [(M::GET, web::to(insights::read_stalled))],
        ))
        .service(resource(
            "/v1/insights/slipping",
            [(M::GET, web::to(insights::read_slipping))],
        ))
        .service(resource(
            "/v1/pipeline/summary",
            [(M::GET, web::to(pipeline::read_summary))],
        ))
        .service(resource(
            "/v1/pipeline/coverage",
            [(M::GET, web::to(pipeline::read_coverage))],
        ))
        .service(resource(
            "/v1/pipeline/forecast",
            [(M::GET, web::to(pipeline::read_forecast))],
        ))
        .service(resource(
            "/v1/insights/reps",
            [(M::GET, web::to(insights::read_reps))],
        ));
}

fn subscription_routes(config: &mut ServiceConfig) {
    use Method as M;
    config
        .service(resource(
            "/v1/subscriptions",
            [
                (M::GET, web::to(subscriptions::list)),
                (M::POST, web::to(subscriptions::create)),
            ],
        ))
        .service(resource(
            "/v1/subscriptions/{id}",
            [
                (M::GET, web::to(subscriptions::read)),
                (M::PATCH, web::to(subscriptions::change)),
                (M::DELETE, web::to(subscriptions::delete)),
            ],
        ))
        .service(resource(
            "/v1/subscriptions/{id}/deliveries",
            [(M::GET, web::to(subscriptions::deliveries))],
        ))
        .service(resource(
            "/v1/subscriptions/{id}/test",
            [(M::POST, web::to(subscriptions::test))],
        ))
        .service(resource(
            "/v1/subscriptions/{id}/redeliver",
            [(M::POST, web::to(subscriptions::redeliver))],
        ));
}

/// A resource that answers other methods with 405 and the list of those it has. What can be got can
/// also be asked for its head.
pub(crate) fn resource<const N: usize>(
    path: &str,
    routes: [(Method, Route); N],
) -> impl HttpServiceFactory + 'static {
    let mut allow = Vec::new();
    let mut resource: Resource = web::resource(path);
    for (method, route) in routes {
        allow.push(method.to_string());
        let route = if method == Method::GET {
            allow.push(Method::HEAD.to_string());
            route.guard(guard::Any(guard::Get()).or(guard::Head()))
        } else {
            route.method(method)
        };
        resource = resource.route(route);
    }
    let allow = allow.join(", ");
    resource.default_service(web::to(move |request: HttpRequest| {
        let problem = Problem::method_not_allowed(request.method().as_str(), &allow);
        async move { Err::<&'static str, _>(problem) }
    }))
}

/// Programs get a problem document, browsers a page.
async fn unknown_route(request: HttpRequest) -> HttpResponse {
    let problem = Problem::unknown_route(request.path());
    let accepted = request.headers().get(ACCEPT);
    let accepted = accepted.and_then(|accepted| accepted.to_str().ok());
    let wants_page = accepted.is_some_and(|accepted| accepted.contains("text/html"));
    if wants_page && !request.path().starts_with("/v1/") {
        PageError::from(problem).error_response()
    } else {
        problem.error_response()
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::StatusCode;
    use actix_web::{App, test};

    use super::*;

    async fn broken() -> &'static str {
        panic!("a handler broke")
    }

    #[actix_web::test]
    async fn a_panic_is_answered_and_the_next_request_too() {
        let app = App::new()
            .route("/broken", web::get().to(broken))
            .default_service(web::to(unknown_route))
            .wrap(from_fn(observe::observe))
            .wrap(TracingLogger::<observe::RequestSpan>::new());
        let app = test::init_service(app).await;
        let request = test::TestRequest::get().uri("/broken").to_request();
        let error = test::try_call_service(&app, request).await.unwrap_err();
        let response = error.error_response();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(response.headers().contains_key("x-request-id"));
        let request = test::TestRequest::get().uri("/other").to_request();
        let response = test::call_service(&app, request).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
}
