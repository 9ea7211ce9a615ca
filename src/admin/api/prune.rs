//! Leases are settled now.

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::Query;
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::view::PrunedRunner;
use crate::lifecycle::By;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct How {
    /// Only tells what would come of it.
    dry_run: bool,
}

/// Deregister the runners that are gone, without waiting for their leases to end
///
/// One of them that speaks again is registered anew, as after the end of its lease.
#[utoipa::path(
    post, path = "/api/v1/runners/prune", operation_id = "pruneRunners", tag = "runners",
    params(How),
    responses((status = 200, description = "Each that is gone, and what came of it", body = Vec<PrunedRunner>)),
)]
pub(super) async fn prune(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Query(how): Query<How>,
) -> Result<Json<Vec<PrunedRunner>>, Problem> {
    let pruned = admin.lifecycle.prune(how.dry_run, &by).await;
    Ok(Json(pruned.iter().map(|one| PrunedRunner::of(&admin.lifecycle, one)).collect()))
}
