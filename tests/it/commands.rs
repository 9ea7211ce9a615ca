//! The commands that talk to a broker, as the built binary.

use runner_broker::sandbox::gitea::{Options, StandInGitea};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::process::Command;

use crate::binary::Binary;
use crate::deregister::join;
use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, eventually, gitea};

struct Shown {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs a command with this environment alone.
async fn command(environment: Vec<(String, String)>, arguments: &[&str]) -> Shown {
    let output = Command::new(env!("CARGO_BIN_EXE_runner-broker"))
        .args(arguments)
        .env_clear()
        .envs(environment)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("the command ends").unwrap();
    let shown = Shown {
        code: output.status.code().expect("an exit code"),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    for text in [&shown.stdout, &shown.stderr] {
        assert!(!text.contains(ENROLLMENT_TOKEN), "{text}");
    }
    shown
}

/// The same as in the broker's container: its settings are there.
async fn inside(site: &Site, arguments: &[&str]) -> Shown {
    command(site.environment(), arguments).await
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test]
async fn the_built_broker_is_asked_from_inside_its_container() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Binary::start(&site);
    let runner = join(&broker.url, "one").await;
    let id = runner.credentials.id.to_string();

    let health = inside(&site, &["healthcheck"]).await;
    assert_eq!((health.code, health.stdout.as_str(), health.stderr.as_str()), (0, "", ""));

    let status = inside(&site, &["status"]).await;
    assert_eq!((status.code, status.stderr.as_str()), (0, ""));
    for line in ["broker ", "gitea ", "enrollment tokens  1 active"] {
        assert!(status.stdout.lines().any(|told| told.starts_with(line)), "{}", status.stdout);
    }
    assert!(status.stdout.contains("1 idle"), "{}", status.stdout);
    let status = inside(&site, &["status", "--json"]).await;
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["runners"]["idle"], 1);

    let list = inside(&site, &["runner", "ls"]).await;
    assert_eq!((list.code, list.stderr.as_str()), (0, ""));
    let lines: Vec<_> = list.stdout.lines().map(words).collect();
    assert_eq!(lines[0], ["ID", "NAME", "STATE", "LABELS", "SCOPE", "LAST", "SEEN"]);
    assert_eq!(lines[1][..5], [id.as_str(), "one", "idle", "host", "instance"]);
    assert!(!list.stdout.contains('\u{1b}'), "no colours into a pipe");

    let json = inside(&site, &["runner", "list", "--json"]).await.stdout;
    let list: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list[0]["uuid"], runner.credentials.uuid);
    let show = inside(&site, &["runner", "show", "one"]).await;
    assert!(show.stdout.lines().any(|line| words(line) == ["id", &id]), "{}", show.stdout);
    let token = runner.credentials.token.expose_secret();
    assert!(!json.contains(token) && !show.stdout.contains(token));

    let gone = inside(&site, &["runner", "rm", &id]).await;
    assert_eq!((gone.code, gone.stdout), (0, format!("runner {id} (one) is deregistered\n")));
    assert!(gitea.runners().is_empty());
    let none = inside(&site, &["runner", "list"]).await;
    assert_eq!(none.stdout, "no runner is registered by this broker\n");
}

#[tokio::test]
async fn a_socket_alone_is_enough() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let _broker = Broker::start(&site).await;
    let socket = site.path("admin.sock");
    let socket = socket.to_str().unwrap();
    for arguments in [
        &["status", "--socket", socket][..],
        &["runner", "list", "--socket", socket],
        &["healthcheck", "--socket", socket],
    ] {
        let shown = command(vec![], arguments).await;
        assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{arguments:?}");
    }
    // The socket by settings that are otherwise incomplete and wrong.
    let environment = vec![
        ("RUNNER_BROKER__ADMIN__SOCKET".to_owned(), socket.to_owned()),
        ("RUNNER_BROKER__LOG__LEVEL".to_owned(), "loud".to_owned()),
    ];
    let shown = command(environment, &["status"]).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
}

#[tokio::test]
async fn what_cannot_be_deregistered_says_why() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let unknown = inside(&site, &["runner", "deregister", "a/../b"]).await;
    assert_eq!(unknown.code, 64);
    assert!(unknown.stderr.contains("\"a/../b\""), "{}", unknown.stderr);
    assert!(unknown.stderr.contains("`runner-broker runner list`"), "{}", unknown.stderr);

    let runner = join(&broker.url, "one").await;
    gitea.queue_task(&["host"]);
    runner.fetch_task(0).await.unwrap().0.expect("the task");
    let busy = inside(&site, &["runner", "deregister", "one"]).await;
    assert_eq!((busy.code, busy.stdout.as_str()), (64, ""));
    assert!(busy.stderr.contains("in hand"), "{}", busy.stderr);
    let shown = inside(&site, &["runner", "deregister", "one", "--cancel-task"]).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    assert!(gitea.runners().is_empty());
}

#[tokio::test]
async fn a_health_check_tells_in_one_line_what_is_wrong() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    // Where the socket is not there, the admin listener is asked.
    let elsewhere = vec![
        ("RUNNER_BROKER__ADMIN__SOCKET".to_owned(), "/nowhere/admin.sock".to_owned()),
        ("RUNNER_BROKER__ADMIN__LISTEN".to_owned(), broker.admin.to_string()),
    ];
    let shown = command(elsewhere.clone(), &["healthcheck"]).await;
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""));
    // But not for a socket that was named.
    let named = ["healthcheck", "--socket", "/nowhere/admin.sock"];
    let shown = command(elsewhere.clone(), &named).await;
    assert_eq!(shown.code, 69);
    assert!(shown.stderr.starts_with("no broker runs here: "), "{}", shown.stderr);

    broker.lifecycle.begin_drain();
    for environment in [elsewhere.clone(), site.environment()] {
        let shown = command(environment, &["healthcheck"]).await;
        assert_eq!((shown.code, shown.stderr.lines().count()), (69, 1), "{}", shown.stderr);
        assert!(shown.stderr.contains("the broker is ending"), "{}", shown.stderr);
    }
    broker.stop().await;
    let shown = command(elsewhere, &["healthcheck"]).await;
    assert_eq!((shown.code, shown.stderr.lines().count()), (69, 1), "{}", shown.stderr);
    assert!(shown.stderr.contains("admin.listen"), "{}", shown.stderr);
}

#[tokio::test]
async fn a_broker_that_hangs_does_not_hang_its_health_check() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let _listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let arguments = ["healthcheck", "--socket", socket.to_str().unwrap()];
    let shown = command(vec![], &arguments).await;
    assert_eq!(shown.code, 69);
    assert!(shown.stderr.contains("did not answer within 3s"), "{}", shown.stderr);
}

#[tokio::test]
async fn check_online_asks_gitea_and_changes_nothing() {
    let gitea = gitea();
    let good = inside(&Site::new(&gitea), &["check", "--online"]).await;
    assert_eq!((good.code, good.stderr.as_str()), (0, ""), "{}", good.stdout);
    let found = |shown: &Shown, line: &[&str]| {
        let told = shown.stdout.lines().any(|told| words(told).starts_with(line));
        assert!(told, "{line:?} is missing in\n{}", shown.stdout);
    };
    found(&good, &["gitea", "ok"]);
    found(&good, &["version", "ok", "1.26.0"]);
    found(&good, &["API", "token", "ok"]);
    found(&good, &["registration", "token", "not", "checked"]);
    assert!(gitea.runners().is_empty());

    let site = Site::new(&gitea).api_token(Some("canary-of-no-use"));
    let refused = inside(&site, &["check", "--online"]).await;
    assert_eq!(refused.code, 69);
    found(&refused, &["API", "token", "failed"]);
    assert!(refused.stdout.contains("gitea.api_token_file"), "{}", refused.stdout);
    assert!(!refused.stdout.contains("canary-of-no-use"));

    let without = inside(&Site::new(&gitea).api_token(None), &["check", "--online"]).await;
    assert_eq!(without.code, 0, "{}", without.stderr);
    found(&without, &["API", "token", "not", "checked"]);

    let site = Site::new(&gitea);
    gitea.set_down().await.unwrap();
    let down = inside(&site, &["check", "--online", "--json"]).await;
    assert_eq!(down.code, 69);
    let answer: Value = serde_json::from_str(&down.stdout).unwrap();
    assert_eq!(answer["online"][0]["outcome"], "failed");
    assert!(answer["settings"].is_array());

    let old = StandInGitea::start(Options { version: "1.22.6".into(), ..Options::default() });
    let old = inside(&Site::new(&old.unwrap()), &["check", "--online"]).await;
    assert_eq!(old.code, 69);
    found(&old, &["version", "failed", "1.22.6"]);
}

#[tokio::test]
async fn the_status_says_what_to_do() {
    let gitea = gitea();
    let site = Site::new(&gitea).api_token(None);
    let broker = Broker::start(&site).await;
    eventually("Gitea was asked", async || broker.lifecycle.gitea.is_up()).await;
    let status = inside(&site, &["status"]).await.stdout;
    let (_, hints) = status.split_once("\nto do\n").expect("something to do");
    assert!(hints.starts_with("- there is no API token"), "{status}");
    assert!(hints.contains("GITEA_API_TOKEN_FILE"), "{status}");
}
