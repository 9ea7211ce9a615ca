//! One broker serves several scopes, each with tokens of its own.

use std::fmt::Write;

use runner_broker::broker::{Reason, RecordState};
use runner_broker::config::Scope;
use runner_broker::lifecycle::Issued;
use runner_broker::sandbox::gitea::{Effect, Route, RunnerSeed, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::admin::Stack;
use crate::commands::inside;
use crate::declared_runners::live as declared;
use crate::revival::{all_settled, live_of, take_for_gone, work};
use crate::support::{Broker, Site, eventually, gitea};
use crate::tokens::{refused, register, token};

fn org(name: &str) -> Scope {
    Scope::Org(name.into())
}

fn repo() -> Scope {
    Scope::Repo { owner: "acme".into(), name: "app".into() }
}

/// A table for each, with a registration token, with an API token of this kind, or with both.
fn tables(gitea: &StandInGitea, scopes: &[(Scope, bool, &str)]) -> String {
    let mut toml = String::new();
    for (scope, with_registration, api) in scopes {
        writeln!(toml, "[[gitea.scopes]]\nscope = \"{scope}\"").unwrap();
        if *with_registration {
            let token = gitea.registration_token(scope);
            writeln!(toml, "registration_token = \"{}\"", token.expose_secret()).unwrap();
        }
        if !api.is_empty() {
            let token = gitea.api_token(&[api]);
            writeln!(toml, "api_token = \"{}\"", token.expose_secret()).unwrap();
        }
    }
    toml
}

/// The instance, two organizations, of which the second has no API token, a user and a repository.
async fn stack() -> Stack {
    let gitea = gitea();
    let site = Site::new(&gitea);
    site.write_config(&tables(
        &gitea,
        &[
            (org("acme"), true, "write:organization"),
            (org("beta"), true, ""),
            (Scope::User, false, "write:user"),
            (repo(), false, "write:repository"),
        ],
    ));
    let broker = Broker::start(&site).await;
    eventually("Gitea was asked", async || broker.lifecycle.gitea.is_up()).await;
    Stack { gitea, site, broker }
}

async fn token_of(broker: &Broker, scope: &Scope) -> Issued {
    token(broker, |draft| draft.policy.scope = scope.clone()).await
}

async fn join(broker: &Broker, token: &Issued, name: &str) -> Runner {
    let runner = register(broker, token, name).await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    runner
}

fn scope_in(gitea: &StandInGitea, runner: &Runner) -> Scope {
    gitea.runner(runner.credentials.id).expect("it is there").scope
}

async fn reloaded(broker: &Broker, scope: &Scope, served: bool) {
    broker.signal(Signal::Reload).await;
    eventually("the settings are read again", async || {
        broker.lifecycle.settings.load().gitea.serves(scope) == served
    })
    .await;
}

#[tokio::test]
async fn each_token_leads_to_its_own_scope_and_to_no_other() {
    let stack = stack().await;
    let scopes = [Scope::Instance, org("acme"), org("beta"), Scope::User, repo()];
    let mut runners = Vec::new();
    for scope in &scopes {
        let token = token_of(&stack.broker, scope).await;
        let runner = join(&stack.broker, &token, &format!("of-{scope}")).await;
        assert_eq!(scope_in(&stack.gitea, &runner), *scope);
        assert_eq!(live_of(&stack.broker, &runner).unwrap().scope(), *scope);
        runners.push((token, runner));
    }
    eventually("each API token was tried", async || {
        let tried = |scope: &&Scope| stack.broker.lifecycle.api_token_valid(scope) == Some(true);
        scopes.iter().filter(tried).count() == 4
    })
    .await;
    let metrics = stack.tcp("GET", "/metrics").await.body;
    for scope in &scopes {
        for line in [
            format!("runner_broker_runners{{scope=\"{scope}\",state=\"idle\"}} 1"),
            format!(
                "runner_broker_registrations_total{{outcome=\"registered\",scope=\"{scope}\"}} 1"
            ),
        ] {
            assert!(metrics.contains(&line), "{line} in {metrics}");
        }
        let valid = format!("runner_broker_api_token_valid{{scope=\"{scope}\"}} 1");
        assert_eq!(metrics.contains(&valid), *scope != org("beta"), "{scope}");
        // The list tells, and is cut to one scope.
        let list = stack.socket("GET", &format!("/api/v1/runners?scope={scope}")).await.ok(200);
        let [runner] = list.as_array().unwrap().as_slice() else { panic!("{list}") };
        assert_eq!(runner["scope"], scope.to_string());
    }
    stack.socket("GET", "/api/v1/runners?scope=acme").await.problem(400, "request");

    // A drain switches off where the runner is, and a deregistration deletes there.
    let of = |scope: &Scope| &runners[scopes.iter().position(|one| one == scope).unwrap()];
    let gone = async |id| {
        eventually("it is gone", async || stack.gitea.runner(id).is_none()).await;
    };
    let user = &of(&Scope::User).1;
    let drain = format!("/api/v1/runners/{}/drain", user.credentials.id);
    assert!(stack.socket("POST", &drain).await.status < 300);
    user.fetch_task(0).await.unwrap();
    let _ = user.fetch_task(0).await;
    gone(user.credentials.id).await;
    let in_repo = of(&repo()).1.credentials.id;
    let path = format!("/api/v1/runners/{in_repo}");
    stack.socket("DELETE", &path).await.ok(200);
    gone(in_repo).await;
    let targets = stack.gitea.journal().entries();
    let asked = |method: &str, path: String| {
        assert!(
            targets.iter().any(|one| one.method.as_str() == method && one.target == path),
            "{method} {path}"
        );
    };
    asked("PATCH", format!("/api/v1/user/actions/runners/{}", user.credentials.id));
    asked("DELETE", format!("/api/v1/repos/acme/app/actions/runners/{in_repo}"));

    // Where there is no API token, it is parked, and handed on to the next of its token alone.
    let (token, first) = of(&org("beta"));
    first.deregister().await.unwrap();
    let parked = live_of(&stack.broker, first).unwrap();
    assert_eq!(parked.state(), RecordState::Parked(Reason::Runner));
    let elsewhere = join(&stack.broker, &of(&org("acme")).0, "elsewhere").await;
    assert_eq!(scope_in(&stack.gitea, &elsewhere), org("acme"));
    let next = join(&stack.broker, token, "next").await;
    assert_eq!(next.credentials.id, first.credentials.id);

    // One that was taken for gone is registered anew where it was.
    let acme = &of(&org("acme")).1;
    take_for_gone(&stack.broker, acme, Reason::Lease).await;
    assert!(stack.gitea.runner(acme.credentials.id).is_none());
    let row = work(&stack.gitea, acme).await;
    assert_eq!(stack.gitea.runner(row).unwrap().scope, org("acme"));
    all_settled(&stack.gitea, &stack.broker).await;
}

#[tokio::test]
async fn a_scope_goes_and_comes_back_by_sighup() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let acme = org("acme");
    let with = tables(&gitea, &[(acme.clone(), true, "write:organization")]);
    site.write_config("");
    let broker = Broker::start(&site).await;
    site.write_config(&with);
    reloaded(&broker, &acme, true).await;
    let token = token_of(&broker, &acme).await;
    let runner = join(&broker, &token, "stays").await;

    site.write_config("");
    reloaded(&broker, &acme, false).await;
    refused(register(&broker, &token, "late").await, "permission_denied", "org:acme");
    assert_eq!(gitea.runners().len(), 1, "and it leads nowhere else");
    // Its runners go on, and stay.
    work(&gitea, &runner).await;
    assert_eq!(live_of(&broker, &runner).unwrap().scope(), acme);

    site.write_config(&with);
    reloaded(&broker, &acme, true).await;
    let back = join(&broker, &token, "late").await;
    assert_eq!(scope_in(&gitea, &back), acme);
    broker.stop().await;
}

#[tokio::test]
async fn the_default_scope_may_change_and_its_token_follows() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("gitea.registration_token_file", "").api_token(None);
    let scopes = [(Scope::Instance, true, "write:admin"), (org("acme"), true, "")];
    site.write_config(&tables(&gitea, &scopes));
    let broker = Broker::start(&site).await;
    let first = crate::register::join(&broker, "first").await.unwrap();
    assert_eq!(scope_in(&gitea, &first), Scope::Instance);
    site.write_config(&format!("[gitea]\nscope = \"org:acme\"\n{}", tables(&gitea, &scopes)));
    broker.signal(Signal::Reload).await;
    eventually("it is the default", async || {
        broker.lifecycle.settings.load().gitea.default.scope == org("acme")
    })
    .await;
    eventually("the token of the settings leads there", async || {
        let token = broker.lifecycle.token("settings").unwrap();
        token.token.policy.scope == org("acme")
    })
    .await;
    let second = crate::register::join(&broker, "second").await.unwrap();
    assert_eq!(scope_in(&gitea, &second), org("acme"));
}

#[tokio::test]
async fn commands_name_scopes_and_tell_which_are_served() {
    let stack = stack().await;
    let made = inside(&stack.site, &["token", "create", "--scope", "org:acme"]).await;
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stderr.contains("scope org:acme"), "{}", made.stderr);
    let options = RegisterOptions::new(made.stdout.trim().into(), "by-command");
    let runner = StandInRunner::new(&stack.broker.url).register(&options).await.unwrap();
    assert_eq!(scope_in(&stack.gitea, &runner), org("acme"));

    let other = inside(&stack.site, &["token", "create", "--scope", "org:other"]).await;
    assert_eq!(other.code, 64, "{}", other.stderr);
    let told = "the broker does not serve org:other: give one that it does (instance, org:acme, \
                org:beta, user, repo:acme/app), or leave it out for the first";
    assert!(other.stderr.contains(told), "{}", other.stderr);

    let tokens = inside(&stack.site, &["token", "list"]).await;
    assert!(tokens.stdout.contains("org:acme"), "{}", tokens.stdout);
    let listed = async |scope: &str| {
        let list = inside(&stack.site, &["runner", "list", "--json", "--scope", scope]).await;
        assert_eq!(list.code, 0, "{}", list.stderr);
        serde_json::from_str::<Value>(&list.stdout).unwrap().as_array().unwrap().len()
    };
    assert_eq!((listed("org:acme").await, listed("org:beta").await), (1, 0));
    let none = inside(&stack.site, &["runner", "list", "--scope", "user"]).await;
    assert!(none.stdout.contains("no registered runner serves this scope"), "{}", none.stdout);
    let wrong = inside(&stack.site, &["runner", "list", "--scope", "acme"]).await;
    assert!(wrong.code != 0 && wrong.stderr.contains("scope: a scope is"), "{}", wrong.stderr);
}

fn declaring(gitea: &StandInGitea, scope: &str) -> String {
    format!(
        "{}[[runners]]\nname = \"builder\"\nlabels = [\"host:host\"]\nscope = \"{scope}\"\n",
        tables(gitea, &[(org("acme"), false, "write:organization"), (org("beta"), true, "")])
    )
}

#[tokio::test]
async fn a_declared_runner_whose_scope_changed_is_another() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("listen.public_url", "http://broker:8080");
    site.write_config(&declaring(&gitea, "instance"));
    let broker = Broker::start(&site).await;
    let mut before = None;
    let mut old: Option<Runner> = None;
    for (scope, name) in
        [(Scope::Instance, "instance"), (org("acme"), "org:acme"), (org("beta"), "org:beta")]
    {
        site.write_config(&declaring(&gitea, name));
        broker.signal(Signal::Reload).await;
        eventually("it is in line there", async || {
            let live = declared(&broker, "builder");
            live.is_some_and(|live| live.scope() == scope)
                && broker.lifecycle.declared_troubles().is_empty()
                && gitea.runners().len() == 1
        })
        .await;
        let live = declared(&broker, "builder").unwrap();
        assert_ne!(before.replace(live.record_id), Some(live.record_id));
        assert_eq!(gitea.runner(live.id()).unwrap().scope, scope);
        let from_file = || {
            let file = std::fs::read_to_string(site.runner_file("builder")).ok()?;
            Some(Runner::from_runner_file(&file).unwrap())
        };
        eventually("the file is its own", async || {
            from_file().is_some_and(|runner| runner.credentials.id == live.id())
        })
        .await;
        let runner = from_file().unwrap().moved_to(&broker.url);
        runner.fetch_task(0).await.unwrap();
        if let Some(old) = old.replace(runner) {
            let error = old.fetch_task(0).await.unwrap_err();
            assert_eq!(error.code, "unauthenticated", "the one before is no more");
        }
    }
    // It comes back from a scope without an API token: the one there is parked.
    site.write_config(&declaring(&gitea, "org:acme"));
    broker.signal(Signal::Reload).await;
    eventually("it is in line there", async || {
        declared(&broker, "builder").is_some_and(|live| live.scope() == org("acme"))
    })
    .await;
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    let broker = Broker::start(&site).await;
    eventually("it is in line after a restart", async || {
        broker.lifecycle.declared_troubles().is_empty()
            && declared(&broker, "builder").is_some_and(|live| live.scope() == org("acme"))
    })
    .await;
    let there = gitea.runners().into_iter().filter(|runner| runner.scope == org("acme"));
    assert_eq!(there.count(), 1);
}

/// A runner that registered straight at Gitea.
async fn elsewhere(gitea: &StandInGitea, scope: &Scope, name: &str) -> Runner {
    let options = RegisterOptions::new(gitea.registration_token(scope), name);
    StandInRunner::new(&gitea.url()).register(&options).await.unwrap()
}

async fn found(broker: &Broker, runner: &Runner, scope: &Scope) {
    eventually("it is found where it is", async || {
        live_of(broker, runner).is_some_and(|live| live.scope() == *scope)
    })
    .await;
}

#[tokio::test]
async fn adopted_runners_are_found_in_their_scope() {
    let Stack { gitea, site, broker } = stack().await;
    let scopes = [org("acme"), Scope::User, repo(), Scope::Instance];
    let mut runners = Vec::new();
    for (n, scope) in scopes.iter().enumerate() {
        let runner = elsewhere(&gitea, scope, &format!("old-{n}")).await.moved_to(&broker.url);
        // Half of them declare themselves only later.
        if n % 2 == 0 {
            runner.fetch_task(0).await.unwrap();
            eventually("it is adopted", async || live_of(&broker, &runner).is_some()).await;
            let live = live_of(&broker, &runner).unwrap();
            assert_eq!((live.id(), live.scope()), (0, Scope::Instance));
        }
        runner.declare(&["host"]).await.unwrap();
        found(&broker, &runner, scope).await;
        runners.push(runner);
    }
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    let broker = Broker::start(&site).await;
    for (runner, scope) in runners.iter().zip(&scopes) {
        assert_eq!(live_of(&broker, runner).unwrap().scope(), *scope, "the store has it");
    }
    // It is deleted where it is, and comes back there.
    let runner = runners[0].moved_to(&broker.url);
    runner.fetch_task(0).await.unwrap();
    take_for_gone(&broker, &runner, Reason::Lease).await;
    let row = work(&gitea, &runner).await;
    assert_eq!(gitea.runner(row).unwrap().scope, org("acme"));
    assert_eq!(live_of(&broker, &runner).unwrap().scope(), org("acme"));
}

#[tokio::test]
async fn one_that_an_admin_adopts_is_found_before_the_answer() {
    let stack = stack().await;
    let runner = elsewhere(&stack.gitea, &repo(), "by-file").await;
    let file = serde_json::json!({
        "id": runner.credentials.id,
        "uuid": runner.credentials.uuid,
        "token": runner.credentials.token.expose_secret(),
        "name": "by-file",
        "labels": ["host:host"],
    });
    let json = "Content-Type: application/json";
    let answer =
        stack.local("POST", "/api/v1/runners/adopt", &[json], &file.to_string()).await.ok(201);
    assert_eq!(answer["scope"], "repo:acme/app");
}

#[tokio::test]
async fn where_a_scope_does_not_answer_nothing_wider_is_believed() {
    let Stack { gitea, broker, .. } = stack().await;
    let runner = elsewhere(&gitea, &org("acme"), "asked-again").await.moved_to(&broker.url);
    let path = Route::Path("/api/v1/orgs/acme/actions/runners/".into());
    let fault = gitea.faults().always(path, When::BeforeActing, Effect::Close);
    runner.declare(&["host"]).await.unwrap();
    let at = |place: &str| {
        let target = format!("/api/v1/{place}actions/runners/{}", runner.credentials.id);
        gitea.journal().count(|entry| entry.target == target)
    };
    eventually("the instance was asked", async || at("admin/") == 1).await;
    gitea.faults().remove(fault);
    // The instance is the default, so that only the next answer could tell.
    assert_eq!(live_of(&broker, &runner).unwrap().scope(), Scope::Instance);
    runner.declare(&["host"]).await.unwrap();
    found(&broker, &runner, &org("acme")).await;
    assert_eq!(at("admin/"), 1, "where it is found, nobody else is asked");

    // One of a scope that is not served is the instance's as far as anyone can tell.
    let foreign = gitea.add_runner(RunnerSeed { scope: org("foreign"), ..Default::default() });
    let mut stranger = runner.moved_to(&broker.url);
    stranger.credentials.id = foreign.id;
    stranger.credentials.uuid = foreign.uuid;
    stranger.credentials.token = foreign.token;
    stranger.declare(&["host"]).await.unwrap();
    found(&broker, &stranger, &Scope::Instance).await;
}
