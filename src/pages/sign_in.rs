//! `/sign-in` and `/sign-out`: a session for a key, or for a link that works once.

use actix_web::cookie::time::Duration;
use actix_web::cookie::{Cookie, SameSite};
use actix_web::http::StatusCode;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;

use super::format::href;
use super::forms::{Form, see};
use super::layout::{Page, PageError, Tone, Viewer, render_with};
use crate::access::{Holder, Refused, Role};
use crate::app::{App, now};
use crate::http::gate::{COOKIE, address};
use crate::http::problem::Problem;
use crate::http::query::Params;

#[derive(Template)]
#[template(path = "sign_in.html")]
struct SignInPage {
    page: Page,
    /// A link that can be used, and for whom it is.
    link: Option<(String, Holder)>,
    next: String,
}

impl SignInPage {
    fn new(next: Option<&str>) -> Self {
        Self {
            page: Page::bare("Sign in"),
            link: None,
            next: next.unwrap_or_default().to_owned(),
        }
    }

    fn answer(self) -> Result<HttpResponse, PageError> {
        render_with(StatusCode::OK, &self)
    }

    /// The same page again, with what was wrong.
    fn refuse(mut self, refused: Refused) -> Result<HttpResponse, PageError> {
        let detail = refused.to_string();
        let status = match &refused {
            Refused::WrongKey | Refused::WrongLink | Refused::NotForPeople => StatusCode::FORBIDDEN,
            Refused::TooManyWrong => StatusCode::TOO_MANY_REQUESTS,
            Refused::Failed(_) => return Err(Problem::from(refused).into()),
        };
        self.page = self.page.with_notice(Tone::Bad, detail);
        render_with(status, &self)
    }
}

/// Asks for a key; with `?link=` asks whether to use the link, so that mail programs that look at links
/// do not use them up.
pub async fn ask(app: Data<App>, request: HttpRequest) -> Result<HttpResponse, PageError> {
    if !app
        .access
        .is_sign_in_needed(request.connection_info().host())
    {
        return Ok(see("/"));
    }
    let mut params = Params::of(&request)?;
    let (link, next) = (params.text("link"), params.text("next"));
    params.finish()?;
    let mut form = SignInPage::new(next.as_deref());
    let Some(link) = link else {
        return form.answer();
    };
    match app
        .access
        .look_at_link(&link, address(request.peer_addr()), now())
        .await
    {
        Ok(holder) => {
            form.link = Some((link, holder));
            form.answer()
        }
        Err(refused) => form.refuse(refused),
    }
}

/// Begins a session, and leads to where the visitor wanted to go.
pub async fn sign_in(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    let form = Form::of_anyone(&request, payload, &app.config.limits).await?;
    let from = address(request.peer_addr());
    let signed_in = match (form.text("link"), form.text("key")) {
        (Some(link), _) => app.access.sign_in_by_link(link, from, now()).await,
        (None, key) => {
            let key = key.unwrap_or_default();
            app.access.sign_in(key, from, now()).await
        }
    };
    let next = form.text("next");
    let (session, holder) = match signed_in {
        Ok(signed_in) => signed_in,
        Err(refused) => return SignInPage::new(next).refuse(refused),
    };
    let next = next.filter(|next| is_own_path(next));
    let mut response = see(next.unwrap_or(&home(&holder.role)));
    let lasts = Duration::seconds(app.access.session_lasts().as_secs());
    let cookie = cookie(&request, session.reveal(), lasts);
    let added = response.add_cookie(&cookie).map_err(anyhow::Error::from);
    added.map_err(crate::error::Error::from)?;
    Ok(response)
}

/// Ends the session.
pub async fn sign_out(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, PageError> {
    Form::of(&viewer, &request, payload, &app.config.limits).await?;
    if let Some(cookie) = request.cookie(COOKIE) {
        app.access.sign_out(cookie.value()).await?;
    }
    let mut response = see("/sign-in");
    let cookie = cookie(&request, String::new(), Duration::ZERO);
    let removed = response.add_cookie(&cookie).map_err(anyhow::Error::from);
    removed.map_err(crate::error::Error::from)?;
    Ok(response)
}

fn home(role: &Role) -> String {
    match role {
        Role::Rep { owner } => href::queue(owner),
        Role::Manager | Role::Api => "/".into(),
    }
}

/// Not for scripts, not from other sites, and only encrypted if it was given so.
fn cookie(request: &HttpRequest, value: String, lasts: Duration) -> Cookie<'static> {
    Cookie::build(COOKIE, value)
        .path("/")
        .http_only(true)
        .same_site(SameSite::Lax)
        .secure(request.connection_info().scheme() == "https")
        .max_age(lasts)
        .finish()
}

/// Whether an address is one of this service: what begins with two slashes, or with what browsers take
/// for them, is another host.
fn is_own_path(next: &str) -> bool {
    let is_path = next.starts_with('/') && !next.starts_with("//");
    is_path && !next.contains('\\') && !next.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_elsewhere() {
        for own in ["/", "/queue/Ada%20L?sort=amount"] {
            assert!(is_own_path(own), "{own}");
        }
        for other in [
            "",
            "//example.com",
            "/\\example.com",
            "https://example.com",
            "/\t/example.com",
            "queue",
        ] {
            assert!(!is_own_path(other), "{other:?}");
        }
    }
}
