//! Runners that are gone are deregistered when their lease is over, and no others.

use std::sync::Arc;
use std::time::Duration;

use runner_broker::broker::{Credentials, Presence, Reason, RecordState};
use runner_broker::connect::messages::TaskResult;
use runner_broker::lifecycle::{By, Force, Live, Pruning, Timing};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use runner_broker::store::Store;
use rustix::process::Signal as Unix;
use secrecy::ExposeSecret;

use crate::binary::Binary;
use crate::deregister::{deletions, join, join_busy};
use crate::raw::Wire;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, quick, within};

/// The shortest lease that can be set.
const LEASE: &str = "1s";

pub(crate) fn live(broker: &Broker, runner: &Runner) -> Arc<Live> {
    let all = broker.lifecycle.roster.all();
    let known = |live: &Arc<Live>| live.presented.uuid == runner.credentials.uuid;
    all.into_iter().find(known).expect("it is known")
}

/// Its process ends: all of its connections close.
pub(crate) async fn leaves(broker: &Broker, runner: Runner) -> Arc<Live> {
    let live = live(broker, &runner);
    drop(runner);
    eventually("its connections are closed", async || !live.is_connected()).await;
    live
}

/// Registers, and says no more.
async fn enroll(url: &str, name: &str, ephemeral: bool) -> Runner {
    let token = ENROLLMENT_TOKEN.into();
    let options = RegisterOptions { ephemeral, ..RegisterOptions::new(token, name) };
    StandInRunner::new(url).register(&options).await.unwrap()
}

fn names(gitea: &StandInGitea) -> Vec<String> {
    let mut names: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
    names.sort();
    names
}

async fn left_are(gitea: &StandInGitea, expected: &[&str]) {
    eventually(&format!("{expected:?} are left"), async || names(gitea) == expected).await;
}

/// One that is gone later than all the others: when its lease has ended, theirs would have.
async fn witness(gitea: &StandInGitea, url: &str) {
    let runner = join(url, "witness").await;
    let id = runner.credentials.id;
    drop(runner);
    eventually("the witness's lease is over", async || gitea.runner(id).is_none()).await;
}

async fn started(gitea: &StandInGitea) -> (Site, Broker) {
    let site = Site::new(gitea).set("lease.expire_after", LEASE);
    let broker = Broker::start(&site).await;
    (site, broker)
}

#[tokio::test]
async fn who_is_gone_is_deregistered_when_its_lease_is_over() {
    let gitea = gitea();
    let (site, broker) = started(&gitea).await;
    let idle = join(&broker.url, "idle").await;
    let gone = join(&broker.url, "gone").await;
    let silent = enroll(&broker.url, "silent", false).await;
    let uuid = gone.credentials.uuid.clone();
    leaves(&broker, gone).await;
    left_are(&gitea, &["idle"]).await;
    eventually("the records have ended", async || broker.lifecycle.roster.all().len() == 1).await;
    let record = broker.lifecycle.store.ended_by_uuid(&uuid).await.unwrap().unwrap();
    assert_eq!(record.state, RecordState::Ended(Reason::Lease));
    assert!(!site.runner_file("gone").exists());
    let metrics = broker.lifecycle.metrics.render().unwrap();
    let counted = "deregistrations_total{outcome=\"deleted\",reason=\"lease\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
    assert_eq!(live(&broker, &idle).presence(), Presence::Idle);
    drop(silent);
}

#[tokio::test]
async fn no_lease_ends_while_a_task_is_in_hand() {
    let gitea = gitea();
    let (_site, broker) = started(&gitea).await;
    let (runner, task) = join_busy(&gitea, &broker.url, "busy").await;
    let back = runner.moved_to(&broker.url);
    leaves(&broker, runner).await;
    witness(&gitea, &broker.url).await;
    assert_eq!(names(&gitea), ["busy"]);
    back.update_task(task, TaskResult::Success).await.unwrap();
    leaves(&broker, back).await;
    left_are(&gitea, &[]).await;
}

/// Tasks in hand by the store of a broker that runs, as a crash at this moment would leave it.
async fn stored_tasks(site: &Site) -> Vec<i64> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["state.db", "state.db-wal"] {
        if site.path(name).exists() {
            std::fs::copy(site.path(name), copy.path().join(name)).unwrap();
        }
    }
    let Ok(store) = Store::open(&copy.path().join("state.db")) else { return vec![] };
    let records = store.runners().await.unwrap();
    store.close().await.unwrap();
    records.into_iter().flat_map(|record| record.tasks).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_of_the_broker_it_is_still_busy() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("lease.expire_after", LEASE);
    let mut binary = Binary::start(&site);
    let (runner, task) = join_busy(&gitea, &binary.url, "busy").await;
    eventually("its task is in the store", async || stored_tasks(&site).await == [task]).await;
    binary.kill(Unix::KILL);
    binary.ended();

    let broker = Broker::start(&site).await;
    let back = runner.moved_to(&broker.url);
    assert_eq!(live(&broker, &back).presence(), Presence::Busy);
    assert_eq!(live(&broker, &back).tasks(), [task]);
    witness(&gitea, &broker.url).await;
    assert_eq!(names(&gitea), ["busy"]);
    back.update_task(task, TaskResult::Success).await.unwrap();
    leaves(&broker, back).await;
    left_are(&gitea, &[]).await;
}

#[tokio::test]
async fn one_that_dials_gitea_itself_is_found_alive() {
    let gitea = gitea();
    let (_site, broker) = started(&gitea).await;
    let runner = enroll(&broker.url, "direct", false).await.moved_to(&gitea.url());
    runner.declare(&["host"]).await.unwrap();
    let live = live(&broker, &runner);
    eventually("it is seen", async || live.spoke()).await;
    witness(&gitea, &broker.url).await;
    assert_eq!(names(&gitea), ["direct"]);
    assert_eq!(live.presence(), Presence::Idle);
    assert!(live.record().last_seen_at.is_some());
    assert_eq!(live.state(), RecordState::Active);
}

#[tokio::test]
async fn who_comes_back_before_it_is_deleted_stays() {
    let gitea = gitea();
    let (site, broker) = started(&gitea).await;
    let runner = join(&broker.url, "one").await;
    let back = runner.moved_to(&broker.url);
    let gate = gitea.faults().gate(Route::Declare, When::AfterActing);
    let live = leaves(&broker, runner).await;
    within(gate.reached()).await;
    assert_eq!(live.state(), RecordState::Deregistering(Reason::Lease));
    back.fetch_task(0).await.unwrap();
    assert_eq!(live.state(), RecordState::Active);
    gate.open();
    witness(&gitea, &broker.url).await;
    assert_eq!((names(&gitea).len(), live.state()), (1, RecordState::Active));
    assert!(site.runner_file("one").exists());
    assert_eq!(deletions(&gitea), 1, "of the witness");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_an_admin_switched_off_in_gitea_is_deleted_only_when_asked_for() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("lease.expire_after", LEASE).set("shutdown.deregister", "all");
    let mut binary = Binary::start(&site);
    let runner = join(&binary.url, "off").await;
    assert!(gitea.disable_runner(runner.credentials.id, true));
    drop(runner);
    let told = |lines: Vec<serde_json::Value>| {
        let told = |line: &serde_json::Value| line["message"] == "runner is still registered";
        lines.iter().filter(|line| told(line)).count()
    };
    eventually("it is told", async || told(binary.lines()) > 0).await;
    witness(&gitea, &binary.url).await;
    assert_eq!(names(&gitea), ["off"]);
    binary.kill(Unix::TERM);
    binary.ended();
    assert_eq!(names(&gitea), ["off"], "not at shutdown either");
    assert_eq!(told(binary.lines()), 1, "once");

    let site = site.set("lease.expire_after", "never");
    let broker = Broker::start(&site).await;
    let live = broker.lifecycle.roster.all().remove(0);
    assert_eq!(live.state(), RecordState::Active);
    let by = By::broker();
    broker.lifecycle.deregister(&live, Reason::Admin, Force::LeaveBusy, &by).await.unwrap();
    assert!(names(&gitea).is_empty());
}

#[tokio::test]
async fn while_gitea_is_down_no_lease_ends_and_when_it_is_back_those_that_are_over() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("lease.expire_after", LEASE);
    let timing = Timing { probe: Duration::from_millis(50), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let live = leaves(&broker, join(&broker.url, "one").await).await;
    gitea.set_down().await.unwrap();
    eventually("Gitea is down", async || !broker.lifecycle.gitea.is_up()).await;
    let over = || live.lease_ends(Duration::from_secs(1)).unwrap().elapsed() > Duration::ZERO;
    eventually("its lease is over", async || over()).await;
    assert_eq!(live.state(), RecordState::Active);
    gitea.set_up().await.unwrap();
    left_are(&gitea, &[]).await;
}

#[tokio::test]
async fn what_gitea_cannot_do_now_is_tried_again() {
    let gitea = gitea();
    let (_site, broker) = started(&gitea).await;
    let bad = Effect::Answer(Answer::html(hyper::StatusCode::BAD_GATEWAY));
    gitea.faults().times(3, Route::GetRunner, When::BeforeActing, bad.clone());
    gitea.faults().times(3, Route::DeleteRunner, When::BeforeActing, bad);
    leaves(&broker, join(&broker.url, "one").await).await;
    left_are(&gitea, &[]).await;
    assert_eq!(deletions(&gitea), 4);
}

#[tokio::test]
async fn the_length_of_leases_changes_with_the_settings() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    site.write_config("[lease]\nexpire_after = \"never\"\n");
    let broker = Broker::start(&site).await;
    leaves(&broker, join(&broker.url, "one").await).await;
    site.write_config("[lease]\nexpire_after = \"1s\"\n");
    broker.signal(Signal::Reload).await;
    left_are(&gitea, &[]).await;
}

#[tokio::test]
async fn many_leases_that_end_at_once_keep_sixteen_places() {
    let gitea = gitea();
    let (_site, broker) = started(&gitea).await;
    let gate = gitea.faults().gate_for_all(Route::DeleteRunner, When::BeforeActing);
    for number in 0..20 {
        enroll(&broker.url, &format!("runner-{number}"), false).await;
    }
    within(gate.reached_by(16)).await;
    assert_eq!(deletions(&gitea), 16);
    gate.open();
    left_are(&gitea, &[]).await;
}

#[tokio::test]
async fn without_an_api_token_it_is_parked() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("lease.expire_after", LEASE).api_token(None);
    let timing = Timing { lost: Duration::from_millis(60), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let live = leaves(&broker, join(&broker.url, "one").await).await;
    let parked = RecordState::Parked(Reason::Lease);
    eventually("it is parked", async || live.state() == parked).await;
    // The next of its kind has its place. One that Gitea has forgotten is nobody's any more.
    let runner = join(&broker.url, "two").await;
    assert!(gitea.remove_runner(runner.credentials.id));
    let live = leaves(&broker, runner).await;
    let ended = RecordState::Ended(Reason::Lost);
    eventually("it has ended", async || live.state() == ended).await;
    assert!(names(&gitea).is_empty());
}

#[tokio::test]
async fn an_ephemeral_runner_that_died_before_its_task_is_settled() {
    let gitea = gitea();
    let (_site, broker) = started(&gitea).await;
    let runner = enroll(&broker.url, "once", true).await;
    runner.declare(&["host"]).await.unwrap();
    leaves(&broker, runner).await;
    left_are(&gitea, &[]).await;
}

#[tokio::test]
async fn an_ephemeral_runner_whose_end_gitea_did_not_confirm_is_settled() {
    for api_token in [true, false] {
        let gitea = gitea();
        let site = Site::new(&gitea).set("lease.expire_after", LEASE);
        let site = if api_token { site } else { site.api_token(None) };
        let broker = Broker::start(&site).await;
        let runner = enroll(&broker.url, "once", true).await;
        runner.declare(&["host"]).await.unwrap();
        gitea.queue_task(&["host"]);
        let (task, _) = runner.fetch_task(0).await.unwrap();
        gitea.journal().clear();
        gitea.faults().once(Route::Declare, When::BeforeActing, Effect::Reset);
        runner.run_task(&task.unwrap()).await.unwrap();
        let declared =
            |entry: &runner_broker::sandbox::gitea::Entry| entry.target.ends_with("/Declare");
        gitea.journal().wait_for(declared).await;
        let live = leaves(&broker, runner).await;
        let ended = RecordState::Ended(Reason::Ephemeral);
        eventually("it has ended", async || live.state() == ended).await;
        assert!(broker.lifecycle.roster.all().is_empty(), "{api_token}");
        assert_eq!(deletions(&gitea), 0);
    }
}

#[tokio::test]
async fn prune_settles_at_once_what_is_gone() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let by = By::broker();
    let pruned = async |dry_run| {
        let pruned = broker.lifecycle.prune(dry_run, &by).await;
        let told = |one: &runner_broker::lifecycle::Pruned| {
            (one.live.record().name, one.outcome, one.detail.clone())
        };
        pruned.iter().map(told).collect::<Vec<_>>()
    };
    assert!(pruned(true).await.is_empty());
    let idle = join(&broker.url, "idle").await;
    let silent = enroll(&broker.url, "silent", false).await;
    leaves(&broker, join(&broker.url, "gone").await).await;
    let off = join(&broker.url, "off").await;
    gitea.disable_runner(off.credentials.id, true);
    leaves(&broker, off).await;
    for dry_run in [true, false] {
        let told = pruned(dry_run).await;
        assert_eq!(told.len(), 2, "{told:?}");
        assert_eq!((told[0].0.as_str(), told[0].1), ("gone", Pruning::Deregistered));
        assert!(told[0].2.starts_with("gone for "), "{told:?}");
        assert_eq!((told[1].0.as_str(), told[1].1), ("off", Pruning::Kept));
        assert!(told[1].2.contains("switched the runner off"), "{told:?}");
        assert_eq!(deletions(&gitea), usize::from(!dry_run));
    }
    assert_eq!(names(&gitea), ["idle", "off", "silent"]);
    drop((idle, silent));
}

/// A proxy in front of the broker may send the calls of all runners over a few connections.
#[tokio::test]
async fn a_connection_may_carry_the_calls_of_many_runners() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut runners = Vec::new();
    for name in ["one", "two", "three"] {
        runners.push(enroll(&broker.url, name, false).await);
    }
    let lives: Vec<_> = runners.iter().map(|runner| live(&broker, runner)).collect();
    let mut wire = Wire::dial(&broker.url).await;
    for turn in [2, 0, 1, 1, 2, 0] {
        let Credentials { uuid, token, .. } = &runners[turn].credentials;
        let headers = [
            ("Content-Type", "application/proto"),
            ("X-Runner-Uuid", uuid),
            ("X-Runner-Token", token.expose_secret()),
        ];
        wire.post("/api/actions/runner.v1.RunnerService/FetchTask", &headers, b"").await;
        assert_eq!(wire.answer().await.unwrap().status, 200);
        assert!(lives[turn].is_connected());
    }
    assert!(lives.iter().all(|live| live.presence() == Presence::Idle));
    drop(wire);
    eventually("all have left", async || {
        lives.iter().all(|live| !live.is_connected() && live.presence() == Presence::Gone)
    })
    .await;
}
