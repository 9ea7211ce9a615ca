//! When a runner may be deleted in Gitea, and when it is gone.
//!
//! Ids come back after a restore and then belong to others, and a 404 may mean "no permission": so a
//! runner is deleted only after its own credentials have named the same id, and is taken for gone only
//! where Gitea does not know those credentials.

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

#[cfg(test)]
mod tests {
    use super::*;

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
