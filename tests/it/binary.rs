//! The built binary, in front of a stand-in Gitea.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{PATIENCE, Site};

/// A line of the log, in JSON.
pub(crate) type Line = Value;

/// The built binary, serving. Killed when dropped.
pub(crate) struct Binary {
    /// Where runners dial.
    pub(crate) url: String,
    /// Where metrics and health are.
    pub(crate) admin: String,
    /// Its log so far.
    pub(crate) log: Arc<Mutex<Vec<Line>>>,
    child: Child,
    news: mpsc::Receiver<Line>,
}

impl Binary {
    /// Starts `serve` and waits until it listens.
    pub(crate) fn start(site: &Site) -> Self {
        Self::start_with(site, &[])
    }

    /// Starts `serve` with further environment variables and waits until it listens.
    pub(crate) fn start_with(site: &Site, environment: &[(&str, &str)]) -> Self {
        Self::spawn(site, environment).listening()
    }

    /// Waits until it listens; `None` where it ended, and said what to do.
    pub(crate) fn listening_or_ended(mut self) -> Option<Self> {
        let until = Instant::now() + PATIENCE;
        while !self.lines().iter().any(|line| line["message"] == "listening") {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert_eq!(status.code(), Some(69), "{}", self.log_text());
                return None;
            }
            assert!(Instant::now() < until, "it does not start:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(self.listening())
    }

    fn listening(mut self) -> Self {
        let line = self.wait_for("listening");
        self.url = format!("http://{}", line["runners"].as_str().unwrap());
        self.admin = line["admin"].as_str().unwrap().to_owned();
        self
    }

    /// Starts `serve` and waits until it listens. A write beyond [`Binary::limit_files`] is an error to it.
    pub(crate) fn start_with_limited_files(site: &Site) -> Self {
        // Without the trap, the first such write ends a process.
        Self::start_after(site, "trap '' XFSZ")
    }

    /// Starts `serve` in a shell that was told something before, and waits until it listens.
    pub(crate) fn start_after(site: &Site, words: &str) -> Self {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_runner-broker");
        command.args(["-c", &format!("{words}; exec \"$0\" serve"), program]);
        Self::run(command, site, &[]).listening()
    }

    /// Starts `serve`, which may have so many files and sockets open, and waits until it listens.
    pub(crate) fn start_with_few_descriptors(site: &Site, descriptors: u32) -> Self {
        let mut command = Command::new("sh");
        let program = env!("CARGO_BIN_EXE_runner-broker");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" serve"), program]);
        Self::run(command, site, &[]).listening()
    }

    /// How large a file may become by its writes; `None`: as large as it likes.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).unwrap();
    }

    /// How many files and sockets it may have open from now on, besides those that it has.
    pub(crate) fn limit_descriptors(&self, more: u64) {
        let open: BTreeSet<u64> = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        let pid = rustix::process::Pid::from_child(&self.child);
        // The limit is one of numbers: those that are free in between could be taken too.
        let mut free = (0..).filter(|number| !open.contains(number));
        let current = free.nth(usize::try_from(more).unwrap());
        let nofile = rustix::process::Resource::Nofile;
        let maximum = rustix::process::getrlimit(nofile).maximum;
        let limit = rustix::process::Rlimit { current, maximum };
        rustix::process::prlimit(Some(pid), nofile, limit).unwrap();
    }

    /// Starts `serve` and waits for nothing.
    pub(crate) fn spawn(site: &Site, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
        command.arg("serve");
        Self::run(command, site, environment)
    }

    fn run(mut command: Command, site: &Site, environment: &[(&str, &str)]) -> Self {
        let mut child = command
            .env_clear()
            .envs(site.environment())
            .env("RUNNER_BROKER__LOG__FORMAT", "json")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = child.stderr.take().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, news) = mpsc::channel();
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let line: Line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                kept.lock().unwrap().push(line.clone());
                let _ = sender.send(line);
            }
        });
        Self { url: String::new(), admin: String::new(), log, child, news }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of the log with this message.
    pub(crate) fn wait_for(&self, message: &str) -> Line {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.news.recv_timeout(left) {
                Ok(line) if line["message"] == message => return line,
                Ok(_) => {}
                Err(error) => panic!("no line {message:?} ({error}) in:\n{}", self.log_text()),
            }
        }
    }

    /// The log so far; all of it, where its end was waited for.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.log.lock().unwrap().clone()
    }

    /// The log so far, a line each.
    pub(crate) fn log_text(&self) -> String {
        self.log.lock().unwrap().iter().map(|line| format!("{line}\n")).collect()
    }

    /// Bytes of memory: `VmRSS` is what it has, `VmHWM` the most that it had.
    pub(crate) fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Sends a signal by its name.
    pub(crate) fn kill(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                // The reader hangs up when it has kept the last line.
                while self.news.recv_timeout(PATIENCE).is_ok() {}
                return status;
            }
            assert!(Instant::now() < until, "the broker does not end:\n{}", self.log_text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Binary {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
