//! The audit trail: who did what, when, and from where. Never a secret.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::SystemTime;

use super::token::{UnknownWord, words};

/// One entry of the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counts up in the store; 0 before it is there.
    pub seq: i64,
    /// When it happened.
    pub at: SystemTime,
    /// Who did it: `socket`, `admin`, `admin:NAME`, `settings`, `broker`, `runner`, `token:ID`.
    pub actor: String,
    /// What happened.
    pub what: What,
    /// The enrollment token that it is about.
    pub token_id: Option<String>,
    /// Gitea's id of the runner that it is about.
    pub runner_id: Option<i64>,
    /// Its name, as it called itself.
    pub runner: Option<String>,
    /// Where the call came from.
    pub peer: Option<IpAddr>,
    /// A sentence or a few words; may be empty.
    pub detail: String,
}

impl Event {
    /// Something that just happened; what it is about is filled in by the caller.
    #[must_use]
    pub fn now(actor: impl Into<String>, what: What) -> Self {
        Self {
            seq: 0,
            at: SystemTime::now(),
            actor: actor.into(),
            what,
            token_id: None,
            runner_id: None,
            runner: None,
            peer: None,
            detail: String::new(),
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An admin made a token.
    TokenCreated,
    /// The settings name a token that they did not name before.
    TokenDeclared,
    /// The settings say otherwise of a declared token than before.
    TokenChanged,
    /// It was switched on.
    TokenEnabled,
    /// It was switched off.
    TokenDisabled,
    /// It was made reusable.
    TokenPinned,
    /// It was made single-use.
    TokenUnpinned,
    /// It has a new secret.
    TokenRotated,
    /// It is no more.
    TokenDeleted,
    /// A child was made for a holder.
    TokenExchanged,
    /// No child was made.
    ExchangeRefused,
    /// A runner has joined.
    RunnerRegistered,
    /// A Register was refused, by the broker or by Gitea.
    RegistrationRefused,
    /// A Declare was refused.
    DeclarationRefused,
    /// A runner was deleted in Gitea.
    RunnerDeregistered,
    /// A runner that was registered before came by and is kept in the records.
    RunnerAdopted,
    /// A runner that the broker had taken for gone is registered again.
    RunnerRevived,
    /// A runner left, and its registration waits for the next of its kind.
    RunnerParked,
    /// Gitea says that it does not know a runner.
    RunnerLost,
    /// Gitea knows a lost runner after all.
    RunnerFound,
    /// An admin had a runner drained.
    DrainBegun,
    /// It gets tasks again.
    DrainEnded,
    /// An admin signed in to the page.
    AdminSignedIn,
    /// A wrong admin token was presented.
    AdminRefused,
}

words! {
    What {
        TokenCreated => "token.created",
        TokenDeclared => "token.declared",
        TokenChanged => "token.changed",
        TokenEnabled => "token.enabled",
        TokenDisabled => "token.disabled",
        TokenPinned => "token.pinned",
        TokenUnpinned => "token.unpinned",
        TokenRotated => "token.rotated",
        TokenDeleted => "token.deleted",
        TokenExchanged => "token.exchanged",
        ExchangeRefused => "exchange.refused",
        RunnerRegistered => "runner.registered",
        RegistrationRefused => "registration.refused",
        DeclarationRefused => "declaration.refused",
        RunnerDeregistered => "runner.deregistered",
        RunnerAdopted => "runner.adopted",
        RunnerRevived => "runner.revived",
        RunnerParked => "runner.parked",
        RunnerLost => "runner.lost",
        RunnerFound => "runner.found",
        DrainBegun => "drain.begun",
        DrainEnded => "drain.ended",
        AdminSignedIn => "admin.signed_in",
        AdminRefused => "admin.refused",
    }
}
