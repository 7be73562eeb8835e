//! Who may ask for what: keys, one-time links and sessions, and three roles.
//!
//! A key is made on the command line and shown once. People sign in with it, or with a link that works
//! once, and get a session; programs send it with each request. Who signs in as whom is in [`Access`],
//! what a role may ask for in [`rules`].

mod gate;
pub mod rules;
mod secret;
mod settings;
mod throttle;

use std::fmt;
use std::sync::Arc;

pub use gate::{Access, Exposure, Refused};
pub use secret::{Kind, Secret};
pub use settings::{AccessSettings, KeyRequired};

/// Longest name of a key, in characters.
pub const NAME_CHARS_MAX: usize = 100;

/// What somebody may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Manager,
    /// The queue and the deals of one owner.
    Rep { owner: String },
    /// `/v1`, for programs; no pages.
    Api,
}

impl Role {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Rep { .. } => "rep",
            Self::Api => "api",
        }
    }

    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::Rep { owner } => Some(owner),
            Self::Manager | Self::Api => None,
        }
    }
}

/// To whom a key was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub key_id: String,
    pub name: String,
    pub role: Role,
}

/// Who sent a request.
#[derive(Clone)]
pub struct Visitor {
    holder: Option<Arc<Holder>>,
    csrf: String,
}

impl Visitor {
    fn anyone(csrf: String) -> Self {
        Self { holder: None, csrf }
    }

    fn known(holder: Arc<Holder>, csrf: String) -> Self {
        Self {
            holder: Some(holder),
            csrf,
        }
    }

    /// Where nobody has to sign in, everybody may do everything.
    pub fn role(&self) -> &Role {
        match &self.holder {
            Some(holder) => &holder.role,
            None => &Role::Manager,
        }
    }

    pub fn is_manager(&self) -> bool {
        *self.role() == Role::Manager
    }

    /// Whose queue and deals this visitor is kept to.
    pub fn owner(&self) -> Option<&str> {
        self.role().owner()
    }

    /// The name of the key; `None` where nobody has to sign in.
    pub fn name(&self) -> Option<&str> {
        self.holder.as_ref().map(|holder| holder.name.as_str())
    }

    /// What every form of a page carries in its field `csrf`, and no other site can know.
    pub fn csrf(&self) -> &str {
        &self.csrf
    }
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor")
            .field("holder", &self.holder)
            .finish_non_exhaustive()
    }
}
