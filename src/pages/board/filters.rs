//! Which deals and which days a board is about. It lives in the address.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::Deserialize;

use super::super::links::Link;
use crate::http::insights::scope;
use crate::http::pipeline::{PERIOD_DAYS_MAX, period, target};
use crate::http::query::Params;
use crate::insight::period::{Period, Step, day_of};
use crate::insight::{Scope, Survey};

/// Values that a filter offers; of more, the address still takes each.
const OFFERED_MAX: usize = 300;

#[derive(Debug, Clone)]
pub struct Filters {
    pub scope: Scope,
    /// Of closed deals.
    pub period: Period,
    pub step: Step,
    /// Of what is still to come.
    pub horizon: Horizon,
    /// Won value asked of the horizon, in the base currency; that of the settings where it is not said.
    pub target: Option<f64>,
    pub presets: Vec<Preset>,
    pub horizons: Vec<Preset>,
    pub fields: Vec<Field>,
}

/// A period that a forecast is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Horizon {
    Month,
    #[default]
    Quarter,
    NextQuarter,
    Year,
}

impl Horizon {
    const ALL: [(Self, &str, &str); 4] = [
        (Self::Month, "month", "This month"),
        (Self::Quarter, "quarter", "This quarter"),
        (Self::NextQuarter, "next_quarter", "Next quarter"),
        (Self::Year, "year", "This year"),
    ];

    pub fn period(self, now: Timestamp) -> Period {
        let today = day_of(now);
        let (from, to) = match self {
            Self::Month => (today.first_of_month(), today.last_of_month()),
            Self::Year => (today.first_of_year(), today.last_of_year()),
            Self::Quarter => return Period::quarter(today),
            Self::NextQuarter => {
                let last = Period::quarter(today).to;
                return Period::quarter(last.tomorrow().unwrap_or(last));
            }
        };
        Period { from, to }
    }

    fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|(known, ..)| *known == self);
        known.map_or("quarter", |(_, name, _)| name)
    }
}

/// A period that is a click away.
#[derive(Debug, Clone)]
pub struct Preset {
    pub label: &'static str,
    pub href: String,
    pub is_current: bool,
}

/// A filter with its choices.
#[derive(Debug, Clone)]
pub struct Field {
    pub name: &'static str,
    pub label: &'static str,
    pub value: String,
    pub choices: Vec<String>,
}

impl Filters {
    /// What is shown unless asked otherwise.
    pub fn usual(now: Timestamp) -> Self {
        Self {
            scope: Scope::default(),
            period: Period::last_twelve_months(now),
            step: Step::default(),
            horizon: Horizon::default(),
            target: None,
            presets: Vec::new(),
            horizons: Vec::new(),
            fields: Vec::new(),
        }
    }

    pub fn read(params: &mut Params, now: Timestamp) -> Self {
        let usual = Self::usual(now);
        let mut filters = Self {
            scope: scope(params),
            period: period(params, usual.period, PERIOD_DAYS_MAX),
            step: params.one_of("step").unwrap_or_default(),
            horizon: params.one_of("horizon").unwrap_or_default(),
            target: target(params),
            ..usual
        };
        filters.presets = filters.presets(now);
        filters.horizons = filters.horizons();
        filters
    }

    /// Fills in what can be chosen.
    pub fn offer(&mut self, survey: &Survey) {
        let (scope, named) = (&self.scope, survey.named());
        let fields = [
            ("pipeline", "Pipeline", &scope.pipeline, &named.pipelines),
            ("owner", "Owner", &scope.owner, &named.owners),
            ("team", "Team", &scope.team, &named.teams),
            ("source", "Source", &scope.source, &named.sources),
        ];
        let fields = fields.map(|(name, label, value, named)| {
            let offered = named.iter().map(|name| &**name).take(OFFERED_MAX);
            // What is chosen stays a choice, though no deal has it any more.
            let offered: BTreeSet<&str> = offered.chain(value.as_deref()).collect();
            Field {
                name,
                label,
                value: value.clone().unwrap_or_default(),
                choices: offered.into_iter().map(str::to_owned).collect(),
            }
        });
        let fields = fields.into_iter();
        self.fields = fields.filter(|field| !field.choices.is_empty()).collect();
    }

    /// The address of this board.
    pub fn link(&self) -> Link {
        let Scope {
            pipeline,
            owner,
            team,
            source,
        } = &self.scope;
        let target = self.target.map(|target| target.to_string());
        let horizon = Some(self.horizon.name()).filter(|_| self.horizon != Horizon::default());
        Link::to("/board")
            .with_some("horizon", horizon)
            .with_some("target", target.as_deref())
            .with_some("pipeline", pipeline.as_deref())
            .with_some("owner", owner.as_deref())
            .with_some("team", team.as_deref())
            .with_some("source", source.as_deref())
            .with("from", &self.period.from.to_string())
            .with("to", &self.period.to.to_string())
    }

    /// The address of a table as a file.
    pub fn csv(&self, table: &str) -> String {
        self.link()
            .with("format", "csv")
            .with("table", table)
            .href()
    }

    /// What the form of the target hands on.
    pub fn kept_for_target(&self) -> Vec<(&'static str, String)> {
        let mut kept = self.link().params().to_vec();
        kept.retain(|(name, _)| *name != "target");
        kept
    }

    pub fn target_text(&self) -> String {
        self.target
            .map_or_else(String::new, |target| target.to_string())
    }

    /// A target is of its period: another one begins without.
    fn horizons(&self) -> Vec<Preset> {
        let horizons = Horizon::ALL.into_iter().map(|(horizon, _, label)| {
            let link = Self {
                horizon,
                target: None,
                ..self.clone()
            }
            .link();
            Preset {
                label,
                href: format!("{}#forecast", link.href()),
                is_current: horizon == self.horizon,
            }
        });
        horizons.collect()
    }

    fn presets(&self, now: Timestamp) -> Vec<Preset> {
        let today = day_of(now);
        let quarter = Period::quarter(today);
        let before = Period::quarters_before(quarter.from, 1);
        let year = |from: Date, to: Date| Period { from, to };
        let this_year = year(today.first_of_year(), today.last_of_year());
        let month = year(today.first_of_month(), today.last_of_month());
        let mut presets = vec![
            ("Last 12 months", Period::last_twelve_months(now)),
            ("This year", this_year),
            ("This quarter", quarter),
        ];
        presets.extend(before.first().map(|before| ("Last quarter", *before)));
        presets.push(("This month", month));
        let presets = presets.into_iter().map(|(label, period)| Preset {
            label,
            is_current: period == self.period,
            href: Self {
                period,
                ..self.clone()
            }
            .link()
            .href(),
        });
        presets.collect()
    }
}
