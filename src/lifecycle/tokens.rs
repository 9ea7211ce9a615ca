//! What admins do with enrollment tokens. Each change is on disk, with its event, before it
//! holds; from then on it holds for the very next Register.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use secrecy::SecretString;

use super::Lifecycle;
use super::audit::tell;
use super::random::random_bytes;
use crate::broker::policy::Refusal;
use crate::broker::secret::{Presented, compose, digest, new_id, new_secret};
use crate::broker::token::{Draft, Kind, Origin, State, Token};
use crate::broker::{Event, What};
use crate::fault;
use crate::store::StoreError;

/// Most tokens that admins make.
const MAX_TOKENS: usize = 10_000;
/// The longest that an old secret goes on.
const MAX_OVERLAP: Duration = Duration::from_secs(366 * 24 * 60 * 60);

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

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is none of this id.
    #[error("no enrollment token has the id {0:?}; it is the middle part of rb_<id>_<secret>")]
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

impl By {
    /// The broker itself.
    #[must_use]
    pub fn broker() -> Self {
        Self { actor: "broker".into(), peer: None }
    }

    /// A runner, by its own credentials.
    #[must_use]
    pub fn runner(peer: IpAddr) -> Self {
        Self { actor: "runner".into(), peer: Some(peer) }
    }

    /// An event of theirs about a token.
    fn event(&self, what: What, token_id: &str) -> Event {
        Event {
            token_id: Some(token_id.to_owned()),
            peer: self.peer,
            ..Event::now(self.actor.clone(), what)
        }
    }
}

fn sentences(wrong: &[(&'static str, String)]) -> String {
    wrong.iter().map(|(field, text)| format!("{field}: {text}")).collect::<Vec<_>>().join("; ")
}

impl Lifecycle {
    /// All tokens that are not deleted, oldest first.
    #[must_use]
    pub fn tokens(&self) -> Vec<TokenNow> {
        let mut all = self.enrollment.all();
        all.retain(|token| token.state != State::Deleted);
        all
    }

    /// One that is not deleted.
    ///
    /// # Errors
    /// There is none.
    pub fn token(&self, id: &str) -> Result<TokenNow, TokenError> {
        self.enrollment
            .get(id)
            .filter(|token| token.state != State::Deleted)
            .ok_or_else(|| TokenError::Unknown(without_secret(id)))
    }

    /// Makes one.
    ///
    /// # Errors
    /// It cannot be so, or was not kept.
    pub async fn create_token(&self, draft: Draft, by: &By) -> Result<Issued, TokenError> {
        let now = SystemTime::now();
        draft.check(now).map_err(TokenError::Invalid)?;
        let served = self.settings.load().gitea.must_serve(&draft.policy.scope);
        served.map_err(|text| TokenError::Invalid(vec![("scope", text)]))?;
        let _changing = self.enrollment.changing.lock().await;
        let all = self.tokens();
        if all.iter().filter(|one| one.token.origin == Origin::Created).count() >= MAX_TOKENS {
            return Err(TokenError::Conflict(format!(
                "there are {MAX_TOKENS} tokens already: delete some that are not needed any more"
            )));
        }
        self.issue(draft, None, by).await
    }

    /// Switches one on.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn enable_token(&self, id: &str, by: &By) -> Result<TokenNow, TokenError> {
        self.change_token(id, by, What::TokenEnabled, |token| {
            token.active = true;
            token.cascade = false;
        })
        .await
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
        let now = self.change_token(id, by, What::TokenDisabled, |token| {
            token.active = false;
            token.cascade |= cascade;
        });
        let now = now.await?;
        if cascade {
            self.revoke_runners().await;
        }
        Ok(now)
    }

    /// Makes a single-use token reusable.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn pin_token(&self, id: &str, by: &By) -> Result<TokenNow, TokenError> {
        if self.token(id)?.token.origin == Origin::Exchanged {
            return Err(TokenError::Conflict(format!(
                "the token {id:?} was exchanged for another one, to be used once: pin that one, or \
                 make a new token"
            )));
        }
        self.change_token(id, by, What::TokenPinned, |token| token.kind = Kind::Reusable).await
    }

    /// Makes a reusable token single-use; one that has admitted a runner is then used up.
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn unpin_token(&self, id: &str, by: &By) -> Result<TokenNow, TokenError> {
        self.change_token(id, by, What::TokenUnpinned, |token| token.kind = Kind::SingleUse).await
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
        if overlap > MAX_OVERLAP {
            return Err(TokenError::Invalid(vec![(
                "overlap",
                "an old secret goes on for a year at most: give a shorter overlap".into(),
            )]));
        }
        let _changing = self.enrollment.changing.lock().await;
        let token = self.changeable(id)?;
        let text = new_secret(random_bytes());
        let (digest, until) = (digest(text.as_bytes()), SystemTime::now() + overlap);
        let mut event = by.event(What::TokenRotated, id);
        event.detail = match overlap {
            Duration::ZERO => "the old secret has ended".into(),
            _ => format!("the old secret ends in {}", humantime::format_duration(overlap)),
        };
        self.store.rotate_token(id, digest, until, event.clone()).await?;
        self.enrollment.end_secrets(id, until);
        self.enrollment.put_secret(id, digest, None);
        tell(&event);
        Ok(Issued { secret: compose(id, &text), token })
    }

    /// Ends one for good, and the children that were exchanged for it. `cascade` as for
    /// [`Self::disable_token`].
    ///
    /// # Errors
    /// Nothing was changed.
    pub async fn delete_token(
        self: &Arc<Self>,
        id: &str,
        cascade: bool,
        by: &By,
    ) -> Result<TokenNow, TokenError> {
        let changing = self.enrollment.changing.lock().await;
        let mut now = self.changeable(id)?;
        now.token.deleted_at = Some(SystemTime::now());
        now.token.cascade |= cascade;
        now.state = State::Deleted;
        let mut event = by.event(What::TokenDeleted, id);
        event.detail = cascade_detail(cascade, now.live_runners);
        self.store.delete_token(now.token.clone(), event.clone()).await?;
        fault::point("token-deleted");
        self.enrollment.put(now.token.clone());
        self.enrollment.end_secrets(id, SystemTime::UNIX_EPOCH);
        drop(changing);
        tell(&event);
        if cascade {
            self.revoke_runners().await;
        }
        Ok(now)
    }

    /// One that may be changed here.
    fn changeable(&self, id: &str) -> Result<TokenNow, TokenError> {
        let token = self.token(id)?;
        match token.token.origin {
            Origin::Declared => Err(TokenError::Declared(id.to_owned())),
            Origin::Created | Origin::Exchanged => Ok(token),
        }
    }

    /// A change that changes nothing is none, and no event.
    async fn change_token(
        &self,
        id: &str,
        by: &By,
        what: What,
        change: impl FnOnce(&mut Token),
    ) -> Result<TokenNow, TokenError> {
        let _changing = self.enrollment.changing.lock().await;
        let before = self.changeable(id)?.token;
        let mut token = before.clone();
        change(&mut token);
        if token != before {
            let mut event = by.event(what, id);
            if token.revokes() {
                let live = self.token(id)?.live_runners;
                event.detail = cascade_detail(true, live);
            }
            self.store.save_token(token.clone(), event.clone()).await?;
            self.enrollment.put(token);
            tell(&event);
        }
        self.token(id)
    }

    /// Makes a token, or a child of one, for who holds the lock.
    pub(super) async fn issue(
        &self,
        draft: Draft,
        parent_id: Option<String>,
        by: &By,
    ) -> Result<Issued, TokenError> {
        let (origin, what) = match parent_id {
            None => (Origin::Created, What::TokenCreated),
            Some(_) => (Origin::Exchanged, What::TokenExchanged),
        };
        let id = self.free_id();
        let token = Token {
            id: id.clone(),
            kind: draft.kind,
            origin,
            active: true,
            cascade: false,
            deleted_at: None,
            parent_id,
            description: draft.description,
            policy: draft.policy,
            created_at: SystemTime::now(),
            created_by: by.actor.clone(),
            last_used_at: None,
            uses: 0,
        };
        let text = new_secret(random_bytes());
        let digest = digest(text.as_bytes());
        let mut event = by.event(what, &id);
        event.detail.clone_from(&token.description);
        self.store.insert_token(token.clone(), digest, event.clone()).await?;
        self.enrollment.put(token);
        self.enrollment.put_secret(&id, digest, None);
        tell(&event);
        Ok(Issued { secret: compose(&id, &text), token: self.token(&id)? })
    }

    fn free_id(&self) -> String {
        loop {
            let id = new_id(random_bytes());
            if self.enrollment.get(&id).is_none() {
                return id;
            }
        }
    }
}

/// Someone may have given the whole token where its id was asked for: its secret is not told back.
fn without_secret(id: &str) -> String {
    match Presented::of(id).id {
        Some(id) => format!("rb_{id}_(hidden)"),
        None => id.to_owned(),
    }
}

fn cascade_detail(cascade: bool, live: usize) -> String {
    match (cascade, live) {
        (false, _) => String::new(),
        (true, 1) => "and 1 runner that came by it is deregistered".into(),
        (true, live) => format!("and {live} runners that came by it are deregistered"),
    }
}
