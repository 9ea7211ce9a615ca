//! From the first line to the exit code.

use std::os::unix::fs::PermissionsExt;

use runner_broker::sandbox::gitea::{Effect, Route, When};
use rustix::process::Signal;

use super::{HOLD, Wrapper, runner_file, stage};
use crate::support::{ENROLLMENT_TOKEN, gitea};

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_lives_as_long_as_its_command() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script("cp -p .runner copy; cat >&2 .runner; exit 7");
    assert_eq!(wrapped.ended(), 7, "{}", wrapped.output());

    let copy = wrapper.folder.path().join("copy");
    let file = runner_file(&copy);
    assert_eq!(file["labels"], serde_json::json!(["host:host"]));
    assert_eq!(file["address"], broker.url);
    assert_eq!(file["name"], "wrapped");
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(gitea.runners().is_empty(), "{:?}", gitea.runners());
    assert!(!wrapper.file().exists());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_sees_no_secret_and_all_the_rest() {
    let (_gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url)
        .set("GITEA_RUNNER_REGISTRATION_TOKEN", ENROLLMENT_TOKEN)
        .set("GITEA_API_TOKEN", "canary-api")
        .set("GITEA_API_TOKEN_FILE", "/canary/api")
        .set("RUNNER_BROKER__ENROLLMENT__TOKEN", "canary-enrollment")
        .set("RUNNER_STATE_FILE", ".runner")
        .set("DOCKER_HOST", "unix:///run/docker.sock");
    let mut wrapped = wrapper.script("env > env; tr '\\0' '\\n' < /proc/self/cmdline >> env");
    assert_eq!(wrapped.ended(), 0);
    let environment = wrapper.text("env");
    for secret in ["REGISTRATION_TOKEN", "API_TOKEN", "canary", ENROLLMENT_TOKEN, "RUNNER_BROKER"] {
        assert!(!environment.contains(secret), "{secret} in {environment}");
    }
    for kept in ["GITEA_INSTANCE_URL=", "DOCKER_HOST=", "RUNNER_STATE_FILE=.runner"] {
        assert!(environment.contains(kept), "{kept} in {environment}");
    }
    let log = wrapped.output();
    assert!(!log.contains("canary") && !log.contains(ENROLLMENT_TOKEN), "{log}");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_cannot_be_started_leaves_no_runner() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    std::fs::write(wrapper.folder.path().join("plain"), "text").unwrap();
    for (command, code) in [("./missing", 127), ("./plain", 126)] {
        let mut wrapped = wrapper.command(&[command]);
        assert_eq!(wrapped.ended(), code, "{}", wrapped.output());
        assert!(gitea.runners().is_empty() && !wrapper.file().exists(), "{command}");
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_late_is_waited_for() {
    let (gitea, _site, broker) = stage().await;
    gitea.set_down().await.unwrap();
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script("exit 3");
    let line = wrapped.wait_for("waiting: it is asked again and again");
    assert!(line.contains(&broker.url), "{line}");
    gitea.set_up().await.unwrap();
    wrapped.wait_for("the waiting is over");
    assert_eq!(wrapped.ended(), 3);
    let told = wrapped.output().matches("asked again and again").count();
    assert_eq!(told, 1, "{}", wrapped.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_in_the_broker_s_words_and_not_tried_again() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url).token("not-the-token-of-this-broker-0123456789");
    let mut wrapped = wrapper.script("touch started");
    assert_eq!(wrapped.ended(), 77, "{}", wrapped.output());
    assert!(wrapped.output().contains("registration refused: "), "{}", wrapped.output());
    assert!(!wrapper.folder.path().join("started").exists());
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_the_broker_lost_is_asked_for_again() {
    let (gitea, _site, broker) = stage().await;
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Close);
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script(HOLD);
    wrapped.ready();
    let id = wrapper.id();
    gitea.wait_until(|gitea| gitea.runners().len() == 1 && gitea.runners()[0].id == id).await;
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 143);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_have_an_end_where_one_is_set() {
    let (gitea, _site, broker) = stage().await;
    let fault = Effect::Reset;
    gitea.faults().always(Route::Register, When::BeforeActing, fault);
    let wrapper = Wrapper::new(&broker.url).set("GITEA_MAX_REG_ATTEMPTS", "2");
    let mut wrapped = wrapper.script("touch started");
    assert_eq!(wrapped.ended(), 69, "{}", wrapped.output());
    assert!(wrapped.output().contains("GITEA_MAX_REG_ATTEMPTS"), "{}", wrapped.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_gone_at_the_end_is_tried_until_the_deadline() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url).flags(&["--deadline", "300ms"]);
    let mut wrapped = wrapper.script(HOLD);
    wrapped.ready();
    gitea.set_down().await.unwrap();
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 143);
    assert!(wrapped.output().contains("there was no time left"), "{}", wrapped.output());
    assert!(wrapper.file().exists());

    // The broker goes on with it by itself; a start with that file is none the worse for it.
    gitea.set_up().await.unwrap();
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 0, "{}", wrapped.output());
    assert!(gitea.runners().is_empty() && !wrapper.file().exists(), "{}", wrapped.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_it_waits_and_can_be_stopped() {
    let url = gitea().url();
    let wrapper = Wrapper::new(&url);
    let mut wrapped = wrapper.script("touch started");
    let line = wrapped.wait_for("waiting");
    assert!(line.contains("is the broker up, and is GITEA_INSTANCE_URL its address?"), "{line}");
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 143);
    assert!(!wrapper.folder.path().join("started").exists());
}
