//! The section `[outbound]`.

use std::time::Duration;

use jiff::SignedDuration;
use serde::Deserialize;

use super::courier::CourierLimits;
use super::dispatcher::Rules;
use super::guard::{Guard, Network};
use super::patience::{CircuitSettings, RetrySchedule};

/// See `config.default.toml` for the meaning of each key.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundSettings {
    pub https_required: bool,
    pub private_networks_allowed: Vec<Network>,
    pub subscriptions_max: u32,
    pub queue_max: u32,
    pub payload_bytes_max: usize,
    pub concurrency: usize,
    pub concurrency_per_subscription: usize,
    pub connect_timeout_seconds: u64,
    pub timeout_seconds: u64,
    pub answer_bytes_max: usize,
    pub retry_schedule_seconds: Vec<u32>,
    pub retry_jitter: f64,
    pub retry_after_seconds_max: u32,
    pub circuit_failures: u32,
    pub circuit_pause_seconds: u32,
    pub circuit_pause_seconds_max: u32,
    pub secret_overlap_hours: u32,
    pub stalled_check_minutes: u32,
    pub keep_days: u32,
}

impl OutboundSettings {
    pub fn guard(&self) -> Guard {
        Guard {
            networks_allowed: self.private_networks_allowed.clone(),
            is_http_allowed: !self.https_required,
        }
    }

    pub fn courier_limits(&self) -> CourierLimits {
        CourierLimits {
            connect_timeout: Duration::from_secs(self.connect_timeout_seconds),
            timeout: Duration::from_secs(self.timeout_seconds),
            answer_bytes_max: self.answer_bytes_max,
        }
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            schedule: self.retry_schedule(),
            circuit: self.circuit(),
            payload_bytes_max: self.payload_bytes_max,
            concurrency: self.concurrency,
            concurrency_per_subscription: self.concurrency_per_subscription,
        }
    }

    pub fn retry_schedule(&self) -> RetrySchedule {
        RetrySchedule {
            waits: self
                .retry_schedule_seconds
                .iter()
                .copied()
                .map(seconds)
                .collect(),
            jitter: self.retry_jitter,
            retry_after_max: seconds(self.retry_after_seconds_max),
        }
    }

    pub fn circuit(&self) -> CircuitSettings {
        CircuitSettings {
            failures_max: self.circuit_failures,
            pause: seconds(self.circuit_pause_seconds),
            pause_max: seconds(self.circuit_pause_seconds_max),
        }
    }

    pub fn secret_overlap(&self) -> SignedDuration {
        SignedDuration::from_hours(self.secret_overlap_hours.into())
    }

    /// What cannot be meant, as `outbound.concurrency must ...`.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("subscriptions_max", u64::from(self.subscriptions_max)),
            ("queue_max", self.queue_max.into()),
            ("payload_bytes_max", self.payload_bytes_max as u64),
            ("concurrency", self.concurrency as u64),
            (
                "concurrency_per_subscription",
                self.concurrency_per_subscription as u64,
            ),
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("timeout_seconds", self.timeout_seconds),
            ("circuit_failures", self.circuit_failures.into()),
            ("circuit_pause_seconds", self.circuit_pause_seconds.into()),
        ] {
            if value == 0 {
                return Err(format!("outbound.{key} must be at least 1"));
            }
        }
        if !(0.0..=1.0).contains(&self.retry_jitter) {
            return Err("outbound.retry_jitter must be from 0 to 1".into());
        }
        Ok(())
    }
}

fn seconds(seconds: u32) -> SignedDuration {
    SignedDuration::from_secs(seconds.into())
}
