//! The runners' listener: accepts.

use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::converse::converse;
use super::tls::Handshakes;
use crate::proxy::Proxy;

/// How often a silent client's machine is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// The wait after a failed accept: mostly file descriptors are short, and some will be closed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves `listener`, by TLS where there are `handshakes`, until `stop` is cancelled; then each connection ends after the request that it is
/// at. `connections` counts those that are open.
pub(crate) async fn serve(
    listener: TcpListener,
    handshakes: Option<Handshakes>,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    let handshakes = handshakes.map(Arc::new);
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
                // The handshake is made there too: nobody waits for another's.
                connections.spawn(converse(
                    stream,
                    handshakes.clone(),
                    Arc::clone(&proxy),
                    connection,
                    stop.clone(),
                ));
            }
            Err(error) => {
                warn!(%error, "no connection accepted; is the limit of open files reached?");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}
