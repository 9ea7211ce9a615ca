//! Enrollment tokens and their secrets.

use super::*;
use crate::broker::Token;
use crate::broker::token::{Kind, Origin, Policy};

/// Later than any test runs.
fn later(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(40_000_000_000 + seconds)
}

fn happened(what: What) -> Event {
    Event { at: at(0), ..Event::now("admin", what) }
}

/// A token of which every field is set.
pub(super) fn token(id: &str) -> Token {
    Token {
        id: id.into(),
        kind: Kind::Reusable,
        origin: Origin::Created,
        active: true,
        cascade: false,
        deleted_at: None,
        parent_id: Some("Parent0001".into()),
        description: "for \"them\"; DROP TABLE tokens".into(),
        policy: Policy {
            scope: Scope::Repo { owner: "o".into(), name: "n-m".into() },
            labels: vec!["ubuntu".into(), "a\"b".into()],
            name_pattern: Some("builder-*".into()),
            ephemeral_only: true,
            max_uses: Some(u32::MAX),
            max_runners: Some(3),
            expires_at: Some(later(0)),
            allowed_cidrs: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        },
        created_at: at(0),
        created_by: "admin:ada".into(),
        last_used_at: Some(at(5)),
        uses: 7,
    }
}

/// A token of which only what must be is set.
fn bare(id: &str) -> Token {
    let policy = Policy::of_scope(Scope::Instance);
    let token = Token { active: false, cascade: true, parent_id: None, policy, ..token(id) };
    Token { description: String::new(), last_used_at: None, uses: 0, ..token }
}

async fn insert(store: &Store, token: &Token, digest: u8) {
    let event = happened(What::TokenCreated);
    store.insert_token(token.clone(), [digest; 32], event).await.unwrap();
}

/// The digests of a token's secrets by their first byte, with their ends.
async fn secrets(store: &Store, id: &str) -> Vec<(u8, Option<SystemTime>)> {
    let tokens = store.tokens().await.unwrap();
    let stored = tokens.into_iter().find(|stored| stored.token.id == id).unwrap();
    stored.secrets.iter().map(|secret| (secret.digest[0], secret.until)).collect()
}

async fn kept(store: &Store, id: &str) -> Option<Token> {
    let tokens = store.tokens().await.unwrap();
    tokens.into_iter().map(|stored| stored.token).find(|token| token.id == id)
}

/// No event can be kept from now on.
async fn refuse_events(store: &Store) {
    let trigger =
        "CREATE TRIGGER refuse BEFORE INSERT ON events BEGIN SELECT raise(ABORT, 'no'); END";
    store.call(move |c| c.execute_batch(trigger)).await.unwrap();
}

#[tokio::test]
async fn every_field_comes_back() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let mut expected = vec![bare("Bare"), Token { deleted_at: Some(at(8)), ..token("Deleted") }];
    for kind in Kind::ALL {
        for origin in Origin::ALL {
            let token = token(&format!("{kind}-{origin}"));
            expected.push(Token { kind: *kind, origin: *origin, ..token });
        }
    }
    // Kept in the other order, to come back by age.
    for (n, token) in expected.iter_mut().enumerate().rev() {
        token.created_at = at(n as u64);
        insert(&store, token, n as u8).await;
    }
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    let tokens = store.tokens().await.unwrap();
    assert_eq!(tokens.len(), expected.len());
    for ((n, stored), token) in (0..).zip(tokens).zip(expected) {
        assert_eq!(stored.token, token);
        assert_eq!(stored.secrets, [TokenSecret { digest: [n; 32], until: None }]);
    }
}

#[tokio::test]
async fn a_change_leaves_what_registrations_count() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    insert(&store, &token("T"), 1).await;
    let changed = Token {
        id: "T".into(),
        kind: Kind::SingleUse,
        origin: Origin::Exchanged,
        deleted_at: Some(at(3)),
        created_by: "other".into(),
        ..bare("T")
    };
    store.save_token(changed.clone(), happened(What::TokenDisabled)).await.unwrap();
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    let expected = Token { uses: 7, last_used_at: Some(at(5)), ..changed };
    assert_eq!(kept(&store, "T").await, Some(expected));
    assert_eq!(secrets(&store, "T").await, [(1, None)]);

    store.save_token(token("Other"), happened(What::TokenEnabled)).await.unwrap_err();
    assert_eq!(kept(&store, "Other").await, None, "one that was pruned does not come back");
    assert_eq!(number(&store, "SELECT count(*) FROM events").await, 2);
}

#[tokio::test]
async fn a_deleted_token_stays_without_its_secrets() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    insert(&store, &token("T"), 1).await;
    insert(&store, &token("U"), 2).await;
    let rotated = happened(What::TokenRotated);
    store.rotate_token("T", [3; 32], later(0), rotated).await.unwrap();
    let deleted = Token { deleted_at: Some(at(9)), cascade: true, ..token("T") };
    store.delete_token(deleted.clone(), happened(What::TokenDeleted)).await.unwrap();
    assert_eq!(kept(&store, "T").await, Some(deleted));
    assert_eq!(secrets(&store, "T").await, []);
    assert_eq!(secrets(&store, "U").await, [(2, None)]);
    store.delete_token(token("Other"), happened(What::TokenDeleted)).await.unwrap_err();
}

#[tokio::test]
async fn a_rotation_lets_the_old_secret_live_on() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    insert(&store, &token("T"), 1).await;
    insert(&store, &token("U"), 100).await;
    let rotate =
        |digest, until| store.rotate_token("T", [digest; 32], until, happened(What::TokenRotated));
    rotate(2, later(60)).await.unwrap();
    assert_eq!(secrets(&store, "T").await, [(2, None), (1, Some(later(60)))]);
    rotate(3, later(30)).await.unwrap();
    let sooner = |old| [(3, None), (old, Some(later(30))), (3 - old, Some(later(30)))];
    let now = secrets(&store, "T").await;
    assert!(now == sooner(1) || now == sooner(2), "none outlives a later overlap: {now:?}");
    rotate(4, later(60)).await.unwrap();
    let now = secrets(&store, "T").await;
    assert_eq!((now[0], now[1]), ((4, None), (3, Some(later(60)))));
    assert_eq!((now[2].1, now[3].1), (Some(later(30)), Some(later(30))), "none lives longer");
    rotate(5, SystemTime::now()).await.unwrap();
    assert_eq!(secrets(&store, "T").await, [(5, None)], "at once");

    rotate(6, later(90)).await.unwrap();
    let two = [(6, None), (5, Some(later(90)))];
    assert_eq!(secrets(&store, "T").await, two);
    rotate(6, later(0)).await.expect_err("no secret is given twice");
    store.close().await.unwrap();

    let store = Store::open(&path).unwrap();
    assert_eq!(secrets(&store, "T").await, two);
    assert_eq!(secrets(&store, "U").await, [(100, None)]);
    let rotated = happened(What::TokenRotated);
    store.rotate_token("Other", [9; 32], later(0), rotated).await.unwrap_err();
}

#[tokio::test]
async fn declared_tokens_follow_the_settings() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let declared = |token: Token| Token { origin: Origin::Declared, ..token };
    let first = declared(token("one"));
    let deleted = Token { deleted_at: Some(at(9)), ..declared(bare("two")) };
    let event = happened(What::TokenDeclared);
    store.declare_tokens(vec![first, deleted], vec![event.clone(), event]).await.unwrap();

    let changed = Token { created_at: at(77), created_by: "other".into(), ..declared(bare("one")) };
    let again = Token { created_at: at(77), uses: 99, ..declared(token("two")) };
    let event = happened(What::TokenChanged);
    store.declare_tokens(vec![changed.clone(), again.clone()], vec![event]).await.unwrap();
    let changed = Token { created_at: at(0), last_used_at: Some(at(5)), uses: 7, ..changed };
    assert_eq!(kept(&store, "one").await, Some(changed));
    let again = Token { created_at: at(0), last_used_at: None, uses: 0, ..again };
    assert_eq!(kept(&store, "two").await, Some(again));
    assert_eq!(number(&store, "SELECT count(*) FROM events").await, 3);
    assert_eq!(number(&store, "SELECT count(*) FROM token_secrets").await, 0);
}

#[tokio::test]
async fn a_registration_counts_for_its_token_and_those_above() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    insert(&store, &bare("Parent"), 1).await;
    insert(&store, &Token { parent_id: Some("Parent".into()), ..bare("Child") }, 2).await;
    insert(&store, &bare("Other"), 3).await;
    let uses = async || {
        let used = |token: Option<Token>| token.map(|token| (token.uses, token.last_used_at));
        let ids = ["Parent", "Child", "Other"];
        futures_util::future::join_all(ids.map(async |id| used(kept(&store, id).await).unwrap()))
            .await
    };
    let none = (0, None);
    let event = Event { runner_id: Some(5), ..happened(What::RunnerRegistered) };
    let mut new = NewRunner { event, ..new_runner("n1") };
    new.token_ids = vec!["Child".into(), "Parent".into(), "gone".into()];
    store.insert_intent(new.intent.clone()).await.unwrap();
    store.mark_unclear("n1", "cut off".into()).await.unwrap();
    assert_eq!(uses().await, [none, none, none], "not before it succeeded");
    let id = store.complete(new.clone()).await.unwrap().record_id;
    let once = (1, Some(at(1)));
    assert_eq!(uses().await, [once, once, none]);

    // The same uuid once more: neither a record, nor a use, nor an event.
    let mut twin = NewRunner { registered_at: at(2), ..new.clone() };
    twin.intent.nonce = "n2".into();
    store.insert_intent(twin.intent.clone()).await.unwrap();
    store.complete(twin).await.unwrap_err();
    store.set_state(id, RecordState::Ended(Reason::Admin), None).await.unwrap();
    assert_eq!(uses().await, [once, once, none]);
    let filter = EventFilter { runner_id: Some(5), limit: 9, ..Default::default() };
    assert_eq!(store.events(filter).await.unwrap().len(), 1);

    let mut next = NewRunner { registered_at: at(3), ..new_runner("n3") };
    next.token_ids = vec!["Parent".into()];
    store.complete(next).await.unwrap();
    assert_eq!(uses().await, [(2, Some(at(3))), once, none]);
}

#[tokio::test]
async fn no_change_is_kept_without_its_event() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    insert(&store, &token("T"), 1).await;
    let mut new = new_runner("n1");
    new.token_ids = vec!["T".into()];
    let record = store.complete(new.clone()).await.unwrap();
    let tokens = store.tokens().await.unwrap();
    refuse_events(&store).await;

    let event = happened(What::TokenChanged);
    let deleted = Token { deleted_at: Some(at(9)), ..bare("T") };
    store.insert_token(token("U"), [2; 32], event.clone()).await.unwrap_err();
    store.save_token(bare("T"), event.clone()).await.unwrap_err();
    store.rotate_token("T", [2; 32], later(0), event.clone()).await.unwrap_err();
    store.delete_token(deleted.clone(), event.clone()).await.unwrap_err();
    store.declare_tokens(vec![bare("T"), bare("v")], vec![event.clone()]).await.unwrap_err();
    let ended = RecordState::Ended(Reason::Admin);
    store.set_state(record.record_id, ended, Some(event.clone())).await.unwrap_err();
    new.credentials.uuid = "another".into();
    new.intent.nonce = "n2".into();
    store.insert_intent(new.intent.clone()).await.unwrap();
    store.complete(new).await.unwrap_err();

    assert_eq!(store.tokens().await.unwrap(), tokens);
    let records = store.runners().await.unwrap();
    assert_eq!(format!("{records:?}"), format!("{:?}", [record]));
    assert_eq!(store.intents().await.unwrap().len(), 1);
    assert_eq!(store.answers(at(0)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_ended_a_day_ago_and_is_needed_by_none_is_pruned() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let day = queries::KEEP_ENDED;
    let now = at(1_000_000);
    let (just, before) = (Some(now - day), Some(now - day - Duration::from_millis(1)));
    let with = |origin, kind, ends: [Option<SystemTime>; 3], uses| {
        let [deleted_at, expires_at, last_used_at] = ends;
        let policy = Policy { expires_at, ..bare("").policy };
        Token { origin, kind, deleted_at, policy, last_used_at, uses, ..bare("") }
    };
    use Kind::{Reusable, SingleUse};
    use Origin::{Created, Declared, Exchanged};
    let cases = [
        ("deleted", with(Created, Reusable, [before, None, None], 0), true),
        ("deleted by the settings", with(Declared, Reusable, [before, None, None], 0), true),
        ("deleted child", with(Exchanged, SingleUse, [before, just, None], 0), true),
        ("just deleted", with(Created, Reusable, [just, before, before], 1), false),
        ("expired child", with(Exchanged, SingleUse, [None, before, None], 0), true),
        ("expired pinned child", with(Exchanged, Reusable, [None, before, just], 3), true),
        ("just expired child", with(Exchanged, SingleUse, [None, just, None], 0), false),
        ("used child", with(Exchanged, SingleUse, [None, just, before], 1), true),
        ("just used child", with(Exchanged, SingleUse, [None, just, just], 1), false),
        ("used pinned child", with(Exchanged, Reusable, [None, None, before], 1), false),
        ("unused child", with(Exchanged, SingleUse, [None, None, None], 0), false),
        ("expired, an admin's", with(Created, Reusable, [None, before, None], 0), false),
        ("used up, an admin's", with(Created, SingleUse, [None, None, before], 1), false),
        ("expired, of the settings", with(Declared, Reusable, [None, before, before], 1), false),
        ("with a runner", with(Exchanged, SingleUse, [before, before, before], 1), false),
        ("with an ended runner", with(Exchanged, SingleUse, [None, None, before], 1), false),
        ("with an intent", with(Created, Reusable, [before, None, None], 0), false),
        ("with a child", with(Created, Reusable, [before, None, None], 0), false),
        ("with a pruned child", with(Created, Reusable, [before, None, None], 0), false),
    ];
    for (n, (id, token, _)) in (0..).zip(&cases) {
        let id = (*id).to_owned();
        insert(&store, &Token { id, ..token.clone() }, n).await;
    }
    let child = |id, of: &str| Token { parent_id: Some(of.into()), ..bare(id) };
    insert(&store, &child("child", "with a child"), 200).await;
    let gone = Token { deleted_at: before, ..child("pruned child", "with a pruned child") };
    insert(&store, &gone, 201).await;
    for (nonce, parent) in [("n1", "with a runner"), ("n2", "with an ended runner")] {
        let mut new = new_runner(nonce);
        new.intent.key.parent_id = parent.into();
        // What it counts is set by the table.
        new.token_ids = vec![];
        let id = store.complete(new).await.unwrap().record_id;
        if nonce == "n2" {
            store.set_state(id, RecordState::Ended(Reason::Runner), None).await.unwrap();
        }
    }
    let mut waiting = intent("n3", Scope::Instance);
    waiting.key.parent_id = "with an intent".into();
    store.insert_intent(waiting).await.unwrap();

    let mut pruned = store.prune_tokens(now).await.unwrap();
    pruned.sort_unstable();
    let wanted = cases.iter().filter(|(_, _, pruned)| *pruned).map(|(id, ..)| *id);
    let mut expected: Vec<_> = wanted.chain(["pruned child"]).collect();
    expected.sort_unstable();
    assert_eq!(pruned, expected);
    for id in &expected {
        assert_eq!(kept(&store, id).await, None, "{id}");
    }
    assert_eq!(store.tokens().await.unwrap().len(), cases.len() + 2 - expected.len());
    let orphans =
        "SELECT count(*) FROM token_secrets WHERE token_id NOT IN (SELECT id FROM tokens)";
    assert_eq!(number(&store, orphans).await, 0);
    // The parent goes with the next, and then there is nothing to do.
    assert_eq!(store.prune_tokens(now).await.unwrap(), ["with a pruned child"]);
    assert_eq!(store.prune_tokens(now).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn revoked_records_are_to_be_deregistered() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let mut ids = Vec::new();
    for nonce in ["active", "leaving", "ended", "spared"] {
        ids.push(store.complete(new_runner(nonce)).await.unwrap().record_id);
    }
    let leaving = RecordState::Deregistering(Reason::Runner);
    store.set_state(ids[1], leaving, None).await.unwrap();
    store.set_state(ids[2], RecordState::Ended(Reason::Admin), None).await.unwrap();
    ids.push(RecordId(999));
    store.revoke([&ids[..3], &ids[4..]].concat()).await.unwrap();
    let states =
        "SELECT group_concat(state || ' ' || coalesce(reason, '-'), ', ' ORDER BY record_id)
                  FROM runners";
    let states: String =
        store.call(move |c| c.query_row(states, [], |row| row.get(0))).await.unwrap();
    assert_eq!(states, "deregistering revoked, deregistering revoked, ended admin, active -");
}
