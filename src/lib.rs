//! dealrank learns the probability that an open deal is won from a company's own closed deals, and
//! ranks pipelines by expected value.
//!
//! - [`domain`]: deals, snapshots, money, probabilities. Pure.
//! - [`ingest`]: CSV, NDJSON and JSON documents to deals.
//! - [`store`], [`ranking`], [`book`]: what is kept, in which order, and how a write goes through.
//! - [`app`], [`http`], [`pages`], [`jobs`]: the service; [`access`]: who may use it. [`config`],
//!   [`telemetry`], [`tls`]: its settings, logs, metrics, encryption.
//! - [`outbound`], [`crm`]: what is told to others, and scores in the CRM's fields;
//!   [`standard_webhooks`]: how messages are signed.
//! - [`inbound`]: what CRMs send, and what it says about deals.
//! - [`training`], [`model`], [`scoring`]: deals to a model, a model and a deal to a score. Pure.
//! - [`evaluation`], [`baseline`], [`report`]: how good a model is, and how far deals have moved. Pure.
//! - [`insight`]: what reps and managers want to know of a pipeline. Pure.
//! - [`simulate`]: a pipeline with known true probabilities, for demos and tests.

pub mod access;
pub mod app;
pub mod baseline;
pub mod book;
pub mod cli;
pub mod columns;
pub mod config;
pub mod crm;
pub mod crosses;
pub mod domain;
pub mod error;
pub mod evaluation;
pub mod features;
pub mod http;
pub mod inbound;
pub mod ingest;
pub mod insight;
pub mod jobs;
pub mod learning;
pub mod model;
pub mod nodes;
pub mod outbound;
pub mod pages;
pub mod parallel;
pub mod progress;
pub mod ranking;
pub mod report;
pub mod scoring;
pub mod simulate;
pub mod standard_webhooks;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod training;
pub mod uploads;
pub mod what_if;
