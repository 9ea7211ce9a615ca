//! HTTP as both listeners speak it: how much a client may take of it, what a request of HTTP/2 looks like
//! to the rest of the broker, and how a connection ends.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{COOKIE, HOST, HeaderValue};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::streams::Streams;
use crate::config::Limits;
use crate::proxy::Limit;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How much of one request's body is taken before it is passed on.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all of one connection: it bounds the memory that a client can take.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// How much of one answer is taken from Gitea before the client reads it.
const SEND_BUFFER: usize = 128 * 1024;
/// Mistakes of a client's own, before its connection is ended.
const MISTAKES: usize = 100;
/// Headers that the HTTP library has room for on the stack; for more it allocates.
const ON_STACK: usize = 100;
/// At the end, how long a request's head that is still coming in is waited for.
const HEAD_GRACE: Duration = Duration::from_secs(1);
/// How long a client that speaks plain HTTP to TLS may take to ask and to read why not.
const PLAIN_LIMIT: Duration = Duration::from_secs(5);

/// HTTP/1.1. How long a connection may be idle, or take to send a head, is for others to tell: the library would
/// set a timer for each request.
///
/// What is over the limits of headers is answered behind this, with a text, up to twice of them; beyond, the
/// library refuses it without one.
pub(crate) fn http1(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.max_header_size(limits.header_bytes.saturating_mul(2));
    if limits.headers > ON_STACK * 4 / 5 {
        http.max_headers(limits.headers.saturating_mul(2));
    }
    http
}

/// HTTP/2. How long a connection may be idle is [`idle`]'s business; headers are as in [`http1`]. `stalled` is
/// told of each answer of which its client takes nothing.
pub(crate) fn http2(
    limits: &Limits,
    stalled: impl Fn() + Send + Sync + 'static,
) -> http2::Builder<Streams> {
    let number = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    let mut http = http2::Builder::new(Streams::new(limits.write_timeout, stalled));
    http.timer(TokioTimer::new())
        .max_concurrent_streams(number(limits.streams))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(number(limits.header_bytes).saturating_mul(2))
        .max_pending_accept_reset_streams(limits.resets)
        .max_local_error_reset_streams(MISTAKES);
    http
}

/// Makes a request of HTTP/2 look as it would in HTTP/1.1, so that nothing behind has to tell them apart: its
/// authority is its Host, and cookies are in one line (RFC 9113, 8.2.3).
///
/// # Errors
/// It names two hosts, or its cookies are longer than any header may be.
pub(crate) fn as_http1<B>(request: &mut Request<B>) -> Result<(), &'static str> {
    if let Some(authority) = request.uri().authority() {
        let host =
            HeaderValue::from_str(authority.as_str()).map_err(|_| "its authority is no host")?;
        let mut hosts = request.headers().get_all(HOST).iter();
        if hosts.any(|named| !named.as_bytes().eq_ignore_ascii_case(host.as_bytes())) {
            return Err("the request names two hosts, by :authority and by Host: send one of them");
        }
        request.headers_mut().insert(HOST, host);
    }
    let mut cookies = request.headers().get_all(COOKIE).iter();
    if let (Some(first), Some(_)) = (cookies.next(), cookies.next()) {
        let mut joined = first.as_bytes().to_vec();
        for further in request.headers().get_all(COOKIE).iter().skip(1) {
            joined.extend_from_slice(b"; ");
            joined.extend_from_slice(further.as_bytes());
        }
        let joined =
            HeaderValue::from_bytes(&joined).map_err(|_| "its cookies cannot be joined")?;
        request.headers_mut().insert(COOKIE, joined);
    }
    Ok(())
}

/// A connection that is served, and can be told to end after what it has in hand.
pub(crate) trait Conversation: Future<Output = hyper::Result<()>> {
    /// No further request is taken.
    fn finish(self: Pin<&mut Self>);
}

impl<I, B, S> Conversation for http1::Connection<I, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<AnyError>,
    I: Read + Write + Unpin,
    B: Body + 'static,
    B::Error: Into<AnyError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, B, S> Conversation for http2::Connection<I, S, Streams>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<AnyError>,
    S::Future: Send + 'static,
    I: Read + Write + Unpin,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<AnyError>,
{
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// The limit for which a connection was ended by the HTTP library.
pub(crate) fn limit_of(error: &hyper::Error) -> Option<Limit> {
    if error.is_parse_too_large() {
        return Some(Limit::HeaderBytes);
    }
    let http2 = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    (http2?.reason()? == h2::Reason::ENHANCE_YOUR_CALM).then_some(Limit::Resets)
}

/// Ends once nothing is in hand and no head is coming in any more.
pub(crate) async fn nothing_in_hand(requests: &TaskTracker) {
    requests.close();
    loop {
        requests.wait().await;
        sleep(HEAD_GRACE).await;
        if requests.is_empty() {
            return;
        }
    }
}

/// Ends once a connection of HTTP/2 was idle for `limit`, and for twice as long at most. `begun` counts its
/// requests.
pub(crate) async fn idle(limit: Duration, begun: &AtomicUsize, in_hand: &TaskTracker) {
    let mut before = 0;
    loop {
        sleep(limit).await;
        let now = begun.load(Ordering::Relaxed);
        if now == before && in_hand.is_empty() {
            return;
        }
        before = now;
    }
}

/// Answers whoever speaks plain HTTP where TLS is spoken, until `stop` at most.
pub(crate) async fn answer_plain(
    stream: TcpStream,
    answer: Response<Bytes>,
    stop: impl Future<Output = ()>,
) {
    let answer = Arc::new(answer);
    let service = service_fn(move |_| {
        let answer = (*answer).clone().map(Full::new);
        async { Ok::<_, std::convert::Infallible>(answer) }
    });
    let mut http = http1(&Limits::default());
    http.keep_alive(false);
    let answered = timeout(PLAIN_LIMIT, http.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // Whether it is read is the client's business.
        _ = answered => {}
        () = stop => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn values<'r>(request: &'r Request<()>, name: &str) -> Vec<&'r str> {
        request.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn the_authority_is_the_host_and_cookies_are_one_line() {
        let mut plain = request("https://Broker:8443/a", &[("cookie", "a=1"), ("cookie", "b=2")]);
        as_http1(&mut plain).unwrap();
        assert_eq!(values(&plain, "host"), ["Broker:8443"]);
        assert_eq!(values(&plain, "cookie"), ["a=1; b=2"]);
        // The same host twice, in any case of letters, is one.
        let mut both = request("https://broker/a", &[("host", "BROKER"), ("cookie", "a=1")]);
        as_http1(&mut both).unwrap();
        assert_eq!(values(&both, "host"), ["broker"]);
        assert_eq!(values(&both, "cookie"), ["a=1"]);
        let mut host_alone = request("/a", &[("host", "broker")]);
        as_http1(&mut host_alone).unwrap();
        assert_eq!(values(&host_alone, "host"), ["broker"]);
        for hosts in [&[("host", "other")][..], &[("host", "broker"), ("host", "other")]] {
            assert!(as_http1(&mut request("https://broker/a", hosts)).is_err());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_where_nothing_is_in_hand_and_nothing_began() {
        const LIMIT: Duration = Duration::from_secs(120);
        let (begun, in_hand) = (AtomicUsize::new(0), TaskTracker::new());
        let start = Instant::now();
        idle(LIMIT, &begun, &in_hand).await;
        assert_eq!(start.elapsed().as_secs(), 120);
        let busy = async {
            // One that takes long, and another near the end of the next turn.
            begun.fetch_add(1, Ordering::Relaxed);
            let long = in_hand.token();
            sleep(Duration::from_secs(500)).await;
            drop(long);
            sleep(Duration::from_secs(90)).await;
            begun.fetch_add(1, Ordering::Relaxed);
        };
        let start = Instant::now();
        tokio::join!(idle(LIMIT, &begun, &in_hand), busy);
        assert_eq!(start.elapsed().as_secs(), 720, "the turns end at 600 and 720");
    }
}
