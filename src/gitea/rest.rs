//! The REST API, as an administrator would use it.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT as USER_AGENT_HEADER,
};
use hyper::{Method, Request, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::abilities::NO_RUNNER;
use super::answer::Answer;
use super::scope::{old_list_path, runners_path, token_scope};
use super::{Abilities, CALL_LIMIT, GiteaClient, Minting, USER_AGENT};
use crate::broker::Shown;
use crate::config::Scope;
use crate::connect;
use crate::connect::codec::object_from_json;
use crate::net::upstream::{OutBody, UpstreamError};

/// How large a page may be: more than runners with the most and longest labels that the broker lets
/// through, each character escaped, fill; else a few of them would stop all settling.
const PAGE_LIMIT: usize = 32 * 1024 * 1024;
/// How much of a text of Gitea's is quoted.
const QUOTE_LIMIT: usize = 300;

/// Why the REST API did not do what was asked. Its text says what to set.
#[derive(Debug, thiserror::Error)]
pub enum RestError {
    /// None is set.
    #[error("there is no API token: set {setting} to one with the scope {needs}")]
    NoToken {
        /// The setting that names its file.
        setting: String,
        /// The scope that the token needs.
        needs: &'static str,
    },
    /// Gitea does not know the token.
    #[error(
        "Gitea does not accept the API token: set {setting} to a valid one with the scope {needs}"
    )]
    Unauthorized {
        /// The setting that names its file.
        setting: String,
        /// The scope that the token needs.
        needs: &'static str,
    },
    /// The token is known and may not.
    #[error(
        "the API token may not do this (Gitea says: {text}): set {setting} to one with the scope \
         {needs}, of a user who administers this scope"
    )]
    Forbidden {
        /// Gitea's words.
        text: String,
        /// The setting that names the token's file.
        setting: String,
        /// The scope that the token needs.
        needs: &'static str,
    },
    /// No answer.
    #[error(transparent)]
    Unreachable(UpstreamError),
    /// Gitea, or a proxy before it, takes no more for now.
    #[error(
        "Gitea, or a proxy in front of it, takes no more requests for now ({status}): the broker waits \
         for {}", humantime::format_duration(*retry_after)
    )]
    Busy {
        /// 429 or 503.
        status: StatusCode,
        /// How long it asks to wait.
        retry_after: Duration,
    },
    /// An answer that is none of the expected ones, in a sentence that says what to do.
    #[error("{1}")]
    Unexpected(StatusCode, String),
}

impl RestError {
    /// Whether trying again may help with nothing set anew; with the wait that was asked for, where one was.
    #[must_use]
    pub fn passes_after(&self) -> Option<Option<Duration>> {
        match self {
            Self::Unreachable(error) => Some(error.retry_after),
            Self::Busy { retry_after, .. } => Some(Some(*retry_after)),
            // A 404 or 405 is Gitea's way of saying that it has no such call, or no such scope.
            Self::Unexpected(status, _) => {
                let no_such = [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
                (!no_such.contains(status)).then_some(None)
            }
            Self::NoToken { .. } | Self::Unauthorized { .. } | Self::Forbidden { .. } => None,
        }
    }

    /// How long Gitea, or something in front of it, asks to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.passes_after().flatten()
    }
}

/// What came of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteAnswer {
    /// It is done.
    Deleted,
    /// There is none of this id, or the token may not see it: this proves nothing.
    NotFound,
}

/// What came of switching a runner off or on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwitchAnswer {
    /// It is done.
    Done,
    /// There is none of this id, or the token may not see it.
    NotFound,
    /// This Gitea cannot: it is older than 1.26.
    Unsupported,
}

/// What is read of a runner as the REST API tells of it; a uuid or a time it does not tell.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RestRunner {
    /// Gitea's id of the row.
    pub id: i64,
    /// The display name.
    #[serde(default)]
    pub name: String,
    /// Bare names of its labels.
    #[serde(default, deserialize_with = "label_names")]
    pub labels: Vec<String>,
    /// It called within the last minute.
    #[serde(default, rename = "status", deserialize_with = "is_online")]
    pub online: bool,
    /// It reported on a task within the last seconds.
    #[serde(default)]
    pub busy: bool,
    /// It gets no task. A Gitea that cannot switch runners off does not tell.
    #[serde(default)]
    pub disabled: bool,
}

impl RestRunner {
    /// What that tells of its activity.
    #[must_use]
    pub fn shown(&self) -> Shown {
        Shown { online: self.online, busy: self.busy }
    }
}

impl GiteaClient {
    /// Deletes a runner. A deletion that was done already is no error.
    pub async fn delete_runner(&self, scope: &Scope, id: i64) -> Result<DeleteAnswer, RestError> {
        let path = format!("{}/{id}", runners_path(scope));
        let answer = self.rest(Method::DELETE, scope, &path, None).await?;
        match answer.status {
            // Any other success is a page of something in front of Gitea.
            StatusCode::NO_CONTENT => Ok(DeleteAnswer::Deleted),
            StatusCode::NOT_FOUND if message(&answer).is_some() => Ok(DeleteAnswer::NotFound),
            status => {
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    self.learn(|known| known.delete = Some(false));
                }
                Err(unexpected(&answer))
            }
        }
    }

    /// One runner; `None`: there is none of this id, or the token may not see it, which proves nothing.
    pub async fn show_runner(
        &self,
        scope: &Scope,
        id: i64,
    ) -> Result<Option<RestRunner>, RestError> {
        let path = format!("{}/{id}", runners_path(scope));
        let answer = self.rest(Method::GET, scope, &path, None).await?;
        match answer.status {
            StatusCode::NOT_FOUND if message(&answer).is_some() => Ok(None),
            _ => decoded(&answer).map(Some),
        }
    }

    /// Has Gitea give a runner no task from now on, or tasks again.
    pub async fn switch_runner(
        &self,
        scope: &Scope,
        id: i64,
        disabled: bool,
    ) -> Result<SwitchAnswer, RestError> {
        let path = format!("{}/{id}", runners_path(scope));
        let body = serde_json::json!({ "disabled": disabled }).to_string();
        let answer = self.rest(Method::PATCH, scope, &path, Some(body.into())).await?;
        let unsupported = match answer.status {
            StatusCode::NOT_FOUND if message(&answer).is_some() => {
                return Ok(SwitchAnswer::NotFound);
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => true,
            // One that takes the call and does not know the field answers the runner as it was.
            _ => decoded::<RestRunner>(&answer)?.disabled != disabled,
        };
        self.learn(|known| known.switch_off = Some(!unsupported));
        Ok(if unsupported { SwitchAnswer::Unsupported } else { SwitchAnswer::Done })
    }

    /// Asks whether the API token may do all that it is needed for with this Gitea, and changes nothing.
    pub async fn probe(&self, scope: &Scope) -> Result<(), RestError> {
        let known = self.abilities();
        if known.list == Some(false) {
            return self.probe_old(scope, &known).await;
        }
        self.sees(scope).await?;
        if known.delete != Some(false) {
            // The right to delete is looked at before the runner is.
            self.delete_runner(scope, NO_RUNNER).await?;
        }
        Ok(())
    }

    /// Asks whether the API token may read the list of a scope's runners.
    pub async fn sees(&self, scope: &Scope) -> Result<(), RestError> {
        self.list(scope, 1, 1).await.map(|_| ())
    }

    /// A Gitea that has no list of runners uses the token for registration tokens alone. To ask for one may
    /// make one, so something else is read that needs the same right.
    async fn probe_old(&self, scope: &Scope, known: &Abilities) -> Result<(), RestError> {
        if known.mint == Some(Minting::No) {
            let text = format!("{} has nothing to do for an API token", known.gitea());
            return Err(RestError::Unexpected(StatusCode::NOT_FOUND, text));
        }
        let answer = self.rest(Method::GET, scope, &old_list_path(scope), None).await?;
        if answer.status.is_success() { Ok(()) } else { Err(unexpected(&answer)) }
    }

    pub(super) async fn rest(
        &self,
        method: Method,
        scope: &Scope,
        path: &str,
        json: Option<Bytes>,
    ) -> Result<Answer, RestError> {
        let needs = token_scope(scope);
        let setting = self.setting(scope, "api_token_file");
        let Some(token) = self.api_token(scope) else {
            return Err(RestError::NoToken { setting, needs });
        };
        // What no header can carry, Gitea never gave out.
        let Some(authorization) = authorization(&token) else {
            return Err(RestError::Unauthorized { setting, needs });
        };
        let mut answer = self.send(method, path, Some(authorization), json).await?;
        answer.hide(&token);
        // What a proxy says without Gitea's words tells nothing of the token.
        match (answer.status, message(&answer)) {
            (StatusCode::UNAUTHORIZED, Some(_)) => Err(RestError::Unauthorized { setting, needs }),
            (StatusCode::FORBIDDEN, Some(text)) => {
                Err(RestError::Forbidden { text, setting, needs })
            }
            _ => Ok(answer),
        }
    }

    /// One call, whatever its status.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, RestError> {
        self.send(method, path, authorization, None).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        authorization: Option<HeaderValue>,
        json: Option<Bytes>,
    ) -> Result<Answer, RestError> {
        let typed = json.is_some().then(|| HeaderValue::from_static("application/json"));
        let mut request = Request::new(json.map_or(OutBody::Empty, OutBody::from));
        *request.method_mut() = method;
        *request.uri_mut() = self.upstream.below(&format!("/api/v1/{path}"));
        let headers = request.headers_mut();
        headers.extend(authorization.map(|authorization| (AUTHORIZATION, authorization)));
        headers.extend(typed.map(|typed| (CONTENT_TYPE, typed)));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(USER_AGENT_HEADER, USER_AGENT);
        let deadline = Instant::now() + CALL_LIMIT;
        let response =
            self.upstream.send(request, CALL_LIMIT).await.map_err(RestError::Unreachable)?;
        let status = response.status();
        let answer = Answer::read(response, PAGE_LIMIT, deadline)
            .await
            .map_err(|sentence| RestError::Unexpected(status, sentence))?;
        match answer.asks_to_wait() {
            Some(retry_after) => Err(RestError::Busy { status, retry_after }),
            None => Ok(answer),
        }
    }
}

pub(super) fn authorization(token: &SecretString) -> Option<HeaderValue> {
    let value = Zeroizing::new(format!("token {}", token.expose_secret()));
    connect::sensitive(&value)
}

fn label_names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    struct Label {
        name: String,
    }

    let labels = Option::<Vec<Label>>::deserialize(deserializer)?;
    Ok(labels.into_iter().flatten().map(|label| label.name).collect())
}

fn is_online<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    // Older versions tell `idle` and `active`.
    Ok(String::deserialize(deserializer)? != "offline")
}

pub(super) fn decoded<T: DeserializeOwned>(answer: &Answer) -> Result<T, RestError> {
    match object_from_json(&answer.body) {
        Ok(value) if answer.status.is_success() => Ok(value),
        _ => Err(unexpected(answer)),
    }
}

fn unexpected(answer: &Answer) -> RestError {
    let sentence = match message(answer) {
        Some(text) if answer.status == StatusCode::NOT_FOUND => format!(
            "Gitea has no such list of runners (it says: {text}): check gitea.scope, and that Gitea is \
             1.24 or later"
        ),
        Some(text) => format!("Gitea answered {}: {text}", answer.status),
        None => answer.describe(),
    };
    RestError::Unexpected(answer.status, sentence)
}

/// Gitea's own words about an error, fit for a log; `None` where Gitea did not write the answer.
pub(super) fn message(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Body {
        message: String,
    }

    if answer.status.is_success() {
        return None;
    }
    let body: Body = object_from_json(&answer.body).ok()?;
    let line = answer.without_secret(body.message.replace(char::is_control, " "));
    Some(line.chars().take(QUOTE_LIMIT).collect())
}
