//! Gitea's answers to the runners' calls, where they tell something of the caller: one that is accepted is
//! a runner that Gitea knows, and an error may say that it does not know it.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use hyper::http::response::Parts;
use hyper::{HeaderMap, Request, Response};
use tokio::time::{Instant, timeout_at};

use super::body::ProxyBody;
use super::connection::Connection;
use super::headers::dialled;
use super::route::{Route, is_runners_call};
use super::service::{Proxy, refuse};
use super::wrong_word::Asked;
use crate::connect::messages::{DeclareResponse, Runner};
use crate::connect::retry_after::{DEFAULT_WAIT, header_of};
use crate::connect::{Codec, ConnectError, Encoding, RUNNER_TOKEN, RUNNER_UUID, decode, gunzip};
use crate::gitea::is_unregistered;
use crate::lifecycle::{Live, Stranger};
use crate::net::{InBody, Patient};

/// The longest answer that is read, also after decompression; a real one is below a kilobyte.
const LIMIT: usize = 64 * 1024;
/// How long Gitea may take for it; then it is passed on as it comes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who makes a call of the runners' service.
pub(super) enum Caller {
    /// The broker knows it.
    Known(Arc<Live>),
    /// It shows credentials that are new here.
    Stranger(Stranger),
    /// It shows none, or it is no call of a runner.
    Nobody,
}

/// An answer that was to be read whole.
enum Read {
    Whole(Parts, Bytes),
    /// It is too long, or too slow: passed on with what was read of it.
    Not(Response<ProxyBody>),
}

impl Proxy {
    /// Who makes this call.
    pub(super) fn caller(
        &self,
        route: Route,
        connection: &Connection,
        request: &Request<Incoming>,
        live: Option<&Arc<Live>>,
    ) -> Caller {
        if !is_runners_call(route, request.uri().path(), self.upstream.base_path()) {
            return Caller::Nobody;
        }
        match live {
            Some(live) => Caller::Known(Arc::clone(live)),
            None => self
                .stranger(connection, request.headers())
                .map_or(Caller::Nobody, Caller::Stranger),
        }
    }

    fn stranger(&self, connection: &Connection, headers: &HeaderMap) -> Option<Stranger> {
        let uuid = headers.get(RUNNER_UUID)?.to_str().ok()?;
        let token = headers.get(RUNNER_TOKEN)?.to_str().ok()?;
        Stranger::new(uuid, token, self.peer(connection, headers), dialled(headers))
    }

    /// Gitea accepted a call.
    pub(super) fn accepted(&self, caller: Caller) {
        match caller {
            Caller::Known(live) => self.lifecycle.accepted(&live),
            Caller::Stranger(stranger) => self.lifecycle.adopt_soon(stranger, None),
            Caller::Nobody => {}
        }
    }

    /// A call was not answered by its message. An error of Gitea's is passed on as it is, unless it says that
    /// Gitea does not know the caller, and the broker has more to say to that.
    pub(super) async fn refused(
        &self,
        caller: Caller,
        asked: Option<Asked>,
        response: Response<InBody>,
    ) -> Response<ProxyBody> {
        let Some(asked) = asked.filter(|asked| !asked.is_unknown_by(&response)) else {
            return self.stream(response);
        };
        if !is_json(response.headers()) {
            return self.wrong_word(asked, response.status(), response.headers());
        }
        let (head, body) = match self.read(response).await {
            Read::Whole(head, body) => (head, body),
            // No error of Gitea's is so long.
            Read::Not(not) => return self.wrong_word(asked, not.status(), not.headers()),
        };
        let error =
            plain(&head.headers, &body).and_then(|plain| ConnectError::parse(head.status, &plain));
        let Some(error) = error else {
            return self.wrong_word(asked, head.status, &head.headers);
        };
        self.own_word();
        if is_unregistered(&error) {
            let told = match &caller {
                Caller::Known(live) => Some(self.lifecycle.unregistered(live).await),
                Caller::Stranger(stranger) => self.lifecycle.ended_before(stranger).await,
                Caller::Nobody => None,
            };
            if let Some(told) = told {
                return refuse(told);
            }
        }
        let mut response = Response::from_parts(head, ProxyBody::full(body));
        if error.code.is_for_now() {
            response.headers_mut().entry(RETRY_AFTER).or_insert(header_of(DEFAULT_WAIT));
        }
        response
    }

    /// The runner that the answer to a Declare names, and the answer as it was.
    pub(super) async fn named(
        &self,
        response: Response<InBody>,
    ) -> (Option<Runner>, Response<ProxyBody>) {
        match self.read(response).await {
            Read::Not(response) => (None, response),
            Read::Whole(head, body) => {
                let runner = Codec::from_content_type(head.headers.get(CONTENT_TYPE))
                    .zip(plain(&head.headers, &body))
                    .and_then(|(codec, plain)| decode(codec, &plain).ok())
                    .and_then(|answer: DeclareResponse| answer.runner);
                (runner, Response::from_parts(head, ProxyBody::full(body)))
            }
        }
    }

    async fn read(&self, response: Response<InBody>) -> Read {
        if response.body().size_hint().lower() > LIMIT as u64 {
            return Read::Not(self.stream(response));
        }
        let (head, mut body) = response.into_parts();
        let until = Instant::now() + PATIENCE;
        let mut read = BytesMut::new();
        let error = loop {
            match timeout_at(until, body.frame()).await {
                Ok(None) => return Read::Whole(head, read.freeze()),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        read.extend_from_slice(&data);
                    }
                    if read.len() > LIMIT {
                        break None;
                    }
                }
                Ok(Some(Err(error))) => break Some(error),
                Err(_) => break None,
            }
        };
        let stall = self.lifecycle.timing().stall;
        let rest = Patient::after(read.freeze(), error, body, stall);
        Read::Not(Response::from_parts(head, ProxyBody::Stream(rest)))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

fn plain(headers: &HeaderMap, body: &Bytes) -> Option<Bytes> {
    match Encoding::from_header(headers.get(CONTENT_ENCODING)).ok()? {
        Encoding::Identity => Some(body.clone()),
        Encoding::Gzip => gunzip(body, LIMIT).ok().map(Bytes::from),
    }
}
