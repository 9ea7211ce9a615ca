//! `completions`: what a shell needs to complete the commands.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure, print};

/// Print completions for a shell, to be sourced by it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell that reads them
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    // Not straight to standard output: the generator panics where that cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "runner-broker", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())
}
