//! Too little history: what keeps a few deals from passing for knowledge.

use std::collections::BTreeMap;

use super::Recipe;
use super::rows::History;
use crate::model::PipelineHistory;
use crate::scoring::HISTORY_MIN;

/// Pipelines whose counts a model keeps, the commonest first. Any other is one of little history.
const PIPELINES_MAX: usize = 1000;

/// The recipe for so few deals: below [`HISTORY_MIN`] won and lost ones, cross-validation finds weak
/// penalties by luck.
pub(super) fn restrained(chosen: Recipe, won: usize, lost: usize) -> Recipe {
    if won.min(lost) >= HISTORY_MIN {
        return chosen;
    }
    chosen.plain()
}

/// What to add to the intercept, log-odds. It is not penalised, so that the average deal of 2 won and
/// 1 lost would be given 2/3; below [`HISTORY_MIN`] it is given the mean of the posterior under
/// Jeffreys' prior, `(won + 1/2) / (won + lost + 1)`.
pub(super) fn intercept_shift(won: usize, lost: usize) -> f64 {
    if won.min(lost) >= HISTORY_MIN {
        return 0.0;
    }
    let (won, lost) = (won as f64, lost as f64);
    ((won + 0.5) / (lost + 0.5)).ln() - (won / lost).ln()
}

/// Won and lost deals of each pipeline among `deals`, those without one too.
pub(super) fn pipelines(history: &History, deals: &[usize]) -> Vec<PipelineHistory> {
    let mut counts: BTreeMap<Option<&str>, (usize, usize)> = BTreeMap::new();
    for &deal in deals {
        let pipeline = history.closed()[deal].pipeline.as_deref();
        let (won, lost) = counts.entry(pipeline.map(str::trim)).or_default();
        if history.is_won(deal) {
            *won += 1;
        } else {
            *lost += 1;
        }
    }
    if counts.keys().all(Option::is_none) {
        return Vec::new();
    }
    let mut pipelines: Vec<PipelineHistory> = counts
        .into_iter()
        .map(|(pipeline, (won_deals, lost_deals))| PipelineHistory {
            pipeline: pipeline.map(Into::into),
            won_deals,
            lost_deals,
        })
        .collect();
    // Stable, so that pipelines of one size stay in the order of their names.
    pipelines.sort_by_key(|p| std::cmp::Reverse(p.won_deals + p.lost_deals));
    pipelines.truncate(PIPELINES_MAX);
    pipelines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AttributeValue, Deal, DealId, Exchange, Outcome};
    use crate::ingest::Mapping;
    use crate::progress::silent;
    use crate::scoring::{Score, Scorer};
    use crate::training::{TrainOptions, train};

    /// So many won and lost deals of a pipeline; each outcome has a source of its own.
    fn of(pipeline: Option<&str>, won: usize, lost: usize) -> Vec<Deal> {
        let deal = |index: usize| {
            let is_won = index < won;
            let source = if is_won { "partner" } else { "web" };
            let mut deal = Deal {
                pipeline: pipeline.map(Into::into),
                outcome: if is_won { Outcome::Won } else { Outcome::Lost },
                ..Deal::new(DealId::new(&format!("{pipeline:?} {index}")).unwrap())
            };
            let source = AttributeValue::Text(source.into());
            deal.attributes.insert("source".into(), source);
            deal
        };
        (0..won + lost).map(deal).collect()
    }

    fn scorer(deals: &[Deal], ignored: &[&str]) -> Scorer {
        let mut mapping = Mapping::default();
        mapping.columns.ignore = ignored.iter().map(|name| (*name).to_owned()).collect();
        let exchange = Exchange::only("EUR".parse().unwrap());
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let options = TrainOptions {
            as_of: now,
            trained_at: now,
            mapping,
            exchange: exchange.clone(),
        };
        let model = train(deals, &options, &silent).unwrap();
        Scorer::new(model.into(), exchange.into()).unwrap()
    }

    fn score(scorer: &Scorer, deal: &Deal) -> Score {
        let mut open = deal.clone();
        open.outcome = Outcome::Open;
        scorer.score(&open, "2026-06-01T00:00:00Z".parse().unwrap())
    }

    /// The field of the warning of too little history, if there is one.
    fn warned(score: &Score) -> Option<Option<&str>> {
        let mut warnings = score.warnings.iter();
        let warning = warnings.find(|w| w.code == "insufficient_history");
        warning.map(|w| w.field.as_deref())
    }

    /// Jeffreys' mean in closed form: nothing else can be told from so few deals.
    #[test]
    fn a_handful_of_deals_is_given_the_shrunk_base_rate() {
        for (won, lost, expected) in [
            (1, 2, 1.5 / 4.0),
            (2, 1, 2.5 / 4.0),
            (1, 1, 0.5),
            (1, 40, 1.5 / 42.0),
            (3, 1, 3.5 / 5.0),
        ] {
            let deals = of(None, won, lost);
            let scorer = scorer(&deals, &[]);
            for deal in &deals {
                let score = score(&scorer, deal);
                let p = score.win_probability.get();
                assert!((p - expected).abs() < 1e-9, "{won} won, {lost} lost: {p}");
                assert_eq!(warned(&score), Some(None));
            }
        }
    }

    #[test]
    fn below_the_minimum_even_a_perfect_column_moves_little() {
        let deals = of(None, 6, 6);
        let scorer = scorer(&deals, &[]);
        let best = score(&scorer, &deals[0]).win_probability.get();
        assert!(best > 0.5 && best < 0.75, "{best}");
    }

    #[test]
    fn at_the_minimum_nothing_is_warned_of_and_the_base_rate_is_itself() {
        let deals = of(None, HISTORY_MIN, 2 * HISTORY_MIN);
        let scorer = scorer(&deals, &["source"]);
        let score = score(&scorer, &deals[0]);
        assert!((score.win_probability.get() - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(warned(&score), None);
    }

    #[test]
    fn a_rare_pipeline_borrows_from_the_whole() {
        let mut deals = of(Some("main"), 100, 200);
        deals.extend(of(Some("rare"), 1, 0));
        let scorer = scorer(&deals, &["source"]);
        let rare = score(&scorer, &deals[300]);
        let p = rare.win_probability.get();
        assert!((0.30..0.42).contains(&p), "{p}");
        assert_eq!(warned(&rare), Some(Some("pipeline")));
        let detail = &rare.warnings[0].detail;
        assert!(
            detail.contains("1 won and 0 lost deals of `rare`"),
            "{detail}"
        );
        assert_eq!(warned(&score(&scorer, &deals[0])), None);
        let mut unseen = deals[0].clone();
        unseen.pipeline = Some("new".into());
        assert_eq!(warned(&score(&scorer, &unseen)), Some(Some("pipeline")));
        unseen.pipeline = None;
        assert_eq!(warned(&score(&scorer, &unseen)), Some(Some("pipeline")));
    }

    /// Where all deals are of one pipeline it is no column, and counted all the same.
    #[test]
    fn pipelines_are_counted_where_they_are_no_column() {
        let deals = of(Some("main"), 40, 60);
        let scorer = scorer(&deals, &["source"]);
        assert!(scorer.model().columns.is_empty());
        let counts = PipelineHistory {
            pipeline: Some("main".into()),
            won_deals: 40,
            lost_deals: 60,
        };
        assert_eq!(scorer.model().training.pipelines, [counts]);
        let mut other = deals[0].clone();
        assert_eq!(warned(&score(&scorer, &other)), None);
        other.pipeline = Some("other".into());
        assert_eq!(warned(&score(&scorer, &other)), Some(Some("pipeline")));
    }
}
