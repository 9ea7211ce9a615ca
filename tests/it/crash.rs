//! The built binary is killed (kill -9) in the middle of a registration, and another broker goes on with
//! its store.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use runner_broker::broker::token::{Draft, Kind};
use runner_broker::lifecycle::Exchange;
use runner_broker::sandbox::gitea::{Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use rustix::process::Signal as Unix;
use secrecy::ExposeSecret;

use crate::binary::Binary;
use crate::raw::{Wire, request};
use crate::register::{intent_label, join, registers};
use crate::support::{Broker, Site, eventually, gitea, runner_file, within};
use crate::tokens::{register, token};

/// Waits until nothing is open, then compares what Gitea, the store and the folder of files say.
async fn settled(gitea: &StandInGitea, site: &Site, broker: &Broker) -> BTreeSet<i64> {
    let store = &broker.lifecycle.store;
    eventually("all is settled", async || {
        broker.lifecycle.unsettled() == 0 && store.intents().await.unwrap().is_empty()
    })
    .await;
    let in_gitea: BTreeSet<_> = gitea.runners().iter().map(|runner| runner.id).collect();
    let records = store.runners().await.unwrap();
    let in_store: BTreeSet<_> = records.iter().map(|record| record.upstream.id).collect();
    let in_memory: BTreeSet<_> =
        broker.lifecycle.roster.all().iter().map(|live| live.id()).collect();
    let in_files: BTreeSet<_> = std::fs::read_dir(site.path("runners"))
        .unwrap()
        .map(|folder| runner_file(&folder.unwrap().path().join(".runner"))["id"].as_i64().unwrap())
        .collect();
    assert_eq!(in_gitea, in_store);
    assert_eq!(in_gitea, in_memory);
    assert_eq!(in_gitea, in_files);
    assert!(records.iter().all(|record| record.file.is_some()));
    in_gitea
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_step_leaves_one_orphan_at_most_and_none_after_the_restart() {
    // The step, the runners in Gitea after the crash, and whether the runner finds its identity again.
    for (point, left, kept) in [
        ("register-begun", 0, false),
        ("intent-stored", 0, false),
        ("gitea-answered", 1, false),
        ("credentials-stored", 1, true),
        ("file-written", 1, true),
    ] {
        let (gitea, at) = (gitea(), point);
        let site = Site::new(&gitea);
        let mut binary = Binary::start_with(&site, &[("RUNNER_BROKER_FAULT_POINT", point)]);
        let mut wire = Wire::dial(&binary.url).await;
        wire.register(&request("one")).await;
        assert!(wire.answer().await.is_none(), "{at}: it died before it answered");
        assert_eq!(binary.ended().signal(), Some(9), "{at}");
        assert_eq!(gitea.runners().len(), left, "{at}");

        let broker = Broker::start(&site).await;
        let ids = settled(&gitea, &site, &broker).await;
        assert_eq!(ids.len(), usize::from(kept), "{at}");
        let runner = join(&broker, "one").await.unwrap();
        assert_eq!(ids.contains(&runner.credentials.id), kept, "{at}");
        assert_eq!(settled(&gitea, &site, &broker).await, BTreeSet::from([runner.credentials.id]));
        assert_eq!(registers(&gitea).len(), if kept { 1 } else { left + 1 }, "{at}");
        // The file is worth what the answer is.
        let file = std::fs::read_to_string(site.runner_file("one")).unwrap();
        let from_file = Runner::from_runner_file(&file).unwrap();
        assert_eq!(from_file.credentials.uuid, runner.credentials.uuid, "{at}");
        let tokens =
            [&from_file, &runner].map(|one| one.credentials.token.expose_secret().to_owned());
        assert_eq!(tokens[0], tokens[1], "{at}");
        runner.declare(&["host"]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_gitea_is_at_work_is_settled_by_the_label() {
    for when in [When::BeforeActing, When::AfterActing] {
        let gitea = gitea();
        let site = Site::new(&gitea);
        let mut binary = Binary::start(&site);
        // One that is there already is not touched.
        let stays = request("stays");
        let mut wire = Wire::dial(&binary.url).await;
        wire.register(&stays).await;
        assert_eq!(wire.answer().await.unwrap().status, 200);

        let gate = gitea.faults().gate(Route::Register, when);
        let mut wire = Wire::dial(&binary.url).await;
        wire.register(&request("one")).await;
        within(gate.reached()).await;
        binary.kill(Unix::KILL);
        assert_eq!(binary.ended().signal(), Some(9));
        gate.open();
        within(gitea.wait_until(|gitea| gitea.runners().len() == 2)).await;
        let label = intent_label(&registers(&gitea)[1]);
        let orphan = gitea.runners().into_iter().find(|runner| runner.name == "one").unwrap();
        assert!(orphan.labels.contains(&label));

        let broker = Broker::start(&site).await;
        let ids = settled(&gitea, &site, &broker).await;
        assert_eq!(ids.len(), 1, "{when:?}");
        assert!(!ids.contains(&orphan.id), "{when:?}");
        assert_eq!(registers(&gitea).len(), 2, "{when:?}: nothing was sent again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_before_gitea_was_asked_is_settled_once_absence_proves_it() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let mut binary = Binary::start_with(&site, &[("RUNNER_BROKER_FAULT_POINT", "intent-stored")]);
    let mut wire = Wire::dial(&binary.url).await;
    wire.register(&request("one")).await;
    assert!(wire.answer().await.is_none());
    binary.ended();
    // Gitea is down at the next start: nothing is known, so the intent stays.
    gitea.set_down().await.unwrap();
    let broker = Broker::start(&site).await;
    assert_eq!(broker.lifecycle.unsettled(), 1);
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(metrics.contains("\nrunner_broker_unsettled_registrations 1\n"));
    gitea.set_up().await.unwrap();
    assert!(settled(&gitea, &site, &broker).await.is_empty());
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(metrics.contains("\nrunner_broker_unsettled_registrations 0\n"));
}

/// How often a token was used, as memory and store say it.
async fn uses(broker: &Broker, id: &str) -> u64 {
    let stored = broker.lifecycle.store.tokens().await.unwrap();
    let stored = stored.iter().find(|one| one.token.id == id).unwrap().token.uses;
    assert_eq!(broker.lifecycle.token(id).unwrap().token.uses, stored);
    stored
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_counts_a_use_where_there_is_a_runner_for_it() {
    let single: fn(&mut Draft) = |draft| draft.kind = Kind::SingleUse;
    let two: fn(&mut Draft) = |draft| draft.policy.max_uses = Some(2);
    // The step, and whether there is a runner after it.
    for (point, kept) in [
        ("register-begun", false),
        ("intent-stored", false),
        ("gitea-answered", false),
        ("credentials-stored", true),
        ("file-written", true),
    ] {
        for (limit, change) in [(1, single), (2, two)] {
            let at = format!("{point}, for {limit}");
            let gitea = gitea();
            let site = Site::new(&gitea).set("shutdown.deregister", "none");
            let broker = Broker::start(&site).await;
            let token = token(&broker, change).await;
            let id = token.token.token.id.clone();
            broker.stop().await;

            let mut binary = Binary::start_with(&site, &[("RUNNER_BROKER_FAULT_POINT", point)]);
            let options = RegisterOptions::new(token.secret.clone(), "one");
            let asked = StandInRunner::new(&binary.url).register(&options).await;
            assert!(asked.is_err(), "{at}: it died before it answered");
            assert_eq!(binary.ended().signal(), Some(9), "{at}");

            let broker = Broker::start(&site).await;
            let ids = settled(&gitea, &site, &broker).await;
            assert_eq!(ids.len(), usize::from(kept), "{at}");
            assert_eq!(uses(&broker, &id).await, u64::from(kept), "{at}");
            if kept && limit == 1 {
                let error = register(&broker, &token, "other").await.unwrap_err();
                assert!(error.message.contains("used up"), "{at}: {error}");
            }
            let one = register(&broker, &token, "one").await.unwrap();
            assert_eq!(ids.contains(&one.credentials.id), kept, "{at}");
            assert_eq!(uses(&broker, &id).await, 1, "{at}");
            for name in (1..limit).map(|number| format!("more-{number}")) {
                register(&broker, &token, &name).await.unwrap();
            }
            let error = register(&broker, &token, "last").await.unwrap_err();
            assert!(error.message.contains("used up"), "{at}: {error}");
            let live = settled(&gitea, &site, &broker).await.len();
            assert_eq!((live, uses(&broker, &id).await), (limit, limit as u64), "{at}");
            broker.stop().await;

            let broker = Broker::start(&site).await;
            assert_eq!(uses(&broker, &id).await, limit as u64, "{at}");
            assert_eq!(broker.lifecycle.token(&id).unwrap().live_runners, limit, "{at}");
            broker.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_a_token_and_its_runners_spares_none_of_them() {
    const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789abcdef";
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "none");
    site.write_secret("admin_token", ADMIN_TOKEN);
    let file = site.path("admin_token").to_str().unwrap().to_owned();
    let site = site.set("admin.token_file", &file);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |_| {}).await;
    let presented = token.secret.expose_secret();
    let exchanged = broker.lifecycle.exchange_token(
        presented,
        Exchange::default(),
        std::net::Ipv4Addr::LOCALHOST.into(),
    );
    let child = exchanged.await.unwrap();
    for (by, name) in [(&token, "one"), (&token, "two"), (&child, "three")] {
        register(&broker, by, name).await.unwrap();
    }
    let other = join(&broker, "other").await.unwrap();
    broker.stop().await;

    let mut binary = Binary::start_with(&site, &[("RUNNER_BROKER_FAULT_POINT", "token-deleted")]);
    let id = &token.token.token.id;
    let asked = StandInRunner::new(&format!("http://{}", binary.admin))
        .send(
            hyper::Method::DELETE,
            &format!("/api/v1/tokens/{id}?cascade=true"),
            &[("authorization", &format!("Bearer {ADMIN_TOKEN}"))],
            "",
        )
        .await;
    assert!(asked.is_err(), "it died before it answered");
    assert_eq!(binary.ended().signal(), Some(9));
    assert_eq!(gitea.runners().len(), 4, "nothing happened to its runners yet");

    let broker = Broker::start(&site).await;
    eventually("its runners are gone", async || gitea.runners().len() == 1).await;
    eventually("their records have ended", async || broker.lifecycle.roster.all().len() == 1).await;
    assert!(gitea.runner(other.credentials.id).is_some());
    for name in ["one", "two", "three"] {
        assert!(!site.runner_file(name).exists(), "{name}");
    }
    for one in [&token, &child] {
        let error = register(&broker, one, "late").await.unwrap_err();
        assert_eq!(error.code, "unauthenticated");
    }
    assert!(broker.lifecycle.tokens().iter().all(|token| token.token.id != *id));
    broker.stop().await;
}
