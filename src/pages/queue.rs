//! `/queue/{owner}`: what a rep does next, and why.

use std::collections::{BTreeSet, HashMap};

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use jiff::Timestamp;

use super::charts::rows;
use super::format::{Ago, Day, Days, Html, Money, Percent, Points, href};
use super::layout::{self, Page, PageError, Place, Viewer};
use super::links::Link;
use super::{csv, glossary, words};
use crate::app::{App, now};
use crate::domain::DealId;
use crate::error::Result;
use crate::http::body::segment;
use crate::http::query::Params;
use crate::http::rankings::query;
use crate::insight::queue::{Outlook, outlooks};
use crate::insight::{Scope, Survey};
use crate::ranking::{PAGE_ROWS_MAX, RankingQuery, RankingRow, Sort};
use crate::scoring::Reason;

/// Rows of the file of a queue.
const CSV_ROWS_MAX: usize = 10_000;
/// Reasons of a row, for and against.
const REASONS_SHOWN: usize = 2;

#[derive(Template)]
#[template(path = "queue.html")]
struct QueuePage {
    page: Page,
    owner: String,
    href: String,
    totals: Totals,
    sorts: Vec<SortLink>,
    filters: Filters,
    rows: Vec<Row>,
    next: Option<String>,
    /// Whether this is a later page.
    is_continued: bool,
    csv_href: String,
}

/// All open deals of the owner, whatever the filters.
struct Totals {
    deals: usize,
    amount: Money,
    expected_value: Money,
    stalled: usize,
    overdue: usize,
}

struct SortLink {
    id: &'static str,
    label: &'static str,
    href: String,
    is_current: bool,
}

/// What is chosen, and what could be.
struct Filters {
    pipeline: String,
    pipelines: BTreeSet<String>,
    stage: String,
    stages: BTreeSet<String>,
    grade: String,
    is_stalled: bool,
    min_amount: String,
    sort: &'static str,
    is_any: bool,
}

struct Row {
    rank: Option<usize>,
    rank_change: Option<i64>,
    name: String,
    href: String,
    company: Option<String>,
    grade: &'static str,
    probability: Percent,
    bar: Html,
    trend: Option<Points>,
    expected_value: Option<Money>,
    amount: Option<Money>,
    reasons_for: Vec<(String, String)>,
    reasons_against: Vec<(String, String)>,
    stage: Option<String>,
    days_in_stage: Option<Days>,
    won_days: Option<String>,
    is_stalled: bool,
    close: Option<Day>,
    overdue: Option<String>,
    pushes: usize,
    last_activity: Option<Ago>,
}

/// The orders, as the address has them, with the id of their link and their name.
const SORTS: [(Sort, &str, &str); 5] = [
    (Sort::ExpectedValue, "expected_value", "Expected value"),
    (Sort::EvPerDay, "ev_per_day", "Value per day"),
    (Sort::WinProbability, "win_probability", "Win probability"),
    (Sort::Amount, "amount", "Amount"),
    (Sort::Neglect, "neglect", "Neglect"),
];

pub async fn queue(
    viewer: Viewer,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    let owner = segment(&request).await?;
    viewer.require_owner(Some(&owner))?;
    let mut params = Params::of(&request)?;
    let query = query(&mut params, Some(owner.clone()));
    let cursor = params.text("cursor");
    let is_csv = params.text("format").as_deref() == Some("csv");
    params.finish_known()?;
    let survey = app.book.survey().await?;
    let now = now();
    let outlooks = outlooks(&survey, &owner, now);
    if is_csv {
        return file(&app, query, &outlooks, now).await;
    }
    let page = app.book.ranking(&query, cursor.as_deref(), now).await?;
    let link = link(&query);
    let scope = Scope {
        owner: Some(owner.clone()),
        ..Scope::default()
    };
    layout::render(&QueuePage {
        page: Page::new(&viewer, format!("Queue of {owner}"), Place::Queue),
        href: href::queue(&owner),
        totals: totals(&survey, &scope, now),
        sorts: sorts(&query, &link),
        filters: filters(&query, &survey, &scope),
        rows: (page.rows.into_iter())
            .map(|row| {
                let outlook = outlooks.get(&row.deal.id);
                self::row(row, outlook, now)
            })
            .collect(),
        next: (page.next_cursor).map(|cursor| link.with("cursor", &cursor).href()),
        is_continued: cursor.is_some(),
        csv_href: link.with("format", "csv").href(),
        owner,
    })
}

/// The address of the queue as it is asked for, without a cursor.
fn link(query: &RankingQuery) -> Link {
    let owner = query.owner.as_deref().unwrap_or_default();
    let min_amount = query.min_amount.map(|amount| amount.to_string());
    let grade = query.grade.map(|grade| grade.as_str());
    let mut link = Link::to(href::queue(owner))
        .with_some("pipeline", query.pipeline.as_deref())
        .with_some("stage", query.stage.as_deref())
        .with_some("grade", grade)
        .with_some("min_amount", min_amount.as_deref())
        .with_some("stalled", query.stalled.then_some("true"));
    if query.sort != Sort::default() {
        link = link.with("sort", sort_name(query.sort));
    }
    link
}

fn sort_name(sort: Sort) -> &'static str {
    let known = SORTS.iter().find(|(known, ..)| *known == sort);
    known.map_or("expected_value", |(_, name, _)| name)
}

fn sorts(query: &RankingQuery, link: &Link) -> Vec<SortLink> {
    let links = SORTS.iter().map(|&(sort, id, label)| SortLink {
        id,
        label,
        href: link.with("sort", id).href(),
        is_current: sort == query.sort,
    });
    links.collect()
}

impl QueuePage {
    /// The link that sorts by a column, and what `aria-sort` says of it.
    fn sort(&self, id: &str) -> &SortLink {
        let found = self.sorts.iter().find(|link| link.id == id);
        found.unwrap_or(&self.sorts[0])
    }
}

impl SortLink {
    fn aria(&self) -> &'static str {
        if self.is_current {
            "descending"
        } else {
            "none"
        }
    }
}

fn totals(survey: &Survey, scope: &Scope, now: Timestamp) -> Totals {
    let (mut amount, mut expected_value) = (0.0, 0.0);
    let (mut deals, mut stalled, mut overdue) = (0, 0, 0);
    for deal in survey.open(scope) {
        deals += 1;
        amount += deal.base_amount.unwrap_or(0.0);
        expected_value += deal.expected_value().unwrap_or(0.0);
        stalled += usize::from(survey.is_stalled(deal, now));
        overdue += usize::from(deal.days_overdue(now).is_some());
    }
    Totals {
        deals,
        amount: Money::short(amount, survey.base_currency),
        expected_value: Money::short(expected_value, survey.base_currency),
        stalled,
        overdue,
    }
}

fn filters(query: &RankingQuery, survey: &Survey, scope: &Scope) -> Filters {
    let (mut pipelines, mut stages) = (BTreeSet::new(), BTreeSet::new());
    for deal in survey.open(scope) {
        pipelines.extend(deal.pipeline.as_deref().map(str::to_owned));
        stages.extend(deal.stage.as_deref().map(str::to_owned));
    }
    // What is chosen stays a choice, though no deal has it any more.
    pipelines.extend(query.pipeline.clone());
    stages.extend(query.stage.clone());
    let is_any = query.pipeline.is_some()
        || query.stage.is_some()
        || query.grade.is_some()
        || query.min_amount.is_some()
        || query.stalled;
    Filters {
        pipeline: query.pipeline.clone().unwrap_or_default(),
        pipelines,
        stage: query.stage.clone().unwrap_or_default(),
        stages,
        grade: query
            .grade
            .map_or_else(String::new, |g| g.as_str().to_owned()),
        is_stalled: query.stalled,
        min_amount: query.min_amount.map_or_else(String::new, |a| a.to_string()),
        sort: sort_name(query.sort),
        is_any,
    }
}

fn row(
    RankingRow { deal, score, .. }: RankingRow,
    outlook: Option<&Outlook>,
    now: Timestamp,
) -> Row {
    let probability = score.win_probability.get();
    let close = deal.expected_close_at;
    Row {
        rank: outlook.map(|outlook| outlook.rank),
        rank_change: outlook.and_then(|outlook| outlook.rank_change),
        href: href::deal(deal.id.as_str()),
        name: deal.name.unwrap_or_else(|| deal.id.to_string()),
        company: outlook.and_then(|outlook| outlook.company.clone()),
        grade: score.grade.as_str(),
        probability: Percent(probability),
        bar: rows::interval(
            score.interval.low.get(),
            probability,
            score.interval.high.get(),
        ),
        trend: outlook.and_then(|outlook| outlook.trend).map(Points),
        expected_value: (score.expected_value)
            .map(|value| Money::new(value.round(), score.base_currency)),
        amount: (score.amount)
            .map(|amount| Money::new(amount, score.currency.unwrap_or(score.base_currency))),
        reasons_for: told(&score.reasons, |contribution| contribution > 0.0),
        reasons_against: told(&score.reasons, |contribution| contribution < 0.0),
        stage: deal.stage,
        days_in_stage: outlook
            .and_then(|outlook| outlook.days_in_stage)
            .map(|d| Days(d.floor())),
        won_days: (outlook.and_then(|outlook| outlook.stage_won_days))
            .map(|won| super::deal::range(won.lower, won.upper)),
        is_stalled: outlook.is_some_and(|outlook| outlook.is_stalled),
        close: close.map(Day),
        overdue: (outlook.and_then(|outlook| outlook.days_overdue))
            .map(|days| Days(days.floor()).text()),
        pushes: outlook.map_or(0, |outlook| outlook.pushes),
        last_activity: deal.last_activity_at.map(|at| Ago { at, now }),
    }
}

/// The first reasons of a kind in words; they come by falling weight.
fn told(reasons: &[Reason], is_kind: impl Fn(f64) -> bool) -> Vec<(String, String)> {
    let of_kind = reasons.iter().filter(|reason| is_kind(reason.contribution));
    of_kind
        .take(REASONS_SHOWN)
        .map(|reason| (words::reason(reason), words::effect(reason)))
        .collect()
}

/// The whole queue as a file.
async fn file(
    app: &App,
    mut query: RankingQuery,
    outlooks: &HashMap<DealId, Outlook>,
    now: Timestamp,
) -> Result<HttpResponse, PageError> {
    query.limit = PAGE_ROWS_MAX;
    let mut rows: Vec<RankingRow> = Vec::new();
    let mut cursor = None;
    loop {
        let page = app.book.ranking(&query, cursor.as_deref(), now).await?;
        rows.extend(page.rows);
        cursor = page.next_cursor;
        if cursor.is_none() || rows.len() >= CSV_ROWS_MAX {
            break;
        }
    }
    let columns = [
        "rank",
        "rank_change",
        "id",
        "name",
        "company",
        "win_probability",
        "grade",
        "trend",
        "expected_value",
        "base_currency",
        "amount",
        "currency",
        "for",
        "against",
        "stage",
        "days_in_stage",
        "is_stalled",
        "expected_close_at",
        "pushes",
        "last_activity_at",
    ];
    let rows = rows
        .iter()
        .map(|row| cells(row, outlooks.get(&row.deal.id)));
    Ok(csv::answer("queue", &columns, rows)?)
}

fn cells(RankingRow { deal, score, .. }: &RankingRow, outlook: Option<&Outlook>) -> Vec<csv::Cell> {
    let reasons = |kind: fn(f64) -> bool| {
        let told = told(&score.reasons, kind).into_iter();
        let texts: Vec<String> = told
            .map(|(text, effect)| format!("{text} {effect}"))
            .collect();
        texts.join("; ")
    };
    vec![
        outlook.map(|outlook| outlook.rank).into(),
        (outlook.and_then(|outlook| outlook.rank_change))
            .map(|change| change as f64)
            .into(),
        deal.id.as_str().into(),
        deal.name.as_deref().into(),
        outlook.and_then(|outlook| outlook.company.clone()).into(),
        score.win_probability.get().into(),
        score.grade.as_str().into(),
        outlook.and_then(|outlook| outlook.trend).into(),
        score.expected_value.into(),
        score.base_currency.as_str().into(),
        score.amount.into(),
        score.currency.map(String::from).into(),
        reasons(|contribution| contribution > 0.0).into(),
        reasons(|contribution| contribution < 0.0).into(),
        deal.stage.as_deref().into(),
        outlook.and_then(|outlook| outlook.days_in_stage).into(),
        outlook.map(|outlook| outlook.is_stalled.to_string()).into(),
        deal.expected_close_at.into(),
        outlook.map(|outlook| outlook.pushes).into(),
        deal.last_activity_at.into(),
    ]
}
