//! The registry of models.

use anyhow::Context;
use jiff::Timestamp;

use super::engine::Sql;
use super::{Fence, Store, leases, micros, timestamp};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::training::challenge::Challenge;

/// A registered model without its content.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSummary {
    pub version: String,
    /// Where it came from: `trained`, `shipped`, `imported`.
    pub origin: String,
    pub created_at: Timestamp,
    pub is_active: bool,
    /// Whether it waits to take the champion's place, and scores open deals unseen meanwhile.
    pub is_challenger: bool,
    /// How it did against the champion of its day, if there was one.
    pub challenge: Option<Challenge>,
}

impl Store {
    /// Registers a model; registering the same one again changes nothing.
    pub async fn insert_model(&self, model: &Model, origin: &str, at: Timestamp) -> Result<()> {
        Sql::new(
            "INSERT INTO models (version, model, origin, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (version) DO NOTHING",
        )
        .bind(&model.version)
        .bind(model.to_json())
        .bind(origin)
        .bind(micros(at))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Registers a model that was compared with the champion. Unless it was better, it is the
    /// challenger from now on, in the place of an earlier one.
    pub(crate) async fn insert_challenger(
        &self,
        model: &Model,
        challenge: &Challenge,
        fence: Option<&Fence>,
        at: Timestamp,
    ) -> Result<()> {
        let json = serde_json::to_string(challenge).context("a challenge is JSON")?;
        let mut tx = self.writer.write().await?;
        leases::check(&mut tx, fence).await?;
        Sql::new("UPDATE models SET is_challenger = 0 WHERE is_challenger = 1")
            .execute(&mut tx)
            .await?;
        Sql::new(
            "INSERT INTO models (version, model, origin, created_at, challenge, is_challenger)
             VALUES ($1, $2, 'trained', $3, $4, $5)
             ON CONFLICT (version) DO UPDATE SET
                 challenge = excluded.challenge, is_challenger = excluded.is_challenger",
        )
        .bind(&model.version)
        .bind(model.to_json())
        .bind(micros(at))
        .bind(json)
        .bind(!challenge.is_better)
        .execute(&mut tx)
        .await?;
        tx.commit().await
    }

    /// All models, newest first.
    pub async fn models(&self) -> Result<Vec<ModelSummary>> {
        let rows = Sql::new(
            "SELECT version, origin, created_at, is_challenger = 1 AS is_challenger, challenge,
                    EXISTS (SELECT 1 FROM generations g
                            WHERE g.state = 'active' AND g.model_version = m.version) AS is_active
             FROM models m ORDER BY created_at DESC, version DESC",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let challenge: Option<&str> = row.get("challenge")?;
                Ok(ModelSummary {
                    version: row.get("version")?,
                    origin: row.get("origin")?,
                    created_at: timestamp(row.get("created_at")?)?,
                    is_active: row.get("is_active")?,
                    is_challenger: row.get("is_challenger")?,
                    challenge: challenge
                        .map(serde_json::from_str)
                        .transpose()
                        .context("a stored challenge cannot be read")?,
                })
            })
            .collect()
    }

    /// The active model.
    ///
    /// # Errors
    /// `NoModel` before the first activation.
    pub async fn champion(&self) -> Result<Model> {
        match self.active_generation().await? {
            Some(generation) => self.model(&generation.model_version).await,
            None => Err(Error::NoModel),
        }
    }

    /// # Errors
    /// `NotFound`; `Internal` when the stored content is damaged.
    pub async fn model(&self, version: &str) -> Result<Model> {
        let json: Option<String> = Sql::new("SELECT model FROM models WHERE version = $1")
            .bind(version)
            .scalar_optional(&self.readers)
            .await?;
        let json = json.ok_or_else(|| Error::NotFound {
            kind: "model",
            id: version.to_owned(),
        })?;
        Ok(Model::from_json(&json)
            .with_context(|| format!("the stored model {version} cannot be read"))?)
    }
}
