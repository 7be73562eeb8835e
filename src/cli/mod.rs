//! The command line: one file a command, each an `Args` with a `run`.
//!
//! Results go to standard output, messages to standard error. Exit codes: 0 done, 1 failed,
//! 2 bad usage or input.

mod bar;
mod evaluate;
mod files;
mod report;
mod score;
mod simulate;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;

#[derive(Debug, Parser)]
#[command(name = "dealrank", version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a believable CRM pipeline whose true win probabilities are known
    Simulate(simulate::Args),
    /// Learn a model from closed deals
    Train(train::Args),
    /// Score the deals of a file
    Score(score::Args),
    /// Judge a model on closed deals that it has not seen
    Evaluate(evaluate::Args),
}

/// Parses the arguments, runs the command, and says what went wrong.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Simulate(args) => simulate::run(args),
        Command::Train(args) => train::run(args),
        Command::Score(args) => score::run(args),
        Command::Evaluate(args) => evaluate::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dealrank: {}", describe(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The message with its causes.
fn describe(error: &Error) -> String {
    match error {
        Error::Internal(cause) => format!("{cause:#}"),
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
        | Error::NotFound { .. } => 2,
        Error::Conflict(_)
        | Error::CursorExpired
        | Error::NoModel
        | Error::Busy(_)
        | Error::Internal(_) => 1,
    }
}
