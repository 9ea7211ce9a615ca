//! Runners that the settings declare: an official runner starts from the file alone.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use runner_broker::broker::{Origin, Reason, RecordState, What};
use runner_broker::connect::messages::TaskResult;
use runner_broker::lifecycle::{By, Force, Live};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, TaskState, When};
use runner_broker::sandbox::runner::{Pace, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use runner_broker::store::{EventFilter, Store};

use crate::admin::{Answer as Page, ask};
use crate::binary::Binary;
use crate::register::{intent_label, join, registers};
use crate::support::{Broker, Site, eventually, gitea, runner_file, within};

const LABELS: &str = "labels = [\"host:host\", \"ubuntu:docker://node:20\"]";

/// A site whose broker is dialled by a name of its own.
fn site(gitea: &StandInGitea) -> Site {
    Site::new(gitea)
        .set("listen.public_url", "http://broker:8080")
        .set("enrollment.token_file", "")
        .set("shutdown.deregister", "none")
        .set("shutdown.drain_timeout", "500ms")
        .set("shutdown.deadline", "4s")
}

/// Declares runners of these names.
fn declare(site: &Site, names: &[&str]) {
    declare_with(site, names, LABELS);
}

fn declare_with(site: &Site, names: &[&str], labels: &str) {
    let tables = names.iter().map(|name| format!("[[runners]]\nname = {name:?}\n{labels}\n"));
    site.write_config(&tables.collect::<String>());
}

async fn readyz(broker: &Broker, query: &str) -> Page {
    let stream = tokio::net::TcpStream::connect(broker.admin).await.unwrap();
    ask(stream, "GET", &format!("/readyz{query}"), &[], "").await
}

async fn ready(broker: &Broker) {
    eventually("it is ready", async || readyz(broker, "").await.status == 200).await;
}

/// All declared runners are in line.
async fn in_line(broker: &Broker) {
    ready(broker).await;
    eventually("all are in line", async || broker.lifecycle.declared_troubles().is_empty()).await;
}

/// The program of the runner of this name, started from nothing but its file.
fn from_file(site: &Site, broker: &Broker, name: &str) -> Runner {
    let file = std::fs::read_to_string(site.runner_file(name)).unwrap();
    let runner = Runner::from_runner_file(&file).unwrap();
    assert_eq!(runner.address(), "http://broker:8080");
    runner.moved_to(&broker.url)
}

pub(crate) fn live(broker: &Broker, name: &str) -> Option<Arc<Live>> {
    let mut all = broker.lifecycle.roster.all();
    all.retain(|live| live.record().name == name && !live.is_resting());
    assert!(all.len() < 2, "two of {name}");
    all.pop()
}

fn names(gitea: &StandInGitea) -> Vec<String> {
    let mut names: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
    names.sort();
    names
}

async fn happened(broker: &Broker) -> Vec<What> {
    let filter = EventFilter { limit: 100, ..EventFilter::default() };
    let events = broker.lifecycle.events(filter).await.unwrap();
    events.iter().rev().map(|event| event.what).collect()
}

#[tokio::test]
async fn an_official_runner_starts_from_the_file_alone() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["builder-1", "builder-2"]);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    assert_eq!(names(&gitea), ["builder-1", "builder-2"]);
    let file = runner_file(&site.runner_file("builder-1"));
    assert_eq!(file["labels"], serde_json::json!(["host:host", "ubuntu:docker://node:20"]));
    assert_eq!(file["name"], "builder-1");

    let one = live(&broker, "builder-1").unwrap();
    let record = one.record();
    assert_eq!((record.origin, record.parent_id.as_str()), (Origin::Declared, ""));
    assert!(!record.declare_due, "and Gitea shows its labels");
    let shown = gitea.runner(one.id()).unwrap();
    assert_eq!(shown.labels, ["host", "ubuntu"]);
    assert!(intent_label(&registers(&gitea)[0]).starts_with("rb-intent-"), "it was written first");
    assert!(broker.lifecycle.store.intents().await.unwrap().is_empty());

    let daemon = from_file(&site, &broker, "builder-1").spawn(Pace::default());
    let task = gitea.queue_task(&["host"]);
    within(gitea.wait_until(|gitea| {
        gitea.task(task).unwrap().state == TaskState::Ended(TaskResult::Success)
    }))
    .await;
    assert_eq!(daemon.stop().await.unwrap(), 1);
    assert_eq!(happened(&broker).await, [What::RunnerRegistered, What::RunnerRegistered]);
    let told = readyz(&broker, "?verbose").await;
    assert!(told.body.contains("[+] runners: 2 declared, each has its file\n"), "{}", told.body);
    broker.stop().await;

    // A restart finds all as it is.
    let before = std::fs::metadata(site.runner_file("builder-1")).unwrap().modified().unwrap();
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    assert_eq!(registers(&gitea).len(), 2);
    let after = std::fs::metadata(site.runner_file("builder-1")).unwrap().modified().unwrap();
    assert_eq!(before, after, "the file is not touched");
    assert_eq!(happened(&broker).await.len(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn changed_labels_reach_gitea_and_the_file() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["one"]);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    let runner = from_file(&site, &broker, "one");
    runner.declare(&["host", "ubuntu"]).await.unwrap();
    let id = runner.credentials.id;

    declare_with(&site, &["one"], "labels = [\"metal:host\"]");
    broker.signal(Signal::Reload).await;
    within(gitea.wait_until(|gitea| gitea.runner(id).unwrap().labels == ["metal"])).await;
    eventually("the file has them", async || {
        runner_file(&site.runner_file("one"))["labels"] == serde_json::json!(["metal:host"])
    })
    .await;
    assert_eq!(gitea.runner(id).unwrap().version, runner_broker::sandbox::runner::VERSION);
    assert_eq!(live(&broker, "one").unwrap().record().labels, ["metal"]);
    let again = from_file(&site, &broker, "one");
    assert_eq!(again.credentials.uuid, runner.credentials.uuid, "it is the same one");
    broker.stop().await;

    // While the broker was away: another form of the same label is in the file alone.
    declare_with(&site, &["one"], "labels = [\"metal:docker://node:22\"]");
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    let file = runner_file(&site.runner_file("one"));
    assert_eq!(file["labels"], serde_json::json!(["metal:docker://node:22"]));
    assert_eq!(gitea.runner(id).unwrap().labels, ["metal"]);

    // A file that is gone or broken is made anew.
    for content in [None, Some("{")] {
        std::fs::remove_file(site.runner_file("one")).unwrap();
        if let Some(content) = content {
            std::fs::write(site.runner_file("one"), content).unwrap();
        }
        broker.signal(Signal::Reload).await;
        eventually("it is there", async || {
            std::fs::read_to_string(site.runner_file("one")).is_ok_and(|text| text.len() > 2)
        })
        .await;
    }
    assert_eq!(from_file(&site, &broker, "one").credentials.id, id);
    broker.stop().await;
}

#[tokio::test]
async fn an_entry_that_is_removed_is_deregistered() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["idle", "busy", "away", "stays"]);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    let idle = from_file(&site, &broker, "idle");
    idle.declare(&["host"]).await.unwrap();
    let busy = from_file(&site, &broker, "busy");
    busy.declare(&["host"]).await.unwrap();
    let task = gitea.queue_task(&["host"]);
    assert_eq!(busy.fetch_task(0).await.unwrap().0.unwrap().id, task);

    declare(&site, &["away", "stays"]);
    broker.signal(Signal::Reload).await;
    eventually("the idle one is gone", async || live(&broker, "idle").is_none()).await;
    assert_eq!(names(&gitea), ["away", "busy", "stays"]);
    assert!(!site.runner_file("idle").exists());
    let leaving = live(&broker, "busy").unwrap();
    eventually("the busy one is to go", async || {
        leaving.state() == RecordState::Deregistering(Reason::Undeclared)
    })
    .await;
    gitea.queue_task(&["host"]);
    assert_eq!(busy.fetch_task(0).await.unwrap(), (None, 0), "it gets no further task");
    assert!(site.runner_file("busy").exists());
    busy.update_task(task, TaskResult::Success).await.unwrap();
    eventually("it is gone after its task", async || live(&broker, "busy").is_none()).await;
    assert_eq!(names(&gitea), ["away", "stays"]);
    assert!(!site.runner_file("busy").exists());
    broker.stop().await;

    declare(&site, &["stays"]);
    let broker = Broker::start(&site).await;
    eventually("one was removed meanwhile", async || names(&gitea) == ["stays"]).await;
    eventually("its file, too", async || !site.runner_file("away").exists()).await;
    let ended = live(&broker, "away");
    assert!(ended.is_none_or(|live| live.is_deregistering()));
    in_line(&broker).await;
    broker.stop().await;
}

#[tokio::test]
async fn an_entry_that_comes_back_in_time_keeps_its_runner() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["one"]);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    let one = from_file(&site, &broker, "one");
    one.declare(&["host"]).await.unwrap();
    let task = gitea.queue_task(&["host"]);
    one.fetch_task(0).await.unwrap().0.unwrap();
    let known = live(&broker, "one").unwrap();
    site.write_config("");
    broker.signal(Signal::Reload).await;
    eventually("it is to go", async || known.is_deregistering()).await;
    declare(&site, &["one"]);
    broker.signal(Signal::Reload).await;
    eventually("it stays", async || known.state() == RecordState::Active).await;
    one.update_task(task, TaskResult::Success).await.unwrap();
    gitea.queue_task(&["host"]);
    assert!(one.fetch_task(0).await.unwrap().0.is_some(), "and gets tasks");
    assert_eq!(registers(&gitea).len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn one_that_gitea_lost_is_registered_anew_at_the_start_and_with_a_reload() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["one", "other"]);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    let first = from_file(&site, &broker, "one");
    let other = from_file(&site, &broker, "other").credentials.id;
    broker.stop().await;
    gitea.remove_runner(first.credentials.id);

    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    let second = from_file(&site, &broker, "one");
    assert_ne!(second.credentials.id, first.credentials.id);
    second.declare(&["host"]).await.unwrap();
    assert_eq!(names(&gitea), ["one", "other"]);
    let ended = |runner: &Runner| {
        let (store, uuid) = (broker.lifecycle.store.clone(), runner.credentials.uuid.clone());
        async move { store.ended_by_uuid(&uuid).await.unwrap().map(|record| record.state) }
    };
    assert_eq!(ended(&first).await, Some(RecordState::Ended(Reason::Lost)));

    gitea.remove_runner(second.credentials.id);
    broker.signal(Signal::Reload).await;
    eventually("it is there again", async || {
        site.runner_file("one").exists()
            && runner_file(&site.runner_file("one"))["id"] != second.credentials.id
    })
    .await;
    assert_eq!(ended(&second).await, Some(RecordState::Ended(Reason::Lost)));
    from_file(&site, &broker, "one").declare(&["host"]).await.unwrap();
    assert_eq!(from_file(&site, &broker, "other").credentials.id, other);
    assert_eq!(broker.lifecycle.roster.all().len(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn with_gitea_down_the_broker_starts_and_is_ready_once_it_is_up() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["one"]);
    gitea.set_down().await.unwrap();
    let broker = Broker::start(&site).await;
    eventually("the reason is told", async || {
        let told = readyz(&broker, "?verbose").await;
        told.status == 503
            && told.body.contains("[-] runners: one: Gitea cannot be reached by the broker")
            && told.body.contains("[+] store: writable\n")
    })
    .await;
    assert!(!site.runner_file("one").exists());
    gitea.set_up().await.unwrap();
    in_line(&broker).await;
    from_file(&site, &broker, "one").declare(&["host"]).await.unwrap();
    assert_eq!(names(&gitea), ["one"]);
    broker.stop().await;

    // One that has its file is worth as much as before, so Gitea makes no difference.
    gitea.set_down().await.unwrap();
    declare_with(&site, &["one"], "labels = [\"host:docker://node:20\"]");
    let broker = Broker::start(&site).await;
    ready(&broker).await;
    let file = runner_file(&site.runner_file("one"));
    assert_eq!(file["labels"], serde_json::json!(["host:docker://node:20"]));
    assert_eq!(broker.lifecycle.declared_troubles().len(), 1, "Gitea has not heard of it yet");
    gitea.set_up().await.unwrap();
    in_line(&broker).await;
    assert_eq!(gitea.runners()[0].labels, ["host"]);
    assert_eq!(registers(&gitea).len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn one_in_trouble_holds_up_no_other_and_none_makes_a_ready_broker_unready() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["bad", "good"]);
    // Something that is no folder is in the way.
    let way = site.path("runners").join("bad");
    std::fs::write(&way, "").unwrap();
    let broker = Broker::start(&site).await;
    eventually("the good one is there", async || site.runner_file("good").exists()).await;
    eventually("the bad one is told", async || {
        let told = readyz(&broker, "").await;
        let is_bad = told.body.contains("[-] runners: bad: ") && told.body.contains("remove it");
        is_bad && !told.body.contains("good") && told.status == 503
    })
    .await;
    assert_eq!(registers(&gitea).len(), 2, "trying again registers nobody twice");
    std::fs::remove_file(&way).unwrap();
    in_line(&broker).await;

    gitea.faults().always(
        Route::Register,
        When::BeforeActing,
        Effect::Answer(Answer::connect_error(
            hyper::StatusCode::FORBIDDEN,
            "permission_denied",
            "not now",
        )),
    );
    declare(&site, &["bad", "good", "new"]);
    broker.signal(Signal::Reload).await;
    eventually("the new one is in trouble", async || {
        readyz(&broker, "?verbose").await.body.contains("new: Gitea refused: not now")
    })
    .await;
    assert_eq!(readyz(&broker, "").await.body, "ready\n");
    gitea.faults().clear();
    in_line(&broker).await;
    assert_eq!(names(&gitea), ["bad", "good", "new"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_missing_or_not_writable_is_told_and_registers_nobody() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["one"]);
    std::fs::remove_dir(site.path("runners")).unwrap();
    let broker = Broker::start(&site).await;
    eventually("it is told", async || {
        let told = readyz(&broker, "").await.body;
        told.contains("runners is not there: mount the volume of the runner files at that path")
            && told.contains("credentials.path")
    })
    .await;
    assert!(registers(&gitea).is_empty());
    std::fs::create_dir(site.path("runners")).unwrap();
    in_line(&broker).await;
    broker.stop().await;

    // One where nobody may write, not even root.
    let other = crate::support::gitea();
    let site = self::site(&other).set("credentials.path", "/proc/{name}/.runner");
    declare(&site, &["one"]);
    let broker = Broker::start(&site).await;
    eventually("it is told", async || {
        readyz(&broker, "").await.body.contains("one: making /proc/one failed: ")
    })
    .await;
    let tried = || other.journal().count(|entry| entry.target.ends_with("/Declare"));
    eventually("it is tried again", async || tried() > 2).await;
    assert_eq!(registers(&other).len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_newcomer_of_the_same_name_never_gets_the_file() {
    let gitea = gitea();
    let site = Site::new(&gitea)
        .set("listen.public_url", "http://broker:8080")
        .set("shutdown.deregister", "none");
    declare(&site, &["one"]);
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    let broker = Broker::start(&site).await;
    within(gate.reached()).await;
    // Before the declared one is there, too.
    let early = join(&broker, "one").await.unwrap();
    assert!(!site.runner_file("one").exists());
    gate.open();
    in_line(&broker).await;
    let late = join(&broker, "one").await.unwrap();
    let file = from_file(&site, &broker, "one");
    assert!(![early.credentials.id, late.credentials.id].contains(&file.credentials.id));
    assert_eq!(names(&gitea), ["one", "one", "one"]);
    // Their Register is by a token, that of the declared one is not.
    assert_eq!(broker.lifecycle.token("settings").unwrap().live_runners, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_path_that_another_runner_has_is_told_until_it_leaves() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("listen.public_url", "http://broker:8080");
    site.write_config("");
    let broker = Broker::start(&site).await;
    let other = join(&broker, "one").await.unwrap();
    other.declare(&["host"]).await.unwrap();
    declare(&site, &["one"]);
    broker.signal(Signal::Reload).await;
    eventually("it is told", async || {
        let troubles = broker.lifecycle.declared_troubles();
        troubles.iter().any(|trouble| trouble.contains("belongs to another live runner (id"))
    })
    .await;
    other.deregister().await.unwrap();
    in_line(&broker).await;
    assert_eq!(names(&gitea), ["one"]);
    assert_ne!(from_file(&site, &broker, "one").credentials.id, other.credentials.id);
    broker.stop().await;
}

#[tokio::test]
async fn a_fixed_path_is_handed_from_the_renamed_to_the_new() {
    let gitea = gitea();
    let site = site(&gitea);
    let path = site.path("runners/.runner");
    let site = site.set("credentials.path", path.to_str().unwrap());
    declare(&site, &["old"]);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    assert_eq!(runner_file(&path)["name"], "old");
    declare(&site, &["new"]);
    broker.signal(Signal::Reload).await;
    eventually("it is the new one's", async || {
        path.exists() && runner_file(&path)["name"] == "new"
    })
    .await;
    eventually("only that is left", async || names(&gitea) == ["new"]).await;
    broker.stop().await;
}

#[tokio::test]
async fn one_that_ended_with_the_broker_is_there_again() {
    for api_token in [true, false] {
        let gitea = gitea();
        let mut site = site(&gitea).set("shutdown.deregister", "all");
        if !api_token {
            site = site.api_token(None);
        }
        declare(&site, &["one", "two"]);
        let broker = Broker::start(&site).await;
        in_line(&broker).await;
        broker.stop().await;
        assert_eq!(gitea.runners().len(), if api_token { 0 } else { 2 });
        assert!(!site.runner_file("one").exists());

        declare(&site, &["one"]);
        let broker = Broker::start(&site).await;
        in_line(&broker).await;
        from_file(&site, &broker, "one").declare(&["host"]).await.unwrap();
        assert!(!site.runner_file("two").exists());
        let registered = if api_token { 3 } else { 2 };
        assert_eq!(registers(&gitea).len(), registered, "a parked one is taken up again");
        assert_eq!(names(&gitea).iter().filter(|name| *name == "one").count(), 1);
        assert!(live(&broker, "two").is_none());
        broker.stop().await;
    }
}

#[tokio::test]
async fn one_that_an_admin_deregistered_is_there_again_after_a_reload() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["one"]);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    let known = live(&broker, "one").unwrap();
    let deregistered =
        broker.lifecycle.deregister(&known, Reason::Admin, Force::LeaveBusy, &By::broker()).await;
    deregistered.unwrap();
    assert!(!site.runner_file("one").exists());
    broker.signal(Signal::Reload).await;
    eventually("it is there again", async || site.runner_file("one").exists()).await;
    assert_eq!(names(&gitea), ["one"]);
    broker.stop().await;
}

#[tokio::test]
async fn an_end_in_the_midst_of_a_registration_leaves_nobody() {
    let gitea = gitea();
    let site = site(&gitea).set("shutdown.deregister", "all");
    declare(&site, &["one"]);
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    let broker = Broker::start(&site).await;
    within(gate.reached()).await;
    broker.signal(Signal::Terminate).await;
    eventually("it drains", async || broker.lifecycle.is_draining()).await;
    assert_eq!(readyz(&broker, "").await.status, 503);
    gate.open();
    broker.ended().await;
    assert!(gitea.runners().is_empty());
    assert!(!site.runner_file("one").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leaves_one_orphan_at_most_and_none_after_the_restart() {
    // The step, the runners in Gitea after the crash, and whether the next start finds its identity again.
    for (point, left, kept) in [
        ("register-begun", 0, false),
        ("intent-stored", 0, false),
        ("gitea-answered", 1, false),
        ("credentials-stored", 1, true),
        ("runner-declared", 1, true),
        ("file-written", 1, true),
    ] {
        let gitea = gitea();
        let site = site(&gitea);
        declare(&site, &["one"]);
        let mut binary = Binary::spawn(&site, &[("RUNNER_BROKER_FAULT_POINT", point)]);
        assert_eq!(binary.ended().signal(), Some(9), "{point}");
        let before: BTreeSet<_> = gitea.runners().iter().map(|runner| runner.id).collect();
        assert_eq!(before.len(), left, "{point}");

        let broker = Broker::start(&site).await;
        in_line(&broker).await;
        eventually("all is settled", async || broker.lifecycle.unsettled() == 0).await;
        let after: BTreeSet<_> = gitea.runners().iter().map(|runner| runner.id).collect();
        assert_eq!(after.len(), 1, "{point}");
        assert_eq!(before == after, kept, "{point}");
        assert_eq!(gitea.runners()[0].labels, ["host", "ubuntu"], "{point}");
        let runner = from_file(&site, &broker, "one");
        assert!(after.contains(&runner.credentials.id), "{point}");
        runner.declare(&["host"]).await.unwrap();
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_the_new_one_and_the_end_of_the_lost_leaves_one() {
    for point in ["gitea-answered", "credentials-stored", "file-written"] {
        let gitea = gitea();
        let site = site(&gitea);
        declare(&site, &["one"]);
        let broker = Broker::start(&site).await;
        in_line(&broker).await;
        let first = from_file(&site, &broker, "one");
        broker.stop().await;
        gitea.remove_runner(first.credentials.id);
        let mut binary = Binary::spawn(&site, &[("RUNNER_BROKER_FAULT_POINT", point)]);
        assert_eq!(binary.ended().signal(), Some(9), "{point}");

        let broker = Broker::start(&site).await;
        in_line(&broker).await;
        eventually("one is left", async || gitea.runners().len() == 1).await;
        let second = from_file(&site, &broker, "one");
        second.declare(&["host"]).await.unwrap();
        eventually("the record of the lost has ended", async || {
            broker.lifecycle.roster.all().len() == 1
        })
        .await;
        broker.stop().await;
        let store = Store::open(&site.path("state.db")).unwrap();
        assert_eq!(store.runners().await.unwrap().len(), 1, "{point}");
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_answer_is_settled_and_the_runner_registered_all_the_same() {
    let gitea = gitea();
    let site = site(&gitea);
    declare(&site, &["one"]);
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    let broker = Broker::start(&site).await;
    in_line(&broker).await;
    eventually("the orphan is gone", async || names(&gitea) == ["one"]).await;
    eventually("it is settled", async || broker.lifecycle.unsettled() == 0).await;
    assert_eq!(gitea.runners()[0].id, from_file(&site, &broker, "one").credentials.id);
    // Nobody can come by a token here, and none is needed.
    let refused = StandInRunner::new(&broker.url)
        .register(&runner_broker::sandbox::runner::RegisterOptions::new(
            crate::support::ENROLLMENT_TOKEN.into(),
            "two",
        ))
        .await
        .unwrap_err();
    assert_eq!(refused.code, "unauthenticated");
    broker.stop().await;
}
