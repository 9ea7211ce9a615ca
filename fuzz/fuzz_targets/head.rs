//! What the head of a request may do. Whatever a reader behind the broker makes of its path, it is no call
//! that the broker decides, and nothing that it does not pass on, unless the broker said so. Of its headers,
//! those that are unwanted are gone and all others are as they were. The client's address is the peer's, or
//! one that only trusted proxies stand behind.
//!
//! The first byte chooses the peer, the second what is passed on; the first line is the request's
//! target, each other one a header.
#![no_main]

use std::net::IpAddr;

use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Uri};
use libfuzzer_sys::fuzz_target;
use runner_broker::broker::forwarded::{client_address, is_within};
use runner_broker::config::{Group, Groups, Pass};
use runner_broker::proxy::{Class, classify, clean_request, clean_response, dialled, may_pass};

const PEERS: [&str; 4] = ["10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "192.0.2.1"];

fuzz_target!(|input: &[u8]| {
    let [peer, groups, text @ ..] = input else { return };
    let mut lines = text.split(|byte| *byte == b'\n');
    let given = Group::ALL.into_iter().filter(|group| groups >> *group as u8 & 1 == 1);
    let target = lines.next().unwrap_or_default();
    if let Ok(target) = Uri::try_from(target) {
        path_is_told_apart(target.path(), given.fold(Groups::NONE, Groups::with));
    }

    let mut headers = HeaderMap::new();
    for line in lines {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default().trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers_are_clean(&headers);
    client_is_told(PEERS[usize::from(*peer) % PEERS.len()], &headers);
});

fn path_is_told_apart(path: &str, groups: Groups) {
    let passes = may_pass(Pass::Only(groups), path).is_ok();
    assert!(may_pass(Pass::All, path).is_ok());
    assert!(!passes || may_pass(Pass::Only(Groups::EVERY), path).is_ok(), "more lets less through");
    let readings = readings(path);
    for base in ["", "/git"] {
        let class = classify(path, base);
        // Spelled as runners do, or by nobody.
        if let Class::Plain(route) = class
            && route.is_decided()
        {
            let name = path.rsplit('/').next().unwrap_or_default();
            assert_eq!(path, format!("{base}/api/actions/runner.v1.RunnerService/{name}"));
            continue;
        }
        let call = readings.iter().flat_map(|seen| seen.windows(2)).find(|two| {
            two[0] == "runner.v1.RunnerService"
                && ["Register", "Declare", "Deregister"].contains(&two[1].as_str())
        });
        assert!(call.is_none() || matches!(class, Class::Disguised(_)), "{path} is {readings:?}");
    }
    for seen in readings.iter().filter(|_| passes) {
        // Gitea itself takes several slashes for one.
        let seen: Vec<_> =
            seen.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        assert!(is_for(&seen, groups), "{path} is {seen:?}");
    }
}

/// What proxies, and Gitea's router, may read in a path.
fn readings(path: &str) -> Vec<Vec<String>> {
    let mut readings = Vec::new();
    let mut bytes = path.as_bytes().to_vec();
    // Each on the way may unescape it once more.
    for _ in 0..4 {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let may = |has: bool| if has { &[false, true][..] } else { &[false] };
        for parameters in may(text.contains(';')) {
            for joins in may(text.contains("//")) {
                for dots in may(text.contains("/.")) {
                    for backslash in may(text.contains('\\')) {
                        readings.push(read(&text, *parameters, *joins, *dots, *backslash));
                    }
                }
            }
        }
        let mut next = unescaped(&bytes);
        // Where it came escaped, it may begin a query for the next one.
        let end = next.iter().position(|byte| b"?#\0".contains(byte)).unwrap_or(next.len());
        next.truncate(end);
        if next == bytes {
            break;
        }
        bytes = next;
    }
    readings
}

/// By one who takes `;` for the beginning of a parameter, several slashes for one, resolves dots, takes a
/// backslash for a slash, or does not.
fn read(path: &str, parameters: bool, joins: bool, dots: bool, backslash: bool) -> Vec<String> {
    let path = path.trim_end_matches('/');
    let mut read: Vec<String> = Vec::new();
    for segment in path.split(|c| c == '/' || (backslash && c == '\\')).skip(1) {
        let end = if parameters { segment.find(';') } else { None };
        match &segment[..end.unwrap_or(segment.len())] {
            "" if joins => {}
            "." if dots => {}
            ".." if dots => drop(read.pop()),
            name => read.push(name.to_owned()),
        }
    }
    read
}

fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let hex = path.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex
            .filter(|hex| path[at] == b'%' && !hex.starts_with('+'))
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(byte.unwrap_or(path[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

/// Whether this belongs to one of the groups, or to the runner itself.
fn is_for(path: &[&str], groups: Groups) -> bool {
    let group = match path {
        ["api", "actions", "runner.v1.RunnerService" | "ping.v1.PingService", ..] => return true,
        ["api", "v1", ..] => Group::Api,
        ["api", "actions_pipeline", ..] => Group::Artifacts,
        ["twirp", "github.actions.results.api.v1.ArtifactService", ..] => Group::Artifacts,
        ["twirp", "github.actions.results.api.v1.CacheService", ..] => Group::Cache,
        ["_apis", "artifactcache", ..] => Group::Cache,
        ["api", "actions", "_apis", ..] => Group::Oidc,
        [".well-known", "openid-configuration", ..] | ["login", "oauth", "keys", ..] => Group::Oidc,
        ["api", "packages", ..] | ["v2", ..] => Group::Packages,
        ["api" | "user" | "login" | "admin" | "-", ..] => return false,
        [_, _, "info", "lfs", ..] => Group::Lfs,
        [_, _, "info", "refs"] | [_, _, "HEAD" | "git-upload-pack" | "git-receive-pack"] => {
            Group::Git
        }
        [_, _, "objects", ..] => Group::Git,
        _ => return false,
    };
    groups.has(group)
}

/// Of each connection alone, and never another one's business.
const HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
];

/// A proxy's word, or the client's to the broker.
const WORD: [&str; 7] =
    ["host", "expect", "forwarded", "x-forwarded", "x-real-ip", "x-original-url", "x-rewrite-url"];

fn headers_are_clean(before: &HeaderMap) {
    let mut request = before.clone();
    clean_request(&mut request);
    let mut response = before.clone();
    clean_response(&mut response);
    let named: Vec<String> = before
        .get_all("connection")
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name).trim_matches([' ', '\t']).to_lowercase())
        .collect();
    for name in before.keys() {
        let text = name.as_str();
        let hop = HOP.contains(&text)
            || (named.iter().any(|one| one == text) && text != "content-length");
        let word = WORD.contains(&text)
            || text.starts_with("x-forwarded-")
            || text.starts_with("x-webauth-");
        for (after, gone) in [(&request, hop || word), (&response, hop)] {
            let (was, is) = (before.get_all(name).iter(), after.get_all(name).iter());
            if gone { assert_eq!(is.count(), 0, "{text}") } else { assert!(was.eq(is), "{text}") }
        }
    }
    assert!(request.keys().chain(response.keys()).all(|name| before.contains_key(name)));
    if let Some(host) = dialled(before) {
        assert_eq!(before.get("host").map(HeaderValue::as_bytes), Some(host.as_bytes()));
        assert!(!host.contains(['/', '?', '#', ' ']), "{host}");
    }
}

fn client_is_told(peer: &str, headers: &HeaderMap) {
    let peer: IpAddr = peer.parse().expect("an address");
    let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().expect("a network"));
    let lines: Vec<&[u8]> =
        headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes).collect();
    let client = client_address(peer, lines.iter().copied(), &trusted);
    assert_eq!(client, client.to_canonical());

    // What one entry says is told here by asking for it alone, from a peer that is trusted.
    let alone =
        |entry| client_address(PEERS[0].parse().expect("one"), [entry].into_iter(), &trusted);
    let mut reached = vec![peer.to_canonical()];
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b',')) {
        if !reached.last().is_some_and(|last| is_within(*last, &trusted)) {
            break;
        }
        reached.push(alone(entry));
    }
    assert!(reached.contains(&client), "{client} is further left than {reached:?}");

    if !is_within(client, &trusted) {
        for invented in [&b"198.51.100.9"[..], b"10.0.0.9", b"junk", b"\xff", b""] {
            let longer = [invented].into_iter().chain(lines.iter().copied());
            assert_eq!(client_address(peer, longer, &trusted), client);
        }
    }
}
