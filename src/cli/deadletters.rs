use serde_json::{Value, json};

use super::out;
use crate::app::open_store;
use crate::config::ConfigArgs;
use crate::error::{Error, Result};
use crate::inbound::{SOURCES, Source};
use crate::store::{InboxEvent, Store};

/// Letters read in one go.
const PAGE: u32 = 500;

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
    /// List the events of CRMs that could not be applied, the oldest first (the default)
    List {
        /// Of one CRM only
        #[arg(long, value_name = "NAME", value_parser = source)]
        source: Option<Source>,
    },
    /// Print an event, with why it could not be applied
    Show {
        #[arg(value_name = "ID")]
        id: i64,
    },
    /// Apply events again: by the running service within a second, else at its next start
    Replay {
        #[arg(
            value_name = "ID",
            required_unless_present = "all",
            conflicts_with = "all"
        )]
        ids: Vec<i64>,
        /// All of them
        #[arg(long)]
        all: bool,
        /// With --all: of one CRM only
        #[arg(long, value_name = "NAME", value_parser = source, requires = "all")]
        source: Option<Source>,
    },
    /// Remove events for good
    Discard {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<i64>,
    },
}

fn source(name: &str) -> Result<Source, String> {
    let names = SOURCES.map(Source::as_str).join(", ");
    Source::parse(name).ok_or_else(|| format!("none of {names}"))
}

pub fn run(args: Args) -> Result<()> {
    super::runtime()?.block_on(args.run())
}

impl Args {
    async fn run(self) -> Result<()> {
        let config = self.settings.load()?;
        let store = open_store(&config).await?;
        match self.action.unwrap_or(Action::List { source: None }) {
            Action::List { source } => {
                let letters = all(&store, source).await?;
                out(&list(&letters, self.json))
            }
            Action::Show { id } => {
                let letter = store.dead_letter(id).await?;
                out(&show(&letter, self.json))
            }
            Action::Replay { ids, source, .. } => {
                let mut replayed = 0;
                if ids.is_empty() {
                    let source = source.map(Source::as_str);
                    replayed = store.replay_dead_letters(source).await?;
                }
                for id in ids {
                    store.replay_dead_letter(id).await?;
                    replayed += 1;
                }
                self::done("replayed", replayed, self.json)
            }
            Action::Discard { ids } => {
                let count = ids.len() as u64;
                for id in ids {
                    store.discard_dead_letter(id).await?;
                }
                self::done("discarded", count, self.json)
            }
        }
    }
}

async fn all(store: &Store, source: Option<Source>) -> Result<Vec<InboxEvent>> {
    let mut letters: Vec<InboxEvent> = Vec::new();
    loop {
        let after = letters.last().map_or(0, |letter| letter.seq);
        let page = store
            .dead_letters(source.map(Source::as_str), after, PAGE)
            .await?;
        if page.is_empty() {
            return Ok::<_, Error>(letters);
        }
        letters.extend(page);
    }
}

fn document(letter: &InboxEvent) -> Value {
    json!({
        "id": letter.seq,
        "source": letter.source,
        "key": letter.key,
        "deal_id": letter.deal_id,
        "received_at": letter.received_at,
        "failed_at": letter.settled_at,
        "reason": letter.reason,
    })
}

fn list(letters: &[InboxEvent], is_json: bool) -> String {
    if is_json {
        let documents: Vec<Value> = letters.iter().map(document).collect();
        return format!("{}\n", json!(documents));
    }
    if letters.is_empty() {
        return "there are no dead letters\n".into();
    }
    let line = |letter: &InboxEvent| {
        let deal = letter.deal_id.as_deref().unwrap_or("-");
        let reason = letter.reason.as_deref().unwrap_or_default();
        let (id, source, at) = (letter.seq, &letter.source, letter.received_at);
        format!("{id}  {source}  {at}  {deal}  {reason}\n")
    };
    letters.iter().map(line).collect()
}

fn show(letter: &InboxEvent, is_json: bool) -> String {
    let mut document = document(letter);
    document["body"] = letter.body.clone();
    if is_json {
        return format!("{document}\n");
    }
    format!("{document:#}\n")
}

fn done(what: &str, count: u64, is_json: bool) -> Result<()> {
    match is_json {
        true => out(&format!("{}\n", json!({ what: count }))),
        false => out(&format!("{what} {count}\n")),
    }
}
