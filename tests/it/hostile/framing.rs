//! Where a request ends: Content-Length, Transfer-Encoding, chunks, and what follows them.

use super::{Case, Stage, case};

/// What must never arrive as a request of its own, where it is inside another's body.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: broker\r\n\r\n";
const OK: &str = "200 POST /a";

fn post(more: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: broker\r\n{more}")
}

#[tokio::test]
async fn two_lengths_are_one_or_none() {
    let lengths = |first: &str, second: &str| {
        post(&format!("Content-Length: {first}\r\nContent-Length: {second}\r\n\r\nhello"))
    };
    let one = |value: &str| post(&format!("Content-Length: {value}\r\n\r\nhello{SMUGGLED}"));
    let refused = &["400", "closed"];
    let stage = Stage::set().await;
    stage
        .play(vec![
            case(
                "equal lengths are one",
                lengths("5", "5"),
                &["200 POST /a", "open"],
                &["POST /a hello"],
            ),
            case(
                "equal lengths in other spelling are one",
                lengths("5", "05"),
                &["200 POST /a", "open"],
                &["POST /a hello"],
            ),
            case("different lengths are refused", lengths("5", "0"), refused, &[]),
            case(
                "different lengths are refused, the smaller first",
                lengths("0", "5"),
                refused,
                &[],
            ),
            case("a list of lengths is refused", one("5, 5"), refused, &[]),
            case("a list of different lengths is refused", one("5, 6"), refused, &[]),
            case("a plus is refused", one("+5"), refused, &[]),
            case("a minus is refused", one("-5"), refused, &[]),
            case("a fraction is refused", one("5.0"), refused, &[]),
            case("hexadecimal is refused", one("0x5"), refused, &[]),
            case("a space within is refused", one("5 5"), refused, &[]),
            case("an empty length is refused", one(""), refused, &[]),
            case("a word is refused", one("five"), refused, &[]),
            case("digits of another script are refused", one("\u{0665}"), refused, &[]),
            case("a length beyond 64 bits is refused", one("18446744073709551621"), refused, &[]),
            case(
                "the largest numbers, which mean something else inside, are refused",
                one("18446744073709551615"),
                &["431", "closed"],
                &[],
            ),
            case("the next to it too", one("18446744073709551614"), &["431", "closed"], &[]),
        ])
        .await;
}

#[tokio::test]
async fn a_length_beside_chunks_is_dropped_and_ends_the_connection() {
    let stage = Stage::set().await;
    let both =
        |first: &str, second: &str, rest: &str| post(&format!("{first}\r\n{second}\r\n\r\n{rest}"));
    let (length, chunked) = ("Content-Length: 4", "Transfer-Encoding: chunked");
    let inside = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    stage
        .play(vec![
            case(
                "chunks win, length first",
                both(length, chunked, &format!("0\r\n\r\n{SMUGGLED}")),
                &[OK, "closed"],
                &["POST /a"],
            ),
            case(
                "chunks win, length last",
                both(chunked, length, &format!("0\r\n\r\n{SMUGGLED}")),
                &[OK, "closed"],
                &["POST /a"],
            ),
            case(
                "also with keep-alive",
                both(
                    length,
                    "Connection: keep-alive\r\nTransfer-Encoding: chunked",
                    &format!("0\r\n\r\n{SMUGGLED}"),
                ),
                &[OK, "closed"],
                &["POST /a"],
            ),
            case(
                "what is in a chunk stays in it",
                both(length, chunked, &inside),
                &["200 POST /a", "closed"],
                &["POST /a GET /smuggled HTTP/1.1\r\nHost: broker\r\n\r\n"],
            ),
            case(
                "a length of nonsense beside chunks",
                both("Content-Length: +4", chunked, "0\r\n\r\n"),
                &["400", "closed"],
                &[],
            ),
        ])
        .await;
}

#[tokio::test]
async fn chunked_is_the_only_encoding_and_has_one_spelling() {
    let stage = Stage::set().await;
    let encoded = |lines: &str| post(&format!("{lines}\r\n\r\n0\r\n\r\n{SMUGGLED}"));
    let mut cases = vec![
        case(
            "in capitals",
            encoded("Transfer-Encoding: CHUNKED"),
            &[OK, "200 GET /smuggled", "open"],
            &["POST /a", "GET /smuggled"],
        ),
        case(
            "after a tab",
            encoded("Transfer-Encoding:\tchunked"),
            &[OK, "200 GET /smuggled", "open"],
            &["POST /a", "GET /smuggled"],
        ),
        case(
            "not in HTTP/1.0",
            encoded("Transfer-Encoding: chunked").replace("/a HTTP/1.1", "/a HTTP/1.0"),
            &["400", "closed"],
            &[],
        ),
    ];
    for (name, lines) in [
        ("followed by another", "Transfer-Encoding: chunked, identity"),
        (
            "followed by another in a line of its own",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        ),
        ("another word", "Transfer-Encoding: xchunked"),
        ("another word that begins so", "Transfer-Encoding: chunkedx"),
        ("identity", "Transfer-Encoding: identity"),
        ("empty", "Transfer-Encoding:"),
        ("in quotes", "Transfer-Encoding: \"chunked\""),
        ("with a parameter", "Transfer-Encoding: chunked;q=1"),
        ("a control byte in front", "Transfer-Encoding: \u{b}chunked"),
        ("a control byte behind", "Transfer-Encoding: chunked\u{c}"),
        ("gzip alone", "Transfer-Encoding: gzip"),
        ("before an empty one", "Transfer-Encoding: chunked,"),
    ] {
        cases.push(case(name, encoded(lines), &["400", "closed"], &[]));
    }
    for (name, lines) in [
        ("twice", "Transfer-Encoding: chunked, chunked"),
        ("twice, in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("after another", "Transfer-Encoding: gzip, chunked"),
        (
            "after another in a line of its own",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        ),
        ("after identity", "Transfer-Encoding: identity, chunked"),
        ("after an empty one", "Transfer-Encoding: , chunked"),
    ] {
        cases.push(case(name, encoded(lines), &["501 unimplemented", "closed"], &[]));
    }
    stage.play(cases).await;
}

#[tokio::test]
async fn chunks_are_read_strictly_and_made_anew() {
    let stage = Stage::set().await;
    let body = |body: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"));
    let whole = |name, text: &str| -> Case {
        case(name, body(text), &["200 POST /a", "open"], &["POST /a hello"])
    };
    let mut cases = vec![
        whole("plain", "5\r\nhello\r\n0\r\n\r\n"),
        whole("zeros in front of the size", "0000000005\r\nhello\r\n000\r\n\r\n"),
        whole("an extension is dropped", "5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n"),
        whole("space after the size", "5 \r\nhello\r\n0\t\r\n\r\n"),
        whole("trailers are dropped", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"),
        whole(
            "trailers are no headers",
            "5\r\nhello\r\n0\r\nX-Runner-Token: t\r\nContent-Length: 99\r\nHost: evil\r\nTransfer-Encoding: x\r\n\r\n",
        ),
    ];
    for (name, text) in [
        ("a size with a sign", "+5\r\nhello\r\n0\r\n\r\n"),
        ("a size below nothing", "-5\r\nhello\r\n0\r\n\r\n"),
        ("a size with 0x", "0x5\r\nhello\r\n0\r\n\r\n"),
        ("a size in words", "five\r\nhello\r\n0\r\n\r\n"),
        ("no size", "\r\nhello\r\n0\r\n\r\n"),
        ("no size, but an extension", ";a\r\nhello\r\n0\r\n\r\n"),
        ("space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        ("a size in two parts", "0 5\r\nhello\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        ("a size that ends with LF", "5\nhello\r\n0\r\n\r\n"),
        ("a size that ends with CR", "5\rhello\r\n0\r\n\r\n"),
        ("LF in an extension", "5;a\nhello\r\n0\r\n\r\n"),
    ] {
        cases.push(case(name, body(text), &["400 invalid_argument", "closed"], &["POST /a …"]));
    }
    for (name, text) in [
        ("data longer than its size", "5\r\nhelloo\r\n0\r\n\r\n"),
        ("data that is not ended", "5\r\nhello0\r\n\r\n"),
        ("data that ends with LF", "5\r\nhello\n0\r\n\r\n"),
        ("a second size with a sign", "5\r\nhello\r\n+0\r\n\r\n"),
    ] {
        cases.push(case(
            name,
            body(text),
            &["400 invalid_argument", "closed"],
            &["POST /a hello …"],
        ));
    }
    stage.play(cases).await;
}

#[tokio::test]
async fn what_follows_a_request_is_a_request_of_its_own() {
    let stage = Stage::set().await;
    let both = &["200 POST /a", "200 GET /smuggled", "open"];
    stage
        .play(vec![
            case(
                "after its length",
                post(&format!("Content-Length: 5\r\n\r\nhello{SMUGGLED}")),
                both,
                &["POST /a hello", "GET /smuggled"],
            ),
            case(
                "after its last chunk",
                post(&format!(
                    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n{SMUGGLED}"
                )),
                both,
                &["POST /a hello", "GET /smuggled"],
            ),
            case(
                "after empty lines",
                post(&format!("Content-Length: 5\r\n\r\nhello\r\n\r\n{SMUGGLED}")),
                both,
                &["POST /a hello", "GET /smuggled"],
            ),
            case(
                "a GET has a body where it says so",
                format!(
                    "GET /b HTTP/1.1\r\nHost: broker\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
                    SMUGGLED.len()
                ),
                &["200 GET /b", "open"],
                &["GET /b GET /smuggled HTTP/1.1\r\nHost: broker\r\n\r\n"],
            ),
            case(
                "without a length there is no body",
                post(&format!("\r\n{SMUGGLED}")),
                &[OK, "200 GET /smuggled", "open"],
                &["POST /a", "GET /smuggled"],
            ),
            case(
                "garbage after it",
                post("Content-Length: 5\r\n\r\nhello\0\r\n\r\n"),
                &["200 POST /a", "400", "closed"],
                &["POST /a hello"],
            ),
            case(
                "HTTP/1.0 has one request a connection",
                format!("GET /b HTTP/1.0\r\n\r\n{SMUGGLED}"),
                &["200 GET /b", "closed"],
                &["GET /b"],
            ),
            case(
                "who closes gets nothing more",
                format!("GET /b HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n{SMUGGLED}"),
                &["200 GET /b", "closed"],
                &["GET /b"],
            ),
            case(
                "the answers come in order",
                format!(
                    "{}{}{}",
                    SMUGGLED,
                    SMUGGLED.replace("smuggled", "b"),
                    SMUGGLED.replace("smuggled", "c")
                ),
                &["200 GET /smuggled", "200 GET /b", "200 GET /c", "open"],
                &["GET /smuggled", "GET /b", "GET /c"],
            ),
        ])
        .await;
}
