//! Settings: the commented defaults that are compiled in, over them a TOML file, over that the
//! environment, over that the flags of a command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Span, SpanRelativeTo};
use serde::Deserialize;
use toml::{Table, Value};

use crate::access::AccessSettings;
use crate::crm::CrmsSettings;
use crate::domain::Exchange;
use crate::error::{Error, Result};
use crate::inbound::Webhooks;
use crate::insight::InsightSettings;
use crate::outbound::OutboundSettings;
use crate::store::{DatabaseUrl, StoreLocation};

/// The default settings as a commented file, as `serve --print-config` shows it.
pub const DEFAULT_TOML: &str = include_str!("config.default.toml");

/// The file that is read when none is named.
pub const FILE_NAME: &str = "dealrank.toml";

/// A year; beyond some point Redis refuses to set an end.
const SCORE_TTL_SECONDS_MAX: u64 = 31_536_000;

const ENVIRONMENT_PREFIX: &str = "DEALRANK_";

/// See `config.default.toml` for the meaning of each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: String,
    pub data_dir: PathBuf,
    pub database_url: Option<DatabaseUrl>,
    pub database_connections_max: u32,
    pub redis_url: Option<String>,
    pub score_ttl_seconds: u64,
    pub refresh_minutes: u64,
    pub stalled_days: u32,
    pub log_format: LogFormat,
    pub http_workers: usize,
    pub exchange: Exchange,
    pub access: AccessSettings,
    pub training: Training,
    pub insight: InsightSettings,
    pub ledger: Ledger,
    pub outbound: OutboundSettings,
    pub crm: CrmsSettings,
    pub webhooks: Webhooks,
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

/// When the service trains by itself.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Training {
    pub every: Every,
}

/// What is kept of the past.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    pub keep_days: u32,
}

/// An interval as people write it (`7d`, `12h`), at least a second; `off` for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Every(pub Option<SignedDuration>);

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let expected = || format!("`{text}` is no interval such as `7d` or `12h`, and not `off`");
        let span: Span = text.parse().map_err(|_| expected())?;
        let every = span
            .to_duration(SpanRelativeTo::days_are_24_hours())
            .map_err(|_| expected())?;
        if every < SignedDuration::from_secs(1) {
            return Err(format!("`{text}` is shorter than a second"));
        }
        Ok(Self(Some(every)))
    }
}

/// What is taken from outside at most.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    pub body_bytes_max: usize,
    pub batch_rows_max: usize,
    pub ndjson_line_bytes_max: usize,
    pub import_bytes_max: u64,
    pub jobs_queued_max: usize,
    pub uploads_waiting_max: usize,
    pub request_head_seconds_max: u64,
    pub body_pause_seconds_max: u64,
    pub shutdown_seconds_max: u64,
}

/// The settings flags that the commands share.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigArgs {
    /// Settings file [default: ./dealrank.toml where there is one]
    #[arg(long, value_name = "FILE", env = "DEALRANK_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Folder of the database and of uploads (overrides the settings)
    #[arg(long, value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
}

impl ConfigArgs {
    /// The settings of this process.
    pub fn load(&self) -> Result<Config> {
        self.load_with(Table::new())
    }

    /// The settings of this process, with other `defaults` for some keys.
    pub fn load_with(&self, defaults: Table) -> Result<Config> {
        let file = self.file()?;
        let mut config = Config::from_layers(defaults, file, std::env::vars())?;
        if let Some(data_dir) = &self.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        Ok(config)
    }

    fn file(&self) -> Result<Option<(PathBuf, String)>> {
        let path = match &self.config {
            Some(path) => path.clone(),
            None if Path::new(FILE_NAME).exists() => FILE_NAME.into(),
            None => return Ok(None),
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Error::Malformed(format!("cannot read {}: {e}", path.display())))?;
        Ok(Some((path, text)))
    }
}

impl Config {
    /// # Errors
    /// `Malformed` when a layer is not TOML, has a key that is unknown, or a value that does not fit.
    pub fn from_layers(
        defaults: Table,
        file: Option<(PathBuf, String)>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self> {
        let mut settings: Table = DEFAULT_TOML.parse().expect("checked by a test");
        merge(&mut settings, defaults);
        if let Some((path, text)) = file {
            let named = |e: toml::de::Error| {
                let reason = e.to_string();
                Error::Malformed(format!("{}: {}", path.display(), reason.trim_end()))
            };
            let table: Table = text.parse().map_err(named)?;
            merge(&mut settings, table);
            // Here, so that the message names the file rather than the environment.
            settings.clone().try_into::<Self>().map_err(named)?;
        }
        let variables: BTreeMap<String, String> = environment.into_iter().collect();
        for (name, value) in variables {
            if let Some(key) = setting_of(&name) {
                set(&mut settings, &key, &value)
                    .map_err(|reason| Error::Malformed(format!("variable {name}: {reason}")))?;
            }
        }
        let config: Self = settings
            .try_into()
            .map_err(|e| Error::Malformed(format!("settings: {}", e.to_string().trim_end())))?;
        config.check()
    }

    /// Of limits, zero would mean a service that takes nothing.
    fn check(self) -> Result<Self> {
        let limits = &self.limits;
        for (key, value) in [
            ("body_bytes_max", limits.body_bytes_max as u64),
            ("batch_rows_max", limits.batch_rows_max as u64),
            ("ndjson_line_bytes_max", limits.ndjson_line_bytes_max as u64),
            ("import_bytes_max", limits.import_bytes_max),
            ("jobs_queued_max", limits.jobs_queued_max as u64),
            ("uploads_waiting_max", limits.uploads_waiting_max as u64),
            ("request_head_seconds_max", limits.request_head_seconds_max),
            ("body_pause_seconds_max", limits.body_pause_seconds_max),
        ] {
            if value == 0 {
                let reason = format!("settings: limits.{key} must be at least 1");
                return Err(Error::Malformed(reason));
            }
        }
        if self.database_connections_max < 2 {
            return Err(Error::Malformed(
                "settings: database_connections_max must be at least 2".into(),
            ));
        }
        if !(1..=SCORE_TTL_SECONDS_MAX).contains(&self.score_ttl_seconds) {
            return Err(Error::Malformed(format!(
                "settings: score_ttl_seconds must be 1 to {SCORE_TTL_SECONDS_MAX}"
            )));
        }
        self.access.check()?;
        let named = |reason| Error::Malformed(format!("settings: {reason}"));
        self.insight.check().map_err(named)?;
        self.outbound.check().map_err(named)?;
        self.crm.check().map_err(named)?;
        self.webhooks.check(&self.crm)?;
        Ok(self)
    }

    /// Where uploads wait for their job.
    pub fn uploads_dir(&self) -> PathBuf {
        self.data_dir.join("uploads")
    }

    /// Where the rejected rows of imports are kept.
    pub fn rejects_dir(&self) -> PathBuf {
        self.data_dir.join("rejects")
    }

    /// The file of the embedded store, which is there unless another one is configured.
    pub fn database_path(&self) -> PathBuf {
        self.data_dir.join("dealrank.sqlite")
    }

    pub fn store_location(&self) -> StoreLocation {
        match &self.database_url {
            Some(url) => StoreLocation::Postgres(url.clone()),
            None => StoreLocation::File(self.database_path()),
        }
    }
}

/// Tables are merged key by key, everything else is replaced.
fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The path of the setting that a variable sets, if it sets one.
///
/// DEALRANK_CONFIG and DEALRANK_LOG have a use of their own, and a Kubernetes service named
/// `dealrank` puts DEALRANK_SERVICE_* and DEALRANK_PORT* into the environment of every pod.
fn setting_of(variable: &str) -> Option<Vec<String>> {
    let name = variable.strip_prefix(ENVIRONMENT_PREFIX)?;
    let foreign = ["CONFIG", "LOG"].contains(&name)
        || name.starts_with("SERVICE_")
        || name == "PORT"
        || name.starts_with("PORT_");
    (!foreign).then(|| name.to_lowercase().split("__").map(str::to_owned).collect())
}

/// Sets one key, read as the type that its default has.
fn set(settings: &mut Table, path: &[String], text: &str) -> Result<(), String> {
    let (last, parents) = path.split_last().ok_or("names no setting")?;
    let mut table = settings;
    for parent in parents {
        table = table
            .get_mut(parent)
            .and_then(Value::as_table_mut)
            .ok_or_else(|| format!("there is no section `{parent}`"))?;
    }
    let value = match table.get(last) {
        Some(Value::Integer(_)) => text
            .parse()
            .map(Value::Integer)
            .map_err(|_| format!("`{text}` is not a whole number"))?,
        Some(Value::Float(_)) => text
            .parse()
            .map(Value::Float)
            .map_err(|_| format!("`{text}` is not a number"))?,
        Some(Value::Boolean(_)) => text
            .parse()
            .map(Value::Boolean)
            .map_err(|_| format!("`{text}` is neither `true` nor `false`"))?,
        // Secrets belong into the environment rather than into a file; several stand between commas.
        Some(Value::Array(_)) if last == "secrets" => {
            let secrets = text
                .split(',')
                .map(str::trim)
                .filter(|secret| !secret.is_empty());
            Value::Array(
                secrets
                    .map(|secret| Value::String(secret.to_owned()))
                    .collect(),
            )
        }
        Some(Value::Table(_) | Value::Array(_)) => {
            return Err("belongs into the settings file".into());
        }
        _ => Value::String(text.to_owned()),
    };
    table.insert(last.clone(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config> {
        let environment = environment
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()));
        Config::from_layers(
            Table::new(),
            Some(("dealrank.toml".into(), file.to_owned())),
            environment,
        )
    }

    #[test]
    fn the_printed_defaults_are_valid_settings() {
        let config = load("", &[]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:8080");
        assert!(load(DEFAULT_TOML, &[]).is_ok());
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let file = "refresh_minutes = 5\nstalled_days = 7\n[limits]\nbatch_rows_max = 3";
        let config = load(
            file,
            &[
                ("DEALRANK_STALLED_DAYS", "9"),
                ("DEALRANK_LIMITS__JOBS_QUEUED_MAX", "2"),
                ("DEALRANK_REDIS_URL", "redis://cache:6379"),
                ("DEALRANK_SERVICE_HOST", "10.0.0.1"),
            ],
        )
        .unwrap();
        assert_eq!((config.refresh_minutes, config.stalled_days), (5, 9));
        assert_eq!(config.limits.batch_rows_max, 3);
        assert_eq!(config.limits.jobs_queued_max, 2);
        assert_eq!(config.redis_url.as_deref(), Some("redis://cache:6379"));
    }

    #[test]
    fn secrets_come_from_the_environment_too_and_are_not_shown() {
        let variable = ("DEALRANK_WEBHOOKS__HUBSPOT__SECRETS", "new-one, old-one");
        let config = load("[webhooks.hubspot]\nid_prefix = \"hs-\"", &[variable]).unwrap();
        let hubspot = &config.webhooks.hubspot;
        let secrets: Vec<&str> = hubspot.secrets.iter().map(|s| s.expose()).collect();
        assert_eq!(secrets, ["new-one", "old-one"]);
        assert_eq!(hubspot.id_prefix, "hs-");
        assert!(!format!("{config:?}").contains("-one"));
    }

    #[test]
    fn an_interval_is_written_as_people_do() {
        let every = |text: &str| {
            let file = format!("[training]\nevery = \"{text}\"");
            load(&file, &[]).unwrap().training.every
        };
        let hours = |count: i64| Every(Some(SignedDuration::from_hours(count)));
        assert_eq!(every("7d"), hours(7 * 24));
        assert_eq!(every("1 week"), hours(7 * 24));
        assert_eq!(every("12h"), hours(12));
        assert_eq!(every("off"), Every(None));
    }

    #[test]
    fn a_key_that_is_unknown_is_an_error_that_names_it_and_its_place() {
        for (file, environment, expected) in [
            ("lisen = \"x\"", &[][..], "lisen"),
            ("[limits]\nrows = 1", &[], "rows"),
            ("listen = 5", &[], "dealrank.toml"),
            ("", &[("DEALRANK_LISEN", "x")], "lisen"),
            ("", &[("DEALRANK_LIMITS__X", "1")], "`x`"),
            ("", &[("DEALRANK_STALLED_DAYS", "soon")], "whole number"),
            ("[limits]\nbatch_rows_max = 0", &[], "batch_rows_max"),
            ("[exchange]\nbase = \"EURO\"", &[], "EURO"),
            ("score_ttl_seconds = 0", &[], "score_ttl_seconds"),
            ("[access]\nsession_hours = 0", &[], "access.session_hours"),
            ("", &[("DEALRANK_ACCESS__API_KEY_REQUIRED", "yes")], "yes"),
            ("[training]\nevery = \"weekly\"", &[], "weekly"),
            ("[training]\nevery = \"0d\"", &[], "shorter"),
            ("", &[("DEALRANK_TRAINING__EVERY", "1 month")], "1 month"),
            ("[webhooks.hubspot]\nsecret = \"x\"", &[], "secret"),
            (
                "[webhooks.odoo]\nsecrets = [\"short\"]",
                &[],
                "webhooks.odoo.secrets",
            ),
            (
                "[webhooks.close]\nfields = { value = \"sum\" }",
                &[],
                "fields.value",
            ),
            (
                "",
                &[("DEALRANK_WEBHOOKS__CLOSE__SECRETS", "xyz")],
                "webhooks.close.secrets",
            ),
        ] {
            let message = load(file, environment).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
