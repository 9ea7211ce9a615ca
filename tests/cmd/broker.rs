//! The commands that talk to a broker, where none runs.

use std::os::unix::net::UnixListener;

use insta::assert_snapshot;

use super::run;

#[test]
fn where_no_broker_runs_every_command_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let environment = [("RUNNER_BROKER__ADMIN__SOCKET", socket.to_str().unwrap())];
    for arguments in [
        &["status"][..],
        &["runner", "list"],
        &["runner", "show", "1"],
        &["runner", "deregister", "1"],
        &["token", "list"],
        &["token", "create"],
        &["token", "rotate", "A"],
        &["events"],
    ] {
        assert_eq!(
            run(folder.path(), arguments, &environment),
            "exit: 69\n--- stdout\n--- stderr\nno broker runs here: there is no socket \
             [dir]/admin.sock; start one with `runner-broker serve`, or name the socket of the one \
             that runs with --socket\n",
            "{arguments:?}"
        );
    }
}

#[test]
fn a_socket_that_a_broker_left_behind_is_told_from_none() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let shown = run(folder.path(), &["status", "--socket", socket.to_str().unwrap()], &[]);
    assert_snapshot!(shown, @r"
    exit: 69
    --- stdout
    --- stderr
    no broker runs here: the one that made [dir]/admin.sock has ended; start one with `runner-broker serve`
    ");
}

#[test]
fn what_is_wrong_with_the_settings_is_told_where_it_may_be_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["status", "--config", "missing.toml"];
    let shown = run(folder.path(), &arguments, &[("RUNNER_BROKER__GITEA__URL", "nonsense")]);
    let said: Vec<_> = shown.lines().collect();
    assert_eq!(said[0], "exit: 69");
    assert!(said[3].starts_with("no broker runs here: "), "{shown}");
    assert!(said[4].starts_with("config (flag --config): missing.toml"), "{shown}");
    assert_eq!(said.len(), 5, "what has no part in it is left out: {shown}");
}

#[test]
fn a_runner_must_be_named() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["runner"][..], &["runner", "show"], &["runner", "show", ""]] {
        let shown = run(folder.path(), arguments, &[]);
        assert!(shown.starts_with("exit: 64\n"), "{shown}");
    }
}

#[test]
fn an_address_where_nobody_listens_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let shown = run(folder.path(), &["token", "list", "--url", &format!("http://{address}")], &[]);
    assert_snapshot!(shown.replace(&address, "[address]"), @r"
    exit: 69
    --- stdout
    --- stderr
    no answer from http://[address]: Connection refused (os error 111); is the broker up, and is --url its admin address?
    ");
}
