//! Who gets in: every request passes here before its handler, which is told who asks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::{Data, Query};
use actix_web::{HttpMessage, HttpResponse, ResponseError};
use percent_encoding::percent_decode_str;

use super::problem::Problem;
use crate::access::rules::{Verdict, Zone, verdict};
use crate::access::{Refused, Role, Visitor};
use crate::app::{App, now};
use crate::domain::DealId;
use crate::error::Error;
use crate::pages::format::href;
use crate::pages::layout::PageError;

/// The cookie of a session.
pub const COOKIE: &str = "dealrank_session";

/// What happens to somebody who does not get in.
enum Turned {
    /// A person who has not signed in yet.
    ToSignIn,
    /// A rep at the door, whose page is their queue.
    To(String),
    Away(Problem),
}

impl<E: Into<Problem>> From<E> for Turned {
    fn from(problem: E) -> Self {
        Self::Away(problem.into())
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let detail = refused.to_string();
        match refused {
            Refused::Failed(error) => error.into(),
            Refused::TooManyWrong => Self::too_many_attempts(detail),
            Refused::WrongKey | Refused::WrongLink => key_wanted(detail),
            Refused::NotForPeople => Self::forbidden(detail),
        }
    }
}

fn key_wanted(detail: impl Into<String>) -> Problem {
    let challenge = HeaderValue::from_static("Bearer realm=\"dealrank\"");
    Problem::unauthenticated(detail).with_header(header::WWW_AUTHENTICATE, challenge)
}

pub async fn gate(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    // What no route matches is answered with 404 to everybody.
    if let Some(pattern) = request.match_pattern() {
        let zone = Zone::of(&pattern);
        match admit(&request, zone, &pattern).await {
            Ok(Some(visitor)) => drop(request.extensions_mut().insert(visitor)),
            Ok(None) => {}
            Err(turned) => {
                let response = answer(&request, zone, turned);
                return Ok(request.into_response(response));
            }
        }
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

/// Who asks, where that matters.
async fn admit(
    request: &ServiceRequest,
    zone: Zone,
    pattern: &str,
) -> Result<Option<Visitor>, Turned> {
    if pattern.starts_with("/v1/webhooks/") {
        return Ok(None);
    }
    let app = request
        .app_data::<Data<App>>()
        .ok_or_else(Problem::internal)?;
    let key = bearer_key(request).filter(|_| zone != Zone::Open);
    if key.is_none() && !is_reading(request) && is_from_elsewhere(request) {
        let detail = "another site had your browser send this";
        return Err(Problem::forbidden(detail).into());
    }
    if zone == Zone::Open {
        return Ok(None);
    }
    let visitor = match key {
        Some(key) => {
            app.access
                .bearer(key, address(request.peer_addr()), now())
                .await?
        }
        None => by_session(request, app, zone).await?,
    };
    match verdict(visitor.role(), is_reading(request), pattern) {
        Verdict::Allowed => {}
        Verdict::OwnQueue if segment_is_own(request, &visitor) => {}
        Verdict::OwnFilter if filter_is_own(request, &visitor) => {}
        Verdict::OwnDeal => own_deal(request, app, &visitor).await?,
        _ => return Err(not_yours(&visitor).into()),
    }
    match visitor.owner() {
        Some(owner) if pattern == "/" => Err(Turned::To(href::queue(owner))),
        _ => Ok(Some(visitor)),
    }
}

async fn by_session(request: &ServiceRequest, app: &App, zone: Zone) -> Result<Visitor, Turned> {
    if let Some(cookie) = request.cookie(COOKIE)
        && let Some(visitor) = app.access.session(cookie.value(), now()).await?
    {
        return Ok(visitor);
    }
    let connection = request.connection_info();
    let is_known_needed = match zone {
        Zone::Api => app.access.is_key_needed(connection.host()),
        _ => app.access.is_sign_in_needed(connection.host()),
    };
    match (is_known_needed, zone) {
        (false, _) => Ok(app.access.anyone()),
        (true, Zone::Api) => {
            let detail = "send a key as `Authorization: Bearer KEY`; `dealrank keys create --role api` makes one";
            Err(key_wanted(detail).into())
        }
        (true, _) => Err(Turned::ToSignIn),
    }
}

fn not_yours(visitor: &Visitor) -> Problem {
    Problem::forbidden(match visitor.role() {
        Role::Rep { owner } => {
            format!("this is not for your sign-in, which sees the queue and the deals of {owner}")
        }
        Role::Manager | Role::Api => "this key is for /v1; people sign in for pages".into(),
    })
}

/// # Errors
/// `NotFound` for a deal of another owner, as for one that is not there: ids tell nothing.
async fn own_deal(request: &ServiceRequest, app: &App, visitor: &Visitor) -> Result<(), Problem> {
    let id = last_named_segment(request);
    let deal = match DealId::new(&id) {
        Ok(id) => app.book.store().deal(&id).await?,
        Err(_) => None,
    };
    match deal {
        Some(deal) if visitor.owner() == deal.deal.owner.as_deref() => Ok(()),
        _ => Err(Error::NotFound { kind: "deal", id }.into()),
    }
}

fn segment_is_own(request: &ServiceRequest, visitor: &Visitor) -> bool {
    visitor.owner() == Some(last_named_segment(request).as_str())
}

/// Whether the query names an owner, and no other than the visitor.
fn filter_is_own(request: &ServiceRequest, visitor: &Visitor) -> bool {
    let pairs = Query::<Vec<(String, String)>>::from_query(request.query_string());
    let pairs = pairs.map(Query::into_inner).unwrap_or_default();
    let mut owners = pairs.iter().filter(|(name, _)| name == "owner").peekable();
    owners.peek().is_some() && owners.all(|(_, owner)| visitor.owner() == Some(owner))
}

/// What stands for `{id}` or `{owner}`: the segment after the collection.
fn last_named_segment(request: &ServiceRequest) -> String {
    let path = request.uri().path();
    let path = path.strip_prefix("/v1").unwrap_or(path);
    decoded(path.split('/').nth(2).unwrap_or_default())
}

fn is_reading(request: &ServiceRequest) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method())
}

/// Whether a page of another site had the browser send this. Programs that are no browsers send neither
/// header.
fn is_from_elsewhere(request: &ServiceRequest) -> bool {
    let headers = request.headers();
    if let Some(site) = headers.get("sec-fetch-site") {
        return site != "same-origin" && site != "none";
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return false;
    };
    let origin = origin.to_str().unwrap_or_default();
    let host = origin.split_once("://").map(|(_, host)| host);
    host != Some(request.connection_info().host())
}

fn bearer_key(request: &ServiceRequest) -> Option<&str> {
    let value = request
        .headers()
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key)
}

/// Where a request comes from. Headers of proxies are not believed: anybody can send them.
pub fn address(peer: Option<SocketAddr>) -> IpAddr {
    peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |peer| peer.ip())
}

fn answer(request: &ServiceRequest, zone: Zone, turned: Turned) -> HttpResponse {
    let see = |location: String| {
        HttpResponse::SeeOther()
            .insert_header((header::LOCATION, location))
            .insert_header((header::CACHE_CONTROL, "no-store"))
            .finish()
    };
    match turned {
        Turned::To(location) => see(location),
        Turned::ToSignIn if is_reading(request) => {
            let asked = request.uri().path_and_query();
            let asked = asked.map_or("/", |asked| asked.as_str());
            see(format!("/sign-in?next={}", href::encoded(asked)))
        }
        Turned::ToSignIn => see("/sign-in".into()),
        Turned::Away(problem) if zone == Zone::Page => PageError::from(problem).error_response(),
        Turned::Away(problem) => problem.error_response(),
    }
}

/// What handlers are given of a segment. What is not UTF-8 is no name of anything.
fn decoded(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_read_as_they_are_written() {
        for text in ["Ada", "Grace Lin", "a/b", "50%", "é+ü", "%2F"] {
            assert_eq!(decoded(&href::encoded(text)), text);
        }
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
