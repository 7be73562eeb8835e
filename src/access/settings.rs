//! The section `[access]`.

use serde::Deserialize;

use crate::error::{Error, Result};

/// See `config.default.toml` for the meaning of each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSettings {
    pub api_key_required: KeyRequired,
    pub session_hours: u32,
    pub link_minutes: u32,
    pub wrong_keys_per_minute_max: u32,
}

/// Whether `/v1` wants a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub enum KeyRequired {
    Always,
    Never,
    /// Unless the service can be reached from its own machine alone.
    Auto,
}

impl TryFrom<toml::Value> for KeyRequired {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Self, String> {
        match value {
            toml::Value::Boolean(true) => Ok(Self::Always),
            toml::Value::Boolean(false) => Ok(Self::Never),
            // Texts, too: so they come from the environment.
            toml::Value::String(text) => match text.as_str() {
                "true" => Ok(Self::Always),
                "false" => Ok(Self::Never),
                "auto" => Ok(Self::Auto),
                _ => Err(format!("`{text}` is not true, false or \"auto\"")),
            },
            other => Err(format!("`{other}` is not true, false or \"auto\"")),
        }
    }
}

impl AccessSettings {
    /// # Errors
    /// `Malformed` for a limit of zero.
    pub fn check(&self) -> Result<()> {
        for (key, value) in [
            ("session_hours", self.session_hours),
            ("link_minutes", self.link_minutes),
            ("wrong_keys_per_minute_max", self.wrong_keys_per_minute_max),
        ] {
            if value == 0 {
                let reason = format!("settings: access.{key} must be at least 1");
                return Err(Error::Malformed(reason));
            }
        }
        Ok(())
    }
}
