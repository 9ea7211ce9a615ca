//! The same over HTTP/2, which the broker turns into HTTP/1.1 for Gitea: frames and headers by hand.

use rustls::pki_types::CertificateDer;

use super::Stage;
use super::frames::Frames;
use crate::support::Site;

/// A broker that speaks TLS.
pub(crate) struct Secure {
    pub(crate) stage: Stage,
    root: CertificateDer<'static>,
}

impl Secure {
    pub(crate) async fn set() -> Self {
        Self::set_with(|site| site).await
    }

    pub(crate) async fn set_with(more: impl FnOnce(Site) -> Site) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["broker".to_owned()]).unwrap();
        let stage = Stage::set_with(|site| {
            std::fs::write(site.path("cert.pem"), made.cert.pem()).unwrap();
            site.write_secret("key.pem", &made.signing_key.serialize_pem());
            let [cert, key] = ["cert.pem", "key.pem"].map(|name| site.path(name));
            let site = site.set("listen.tls.cert", cert.to_str().unwrap());
            more(site.set("listen.tls.key", key.to_str().unwrap()))
        });
        Self { stage: stage.await, root: made.cert.der().clone() }
    }

    pub(crate) async fn dial(&self, settings: &[(u16, u32)]) -> Frames {
        let address = self.stage.broker.url.strip_prefix("https://").unwrap();
        Frames::dial(address, &self.root, settings).await
    }

    /// Whether another client is served.
    pub(crate) async fn serves_others(&self) {
        let mut other = self.dial(&[]).await;
        let stream = other.ask(&get("/other"), None).await;
        assert_eq!(other.answer(stream).await, "200 GET /other");
    }
}

/// The headers of a GET as they should be.
pub(crate) fn get(path: &str) -> [(&'static str, &str); 4] {
    [(":method", "GET"), (":scheme", "https"), (":authority", "broker"), (":path", path)]
}

/// Headers and a body, what the client gets and what Gitea sees.
pub(crate) struct Case<'c> {
    pub(crate) name: &'static str,
    pub(crate) headers: Vec<(&'c str, &'c str)>,
    pub(crate) body: Option<&'c str>,
    pub(crate) gets: &'static str,
    pub(crate) seen: &'static [&'static str],
}

/// What must not go through: the stream is reset, and nothing arrives.
fn refused<'c>(name: &'static str, headers: &[(&'c str, &'c str)]) -> Case<'c> {
    Case { name, headers: headers.to_vec(), body: None, gets: "reset protocol_error", seen: &[] }
}

/// The same, and the whole connection ends: no library writes such headers.
fn ended<'c>(name: &'static str, headers: &[(&'c str, &'c str)]) -> Case<'c> {
    Case { gets: "goaway protocol_error", ..refused(name, headers) }
}

/// The headers of a GET with some more.
fn with<'c>(more: &[(&'c str, &'c str)]) -> Vec<(&'c str, &'c str)> {
    [&get("/a")[..], more].concat()
}

/// The headers of a GET with one of them otherwise.
fn but<'c>(name: &'c str, value: &'c str) -> Vec<(&'c str, &'c str)> {
    get("/a").into_iter().map(|one| if one.0 == name { (name, value) } else { one }).collect()
}

/// The headers of a GET without one of them.
fn without(name: &str) -> Vec<(&'static str, &'static str)> {
    get("/a").into_iter().filter(|one| one.0 != name).collect()
}

/// Plays each on a connection of its own, and tells at once what is not as it says.
pub(crate) async fn play(cases: Vec<Case<'_>>) {
    let secure = Secure::set().await;
    let mut wrong = String::new();
    for Case { name, headers, body, gets, seen } in cases {
        let mut client = secure.dial(&[]).await;
        let stream = client.ask(&headers, body).await;
        let got = client.answer(stream).await;
        secure.serves_others().await;
        let (mut arrived, odd) = secure.stage.gitea.take().await;
        arrived.retain(|one| one != "GET /other");
        if got != gets || arrived != seen || !odd.is_empty() {
            wrong += &format!(
                "{name}\n  gets {got:?} for {gets:?}\n  seen {arrived:?} for {seen:?}, {odd:?}\n"
            );
        }
    }
    assert!(wrong.is_empty(), "not so, but so:\n{wrong}");
}

#[tokio::test]
async fn pseudo_headers_are_all_there_once_and_first() {
    let last = [&[("x-a", "1")], &get("/a")[..]].concat();
    let bad_request =
        |name, headers| Case { name, headers, body: None, gets: "400 invalid_argument", seen: &[] };
    let ok =
        |name, headers| Case { name, headers, body: None, gets: "200 GET /a", seen: &["GET /a"] };
    play(vec![
        ok("plain", with(&[])),
        ok("in another order", get("/a").into_iter().rev().collect()),
        refused("after a header", &last),
        refused("two methods", &with(&[(":method", "POST")])),
        refused("two paths", &with(&[(":path", "/b")])),
        refused("two authorities", &with(&[(":authority", "evil")])),
        refused("two schemes", &with(&[(":scheme", "http")])),
        refused("an answer's", &with(&[(":status", "200")])),
        ended("an unknown one", &with(&[(":other", "1")])),
        refused("a protocol without CONNECT", &with(&[(":protocol", "websocket")])),
        refused("no method", &without(":method")),
        refused("no scheme", &without(":scheme")),
        refused("no path", &without(":path")),
        refused("an empty path", &but(":path", "")),
        ended("an empty method", &but(":method", "")),
        refused("an empty authority", &but(":authority", "")),
        ended("a method with a space", &but(":method", "GET /b HTTP/1.1")),
        refused("a path with a space", &but(":path", "/a HTTP/1.1")),
        refused("an authority with a path", &but(":authority", "broker/a")),
        refused("a scheme with a line", &but(":scheme", "http\r\nx: y")),
        refused("a path without a slash", &but(":path", "a")),
        refused("a URL as a path", &but(":path", "http://evil/a")),
        bad_request("a star as a path", but(":path", "*")),
        bad_request("no authority", without(":authority")),
        bad_request("an authority with a user", but(":authority", "user@broker")),
        bad_request("another scheme", but(":scheme", "ftp")),
        ok("a fragment goes", but(":path", "/a#b")),
        ok("http for https", but(":scheme", "http")),
        ok("another authority is not passed on", but(":authority", "evil.example")),
        ok(
            "Host in place of the authority",
            [without(":authority"), vec![("host", "broker")]].concat(),
        ),
        ok("both alike", with(&[("host", "broker")])),
        bad_request("both and not alike", with(&[("host", "evil")])),
        bad_request(
            "Host twice",
            [without(":authority"), vec![("host", "a"), ("host", "b")]].concat(),
        ),
        Case {
            name: "CONNECT",
            headers: vec![(":method", "CONNECT"), (":authority", "gitea:3000")],
            body: None,
            gets: "501 unimplemented",
            seen: &[],
        },
        refused(
            "CONNECT for a websocket",
            &[&but(":method", "CONNECT")[..], &[(":protocol", "websocket")]].concat(),
        ),
        Case {
            name: "TRACE",
            headers: but(":method", "TRACE"),
            body: None,
            gets: "405 unimplemented",
            seen: &[],
        },
    ])
    .await;
}

#[tokio::test]
async fn no_header_becomes_another_in_http_1() {
    let bad_request =
        |name, headers| Case { name, headers, body: None, gets: "400 invalid_argument", seen: &[] };
    let ok =
        |name, headers| Case { name, headers, body: None, gets: "200 GET /a", seen: &["GET /a"] };
    play(vec![
        ended("capitals", &with(&[("X-A", "1")])),
        refused("transfer-encoding", &with(&[("transfer-encoding", "chunked")])),
        refused("connection", &with(&[("connection", "x-runner-token")])),
        refused("keep-alive", &with(&[("keep-alive", "5")])),
        refused("proxy-connection", &with(&[("proxy-connection", "close")])),
        refused("upgrade", &with(&[("upgrade", "h2c")])),
        refused("te with more than trailers", &with(&[("te", "gzip")])),
        ok("te with trailers is not passed on", with(&[("te", "trailers")])),
        ended("a line in a value", &with(&[("x-a", "1\r\nx-b: 2")])),
        ended("CR in a value", &with(&[("x-a", "1\r2")])),
        ended("LF in a value", &with(&[("x-a", "1\n2")])),
        ended("NUL in a value", &with(&[("x-a", "1\x002")])),
        ended("a line in a name", &with(&[("x-a: 1\r\nx-b", "2")])),
        ended("a colon in a name", &with(&[("x-a:", "2")])),
        ended("a space in a name", &with(&[("x a", "2")])),
        ended("an empty name", &with(&[("", "2")])),
        refused("a line in a path", &but(":path", "/a HTTP/1.1\r\nhost: evil\r\n\r\nGET /b")),
        refused("LF in a path", &but(":path", "/a\nb")),
        refused("NUL in a path", &but(":path", "/a\x00b")),
        ended("a line in a method", &but(":method", "GET / HTTP/1.1\r\n\r\nGET")),
        refused("a line in an authority", &but(":authority", "broker\r\nx: y")),
        bad_request("two uuids", with(&[("x-runner-uuid", "a"), ("x-runner-uuid", "b")])),
        bad_request("two tokens", with(&[("x-runner-token", "a"), ("x-runner-token", "b")])),
        ok(
            "words of proxies are not passed on",
            with(&[
                ("x-forwarded-for", "1.2.3.4"),
                ("x-real-ip", "1"),
                ("forwarded", "for=1"),
                ("x-webauth-user", "admin"),
                ("expect", "100-continue"),
            ]),
        ),
        ok("cookies in pieces", with(&[("cookie", "a=1"), ("cookie", "b=2")])),
    ])
    .await;
}
