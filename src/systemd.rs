//! Tells systemd, or another manager that speaks its protocol, what the broker does: ready, reloading,
//! stopping, alive. Beside [`shutdown`](crate::shutdown), as it is about the process as a whole and asks
//! the lifecycle. Without `NOTIFY_SOCKET` in the environment all of it does nothing.
//!
//! # What the watchdog catches
//!
//! - *A runtime that hangs.* One thread carries all sockets, and the sign of life is given on it: if that
//!   thread is stuck, no runner is served and systemd hears nothing.
//! - *A store whose thread has ended*, which only a new process mends.
//!
//! It lets a slow or hanging disk be: what is passed on to Gitea waits for no disk, so a restart would take
//! away from running jobs what still works, and would then hang at the same disk. `/readyz` and the metric
//! `store_writable` tell of that.

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{error, warn};

use crate::admin;
use crate::lifecycle::Lifecycle;

/// How often a broker that is not ready yet is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// By how much each look puts off systemd's time-out: a broker that lives may wait for Gitea for hours.
const MORE_TIME: Duration = Duration::from_secs(30);
/// How long a manager that does not read may hold up the runtime.
const SEND_LIMIT: Duration = Duration::from_millis(100);

/// Whether READY was told and the end was not: a fact about the process, as `NOTIFY_SOCKET` is.
static READY: AtomicBool = AtomicBool::new(false);

/// Tells READY once `/readyz` would say yes, and from then on that the broker lives, where the watchdog is
/// on. To be spawned once all parts are started; ends only where there is nothing more to tell.
pub async fn attend(lifecycle: Arc<Lifecycle>) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    while let Some(why) = admin::unready(&lifecycle).await {
        if lifecycle.is_draining() {
            return;
        }
        let status = format!("not ready yet: {why}");
        let more = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Status(&line(&status)), NotifyState::ExtendTimeoutUsec(more)]);
        sleep(LOOK).await;
    }
    READY.store(true, Ordering::Relaxed);
    tell(&[NotifyState::Ready, NotifyState::Status("serving runners")]);
    keep_alive(&lifecycle).await;
}

/// A reload begins.
pub fn reloading() {
    if READY.load(Ordering::Relaxed) {
        // Type=notify-reload asks for the time, so as to tell this reload from an earlier one.
        let now = NotifyState::monotonic_usec_now().unwrap_or(NotifyState::MonotonicUsec(0));
        tell(&[NotifyState::Reloading, now, NotifyState::Status("reading the settings again")]);
    }
}

/// The reload that was begun is over; `status` tells how it went.
pub fn reloaded(status: &str) {
    // Before the first READY this would be one, and too early.
    if READY.load(Ordering::Relaxed) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }
}

/// The broker ends.
pub fn stopping() {
    READY.store(false, Ordering::Relaxed);
    tell(&[NotifyState::Stopping, NotifyState::Status("no runner gets a task any more")]);
}

/// Whether a sign of life is given, by a runtime that can give it; see the module's page.
#[must_use]
pub fn is_alive(lifecycle: &Lifecycle) -> bool {
    // A shutdown ends the store's thread, too.
    !lifecycle.store.has_ended() || lifecycle.is_draining()
}

/// Gives the sign of life at half the time that systemd waits for it.
async fn keep_alive(lifecycle: &Lifecycle) {
    let mut usec = 0;
    if !sd_notify::watchdog_enabled(false, &mut usec) {
        return;
    }
    let mut tick = interval((Duration::from_micros(usec) / 2).max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !is_alive(lifecycle) {
            error!("the store's thread has ended: left to the watchdog, which restarts the broker");
            return;
        }
        tell(&[NotifyState::Watchdog]);
    }
}

/// Sends one message. Not by the crate's own function, which waits for as long as the manager does not read.
/// `NOTIFY_SOCKET` stays set: the broker starts no process that could inherit it.
fn tell(states: &[NotifyState<'_>]) {
    let Some(manager) = env::var_os("NOTIFY_SOCKET") else { return };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    let sent = UnixDatagram::unbound().and_then(|socket| {
        socket.set_write_timeout(Some(SEND_LIMIT))?;
        let address = match manager.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&manager)?,
        };
        socket.connect_addr(&address)?;
        socket.send(message.as_bytes())
    });
    if let Err(error) = sent {
        warn!(%error, socket = %manager.display(), "the service manager was not told");
    }
}

/// As one line: a further one would be an assignment of its own.
fn line(text: &str) -> String {
    text.trim().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_adds_an_assignment() {
        assert_eq!(line("[-] store: full\nREADY=1\r\n"), "[-] store: full READY=1");
    }
}
