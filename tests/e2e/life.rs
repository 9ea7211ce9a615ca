//! What becomes of real runners when they, the broker or Gitea come and go.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::broker::{Broker, ENROLLMENT_TOKEN};
use crate::gitea::Gitea;
use crate::runner::{Runner, read_runner_file};
use crate::{BROKER_SCOPES, job, labels, names};

const LIMIT: Duration = Duration::from_secs(60);

fn new_broker(gitea: &Gitea) -> Broker {
    let api_token = gitea.access_token(BROKER_SCOPES);
    Broker::new(gitea, &gitea.registration_token(), Some(&api_token))
}

fn started(gitea: &Gitea) -> Broker {
    let mut broker = new_broker(gitea);
    broker.up();
    broker
}

fn run(broker: &Broker, arguments: &[&str]) -> Value {
    let output = broker.command_line(arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// What the broker's list says, by one field.
fn listed(broker: &Broker, field: &str) -> Vec<Value> {
    let list = run(broker, &["runner", "list", "--json"]);
    list.as_array().expect("a list").iter().map(|one| one[field].clone()).collect()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn joined(broker: &Broker, name: &str) -> Runner {
    let mut runner = Runner::new(name);
    runner.register(&broker.url(), ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
    runner.start();
    runner
}

#[test]
fn ten_runners_that_the_broker_took_away_are_back_within_seconds_of_its_return() {
    let gitea = Gitea::start("");
    let mut broker = new_broker(&gitea);
    broker.set("SHUTDOWN__DEREGISTER", "all");
    broker.up();
    let runners: Vec<_> = (0..10).map(|n| joined(&broker, &format!("r{n}"))).collect();
    let files: Vec<_> = runners.iter().map(Runner::file).collect();
    assert!(broker.down(Signal::TERM).success(), "{}", broker.output());
    assert_eq!(gitea.runners(), [Value::Null; 0], "all are gone from Gitea");

    broker.up();
    let back = Instant::now();
    wait_until("all ten are back", || labels(&gitea) == vec![["e2e"]; 10]);
    assert!(back.elapsed() < Duration::from_secs(20), "{:?}", back.elapsed());
    gitea.push_workflow("life", job::LIFE);
    gitea.wait_for_success("life");
    let mut back = names(&gitea);
    back.sort_unstable();
    assert_eq!(back, (0..10).map(|n| format!("r{n}")).collect::<Vec<_>>());
    for (runner, file) in runners.iter().zip(&files) {
        assert_eq!(runner.file(), *file, "no runner was given anything new");
    }
}

#[test]
fn existing_runners_move_over_by_their_address() {
    let gitea = Gitea::start("");
    let mut moved = Runner::new("moved");
    let mut ahead = Runner::new("ahead");
    for runner in [&mut moved, &mut ahead] {
        runner.register(&gitea.url, &gitea.registration_token()).expect("straight at Gitea");
    }
    let mut broker = started(&gitea);
    let output = broker.adopt(&ahead);
    assert!(output.status.success(), "{output:?}");
    let file = ahead.file();
    assert_eq!(listed(&broker, "id"), [file["id"].clone()]);

    moved.set_address(&broker.url());
    moved.start();
    let mut ids = [moved.file()["id"].clone(), file["id"].clone()];
    ids.sort_unstable_by_key(Value::as_i64);
    wait_until("both are in the records", || {
        let mut known = listed(&broker, "id");
        known.sort_unstable_by_key(Value::as_i64);
        known == ids
    });
    gitea.push_workflow("life", job::LIFE);
    gitea.wait_for_success("life");

    // A lost store is rebuilt by those who speak, and whoever declares itself is known by its id again.
    assert!(broker.down(Signal::QUIT).success());
    broker.lose_store();
    broker.up();
    wait_until("the poll has it in the records", || listed(&broker, "id") == [json!(0)]);
    moved.stop();
    moved.start();
    wait_until("its id is known", || listed(&broker, "id") == [moved.file()["id"].clone()]);
    assert_eq!(listed(&broker, "origin"), [json!("adopted")]);
    run(&broker, &["runner", "deregister", "moved"]);
    assert_eq!(names(&gitea), ["ahead"]);
    moved.says("unauthenticated");
}

#[test]
fn stacks_that_come_and_go_leave_no_dead_runner() {
    for with_api_token in [true, false] {
        let gitea = Gitea::start("");
        let api_token = with_api_token.then(|| gitea.access_token(BROKER_SCOPES));
        let mut broker = Broker::new(&gitea, &gitea.registration_token(), api_token.as_deref());
        broker.set("LEASE__EXPIRE_AFTER", "1s");
        broker.set("CREDENTIALS__ADDRESS", "broker");
        broker.up();
        for round in 0..3 {
            let mut runners: Vec<_> =
                (0..3).map(|n| joined(&broker, &format!("r{round}-{n}"))).collect();
            assert_eq!(gitea.runners().len(), 3);
            gitea.push_workflow(&format!("life{round}"), job::LIFE);
            gitea.wait_for_success(&format!("life{round}"));
            runners.iter_mut().for_each(|runner| drop(runner.stop()));
            wait_until("their leases are over", || {
                listed(&broker, "state").iter().all(|state| *state == json!("parked"))
            });
            assert_eq!(gitea.runners().len(), if with_api_token { 0 } else { 3 });
        }
    }
}

#[test]
fn a_paused_runner_comes_back_beside_the_one_who_has_its_identity() {
    let gitea = Gitea::start("");
    let mut broker = Broker::new(&gitea, &gitea.registration_token(), None);
    broker.set("LEASE__EXPIRE_AFTER", "1s");
    // On loopback the broker takes its runners for such as dial Gitea themselves.
    broker.set("CREDENTIALS__ADDRESS", "broker");
    broker.up();
    let mut sleeper = joined(&broker, "sleeper");
    // Its process ends, as that of a machine that sleeps: its file stays.
    sleeper.kill();
    wait_until("it is parked", || listed(&broker, "state") == [json!("parked")]);
    let heir = joined(&broker, "heir");
    assert_eq!(gitea.runners().len(), 1, "the identity was handed on");
    assert_ne!(sleeper.file()["uuid"], heir.file()["uuid"]);

    sleeper.start();
    wait_until("both are in Gitea", || labels(&gitea) == vec![["e2e"]; 2]);
    let jobs: Vec<_> = (0..2).map(|n| format!("wait{n}")).collect();
    for job in &jobs {
        gitea.push_workflow(job, job::WAITING);
    }
    // Each has a job of its own at the same time.
    jobs.iter().for_each(|job| gitea.wait_for_line(job, job::WAITS));
    sleeper.release_job();
    heir.release_job();
    for job in &jobs {
        gitea.wait_for_success(job);
    }
}

#[test]
fn a_drained_runner_ends_its_job_and_is_gone() {
    let gitea = Gitea::start("");
    let broker = started(&gitea);
    let runner = joined(&broker, "busy");
    gitea.push_workflow("wait", job::WAITING);
    gitea.wait_for_line("wait", job::WAITS);
    run(&broker, &["runner", "drain", "busy", "--no-wait"]);
    assert_eq!(listed(&broker, "state"), [json!("draining")]);
    gitea.push_workflow("life", job::LIFE);
    runner.release_job();
    gitea.wait_for_success("wait");
    wait_until("it is gone", || names(&gitea).is_empty());
    let _other = joined(&broker, "other");
    gitea.wait_for_success("life");
}

#[test]
fn where_it_is_set_so_the_end_of_the_broker_cancels_the_job_and_says_so() {
    let gitea = Gitea::start("");
    let mut broker = new_broker(&gitea);
    broker.set("SHUTDOWN__DEREGISTER", "all");
    broker.set("SHUTDOWN__BUSY", "cancel");
    broker.set("SHUTDOWN__DRAIN_TIMEOUT", "1s");
    broker.up();
    let _runner = joined(&broker, "busy");
    gitea.push_workflow("wait", job::WAITING);
    gitea.wait_for_line("wait", job::WAITS);
    assert!(broker.down(Signal::TERM).success());
    assert_eq!(gitea.runners(), [Value::Null; 0]);
    let (conclusion, log) = gitea.wait_for_end("wait");
    assert_eq!(conclusion, "cancelled");
    assert!(log.contains("runner-broker"), "{log}");
}

#[test]
fn a_runner_that_an_admin_deleted_is_told_so_at_last() {
    let gitea = Gitea::start("");
    let broker = started(&gitea);
    let runner = joined(&broker, "deleted");
    let stays = joined(&broker, "stays");
    gitea.delete_runner(runner.file()["id"].as_i64().expect("an id"));
    // REST tells that it is gone, so it need not wait for a minute.
    runner.says("unauthenticated");
    wait_until("its record is gone", || listed(&broker, "name") == [json!("stays")]);
    assert!(!broker.runner_file("deleted").exists());
    drop(stays);
}

#[test]
fn a_declared_runner_starts_with_its_file_alone() {
    let gitea = Gitea::start("");
    let mut broker = new_broker(&gitea);
    let declared =
        |label: &str| format!("[[runners]]\nname = \"one\"\nlabels = [\"{label}:host\"]\n");
    broker.write_settings(&declared("other"));
    broker.up();
    wait_until("it is registered", || labels(&gitea) == [["other"]]);
    wait_until("its file is there", || broker.runner_file("one").exists());
    broker.write_settings(&declared("e2e"));
    broker.signal(Signal::HUP);
    wait_until("its labels are others", || labels(&gitea) == [["e2e"]]);
    wait_until("its file has them", || {
        read_runner_file(&broker.runner_file("one"))["labels"] == json!(["e2e:host"])
    });

    let mut runner = Runner::new("one");
    runner.put_file(&read_runner_file(&broker.runner_file("one")));
    runner.start();
    gitea.push_workflow("life", job::LIFE);
    gitea.wait_for_success("life");
    runner.stop();

    broker.write_settings("");
    broker.signal(Signal::HUP);
    wait_until("it is gone", || gitea.runners().is_empty());
    assert!(!broker.runner_file("one").exists());
}
