//! What CRMs send: from a signed delivery to dated facts about deals.
//!
//! Each CRM is an [`Adapter`]: a table of its fields, and a few small functions that tell whether a
//! delivery is authentic, which events are in it, and what each of them says. Adding one is one file and
//! its line in [`Source`].
//!
//! - `signature`: the ways to prove who sent a delivery. `fields`: tables of fields, and their reading.
//! - `settings`: the section `[webhooks]`. `soap`: Salesforce's XML.
//! - `inbox`: deliveries are kept, many in one commit, and then answered. `worker`: applies what is kept.
//! - `pull`: asks the CRM where an event says too little.

mod attio;
mod close;
pub mod fields;
mod hubspot;
mod inbox;
mod odoo;
mod pipedrive;
mod pull;
mod receiver;
mod salesforce;
pub mod settings;
pub mod signature;
mod soap;
mod standard;
mod worker;
mod zoho;

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::domain::Outcome;
use crate::domain::deal::Event;
use crate::error::FieldError;

use self::fields::Table;
pub use self::hubspot::{Action, action_answer};
pub use self::receiver::{Inbound, Receipt, Rejected, Replayed};
pub use self::settings::{Secret, SourceSettings, Webhooks};
use self::signature::Refusal;
pub use self::soap::ACKNOWLEDGEMENT;

/// Longest key of an event; longer ones are hashed.
const KEY_BYTES_MAX: usize = 200;

/// Who sends webhooks.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Hubspot,
    Salesforce,
    Pipedrive,
    Close,
    Attio,
    Zoho,
    Odoo,
    Standard,
}

pub const SOURCES: [Source; 8] = [
    Source::Hubspot,
    Source::Salesforce,
    Source::Pipedrive,
    Source::Close,
    Source::Attio,
    Source::Zoho,
    Source::Odoo,
    Source::Standard,
];

impl Source {
    pub fn adapter(self) -> &'static Adapter {
        match self {
            Self::Hubspot => &hubspot::ADAPTER,
            Self::Salesforce => &salesforce::ADAPTER,
            Self::Pipedrive => &pipedrive::ADAPTER,
            Self::Close => &close::ADAPTER,
            Self::Attio => &attio::ADAPTER,
            Self::Zoho => &zoho::ADAPTER,
            Self::Odoo => &odoo::ADAPTER,
            Self::Standard => &standard::ADAPTER,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hubspot => "hubspot",
            Self::Salesforce => "salesforce",
            Self::Pipedrive => "pipedrive",
            Self::Close => "close",
            Self::Attio => "attio",
            Self::Zoho => "zoho",
            Self::Odoo => "odoo",
            Self::Standard => "standard",
        }
    }

    /// The source of a name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        SOURCES.into_iter().find(|source| source.as_str() == name)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One CRM.
#[derive(Debug)]
pub struct Adapter {
    /// Their field and ours; a name that ends in `*` stands for all that begin so. Fields that are not
    /// here are not read.
    pub fields: &'static [(&'static str, &'static str)],
    /// What one unit of the currency is in theirs.
    pub amount_units: u32,
    pub outcomes: &'static [(&'static str, Outcome)],
    pub won_stages: &'static [&'static str],
    pub lost_stages: &'static [&'static str],
    /// Whether a secret can be one.
    pub check_secret: fn(&Secret) -> Result<(), String>,
    pub authenticate: fn(&Delivery, &SourceSettings, Timestamp) -> Result<(), Refusal>,
    /// The events of a delivery.
    pub split: fn(&Delivery, &SourceSettings) -> Result<Vec<Part>, Unreadable>,
    /// The CRM's id of the deal that an event is about.
    pub deal: fn(&Value) -> Option<String>,
    pub read: fn(&Context, &Value) -> Result<Reading, Vec<FieldError>>,
    /// A deal as the CRM's interface has it, in the form of an event; `None` where nobody can be asked.
    pub whole: Option<fn(Value, Timestamp) -> Value>,
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub method: String,
    /// As the sender wrote it.
    pub url: String,
    /// By names in lower case.
    pub headers: BTreeMap<String, String>,
    /// What the path has after the name of the source.
    pub path_secret: Option<String>,
    pub body: Vec<u8>,
}

impl Delivery {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// # Errors
    /// `MissingHeader`.
    pub fn required(&self, name: &'static str) -> Result<&str, Refusal> {
        self.header(name).ok_or(Refusal::MissingHeader(name))
    }

    /// Whether the body is, or would be, JSON.
    pub fn is_json(&self) -> bool {
        let start = self.body.iter().find(|byte| !byte.is_ascii_whitespace());
        matches!(start, Some(b'{' | b'['))
    }

    fn json(&self) -> Result<Value, Unreadable> {
        let body = self
            .body
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(&self.body);
        serde_json::from_slice(body).map_err(|e| Unreadable::Kept(format!("is not JSON: {e}")))
    }
}

/// One event of a delivery.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Event {
        /// The same for each delivery of the event.
        key: String,
        body: Value,
    },
    /// Something that is not about a deal: it is counted, and that is all.
    Unknown { kind: String },
}

/// Why the events of a delivery cannot be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// To be kept as a dead letter.
    Kept(String),
    /// Not to be kept: no CRM sends such a thing.
    Refused(String),
}

/// What an event is read with.
#[derive(Debug)]
pub struct Context<'a> {
    pub table: &'a Table,
    /// When it came in: the moment of an event that has none of its own.
    pub received_at: Timestamp,
    pub now: Timestamp,
}

/// What an event says, and as of when.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    pub at: Timestamp,
    pub meaning: Meaning,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    Facts {
        facts: Vec<Event>,
        /// Whether they make a deal known that was not.
        is_birth: bool,
    },
    /// The deal is new; what there is of it more, only the CRM can tell.
    Born { facts: Vec<Event> },
    /// The deal was changed; how, only the CRM can tell.
    Touched,
    /// The deal is gone from the CRM.
    Deleted,
    /// The deal is back.
    Restored,
}

/// An event that means facts.
fn facts(at: Timestamp, facts: Vec<Event>, is_birth: bool) -> Reading {
    let meaning = Meaning::Facts { facts, is_birth };
    Reading { at, meaning }
}

/// A key from what identifies an event together.
fn key(parts: &[&str]) -> String {
    let key = parts.join(":");
    let is_plain = key.len() <= KEY_BYTES_MAX && !key.chars().any(char::is_control);
    if is_plain {
        key
    } else {
        hashed(key.as_bytes())
    }
}

/// A key for what has no name of its own: the same for the same content.
fn hashed(content: &[u8]) -> String {
    format!("sha256:{}", signature::sha256_hex(&[content]))
}

/// A key like no other, for a sender whose deliveries cannot be told from each other.
fn unique() -> String {
    format!(
        "once:{:016x}{:016x}",
        rand::random::<u64>(),
        rand::random::<u64>()
    )
}

/// The text, number or nothing at a path.
fn at_path(value: &Value, pointer: &str) -> String {
    let value = value.pointer(pointer).unwrap_or(&Value::Null);
    fields::text(value).unwrap_or_default()
}

fn missing(field: &str) -> Vec<FieldError> {
    vec![FieldError::new(field, "is missing")]
}

#[cfg(test)]
mod tests;
