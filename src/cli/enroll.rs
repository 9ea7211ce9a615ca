//! `enroll`: one runner file, for a container that starts before the runner's.

use std::path::PathBuf;
use std::time::Duration;

use tracing::warn;

use super::Failure;
use crate::config::{Log, LogFormat, LogLevel, Setting};
use crate::credential::Owner;
use crate::enroll::{Given, JoinError, Own, Wanted};
use crate::supervise::{self, Events};
use crate::telemetry;

/// Enroll a runner once and write its runner file: for an init container
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The runner file to write; one that is there and good is kept
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// What the file says to dial [default: the address that is asked]
    #[arg(long, value_name = "URL")]
    address: Option<String>,

    /// The file's permission bits, octal
    #[arg(long, default_value = "0600", value_parser = mode)]
    mode: u32,

    /// The file's owner, a number [default: this process's]
    #[arg(long, value_parser = <u32 as Setting>::parse)]
    uid: Option<u32>,

    /// The file's group, a number [default: this process's]
    #[arg(long, value_parser = <u32 as Setting>::parse)]
    gid: Option<u32>,

    #[command(flatten)]
    given: Given,

    #[command(flatten)]
    log: LogArgs,
}

/// The log on standard error, for commands that have no settings file.
#[derive(Debug, clap::Args)]
pub(super) struct LogArgs {
    /// How log lines look: text or json
    #[arg(long, default_value = "text", value_parser = LogFormat::parse)]
    log_format: LogFormat,

    /// The least severe level that is written: error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_parser = LogLevel::parse)]
    log_level: LogLevel,
}

/// How long a runner that is not wanted any more may take to be deregistered.
const DEADLINE: Duration = Duration::from_secs(9);

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let events = events()?;
    args.log.init();
    let own = Own {
        file: Some(args.out.clone()),
        address: args.address.clone(),
        owner: Owner { mode: args.mode, uid: args.uid, gid: args.gid },
        direct: None,
    };
    finish(supervise::enroll(events, wanted(&args.given, &own)?, DEADLINE))
}

impl LogArgs {
    /// Begins the log.
    pub(super) fn init(&self) {
        telemetry::log::init(Log { format: self.log_format, level: self.log_level });
    }
}

/// Before anything else: the first process of a container is deaf to a signal without a handler.
pub(super) fn events() -> Result<Events, Failure> {
    Events::new().map_err(|error| {
        Failure::new(Failure::INTERNAL, format!("signals cannot be received: {error}"))
    })
}

/// All that is given, put together.
pub(super) fn wanted(given: &Given, own: &Own) -> Result<Wanted, Failure> {
    let (wanted, warnings) = Wanted::new(given, own, |name| std::env::var_os(name))
        .map_err(|problems| Failure::new(Failure::SETTINGS, problems))?;
    for warning in warnings {
        warn!("{warning}");
    }
    Ok(wanted)
}

/// The end of the process.
pub(super) fn finish(ended: Result<u8, JoinError>) -> Result<(), Failure> {
    match ended {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::without_words(code)),
        Err(error) => Err(error.into()),
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        let code = match &error {
            JoinError::Forbidden(_) => Self::FORBIDDEN,
            JoinError::Settings(_) => Self::SETTINGS,
            JoinError::GaveUp(_) | JoinError::Stopped => Self::UNAVAILABLE,
        };
        Self::new(code, error)
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let bits = u32::from_str_radix(text, 8).ok().filter(|bits| *bits <= 0o777);
    bits.ok_or_else(|| "give permission bits in octal, for example 0640".into())
}
