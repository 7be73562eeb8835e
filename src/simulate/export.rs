//! Writes a simulated pipeline the way a CRM would hand it out.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::{Compression, GzBuilder};

use super::opening::ATTRIBUTES;
use super::{Settings, SimulatedDeal, extra, pipeline};
use crate::domain::probability::PROBABILITY_MIN;
use crate::domain::{AttributeValue, Deal};
use crate::error::Result;
use crate::ingest::document;
use crate::progress::{OnProgress, Progress};

/// Deals between two reports of progress.
const PROGRESS_STEP: u64 = 1000;

/// Columns of the CSV export before the attributes.
const COLUMNS: [&str; 11] = [
    "Deal ID",
    "Deal Name",
    "Pipeline",
    "Stage",
    "Deal Owner",
    "Amount",
    "Currency",
    "Create Date",
    "Expected Close Date",
    "Close Date",
    "Priority",
];

/// Which files to write, and where.
#[derive(Debug, Clone)]
pub struct Files {
    /// Made if it is not there.
    pub dir: PathBuf,
    /// Also write `truth.csv`.
    pub with_truth: bool,
    /// Write `deals.ndjson.gz` in place of `deals.ndjson`.
    pub gzip: bool,
}

/// Writes `deals.ndjson`, `deals.csv` and, if wanted, `truth.csv`; returns their paths.
///
/// Deals are written as they are drawn; memory does not grow with their number.
///
/// # Errors
/// When a setting is out of range or a file cannot be written.
pub fn export(settings: &Settings, files: &Files, on_progress: OnProgress) -> Result<Vec<PathBuf>> {
    let deals = pipeline(settings)?;
    std::fs::create_dir_all(&files.dir)
        .with_context(|| format!("cannot make {}", files.dir.display()))?;
    let mut documents = Documents::create(&files.dir, files.gzip)?;
    let mut table = Table::create(&files.dir, "deals.csv", &header(settings))?;
    let mut truth = files
        .with_truth
        .then(|| {
            let header = ["deal_id", "p_at_creation", "p_now"].map(str::to_owned);
            Table::create(&files.dir, "truth.csv", &header)
        })
        .transpose()?;
    let mut done = 0;
    for simulated in deals {
        documents.write(&simulated.deal)?;
        table.write(&row(&simulated.deal, settings))?;
        if let Some(truth) = &mut truth {
            truth.write(&truth_row(&simulated))?;
        }
        done += 1;
        if done % PROGRESS_STEP == 0 || done == settings.deals_count {
            on_progress(Progress {
                phase: "deals",
                done,
                total: settings.deals_count,
            });
        }
    }
    let mut paths = vec![documents.finish()?, table.finish()?];
    if let Some(truth) = truth {
        paths.push(truth.finish()?);
    }
    Ok(paths)
}

/// Deal documents, one a line.
struct Documents {
    path: PathBuf,
    sink: Sink,
}

enum Sink {
    Plain(BufWriter<File>),
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
}

impl Documents {
    fn create(dir: &Path, gzip: bool) -> anyhow::Result<Self> {
        let name = if gzip {
            "deals.ndjson.gz"
        } else {
            "deals.ndjson"
        };
        let path = dir.join(name);
        let file = create(&path)?;
        let sink = if gzip {
            // No time and no name in the header: the same deals give the same bytes.
            Sink::Gzip(GzBuilder::new().mtime(0).write(file, Compression::best()))
        } else {
            Sink::Plain(file)
        };
        Ok(Self { path, sink })
    }

    fn write(&mut self, deal: &Deal) -> anyhow::Result<()> {
        let writer: &mut dyn Write = match &mut self.sink {
            Sink::Plain(file) => file,
            Sink::Gzip(encoder) => encoder,
        };
        let mut line = document::write(deal).to_string();
        line.push('\n');
        writer
            .write_all(line.as_bytes())
            .with_context(|| cannot_write(&self.path))
    }

    fn finish(self) -> anyhow::Result<PathBuf> {
        match self.sink {
            Sink::Plain(mut file) => file.flush(),
            Sink::Gzip(encoder) => encoder.finish().and_then(|mut file| file.flush()),
        }
        .with_context(|| cannot_write(&self.path))?;
        Ok(self.path)
    }
}

/// A CSV file.
struct Table {
    path: PathBuf,
    writer: csv::Writer<BufWriter<File>>,
}

impl Table {
    fn create(dir: &Path, name: &str, header: &[String]) -> anyhow::Result<Self> {
        let path = dir.join(name);
        let writer = csv::Writer::from_writer(create(&path)?);
        let mut table = Self { path, writer };
        table.write(header)?;
        Ok(table)
    }

    fn write(&mut self, row: &[String]) -> anyhow::Result<()> {
        self.writer
            .write_record(row)
            .with_context(|| cannot_write(&self.path))
    }

    fn finish(mut self) -> anyhow::Result<PathBuf> {
        self.writer
            .flush()
            .with_context(|| cannot_write(&self.path))?;
        Ok(self.path)
    }
}

fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| cannot_write(path))?;
    Ok(BufWriter::with_capacity(1 << 16, file))
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

fn attribute_names(settings: &Settings) -> impl Iterator<Item = String> {
    let extra = (0..settings.extra_columns).map(extra::name);
    ATTRIBUTES.into_iter().map(str::to_owned).chain(extra)
}

fn header(settings: &Settings) -> Vec<String> {
    COLUMNS
        .into_iter()
        .map(str::to_owned)
        .chain(attribute_names(settings))
        .collect()
}

fn row(deal: &Deal, settings: &Settings) -> Vec<String> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let time = |at: Option<jiff::Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    let mut row = vec![
        deal.id.to_string(),
        text(&deal.name),
        text(&deal.pipeline),
        text(&deal.stage),
        text(&deal.owner),
        deal.amount.map(|a| a.to_string()).unwrap_or_default(),
        deal.currency.map(|c| c.to_string()).unwrap_or_default(),
        time(deal.created_at),
        time(deal.expected_close_at),
        time(deal.closed_at),
        text(&deal.priority),
    ];
    row.extend(attribute_names(settings).map(|name| cell(deal.attributes.get(&name))));
    row
}

/// An attribute as a CRM exports it; blank if there is none.
fn cell(value: Option<&AttributeValue>) -> String {
    match value {
        None | Some(AttributeValue::Null) => String::new(),
        Some(AttributeValue::Bool(bool)) => bool.to_string(),
        Some(AttributeValue::Number(number)) => number.to_string(),
        Some(AttributeValue::Text(text)) => text.clone(),
    }
}

fn truth_row(simulated: &SimulatedDeal) -> [String; 3] {
    // As scores are: a truth of 0 would have no log-odds.
    let text = |p: f64| format!("{:.6}", p.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN));
    [
        simulated.deal.id.to_string(),
        text(simulated.truth.p_at_creation),
        simulated.truth.p_now.map(text).unwrap_or_default(),
    ]
}
