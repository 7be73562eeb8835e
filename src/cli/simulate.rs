use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::RangedU64ValueParser;
use jiff::civil::Date;

use super::bar::Bar;
use crate::error::Result;
use crate::simulate::{DEALS_MAX, EXTRA_COLUMNS_MAX, Files, HISTORY_DAYS, Settings, export};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many deals to write
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..=DEALS_MAX))]
    deals: u64,
    /// The same seed gives the same bytes
    #[arg(long, value_name = "S")]
    seed: u64,
    /// Folder for deals.ndjson and deals.csv; made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Also write truth.csv: the true win probability of each deal at its creation and, while it is open, now
    #[arg(long)]
    with_truth: bool,
    /// Write deals.ndjson.gz in place of deals.ndjson
    #[arg(long)]
    gzip: bool,
    /// Further attributes (numbers, categories, booleans), most of them noise
    #[arg(long, value_name = "K", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=i64::from(EXTRA_COLUMNS_MAX)))]
    extra_columns: u32,
    /// The day on which the CRM is exported
    #[arg(long, value_name = "DATE", default_value = "2026-10-01")]
    as_of: Date,
    /// Length of the history
    #[arg(long, value_name = "D", default_value_t = 730, value_parser = clap::value_parser!(u32).range(i64::from(*HISTORY_DAYS.start())..=i64::from(*HISTORY_DAYS.end())))]
    days: u32,
}

pub fn run(args: Args) -> Result<()> {
    let settings = Settings {
        deals_count: args.deals,
        seed: args.seed,
        as_of: args.as_of,
        history_days: args.days,
        extra_columns: args.extra_columns,
    };
    let files = Files {
        dir: args.out,
        with_truth: args.with_truth,
        gzip: args.gzip,
    };
    let bar = Bar::new();
    let paths = export(&settings, &files, &|progress| bar.show(progress))?;
    drop(bar);
    for path in paths {
        writeln!(std::io::stdout(), "{}", path.display())
            .context("cannot write the list of files")?;
    }
    Ok(())
}
