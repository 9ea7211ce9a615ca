//! Bodies stream both ways in constant memory, and every wait has an end.

use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use runner_broker::lifecycle::Timing;
use runner_broker::sandbox::gitea::{Effect, Route, When, download_sha256};
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use serde_json::Value;

use crate::binary::Binary;
use crate::raw::Wire;
use crate::scripted::{ScriptedGitea, scripted};
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, quick};
use crate::upstream_tls::{self, authority, trusting};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// No body, of whatever size, may cost more.
const GROWTH: u64 = 4 * MIB;

async fn send(
    method: Method,
    url: &str,
    body: BoxBody<Bytes, std::io::Error>,
    length: Option<u64>,
) -> Response<hyper::body::Incoming> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(url);
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    client.request(request.body(body).unwrap()).await.unwrap()
}

fn nothing() -> BoxBody<Bytes, std::io::Error> {
    Empty::new().map_err(|never| match never {}).boxed()
}

/// Gets `/download/…` and checks every byte.
async fn download(broker: &str, bytes: u64, query: &str) {
    let url = format!("{broker}/download/{bytes}{query}");
    let mut body = send(Method::GET, &url, nothing(), None).await.into_body();
    let (mut count, mut context) = (0, digest::Context::new(&digest::SHA256));
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        count += data.len() as u64;
        context.update(&data);
    }
    assert_eq!(count, bytes);
    assert_eq!(hex(context.finish()), expected(bytes));
}

/// Puts to `/upload` what a download gives, and checks what arrived.
async fn upload(broker: &str, bytes: u64, sized: bool) {
    let piece: Bytes = (0..=250_u8).cycle().take(251 * 256).collect();
    let pieces = stream::unfold(bytes, move |left| {
        let next = left.min(piece.len() as u64);
        let piece = piece.slice(..next as usize);
        async move { (next > 0).then(|| (Ok(Frame::data(piece)), left - next)) }
    });
    let length = sized.then_some(bytes);
    let url = format!("{broker}/upload");
    let answer = send(Method::PUT, &url, StreamBody::new(pieces).boxed(), length).await;
    let seen = answer.into_body().collect().await.unwrap().to_bytes();
    let seen: Value = serde_json::from_slice(&seen).unwrap();
    assert_eq!((&seen["bytes"], &seen["sha256"]), (&bytes.into(), &expected(bytes).into()));
    let told = seen["headers"].as_array().unwrap().iter().any(|pair| pair[0] == "content-length");
    assert_eq!(told, sized, "{seen}");
}

fn expected(bytes: u64) -> String {
    static LAST: std::sync::Mutex<Option<(u64, String)>> = std::sync::Mutex::new(None);
    let mut last = LAST.lock().unwrap();
    match &*last {
        Some((of, digest)) if *of == bytes => digest.clone(),
        _ => last.insert((bytes, download_sha256(bytes))).1.clone(),
    }
}

fn hex(digest: digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bodies of these lengths pass both ways, and the broker's memory stays as it was.
async fn pass_in_constant_memory(site: &Site, sized: u64, chunked: u64) {
    let broker = Binary::start(site);
    let all = async |sized, chunked| {
        download(&broker.url, sized, "").await;
        upload(&broker.url, sized, true).await;
        download(&broker.url, chunked, "?chunked").await;
        upload(&broker.url, chunked, false).await;
    };
    all(16 * MIB, 16 * MIB).await;
    let warm = broker.memory("VmRSS");
    let begun = Instant::now();
    all(sized, chunked).await;
    let peak = broker.memory("VmHWM");
    println!("{:?}; memory: {warm} bytes before, {peak} at most", begun.elapsed());
    assert!(peak < warm + GROWTH, "memory grew from {warm} to {peak} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_in_constant_memory() {
    let gitea = gitea();
    pass_in_constant_memory(&Site::new(&gitea), GIB, 256 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_pass_over_http_2_too() {
    let (pem, tls) = authority("127.0.0.1", true);
    let gitea = upstream_tls::gitea(tls);
    pass_in_constant_memory(&trusting(&gitea, &pem), 128 * MIB, 64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_costs_no_memory() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Binary::start(&site);
    download(&broker.url, 16 * MIB, "").await;
    let warm = broker.memory("VmRSS");
    let url = format!("{}/download/{}", broker.url, 256 * MIB);
    let mut body = send(Method::GET, &url, nothing(), None).await.into_body();
    let mut count = body.frame().await.unwrap().unwrap().into_data().unwrap().len() as u64;
    // All buffers on the way are full once the broker's memory stands still.
    let mut last = 0;
    eventually("nothing moves any more", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        std::mem::replace(&mut last, broker.memory("VmRSS")) == last
    })
    .await;
    let peak = broker.memory("VmHWM");
    println!("memory: {warm} bytes before, {peak} at most");
    assert!(peak < warm + GROWTH, "memory grew from {warm} to {peak} bytes");
    while let Some(frame) = body.frame().await {
        count += frame.unwrap().into_data().unwrap().len() as u64;
    }
    assert_eq!(count, 256 * MIB);
}

#[tokio::test]
async fn an_answer_that_stalls_has_an_end_and_one_that_creeps_goes_on() {
    let mut scripted = ScriptedGitea::start().await;
    let spare = gitea();
    let site = Site::new(&spare).set("gitea.url", &scripted.url);
    let timing = Timing { stall: Duration::from_millis(300), ..quick() };
    let broker = Broker::start_with(&site, timing).await;
    let mut client = Wire::dial(&broker.url).await;
    client.say("GET /a HTTP/1.1\r\nHost: b\r\n\r\n").await;
    let (mut upstream, _) = scripted.asked().await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").await;
    assert_eq!(client.head().await.unwrap().status(), 200);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        upstream.say("x").await;
        assert_eq!(client.bytes(1).await, b"x", "it creeps");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Now nothing more comes, and both connections stay open.
    assert_eq!(client.rest().await, b"", "the broker ends it");
}

#[tokio::test]
async fn who_hangs_up_takes_the_request_to_gitea_along() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    for (what, request, answer) in [
        ("waiting", "GET /a HTTP/1.1\r\nHost: b\r\n\r\n", ""),
        (
            "reading",
            "GET /a HTTP/1.1\r\nHost: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\nbegun",
        ),
        (
            "reading chunks",
            "GET /a HTTP/1.1\r\nHost: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n",
        ),
        ("sending", "PUT /a HTTP/1.1\r\nHost: b\r\nContent-Length: 1000000000\r\n\r\nbegun", ""),
        (
            "sending chunks",
            "PUT /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n",
            "",
        ),
    ] {
        let mut client = Wire::dial(&broker.url).await;
        client.say(request).await;
        let (mut upstream, _) = gitea.asked().await;
        if !answer.is_empty() {
            upstream.say(answer).await;
            client.head().await.expect(what);
        }
        drop(client);
        let seen = upstream.rest().await;
        assert!(!seen.ends_with(b"0\r\n\r\n"), "{what}: Gitea does not take it for whole");
    }
    assert!(broker.stop().await < Duration::from_secs(2), "nothing is left of them");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let (mut gitea, _spare, _site, broker) = scripted().await;
    for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        let mut client = Wire::dial(&broker.url).await;
        client.say("GET /a HTTP/1.1\r\nHost: b\r\n\r\n").await;
        let (mut upstream, _) = gitea.asked().await;
        upstream.say(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n5\r\nbegun\r\n")).await;
        client.head().await.unwrap();
        drop(upstream);
        let rest = client.rest().await;
        assert!(rest.len() < 100 && !rest.ends_with(b"0\r\n\r\n"), "{framing}");
    }
}

#[tokio::test]
async fn the_callers_time_limit_is_kept() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let program = StandInRunner::new(&broker.url);
    gitea.faults().always(Route::FetchTask, When::BeforeActing, Effect::Stall);
    let fetch = "/api/actions/runner.v1.RunnerService/FetchTask";
    let limit = [("connect-timeout-ms", "300")];
    let begun = Instant::now();
    let answer = program.call(fetch, "application/proto", &limit, "").await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
    assert_eq!(answer.status, 504);
    assert_eq!(answer.headers["content-type"], "application/json");
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(error["code"], "deadline_exceeded");

    // What is no limit is none: the answer comes.
    for limit in ["", "x", "-1", "1.5", "0x1", "99999999999"] {
        let limit = [("connect-timeout-ms", limit)];
        let answer = program.send(Method::GET, "/slow?ms=50", &limit, "").await.unwrap();
        assert_eq!(answer.status, 200, "{limit:?}");
    }
}

#[tokio::test]
async fn a_gitea_that_is_down_is_told_as_unavailable() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let program = StandInRunner::new(&broker.url);
    gitea.set_down().await.unwrap();
    for (method, path) in [
        (Method::POST, "/api/actions/runner.v1.RunnerService/FetchTask"),
        (Method::POST, "/api/actions/runner.v1.RunnerService/UpdateLog"),
        (Method::POST, "/api/actions/ping.v1.PingService/Ping"),
        (Method::GET, "/acme/app.git/info/refs?service=git-upload-pack"),
        (Method::PUT, "/upload"),
    ] {
        let answer = program.send(method, path, &[], "").await.unwrap();
        assert_eq!(answer.status, 503, "{path}");
        assert_eq!(answer.headers["content-type"], "application/json");
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(error["code"], "unavailable", "{path}");
        assert!(error["message"].as_str().unwrap().contains("is Gitea up"), "{error}");
    }
    gitea.set_up().await.unwrap();
    program.ping("one").await.unwrap();
}

#[tokio::test]
async fn idle_and_half_sent_connections_do_not_hold_up_the_end() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut open = Vec::new();
    for (begun, answered) in [
        ("", false),
        ("GET /slow HTTP/1.1\r\nHost: b\r\n\r\n", true),
        ("GET /slow HTTP/1.1\r\nHost: b\r\n\r\nGET /slow HT", true),
        ("GET /slow HTTP/1.1\r\nHos", false),
        ("POST /api/actions/runner.v1.RunnerService/Declare HTTP/1.1\r\nHost: b\r\n", false),
    ] {
        for _ in 0..10 {
            let mut client = Wire::dial(&broker.url).await;
            client.say(begun).await;
            if answered {
                let head = client.head().await.unwrap();
                client.body(&head).await;
            }
            open.push(client);
        }
    }
    let took = broker.stop().await;
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test]
async fn a_request_in_flight_ends_before_the_broker_does() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate(Route::Path("/slow".into()), When::BeforeActing);
    let mut client = Wire::dial(&broker.url).await;
    client.say("GET /slow HTTP/1.1\r\nHost: b\r\n\r\n").await;
    gate.reached().await;
    let stopping = tokio::spawn(broker.stop());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!stopping.is_finished());
    gate.open();
    let head = client.head().await.expect("the answer");
    assert_eq!(client.body(&head).await, b"slow\n");
    stopping.await.unwrap();
}

#[tokio::test]
async fn a_runner_whose_machine_dies_is_noticed() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut client = Wire::dial(&broker.url).await;
    client.say("PUT /upload HTTP/1.1\r\nHost: b\r\nContent-Length: 10\r\n\r\nhalf").await;
    gitea.journal().wait_for(|entry| entry.target == "/upload").await;
    // The kernel asks a silent client whether it is there: timer 02 of the broker's end.
    let (ours, brokers) = client.ports();
    let pair = format!(":{brokers:04X} 0100007F:{ours:04X} ");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let socket = table.lines().find(|line| line.contains(&pair)).expect("the broker's end");
    assert_eq!(socket.split_whitespace().nth(5).unwrap().split(':').next(), Some("02"), "{socket}");
}

#[tokio::test]
async fn many_requests_share_few_connections() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let program = StandInRunner::new(&broker.url);
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
    let runner = program.register(&options).await.unwrap();
    for _ in 0..50 {
        runner.fetch_task(0).await.unwrap();
    }
    // Gitea's ends, as the kernel lists them: those of Register and of the broker's own calls among them.
    let port: u16 = gitea.url().rsplit(':').next().unwrap().parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = table.lines().filter(|line| {
        line.split_whitespace().nth(1).is_some_and(|end| end.ends_with(&format!(":{port:04X}")))
    });
    let ends = ends.count();
    assert!(ends <= 6, "{ends} connections for 50 polls of one runner");
}
