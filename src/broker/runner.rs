//! What the broker knows of one registered runner.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use secrecy::{ExposeSecret, SecretString};

use crate::config::Scope;

/// The broker's own number of a record; Gitea's ids may come back after a restore, this one does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecordId(pub i64);

/// Id, uuid and token of one registered runner.
#[derive(Clone)]
pub struct Credentials {
    /// Gitea's id of the row.
    pub id: i64,
    /// Header `X-Runner-Uuid`.
    pub uuid: String,
    /// Header `X-Runner-Token`.
    pub token: SecretString,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("id", &self.id)
            .field("uuid", &self.uuid)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Compares a presented token in constant time.
    #[must_use]
    pub fn token_is(&self, presented: &[u8]) -> bool {
        super::secrets_match(self.token.expose_secret().as_bytes(), presented)
    }
}

/// One registered runner, as it is kept in the store.
#[derive(Clone, Debug)]
pub struct Record {
    /// The broker's own number.
    pub record_id: RecordId,
    /// Where the runner serves.
    pub scope: Scope,
    /// What the runner shows.
    pub presented: Credentials,
    /// What Gitea knows.
    pub upstream: Credentials,
    /// The display name, as Gitea answered it.
    pub name: String,
    /// Bare label names: those of its last Declare, before that those of its Register.
    pub labels: Vec<String>,
    /// The runner's version, told likewise.
    pub version: String,
    /// Removed by Gitea after its one task.
    pub ephemeral: bool,
    /// How the broker came to know it.
    pub origin: Origin,
    /// Id of the enrollment token that it came by; empty where it came by none.
    pub parent_id: String,
    /// Where its Register came from.
    pub peer: IpAddr,
    /// Host and port at which it dialled the broker, where it told them.
    pub dialled: Option<String>,
    /// When it was registered.
    pub registered_at: SystemTime,
    /// Whether the runner is known to have its credentials: the answer reached it, or it spoke with them.
    pub delivered: bool,
    /// Whether it ever made a call with its credentials.
    pub spoke: bool,
    /// Its last call.
    pub last_seen_at: Option<SystemTime>,
    /// Ids of the tasks in hand.
    pub tasks: Vec<i64>,
    /// Where the record stands.
    pub state: RecordState,
    /// When the record ended, where it has.
    pub ended_at: Option<SystemTime>,
    /// Gitea shows labels that are not the runner's (the broker's own mark among them), and the runner is
    /// not about to declare itself: the broker has to.
    pub declare_due: bool,
    /// The broker had Gitea switch it off, so that it gets no task. One that an admin switched off is not
    /// marked so.
    pub disabled: bool,
    /// The runner file that was written for it.
    pub file: Option<PathBuf>,
}

/// How the broker came to know a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By its Register.
    Enrolled,
    /// The settings declare it.
    Declared,
    /// It was registered before, and passed by with credentials that Gitea takes.
    Adopted,
}

impl Origin {
    /// The word for it in the store and in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Declared => "declared",
            Self::Adopted => "adopted",
        }
    }

    /// The origin that [`Self::as_str`] calls so.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Enrolled, Self::Declared, Self::Adopted].into_iter().find(|one| one.as_str() == word)
    }
}

/// Where a record stands. What a runner does at the moment (idle, busy, gone) is told by its
/// [activity](mod@super::activity), not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// Registered in Gitea, as far as is known.
    Active,
    /// Gitea says that it does not know it, which may be a mistake of Gitea's.
    Lost,
    /// The broker decided to delete it in Gitea and has not yet seen it gone.
    Deregistering(Reason),
    /// Gone for good, and registered in Gitea all the same, as there is no API token to delete it with: its
    /// identity waits for the next runner of its kind.
    Parked(Reason),
    /// Gone from Gitea, or another runner's by now; kept so that a second Deregister gets the same answer,
    /// and so that one who speaks again can be revived.
    Ended(Reason),
}

impl RecordState {
    /// Whether the runner is none any more, unless it speaks again and may be woken.
    #[must_use]
    pub fn is_resting(self) -> bool {
        matches!(self, Self::Parked(_) | Self::Ended(_))
    }
}

/// Why a runner is deregistered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The runner asked, by the Deregister call.
    Runner,
    /// An admin asked.
    Admin,
    /// Its enrollment token was disabled or deleted together with its runners.
    Revoked,
    /// It was ephemeral, and Gitea removed it after its one task.
    Ephemeral,
    /// The broker shut down.
    Shutdown,
    /// It was gone for longer than its lease.
    Lease,
    /// An admin had it drained.
    Drain,
    /// Gitea does not know it any more.
    Lost,
    /// The settings no longer declare it.
    Undeclared,
    /// The registration could not be kept.
    Rollback,
    /// Gitea acted on a registration whose answer was lost.
    Orphan,
}

impl Reason {
    /// All reasons, for metrics and for reading the store.
    pub const ALL: [Self; 11] = [
        Self::Runner,
        Self::Admin,
        Self::Revoked,
        Self::Ephemeral,
        Self::Shutdown,
        Self::Lease,
        Self::Drain,
        Self::Lost,
        Self::Undeclared,
        Self::Rollback,
        Self::Orphan,
    ];

    /// The word for it in the store, in metrics and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Admin => "admin",
            Self::Revoked => "revoked",
            Self::Ephemeral => "ephemeral",
            Self::Shutdown => "shutdown",
            Self::Lease => "lease",
            Self::Drain => "drain",
            Self::Lost => "lost",
            Self::Undeclared => "undeclared",
            Self::Rollback => "rollback",
            Self::Orphan => "orphan",
        }
    }

    /// Whether the broker itself decided it, and took the runner for gone: one that speaks again is revived.
    #[must_use]
    pub fn is_revivable(self) -> bool {
        matches!(self, Self::Shutdown | Self::Lease)
    }

    /// The reason that [`Self::as_str`] calls so.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

#[cfg(test)]
impl Record {
    /// A live runner, of which tests change what they are about.
    pub(crate) fn for_tests(id: i64) -> Self {
        let credentials = Credentials { id, uuid: format!("UUID-{id}"), token: "secret".into() };
        Self {
            record_id: RecordId(id),
            scope: Scope::Instance,
            presented: credentials.clone(),
            upstream: credentials,
            name: "one".into(),
            labels: vec!["a".into(), "b".into()],
            version: "v1".into(),
            ephemeral: false,
            origin: Origin::Enrolled,
            parent_id: "parent".into(),
            peer: [127, 0, 0, 1].into(),
            dialled: None,
            registered_at: SystemTime::UNIX_EPOCH,
            delivered: true,
            spoke: true,
            last_seen_at: None,
            tasks: vec![],
            state: RecordState::Active,
            ended_at: None,
            declare_due: false,
            disabled: false,
            file: None,
        }
    }
}
