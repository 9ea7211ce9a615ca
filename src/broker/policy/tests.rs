use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::broker::token::{Kind, Origin, Policy};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn token() -> Token {
    Token {
        id: "Token".into(),
        kind: Kind::Reusable,
        origin: Origin::Created,
        active: true,
        cascade: false,
        deleted_at: None,
        parent_id: None,
        description: String::new(),
        policy: Policy::of_scope(Scope::Instance),
        created_at: NOW,
        created_by: "socket".into(),
        last_used_at: None,
        uses: 0,
    }
}

fn with(change: impl FnOnce(&mut Policy)) -> Token {
    let mut token = token();
    change(&mut token.policy);
    token
}

fn labels_of(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn asks(labels: &[String]) -> Asks<'_> {
    Asks { name: "builder-1", labels, ephemeral: false, peer: [10, 0, 0, 7].into() }
}

#[test]
fn a_token_without_limits_allows_all() {
    assert_eq!(allows([&token()], &asks(&labels_of(&["any", "x:docker://y"])), NOW), Ok(()));
    assert_eq!(room(&token(), 1_000_000, 1_000_000), Room::Free);
}

#[test]
fn each_limit_refuses_with_what_it_is_about() {
    let asked = labels_of(&["ubuntu", "host"]);
    for (token, refusal) in [
        (with(|p| p.ephemeral_only = true), Refusal::NotEphemeral),
        (with(|p| p.name_pattern = Some("ci-*".into())), Refusal::Name("ci-*".into())),
        (with(|p| p.labels = labels_of(&["ubuntu"])), Refusal::Label("host".into())),
        (with(|p| p.labels = labels_of(&["ubuntu:x", "host"])), Refusal::Label("ubuntu".into())),
        (
            with(|p| p.allowed_cidrs = vec!["192.168.0.0/16".parse().unwrap()]),
            Refusal::Address([10, 0, 0, 7].into()),
        ),
        (with(|p| p.expires_at = Some(NOW)), Refusal::Expired),
        (Token { active: false, ..token() }, Refusal::Disabled),
        (Token { deleted_at: Some(NOW), ..token() }, Refusal::Token),
    ] {
        assert_eq!(allows([&token], &asks(&asked), NOW), Err(refusal.clone()));
        assert!(!refusal.to_string().is_empty());
    }
    let all = with(|p| {
        p.name_pattern = Some("b?ilder-*".into());
        p.labels = labels_of(&["host", "ubuntu"]);
        p.allowed_cidrs = vec!["10.0.0.0/8".parse().unwrap()];
        p.expires_at = Some(NOW + Duration::from_secs(1));
    });
    assert_eq!(allows([&all], &asks(&asked), NOW), Ok(()));
}

#[test]
fn what_is_used_up_still_allows_who_asks_again() {
    let used_up = Token { kind: Kind::SingleUse, uses: 1, ..token() };
    assert_eq!(allows([&used_up], &asks(&[]), NOW), Ok(()));
    assert_eq!(room(&used_up, 0, 0), Room::None(Refusal::UsedUp));
}

#[test]
fn who_comes_back_is_no_newcomer() {
    let peer = [10, 0, 0, 7].into();
    let mut spent = with(|policy| {
        policy.expires_at = Some(NOW);
        policy.max_uses = Some(1);
        policy.max_runners = Some(1);
        policy.labels = labels_of(&["other"]);
        policy.ephemeral_only = true;
    });
    spent.kind = Kind::SingleUse;
    spent.uses = 7;
    assert_eq!(may_return([&spent, &token()], peer), Ok(()));
    let disabled = Token { active: false, ..token() };
    let deleted = Token { deleted_at: Some(NOW), ..token() };
    let elsewhere = with(|policy| policy.allowed_cidrs = vec!["10.1.0.0/16".parse().unwrap()]);
    // Its own token, and one that it was exchanged for.
    for (token, refusal) in [
        (&disabled, Refusal::Disabled),
        (&deleted, Refusal::Token),
        (&elsewhere, Refusal::Address(peer)),
    ] {
        assert_eq!(may_return([token], peer), Err(refusal.clone()));
        assert_eq!(may_return([&spent, token], peer), Err(refusal));
    }
}

#[test]
fn a_place_that_is_taken_may_become_free() {
    let single = Token { kind: Kind::SingleUse, ..token() };
    assert_eq!(room(&single, 0, 0), Room::Free);
    assert_eq!(room(&single, 0, 1), Room::Taken);
    let three = with(|p| p.max_uses = Some(3));
    assert_eq!(room(&Token { uses: 2, ..three.clone() }, 0, 0), Room::Free);
    assert_eq!(room(&Token { uses: 2, ..three.clone() }, 0, 1), Room::Taken);
    assert_eq!(room(&Token { uses: 3, ..three }, 0, 0), Room::None(Refusal::UsedUp));
    let two = with(|p| p.max_runners = Some(2));
    assert_eq!(room(&two, 1, 0), Room::Free);
    assert_eq!(room(&two, 1, 1), Room::Taken);
    assert_eq!(room(&two, 2, 0), Room::None(Refusal::TooManyRunners(2)));
}

#[test]
fn a_name_is_needed_and_must_be_plain() {
    let named = |name: &str| RegisterRequest { name: name.into(), ..RegisterRequest::default() };
    for name in ["builder", &"ä".repeat(MAX_TEXT)] {
        assert_eq!(request(&named(name)), Ok(()));
    }
    for name in ["", "a\nb", &"ä".repeat(MAX_TEXT + 1)] {
        assert!(matches!(request(&named(name)), Err(Refusal::Request(_))), "{name:?}");
    }
}

#[test]
fn the_brokers_own_label_is_refused() {
    let refusal = labels(&labels_of(&["host", "rb-intent-00"])).unwrap_err();
    assert!(refusal.to_string().contains("rb-intent-"));
    assert!(labels(&labels_of(&["host", "my-rb-intent-x"])).is_ok());
}

fn any_token() -> impl Strategy<Value = Token> {
    let names = prop::sample::subsequence(vec!["a", "b", "c"], 0..=3);
    let patterns = prop::option::of(prop::sample::select(vec!["*", "a*", "?b*", "ab"]));
    let cidrs = prop::sample::subsequence(vec!["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"], 0..=3);
    let limits = (prop::option::of(1_u32..4), prop::option::of(1_u32..4), 0_u64..4);
    let times = (prop::option::of(0_u64..4), any::<bool>(), prop::option::of(Just(NOW)));
    (names, patterns, cidrs, limits, times, any::<[bool; 3]>()).prop_map(
        |(
            names,
            pattern,
            cidrs,
            (max_uses, max_runners, uses),
            (expires, active, deleted_at),
            flags,
        )| {
            let [single, ephemeral_only, cascade] = flags;
            let mut token = with(|p| {
                p.labels = labels_of(&names);
                p.name_pattern = pattern.map(str::to_owned);
                p.allowed_cidrs = cidrs.iter().map(|net| net.parse().unwrap()).collect();
                p.max_uses = max_uses;
                p.max_runners = max_runners;
                p.ephemeral_only = ephemeral_only;
                p.expires_at = expires.map(|s| NOW + Duration::from_secs(s));
            });
            token.kind = if single { Kind::SingleUse } else { Kind::Reusable };
            Token { active, cascade, deleted_at, uses, ..token }
        },
    )
}

proptest! {
    /// Whatever a child's own policy says, what it allows its parent allows too.
    #[test]
    fn a_child_never_allows_what_its_parent_does_not(
        child in any_token(),
        parent in any_token(),
        asked in prop::sample::subsequence(vec!["a", "b:docker://x", "c", "d"], 0..=4),
        name in "[abc]{1,4}",
        ephemeral: bool,
        peer in prop::sample::select(vec!["10.1.2.3", "10.9.9.9", "fd00::1", "8.8.8.8"]),
        at in 0_u64..5,
    ) {
        let asked = labels_of(&asked);
        let peer = peer.parse().unwrap();
        let asks = Asks { name: &name, labels: &asked, ephemeral, peer };
        let now = NOW + Duration::from_secs(at);
        let both = allows([&child, &parent], &asks, now);
        let each = allows([&child], &asks, now).and(allows([&parent], &asks, now));
        prop_assert_eq!(both.is_ok(), each.is_ok());
        if both.is_ok() {
            prop_assert!(labels_allowed([&parent], &asked).is_ok());
        }
    }

    /// Labels that Declare may claim are those that Register might have.
    #[test]
    fn what_declare_allows_register_allows(
        token in any_token(),
        asked in prop::sample::subsequence(vec!["a", "b", "c", "d"], 0..=4),
    ) {
        let asked = labels_of(&asked);
        let register = with(|p| p.labels.clone_from(&token.policy.labels));
        prop_assert_eq!(
            labels_allowed([&token], &asked).is_ok(),
            allows([&register], &asks(&asked), NOW).is_ok()
        );
    }

    /// However registrations run, land and fail, no more are admitted than the limits say.
    #[test]
    fn the_room_is_never_overdrawn(
        start in any_token(),
        steps in prop::collection::vec(0_u8..4, 0..60),
    ) {
        let (mut token, mut live, mut running) = (start, 0_usize, 0_usize);
        token.uses = 0;
        for step in steps {
            match step {
                0 if room(&token, live, running) == Room::Free => running += 1,
                1 if running > 0 => {
                    running -= 1;
                    token.uses += 1;
                    live += 1;
                }
                2 => running = running.saturating_sub(1),
                3 => live = live.saturating_sub(1),
                _ => {}
            }
            if let Some(allowed) = token.uses_allowed() {
                prop_assert!(token.uses <= allowed);
            }
            if let Some(allowed) = token.policy.max_runners {
                prop_assert!(live <= allowed as usize);
            }
        }
    }
}
