//! What a row of Gitea's list is that shows the label of a registration.
//!
//! Only what is provably ours is ever deleted. A registration that acted twice (something in front of Gitea
//! repeats requests, and the answer of one is lost) leaves a second row with the label of a record: nobody has
//! credentials for it.

use super::{Reason, RecordState};

/// What the store has of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// It is not over yet.
    Intent,
    /// This record came of it.
    Record {
        /// What Gitea knows it by.
        id: i64,
        /// Where it stands.
        state: RecordState,
    },
}

/// What a row is that shows the label of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// Its registration is not over.
    Open,
    /// A runner's that did not declare itself yet.
    Own,
    /// Ours, and nobody's.
    Orphan,
    /// It cannot be proved ours.
    Stray,
}

/// Tells what the row `id` is from what the store has of its registration; `shown`: whether Gitea's list has the
/// row of this id too.
#[must_use]
pub fn judge(id: i64, traces: &[Trace], shown: impl Fn(i64) -> bool) -> Row {
    if traces.contains(&Trace::Intent) {
        return Row::Open;
    }
    let records = traces.iter().filter_map(|trace| match trace {
        Trace::Record { id, state } => Some((*id, *state)),
        Trace::Intent => None,
    });
    let (ended, live): (Vec<_>, Vec<_>) =
        records.partition(|(_, state)| matches!(state, RecordState::Ended(_)));
    if live.iter().any(|(known, _)| *known == id) {
        return Row::Own;
    }
    let proved = match live.is_empty() {
        // Where Gitea does not show the record's own row, this may be that, with another id.
        false => live.iter().all(|(known, _)| shown(*known)),
        // Its own row was deleted, which nobody proved of one that was lost.
        true => {
            !ended.is_empty()
                && ended.iter().all(|(known, state)| {
                    *known != id && *state != RecordState::Ended(Reason::Lost)
                })
        }
    };
    if proved { Row::Orphan } else { Row::Stray }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: i64, state: RecordState) -> Trace {
        Trace::Record { id, state }
    }

    #[test]
    fn only_what_is_provably_ours_is_an_orphan() {
        use RecordState::{Active, Deregistering, Ended, Lost, Parked};
        let of = |id, traces: &[Trace]| judge(id, traces, |shown| shown == 7);
        assert_eq!(of(8, &[]), Row::Stray, "another broker's, or of a store that was lost");
        assert_eq!(of(8, &[Trace::Intent]), Row::Open);
        assert_eq!(of(8, &[Trace::Intent, record(7, Active)]), Row::Open);
        for state in [Active, Lost, Deregistering(Reason::Runner), Parked(Reason::Runner)] {
            assert_eq!(of(7, &[record(7, state)]), Row::Own, "{state:?}");
            assert_eq!(of(8, &[record(7, state)]), Row::Orphan, "{state:?}");
            assert_eq!(of(8, &[record(6, state)]), Row::Stray, "the record's own is not shown");
        }
        for (reason, other) in [(Reason::Lost, Row::Stray), (Reason::Admin, Row::Orphan)] {
            assert_eq!(of(8, &[record(6, Ended(reason))]), other, "{reason:?}");
            assert_eq!(of(8, &[record(8, Ended(reason))]), Row::Stray, "it was to be deleted");
        }
        // An identity that was handed on.
        let handed_on = [record(7, Ended(Reason::Runner)), record(7, Active)];
        assert_eq!(of(7, &handed_on), Row::Own);
        assert_eq!(of(8, &handed_on), Row::Orphan);
    }
}
