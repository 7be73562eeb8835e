use std::path::PathBuf;

use jiff::Timestamp;

use super::bar::Bar;
use super::files::{self, FileArgs, parse_moment};
use super::report;
use crate::app::{lock_store, open_book};
use crate::config::ConfigArgs;
use crate::domain::Deal;
use crate::error::Result;
use crate::ingest::{Mapping, Purpose};
use crate::jobs::{self, TrainRequest};
use crate::model::Model;
use crate::report::ModelReport;
use crate::training::{TrainOptions, train};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Closed deals: CSV or NDJSON, also gzipped. Without files: the deals in the store
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    reading: FileArgs,
    /// Write the guessed mapping here, to be mended and given with --mapping
    #[arg(long, value_name = "MAPPING.toml", requires = "files")]
    save_mapping: Option<PathBuf>,
    /// Know nothing later than this (a time or a date) [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    as_of: Option<Timestamp>,
    /// Where the model goes [default: model.json; the store when training on it]
    #[arg(long, value_name = "MODEL.json")]
    out: Option<PathBuf>,
    /// Also write the report as JSON
    #[arg(long, value_name = "REPORT.json")]
    report: Option<PathBuf>,
    /// Print the report as JSON in place of text
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.files.is_empty() {
        return super::runtime()?.block_on(args.train_on_store());
    }
    let now = Timestamp::now();
    let options = args.reading.options(Purpose::Train, now)?;
    let read = files::read(&args.files, &options)?;
    if let Some(path) = &args.save_mapping {
        files::write_file(path, &read.mapping.to_toml()?)?;
        eprintln!("mapping: {}", path.display());
    }
    let model = args.train(&read.deals, read.mapping, now)?;
    let path = args.out.clone().unwrap_or_else(|| "model.json".into());
    files::write_file(&path, &model.to_json())?;
    args.tell(&model)?;
    eprintln!("model: {}", path.display());
    Ok(())
}

impl Args {
    /// As `POST /v1/models` does.
    async fn train_on_store(self) -> Result<()> {
        let config = self.settings.load()?;
        let mapping = self.reading.mapping.as_deref();
        let request = TrainRequest {
            as_of: self.as_of,
            mapping: mapping.map(Mapping::load).transpose()?,
            ..TrainRequest::default()
        };
        let _lock = lock_store(&config)?;
        let book = open_book(&config).await?;
        let bar = Bar::new();
        let trained = jobs::train(&book, request, None, move |progress| bar.show(progress)).await?;
        let model = book.store().model(&trained.model_version).await?;
        if let Some(path) = &self.out {
            files::write_file(path, &model.to_json())?;
        }
        self.tell(&model)?;
        if let Some(challenge) = &trained.challenge {
            eprintln!("{}", challenge.verdict);
        }
        let advice = match (trained.is_active, &trained.challenge) {
            (true, None) => "is active, being the only one".to_owned(),
            (true, Some(_)) => "is active".to_owned(),
            (false, _) => format!("waits for `dealrank models activate {}`", model.version),
        };
        eprintln!("model: {} {advice}", model.version);
        Ok(())
    }

    fn train(&self, deals: &[Deal], mapping: Mapping, now: Timestamp) -> Result<Model> {
        let options = TrainOptions {
            as_of: self.as_of.unwrap_or(now),
            trained_at: now,
            mapping,
            exchange: self.settings.load()?.exchange,
        };
        let bar = Bar::new();
        train(deals, &options, &|progress| bar.show(progress))
    }

    fn tell(&self, model: &Model) -> Result<()> {
        let json = report::json(&ModelReport::of(model))?;
        if let Some(path) = &self.report {
            files::write_file(path, &json)?;
        }
        super::out(&if self.json {
            json
        } else {
            report::of_model(model)
        })
    }
}
