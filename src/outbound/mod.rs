//! What leaves: events to those who subscribed, and scores to the CRM.
//!
//! - `event`, `subscription`: what is told, and who wants to be told. Pure.
//! - `patience`: when to try again, and when to leave a receiver alone. Pure.
//! - `guard`: where messages may go. `courier`: one attempt at one delivery.
//! - `dispatcher`: from the outbox to receivers. `write_back`: into the fields of a CRM.
//! - `rounds`: what is looked at now and then.

pub mod courier;
mod dispatcher;
pub mod event;
pub mod guard;
pub mod patience;
mod rounds;
mod settings;
pub mod subscription;
mod write_back;

use std::sync::Arc;

use tokio::sync::watch;

pub(crate) use self::courier::retry_after;
use self::courier::{Attempt, Courier};
use self::dispatcher::{Dispatcher, Rules};
pub use self::event::{Event, EventType, Format};
pub use self::settings::OutboundSettings;
pub use self::subscription::{Filters, Receiver, Subscription, Webhook};
use self::write_back::WriteBack;
use crate::app::now;
use crate::book::Book;
use crate::config::Config;
use crate::crm::{Crm, CrmKind};
use crate::error::Result;

/// What leaves this process.
#[derive(Debug)]
pub struct Outbound {
    courier: Courier,
    rules: Rules,
    /// Names this installation in events.
    source: Arc<str>,
}

impl Outbound {
    /// Starts the tasks that work while `is_leading` is true. They end with its sender.
    ///
    /// # Errors
    /// When the settings cannot be used, or the store cannot be read.
    pub async fn start(
        book: &Book,
        config: &Config,
        crms: &[Crm],
        is_leading: watch::Receiver<bool>,
    ) -> Result<Self> {
        let (store, settings) = (book.store().clone(), &config.outbound);
        let crms = crms.iter().filter(|crm| crm.write_back().enabled);
        let write_backs: Vec<WriteBack> = crms.cloned().map(WriteBack::new).collect();
        let kinds: Vec<CrmKind> = write_backs.iter().map(WriteBack::kind).collect();
        store.write_back_to(&kinds, now()).await?;
        let outbound = Self {
            courier: Courier::new(settings.guard(), settings.courier_limits())?,
            rules: settings.rules(),
            source: format!("urn:dealrank:{}", store.id()).into(),
        };
        let dispatcher = Dispatcher::new(
            store.clone(),
            outbound.courier.clone(),
            outbound.rules.clone(),
            outbound.source.clone(),
            write_backs,
        );
        tokio::spawn(dispatcher.run(is_leading.clone()));
        rounds::start(book, config, is_leading);
        Ok(outbound)
    }

    /// Where messages may go.
    pub fn guard(&self) -> &guard::Guard {
        self.courier.guard()
    }

    /// Sends a message now, to see whether it arrives. It is not kept, and not tried again.
    pub async fn try_out(&self, subscription_id: &str, webhook: &Webhook) -> (Event, Attempt) {
        let event = Event::test(subscription_id, now());
        let attempt =
            dispatcher::attempt(&self.courier, &self.rules, &self.source, webhook, &event).await;
        (event, attempt)
    }

    /// Whether a receiver is left alone because it failed again and again.
    pub fn is_circuit_open(&self, subscription: &Subscription) -> bool {
        subscription.circuit.is_open(&self.rules.circuit)
    }
}
