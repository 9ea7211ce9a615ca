//! A child process whose output is kept, that can be waited for by its lines and never outlives the test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a thing that tells nobody is looked at.
pub const GLANCE: Duration = Duration::from_millis(100);

/// Looks until there is something to see; the test ends where `limit` passes first.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        thread::sleep(GLANCE);
    }
}

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<thread::JoinHandle<()>>,
}

impl Process {
    /// Starts the command with its output taken.
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} could not be started: {error}"));
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let out = child.stdout.take().expect("standard output was piped");
        let err = child.stderr.take().expect("standard error was piped");
        let readers = vec![read(out, lines.clone()), read(err, lines.clone())];
        Self { name: name.to_owned(), child, lines, readers }
    }

    /// Runs the command to its end and gives what it wrote.
    pub fn run(name: &str, command: &mut Command, limit: Duration) -> (ExitStatus, String) {
        let mut process = Self::start(name, command);
        let status = process.wait(limit);
        (status, process.output())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that was written until now, both streams by line.
    pub fn output(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The first line that `pick` takes, now or later.
    pub fn line<T>(
        &self,
        what: &str,
        limit: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> T {
        let mut from = 0;
        until(&format!("{} to write {what}", self.name), limit, || {
            // Asked before the lines are read, so that none can come after.
            let closed = self.readers.iter().all(thread::JoinHandle::is_finished);
            let seen = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let found = seen[from..].iter().find_map(|line| pick(line));
            from = seen.len();
            assert!(found.is_some() || !closed, "{} ended and did not write {what}", self.name);
            found
        })
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child not yet waited for");
    }

    /// Waits for the end, and for the last line.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let status =
            until(&what, limit, || self.child.try_wait().expect("a child of this process"));
        for reader in self.readers.drain(..) {
            until(&what, Duration::from_secs(1), || reader.is_finished().then_some(()));
        }
        status
    }

    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child of this process").is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A runner ends its jobs and Gitea its git commands when they are asked to leave.
        let start = Instant::now();
        if !self.ended() {
            self.signal(Signal::TERM);
        }
        while !self.ended() && start.elapsed() < Duration::from_secs(5) {
            thread::sleep(GLANCE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let output = self.output();
            let lines: Vec<_> = output.lines().collect();
            let last = lines.len().saturating_sub(40);
            eprintln!("--- {}, last lines\n{}", self.name, lines[last..].join("\n"));
        }
    }
}

fn read(
    stream: impl Read + Send + 'static,
    lines: Arc<Mutex<Vec<String>>>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })
}
