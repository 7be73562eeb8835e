//! The suite at the edges: the command line and HTTP, with real servers on free ports.

mod ingest;
mod quality;
mod redis;
mod shared;
mod simulate;
mod store;
mod world;
