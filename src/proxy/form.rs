//! What can be read in two ways is refused before anything else is asked of it: two servers in a row must
//! never differ on where a request ends, for whom it is or whose it is.
//!
//! The library below has refused already what is no HTTP/1.1 at all, different lengths and an encoding other
//! than `chunked` at the end. Where a length stands beside `chunked`, it has dropped the length and closes
//! the connection after the answer, as RFC 9112 (6.1) has it.

use hyper::header::{ALLOW, CONNECTION, HeaderValue, TRANSFER_ENCODING};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};

use super::body::ProxyBody;
use super::service::refuse;
use crate::connect::{Code, ConnectError};

/// The answer to a request that is not taken, however it is meant. Its connection ends with it: what follows
/// may be a part of what was not understood.
pub(super) fn refusal<B>(request: &Request<B>) -> Option<Response<ProxyBody>> {
    let error = check(request).err()?;
    let mut response = refuse(error);
    if request.method() == Method::TRACE {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        response.headers_mut().insert(ALLOW, allowed);
    }
    // HTTP/2 knows no such header, and frames its requests by itself.
    if request.version() <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Some(response)
}

fn check<B>(request: &Request<B>) -> Result<(), ConnectError> {
    let (uri, headers, method) = (request.uri(), request.headers(), request.method());
    if method == Method::CONNECT {
        return unknown("the broker is no forward proxy: dial it as you would dial Gitea");
    }
    // It would show the runner what the broker puts in the place of its credentials.
    if method == Method::TRACE {
        return unknown("a request is not shown to who sent it: use another method than TRACE");
    }
    let is_star = uri.path() == "*" && method == Method::OPTIONS;
    if !uri.path().starts_with('/') && !is_star {
        return wrong("the request has no path: dial the broker as you would dial Gitea");
    }
    if uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return wrong("the broker takes requests for http and https only");
    }
    if uri.authority().is_some_and(|authority| !is_host(authority.as_str().as_bytes())) {
        return wrong(
            "the request's target names a user, or what is no host with an optional port",
        );
    }
    let seen = look_at(headers)?;
    match seen.host {
        Some(host) if is_host(host.as_bytes()) => {}
        Some(_) => return wrong("the header Host is no host with an optional port"),
        None if request.version() < Version::HTTP_11 => {}
        None => return wrong("the request has no header Host: HTTP/1.1 needs one"),
    }
    if seen.encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return unknown(NOT_CHUNKED);
    }
    // Some databases take a letter with an accent for the one without, so none may have one.
    if seen.uuid.is_some_and(|uuid| !is_uuid(uuid.as_bytes())) {
        return wrong(
            "the header X-Runner-Uuid has what no uuid has: take it from the .runner file",
        );
    }
    Ok(())
}

const NOT_CHUNKED: &str =
    "send the body with Transfer-Encoding: chunked and nothing else, or sized";

/// What is looked at of a request's headers.
#[derive(Default)]
struct Seen<'h> {
    host: Option<&'h HeaderValue>,
    encoding: Option<&'h HeaderValue>,
    uuid: Option<&'h HeaderValue>,
}

/// Each may be there once. One pass is cheaper than a look-up of each.
fn look_at(headers: &HeaderMap) -> Result<Seen<'_>, ConnectError> {
    let mut seen = Seen::default();
    let mut token = None;
    for (name, value) in headers {
        let place = match name.as_str() {
            "host" => &mut seen.host,
            "transfer-encoding" => &mut seen.encoding,
            "x-runner-uuid" => &mut seen.uuid,
            "x-runner-token" => &mut token,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return Err(match *name == TRANSFER_ENCODING {
                true => ConnectError::new(Code::Unimplemented, NOT_CHUNKED),
                false => ConnectError::new(
                    Code::InvalidArgument,
                    format!("the header {name} is there twice: send it once"),
                ),
            });
        }
    }
    Ok(seen)
}

/// A name or an address, and perhaps a port. An empty one is what HTTP/1.1 has for "no host".
fn is_host(host: &[u8]) -> bool {
    let split = match host.first() {
        Some(b'[') => host.iter().position(|&byte| byte == b']').map_or(0, |end| end + 1),
        _ => host.iter().position(|&byte| byte == b':').unwrap_or(host.len()),
    };
    let (name, port) = host.split_at(split);
    let is_name = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b'[' | b']' | b':')
    };
    let is_port = |port: &[u8]| port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit);
    name.iter().all(is_name) && (port.is_empty() || is_port(port))
}

fn is_uuid(uuid: &[u8]) -> bool {
    uuid.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn wrong(why: impl Into<String>) -> Result<(), ConnectError> {
    Err(ConnectError::new(Code::InvalidArgument, why))
}

fn unknown(why: &str) -> Result<(), ConnectError> {
    Err(ConnectError::new(Code::Unimplemented, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for good in ["", "broker", "broker:8080", "a_b.c-d", "[::1]", "[fe80::1%25eth0]:80", "b:"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in ["a b", "a,b", "u@b", "b/", "b:x", "b:1:2", "[::1", "[::1]x", "b?x", "\u{f6}"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
