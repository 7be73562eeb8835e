//! Who is told of what happens, and how their receivers do.

use anyhow::{Context, anyhow};
use jiff::Timestamp;

use super::engine::{Row, Sql, Tx};
use super::{Store, micros, take_seqs, timestamp};
use crate::crm::CrmKind;
use crate::error::{Error, Result};
use crate::outbound::patience::Circuit;
use crate::outbound::subscription::{Disabled, Sweep};
use crate::outbound::{EventType, Filters, Format, Receiver, Subscription, Webhook};
use crate::standard_webhooks::Key;

/// Why a subscription is disabled whose receiver wants nothing any more.
const GONE: &str = "the receiver answered 410 Gone";

impl Store {
    /// Adds a subscription. It is told of what happens from now on: `since_seq` is set here.
    ///
    /// # Errors
    /// `Conflict` when there are `max` already.
    pub(crate) async fn subscribe(&self, new: Subscription, max: u32) -> Result<Subscription> {
        let mut tx = self.writer.write().await?;
        // Taken without a number, so that one process at a time counts.
        let since_seq = take_seqs(&mut tx, 0).await?;
        let count: i64 = Sql::new("SELECT count(*) FROM subscriptions WHERE kind = 'webhook'")
            .scalar(&mut tx)
            .await?;
        if count >= i64::from(max) {
            let reason = format!("outbound.subscriptions_max: there are {max} already");
            return Err(Error::Conflict(reason));
        }
        let new = Subscription { since_seq, ..new };
        insert(&mut tx, &new).await?;
        tx.commit().await?;
        Ok(new)
    }

    /// Sees to it that scores are written into exactly these CRMs; one that is new, or was off, is
    /// written wholly once.
    pub(crate) async fn write_back_to(&self, crms: &[CrmKind], at: Timestamp) -> Result<()> {
        let mut tx = self.writer.write().await?;
        // Taken without a number, since other processes may start at the same time.
        let since_seq = take_seqs(&mut tx, 0).await?;
        for crm in CrmKind::ALL {
            let id = format!("write-back-{}", crm.as_str());
            if !crms.contains(&crm) {
                // Its memory of what was written stays.
                Sql::new(
                    "UPDATE subscriptions SET disabled_at = $2, disabled_reason = $3
                     WHERE id = $1 AND disabled_at IS NULL",
                )
                .bind(&id)
                .bind(micros(at))
                .bind("the settings do not enable it")
                .execute(&mut tx)
                .await?;
                continue;
            }
            let enabled = Sql::new(
                "UPDATE subscriptions SET disabled_at = NULL, disabled_reason = NULL,
                        since_seq = $2, sweep = $3, failures_in_row = 0, paused_until = NULL
                 WHERE id = $1 AND disabled_at IS NOT NULL",
            )
            .bind(&id)
            .bind(since_seq)
            .bind(Sweep::from(since_seq).to_string())
            .execute(&mut tx)
            .await?;
            let known: i64 = Sql::new("SELECT count(*) FROM subscriptions WHERE id = $1")
                .bind(&id)
                .scalar(&mut tx)
                .await?;
            if enabled == 0 && known == 0 {
                let new = Subscription {
                    id,
                    description: None,
                    receiver: Receiver::WriteBack {
                        crm,
                        sweep: Some(Sweep::from(since_seq)),
                    },
                    event_types: vec![EventType::ScoreChanged, EventType::ModelActivated],
                    filters: Filters::default(),
                    created_at: at,
                    since_seq,
                    disabled: None,
                    circuit: Circuit::default(),
                };
                insert(&mut tx, &new).await?;
            }
        }
        tx.commit().await
    }

    /// All of them, the oldest first; also those of CRMs.
    pub(crate) async fn subscriptions(&self) -> Result<Vec<Subscription>> {
        let rows = Sql::new("SELECT * FROM subscriptions ORDER BY created_at, id")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(subscription).collect()
    }

    /// A subscription of somebody; those of CRMs belong to the settings.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn subscription(&self, id: &str) -> Result<Subscription> {
        let row = Sql::new("SELECT * FROM subscriptions WHERE id = $1 AND kind = 'webhook'")
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map_or_else(|| Err(none(id)), subscription)
    }

    /// Writes what its owner may change. How its receiver does begins anew.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn change_subscription(&self, changed: &Subscription) -> Result<()> {
        let columns = Columns::of(changed)?;
        let updated = Sql::new(
            "UPDATE subscriptions
             SET description = $2, event_types = $3, filters = $4, disabled_at = $5,
                 disabled_reason = $6, url = $7, format = $8, secret = $9, previous_secret = $10,
                 previous_secret_until = $11, failures_in_row = 0, paused_until = NULL
             WHERE id = $1 AND kind = 'webhook'",
        )
        .bind(&changed.id)
        .bind(&changed.description)
        .bind(columns.event_types)
        .bind(columns.filters)
        .bind(
            changed
                .disabled
                .as_ref()
                .map(|disabled| micros(disabled.at)),
        )
        .bind(
            changed
                .disabled
                .as_ref()
                .map(|disabled| disabled.reason.as_str()),
        )
        .bind(columns.url)
        .bind(columns.format)
        .bind(columns.secret)
        .bind(columns.previous_secret)
        .bind(columns.previous_secret_until)
        .execute(&self.writer)
        .await?;
        match updated {
            0 => Err(none(&changed.id)),
            _ => Ok(()),
        }
    }

    /// Forgets a subscription with its deliveries.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn unsubscribe(&self, id: &str) -> Result<()> {
        let deleted = Sql::new("DELETE FROM subscriptions WHERE id = $1 AND kind = 'webhook'")
            .bind(id)
            .execute(&self.writer)
            .await?;
        match deleted {
            0 => Err(none(id)),
            _ => Ok(()),
        }
    }

    /// Ends a subscription for a reason other than its owner's wish.
    pub(crate) async fn disable_subscription(
        &self,
        id: &str,
        reason: &str,
        at: Timestamp,
    ) -> Result<()> {
        let mut tx = self.writer.write().await?;
        disable(&mut tx, id, reason, at).await?;
        tx.commit().await
    }

    /// Has all deals of a CRM gone through in place of the deliveries that wait for it.
    pub(crate) async fn sweep_instead(&self, id: &str) -> Result<()> {
        let mut tx = self.writer.write().await?;
        let since_seq = take_seqs(&mut tx, 0).await?;
        Sql::new("DELETE FROM deliveries WHERE subscription_id = $1 AND state = 'pending'")
            .bind(id)
            .execute(&mut tx)
            .await?;
        Sql::new("UPDATE subscriptions SET sweep = $2 WHERE id = $1")
            .bind(id)
            .bind(Sweep::from(since_seq).to_string())
            .execute(&mut tx)
            .await?;
        tx.commit().await
    }

    /// Remembers how far a CRM was gone through, `None` when that is over; answers with whether that
    /// still holds: not if all were asked for again meanwhile.
    pub(crate) async fn advance_sweep(
        &self,
        id: &str,
        from: &Sweep,
        to: Option<&Sweep>,
    ) -> Result<bool> {
        let advanced = Sql::new("UPDATE subscriptions SET sweep = $3 WHERE id = $1 AND sweep = $2")
            .bind(id)
            .bind(from.to_string())
            .bind(to.map(Sweep::to_string))
            .execute(&self.writer)
            .await?;
        Ok(advanced > 0)
    }

    /// Remembers how a receiver does.
    pub(crate) async fn set_circuit(&self, id: &str, circuit: Circuit) -> Result<()> {
        let mut tx = self.writer.write().await?;
        put_circuit(&mut tx, id, circuit).await?;
        tx.commit().await
    }
}

/// A subscription whose receiver wants nothing any more: what waits for it is dropped.
pub(super) async fn end(tx: &mut Tx, id: &str, at: Timestamp) -> Result<()> {
    disable(tx, id, GONE, at).await?;
    Sql::new(
        "UPDATE deliveries SET state = 'dropped', attempted_at = $2, reason = $3
         WHERE subscription_id = $1 AND state = 'pending'",
    )
    .bind(id)
    .bind(micros(at))
    .bind(GONE)
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn put_circuit(tx: &mut Tx, id: &str, circuit: Circuit) -> Result<()> {
    Sql::new("UPDATE subscriptions SET failures_in_row = $2, paused_until = $3 WHERE id = $1")
        .bind(id)
        .bind(i64::from(circuit.failures_in_row))
        .bind(circuit.paused_until.map(micros))
        .execute(tx)
        .await?;
    Ok(())
}

async fn disable(tx: &mut Tx, id: &str, reason: &str, at: Timestamp) -> Result<()> {
    Sql::new(
        "UPDATE subscriptions SET disabled_at = $2, disabled_reason = $3
         WHERE id = $1 AND disabled_at IS NULL",
    )
    .bind(id)
    .bind(micros(at))
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

/// A subscription as its row has it.
struct Columns<'a> {
    kind: &'static str,
    event_types: String,
    filters: String,
    url: Option<&'a str>,
    format: Option<&'static str>,
    secret: Option<String>,
    previous_secret: Option<String>,
    previous_secret_until: Option<i64>,
    crm: Option<&'static str>,
    sweep: Option<String>,
}

impl<'a> Columns<'a> {
    fn of(subscription: &'a Subscription) -> Result<Self> {
        let types = subscription.event_types.iter().map(|kind| kind.as_str());
        let none = Self {
            kind: "",
            event_types: types.collect::<Vec<_>>().join(" "),
            filters: serde_json::to_string(&subscription.filters).context("filters are JSON")?,
            url: None,
            format: None,
            secret: None,
            previous_secret: None,
            previous_secret_until: None,
            crm: None,
            sweep: None,
        };
        Ok(match &subscription.receiver {
            Receiver::Webhook(webhook) => Self {
                kind: "webhook",
                url: Some(&webhook.url),
                format: Some(webhook.format.as_str()),
                secret: Some(webhook.key.reveal()),
                previous_secret: webhook.previous_key.as_ref().map(|(key, _)| key.reveal()),
                previous_secret_until: webhook
                    .previous_key
                    .as_ref()
                    .map(|(_, until)| micros(*until)),
                ..none
            },
            Receiver::WriteBack { crm, sweep } => Self {
                kind: "write_back",
                crm: Some(crm.as_str()),
                sweep: sweep.as_ref().map(Sweep::to_string),
                ..none
            },
        })
    }
}

async fn insert(tx: &mut Tx, new: &Subscription) -> Result<()> {
    let columns = Columns::of(new)?;
    Sql::new(
        "INSERT INTO subscriptions
             (id, kind, created_at, since_seq, description, event_types, filters, url, format,
              secret, previous_secret, previous_secret_until, crm, sweep)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(&new.id)
    .bind(columns.kind)
    .bind(micros(new.created_at))
    .bind(new.since_seq)
    .bind(&new.description)
    .bind(columns.event_types)
    .bind(columns.filters)
    .bind(columns.url)
    .bind(columns.format)
    .bind(columns.secret)
    .bind(columns.previous_secret)
    .bind(columns.previous_secret_until)
    .bind(columns.crm)
    .bind(columns.sweep)
    .execute(tx)
    .await?;
    Ok(())
}

fn subscription(row: &Row) -> Result<Subscription> {
    let at = |micros: Option<i64>| micros.map(timestamp).transpose();
    let types: String = row.get("event_types")?;
    let filters: String = row.get("filters")?;
    let failures_in_row: i64 = row.get("failures_in_row")?;
    let disabled_at = at(row.get("disabled_at")?)?;
    let reason: Option<String> = row.get("disabled_reason")?;
    Ok(Subscription {
        id: row.get("id")?,
        description: row.get("description")?,
        receiver: receiver(row)?,
        event_types: types.split(' ').filter_map(EventType::of).collect(),
        filters: serde_json::from_str(&filters).context("stored filters cannot be read")?,
        created_at: timestamp(row.get("created_at")?)?,
        since_seq: row.get("since_seq")?,
        disabled: disabled_at.map(|at| Disabled {
            at,
            reason: reason.unwrap_or_default(),
        }),
        circuit: Circuit {
            failures_in_row: u32::try_from(failures_in_row).unwrap_or(u32::MAX),
            paused_until: at(row.get("paused_until")?)?,
        },
    })
}

fn receiver(row: &Row) -> Result<Receiver> {
    let crm: Option<String> = row.get("crm")?;
    if let Some(crm) = crm {
        let crm = CrmKind::of(&crm).ok_or_else(|| anyhow!("the stored CRM `{crm}`"))?;
        let sweep: Option<String> = row.get("sweep")?;
        let sweep = sweep.as_deref().and_then(Sweep::of);
        return Ok(Receiver::WriteBack { crm, sweep });
    }
    let format: String = row.get("format")?;
    let secret: String = row.get("secret")?;
    let previous: Option<String> = row.get("previous_secret")?;
    let until: Option<i64> = row.get("previous_secret_until")?;
    // The key is no part of the message.
    let key = |secret: String| -> Result<Key> {
        Ok(secret
            .parse()
            .map_err(|_| anyhow!("a stored key cannot be read"))?)
    };
    let previous_key = match (previous, until) {
        (Some(previous), Some(until)) => Some((key(previous)?, timestamp(until)?)),
        _ => None,
    };
    Ok(Receiver::Webhook(Webhook {
        url: row.get("url")?,
        format: Format::of(&format),
        key: key(secret)?,
        previous_key,
    }))
}

fn none(id: &str) -> Error {
    Error::NotFound {
        kind: "subscription",
        id: id.to_owned(),
    }
}
