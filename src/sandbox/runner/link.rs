//! Calls over one pool of kept-alive connections.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prost::Message;
use rustls::{ClientConfig, RootCertStore};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connect::{Codec, decode, encode, gunzip, gzip};
use crate::sandbox::codec::MESSAGE_LIMIT;

pub(super) const USER_AGENT: &str = "runner-broker-sandbox";

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// The HTTP status; `None`: no answer came.
    pub status: Option<StatusCode>,
    /// The Connect code; empty where the answer is no Connect error.
    pub code: String,
    /// The Connect message, else the body or what went wrong.
    pub message: String,
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "{status}: {} {}", self.code, self.message),
            None => write!(f, "no answer: {}", self.message),
        }
    }
}

impl std::error::Error for RpcError {}

impl RpcError {
    pub(super) fn no_answer(message: impl Into<String>) -> Self {
        Self { status: None, code: String::new(), message: message.into() }
    }
}

/// An answer, read whole; its body is decompressed.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers, as they came.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// Where calls go to, and how they are written.
#[derive(Clone)]
pub(super) struct Link {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    pub(super) address: String,
    pub(super) codec: Codec,
    pub(super) gzip: bool,
}

impl Link {
    /// Over plain HTTP.
    pub(super) fn new(address: &str) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let nobody = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has what TLS needs")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        Self::over_tls(address, nobody)
    }

    /// By TLS where the address is https, with the version of HTTP that ALPN agrees on.
    pub(super) fn over_tls(address: &str, tls: ClientConfig) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        let connector = HttpsConnector::from((connector, tls));
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).build(connector);
        let address = address.trim_end_matches('/').to_owned();
        Self { client, address, codec: Codec::Proto, gzip: false }
    }

    /// The same address and connections, written otherwise.
    pub(super) fn writing(&self, codec: Codec, gzip: bool) -> Self {
        Self { codec, gzip, ..self.clone() }
    }

    /// A Connect call; `path` begins with the service.
    pub(super) async fn call<Q, A>(
        &self,
        path: &str,
        headers: HeaderMap,
        request: &Q,
    ) -> Result<(A, HeaderMap), RpcError>
    where
        Q: Message + Serialize,
        A: Message + Default + DeserializeOwned,
    {
        let (headers, body) = self.write(headers, request);
        let answer =
            self.send(Method::POST, &format!("/api/actions/{path}"), headers, body).await?;
        if answer.status != StatusCode::OK {
            return Err(error(&answer));
        }
        let message = decode(self.codec, &answer.body)
            .map_err(|unread| RpcError { message: unread.message, ..error(&answer) })?;
        Ok((message, answer.headers))
    }

    /// Headers and body of a Connect call.
    pub(super) fn write<Q: Message + Serialize>(
        &self,
        mut headers: HeaderMap,
        request: &Q,
    ) -> (HeaderMap, Bytes) {
        headers.insert(header::CONTENT_TYPE, self.codec.header_value());
        headers.insert("Connect-Protocol-Version", HeaderValue::from_static("1"));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let mut body = encode(self.codec, request);
        if self.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            body = gzip(&body);
        }
        (headers, body.into())
    }

    /// Any request; `target` is appended to the address.
    pub(super) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<RawAnswer, RpcError> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = format!("{}{target}", self.address)
            .parse()
            .map_err(|error| RpcError::no_answer(format!("not an address: {error}")))?;
        *request.headers_mut() = headers;
        let agent = HeaderValue::from_static(USER_AGENT);
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| RpcError::no_answer(chain(&error)))?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| RpcError::no_answer(chain(&error)))?;
        let mut body = body.to_bytes();
        if head.headers.get(header::CONTENT_ENCODING).is_some_and(|value| value == "gzip") {
            let plain = gunzip(&body, MESSAGE_LIMIT);
            body = plain.map_err(|error| RpcError::no_answer(error.message))?.into();
        }
        Ok(RawAnswer { status: head.status, headers: head.headers, body })
    }
}

/// Headers from names and values; panics on those that HTTP does not allow.
pub(super) fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pairs = pairs.iter().map(|&(name, value)| {
        let name = HeaderName::try_from(name).expect("a header's name");
        (name, HeaderValue::try_from(value).expect("a header's value"))
    });
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name, value);
    }
    map
}

fn error(answer: &RawAnswer) -> RpcError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Connect {
        code: String,
        message: String,
    }
    let Connect { code, message } = serde_json::from_slice(&answer.body).unwrap_or_default();
    let message = if code.is_empty() && message.is_empty() {
        String::from_utf8_lossy(&answer.body).into_owned()
    } else {
        message
    };
    RpcError { status: Some(answer.status), code, message }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}
