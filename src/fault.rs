//! Points at which a debug build can be made to die as `kill -9` does, for the tests of crashes.

/// Ends the process at once where the environment names this point in `RUNNER_BROKER_FAULT_POINT`.
/// A release build has no such points.
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    if std::env::var_os("RUNNER_BROKER_FAULT_POINT").is_some_and(|wanted| wanted == *name) {
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
