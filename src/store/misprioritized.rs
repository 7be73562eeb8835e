//! Deals that get the wrong attention, told to those who subscribed: each once, until it has left the list.

use std::collections::HashMap;

use jiff::Timestamp;

use super::engine::{Sql, Tx};
use super::outbox::{insert, is_wanted};
use super::{Store, generations, ledger, take_seqs};
use crate::domain::DealId;
use crate::error::Result;
use crate::insight::attention::{MisprioritizedDeal, WrongAttention};
use crate::outbound::{Event, EventType};

/// Deals that are told of in one transaction.
const ROWS_MAX: usize = 200;

impl Store {
    /// Tells of the deals on the list that were not on it before, at most some hundreds, and forgets those
    /// that are on it no more; answers with how many were told.
    pub(crate) async fn tell_misprioritized(
        &self,
        list: &[(WrongAttention, MisprioritizedDeal)],
        at: Timestamp,
    ) -> Result<usize> {
        let mut tx = self.writer.write().await?;
        if !is_wanted(&mut tx, EventType::DealMisprioritized).await? {
            return Ok(0);
        }
        let Some(generation) = generations::active(&mut tx).await? else {
            return Ok(0);
        };
        let on_list: HashMap<&str, WrongAttention> = (list.iter())
            .map(|(kind, found)| (found.deal.id.as_str(), *kind))
            .collect();
        let mut told = HashMap::new();
        for (id, kind) in told_before(&mut tx).await? {
            if on_list.get(id.as_str()).map(|kind| kind.as_str()) == Some(kind.as_str()) {
                told.insert(id, kind);
            } else {
                forget(&mut tx, &id).await?;
            }
        }
        let news = list
            .iter()
            .filter(|(_, found)| !told.contains_key(&found.deal.id));
        let news: Vec<_> = news.take(ROWS_MAX).collect();
        let ids: Vec<DealId> = (news.iter())
            .filter_map(|(_, found)| DealId::new(&found.deal.id).ok())
            .collect();
        let rows = ledger::current_rows(&mut tx, generation.id, &ids).await?;
        let rows: HashMap<&str, _> = rows.iter().map(|row| (row.deal.id.as_str(), row)).collect();
        // A deal that has closed since is not told of.
        let present = news.iter().filter_map(|(kind, found)| {
            let row = rows.get(found.deal.id.as_str())?;
            Some((*kind, Event::deal_misprioritized(row, *kind, found, at)))
        });
        let present: Vec<_> = present.collect();
        let last_seq = take_seqs(&mut tx, present.len()).await?;
        let first_seq = last_seq - present.len() as i64 + 1;
        let mut events = Vec::with_capacity(present.len());
        for (seq, (kind, event)) in (first_seq..).zip(present) {
            if let Some(deal) = &event.deal {
                note(&mut tx, &deal.deal_id, kind).await?;
            }
            events.push((seq, event));
        }
        insert(&mut tx, &events).await?;
        tx.commit().await?;
        if !events.is_empty() {
            self.outbox_filled.notify_one();
        }
        Ok(events.len())
    }
}

async fn told_before(tx: &mut Tx) -> Result<Vec<(String, String)>> {
    let rows = Sql::new("SELECT deal_id, kind FROM misprioritized_told")
        .fetch_all(tx)
        .await?;
    rows.iter()
        .map(|row| Ok((row.get("deal_id")?, row.get("kind")?)))
        .collect()
}

async fn forget(tx: &mut Tx, id: &str) -> Result<()> {
    let delete = Sql::new("DELETE FROM misprioritized_told WHERE deal_id = $1").bind(id);
    delete.execute(tx).await?;
    Ok(())
}

async fn note(tx: &mut Tx, id: &str, kind: WrongAttention) -> Result<()> {
    Sql::new("INSERT INTO misprioritized_told (deal_id, kind) VALUES ($1, $2)")
        .bind(id)
        .bind(kind.as_str())
        .execute(tx)
        .await?;
    Ok(())
}
