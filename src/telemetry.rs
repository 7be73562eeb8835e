//! Logs and metrics of the process.

use std::io::IsTerminal;

use anyhow::Context;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::error::Result;

/// Seconds; from a score in memory to an upload of some size.
const DURATION_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0,
];

/// What is logged when nothing is said.
const LOGGED: &str = "info,actix_server=warn";

/// Starts logging to standard error. What is logged is said by DEALRANK_LOG, in the form of
/// `tracing_subscriber::EnvFilter`.
pub fn init_logs(format: LogFormat) {
    let filter = EnvFilter::try_from_env("DEALRANK_LOG").unwrap_or_else(|_| EnvFilter::new(LOGGED));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second call in the same process keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Starts collecting metrics; the handle renders them in the text format of Prometheus.
pub fn init_metrics() -> Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Full("http_request_duration_seconds".into()),
            &DURATION_BUCKETS,
        )
        .context("cannot set up metrics")?
        .build_recorder();
    let handle = recorder.handle();
    // In a process with two services (a test), the first one counts for both.
    let _ = metrics::set_global_recorder(recorder);
    Ok(handle)
}
