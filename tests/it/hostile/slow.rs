//! Clients that are slow over HTTP/2, where one connection carries many requests: each has its own end, and
//! the others go on. (Over HTTP/1.1 they are in `limits`.)

use std::time::Duration;

use super::frames::{DATA, END_HEADERS, Frames, HEADERS, RST_STREAM, WINDOW_UPDATE, block};
use super::http2::{Secure, get};
use crate::support::eventually;

/// Setting: streams begin with no window for answers.
const NO_WINDOW: (u16, u32) = (4, 0);

fn hits(secure: &Secure, limit: &str) -> usize {
    let metrics = secure.stage.broker.lifecycle.metrics.render().unwrap();
    let name = format!("runner_broker_limits_hit_total{{limit=\"{limit}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// Waits until a stream is reset; returns its number and the reason.
async fn reset(client: &mut Frames) -> (u32, u8) {
    loop {
        let frame = client.frame().await.expect("the connection stays");
        if frame.kind == RST_STREAM {
            return (frame.stream, frame.payload[3]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_nothing_of_its_answer_loses_its_stream_and_no_more() {
    let secure = Secure::set_with(|site| site.set("limits.write_timeout", "1s")).await;
    let mut client = secure.dial(&[NO_WINDOW]).await;
    let begun = std::time::Instant::now();
    let asked = [client.ask(&get("/a"), None).await, client.ask(&get("/b"), None).await];
    let mut ended = [reset(&mut client).await, reset(&mut client).await];
    ended.sort_unstable();
    assert_eq!(ended, asked.map(|stream| (stream, 8)), "they are cancelled");
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(hits(&secure, "write_timeout"), 2);
    let third = client.ask(&get("/c"), None).await;
    client.send(WINDOW_UPDATE, 0, third, &1000_u32.to_be_bytes()).await.unwrap();
    assert_eq!(client.answer(third).await, "200 GET /c");
    secure.serves_others().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stops_is_told_and_does_not_look_whole() {
    let secure = Secure::set_with(|site| site.set("limits.body_timeout", "1s")).await;
    let mut client = secure.dial(&[]).await;
    let post =
        [(":method", "POST"), (":scheme", "https"), (":authority", "broker"), (":path", "/a")];
    let slow = client.stream();
    client.send(HEADERS, END_HEADERS, slow, &block(&post)).await.unwrap();
    client.send(DATA, 0, slow, b"some").await.unwrap();
    // Others on the same connection do not wait for it.
    let quick = client.ask(&get("/quick"), None).await;
    assert_eq!(client.answer(quick).await, "200 GET /quick");
    assert_eq!(client.answer(slow).await, "408 deadline_exceeded");
    assert_eq!(hits(&secure, "body_timeout"), 1);
    let mut seen = Vec::new();
    eventually("Gitea has noticed", async || {
        seen.extend(secure.stage.gitea.take().await.0);
        seen.iter().any(|one| one == "POST /a some …")
    })
    .await;
    assert!(!seen.iter().any(|one| one == "POST /a some"), "{seen:?}");
}
