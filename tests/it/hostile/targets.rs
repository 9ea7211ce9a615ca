//! What a request is for: targets in all forms, methods.

use super::{Case, Stage, case, register_body};
use crate::raw::REGISTER;

const REFUSED: &[&str] = &["400 invalid_argument", "closed"];
const BAD: &[&str] = &["400", "closed"];

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: broker\r\n\r\n")
}

fn passes(target: &str, gets: &'static [&'static str], seen: &'static [&'static str]) -> Case {
    case(seen[0], get(target), gets, seen)
}

#[tokio::test]
async fn a_foreign_authority_is_ignored_and_a_crooked_one_refused() {
    let stage = Stage::set().await;
    let plain = &["200 GET /a", "open"];
    stage
        .play(vec![
            case("absolute form", get("http://broker/a"), plain, &["GET /a"]),
            case(
                "absolute form of another host",
                get("http://evil.example:99/a"),
                plain,
                &["GET /a"],
            ),
            case("absolute form with https", get("https://evil.example/a"), plain, &["GET /a"]),
            case("absolute form in capitals", get("HTTP://EVIL/a"), plain, &["GET /a"]),
            case(
                "absolute form without a path",
                get("http://evil.example"),
                &["200 GET /", "open"],
                &["GET /"],
            ),
            case(
                "absolute form with a query alone",
                get("http://evil.example?x"),
                &["200 GET /?x", "open"],
                &["GET /?x"],
            ),
            case(
                "Host of another",
                "GET /a HTTP/1.1\r\nHost: evil.example\r\n\r\n",
                plain,
                &["GET /a"],
            ),
            case("another scheme", get("ftp://broker/a"), REFUSED, &[]),
            case("a file", get("file:///etc/passwd"), BAD, &[]),
            case("userinfo", get("http://user:password@broker/a"), REFUSED, &[]),
            case(
                "userinfo that looks like a host",
                get("http://broker@evil.example/a"),
                REFUSED,
                &[],
            ),
            case("no host", get("http:///a"), BAD, &[]),
            case("a port that is none", get("http://broker:x/a"), REFUSED, &[]),
            case("authority form", get("broker:80"), REFUSED, &[]),
            case("a bare word", get("a"), REFUSED, &[]),
            case("a query alone", get("?x"), BAD, &[]),
            case("a backslash in front", get("\\a"), BAD, &[]),
            case("a star where it means nothing", get("*"), REFUSED, &[]),
            case(
                "a star for OPTIONS",
                "OPTIONS * HTTP/1.1\r\nHost: broker\r\n\r\n",
                &["200 OPTIONS *", "open"],
                &["OPTIONS *"],
            ),
        ])
        .await;
}

#[tokio::test]
async fn odd_paths_arrive_as_they_are_or_not_at_all() {
    let stage = Stage::set().await;
    let long = format!("/{}", "a".repeat(70_000));
    stage
        .play(vec![
            passes("//a//b", &["200 GET //a//b", "open"], &["GET //a//b"]),
            passes("/..;/a", &["200 GET /..;/a", "open"], &["GET /..;/a"]),
            passes("/a/../../b", &["200 GET /a/../../b", "open"], &["GET /a/../../b"]),
            passes("/a%2fb%5Cc", &["200 GET /a%2fb%5Cc", "open"], &["GET /a%2fb%5Cc"]),
            passes("/%2e%2e/a", &["200 GET /%2e%2e/a", "open"], &["GET /%2e%2e/a"]),
            passes("/a%00b%0d%0ab", &["200 GET /a%00b%0d%0ab", "open"], &["GET /a%00b%0d%0ab"]),
            passes("/a?b?c", &["200 GET /a?b?c", "open"], &["GET /a?b?c"]),
            passes("/a%", &["200 GET /a%", "open"], &["GET /a%"]),
            case("a fragment is dropped", get("/a#b"), &["200 GET /a", "open"], &["GET /a"]),
            case(
                "a fragment of the query is dropped",
                get("/a?b#c"),
                &["200 GET /a?b", "open"],
                &["GET /a?b"],
            ),
            case(
                "bytes beyond ASCII pass as they are",
                get("/\u{e4}"),
                &["200 GET /\u{e4}", "open"],
                &["GET /\u{e4}"],
            ),
            case(
                "bytes that are no UTF-8",
                b"GET /\xff HTTP/1.1\r\nHost: broker\r\n\r\n",
                BAD,
                &[],
            ),
            case("NUL", get("/a\0b"), BAD, &[]),
            case("a control byte", get("/a\u{1}b"), BAD, &[]),
            case("DEL", get("/a\u{7f}b"), BAD, &[]),
            case("longer than 64 KiB", get(&long), &["414", "closed"], &[]),
        ])
        .await;
}

#[tokio::test]
async fn no_spelling_of_register_passes_in_any_form() {
    let stage = Stage::set().await;
    let body = register_body();
    let ask = |method: &str, target: &str| {
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: broker\r\nContent-Type: application/proto\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    };
    let refused = &["400 invalid_argument", "open"];
    let mut cases = vec![
        case(
            "of a foreign host",
            ask("POST", &format!("http://gitea{REGISTER}")),
            &["403 permission_denied", "open"],
            &["Register of the broker's"],
        ),
        case("with userinfo", ask("POST", &format!("http://a@gitea{REGISTER}")), REFUSED, &[]),
        case(
            "with a fragment",
            ask("POST", &format!("{REGISTER}#a")),
            &["403 permission_denied", "open"],
            &["Register of the broker's"],
        ),
        case("by TRACE", ask("TRACE", REGISTER), &["405 unimplemented", "closed"], &[]),
        case("by PUT", ask("PUT", REGISTER), &["405 unimplemented", "open"], &[]),
        case(
            "by post in small letters",
            ask("post", REGISTER),
            &["405 unimplemented", "open"],
            &[],
        ),
        case(
            "by a method of its own",
            ask("REGISTER", REGISTER),
            &["405 unimplemented", "open"],
            &[],
        ),
    ];
    for (name, target) in [
        ("slashes", REGISTER.replace('/', "//")),
        ("a slash behind", format!("{REGISTER}/")),
        ("dots", REGISTER.replace("/api", "/x/../api")),
        ("dots with a parameter", REGISTER.replace("/api", "/x/..;/api")),
        ("an escaped slash", REGISTER.replace("/Register", "%2fRegister")),
        ("an escaped slash, escaped again", REGISTER.replace("/Register", "%252fRegister")),
        ("an escaped letter", REGISTER.replace("Register", "%52egister")),
        ("a parameter", format!("{REGISTER};a=b")),
        ("an escaped NUL", format!("{REGISTER}%00")),
        ("an escaped line", format!("{REGISTER}%0d%0a")),
        ("small letters", REGISTER.to_lowercase()),
        ("a backslash", REGISTER.replace("/Register", "\\Register")),
        ("an escaped fragment", format!("{REGISTER}%23a")),
        ("an escaped query", format!("{REGISTER}%3fa")),
    ] {
        cases.push(case(name, ask("POST", &target), refused, &[]));
    }
    stage.play(cases).await;
}

#[tokio::test]
async fn methods_pass_but_those_that_show_a_request_or_make_a_tunnel() {
    let stage = Stage::set().await;
    let by = |method: &str| format!("{method} /a HTTP/1.1\r\nHost: broker\r\n\r\n");
    stage
        .play(vec![
            case("PROPFIND", by("PROPFIND"), &["200 PROPFIND /a", "open"], &["PROPFIND /a"]),
            case(
                "small letters are another method",
                by("get"),
                &["200 get /a", "open"],
                &["get /a"],
            ),
            case("one that nobody knows", by("X-Y!"), &["200 X-Y! /a", "open"], &["X-Y! /a"]),
            case(
                "TRACE would show what the broker adds",
                by("TRACE"),
                &["405 unimplemented", "closed"],
                &[],
            ),
        ])
        .await;
}
