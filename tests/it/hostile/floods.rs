//! Clients that take more than they give: what they do ends, and others are served meanwhile.

use super::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, number,
};
use super::http2::{Secure, get};

/// Sends the same over and over, `times` at most, until the other end has left.
async fn flood(client: &mut Frames, times: usize, one: &[u8]) {
    let many = one.repeat(100);
    for _ in 0..times / 100 {
        if client.bytes(&many).await.is_err() {
            return;
        }
    }
}

/// How the connection ended.
async fn end(client: &mut Frames) -> String {
    while let Some(frame) = client.frame().await {
        if frame.kind == GOAWAY && frame.payload[4..8] != [0; 4] {
            return format!("goaway {}", frame.payload[7]);
        }
    }
    "closed".into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_their_connection_and_hardly_reach_gitea() {
    let secure = Secure::set().await;
    let mut client = secure.dial(&[]).await;
    let headers = block(&get("/reset"));
    let mut sent = 0;
    for _ in 0..5000 {
        let stream = client.stream();
        let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers);
        let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        if client.bytes(&[open, reset].concat()).await.is_err() {
            break;
        }
        sent += 1;
        if sent == 1000 {
            secure.serves_others().await;
        }
    }
    let ended = end(&mut client).await;
    assert!(ended == "goaway 11" || ended == "closed", "{ended}");
    secure.serves_others().await;
    let (seen, odd) = secure.stage.gitea.take().await;
    let reached = seen.iter().filter(|one| one.contains("/reset")).count();
    assert!(reached < 300, "{reached} of {sent} reached Gitea");
    assert!(odd.is_empty(), "{odd:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_that_the_client_provokes_end_its_connection() {
    let secure = Secure::set().await;
    let mut client = secure.dial(&[]).await;
    // Each is malformed, so it is the server that resets it.
    let headers = block(&[&get("/provoked")[..], &[("connection", "close")]].concat());
    for _ in 0..5000 {
        let stream = client.stream();
        let open = frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers);
        if client.bytes(&open).await.is_err() {
            break;
        }
    }
    let ended = end(&mut client).await;
    assert!(ended == "goaway 11" || ended == "closed", "{ended}");
    secure.serves_others().await;
    let (seen, _) = secure.stage.gitea.take().await;
    assert!(!seen.iter().any(|one| one.contains("/provoked")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_without_an_end_end_their_connection() {
    let secure = Secure::set().await;
    for (what, piece) in [("small", block(&[("x-a", "1")])), ("empty", vec![])] {
        let mut client = secure.dial(&[]).await;
        let stream = client.stream();
        client.send(HEADERS, END_STREAM, stream, &block(&get("/endless"))).await.unwrap();
        flood(&mut client, 200_000, &frame(CONTINUATION, 0, stream, &piece)).await;
        let ended = end(&mut client).await;
        assert!(ended == "goaway 11" || ended == "closed", "{what}: {ended}");
        secure.serves_others().await;
    }
    let (seen, _) = secure.stage.gitea.take().await;
    assert!(!seen.iter().any(|one| one.contains("/endless")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_unpack_to_megabytes_are_refused() {
    let secure = Secure::set().await;
    let mut client = secure.dial(&[]).await;
    let stream = client.stream();
    // One header of 4000 bytes is remembered, and told again with one byte each.
    let value = "a".repeat(3000);
    let mut bomb = block(&get("/bomb"));
    bomb.extend([vec![0x40], number(0, 7, 3), b"x-a".to_vec(), number(0, 7, value.len())].concat());
    bomb.extend(value.as_bytes());
    bomb.extend(vec![0x80 | 62; 10_000]);
    client.send(HEADERS, END_HEADERS | END_STREAM, stream, &bomb).await.unwrap();
    assert_eq!(client.answer(stream).await, "goaway enhance_your_calm");
    secure.serves_others().await;
    let (seen, _) = secure.stage.gitea.take().await;
    assert!(!seen.iter().any(|one| one.contains("/bomb")), "{seen:?}");
}

/// The client sends what asks for an answer, and reads none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_no_acknowledgement_is_not_read_either() {
    let secure = Secure::set().await;
    for (what, one) in
        [("settings", frame(SETTINGS, 0, 0, &[])), ("pings", frame(PING, 0, 0, &[0; 8]))]
    {
        let mut client = secure.dial(&[]).await;
        let more = flood(&mut client, 5_000, &one);
        // As much as fits between the two is taken, and no more is answered than is read.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), more).await;
        secure.serves_others().await;
        // Who reads is served again.
        let stream = client.stream();
        let _ = client.send(HEADERS, END_HEADERS | END_STREAM, stream, &block(&get("/a"))).await;
        let got = client.answer(stream).await;
        assert!(
            matches!(&*got, "200 GET /a" | "goaway enhance_your_calm" | "closed"),
            "{what}: {got}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_data_without_an_end_ends_or_does_no_harm() {
    let secure = Secure::set().await;
    let mut client = secure.dial(&[]).await;
    let stream = client.stream();
    let post =
        [(":method", "POST"), (":scheme", "https"), (":authority", "broker"), (":path", "/a")];
    client.send(HEADERS, END_HEADERS, stream, &block(&post)).await.unwrap();
    flood(&mut client, 20_000, &frame(DATA, 0, stream, &[])).await;
    secure.serves_others().await;
    drop(client);
    let (seen, odd) = secure.stage.gitea.take().await;
    assert!(seen.iter().all(|one| one == "GET /other" || one == "POST /a …"), "{seen:?}");
    assert!(odd.is_empty(), "{odd:?}");
}

/// Settings: an initial window of nothing.
const NO_WINDOW: (u16, u32) = (4, 0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_opens_no_window_gets_heads_alone_and_holds_up_nobody() {
    let secure = Secure::set().await;
    let mut slow = secure.dial(&[NO_WINDOW]).await;
    for _ in 0..50 {
        slow.ask(&get("/slow"), None).await;
    }
    secure.serves_others().await;
    let mut heads = Vec::new();
    while heads.len() < 50 {
        let frame = slow.frame().await.expect("a head for each");
        assert_ne!(frame.kind, DATA, "{frame:?}");
        if frame.kind == HEADERS {
            heads.push(frame.stream);
        }
    }
    // Then it opens one after all.
    for stream in heads {
        slow.send(WINDOW_UPDATE, 0, stream, &100_u32.to_be_bytes()).await.unwrap();
    }
    let mut bodies = 0;
    while bodies < 50 {
        let frame = slow.frame().await.expect("a body for each");
        bodies += usize::from(frame.kind == DATA && frame.flags & END_STREAM != 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_overflows_ends_its_stream() {
    let secure = Secure::set().await;
    let mut client = secure.dial(&[NO_WINDOW]).await;
    let stream = client.ask(&get("/a"), None).await;
    let most = ((1_u32 << 31) - 1).to_be_bytes();
    client.send(WINDOW_UPDATE, 0, stream, &most).await.unwrap();
    client.send(WINDOW_UPDATE, 0, 0, &most).await.unwrap();
    client.send(WINDOW_UPDATE, 0, 0, &most).await.unwrap();
    assert_eq!(end(&mut client).await, "goaway 3");
    secure.serves_others().await;
}
