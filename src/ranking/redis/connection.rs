//! A connection to one Redis server or to a Redis Cluster: the same commands on both.

use std::fmt;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisFuture, RedisResult, Value};

use super::RedisSettings;
use crate::error::{Error, Result};

/// How a single address says that it is a cluster's.
const CLUSTER_SUFFIX: &str = "?cluster";
/// How often a command of a cluster is tried again while slots move or a node is replaced. What
/// takes longer than the response timeout is an outage.
const CLUSTER_RETRIES: u32 = 8;
/// Milliseconds between those attempts.
const CLUSTER_RETRY_WAIT: std::ops::Range<u64> = 10..200;

/// Where Redis is.
pub(super) enum Server {
    Single(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// Clones share one connection.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Server {
    /// Several addresses, or one with `?cluster` at its end, are nodes of a cluster, from which the
    /// others are found.
    pub fn of(settings: &RedisSettings) -> Result<Self> {
        // Without the address itself: it may carry a password.
        let unusable = |error| {
            let reason = format!(
                "{error}; expected one such as redis://127.0.0.1:6379/0, or nodes of a cluster with commas between them"
            );
            Error::invalid("redis_url", reason)
        };
        let (addresses, is_cluster) = addresses(&settings.url);
        if !is_cluster {
            let client = Client::open(settings.url.as_str()).map_err(unusable)?;
            return Ok(Self::Single(Box::new(client)));
        }
        let client = ClusterClientBuilder::new(addresses)
            .connection_timeout(settings.connect_timeout)
            .response_timeout(settings.response_timeout)
            .overall_response_timeout(Some(settings.response_timeout * 2))
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(CLUSTER_RETRY_WAIT.start)
            .max_retry_wait(CLUSTER_RETRY_WAIT.end)
            .build();
        let client = client.map_err(unusable)?;
        Ok(Self::Cluster(Box::new(client)))
    }

    pub fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub async fn connect(&self, settings: &RedisSettings) -> RedisResult<Connection> {
        match self {
            Self::Single(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(settings.connect_timeout))
                    .set_response_timeout(Some(settings.response_timeout));
                let connection = client
                    .get_multiplexed_async_connection_with_config(&config)
                    .await?;
                Ok(Connection::Single(connection))
            }
            Self::Cluster(client) => Ok(Connection::Cluster(client.get_async_connection().await?)),
        }
    }
}

fn addresses(url: &str) -> (Vec<&str>, bool) {
    let named: Vec<&str> = url.split(',').map(str::trim).collect();
    let is_cluster = named.len() > 1 || named.iter().any(|a| a.ends_with(CLUSTER_SUFFIX));
    let addresses = named
        .into_iter()
        .map(|address| address.strip_suffix(CLUSTER_SUFFIX).unwrap_or(address))
        .collect();
    (addresses, is_cluster)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => match pipeline.is_transaction() {
                true => connection.req_packed_commands(pipeline, offset, count),
                false => Box::pin(one_by_one(connection, pipeline)),
            },
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// The answers to commands that are sent each by itself. While a slot moves some of its keys are on one
/// node and some on another. A pipeline is sent whole to the one, and where a key is not there any more,
/// whole to the other: what it changed on the first it changes on the second too, where the same key
/// then stands in the way of the one that moves.
async fn one_by_one(
    connection: &mut ClusterConnection,
    pipeline: &Pipeline,
) -> RedisResult<Vec<Value>> {
    let mut answers = Vec::with_capacity(pipeline.len());
    for command in pipeline.cmd_iter() {
        answers.push(connection.req_packed_command(command).await?);
    }
    Ok(answers)
}

/// Addresses may carry a password.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_cluster() {
            "Cluster"
        } else {
            "Single"
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> Result<Server> {
        Server::of(&RedisSettings::new(url))
    }

    #[test]
    fn several_addresses_or_a_suffix_say_cluster() {
        for (url, is_cluster) in [
            ("redis://127.0.0.1:6379/1", false),
            ("rediss://user:secret@cache:6380", false),
            ("redis://a:1, redis://b:2", true),
            ("rediss://:secret@a:1,rediss://:secret@b:2", true),
            ("redis://a:1?cluster", true),
        ] {
            assert_eq!(server(url).unwrap().is_cluster(), is_cluster, "{url}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_not_repeated() {
        for url in ["secret@nowhere", "redis://a:1,ftp://secret@b:2", ""] {
            let message = server(url).unwrap_err().to_string();
            assert!(message.contains("redis_url"), "{message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
