use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use flate2::read::GzDecoder;
use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;
use reqwest::Url;

use super::bar::Bar;
use crate::access::{Exposure, Role};
use crate::app::{App, now};
use crate::config::{Config, ConfigArgs, DEFAULT_TOML};
use crate::error::{Error, Result};
use crate::ingest::{Mapping, document};
use crate::jobs::{ImportTask, Task, TrainRequest};
use crate::ranking::RankingQuery;
use crate::store::JobState;
use crate::{http, simulate, telemetry};

/// The sample that `--demo` loads; in the binary, so that the binary is all it takes.
const DEMO_DEALS: &[u8] = include_bytes!("../../data/deals.ndjson.gz");

/// The last day of the sample.
const DEMO_EXPORTED_ON: Date = date(2026, 10, 1);

/// What somebody can act upon in the sample's deals.
const DEMO_MAPPING: &str = r#"columns.actionable = ["champion", "contacts", "competitor", "amount", "expected_close_at", "owner"]"#;

/// What the sample's company asks of a quarter, in EUR: a little more than it won in the last ones.
const DEMO_TARGET_PER_QUARTER: f64 = 2_800_000.0;

const DEMO_DATA_DIR: &str = "var/demo";

/// Background work that cannot be interrupted gets this long after the last answer.
const BACKGROUND_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Address and port (overrides the settings); port 0 takes a free one and says which
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Redis for scores and rankings (overrides the settings)
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// Load a sample of 3,000 deals, train on it, and serve that, in a data folder of its own
    #[arg(long)]
    demo: bool,
    /// Print the commented default settings, and end
    #[arg(long)]
    print_config: bool,
}

pub fn run(args: Args) -> Result<()> {
    if args.print_config {
        return super::out(DEFAULT_TOML);
    }
    let is_demo = args.demo;
    let config = args.config()?;
    telemetry::init_logs(config.log_format);
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(serve(config, is_demo));
    runtime.shutdown_timeout(BACKGROUND_GRACE);
    outcome
}

impl Args {
    fn config(self) -> Result<Config> {
        let defaults = if self.demo {
            demo_defaults()?
        } else {
            toml::Table::new()
        };
        let mut config = self.settings.load_with(defaults)?;
        if let Some(listen) = self.listen {
            config.listen = listen;
        }
        config.redis_url = self.redis_url.or(config.redis_url);
        Ok(config)
    }
}

/// Settings that the demo has different: the sample has four currencies, and its company a target.
fn demo_defaults() -> Result<toml::Table> {
    let exchange = toml::Value::try_from(simulate::exchange())
        .context("cannot write the exchange rates of the sample")?;
    let target = toml::Value::Float(DEMO_TARGET_PER_QUARTER);
    let insight = toml::Table::from_iter([("target_per_quarter".to_owned(), target)]);
    Ok(toml::Table::from_iter([
        ("data_dir".to_owned(), DEMO_DATA_DIR.into()),
        ("exchange".to_owned(), exchange),
        ("insight".to_owned(), toml::Value::Table(insight)),
    ]))
}

async fn serve(config: Config, is_demo: bool) -> Result<()> {
    // First, since nothing should be done for a service that cannot start.
    let listener = bind(&config.listen)?;
    let address = listener.local_addr().context("cannot listen")?;
    let exposure = Exposure::of(address, is_demo);
    let app = App::open(config, exposure, telemetry::init_metrics()?).await?;
    let base = Url::parse(&format!("http://{address}")).context("cannot name our address")?;
    if is_demo {
        load_demo(&app).await?;
        super::out(&tour(&app, &base).await?)?;
    }
    let host = base.authority();
    if app.access.is_sign_in_needed(host) {
        super::out(&how_to_sign_in(&app).await?)?;
    }
    super::out(&format!(
        "dealrank listens on {}\n",
        base.as_str().trim_end_matches('/')
    ))?;
    http::run(listener, app, stop_signal()?).await
}

/// What to type to see the pages.
async fn how_to_sign_in(app: &App) -> Result<String> {
    let keys = app.book.store().keys().await?;
    let manager = keys.iter().find(|key| key.holder.role == Role::Manager);
    Ok(match manager {
        Some(key) => format!(
            "to see the pages, open what `dealrank keys link '{}'` prints (other keys: `dealrank keys list`)\n",
            key.holder.name
        ),
        None => "to see the pages, make a key with `dealrank keys create --role manager --name YOU`, then \
                 open what `dealrank keys link YOU` prints\n"
            .into(),
    })
}

fn bind(listen: &str) -> Result<TcpListener> {
    TcpListener::bind(listen).map_err(|e| match e.kind() {
        ErrorKind::AddrInUse => Error::Conflict(format!(
            "{listen} is taken by another program: stop it, or choose another port with --listen 127.0.0.1:0"
        )),
        ErrorKind::InvalidInput | ErrorKind::AddrNotAvailable => Error::Malformed(format!(
            "listen: cannot use `{listen}` ({e}); give an address of this machine and a port, such as 127.0.0.1:8080"
        )),
        _ => Error::Internal(anyhow::Error::from(e).context(format!("cannot listen on {listen}"))),
    })
}

/// Ready when the process is asked to stop, by SIGTERM or Ctrl-C.
fn stop_signal() -> Result<impl Future<Output = ()> + Send + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: requests under way are still answered");
    })
}

/// Loads and trains what is not there yet; both may be repeated after an interruption.
async fn load_demo(app: &App) -> Result<()> {
    if app.book.scorer().await?.is_some() {
        return Ok(());
    }
    eprintln!("first start of the demo: loading 3,000 deals and training on them");
    let path = app.uploads_dir.join("demo.ndjson");
    write_demo(&path, now())?;
    let mut import = ImportTask::new(path, "deals.ndjson");
    import.mapping = Some(demo_mapping()?);
    finish(app, Task::Import(import)).await?;
    finish(app, Task::Train(TrainRequest::default())).await
}

/// What may be tried in a what-if of the demo.
fn demo_mapping() -> Result<Mapping> {
    let mapping = toml::from_str(DEMO_MAPPING);
    Ok(mapping.context("the mapping of the sample")?)
}

/// Writes the sample as if it had been exported today: its deals would look neglected otherwise.
fn write_demo(path: &Path, now: Timestamp) -> Result<()> {
    let today = TimeZone::UTC.to_datetime(now).date();
    let age = DEMO_EXPORTED_ON.until(today).context("the date of today")?;
    let failed = || format!("cannot write {}", path.display());
    let file = File::create(path).with_context(failed)?;
    let mut out = BufWriter::new(file);
    for line in BufReader::new(GzDecoder::new(DEMO_DEALS)).lines() {
        let line = line.context("the sample is not gzipped text")?;
        let document = serde_json::from_str(&line).context("the sample is not NDJSON")?;
        let mut deal = document::parse(document)?;
        simulate::move_by(&mut deal, i64::from(age.get_days()));
        serde_json::to_writer(&mut out, &document::write(&deal)).with_context(failed)?;
        out.write_all(b"\n").with_context(failed)?;
    }
    Ok(out.flush().with_context(failed)?)
}

/// Waits for a job, with a bar.
async fn finish(app: &App, task: Task) -> Result<()> {
    let bar = Bar::new();
    let job = app.jobs.submit(task).await?;
    if let Some(mut live) = app.jobs.watch(&job.id) {
        while live.changed().await.is_ok() {
            let job = live.borrow_and_update();
            bar.show_job(
                job.phase.as_deref().unwrap_or_default(),
                job.done,
                job.total,
            );
        }
    }
    let job = app.jobs.get(&job.id).await?;
    match job.state {
        JobState::Done => Ok(()),
        _ => {
            let reason = job.error.unwrap_or_else(|| "it did not end".into());
            Err(Error::Conflict(format!("{}: {reason}", job.kind)))
        }
    }
}

/// Where to look, and three requests that work as printed.
async fn tour(app: &App, base: &Url) -> Result<String> {
    let at = |path: &[&str]| {
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        url
    };
    let top = RankingQuery {
        limit: 1,
        ..RankingQuery::default()
    };
    let page = app.book.ranking(&top, None, now()).await?;
    let mut lines = vec![
        format!("\nOpen {base} in a browser, or ask:\n"),
        "  # what is worth doing next".to_owned(),
        format!("  curl '{}?limit=3'", at(&["v1", "rankings"])),
    ];
    if let Some(row) = page.rows.first() {
        if let Some(owner) = &row.deal.owner {
            lines.push("  # the same for one rep, with reasons".to_owned());
            lines.push(format!("  curl '{}?limit=3'", at(&["v1", "queues", owner])));
        }
        let deal = at(&["v1", "deals", row.deal.id.as_str()]);
        lines.push("  # a deal, what it is worth, and why".to_owned());
        lines.push(format!("  curl '{deal}'"));
    }
    lines.push(format!(
        "\nCtrl-C ends it; what it has learned stays in {}.\n\n",
        app.config.data_dir.display()
    ));
    Ok(lines.join("\n"))
}
