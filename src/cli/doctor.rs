use jiff::tz::TimeZone;
use jiff::{Timestamp, civil::Date};
use serde::Serialize;
use std::collections::BTreeSet;

use crate::app::{open_book, open_store};
use crate::book::Book;
use crate::config::{Config, ConfigArgs};
use crate::domain::Currency;
use crate::error::{Error, Result};
use crate::outbound::{Receiver, Subscription};
use crate::ranking::AcceleratorHealth;
use crate::store::{Store, StoreLocation, Which};

const PAGE_DEALS: u32 = 1000;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// JSON in place of text
    #[arg(long)]
    json: bool,
}

/// What was looked at, what was found, and what to do about it.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    state: State,
    detail: String,
    advice: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        let (state, detail, advice) = (State::Ok, detail.into(), None);
        Self {
            check,
            state,
            detail,
            advice,
        }
    }

    fn bad(
        check: &'static str,
        state: State,
        detail: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            check,
            state,
            detail: detail.into(),
            advice: Some(advice.into()),
        }
    }
}

pub fn run(args: Args) -> Result<()> {
    let findings = super::runtime()?.block_on(examine(&args.settings));
    if args.json {
        super::out(&format!("{}\n", serde_json::json!(findings)))?;
    } else {
        super::out(&findings.iter().map(text).collect::<String>())?;
    }
    let failed_count = findings.iter().filter(|f| f.state == State::Failed).count();
    if failed_count > 0 {
        return Err(Error::Conflict(format!(
            "{failed_count} of {} checks failed",
            findings.len()
        )));
    }
    Ok(())
}

fn text(finding: &Finding) -> String {
    let mark = match finding.state {
        State::Ok => "ok     ",
        State::Warning => "warning",
        State::Failed => "FAILED ",
    };
    let mut text = format!("{mark}  {:<8}  {}\n", finding.check, finding.detail);
    if let Some(advice) = &finding.advice {
        text += &format!("                   -> {advice}\n");
    }
    text
}

/// Each check builds on those before.
async fn examine(settings: &ConfigArgs) -> Vec<Finding> {
    let config = match settings.load() {
        Ok(config) => config,
        Err(error) => {
            let advice = "`dealrank serve --print-config` prints all settings with their meaning";
            return vec![Finding::bad(
                "settings",
                State::Failed,
                error.to_string(),
                advice,
            )];
        }
    };
    let listen = &config.listen;
    let mut findings = vec![Finding::ok("settings", format!("service at {listen}"))];
    match open_book(&config).await {
        Err(error) => findings.push(unopened(&config, &error).await),
        Ok(book) => {
            findings.push(store(&book, &config).await);
            findings.push(redis(&book, &config).await);
            findings.push(model(&book).await);
            findings.push(rates(&book).await);
            findings.push(outbound(book.store(), &config).await);
        }
    }
    findings
}

/// Whether those who want to be told are, and CRMs get their scores.
async fn outbound(store: &Store, config: &Config) -> Finding {
    match troubled_receivers(store, config).await {
        Err(error) => {
            let advice = "the store does not answer; see the check before";
            Finding::bad("outbound", State::Failed, error.to_string(), advice)
        }
        Ok((detail, troubles)) if troubles.is_empty() => Finding::ok("outbound", detail),
        Ok((detail, troubles)) => Finding::bad(
            "outbound",
            State::Warning,
            format!("{detail}; {}", troubles.join("; ")),
            "GET /v1/subscriptions/{id}/deliveries says why; for a CRM, the log does",
        ),
    }
}

async fn troubled_receivers(store: &Store, config: &Config) -> Result<(String, Vec<String>)> {
    let (mut waiting, mut troubles) = (0, Vec::new());
    let subscriptions = store.subscriptions().await?;
    for subscription in &subscriptions {
        waiting += store.backlog(&subscription.id).await?.pending;
        troubles.extend(trouble(subscription, config));
    }
    let is_webhook = |s: &&Subscription| matches!(s.receiver, Receiver::Webhook(_));
    let count = subscriptions.iter().filter(is_webhook).count();
    let detail = format!("{count} subscriptions, {waiting} deliveries wait");
    Ok((detail, troubles))
}

/// What is wrong with a receiver, if it has not been stopped on purpose.
fn trouble(subscription: &Subscription, config: &Config) -> Option<String> {
    let name = match &subscription.receiver {
        Receiver::Webhook(_) => format!("subscription {}", subscription.id),
        Receiver::WriteBack { crm, .. } => format!("write-back to {}", crm.as_str()),
    };
    match (&subscription.disabled, &subscription.receiver) {
        // Those of CRMs follow the settings.
        (Some(_), Receiver::WriteBack { .. }) => None,
        (Some(disabled), _) => Some(format!("{name} is disabled: {}", disabled.reason)),
        (None, _) if subscription.circuit.is_open(&config.outbound.circuit()) => {
            let failures = subscription.circuit.failures_in_row;
            Some(format!("{name} has failed {failures} times in a row"))
        }
        (None, _) => None,
    }
}

/// Whether it is the store that cannot be opened, or what builds on it.
async fn unopened(config: &Config, error: &Error) -> Finding {
    let (check, advice) = match (error, open_store(config).await) {
        (Error::Invalid(_), _) => ("redis", "correct it, or leave it out".to_owned()),
        (_, Ok(_)) => {
            let advice = format!("or restore {} from a backup", config.store_location());
            ("model", advice)
        }
        (_, Err(_)) => {
            let advice = match config.store_location() {
                StoreLocation::File(_) => format!(
                    "see that {} is a folder that dealrank may write to; restore its database from a backup if it is damaged",
                    config.data_dir.display()
                ),
                StoreLocation::Postgres(_) => {
                    "see that PostgreSQL runs, and correct `database_url`".to_owned()
                }
            };
            ("store", advice)
        }
    };
    Finding::bad(check, State::Failed, super::describe(error), advice)
}

async fn store(book: &Book, config: &Config) -> Finding {
    let place = config.store_location();
    let open = book.store().count_deals(Which::Open).await;
    let closed = book.store().count_deals(Which::Closed).await;
    match (open, closed) {
        (Ok(0), Ok(0)) => Finding::bad(
            "store",
            State::Warning,
            format!("{place} has no deals"),
            "bring some with `dealrank import FILE`, or try `dealrank serve --demo`",
        ),
        (Ok(open), Ok(closed)) => Finding::ok(
            "store",
            format!("{place}: {open} open deals, {closed} closed"),
        ),
        (Err(error), _) | (_, Err(error)) => Finding::bad(
            "store",
            State::Failed,
            super::describe(&error),
            format!("restore {place} from a backup"),
        ),
    }
}

async fn redis(book: &Book, config: &Config) -> Finding {
    let Some(url) = &config.redis_url else {
        let place = match config.database_url {
            Some(_) => "not configured: rankings are the store's own",
            None => "not configured: rankings are kept in process",
        };
        return Finding::ok("redis", place);
    };
    // An address may carry a password.
    let place = url.rsplit('@').next().unwrap_or_default();
    match book.health().await.redis {
        AcceleratorHealth::Up | AcceleratorHealth::Healing => {
            Finding::ok("redis", format!("{place} answers"))
        }
        AcceleratorHealth::Down | AcceleratorHealth::Disabled => Finding::bad(
            "redis",
            State::Warning,
            format!("{place} does not answer; the store answers, slower"),
            "start Redis, or correct `redis_url`",
        ),
    }
}

async fn model(book: &Book) -> Finding {
    if let Ok(Some(scorer)) = book.scorer().await {
        return Finding::ok("model", format!("{} is active", scorer.model().version));
    }
    match book.store().models().await {
        Ok(models) if models.is_empty() => Finding::bad(
            "model",
            State::Warning,
            "there is none: deals are kept but not scored",
            "train one with `dealrank train`, or POST /v1/models",
        ),
        Ok(models) => Finding::bad(
            "model",
            State::Warning,
            format!(
                "none of {} is active: deals are kept but not scored",
                models.len()
            ),
            "activate one with `dealrank models activate VERSION`",
        ),
        Err(error) => Finding::bad(
            "model",
            State::Failed,
            super::describe(&error),
            "restore the database from a backup",
        ),
    }
}

/// Open deals in a currency without a rate have no expected value.
async fn rates(book: &Book) -> Finding {
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    match currencies_without_rate(book, today).await {
        Err(error) => Finding::bad(
            "rates",
            State::Failed,
            super::describe(&error),
            "restore the database from a backup",
        ),
        Ok(missing) if missing.is_empty() => Finding::ok(
            "rates",
            format!("all amounts can be brought to {}", book.exchange().base()),
        ),
        Ok(missing) => {
            let missing: Vec<String> = missing.iter().map(Currency::to_string).collect();
            Finding::bad(
                "rates",
                State::Warning,
                format!(
                    "open deals in {} have no expected value",
                    missing.join(", ")
                ),
                format!(
                    "add their rates to {} under [exchange]",
                    book.exchange().base()
                ),
            )
        }
    }
}

async fn currencies_without_rate(book: &Book, day: Date) -> Result<BTreeSet<Currency>> {
    let mut missing = BTreeSet::new();
    let mut after = None;
    loop {
        let page = book
            .store()
            .deals(Which::Open, after.as_ref(), PAGE_DEALS)
            .await?;
        let Some(last) = page.last() else {
            return Ok(missing);
        };
        after = Some(last.deal.id.clone());
        let currencies = page.iter().filter_map(|stored| stored.deal.currency);
        missing.extend(currencies.filter(|c| book.exchange().rate(*c, day).is_none()));
    }
}
