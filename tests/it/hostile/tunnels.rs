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
    stage
        .play(vec![
            case("CONNECT", connect("gitea:3000"), refused, &[]),
            case("CONNECT to this broker's Gitea", connect(stage.gitea.url.trim_start_matches("http://")), refused, &[]),
            case("CONNECT with a path", connect("/a"), refused, &[]),
            case("CONNECT with a URL", connect("http://gitea:3000/a"), refused, &[]),
            case("CONNECT with a length", format!("CONNECT gitea:3000 HTTP/1.1\r\nHost: gitea:3000\r\nContent-Length: {}\r\n\r\n{after}", after.len()), refused, &[]),
            case("Upgrade", upgrade("Connection: Upgrade\r\nUpgrade: websocket"), two, &["GET /a", "GET /smuggled"]),
            case("Upgrade to HTTP/2", upgrade("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"), two, &["GET /a", "GET /smuggled"]),
            case("Upgrade that Connection does not name", upgrade("Upgrade: websocket"), two, &["GET /a", "GET /smuggled"]),
            case("Upgrade in HTTP/1.0", upgrade("Connection: Upgrade\r\nUpgrade: websocket").replace("/a HTTP/1.1", "/a HTTP/1.0"), &["200 GET /a", "closed"], &["GET /a"]),
            case("HTTP/2 after a request", format!("{}PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", upgrade("X-A: 1").replace("smuggled", "b")), &["200 GET /a", "200 GET /b", "closed"], &["GET /a", "GET /b"]),
        ])
        .await;
}
