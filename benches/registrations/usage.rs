//! What the system says that a process has used.

use std::fs;

/// Ticks in a second, as proc_pid_stat(5) counts them: Linux shows a hundred to programs, whatever it has itself.
const TICKS: f64 = 100.0;

/// Seconds of CPU of a process and those of its children that have ended; of user and system together.
pub fn cpu(pid: u32) -> f64 {
    seconds(&format!("/proc/{pid}/stat"))
}

/// The same of those of its threads that have this name.
pub fn cpu_of_thread(pid: u32, name: &str) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads
        .map(|thread| thread.path())
        .filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .map(|path| seconds(&path.join("stat").to_string_lossy()))
        .sum()
}

/// Bytes of memory: `VmRSS` is what it has, `VmHWM` the most that it had.
pub fn memory(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(what)).expect("proc_pid_status(5)");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

fn seconds(stat: &str) -> f64 {
    let stat = fs::read_to_string(stat).unwrap_or_default();
    // The name in parentheses may hold anything; the fields behind it are counted from the third.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: f64 = fields
        .split_whitespace()
        .skip(14 - 3)
        .take(4)
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    ticks / TICKS
}
