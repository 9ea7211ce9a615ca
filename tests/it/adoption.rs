//! Runners that were registered before the broker knew them.

use std::sync::Arc;

use std::time::Duration;

use runner_broker::broker::{Origin, Reason, RecordState};
use runner_broker::config::Scope;
use runner_broker::connect::messages::{DeclareResponse, Runner as WireRunner};
use runner_broker::connect::{Codec, encode};
use runner_broker::lifecycle::{By, DeregisterError, Force, Live};
use runner_broker::sandbox::gitea::{
    Answer, Effect, Route, RunnerSeed, StandInGitea, TaskState, When,
};
use runner_broker::sandbox::runner::{Pace, RegisterOptions, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::admin::Stack;
use crate::commands::inside;
use crate::deregister::{deletions, join};
use crate::support::{Broker, Site, eventually, gitea};

const ADOPT: &str = "/api/v1/runners/adopt";
const JSON: &str = "Content-Type: application/json";

/// A runner that registered straight at Gitea.
async fn elsewhere(gitea: &StandInGitea, name: &str) -> Runner {
    let token = gitea.registration_token(&Scope::Instance);
    let options = RegisterOptions::new(token, name);
    StandInRunner::new(&gitea.url()).register(&options).await.unwrap()
}

async fn ten(gitea: &StandInGitea) -> Vec<Runner> {
    let mut runners = Vec::new();
    for n in 0..10 {
        runners.push(elsewhere(gitea, &format!("old-{n}")).await);
    }
    runners
}

fn find(broker: &Broker, runner: &Runner) -> Option<Arc<Live>> {
    let token = runner.credentials.token.expose_secret().as_bytes();
    broker.lifecycle.roster.authenticate(&runner.credentials.uuid, token)
}

async fn adopted(broker: &Broker, runner: &Runner) -> Arc<Live> {
    eventually("it is adopted", async || find(broker, runner).is_some()).await;
    find(broker, runner).unwrap()
}

async fn end(broker: &Broker, live: &Arc<Live>, reason: Reason) -> Result<(), DeregisterError> {
    broker.lifecycle.deregister(live, reason, Force::LeaveBusy, &By::broker()).await
}

async fn deregister(broker: &Broker, live: &Arc<Live>) -> Result<(), DeregisterError> {
    end(broker, live, Reason::Admin).await
}

#[tokio::test]
async fn ten_runners_move_by_their_address_alone_and_are_as_any_other() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runners = ten(&gitea).await;
    let daemons: Vec<_> = runners
        .iter()
        .map(|runner| runner.moved_to(&broker.url).spawn(Pace { poll: Duration::from_millis(10) }))
        .collect();
    for runner in &runners {
        let live = adopted(&broker, runner).await;
        let record = live.record();
        assert_eq!(record.upstream.id, runner.credentials.id);
        assert_eq!((record.name, record.labels), (runner.name.clone(), runner.labels.clone()));
        assert_eq!((record.origin, record.parent_id.as_str()), (Origin::Adopted, ""));
        assert_eq!(record.state, RecordState::Active);
        assert_eq!(record.dialled.as_deref(), broker.url.strip_prefix("http://"));
    }
    assert_eq!(broker.lifecycle.roster.all().len(), 10, "each is adopted once");
    let task = gitea.queue_task(&["host"]);
    gitea.wait_until(|gitea| matches!(gitea.task(task).unwrap().state, TaskState::Ended(_))).await;
    for daemon in daemons {
        daemon.stop().await.unwrap();
    }
    let live = find(&broker, &runners[0]).unwrap();
    deregister(&broker, &live).await.unwrap();
    assert!(gitea.runner(runners[0].credentials.id).is_none());
    runners[1].moved_to(&broker.url).deregister().await.unwrap();
    assert!(gitea.runner(runners[1].credentials.id).is_none());
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    // The records are there after a restart, and no file was written for them.
    let broker = Broker::start(&site).await;
    assert_eq!(broker.lifecycle.roster.all().len() + 2, 10);
    assert_eq!(std::fs::read_dir(site.path("runners")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_lost_store_is_rebuilt_by_ten_runners_that_poll() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut runners = Vec::new();
    for n in 0..10 {
        runners.push(join(&broker.url, &format!("poller-{n}")).await);
    }
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = std::fs::remove_file(site.path(name));
    }
    let broker = Broker::start(&site).await;
    let runners: Vec<_> = runners.iter().map(|runner| runner.moved_to(&broker.url)).collect();
    for runner in &runners {
        runner.fetch_task(0).await.unwrap();
    }
    for runner in &runners {
        let live = adopted(&broker, runner).await;
        assert_eq!(live.id(), 0, "a poll does not tell it");
        // What depends on the id is refused, and its labels in Gitea stay.
        let error = deregister(&broker, &live).await.unwrap_err();
        assert!(matches!(error, DeregisterError::NotTold), "{error}");
        assert!(error.to_string().contains("restart the runner"), "{error}");
        let lease = end(&broker, &live, Reason::Lease).await;
        assert!(matches!(lease, Err(DeregisterError::NotTold)));
        let row = gitea.runner(runner.credentials.id).unwrap();
        assert_eq!(row.labels, ["host"]);
    }
    assert_eq!(deletions(&gitea), 0);
    for runner in &runners {
        runner.declare(&["host", "more"]).await.unwrap();
        let record = find(&broker, runner).unwrap().record();
        assert_eq!(record.upstream.id, runner.credentials.id);
        assert_eq!((record.name.as_str(), record.labels.len()), (&*runner.name, 2));
    }
    broker.stop().await;
    let broker = Broker::start(&site).await;
    let live = find(&broker, &runners[0]).unwrap();
    assert_eq!((live.id(), live.record().labels.len()), (runners[0].credentials.id, 2));
    deregister(&broker, &live).await.unwrap();
    assert!(gitea.runner(runners[0].credentials.id).is_none());
}

#[tokio::test]
async fn one_whose_id_is_not_told_may_leave_by_itself() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = elsewhere(&gitea, "leaver").await.moved_to(&broker.url);
    runner.fetch_task(0).await.unwrap();
    assert_eq!(adopted(&broker, &runner).await.id(), 0);
    runner.deregister().await.unwrap();
    assert!(gitea.runner(runner.credentials.id).is_none());
}

#[tokio::test]
async fn many_calls_at_once_adopt_once_and_strangers_are_not_adopted() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = elsewhere(&gitea, "eager").await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..8 {
        let runner = runner.moved_to(&broker.url);
        calls.spawn(async move {
            match n {
                4 => runner.declare(&["host"]).await.map(drop),
                _ => runner.fetch_task(0).await.map(drop),
            }
        });
    }
    assert!(calls.join_all().await.iter().all(Result::is_ok));
    eventually("its id is told", async || {
        find(&broker, &runner).is_some_and(|live| live.id() == runner.credentials.id)
    })
    .await;
    assert_eq!(broker.lifecycle.roster.all().len(), 1);

    let mut stranger = runner.moved_to(&broker.url);
    stranger.credentials.uuid = "00000000-0000-4000-8000-000000000000".into();
    stranger.fetch_task(0).await.unwrap_err();
    // Gitea takes all: what it never gave out is not adopted even so.
    let empty = Answer {
        status: hyper::StatusCode::OK,
        headers: vec![("Content-Type", "application/proto".into())],
        body: bytes::Bytes::new(),
    };
    gitea.faults().always(Route::FetchTask, When::BeforeActing, Effect::Answer(empty));
    stranger.credentials.uuid = "u".repeat(65);
    stranger.fetch_task(0).await.unwrap();
    // The same uuid with another token is another's.
    stranger.credentials.uuid = runner.credentials.uuid.clone();
    stranger.credentials.token = "0123456789".into();
    stranger.fetch_task(0).await.unwrap();
    // None while it drains; whatever was begun is done when it has ended.
    stranger.credentials.uuid = "11111111-0000-4000-8000-000000000000".into();
    broker.lifecycle.begin_drain();
    stranger.update_log(1, 0, &[], false).await.unwrap_err();
    let lifecycle = Arc::clone(&broker.lifecycle);
    broker.stop().await;
    assert_eq!(lifecycle.roster.all().len(), 1);
}

#[tokio::test]
async fn one_that_was_deregistered_and_that_a_restored_gitea_knows_is_seen_again() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = join(&broker.url, "again").await;
    let backup = gitea.backup();
    let live = find(&broker, &runner).unwrap();
    deregister(&broker, &live).await.unwrap();
    let error = runner.fetch_task(0).await.unwrap_err();
    assert_eq!(error.code, "unauthenticated");
    gitea.restore(&backup);
    // Also on the connection that knew it before.
    runner.moved_to(&broker.url).fetch_task(0).await.unwrap();
    let again = adopted(&broker, &runner).await;
    runner.fetch_task(0).await.unwrap();
    assert_ne!(again.record_id, live.record_id);
    assert_eq!((again.id(), again.record().name), (runner.credentials.id, "again".to_owned()));
    deregister(&broker, &again).await.unwrap();
    assert!(gitea.runner(runner.credentials.id).is_none());
}

#[tokio::test]
async fn one_that_was_revoked_is_revoked_again() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = join(&broker.url, "revoked").await;
    let backup = gitea.backup();
    let live = find(&broker, &runner).unwrap();
    end(&broker, &live, Reason::Revoked).await.unwrap();
    gitea.restore(&backup);
    let runner = runner.moved_to(&broker.url);
    runner.fetch_task(0).await.unwrap();
    gitea.wait_until(|gitea| gitea.runner(runner.credentials.id).is_none()).await;
}

#[tokio::test]
async fn an_id_that_is_anothers_after_a_restore_deletes_nobody() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = elsewhere(&gitea, "mine").await.moved_to(&broker.url);
    runner.declare(&["host"]).await.unwrap();
    let live = adopted(&broker, &runner).await;
    // The row has another id now, and its old id is another's.
    let id = runner.credentials.id;
    gitea.remove_runner(id);
    let seed = RunnerSeed {
        id: Some(id + 7),
        uuid: Some(runner.credentials.uuid.clone()),
        token: Some(runner.credentials.token.clone()),
        ..Default::default()
    };
    gitea.add_runner(seed.clone());
    gitea.add_runner(RunnerSeed { id: Some(id), uuid: None, token: None, ..seed });
    let error = deregister(&broker, &live).await.unwrap_err();
    assert!(error.to_string().contains(&format!("by id {}", id + 7)), "{error}");
    assert_eq!(deletions(&gitea), 0);
    assert!(gitea.runner(id).is_some() && gitea.runner(id + 7).is_some());
}

#[tokio::test]
async fn a_declare_that_names_nobody_adopts_without_an_id() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = elsewhere(&gitea, "nameless").await.moved_to(&broker.url);
    let empty = encode(Codec::Proto, &DeclareResponse { runner: None });
    let answer = Answer {
        status: hyper::StatusCode::OK,
        headers: vec![("Content-Type", "application/proto".into())],
        body: empty.into(),
    };
    gitea.faults().once(Route::Declare, When::AfterActing, Effect::Answer(answer));
    assert_eq!(runner.declare(&["host"]).await.unwrap(), WireRunner::default());
    assert_eq!(adopted(&broker, &runner).await.id(), 0);
    runner.declare(&["host"]).await.unwrap();
    assert_eq!(find(&broker, &runner).unwrap().id(), runner.credentials.id);
}

fn shown(runner: &Runner) -> Value {
    json!({
        "id": runner.credentials.id,
        "uuid": runner.credentials.uuid,
        "token": runner.credentials.token.expose_secret(),
        "name": runner.name,
        "labels": ["host:host"],
        "ephemeral": runner.ephemeral,
    })
}

#[tokio::test]
async fn the_api_adopts_ahead_what_gitea_knows() {
    let stack = Stack::start().await;
    let runner = elsewhere(&stack.gitea, "ahead").await;
    let post = async |body: Value| stack.local("POST", ADOPT, &[JSON], &body.to_string()).await;
    let answer = post(shown(&runner)).await;
    let told = answer.ok(201);
    assert_eq!(told["origin"], "adopted");
    assert_eq!((&told["id"], &told["labels"]), (&json!(runner.credentials.id), &json!(["host"])));
    assert!(!told.to_string().contains(runner.credentials.token.expose_secret()));
    let labels = stack.gitea.runner(runner.credentials.id).unwrap().labels;
    assert_eq!(labels, runner.labels, "nothing is changed there");

    let problem = |answer: &crate::admin::Answer, status| {
        assert_eq!(answer.status, status, "{}", answer.body);
        answer.json()["type"].as_str().unwrap().rsplit(':').next().unwrap().to_owned()
    };
    assert_eq!(problem(&post(shown(&runner)).await, 409), "known-runner");
    let mut other = shown(&runner);
    other["token"] = json!("another");
    assert_eq!(problem(&post(other.clone()).await, 409), "taken");
    other["uuid"] = json!("00000000-0000-4000-8000-000000000000");
    assert_eq!(problem(&post(other.clone()).await, 422), "unregistered");
    for (field, wrong) in [
        ("id", json!(0)),
        ("uuid", json!("")),
        ("uuid", json!("ü")),
        ("token", json!("a b")),
        ("name", json!("a\nb")),
        ("labels", json!(["rb-intent-x"])),
    ] {
        let mut bad = other.clone();
        bad[field] = wrong;
        let answer = post(bad).await;
        assert_eq!(problem(&answer, 422), "invalid", "{field}");
        assert_eq!(answer.json()["errors"][0]["field"], field);
    }
    for bad in [json!({}), json!({"token": 5}), json!([1])] {
        assert_eq!(problem(&post(bad).await, 400), "request");
    }
    stack.gitea.set_down().await.unwrap();
    assert_eq!(problem(&post(other).await, 503), "unreachable");
    stack.gitea.set_up().await.unwrap();

    // It may be at work straight at Gitea: neither a shutdown nor a lease deletes it.
    let live = stack.broker.lifecycle.roster.all().remove(0);
    let lifecycle = &stack.broker.lifecycle;
    for reason in [Reason::Shutdown, Reason::Lease] {
        let asked = end(&stack.broker, &live, reason).await;
        assert!(matches!(asked, Err(DeregisterError::NotMoved)), "{reason:?}");
    }
    // Its move changes nothing more.
    runner.moved_to(&stack.broker.url).declare(&["host"]).await.unwrap();
    assert_eq!(lifecycle.roster.all().len(), 1);
    assert!(live.spoke());
}

#[tokio::test]
async fn the_command_reads_a_file_and_says_what_is_next() {
    let stack = Stack::start().await;
    let runner = elsewhere(&stack.gitea, "by-file").await;
    let token = runner.credentials.token.expose_secret().to_owned();
    let mut file = shown(&runner);
    file["address"] = json!(stack.gitea.url());
    let path = stack.site.path("old.runner");
    std::fs::write(&path, file.to_string()).unwrap();
    let adopt = async |path: &std::path::Path| {
        let shown = inside(&stack.site, &["runner", "adopt", path.to_str().unwrap()]).await;
        assert!(!format!("{}{}", shown.stdout, shown.stderr).contains(&token));
        shown
    };
    for said in ["is adopted; next: set \"address\"", "already; next: set \"address\""] {
        let shown = adopt(&path).await;
        assert_eq!(shown.code, 0, "{}", shown.stderr);
        assert!(shown.stdout.contains(said), "{}", shown.stdout);
    }
    stack.gitea.remove_runner(runner.credentials.id);
    file["uuid"] = json!("00000000-0000-4000-8000-000000000000");
    std::fs::write(&path, file.to_string()).unwrap();
    let unknown = adopt(&path).await;
    assert_eq!(unknown.code, 64);
    assert!(unknown.stderr.contains("Gitea does not know a runner"), "{}", unknown.stderr);

    std::fs::write(&path, format!("{{\"token\": \"{token}\"")).unwrap();
    assert!(adopt(&path).await.stderr.contains("is no runner file"));
    std::fs::write(&path, vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(adopt(&path).await.stderr.contains("larger than 1 MiB"));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        stack.site.path("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(adopt(&stack.site.path("pipe")).await.stderr.contains("no regular file"));
    let missing = adopt(&stack.site.path("nowhere")).await;
    assert_eq!(missing.code, 64);
}

/// The instance's pages show the runners of every organization: registered anew for the instance, one of them
/// would get everyone's jobs.
#[tokio::test]
async fn one_of_another_organization_is_never_registered_for_the_instance() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let scope = Scope::Org("others".into());
    let options = RegisterOptions::new(gitea.registration_token(&scope), "foreign");
    let runner = StandInRunner::new(&gitea.url()).register(&options).await.unwrap();
    let runner = runner.moved_to(&broker.url);
    runner.declare(&["host"]).await.unwrap();
    let live = adopted(&broker, &runner).await;
    for reason in [Reason::Lease, Reason::Shutdown] {
        let kept = end(&broker, &live, reason).await;
        assert!(matches!(kept, Err(DeregisterError::Foreign)), "{kept:?}");
    }
    assert_eq!(gitea.runner(runner.credentials.id).unwrap().scope, scope);
    runner.fetch_task(0).await.unwrap();
    let rows = gitea.runners();
    assert!(rows.iter().all(|row| row.scope == scope), "{rows:?}");
    // An admin's word is final.
    deregister(&broker, &live).await.unwrap();
    assert!(gitea.runners().is_empty());
    runner.fetch_task(0).await.unwrap_err();
    assert!(gitea.runners().is_empty());
}
