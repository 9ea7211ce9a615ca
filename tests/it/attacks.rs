//! What hostile runners, odd proxies and bad luck may try: each of these once did harm.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use runner_broker::broker::{Key, Reason, RecordState};
use runner_broker::connect::messages::{RegisterRequest, RegisterResponse, Runner as Row};
use runner_broker::connect::{Codec, encode};
use runner_broker::lifecycle::{By, Force, Registration, Timing};
use runner_broker::sandbox::gitea::{
    Answer, Effect, Options, Route, RunnerSeed, StandInGitea, When,
};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use secrecy::ExposeSecret;

use crate::capture::Capture;
use crate::deregister::join;
use crate::raw::Wire;
use crate::raw::request;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, quick, within};

fn gitea() -> StandInGitea {
    StandInGitea::start(Options::default()).unwrap()
}

/// The head of a runner's call, with further headers.
fn head(runner: &Runner, call: &str, more: &str) -> String {
    format!(
        "POST /api/actions/runner.v1.RunnerService/{call} HTTP/1.1\r\nHost: broker\r\n\
         Content-Type: application/proto\r\nX-Runner-Uuid: {}\r\nX-Runner-Token: {}\r\n{more}\r\n",
        runner.credentials.uuid,
        runner.credentials.token.expose_secret(),
    )
}

/// As the broker takes it after it has read it.
fn registration(broker: &Broker, name: &str) -> Registration {
    let asked = request(name);
    let token = broker.lifecycle.admit(&asked, Ipv4Addr::LOCALHOST.into()).unwrap();
    let body = Bytes::from(encode(Codec::Proto, &asked));
    let RegisterRequest { name, labels, ephemeral, version, .. } = asked;
    let (peer, codec) = (Ipv4Addr::LOCALHOST.into(), Codec::Proto);
    Registration {
        key: Key { parent_id: token.token_id.clone(), name, labels, ephemeral, peer, codec },
        token,
        version,
        body,
        headers: hyper::HeaderMap::new(),
        dialled: None,
    }
}

#[tokio::test]
async fn a_poll_that_never_ends_does_not_save_its_runner() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = join(&broker.url, "hostile").await;
    let live = broker.lifecycle.roster.all().remove(0);
    // Its body never comes, so Gitea never answers.
    let mut wire = Wire::dial(&broker.url).await;
    wire.say(head(&runner, "FetchTask", "Content-Length: 100\r\n")).await;
    eventually("it polls", async || live.is_polling()).await;
    // That it is not certain at once is right: Gitea may be slow.
    let _ =
        broker.lifecycle.deregister(&live, Reason::Admin, Force::LeaveBusy, &By::broker()).await;
    eventually("it is deregistered", async || gitea.runners().is_empty()).await;
    drop(wire);
}

#[tokio::test]
async fn who_is_told_to_close_its_connections_has_not_left() {
    let gitea = gitea();
    let site =
        Site::new(&gitea).set("shutdown.drain_timeout", "100ms").set("shutdown.deadline", "3s");
    let broker = Broker::start(&site).await;
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "behind-a-proxy");
    let runner = StandInRunner::new(&broker.url).register(&options).await.unwrap();
    let live = broker.lifecycle.roster.all().remove(0);
    // A proxy in front of the broker may take a connection for each call: nginx does so by default.
    for (call, version) in [
        (head(&runner, "FetchTask", "Content-Length: 0\r\nConnection: close\r\n"), "1.1"),
        (head(&runner, "FetchTask", "Content-Length: 0\r\n").replace("/1.1", "/1.0"), "1.0"),
    ] {
        let mut wire = Wire::dial(&broker.url).await;
        wire.say(call).await;
        assert_eq!(wire.head().await.unwrap().status(), 200, "{version}");
        wire.rest().await;
        drop(wire);
        eventually("the connection is closed", async || !live.is_connected()).await;
    }
    broker.stop().await;
    assert_eq!(gitea.runners().len(), 1, "it lives, and was not deregistered");
}

#[tokio::test]
async fn nobody_gets_an_identity_that_is_being_deleted() {
    let gitea = gitea();
    let site = Site::new(&gitea)
        .set("shutdown.deregister", "all")
        .set("shutdown.drain_timeout", "100ms")
        .set("shutdown.deadline", "2s");
    let broker = Broker::start(&site).await;
    let (_, lost) = broker.lifecycle.register(registration(&broker, "one")).await.unwrap();
    drop(lost);
    let old = broker.lifecycle.roster.all().remove(0).presented.uuid.clone();
    let down = Answer::html(StatusCode::BAD_GATEWAY);
    gitea.faults().always(Route::DeleteRunner, When::BeforeActing, Effect::Answer(down));
    broker.stop().await;

    let broker = Broker::start_with(&site, Timing { retry: Duration::from_millis(50), ..quick() });
    let broker = broker.await;
    let state = broker.lifecycle.roster.all()[0].state();
    assert_eq!(state, RecordState::Deregistering(Reason::Shutdown));
    let (_, delivery) =
        within(broker.lifecycle.register(registration(&broker, "one"))).await.unwrap();
    broker.lifecycle.delivered(delivery);
    gitea.faults().clear();
    broker.lifecycle.settle_soon();
    eventually("the old one is gone", async || gitea.runners().iter().all(|r| r.uuid != old)).await;
    let names: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
    assert_eq!(names, ["one"], "the runner that asked again has an identity that lasts");
    broker.stop().await;
}

#[tokio::test]
async fn runners_with_the_longest_labels_do_not_stop_settling() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    for runner in 0..50 {
        let labels = (0..256).map(|label| format!("{runner:02}{label:03}{}", "&".repeat(250)));
        gitea.add_runner(RunnerSeed { labels: labels.collect(), ..RunnerSeed::default() });
    }
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    let lost = broker.lifecycle.register(registration(&broker, "one")).await;
    assert!(lost.is_err());
    eventually("the orphan is deleted", async || broker.lifecycle.unsettled() == 0).await;
    assert!(gitea.runners().iter().all(|runner| runner.name != "one"));
}

#[tokio::test]
async fn an_error_that_quotes_the_request_shows_no_secret() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let secret = gitea.registration_token(&runner_broker::config::Scope::Instance);
    let secret = secret.expose_secret();
    for (status, code) in [(500, "unknown"), (403, "permission_denied")] {
        let status = StatusCode::from_u16(status).unwrap();
        let echo = Answer::connect_error(status, code, &format!("bad request: {secret}"));
        gitea.faults().once(Route::Register, When::BeforeActing, Effect::Answer(echo));
        let refused = broker.lifecycle.register(registration(&broker, "one")).await;
        let Err(error) = refused else { panic!("it was refused") };
        assert!(error.message.contains("bad request: (hidden)"), "{error}");
    }
    let api = std::fs::read_to_string(site.path("api_token")).unwrap();
    let echo = Answer {
        status: StatusCode::FORBIDDEN,
        headers: vec![("Content-Type", "application/json".into())],
        body: Bytes::from(format!("{{\"message\":\"you sent {api}\"}}")),
    };
    gitea.faults().always(Route::DeleteRunner, When::BeforeActing, Effect::Answer(echo));
    let runner = join(&broker.url, "two").await;
    let error = runner.deregister().await.unwrap_err();
    assert!(error.message.contains("you sent (hidden)"), "{error}");
    assert!(log.text().contains("bad request") && !log.text().contains(secret));
    assert!(!log.text().contains(&api));
}

#[tokio::test]
async fn an_answer_that_is_repeated_harms_nobody() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let first = join(&broker.url, "first").await;
    let row = Row {
        id: first.credentials.id,
        uuid: first.credentials.uuid.clone(),
        token: first.credentials.token.expose_secret().into(),
        name: "first".into(),
        ..Row::default()
    };
    let repeated = Answer {
        status: StatusCode::OK,
        headers: vec![("Content-Type", "application/proto".into())],
        body: Bytes::from(encode(Codec::Proto, &RegisterResponse { runner: Some(row) })),
    };
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Answer(repeated));
    assert!(broker.lifecycle.register(registration(&broker, "second")).await.is_err());
    eventually("the orphan is deleted", async || broker.lifecycle.unsettled() == 0).await;
    let names: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
    assert_eq!(names, ["first"]);
    first.fetch_task(0).await.unwrap();
}
