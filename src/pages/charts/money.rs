//! Whether expected values come true: the won value that was expected of deals of like probability, and
//! what they brought.

use super::{COLUMN, Chart, Frame, Scale, Table};
use crate::pages::format::{Html, Money, Percent, shortened};

const HEIGHT: f64 = 340.0;

/// Deals of about the same probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The range of the probabilities.
    pub low: f64,
    pub high: f64,
    /// Sum of the expected values.
    pub predicted: f64,
    /// Sum of the amounts that were won.
    pub actual: f64,
}

/// `None` without pairs.
pub fn pairs(pairs: &[Pair], currency: &str) -> Option<Chart> {
    let highest = pairs.iter().map(|pair| pair.predicted.max(pair.actual));
    let highest = highest.reduce(f64::max)?;
    let mut picture = Html::default();
    let frame = Frame::new(62.0, COLUMN, HEIGHT);
    let y = Scale::new(0.0, 1.05 * highest, frame.bottom, frame.top);
    let levels: Vec<_> = (y.ticks(5).into_iter())
        .map(|tick| (y.at(tick), shortened(tick)))
        .collect();
    frame.levels(&mut picture, &levels);
    let slot = (COLUMN - frame.left - 12.0) / pairs.len() as f64;
    let bar = 0.36 * slot;
    let mut feet = Vec::with_capacity(pairs.len());
    for (index, pair) in pairs.iter().enumerate() {
        let middle = frame.left + slot * (index as f64 + 0.5);
        let bars = [
            ("bar soft", middle - bar, pair.predicted, "expected"),
            ("bar", middle, pair.actual, "won"),
        ];
        for (class, left, value, word) in bars {
            let (top, height) = (y.at(value), (frame.bottom - y.at(value)).max(0.0));
            let text = Money::short(value, currency).text();
            picture.add(format_args!(
                r#"<rect class="{class}" x="{left:.1}" y="{top:.1}" width="{bar:.1}" height="{height:.1}"><title>"#
            ));
            picture
                .text(&format!("{word} {text}"))
                .raw("</title></rect>");
        }
        feet.push((middle, Percent(pair.high).text()));
    }
    frame.feet(&mut picture, &feet);
    let sum = |value: fn(&Pair) -> f64| pairs.iter().map(value).sum::<f64>();
    let [predicted, actual] = [sum(|pair| pair.predicted), sum(|pair| pair.actual)]
        .map(|value| Money::short(value, currency).text());
    let mut caption = Html::default();
    caption.raw("Each pair is a group of deals of like probability, named by its highest. Pale: the won value that was expected; full: what was won.");
    Some(Chart {
        id: "reliability-money",
        title: "Expected and won value by probability".into(),
        description: format!("In all, {predicted} were expected and {actual} were won."),
        width: COLUMN,
        height: HEIGHT,
        picture,
        caption,
        table: table(pairs, currency),
    })
}

fn table(pairs: &[Pair], currency: &str) -> Table {
    let row = |pair: &Pair| {
        let mut cells = vec![Html::default(); 3];
        cells[0]
            .put(Percent(pair.low))
            .raw(" to ")
            .put(Percent(pair.high));
        cells[1].put(Money::new(pair.predicted.round(), currency));
        cells[2].put(Money::new(pair.actual.round(), currency));
        cells
    };
    Table {
        columns: vec!["Win probability", "Expected won value", "Won value"],
        rows: pairs.iter().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_values() {
        let pair = |predicted, actual| Pair {
            low: 0.1,
            high: 0.2,
            predicted,
            actual,
        };
        let chart = pairs(&[pair(500.0, 1000.0), pair(0.0, 250.0)], "EUR").unwrap();
        assert!(
            chart.description.contains("EUR 500 were expected"),
            "{}",
            chart.description
        );
        let picture = chart.picture.as_str();
        assert_eq!(picture.matches("<rect").count(), 4);
        let heights: Vec<f64> = picture
            .split("<rect ")
            .skip(1)
            .map(|rect| {
                let (_, rest) = rect.split_once("height=\"").unwrap();
                rest.split('"').next().unwrap().parse().unwrap()
            })
            .collect();
        assert!((heights[1] - 2.0 * heights[0]).abs() < 0.2, "{heights:?}");
        assert_eq!(heights[2], 0.0);
        assert_eq!(chart.table.rows.len(), 2);
        assert!(pairs(&[], "EUR").is_none());
    }
}
