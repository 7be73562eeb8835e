//! How long work tells how far it is: a terminal draws a bar, a job stores it, a test ignores it.

/// A step of long work. `total` is 0 while unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: &'static str,
    pub done: u64,
    pub total: u64,
}

/// Whoever wants to hear of progress. Called often; must be cheap.
pub type OnProgress<'a> = &'a (dyn Fn(Progress) + Sync);

/// Nobody listens.
pub fn silent(_: Progress) {}
