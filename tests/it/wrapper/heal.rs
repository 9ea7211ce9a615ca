//! A runner that is not known any more.

use std::os::unix::fs::PermissionsExt;

use runner_broker::sandbox::StandInGitea;
use runner_broker::sandbox::gitea::Entry;
use rustix::process::Signal;

use super::{HOLD, Wrapper, stage};
use crate::support::{eventually, within};

/// Waits until Gitea has a runner other than this one.
async fn another_than(gitea: &StandInGitea, id: i64) -> i64 {
    let other = |gitea: &StandInGitea| gitea.runners().first().map(|runner| runner.id);
    within(gitea.wait_until(|gitea| other(gitea).is_some_and(|other| other != id))).await;
    other(gitea).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_runner_is_replaced_and_its_command_started_again() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url).flags(&["--check-every", "50ms"]);
    let mut wrapped = wrapper.script(&format!("trap 'echo ending; exit 0' TERM; {HOLD}"));
    wrapped.ready();
    let id = wrapper.id();
    assert!(gitea.remove_runner(id));
    wrapped.wait_for("ending");
    let other = another_than(&gitea, id).await;
    wrapped.ready();
    assert_eq!(wrapper.id(), other);
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 0, "{}", wrapped.output());
    assert!(gitea.runners().is_empty() && !wrapper.file().exists());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_runner_s_command_is_left_alone() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url).flags(&["--check-every", "20ms"]);
    let mut wrapped = wrapper.script(HOLD);
    wrapped.ready();
    let checks = |entry: &&Entry| entry.target.ends_with("/UpdateLog");
    eventually("it was asked about", async || gitea.journal().count(checks) >= 3).await;
    // A Gitea that cannot be asked proves nothing.
    gitea.set_down().await.unwrap();
    gitea.set_up().await.unwrap();
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 143);
    assert_eq!(wrapped.output().matches("\"command started\"").count(), 1, "{}", wrapped.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_with_a_lost_runner_is_started_again() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url).flags(&["--check-every", "never"]);
    let mut wrapped = wrapper
        .script("test -e once && exit 0; touch once; mkfifo go; echo ready; read x < go; exit 1");
    wrapped.ready();
    assert!(gitea.remove_runner(wrapper.id()));
    std::fs::write(wrapper.folder.path().join("go"), "\n").unwrap();
    assert_eq!(wrapped.ended(), 0, "{}", wrapped.output());
    assert_eq!(wrapped.output().matches("\"command started\"").count(), 2, "{}", wrapped.output());
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_with_a_good_runner_is_not() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script("echo once >> times; exit 1");
    assert_eq!(wrapped.ended(), 1);
    assert_eq!(wrapper.text("times"), "once\n");
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healing_has_a_limit() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url).flags(&["--check-every", "20ms", "--max-heals", "2"]);
    let mut wrapped = wrapper.script(&format!("trap 'exit 0' TERM; {HOLD}"));
    let mut id = 0;
    for _ in 0..3 {
        id = another_than(&gitea, id).await;
        wrapped.ready();
        assert!(gitea.remove_runner(id));
    }
    assert_eq!(wrapped.ended(), 69, "{}", wrapped.output());
    assert!(wrapped.output().contains("within an hour 2 others"), "{}", wrapped.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_command_that_does_not_end_is_killed() {
    let (gitea, _site, broker) = stage().await;
    let wrapper =
        Wrapper::new(&broker.url).flags(&["--check-every", "20ms", "--stop-timeout", "50ms"]);
    let mut wrapped = wrapper.script(&format!("trap 'echo no' TERM; {HOLD}"));
    wrapped.ready();
    let id = wrapper.id();
    assert!(gitea.remove_runner(id));
    wrapped.wait_for("it is killed");
    wrapped.ready();
    another_than(&gitea, id).await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ephemeral_runner_that_is_gone_is_not_replaced() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url)
        .set("GITEA_RUNNER_EPHEMERAL", "true")
        .flags(&["--check-every", "20ms"]);
    // Its task done, Gitea has removed it, and the command ends.
    let mut wrapped = wrapper.script("mkfifo go; echo ready; read x < go; exit 0");
    wrapped.ready();
    assert!(gitea.runners()[0].ephemeral);
    assert!(gitea.remove_runner(wrapper.id()));
    std::fs::write(wrapper.folder.path().join("go"), "\n").unwrap();
    wrapped.ended();
    assert!(gitea.runners().is_empty() && !wrapper.file().exists(), "{}", wrapped.output());
    assert_eq!(wrapped.output().matches("\"command started\"").count(), 1, "{}", wrapped.output());

    // One that was removed before it had any is not waited for without end.
    let mut wrapped = wrapper.script(&format!("trap 'exit 3' TERM; {HOLD}"));
    wrapped.ready();
    assert!(gitea.remove_runner(wrapper.id()));
    assert_eq!(wrapped.ended(), 3, "{}", wrapped.output());
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healing_keeps_the_file_s_mode() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url).flags(&["--check-every", "20ms"]);
    let mut wrapped = wrapper.script(HOLD);
    wrapped.ready();
    assert!(gitea.remove_runner(wrapper.id()));
    wrapped.ready();
    assert_eq!(wrapper.file().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    broker.stop().await;
}
