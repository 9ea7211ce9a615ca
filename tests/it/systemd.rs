//! What the built binary tells systemd, at a socket of the test's own.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal as Unix, kill_process};
use sd_notify::NotifyState;

use crate::binary::Binary;
use crate::support::{Broker, PATIENCE, Site, gitea};

/// In the place of systemd.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(site: &Site) -> Self {
        let path = site.path("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, path }
    }

    /// The next message, an assignment each.
    fn next(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message).expect("a message comes in time");
        String::from_utf8(message[..length].to_vec()).unwrap().lines().map(str::to_owned).collect()
    }

    /// The next message, which is to be the last: the broker has ended.
    fn last(&self) -> Vec<String> {
        let message = self.next();
        self.socket.set_nonblocking(true).unwrap();
        assert!(self.socket.recv(&mut [0]).is_err(), "something came after {message:?}");
        message
    }
}

/// The binary with a watchdog, started as systemd does it: it is named the process that is meant.
struct Watched(Child);

impl Watched {
    fn start(site: &Site, notify: &Path, usec: &str, pid: &str) -> Self {
        let script = format!("WATCHDOG_PID={pid} exec \"$0\" serve");
        let child = Command::new("/bin/sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_runner-broker")])
            .env_clear()
            .envs(site.environment())
            .env("NOTIFY_SOCKET", notify)
            .env("WATCHDOG_USEC", usec)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn kill(&self, signal: Unix) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn monotonic_usec() -> i128 {
    match NotifyState::monotonic_usec_now() {
        Ok(NotifyState::MonotonicUsec(now)) => now,
        other => panic!("{other:?} is no time"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_reload_and_stop_are_told_in_their_order() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.drain_timeout", "500ms");
    site.write_config("");
    let manager = Manager::new(&site);
    let mut broker =
        Binary::start_with(&site, &[("NOTIFY_SOCKET", manager.path.to_str().unwrap())]);
    assert_eq!(manager.next(), ["READY=1", "STATUS=serving runners"]);

    for (settings, outcome) in [
        ("", "STATUS=serving runners by the settings as read again"),
        (
            "[log]\nlevel = \"loud\"\n",
            "STATUS=serving runners; the changed settings are wrong, see the log",
        ),
    ] {
        site.write_config(settings);
        let before = monotonic_usec();
        broker.kill(Unix::HUP);
        let told = manager.next();
        assert_eq!(told[0], "RELOADING=1");
        let at: i128 = told[1].strip_prefix("MONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!(before <= at && at <= monotonic_usec(), "{at} is not the time of the reload");
        assert_eq!(told[2..], ["STATUS=reading the settings again"]);
        assert_eq!(manager.next(), ["READY=1", outcome]);
    }

    broker.kill(Unix::TERM);
    assert!(broker.ended().success(), "{}", broker.log_text());
    assert_eq!(manager.last(), ["STOPPING=1", "STATUS=no runner gets a task any more"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_hears_from_a_broker_that_lives_until_its_end() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.drain_timeout", "500ms");
    let manager = Manager::new(&site);
    let mut broker = Watched::start(&site, &manager.path, "200000", "$$");
    assert_eq!(manager.next()[0], "READY=1");
    assert_eq!(manager.next(), ["WATCHDOG=1"], "the first is not waited for");
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(manager.next(), ["WATCHDOG=1"]);
    }
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(300), "half of the time between two, took {took:?}");
    broker.kill(Unix::QUIT);
    assert!(broker.0.wait().unwrap().success());
    while manager.next() == ["WATCHDOG=1"] {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_that_is_for_another_process_hears_nothing() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let manager = Manager::new(&site);
    let mut broker = Watched::start(&site, &manager.path, "1000", "1");
    assert_eq!(manager.next()[0], "READY=1");
    broker.kill(Unix::QUIT);
    assert_eq!(manager.next()[0], "STOPPING=1");
    assert!(broker.0.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_does_not_read_does_not_hold_up_the_broker() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let manager = Manager::new(&site);
    // More messages in a second than any system keeps unread.
    let mut broker = Watched::start(&site, &manager.path, "2000", "$$");
    assert_eq!(manager.next()[0], "READY=1");
    let until = Instant::now() + PATIENCE;
    let filled = UnixDatagram::unbound().unwrap();
    filled.connect(&manager.path).unwrap();
    filled.set_nonblocking(true).unwrap();
    while filled.send(b"X=1").is_ok() {
        assert!(Instant::now() < until, "the queue has no end");
    }
    broker.kill(Unix::QUIT);
    let begun = Instant::now();
    assert!(broker.0.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_not_there_is_told_in_the_log_and_no_more() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let missing = site.path("nothing.sock");
    let mut broker = Binary::start_with(&site, &[("NOTIFY_SOCKET", missing.to_str().unwrap())]);
    broker.wait_for("the service manager was not told");
    broker.kill(Unix::QUIT);
    assert!(broker.ended().success());
}

#[tokio::test]
async fn a_store_whose_thread_has_ended_is_no_sign_of_life_but_in_a_shutdown() {
    let gitea = gitea();
    let broker = Broker::start(&Site::new(&gitea)).await;
    assert!(runner_broker::systemd::is_alive(&broker.lifecycle));
    broker.lifecycle.store.close().await.unwrap();
    assert!(!runner_broker::systemd::is_alive(&broker.lifecycle));
    broker.lifecycle.begin_drain();
    assert!(runner_broker::systemd::is_alive(&broker.lifecycle));
}
