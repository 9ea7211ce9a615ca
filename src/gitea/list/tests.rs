use proptest::prelude::*;

use super::*;

fn row(id: i64) -> RestRunner {
    RestRunner {
        id,
        name: String::new(),
        labels: vec![],
        online: false,
        busy: false,
        disabled: false,
    }
}

fn page(ids: &[i64], total_count: usize) -> Page {
    Page { runners: ids.iter().copied().map(row).collect(), total_count }
}

fn complete(pages: &[(&[i64], usize)]) -> bool {
    let mut seen = Seen::default();
    pages.iter().for_each(|(ids, total)| seen.add(page(ids, *total)));
    seen.is_complete()
}

#[test]
fn a_list_is_complete_where_as_many_were_there_as_gitea_counted() {
    assert!(complete(&[(&[], 0)]));
    assert!(complete(&[(&[1, 2], 2)]));
    assert!(!complete(&[(&[1, 2], 3), (&[3], 3)]), "one may have gone and another come");
    assert!(complete(&[(&[1, 2], 3), (&[3], 3), (&[1, 2], 3), (&[3], 3)]));
    // The last of the first page called meanwhile, so that one is repeated and one is hidden.
    assert!(!complete(&[(&[1, 2], 3), (&[2], 3), (&[1, 2], 3), (&[2], 3)]));
    assert!(complete(&[(&[1, 2], 3), (&[2], 3), (&[3, 1], 3), (&[2], 3), (&[3, 2], 3), (&[1], 3)]));
    // 1 is deleted and 4 added, so that 3 is hidden, and the count is the same.
    assert!(!complete(&[(&[1, 2], 4), (&[4, 5], 4)]));
    assert!(complete(&[(&[1, 2], 4), (&[4, 5], 4), (&[2, 3], 4), (&[4, 5], 4)]));
    assert!(!complete(&[(&[1, 2], 3), (&[], 3)]));
}

#[test]
fn pages_get_smaller_where_they_cannot_be_read_and_larger_again() {
    let mut place = Place::default();
    let mut asked = Vec::new();
    // Nothing that has the 73rd runner on it can be read, but that one alone.
    while asked.len() < 40 {
        let (page, size) = (place.page(), place.size());
        asked.push((page, size));
        let unread = ((page - 1) * size..page * size).contains(&72) && size > 1;
        if unread {
            assert!(place.narrows());
        } else if place.passes(size.min(170 - (page - 1) * size), 170) {
            break;
        }
    }
    let ones = (71..=80).map(|page| (page, 1));
    let expected = [(1, 50), (2, 50), (6, 10), (7, 10), (8, 10)].into_iter().chain(ones);
    let rest = [(9, 10), (10, 10), (3, 50), (4, 50)];
    assert_eq!(asked, expected.chain(rest).collect::<Vec<_>>());

    let mut place = Place::default();
    assert!(place.narrows() && place.narrows());
    assert_eq!((place.page(), place.size()), (1, 1));
    assert!(!place.narrows(), "there is nothing smaller");
}

#[test]
fn an_instance_with_shorter_pages_is_asked_for_those() {
    let mut place = Place::default();
    assert!(!place.passes(20, 45));
    assert_eq!((place.page(), place.size()), (2, 20));
    assert!(!place.passes(20, 45));
    assert!(place.passes(5, 45));
    let mut place = Place::default();
    assert!(!place.passes(7, 9));
    assert_eq!((place.page(), place.size()), (2, 7));
    assert!(place.narrows());
    assert_eq!((place.page(), place.size()), (8, 1));
}

/// What happens to the list between two answers.
#[derive(Clone, Debug)]
enum Move {
    /// One calls, and comes first.
    Call(usize),
    Leave(usize),
    /// One that never called comes last.
    Come,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => any::<usize>().prop_map(Move::Call),
        1 => any::<usize>().prop_map(Move::Leave),
        1 => Just(Move::Come),
    ];
    prop::collection::vec(one, 0..3)
}

proptest! {
    #[test]
    fn who_was_there_the_whole_time_is_on_every_complete_list(
        count in 0..12_usize,
        size in 1..5_usize,
        between in prop::collection::vec(moves(), 1..24),
    ) {
        let mut list: Vec<i64> = (1..=count as i64).collect();
        let mut next = count as i64 + 1;
        let mut stayed: HashSet<i64> = list.iter().copied().collect();
        let mut seen = Seen::default();
        let mut from = 0;
        for moves in between {
            let shown: Vec<_> = list.iter().copied().skip(from).take(size).collect();
            seen.add(page(&shown, list.len()));
            from = if from + size >= list.len() { 0 } else { from + size };
            for step in moves {
                match step {
                    Move::Call(at) if !list.is_empty() => {
                        let id = list.remove(at % list.len());
                        list.insert(0, id);
                    }
                    Move::Leave(at) if !list.is_empty() => {
                        stayed.remove(&list.remove(at % list.len()));
                    }
                    Move::Come => {
                        list.push(next);
                        next += 1;
                    }
                    _ => {}
                }
            }
        }
        let Listing { runners, complete } = seen.into_listing();
        let shown: HashSet<_> = runners.iter().map(|runner| runner.id).collect();
        prop_assert!(!complete || stayed.is_subset(&shown), "{stayed:?} {shown:?}");
    }

    #[test]
    fn a_list_that_stands_still_is_complete_after_two_readings(
        count in 0..40_usize,
        size in 1..8_usize,
    ) {
        let list: Vec<i64> = (1..=count as i64).collect();
        let mut seen = Seen::default();
        for _ in 0..2 {
            for shown in list.chunks(size) {
                seen.add(page(shown, count));
            }
        }
        if count == 0 {
            seen.add(page(&[], 0));
        }
        prop_assert!(seen.is_complete());
    }
}
