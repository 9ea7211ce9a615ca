//! Runner files say Gitea's address, so that no call passes the broker: Gitea's list tells what runners do.

use std::time::Duration;

use runner_broker::broker::{Presence, RecordState};
use runner_broker::connect::messages::TaskResult;
use runner_broker::lifecycle::Timing;
use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};

use crate::capture::Capture;
use crate::leases::live;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, quick};

/// After this long, Gitea shows a runner offline.
pub(crate) const LONG: Duration = Duration::from_secs(61);
/// After this long, Gitea shows a runner as not busy.
const WHILE: Duration = Duration::from_secs(11);

pub(crate) fn site(gitea: &StandInGitea) -> Site {
    Site::new(gitea).set("credentials.address", "gitea").set("shutdown.drain_timeout", "200ms")
}

pub(crate) async fn started(site: &Site) -> Broker {
    let timing = Timing { probe: Duration::from_millis(50), ..quick() };
    Broker::start_with(site, timing).await
}

/// A runner that came by the broker and dials the address in its file.
pub(crate) async fn join(broker: &Broker, site: &Site, name: &str) -> Runner {
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), name);
    StandInRunner::new(&broker.url).register(&options).await.unwrap();
    let file = std::fs::read_to_string(site.runner_file(name)).unwrap();
    let runner = Runner::from_runner_file(&file).unwrap();
    runner.declare(&["host"]).await.unwrap();
    runner
}

pub(crate) async fn becomes(broker: &Broker, runner: &Runner, state: &str) {
    let live = live(broker, runner);
    let is = || broker.lifecycle.state_of(&live);
    eventually(&format!("it is {state}"), async || is() == state && live.spoke()).await;
}

#[tokio::test]
async fn gitea_tells_who_is_idle_busy_and_gone_and_leases_end_by_that() {
    let gitea = gitea();
    let site = site(&gitea).set("lease.expire_after", "1s");
    let broker = started(&site).await;
    let other = join(&broker, &site, "other").await;
    let runner = join(&broker, &site, "one").await;
    let id = runner.credentials.id;
    becomes(&broker, &runner, "idle").await;
    let live = live(&broker, &runner);
    assert!(live.record().last_seen_at.is_some());
    let task = gitea.queue_task(&["host"]);
    runner.fetch_task(0).await.unwrap().0.expect("the task");
    runner.update_task(task, TaskResult::Unspecified).await.unwrap();
    becomes(&broker, &runner, "busy").await;
    runner.update_task(task, TaskResult::Success).await.unwrap();
    gitea.silence_runner(id, WHILE);
    becomes(&broker, &runner, "idle").await;
    gitea.silence_runner(id, LONG);
    eventually("it is deregistered", async || gitea.runner(id).is_none()).await;
    eventually("its file is removed", async || !site.runner_file("one").exists()).await;
    assert!(gitea.runner(other.credentials.id).is_some(), "the other one is online");
    becomes(&broker, &other, "idle").await;
    broker.stop().await;
}

#[tokio::test]
async fn at_the_brokers_end_those_that_gitea_shows_offline_are_gone() {
    let gitea = gitea();
    let site = site(&gitea);
    let broker = started(&site).await;
    let (gone, idle) = (join(&broker, &site, "gone").await, join(&broker, &site, "idle").await);
    for runner in [&gone, &idle] {
        becomes(&broker, runner, "idle").await;
    }
    gitea.silence_runner(gone.credentials.id, LONG);
    becomes(&broker, &gone, "gone").await;
    broker.stop().await;
    let left: Vec<_> = gitea.runners().into_iter().map(|runner| runner.id).collect();
    assert_eq!(left, [idle.credentials.id]);
}

#[tokio::test]
async fn at_the_brokers_end_nobodys_task_is_stranded() {
    for (ended, left) in [(false, 1), (true, 0)] {
        let gitea = gitea();
        let site = site(&gitea)
            .set("shutdown.deregister", "all")
            .set("shutdown.busy", "cancel")
            .set("shutdown.deadline", "3s");
        let broker = started(&site).await;
        let runner = join(&broker, &site, "one").await;
        let task = gitea.queue_task(&["host"]);
        runner.fetch_task(0).await.unwrap().0.expect("the task");
        runner.update_task(task, TaskResult::Unspecified).await.unwrap();
        becomes(&broker, &runner, "busy").await;
        if ended {
            gitea.silence_runner(runner.credentials.id, WHILE);
        }
        broker.stop().await;
        assert_eq!(gitea.runners().len(), left, "{ended}");
    }
}

#[tokio::test]
async fn without_an_api_token_no_lease_ends_and_that_is_told_once() {
    let log = Capture::start();
    let gitea = gitea();
    let site = site(&gitea).set("lease.expire_after", "1s").api_token(None);
    let broker = started(&site).await;
    let runner = join(&broker, &site, "one").await;
    let told = || log.text().matches("no lease of theirs ends").count();
    eventually("it is told", async || told() > 0).await;
    let live = live(&broker, &runner);
    assert_eq!((live.state(), live.presence()), (RecordState::Active, Presence::Idle));
    broker.lifecycle.look_at_leases();
    broker.stop().await;
    assert_eq!((gitea.runners().len(), told()), (1, 1));
}

#[tokio::test]
async fn a_drain_waits_for_a_task_that_gitea_tells_of() {
    let gitea = gitea();
    let site = site(&gitea);
    let broker = started(&site).await;
    let runner = join(&broker, &site, "one").await;
    let (task, next) = (gitea.queue_task(&["host"]), gitea.queue_task(&["host"]));
    runner.fetch_task(0).await.unwrap().0.expect("the task");
    runner.update_task(task, TaskResult::Unspecified).await.unwrap();
    becomes(&broker, &runner, "busy").await;
    let live = live(&broker, &runner);
    let by = runner_broker::lifecycle::By::broker();
    broker.lifecycle.drain(&live, Duration::from_secs(60), &by).await.unwrap();
    assert!(gitea.runner(runner.credentials.id).unwrap().disabled);
    assert_eq!(runner.fetch_task(0).await.unwrap().0, None, "Gitea itself hands out none");
    runner.update_task(task, TaskResult::Success).await.unwrap();
    gitea.silence_runner(runner.credentials.id, WHILE);
    eventually("it is deregistered", async || gitea.runners().is_empty()).await;
    let waiting = runner_broker::sandbox::gitea::TaskState::Waiting;
    assert_eq!(gitea.task(next).unwrap().state, waiting);
}
