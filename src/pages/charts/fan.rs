//! A forecast over a period: what is won already, and the range of what may be won by when.

use jiff::Timestamp;

use super::{COLUMN, Chart, Frame, Scale, Table, area, label, line, polyline, tick};
use crate::pages::format::{Day, Html, Money, shortened};

const HEIGHT: f64 = 280.0;

/// Won value at a moment, in the base currency: 10th, 50th and 90th percentile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    pub at: Timestamp,
    pub p10: f64,
    pub p50: f64,
    pub p90: f64,
}

#[derive(Debug, Clone)]
pub struct Fan {
    pub from: Timestamp,
    pub to: Timestamp,
    /// Won since the beginning of the period, by when, oldest first, up to now.
    pub won: Vec<(Timestamp, f64)>,
    /// From now on, by when.
    pub reach: Vec<Reach>,
    pub target: Option<f64>,
    pub currency: String,
}

/// `None` without a forecast.
pub fn fan(fan: &Fan) -> Option<Chart> {
    let last = fan.reach.last()?;
    let won = fan.won.last().map_or(0.0, |(_, won)| *won);
    let top = last.p90.max(fan.target.unwrap_or(0.0)).max(won);
    let mut picture = Html::default();
    let frame = Frame {
        right: COLUMN - 88.0,
        ..Frame::new(50.0, COLUMN, HEIGHT)
    };
    let values = Scale::new(0.0, 1.08 * top, frame.bottom, frame.top);
    let levels: Vec<_> = (values.ticks(4).into_iter())
        .map(|at| (values.at(at), tick(at)))
        .collect();
    frame.levels(&mut picture, &levels);
    let times = frame.times(&mut picture, fan.from, fan.to);
    let line_of = |value: fn(&Reach) -> f64| -> Vec<(f64, f64)> {
        let points = fan.reach.iter();
        points
            .map(|reach| (times.at(reach.at), values.at(value(reach))))
            .collect()
    };
    let (low, mid, high) = (line_of(|r| r.p10), line_of(|r| r.p50), line_of(|r| r.p90));
    area(&mut picture, "band", &high, &low);
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for (at, won) in &fan.won {
        let (x, y) = (times.at(*at), values.at(*won));
        steps.extend(steps.last().map(|(_, before)| (x, *before)));
        steps.push((x, y));
    }
    polyline(&mut picture, "b", &steps);
    polyline(&mut picture, "a", &mid);
    if let Some(target) = fan.target {
        let y = values.at(target);
        line(&mut picture, "c dash", (frame.left, y), (frame.right, y));
        label(&mut picture, frame.left + 6.0, y - 5.0, "ink", "target");
    }
    ends(&mut picture, last, &values, frame.right + 6.0);
    Some(Chart {
        id: "forecast-chart",
        title: "Won value over the period".into(),
        description: words(fan, last, won),
        width: COLUMN,
        height: HEIGHT,
        picture,
        caption: caption(fan),
        table: table(fan),
    })
}

/// The three percentiles at the end, moved apart where they would cover each other.
fn ends(picture: &mut Html, last: &Reach, values: &Scale, x: f64) {
    const APART: f64 = 14.0;
    let p50 = values.at(last.p50);
    let p90 = values.at(last.p90).min(p50 - APART);
    let p10 = values.at(last.p10).max(p50 + APART);
    label(
        picture,
        x,
        p90 + 4.0,
        "",
        &format!("P90 {}", shortened(last.p90)),
    );
    label(
        picture,
        x,
        p50 + 4.0,
        "strong",
        &format!("P50 {}", shortened(last.p50)),
    );
    label(
        picture,
        x,
        p10 + 4.0,
        "",
        &format!("P10 {}", shortened(last.p10)),
    );
}

fn words(fan: &Fan, last: &Reach, won: f64) -> String {
    let money = |amount: f64| Money::short(amount, &fan.currency).text();
    let target = match fan.target {
        Some(target) => format!(" The target is {}.", money(target)),
        None => String::new(),
    };
    format!(
        "{} are won so far. By the end of the period at least {} in nine of ten cases, {} in one of two, {} in one of ten.{target}",
        money(won),
        money(last.p10),
        money(last.p50),
        money(last.p90),
    )
}

fn caption(fan: &Fan) -> Html {
    let mut caption = Html::default();
    caption.raw("Green: won already. Blue: the middle of what may be won (P50), shaded from the 10th to the 90th percentile.");
    if fan.target.is_some() {
        caption.raw(" Dashed: the target.");
    }
    caption
}

fn table(fan: &Fan) -> Table {
    let rows = fan.reach.iter().map(|reach| {
        let mut cells = vec![Html::default(); 4];
        cells[0].put(Day(reach.at));
        for (cell, amount) in cells[1..].iter_mut().zip([reach.p10, reach.p50, reach.p90]) {
            cell.put(Money::new(amount.round(), &fan.currency));
        }
        cells
    });
    Table {
        columns: vec!["By", "P10", "P50", "P90"],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fan_opens_from_what_is_won() {
        let day =
            |day: u32| -> Timestamp { format!("2026-10-{day:02}T00:00:00Z").parse().unwrap() };
        let reach = |at, p10, p50, p90| Reach { at, p10, p50, p90 };
        let data = Fan {
            from: day(1),
            to: day(31),
            won: vec![(day(1), 0.0), (day(5), 100.0)],
            reach: vec![
                reach(day(11), 100.0, 100.0, 100.0),
                reach(day(31), 200.0, 400.0, 1000.0),
            ],
            target: Some(500.0),
            currency: "EUR".into(),
        };
        let chart = fan(&data).unwrap();
        assert!(chart.description.contains("EUR 100 are won so far"));
        assert!(chart.description.contains("The target is EUR 500."));
        let picture = chart.picture.as_str();
        // 1080 is the top at 12, nothing the bottom at 254.
        let y = 254.0 - 242.0 * 100.0 / 1080.0;
        let x = 50.0 + 422.0 / 3.0;
        assert!(
            picture.contains(&format!("{x:.1},{y:.1} 472.0,")),
            "{picture}"
        );
        assert_eq!(chart.table.rows.len(), 2);
        assert!(fan_of_nothing().is_none());
    }

    fn fan_of_nothing() -> Option<Chart> {
        fan(&Fan {
            from: Timestamp::UNIX_EPOCH,
            to: Timestamp::UNIX_EPOCH,
            won: Vec::new(),
            reach: Vec::new(),
            target: None,
            currency: "EUR".into(),
        })
    }
}
