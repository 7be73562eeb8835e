//! What leaves: events to those who subscribed, and scores to the CRM.
//!
//! - `event`, `subscription`: what is told, and who wants to be told. Pure.
//! - `patience`: when to try again, and when to leave a receiver alone. Pure.
//! - `guard`: where messages may go. `courier`: one attempt at one delivery.

pub mod courier;
pub mod event;
pub mod guard;
pub mod patience;
mod settings;
pub mod subscription;

pub(crate) use courier::retry_after;
pub use event::{Event, EventType, Format};
pub use settings::OutboundSettings;
pub use subscription::{Filters, Receiver, Subscription, Webhook};
