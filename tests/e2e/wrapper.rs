//! The wrapper around a real runner with a job in hand: who is told to end first, and what is left then.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::broker::{Broker, ENROLLMENT_TOKEN};
use crate::gitea::Gitea;
use crate::process::{Process, until};
use crate::runner::read_runner_file;
use crate::{BROKER_SCOPES, binary, job, labels, names};

const LIMIT: Duration = Duration::from_secs(60);

/// A runner in the wrapper, in a folder of its own.
struct Wrapped {
    process: Process,
    home: TempDir,
}

impl Wrapped {
    /// Returns when the runner has declared itself.
    fn start(instance: &str, token: &str, further: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a folder for temporary files");
        let config =
            "runner: {fetch_interval: 1s, fetch_interval_max: 1s}\ncache: {enabled: false}\n";
        fs::write(home.path().join("config.yaml"), config).expect("a folder of this test");
        fs::write(home.path().join("token"), token).expect("a folder of this test");
        let process = Self::process(&home, instance, further);
        Self { process, home }
    }

    /// In the same folder, after its end.
    fn again(&mut self, instance: &str) {
        self.process = Self::process(&self.home, instance, &[]);
    }

    fn process(home: &TempDir, instance: &str, further: &[&str]) -> Process {
        let home = home.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
        command.arg("run").args(further).arg("--").arg(binary("GITEA_RUNNER_BIN"));
        command.args(["daemon", "--config", "config.yaml"]).env_clear().current_dir(home);
        command.env("HOME", home).env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("GITEA_INSTANCE_URL", instance);
        command.env("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", home.join("token"));
        command.env("GITEA_RUNNER_NAME", "wrapped").env("GITEA_RUNNER_LABELS", "e2e:host");
        command.env("CONFIG_FILE", "config.yaml");
        let process = Process::start("runner-broker run", &mut command);
        process.line("that the runner declared itself", LIMIT, |line| {
            line.contains("declare successfully").then_some(())
        });
        process
    }

    fn file(&self) -> PathBuf {
        self.home.path().join(".runner")
    }

    fn release_job(&self) {
        fs::write(self.home.path().join("go"), "").expect("a folder of this test");
    }

    /// The runner's process.
    fn child(&self) -> Pid {
        let pid = self.process.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
            .expect("the wrapper's children");
        let pid = children.split_whitespace().next().expect("the runner");
        Pid::from_raw(pid.parse().expect("a number")).expect("a process")
    }

    /// Its end, within the ten seconds that Docker gives.
    fn ends(&mut self) -> ExitStatus {
        self.process.wait(Duration::from_secs(10))
    }
}

fn stack(gitea: &Gitea) -> (Broker, Wrapped) {
    let api_token = gitea.access_token(BROKER_SCOPES);
    let mut broker = Broker::new(gitea, &gitea.registration_token(), Some(&api_token));
    broker.set("LEASE__EXPIRE_AFTER", "1s");
    broker.up();
    let wrapped = Wrapped::start(&broker.url(), ENROLLMENT_TOKEN, &[]);
    (broker, wrapped)
}

/// A job in its hands, which goes on until it is let go.
fn give_job(gitea: &Gitea) {
    gitea.push_workflow("wait", job::WAITING);
    gitea.wait_for_line("wait", job::WAITS);
}

fn listed(broker: &Broker) -> Vec<Value> {
    let output = broker.command_line(&["runner", "list", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a list")
}

fn nothing_is_left(gitea: &Gitea, broker: &Broker) {
    until("nothing is left of it", LIMIT, || {
        (gitea.runners().is_empty() && listed(broker).is_empty()).then_some(())
    });
}

#[test]
fn a_signal_to_the_wrapper_ends_the_runner_its_job_and_its_registration() {
    for (signal, code) in [(Signal::TERM, Some(0)), (Signal::INT, Some(0)), (Signal::QUIT, Some(2))]
    {
        let gitea = Gitea::start("");
        let (broker, mut wrapped) = stack(&gitea);
        let token = fs::read(wrapped.home.path().join("token")).expect("the enrollment token");
        let pid = wrapped.child().as_raw_pid();
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("its environment");
        assert!(!environment.windows(token.len()).any(|part| part == token), "no secret is left");
        give_job(&gitea);
        wrapped.process.signal(signal);
        let status = wrapped.ends();
        assert_eq!(status.code(), code, "{signal:?}: {}", wrapped.process.output());
        nothing_is_left(&gitea, &broker);
        assert!(!wrapped.file().exists());
        // How, the runner has told in its last moment: it is no matter of the wrapper's.
        gitea.wait_for_end("wait");
    }
}

#[test]
fn a_killed_runner_is_deregistered_by_its_wrapper() {
    let gitea = Gitea::start("");
    let (broker, mut wrapped) = stack(&gitea);
    give_job(&gitea);
    kill_process(wrapped.child(), Signal::KILL).expect("the runner");
    assert_eq!(wrapped.ends().code(), Some(137), "{}", wrapped.process.output());
    nothing_is_left(&gitea, &broker);
    assert!(!wrapped.file().exists());
    assert_eq!(gitea.wait_for_end("wait").0, "cancelled", "its job waits for nobody");
}

#[test]
fn a_runner_whose_wrapper_is_killed_ends_its_job_and_then_its_lease_does_the_rest() {
    let gitea = Gitea::start("");
    let (broker, mut wrapped) = stack(&gitea);
    give_job(&gitea);
    let runner = wrapped.child();
    wrapped.process.signal(Signal::KILL);
    wrapped.process.ended();
    wrapped.release_job();
    gitea.wait_for_success("wait");
    assert_eq!(names(&gitea), ["wrapped"]);
    // Killed in the middle of its report, it would count as busy for ten minutes.
    until("its task is done", LIMIT, || (listed(&broker)[0]["state"] == "idle").then_some(()));
    kill_process(runner, Signal::KILL).expect("the runner");
    nothing_is_left(&gitea, &broker);
}

#[test]
fn a_broker_that_ends_first_takes_no_job_along() {
    for signal in [Signal::TERM, Signal::KILL] {
        let gitea = Gitea::start("");
        let (mut broker, mut wrapped) = stack(&gitea);
        give_job(&gitea);
        broker.down(signal);
        assert_eq!(names(&gitea), ["wrapped"]);
        wrapped.release_job();
        broker.up();
        gitea.wait_for_success("wait");
        wrapped.process.signal(Signal::TERM);
        assert_eq!(wrapped.ends().code(), Some(0), "{}", wrapped.process.output());
        nothing_is_left(&gitea, &broker);
    }
}

#[test]
fn a_wrapper_without_its_broker_keeps_the_registration_for_the_next_start() {
    let gitea = Gitea::start("");
    let (mut broker, mut wrapped) = stack(&gitea);
    let uuid = read_runner_file(&wrapped.file())["uuid"].clone();
    assert!(broker.down(Signal::TERM).success());
    wrapped.process.signal(Signal::TERM);
    let begun = Instant::now();
    assert_eq!(wrapped.ends().code(), Some(0), "{}", wrapped.process.output());
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(read_runner_file(&wrapped.file())["uuid"], uuid);
    broker.up();
    wrapped.again(&broker.url());
    assert_eq!(read_runner_file(&wrapped.file())["uuid"], uuid);
    assert_eq!(labels(&gitea), [["e2e"]]);
    wrapped.process.signal(Signal::TERM);
    assert_eq!(wrapped.ends().code(), Some(0), "{}", wrapped.process.output());
    nothing_is_left(&gitea, &broker);
}

#[test]
fn what_gitea_did_not_hear_is_told_to_it_when_it_is_back() {
    let mut gitea = Gitea::start("");
    let (broker, mut wrapped) = stack(&gitea);
    gitea.down();
    wrapped.process.signal(Signal::TERM);
    assert_eq!(wrapped.ends().code(), Some(0), "{}", wrapped.process.output());
    assert_eq!(listed(&broker)[0]["state"], json!("draining"));
    gitea.up();
    nothing_is_left(&gitea, &broker);
}

#[test]
fn a_runner_that_gitea_lost_is_replaced() {
    let gitea = Gitea::start("");
    let api_token = gitea.access_token(BROKER_SCOPES);
    let broker = Broker::start(&gitea, &gitea.registration_token(), Some(&api_token));
    let wrapped = Wrapped::start(&broker.url(), ENROLLMENT_TOKEN, &["--check-every", "1s"]);
    let before = read_runner_file(&wrapped.file());
    gitea.delete_runner(before["id"].as_i64().expect("an id"));
    until("another is in its place", LIMIT, || {
        let now = fs::read(wrapped.file()).ok()?;
        let now: Value = serde_json::from_slice(&now).ok()?;
        (now["uuid"] != before["uuid"] && labels(&gitea) == [["e2e"]]).then_some(())
    });
    gitea.push_workflow("life", job::LIFE);
    gitea.wait_for_success("life");
}

#[test]
fn straight_at_gitea_it_needs_no_broker() {
    let gitea = Gitea::start("");
    let api_token = gitea.access_token(BROKER_SCOPES);
    let secrets = tempfile::tempdir().expect("a folder for temporary files");
    let file = secrets.path().join("api_token");
    fs::write(&file, api_token).expect("a folder of this test");
    let file = file.display().to_string();
    let token = gitea.registration_token();
    let mut wrapped = Wrapped::start(&gitea.url, &token, &["--direct", "--api-token-file", &file]);
    gitea.push_workflow("life", job::LIFE);
    gitea.wait_for_success("life");
    wrapped.process.signal(Signal::TERM);
    assert_eq!(wrapped.ends().code(), Some(0), "{}", wrapped.process.output());
    assert_eq!(gitea.runners(), [Value::Null; 0]);
    assert!(!wrapped.file().exists());
}
