//! What is told to those who subscribed, and in which form. Pure.

use jiff::Timestamp;
use rust_decimal::prelude::ToPrimitive;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::insight::attention::{MisprioritizedDeal, WrongAttention};
use crate::ranking::{DealSummary, RankingRow};
use crate::scoring::{Grade, Score};

/// Reasons that an event tells of: those that weigh most.
pub const REASONS_MAX: usize = 5;

/// The kinds of events.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
pub enum EventType {
    /// A deal's probability, grade or expected value moved.
    #[serde(rename = "score.changed")]
    ScoreChanged,
    /// A deal has been in its stage for too long; told once for each stay.
    #[serde(rename = "deal.stalled")]
    DealStalled,
    /// A deal gets more or less attention than it is worth.
    #[serde(rename = "deal.misprioritized")]
    DealMisprioritized,
    /// Another model became the champion.
    #[serde(rename = "model.activated")]
    ModelActivated,
    /// Somebody looks whether messages arrive. Sent on demand, whatever is subscribed to.
    #[serde(rename = "test")]
    Test,
}

impl EventType {
    /// What can be subscribed to.
    pub const ALL: [Self; 4] = [
        Self::ScoreChanged,
        Self::DealStalled,
        Self::DealMisprioritized,
        Self::ModelActivated,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScoreChanged => "score.changed",
            Self::DealStalled => "deal.stalled",
            Self::DealMisprioritized => "deal.misprioritized",
            Self::ModelActivated => "model.activated",
            Self::Test => "test",
        }
    }

    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How a message looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{"type", "timestamp", "data"}`.
    #[default]
    Json,
    /// CloudEvents 1.0 in structured mode.
    CloudEvents,
}

impl Format {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::CloudEvents => "cloudevents",
        }
    }

    pub fn of(text: &str) -> Self {
        match text {
            "cloudevents" => Self::CloudEvents,
            _ => Self::Json,
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::CloudEvents => "application/cloudevents+json",
        }
    }
}

/// Something that happened, as the outbox keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The same in each attempt at each receiver.
    pub id: String,
    pub kind: EventType,
    pub at: Timestamp,
    /// The deal that it is about, with what filters ask for.
    pub deal: Option<Subject>,
    pub data: Value,
}

/// What filters ask of a deal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Subject {
    pub deal_id: String,
    pub owner: Option<String>,
    pub pipeline: Option<String>,
    pub stage: Option<String>,
    pub grade: Option<Grade>,
    pub win_probability: f64,
    pub expected_value: Option<f64>,
}

impl Subject {
    fn of(row: &RankingRow) -> Self {
        Self {
            deal_id: row.deal.id.to_string(),
            owner: row.deal.owner.clone(),
            pipeline: row.deal.pipeline.clone(),
            stage: row.deal.stage.clone(),
            grade: Some(row.score.grade),
            win_probability: row.score.win_probability.get(),
            expected_value: row.score.expected_value,
        }
    }
}

impl Event {
    /// The deal's line moved from `before` to `now`; `None` when what is told of it is the same.
    /// `cause` is the ledger's.
    pub fn score_changed(
        before: Option<&Score>,
        now: &RankingRow,
        cause: &str,
        at: Timestamp,
    ) -> Option<Self> {
        let told = |score: &Score| (score.win_probability, score.grade, score.expected_value);
        if before.is_some_and(|before| told(before) == told(&now.score)) {
            return None;
        }
        let previous = before.map(|score| {
            json!({
                "win_probability": score.win_probability.get(),
                "score": score.score,
                "grade": score.grade,
                "expected_value": score.expected_value,
                "model_version": score.model_version,
                "scored_at": score.scored_at,
            })
        });
        Some(Self {
            id: new_id(),
            kind: EventType::ScoreChanged,
            at,
            deal: Some(Subject::of(now)),
            data: json!({
                "deal": deal(&now.deal),
                "score": score(&now.score),
                "previous": previous,
                "cause": cause,
            }),
        })
    }

    /// The deal is longer than `limit_days` in its stage.
    pub fn deal_stalled(row: &RankingRow, limit_days: Option<f64>, at: Timestamp) -> Self {
        Self {
            id: new_id(),
            kind: EventType::DealStalled,
            at,
            deal: Some(Subject::of(row)),
            data: json!({
                "deal": deal(&row.deal),
                "score": score(&row.score),
                "stage_entered_at": row.deal.stage_entered_at,
                "limit_days": limit_days,
            }),
        }
    }

    /// The deal gets another attention than it deserves: see [`MisprioritizedDeal`].
    pub fn deal_misprioritized(
        row: &RankingRow,
        kind: WrongAttention,
        found: &MisprioritizedDeal,
        at: Timestamp,
    ) -> Self {
        Self {
            id: new_id(),
            kind: EventType::DealMisprioritized,
            at,
            deal: Some(Subject::of(row)),
            data: json!({
                "deal": deal(&row.deal),
                "score": score(&row.score),
                "kind": kind,
                "value_rank": found.value_rank,
                "attention_rank": found.attention_rank,
                "of": found.of,
                "efforts_30_days": found.efforts_30_days,
                "days_since_touch": found.days_since_touch,
            }),
        }
    }

    /// Another model scores from now on. The scores of all open deals are new; no other event says so.
    pub fn model_activated(
        model_version: &str,
        previous_version: Option<&str>,
        cause: &str,
        at: Timestamp,
    ) -> Self {
        Self {
            id: new_id(),
            kind: EventType::ModelActivated,
            at,
            deal: None,
            data: json!({
                "model_version": model_version,
                "previous_model_version": previous_version,
                "cause": cause,
                "activated_at": at,
            }),
        }
    }

    pub fn test(subscription_id: &str, at: Timestamp) -> Self {
        Self {
            id: new_id(),
            kind: EventType::Test,
            at,
            deal: None,
            data: json!({ "subscription_id": subscription_id }),
        }
    }

    /// The bytes of a message. `source` names this installation. Reasons are left out of what would be
    /// longer than `bytes_max`.
    ///
    /// # Errors
    /// What is too long without them.
    pub fn body(&self, format: Format, source: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        let body = self.envelope(format, source, &self.data).to_string();
        if body.len() <= bytes_max {
            return Ok(body.into_bytes());
        }
        let mut data = self.data.clone();
        if let Some(reasons) = data.pointer_mut("/score/reasons") {
            *reasons = json!([]);
        }
        let body = self.envelope(format, source, &data).to_string();
        match body.len() <= bytes_max {
            true => Ok(body.into_bytes()),
            false => Err(format!(
                "outbound.payload_bytes_max: the message has {} bytes",
                body.len()
            )),
        }
    }

    fn envelope(&self, format: Format, source: &str, data: &Value) -> Value {
        match format {
            Format::Json => json!({
                "type": self.kind,
                "timestamp": self.at,
                "data": data,
            }),
            Format::CloudEvents => {
                let mut envelope = json!({
                    "specversion": "1.0",
                    "id": self.id,
                    "source": source,
                    "type": format!("dealrank.{}", self.kind.as_str()),
                    "time": self.at,
                    "datacontenttype": "application/json",
                    "data": data,
                });
                if let Some(deal) = &self.deal {
                    envelope["subject"] = json!(deal.deal_id);
                }
                envelope
            }
        }
    }
}

fn new_id() -> String {
    format!("evt_{:032x}", rand::random::<u128>())
}

fn deal(deal: &DealSummary) -> Value {
    json!({
        "id": deal.id.as_str(),
        "name": deal.name,
        "owner": deal.owner,
        "pipeline": deal.pipeline,
        "stage": deal.stage,
        "amount": deal.amount.and_then(|amount| amount.to_f64()),
        "currency": deal.currency,
        "expected_close_at": deal.expected_close_at,
    })
}

fn score(score: &Score) -> Value {
    let reasons = score.reasons.iter().take(REASONS_MAX);
    json!({
        "win_probability": score.win_probability.get(),
        "interval": {
            "level": score.interval.level,
            "low": score.interval.low.get(),
            "high": score.interval.high.get(),
        },
        "score": score.score,
        "grade": score.grade,
        "expected_value": score.expected_value,
        "base_currency": score.base_currency,
        "model_version": score.model_version,
        "scored_at": score.scored_at,
        "reasons": reasons.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::{DealId, Probability};
    use crate::scoring::{Interval, Reason};

    pub fn row(id: &str, probability: f64, grade: Grade) -> RankingRow {
        let at: Timestamp = "2026-06-01T12:00:00Z".parse().unwrap();
        let probability = Probability::new(probability).unwrap();
        let reason = |index: usize| Reason {
            feature: format!("feature {index}"),
            value: json!(index),
            contribution: 0.5,
            text: format!("reason {index}"),
        };
        RankingRow {
            deal: DealSummary {
                id: DealId::new(id).unwrap(),
                name: Some("A deal".into()),
                owner: Some("Ada".into()),
                pipeline: Some("new".into()),
                stage: Some("demo".into()),
                amount: Some(1000.into()),
                currency: Some("EUR".parse().unwrap()),
                base_amount: Some(1000.0),
                created_at: Some(at),
                stage_entered_at: Some(at),
                expected_close_at: None,
                last_activity_at: None,
            },
            score: Score {
                deal_id: DealId::new(id).unwrap(),
                win_probability: probability,
                interval: Interval {
                    level: 0.9,
                    low: probability,
                    high: probability,
                },
                score: 42,
                grade,
                amount: Some(1000.0),
                currency: Some("EUR".parse().unwrap()),
                expected_value: Some(probability.get() * 1000.0),
                base_currency: "EUR".parse().unwrap(),
                model_version: "m1".into(),
                scored_at: at,
                intercept: 0.0,
                log_odds: 0.0,
                reasons: (0..8).map(reason).collect(),
                warnings: Vec::new(),
            },
            inputs_hash: None,
        }
    }

    fn changed() -> Event {
        let (before, now) = (row("d-1", 0.4, Grade::B), row("d-1", 0.5, Grade::A));
        let at = now.score.scored_at;
        Event::score_changed(Some(&before.score), &now, "put", at).unwrap()
    }

    fn body(event: &Event, format: Format, bytes_max: usize) -> Value {
        let bytes = event.body(format, "urn:dealrank:1", bytes_max).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn a_changed_score_tells_old_and_new() {
        let event = changed();
        let body = body(&event, Format::Json, 10_000);
        assert_eq!(body["type"], "score.changed");
        assert_eq!(body["timestamp"], "2026-06-01T12:00:00Z");
        let data = &body["data"];
        assert_eq!(data["deal"]["id"], "d-1");
        assert_eq!(data["deal"]["amount"], 1000.0);
        assert_eq!(data["score"]["win_probability"], 0.5);
        assert_eq!(data["score"]["grade"], "A");
        assert_eq!(data["previous"]["win_probability"], 0.4);
        assert_eq!(data["previous"]["grade"], "B");
        assert_eq!(data["cause"], "put");
        assert_eq!(
            data["score"]["reasons"].as_array().unwrap().len(),
            REASONS_MAX
        );
    }

    #[test]
    fn what_is_told_and_has_not_moved_is_no_event() {
        let (before, mut now) = (row("d-1", 0.4, Grade::B), row("d-1", 0.4, Grade::B));
        now.deal.name = Some("Another name".into());
        now.score.reasons.clear();
        let at = now.score.scored_at;
        assert_eq!(
            Event::score_changed(Some(&before.score), &now, "put", at),
            None
        );
        assert!(Event::score_changed(None, &now, "put", at).is_some());
        now.score.expected_value = Some(500.0);
        assert!(Event::score_changed(Some(&before.score), &now, "put", at).is_some());
    }

    #[test]
    fn a_cloud_event_has_what_the_specification_requires() {
        let event = changed();
        let cloud = body(&event, Format::CloudEvents, 10_000);
        assert_eq!(cloud["specversion"], "1.0");
        assert_eq!(cloud["id"], event.id.as_str());
        assert_eq!(cloud["source"], "urn:dealrank:1");
        assert_eq!(cloud["type"], "dealrank.score.changed");
        assert_eq!(cloud["subject"], "d-1");
        assert_eq!(cloud["time"], "2026-06-01T12:00:00Z");
        assert_eq!(cloud["datacontenttype"], "application/json");
        assert_eq!(cloud["data"], body(&event, Format::Json, 10_000)["data"]);
        let at = event.at;
        let model = Event::model_activated("m2", Some("m1"), "command", at);
        assert!(
            body(&model, Format::CloudEvents, 10_000)
                .get("subject")
                .is_none()
        );
    }

    #[test]
    fn a_message_that_is_too_long_goes_without_reasons_or_not_at_all() {
        let event = changed();
        let whole = event.body(Format::Json, "", 10_000).unwrap();
        let shorter = body(&event, Format::Json, whole.len() - 1);
        assert_eq!(shorter["data"]["score"]["reasons"], json!([]));
        assert_eq!(shorter["data"]["score"]["win_probability"], 0.5);
        assert!(event.body(Format::Json, "", 100).is_err());
    }
}
