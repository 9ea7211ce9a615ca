//! One connection of the runners' listener: serves HTTP/1.1, and ends it in an orderly way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use super::patient::BodyError;
use super::progress::{Line, Progress, Stopped};
use crate::config::Limits;
use crate::proxy::{Limit, Proxy, ProxyBody, RequestPlace};

/// At the end, how long a request's head that is still coming in is waited for.
const HEAD_GRACE: Duration = Duration::from_secs(1);

/// How long a connection is kept that is there only to be refused.
const REFUSAL: Duration = Duration::from_secs(5);
/// Headers that the HTTP library has room for on the stack; for more it allocates.
const ON_STACK: usize = 100;

/// Serves one connection until its client is done, or until `stop`.
pub(super) async fn converse(
    stream: TcpStream,
    proxy: Arc<Proxy>,
    connection: Arc<crate::proxy::Connection>,
    stop: CancellationToken,
) {
    let limits = proxy.limits();
    let requests = TaskTracker::new();
    let progress = Arc::new(Progress::default());
    let service = {
        let (proxy, connection) = (Arc::clone(&proxy), Arc::clone(&connection));
        let (progress, requests) = (Arc::clone(&progress), requests.clone());
        service_fn(move |request: Request<Incoming>| {
            let (proxy, connection) = (Arc::clone(&proxy), Arc::clone(&connection));
            let answered = Answered(Arc::clone(&progress));
            let in_hand = requests.token();
            progress.request(!request.body().is_end_stream());
            async move {
                let over = connection.over.is_some();
                let (response, place) = proxy.serve(connection, request).await;
                let mut response = response.map(|body| Answer {
                    body,
                    _answered: answered,
                    _in_hand: in_hand,
                    _place: place,
                });
                if over {
                    let close = hyper::header::HeaderValue::from_static("close");
                    response.headers_mut().insert(hyper::header::CONNECTION, close);
                }
                Ok::<Response<Answer>, Infallible>(response)
            }
        })
    };
    let line = Line::new(stream, Arc::clone(&progress));
    let http = http1(&limits, connection.over.is_some());
    let mut conversation = std::pin::pin!(http.serve_connection(TokioIo::new(line), service));
    let mut stops = std::pin::pin!(progress.stops(limits.head_timeout, limits.write_timeout));
    let (mut stopped, mut stopping) = (None, false);
    let ended = loop {
        tokio::select! {
            ended = conversation.as_mut() => break Some(ended),
            what = stops.as_mut(), if stopped.is_none() => {
                stopped = Some(what);
                match what {
                    Stopped::Head => {
                        proxy.over(Limit::HeadTimeout);
                        progress.give_up_head();
                    }
                    Stopped::Write => {
                        proxy.over(Limit::WriteTimeout);
                        break None;
                    }
                }
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                conversation.as_mut().graceful_shutdown();
            }
            // hyper waits on for the rest of a head that has begun.
            () = nothing_in_hand(&requests), if stopping => break None,
        }
    };
    if let Some(Err(error)) = &ended
        && error.is_parse_too_large()
    {
        proxy.over(Limit::HeaderBytes);
    }
    let cleanly = took_all(ended.as_ref()) && !progress.is_broken();
    if !cleanly {
        let error = ended.and_then(Result::err);
        debug!(peer = %connection.peer, ?error, "connection broke off");
    }
    connection.closed(cleanly);
}

/// What is over the limits of headers is answered by the proxy, up to twice of them; beyond, the library
/// refuses it without a text.
fn http1(limits: &Limits, over: bool) -> http1::Builder {
    let mut http = http1::Builder::new();
    let idle = if over { REFUSAL } else { limits.idle_timeout };
    http.timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_header_size(limits.header_bytes.saturating_mul(2));
    if limits.headers > ON_STACK * 4 / 5 {
        http.max_headers(limits.headers.saturating_mul(2));
    }
    http
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

/// The body of an answer: the request is in hand, and has its place, until it has been handed over.
struct Answer {
    body: ProxyBody,
    _answered: Answered,
    _in_hand: TaskTrackerToken,
    _place: Option<RequestPlace>,
}

struct Answered(Arc<Progress>);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.answered();
    }
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
    use hyper::Response;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ended(client: impl AsyncFnOnce(tokio::io::DuplexStream)) -> hyper::Result<()> {
        let (near, far) = tokio::io::duplex(4096);
        let service = service_fn(async |_| {
            Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(120));
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
