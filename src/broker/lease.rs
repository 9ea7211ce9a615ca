//! Whose lease may end, and what Gitea's own view of a runner says to that.

use super::activity::Presence;
use super::runner::{Origin, Reason, RecordState};

/// What is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Where its record stands.
    pub state: RecordState,
    /// How the broker came to know it.
    pub origin: Origin,
    /// Gitea's id of it; 0 as long as Gitea has not told it.
    pub id: i64,
    /// What it does.
    pub presence: Presence,
    /// Where it is lost: that is certain.
    pub dead: bool,
    /// It dials Gitea itself, and there is no API token to ask Gitea about it with.
    pub unseen: bool,
}

/// Why the end of its lease changes nothing for a runner. The text goes on after "it stays: ".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Spared {
    /// Its file has to stay.
    #[error("the settings declare it")]
    Declared,
    /// Nothing can be proved of it.
    #[error("Gitea has not told its id yet")]
    Unidentified,
    /// That may be a mistake of Gitea's.
    #[error("Gitea says that it does not know it, which is settled apart")]
    Lost,
    /// Its task would be stranded.
    #[error("it has a task in hand")]
    Busy,
    /// There is nothing left to do.
    #[error("it is parked or deregistered")]
    Resting,
    /// That goes on anyway.
    #[error("it is being deregistered already")]
    Leaving,
    /// It may be well alive.
    #[error("it dials Gitea itself, and without an API token the broker knows nothing of it")]
    Unseen,
}

/// Whether, and why, a runner stays although its lease is over.
#[must_use]
pub fn spared(runner: &Candidate) -> Option<Spared> {
    match runner.state {
        RecordState::Parked(_) | RecordState::Ended(_) => Some(Spared::Resting),
        RecordState::Deregistering(_) => Some(Spared::Leaving),
        RecordState::Lost if !runner.dead => Some(Spared::Lost),
        RecordState::Lost => None,
        RecordState::Active if runner.presence == Presence::Busy => Some(Spared::Busy),
        RecordState::Active if runner.origin == Origin::Declared => Some(Spared::Declared),
        RecordState::Active if runner.id == 0 => Some(Spared::Unidentified),
        RecordState::Active if runner.unseen => Some(Spared::Unseen),
        RecordState::Active => None,
    }
}

/// What Gitea shows of a runner, as far as it matters just before its deletion.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    /// It made calls that did not pass the broker.
    pub alive: bool,
    /// It has a task that did not pass the broker.
    pub busy: bool,
    /// An admin switched it off there.
    pub switched_off: bool,
}

/// What follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is deleted.
    Goes,
    /// It is not gone at all.
    Alive,
    /// It is left until its task has ended.
    Busy,
    /// It is left: one that came back would be registered anew, switched on.
    SwitchedOff,
}

/// Whether a runner that is to go for this reason goes.
#[must_use]
pub fn verdict(reason: Reason, sight: Sight) -> Verdict {
    match reason {
        Reason::Lease | Reason::Shutdown if sight.switched_off => Verdict::SwitchedOff,
        Reason::Lease if sight.alive => Verdict::Alive,
        _ if sight.busy => Verdict::Busy,
        _ => Verdict::Goes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE: Candidate = Candidate {
        state: RecordState::Active,
        origin: Origin::Enrolled,
        id: 7,
        presence: Presence::Gone,
        dead: false,
        unseen: false,
    };

    #[test]
    fn a_lease_ends_for_active_and_dead_runners_of_ours_alone() {
        assert_eq!(spared(&GONE), None);
        assert_eq!(spared(&Candidate { presence: Presence::Idle, ..GONE }), None, "never spoke");
        assert_eq!(spared(&Candidate { origin: Origin::Adopted, ..GONE }), None);
        assert_eq!(spared(&Candidate { state: RecordState::Lost, dead: true, ..GONE }), None);
        for (candidate, why) in [
            (Candidate { presence: Presence::Busy, ..GONE }, Spared::Busy),
            (Candidate { origin: Origin::Declared, ..GONE }, Spared::Declared),
            (Candidate { origin: Origin::Adopted, id: 0, ..GONE }, Spared::Unidentified),
            (Candidate { unseen: true, ..GONE }, Spared::Unseen),
            (Candidate { state: RecordState::Lost, ..GONE }, Spared::Lost),
            (Candidate { state: RecordState::Parked(Reason::Lease), ..GONE }, Spared::Resting),
            (Candidate { state: RecordState::Ended(Reason::Lease), ..GONE }, Spared::Resting),
            (
                Candidate { state: RecordState::Deregistering(Reason::Drain), ..GONE },
                Spared::Leaving,
            ),
        ] {
            assert_eq!(spared(&candidate), Some(why), "{candidate:?}");
        }
    }

    #[test]
    fn what_gitea_shows_may_hold_it_back() {
        let sight = |alive, busy, switched_off| Sight { alive, busy, switched_off };
        for reason in [Reason::Lease, Reason::Shutdown] {
            assert_eq!(verdict(reason, sight(false, false, false)), Verdict::Goes);
            assert_eq!(verdict(reason, sight(true, true, true)), Verdict::SwitchedOff);
        }
        assert_eq!(verdict(Reason::Lease, sight(true, true, false)), Verdict::Alive);
        assert_eq!(verdict(Reason::Shutdown, sight(true, false, false)), Verdict::Goes);
        assert_eq!(verdict(Reason::Shutdown, sight(true, true, false)), Verdict::Busy);
        for reason in [Reason::Drain, Reason::Revoked] {
            assert_eq!(verdict(reason, sight(true, false, true)), Verdict::Goes);
            assert_eq!(verdict(reason, sight(true, true, true)), Verdict::Busy);
        }
    }
}
