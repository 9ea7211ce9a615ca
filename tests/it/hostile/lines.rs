//! Lines of a head: their ends, their folds, their bytes.

use super::{Stage, case};

const PLAIN: &[&str] = &["200 GET /a", "open"];
const REFUSED: &[&str] = &["400", "closed"];

fn get(line: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: broker\r\n{line}\r\n\r\n")
}

#[tokio::test]
async fn a_bare_lf_ends_a_line_and_a_bare_cr_ends_the_connection() {
    let stage = Stage::set().await;
    stage
        .play(vec![
            case(
                "LF for CRLF in all lines",
                "GET /a HTTP/1.1\nHost: broker\n\n",
                PLAIN,
                &["GET /a"],
            ),
            case(
                "LF for CRLF in one",
                "GET /a HTTP/1.1\r\nHost: broker\nX-A: 1\r\n\r\n",
                PLAIN,
                &["GET /a"],
            ),
            case(
                "LF for the empty line",
                "GET /a HTTP/1.1\r\nHost: broker\r\n\n",
                PLAIN,
                &["GET /a"],
            ),
            case("CR for CRLF", "GET /a HTTP/1.1\rHost: broker\r\r", REFUSED, &[]),
            case("CR within a value", get("X-A: 1\rX-B: 2"), REFUSED, &[]),
            case("CR within a name", get("X-\rA: 1"), REFUSED, &[]),
            case(
                "CR within the target",
                "GET /a\rb HTTP/1.1\r\nHost: broker\r\n\r\n",
                REFUSED,
                &[],
            ),
            case("CR CR LF", get("X-A: 1\r"), REFUSED, &[]),
            case(
                "empty lines before the first are skipped",
                "\r\n\r\nGET /a HTTP/1.1\r\nHost: broker\r\n\r\n",
                PLAIN,
                &["GET /a"],
            ),
            case(
                "space before the first line",
                " GET /a HTTP/1.1\r\nHost: broker\r\n\r\n",
                REFUSED,
                &[],
            ),
        ])
        .await;
}

#[tokio::test]
async fn folded_and_crooked_lines_are_refused() {
    let stage = Stage::set().await;
    let mut cases = vec![
        case("a value of any text but controls passes", get("X-A: \u{e4}\t~"), PLAIN, &["GET /a"]),
        case("an empty value passes", get("X-A:"), PLAIN, &["GET /a"]),
        case(
            "every letter of a token passes in a name",
            get("!#$%&'*+-.^_`|~9a: 1"),
            PLAIN,
            &["GET /a"],
        ),
    ];
    for (name, line) in [
        ("a fold", "X-A: 1\r\n 2"),
        ("a fold with a tab", "X-A: 1\r\n\t2"),
        ("a fold that hides chunks", "X-A: 1\r\n Transfer-Encoding: chunked"),
        ("a fold of chunks", "Transfer-Encoding:\r\n chunked"),
        ("a fold with LF", "X-A: 1\n 2"),
        ("space before the colon", "X-A : 1"),
        ("a tab before the colon", "Content-Length\t: 5"),
        ("space before the colon of chunks", "Transfer-Encoding : chunked"),
        ("no colon", "X-A"),
        ("no name", ": 1"),
        ("space within a name", "X A: 1"),
        ("NUL within a name", "X-\0A: 1"),
        ("NUL within a value", "X-A: 1\x002"),
        ("NUL at the end of a value", "X-A: 1\0"),
        ("a control byte within a value", "X-A: 1\u{1}2"),
        ("DEL within a value", "X-A: 1\u{7f}2"),
        ("a letter beyond ASCII in a name", "X-\u{e4}: 1"),
        ("quotes in a name", "\"X-A\": 1"),
        ("a bracket in a name", "(X-A): 1"),
        ("an at sign in a name", "X@A: 1"),
    ] {
        cases.push(case(name, get(line), REFUSED, &[]));
    }
    cases.push(case(
        "space before the first header",
        "GET /a HTTP/1.1\r\n Host: broker\r\n\r\n",
        REFUSED,
        &[],
    ));
    cases.push(case(
        "a fold in the first line",
        "GET /a\r\n HTTP/1.1\r\nHost: broker\r\n\r\n",
        REFUSED,
        &[],
    ));
    stage.play(cases).await;
}

#[tokio::test]
async fn the_first_line_is_read_strictly() {
    let stage = Stage::set().await;
    let line = |line: &str| format!("{line}\r\nHost: broker\r\n\r\n");
    let mut cases = Vec::new();
    for (name, first) in [
        ("HTTP/0.9", "GET /a"),
        ("HTTP/2.0", "GET /a HTTP/2.0"),
        ("HTTP/1.2", "GET /a HTTP/1.2"),
        ("HTTP/1.10", "GET /a HTTP/1.10"),
        ("HTTP/3", "GET /a HTTP/3"),
        ("http/1.1", "GET /a http/1.1"),
        ("HTTPS/1.1", "GET /a HTTPS/1.1"),
        ("HTTP /1.1", "GET /a HTTP /1.1"),
        ("space after the version", "GET /a HTTP/1.1 "),
        ("two spaces before the target", "GET  /a HTTP/1.1"),
        ("two spaces after the target", "GET /a  HTTP/1.1"),
        ("tabs for spaces", "GET\t/a\tHTTP/1.1"),
        ("a space within the target", "GET /a b HTTP/1.1"),
        ("no target", "GET HTTP/1.1"),
        ("no method", "/a HTTP/1.1"),
        ("a method with a bracket", "GE(T /a HTTP/1.1"),
        ("a method with NUL", "GE\0T /a HTTP/1.1"),
        ("TLS where none is", "\u{16}\u{3}\u{1}"),
    ] {
        cases.push(case(name, line(first), REFUSED, &[]));
    }
    cases.push(case("HTTP/2 without TLS", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["closed"], &[]));
    stage.play(cases).await;
}

#[tokio::test]
async fn a_head_has_an_end() {
    let stage = Stage::set().await;
    let long = get(&format!("X-A: {}", "a".repeat(1 << 20)));
    let many = get(&"x: y\r\n".repeat(1000));
    stage
        .play(vec![
            case("a value of a megabyte", long, &["431", "closed"], &[]),
            case("a thousand headers", many, &["431", "closed"], &[]),
        ])
        .await;
}
