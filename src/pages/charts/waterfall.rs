//! From the average deal to this one, reason by reason.
//!
//! Reasons add up as log-odds, so the bars stand on a scale of log-odds, which is labelled with
//! probabilities: a step of one width is the same factor on the odds wherever it stands.

use super::{Scale, label, line, rect};
use crate::domain::probability::{logistic, logit};
use crate::pages::format::{Html, Percent, grouped};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 22.0;
/// Reasons with a row of their own; the others share one.
const REASONS_MAX: usize = 9;
/// Probabilities that the scale may be labelled with.
const LABELS: [f64; 11] = [
    0.001, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 0.99, 0.999,
];

/// What adds to the log-odds.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub name: String,
    /// In words, with what it does to the odds.
    pub text: String,
    /// Log-odds.
    pub contribution: f64,
}

/// A row of the waterfall.
#[derive(Debug, Clone)]
pub struct Row {
    pub name: String,
    pub text: String,
    /// `×1.8`, or a probability for the ends.
    pub effect: String,
    pub kind: RowKind,
    pub bar: Html,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// The average deal, and this one.
    End,
    For,
    Against,
}

impl RowKind {
    fn class(self) -> &'static str {
        match self {
            Self::End => "total",
            Self::For => "for",
            Self::Against => "against",
        }
    }

    /// In words, for who sees no colour.
    pub fn word(self) -> &'static str {
        match self {
            Self::End => "",
            Self::For => "for",
            Self::Against => "against",
        }
    }
}

/// The rows of a waterfall, and the labels below them.
#[derive(Debug, Clone)]
pub struct Waterfall {
    pub rows: Vec<Row>,
    pub axis: Html,
}

/// `intercept` and the steps in log-odds, the farthest step first; `probability` after calibration.
pub fn waterfall(intercept: f64, steps: &[Step], probability: f64) -> Waterfall {
    let log_odds = intercept + steps.iter().map(|step| step.contribution).sum::<f64>();
    let calibration = logit(probability) - log_odds;
    let mut steps = gathered(steps);
    if calibration.abs() > 0.01 {
        steps.push(Step {
            name: "calibration".into(),
            text: "corrects the model by how such probabilities came true".into(),
            contribution: calibration,
        });
    }
    let scale = scale(intercept, &steps);
    let mut rows = Vec::with_capacity(steps.len() + 2);
    rows.push(end("average deal", intercept, &scale));
    let mut reached = intercept;
    for step in steps {
        let next = reached + step.contribution;
        let kind = if step.contribution > 0.0 {
            RowKind::For
        } else {
            RowKind::Against
        };
        rows.push(Row {
            bar: bar(&scale, kind, (reached, next)),
            effect: odds(step.contribution),
            name: step.name,
            text: step.text,
            kind,
        });
        reached = next;
    }
    rows.push(end("this deal", logit(probability), &scale));
    Waterfall {
        rows,
        axis: axis(&scale),
    }
}

/// The farthest steps, and the others as one.
fn gathered(steps: &[Step]) -> Vec<Step> {
    if steps.len() <= REASONS_MAX + 1 {
        return steps.to_vec();
    }
    let (own, rest) = steps.split_at(REASONS_MAX);
    let mut gathered = own.to_vec();
    gathered.push(Step {
        name: format!("{} others", rest.len()),
        text: "smaller reasons, all together".into(),
        contribution: rest.iter().map(|step| step.contribution).sum(),
    });
    gathered
}

fn scale(intercept: f64, steps: &[Step]) -> Scale {
    let (mut low, mut high, mut reached) = (intercept, intercept, intercept);
    for step in steps {
        reached += step.contribution;
        low = low.min(reached);
        high = high.max(reached);
    }
    Scale::new(low - 0.4, high + 0.4, 6.0, WIDTH - 6.0)
}

fn end(name: &str, log_odds: f64, scale: &Scale) -> Row {
    Row {
        name: name.into(),
        text: String::new(),
        effect: Percent(logistic(log_odds)).text(),
        kind: RowKind::End,
        bar: bar(scale, RowKind::End, (scale.min, log_odds)),
    }
}

fn bar(scale: &Scale, kind: RowKind, (from, to): (f64, f64)) -> Html {
    let mut html = Html::default();
    html.add(format_args!(
        r#"<svg class="fall" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">"#
    ));
    for tick in ticks(scale) {
        let x = scale.at(logit(tick));
        line(&mut html, "grid", (x, 0.0), (x, HEIGHT));
    }
    let (left, right) = (scale.at(from.min(to)), scale.at(from.max(to)));
    let height = if kind == RowKind::End { 12.0 } else { 14.0 };
    rect(
        &mut html,
        kind.class(),
        (left, (HEIGHT - height) / 2.0),
        ((right - left).max(1.5), height),
    );
    html.raw("</svg>");
    html
}

fn axis(scale: &Scale) -> Html {
    let mut html = Html::default();
    html.add(format_args!(
        r#"<svg class="fall" viewBox="0 0 {WIDTH} 18" aria-hidden="true">"#
    ));
    for tick in ticks(scale) {
        let text = Percent(tick).text();
        label(&mut html, scale.at(logit(tick)), 13.0, "mid", &text);
    }
    html.raw("</svg>");
    html
}

/// Those of the labels that are on the scale, not too close to each other.
fn ticks(scale: &Scale) -> Vec<f64> {
    let mut ticks: Vec<f64> = Vec::new();
    for tick in LABELS {
        let place = logit(tick);
        let is_on = place > scale.min && place < scale.max;
        let is_free = ticks
            .last()
            .is_none_or(|last| scale.at(place) - scale.at(logit(*last)) > 30.0);
        if is_on && is_free {
            ticks.push(tick);
        }
    }
    ticks
}

/// A contribution as the factor that it is on the odds: `×1.8`, `÷2.5`.
pub fn odds(contribution: f64) -> String {
    let factor = contribution.abs().exp();
    let decimals = if factor < 9.95 { 1 } else { 0 };
    let sign = if contribution < 0.0 { '÷' } else { '×' };
    if factor > 999.0 {
        return format!("{sign}999+");
    }
    // Between 1 and 1.05 one decimal would say that nothing happens.
    let decimals = if factor < 1.05 { 2 } else { decimals };
    format!("{sign}{}", grouped(factor, decimals))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, contribution: f64) -> Step {
        Step {
            name: name.into(),
            text: String::new(),
            contribution,
        }
    }

    #[test]
    fn the_rows_lead_from_the_average_deal_to_this_one() {
        let steps = [step("source", 1.0), step("age", -0.5)];
        let fall = waterfall(-1.0, &steps, logistic(-0.5));
        let names: Vec<_> = fall.rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["average deal", "source", "age", "this deal"]);
        let effects: Vec<_> = fall.rows.iter().map(|row| row.effect.as_str()).collect();
        assert_eq!(effects, ["27%", "×2.7", "÷1.6", "38%"]);
        // From -1.4 to 0.4 on 288 units: the first step begins at 0.4 / 1.8 of them.
        let from = 6.0 + 288.0 * 0.4 / 1.8;
        let width = 288.0 * 1.0 / 1.8;
        let bar = fall.rows[1].bar.as_str();
        assert!(bar.contains(&format!(r#"x="{from:.1}""#)), "{bar}");
        assert!(bar.contains(&format!(r#"width="{width:.1}""#)), "{bar}");
    }

    #[test]
    fn what_calibration_does_is_a_step_and_small_ones_are_gathered() {
        let steps: Vec<Step> = (0..20).map(|i| step(&format!("r{i}"), 0.1)).collect();
        let fall = waterfall(0.0, &steps, 0.7);
        assert_eq!(fall.rows.len(), 1 + REASONS_MAX + 1 + 1 + 1);
        assert_eq!(fall.rows[REASONS_MAX + 1].name, "11 others");
        assert_eq!(fall.rows[REASONS_MAX + 1].effect, "×3.0");
        let calibration = &fall.rows[REASONS_MAX + 2];
        assert_eq!(calibration.name, "calibration");
        assert_eq!(calibration.kind, RowKind::Against);
        assert_eq!(fall.rows.last().unwrap().effect, "70%");
    }

    #[test]
    fn odds_are_factors() {
        assert_eq!(odds(0.0), "×1.00");
        assert_eq!(odds(2f64.ln()), "×2.0");
        assert_eq!(odds(-2.5f64.ln()), "÷2.5");
        assert_eq!(odds(50.0), "×999+");
    }
}
