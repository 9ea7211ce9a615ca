//! The enrollment tokens in memory: what is decided at Register is decided here, so that a change holds
//! for the very next one. The store follows; changes are written there first.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::tokens::TokenNow;
use crate::broker::policy::{self, Asks, Refusal, Room};
use crate::broker::secret::{Digest, Presented, secrets_match};
use crate::broker::token::{Kind, Origin, State, Token};
use crate::config::{Gitea, Scope};

/// All enrollment tokens.
#[derive(Default)]
pub struct Enrollment {
    inner: Mutex<Inner>,
    /// Held by whoever changes tokens, over the write to the store.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// A registration has a result, or a token was changed.
    moved: Notify,
}

#[derive(Default)]
struct Inner {
    tokens: HashMap<String, Entry>,
    secrets: HashMap<Digest, Secret>,
    /// By their parent, the children that waited for their runner when they were last looked at.
    unused: HashMap<String, HashSet<String>>,
}

struct Entry {
    token: Token,
    /// Live runners that came by it or by its children.
    live: usize,
    /// Registrations by it or by its children that have no result yet.
    running: usize,
}

struct Secret {
    token_id: String,
    /// The end of one that was replaced.
    until: Option<SystemTime>,
}

/// A token that was found by its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// Which token.
    pub token_id: String,
    /// Where its runners serve.
    pub scope: Scope,
    secret: Digest,
}

impl Enrollment {
    /// The token that a presented secret belongs to. Unknown and wrong ones cost the same: the one look is
    /// by a digest, which nobody can steer.
    ///
    /// # Errors
    /// There is none.
    pub fn identify(&self, presented: &str, now: SystemTime) -> Result<Identified, Refusal> {
        let presented = Presented::of(presented);
        let inner = self.lock();
        let found = inner.secrets.get_key_value(&presented.digest);
        let (kept, secret) = match found {
            Some((kept, secret)) => (*kept, Some(secret)),
            None => ([0; 32], None),
        };
        let right = secrets_match(&kept, &presented.digest);
        secret
            .filter(|secret| right && secret.until.is_none_or(|until| now < until))
            .and_then(|secret| inner.tokens.get(&secret.token_id))
            .map(|entry| &entry.token)
            .filter(|token| {
                token.origin == Origin::Declared || presented.id == Some(token.id.as_str())
            })
            .map(|token| Identified {
                token_id: token.id.clone(),
                scope: token.policy.scope.clone(),
                secret: kept,
            })
            .ok_or(Refusal::Token)
    }

    /// Whether the secret by which a token was found is still one of its own, and its runners serve where
    /// they did.
    ///
    /// # Errors
    /// It was replaced.
    pub fn still(&self, identified: &Identified, now: SystemTime) -> Result<(), Refusal> {
        let inner = self.lock();
        let token = inner.tokens.get(&identified.token_id).map(|entry| &entry.token);
        if token.is_none_or(|token| token.policy.scope != identified.scope) {
            return Err(Refusal::Token);
        }
        let secret = inner.secrets.get(&identified.secret);
        match secret.filter(|secret| secret.token_id == identified.token_id) {
            Some(Secret { until, .. }) if until.is_none_or(|until| now < until) => Ok(()),
            _ => Err(Refusal::Token),
        }
    }

    /// Whether the token allows this, however often it was used.
    ///
    /// # Errors
    /// What it does not allow.
    pub fn allows(&self, id: &str, asks: &Asks<'_>, served: &Gitea) -> Result<(), Refusal> {
        self.lock().allows(id, asks, served, SystemTime::now())
    }

    /// Whether its holder may have a child of it.
    ///
    /// # Errors
    /// Why not.
    pub fn exchanges(&self, id: &str, peer: IpAddr, served: &Gitea) -> Result<Token, Refusal> {
        let now = SystemTime::now();
        let inner = self.lock();
        policy::in_force(inner.chain(id), now)?;
        let mut first = None;
        for token in inner.chain(id) {
            policy::from_there(token, peer)?;
            if let Room::None(refusal @ Refusal::UsedUp) = policy::room(token, 0, 0) {
                return Err(refusal);
            }
            first = first.or(Some(token));
        }
        let token = first.ok_or(Refusal::Token)?;
        inner.serves(token, served)?;
        match token.kind {
            Kind::Reusable => Ok(token.clone()),
            Kind::SingleUse => Err(Refusal::NotReusable),
        }
    }

    /// Whether a runner that came by this token may claim these labels.
    ///
    /// # Errors
    /// The first that it may not.
    pub fn allows_labels(&self, id: &str, labels: &[String]) -> Result<(), Refusal> {
        policy::labels_allowed(self.lock().chain(id), labels)
    }

    /// Whether a runner that came by this token, and that the broker itself deregistered, may come back.
    ///
    /// # Errors
    /// Why not.
    pub fn may_return(&self, id: &str, peer: IpAddr) -> Result<(), Refusal> {
        let inner = self.lock();
        if !inner.tokens.contains_key(id) {
            return Err(Refusal::Token);
        }
        policy::may_return(inner.chain(id), peer)
    }

    /// Whether runners that came by this token are to go.
    #[must_use]
    pub fn revokes(&self, id: &str) -> bool {
        self.lock().chain(id).any(Token::revokes)
    }

    /// Whether a token is this one, or was exchanged for it.
    #[must_use]
    pub fn is_of(&self, id: &str, ancestor: &str) -> bool {
        self.lock().chain(id).any(|token| token.id == ancestor)
    }

    /// A place for one runner more. Where all that are left are taken by registrations without a result,
    /// it waits for those.
    ///
    /// # Errors
    /// The token admits nobody more, or does not allow this.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        id: &str,
        asks: Asks<'_>,
        served: &Gitea,
    ) -> Result<Reservation, Refusal> {
        loop {
            let mut moved = std::pin::pin!(self.moved.notified());
            // From here on no move is missed.
            moved.as_mut().enable();
            if let Some(reservation) = self.try_reserve(id, &asks, served)? {
                return Ok(reservation);
            }
            moved.await;
        }
    }

    fn try_reserve(
        self: &Arc<Self>,
        id: &str,
        asks: &Asks<'_>,
        served: &Gitea,
    ) -> Result<Option<Reservation>, Refusal> {
        let mut inner = self.lock();
        inner.allows(id, asks, served, SystemTime::now())?;
        let mut ids = Vec::new();
        for token in inner.chain(id) {
            let entry = &inner.tokens[&token.id];
            match policy::room(token, entry.live, entry.running) {
                Room::Free => ids.push(token.id.clone()),
                Room::Taken => return Ok(None),
                Room::None(refusal) => return Err(refusal),
            }
        }
        for id in &ids {
            inner.change(id, |entry| entry.running += 1);
        }
        Ok(Some(Reservation { enrollment: Arc::clone(self), ids }))
    }

    /// A live runner came by this token.
    pub(super) fn joined(&self, id: &str) {
        self.lock().change_chain(id, |entry| entry.live += 1);
    }

    /// A runner that came by this token is no more.
    pub(super) fn left(&self, id: &str) {
        self.lock().change_chain(id, |entry| entry.live = entry.live.saturating_sub(1));
        self.moved.notify_waiters();
    }

    /// All tokens, deleted ones too, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<TokenNow> {
        let inner = self.lock();
        let now = SystemTime::now();
        let mut all: Vec<_> = inner.tokens.values().map(|entry| inner.shown(entry, now)).collect();
        drop(inner);
        all.sort_unstable_by(|a, b| {
            (a.token.created_at, &a.token.id).cmp(&(b.token.created_at, &b.token.id))
        });
        all
    }

    /// Shows each token, deleted ones too, and where it stands.
    pub(super) fn look(&self, mut see: impl FnMut(&Token, State)) {
        let inner = self.lock();
        let now = SystemTime::now();
        inner.tokens.values().for_each(|entry| see(&entry.token, inner.stands(entry, now)));
    }

    /// One token, deleted or not.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<TokenNow> {
        let inner = self.lock();
        inner.tokens.get(id).map(|entry| inner.shown(entry, SystemTime::now()))
    }

    /// How many children of a token still wait for their runner.
    #[must_use]
    pub fn unused_children(&self, id: &str) -> usize {
        let now = SystemTime::now();
        let mut inner = self.lock();
        let Inner { tokens, unused, .. } = &mut *inner;
        let Some(children) = unused.get_mut(id) else { return 0 };
        children.retain(|child| {
            tokens.get(child).is_some_and(|entry| entry.token.state(now) == State::Active)
        });
        children.len()
    }

    /// Adds a token, or replaces what is known of it; its live runners and uses stay.
    pub(super) fn put(&self, token: Token) {
        let mut inner = self.lock();
        if let Some(parent) = &token.parent_id {
            inner.unused.entry(parent.clone()).or_default().insert(token.id.clone());
        }
        match inner.tokens.get_mut(&token.id) {
            Some(entry) => {
                let (uses, last_used_at) = (entry.token.uses, entry.token.last_used_at);
                entry.token = Token { uses, last_used_at, ..token };
            }
            None => {
                let id = token.id.clone();
                inner.tokens.insert(id, Entry { token, live: 0, running: 0 });
            }
        }
        drop(inner);
        self.moved.notify_waiters();
    }

    /// Adds a secret of a token.
    pub(super) fn put_secret(&self, id: &str, digest: Digest, until: Option<SystemTime>) {
        self.lock().secrets.insert(digest, Secret { token_id: id.to_owned(), until });
    }

    /// The secrets of a token that have no end yet get one; those that are over go. Tells whether there
    /// was one.
    pub(super) fn end_secrets(&self, id: &str, until: SystemTime) -> bool {
        let now = SystemTime::now();
        let mut inner = self.lock();
        let mut some = false;
        for secret in inner.secrets.values_mut().filter(|secret| secret.token_id == id) {
            let end = secret.until.get_or_insert(until);
            *end = until.min(*end);
            some = true;
        }
        inner.secrets.retain(|_, secret| secret.until.is_none_or(|until| now < until));
        some
    }

    /// Whether a secret is a token's, and has no end.
    pub(super) fn has_secret(&self, id: &str, digest: &Digest) -> bool {
        let inner = self.lock();
        inner.secrets.get(digest).is_some_and(|one| one.token_id == id && one.until.is_none())
    }

    /// Takes tokens off that the store has forgotten.
    pub(super) fn forget(&self, ids: &[String]) {
        let mut inner = self.lock();
        for id in ids {
            inner.tokens.remove(id);
            inner.unused.remove(id);
        }
        let Inner { tokens, secrets, .. } = &mut *inner;
        secrets.retain(|_, secret| tokens.contains_key(&secret.token_id));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The token and its ancestors; nothing where it is not known.
    fn chain<'a>(&'a self, id: &str) -> impl Iterator<Item = &'a Token> {
        let first = self.tokens.get(id).map(|entry| &entry.token);
        std::iter::successors(first, |token| {
            self.tokens.get(token.parent_id.as_deref()?).map(|entry| &entry.token)
        })
    }

    fn allows(
        &self,
        id: &str,
        asks: &Asks<'_>,
        served: &Gitea,
        now: SystemTime,
    ) -> Result<(), Refusal> {
        let token = &self.tokens.get(id).ok_or(Refusal::Token)?.token;
        policy::allows(self.chain(id), asks, now)?;
        self.serves(token, served)
    }

    fn serves(&self, token: &Token, served: &Gitea) -> Result<(), Refusal> {
        let scope = &token.policy.scope;
        if served.serves(scope) { Ok(()) } else { Err(Refusal::Scope(scope.clone())) }
    }

    fn shown(&self, entry: &Entry, now: SystemTime) -> TokenNow {
        let state = self.stands(entry, now);
        TokenNow { token: entry.token.clone(), state, live_runners: entry.live }
    }

    /// One that is in force itself stands where its parent stands.
    fn stands(&self, entry: &Entry, now: SystemTime) -> State {
        let mut states = self.chain(&entry.token.id).map(|token| token.state(now));
        states.find(|state| *state != State::Active).unwrap_or(State::Active)
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.tokens.get_mut(id) {
            change(entry);
        }
    }

    fn change_chain(&mut self, id: &str, change: impl Fn(&mut Entry)) {
        let mut next = Some(id.to_owned());
        while let Some(entry) = next.and_then(|id| self.tokens.get_mut(&id)) {
            change(entry);
            next = entry.token.parent_id.clone();
        }
    }
}

/// A place for one runner, by its token and that one's ancestors. Dropped, it is free again.
pub(super) struct Reservation {
    enrollment: Arc<Enrollment>,
    ids: Vec<String>,
}

impl Reservation {
    /// The token and its ancestors.
    #[must_use]
    pub(super) fn token_ids(&self) -> &[String] {
        &self.ids
    }

    /// Whether the limits, which may have become narrower, still leave room for all places that are taken.
    #[must_use]
    pub(super) fn fits(&self) -> bool {
        let inner = self.enrollment.lock();
        let mut entries = self.ids.iter().filter_map(|id| inner.tokens.get(id));
        entries.all(|entry| policy::fits(&entry.token, entry.live, entry.running))
    }

    /// The runner is registered, and the store has counted it.
    pub(super) fn used(self, at: SystemTime) {
        let mut inner = self.enrollment.lock();
        for id in &self.ids {
            inner.change(id, |entry| {
                entry.token.uses += 1;
                entry.token.last_used_at = Some(at);
            });
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut inner = self.enrollment.lock();
        for id in &self.ids {
            inner.change(id, |entry| entry.running = entry.running.saturating_sub(1));
        }
        drop(inner);
        self.enrollment.moved.notify_waiters();
    }
}
