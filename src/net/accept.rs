//! The runners' listener: accepts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::converse::converse;
use super::tls::Handshakes;
use crate::proxy::{Limit, Proxy};

/// How often a silent client's machine is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// At most so many connections that are over a limit are told so at a time; the others are closed at once.
const REFUSALS: usize = 64;
/// How often a lack of file descriptors is told.
const TELL: Duration = Duration::from_secs(10);
/// The wait after a failed accept: mostly file descriptors are short, and some will be closed.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves `listener`, by TLS where there are `handshakes`, until `stop` is cancelled; then each connection
/// ends after the request that it is at. `connections` counts those that are open.
pub(crate) async fn serve(
    listener: TcpListener,
    handshakes: Option<Handshakes>,
    proxy: Arc<Proxy>,
    stop: CancellationToken,
    connections: TaskTracker,
) {
    let handshakes = handshakes.map(Arc::new);
    let refusals = Arc::new(Semaphore::new(REFUSALS.min(proxy.limits().connections / 8).max(1)));
    let mut told: Option<Instant> = None;
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
                let refusal = match connection.over {
                    None => None,
                    Some(_) => match Arc::clone(&refusals).try_acquire_owned() {
                        Ok(permit) => Some(permit),
                        Err(_) => continue,
                    },
                };
                // The handshake is made there too: nobody waits for another's.
                let conversation = converse(
                    stream,
                    handshakes.clone(),
                    Arc::clone(&proxy),
                    connection,
                    stop.clone(),
                );
                connections.spawn(async move {
                    conversation.await;
                    drop(refusal);
                });
            }
            Err(error) => {
                proxy.over(Limit::FileDescriptors);
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    told = Some(Instant::now());
                    warn!(%error, "no connection accepted; is the limit of open files reached?");
                }
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}
