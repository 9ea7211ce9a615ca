//! Tokens that the settings declare, and what else the settings say of enrollment.

use runner_broker::broker::What;
use runner_broker::broker::token::{Origin, State};
use runner_broker::connect::{Codec, encode};
use runner_broker::lifecycle::TokenError;
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use runner_broker::shutdown::Signal;
use runner_broker::store::EventFilter;

use crate::raw::{REGISTER, Wire, request};
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea};
use crate::tokens::admin;

const TEAM_TOKEN: &str = "team-token-of-the-tests-0123456789abcdef";

fn declare(site: &Site, policy: &str) {
    site.write_secret("team", TEAM_TOKEN);
    site.write_config(&format!(
        "[[enrollment.tokens]]\nname = \"team\"\ntoken_file = {:?}\n{policy}\n",
        site.path("team")
    ));
}

async fn asks(broker: &Broker, token: &str, name: &str) -> Result<(), String> {
    let options = RegisterOptions::new(token.to_owned().into(), name);
    let asked = StandInRunner::new(&broker.url).register(&options).await;
    asked.map(drop).map_err(|error| error.code)
}

async fn happened(broker: &Broker, id: &str) -> Vec<What> {
    let filter = EventFilter { token_id: Some(id.into()), limit: 100, ..EventFilter::default() };
    let events = broker.lifecycle.events(filter).await.unwrap();
    events.iter().rev().map(|event| event.what).collect()
}

#[tokio::test]
async fn a_declared_token_follows_the_file() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    declare(&site, "max_uses = 2");
    let broker = Broker::start(&site).await;
    let team = broker.lifecycle.token("team").unwrap();
    assert_eq!((team.token.origin, team.state), (Origin::Declared, State::Active));
    assert_eq!(broker.lifecycle.tokens().len(), 2, "and that of enrollment.token");
    asks(&broker, TEAM_TOKEN, "a").await.unwrap();

    // Nothing but the settings changes it.
    let lifecycle = &broker.lifecycle;
    let declared = |result| matches!(result, Err(TokenError::Declared(id)) if id == "team");
    assert!(declared(lifecycle.disable_token("team", true, &admin()).await));
    assert!(declared(lifecycle.enable_token("team", &admin()).await));
    assert!(declared(lifecycle.pin_token("team", &admin()).await));
    assert!(declared(lifecycle.unpin_token("team", &admin()).await));
    assert!(declared(lifecycle.delete_token("team", true, &admin()).await));
    let rotated = lifecycle.rotate_token("team", std::time::Duration::ZERO, &admin()).await;
    assert!(matches!(rotated, Err(TokenError::Declared(_))));

    declare(&site, "name_pattern = \"ci-*\"\nmax_uses = 2");
    broker.signal(Signal::Reload).await;
    eventually("it is narrower", async || asks(&broker, TEAM_TOKEN, "b").await.is_err()).await;
    assert_eq!(lifecycle.token("team").unwrap().token.uses, 1, "what it counted stays");
    let new = TEAM_TOKEN.replace("team", "new-");
    site.write_secret("team", &new);
    broker.signal(Signal::Reload).await;
    // It holds at once, and is written with the next batch.
    eventually("that is written", async || {
        happened(&broker, "team").await.contains(&What::TokenRotated)
    })
    .await;
    eventually("the new one is taken", async || asks(&broker, &new, "ci-1").await.is_ok()).await;
    assert_eq!(asks(&broker, TEAM_TOKEN, "ci-2").await, Err("unauthenticated".into()));
    assert_eq!(asks(&broker, &new, "ci-2").await, Err("permission_denied".into()), "used up");

    site.write_config("");
    broker.signal(Signal::Reload).await;
    eventually("it is gone", async || lifecycle.token("team").is_err()).await;
    assert_eq!(asks(&broker, &new, "ci-2").await, Err("unauthenticated".into()));
    assert_eq!(gitea.runners().len(), 2, "its runners stay");
    let expected = [
        What::TokenDeclared,
        What::RunnerRegistered,
        What::TokenChanged,
        What::TokenRotated,
        What::RunnerRegistered,
        What::TokenDeleted,
    ];
    let told = happened(&broker, "team").await;
    let told: Vec<_> = told.into_iter().filter(|what| *what != What::RegistrationRefused).collect();
    assert_eq!(told, expected);
    broker.stop().await;
}

#[tokio::test]
async fn a_restart_tells_nothing_new_of_what_is_declared() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("shutdown.deregister", "none");
    declare(&site, "kind = \"single_use\"\nexpires_at = 2999-12-31T23:59:59.123456789Z");
    let broker = Broker::start(&site).await;
    asks(&broker, TEAM_TOKEN, "a").await.unwrap();
    broker.stop().await;
    let broker = Broker::start(&site).await;
    assert_eq!(broker.lifecycle.token("team").unwrap().state, State::UsedUp);
    assert_eq!(broker.lifecycle.token("team").unwrap().live_runners, 1);
    assert_eq!(happened(&broker, "team").await, [What::TokenDeclared, What::RunnerRegistered]);
    broker.stop().await;

    // Taken out while the broker was away, it is no more.
    site.write_config("");
    let broker = Broker::start(&site).await;
    assert!(broker.lifecycle.token("team").is_err());
    assert_eq!(asks(&broker, TEAM_TOKEN, "b").await, Err("unauthenticated".into()));
    broker.stop().await;
}

#[tokio::test]
async fn without_any_declared_token_an_admin_makes_the_first() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("enrollment.token_file", "");
    let broker = Broker::start(&site).await;
    assert!(broker.lifecycle.tokens().is_empty());
    assert_eq!(asks(&broker, ENROLLMENT_TOKEN, "a").await, Err("unauthenticated".into()));
    let token = crate::tokens::token(&broker, |_| {}).await;
    crate::tokens::register(&broker, &token, "a").await.unwrap();
    broker.stop().await;
}

/// Who may name the runner's address: only proxies that the settings trust.
#[tokio::test]
async fn the_address_is_the_peers_or_what_a_trusted_proxy_says() {
    for (trusted, forwarded, admitted) in [
        ("", "10.1.2.3", false),
        ("127.0.0.0/8", "10.1.2.3", true),
        ("127.0.0.0/8", "10.1.2.3, 192.168.0.1", false),
        ("127.0.0.0/8,192.168.0.1", "10.1.2.3, 192.168.0.1", true),
        ("127.0.0.0/8", "\u{e9}, 10.1.2.3", true),
        ("127.0.0.0/8", "", false),
        ("10.0.0.0/8", "10.1.2.3", false),
    ] {
        let gitea = gitea();
        let site = Site::new(&gitea).set("listen.trusted_proxies", trusted);
        declare(&site, "allowed_cidrs = [\"10.0.0.0/8\"]");
        let broker = Broker::start(&site).await;
        let mut wire = Wire::dial(&broker.url).await;
        let mut asked = request("a");
        asked.token = TEAM_TOKEN.into();
        let headers = [("Content-Type", "application/proto"), ("X-Forwarded-For", forwarded)];
        wire.post(REGISTER, &headers, &encode(Codec::Proto, &asked)).await;
        let answer = wire.answer().await.unwrap();
        assert_eq!(answer.status == 200, admitted, "{trusted:?} {forwarded:?}");
        if admitted {
            let record = broker.lifecycle.roster.all()[0].record();
            assert_eq!(record.peer.to_string(), "10.1.2.3");
        }
        let passed = gitea.journal().count(|entry| entry.headers.contains_key("x-forwarded-for"));
        assert_eq!(passed, 0, "it goes no further");
        broker.stop().await;
    }
}
