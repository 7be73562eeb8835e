//! A deal's win probability over time.

use jiff::Timestamp;

use super::{COLUMN, Chart, Frame, Table, area, label, line, polyline};
use crate::pages::format::{Html, Moment, Percent};

const HEIGHT: f64 = 230.0;

/// What a deal's probability was, and is.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What the present model makes of the deal as it was, oldest first.
    pub seen_now: Vec<(Timestamp, f64)>,
    /// What was said at the time, oldest first.
    pub said_then: Vec<Said>,
    /// Stages, when they were entered.
    pub stages: Vec<(Timestamp, String)>,
    /// The ends of the present interval.
    pub interval: Option<(f64, f64)>,
}

/// A score as it was given.
#[derive(Debug, Clone)]
pub struct Said {
    pub at: Timestamp,
    pub win_probability: f64,
    /// Why the deal was scored, in words.
    pub cause: String,
    pub model_version: String,
}

/// `None` with fewer than two points: there is no history yet.
pub fn history(data: &History, until: Timestamp) -> Option<Chart> {
    let first_seen = data.seen_now.first().map(|(at, _)| *at);
    let first_said = data.said_then.first().map(|said| said.at);
    let from = first_seen.into_iter().chain(first_said).min()?;
    if data.seen_now.len() + data.said_then.len() < 2 || from >= until {
        return None;
    }
    let mut picture = Html::default();
    let frame = Frame {
        top: 26.0,
        ..Frame::new(44.0, COLUMN, HEIGHT)
    };
    let probabilities = frame.shares(&mut picture, top(data));
    let times = frame.times(&mut picture, from, until);
    stages(&mut picture, &frame, data, |at| times.at(at));
    if let Some((low, high)) = data.interval {
        let (x, y) = (
            times.at(until) - 5.0,
            [high, low].map(|p| probabilities.at(p)),
        );
        let ends = [x, x + 8.0];
        let at = |y: f64| ends.map(|x| (x, y));
        area(&mut picture, "band", &at(y[0]), &at(y[1]));
    }
    let mut points: Vec<(f64, f64)> = Vec::new();
    for (at, probability) in &data.seen_now {
        let (x, y) = (times.at(*at), probabilities.at(*probability));
        // It stays as it was until something happens.
        points.extend(points.last().map(|(_, before)| (x, *before)));
        points.push((x, y));
    }
    points.extend(points.last().map(|(_, y)| (times.at(until), *y)));
    polyline(&mut picture, "a", &points);
    for said in &data.said_then {
        let (x, y) = (times.at(said.at), probabilities.at(said.win_probability));
        picture.add(format_args!(
            r#"<circle class="dot c" cx="{x:.1}" cy="{y:.1}" r="4"><title>"#
        ));
        let percent = Percent(said.win_probability).text();
        let day = said.at.strftime("%Y-%m-%d");
        picture
            .text(&format!("{day}: {percent}, {}", said.cause))
            .raw("</title></circle>");
    }
    Some(Chart {
        id: "history",
        title: "Win probability over time".into(),
        description: words(data),
        width: COLUMN,
        height: HEIGHT,
        picture,
        caption: caption(),
        table: table(data),
    })
}

/// The scale ends where there is room above the highest point.
fn top(data: &History) -> f64 {
    let seen = data.seen_now.iter().map(|(_, probability)| *probability);
    let said = data.said_then.iter().map(|said| said.win_probability);
    let high = data.interval.map(|(_, high)| high);
    let highest = seen.chain(said).chain(high).fold(0.0, f64::max);
    [0.25, 0.5, 0.75, 1.0]
        .into_iter()
        .find(|top| highest <= *top)
        .unwrap_or(1.0)
}

/// Lines where stages were entered; a name where there is room for it.
fn stages(picture: &mut Html, frame: &Frame, data: &History, x_of: impl Fn(Timestamp) -> f64) {
    let mut free_from = frame.left;
    for (index, (at, stage)) in data.stages.iter().enumerate() {
        let x = x_of(*at);
        if index > 0 {
            line(
                picture,
                "grid dash",
                (x, frame.top - 10.0),
                (x, frame.bottom),
            );
        }
        let width = 6.3 * stage.chars().count() as f64;
        if x + 3.0 >= free_from && x + width < COLUMN {
            label(picture, x + 4.0, frame.top - 12.0, "", stage);
            free_from = x + width + 12.0;
        }
    }
}

fn words(data: &History) -> String {
    let (Some((_, first)), Some((_, last))) = (data.seen_now.first(), data.seen_now.last()) else {
        return format!("{} scores were given to this deal.", data.said_then.len());
    };
    let points = data.seen_now.iter().map(|(_, p)| *p);
    let low = points.clone().fold(f64::INFINITY, f64::min);
    let high = points.fold(0.0, f64::max);
    let [first, last, low, high] = [*first, *last, low, high].map(|p| Percent(p).text());
    format!("Began at {first}, is at {last} now, and was between {low} and {high} in between.")
}

fn caption() -> Html {
    let mut caption = Html::default();
    caption.raw("Line: what the present model makes of the deal as it was known at each time. Dots: what was said at the time, by the model of then. Shaded at the end: the 90% interval.");
    caption
}

fn table(data: &History) -> Table {
    let rows = data.said_then.iter().rev().map(|said| {
        let mut cells = vec![Html::default(); 4];
        cells[0].put(Moment(said.at));
        cells[1].put(Percent(said.win_probability));
        cells[2].text(&said.cause);
        cells[3].text(&said.model_version);
        cells
    });
    Table {
        columns: vec!["When", "Win probability", "Because of", "Model"],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(day: u32) -> Timestamp {
        format!("2026-03-{day:02}T00:00:00Z").parse().unwrap()
    }

    fn data() -> History {
        History {
            seen_now: vec![(day(1), 0.2), (day(10), 0.4)],
            said_then: vec![Said {
                at: day(12),
                win_probability: 0.35,
                cause: "a <b>call</b>".into(),
                model_version: "m".into(),
            }],
            stages: vec![(day(1), "Demo".into()), (day(10), "Offer & more".into())],
            interval: Some((0.3, 0.5)),
        }
    }

    #[test]
    fn a_history_steps_where_something_happened() {
        let chart = history(&data(), day(21)).unwrap();
        assert!(chart.description.contains("Began at 20%, is at 40% now"));
        let picture = chart.picture.as_str();
        // From 44 to 546 in 20 days; a half is the top at 26, nothing the bottom at 204.
        let half_way = 44.0 + 502.0 * 9.0 / 20.0;
        let (low, high) = (204.0 - 178.0 * 0.4, 204.0 - 178.0 * 0.8);
        let points =
            format!("44.0,{low:.1} {half_way:.1},{low:.1} {half_way:.1},{high:.1} 546.0,{high:.1}");
        assert!(picture.contains(&points), "{points} in {picture}");
        assert!(picture.contains("Offer &amp; more"));
        assert!(!chart.html().as_str().contains("<b>"));
    }

    #[test]
    fn one_point_is_no_history() {
        let only = History {
            seen_now: vec![(day(1), 0.2)],
            ..History::default()
        };
        assert!(history(&only, day(2)).is_none());
        assert!(history(&History::default(), day(2)).is_none());
    }
}
