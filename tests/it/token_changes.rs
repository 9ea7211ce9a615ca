//! What an admin does with enrollment tokens holds at once, for those that wait, and over a restart.

use std::time::{Duration, SystemTime};

use runner_broker::broker::token::{Kind, State};
use runner_broker::broker::{Reason, RecordState};
use runner_broker::sandbox::gitea::{Route, When};
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};

use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, within};
use crate::tokens::{admin, live, refused, register, registers, token, uses};

#[tokio::test]
async fn a_restart_keeps_all() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "none");
    let broker = Broker::start(&site).await;
    let single = token(&broker, |draft| draft.kind = Kind::SingleUse).await;
    let limited = token(&broker, |draft| {
        draft.description = "of the tests".into();
        draft.policy.max_runners = Some(1);
    });
    let limited = limited.await;
    let off = token(&broker, |_| {}).await;
    let rotated = token(&broker, |_| {}).await;
    let gone = token(&broker, |_| {}).await;
    register(&broker, &single, "a").await.unwrap();
    register(&broker, &limited, "b").await.unwrap();
    register(&broker, &gone, "c").await.unwrap();
    broker.lifecycle.disable_token(&off.token.token.id, false, &admin()).await.unwrap();
    broker.lifecycle.delete_token(&gone.token.token.id, false, &admin()).await.unwrap();
    let id = &rotated.token.token.id;
    let fresh =
        broker.lifecycle.rotate_token(id, Duration::from_secs(3600), &admin()).await.unwrap();
    let before = broker.lifecycle.tokens();
    broker.stop().await;

    let broker = Broker::start(&site).await;
    let millis = |all: Vec<_>| {
        let text = all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join("\n");
        // The store keeps milliseconds.
        without_nanoseconds(&text)
    };
    assert_eq!(millis(broker.lifecycle.tokens()), millis(before));
    refused(register(&broker, &single, "d").await, "permission_denied", "used up");
    refused(register(&broker, &limited, "d").await, "resource_exhausted", "live runners");
    refused(register(&broker, &off, "d").await, "permission_denied", "disabled");
    refused(register(&broker, &gone, "d").await, "unauthenticated", "not known");
    register(&broker, &rotated, "d").await.unwrap();
    register(&broker, &fresh, "e").await.unwrap();
    broker.stop().await;
}

/// Debug texts without the digits of times below a millisecond.
fn without_nanoseconds(text: &str) -> String {
    let mut shown = String::new();
    for piece in text.split_inclusive("tv_nsec: ") {
        let digits = piece.find(|c: char| !c.is_ascii_digit()).unwrap_or(piece.len());
        let (nanos, rest) = piece.split_at(digits);
        match nanos.parse::<u64>() {
            Ok(nanos) => shown += &format!("{}{rest}", nanos / 1_000_000),
            Err(_) => shown += piece,
        }
    }
    shown
}

#[tokio::test]
async fn the_old_secret_lives_as_long_as_is_chosen() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let first = token(&broker, |_| {}).await;
    let id = first.token.token.id.clone();
    let rotate =
        async |overlap| broker.lifecycle.rotate_token(&id, overlap, &admin()).await.unwrap();
    let second = rotate(Duration::from_secs(3600)).await;
    register(&broker, &first, "a").await.unwrap();
    register(&broker, &second, "b").await.unwrap();
    let third = rotate(Duration::ZERO).await;
    // Neither outlives a rotation at once, whatever was chosen before.
    refused(register(&broker, &second, "c").await, "unauthenticated", "not known");
    refused(register(&broker, &first, "c").await, "unauthenticated", "not known");
    register(&broker, &third, "d").await.unwrap();
    assert_eq!(uses(&broker, &third), 3);
    let short = rotate(Duration::from_millis(1)).await;
    eventually("the old one ends", async || register(&broker, &third, "e").await.is_err()).await;
    register(&broker, &short, "f").await.unwrap();
    broker.stop().await;
}

/// All that hold a place with Gitea are stopped there, and one more waits for its turn.
#[tokio::test]
async fn a_change_holds_for_one_that_waits() {
    for what in ["disable", "delete", "rotate", "expire"] {
        let gitea = gitea();
        let site = Site::new(&gitea);
        let broker = Broker::start(&site).await;
        let busy = token(&broker, |_| {}).await;
        let soon = SystemTime::now() + Duration::from_secs(2);
        let token = token(&broker, |draft| {
            draft.policy.expires_at = (what == "expire").then_some(soon);
        });
        let token = token.await;
        let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
        let program = StandInRunner::new(&broker.url);
        let first: Vec<_> = (0..16)
            .map(|i| {
                let options = RegisterOptions::new(busy.secret.clone(), &format!("r{i}"));
                let program = program.clone();
                tokio::spawn(async move { program.register(&options).await })
            })
            .collect();
        eventually("all places are taken", async || registers(&gitea) == 16).await;
        let options = RegisterOptions::new(token.secret.clone(), "late");
        let waits = tokio::spawn({
            let program = program.clone();
            async move { program.register(&options).await }
        });
        let lifecycle = &broker.lifecycle;
        eventually("it waits", async || lifecycle.registering() == 17).await;
        let id = &token.token.token.id;
        let (code, part) = match what {
            "disable" => {
                lifecycle.disable_token(id, false, &admin()).await.unwrap();
                ("permission_denied", "disabled")
            }
            "delete" => {
                lifecycle.delete_token(id, false, &admin()).await.unwrap();
                ("unauthenticated", "not known")
            }
            "rotate" => {
                lifecycle.rotate_token(id, Duration::ZERO, &admin()).await.unwrap();
                ("unauthenticated", "not known")
            }
            _ => {
                eventually("it expires", async || soon <= SystemTime::now()).await;
                ("permission_denied", "expired")
            }
        };
        gate.open();
        refused(waits.await.unwrap(), code, part);
        for one in first {
            one.await.unwrap().unwrap();
        }
        assert_eq!(gitea.runners().len(), 16, "{what}");
        broker.stop().await;
    }
}

#[tokio::test]
async fn cascade_lets_a_task_end_and_hands_out_none() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |_| {}).await;
    let id = &token.token.token.id;
    let idle = register(&broker, &token, "idle").await.unwrap();
    let busy = register(&broker, &token, "busy").await.unwrap();
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "other");
    let other = StandInRunner::new(&broker.url).register(&options).await.unwrap();
    for runner in [&idle, &busy, &other] {
        runner.declare(&["host"]).await.unwrap();
    }
    gitea.queue_task(&["host"]);
    let (task, _) = busy.fetch_task(0).await.unwrap();

    // One that is with Gitea at that moment goes as well.
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    let late = register(&broker, &token, "late");
    let cascade = async {
        within(gate.reached()).await;
        let now = broker.lifecycle.disable_token(id, true, &admin()).await.unwrap();
        gate.open();
        now
    };
    let (late, now) = tokio::join!(late, cascade);
    assert_eq!((now.state, now.live_runners), (State::Disabled, 2));
    let late = late.unwrap();
    gitea.queue_task(&["host"]);
    assert!(busy.fetch_task(0).await.unwrap().0.is_none());
    assert!(late.fetch_task(0).await.map_or(true, |(task, _)| task.is_none()));
    eventually("the idle are gone", async || gitea.runners().len() == 2).await;
    assert!(gitea.runner(busy.credentials.id).is_some());

    busy.run_task(&task.unwrap()).await.unwrap();
    eventually("the busy one is gone", async || gitea.runners().len() == 1).await;
    assert!(gitea.runner(other.credentials.id).is_some());
    eventually("it is counted out", async || live(&broker, &token) == 0).await;
    assert!(other.fetch_task(0).await.unwrap().0.is_some(), "others are not touched");
    broker.stop().await;
}

#[tokio::test]
async fn cascade_outlives_a_restart() {
    let gitea = gitea();
    let api_token = {
        use secrecy::ExposeSecret;
        gitea.api_token(&["write:admin"]).expose_secret().to_owned()
    };
    let site = Site::new(&gitea).api_token(None).set("shutdown.deregister", "none");
    let broker = Broker::start(&site).await;
    let token = token(&broker, |_| {}).await;
    let runner = register(&broker, &token, "a").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    broker.lifecycle.delete_token(&token.token.token.id, true, &admin()).await.unwrap();
    // It cannot be deleted, but it gets nothing to do.
    gitea.queue_task(&["host"]);
    assert!(runner.fetch_task(0).await.unwrap().0.is_none());
    broker.stop().await;
    assert_eq!(gitea.runners().len(), 1);

    let site = site.api_token(Some(&api_token));
    let broker = Broker::start(&site).await;
    eventually("it is gone", async || gitea.runners().is_empty()).await;
    eventually("its record has ended", async || broker.lifecycle.roster.all().is_empty()).await;
    let ended = broker.lifecycle.store.ended_by_uuid(&runner.credentials.uuid).await.unwrap();
    assert_eq!(ended.unwrap().state, RecordState::Ended(Reason::Revoked));
    broker.stop().await;
}

/// The store takes the change of the token, and then nothing more.
#[tokio::test]
async fn what_was_done_to_a_token_is_told_as_done() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "none");
    let broker = Broker::start(&site).await;
    let token = token(&broker, |_| {}).await;
    let runner = register(&broker, &token, "a").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let (id, by) = (token.token.token.id.clone(), admin());
    let delete = broker.lifecycle.delete_token(&id, true, &by);
    let (deleted, closed) = tokio::join!(delete, broker.lifecycle.store.close());
    closed.unwrap();
    assert_eq!(deleted.expect("the token is deleted").state, State::Deleted);
    assert!(broker.lifecycle.token(&id).is_err());
    gitea.queue_task(&["host"]);
    assert!(runner.fetch_task(0).await.map_or(true, |(task, _)| task.is_none()));
    broker.stop().await;

    // The next start goes on with the runner.
    let broker = Broker::start(&site).await;
    eventually("the runner is gone", async || gitea.runners().is_empty()).await;
    broker.stop().await;
}
