//! `run`: the wrapper around a runner.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::Failure;
use super::enroll::{LogArgs, events, finish, wanted};
use crate::config::Setting;
use crate::credential::Owner;
use crate::enroll::{Given, Own};
use crate::supervise::{self, Watch};

/// Enroll, run a runner, and deregister it when it ends: a container's entrypoint
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The runner file [default: runner.file of the runner's settings file, else $RUNNER_STATE_FILE, else
    /// $GITEA_RUNNER_REGISTRATION_FILE, else .runner]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Without a broker, straight at Gitea: the token is Gitea's registration token
    #[arg(long)]
    direct: bool,

    /// File with a Gitea API token, to delete the runner with [default: $GITEA_API_TOKEN, else the file
    /// that $GITEA_API_TOKEN_FILE names]
    #[arg(long, value_name = "FILE", requires = "direct")]
    api_token_file: Option<PathBuf>,

    /// Where the registration token is from: instance, org:NAME, user or repo:OWNER/NAME [default: instance]
    #[arg(long, requires = "direct")]
    scope: Option<String>,

    /// How long deregistering may take, from the command's end
    #[arg(long, value_name = "DURATION", default_value = "9s", value_parser = Duration::parse)]
    deadline: Duration,

    /// How often to ask whether the runner is still known, or "never"
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = interval)]
    check_every: Interval,

    /// How many lost runners are replaced within an hour
    #[arg(long, value_name = "N", default_value_t = 5)]
    max_heals: usize,

    /// How long a command whose runner is lost may take to end before it is killed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = Duration::parse)]
    stop_timeout: Duration,

    #[command(flatten)]
    given: Given,

    #[command(flatten)]
    log: LogArgs,

    /// The command and its arguments, for example gitea-runner daemon
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// `None`: never.
#[derive(Clone, Copy, Debug)]
struct Interval(Option<Duration>);

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let events = events()?;
    args.log.init();
    let own = Own {
        file: args.file.clone(),
        address: None,
        owner: Owner { mode: 0o600, uid: None, gid: None },
        direct: args.direct.then(|| (args.api_token_file.clone(), args.scope.clone())),
    };
    let watch = Watch {
        check_every: args.check_every.0,
        max_heals: args.max_heals,
        stop_timeout: args.stop_timeout,
    };
    let wanted = wanted(&args.given, &own)?;
    finish(supervise::run(events, wanted, args.deadline, &watch, &args.command))
}

fn interval(text: &str) -> Result<Interval, String> {
    match text {
        "never" => Ok(Interval(None)),
        text => match Duration::parse(text)? {
            Duration::ZERO => Err("is no time at all: give \"never\", or a longer one".into()),
            every => Ok(Interval(Some(every))),
        },
    }
}
