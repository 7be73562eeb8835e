use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};

use crate::config::ConfigArgs;
use crate::error::Result;

const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: ConfigArgs,
    /// Where the service is, if not where the settings say
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

pub fn run(args: Args) -> Result<()> {
    let base = match args.url {
        Some(url) => url,
        None => base_url(&args.settings.load()?.listen),
    };
    let url = format!("{}/healthz", base.trim_end_matches('/'));
    let answer = super::runtime()?.block_on(async {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        client.get(&url).send().await
    });
    let status = answer
        .with_context(|| format!("no answer from {url}"))?
        .status();
    if status.is_success() {
        super::out("ok\n")
    } else {
        Err(anyhow!("{url} answered {status}").into())
    }
}

/// A service that listens on every address is asked on this machine's own.
pub(super) fn base_url(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() && address.is_ipv4() => {
            format!("http://127.0.0.1:{}", address.port())
        }
        Ok(address) if address.ip().is_unspecified() => format!("http://[::1]:{}", address.port()),
        _ => format!("http://{listen}"),
    }
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn a_service_on_every_address_is_asked_on_this_machine() {
        assert_eq!(base_url("0.0.0.0:8080"), "http://127.0.0.1:8080");
        assert_eq!(base_url("[::]:8080"), "http://[::1]:8080");
        assert_eq!(base_url("10.0.0.7:80"), "http://10.0.0.7:80");
        assert_eq!(base_url("localhost:80"), "http://localhost:80");
    }
}
