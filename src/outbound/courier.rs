//! One attempt at one delivery: signed, sent, and what came back.

use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};

use super::guard::{Forbidden, Guard, GuardedResolver};
use crate::error::Result;
use crate::standard_webhooks::{ID_HEADER, Key, SIGNATURE_HEADER, TIMESTAMP_HEADER};

/// Bytes of an answer that are kept as the reason of a failure.
const REASON_BYTES_MAX: usize = 300;

const USER_AGENT: &str = concat!("dealrank/", env!("CARGO_PKG_VERSION"));

/// What bounds one attempt.
#[derive(Debug, Clone, Copy)]
pub struct CourierLimits {
    /// Name resolution, connection and TLS.
    pub connect_timeout: Duration,
    /// From the start to the end of the answer.
    pub timeout: Duration,
    /// Of an answer, more is not read.
    pub answer_bytes_max: usize,
}

/// Carries messages; clones share connections.
#[derive(Debug, Clone)]
pub struct Courier {
    client: Client,
    guard: Guard,
    limits: CourierLimits,
}

/// What is sent, the same in each attempt but for its time.
#[derive(Debug, Clone)]
pub struct Message {
    pub id: String,
    pub url: String,
    pub content_type: &'static str,
    pub body: Vec<u8>,
    /// Each signs, so that receivers may go from one to the next in their own time.
    pub keys: Vec<Key>,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    pub at: Timestamp,
    pub duration: Duration,
    /// `None` when no answer came.
    pub status: Option<u16>,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// The receiver wants nothing any more (410).
    Gone,
    /// Perhaps another time.
    Failed {
        reason: String,
        /// How long the receiver asks to be left alone.
        retry_after: Option<SignedDuration>,
    },
}

impl Courier {
    pub fn new(guard: Guard, limits: CourierLimits) -> Result<Self> {
        crate::tls::install_provider();
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .dns_resolver(GuardedResolver(guard.clone()))
            .redirect(redirect::Policy::none())
            // A proxy would connect in our place, to addresses that nobody looked at.
            .no_proxy()
            .connect_timeout(limits.connect_timeout)
            .timeout(limits.timeout)
            .build()
            .context("cannot make a client for webhooks")?;
        Ok(Self {
            client,
            guard,
            limits,
        })
    }

    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Sends a message, once.
    pub async fn send(&self, message: &Message, at: Timestamp) -> Attempt {
        let started = Instant::now();
        let (status, outcome) = match self.guard.target(&message.url) {
            // It was good when it was given; the settings have changed since.
            Err(reason) => (None, failed(format!("the target {reason}"))),
            Ok(url) => self.exchange(url, message, at).await,
        };
        Attempt {
            at,
            duration: started.elapsed(),
            status: status.map(|status| status.as_u16()),
            outcome,
        }
    }

    async fn exchange(
        &self,
        url: Url,
        message: &Message,
        at: Timestamp,
    ) -> (Option<StatusCode>, Outcome) {
        let timestamp = at.as_second();
        let signatures: Vec<String> = message
            .keys
            .iter()
            .map(|key| key.sign(&message.id, timestamp, &message.body))
            .collect();
        let sent = self
            .client
            .post(url)
            .header(CONTENT_TYPE, message.content_type)
            .header(ID_HEADER, &message.id)
            .header(TIMESTAMP_HEADER, timestamp)
            .header(SIGNATURE_HEADER, signatures.join(" "))
            .body(message.body.clone())
            .send()
            .await;
        match sent {
            Err(error) => (None, failed(self.explain(&error))),
            Ok(response) => {
                let status = response.status();
                let retry_after = retry_after(response.headers(), at);
                // Read to its end, within limits, so that the connection can be used again.
                let answer = read(response, self.limits.answer_bytes_max).await;
                (Some(status), judge(status, retry_after, &answer))
            }
        }
    }

    fn explain(&self, error: &reqwest::Error) -> String {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut innermost = None;
        while let Some(present) = cause {
            if let Some(forbidden) = present.downcast_ref::<Forbidden>() {
                return forbidden.to_string();
            }
            innermost = Some(present.to_string());
            cause = present.source();
        }
        let seconds = self.limits.timeout.as_secs_f64();
        match innermost {
            _ if error.is_timeout() && !error.is_connect() => {
                format!("no answer within {seconds} s (outbound.timeout_seconds)")
            }
            Some(cause) if error.is_connect() => format!("cannot connect: {cause}"),
            Some(cause) => format!("no answer: {cause}"),
            None => "no answer".into(),
        }
    }
}

fn failed(reason: impl Into<String>) -> Outcome {
    Outcome::Failed {
        reason: reason.into(),
        retry_after: None,
    }
}

fn judge(status: StatusCode, retry_after: Option<SignedDuration>, answer: &[u8]) -> Outcome {
    if status.is_success() {
        return Outcome::Delivered;
    }
    if status == StatusCode::GONE {
        return Outcome::Gone;
    }
    let mut reason = format!("answered {status}");
    if status.is_redirection() {
        reason.push_str("; redirects are not followed");
    }
    let excerpt = String::from_utf8_lossy(&answer[..answer.len().min(REASON_BYTES_MAX)]);
    let excerpt = excerpt.trim();
    if !excerpt.is_empty() {
        // What a receiver writes ends in our log and answers: on one line, without control characters.
        let plain: String = excerpt
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        reason = format!("{reason}: {plain}");
    }
    Outcome::Failed {
        reason,
        retry_after,
    }
}

async fn read(mut response: Response, bytes_max: usize) -> Vec<u8> {
    let mut answer = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let rest = bytes_max - answer.len();
        answer.extend_from_slice(&chunk[..chunk.len().min(rest)]);
        if answer.len() == bytes_max {
            break;
        }
    }
    answer
}

/// What `Retry-After` asks for: seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<SignedDuration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(SignedDuration::from_secs(seconds.into()));
    }
    // Dates of HTTP are dates of mail, in the form that says GMT.
    let at = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(at.duration_since(now).max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now: Timestamp = "2026-10-21T07:28:00Z".parse().unwrap();
        let asked = |text: &'static str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]);
            retry_after(&headers, now).map(|wait| wait.as_secs())
        };
        assert_eq!(asked("120"), Some(120));
        assert_eq!(asked("Wed, 21 Oct 2026 07:30:30 GMT"), Some(150));
        assert_eq!(asked("Wed, 21 Oct 2026 07:00:00 GMT"), Some(0));
        assert_eq!(asked("-5"), None);
        assert_eq!(asked("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn an_answer_is_judged_by_its_status() {
        let judge = |status, answer: &str| judge(status, None, answer.as_bytes());
        assert_eq!(judge(StatusCode::NO_CONTENT, ""), Outcome::Delivered);
        assert_eq!(judge(StatusCode::GONE, "bye"), Outcome::Gone);
        let Outcome::Failed { reason, .. } = judge(StatusCode::FOUND, "") else {
            panic!("a redirect was taken for an answer");
        };
        assert!(reason.contains("not followed"), "{reason}");
        let long = format!("line\n\u{1b}[31m{}", "x".repeat(1000));
        let Outcome::Failed { reason, .. } = judge(StatusCode::BAD_GATEWAY, &long) else {
            panic!("a failure was taken for an answer");
        };
        assert!(reason.starts_with("answered 502 Bad Gateway: line  [31mxx"));
        assert!(reason.len() < 400, "{}", reason.len());
    }
}
