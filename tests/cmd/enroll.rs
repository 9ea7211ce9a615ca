//! The init container, where something is missing or wrong.

use insta::assert_snapshot;

use super::run;

#[test]
fn without_a_file_to_write_it_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let shown = run(folder.path(), &["enroll"], &[("GITEA_INSTANCE_URL", "http://broker")]);
    assert!(shown.starts_with("exit: 64\n") && shown.contains("--out <FILE>"), "{shown}");
}

#[test]
fn what_is_wrong_with_a_flag_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_snapshot!(run(folder.path(), &["enroll", "--out", "f", "--mode", "rw"], &[]), @r"
    exit: 64
    --- stdout
    --- stderr
    error: invalid value 'rw' for '--mode <MODE>': give permission bits in octal, for example 0640

    For more information, try '--help'.
    ");
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("blank"), "").unwrap();
    let environment =
        [("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", "blank"), ("GITEA_RUNNER_NAME", "builder")];
    let arguments = ["enroll", "--out", "/", "--address", "broker"];
    assert_snapshot!(run(folder.path(), &arguments, &environment), @r#"
    exit: 78
    --- stdout
    --- stderr
    GITEA_INSTANCE_URL is not set: set it to the broker's address, for example http://broker:8080
    --address: "broker" is no web address: give http:// or https://, for example http://gitea:3000
    GITEA_RUNNER_REGISTRATION_TOKEN_FILE: blank is empty: write the secret into it
    / names no file: give the path of the runner file
    "#);
}
