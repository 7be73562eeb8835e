//! Leases: who alone may do something, for how long, by the clock of the database.

use std::time::Duration;

use super::engine::{Sql, Tx};
use super::{Store, engine};
use crate::error::{Error, Result};

/// Proof of having held a lease. What is written under it is refused once the lease has changed hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub name: String,
    /// Grows with each change of hands.
    pub token: i64,
}

impl Store {
    /// Takes a lease that is free or has run out, or renews one's own; `None` while another holds it.
    pub(crate) async fn take_lease(
        &self,
        name: &str,
        holder: &str,
        lasts: Duration,
    ) -> Result<Option<Fence>> {
        let now = self.writer.engine().now();
        let token = Sql::new(format!(
            "INSERT INTO leases (name, holder, token, expires_at) VALUES ($1, $2, 1, {now} + $3)
             ON CONFLICT (name) DO UPDATE SET
                 token = leases.token + CASE WHEN leases.holder = excluded.holder THEN 0 ELSE 1 END,
                 holder = excluded.holder,
                 expires_at = excluded.expires_at
             WHERE leases.holder = excluded.holder OR leases.expires_at <= {now}
             RETURNING token"
        ))
        .bind(name)
        .bind(holder)
        .bind(i64::try_from(lasts.as_micros()).unwrap_or(i64::MAX))
        .scalar_optional(&self.writer)
        .await?;
        Ok(token.map(|token| Fence {
            name: name.to_owned(),
            token,
        }))
    }

    /// Gives a lease back before its time.
    pub(crate) async fn give_back_lease(&self, fence: &Fence) -> Result<()> {
        Sql::new("UPDATE leases SET expires_at = 0 WHERE name = $1 AND token = $2")
            .bind(&fence.name)
            .bind(fence.token)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Frees all leases, for a process that is alone on the store.
    pub(crate) async fn free_leases(&self) -> Result<()> {
        Sql::new("UPDATE leases SET expires_at = 0")
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Forgets leases that begin with `prefix` and ran out long ago: nobody will come for them.
    pub(crate) async fn forget_leases(&self, prefix: &str, since: Duration) -> Result<()> {
        let now = self.writer.engine().now();
        Sql::new(format!(
            "DELETE FROM leases WHERE substr(name, 1, length($1)) = $1 AND expires_at < {now} - $2"
        ))
        .bind(prefix)
        .bind(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}

/// Whether a lease called `name` (an expression) is held by anybody.
pub(super) fn is_held(engine: engine::Engine, name: &str) -> String {
    let now = engine.now();
    format!("EXISTS (SELECT 1 FROM leases l WHERE l.name = {name} AND l.expires_at > {now})")
}

/// Refuses to go on once the lease has changed hands. It cannot change hands before the transaction ends.
pub(super) async fn check(tx: &mut Tx, fence: Option<&Fence>) -> Result<()> {
    let Some(fence) = fence else { return Ok(()) };
    let held = Sql::new("UPDATE leases SET token = token WHERE name = $1 AND token = $2")
        .bind(&fence.name)
        .bind(fence.token)
        .execute(tx)
        .await?;
    if held == 0 {
        let name = &fence.name;
        return Err(Error::Conflict(format!(
            "another process has taken over ({name}): this was left to it"
        )));
    }
    Ok(())
}
