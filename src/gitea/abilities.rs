//! What Gitea can do, found out by asking. Nothing that is asked here changes anything.
//!
//! Gitea's router answers 405 to a method that a path does not have, with those that it has in `Allow`, and
//! 404 to a path that is not there, before it looks at any token. So a PUT, which none of these paths has in
//! any version, tells what is there. What a proxy answers in Gitea's place tells nothing; then the release
//! decides, where the version names one, and else the answers to real calls.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{ALLOW, CONTENT_TYPE, USER_AGENT as USER_AGENT_HEADER};
use hyper::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

use super::answer::Answer;
use super::rest::authorization;
use super::scope::{legacy_path, runners_path};
use super::version::{clock_of, release};
use super::{BODY_LIMIT, CALL_LIMIT, GiteaClient, RestError, USER_AGENT};
use crate::config::Scope;
use crate::connect::{Code, Codec, ConnectError};

/// An id that no runner has: unlike 0, no query takes it for one that was left out.
pub(super) const NO_RUNNER: i64 = i64::MAX;

/// How Gitea gives out registration tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minting {
    /// As from 1.24 on.
    Post,
    /// As in 1.22 and 1.23.
    Get,
    /// Not by its API.
    No,
}

/// What Gitea can do by its API, as far as that is known: `None` where it is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Gitea's version in its own words; `None` where it does not tell.
    pub version: Option<String>,
    /// It lists and shows runners.
    pub list: Option<bool>,
    /// It deletes runners.
    pub delete: Option<bool>,
    /// It gives out registration tokens.
    pub mint: Option<Minting>,
    /// It switches runners off, so that they get no task.
    pub switch_off: Option<bool>,
    /// It lets a runner deregister itself by its own credentials.
    pub deregister: Option<bool>,
}

impl GiteaClient {
    /// What Gitea can do, as found last.
    #[must_use]
    pub fn abilities(&self) -> Arc<Abilities> {
        self.abilities.load_full()
    }

    /// Whether runners of this scope can be listed and shown, as far as is known.
    #[must_use]
    pub fn can_list(&self, scope: &Scope) -> bool {
        self.has_api_token(scope) && self.abilities.load().list != Some(false)
    }

    /// Whether runners of this scope can be deleted, as far as is known.
    #[must_use]
    pub fn can_delete(&self, scope: &Scope) -> bool {
        self.has_api_token(scope) && self.abilities.load().delete != Some(false)
    }

    /// Whether Gitea can switch runners off, as far as is known.
    #[must_use]
    pub fn can_switch(&self) -> bool {
        self.abilities.load().switch_off != Some(false)
    }

    /// Finds out what Gitea can do, by the paths of this scope; of what cannot be found out, stays what was
    /// learnt of the same version.
    ///
    /// # Errors
    /// Its REST API does not answer, and nothing was found out.
    pub async fn probe_abilities(&self, scope: &Scope) -> Result<Arc<Abilities>, RestError> {
        // Who answers this in Gitea's place answers for the other paths as well.
        let version = self.version().await?;
        let runners = runners_path(scope);
        let runner = format!("{runners}/0");
        let token = format!("{runners}/registration-token");
        let legacy = format!("{}/registration-token", legacy_path(scope));
        let (runners, runner, token, legacy, deregister) = tokio::join!(
            self.routes(scope, &runners),
            self.routes(scope, &runner),
            self.routes(scope, &token),
            self.routes(scope, &legacy),
            self.has_deregister(),
        );
        let has =
            |routes: &Option<Routes>, method| routes.as_ref().map(|routes| routes.has(method));
        let mint = match (has(&token, "POST"), has(&legacy, "GET")) {
            (Some(true), _) => Some(Minting::Post),
            (_, Some(true)) => Some(Minting::Get),
            (Some(false), Some(false)) => Some(Minting::No),
            _ => None,
        };
        Ok(self.keep(Abilities {
            version,
            list: has(&runners, "GET"),
            delete: has(&runner, "DELETE"),
            mint,
            switch_off: has(&runner, "PATCH"),
            deregister,
        }))
    }

    /// How far Gitea's clock is ahead of ours, or behind it; `None` where its answers tell no time.
    ///
    /// # Errors
    /// Gitea does not answer.
    pub async fn clock_skew(&self) -> Result<Option<Skew>, RestError> {
        let answer = self.ask(Method::GET, "version", None).await?;
        Ok(clock_of(&answer.headers).map(|theirs| Skew::between(theirs, SystemTime::now())))
    }

    /// Notes what a real answer told.
    pub(super) fn learn(&self, note: impl Fn(&mut Abilities)) {
        self.abilities.rcu(|known| {
            let mut known = Abilities::clone(known);
            note(&mut known);
            known
        });
    }

    fn keep(&self, found: Abilities) -> Arc<Abilities> {
        self.abilities.rcu(|known| {
            let learnt = if found.version == known.version {
                (**known).clone()
            } else {
                Abilities::default()
            };
            found.clone().or(learnt).or(found
                .version
                .as_deref()
                .map(of_release)
                .unwrap_or_default())
        });
        self.abilities()
    }

    /// The methods that a path has; `None` where it is not Gitea's router that answers.
    async fn routes(&self, scope: &Scope, path: &str) -> Option<Routes> {
        let mut answer = self.ask(Method::PUT, path, None).await.ok()?;
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            // A Gitea that answers nobody who is not signed in.
            let authorization = authorization(&self.api_token(scope)?)?;
            answer = self.ask(Method::PUT, path, Some(authorization)).await.ok()?;
        }
        Routes::of(&answer)
    }

    /// Asks with a message that names no runner.
    async fn has_deregister(&self) -> Option<bool> {
        let headers = HeaderMap::from_iter([
            (CONTENT_TYPE, Codec::Proto.header_value()),
            (USER_AGENT_HEADER, USER_AGENT),
        ]);
        let request = self.post("runner.v1.RunnerService/Deregister", headers, Bytes::new());
        let deadline = Instant::now() + CALL_LIMIT;
        let response = self.upstream.send(request, CALL_LIMIT).await.ok()?;
        let answer = Answer::read(response, BODY_LIMIT, deadline).await.ok()?;
        match ConnectError::parse(answer.status, &answer.body).map(|error| error.code) {
            Some(Code::Unimplemented) => Some(false),
            // What it says of a runner that it does not know.
            Some(Code::Unauthenticated | Code::InvalidArgument | Code::NotFound) => Some(true),
            Some(_) => None,
            None => is_no_path(&answer).then_some(false),
        }
    }
}

impl Abilities {
    /// Gitea by its version, for a sentence.
    #[must_use]
    pub fn gitea(&self) -> String {
        match &self.version {
            Some(version) => format!("Gitea {version}"),
            None => "this Gitea".into(),
        }
    }

    /// What is known to be missing and what that costs, a sentence each, as far as an API token would be
    /// used for it.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let gitea = self.gitea();
        let mut missing = Vec::new();
        if self.list == Some(false) || self.delete == Some(false) {
            missing.push(format!(
                "{gitea} cannot list and delete runners by its API: runners that leave stay registered \
                 and are parked for the next of their kind, and a registration whose answer was lost \
                 cannot be settled; Gitea 1.24 and later can"
            ));
        }
        if self.mint == Some(Minting::No) {
            missing.push(format!(
                "{gitea} gives out no registration tokens by its API: each scope needs one in the \
                 settings, and a new one whenever it is reset; Gitea 1.22 and later do"
            ));
        }
        if self.switch_off == Some(false) {
            missing.push(format!(
                "{gitea} cannot switch runners off by its API: one that dials Gitea itself may get a task \
                 while it is drained; Gitea 1.26 and later can"
            ));
        }
        missing
    }

    /// The same, with what is not known here as it is there.
    fn or(self, other: Self) -> Self {
        Self {
            version: self.version,
            list: self.list.or(other.list),
            delete: self.delete.or(other.delete),
            mint: self.mint.or(other.mint),
            switch_off: self.switch_off.or(other.switch_off),
            deregister: self.deregister.or(other.deregister),
        }
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |known| match known {
            Some(true) => "yes",
            Some(false) => "no",
            None => "not known",
        };
        let mint = match self.mint {
            Some(Minting::Post) => "by POST",
            Some(Minting::Get) => "by GET",
            Some(Minting::No) => "no",
            None => "not known",
        };
        write!(
            f,
            "list runners: {}, delete: {}, switch off: {}, registration tokens: {mint}, Deregister: {}",
            word(self.list),
            word(self.delete),
            word(self.switch_off),
            word(self.deregister)
        )
    }
}

/// How far two clocks are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skew {
    /// Gitea's is ahead of ours by so much.
    Ahead(Duration),
    /// Gitea's is behind ours by so much.
    Behind(Duration),
}

impl Skew {
    fn between(theirs: SystemTime, ours: SystemTime) -> Self {
        match theirs.duration_since(ours) {
            Ok(ahead) => Self::Ahead(ahead),
            Err(error) => Self::Behind(error.duration()),
        }
    }

    /// Without the direction.
    #[must_use]
    pub fn size(self) -> Duration {
        let (Self::Ahead(size) | Self::Behind(size)) = self;
        size
    }
}

/// The methods of a path.
struct Routes(Vec<String>);

impl Routes {
    fn of(answer: &Answer) -> Option<Self> {
        if is_no_path(answer) {
            return Some(Self(Vec::new()));
        }
        // A proxy's own 405 has a page with it.
        if answer.status != StatusCode::METHOD_NOT_ALLOWED || !answer.body.is_empty() {
            return None;
        }
        let lines = answer.headers.get_all(ALLOW).iter().filter_map(|line| line.to_str().ok());
        let methods: Vec<_> =
            lines.flat_map(|line| line.split(',')).map(|method| method.trim().to_owned()).collect();
        (!methods.is_empty()).then_some(Self(methods))
    }

    fn has(&self, method: &str) -> bool {
        self.0.iter().any(|one| one == method)
    }
}

/// What Go says of a path that is not routed.
fn is_no_path(answer: &Answer) -> bool {
    answer.status == StatusCode::NOT_FOUND && answer.body.starts_with(b"404 page not found")
}

/// What the release of this version can do; a development tree or another program of that origin may differ.
fn of_release(version: &str) -> Abilities {
    let Some(minor) = release(version) else { return Abilities::default() };
    Abilities {
        list: Some(minor >= 24),
        delete: Some(minor >= 24),
        mint: Some(match minor {
            ..22 => Minting::No,
            22..24 => Minting::Get,
            24.. => Minting::Post,
        }),
        switch_off: Some(minor >= 26),
        ..Abilities::default()
    }
}

#[cfg(test)]
mod tests;
