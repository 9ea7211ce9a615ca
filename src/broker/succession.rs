//! What becomes of identities whose runner is gone: which newcomer takes a parked one over, and which
//! runner may have its own back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use super::runner::{Record, RecordState};
use crate::config::Scope;

/// The longest pause between two attempts to register a runner anew.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// One that asks to be registered, as far as it matters for what it may take over.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    /// Id of the enrollment token that it came by.
    pub parent_id: &'a str,
    /// Where it will serve.
    pub scope: &'a Scope,
    /// Its name.
    pub name: &'a str,
    /// Its bare labels, in any order.
    pub labels: &'a [String],
    /// Whether it takes one task.
    pub ephemeral: bool,
}

/// Whether a newcomer may take over what Gitea knows this record's runner by.
#[must_use]
pub fn fits(record: &Record, newcomer: &Newcomer<'_>) -> bool {
    fn set(labels: &[String]) -> BTreeSet<&str> {
        labels.iter().map(String::as_str).collect()
    }
    matches!(record.state, RecordState::Parked(_))
        // Whose runner came by no token is not known well enough: it may dial Gitea itself.
        && !record.parent_id.is_empty()
        && record.parent_id == newcomer.parent_id
        && record.scope == *newcomer.scope
        && !record.ephemeral
        && !newcomer.ephemeral
        // Gitea would give the newcomer no task.
        && !record.disabled
        // A task that came with the last poll of one that left is still in Gitea's books.
        && record.tasks.is_empty()
        && set(&record.labels) == set(newcomer.labels)
}

/// What happens when a runner that rests makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waking {
    /// Gitea knows it: it goes on.
    GoesOn,
    /// It is registered anew behind what it shows.
    Revival,
    /// It does not come back.
    Never,
}

/// Decides whether a runner that rests may come back, as far as its own record tells.
#[must_use]
pub fn waking(record: &Record, now: SystemTime, revive_within: Duration) -> Waking {
    match (record.state, record.ended_at) {
        (RecordState::Parked(reason), _) if reason.is_revivable() => Waking::GoesOn,
        (RecordState::Ended(reason), Some(ended_at)) if reason.is_revivable() => {
            // A clock that was set back makes nobody late.
            match now.duration_since(ended_at).unwrap_or_default() <= revive_within {
                true => Waking::Revival,
                false => Waking::Never,
            }
        }
        (RecordState::Parked(_) | RecordState::Ended(_), _) => Waking::Never,
        (RecordState::Active | RecordState::Lost | RecordState::Deregistering(_), _) => {
            Waking::GoesOn
        }
    }
}

/// Keeps a runner that polls on and on from being registered as often.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pause {
    until: Option<Instant>,
    next: Option<Duration>,
}

impl Pause {
    /// How long it lasts yet; `None`: an attempt may be made.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// An attempt failed: a pause follows, twice as long as the last, a minute at most.
    pub fn failed(&mut self, now: Instant, first: Duration) {
        let pause = self.next.unwrap_or(first).min(LONGEST_PAUSE);
        self.until = Some(now + pause);
        self.next = Some(pause * 2);
    }

    /// Gitea was not even asked: the same pause follows each time, so that all are back soon after Gitea is.
    pub fn not_asked(&mut self, now: Instant, first: Duration) {
        self.until = Some(now + first);
    }
}

#[cfg(test)]
mod tests;
