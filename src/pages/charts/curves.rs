//! Who works the top of the list, what share of the won value do they find there? One curve an order.

use super::{COLUMN, Chart, Frame, Scale, Table, label, line, polyline};
use crate::pages::format::{Html, Percent};

const HEIGHT: f64 = 320.0;
const CLASSES: [&str; 6] = ["a", "c", "b", "a dash", "c dash", "b dash"];

/// An order, and what share of the won value is in its top, by the share of the deals.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub name: String,
    /// Share of the deals, share of the won value; both 0 to 1, growing.
    pub points: Vec<(f64, f64)>,
}

/// `None` without a curve that has points. The first curve is the one that counts.
pub fn curves(curves: &[Curve]) -> Option<Chart> {
    let first = curves.iter().find(|curve| !curve.points.is_empty())?;
    let mut picture = Html::default();
    let frame = Frame {
        right: COLUMN - 168.0,
        ..Frame::new(44.0, COLUMN, HEIGHT)
    };
    let y = frame.shares(&mut picture, 1.0);
    let x = Scale::new(0.0, 1.0, frame.left, frame.right);
    let feet: Vec<_> = (x.ticks(5).into_iter())
        .map(|tick| (x.at(tick), format!("{:.0}%", 100.0 * tick)))
        .collect();
    frame.feet(&mut picture, &feet);
    line(
        &mut picture,
        "grid dash",
        (x.at(0.0), y.at(0.0)),
        (x.at(1.0), y.at(1.0)),
    );
    for (index, curve) in curves.iter().enumerate() {
        let class = CLASSES[index % CLASSES.len()];
        let mut points = vec![(x.at(0.0), y.at(0.0))];
        points.extend(
            curve
                .points
                .iter()
                .map(|(top, share)| (x.at(*top), y.at(*share))),
        );
        if curve.points.last().is_none_or(|(top, _)| *top < 1.0) {
            points.push((x.at(1.0), y.at(1.0)));
        }
        polyline(&mut picture, class, &points);
        let key = frame.top + 8.0 + 20.0 * index as f64;
        let left = frame.right + 14.0;
        line(&mut picture, class, (left, key), (left + 18.0, key));
        label(&mut picture, left + 24.0, key + 4.0, "ink", &curve.name);
    }
    let reach = first.points.iter().find(|(top, _)| *top >= 0.2);
    let reach = reach.map_or_else(String::new, |(top, share)| {
        let (top, share) = (Percent(*top).text(), Percent(*share).text());
        format!(" The top {top} by {} hold {share} of it.", first.name)
    });
    let mut caption = Html::default();
    caption.raw("To the right the share of the deals that is worked, in the order named; upwards the share of the value won later that is among them. Dashed: in no order.");
    Some(Chart {
        id: "backtest",
        title: "Share of the won value in the top of each order".into(),
        description: format!(
            "How much of the value that was won later each order has at its top.{reach}"
        ),
        width: COLUMN,
        height: HEIGHT,
        picture,
        caption,
        table: table(curves),
    })
}

fn table(curves: &[Curve]) -> Table {
    let rows = curves.iter().flat_map(|curve| {
        curve.points.iter().map(|(top, share)| {
            let mut cells = vec![Html::default(); 3];
            cells[0].text(&curve.name);
            cells[1].put(Percent(*top));
            cells[2].put(Percent(*share));
            cells
        })
    });
    Table {
        columns: vec!["Order", "Top share of the deals", "Share of the won value"],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_begin_at_nothing_and_end_at_all() {
        let curve = |name: &str| Curve {
            name: name.into(),
            points: vec![(0.1, 0.4), (0.2, 0.6)],
        };
        let chart = curves(&[curve("expected value"), curve("amount")]).unwrap();
        assert!(
            chart
                .description
                .contains("The top 20% by expected value hold 60% of it.")
        );
        assert_eq!(chart.picture.as_str().matches("<polyline").count(), 2);
        assert!(
            chart.picture.as_str().contains("392.0,12.0 \"/>"),
            "{:?}",
            chart.picture
        );
        assert_eq!(chart.table.rows.len(), 4);
        assert!(curves(&[]).is_none());
    }
}
