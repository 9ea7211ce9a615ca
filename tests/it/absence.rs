//! Runners that Gitea does not know when the broker is about to deregister them: who was sent away by the
//! broker comes back, and who was deleted by someone else does not.

use runner_broker::broker::{Reason, RecordState};
use runner_broker::lifecycle::{By, Pruning, Timing};
use runner_broker::sandbox::gitea::{Route, When};
use runner_broker::sandbox::runner::Runner;

use crate::deregister::join;
use crate::leases::leaves;
use crate::revival::{live_of, start_to_stay, work};
use crate::support::{Broker, Site, eventually, gitea, quick};

#[tokio::test]
async fn one_whose_deletion_was_never_heard_of_is_revived() {
    let gitea = gitea();
    let site = Site::new(&gitea)
        .set("shutdown.deregister", "all")
        .set("shutdown.drain_timeout", "0s")
        .set("shutdown.deadline", "2s");
    let (site, mut broker) = start_to_stay(site, "127.0.12.1").await;
    let runner = join(&broker.url, "one").await;
    // Gitea deletes it, and its answer never comes.
    let gate = gitea.faults().gate(Route::DeleteRunner, When::AfterActing);
    broker.stop().await;
    assert!(gitea.runners().is_empty());
    gate.open();
    // Its first call comes before the broker has settled anything.
    let settles = gitea.faults().gate(Route::Declare, When::BeforeActing);
    broker = Broker::start(&site).await;
    assert_eq!(runner.fetch_task(0).await.unwrap_err().code, "unavailable");
    settles.open();
    eventually("it works again", async || runner.fetch_task(0).await.is_ok()).await;
    assert_eq!(work(&gitea, &runner).await, gitea.runners()[0].id);
    assert_eq!(gitea.runners().len(), 1);
    broker.stop().await;
}

#[tokio::test]
async fn one_that_an_admin_deleted_does_not_come_back_after_its_lease() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("lease.expire_after", "1s");
    let timing = Timing { lost: std::time::Duration::from_millis(60), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let runner = join(&broker.url, "one").await;
    let file = std::fs::read_to_string(site.runner_file("one")).unwrap();
    let again = Runner::from_runner_file(&file).unwrap();
    assert!(gitea.remove_runner(runner.credentials.id));
    let live = leaves(&broker, runner).await;
    let ended = RecordState::Ended(Reason::Lost);
    eventually("it has ended", async || live.state() == ended).await;
    assert_eq!(again.fetch_task(0).await.unwrap_err().code, "unauthenticated");
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn while_gitea_is_in_doubt_no_lease_ends_anything() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("lease.expire_after", "1s");
    let timing = Timing { lost: std::time::Duration::from_millis(60), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let mut lives = Vec::new();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let runner = join(&broker.url, name).await;
        ids.push(runner.credentials.id);
        lives.push(runner);
    }
    let backup = gitea.backup();
    ids.iter().for_each(|id| assert!(gitea.remove_runner(*id)));
    let lives: Vec<_> = {
        let known: Vec<_> = lives.iter().map(|one| live_of(&broker, one).unwrap()).collect();
        drop(lives);
        known
    };
    eventually("both are lost", async || {
        lives.iter().all(|live| live.state() == RecordState::Lost)
    })
    .await;
    let by = By { actor: "socket".into(), peer: None };
    for pruned in broker.lifecycle.prune(false, &by).await {
        assert_eq!(pruned.outcome, Pruning::Kept, "{}", pruned.detail);
    }
    assert!(lives.iter().all(|live| live.state() == RecordState::Lost));
    assert!(site.runner_file("one").exists() && site.runner_file("two").exists());

    // What was a mistake of Gitea's is over: they are gone as any other.
    gitea.restore(&backup);
    let by_hand = broker.lifecycle.deregister(
        &lives[0],
        Reason::Admin,
        runner_broker::lifecycle::Force::LeaveBusy,
        &by,
    );
    by_hand.await.unwrap();
    eventually("the other ends by its lease", async || gitea.runners().is_empty()).await;
    broker.stop().await;
}
