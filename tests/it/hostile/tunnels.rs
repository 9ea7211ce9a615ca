//! What would make a connection something else: CONNECT, Upgrade, HTTP/2 without TLS.

use super::{Stage, case};

#[tokio::test]
async fn nothing_makes_a_tunnel() {
    let stage = Stage::set().await;
    let after = "GET /smuggled HTTP/1.1\r\nHost: broker\r\n\r\n";
    let connect =
        |target: &str| format!("CONNECT {target} HTTP/1.1\r\nHost: gitea:3000\r\n\r\n{after}");
    let upgrade =
        |lines: &str| format!("GET /a HTTP/1.1\r\nHost: broker\r\n{lines}\r\n\r\n{after}");
    let refused = &["501 unimplemented", "closed"];
    let two = &["200 GET /a", "200 GET /smuggled", "open"];
    let seen = &["GET /a", "GET /smuggled"];
    let own = connect(stage.gitea.url.trim_start_matches("http://"));
    let length = format!("3000\r\nContent-Length: {}\r\n\r\n", after.len());
    let with_length = connect("gitea:3000").replace("3000\r\n\r\n", &length);
    let websocket = upgrade("Connection: Upgrade\r\nUpgrade: websocket");
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk";
    let older = websocket.replace("/a HTTP/1.1", "/a HTTP/1.0");
    let later = format!("{}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", upgrade("X-A: 1"));
    let two_and_end = &["200 GET /a", "200 GET /smuggled", "closed"];
    stage
        .play(vec![
            case("CONNECT", connect("gitea:3000"), refused, &[]),
            case("CONNECT to this broker's Gitea", own, refused, &[]),
            case("CONNECT with a path", connect("/a"), refused, &[]),
            case("CONNECT with a URL", connect("http://gitea:3000/a"), refused, &[]),
            case("CONNECT with a length", with_length, refused, &[]),
            case("Upgrade", websocket, two, seen),
            case("Upgrade to HTTP/2", upgrade(h2c), two, seen),
            case("Upgrade that Connection does not name", upgrade("Upgrade: websocket"), two, seen),
            case("Upgrade in HTTP/1.0", older, &["200 GET /a", "closed"], &["GET /a"]),
            case("HTTP/2 after a request", later, two_and_end, seen),
        ])
        .await;
}
