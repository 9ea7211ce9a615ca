//! Without an API token, what Gitea knows a runner by that left is handed on to the next of its kind.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use futures_util::future::join_all;
use runner_broker::broker::{Credentials, Reason, RecordState};
use runner_broker::connect::messages::{self as wire, DeclareResponse, TaskResult};
use runner_broker::connect::{Codec, encode};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, TaskState, When};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use secrecy::ExposeSecret;

use crate::binary::Binary;
use crate::register::registers;
use crate::revival::{all_settled, live_of, take_for_gone, work};
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, runner_file, within};
use crate::tokens::{admin, live, refused, register, token};

/// A broker without an API token.
struct Scene {
    gitea: StandInGitea,
    site: Site,
    broker: Broker,
}

impl Scene {
    async fn new() -> Self {
        Self::with(|site| site).await
    }

    async fn with(change: impl FnOnce(Site) -> Site) -> Self {
        let gitea = gitea();
        let site = Site::new(&gitea).set("shutdown.deregister", "none").api_token(None);
        let site = change(site.set("labels.more", "host"));
        let broker = Broker::start(&site).await;
        Self { gitea, site, broker }
    }

    async fn join(&self, name: &str) -> Runner {
        let runner = asked(&self.broker, |_| {}, name).await.unwrap();
        runner.declare(&["host"]).await.unwrap();
        runner
    }

    async fn restart(self) -> Self {
        self.broker.stop().await;
        Self { broker: Broker::start(&self.site).await, ..self }
    }

    /// Ids in Gitea.
    fn rows(&self) -> BTreeSet<i64> {
        self.gitea.runners().iter().map(|runner| runner.id).collect()
    }

    /// The id by which Gitea knows a live runner.
    fn id(&self, runner: &Runner) -> i64 {
        live_of(&self.broker, runner).unwrap().id()
    }
}

/// Registers with changed options.
async fn asked(
    broker: &Broker,
    change: impl FnOnce(&mut RegisterOptions),
    name: &str,
) -> Result<Runner, RpcError> {
    let mut options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), name);
    change(&mut options);
    StandInRunner::new(&broker.url).register(&options).await
}

/// No two live runners have one identity in Gitea.
fn all_apart(broker: &Broker) {
    let all = broker.lifecycle.roster.all();
    let ids: BTreeSet<_> = all.iter().map(|live| live.id()).collect();
    let uuids: BTreeSet<_> =
        all.iter().map(|live| live.upstream().credentials.uuid.clone()).collect();
    assert_eq!((ids.len(), uuids.len()), (all.len(), all.len()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_runners_up_and_down_ten_times_leave_ten_rows() {
    let mut scene = Scene::new().await;
    let mut shown = BTreeSet::new();
    for round in 0..10 {
        let names: Vec<_> = (0..10).map(|number| format!("r{round}-{number}")).collect();
        let runners = join_all(names.iter().map(|name| scene.join(name))).await;
        all_apart(&scene.broker);
        for runner in &runners {
            shown.insert(runner.credentials.uuid.clone());
            let file = runner_file(&scene.site.runner_file(&runner.name));
            assert_eq!(file["uuid"], *runner.credentials.uuid);
            assert_eq!(work(&scene.gitea, runner).await, scene.id(runner));
        }
        let leave = join_all(runners.iter().map(Runner::deregister)).await;
        assert!(leave.iter().all(Result::is_ok));
        assert!(scene.gitea.runners().len() <= 10, "in round {round}");
        if round == 4 {
            scene = scene.restart().await;
        }
    }
    assert_eq!(shown.len(), 100, "all show something of their own");
    assert_eq!(scene.rows().len(), 10);
    assert_eq!(registers(&scene.gitea).len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_api_token_ten_runners_up_and_down_ten_times_leave_none() {
    let gitea = gitea();
    // Half of them say that they leave, of the others only the connections close.
    let site = Site::new(&gitea).set("shutdown.deregister", "none").set("lease.expire_after", "1s");
    let broker = Broker::start(&site).await;
    let mut scene = Scene { gitea, site, broker };
    for round in 0..10 {
        let names: Vec<_> = (0..10).map(|number| format!("r{round}-{number}")).collect();
        let runners = join_all(names.iter().map(|name| scene.join(name))).await;
        all_apart(&scene.broker);
        for runner in &runners {
            assert_eq!(work(&scene.gitea, runner).await, scene.id(runner));
        }
        let leave = join_all(runners[..5].iter().map(Runner::deregister)).await;
        assert!(leave.iter().all(Result::is_ok));
        drop(runners);
        eventually("all are gone", async || scene.gitea.runners().is_empty()).await;
        if round == 4 {
            scene = scene.restart().await;
        }
    }
    eventually("nothing is left", async || scene.broker.lifecycle.roster.all().is_empty()).await;
}

#[tokio::test]
async fn the_answer_is_written_as_gitea_writes_it() {
    for codec in [Codec::Proto, Codec::Json] {
        let scene = Scene::new().await;
        let first = scene.join("one").await;
        first.deregister().await.unwrap();
        let second = asked(&scene.broker, |options| options.codec = codec, "two").await.unwrap();
        assert_eq!(second.credentials.id, first.credentials.id);
        assert_ne!(second.credentials.uuid, first.credentials.uuid);
        let token = second.credentials.token.expose_secret();
        assert!(token.len() == 40 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!((second.name.as_str(), &*second.labels), ("two", &["host".to_owned()][..]));
        assert!(!second.ephemeral);
        work(&scene.gitea, &second).await;
    }
}

#[tokio::test]
async fn a_paused_holder_that_wakes_gets_a_row_of_its_own() {
    let scene = Scene::new().await;
    let old = scene.join("old").await;
    let row = scene.id(&old);
    take_for_gone(&scene.broker, &old, Reason::Lease).await;
    let new = scene.join("new").await;
    assert_eq!(scene.id(&new), row);

    // Both ask at once, and each reports on its own task.
    let tasks = [scene.gitea.queue_task(&["host"]), scene.gitea.queue_task(&["host"])];
    let (of_old, of_new) =
        within(async { tokio::join!(old.fetch_task(0), new.fetch_task(0)) }).await;
    let (of_old, of_new) = (of_old.unwrap().0.unwrap(), of_new.unwrap().0.unwrap());
    assert_eq!(BTreeSet::from([of_old.id, of_new.id]), BTreeSet::from(tasks));
    assert_eq!(scene.gitea.task(of_new.id).unwrap().runner_id, Some(row));
    let other = scene.gitea.task(of_old.id).unwrap().runner_id.unwrap();
    assert_ne!(other, row);
    assert_eq!(scene.id(&old), other);
    all_apart(&scene.broker);
    assert_eq!(live_of(&scene.broker, &old).unwrap().tasks(), [of_old.id]);
    assert_eq!(live_of(&scene.broker, &new).unwrap().tasks(), [of_new.id]);
    for (runner, task) in [(&old, of_old), (&new, of_new)] {
        assert_eq!(runner.run_task(&task).await.unwrap(), TaskResult::Success);
        let ended = TaskState::Ended(TaskResult::Success);
        assert_eq!(scene.gitea.task(task.id).unwrap().state, ended);
    }
    all_settled(&scene.gitea, &scene.broker).await;

    // Nor are they mixed up by a restart.
    let scene = scene.restart().await;
    let (old, new) = (old.moved_to(&scene.broker.url), new.moved_to(&scene.broker.url));
    assert_eq!(work(&scene.gitea, &old).await, other);
    assert_eq!(work(&scene.gitea, &new).await, row);
    assert_eq!(scene.rows().len(), 2);
}

/// One that left shows what is another's by now.
async fn is_kept_out(scene: &Scene, stale: &Runner) {
    let seen = scene.gitea.journal().entries().len();
    for error in [
        stale.fetch_task(0).await.unwrap_err(),
        stale.declare(&["host"]).await.unwrap_err(),
        stale.update_task(1, TaskResult::Success).await.unwrap_err(),
    ] {
        assert_eq!(error.code, "unauthenticated", "{error}");
    }
    let later = scene.gitea.journal().entries().split_off(seen);
    let uuid = Some(&*stale.credentials.uuid);
    assert!(!later.iter().any(|entry| entry.header("x-runner-uuid") == uuid));
}

#[tokio::test]
async fn a_holder_that_left_stays_away() {
    let scene = Scene::new().await;
    let old = scene.join("old").await;
    old.deregister().await.unwrap();
    let new = scene.join("new").await;
    let row = old.credentials.id;
    // On the connections that it has, and on others.
    is_kept_out(&scene, &old).await;
    is_kept_out(&scene, &old.moved_to(&scene.broker.url)).await;
    let scene = scene.restart().await;
    let (old, new) = (old.moved_to(&scene.broker.url), new.moved_to(&scene.broker.url));
    is_kept_out(&scene, &old).await;
    let uuid = old.credentials.uuid.to_uppercase();
    let mut shouted = old.clone();
    shouted.credentials = Credentials { uuid, ..old.credentials.clone() };
    is_kept_out(&scene, &shouted).await;
    let mut guessed = old.clone();
    guessed.credentials.token = "0123456789012345678901234567890123456789".into();
    is_kept_out(&scene, &guessed).await;
    assert_eq!(guessed.deregister().await.unwrap_err().code, "unauthenticated");
    // To leave twice is no mistake, and takes nothing from the other.
    assert_eq!(old.deregister().await.unwrap().uuid, old.credentials.uuid);
    assert_eq!(work(&scene.gitea, &new).await, row);

    // What was handed on is parked, and handed on again.
    new.deregister().await.unwrap();
    let third = scene.join("third").await;
    assert_eq!(scene.id(&third), row);
    is_kept_out(&scene, &old).await;
    assert_eq!(new.fetch_task(0).await.unwrap_err().code, "unauthenticated");
    assert_eq!(work(&scene.gitea, &third).await, row);
    assert_eq!(scene.rows().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_at_once_never_get_the_same() {
    let scene = Scene::new().await;
    let before: Vec<_> = (0..5).map(|number| format!("old-{number}")).collect();
    for runner in join_all(before.iter().map(|name| scene.join(name))).await {
        runner.deregister().await.unwrap();
    }
    assert_eq!(scene.rows().len(), 5);
    let names: Vec<_> = (0..10).map(|number| format!("new-{number}")).collect();
    let all = join_all(names.iter().map(|name| asked(&scene.broker, |_| {}, name))).await;
    let all: Vec<_> = all.into_iter().map(Result::unwrap).collect();
    let ids: BTreeSet<_> = all.iter().map(|runner| scene.id(runner)).collect();
    assert_eq!((ids.len(), scene.rows().len()), (10, 10));
    all_apart(&scene.broker);
    for runner in &all {
        runner.declare(&["host"]).await.unwrap();
        assert_eq!(work(&scene.gitea, runner).await, scene.id(runner));
    }
}

#[tokio::test]
async fn a_holder_that_wakes_while_it_is_handed_on_does_not_share_it() {
    let scene = Scene::new().await;
    let old = scene.join("old").await;
    take_for_gone(&scene.broker, &old, Reason::Lease).await;
    let gate = scene.gitea.faults().gate(Route::Declare, When::AfterActing);
    let wakes = async {
        gate.reached().await;
        let poll = tokio::spawn({
            let old = old.clone();
            async move { old.fetch_task(0).await }
        });
        gate.open();
        poll.await.unwrap()
    };
    let joins = asked(&scene.broker, |_| {}, "new");
    let (new, woken) = within(async { tokio::join!(joins, wakes) }).await;
    woken.unwrap();
    all_apart(&scene.broker);
    let new = new.unwrap();
    assert_ne!(scene.id(&new), scene.id(&old));
    assert_eq!(scene.rows().len(), 2);
    // And the other way round: it is back, so there is nothing to be had.
    take_for_gone(&scene.broker, &old, Reason::Lease).await;
    old.fetch_task(0).await.unwrap();
    scene.join("third").await;
    all_apart(&scene.broker);
    assert_eq!(scene.rows().len(), 3);
}

#[tokio::test]
async fn what_gitea_no_longer_knows_ends_and_the_next_is_taken() {
    let scene = Scene::new().await;
    let (one, two) = (scene.join("one").await, scene.join("two").await);
    take_for_gone(&scene.broker, &one, Reason::Lease).await;
    two.deregister().await.unwrap();
    assert!(scene.gitea.remove_runner(one.credentials.id));
    let new = scene.join("one").await;
    assert_eq!(scene.id(&new), two.credentials.id);
    let record = scene.broker.lifecycle.store.ended_by_uuid(&one.credentials.uuid).await.unwrap();
    assert_eq!(record.unwrap().state, RecordState::Ended(Reason::Lost));
    assert_eq!(one.fetch_task(0).await.unwrap_err().code, "unauthenticated");
    assert_eq!(registers(&scene.gitea).len(), 2);
}

#[tokio::test]
async fn what_is_not_proved_is_not_handed_on() {
    let scene = Scene::new().await;
    let old = scene.join("old").await;
    old.deregister().await.unwrap();
    let row = old.credentials.id;
    let other = wire::Runner { id: row + 100, ..wire::Runner::default() };
    let other = Answer {
        status: hyper::StatusCode::OK,
        headers: vec![("Content-Type", "application/proto".into())],
        body: encode(Codec::Proto, &DeclareResponse { runner: Some(other) }).into(),
    };
    let answers = [
        Effect::Answer(other),
        Effect::Answer(Answer::html(hyper::StatusCode::BAD_GATEWAY)),
        Effect::Answer(Answer::html(hyper::StatusCode::UNAUTHORIZED)),
        Effect::Answer(Answer::garbage("application/proto")),
        Effect::Reset,
    ];
    for (number, effect) in answers.into_iter().enumerate() {
        scene.gitea.faults().once(Route::Declare, When::AfterActing, effect);
        let fresh = asked(&scene.broker, |_| {}, &format!("fresh-{number}")).await.unwrap();
        assert_ne!(scene.id(&fresh), row);
        assert_eq!(scene.rows().len(), number + 2);
    }
    // It is still there for the next.
    assert_eq!(scene.id(&scene.join("new").await), row);
}

#[tokio::test]
async fn only_its_own_kind_takes_over() {
    let scene = Scene::new().await;
    let by = token(&scene.broker, |_| {}).await;
    let old = scene.join("old").await;
    let row = scene.id(&old);
    old.deregister().await.unwrap();
    let other_label = |options: &mut RegisterOptions| options.labels.push("more".into());
    let ephemeral = |options: &mut RegisterOptions| options.ephemeral = true;
    let by_other = |options: &mut RegisterOptions| options.token = by.secret.clone();
    for runner in [
        asked(&scene.broker, other_label, "a").await.unwrap(),
        asked(&scene.broker, ephemeral, "b").await.unwrap(),
        asked(&scene.broker, by_other, "c").await.unwrap(),
    ] {
        assert_ne!(scene.id(&runner), row);
        runner.deregister().await.unwrap();
    }
    // Of several, one of its own name is preferred, then the oldest; labels in any order.
    let more = |options: &mut RegisterOptions| options.labels = vec!["more".into(), "host".into()];
    let same = asked(&scene.broker, more, "d").await.unwrap();
    assert_eq!(scene.rows().len(), 4);
    same.deregister().await.unwrap();
    let (one, two) = (scene.join("one").await, scene.join("two").await);
    let (first, second) = (scene.id(&one), scene.id(&two));
    assert_eq!(first, row);
    one.deregister().await.unwrap();
    two.deregister().await.unwrap();
    assert_eq!(scene.id(&scene.join("two").await), second);
    assert_eq!(scene.id(&scene.join("three").await), first);
    // An ephemeral one's is nobody's.
    let before = scene.rows().len();
    let again = asked(&scene.broker, ephemeral, "b").await.unwrap();
    assert_eq!(scene.rows().len(), before + 1);
    again.deregister().await.unwrap();
}

#[tokio::test]
async fn where_runners_dial_gitea_nothing_is_handed_on() {
    for (address, handed_on) in [
        ("gitea", false),
        ("auto", false),
        ("https://git.example.org", false),
        ("broker", true),
        ("http://broker.example.org", true),
    ] {
        let scene = Scene::with(|site| {
            site.set("credentials.address", address)
                .set("listen.public_url", "http://broker.example.org")
        });
        let scene = scene.await;
        scene.join("old").await.deregister().await.unwrap();
        scene.join("new").await;
        assert_eq!(scene.rows().len(), if handed_on { 1 } else { 2 }, "{address}");
    }
}

#[tokio::test]
async fn one_that_is_switched_off_is_not_handed_on() {
    let scene = Scene::new().await;
    let old = scene.join("old").await;
    old.deregister().await.unwrap();
    let record = live_of(&scene.broker, &old).unwrap().record_id;
    scene.broker.lifecycle.store.set_disabled(record, true).await.unwrap();
    let scene = scene.restart().await;
    let new = scene.join("new").await;
    assert_ne!(scene.id(&new), old.credentials.id);
    assert_eq!(scene.rows().len(), 2);
}

#[tokio::test]
async fn a_task_that_came_with_the_last_poll_is_nobody_elses() {
    let scene = Scene::new().await;
    let old = scene.join("old").await;
    let id = scene.gitea.queue_task(&["host"]);
    let gate = scene.gitea.faults().gate(Route::FetchTask, When::AfterActing);
    let leaves = async {
        gate.reached().await;
        old.program().ping("on another connection").await.unwrap();
        let leaving = old.moved_to(&scene.broker.url).deregister().await;
        let new = scene.join("new").await;
        gate.open();
        (leaving, new)
    };
    let (polled, (left, new)) = within(async { tokio::join!(old.fetch_task(0), leaves) }).await;
    left.unwrap();
    assert_eq!(polled.unwrap().0.unwrap().id, id);
    assert_ne!(scene.id(&new), old.credentials.id, "a poll was on its way");
    let third = scene.join("third").await;
    assert_ne!(scene.id(&third), old.credentials.id, "its task is in Gitea's books");
    all_apart(&scene.broker);
}

#[tokio::test]
async fn its_tokens_limits_hold_for_it_too() {
    let scene = Scene::new().await;
    let by = token(&scene.broker, |draft| {
        draft.policy.max_uses = Some(3);
        draft.policy.max_runners = Some(1);
    })
    .await;
    for name in ["one", "two"] {
        let runner = register(&scene.broker, &by, name).await.unwrap();
        refused(register(&scene.broker, &by, "more").await, "resource_exhausted", "live runners");
        assert_eq!(live(&scene.broker, &by), 1);
        runner.deregister().await.unwrap();
        assert_eq!(live(&scene.broker, &by), 0);
    }
    let third = register(&scene.broker, &by, "three").await.unwrap();
    third.declare(&["host"]).await.unwrap();
    take_for_gone(&scene.broker, &third, Reason::Lease).await;
    refused(register(&scene.broker, &by, "four").await, "permission_denied", "used up");
    assert_eq!(scene.rows().len(), 1);
    // One that is parked comes back as one that was deregistered does, and no more.
    let id = &by.token.token.id;
    scene.broker.lifecycle.disable_token(id, false, &admin()).await.unwrap();
    assert_eq!(third.fetch_task(0).await.unwrap_err().code, "unauthenticated");
    scene.broker.lifecycle.enable_token(id, &admin()).await.unwrap();
    assert_eq!(work(&scene.gitea, &third).await, third.credentials.id);
    assert_eq!(live(&scene.broker, &by), 1);
    assert!(scene.site.runner_file("three").exists());
}

#[tokio::test]
async fn an_answer_that_was_lost_is_repeated() {
    let scene = Scene::new().await;
    scene.join("old").await.deregister().await.unwrap();
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "new");
    let gate = scene.gitea.faults().gate(Route::Declare, When::AfterActing);
    let program = StandInRunner::new(&scene.broker.url);
    program.hang_up_during_register(&options, within(gate.reached())).await.unwrap();
    gate.open();
    eventually("it is registered", async || {
        scene.broker.lifecycle.roster.all().iter().any(|live| !live.is_resting())
    })
    .await;
    let shown = scene.broker.lifecycle.roster.all()[0].presented.uuid.clone();
    let scene = scene.restart().await;
    let new = asked(&scene.broker, |_| {}, "new").await.unwrap();
    assert_eq!(new.credentials.uuid, shown);
    assert_eq!(work(&scene.gitea, &new).await, new.credentials.id);
    assert_eq!(scene.rows().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_gives_it_to_one() {
    // The step, and whether the newcomer has it then.
    for (point, taken) in
        [("hand-on-proved", false), ("credentials-stored", true), ("file-written", true)]
    {
        let Scene { gitea, site, broker } = Scene::new().await;
        let old = asked(&broker, |_| {}, "old").await.unwrap();
        old.declare(&["host"]).await.unwrap();
        take_for_gone(&broker, &old, Reason::Lease).await;
        broker.stop().await;
        let mut binary = Binary::start_with(&site, &[("RUNNER_BROKER_FAULT_POINT", point)]);
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "new");
        StandInRunner::new(&binary.url).register(&options).await.unwrap_err();
        assert_eq!(binary.ended().signal(), Some(9), "{point}");

        let broker = Broker::start(&site).await;
        let scene = Scene { gitea, site, broker };
        let old = old.moved_to(&scene.broker.url);
        assert_eq!(scene.rows(), BTreeSet::from([old.credentials.id]), "{point}");
        assert!(scene.broker.lifecycle.store.intents().await.unwrap().is_empty());
        // The holder may be the first to speak, or the newcomer.
        let held = work(&scene.gitea, &old).await;
        assert_eq!(held == old.credentials.id, !taken, "{point}");
        let new = asked(&scene.broker, |_| {}, "new").await.unwrap();
        new.declare(&["host"]).await.unwrap();
        let id = work(&scene.gitea, &new).await;
        assert_eq!(id == old.credentials.id, taken, "{point}");
        assert_eq!(work(&scene.gitea, &old).await, held, "{point}");
        all_apart(&scene.broker);
        assert_eq!(scene.rows(), BTreeSet::from([held, id]), "{point}");
        let file = runner_file(&scene.site.runner_file("new"));
        assert_eq!(file["uuid"], *new.credentials.uuid, "{point}");
    }
}
