//! Several scopes of a real Gitea at once, and registration tokens that the broker gets by itself.

use std::ops::Range;
use std::sync::{Mutex, mpsc};
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::broker::{Broker, ENROLLMENT_TOKEN};
use crate::gitea::Gitea;
use crate::http::Client;
use crate::runner::Runner;
use crate::{BROKER_SCOPES, job};

#[test]
fn a_reset_in_the_middle_of_a_hundred_registrations_fails_none_of_them() {
    const RUNNERS: usize = 100;
    let gitea = Gitea::start("");
    let mut broker = Broker::minting(&gitea, &gitea.access_token(BROKER_SCOPES));
    broker.up();
    let mut session = gitea.log_in();
    let url = broker.url();
    let (send, numbers) = mpsc::channel();
    let numbers = Mutex::new(numbers);
    let (answer, answers) = mpsc::channel();
    let mut seen = Vec::new();
    thread::scope(|scope| {
        for _ in 0..8 {
            let (answer, numbers, url) = (answer.clone(), &numbers, &url);
            scope.spawn(move || {
                let client = Client::new();
                let next = || numbers.lock().expect("no panic").recv();
                while let Ok(number) = next() {
                    let request = json!({
                        "name": format!("r{number}"),
                        "token": ENROLLMENT_TOKEN,
                        "labels": ["e2e"],
                        "version": "e2e",
                    });
                    let told = client.rpc(url, "Register", &request);
                    let _ = answer.send((told.status, told.body));
                }
            });
        }
        drop(answer);
        let register = |these: Range<usize>| {
            for number in these {
                send.send(number).expect("somebody registers");
            }
        };
        // Each reset meets some that are under way, and others come after it.
        register(0..50);
        seen.extend(answers.iter().take(12));
        gitea.reset_registration_token(&mut session);
        register(50..75);
        seen.extend(answers.iter().take(50));
        gitea.reset_registration_token(&mut session);
        register(75..RUNNERS);
        drop(send);
        seen.extend(answers);
    });
    let failed: Vec<_> = seen.iter().filter(|(status, _)| *status != 200).collect();
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(seen.len(), RUNNERS);
    assert_eq!(gitea.names_at("/admin").1, RUNNERS as u64);
    assert!(broker.down(Signal::TERM).success());
    assert!(broker.output().contains("registration token was reset"), "it was reset in between");
}

#[test]
fn one_broker_serves_several_scopes() {
    let gitea = Gitea::start("");
    gitea.add_organization("acme");
    gitea.add_repository("own");
    let mut broker = Broker::without_tokens(&gitea);
    let scopes = [
        ("org:acme", "/orgs/acme", "write:organization"),
        ("user", "/user", "write:user"),
        ("repo:root1/own", "/repos/root1/own", "write:repository"),
    ];
    let tables = scopes.map(|(scope, _, needs)| {
        let token = gitea.access_token(&[needs]);
        format!("[[gitea.scopes]]\nscope = \"{scope}\"\napi_token = \"{token}\"\n")
    });
    broker.write_settings(&tables.concat());
    broker.up();

    let runners = scopes.map(|(scope, place, _)| {
        let arguments = ["token", "create", "--json", "--scope", scope];
        let output = broker.command_line(&arguments);
        assert!(output.status.success(), "{output:?}");
        let token: Value = serde_json::from_slice(&output.stdout).expect("the new token");
        let name = scope.replace([':', '/'], "-");
        let mut runner = Runner::new(&name);
        let secret = token["secret"].as_str().expect("its secret");
        runner.register(&broker.url(), secret).expect("the broker enrolls the runner");
        assert_eq!(gitea.names_at(place), (vec![name], 1), "{scope}");
        runner
    });
    let [mut of_org, mut of_user, mut of_repo] = runners;
    // Only the repository's own is asked for its job.
    of_repo.start();
    gitea.add_workflow("own", job::LIFE);
    gitea.wait_for_success("own");
    of_org.start();
    of_user.start();
    for runner in [&mut of_org, &mut of_user, &mut of_repo] {
        runner.stop();
    }
    assert!(broker.down(Signal::TERM).success(), "{}", broker.output());
    assert_eq!(gitea.names_at("/admin"), (Vec::new(), 0), "each was deleted where it served");
}
