//! Answers of a Gitea, or of what is in its place, that may be read in two ways.

use super::{Stage, answer};
use crate::raw::Wire;

/// What Gitea says to this method, what the client gets, and whether the connection goes on.
struct Case {
    name: &'static str,
    method: &'static str,
    says: &'static str,
    gets: &'static str,
}

const fn to_get(name: &'static str, says: &'static str, gets: &'static str) -> Case {
    Case { name, method: "GET", says, gets }
}

/// An answer that must never be taken for that to another request.
const STOLEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";

async fn play(cases: &[Case]) {
    let stage = Stage::set().await;
    let mut wrong = String::new();
    for Case { name, method, says, gets } in cases {
        stage.gitea.answers(says.replace("STOLEN", STOLEN));
        let mut wire = Wire::dial(&stage.broker.url).await;
        wire.say(format!("{method} /answer HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"))
            .await;
        let got = answer(&mut wire, *method == "HEAD").await;
        // Each later request has the answer that is its own, on this connection and on others.
        let _ = wire.try_say(b"GET /then HTTP/1.1\r\nHost: b\r\n\r\n").await;
        let then = answer(&mut wire, false).await;
        let mut last = Wire::dial(&stage.broker.url).await;
        last.say("GET /last HTTP/1.1\r\nHost: b\r\n\r\n").await;
        let last = answer(&mut last, false).await;
        let (_, odd) = stage.gitea.take().await;
        let then_is_right = then == "200 GET /then" || then == "closed";
        if got != *gets || !then_is_right || last != "200 GET /last" || !odd.is_empty() {
            wrong += &format!("{name}: {got:?} for {gets:?}, then {then:?}, {last:?}, {odd:?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn the_end_of_an_answer_is_where_its_framing_says() {
    let head = |name, says, gets| Case { name, method: "HEAD", says, gets };
    play(&[
        to_get("chunks win over a length", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200 hello"),
        to_get("also where it comes last", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200 hello"),
        to_get("equal lengths are one", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", "200 hello"),
        to_get("a list of equal lengths is one", "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello", "200 hello"),
        to_get("different lengths are none", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 0\r\n\r\nhello", "503 unavailable"),
        to_get("a length with a sign is none", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "503 unavailable"),
        to_get("bytes after the end are nobody's", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloSTOLEN", "200 hello"),
        to_get("bytes after the last chunk are nobody's", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nSTOLEN", "200 hello"),
        to_get("a 204 has no body", "HTTP/1.1 204 No Content\r\nContent-Length: 63\r\n\r\nSTOLEN", "204"),
        to_get("a 204 has no chunks", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSTOLEN", "204"),
        to_get("a 304 has no body", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nSTOLEN", "304"),
        head("HEAD has no body", "HTTP/1.1 200 OK\r\nContent-Length: 44\r\n\r\nSTOLEN", "200"),
        head("HEAD has no chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSTOLEN", "200"),
    ])
    .await;
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer_and_nobody_is_switched() {
    play(&[
        to_get("100 is skipped", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200 hello"),
        to_get("103 is skipped", "HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "200 hello"),
        to_get("many are skipped", concat!("HTTP/1.1 102 A\r\n\r\n", "HTTP/1.1 102 B\r\n\r\n", "HTTP/1.1 102 C\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), "200 hello"),
        to_get("101 was not asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nSTOLEN", "503 unavailable"),
    ])
    .await;
}

#[tokio::test]
async fn what_is_no_answer_is_told_as_none() {
    play(&[
        to_get(
            "a fold",
            "HTTP/1.1 200 OK\r\nX-A: 1\r\n 2\r\nContent-Length: 0\r\n\r\n",
            "503 unavailable",
        ),
        to_get(
            "a bare CR in a value",
            "HTTP/1.1 200 OK\r\nX-A: 1\rSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
            "503 unavailable",
        ),
        to_get(
            "NUL in a value",
            "HTTP/1.1 200 OK\r\nX-A: 1\0\r\nContent-Length: 0\r\n\r\n",
            "503 unavailable",
        ),
        to_get(
            "a header without a colon",
            "HTTP/1.1 200 OK\r\nX-A\r\nContent-Length: 0\r\n\r\n",
            "503 unavailable",
        ),
        to_get(
            "space before a colon",
            "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
            "503 unavailable",
        ),
        to_get("another protocol", "SSH-2.0-OpenSSH_9.2\r\n", "503 unavailable"),
        to_get(
            "a status of two digits",
            "HTTP/1.1 99 No\r\nContent-Length: 0\r\n\r\n",
            "503 unavailable",
        ),
        to_get("HTTP/2 unasked", "HTTP/2 200\r\nContent-Length: 0\r\n\r\n", "503 unavailable"),
        to_get(
            "chunks in HTTP/1.0",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "503 unavailable",
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_with_bad_chunks_does_not_look_whole() {
    let stage = Stage::set().await;
    for chunks in [
        "5\r\nhello\r\n+0\r\n\r\n",
        "5\r\nhello\r\nxyz\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\n0;a\nb\r\n\r\n",
    ] {
        stage
            .gitea
            .answers(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
        let mut wire = Wire::dial(&stage.broker.url).await;
        wire.say("GET /answer HTTP/1.1\r\nHost: b\r\n\r\n").await;
        let head = wire.head().await.unwrap();
        assert_eq!(head.status(), 200);
        let rest = wire.rest().await;
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{chunks:?}: {}", rest.escape_ascii());
    }
}
