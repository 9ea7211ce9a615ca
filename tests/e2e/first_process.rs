//! The wrapper as a container's first process.
//!
//! The first process is that of a namespace, which `unshare` (util-linux) makes; the system must let the
//! user make one.

use std::process::Command;
use std::time::Duration;

use runner_broker::config::Scope;
use runner_broker::sandbox::gitea::{Options, StandInGitea};
use rustix::process::{Pid, Signal, kill_process};
use secrecy::ExposeSecret;
use tempfile::TempDir;

use crate::process::{Process, until};

const LIMIT: Duration = Duration::from_secs(60);

/// A script that says that it is there, and stays until a signal ends it. What it waits for ends with it.
const HOLD: &str = "mkfifo hold && exec 3<>hold; cat hold 3>&- >/dev/null & \
                    echo ready; while :; do wait; done";

/// A stand-in Gitea and a folder for a wrapper that is the first process of a namespace.
struct First {
    gitea: StandInGitea,
    folder: TempDir,
}

impl First {
    fn new() -> Self {
        let gitea = StandInGitea::start(Options::default()).expect("a port of loopback");
        Self { gitea, folder: tempfile::tempdir().expect("a folder for temporary files") }
    }

    /// Starts the wrapper, straight at the stand-in; the second value is its process.
    fn start(&self, script: &str) -> (Process, Pid) {
        let token = self.gitea.registration_token(&Scope::Instance);
        let api_token = self.gitea.api_token(&["write:admin"]);
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]);
        command.arg(env!("CARGO_BIN_EXE_runner-broker")).args(["run", "--direct", "--"]);
        command.args(["sh", "-c", script]).current_dir(self.folder.path());
        command
            .env("GITEA_INSTANCE_URL", self.gitea.url())
            .env("GITEA_RUNNER_REGISTRATION_TOKEN", token.expose_secret())
            .env("GITEA_API_TOKEN", api_token.expose_secret());
        let unshare = Process::start("unshare", &mut command);
        let children = format!("/proc/{0}/task/{0}/children", unshare.pid());
        let wrapper = until("the wrapper to be there", LIMIT, || {
            let child = std::fs::read_to_string(&children).ok()?;
            let child = child.split_whitespace().next()?.to_owned();
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            name.starts_with("runner-broker").then(|| child.parse().ok()).flatten()
        });
        (unshare, Pid::from_raw(wrapper).expect("a process of its own"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_the_first_process_it_reaps_orphans_and_passes_signals_on() {
    let first = First::new();
    let orphan = "p=$(sh -c 'sleep 0.1 >/dev/null 2>&1 & echo $!'); echo \"child of $PPID\"; \
                  while kill -0 $p 2>/dev/null; do sleep 0.05; done; echo reaped";
    let (mut unshare, wrapper) = first.start(&format!("trap 'exit 11' TERM; {orphan}; {HOLD}"));
    unshare.line("its parent", LIMIT, |line| (line == "child of 1").then_some(()));
    // One that has ended is there until it is waited for.
    unshare.line("that its orphan is gone", LIMIT, |line| (line == "reaped").then_some(()));
    unshare.line("that it holds", LIMIT, |line| (line == "ready").then_some(()));
    assert_eq!(first.gitea.runners().len(), 1);
    kill_process(wrapper, Signal::TERM).expect("the wrapper is there");
    assert_eq!(unshare.wait(LIMIT).code(), Some(11), "{}", unshare.output());
    assert!(first.gitea.runners().is_empty(), "{}", unshare.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn as_the_first_process_it_can_be_stopped_while_it_waits() {
    let first = First::new();
    first.gitea.set_down().await.expect("the stand-in listens no more");
    let (mut unshare, wrapper) = first.start("touch started");
    unshare.line("that it waits", LIMIT, |line| line.contains("waiting").then_some(()));
    kill_process(wrapper, Signal::TERM).expect("the wrapper is there");
    assert_eq!(unshare.wait(LIMIT).code(), Some(143), "{}", unshare.output());
    assert!(!first.folder.path().join("started").exists());
}
