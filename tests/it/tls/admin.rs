//! The admin listener by TLS, and the commands that dial it.

use std::process::Command;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use super::certs::{Authority, dial, trust};
use super::{H1, H2};
use crate::admin::ask;
use crate::support::{Broker, Site, gitea};

const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789abcdef";

struct Stack {
    site: Site,
    broker: Broker,
    authority: Authority,
}

async fn start() -> Stack {
    start_with(|site, _| site).await
}

async fn start_with(change: impl FnOnce(Site, &Authority) -> Site) -> Stack {
    let gitea = gitea();
    let authority = Authority::new();
    let site = authority.sign("127.0.0.1").of(Site::new(&gitea), "admin");
    let site = change(site, &authority);
    site.write_secret("admin_token", ADMIN_TOKEN);
    let file = site.path("admin_token").to_str().unwrap().to_owned();
    let site = site.set("admin.token_file", &file);
    let broker = Broker::start(&site).await;
    Stack { site, broker, authority }
}

impl Stack {
    /// One request on a connection of its own.
    async fn send(&self, alpn: &[&str], request: Request<Full<Bytes>>) -> Response<Bytes> {
        let url = format!("https://{}", self.broker.admin);
        let stream = TokioIo::new(dial(&url, trust(&self.authority.pem(), alpn)).await.unwrap());
        let answer = if alpn == H2 {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let (head, body) = answer.into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }

    /// With Host, or `:authority`, as a browser has it.
    fn request(&self, alpn: &[&str], method: Method, path: &str) -> hyper::http::request::Builder {
        let admin = self.broker.admin;
        let request = Request::builder().method(method);
        if alpn == H2 {
            request.uri(format!("https://{admin}{path}"))
        } else {
            request.uri(path).header("host", admin.to_string())
        }
    }
}

/// A command's exit code, and what it said.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner-broker"));
    let output = command.env_clear().args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn it_speaks_both_versions_of_http() {
    let stack = start().await;
    for alpn in [H1, H2] {
        let request = stack.request(alpn, Method::GET, "/readyz").body(Full::default()).unwrap();
        assert_eq!(stack.send(alpn, request).await.body(), "ready\n");
        let request = stack
            .request(alpn, Method::GET, "/api/v1/status")
            .header("authorization", format!("Bearer {ADMIN_TOKEN}"));
        let answer = stack.send(alpn, request.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let status: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(status["certificates"][0]["name"], "admin");
        let request = stack.request(alpn, Method::GET, "/api/v1/status").body(Full::default());
        assert_eq!(stack.send(alpn, request.unwrap()).await.status(), StatusCode::UNAUTHORIZED);
    }
    // The socket stays as it is.
    let socket = tokio::net::UnixStream::connect(stack.site.path("admin.sock")).await.unwrap();
    assert_eq!(ask(socket, "GET", "/healthz", &[], "").await.status, 200);
    stack.broker.stop().await;
}

#[tokio::test]
async fn people_sign_in_over_either_and_only_from_its_own_page() {
    let stack = start().await;
    for alpn in [H1, H2] {
        let sign_in = |origin: String| {
            let form = format!("token={ADMIN_TOKEN}");
            stack
                .request(alpn, Method::POST, "/sign-in")
                .header("content-type", "application/x-www-form-urlencoded")
                .header("origin", origin)
                .body(Full::from(form))
                .unwrap()
        };
        let foreign = stack.send(alpn, sign_in("https://evil.example.org".into())).await;
        assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
        let own = stack.send(alpn, sign_in(format!("https://{}", stack.broker.admin))).await;
        assert_eq!(own.status(), StatusCode::SEE_OTHER);
        let cookie = own.headers()["set-cookie"].to_str().unwrap();
        assert!(cookie.starts_with("__Host-") && cookie.ends_with("; Secure"), "{cookie}");
        let (cookie, _) = cookie.split_once(';').unwrap();
        // Browsers split their cookies over several fields in HTTP/2.
        let page = stack
            .request(alpn, Method::GET, "/tokens/new")
            .header("cookie", "other=1")
            .header("cookie", cookie);
        let page = stack.send(alpn, page.body(Full::default()).unwrap()).await;
        assert_eq!(page.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn plain_http_is_told_what_to_do() {
    let stack = start().await;
    let stream = TcpStream::connect(stack.broker.admin).await.unwrap();
    let answer = ask(stream, "GET", "/metrics", &[], "").await;
    let problem = answer.problem(400, "plain-http");
    assert!(problem["detail"].as_str().unwrap().contains("https://"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_trust_an_authority_of_your_own() {
    let stack = start().await;
    let ca = stack.site.path("ca.pem");
    std::fs::write(&ca, stack.authority.pem()).unwrap();
    let url = format!("https://{}", stack.broker.admin);
    let ca = ca.to_str().unwrap();
    let (code, text) = run(&["healthcheck", "--url", &url, "--ca-file", ca]);
    assert_eq!(code, Some(0), "{text}");
    let token = stack.site.path("admin_token");
    let token = token.to_str().unwrap();
    let status = ["status", "--url", &url, "--ca-file", ca, "--admin-token-file", token];
    let (code, text) = run(&status);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("certificate        admin: until "), "{text}");
    // Where there is no socket, the check says by what name to ask.
    let admin = stack.broker.admin.to_string();
    let set = |key: &str, value: &str| format!("--set={key}={value}");
    let path = |name: &str| stack.site.path(name).to_str().unwrap().to_owned();
    let (code, text) = run(&[
        "healthcheck",
        &set("admin.listen", &admin),
        &set("admin.socket", "/nowhere/admin.sock"),
        &set("admin.tls.cert", &path("admin.crt")),
        &set("admin.tls.key", &path("admin.key")),
    ]);
    assert_eq!(code, Some(69), "{text}");
    assert!(text.contains("--url https://NAME:"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_show_a_certificate_where_one_is_asked_for() {
    let stack = start_with(|site, authority| {
        let ca = site.path("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        site.set("admin.tls.client_ca", ca.to_str().unwrap())
    })
    .await;
    stack.authority.sign("me").write(&stack.site, "me.crt", "me.key");
    let path = |name: &str| stack.site.path(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (path("ca.pem"), path("me.crt"), path("me.key"));
    let url = format!("https://{}", stack.broker.admin);
    let asked = ["healthcheck", "--url", &url, "--ca-file", &ca];
    let (code, text) = run(&asked);
    assert_eq!(code, Some(69), "{text}");
    let (code, text) = run(&[&asked[..], &["--client-cert", &cert, "--client-key", &key]].concat());
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = run(&[&asked[..], &["--client-cert", &cert, "--client-key", &ca]].concat());
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("--client-key: ") && text.contains("holds no private key"), "{text}");
}
