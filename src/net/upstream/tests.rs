use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use hyper::{Method, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::net::Patient;
use crate::net::test_server::{TestServer, answer, authority, gitea};

const LIMIT: Duration = Duration::from_secs(60);

fn upstream(url: &str) -> Upstream {
    Upstream::new(&gitea(url)).unwrap()
}

fn post(upstream: &Upstream) -> Request<OutBody> {
    let path = PathAndQuery::from_static("/sub/a%2Fb?c=d");
    let mut request = Request::new(OutBody::from(Bytes::from_static(b"body")));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = upstream.uri(&path);
    request
}

#[test]
fn addresses_keep_the_sub_path() {
    let upstream = upstream("http://gitea:3000/sub/");
    assert_eq!(upstream.base_path(), "/sub");
    assert_eq!(upstream.uri(&PathAndQuery::from_static("/sub/x")), "http://gitea:3000/sub/x");
    assert_eq!(upstream.below("/a.B/C"), "http://gitea:3000/sub/a.B/C");
    assert_eq!(upstream.below("/user?a=b"), "http://gitea:3000/sub/user?a=b");
}

#[test]
fn a_password_in_the_address_is_dropped() {
    let upstream = upstream("http://user:password@[::1]:3000");
    assert_eq!(upstream.uri(&PathAndQuery::from_static("/")), "http://[::1]:3000/");
    assert!(!format!("{upstream:?}").contains("password"));
}

#[tokio::test]
async fn passes_the_path_and_names_the_host() {
    let server = TestServer::start(|request| {
        let said = format!(
            "{:?} {} {:?} {:?}",
            request.version(),
            request.uri(),
            request.headers()["host"],
            request.body()
        );
        answer(200, "text/plain", said)
    })
    .await;
    let upstream = upstream(&format!("http://{}/sub", server.address));
    let response = upstream.send(post(&upstream), LIMIT).await.unwrap();
    let body = read_limited(response.into_body(), 1000, LIMIT).await.unwrap();
    let expected = format!("HTTP/1.1 /sub/a%2Fb?c=d {:?} b\"body\"", server.address.to_string());
    assert_eq!(body, expected);
}

#[tokio::test]
async fn reads_no_more_than_the_limit() {
    let server = TestServer::start(|_| answer(200, "text/plain", vec![0; 1001])).await;
    let upstream = upstream(&format!("http://{}", server.address));
    let response = upstream.send(post(&upstream), LIMIT).await.unwrap();
    let error = read_limited(response.into_body(), 1000, LIMIT).await.unwrap_err();
    assert!(matches!(error, ReadError::TooLarge(1000)), "{error}");
}

/// Counts connections, and answers one request on each connection, keeping it open.
async fn count_connections(
    send: impl AsyncFn(&Upstream) -> Result<Response<InBody>, UpstreamError>,
) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(&format!("http://{}", listener.local_addr().unwrap()));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let server = tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                loop {
                    read_request(&mut tcp).await;
                    let _ = tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            });
        }
    });
    for _ in 0..3 {
        let response = send(&upstream).await.unwrap();
        read_limited(response.into_body(), 10, LIMIT).await.unwrap();
        // Lets the client's own task put the connection back.
        tokio::task::yield_now().await;
    }
    server.abort();
    count.load(Ordering::Relaxed)
}

/// Reads until the body that `post` sends is there.
async fn read_request(tcp: &mut tokio::net::TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"body") {
        if tcp.read_buf(&mut read).await.unwrap() == 0 {
            return std::future::pending().await;
        }
    }
}

#[tokio::test]
async fn connections_are_reused_but_for_what_must_be_fresh() {
    let pooled = count_connections(async |up| up.send(post(up), LIMIT).await).await;
    assert_eq!(pooled, 1);
    let fresh = count_connections(async |up| up.send_fresh(post(up), LIMIT).await).await;
    assert_eq!(fresh, 3);
}

#[tokio::test]
async fn a_refused_connection_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let upstream = upstream(&format!("http://{address}"));
    upstream.set_up(true);
    for error in [
        upstream.send(post(&upstream), LIMIT).await.unwrap_err(),
        upstream.send_fresh(post(&upstream), LIMIT).await.unwrap_err(),
    ] {
        assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Connect, false));
        let said = error.to_string();
        assert!(said.contains("is Gitea up") && said.contains("refused"), "{said}");
    }
    assert!(!upstream.is_up());
}

#[test]
fn only_silence_counts_and_only_of_who_could_hear() {
    let gitea = Authority::from_static("gitea:3000");
    let too_slow = |limit| UpstreamError::too_slow(&gitea, limit, true);
    for (limit, counts) in [(10, false), (1999, false), (2000, true), (4999, true)] {
        let limit = Duration::from_millis(limit);
        assert_eq!(too_slow(limit).is_silence(limit), counts, "{limit:?}");
    }
    for (kind, counts) in [
        (UpstreamErrorKind::Dns, true),
        (UpstreamErrorKind::Connect, true),
        (UpstreamErrorKind::Tls, true),
        (UpstreamErrorKind::Reset, false),
        (UpstreamErrorKind::Protocol, false),
        (UpstreamErrorKind::Open, false),
    ] {
        let mut error = too_slow(LIMIT);
        error.kind = kind;
        assert_eq!(error.is_silence(Duration::ZERO), counts, "{kind:?}");
    }
}

#[tokio::test]
async fn a_host_without_an_address_is_told() {
    // A label of more than 63 characters is refused before any name server is asked.
    let upstream = upstream(&format!("http://{}.invalid", "x".repeat(64)));
    let error = upstream.send(post(&upstream), LIMIT).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Dns, false), "{error}");
}

#[tokio::test]
async fn a_reset_after_the_request_was_read_is_sent() {
    let server = TestServer::start(|_| None).await;
    let upstream = upstream(&format!("http://{}", server.address));
    for error in [
        upstream.send(post(&upstream), LIMIT).await.unwrap_err(),
        upstream.send_fresh(post(&upstream), LIMIT).await.unwrap_err(),
    ] {
        assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Reset, true), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(&format!("http://{}", listener.local_addr().unwrap()));
    let server = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_request(&mut tcp).await;
        tcp.write_all(b"220 mail ready\r\n\r\n").await.unwrap();
        tcp
    };
    let (answer, _tcp) = tokio::join!(upstream.send(post(&upstream), LIMIT), server);
    let error = answer.unwrap_err();
    assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Protocol, true), "{error}");
}

#[tokio::test]
async fn a_silent_gitea_ends_in_a_time_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(&format!("http://{}", listener.local_addr().unwrap()));
    let server = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        read_request(&mut tcp).await;
        tokio::time::pause();
        tcp
    };
    let (answer, _tcp) = tokio::join!(upstream.send_fresh(post(&upstream), LIMIT), server);
    let error = answer.unwrap_err();
    assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Timeout, true), "{error}");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trust = Trust::new();
    let upstream = trust.upstream(listener.local_addr().unwrap());
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        tokio::time::pause();
        tcp
    };
    let (answer, _tcp) = tokio::join!(upstream.send_fresh(post(&upstream), LIMIT), server);
    let error = answer.unwrap_err();
    assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Timeout, false), "{error}");
}

/// A file that holds an authority.
struct Trust {
    file: tempfile::NamedTempFile,
    server: rustls::ServerConfig,
}

impl Trust {
    fn new() -> Self {
        Self::speaking(&[])
    }

    fn speaking(protocols: &[&[u8]]) -> Self {
        let (pem, server) = authority(protocols);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(pem.as_bytes()).unwrap();
        Self { file, server }
    }

    fn upstream(&self, address: SocketAddr) -> Upstream {
        let mut gitea = gitea(&format!("https://localhost:{}", address.port()));
        gitea.ca_file = Some(self.file.path().into());
        Upstream::new(&gitea).unwrap()
    }
}

async fn version_over_tls(protocols: &[&[u8]]) -> Version {
    let trust = Trust::speaking(protocols);
    let server = TestServer::start_tls(trust.server.clone(), |request| {
        answer(200, "text/plain", request.into_body())
    })
    .await;
    let upstream = trust.upstream(server.address);
    let response = upstream.send(post(&upstream), LIMIT).await.unwrap();
    let version = response.version();
    assert_eq!(read_limited(response.into_body(), 10, LIMIT).await.unwrap(), "body");
    version
}

#[tokio::test]
async fn tls_speaks_http_2_where_offered_and_http_1_1_elsewhere() {
    assert_eq!(version_over_tls(&[b"h2", b"http/1.1"]).await, Version::HTTP_2);
    assert_eq!(version_over_tls(&[b"http/1.1"]).await, Version::HTTP_11);
    assert_eq!(version_over_tls(&[]).await, Version::HTTP_11);
}

#[tokio::test]
async fn tls_failures_name_the_setting() {
    let server =
        TestServer::start_tls(Trust::new().server, |_| answer(200, "text/plain", "")).await;
    let upstream = Trust::new().upstream(server.address);
    let error = upstream.send_fresh(post(&upstream), LIMIT).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Tls, false));
    assert!(error.to_string().contains("set gitea.ca_file"), "{error}");

    let plain = TestServer::start(|_| answer(200, "text/plain", "")).await;
    let upstream = Trust::new().upstream(plain.address);
    let error = upstream.send(post(&upstream), LIMIT).await.unwrap_err();
    assert_eq!((error.kind, error.sent), (UpstreamErrorKind::Tls, false));
    assert!(error.to_string().contains("begin with http://"), "{error}");
}

#[tokio::test]
async fn a_body_may_take_longer_than_an_answer() {
    // A client that sends a piece now and then, for longer than the silence that is borne.
    let (client, server) = tokio::io::duplex(1024);
    let (taken, body) = tokio::sync::oneshot::channel();
    let taken = std::sync::Mutex::new(Some(taken));
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let _ = taken.lock().unwrap().take().unwrap().send(request.into_body());
        std::future::pending::<Result<Response<String>, std::io::Error>>()
    });
    let io = hyper_util::rt::TokioIo::new(server);
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, service));
    let silence = Duration::from_millis(200);
    let sending = tokio::spawn(async move {
        let mut client = client;
        let head = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head).await.unwrap();
        for _ in 0..8 {
            client.write_all(b"1\r\na\r\n").await.unwrap();
            tokio::time::sleep(silence / 2).await;
        }
        client
    });

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(&format!("http://{}", silent.local_addr().unwrap()));
    let mut request = post(&upstream);
    *request.body_mut() =
        OutBody::Client(Patient::new(body.await.unwrap(), Duration::from_secs(60)));
    let begun = std::time::Instant::now();
    let error = upstream.send_patiently(request, silence).await.unwrap_err();
    assert_eq!(error.kind, UpstreamErrorKind::Timeout);
    assert!(begun.elapsed() > 5 * silence, "the wait began with the last piece");
    sending.await.unwrap();
}
