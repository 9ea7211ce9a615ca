//! Who was sent away does not come back, whatever else happens to it at the same time.

use std::time::Duration;

use hyper::StatusCode;
use runner_broker::broker::{Reason, RecordState};
use runner_broker::lifecycle::{By, Force, Timing};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, When};
use runner_broker::sandbox::runner::Runner;

use crate::revival::live_of;
use crate::support::{Broker, Site, eventually, gitea, quick};
use crate::tokens::{admin, register, token};

fn bad_gateway() -> Effect {
    Effect::Answer(Answer::html(StatusCode::BAD_GATEWAY))
}

fn by_itself() -> By {
    By { actor: "broker".into(), peer: None }
}

#[tokio::test]
async fn a_runner_that_is_revoked_while_its_lease_ends_gets_no_task() {
    let gitea = gitea();
    let broker = Broker::start(&Site::new(&gitea)).await;
    let issued = token(&broker, |_| {}).await;
    let runner = register(&broker, &issued, "one").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let live = live_of(&broker, &runner).unwrap();
    let fault = gitea.faults().always(Route::DeleteRunner, When::BeforeActing, bad_gateway());
    let lease = Reason::Lease;
    let ends = broker.lifecycle.deregister(&live, lease, Force::LeaveBusy, &by_itself()).await;
    ends.unwrap_err();
    broker.lifecycle.disable_token(&issued.token.token.id, true, &admin()).await.unwrap();
    gitea.queue_task(&["host"]);
    assert_eq!(runner.fetch_task(0).await.unwrap(), (None, 0));
    assert_eq!(live.state(), RecordState::Deregistering(Reason::Revoked));
    gitea.faults().remove(fault);
    broker.lifecycle.settle_soon();
    let ended = RecordState::Ended(Reason::Revoked);
    eventually("it has ended", async || live.state() == ended).await;
    assert_eq!(runner.fetch_task(0).await.unwrap_err().code, "unauthenticated");
}

#[tokio::test]
async fn a_lost_runner_that_is_revoked_gets_no_task_when_it_is_found() {
    let gitea = gitea();
    // Gitea's list is not asked meanwhile, or it would be gone before it is found.
    let broker = Broker::start(&Site::new(&gitea).api_token(None)).await;
    let issued = token(&broker, |_| {}).await;
    let runner = register(&broker, &issued, "one").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let live = live_of(&broker, &runner).unwrap();
    let backup = gitea.backup();
    assert!(gitea.remove_runner(runner.credentials.id));
    runner.fetch_task(0).await.unwrap_err();
    assert_eq!(live.state(), RecordState::Lost);
    broker.lifecycle.disable_token(&issued.token.token.id, true, &admin()).await.unwrap();
    gitea.restore(&backup);
    gitea.queue_task(&["host"]);
    for _ in 0..2 {
        assert_eq!(runner.fetch_task(0).await.unwrap(), (None, 0));
    }
    assert_eq!(live.state(), RecordState::Deregistering(Reason::Revoked));
}

#[tokio::test]
async fn a_runner_that_is_found_after_its_end_is_still_its_tokens() {
    let gitea = gitea();
    let timing = Timing { lost: Duration::from_millis(60), ..quick() };
    let broker = Broker::start_with(&Site::new(&gitea), timing).await;
    let issued = token(&broker, |_| {}).await;
    let runner = register(&broker, &issued, "one").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let live = live_of(&broker, &runner).unwrap();
    let backup = gitea.backup();
    assert!(gitea.remove_runner(runner.credentials.id));
    let ended = RecordState::Ended(Reason::Lost);
    eventually("it has ended", async || {
        let _ = runner.fetch_task(0).await;
        live.state() == ended
    })
    .await;
    gitea.restore(&backup);
    eventually("it is known again", async || {
        let _ = runner.fetch_task(0).await;
        live_of(&broker, &runner).is_some()
    })
    .await;
    let again = live_of(&broker, &runner).unwrap();
    assert_eq!(again.parent_id, issued.token.token.id);
    broker.lifecycle.disable_token(&issued.token.token.id, true, &admin()).await.unwrap();
    gitea.queue_task(&["host"]);
    assert!(!matches!(runner.fetch_task(0).await, Ok((Some(_), _))));
}

#[tokio::test]
async fn the_end_of_a_lease_does_not_replace_an_admins_word() {
    let gitea = gitea();
    let broker = Broker::start(&Site::new(&gitea)).await;
    let issued = token(&broker, |_| {}).await;
    let runner = register(&broker, &issued, "one").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let live = live_of(&broker, &runner).unwrap();
    gitea.faults().always(Route::DeleteRunner, When::BeforeActing, bad_gateway());
    for (reason, by) in [(Reason::Admin, admin()), (Reason::Lease, by_itself())] {
        let asked = broker.lifecycle.deregister(&live, reason, Force::LeaveBusy, &by).await;
        asked.unwrap_err();
        assert_eq!(live.state(), RecordState::Deregistering(Reason::Admin));
    }
    assert_eq!(runner.fetch_task(0).await.unwrap(), (None, 0));
    assert_eq!(live.state(), RecordState::Deregistering(Reason::Admin));
}

#[tokio::test]
async fn a_declared_runner_that_dials_gitea_has_good_credentials_after_a_restart() {
    let gitea = gitea();
    let site = Site::new(&gitea)
        .set("enrollment.token_file", "")
        .set("credentials.address", "gitea")
        .set("shutdown.drain_timeout", "200ms")
        .set("shutdown.deregister", "all");
    site.write_config("[[runners]]\nname = \"one\"\nlabels = [\"host:host\"]\n");
    for _ in 0..2 {
        let broker = Broker::start(&site).await;
        eventually("it has its file", async || {
            site.runner_file("one").exists() && broker.lifecycle.declared_troubles().is_empty()
        })
        .await;
        let file = std::fs::read_to_string(site.runner_file("one")).unwrap();
        let runner = Runner::from_runner_file(&file).unwrap();
        assert_eq!(runner.address(), gitea.url());
        runner.declare(&["host"]).await.expect("they are good at Gitea");
        drop(runner);
        broker.stop().await;
    }
}
