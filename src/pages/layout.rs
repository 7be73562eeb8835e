//! The frame of every page: title, navigation, who is signed in, notices; and failures as pages.

use std::future::{Ready, ready};

use actix_web::body::BoxBody;
use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY};
use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, ResponseError,
};
use askama::Template;

use super::format::{Html, href};
use super::{assets, glossary, words};
use crate::access::{self, Visitor};
use crate::error::Error;
use crate::http::problem::Problem;

pub const MEDIA_TYPE: &str = "text/html; charset=utf-8";

/// Only what this service itself serves is loaded, and nothing of it stands in the page.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// After so long a browser asks again for what was not ready yet.
pub const LOOK_AGAIN_SECONDS: u32 = 3;

/// Where `base.html` has the definitions of the terms that a page names.
const DEFINITIONS: &str = "<!-- definitions -->";

/// Who looks at a page. Take it as an argument of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewer {
    /// As the page greets them; `None` where nobody signs in.
    pub name: Option<String>,
    pub role: Role,
    /// What forms have to bring along; nothing passes without one.
    pub csrf: Option<String>,
}

/// What somebody may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Manager,
    /// Their own queue and their own deals.
    Rep { owner: String },
}

impl Viewer {
    /// # Errors
    /// For programs, which have no pages.
    fn of(visitor: &Visitor) -> Result<Self, PageError> {
        Ok(Self {
            name: visitor.name().map(str::to_owned),
            role: match visitor.role() {
                access::Role::Manager => Role::Manager,
                access::Role::Rep { owner } => Role::Rep {
                    owner: owner.clone(),
                },
                access::Role::Api => return Err(PageError::not_yours()),
            },
            csrf: Some(visitor.csrf().to_owned()),
        })
    }

    /// # Errors
    /// When they are not a manager.
    pub fn require_manager(&self) -> Result<(), PageError> {
        match self.role {
            Role::Manager => Ok(()),
            Role::Rep { .. } => Err(PageError::not_yours()),
        }
    }

    /// # Errors
    /// When deals of `owner` are not for them.
    pub fn require_owner(&self, owner: Option<&str>) -> Result<(), PageError> {
        match &self.role {
            Role::Manager => Ok(()),
            Role::Rep { owner: own } if owner == Some(own) => Ok(()),
            Role::Rep { .. } => Err(PageError::not_yours()),
        }
    }

    pub fn is_manager(&self) -> bool {
        self.role == Role::Manager
    }
}

impl FromRequest for Viewer {
    type Error = actix_web::Error;
    type Future = Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let extensions = request.extensions();
        ready(match extensions.get::<Visitor>() {
            Some(visitor) => Self::of(visitor).map_err(Into::into),
            // The gate names a visitor for every page that is not open to all.
            None => Err(PageError::from(Problem::internal()).into()),
        })
    }
}

/// Where a page stands in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Home,
    Queue,
    Board,
    Models,
    Imports,
    /// Nowhere: an error, a sign-in.
    Elsewhere,
}

/// A link of the navigation.
#[derive(Debug, Clone)]
pub struct NavLink {
    pub label: &'static str,
    pub href: String,
    pub is_current: bool,
}

/// Something to tell above the content, once.
#[derive(Debug, Clone)]
pub struct Notice {
    pub tone: Tone,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Warning,
    Bad,
}

impl Tone {
    /// The class in the stylesheet.
    pub fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warn",
            Self::Bad => "bad",
        }
    }

    /// In words, for who sees no colour.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "Done",
            Self::Warning => "Note",
            Self::Bad => "Problem",
        }
    }
}

/// What `base.html` needs to know. Templates that extend it have it as their field `page`.
#[derive(Debug, Clone)]
pub struct Page {
    pub title: String,
    pub nav: Vec<NavLink>,
    pub viewer_name: Option<String>,
    pub csrf: Option<String>,
    pub notice: Option<Notice>,
    /// Has browsers load the page anew after so many seconds.
    pub refresh_seconds: Option<u32>,
}

impl Page {
    pub fn new(viewer: &Viewer, title: impl Into<String>, place: Place) -> Self {
        Self {
            title: title.into(),
            nav: nav(&viewer.role, place),
            viewer_name: viewer.name.clone(),
            csrf: viewer.csrf.clone(),
            notice: None,
            refresh_seconds: None,
        }
    }

    /// For who is not signed in, or not known here.
    pub fn bare(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            nav: Vec::new(),
            viewer_name: None,
            csrf: None,
            notice: None,
            refresh_seconds: None,
        }
    }

    pub fn with_notice(mut self, tone: Tone, text: impl Into<String>) -> Self {
        let text = text.into();
        self.notice = Some(Notice { tone, text });
        self
    }

    /// The hidden field that every form with `method="post"` has.
    pub fn csrf_field(&self) -> Html {
        let Some(token) = &self.csrf else {
            return Html::default();
        };
        let mut html = Html::default();
        html.raw(r#"<input type="hidden" name="csrf" value=""#)
            .text(token)
            .raw(r#"">"#);
        html
    }

    pub fn style_href(&self) -> String {
        assets::STYLE.href()
    }

    pub fn script_href(&self) -> String {
        assets::SCRIPT.href()
    }

    /// Of dealrank itself.
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }

    pub fn mark_href(&self) -> String {
        assets::MARK.href()
    }
}

fn nav(role: &Role, place: Place) -> Vec<NavLink> {
    let link = |label, at: Place, href: String| NavLink {
        label,
        href,
        is_current: at == place,
    };
    match role {
        Role::Rep { owner } => vec![link("My queue", Place::Queue, href::queue(owner))],
        Role::Manager => vec![
            link("Queues", Place::Queue, "/#queues".into()),
            link("Board", Place::Board, "/board".into()),
            link("Models", Place::Models, "/models".into()),
            link("Imports", Place::Imports, "/imports".into()),
        ],
    }
}

/// A page as an answer.
///
/// # Errors
/// When the template fails, which is our fault.
pub fn render(page: &impl Template) -> Result<HttpResponse, PageError> {
    render_with(StatusCode::OK, page)
}

/// A page as an answer with another status.
///
/// # Errors
/// As [`render`].
pub fn render_with(status: StatusCode, page: &impl Template) -> Result<HttpResponse, PageError> {
    let html = page.render().map_err(anyhow::Error::from);
    let html = html.map_err(Error::from)?;
    let definitions = glossary::definitions(&html);
    let html = html.replace(DEFINITIONS, definitions.as_str());
    Ok(answer(status, html))
}

fn answer(status: StatusCode, html: String) -> HttpResponse {
    HttpResponseBuilder::new(status)
        .content_type(MEDIA_TYPE)
        .insert_header((CONTENT_SECURITY_POLICY, CONTENT_POLICY))
        .insert_header((REFERRER_POLICY, "same-origin"))
        .insert_header(("x-content-type-options", "nosniff"))
        // Pages hold names and amounts, and who is signed in: they stay out of shared caches.
        .insert_header((CACHE_CONTROL, "private, no-cache"))
        .body(html)
}

/// A failure, to be shown as a page.
#[derive(Debug)]
pub struct PageError {
    problem: Problem,
    /// Instead of what the kind of problem suggests.
    next: Option<String>,
    refresh_seconds: Option<u32>,
}

impl PageError {
    /// A page for managers, or for another rep.
    pub fn not_yours() -> Self {
        Self::from(Problem::forbidden(
            "this page is not for your sign-in; ask a manager, or open your own queue",
        ))
    }

    /// The page shows itself again by itself.
    pub fn again_in(mut self, seconds: u32) -> Self {
        self.refresh_seconds = Some(seconds);
        self
    }

    /// What to do about it, in a sentence.
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl From<Problem> for PageError {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            next: None,
            refresh_seconds: None,
        }
    }
}

impl From<Error> for PageError {
    /// What passes by itself shows itself again by itself.
    fn from(error: Error) -> Self {
        let passes = matches!(error, Error::Overloaded(_) | Error::StoreAway(_));
        let page = Self::from(Problem::from(error));
        if passes {
            page.again_in(LOOK_AGAIN_SECONDS)
        } else {
            page
        }
    }
}

impl std::fmt::Display for PageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.problem.fmt(f)
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    page: Page,
    status: u16,
    title: &'a str,
    detail: String,
    fields: Vec<(&'a str, &'a str)>,
    next: &'a str,
    code: &'a str,
}

impl ResponseError for PageError {
    fn status_code(&self) -> StatusCode {
        self.problem.status_code()
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let problem = &self.problem;
        let mut page = Page::bare(problem.title());
        page.refresh_seconds = self.refresh_seconds;
        let fields = problem.fields().iter();
        let fields: Vec<_> = fields
            .filter(|e| !e.field.is_empty())
            .map(|e| (e.field.as_str(), e.reason.as_str()))
            .collect();
        let html = ProblemPage {
            page,
            status: problem.status_code().as_u16(),
            title: problem.title(),
            detail: if fields.is_empty() {
                words::sentence(problem.detail())
            } else {
                String::new()
            },
            fields,
            next: self.next.as_deref().unwrap_or(next_step(problem.code())),
            code: problem.code(),
        };
        let Ok(html) = html.render() else {
            return problem.error_response();
        };
        let mut response = answer(problem.status_code(), html);
        for (name, value) in problem.headers() {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }
}

/// What to do about a kind of problem.
fn next_step(code: &str) -> &'static str {
    match code {
        "unknown_route" => "Check the address, or start from the overview.",
        "not_found" => "It may have been erased, or the link may be old. Start from the overview.",
        "no_model" => {
            "Import deals with known outcomes, then train on them; the first model is used at once."
        }
        "invalid" | "malformed" => "Go back, correct it, and try again.",
        "not_actionable" => {
            "Only what the mapping marks as actionable can be tried; see the column rules of the mapping."
        }
        "cursor_expired" => "Start again from the first page.",
        "store_away" | "overloaded" => "This page tries again by itself in a moment.",
        "busy" => "Try again in a moment.",
        "unauthenticated" => "Sign in, and open the page again.",
        "forbidden" => "Open your own queue, or ask a manager.",
        _ => "Go back and try again; if it stays so, tell who runs this service.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rep_sees_what_is_theirs() {
        let rep = Viewer {
            name: Some("Ana".into()),
            role: Role::Rep {
                owner: "ana".into(),
            },
            csrf: Some("t".into()),
        };
        assert!(rep.require_owner(Some("ana")).is_ok());
        assert!(rep.require_owner(Some("bob")).is_err());
        assert!(rep.require_owner(None).is_err());
        assert!(rep.require_manager().is_err());
        let page = Page::new(&rep, "Queue", Place::Queue);
        assert_eq!(page.nav.len(), 1);
        assert_eq!(page.nav[0].href, "/queue/ana");
        let field = page.csrf_field().to_string();
        assert_eq!(field, r#"<input type="hidden" name="csrf" value="t">"#);
    }

    #[test]
    fn a_failure_is_a_page_that_says_what_to_do() {
        let error = Error::NotFound {
            kind: "deal",
            id: "<b>".into(),
        };
        let response = PageError::from(error).error_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        let kind = response.headers().get("content-type").unwrap();
        assert_eq!(kind, MEDIA_TYPE);
        assert!(response.headers().contains_key("content-security-policy"));
    }
}
