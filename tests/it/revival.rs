//! A runner that the broker itself deregistered, and that speaks again, works on behind its old credentials.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use runner_broker::broker::{Credentials, Reason, RecordState, What};
use runner_broker::connect::messages::TaskResult;
use runner_broker::lifecycle::{By, Force, Live, Timing};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, TaskState, When};
use runner_broker::sandbox::runner::{Pace, RegisterOptions, RpcError, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use runner_broker::store::EventFilter;
use secrecy::ExposeSecret;

use crate::binary::Binary;
use crate::register::{intent_label, join, registers};
use crate::support::{
    Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, quick, runner_file, within,
};
use crate::tokens::{admin, live, register, token};

/// A site whose broker comes back at the same place. An address of its own keeps the port from others.
pub(crate) async fn start_to_stay(site: Site, address: &str) -> (Site, Broker) {
    let site = site.set("listen.runners", &format!("{address}:0"));
    let broker = Broker::start(&site).await;
    let place = broker.url.trim_start_matches("http://").to_owned();
    (site.set("listen.runners", &place), broker)
}

/// The runner with these credentials, where it is live.
pub(crate) fn live_of(broker: &Broker, runner: &Runner) -> Option<Arc<Live>> {
    let all = broker.lifecycle.roster.all();
    all.into_iter().find(|live| live.presented.uuid == runner.credentials.uuid)
}

/// The broker takes a runner for gone.
pub(crate) async fn take_for_gone(broker: &Broker, runner: &Runner, reason: Reason) {
    let live = live_of(broker, runner).unwrap();
    let by = By { actor: "broker".into(), peer: None };
    broker.lifecycle.deregister(&live, reason, Force::LeaveBusy, &by).await.unwrap();
    assert!(live.is_resting());
}

/// Takes a task, runs it, and tells which runner it is in Gitea.
pub(crate) async fn work(gitea: &StandInGitea, runner: &Runner) -> i64 {
    let id = gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    let task = task.expect("the task that waits");
    assert_eq!(task.id, id);
    assert_eq!(runner.run_task(&task).await.unwrap(), TaskResult::Success);
    let task = gitea.task(id).unwrap();
    assert_eq!(task.state, TaskState::Ended(TaskResult::Success));
    task.runner_id.unwrap()
}

/// No label of the broker's is left in Gitea, and nothing is open.
pub(crate) async fn all_settled(gitea: &StandInGitea, broker: &Broker) {
    eventually("all is settled", async || {
        let runners = gitea.runners();
        let mut labels = runners.iter().flat_map(|runner| &runner.labels);
        labels.all(|label| !label.starts_with("rb-intent-"))
            && broker.lifecycle.unsettled() == 0
            && broker.lifecycle.store.intents().await.unwrap().is_empty()
    })
    .await;
    let known: BTreeSet<_> = broker.lifecycle.roster.all().iter().map(|live| live.id()).collect();
    let there: BTreeSet<_> = gitea.runners().iter().map(|runner| runner.id).collect();
    assert_eq!(known, there, "no dead entry in Gitea, and none missing");
}

fn code<T: std::fmt::Debug>(result: Result<T, RpcError>) -> String {
    result.unwrap_err().code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_runners_that_know_nothing_of_it_outlive_a_restart_of_the_broker() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "all");
    let labels: String = (0..10).map(|number| format!("only-{number} = \"host\"\n")).collect();
    site.write_config(&format!("[labels]\n{labels}"));
    let (site, mut broker) = start_to_stay(site, "127.0.11.1").await;
    let mut daemons = Vec::new();
    let mut files = Vec::new();
    for number in 0..10 {
        let mut runner = join(&broker, &format!("r{number}")).await.unwrap();
        runner.labels = vec!["host".into(), format!("only-{number}")];
        files.push((runner.name.clone(), runner.credentials.uuid.clone()));
        daemons.push(runner.spawn(Pace::default()));
    }
    let left = join(&broker, "left").await.unwrap();
    left.declare(&["host"]).await.unwrap();
    left.deregister().await.unwrap();
    let by = token(&broker, |_| {}).await;
    let revoked = register(&broker, &by, "revoked").await.unwrap();
    revoked.declare(&["host"]).await.unwrap();
    eventually("all have declared themselves", async || {
        gitea.runners().iter().filter(|runner| runner.labels.len() == 2).count() == 10
    })
    .await;
    for round in 1..=2 {
        let seen = gitea.journal().entries().len();
        broker.stop().await;
        assert!(gitea.runners().is_empty(), "all are deregistered");
        broker = Broker::start(&site).await;
        if round == 1 {
            let id = &by.token.token.id;
            broker.lifecycle.delete_token(id, false, &admin()).await.unwrap();
            assert_eq!(code(revoked.fetch_task(0).await), "unauthenticated");
            left.fetch_task(0).await.unwrap_err();
        }
        within(gitea.wait_until(|gitea| gitea.runners().len() == 10)).await;
        all_settled(&gitea, &broker).await;
        let later: Vec<_> = gitea.journal().entries().split_off(seen);
        let asked = later.iter().filter(|entry| entry.target.ends_with("/Register")).count();
        assert_eq!(asked, 10, "each was registered once");

        let mut tasks = Vec::new();
        for number in 0..10 {
            tasks.push(gitea.queue_task(&["host", &format!("only-{number}")]));
        }
        let done = |gitea: &StandInGitea| {
            let ended = TaskState::Ended(TaskResult::Success);
            tasks.iter().all(|&id| gitea.task(id).unwrap().state == ended)
        };
        within(gitea.wait_until(done)).await;
        for (number, &task) in tasks.iter().enumerate() {
            let runner = gitea.runner(gitea.task(task).unwrap().runner_id.unwrap()).unwrap();
            assert_eq!(runner.name, format!("r{number}"));
            assert_eq!(runner.labels, ["host".to_owned(), format!("only-{number}")]);
        }
        assert_eq!(gitea.runners().len(), 10);
        for (name, uuid) in &files {
            assert_eq!(runner_file(&site.runner_file(name))["uuid"], *uuid);
        }
        let metrics = broker.lifecycle.metrics.render().unwrap();
        let counted = r#"runner_broker_registrations_total{outcome="revived",scope="instance"} 10"#;
        assert!(metrics.contains(counted), "{metrics}");
        let revived =
            EventFilter { what: Some(What::RunnerRevived), limit: 100, ..EventFilter::default() };
        let events = broker.lifecycle.store.events(revived).await.unwrap();
        assert_eq!(events.len(), 10 * round);
    }
    for daemon in daemons {
        assert_eq!(daemon.stop().await.unwrap(), 2);
    }
}

/// A broker with an API token and one runner, `one`, which is registered and has declared `host` and `more`.
struct Scene {
    gitea: StandInGitea,
    site: Site,
    broker: Broker,
    runner: Runner,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|site| site, quick()).await
    }

    async fn with(change: impl FnOnce(Site) -> Site, timing: Timing) -> Self {
        let gitea = gitea();
        let site = change(Site::new(&gitea).set("labels.more", "host"));
        let broker = Broker::start_with(&site, timing).await;
        let runner = join(&broker, "one").await.unwrap();
        runner.declare(&["host", "more"]).await.unwrap();
        Self { gitea, site, broker, runner }
    }

    /// The same, with the runner taken for gone.
    async fn asleep(self) -> Self {
        take_for_gone(&self.broker, &self.runner, Reason::Lease).await;
        assert!(self.gitea.runners().is_empty());
        self
    }

    /// It works again, by a row of its own, which shows what it declared.
    async fn works(&self) {
        let id = work(&self.gitea, &self.runner).await;
        all_settled(&self.gitea, &self.broker).await;
        assert_eq!(self.gitea.runner(id).unwrap().labels, ["host", "more"]);
        assert_eq!(self.gitea.runners().len(), 1);
    }
}

#[tokio::test]
async fn what_it_shows_is_swapped_and_its_file_is_there_again() {
    let scene = Scene::new().await.asleep().await;
    assert!(!scene.site.runner_file("one").exists());
    scene.works().await;
    let row = scene.gitea.runners().remove(0);
    assert_ne!(row.uuid, scene.runner.credentials.uuid);
    let file = runner_file(&scene.site.runner_file("one"));
    assert_eq!(file["uuid"], *scene.runner.credentials.uuid);
    let upstream = &row.uuid;
    let live = live_of(&scene.broker, &scene.runner).unwrap();
    assert!(scene.broker.lifecycle.roster.is_apart(upstream));
    assert_eq!(live.id(), row.id);
    assert!(live.is_connected(), "it is known that it is there");

    // The broker is killed, so to say, and knows it all the same.
    scene.broker.signal(Signal::Quit).await;
    scene.broker.ended().await;
    let broker = Broker::start(&scene.site).await;
    let runner = scene.runner.moved_to(&broker.url);
    assert_eq!(work(&scene.gitea, &runner).await, row.id);
    // And it may be taken for gone a second time.
    take_for_gone(&broker, &runner, Reason::Lease).await;
    let id = work(&scene.gitea, &runner).await;
    assert_ne!(id, row.id);
    assert!(!broker.lifecycle.roster.is_apart(upstream));
    runner.deregister().await.unwrap();
    assert!(scene.gitea.runners().is_empty());
    assert_eq!(code(runner.fetch_task(0).await), "unauthenticated");
}

#[tokio::test]
async fn who_was_sent_away_or_left_stays_away() {
    for reason in [Reason::Admin, Reason::Runner, Reason::Drain, Reason::Undeclared] {
        let scene = Scene::new().await;
        take_for_gone(&scene.broker, &scene.runner, reason).await;
        assert_eq!(code(scene.runner.fetch_task(0).await), "unauthenticated", "{reason:?}");
        assert_eq!(registers(&scene.gitea).len(), 1, "{reason:?}");
    }
    // One that was taken for gone, and then leaves by itself.
    let scene = Scene::new().await.asleep().await;
    scene.runner.deregister().await.unwrap();
    assert_eq!(code(scene.runner.fetch_task(0).await), "unauthenticated");
    assert_eq!(registers(&scene.gitea).len(), 1);
}

#[tokio::test]
async fn after_revive_within_nobody_comes_back() {
    let scene = Scene::with(|site| site.set("lease.revive_within", "1ms"), quick()).await;
    let scene = scene.asleep().await;
    eventually("it is too late", async || {
        let uuid = &scene.runner.credentials.uuid;
        let record = scene.broker.lifecycle.store.ended_by_uuid(uuid).await.unwrap().unwrap();
        record.ended_at.unwrap().elapsed().unwrap() > Duration::from_millis(50)
    })
    .await;
    assert_eq!(code(scene.runner.fetch_task(0).await), "unauthenticated");
    assert_eq!(registers(&scene.gitea).len(), 1);
    let Credentials { uuid, token, .. } = &scene.runner.credentials;
    let found = scene.broker.lifecycle.roster.authenticate(uuid, token.expose_secret().as_bytes());
    assert!(found.is_none(), "it is forgotten");
}

#[tokio::test]
async fn its_token_and_its_address_decide() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("listen.trusted_proxies", "127.0.0.1/32");
    let broker = Broker::start(&site).await;
    let parent = token(&broker, |draft| {
        // None of these matters for one that comes back.
        draft.policy.max_uses = Some(1);
        draft.policy.max_runners = Some(1);
        draft.policy.allowed_cidrs = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let id = parent.token.token.id.clone();
    let one = register(&broker, &parent, "one").await.unwrap();
    one.declare(&["host"]).await.unwrap();
    take_for_gone(&broker, &one, Reason::Lease).await;
    assert_eq!(live(&broker, &parent), 0);

    let Credentials { uuid, token, .. } = &one.credentials;
    let program = one.program();
    let headers = [
        ("x-runner-uuid", uuid.as_str()),
        ("x-runner-token", token.expose_secret()),
        ("x-forwarded-for", "192.0.2.7"),
    ];
    let from_afar = program.call(
        "/api/actions/runner.v1.RunnerService/FetchTask",
        "application/proto",
        &headers,
        "",
    );
    let refused = from_afar.await.unwrap();
    assert_eq!(refused.status, 403);
    broker.lifecycle.disable_token(&id, false, &admin()).await.unwrap();
    let error = one.fetch_task(0).await.unwrap_err();
    assert_eq!(error.code, "unauthenticated");
    assert!(error.message.contains("disabled"), "{error}");
    assert_eq!(registers(&gitea).len(), 1);
    broker.lifecycle.enable_token(&id, &admin()).await.unwrap();
    work(&gitea, &one).await;
    assert_eq!(live(&broker, &parent), 1);

    take_for_gone(&broker, &one, Reason::Shutdown).await;
    broker.lifecycle.delete_token(&id, true, &admin()).await.unwrap();
    assert_eq!(code(one.fetch_task(0).await), "unauthenticated");
    assert_eq!(registers(&gitea).len(), 2);
}

#[tokio::test]
async fn two_calls_at_once_register_it_once() {
    let scene = Scene::new().await.asleep().await;
    let gate = scene.gitea.faults().gate(Route::Register, When::AfterActing);
    let other = scene.runner.moved_to(&scene.broker.url);
    let open = async {
        gate.reached().await;
        gate.open();
    };
    let (one, two, ()) =
        within(async { tokio::join!(scene.runner.fetch_task(0), other.fetch_task(0), open) }).await;
    one.unwrap();
    two.unwrap();
    assert_eq!(registers(&scene.gitea).len(), 2);
    scene.works().await;
}

#[tokio::test]
async fn it_is_registered_also_where_it_hangs_up() {
    let scene = Scene::new().await.asleep().await;
    let gate = scene.gitea.faults().gate(Route::Register, When::BeforeActing);
    tokio::select! {
        _ = scene.runner.fetch_task(0) => panic!("the gate is closed"),
        () = within(gate.reached()) => {}
    }
    gate.open();
    eventually("it is live again", async || live_of(&scene.broker, &scene.runner).is_some()).await;
    all_settled(&scene.gitea, &scene.broker).await;
    scene.works().await;
    assert_eq!(registers(&scene.gitea).len(), 2);
}

#[tokio::test]
async fn a_gitea_that_fails_ends_no_runner() {
    let scene = Scene::new().await.asleep().await;
    scene.gitea.set_down().await.unwrap();
    for _ in 0..3 {
        assert_eq!(code(scene.runner.fetch_task(0).await), "unavailable");
    }
    scene.gitea.set_up().await.unwrap();
    let page = Answer::html(hyper::StatusCode::UNAUTHORIZED);
    for (when, effect) in [
        (When::AfterActing, Effect::Close),
        (When::BeforeActing, Effect::Answer(page)),
        (When::AfterActing, Effect::Answer(Answer::garbage("application/proto"))),
    ] {
        scene.gitea.faults().once(Route::Register, when, effect);
    }
    let mut told = BTreeSet::new();
    eventually("it works again", async || match scene.runner.fetch_task(0).await {
        Ok(_) => true,
        Err(error) => {
            told.insert(error.code);
            false
        }
    })
    .await;
    assert_eq!(told, BTreeSet::from(["unavailable".to_owned()]));
    // Each orphan is found by its label, and deleted.
    scene.works().await;
    assert_eq!(registers(&scene.gitea).len(), 5);
}

#[tokio::test]
async fn a_registration_token_that_gitea_refuses_is_no_reason_to_end() {
    let scene = Scene::new().await.asleep().await;
    let refusal = Answer::html(StatusCode::FORBIDDEN);
    scene.gitea.faults().always(
        Route::RegistrationToken,
        When::BeforeActing,
        Effect::Answer(refusal),
    );
    let fresh = scene.gitea.reset_registration_token(&runner_broker::config::Scope::Instance);
    let error = scene.runner.fetch_task(0).await.unwrap_err();
    assert_eq!(error.code, "unavailable");
    assert!(error.message.contains("registration token"), "{error}");
    scene.site.write_secret("registration_token", fresh.expose_secret());
    scene.broker.signal(Signal::Reload).await;
    eventually("it works again", async || scene.runner.fetch_task(0).await.is_ok()).await;
    scene.works().await;
}

#[tokio::test]
async fn one_that_polls_on_is_not_registered_as_often() {
    let timing = Timing { retry: Duration::from_secs(60), ..quick() };
    let scene = Scene::with(|site| site, timing).await.asleep().await;
    scene.gitea.faults().always(Route::Register, When::AfterActing, Effect::Close);
    for _ in 0..50 {
        assert_eq!(code(scene.runner.fetch_task(0).await), "unavailable");
    }
    assert_eq!(registers(&scene.gitea).len(), 2);
}

#[tokio::test]
async fn a_declare_that_failed_is_made_good_without_the_runner() {
    for at_its_next_call in [false, true] {
        let retry = if at_its_next_call { Duration::from_secs(60) } else { quick().retry };
        let scene = Scene::with(|site| site, Timing { retry, ..quick() }).await.asleep().await;
        let broken = scene.gitea.faults().always(
            Route::Declare,
            When::BeforeActing,
            Effect::Answer(Answer::html(hyper::StatusCode::BAD_GATEWAY)),
        );
        scene.runner.fetch_task(0).await.unwrap();
        let row = scene.gitea.runners().remove(0);
        let label = intent_label(&registers(&scene.gitea)[1]);
        assert_eq!(row.labels, ["host", "more", &label]);
        // It gets its tasks meanwhile.
        assert_eq!(work(&scene.gitea, &scene.runner).await, row.id);
        eventually("the broker tried", async || {
            scene.gitea.journal().count(|entry| entry.target.ends_with("/Declare")) >= 4
        })
        .await;
        scene.gitea.faults().remove(broken);
        if at_its_next_call {
            scene.runner.fetch_task(0).await.unwrap();
        }
        all_settled(&scene.gitea, &scene.broker).await;
        scene.works().await;
        let live = live_of(&scene.broker, &scene.runner).unwrap();
        eventually("it is noted", async || !live.declare_is_due()).await;
        assert_eq!(live.record().labels, ["host", "more"]);
    }
}

#[tokio::test]
async fn its_own_declare_is_what_counts() {
    let scene = Scene::new().await.asleep().await;
    let declared = scene.runner.declare(&["host", "newer"]).await.unwrap();
    assert_eq!(declared.labels, ["host", "newer"]);
    all_settled(&scene.gitea, &scene.broker).await;
    assert_eq!(scene.gitea.runners()[0].labels, ["host", "newer"]);

    // The broker's own is on its way when the runner's comes, and arrives after it.
    take_for_gone(&scene.broker, &scene.runner, Reason::Lease).await;
    let gate = scene.gitea.faults().gate(Route::Declare, When::BeforeActing);
    let wakes = scene.runner.moved_to(&scene.broker.url);
    let overtakes = async {
        gate.reached().await;
        scene.runner.declare(&["host", "newest"]).await.unwrap();
        gate.open();
    };
    let (woken, ()) = within(async { tokio::join!(wakes.fetch_task(0), overtakes) }).await;
    woken.unwrap();
    all_settled(&scene.gitea, &scene.broker).await;
    assert_eq!(scene.gitea.runners()[0].labels, ["host", "newest"]);
    let record = live_of(&scene.broker, &scene.runner).unwrap().record();
    assert_eq!(record.labels, ["host", "newest"]);
}

#[tokio::test]
async fn an_ephemeral_one_comes_back_as_that() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let options =
        RegisterOptions { ephemeral: true, ..RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one") };
    let runner = StandInRunner::new(&broker.url).register(&options).await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    take_for_gone(&broker, &runner, Reason::Lease).await;
    runner.fetch_task(0).await.unwrap();
    assert!(gitea.runners()[0].ephemeral);
    work(&gitea, &runner).await;
    eventually("it is gone after its task", async || broker.lifecycle.roster.all().is_empty())
        .await;
    assert!(gitea.runners().is_empty());
    assert_eq!(code(runner.fetch_task(0).await), "unauthenticated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_ends_meanwhile_leaves_nothing_behind() {
    let scene = Scene::with(|site| site.set("shutdown.deregister", "all"), quick()).await;
    let Scene { gitea, site, broker, runner } = scene.asleep().await;
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    let poll = runner.clone();
    let poll = tokio::spawn(async move { poll.fetch_task(0).await });
    within(gate.reached()).await;
    broker.signal(Signal::Terminate).await;
    eventually("it drains", async || broker.lifecycle.is_draining()).await;
    gate.open();
    let _ = within(poll).await.unwrap();
    broker.ended().await;
    assert!(gitea.runners().is_empty(), "it was deregistered again");

    let broker = Broker::start(&site).await;
    let runner = runner.moved_to(&broker.url);
    work(&gitea, &runner).await;
    // While it ends, nobody is woken, and nobody is sent away for good.
    take_for_gone(&broker, &runner, Reason::Lease).await;
    broker.lifecycle.begin_drain();
    assert_eq!(code(runner.fetch_task(0).await), "unavailable");
    assert!(gitea.runners().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leaves_one_orphan_at_most_and_none_after_the_restart() {
    // The step, the runners in Gitea after the crash, and whether the first of them stays.
    for (point, left, kept) in [
        ("revival-begun", 0, false),
        ("intent-stored", 0, false),
        ("gitea-answered", 1, false),
        ("revival-stored", 1, true),
        ("revival-declared", 1, true),
    ] {
        let Scene { gitea, site, broker, runner } = Scene::new().await.asleep().await;
        broker.stop().await;
        let mut binary = Binary::start_with(&site, &[("RUNNER_BROKER_FAULT_POINT", point)]);
        runner.moved_to(&binary.url).fetch_task(0).await.unwrap_err();
        assert_eq!(binary.ended().signal(), Some(9), "{point}");
        assert_eq!(gitea.runners().len(), left, "{point}");
        let first: Vec<_> = gitea.runners().iter().map(|runner| runner.id).collect();

        let broker = Broker::start(&site).await;
        all_settled(&gitea, &broker).await;
        assert_eq!(gitea.runners().len(), usize::from(kept), "{point}");
        let runner = runner.moved_to(&broker.url);
        let scene = Scene { gitea, site, broker, runner };
        scene.works().await;
        assert_eq!(first.contains(&scene.gitea.runners()[0].id), kept, "{point}");
        let live = live_of(&scene.broker, &scene.runner).unwrap();
        assert_eq!(live.state(), RecordState::Active);
        assert!(scene.site.runner_file("one").exists(), "{point}");
    }
}
