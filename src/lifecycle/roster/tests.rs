use proptest::prelude::*;

use super::*;
use crate::broker::{Credentials, Reason};
use crate::config::Scope;

fn parked(id: i64) -> Record {
    Record { state: RecordState::Parked(Reason::Lease), ..Record::for_tests(id) }
}

fn newcomer<'a>(name: &'a str, labels: &'a [String]) -> Newcomer<'a> {
    Newcomer { parent_id: "parent", scope: &Scope::Instance, name, labels, ephemeral: false }
}

fn ids(found: &[Arc<Live>]) -> Vec<i64> {
    found.iter().map(|live| live.record_id.0).collect()
}

#[test]
fn runners_are_found_by_their_record_as_long_as_they_live() {
    let roster = Roster::default();
    let lives: Vec<_> = [3, 1, 2].map(|id| roster.insert(Record::for_tests(id))).into();
    assert_eq!(ids(&roster.all()), [1, 2, 3]);
    assert_eq!(roster.len(), 3);
    assert!(Arc::ptr_eq(&roster.get(RecordId(3)).unwrap(), &lives[0]));
    assert!(roster.resting(&Record::for_tests(3)).is_none(), "it does not rest");

    lives[0].set_state(RecordState::Ended(Reason::Lease));
    roster.lay_down(&lives[0]);
    assert!(roster.get(RecordId(3)).is_none());
    assert!(Arc::ptr_eq(&roster.resting(&Record::for_tests(3)).unwrap(), &lives[0]));
    let other = Record { record_id: RecordId(4), ..Record::for_tests(3) };
    assert!(roster.resting(&other).is_none(), "its uuid is another record's");

    lives[0].set_state(RecordState::Active);
    roster.wake(&lives[0]);
    assert_eq!(ids(&roster.all()), [1, 2, 3]);
    roster.remove(&lives[1]);
    roster.remove(&lives[1]);
    assert_eq!(ids(&roster.all()), [2, 3]);
}

#[test]
fn a_record_in_the_place_of_another_of_its_uuid_pushes_that_out() {
    let roster = Roster::default();
    roster.insert(Record { origin: Origin::Adopted, ..Record::for_tests(1) });
    let successor = Record { presented: Record::for_tests(1).presented, ..Record::for_tests(2) };
    roster.insert(successor);
    assert_eq!((ids(&roster.all()), roster.adopted()), (vec![2], 0));
}

#[test]
fn the_adopted_are_counted() {
    let roster = Roster::default();
    let adopted = |id| Record { origin: Origin::Adopted, ..Record::for_tests(id) };
    let lives: Vec<_> = [1, 2].map(|id| roster.insert(adopted(id))).into();
    roster.insert(Record::for_tests(3));
    roster.wake(&lives[0]);
    assert_eq!(roster.adopted(), 2, "each once");
    roster.remove(&lives[0]);
    roster.remove(&lives[0]);
    assert_eq!(roster.adopted(), 1);
}

#[test]
fn what_gitea_knows_runners_by_is_known() {
    let roster = Roster::default();
    let upstream = Credentials { id: 7, uuid: "Upstream".into(), token: "other".into() };
    let apart = roster.insert(Record { upstream, ..Record::for_tests(1) });
    roster.insert(Record::for_tests(2));
    assert!(roster.has_upstream("upstream") && roster.has_upstream("uuid-2"));
    assert!(!roster.has_upstream("uuid-1"), "Gitea knows it by something else");
    assert!(!roster.has_upstream("uuid-3"));
    roster.remove(&apart);
    assert!(!roster.has_upstream("upstream"));
}

#[test]
fn a_file_has_one_owner_until_that_gives_it_up_or_goes() {
    let roster = Roster::default();
    let path = Path::new("/runners/one/.runner");
    let [one, two] = [1, 2].map(|id| roster.insert(Record::for_tests(id)));
    assert_eq!(roster.claim_file(path, &one), Ok(()));
    assert_eq!(roster.claim_file(path, &one), Ok(()), "it is its own");
    assert_eq!(roster.claim_file(path, &two), Err(1));
    roster.release_file(&one);
    assert!(!one.has_file(path));
    assert_eq!(roster.claim_file(path, &two), Ok(()));
    assert_eq!(roster.claim_file(path, &one), Err(2));
    roster.remove(&two);
    assert_eq!(roster.claim_file(path, &one), Ok(()));
    assert_eq!(roster.claim_file(path, &one), Ok(()));
}

#[test]
fn a_file_from_before_a_restart_has_its_owner() {
    let roster = Roster::default();
    let path = PathBuf::from("/runners/one/.runner");
    roster.insert(Record { file: Some(path.clone()), ..Record::for_tests(1) });
    let two = roster.insert(Record::for_tests(2));
    assert_eq!(roster.claim_file(&path, &two), Err(1));
}

#[test]
fn what_was_told_is_listed_once_and_soon_and_what_was_seen_now_and_then() {
    let roster = Roster::default();
    let [told, seen] = [1, 2].map(|id| roster.insert(Record::for_tests(id)));
    assert!(roster.take_touched(true).is_empty(), "nothing happened yet");
    let now = Instant::now();
    for _ in 0..2 {
        told.called(now, true);
        told.note(|activity| activity.works_on(5, now));
        seen.called(now, true);
        seen.note(|activity| activity.polls(now));
    }
    assert_eq!(ids(&roster.take_touched(false)), [1]);
    assert!(roster.take_touched(false).is_empty());
    assert_eq!(told.take_touch().unwrap().tasks, [5]);
    let lists = roster.take_touched(true);
    assert!(
        lists.iter().all(|live| live.record_id == RecordId(1) || live.record_id == RecordId(2))
    );
    let touches: Vec<_> = lists.iter().filter_map(|live| live.take_touch()).collect();
    assert_eq!(touches.iter().map(|touch| touch.record_id.0).collect::<Vec<_>>(), [2]);
    assert!(touches[0].last_seen_at.is_some());
    assert!(roster.take_touched(true).is_empty());

    // What is not written comes again.
    seen.called(now, true);
    let taken = roster.take_touched(true);
    let _ = seen.take_touch();
    taken.iter().for_each(|live| live.not_written());
    assert_eq!(ids(&roster.take_touched(false)), [2]);
    assert!(seen.take_touch().is_some());
}

#[test]
fn what_one_told_while_it_slept_is_listed_when_it_wakes() {
    let roster = Roster::default();
    let live = roster.insert(Record::for_tests(1));
    live.set_state(RecordState::Ended(Reason::Lease));
    roster.lay_down(&live);
    live.delivered();
    assert!(roster.take_touched(true).is_empty());
    live.set_state(RecordState::Active);
    roster.wake(&live);
    assert_eq!(ids(&roster.take_touched(false)), [1]);
}

#[test]
fn parked_runners_are_found_by_their_kind() {
    let roster = Roster::default();
    let labels = Record::for_tests(1).labels;
    roster.insert(Record::for_tests(1));
    roster.insert(parked(2));
    roster.insert(Record { labels: vec!["a".into()], ..parked(3) });
    roster.insert(Record { ephemeral: true, ..parked(4) });
    roster.insert(Record { parent_id: String::new(), ..parked(5) });
    roster.insert(Record { disabled: true, ..parked(6) });
    roster.insert(Record { scope: Scope::User, ..parked(7) });
    let swapped: Vec<_> = labels.iter().rev().cloned().collect();
    for labels in [labels.clone(), swapped] {
        assert_eq!(ids(&roster.parked_for(&newcomer("any", &labels))), [2]);
    }

    let live = roster.get(RecordId(1)).unwrap();
    live.set_state(RecordState::Parked(Reason::Shutdown));
    roster.is_parked(&live);
    assert_eq!(ids(&roster.parked_for(&newcomer("any", &labels))), [1, 2]);
    // One that comes back, and is parked once more.
    live.set_state(RecordState::Active);
    assert_eq!(ids(&roster.parked_for(&newcomer("any", &labels))), [2]);
    live.set_state(RecordState::Parked(Reason::Shutdown));
    roster.is_parked(&live);
    assert_eq!(ids(&roster.parked_for(&newcomer("any", &labels))), [1, 2]);
    // One whose deregistration was begun and may fail.
    live.set_state(RecordState::Deregistering(Reason::Admin));
    assert_eq!(ids(&roster.parked_for(&newcomer("any", &labels))), [2]);
    live.set_state(RecordState::Parked(Reason::Shutdown));
    assert_eq!(ids(&roster.parked_for(&newcomer("any", &labels))), [1, 2]);
    roster.remove(&live);
    assert_eq!(ids(&roster.parked_for(&newcomer("any", &labels))), [2]);
}

#[test]
fn a_newcomer_is_named_some_of_many() {
    let roster = Roster::default();
    for id in 1..=200 {
        roster.insert(Record { name: format!("n{}", id % 100), ..parked(id) });
    }
    let found = ids(&roster.parked_for(&newcomer("n77", &Record::for_tests(1).labels)));
    assert_eq!(found[..4], [77, 177, 1, 2]);
    assert_eq!(found.len(), 64);
}

proptest! {
    #[test]
    fn the_same_name_and_then_the_oldest_come_first(names in prop::collection::vec("[ab]", 0..8)) {
        let roster = Roster::default();
        let mut expected: Vec<_> = (1_i64..).zip(&names).map(|(id, name)| (name != "a", id)).collect();
        for (other, id) in expected.iter().rev() {
            let name = if *other { "b" } else { "a" };
            roster.insert(Record { name: name.into(), ..parked(*id) });
        }
        expected.sort_unstable();
        let expected: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
        prop_assert_eq!(ids(&roster.parked_for(&newcomer("a", &Record::for_tests(1).labels))), expected);
    }
}
