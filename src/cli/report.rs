//! The report of a model as text for a terminal.

use std::fmt::Write;

use anyhow::Context;

use crate::error::Result;
use crate::evaluation::Evaluation;
use crate::evaluation::backtest::{Backtest, Captured, TOPS};
use crate::evaluation::drift::{Drift, Shift, Stability};
use crate::evaluation::fairness::Fairness;
use crate::model::{Basis, Calibration, FindingGrade, Form, Model, Scaling};
use crate::report::{Coefficient, coefficients};

/// Coefficients shown, the surest first. The JSON has all.
const COEFFICIENTS_SHOWN_MAX: usize = 15;
/// Columns shown that have drifted.
const SHIFTS_SHOWN_MAX: usize = 10;
/// Longest name of a column or level in a table, in characters.
const NAME_CHARS_MAX: usize = 44;

// Writing to a String cannot fail, which is why the results of `writeln!` are let go.

/// Indented JSON, for files and for programs.
pub fn json(report: &impl serde::Serialize) -> Result<String> {
    let json =
        serde_json::to_string_pretty(report).context("Failed to write the report as JSON")?;
    Ok(format!("{json}\n"))
}

/// What was learned, from what, and how good it is.
pub fn of_model(model: &Model) -> String {
    let mut text = String::new();
    training(&mut text, model);
    weights(&mut text, &coefficients(model));
    if !model.dropped.is_empty() {
        let _ = writeln!(text, "\nleft out:");
        for dropped in &model.dropped {
            let _ = writeln!(text, "  {}: {}", dropped.column, dropped.reason);
        }
    }
    let suspects = || {
        model
            .findings
            .iter()
            .filter(|f| f.grade == FindingGrade::Suspect)
    };
    if suspects().next().is_some() {
        let _ = writeln!(text, "\nkept, but suspected of knowing how deals ended:");
        for finding in suspects() {
            let _ = writeln!(text, "  {}: {}", finding.column, finding.evidence);
        }
    }
    let _ = writeln!(text, "\n{}", model.report.split);
    if let Some(held_out) = &model.report.held_out {
        text.push_str(&of_evaluation(held_out));
    }
    text
}

/// The measures against the base rate, the tables, and the verdict.
pub fn of_evaluation(e: &Evaluation) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} rows of {} deals, {:.1}% won (training: {:.1}%)",
        e.rows,
        e.deals,
        100.0 * e.base_rate,
        100.0 * e.training_base_rate
    );
    measures(&mut text, e);
    reliability(&mut text, e);
    if let Some(found) = &e.backtest {
        backtest(&mut text, found, e);
    }
    if let Some(found) = &e.drift {
        drift(&mut text, found);
    }
    for found in &e.fairness {
        fairness(&mut text, found);
    }
    if let Some(found) = &e.recalibration {
        let _ = writeln!(text, "\n{}", found.summary);
    }
    let _ = writeln!(text, "\n{}", e.verdict);
    text
}

fn training(text: &mut String, model: &Model) {
    let t = &model.training;
    let basis = match t.basis {
        Basis::Flat => {
            "one row each, as their file has them: nothing about elapsed time".to_owned()
        }
        Basis::Landmarks => {
            let dates = match t.landmark_days {
                None | Some(1) => "each day".to_owned(),
                Some(days) => format!("every {days} days"),
            };
            format!("as they stood at creation and {dates} while they were open")
        }
    };
    let _ = writeln!(text, "model {}", model.version);
    let _ = writeln!(
        text,
        "learned from {} closed deals ({} won, {} lost) in {} rows: {basis}",
        t.deals, t.won_deals, t.lost_deals, t.rows
    );
    if let (Some(from), Some(to)) = (t.from, t.to) {
        let _ = writeln!(text, "period {from} to {to}, as known at {}", t.as_of);
    }
    let form = match t.form {
        Form::Lines => "numbers weigh by a line",
        Form::Curves => "numbers weigh by a curve",
        Form::Bands => "numbers weigh by a curve and by bands",
        Form::Crosses => "numbers weigh by a curve and by bands, pairs of columns together",
    };
    let linfa = if t.is_confirmed_by_linfa {
        "confirmed by linfa"
    } else {
        "too large for linfa to confirm"
    };
    let _ = writeln!(
        text,
        "{form}; penalty {:.2} by cross-validation, optimum {linfa}",
        t.alpha
    );
    for tried in &t.tried {
        let _ = writeln!(
            text,
            "  {:<9} log loss {:.4} in cross-validation, penalty {:.2}",
            name_of(tried.form),
            tried.log_loss,
            tried.alpha
        );
    }
    if let Some(calibration) = &model.calibration {
        let _ = writeln!(
            text,
            "calibrated on deals that the coefficients had not seen: {}",
            calibration_text(calibration)
        );
    }
    if let Some(recalibrated) = &model.recalibrated {
        let _ = writeln!(
            text,
            "recalibrated from {} at {}, on {} newer deals: {:+.3} of it",
            recalibrated.from_version,
            recalibrated.at,
            recalibrated.by.deals,
            recalibrated.by.shift
        );
    }
}

fn calibration_text(calibration: &Calibration) -> String {
    let text = |scaling: Scaling| format!("{:.2} x log-odds {:+.2}", scaling.slope, scaling.shift);
    let (first, later) = (text(calibration.first_stage), text(calibration.later));
    if first == later {
        return first;
    }
    format!("{first} in the first stage, {later} later")
}

fn name_of(form: Form) -> &'static str {
    match form {
        Form::Lines => "lines",
        Form::Curves => "curves",
        Form::Bands => "bands",
        Form::Crosses => "crosses",
    }
}

fn weights(text: &mut String, all: &[Coefficient]) {
    let mut surest: Vec<&Coefficient> = all.iter().filter(|c| !c.columns.is_empty()).collect();
    surest.sort_by(|a, b| b.strength().total_cmp(&a.strength()));
    let shown = surest.len().min(COEFFICIENTS_SHOWN_MAX);
    let _ = writeln!(
        text,
        "\n{:<NAME_CHARS_MAX$} {:>9} {:>14}",
        format!("the {shown} surest of {} coefficients", all.len()),
        "log-odds",
        "standard error"
    );
    for c in surest.iter().take(shown) {
        let _ = writeln!(
            text,
            "  {:<width$} {:>9.3} {:>14.3}",
            short(&c.in_words()),
            c.value,
            c.standard_error,
            width = NAME_CHARS_MAX - 2
        );
    }
}

fn measures(text: &mut String, e: &Evaluation) {
    let optional = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.4}"));
    let rows = [
        ("AUC", optional(e.auc), 0.5),
        ("PR AUC", optional(e.pr_auc), e.base_rate),
        (
            "log loss",
            format!("{:.4}", e.log_loss),
            e.log_loss_of_base_rate,
        ),
        (
            "Brier score",
            format!("{:.4}", e.brier),
            e.brier_of_base_rate,
        ),
    ];
    let _ = writeln!(text, "{:<12} {:>8} {:>10}", "", "model", "base rate");
    for (name, model, base_rate) in rows {
        let _ = writeln!(text, "{name:<12} {model:>8} {base_rate:>10.4}");
    }
    let _ = writeln!(
        text,
        "calibration error (ECE) {:.4}   lift {:.2} in the top 10%, {:.2} in the top 20%",
        e.ece, e.lift_10, e.lift_20
    );
}

fn reliability(text: &mut String, e: &Evaluation) {
    let has_money = e
        .reliability
        .iter()
        .any(|bin| bin.actual_won_value.is_some());
    let currency = e.base_currency;
    let _ = write!(
        text,
        "\n{:>16} {:>8} {:>8} {:>15} {:>12}",
        "probability", "rows", "deals", "predicted wins", "actual wins"
    );
    if has_money {
        let (predicted, actual) = (
            format!("predicted {currency}"),
            format!("actual {currency}"),
        );
        let _ = write!(text, " {predicted:>16} {actual:>16}");
    }
    for bin in &e.reliability {
        let range = format!("{:.3}-{:.3}", bin.probability_low, bin.probability_high);
        let _ = write!(
            text,
            "\n{range:>16} {:>8} {:>8} {:>15.1} {:>12}",
            bin.rows, bin.deals, bin.predicted_wins, bin.actual_wins
        );
        if let (Some(predicted), Some(actual)) = (bin.predicted_won_value, bin.actual_won_value) {
            let _ = write!(text, " {predicted:>16.0} {actual:>16.0}");
        }
    }
    text.push('\n');
}

fn backtest(text: &mut String, found: &Backtest, e: &Evaluation) {
    let _ = writeln!(
        text,
        "\nwon value captured by working the top rows first, of {:.0} {} (95% intervals, {} resamples of deals)",
        found.won_value, e.base_currency, e.resamples
    );
    if found.rows_with_amount < e.rows {
        let unpriced = e.rows - found.rows_with_amount;
        let _ = writeln!(
            text,
            "{unpriced} rows without an amount come last in every order"
        );
    }
    let _ = write!(text, "{:<22}", "");
    for top in TOPS {
        let _ = write!(text, " {:>23}", format!("top {:.0}%", 100.0 * top));
    }
    for worked in &found.orders {
        let _ = write!(text, "\n{:<22}", worked.order.words());
        for Captured { share, .. } in &worked.captured {
            let cell = format!("{:.3} ({:.3}-{:.3})", share.value, share.low, share.high);
            let _ = write!(text, " {cell:>23}");
        }
    }
    let _ = write!(text, "\n{:<22}", "value over amount");
    for Captured { share, .. } in &found.over_amount {
        let cell = format!("{:+.3} ({:+.3},{:+.3})", share.value, share.low, share.high);
        let _ = write!(text, " {cell:>23}");
    }
    text.push('\n');
}

fn drift(text: &mut String, found: &Drift) {
    let line = |text: &mut String, shift: &Shift| {
        let _ = writeln!(
            text,
            "  {:<width$} {:>6.3}  {}",
            short(&shift.column),
            shift.psi,
            shift.grade.as_str(),
            width = NAME_CHARS_MAX - 2
        );
    };
    let _ = writeln!(
        text,
        "\ndrift from the training rows (population stability index)"
    );
    line(text, &found.score);
    let unstable = |shift: &&Shift| shift.grade != Stability::Stable;
    let moved: Vec<&Shift> = found.columns.iter().filter(unstable).collect();
    for shift in moved.iter().take(SHIFTS_SHOWN_MAX) {
        line(text, shift);
    }
    let unshown = moved.len().saturating_sub(SHIFTS_SHOWN_MAX);
    if unshown > 0 {
        let _ = writeln!(text, "  and {unshown} more");
    }
    let stable = found.columns.len() - moved.len();
    let _ = writeln!(
        text,
        "  {stable} of {} columns are stable",
        found.columns.len()
    );
}

fn fairness(text: &mut String, found: &Fairness) {
    let ratio = |ratio: Option<f64>| ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
    let _ = writeln!(
        text,
        "\n{} (protected): lowest over highest share in the top {:.0}%: {} by expected value, {} by probability{}",
        found.attribute,
        100.0 * found.top,
        ratio(found.ratio_by_expected_value),
        ratio(found.ratio_by_probability),
        if found.is_flagged {
            "; UNDER FOUR FIFTHS"
        } else {
            ""
        }
    );
    for group in &found.groups {
        let by_value = group.selected_by_expected_value;
        let _ = writeln!(
            text,
            "  {:<width$} {:>8} deals {:>8} {:>8.3}",
            short(&group.group),
            group.deals,
            by_value.map_or("-".into(), |rate| format!("{rate:.3}")),
            group.selected_by_probability,
            width = NAME_CHARS_MAX - 2
        );
    }
    if found.groups.len() < 2 {
        let _ = writeln!(
            text,
            "  fewer than two groups have enough deals to be compared"
        );
    }
}

/// A name that fits its column of a table.
fn short(name: &str) -> String {
    let chars_max = NAME_CHARS_MAX - 2;
    if name.chars().count() <= chars_max {
        return name.to_owned();
    }
    let kept: String = name.chars().take(chars_max - 1).collect();
    format!("{kept}…")
}
