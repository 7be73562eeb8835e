//! What an installation says about its CRMs.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use serde::Deserialize;

use super::fields::{Table, Target};
use super::{Adapter, SOURCES, Source};
use crate::crm::{CrmKind, CrmsSettings};
use crate::domain::Currency;
use crate::error::{Error, Result};

/// Shortest secret that may stand in a URL: it is all that protects it.
const URL_SECRET_BYTES_MIN: usize = 16;

/// Something that nobody may read in a log.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// The section `[webhooks]` of the settings; see `config.default.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    pub public_base_url: Option<String>,
    pub body_bytes_max: usize,
    pub queued_events_max: usize,
    pub keep_hours: u32,
    pub waiting_days: u32,
    pub dead_days: u32,
    pub hubspot: SourceSettings,
    pub salesforce: SourceSettings,
    pub pipedrive: SourceSettings,
    pub close: SourceSettings,
    pub attio: SourceSettings,
    pub zoho: SourceSettings,
    pub odoo: SourceSettings,
    pub standard: SourceSettings,
}

/// One CRM: how it proves who it is, and how its fields differ from what is usual.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSettings {
    pub secrets: Vec<Secret>,
    /// Put before the CRM's own id of a deal.
    pub id_prefix: String,
    /// Their field = ours; over the adapter's own table.
    pub fields: BTreeMap<String, String>,
    pub won_stages: Option<Vec<String>>,
    pub lost_stages: Option<Vec<String>>,
    /// Our field = { theirs = ours }: names in place of ids.
    pub values: BTreeMap<String, BTreeMap<String, String>>,
    /// Of times without an offset.
    pub zone: Option<String>,
    /// Of new deals that come without one.
    pub currency: Option<Currency>,
    /// The organizations that are listened to (Salesforce).
    pub organization_ids: Vec<String>,
    /// The objects whose records are deals (Attio).
    pub object_ids: Vec<String>,
}

impl Webhooks {
    pub fn of(&self, source: Source) -> &SourceSettings {
        match source {
            Source::Hubspot => &self.hubspot,
            Source::Salesforce => &self.salesforce,
            Source::Pipedrive => &self.pipedrive,
            Source::Close => &self.close,
            Source::Attio => &self.attio,
            Source::Zoho => &self.zoho,
            Source::Odoo => &self.odoo,
            Source::Standard => &self.standard,
        }
    }

    /// # Errors
    /// `Malformed`, naming the key, when a value cannot be meant.
    pub fn check(&self, crms: &CrmsSettings) -> Result<()> {
        let wrong = |key: String, reason: String| {
            Error::Malformed(format!("settings: webhooks.{key}: {reason}"))
        };
        for (key, value) in [
            ("body_bytes_max", self.body_bytes_max),
            ("queued_events_max", self.queued_events_max),
        ] {
            if value == 0 {
                return Err(wrong(key.into(), "must be at least 1".into()));
            }
        }
        if let Some(base) = &self.public_base_url
            && !(base.starts_with("https://") || base.starts_with("http://"))
        {
            let reason = format!("`{base}` does not begin with https://");
            return Err(wrong("public_base_url".into(), reason));
        }
        for source in SOURCES {
            let settings = self.of(source);
            let crm = CrmKind::of(source.as_str()).map(|kind| crms.of(kind));
            if let Some(crm) = crm.filter(|crm| crm.enabled && settings.is_on())
                && crm.id_prefix != settings.id_prefix
            {
                let reason = format!("is not that of crm.{source}, `{}`", crm.id_prefix);
                return Err(wrong(format!("{source}.id_prefix"), reason));
            }
            let named = |key: &str| format!("{source}.{key}");
            for secret in &settings.secrets {
                (source.adapter().check_secret)(secret)
                    .map_err(|reason| wrong(named("secrets"), reason))?;
            }
            settings
                .table(source)
                .map_err(|(key, reason)| wrong(named(&key), reason))?;
        }
        Ok(())
    }
}

impl SourceSettings {
    pub fn is_on(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// The adapter's table with what the installation has different.
    ///
    /// # Errors
    /// The key and the reason, when a value cannot be meant.
    pub fn table(&self, source: Source) -> Result<Table, (String, String)> {
        let adapter: &Adapter = source.adapter();
        let zone = match &self.zone {
            None => TimeZone::UTC,
            Some(name) => TimeZone::get(name)
                .map_err(|_| ("zone".to_owned(), format!("`{name}` is no time zone")))?,
        };
        let mut table = Table::new(zone);
        table.amount_units = adapter.amount_units;
        table.outcomes = adapter.outcomes;
        table.won_stages = stages(&self.won_stages, adapter.won_stages);
        table.lost_stages = stages(&self.lost_stages, adapter.lost_stages);
        table.values = self.values.clone();
        table.currency = self.currency;
        for (theirs, ours) in adapter.fields {
            let target = Target::parse(ours).map_err(|reason| ("fields".to_owned(), reason))?;
            table.insert(theirs, target);
        }
        for (theirs, ours) in &self.fields {
            let target =
                Target::parse(ours).map_err(|reason| (format!("fields.{theirs}"), reason))?;
            table.insert(theirs, target);
        }
        Ok(table)
    }
}

fn stages(said: &Option<Vec<String>>, usual: &[&str]) -> Vec<String> {
    match said {
        Some(said) => said.clone(),
        None => usual.iter().map(|stage| (*stage).to_owned()).collect(),
    }
}

/// Any text will do.
///
/// # Errors
/// When the secret is empty.
pub fn any_secret(secret: &Secret) -> Result<(), String> {
    match secret.expose().trim() {
        "" => Err("a secret is empty".into()),
        _ => Ok(()),
    }
}

/// # Errors
/// When the secret cannot be part of a path, or is short enough to be guessed.
pub fn url_secret(secret: &Secret) -> Result<(), String> {
    let secret = secret.as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    if secret.len() < URL_SECRET_BYTES_MIN {
        return Err(format!(
            "a secret in a URL needs at least {URL_SECRET_BYTES_MIN} characters"
        ));
    }
    if !secret.iter().all(is_plain) {
        return Err("a secret in a URL is made of letters, digits and -_.~".into());
    }
    Ok(())
}
