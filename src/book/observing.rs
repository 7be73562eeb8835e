//! What others saw of deals: dated facts about many deals at once, a deal that is new among them, each
//! as often as it likes and in any order.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::writing::{Effect, Intent, Wish};
use super::{Book, no_deal};
use crate::domain::DealId;
use crate::domain::deal::Event;
use crate::error::{Error, Result};

/// Facts that were seen together.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    pub deal_id: DealId,
    /// The sender's name for it, by which a second delivery is known.
    pub key: Option<String>,
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
    /// When the store fails. Then all may be tried again: what was taken is known.
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
        let body = serde_json::json!({ "type": "facts", "facts": sighting.facts });
        self.log(sighting.key, body);
        Ok(if is_new {
            Effect::Created
        } else {
            Effect::Changed
        })
    }
}
