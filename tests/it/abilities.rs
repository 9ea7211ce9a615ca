//! What Gitea can do is found out while it runs, and the broker does with it what it can.

use std::time::Duration;

use hyper::{Method, StatusCode};
use runner_broker::broker::{Reason, RecordState};
use runner_broker::config::Scope;
use runner_broker::connect::messages::DeregisterRequest;
use runner_broker::connect::{Codec, decode};
use runner_broker::gitea::Minting;
use runner_broker::lifecycle::{DRAIN_TIMEOUT, DeregisterError, Timing};
use runner_broker::sandbox::gitea::{Answer, Effect, Options, Route, StandInGitea, When};
use runner_broker::sandbox::runner::Runner;
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};

use crate::admin::ask;
use crate::commands::inside;
use crate::deregister::join;
use crate::revival::live_of;
use crate::support::{Broker, Site, eventually, gitea, quick};
use crate::tokens::admin;

/// Everything is tried again at once.
fn restless() -> Timing {
    Timing { probe: Duration::from_millis(20), ..quick() }
}

/// A stand-in of this version. What an old Gitea lists besides runners, the stand-in does not know.
fn gitea_of(version: &str) -> StandInGitea {
    let options = Options { version: version.into(), ..Options::default() };
    let gitea = StandInGitea::start(options).unwrap();
    let empty = Answer { status: StatusCode::OK, headers: vec![], body: "[]".into() };
    for path in ["/api/v1/admin/cron", "/api/v1/user/actions/variables"] {
        let answer = Effect::Answer(empty.clone());
        gitea.faults().always(Route::Path(path.into()), When::BeforeActing, answer);
    }
    gitea
}

async fn known(broker: &Broker) {
    eventually("its abilities are known", async || {
        broker.lifecycle.gitea.abilities().version.is_some()
    })
    .await;
}

async fn tried(broker: &Broker, valid: Option<bool>) {
    eventually("the API token was tried", async || {
        broker.lifecycle.api_token_valid(&Scope::Instance) == valid
    })
    .await;
}

async fn status(site: &Site) -> Value {
    let stream = UnixStream::connect(site.path("admin.sock")).await.unwrap();
    ask(stream, "GET", "/api/v1/status", &[], "").await.json()
}

async fn page(broker: &Broker, path: &str) -> String {
    let stream = TcpStream::connect(broker.admin).await.unwrap();
    ask(stream, "GET", path, &[], "").await.body
}

/// What was asked of Gitea that could change something there, besides what runners do.
fn changes(gitea: &StandInGitea) -> Vec<String> {
    let entries = gitea.journal().entries().into_iter();
    let rest = entries.filter(|entry| entry.target.starts_with("/api/v1/"));
    let changing = rest.filter(|entry| ![Method::GET, Method::PUT].contains(&entry.method));
    changing.map(|entry| format!("{} {}", entry.method, entry.target)).collect()
}

async fn leaves(runner: &Runner) {
    runner.deregister().await.unwrap();
}

#[tokio::test]
async fn with_an_old_gitea_a_runner_is_parked_as_without_an_api_token() {
    for version in ["1.22.6", "1.23.8"] {
        let gitea = gitea_of(version);
        let site = Site::new(&gitea);
        let broker = Broker::start(&site).await;
        tried(&broker, Some(true)).await;
        let runner = join(&broker.url, "one").await;
        let live = live_of(&broker, &runner).unwrap();

        let drained = broker.lifecycle.drain(&live, DRAIN_TIMEOUT, &admin()).await;
        match drained {
            Err(DeregisterError::NoAbility(named)) => assert_eq!(named, format!("Gitea {version}")),
            other => panic!("{other:?}"),
        }
        assert_eq!(live.state(), RecordState::Active);
        leaves(&runner).await;
        assert_eq!(live.state(), RecordState::Parked(Reason::Runner));
        assert_eq!(gitea.runners().len(), 1);
        assert_eq!(changes(&gitea), Vec::<String>::new());

        let status = status(&site).await;
        assert_eq!(status["gitea"]["version"], version);
        assert_eq!(
            status["gitea"]["abilities"],
            json!({"list": false, "delete": false, "mint": "get", "switch_off": false,
                   "deregister": false})
        );
        let hints = status["hints"].to_string();
        assert!(
            hints.contains(&format!("Gitea {version} cannot list and delete runners")),
            "{hints}"
        );
        let told = page(&broker, "/readyz?verbose").await;
        assert!(told.contains(&format!("[+] gitea's version: {version}\n")), "{told}");
        assert!(told.contains("list runners: no, delete: no"), "{told}");
        assert!(told.ends_with("\nready\n"), "{told}");
    }
}

#[tokio::test]
async fn each_version_is_known_and_asked_without_a_change() {
    for (version, mint, manage, switch_off) in [
        ("1.21.11", Minting::No, false, false),
        ("1.22.6", Minting::Get, false, false),
        ("1.23.8", Minting::Get, false, false),
        ("1.24.7", Minting::Post, true, false),
        ("1.25.3", Minting::Post, true, false),
        ("1.26.0+dev-45-g193a24c30e", Minting::Post, true, false),
        ("1.26.0", Minting::Post, true, true),
        ("1.27.1", Minting::Post, true, true),
    ] {
        let gitea = gitea_of(version);
        let broker = Broker::start(&Site::new(&gitea)).await;
        known(&broker).await;
        let found = broker.lifecycle.gitea.abilities();
        assert_eq!(found.version.as_deref(), Some(version));
        assert_eq!((found.list, found.delete), (Some(manage), Some(manage)), "{version}");
        assert_eq!((found.mint, found.switch_off), (Some(mint), Some(switch_off)), "{version}");
        assert_eq!(found.deregister, Some(false), "{version}");
        assert_eq!(broker.lifecycle.gitea.can_delete(&Scope::Instance), manage, "{version}");
        let nobody = "DELETE /api/v1/admin/actions/runners/9223372036854775807";
        assert!(changes(&gitea).iter().all(|change| change == nobody), "{:?}", changes(&gitea));
        assert!(gitea.runners().is_empty());
    }
}

#[tokio::test]
async fn an_update_of_gitea_is_noticed() {
    let gitea = gitea();
    // Until these are gone, it is as 1.23 is.
    let body = r#"{"version":"1.23.8"}"#.into();
    let version = Answer { status: StatusCode::OK, headers: vec![], body };
    let none = Answer {
        status: StatusCode::NOT_FOUND,
        headers: vec![("Content-Type", "text/plain; charset=utf-8".into())],
        body: "404 page not found\n".into(),
    };
    for (path, answer) in [("/api/v1/version", version), ("/api/v1/admin/actions/", none)] {
        let effect = Effect::Answer(answer);
        gitea.faults().always(Route::Path(path.into()), When::BeforeActing, effect);
    }
    let broker = Broker::start_with(&Site::new(&gitea), restless()).await;
    known(&broker).await;
    assert!(!broker.lifecycle.gitea.can_delete(&Scope::Instance));

    gitea.faults().clear();
    eventually("it can delete", async || broker.lifecycle.gitea.can_delete(&Scope::Instance)).await;
    tried(&broker, Some(true)).await;
    let runner = join(&broker.url, "one").await;
    leaves(&runner).await;
    assert!(gitea.runners().is_empty());
}

#[tokio::test]
async fn a_token_that_may_only_read_is_told_before_it_is_needed() {
    let gitea = gitea();
    let reads = gitea.api_token(&["read:admin"]);
    let site = Site::new(&gitea).api_token(Some(reads.expose_secret()));
    let broker = Broker::start(&site).await;
    tried(&broker, Some(false)).await;
    let metrics = page(&broker, "/metrics").await;
    let series = r#"runner_broker_api_token_valid{scope="instance"} 0"#;
    assert!(metrics.contains(series), "{metrics}");
    let told = page(&broker, "/readyz?verbose").await;
    assert!(told.contains("[-] API token: that of instance is refused by Gitea"), "{told}");
    assert!(told.ends_with("\nready\n"), "{told}");
    let hints = status(&site).await["hints"].to_string();
    assert!(hints.contains("Gitea refuses the API token"), "{hints}");
    let checked = inside(&site, &["check", "--online"]).await;
    assert_eq!(checked.code, 69, "{}", checked.stdout);
}

#[tokio::test]
async fn a_token_that_is_taken_away_is_noticed_and_one_that_is_given_up_is_forgotten() {
    let gitea = gitea();
    let token = gitea.api_token(&["write:admin"]);
    let site = Site::new(&gitea);
    let site = site.api_token(None);
    let config = |site: &Site, token: &str| {
        site.write_secret("api_token_of_file", token);
        let path = site.path("api_token_of_file");
        site.write_config(&format!("[gitea]\napi_token_file = {path:?}\n"));
    };
    config(&site, token.expose_secret());
    let broker = Broker::start_with(&site, restless()).await;
    tried(&broker, Some(true)).await;

    gitea.remove_api_token(&token);
    tried(&broker, Some(false)).await;
    let metrics = page(&broker, "/metrics").await;
    assert!(metrics.contains(r#"api_token_valid{scope="instance"} 0"#), "{metrics}");

    site.write_config("");
    broker.signal(Signal::Reload).await;
    tried(&broker, None).await;
    let metrics = page(&broker, "/metrics").await;
    assert!(!metrics.contains("api_token_valid{"), "{metrics}");
    let status = status(&site).await;
    assert_eq!(
        status["scopes"],
        json!([{"scope": "instance", "api_token": "none", "registration_token": "set"}])
    );
}

#[tokio::test]
async fn where_gitea_takes_deregister_a_runner_is_not_parked() {
    const DEREGISTER: &str = "/api/actions/runner.v1.RunnerService/Deregister";
    let gitea = gitea();
    let route = || Route::Path(DEREGISTER.into());
    let unknown = Answer::connect_error(StatusCode::UNAUTHORIZED, "unauthenticated", "unknown");
    let headers = vec![("Content-Type", "application/proto".into())];
    let done = Answer { status: StatusCode::OK, headers, body: "".into() };
    gitea.faults().once(route(), When::BeforeActing, Effect::Answer(unknown));
    gitea.faults().always(route(), When::BeforeActing, Effect::Answer(done));
    let broker = Broker::start(&Site::new(&gitea).api_token(None)).await;
    known(&broker).await;
    assert_eq!(broker.lifecycle.gitea.abilities().deregister, Some(true));

    let runner = join(&broker.url, "one").await;
    let live = live_of(&broker, &runner).unwrap();
    leaves(&runner).await;
    assert_eq!(live.state(), RecordState::Ended(Reason::Runner));
    let asked = gitea.journal().entries();
    let asked: Vec<_> = asked.iter().filter(|entry| entry.target == DEREGISTER).collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[0].body.is_empty(), "the probe names nobody");
    let said: DeregisterRequest = decode(Codec::Proto, &asked[1].body).unwrap();
    assert_eq!(said.uuid, runner.credentials.uuid);
}

#[tokio::test]
async fn check_online_tells_abilities_scopes_and_clock() {
    let gitea = gitea_of("1.23.8");
    gitea.skew_clock(-300);
    let site = Site::new(&gitea);
    site.write_config(&format!(
        "[[gitea.scopes]]\nscope = \"org:acme\"\nregistration_token = \"canary-of-acme\"\n\
         [[gitea.scopes]]\nscope = \"user\"\napi_token = {:?}\n",
        gitea.api_token(&["write:user"]).expose_secret()
    ));
    let shown = inside(&site, &["check", "--online", "--json"]).await;
    assert!(!shown.stdout.contains("canary"), "{}", shown.stdout);
    let told: Value = serde_json::from_str(&shown.stdout).unwrap();
    let found = |what: &str, scope: Option<&str>| {
        let all = told["online"].as_array().unwrap();
        let like = |one: &&Value| one["what"] == what && one["scope"].as_str() == scope;
        all.iter().find(like).unwrap_or_else(|| panic!("{what} of {scope:?} in {told:#}"))
    };
    let outcome = |what, scope| found(what, scope)["outcome"].as_str().unwrap();
    assert_eq!(outcome("version", None), "ok");
    assert_eq!(outcome("abilities", None), "note");
    assert_eq!(outcome("clock", None), "note");
    let clock = found("clock", None)["detail"].as_str().unwrap();
    assert!(clock.contains("behind this one"), "{clock}");
    assert_eq!(outcome("API token", Some("instance")), "ok");
    assert_eq!(outcome("API token", Some("org:acme")), "not_checked");
    assert_eq!(outcome("registration token", Some("instance")), "not_checked");
    assert_eq!(outcome("registration token", Some("org:acme")), "not_checked");
    assert_eq!(outcome("API token", Some("user")), "ok");
    assert_eq!(outcome("registration token", Some("user")), "ok");
    assert_eq!(changes(&gitea), Vec::<String>::new());
    let asked = gitea.journal().entries();
    assert!(!asked.iter().any(|entry| {
        entry.target.contains("registration-token") && entry.method != Method::PUT
    }));
}
