//! The admin listener and the Unix socket: metrics, health, and what the commands ask for.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Lifecycle;

/// Serves metrics and health over TCP until `stop`.
pub async fn serve_tcp(listener: TcpListener, lifecycle: Arc<Lifecycle>, stop: CancellationToken) {
    let _ = (listener, lifecycle);
    stop.cancelled().await;
}

/// Serves everything on the Unix socket until `stop`.
pub async fn serve_unix(
    listener: UnixListener,
    lifecycle: Arc<Lifecycle>,
    stop: CancellationToken,
) {
    let _ = (listener, lifecycle);
    stop.cancelled().await;
}
