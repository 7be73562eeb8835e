//! `/models/{version}`: what a model learned, from what, and whether its scores deserve trust.

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use askama::Template;

use super::charts::curves::{Curve, curves};
use super::charts::reliability::{Bin, reliability};
use super::charts::{Chart, money};
use super::csv::{self, Cell};
use super::format::{Count, Moment, Percent, Points};
use super::glossary;
use super::layout::{Page, PageError, Place, Viewer, render};
use super::models::{origin_in_words, period, report_href};
use crate::app::App;
use crate::error::{Error, Result};
use crate::evaluation::Estimate;
use crate::evaluation::Evaluation;
use crate::evaluation::backtest::{Backtest, Captured};
use crate::evaluation::drift::{Shift, Stability};
use crate::evaluation::reliability::Bin as Judged;
use crate::http::body::segment;
use crate::http::query::Params;
use crate::insight::stats;
use crate::model::{Basis, FindingGrade, Form, Model};
use crate::report::{Coefficient, coefficients};
use crate::store::ModelSummary;
use crate::training::challenge::Paired;

/// Coefficients shown, the surest first; the CSV has all.
const COEFFICIENTS_SHOWN_MAX: usize = 20;
const SHIFTS_SHOWN_MAX: usize = 12;

#[derive(Template)]
#[template(path = "model.html")]
struct ReportPage {
    page: Page,
    model: Model,
    summary: ModelSummary,
    measures: Vec<Measure>,
    reliability: Option<Chart>,
    money: Option<Chart>,
    backtest: Option<Chart>,
    /// By expected value minus by amount, in words.
    over_amount: Option<String>,
    coefficients: Vec<Coefficient>,
    unshown: usize,
    columns: Vec<ColumnNote>,
    shifts: Vec<Shift>,
    stable: usize,
}

/// A measure of the model beside that of saying the base rate to every deal.
struct Measure {
    term: glossary::Term,
    model: String,
    base_rate: String,
    is_better: bool,
}

/// A column that was left out, or that should be looked at.
struct ColumnNote {
    column: String,
    what: &'static str,
    is_suspect: bool,
    why: String,
}

impl ReportPage {
    fn held_out(&self) -> Option<&Evaluation> {
        self.model.report.held_out.as_ref()
    }

    fn href(&self) -> String {
        report_href(&self.summary.version)
    }

    fn share_in_words(&self, share: &Option<f64>) -> String {
        share.map_or_else(|| "–".into(), |share| Percent(share).text())
    }

    fn learned_how(&self) -> String {
        let training = &self.model.training;
        let rows = match training.basis {
            Basis::Flat => "one row each, as their file has them".to_owned(),
            Basis::Landmarks => match training.landmark_days {
                None | Some(1) => "as they stood at creation and each day while open".to_owned(),
                Some(days) => format!("as they stood at creation and every {days} days while open"),
            },
        };
        let form = match training.form {
            Form::Lines => "numbers weigh by a line",
            Form::Curves => "numbers weigh by a curve",
            Form::Bands => "numbers weigh by a curve and by bands",
            Form::Crosses => {
                "numbers weigh by a curve and by bands, and some pairs of columns together"
            }
        };
        format!("{rows}; {form}")
    }
}

pub async fn report(
    app: Data<App>,
    viewer: Viewer,
    request: HttpRequest,
) -> Result<HttpResponse, PageError> {
    viewer.require_manager()?;
    let mut params = Params::of(&request)?;
    let (format, table) = (params.text("format"), params.text("table"));
    params.finish()?;
    let version = match segment(&request).await?.as_str() {
        "active" => app.scorer().await?.model().version.clone(),
        version => version.to_owned(),
    };
    let model = app.book.store().model(&version).await?;
    let models = app.book.store().models().await?;
    let summary = models.into_iter().find(|model| model.version == version);
    let summary = summary.ok_or_else(|| not_found("model", &version))?;
    if format.as_deref() == Some("csv") {
        let table = table.as_deref().unwrap_or_default();
        return Ok(export(&model, &summary, table)?);
    }
    render(&page(&viewer, model, summary))
}

fn not_found(kind: &'static str, id: &str) -> Error {
    Error::NotFound {
        kind,
        id: id.to_owned(),
    }
}

fn page(viewer: &Viewer, model: Model, summary: ModelSummary) -> ReportPage {
    let held_out = model.report.held_out.as_ref();
    let mut surest = surest(&model);
    let unshown = surest.len().saturating_sub(COEFFICIENTS_SHOWN_MAX);
    surest.truncate(COEFFICIENTS_SHOWN_MAX);
    let drift = held_out.and_then(|e| e.drift.as_ref());
    let shifts = drift.map_or(&[][..], |drift| &drift.columns);
    let is_moved = |shift: &&Shift| shift.grade != Stability::Stable;
    let moved: Vec<Shift> = shifts.iter().filter(is_moved).cloned().collect();
    let title = format!("Model {}", model.version);
    ReportPage {
        page: Page::new(viewer, title, Place::Models),
        measures: held_out.map(measures).unwrap_or_default(),
        reliability: held_out.and_then(|e| reliability(&bins(e))),
        money: held_out.and_then(money_by_bin),
        backtest: held_out.and_then(backtest_curves),
        over_amount: held_out.and_then(|e| over_amount(e.backtest.as_ref()?)),
        coefficients: surest,
        unshown,
        columns: column_notes(&model),
        stable: shifts.len() - moved.len(),
        shifts: moved.into_iter().take(SHIFTS_SHOWN_MAX).collect(),
        model,
        summary,
    }
}

/// All but the intercept, by value over standard error.
fn surest(model: &Model) -> Vec<Coefficient> {
    let mut all = coefficients(model);
    all.retain(|coefficient| !coefficient.columns.is_empty());
    all.sort_by(|a, b| b.strength().total_cmp(&a.strength()));
    all
}

fn measures(e: &Evaluation) -> Vec<Measure> {
    let measure = |term, model: Option<f64>, base_rate: f64, is_less_better: bool| {
        let model = model?;
        Some(Measure {
            term,
            model: format!("{model:.3}"),
            base_rate: format!("{base_rate:.3}"),
            is_better: if is_less_better {
                model < base_rate
            } else {
                model > base_rate
            },
        })
    };
    let measures = [
        measure(
            glossary::LOG_LOSS,
            Some(e.log_loss),
            e.log_loss_of_base_rate,
            true,
        ),
        measure(glossary::BRIER, Some(e.brier), e.brier_of_base_rate, true),
        measure(glossary::AUC, e.auc, 0.5, false),
    ];
    measures.into_iter().flatten().collect()
}

/// Rows of a deal are no news of each other: the interval is that of as many deals.
fn bins(e: &Evaluation) -> Vec<Bin> {
    let bin = |bin: &Judged| {
        let rows = bin.rows as f64;
        let actual = bin.actual_wins as f64 / rows;
        let interval = stats::share((actual * bin.deals as f64).round() as usize, bin.deals);
        Bin {
            rows: bin.rows,
            predicted: bin.predicted_wins / rows,
            actual,
            low: interval.low,
            high: interval.high,
        }
    };
    e.reliability.iter().map(bin).collect()
}

fn money_by_bin(e: &Evaluation) -> Option<Chart> {
    let pair = |bin: &Judged| {
        Some(money::Pair {
            low: bin.probability_low,
            high: bin.probability_high,
            predicted: bin.predicted_won_value?,
            actual: bin.actual_won_value?,
        })
    };
    let pairs: Vec<_> = e.reliability.iter().filter_map(pair).collect();
    money::pairs(&pairs, &e.base_currency.to_string())
}

fn backtest_curves(e: &Evaluation) -> Option<Chart> {
    let orders = &e.backtest.as_ref()?.orders;
    let point = |captured: &Captured| (captured.top, captured.share.value);
    let curve = |worked: &crate::evaluation::backtest::Worked| Curve {
        name: worked.order.words().to_owned(),
        points: worked.captured.iter().map(point).collect(),
    };
    let orders: Vec<Curve> = orders.iter().map(curve).collect();
    curves(&orders)
}

/// What working by expected value brings in over working by amount.
fn over_amount(backtest: &Backtest) -> Option<String> {
    let best = backtest.over_amount.iter().find(|c| c.top == 0.2)?;
    let Estimate { value, low, high } = best.share;
    let [value, low, high] = [value, low, high].map(|share| Points(share).text());
    Some(format!(
        "In the top 20%, working by expected value found {value} points of the won value against working by amount (95% interval {low} to {high})."
    ))
}

fn column_notes(model: &Model) -> Vec<ColumnNote> {
    let suspects = model.findings.iter();
    let suspects = suspects.filter(|finding| finding.grade == FindingGrade::Suspect);
    let suspects = suspects.map(|finding| ColumnNote {
        column: finding.column.clone(),
        what: "kept, to be checked",
        is_suspect: true,
        why: finding.evidence.clone(),
    });
    let dropped = model.dropped.iter().map(|dropped| ColumnNote {
        column: dropped.column.clone(),
        what: "left out",
        is_suspect: false,
        why: dropped.reason.clone(),
    });
    suspects.chain(dropped).collect()
}

/// A table of the report for a spreadsheet.
fn export(model: &Model, summary: &ModelSummary, table: &str) -> Result<HttpResponse> {
    let judged = || {
        let held_out = model.report.held_out.as_ref();
        held_out.ok_or_else(|| not_found("held-out report of model", &model.version))
    };
    match table {
        "coefficients" => csv::answer(
            "coefficients",
            &["columns", "levels", "log_odds", "standard_error"],
            coefficients(model).into_iter().map(|c| {
                vec![
                    c.columns.join(" and ").into(),
                    c.levels.join(" and ").into(),
                    c.value.into(),
                    c.standard_error.into(),
                ]
            }),
        ),
        "columns" => csv::answer(
            "columns",
            &["column", "what", "why"],
            column_notes(model)
                .into_iter()
                .map(|note| vec![note.column.into(), note.what.into(), note.why.into()]),
        ),
        "measures" => measures_csv(judged()?),
        "comparison" => comparison_csv(summary),
        "fairness" => fairness_csv(judged()?),
        "reliability" => reliability_csv(judged()?),
        "backtest" => backtest_csv(judged()?),
        "drift" => {
            let drift = judged()?.drift.as_ref();
            let shifts = drift.map_or(&[][..], |drift| &drift.columns);
            csv::answer(
                "drift",
                &["column", "psi", "by_chance", "grade"],
                shifts.iter().map(|shift| {
                    vec![
                        shift.column.clone().into(),
                        shift.psi.into(),
                        shift.by_chance.into(),
                        shift.grade.as_str().into(),
                    ]
                }),
            )
        }
        _ => Err(Error::invalid(
            "table",
            "one of measures, comparison, coefficients, columns, reliability, backtest, drift, fairness",
        )),
    }
}

fn measures_csv(e: &Evaluation) -> Result<HttpResponse> {
    let rows: [(&str, Option<f64>, Option<f64>); 8] = [
        ("log_loss", Some(e.log_loss), Some(e.log_loss_of_base_rate)),
        ("brier", Some(e.brier), Some(e.brier_of_base_rate)),
        ("auc", e.auc, Some(0.5)),
        ("pr_auc", e.pr_auc, Some(e.base_rate)),
        ("ece", Some(e.ece), None),
        ("lift_10", Some(e.lift_10), Some(1.0)),
        ("lift_20", Some(e.lift_20), Some(1.0)),
        ("gain", Some(e.gain.value), Some(0.0)),
    ];
    let row = |(name, model, base_rate): (&str, Option<f64>, Option<f64>)| -> Vec<Cell> {
        vec![name.into(), model.into(), base_rate.into()]
    };
    csv::answer(
        "measures",
        &["measure", "model", "base_rate"],
        rows.into_iter().map(row),
    )
}

fn comparison_csv(summary: &ModelSummary) -> Result<HttpResponse> {
    let challenge = summary.challenge.as_ref();
    let comparison = challenge.and_then(|challenge| challenge.comparison.as_ref());
    let rows = comparison.map(|c| [("log_loss", c.log_loss), ("captured_20", c.captured_20)]);
    let row = |(name, paired): (&str, Paired)| -> Vec<Cell> {
        vec![
            name.into(),
            paired.champion.into(),
            paired.challenger.into(),
            paired.difference.value.into(),
            paired.difference.low.into(),
            paired.difference.high.into(),
        ]
    };
    csv::answer(
        "comparison",
        &[
            "measure",
            "champion",
            "challenger",
            "better_by",
            "low",
            "high",
        ],
        rows.into_iter().flatten().map(row),
    )
}

fn fairness_csv(e: &Evaluation) -> Result<HttpResponse> {
    let columns = [
        "attribute",
        "group",
        "rows",
        "deals",
        "selected_by_expected_value",
        "selected_by_probability",
    ];
    let rows = e.fairness.iter().flat_map(|found| {
        found.groups.iter().map(|group| -> Vec<Cell> {
            vec![
                found.attribute.clone().into(),
                group.group.clone().into(),
                group.rows.into(),
                group.deals.into(),
                group.selected_by_expected_value.into(),
                group.selected_by_probability.into(),
            ]
        })
    });
    csv::answer("fairness", &columns, rows)
}

fn reliability_csv(e: &Evaluation) -> Result<HttpResponse> {
    let columns = [
        "probability_low",
        "probability_high",
        "rows",
        "deals",
        "predicted_wins",
        "actual_wins",
        "predicted_won_value",
        "actual_won_value",
    ];
    let row = |bin: &Judged| -> Vec<Cell> {
        vec![
            bin.probability_low.into(),
            bin.probability_high.into(),
            bin.rows.into(),
            bin.deals.into(),
            bin.predicted_wins.into(),
            bin.actual_wins.into(),
            bin.predicted_won_value.into(),
            bin.actual_won_value.into(),
        ]
    };
    csv::answer("reliability", &columns, e.reliability.iter().map(row))
}

fn backtest_csv(e: &Evaluation) -> Result<HttpResponse> {
    let orders = e.backtest.as_ref().map_or(&[][..], |b| &b.orders);
    let rows = orders.iter().flat_map(|worked| {
        worked.captured.iter().map(|captured| -> Vec<Cell> {
            vec![
                worked.order.words().into(),
                captured.top.into(),
                captured.share.value.into(),
                captured.share.low.into(),
                captured.share.high.into(),
            ]
        })
    });
    csv::answer("backtest", &["order", "top", "share", "low", "high"], rows)
}
