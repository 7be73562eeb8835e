//! Whether probabilities come true: predicted against actual win rates.

use super::{COLUMN, Chart, Frame, Scale, Table, line, polyline};
use crate::pages::format::{Count, Html, Percent};

const HEIGHT: f64 = 340.0;
const LEFT: f64 = 44.0;

/// Deals of about the same probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    pub rows: usize,
    /// Mean of the probabilities.
    pub predicted: f64,
    /// Won share.
    pub actual: f64,
    /// The ends of the interval of the actual share.
    pub low: f64,
    pub high: f64,
}

/// `None` without bins.
pub fn reliability(bins: &[Bin]) -> Option<Chart> {
    if bins.is_empty() {
        return None;
    }
    let mut picture = Html::default();
    let frame = Frame::new(LEFT, COLUMN, HEIGHT);
    let highest = bins.iter().map(|bin| bin.high.max(bin.predicted));
    let top = (10.0 * highest.fold(0.0, f64::max)).ceil().clamp(2.0, 10.0) / 10.0;
    let y = frame.shares(&mut picture, top);
    let x = Scale::new(0.0, top, frame.left, frame.right);
    let feet: Vec<_> = (x.ticks(5).into_iter())
        .map(|tick| (x.at(tick), format!("{:.0}%", 100.0 * tick)))
        .collect();
    frame.feet(&mut picture, &feet);
    line(
        &mut picture,
        "grid dash",
        (x.at(0.0), y.at(0.0)),
        (x.at(top), y.at(top)),
    );
    let points: Vec<_> = (bins.iter())
        .map(|bin| (x.at(bin.predicted), y.at(bin.actual)))
        .collect();
    for bin in bins {
        let at = x.at(bin.predicted);
        line(
            &mut picture,
            "a thin",
            (at, y.at(bin.low)),
            (at, y.at(bin.high)),
        );
    }
    polyline(&mut picture, "a", &points);
    for ((cx, cy), bin) in points.iter().zip(bins) {
        picture.add(format_args!(
            r#"<circle class="dot" cx="{cx:.1}" cy="{cy:.1}" r="4.5"><title>"#
        ));
        let (predicted, actual) = (Percent(bin.predicted).text(), Percent(bin.actual).text());
        let text = format!("predicted {predicted}, won {actual} of {}", bin.rows);
        picture.text(&text).raw("</title></circle>");
    }
    let misses = (bins.iter())
        .filter(|bin| bin.predicted < bin.low || bin.predicted > bin.high)
        .count();
    let mut caption = Html::default();
    caption.raw("To the right what was predicted, upwards what share was won, each with its 90% interval. On the dashed line both are the same.");
    Some(Chart {
        id: "reliability",
        title: "Predicted against actual win rate".into(),
        description: format!(
            "{} groups of deals, from the least to the most likely. In {misses} of them the predicted rate lies outside of the interval of the actual one.",
            bins.len()
        ),
        width: COLUMN,
        height: HEIGHT,
        picture,
        caption,
        table: table(bins),
    })
}

fn table(bins: &[Bin]) -> Table {
    let rows = bins.iter().map(|bin| {
        let mut cells = vec![Html::default(); 4];
        cells[0].put(Percent(bin.predicted));
        cells[1].put(Percent(bin.actual));
        cells[2]
            .put(Percent(bin.low))
            .raw(" to ")
            .put(Percent(bin.high));
        cells[3].put(Count(bin.rows as u64));
        cells
    });
    Table {
        columns: vec!["Predicted", "Won", "90% interval", "Rows"],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_stand_at_what_was_predicted_and_what_came() {
        let bin = |predicted, actual| Bin {
            rows: 50,
            predicted,
            actual,
            low: actual - 0.05,
            high: actual + 0.05,
        };
        let chart = reliability(&[bin(0.1, 0.1), bin(0.3, 0.45)]).unwrap();
        assert!(chart.description.contains("In 1 of them"));
        // Half is the end of both scales: 44 to 546 and 314 to 12.
        let (x, y) = (44.0 + 502.0 * 0.6, 314.0 - 302.0 * 0.9);
        let dot = format!(r#"cx="{x:.1}" cy="{y:.1}""#);
        assert!(chart.picture.as_str().contains(&dot), "{:?}", chart.picture);
        assert!(reliability(&[]).is_none());
    }
}
