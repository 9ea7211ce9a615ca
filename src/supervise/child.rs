//! The command's process: how it is started, and how it ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitStatus};

/// The command cannot be run.
const NOT_EXECUTABLE: u8 = 126;
/// There is no such command.
const NOT_FOUND: u8 = 127;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this code.
    Exit(u8),
    /// By this signal.
    Signal(i32),
    /// The wrapper ended it, as its runner was lost.
    Lost(u8),
}

impl Ended {
    /// `None` where it did not end, but was stopped or went on.
    pub(super) fn of(status: WaitStatus) -> Option<Self> {
        let code = |code: i32| u8::try_from(code & 0xff).unwrap_or(u8::MAX);
        let exit = status.exit_status().map(|status| Self::Exit(code(status)));
        exit.or_else(|| status.terminating_signal().map(Self::Signal))
    }

    /// The exit code that tells it.
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Exit(code) | Self::Lost(code) => code,
            Self::Signal(signal) => after_signal(signal),
        }
    }
}

/// The exit code that tells of an end by a signal, as shells have it.
pub(super) fn after_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// Starts the command without any of the wrapper's secrets, in a process group of its own: what a terminal
/// sends to the wrapper's group reaches it once, passed on.
///
/// # Errors
/// The exit code, and what the system said.
pub(super) fn start(command: &[OsString], stdin_is_terminal: bool) -> Result<Pid, (u8, io::Error)> {
    let mut words = command.iter();
    let mut process = Command::new(words.next().map_or(OsStr::new(""), OsString::as_os_str));
    process.args(words).process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_secret(name)) {
        process.env_remove(name);
    }
    if stdin_is_terminal {
        // A group in the background that reads its terminal is stopped by the kernel.
        process.stdin(Stdio::null());
    }
    match process.spawn() {
        Ok(child) => Ok(Pid::from_child(&child)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err((NOT_FOUND, error)),
        Err(error) => Err((NOT_EXECUTABLE, error)),
    }
}

/// Whether a variable of this name is kept from the command.
#[must_use]
pub fn is_secret(name: &OsStr) -> bool {
    const NAMES: [&str; 4] = [
        "GITEA_RUNNER_REGISTRATION_TOKEN",
        "GITEA_RUNNER_REGISTRATION_TOKEN_FILE",
        "GITEA_API_TOKEN",
        "GITEA_API_TOKEN_FILE",
    ];
    NAMES.iter().any(|secret| name == *secret)
        || name.as_encoded_bytes().starts_with(b"RUNNER_BROKER__")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_of_signals_as_shells_do() {
        assert_eq!(Ended::Signal(15).code(), 143);
        assert_eq!(Ended::Signal(9).code(), 137);
        assert_eq!(Ended::Exit(7).code(), 7);
    }

    #[test]
    fn secrets_are_told_by_their_names() {
        for secret in ["GITEA_API_TOKEN", "RUNNER_BROKER__ENROLLMENT__TOKEN_FILE"] {
            assert!(is_secret(OsStr::new(secret)), "{secret}");
        }
        for plain in ["GITEA_INSTANCE_URL", "CONFIG_FILE", "RUNNER_BROKER_PORT", "PATH"] {
            assert!(!is_secret(OsStr::new(plain)), "{plain}");
        }
    }
}
