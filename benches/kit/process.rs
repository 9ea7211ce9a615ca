//! Processes under measurement: started, watched by what the system says of them, and ended.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io, net, thread};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take until it listens.
const START: Duration = Duration::from_secs(20);
/// Linux counts CPU in these towards programs, whatever its own clock does (USER_HZ).
const TICK: f64 = 0.01;

/// A process and its children; it ends with this value.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// Seconds of CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    /// In the process itself.
    pub(crate) user: f64,
    /// In the kernel, on its behalf.
    pub(crate) system: f64,
}

impl Cpu {
    /// Both.
    pub(crate) fn total(self) -> f64 {
        self.user + self.system
    }

    /// What was spent since.
    pub(crate) fn since(self, before: Self) -> Self {
        Self { user: self.user - before.user, system: self.system - before.system }
    }
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
        let mut cpu = Cpu::default();
        for process in self.all() {
            let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
            // The name in parentheses may hold anything; the fields behind it are counted from the third.
            let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
            let field = |number: usize| {
                let field = fields.split_whitespace().nth(number - 3);
                field.and_then(|field| field.parse::<f64>().ok()).expect("proc_pid_stat(5)") * TICK
            };
            cpu.user += field(14);
            cpu.system += field(15);
        }
        cpu
    }

    /// Memory that it has now, in bytes, as `ps` tells it (RSS).
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it had since [`forget_peak`](Self::forget_peak).
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// The peak is what it has now.
    pub(crate) fn forget_peak(&self) {
        for process in self.all() {
            // proc_pid_clear_refs(5).
            let _ = fs::write(format!("/proc/{process}/clear_refs"), "5");
        }
    }

    fn status(&self, field: &str) -> u64 {
        let of = |process: &u32| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
            let value = status.lines().find_map(|line| line.strip_prefix(field))?;
            value.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        self.all().iter().filter_map(of).sum::<u64>() * 1024
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
