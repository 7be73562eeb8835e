//! One write of a deal at a time.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{Mutex, MutexGuard};

use crate::domain::DealId;

/// Deals that share a stripe wait for each other; with this many that is rare.
const STRIPES: usize = 256;

/// A lock for each deal, striped.
#[derive(Debug)]
pub(super) struct DealLocks(Box<[Mutex<()>]>);

impl DealLocks {
    pub fn new() -> Self {
        Self((0..STRIPES).map(|_| Mutex::default()).collect())
    }

    /// Locks all of `ids`, in the order of their stripes, so that two batches cannot deadlock.
    pub async fn lock<'a>(
        &self,
        ids: impl IntoIterator<Item = &'a DealId>,
    ) -> Vec<MutexGuard<'_, ()>> {
        let stripes: BTreeSet<usize> = ids.into_iter().map(stripe).collect();
        let mut guards = Vec::with_capacity(stripes.len());
        for stripe in stripes {
            guards.push(self.0[stripe].lock().await);
        }
        guards
    }
}

fn stripe(id: &DealId) -> usize {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    (hasher.finish() % STRIPES as u64) as usize
}
