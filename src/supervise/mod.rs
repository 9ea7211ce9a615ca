//! The wrapper: it enrolls, starts the runner, passes signals on, reaps, heals, and deregisters the runner
//! when its process ends.
//!
//! One thread, the first, starts processes and waits for them: `waitpid` for any child takes whatever ends,
//! also what was orphaned to a first process. Signals and the outcomes of network calls, which run in a
//! thread of their own, come to it as messages of one queue, in their order: so none is lost between two
//! stages.

mod child;
mod events;
mod heal;
mod stages;

use std::ffi::OsString;
use std::time::Duration;

pub use child::is_secret;
pub use events::Events;

use self::heal::Healing;
use self::stages::Stages;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tracing::warn;

use crate::enroll::{JoinError, Wanted};

/// How the command is watched.
#[derive(Clone, Debug)]
pub struct Watch {
    /// How often it is asked whether the runner is still known; `None`: never while the command runs.
    pub check_every: Option<Duration>,
    /// How many runners are made within an hour for those that were lost.
    pub max_heals: usize,
    /// How long a command whose runner is lost may take to end before it is killed.
    pub stop_timeout: Duration,
}

/// Enrolls, runs the command, and deregisters the runner when it ends, within `deadline` from then. The exit
/// code is the command's, 128+n after signal n.
///
/// # Errors
/// There was no runner, or it was lost too often.
pub fn run(
    events: Events,
    wanted: Wanted,
    deadline: Duration,
    watch: &Watch,
    command: &[OsString],
) -> Result<u8, JoinError> {
    // A job on the host is the same user, and must not read the token in this process's environment or memory.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        warn!(%error, "the runner's jobs could read this process's environment: give the token by its file");
    }
    let mut healing = Healing::new(watch.max_heals, wanted.backoff);
    let mut stages = Stages::new(events, wanted, deadline)?;
    loop {
        let runner = match stages.join(healing.wait())? {
            Ok(runner) => runner,
            Err(code) => return Ok(code),
        };
        let ended = match stages.start(command) {
            Ok(()) => stages.watch(&runner, watch),
            Err(code) => {
                stages.leave(&runner);
                return Ok(code);
            }
        };
        if !stages.is_lost(&runner, ended) {
            stages.leave(&runner);
            return Ok(ended.code());
        }
        healing.count()?;
    }
}

/// Enrolls, and does no more: the exit code is 0, or 128+n where signal n came first.
///
/// # Errors
/// There is no runner.
pub fn enroll(events: Events, wanted: Wanted, deadline: Duration) -> Result<u8, JoinError> {
    let joined = Stages::new(events, wanted, deadline)?.join(None)?;
    Ok(joined.map_or_else(|code| code, |_| 0))
}
