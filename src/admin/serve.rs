//! Accepts and serves, with an end to every wait.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse;
use axum::serve::Listener;
use hyper::body::{Bytes, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::problem::Problem;
use crate::net::http;
use crate::net::tls::{Handshakes, Opened, PLAIN_HTTP};

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

/// Serves `listener` until `stop`, and ends soon after. `converse` serves one connection.
pub(super) async fn serve<L, F>(
    mut listener: L,
    router: Router,
    stop: CancellationToken,
    converse: impl Fn(L::Io, Peer, Router, CancellationToken) -> F,
) where
    L: Listener<Addr: Into<Peer>>,
    F: Future<Output = ()> + Send + 'static,
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
        let served = converse(stream, address.into(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            served.await;
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// HTTP/1.1 as it is.
pub(super) async fn plain(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
) {
    http1(stream, peer, router, stop).await;
}

/// HTTP/1.1 or HTTP/2 by TLS.
pub(super) async fn tls(
    stream: TcpStream,
    handshakes: Arc<Handshakes>,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
) {
    let Peer(Some(address)) = peer else { return };
    let opened = tokio::select! {
        opened = handshakes.open(stream, address, |stream| stream) => opened,
        () = stop.cancelled() => return,
    };
    match opened {
        Opened::Tls { stream, http2: true } => http2(stream, peer, router, stop).await,
        Opened::Tls { stream, http2: false } => http1(stream, peer, router, stop).await,
        Opened::Plain(stream) => {
            http::answer_plain(stream, plain_http().await, stop.cancelled()).await;
        }
        Opened::Nothing => {}
    }
}

async fn http1(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let conversation = http::http1(IDLE_TIMEOUT).serve_connection(TokioIo::new(stream), service);
    until(conversation, stop.cancelled()).await;
}

async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    peer: Peer,
    router: Router,
    stop: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let (begun, in_hand) = (Arc::new(AtomicUsize::new(0)), TaskTracker::new());
    let service = {
        let (begun, in_hand) = (Arc::clone(&begun), in_hand.clone());
        service_fn(move |mut request: Request<Incoming>| {
            begun.fetch_add(1, Ordering::Relaxed);
            let taken = http::as_http1(&mut request);
            request.extensions_mut().insert(peer);
            let (answer, in_hand) = (router.call(request), in_hand.token());
            async move {
                let _in_hand = in_hand;
                match taken {
                    Ok(()) => answer.await,
                    Err(why) => Ok(Problem::of_request(why.to_owned()).into_response()),
                }
            }
        })
    };
    let conversation = http::http2().serve_connection(TokioIo::new(stream), service);
    let stop = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = http::idle(IDLE_TIMEOUT, &begun, &in_hand) => {}
        }
    };
    until(conversation, stop).await;
}

/// Ends soon after `stop`.
async fn until(conversation: impl http::Conversation, stop: impl Future<Output = ()>) {
    let mut conversation = std::pin::pin!(conversation);
    let ended = tokio::select! {
        ended = conversation.as_mut() => ended,
        () = stop => {
            conversation.as_mut().finish();
            timeout(LAST_ANSWERS, conversation).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        debug!(%error, "admin connection broke off");
    }
}

/// Whoever asks has the wrong address.
async fn plain_http() -> Response<Bytes> {
    let problem =
        Problem::new(StatusCode::BAD_REQUEST, "plain-http", "TLS is spoken here", PLAIN_HTTP);
    let (head, body) = problem.into_response().into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    Response::from_parts(head, body)
}
