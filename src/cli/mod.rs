//! The command line: one file a command, each an `Args` with a `run`.
//!
//! Results go to standard output, messages to standard error. Exit codes: 0 done, 1 failed,
//! 2 bad usage or input.

mod backup;
mod bar;
mod cache;
mod deadletters;
mod doctor;
mod evaluate;
mod export;
mod files;
mod healthcheck;
mod import;
mod keys;
mod migrate;
mod models;
mod recalibrate;
mod report;
mod score;
mod serve;
mod simulate;
mod train;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

#[derive(Debug, Parser)]
#[command(name = "dealrank", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(Box<serve::Args>),
    /// Bring files of deals into the store
    Import(import::Args),
    /// Write deals, a queue or a model
    Export(export::Args),
    /// Copy the embedded store to a file, also while it is served
    Backup(backup::BackupArgs),
    /// Take a copy as the embedded store
    Restore(backup::RestoreArgs),
    /// Move everything of the embedded store to an empty PostgreSQL
    Migrate(migrate::Args),
    /// List, show and activate models
    Models(models::Args),
    /// Make, list and revoke the keys that people sign in with and programs send
    Keys(keys::Args),
    /// Show and rebuild what Redis has of the store
    Cache(cache::Args),
    /// List, show, replay and discard events of CRMs that could not be applied
    Deadletters(deadletters::Args),
    /// Look at settings, store, Redis, model and rates, and say what to do
    Doctor(doctor::Args),
    /// Exit with 0 if the service answers, with 1 if not
    Healthcheck(healthcheck::Args),
    /// Write a believable CRM pipeline whose true win probabilities are known
    Simulate(simulate::Args),
    /// Learn a model from closed deals
    Train(train::Args),
    /// Score the deals of a file
    Score(score::Args),
    /// Judge a model on closed deals that it has not seen
    Evaluate(evaluate::Args),
    /// Shift a model's probabilities to what newer deals came to, where that helps
    Recalibrate(recalibrate::Args),
}

/// Parses the arguments, runs the command, and says what went wrong.
pub fn main() -> ExitCode {
    crate::tls::install_provider();
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(args) => serve::run(*args),
        Command::Import(args) => import::run(args),
        Command::Export(args) => export::run(args),
        Command::Backup(args) => backup::run_backup(args),
        Command::Restore(args) => backup::run_restore(args),
        Command::Migrate(args) => migrate::run(args),
        Command::Models(args) => models::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Cache(args) => cache::run(args),
        Command::Deadletters(args) => deadletters::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Healthcheck(args) => healthcheck::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Train(args) => train::run(args),
        Command::Score(args) => score::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Recalibrate(args) => recalibrate::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dealrank: {}", describe(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// For the commands that wait: for the store, for requests.
fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    Ok(runtime.context("cannot start the threads")?)
}

/// Writes a result to standard output. Whoever reads may have seen enough: that is no failure.
fn out(text: &str) -> Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(anyhow::Error::from(e)
            .context("cannot write to standard output")
            .into()),
        _ => Ok(()),
    }
}

/// Whether whoever read our standard output went away.
fn is_broken_pipe(cause: &anyhow::Error) -> bool {
    let io = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    cause.chain().any(|e| {
        e.downcast_ref::<std::io::Error>().is_some_and(io)
            || e.downcast_ref::<csv::Error>()
                .is_some_and(|e| matches!(e.kind(), csv::ErrorKind::Io(e) if io(e)))
    })
}

/// The message with its causes.
fn describe(error: &Error) -> String {
    match error {
        Error::StoreAway(cause) | Error::Internal(cause) => {
            let mut text = String::new();
            for cause in cause.chain().map(ToString::to_string) {
                // Some errors say what their cause says.
                if text.is_empty() {
                    text = cause;
                } else if !text.ends_with(&cause) {
                    text = format!("{text}: {cause}");
                }
            }
            text
        }
        other => other.to_string(),
    }
}

fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Malformed(_)
        | Error::Invalid(_)
        | Error::Input { .. }
        | Error::Unusable(_)
        | Error::TooLarge { .. }
        | Error::NotFound { .. }
        | Error::NotActionable(_) => 2,
        Error::Conflict(_)
        | Error::CursorExpired
        | Error::NoModel
        | Error::NoPreviousModel
        | Error::NotOffered(_)
        | Error::Busy(_)
        | Error::StoreAway(_)
        | Error::Overloaded(_)
        | Error::Internal(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_of_all_commands_fit_together() {
        super::Cli::command().debug_assert();
    }
}
