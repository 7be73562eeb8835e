//! What reps and managers want to know of a pipeline. Pure: facts of deals in, figures out; no clock, no
//! store. `GET /v1/insights/*` and `/v1/pipeline/*` answer with these figures, and the pages show them.
//!
//! - `facts`: what all insights ask of one deal. `survey`: all deals of a moment, with what past deals
//!   say about each stage. `settings`: what companies call things. `stats`: quantiles and intervals.
//! - `queue`: a rep's deals and how each stands. `attention`: deals that get too little or too much of
//!   it. `stalled`, `slipping`: deals that wait, deals whose close moves away.
//! - `summary`: the key metrics, with `flow` (stages) and `concentration`. `period`: days, months,
//!   quarters. `worth`: what open deals will bring.
//! - `forecast`: what will be won, by `simulation` from an `outlook`, which takes from `timing` when deals
//!   close. `coverage`: enough deals for the target? `capacity`: and enough people for the deals?
//! - `reps`: where coaching helps, with `beta` for the shares of small samples.

pub mod attention;
mod beta;
pub mod capacity;
pub mod concentration;
pub mod coverage;
pub mod facts;
pub mod flow;
pub mod forecast;
#[cfg(test)]
mod load;
mod outlook;
pub mod period;
pub mod queue;
pub mod reps;
#[cfg(test)]
mod samples;
pub mod settings;
mod simulation;
pub mod slipping;
pub mod stalled;
pub mod stats;
pub mod summary;
pub mod survey;
mod timing;
pub mod worth;

pub use facts::{DealFacts, Lens, Names, Past, Push, QuarterStart, Standing, Visit};
pub use settings::InsightSettings;
pub use survey::{DealRef, Note, Scope, StageBenchmark, StageLimit, Survey};
