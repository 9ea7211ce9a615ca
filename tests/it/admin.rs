//! The admin listener and the Unix socket.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use runner_broker::admin::{self, Admin};
use runner_broker::net::tls::Certificates;
use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, eventually, gitea};

/// A broker in front of a Gitea, with the folder that both need.
pub(crate) struct Stack {
    pub(crate) gitea: StandInGitea,
    pub(crate) site: Site,
    pub(crate) broker: Broker,
}

impl Stack {
    pub(crate) async fn start() -> Self {
        Self::start_with(|site| site).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(Site) -> Site) -> Self {
        let gitea = gitea();
        let site = change(Site::new(&gitea));
        let broker = Broker::start(&site).await;
        eventually("Gitea was asked", async || broker.lifecycle.gitea.is_up()).await;
        Self { gitea, site, broker }
    }

    /// A runner that has spoken, so that it shares its identity with nobody.
    pub(crate) async fn runner(&self, name: &str) -> Runner {
        let program = StandInRunner::new(&self.broker.url);
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), name);
        let runner = program.register(&options).await.unwrap();
        runner.declare(&["host"]).await.unwrap();
        runner
    }

    pub(crate) async fn tcp(&self, method: &str, path: &str) -> Answer {
        self.dial(method, path, &[], "").await
    }

    pub(crate) async fn socket(&self, method: &str, path: &str) -> Answer {
        self.local(method, path, &[], "").await
    }

    /// Over TCP, with header lines and a body.
    pub(crate) async fn dial(
        &self,
        method: &str,
        path: &str,
        lines: &[&str],
        body: &str,
    ) -> Answer {
        let stream = TcpStream::connect(self.broker.admin).await.unwrap();
        ask(stream, method, path, lines, body).await
    }

    /// The same over the Unix socket.
    pub(crate) async fn local(
        &self,
        method: &str,
        path: &str,
        lines: &[&str],
        body: &str,
    ) -> Answer {
        let stream = UnixStream::connect(self.site.path("admin.sock")).await.unwrap();
        ask(stream, method, path, lines, body).await
    }
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The problem that it must be.
    pub(crate) fn problem(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.head);
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("urn:runner-broker:{kind}"));
        assert!(problem["title"].as_str().is_some_and(|title| !title.is_empty()));
        problem
    }

    /// The JSON of an answer that must have this status.
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"), "{}", self.head);
        self.json()
    }
}

pub(crate) async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    lines: &[&str],
    body: &str,
) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n");
    for line in lines {
        request += &format!("{line}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn metrics_have_every_name_and_no_runner_in_a_label() {
    let stack = Stack::start().await;
    let runner = stack.runner("builder-of-the-test").await;
    eventually("the API token was tried", async || {
        stack.broker.lifecycle.api_token_valid(&runner_broker::config::Scope::Instance)
            == Some(true)
    })
    .await;
    let answer = stack.tcp("GET", "/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4"));

    for name in [
        "build_info",
        "gitea_up",
        "api_token_valid",
        "store_writable",
        "registrations_total",
        "registration_duration_seconds",
        "unsettled_registrations",
        "deregistrations_total",
        "runners",
        "enrollment_tokens",
        "enrollment_rejections_total",
        "requests_total",
        "request_duration_seconds",
        "upstream_errors_total",
    ] {
        let help = format!("# HELP runner_broker_{name} ");
        assert!(answer.body.contains(&help), "{name} is missing in\n{}", answer.body);
    }
    for series in answer.body.lines().filter(|line| !line.starts_with('#')) {
        let known = ["runner_broker_", "process_"];
        assert!(known.iter().any(|prefix| series.starts_with(prefix)), "{series}");
    }
    for value in [
        r#"runner_broker_runners{scope="instance",state="idle"} 1"#,
        r#"runner_broker_registrations_total{outcome="registered",scope="instance"} 1"#,
        r#"runner_broker_api_token_valid{scope="instance"} 1"#,
        "runner_broker_gitea_up 1",
        "runner_broker_store_writable 1",
        "process_open_fds ",
    ] {
        assert!(answer.body.contains(value), "{value} is missing in\n{}", answer.body);
    }
    let token = runner.credentials.token.expose_secret();
    for word in ["builder-of-the-test", &runner.credentials.uuid, token, ENROLLMENT_TOKEN] {
        assert!(!answer.body.contains(word), "{}", answer.body);
    }
    assert_eq!(stack.socket("GET", "/metrics").await.status, 200);
}

#[tokio::test]
async fn refusals_are_counted_by_who_refused() {
    let wrong = |site: Site| site.set("gitea.scope", "org:acme").registration_token("reset-since");
    let stack = Stack::start_with(wrong).await;
    let program = StandInRunner::new(&stack.broker.url);
    for token in [ENROLLMENT_TOKEN, "of-another-broker"] {
        program.register(&RegisterOptions::new(token.into(), "a")).await.unwrap_err();
    }
    let metrics = stack.tcp("GET", "/metrics").await.body;
    for value in [
        r#"runner_broker_registrations_total{outcome="refused",scope="org:acme"} 1"#,
        r#"runner_broker_enrollment_rejections_total{reason="token"} 1"#,
        r#"runner_broker_runners{scope="org:acme",state="unclear"} 0"#,
    ] {
        assert!(metrics.contains(value), "{value} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn health_is_told_on_both_listeners() {
    let stack = Stack::start().await;
    for path in ["/healthz", "/readyz", "/readyz?verbose", "/metrics"] {
        for method in ["GET", "HEAD"] {
            let (tcp, socket) = (stack.tcp(method, path).await, stack.socket(method, path).await);
            assert_eq!((tcp.status, socket.status), (200, 200), "{method} {path}");
            assert_eq!(tcp.body.is_empty(), method == "HEAD", "{method} {path}");
        }
    }
    assert_eq!(stack.tcp("GET", "/healthz").await.body, "ok\n");
    assert_eq!(stack.tcp("GET", "/readyz").await.body, "ready\n");
    let told = stack.tcp("GET", "/readyz?verbose").await.body;
    for line in ["[+] listening: at ", "[+] store: ", "[+] serving: ", "[+] gitea: "] {
        assert!(told.contains(line), "{told}");
    }
}

#[tokio::test]
async fn a_gitea_that_is_down_is_told_and_does_not_make_the_broker_unready() {
    let stack = Stack::start().await;
    stack.gitea.set_down().await.unwrap();
    StandInRunner::new(&stack.broker.url).ping("a").await.unwrap_err();
    let told = stack.tcp("GET", "/readyz?verbose").await;
    assert_eq!(told.status, 200, "{}", told.body);
    assert!(told.body.contains("[-] gitea: does not answer"), "{}", told.body);
    let status = stack.socket("GET", "/api/v1/status").await.json();
    assert_eq!(status["gitea"]["up"], false);
    let metrics = stack.tcp("GET", "/metrics").await.body;
    assert!(metrics.contains("runner_broker_gitea_up 0"), "{metrics}");
}

#[tokio::test]
async fn a_store_that_takes_no_writes_makes_the_broker_unready() {
    let stack = Stack::start().await;
    stack.broker.lifecycle.store.close().await.unwrap();
    let told = stack.tcp("GET", "/readyz").await;
    assert_eq!(told.status, 503);
    assert!(
        told.body.starts_with("[-] store: ") && told.body.ends_with("not ready\n"),
        "{}",
        told.body
    );
    assert_eq!(stack.tcp("GET", "/healthz").await.status, 200);
    let metrics = stack.tcp("GET", "/metrics").await.body;
    assert!(metrics.contains("runner_broker_store_writable 0"), "{metrics}");
}

#[tokio::test]
async fn a_broker_that_ends_is_not_ready() {
    let stack = Stack::start().await;
    stack.broker.lifecycle.begin_drain();
    let told = stack.tcp("GET", "/readyz").await;
    assert_eq!(
        (told.status, told.body.as_str()),
        (503, "[-] serving: the broker is ending\nnot ready\n")
    );
    assert_eq!(stack.socket("GET", "/api/v1/status").await.json()["draining"], true);
}

#[tokio::test]
async fn without_an_admin_token_only_metrics_and_health_are_open_over_tcp() {
    let stack = Stack::start().await;
    let runner = stack.runner("a").await;
    let own = format!("/api/v1/runners/{}", runner.credentials.id);
    for (method, path) in [
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/runners"),
        ("GET", "/api/v1/"),
        ("GET", "/api/v1/openapi.json"),
        ("POST", "/api/v1/tokens"),
        ("GET", own.as_str()),
        ("DELETE", own.as_str()),
    ] {
        let problem = stack.tcp(method, path).await.problem(403, "admin-off");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("admin.token_file") && detail.contains("admin.sock"), "{detail}");
    }
    let guess = stack.dial("GET", "/api/v1/status", &["Authorization: Bearer x"], "").await;
    guess.problem(403, "admin-off");
    assert_eq!(stack.gitea.runners().len(), 1);
    let mode = std::fs::metadata(stack.site.path("admin.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_wrong_path_or_method_is_told_what_is_here() {
    let stack = Stack::start().await;
    let nothing = stack.socket("GET", "/api/v1/runner").await.problem(404, "not-found");
    let told = nothing["detail"].as_str().unwrap();
    assert!(told.contains("/metrics") && told.contains("/api/v1/openapi.json"), "{told}");
    let refused = stack.socket("POST", "/api/v1/runners").await;
    refused.problem(405, "method");
    assert_eq!(refused.header("allow"), Some("GET,HEAD"));
    stack.tcp("DELETE", "/metrics").await.problem(405, "method");
    stack.socket("DELETE", "/api/v1/runners/1?cancel_task=maybe").await.problem(400, "request");
    stack.socket("DELETE", "/api/v1/runners/1?cancel=true").await.problem(400, "request");
    stack.socket("GET", "/api/v1/runners/%ff").await.problem(400, "request");
}

#[tokio::test]
async fn a_runner_is_found_by_id_uuid_and_name_and_shows_no_secret() {
    let stack = Stack::start().await;
    let runner = stack.runner("a/b ü").await;
    let (id, uuid) = (runner.credentials.id, &runner.credentials.uuid);
    let list = stack.socket("GET", "/api/v1/runners").await;
    let one = list.json()[0].clone();
    for wanted in [id.to_string(), uuid.clone(), "a%2Fb%20%C3%BC".into()] {
        let found = stack.socket("GET", &format!("/api/v1/runners/{wanted}")).await;
        assert_eq!((found.status, &found.json()["uuid"]), (200, &one["uuid"]), "{wanted}");
    }
    let time = |key: &str| humantime::parse_rfc3339(one[key].as_str().unwrap()).unwrap();
    assert!(time("last_seen_at").elapsed().unwrap() < PATIENCE);
    assert!(time("registered_at").elapsed().unwrap() < PATIENCE);
    let mut rest = one.clone();
    for key in ["last_seen_at", "registered_at", "version"] {
        rest.as_object_mut().unwrap().remove(key);
    }
    let expected = json!({
        "id": id, "uuid": uuid, "name": "a/b ü", "scope": "instance", "labels": ["host"],
        "state": "idle", "origin": "enrolled", "parent_id": "settings", "ephemeral": false, "peer": "127.0.0.1",
        "tasks": [], "file": null,
    });
    assert_eq!(rest, expected);
    assert!(!list.body.contains(runner.credentials.token.expose_secret()), "{}", list.body);
    let unknown =
        stack.socket("GET", "/api/v1/runners/nobody").await.problem(404, "unknown-runner");
    assert!(unknown["detail"].as_str().unwrap().contains("\"nobody\""), "{unknown}");
}

#[tokio::test]
async fn a_name_that_two_runners_have_is_answered_with_their_ids() {
    let stack = Stack::start().await;
    let (one, two) = (stack.runner("twin").await, stack.runner("twin").await);
    let ids = json!([one.credentials.id, two.credentials.id]);
    for method in ["GET", "DELETE"] {
        let problem =
            stack.socket(method, "/api/v1/runners/twin").await.problem(409, "ambiguous-runner");
        assert_eq!(problem["ids"], ids);
    }
    assert_eq!(stack.gitea.runners().len(), 2);
}

#[tokio::test]
async fn delete_deregisters_and_answers_the_record() {
    let stack = Stack::start().await;
    let runner = stack.runner("a").await;
    assert!(stack.site.runner_file("a").exists());
    let path = format!("/api/v1/runners/{}", runner.credentials.id);
    let answer = stack.socket("DELETE", &path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["state"], "deregistered");
    assert_eq!(answer.json()["file"], Value::Null);
    assert!(stack.gitea.runners().is_empty());
    assert!(!stack.site.runner_file("a").exists());
    stack.socket("DELETE", &path).await.problem(404, "unknown-runner");
    let metrics = stack.tcp("GET", "/metrics").await.body;
    let counted = r#"runner_broker_deregistrations_total{outcome="deleted",reason="admin"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_busy_runner_is_left_unless_its_task_is_cancelled() {
    let stack = Stack::start().await;
    let runner = stack.runner("a").await;
    let task = stack.gitea.queue_task(&["host"]);
    runner.fetch_task(0).await.unwrap().0.expect("the task");
    let path = format!("/api/v1/runners/{}", runner.credentials.id);
    assert_eq!(stack.socket("GET", &path).await.json()["tasks"], json!([task]));
    stack.socket("DELETE", &path).await.problem(409, "busy");
    stack.socket("DELETE", &format!("{path}?cancel_task=false")).await.problem(409, "busy");
    assert_eq!(stack.gitea.runners().len(), 1);
    let answer = stack.socket("DELETE", &format!("{path}?cancel_task=true")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(stack.gitea.runners().is_empty());
    let ended = format!("{:?}", stack.gitea.task(task).unwrap().state);
    assert!(ended.contains("Cancelled"), "{ended}");
}

#[tokio::test]
async fn without_an_api_token_or_a_gitea_a_delete_says_why() {
    let stack = Stack::start_with(|site| site.api_token(None)).await;
    stack.runner("a").await;
    let problem = stack.socket("DELETE", "/api/v1/runners/a").await.problem(409, "no-api-token");
    assert!(problem["detail"].as_str().unwrap().contains("gitea.api_token_file"), "{problem}");
    let status = stack.socket("GET", "/api/v1/status").await.json();
    assert_eq!(status["gitea"]["api_token"], "none");
    assert!(status["hints"][0].as_str().unwrap().contains("write:admin"), "{status}");

    let stack = Stack::start().await;
    stack.runner("a").await;
    stack.gitea.set_down().await.unwrap();
    let answer = stack.socket("DELETE", "/api/v1/runners/a").await;
    answer.problem(503, "unreachable");
    assert_eq!(answer.header("retry-after"), Some("5"));
}

#[tokio::test]
async fn the_status_tells_addresses_states_and_a_refused_token() {
    let stack = Stack::start_with(|site| site.api_token(Some("not-a-token-of-this-gitea"))).await;
    let _runner = stack.runner("a").await;
    eventually("the API token was tried", async || {
        stack.broker.lifecycle.api_token_valid(&runner_broker::config::Scope::Instance)
            == Some(false)
    })
    .await;
    let answer = stack.socket("GET", "/api/v1/status").await;
    let status = answer.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["gitea"]["api_token"], "invalid");
    assert_eq!(
        status["runners"],
        json!({"busy": 0, "draining": 0, "gone": 0, "idle": 1, "lost": 0, "parked": 0})
    );
    assert_eq!(status["addresses"]["admin"], stack.broker.admin.to_string());
    assert_eq!(status["addresses"]["runners"], stack.broker.url.trim_start_matches("http://"));
    assert_eq!(status["store"]["writable"], true);
    assert_eq!(status["enrollment_tokens"]["active"], 1);
    assert_eq!(status["hints"].as_array().unwrap().len(), 1, "{status}");
    for secret in ["not-a-token-of-this-gitea", ENROLLMENT_TOKEN] {
        assert!(!answer.body.contains(secret), "{}", answer.body);
    }
}

#[tokio::test]
async fn serving_ends_at_once_whatever_clients_do() {
    let stack = Stack::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shown = Admin {
        lifecycle: Arc::clone(&stack.broker.lifecycle),
        runners: address,
        listen: address,
        socket: stack.site.path("admin.sock"),
        started: Instant::now(),
        failures: admin::Failures::default(),
        certificates: Arc::new(
            Certificates::load(&stack.site.settings(), Arc::clone(&stack.broker.lifecycle.metrics))
                .unwrap(),
        ),
    };
    let stop = CancellationToken::new();
    let serving = tokio::spawn(admin::serve_tcp(listener, None, shown, stop.clone()));
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET /metrics HT").await.unwrap();
    let _idle = TcpStream::connect(address).await.unwrap();
    // An answer on a later connection: the earlier ones are being served.
    let later = ask(TcpStream::connect(address).await.unwrap(), "GET", "/healthz", &[], "").await;
    assert_eq!(later.status, 200);
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), serving).await.expect("it ends").unwrap();
    TcpStream::connect(address).await.expect_err("nobody listens any more");
}
