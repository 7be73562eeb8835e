//! Who signs in as whom: secrets to their holders.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use moka::sync::Cache;

use super::throttle::Throttle;
use super::{AccessSettings, Holder, KeyRequired, Kind, Role, Secret, Visitor};
use crate::error::{Error, Result};
use crate::store::Store;

/// How long a key is believed that the store knew: a revoked one is refused after this at the latest.
const KEY_BELIEVED: Duration = Duration::from_secs(5);
const KEYS_BELIEVED_MAX: u64 = 10_000;
/// When a key was used last is kept to the hour: to the request would be a write with each.
const USED_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// Who can reach the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exposure {
    /// Only programs and people on this machine.
    is_loopback: bool,
    is_demo: bool,
}

impl Exposure {
    pub fn of(address: SocketAddr, is_demo: bool) -> Self {
        Self {
            is_loopback: address.ip().to_canonical().is_loopback(),
            is_demo,
        }
    }
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("there is no such key; it may have been revoked, or be the beginning of one")]
    WrongKey,
    #[error("the link has been used, or is too old; ask for a new one")]
    WrongLink,
    #[error("this key is for programs; people sign in with a key of the role `manager` or `rep`")]
    NotForPeople,
    #[error("too many wrong keys came from your address; wait a minute")]
    TooManyWrong,
    #[error(transparent)]
    Failed(#[from] Error),
}

/// The keys, links and sessions of an installation.
#[derive(Debug)]
pub struct Access {
    store: Store,
    settings: AccessSettings,
    exposure: Exposure,
    throttle: Throttle,
    /// Keys that the store knew a moment ago, by their hash.
    believed: Cache<[u8; 32], Arc<Holder>>,
    /// For the forms of those who need not sign in: other sites can send forms, but not read ours.
    common_csrf: String,
}

impl Access {
    pub fn new(store: Store, settings: AccessSettings, exposure: Exposure) -> Self {
        Self {
            store,
            throttle: Throttle::new(settings.wrong_keys_per_minute_max),
            settings,
            exposure,
            believed: Cache::builder()
                .max_capacity(KEYS_BELIEVED_MAX)
                .time_to_live(KEY_BELIEVED)
                .build(),
            common_csrf: Secret::random(Kind::Session).csrf(),
        }
    }

    /// Whether pages can be seen by those only who have signed in. `host` is the one that the request
    /// names: see `is_local`.
    pub fn is_sign_in_needed(&self, host: &str) -> bool {
        !(self.exposure.is_demo && self.is_local(host))
    }

    /// Whether `/v1` wants a key, or a session.
    pub fn is_key_needed(&self, host: &str) -> bool {
        match self.settings.api_key_required {
            KeyRequired::Always => true,
            KeyRequired::Never => false,
            KeyRequired::Auto => !self.is_local(host),
        }
    }

    /// Whether a request comes from this machine. It must also name this machine: what came through a
    /// proxy names another host, and so does the page of a stranger whose name was made to lead here.
    fn is_local(&self, host: &str) -> bool {
        self.exposure.is_loopback && is_loopback_name(host)
    }

    /// Whoever asks where nobody has to sign in.
    pub fn anyone(&self) -> Visitor {
        Visitor::anyone(self.common_csrf.clone())
    }

    /// Who sent a key with a request.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn bearer(
        &self,
        key: &str,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<Visitor, Refused> {
        let holder = self.holder_of(key, from, now).await?;
        // Without a cookie no other site can have a browser send anything.
        Ok(Visitor::known(holder, self.common_csrf.clone()))
    }

    /// Who has a session; `None` when it is over.
    pub async fn session(&self, cookie: &str, now: Timestamp) -> Result<Option<Visitor>> {
        let Some(session) = Secret::parse(Kind::Session, cookie) else {
            return Ok(None);
        };
        let holder = self.store.session_holder(&session.hash(), now).await?;
        Ok(holder.map(|holder| Visitor::known(Arc::new(holder), session.csrf())))
    }

    /// Begins a session with a key.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn sign_in(
        &self,
        key: &str,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<(Secret, Holder), Refused> {
        let holder = self.holder_of(key, from, now).await?;
        if holder.role == Role::Api {
            return Err(Refused::NotForPeople);
        }
        let session = self.begin_session(&holder.key_id, now).await?;
        Ok((session, Holder::clone(&holder)))
    }

    /// Whom a link is for; it is not used up by this.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn look_at_link(
        &self,
        link: &str,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<Holder, Refused> {
        let link = self.link(link, from)?;
        let holder = self.store.link_holder(&link.hash(), now).await?;
        holder.ok_or_else(|| self.wrong(from, Refused::WrongLink))
    }

    /// Begins a session with a link, which works once.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn sign_in_by_link(
        &self,
        link: &str,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<(Secret, Holder), Refused> {
        let link = self.link(link, from)?;
        let holder = self.store.use_link(&link.hash(), now).await?;
        let holder = holder.ok_or_else(|| self.wrong(from, Refused::WrongLink))?;
        Ok((self.begin_session(&holder.key_id, now).await?, holder))
    }

    /// Ends a session; of one that is over already nothing is said.
    pub async fn sign_out(&self, cookie: &str) -> Result<()> {
        match Secret::parse(Kind::Session, cookie) {
            Some(session) => self.store.end_session(&session.hash()).await,
            None => Ok(()),
        }
    }

    /// How long a session lasts.
    pub fn session_lasts(&self) -> SignedDuration {
        SignedDuration::from_hours(i64::from(self.settings.session_hours))
    }

    async fn begin_session(&self, key_id: &str, now: Timestamp) -> Result<Secret> {
        let session = Secret::random(Kind::Session);
        let until = now
            .saturating_add(self.session_lasts())
            .unwrap_or(Timestamp::MAX);
        self.store.note_use(key_id, now).await?;
        self.store
            .create_session(&session.hash(), key_id, now, until)
            .await?;
        Ok(session)
    }

    async fn holder_of(
        &self,
        key: &str,
        from: IpAddr,
        now: Timestamp,
    ) -> Result<Arc<Holder>, Refused> {
        let key = Secret::parse(Kind::Key, key);
        let hash = key.map(|key| key.hash());
        if let Some(holder) = hash.and_then(|hash| self.believed.get(&hash)) {
            return Ok(holder);
        }
        if self.throttle.is_spent(from) {
            return Err(Refused::TooManyWrong);
        }
        let stored = match &hash {
            Some(hash) => self.store.key_of(hash).await?,
            None => None,
        };
        let (Some(hash), Some(key)) = (hash, stored) else {
            return Err(self.wrong(from, Refused::WrongKey));
        };
        let is_noted = key
            .last_used_at
            .is_some_and(|at| now.duration_since(at) < USED_EVERY);
        if !is_noted && let Err(error) = self.store.note_use(&key.holder.key_id, now).await {
            tracing::warn!("cannot note that a key was used: {error:#}");
        }
        let holder = Arc::new(key.holder);
        self.believed.insert(hash, Arc::clone(&holder));
        Ok(holder)
    }

    fn link(&self, link: &str, from: IpAddr) -> Result<Secret, Refused> {
        if self.throttle.is_spent(from) {
            return Err(Refused::TooManyWrong);
        }
        Secret::parse(Kind::Link, link).ok_or_else(|| self.wrong(from, Refused::WrongLink))
    }

    fn wrong(&self, from: IpAddr, refused: Refused) -> Refused {
        self.throttle.failed(from);
        refused
    }
}

/// Whether a host, as requests name it, is this machine to itself: `localhost`, `127.0.0.1:8080`, `[::1]`.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = name.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|a| a.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_the_names_it_has_for_itself() {
        for name in [
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:8080",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_loopback_name(name), "{name}");
        }
        for name in [
            "",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "10.0.0.1:80",
            "[::2]:80",
        ] {
            assert!(!is_loopback_name(name), "{name}");
        }
    }
}
