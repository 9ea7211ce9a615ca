//! Points at which a debug build can be made to die as `kill -9` does, or to panic, for the tests of crashes.

#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicUsize, Ordering};

/// Ends the process at once where the environment names this point in `RUNNER_BROKER_FAULT_POINT`, or
/// the number of times that it is passed: `file-written:2` lets the first go. Panics once where
/// `RUNNER_BROKER_FAULT_PANIC` names it, with the text that follows: `file-written:text`. A release build
/// has no such points.
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    {
        static PASSED: AtomicUsize = AtomicUsize::new(0);
        if let Ok(wanted) = std::env::var("RUNNER_BROKER_FAULT_PANIC")
            && let Some((wanted, text)) = wanted.split_once(':')
            && wanted == name
            && PASSED.fetch_add(1, Ordering::Relaxed) == 0
        {
            panic!("{text}");
        }
        let Ok(wanted) = std::env::var("RUNNER_BROKER_FAULT_POINT") else { return };
        let (wanted, time) = match wanted.split_once(':') {
            Some((wanted, time)) => (wanted, time.parse().unwrap_or(1)),
            None => (&*wanted, 1),
        };
        if wanted == name && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == time {
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
