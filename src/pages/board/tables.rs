//! The tables of the board as files.

use jiff::Timestamp;

use super::super::csv::{Cell, File};
use super::filters::Filters;
use crate::error::{Error, Result};
use crate::insight::attention::{MisprioritizedDeal, misprioritized};
use crate::insight::forecast::forecast;
use crate::insight::reps::{Reps, reps};
use crate::insight::slipping::slipping;
use crate::insight::stalled::stalled;
use crate::insight::stats::{Estimated, Quartiles};
use crate::insight::summary::{Summary, summary};
use crate::insight::{DealRef, Survey};

/// Rows of a file.
const ROWS_MAX: usize = 10_000;

/// Columns that name a deal.
const DEAL: [&str; 6] = ["id", "name", "company", "owner", "pipeline", "stage"];

pub fn file(survey: &Survey, filters: &Filters, table: &str, now: Timestamp) -> Result<File> {
    let scope = &filters.scope;
    let summary = || summary(survey, scope, filters.period, filters.step, now);
    match table {
        "neglected" => {
            let found = misprioritized(survey, scope, now, ROWS_MAX);
            attention(table, &found.neglected)
        }
        "overworked" => {
            let found = misprioritized(survey, scope, now, ROWS_MAX);
            attention(table, &found.overworked)
        }
        "owners" => {
            let found = misprioritized(survey, scope, now, 0);
            let rows = found.owners.into_iter().map(|owner| {
                let correlation = owner.correlation;
                vec![
                    owner.owner.into(),
                    owner.deals.into(),
                    correlation.map(|c| c.value).into(),
                    correlation.map(|c| c.low).into(),
                    correlation.map(|c| c.high).into(),
                    owner.neglected.into(),
                    owner.neglected_value.into(),
                    owner.overworked.into(),
                    owner.overworked_value.into(),
                ]
            });
            let columns = [
                "owner",
                "deals",
                "correlation",
                "correlation_low",
                "correlation_high",
                "neglected",
                "neglected_value",
                "overworked",
                "overworked_value",
            ];
            File::of(table, &columns, rows)
        }
        "stalled" => waiting(survey, filters, now),
        "slipping" => slips(survey, filters, now),
        "stages" => stages(&summary()),
        "concentration" => concentration(&summary()),
        "cycles" => cycles(&summary()),
        "series" => series(&summary()),
        "forecast" => weeks(survey, filters, now),
        "reps" => rates(&reps(survey, scope, filters.period, now)),
        "rep_stages" => rep_stages(&reps(survey, scope, filters.period, now)),
        other => {
            let reason = format!("there is no table `{}`", other.escape_debug());
            Err(Error::invalid("table", reason))
        }
    }
}

fn deal(deal: &DealRef) -> Vec<Cell> {
    vec![
        deal.id.as_str().into(),
        deal.name.as_deref().into(),
        deal.company.as_deref().into(),
        deal.owner.as_deref().into(),
        deal.pipeline.as_deref().into(),
        deal.stage.as_deref().into(),
    ]
}

fn with_deal(columns: &[&'static str]) -> Vec<&'static str> {
    DEAL.iter().chain(columns).copied().collect()
}

fn attention(table: &str, deals: &[MisprioritizedDeal]) -> Result<File> {
    let columns = with_deal(&[
        "win_probability",
        "expected_value",
        "value_rank",
        "attention_rank",
        "of",
        "attention",
        "efforts_30_days",
        "days_since_touch",
        "priority",
        "gap",
    ]);
    let rows = deals.iter().map(|found| {
        let mut row = deal(&found.deal);
        row.extend::<[Cell; 10]>([
            found.win_probability.into(),
            found.expected_value.into(),
            found.value_rank.into(),
            found.attention_rank.into(),
            found.of.into(),
            found.attention.into(),
            found.efforts_30_days.into(),
            found.days_since_touch.into(),
            found.priority.as_deref().into(),
            found.gap.into(),
        ]);
        row
    });
    File::of(table, &columns, rows)
}

fn waiting(survey: &Survey, filters: &Filters, now: Timestamp) -> Result<File> {
    let found = stalled(survey, &filters.scope, now, ROWS_MAX);
    let columns = with_deal(&[
        "days_in_stage",
        "limit_days",
        "win_probability",
        "probability_lost",
        "expected_value",
        "value_lost",
        "days_since_touch",
        "is_beyond_cutoff",
    ]);
    let rows = found.deals.iter().map(|found| {
        let mut row = deal(&found.deal);
        row.extend::<[Cell; 8]>([
            found.days_in_stage.into(),
            found.limit_days.into(),
            found.win_probability.into(),
            found.probability_lost.into(),
            found.expected_value.into(),
            found.value_lost.into(),
            found.days_since_touch.into(),
            found.is_beyond_cutoff.to_string().into(),
        ]);
        row
    });
    File::of("stalled", &columns, rows)
}

fn slips(survey: &Survey, filters: &Filters, now: Timestamp) -> Result<File> {
    let found = slipping(survey, &filters.scope, now, ROWS_MAX);
    let columns = with_deal(&[
        "win_probability",
        "expected_value",
        "pushes",
        "days_pushed",
        "days_overdue",
        "expected_close_at",
        "probability_lost",
        "value_lost",
        "is_pushed_but_losing",
    ]);
    let rows = found.deals.iter().map(|found| {
        let mut row = deal(&found.deal);
        row.extend::<[Cell; 9]>([
            found.win_probability.into(),
            found.expected_value.into(),
            found.pushes.into(),
            found.days_pushed.into(),
            found.days_overdue.into(),
            found.expected_close_at.as_deref().into(),
            found.probability_lost.into(),
            found.value_lost.into(),
            found.is_pushed_but_losing.to_string().into(),
        ]);
        row
    });
    File::of("slipping", &columns, rows)
}

fn weeks(survey: &Survey, filters: &Filters, now: Timestamp) -> Result<File> {
    let period = filters.horizon.period(now);
    let found = forecast(survey, &filters.scope, period, filters.target, now);
    let rows = found.weeks.iter().map(|week| {
        vec![
            week.to.to_string().into(),
            week.is_over.to_string().into(),
            week.sum.mean.into(),
            week.sum.p10.into(),
            week.sum.p50.into(),
            week.sum.p90.into(),
        ]
    });
    File::of(
        "forecast",
        &["to", "is_over", "mean", "p10", "p50", "p90"],
        rows,
    )
}

fn rates(reps: &Reps) -> Result<File> {
    let columns = [
        "owner",
        "open_deals",
        "won",
        "lost",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "is_slump",
        "focus_stage",
        "focus_conversion",
        "focus_team_conversion",
        "focus_gain",
    ];
    let rows = reps.reps.iter().map(|rep| {
        let mut row: Vec<Cell> = vec![
            rep.owner.as_str().into(),
            rep.open_deals.into(),
            rep.won.into(),
            rep.lost.into(),
        ];
        row.extend(estimated(rep.win_rate));
        let focus = rep.focus.as_ref();
        row.extend::<[Cell; 5]>([
            (rep.lately.as_ref())
                .map(|lately| lately.is_slump.to_string())
                .into(),
            focus.map(|focus| focus.stage.as_str()).into(),
            focus.map(|focus| focus.conversion).into(),
            focus.map(|focus| focus.team_conversion).into(),
            focus.map(|focus| focus.gain).into(),
        ]);
        row
    });
    File::of("reps", &columns, rows)
}

fn rep_stages(reps: &Reps) -> Result<File> {
    let columns = [
        "owner",
        "pipeline",
        "stage",
        "converted",
        "decided",
        "conversion",
        "conversion_low",
        "conversion_high",
        "team_conversion",
        "open_deals",
        "gain",
    ];
    let rows = reps.reps.iter().flat_map(|rep| {
        rep.stages.iter().map(|stage| {
            let mut row: Vec<Cell> = vec![
                rep.owner.as_str().into(),
                stage.pipeline.as_deref().into(),
                stage.stage.as_str().into(),
                stage.converted.into(),
                stage.decided.into(),
            ];
            row.extend(estimated(Some(stage.conversion)));
            row.extend::<[Cell; 3]>([
                stage.team_conversion.into(),
                stage.open_deals.into(),
                stage.gain.into(),
            ]);
            row
        })
    });
    File::of("rep_stages", &columns, rows)
}

fn estimated(share: Option<Estimated>) -> [Cell; 3] {
    [
        share.map(|share| share.value).into(),
        share.map(|share| share.low).into(),
        share.map(|share| share.high).into(),
    ]
}

fn quartiles(days: Option<Quartiles>) -> [Cell; 3] {
    [
        days.map(|days| days.lower).into(),
        days.map(|days| days.median).into(),
        days.map(|days| days.upper).into(),
    ]
}

fn stages(summary: &Summary) -> Result<File> {
    let columns = [
        "pipeline",
        "stage",
        "open_deals",
        "open_value",
        "entered",
        "went_on",
        "won",
        "lost",
        "still_there",
        "moved_back",
        "conversion",
        "conversion_low",
        "conversion_high",
        "days_lower",
        "days_median",
        "days_upper",
    ];
    let rows = summary.stages.iter().map(|stage| {
        let mut row: Vec<Cell> = vec![
            stage.pipeline.as_deref().into(),
            stage.stage.as_str().into(),
            stage.open_deals.into(),
            stage.open_value.into(),
            stage.entered.into(),
            stage.went_on.into(),
            stage.won.into(),
            stage.lost.into(),
            stage.still_there.into(),
            stage.moved_back.into(),
        ];
        row.extend(estimated(stage.conversion));
        row.extend(quartiles(stage.days));
        row
    });
    File::of("stages", &columns, rows)
}

fn concentration(summary: &Summary) -> Result<File> {
    let found = summary.concentration.iter();
    let rows = found.flat_map(|found| {
        let groups = [
            ("source", &found.source),
            ("industry", &found.industry),
            ("owner", &found.owner),
        ];
        groups.into_iter().flat_map(|(by, grouping)| {
            grouping.listed.iter().map(move |group| {
                vec![
                    by.into(),
                    group.name.as_deref().into(),
                    group.deals.into(),
                    group.expected_value.into(),
                    group.share.into(),
                ]
            })
        })
    });
    let columns = ["by", "name", "deals", "expected_value", "share"];
    File::of("concentration", &columns, rows)
}

fn cycles(summary: &Summary) -> Result<File> {
    let rows = summary.cycle_by_segment.iter().map(|segment| {
        let mut row: Vec<Cell> = vec![
            super::segment_name(segment.by).into(),
            segment.name.as_str().into(),
            segment.won_cycle.quartiles.count.into(),
            segment.won_cycle.mean.into(),
        ];
        row.extend(quartiles(Some(segment.won_cycle.quartiles)));
        row
    });
    let columns = ["by", "name", "won", "mean_days", "lower", "median", "upper"];
    File::of("cycles", &columns, rows)
}

fn series(summary: &Summary) -> Result<File> {
    let columns = [
        "from",
        "to",
        "created",
        "created_value",
        "won",
        "lost",
        "won_value",
        "lost_value",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
    ];
    let rows = summary.series.iter().map(|step| {
        let mut row: Vec<Cell> = vec![
            step.period.from.to_string().into(),
            step.period.to.to_string().into(),
            step.created.into(),
            step.created_value.into(),
            step.won.into(),
            step.lost.into(),
            step.won_value.into(),
            step.lost_value.into(),
        ];
        row.extend(estimated(step.win_rate));
        row
    });
    File::of("series", &columns, rows)
}
