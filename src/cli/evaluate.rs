use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use super::files::{self, FileArgs, parse_moment};
use super::report;
use super::score::load_model;
use crate::config::ConfigArgs;
use crate::domain::Deal;
use crate::error::{Error, Result};
use crate::ingest::Purpose;
use crate::model::Model;
use crate::scoring::Scorer;
use crate::training::{evaluate, evaluate_at};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Closed deals that the model has not seen: CSV or NDJSON, also gzipped
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The model [default: the champion of the store]
    #[arg(long, value_name = "MODEL.json")]
    model: Option<PathBuf>,
    #[command(flatten)]
    reading: FileArgs,
    /// Judge the scores of this moment (a time or a date), on the deals that were open then
    /// [default: all closed deals, at the moments that training takes]
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    as_of: Option<Timestamp>,
    /// Also write the measures as JSON
    #[arg(long, value_name = "REPORT.json")]
    report: Option<PathBuf>,
    /// Print the measures as JSON in place of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let now = Timestamp::now();
    let config = args.settings.load()?;
    let model = load_model(args.model.as_deref(), &config)?;
    let options = args.reading.options_for(&model, Purpose::Train, now)?;
    let read = files::read(&args.files, &options)?;
    tell_if_seen(&model, &read.deals);
    let scorer = Scorer::new(model.into(), Arc::new(config.exchange))?;
    let evaluation = match args.as_of {
        Some(at) => evaluate_at(&scorer, &read.deals, at)?,
        None => evaluate(&scorer, &read.deals, now)?,
    };
    let evaluation =
        evaluation.ok_or_else(|| Error::Unusable("no closed deals to judge by".into()))?;
    let json = report::json(&evaluation)?;
    if let Some(path) = &args.report {
        files::write_file(path, &json)?;
    }
    super::out(&if args.json {
        json
    } else {
        report::of_evaluation(&evaluation)
    })
}

/// Deals that ended before the model's last day may have been learned from: judging by them flatters.
fn tell_if_seen(model: &Model, deals: &[Deal]) {
    let known_until = model.known_until();
    let ended = |deal: &&Deal| deal.closed_at.is_some_and(|at| at <= known_until);
    let known = deals.iter().filter(ended).count();
    if known > 0 {
        eprintln!(
            "note: {known} of these deals had ended when the model was trained (as of {known_until}); if it learned from them, these measures flatter it"
        );
    }
}
