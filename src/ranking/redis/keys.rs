//! The names of the keys: see the table in [`super`].

use std::sync::Arc;

use crate::domain::DealId;
use crate::ranking::order::{Member, View};

/// The keys of one store. All but the scores share a hash tag: they are in one slot of a cluster.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    store_id: Arc<str>,
}

impl Keys {
    pub fn of(store_id: &str) -> Self {
        Self {
            store_id: store_id.into(),
        }
    }

    pub fn pointer(&self) -> String {
        self.named("pointer")
    }

    pub fn epochs(&self) -> String {
        self.named("epochs")
    }

    pub fn building(&self) -> String {
        self.named("building")
    }

    pub fn draft(&self, epoch: &str) -> String {
        self.named(&format!("{epoch}:draft"))
    }

    pub fn sizes(&self, epoch: &str) -> String {
        self.named(&format!("{epoch}:sizes"))
    }

    pub fn ranking(&self, epoch: &str, name: &str) -> String {
        self.named(&format!("{epoch}:{name}"))
    }

    /// How long the part of [`Self::ranking`] before the name is, in bytes.
    pub fn ranking_prefix_bytes(&self, epoch: &str) -> usize {
        self.ranking(epoch, "").len()
    }

    /// Without a hash tag of the store: scores are spread over a cluster.
    pub fn score(&self, id: &DealId) -> String {
        format!("dealrank:{}:score:{id}", self.store_id)
    }

    fn named(&self, name: &str) -> String {
        format!("dealrank:{{{}}}:{name}", self.store_id)
    }
}

/// The generation whose rankings an epoch has.
pub(super) fn generation_of(epoch: &str) -> Option<i64> {
    let (generation, _) = epoch.strip_prefix('g')?.split_once('-')?;
    generation.parse().ok()
}

/// The part of a ranking's key that tells it from others of the epoch.
pub(super) fn name(view: View<'_>) -> String {
    match view {
        View::All => "all".into(),
        View::Owner(owner) => format!("owner:{owner}"),
        View::Pipeline(pipeline) => format!("pipeline:{pipeline}"),
    }
}

/// Where a deal goes (with its rank) and what it leaves (without).
pub(super) fn moves(before: Option<&Member>, after: Option<&Member>) -> Vec<(String, Option<f64>)> {
    let names = |member: Option<&Member>| -> Vec<String> {
        member.into_iter().flat_map(View::with).map(name).collect()
    };
    let (old, new) = (names(before), names(after));
    let left = old.into_iter().filter(|name| !new.contains(name));
    let mut moves: Vec<_> = left.map(|name| (name, None)).collect();
    let rank = after.map(|member| member.rank);
    moves.extend(new.into_iter().map(|name| (name, rank)));
    moves
}
