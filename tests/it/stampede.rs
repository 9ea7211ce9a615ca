//! A cluster starts: all its runners register at once, wait in turn, and each has what it came for. The bench
//! `registrations` has a thousand of them.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use runner_broker::connect::messages::RegisterRequest;
use runner_broker::connect::{Codec, decode};
use runner_broker::lifecycle::Timing;
use runner_broker::sandbox::gitea::{Effect, Entry, Route, When};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use rustix::process::Signal as Unix;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::task::{JoinSet, yield_now};

use crate::binary::Binary;
use crate::raw::{Wire, request};
use crate::register::{join, registers};
use crate::support::{
    Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, quick, runner_file, within,
};

/// Registrations that Gitea is asked for at a time, as `docs/limits.md` tells.
const AT_ONCE: usize = 16;
const CLUSTER: usize = 300;
/// More than the kernel holds unless it is told to.
const CONNECTIONS: usize = 1000;

/// As the real one does: it asks whether anybody is there, and registers.
async fn come(url: String, name: String) -> Result<Runner, RpcError> {
    let program = StandInRunner::new(&url);
    program.ping(&name).await?;
    program.register(&RegisterOptions::new(ENROLLMENT_TOKEN.into(), &name)).await
}

/// They come one after the other, and wait.
async fn line_up(broker: &Broker, count: usize) -> JoinSet<Result<Runner, RpcError>> {
    let mut coming = JoinSet::new();
    for number in 0..count {
        coming.spawn(come(broker.url.clone(), number.to_string()));
        within(async {
            while broker.lifecycle.registering() <= number {
                yield_now().await;
            }
        })
        .await;
    }
    coming
}

fn name_of(entry: &Entry) -> String {
    decode::<RegisterRequest>(Codec::Proto, &entry.body).unwrap().name
}

/// How many of them were with Gitea at one time.
fn most_at_once(entries: &[Entry]) -> usize {
    let mut moments: Vec<(SystemTime, isize)> = entries
        .iter()
        .flat_map(|entry| [(entry.at, 1), (entry.answered_at.unwrap(), -1)])
        .collect();
    // Of one moment, those that leave go first.
    moments.sort_unstable();
    let (mut there, mut most) = (0, 0);
    for (_, step) in moments {
        there += step;
        most = most.max(there);
    }
    usize::try_from(most).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_starts_is_registered_as_a_whole() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let mut binary = Binary::start(&site);
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let mut coming = JoinSet::new();
    for number in 0..CLUSTER {
        coming.spawn(come(binary.url.clone(), format!("runner-{number}")));
    }
    // All have come, and sixteen are let in.
    gate.reached_by(AT_ONCE).await;
    let pings = |entry: &&Entry| entry.target.ends_with("/Ping") && entry.answered_at.is_some();
    eventually("all have come", async || gitea.journal().count(pings) >= CLUSTER).await;
    assert_eq!(registers(&gitea).len(), AT_ONCE);
    gate.open();

    let runners = coming.join_all().await;
    let runners: Vec<_> = runners.into_iter().map(|came| came.unwrap()).collect();
    let identities: BTreeSet<_> = runners
        .iter()
        .map(|runner| {
            let credentials = &runner.credentials;
            (credentials.id, credentials.uuid.as_str(), credentials.token.expose_secret())
        })
        .collect();
    assert_eq!(identities.len(), CLUSTER, "each is its own");
    let asked = registers(&gitea);
    assert_eq!(asked.len(), CLUSTER, "none was asked for twice");
    assert_eq!(most_at_once(&asked), AT_ONCE);
    // Gitea, the files and, over a restart, the store agree.
    let ids: BTreeSet<_> = runners.iter().map(|runner| runner.credentials.id).collect();
    let rows: BTreeSet<_> = gitea.runners().iter().map(|row| row.id).collect();
    assert_eq!(ids, rows);
    for runner in &runners {
        let file = runner_file(&site.runner_file(&runner.name));
        assert_eq!(file["uuid"], runner.credentials.uuid);
    }
    binary.kill(Unix::QUIT);
    assert!(binary.ended().success());
    let broker = Broker::start(&site).await;
    let kept: BTreeSet<_> = broker.lifecycle.roster.all().iter().map(|live| live.id()).collect();
    assert_eq!(ids, kept);
    broker.signal(runner_broker::shutdown::Signal::Quit).await;
    broker.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_first_is_registered_first() {
    const COME: usize = 100;
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let coming = line_up(&broker, COME).await;
    gate.open();
    for came in coming.join_all().await {
        came.unwrap();
    }
    let order: Vec<usize> =
        registers(&gitea).iter().map(|entry| name_of(entry).parse().unwrap()).collect();
    assert_eq!(order.len(), COME);
    for (place, number) in order.iter().enumerate() {
        // It has its turn when those have ended that came so many places before it.
        let before = &order[..place];
        let earlier = before.iter().filter(|other| **other + AT_ONCE <= *number).count();
        assert_eq!(earlier, (number + 1).saturating_sub(AT_ONCE), "{number} in {order:?}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gitea_that_is_slow_is_waited_for() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    // Seven times sixteen, at 0.4 s each: the last ones wait for longer than the queue may stand still.
    let timing = Timing { turn: Duration::from_secs(2), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let slow = Effect::Delay(Duration::from_millis(400));
    gitea.faults().always(Route::Register, When::BeforeActing, slow);
    let mut coming = JoinSet::new();
    for number in 0..7 * AT_ONCE {
        coming.spawn(come(broker.url.clone(), number.to_string()));
    }
    let came = coming.join_all().await;
    let refused: Vec<_> = came.iter().filter_map(|came| came.as_ref().err()).collect();
    assert!(refused.is_empty(), "{} are refused: {}", refused.len(), refused[0]);
    assert_eq!(gitea.runners().len(), 7 * AT_ONCE);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_a_hundred_admits_a_hundred_of_those_who_come_at_once() {
    const ADMITS: usize = 100;
    let gitea = gitea();
    let site = Site::new(&gitea);
    let file = site.path("limited");
    site.write_secret("limited", LIMITED);
    site.write_config(&format!(
        "[[enrollment.tokens]]\nname = \"limited\"\ntoken_file = {file:?}\nmax_uses = {ADMITS}\n"
    ));
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let mut coming = JoinSet::new();
    for number in 0..3 * ADMITS {
        let options = RegisterOptions::new(LIMITED.into(), &number.to_string());
        let program = StandInRunner::new(&broker.url);
        coming.spawn(async move { program.register(&options).await });
    }
    // Those whose place is not certain yet wait, too.
    eventually("all wait", async || broker.lifecycle.registering() == 3 * ADMITS).await;
    gate.open();
    let came = coming.join_all().await;
    let refused: Vec<_> = came.iter().filter_map(|came| came.as_ref().err()).collect();
    assert_eq!(refused.len(), 2 * ADMITS);
    assert!(refused.iter().all(|error| error.code == "permission_denied"), "{}", refused[0]);
    assert_eq!(gitea.runners().len(), ADMITS);
    let limited = broker.lifecycle.token("limited").unwrap();
    assert_eq!((limited.token.uses, limited.live_runners), (ADMITS as u64, ADMITS));
    broker.stop().await;
}

const LIMITED: &str = "a-token-for-a-hundred-0123456789abcdef";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_too_many_for_the_queue_is_told_when_to_come_again() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.registrations", "20");
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let coming = line_up(&broker, 20).await;
    let mut wire = Wire::dial(&broker.url).await;
    wire.register(&request("late")).await;
    let answer = wire.answer().await.unwrap();
    assert_eq!(answer.status, 429);
    assert_eq!(answer.head.all("retry-after").len(), 1);
    gate.open();
    for came in coming.join_all().await {
        came.unwrap();
    }
    join(&broker, "late").await.unwrap();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_turn_keeps_no_runner_of_the_same_address_from_its_calls() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("limits.requests_per_peer", "20").set("limits.requests", "30");
    let broker = Broker::start(&site).await;
    let at_work = join(&broker, "at-work").await.unwrap();
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let coming = line_up(&broker, 40).await;
    at_work.declare(&["host"]).await.unwrap();
    at_work.fetch_task(0).await.unwrap();
    gate.open();
    for came in coming.join_all().await {
        came.unwrap().declare(&["host"]).await.unwrap();
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_taken_while_the_broker_is_at_something_else() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let binary = Binary::start(&site);
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let most: usize = most.trim().parse().unwrap();
    // For as long as it likes: here it has none of the processor.
    binary.kill(Unix::STOP);
    let authority = binary.url.strip_prefix("http://").unwrap();
    let mut waiting = Vec::new();
    for _ in 0..most.min(CONNECTIONS) {
        waiting.push(within(TcpStream::connect(authority)).await.unwrap());
    }
    binary.kill(Unix::CONT);
    for stream in waiting {
        let mut wire = Wire::of(stream);
        wire.say("GET / HTTP/1.1\r\nHost: broker\r\n\r\n").await;
        assert_eq!(wire.answer().await.unwrap().status, 404);
    }
}
