//! What a write does to a deal, and how it reaches the store and the ranking. One deal is a batch of
//! one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::challenging::shadow;
use super::observing::Sighting;
use super::{Active, Appended, Book, Imported, Inner, ReceivedEvent, ScoredDeal, Written, no_deal};
use crate::domain::{Deal, DealId, Exchange, Snapshot};
use crate::error::{Error, Result};
use crate::ingest::document;
use crate::ranking::{Change, DealSummary, Member, Moment, RankingRow};
use crate::scoring::Scorer;
use crate::store::{Before, Commit, DealWrite, Departing, Fence, LoggedEvent, ScoreWrite};

/// Deals of one transaction: few enough to let others write in between.
pub(super) const CHUNK_DEALS: usize = 500;
/// How often a write is worked out again because other processes were faster.
pub(super) const ATTEMPTS_MAX: usize = 20;

/// What is wanted of one deal.
#[derive(Debug)]
pub(super) struct Wish {
    pub deal_id: DealId,
    pub intents: Vec<Intent>,
}

#[derive(Debug, Clone)]
pub(super) enum Intent {
    Put(Box<Deal>),
    Patch(Value),
    Append(Vec<ReceivedEvent>),
    Observe(Sighting),
    /// Nothing new but the time.
    Refresh,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Fulfilled {
    pub deal: ScoredDeal,
    pub is_score_changed: bool,
    pub effects: Vec<Effect>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Created,
    Changed,
    Unchanged,
    Appended { applied: usize, duplicates: usize },
}

impl Book {
    /// Takes `deal` as the deal's present: a new deal, or a revision of the stored one.
    ///
    /// # Errors
    /// `Invalid` when the deal, with all that is known of it, passes a limit of the document.
    pub async fn put(&self, deal: Deal, at: Timestamp) -> Result<Written> {
        let id = deal.id.clone();
        self.written(id, Intent::Put(Box::new(deal)), "put", at)
            .await
    }

    /// Changes the fields named in `patch`: see [`document::patch`].
    ///
    /// # Errors
    /// `NotFound`; `Invalid` when the patched document is not a deal, or has another id.
    pub async fn patch(&self, id: &DealId, patch: Value, at: Timestamp) -> Result<Written> {
        self.written(id.clone(), Intent::Patch(patch), "patch", at)
            .await
    }

    /// Adds dated facts to a deal, each once however often it is delivered.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` (`events[2].value`) when a value does not fit its field: then none is
    /// added.
    pub async fn append(
        &self,
        id: &DealId,
        events: Vec<ReceivedEvent>,
        at: Timestamp,
    ) -> Result<Appended> {
        let fulfilled = self
            .fulfil_one(id.clone(), Intent::Append(events), "events", at)
            .await?;
        let (applied, duplicates) = match fulfilled.effects[..] {
            [
                Effect::Appended {
                    applied,
                    duplicates,
                },
            ] => (applied, duplicates),
            _ => (0, 0),
        };
        Ok(Appended {
            deal: fulfilled.deal,
            applied,
            duplicates,
        })
    }

    /// Puts many deals, in chunks; meant to be called again and again with parts of a long file.
    pub async fn import(&self, deals: Vec<Deal>, at: Timestamp) -> Result<Imported> {
        let mut imported = Imported::default();
        let mut deals = deals.into_iter().peekable();
        while deals.peek().is_some() {
            let mut wishes: BTreeMap<DealId, Vec<Intent>> = BTreeMap::new();
            for deal in deals.by_ref().take(CHUNK_DEALS) {
                let intents = wishes.entry(deal.id.clone()).or_default();
                intents.push(Intent::Put(Box::new(deal)));
            }
            let wishes = wishes
                .into_iter()
                .map(|(deal_id, intents)| Wish { deal_id, intents })
                .collect();
            for (id, fulfilled) in self.fulfil(wishes, "import", at).await? {
                match fulfilled {
                    Ok(fulfilled) => imported.count(&fulfilled.effects),
                    Err(error) => imported.refused.push((id, error.to_string())),
                }
            }
        }
        Ok(imported)
    }

    /// Forgets a deal with everything derived from it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn erase(&self, id: &DealId) -> Result<()> {
        let (inner, id) = (self.inner.clone(), id.clone());
        finish(async move { inner.erase(&id).await }).await
    }

    async fn written(
        &self,
        id: DealId,
        intent: Intent,
        cause: &'static str,
        at: Timestamp,
    ) -> Result<Written> {
        let fulfilled = self.fulfil_one(id, intent, cause, at).await?;
        Ok(Written {
            is_created: fulfilled.effects.contains(&Effect::Created),
            is_changed: !fulfilled.effects.contains(&Effect::Unchanged),
            deal: fulfilled.deal,
        })
    }

    async fn fulfil_one(
        &self,
        deal_id: DealId,
        intent: Intent,
        cause: &'static str,
        at: Timestamp,
    ) -> Result<Fulfilled> {
        let wish = Wish {
            deal_id,
            intents: vec![intent],
        };
        let (_, fulfilled) = self
            .fulfil(vec![wish], cause, at)
            .await?
            .pop()
            .context("a wish has an answer")?;
        fulfilled
    }

    /// Fulfils wishes for different deals in one transaction. A wish that cannot be fulfilled does
    /// not stop the others.
    pub(super) async fn fulfil(
        &self,
        wishes: Vec<Wish>,
        cause: &'static str,
        at: Timestamp,
    ) -> Result<Vec<(DealId, Result<Fulfilled>)>> {
        self.fulfil_under(None, wishes, cause, at).await
    }

    /// As [`Self::fulfil`], under a lease: `Conflict` once it has changed hands.
    pub(super) async fn fulfil_under(
        &self,
        fence: Option<&Fence>,
        wishes: Vec<Wish>,
        cause: &'static str,
        at: Timestamp,
    ) -> Result<Vec<(DealId, Result<Fulfilled>)>> {
        let (inner, fence) = (self.inner.clone(), fence.cloned());
        finish(async move { inner.fulfil(wishes, cause, fence.as_ref(), at).await }).await
    }
}

/// Runs to the end even if whoever waits goes away: between a commit and the accelerator that
/// follows it, nothing may stop.
pub(super) async fn finish<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.context("a write broke off")?
}

impl Imported {
    fn count(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Created => self.created += 1,
                Effect::Changed => self.changed += 1,
                Effect::Unchanged | Effect::Appended { .. } => self.unchanged += 1,
            }
        }
    }
}

impl Inner {
    async fn fulfil(
        &self,
        wishes: Vec<Wish>,
        cause: &'static str,
        fence: Option<&Fence>,
        at: Timestamp,
    ) -> Result<Vec<(DealId, Result<Fulfilled>)>> {
        let wishes: Arc<[Wish]> = wishes.into();
        let ids: Vec<DealId> = wishes.iter().map(|wish| wish.deal_id.clone()).collect();
        let external_ids: Vec<&str> = wishes.iter().flat_map(Wish::external_ids).collect();
        let _deals = self.deals.lock(&ids).await;
        for _ in 0..ATTEMPTS_MAX {
            let active = self.champion().await?;
            let generation = active.as_ref().map(|active| active.generation);
            let before = self.store.before(generation, &ids, &external_ids).await?;
            let plans = self.plan(wishes.clone(), before, active, at).await?;
            if let Some(revisions) = self.commit(&plans, generation, cause, fence).await? {
                return Ok(plans
                    .into_iter()
                    .map(|(id, plan)| {
                        let revision = revisions.get(&id).copied();
                        (id, plan.map(|plan| plan.fulfilled(revision)))
                    })
                    .collect());
            }
        }
        Err(outrun())
    }

    async fn plan(
        &self,
        wishes: Arc<[Wish]>,
        mut before: HashMap<DealId, Before>,
        active: Option<Arc<Active>>,
        at: Timestamp,
    ) -> Result<Vec<(DealId, Result<Plan>)>> {
        let exchange = self.exchange.clone();
        let challenger = self.challenger();
        let is_one = wishes.len() == 1;
        let mut plan_all = move || {
            let scorers = Scorers {
                champion: active.as_ref().map(|active| &active.scorer),
                challenger: challenger.as_ref(),
            };
            wishes
                .iter()
                .map(|wish| {
                    let before = before.remove(&wish.deal_id);
                    let plan = Plan::of(wish, before, &scorers, &exchange, at);
                    (wish.deal_id.clone(), plan)
                })
                .collect()
        };
        if is_one {
            return Ok(plan_all());
        }
        // Hundreds of deals would keep the thread from serving others.
        Ok(tokio::task::spawn_blocking(plan_all)
            .await
            .context("planning broke off")?)
    }

    /// Writes what is to be written, and lets the accelerator follow. Answers with the new revisions;
    /// `None` if what the plans were made from has changed.
    async fn commit(
        &self,
        plans: &[(DealId, Result<Plan>)],
        generation: Option<i64>,
        cause: &str,
        fence: Option<&Fence>,
    ) -> Result<Option<HashMap<DealId, i64>>> {
        let plans: Vec<&Plan> = plans
            .iter()
            .filter_map(|(_, plan)| plan.as_ref().ok())
            .filter(|plan| !plan.write.is_nothing())
            .collect();
        if plans.is_empty() {
            return Ok(Some(HashMap::new()));
        }
        let writes: Vec<&DealWrite> = plans.iter().map(|plan| &plan.write).collect();
        let _order = self.order.lock().await;
        let committed = self.store.commit(&writes, generation, cause, fence);
        let Commit::Done(revisions, seq) = committed.await? else {
            return Ok(None);
        };
        let numbers: usize = writes.iter().map(|write| write.numbers()).sum();
        let before = Moment {
            generation: generation.unwrap_or(0),
            seq: seq - numbers as i64,
        };
        let changes: Vec<Change> = plans.iter().filter_map(|plan| plan.change()).collect();
        self.follow(before, seq, &changes).await;
        let ids = writes.iter().map(|write| write.deal.id.clone());
        Ok(Some(ids.zip(revisions).collect()))
    }

    async fn erase(&self, id: &DealId) -> Result<()> {
        let ids = std::slice::from_ref(id);
        let _deals = self.deals.lock(ids).await;
        for _ in 0..ATTEMPTS_MAX {
            if self.erased(id, None).await? {
                return Ok(());
            }
        }
        Err(outrun())
    }

    /// Whether the deal could be erased as it was found; `departing` is how it left its CRM, and the
    /// revision that was looked at.
    pub(super) async fn erased(
        &self,
        id: &DealId,
        departing: Option<(&Departing, i64)>,
    ) -> Result<bool> {
        let generation = self.champion().await?.map(|active| active.generation);
        let ids = std::slice::from_ref(id);
        let mut found = self.store.before(generation, ids, &[]).await?;
        let before = found.remove(id).ok_or_else(|| no_deal(id))?;
        let _order = self.order.lock().await;
        let revision = departing.map_or(before.stored.revision, |(_, revision)| revision);
        let departing = departing.map(|(departing, _)| departing);
        let erased = self.store.erase(id, generation, revision, departing);
        let Commit::Done((), seq) = erased.await? else {
            return Ok(false);
        };
        let from = Moment {
            generation: generation.unwrap_or(0),
            seq: seq - 1,
        };
        let change = Change {
            deal_id: id.clone(),
            before: before.standing.as_ref().map(Member::of),
            after: None,
        };
        self.follow(from, seq, &[change]).await;
        self.accelerator.forget(id).await;
        Ok(true)
    }
}

pub(super) fn outrun() -> Error {
    Error::Busy(format!(
        "other processes write the same deals: {ATTEMPTS_MAX} attempts came too late"
    ))
}

impl Wish {
    fn external_ids(&self) -> impl Iterator<Item = &str> {
        self.intents
            .iter()
            .flat_map(|intent| match intent {
                Intent::Append(events) => events.iter().map(|event| &event.id).collect(),
                Intent::Observe(sighting) => vec![&sighting.key],
                Intent::Put(_) | Intent::Patch(_) | Intent::Refresh => Vec::new(),
            })
            .filter_map(Option::as_deref)
    }

    /// As of when others saw the deal as a whole, the last time.
    fn seen_at(&self) -> Option<Timestamp> {
        let seen = self.intents.iter().filter_map(|intent| match intent {
            Intent::Observe(sighting) if sighting.is_birth => Some(sighting.at),
            _ => None,
        });
        seen.max()
    }
}

/// The champion, and who would take its place.
struct Scorers<'a> {
    champion: Option<&'a Scorer>,
    challenger: Option<&'a Scorer>,
}

/// One deal's write, worked out and not yet written.
#[derive(Debug)]
struct Plan {
    write: DealWrite,
    /// The deal's revision and when it got it; `None` for a new deal.
    before: Option<(i64, Timestamp)>,
    effects: Vec<Effect>,
}

impl Plan {
    fn of(
        wish: &Wish,
        before: Option<Before>,
        scorers: &Scorers,
        exchange: &Exchange,
        at: Timestamp,
    ) -> Result<Self> {
        let (stored, standing_before, known_events) = match before {
            Some(before) => (Some(before.stored), before.standing, before.known_events),
            None => (None, None, HashSet::new()),
        };
        // Long work asks as of its start: a deal that was written since is not taken back in time.
        let at = stored.as_ref().map_or(at, |s| at.max(s.updated_at));
        let mut revision = Revision {
            deal: stored.as_ref().map(|stored| stored.deal.clone()),
            known_events,
            log: Vec::new(),
        };
        let mut effects = Vec::with_capacity(wish.intents.len());
        for intent in &wish.intents {
            effects.push(revision.take(&wish.deal_id, intent.clone(), at)?);
        }
        let deal = revision.deal.ok_or_else(|| no_deal(&wish.deal_id))?;
        let is_deal_changed = stored.as_ref().is_none_or(|stored| stored.deal != deal);
        let document = is_deal_changed
            .then(|| document::write(&deal))
            .map(|document| {
                // A deal grows with what is received of it, but not beyond what can be read back.
                let json = document.to_string();
                document::parse(document).map(|_| json)
            });
        let document = document.transpose()?;
        let score = match scorers.champion {
            Some(scorer) if deal.is_open() => {
                let standing = standing(&deal, scorer, exchange, at);
                match &standing_before {
                    Some(before) if is_same(before, &standing) => ScoreWrite::Keep,
                    _ => ScoreWrite::Set(Box::new(standing)),
                }
            }
            _ if standing_before.is_some() => ScoreWrite::End,
            _ => ScoreWrite::Keep,
        };
        let shadow = match (&score, scorers.challenger) {
            (ScoreWrite::Set(standing), Some(challenger)) => {
                Some(shadow(&deal, &standing.score, challenger))
            }
            _ => None,
        };
        Ok(Self {
            write: DealWrite {
                deal,
                revision_before: stored.as_ref().map(|stored| stored.revision),
                seen_at: wish.seen_at(),
                standing_before,
                document,
                log: revision.log,
                score,
                shadow,
                at,
            },
            before: stored.map(|stored| (stored.revision, stored.updated_at)),
            effects,
        })
    }

    /// How the deal moves in the active ranking, if it does.
    fn change(&self) -> Option<Change> {
        let after = match &self.write.score {
            ScoreWrite::Keep => return None,
            ScoreWrite::Set(standing) => Some(Member::of(standing)),
            ScoreWrite::End => None,
        };
        Some(Change {
            deal_id: self.write.deal.id.clone(),
            before: self.write.standing_before.as_ref().map(Member::of),
            after,
        })
    }

    fn fulfilled(self, revision: Option<i64>) -> Fulfilled {
        let at = self.write.at;
        let new = revision.map(|revision| (revision, at));
        let (revision, updated_at) = if self.write.document.is_some() {
            new.or(self.before)
        } else {
            self.before
        }
        .unwrap_or((0, at));
        let is_score_changed = !matches!(self.write.score, ScoreWrite::Keep);
        let score = match self.write.score {
            ScoreWrite::Keep => self.write.standing_before.map(|standing| standing.score),
            ScoreWrite::Set(standing) => Some(standing.score),
            ScoreWrite::End => None,
        };
        Fulfilled {
            deal: ScoredDeal {
                deal: self.write.deal,
                revision,
                updated_at,
                score,
            },
            is_score_changed,
            effects: self.effects,
        }
    }
}

/// A deal while intents are worked into it, and what of them belongs in the log.
pub(super) struct Revision {
    pub deal: Option<Deal>,
    pub known_events: HashSet<String>,
    pub log: Vec<LoggedEvent>,
}

impl Revision {
    pub fn take(&mut self, id: &DealId, intent: Intent, at: Timestamp) -> Result<Effect> {
        match intent {
            Intent::Put(next) => {
                let body = json!({ "type": "document", "document": document::write(&next) });
                if self.deal.is_none() {
                    self.deal = Some(*next);
                    self.log(None, body);
                    return Ok(Effect::Created);
                }
                self.revise(id, *next, body, at)
            }
            Intent::Patch(patch) => {
                let deal = self.deal.as_ref().ok_or_else(|| no_deal(id))?;
                let next = document::patch(deal, patch.clone(), at)?;
                self.revise(id, next, json!({ "type": "patch", "patch": patch }), at)
            }
            Intent::Append(events) => self.append(id, events),
            Intent::Observe(sighting) => self.observe(id, sighting),
            Intent::Refresh => Ok(Effect::Unchanged),
        }
    }

    fn revise(&mut self, id: &DealId, next: Deal, body: Value, at: Timestamp) -> Result<Effect> {
        let deal = self.deal.as_mut().ok_or_else(|| no_deal(id))?;
        let before = deal.clone();
        deal.revise(next, at);
        if *deal == before {
            return Ok(Effect::Unchanged);
        }
        self.log(None, body);
        Ok(Effect::Changed)
    }

    fn append(&mut self, id: &DealId, events: Vec<ReceivedEvent>) -> Result<Effect> {
        let (mut applied, mut duplicates) = (0, 0);
        for (
            index,
            ReceivedEvent {
                id: event_id,
                event,
            },
        ) in events.into_iter().enumerate()
        {
            let deal = self.deal.as_mut().ok_or_else(|| no_deal(id))?;
            if event_id
                .as_ref()
                .is_some_and(|id| self.known_events.contains(id))
            {
                duplicates += 1;
                continue;
            }
            let body = json!(event);
            let before = deal.clone();
            deal.apply(event)
                .map_err(|reason| Error::invalid(format!("events[{index}].value"), reason))?;
            let is_new = *deal != before;
            if is_new {
                applied += 1;
            } else {
                duplicates += 1;
            }
            // An id is remembered even if the fact is known: its next delivery need not look.
            if is_new || event_id.is_some() {
                self.known_events.extend(event_id.clone());
                self.log(event_id, body);
            }
        }
        Ok(Effect::Appended {
            applied,
            duplicates,
        })
    }

    pub fn log(&mut self, external_id: Option<String>, body: Value) {
        self.log.push(LoggedEvent { external_id, body });
    }
}

/// The line of an open deal in a ranking. The one place where deals that are kept are scored.
pub(super) fn standing(
    deal: &Deal,
    scorer: &Scorer,
    exchange: &Exchange,
    at: Timestamp,
) -> RankingRow {
    let known = Snapshot::at(deal, at);
    let day = TimeZone::UTC.to_datetime(at).date();
    let to_base = |amount| exchange.to_base(amount, known.currency(), day);
    let activity = known.activities().last();
    RankingRow {
        deal: DealSummary {
            id: deal.id.clone(),
            name: deal.name.clone(),
            owner: deal.owner.clone(),
            pipeline: deal.pipeline.clone(),
            stage: deal.stage.clone(),
            amount: known.amount(),
            currency: known.currency(),
            base_amount: known.amount().and_then(to_base),
            created_at: deal.created_at.map(to_micros),
            stage_entered_at: known.stage_entered_at().map(to_micros),
            expected_close_at: known.expected_close_at().map(to_micros),
            last_activity_at: activity.map(|activity| to_micros(activity.at)),
        },
        score: scorer.score(deal, at),
        inputs_hash: Some(scorer.inputs_hash(deal, at)),
    }
}

/// As exact as the store keeps it, so that a line reads back equal.
fn to_micros(at: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at)
}

/// Whether two lines say the same, whenever they were scored.
fn is_same(before: &RankingRow, now: &RankingRow) -> bool {
    let is_same_score = || {
        let mut before = before.score.clone();
        before.scored_at = now.score.scored_at;
        before == now.score
    };
    before.deal == now.deal && is_same_score()
}
