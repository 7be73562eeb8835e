use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::Context;

use super::is_broken_pipe;
use crate::app::{now, open_book};
use crate::book::Book;
use crate::config::ConfigArgs;
use crate::error::{Error, Result};
use crate::ingest::document;
use crate::ranking::{RankingQuery, RankingRow};
use crate::store::Which;

const PAGE_DEALS: u32 = 1000;
const PAGE_ROWS: u32 = 200;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    #[command(subcommand)]
    what: What,
    /// Write to a file instead of standard output
    #[arg(short, long, value_name = "FILE", global = true)]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// All deals, a document a line (NDJSON)
    Deals,
    /// Open deals in order of worth (CSV): a rep's queue, or everybody's
    Queue {
        #[arg(long)]
        owner: Option<String>,
    },
    /// A model as JSON
    Model {
        /// The active one by default
        #[arg(id = "model", value_name = "VERSION")]
        version: Option<String>,
    },
}

pub fn run(args: Args) -> Result<()> {
    super::runtime()?.block_on(async {
        let config = args.settings.load()?;
        let book = open_book(&config).await?;
        let mut out: Box<dyn Write> = match &args.out {
            Some(path) => {
                let failed = || format!("cannot write {}", path.display());
                Box::new(BufWriter::new(File::create(path).with_context(failed)?))
            }
            None => Box::new(BufWriter::new(io::stdout())),
        };
        let written = match args.what {
            What::Deals => export_deals(&book, &mut out).await,
            What::Queue { owner } => export_queue(&book, owner, &mut out).await,
            What::Model { version } => export_model(&book, version, &mut out).await,
        };
        let flushed = written.and_then(|()| Ok(out.flush().context("cannot write")?));
        match flushed {
            // Whoever reads has seen enough.
            Err(Error::Internal(cause)) if args.out.is_none() && is_broken_pipe(&cause) => Ok(()),
            ended => ended,
        }
    })
}

async fn export_deals(book: &Book, out: &mut dyn Write) -> Result<()> {
    let mut after = None;
    loop {
        let page = book
            .store()
            .deals(Which::All, after.as_ref(), PAGE_DEALS)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.deal.id.clone());
        for stored in &page {
            writeln!(out, "{}", document::write(&stored.deal)).context("cannot write")?;
        }
    }
}

async fn export_model(book: &Book, version: Option<String>, out: &mut dyn Write) -> Result<()> {
    let version = match version {
        Some(version) => version,
        None => super::models::active(&book.store().models().await?)?.to_owned(),
    };
    let model = book.store().model(&version).await?;
    Ok(writeln!(out, "{}", model.to_json()).context("cannot write")?)
}

const QUEUE_COLUMNS: [&str; 13] = [
    "rank",
    "deal_id",
    "name",
    "owner",
    "pipeline",
    "stage",
    "amount",
    "currency",
    "win_probability",
    "expected_value",
    "base_currency",
    "grade",
    "reasons",
];

async fn export_queue(book: &Book, owner: Option<String>, out: &mut dyn Write) -> Result<()> {
    let query = RankingQuery {
        owner,
        limit: PAGE_ROWS,
        ..RankingQuery::default()
    };
    let mut rows = csv::Writer::from_writer(out);
    rows.write_record(QUEUE_COLUMNS).map_err(unwritable)?;
    let now = now();
    let mut cursor = None;
    let mut rank = 0;
    loop {
        let page = book.ranking(&query, cursor.as_deref(), now).await?;
        for row in page.rows {
            rank += 1;
            rows.write_record(queue_row(rank, row))
                .map_err(unwritable)?;
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(rows.flush().context("cannot write")?);
        }
    }
}

fn unwritable(error: csv::Error) -> Error {
    Error::Internal(anyhow::Error::from(error).context("cannot write"))
}

fn queue_row(rank: u64, row: RankingRow) -> [String; QUEUE_COLUMNS.len()] {
    let RankingRow { deal, score, .. } = row;
    let reasons: Vec<&str> = score.reasons.iter().map(|r| r.text.as_str()).collect();
    [
        rank.to_string(),
        deal.id.to_string(),
        deal.name.unwrap_or_default(),
        deal.owner.unwrap_or_default(),
        deal.pipeline.unwrap_or_default(),
        deal.stage.unwrap_or_default(),
        deal.amount.map(|a| a.to_string()).unwrap_or_default(),
        deal.currency.map(|c| c.to_string()).unwrap_or_default(),
        score.win_probability.get().to_string(),
        score
            .expected_value
            .map(|v| v.to_string())
            .unwrap_or_default(),
        score.base_currency.to_string(),
        score.grade.as_str().to_owned(),
        reasons.join("; "),
    ]
}
