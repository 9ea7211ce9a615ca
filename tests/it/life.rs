//! The main job from end to end: a runner joins, works and leaves.

use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use rustix::process::Signal as Unix;

use crate::binary::Binary;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, runner_file};

#[tokio::test]
async fn a_runner_joins_works_and_leaves() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let program = StandInRunner::new(&broker.url);

    program.ping("one").await.unwrap();
    let runner = program.register(&RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one")).await;
    let runner = runner.unwrap();
    let file = runner_file(&site.runner_file("one"));
    assert_eq!(file["name"], "one");
    assert_eq!(file["address"], broker.url);
    runner.declare(&["host"]).await.unwrap();
    assert_eq!(gitea.runners()[0].labels, ["host"], "the intent label is gone");

    let id = gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    let task = task.expect("the task that waits");
    let live = broker.lifecycle.roster.all().remove(0);
    assert_eq!(broker.lifecycle.state_of(&live), "busy");
    runner.run_task(&task).await.unwrap();
    assert_eq!(broker.lifecycle.state_of(&live), "idle");
    assert!(!gitea.task(id).unwrap().log.is_empty());

    drop((runner, program));
    eventually("the runner is gone", async || broker.lifecycle.state_of(&live) == "gone").await;
    broker.stop().await;
    assert!(gitea.runners().is_empty(), "the gone runner is deregistered");
    assert!(!site.runner_file("one").exists());
}

#[tokio::test]
async fn the_built_binary_lives_and_ends_on_sigterm() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let mut broker = Binary::start(&site);
    let program = StandInRunner::new(&broker.url);
    let runner = program.register(&RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one")).await;
    runner.unwrap().declare(&["host"]).await.unwrap();
    drop(program);
    tokio::task::spawn_blocking(move || {
        broker.kill(Unix::TERM);
        assert!(broker.ended().success(), "{}", broker.log_text());
    })
    .await
    .unwrap();
    assert!(gitea.runners().is_empty());
}

#[tokio::test]
async fn a_second_broker_on_one_store_is_refused() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let first = Binary::start(&site);
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_runner-broker"))
        .arg("serve")
        .env_clear()
        .envs(site.environment())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(69));
    let text = String::from_utf8(second.stderr).unwrap();
    let holder = format!("in use by process {} on the host ", first.pid());
    assert!(text.contains("state.db") && text.contains(&holder), "{text}");
    assert!(text.contains("only one broker may run on it"), "{text}");
    StandInRunner::new(&first.url).ping("the first is unharmed").await.unwrap();
}

#[tokio::test]
async fn a_second_broker_on_one_admin_socket_is_refused() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let mut first = Binary::start(&site);
    let socket = site.path("admin.sock").to_str().unwrap().to_owned();
    let other = Site::new(&gitea).set("admin.socket", &socket);
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_runner-broker"))
        .arg("serve")
        .env_clear()
        .envs(other.environment())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(69));
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains(&socket) && text.contains("admin.socket"), "{text}");
    assert!(std::os::unix::net::UnixStream::connect(&socket).is_ok(), "the first still listens");
    // What was killed leaves its socket behind, and the next takes it.
    first.kill(Unix::KILL);
    first.ended();
    assert!(site.path("admin.sock").exists());
    Binary::start(&other);
}
