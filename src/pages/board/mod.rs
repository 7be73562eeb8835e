//! `/board`: the pipeline as a manager looks at it. One page that can be printed for the meeting; each
//! section shows the figures of one insight.

mod figures;
mod filters;
mod tables;

use actix_web::web::{self, Data};
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;
use jiff::Timestamp;

pub use self::figures::Boards;
use self::figures::Figures;
use self::filters::Filters;
use super::charts::columns::{Column, columns};
use super::charts::fan::{Fan, Reach, fan};
use super::charts::rows;
use super::charts::scatter::{Point, PointKind, scatter};
use super::format::{Days, Html, Moment, Money, Percent, Points, href};
use super::layout::{self, Page, PageError, Place, Viewer};
use super::{glossary, words};
use crate::app::{App, now};
use crate::domain::Currency;
use crate::error::Error;
use crate::http::query::Params;
use crate::insight::attention::{self, OwnerAttention};
use crate::insight::capacity::{AgainstUsual, RepLoad};
use crate::insight::concentration::{Concentration, Grouping};
use crate::insight::coverage::Verdict;
use crate::insight::flow::StageFlow;
use crate::insight::forecast::{Forecast, Week};
use crate::insight::period::{Period, Step};
use crate::insight::reps::Rep;
use crate::insight::stalled::StalledStage;
use crate::insight::stats::{Estimated, Quartiles};
use crate::insight::summary::{Segment, Summary};
use crate::insight::{DealRef, Survey};

/// People that a table lists; a pipeline of more shows those that matter most, still by name.
const PEOPLE_SHOWN: usize = 50;
/// Pipelines whose stages are shown.
const FUNNELS_SHOWN: usize = 8;
/// Dots of the picture of attention.
const DOTS_MAX: usize = 180;

#[derive(Template)]
#[template(path = "board/board.html")]
struct BoardPage {
    page: Page,
    filters: Filters,
    show: Show,
    figures: Figures,
    series_chart: Option<Html>,
    forecast_chart: Option<Html>,
    funnels: Vec<Funnel>,
    /// Pipelines that are not shown.
    funnels_left: usize,
    as_of: Moment,
}

/// The stages of a pipeline, first to last.
struct Funnel {
    pipeline: String,
    /// Deals that entered the stage that most entered.
    widest: usize,
    /// The longest upper quartile of days.
    longest: f64,
    stages: Vec<StageFlow>,
}

/// A number, however many references a template has put before it.
trait Number {
    fn get(&self) -> f64;
}

impl Number for f64 {
    fn get(&self) -> f64 {
        *self
    }
}

impl<N: Number> Number for &N {
    fn get(&self) -> f64 {
        (**self).get()
    }
}

/// Figures as the templates write them.
#[derive(Debug, Clone, Copy)]
struct Show {
    base: Currency,
}

impl Show {
    fn money(&self, amount: impl Number) -> Money {
        Money::new(amount.get().round(), self.base)
    }

    fn short(&self, amount: impl Number) -> Money {
        Money::short(amount.get(), self.base)
    }

    fn percent(&self, share: impl Number) -> Percent {
        Percent(share.get())
    }

    /// Lost probability as a fall.
    fn fall(&self, lost: impl Number) -> Points {
        Points(-lost.get())
    }

    fn days(&self, days: impl Number) -> Days {
        Days(days.get().round())
    }

    fn range(&self, days: &Quartiles) -> String {
        super::deal::range(days.lower, days.upper)
    }

    fn count_range(&self, counts: &Quartiles) -> String {
        format!("{:.0} to {:.0}", counts.lower, counts.upper)
    }

    fn whole(&self, number: impl Number) -> String {
        super::format::grouped(number.get(), 0)
    }

    fn number(&self, number: impl Number) -> String {
        super::format::grouped(number.get(), 2)
    }

    /// A rank, which ties may share.
    fn rank(&self, rank: impl Number) -> String {
        let rank = rank.get();
        super::format::grouped(rank, usize::from(rank.fract() != 0.0))
    }

    fn deal(&self, deal: &DealRef) -> Html {
        let mut html = Html::default();
        let name = deal.name.as_deref().unwrap_or(&deal.id);
        html.raw("<a href=\"")
            .text(&href::deal(&deal.id))
            .raw("\">");
        html.text(name).raw("</a>");
        let sub = [&deal.company, &deal.stage].into_iter().flatten();
        let sub: Vec<&str> = sub.map(String::as_str).collect();
        if !sub.is_empty() {
            html.raw(r#"<span class="sub">"#)
                .text(&sub.join(" · "))
                .raw("</span>");
        }
        html
    }

    fn owner(&self, owner: &Option<String>) -> Html {
        let mut html = Html::default();
        match owner {
            Some(owner) => html
                .raw("<a href=\"")
                .text(&href::queue(owner))
                .raw("\">")
                .text(owner)
                .raw("</a>"),
            None => html.raw(r#"<span class="muted">nobody</span>"#),
        };
        html
    }

    /// `62% (55% to 69%)`.
    fn share(&self, share: &Estimated) -> Html {
        let mut html = Html::default();
        html.put(Percent(share.value))
            .raw(r#" <span class="muted nowrap">("#)
            .put(Percent(share.low))
            .raw(" to ")
            .put(Percent(share.high))
            .raw(")</span>");
        html
    }
}

pub async fn board(
    viewer: Viewer,
    app: Data<App>,
    boards: Data<Boards>,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let now = now();
    let mut params = Params::of(&request)?;
    let mut filters = Filters::read(&mut params, now);
    let table = params.text("table");
    let is_csv = params.text("format").as_deref() == Some("csv");
    params.finish_known()?;
    let survey = app.book.survey().await?;
    if is_csv {
        let table = table.unwrap_or_default();
        let file = move || tables::file(&survey, &filters, &table, now);
        let file = web::block(file)
            .await
            .map_err(|e| Error::Internal(e.into()))?;
        return Ok(file?.answer());
    }
    filters.offer(&survey);
    let base = survey.base_currency;
    let figures = boards.figures(survey, &filters, now).await?;
    let mut funnels = funnels(&figures.period.summary.stages);
    let funnels_left = funnels.len().saturating_sub(FUNNELS_SHOWN);
    funnels.truncate(FUNNELS_SHOWN);
    layout::render(&BoardPage {
        page: Page::new(&viewer, "Board", Place::Board),
        show: Show { base },
        series_chart: series_chart(&figures.period.summary, base),
        forecast_chart: forecast_chart(&figures.horizon.forecast, base, figures.at()),
        funnels,
        funnels_left,
        as_of: Moment(figures.at()),
        figures,
        filters,
    })
}

fn funnels(stages: &[StageFlow]) -> Vec<Funnel> {
    let mut funnels: Vec<Funnel> = Vec::new();
    for stage in stages {
        let pipeline = stage.pipeline.as_deref().unwrap_or("Without a pipeline");
        if funnels.last().is_none_or(|last| last.pipeline != pipeline) {
            funnels.push(Funnel {
                pipeline: pipeline.to_owned(),
                widest: 0,
                longest: 0.0,
                stages: Vec::new(),
            });
        }
        if let Some(last) = funnels.last_mut() {
            last.widest = last.widest.max(stage.entered);
            let upper = stage.days.map_or(0.0, |days| days.upper);
            last.longest = last.longest.max(upper);
            last.stages.push(stage.clone());
        }
    }
    funnels
}

impl BoardPage {
    /// By name: where there are many, those who neglect most.
    fn owners(&self) -> Vec<&OwnerAttention> {
        let owners = &self.figures.deals.attention.owners;
        most(owners, |owner| owner.neglected_value)
    }

    /// By name: where there are many, those in a slump, and those who could gain most.
    fn reps(&self) -> Vec<&Rep> {
        most(&self.figures.period.reps.reps, |rep| {
            let is_slump = rep.lately.as_ref().is_some_and(|lately| lately.is_slump);
            let gain = rep.focus.as_ref().map_or(0.0, |focus| focus.gain);
            if is_slump { f64::INFINITY } else { gain }
        })
    }

    /// How many of these are not shown.
    fn left(&self, of: usize) -> usize {
        of.saturating_sub(PEOPLE_SHOWN)
    }

    /// How long a stage may take, and who is beyond that.
    fn limit(&self, stage: &StageFlow) -> Option<&StalledStage> {
        let of = |limit: &&StalledStage| {
            let benchmark = &limit.benchmark;
            (&benchmark.pipeline, &benchmark.stage) == (&stage.pipeline, &stage.stage)
        };
        self.figures.deals.stalled.stages.iter().find(of)
    }

    /// Why there is no forecast.
    fn forecast_note(&self) -> String {
        let told = [
            &self.figures.horizon.forecast.notes,
            &self.figures.period.summary.notes,
        ];
        let note = told.into_iter().flatten().next();
        note.map_or_else(
            || "The past does not say enough for a forecast yet.".into(),
            |note| words::sentence(&note.detail),
        )
    }

    /// The class of the tag, its words, and what they mean here.
    fn verdict(&self) -> (&'static str, &'static str, String) {
        let coverage = &self.figures.horizon.coverage;
        let money = |amount: Option<f64>| self.show.short(amount.unwrap_or(0.0)).text();
        let confidence = Percent(coverage.confidence).text();
        let (class, word, text) = match coverage.verdict {
            Verdict::NoTarget => (
                "",
                "no target",
                "What is asked of the period? Try a target here, or set `insight.target_per_quarter`.".into(),
            ),
            Verdict::Unknown => (
                "",
                "unknown",
                "No closed deals say how many are won: import closed deals, or wait for the first ones.".into(),
            ),
            Verdict::Reached => (
                "good",
                "reached",
                format!("{} are won, the target is reached.", money(Some(coverage.won_value))),
            ),
            Verdict::Enough => (
                "good",
                "enough",
                format!("Given time, the open deals are enough to win the missing {} with a chance of {confidence}; the forecast says what closes within the period.", money(coverage.missing)),
            ),
            Verdict::Tight => (
                "warn",
                "tight",
                format!("Given time, the open deals are enough to win the missing {} on average, but not with a chance of {confidence}.", money(coverage.missing)),
            ),
            Verdict::Short => (
                "bad",
                "not enough",
                format!("There are too few open deals to win the missing {}.", money(coverage.missing)),
            ),
        };
        (class, word, text)
    }

    fn rep_href(&self, rep: &Rep) -> String {
        let link = self.filters.link().with("owner", &rep.owner);
        format!("{}#reps", link.href())
    }

    /// The rep that is looked at alone.
    fn only_rep(&self) -> Option<&Rep> {
        let owner = self.filters.scope.owner.as_ref()?;
        let mut reps = self.figures.period.reps.reps.iter();
        reps.find(|rep| rep.owner == *owner)
    }

    fn load(&self, load: &RepLoad) -> &'static str {
        match load.against_usual {
            Some(AgainstUsual::Below) => "room for more",
            Some(AgainstUsual::Within) => "as usual",
            Some(AgainstUsual::Above) => "more than usual",
            None => "",
        }
    }

    fn segment_name(&self, by: &Segment) -> &'static str {
        segment_name(*by)
    }

    fn groupings<'a>(&self, found: &'a Concentration) -> [(&'static str, &'a Grouping); 3] {
        [
            ("source", &found.source),
            ("industry", &found.industry),
            ("owner", &found.owner),
        ]
    }
}

/// Those that weigh most, in the order they are in.
fn most<T>(of: &[T], weight: impl Fn(&T) -> f64) -> Vec<&T> {
    let mut places: Vec<usize> = (0..of.len()).collect();
    places.sort_by(|&a, &b| weight(&of[b]).total_cmp(&weight(&of[a])).then(a.cmp(&b)));
    places.truncate(PEOPLE_SHOWN);
    places.sort_unstable();
    places.into_iter().map(|place| &of[place]).collect()
}

/// What a segment is told by.
fn segment_name(by: Segment) -> &'static str {
    match by {
        Segment::Pipeline => "pipeline",
        Segment::Team => "team",
        Segment::Source => "source",
        Segment::Industry => "industry",
        Segment::Amount => "amount",
    }
}

fn series_chart(summary: &Summary, base: Currency) -> Option<Html> {
    let format = match summary.step {
        Step::Month => "%b %y",
        Step::Quarter => "Q%q %y",
    };
    let steps: Vec<Column> = (summary.series.iter())
        .map(|step| Column {
            label: step_label(step.period.from, format),
            won: step.won_value,
            lost: step.lost_value,
            won_deals: step.won,
            lost_deals: step.lost,
            win_rate: step.win_rate.map(|rate| rate.value),
        })
        .collect();
    Some(columns(&steps, base.as_str())?.html())
}

/// Weeks that are over are what was won; the fan opens from now on.
fn forecast_chart(forecast: &Forecast, base: Currency, now: Timestamp) -> Option<Html> {
    forecast.total?;
    let span = forecast.period.span();
    let end_of = |week: &Week| {
        Period {
            from: week.to,
            to: week.to,
        }
        .span()
        .end
    };
    let begin = now.clamp(span.begin, span.end);
    let over = forecast.weeks.iter().filter(|week| week.is_over);
    let mut won = vec![(span.begin, 0.0)];
    won.extend(over.map(|week| (end_of(week), week.sum.p50)));
    won.push((begin, forecast.won_value));
    let mut reach = vec![Reach {
        at: begin,
        p10: forecast.won_value,
        p50: forecast.won_value,
        p90: forecast.won_value,
    }];
    let ahead = forecast.weeks.iter().filter(|week| !week.is_over);
    reach.extend(ahead.map(|week| Reach {
        at: end_of(week),
        p10: week.sum.p10,
        p50: week.sum.p50,
        p90: week.sum.p90,
    }));
    let chart = fan(&Fan {
        from: span.begin,
        to: span.end,
        won,
        reach,
        target: forecast.target,
        currency: base.to_string(),
    });
    Some(chart?.html())
}

fn step_label(from: jiff::civil::Date, format: &str) -> String {
    let quarter = (from.month() + 2) / 3;
    from.strftime(&format.replace("%q", &quarter.to_string()))
        .to_string()
}

impl Funnel {
    fn bar(&self, stage: &StageFlow) -> Html {
        rows::funnel(stage.entered as f64 / self.widest.max(1) as f64)
    }

    fn days(&self, stage: &StageFlow) -> Html {
        let mut html = Html::default();
        if let Some(days) = &stage.days {
            html.raw(rows::quartiles(days.lower, days.median, days.upper, self.longest).as_str());
            html.raw(" ")
                .text(&super::deal::range(days.lower, days.upper));
            html.raw(r#"<span class="sub">half within "#)
                .put(Days(days.median.round()))
                .raw("</span>");
        }
        html
    }
}

/// All deals with their two ranks; of very many, those that are out of order and the most valuable others.
fn attention_chart(survey: &Survey, queues: &attention::Queues) -> Option<Html> {
    let gap = survey.settings.misprioritized_gap;
    let mut places: Vec<_> = queues
        .values()
        .flatten()
        .filter(|place| place.of > 1)
        .collect();
    let is_out = |place: &attention::Place| place.is_neglected(gap) || place.is_overworked(gap);
    let order = |a: &&attention::Place, b: &&attention::Place| {
        let by_order = is_out(b).cmp(&is_out(a));
        let by_value = by_order.then_with(|| b.expected_value.total_cmp(&a.expected_value));
        by_value.then_with(|| a.deal.id.cmp(&b.deal.id))
    };
    if places.len() > DOTS_MAX {
        places.select_nth_unstable_by(DOTS_MAX, order);
        places.truncate(DOTS_MAX);
    }
    places.sort_unstable_by(order);
    let highest = places
        .iter()
        .map(|place| place.expected_value)
        .fold(0.0, f64::max);
    let points: Vec<Point> = (places.iter())
        .map(|place| {
            let share = |rank: f64| (place.of as f64 - rank) / (place.of - 1) as f64;
            let name = place.deal.name.as_deref().unwrap_or(place.deal.id.as_str());
            let value = Money::new(place.expected_value.round(), survey.base_currency);
            Point {
                attention: share(place.attention_rank),
                value: share(place.value_rank),
                kind: match () {
                    () if place.is_neglected(gap) => PointKind::Neglected,
                    () if place.is_overworked(gap) => PointKind::Overworked,
                    () => PointKind::InOrder,
                },
                text: format!("{name}: {}", value.text()),
                href: href::deal(place.deal.id.as_str()),
                weight: place.expected_value / highest.max(f64::MIN_POSITIVE),
            }
        })
        .collect();
    Some(scatter(&points, gap)?.html())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_those_that_matter_are_shown_in_their_order() {
        let weights: Vec<f64> = (0..60).map(|i| f64::from((i * 7) % 60)).collect();
        let shown = most(&weights, |weight| *weight);
        assert_eq!(shown.len(), PEOPLE_SHOWN);
        let expected: Vec<&f64> = weights.iter().filter(|weight| **weight >= 10.0).collect();
        assert_eq!(shown, expected);
    }
}
