//! What every command has in common.

use insta::assert_snapshot;

use super::run;

#[test]
fn a_wrong_argument_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    assert_snapshot!(run(folder.path(), &["chek"], &[]), @r"
    exit: 64
    --- stdout
    --- stderr
    error: unrecognized subcommand 'chek'

      tip: a similar subcommand exists: 'check'

    Usage: runner-broker <COMMAND>

    For more information, try '--help'.
    ");
    let bare = run(folder.path(), &[], &[]);
    assert!(bare.starts_with("exit: 64\n--- stdout\n--- stderr\n"), "{bare}");
}

#[test]
fn help_and_version_are_answers() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["help"], &["check", "--help"], &["--version"]] {
        let shown = run(folder.path(), arguments, &[]);
        assert!(shown.starts_with("exit: 0\n"), "{shown}");
        assert!(shown.ends_with("--- stderr\n"), "{shown}");
    }
    let version = run(folder.path(), &["--version"], &[]);
    assert!(version.contains(concat!("runner-broker ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn a_setting_without_a_value_is_a_usage_error_that_does_not_repeat_it() {
    let folder = tempfile::tempdir().unwrap();
    assert_snapshot!(run(folder.path(), &["check", "--set", "canary"], &[]), @r"
    exit: 64
    --- stdout
    --- stderr
    --set takes KEY=VALUE, for example log.level=debug
    ");
}
