//! How many files and sockets the system lets the broker have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Asks for as many as may be had: what is inherited is often meant for programs that still use `select`.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        // Where that is refused, it stays as it is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many there may be.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
