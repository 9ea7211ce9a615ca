//! The REST interface: runners and registration tokens at the four places, and the version. What there is
//! depends on the [version](super::version).

use bytes::Bytes;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::reply::{Reply, empty, not_found, query, reply};
use super::route::{self, Place, Rest};
use super::serve::Shared;
use super::state::Denied;
use super::version::Abilities;
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
    // Gitea judges a token before it looks where the request is for.
    let known = api_token(head).map_or(Ok(()), |token| shared.look(|s| s.known(token).map(drop)));
    let answered = known.and_then(|()| act(shared, head, path, body));
    Some(common(answered.unwrap_or_else(|denied| denied_reply(shared, denied))))
}

fn act(shared: &Shared, head: &Parts, path: &str, body: &Bytes) -> Result<Reply, Denied> {
    let Some(target) = route::rest(path) else { return Ok(not_found()) };
    let routes = routes(&shared.abilities, &target);
    if routes.is_empty() {
        return Ok(not_found());
    }
    let Some((_, found)) = routes.iter().find(|(method, _)| head.method == *method) else {
        let mut reply = empty(StatusCode::METHOD_NOT_ALLOWED);
        for (method, _) in routes {
            reply.headers_mut().append(header::ALLOW, HeaderValue::from_static(method));
        }
        return Ok(reply);
    };
    match found {
        Found::Version => Ok(json(StatusCode::OK, &Version { version: &shared.options.version })),
        Found::RegistrationToken(place) => registration_token(shared, head, place),
        Found::Runners(place) => list(shared, head, place),
        Found::Runner(place, id) => runner(shared, head, place, *id, body),
    }
}

/// What a method of a path leads to.
enum Found<'a> {
    Version,
    RegistrationToken(&'a Place),
    Runners(&'a Place),
    Runner(&'a Place, i64),
}

/// The methods of a path in a version of Gitea, with what they lead to; none where it has no such path.
/// `Allow` lists them as they are here (Gitea does so in no order), one of them twice where two routes
/// match the path.
fn routes<'a>(abilities: &Abilities, target: &'a Rest) -> Vec<(&'static str, Found<'a>)> {
    let mut routes = Vec::new();
    let mut add = |has: bool, method, found| {
        if has {
            routes.push((method, found));
        }
    };
    match target {
        Rest::Version => add(true, "GET", Found::Version),
        Rest::LegacyRegistrationToken => {
            add(abilities.get_token, "GET", Found::RegistrationToken(&Place::Admin));
        }
        Rest::RegistrationToken(place) => {
            let get_token = abilities.get_token && *place != Place::Admin;
            add(get_token, "GET", Found::RegistrationToken(place));
            add(abilities.post_token, "POST", Found::RegistrationToken(place));
        }
        Rest::Runners(place) => add(abilities.manage, "GET", Found::Runners(place)),
        Rest::Runner(..) => {}
    }
    let shown = match target {
        Rest::Runner(place, id) => Some((place, *id)),
        // Read as a runner's id, which none has.
        Rest::RegistrationToken(place) => Some((place, 0)),
        _ => None,
    };
    if let Some((place, id)) = shown {
        add(abilities.manage, "GET", Found::Runner(place, id));
        add(abilities.manage, "DELETE", Found::Runner(place, id));
        add(abilities.disable, "PATCH", Found::Runner(place, id));
    }
    routes
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
    let (runners, total_count) = shared.change(|state| state.page(now, &scope, skipped, limit));
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
        return Ok(if deleted { no_content() } else { runner_not_found(shared, id) });
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
        || runner_not_found(shared, id),
        |view| json(StatusCode::OK, &Runner::of(shared, view)),
    ))
}

/// Checks the API token; answers the scope whose runners are meant.
fn authorized(shared: &Shared, head: &Parts, place: &Place) -> Result<Scope, Denied> {
    let write = head.method != Method::GET;
    let user = shared.look(|state| state.authorize(api_token(head), place.category(), write))?;
    Ok(place.scope(&user))
}

fn api_token(head: &Parts) -> Option<&str> {
    let (kind, token) = head.headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let kinds = ["token", "bearer"];
    kinds.contains(&kind.to_ascii_lowercase().as_str()).then(|| token.trim())
}

impl Runner {
    fn of(shared: &Shared, view: RunnerView) -> Self {
        let labels = view.labels.into_iter().enumerate();
        Self {
            id: view.id,
            name: view.name,
            status: if view.online { "online" } else { "offline" },
            busy: view.busy,
            disabled: shared.abilities.disable.then_some(view.disabled),
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

fn runner_not_found(shared: &Shared, id: i64) -> Reply {
    let elsewhere = shared.look(|state| state.runners.contains_key(&id));
    let why = if elsewhere { "No permission to access this runner" } else { "Runner not found" };
    failure(shared, StatusCode::NOT_FOUND, Some(None), why)
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
