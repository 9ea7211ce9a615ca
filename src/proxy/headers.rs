//! What passes of the headers, either way.
//!
//! A request carries the runner's own authority and no more: Gitea trusts some headers from its
//! proxies, so those of clients are dropped.

use hyper::HeaderMap;
use hyper::header::{self, HeaderName};

/// Takes out of a request what is the client's word to the broker, or would be a proxy's word to Gitea.
pub fn clean_request(headers: &mut HeaderMap) {
    // The client library writes Host for the upstream, and does not do `Expect: 100-continue`. Host is in
    // every request: it goes without a detour.
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    clean(headers, |name| is_hop_by_hop(name) || is_proxys_word(name));
}

/// Takes out of an answer what is Gitea's word to the broker.
pub fn clean_response(headers: &mut HeaderMap) {
    // Chunks win over a length (RFC 9112, 6.3), and the client would be cut off at it. A length that is told
    // twice was compared by the library below, which tells it once.
    if headers.contains_key(header::TRANSFER_ENCODING) || tells_length_twice(headers) {
        headers.remove(header::CONTENT_LENGTH);
    }
    clean(headers, is_hop_by_hop);
}

/// Host and port at which the client dialled the broker, where it tells them.
pub fn dialled(headers: &HeaderMap) -> Option<String> {
    headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .filter(|host| host.parse::<hyper::http::uri::Authority>().is_ok())
        .map(str::to_owned)
}

fn clean(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    // Most requests have none of them: nothing is allocated then.
    let mut doomed: Vec<HeaderName> =
        headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for named in headers.get_all(header::CONNECTION) {
        for name in named.as_bytes().split(|byte| *byte == b',') {
            // The framing is the broker's own business; a client cannot have it dropped.
            match HeaderName::from_bytes(name.trim_ascii()) {
                Ok(name) if name != header::CONTENT_LENGTH => doomed.push(name),
                _ => {}
            }
        }
    }
    for name in doomed {
        headers.remove(name);
    }
}

fn tells_length_twice(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let first = lengths.next();
    lengths.next().is_some() || first.is_some_and(|length| length.as_bytes().contains(&b','))
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "transfer-encoding"
            | "upgrade"
            | "te"
            | "trailer"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
    )
}

/// Gitea takes the client's address, scheme and even the signed-in user from these.
fn is_proxys_word(name: &HeaderName) -> bool {
    let name = name.as_str();
    match name.strip_prefix("x-") {
        Some(name) => {
            name.starts_with("forwarded-")
                || name.starts_with("webauth-")
                || matches!(name, "forwarded" | "real-ip" | "original-url" | "rewrite-url")
        }
        None => name == "forwarded",
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        headers
    }

    #[test]
    fn a_client_cannot_speak_as_a_proxy() {
        let mut headers = map(&[
            ("host", "evil"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("X-Forwarded-Host", "evil"),
            ("x-real-ip", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
            ("x-webauth-user", "admin"),
            ("x-webauth-email", "admin@example.org"),
            ("expect", "100-continue"),
            ("x-runner-uuid", "u"),
            ("x-runner-token", "t"),
            ("authorization", "token abc"),
            ("x-gitea-something", "kept"),
        ]);
        clean_request(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "x-gitea-something", "x-runner-token", "x-runner-uuid"]);
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_in_connection_go_both_ways() {
        let pairs = [
            ("connection", "close, X-Secret-Hop"),
            ("connection", "x-other-hop ,, b@d"),
            ("keep-alive", "timeout=5"),
            ("x-secret-hop", "1"),
            ("x-other-hop", "1"),
            ("te", "trailers"),
            ("trailer", "x-sum"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("proxy-authorization", "Basic eDp5"),
            ("x-gitea-actions-capabilities", "a"),
        ];
        let mut request = map(&pairs);
        clean_request(&mut request);
        assert_eq!(request, map(&[("x-gitea-actions-capabilities", "a")]));
        let mut response = map(&pairs);
        clean_response(&mut response);
        assert_eq!(response, map(&[("x-gitea-actions-capabilities", "a")]));
    }

    #[test]
    fn connection_cannot_name_the_framing_away() {
        let mut headers = map(&[("connection", "content-length"), ("content-length", "3")]);
        clean_request(&mut headers);
        assert_eq!(headers, map(&[("content-length", "3")]));
    }

    #[test]
    fn what_is_no_text_in_connection_hides_no_name() {
        let mut headers = map(&[("x-hop", "1"), ("x-other", "1")]);
        let named = HeaderValue::from_bytes(b"x-hop, \xff, X-Other").unwrap();
        headers.append(header::CONNECTION, named);
        clean_request(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }

    proptest! {
        #[test]
        fn what_is_unwanted_is_gone_and_the_rest_is_as_it_was(
            pairs in proptest::collection::vec(("[a-z][a-z-]{0,20}", "[ -~]{0,20}"), 0..20)
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let before = map(&pairs);
            let mut after = before.clone();
            clean_request(&mut after);
            for name in before.keys() {
                let kept: Vec<_> = after.get_all(name).iter().collect();
                let was: Vec<_> = before.get_all(name).iter().collect();
                prop_assert!(kept.is_empty() || kept == was);
                prop_assert!(kept.is_empty() || !name.as_str().starts_with("x-forwarded-"));
            }
        }
    }
}
