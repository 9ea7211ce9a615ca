//! One connection of the runners' listener: serves HTTP/1.1, and ends it in an orderly way.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use crate::proxy::{BodyError, Proxy, ProxyBody};

/// How long a connection may be idle, or take to send a request's head. A live runner keeps an idle one
/// open for 90 s, and must not find it closed by us.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// At the end, how long a request's head that is still coming in is waited for.
const HEAD_GRACE: Duration = Duration::from_secs(1);

/// Serves one connection until its client is done, or until `stop`.
pub(super) async fn converse(
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
    let broken = Arc::new(AtomicBool::new(false));
    let stream = Told { stream, broken: Arc::clone(&broken) };
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
    let cleanly = took_all(ended.as_ref()) && !broken.load(Ordering::Relaxed);
    if !cleanly {
        let error = ended.and_then(Result::err);
        debug!(peer = %connection.peer, ?error, "connection broke off");
    }
    connection.closed(cleanly);
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

/// Remembers that the other end reset the connection. An idle one that is reset counts as ended in order
/// to the library above, but its last answer may not have been read.
struct Told {
    stream: TcpStream,
    broken: Arc<AtomicBool>,
}

impl Told {
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(_)) = &result {
            self.broken.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncRead for Told {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.note(read)
    }
}

impl AsyncWrite for Told {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// As the stream does it, but a connection that was reset meanwhile is told: the stream takes it for
    /// one that is closed already.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
        let _ = self.note(Poll::Ready(shut.map_err(io::Error::from)));
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;
    use hyper::Response;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ended(client: impl AsyncFnOnce(tokio::io::DuplexStream)) -> hyper::Result<()> {
        let (near, far) = tokio::io::duplex(4096);
        let service = service_fn(async |_| {
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
        let served = http.serve_connection(TokioIo::new(far), service);
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
