//! The stand-ins themselves.

use hyper::{Method, StatusCode};
use runner_broker::config::Scope;
use runner_broker::connect::Codec;
use runner_broker::connect::messages::TaskResult;
use runner_broker::sandbox::gitea::{
    Answer, Effect, Options, Route, RunnerSeed, TaskSeed, TaskState, When,
};
use runner_broker::sandbox::runner::{Pace, RegisterOptions, RpcError, Runner};
use runner_broker::sandbox::{StandInGitea, StandInRunner};
use secrecy::ExposeSecret;
use serde_json::Value;

const REGISTER: &str = "/api/actions/runner.v1.RunnerService/Register";

fn start() -> (StandInGitea, StandInRunner) {
    start_with(Options::default())
}

fn start_with(options: Options) -> (StandInGitea, StandInRunner) {
    let gitea = StandInGitea::start(options).unwrap();
    let runner = StandInRunner::new(&gitea.url());
    (gitea, runner)
}

fn options(gitea: &StandInGitea, name: &str) -> RegisterOptions {
    RegisterOptions::new(gitea.registration_token(&Scope::Instance), name)
}

async fn registered(gitea: &StandInGitea, name: &str) -> Runner {
    StandInRunner::new(&gitea.url()).register(&options(gitea, name)).await.unwrap()
}

fn admin(gitea: &StandInGitea) -> String {
    format!("token {}", gitea.api_token(&["write:admin"]).expose_secret())
}

/// The life of a runner, from Ping to the end of its task.
async fn life(codec: Codec, gzip: bool) {
    let (gitea, program) = start();
    assert_eq!(program.ping("a").await.unwrap(), "Hello, a!");
    let options = RegisterOptions { codec, gzip, ..options(&gitea, "a") };
    let runner = program.register(&options).await.unwrap();
    assert_eq!(runner.declare(&["host", "gpu"]).await.unwrap().labels, ["host", "gpu"]);
    assert_eq!(runner.fetch_task(0).await.unwrap().1, 1);
    let other = gitea.queue_task(&["windows"]);
    let id = gitea.queue_task(&["gpu"]);
    let (task, version) = runner.fetch_task(1).await.unwrap();
    assert_eq!((task.as_ref().unwrap().id, version), (id, 3));
    assert_eq!(runner.run_task(&task.unwrap()).await.unwrap(), TaskResult::Success);
    let view = gitea.task(id).unwrap();
    assert_eq!(view.state, TaskState::Ended(TaskResult::Success));
    assert_eq!(view.runner_id, Some(runner.credentials.id));
    assert_eq!(
        (view.log.as_slice(), view.log_complete),
        (["Job begins", "hello", "Job ends"].map(String::from).as_slice(), true)
    );
    assert_eq!(gitea.task(other).unwrap().state, TaskState::Waiting);
    assert!(gitea.runners()[0].busy);
    assert!(gitea.remove_runner(runner.credentials.id));
    let error = runner.declare(&["host"]).await.unwrap_err();
    assert_eq!(error.message, "rpc error: code = Unauthenticated desc = unregistered runner");
}

#[tokio::test]
async fn a_runner_lives_in_the_proto_codec() {
    life(Codec::Proto, false).await;
    life(Codec::Proto, true).await;
}

#[tokio::test]
async fn a_runner_lives_in_the_json_codec() {
    life(Codec::Json, false).await;
    life(Codec::Json, true).await;
}

#[tokio::test]
async fn an_ephemeral_runner_gets_one_task_and_is_removed() {
    let (gitea, program) = start();
    let options = RegisterOptions { ephemeral: true, ..options(&gitea, "once") };
    let runner = program.register(&options).await.unwrap();
    let first = gitea.queue_task(&["host"]);
    let second = gitea.queue_task(&["host"]);
    let ran = runner.spawn(Pace::default()).ended().await.unwrap();
    assert_eq!(ran, 1);
    assert_eq!(gitea.task(first).unwrap().state, TaskState::Ended(TaskResult::Success));
    assert_eq!(gitea.task(second).unwrap().state, TaskState::Waiting);
    assert!(gitea.runners().is_empty());
}

#[tokio::test]
async fn a_daemon_runs_what_comes_and_stops() {
    let (gitea, _) = start();
    let daemon = registered(&gitea, "a").await.spawn(Pace::default());
    gitea.wait_until(|gitea| gitea.runners()[0].online).await;
    let id = gitea.queue_task(&["host"]);
    let ended = |gitea: &StandInGitea| {
        gitea.task(id).is_some_and(|task| task.state == TaskState::Ended(TaskResult::Success))
    };
    gitea.wait_until(ended).await;
    assert_eq!(daemon.stop().await.unwrap(), 1);
}

#[tokio::test]
async fn versions_and_tasks_belong_to_scopes() {
    let (gitea, program) = start();
    let org = Scope::Org("other".into());
    let token = gitea.registration_token(&org);
    let other = program.register(&RegisterOptions::new(token, "other")).await.unwrap();
    let here = registered(&gitea, "here").await;
    gitea.queue_task(&["host"]);
    assert_eq!(other.fetch_task(0).await.unwrap(), (None, 1));
    let id =
        gitea.queue(TaskSeed { repository: ("other".into(), "x".into()), ..TaskSeed::default() });
    assert_eq!(here.fetch_task(2).await.unwrap(), (None, 2), "the same version: no look");
    assert_eq!(other.fetch_task(0).await.unwrap().0.unwrap().id, id);

    let list = "/api/v1/orgs/other/actions/runners";
    let auth = format!("token {}", gitea.api_token(&["read:organization"]).expose_secret());
    let answer = program.send(Method::GET, list, &[("authorization", &auth)], "").await.unwrap();
    let runners: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(runners["total_count"], 1);
    assert_eq!(runners["runners"][0]["name"], "other");
    let here = format!("{list}/{}", here.credentials.id);
    for (method, path, status) in [
        (Method::GET, here.as_str(), StatusCode::NOT_FOUND),
        (Method::DELETE, here.as_str(), StatusCode::FORBIDDEN),
    ] {
        let answer = program.send(method, path, &[("authorization", &auth)], "").await.unwrap();
        assert_eq!(answer.status, status);
    }
}

#[tokio::test]
async fn a_cancelled_task_is_told_to_its_runner() {
    let (gitea, _) = start();
    let runner = registered(&gitea, "a").await;
    let id = gitea.queue_task(&["host"]);
    runner.fetch_task(0).await.unwrap();
    assert!(gitea.cancel_task(id));
    let seen = runner.update_task(id, TaskResult::Unspecified).await.unwrap();
    assert_eq!(seen, TaskResult::Cancelled);
    let stranger = registered(&gitea, "b").await;
    let error = stranger.update_task(id, TaskResult::Success).await.unwrap_err();
    assert!(error.message.contains("invalid runner for task"), "{error}");
}

#[tokio::test]
async fn later_gitea_answers_a_real_unauthenticated_and_capabilities() {
    let (gitea, _) = start_with(Options {
        real_unauthenticated: true,
        capabilities: Some("cancelling".parse().unwrap()),
        ..Options::default()
    });
    let runner = registered(&gitea, "a").await;
    let (_, headers) = runner.declare_with_headers(&["host"]).await.unwrap();
    assert_eq!(headers["x-gitea-actions-capabilities"], "cancelling");
    gitea.remove_runner(runner.credentials.id);
    let error = runner.spawn(Pace::default()).ended().await.unwrap_err();
    assert_eq!(error.status, Some(StatusCode::UNAUTHORIZED));
    assert_eq!(error.code, "unauthenticated");
}

#[tokio::test]
async fn paths_are_normalized_below_the_sub_path() {
    let (gitea, _) = start_with(Options { sub_path: "/git".into(), ..Options::default() });
    let base = gitea.url().trim_end_matches("/git").to_owned();
    let bare = StandInRunner::new(&base);
    let json = "application/json";
    for (path, status) in [
        ("/git/api/actions/runner.v1.RunnerService/Register", StatusCode::INTERNAL_SERVER_ERROR),
        (
            "/git//api///actions/runner.v1.RunnerService/Register//",
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
        ("/git/api/actions/runner.v1.RunnerService/%52egister", StatusCode::INTERNAL_SERVER_ERROR),
        ("/git/api/%61ctions/runner.v1.RunnerService/Register", StatusCode::NOT_FOUND),
        ("/git/api/actions/runner.v1.RunnerService/register", StatusCode::NOT_FOUND),
        (REGISTER, StatusCode::NOT_FOUND),
    ] {
        let answer = bare.call(path, json, &[], "{}").await.unwrap();
        assert_eq!(answer.status, status, "{path}");
    }
    assert_eq!(gitea.journal().count(|entry| entry.target.contains("egister")), 6);
    registered(&gitea, "a").await;
}

#[tokio::test]
async fn a_fault_before_acting_changes_nothing_and_one_after_does() {
    let (gitea, program) = start();
    let options = options(&gitea, "a");
    gitea.faults().once(Route::Register, When::BeforeActing, Effect::Reset);
    let error = program.register(&options).await.unwrap_err();
    assert_eq!(error.status, None);
    assert!(gitea.runners().is_empty());

    for effect in [Effect::Reset, Effect::Close] {
        gitea.faults().once(Route::Register, When::AfterActing, effect);
        let error = program.register(&options).await.unwrap_err();
        assert_eq!(error.status, None);
    }
    assert_eq!(gitea.runners().len(), 2);
    program.register(&options).await.unwrap();
}

#[tokio::test]
async fn a_reset_and_a_close_look_different_to_the_client() {
    use std::io::ErrorKind;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (gitea, _) = start();
    for (effect, expected) in
        [(Effect::Reset, Err(ErrorKind::ConnectionReset)), (Effect::Close, Ok(0))]
    {
        gitea.faults().once(Route::Any, When::BeforeActing, effect);
        let authority = gitea.url().replace("http://", "");
        let mut socket = tokio::net::TcpStream::connect(authority).await.unwrap();
        socket.write_all(b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let got = socket.read(&mut [0; 1]).await.map_err(|error| error.kind());
        assert_eq!(got, expected);
    }
}

#[tokio::test]
async fn lists_are_paged_with_at_most_50() {
    let (gitea, program) = start();
    for _ in 0..55 {
        gitea.add_runner(RunnerSeed::default());
    }
    let admin = admin(&gitea);
    for (query, expected) in [("", 30), ("?limit=100", 50), ("?limit=50&page=2", 5), ("?page=9", 0)]
    {
        let path = format!("/api/v1/admin/actions/runners{query}");
        let answer = program.send(Method::GET, &path, &[("authorization", &admin)], "").await;
        let list: Value = serde_json::from_slice(&answer.unwrap().body).unwrap();
        assert_eq!(list["runners"].as_array().unwrap().len(), expected, "{query}");
        assert_eq!(list["total_count"], 55);
    }
}

#[tokio::test]
async fn faults_answer_in_the_order_in_which_they_were_added() {
    let (gitea, program) = start();
    let page = Answer::html(StatusCode::BAD_GATEWAY);
    gitea.faults().times(2, Route::Register, When::BeforeActing, Effect::Answer(page));
    let garbage = Answer::garbage("application/proto");
    gitea.faults().once(Route::Register, When::BeforeActing, Effect::Answer(garbage));
    let redirect = Answer::redirect("/elsewhere");
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Answer(redirect));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let RpcError { status, .. } = program.register(&options(&gitea, "a")).await.unwrap_err();
        statuses.push(status.unwrap().as_u16());
    }
    assert_eq!(statuses, [502, 502, 200, 302]);
    assert_eq!(gitea.runners().len(), 1, "the redirect came after acting");
    assert_eq!(program.ping("a").await.unwrap(), "Hello, a!");
}

#[tokio::test]
async fn a_gate_stops_the_world() {
    let (gitea, program) = start();
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    let options = options(&gitea, "a");
    let held = tokio::spawn(async move { program.register(&options).await });
    gate.reached().await;
    assert!(gitea.runners().is_empty());
    assert!(!held.is_finished());
    gate.open();
    held.await.unwrap().unwrap();
    assert_eq!(gitea.runners().len(), 1);
}

#[tokio::test]
async fn gitea_acts_even_if_the_runner_hangs_up() {
    let (gitea, program) = start();
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);
    program.hang_up_during_register(&options(&gitea, "a"), gate.reached()).await.unwrap();
    gate.open();
    gitea.wait_until(|gitea| gitea.runners().len() == 1).await;
}

#[tokio::test]
async fn down_refuses_connections_and_up_has_the_same_port_and_state() {
    let (gitea, program) = start();
    let runner = registered(&gitea, "a").await;
    let gate = gitea.faults().gate(Route::FetchTask, When::BeforeActing);
    let polling = runner.clone();
    let held = tokio::spawn(async move { polling.fetch_task(0).await });
    gate.reached().await;
    gitea.set_down().await.unwrap();
    assert_eq!(held.await.unwrap().unwrap_err().status, None);
    let error = program.ping("a").await.unwrap_err();
    assert!(error.message.contains("refused"), "{error}");
    gitea.set_up().await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    gitea.stop().await;
    assert_eq!(program.ping("a").await.unwrap_err().status, None);
    assert_eq!(gitea.runners().len(), 1);
}

#[tokio::test]
async fn the_journal_has_what_arrived() {
    let (gitea, program) = start();
    let waiting = gitea.clone();
    let seen = tokio::spawn(async move {
        waiting.journal().wait_for(|entry| entry.target.ends_with("/Register")).await
    });
    let options = options(&gitea, "canary-name");
    program.register(&options).await.unwrap();
    let entry = seen.await.unwrap();
    assert_eq!(entry.header("user-agent"), Some("runner-broker-sandbox"));
    assert!(entry.body.windows(11).any(|bytes| bytes == b"canary-name"));
    let shown = format!("{entry:?} {options:?}");
    assert!(!shown.contains(options.token.expose_secret()), "{shown}");
}

#[tokio::test]
async fn api_tokens_are_checked() {
    let (gitea, program) = start();
    let list = "/api/v1/admin/actions/runners";
    gitea.add_api_token("of-a-user", "ann", &["write:admin"]);
    for (authorization, status) in [
        (None, 401),
        (Some("token unknown".to_owned()), 401),
        (Some(format!("token {}", gitea.api_token(&["write:user"]).expose_secret())), 403),
        (Some("token of-a-user".to_owned()), 403),
        (Some(format!("Bearer {}", gitea.api_token(&["all"]).expose_secret())), 200),
        (Some(admin(&gitea)), 200),
    ] {
        let headers: Vec<_> =
            authorization.as_deref().map(|value| ("authorization", value)).into_iter().collect();
        let answer = program.send(Method::GET, list, &headers, "").await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{authorization:?}");
    }
}

#[tokio::test]
async fn bodies_go_up_and_down() {
    use runner_broker::sandbox::gitea::download_sha256;
    let (_gitea, program) = start();
    let bytes = 1_000_003;
    let sized = program.send(Method::GET, "/download/1000003", &[], "").await.unwrap();
    assert_eq!(sized.headers["content-length"], "1000003");
    let chunked = program.send(Method::GET, "/download/1000003?chunked", &[], "").await.unwrap();
    assert_eq!(chunked.headers["transfer-encoding"], "chunked");
    assert_eq!(sized.body, chunked.body);
    let upload = program.send(Method::PUT, "/upload", &[("x-a", "b")], sized.body).await.unwrap();
    let upload: Value = serde_json::from_slice(&upload.body).unwrap();
    assert_eq!(upload["bytes"], bytes);
    assert_eq!(upload["sha256"], download_sha256(bytes));
    assert!(upload["headers"].as_array().unwrap().contains(&serde_json::json!(["x-a", "b"])));
    let echo = program.send(Method::PATCH, "/echo/x?y=z", &[], "abc").await.unwrap();
    let echo: Value = serde_json::from_slice(&echo.body).unwrap();
    assert_eq!((&echo["method"], &echo["uri"]), (&"PATCH".into(), &"/echo/x?y=z".into()));
    assert_eq!(echo["body_bytes"], 3);
}

#[tokio::test]
async fn tls_offers_both_versions_of_http() {
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use runner_broker::sandbox::gitea::Tls;
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    for http2 in [true, false] {
        let tls = Tls {
            certificate_pem: made.cert.pem(),
            key_pem: made.signing_key.serialize_pem().into(),
            http2,
            client_ca_pem: None,
        };
        let (gitea, _) = start_with(Options { tls: Some(tls), ..Options::default() });
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(gitea.ca_pem().unwrap().as_bytes()).unwrap())
            .unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_all_versions()
            .build();
        let client: Client<_, http_body_util::Empty<bytes::Bytes>> =
            Client::builder(TokioExecutor::new()).build(connector);
        let target = format!("{}/api/v1/version", gitea.url());
        let answer = client.get(target.parse().unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let expected = if http2 { hyper::Version::HTTP_2 } else { hyper::Version::HTTP_11 };
        assert_eq!(answer.version(), expected);
    }
}
