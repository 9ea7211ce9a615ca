//! Answers that are lost: between Gitea and the broker, and between the broker and the runner.

use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use runner_broker::broker::{Key, Reason, RecordId};
use runner_broker::connect::messages::{RegisterRequest, RegisterResponse, Runner};
use runner_broker::connect::{Codec, decode};
use runner_broker::lifecycle::{Registration, Timing};
use runner_broker::sandbox::gitea::{Answer, Effect, Gate, Route, RunnerSeed, When};
use runner_broker::shutdown::Signal;
use runner_broker::store::Touch;

use crate::capture::Capture;
use crate::raw::{Wire, request};
use crate::register::{intent_label, join, registers};
use crate::support::{Broker, Site, eventually, gitea, is_probe, quick, within};

/// Register may take 300 ms.
fn impatient() -> Timing {
    Timing { register: Duration::from_millis(300), ..quick() }
}

async fn settled(broker: &Broker) {
    eventually("all is settled", async || {
        broker.lifecycle.unsettled() == 0
            && broker.lifecycle.store.intents().await.unwrap().is_empty()
    })
    .await;
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(metrics.contains("\nrunner_broker_unsettled_registrations 0\n"));
}

#[tokio::test]
async fn an_unclear_registration_is_asked_once_and_its_orphan_is_deleted() {
    use Effect::{Answer as Says, Close, Reset, Stall};
    let status = |code: u16| hyper::StatusCode::from_u16(code).unwrap();
    let error = Answer::connect_error(status(500), "unknown", "can't create new runner");
    let cases = [
        (When::BeforeActing, Reset),
        (When::AfterActing, Reset),
        (When::AfterActing, Close),
        (When::BeforeActing, Stall),
        (When::AfterActing, Stall),
        (When::AfterActing, Says(error)),
        (When::BeforeActing, Says(Answer::html(status(503)))),
        (When::AfterActing, Says(Answer::html(status(502)))),
        (When::AfterActing, Says(Answer::garbage("application/proto"))),
        (When::AfterActing, Says(Answer::html(status(200)))),
    ];
    for (when, effect) in cases {
        let case = format!("{when:?} {effect:?}");
        let gitea = gitea();
        let site = Site::new(&gitea);
        let broker = Broker::start_with(&site, impatient()).await;
        // A stranger is not taken for the orphan.
        gitea.add_runner(RunnerSeed {
            labels: vec!["rb-intent-other".into()],
            ..RunnerSeed::default()
        });
        gitea.faults().once(Route::Register, when, effect);

        let error = join(&broker, "one").await.unwrap_err();
        assert_eq!(error.code, "unavailable", "{case}: {error}");
        assert_eq!(error.status.unwrap().as_u16(), 503, "{case}");
        settled(&broker).await;
        assert_eq!(registers(&gitea).len(), 1, "{case}: never sent twice");
        let names: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
        assert_eq!(names, ["runner"], "{case}");
        assert!(broker.lifecycle.roster.all().is_empty(), "{case}");
        assert!(!site.runner_file("one").exists(), "{case}");
        let metrics = broker.lifecycle.metrics.render().unwrap();
        assert!(
            metrics.contains("outcome=\"unclear\",scope=\"instance\"} 1\n"),
            "{case}\n{metrics}"
        );
        join(&broker, "one").await.unwrap();
    }
}

#[tokio::test]
async fn what_gitea_does_late_is_found_as_well() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let timing = Timing { absence_proves: Duration::from_secs(3600), ..impatient() };
    let broker = Broker::start_with(&site, timing).await;
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    assert_eq!(join(&broker, "one").await.unwrap_err().code, "unavailable");
    let list = |entry: &runner_broker::sandbox::gitea::Entry| entry.target.contains("limit=50");
    within(gitea.journal().wait_for(list)).await;
    assert_eq!(broker.lifecycle.unsettled(), 1, "one absence proves nothing");
    gate.open();
    within(gitea.wait_until(|gitea| !gitea.runners().is_empty())).await;
    eventually("it is deleted", async || gitea.runners().is_empty()).await;
    assert_eq!(broker.lifecycle.unsettled(), 1, "it may be repeated still");
}

#[tokio::test]
async fn an_orphan_is_found_on_a_later_page() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    // Gitea lists those that called last first, so the orphan comes last.
    for _ in 0..120 {
        let called_ago = Some(Duration::from_secs(9));
        gitea.add_runner(RunnerSeed { called_ago, ..RunnerSeed::default() });
    }
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    join(&broker, "one").await.unwrap_err();
    settled(&broker).await;
    assert_eq!(gitea.runners().len(), 120);
    assert!(gitea.runners().iter().all(|runner| runner.name != "one"));
    assert!(gitea.journal().count(|entry| entry.target.contains("page=3&")) > 0);
}

#[tokio::test]
async fn without_an_api_token_the_log_names_each_label_to_look_for() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea).api_token(None);
    let broker = Broker::start(&site).await;
    gitea.faults().times(2, Route::Register, When::AfterActing, Effect::Reset);
    join(&broker, "one").await.unwrap_err();
    join(&broker, "two").await.unwrap_err();
    let labels: Vec<_> = registers(&gitea).iter().map(intent_label).collect();
    let named = |label: &str| log.lines().iter().any(|line| line["label"] == label);
    for label in &labels {
        eventually("the label is named", async || named(label)).await;
    }
    assert_eq!(broker.lifecycle.unsettled(), 2);
    broker.signal(Signal::Quit).await;
    broker.ended().await;
    // With a token, the next start settles them.
    let token = gitea.api_token(&["write:admin"]);
    let site = site.api_token(Some(secrecy::ExposeSecret::expose_secret(&token)));
    let broker = Broker::start(&site).await;
    settled(&broker).await;
    assert!(gitea.runners().is_empty());
}

#[tokio::test]
async fn what_cannot_be_deregistered_is_tried_again_with_growing_waits() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = join(&broker, "one").await.unwrap();
    let status = hyper::StatusCode::BAD_GATEWAY;
    gitea.faults().always(
        Route::DeleteRunner,
        When::BeforeActing,
        Effect::Answer(Answer::html(status)),
    );
    runner.deregister().await.unwrap_err();
    let begun = std::time::Instant::now();
    let tried = || gitea.journal().count(|entry| entry.method == "DELETE" && !is_probe(entry));
    eventually("it was tried again and again", async || tried() >= 7).await;
    // 20 + 40 + 80 + 160 + 320 ms and more lie between the first and the seventh.
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    gitea.faults().clear();
    eventually("it is gone", async || gitea.runners().is_empty()).await;
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(metrics.contains(&format!("reason=\"{}\"", Reason::Runner.as_str())));
}

fn runner_of(answer: crate::raw::Answer) -> Runner {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    let answer: RegisterResponse = decode(Codec::Proto, &answer.body).unwrap();
    answer.runner.unwrap()
}

async fn asks(broker: &Broker, request: &RegisterRequest) -> Runner {
    let mut wire = Wire::dial(&broker.url).await;
    wire.register(request).await;
    runner_of(wire.answer().await.unwrap())
}

/// Asks and hangs up while Gitea is at work.
async fn asks_and_leaves(broker: &Broker, gate: &Gate, log: &Capture, reset: bool) {
    let mut wire = Wire::dial(&broker.url).await;
    wire.register(&request("one")).await;
    within(gate.reached()).await;
    match reset {
        true => wire.reset(),
        false => drop(wire),
    }
    eventually("it is noticed", async || log.text().contains("connection broke off")).await;
}

#[tokio::test]
async fn who_hangs_up_and_asks_again_gets_the_running_registration() {
    for reset in [false, true] {
        let log = Capture::start();
        let gitea = gitea();
        let site = Site::new(&gitea);
        let broker = Broker::start(&site).await;
        let gate = gitea.faults().gate(Route::Register, When::AfterActing);
        asks_and_leaves(&broker, &gate, &log, reset).await;
        let mut wire = Wire::dial(&broker.url).await;
        wire.register(&request("one")).await;
        // Another one of that name, which is not the one that hung up.
        let other = asks(&broker, &request("one")).await;
        gate.open();
        let again = runner_of(wire.answer().await.unwrap());
        assert_ne!(again.uuid, other.uuid);
        assert_eq!((gitea.runners().len(), registers(&gitea).len()), (2, 2));
    }
}

#[tokio::test]
async fn who_asks_again_later_gets_the_same_also_after_a_restart() {
    for restart in [false, true] {
        let log = Capture::start();
        let gitea = gitea();
        let site = Site::new(&gitea);
        let mut broker = Broker::start(&site).await;
        let gate = gitea.faults().gate(Route::Register, When::AfterActing);
        asks_and_leaves(&broker, &gate, &log, false).await;
        gate.open();
        eventually("it has landed", async || log.text().contains("runner registered")).await;
        if restart {
            broker.signal(Signal::Quit).await;
            broker.ended().await;
            broker = Broker::start(&site).await;
        }
        let first = gitea.runners().remove(0);

        // Others do not get it.
        let one = request("one");
        for other in [
            request("two"),
            RegisterRequest { labels: vec!["host".into(), "host2".into()], ..one.clone() },
            RegisterRequest { ephemeral: true, ..one.clone() },
        ] {
            assert_ne!(asks(&broker, &other).await.uuid, first.uuid);
        }
        let mut far = Wire::dial_from(&broker.url, Ipv4Addr::new(127, 0, 0, 2)).await;
        far.register(&one).await;
        assert_ne!(runner_of(far.answer().await.unwrap()).uuid, first.uuid);
        assert_eq!(gitea.runners().len(), 5);

        let again = asks(&broker, &one).await;
        assert_eq!((again.uuid, again.id), (first.uuid.clone(), first.id));
        assert_eq!(again.labels, ["host"], "no intent label");
        assert_eq!(gitea.runners().len(), 5, "nothing new in Gitea");
        assert_ne!(asks(&broker, &one).await.uuid, first.uuid, "it was delivered");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_on_the_wire_is_given_again() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut uuids = Vec::new();
    // The repeated answer may be lost as well.
    for _ in 0..3 {
        let mut wire = Wire::dial(&broker.url).await;
        wire.register(&request("one")).await;
        wire.answer_arrives().await;
        let ends =
            log.lines().iter().filter(|line| line["message"] == "connection broke off").count();
        wire.reset();
        let now =
            || log.lines().iter().filter(|line| line["message"] == "connection broke off").count();
        eventually("it is noticed", async || now() > ends).await;
        uuids.push(gitea.runners().remove(0).uuid);
    }
    assert_eq!(gitea.runners().len(), 1);
    let again = asks(&broker, &request("one")).await;
    assert_eq!(again.uuid, uuids[0]);
    assert_eq!(registers(&gitea).len(), 1);
}

#[tokio::test]
async fn after_its_first_call_an_identity_is_handed_to_nobody() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    asks_and_leaves(&broker, &gate, &log, false).await;
    gate.open();
    eventually("it has landed", async || site.runner_file("one").exists()).await;
    // It finds its credentials in the file instead.
    let file = std::fs::read_to_string(site.runner_file("one")).unwrap();
    let runner = runner_broker::sandbox::runner::Runner::from_runner_file(&file).unwrap();
    runner.declare(&["host"]).await.unwrap();
    let other = asks(&broker, &request("one")).await;
    assert_ne!(other.uuid, runner.credentials.uuid);
    assert_eq!(gitea.runners().len(), 2);
}

#[tokio::test]
async fn who_hangs_up_while_its_answer_is_looked_up_may_ask_once_more() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    asks_and_leaves(&broker, &gate, &log, false).await;
    gate.open();
    eventually("it has landed", async || log.text().contains("runner registered")).await;
    let asked = request("one");
    let token = broker.lifecycle.admit(&asked, Ipv4Addr::LOCALHOST.into()).unwrap();
    let parent_id = token.token_id.clone();
    let RegisterRequest { name, labels, ephemeral, version, .. } = asked;
    let (peer, codec) = (Ipv4Addr::LOCALHOST.into(), Codec::Proto);
    let registration = Registration {
        key: Key { parent_id, name, labels, ephemeral, peer, codec },
        token,
        version,
        body: Bytes::new(),
        headers: hyper::HeaderMap::new(),
        dialled: None,
    };
    // The store is at work for a while, so that the answer is waited for.
    let touch = Touch {
        record_id: RecordId(i64::MAX),
        last_seen_at: None,
        spoke: false,
        delivered: false,
        tasks: vec![],
    };
    let busy = broker.lifecycle.store.touch(vec![touch; 20_000]).now_or_never();
    assert!(busy.is_none());
    // Dropped at its first wait, as the server drops the handler of a connection that ends.
    let polled = broker.lifecycle.register(registration).now_or_never();
    assert!(polled.is_none(), "{:?}", polled.map(|result| result.map(drop)));
    let again = asks(&broker, &request("one")).await;
    assert_eq!(again.uuid, gitea.runners()[0].uuid);
    assert_eq!(registers(&gitea).len(), 1);
}
