//! What is passed on arrives as it was sent, and nothing else does.

use std::collections::HashSet;
use std::time::Duration;

use runner_broker::sandbox::gitea::{Effect, Options, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};

use crate::raw::Wire;
use crate::scripted::scripted;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site};

async fn started(options: Options) -> (StandInGitea, Site, Broker) {
    let gitea = StandInGitea::start(options).unwrap();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    (gitea, site, broker)
}

async fn joined(url: &str) -> Runner {
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
    StandInRunner::new(url).register(&options).await.unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn method_path_and_query_arrive_byte_for_byte() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    let mut connections = HashSet::new();
    for request in [
        "GET /",
        "GET /?",
        "GET /a?a=b&c",
        "GET /a%2Fb/%2e%2E/c%20d?x=%2F+%zz&&=",
        "GET /a/../b/./c//d///",
        "GET /acme/app.git/info/refs?service=git-upload-pack",
        "GET /%C3%A4?q=%C3%A4|{}^",
        "POST /acme/app.git/git-upload-pack",
        "PROPFIND /dav",
        "DELETE /api/packages/acme/generic/a/1/b;c=d:e@f!$&'()*+,=",
        "OPTIONS *",
        "get /lower",
    ] {
        client.say(format!("{request} HTTP/1.1\r\nHost: broker\r\n\r\n")).await;
        let (upstream, head) = gitea.asked().await;
        assert_eq!(head.request(), request);
        connections.insert(upstream.ports());
        gitea.answer(upstream, OK).await;
        assert_eq!(client.head().await.unwrap().status(), 200);
    }
    assert!(connections.len() <= 3, "connections to Gitea are used again: {connections:?}");
    client.say("GET http://elsewhere/absolute?x HTTP/1.1\r\nHost: elsewhere\r\n\r\n").await;
    let (_, head) = gitea.asked().await;
    assert_eq!(head.request(), "GET /absolute?x");
    assert_eq!(head.all("host"), [gitea.url.strip_prefix("http://").unwrap()]);
}

#[tokio::test]
async fn answers_come_back_as_gitea_gave_them() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    // Method, Gitea's answer after the status, its status, and the framing and body that arrive.
    let sized = ("Content-Length: 3\r\n\r\nabc", &["3"][..], "abc");
    let chunked =
        ("Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", &[][..], "abc");
    let empty = ("Content-Length: 0\r\n\r\n", &["0"][..], "");
    for (method, status, (answer, length, body)) in [
        ("GET", 200, sized),
        ("GET", 206, chunked),
        ("GET", 404, sized),
        ("POST", 500, chunked),
        ("GET", 502, empty),
        ("POST", 201, empty),
        ("GET", 302, sized),
        ("GET", 299, sized),
        ("GET", 599, empty),
        ("GET", 204, ("\r\n", &[][..], "")),
        ("GET", 304, ("ETag: \"a\"\r\n\r\n", &[][..], "")),
        ("HEAD", 200, ("Content-Length: 12345\r\n\r\n", &["12345"][..], "")),
        ("HEAD", 404, ("\r\n", &[][..], "")),
        ("HEAD", 200, ("Transfer-Encoding: chunked\r\n\r\n", &[][..], "")),
        // A trailer is not asked for, so it may go; the answer must end all the same.
        (
            "GET",
            200,
            (
                "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
                &[][..],
                "abc",
            ),
        ),
    ] {
        client.say(format!("{method} /x HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n")).await;
        let (upstream, _) = gitea.asked().await;
        let answer = format!("HTTP/1.1 {status} Some Reason\r\nX-A: 1\r\nx-a: 2\r\n{answer}");
        gitea.answer(upstream, &answer).await;
        let head = client.head().await.unwrap();
        let what = format!("{method} {status} {answer:?} {head:?}");
        assert_eq!(head.line, format!("HTTP/1.1 {status} Some Reason"), "{what}");
        assert_eq!(head.all("x-a"), ["1", "2"], "{what}");
        assert_eq!(head.all("content-length"), length, "{what}");
        if method != "HEAD" {
            assert_eq!(client.body(&head).await, body.as_bytes(), "{what}");
        }
    }
}

#[tokio::test]
async fn request_bodies_keep_their_framing() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    client.say("PUT /sized HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\n\r\nhello").await;
    let (mut upstream, head) = gitea.asked().await;
    assert_eq!(head.all("content-length"), ["5"], "{head:?}");
    assert!(head.all("transfer-encoding").is_empty(), "{head:?}");
    assert_eq!(upstream.body(&head).await, b"hello");
    gitea.answer(upstream, OK).await;
    client.head().await.unwrap();

    client
        .say("PATCH /chunked HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
        .await;
    let (mut upstream, head) = gitea.asked().await;
    assert_eq!(head.all("transfer-encoding"), ["chunked"], "{head:?}");
    assert!(head.all("content-length").is_empty(), "{head:?}");
    client.say("5\r\nhello\r\n").await;
    assert_eq!(upstream.bytes(10).await, b"5\r\nhello\r\n", "nothing is held back");
    client.say("0\r\nX-Sum: 1\r\n\r\n").await;
    assert_eq!(upstream.bytes(5).await, b"0\r\n\r\n");
    gitea.answer(upstream, OK).await;
    client.head().await.unwrap();

    // Nothing goes out before the client has its 100, and no 100 is needed from Gitea.
    let expecting =
        "PUT /e HTTP/1.1\r\nHost: b\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.say(expecting).await;
    assert_eq!(client.head().await.unwrap().status(), 100);
    let (mut upstream, head) = gitea.asked().await;
    assert!(head.all("expect").is_empty(), "{head:?}");
    client.say("hello").await;
    assert_eq!(upstream.body(&head).await, b"hello");
    upstream.say(OK).await;
    assert_eq!(client.head().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_upload_that_is_refused_early_gets_its_answer() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    client.say("PUT /big HTTP/1.1\r\nHost: b\r\nContent-Length: 100000000\r\n\r\n").await;
    let (mut upstream, _) = gitea.asked().await;
    upstream
        .say("HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
        .await;
    drop(upstream);
    // The client goes on sending, as it does not look for the answer yet.
    let piece = vec![0; 64 << 10];
    for _ in 0..50 {
        if client.try_say(&piece).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let head = client.head().await.expect("the answer, not a reset");
    assert_eq!(head.status(), 401);
    assert_eq!(client.body(&head).await, b"no");
}

#[tokio::test]
async fn headers_of_one_hop_and_words_of_proxies_are_stripped() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    client
        .say(concat!(
            "GET /x HTTP/1.1\r\nHost: evil\r\nConnection: keep-alive, X-Runner-Token\r\n",
            "Connection: x-other\r\nKeep-Alive: timeout=5\r\nX-Runner-Token: t\r\nX-Other: 1\r\n",
            "TE: trailers\r\nUpgrade: websocket\r\nProxy-Connection: keep-alive\r\n",
            "Proxy-Authorization: Basic eDp5\r\nX-Forwarded-For: 1.2.3.4\r\n",
            "X-Forwarded-Host: evil\r\nX-FORWARDED-PROTO: https\r\nX-Forwarded-Anything: 1\r\n",
            "Forwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-WebAuth-User: admin\r\n",
            "x-webauth-email: a@b\r\nX-Runner-Uuid: u\r\nAuthorization: token a\r\n",
            "X-Kept: 1\r\nX-Kept: 2\r\nCookie: a=b\r\nUser-Agent: \r\n\r\n",
        ))
        .await;
    let (mut upstream, head) = gitea.asked().await;
    let mut names: Vec<_> = head.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    names.sort_unstable();
    let host = format!("host: {}", gitea.url.strip_prefix("http://").unwrap());
    let expected = [
        "authorization: token a",
        "cookie: a=b",
        &host,
        "user-agent: ",
        "x-kept: 1",
        "x-kept: 2",
        "x-runner-uuid: u",
    ];
    assert_eq!(names, expected);

    upstream
        .say(concat!(
            "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=1\r\n",
            "Proxy-Authenticate: Basic\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n",
            "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nX-Forwarded-Kept: 1\r\n",
            "X-Gitea-Actions-Capabilities: cancelling\r\nContent-Length: 0\r\n\r\n",
        ))
        .await;
    let head = client.head().await.unwrap();
    let mut names: Vec<_> = head.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    names.sort_unstable();
    let expected = [
        "content-length: 0",
        "date: Thu, 01 Jan 1970 00:00:00 GMT",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "x-forwarded-kept: 1",
        "x-gitea-actions-capabilities: cancelling",
    ];
    assert_eq!(names, expected, "and the client's connection stays open");
    client.say("GET /y HTTP/1.1\r\nHost: b\r\n\r\n").await;
    gitea.asked().await;
}

#[tokio::test]
async fn declares_headers_reach_the_runner() {
    let capabilities = Some("cancelling".parse().unwrap());
    let (_gitea, _site, broker) = started(Options { capabilities, ..Options::default() }).await;
    let runner = joined(&broker.url).await;
    let (_, headers) = runner.declare_with_headers(&["host"]).await.unwrap();
    assert_eq!(headers["x-gitea-actions-capabilities"], "cancelling");
}

#[tokio::test]
async fn a_safe_request_survives_a_connection_that_gitea_closed() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    // Gitea's close crosses the request on its way.
    client.say("GET /safe?x HTTP/1.1\r\nHost: b\r\n\r\n").await;
    drop(gitea.asked().await);
    let (upstream, head) = gitea.asked().await;
    assert_eq!(head.request(), "GET /safe?x");
    gitea.answer(upstream, OK).await;
    assert_eq!(client.head().await.unwrap().status(), 200);

    // It is not tried for ever.
    client.say("GET /never HTTP/1.1\r\nHost: b\r\n\r\n").await;
    for _ in 0..2 {
        drop(gitea.asked().await);
    }
    let head = client.head().await.unwrap();
    assert_eq!(head.status(), 503);
    client.body(&head).await;

    // One that may change something is sent once.
    client.say("POST /unsafe HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n").await;
    drop(gitea.asked().await);
    assert_eq!(client.head().await.unwrap().status(), 503);
    assert!(!gitea.is_asked_within(Duration::from_millis(100)).await, "sent twice");
}

#[tokio::test]
async fn a_call_that_changes_something_is_never_sent_twice() {
    let (gitea, _site, broker) = started(Options::default()).await;
    let runner = joined(&broker.url).await;
    runner.declare(&["host"]).await.unwrap();
    for effect in [Effect::Reset, Effect::Close] {
        for (route, name) in [(Route::FetchTask, "FetchTask"), (Route::UpdateTask, "UpdateTask")] {
            gitea.journal().clear();
            gitea.faults().once(route, When::BeforeActing, effect.clone());
            let error = match name {
                "FetchTask" => runner.fetch_task(0).await.map(drop).unwrap_err(),
                _ => runner.update_task(1, Default::default()).await.map(drop).unwrap_err(),
            };
            assert_eq!((error.status.unwrap().as_u16(), &*error.code), (503, "unavailable"));
            assert_eq!(gitea.journal().count(|entry| entry.target.ends_with(name)), 1);
        }
    }
}

#[tokio::test]
async fn a_bad_chunk_is_the_clients_fault() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    client
        .say("POST /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        .await;
    let (mut upstream, _) = gitea.asked().await;
    client.say("zz\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    let seen = upstream.rest().await;
    assert!(!seen.ends_with(b"0\r\n\r\n"), "Gitea does not take it for whole");
    let count = broker.lifecycle.metrics.render().unwrap();
    assert!(!count.contains("upstream_errors_total{kind=\"reset\"} 1"), "{count}");
}

#[tokio::test]
async fn an_older_http_at_gitea_is_not_the_clients_concern() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    let mut client = Wire::dial(&broker.url).await;
    for _ in 0..2 {
        client.say("GET /x HTTP/1.1\r\nHost: b\r\n\r\n").await;
        let (mut upstream, _) = gitea.asked().await;
        upstream.say("HTTP/1.0 200 OK\r\n\r\nhello").await;
        drop(upstream);
        let head = client.head().await.expect("the connection stays open");
        assert_eq!(head.line, "HTTP/1.1 200 OK");
        assert_eq!(client.body(&head).await, b"hello");
    }
}
