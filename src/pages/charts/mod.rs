//! Charts as inline SVG. Pure: figures in, markup out. Each has a title, a description in words, and the
//! figures themselves as a table for who would rather read them, or cannot see the picture.
//!
//! - `history`: a deal's probability over time. `waterfall`: from the average deal to this one.
//! - `scatter`: attention against value. `fan`: a forecast over a period. `columns`: won and lost by month.
//!   `rows`: bars in table cells.
//! - `reliability`, `money` and `curves`: how good a model is.

pub mod columns;
pub mod curves;
pub mod fan;
pub mod history;
pub mod money;
pub mod reliability;
pub mod rows;
pub mod scatter;
pub mod waterfall;

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

use super::format::{Html, shortened};
use crate::insight::period::day_of;

/// Of charts in a column, in the units of their view box.
const COLUMN: f64 = 560.0;
/// Of charts that are as wide as the page.
const WIDE: f64 = 1080.0;

/// A line of numbers on a line of pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    pub min: f64,
    pub max: f64,
    pub from_px: f64,
    pub to_px: f64,
}

impl Scale {
    /// An empty range is widened, so that every number has a place.
    pub fn new(min: f64, max: f64, from_px: f64, to_px: f64) -> Self {
        let max = if max > min { max } else { min + 1.0 };
        Self {
            min,
            max,
            from_px,
            to_px,
        }
    }

    /// Where a number stands; what is out of range at the nearer end.
    pub fn at(&self, number: f64) -> f64 {
        let share = ((number - self.min) / (self.max - self.min)).clamp(0.0, 1.0);
        self.from_px + share * (self.to_px - self.from_px)
    }

    /// Round numbers within the range, at steps of 1, 2 or 5 times a power of ten, about `count` of them.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        let raw = (self.max - self.min) / count.max(1) as f64;
        let power = 10f64.powf(raw.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * power)
            .find(|step| *step >= raw * 0.999)
            .unwrap_or(10.0 * power);
        let first = (self.min / step - 1e-9).ceil() as i64;
        let last = (self.max / step + 1e-9).floor() as i64;
        (first..=last).map(|index| index as f64 * step).collect()
    }
}

/// Moments on a line of pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimeScale(Scale);

impl TimeScale {
    pub fn new(from: Timestamp, to: Timestamp, from_px: f64, to_px: f64) -> Self {
        let seconds = |at: Timestamp| at.as_second() as f64;
        Self(Scale::new(seconds(from), seconds(to), from_px, to_px))
    }

    pub fn at(&self, moment: Timestamp) -> f64 {
        self.0.at(moment.as_second() as f64)
    }

    /// Days to label, with how they are written: months where the range is long, else days.
    pub fn ticks(&self) -> Vec<(Timestamp, String)> {
        let day = |seconds: f64| {
            let at = Timestamp::from_second(seconds as i64).unwrap_or(Timestamp::UNIX_EPOCH);
            day_of(at)
        };
        let (first, last) = (day(self.0.min), day(self.0.max));
        let days = (self.0.max - self.0.min) / 86_400.0;
        if days > 120.0 {
            months(first, last, (days / 30.4 / 8.0).ceil() as i32)
        } else {
            let step = (days / 7.0).ceil().max(1.0) as i64;
            let dates = first.series(step.days()).take_while(|date| *date <= last);
            labelled(dates, "%-d %b")
        }
    }
}

fn months(first: Date, last: Date, step: i32) -> Vec<(Timestamp, String)> {
    let start = match first.day() {
        1 => first,
        _ => first
            .first_of_month()
            .checked_add(1.month())
            .unwrap_or(first),
    };
    let dates = start
        .series(step.max(1).months())
        .take_while(|date| *date <= last);
    labelled(dates, "%b %Y")
}

fn labelled(dates: impl Iterator<Item = Date>, format: &str) -> Vec<(Timestamp, String)> {
    let moment = |date: Date| {
        TimeZone::UTC
            .to_timestamp(date.to_datetime(Time::midnight()))
            .ok()
    };
    dates
        .filter_map(|date| Some((moment(date)?, date.strftime(format).to_string())))
        .collect()
}

/// A picture with its words.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Unique on its page.
    pub id: &'static str,
    pub title: String,
    /// What the picture shows, in a sentence or two.
    pub description: String,
    pub width: f64,
    pub height: f64,
    pub picture: Html,
    /// Below the picture; may be empty.
    pub caption: Html,
    pub table: Table,
}

/// The figures of a chart.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub columns: Vec<&'static str>,
    pub rows: Vec<Vec<Html>>,
}

impl Chart {
    pub fn html(&self) -> Html {
        let mut html = Html::default();
        let (id, width, height) = (self.id, self.width, self.height);
        let class = if width > COLUMN {
            "chart wide"
        } else {
            "chart"
        };
        // What is one picture to who listens has no links within.
        let role = match self.picture.as_str().contains("<a ") {
            true => "group",
            false => "img",
        };
        html.add(format_args!(
            r#"<figure class="{class}" id="{id}"><div class="plot"><svg viewBox="0 0 {width} {height}" role="{role}" aria-labelledby="{id}-title {id}-words"><title id="{id}-title">"#
        ));
        html.text(&self.title);
        html.add(format_args!(r#"</title><desc id="{id}-words">"#));
        html.text(&self.description).raw("</desc>");
        html.raw(self.picture.as_str()).raw("</svg></div>");
        if !self.caption.as_str().is_empty() {
            html.raw("<figcaption>")
                .raw(self.caption.as_str())
                .raw("</figcaption>");
        }
        self.table.write(&mut html, &self.title);
        html.raw("</figure>");
        html
    }
}

impl Table {
    fn write(&self, html: &mut Html, title: &str) {
        if self.rows.is_empty() {
            return;
        }
        html.raw(r#"<details class="no-print"><summary>The figures as a table</summary><div class="scroll"><table><caption>"#)
            .text(title)
            .raw("</caption><thead><tr>");
        for column in &self.columns {
            html.raw(r#"<th scope="col">"#).text(column).raw("</th>");
        }
        html.raw("</tr></thead><tbody>");
        for row in &self.rows {
            html.raw("<tr>");
            for cell in row {
                html.raw("<td>").raw(cell.as_str()).raw("</td>");
            }
            html.raw("</tr>");
        }
        html.raw("</tbody></table></div></details>");
    }
}

/// A number at an axis: `4M`, `2.5K`.
fn tick(number: f64) -> String {
    let text = shortened(number);
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'B']) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text.as_str(), ""),
    };
    match digits.contains('.') {
        true => format!(
            "{}{unit}",
            digits.trim_end_matches('0').trim_end_matches('.')
        ),
        false => text,
    }
}

/// A text of a picture.
fn label(picture: &mut Html, x: f64, y: f64, class: &str, text: &str) {
    picture.add(format_args!(
        r#"<text x="{x:.1}" y="{y:.1}" class="{class}">"#
    ));
    picture.text(text).raw("</text>");
}

fn line(picture: &mut Html, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    picture.add(format_args!(
        r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
    ));
}

fn rect(picture: &mut Html, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
    let (width, height) = (width.max(0.0), height.max(0.0));
    picture.add(format_args!(
        r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#
    ));
}

/// Straight lines from point to point.
fn polyline(picture: &mut Html, class: &str, points: &[(f64, f64)]) {
    picture.add(format_args!(r#"<polyline class="{class}" points=""#));
    for (x, y) in points {
        picture.add(format_args!("{x:.1},{y:.1} "));
    }
    picture.raw(r#""/>"#);
}

/// The area between two lines that have their `x` in common.
fn area(picture: &mut Html, class: &str, upper: &[(f64, f64)], lower: &[(f64, f64)]) {
    picture.add(format_args!(r#"<polygon class="{class}" points=""#));
    for (x, y) in upper.iter().chain(lower.iter().rev()) {
        picture.add(format_args!("{x:.1},{y:.1} "));
    }
    picture.raw(r#""/>"#);
}

/// The frame of a plot within a picture.
#[derive(Debug, Clone, Copy)]
struct Frame {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Frame {
    fn new(left: f64, width: f64, height: f64) -> Self {
        Self {
            left,
            right: width - 14.0,
            top: 12.0,
            bottom: height - 26.0,
        }
    }

    /// Lines across at the ticks of a vertical scale, with their labels.
    fn levels(&self, picture: &mut Html, levels: &[(f64, String)]) {
        for (y, text) in levels {
            line(picture, "grid", (self.left, *y), (self.right, *y));
            label(picture, self.left - 8.0, y + 4.0, "end", text);
        }
    }

    /// Labels of a horizontal scale, below the plot.
    fn feet(&self, picture: &mut Html, feet: &[(f64, String)]) {
        line(
            picture,
            "axis",
            (self.left, self.bottom),
            (self.right, self.bottom),
        );
        for (x, text) in feet {
            line(picture, "axis", (*x, self.bottom), (*x, self.bottom + 4.0));
            label(picture, *x, self.bottom + 18.0, "mid", text);
        }
    }

    /// A vertical scale of shares, from 0% to `max`.
    fn shares(&self, picture: &mut Html, max: f64) -> Scale {
        let scale = Scale::new(0.0, max, self.bottom, self.top);
        let levels: Vec<_> = scale
            .ticks(4)
            .into_iter()
            .map(|tick| (scale.at(tick), format!("{:.0}%", 100.0 * tick)))
            .collect();
        self.levels(picture, &levels);
        scale
    }

    fn times(&self, picture: &mut Html, from: Timestamp, to: Timestamp) -> TimeScale {
        let scale = TimeScale::new(from, to, self.left, self.right);
        let feet: Vec<_> = scale
            .ticks()
            .into_iter()
            .map(|(at, text)| (scale.at(at), text))
            // A label at the very edge would be cut.
            .filter(|(x, _)| *x > self.left + 10.0 && *x < self.right - 22.0)
            .collect();
        self.feet(picture, &feet);
        scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_has_round_ticks_and_keeps_within_its_ends() {
        let scale = Scale::new(0.0, 87.0, 0.0, 100.0);
        assert_eq!(scale.ticks(4), [0.0, 50.0]);
        assert_eq!(scale.ticks(5), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(scale.at(-5.0), 0.0);
        assert_eq!(scale.at(1000.0), 100.0);
        assert_eq!(scale.at(43.5), 50.0);
        let flat = Scale::new(3.0, 3.0, 0.0, 10.0);
        assert!(flat.at(3.0).is_finite());
    }

    #[test]
    fn axes_have_short_numbers() {
        assert_eq!(tick(4e6), "4M");
        assert_eq!(tick(2500.0), "2.5K");
        assert_eq!(tick(100_000.0), "100K");
        assert_eq!(tick(0.0), "0");
    }

    #[test]
    fn days_are_labelled_by_how_many_there_are() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let labels = |from: &str, to: &str| -> Vec<String> {
            let scale = TimeScale::new(at(from), at(to), 0.0, 1.0);
            scale.ticks().into_iter().map(|(_, text)| text).collect()
        };
        let weeks = labels("2026-03-01T10:00:00Z", "2026-03-15T10:00:00Z");
        assert_eq!(weeks[..2], ["1 Mar", "3 Mar"]);
        let months = labels("2025-11-20T00:00:00Z", "2026-04-02T00:00:00Z");
        assert_eq!(
            months,
            ["Dec 2025", "Jan 2026", "Feb 2026", "Mar 2026", "Apr 2026"]
        );
        assert!(labels("2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z").len() < 10);
    }

    #[test]
    fn a_chart_says_in_words_what_it_shows() {
        let mut cell = Html::default();
        cell.text("<1>");
        let chart = Chart {
            id: "c",
            title: "Title & more".into(),
            description: "It rises.".into(),
            width: COLUMN,
            height: 100.0,
            picture: Html::default(),
            caption: Html::default(),
            table: Table {
                columns: vec!["a"],
                rows: vec![vec![cell]],
            },
        };
        let html = chart.html().to_string();
        assert!(html.contains(r#"role="img" aria-labelledby="c-title c-words""#));
        assert!(html.contains("<title id=\"c-title\">Title &amp; more</title>"));
        assert!(html.contains("<td>&lt;1&gt;</td>"));
    }
}
