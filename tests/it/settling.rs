//! What registrations leave in Gitea that nobody has credentials for: what is provably ours is deleted, what is
//! not is reported, and however many runners there are, that takes a bounded number of calls.

use std::time::Duration;

use runner_broker::broker::Reason;
use runner_broker::lifecycle::{Stray, Timing};
use runner_broker::sandbox::gitea::{
    Answer, Effect, Route, RunnerSeed, RunnerView, StandInGitea, When,
};
use runner_broker::sandbox::runner::RpcError;

use crate::capture::Capture;
use crate::exchange_only;
use crate::register::{intent_label, join, registers};
use crate::support::{Broker, Site, eventually, gitea, quick};

/// A runner with a label that some broker gave it.
fn marked(gitea: &StandInGitea, name: &str) -> RunnerView {
    let labels = vec!["host".into(), "rb-intent-0123456789abcdef0123456789abcdef".into()];
    gitea.add_runner(RunnerSeed { name: name.into(), labels, ..RunnerSeed::default() })
}

fn lists(gitea: &StandInGitea) -> usize {
    gitea.journal().count(|entry| entry.target.contains("?page=") && !entry.target.ends_with("=1"))
}

async fn settled(broker: &Broker) {
    eventually("all is settled", async || broker.lifecycle.unsettled() == 0).await;
}

#[tokio::test]
async fn a_registration_that_acted_twice_leaves_nothing() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    gitea.faults().once(Route::Register, When::BeforeActing, Effect::Doubled);
    let runner = join(&broker, "one").await.unwrap();
    assert_eq!(gitea.runners().len(), 2);
    eventually("the other is deleted", async || gitea.runners().len() == 1).await;
    assert_eq!(gitea.runners()[0].id, runner.credentials.id);
    runner.declare(&["host"]).await.unwrap();
    let metrics = broker.lifecycle.metrics.render().unwrap();
    let line = "runner_broker_deregistrations_total{outcome=\"deleted\",reason=\"orphan\"} 1";
    assert!(metrics.contains(line), "{metrics}");

    // Both answers may be lost, and one may come late.
    for when in [When::BeforeActing, When::AfterActing] {
        gitea.faults().once(Route::Register, when, Effect::Doubled);
        gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
        join(&broker, "two").await.unwrap_err();
        settled(&broker).await;
        assert_eq!(gitea.runners().len(), 1, "{when:?}");
    }
    assert!(broker.lifecycle.strays().is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn what_a_late_repetition_leaves_is_deleted_by_the_next_start_too() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "none");
    let broker = Broker::start(&site).await;
    let runner = join(&broker, "one").await.unwrap();
    let label = intent_label(&registers(&gitea)[0]);
    broker.stop().await;
    gitea.add_runner(RunnerSeed { labels: vec!["host".into(), label], ..RunnerSeed::default() });
    let broker = Broker::start(&site).await;
    eventually("it is deleted", async || gitea.runners().len() == 1).await;
    assert_eq!(gitea.runners()[0].id, runner.credentials.id);
    broker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_proved_ours_is_reported_once_and_never_deleted() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let timing = Timing { sweep: Duration::from_millis(100), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let stray = marked(&gitea, "elsewhere");
    let (id, label) = (stray.id, stray.labels[1].clone());
    let scope = runner_broker::config::Scope::Instance;
    let expected = Stray { scope, id, name: "elsewhere".into(), label: label.clone() };
    eventually("it is reported", async || broker.lifecycle.strays() == [expected.clone()]).await;
    let before = lists(&gitea);
    eventually("it is seen again", async || lists(&gitea) > before + 2).await;
    let told: Vec<_> = log.lines().into_iter().filter(|line| line["label"] == *label).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["id"], &told[0]["runner"]), (&id.into(), &"elsewhere".into()));
    assert_eq!(gitea.runners().len(), 1);
    let status = crate::commands::inside(&site, &["status"]).await.stdout;
    assert!(status.contains(&format!("(id {id})")), "{status}");
    // Its registration was another broker's, and went on.
    gitea.add_runner(RunnerSeed { id: Some(id), ..RunnerSeed::default() });
    eventually("it is none", async || broker.lifecycle.strays().is_empty()).await;
    assert_eq!(crate::deregister::deletions(&gitea), 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_registration_that_goes_on_is_nobodys_stray() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let timing = Timing { sweep: Duration::from_millis(20), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    let waits = async {
        gate.reached().await;
        let before = lists(&gitea);
        eventually("the list was read", async || lists(&gitea) > before + 20).await;
        assert!(broker.lifecycle.strays().is_empty());
        gate.open();
    };
    let (runner, ()) = tokio::join!(join(&broker, "one"), waits);
    assert_eq!(gitea.runners()[0].id, runner.unwrap().credentials.id);
    let before = lists(&gitea);
    eventually("the list was read", async || lists(&gitea) > before + 20).await;
    assert!(broker.lifecycle.strays().is_empty());
    assert_eq!(gitea.runners().len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn pages_that_cannot_be_read_do_not_stop_settling() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    join(&broker, "one").await.unwrap_err();
    let garbage = Effect::Answer(Answer::garbage("application/json"));
    gitea.faults().times(6, Route::ListRunners, When::BeforeActing, garbage);
    settled(&broker).await;
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn many_unclear_registrations_are_settled_by_few_readings() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let list = gitea.faults().gate_for_all(Route::ListRunners, When::BeforeActing);
    gitea.faults().times(40, Route::Register, When::AfterActing, Effect::Reset);
    for number in 0..40 {
        join(&broker, &format!("r{number}")).await.unwrap_err();
    }
    assert_eq!((gitea.runners().len(), broker.lifecycle.unsettled()), (40, 40));
    gitea.journal().clear();
    list.open();
    settled(&broker).await;
    assert!(gitea.runners().is_empty());
    assert!(lists(&gitea) <= 12, "{}", lists(&gitea));
    broker.stop().await;
}

#[tokio::test]
async fn without_an_api_token_nothing_is_asked_and_one_line_says_so() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea).api_token(None).set("shutdown.deregister", "none");
    let broker = Broker::start(&site).await;
    gitea.faults().times(30, Route::Register, When::AfterActing, Effect::Reset);
    for number in 0..30 {
        join(&broker, &format!("r{number}")).await.unwrap_err();
    }
    let told = |log: &Capture| log.text().matches("cannot be settled:").count();
    eventually("it is told", async || told(&log) == 1).await;
    broker.stop().await;
    let broker = Broker::start(&site).await;
    eventually("it is told", async || told(&log) == 2).await;
    let line = log.lines().into_iter().rfind(|line| line["count"] == 30).unwrap();
    let labels = line["labels"].as_str().unwrap().to_owned();
    assert_eq!(labels.split(' ').count(), 20, "not without end: {labels}");
    assert!(registers(&gitea).iter().any(|asked| labels.contains(&intent_label(asked))));
    assert_eq!((broker.lifecycle.unsettled(), lists(&gitea)), (30, 0));
    broker.stop().await;
}

/// Ten thousand runners that called at different times.
fn crowd(gitea: &StandInGitea) {
    for number in 0..10_000_u64 {
        let called_ago = Some(Duration::from_secs(9) + Duration::from_millis(number));
        let name = format!("crowd-{number}");
        gitea.add_runner(RunnerSeed { name, called_ago, ..RunnerSeed::default() });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_ten_thousand_runners_all_is_settled_with_bounded_calls() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let timing = Timing { sweep: Duration::from_secs(3600), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let runner = join(&broker, "stays").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    eventually("the first sweep is over", async || lists(&gitea) > 0).await;
    crowd(&gitea);
    // The orphans are the last of the list.
    let list = gitea.faults().gate_for_all(Route::ListRunners, When::BeforeActing);
    gitea.faults().times(2, Route::Register, When::AfterActing, Effect::Reset);
    join(&broker, "one").await.unwrap_err();
    join(&broker, "two").await.unwrap_err();
    gitea.faults().once(Route::Register, When::BeforeActing, Effect::Close);
    join(&broker, "three").await.unwrap_err();
    tokio::time::sleep(quick().absence_proves).await;
    gitea.journal().clear();
    list.open();
    settled(&broker).await;
    assert_eq!(gitea.runners().len(), 10_001);
    // Two readings find the orphans, and two more prove that no other is there; one may have begun too early.
    assert!((400..=1300).contains(&lists(&gitea)), "{}", lists(&gitea));
    assert_eq!(gitea.journal().count(|entry| entry.method == "DELETE"), 2);

    // One that is lost is asked for by its id.
    gitea.journal().clear();
    gitea.remove_runner(runner.credentials.id);
    let told = async || match runner.fetch_task(0).await {
        Err(RpcError { code, .. }) => code,
        Ok(_) => String::new(),
    };
    eventually("it is told", async || told().await == "unauthenticated").await;
    assert_eq!(broker.lifecycle.store.runners().await.unwrap().len(), 0);
    let asked = gitea.journal().count(|entry| entry.target.contains("/api/v1/"));
    assert!(asked <= 4, "{asked}");
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(metrics.contains(&format!("reason=\"{}\"", Reason::Lost.as_str())));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn among_ten_thousand_runners_a_few_are_looked_up_by_id() {
    let gitea = gitea();
    let site = exchange_only::site(&gitea);
    let broker = exchange_only::started(&site).await;
    let mut runners = Vec::new();
    for name in ["one", "two", "three"] {
        runners.push(exchange_only::join(&broker, &site, name).await);
    }
    crowd(&gitea);
    for runner in &runners {
        exchange_only::becomes(&broker, runner, "idle").await;
        gitea.silence_runner(runner.credentials.id, exchange_only::LONG);
    }
    gitea.journal().clear();
    for runner in &runners {
        exchange_only::becomes(&broker, runner, "gone").await;
    }
    // A probe that comes meanwhile is one call more.
    let pages = gitea.journal().count(|entry| entry.target.ends_with("limit=50"));
    let probes = gitea.journal().count(|entry| entry.target.ends_with("limit=1"));
    let shown = gitea.journal().count(|entry| entry.target.contains("/runners/"));
    assert!(pages <= probes + 1 && shown <= 3 * (probes + 1), "{pages} {shown} {probes}");
    broker.stop().await;
}
