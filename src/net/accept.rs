//! The runners' listener: accepts, serves HTTP/1.1, and ends each connection in an orderly way.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::proxy::Proxy;

/// How long a connection may be idle, or take to send a request's head. A live runner keeps an idle one
/// open for 90 s, and must not find it closed by us.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
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
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| Arc::clone(&proxy).serve(Arc::clone(&connection), request))
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    let mut conversation = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = conversation.as_mut() => ended,
        () = stop.cancelled() => {
            conversation.as_mut().graceful_shutdown();
            conversation.await
        }
    };
    if let Err(error) = &ended {
        debug!(peer = %connection.peer, %error, "connection broke off");
    }
    connection.closed(ended.is_ok());
}
