use proptest::prelude::*;

use super::super::runner::Reason;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn ended(reason: Reason, ago: Duration) -> Record {
    let ended_at = Some(SystemTime::UNIX_EPOCH + DAY * 100 - ago);
    Record { state: RecordState::Ended(reason), ended_at, ..Record::for_tests(1) }
}

fn wakes(record: &Record) -> Waking {
    waking(record, SystemTime::UNIX_EPOCH + DAY * 100, DAY)
}

fn states() -> Vec<RecordState> {
    let with = |state: fn(Reason) -> RecordState| Reason::ALL.into_iter().map(state);
    [RecordState::Active, RecordState::Lost]
        .into_iter()
        .chain(with(RecordState::Deregistering))
        .chain(with(RecordState::Parked))
        .chain(with(RecordState::Ended))
        .collect()
}

#[test]
fn who_wakes() {
    for reason in Reason::ALL {
        let revivable = matches!(reason, Reason::Shutdown | Reason::Lease);
        let parked = Record { state: RecordState::Parked(reason), ..Record::for_tests(1) };
        let expected = if revivable { Waking::GoesOn } else { Waking::Never };
        assert_eq!(wakes(&parked), expected, "{reason:?}");
        let expected = if revivable { Waking::Revival } else { Waking::Never };
        assert_eq!(wakes(&ended(reason, DAY)), expected, "{reason:?}");
        let late = DAY + Duration::from_millis(1);
        assert_eq!(wakes(&ended(reason, late)), Waking::Never, "{reason:?}");
    }
    let unborn =
        Record { ended_at: Some(SystemTime::UNIX_EPOCH + DAY * 200), ..ended(Reason::Lease, DAY) };
    assert_eq!(wakes(&unborn), Waking::Revival, "the clock was set back");
    let untold = Record { ended_at: None, ..unborn };
    assert_eq!(wakes(&untold), Waking::Never);
}

#[test]
fn pauses_grow_up_to_a_minute() {
    let (begun, first) = (Instant::now(), Duration::from_secs(1));
    let (mut pause, mut now) = (Pause::default(), begun);
    assert_eq!(pause.left(now), None);
    for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
        pause.failed(now, first);
        assert_eq!(pause.left(now), Some(Duration::from_secs(expected)));
        now += Duration::from_secs(expected);
        assert_eq!(pause.left(now), None);
    }
    let mut pause = Pause::default();
    for _ in 0..3 {
        pause.not_asked(now, first);
        assert_eq!(pause.left(now), Some(first));
    }
}

proptest! {
    /// Every single thing that tells two runners apart keeps the one from the other's identity.
    #[test]
    fn only_one_of_its_own_kind_takes_over(
        state in prop::sample::select(states()),
        parent in prop::sample::select(vec!["", "parent", "other"]),
        scope in prop::sample::select(vec![Scope::Instance, Scope::User]),
        labels in prop::collection::vec("[abB]", 0..4),
        (ephemeral, newcomer_ephemeral, disabled) in any::<(bool, bool, bool)>(),
        busy in prop::collection::vec(1i64..3, 0..2),
    ) {
        let record = Record {
            state, scope, ephemeral, disabled, tasks: busy.clone(),
            parent_id: parent.into(), ..Record::for_tests(1)
        };
        for newcomer_parent in ["", "parent"] {
            let newcomer = Newcomer {
                parent_id: newcomer_parent,
                scope: &Scope::Instance,
                name: "two",
                labels: &labels,
                ephemeral: newcomer_ephemeral,
            };
            let same_labels = labels.iter().all(|label| label == "a" || label == "b")
                && ["a", "b"].iter().all(|label| labels.iter().any(|one| one == label));
            let expected = matches!(state, RecordState::Parked(_))
                && parent == "parent" && newcomer_parent == "parent"
                && record.scope == Scope::Instance
                && !ephemeral && !newcomer_ephemeral && !disabled
                && busy.is_empty() && same_labels;
            prop_assert_eq!(fits(&record, &newcomer), expected);
        }
    }
}
