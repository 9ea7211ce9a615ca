//! The REST interface: runners and registration tokens at the four places, and the version.

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::reply::{Reply, empty, not_found, query, reply};
use super::route::{self, Place, Rest};
use super::serve::Shared;
use super::state::Denied;
use super::view::RunnerView;
use crate::config::Scope;
use crate::sandbox::codec;

/// Gitea's page length where the request names none, and the longest.
const PAGE: usize = 30;
const LONGEST_PAGE: usize = 50;

/// Acts and answers; `None`: the normalized path is not below `/api/v1`.
pub(super) fn answer(shared: &Shared, head: &Parts, path: &str, body: &Bytes) -> Option<Reply> {
    if !path.starts_with("/api/v1/") {
        return None;
    }
    let Some(target) = route::rest(path) else {
        return Some(common(not_found()));
    };
    let allowed: &[&str] = match &target {
        Rest::Version | Rest::Runners(_) | Rest::LegacyRegistrationToken => &["GET"],
        Rest::RegistrationToken(_) => &["GET", "POST"],
        Rest::Runner(..) if shared.options.can_disable => &["GET", "DELETE", "PATCH"],
        Rest::Runner(..) => &["GET", "DELETE"],
    };
    if !allowed.contains(&head.method.as_str()) {
        let mut reply = empty(StatusCode::METHOD_NOT_ALLOWED);
        for method in allowed {
            reply.headers_mut().append(header::ALLOW, HeaderValue::from_static(method));
        }
        return Some(common(reply));
    }
    let answered = match target {
        Rest::Version => Ok(json(StatusCode::OK, &Version { version: &shared.options.version })),
        Rest::LegacyRegistrationToken => registration_token(shared, head, &Place::Admin),
        // Here `registration-token` is read as a runner's id.
        Rest::RegistrationToken(Place::Admin) if head.method == Method::GET => {
            runner(shared, head, &Place::Admin, 0, body)
        }
        Rest::RegistrationToken(place) => registration_token(shared, head, &place),
        Rest::Runners(place) => list(shared, head, &place),
        Rest::Runner(place, id) => runner(shared, head, &place, id, body),
    };
    Some(common(answered.unwrap_or_else(|denied| denied_reply(shared, denied))))
}

#[derive(Serialize)]
struct Version<'a> {
    version: &'a str,
}

#[derive(Serialize)]
struct Token {
    token: String,
}

#[derive(Serialize)]
struct Runners {
    runners: Vec<Runner>,
    total_count: usize,
}

#[derive(Serialize)]
struct Runner {
    id: i64,
    name: String,
    status: &'static str,
    busy: bool,
    /// Told where runners can be switched off.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled: Option<bool>,
    ephemeral: bool,
    labels: Vec<Label>,
}

#[derive(Serialize)]
struct Label {
    id: usize,
    name: String,
    r#type: &'static str,
}

#[derive(Serialize)]
struct Failure<'a> {
    /// Left out where the outer `Option` is `None`, `null` where the inner one is.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Option<Vec<String>>>,
    message: &'a str,
    url: String,
}

fn registration_token(shared: &Shared, head: &Parts, place: &Place) -> Result<Reply, Denied> {
    let scope = authorized(shared, head, place)?;
    let token = shared.change(|state| state.registration_token(&scope));
    Ok(json(StatusCode::OK, &Token { token }))
}

fn list(shared: &Shared, head: &Parts, place: &Place) -> Result<Reply, Denied> {
    let scope = authorized(shared, head, place)?;
    let number = |name| {
        query(head, name).and_then(|text| text.parse::<usize>().ok()).filter(|number| *number > 0)
    };
    let limit = number("limit").unwrap_or(PAGE).min(LONGEST_PAGE);
    let skipped = (number("page").unwrap_or(1) - 1).saturating_mul(limit);
    let now = shared.now();
    let (runners, total_count) = shared.look(|state| state.page(now, &scope, skipped, limit));
    let runners = runners.into_iter().map(|view| Runner::of(shared, view)).collect();
    Ok(json(StatusCode::OK, &Runners { runners, total_count }))
}

fn runner(
    shared: &Shared,
    head: &Parts,
    place: &Place,
    id: i64,
    body: &Bytes,
) -> Result<Reply, Denied> {
    #[derive(Deserialize)]
    struct Edit {
        disabled: Option<bool>,
    }

    let scope = authorized(shared, head, place)?;
    if head.method == Method::DELETE {
        let deleted = shared.change(|state| state.delete_runner(&scope, id));
        return Ok(if deleted { no_content() } else { runner_not_found(shared) });
    }
    if head.method == Method::PATCH {
        let Ok(Edit { disabled: Some(disabled) }) = serde_json::from_slice(body) else {
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return Ok(failure(shared, status, None, "[Disabled]: Required"));
        };
        shared.change(|state| state.disable_runner(&scope, id, disabled));
    }
    let shown = shared.look(|state| state.runner(shared.now(), &scope, id));
    Ok(shown.map_or_else(
        || runner_not_found(shared),
        |view| json(StatusCode::OK, &Runner::of(shared, view)),
    ))
}

/// Checks the API token; answers the scope whose runners are meant.
fn authorized(shared: &Shared, head: &Parts, place: &Place) -> Result<Scope, Denied> {
    let token = head
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(kind, _)| ["token", "bearer"].contains(&kind.to_ascii_lowercase().as_str()))
        .map(|(_, token)| token.trim());
    let write = head.method != Method::GET;
    let user = shared.look(|state| state.authorize(token, place.category(), write))?;
    Ok(place.scope(&user))
}

impl Runner {
    fn of(shared: &Shared, view: RunnerView) -> Self {
        let labels = view.labels.into_iter().enumerate();
        Self {
            id: view.id,
            name: view.name,
            status: if view.online { "online" } else { "offline" },
            busy: view.busy,
            disabled: shared.options.can_disable.then_some(view.disabled),
            ephemeral: view.ephemeral,
            labels: labels.map(|(id, name)| Label { id, name, r#type: "custom" }).collect(),
        }
    }
}

fn denied_reply(shared: &Shared, denied: Denied) -> Reply {
    let (status, message) = match denied {
        Denied::Unauthorized(message) => (StatusCode::UNAUTHORIZED, message),
        Denied::Forbidden(message) => (StatusCode::FORBIDDEN, message),
    };
    failure(shared, status, None, &message)
}

fn runner_not_found(shared: &Shared) -> Reply {
    failure(shared, StatusCode::NOT_FOUND, Some(None), "Runner not found")
}

fn failure(
    shared: &Shared,
    status: StatusCode,
    errors: Option<Option<Vec<String>>>,
    message: &str,
) -> Reply {
    let url = format!("{}api/swagger", shared.own_root_url());
    json(status, &Failure { errors, message, url })
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Reply {
    let mut body = codec::json(value);
    body.push(b'\n');
    reply(status, "application/json;charset=utf-8", body)
}

fn no_content() -> Reply {
    empty(StatusCode::NO_CONTENT)
}

/// The headers that all of Gitea's REST answers carry.
fn common(mut reply: Reply) -> Reply {
    const CACHE: &str = "max-age=0, private, must-revalidate, no-transform";
    let headers = reply.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("SAMEORIGIN"));
    reply
}
