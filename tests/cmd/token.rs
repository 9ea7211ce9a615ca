//! `runner-broker token`

use std::time::{Duration, SystemTime};

use insta::assert_snapshot;
use runner_broker::admin::view::{IssuedToken, NewToken, Token};
use serde_json::Value;
use tempfile::TempDir;

use super::run;
use super::scripted::{Line, Scripted, json, problem};

const SECRET: &str = "rb_Abc0123456_canary";
const DAY: u64 = 24 * 60 * 60;

fn ago(seconds: u64) -> String {
    let then = SystemTime::now() - Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(then).to_string()
}

fn ahead(seconds: u64) -> String {
    let then = SystemTime::now() + Duration::from_secs(seconds);
    humantime::format_rfc3339_seconds(then).to_string()
}

fn token(id: &str) -> Token {
    Token {
        id: id.into(),
        kind: "reusable".into(),
        state: "active".into(),
        origin: "created".into(),
        active: true,
        parent_id: None,
        description: String::new(),
        scope: "instance".into(),
        labels: vec![],
        name_pattern: None,
        ephemeral_only: false,
        max_uses: None,
        max_runners: None,
        allowed_cidrs: vec![],
        expires_at: None,
        created_at: ago(200),
        created_by: "socket".into(),
        last_used_at: None,
        uses: 0,
        live_runners: 0,
    }
}

fn issued(id: &str) -> String {
    json(&IssuedToken { token: token(id), secret: SECRET.into() })
}

/// A folder with a broker that answers this.
fn broker(script: Vec<Line>) -> (TempDir, Scripted) {
    let folder = tempfile::tempdir().unwrap();
    let scripted = Scripted::start(folder.path(), script);
    (folder, scripted)
}

fn ask(folder: &TempDir, arguments: &[&str]) -> String {
    run(folder.path(), &[&["token"], arguments, &["--socket", "admin.sock"]].concat(), &[])
}

#[test]
fn the_secret_is_alone_on_standard_output() {
    let (folder, broker) = broker(vec![("POST /api/v1/tokens", 201, issued("Abc0123456"))]);
    assert_snapshot!(ask(&folder, &["create"]), @r"
    exit: 0
    --- stdout
    rb_Abc0123456_canary
    --- stderr
    token Abc0123456 is created: reusable, scope instance, never expires; the secret is on standard output and is not shown again
    ");
    let asked = broker.asked().remove(0);
    let body = asked.strip_prefix("POST /api/v1/tokens ").unwrap();
    assert_eq!(serde_json::from_str::<NewToken>(body).unwrap(), NewToken::default());
}

#[test]
fn each_option_of_create_is_asked_for() {
    let (folder, broker) = broker(vec![("POST /api/v1/tokens", 201, issued("Abc0123456"))]);
    let shown = ask(
        &folder,
        &[
            "create",
            "--single-use",
            "--description",
            "for ci",
            "--scope",
            "org:acme",
            "--label",
            "a",
            "--label",
            "b",
            "--name-pattern",
            "ci-*",
            "--max-uses",
            "10",
            "--max-runners",
            "5",
            "--expires",
            "30d",
            "--ephemeral-only",
            "--allow-cidr",
            "10.0.0.0/8",
            "--allow-cidr",
            "fd00::/8",
            "--json",
        ],
    );
    let stdout = shown.split_once("--- stdout\n").unwrap().1;
    let (stdout, stderr) = stdout.split_once("--- stderr\n").unwrap();
    assert_eq!(stderr, "");
    let answer: Value = serde_json::from_str(stdout).unwrap();
    assert_eq!((&answer["id"], &answer["secret"]), (&"Abc0123456".into(), &SECRET.into()));

    let asked = broker.asked().remove(0);
    let body = asked.strip_prefix("POST /api/v1/tokens ").unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(body).unwrap(),
        serde_json::json!({
            "kind": "single_use", "description": "for ci", "scope": "org:acme",
            "labels": ["a", "b"], "name_pattern": "ci-*", "ephemeral_only": true, "max_uses": 10,
            "max_runners": 5, "allowed_cidrs": ["10.0.0.0/8", "fd00::/8"], "expires_at": null,
            "expires_in": "30d",
        })
    );
}

#[test]
fn a_secret_that_cannot_be_written_is_a_failure_that_names_the_token() {
    let (folder, _broker) = broker(vec![("POST /api/v1/tokens", 201, issued("Abc0123456"))]);
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_runner-broker"))
        .args(["token", "create", "--socket", "admin.sock"])
        .env_clear()
        .current_dir(folder.path())
        .stdout(full)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(70), "{stderr}");
    assert!(stderr.starts_with("token Abc0123456 is created"), "{stderr}");
    assert!(!stderr.contains(SECRET), "{stderr}");
}

#[test]
fn rotate_prints_the_new_secret_by_the_same_rule() {
    let (folder, broker) = broker(vec![
        ("POST /api/v1/tokens/Abc0123456/rotate", 200, issued("Abc0123456")),
        ("POST /api/v1/tokens/Abc0123456/rotate?overlap=1h%2030m", 200, issued("Abc0123456")),
    ]);
    assert_snapshot!(ask(&folder, &["rotate", "Abc0123456"]), @r"
    exit: 0
    --- stdout
    rb_Abc0123456_canary
    --- stderr
    token Abc0123456 has a new secret; the old one is refused from now on; the secret is on standard output and is not shown again
    ");
    assert_snapshot!(ask(&folder, &["rotate", "Abc0123456", "--overlap", "1h 30m"]), @r"
    exit: 0
    --- stdout
    rb_Abc0123456_canary
    --- stderr
    token Abc0123456 has a new secret; the old one goes on for 1h 30m; the secret is on standard output and is not shown again
    ");
    let json = ask(&folder, &["rotate", "Abc0123456", "--json"]);
    assert!(json.contains("\"secret\": \"rb_Abc0123456_canary\""), "{json}");
    assert_eq!(broker.asked().len(), 3);
}

/// Tokens as different as they can be.
fn several() -> Vec<Token> {
    vec![
        Token {
            origin: "declared".into(),
            max_uses: Some(10),
            uses: 3,
            live_runners: 2,
            max_runners: Some(5),
            last_used_at: Some(ago(200)),
            description: "nightly\u{1b}[31m".into(),
            ..token("nightly")
        },
        Token {
            kind: "single_use".into(),
            state: "used_up".into(),
            scope: "org:acme".into(),
            uses: 1,
            live_runners: 1,
            expires_at: Some(ahead(3 * DAY)),
            last_used_at: Some(ago(2 * DAY + 60)),
            ..token("Abc0123456")
        },
        Token { state: "expired".into(), expires_at: Some(ago(7300)), ..token("Def0123456") },
    ]
}

#[test]
fn tokens_are_listed_as_people_read_them() {
    let several = several();
    let (folder, _broker) = broker(vec![("GET /api/v1/tokens?limit=1000", 200, json(&several))]);
    let table = ask(&folder, &["list"]);
    assert_snapshot!(table, @r"
    exit: 0
    --- stdout
    ID          STATE    KIND                 SCOPE     USES  RUNNERS  LAST USED   EXPIRES    DESCRIPTION
    nightly     active   reusable (declared)  instance  3/10  2/5      3 min ago   never      nightly�[31m
    Abc0123456  used up  single-use           org:acme  1/1   1        2 days ago  in 3 days
    Def0123456  expired  reusable             instance  0     0        never       2 h ago
    --- stderr
    ");
    assert_eq!(ask(&folder, &["ls"]), table);

    let shown = ask(&folder, &["list", "--json"]);
    let stdout = shown.split_once("--- stdout\n").unwrap().1.split_once("--- stderr").unwrap().0;
    let list: Vec<Token> = serde_json::from_str(stdout).unwrap();
    assert_eq!(list, several);
}

#[test]
fn an_empty_list_says_how_to_make_one() {
    let (folder, _broker) = broker(vec![("GET /api/v1/tokens?limit=1000", 200, "[]".into())]);
    assert_snapshot!(ask(&folder, &["list"]), @r"
    exit: 0
    --- stdout
    there is no enrollment token; `runner-broker token create` makes one
    --- stderr
    ");
}

#[test]
fn all_of_one_token_is_shown() {
    let token = Token {
        parent_id: Some("Def0123456".into()),
        labels: vec!["a".into(), "b".into()],
        name_pattern: Some("ci-*".into()),
        allowed_cidrs: vec!["10.0.0.0/8".into()],
        created_at: "2025-11-23T12:00:00Z".into(),
        ..several().remove(1)
    };
    let path = "GET /api/v1/tokens/Abc0123456";
    let (folder, _broker) = broker(vec![(path, 200, json(&token))]);
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\d+ days ago", "[age]");
    settings.add_filter(r"\d{4}-\d\d-\d\dT[0-9:]+Z", "[time]");
    settings.bind(|| {
        assert_snapshot!(ask(&folder, &["show", "Abc0123456"]), @r"
        exit: 0
        --- stdout
        id              Abc0123456
        state           used up
        switched on     yes
        kind            single-use
        origin          created
        exchanged for   Def0123456
        description     none
        scope           org:acme
        labels          a, b
        runner names    ci-*
        ephemeral only  no
        networks        10.0.0.0/8
        uses            1 of 1
        live runners    1
        last used       [age] ([time])
        expires         in 3 days ([time])
        created         [age] ([time])
        created by      socket
        --- stderr
        ");
    });
    let shown = ask(&folder, &["show", "Abc0123456", "--json"]);
    assert!(shown.contains("\"name_pattern\": \"ci-*\""), "{shown}");
}

#[test]
fn a_change_is_told_in_a_sentence() {
    let with = |state: &str, live_runners| {
        json(&Token { state: state.into(), live_runners, ..token("Abc0123456") })
    };
    let (folder, broker) = broker(vec![
        ("POST /api/v1/tokens/Abc0123456/enable", 200, with("expired", 0)),
        ("POST /api/v1/tokens/Abc0123456/disable", 200, with("disabled", 2)),
        ("POST /api/v1/tokens/Abc0123456/disable?cascade=true", 200, with("disabled", 2)),
        ("POST /api/v1/tokens/Abc0123456/pin", 200, with("active", 0)),
        ("POST /api/v1/tokens/Abc0123456/unpin", 200, with("used_up", 1)),
        ("DELETE /api/v1/tokens/Abc0123456", 200, with("deleted", 0)),
        ("DELETE /api/v1/tokens/Abc0123456?cascade=true", 200, with("deleted", 1)),
    ]);
    let mut told = String::new();
    for arguments in [
        &["enable"][..],
        &["disable"],
        &["disable", "--cascade"],
        &["pin"],
        &["unpin"],
        &["delete"],
        &["rm", "--cascade"],
    ] {
        let shown = ask(&folder, &[arguments, &["Abc0123456"]].concat());
        let shown = shown.strip_prefix("exit: 0\n--- stdout\n").unwrap_or(&shown);
        told += shown.strip_suffix("--- stderr\n").unwrap_or(shown);
    }
    assert_snapshot!(told, @r"
    token Abc0123456 is enabled, and admits nobody: it is expired
    token Abc0123456 is disabled; live runners that stay registered: 2
    token Abc0123456 is disabled; live runners that are being deregistered, busy ones after their task: 2; `runner-broker runner list --token Abc0123456` shows who is left
    token Abc0123456 is reusable
    token Abc0123456 is single-use, and admits nobody: it is used up
    token Abc0123456 is deleted; no live runner came by it
    token Abc0123456 is deleted; live runners that are being deregistered, busy ones after their task: 1; `runner-broker runner list --token Abc0123456` shows who is left
    ");
    assert_eq!(broker.asked().len(), 7, "each was asked for once");
}

#[test]
fn what_cannot_be_is_told_with_an_exit_code() {
    let (folder, _broker) = broker(vec![
        (
            "GET /api/v1/tokens/a%2Fb",
            404,
            problem("unknown-token", "no enrollment token has the id \"a/b\""),
        ),
        ("POST /api/v1/tokens", 422, problem("invalid", "max_uses: 0 would admit nobody")),
        ("POST /api/v1/tokens/ci/enable", 409, problem("declared", "the settings declare it")),
        ("POST /api/v1/tokens/ci/pin", 503, problem("store", "the store takes no writes")),
    ]);
    let mut told = String::new();
    for arguments in
        [&["show", "a/b"][..], &["create", "--max-uses", "0"], &["enable", "ci"], &["pin", "ci"]]
    {
        told += &ask(&folder, arguments);
    }
    assert_snapshot!(told, @r#"
    exit: 64
    --- stdout
    --- stderr
    no enrollment token has the id "a/b"; see `runner-broker token list`
    exit: 64
    --- stdout
    --- stderr
    max_uses: 0 would admit nobody
    exit: 64
    --- stdout
    --- stderr
    the settings declare it
    exit: 69
    --- stdout
    --- stderr
    the store takes no writes
    "#);
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["token"][..],
        &["token", "show"],
        &["token", "show", ""],
        &["token", "create", "--max-uses", "many"],
        &["token", "create", "extra"],
        &["token", "list", "--url", "http://b", "--socket", "s"],
        &["token", "list", "--admin-token-file", "f"],
        &["token", "list", "--ca-file", "f"],
        &["token", "list", "--url", "b"],
        &["events", "--limit", "0"],
        &["events", "--what", "token.stolen"],
        &["events", "--runner", "one"],
        &["completions"],
        &["completions", "cmd.exe"],
    ] {
        let shown = run(folder.path(), arguments, &[]);
        assert!(shown.starts_with("exit: 64\n--- stdout\n--- stderr\n"), "{arguments:?}: {shown}");
    }
}
