//! Judging a model on rows that it has not seen: all that a report says of them is read here.

use jiff::Timestamp;

use super::recalibration::recalibration;
use super::rows::{History, Row};
use super::win_probability;
use crate::baseline::{Reads, Scored};
use crate::columns::{ColumnReader, Source};
use crate::domain::Snapshot;
use crate::error::Result;
use crate::evaluation::fairness::{self, Fairness};
use crate::evaluation::{Evaluation, Judged, Reference, evaluate};
use crate::features::{Reading, days_between};
use crate::ingest::mapping::ColumnType;
use crate::model::Model;
use crate::scoring::Scorer;

/// Activities older than this say nothing of what reps work on.
const ATTENTION_DAYS: f64 = 30.0;

/// Judges by the picked rows, against the base rate that the model was trained on; `None` when none
/// are picked. `seed` drives the bootstrap.
///
/// # Errors
/// When a column of the model cannot be read.
pub fn judge(
    scorer: &Scorer,
    history: &History,
    picked: &[usize],
    seed: u64,
) -> Result<Option<Evaluation>> {
    let model = scorer.model();
    let rows: Vec<&Row> = picked.iter().map(|&index| &history.rows[index]).collect();
    let snapshots: Vec<Snapshot> = rows.iter().map(|row| history.snapshot(row)).collect();
    let judged = judged(scorer, &rows, &snapshots);
    let reference = Reference {
        base_rate: model.training.base_rate,
        base_currency: scorer.exchange().base(),
    };
    let Some(mut evaluation) = evaluate(&judged, reference, seed) else {
        return Ok(None);
    };
    let scored = Scored {
        snapshots: &snapshots,
        probabilities: &judged.iter().map(|r| r.probability).collect::<Vec<f64>>(),
        deals: evaluation.deals,
    };
    let reads = Reads {
        mapping: &model.mapping,
        exchange: &model.exchange,
    };
    evaluation.drift = Some(model.baseline.drift(scored, reads)?);
    evaluation.recalibration = recalibration(scorer, history, picked);
    evaluation.fairness = fairness(model, &judged, &snapshots)?;
    Ok(Some(evaluation))
}

fn judged(scorer: &Scorer, rows: &[&Row], snapshots: &[Snapshot]) -> Vec<Judged> {
    let baseline = &scorer.model().baseline;
    let last = rows.iter().map(|row| row.at).max().unwrap_or_default();
    // Of rows that all stand at their creation, the oldest has waited longest when the last comes in.
    let is_new = |s: &Snapshot| s.created_at().is_none_or(|at| at == s.moment());
    let are_new = snapshots.iter().all(is_new);
    let has_activities = snapshots.iter().any(|s| !s.activities().is_empty());
    let judge = |(row, snapshot): (&&Row, &Snapshot)| {
        let until = if are_new { last } else { row.at };
        Judged {
            probability: win_probability(scorer, snapshot),
            won: row.won,
            deal: row.deal,
            amount: scorer.base_amount(snapshot),
            stage_win_rate: snapshot
                .stage()
                .and_then(|stage| baseline.stage_win_rate(stage)),
            waiting: snapshot.created_at().map(|created| seconds(created, until)),
            attention: has_activities.then(|| attention(snapshot)),
        }
    };
    rows.iter().zip(snapshots).map(judge).collect()
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// What reps did for a deal: activities of the last 30 days that did not come from the other side; of
/// deals with as many, the one touched last has more.
fn attention(snapshot: &Snapshot) -> f64 {
    let is_own = |direction: Option<&str>| direction != Some("inbound");
    let own = snapshot.activities().iter().rev();
    let days: Vec<f64> = own
        .filter(|activity| is_own(activity.direction.as_deref()))
        .map(|activity| days_between(activity.at, snapshot.moment()))
        .take_while(|days| *days < ATTENTION_DAYS)
        .collect();
    let recency = days.first().map_or(0.0, |days| 1.0 / (2.0 + days));
    days.len() as f64 + recency
}

/// The groups of each attribute that the mapping protects.
fn fairness(model: &Model, judged: &[Judged], snapshots: &[Snapshot]) -> Result<Vec<Fairness>> {
    let mapping = &model.mapping;
    let attributes = mapping.columns.protected.iter();
    attributes
        .map(|name| {
            let source = Source::Attribute(name.clone());
            let reader = ColumnReader::new(&source, ColumnType::Category, mapping)?;
            let given = mapping.columns.types.get(name).copied();
            let holds = given.unwrap_or_else(|| reader.discover(snapshots));
            let reader = reader.holding(holds);
            let read = |snapshot| reader.read(snapshot, &model.exchange);
            let readings: Vec<Reading> = snapshots.iter().map(read).collect();
            Ok(fairness::compare(
                name,
                judged,
                &fairness::groups(&readings),
            ))
        })
        .collect()
}
