//! Keys, links and sessions, by the hashes of their secrets.

use anyhow::anyhow;
use jiff::Timestamp;

use super::engine::{Row, Sql};
use super::{Store, micros, random_id, timestamp};
use crate::access::{Holder, Role};
use crate::error::{Error, Result};

/// A key as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub holder: Holder,
    pub created_at: Timestamp,
    /// To the hour.
    pub last_used_at: Option<Timestamp>,
}

type Hash = [u8; 32];

impl Store {
    /// # Errors
    /// `Conflict` when the name is taken.
    pub async fn create_key(
        &self,
        name: &str,
        role: &Role,
        hash: &Hash,
        at: Timestamp,
    ) -> Result<()> {
        let created = Sql::new(
            "INSERT INTO access_keys (id, name, role, owner, hash, created_at)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO NOTHING",
        )
        .bind(random_id())
        .bind(name)
        .bind(role.as_str())
        .bind(role.owner())
        .bind(hash.to_vec())
        .bind(micros(at))
        .execute(&self.writer)
        .await?;
        match created {
            0 => Err(Error::Conflict(format!(
                "there is a key `{name}` already: revoke it, or take another name"
            ))),
            _ => Ok(()),
        }
    }

    /// All keys by name.
    pub async fn keys(&self) -> Result<Vec<AccessKey>> {
        let rows = Sql::new("SELECT * FROM access_keys ORDER BY name");
        let rows = rows.fetch_all(&self.readers).await?;
        rows.iter().map(access_key).collect()
    }

    /// # Errors
    /// `NotFound`.
    pub async fn key_named(&self, name: &str) -> Result<AccessKey> {
        let row = Sql::new("SELECT * FROM access_keys WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.readers)
            .await?;
        access_key(&row.ok_or_else(|| no_key(name))?)
    }

    /// Removes a key with its links and sessions.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn revoke_key(&self, name: &str) -> Result<()> {
        let revoked = Sql::new("DELETE FROM access_keys WHERE name = $1")
            .bind(name)
            .execute(&self.writer)
            .await?;
        match revoked {
            0 => Err(no_key(name)),
            _ => Ok(()),
        }
    }

    pub(crate) async fn key_of(&self, hash: &Hash) -> Result<Option<AccessKey>> {
        let row = Sql::new("SELECT * FROM access_keys WHERE hash = $1")
            .bind(hash.to_vec())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(access_key).transpose()
    }

    pub(crate) async fn note_use(&self, key_id: &str, at: Timestamp) -> Result<()> {
        Sql::new("UPDATE access_keys SET last_used_at = $2 WHERE id = $1")
            .bind(key_id)
            .bind(micros(at))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    pub async fn create_link(&self, hash: &Hash, key_id: &str, until: Timestamp) -> Result<()> {
        Sql::new("INSERT INTO access_links (hash, key_id, expires_at) VALUES ($1, $2, $3)")
            .bind(hash.to_vec())
            .bind(key_id)
            .bind(micros(until))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Whom a link is for; `None` when it was used or is too old.
    pub(crate) async fn link_holder(&self, hash: &Hash, now: Timestamp) -> Result<Option<Holder>> {
        self.holder_by("access_links", hash, now).await
    }

    /// Takes a link: of several who ask at once, one gets it.
    pub(crate) async fn use_link(&self, hash: &Hash, now: Timestamp) -> Result<Option<Holder>> {
        let holder = self.link_holder(hash, now).await?;
        let used = Sql::new("DELETE FROM access_links WHERE hash = $1")
            .bind(hash.to_vec())
            .execute(&self.writer)
            .await?;
        Ok(holder.filter(|_| used > 0))
    }

    /// Also forgets what has run out.
    pub(crate) async fn create_session(
        &self,
        hash: &Hash,
        key_id: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<()> {
        let mut tx = self.writer.write().await?;
        for table in ["access_links", "access_sessions"] {
            Sql::new(format!("DELETE FROM {table} WHERE expires_at <= $1"))
                .bind(micros(now))
                .execute(&mut tx)
                .await?;
        }
        Sql::new("INSERT INTO access_sessions (hash, key_id, expires_at) VALUES ($1, $2, $3)")
            .bind(hash.to_vec())
            .bind(key_id)
            .bind(micros(until))
            .execute(&mut tx)
            .await?;
        tx.commit().await
    }

    /// Whose session it is; `None` when it is over.
    pub(crate) async fn session_holder(
        &self,
        hash: &Hash,
        now: Timestamp,
    ) -> Result<Option<Holder>> {
        self.holder_by("access_sessions", hash, now).await
    }

    pub(crate) async fn end_session(&self, hash: &Hash) -> Result<()> {
        Sql::new("DELETE FROM access_sessions WHERE hash = $1")
            .bind(hash.to_vec())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn holder_by(
        &self,
        table: &'static str,
        hash: &Hash,
        now: Timestamp,
    ) -> Result<Option<Holder>> {
        let row = Sql::new(format!(
            "SELECT access_keys.* FROM {table} JOIN access_keys ON access_keys.id = key_id
             WHERE {table}.hash = $1 AND expires_at > $2"
        ))
        .bind(hash.to_vec())
        .bind(micros(now))
        .fetch_optional(&self.readers)
        .await?;
        Ok(row
            .as_ref()
            .map(access_key)
            .transpose()?
            .map(|key| key.holder))
    }
}

fn no_key(name: &str) -> Error {
    Error::NotFound {
        kind: "key",
        id: name.to_owned(),
    }
}

fn access_key(row: &Row) -> Result<AccessKey> {
    let owner: Option<String> = row.get("owner")?;
    let role = match (row.get::<&str>("role")?, owner) {
        ("manager", None) => Role::Manager,
        ("rep", Some(owner)) => Role::Rep { owner },
        ("api", None) => Role::Api,
        (other, _) => return Err(anyhow!("a key in the store has the role `{other}`").into()),
    };
    let last_used_at: Option<i64> = row.get("last_used_at")?;
    Ok(AccessKey {
        holder: Holder {
            key_id: row.get("id")?,
            name: row.get("name")?,
            role,
        },
        created_at: timestamp(row.get("created_at")?)?,
        last_used_at: last_used_at.map(timestamp).transpose()?,
    })
}
