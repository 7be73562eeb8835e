//! The suite at the edges: the command line and HTTP, with real servers on free ports.

mod bad_input;
mod crm;
mod deals;
mod files;
mod ingest;
mod jobs;
mod operations;
mod outbound;
mod over_time;
mod parity;
mod quality;
mod recalibration;
mod receiver;
mod redis;
mod report;
mod scores;
mod senders;
mod servers;
mod service;
mod shared;
mod simulate;
mod store;
mod webhook_fixtures;
mod webhooks;
mod world;
