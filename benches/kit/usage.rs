//! What the system says that a process has used: proc(5).

use std::fs;
use std::ops::Add;
use std::path::Path;
use std::time::Duration;

/// Linux counts CPU in these towards programs, whatever its own clock does (USER_HZ).
const TICK: f64 = 0.01;

/// Seconds of CPU, to a hundredth.
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

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

/// CPU of a process without its children; none where it is gone.
pub(crate) fn cpu(process: u32) -> Cpu {
    ticks(process, 14)
}

/// CPU of those of its children that have ended.
pub(crate) fn cpu_of_ended_children(process: u32) -> Cpu {
    ticks(process, 16)
}

/// User and system by the number of the first of both fields, as proc_pid_stat(5) counts them.
fn ticks(process: u32, first: usize) -> Cpu {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else {
        return Cpu::default();
    };
    // The name in parentheses may hold anything; the fields behind it are counted from the third.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = |number: usize| {
        let field = fields.split_whitespace().nth(number - 3);
        field.and_then(|field| field.parse::<f64>().ok()).expect("proc_pid_stat(5)") * TICK
    };
    Cpu { user: field(first), system: field(first + 1) }
}

/// CPU of a thread by its folder in `/proc`, to the nanosecond; none where it is gone.
pub(crate) fn cpu_of_thread(thread: &Path) -> Duration {
    let spent = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let spent = spent.split_whitespace().next().and_then(|spent| spent.parse().ok());
    Duration::from_nanos(spent.unwrap_or_default())
}

/// The same of those threads of a process that have this name.
pub(crate) fn cpu_of_threads(process: u32, name: &str) -> Duration {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    threads
        .flatten()
        .map(|thread| thread.path())
        .filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .map(|path| cpu_of_thread(&path))
        .sum()
}

/// Memory that a process has now, in bytes, as `ps` tells it (RSS); `None` where it is gone.
pub(crate) fn memory(process: u32) -> Option<u64> {
    status(process, "VmRSS:")
}

/// The most memory that it had.
pub(crate) fn peak_memory(process: u32) -> Option<u64> {
    status(process, "VmHWM:")
}

fn status(process: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
