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
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::problem::Problem;
use crate::config::Limits;
use crate::lifecycle::Lifecycle;
use crate::net::http;
use crate::net::tls::{Handshakes, Opened, PLAIN_HTTP};
use crate::proxy::Limit;

/// How long a connection may be idle, or take to send a request's head; beyond the usual pause between
/// two scrapes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long the answers that are on their way may take once the broker ends.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How long a connection may be idle for which there was no place.
const SPARE_IDLE: Duration = Duration::from_secs(5);
/// So many of those are served at a time; the others are closed at once.
const SPARE: usize = 16;

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

/// What is served to one connection.
pub(super) struct Visit {
    peer: Peer,
    router: Router,
    idle: Duration,
    stop: CancellationToken,
}

/// What there is to serve.
pub(super) struct Shown {
    /// Everything.
    pub(super) all: Router,
    /// What is served beyond the limit, so that whoever takes all places does not take metrics and health.
    pub(super) spare: Router,
    pub(super) lifecycle: Arc<Lifecycle>,
}

/// Serves `listener` until `stop`, and ends soon after. `converse` serves one connection.
pub(super) async fn serve<L, F>(
    mut listener: L,
    shown: Shown,
    stop: CancellationToken,
    converse: impl Fn(L::Io, Visit) -> F,
) where
    L: Listener<Addr: Into<Peer>>,
    F: Future<Output = ()> + Send + 'static,
{
    let (places, spare) = (TaskTracker::new(), TaskTracker::new());
    loop {
        let (stream, address) = tokio::select! {
            () = stop.cancelled() => break,
            next = listener.accept() => next,
        };
        let fits = places.len() < shown.lifecycle.settings.load().limits.admin_connections;
        if !fits {
            shown.lifecycle.metrics.limit(Limit::AdminConnections);
            if spare.len() >= SPARE {
                continue;
            }
        }
        let (among, router, idle) = match fits {
            true => (&places, &shown.all, IDLE_TIMEOUT),
            false => (&spare, &shown.spare, SPARE_IDLE),
        };
        let (router, stop) = (router.clone(), stop.clone());
        among.spawn(converse(stream, Visit { peer: address.into(), router, idle, stop }));
    }
    drop(listener);
    for connections in [places, spare] {
        connections.close();
        connections.wait().await;
    }
}

/// HTTP/1.1 as it is.
pub(super) async fn plain(stream: impl AsyncRead + AsyncWrite + Unpin, visit: Visit) {
    http1(stream, visit).await;
}

/// HTTP/1.1 or HTTP/2 by TLS.
pub(super) async fn tls(stream: TcpStream, handshakes: Arc<Handshakes>, visit: Visit) {
    let Peer(Some(address)) = visit.peer else { return };
    let opened = tokio::select! {
        opened = handshakes.open(stream, address, |stream| stream) => opened,
        () = visit.stop.cancelled() => return,
    };
    match opened {
        Opened::Tls { stream, http2: true } => http2(stream, visit).await,
        Opened::Tls { stream, http2: false } => http1(stream, visit).await,
        Opened::Plain(stream) => {
            http::answer_plain(stream, plain_http().await, visit.stop.cancelled()).await;
        }
        Opened::Nothing => {}
    }
}

async fn http1(stream: impl AsyncRead + AsyncWrite + Unpin, visit: Visit) {
    let Visit { peer, router, idle, stop } = visit;
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        router.call(request)
    });
    let mut http = http::http1(&Limits::default());
    http.timer(TokioTimer::new()).header_read_timeout(idle);
    let conversation = http.serve_connection(TokioIo::new(stream), service);
    until(conversation, stop.cancelled()).await;
}

async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin, visit: Visit) {
    let Visit { peer, router, idle, stop } = visit;
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
    let conversation =
        http::http2(&Limits::default(), || {}).serve_connection(TokioIo::new(stream), service);
    let stop = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = http::idle(idle, &begun, &in_hand) => {}
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
