//! `enroll`, as an init container runs it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use runner_broker::sandbox::gitea::{Route, When};
use rustix::process::Signal;

use super::{Wrapper, runner_file, stage};
use crate::support::within;

fn enroll(instance: &str, flags: &[&str]) -> Wrapper {
    let mut wrapper = Wrapper::new(instance).flags(&["--out", "shared/.runner"]).flags(flags);
    wrapper.verb = "enroll";
    wrapper
}

#[tokio::test(flavor = "multi_thread")]
async fn it_writes_the_file_and_a_second_run_keeps_it() {
    let (gitea, _site, broker) = stage().await;
    let address = "http://broker.example:8080/git";
    let wrapper = enroll(&broker.url, &["--address", address, "--mode", "0640"]);
    let path = wrapper.folder.path().join("shared/.runner");
    assert_eq!(wrapper.command(&[]).ended(), 0);
    let first = runner_file(&path);
    assert_eq!(first["address"], address);
    assert_eq!(first["labels"], serde_json::json!(["host:host"]));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(path.metadata().unwrap().uid(), rustix::process::geteuid().as_raw());

    let mut again = wrapper.command(&[]);
    assert_eq!(again.ended(), 0);
    assert_eq!(runner_file(&path), first, "{}", again.output());
    assert_eq!(gitea.runners().len(), 1);

    let moved = wrapper.flags(&["--address", &broker.url]);
    assert_eq!(moved.command(&[]).ended(), 64, "a flag twice is a mistake");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_leaves_neither_a_runner_nor_a_file() {
    let (gitea, _site, broker) = stage().await;
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    let wrapper = enroll(&broker.url, &[]);
    let mut enrolling = wrapper.command(&[]);
    within(gate.reached()).await;
    enrolling.kill(Signal::TERM);
    enrolling.wait_for("stopping");
    gate.open();
    assert_eq!(enrolling.ended(), 143, "{}", enrolling.output());
    assert!(gitea.runners().is_empty());
    assert!(!wrapper.folder.path().join("shared/.runner").exists());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_exit_code_of_its_own() {
    let (_gitea, _site, broker) = stage().await;
    let wrapper = enroll(&broker.url, &[]).token("not-the-token-of-this-broker-0123456789");
    assert_eq!(wrapper.command(&[]).ended(), 77);
    broker.stop().await;
}
