//! Register above all: none that the broker did not author reaches Gitea, whatever is around it.

use super::{Stage, case, chunks, register, register_body, register_head};
use crate::raw::REGISTER;

fn post(more: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: broker\r\n{more}")
}

/// None that the broker did not author: all that reach Gitea carry its label, whatever their framing.
#[tokio::test]
async fn a_register_with_doubtful_framing_is_refused_or_the_brokers_own() {
    let stage = Stage::set().await;
    let body = register_body();
    let with = |more: &str, body: &[u8]| [register_head(more).as_bytes(), body].concat();
    let length = format!("Content-Length: {}\r\n", body.len());
    let chunked = chunks(&body, 7);
    let authored = &["403 permission_denied", "open"];
    let authored_and_closed = &["403 permission_denied", "closed"];
    let by_broker = &["Register of the broker's"];
    let inside = |head: &str| {
        let whole = register();
        [format!("{head}Content-Length: {}\r\n\r\n", whole.len()).as_bytes(), &whole].concat()
    };
    let te = "Transfer-Encoding: chunked\r\n";
    let gets_whole =
        [post("Transfer-Encoding: chunked\r\n\r\n").as_bytes(), &chunks(&register(), 1000)]
            .concat();
    let both = [format!("Content-Length: 3\r\n{te}"), format!("{te}Content-Length: 3\r\n")];
    let named_away = format!("Connection: content-length, transfer-encoding\r\n{length}");
    let behind = |before: &str| [before.as_bytes(), &register()].concat();
    let [host, get] = ["Host: broker\r\n", "GET /b HTTP/1.1\r\n"];
    let upgrade = format!("{get}{host}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let connect = "CONNECT gitea:3000 HTTP/1.1\r\nHost: gitea:3000\r\n\r\n";
    let query = format!("POST {REGISTER}?{REGISTER} HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n");
    let refused = &["400 invalid_argument", "closed"];
    let unknown = &["501 unimplemented", "closed"];
    let after_get = &["200 GET /b", "403 permission_denied", "open"];
    let after_get_seen = &["GET /b", "Register of the broker's"];
    let ended = &["401 unauthenticated", "403 permission_denied", "open"];
    stage
        .play(vec![
            case("by its length", with(&length, &body), authored, by_broker),
            case("in chunks", with(te, &chunked), authored, by_broker),
            case("with equal lengths", with(&length.repeat(2), &body), authored, by_broker),
            case("with both, chunks win", with(&both[0], &chunked), authored_and_closed, by_broker),
            case(
                "with both, length last",
                with(&both[1], &chunked),
                authored_and_closed,
                by_broker,
            ),
            case(
                "with two lengths",
                with(&format!("Content-Length: 0\r\n{length}"), &body),
                &["400", "closed"],
                &[],
            ),
            case(
                "with an encoding more",
                with("Transfer-Encoding: gzip, chunked\r\n", &chunked),
                unknown,
                &[],
            ),
            case("with chunks that are none", with(te, b"+5\r\nhello\r\n0\r\n\r\n"), refused, &[]),
            case("that names its length away", with(&named_away, &body), authored, by_broker),
            case(
                "within another's length",
                inside(&post("")),
                &["200 POST /a", "open"],
                &["POST /a, a Register in its body"],
            ),
            case(
                "within another's chunks",
                gets_whole,
                &["200 POST /a", "open"],
                &["POST /a, a Register in its body"],
            ),
            case(
                "behind one that ends early",
                behind(&register_head("Content-Length: 0\r\n")),
                ended,
                by_broker,
            ),
            case(
                "behind chunks beside a length",
                behind(&post(&format!("Content-Length: 4\r\n{te}\r\n0\r\n\r\n"))),
                &["200 POST /a", "closed"],
                &["POST /a"],
            ),
            case(
                "behind a bare LF head",
                behind("GET /b HTTP/1.1\nHost: broker\n\n"),
                after_get,
                after_get_seen,
            ),
            case(
                "in a GET's body",
                inside(&format!("{get}{host}")),
                &["200 GET /b", "open"],
                &["GET /b, a Register in its body"],
            ),
            case("in an upgrade's bytes", behind(&upgrade), after_get, after_get_seen),
            case("in a tunnel's bytes", behind(connect), unknown, &[]),
            case("in a Register's query", query, &["415 unknown", "open"], &[]),
        ])
        .await;
}
