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
            .stderr(Stdio::piped())
            .spawn();
        Self(child.unwrap())
    }

    fn kill(&self, signal: Unix) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Waits for its end, which is to be an orderly one. Returns how long that took.
    fn ended(&mut self) -> Duration {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                assert!(status.success(), "{status}");
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "the broker does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
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
    broker.ended();
    while manager.next() == ["WATCHDOG=1"] {}
}

/// The runtime writes the log itself: what nobody reads stops it, as a loop without end would.
#[tokio::test(flavor = "multi_thread")]
async fn the_watchdog_hears_nothing_from_a_runtime_that_hangs() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    site.write_config("");
    let manager = Manager::new(&site);
    let mut broker = Watched::start(&site, &manager.path, "100000", "$$");
    assert_eq!(manager.next()[0], "READY=1");
    // A complaint about each, more than a pipe holds.
    let wrong: String = (0..2000).map(|number| format!("wrong{number} = 1\n")).collect();
    site.write_config(&wrong);
    broker.kill(Unix::HUP);
    while manager.next()[0] != "RELOADING=1" {}
    // Twenty signs of life would come in that time.
    manager.socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let heard = manager.socket.recv(&mut [0; 4096]).map_err(|error| error.kind());
    assert_eq!(heard, Err(std::io::ErrorKind::WouldBlock));

    let mut log = broker.0.stderr.take().unwrap();
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    manager.socket.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(manager.next()[0], "READY=1");
    assert_eq!(manager.next(), ["WATCHDOG=1"]);
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
    broker.ended();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_does_not_read_does_not_hold_up_the_broker() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let manager = Manager::new(&site);
    let mut broker = Watched::start(&site, &manager.path, "2000", "$$");
    assert_eq!(manager.next()[0], "READY=1");
    // From a new socket each time, as what one may have on its way is bounded too.
    let fill = || {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to(b"X=1", &manager.path)
    };
    let until = Instant::now() + PATIENCE;
    while fill().is_ok() {
        assert!(Instant::now() < until, "the queue has no end");
    }
    broker.kill(Unix::QUIT);
    let took = broker.ended();
    assert!(took < Duration::from_secs(5), "took {took:?}");
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
