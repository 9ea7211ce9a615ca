//! What was wrong with enrollment tokens.

use std::time::{Duration, SystemTime};

use runner_broker::broker::token::{Kind, Origin, Policy, Token};
use runner_broker::broker::{Event, What};
use runner_broker::config::Scope;
use runner_broker::lifecycle::{Exchange, Issued, TokenError};
use runner_broker::sandbox::gitea::{Route, When};
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use runner_broker::store::{EventFilter, Store};
use secrecy::ExposeSecret;

use crate::admin::Stack;
use crate::support::{Broker, Site, eventually, gitea};
use crate::tokens::{admin, register, token};

const JSON: &str = "Content-Type: application/json";

async fn exchange(broker: &Broker, token: &str, wish: Exchange) -> Result<Issued, TokenError> {
    broker.lifecycle.exchange_token(token, wish, [127, 0, 0, 1].into()).await
}

/// Gitea cuts the name at 255 characters, so the end that matched is not in it.
#[tokio::test]
async fn a_name_matches_as_gitea_keeps_it() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| draft.policy.name_pattern = Some("*-ci".into())).await;
    let name = format!("prod-{}-ci", "x".repeat(300));
    drop(register(&broker, &token, &name).await);
    let kept: Vec<_> = gitea.runners().into_iter().map(|runner| runner.name).collect();
    assert!(kept.iter().all(|name| name.ends_with("-ci")), "{kept:?}");
    broker.stop().await;
}

/// Children that are used up or expired are kept for a day, and any holder makes as many as it likes.
#[tokio::test]
async fn children_take_no_place_of_the_admins_tokens() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let store = Store::open(&site.path("state.db")).unwrap();
    let begun = SystemTime::now() - Duration::from_secs(60);
    for number in 0..10_000_u32 {
        let mut policy = Policy::of_scope(Scope::Instance);
        policy.expires_at = Some(begun + Duration::from_secs(1));
        let token = Token {
            id: format!("A{number:09}"),
            kind: Kind::SingleUse,
            origin: Origin::Exchanged,
            active: true,
            cascade: false,
            deleted_at: None,
            parent_id: Some("settings".into()),
            description: String::new(),
            policy,
            created_at: begun,
            created_by: "token:settings".into(),
            last_used_at: None,
            uses: 0,
        };
        let mut digest = [0; 32];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        let event = Event::now("token:settings", What::TokenExchanged);
        store.insert_token(token, digest, event).await.unwrap();
    }
    store.close().await.unwrap();
    let broker = Broker::start(&site).await;
    token(&broker, |_| {}).await;
    broker.stop().await;
}

/// What is refused is checked first: its length is in the audit trail.
#[tokio::test]
async fn a_refused_exchange_fills_no_disk() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let parent = token(&broker, |draft| draft.policy.labels = vec!["host".into()]).await;
    let wish = Exchange { labels: vec!["x".repeat(60_000)], ..Exchange::default() };
    exchange(&broker, parent.secret.expose_secret(), wish).await.unwrap_err();
    let filter = EventFilter { limit: 100, ..EventFilter::default() };
    for event in broker.lifecycle.events(filter).await.unwrap() {
        assert!(event.detail.len() < 1000, "{} bytes", event.detail.len());
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_list_is_no_new_token() {
    let stack = Stack::start().await;
    for body in ["[]", "[\"single_use\"]"] {
        let answer = stack.local("POST", "/api/v1/tokens", &[JSON], body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.body);
    }
}

#[tokio::test]
async fn gitea_s_own_token_is_told_at_the_exchange_too() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let registration = gitea.registration_token(&Scope::Instance);
    let error = exchange(&broker, registration.expose_secret(), Exchange::default()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("Gitea's own registration token"), "{error}");
    broker.stop().await;
}

/// Given in place of the id, by mistake.
#[tokio::test]
async fn a_whole_token_is_not_told_back() {
    let stack = Stack::start().await;
    let token = token(&stack.broker, |_| {}).await;
    let secret = token.secret.expose_secret();
    let answer = stack.socket("GET", &format!("/api/v1/tokens/{secret}")).await;
    answer.problem(404, "unknown-token");
    assert!(!answer.body.contains(secret), "{}", answer.body);
}

/// Gitea has deleted the runner after its one task; nobody tells the broker's count.
#[tokio::test]
async fn an_ephemeral_runner_that_is_done_makes_room() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| {
        draft.policy.ephemeral_only = true;
        draft.policy.max_runners = Some(1);
    });
    let token = token.await;
    let asks = async |name: &str| {
        let mut options = RegisterOptions::new(token.secret.clone(), name);
        options.ephemeral = true;
        StandInRunner::new(&broker.url).register(&options).await
    };
    let runner = asks("a").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    runner.run_task(&task.unwrap()).await.unwrap();
    eventually("Gitea has forgotten it", async || gitea.runners().is_empty()).await;
    assert!(runner.fetch_task(0).await.is_err(), "the broker sees that, too");
    drop(runner);
    eventually("there is room", async || asks("b").await.is_ok()).await;
    broker.stop().await;
}

/// All places with Gitea are taken, and three wait for theirs by a token that becomes single-use meanwhile.
#[tokio::test]
async fn unpin_holds_for_those_that_wait() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let (busy, token) = (token(&broker, |_| {}).await, token(&broker, |_| {}).await);
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let asks = |token: &Issued, name: String| {
        let options = RegisterOptions::new(token.secret.clone(), &name);
        let program = StandInRunner::new(&broker.url);
        tokio::spawn(async move { program.register(&options).await })
    };
    let first: Vec<_> = (0..16).map(|i| asks(&busy, format!("r{i}"))).collect();
    gate.reached_by(16).await;
    let waiting: Vec<_> = (0..3).map(|i| asks(&token, format!("w{i}"))).collect();
    eventually("they wait", async || broker.lifecycle.registering() == 19).await;
    broker.lifecycle.unpin_token(&token.token.token.id, &admin()).await.unwrap();
    gate.open();
    for one in first.into_iter().chain(waiting) {
        drop(one.await.unwrap());
    }
    let uses = broker.lifecycle.token(&token.token.token.id).unwrap().token.uses;
    assert_eq!(uses, 1, "a single-use token");
    broker.stop().await;
}

/// Also where it is being written down at that moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_noted_is_in_the_list() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let lifecycle = std::sync::Arc::clone(&broker.lifecycle);
    let writer = tokio::spawn(async move {
        loop {
            lifecycle.write_changes().await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    for count in 1..=100 {
        broker.lifecycle.note_event(Event::now("admin", What::AdminRefused));
        let filter = EventFilter {
            what: Some(What::AdminRefused),
            limit: usize::MAX,
            ..EventFilter::default()
        };
        assert_eq!(broker.lifecycle.events(filter).await.unwrap().len(), count);
    }
    writer.abort();
    broker.stop().await;
}

/// A database that compares without case, as MySQL does unless told otherwise, finds the runner.
#[tokio::test]
async fn another_spelling_of_the_uuid_is_the_same_runner() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let token = token(&broker, |draft| draft.policy.labels = vec!["host".into()]).await;
    let mut runner = register(&broker, &token, "a").await.unwrap();
    runner.credentials.uuid = runner.credentials.uuid.to_uppercase();
    drop(runner.declare(&["gpu"]).await);
    let declared = gitea.journal().count(|entry| entry.target.ends_with("/Declare"));
    assert_eq!(declared, 0, "labels that the token does not allow went to Gitea");
    broker.stop().await;
}
