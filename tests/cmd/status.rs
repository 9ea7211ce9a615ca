//! `runner-broker status`

use insta::assert_snapshot;
use runner_broker::admin::view::Status;
use serde_json::{Value, json};

use super::run;
use super::scripted::{self, Scripted};

/// What a broker of two scopes in front of this Gitea answers.
fn status(version: Value, abilities: Value, hints: &[&str]) -> String {
    let status: Status = serde_json::from_value(json!({
        "version": "1.2.3", "uptime_seconds": 7200, "draining": false,
        "gitea": {
            "url": "http://gitea:3000", "scope": "instance", "up": true,
            "version": version, "abilities": abilities, "api_token": "valid",
        },
        "scopes": [
            {"scope": "instance", "api_token": "valid", "registration_token": "minted"},
            {"scope": "org:acme", "api_token": "none", "registration_token": "set"},
            {"scope": "repo:a/b", "api_token": "invalid", "registration_token": "none yet"},
        ],
        "runners": {"idle": 2}, "unsettled_registrations": 0,
        "enrollment_tokens": {"active": 1, "disabled": 0, "expired": 0, "used_up": 0},
        "store": {"path": "/data/state.db", "writable": true},
        "addresses": {
            "runners": "0.0.0.0:8080", "admin": "127.0.0.1:8081", "socket": "/data/admin.sock",
        },
        "hints": hints,
    }))
    .unwrap();
    scripted::json(&status)
}

fn shown(answer: String) -> String {
    let folder = tempfile::tempdir().unwrap();
    let _broker = Scripted::start(folder.path(), vec![("GET /api/v1/status", 200, answer)]);
    let socket = folder.path().join("admin.sock");
    run(folder.path(), &["status", "--socket", socket.to_str().unwrap()], &[])
}

#[test]
fn gitea_is_shown_with_what_it_can_do_and_each_scope_with_its_tokens() {
    let all = json!({
        "list": true, "delete": true, "mint": "post", "switch_off": true, "deregister": false,
    });
    assert_snapshot!(shown(status("1.26.0".into(), all, &[])), @r"
    exit: 0
    --- stdout
    broker             1.2.3, up 2 h
    runners dial       0.0.0.0:8080
    admin              127.0.0.1:8081, /data/admin.sock
    gitea              http://gitea:3000 answers, 1.26.0
    gitea's API        lists runners, deletes them, switches them off, gives out registration tokens
    scope              instance: API token valid, registration token minted
    scope              org:acme: API token none, registration token set
    scope              repo:a/b: API token refused by Gitea, registration token none yet
    enrollment tokens  1 active
    store              /data/state.db writable
    runners            2 idle
    unclear            0 registrations

    nothing to do
    --- stderr
    ");
}

#[test]
fn what_gitea_cannot_do_is_told_from_what_is_not_known() {
    let some = json!({
        "list": false, "delete": false, "mint": "get", "switch_off": null, "deregister": null,
    });
    let screen = shown(status(Value::Null, some, &["do this"]));
    let told: Vec<_> = screen.lines().filter(|line| line.starts_with("gitea")).collect();
    assert_snapshot!(told.join("\n"), @r"
    gitea              http://gitea:3000 answers, version not known
    gitea's API        gives out registration tokens; not: lists runners, deletes them; not known: switches them off
    ");
    assert!(screen.contains("- do this"), "{screen}");
}
