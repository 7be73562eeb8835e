//! Where a store is: a file of ours, or a PostgreSQL that others share.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// The embedded store: one file, one process.
    File(PathBuf),
    /// The shared store.
    Postgres(DatabaseUrl),
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

/// `postgres://user:password@host:port/database`. It is shown without the password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    pub(super) fn options(&self) -> Result<PgConnectOptions, sqlx::Error> {
        PgConnectOptions::from_str(&self.0)
    }

    /// With the password.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DatabaseUrl {
    type Error = String;

    fn try_from(url: String) -> Result<Self, String> {
        let is_postgres = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        if !is_postgres {
            return Err(
                "is no address such as `postgres://user:password@host:5432/database`".into(),
            );
        }
        let url = Self(url);
        match url.options() {
            Ok(_) => Ok(url),
            // The reason may quote what it was given.
            Err(_) => Err("cannot be read as an address of PostgreSQL; encode special characters of the password (`@` is %40)".into()),
        }
    }
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(url: &str) -> Result<Self, String> {
        url.to_owned().try_into()
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(options) = self.options() else {
            return f.write_str("postgres://");
        };
        let (user, port) = (options.get_username(), options.get_port());
        let database = options.get_database().unwrap_or(user);
        match options.get_socket() {
            Some(folder) => write!(f, "postgres://{user}@{}/{database}", folder.display()),
            None => write!(
                f,
                "postgres://{user}@{}:{port}/{database}",
                options.get_host()
            ),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_shown() {
        let url: DatabaseUrl = "postgres://ann:s3cret@db.example:5433/deals?sslmode=require"
            .parse()
            .unwrap();
        assert_eq!(url.to_string(), "postgres://ann@db.example:5433/deals");
        assert!(!format!("{:?}", StoreLocation::Postgres(url)).contains("s3cret"));
        for wrong in [
            "postgres://ann:s3cret@:x/",
            "mysql://ann:s3cret@h/d",
            "s3cret",
        ] {
            let reason = wrong.parse::<DatabaseUrl>().unwrap_err();
            assert!(!reason.contains("s3cret"), "{reason}");
        }
    }
}
