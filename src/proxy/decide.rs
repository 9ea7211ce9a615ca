//! The three calls that the broker reads whole and decides: Register, Declare, Deregister.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tracing::{error, info, warn};
use zeroize::{Zeroize, Zeroizing};

use super::answer::Caller;
use super::body::ProxyBody;
use super::connection::Connection;
use super::forward::broken_off;
use super::headers;
use super::limits::{Limit, RequestPlace};
use super::route::Route;
use super::service::{Proxy, refuse, wrong_method};
use super::wrong_word::Asked;
use crate::broker::forwarded::client_address;
use crate::broker::{Key, Reason};
use crate::config::Limits;
use crate::connect::messages::{
    DeclareRequest, DeregisterRequest, DeregisterResponse, RegisterRequest, Runner,
};
use crate::connect::{Code, Codec, ConnectError, Encoding, decode, encode, gunzip};
use crate::lifecycle::{By, DeregisterError, Force, Live, Registration};
use crate::net::{InBody, OutBody, ReadError, read_limited};
use crate::telemetry::metrics::Rejection;

/// A call that was read whole.
struct Call {
    parts: Parts,
    codec: Codec,
    /// As it came.
    raw: Bytes,
    /// Decompressed.
    message: Bytes,
}

impl Proxy {
    pub(super) async fn decide(
        &self,
        route: Route,
        connection: &Connection,
        request: Request<Incoming>,
        live: Option<Arc<Live>>,
        caller: Caller,
        place: &mut Option<RequestPlace>,
    ) -> Response<ProxyBody> {
        if request.method() != Method::POST {
            self.malformed(route, connection, "it is no POST");
            return wrong_method();
        }
        let call = match self.read_call(request).await {
            Ok(call) => call,
            Err(error) => {
                self.malformed(route, connection, &error.message);
                return unreadable(error);
            }
        };
        let answer = match route {
            Route::Register => self.register(connection, call, place).await,
            Route::Declare => self.declare(connection, call, live, caller).await,
            _ => self.deregister(connection, call).await,
        };
        answer.unwrap_or_else(refuse)
    }

    /// Reads a call whole, within limits that hold after decompression too.
    async fn read_call(&self, request: Request<Incoming>) -> Result<Call, ConnectError> {
        let Limits { message_bytes, message_ratio, message_timeout, .. } = self.limits();
        let (parts, body) = request.into_parts();
        let Some(codec) = Codec::from_content_type(parts.headers.get(CONTENT_TYPE)) else {
            return Err(ConnectError::new(Code::Unknown, UNSUPPORTED));
        };
        let encoding = Encoding::from_header(parts.headers.get(CONTENT_ENCODING))?;
        let raw = match read_limited(body, message_bytes, message_timeout).await {
            Ok(raw) => raw,
            Err(ReadError::TooLarge(limit)) => {
                self.over(Limit::MessageBytes);
                return Err(ConnectError::new(
                    Code::ResourceExhausted,
                    format!(
                        "the message is larger than {limit} bytes (the broker's setting \
                         limits.message_bytes)"
                    ),
                ));
            }
            Err(ReadError::Broken(_)) => {
                return Err(broken_off());
            }
            Err(ReadError::TooSlow(limit)) => {
                self.over(Limit::MessageTimeout);
                return Err(ConnectError::new(
                    Code::DeadlineExceeded,
                    format!("the message did not come to its end in {limit:?}"),
                )
                .with_status(StatusCode::REQUEST_TIMEOUT));
            }
        };
        let message = match encoding {
            Encoding::Identity => raw.clone(),
            Encoding::Gzip => {
                let by_ratio = raw.len().saturating_mul(message_ratio);
                let plain = gunzip(&raw, message_bytes.min(by_ratio)).inspect_err(|error| {
                    if error.code == Code::ResourceExhausted {
                        self.over(match by_ratio < message_bytes {
                            true => Limit::MessageRatio,
                            false => Limit::MessageBytes,
                        });
                    }
                });
                plain?.into()
            }
        };
        Ok(Call { parts, codec, raw, message })
    }

    fn malformed(&self, route: Route, connection: &Connection, reason: &str) {
        if route == Route::Register {
            self.lifecycle.metrics.rejection(Rejection::Malformed);
        }
        warn!(
            route = route.as_str(),
            peer = %connection.peer,
            reason,
            "call refused: it cannot be read"
        );
    }

    async fn register(
        &self,
        connection: &Connection,
        call: Call,
        place: &mut Option<RequestPlace>,
    ) -> Result<Response<ProxyBody>, ConnectError> {
        let mut request: RegisterRequest = decode(call.codec, &call.message)
            .inspect_err(|error| self.malformed(Route::Register, connection, &error.message))?;
        let peer = self.peer(connection, &call.parts.headers);
        let admitted = self.lifecycle.admit(&request, peer);
        request.token.zeroize();
        let token = admitted?;
        let Parts { headers: mut passed, .. } = call.parts;
        let dialled = headers::dialled(&passed);
        headers::clean_request(&mut passed);
        // The message changes on its way, and the answer is read here.
        for name in [CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_ENCODING] {
            passed.remove(name);
        }
        let codec = call.codec;
        let RegisterRequest { name, labels, ephemeral, version, .. } = request;
        let registration = Registration {
            key: Key { parent_id: token.token_id.clone(), name, labels, ephemeral, peer, codec },
            token,
            version,
            body: call.message,
            headers: passed,
            dialled,
        };
        // Another limit bounds how many wait for their turn: they keep nobody at the same address from calling.
        *place = None;
        let (answer, delivery) = self.lifecycle.register(registration).await?;
        connection.delivers(delivery);
        let mut response = Response::new(ProxyBody::full(answer.body));
        let mut kept = answer.headers;
        headers::clean_response(&mut kept);
        kept.remove(CONTENT_LENGTH);
        kept.remove(CONTENT_ENCODING);
        kept.entry(CONTENT_TYPE).or_insert(codec.header_value());
        *response.headers_mut() = kept;
        Ok(response)
    }

    /// Where a call comes from, as far as a trusted proxy tells.
    pub(super) fn peer(&self, connection: &Connection, headers: &HeaderMap) -> IpAddr {
        let trusted = &self.lifecycle.settings.load().listen.trusted_proxies;
        client_address(connection.peer.ip(), headers.get_all("x-forwarded-for").iter(), trusted)
    }

    /// Gitea decides whose Declare it is; the broker looks at the labels and remembers them.
    async fn declare(
        &self,
        connection: &Connection,
        call: Call,
        live: Option<Arc<Live>>,
        caller: Caller,
    ) -> Result<Response<ProxyBody>, ConnectError> {
        let request: DeclareRequest = decode(call.codec, &call.message)
            .inspect_err(|error| self.malformed(Route::Declare, connection, &error.message))?;
        let peer = self.peer(connection, &call.parts.headers);
        self.lifecycle.admit_labels(live.as_deref(), &request.labels, peer)?;
        let asked = Asked::declare(call.codec);
        let response =
            self.send(call.parts, OutBody::Full(Some(call.raw)), live.as_deref()).await?;
        if !asked.is_answered_by(&response) {
            return Ok(self.refused(caller, Some(asked), response).await);
        }
        self.own_word();
        let DeclareRequest { labels, version } = request;
        match caller {
            Caller::Known(live) => {
                self.lifecycle.accepted(&live);
                let response = self.declared(&live, labels, version, response).await;
                self.lifecycle.locate_soon(&live);
                Ok(response)
            }
            Caller::Stranger(stranger) => {
                let (runner, response) = self.named(response).await;
                let told = runner.map(|runner| Runner { labels, version, ..runner });
                self.lifecycle.adopt_soon(stranger, told);
                Ok(response)
            }
            Caller::Nobody => Ok(self.stream(response)),
        }
    }

    /// Gitea accepted the Declare of a runner that the broker knows.
    async fn declared(
        &self,
        live: &Live,
        labels: Vec<String>,
        version: String,
        response: Response<InBody>,
    ) -> Response<ProxyBody> {
        let lifecycle = &self.lifecycle;
        let (runner, response) = match live.id() {
            0 => self.named(response).await,
            _ => (None, self.stream(response)),
        };
        let (told, tells) = (labels.join(","), version.clone());
        let stored = async {
            if let Some(runner) = runner {
                lifecycle.named(live, &runner).await?;
            }
            lifecycle.declared(live, labels, version).await
        };
        if let Err(error) = stored.await {
            error!(%error, id = live.id(), "the store did not take what a runner declared");
        }
        info!(id = live.id(), labels = told, version = tells, "runner declared");
        response
    }

    /// The runner's own token decides which runner is meant; the request's id decides nothing.
    async fn deregister(
        &self,
        connection: &Connection,
        call: Call,
    ) -> Result<Response<ProxyBody>, ConnectError> {
        let request: DeregisterRequest = decode(call.codec, &call.message)
            .inspect_err(|error| self.malformed(Route::Deregister, connection, &error.message))?;
        let lifecycle = &self.lifecycle;
        let peer = self.peer(connection, &call.parts.headers);
        let presented = Zeroizing::new(request.token);
        let token = presented.as_bytes();
        let record = match lifecycle.roster.authenticate(&request.uuid, token) {
            Some(live) => {
                // The runner asks itself, so whatever it had in hand will not be done.
                let by = By::runner(peer);
                let asked =
                    lifecycle.deregister(&live, Reason::Runner, Force::CancelTask, &by).await;
                asked.map_err(|error| deregister_failed(&error))?;
                live.record()
            }
            None => {
                let ended =
                    lifecycle.store.ended_by_uuid(&request.uuid).await.map_err(|error| {
                        error!(%error, "the store does not tell which runners have ended");
                        ConnectError::new(
                            Code::Unavailable,
                            "the broker cannot read its records at the moment: try again",
                        )
                    })?;
                match ended.filter(|record| record.presented.token_is(token)) {
                    Some(record) => record,
                    None => {
                        warn!(%peer, uuid = shown(&request.uuid), "deregistration refused: no such runner, or not its token");
                        return Err(ConnectError::new(
                            Code::Unauthenticated,
                            "no runner of this broker has this uuid and token; send both as they \
                             stand in the runner's .runner file",
                        ));
                    }
                }
            }
        };
        let runner = Runner {
            id: record.presented.id,
            uuid: record.presented.uuid.clone(),
            name: record.name,
            version: record.version,
            labels: record.labels,
            ephemeral: record.ephemeral,
            ..Runner::default()
        };
        let body = encode(call.codec, &DeregisterResponse { runner: Some(runner) });
        let mut response = Response::new(ProxyBody::full(body.into()));
        response.headers_mut().insert(CONTENT_TYPE, call.codec.header_value());
        Ok(response)
    }
}

const UNSUPPORTED: &str =
    "this call is taken as application/proto or application/json; gRPC and other forms are not";

/// A content type that is not spoken is told as Connect tells it: 415 and what is spoken.
fn unreadable(error: ConnectError) -> Response<ProxyBody> {
    let unsupported = error.message == UNSUPPORTED;
    let mut response = refuse(error);
    if unsupported {
        *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let spoken = HeaderValue::from_static("application/json, application/proto");
        response.headers_mut().insert("accept-post", spoken);
    }
    response
}

fn deregister_failed(error: &DeregisterError) -> ConnectError {
    let code = match error {
        DeregisterError::NoApiToken(_)
        | DeregisterError::NoAbility(_)
        | DeregisterError::Busy(_)
        | DeregisterError::SwitchedOff
        | DeregisterError::NotTold
        | DeregisterError::NotMoved
        | DeregisterError::Foreign
        | DeregisterError::Lost
        | DeregisterError::Refused(_) => Code::FailedPrecondition,
        DeregisterError::Unreachable(_) | DeregisterError::Store(_) => Code::Unavailable,
    };
    ConnectError::new(code, error.to_string())
}

/// What a stranger sent, cut to a length that a log line bears.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}
