use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use jiff::Timestamp;

use super::bar::Bar;
use super::files::{self, FileArgs, parse_moment};
use crate::app::open_store;
use crate::config::{Config, ConfigArgs};
use crate::domain::Deal;
use crate::error::{Error, Result};
use crate::ingest::{DealsReader, Purpose, ReadOptions, RejectsWriter, rejects_path};
use crate::model::Model;
use crate::progress::Progress;
use crate::scoring::{Score, Scorer};
use crate::store::StoreLocation;

/// The columns of the result.
const HEADER: [&str; 11] = [
    "deal_id",
    "win_probability",
    "interval_low",
    "interval_high",
    "score",
    "grade",
    "expected_value",
    "currency",
    "reasons",
    "warnings",
    "model_version",
];
/// The bar moves every so many rows.
const PROGRESS_ROWS: u64 = 1_000;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Deals: CSV or NDJSON, also gzipped. The outcome is never read
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The model [default: the champion of the store]
    #[arg(long, value_name = "MODEL.json")]
    model: Option<PathBuf>,
    #[command(flatten)]
    reading: FileArgs,
    /// Score deals as known at this time (a time, a date, or `created`: each at its own creation)
    /// [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_as_of)]
    as_of: Option<AsOf>,
    /// Where the CSV goes [default: standard output]
    #[arg(short, long, value_name = "OUT.csv")]
    out: Option<PathBuf>,
}

/// The moment of scoring.
#[derive(Debug, Clone, Copy)]
enum AsOf {
    Created,
    At(Timestamp),
}

fn parse_as_of(text: &str) -> Result<AsOf, String> {
    match text {
        "created" => Ok(AsOf::Created),
        time => parse_moment(time).map(AsOf::At),
    }
}

pub fn run(args: Args) -> Result<()> {
    let now = Timestamp::now();
    let config = args.settings.load()?;
    let model = load_model(args.model.as_deref(), &config)?;
    let options = args.reading.options_for(&model, Purpose::Score, now)?;
    let scorer = Scorer::new(model.into(), Arc::new(config.exchange))?;
    let as_of = args.as_of.unwrap_or(AsOf::At(now));
    match &args.out {
        None => {
            let out = std::io::BufWriter::new(std::io::stdout().lock());
            match args.score(&scorer, &options, as_of, out) {
                // Whoever reads has seen enough.
                Err(Error::Internal(cause)) if super::is_broken_pipe(&cause) => Ok(()),
                ended => ended,
            }
        }
        Some(path) => {
            let failed = |e: std::io::Error| {
                Error::Malformed(format!("cannot write {}: {e}", path.display()))
            };
            let out = std::fs::File::create(path).map_err(failed)?;
            args.score(&scorer, &options, as_of, std::io::BufWriter::new(out))
        }
    }
}

/// The model of a file, or the champion of the store.
pub fn load_model(path: Option<&Path>, config: &Config) -> Result<Model> {
    let Some(path) = path else {
        return champion(config);
    };
    let named = |reason: String| Error::Malformed(format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| named(e.to_string()))?;
    Model::from_json(&text).map_err(|e| named(e.to_string()))
}

/// Read beside a service that may be running on the same store.
fn champion(config: &Config) -> Result<Model> {
    let location = config.store_location();
    if let StoreLocation::File(path) = &location
        && !path.exists()
    {
        return Err(Error::NoModel);
    }
    super::runtime()?.block_on(async {
        let store = open_store(config).await?;
        let model = store.champion().await;
        store.close().await;
        model
    })
}

impl Args {
    fn score(
        &self,
        scorer: &Scorer,
        options: &ReadOptions,
        as_of: AsOf,
        out: impl Write,
    ) -> Result<()> {
        let mut reader = DealsReader::open(&self.file, options)?;
        if let Some(lines) = reader.guess() {
            files::tell_guess(lines, reader.mapping());
        }
        let mut rejects = RejectsWriter::new(rejects_path(&self.file), reader.headers());
        let mut csv = csv::Writer::from_writer(out);
        csv.write_record(HEADER)
            .context("cannot write the scores")?;
        let (mut scored, mut rejected) = (0u64, 0u64);
        let mut warned = BTreeMap::<String, (u64, String)>::new();
        let bar = Bar::new();
        while let Some(row) = reader.next() {
            match row? {
                Ok(deal) => {
                    let score = scorer.score(&deal, moment(&deal, as_of, options.now));
                    csv.write_record(record(&score))
                        .context("cannot write the scores")?;
                    for warning in score.warnings {
                        let code = warned.entry(warning.code);
                        code.or_insert((0, warning.detail)).0 += 1;
                    }
                    scored += 1;
                }
                Err(reject) if options.is_strict => {
                    return Err(reject.into_error(reader.name()));
                }
                Err(reject) => {
                    rejects.write(&reject)?;
                    rejected += 1;
                }
            }
            if (scored + rejected).is_multiple_of(PROGRESS_ROWS) {
                bar.show(Progress {
                    phase: "scoring",
                    done: reader.size().done(),
                    total: reader.size().total,
                });
            }
        }
        csv.flush().context("cannot write the scores")?;
        drop(bar);
        files::tell_notices(&reader.notices());
        for (code, (count, first)) in warned {
            eprintln!("warning {code}, {count} times; the first: {first}");
        }
        eprintln!("{scored} deals scored, {rejected} rows rejected");
        if let Some(path) = rejects.finish()? {
            files::tell_rejects_file(&path);
        }
        Ok(())
    }
}

/// A deal whose creation is unknown is scored now, whatever is asked.
fn moment(deal: &Deal, as_of: AsOf, now: Timestamp) -> Timestamp {
    match as_of {
        AsOf::At(at) => at,
        AsOf::Created => deal.created_at.unwrap_or(now),
    }
}

fn record(score: &Score) -> [String; 11] {
    let reasons: Vec<String> = score
        .reasons
        .iter()
        .map(|r| format!("{} {:+.3}", r.feature, r.contribution))
        .collect();
    let warnings: Vec<String> = score
        .warnings
        .iter()
        .map(|w| match &w.field {
            Some(field) => format!("{}({field})", w.code),
            None => w.code.clone(),
        })
        .collect();
    [
        score.deal_id.to_string(),
        score.win_probability.get().to_string(),
        score.interval.low.get().to_string(),
        score.interval.high.get().to_string(),
        score.score.to_string(),
        score.grade.as_str().to_owned(),
        score
            .expected_value
            .map_or(String::new(), |v| v.to_string()),
        score.base_currency.to_string(),
        reasons.join("; "),
        warnings.join("; "),
        score.model_version.clone(),
    ]
}
