//! The admin listener and the Unix socket: metrics, health and the admin API on both, and the token page
//! on the listener.

mod api;
mod auth;
pub mod draft;
mod health;
mod hints;
mod page;
pub mod problem;
mod serve;
pub mod view;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::fault;
use crate::lifecycle::Lifecycle;
use crate::net::tls::{Certificates, Handshakes};
use crate::telemetry::panics;
pub use auth::Failures;
pub(crate) use health::unready;
use problem::Problem;
use serve::Shown;

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
    /// Who presented wrong tokens.
    pub failures: Failures,
    /// What the broker shows.
    pub certificates: Arc<Certificates>,
}

/// Serves everything over TCP until `stop`: metrics and health to everyone who is let in, the rest to who
/// shows the admin token. By TLS where there are `handshakes`.
pub async fn serve_tcp(
    listener: TcpListener,
    handshakes: Option<Handshakes>,
    admin: Admin,
    stop: CancellationToken,
) {
    let shown = shown(admin.clone(), page::router(admin));
    match handshakes {
        None => serve::serve(listener, shown, stop, serve::plain).await,
        Some(handshakes) => {
            let handshakes = Arc::new(handshakes);
            let tls = move |stream, visit| serve::tls(stream, Arc::clone(&handshakes), visit);
            serve::serve(listener, shown, stop, tls).await;
        }
    }
}

/// Serves everything on the Unix socket, whose mode is the authorization, until `stop`.
pub async fn serve_unix(listener: UnixListener, admin: Admin, stop: CancellationToken) {
    serve::serve(listener, shown(admin, Router::new()), stop, serve::plain).await;
}

/// The same on both, but for the page.
fn shown(admin: Admin, page: Router<Admin>) -> Shown {
    let spare = health_and_metrics()
        .fallback(too_busy)
        .layer(from_fn_with_state(admin.clone(), auth::identify))
        .with_state(admin.clone());
    Shown { spare, lifecycle: Arc::clone(&admin.lifecycle), all: router(admin, page) }
}

fn health_and_metrics() -> Router<Admin> {
    Router::new()
        .route("/metrics", get(health::metrics))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
}

/// The client's address tells the listener and the socket apart.
fn router(admin: Admin, page: Router<Admin>) -> Router {
    let open = health_and_metrics().merge(api::open()).method_not_allowed_fallback(wrong_method);
    let closed = api::closed()
        .method_not_allowed_fallback(wrong_method)
        .fallback(nothing_here)
        .layer(from_fn_with_state(admin.clone(), auth::require_admin));
    open.merge(page)
        .merge(closed)
        .layer(from_fn_with_state(admin.clone(), auth::identify))
        .layer(from_fn(caught))
        .with_state(admin)
}

async fn caught(request: Request, next: Next) -> Response {
    let answer = async {
        fault::point("admin-asked");
        next.run(request).await
    };
    panics::caught(Box::pin(answer)).await.unwrap_or_else(|| {
        let detail = "the broker's log tells what happened; whether it was done is not known";
        Problem::internal(detail).into_response()
    })
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "This method is not for this path",
        format!("{method} is not for {}; the header Allow says what is", uri.path()),
    )
}

async fn too_busy() -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too-busy",
        "Too many connections are open",
        "as many connections are open as the setting limits.admin_connections allows: close some, or try \
         again in a moment",
    )
}

async fn nothing_here(uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "Nothing is at this path",
        format!(
            "nothing is at {}; what is here: /metrics, /healthz, /readyz, and what \
             /api/v1/openapi.json names",
            uri.path()
        ),
    )
}
