//! Pages for people: server-rendered HTML over the same functions as the API.
//!
//! - `layout`: the frame of every page, who looks at it, and how a failure is shown.
//! - `assets`: the one stylesheet, the one script and the mark, from the binary.
//! - `forms`: what pages send, and the proof that it was on one of our pages.
//! - `format`: money, dates, percentages and links as they stand in HTML.
//! - `glossary`: what each metric means, once, for the pages and for `docs/metrics.md`. `words`: names and
//!   values as people read them. `charts`: inline SVG. `csv`: any table as a file.
//!   `links`: addresses with their filters.
//! - `home`, `queue`, `deal`, `board`: `/`, `/queue/{owner}`, `/deals/{id}` and `/board`.
//!
//! # A page
//!
//! A page is a struct with an askama template that extends `base.html` and has a field
//! `page: `[`layout::Page`]:
//!
//! ```text
//! #[derive(Template)]
//! #[template(path = "models.html")]
//! struct ModelsPage { page: Page, models: Vec<ModelRow> }
//!
//! pub async fn models(viewer: Viewer, app: Data<App>) -> Result<HttpResponse, PageError> {
//!     viewer.require_manager()?;
//!     let page = Page::new(&viewer, "Models", Place::Models);
//!     layout::render(&ModelsPage { page, models })
//! }
//! ```
//!
//! The template:
//!
//! ```text
//! {% extends "base.html" %}
//! {% block content %}
//! <h1>Models</h1> ...
//! <form method="post" action="/models/train">{{ page.csrf_field() }} ...</form>
//! {% endblock %}
//! ```
//!
//! `?` turns every [`crate::error::Error`] and [`crate::http::problem::Problem`] into a page that says
//! what is wrong and what to do next. There are no inline scripts and no style attributes: the content
//! security policy forbids them.

pub mod assets;
pub mod board;
pub mod charts;
pub mod csv;
mod deal;
pub mod format;
pub mod forms;
pub mod glossary;
mod home;
mod imports;
mod job;
pub mod layout;
pub mod links;
mod mapping_form;
mod model_report;
mod models;
mod queue;
mod sign_in;
pub mod words;

use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};

use crate::http::resource;

/// The addresses of all pages and of what they load.
pub fn routes(config: &mut ServiceConfig) {
    use Method as M;
    config
        .service(resource("/", [(M::GET, web::to(home::home))]))
        .service(resource(
            "/queue/{owner}",
            [(M::GET, web::to(queue::queue))],
        ))
        .service(resource("/board", [(M::GET, web::to(board::board))]))
        .service(resource("/deals/{id}", [(M::GET, web::to(deal::deal))]))
        .service(resource(
            "/assets/{name}",
            [(M::GET, web::to(assets::asset))],
        ))
        .service(resource(
            "/sign-in",
            [
                (M::GET, web::to(sign_in::ask)),
                (M::POST, web::to(sign_in::sign_in)),
            ],
        ))
        .service(resource(
            "/sign-out",
            [(M::POST, web::to(sign_in::sign_out))],
        ))
        .configure(model_routes)
        .configure(import_routes);
}

fn model_routes(config: &mut ServiceConfig) {
    use Method as M;
    config
        .service(resource("/models", [(M::GET, web::to(models::list))]))
        .service(resource(
            "/models/train",
            [(M::POST, web::to(models::train))],
        ))
        .service(resource(
            "/models/rollback",
            [(M::POST, web::to(models::roll_back))],
        ))
        .service(resource(
            "/models/{version}",
            [(M::GET, web::to(model_report::report))],
        ))
        .service(resource(
            "/models/{version}/activate",
            [(M::POST, web::to(models::activate))],
        ))
        .service(resource(
            "/models/{version}/recalibrate",
            [(M::POST, web::to(models::recalibrate))],
        ));
}

fn import_routes(config: &mut ServiceConfig) {
    use Method as M;
    config
        .service(resource(
            "/imports",
            [
                (M::GET, web::to(imports::list)),
                (M::POST, web::to(imports::upload)),
            ],
        ))
        .service(resource(
            "/imports/uploads/{id}",
            [
                (M::GET, web::to(imports::mapping)),
                (M::POST, web::to(imports::correct)),
            ],
        ))
        .service(resource(
            "/imports/{id}",
            [(M::GET, web::to(imports::import))],
        ));
}
