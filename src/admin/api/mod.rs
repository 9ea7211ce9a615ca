//! `/api/v1/…`: enrollment tokens, runners, events and the status, for the commands and for programs.

mod adopt;
mod drain;
mod events;
mod extract;
mod openapi;
mod paging;
mod prune;
mod runners;
mod status;
mod tokens;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Admin;

/// Longest body that is read.
const BODY_LIMIT: usize = 64 * 1024;

/// What only admins may do.
pub(super) fn closed() -> Router<Admin> {
    let (router, _) = closed_paths().split_for_parts();
    router.layer(DefaultBodyLimit::max(BODY_LIMIT))
}

/// What holders of an enrollment token may do.
pub(super) fn open() -> Router<Admin> {
    let (router, _) = open_paths().split_for_parts();
    router.layer(DefaultBodyLimit::max(BODY_LIMIT))
}

fn closed_paths() -> OpenApiRouter<Admin> {
    OpenApiRouter::new()
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::show, tokens::delete))
        .routes(routes!(tokens::enable))
        .routes(routes!(tokens::disable))
        .routes(routes!(tokens::pin))
        .routes(routes!(tokens::unpin))
        .routes(routes!(tokens::rotate))
        .routes(routes!(runners::list))
        .routes(routes!(adopt::adopt))
        .routes(routes!(runners::show, runners::deregister))
        .routes(routes!(drain::drain))
        .routes(routes!(prune::prune))
        .routes(routes!(events::list))
        .routes(routes!(status::show))
        .routes(routes!(openapi::document))
}

fn open_paths() -> OpenApiRouter<Admin> {
    OpenApiRouter::new().routes(routes!(tokens::exchange))
}
