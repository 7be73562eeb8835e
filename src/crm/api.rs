//! What the clients have in common: every request says who asks, keeps to the rate limit, and is
//! patient with what passes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url, redirect};
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::Instant;

use super::access::Access;
use super::{CrmError, CrmKind, CrmSettings};
use crate::error::Result;
use crate::outbound::retry_after;

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// The first wait where nobody says how long; each further one is twice as long.
const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Longer waits are left to the caller.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer that are told as the reason of a failure.
const REASON_BYTES_MAX: usize = 400;

/// The interface of one CRM. Clones share connections and the rate limit.
#[derive(Debug, Clone)]
pub(super) struct Api {
    kind: CrmKind,
    client: Client,
    base: Url,
    shared: Arc<Shared>,
    tries: u32,
}

#[derive(Debug)]
struct Shared {
    access: Access,
    /// Requests under way at once.
    places: Semaphore,
    /// Nobody asks before.
    quiet_until: Mutex<Option<Instant>>,
}

/// An answer that came.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub body: Value,
}

impl Api {
    pub fn new(kind: CrmKind, settings: &CrmSettings) -> Result<Self> {
        crate::tls::install_provider();
        let named = || format!("crm.{}", kind.as_str());
        let client = Client::builder()
            // The token goes to the CRM and nowhere else.
            .redirect(redirect::Policy::none())
            .timeout(Duration::from_secs(settings.timeout_seconds))
            .build()
            .with_context(|| format!("cannot make a client for {}", named()))?;
        let mut base: Url = settings
            .base_url
            .parse()
            .with_context(|| format!("{}.base_url", named()))?;
        // Paths are put behind it.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let access = Access::new(kind, settings, &base)?;
        Ok(Self {
            kind,
            client,
            base,
            shared: Arc::new(Shared {
                access,
                places: Semaphore::new(settings.concurrency),
                quiet_until: Mutex::default(),
            }),
            tries: settings.tries,
        })
    }

    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Answer, CrmError> {
        let mut url = self.url(path)?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.send(|| self.client.get(url.clone())).await
    }

    /// The same request may arrive twice: for what may be repeated.
    pub async fn send_json(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<Answer, CrmError> {
        let url = self.url(path)?;
        self.send(|| self.client.request(method.clone(), url.clone()).json(body))
            .await
    }

    fn url(&self, path: &str) -> Result<Url, CrmError> {
        self.base
            .join(path)
            .map_err(|e| CrmError::Refused(format!("no address of {path}: {e}")))
    }

    /// Sends until there is an answer that says something about the request itself.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Answer, CrmError> {
        let mut backoff = WAIT_FIRST;
        let mut is_renewed = false;
        for tries_left in (0..self.tries).rev() {
            let error = match self.send_once(request()).await {
                Ok(answer) => return Ok(answer),
                Err(error @ CrmError::Misconfigured(_)) => {
                    // A token has its time. Once is enough to see whether it was that.
                    if is_renewed || tries_left == 0 || !self.shared.access.renew().await {
                        return Err(error);
                    }
                    is_renewed = true;
                    continue;
                }
                Err(error) if !error.is_passing() => return Err(error),
                Err(error) => error,
            };
            let wait = match error {
                CrmError::Busy(Some(wait)) => wait,
                _ => backoff.mul_f64(1.0 + rand::random::<f64>() / 2.0),
            };
            if tries_left == 0 || wait > WAIT_MAX {
                return Err(error);
            }
            tracing::debug!(
                crm = self.kind.as_str(),
                ?wait,
                "waiting for a CRM: {error}"
            );
            tokio::time::sleep(wait).await;
            backoff *= 2;
        }
        Err(CrmError::Unavailable("was not asked".into()))
    }

    async fn send_once(&self, request: RequestBuilder) -> Result<Answer, CrmError> {
        let _place = self.shared.places.acquire().await;
        self.wait_while_quiet().await?;
        let request = self.shared.access.sign(&self.client, request).await?;
        let response = request
            .send()
            .await
            .map_err(|e| CrmError::Unavailable(explain(&e)))?;
        let status = response.status();
        let pause = self.pause(status, response.headers());
        if let Some(pause) = pause {
            let until = Instant::now() + pause;
            let mut quiet_until = self.shared.quiet_until.lock().await;
            *quiet_until = Some(quiet_until.map_or(until, |present| present.max(until)));
        }
        let body = read(response).await?;
        count(self.kind, status);
        match status.as_u16() {
            404 => Err(CrmError::NotFound),
            401 => Err(CrmError::Misconfigured(reason(status, &body))),
            429 => Err(CrmError::Busy(pause)),
            // Salesforce says so when the requests of the day are used up.
            403 if body.to_string().contains("REQUEST_LIMIT_EXCEEDED") => {
                Err(CrmError::Busy(pause))
            }
            403 => Err(CrmError::Misconfigured(reason(status, &body))),
            300..=399 => Err(CrmError::Refused(reason(status, &body))),
            408 | 500.. => Err(CrmError::Unavailable(reason(status, &body))),
            _ => Ok(Answer { status, body }),
        }
    }

    /// Waits until the rate limit allows more.
    ///
    /// # Errors
    /// `Busy` when that takes longer than anybody should wait here.
    async fn wait_while_quiet(&self) -> Result<(), CrmError> {
        let quiet_until = *self.shared.quiet_until.lock().await;
        let Some(until) = quiet_until else {
            return Ok(());
        };
        let wait = until.saturating_duration_since(Instant::now());
        if wait > WAIT_MAX {
            return Err(CrmError::Busy(Some(wait)));
        }
        tokio::time::sleep_until(until).await;
        Ok(())
    }

    /// How long the CRM wants to be left alone after an answer, by all requests.
    fn pause(&self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let number = |name: &str| -> Option<u64> { headers.get(name)?.to_str().ok()?.parse().ok() };
        if status == StatusCode::TOO_MANY_REQUESTS {
            let asked = retry_after(headers, Timestamp::now()).map(|wait| wait.unsigned_abs());
            return asked.or(match self.kind {
                // Seconds until the window of the limit ends.
                CrmKind::Pipedrive => number("x-ratelimit-reset").map(Duration::from_secs),
                CrmKind::HubSpot => {
                    number("x-hubspot-ratelimit-interval-milliseconds").map(Duration::from_millis)
                }
                CrmKind::Salesforce => None,
            });
        }
        // The next request would be one too many.
        match self.kind {
            CrmKind::HubSpot if number("x-hubspot-ratelimit-remaining") == Some(0) => {
                number("x-hubspot-ratelimit-interval-milliseconds").map(Duration::from_millis)
            }
            CrmKind::Pipedrive if number("x-ratelimit-remaining") == Some(0) => {
                number("x-ratelimit-reset").map(Duration::from_secs)
            }
            _ => None,
        }
    }
}

/// What an answer says about a failure, short.
pub(super) fn reason(status: StatusCode, body: &Value) -> String {
    let said = |path: &str| body.pointer(path).and_then(Value::as_str);
    let said = said("/message")
        .or_else(|| said("/0/message"))
        .or_else(|| said("/error"))
        .or_else(|| said("/error_info"))
        .unwrap_or_default();
    let said: String = said
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(REASON_BYTES_MAX)
        .collect();
    match said.as_str() {
        "" => format!("answered {status}"),
        said => format!("answered {status}: {said}"),
    }
}

/// An answer within the limit, as JSON; null when it is none.
pub(super) async fn read(mut response: reqwest::Response) -> Result<Value, CrmError> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > ANSWER_BYTES_MAX => {
                let reason = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
                return Err(CrmError::Refused(reason));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null)),
            Err(e) => return Err(CrmError::Unavailable(explain(&e))),
        }
    }
}

/// The innermost cause: the outer ones say no more than that a request failed, and name the address.
pub(super) fn explain(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer within timeout_seconds".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    format!("no answer: {cause}")
}

fn count(kind: CrmKind, status: StatusCode) {
    let labels = [
        ("crm", kind.as_str().to_owned()),
        ("status", status.as_u16().to_string()),
    ];
    metrics::counter!("crm_requests_total", &labels).increment(1);
}
