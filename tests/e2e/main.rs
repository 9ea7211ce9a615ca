//! The whole life with a real Gitea and a real runner, given by `GITEA_BIN` and `GITEA_RUNNER_BIN`:
//! `cargo test --features e2e --test e2e`.
//!
//! Run by root, Gitea is started as `GITEA_USER` (else `nobody`), since it refuses root. A Gitea built
//! without its own files (no `bindata`) finds them where `GITEA_STATIC_ROOT` says. Jobs run on this machine
//! and need bash, curl and git; nothing is reached but loopback.

#![allow(unreachable_pub, reason = "a test binary exports nothing")]

mod broker;
mod first_process;
mod gitea;
mod http;
mod job;
mod life;
mod process;
mod runner;
mod scopes;
mod tls;
mod tokens;
mod wrapper;

use std::path::PathBuf;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use broker::{Broker, ENROLLMENT_TOKEN};
use gitea::Gitea;
use http::Client;
use runner::{Runner, read_runner_file};

/// The program that this variable names; without it the test fails, it is never left out.
fn binary(variable: &str) -> PathBuf {
    let what = if variable == "GITEA_BIN" { "gitea" } else { "gitea-runner" };
    let path = std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: set it to the path of a {what} executable to run the e2e tests"
        )
    });
    assert!(
        path.is_file(),
        "{variable} names {}, which is no file: set it to a {what} executable",
        path.display()
    );
    path
}

/// What the broker's API token needs for the whole instance.
const BROKER_SCOPES: &[&str] = &["write:admin"];

/// Proves the harness: where this fails, the broker is not to blame.
#[test]
fn a_runner_works_straight_at_gitea() {
    let gitea = Gitea::start("");
    let mut runner = Runner::new("straight");
    runner.register(&gitea.url, &gitea.registration_token()).expect("Gitea takes its own token");
    runner.start();
    gitea.push_workflow("life", job::LIFE);
    let log = gitea.wait_for_success("life");
    assert!(log.lines().any(|line| line.ends_with(job::DONE)), "{log}");
    runner.stop();
    assert_eq!(gitea.runners().len(), 1, "Gitea keeps who left: that is what the broker is for");
}

/// Proves the harness: what is expected of a reset token comes from Gitea.
#[test]
fn gitea_refuses_a_reset_token() {
    let gitea = Gitea::start("");
    let old = gitea.registration_token();
    gitea.reset_registration_token(&mut gitea.log_in());
    assert_ne!(gitea.registration_token(), old);
    let refused =
        Runner::new("late").register(&gitea.url, &old).expect_err("the old token is void");
    assert!(refused.contains("invalidated"), "{refused}");
}

#[test]
fn the_whole_life() {
    live_and_leave("");
}

#[test]
fn the_whole_life_below_a_sub_path() {
    live_and_leave("/git");
}

fn live_and_leave(sub_path: &str) {
    let gitea = Gitea::start(sub_path);
    let token = gitea.registration_token();
    let api_token = gitea.access_token(BROKER_SCOPES);
    let mut broker = Broker::start(&gitea, &token, Some(&api_token));
    let mut runner = Runner::new("life");

    runner.register(&broker.url(), ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
    let (own, written) = (runner.file(), read_runner_file(&broker.runner_file("life")));
    for field in ["id", "uuid", "token", "name", "labels", "ephemeral"] {
        assert_eq!(own[field], written[field], "{field} of the two runner files");
    }
    assert_eq!(written["address"], gitea.url, "a broker on loopback names Gitea");

    runner.start();
    assert_eq!(labels(&gitea), [["e2e"]], "Declare replaced the intent's label");
    gitea.push_workflow("life", job::LIFE);
    let log = gitea.wait_for_success("life");
    assert!(log.lines().any(|line| line.ends_with(job::DONE)), "{log}");

    assert!(!runner.files_with("GITHUB_RUN_ID").is_empty(), "the job wrote its environment down");
    assert_eq!(runner.files_with(&token), Vec::<PathBuf>::new());
    let environment = String::from_utf8_lossy(&runner.environment()).into_owned();
    assert!(!environment.contains(&token));
    assert!(!log.contains(&token));
    assert!(!runner.stop().contains(&token));

    assert!(broker.down(Signal::TERM).success(), "{}", broker.output());
    assert_eq!(gitea.runners(), [Value::Null; 0], "the runner had left");
    assert!(!broker.runner_file("life").exists(), "the file goes with its runner");
    let runner_token = own["token"].as_str().expect("the runner's token");
    for secret in [&*token, &*api_token, ENROLLMENT_TOKEN, runner_token] {
        assert!(!broker.output().contains(secret), "a secret is in the broker's log");
    }
}

#[test]
fn a_runner_deregisters() {
    let gitea = Gitea::start("");
    let api_token = gitea.access_token(BROKER_SCOPES);
    let broker = Broker::start(&gitea, &gitea.registration_token(), Some(&api_token));
    let (mut leaves, mut stays) = (Runner::new("leaves"), Runner::new("stays"));
    leaves.register(&broker.url(), ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
    stays.register(&broker.url(), ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
    let (leaving, staying) = (leaves.file(), stays.file());
    let client = Client::new();

    // The other's id and uuid with one's own token are nobody's credentials.
    let stranger =
        json!({ "id": staying["id"], "uuid": staying["uuid"], "token": leaving["token"] });
    let refused = client.rpc(&broker.url(), "Deregister", &stranger);
    assert_eq!(refused.status, 401, "{}", refused.body);
    assert_eq!(gitea.runners().len(), 2);

    // The other's id with one's own uuid and token: the record decides, not the id.
    let own = json!({ "id": staying["id"], "uuid": leaving["uuid"], "token": leaving["token"] });
    let done = client.rpc(&broker.url(), "Deregister", &own);
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(done.json()["runner"]["uuid"], leaving["uuid"]);
    assert_eq!(names(&gitea), ["stays"]);
    assert!(!broker.runner_file("leaves").exists());
    assert!(broker.runner_file("stays").exists());
}

#[test]
fn a_reset_registration_token_is_told_with_the_remedy() {
    let gitea = Gitea::start("");
    let old = gitea.registration_token();
    let mut broker = Broker::start(&gitea, &old, None);
    gitea.reset_registration_token(&mut gitea.log_in());

    let request =
        json!({ "name": "late", "token": ENROLLMENT_TOKEN, "labels": ["e2e"], "version": "e2e" });
    let refused = Client::new().rpc(&broker.url(), "Register", &request);
    assert!(refused.status >= 400, "{}", refused.body);
    let error = refused.json();
    assert_ne!(error["code"], "unknown", "{error}");
    let message = error["message"].as_str().expect("a Connect error has a message");
    assert!(message.contains("registration token"), "{message}");
    let mut runner = Runner::new("late");
    let output = runner.register(&broker.url(), ENROLLMENT_TOKEN).expect_err("Gitea refuses");
    assert!(output.contains("registration token"), "{output}");
    assert!(!output.contains(&old), "{output}");
    assert_eq!(gitea.runners(), [Value::Null; 0]);

    assert!(broker.down(Signal::TERM).success());
    broker.set_registration_token(&gitea.registration_token());
    broker.up();
    runner.register(&broker.url(), ENROLLMENT_TOKEN).expect("the remedy works");
}

#[test]
fn a_job_outlives_a_restart_of_gitea() {
    let mut gitea = Gitea::start("");
    let broker = Broker::start(&gitea, &gitea.registration_token(), None);
    let mut runner = Runner::new("patient");
    runner.register(&broker.url(), ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
    runner.start();
    gitea.push_workflow("wait", job::WAITING);
    gitea.wait_for_line("wait", job::WAITS);

    gitea.down();
    // The job ends while nobody is there to hear of it.
    runner.release_job();
    gitea.up();
    gitea.wait_for_success("wait");
}

#[test]
fn a_job_outlives_a_restart_of_the_broker() {
    let gitea = Gitea::start("");
    let api_token = gitea.access_token(BROKER_SCOPES);
    let mut broker = Broker::start(&gitea, &gitea.registration_token(), Some(&api_token));
    let mut runner = Runner::new("patient");
    runner.register(&broker.url(), ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
    runner.start();
    gitea.push_workflow("wait", job::WAITING);
    gitea.wait_for_line("wait", job::WAITS);

    assert!(broker.down(Signal::TERM).success(), "{}", broker.output());
    assert_eq!(names(&gitea), ["patient"], "a runner with a task is left");
    runner.release_job();
    broker.up();
    gitea.wait_for_success("wait");
    // It takes the next job through the restarted broker, with the same identity.
    gitea.push_workflow("life", job::LIFE);
    gitea.wait_for_success("life");
    assert_eq!(names(&gitea), ["patient"]);

    assert!(broker.down(Signal::QUIT).success());
    assert_eq!(names(&gitea), ["patient"], "SIGQUIT keeps registrations");
}

#[test]
fn two_runners_of_one_name_are_two() {
    let gitea = Gitea::start("");
    let broker = Broker::start(&gitea, &gitea.registration_token(), None);
    let url = broker.url();
    let mut twins = [Runner::new("twin"), Runner::new("twin")];
    thread::scope(|scope| {
        for twin in &mut twins {
            let url = &url;
            scope.spawn(move || {
                twin.register(url, ENROLLMENT_TOKEN).expect("the broker enrolls the runner");
                twin.start();
            });
        }
    });
    let [one, other] = twins.each_ref().map(Runner::file);
    for field in ["id", "uuid", "token"] {
        assert_ne!(one[field], other[field], "{field} of the two");
    }
    assert_eq!(names(&gitea), ["twin", "twin"]);
}

/// The names of Gitea's runners.
fn names(gitea: &Gitea) -> Vec<String> {
    let runners = gitea.runners();
    runners.iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

/// The labels of each of Gitea's runners.
fn labels(gitea: &Gitea) -> Vec<Vec<String>> {
    let runners = gitea.runners();
    let labels = |row: &Value| {
        let labels = row["labels"].as_array().expect("labels");
        labels.iter().map(|label| label["name"].as_str().expect("a name").to_owned()).collect()
    };
    runners.iter().map(labels).collect()
}
