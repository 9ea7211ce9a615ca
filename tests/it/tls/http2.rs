//! HTTP/2 from runners and jobs, HTTP/1.1 to Gitea.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use runner_broker::connect::messages::RegisterRequest;
use runner_broker::connect::{Codec, encode};
use runner_broker::sandbox::gitea::{Route, When, download_sha256};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use super::certs::{dial, trust};
use super::{H2, Stack};
use crate::raw::REGISTER;
use crate::support::{ENROLLMENT_TOKEN, eventually, within};

const MIB: usize = 1 << 20;

/// One connection, and the task that drives it.
async fn connect(stack: &Stack) -> (SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let stream = dial(&stack.broker.url, trust(&stack.authority.pem(), H2)).await.unwrap();
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn get(uri: String) -> hyper::http::request::Builder {
    Request::builder().method(Method::GET).uri(uri)
}

fn named<'e>(echo: &'e Value, name: &str) -> Vec<&'e str> {
    let pairs = echo["headers"].as_array().unwrap();
    let of = pairs.iter().filter(|pair| pair[0] == name);
    of.map(|pair| pair[1].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_request_goes_to_gitea_as_http_1_has_it() {
    let stack = Stack::start().await;
    let (mut sender, _connection) = connect(&stack).await;
    let request = get(format!("{}/echo/a%2Fb?c=d&e", stack.broker.url))
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3")
        .header("te", "trailers")
        .header("x-forwarded-proto", "https")
        .body(Full::default())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    for name in ["connection", "transfer-encoding", "keep-alive"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    let echo = answer.into_body().collect().await.unwrap().to_bytes();
    let echo: Value = serde_json::from_slice(&echo).unwrap();
    assert_eq!(echo["version"], "HTTP/1.1");
    assert_eq!(echo["uri"], "/echo/a%2Fb?c=d&e");
    assert_eq!(named(&echo, "cookie"), ["a=1; b=2; c=3"]);
    assert_eq!(named(&echo, "host"), [stack.gitea.url().trim_start_matches("http://")]);
    for name in ["te", "x-forwarded-proto", "connection"] {
        assert!(named(&echo, name).is_empty(), "{name}");
    }
    // One host and no other.
    let request = get(format!("{}/echo", stack.broker.url)).header("host", "evil.example.org");
    let answer = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let request = Request::builder().method(Method::CONNECT).uri("gitea.example.org:443");
    let answer = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
    assert_eq!(stack.gitea.journal().count(|entry| entry.target.starts_with("/echo")), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_stream_both_ways() {
    let stack = Stack::start().await;
    let program = stack.program(H2);
    for (length, query) in [(64 * MIB, ""), (3 * MIB, "?chunked")] {
        let path = format!("/download/{length}{query}");
        let down = program.send(Method::GET, &path, &[], "").await.unwrap();
        assert_eq!(down.body.len(), length);
        let up = program.send(Method::PUT, "/upload", &[], down.body).await.unwrap();
        let up: Value = serde_json::from_slice(&up.body).unwrap();
        assert_eq!(up["sha256"], download_sha256(length as u64));
    }
}

#[tokio::test]
async fn a_runner_that_leaves_is_seen_by_its_connection() {
    let stack = Stack::start().await;
    let runner = stack.runner(H2, "one").await;
    runner.declare(&["host"]).await.unwrap();
    let idle = async |count: &str| {
        stack.metrics().await.contains(&format!("scope=\"instance\",state=\"{count}\"}} 1"))
    };
    assert!(idle("idle").await);
    drop(runner);
    eventually("it is gone", async || idle("gone").await).await;
}

/// A Register as a client sends it that keeps no connection for later.
fn register(stack: &Stack) -> Request<Full<Bytes>> {
    let message = RegisterRequest {
        name: "one".into(),
        token: ENROLLMENT_TOKEN.into(),
        version: "v0.3.0".into(),
        labels: vec!["host".into()],
        ephemeral: false,
    };
    let request = Request::builder().method(Method::POST);
    let request = request.uri(format!("{}{REGISTER}", stack.broker.url));
    let request = request.header("content-type", "application/json");
    request.body(Full::from(encode(Codec::Json, &message))).unwrap()
}

async fn uuid(answer: Response<Incoming>) -> String {
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let answer: Value = serde_json::from_slice(&body).unwrap();
    answer["runner"]["uuid"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_answer_has_arrived_where_a_process_ends_without_farewell() {
    let stack = Stack::start().await;
    let (mut sender, connection) = connect(&stack).await;
    let first = uuid(sender.send_request(register(&stack)).await.unwrap()).await;
    // A further request on the connection tells nothing: it may have been sent before the answer came.
    let request = get(format!("{}/echo", stack.broker.url)).body(Full::default()).unwrap();
    sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    let delivered = || stack.broker.lifecycle.roster.all()[0].record().delivered;
    assert!(!delivered());
    // As the kernel closes it: no GOAWAY, no close_notify.
    connection.abort();
    eventually("the end is seen", async || delivered()).await;
    let (mut sender, _connection) = connect(&stack).await;
    let second = uuid(sender.send_request(register(&stack)).await.unwrap()).await;
    assert_ne!(first, second, "two runners");
    assert_eq!(stack.registers(), 2);
}

#[tokio::test]
async fn who_gives_up_a_register_and_asks_again_is_the_same_runner() {
    let stack = Stack::start().await;
    let (mut sender, _connection) = connect(&stack).await;
    let gate = stack.gitea.faults().gate(Route::Register, When::AfterActing);
    let given_up = tokio::spawn(sender.send_request(register(&stack)));
    within(gate.reached()).await;
    // RST_STREAM, and the next request after it.
    given_up.abort();
    let _ = given_up.await;
    let again = tokio::spawn(sender.send_request(register(&stack)));
    let request = get(format!("{}/echo", stack.broker.url)).body(Full::default()).unwrap();
    sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    gate.open();
    let uuid = uuid(within(again).await.unwrap().unwrap()).await;
    assert_eq!(stack.registers(), 1);
    assert_eq!(stack.gitea.runners()[0].uuid, uuid);
}

#[tokio::test]
async fn open_connections_do_not_hold_up_the_end() {
    let stack = Stack::start().await;
    // Idle, and it listens.
    let (mut sender, connection) = connect(&stack).await;
    let request = get(format!("{}/echo", stack.broker.url)).body(Full::default()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    answer.into_body().collect().await.unwrap();
    // Idle, and it does not: it reads nothing, and said no more than its first word.
    let mut deaf = dial(&stack.broker.url, trust(&stack.authority.pem(), H2)).await.unwrap();
    deaf.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        .await
        .unwrap();
    // And one that said nothing yet.
    let _silent = dial(&stack.broker.url, trust(&stack.authority.pem(), H2)).await.unwrap();
    // A request in hand is answered all the same.
    let gate = stack.gitea.faults().gate(Route::UpdateLog, When::BeforeActing);
    let runner = stack.runner(H2, "busy").await;
    runner.declare(&["host"]).await.unwrap();
    stack.gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    let id = task.unwrap().id;
    let reporting = tokio::spawn(async move { runner.update_log(id, 0, &["line"], false).await });
    within(gate.reached()).await;
    let stopping = tokio::spawn(stack.broker.stop());
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    within(reporting).await.unwrap().unwrap();
    within(connection).await.unwrap().unwrap();
    let took = stopping.await.unwrap();
    assert!(took < Duration::from_secs(8), "{took:?}");
}
