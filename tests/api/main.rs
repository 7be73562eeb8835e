//! The suite at the edges: the command line and HTTP, with real servers on free ports.

mod ingest;
mod redis;
mod simulate;
mod store;
mod world;
