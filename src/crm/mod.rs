//! Clients of the CRMs where deals live: a whole deal is read, scores are written into its fields.
//!
//! - `api`: what they have in common: a base address, rate limits, patience. `access`: by what they know us.
//! - `hubspot`, `salesforce`, `pipedrive`: paths and shapes of each.
//! - `settings`: the sections `[crm.*]`.

mod access;
mod api;
mod hubspot;
mod pipedrive;
mod salesforce;
mod settings;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::api::Api;
pub use self::settings::{CrmSettings, CrmsSettings, Login, ScoreFields, Token, WriteBack};
use crate::error::Result;
use crate::scoring::Score;

/// The CRMs that are spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum CrmKind {
    HubSpot,
    Salesforce,
    Pipedrive,
}

impl CrmKind {
    pub const ALL: [Self; 3] = [Self::HubSpot, Self::Salesforce, Self::Pipedrive];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::HubSpot => "hubspot",
            Self::Salesforce => "salesforce",
            Self::Pipedrive => "pipedrive",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Why a CRM did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrmError {
    /// There is no such deal, or no more.
    #[error("there is no such deal")]
    NotFound,
    /// Somebody has to mend the settings, or the CRM: the token is refused, a field is not there.
    #[error("{0}")]
    Misconfigured(String),
    /// What was asked of this deal cannot be done, and will not be next time.
    #[error("{0}")]
    Refused(String),
    /// The rate limit is used up; again after this long, if the CRM said so.
    #[error("the rate limit is used up")]
    Busy(Option<Duration>),
    /// No answer, or none that can be read. Perhaps another time.
    #[error("{0}")]
    Unavailable(String),
}

impl CrmError {
    /// Whether the same may work later without anybody doing anything.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Unavailable(_))
    }
}

/// A CRM with its token. Clones share connections and the rate limit.
#[derive(Debug, Clone)]
pub struct Crm {
    kind: CrmKind,
    api: Api,
    settings: CrmSettings,
}

/// New values for the fields of one deal.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldUpdate {
    /// As the CRM knows it.
    pub deal_id: String,
    pub fields: Map<String, Value>,
}

/// What became of an update, in the order of the updates.
pub type Updated = std::result::Result<(), CrmError>;

impl Crm {
    /// All CRMs that the settings enable.
    pub fn all(settings: &CrmsSettings) -> Result<Vec<Self>> {
        let mut crms = Vec::new();
        for kind in CrmKind::ALL {
            crms.extend(Self::of(kind, settings)?);
        }
        Ok(crms)
    }

    /// The client of one CRM; `None` unless the settings enable it.
    pub fn of(kind: CrmKind, settings: &CrmsSettings) -> Result<Option<Self>> {
        let settings = settings.of(kind);
        if !settings.enabled {
            return Ok(None);
        }
        Ok(Some(Self {
            kind,
            api: Api::new(kind, settings)?,
            settings: settings.clone(),
        }))
    }

    pub fn kind(&self) -> CrmKind {
        self.kind
    }

    /// The CRM's id of a deal of ours; `None` if the deal is none of this CRM.
    pub fn id_of<'a>(&self, deal_id: &'a str) -> Option<&'a str> {
        deal_id
            .strip_prefix(self.settings.id_prefix.as_str())
            .filter(|id| is_id(self.kind, id))
    }

    /// What ids of ours begin with, of this CRM's deals.
    pub fn id_prefix(&self) -> &str {
        &self.settings.id_prefix
    }

    pub fn write_back(&self) -> &WriteBack {
        &self.settings.write_back
    }

    /// A whole deal, as the CRM writes it. `fields` are the properties to read, where the CRM wants them
    /// named; those of the write-back are never among them.
    ///
    /// # Errors
    /// [`CrmError`]. Rate limits and failures that pass were waited for already, within limits.
    pub async fn deal(&self, id: &str, fields: &[&str]) -> std::result::Result<Value, CrmError> {
        if !is_id(self.kind, id) {
            return Err(CrmError::NotFound);
        }
        let version = &self.settings.api_version;
        match self.kind {
            CrmKind::HubSpot => hubspot::deal(&self.api, version, id, fields).await,
            CrmKind::Salesforce => salesforce::deal(&self.api, version, id, fields).await,
            CrmKind::Pipedrive => pipedrive::deal(&self.api, version, id).await,
        }
    }

    /// Deals of one request of [`Self::write`].
    pub fn batch_max(&self) -> usize {
        match self.kind {
            CrmKind::HubSpot => hubspot::BATCH_MAX,
            CrmKind::Salesforce => salesforce::BATCH_MAX,
            CrmKind::Pipedrive => pipedrive::BATCH_MAX,
        }
    }

    /// Writes fields of at most [`Self::batch_max`] deals; answers for each of them, in order.
    ///
    /// # Errors
    /// What stopped all of them.
    pub async fn write(
        &self,
        updates: &[FieldUpdate],
    ) -> std::result::Result<Vec<Updated>, CrmError> {
        let version = &self.settings.api_version;
        match self.kind {
            CrmKind::HubSpot => hubspot::write(&self.api, version, updates).await,
            CrmKind::Salesforce => salesforce::write(&self.api, version, updates).await,
            CrmKind::Pipedrive => pipedrive::write(&self.api, version, updates).await,
        }
    }

    /// A score in the fields that the settings name.
    pub fn fields(&self, score: &Score) -> Map<String, Value> {
        self.settings.write_back.fields.of(score)
    }

    /// Whether a field of the CRM is one that we write: what comes back from it is no news.
    pub fn writes_field(&self, field: &str) -> bool {
        self.settings
            .write_back
            .fields
            .names()
            .any(|name| name == field)
    }
}

/// Ids go into paths: nothing else is let through.
fn is_id(kind: CrmKind, id: &str) -> bool {
    match kind {
        CrmKind::HubSpot | CrmKind::Pipedrive => {
            (1..=20).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit())
        }
        CrmKind::Salesforce => {
            [15, 18].contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric())
        }
    }
}
