//! The suite at the edges: the command line and HTTP, with real servers on free ports.

mod bad_input;
mod deals;
mod files;
mod ingest;
mod jobs;
mod operations;
mod over_time;
mod parity;
mod quality;
mod recalibration;
mod redis;
mod report;
mod scores;
mod servers;
mod service;
mod shared;
mod simulate;
mod store;
mod world;
