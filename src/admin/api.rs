//! `/api/v1/…`, what the commands ask for.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use super::Admin;
use super::hints::hints;
use super::problem::{AMBIGUOUS_RUNNER, Problem, UNKNOWN_RUNNER};
use super::view::{Addresses, ApiToken, EnrollmentTokens, Gitea, Runner, Status, Store};
use crate::broker::Reason;
use crate::gitea::token_scope;
use crate::lifecycle::{By, Force, Live, Roster, STATES};

pub(super) fn router() -> Router<Admin> {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/runners", get(runners))
        .route("/api/v1/runners/{id}", get(runner).delete(deregister))
}

async fn status(State(admin): State<Admin>) -> Json<Status> {
    let lifecycle = &admin.lifecycle;
    let writable = lifecycle.store_writable().await.is_ok();
    let settings = lifecycle.settings.load();
    let mut runners: BTreeMap<_, _> = STATES.map(|state| (state.to_owned(), 0)).into();
    for live in lifecycle.roster.all() {
        *runners.entry(lifecycle.state_of(&live).to_owned()).or_default() += 1;
    }
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").into(),
        uptime_seconds: admin.started.elapsed().as_secs(),
        draining: lifecycle.is_draining(),
        gitea: Gitea {
            url: settings.gitea.url.to_string().trim_end_matches('/').to_owned(),
            scope: settings.gitea.scope.to_string(),
            up: lifecycle.gitea.is_up(),
            api_token: match (&lifecycle.gitea.tokens().api, lifecycle.api_token_valid()) {
                (None, _) => ApiToken::None,
                (Some(_), Some(true)) => ApiToken::Valid,
                (Some(_), Some(false)) => ApiToken::Invalid,
                (Some(_), None) => ApiToken::Unknown,
            },
        },
        runners,
        unsettled_registrations: lifecycle.unsettled(),
        // The one that the settings give.
        enrollment_tokens: EnrollmentTokens { active: lifecycle.tokens().len() },
        store: Store { path: lifecycle.store.path().display().to_string(), writable },
        addresses: Addresses {
            runners: admin.runners,
            admin: admin.listen,
            socket: admin.socket.display().to_string(),
        },
        hints: Vec::new(),
    };
    status.hints = hints(&status, token_scope(&settings.gitea.scope));
    Json(status)
}

async fn runners(State(admin): State<Admin>) -> Json<Vec<Runner>> {
    let all = admin.lifecycle.roster.all();
    Json(all.iter().map(|live| Runner::of(&admin.lifecycle, live)).collect())
}

async fn runner(
    State(admin): State<Admin>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Runner>, Problem> {
    let live = find(&admin.lifecycle.roster, &id?)?;
    Ok(Json(Runner::of(&admin.lifecycle, &live)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    /// Reports the task of a busy runner as cancelled; without it, a busy runner is left.
    #[serde(default)]
    cancel_task: bool,
}

async fn deregister(
    State(admin): State<Admin>,
    id: Result<Path<String>, PathRejection>,
    how: Result<Query<How>, QueryRejection>,
) -> Result<Json<Runner>, Problem> {
    let force = match how?.cancel_task {
        true => Force::CancelTask,
        false => Force::LeaveBusy,
    };
    let live = find(&admin.lifecycle.roster, &id?)?;
    let by = By { actor: "socket".into(), peer: None };
    admin.lifecycle.deregister(&live, Reason::Admin, force, &by).await?;
    Ok(Json(Runner::of(&admin.lifecycle, &live)))
}

/// By Gitea's id, else by uuid, else by a name that only one has.
fn find(roster: &Roster, wanted: &str) -> Result<Arc<Live>, Problem> {
    let all = roster.all();
    let matching = |fits: &dyn Fn(&Live) -> bool| -> Vec<Arc<Live>> {
        all.iter().filter(|live| fits(live)).cloned().collect()
    };
    let id = wanted.parse();
    let mut found = matching(&|live| id.as_ref() == Ok(&live.upstream.id));
    if found.is_empty() {
        found = matching(&|live| live.presented.uuid == wanted);
    }
    if found.is_empty() {
        found = matching(&|live| live.record().name == wanted);
    }
    match (found.pop(), found.as_slice()) {
        (Some(live), []) => Ok(live),
        (None, _) => Err(Problem::new(
            StatusCode::NOT_FOUND,
            UNKNOWN_RUNNER,
            "No such runner",
            format!("no registered runner has the id, uuid or name {wanted:?}"),
        )),
        (Some(last), others) => {
            let ids: Vec<_> = others.iter().chain([&last]).map(|live| live.upstream.id).collect();
            let list = ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
            let mut problem = Problem::new(
                StatusCode::CONFLICT,
                AMBIGUOUS_RUNNER,
                "Several runners have this name",
                format!("several runners are named {wanted:?}; choose one by its id: {list}"),
            );
            problem.ids = ids;
            Err(problem)
        }
    }
}
