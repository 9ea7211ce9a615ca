//! Straight at Gitea.

use runner_broker::config::Scope;
use runner_broker::sandbox::StandInGitea;
use runner_broker::sandbox::gitea::{Effect, Route, RunnerSeed, When};
use rustix::process::Signal;
use secrecy::ExposeSecret;

use super::{HOLD, Wrapper};
use crate::support::gitea;
use crate::upstream_tls;

fn direct(gitea: &StandInGitea) -> Wrapper {
    let token = gitea.registration_token(&Scope::Instance);
    Wrapper::new(&gitea.url()).token(token.expose_secret()).flags(&["--direct"])
}

fn with_api_token(gitea: &StandInGitea) -> Wrapper {
    let token = gitea.api_token(&["write:admin"]);
    direct(gitea).set("GITEA_API_TOKEN", token.expose_secret())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_api_token_the_runner_is_deleted() {
    let gitea = gitea();
    let wrapper = with_api_token(&gitea);
    let mut wrapped = wrapper.script("test -s .runner && exit 8");
    assert_eq!(wrapped.ended(), 8, "{}", wrapped.output());
    assert!(gitea.runners().is_empty() && !wrapper.file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_api_token_no_registration_token_is_needed_and_a_reset_does_not_matter() {
    let gitea = gitea();
    let api = gitea.api_token(&["write:admin"]);
    let bare = || direct(&gitea).set("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", "");
    for wrapper in [bare(), direct(&gitea)] {
        let _new = gitea.reset_registration_token(&Scope::Instance);
        let wrapper = wrapper.set("GITEA_API_TOKEN", api.expose_secret());
        let mut wrapped = wrapper.script("test -s .runner && exit 8");
        assert_eq!(wrapped.ended(), 8, "{}", wrapped.output());
        assert!(gitea.runners().is_empty() && !wrapper.file().exists());
    }
    let may_not = gitea.api_token(&["read:user"]);
    let wrapper = bare().set("GITEA_API_TOKEN", may_not.expose_secret());
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 78, "{}", wrapped.output());
    assert!(wrapped.output().contains("set GITEA_API_TOKEN_FILE"), "{}", wrapped.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_one_the_runner_and_its_file_are_kept_and_that_is_told() {
    let gitea = gitea();
    let wrapper = direct(&gitea);
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 0);
    assert_eq!(wrapped.output().matches("set GITEA_API_TOKEN_FILE").count(), 1);
    let id = wrapper.id();
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 0);
    assert_eq!((wrapper.id(), gitea.runners().len()), (id, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_another_s_by_now_is_not_deleted() {
    let gitea = gitea();
    let wrapper = with_api_token(&gitea);
    let mut wrapped = wrapper.script(HOLD);
    wrapped.ready();
    // As a restore does it: the same credentials, another id.
    let runner = gitea.runners().remove(0);
    gitea.remove_runner(runner.id);
    let seed = RunnerSeed { id: Some(runner.id), name: "another".into(), ..RunnerSeed::default() };
    gitea.add_runner(seed);
    gitea.add_runner(RunnerSeed {
        uuid: Some(runner.uuid),
        token: Some(runner.token),
        ..RunnerSeed::default()
    });
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 143);
    assert!(wrapped.output().contains("delete it on Gitea's page"), "{}", wrapped.output());
    assert_eq!(gitea.runners().len(), 2);
    assert!(wrapper.file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_that_sees_too_little_is_told() {
    let gitea = gitea();
    let token = gitea.api_token(&["read:user"]);
    let wrapper = direct(&gitea).set("GITEA_API_TOKEN", token.expose_secret());
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 0);
    let log = wrapped.output();
    assert!(log.contains("set GITEA_API_TOKEN_FILE to one with the scope write:admin"), "{log}");
    assert!(wrapper.file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_token_that_gitea_refuses_is_told() {
    let gitea = gitea();
    let wrapper = direct(&gitea).token("not-a-token");
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 77, "{}", wrapped.output());
    assert!(wrapped.output().contains("token not found"), "{}", wrapped.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_not_asked_for_again() {
    let gitea = gitea();
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Close);
    let wrapper = with_api_token(&gitea);
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 69, "{}", wrapped.output());
    assert!(wrapped.output().contains("Gitea would register a second one"), "{}", wrapped.output());
    assert_eq!(gitea.journal().count(|entry| entry.target.ends_with("/Register")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_direct_gitea_itself_is_told_from_a_broker() {
    let gitea = gitea();
    let token = gitea.registration_token(&Scope::Instance);
    let wrapper = Wrapper::new(&gitea.url()).token(token.expose_secret());
    let wrapper = wrapper.flags(&["--deadline", "200ms"]);
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 0);
    assert!(wrapped.output().contains("use --direct"), "{}", wrapped.output());
    assert!(wrapper.file().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_authority_to_trust_can_be_named() {
    let (pem, tls) = upstream_tls::authority("127.0.0.1", true);
    let gitea = upstream_tls::gitea(tls);
    let wrapper = with_api_token(&gitea).flags(&["--ca-file", "ca.pem"]);
    let mut wrapped = wrapper.script("exit 0");
    assert_eq!(wrapped.ended(), 78, "{}", wrapped.output());
    assert!(wrapped.output().contains("--ca-file ca.pem"), "{}", wrapped.output());
    std::fs::write(wrapper.folder.path().join("ca.pem"), pem).unwrap();
    assert_eq!(wrapper.script("exit 8").ended(), 8);
    assert!(gitea.runners().is_empty());

    let (other, _) = upstream_tls::authority("127.0.0.1", true);
    std::fs::write(wrapper.folder.path().join("ca.pem"), other).unwrap();
    let mut wrapped = wrapper.script("exit 8");
    let line = wrapped.wait_for("waiting");
    assert!(line.contains("unknown authority; set --ca-file"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_runner_is_replaced_here_too() {
    let gitea = gitea();
    let wrapper = with_api_token(&gitea).flags(&["--check-every", "20ms"]);
    let mut wrapped = wrapper.script(HOLD);
    wrapped.ready();
    let id = wrapper.id();
    assert!(gitea.remove_runner(id));
    wrapped.ready();
    assert_ne!(wrapper.id(), id);
    wrapped.kill(Signal::TERM);
    assert_eq!(wrapped.ended(), 143);
    assert!(gitea.runners().is_empty());
}
