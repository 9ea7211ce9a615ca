//! Runners that were registered before the broker came: kept in its records ahead.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json as JsonAnswer};

use super::extract::Json;
use crate::admin::Admin;
use crate::admin::problem::Problem;
use crate::admin::view::{ExistingRunner, Runner};
use crate::lifecycle::{Adoption, By};

/// Keep a runner that was registered before
///
/// Gitea is asked whether it takes the credentials, and nothing is changed there. A runner whose address is
/// changed to the broker's is adopted by its first call all the same.
#[utoipa::path(
    post, path = "/api/v1/runners/adopt", operation_id = "adoptRunner", tag = "runners",
    request_body = ExistingRunner,
    responses(
        (status = 201, description = "The runner", body = Runner),
        (status = 409, description = "The broker knows it already, knows another by this uuid, or has adopted too many"),
        (status = 413, description = "The body is longer than 64 KiB"),
        (status = 415, description = "The body is no JSON by its content type"),
        (status = 422, description = "Gitea does not know it, or such a runner cannot be; `errors` names the fields"),
        (status = 503, description = "Gitea cannot be asked, or the store takes no writes"),
    ),
)]
pub(super) async fn adopt(
    State(admin): State<Admin>,
    Extension(by): Extension<By>,
    Json(runner): Json<ExistingRunner>,
) -> Result<Response, Problem> {
    let ExistingRunner { id, uuid, token, name, labels, ephemeral } = runner;
    let labels = labels.iter().map(|label| bare(label)).collect();
    let adoption = Adoption { id, uuid, token, name, labels, ephemeral };
    let lifecycle = Arc::clone(&admin.lifecycle);
    let live = lifecycle.adopt(adoption, &by).await?;
    Ok((StatusCode::CREATED, JsonAnswer(Runner::of(&lifecycle, &live))).into_response())
}

/// A runner file has full labels, and Gitea their names.
fn bare(label: &str) -> String {
    label.split_once(':').map_or(label, |(name, _)| name).to_owned()
}
