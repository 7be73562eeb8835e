use serde_json::json;

use super::bar::Bar;
use super::out;
use crate::app::open_cache;
use crate::book::Compared;
use crate::config::{Config, ConfigArgs};
use crate::error::Result;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// JSON in place of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Action {
    /// Show what Redis has and whether it is the store's (the default)
    Status,
    /// Fill the rankings in Redis anew from the store; the service may run, and answers rightly meanwhile
    Rebuild,
    /// Remove the rankings from Redis; a service that runs fills them again
    Clear,
}

pub fn run(args: Args) -> Result<()> {
    super::runtime()?.block_on(args.run())
}

impl Args {
    async fn run(self) -> Result<()> {
        let cache = open_cache(&self.settings.load()?).await?;
        match self.action.unwrap_or(Action::Status) {
            Action::Status => out(&show(&cache.status().await?, self.json)),
            Action::Rebuild => {
                let bar = Bar::new();
                let rebuilt = cache.rebuild(&|progress| bar.show(progress)).await?;
                drop(bar);
                out(&show(&rebuilt, self.json))
            }
            Action::Clear => {
                let removed = cache.clear().await?;
                out(&match self.json {
                    true => format!("{}\n", json!({ "removed_epochs": removed })),
                    false => format!("{removed} fillings of the rankings removed\n"),
                })
            }
        }
    }
}

/// Removes the rankings of the present store from Redis, if there is one, before another store takes its
/// place: they are found by the id of the store, which nobody knows afterwards. Should it stay, who
/// serves it fills them again.
pub(super) async fn leave(config: &Config) {
    if config.redis_url.is_none() {
        return;
    }
    let left = async {
        let cache = open_cache(config).await?;
        let cleared = cache.clear().await;
        cache.close().await;
        cleared
    };
    if let Err(error) = left.await {
        eprintln!("rankings of the former store may remain in redis: {error}");
    }
}

fn show(compared: &Compared, as_json: bool) -> String {
    if as_json {
        return format!("{}\n", json!(compared));
    }
    let redis = &compared.redis;
    let Some(epoch) = &redis.epoch else {
        return format!("redis ({}): no rankings yet\n", redis.server);
    };
    let deals = redis.deals.max(1);
    let mut lines = vec![
        format!(
            "redis ({}): epoch {epoch}, as of number {} of {}{}",
            redis.server,
            redis.seq.unwrap_or_default(),
            compared.store_seq,
            if compared.is_up_to_date {
                ": up to date"
            } else {
                ""
            }
        ),
        format!(
            "{} deals in {} rankings, {} bytes ({} a deal)",
            redis.deals,
            redis.rankings,
            redis.bytes,
            redis.bytes / deals
        ),
    ];
    if redis.is_building {
        lines.push("rankings are being built".into());
    }
    if redis.generation != Some(compared.store_generation) {
        lines.push("they are of another model than the active one: the store answers".into());
    }
    if !redis.other_epochs.is_empty() {
        lines.push(format!(
            "other epochs, being filled or removed: {}",
            redis.other_epochs.join(" ")
        ));
    }
    lines.join("\n") + "\n"
}
