//! `/`: where to go from here, for people and for programs.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::header::LOCATION;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use jiff::Timestamp;

use super::format::{Count, Money, href};
use super::glossary;
use super::layout::{self, Page, PageError, Place, Role, Viewer};
use crate::app::{App, now};
use crate::insight::period::day_of;
use crate::insight::{DealFacts, Scope, Survey};

/// Queues that are listed; the board's filter leads to any.
const QUEUES_MAX: usize = 300;

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage {
    page: Page,
    /// `None` while the deals are being counted.
    overview: Option<Overview>,
    /// Where this service is, as the client calls it.
    base: String,
    today: String,
}

struct Overview {
    deals: Count,
    expected_value: Money,
    queues: Vec<Queue>,
    /// Queues that are not listed.
    queues_left: usize,
    /// The queue that is worth most.
    top_href: String,
}

/// The open deals of an owner.
struct Queue {
    owner: String,
    href: String,
    deals: usize,
    value: f64,
    expected_value: Money,
    stalled: usize,
    overdue: usize,
    /// Address and name of the deal that is worth most.
    first: Option<(String, String)>,
}

pub async fn home(
    viewer: Viewer,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    if let Role::Rep { owner } = &viewer.role {
        let queue = href::queue(owner);
        return Ok(HttpResponse::SeeOther()
            .insert_header((LOCATION, queue))
            .finish());
    }
    let survey = app.book.survey().await.ok();
    let mut page = Page::new(&viewer, "Overview", Place::Home);
    if survey.is_none() {
        page.refresh_seconds = Some(layout::LOOK_AGAIN_SECONDS);
    }
    let now = now();
    layout::render(&HomePage {
        page,
        overview: survey.map(|survey| overview(&survey, now)),
        base: base(&request),
        today: day_of(now).to_string(),
    })
}

fn overview(survey: &Survey, now: Timestamp) -> Overview {
    let everything = Scope::default();
    let mut owners: BTreeMap<&Arc<str>, Vec<&DealFacts>> = BTreeMap::new();
    let (mut count, mut value) = (0, 0.0);
    for deal in survey.open(&everything) {
        count += 1;
        value += deal.expected_value().unwrap_or(0.0);
        if let Some(owner) = &deal.owner {
            owners.entry(owner).or_default().push(deal);
        }
    }
    let mut queues: Vec<Queue> = (owners.into_iter())
        .map(|(owner, deals)| queue(survey, owner, &deals, now))
        .collect();
    let top = queues.iter().max_by(|a, b| a.value.total_cmp(&b.value));
    Overview {
        deals: Count(count),
        expected_value: Money::short(value, survey.base_currency),
        top_href: top.map_or_else(|| "/board".to_owned(), |queue| queue.href.clone()),
        queues_left: queues.len().saturating_sub(QUEUES_MAX),
        queues: {
            queues.truncate(QUEUES_MAX);
            queues
        },
    }
}

fn queue(survey: &Survey, owner: &str, deals: &[&DealFacts], now: Timestamp) -> Queue {
    let value = deals
        .iter()
        .filter_map(|deal| deal.expected_value())
        .sum::<f64>()
        + 0.0;
    let worth = |deal: &DealFacts| deal.expected_value().unwrap_or(-1.0);
    // Of equal ones the last counts, which is the first by id from the back.
    let first = deals
        .iter()
        .rev()
        .max_by(|a, b| worth(a).total_cmp(&worth(b)));
    let overdue = deals.iter().filter(|deal| deal.days_overdue(now).is_some());
    Queue {
        owner: owner.to_owned(),
        href: href::queue(owner),
        deals: deals.len(),
        value,
        expected_value: Money::new(value.round(), survey.base_currency),
        stalled: deals
            .iter()
            .filter(|deal| survey.is_stalled(deal, now))
            .count(),
        overdue: overdue.count(),
        first: first.map(|deal| {
            let name = deal.name.as_deref().unwrap_or(deal.id.as_str());
            (href::deal(deal.id.as_str()), name.to_owned())
        }),
    }
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
