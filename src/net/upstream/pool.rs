//! Connections to a Gitea that is dialled without TLS, kept for the next request.
//!
//! None has a task of its own: whoever waits for an answer moves its connection, and so does the answer's
//! reader. So a request that is passed on costs no switch between tasks.

use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::Authority;
use hyper::service::Service;
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::body::OutBody;
use crate::net::hush::Hush;

/// How often idle connections are looked at, measured by how long they may be idle.
const LOOKS: u32 = 4;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum PoolError {
    /// There is no connection.
    #[error(transparent)]
    Connect(Box<dyn Error + Send + Sync>),
    /// It broke.
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// The idle connections to one address.
pub(super) struct Pool {
    address: Uri,
    host: HeaderValue,
    connector: TowerToHyperService<HttpConnector>,
    idle_limit: Duration,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// The last one that became idle is the next to be used, so that few are kept warm.
    links: Vec<(Link, Instant)>,
    /// Someone looks at them now and then.
    watched: bool,
}

/// One connection.
struct Link(Box<Ends>);

struct Ends {
    sender: SendRequest<OutBody>,
    /// `None` once it has ended.
    connection: Option<Connection<TokioIo<TcpStream>, OutBody>>,
}

impl Pool {
    /// Nothing is dialled yet. A connection is kept for so long without a request.
    pub(super) fn new(gitea: &Authority, tcp: HttpConnector, idle_limit: Duration) -> Arc<Self> {
        let parts = Uri::builder().scheme("http").authority(gitea.clone()).path_and_query("/");
        // As every client names it: with the port only where that is not the scheme's own.
        let host = match gitea.port_u16() {
            Some(80) => gitea.host(),
            _ => gitea.as_str(),
        };
        Arc::new(Self {
            address: parts.build().expect("all three parts are there"),
            host: HeaderValue::from_str(host).expect("an authority is visible ASCII"),
            connector: TowerToHyperService::new(tcp),
            idle_limit,
            idle: Mutex::default(),
        })
    }

    /// Sends a request and waits for the head of its answer. One of which no byte was written when its
    /// connection closed is sent on another.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<OutBody>,
    ) -> Result<Response<InBody>, PoolError> {
        request.headers_mut().insert(HOST, self.host.clone());
        if request.uri().authority().is_some() {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
        }
        loop {
            let idle = self.take();
            let is_used = idle.is_some();
            let mut link = match idle {
                Some(link) => link,
                None => self.dial().await?,
            };
            let answered = {
                let mut answer = pin!(link.0.sender.try_send_request(request));
                let connection = &mut link.0.connection;
                poll_fn(|context| {
                    let hush = Hush::begin();
                    drive(connection, context);
                    let answered = answer.as_mut().poll(context);
                    if answered.is_ready() {
                        // From now on, whoever reads the body moves the connection.
                        hush.needless();
                    }
                    answered
                })
                .await
            };
            match answered {
                Ok(response) => return Ok(response.map(|body| InBody::driven(body, link, self))),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_used => request = unsent,
                    _ => return Err(error.into_error().into()),
                },
            }
        }
    }

    async fn dial(&self) -> Result<Link, PoolError> {
        let stream = self.connector.call(self.address.clone()).await;
        let stream = stream.map_err(|error| PoolError::Connect(error.into()))?;
        let (sender, connection) = handshake(stream).await?;
        Ok(Link(Box::new(Ends { sender, connection: Some(connection) })))
    }

    /// One that was still open when it was last looked at. Whether it has closed meanwhile is told before a byte of
    /// a request goes out on it.
    fn take(&self) -> Option<Link> {
        self.lock().links.pop().map(|(link, _)| link)
    }

    fn put(self: &Arc<Self>, link: Link) {
        let mut idle = self.lock();
        idle.links.push((link, Instant::now()));
        if !std::mem::replace(&mut idle.watched, true) {
            tokio::spawn(watch(Arc::downgrade(self), self.idle_limit / LOOKS));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of connections that were idle for too long, or that Gitea closed, until there is none.
async fn watch(pool: Weak<Pool>, pause: Duration) {
    loop {
        sleep(pause).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.lock();
        idle.links.retain_mut(|(link, since)| since.elapsed() < pool.idle_limit && link.is_open());
        if idle.links.is_empty() {
            idle.watched = false;
            return;
        }
    }
}

impl Link {
    /// Whether it can take a request, as far as is known here.
    fn is_open(&mut self) -> bool {
        drive(&mut self.0.connection, &mut Context::from_waker(Waker::noop()));
        self.0.connection.is_some() && self.0.sender.is_ready()
    }
}

fn drive(
    connection: &mut Option<Connection<TokioIo<TcpStream>, OutBody>>,
    context: &mut Context<'_>,
) {
    // How it ended is told by the answer that it was to bring.
    if let Some(open) = connection
        && Pin::new(open).poll(context).is_ready()
    {
        *connection = None;
    }
}

/// A body that comes in.
pub struct InBody {
    body: Incoming,
    /// Its connection, where nobody else moves that, and where it belongs afterwards.
    driven: Option<(Link, Arc<Pool>)>,
}

impl From<Incoming> for InBody {
    fn from(body: Incoming) -> Self {
        Self { body, driven: None }
    }
}

impl InBody {
    fn driven(body: Incoming, link: Link, pool: &Arc<Pool>) -> Self {
        let mut body = Self { body, driven: Some((link, Arc::clone(pool))) };
        if body.body.is_end_stream() {
            body.release();
        }
        body
    }

    /// The answer is read to its end. Where the request is not sent to its own, the connection is closed.
    fn release(&mut self) {
        if let Some((mut link, pool)) = self.driven.take()
            && link.is_open()
        {
            pool.put(link);
        }
    }
}

impl Body for InBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let hush = Hush::begin();
        let mut polled = Pin::new(&mut this.body).poll_frame(context);
        if polled.is_pending()
            && let Some((link, _)) = &mut this.driven
        {
            drive(&mut link.0.connection, context);
            polled = Pin::new(&mut this.body).poll_frame(context);
        }
        let ends = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream(),
            _ => false,
        };
        if ends {
            // Who brought it has nothing more to bring.
            hush.needless();
            this.release();
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

impl std::fmt::Debug for InBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.body.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

    async fn gitea(idle_limit: Duration) -> (TcpListener, Arc<Pool>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string().parse().unwrap();
        (listener, Pool::new(&authority, HttpConnector::new(), idle_limit))
    }

    fn get(path: &'static str) -> Request<OutBody> {
        let mut request = Request::new(OutBody::Empty);
        *request.uri_mut() = Uri::from_static(path);
        request
    }

    /// Reads a head and answers it.
    async fn answer(tcp: &mut TcpStream, with: &[u8]) -> String {
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            assert_ne!(tcp.read_buf(&mut read).await.unwrap(), 0, "the connection ended");
        }
        tcp.write_all(with).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    async fn whole(pool: &Arc<Pool>, path: &'static str) -> Bytes {
        let response = pool.send(get(path)).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_the_next_and_names_the_host() {
        let (listener, pool) = gitea(Duration::from_secs(60)).await;
        let host = listener.local_addr().unwrap();
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let first = answer(&mut tcp, b"HTTP/1.1 204 No Content\r\n\r\n").await;
            (first, answer(&mut tcp, OK).await)
        };
        let client = async {
            assert_eq!(whole(&pool, "http://elsewhere/first?a=b").await, "");
            assert_eq!(whole(&pool, "/second").await, "ok");
        };
        let ((first, second), ()) = tokio::join!(server, client);
        assert_eq!(first, format!("GET /first?a=b HTTP/1.1\r\nhost: {host}\r\n\r\n"));
        assert_eq!(second, format!("GET /second HTTP/1.1\r\nhost: {host}\r\n\r\n"));
    }

    #[tokio::test]
    async fn one_that_gitea_closed_meanwhile_is_not_used() {
        let (listener, pool) = gitea(Duration::from_secs(60)).await;
        let server = async {
            for _ in 0..3 {
                let (mut tcp, _) = listener.accept().await.unwrap();
                answer(&mut tcp, OK).await;
            }
        };
        let client = async {
            for _ in 0..3 {
                assert_eq!(whole(&pool, "/").await, "ok");
            }
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn what_is_not_read_to_its_end_is_closed() {
        let (listener, pool) = gitea(Duration::from_secs(60)).await;
        let server = async {
            let (mut first, _) = listener.accept().await.unwrap();
            answer(&mut first, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok").await;
            assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 0, "it was closed");
            let (mut second, _) = listener.accept().await.unwrap();
            answer(&mut second, OK).await;
        };
        let client = async {
            let mut body = pool.send(get("/")).await.unwrap().into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ok");
            drop(body);
            assert_eq!(whole(&pool, "/").await, "ok");
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_told() {
        let (listener, pool) = gitea(Duration::from_secs(60)).await;
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            answer(&mut tcp, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok").await;
        };
        let client = async {
            let body = pool.send(get("/")).await.unwrap().into_body();
            assert!(body.collect().await.is_err(), "what came is no whole answer");
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn an_idle_one_is_closed_after_its_time() {
        let (listener, pool) = gitea(Duration::from_millis(200)).await;
        let server = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            answer(&mut tcp, OK).await;
            let begun = Instant::now();
            assert_eq!(tcp.read(&mut [0; 8]).await.unwrap(), 0);
            begun.elapsed()
        };
        let (idle, _) = tokio::join!(server, whole(&pool, "/"));
        assert!(idle >= Duration::from_millis(150), "{idle:?}");
        assert!(!pool.lock().watched, "nobody looks at no connections");
    }
}
