//! Answers, framed as Go's server frames them.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

/// An answer.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// Go's server sends longer answers chunked.
const SIZED_UP_TO: usize = 2048;

/// A plain answer with one body.
pub(super) fn reply(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Reply {
    let mut reply = bare(status, body.into());
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// An answer with no body.
pub(super) fn empty(status: StatusCode) -> Reply {
    bare(status, Bytes::new())
}

/// What Go's router answers for a path that it does not know.
pub(super) fn not_found() -> Reply {
    let text = "404 page not found\n";
    let mut reply = reply(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", text);
    let nosniff = HeaderValue::from_static("nosniff");
    reply.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    reply
}

/// A parameter of the query, as it was sent; empty where it has no value.
pub(super) fn query<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    let pairs = head.uri.query()?.split('&');
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// An answer with nothing but its body; Go's server sends long ones chunked.
pub(super) fn bare(status: StatusCode, body: Bytes) -> Reply {
    let body = if body.len() > SIZED_UP_TO {
        let one = stream::iter([Ok(Frame::data(body))]);
        StreamBody::new(one).boxed_unsync()
    } else {
        Full::new(body).map_err(|never| match never {}).boxed_unsync()
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
}
