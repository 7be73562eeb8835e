//! Attention against value: each deal at its two ranks.

use super::{Chart, Frame, Scale, Table, WIDE, label, line};
use crate::pages::format::Html;

const HEIGHT: f64 = 330.0;

/// A deal in the picture.
#[derive(Debug, Clone)]
pub struct Point {
    /// Share of the owner's deals that get less attention, 0 to 1.
    pub attention: f64,
    /// Share of the owner's deals that are worth less, 0 to 1.
    pub value: f64,
    pub kind: PointKind,
    /// What a pointer over it reads.
    pub text: String,
    /// Where a click leads.
    pub href: String,
    /// 0 to 1: how much it is worth, as the size of the dot.
    pub weight: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointKind {
    Neglected,
    Overworked,
    InOrder,
}

/// `gap` is how far the ranks of a misprioritised deal are apart at least.
pub fn scatter(points: &[Point], gap: f64) -> Option<Chart> {
    if points.is_empty() {
        return None;
    }
    let mut picture = Html::default();
    let frame = Frame {
        bottom: HEIGHT - 34.0,
        ..Frame::new(40.0, WIDE, HEIGHT)
    };
    let x = Scale::new(0.0, 1.0, frame.left + 10.0, frame.right - 10.0);
    let y = Scale::new(0.0, 1.0, frame.bottom - 10.0, frame.top + 10.0);
    picture.add(format_args!(
        r#"<polygon class="zone neglected" points="{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}"/>"#,
        x.at(0.0),
        y.at(gap),
        x.at(0.0),
        y.at(1.0),
        x.at(1.0 - gap),
        y.at(1.0),
    ));
    picture.add(format_args!(
        r#"<polygon class="zone overworked" points="{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}"/>"#,
        x.at(gap),
        y.at(0.0),
        x.at(1.0),
        y.at(0.0),
        x.at(1.0),
        y.at(1.0 - gap),
    ));
    line(
        &mut picture,
        "axis",
        (frame.left, frame.top),
        (frame.left, frame.bottom),
    );
    line(
        &mut picture,
        "axis",
        (frame.left, frame.bottom),
        (frame.right, frame.bottom),
    );
    line(
        &mut picture,
        "grid dash",
        (x.at(0.0), y.at(0.0)),
        (x.at(1.0), y.at(1.0)),
    );
    let middle = (frame.left + frame.right) / 2.0;
    label(
        &mut picture,
        middle,
        HEIGHT - 8.0,
        "mid",
        "attention: rank among the owner's deals →",
    );
    picture.add(format_args!(
        r#"<text class="mid" transform="translate(20 {:.1}) rotate(-90)">expected value: rank →</text>"#,
        (frame.top + frame.bottom) / 2.0
    ));
    // The lists below the picture name the same deals and lead to them, in an order: who listens or uses
    // the keyboard need not pass through all dots.
    picture.raw(r#"<g aria-hidden="true">"#);
    // The plain ones first, so that they cover nothing.
    let kinds = [
        PointKind::InOrder,
        PointKind::Overworked,
        PointKind::Neglected,
    ];
    for kind in kinds {
        for point in points.iter().filter(|point| point.kind == kind) {
            dot(&mut picture, point, &x, &y);
        }
    }
    picture.raw("</g>");
    label(
        &mut picture,
        x.at(0.0) + 8.0,
        y.at(1.0) + 12.0,
        "strong",
        "Neglected",
    );
    label(
        &mut picture,
        x.at(1.0) - 8.0,
        y.at(0.0) - 6.0,
        "strong end",
        "Overworked",
    );
    let count = |kind| points.iter().filter(|point| point.kind == kind).count();
    Some(Chart {
        id: "attention",
        title: "Attention against value".into(),
        description: format!(
            "Each dot is an open deal, placed by its rank among its owner's deals: to the right by attention, upwards by expected value. {} deals in the upper left are neglected, {} in the lower right overworked. The lists below name them.",
            count(PointKind::Neglected),
            count(PointKind::Overworked),
        ),
        width: WIDE,
        height: HEIGHT,
        picture,
        caption: Html::default(),
        table: Table::default(),
    })
}

fn dot(picture: &mut Html, point: &Point, x: &Scale, y: &Scale) {
    let class = match point.kind {
        PointKind::Neglected => "dot",
        PointKind::Overworked => "dot c",
        PointKind::InOrder => "dot pale",
    };
    let (cx, cy) = (x.at(point.attention), y.at(point.value));
    let r = 2.5 + 4.5 * point.weight.clamp(0.0, 1.0).sqrt();
    if point.kind == PointKind::InOrder {
        picture.add(format_args!(
            r#"<circle class="{class}" cx="{cx:.1}" cy="{cy:.1}" r="{r:.1}"/>"#
        ));
        return;
    }
    picture
        .raw(r#"<a tabindex="-1" href=""#)
        .text(&point.href)
        .raw(r#"" aria-label=""#)
        .text(&point.text)
        .add(format_args!(
            r#""><circle class="{class}" cx="{cx:.1}" cy="{cy:.1}" r="{r:.1}"><title>"#
        ))
        .text(&point.text)
        .raw("</title></circle></a>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deals_stand_by_their_ranks_and_lead_to_their_pages() {
        let point = |attention, value, kind| Point {
            attention,
            value,
            kind,
            text: "A \"deal\" <1>".into(),
            href: "/deals/1".into(),
            weight: 1.0,
        };
        let points = [
            point(0.0, 1.0, PointKind::Neglected),
            point(0.5, 0.5, PointKind::InOrder),
        ];
        let chart = scatter(&points, 0.3).unwrap();
        let html = chart.html().to_string();
        assert!(html.contains(r#"cx="50.0" cy="22.0" r="7.0""#), "{html}");
        assert!(html.contains("A &quot;deal&quot; &lt;1&gt;"));
        assert_eq!(html.matches("href=\"/deals/1\"").count(), 1);
        assert!(chart.description.contains("1 deals in the upper left"));
        assert!(scatter(&[], 0.3).is_none());
    }
}
