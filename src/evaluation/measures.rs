//! Measures of probabilities against outcomes.

use super::Judged;

/// Probabilities are moved this far from 0 and 1 before a logarithm is taken.
const CLIP: f64 = 1e-15;

/// `-ln(p)` of what happened, with p clipped to `[1e-15, 1 - 1e-15]`.
pub fn log_loss(probability: f64, won: bool) -> f64 {
    let p = probability.clamp(CLIP, 1.0 - CLIP);
    if won { -p.ln() } else { -(1.0 - p).ln() }
}

/// The Brier score of one row.
pub fn square_error(probability: f64, won: bool) -> f64 {
    let error = probability - f64::from(u8::from(won));
    error * error
}

/// The share of pairs of a won and a lost row in which the won one has the higher probability, ties
/// counted half (Mann-Whitney U). `None` with one class only.
pub fn auc(rows: &[Judged]) -> Option<f64> {
    let mut sorted: Vec<&Judged> = rows.iter().collect();
    sorted.sort_by(|a, b| a.probability.total_cmp(&b.probability));
    let won = won_count(rows.iter());
    let lost = rows.len() as f64 - won;
    if won == 0.0 || lost == 0.0 {
        return None;
    }
    let mut rank_sum = 0.0;
    let mut before = 0;
    for ties in sorted.chunk_by(|a, b| a.probability == b.probability) {
        let mean_rank = before as f64 + (ties.len() as f64 + 1.0) / 2.0;
        rank_sum += mean_rank * won_count(ties.iter().copied());
        before += ties.len();
    }
    Some((rank_sum - won * (won + 1.0) / 2.0) / (won * lost))
}

/// Average precision, `sum over thresholds of (R_n - R_(n-1)) P_n`, one threshold for each distinct
/// probability: rows of one probability come in together (scikit-learn's `average_precision_score`).
/// `None` without a won row.
pub fn pr_auc(rows: &[Judged]) -> Option<f64> {
    let mut sorted: Vec<&Judged> = rows.iter().collect();
    sorted.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let won = won_count(rows.iter());
    let (mut area, mut taken, mut found) = (0.0, 0.0, 0.0);
    for ties in sorted.chunk_by(|a, b| a.probability == b.probability) {
        let wins = won_count(ties.iter().copied());
        taken += ties.len() as f64;
        found += wins;
        area += wins / won * (found / taken);
    }
    (won > 0.0).then_some(area)
}

/// Won share of the best `share` of rows over that of all, ties in part; see [`top`].
pub fn lift(rows: &[Judged], share: f64) -> f64 {
    let keys: Vec<f64> = rows.iter().map(|r| r.probability).collect();
    let taken = top(&keys, share);
    let won: f64 = rows
        .iter()
        .zip(&taken)
        .filter(|(r, _)| r.won)
        .map(|(_, part)| part)
        .sum();
    let rate = won_count(rows.iter()) / rows.len() as f64;
    if rate > 0.0 {
        won / taken.iter().sum::<f64>() / rate
    } else {
        0.0
    }
}

/// How much of each row is among the `share` of rows with the highest keys, at least one row: 1 or 0,
/// and of ties that do not all fit in the same part each, so that the order of the rows says nothing.
pub fn top(keys: &[f64], share: f64) -> Vec<f64> {
    let mut sorted: Vec<usize> = (0..keys.len()).collect();
    sorted.sort_by(|&a, &b| keys[b].total_cmp(&keys[a]));
    let mut room = top_count(keys.len() as f64, share);
    let mut parts = vec![0.0; keys.len()];
    for ties in sorted.chunk_by(|&a, &b| keys[a] == keys[b]) {
        let count = ties.len() as f64;
        let taken = count.min(room);
        for &row in ties {
            parts[row] = taken / count;
        }
        room -= taken;
    }
    parts
}

/// How many of `rows` are the top `share`: rounded, and at least one.
pub(super) fn top_count(rows: f64, share: f64) -> f64 {
    (rows * share).round().max(1.0)
}

fn won_count<'a>(rows: impl Iterator<Item = &'a Judged>) -> f64 {
    rows.filter(|r| r.won).count() as f64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{judge, rows};
    use super::*;

    /// Values from scikit-learn 1.7.2: roc_auc_score, average_precision_score, log_loss,
    /// brier_score_loss; .4 is given to a won and to a lost row.
    #[test]
    fn measures_agree_with_scikit_learn() {
        let e = judge(
            &[
                (0.1, false),
                (0.4, false),
                (0.35, true),
                (0.8, true),
                (0.4, true),
                (0.65, false),
                (0.9, true),
                (0.05, false),
            ],
            0.5,
        );
        let close = |ours: f64, theirs: f64| assert!((ours - theirs).abs() < 1e-12, "{ours}");
        close(e.auc.unwrap(), 0.781_25);
        close(e.pr_auc.unwrap(), 0.816_666_666_666_666_7);
        close(e.log_loss, 0.501_489_810_206_864_3);
        close(e.brier, 0.178_437_5);
        close(e.log_loss_of_base_rate, 2f64.ln());
    }

    /// 500 rows with many ties, by a rule that Python can follow; scikit-learn 1.7.2.
    #[test]
    fn areas_agree_with_scikit_learn_where_most_rows_are_tied() {
        let predictions: Vec<(f64, bool)> = (0..500u32)
            .map(|i| (f64::from(i * 37 % 23 + 1) / 25.0, i * i % 29 < i * 37 % 23))
            .collect();
        let rows = rows(&predictions);
        let close = |ours: f64, theirs: f64| assert!((ours - theirs).abs() < 1e-12, "{ours}");
        close(auc(&rows).unwrap(), 0.742_913_299_107_067_2);
        close(pr_auc(&rows).unwrap(), 0.573_977_320_422_425);
    }

    #[test]
    fn areas_need_the_outcomes_they_compare() {
        let won = rows(&[(0.2, true), (0.4, true)]);
        assert_eq!((auc(&won), pr_auc(&won)), (None, Some(1.0)));
        let lost = rows(&[(0.2, false), (0.4, false)]);
        assert_eq!((auc(&lost), pr_auc(&lost)), (None, None));
    }

    #[test]
    fn of_ties_at_the_edge_each_is_taken_in_part() {
        assert_eq!(
            top(&[1.0, 3.0, 2.0, 2.0, 2.0], 0.6),
            [0.0, 1.0, 2.0 / 3.0, 2.0 / 3.0, 2.0 / 3.0]
        );
        assert_eq!(top(&[5.0, 7.0], 0.1), [0.0, 1.0], "at least one row");
        let constant: Vec<_> = (0..100).map(|i| (0.25, i < 25)).collect();
        let e = judge(&constant, 0.25);
        assert!((e.lift_10 - 1.0).abs() < 1e-12 && (e.lift_20 - 1.0).abs() < 1e-12);
    }
}
