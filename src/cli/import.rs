use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Value, json};

use super::bar::Bar;
use super::files;
use super::out;
use crate::app::{lock_store, now, open_book};
use crate::config::{Config, ConfigArgs};
use crate::error::{Error, Result};
use crate::ingest::Mapping;
use crate::jobs::{self, ImportReport, ImportTask};
use crate::nodes::Lease;
use crate::store::{node_lease, random_id};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Deals: CSV or NDJSON, also gzipped
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Which column is which field (TOML); guessed without it
    #[arg(long, value_name = "MAPPING.toml")]
    mapping: Option<PathBuf>,
    /// Events of the deals (CSV), mapped by the same mapping
    #[arg(long, value_name = "EVENTS.csv")]
    events: Option<PathBuf>,
    /// Stop at the first row that cannot be read
    #[arg(long)]
    strict: bool,
    /// What became of it, as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    super::runtime()?.block_on(args.run())
}

impl Args {
    async fn run(self) -> Result<()> {
        let config = self.settings.load()?;
        let mapping = self.mapping.as_deref().map(Mapping::load).transpose()?;
        let folder = self.mapping.as_ref().and_then(|path| path.parent());
        let _lock = lock_store(&config)?;
        let book = open_book(&config).await?;
        for file in &self.files {
            let task = ImportTask {
                mapping: mapping.clone(),
                folder: folder.map(PathBuf::from),
                events: self.events.clone(),
                is_strict: self.strict,
                ..ImportTask::new(file.clone(), file.display().to_string())
            };
            let (report, rejects) = import(&book, &config, task).await?;
            if self.json {
                let report = json!({"report": report, "rejects_file": rejects});
                out(&format!("{report}\n"))?;
            } else {
                print_report(&report, rejects.as_ref())?;
            }
        }
        Ok(())
    }
}

/// Imports a file as a job of the store, where a later training finds the mapping.
async fn import(
    book: &crate::book::Book,
    config: &Config,
    task: ImportTask,
) -> Result<(ImportReport, Option<PathBuf>)> {
    let store = book.store();
    // While it lasts nobody takes the job for interrupted.
    let node = random_id();
    let alive = Lease::compete(store.clone(), node_lease(&node), &*node);
    alive.acquired().await;
    let job = store.create_job("import", &node, None, now()).await?;
    store.start_job(&job.id, now()).await?;
    let rejects = jobs::rejects_path(&config.rejects_dir(), &job.id);
    let bar = Bar::new();
    let imported = jobs::import(book, task, rejects.clone(), move |progress| {
        bar.show(progress);
    })
    .await;
    let outcome: Result<Value, String> = match &imported {
        Ok(report) => Ok(serde_json::to_value(report).context("cannot write the report")?),
        Err(error) => Err(error.to_string()),
    };
    store.finish_job(&job.id, outcome, now()).await?;
    alive.give_back().await?;
    Ok((imported?, rejects.exists().then_some(rejects)))
}

fn print_report(report: &ImportReport, rejects: Option<&PathBuf>) -> Result<()> {
    out(&format!(
        "{}: {} rows, {} deals stored ({} new, {} changed, {} as before), {} rejected\n",
        report.file,
        report.read,
        report.stored,
        report.created,
        report.changed,
        report.unchanged,
        report.rejected
    ))?;
    if let (Some(lines), Some(mapping)) = (&report.guessed, &report.mapping) {
        files::tell_guess(lines, mapping);
    }
    files::tell_notices(&report.notices);
    files::tell_rejects(report.rejects.iter().map(|row| Error::Input {
        file: report.file.clone(),
        line: row.line,
        column: row.column.clone(),
        reason: row.reason.clone(),
    }));
    if let Some(path) = rejects {
        files::tell_rejects_file(path);
    }
    Ok(())
}
