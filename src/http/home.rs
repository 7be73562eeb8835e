//! `/`: one page for who opens the service in a browser.

use actix_web::{HttpRequest, HttpResponse};

use crate::app::now;

const PAGE: &str = include_str!("home.html");

pub async fn home(request: HttpRequest) -> HttpResponse {
    let connection = request.connection_info();
    let base = format!("{}://{}", connection.scheme(), connection.host());
    // The host comes from the client: only what a host may hold reaches the page.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-.:[]/".contains(c);
    let base = if base.chars().all(is_plain) {
        base
    } else {
        "http://127.0.0.1:8080".to_owned()
    };
    let today = now().strftime("%Y-%m-%dT00:00:00Z").to_string();
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'",
        ))
        .body(PAGE.replace("BASE", &base).replace("CREATED_AT", &today))
}
