//! Deliveries are kept before they are answered. Those that come while a commit is under way share the
//! next one, so that a wait for the disk serves many.

use std::sync::Arc;

use anyhow::{Context, anyhow};
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::Source;
use crate::error::{Error, Result};
use crate::store::{Arrival, Store};

/// Events of one commit: more would make others wait for long.
const COMMIT_EVENTS_MAX: usize = 500;

/// The way into the inbox; clones share it.
#[derive(Debug, Clone)]
pub struct Inbox {
    queue: mpsc::UnboundedSender<Entry>,
    /// One permit for each event that may wait.
    places: Arc<Semaphore>,
    places_max: usize,
}

#[derive(Debug)]
struct Entry {
    arrivals: Vec<Arrival>,
    done: oneshot::Sender<Result<()>>,
    _places: OwnedSemaphorePermit,
}

impl Inbox {
    /// Starts the task that commits. `on_kept` is called after each commit.
    pub(super) fn start(
        store: Store,
        queued_events_max: usize,
        on_kept: impl Fn() + Send + 'static,
    ) -> Self {
        let (queue, entries) = mpsc::unbounded_channel();
        let places_max = queued_events_max.min(Semaphore::MAX_PERMITS);
        tokio::spawn(commit_all(store, entries, on_kept));
        Self {
            queue,
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
        }
    }

    /// Keeps events; when this returns they are on the disk, or were there already.
    ///
    /// # Errors
    /// `Overloaded` when too many events wait, `TooLarge` when there is not place for so many at all.
    pub(crate) async fn keep(&self, arrivals: Vec<Arrival>) -> Result<()> {
        if arrivals.is_empty() {
            return Ok(());
        }
        let limit = "queued_events_max";
        let max = self.places_max as u64;
        let count = u32::try_from(arrivals.len())
            .ok()
            .filter(|_| arrivals.len() <= self.places_max)
            .ok_or(Error::TooLarge { limit, max })?;
        let places = Arc::clone(&self.places)
            .try_acquire_many_owned(count)
            .map_err(|_| Error::Overloaded(format!("{limit}: {max} events are waiting already")))?;
        let (done, kept) = oneshot::channel();
        let entry = Entry {
            arrivals,
            done,
            _places: places,
        };
        let ended = || anyhow!("the inbox has ended");
        self.queue.send(entry).map_err(|_| ended())?;
        kept.await.context("the inbox has ended")?
    }
}

async fn commit_all(store: Store, mut entries: mpsc::UnboundedReceiver<Entry>, on_kept: impl Fn()) {
    while let Some(first) = entries.recv().await {
        let mut count = first.arrivals.len();
        let mut together = vec![first];
        while count < COMMIT_EVENTS_MAX
            && let Ok(next) = entries.try_recv()
        {
            count += next.arrivals.len();
            together.push(next);
        }
        let (arrivals, waiting): (Vec<_>, Vec<_>) = (together.into_iter())
            .map(|entry| (entry.arrivals, (entry.done, entry._places)))
            .unzip();
        let mut arrivals: Vec<Arrival> = arrivals.into_iter().flatten().collect();
        let kept = store.put_in_inbox(&mut arrivals).await;
        if let Ok(new) = &kept {
            let duplicates = (arrivals.len() as u64).saturating_sub(*new);
            metrics::counter!("webhook_duplicates_total").increment(duplicates);
            on_kept();
        }
        for (done, _places) in waiting {
            // Whoever asked may have gone away.
            let _ = done.send(match &kept {
                Ok(_) => Ok(()),
                Err(error) => Err(again(error)),
            });
        }
    }
}

/// The same failure for another one who waited.
fn again(error: &Error) -> Error {
    match error {
        Error::StoreAway(cause) => Error::StoreAway(anyhow!("{cause:#}")),
        other => Error::Internal(anyhow!("{other:#}")),
    }
}

/// An event as the inbox keeps it.
pub(super) fn arrival(
    source: Source,
    key: String,
    body: serde_json::Value,
    deal_id: Result<crate::domain::DealId, String>,
    received_at: Timestamp,
) -> Arrival {
    let (deal_id, dead) = match deal_id {
        Ok(id) => (Some(id), None),
        Err(reason) => (None, Some(reason)),
    };
    Arrival {
        source: source.as_str().to_owned(),
        key,
        deal_id,
        body,
        dead,
        received_at,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sqlx::{ConnectOptions, Executor};

    use super::*;
    use crate::domain::DealId;

    fn arrivals(keys: &[&str]) -> Vec<Arrival> {
        let deal_id = || Ok(DealId::new("d").unwrap());
        let arrival = |key: &&str| {
            let key = (*key).to_owned();
            super::arrival(
                Source::Close,
                key,
                json!({}),
                deal_id(),
                Timestamp::UNIX_EPOCH,
            )
        };
        keys.iter().map(arrival).collect()
    }

    #[tokio::test]
    async fn beyond_the_limit_events_are_refused_until_there_is_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.sqlite");
        let store = Store::open(&path).await.unwrap();
        let inbox = Inbox::start(store.clone(), 2, || {});
        let too_many = inbox.keep(arrivals(&["a", "b", "c"])).await;
        assert!(
            matches!(too_many, Err(Error::TooLarge { max: 2, .. })),
            "{too_many:?}"
        );

        // Somebody else writes, so that commits have to wait.
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path);
        let mut other = options.connect().await.unwrap();
        other.execute("BEGIN IMMEDIATE").await.unwrap();
        let waiting = tokio::spawn({
            let inbox = inbox.clone();
            async move { inbox.keep(arrivals(&["a", "b"])).await }
        });
        while inbox.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = inbox.keep(arrivals(&["c"])).await;
        assert!(matches!(refused, Err(Error::Overloaded(_))), "{refused:?}");
        other.execute("ROLLBACK").await.unwrap();
        waiting.await.unwrap().unwrap();

        // A second delivery is known.
        inbox.keep(arrivals(&["b"])).await.unwrap();
        inbox.keep(arrivals(&["c"])).await.unwrap();
        assert_eq!(store.inbox_health().await.unwrap().new, 3);
    }
}
