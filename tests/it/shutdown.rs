//! The end of the broker, in this process: who is deregistered, what still passes, and that it ends in
//! time whatever Gitea does. `signals` has the same with the built binary.

use std::time::{Duration, Instant};

use runner_broker::broker::{Reason, RecordState};
use runner_broker::connect::Codec;
use runner_broker::connect::messages::TaskResult;
use runner_broker::sandbox::gitea::{Effect, Route, StandInGitea, TaskState, When};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use runner_broker::store::Store;
use secrecy::ExposeSecret;
use tokio::io::AsyncWriteExt;

use crate::deregister::{calls, deletions, join, join_busy};
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea};

/// The bounds of most tests: the broker is to end by itself well before, and at the deadline at last.
const DEADLINE: Duration = Duration::from_secs(2);

pub(crate) fn site(gitea: &StandInGitea, drain: &str, deadline: &str) -> Site {
    Site::new(gitea).set("shutdown.drain_timeout", drain).set("shutdown.deadline", deadline)
}

/// Its process ends: all of its connections close.
async fn leaves(broker: &Broker, runner: Runner) {
    let live = broker
        .lifecycle
        .roster
        .all()
        .into_iter()
        .find(|live| live.presented.uuid == runner.credentials.uuid)
        .unwrap();
    drop(runner);
    eventually("its connections are closed", async || !live.is_connected()).await;
}

/// Names of the runners that Gitea still has.
fn left(gitea: &StandInGitea) -> Vec<String> {
    let mut names: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
    names.sort();
    names
}

async fn left_are(gitea: &StandInGitea, names: &[&str]) {
    eventually(&format!("{names:?} are left"), async || left(gitea) == names).await;
}

/// Name and state of the records in the store of a broker that has ended.
async fn records(site: &Site) -> Vec<(String, RecordState)> {
    let store = Store::open(&site.path("state.db")).unwrap();
    let records = store.runners().await.unwrap();
    store.close().await.unwrap();
    records.into_iter().map(|record| (record.name, record.state)).collect()
}

async fn draining(broker: &Broker) {
    broker.signal(Signal::Terminate).await;
    eventually("it drains", async || broker.lifecycle.is_draining()).await;
}

#[tokio::test]
async fn who_is_deregistered_is_set() {
    // A runner "orphaned" is gone and has left its task behind.
    for (mode, busy, expected) in [
        ("gone", "leave", vec!["busy", "idle", "orphaned"]),
        ("gone", "cancel", vec!["busy", "idle"]),
        ("all", "leave", vec!["busy", "orphaned"]),
        ("all", "cancel", vec![]),
        ("auto", "leave", vec!["busy", "orphaned"]),
        ("none", "cancel", vec!["busy", "gone", "idle", "orphaned"]),
    ] {
        let gitea = gitea();
        let site =
            site(&gitea, "200ms", "4s").set("shutdown.deregister", mode).set("shutdown.busy", busy);
        let broker = Broker::start(&site).await;
        let gone = join(&broker.url, "gone").await;
        leaves(&broker, gone).await;
        let (orphaned, lost) = join_busy(&gitea, &broker.url, "orphaned").await;
        leaves(&broker, orphaned).await;
        let idle = join(&broker.url, "idle").await;
        let (busy, task) = join_busy(&gitea, &broker.url, "busy").await;
        gitea.journal().clear();
        let took = broker.stop().await;

        assert_eq!(left(&gitea), expected, "{mode}");
        assert!(took < Duration::from_secs(2), "{mode}: took {took:?}");
        let kept = records(&site).await.len();
        assert_eq!(kept, expected.len(), "{mode}: each runner left has its record");
        for (name, task) in [("busy", task), ("orphaned", lost)] {
            let ended = TaskState::Ended(TaskResult::Cancelled);
            let expected = if expected.contains(&name) { TaskState::Running } else { ended };
            assert_eq!(gitea.task(task).unwrap().state, expected, "{mode}: {name}");
        }
        if mode == "none" {
            assert!(calls(&gitea).is_empty(), "{:?}", calls(&gitea));
        }
        drop((idle, busy));
    }
}

#[tokio::test]
async fn while_it_drains_reports_pass_and_nobody_gets_work() {
    let gitea = gitea();
    let site = site(&gitea, "8s", "19s");
    let broker = Broker::start(&site).await;
    let idle = join(&broker.url, "idle").await;
    let json = RegisterOptions {
        codec: Codec::Json,
        ..RegisterOptions::new(ENROLLMENT_TOKEN.into(), "json")
    };
    let json = StandInRunner::new(&broker.url).register(&json).await.unwrap();
    json.declare(&["host"]).await.unwrap();
    let (busy, task) = join_busy(&gitea, &broker.url, "busy").await;
    gitea.queue_task(&["host"]);
    gitea.journal().clear();
    draining(&broker).await;
    let begun = Instant::now();

    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "late");
    let error = StandInRunner::new(&broker.url).register(&options).await.unwrap_err();
    assert_eq!(error.code, "unavailable", "{error}");
    for runner in [&idle, &json] {
        assert_eq!(runner.fetch_task(0).await.unwrap(), (None, 0));
    }
    assert!(calls(&gitea).is_empty(), "{:?}", calls(&gitea));
    assert_eq!(busy.update_log(task, 0, &["still here"], true).await.unwrap(), 1);
    busy.update_task(task, TaskResult::Success).await.unwrap();
    assert_eq!(gitea.task(task).unwrap().state, TaskState::Ended(TaskResult::Success));
    // Each that goes now is deregistered now, and with the last of them the drain is over.
    drop(busy);
    left_are(&gitea, &["idle", "json"]).await;
    drop((idle, json));
    broker.ended().await;
    assert!(left(&gitea).is_empty());
    assert!(begun.elapsed() < Duration::from_secs(6), "took {:?}", begun.elapsed());
}

#[tokio::test]
async fn one_that_hangs_does_not_hold_up_the_others() {
    let gitea = gitea();
    let site = site(&gitea, "18s", "19s");
    let broker = Broker::start(&site).await;
    let (first, second) = (join(&broker.url, "first").await, join(&broker.url, "second").await);
    leaves(&broker, first).await;
    gitea.journal().clear();
    gitea.faults().once(Route::Declare, When::BeforeActing, Effect::Stall);
    let begun = Instant::now();
    draining(&broker).await;
    gitea.journal().wait_for(|entry| entry.target.ends_with("/Declare")).await;
    drop(second);
    left_are(&gitea, &["first"]).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    broker.signal(Signal::Terminate).await;
    broker.ended().await;
}

#[tokio::test]
async fn a_registration_in_flight_runs_to_its_end() {
    for (mode, expected) in [("gone", vec!["one"]), ("all", vec![])] {
        let gitea = gitea();
        let site = site(&gitea, "500ms", "6s").set("shutdown.deregister", mode);
        let broker = Broker::start(&site).await;
        let gate = gitea.faults().gate(Route::Register, When::AfterActing);
        let program = StandInRunner::new(&broker.url);
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
        let registering = tokio::spawn(async move { program.register(&options).await });
        gate.reached().await;
        draining(&broker).await;
        gate.open();
        registering.await.unwrap().expect("the answer reaches its runner");
        broker.ended().await;
        assert_eq!(left(&gitea), expected, "{mode}");
        assert_eq!(records(&site).await.len(), expected.len(), "{mode}");
    }
}

#[tokio::test]
async fn it_ends_in_time_whatever_hangs() {
    for hanging in [Route::Declare, Route::DeleteRunner, Route::Register, Route::UpdateLog] {
        let gitea = gitea();
        let site = site(&gitea, "500ms", "2s").set("shutdown.deregister", "all");
        let broker = Broker::start(&site).await;
        let idle = join(&broker.url, "idle").await;
        let (busy, task) = join_busy(&gitea, &broker.url, "busy").await;
        gitea.journal().clear();
        gitea.faults().always(hanging.clone(), When::BeforeActing, Effect::Stall);
        let program = StandInRunner::new(&broker.url);
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "late");
        let late = tokio::spawn(async move { program.register(&options).await });
        let report = tokio::spawn(async move { busy.update_log(task, 0, &["x"], false).await });
        gitea.journal().wait_for(|entry| entry.target.ends_with("/Register")).await;
        gitea.journal().wait_for(|entry| entry.target.ends_with("/UpdateLog")).await;
        // One that sent half a request, and one that sent nothing.
        let address = broker.url.trim_start_matches("http://");
        let mut half = tokio::net::TcpStream::connect(address).await.unwrap();
        half.write_all(b"POST /api/actions/ping.v1.PingService/Ping HTTP/1.1\r\nHo").await.unwrap();
        let silent = tokio::net::TcpStream::connect(address).await.unwrap();

        let took = broker.stop().await;
        assert!(took < DEADLINE, "{hanging:?}: took {took:?}");
        assert!(left(&gitea).contains(&"busy".to_owned()), "{hanging:?}");
        drop((idle, late, report, half, silent));
    }
}

#[tokio::test]
async fn with_gitea_down_it_ends_in_time_and_the_next_start_settles() {
    let gitea = gitea();
    let site = site(&gitea, "500ms", "2s").set("shutdown.deregister", "all");
    let broker = Broker::start(&site).await;
    let (one, two) = (join(&broker.url, "one").await, join(&broker.url, "two").await);
    gitea.set_down().await.unwrap();
    let took = broker.stop().await;
    assert!(took < DEADLINE, "took {took:?}");
    let state = RecordState::Deregistering(Reason::Shutdown);
    assert_eq!(records(&site).await, [("one".into(), state), ("two".into(), state)]);

    let broker = Broker::start(&site).await;
    // Gitea does not answer it yet, but it has spoken.
    one.moved_to(&broker.url).fetch_task(0).await.unwrap_err();
    gitea.set_up().await.unwrap();
    left_are(&gitea, &["one"]).await;
    one.moved_to(&broker.url).fetch_task(0).await.unwrap();
    eventually("one record is left", async || broker.lifecycle.roster.all().len() == 1).await;
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    assert_eq!(records(&site).await, [("one".into(), RecordState::Active)]);
    drop(two);
}

#[tokio::test]
async fn one_that_speaks_at_the_last_moment_is_kept() {
    let gitea = gitea();
    let site = site(&gitea, "500ms", "2s").set("shutdown.deregister", "all");
    let broker = Broker::start(&site).await;
    let [one, two, three] = [
        join(&broker.url, "one").await,
        join(&broker.url, "two").await,
        join(&broker.url, "three").await,
    ];
    gitea.set_down().await.unwrap();
    broker.stop().await;
    gitea.set_up().await.unwrap();
    gitea.journal().clear();
    let gate = gitea.faults().gate(Route::Declare, When::BeforeActing);
    let broker = Broker::start(&site).await;
    gate.reached().await;
    // The first is being proved, the second is next in the list.
    one.moved_to(&broker.url).fetch_task(0).await.unwrap();
    two.moved_to(&broker.url).fetch_task(0).await.unwrap();
    gate.open();
    eventually("the third is gone", async || broker.lifecycle.roster.all().len() < 3).await;
    assert_eq!(left(&gitea), ["one", "two"]);
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    let kept = |name: &str| (name.to_owned(), RecordState::Active);
    assert_eq!(records(&site).await, [kept("one"), kept("two")]);
    drop(three);
}

#[tokio::test]
async fn one_that_gets_a_task_at_the_last_moment_is_not_deleted() {
    let gitea = gitea();
    let site = site(&gitea, "500ms", "3s").set("shutdown.deregister", "all");
    let broker = Broker::start(&site).await;
    let runner = join(&broker.url, "one").await;
    gitea.queue_task(&["host"]);
    gitea.journal().clear();
    let poll = gitea.faults().gate(Route::FetchTask, When::AfterActing);
    let polling = tokio::spawn(async move { (runner.fetch_task(0).await, runner) });
    poll.reached().await;
    draining(&broker).await;
    gitea.journal().wait_for(|entry| entry.target.ends_with("/Declare")).await;
    StandInRunner::new(&broker.url).ping("time passes").await.unwrap();
    assert_eq!(deletions(&gitea), 0, "the poll may bring a task");
    poll.open();
    let (fetched, runner) = polling.await.unwrap();
    assert!(fetched.unwrap().0.is_some());
    broker.ended().await;
    assert_eq!(left(&gitea), ["one"]);
    assert_eq!(gitea.tasks()[0].state, TaskState::Running);
    drop(runner);
}

#[tokio::test]
async fn a_second_sigterm_ends_the_waiting_and_sigquit_waits_for_nothing() {
    for (first, second) in [
        (Signal::Terminate, Some(Signal::Terminate)),
        (Signal::Terminate, Some(Signal::Quit)),
        (Signal::Quit, None),
    ] {
        let gitea = gitea();
        let site = site(&gitea, "15s", "18s");
        let broker = Broker::start(&site).await;
        let idle = join(&broker.url, "idle").await;
        let gone = join(&broker.url, "gone").await;
        leaves(&broker, gone).await;
        let address = broker.url.trim_start_matches("http://").to_owned();
        let mut half = tokio::net::TcpStream::connect(address).await.unwrap();
        half.write_all(b"POST / HT").await.unwrap();
        gitea.faults().always(Route::DeleteRunner, When::BeforeActing, Effect::Stall);
        gitea.faults().always(Route::Register, When::BeforeActing, Effect::Stall);
        gitea.journal().clear();
        let program = StandInRunner::new(&broker.url);
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "late");
        let late = tokio::spawn(async move { program.register(&options).await });
        gitea.journal().wait_for(|entry| entry.target.ends_with("/Register")).await;
        broker.signal(first).await;
        if let Some(second) = second {
            eventually("it deletes", async || deletions(&gitea) > 0).await;
            broker.signal(second).await;
        }
        let begun = Instant::now();
        broker.ended().await;
        assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
        let kept: Vec<_> = records(&site).await.into_iter().map(|(name, _)| name).collect();
        assert_eq!(kept, ["idle", "gone"], "nothing is lost");
        if first == Signal::Quit {
            assert_eq!(calls(&gitea), ["Register"]);
        }
        drop((idle, half, late));
    }
}

#[tokio::test]
async fn what_gitea_refuses_is_tried_once() {
    let gitea = gitea();
    let reader = gitea.api_token(&["read:admin"]);
    let site = site(&gitea, "1500ms", "4s").api_token(Some(reader.expose_secret()));
    let broker = Broker::start(&site).await;
    let (gone, idle) = (join(&broker.url, "gone").await, join(&broker.url, "idle").await);
    leaves(&broker, gone).await;
    broker.stop().await;
    assert_eq!(deletions(&gitea), 1);
    drop(idle);
}

#[tokio::test]
async fn without_an_api_token_it_waits_for_nobody() {
    let gitea = gitea();
    let site = site(&gitea, "8s", "9s").api_token(None);
    let broker = Broker::start(&site).await;
    let (gone, idle) = (join(&broker.url, "gone").await, join(&broker.url, "idle").await);
    leaves(&broker, gone).await;
    gitea.journal().clear();
    let took = broker.stop().await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert!(calls(&gitea).is_empty());
    let expected = [
        ("gone".to_owned(), RecordState::Parked(Reason::Shutdown)),
        ("idle".to_owned(), RecordState::Active),
    ];
    assert_eq!(records(&site).await, expected);
    drop(idle);
}
