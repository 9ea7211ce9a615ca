//! Bodies over HTTP/2, trailers, and frames out of place.

use super::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, PRIORITY, block};
use super::http2::{Case, Secure, get, play};
use super::register_body;
use crate::raw::REGISTER;

#[tokio::test]
async fn a_length_agrees_with_the_data() {
    let post = |length: &'static str| {
        vec![
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "broker"),
            (":path", "/a"),
            ("content-length", length),
        ]
    };
    let case = |name, headers, body, gets, seen| Case { name, headers, body, gets, seen };
    let none: &[&str] = &[];
    let reset = "reset protocol_error";
    play(vec![
        case("it agrees", post("5"), Some("hello"), "200 POST /a", &["POST /a hello"]),
        case(
            "no length",
            post("5")[..4].to_vec(),
            Some("hello"),
            "200 POST /a",
            &["POST /a hello"],
        ),
        case("more data", post("3"), Some("hello"), reset, none),
        case("none for a length", post("5"), None, reset, none),
        case("a sign", post("+5"), Some("hello"), reset, none),
        case("no number", post("x"), Some("hello"), reset, none),
        case(
            "two lengths",
            [post("5"), vec![("content-length", "0")]].concat(),
            Some("hello"),
            reset,
            none,
        ),
        case("a list", post("5, 5"), Some("hello"), reset, none),
    ])
    .await;
}

#[tokio::test]
async fn a_body_that_ends_early_does_not_look_whole() {
    let secure = Secure::set().await;
    let mut client = secure.dial(&[]).await;
    let headers = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "broker"),
        (":path", "/a"),
        ("content-length", "10"),
    ];
    let stream = client.ask(&headers, Some("hello")).await;
    let got = client.answer(stream).await;
    assert!(got.starts_with("reset") || got == "400 invalid_argument", "{got}");
    secure.serves_others().await;
    let (seen, odd) = secure.stage.gitea.take().await;
    assert!(seen.iter().all(|one| one == "GET /other" || one.ends_with(" …")), "{seen:?}");
    assert!(odd.is_empty(), "{odd:?}");
}

#[tokio::test]
async fn trailers_do_not_pass() {
    let secure = Secure::set().await;
    let mut client = secure.dial(&[]).await;
    let headers =
        [(":method", "POST"), (":scheme", "https"), (":authority", "broker"), (":path", "/a")];
    let stream = client.stream();
    client.send(HEADERS, END_HEADERS, stream, &block(&headers)).await.unwrap();
    client.send(DATA, 0, stream, b"hello").await.unwrap();
    let trailers = block(&[("x-runner-token", "t"), ("content-length", "3"), ("host", "evil")]);
    client.send(HEADERS, END_HEADERS | END_STREAM, stream, &trailers).await.unwrap();
    assert_eq!(client.answer(stream).await, "200 POST /a");
    assert_eq!(secure.stage.gitea.take().await, (vec!["POST /a hello".to_owned()], vec![]));
}

#[tokio::test]
async fn a_register_over_http_2_is_the_brokers_own_or_refused() {
    let body = register_body();
    let body = std::str::from_utf8(&body).unwrap();
    let length = body.len().to_string();
    let post = |path, length| {
        vec![
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "broker"),
            (":path", path),
            ("content-type", "application/proto"),
            ("content-length", length),
        ]
    };
    let slashes = REGISTER.replace('/', "//");
    let escaped = REGISTER.replace("/Register", "%2fRegister");
    let lower = REGISTER.to_lowercase();
    let case = |name, headers, gets, seen| Case { name, headers, body: Some(body), gets, seen };
    play(vec![
        case("plain", post(REGISTER, &length), "403 permission_denied", &["Register of the broker's"]),
        case("slashes", post(&slashes, &length), "400 invalid_argument", &[]),
        case("escaped", post(&escaped, &length), "400 invalid_argument", &[]),
        case("small letters", post(&lower, &length), "400 invalid_argument", &[]),
        case("without a slash", post(&REGISTER[1..], &length), "reset protocol_error", &[]),
        case("a length too small", post(REGISTER, "3"), "reset protocol_error", &[]),
        case("within another's body", post("/a", &length), "200 POST /a", &["POST /a \n\u{7}hostile\u{12}(enrollment-token-of-the-tests-0123456789*\u{6}v0.3.02\u{4}host"]),
    ])
    .await;
}

#[tokio::test]
async fn frames_that_make_no_sense_end_their_connection() {
    let secure = Secure::set().await;
    let headers = block(&get("/a"));
    let mut wrong = String::new();
    let mut sized = headers.clone();
    sized.truncate(7);
    for (name, kind, flags, stream, payload, gets) in [
        (
            "headers on no stream",
            HEADERS,
            END_HEADERS | END_STREAM,
            0,
            headers.clone(),
            "goaway protocol_error",
        ),
        (
            "headers on the server's stream",
            HEADERS,
            END_HEADERS | END_STREAM,
            2,
            headers.clone(),
            "goaway protocol_error",
        ),
        ("headers cut off", HEADERS, END_HEADERS | END_STREAM, 1, sized, "goaway protocol_error"),
        (
            "an index of nothing",
            HEADERS,
            END_HEADERS | END_STREAM,
            1,
            vec![0xff, 0xff, 0x7f],
            "goaway protocol_error",
        ),
        ("data on an idle stream", DATA, END_STREAM, 1, b"x".to_vec(), "goaway protocol_error"),
        ("a frame without end", DATA, 0, 1, vec![0; 20_000], "goaway frame_size_error"),
        (
            "a stream that depends on itself",
            PRIORITY,
            0,
            1,
            vec![0, 0, 0, 1, 0],
            "reset protocol_error",
        ),
    ] {
        let mut client = secure.dial(&[]).await;
        let _ = client.send(kind, flags, stream, &payload).await;
        let got = client.answer(1).await;
        if got != gets {
            wrong += &format!("{name}: {got} for {gets}\n");
        }
    }
    secure.serves_others().await;
    let (seen, odd) = secure.stage.gitea.take().await;
    assert_eq!((seen, odd), (vec!["GET /other".to_owned()], vec![]));
    assert!(wrong.is_empty(), "{wrong}");
}
