//! Won and lost value by month or quarter, with the win rate above.

use super::{Chart, Frame, Scale, Table, WIDE, label, rect, tick};
use crate::pages::format::{Html, Money, Percent};

const HEIGHT: f64 = 220.0;

/// A month or a quarter.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    pub label: String,
    /// In the base currency.
    pub won: f64,
    pub lost: f64,
    pub won_deals: usize,
    pub lost_deals: usize,
    pub win_rate: Option<f64>,
}

/// `None` where nothing closed.
pub fn columns(steps: &[Column], currency: &str) -> Option<Chart> {
    let highest = steps
        .iter()
        .map(|step| step.won.max(step.lost))
        .fold(0.0, f64::max);
    if highest <= 0.0 {
        return None;
    }
    let mut picture = Html::default();
    let frame = Frame {
        top: 26.0,
        ..Frame::new(56.0, WIDE, HEIGHT)
    };
    let values = Scale::new(0.0, 1.05 * highest, frame.bottom, frame.top);
    let levels: Vec<_> = (values.ticks(4).into_iter())
        .map(|at| (values.at(at), tick(at)))
        .collect();
    frame.levels(&mut picture, &levels);
    let width = (frame.right - frame.left) / steps.len() as f64;
    let every = (steps.len() as f64 / 13.0).ceil() as usize;
    let mut feet = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let left = frame.left + width * index as f64;
        let bar = (0.36 * width).min(34.0);
        let middle = left + width / 2.0;
        for (class, value, x) in [
            ("bar", step.won, middle - bar - 0.5),
            ("bar soft", step.lost, middle + 0.5),
        ] {
            let y = values.at(value);
            rect(&mut picture, class, (x, y), (bar, frame.bottom - y));
        }
        if let Some(rate) = step.win_rate.filter(|_| width > 34.0) {
            label(&mut picture, middle, 14.0, "mid ink", &Percent(rate).text());
        }
        if index.is_multiple_of(every) {
            feet.push((middle, step.label.clone()));
        }
    }
    frame.feet(&mut picture, &feet);
    let mut caption = Html::default();
    caption
        .raw("Left: value won. Right, paler: value lost. Above: the win rate by number of deals.");
    let won: f64 = steps.iter().map(|step| step.won).sum();
    let lost: f64 = steps.iter().map(|step| step.lost).sum();
    Some(Chart {
        id: "series",
        title: "Won and lost value".into(),
        description: format!(
            "{} won and {} lost over {} steps.",
            Money::short(won, currency).text(),
            Money::short(lost, currency).text(),
            steps.len()
        ),
        width: WIDE,
        height: HEIGHT,
        picture,
        caption,
        table: table(steps, currency),
    })
}

fn table(steps: &[Column], currency: &str) -> Table {
    let rows = steps.iter().map(|step| {
        let mut cells = vec![Html::default(); 6];
        cells[0].text(&step.label);
        cells[1].put(Money::new(step.won.round(), currency));
        cells[2].put(Money::new(step.lost.round(), currency));
        cells[3].add(format_args!("{}", step.won_deals));
        cells[4].add(format_args!("{}", step.lost_deals));
        if let Some(rate) = step.win_rate {
            cells[5].put(Percent(rate));
        }
        cells
    });
    Table {
        columns: vec!["When", "Won value", "Lost value", "Won", "Lost", "Win rate"],
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_value() {
        let step = |won: f64, lost: f64| Column {
            label: "Jan".into(),
            won,
            lost,
            won_deals: 1,
            lost_deals: 2,
            win_rate: Some(1.0 / 3.0),
        };
        let chart = columns(&[step(100.0, 0.0), step(50.0, 25.0)], "EUR").unwrap();
        assert!(chart.description.contains("EUR 150 won and EUR 25 lost"));
        // 105 is 168 units high.
        assert!(chart.picture.as_str().contains(r#"height="160.0""#));
        assert!(chart.picture.as_str().contains(r#"height="40.0""#));
        assert_eq!(chart.table.rows.len(), 2);
        assert!(columns(&[step(0.0, 0.0)], "EUR").is_none());
    }
}
