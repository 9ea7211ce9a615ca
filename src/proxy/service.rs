//! Every request of a runner or a job comes in here and is told apart: what the broker decides, what it
//! refuses, and what it passes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Request, Response, StatusCode};
use tracing::{trace, warn};

use super::body::ProxyBody;
use super::connection::Connection;
use super::form;
use super::limits::{Limit, Places, RequestPlace, check_head};
use super::pass::may_pass;
use super::poll::Polls;
use super::route::{Class, Route, classify};
use super::wrong_word::WrongWords;
use crate::broker::forwarded::is_within;
use crate::config::Limits;
use crate::connect::{Code, Codec, ConnectError, RUNNER_UUID};
use crate::fault;
use crate::lifecycle::{Lifecycle, Live};
use crate::net::Upstream;
use crate::telemetry::metrics::Rejection;
use crate::telemetry::panics;

/// Whose request it is, where the broker knows that; or what it is refused with.
type Admitted = Result<Option<Arc<Live>>, Response<ProxyBody>>;

/// What serves the runners' listener.
pub struct Proxy {
    pub(super) lifecycle: Arc<Lifecycle>,
    pub(super) upstream: Upstream,
    pub(super) polls: Polls,
    pub(super) wrong_words: WrongWords,
    places: Arc<Places>,
}

impl Proxy {
    /// A proxy in front of `upstream`.
    #[must_use]
    pub fn new(lifecycle: Arc<Lifecycle>, upstream: Upstream) -> Self {
        let (polls, wrong_words) = (Polls::default(), WrongWords::default());
        let places = Arc::default();
        Self { lifecycle, upstream, polls, wrong_words, places }
    }

    /// A connection was accepted. Where there are too many, it is one that is only told so.
    #[must_use]
    pub fn connection(&self, peer: SocketAddr) -> Connection {
        let settings = self.lifecycle.settings.load();
        let is_proxy = is_within(peer.ip().to_canonical(), &settings.listen.trusted_proxies);
        let place = self.places.connect(peer.ip(), is_proxy, &settings.limits).map_err(|limit| {
            self.lifecycle.metrics.limit(limit);
            (limit, self.places.over(peer.ip()))
        });
        Connection::new(peer, is_proxy, place, Arc::clone(&self.lifecycle))
    }

    /// The limits in force.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.lifecycle.settings.load().limits
    }

    /// A client was over a limit.
    pub fn over(&self, limit: Limit) {
        self.lifecycle.metrics.limit(limit);
    }

    /// Answers one request. It never fails: a failure would close the connection without an answer. The place
    /// that the request has is to be held until the answer has been handed over.
    pub async fn serve(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> (Response<ProxyBody>, Option<RequestPlace>) {
        // In a box, so that a connection without a request has no room for one.
        match panics::caught(Box::pin(self.handle(connection, request))).await {
            Some(answer) => answer,
            None => {
                let error = ConnectError::new(
                    Code::Internal,
                    "the broker failed at this call; its log says where",
                );
                (refuse(error), None)
            }
        }
    }

    async fn handle(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> (Response<ProxyBody>, Option<RequestPlace>) {
        fault::point("request-begun");
        let begun = Instant::now();
        let class = classify(request.uri().path(), self.upstream.base_path());
        let route = class.route();
        trace!(route = route.as_str(), method = %request.method(), peer = %connection.peer, "request");
        if let Some(response) = form::refusal(&request) {
            self.lifecycle.metrics.request(route, response.status(), begun.elapsed());
            return (response, None);
        }
        let (mut place, admitted) = self.admit(class, &connection, &request);
        let response = match admitted {
            Ok(live) => self.answer(class, begun, &connection, request, live, &mut place).await,
            Err(refusal) => refusal,
        };
        self.lifecycle.metrics.request(route, response.status(), begun.elapsed());
        (response, place)
    }

    /// The request's place, where there is one for it, and whose request it is, where it is let in.
    fn admit(
        &self,
        class: Class,
        connection: &Connection,
        request: &Request<Incoming>,
    ) -> (Option<RequestPlace>, Admitted) {
        let settings = self.lifecycle.settings.load();
        let route = class.route();
        let mut place = match self.place(connection, route, request, &settings.limits) {
            Ok(place) => place,
            Err(limit) => {
                // A connection that is over is counted once.
                if connection.over.is_none() {
                    self.over(limit);
                }
                return (None, Err(limit.refusal()));
            }
        };
        let path = request.uri().path();
        if let Class::Plain(_) = class
            && let Err(error) = may_pass(
                settings.listen.pass,
                path.strip_prefix(self.upstream.base_path()).unwrap_or(path),
            )
        {
            return (Some(place), Err(refuse(error)));
        }
        let live = connection.heard(request);
        if let Some(live) = &live
            && let Err(limit) = place.is_of(live, &settings.limits)
        {
            self.over(limit);
            return (Some(place), Err(limit.refusal()));
        }
        (Some(place), Ok(live))
    }

    fn place(
        &self,
        connection: &Connection,
        route: Route,
        request: &Request<Incoming>,
        limits: &Limits,
    ) -> Result<RequestPlace, Limit> {
        if let Some(limit) = connection.over {
            return Err(limit);
        }
        check_head(request.uri(), request.headers(), limits)?;
        let own = &connection.place.peer;
        let peer = match connection.is_proxy {
            false => Arc::clone(own),
            true => self.places.peer(self.peer(connection, request.headers())),
        };
        self.places.request(peer, !route.is_jobs(), limits)
    }

    async fn answer(
        self: &Arc<Self>,
        class: Class,
        begun: Instant,
        connection: &Connection,
        request: Request<Incoming>,
        live: Option<Arc<Live>>,
        place: &mut Option<RequestPlace>,
    ) -> Response<ProxyBody> {
        let route = class.route();
        // The two that never go to Gitea are told apart by what they carry.
        if let Class::Plain(route) = class
            && !matches!(route, Route::Register | Route::Deregister)
            && let Err(error) = self.may_pass(connection, request.headers(), live.as_ref()).await
        {
            return refuse(error);
        }
        if let (Route::FetchTask | Route::UpdateTask | Route::UpdateLog, Some(live)) =
            (route, &live)
            && live.declare_is_due()
        {
            self.lifecycle.declare_labels_soon(live);
        }
        let caller = self.caller(route, connection, &request, live.as_ref());
        match class {
            Class::Disguised(route) => self.disguised(route, request.uri().path(), connection.peer),
            Class::Plain(route) if route.is_decided() => {
                // In a box, as the other rare ways: each request has room for what it may have to wait for.
                Box::pin(self.decide(route, connection, request, live, caller, place)).await
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
        }
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
            true => Box::pin(self.lifecycle.wake(live, self.peer(connection, headers))).await,
        }
    }

    /// A task that is handed out to a runner on its way out would be stranded.
    fn gets_no_task(&self, live: Option<&Live>) -> bool {
        self.lifecycle.is_draining() || live.is_some_and(Live::is_deregistering)
    }

    fn disguised(&self, route: Route, path: &str, peer: SocketAddr) -> Response<ProxyBody> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// It is moved before it is polled, and there is one for each request on its way.
    #[test]
    fn what_a_request_waits_for_is_small() {
        let (kept, boxed) = (size(Proxy::serve), size(Proxy::handle));
        assert!(kept <= 1024, "{kept} bytes for each connection");
        assert!(boxed <= 5120, "{boxed} bytes: put what is rarely waited for into a box");
    }
}
