//! The command line: one file a command, each with its `Args` and
//! `run(args) -> Result<(), Failure>`.

mod check;
mod client;
mod completions;
mod demo;
mod enroll;
mod events;
mod healthcheck;
mod run;
mod runner;
mod serve;
mod settings;
mod show;
mod status;
mod token;

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::telemetry::panics;
pub use settings::SettingsArgs;

/// Registration broker in front of Gitea's runners.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Run(run::Args),
    Enroll(enroll::Args),
    Status(status::Args),
    Token(token::Args),
    Runner(runner::Args),
    Events(events::Args),
    Check(check::Args),
    Healthcheck(healthcheck::Args),
    Demo(demo::Args),
    Completions(completions::Args),
}

impl Cli {
    /// Carries the command out.
    ///
    /// # Errors
    /// What to tell the user, and the exit code.
    pub fn run(self) -> Result<(), Failure> {
        panics::hook();
        hide_memory();
        if !matches!(self.command, Command::Run(_)) {
            dump_no_core();
        }
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Run(args) => run::run(&args),
            Command::Enroll(args) => enroll::run(&args),
            Command::Status(args) => status::run(&args),
            Command::Token(args) => token::run(&args),
            Command::Runner(args) => runner::run(&args),
            Command::Events(args) => events::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Healthcheck(args) => healthcheck::run(&args),
            Command::Demo(demo::Args {}) => demo::run(),
            Command::Completions(args) => completions::run(&args),
        }
    }
}

/// Secrets are in this process's memory, and perhaps in its environment: what else runs as the same user must
/// not read them there, and no core dump holds them. A program that it starts is as open as ever.
fn hide_memory() {
    // A kernel that does not know it runs the broker all the same.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Where the kernel dumps what is not dumpable all the same (`fs.suid_dumpable`). The wrapper hands its limits on to
/// the runner, and so to jobs, which may want theirs.
fn dump_no_core() {
    let limit = getrlimit(Resource::Core);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit });
}

/// Shows what the parser has to say: help is an answer, a usage error a failure.
#[must_use]
pub fn refuse(error: &clap::Error) -> ExitCode {
    // Where the terminal is gone there is nobody to tell.
    let _ = error.print();
    if error.use_stderr() { Failure::USAGE.into() } else { ExitCode::SUCCESS }
}

/// Why a command ends without success. Never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code, from sysexits.
    pub code: u8,
    /// For standard error; says what to do.
    pub message: String,
}

impl Failure {
    /// Wrong arguments, or what they ask for cannot be.
    pub const USAGE: u8 = 64;
    /// Something that the command needs does not answer.
    pub const UNAVAILABLE: u8 = 69;
    /// A fault of the program or the system.
    pub const INTERNAL: u8 = 70;
    /// Not now; it may be later.
    pub const TEMPORARY: u8 = 75;
    /// The broker does not let the command in.
    pub const FORBIDDEN: u8 = 77;
    /// Wrong settings.
    pub const SETTINGS: u8 = 78;

    /// A failure with one of the codes above.
    pub fn new(code: u8, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// The exit code alone: what there is to say was said.
    #[must_use]
    pub fn without_words(code: u8) -> Self {
        Self::new(code, "")
    }

    /// Tells the failure on standard error and gives the exit code.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            complain(&self.message);
        }
        self.code.into()
    }
}

/// Runs a command that waits. One thread carries all of it: the work is moving bytes, and what computes
/// or waits for a disk has threads of its own.
fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
            Failure::new(Failure::INTERNAL, format!("the runtime does not start: {error}"))
        })?;
    let outcome = runtime.block_on(command);
    // A look-up of a name or a write to a disk that hangs must not hold up the end.
    runtime.shutdown_background();
    outcome
}

/// Writes lines to standard output. A reader that has left, as `head` does, is no failure.
fn print(text: impl fmt::Display) -> Result<(), Failure> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let message = format!("standard output cannot be written: {error}");
            Err(Failure::new(Failure::INTERNAL, message))
        }
        _ => Ok(()),
    }
}

/// Writes lines to standard error; where that is closed there is nobody to tell.
fn complain(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn a_thread_that_hangs_does_not_hold_up_the_end() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let outcome = super::block_on(async {
                let (begun, begins) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    let _ = begun.send(());
                    let _ = held.recv();
                });
                let _ = begins.await;
                Ok(())
            });
            let _ = ended.send(outcome);
        });
        let outcome = end.recv_timeout(std::time::Duration::from_secs(20));
        assert_eq!(outcome, Ok(Ok(())));
        drop(release);
    }

    #[test]
    fn no_two_arguments_are_in_each_others_way() {
        super::Cli::command().debug_assert();
    }
}
