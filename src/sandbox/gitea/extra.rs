//! Things to pass through a proxy: bodies up and down, an echo, a slow answer.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

use super::reply::{Reply, empty, not_found, query, reply};
use crate::sandbox::codec;

/// Longer than a socket's buffer is wide, and a multiple of the pattern's length.
const PIECE: usize = 251 * 256;

/// Whether a normalized path is answered here; the bodies of these requests stream.
pub(super) fn is_streamed(path: &str) -> bool {
    ["/download/", "/echo"].iter().any(|prefix| path.starts_with(prefix))
        || ["/upload", "/slow"].contains(&path)
}

/// Answers a streamed request; fails where its body breaks off.
pub(super) async fn answer(head: &Parts, path: &str, body: Incoming) -> io::Result<Reply> {
    match (head.method.clone(), path) {
        (Method::GET | Method::HEAD, path) if path.starts_with("/download/") => {
            let bytes = path["/download/".len()..].parse();
            Ok(bytes.map_or_else(|_| not_found(), |bytes| download(head, bytes)))
        }
        (Method::PUT | Method::POST, "/upload") => {
            let (bytes, sha256) = swallow(body).await?;
            let seen = json!({ "bytes": bytes, "sha256": sha256, "headers": headers(head) });
            Ok(json_reply(&seen))
        }
        (Method::GET, "/slow") => {
            let pause = query(head, "ms").and_then(|ms| ms.parse().ok()).unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok(reply(StatusCode::OK, "text/plain; charset=utf-8", "slow\n"))
        }
        (_, path) if path.starts_with("/echo") => {
            let (bytes, _) = swallow(body).await?;
            Ok(json_reply(&json!({
                "method": head.method.as_str(),
                "uri": head.uri.to_string(),
                "version": format!("{:?}", head.version),
                "headers": headers(head),
                "body_bytes": bytes,
            })))
        }
        _ => Ok(empty(StatusCode::METHOD_NOT_ALLOWED)),
    }
}

/// SHA-256, in hexadecimal digits, of what `/download/{bytes}` answers.
#[must_use]
pub fn download_sha256(bytes: u64) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    let piece = piece();
    let mut left = bytes;
    while left > 0 {
        let next = left.min(PIECE as u64) as usize;
        context.update(&piece[..next]);
        left -= next as u64;
    }
    hex(context.finish())
}

fn download(head: &Parts, bytes: u64) -> Reply {
    let piece = piece();
    let pieces = stream::unfold(bytes, move |left| {
        let next = left.min(PIECE as u64);
        let piece = piece.slice(..next as usize);
        async move { (next > 0).then(|| (Ok::<_, Infallible>(Frame::data(piece)), left - next)) }
    });
    let body = StreamBody::new(pieces).map_err(|never| match never {});
    let mut reply = Reply::new(body.boxed_unsync());
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if query(head, "chunked").is_none() {
        headers.insert(header::CONTENT_LENGTH, bytes.into());
    }
    reply
}

/// The bytes 0 to 250 over and over, so that a lost or repeated piece is seen.
fn piece() -> Bytes {
    (0..=250).cycle().take(PIECE).collect()
}

async fn swallow(mut body: Incoming) -> io::Result<(u64, String)> {
    let mut bytes = 0;
    let mut context = digest::Context::new(&digest::SHA256);
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(io::Error::other)?.data_ref() {
            bytes += data.len() as u64;
            context.update(data);
        }
    }
    Ok((bytes, hex(context.finish())))
}

/// Name and value of each, in the order of arrival for those of one name.
fn headers(head: &Parts) -> Value {
    let pair = |(name, value): (&header::HeaderName, &HeaderValue)| {
        json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())])
    };
    head.headers.iter().map(pair).collect()
}

fn json_reply(value: &Value) -> Reply {
    reply(StatusCode::OK, "application/json;charset=utf-8", codec::json(value))
}

fn hex(digest: digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
