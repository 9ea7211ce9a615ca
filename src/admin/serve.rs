//! Accepts and serves, with an end to every wait.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

/// How long a connection may be idle, or take to send a request's head; beyond the usual pause between
/// two scrapes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long the answers that are on their way may take once the broker ends.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// Most connections at once: whoever floods this listener must not take the runners' file descriptors.
const MAX_CONNECTIONS: usize = 128;

/// Where a request's connection came from; `None`: over the Unix socket. In its extensions.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) Option<IpAddr>);

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self(Some(address.ip()))
    }
}

impl From<tokio::net::unix::SocketAddr> for Peer {
    fn from(_: tokio::net::unix::SocketAddr) -> Self {
        Self(None)
    }
}

/// Serves `listener` until `stop`, and ends soon after.
pub(super) async fn serve<L>(mut listener: L, router: Router, stop: CancellationToken)
where
    L: Listener<Addr: Into<Peer>>,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            // Never closed, so there is a place sooner or later.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, (stream, address)) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        let (router, stop, peer) = (router.clone(), stop.clone(), address.into());
        connections.spawn(async move {
            let _place = place;
            converse(stream, peer, router, stop).await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let mut conversation = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = conversation.as_mut() => ended,
        () = stop.cancelled() => {
            conversation.as_mut().graceful_shutdown();
            timeout(LAST_ANSWERS, conversation).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection broke off");
    }
}
