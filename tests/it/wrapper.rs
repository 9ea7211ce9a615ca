//! The wrapper as a container has it: the built binary around a command, in front of a broker and a
//! stand-in Gitea.

mod direct;
mod enroll;
mod files;
mod heal;
mod life;
mod signals;

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use runner_broker::sandbox::StandInGitea;
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, gitea, runner_file};

/// A script that says that it is there, and stays until a signal ends it. What it waits for ends with it.
const HOLD: &str = "mkfifo hold.$$ && exec 3<>hold.$$; cat hold.$$ 3>&- >/dev/null & \
                    echo ready; while :; do wait; done";

/// A stand-in Gitea and a broker before it.
async fn stage() -> (StandInGitea, Site, Broker) {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    (gitea, site, broker)
}

/// How the wrapper is to be started, in a folder of its own.
struct Wrapper {
    folder: TempDir,
    instance: String,
    verb: &'static str,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Wrapper {
    /// For a runner of the name `wrapped` with the label `host:host`.
    fn new(instance: &str) -> Self {
        let wrapper = Self {
            folder: tempfile::tempdir().unwrap(),
            instance: instance.to_owned(),
            verb: "run",
            flags: Vec::new(),
            environment: Vec::new(),
        };
        wrapper
            .token(ENROLLMENT_TOKEN)
            .set("GITEA_RUNNER_NAME", "wrapped")
            .set("GITEA_RUNNER_LABELS", "host:host")
            .flags(&["--backoff", "10ms", "--log-format", "json"])
    }

    fn token(self, token: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join("token");
        std::fs::write(&path, token).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        self.set("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", path.to_str().unwrap())
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join(".runner")
    }

    /// The id in the runner file.
    fn id(&self) -> i64 {
        runner_file(&self.file())["id"].as_i64().unwrap()
    }

    /// A file that the command wrote.
    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    /// Starts it around a script.
    fn script(&self, script: &str) -> Wrapped {
        self.command(&["sh", "-c", script])
    }

    /// Starts it around a command.
    fn command(&self, command: &[&str]) -> Wrapped {
        let separator = if command.is_empty() { None } else { Some("--") };
        let mut child = Command::new(env!("CARGO_BIN_EXE_runner-broker"))
            .arg(self.verb)
            .args(&self.flags)
            .args(separator)
            .args(command)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("GITEA_INSTANCE_URL", &self.instance)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        read(child.stdout.take().unwrap(), sender.clone());
        read(child.stderr.take().unwrap(), sender);
        Wrapped { child, lines, seen: Vec::new(), unfound: Vec::new() }
    }
}

/// A wrapper that runs. Killed when dropped.
struct Wrapped {
    child: Child,
    lines: mpsc::Receiver<String>,
    seen: Vec<String>,
    unfound: Vec<String>,
}

impl Wrapped {
    /// Waits for a line that holds this, of the command or of the log, which come in any order. Each line is
    /// found once.
    fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.unfound.iter().position(|line| line.contains(text)) {
                return self.unfound.remove(at);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    self.unfound.push(line);
                }
                Err(error) => panic!("no line {text:?} ({error}) in:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// Waits until the script above holds.
    fn ready(&mut self) {
        self.wait_for("ready");
    }

    /// Waits until the command was started, and gives its process.
    fn started(&mut self) -> rustix::process::Pid {
        let line: Value = serde_json::from_str(&self.wait_for("command started")).unwrap();
        let pid = line["pid"].to_string().trim_matches('"').parse().unwrap();
        rustix::process::Pid::from_raw(pid).unwrap()
    }

    fn kill(&self, signal: Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end: the exit code, 128+n after signal n.
    fn ended(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // What it wrote last is there, or comes within a moment.
                while let Ok(line) = self.lines.recv_timeout(Duration::from_millis(100)) {
                    self.seen.push(line);
                }
                return status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
            }
            assert!(Instant::now() < until, "the wrapper does not end:\n{}", self.output());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// All that was seen of its log and of the command's output.
    fn output(&mut self) -> String {
        self.seen.extend(self.lines.try_iter());
        self.seen.join("\n")
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(stream: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = lines.send(line);
        }
    });
}
