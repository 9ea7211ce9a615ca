//! Answers, framed as Go's server frames them.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// A time as the header `Date` tells it; `None` before 1970 and after 9999.
pub(super) fn http_date(time: SystemTime) -> Option<HeaderValue> {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    const YEAR_10000: u64 = 253_402_300_800;
    let secs = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let days = Some(secs).filter(|secs| *secs < YEAR_10000)? / (24 * 60 * 60);
    let day_name = DAYS[(days % 7) as usize];
    let told = humantime::format_rfc3339_seconds(time).to_string();
    let (date, clock) = told.trim_end_matches('Z').split_once('T')?;
    let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
    HeaderValue::try_from(format!("{day_name}, {day} {month} {year} {clock} GMT")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        let date = |secs| http_date(UNIX_EPOCH + std::time::Duration::from_secs(secs));
        assert_eq!(date(0).unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(date(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(253_402_300_799).unwrap(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(date(253_402_300_800), None);
    }
}
