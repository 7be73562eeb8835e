//! The pages in a real browser: what people do there, and whether everybody can.

mod driver;
mod learning;
mod selling;
mod signing_in;

pub use driver::Browser;
