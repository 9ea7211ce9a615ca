//! Metrics, and whether the broker lives and is ready.

use std::fmt::Write;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Admin;
use super::problem::Problem;
use super::view::ApiToken;
use crate::config::Scope;
use crate::lifecycle::Lifecycle;

/// `GET /metrics`
pub(super) async fn metrics(State(admin): State<Admin>) -> Result<Response, Problem> {
    admin.lifecycle.measure().await;
    let text = admin.lifecycle.metrics.render().map_err(|error| {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Problem::new(status, "metrics", "The metrics cannot be shown", error.to_string())
    })?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

/// `GET /healthz`: whoever answers is alive.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: whether runners can be registered and served. Each failed check is a line; with
/// `?verbose`, each check is.
pub(super) async fn readyz(
    State(admin): State<Admin>,
    RawQuery(query): RawQuery,
) -> (StatusCode, String) {
    let lifecycle = &admin.lifecycle;
    // Both are bound before this listener answers.
    let mut checks = vec![Check::new("listening", Ok(format!("at {}", admin.runners)))];
    checks.extend(checks_of(lifecycle).await);
    let ready = checks.iter().all(|check| check.state.is_ok());
    let verbose = query.is_some_and(|query| {
        query.split('&').any(|pair| pair.split('=').next() == Some("verbose"))
    });
    let mut text = String::new();
    for check in checks.iter().filter(|check| verbose || check.state.is_err()) {
        text += &check.line();
    }
    if verbose {
        text.extend(gitea(lifecycle).iter().map(Check::line));
    }
    if ready {
        (StatusCode::OK, text + "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, text + "not ready\n")
    }
}

/// A Gitea that is down, or a token that it refuses, is no reason to take the broker away from its runners.
fn gitea(lifecycle: &Lifecycle) -> Vec<Check> {
    const NO_MATTER: &str = "(does not make the broker unready)";
    let gitea = &lifecycle.gitea;
    let abilities = gitea.abilities();
    let up = gitea.is_up().then(|| "answers".into());
    let version = abilities.version.as_deref().unwrap_or("not known");
    let mut checks = vec![
        Check::new("gitea", up.ok_or_else(|| format!("does not answer {NO_MATTER}"))),
        Check::new("gitea's version", Ok(version.into())),
        Check::new("gitea's abilities", Ok(abilities.to_string())),
    ];
    checks.extend(lifecycle.settings.load().gitea.served().map(|served| {
        let scope = &served.scope;
        let state = match api_token(lifecycle, scope) {
            ApiToken::None => Ok(format!("none is set for {scope}")),
            ApiToken::Unknown => Ok(format!("that of {scope} was not tried yet")),
            ApiToken::Valid => Ok(format!("that of {scope} works")),
            ApiToken::Invalid => Err(format!("that of {scope} is refused by Gitea {NO_MATTER}")),
        };
        Check::new("API token", state)
    }));
    checks
}

/// What is known of a scope's API token.
pub(super) fn api_token(lifecycle: &Lifecycle, scope: &Scope) -> ApiToken {
    match (lifecycle.gitea.has_api_token(scope), lifecycle.api_token_valid(scope)) {
        (false, _) => ApiToken::None,
        (true, Some(true)) => ApiToken::Valid,
        (true, Some(false)) => ApiToken::Invalid,
        (true, None) => ApiToken::Unknown,
    }
}

/// What keeps a broker that listens from being ready; `None` where `/readyz` says yes.
pub(crate) async fn unready(lifecycle: &Lifecycle) -> Option<String> {
    let checks = checks_of(lifecycle).await;
    let failed: String = checks.iter().filter(|c| c.state.is_err()).map(Check::line).collect();
    (!failed.is_empty()).then_some(failed)
}

async fn checks_of(lifecycle: &Lifecycle) -> Vec<Check> {
    let mut checks = vec![
        Check::new("store", lifecycle.store_writable().await.map(|()| "writable".into())),
        Check::new(
            "serving",
            match lifecycle.is_draining() {
                true => Err("the broker is ending".into()),
                false => Ok("not ending".into()),
            },
        ),
    ];
    checks.extend(lifecycle.declared_runners().map(|state| Check::new("runners", state)));
    checks
}

struct Check {
    name: &'static str,
    state: Result<String, String>,
}

impl Check {
    fn new(name: &'static str, state: Result<String, String>) -> Self {
        Self { name, state }
    }

    fn line(&self) -> String {
        let (sign, text) = match &self.state {
            Ok(text) => ('+', text),
            Err(text) => ('-', text),
        };
        let mut line = String::new();
        writeln!(line, "[{sign}] {}: {text}", self.name).expect("a String takes all");
        line
    }
}
