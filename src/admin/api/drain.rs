//! A runner gets no task from now on and is deregistered when the task in hand has ended.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::{Path, Query};
use super::runners::find;
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::view::Runner;
use crate::config::Setting;
use crate::lifecycle::{By, DRAIN_TIMEOUT};

/// Longer than any job.
const LONGEST: Duration = Duration::from_secs(60 * 24 * 60 * 60);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// How long its task may take; 60 days at most. After that, the setting `shutdown.busy` says what
    /// becomes of the runner: `cancel` ends its task and deregisters it, `leave` gives it tasks again.
    #[param(pattern = "^[1-9][0-9]{0,2}(s|m|min|h)$", default = "3h")]
    timeout: Option<String>,
}

/// Give a runner no task any more, and deregister it when the one in hand has ended
///
/// The answer comes at once. Ask for the runner to see how it goes: it is `draining` at first, and there
/// is none when it is done. A second call only has the time count anew.
#[utoipa::path(
    post, path = "/api/v1/runners/{id}/drain", operation_id = "drainRunner", tag = "runners",
    params(
        ("id" = String, Path, description = "Gitea's id, the uuid, or a name that only one has", min_length = 1),
        How,
    ),
    responses(
        (status = 202, description = "The runner, which is drained", body = Runner),
        (status = 404, description = "No runner has this id, uuid or name"),
        (status = 409, description = "Several have this name, or there is no API token"),
        (status = 503, description = "The store takes no writes"),
    ),
)]
pub(super) async fn drain(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Path(id): Path<String>,
    Query(how): Query<How>,
) -> Result<(StatusCode, Json<Runner>), Problem> {
    let timeout = match how.timeout.as_deref() {
        None => DRAIN_TIMEOUT,
        Some(text) => Duration::parse(text)
            .and_then(|timeout| match timeout {
                Duration::ZERO => Err("nothing ends in no time: give a second at least".into()),
                timeout if timeout > LONGEST => Err("give 60 days at most".into()),
                timeout => Ok(timeout),
            })
            .map_err(|why| Problem::of_request(format!("timeout: {why}")))?,
    };
    let live = find(&admin.lifecycle.roster, &id)?;
    admin.lifecycle.drain(&live, timeout, &by).await?;
    Ok((StatusCode::ACCEPTED, Json(Runner::of(&admin.lifecycle, &live))))
}
