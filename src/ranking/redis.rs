use std::time::Duration;

/// Where Redis is and how long to wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// `redis://host:port/db`.
    pub url: String,
    pub connect_timeout: Duration,
    pub response_timeout: Duration,
    /// How long a cached score is kept.
    pub score_ttl: Duration,
    /// How often an idle connection is looked at.
    pub check_every: Duration,
}

impl RedisSettings {
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_millis(500),
            score_ttl: Duration::from_secs(3600),
            check_every: Duration::from_secs(2),
        }
    }
}
