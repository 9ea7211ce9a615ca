//! The binary.

use std::process::ExitCode;

use clap::Parser;
use runner_broker::cli::{self, Cli};

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => match cli.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        },
        Err(error) => cli::refuse(&error),
    }
}
