//! The tokens that Gitea gave out: those that the settings hold, and the registration tokens that are minted
//! with the API tokens among them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use hyper::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::timeout;

use super::rest::{decoded, message};
use super::scope::{legacy_path, runners_path};
use super::{CALL_LIMIT, GiteaClient, RestError};
use crate::broker::secrets_match;
use crate::config::{self, Scope, Served};

/// The longest registration token that is believed; Gitea's have 40 characters.
const LONGEST: usize = 255;

/// Where a scope's registration token is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// The settings hold it.
    Set,
    /// Gitea gave it out to the broker.
    Minted,
    /// It is minted when a runner first needs it.
    NotYet,
}

/// All tokens. They are swapped whole when the settings are read again.
#[derive(Debug)]
pub(super) struct Tokens {
    served: ArcSwap<Vec<Served>>,
    minted: Mutex<HashMap<Scope, SecretString>>,
    /// Held by whoever asks Gitea for one, so that many that need it ask once.
    minting: tokio::sync::Mutex<()>,
}

impl Tokens {
    pub(super) fn new(gitea: &config::Gitea) -> Self {
        Self {
            served: ArcSwap::from_pointee(gitea.served().cloned().collect()),
            minted: Mutex::default(),
            minting: tokio::sync::Mutex::default(),
        }
    }

    fn minted(&self) -> MutexGuard<'_, HashMap<Scope, SecretString>> {
        self.minted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, scope: &Scope, take: impl FnOnce(&Served) -> Option<T>) -> Option<T> {
        take(self.served.load().iter().find(|served| served.scope == *scope)?)
    }
}

impl GiteaClient {
    /// Takes the tokens of settings that were read again. What was minted stays, except where the settings
    /// hold a registration token, which may be a new one.
    pub fn set_tokens(&self, gitea: &config::Gitea) {
        let served: Vec<_> = gitea.served().cloned().collect();
        self.tokens.minted().retain(|scope, _| {
            served.iter().any(|one| one.scope == *scope && one.registration_token.is_none())
        });
        self.tokens.served.store(served.into());
    }

    /// Whether there is an API token for this scope.
    #[must_use]
    pub fn has_api_token(&self, scope: &Scope) -> bool {
        self.api_token(scope).is_some()
    }

    /// Where the registration token of a scope is from at the moment.
    #[must_use]
    pub fn registration(&self, scope: &Scope) -> Registration {
        if self.tokens.minted().contains_key(scope) {
            return Registration::Minted;
        }
        match self.known_token(scope) {
            Some(_) => Registration::Set,
            None => Registration::NotYet,
        }
    }

    /// Whether this is one of Gitea's registration tokens, as far as they are known here.
    #[must_use]
    pub fn is_registration_token(&self, presented: &str) -> bool {
        let same = |known: &SecretString| {
            secrets_match(known.expose_secret().as_bytes(), presented.as_bytes())
        };
        let served = self.tokens.served.load();
        let minted = self.tokens.minted();
        let set = served.iter().filter_map(|served| served.registration_token.as_ref());
        // All are looked at, so that the time does not tell which one was near.
        set.chain(minted.values()).fold(false, |found, known| found | same(known))
    }

    /// The registration token of a scope: as it was minted last, as it is set, or minted now.
    ///
    /// # Errors
    /// None is set and Gitea gave out none.
    pub async fn registration_token(&self, scope: &Scope) -> Result<SecretString, RestError> {
        match self.known_token(scope) {
            Some(token) => Ok(token),
            None => self.mint(scope, None).await,
        }
    }

    /// The latest registration token, in the place of one that Gitea refuses; `None`: there is no API token
    /// to ask for it with, or Gitea still gives out the one that it refuses.
    ///
    /// # Errors
    /// Gitea gave out none.
    pub async fn renewed_token(
        &self,
        scope: &Scope,
        refused: &SecretString,
    ) -> Result<Option<SecretString>, RestError> {
        if !self.has_api_token(scope) {
            return Ok(None);
        }
        let token = self.mint(scope, Some(refused)).await?;
        Ok(Some(token).filter(|token| token.expose_secret() != refused.expose_secret()))
    }

    pub(super) fn api_token(&self, scope: &Scope) -> Option<SecretString> {
        self.tokens.of(scope, |served| served.api_token.clone())
    }

    /// How a setting of a scope is called, for example `gitea.scopes[org:acme].api_token_file`.
    pub(crate) fn setting(&self, scope: &Scope, key: &str) -> String {
        let section = self.tokens.of(scope, |served| Some(served.section.clone()));
        format!("{}.{key}", section.unwrap_or_else(|| format!("gitea.scopes[{scope}]")))
    }

    fn known_token(&self, scope: &Scope) -> Option<SecretString> {
        let minted = self.tokens.minted().get(scope).cloned();
        minted.or_else(|| self.tokens.of(scope, |served| served.registration_token.clone()))
    }

    /// Asks Gitea, unless another did so meanwhile. `refused` is one that Gitea does not take any more.
    async fn mint(
        &self,
        scope: &Scope,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, RestError> {
        let Ok(_turn) = timeout(CALL_LIMIT, self.tokens.minting.lock()).await else {
            let text = "others wait for a registration token already: is Gitea slow?".into();
            return Err(RestError::Unexpected(StatusCode::GATEWAY_TIMEOUT, text));
        };
        if let Some(token) = self.known_token(scope)
            && refused.is_none_or(|refused| refused.expose_secret() != token.expose_secret())
        {
            return Ok(token);
        }
        let token = self.ask_for_token(scope).await?;
        self.tokens.minted().insert(scope.clone(), token.clone());
        Ok(token)
    }

    /// Gitea answers with the latest of the scope, and makes one only where none is active. Before 1.24 it
    /// had GET for that, on another path for the instance (source: Gitea's `routers/api/v1/api.go`).
    async fn ask_for_token(&self, scope: &Scope) -> Result<SecretString, RestError> {
        #[derive(Deserialize)]
        struct Body {
            token: String,
        }

        let path = format!("{}/registration-token", runners_path(scope));
        let mut answer = self.rest(Method::POST, scope, &path, None).await?;
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
            let path = format!("{}/registration-token", legacy_path(scope));
            let got = self.rest(Method::GET, scope, &path, None).await?;
            // Where neither is there, Gitea's own words on the first are the telling ones.
            if got.status.is_success() || message(&answer).is_none() {
                answer = got;
            }
        }
        let Body { token } = decoded(&answer)?;
        let plausible = (1..=LONGEST).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        match plausible {
            true => Ok(token.into()),
            false => Err(RestError::Unexpected(answer.status, answer.describe())),
        }
    }
}
