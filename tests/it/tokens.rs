//! Enrollment tokens at Register and Declare: whom they admit, and how often.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use runner_broker::broker::What;
use runner_broker::broker::token::{Draft, Kind, Policy, State};
use runner_broker::config::Scope;
use runner_broker::lifecycle::{By, Exchange, Issued, TokenError};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use runner_broker::store::EventFilter;

use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, within};

/// Who changes tokens in these tests.
pub(crate) fn admin() -> By {
    By { actor: "admin".into(), peer: None }
}

/// A reusable token of the instance; `change` sets its limits.
pub(crate) async fn token(broker: &Broker, change: impl FnOnce(&mut Draft)) -> Issued {
    let mut draft = Draft {
        kind: Kind::Reusable,
        description: String::new(),
        policy: Policy::of_scope(Scope::Instance),
    };
    change(&mut draft);
    broker.lifecycle.create_token(draft, &admin()).await.unwrap()
}

/// A runner registers by a token.
pub(crate) async fn register(
    broker: &Broker,
    token: &Issued,
    name: &str,
) -> Result<Runner, RpcError> {
    let options = RegisterOptions::new(token.secret.clone(), name);
    StandInRunner::new(&broker.url).register(&options).await
}

pub(crate) fn uses(broker: &Broker, token: &Issued) -> u64 {
    broker.lifecycle.token(&token.token.token.id).unwrap().token.uses
}

pub(crate) fn live(broker: &Broker, token: &Issued) -> usize {
    broker.lifecycle.token(&token.token.token.id).unwrap().live_runners
}

#[track_caller]
pub(crate) fn refused(result: Result<Runner, RpcError>, code: &str, part: &str) {
    let error = result.expect_err("it is refused");
    assert_eq!(error.code, code, "{}", error.message);
    assert!(error.message.contains(part), "{}", error.message);
}

pub(crate) fn registers(gitea: &StandInGitea) -> usize {
    gitea.journal().count(|entry| entry.target.ends_with("/Register"))
}

#[tokio::test]
async fn of_a_thousand_at_once_a_single_use_token_admits_one() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| draft.kind = Kind::SingleUse).await;
    let program = StandInRunner::new(&broker.url);
    let asking: Vec<_> = (0..1000)
        .map(|i| {
            let options = RegisterOptions::new(token.secret.clone(), &format!("r{i}"));
            let program = program.clone();
            tokio::spawn(async move { program.register(&options).await })
        })
        .collect();
    let mut admitted = 0;
    for asked in asking {
        match asked.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(error) => {
                assert_eq!(error.code, "permission_denied", "{error}");
                assert!(error.message.contains("used up"), "{error}");
            }
        }
    }
    assert_eq!(admitted, 1);
    assert_eq!((gitea.runners().len(), registers(&gitea)), (1, 1));
    assert_eq!((uses(&broker, &token), live(&broker, &token)), (1, 1));
    let state = broker.lifecycle.token(&token.token.token.id).unwrap().state;
    assert_eq!(state, State::UsedUp);
    broker.stop().await;
}

#[tokio::test]
async fn a_registration_that_failed_uses_nothing_up() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| draft.kind = Kind::SingleUse).await;
    for effect in [Effect::Answer(Answer::html(hyper::StatusCode::BAD_GATEWAY)), Effect::Reset] {
        gitea.faults().once(Route::Register, When::AfterActing, effect);
        refused(register(&broker, &token, "a").await, "unavailable", "try again");
    }
    assert_eq!((uses(&broker, &token), live(&broker, &token)), (0, 0));
    register(&broker, &token, "a").await.unwrap();
    assert_eq!(uses(&broker, &token), 1);
    refused(register(&broker, &token, "b").await, "permission_denied", "used up");
    // What Gitea made of the two whose answers were lost is deleted.
    eventually("one runner is left", async || gitea.runners().len() == 1).await;
    broker.stop().await;
}

#[tokio::test]
async fn who_waits_for_one_that_fails_comes_next() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| draft.kind = Kind::SingleUse).await;
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    let (first, second) = tokio::join!(register(&broker, &token, "a"), async {
        within(gate.reached()).await;
        let second = register(&broker, &token, "b");
        let opens = async {
            eventually("the second waits", async || broker.lifecycle.registering() == 2).await;
            gate.open();
        };
        tokio::join!(second, opens).0
    });
    refused(first, "unavailable", "its answer was lost");
    second.unwrap();
    assert_eq!(uses(&broker, &token), 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_given_again_by_a_token_that_is_used_up() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| draft.kind = Kind::SingleUse).await;
    let options = RegisterOptions::new(token.secret.clone(), "a");
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    let program = StandInRunner::new(&broker.url);
    program.hang_up_during_register(&options, within(gate.reached())).await.unwrap();
    gate.open();
    eventually("it is registered", async || uses(&broker, &token) == 1).await;
    refused(register(&broker, &token, "other").await, "permission_denied", "used up");
    let runner = program.register(&options).await.unwrap();
    assert_eq!((gitea.runners().len(), uses(&broker, &token)), (1, 1));
    runner.declare(&["host"]).await.unwrap();
    refused(program.register(&options).await, "permission_denied", "used up");

    // Switched off, it gives nothing again either.
    let second = self::token(&broker, |draft| draft.kind = Kind::SingleUse).await;
    let options = RegisterOptions::new(second.secret.clone(), "b");
    let gate = gitea.faults().gate(Route::Register, When::AfterActing);
    program.hang_up_during_register(&options, within(gate.reached())).await.unwrap();
    gate.open();
    eventually("it is registered", async || uses(&broker, &second) == 1).await;
    broker.lifecycle.disable_token(&second.token.token.id, false, &admin()).await.unwrap();
    refused(program.register(&options).await, "permission_denied", "disabled");
    broker.stop().await;
}

#[tokio::test]
async fn each_limit_is_told_in_words() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let asks = async |change: fn(&mut Draft), name: &str, labels: &[&str], ephemeral: bool| {
        let token = token(&broker, change).await;
        let mut options = RegisterOptions::new(token.secret.clone(), name);
        options.labels = labels.iter().map(|&label| label.to_owned()).collect();
        options.ephemeral = ephemeral;
        StandInRunner::new(&broker.url).register(&options).await
    };
    let only_host: fn(&mut Draft) = |draft| draft.policy.labels = vec!["host".into()];
    refused(asks(only_host, "a", &["host", "gpu"], false).await, "permission_denied", "\"gpu\"");
    asks(only_host, "a", &["host"], false).await.unwrap();
    let named: fn(&mut Draft) = |draft| draft.policy.name_pattern = Some("ci-?*".into());
    refused(asks(named, "ci-", &["host"], false).await, "permission_denied", "\"ci-?*\"");
    asks(named, "ci-1", &["host"], false).await.unwrap();
    let ephemeral: fn(&mut Draft) = |draft| draft.policy.ephemeral_only = true;
    refused(asks(ephemeral, "b", &["host"], false).await, "permission_denied", "--ephemeral");
    asks(ephemeral, "b", &["host"], true).await.unwrap();
    let elsewhere: fn(&mut Draft) =
        |draft| draft.policy.allowed_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
    refused(asks(elsewhere, "c", &["host"], false).await, "permission_denied", "127.0.0.1");
    let soon = token(&broker, |draft| {
        draft.policy.expires_at = Some(SystemTime::now() + Duration::from_millis(1));
    });
    let soon = soon.await;
    eventually("it expires", async || {
        broker.lifecycle.token(&soon.token.token.id).unwrap().state == State::Expired
    })
    .await;
    refused(register(&broker, &soon, "d").await, "permission_denied", "expired");
    let two = token(&broker, |draft| draft.policy.max_runners = Some(1)).await;
    let first = register(&broker, &two, "e1").await.unwrap();
    refused(register(&broker, &two, "e2").await, "resource_exhausted", "1 live runners");
    first.deregister().await.unwrap();
    register(&broker, &two, "e2").await.unwrap();
    assert_eq!((uses(&broker, &two), live(&broker, &two)), (2, 1));

    let text = broker.lifecycle.metrics.render().unwrap();
    for reason in ["label", "name", "not_ephemeral", "address", "expired", "max_runners"] {
        let line = format!("enrollment_rejections_total{{reason=\"{reason}\"}} 1");
        assert!(text.contains(&line), "{line}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_label_that_the_token_does_not_allow_is_refused_at_declare_too() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| draft.policy.labels = vec!["host".into()]).await;
    let runner = register(&broker, &token, "a").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let error = runner.declare(&["host", "gpu"]).await.unwrap_err();
    assert_eq!(error.code, "permission_denied");
    assert!(error.message.contains("\"gpu\""), "{error}");
    assert_eq!(gitea.runner(runner.credentials.id).unwrap().labels, ["host"]);
    // A deleted token allows no more than before.
    broker.lifecycle.delete_token(&token.token.token.id, false, &admin()).await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    assert!(runner.declare(&["gpu"]).await.is_err());
    broker.stop().await;
}

#[tokio::test]
async fn unknown_wrong_and_deleted_get_one_answer() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let deleted = token(&broker, |_| {}).await;
    let kept = token(&broker, |_| {}).await;
    let id = &deleted.token.token.id;
    broker.lifecycle.delete_token(id, false, &admin()).await.unwrap();
    let wrong = format!("rb_{}_{}", kept.token.token.id, "x".repeat(27));
    let mut answers = HashSet::new();
    let other = "rb_Aaaaaaaaaa_".to_owned() + &"y".repeat(27);
    for text in ["", "nothing", &wrong, &other] {
        let options = RegisterOptions::new(text.into(), "a");
        let error = StandInRunner::new(&broker.url).register(&options).await.err().unwrap();
        answers.insert((error.code, error.message));
    }
    let error = register(&broker, &deleted, "a").await.err().unwrap();
    answers.insert((error.code, error.message));
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().next().unwrap().0, "unauthenticated");
    broker.stop().await;
}

#[tokio::test]
async fn guessing_is_slowed_and_costs_the_audit_trail_nothing() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut codes = HashSet::new();
    for i in 0..60 {
        let options = RegisterOptions::new(format!("guess-{i}").into(), "a");
        let error = StandInRunner::new(&broker.url).register(&options).await.err().unwrap();
        codes.insert((error.code, error.status.unwrap().as_u16()));
    }
    let two = [("unauthenticated".to_owned(), 401), ("resource_exhausted".to_owned(), 429)];
    assert_eq!(codes, HashSet::from(two));
    // Not even the right one is looked at any more.
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "a");
    let right = StandInRunner::new(&broker.url).register(&options).await;
    refused(right, "resource_exhausted", "try again in");
    let events = broker.lifecycle.events(EventFilter { limit: 1000, ..EventFilter::default() });
    let refusals = events.await.unwrap().len();
    assert!((30..60).contains(&refusals), "{refusals}");
    assert_eq!(registers(&gitea), 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_child_allows_no_more_than_its_parent() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let peer = [127, 0, 0, 1].into();
    let parent = token(&broker, |draft| {
        draft.policy.labels = vec!["host".into()];
        draft.policy.max_uses = Some(2);
    });
    let parent = parent.await;
    let exchange = async |token: &Issued, wish: Exchange| {
        use secrecy::ExposeSecret;
        broker.lifecycle.exchange_token(token.secret.expose_secret(), wish, peer).await
    };
    let child = exchange(&parent, Exchange::default()).await.unwrap();
    let id = parent.token.token.id.clone();
    assert_eq!(child.token.token.parent_id.as_ref(), Some(&id));
    assert_eq!(child.token.token.kind, Kind::SingleUse);
    assert_eq!(child.token.token.policy.labels, ["host"]);
    let ends = child.token.token.policy.expires_at.unwrap();
    assert!(ends <= SystemTime::now() + Duration::from_secs(600));

    let gpu = Exchange { labels: vec!["gpu".into()], ..Exchange::default() };
    assert!(matches!(exchange(&parent, gpu).await, Err(TokenError::Refused(_))));
    assert!(matches!(exchange(&child, Exchange::default()).await, Err(TokenError::Refused(_))));
    for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(3601)] {
        let wish = Exchange { ttl: Some(ttl), ..Exchange::default() };
        assert!(matches!(exchange(&parent, wish).await, Err(TokenError::Invalid(_))), "{ttl:?}");
    }
    // What cannot be a label at all is in no event.
    let long = Exchange { labels: vec!["x".repeat(60_000)], ..Exchange::default() };
    assert!(matches!(exchange(&parent, long).await, Err(TokenError::Invalid(_))));
    let events = broker.lifecycle.events(EventFilter { limit: 100, ..EventFilter::default() });
    assert!(events.await.unwrap().iter().all(|event| event.detail.len() < 1000));
    let pinned = broker.lifecycle.pin_token(&child.token.token.id, &admin()).await;
    assert!(matches!(pinned, Err(TokenError::Conflict(_))));

    let runner = register(&broker, &child, "a").await.unwrap();
    refused(register(&broker, &child, "b").await, "permission_denied", "used up");
    assert!(runner.declare(&["gpu"]).await.is_err());
    assert_eq!((uses(&broker, &parent), live(&broker, &parent)), (1, 1));
    assert_eq!((uses(&broker, &child), live(&broker, &child)), (1, 1));

    // The parent's limit holds for all of its children together, and its state for each.
    let (second, third) = (
        exchange(&parent, Exchange::default()).await,
        exchange(&parent, Exchange::default()).await,
    );
    let (second, third) = (second.unwrap(), third.unwrap());
    broker.lifecycle.disable_token(&id, false, &admin()).await.unwrap();
    refused(register(&broker, &second, "b").await, "permission_denied", "disabled");
    assert_eq!(broker.lifecycle.token(&second.token.token.id).unwrap().state, State::Disabled);
    broker.lifecycle.enable_token(&id, &admin()).await.unwrap();
    register(&broker, &second, "b").await.unwrap();
    refused(register(&broker, &third, "c").await, "permission_denied", "used up");
    assert!(matches!(exchange(&parent, Exchange::default()).await, Err(TokenError::Refused(_))));

    // With the parent go the runners of its children.
    broker.lifecycle.delete_token(&id, true, &admin()).await.unwrap();
    eventually("all are gone", async || gitea.runners().is_empty()).await;
    assert!(broker.lifecycle.token(&third.token.token.id).is_err());
    refused(register(&broker, &third, "c").await, "unauthenticated", "not known");
    broker.stop().await;
}

#[tokio::test]
async fn who_comes_while_the_broker_ends_is_in_the_audit_trail() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |_| {}).await;
    broker.lifecycle.begin_drain();
    refused(register(&broker, &token, "late").await, "unavailable", "shutting down");
    let filter = EventFilter { limit: 1, ..EventFilter::default() };
    let event = broker.lifecycle.events(filter).await.unwrap().remove(0);
    assert_eq!(event.what, What::RegistrationRefused);
    assert_eq!(
        (event.runner.as_deref(), event.token_id),
        (Some("late"), Some(token.token.token.id))
    );
    assert!(event.detail.contains("shutting down"), "{}", event.detail);
    broker.stop().await;
}
