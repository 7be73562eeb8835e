use std::path::{Path, PathBuf};

use super::out;
use crate::app::lock_store;
use crate::config::{Config, ConfigArgs};
use crate::error::{Error, Result};
use crate::store::{Contents, StoreLocation, back_up, restore};

#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// The copy to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Take the place of an earlier copy
    #[arg(long)]
    force: bool,
    /// What the copy has, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    settings: ConfigArgs,
    /// A copy that `dealrank backup` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace the store that is there
    #[arg(long)]
    force: bool,
    /// What the store has, as JSON
    #[arg(long)]
    json: bool,
}

/// May run beside a service on the same store.
pub fn run_backup(args: BackupArgs) -> Result<()> {
    let database = embedded(&args.settings.load()?, "pg_dump --format=custom")?;
    if !database.exists() {
        return Err(Error::Unusable(format!(
            "there is no store at {}",
            database.display()
        )));
    }
    let is_same = |file: &Path| file.canonicalize().ok() == database.canonicalize().ok();
    if args.file.exists() && is_same(&args.file) {
        return Err(Error::Conflict(format!(
            "{} is the store itself: choose another name",
            args.file.display()
        )));
    }
    if args.file.exists() && !args.force {
        return Err(Error::Conflict(format!(
            "{} is there already: choose another name, or replace it with --force",
            args.file.display()
        )));
    }
    let contents = super::runtime()?.block_on(back_up(&database, &args.file))?;
    tell(&format!("{}", args.file.display()), &contents, args.json)
}

pub fn run_restore(args: RestoreArgs) -> Result<()> {
    let config = args.settings.load()?;
    let database = embedded(&config, "pg_restore")?;
    let _lock = lock_store(&config)?;
    if database.exists() && !args.force {
        return Err(Error::Conflict(format!(
            "{} is there already: --force replaces it with the copy",
            database.display()
        )));
    }
    let contents = super::runtime()?.block_on(async {
        if database.exists() {
            super::cache::leave(&config).await;
        }
        restore(&args.file, &database).await
    })?;
    tell(&format!("{}", database.display()), &contents, args.json)
}

/// The file of the embedded store; PostgreSQL has tools of its own.
fn embedded(config: &Config, tool: &str) -> Result<PathBuf> {
    match config.store_location() {
        StoreLocation::File(path) => Ok(path),
        StoreLocation::Postgres(url) => Err(Error::Unusable(format!(
            "the store is {url}: use PostgreSQL's own `{tool}`"
        ))),
    }
}

fn tell(file: &str, contents: &Contents, as_json: bool) -> Result<()> {
    let Contents {
        deals,
        events,
        models,
    } = contents;
    out(&if as_json {
        format!("{}\n", serde_json::json!(contents))
    } else {
        format!("{file}: {deals} deals, {events} events, {models} models\n")
    })
}
