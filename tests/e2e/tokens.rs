//! Enrollment tokens as an admin uses them, with a real Gitea and real runners.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::{ADMIN_TOKEN, Broker};
use crate::gitea::Gitea;
use crate::http::Client;
use crate::runner::Runner;
use crate::{BROKER_SCOPES, job, labels, names};

const LIMIT: Duration = Duration::from_secs(60);

fn with_api_token(gitea: &Gitea) -> Broker {
    let api_token = gitea.access_token(BROKER_SCOPES);
    Broker::start(gitea, &gitea.registration_token(), Some(&api_token))
}

/// The secret of a new token, as a script takes it, and its id.
fn create(broker: &Broker, arguments: &[&str]) -> (String, String) {
    let output = broker.command_line(&[&["token", "create"], arguments].concat());
    assert!(output.status.success(), "{output:?}");
    let secret = String::from_utf8(output.stdout).expect("text").trim().to_owned();
    let id = secret.split('_').nth(1).expect("rb_<id>_<secret>").to_owned();
    (secret, id)
}

fn run(broker: &Broker, arguments: &[&str]) -> Value {
    let output = broker.command_line(arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < LIMIT, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_token_admits_as_its_policy_says() {
    let gitea = Gitea::start("");
    let broker = with_api_token(&gitea);
    let (single, id) = create(&broker, &["--single-use", "--label", "e2e", "--expires", "1h"]);
    let mut first = Runner::new("first");
    first.register(&broker.url(), &single).expect("a fresh token admits");
    let refused = Runner::new("second").register(&broker.url(), &single).expect_err("used up");
    assert!(refused.contains("used up"), "{refused}");
    let shown = run(&broker, &["token", "show", &id, "--json"]);
    assert_eq!((&shown["state"], &shown["live_runners"]), (&json!("used_up"), &json!(1)));

    let (other, _) = create(&broker, &["--label", "gpu"]);
    let refused = Runner::new("third").register(&broker.url(), &other).expect_err("its label");
    assert!(refused.contains("\"e2e\""), "{refused}");

    // What the runner claims later is held to the same list: Gitea would take it.
    first.start();
    assert_eq!(labels(&gitea), [["e2e"]]);
    first.stop();
    first.claim_label("gpu:host");
    let told = first.start_in_vain();
    assert!(told.contains("does not allow the label") && told.contains("gpu"), "{told}");
    assert_eq!(labels(&gitea), [["e2e"]], "Gitea did not hear of it");
    assert_eq!(names(&gitea), ["first"]);

    // A holder exchanges a reusable token for one of a single runner.
    let (reusable, parent) = create(&broker, &["--name-pattern", "pod-*"]);
    let bearer = format!("Bearer {reusable}");
    let url = format!("http://{}/api/v1/tokens/exchange", broker.admin());
    let child =
        Client::new().send("POST", &url, &[("authorization", &bearer)], "").expect("answer");
    assert_eq!(child.status, 201, "{}", child.body);
    let child = child.json();
    assert_eq!(child["parent_id"], json!(parent));
    let secret = child["secret"].as_str().expect("a secret, this once");
    let refused = Runner::new("box-1").register(&broker.url(), secret).expect_err("its name");
    assert!(refused.contains("pod-*"), "{refused}");
    Runner::new("pod-1").register(&broker.url(), secret).expect("the child admits one");
    assert_eq!(names(&gitea), ["first", "pod-1"]);

    let events = run(&broker, &["events", "--json"]);
    let told: Vec<_> = events.as_array().expect("a list").iter().map(|one| &one["what"]).collect();
    for what in [
        "token.created",
        "token.exchanged",
        "runner.registered",
        "registration.refused",
        "declaration.refused",
    ] {
        assert!(told.contains(&&json!(what)), "{what} in {told:?}");
    }
    let log = broker.output();
    for secret in [&*single, &*reusable, secret, ADMIN_TOKEN] {
        assert!(!log.contains(secret) && !events.to_string().contains(secret));
    }
}

#[test]
fn a_token_that_is_withdrawn_takes_its_runners_along() {
    let gitea = Gitea::start("");
    let broker = with_api_token(&gitea);
    let (secret, id) = create(&broker, &["--description", "the build farm"]);
    let (mut busy, mut idle) = (Runner::new("busy"), Runner::new("idle"));
    busy.register(&broker.url(), &secret).expect("the token admits");
    busy.start();
    gitea.push_workflow("wait", job::WAITING);
    gitea.wait_for_line("wait", job::WAITS);
    idle.register(&broker.url(), &secret).expect("the token admits");
    idle.start();

    let output = broker.command_line(&["token", "disable", &id, "--cascade"]);
    assert!(output.status.success(), "{output:?}");
    let refused = Runner::new("late").register(&broker.url(), &secret).expect_err("disabled");
    assert!(refused.contains("disabled"), "{refused}");
    wait_until("the idle one is gone", || names(&gitea) == ["busy"]);
    // Its job is not cut off, and the next one is not given to it.
    gitea.push_workflow("life", job::LIFE);
    busy.release_job();
    gitea.wait_for_success("wait");
    wait_until("the busy one is gone as well", || names(&gitea).is_empty());

    run(&broker, &["token", "enable", &id]);
    let mut again = Runner::new("again");
    again.register(&broker.url(), &secret).expect("enabled again, it admits");
    again.start();
    gitea.wait_for_success("life");
    assert_eq!(names(&gitea), ["again"]);
}

#[test]
fn ephemeral_runners_make_room_when_they_are_done() {
    let gitea = Gitea::start("");
    let broker = with_api_token(&gitea);
    let (secret, id) = create(&broker, &["--ephemeral-only", "--max-runners", "1"]);
    let lasting = Runner::new("lasting").register(&broker.url(), &secret);
    let refused = lasting.expect_err("it would stay");
    assert!(refused.contains("ephemeral"), "{refused}");

    let mut first = Runner::new("first");
    first.register_with(&broker.url(), &secret, &["--ephemeral"]).expect("there is room");
    first.start();
    let mut second = Runner::new("second");
    let refused = second.register_with(&broker.url(), &secret, &["--ephemeral"]);
    let refused = refused.expect_err("no room while the first lives");
    assert!(refused.contains("1 live runners"), "{refused}");
    gitea.push_workflow("life", job::LIFE);
    gitea.wait_for_success("life");
    wait_until("the broker has seen that Gitea removed the first", || {
        run(&broker, &["token", "show", &id, "--json"])["live_runners"] == 0
    });
    assert_eq!(names(&gitea), Vec::<String>::new());
    second.register_with(&broker.url(), &secret, &["--ephemeral"]).expect("there is room again");
    assert_eq!(names(&gitea), ["second"]);
}
