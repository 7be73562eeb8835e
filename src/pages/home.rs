//! `/`: where to go from here, for people and for programs.

use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use jiff::tz::TimeZone;

use super::layout::{self, Page, PageError, Place, Viewer};
use crate::app::now;

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    page: Page,
    /// Where this service is, as the client calls it.
    base: String,
    today: String,
}

pub async fn home(viewer: Viewer, request: HttpRequest) -> Result<HttpResponse, PageError> {
    layout::render(&HomePage {
        page: Page::new(&viewer, "Overview", Place::Home),
        base: base(&request),
        today: TimeZone::UTC.to_datetime(now()).date().to_string(),
    })
}

fn base(request: &HttpRequest) -> String {
    let connection = request.connection_info();
    let base = format!("{}://{}", connection.scheme(), connection.host());
    // The host comes from the client: only what a host may hold is shown to be copied.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]/".contains(c);
    if base.chars().all(is_plain) {
        base
    } else {
        "http://127.0.0.1:8080".to_owned()
    }
}
