use std::path::PathBuf;

use jiff::Timestamp;

use super::bar::Bar;
use super::files::{self, FileArgs, parse_moment};
use super::report;
use super::score::load_model;
use crate::app::{lock_store, open_book};
use crate::config::ConfigArgs;
use crate::domain::Deal;
use crate::error::Result;
use crate::ingest::Purpose;
use crate::jobs::{self, RecalibratedModel};
use crate::model::Model;
use crate::scoring::Scorer;
use crate::training::recalibration::{RecalibrateOptions, recalibrate};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Deals, those included that the model has seen: CSV or NDJSON, also gzipped. Without files: the
    /// deals in the store
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reading: FileArgs,
    /// The model [default: the champion of the store]
    #[arg(long, value_name = "MODEL.json", requires = "files")]
    model: Option<PathBuf>,
    /// Know nothing later than this (a time or a date) [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_moment, requires = "files")]
    as_of: Option<Timestamp>,
    /// Where the shifted model goes [default: recalibrated.json; the store when working on it]
    #[arg(long, value_name = "MODEL.json")]
    out: Option<PathBuf>,
    /// Apply the shift even if it is within chance, or of no help
    #[arg(long)]
    force: bool,
    /// Print what was found as JSON in place of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.files.is_empty() {
        return super::runtime()?.block_on(args.on_store());
    }
    let now = Timestamp::now();
    let config = args.settings.load()?;
    let model = load_model(args.model.as_deref(), &config)?;
    let options = args.reading.options_for(&model, Purpose::Train, now)?;
    let read = files::read(&args.files, &options)?;
    tell_if_none_is_newer(&model, &read.deals);
    let from_version = model.version.clone();
    let scorer = Scorer::new(model.into(), config.exchange.into())?;
    let options = RecalibrateOptions {
        at: args.as_of.unwrap_or(now),
        or_all: true,
        force: args.force,
    };
    let (model, recalibration) = recalibrate(&scorer, &read.deals, options)?;
    let path = args.out.clone().unwrap_or("recalibrated.json".into());
    files::write_file(&path, &model.to_json())?;
    args.tell(&RecalibratedModel {
        model_version: model.version,
        from_version,
        recalibration,
    })?;
    eprintln!("model: {}", path.display());
    Ok(())
}

impl Args {
    /// As `POST /v1/models/active/recalibrate` does.
    async fn on_store(self) -> Result<()> {
        let config = self.settings.load()?;
        let _lock = lock_store(&config)?;
        let book = open_book(&config).await?;
        let champion = book.store().champion().await?.version;
        let bar = Bar::new();
        let on_progress = |progress| bar.show(progress);
        let shifted = jobs::recalibrate(&book, &champion, self.force, on_progress).await?;
        drop(bar);
        if let Some(path) = &self.out {
            let model = book.store().model(&shifted.model_version).await?;
            files::write_file(path, &model.to_json())?;
        }
        self.tell(&shifted)?;
        let version = &shifted.model_version;
        eprintln!("model: {version} waits for `dealrank models activate {version}`");
        Ok(())
    }

    fn tell(&self, shifted: &RecalibratedModel) -> Result<()> {
        super::out(&if self.json {
            report::json(shifted)?
        } else {
            format!(
                "{}\n{} is {} with log-odds shifted by {:+.3}\n",
                shifted.recalibration.summary,
                shifted.model_version,
                shifted.from_version,
                shifted.recalibration.shift
            )
        })
    }
}

/// Deals that the model may have learned from say little of what it does not know.
fn tell_if_none_is_newer(model: &Model, deals: &[Deal]) {
    let known_until = model.known_until();
    let is_newer = |deal: &Deal| deal.closed_at.is_some_and(|at| at > known_until);
    if !deals.iter().any(is_newer) {
        eprintln!(
            "note: none of these deals is known to have ended after the model was trained (as of {known_until}): all of them count; if it learned from them, they say nothing new"
        );
    }
}
