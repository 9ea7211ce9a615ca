//! What admins and holders do with enrollment tokens. Each change is on disk, with its event, before it
//! holds; from then on it holds for the very next Register.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::Lifecycle;
use crate::broker::Event;
use crate::broker::policy::Refusal;
use crate::broker::token::{Draft, State, Token};
use crate::store::{EventFilter, StoreError};

/// Who changes something, for the audit trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// `socket`, `admin`, `admin:NAME`, `runner`, `broker`, `settings`, `token:ID`.
    pub actor: String,
    /// Where the call came from; `None` on the Unix socket.
    pub peer: Option<IpAddr>,
}

/// A token as it is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenNow {
    /// The record.
    pub token: Token,
    /// Where it stands.
    pub state: State,
    /// How many live runners came by it, those of its children too.
    pub live_runners: usize,
}

/// A token with its secret, which is told this once.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The token.
    pub token: TokenNow,
    /// What runners present: `rb_<id>_<secret>`.
    pub secret: SecretString,
}

/// How a child is to be. What it leaves out is its parent's; what its parent does not allow, it does not
/// either.
#[derive(Clone, Debug, Default)]
pub struct Exchange {
    /// How long it may be used; ten minutes where it is left out, an hour at most.
    pub ttl: Option<Duration>,
    /// For people.
    pub description: String,
    /// Bare names, instead of the parent's.
    pub labels: Vec<String>,
    /// Instead of the parent's.
    pub name_pattern: Option<String>,
    /// Instead of the parent's.
    pub ephemeral_only: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is none of this id.
    #[error("no enrollment token has the id {0:?}")]
    Unknown(String),
    /// It is the settings' to change.
    #[error(
        "the token {0:?} is declared in the settings: change it there and send SIGHUP, or restart"
    )]
    Declared(String),
    /// Its state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Such a token cannot be: the fields, each with a sentence.
    #[error("{}", sentences(.0))]
    Invalid(Vec<(&'static str, String)>),
    /// The token that was presented for the exchange is refused.
    #[error("{0}")]
    Refused(Refusal),
    /// Too many of its children wait for their runners.
    #[error(
        "{0} tokens that were exchanged for this one are still unused: use them, or wait until they expire"
    )]
    TooMany(usize),
    /// The store took nothing.
    #[error("{0}")]
    Store(#[from] StoreError),
}

fn sentences(wrong: &[(&'static str, String)]) -> String {
    wrong.iter().map(|(field, text)| format!("{field}: {text}")).collect::<Vec<_>>().join("; ")
}

impl Lifecycle {
    /// All tokens that are not deleted, oldest first.
    #[must_use]
    pub fn tokens(&self) -> Vec<TokenNow> {
        unimplemented!()
    }

    /// One that is not deleted.
    ///
    /// # Errors
    /// There is none.
    pub fn token(&self, id: &str) -> Result<TokenNow, TokenError> {
        unimplemented!("{id}")
    }

    /// Makes one.
    ///
    /// # Errors
    /// It cannot be so, or was not kept.
    pub async fn create_token(&self, draft: Draft, by: &By) -> Result<Issued, TokenError> {
        unimplemented!("{draft:?}{by:?}")
    }

    /// Switches one on.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn enable_token(&self, id: &str, by: &By) -> Result<TokenNow, TokenError> {
        unimplemented!("{id}{by:?}")
    }

    /// Switches one off. With `cascade`, its runners get no task any more, and are deregistered in the
    /// background when they have ended the one in hand.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn disable_token(
        self: &Arc<Self>,
        id: &str,
        cascade: bool,
        by: &By,
    ) -> Result<TokenNow, TokenError> {
        unimplemented!("{id}{cascade}{by:?}")
    }

    /// Makes a single-use token reusable.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn pin_token(&self, id: &str, by: &By) -> Result<TokenNow, TokenError> {
        unimplemented!("{id}{by:?}")
    }

    /// Makes a reusable token single-use; one that has admitted a runner is then used up.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn unpin_token(&self, id: &str, by: &By) -> Result<TokenNow, TokenError> {
        unimplemented!("{id}{by:?}")
    }

    /// Gives one a new secret; the old one goes on for `overlap`.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn rotate_token(
        &self,
        id: &str,
        overlap: Duration,
        by: &By,
    ) -> Result<Issued, TokenError> {
        unimplemented!("{id}{overlap:?}{by:?}")
    }

    /// Ends one for good. `cascade` as for [`Self::disable_token`].
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn delete_token(
        self: &Arc<Self>,
        id: &str,
        cascade: bool,
        by: &By,
    ) -> Result<TokenNow, TokenError> {
        unimplemented!("{id}{cascade}{by:?}")
    }

    /// Makes a short-lived single-use child of the reusable token that is presented.
    ///
    /// # Errors
    /// The presented token does not allow it, or nothing was kept.
    pub async fn exchange_token(
        &self,
        presented: &str,
        wish: Exchange,
        peer: IpAddr,
    ) -> Result<Issued, TokenError> {
        unimplemented!("{presented}{wish:?}{peer}")
    }

    /// The audit trail, latest first; what the traffic told is in it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn events(&self, filter: EventFilter) -> Result<Vec<Event>, StoreError> {
        unimplemented!("{filter:?}")
    }

    /// Notes an event that changes nothing else; it is written with the next batch.
    pub fn note_event(&self, event: Event) {
        let _ = (event, SystemTime::now());
    }
}
