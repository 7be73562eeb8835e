//! What others saw of deals: dated facts about many deals at once, a deal that is new among them, each
//! as often as it likes and in any order.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use super::writing::{ATTEMPTS_MAX, Effect, Intent, Wish, finish, outrun};
use super::{Book, Inner, no_deal};
use crate::domain::DealId;
use crate::domain::deal::Event;
use crate::error::{Error, Result};
use crate::store::{Departing, Departure, StoredEvent};

/// The type of what is logged of a sighting.
pub(super) const FACTS: &str = "facts";

/// Facts that were seen together.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    pub deal_id: DealId,
    /// The sender's name for it, by which a second delivery is known.
    pub key: Option<String>,
    /// As of when they hold.
    pub at: Timestamp,
    pub facts: Vec<Event>,
    /// Whether a deal that is not known comes to be by it.
    pub is_birth: bool,
}

/// What became of a sighting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    Created,
    Changed,
    /// Everything was known.
    Unchanged,
    /// There is no such deal, and the sighting does not make one.
    Unknown,
    Refused(String),
}

impl Book {
    /// Takes what was seen, in one transaction. What cannot be taken does not stop the rest; answers in
    /// the order of the sightings.
    ///
    /// # Errors
    /// When the store fails, and `Busy` when a deal that would come to be left its CRM meanwhile. Then all
    /// may be tried again: what was taken is known.
    pub async fn observe(&self, sightings: Vec<Sighting>, at: Timestamp) -> Result<Vec<Observed>> {
        let mut by_deal: BTreeMap<&DealId, Vec<usize>> = BTreeMap::new();
        for (place, sighting) in sightings.iter().enumerate() {
            by_deal.entry(&sighting.deal_id).or_default().push(place);
        }
        for places in by_deal.values_mut() {
            places.sort_by_key(|place| !sightings[*place].is_birth);
        }
        let wish = |places: &[usize]| Wish {
            deal_id: sightings[places[0]].deal_id.clone(),
            intents: (places.iter())
                .map(|place| Intent::Observe(sightings[*place].clone()))
                .collect(),
        };
        let wishes = by_deal.values().map(|places| wish(places)).collect();
        let answers = self.fulfil(wishes, "webhook", at).await?;
        let mut observed = vec![Observed::Unknown; sightings.len()];
        for ((_, answer), places) in answers.into_iter().zip(by_deal.values()) {
            match answer {
                Ok(fulfilled) => {
                    for (place, effect) in places.iter().zip(&fulfilled.effects) {
                        observed[*place] = effect.into();
                    }
                }
                Err(error) if places.len() == 1 => observed[places[0]] = refused(error)?,
                // One that is wrong keeps the others of its deal from being taken together.
                Err(_) => {
                    for place in places {
                        let alone = self.fulfil(vec![wish(&[*place])], "webhook", at).await?;
                        for (_, answer) in alone {
                            observed[*place] = match answer {
                                Ok(fulfilled) => (&fulfilled.effects[0]).into(),
                                Err(error) => refused(error)?,
                            };
                        }
                    }
                }
            }
        }
        Ok(observed)
    }

    /// Erases a deal that left its CRM at `departed_at`. What is `kept` of later is applied once more, so
    /// that the deal is what it would be had the deletion arrived in time. Where that is not all that was
    /// told of later, or something was written here since, the deal stays as it is.
    ///
    /// What was received of it and not yet applied stays, since it may tell of later.
    ///
    /// # Errors
    /// `Busy` when other processes were faster again and again: `kept` is then to be looked up anew.
    pub async fn depart(
        &self,
        id: &DealId,
        departed_at: Timestamp,
        kept: Vec<KeptEvent>,
    ) -> Result<()> {
        let (inner, id) = (self.inner.clone(), id.clone());
        finish(async move { inner.depart(&id, departed_at, &kept).await }).await
    }
}

/// An event that was applied and can be applied again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvent {
    /// Its number in the inbox.
    pub seq: i64,
    /// As in [`Sighting::key`].
    pub key: String,
    pub at: Timestamp,
    /// Whether its CRM is asked for the whole deal on its account.
    pub asks: bool,
}

impl Inner {
    async fn depart(&self, id: &DealId, departed_at: Timestamp, kept: &[KeptEvent]) -> Result<()> {
        let _deals = self.deals.lock(std::slice::from_ref(id)).await;
        let departing = Departing {
            at: departed_at,
            later: kept.iter().map(|event| event.seq).collect(),
        };
        for _ in 0..ATTEMPTS_MAX {
            let Some(revision) = self.store.deal(id).await?.map(|stored| stored.revision) else {
                return Ok(());
            };
            let log = self.store.events(id).await?;
            if let Some(returned_at) = stays_since(&log, departed_at, kept) {
                let returned = Departure {
                    departed_at: None,
                    returned_at: Some(returned_at),
                };
                return self.store.put_departure(id, returned).await;
            }
            if self.erased(id, Some((&departing, revision))).await? {
                return Ok(());
            }
        }
        Err(outrun())
    }
}

/// Whether the deal has to stay as it is, and as of when it was last seen then.
fn stays_since(
    log: &[StoredEvent],
    departed_at: Timestamp,
    kept: &[KeptEvent],
) -> Option<Timestamp> {
    let is_later = |event: &&StoredEvent| told_at(event).is_some_and(|at| at > departed_at);
    let later: Vec<&StoredEvent> = log.iter().filter(is_later).collect();
    let told = later.iter().copied().filter_map(told_at);
    let returned_at = told.chain(kept.iter().map(|event| event.at)).max()?;
    let is_nothing_of_before = later.len() == log.len();
    let is_written_here =
        |event: &StoredEvent| !is_observed(event) && event.received_at > departed_at;
    let can_be_told_again = |event: &&StoredEvent| match &event.external_id {
        Some(id) => kept.iter().any(|kept| kept.key == *id),
        // Its CRM was asked for it.
        None => kept.iter().any(|kept| kept.asks),
    };
    let stays = is_nothing_of_before
        || log.iter().any(is_written_here)
        || !later.iter().all(can_be_told_again);
    stays.then_some(returned_at)
}

/// Whether the CRM told of it. What people did here says nothing about the CRM.
fn is_observed(event: &StoredEvent) -> bool {
    event.body["type"] == FACTS
}

/// As of when the CRM told of it. Where that was not noted yet, it is the time of the newest fact that is
/// no activity, which may be one that is planned.
fn told_at(event: &StoredEvent) -> Option<Timestamp> {
    if !is_observed(event) {
        return None;
    }
    let noted = event.body["at"].as_str().and_then(|at| at.parse().ok());
    let newest = || {
        let facts = Vec::<Event>::deserialize(&event.body["facts"]).ok()?;
        let facts = facts.iter();
        let facts = facts.filter(|fact| !matches!(fact, Event::Activity(_)));
        facts.map(Event::at).max()
    };
    noted.or_else(newest)
}

fn refused(error: Error) -> Result<Observed> {
    match error {
        Error::NotFound { .. } => Ok(Observed::Unknown),
        Error::Invalid(_) | Error::TooLarge { .. } => Ok(Observed::Refused(error.to_string())),
        other => Err(other),
    }
}

impl From<&Effect> for Observed {
    fn from(effect: &Effect) -> Self {
        match effect {
            Effect::Created => Self::Created,
            Effect::Changed | Effect::Appended { applied: 1.., .. } => Self::Changed,
            Effect::Unchanged | Effect::Appended { .. } => Self::Unchanged,
        }
    }
}

impl super::writing::Revision {
    /// Works a sighting into the deal; what it adds belongs in the log.
    pub(super) fn observe(&mut self, id: &DealId, sighting: Sighting) -> Result<Effect> {
        if (sighting.key.as_ref()).is_some_and(|key| self.known_events.contains(key)) {
            return Ok(Effect::Unchanged);
        }
        let before = self.deal.clone();
        let mut deal = match &before {
            Some(deal) => deal.clone(),
            None if sighting.is_birth => crate::domain::Deal::new(id.clone()),
            None => return Err(no_deal(id)),
        };
        for fact in &sighting.facts {
            deal.apply(fact.clone())
                .map_err(|reason| Error::invalid("", reason))?;
        }
        if before.as_ref() == Some(&deal) {
            return Ok(Effect::Unchanged);
        }
        let is_new = before.is_none();
        self.deal = Some(deal);
        self.known_events.extend(sighting.key.clone());
        let body = serde_json::json!({ "type": FACTS, "at": sighting.at, "facts": sighting.facts });
        self.log(sighting.key, body);
        Ok(if is_new {
            Effect::Created
        } else {
            Effect::Changed
        })
    }
}
