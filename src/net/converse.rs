//! One connection of the runners' listener: serves HTTP/1.1, or HTTP/2 where TLS agreed on it, and ends it
//! in an orderly way.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::debug;

use super::http::{self, Conversation};
use super::hush::Hushable;
use super::patient::BodyError;
use super::progress::{Line, Patience, Progress, Stopped};
use super::streams;
use super::tls::{Handshakes, Opened, PLAIN_HTTP};
use super::told::Told;
use crate::config::Limits;
use crate::connect::{Code, ConnectError};
use crate::proxy::{Connection, Limit, Proxy, ProxyBody, RequestPlace};

/// How long a connection is kept that is there only to be refused.
const REFUSAL: Duration = Duration::from_secs(5);

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
    let service = Service {
        limits: proxy.limits(),
        proxy,
        connection: Arc::clone(&connection),
        requests: TaskTracker::new(),
        progress: Arc::default(),
    };
    // Each way is in a box of its own, so that no connection has room for another's needs, and none for those of its
    // handshake once that is over.
    let ended = match handshakes {
        None => {
            let stream = Told::new(stream, false, Arc::clone(&broken));
            Box::pin(service.http1(stream, &stop)).await
        }
        Some(handshakes) => {
            match service.tls(stream, &handshakes, Arc::clone(&broken), &stop).await {
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
#[derive(Clone)]
struct Service {
    proxy: Arc<Proxy>,
    connection: Arc<Connection>,
    limits: Limits,
    /// Those in hand.
    requests: TaskTracker,
    progress: Arc<Progress>,
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
            opened = Box::pin(handshakes.open(stream, self.connection.peer.ip(), told)) => opened,
            () = stop.cancelled() => return None,
        };
        match opened {
            Opened::Tls { stream, http2: false } => Some(Box::pin(self.http1(stream, stop)).await),
            Opened::Tls { stream, http2: true } => Some(Box::pin(self.http2(stream, stop)).await),
            Opened::Plain(stream) => {
                Box::pin(http::answer_plain(stream, plain_http(), stop.cancelled())).await;
                None
            }
            Opened::Nothing => None,
        }
    }

    async fn http1(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        stop: &CancellationToken,
    ) -> Option<hyper::Result<()>> {
        let line = Line::new(stream, true, Arc::clone(&self.progress));
        let http = http::http1(&self.limits);
        let served = self.clone();
        let conversation = http
            .serve_connection(TokioIo::new(line), service_fn(move |request| served.serve(request)));
        self.attend(Hushable::new(conversation), Some(self.idle()), stop.cancelled()).await
    }

    async fn http2(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        stop: &CancellationToken,
    ) -> Option<hyper::Result<()>> {
        let line = Line::new(stream, false, Arc::clone(&self.progress));
        let begun = Arc::new(AtomicUsize::new(0));
        let (counted, served) = (Arc::clone(&begun), self.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let taken = http::as_http1(&mut request);
            let answer = served.serve(request);
            async move {
                match taken {
                    Ok(()) => answer.await,
                    Err(why) => Ok(refusal(why)),
                }
            }
        });
        let proxy = Arc::clone(&self.proxy);
        let http = http::http2(&self.limits, move || proxy.over(Limit::WriteTimeout));
        let conversation = http.serve_connection(TokioIo::new(line), service);
        let stop = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = http::idle(self.idle(), &begun, &self.requests) => {}
            }
        };
        self.attend(conversation, None, stop).await
    }

    fn idle(&self) -> Duration {
        if self.connection.over.is_some() { REFUSAL } else { self.limits.idle_timeout }
    }

    /// Serves until the client is done, or something of it has stopped, or until `stop` and the end of what
    /// is in hand. `None`: it was ended, as its client did not.
    async fn attend(
        &self,
        conversation: impl Conversation,
        idle: Option<Duration>,
        stop: impl Future<Output = ()>,
    ) -> Option<hyper::Result<()>> {
        let patience =
            Patience { head: self.limits.head_timeout, write: self.limits.write_timeout, idle };
        let mut conversation = pin!(conversation);
        let mut stop = pin!(stop);
        let mut stops = pin!(self.progress.stops(patience));
        let (mut watching, mut stopping) = (true, false);
        let ended = loop {
            let ends = tokio::select! {
                ended = conversation.as_mut() => break ended,
                what = stops.as_mut(), if watching => {
                    watching = false;
                    match what {
                        Stopped::Head => {
                            self.proxy.over(Limit::HeadTimeout);
                            self.progress.give_up_head();
                            false
                        }
                        Stopped::Write => {
                            self.proxy.over(Limit::WriteTimeout);
                            return None;
                        }
                        Stopped::Idle => !stopping,
                    }
                }
                () = stop.as_mut(), if !stopping => true,
                // hyper waits on for the rest of a head that has begun, and for the client to leave.
                () = http::nothing_in_hand(&self.requests), if stopping => return None,
            };
            if ends {
                stopping = true;
                conversation.as_mut().finish();
            }
        };
        if let Some(limit) = ended.as_ref().err().and_then(http::limit_of) {
            self.proxy.over(limit);
        }
        Some(ended)
    }

    fn serve(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<> {
        let (proxy, connection) = (Arc::clone(&self.proxy), Arc::clone(&self.connection));
        let in_hand = self.requests.token();
        self.progress.request(!request.body().is_end_stream());
        let answered = Answered(Arc::clone(&self.progress));
        async move {
            let closes = connection.over.is_some() && request.version() != Version::HTTP_2;
            let (response, place) = proxy.serve(connection, request).await;
            let held = Held { _answered: answered, _in_hand: in_hand, _place: place };
            let mut response = response.map(|body| Answer::new(body, Some(held)));
            if closes {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        }
    }
}

/// A runner has the wrong address: what it shows as its error says so.
fn plain_http() -> Response<Bytes> {
    ConnectError::new(Code::FailedPrecondition, PLAIN_HTTP).into_response()
}

fn refusal(why: &str) -> Response<Answer> {
    let error = ConnectError::new(Code::InvalidArgument, why);
    error.into_response().map(|body| Answer::new(ProxyBody::full(body), None))
}

/// Whether the client took what was sent to it, by how its connection ended. One that was closed because
/// it was idle for too long has: a proxy in front of the broker may keep it that long.
fn took_all(ended: Option<&hyper::Result<()>>) -> bool {
    matches!(ended, Some(Ok(())))
}

/// The body of an answer.
struct Answer {
    body: ProxyBody,
    _held: Option<Held>,
}

impl Answer {
    fn new(body: ProxyBody, held: Option<Held>) -> Self {
        Self { body, _held: held }
    }
}

/// The request is in hand, and has its place, until its answer has been handed over.
struct Held {
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
        streams::asked_for();
        let polled = Pin::new(&mut self.get_mut().body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            streams::handed_over();
        }
        polled
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
        let limits = Limits::default();
        let served = http::http1(&limits).serve_connection(TokioIo::new(far), service);
        tokio::join!(served, client(near)).0
    }

    #[tokio::test]
    async fn only_who_ends_in_order_has_its_answer() {
        let done = ended(async |mut stream| {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut read = Vec::new();
            while !read.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
            }
        });
        assert!(took_all(Some(&done.await)));
        let garbage = ended(async |mut stream| stream.write_all(b"\0\r\n\r\n").await.unwrap());
        assert!(!took_all(Some(&garbage.await)));
        assert!(!took_all(None));
    }
}
