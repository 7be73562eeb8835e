//! How good the probabilities are, on real deals that the model has not seen.

use std::path::Path;
use std::sync::Arc;

use dealrank::book::{Book, BookSettings};
use dealrank::config::Config;
use dealrank::domain::probability::PROBABILITY_MIN;
use dealrank::domain::{Deal, Exchange, Outcome};
use dealrank::evaluation::Evaluation;
use dealrank::evaluation::backtest::Order;
use dealrank::ingest::{Mapping, Purpose, ReadOptions, read_deals};
use dealrank::model::{Basis, FindingGrade, Form, Model};
use dealrank::progress::silent;
use dealrank::ranking::RankingQuery;
use dealrank::scoring::{Score, Scorer};
use dealrank::simulate::{self, Settings, Truth};
use dealrank::training::{TrainOptions, evaluate, evaluate_at, train};
use jiff::Timestamp;

use crate::servers::{TestStore, accelerator};
use crate::shared::{shared, shared_options};
use crate::world::{all_rows, now};

fn exchange(base: &str) -> Exchange {
    Exchange::only(base.parse().unwrap())
}

fn options(mapping: dealrank::ingest::Mapping, as_of: Timestamp, base: &str) -> TrainOptions {
    TrainOptions {
        as_of,
        trained_at: now(),
        mapping,
        exchange: exchange(base),
    }
}

fn judge(model: &Model, deals: &[Deal], base: &str) -> Evaluation {
    let scorer = Scorer::new(model.clone().into(), exchange(base).into()).unwrap();
    evaluate(&scorer, deals, now()).unwrap().unwrap()
}

/// Leads in the order of the file, and their numbers, which are issued in the order of time.
fn leads(is_last_activity_known: bool) -> Option<(dealrank::ingest::Deals, Vec<u32>)> {
    let path = shared("x_education/leads.csv")?;
    let mut options = shared_options(Purpose::Train, "x_education.toml");
    if is_last_activity_known && let Some(mapping) = &mut options.mapping {
        mapping
            .columns
            .ignore
            .retain(|name| name != "Last Activity");
    }
    let mut file = csv::Reader::from_path(&path).unwrap();
    let place = file
        .headers()
        .unwrap()
        .iter()
        .position(|h| h == "Lead Number");
    let numbers = file
        .records()
        .map(|row| row.unwrap()[place.unwrap()].parse().unwrap());
    let numbers: Vec<u32> = numbers.collect();
    let read = read_deals(&[path], &options, &silent).unwrap();
    assert_eq!(read.deals.len(), numbers.len());
    Some((read, numbers))
}

/// Trained on the leads that are not picked, judged on those that are.
fn held_out(read: dealrank::ingest::Deals, is_test: impl Fn(usize) -> bool) -> Evaluation {
    let part = |wanted: bool| -> Vec<Deal> {
        let rows = read.deals.iter().enumerate();
        let picked = rows.filter(|(index, _)| is_test(*index) == wanted);
        picked.map(|(_, deal)| deal.clone()).collect()
    };
    let model = train(
        &part(false),
        &options(read.mapping.clone(), now(), "USD"),
        &silent,
    )
    .unwrap();
    assert_eq!(model.training.form, Form::Crosses);
    assert!(model.training.is_confirmed_by_linfa);
    judge(&model, &part(true), "USD")
}

/// On the same rows scikit-learn's logistic regression has .870 / .437, boosting .874 / .427.
#[test]
fn x_education_is_predicted_better_than_by_boosting() {
    let Some((read, _)) = leads(false) else {
        return;
    };
    let e = held_out(read, |index| matches!(index % 10, 7..=9));
    assert_eq!(e.rows, 2772);
    assert!(e.auc.unwrap() >= 0.877, "{e:?}");
    assert!(e.log_loss <= 0.422, "{e:?}");
    assert!(e.ece <= 0.035, "{e:?}");
    assert!(e.has_skill);
}

/// Logistic regression .894 / .403, boosting .898 / .392.
#[test]
fn x_education_with_last_activity_is_predicted_better_than_by_boosting() {
    let Some((read, _)) = leads(true) else {
        return;
    };
    let e = held_out(read, |index| matches!(index % 10, 7..=9));
    assert!(e.auc.unwrap() >= 0.901, "{e:?}");
    assert!(e.log_loss <= 0.385, "{e:?}");
}

/// Logistic regression .878 / .431, boosting .882 / .422.
#[test]
fn the_newest_of_x_education_are_predicted_better_than_by_boosting() {
    let Some((read, numbers)) = leads(false) else {
        return;
    };
    let e = held_out(read, |index| numbers[index] >= 630_000);
    assert_eq!(e.rows, 3116);
    assert!(e.auc.unwrap() >= 0.884, "{e:?}");
    assert!(e.log_loss <= 0.421, "{e:?}");
}

fn maven(purpose: Purpose) -> Option<dealrank::ingest::Deals> {
    let path = shared("maven_crm/sales_pipeline.csv")?;
    let options = shared_options(purpose, "maven_crm.toml");
    Some(read_deals(&[path], &options, &silent).unwrap())
}

/// The sheet holds no signal forward in time; passing is not to claim any.
#[test]
fn maven_shows_no_skill_and_the_report_says_so() {
    let Some(read) = maven(Purpose::Train) else {
        return;
    };
    let cut: Timestamp = "2017-09-30T23:59:59Z".parse().unwrap();
    let model = train(
        &read.deals,
        &options(read.mapping.clone(), cut, "USD"),
        &silent,
    )
    .unwrap();
    assert_eq!(model.training.deals, 4726);
    let held_out = model.report.held_out.as_ref().unwrap();
    assert!(held_out.verdict.contains("no skill"), "{held_out:?}");
    let is_newer = |deal: &&Deal| deal.closed_at.is_some_and(|at| at > cut);
    let newer: Vec<Deal> = read.deals.iter().filter(is_newer).cloned().collect();
    assert_eq!(newer.len(), 1985);
    let e = judge(&model, &newer, "USD");
    assert!(!e.has_skill, "{e:?}");
    assert!(
        (e.log_loss - e.log_loss_of_base_rate).abs() < 0.005,
        "{e:?}"
    );
}

/// The columns of a grade, in the order of their names.
fn found(model: &Model, grade: FindingGrade) -> Vec<&str> {
    let findings = model.findings.iter().filter(|f| f.grade == grade);
    let mut names: Vec<&str> = findings.map(|f| f.column.as_str()).collect();
    names.sort_unstable();
    names
}

/// Trains on a file as `dealrank train FILE` does: without a mapping file.
fn train_unmapped(path: &Path, edit: impl Fn(&mut Mapping)) -> Model {
    let read = ReadOptions::new(Purpose::Train, now());
    let mut mapping = read_deals(&[path], &read, &silent).unwrap().mapping;
    edit(&mut mapping);
    let read = ReadOptions {
        mapping: Some(mapping),
        ..read
    };
    let read = read_deals(&[path], &read, &silent).unwrap();
    train(&read.deals, &options(read.mapping, now(), "USD"), &silent).unwrap()
}

#[test]
fn x_education_without_a_mapping_loses_its_leak_and_names_the_suspects() {
    let Some(path) = shared("x_education/leads.csv") else {
        return;
    };
    let model = train_unmapped(&path, |_| ());
    assert_eq!(found(&model, FindingGrade::LeftOut), ["Tags"]);
    assert_eq!(
        found(&model, FindingGrade::Suspect),
        [
            "Asymmetrique Activity Index",
            "Asymmetrique Activity Score",
            "Asymmetrique Profile Index",
            "Asymmetrique Profile Score",
            "Last Activity",
            "Last Notable Activity",
            "Lead Profile",
            "Lead Quality",
        ]
    );
    assert!(model.columns.iter().all(|column| column.name != "Tags"));
    let tags = model.dropped.iter().find(|d| d.column == "Tags").unwrap();
    assert!(tags.reason.contains("AUC of 0.92"), "{}", tags.reason);
    let kept = train_unmapped(&path, |mapping| mapping.columns.keep = vec!["Tags".into()]);
    assert_eq!(found(&kept, FindingGrade::LeftOut), [""; 0]);
    assert!(found(&kept, FindingGrade::Suspect).contains(&"Tags"));
    assert!(kept.columns.iter().any(|column| column.name == "Tags"));
}

/// With the project's mapping the doubtful columns are ignored; the rest has nothing to hide.
#[test]
fn the_honest_columns_of_x_education_raise_no_alarm() {
    let Some(path) = shared("x_education/leads.csv") else {
        return;
    };
    let read = shared_options(Purpose::Train, "x_education.toml");
    let read = read_deals(&[path], &read, &silent).unwrap();
    let model = train(&read.deals, &options(read.mapping, now(), "USD"), &silent).unwrap();
    assert_eq!(model.findings, []);
    assert!(model.dropped.iter().any(|d| d.column == "Tags"));
}

#[test]
fn what_maven_knows_only_of_closed_deals_is_left_out() {
    let Some(path) = shared("maven_crm/sales_pipeline.csv") else {
        return;
    };
    let model = train_unmapped(&path, |_| ());
    let late = ["close_date", "close_value"];
    assert_eq!(found(&model, FindingGrade::LeftOut), late);
    assert_eq!(found(&model, FindingGrade::Suspect), ["account"]);
    let account = model
        .findings
        .iter()
        .find(|f| f.column == "account")
        .unwrap();
    let evidence = &account.evidence;
    assert!(evidence.contains("68% of the 2089 deals"), "{evidence}");
    assert!(model.columns.iter().any(|column| column.name == "account"));
    let as_attribute = train_unmapped(&path, |mapping| mapping.deal.closed_at = None);
    assert_eq!(found(&as_attribute, FindingGrade::LeftOut), late);
    // An amount that is known of won deals alone is none to learn from.
    let as_amount = train_unmapped(&path, |mapping| {
        mapping.deal.amount = Some("close_value".into());
    });
    let left_out = ["amount", "close_date"];
    assert_eq!(found(&as_amount, FindingGrade::LeftOut), left_out);
    assert!(!as_amount.report.held_out.unwrap().has_skill);
}

#[tokio::test(flavor = "multi_thread")]
async fn maven_open_deals_are_scored_and_every_queue_is_in_order() {
    let Some(read) = maven(Purpose::Import) else {
        return;
    };
    let as_of: Timestamp = "2018-01-05T00:00:00Z".parse().unwrap();
    let model = train(&read.deals, &options(read.mapping, as_of, "USD"), &silent).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = TestStore::of(folder.path()).open().await;
    let book = Book::open(
        store,
        accelerator(),
        Arc::new(exchange("USD")),
        BookSettings::default(),
    )
    .await
    .unwrap();
    book.register(&model, "trained", now()).await.unwrap();
    let open = |d: &&Deal| d.outcome == Outcome::Open;
    let owners: std::collections::BTreeSet<String> = read
        .deals
        .iter()
        .filter(open)
        .filter_map(|deal| deal.owner.clone())
        .collect();
    let imported = book.import(read.deals, now()).await.unwrap();
    assert_eq!((imported.created, imported.refused.len()), (8800, 0));
    let activated = book.activate(&model.version, now(), &silent).await.unwrap();
    assert_eq!(activated.scored, 2089);
    let mut ranked = 0;
    for owner in owners {
        let query = RankingQuery {
            owner: Some(owner.clone()),
            ..RankingQuery::default()
        };
        let rows = all_rows(&book, &query).await;
        assert!(
            rows.iter()
                .all(|row| row.deal.owner.as_ref() == Some(&owner))
        );
        let values: Vec<f64> = rows.iter().filter_map(|r| r.score.expected_value).collect();
        assert_eq!(values.len(), rows.len(), "every product has a price");
        assert!(values.is_sorted_by(|a, b| a >= b), "{owner}");
        ranked += rows.len();
    }
    assert_eq!(ranked, 2089);
}

/// Deals with a past: learned as they were, judged on those open at one moment. The reference is
/// .763 / .552 of scikit-learn on weekly snapshots.
#[test]
fn loan_applications_are_predicted_from_their_events() {
    let (Some(path), Some(events)) = (
        shared("loan_pipeline/deals.csv"),
        shared("loan_pipeline/events.csv.gz"),
    ) else {
        return;
    };
    let read = ReadOptions {
        events: Some(events),
        ..shared_options(Purpose::Train, "loan_pipeline.toml")
    };
    let read = read_deals(&[path], &read, &silent).unwrap();
    let cut: Timestamp = "2011-12-19T00:00:00+01:00".parse().unwrap();
    let model = train(&read.deals, &options(read.mapping, cut, "EUR"), &silent).unwrap();
    assert_eq!(model.training.basis, Basis::Landmarks);
    let scorer = Scorer::new(model.into(), exchange("EUR").into()).unwrap();
    let findings = &scorer.model().findings;
    assert!(
        findings.iter().all(|f| f.column == "closed_at"),
        "{findings:?}"
    );
    let e = evaluate_at(&scorer, &read.deals, cut).unwrap().unwrap();
    assert_eq!(e.deals, 667);
    assert!(e.auc.unwrap() >= 0.765, "{e:?}");
    assert!(e.log_loss <= 0.548, "{e:?}");
    assert!(e.ece <= 0.05, "{e:?}");
    assert!(e.has_skill);
    // .51 against .42 in the reference.
    let backtest = e.backtest.unwrap();
    let captured = |order| backtest.captured(order, 0.2).unwrap().value;
    assert!(captured(Order::ExpectedValue) > 0.46, "{backtest:?}");
    assert!(
        captured(Order::ExpectedValue) > captured(Order::Amount),
        "{backtest:?}"
    );
    assert!(captured(Order::ExpectedValue) > captured(Order::AsWorked));
    assert_eq!(backtest.rows_with_amount, 667);
}

/// The one data set whose probabilities are known: closeness to them is what the model is for.
#[test]
fn simulated_probabilities_come_near_the_truth() {
    let settings = Settings {
        deals_count: 6000,
        seed: 11,
        as_of: "2026-10-01".parse().unwrap(),
        history_days: 730,
        extra_columns: 0,
    };
    let (deals, truths): (Vec<Deal>, Vec<f64>) = simulate::pipeline(&settings)
        .unwrap()
        .map(|s| (s.deal, s.truth.p_at_creation))
        .unzip();
    let as_of: Timestamp = "2026-10-01T00:00:00Z".parse().unwrap();
    let trained = TrainOptions {
        exchange: simulate::exchange(),
        ..options(Default::default(), as_of, "EUR")
    };
    let model = train(&deals, &trained, &silent).unwrap();
    assert_eq!(model.training.basis, Basis::Landmarks);
    let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
    let mut error = 0.0;
    let mut spread = 0.0;
    let mean = truths.iter().sum::<f64>() / truths.len() as f64;
    for (deal, truth) in deals.iter().zip(&truths) {
        let score = scorer.score(deal, deal.created_at.unwrap());
        error += (score.win_probability.get() - truth).powi(2);
        spread += (mean - truth).powi(2);
    }
    let explained = 1.0 - error / spread;
    assert!(
        explained > 0.75,
        "explains {explained:.3} of the variance of the truth"
    );
}

/// Deals as a flat file has them, of which the truth is known: no outcome is needed to judge.
#[test]
fn log_loss_and_intervals_come_near_the_truth_on_deals_not_seen() {
    let settings = Settings {
        deals_count: 12_000,
        seed: 9,
        as_of: "2026-10-01".parse().unwrap(),
        history_days: 730,
        extra_columns: 0,
    };
    let flat = |deal: Deal| Deal {
        history: Vec::new(),
        activities: Vec::new(),
        ..deal
    };
    let simulated = simulate::pipeline(&settings).unwrap();
    let closed = simulated.filter(|s| s.deal.outcome != Outcome::Open);
    let (deals, truths): (Vec<Deal>, Vec<f64>) = closed
        .map(|s| (flat(s.deal), s.truth.p_at_creation))
        .unzip();
    let (train_part, test_part): (Vec<usize>, Vec<usize>) =
        (0..deals.len()).partition(|index| index % 5 != 0);
    let training: Vec<Deal> = train_part.iter().map(|&i| deals[i].clone()).collect();
    let as_of: Timestamp = "2026-10-01T00:00:00Z".parse().unwrap();
    let trained = TrainOptions {
        exchange: simulate::exchange(),
        ..options(Default::default(), as_of, "EUR")
    };
    let model = train(&training, &trained, &silent).unwrap();
    assert_eq!(model.training.basis, Basis::Flat);
    let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
    let judged: Vec<Held> = test_part
        .iter()
        .map(|&index| {
            let deal = &deals[index];
            Held::by(&scorer.score(deal, deal.created_at.unwrap()), truths[index])
        })
        .collect();
    let excess = excess_log_loss(&judged);
    assert!(excess < 0.02, "{excess:.4} above the log loss of the truth");
    for share in covered_by_tenth(judged) {
        assert!((0.80..=0.99).contains(&share), "{share:.3} covered");
    }
}

/// Deals with a past, as they were when they were new, and the open ones as they are now. The weights are
/// learned from all ages at once, so that the least likely deals are where intervals miss first: of a deal
/// that nobody moves the truth falls without end.
#[test]
fn intervals_of_new_and_of_open_deals_hold_the_truth_also_where_it_is_unlikely() {
    let settings = Settings {
        deals_count: 12_000,
        seed: 102,
        as_of: "2026-10-01".parse().unwrap(),
        history_days: 730,
        extra_columns: 0,
    };
    let simulated = simulate::pipeline(&settings).unwrap();
    let (deals, truths): (Vec<Deal>, Vec<Truth>) = simulated.map(|s| (s.deal, s.truth)).unzip();
    let as_of: Timestamp = "2026-10-01T00:00:00Z".parse().unwrap();
    let trained = TrainOptions {
        exchange: simulate::exchange(),
        ..options(Default::default(), as_of, "EUR")
    };
    let model = train(&deals, &trained, &silent).unwrap();
    assert_eq!(model.training.basis, Basis::Landmarks);
    let calibration = model.calibration.unwrap();
    assert!(calibration.first_stage.slope > 1.0, "{calibration:?}");
    assert!(calibration.later.slope < 1.0, "{calibration:?}");
    let scorer = Scorer::new(model.into(), simulate::exchange().into()).unwrap();
    let new = deals.iter().zip(&truths);
    let new: Vec<Held> = new
        .map(|(deal, truth)| {
            let score = scorer.score(deal, deal.created_at.unwrap());
            Held::by(&score, truth.p_at_creation)
        })
        .collect();
    let now = deals.iter().zip(&truths).filter_map(|(deal, truth)| {
        let certain = PROBABILITY_MIN..=1.0 - PROBABILITY_MIN;
        let truth = truth.p_now?.clamp(*certain.start(), *certain.end());
        Some(Held::by(&scorer.score(deal, as_of), truth))
    });
    let now: Vec<Held> = now.collect();
    for (judged, excess_max) in [(new, 0.015), (now, 0.04)] {
        let excess = excess_log_loss(&judged);
        assert!(
            excess < excess_max,
            "{excess:.4} above the log loss of the truth"
        );
        let covered = judged.iter().filter(|held| held.is_covered).count() as f64;
        let share = covered / judged.len() as f64;
        assert!((0.85..=0.97).contains(&share), "{share:.3} covered");
        for share in covered_by_tenth(judged) {
            assert!((0.80..=1.0).contains(&share), "{share:.3} covered");
        }
    }
}

/// A probability beside the true one.
struct Held {
    p: f64,
    truth: f64,
    is_covered: bool,
}

impl Held {
    fn by(score: &Score, truth: f64) -> Self {
        let (low, high) = (score.interval.low.get(), score.interval.high.get());
        Self {
            p: score.win_probability.get(),
            truth,
            is_covered: (low..=high).contains(&truth),
        }
    }
}

/// How far the log loss to expect is above that of the true probabilities, as a share of it.
fn excess_log_loss(judged: &[Held]) -> f64 {
    let expected = |p: f64, truth: f64| -truth * p.ln() - (1.0 - truth) * (1.0 - p).ln();
    let of_model: f64 = judged.iter().map(|held| expected(held.p, held.truth)).sum();
    let of_truth: f64 = judged
        .iter()
        .map(|held| expected(held.truth, held.truth))
        .sum();
    of_model / of_truth - 1.0
}

/// The share of true probabilities that are within their interval, from the least likely deals to the
/// most likely.
fn covered_by_tenth(mut judged: Vec<Held>) -> Vec<f64> {
    judged.sort_by(|a, b| a.p.total_cmp(&b.p));
    let tenths = judged.chunks_exact(judged.len() / 10);
    let covered = |tenth: &[Held]| tenth.iter().filter(|held| held.is_covered).count();
    tenths
        .map(|tenth| covered(tenth) as f64 / tenth.len() as f64)
        .collect()
}

/// Coefficients may differ in the last digits from machine to machine: exp and ln do.
#[test]
fn the_shipped_model_is_what_the_sample_gives() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let json = std::fs::read_to_string(root.join("models/sample.json")).unwrap();
    let shipped = Model::from_json(&json).unwrap();
    let sample = root.join("data/deals.ndjson.gz");
    let read = read_deals(
        &[sample],
        &ReadOptions::new(Purpose::Train, shipped.trained_at),
        &silent,
    )
    .unwrap();
    let settings = Config::from_layers(
        toml::Table::new(),
        Some((
            "settings.toml".into(),
            std::fs::read_to_string(root.join("data/settings.toml")).unwrap(),
        )),
        [],
    )
    .unwrap();
    assert_eq!(settings.exchange, simulate::exchange());
    let options = TrainOptions {
        as_of: shipped.training.as_of,
        trained_at: shipped.trained_at,
        mapping: read.mapping,
        exchange: settings.exchange,
    };
    let model = train(&read.deals, &options, &silent).unwrap();
    assert_eq!(model.dropped, shipped.dropped);
    assert_eq!(model.columns.len(), shipped.columns.len());
    for (a, b) in model.columns.iter().zip(&shipped.columns) {
        assert_eq!((&a.name, a.holds), (&b.name, b.holds));
        for (x, y) in a.numbers().iter().zip(b.numbers()) {
            assert!(
                (x - y).abs() <= 1e-6 * y.abs().max(1.0),
                "{}: {x} {y}",
                a.name
            );
        }
    }
}
