//! The wrapper and the init container, where something is missing or wrong.

use insta::assert_snapshot;

use super::run;

#[test]
fn without_a_command_it_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["run"][..], &["run", "--"], &["run", "gitea-runner", "daemon"]] {
        let shown = run(folder.path(), arguments, &[]);
        assert!(shown.starts_with("exit: 64\n"), "{arguments:?}: {shown}");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.yaml"), "runner: {labels: 5: 6}").unwrap();
    let environment = [
        ("GITEA_INSTANCE_URL", "broker:8080"),
        ("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", "missing"),
        ("GITEA_RUNNER_NAME", "builder"),
        ("GITEA_RUNNER_LABELS", "ubuntu:node:20,ok"),
        ("GITEA_MAX_REG_ATTEMPTS", "ten"),
        ("CONFIG_FILE", "config.yaml"),
    ];
    assert_snapshot!(run(folder.path(), &["run", "--", "true"], &environment), @r#"
    exit: 78
    --- stdout
    --- stderr
    GITEA_INSTANCE_URL: "broker:8080" is no web address: give http:// or https://, for example http://gitea:3000
    GITEA_RUNNER_REGISTRATION_TOKEN_FILE: missing cannot be read: missing is missing; make it, mount it, or correct the path
    CONFIG_FILE: config.yaml is no YAML: correct it, the runner does not take it either
    the label "ubuntu:node:20" does not say where jobs run: write NAME:host, or NAME:docker:// and an image, for example ubuntu-latest:docker://node:20
    GITEA_MAX_REG_ATTEMPTS: "ten" is no number
    "#);
}

#[test]
fn what_is_missing_is_told_with_what_to_set() {
    let folder = tempfile::tempdir().unwrap();
    assert_snapshot!(run(folder.path(), &["run", "--", "true"], &[]), @r"
    exit: 78
    --- stdout
    --- stderr
    GITEA_INSTANCE_URL is not set: set it to the broker's address, for example http://broker:8080
    there is no enrollment token and no runner file [dir]/.runner: set GITEA_RUNNER_REGISTRATION_TOKEN_FILE to a file with an enrollment token
    ");
}

#[test]
fn no_flag_takes_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    for flag in ["--token", "--api-token", "--registration-token"] {
        for command in [&["run", flag, "canary", "--", "true"][..], &["enroll", flag, "canary"]] {
            let shown = run(folder.path(), command, &[]);
            assert!(shown.starts_with("exit: 64\n"), "{command:?}: {shown}");
        }
    }
}

#[test]
fn what_is_for_direct_needs_direct() {
    let folder = tempfile::tempdir().unwrap();
    for flags in [["--scope", "org:acme"], ["--api-token-file", "token"]] {
        let shown = run(folder.path(), &["run", flags[0], flags[1], "--", "true"], &[]);
        assert!(shown.starts_with("exit: 64\n") && shown.contains("--direct"), "{shown}");
    }
}
