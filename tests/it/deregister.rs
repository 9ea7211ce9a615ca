//! The Deregister call: who may, what is proved before anything is deleted, and what happens when Gitea
//! does not play along.

use std::time::Duration;

use runner_broker::broker::{Reason, RecordState};
use runner_broker::connect::messages::{self as wire, DeclareResponse, TaskResult};
use runner_broker::connect::{Codec, encode};
use runner_broker::lifecycle::{By, Force, Timing};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, TaskState, When};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use runner_broker::store::Store;
use secrecy::ExposeSecret;

use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, is_probe, quick};

/// A runner with connections of its own that registered and declared itself.
pub(crate) async fn join(url: &str, name: &str) -> Runner {
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), name);
    let runner = StandInRunner::new(url).register(&options).await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    runner
}

/// A runner with a task in hand.
pub(crate) async fn join_busy(gitea: &StandInGitea, url: &str, name: &str) -> (Runner, i64) {
    let runner = join(url, name).await;
    gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    (runner, task.unwrap().id)
}

/// What arrived at Gitea since `from`, in order: the last word of a call's path, or `DELETE`.
pub(crate) fn calls(gitea: &StandInGitea) -> Vec<String> {
    let word = |entry: &runner_broker::sandbox::gitea::Entry| match entry.method.as_str() {
        "POST" => entry.target.rsplit('/').next().unwrap().to_owned(),
        method => method.to_owned(),
    };
    let entries = gitea.journal().entries();
    let calls = entries.iter().filter(|entry| !is_probe(entry)).map(word);
    calls.filter(|call| !["Ping", "GET"].contains(&call.as_str())).collect()
}

pub(crate) fn deletions(gitea: &StandInGitea) -> usize {
    gitea.journal().count(|entry| entry.method == "DELETE" && !is_probe(entry))
}

struct Scene {
    gitea: StandInGitea,
    site: Site,
    broker: Broker,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|_, site| site, quick()).await
    }

    async fn with(change: impl FnOnce(&StandInGitea, Site) -> Site, timing: Timing) -> Self {
        let gitea = gitea();
        let site = change(&gitea, Site::new(&gitea));
        let broker = Broker::start_with(&site, timing).await;
        Self { gitea, site, broker }
    }

    async fn join(&self, name: &str) -> Runner {
        let runner = join(&self.broker.url, name).await;
        self.gitea.journal().clear();
        runner
    }

    fn states(&self) -> Vec<RecordState> {
        self.broker.lifecycle.roster.all().iter().map(|live| live.state()).collect()
    }

    /// It was not deregistered, and the broker keeps at it.
    fn pending(&self, runner: &Runner) {
        assert!(self.gitea.runner(runner.credentials.id).is_some());
        assert_eq!(self.states(), [RecordState::Deregistering(Reason::Runner)]);
        assert!(self.site.runner_file(&runner.name).exists());
    }

    /// It is gone everywhere.
    async fn ended(&self, runner: &Runner) {
        eventually("the record has ended", async || self.states().is_empty()).await;
        assert!(self.gitea.runner(runner.credentials.id).is_none());
        assert!(!self.site.runner_file(&runner.name).exists());
        let uuid = &runner.credentials.uuid;
        let record = self.broker.lifecycle.store.ended_by_uuid(uuid).await.unwrap().unwrap();
        assert_eq!(record.state, RecordState::Ended(Reason::Runner));
    }
}

fn refused(outcome: Result<wire::Runner, RpcError>, code: &str) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.code, code, "{error}");
    error.message
}

#[tokio::test]
async fn a_runner_deregisters_in_every_form_of_the_call() {
    let scene = Scene::new().await;
    for (codec, gzip) in
        [(Codec::Proto, false), (Codec::Proto, true), (Codec::Json, false), (Codec::Json, true)]
    {
        let name = format!("{}-{gzip}", codec.as_str());
        let options =
            RegisterOptions { codec, gzip, ..RegisterOptions::new(ENROLLMENT_TOKEN.into(), &name) };
        let runner = StandInRunner::new(&scene.broker.url).register(&options).await.unwrap();
        runner.declare(&["host", "more"]).await.unwrap();
        scene.gitea.journal().clear();
        let answer = runner.deregister().await.unwrap();
        let expected = wire::Runner {
            id: runner.credentials.id,
            uuid: runner.credentials.uuid.clone(),
            token: String::new(),
            name,
            version: runner_broker::sandbox::runner::VERSION.into(),
            labels: vec!["host".into(), "more".into()],
            ephemeral: false,
        };
        assert_eq!(answer, expected);
        assert_eq!(calls(&scene.gitea), ["Declare", "DELETE"], "the proof comes first");
        scene.ended(&runner).await;
        let again = runner.deregister().await.unwrap();
        assert_eq!(again, expected, "a second one gets the same answer");
        assert_eq!(deletions(&scene.gitea), 1);
    }
}

#[tokio::test]
async fn the_token_decides_which_runner_is_meant_and_the_id_nothing() {
    let scene = Scene::new().await;
    let (mut one, two) = (scene.join("one").await, scene.join("two").await);
    let id = one.credentials.id;
    one.credentials.id = two.credentials.id;
    assert_eq!(one.deregister().await.unwrap().id, id);
    one.credentials.id = 987_654;
    assert_eq!(one.deregister().await.unwrap().id, id, "the record decides after its end, too");
    assert!(scene.gitea.runner(id).is_none());
    assert!(scene.gitea.runner(two.credentials.id).is_some(), "the other one stays");
    assert!(scene.site.runner_file("two").exists());
}

#[tokio::test]
async fn who_does_not_hold_the_token_changes_nothing() {
    let scene = Scene::with(|_, site| site.set("credentials.path", "/nowhere/{id}"), quick()).await;
    let (one, two) = (scene.join("one").await, scene.join("two").await);
    let mut wrong = one.clone();
    wrong.credentials.token = "x".repeat(40).into();
    let mut others = one.clone();
    others.credentials.token = two.credentials.token.clone();
    let mut unknown = one.clone();
    unknown.credentials.uuid = "00000000-0000-4000-8000-000000000000".into();
    let mut empty = one.clone();
    empty.credentials.token = "".into();
    let texts = [wrong, others, unknown, empty]
        .map(|stranger| async move { refused(stranger.deregister().await, "unauthenticated") });
    let texts = futures_util::future::join_all(texts).await;
    assert!(texts.iter().all(|text| *text == texts[0]), "no answer tells which it was: {texts:?}");
    assert!(calls(&scene.gitea).is_empty());
    assert_eq!(scene.states(), [RecordState::Active; 2]);
    one.deregister().await.unwrap();
    let mut ended = one.clone();
    ended.credentials.token = two.credentials.token.clone();
    refused(ended.deregister().await, "unauthenticated");
}

#[tokio::test]
async fn without_an_api_token_it_is_parked_and_speaks_no_more() {
    let scene = Scene::with(|_, site| site.api_token(None), quick()).await;
    let runner = scene.join("one").await;
    for _again in 0..2 {
        assert_eq!(runner.deregister().await.unwrap().id, runner.credentials.id);
        assert_eq!(scene.states(), [RecordState::Parked(Reason::Runner)]);
    }
    assert!(scene.gitea.runner(runner.credentials.id).is_some());
    assert!(!scene.site.runner_file(&runner.name).exists());
    let error = runner.fetch_task(0).await.unwrap_err();
    assert_eq!(error.code, "unauthenticated", "{error}");
}

#[tokio::test]
async fn a_bad_api_token_ends_nothing_and_the_text_says_why() {
    for (scopes, expected) in [(Some(["read:admin"]), "write:admin"), (None, "api_token_file")] {
        let scene = Scene::with(
            |gitea, site| match scopes {
                Some(scopes) => site.api_token(Some(gitea.api_token(&scopes).expose_secret())),
                None => site.api_token(Some("0123456789abcdef0123456789abcdef01234567")),
            },
            quick(),
        )
        .await;
        let runner = scene.join("one").await;
        let text = refused(runner.deregister().await, "failed_precondition");
        assert!(text.contains(expected), "{text}");
        scene.pending(&runner);
        // Each further attempt would cancel its task, so it gets none.
        let task = scene.gitea.queue_task(&["host"]);
        assert_eq!(runner.fetch_task(0).await.unwrap(), (None, 0));
        assert_eq!(scene.gitea.task(task).unwrap().state, TaskState::Waiting);
    }
}

#[tokio::test]
async fn what_gitea_refuses_is_not_tried_without_a_pause() {
    let timing = Timing { retry: Duration::from_secs(60), ..quick() };
    let scene = Scene::with(
        |gitea, site| site.api_token(Some(gitea.api_token(&["read:admin"]).expose_secret())),
        timing,
    )
    .await;
    let runner = scene.join("one").await;
    refused(runner.deregister().await, "failed_precondition");
    // The broker tries once by itself, and then it waits.
    eventually("it tries by itself", async || deletions(&scene.gitea) >= 2).await;
    for _ in 0..50 {
        runner.program().ping("one").await.unwrap();
    }
    assert!(deletions(&scene.gitea) <= 2, "{} attempts", deletions(&scene.gitea));
}

#[tokio::test]
async fn a_404_ends_the_record_only_where_gitea_no_longer_knows_the_runner() {
    let scene = Scene::new().await;
    let runner = scene.join("one").await;
    runner.declare(&["host", "more"]).await.unwrap();
    let not_found = Answer::connect_error(hyper::StatusCode::NOT_FOUND, "", "Runner not found");
    let lie = scene.gitea.faults().always(
        Route::DeleteRunner,
        When::BeforeActing,
        Effect::Answer(not_found),
    );
    let text = refused(runner.deregister().await, "failed_precondition");
    assert!(text.contains("write:admin"), "{text}");
    scene.pending(&runner);
    let labels = scene.gitea.runner(runner.credentials.id).unwrap().labels;
    assert_eq!(labels, ["host", "more"], "the proof leaves the labels as they were");
    scene.gitea.faults().remove(lie);
    scene.ended(&runner).await;

    // Deleted by hand while the DELETE is on its way.
    let runner = scene.join("two").await;
    let gate = scene.gitea.faults().gate(Route::DeleteRunner, When::BeforeActing);
    let by_hand = async {
        gate.reached().await;
        assert!(scene.gitea.remove_runner(runner.credentials.id));
        gate.open();
    };
    let (answer, ()) = tokio::join!(runner.deregister(), by_hand);
    answer.unwrap();
    assert_eq!(calls(&scene.gitea), ["Declare", "DELETE", "Declare"]);
    scene.ended(&runner).await;

    // Deleted by hand before.
    let runner = scene.join("three").await;
    assert!(scene.gitea.remove_runner(runner.credentials.id));
    runner.deregister().await.unwrap();
    assert_eq!(calls(&scene.gitea), ["Declare"]);
    scene.ended(&runner).await;
}

#[tokio::test]
async fn nothing_is_deleted_where_gitea_names_another_id() {
    let scene = Scene::new().await;
    let runner = scene.join("one").await;
    let other = wire::Runner { id: runner.credentials.id + 1, ..wire::Runner::default() };
    let body = encode(Codec::Proto, &DeclareResponse { runner: Some(other) });
    let answer = Answer {
        status: hyper::StatusCode::OK,
        headers: vec![("Content-Type", "application/proto".into())],
        body: body.into(),
    };
    scene.gitea.faults().always(Route::Declare, When::BeforeActing, Effect::Answer(answer));
    let text = refused(runner.deregister().await, "failed_precondition");
    let (id, other) = (runner.credentials.id.to_string(), (runner.credentials.id + 1).to_string());
    assert!(text.contains(&id) && text.contains(&other), "{text}");
    assert_eq!(deletions(&scene.gitea), 0);
    scene.pending(&runner);
}

#[tokio::test]
async fn while_gitea_is_down_the_broker_keeps_at_it() {
    let scene = Scene::new().await;
    let runner = scene.join("one").await;
    scene.gitea.set_down().await.unwrap();
    let text = refused(runner.deregister().await, "unavailable");
    assert!(text.contains("by itself"), "{text}");
    scene.pending(&runner);
    scene.gitea.set_up().await.unwrap();
    scene.ended(&runner).await;
}

#[tokio::test]
async fn a_task_in_hand_is_cancelled_before_its_runner_is_deleted() {
    let scene = Scene::new().await;
    for down in [false, true] {
        let (runner, task) = join_busy(&scene.gitea, &scene.broker.url, "one").await;
        scene.gitea.journal().clear();
        if down {
            scene.gitea.set_down().await.unwrap();
            refused(runner.deregister().await, "unavailable");
            scene.pending(&runner);
            scene.gitea.set_up().await.unwrap();
        } else {
            runner.deregister().await.unwrap();
        }
        scene.ended(&runner).await;
        let expected = ["UpdateLog", "UpdateLog", "UpdateTask", "Declare", "DELETE"];
        assert_eq!(calls(&scene.gitea), expected);
        let report = scene.gitea.journal().entries().remove(2);
        assert_eq!(report.header("x-runner-uuid"), Some(&*runner.credentials.uuid));
        let state = scene.gitea.task(task).unwrap().state;
        assert_eq!(state, TaskState::Ended(TaskResult::Cancelled));
    }
}

#[tokio::test]
async fn two_at_once_delete_once() {
    let scene = Scene::new().await;
    let runner = scene.join("one").await;
    let again = runner.moved_to(&scene.broker.url);
    let gate = scene.gitea.faults().gate(Route::DeleteRunner, When::BeforeActing);
    let open = async {
        gate.reached().await;
        StandInRunner::new(&scene.broker.url).ping("both are in").await.unwrap();
        gate.open();
    };
    let (first, second, ()) = tokio::join!(runner.deregister(), again.deregister(), open);
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(deletions(&scene.gitea), 1);
}

#[tokio::test]
async fn a_file_of_another_runner_stays() {
    let scene = Scene::new().await;
    let runner = scene.join("one").await;
    let path = scene.site.runner_file("one");
    let text = std::fs::read_to_string(&path).unwrap();
    let others = text.replace(&runner.credentials.uuid, "00000000-0000-4000-8000-000000000000");
    std::fs::write(&path, &others).unwrap();
    runner.deregister().await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), others);
}

#[tokio::test]
async fn what_is_pending_is_done_at_the_next_start_and_the_reason_is_kept() {
    let scene = Scene::with(
        |_, site| site.set("shutdown.deadline", "2s").set("shutdown.drain_timeout", "100ms"),
        quick(),
    )
    .await;
    let runner = scene.join("one").await;
    scene.gitea.set_down().await.unwrap();
    refused(runner.deregister().await, "unavailable");
    let back = runner.moved_to(&scene.broker.url);
    drop(runner);
    let live = scene.broker.lifecycle.roster.all().remove(0);
    eventually("it is gone", async || !live.is_connected()).await;
    let Scene { gitea, site, broker } = scene;
    broker.stop().await;
    let store = Store::open(&site.path("state.db")).unwrap();
    let states: Vec<_> = store.runners().await.unwrap().iter().map(|r| r.state).collect();
    assert_eq!(states, [RecordState::Deregistering(Reason::Runner)]);
    store.close().await.unwrap();

    let broker = Broker::start(&site).await;
    // That it speaks does not call it back: it was not the broker's end that sent it away.
    assert_eq!(back.moved_to(&broker.url).fetch_task(0).await.unwrap(), (None, 0));
    gitea.set_up().await.unwrap();
    let scene = Scene { gitea, site, broker };
    scene.ended(&back).await;
}

#[tokio::test]
async fn a_runner_that_an_admin_cannot_remove_goes_on_working() {
    let scene = Scene::with(
        |gitea, site| {
            let token = gitea.api_token(&["read:user"]);
            site.api_token(Some(token.expose_secret()))
        },
        quick(),
    )
    .await;
    let runner = scene.join("one").await;
    let live = scene.broker.lifecycle.roster.all().remove(0);
    let asked = scene
        .broker
        .lifecycle
        .deregister(&live, Reason::Admin, Force::LeaveBusy, &By::broker())
        .await;
    assert!(asked.unwrap_err().to_string().contains("write:admin"));
    assert!(scene.gitea.runner(runner.credentials.id).is_some());
    assert_eq!(scene.states(), [RecordState::Active]);
    assert!(scene.site.runner_file(&runner.name).exists());
    let id = scene.gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    assert_eq!(task.map(|task| task.id), Some(id));
}
