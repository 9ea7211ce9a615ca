//! Which signal ends what.

use runner_broker::sandbox::gitea::{Route, When};
use rustix::process::Signal;

use super::{HOLD, Wrapper, stage};
use crate::support::within;

#[tokio::test(flavor = "multi_thread")]
async fn each_signal_reaches_the_command() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let names = ["INT", "QUIT", "HUP", "USR1", "USR2"];
    let traps: String = names.map(|name| format!("trap 'echo got {name}' {name}; ")).concat();
    let mut wrapped = wrapper.script(&format!("{traps} trap 'exit 9' TERM; {HOLD}"));
    wrapped.ready();
    for (signal, name) in
        [Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2].into_iter().zip(names)
    {
        wrapped.kill(signal);
        wrapped.wait_for(&format!("got {name}"));
    }
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 9);
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_tells_the_signal_that_ended_the_command() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let mut wrapped = wrapper.script(HOLD);
        wrapped.ready();
        wrapped.kill(signal);
        assert_eq!(wrapped.ended(), code, "{}", wrapped.output());
        assert!(gitea.runners().is_empty());
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_killed_is_deregistered() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script(HOLD);
    let command = wrapped.started();
    wrapped.ready();
    rustix::process::kill_process(command, Signal::KILL).unwrap();
    assert_eq!(wrapped.ended(), 137);
    assert!(gitea.runners().is_empty() && !wrapper.file().exists());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_while_enrolling_leaves_no_runner_and_starts_nothing() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP] {
        let gate = gitea.faults().gate(Route::Register, When::AfterActing);
        let mut wrapped = wrapper.script("touch started");
        within(gate.reached()).await;
        wrapped.kill(signal);
        wrapped.wait_for("stopping");
        gate.open();
        assert_eq!(wrapped.ended(), 128 + signal.as_raw(), "{}", wrapped.output());
        assert!(gitea.runners().is_empty(), "{}", wrapped.output());
        assert!(!wrapper.file().exists() && !wrapper.folder.path().join("started").exists());
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_while_enrolling_ends_at_once() {
    let (gitea, _site, broker) = stage().await;
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script("touch started");
    within(gate.reached()).await;
    wrapped.kill(Signal::TERM);
    wrapped.wait_for("stopping");
    wrapped.kill(Signal::INT);
    assert_eq!(wrapped.ended(), 130);
    gate.open();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_only_tell_something_do_not_end_the_enrolling() {
    let (gitea, _site, broker) = stage().await;
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script("exit 6");
    within(gate.reached()).await;
    wrapped.kill(Signal::USR1);
    wrapped.kill(Signal::USR2);
    gate.open();
    assert_eq!(wrapped.ended(), 6, "{}", wrapped.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_reaches_the_command_too() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let script = format!("trap 'trap \"exit 5\" TERM; echo once more' TERM; {HOLD}");
    let mut wrapped = wrapper.script(&script);
    wrapped.ready();
    wrapped.kill(Signal::TERM);
    wrapped.wait_for("once more");
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 5);
    assert!(gitea.runners().is_empty(), "it is deregistered all the same");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_while_deregistering_ends_at_once() {
    let (gitea, _site, broker) = stage().await;
    let gate = gitea.faults().gate(Route::DeleteRunner, When::BeforeActing);
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script(&format!("trap 'exit 0' TERM; {HOLD}"));
    wrapped.ready();
    wrapped.kill(Signal::TERM);
    within(gate.reached()).await;
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 0);
    assert!(wrapped.output().contains("a further signal came"), "{}", wrapped.output());
    assert!(wrapper.file().exists(), "the next start takes it up");
    gate.open();
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_one_while_deregistering_does_not_disturb_it() {
    let (gitea, _site, broker) = stage().await;
    let gate = gitea.faults().gate(Route::DeleteRunner, When::BeforeActing);
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script("exit 2");
    within(gate.reached()).await;
    wrapped.kill(Signal::TERM);
    gate.open();
    assert_eq!(wrapped.ended(), 2);
    assert!(gitea.runners().is_empty() && !wrapper.file().exists());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_terminal_sends_to_the_wrapper_s_group_reaches_the_command_once() {
    let (_gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let mut wrapped = wrapper.script(&format!("trap 'echo hit' INT; trap 'exit 0' TERM; {HOLD}"));
    let command = wrapped.started();
    wrapped.ready();
    let own = rustix::process::Pid::from_child(&wrapped.child);
    let group = rustix::process::getpgid(Some(command)).unwrap();
    assert_ne!(Some(group), rustix::process::getpgid(Some(own)).ok());
    assert_eq!(group, command);
    wrapped.kill(Signal::INT);
    wrapped.wait_for("hit");
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 0);
    assert!(!wrapped.output().contains("hit\nhit"));
    broker.stop().await;
}
