//! Registration tokens that the broker gets from Gitea with an API token.

use std::collections::HashSet;

use futures_util::future::join_all;
use hyper::{Method, StatusCode};
use runner_broker::config::Scope;
use runner_broker::sandbox::gitea::{Answer, Effect, Options, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;

use crate::capture::Capture;
use crate::register::{join, registers};
use crate::revival::{all_settled, take_for_gone, work};
use crate::support::{Broker, Site, eventually, gitea, within};

/// An API token and no registration token.
fn minting(gitea: &StandInGitea) -> Site {
    Site::new(gitea).set("gitea.registration_token_file", "")
}

fn asked(gitea: &StandInGitea) -> Vec<(Method, String)> {
    let entries = gitea.journal().entries().into_iter();
    // What is asked with PUT tells what Gitea can do, and gives out none.
    let of_tokens = entries
        .filter(|entry| entry.target.contains("/registration-token") && entry.method != "PUT");
    of_tokens.map(|entry| (entry.method, entry.target)).collect()
}

async fn hundred(broker: &Broker) -> Vec<Result<Runner, RpcError>> {
    let names: Vec<_> = (0..100).map(|number| format!("of-many-{number}")).collect();
    join_all(names.iter().map(|name| join(broker, name))).await
}

/// All have joined, each once, and nothing is open.
async fn all_joined(gitea: &StandInGitea, broker: &Broker, joined: Vec<Result<Runner, RpcError>>) {
    let ids: HashSet<_> = joined
        .into_iter()
        .map(|runner| runner.unwrap_or_else(|error| panic!("{}", error.message)).credentials.id)
        .collect();
    assert_eq!((ids.len(), gitea.runners().len()), (100, 100));
    assert!(broker.lifecycle.store.intents().await.unwrap().is_empty());
    assert_eq!(broker.lifecycle.unsettled(), 0);
}

#[tokio::test]
async fn one_is_minted_for_many_registrations() {
    let gitea = gitea();
    let broker = Broker::start(&minting(&gitea)).await;
    let joined = hundred(&broker).await;
    all_joined(&gitea, &broker, joined).await;
    let path = "/api/v1/admin/actions/runners/registration-token".to_owned();
    assert_eq!(asked(&gitea), [(Method::POST, path)]);
    assert_eq!(registers(&gitea).len(), 100);
}

#[tokio::test]
async fn what_the_settings_hold_is_taken_without_asking() {
    let gitea = gitea();
    let broker = Broker::start(&Site::new(&gitea)).await;
    join(&broker, "one").await.unwrap();
    assert_eq!(asked(&gitea), []);
}

#[tokio::test]
async fn a_reset_before_a_hundred_registrations_fails_none() {
    for site in [minting, Site::new] {
        let gitea = gitea();
        let broker = Broker::start(&site(&gitea)).await;
        join(&broker, "before").await.unwrap().deregister().await.unwrap();
        let minted = asked(&gitea).len();
        let _new = gitea.reset_registration_token(&Scope::Instance);
        let joined = hundred(&broker).await;
        all_joined(&gitea, &broker, joined).await;
        assert_eq!(asked(&gitea).len(), minted + 1, "asked once for all");
        // What the settings hold is tried again once they are read again.
        broker.signal(Signal::Reload).await;
        join(&broker, "after").await.unwrap();
    }
}

#[tokio::test]
async fn a_reset_in_the_midst_of_a_hundred_registrations_fails_none() {
    for site in [minting, Site::new] {
        let gitea = gitea();
        let broker = Broker::start(&site(&gitea)).await;
        join(&broker, "before").await.unwrap().deregister().await.unwrap();
        let minted = asked(&gitea).len();
        let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
        let reset = async {
            within(gate.reached_by(16)).await;
            let _new = gitea.reset_registration_token(&Scope::Instance);
            gate.open();
        };
        let (joined, ()) = tokio::join!(hundred(&broker), reset);
        all_joined(&gitea, &broker, joined).await;
        assert_eq!(asked(&gitea).len(), minted + 1, "asked once for all");
        assert_eq!(registers(&gitea).len(), 1 + 100 + 16, "each that was refused asked once more");
    }
}

#[tokio::test]
async fn a_reset_that_meets_the_new_one_too_is_told_and_the_next_joins() {
    let gitea = gitea();
    let broker = Broker::start(&minting(&gitea)).await;
    join(&broker, "before").await.unwrap();
    let _second = gitea.reset_registration_token(&Scope::Instance);
    let gate = gitea.faults().gate(Route::RegistrationToken, When::AfterActing);
    let reset = async {
        within(gate.reached()).await;
        let _third = gitea.reset_registration_token(&Scope::Instance);
        gate.open();
    };
    let (joined, ()) = tokio::join!(join(&broker, "unlucky"), reset);
    assert_eq!(joined.unwrap_err().code, "failed_precondition");
    assert_eq!(registers(&gitea).len(), 1 + 2, "tried once more, and not again");
    assert!(broker.lifecycle.store.intents().await.unwrap().is_empty());
    join(&broker, "unlucky").await.unwrap();
}

#[tokio::test]
async fn one_that_a_restored_gitea_does_not_know_is_minted_anew() {
    let gitea = gitea();
    let lost = Answer {
        status: StatusCode::OK,
        headers: vec![("Content-Type", "application/json".into())],
        body: r#"{"token":"of-before-the-restore"}"#.into(),
    };
    gitea.faults().once(Route::RegistrationToken, When::BeforeActing, Effect::Answer(lost));
    let broker = Broker::start(&minting(&gitea)).await;
    join(&broker, "one").await.unwrap();
    assert_eq!((asked(&gitea).len(), registers(&gitea).len()), (2, 2));
    join(&broker, "two").await.unwrap();
    assert_eq!(asked(&gitea).len(), 2);
}

#[tokio::test]
async fn revived_and_declared_runners_register_with_it_too() {
    let gitea = gitea();
    let site = minting(&gitea).set("listen.public_url", "http://broker:8080");
    site.write_config("[[runners]]\nname = \"builder\"\nlabels = [\"host:host\"]\n");
    let broker = Broker::start(&site).await;
    eventually("it is registered", async || gitea.runners().len() == 1).await;
    let runner = join(&broker, "comes-back").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    take_for_gone(&broker, &runner, runner_broker::broker::Reason::Lease).await;
    let _new = gitea.reset_registration_token(&Scope::Instance);
    work(&gitea, &runner).await;
    all_settled(&gitea, &broker).await;
}

#[tokio::test]
async fn each_version_gives_it_out_in_its_own_way() {
    let repo = Scope::Repo { owner: "acme".into(), name: "app".into() };
    let scopes = [
        (Scope::Instance, "write:admin"),
        (Scope::Org("acme".into()), "write:organization"),
        (Scope::User, "write:user"),
        (repo, "write:repository"),
    ];
    for (version, methods) in [
        ("1.22.6", &["POST", "GET"][..]),
        ("1.23.8", &["POST", "GET"]),
        ("1.24.7", &["POST"]),
        ("1.26.0", &["POST"]),
        ("1.27.1", &["POST"]),
    ] {
        for (scope, needs) in &scopes {
            let options = Options { version: version.into(), ..Options::default() };
            let gitea = StandInGitea::start(options).unwrap();
            let api = gitea.api_token(&[needs]);
            let site = minting(&gitea)
                .set("gitea.scope", &scope.to_string())
                .api_token(Some(api.expose_secret()));
            let broker = Broker::start(&site).await;
            let runner = join(&broker, "one").await.unwrap();
            assert_eq!(gitea.runner(runner.credentials.id).unwrap().scope, *scope, "{version}");
            let _new = gitea.reset_registration_token(scope);
            join(&broker, "two").await.unwrap();
            let asked: Vec<_> =
                asked(&gitea).iter().map(|(method, _)| method.to_string()).collect();
            assert_eq!(asked, [methods, methods].concat(), "{version} {scope}");
        }
    }
    let options = Options { version: "1.21.11".into(), ..Options::default() };
    let gitea = StandInGitea::start(options).unwrap();
    let broker = Broker::start(&minting(&gitea)).await;
    let error = join(&broker, "one").await.unwrap_err();
    assert!(error.message.contains("no registration token for scope instance"), "{error:?}");
    assert_eq!(registers(&gitea).len(), 0);
}

fn gitea_says(status: StatusCode, message: &str) -> Effect {
    Effect::Answer(Answer {
        status,
        headers: vec![("Content-Type", "application/json".into())],
        body: serde_json::json!({ "message": message, "url": "x" }).to_string().into(),
    })
}

#[tokio::test]
async fn where_none_is_given_out_the_runner_and_the_log_are_told_why() {
    let html = |status| Effect::Answer(Answer::html(status));
    let redirect = Effect::Answer(Answer::redirect("https://sign-in.example/?canary"));
    let empty = Effect::Answer(Answer::garbage("application/json"));
    for (fault, code, told) in [
        (
            gitea_says(StatusCode::FORBIDDEN, "token lacks a scope"),
            "failed_precondition",
            "the API token may not do this (Gitea says: token lacks a scope)",
        ),
        (
            gitea_says(StatusCode::UNAUTHORIZED, "no such token"),
            "failed_precondition",
            "set gitea.api_token_file to a valid one with the scope write:admin",
        ),
        (gitea_says(StatusCode::NOT_FOUND, "no such owner"), "unavailable", "no such owner"),
        (gitea_says(StatusCode::INTERNAL_SERVER_ERROR, "oops"), "unavailable", "oops"),
        (html(StatusCode::BAD_GATEWAY), "unavailable", "a web page (502"),
        (html(StatusCode::NOT_FOUND), "unavailable", "a web page (404"),
        (html(StatusCode::OK), "unavailable", "a web page (200"),
        (redirect, "unavailable", "redirects to \"https://sign-in.example/\""),
        (empty, "unavailable", "not what Gitea answers"),
        (Effect::Close, "unavailable", "closed the connection before it answered"),
        (Effect::Reset, "unavailable", "closed the connection before it answered"),
    ] {
        let gitea = gitea();
        let site = minting(&gitea);
        let log = Capture::start();
        let broker = Broker::start(&site).await;
        let api = std::fs::read_to_string(site.path("api_token")).unwrap();
        gitea.faults().always(Route::RegistrationToken, When::BeforeActing, fault);
        let error = join(&broker, "one").await.unwrap_err();
        assert_eq!(error.code, code, "{told}: {}", error.message);
        assert!(error.message.contains(told), "{}", error.message);
        assert!(log.text().contains(&told.replace('"', "\\\"")), "{told}");
        assert_eq!(registers(&gitea).len(), 0, "{told}");
        assert!(broker.lifecycle.store.intents().await.unwrap().is_empty());
        gitea.faults().clear();
        join(&broker, "one").await.unwrap();
        let minted = gitea.registration_token(&Scope::Instance);
        for secret in [api.as_str(), minted.expose_secret()] {
            assert!(!log.text().contains(secret), "{told}");
            assert!(!error.message.contains(secret), "{told}");
        }
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_leaves_nothing_behind() {
    let gitea = gitea();
    let site = Site::new(&gitea).api_token(Some("not-a-token-of-this-gitea"));
    let log = Capture::start();
    let broker = Broker::start(&site).await;
    let _new = gitea.reset_registration_token(&Scope::Instance);
    let error = join(&broker, "one").await.unwrap_err();
    assert_eq!(error.code, "failed_precondition");
    assert!(error.message.contains("gitea.api_token_file"), "{}", error.message);
    assert_eq!(registers(&gitea).len(), 1);
    assert!(broker.lifecycle.store.intents().await.unwrap().is_empty());
    let said = "runner registration token has been invalidated";
    assert!(log.text().contains(said), "{}", log.text());
}

#[tokio::test]
async fn one_that_gitea_gives_out_and_refuses_is_not_tried_again() {
    let gitea = gitea();
    let refused = Answer::connect_error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "unknown",
        "runner registration token has been invalidated, please use the latest one",
    );
    gitea.faults().always(Route::Register, When::BeforeActing, Effect::Answer(refused));
    for site in [minting, Site::new] {
        let broker = Broker::start(&site(&gitea)).await;
        let before = registers(&gitea).len();
        let error = join(&broker, "one").await.unwrap_err();
        assert_eq!(error.code, "failed_precondition");
        assert_eq!(registers(&gitea).len(), before + 1);
        assert!(broker.lifecycle.store.intents().await.unwrap().is_empty());
        broker.stop().await;
    }
}

#[tokio::test]
async fn an_unclear_register_is_never_sent_again() {
    let gitea = gitea();
    let broker = Broker::start(&minting(&gitea)).await;
    // Whatever came before, and whether Gitea acted or not.
    let mut sent = 0;
    for when in [When::BeforeActing, When::AfterActing] {
        for reset in [false, true] {
            join(&broker, "warm").await.unwrap().deregister().await.unwrap();
            sent = registers(&gitea).len();
            if reset {
                // The one that is refused passes, the second is cut off.
                let _new = gitea.reset_registration_token(&Scope::Instance);
                let gate = gitea.faults().gate(Route::RegistrationToken, When::BeforeActing);
                let cut = async {
                    within(gate.reached()).await;
                    gitea.faults().once(Route::Register, when, Effect::Close);
                    gate.open();
                };
                let (joined, ()) = tokio::join!(join(&broker, "cut"), cut);
                assert_eq!(joined.unwrap_err().code, "unavailable");
            } else {
                gitea.faults().once(Route::Register, when, Effect::Close);
                assert_eq!(join(&broker, "cut").await.unwrap_err().code, "unavailable");
            }
            assert_eq!(registers(&gitea).len(), sent + 1 + usize::from(reset), "{when:?} {reset}");
            all_settled(&gitea, &broker).await;
            assert_eq!(gitea.runners().len(), 0);
        }
    }
    assert!(sent > 0);
    // Nor is one that was refused for another reason.
    let refused = Answer::connect_error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "unknown",
        "missing runner token, name",
    );
    let before = registers(&gitea).len();
    gitea.faults().once(Route::Register, When::BeforeActing, Effect::Answer(refused));
    join(&broker, "one").await.unwrap_err();
    assert_eq!(registers(&gitea).len(), before + 1);
}

#[tokio::test]
async fn a_minted_token_is_no_enrollment_token() {
    let gitea = gitea();
    let broker = Broker::start(&minting(&gitea)).await;
    join(&broker, "one").await.unwrap();
    for round in 0..2 {
        let minted = gitea.registration_token(&Scope::Instance);
        let options = RegisterOptions::new(minted, "by-mistake");
        let error = StandInRunner::new(&broker.url).register(&options).await.unwrap_err();
        assert_eq!(error.code, "permission_denied", "{round}");
        assert!(error.message.contains("Gitea's own registration token"), "{}", error.message);
        let _new = gitea.reset_registration_token(&Scope::Instance);
        join(&broker, &format!("another-{round}")).await.unwrap();
    }
}

#[tokio::test]
async fn each_scope_has_its_own() {
    let gitea = gitea();
    let site = minting(&gitea).api_token(None);
    let api = gitea.api_token(&["all"]);
    let tables = ["org:acme", "org:beta"].map(|scope| {
        format!("[[gitea.scopes]]\nscope = \"{scope}\"\napi_token = \"{}\"\n", api.expose_secret())
    });
    site.write_config(&tables.concat());
    let broker = Broker::start(&site).await;
    let mut tokens = Vec::new();
    for scope in ["acme", "beta"].map(|name| Scope::Org(name.into())) {
        let token = crate::tokens::token(&broker, |draft| draft.policy.scope = scope.clone()).await;
        tokens.push((scope, token));
    }
    for round in 0..2 {
        for (scope, token) in &tokens {
            let runner =
                crate::tokens::register(&broker, token, &format!("r{round}")).await.unwrap();
            assert_eq!(gitea.runner(runner.credentials.id).unwrap().scope, *scope);
        }
        // A reset in one scope is none in the other.
        let _new = gitea.reset_registration_token(&tokens[0].0);
    }
    let of = |org: &str| asked(&gitea).iter().filter(|(_, path)| path.contains(org)).count();
    assert_eq!((of("orgs/acme"), of("orgs/beta")), (2, 1));
}
