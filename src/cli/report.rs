//! The report of a model as text for a terminal.

use std::fmt::Write;

use crate::columns::{Column, Treatment};
use crate::evaluation::Evaluation;
use crate::model::{Basis, FindingGrade, Model};

/// Columns shown, the weightiest first.
const COLUMNS_SHOWN_MAX: usize = 12;

/// What was learned, from what, and how good it is.
pub fn of_model(model: &Model) -> String {
    let t = &model.training;
    let mut text = String::new();
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
    // Writing to a String cannot fail.
    let _ = writeln!(text, "model {}", model.version);
    let _ = writeln!(
        text,
        "learned from {} closed deals ({} won, {} lost) in {} rows: {basis}",
        t.deals, t.won_deals, t.lost_deals, t.rows
    );
    if let (Some(from), Some(to)) = (t.from, t.to) {
        let _ = writeln!(text, "period {from} to {to}, as known at {}", t.as_of);
    }
    let linfa = if t.is_confirmed_by_linfa {
        "confirmed by linfa"
    } else {
        "too large for linfa to confirm"
    };
    let _ = writeln!(
        text,
        "penalty {} by cross-validation, optimum {linfa}",
        t.alpha
    );
    let mut columns: Vec<&Column> = model.columns.iter().collect();
    columns.sort_by(|a, b| spread(b).total_cmp(&spread(a)));
    let _ = writeln!(
        text,
        "\n{} columns; the weightiest (log-odds from lowest to highest):",
        columns.len()
    );
    for column in columns.iter().take(COLUMNS_SHOWN_MAX) {
        let _ = writeln!(text, "  {:<44} {:.2}", column.name, spread(column));
    }
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

/// The measures and the reliability table.
pub fn of_evaluation(e: &Evaluation) -> String {
    let mut text = String::new();
    let auc = e.auc.map_or("-".into(), |auc| format!("{auc:.3}"));
    let _ = writeln!(
        text,
        "{} rows of {} deals, {:.1}% won (training: {:.1}%)",
        e.rows,
        e.deals,
        100.0 * e.base_rate,
        100.0 * e.training_base_rate
    );
    let _ = writeln!(
        text,
        "AUC {auc}   log loss {:.4} (base rate {:.4})   Brier {:.4} (base rate {:.4})   ECE {:.4}   lift {:.2} / {:.2} in the top 10% / 20%",
        e.log_loss,
        e.log_loss_of_base_rate,
        e.brier,
        e.brier_of_base_rate,
        e.ece,
        e.lift_10,
        e.lift_20
    );
    let _ = writeln!(
        text,
        "{:>16} {:>8} {:>15} {:>12}",
        "probability", "rows", "predicted wins", "actual wins"
    );
    for bin in &e.reliability {
        let range = format!("{:.3}-{:.3}", bin.probability_low, bin.probability_high);
        let _ = writeln!(
            text,
            "{range:>16} {:>8} {:>15.1} {:>12}",
            bin.rows, bin.predicted_wins, bin.actual_wins
        );
    }
    let _ = writeln!(text, "{}", e.verdict);
    text
}

/// From the lowest to the highest weight of a column: what it can move, in log-odds.
fn spread(column: &Column) -> f64 {
    match &column.treatment {
        Treatment::Number(t) => {
            let apply = |x: f64| t.coefficient * (t.transform.apply(x) - t.mean) / t.deviation;
            (apply(t.high) - apply(t.low)).abs()
        }
        Treatment::Category(t) => {
            let weights = || t.all().map(|level| level.coefficient);
            weights().fold(f64::MIN, f64::max) - weights().fold(f64::MAX, f64::min)
        }
    }
}

/// The report as indented JSON: the model without its weights.
pub fn json_of_model(model: &Model) -> String {
    let json = serde_json::json!({
        "version": model.version,
        "dealrank": model.dealrank,
        "trained_at": model.trained_at,
        "training": model.training,
        "report": model.report,
        "dropped": model.dropped,
        "findings": model.findings,
    });
    format!("{json:#}\n")
}
