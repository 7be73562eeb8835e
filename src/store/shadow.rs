//! Shadow scores: what a challenger makes of open deals, beside what the champion makes of them, so
//! that both can be judged once the deals have ended.

use jiff::Timestamp;

use super::engine::{Sql, Tx};
use super::{Store, micros, timestamp};
use crate::domain::DealId;
use crate::error::Result;
use crate::training::challenge::Forecasts;

/// What a challenger and the champion made of an open deal at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ShadowScore {
    /// Of the challenger.
    pub model_version: String,
    pub deal_id: DealId,
    pub probability: f64,
    pub champion_probability: f64,
    pub scored_at: Timestamp,
}

/// The shadow scores of a challenger, by what became of their deals.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowOutcomes {
    /// When the first of them was made.
    pub since: Timestamp,
    pub open_deals: usize,
    /// Of the deals that have ended.
    pub forecasts: Vec<Forecasts>,
}

impl Store {
    /// The version that waits to take the champion's place.
    pub(crate) async fn challenger(&self) -> Result<Option<String>> {
        Sql::new("SELECT version FROM models WHERE is_challenger = 1")
            .scalar_optional(&self.readers)
            .await
    }

    /// Adds shadow scores of deals that are open and have none yet: those written meanwhile are newer.
    pub(crate) async fn add_shadows(&self, shadows: &[ShadowScore]) -> Result<()> {
        let mut tx = self.writer.write().await?;
        for shadow in shadows {
            Sql::new(
                "INSERT INTO shadow_scores
                     (model_version, deal_id, probability, champion_probability, scored_at)
                 SELECT $1, id, $3, $4, $5 FROM deals WHERE id = $2 AND outcome = 'open'
                 ON CONFLICT DO NOTHING",
            )
            .bind(&shadow.model_version)
            .bind(shadow.deal_id.as_str())
            .bind(shadow.probability)
            .bind(shadow.champion_probability)
            .bind(micros(shadow.scored_at))
            .execute(&mut tx)
            .await?;
        }
        tx.commit().await
    }

    /// What became of a challenger's deals; `None` for a model without shadow scores.
    pub(crate) async fn shadow_outcomes(&self, version: &str) -> Result<Option<ShadowOutcomes>> {
        let mut tx = self.readers.read().await?;
        let row = Sql::new(
            "SELECT min(s.scored_at) AS since, count(*) FILTER (WHERE d.outcome = 'open') AS open
             FROM shadow_scores s JOIN deals d ON d.id = s.deal_id WHERE s.model_version = $1",
        )
        .bind(version)
        .fetch_one(&mut tx)
        .await?;
        let Some(since) = row.get("since")? else {
            return Ok(None);
        };
        let open_deals: i64 = row.get("open")?;
        let rows = Sql::new(
            "SELECT s.probability, s.champion_probability, d.outcome = 'won' AS won
             FROM shadow_scores s JOIN deals d ON d.id = s.deal_id
             WHERE s.model_version = $1 AND d.outcome <> 'open' ORDER BY s.deal_id",
        )
        .bind(version)
        .fetch_all(&mut tx)
        .await?;
        let forecasts = rows.iter().map(|row| {
            Ok(Forecasts {
                champion: row.get("champion_probability")?,
                challenger: row.get("probability")?,
                won: row.get("won")?,
            })
        });
        Ok(Some(ShadowOutcomes {
            since: timestamp(since)?,
            open_deals: usize::try_from(open_deals).unwrap_or(0),
            forecasts: forecasts.collect::<Result<_>>()?,
        }))
    }
}

/// Takes the newest shadow score of a deal that has just been scored.
pub(super) async fn put(tx: &mut Tx, shadow: &ShadowScore) -> Result<()> {
    Sql::new(
        "INSERT INTO shadow_scores
             (model_version, deal_id, probability, champion_probability, scored_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (model_version, deal_id) DO UPDATE SET
             probability = excluded.probability,
             champion_probability = excluded.champion_probability,
             scored_at = excluded.scored_at",
    )
    .bind(&shadow.model_version)
    .bind(shadow.deal_id.as_str())
    .bind(shadow.probability)
    .bind(shadow.champion_probability)
    .bind(micros(shadow.scored_at))
    .execute(tx)
    .await?;
    Ok(())
}
