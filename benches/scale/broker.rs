//! The built broker as a process, and what it costs.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::kit::broker;
use crate::kit::usage;

pub(crate) const ADMIN_TOKEN: &str = "admin-token-of-the-bench-0123456789abcdef";
const ENROLLMENT_TOKEN: &str = "enrollment-token-of-the-bench-0123456789";

/// Where a broker's files are, and what it is set to.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    program: PathBuf,
    back_end: SocketAddr,
}

/// A broker that serves. It is ended when it is dropped.
pub(crate) struct Broker {
    pub(crate) runners: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// From the start of the process until it listened.
    pub(crate) started_in: Duration,
    child: Child,
}

impl Site {
    /// `program`: the binary, where it is not the built one.
    pub(crate) fn new(program: Option<&String>, back_end: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = program
            .map_or_else(|| broker::program().expect("the broker can be built"), PathBuf::from);
        let site = Self { folder, program, back_end };
        for (name, secret) in [
            ("registration", "registration-token-of-the-bench-01234567"),
            ("enrollment", ENROLLMENT_TOKEN),
            ("admin", ADMIN_TOKEN),
        ] {
            fs::write(site.path(name), secret).unwrap();
        }
        site
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("state.db")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The settings as environment variables.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let text = |name: &str| self.path(name).display().to_string();
        [
            ("LISTEN__RUNNERS", "127.0.0.1:0".to_owned()),
            ("ADMIN__LISTEN", "127.0.0.1:0".into()),
            ("ADMIN__SOCKET", text("admin.sock")),
            ("ADMIN__TOKEN_FILE", text("admin")),
            ("GITEA__URL", format!("http://{}", self.back_end)),
            ("GITEA__REGISTRATION_TOKEN_FILE", text("registration")),
            ("ENROLLMENT__TOKEN_FILE", text("enrollment")),
            ("CREDENTIALS__PATH", text("no-folder/{id}/.runner")),
            ("CREDENTIALS__ADDRESS", "broker".into()),
            // All runners of the bench have one address, and 20,000 open files allow no more.
            ("LIMITS__CONNECTIONS", "12000".into()),
            ("LIMITS__CONNECTIONS_PER_PEER", "12000".into()),
            ("LIMITS__REQUESTS", "6000".into()),
            ("LIMITS__REQUESTS_PER_PEER", "6000".into()),
            ("SHUTDOWN__DEREGISTER", "none".into()),
            ("STORE__URL", format!("sqlite:{}", self.store().display())),
            ("LOG__FORMAT", "json".into()),
        ]
        .into_iter()
        .map(|(key, value)| (format!("RUNNER_BROKER__{key}"), value))
        .collect()
    }
}

impl Broker {
    pub(crate) fn start(site: &Site) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(&site.program)
            .arg("serve")
            .env_clear()
            .envs(site.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let listening = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the broker does not start:\n{seen}") };
            let told: Value = serde_json::from_str(&line).unwrap_or_default();
            if told["message"] == "listening" {
                break told;
            }
            seen += &line;
        };
        let started_in = begun.elapsed();
        // Nobody reads on, but the pipe must not fill up.
        std::thread::spawn(move || lines.for_each(drop));
        let address = |key: &str| listening[key].as_str().unwrap().parse().unwrap();
        Self { runners: address("runners"), admin: address("admin"), started_in, child }
    }

    /// CPU time so far: of the thread that carries all sockets, and of the store's. Others come and go, and take what
    /// they spent with them.
    pub(crate) fn cpu(&self) -> Duration {
        let id = self.child.id();
        let sockets = usage::cpu_of_thread(Path::new(&format!("/proc/{id}/task/{id}")));
        sockets + usage::cpu_of_threads(id, "store")
    }

    /// Resident memory, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        usage::memory(self.child.id()).expect("it runs")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
