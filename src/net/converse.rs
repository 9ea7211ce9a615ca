//! One connection of the runners' listener: serves HTTP/1.1, or HTTP/2 where TLS agreed on it, and ends it
//! in an orderly way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use super::http;
use super::tls::{Handshakes, Opened, PLAIN_HTTP};
use super::told::Told;
use crate::connect::{Code, ConnectError};
use crate::proxy::{BodyError, Connection, Proxy, ProxyBody};

/// How long a connection may be idle, or take to send a request's head. A live runner keeps an idle one
/// open for 90 s, and must not find it closed by us.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Serves one connection until its client is done, or until `stop`. Where there are `handshakes`, it speaks
/// TLS.
pub(super) async fn converse(
    stream: TcpStream,
    handshakes: Option<Arc<Handshakes>>,
    proxy: Arc<Proxy>,
    connection: Arc<Connection>,
    stop: CancellationToken,
) {
    let broken = Arc::new(AtomicBool::new(false));
    let service =
        Service { proxy, connection: Arc::clone(&connection), requests: TaskTracker::new() };
    let ended = match handshakes {
        None => {
            let stream = Told::new(stream, false, Arc::clone(&broken));
            service.http1(TokioIo::new(stream), &stop).await
        }
        // In a box, so that a connection without TLS has no room for what that needs.
        Some(handshakes) => {
            match Box::pin(service.tls(stream, &handshakes, Arc::clone(&broken), &stop)).await {
                Some(ended) => ended,
                None => return,
            }
        }
    };
    let cleanly = took_all(ended.as_ref()) && !broken.load(Ordering::Relaxed);
    if !cleanly {
        let error = ended.and_then(Result::err);
        debug!(peer = %connection.peer, ?error, "connection broke off");
    }
    connection.closed(cleanly);
}

/// What answers the requests of one connection.
struct Service {
    proxy: Arc<Proxy>,
    connection: Arc<Connection>,
    /// Those in hand.
    requests: TaskTracker,
}

impl Service {
    /// `None`: no request came.
    async fn tls(
        self,
        stream: TcpStream,
        handshakes: &Handshakes,
        broken: Arc<AtomicBool>,
        stop: &CancellationToken,
    ) -> Option<Option<hyper::Result<()>>> {
        let told = |stream| Told::new(stream, true, broken);
        let opened = tokio::select! {
            opened = handshakes.open(stream, self.connection.peer.ip(), told) => opened,
            () = stop.cancelled() => return None,
        };
        match opened {
            Opened::Tls { stream, http2: false } => {
                Some(self.http1(TokioIo::new(stream), stop).await)
            }
            Opened::Tls { stream, http2: true } => {
                Some(self.http2(TokioIo::new(stream), stop).await)
            }
            Opened::Plain(stream) => {
                http::answer_plain(stream, plain_http(), stop.cancelled()).await;
                None
            }
            Opened::Nothing => None,
        }
    }

    async fn http1(
        self,
        stream: impl hyper::rt::Read + hyper::rt::Write + Unpin,
        stop: &CancellationToken,
    ) -> Option<hyper::Result<()>> {
        let requests = self.requests.clone();
        let service = service_fn(move |request| self.serve(request));
        let conversation = http::http1(IDLE_TIMEOUT).serve_connection(stream, service);
        http::converse(conversation, &requests, stop.cancelled()).await
    }

    async fn http2(
        self,
        stream: impl hyper::rt::Read + hyper::rt::Write + Unpin,
        stop: &CancellationToken,
    ) -> Option<hyper::Result<()>> {
        let requests = self.requests.clone();
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let service = service_fn(move |mut request: Request<Incoming>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let taken = http::as_http1(&mut request);
            let answer = self.serve(request);
            async move {
                match taken {
                    Ok(()) => answer.await,
                    Err(why) => Ok(refusal(why)),
                }
            }
        });
        let conversation = http::http2().serve_connection(stream, service);
        let stop = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = http::idle(IDLE_TIMEOUT, &begun, &requests) => {}
            }
        };
        http::converse(conversation, &requests, stop).await
    }

    fn serve(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<> {
        let (proxy, connection) = (Arc::clone(&self.proxy), Arc::clone(&self.connection));
        let in_hand = self.requests.token();
        async move {
            let response = proxy.serve(connection, request).await;
            response.map(|response| response.map(|body| Answer { body, _in_hand: Some(in_hand) }))
        }
    }
}

/// A runner has the wrong address: what it shows as its error says so.
fn plain_http() -> Response<Bytes> {
    ConnectError::new(Code::FailedPrecondition, PLAIN_HTTP).into_response()
}

fn refusal(why: &str) -> Response<Answer> {
    let error = ConnectError::new(Code::InvalidArgument, why);
    error.into_response().map(|body| Answer { body: ProxyBody::full(body), _in_hand: None })
}

/// Whether the client took what was sent to it, by how its connection ended. One that was closed because
/// it was idle for too long has: a proxy in front of the broker may keep it that long.
fn took_all(ended: Option<&hyper::Result<()>>) -> bool {
    match ended {
        Some(Ok(())) => true,
        Some(Err(error)) => error.is_timeout(),
        None => false,
    }
}

/// The body of an answer: the request is in hand until it has been handed over.
struct Answer {
    body: ProxyBody,
    _in_hand: Option<TaskTrackerToken>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ended(client: impl AsyncFnOnce(tokio::io::DuplexStream)) -> hyper::Result<()> {
        let (near, far) = tokio::io::duplex(4096);
        let service =
            service_fn(async |_| Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())));
        let served = http::http1(IDLE_TIMEOUT).serve_connection(TokioIo::new(far), service);
        tokio::join!(served, client(near)).0
    }

    #[tokio::test(start_paused = true)]
    async fn who_keeps_a_connection_idle_has_its_answer() {
        let idle = ended(async |mut stream| {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            stream.read_to_end(&mut Vec::new()).await.unwrap();
        });
        let idle = idle.await;
        assert!(idle.is_err(), "the broker ended it");
        assert!(took_all(Some(&idle)));
        let garbage = ended(async |mut stream| stream.write_all(b"\0\r\n\r\n").await.unwrap());
        assert!(!took_all(Some(&garbage.await)));
    }
}
