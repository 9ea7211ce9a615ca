//! The runners that came by the broker.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Path, Query};
use super::paging::{Page, limit, number, place};
use crate::admin::Admin;
use crate::admin::problem::{AMBIGUOUS_RUNNER, Problem, UNKNOWN_RUNNER};
use crate::admin::view::Runner;
use crate::broker::Reason;
use crate::config::Scope;
use crate::lifecycle::{By, Force, Live, Roster};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Those that came by this enrollment token, or by one that was exchanged for it.
    token_id: Option<String>,
    /// Those that serve here: `instance`, `org:NAME`, `user` or `repo:OWNER/NAME`.
    #[param(
        pattern = r"^(instance|user|org:\.*[A-Za-z0-9_-][A-Za-z0-9_.-]*|repo:\.*[A-Za-z0-9_-][A-Za-z0-9_.-]*/\.*[A-Za-z0-9_-][A-Za-z0-9_.-]*)$"
    )]
    scope: Option<String>,
    /// At most so many.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
    /// As the link to the next page has it.
    #[param(pattern = "^[0-9]{1,18}$")]
    cursor: Option<String>,
}

/// All runners, oldest first
#[utoipa::path(
    get, path = "/api/v1/runners", operation_id = "listRunners", tag = "runners",
    params(Listing),
    responses((status = 200, description = "One page", body = Vec<Runner>, headers(
        ("Link" = String, description = "The next page, as a relative reference; absent on the last"),
    ))),
)]
pub(super) async fn list(
    State(admin): State<Admin>,
    Query(listing): Query<Listing>,
) -> Result<Page<Runner>, Problem> {
    let limit = limit(listing.limit)?;
    let after = place(listing.cursor.as_deref(), number)?;
    let mut all = admin.lifecycle.roster.all();
    all.retain(|live| after.is_none_or(|after| live.record_id.0 > after));
    if let Some(id) = &listing.token_id {
        all.retain(|live| admin.lifecycle.enrollment.is_of(&live.parent_id, id));
    }
    if let Some(scope) = &listing.scope {
        let scope: Scope =
            scope.parse().map_err(|error| Problem::of_request(format!("scope: {error}")))?;
        all.retain(|live| live.scope() == scope);
    }
    let held = [("token_id", listing.token_id), ("scope", listing.scope)];
    let page = Page::cut(all, limit, "runners", &held, |last| last.record_id.0.to_string());
    Ok(page.map(|live| Runner::of(&admin.lifecycle, &live)))
}

/// One runner
#[utoipa::path(
    get, path = "/api/v1/runners/{id}", operation_id = "showRunner", tag = "runners",
    params(("id" = String, Path, description = "Gitea's id, the uuid, or a name that only one has", min_length = 1)),
    responses(
        (status = 200, description = "The runner", body = Runner),
        (status = 404, description = "No runner has this id, uuid or name"),
        (status = 409, description = "Several have this name; `ids` tells them apart"),
    ),
)]
pub(super) async fn show(
    State(admin): State<Admin>,
    Path(id): Path<String>,
) -> Result<Json<Runner>, Problem> {
    let live = find(&admin.lifecycle.roster, &id)?;
    Ok(Json(Runner::of(&admin.lifecycle, &live)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Reports the task of a busy runner as cancelled; without it, a busy runner is left.
    #[serde(default)]
    #[param(default = false)]
    cancel_task: bool,
}

/// Delete a runner in Gitea and end its record
#[utoipa::path(
    delete, path = "/api/v1/runners/{id}", operation_id = "deregisterRunner", tag = "runners",
    params(
        ("id" = String, Path, description = "Gitea's id, the uuid, or a name that only one has", min_length = 1),
        How,
    ),
    responses(
        (status = 200, description = "The runner as it was", body = Runner),
        (status = 404, description = "No runner has this id, uuid or name"),
        (status = 409, description = "Several have this name, it has a task, its id is not told yet, or there is no API token"),
        (status = 502, description = "Gitea did not delete it"),
        (status = 503, description = "Gitea cannot be asked, or the store takes no writes"),
    ),
)]
pub(super) async fn deregister(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
    Query(how): Query<How>,
) -> Result<Json<Runner>, Problem> {
    let force = match how.cancel_task {
        true => Force::CancelTask,
        false => Force::LeaveBusy,
    };
    let live = find(&admin.lifecycle.roster, &id)?;
    admin.lifecycle.deregister(&live, Reason::Admin, force, &by).await?;
    Ok(Json(Runner::of(&admin.lifecycle, &live)))
}

/// By Gitea's id, else by uuid, else by a name that only one has.
pub(super) fn find(roster: &Roster, wanted: &str) -> Result<Arc<Live>, Problem> {
    let all = roster.all();
    let matching = |fits: &dyn Fn(&Live) -> bool| -> Vec<Arc<Live>> {
        all.iter().filter(|live| fits(live)).cloned().collect()
    };
    let id = wanted.parse().ok().filter(|id| *id != 0);
    let mut found = matching(&|live| id == Some(live.id()));
    if found.is_empty() {
        found = matching(&|live| live.presented.uuid == wanted);
    }
    if found.is_empty() {
        found = matching(&|live| live.record().name == wanted);
    }
    match (found.pop(), found.as_slice()) {
        (Some(live), []) => Ok(live),
        (None, _) if wanted == "0" => Err(Problem::new(
            StatusCode::NOT_FOUND,
            UNKNOWN_RUNNER,
            "No such runner",
            "an id of 0 is one that Gitea has not told yet: name the runner by its uuid, or restart it, so \
             that it declares itself",
        )),
        (None, _) => Err(Problem::new(
            StatusCode::NOT_FOUND,
            UNKNOWN_RUNNER,
            "No such runner",
            format!("no registered runner has the id, uuid or name {wanted:?}"),
        )),
        (Some(last), others) => Err(ambiguous(wanted, others.iter().chain([&last]))),
    }
}

/// Told apart by their ids, where these are known and do not repeat themselves: after Gitea was restored,
/// they may.
fn ambiguous<'a>(wanted: &str, found: impl Iterator<Item = &'a Arc<Live>>) -> Problem {
    let found: Vec<_> = found.collect();
    let ids: Vec<_> = found.iter().map(|live| live.id()).filter(|id| *id != 0).collect();
    let distinct = ids.iter().collect::<HashSet<_>>().len() == found.len();
    let (by, list): (_, Vec<_>) = match distinct {
        true => ("id", ids.iter().map(i64::to_string).collect()),
        false => ("uuid", found.iter().map(|live| live.presented.uuid.clone()).collect()),
    };
    let mut problem = Problem::new(
        StatusCode::CONFLICT,
        AMBIGUOUS_RUNNER,
        "Several runners have this name",
        format!(
            "several runners are named {wanted:?}; choose one by its {by}: {}",
            list.join(", ")
        ),
    );
    problem.ids = ids;
    problem
}
