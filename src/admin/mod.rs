//! The admin listener and the Unix socket: metrics and health on both, and on the socket what the
//! commands ask for.

mod api;
mod health;
mod hints;
pub mod problem;
mod serve;
pub mod view;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::http::{Method, StatusCode, Uri};
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Lifecycle;
use problem::Problem;

/// What the answers are made from. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// The runners and all that happens to them.
    pub lifecycle: Arc<Lifecycle>,
    /// Where runners dial.
    pub runners: SocketAddr,
    /// Where metrics and health are.
    pub listen: SocketAddr,
    /// Where the commands dial.
    pub socket: PathBuf,
    /// When the broker started.
    pub started: Instant,
}

/// Serves metrics and health over TCP, to everyone who reaches it, until `stop`.
pub async fn serve_tcp(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let socket = admin.socket.display().to_string();
    let router =
        open().method_not_allowed_fallback(wrong_method).fallback(async move |uri: Uri| {
            if uri.path().starts_with("/api") {
                Problem::new(
                    StatusCode::FORBIDDEN,
                    "socket-only",
                    "The admin API is not here",
                    format!("the admin API is on the Unix socket only ({socket}, admin.socket)"),
                )
            } else {
                nothing_here(&uri, "/metrics, /healthz and /readyz")
            }
        });
    serve::serve(listener, router.with_state(admin), stop).await;
}

/// Serves everything on the Unix socket, whose mode is the authorization, until `stop`.
pub async fn serve_unix(listener: UnixListener, admin: Admin, stop: CancellationToken) {
    let router = open().merge(api::router()).method_not_allowed_fallback(wrong_method).fallback(async |uri: Uri| {
        nothing_here(
            &uri,
            "/metrics, /healthz, /readyz, /api/v1/status, /api/v1/runners and /api/v1/runners/{id}",
        )
    });
    serve::serve(listener, router.with_state(admin), stop).await;
}

/// What is on both.
fn open() -> Router<Admin> {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "This method is not for this path",
        format!("{method} is not for {}; the header Allow says what is", uri.path()),
    )
}

fn nothing_here(uri: &Uri, what_is: &str) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "Nothing is at this path",
        format!("nothing is at {}; what is here: {what_is}", uri.path()),
    )
}
