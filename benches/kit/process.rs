//! Processes under measurement: started, watched by what the system says of them, and ended.

use std::ops::Add;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io, net, thread};

use rustix::process::{Pid, Signal, kill_process};

use super::usage::{self, Cpu};

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(20);

/// A process and its children; it ends with this value.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; all that it says goes to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> io::Result<Self> {
        let out = fs::File::create(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Waits until something accepts connections there.
    pub(crate) fn listens(&mut self, at: net::SocketAddr) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            if net::TcpStream::connect(at).is_ok() {
                return Ok(());
            }
            let ended = self.child.try_wait()?;
            if ended.is_some() || begun.elapsed() > START {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let text = format!("{} does not listen at {at}; it says:\n{log}", self.name);
                return Err(io::Error::other(text));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn all(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(&process) = all.get(next) {
            next += 1;
            let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
            for task in tasks.flatten() {
                let children = fs::read_to_string(task.path().join("children"));
                let children = children.unwrap_or_default();
                all.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
        }
        all
    }

    /// What it has used until now, to a hundredth of a second.
    pub(crate) fn cpu(&self) -> Cpu {
        self.all().into_iter().map(usage::cpu).fold(Cpu::default(), Cpu::add)
    }

    /// Memory that it has now, in bytes, as `ps` tells it (RSS).
    pub(crate) fn memory(&self) -> u64 {
        self.all().into_iter().filter_map(usage::memory).sum()
    }

    /// The most that it had since [`forget_peak`](Self::forget_peak).
    pub(crate) fn peak_memory(&self) -> u64 {
        self.all().into_iter().filter_map(usage::peak_memory).sum()
    }

    /// The peak is what it has now.
    pub(crate) fn forget_peak(&self) {
        for process in self.all() {
            // proc_pid_clear_refs(5).
            let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(id) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(id, Signal::TERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens at.
pub(crate) fn free_port() -> u16 {
    let listener = net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}

/// Where a program is, by PATH and the folders of programs for administrators.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}
