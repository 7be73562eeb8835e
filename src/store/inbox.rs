//! What CRMs sent: kept, claimed, settled, and the dead letters among it.

use std::collections::HashMap;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use super::engine::{Row, Sql, Tx};
use super::{INSERT_ROWS_MAX, Store, micros, take_seqs, timestamp};
use crate::domain::DealId;
use crate::error::{Error, Result};

/// How long a process may have an event in hand before another one takes it.
const CLAIM_SECONDS: i64 = 10;
/// The same where a CRM is asked meanwhile.
const CLAIM_UNREAD_SECONDS: i64 = 120;
/// Rows removed in one transaction, so that nobody waits long for the writer.
const PRUNE_ROWS: i64 = 2000;

/// An event as it arrives.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub source: String,
    /// The same for each delivery of the same event.
    pub key: String,
    pub deal_id: Option<DealId>,
    pub body: Value,
    /// Why it is a dead letter from the start.
    pub dead: Option<String>,
    pub received_at: Timestamp,
}

/// An event that is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct InboxEvent {
    pub seq: i64,
    pub source: String,
    pub key: String,
    pub deal_id: Option<String>,
    pub received_at: Timestamp,
    /// When it became what it is: a dead letter, say.
    pub settled_at: Option<Timestamp>,
    pub reason: Option<String>,
    pub body: Value,
}

/// Which events to claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    New,
    /// Those that wait for a deal which was written after this number of the sequence.
    Awaited {
        since_seq: i64,
    },
    /// Those of whose deals the CRM is to be asked.
    Unread,
}

/// What an event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Settled {
    Applied,
    /// It told of a deal before that left its CRM: nothing is kept of it.
    Outlived,
    Waiting,
    /// The CRM is to be asked for the whole deal.
    Unread,
    /// The same, at that time.
    Later(Timestamp),
    Dead(String),
}

/// When a deal left its CRM, and when it came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Departure {
    pub departed_at: Option<Timestamp>,
    pub returned_at: Option<Timestamp>,
}

impl Departure {
    /// Until when what is told of the deal is of one that is gone.
    pub fn gone_until(&self) -> Option<Timestamp> {
        self.departed_at
            .filter(|departed| self.returned_at.is_none_or(|returned| returned < *departed))
    }
}

/// A deletion of a deal that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Departing {
    pub at: Timestamp,
    /// Events of the inbox that tell of later.
    pub later: Vec<i64>,
}

/// How the inbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InboxHealth {
    pub new: u64,
    pub unread: u64,
    pub waiting: u64,
    pub dead: u64,
    /// When the oldest event came that has not been looked at.
    pub oldest_new_at: Option<Timestamp>,
}

const COLUMNS: &str = "seq, source, event_key, deal_id, received_at, settled_at, reason, body";

impl Store {
    /// Keeps events, all or none; those that are known already are left out. Answers with how many are
    /// new of each source.
    pub(crate) async fn put_in_inbox(&self, arrivals: &mut [Arrival]) -> Result<u64> {
        // In one order everywhere, so that two processes with the same events do not deadlock.
        arrivals.sort_by(|a, b| (&a.source, &a.key).cmp(&(&b.source, &b.key)));
        let mut tx = self.writer.write().await?;
        let mut kept = 0;
        for chunk in arrivals.chunks(INSERT_ROWS_MAX) {
            kept += insert(&mut tx, chunk).await?;
        }
        tx.commit().await?;
        Ok(kept)
    }

    /// Takes events in hand, the oldest first. Where several processes share the store, none of them
    /// gets what another one has.
    pub(crate) async fn claim_inbox(
        &self,
        claim: Claim,
        limit: u32,
        now: Timestamp,
    ) -> Result<Vec<InboxEvent>> {
        let (which, since_seq) = match claim {
            Claim::New => ("state = 'new' AND $3 = 0", 0),
            Claim::Unread => ("state = 'unread' AND $3 = 0", 0),
            // From the start, most deals were written after: better to ask for each event.
            Claim::Awaited { since_seq: 0 } => (
                "state = 'waiting' AND $3 = 0
                 AND EXISTS (SELECT 1 FROM deals d WHERE d.id = inbox.deal_id)",
                0,
            ),
            Claim::Awaited { since_seq } => (
                "state = 'waiting' AND deal_id IN (SELECT id FROM deals WHERE revision > $3)",
                since_seq,
            ),
        };
        let free = format!("{which} AND claimed_until < $1 ORDER BY seq LIMIT $2");
        // A process that has the store for itself has it all in hand.
        if !self.is_shared() {
            return Sql::new(format!("SELECT {COLUMNS} FROM inbox WHERE {free}"))
                .bind(micros(now))
                .bind(limit)
                .bind(since_seq)
                .fetch_all(&self.readers)
                .await?
                .iter()
                .map(inbox_event)
                .collect();
        }
        let seconds = match claim {
            Claim::Unread => CLAIM_UNREAD_SECONDS,
            Claim::New | Claim::Awaited { .. } => CLAIM_SECONDS,
        };
        let until = micros(now) + seconds * 1_000_000;
        let rows = Sql::new(format!(
            "UPDATE inbox SET claimed_until = $4
             WHERE seq IN (SELECT seq FROM inbox WHERE {free} FOR UPDATE SKIP LOCKED)
             RETURNING {COLUMNS}"
        ))
        .bind(micros(now))
        .bind(limit)
        .bind(since_seq)
        .bind(until)
        .fetch_all(&self.writer)
        .await?;
        let mut events = rows.iter().map(inbox_event).collect::<Result<Vec<_>>>()?;
        events.sort_by_key(|event| event.seq);
        Ok(events)
    }

    /// Notes what became of events that were in hand.
    pub(crate) async fn settle_inbox(
        &self,
        settled: &[(i64, Settled)],
        now: Timestamp,
    ) -> Result<()> {
        let of = |wanted: &Settled| -> Vec<i64> {
            let matching = settled.iter().filter(|(_, settled)| settled == wanted);
            matching.map(|(seq, _)| *seq).collect()
        };
        let outlived = of(&Settled::Outlived);
        let mut tx = self.writer.write().await?;
        for (state, seqs) in [
            ("applied", of(&Settled::Applied)),
            ("applied", outlived.clone()),
            ("waiting", of(&Settled::Waiting)),
            ("unread", of(&Settled::Unread)),
        ] {
            set_state(&mut tx, state, None, &seqs, now).await?;
        }
        if !outlived.is_empty() {
            let mut sql = Sql::new("UPDATE inbox SET body = 'null' WHERE seq IN ");
            sql.push_list(outlived);
            sql.unkept().execute(&mut tx).await?;
        }
        for (seq, settled) in settled {
            match settled {
                Settled::Dead(reason) => {
                    set_state(&mut tx, "dead", Some(reason), &[*seq], now).await?;
                }
                Settled::Later(at) => {
                    Sql::new("UPDATE inbox SET claimed_until = $2 WHERE seq = $1")
                        .bind(*seq)
                        .bind(micros(*at))
                        .execute(&mut tx)
                        .await?;
                }
                Settled::Applied | Settled::Outlived | Settled::Waiting | Settled::Unread => {}
            }
        }
        tx.commit().await
    }

    /// What was received of a deal, dead letters apart, and is still kept as it came.
    pub(crate) async fn received_of(&self, id: &DealId) -> Result<Vec<InboxEvent>> {
        let rows = Sql::new(format!(
            "SELECT {COLUMNS} FROM inbox
             WHERE deal_id = $1 AND state <> 'dead' AND body <> 'null' ORDER BY seq"
        ))
        .bind(id.as_str())
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(inbox_event).collect()
    }

    /// What is known of the comings and goings of deals.
    pub(crate) async fn departures(&self, ids: &[&DealId]) -> Result<HashMap<DealId, Departure>> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut sql =
            Sql::new("SELECT deal_id, departed_at, returned_at FROM departures WHERE deal_id IN ");
        sql.push_list(ids.iter().map(|id| id.as_str()));
        let rows = sql.unkept().fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let at = |column| -> Result<Option<Timestamp>> {
                    row.get::<Option<i64>>(column)?.map(timestamp).transpose()
                };
                let departure = Departure {
                    departed_at: at("departed_at")?,
                    returned_at: at("returned_at")?,
                };
                Ok((super::deals::deal_id(row.get("deal_id")?)?, departure))
            })
            .collect()
    }

    /// Notes that a deal left, or came back; of several times the latest counts. Events that wait for a
    /// deal which has left are looked at again.
    pub(crate) async fn put_departure(&self, id: &DealId, departure: Departure) -> Result<()> {
        let at = |at: Option<Timestamp>| at.map(micros);
        let mut tx = self.writer.write().await?;
        // Taken without a number: whoever is about to write the deal has done so, or will see this.
        take_seqs(&mut tx, 0).await?;
        Sql::new(
            "INSERT INTO departures (deal_id, departed_at, returned_at) VALUES ($1, $2, $3)
             ON CONFLICT (deal_id) DO UPDATE SET
                 departed_at = CASE WHEN departures.departed_at >= excluded.departed_at
                     THEN departures.departed_at
                     ELSE coalesce(excluded.departed_at, departures.departed_at) END,
                 returned_at = CASE WHEN departures.returned_at >= excluded.returned_at
                     THEN departures.returned_at
                     ELSE coalesce(excluded.returned_at, departures.returned_at) END",
        )
        .bind(id.as_str())
        .bind(at(departure.departed_at))
        .bind(at(departure.returned_at))
        .execute(&mut tx)
        .await?;
        if departure.departed_at.is_some() {
            Sql::new(
                "UPDATE inbox SET state = 'new', settled_at = NULL, claimed_until = 0
                 WHERE deal_id = $1 AND state = 'waiting'",
            )
            .bind(id.as_str())
            .execute(&mut tx)
            .await?;
        }
        tx.commit().await
    }

    /// Makes dead letters of events that waited since before `cutoff`.
    pub(crate) async fn expire_inbox(
        &self,
        cutoff: Timestamp,
        reason: &str,
        now: Timestamp,
    ) -> Result<u64> {
        Sql::new(
            "UPDATE inbox SET state = 'dead', reason = $2, settled_at = $3
             WHERE state IN ('waiting', 'unread') AND received_at < $1",
        )
        .bind(micros(cutoff))
        .bind(reason)
        .bind(micros(now))
        .execute(&self.writer)
        .await
    }

    /// Removes events that were applied before `cutoff`, and dead letters of before `dead_cutoff`.
    pub(crate) async fn prune_inbox(
        &self,
        cutoff: Timestamp,
        dead_cutoff: Timestamp,
    ) -> Result<u64> {
        let applied = self.prune_state("applied", cutoff).await?;
        Ok(applied + self.prune_state("dead", dead_cutoff).await?)
    }

    async fn prune_state(&self, state: &'static str, cutoff: Timestamp) -> Result<u64> {
        let mut pruned = 0;
        loop {
            let rows = Sql::new(format!(
                "DELETE FROM inbox WHERE seq IN
                     (SELECT seq FROM inbox WHERE state = '{state}' AND settled_at < $1 LIMIT $2)"
            ))
            .bind(micros(cutoff))
            .bind(PRUNE_ROWS)
            .execute(&self.writer)
            .await?;
            pruned += rows;
            if rows == 0 {
                return Ok(pruned);
            }
        }
    }

    pub async fn inbox_health(&self) -> Result<InboxHealth> {
        let mut health = InboxHealth::default();
        for (state, count) in [
            ("new", &mut health.new),
            ("unread", &mut health.unread),
            ("waiting", &mut health.waiting),
            ("dead", &mut health.dead),
        ] {
            let sql = format!("SELECT count(*) FROM inbox WHERE state = '{state}'");
            let rows: i64 = Sql::new(sql).scalar(&self.readers).await?;
            *count = rows.unsigned_abs();
        }
        let oldest: Option<i64> =
            Sql::new("SELECT min(received_at) FROM inbox WHERE state = 'new'")
                .scalar(&self.readers)
                .await?;
        health.oldest_new_at = oldest.map(timestamp).transpose()?;
        Ok(health)
    }

    /// Events that could not be applied, the oldest first, after `after`.
    pub async fn dead_letters(
        &self,
        source: Option<&str>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<InboxEvent>> {
        let rows = Sql::new(format!(
            "SELECT {COLUMNS} FROM inbox
             WHERE state = 'dead' AND seq > $1 AND ($2 = '' OR source = $2)
             ORDER BY seq LIMIT $3"
        ))
        .bind(after)
        .bind(source.unwrap_or_default())
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(inbox_event).collect()
    }

    /// # Errors
    /// `NotFound`.
    pub async fn dead_letter(&self, seq: i64) -> Result<InboxEvent> {
        let row = Sql::new(format!(
            "SELECT {COLUMNS} FROM inbox WHERE seq = $1 AND state = 'dead'"
        ))
        .bind(seq)
        .fetch_optional(&self.readers)
        .await?;
        inbox_event(&row.ok_or_else(|| no_letter(seq))?)
    }

    /// Gives a dead letter another body, and keeps `others` that were in it too. It stays a dead letter
    /// until it is replayed.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) async fn repair_dead_letter(
        &self,
        seq: i64,
        deal_id: &DealId,
        body: &Value,
        others: &[Arrival],
    ) -> Result<()> {
        let mut tx = self.writer.write().await?;
        let changed =
            Sql::new("UPDATE inbox SET body = $2, deal_id = $3 WHERE seq = $1 AND state = 'dead'")
                .bind(seq)
                .bind(body.to_string())
                .bind(deal_id.as_str())
                .execute(&mut tx)
                .await?;
        if changed == 0 {
            return Err(no_letter(seq));
        }
        for chunk in others.chunks(INSERT_ROWS_MAX) {
            insert(&mut tx, chunk).await?;
        }
        tx.commit().await
    }

    /// Puts a dead letter back among the new events.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn replay_dead_letter(&self, seq: i64) -> Result<()> {
        match self.revive("seq = $1", seq, "").await? {
            0 => Err(no_letter(seq)),
            _ => Ok(()),
        }
    }

    /// Puts all dead letters, or those of a source, back among the new events; answers with how many.
    pub async fn replay_dead_letters(&self, source: Option<&str>) -> Result<u64> {
        let which = "($1 = 0 OR seq = $1) AND ($2 = '' OR source = $2)";
        self.revive(which, 0, source.unwrap_or_default()).await
    }

    async fn revive(&self, which: &str, seq: i64, source: &str) -> Result<u64> {
        let mut sql = Sql::new(format!(
            "UPDATE inbox SET state = 'new', reason = NULL, settled_at = NULL, claimed_until = 0
             WHERE state = 'dead' AND {which}"
        ))
        .bind(seq);
        if which.contains("$2") {
            sql = sql.bind(source);
        }
        sql.execute(&self.writer).await
    }

    /// # Errors
    /// `NotFound`.
    pub async fn discard_dead_letter(&self, seq: i64) -> Result<()> {
        let discarded = Sql::new("DELETE FROM inbox WHERE seq = $1 AND state = 'dead'")
            .bind(seq)
            .execute(&self.writer)
            .await?;
        match discarded {
            0 => Err(no_letter(seq)),
            _ => Ok(()),
        }
    }
}

/// Forgets what was received of a deal, also what has not been applied yet; its keys stay, so that what
/// comes again is known.
pub(super) async fn forget(tx: &mut Tx, id: &DealId) -> Result<()> {
    Sql::new(
        "UPDATE inbox SET body = 'null', state = 'applied',
                settled_at = coalesce(settled_at, received_at)
         WHERE deal_id = $1 AND state <> 'dead'",
    )
    .bind(id.as_str())
    .execute(&mut *tx)
    .await?;
    Sql::new("DELETE FROM inbox WHERE deal_id = $1 AND state = 'dead'")
        .bind(id.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Forgets what was received and applied of a deal that left its CRM. What tells of later is to be applied
/// once more, and what waits stays: it is looked at later, and may tell that the deal is back. `false` if
/// not all that tells of later is there any more: then nothing may be forgotten.
pub(super) async fn forget_before(tx: &mut Tx, id: &DealId, departing: &Departing) -> Result<bool> {
    if !retell(tx, id, &departing.later).await? {
        return Ok(false);
    }
    Sql::new("UPDATE inbox SET body = 'null' WHERE deal_id = $1 AND state = 'applied'")
        .bind(id.as_str())
        .execute(&mut *tx)
        .await?;
    Sql::new("DELETE FROM inbox WHERE deal_id = $1 AND state = 'dead' AND received_at <= $2")
        .bind(id.as_str())
        .bind(micros(departing.at))
        .execute(tx)
        .await?;
    Ok(true)
}

/// Makes events new once more, under new numbers: who has one of them in hand settles what is no longer
/// there.
async fn retell(tx: &mut Tx, id: &DealId, seqs: &[i64]) -> Result<bool> {
    for seqs in seqs.chunks(INSERT_ROWS_MAX) {
        let list = |sql: &str| {
            let mut sql = Sql::new(format!("{sql} FROM inbox WHERE body <> 'null' AND seq IN "));
            sql.push_list(seqs.iter().copied());
            sql.unkept()
        };
        let rows = list(&format!("SELECT {COLUMNS}"))
            .fetch_all(&mut *tx)
            .await?;
        if rows.len() != seqs.len() {
            return Ok(false);
        }
        let arrival = |row: &Row| -> Result<Arrival> {
            let event = inbox_event(row)?;
            Ok(Arrival {
                source: event.source,
                key: event.key,
                deal_id: Some(id.clone()),
                body: event.body,
                dead: None,
                received_at: event.received_at,
            })
        };
        let arrivals = rows.iter().map(arrival).collect::<Result<Vec<_>>>()?;
        list("DELETE").execute(&mut *tx).await?;
        insert(tx, &arrivals).await?;
    }
    Ok(true)
}

/// Lets a deal come to be that was seen in its CRM at `seen_at`: if it had left before, it is back.
///
/// # Errors
/// `Busy` when it left at that moment or later.
pub(super) async fn let_in(tx: &mut Tx, id: &DealId, seen_at: Timestamp) -> Result<()> {
    let left: i64 = Sql::new(
        "SELECT count(*) FROM departures WHERE deal_id = $1 AND departed_at >= $2
         AND (returned_at IS NULL OR returned_at < departed_at)",
    )
    .bind(id.as_str())
    .bind(micros(seen_at))
    .scalar(&mut *tx)
    .await?;
    if left > 0 {
        return Err(Error::Busy(format!("the deal {id} left its CRM meanwhile")));
    }
    Sql::new(
        "UPDATE departures SET returned_at = $2
         WHERE deal_id = $1 AND (returned_at IS NULL OR returned_at < departed_at)",
    )
    .bind(id.as_str())
    .bind(micros(seen_at))
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert(tx: &mut Tx, arrivals: &[Arrival]) -> Result<u64> {
    let mut sql = Sql::new(
        "INSERT INTO inbox (source, event_key, deal_id, state, received_at, settled_at, reason, body)
         VALUES ",
    );
    for (index, arrival) in arrivals.iter().enumerate() {
        let received_at = micros(arrival.received_at);
        let (state, settled_at) = match arrival.dead {
            Some(_) => ("dead", Some(received_at)),
            None => ("new", None),
        };
        sql.push(if index > 0 { ", (" } else { "(" });
        sql.push_bind(&arrival.source).push(", ");
        sql.push_bind(&arrival.key).push(", ");
        let deal_id = arrival.deal_id.as_ref().map(DealId::as_str);
        sql.push_bind(deal_id).push(", ");
        sql.push_bind(state).push(", ");
        sql.push_bind(received_at).push(", ");
        sql.push_bind(settled_at).push(", ");
        sql.push_bind(&arrival.dead).push(", ");
        sql.push_bind(arrival.body.to_string()).push(")");
    }
    sql.push(" ON CONFLICT (source, event_key) DO NOTHING");
    sql.unkept().execute(tx).await
}

async fn set_state(
    tx: &mut Tx,
    state: &'static str,
    reason: Option<&str>,
    seqs: &[i64],
    now: Timestamp,
) -> Result<()> {
    if seqs.is_empty() {
        return Ok(());
    }
    let mut sql = Sql::new("UPDATE inbox SET claimed_until = 0, state = ");
    sql.push_bind(state).push(", reason = ").push_bind(reason);
    sql.push(", settled_at = ").push_bind(micros(now));
    // Another process that had it in hand too may have been faster.
    sql.push(" WHERE state <> 'applied' AND seq IN ")
        .push_list(seqs.iter().copied());
    sql.unkept().execute(tx).await?;
    Ok(())
}

fn no_letter(seq: i64) -> Error {
    Error::NotFound {
        kind: "dead letter",
        id: seq.to_string(),
    }
}

fn inbox_event(row: &Row) -> Result<InboxEvent> {
    let body: &str = row.get("body")?;
    Ok(InboxEvent {
        seq: row.get("seq")?,
        source: row.get("source")?,
        key: row.get("event_key")?,
        deal_id: row.get("deal_id")?,
        received_at: timestamp(row.get("received_at")?)?,
        settled_at: (row.get::<Option<i64>>("settled_at")?)
            .map(timestamp)
            .transpose()?,
        reason: row.get("reason")?,
        body: serde_json::from_str(body).context("an event in the inbox is not JSON")?,
    })
}
