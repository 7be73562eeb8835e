//! From deals as they were to a model.
//!
//! Closed deals become rows ([`rows`]), the newest deals are held out to judge the recipe, and the
//! model that is kept is fitted by the same recipe on all of them.

mod calibration;
pub mod challenge;
mod choice;
mod doubts;
mod judging;
mod leakage;
pub mod recalibration;
mod recipe;
pub mod rows;
mod scarcity;

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::baseline::{self, Baseline, Reads, Scored};
use crate::columns::usual::{CrossFitted, is_trait};
use crate::columns::{Column, ColumnReader, Source};
use crate::crosses::LevelCodes;
use crate::domain::probability::logistic;
use crate::domain::{Deal, Exchange, LogOdds, Phase, Probability, Snapshot};
use crate::error::{Error, Result};
use crate::evaluation::Evaluation;
use crate::features::{self, FEATURES, Reading};
use crate::ingest::Mapping;
use crate::ingest::mapping::ColumnType;
use crate::learning::design::Design;
use crate::learning::estimator::{self, Errors, Fitted, Problem};
use crate::model::{
    Basis, Calibration, Covariance, Dropped, Finding, Model, ModelParts, Report, Training,
};
use crate::progress::{OnProgress, Progress};
use crate::scoring::Scorer;
use judging::judge;
use recipe::Recipe;
use rows::{History, Row};

/// Columns of the covariance's factor: standard errors of wide models are off by one part in eleven.
const COVARIANCE_DRAWS: usize = 64;
/// Drives the folds and the bootstrap: the same deals give the same model.
pub(crate) const SEED: u64 = 20_260_101;
/// Won and lost deals that each side of a split needs for its measures to mean anything.
const HELD_OUT_MIN: usize = 10;

/// What training needs besides deals.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// Nothing later than this is known to the model.
    pub as_of: Timestamp,
    /// Written into the model as its time of training.
    pub trained_at: Timestamp,
    /// Missing tokens, aliases, column types, ignored and protected columns; kept in the model.
    pub mapping: Mapping,
    /// Rates for the amount as a feature; kept in the model.
    pub exchange: Exchange,
}

/// Trains on the closed deals among `deals`. Open ones show what a deal looks like before it ends.
///
/// # Errors
/// `Unusable` when there are no closed deals, only wins, or only losses.
pub fn train(deals: &[Deal], options: &TrainOptions, on_progress: OnProgress) -> Result<Model> {
    let history = History::of(deals, options.as_of)?;
    on_progress(phase("looking for leaks", 0, 1));
    let findings = leakage::inspect(&history, deals, options)?;
    let (report, recipe) = report(&history, &findings, options, on_progress)?;
    fit(
        &history,
        &history.all_rows(),
        recipe,
        &findings,
        options,
        report,
        on_progress,
    )
    .map(|(model, _)| model)
}

/// Judges a model on the closed deals among `deals`, which it must not have seen; `None` when there
/// are none.
///
/// # Errors
/// `Unusable` when no closed deal is among them.
pub fn evaluate(scorer: &Scorer, deals: &[Deal], as_of: Timestamp) -> Result<Option<Evaluation>> {
    let basis = scorer.model().training.basis;
    let history = History::with_basis(deals, as_of, basis)?;
    judge(scorer, &history, &history.all_rows(), SEED)
}

/// Judges a model on the deals that were open at a moment and closed later: what a ranking on that
/// day would have been worth.
///
/// # Errors
/// `Unusable` when there are no such deals.
pub fn evaluate_at(scorer: &Scorer, deals: &[Deal], at: Timestamp) -> Result<Option<Evaluation>> {
    let history = History::open_at(deals, at, scorer.model().training.basis)?;
    judge(scorer, &history, &history.all_rows(), SEED)
}

/// The calibrated probability of a snapshot, without reasons: that of [`Scorer::score`].
fn win_probability(scorer: &Scorer, snapshot: &Snapshot) -> f64 {
    logistic(scorer.calibrated_log_odds(snapshot))
}

/// Fits on older deals and judges on newer ones. The recipe that was chosen goes with the report, and
/// serves the fit on all deals.
fn report(
    history: &History,
    findings: &[Finding],
    options: &TrainOptions,
    on_progress: OnProgress,
) -> Result<(Report, Option<Recipe>)> {
    let split = history.split();
    let (train_deals, test_deals) = (split.train.len(), split.test.len());
    let enough = |deals: &[usize]| {
        let won = deals.iter().filter(|&&d| history.is_won(d)).count();
        won.min(deals.len() - won) >= HELD_OUT_MIN
    };
    if !enough(&split.train) || !enough(&split.test) {
        let report = Report {
            split: format!(
                "too few deals to hold any out: {HELD_OUT_MIN} won and {HELD_OUT_MIN} lost ones are needed on either side ({})",
                split.how
            ),
            train_deals,
            held_out: None,
        };
        return Ok((report, None));
    }
    let unjudged = Report {
        split: split.how.clone(),
        train_deals,
        held_out: None,
    };
    let train_rows = history.training_rows(&split);
    let (model, recipe) = fit(
        history,
        &train_rows,
        None,
        findings,
        options,
        unjudged,
        on_progress,
    )?;
    let scorer = Scorer::new(model.into(), options.exchange.clone().into())?;
    on_progress(phase("judging", 0, test_deals));
    let held_out = judge(&scorer, history, &history.rows_of(&split.test), SEED)?;
    let report = Report {
        split: split.how,
        train_deals,
        held_out,
    };
    Ok((report, Some(recipe)))
}

fn phase(phase: &'static str, done: usize, total: usize) -> Progress {
    Progress {
        phase,
        done: done as u64,
        total: total as u64,
    }
}

/// Columns by looking, the recipe by cross-validation unless it is known, then the fit.
fn fit(
    history: &History,
    picked: &[usize],
    recipe: Option<Recipe>,
    findings: &[Finding],
    options: &TrainOptions,
    report: Report,
    on_progress: OnProgress,
) -> Result<(Model, Recipe)> {
    let rows: Vec<&Row> = picked.iter().map(|&index| &history.rows[index]).collect();
    let snapshots: Vec<Snapshot> = rows.iter().map(|row| history.snapshot(row)).collect();
    let won: Vec<bool> = rows.iter().map(|row| row.won).collect();
    let deals: Vec<usize> = rows.iter().map(|row| row.deal).collect();
    let phases: Vec<Phase> = snapshots.iter().map(Snapshot::phase).collect();
    let Columns {
        mut columns,
        dropped,
        design,
    } = build_columns(history, &snapshots, &deals, findings, options, on_progress)?;
    drop(snapshots);
    let recipe = match recipe {
        Some(recipe) => {
            on_progress(phase("calibrating", 0, 1));
            recipe.calibrated(&columns, &design, &won, &deals, &phases)
        }
        None => Recipe::choose(&columns, &design, &won, &deals, &phases, on_progress),
    };
    let (won_deals, lost_deals) = history.outcomes(&deals);
    let recipe = scarcity::restrained(recipe, won_deals, lost_deals);
    on_progress(phase("weighing columns", 0, 1));
    let (design, pairs) = recipe.design(&mut columns, design, &won, &deals)?;
    on_progress(phase("fitting", 0, 1));
    let problem = Problem {
        design: &design,
        won: &won,
        weights: None,
        alpha: recipe.alpha,
    };
    let mut fitted = estimator::fit(problem, None)?;
    fitted.intercept += scarcity::intercept_shift(won_deals, lost_deals);
    let expected_square = recipe.expected_square(&deals);
    let covariance = covariance(problem, &fitted, &deals, expected_square)?;
    let weights = design.weights(&fitted.coefficients);
    let heights = design.weights(&vec![1.0; weights.len()]);
    let mut rest = &weights[..];
    for column in &mut columns {
        let first_level = weights.len() - rest.len() + column.lines();
        let (own, others) = rest.split_at(column.width());
        column.take_coefficients(own);
        if let Some(height) = heights.get(first_level) {
            column.take_level_variance(expected_square * height * height);
        }
        rest = others;
    }
    let codes = LevelCodes::of(&columns, &design);
    let crosses = codes.crosses(pairs, rest, &mut columns);
    let centers: f64 = columns
        .iter_mut()
        .map(|column| column.centered(rows.len()))
        .sum();
    let calibration = recipe.calibration.unwrap_or(Calibration::IDENTITY);
    let mut eta = design.linear_predictor(&fitted.params());
    for (eta, phase) in eta.iter_mut().zip(&phases) {
        *eta = calibration.scaling(*phase == Phase::Later).apply(*eta);
    }
    let parts = ModelParts {
        trained_at: options.trained_at,
        training: training_facts(history, &rows, &won, &recipe, &fitted, options),
        report,
        baseline: baseline(history, &rows, &columns, &eta, options)?,
        grades: grades(eta)?,
        intercept: fitted.intercept + centers,
        columns,
        crosses,
        calibration: recipe.calibration,
        dropped,
        findings: findings.to_vec(),
        mapping: options.mapping.clone(),
        exchange: options.exchange.clone(),
        covariance,
    };
    on_progress(phase("fitting", 1, 1));
    Ok((Model::new(parts), recipe))
}

struct Columns {
    columns: Vec<Column>,
    dropped: Vec<Dropped>,
    design: Design,
}

/// Looks at every feature and attribute, keeps the useful ones and says why not the others.
fn build_columns(
    history: &History,
    snapshots: &[Snapshot],
    deals: &[usize],
    findings: &[Finding],
    options: &TrainOptions,
    on_progress: OnProgress,
) -> Result<Columns> {
    let mut dropped = forbidden(history, &options.mapping);
    dropped.extend(leakage::dropped(findings));
    let mut read: Vec<(Source, ColumnReader)> = Vec::new();
    for source in sources(history, snapshots, deals, findings, &options.mapping) {
        let reader = column_reader(&source, snapshots, options)?;
        read.push((source, reader));
    }
    let usual = match history.basis {
        Basis::Landmarks => usual(history, deals, &read, options)?,
        Basis::Flat => Vec::new(),
    };
    for fitted in &usual {
        let source = Source::Usual(fitted.usual.clone());
        let reader = ColumnReader::new(&source, ColumnType::Number, &options.mapping)?;
        read.push((source, reader));
    }
    let (mut columns, mut blocks) = (Vec::new(), Vec::new());
    for (done, (source, reader)) in read.iter().enumerate() {
        on_progress(phase("reading columns", done, read.len()));
        let name = source.column_name();
        let is_feature = !matches!(source, Source::Attribute(_));
        let fitted = usual.iter().find(|fitted| fitted.usual.name() == name);
        let rows = snapshots.iter().zip(deals);
        let readings: Vec<Reading> = rows
            .map(|(snapshot, &deal)| match fitted {
                Some(fitted) => fitted.read(snapshot, deal, &options.exchange),
                None => reader.read(snapshot, &options.exchange),
            })
            .collect();
        match Column::fit(
            name.clone(),
            source.clone(),
            reader.holds(),
            &readings,
            deals,
        ) {
            Ok(column) => {
                blocks.extend(column.blocks(&readings));
                columns.push(column);
            }
            // A feature that a flat file cannot have is no news.
            Err(reason) if is_feature && reason.starts_with("no value") => {}
            Err(reason) => dropped.push(Dropped {
                column: name,
                reason,
            }),
        }
    }
    let design = Design::new(snapshots.len(), blocks)
        .map_err(|e| Error::Internal(anyhow::anyhow!("the design matrix: {e}")))?;
    Ok(Columns {
        columns,
        dropped,
        design,
    })
}

/// The features that the rows allow, counts of the kinds of activities that occur, and the attributes that
/// may be used.
fn sources(
    history: &History,
    snapshots: &[Snapshot],
    deals: &[usize],
    findings: &[Finding],
    mapping: &Mapping,
) -> Vec<Source> {
    let has_past = history.basis == Basis::Landmarks;
    let moments = snapshots.iter().map(Snapshot::moment);
    let features = FEATURES
        .iter()
        .filter(|feature| feature.needs.are_met(has_past, moments.clone()))
        .map(|feature| Source::Feature(feature.name.into()));
    let mut sources: Vec<Source> = features.collect();
    if has_past {
        let hides_outcomes = |kind: &str| leakage::hides_outcomes(findings, kind);
        let counts = features::kinds::counts(snapshots, deals, hides_outcomes);
        sources.extend(counts.into_iter().map(Source::Activities));
    }
    let attributes = attribute_names(history, mapping);
    sources.extend(attributes.map(|name| Source::Attribute(name.into())));
    sources.retain(|source| !leakage::leaves_out(findings, source));
    sources
}

/// What is usual for the deals that the rows are of, by the columns that are read of them.
fn usual(
    history: &History,
    deals: &[usize],
    read: &[(Source, ColumnReader)],
    options: &TrainOptions,
) -> Result<Vec<CrossFitted>> {
    let mut learned_from: Vec<Option<&Deal>> = vec![None; history.closed().len()];
    for &deal in deals {
        learned_from[deal] = Some(history.closed()[deal]);
    }
    let traits = read
        .iter()
        .filter(|(source, reader)| is_trait(source, reader.holds()));
    let traits: Vec<(&Source, &ColumnReader)> =
        traits.map(|(source, reader)| (source, reader)).collect();
    CrossFitted::all(&learned_from, &traits, &options.mapping, &options.exchange)
}

/// The attributes that may be used.
fn attribute_names<'a>(
    history: &'a History,
    mapping: &'a Mapping,
) -> impl Iterator<Item = &'a str> + 'a {
    let names = history.attribute_names().into_iter();
    names.filter(|name| why_forbidden(name, mapping).is_none())
}

/// Columns that the mapping forbids, those too that were not even read from the file.
fn forbidden(history: &History, mapping: &Mapping) -> Vec<Dropped> {
    let ignored = mapping.columns.ignore.iter().map(String::as_str);
    let names: BTreeSet<&str> = history
        .attribute_names()
        .into_iter()
        .chain(ignored)
        .collect();
    let dropped = names.into_iter().filter_map(|name| {
        Some(Dropped {
            column: name.into(),
            reason: why_forbidden(name, mapping)?.into(),
        })
    });
    dropped.collect()
}

fn why_forbidden(name: &str, mapping: &Mapping) -> Option<&'static str> {
    let is_in = |names: &[String]| names.iter().any(|n| n == name);
    if is_in(&mapping.columns.protected) {
        Some("protected: never a feature")
    } else if is_in(&mapping.columns.ignore) {
        Some("ignored by the mapping")
    } else {
        None
    }
}

/// A reader of the column that knows what it holds: as the mapping says, or found by looking.
fn column_reader(
    source: &Source,
    snapshots: &[Snapshot],
    options: &TrainOptions,
) -> Result<ColumnReader> {
    let reader = ColumnReader::new(source, ColumnType::Category, &options.mapping)?;
    let holds = match source {
        Source::Feature(_) | Source::Activities(_) | Source::Usual(_) => {
            holds_of_feature(&reader, snapshots, &options.exchange)
        }
        Source::Attribute(name) => {
            let given = options.mapping.columns.types.get(name).copied();
            given.unwrap_or_else(|| reader.discover(snapshots))
        }
    };
    Ok(reader.holding(holds))
}

/// Features are numbers or texts by their nature; the first value tells.
fn holds_of_feature(
    reader: &ColumnReader,
    snapshots: &[Snapshot],
    exchange: &Exchange,
) -> ColumnType {
    let first = snapshots
        .iter()
        .map(|snapshot| reader.read(snapshot, exchange))
        .find(|reading| *reading != Reading::Missing);
    match first {
        Some(Reading::Text(_)) => ColumnType::Category,
        _ => ColumnType::Number,
    }
}

fn training_facts(
    history: &History,
    rows: &[&Row],
    won: &[bool],
    recipe: &Recipe,
    fitted: &Fitted,
    options: &TrainOptions,
) -> Training {
    let mut deals: Vec<usize> = rows.iter().map(|row| row.deal).collect();
    deals.dedup();
    let (won_deals, lost_deals) = history.outcomes(&deals);
    let dates: Vec<Timestamp> = deals.iter().filter_map(|&d| history.dated(d)).collect();
    Training {
        deals: deals.len(),
        won_deals,
        lost_deals,
        rows: rows.len(),
        base_rate: won.iter().filter(|w| **w).count() as f64 / won.len() as f64,
        from: dates.iter().min().copied(),
        to: dates.iter().max().copied(),
        as_of: options.as_of,
        basis: history.basis,
        landmark_days: history.landmark_days,
        pipelines: scarcity::pipelines(history, &deals),
        form: recipe.form(),
        alpha: recipe.alpha,
        cross_penalty: recipe.cross_penalty(),
        doubts: Some(recipe.doubts.clone()),
        disagreement: None,
        disagreement_later: None,
        tried: recipe.tried.clone(),
        is_confirmed_by_linfa: fitted.is_confirmed,
    }
}

/// The covariance of the weights, the rows of a deal taken together; `expected_square` as
/// [`Recipe::expected_square`].
fn covariance(
    problem: Problem,
    fitted: &Fitted,
    deals: &[usize],
    expected_square: f64,
) -> Result<Covariance> {
    let errors = Errors {
        groups: deals,
        expected_square,
        draws: COVARIANCE_DRAWS,
        seed: SEED,
    };
    let factor = estimator::covariance_factor(problem, fitted, errors);
    let factor = factor.ok_or_else(|| {
        Error::Unusable("the columns are too alike to tell their effects apart".into())
    })?;
    let heights = problem.design.weights(&vec![1.0; factor.nrows()]);
    let rows = factor.rows().into_iter().zip(heights);
    let weighed = rows.map(|(row, height)| row.iter().map(|x| x * height).collect());
    Ok(Covariance::new(weighed))
}

/// The training rows in outline; `eta` are their calibrated log-odds.
fn baseline(
    history: &History,
    rows: &[&Row],
    columns: &[Column],
    eta: &[f64],
    options: &TrainOptions,
) -> Result<Baseline> {
    let deals: BTreeSet<usize> = rows.iter().map(|row| row.deal).collect();
    let picked: Vec<usize> = baseline::spread(rows.len()).collect();
    let snapshots: Vec<Snapshot> = picked.iter().map(|&i| history.snapshot(rows[i])).collect();
    let probabilities: Vec<f64> = picked.iter().map(|&i| logistic(eta[i])).collect();
    let won: Vec<bool> = picked.iter().map(|&i| rows[i].won).collect();
    let scored = Scored {
        snapshots: &snapshots,
        probabilities: &probabilities,
        deals: deals.len(),
    };
    let reads = Reads {
        mapping: &options.mapping,
        exchange: &options.exchange,
    };
    Baseline::of(columns, scored, &won, reads)
}

/// The quartiles of the training rows' probabilities, the best first.
fn grades(mut eta: Vec<f64>) -> Result<[Probability; 3]> {
    eta.sort_by(|a, b| b.total_cmp(a));
    let mut bounds = [0.25, 0.5, 0.75].map(|share| eta[(eta.len() as f64 * share) as usize]);
    bounds.sort_by(|a, b| b.total_cmp(a));
    let [a, b, c] = bounds.map(LogOdds::new);
    let unusable = |e: String| Error::Unusable(format!("the fit is not finite: {e}"));
    Ok([
        a.map_err(unusable)?.probability(),
        b.map_err(unusable)?.probability(),
        c.map_err(unusable)?.probability(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::columns::{NumberTreatment, Treatment};
    use crate::domain::{AttributeValue, DealId, Outcome};
    use crate::progress::silent;
    use crate::simulate::{self, Settings};

    fn options() -> TrainOptions {
        TrainOptions {
            as_of: "2026-10-01T00:00:00Z".parse().unwrap(),
            trained_at: "2026-10-01T12:00:00Z".parse().unwrap(),
            mapping: Mapping::default(),
            exchange: simulate::exchange(),
        }
    }

    fn simulated(deals_count: u64) -> (Vec<Deal>, Vec<f64>) {
        let settings = Settings {
            deals_count,
            seed: 7,
            as_of: "2026-10-01".parse().unwrap(),
            history_days: 730,
            extra_columns: 4,
        };
        let simulated = simulate::pipeline(&settings).unwrap();
        simulated.map(|s| (s.deal, s.truth.p_at_creation)).unzip()
    }

    /// A deal from a flat file: attributes and an outcome.
    fn flat(index: usize, attributes: &[(&str, &str)], outcome: Outcome) -> Deal {
        let mut deal = Deal::new(DealId::new(&format!("f{index}")).unwrap());
        deal.outcome = outcome;
        for (name, value) in attributes {
            let value = AttributeValue::Text((*value).into());
            deal.attributes.insert((*name).into(), value);
        }
        deal
    }

    #[test]
    fn a_model_of_simulated_deals_comes_near_their_truth() {
        let (deals, _) = simulated(4000);
        let model = train(&deals, &options(), &silent).unwrap();
        assert_eq!(model.training.basis, Basis::Landmarks);
        assert!(model.training.is_confirmed_by_linfa);
        let held_out = model.report.held_out.as_ref().unwrap();
        assert!(held_out.has_skill, "{}", held_out.verdict);
        assert!(held_out.auc.unwrap() > 0.7, "{held_out:?}");
        assert!(held_out.ece < 0.06, "{held_out:?}");
    }

    #[test]
    fn the_same_deals_give_the_same_model_and_a_file_changes_no_score() {
        let (deals, _) = simulated(800);
        let model = train(&deals, &options(), &silent).unwrap();
        assert_eq!(model, train(&deals, &options(), &silent).unwrap());
        let loaded = Model::from_json(&model.to_json()).unwrap();
        assert_eq!(loaded, model);
        let exchange = std::sync::Arc::new(simulate::exchange());
        let scorer = |m: &Model| Scorer::new(m.clone().into(), exchange.clone()).unwrap();
        let (before, after) = (scorer(&model), scorer(&loaded));
        let now = options().as_of;
        for deal in &deals {
            let (a, b) = (before.score(deal, now), after.score(deal, now));
            assert_eq!(
                a.win_probability.get().to_bits(),
                b.win_probability.get().to_bits()
            );
            assert_eq!(a, b);
        }
    }

    #[test]
    fn reasons_and_intercept_are_the_log_odds_exactly_in_any_order() {
        let (deals, _) = simulated(800);
        let model = train(&deals, &options(), &silent).unwrap();
        let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
        for deal in &deals {
            let score = scorer.score(deal, options().as_of);
            let forward = score.reasons.iter().map(|r| r.contribution);
            let backward = forward.clone().rev();
            assert_eq!(forward.fold(score.intercept, |s, c| s + c), score.log_odds);
            assert_eq!(backward.fold(score.intercept, |s, c| s + c), score.log_odds);
            let interval = score.interval;
            assert!(interval.low <= score.win_probability);
            assert!(score.win_probability <= interval.high);
            assert!(score.reasons.iter().all(|r| r.contribution != 0.0));
        }
    }

    #[test]
    fn a_damaged_model_is_refused() {
        let (deals, _) = simulated(400);
        let json = train(&deals, &options(), &silent).unwrap().to_json();
        let digit = json.find("\"coefficient\": 0.").map(|i| i + 17).unwrap();
        let mut damaged = json.clone();
        let changed = if &json[digit..=digit] == "1" {
            "2"
        } else {
            "1"
        };
        damaged.replace_range(digit..=digit, changed);
        let reason = Model::from_json(&damaged).unwrap_err().to_string();
        assert!(reason.contains("does not match its version"), "{reason}");
        let cut = Model::from_json(&json[..json.len() / 2])
            .unwrap_err()
            .to_string();
        assert!(cut.contains("not a dealrank model"), "{cut}");
    }

    #[test]
    fn a_model_that_scoring_could_fail_on_is_refused() {
        let (deals, _) = simulated(400);
        let model = train(&deals, &options(), &silent).unwrap();
        let parts = |spoil: &dyn Fn(&mut ModelParts)| {
            let model = model.clone();
            let mut parts = ModelParts {
                trained_at: model.trained_at,
                training: model.training,
                report: model.report,
                baseline: model.baseline,
                grades: model.grades,
                intercept: model.intercept,
                columns: model.columns,
                crosses: model.crosses,
                calibration: model.calibration,
                dropped: model.dropped,
                findings: model.findings,
                mapping: model.mapping,
                exchange: model.exchange,
                covariance: model.covariance,
            };
            spoil(&mut parts);
            Model::new(parts)
        };
        let with = |intercept: f64, columns: Vec<Column>| {
            parts(&|parts| (parts.intercept, parts.columns) = (intercept, columns.clone()))
        };
        let reason = |model: Model| Model::from_json(&model.to_json()).unwrap_err().to_string();
        assert!(reason(with(1e300, model.columns.clone())).contains("beyond"));
        let spoil = |spoil: &dyn Fn(&mut NumberTreatment)| {
            let mut columns = model.columns.clone();
            let number = columns.iter_mut().find_map(|c| match &mut c.treatment {
                Treatment::Number(number) => Some(number),
                Treatment::Category(_) => None,
            });
            spoil(number.unwrap());
            reason(with(model.intercept, columns))
        };
        assert!(spoil(&|number| number.deviation = 0.0).contains("beyond"));
        assert!(spoil(&|number| number.low = number.high + 1.0).contains("beyond"));
        let mut twins = model.columns.clone();
        twins[1].name = twins[0].name.clone();
        assert!(reason(with(model.intercept, twins)).contains("same name"));
        let doubtless = parts(&|parts| {
            let doubts = parts.training.doubts.as_mut().unwrap();
            doubts.forms.new[0].variance = -1.0;
        });
        assert!(reason(doubtless).contains("beyond"));
        // Larger than any number: the interval is all that there can be, and nothing fails.
        let width = model.width() + 1;
        let unsure = parts(&|parts| {
            parts.covariance = Covariance::new((0..width).map(|_| vec![1e38, -1e38]));
        });
        let unsure = Model::from_json(&unsure.to_json()).unwrap();
        let scorer = Scorer::new(unsure.into(), simulate::exchange().into()).unwrap();
        let interval = scorer.score(&deals[0], options().as_of).interval;
        assert!(interval.low.get() < 1e-5 && interval.high.get() > 1.0 - 1e-5);
    }

    #[test]
    fn one_class_is_refused_and_one_win_is_not_taken_for_knowledge() {
        let lost: Vec<Deal> = (0..30)
            .map(|i| flat(i, &[("a", "x")], Outcome::Lost))
            .collect();
        let refused = train(&lost, &options(), &silent).unwrap_err().to_string();
        assert!(
            refused.contains("all 30 closed deals are lost"),
            "{refused}"
        );
        let mut deals = lost;
        deals.push(flat(30, &[("a", "y")], Outcome::Won));
        let model = train(&deals, &options(), &silent).unwrap();
        let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
        let score = scorer.score(&deals[30], options().as_of);
        assert!(score.win_probability.get() < 0.2, "{score:?}");
        assert!(
            score
                .warnings
                .iter()
                .any(|w| w.code == "insufficient_history")
        );
    }

    #[test]
    fn odd_values_are_warned_of_and_never_break_a_score() {
        let deals: Vec<Deal> = (0..400)
            .map(|i| {
                let source = ["web", "event", "partner"][i % 3];
                let size = (i / 8).to_string();
                let outcome = if (i * 7) % 10 < 3 + i % 3 {
                    Outcome::Won
                } else {
                    Outcome::Lost
                };
                flat(
                    i,
                    &[("source", source), ("size", &size), ("never", "No")],
                    outcome,
                )
            })
            .collect();
        let model = train(&deals, &options(), &silent).unwrap();
        assert_eq!(model.dropped.len(), 1);
        assert_eq!(model.dropped[0].column, "never");
        let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
        let codes = |attributes: &[(&str, &str)]| {
            let score = scorer.score(&flat(0, attributes, Outcome::Open), options().as_of);
            let mut codes: Vec<String> = score.warnings.into_iter().map(|w| w.code).collect();
            codes.sort();
            codes
        };
        assert_eq!(codes(&[("source", "web"), ("size", "7")]), ["no_amount"]);
        assert_eq!(
            codes(&[("source", "fax"), ("size", "1e9")]),
            ["no_amount", "out_of_range", "unseen_category"]
        );
        assert_eq!(
            codes(&[("size", "NaN")]),
            ["missing_unseen", "no_amount", "unreadable_value"]
        );
    }

    #[test]
    fn the_outcome_of_a_deal_does_not_move_its_score() {
        let (deals, _) = simulated(400);
        let model = train(&deals, &options(), &silent).unwrap();
        let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
        for deal in deals.iter().filter(|deal| !deal.is_open()) {
            let creation = deal.created_at.unwrap();
            let mut flipped = deal.clone();
            flipped.outcome = match deal.outcome {
                Outcome::Won => Outcome::Lost,
                _ => Outcome::Won,
            };
            assert_eq!(
                scorer.score(deal, creation),
                scorer.score(&flipped, creation)
            );
        }
    }

    #[test]
    fn amounts_without_a_rate_have_no_expected_value() {
        let (deals, _) = simulated(400);
        let model = train(&deals, &options(), &silent).unwrap();
        let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
        let mut deal = deals[0].clone();
        deal.history
            .retain(|c| c.field != "amount" && c.field != "currency");
        deal.amount = Some(1000.into());
        deal.currency = Some("EUR".parse().unwrap());
        let score = scorer.score(&deal, options().as_of);
        let expected = (score.win_probability.get() * 1000.0 * 100.0).round() / 100.0;
        assert_eq!(score.expected_value, Some(expected));
        deal.currency = Some("JPY".parse().unwrap());
        let score = scorer.score(&deal, options().as_of);
        assert_eq!(score.expected_value, None);
        assert!(score.warnings.iter().any(|w| w.code == "no_rate"));
    }
}
