//! Which model was the champion when, and by what it became one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::engine::{Sql, Tx};
use super::{Store, micros, timestamp};
use crate::error::{Error, Result};

/// By what a model became the champion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationCause {
    /// There was no champion.
    First,
    /// It was better than the champion of its day on deals newer than both had seen.
    Challenge,
    /// Somebody asked for it.
    Command,
    /// Somebody asked for what was before.
    Rollback,
}

impl ActivationCause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Challenge => "challenge",
            Self::Command => "command",
            Self::Rollback => "rollback",
        }
    }

    fn of(text: &str) -> Self {
        match text {
            "first" => Self::First,
            "challenge" => Self::Challenge,
            "rollback" => Self::Rollback,
            _ => Self::Command,
        }
    }
}

/// A model became the champion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    pub model_version: String,
    pub at: Timestamp,
    pub cause: ActivationCause,
}

struct Present {
    seq: i64,
    model_version: String,
    previous_seq: Option<i64>,
}

impl Store {
    /// The newest activations, newest first.
    pub async fn activations(&self, limit: u32) -> Result<Vec<Activation>> {
        let rows = Sql::new(
            "SELECT model_version, activated_at, cause FROM activations ORDER BY seq DESC LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Activation {
                    model_version: row.get("model_version")?,
                    at: timestamp(row.get("activated_at")?)?,
                    cause: ActivationCause::of(row.get("cause")?),
                })
            })
            .collect()
    }

    /// The version that was the champion before the present one.
    ///
    /// # Errors
    /// `NoPreviousModel`.
    pub async fn previous_champion(&self) -> Result<String> {
        let version = Sql::new(
            "SELECT previous.model_version FROM activations previous
             WHERE previous.seq = (SELECT previous_seq FROM activations ORDER BY seq DESC LIMIT 1)",
        )
        .scalar_optional(&self.readers)
        .await?;
        version.ok_or(Error::NoPreviousModel)
    }
}

/// Writes down that a model is the champion from now on. With another champion, nobody is a
/// challenger any more: they had challenged the one before. Answers with the champion before.
pub(super) async fn record(
    tx: &mut Tx,
    model_version: &str,
    at: Timestamp,
    cause: ActivationCause,
) -> Result<Option<String>> {
    let present = present(tx).await?;
    let previous_seq = match &present {
        None => None,
        // The same model once more leads back to where it led before.
        Some(present) if present.model_version == model_version => present.previous_seq,
        // After a step back, the next one leads further back, and not forth again.
        Some(present) if cause == ActivationCause::Rollback => {
            Sql::new("SELECT previous_seq FROM activations WHERE seq = $1")
                .bind(present.previous_seq)
                .scalar_optional::<Option<i64>>(&mut *tx)
                .await?
                .flatten()
        }
        Some(present) => Some(present.seq),
    };
    let previous = present.map(|present| present.model_version);
    let is_same = previous.as_deref() == Some(model_version);
    if !is_same {
        for retire in [
            "UPDATE models SET is_challenger = 0 WHERE is_challenger = 1",
            "DELETE FROM shadow_scores",
        ] {
            Sql::new(retire).execute(&mut *tx).await?;
        }
    }
    Sql::new(
        "INSERT INTO activations (model_version, activated_at, cause, previous_seq)
         VALUES ($1, $2, $3, $4)",
    )
    .bind(model_version)
    .bind(micros(at))
    .bind(cause.as_str())
    .bind(previous_seq)
    .execute(tx)
    .await?;
    Ok(previous)
}

async fn present(tx: &mut Tx) -> Result<Option<Present>> {
    let row = Sql::new(
        "SELECT seq, model_version, previous_seq FROM activations ORDER BY seq DESC LIMIT 1",
    )
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Present {
        seq: row.get("seq")?,
        model_version: row.get("model_version")?,
        previous_seq: row.get("previous_seq")?,
    }))
}
