//! The sections `[crm.*]`.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::CrmKind;
use crate::scoring::Score;

/// Longest text of the reasons: what a text field of Salesforce holds.
const REASONS_CHARS_MAX: usize = 255;
/// Reasons that are written.
const REASONS_MAX: usize = 3;

/// A secret of the settings that no log and no message shows.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() {
            "Token()"
        } else {
            "Token(..)"
        })
    }
}

/// All CRMs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrmsSettings {
    pub hubspot: CrmSettings,
    pub salesforce: CrmSettings,
    pub pipedrive: CrmSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrmSettings {
    pub enabled: bool,
    pub base_url: String,
    /// As the CRM's paths have it.
    pub api_version: String,
    pub token: Token,
    /// In place of the token: who asks the CRM for one. For Salesforce.
    pub login: Option<Login>,
    /// Deals of this CRM have ids of ours that begin with it.
    pub id_prefix: String,
    pub concurrency: usize,
    pub timeout_seconds: u64,
    pub tries: u32,
    pub write_back: WriteBack,
}

/// An application of the CRM that gets its tokens by itself (OAuth 2, client credentials).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    pub client_id: String,
    pub client_secret: Token,
}

/// Which scores go into the CRM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteBack {
    pub enabled: bool,
    /// A probability is written when it is at least this far from the one that was written last.
    pub probability_step: f64,
    /// An expected value, when it is off by at least this share.
    pub expected_value_step: f64,
    pub fields: ScoreFields,
}

/// The CRM's fields; an empty name leaves one out.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreFields {
    pub win_probability: String,
    pub score: String,
    pub grade: String,
    pub expected_value: String,
    pub reasons: String,
}

impl CrmsSettings {
    pub fn of(&self, kind: CrmKind) -> &CrmSettings {
        match kind {
            CrmKind::HubSpot => &self.hubspot,
            CrmKind::Salesforce => &self.salesforce,
            CrmKind::Pipedrive => &self.pipedrive,
        }
    }

    /// What cannot be meant, as `crm.hubspot.token must ...`.
    pub fn check(&self) -> Result<(), String> {
        for kind in CrmKind::ALL {
            let crm = self.of(kind);
            let wrong = |what: &str| Err(format!("crm.{}.{what}", kind.as_str()));
            if crm.login.is_some() && kind != CrmKind::Salesforce {
                return wrong("login is for Salesforce; this CRM has a token");
            }
            if crm.enabled && crm.token.is_empty() && crm.login.is_none() {
                return wrong("token is needed where the CRM is enabled");
            }
            let is_url = reqwest::Url::parse(&crm.base_url)
                .is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
            if crm.enabled && !is_url {
                return wrong("base_url must be the address of the CRM's interface");
            }
            if crm.concurrency == 0 || crm.timeout_seconds == 0 || crm.tries == 0 {
                return wrong("concurrency, timeout_seconds and tries must be at least 1");
            }
            let write_back = &crm.write_back;
            if write_back.enabled && !crm.enabled {
                return wrong("write_back.enabled needs crm.*.enabled");
            }
            if write_back.enabled && write_back.fields.names().next().is_none() {
                return wrong("write_back.fields names no field to write");
            }
            let is_version = |c: char| c.is_ascii_alphanumeric() || c == '.';
            if crm.api_version.is_empty() || !crm.api_version.chars().all(is_version) {
                return wrong("api_version must be letters, digits and dots");
            }
            for step in [write_back.probability_step, write_back.expected_value_step] {
                if !(0.0..=1.0).contains(&step) {
                    return wrong("write_back steps must be from 0 to 1");
                }
            }
        }
        Ok(())
    }
}

impl ScoreFields {
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        [
            &self.win_probability,
            &self.score,
            &self.grade,
            &self.expected_value,
            &self.reasons,
        ]
        .into_iter()
        .map(String::as_str)
        .filter(|name| !name.is_empty())
    }

    pub(super) fn of(&self, score: &Score) -> Map<String, Value> {
        // Four digits are more than an interval deserves, and fit a number field of every CRM.
        let probability = (score.win_probability.get() * 1e4).round() / 1e4;
        [
            (&self.win_probability, json!(probability)),
            (&self.score, json!(score.score)),
            (&self.grade, json!(score.grade)),
            (&self.expected_value, json!(score.expected_value)),
            (&self.reasons, json!(reasons(score))),
        ]
        .into_iter()
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.clone(), value))
        .collect()
    }
}

/// The reasons that weigh most, each with its direction, as far as there is room.
fn reasons(score: &Score) -> String {
    let mut text = String::new();
    for reason in score.reasons.iter().take(REASONS_MAX) {
        let separator = if text.is_empty() { "" } else { "; " };
        let room = REASONS_CHARS_MAX - text.chars().count();
        let next = format!("{separator}{}", reason.text);
        if next.chars().count() > room {
            // A cut reason is better than none, and worse than the whole ones before it.
            if text.is_empty() {
                text = next.chars().take(room).collect();
            }
            break;
        }
        text.push_str(&next);
    }
    text
}
