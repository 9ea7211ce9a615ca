//! The pooled way to Gitea. Every byte that the broker sends there goes through here.

mod body;
mod breaker;
mod error;
mod pool;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::http::uri::{Authority, Parts, PathAndQuery, Scheme};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::ClientConfig;
use tokio::time::timeout;
use tracing::{info, warn};

pub use self::body::{OutBody, ReadError, read_limited};
use self::breaker::Breaker;
pub(crate) use self::error::CLIENT_CERTIFICATE;
pub use self::error::{UpstreamError, UpstreamErrorKind};
pub use self::pool::InBody;
use self::pool::{Pool, PoolError};
use super::tls::{self, TlsError};
use crate::config;

/// How long a TCP connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept: below the minute after which proxies begin to drop them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a silent connection is tried.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How much one HTTP/2 answer may run ahead of its reader; it bounds the memory of large bodies.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// The same for all answers on one HTTP/2 connection: no limit of its own, else a few slow readers would
/// use it up and stop every other call.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

type HttpClient = Client<HttpsConnector<HttpConnector>, OutBody>;

/// The way to one Gitea: its address, its connections, whether it answered last, and whether it is left alone
/// because it gave no answer for a while. Cheap to clone.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    scheme: Scheme,
    authority: Authority,
    base_path: String,
    pooled: Pooled,
    fresh: HttpClient,
    breaker: Breaker,
    up: AtomicBool,
}

/// Connections that are kept.
enum Pooled {
    /// Without TLS, as mostly beside each other: HTTP/1.1, without a detour.
    Plain(Arc<Pool>),
    /// By TLS, which may agree on HTTP/2.
    Tls(Box<HttpClient>),
}

impl Upstream {
    /// Prepares the way; nothing is dialled yet. Needs a runtime only once something is sent.
    pub fn new(gitea: &config::Gitea) -> Result<Self, TlsError> {
        Ok(Self::by(gitea, tls::client_config(gitea)?))
    }

    /// The same, with a certificate that may change; `None`: with none.
    pub(crate) fn showing(
        gitea: &config::Gitea,
        shown: Option<Arc<tls::Shown>>,
    ) -> Result<Self, TlsError> {
        Ok(Self::by(gitea, tls::client_config_showing(gitea, shown)?))
    }

    fn by(gitea: &config::Gitea, tls: ClientConfig) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(KEEPALIVE));
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp.clone());

        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW);
        let authority = without_userinfo(gitea.url.authority());
        let scheme = gitea.url.scheme().cloned().unwrap_or(Scheme::HTTP);
        let pooled = match scheme == Scheme::HTTP {
            true => Pooled::Plain(Pool::new(&authority, tcp, IDLE_TIMEOUT)),
            false => Pooled::Tls(Box::new(builder.build(connector.clone()))),
        };
        let fresh =
            builder.pool_max_idle_per_host(0).retry_canceled_requests(false).build(connector);

        Self(Arc::new(Inner {
            scheme,
            authority,
            base_path: gitea.url.path().trim_end_matches('/').to_owned(),
            pooled,
            fresh,
            breaker: Breaker::default(),
            up: AtomicBool::new(false),
        }))
    }

    /// Gitea's host and port, as set.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.0.authority
    }

    /// Gitea's sub-path: empty, or `/sub` with no slash at its end.
    #[must_use]
    pub fn base_path(&self) -> &str {
        &self.0.base_path
    }

    /// Where a passed-on request goes: its path, which holds the sub-path already, is not touched.
    fn uri(&self, path_and_query: &PathAndQuery) -> Uri {
        self.with_path(path_and_query.clone())
    }

    /// Where a call of the broker's own goes; `path` begins with a slash, may have a query, and is escaped
    /// already.
    #[must_use]
    pub fn below(&self, path: &str) -> Uri {
        let path = format!("{}{path}", self.0.base_path);
        self.with_path(path.parse().expect("the parts of the path are escaped"))
    }

    /// Sends on a pooled connection and waits, no longer than `limit`, for the head of the answer. A
    /// request that was not yet written when its connection closed is tried on another one. The request
    /// carries no `Host` and no hop-by-hop header. While Gitea is left alone, this fails at once.
    pub async fn send(
        &self,
        request: Request<OutBody>,
        limit: Duration,
    ) -> Result<Response<InBody>, UpstreamError> {
        self.pass()?;
        self.send_anyway(request, limit).await
    }

    /// As [`send`](Self::send), also while Gitea is left alone: for asking whether it is back.
    pub async fn send_anyway(
        &self,
        request: Request<OutBody>,
        limit: Duration,
    ) -> Result<Response<InBody>, UpstreamError> {
        // In a box, so that no future around it has room for it, or is copied with it.
        let answer = match timeout(limit, Box::pin(self.pooled(request))).await {
            Ok(answer) => answer,
            Err(_) => Err(UpstreamError::too_slow(self.authority(), limit, true)),
        };
        self.note(answer, limit)
    }

    /// As [`send`](Self::send), but `silence` counts anew as long as the request's body moves: a large
    /// one may take longer than any answer. The wait is twice `silence` at most after the last piece.
    pub async fn send_patiently(
        &self,
        request: Request<OutBody>,
        silence: Duration,
    ) -> Result<Response<InBody>, UpstreamError> {
        self.pass()?;
        let moved = Arc::new(AtomicBool::new(false));
        let request = request.map(|body| match body {
            OutBody::Client(body) => OutBody::Watched(body, Arc::clone(&moved)),
            other => other,
        });
        let mut sending = Box::pin(self.pooled(request));
        let answer = loop {
            match timeout(silence, sending.as_mut()).await {
                Ok(answer) => break answer,
                Err(_) if moved.swap(false, Ordering::Relaxed) => {}
                Err(_) => break Err(UpstreamError::too_slow(self.authority(), silence, true)),
            }
        };
        self.note(answer, silence)
    }

    /// As [`send`](Self::send), on a connection of its own and never a second time: for what must not
    /// happen twice. Only here is `sent` exact for time-outs too.
    pub async fn send_fresh(
        &self,
        request: Request<OutBody>,
        limit: Duration,
    ) -> Result<Response<InBody>, UpstreamError> {
        self.pass()?;
        let mut request = self.addressed(request);
        let connection = capture_connection(&mut request);
        let answer = match timeout(limit, self.0.fresh.request(request)).await {
            Ok(answer) => answer.map(of_own_task).map_err(|error| self.told(error)),
            Err(_) => Err(UpstreamError::too_slow(self.authority(), limit, true)),
        };
        let answer = answer.map_err(|mut error| {
            error.sent &= connection.connection_metadata().is_some();
            error
        });
        self.note(answer, limit)
    }

    /// Whether the last that is known of Gitea is a word of its own: not so before the first, where nothing
    /// came, and where something else answered in its place.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Relaxed)
    }

    /// Told by whoever has read an answer: [`send`](Self::send) cannot know whose word it is.
    pub(crate) fn set_up(&self, up: bool) {
        // Read first: on the hot path nothing changes, and a shared cache line stays shared.
        if self.is_up() != up {
            self.0.up.store(up, Ordering::Relaxed);
        }
    }

    /// Names Gitea in a request that has a path alone: the library dials by that.
    fn addressed(&self, mut request: Request<OutBody>) -> Request<OutBody> {
        if request.uri().authority().is_none()
            && let Some(path_and_query) = request.uri().path_and_query()
        {
            *request.uri_mut() = self.uri(path_and_query);
        }
        request
    }

    async fn pooled(&self, request: Request<OutBody>) -> Result<Response<InBody>, UpstreamError> {
        match &self.0.pooled {
            Pooled::Plain(pool) => pool.send(request).await.map_err(|error| {
                let (no_connection, error) = match error {
                    PoolError::Connect(error) => (true, error),
                    PoolError::Http(error) => (false, error.into()),
                };
                UpstreamError::of(self.authority(), false, no_connection, error)
            }),
            Pooled::Tls(client) => {
                let request = self.addressed(request);
                client.request(request).await.map(of_own_task).map_err(|error| self.told(error))
            }
        }
    }

    fn told(&self, error: legacy::Error) -> UpstreamError {
        let is_https = self.0.scheme == Scheme::HTTPS;
        UpstreamError::of(self.authority(), is_https, error.is_connect(), error.into())
    }

    fn pass(&self) -> Result<(), UpstreamError> {
        self.0.breaker.pass().map_err(|wait| UpstreamError::open(self.authority(), wait))
    }

    /// Any answer means that Gitea need not be left alone; no connection means that it is down.
    fn note<T>(
        &self,
        answer: Result<T, UpstreamError>,
        limit: Duration,
    ) -> Result<T, UpstreamError> {
        let gitea = self.authority();
        match &answer {
            Ok(_) => {
                if self.0.breaker.answered() {
                    info!(%gitea, "there are answers again: all requests go out as before");
                }
            }
            Err(error) => {
                if error.is_silence(limit) && self.0.breaker.failed() {
                    warn!(
                        %gitea, reason = %error,
                        "no answer to one request after the other: they are refused at once, but for \
                         one every few seconds, until one is answered"
                    );
                    self.set_up(false);
                }
                if !error.sent {
                    self.set_up(false);
                }
            }
        }
        answer
    }

    fn with_path(&self, path_and_query: PathAndQuery) -> Uri {
        let mut parts = Parts::default();
        parts.scheme = Some(self.0.scheme.clone());
        parts.authority = Some(self.0.authority.clone());
        parts.path_and_query = Some(path_and_query);
        Uri::from_parts(parts).expect("all three parts are there")
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Upstream({}://{}{})", self.0.scheme, self.0.authority, self.0.base_path)
    }
}

/// An answer whose connection has a task.
fn of_own_task(response: Response<Incoming>) -> Response<InBody> {
    response.map(InBody::from)
}

/// A password in the address would end up in errors and in HTTP/2's `:authority`.
fn without_userinfo(authority: Option<&Authority>) -> Authority {
    let text = authority.map_or("localhost", Authority::as_str);
    let host_and_port = text.rsplit_once('@').map_or(text, |(_, host)| host);
    host_and_port.parse().expect("a part of a valid authority")
}

#[cfg(test)]
mod tests;
