//! What holds for all tokens and events.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::broker::Token;
use crate::broker::token::{Kind, Origin, Policy};

/// Control characters too.
fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

/// The store keeps milliseconds.
fn time() -> impl Strategy<Value = SystemTime> {
    (0..=i64::MAX as u64).prop_map(|ms| UNIX_EPOCH + Duration::from_millis(ms))
}

fn scope() -> impl Strategy<Value = Scope> {
    let name = "[A-Za-z0-9_-][A-Za-z0-9_.-]{0,8}";
    prop_oneof![
        Just(Scope::Instance),
        Just(Scope::User),
        name.prop_map(Scope::Org),
        (name, name).prop_map(|(owner, name)| Scope::Repo { owner, name }),
    ]
}

fn network() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0..=32_u8).prop_map(|(address, bits)| IpNet::new(address, bits).unwrap())
}

prop_compose! {
    fn policy()(
        scope in scope(),
        labels in vec(text(), 0..4),
        name_pattern in option::of(text()),
        ephemeral_only: bool,
        max_uses: Option<u32>,
        max_runners: Option<u32>,
        expires_at in option::of(time()),
        allowed_cidrs in vec(network(), 0..4),
    ) -> Policy {
        Policy {
            scope, labels, name_pattern, ephemeral_only, max_uses, max_runners, expires_at, allowed_cidrs,
        }
    }
}

prop_compose! {
    fn token()(
        (id, description, created_by) in (text(), text(), text()),
        parent_id in option::of(text()),
        kind in select(Kind::ALL),
        origin in select(Origin::ALL),
        (active, cascade) in any::<(bool, bool)>(),
        (created_at, deleted_at, last_used_at) in (time(), option::of(time()), option::of(time())),
        policy in policy(),
        uses in 0..=i64::MAX as u64,
    ) -> Token {
        Token {
            id, kind, origin, active, cascade, deleted_at, parent_id, description, policy, created_at,
            created_by, last_used_at, uses,
        }
    }
}

prop_compose! {
    fn event()(
        at in time(),
        (actor, detail) in (text(), text()),
        what in select(What::ALL),
        (token_id, runner) in (option::of(text()), option::of(text())),
        runner_id: Option<i64>,
        peer: Option<IpAddr>,
    ) -> Event {
        Event { seq: 1, at, actor, what, token_id, runner_id, runner, peer, detail }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn tokens_and_events_come_back_as_they_were(
        token in token(), digest: [u8; 32], event in event(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (_folder, path) = place();
        let (tokens, events) = runtime.block_on(async {
            let store = Store::open(&path).unwrap();
            store.insert_token(token.clone(), digest, event.clone()).await.unwrap();
            // What changes nothing leaves it so.
            store.save_token(token.clone(), event.clone()).await.unwrap();
            store.declare_tokens(vec![token.clone()], vec![]).await.unwrap();
            let filter = EventFilter {
                token_id: event.token_id.clone(),
                runner_id: event.runner_id,
                what: Some(event.what),
                before: Some(2),
                limit: 9,
            };
            (store.tokens().await.unwrap(), store.events(filter).await.unwrap())
        });
        prop_assert_eq!(tokens, [StoredToken { token, secrets: vec![TokenSecret { digest, until: None }] }]);
        prop_assert_eq!(events, [event]);
    }
}
