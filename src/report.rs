//! The report of a model, as files and HTTP give it: what it learned, from what, and how good it is.

use jiff::Timestamp;
use serde::Serialize;

use crate::columns::{Column, Curve, Treatment};
use crate::crosses::Cross;
use crate::model::{Dropped, Finding, Model, Recalibrated, Report, Training};

/// All that is known of a model.
#[derive(Debug, Serialize)]
pub struct ModelReport<'a> {
    pub version: &'a str,
    /// The dealrank version that wrote the model.
    pub dealrank: &'a str,
    pub trained_at: Timestamp,
    pub training: &'a Training,
    /// `None` for a model as it was trained.
    pub recalibrated: Option<&'a Recalibrated>,
    #[serde(flatten)]
    pub report: &'a Report,
    pub coefficients: Vec<Coefficient>,
    pub dropped: &'a [Dropped],
    /// Columns that know, or may know, how deals ended.
    pub findings: &'a [Finding],
}

impl<'a> ModelReport<'a> {
    pub fn of(model: &'a Model) -> Self {
        Self {
            version: &model.version,
            dealrank: &model.dealrank,
            trained_at: model.trained_at,
            training: &model.training,
            recalibrated: model.recalibrated.as_ref(),
            report: &model.report,
            coefficients: coefficients(model),
            dropped: &model.dropped,
            findings: &model.findings,
        }
    }
}

/// What stands for a level of a number's curve.
const SQUARED: &str = "squared";

/// A coefficient of the fit and how sure it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coefficient {
    /// The column; two for what they weigh together.
    pub columns: Vec<String>,
    /// The level of each column, in words, or `squared` for the curve of a number; none for its line (each
    /// for one standard deviation) and for the intercept.
    pub levels: Vec<String>,
    /// Log-odds.
    pub value: f64,
    /// Of the penalised fit, rows of one deal counted together. A penalty pulls values towards zero,
    /// so that `value / standard_error` orders them and is no test.
    pub standard_error: f64,
}

impl Coefficient {
    /// `amount`, `stage is demo`, `stage is demo and owner is missing`.
    pub fn in_words(&self) -> String {
        if self.levels.is_empty() {
            return self.columns.join(" and ");
        }
        let pairs = self.columns.iter().zip(&self.levels);
        let pairs: Vec<String> = pairs
            .map(|(column, level)| format!("{column} {level}"))
            .collect();
        pairs.join(" and ")
    }

    /// The value in standard errors, without sign.
    pub fn strength(&self) -> f64 {
        self.value.abs() / self.standard_error
    }
}

/// All coefficients in the order of the design, the intercept last and without a column: the log-odds
/// of a deal whose numbers are average and that has no level.
///
/// They are as fitted: what a score gives to a level includes the means of its crosses besides.
pub fn coefficients(model: &Model) -> Vec<Coefficient> {
    let centers: f64 = model.columns.iter().map(|column| column.center).sum();
    let intercept = (Vec::new(), Vec::new(), model.intercept - centers);
    let of_columns = model
        .columns
        .iter()
        .flat_map(|column| of_column(column, &model.crosses));
    let of_crosses = model
        .crosses
        .iter()
        .flat_map(|cross| of_cross(cross, model));
    let all = of_columns.chain(of_crosses).chain([intercept]);
    all.enumerate()
        .map(|(place, (columns, levels, value))| Coefficient {
            columns,
            levels,
            value,
            standard_error: model.covariance.standard_error(place),
        })
        .collect()
}

/// Columns, levels and value.
type Weight = (Vec<String>, Vec<String>, f64);

fn of_column(column: &Column, crosses: &[Cross]) -> Vec<Weight> {
    let name = || vec![column.name.clone()];
    let lines = match &column.treatment {
        Treatment::Number(number) => {
            let line = (name(), Vec::new(), number.coefficient);
            let bend = |curve: Curve| (name(), vec![SQUARED.to_owned()], curve.coefficient);
            [Some(line), number.curve.map(bend)]
        }
        Treatment::Category(_) => [None, None],
    };
    let means = |code: usize| -> f64 {
        let left = crosses.iter().filter(|cross| cross.left == column.name);
        let right = crosses.iter().filter(|cross| cross.right == column.name);
        let means = left
            .map(|c| &c.left_means)
            .chain(right.map(|c| &c.right_means));
        means.filter_map(|means| means.get(code)).sum()
    };
    let levels = column
        .level_weights()
        .enumerate()
        .map(|(code, (weight, _))| {
            let level = vec![column.level_text(code as u32)];
            (name(), level, weight - means(code))
        });
    lines.into_iter().flatten().chain(levels).collect()
}

fn of_cross(cross: &Cross, model: &Model) -> Vec<Weight> {
    let pair = || vec![cross.left.clone(), cross.right.clone()];
    let text = |name: &str, code: u32| {
        let column = model.column(name).map(|place| &model.columns[place]);
        column.map_or(String::new(), |column| column.level_text(code))
    };
    let cells = cross.cells.iter().map(|cell| {
        let levels = vec![text(&cross.left, cell.left), text(&cross.right, cell.right)];
        (pair(), levels, cell.coefficient)
    });
    cells.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Form;
    use crate::progress::silent;
    use crate::simulate::{self, Settings};
    use crate::training::{TrainOptions, train};

    fn model(deals_count: u64) -> Model {
        let settings = Settings {
            deals_count,
            seed: 7,
            as_of: "2026-10-01".parse().unwrap(),
            history_days: 730,
            extra_columns: 0,
        };
        let deals: Vec<_> = simulate::pipeline(&settings)
            .unwrap()
            .map(|s| s.deal)
            .collect();
        let options = TrainOptions {
            as_of: "2026-10-01T00:00:00Z".parse().unwrap(),
            trained_at: "2026-10-01T12:00:00Z".parse().unwrap(),
            mapping: Default::default(),
            exchange: simulate::exchange(),
        };
        train(&deals, &options, &silent).unwrap()
    }

    #[test]
    fn every_coefficient_has_its_name_and_its_error() {
        let model = model(1500);
        let found = coefficients(&model);
        assert_eq!(found.len(), model.width() + 1);
        for c in &found {
            assert!(c.value.is_finite() && c.standard_error > 0.0, "{c:?}");
        }
        let names: std::collections::HashSet<String> =
            found.iter().map(Coefficient::in_words).collect();
        assert_eq!(names.len(), found.len(), "no two read alike");
        assert!(found.last().is_some_and(|c| c.columns.is_empty()));
        assert!(names.contains("amount") && names.iter().any(|n| n.starts_with("stage is ")));
    }

    /// Without crosses a level weighs its coefficient, and the intercept is that of no level at all.
    #[test]
    fn coefficients_and_the_model_say_the_same() {
        let model = model(600);
        assert_ne!(model.training.form, Form::Crosses);
        let found = coefficients(&model);
        let centers: f64 = model.columns.iter().map(|c| c.center).sum();
        let intercept = found.last().unwrap().value;
        assert!((intercept + centers - model.intercept).abs() < 1e-12);
        let column = model.columns.iter().find(|c| c.name == "stage").unwrap();
        let own: Vec<f64> = found
            .iter()
            .filter(|c| c.columns == ["stage"])
            .map(|c| c.value)
            .collect();
        let weights: Vec<f64> = column.level_weights().map(|(weight, _)| weight).collect();
        assert_eq!(own, weights);
    }
}
