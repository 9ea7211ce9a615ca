//! When a runner may be deleted in Gitea, and when it is gone.
//!
//! Ids come back after a restore and then belong to others, and a 404 may mean "no permission": so a
//! runner is deleted only after its own credentials have named the same id, and is taken for gone only
//! where Gitea does not know those credentials.

use super::runner::{Reason, RecordState};

/// What Gitea said to a Declare with the runner's own credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// They are good, and belong to this id.
    Id(i64),
    /// Gitea does not know them.
    Unregistered,
}

/// What Gitea said to the DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// 204
    Deleted,
    /// 404
    NotFound,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Delete the runner.
    Delete,
    /// It is gone: end the record.
    Gone,
    /// Leave it: the id belongs to another runner than the record says.
    OtherId(i64),
    /// Leave it: it is there, and the API token may not delete it.
    NotPermitted,
}

/// Before anything is deleted.
#[must_use]
pub fn before_delete(proof: Proof, id: i64) -> Step {
    match proof {
        Proof::Id(named) if named == id => Step::Delete,
        Proof::Id(named) => Step::OtherId(named),
        Proof::Unregistered => Step::Gone,
    }
}

/// After the DELETE; `again` is a second proof, which is asked for only after a 404.
#[must_use]
pub fn after_delete(deletion: Deletion, again: Option<Proof>) -> Step {
    match (deletion, again) {
        (Deletion::Deleted, _) | (Deletion::NotFound, Some(Proof::Unregistered)) => Step::Gone,
        (Deletion::NotFound, _) => Step::NotPermitted,
    }
}

/// What it means that Gitea did not know a runner before anything was deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It is gone, for this reason.
    Gone(Reason),
    /// Nobody here had it deleted: that may be a mistake of Gitea's, and is settled apart.
    Lost,
}

/// `before`: where the record stood when this attempt began. One whose deletion was begun earlier may have
/// been deleted then, by an answer that was lost.
#[must_use]
pub fn absence(reason: Reason, before: RecordState, ephemeral: bool) -> Absence {
    match reason.is_revivable() {
        true if ephemeral => Absence::Gone(Reason::Ephemeral),
        true if before != RecordState::Deregistering(reason) => Absence::Lost,
        _ => Absence::Gone(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_not_sent_away_is_lost_and_not_taken_for_gone() {
        let begun = RecordState::Deregistering;
        for reason in [Reason::Lease, Reason::Shutdown] {
            assert_eq!(absence(reason, RecordState::Active, false), Absence::Lost);
            assert_eq!(absence(reason, begun(reason), false), Absence::Gone(reason));
            for before in [RecordState::Active, begun(reason)] {
                assert_eq!(absence(reason, before, true), Absence::Gone(Reason::Ephemeral));
            }
        }
        for reason in [Reason::Runner, Reason::Admin, Reason::Revoked, Reason::Drain] {
            assert_eq!(absence(reason, RecordState::Active, false), Absence::Gone(reason));
        }
    }

    #[test]
    fn only_the_same_id_is_deleted() {
        assert_eq!(before_delete(Proof::Id(7), 7), Step::Delete);
        assert_eq!(before_delete(Proof::Id(8), 7), Step::OtherId(8));
        assert_eq!(before_delete(Proof::Unregistered, 7), Step::Gone);
    }

    #[test]
    fn a_404_alone_proves_nothing() {
        assert_eq!(after_delete(Deletion::Deleted, None), Step::Gone);
        assert_eq!(after_delete(Deletion::NotFound, None), Step::NotPermitted);
        assert_eq!(after_delete(Deletion::NotFound, Some(Proof::Id(7))), Step::NotPermitted);
        assert_eq!(after_delete(Deletion::NotFound, Some(Proof::Unregistered)), Step::Gone);
    }
}
