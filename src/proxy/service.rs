//! Every request of a runner or a job comes in here and is told apart: what the broker decides, what it
//! refuses, and what it passes on.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tracing::{trace, warn};

use super::body::ProxyBody;
use super::connection::Connection;
use super::pass::may_pass;
use super::poll::Polls;
use super::route::{Class, Route, classify};
use super::wrong_word::WrongWords;
use crate::connect::{Code, Codec, ConnectError, RUNNER_UUID};
use crate::fault;
use crate::lifecycle::{Lifecycle, Live};
use crate::net::Upstream;
use crate::telemetry::metrics::Rejection;
use crate::telemetry::panics;

/// What serves the runners' listener.
pub struct Proxy {
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) upstream: Upstream,
    pub(super) polls: Polls,
    pub(super) wrong_words: WrongWords,
}

impl Proxy {
    /// A proxy in front of `upstream`.
    #[must_use]
    pub fn new(lifecycle: Arc<Lifecycle>, upstream: Upstream) -> Self {
        let (polls, wrong_words) = (Polls::default(), WrongWords::default());
        Self { lifecycle, upstream, polls, wrong_words }
    }

    /// A connection was accepted.
    #[must_use]
    pub fn connection(&self, peer: std::net::SocketAddr) -> Connection {
        Connection::new(peer, Arc::clone(&self.lifecycle))
    }

    /// Answers one request. It never fails: a failure would close the connection without an answer.
    ///
    /// # Errors
    /// None.
    pub async fn serve(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<ProxyBody>, Infallible> {
        match panics::caught(self.answer(connection, request)).await {
            Some(answer) => answer,
            None => Ok(refuse(ConnectError::new(
                Code::Internal,
                "the broker failed at this call; its log says where",
            ))),
        }
    }

    async fn answer(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Result<Response<ProxyBody>, Infallible> {
        fault::point("request-begun");
        let begun = Instant::now();
        let class = classify(request.uri().path(), self.upstream.base_path());
        let (Class::Plain(route) | Class::Disguised(route)) = class;
        trace!(route = route.as_str(), method = %request.method(), peer = %connection.peer, "request");
        if let Class::Plain(route) = class
            && let Err(error) = self.is_passed(request.uri().path())
        {
            let response = refuse(error);
            self.lifecycle.metrics.request(route, response.status(), begun.elapsed());
            return Ok(response);
        }
        let live = connection.heard(&request);
        // The two that never go to Gitea are told apart by what they carry.
        if let Class::Plain(route) = class
            && !matches!(route, Route::Register | Route::Deregister)
            && let Err(error) = self.may_pass(&connection, request.headers(), live.as_ref()).await
        {
            let response = refuse(error);
            self.lifecycle.metrics.request(route, response.status(), begun.elapsed());
            return Ok(response);
        }
        if let (Route::FetchTask | Route::UpdateTask | Route::UpdateLog, Some(live)) =
            (route, &live)
            && live.declare_is_due()
        {
            self.lifecycle.declare_labels_soon(live);
        }
        let caller = self.caller(route, &connection, &request, live.as_ref());
        let response = match class {
            Class::Disguised(route) => self.disguised(route, request.uri().path(), connection.peer),
            Class::Plain(_) if request.method() == Method::CONNECT => refuse(ConnectError::new(
                Code::Unimplemented,
                "the broker is no forward proxy: dial it as you would dial Gitea",
            )),
            Class::Plain(route) if route.is_decided() => {
                self.decide(route, &connection, request, live, caller).await
            }
            Class::Plain(Route::FetchTask) if self.gets_no_task(live.as_deref()) => {
                no_task(request.headers().get(CONTENT_TYPE))
            }
            Class::Plain(route) => {
                if let (Route::UpdateLog | Route::UpdateTask, Some(live)) = (route, &live) {
                    live.note(|activity| activity.reports(begun));
                }
                self.pass(route, request, live, caller).await
            }
        };
        self.lifecycle.metrics.request(route, response.status(), begun.elapsed());
        Ok(response)
    }

    /// Whether the settings let this path through.
    fn is_passed(&self, path: &str) -> Result<(), ConnectError> {
        let settings = self.lifecycle.settings.load();
        may_pass(settings.listen.pass, path.strip_prefix(self.upstream.base_path()).unwrap_or(path))
    }

    /// One that rests is woken first, where it may be. Nobody passes who shows what is another's by now.
    async fn may_pass(
        &self,
        connection: &Connection,
        headers: &HeaderMap,
        live: Option<&Arc<Live>>,
    ) -> Result<(), ConnectError> {
        let Some(live) = live else {
            let uuid = headers.get(RUNNER_UUID).and_then(|uuid| uuid.to_str().ok());
            return match uuid.is_some_and(|uuid| self.lifecycle.roster.is_apart(uuid)) {
                false => Ok(()),
                true => Err(ConnectError::new(
                    Code::Unauthenticated,
                    "this runner left, and its place was given to another: remove its .runner file and \
                     register it anew",
                )),
            };
        };
        match live.is_resting() {
            false => Ok(()),
            true => self.lifecycle.wake(live, self.peer(connection, headers)).await,
        }
    }

    /// A task that is handed out to a runner on its way out would be stranded.
    fn gets_no_task(&self, live: Option<&Live>) -> bool {
        self.lifecycle.is_draining() || live.is_some_and(Live::is_deregistering)
    }

    fn disguised(
        &self,
        route: Route,
        path: &str,
        peer: std::net::SocketAddr,
    ) -> Response<ProxyBody> {
        if route == Route::Register {
            self.lifecycle.metrics.rejection(Rejection::Malformed);
        }
        warn!(
            route = route.as_str(),
            %peer,
            path = path.chars().take(128).collect::<String>(),
            "call refused: its path is not spelled as a runner does"
        );
        refuse(ConnectError::new(
            Code::InvalidArgument,
            format!(
                "the broker takes this call only at {}/api/actions/runner.v1.RunnerService/{}; set \
                 the runner's GITEA_INSTANCE_URL to the broker's address{}",
                self.upstream.base_path(),
                match route {
                    Route::Register => "Register",
                    Route::Declare => "Declare",
                    _ => "Deregister",
                },
                match self.upstream.base_path() {
                    "" => String::new(),
                    base => format!(" with {base} at its end"),
                }
            ),
        ))
    }
}

/// The broker or the runner ends: no runner gets a task any more, and none takes that for an error. The version is left
/// out, which a runner takes for "nothing new".
fn no_task(content_type: Option<&HeaderValue>) -> Response<ProxyBody> {
    let codec = Codec::from_content_type(content_type).unwrap_or(Codec::Proto);
    let body = match codec {
        Codec::Proto => Bytes::new(),
        Codec::Json => Bytes::from_static(b"{}"),
    };
    let mut response = Response::new(ProxyBody::full(body));
    response.headers_mut().insert(CONTENT_TYPE, codec.header_value());
    response
}

/// An answer of the broker's own.
pub(super) fn refuse(error: ConnectError) -> Response<ProxyBody> {
    error.into_response().map(ProxyBody::full)
}

/// Connect's unary calls are POST; Gitea answers anything else so too, but without a text.
pub(super) fn wrong_method() -> Response<ProxyBody> {
    let mut response = refuse(ConnectError::new(Code::Unimplemented, "use POST for this call"));
    *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    response
}
