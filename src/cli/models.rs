use serde_json::json;

use super::bar::Bar;
use super::out;
use crate::app::{lock_store, now, open_book_without_champion, open_store};
use crate::config::{Config, ConfigArgs};
use crate::error::{Error, Result};
use crate::store::ModelSummary;

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

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the models, newest first (the default)
    List,
    /// Print a model
    Show {
        #[arg(id = "model", value_name = "VERSION")]
        version: String,
    },
    /// Make a model the champion: scores every open deal with it
    Activate {
        #[arg(id = "model", value_name = "VERSION")]
        version: String,
    },
    /// Go back to the champion before the present one; a second time leads one further back
    Rollback,
}

pub fn run(args: Args) -> Result<()> {
    super::runtime()?.block_on(args.run())
}

impl Args {
    async fn run(self) -> Result<()> {
        let config = self.settings.load()?;
        match self.action.unwrap_or(Action::List) {
            Action::List => {
                let models = open_store(&config).await?.models().await?;
                out(&list(&models, self.json))?;
            }
            Action::Show { version } => {
                let model = open_store(&config).await?.model(&version).await?;
                out(&format!("{}\n", model.to_json()))?;
            }
            Action::Activate { version } => {
                activate(&config, Some(&version), self.json).await?;
            }
            Action::Rollback => activate(&config, None, self.json).await?,
        }
        Ok(())
    }
}

/// Activates a version, or the one before the present one.
async fn activate(config: &Config, version: Option<&str>, as_json: bool) -> Result<()> {
    let _lock = lock_store(config)?;
    let book = open_book_without_champion(config).await?;
    let bar = Bar::new();
    let on_progress = |progress| bar.show(progress);
    let activated = match version {
        Some(version) => book.activate(version, now(), &on_progress).await?,
        None => book.roll_back(now(), &on_progress).await?,
    };
    drop(bar);
    let (version, scored) = (&activated.model_version, activated.scored);
    out(&if as_json {
        format!("{}\n", json!(activated))
    } else {
        format!("{version} is active; {scored} open deals scored\n")
    })
}

fn list(models: &[ModelSummary], as_json: bool) -> String {
    if as_json {
        let models: Vec<_> = models
            .iter()
            .map(|model| {
                json!({
                    "version": model.version,
                    "origin": model.origin,
                    "created_at": model.created_at,
                    "is_active": model.is_active,
                    "is_challenger": model.is_challenger,
                    "challenge": model.challenge,
                })
            })
            .collect();
        return format!("{}\n", json!(models));
    }
    if models.is_empty() {
        eprintln!("there are no models yet: train one with `dealrank train`");
    }
    let line = |model: &ModelSummary| {
        let mark = if model.is_active { "*" } else { " " };
        let (version, created_at) = (&model.version, model.created_at);
        let verdict = match &model.challenge {
            Some(challenge) => format!("    {}\n", challenge.verdict),
            None => String::new(),
        };
        let waits = if model.is_challenger {
            ", waits to be activated"
        } else {
            ""
        };
        format!(
            "{mark} {version}  {created_at}  {}{waits}\n{verdict}",
            model.origin
        )
    };
    models.iter().map(line).collect()
}

/// The version that the store scores with.
pub(super) fn active(models: &[ModelSummary]) -> Result<&str> {
    let active = models.iter().find(|model| model.is_active);
    active
        .map(|model| model.version.as_str())
        .ok_or(Error::NoModel)
}
