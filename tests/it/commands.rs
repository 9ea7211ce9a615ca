//! The commands that talk to a broker, as the built binary.

use runner_broker::sandbox::gitea::{Options, StandInGitea};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::process::Command;

use crate::binary::Binary;
use crate::deregister::join;
use crate::support::{Broker, ENROLLMENT_TOKEN, PATIENCE, Site, eventually, gitea};

const ADMIN_TOKEN: &str = "admin-token-of-the-tests-0123456789";

pub(crate) struct Shown {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
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
pub(crate) async fn inside(site: &Site, arguments: &[&str]) -> Shown {
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
    found(&good, &["abilities", "ok"]);
    found(&good, &["clock", "ok"]);
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

    let old = StandInGitea::start(Options { version: "1.20.6".into(), ..Options::default() });
    let old = inside(&Site::new(&old.unwrap()).api_token(None), &["check", "--online"]).await;
    assert_eq!(old.code, 69);
    found(&old, &["version", "failed", "1.20.6"]);
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

/// Registers a runner with this secret; it has spoken, so that it shares its identity with nobody.
async fn register(broker: &Broker, secret: &str, name: &str) -> Result<Runner, RpcError> {
    let options = RegisterOptions::new(secret.into(), name);
    let runner = StandInRunner::new(&broker.url).register(&options).await?;
    runner.declare(&["host"]).await?;
    Ok(runner)
}

/// What a command printed that did well.
#[track_caller]
fn good(shown: Shown) -> String {
    assert_eq!((shown.code, shown.stderr.as_str()), (0, ""), "{}", shown.stdout);
    shown.stdout
}

fn parsed(shown: Shown) -> Vec<Value> {
    serde_json::from_str(&good(shown)).unwrap()
}

/// The id and the secret of a token that was just issued.
fn issued(shown: &Shown) -> (String, String) {
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    let secret = shown.stdout.strip_suffix('\n').unwrap();
    let [prefix, id, random] = secret.split('_').collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((prefix, random.contains(char::is_whitespace)), ("rb", false));
    assert!(shown.stderr.starts_with(&format!("token {id} ")), "{}", shown.stderr);
    assert!(!shown.stderr.contains(random), "the secret is on standard output alone");
    (id.to_owned(), secret.to_owned())
}

#[tokio::test]
async fn the_whole_life_of_a_token() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let create = ["token", "create", "--max-uses", "5", "--expires", "3d", "--description", "ci"];
    let (id, secret) = issued(&inside(&site, &create).await);
    let id = id.as_str();
    let first = register(&broker, &secret, "one").await.unwrap();

    let table = good(inside(&site, &["token", "list"]).await);
    let line = table.lines().find(|line| line.starts_with(id)).expect("it is listed");
    let rest =
        ["active", "reusable", "instance", "1/5", "1", "just", "now", "in", "3", "days", "ci"];
    assert_eq!(words(line)[1..], rest, "{table}");
    assert!(table.lines().any(|line| line.starts_with("settings ")), "{table}");
    let tokens = inside(&site, &["token", "list", "--json"]).await;
    let runners = parsed(inside(&site, &["runner", "list", "--token", id, "--json"]).await);
    assert_eq!((runners.len(), &runners[0]["name"]), (1, &"one".into()));
    let others = inside(&site, &["runner", "list", "--token", "settings"]).await;
    assert_eq!(good(others), "no registered runner came by this token\n");

    let disabled = good(inside(&site, &["token", "disable", id]).await);
    assert_eq!(disabled, format!("token {id} is disabled; live runners that stay registered: 1\n"));
    let status = good(inside(&site, &["status"]).await);
    assert!(status.contains("1 active, 1 disabled\n"), "{status}");
    let refused = register(&broker, &secret, "two").await.expect_err("it is disabled");
    assert!(refused.message.contains("disabled"), "{refused}");
    let enabled = good(inside(&site, &["token", "enable", id]).await);
    assert_eq!(enabled, format!("token {id} is enabled\n"));
    register(&broker, &secret, "two").await.unwrap();

    let (rotated, new) = issued(&inside(&site, &["token", "rotate", id]).await);
    assert_eq!(rotated, id);
    let refused = register(&broker, &secret, "three").await.expect_err("it is the old one");
    assert_eq!(refused.code, "unauthenticated");
    let third = register(&broker, &new, "three").await.unwrap();
    let shown = good(inside(&site, &["token", "show", id]).await);
    assert!(shown.lines().any(|line| words(line) == ["uses", "3", "of", "5"]), "{shown}");

    let deleted = good(inside(&site, &["token", "rm", id, "--cascade"]).await);
    assert!(deleted.contains("busy ones after their task: 3;"), "{deleted}");
    eventually("its runners are gone", async || gitea.runners().is_empty()).await;
    assert_eq!(inside(&site, &["token", "show", id]).await.code, 64);
    let left = good(inside(&site, &["token", "list"]).await);
    assert!(!left.contains(id), "{left}");

    let told = async || parsed(inside(&site, &["events", "--token", id, "--json"]).await);
    let ended = async || count(&told().await, "runner.deregistered") == 3;
    eventually("the last event is there", ended).await;
    let events = told().await;
    let of_token = events.iter().filter_map(|event| event["what"].as_str()?.strip_prefix("token."));
    let of_token: Vec<_> = of_token.collect();
    assert_eq!(of_token, ["deleted", "rotated", "enabled", "disabled", "created"]);
    assert_eq!(count(&events, "runner.registered"), 3);
    assert!(count(&events, "registration.refused") >= 1);
    assert_eq!(events.last().unwrap()["actor"], "socket");
    let latest = parsed(inside(&site, &["events", "--limit", "1", "--json"]).await);
    assert_eq!(latest.len(), 1);

    let table = good(inside(&site, &["events"]).await);
    for text in [tokens.stdout, table, serde_json::to_string(&events).unwrap(), shown] {
        let [old, new] = [&secret, &new].map(|secret| secret.rsplit('_').next().unwrap());
        assert!(!text.contains(old) && !text.contains(new), "{text}");
    }
    drop((first, third));
}

fn count(events: &[Value], what: &str) -> usize {
    events.iter().filter(|event| event["what"] == what).count()
}

#[tokio::test]
async fn a_broker_elsewhere_is_asked_with_its_admin_token() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let file = |name: &str| site.path(name).to_str().unwrap().to_owned();
    let (right, wrong) = (file("admin_token"), file("wrong_token"));
    site.write_secret("admin_token", ADMIN_TOKEN);
    site.write_secret("wrong_token", "wrong-token-of-the-tests-0123456789");
    let site = site.set("admin.token_file", &right);
    let broker = Broker::start(&site).await;
    let url = format!("http://{}", broker.admin);
    let ask = async |arguments: &[&str]| {
        let shown = command(vec![], &[arguments, &["--url", &url]].concat()).await;
        assert!(!shown.stdout.contains(ADMIN_TOKEN) && !shown.stderr.contains(ADMIN_TOKEN));
        shown
    };

    let (id, secret) = issued(&ask(&["token", "create", "--admin-token-file", &right]).await);
    register(&broker, &secret, "one").await.unwrap();
    let list = good(ask(&["token", "list", "--admin-token-file", &right]).await);
    assert!(list.contains(&id), "{list}");
    let what = ["events", "--what", "token.created", "--json", "--admin-token-file", &right];
    let events = parsed(ask(&what).await);
    assert_eq!((&events[0]["token_id"], &events[0]["actor"]), (&id.into(), &"admin".into()));
    assert_eq!(ask(&["status", "--admin-token-file", &right]).await.code, 0);
    assert_eq!(good(ask(&["healthcheck"]).await), "", "health is open");

    for arguments in [&["token", "list"][..], &["token", "list", "--admin-token-file", &wrong]] {
        let shown = ask(arguments).await;
        assert_eq!((shown.code, shown.stdout.as_str()), (77, ""), "{}", shown.stderr);
        assert!(shown.stderr.contains("--admin-token-file"), "{}", shown.stderr);
    }
}

#[tokio::test]
async fn a_broker_without_an_admin_token_says_how_to_get_one() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let url = format!("http://{}", broker.admin);
    let shown = command(vec![], &["token", "list", "--url", &url]).await;
    assert_eq!((shown.code, shown.stdout.as_str()), (77, ""));
    assert!(shown.stderr.contains("admin.token_file"), "{}", shown.stderr);
}
