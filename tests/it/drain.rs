//! A drained runner gets no task, may end the one in hand, and is deregistered then.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use runner_broker::broker::{Event, Reason, RecordState, What};
use runner_broker::connect::messages::TaskResult;
use runner_broker::lifecycle::{By, DeregisterError, Live};
use runner_broker::sandbox::gitea::{Effect, Options, Route, StandInGitea, TaskState, When};
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use runner_broker::shutdown::Signal;
use runner_broker::store::{EventFilter, Store};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use crate::deregister::{calls, deletions, join, join_busy};
use crate::leases::{leaves, live};
use crate::support::{Broker, Site, eventually, gitea, within};
use crate::tokens::token;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DRAINED: RecordState = RecordState::Deregistering(Reason::Drain);

async fn drain(broker: &Broker, live: &Arc<Live>, time: Duration) -> Result<(), DeregisterError> {
    broker.lifecycle.drain(live, time, &By::broker()).await
}

async fn events(broker: &Broker) -> Vec<What> {
    let filter = EventFilter { limit: usize::MAX, ..EventFilter::default() };
    let mut events: Vec<Event> = broker.lifecycle.events(filter).await.unwrap();
    events.retain(|event| event.what.as_str() != "token.declared");
    events.into_iter().rev().map(|event| event.what).collect()
}

#[tokio::test]
async fn an_idle_one_is_switched_off_and_deregistered() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = join(&broker.url, "one").await;
    let live = live(&broker, &runner);
    gitea.journal().clear();
    for _again in 0..2 {
        drain(&broker, &live, HOUR).await.unwrap();
    }
    eventually("it has ended", async || live.state() == RecordState::Ended(Reason::Drain)).await;
    assert!(gitea.runners().is_empty());
    assert!(!site.runner_file("one").exists());
    let calls = calls(&gitea);
    assert_eq!((calls[0].as_str(), calls.last().unwrap().as_str()), ("PATCH", "DELETE"));
    let expected = [What::RunnerRegistered, What::DrainBegun, What::RunnerDeregistered];
    assert_eq!(events(&broker).await, expected);
    // It was sent away, so it is not taken back.
    runner.fetch_task(0).await.unwrap_err();
}

#[tokio::test]
async fn a_busy_one_ends_its_task_and_gets_no_other() {
    for can_disable in [true, false] {
        let version = if can_disable { "1.26.0" } else { "1.25.2" }.into();
        let gitea = StandInGitea::start(Options { version, ..Options::default() }).unwrap();
        let broker = Broker::start(&Site::new(&gitea)).await;
        for name in ["one", "two"] {
            let (runner, task) = join_busy(&gitea, &broker.url, name).await;
            let live = live(&broker, &runner);
            drain(&broker, &live, HOUR).await.unwrap();
            assert_eq!(live.state(), DRAINED);
            assert_eq!(gitea.runner(runner.credentials.id).unwrap().disabled, can_disable);
            assert_eq!(live.record().disabled, can_disable);
            let next = gitea.queue_task(&["host"]);
            assert_eq!(runner.fetch_task(0).await.unwrap(), (None, 0));
            drain(&broker, &live, HOUR).await.unwrap();
            runner.update_log(task, 0, &["still at it"], true).await.unwrap();
            runner.update_task(task, TaskResult::Success).await.unwrap();
            let ended = RecordState::Ended(Reason::Drain);
            eventually("it has ended", async || live.state() == ended).await;
            assert_eq!(gitea.task(task).unwrap().state, TaskState::Ended(TaskResult::Success));
            assert!(gitea.cancel_task(next));
        }
        let asked = gitea.journal().count(|entry| entry.method == "PATCH");
        assert!(can_disable || asked <= 1, "what Gitea cannot is remembered");
    }
}

#[tokio::test]
async fn after_its_time_it_gets_tasks_again() {
    let gitea = gitea();
    let broker = Broker::start(&Site::new(&gitea)).await;
    let (runner, task) = join_busy(&gitea, &broker.url, "one").await;
    let live = live(&broker, &runner);
    drain(&broker, &live, Duration::from_secs(1)).await.unwrap();
    assert!(gitea.runner(runner.credentials.id).unwrap().disabled);
    let enabled = || !gitea.runner(runner.credentials.id).unwrap().disabled;
    eventually("it is called off", async || enabled() && !live.is_disabled()).await;
    assert_eq!(live.state(), RecordState::Active);
    let expected = [What::RunnerRegistered, What::DrainBegun, What::DrainEnded];
    assert_eq!(events(&broker).await, expected);
    assert_eq!(gitea.task(task).unwrap().state, TaskState::Running);
    runner.update_task(task, TaskResult::Success).await.unwrap();
    let next = gitea.queue_task(&["host"]);
    assert_eq!(runner.fetch_task(0).await.unwrap().0.map(|task| task.id), Some(next));
}

#[tokio::test]
async fn after_its_time_its_task_is_cancelled_where_that_is_set() {
    for log_fails in [false, true] {
        let gitea = gitea();
        let broker = Broker::start(&Site::new(&gitea).set("shutdown.busy", "cancel")).await;
        let (runner, task) = join_busy(&gitea, &broker.url, "one").await;
        runner.update_log(task, 0, &["first", "second"], false).await.unwrap();
        if log_fails {
            gitea.faults().always(Route::UpdateLog, When::BeforeActing, Effect::Reset);
        }
        let live = live(&broker, &runner);
        drain(&broker, &live, Duration::from_secs(1)).await.unwrap();
        let ended = RecordState::Ended(Reason::Drain);
        eventually("it has ended", async || live.state() == ended).await;
        let task = gitea.task(task).unwrap();
        assert_eq!(task.state, TaskState::Ended(TaskResult::Cancelled));
        let expected = if log_fails { (2, false) } else { (3, true) };
        assert_eq!((task.log.len(), task.log_complete), expected);
        if let Some(line) = task.log.get(2) {
            assert!(line.starts_with("cancelled by runner-broker: "), "{line}");
        }
        assert!(gitea.runners().is_empty());
    }
}

#[tokio::test]
async fn without_an_api_token_nothing_is_begun() {
    let gitea = gitea();
    let broker = Broker::start(&Site::new(&gitea).api_token(None)).await;
    let runner = join(&broker.url, "one").await;
    let live = live(&broker, &runner);
    let error = drain(&broker, &live, HOUR).await.unwrap_err();
    assert!(matches!(error, DeregisterError::NoApiToken("write:admin")), "{error}");
    assert_eq!(live.state(), RecordState::Active);
}

#[tokio::test]
async fn a_restart_goes_on_with_it() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let (runner, task) = join_busy(&gitea, &broker.url, "one").await;
    drain(&broker, &live(&broker, &runner), HOUR).await.unwrap();
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    let broker = Broker::start(&site).await;
    let back = runner.moved_to(&broker.url);
    assert_eq!(live(&broker, &back).state(), DRAINED);
    assert_eq!(back.fetch_task(0).await.unwrap(), (None, 0));
    assert_eq!(deletions(&gitea), 0, "its task is not stranded");
    back.update_task(task, TaskResult::Success).await.unwrap();
    eventually("it is deregistered", async || gitea.runners().is_empty()).await;
}

#[tokio::test]
async fn what_an_admin_switched_off_stays_off_and_what_we_did_does_not() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let (theirs, _task) = join_busy(&gitea, &broker.url, "theirs").await;
    assert!(gitea.disable_runner(theirs.credentials.id, true));
    let live_one = live(&broker, &theirs);
    drain(&broker, &live_one, Duration::from_secs(1)).await.unwrap();
    assert!(!live_one.is_disabled());
    eventually("it is called off", async || live_one.state() == RecordState::Active).await;
    // A crash came after the drain of the other was called off.
    let ours = join(&broker.url, "ours").await;
    let record_id = live(&broker, &ours).record_id;
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    assert!(gitea.disable_runner(ours.credentials.id, true));
    let store = Store::open(&site.path("state.db")).unwrap();
    store.set_disabled(record_id, true).await.unwrap();
    store.close().await.unwrap();
    let broker = Broker::start(&site).await;
    let disabled = |id| gitea.runner(id).unwrap().disabled;
    eventually("ours is on", async || !disabled(ours.credentials.id)).await;
    assert!(disabled(theirs.credentials.id));
    broker.stop().await;
}

#[tokio::test]
async fn one_whose_token_is_withdrawn_with_it_is_switched_off_too() {
    let gitea = gitea();
    let broker = Broker::start(&Site::new(&gitea)).await;
    let token = token(&broker, |_| {}).await;
    let options = RegisterOptions::new(token.secret.clone(), "one");
    let runner = StandInRunner::new(&broker.url).register(&options).await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    gitea.queue_task(&["host"]);
    let task = runner.fetch_task(0).await.unwrap().0.unwrap().id;
    broker.lifecycle.delete_token(&token.token.token.id, true, &By::broker()).await.unwrap();
    let id = runner.credentials.id;
    eventually("it is switched off", async || gitea.runner(id).unwrap().disabled).await;
    runner.update_task(task, TaskResult::Success).await.unwrap();
    eventually("it is deregistered", async || gitea.runners().is_empty()).await;
}

fn command(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
    command.args(arguments).env_clear().envs(site.environment()).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command; its exit code, standard output and standard error.
async fn run(site: &Site, arguments: &[&str]) -> (i32, String, String) {
    let output = within(command(site, arguments).output()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn the_command_tells_what_it_waits_for_and_how_it_ended() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let (runner, task) = join_busy(&gitea, &broker.url, "one").await;
    let (code, stdout, stderr) = run(&site, &["runner", "drain", "one", "--timeout", "1s"]).await;
    assert_eq!((code, stdout.as_str()), (75, ""), "{stderr}");
    assert!(stderr.contains(&format!("waiting for task {task}\n")), "{stderr}");
    assert!(stderr.contains("called off"), "{stderr}");

    let (code, stdout, _) = run(&site, &["runner", "drain", "one", "--no-wait"]).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("gets no task from now on"), "{stdout}");

    let mut drained = command(&site, &["runner", "drain", "one"]).spawn().unwrap();
    let mut lines = BufReader::new(drained.stderr.take().unwrap()).lines();
    let line = within(lines.next_line()).await.unwrap().unwrap();
    assert!(line.ends_with(&format!("waiting for task {task}")), "{line}");
    let pid = rustix::process::Pid::from_raw(drained.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(within(drained.wait()).await.unwrap().code(), Some(130));
    let line = within(lines.next_line()).await.unwrap().unwrap();
    assert!(line.contains("goes on with the drain"), "{line}");
    assert_eq!(live(&broker, &runner).state(), DRAINED);

    let mut drained = command(&site, &["runner", "drain", "one"]).spawn().unwrap();
    let mut lines = BufReader::new(drained.stderr.take().unwrap()).lines();
    within(lines.next_line()).await.unwrap().unwrap();
    runner.update_task(task, TaskResult::Success).await.unwrap();
    assert_eq!(within(drained.wait()).await.unwrap().code(), Some(0));
    let mut stdout = String::new();
    drained.stdout.take().unwrap().read_to_string(&mut stdout).await.unwrap();
    assert!(stdout.contains("is deregistered"), "{stdout}");
    assert!(gitea.runners().is_empty());
}

#[tokio::test]
async fn prune_asks_for_one_of_its_two_ways() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    for wrong in [&["runner", "prune"][..], &["runner", "prune", "--dry-run", "--yes"]] {
        assert_eq!(run(&site, wrong).await.0, 64, "{wrong:?}");
    }
    let shown = run(&site, &["runner", "prune", "--dry-run"]).await;
    assert_eq!(shown, (0, "no runner is gone\n".into(), String::new()));
    let runner = join(&broker.url, "one").await;
    let id = runner.credentials.id.to_string();
    leaves(&broker, runner).await;
    let (_, table, _) = run(&site, &["runner", "prune", "--dry-run"]).await;
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["ID", "NAME", "WOULD", "BE", "WHY"]);
    assert_eq!(lines[1][..5], [id.as_str(), "one", "deregistered", "gone", "for"]);
    assert_eq!(gitea.runners().len(), 1);
    let (_, json, _) = run(&site, &["runner", "prune", "--yes", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["outcome"], "deregistered");
    assert_eq!(json[0]["runner"]["state"], "deregistered");
    assert!(gitea.runners().is_empty());
}

#[tokio::test]
async fn gitea_that_may_not_be_asked_keeps_the_runner_at_work() {
    let gitea = gitea();
    let reader = gitea.api_token(&["read:admin"]);
    let site = Site::new(&gitea).api_token(Some(reader.expose_secret()));
    let broker = Broker::start(&site).await;
    let runner = join(&broker.url, "one").await;
    let live = live(&broker, &runner);
    drain(&broker, &live, Duration::from_secs(1)).await.unwrap();
    eventually("it is called off", async || live.state() == RecordState::Active).await;
    let id = gitea.queue_task(&["host"]);
    assert_eq!(runner.fetch_task(0).await.unwrap().0.map(|task| task.id), Some(id));
}
