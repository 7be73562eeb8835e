//! Scores in the fields of a CRM.
//!
//! An event says that a deal's score moved; what is written is the score that the deal has when its turn
//! comes, so that many changes are one write and the last one wins. It is written only if it moved by
//! more than the configured step since it was written last. After an activation, and when it is switched
//! on, all deals of the CRM are gone through.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::SignedDuration;

use super::dispatcher::Rules;
use super::event::{Event, EventType};
use super::patience::Passage;
use super::subscription::{Receiver, Subscription, Sweep};
use crate::app::now;
use crate::crm::{Crm, CrmError, CrmKind, FieldUpdate};
use crate::error::Result;
use crate::scoring::Score;
use crate::store::{Attempted, Due, Next, Queued, Store, Told};

/// Events that are taken together, in batches: few deals may have many.
const EVENTS_PER_DEAL: usize = 4;

/// Writes into one CRM; clones are the same writer.
#[derive(Debug, Clone)]
pub(super) struct WriteBack {
    crm: Crm,
    is_busy: Arc<AtomicBool>,
}

/// One turn at a time; over when dropped.
pub(super) struct Turn(Arc<AtomicBool>);

impl Turn {
    pub fn begin(write_back: &WriteBack) -> Option<Self> {
        let was_busy = write_back.is_busy.swap(true, Ordering::AcqRel);
        (!was_busy).then(|| Self(write_back.is_busy.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What became of deals that were to be written.
#[derive(Default)]
struct Written {
    /// What is in the CRM now.
    told: Vec<(String, Told)>,
    /// Those that the CRM refused, each for itself.
    failed: HashMap<String, CrmError>,
}

impl Written {
    /// Why some deals were not written that may be later on, if there are any; a rate limit first, since
    /// it says how long.
    fn passing(&self) -> Option<&CrmError> {
        let passing = self.failed.values().filter(|error| error.is_passing());
        passing.max_by_key(|error| match error {
            CrmError::Busy(wait) => Some(*wait),
            _ => None,
        })
    }

    /// Why the CRM takes nothing for now: its rate limit is used up, or all that was asked of it failed
    /// for the moment.
    fn stopped(&self) -> Option<&CrmError> {
        let passing = self.passing()?;
        let is_away = self.told.is_empty() && self.failed.values().all(CrmError::is_passing);
        (is_away || matches!(passing, CrmError::Busy(_))).then_some(passing)
    }
}

impl WriteBack {
    pub fn new(crm: Crm) -> Self {
        Self {
            crm,
            is_busy: Arc::default(),
        }
    }

    pub fn kind(&self) -> CrmKind {
        self.crm.kind()
    }

    /// The events about deals of this CRM.
    pub fn wanted(&self, subscription: &Subscription, events: &[(i64, Event)]) -> Vec<Queued> {
        let is_ours = |event: &Event| {
            let deal = event
                .deal
                .as_ref()
                .filter(|_| event.kind == EventType::ScoreChanged);
            deal.is_some_and(|deal| self.crm.id_of(&deal.deal_id).is_some())
        };
        events
            .iter()
            .filter(|(seq, event)| *seq > subscription.since_seq && is_ours(event))
            .map(|(seq, event)| Queued {
                subscription_id: subscription.id.clone(),
                seq: *seq,
                order_key: String::new(),
                deal_id: event.deal.as_ref().map(|deal| deal.deal_id.clone()),
                told: None,
            })
            .collect()
    }

    /// Writes what is due, until nothing is, or the CRM wants to be left alone.
    pub async fn work(
        &self,
        store: &Store,
        subscription: &Subscription,
        rules: &Rules,
    ) -> Result<()> {
        let mut circuit = subscription.circuit;
        let Receiver::WriteBack { sweep, .. } = &subscription.receiver else {
            return Ok(());
        };
        let mut sweep = sweep.clone();
        while circuit.passage(&rules.circuit, now()) != Passage::Closed {
            let limit = self.crm.batch_max() * EVENTS_PER_DEAL;
            let due = store.due_at_once(&subscription.id, now(), limit).await?;
            let stopped = if !due.is_empty() {
                self.write_due(store, subscription, rules, due).await?
            } else if let Some(from) = sweep.take() {
                match self.sweep(store, subscription, &from).await? {
                    Ok(to) => {
                        let id = &subscription.id;
                        if store.advance_sweep(id, &from, to.as_ref()).await? {
                            sweep = to;
                        }
                        None
                    }
                    Err(error) => Some(error),
                }
            } else {
                return Ok(());
            };
            let before = circuit;
            circuit = match stopped {
                None => circuit.after_success(),
                Some(error) => {
                    let crm = self.kind().as_str();
                    tracing::warn!(crm, "scores are not written: {error}");
                    let asked = match error {
                        CrmError::Busy(Some(wait)) => rules.schedule.asked(Some(signed(wait))),
                        _ => SignedDuration::ZERO,
                    };
                    // A CRM that stops all of a batch is left alone at once: no other batch fares better.
                    let asked = asked.max(rules.circuit.pause);
                    circuit.after_failure(&rules.circuit, asked, now())
                }
            };
            if circuit != before {
                store.set_circuit(&subscription.id, circuit).await?;
            }
        }
        Ok(())
    }

    /// Writes the deals that events tell of; answers with what stopped all of them, if something did.
    async fn write_due(
        &self,
        store: &Store,
        subscription: &Subscription,
        rules: &Rules,
        due: Vec<Due>,
    ) -> Result<Option<CrmError>> {
        let mut events: HashMap<&str, Vec<&Due>> = HashMap::new();
        for due in &due {
            if let Some(deal) = &due.event.deal {
                // No more deals than are written at a time; the others come next.
                if events.len() < self.crm.batch_max() || events.contains_key(deal.deal_id.as_str())
                {
                    events.entry(&deal.deal_id).or_default().push(due);
                }
            }
        }
        let ids: BTreeSet<&str> = events.keys().copied().collect();
        let scores = store.present_scores(&ids).await?;
        let written = match self.write(store, subscription, &scores).await? {
            Ok(written) => written,
            Err(error) => return Ok(Some(error)),
        };
        let stopped = written.stopped();
        let (mut over, mut attempted) = (Vec::new(), Vec::new());
        for (deal_id, dues) in events {
            match written.failed.get(deal_id) {
                // They have their turn when the CRM is back; no attempt is lost by its being away.
                Some(error) if stopped.is_some() && error.is_passing() => {}
                None => over.extend(dues.iter().map(|due| due.seq)),
                Some(error) => attempted.extend(
                    dues.iter()
                        .map(|due| failed(subscription, rules, due, error)),
                ),
            }
        }
        store
            .record_written(&subscription.id, &written.told, &over)
            .await?;
        store.record_attempts(&attempted, &[]).await?;
        Ok(stopped.cloned())
    }

    /// Goes through the next deals; answers with how far, or none at the end. What may be written later on
    /// is not gone past.
    async fn sweep(
        &self,
        store: &Store,
        subscription: &Subscription,
        from: &Sweep,
    ) -> Result<std::result::Result<Option<Sweep>, CrmError>> {
        let limit = self.crm.batch_max();
        let prefix = self.crm.id_prefix();
        let scores = store
            .present_scores_after(&from.after, prefix, limit)
            .await?;
        let to = scores.last().map(|score| Sweep {
            since_seq: from.since_seq,
            after: score.deal_id.to_string(),
        });
        let written = match self.write(store, subscription, &scores).await? {
            Ok(written) => written,
            Err(error) => return Ok(Err(error)),
        };
        for (deal_id, error) in &written.failed {
            tracing::debug!(crm = self.kind().as_str(), deal_id, "not written: {error}");
        }
        store
            .record_written(&subscription.id, &written.told, &[])
            .await?;
        Ok(written.passing().cloned().map_or(Ok(to), Err))
    }

    /// Writes those scores that have moved by more than a step. The outer error is ours, the inner one
    /// is the CRM's for all of them.
    async fn write(
        &self,
        store: &Store,
        subscription: &Subscription,
        scores: &[Score],
    ) -> Result<std::result::Result<Written, CrmError>> {
        let ids: BTreeSet<&str> = scores.iter().map(|score| score.deal_id.as_str()).collect();
        let told = store.told(&subscription.id, &ids).await?;
        let moved: Vec<(&Score, FieldUpdate)> = scores
            .iter()
            .filter(|score| self.has_moved(told.get(score.deal_id.as_str()), score))
            .filter_map(|score| {
                let update = FieldUpdate {
                    deal_id: self.crm.id_of(score.deal_id.as_str())?.to_owned(),
                    fields: self.crm.fields(score),
                };
                Some((score, update))
            })
            .collect();
        let mut written = Written::default();
        if moved.is_empty() {
            return Ok(Ok(written));
        }
        let (scores, updates): (Vec<&Score>, Vec<FieldUpdate>) = moved.into_iter().unzip();
        let answers = match self.crm.write(&updates).await {
            Ok(answers) => answers,
            Err(error) => return Ok(Err(error)),
        };
        for (score, answer) in scores.into_iter().zip(answers) {
            let deal_id = score.deal_id.to_string();
            let outcome = if answer.is_ok() { "written" } else { "failed" };
            let crm = self.kind().as_str();
            metrics::counter!("crm_scores_total", "crm" => crm, "outcome" => outcome).increment(1);
            match answer {
                Ok(()) => written.told.push((deal_id, Told::of(score))),
                Err(error) => {
                    written.failed.insert(deal_id, error);
                }
            }
        }
        Ok(Ok(written))
    }

    fn has_moved(&self, told: Option<&Told>, score: &Score) -> bool {
        let Some(told) = told else { return true };
        let settings = self.crm.write_back();
        let now = Told::of(score);
        let probability = (now.win_probability - told.win_probability).abs();
        let is_value_moved = match (told.expected_value, now.expected_value) {
            (Some(before), Some(now)) => {
                (now - before).abs() > settings.expected_value_step * before.abs()
            }
            (before, now) => before.is_some() != now.is_some(),
        };
        told.grade != now.grade || probability > settings.probability_step || is_value_moved
    }
}

/// What comes next of a delivery whose deal was refused.
fn failed(subscription: &Subscription, rules: &Rules, due: &Due, error: &CrmError) -> Attempted {
    let at = now();
    let attempts = due.attempts.saturating_add(1);
    let retry_at = match error.is_passing() {
        true => rules.schedule.next_at(attempts, None, at, rand::random()),
        false => None,
    };
    Attempted {
        subscription_id: subscription.id.clone(),
        seq: due.seq,
        at,
        attempts,
        status: None,
        reason: Some(error.to_string()),
        duration: Duration::ZERO,
        next: retry_at.map_or(Next::GiveUp, Next::Retry),
    }
}

fn signed(wait: Duration) -> SignedDuration {
    SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scoring::Grade;

    const SECOND: Duration = Duration::from_secs(1);

    fn written(told: usize, failed: &[CrmError]) -> Written {
        let score = Told {
            win_probability: 0.5,
            grade: Grade::B,
            expected_value: None,
        };
        let failed = failed.iter().cloned();
        Written {
            told: (0..told).map(|n| (format!("t{n}"), score)).collect(),
            failed: (0..).map(|n: u32| format!("f{n}")).zip(failed).collect(),
        }
    }

    #[test]
    fn a_crm_that_is_away_stops_all_and_a_deal_that_is_refused_none() {
        let away = CrmError::Unavailable("answered 503".into());
        let refused = CrmError::Refused("no".into());
        let busy = |wait| CrmError::Busy(wait);
        for (told, failed, passing, stopped) in [
            (3, vec![], None, None),
            (0, vec![refused.clone()], None, None),
            (
                0,
                vec![away.clone(), away.clone()],
                Some(&away),
                Some(&away),
            ),
            // One record that is locked.
            (3, vec![away.clone()], Some(&away), None),
            (0, vec![away.clone(), refused.clone()], Some(&away), None),
            (
                3,
                vec![
                    busy(None),
                    away.clone(),
                    busy(Some(SECOND)),
                    refused.clone(),
                ],
                Some(&busy(Some(SECOND))),
                Some(&busy(Some(SECOND))),
            ),
        ] {
            let written = written(told, &failed);
            assert_eq!(written.passing(), passing, "{told} {failed:?}");
            assert_eq!(written.stopped(), stopped, "{told} {failed:?}");
        }
    }
}
