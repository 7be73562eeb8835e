//! The suite at the edges: the command line and HTTP, with real servers on free ports.

mod bad_input;
mod cluster;
mod crm;
mod deals;
mod durability;
mod files;
mod ingest;
mod jobs;
mod moving;
mod nodes;
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
mod servers;
mod service;
mod shared;
mod simulate;
mod store;
mod world;
