//! The broker as it is built, between a real Gitea and real runners.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::gitea::Gitea;
use crate::process::Process;
use crate::runner::Runner;

/// What runners show to the broker.
pub const ENROLLMENT_TOKEN: &str = "an-enrollment-token-of-more-than-32-characters";

/// What opens its admin API over TCP.
pub const ADMIN_TOKEN: &str = "an-admin-token-of-more-than-32-characters";

const START: Duration = Duration::from_secs(30);
/// `shutdown.deadline` is nine seconds; a loaded machine gets one more.
const STOP: Duration = Duration::from_secs(10);

/// A broker with its store and its secrets; it ends with this value.
pub struct Broker {
    process: Option<Process>,
    // Dropped after the process that writes there.
    home: TempDir,
    gitea: String,
    sub_path: String,
    /// Where runners dial it: kept over a restart.
    runners: SocketAddr,
    /// Where its admin API is in this life.
    admin: SocketAddr,
    /// What earlier lives wrote.
    earlier: String,
    /// Settings of its environment that are others than usual.
    settings: BTreeMap<String, String>,
}

impl Broker {
    /// Starts one with these tokens of Gitea.
    pub fn start(gitea: &Gitea, registration_token: &str, api_token: Option<&str>) -> Self {
        let mut broker = Self::new(gitea, registration_token, api_token);
        broker.up();
        broker
    }

    /// One that has yet to be started, by [`Broker::up`].
    pub fn new(gitea: &Gitea, registration_token: &str, api_token: Option<&str>) -> Self {
        let broker = Self::without_tokens(gitea);
        broker.secret("registration_token", registration_token);
        if let Some(token) = api_token {
            broker.secret("api_token", token);
        }
        broker
    }

    /// The same with an API token alone.
    pub fn minting(gitea: &Gitea, api_token: &str) -> Self {
        let broker = Self::without_tokens(gitea);
        broker.secret("api_token", api_token);
        broker
    }

    /// The same with no token of Gitea: its settings file has them.
    pub fn without_tokens(gitea: &Gitea) -> Self {
        let home = tempfile::tempdir().expect("a folder for temporary files");
        let broker = Self {
            home,
            gitea: gitea.url.clone(),
            sub_path: gitea.sub_path.clone(),
            runners: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            process: None,
            earlier: String::new(),
            settings: BTreeMap::new(),
        };
        broker.secret("enrollment_token", ENROLLMENT_TOKEN);
        broker.secret("admin_token", ADMIN_TOKEN);
        fs::create_dir(broker.path("runners")).expect("a folder of this test");
        broker
    }

    /// Has a setting (`LEASE__EXPIRE_AFTER`) from its next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.insert(key.to_owned(), value.to_owned());
    }

    /// Has this settings file from its next start, or its next SIGHUP, on.
    pub fn write_settings(&self, toml: &str) {
        fs::write(self.path("config.toml"), toml).expect("a folder of this test");
    }

    /// Loses its records, as a volume that is gone.
    pub fn lose_store(&self) {
        for name in ["state.db", "state.db-wal", "state.db-shm"] {
            let _ = fs::remove_file(self.path(name));
        }
    }

    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("a running broker").signal(signal);
    }

    /// Starts it, also after [`Broker::down`], and returns when it listens.
    pub fn up(&mut self) {
        let process = Process::start("runner-broker", &mut self.command());
        (self.runners, self.admin) = process.line("that it is listening", START, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            let address = |name: &str| {
                let text = line[name].as_str().expect("an address as text");
                text.parse().expect("an address with a port")
            };
            (line["message"] == "listening").then(|| (address("runners"), address("admin")))
        });
        self.process = Some(process);
    }

    /// Ends it by this signal and waits for as long as it may take.
    pub fn down(&mut self, signal: Signal) -> ExitStatus {
        let mut process = self.process.take().expect("a running broker");
        process.signal(signal);
        let status = process.wait(STOP);
        self.earlier.push_str(&process.output());
        self.earlier.push('\n');
        status
    }

    /// What a runner dials.
    pub fn url(&self) -> String {
        format!("http://{}{}", self.runners, self.sub_path)
    }

    /// Where its admin API is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Runs a command against it, over its Unix socket.
    pub fn command_line(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
        command.args(arguments).env_clear().arg("--socket").arg(self.path("admin.sock"));
        command.output().expect("the binary starts")
    }

    /// Has it adopt a runner by its file.
    pub fn adopt(&self, runner: &Runner) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
        command.args(["runner", "adopt"]).arg(runner.path(".runner")).env_clear();
        command.arg("--socket").arg(self.path("admin.sock"));
        command.output().expect("the binary starts")
    }

    /// All that it wrote, over all its lives.
    pub fn output(&self) -> String {
        let now = self.process.as_ref().map_or_else(String::new, Process::output);
        format!("{}{now}", self.earlier)
    }

    /// The runner file that it writes for a runner of this name.
    pub fn runner_file(&self, name: &str) -> PathBuf {
        self.path("runners").join(name).join(".runner")
    }

    /// Gives it another token of Gitea, from its next start on.
    pub fn set_registration_token(&self, token: &str) {
        self.secret("registration_token", token);
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
        command.arg("serve").env_clear().current_dir(self.home.path());
        command.env("GITEA_INSTANCE_URL", &self.gitea);
        for (variable, name) in [
            ("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", "registration_token"),
            ("GITEA_API_TOKEN_FILE", "api_token"),
        ] {
            if self.path(name).exists() {
                command.env(variable, self.path(name));
            }
        }
        for (key, value) in [
            ("LISTEN__RUNNERS", self.runners.to_string()),
            ("ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
            ("ADMIN__SOCKET", self.text("admin.sock")),
            ("STORE__URL", format!("sqlite:{}", self.text("state.db"))),
            ("ADMIN__TOKEN_FILE", self.text("admin_token")),
            ("ENROLLMENT__TOKEN_FILE", self.text("enrollment_token")),
            ("CREDENTIALS__PATH", self.text("runners/{name}/.runner")),
            ("LABELS__E2E", "host".to_owned()),
            // On loopback the broker takes itself for one runner's sidecar; here it is a shared one.
            ("SHUTDOWN__DEREGISTER", "gone".to_owned()),
            ("LOG__FORMAT", "json".to_owned()),
            ("LOG__LEVEL", "trace".to_owned()),
        ] {
            command.env(format!("RUNNER_BROKER__{key}"), value);
        }
        for (key, value) in &self.settings {
            command.env(format!("RUNNER_BROKER__{key}"), value);
        }
        if self.path("config.toml").exists() {
            command.arg("--config").arg(self.path("config.toml"));
        }
        command
    }

    fn secret(&self, name: &str, value: &str) {
        fs::write(self.path(name), value).expect("a folder of this test");
    }

    /// A path in its folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.home.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}
