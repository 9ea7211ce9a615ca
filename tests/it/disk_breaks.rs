//! The disk under the store breaks (EIO) at one place after the other, or cannot be read: the broker refuses to
//! start and says what to do, or goes on without what it cannot write down; when the disk is whole again, nothing
//! is lost.

use rustix::process::Signal as Unix;

use crate::binary::Binary;
use crate::chaos::agree;
use crate::disk_errors::{goes_on, join};
use crate::support::{Broker, Site, gitea};
use crate::test_system::{Which, refuse};

/// What a page takes in the store's log.
const A_WRITE: u64 = 4096 + 24;
/// More than a start, a registration and a deregistration write.
const WRITES: u64 = 24;

/// A broker to which the system refuses these calls.
fn start(site: &Site, call: i64, which: Which, errno: i32) -> Binary {
    // What is refused to a thread is refused to what it starts.
    std::thread::scope(|scope| {
        let started = scope.spawn(|| {
            refuse(call, which, errno);
            Binary::spawn(site, &[])
        });
        started.join().unwrap()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wherever_the_disk_breaks_nothing_is_lost() {
    let gitea = gitea();
    let site =
        Site::new(&gitea).set("lease.expire_after", "never").set("shutdown.deregister", "none");
    let mut held = Vec::new();
    let [mut not_started, mut refused, mut stayed] = [0, 0, 0];
    let calls = (0..WRITES)
        .map(|write| (libc::SYS_pwrite64, Which::AtLeast(3, write * A_WRITE)))
        .chain([(libc::SYS_fsync, Which::All)]);
    for (number, (call, which)) in calls.enumerate() {
        // A whole disk, and who leaves on the broken one.
        let broker = Broker::start(&site).await;
        agree(&gitea, &site, &broker).await;
        let leaves = join(&broker.url, &format!("leaves-{number}")).await.unwrap();
        while held.len() > 3 {
            let runner: runner_broker::sandbox::runner::Runner = held.remove(0);
            runner.moved_to(&broker.url).deregister().await.unwrap();
        }
        broker.stop().await;

        let binary = start(&site, call, which, libc::EIO);
        let Some(mut binary) = binary.listening_or_ended() else {
            not_started += 1;
            held.push(leaves);
            continue;
        };
        match join(&binary.url, &format!("runner-{number}")).await {
            Ok(runner) => held.push(runner),
            Err(error) => {
                assert_eq!(error.code, "unavailable", "{error}\n{}", binary.log_text());
                refused += 1;
            }
        }
        // Whoever is registered goes on: its calls need no disk.
        for runner in &held {
            let fetched = runner.moved_to(&binary.url).fetch_task(0).await;
            fetched.unwrap_or_else(|error| panic!("{error}\n{}", binary.log_text()));
        }
        // One that is refused has asked to go, and is gone sooner or later.
        stayed += u64::from(leaves.moved_to(&binary.url).deregister().await.is_err());
        binary.kill(Unix::TERM);
        binary.ended();
        let log = binary.log_text();
        assert!(refused == 0 || log.contains("check the volume"), "{log}");
    }
    assert!(refused > 3 && stayed > 3, "{not_started} {refused} {stayed}");
    let broker = Broker::start(&site).await;
    agree(&gitea, &site, &broker).await;
    for runner in &held {
        goes_on(&gitea, &broker, runner).await;
    }
    agree(&gitea, &site, &broker).await;
    broker.stop().await;
    let faults = WRITES + 1;
    println!(
        "{faults} places at which the disk broke: {not_started} starts, {refused} registrations and {stayed} \
         deregistrations were refused, and nothing was lost"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_used_is_refused_with_a_way_out() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "none");
    let broker = Broker::start(&site).await;
    let runner = join(&broker.url, "one").await.unwrap();
    broker.stop().await;
    let mut binary = start(&site, libc::SYS_pread64, Which::AtLeast(3, 4096), libc::EIO);
    assert_eq!(binary.ended().code(), Some(69), "{}", binary.log_text());
    let log = binary.log_text();
    assert!(log.contains("state.db") && log.contains("look for disk errors"), "{log}");
    let broker = Broker::start(&site).await;
    goes_on(&gitea, &broker, &runner).await;
    broker.stop().await;
}
