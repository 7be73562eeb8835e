use super::bar::Bar;
use super::out;
use crate::app::lock_store;
use crate::config::ConfigArgs;
use crate::error::{Error, Result};
use crate::store::{DatabaseUrl, StoreLocation, move_to};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// An empty database: postgres://user:password@host:port/database
    #[arg(
        long,
        value_name = "URL",
        env = "DEALRANK_MIGRATE_TO",
        hide_env_values = true
    )]
    to: DatabaseUrl,
    /// What was moved, as JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> Result<()> {
    let config = args.settings.load()?;
    let StoreLocation::File(source) = config.store_location() else {
        return Err(Error::Unusable(
            "the store is in PostgreSQL already; without `database_url` the embedded one is moved"
                .into(),
        ));
    };
    if !source.exists() {
        let source = source.display();
        return Err(Error::Unusable(format!("there is no store at {source}")));
    }
    let _lock = lock_store(&config)?;
    let bar = Bar::new();
    let on_progress = |progress| bar.show(progress);
    let connections_max = config.database_connections_max;
    let moved = super::runtime()?.block_on(async {
        let moved = move_to(&source, &args.to, connections_max, &on_progress).await?;
        super::cache::leave(&config).await;
        Ok::<_, Error>(moved)
    })?;
    drop(bar);
    if args.json {
        return out(&format!("{}\n", serde_json::json!(moved)));
    }
    for table in moved.iter().filter(|table| table.rows > 0) {
        out(&format!("{}: {} rows\n", table.table, table.rows))?;
    }
    eprintln!(
        "everything of {} is in {}: set `database_url`, and keep the file until you are sure",
        source.display(),
        args.to
    );
    Ok(())
}
