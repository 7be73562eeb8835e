//! What companies call things, and where they draw lines.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The settings under `[insight]`; `config.default.toml` documents them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InsightSettings {
    /// Attributes that name the company of a deal; the first that a deal has counts. Capitals, blanks and
    /// punctuation do not matter, here and in the next three.
    pub company: Vec<String>,
    pub team: Vec<String>,
    pub source: Vec<String>,
    pub industry: Vec<String>,
    /// The people of each team, for deals that do not name one.
    pub teams: BTreeMap<String, Vec<String>>,
    /// Values of a deal's priority that mark it as urgent; capitals do not matter.
    pub high_priority: Vec<String>,
    /// A deal has stalled that is longer in its stage than this share of the deals that were won.
    pub stalled_quantile: f64,
    /// With fewer won deals, `stalled_days` of the settings holds in place of the quantile.
    pub stalled_won_deals_min: usize,
    /// Beyond the suggested cut-off time of a stage, a smaller share than this was won.
    pub cutoff_win_share: f64,
    /// By how much of an owner's queue the rank by attention and the rank by expected value differ in a
    /// deal that gets the wrong attention. 0 to 1.
    pub misprioritized_gap: f64,
    /// The stages in which a deal is still a lead; none: the stage that each deal begins in.
    pub lead_stages: Vec<String>,
    /// Won value that is asked of a quarter, in the base currency; 0 for none. Targets of other periods
    /// are in proportion to their days.
    pub target_per_quarter: f64,
    /// Chance with which the pipeline should reach the target. 0.5 to below 1.
    pub coverage_confidence: f64,
}

impl InsightSettings {
    /// # Errors
    /// What is out of range, by its name.
    pub fn check(&self) -> Result<(), String> {
        let shares = [
            ("stalled_quantile", self.stalled_quantile),
            ("cutoff_win_share", self.cutoff_win_share),
            ("misprioritized_gap", self.misprioritized_gap),
        ];
        for (key, share) in shares {
            if !(share > 0.0 && share < 1.0) {
                return Err(format!("insight.{key} must lie between 0 and 1"));
            }
        }
        if !(0.5..1.0).contains(&self.coverage_confidence) {
            return Err("insight.coverage_confidence must be at least 0.5 and below 1".into());
        }
        if !(self.target_per_quarter >= 0.0 && self.target_per_quarter.is_finite()) {
            return Err("insight.target_per_quarter must be 0 or more".into());
        }
        Ok(())
    }

    /// The team of an owner, where deals do not name one.
    pub(super) fn team_of(&self, owner: &str) -> Option<&str> {
        let mut teams = self.teams.iter();
        teams
            .find(|(_, people)| people.iter().any(|person| person == owner))
            .map(|(team, _)| team.as_str())
    }

    pub(super) fn is_high_priority(&self, priority: &str) -> bool {
        let priority = priority.trim().to_lowercase();
        (self.high_priority.iter()).any(|high| high.trim().to_lowercase() == priority)
    }
}

impl Default for InsightSettings {
    /// As `config.default.toml` has them.
    fn default() -> Self {
        let table: toml::Table = crate::config::DEFAULT_TOML
            .parse()
            .expect("checked by a test");
        let insight = table["insight"].clone();
        insight.try_into().expect("checked by a test")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_good() {
        assert_eq!(InsightSettings::default().check(), Ok(()));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let mut settings = InsightSettings {
            stalled_quantile: 1.5,
            ..InsightSettings::default()
        };
        assert!(
            settings
                .check()
                .unwrap_err()
                .contains("insight.stalled_quantile")
        );
        settings = InsightSettings {
            target_per_quarter: f64::NAN,
            ..InsightSettings::default()
        };
        assert!(
            settings
                .check()
                .unwrap_err()
                .contains("insight.target_per_quarter")
        );
    }
}
