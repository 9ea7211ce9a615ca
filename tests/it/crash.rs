//! The built binary is killed (kill -9) in the middle of a registration, and another broker goes on with
//! its store.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;

use runner_broker::sandbox::gitea::{Route, StandInGitea, When};
use runner_broker::sandbox::runner::Runner;
use rustix::process::Signal as Unix;
use secrecy::ExposeSecret;

use crate::binary::Binary;
use crate::raw::{Wire, request};
use crate::register::{intent_label, join, registers};
use crate::support::{Broker, Site, eventually, gitea, runner_file, within};

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
        broker.lifecycle.roster.all().iter().map(|live| live.upstream.id).collect();
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
