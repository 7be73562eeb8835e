//! Several processes on one store: what one of them does alone, and who that is.
//!
//! A [`Lease`] is competed for by all, and held by one until it gives it back or stops renewing it. Time
//! is the database's: clocks of processes may differ. Whoever was held up for long may still believe
//! that it holds a lease; so what it writes carries a [`Fence`], and is refused once another has
//! taken over.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::error::Result;
use crate::store::{Fence, Store};

/// How long a lease lasts unless it is renewed: so long nobody does the work of a process that died.
pub const LEASE_LASTS: Duration = Duration::from_secs(5);
/// The same on the embedded store, which has one process at a time, and a disk that may rest.
const EMBEDDED_LASTS: Duration = Duration::from_secs(600);
/// How often a lease is renewed while it lasts.
const RENEWALS: u32 = 5;
/// How often the others look whether it is free.
const LOOKED_EVERY: Duration = Duration::from_secs(1);
/// How long before its end a lease is not relied upon any more.
const MARGIN: Duration = Duration::from_millis(500);

/// A share in the competition for a lease, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    held: watch::Receiver<Option<Fence>>,
    task: AbortHandle,
}

impl Lease {
    /// Competes for the lease `name` from now on, in the name of `holder`.
    pub fn compete(store: Store, name: impl Into<String>, holder: impl Into<String>) -> Self {
        let (sender, held) = watch::channel(None);
        let competing = compete(store.clone(), name.into(), holder.into(), sender);
        let task = tokio::spawn(competing).abort_handle();
        Self { store, held, task }
    }

    /// What to write under, if the lease is held now.
    pub fn fence(&self) -> Option<Fence> {
        let fence = self.held.borrow().clone();
        fence.filter(|_| !self.task.is_finished())
    }

    /// Follows who holds it: something while it is this process.
    pub fn watch(&self) -> watch::Receiver<Option<Fence>> {
        self.held.clone()
    }

    /// Waits until the lease is held.
    pub async fn acquired(&self) -> Fence {
        let mut held = self.held.clone();
        loop {
            if let Some(fence) = held.borrow_and_update().clone() {
                return fence;
            }
            if held.changed().await.is_err() {
                // Nobody competes any more: only while the process ends.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Leaves the competition, and lets the next one in at once if the lease was held.
    ///
    /// # Errors
    /// When the store does not answer; then the lease runs out.
    pub async fn give_back(&self) -> Result<()> {
        let fence = self.fence();
        self.task.abort();
        match fence {
            Some(fence) => self.store.give_back_lease(&fence).await,
            None => Ok(()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn compete(store: Store, name: String, holder: String, held: watch::Sender<Option<Fence>>) {
    let lasts = match store.is_shared() {
        true => LEASE_LASTS,
        false => EMBEDDED_LASTS,
    };
    let mut until = Instant::now();
    loop {
        let asked_at = Instant::now();
        // An answer that comes later than this is of no use.
        let latest = match *held.borrow() {
            Some(_) => until,
            None => asked_at + lasts - MARGIN,
        };
        let asked = store.take_lease(&name, &holder, lasts);
        let fence = match tokio::time::timeout_at(latest, asked).await {
            Ok(Ok(fence)) => {
                until = asked_at + lasts - MARGIN;
                fence
            }
            Ok(Err(error)) => {
                tracing::debug!(name, "cannot ask for a lease: {error:#}");
                held.borrow().clone().filter(|_| Instant::now() < until)
            }
            Err(_) => None,
        };
        held.send_if_modified(|present| {
            let is_changed = *present != fence;
            *present = fence;
            is_changed
        });
        let pause = match *held.borrow() {
            Some(_) => lasts / RENEWALS,
            None => LOOKED_EVERY,
        };
        tokio::time::sleep(pause).await;
    }
}
