//! The disk takes no more, at one write after the other: what was not written was not done, what was done is
//! taken back or settled later, and when there is room again all goes on.

use std::time::{Duration, Instant};

use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use rustix::process::Signal as Unix;

use crate::binary::Binary;
use crate::chaos::{agree, seen};
use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, gitea};

/// More than a registration and a deregistration write.
const WRITES: u64 = 30;
/// What one page takes in the store's log.
const A_WRITE: u64 = 4096 + 24;

pub(crate) async fn join(url: &str, name: &str) -> Result<Runner, RpcError> {
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), name);
    StandInRunner::new(url).register(&options).await
}

async fn get(binary: &Binary, path: &str) -> (u16, String) {
    let program = StandInRunner::new(&format!("http://{}", binary.admin));
    let answer = program.send(hyper::Method::GET, path, &[], "").await.unwrap();
    (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
}

/// Tries until it is so, for what takes a moment to heal.
async fn until_it_joins(binary: &Binary, name: &str) -> Runner {
    let until = Instant::now() + PATIENCE;
    loop {
        match join(&binary.url, name).await {
            Ok(runner) => return runner,
            Err(error) => assert!(Instant::now() < until, "{error}\n{}", binary.log_text()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn goes_on(gitea: &StandInGitea, broker: &Broker, runner: &Runner) {
    let runner = runner.moved_to(&broker.url);
    let until = Instant::now() + PATIENCE;
    while let Err(error) = runner.declare(&["host"]).await {
        let in_doubt = error.code == "unavailable" && Instant::now() < until;
        assert!(in_doubt, "{}: {error}\n{}", runner.name, seen(gitea, broker));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_write_fails_nothing_is_lost() {
    let gitea = gitea();
    let site =
        Site::new(&gitea).set("lease.expire_after", "never").set("shutdown.deregister", "none");
    let mut binary = Binary::start_with_limited_files(&site);
    let mut held = Vec::new();
    let (mut refused, mut left) = (0, 0);
    for writes in 0..WRITES {
        let leaves = until_it_joins(&binary, &format!("leaves-{writes}")).await;
        let log = std::fs::metadata(site.path("state.db-wal")).unwrap().len();
        binary.limit_files(Some(log + writes * A_WRITE));
        let name = format!("runner-{writes}");
        match join(&binary.url, &name).await {
            Ok(runner) => held.push(runner),
            Err(error) => {
                assert_eq!(error.code, "unavailable", "{error}");
                refused += 1;
            }
        }
        // Whoever is registered goes on: its calls need no disk.
        for runner in &held {
            runner.fetch_task(0).await.unwrap();
        }
        // One that met the full disk has asked to go, and is gone sooner or later.
        left += u64::from(leaves.deregister().await.is_ok());
        binary.limit_files(None);
        held.push(until_it_joins(&binary, &format!("after-{writes}")).await);
        // The next round has a log of its own length.
        while held.len() > 6 {
            let _ = held.remove(0).deregister().await;
        }
    }
    assert!(refused >= 3, "{refused} of {WRITES} registrations met a full disk");
    assert!((3..WRITES).contains(&left), "{left} of {WRITES} deregistrations had room");
    binary.kill(Unix::TERM);
    assert!(binary.ended().success());

    let broker = Broker::start(&site).await;
    agree(&gitea, &site, &broker).await;
    for runner in &held {
        goes_on(&gitea, &broker, runner).await;
    }
    agree(&gitea, &site, &broker).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_the_broker_says_so_and_goes_on_serving() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "none");
    let mut binary = Binary::start_with_limited_files(&site);
    let runner = join(&binary.url, "one").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let asked = gitea.runners().len();
    binary.limit_files(Some(1));

    let error = join(&binary.url, "two").await.unwrap_err();
    assert_eq!(error.code, "unavailable", "{error}");
    assert_eq!(gitea.runners().len(), asked, "what is not written down is not asked for");
    runner.fetch_task(0).await.unwrap();
    let (status, health) = get(&binary, "/healthz").await;
    assert_eq!(status, 200, "{health}");
    let (status, ready) = get(&binary, "/readyz").await;
    assert_eq!(status, 503, "{ready}");
    assert!(ready.contains("store"), "{ready}");
    let (_, metrics) = get(&binary, "/metrics").await;
    assert!(metrics.contains("\nrunner_broker_store_writable 0\n"), "{metrics}");

    binary.limit_files(None);
    until_it_joins(&binary, "two").await;
    crate::support::eventually("it is ready", async || get(&binary, "/readyz").await.0 == 200)
        .await;
    let (_, metrics) = get(&binary, "/metrics").await;
    assert!(metrics.contains("\nrunner_broker_store_writable 1\n"), "{metrics}");
    binary.kill(Unix::TERM);
    assert!(binary.ended().success());
}
