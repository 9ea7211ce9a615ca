//! Whose word a header is: Host, what Connection names, credentials, the words of proxies.

use super::{Stage, case};

const PLAIN: &[&str] = &["200 GET /a", "open"];
const REFUSED: &[&str] = &["400 invalid_argument", "closed"];
const SEEN: &[&str] = &["GET /a"];

fn get(lines: &str) -> String {
    format!("GET /a HTTP/1.1\r\n{lines}\r\n\r\n")
}

#[tokio::test]
async fn there_is_one_host_and_it_is_one() {
    let stage = Stage::set().await;
    let mut cases = vec![
        case("HTTP/1.0 needs none", "GET /a HTTP/1.0\r\n\r\n", &["200 GET /a", "closed"], SEEN),
        case(
            "HTTP/1.0 may have one",
            "GET /a HTTP/1.0\r\nHost: b\r\n\r\n",
            &["200 GET /a", "closed"],
            SEEN,
        ),
        case("a port", get("Host: broker:8080"), PLAIN, SEEN),
        case("an address", get("Host: [::1]:8080"), PLAIN, SEEN),
        case("an empty one is one", get("Host:"), PLAIN, SEEN),
        case("of a foreign place it is not passed on", get("Host: evil.example"), PLAIN, SEEN),
    ];
    for (name, lines) in [
        ("none", "X-A: 1"),
        ("two", "Host: broker\r\nHost: evil"),
        ("two that are equal", "Host: broker\r\nHost: broker"),
        ("two with others between", "Host: broker\r\nX-A: 1\r\nhost: evil"),
        ("a list", "Host: broker, evil"),
        ("two words", "Host: broker evil"),
        ("userinfo", "Host: user@broker"),
        ("a path", "Host: broker/a"),
        ("a URL", "Host: http://broker"),
        ("a query", "Host: broker?x"),
        ("a port that is none", "Host: broker:x"),
        ("letters beyond ASCII", "Host: br\u{f6}ker"),
    ] {
        cases.push(case(name, get(lines), REFUSED, &[]));
    }
    cases.push(case(
        "two in HTTP/1.0",
        "GET /a HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        REFUSED,
        &[],
    ));
    cases.push(case(
        "none, in absolute form",
        "GET http://broker/a HTTP/1.1\r\n\r\n",
        REFUSED,
        &[],
    ));
    stage.play(cases).await;
}

#[tokio::test]
async fn connection_names_nothing_away_that_frames_or_routes() {
    let stage = Stage::set().await;
    let post = |lines: &str| format!("POST /a HTTP/1.1\r\nHost: broker\r\n{lines}\r\n\r\n");
    let hello: &[&str] = &["200 POST /a", "open"];
    stage
        .play(vec![
            case("Host", get("Host: broker\r\nConnection: host"), PLAIN, SEEN),
            case("Content-Length", post("Connection: content-length\r\nContent-Length: 5\r\n\r\nhello").trim_end(), hello, &["POST /a hello"]),
            case("Transfer-Encoding", post("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0"), hello, &["POST /a hello"]),
            case("Connection itself", get("Host: broker\r\nConnection: connection, close"), &["200 GET /a", "closed"], SEEN),
            case("nonsense", get("Host: broker\r\nConnection: , ;, b@d, \u{e4}"), PLAIN, SEEN),
            case("keep-alive after close", get("Host: broker\r\nConnection: close\r\nConnection: keep-alive"), &["200 GET /a", "closed"], SEEN),
            case("close after keep-alive", get("Host: broker\r\nConnection: keep-alive\r\nConnection: close"), &["200 GET /a", "closed"], SEEN),
        ])
        .await;
}

#[tokio::test]
async fn words_of_proxies_and_of_one_hop_do_not_pass() {
    let stage = Stage::set().await;
    // The recorder refuses each of them.
    let lines = concat!(
        "Host: broker\r\nForwarded: for=1.2.3.4\r\nX-Forwarded: 1\r\nX-Forwarded-For: 1.2.3.4\r\n",
        "x-forwarded-host: evil\r\nX-FORWARDED-PROTO: https\r\nX-Real-IP: 1.2.3.4\r\n",
        "X-WebAuth-User: admin\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\nTE: trailers\r\n",
        "Trailer: X-A\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: Basic eDp5\r\n",
        "Expect: 200-nonsense\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    );
    stage.play(vec![case("all of them", get(lines), PLAIN, SEEN)]).await;
}

#[tokio::test]
async fn credentials_are_told_once_and_plainly() {
    let stage = Stage::set().await;
    let mut cases = vec![
        case("once each", get("Host: b\r\nX-Runner-Uuid: 0aF-9\r\nX-Runner-Token: t"), PLAIN, SEEN),
        case(
            "named away, they do not pass",
            get(
                "Host: b\r\nConnection: x-runner-uuid, x-runner-token\r\nX-Runner-Uuid: u\r\nX-Runner-Token: t",
            ),
            PLAIN,
            SEEN,
        ),
    ];
    for (name, lines) in [
        ("two uuids", "X-Runner-Uuid: a\r\nX-Runner-Uuid: b\r\nX-Runner-Token: t"),
        ("two tokens", "X-Runner-Uuid: a\r\nX-Runner-Token: t\r\nx-runner-token: u"),
        ("a list of uuids", "X-Runner-Uuid: a, b\r\nX-Runner-Token: t"),
        // Databases may take it for the letter without its accent.
        ("a uuid beyond ASCII", "X-Runner-Uuid: \u{e1}\r\nX-Runner-Token: t"),
    ] {
        cases.push(case(name, get(&format!("Host: b\r\n{lines}")), REFUSED, &[]));
    }
    stage.play(cases).await;
}
