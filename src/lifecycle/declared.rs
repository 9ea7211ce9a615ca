//! Enrollment tokens that the settings declare. They are brought in line at the start and with each
//! reload; what they count stays in the store.

use std::sync::{MutexGuard, PoisonError};
use std::time::SystemTime;

use secrecy::ExposeSecret;

use super::Lifecycle;
use super::audit::tell;
use crate::broker::secret::{Digest, Presented};
use crate::broker::token::{Draft, Kind, Origin, Policy, SETTINGS_TOKEN, State, Token};
use crate::broker::{Event, What};
use crate::config::Settings;
use crate::store::StoreError;

impl Lifecycle {
    /// Does what the settings of this moment declare. It holds at once, whatever the store does, which has
    /// it with the next batch.
    pub async fn declare_tokens(&self) {
        let _changing = self.enrollment.changing.lock().await;
        let now = SystemTime::now();
        let wanted = declared(&self.settings.load());
        let (mut tokens, mut events) = (Vec::new(), Vec::new());
        let mut note = |token: &Token, what| {
            events.push(Event { token_id: Some(token.id.clone()), ..Event::now("settings", what) });
        };
        let known = self.enrollment.all();
        let gone = known.iter().filter(|one| {
            one.token.origin == Origin::Declared
                && one.state != State::Deleted
                && !wanted.iter().any(|(id, ..)| *id == one.token.id)
        });
        for one in gone {
            let token = Token { deleted_at: Some(now), ..one.token.clone() };
            note(&token, What::TokenDeleted);
            self.enrollment.end_secrets(&token.id, SystemTime::UNIX_EPOCH);
            self.enrollment.put(token.clone());
            tokens.push(token);
        }
        for (id, draft, digest) in wanted {
            let before = known.iter().map(|one| &one.token).find(|token| token.id == id);
            let token = Token {
                kind: draft.kind,
                origin: Origin::Declared,
                active: true,
                cascade: false,
                deleted_at: None,
                parent_id: None,
                description: draft.description,
                policy: draft.policy,
                created_at: before.map_or(now, |token| token.created_at),
                created_by: "settings".into(),
                last_used_at: before.and_then(|token| token.last_used_at),
                uses: before.map_or(0, |token| token.uses),
                id,
            };
            match before.filter(|token| token.deleted_at.is_none()) {
                None => note(&token, What::TokenDeclared),
                Some(before) if *before != token => note(&token, What::TokenChanged),
                Some(_) => {}
            }
            if before != Some(&token) {
                self.enrollment.put(token.clone());
                tokens.push(token.clone());
            }
            if !self.enrollment.has_secret(&token.id, &digest) {
                // At the start none is known, and a new one is no news.
                if self.enrollment.end_secrets(&token.id, SystemTime::UNIX_EPOCH) {
                    note(&token, What::TokenRotated);
                }
                self.enrollment.put_secret(&token.id, digest, None);
            }
        }
        events.iter().for_each(tell);
        if !tokens.is_empty() || !events.is_empty() {
            self.undeclared().push((tokens, events));
            self.pressing.notify_one();
        }
    }

    /// Writes down what the settings declared; what cannot be written waits on.
    ///
    /// # Errors
    /// The store took not all of it.
    pub(super) async fn write_declared(&self) -> Result<(), StoreError> {
        let batches = std::mem::take(&mut *self.undeclared());
        let mut batches = batches.into_iter();
        while let Some((tokens, events)) = batches.next() {
            let written = self.store.declare_tokens(tokens.clone(), events.clone()).await;
            if written.is_err() {
                let left = std::iter::once((tokens, events)).chain(batches);
                self.undeclared().splice(..0, left);
                return written;
            }
        }
        Ok(())
    }

    fn undeclared(&self) -> MutexGuard<'_, Vec<(Vec<Token>, Vec<Event>)>> {
        self.undeclared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Id, wish and secret of each.
fn declared(settings: &Settings) -> Vec<(String, Draft, Digest)> {
    let plain = settings.enrollment.token.as_ref().map(|secret| {
        let draft = Draft {
            kind: Kind::Reusable,
            description: "enrollment.token of the settings".into(),
            policy: Policy::of_scope(settings.gitea.default.scope.clone()),
        };
        (SETTINGS_TOKEN.to_owned(), draft, secret)
    });
    let others = settings
        .enrollment
        .tokens
        .iter()
        .map(|one| (one.name.clone(), one.draft.clone(), &one.token));
    plain
        .into_iter()
        .chain(others)
        .map(|(id, draft, secret)| (id, draft, Presented::of(secret.expose_secret()).digest))
        .collect()
}
