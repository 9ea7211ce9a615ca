//! The runners' listener: accepts, serves HTTP/1.1, and ends each connection in an orderly way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use crate::proxy::{Proxy, ProxyBody};

/// How long a connection may be idle, or take to send a request's head. A live runner keeps an idle one
/// open for 90 s, and must not find it closed by us.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a silent client's machine is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// At the end, how long a request's head that is still coming in is waited for.
const HEAD_GRACE: Duration = Duration::from_secs(1);
/// The wait after a failed accept: mostly file descriptors are short, and some will be closed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves `listener` until `stop` is cancelled; then each connection ends after the request that it is
/// at. `connections` counts those that are open.
pub async fn serve(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                // Small answers go out at once; where the option is refused, they go out all the same.
                let _ = stream.set_nodelay(true);
                // A machine that died sends nothing, in the middle of an upload too.
                let _ = sockopt::set_socket_keepalive(&stream, true);
                let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE);
                let _ = sockopt::set_tcp_keepintvl(&stream, KEEPALIVE);
                let connection = Arc::new(proxy.connection(peer));
                connections.spawn(converse(stream, Arc::clone(&proxy), connection, stop.clone()));
            }
            Err(error) => {
                warn!(%error, "no connection accepted; is the limit of open files reached?");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn converse(
    stream: TcpStream,
    proxy: Arc<Proxy>,
    connection: Arc<crate::proxy::Connection>,
    stop: CancellationToken,
) {
    let requests = TaskTracker::new();
    let service = {
        let (connection, requests) = (Arc::clone(&connection), requests.clone());
        service_fn(move |request| {
            let (proxy, connection) = (Arc::clone(&proxy), Arc::clone(&connection));
            let in_hand = requests.token();
            async move {
                let response = proxy.serve(connection, request).await;
                response.map(|response| response.map(|body| Answer { body, _in_hand: in_hand }))
            }
        })
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    let mut conversation = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = conversation.as_mut() => Some(ended),
        () = stop.cancelled() => {
            conversation.as_mut().graceful_shutdown();
            tokio::select! {
                ended = conversation => Some(ended),
                // hyper waits on for the rest of a head that has begun.
                () = nothing_in_hand(&requests) => None,
            }
        }
    };
    if let Some(Err(error)) = &ended {
        debug!(peer = %connection.peer, %error, "connection broke off");
    }
    connection.closed(matches!(ended, Some(Ok(()))));
}

async fn nothing_in_hand(requests: &TaskTracker) {
    requests.close();
    loop {
        requests.wait().await;
        tokio::time::sleep(HEAD_GRACE).await;
        if requests.is_empty() {
            return;
        }
    }
}

/// The body of an answer: the request is in hand until it has been handed over.
struct Answer {
    body: ProxyBody,
    _in_hand: TaskTrackerToken,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
