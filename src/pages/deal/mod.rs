//! `/deals/{id}`: what a deal is worth, why, how that came, and what would change it.

mod past;
mod trial;
mod warnings;

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use jiff::Timestamp;

use self::past::Entry;
use self::trial::Trial;
pub(super) use self::warnings::range;
use self::warnings::{Caution, Stay};
use super::charts::{rows, waterfall};
use super::format::{Ago, Day, Html, Money, Percent, href};
use super::layout::{self, Page, PageError, Place, Viewer};
use super::{csv, glossary, words};
use crate::app::{App, now};
use crate::book::ScoredDeal;
use crate::domain::{Deal, DealId};
use crate::error::{Error, FieldError};
use crate::http::body::segment;
use crate::http::problem::Problem;
use crate::http::query::Params;
use crate::scoring::Score;

/// Entries of the past that a page shows unless asked for all.
const ENTRIES_SHOWN: usize = 30;
/// Entries of the past that a page shows at all; the file has the others.
const ENTRIES_MAX: usize = 500;
/// Scores that the chart of the history shows.
const LEDGER_SHOWN: u32 = 200;

#[derive(Template)]
#[template(path = "deal.html")]
struct DealPage {
    page: Page,
    id: String,
    name: String,
    company: Option<String>,
    owner: Option<Owner>,
    /// Pipeline and stage.
    place: Vec<String>,
    outcome: Option<(&'static str, &'static str)>,
    worth: Option<Worth>,
    amount: Option<Money>,
    stay: Option<Stay>,
    close: Option<Close>,
    last_activity: Option<Ago>,
    cautions: Vec<Caution>,
    why: Option<waterfall::Waterfall>,
    history: Option<Html>,
    trial: Option<Trial>,
    attributes: Vec<(String, String)>,
    entries: Vec<Entry>,
    /// Entries that are not shown.
    entries_left: usize,
    shows_all: bool,
    href: String,
    version: Option<String>,
    scored: Option<Ago>,
}

struct Owner {
    name: String,
    href: String,
}

/// The headline of a score.
struct Worth {
    grade: &'static str,
    probability: Percent,
    low: Percent,
    high: Percent,
    bar: Html,
    expected_value: Option<Money>,
}

struct Close {
    day: Day,
    /// Against today, in words.
    ago: String,
    is_overdue: bool,
    pushes: usize,
}

pub async fn deal(
    viewer: Viewer,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    let id = segment(&request).await?;
    let id = DealId::new(&id).map_err(|reason| Error::invalid("id", reason))?;
    let known = app.book.deal(&id).await?;
    if viewer.require_owner(known.deal.owner.as_deref()).is_err() {
        // Who may not see a deal is not told that it is there.
        let (kind, id) = ("deal", id.to_string());
        return Err(Error::NotFound { kind, id }.into());
    }
    let mut params = Params::of(&request)?;
    if let Some(format) = params.text("format") {
        let table = params.text("table");
        return table_as_csv(&app, &known, &format, table.as_deref()).await;
    }
    let now = now();
    let shows_all = params.text("entries").as_deref() == Some("all");
    let scorer = app.book.scorer().await?;
    let ledger = app.book.ledger(&id, None, LEDGER_SHOWN).await?;
    // At the very start the deals are still being counted: the page does without.
    let survey = app.book.survey().await.ok();
    let facts = survey.as_ref().and_then(|survey| survey.deal(&id).cloned());
    let stay = (survey.as_ref().zip(facts.as_ref()))
        .and_then(|(survey, facts)| warnings::stay(survey, facts, now));
    let trial = match &scorer {
        Some(scorer) if known.deal.is_open() => {
            Some(trial::read(scorer, &known.deal, &mut params, now)?)
        }
        _ => None,
    };
    params.finish_known()?;
    let mut entries = past::entries(&known.deal);
    let shown = if shows_all {
        ENTRIES_MAX
    } else {
        ENTRIES_SHOWN
    };
    let entries_left = entries.len().saturating_sub(shown);
    entries.truncate(entries.len() - entries_left);
    let deal = &known.deal;
    layout::render(&DealPage {
        page: Page::new(&viewer, title(deal), Place::Queue),
        id: id.to_string(),
        name: title(deal),
        company: (facts.as_ref()).and_then(|facts| facts.company.as_deref().map(str::to_owned)),
        owner: deal.owner.as_deref().map(|owner| Owner {
            name: owner.to_owned(),
            href: href::queue(owner),
        }),
        place: [&deal.pipeline, &deal.stage]
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
        outcome: (!deal.is_open()).then(|| (deal.outcome.as_str(), outcome_tone(deal))),
        worth: known.score.as_ref().map(worth),
        amount: (deal.amount).map(|amount| {
            let currency = deal.currency.unwrap_or(app.book.exchange().base());
            Money::new(amount.try_into().unwrap_or(f64::NAN), currency)
        }),
        close: close(deal, facts.as_deref(), now),
        last_activity: deal.activities.last().map(|last| Ago { at: last.at, now }),
        cautions: warnings::cautions(known.score.as_ref(), facts.as_deref(), stay.as_ref(), now),
        stay,
        why: known.score.as_ref().map(why),
        history: past::chart(deal, scorer.as_ref(), &ledger, known.score.as_ref(), now),
        trial,
        attributes: attributes(deal),
        entries,
        entries_left,
        shows_all,
        href: href::deal(id.as_str()),
        version: known
            .score
            .as_ref()
            .map(|score| score.model_version.clone()),
        scored: (known.score.as_ref()).map(|score| Ago {
            at: score.scored_at,
            now,
        }),
    })
}

fn title(deal: &Deal) -> String {
    let name = deal.name.as_deref().filter(|name| !name.trim().is_empty());
    name.map_or_else(|| format!("Deal {}", deal.id), str::to_owned)
}

fn outcome_tone(deal: &Deal) -> &'static str {
    match deal.outcome.as_str() {
        "won" => "good",
        _ => "",
    }
}

fn worth(score: &Score) -> Worth {
    let (low, high) = (score.interval.low.get(), score.interval.high.get());
    let probability = score.win_probability.get();
    Worth {
        grade: score.grade.as_str(),
        probability: Percent(probability),
        low: Percent(low),
        high: Percent(high),
        bar: rows::interval(low, probability, high),
        expected_value: (score.expected_value).map(|value| Money::new(value, score.base_currency)),
    }
}

fn close(deal: &Deal, facts: Option<&crate::insight::DealFacts>, now: Timestamp) -> Option<Close> {
    let at = deal.expected_close_at?;
    Some(Close {
        day: Day(at),
        ago: Ago { at, now }.text(),
        is_overdue: deal.is_open() && at < now,
        pushes: facts.map_or(0, |facts| facts.pushes.len()),
    })
}

fn why(score: &Score) -> waterfall::Waterfall {
    let steps: Vec<_> = (score.reasons.iter())
        .map(|reason| waterfall::Step {
            name: words::name(&reason.feature),
            text: words::value(&reason.value),
            contribution: reason.contribution,
        })
        .collect();
    waterfall::waterfall(score.intercept, &steps, score.win_probability.get())
}

fn attributes(deal: &Deal) -> Vec<(String, String)> {
    let attributes = deal.attributes.iter();
    attributes
        .map(|(name, value)| (words::name(name), words::attribute(value)))
        .collect()
}

async fn table_as_csv(
    app: &App,
    known: &ScoredDeal,
    format: &str,
    table: Option<&str>,
) -> Result<HttpResponse, PageError> {
    if format != "csv" {
        return Err(Error::invalid("format", "there is only `csv`").into());
    }
    let answer = match table {
        Some("reasons") => {
            let reasons = known.score.iter().flat_map(|score| &score.reasons);
            let rows = reasons.map(|reason| {
                vec![
                    reason.feature.as_str().into(),
                    words::value(&reason.value).into(),
                    reason.contribution.into(),
                    reason.text.as_str().into(),
                ]
            });
            csv::answer(
                "reasons",
                &["feature", "value", "contribution", "text"],
                rows,
            )
        }
        Some("scores") => {
            let ledger = app.book.ledger(&known.deal.id, None, LEDGER_SHOWN).await?;
            let rows = ledger.iter().map(|entry| {
                vec![
                    entry.score.scored_at.into(),
                    entry.score.win_probability.get().into(),
                    entry.score.expected_value.into(),
                    entry.cause.as_str().into(),
                    entry.score.model_version.as_str().into(),
                ]
            });
            let columns = [
                "at",
                "win_probability",
                "expected_value",
                "cause",
                "model_version",
            ];
            csv::answer("scores", &columns, rows)
        }
        Some("past") => {
            let entries = past::entries(&known.deal);
            let rows = entries
                .into_iter()
                .map(|entry| vec![entry.at.0.into(), entry.kind.into(), entry.text.into()]);
            csv::answer("past", &["at", "kind", "text"], rows)
        }
        _ => {
            let errors = vec![FieldError::new(
                "table",
                "there are `reasons`, `scores` and `past`",
            )];
            return Err(Problem::from(Error::Invalid(errors)).into());
        }
    };
    Ok(answer?)
}
