//! `runner-broker completions`

use super::run;

#[test]
fn each_shell_gets_all_commands() {
    let folder = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let shown = run(folder.path(), &["completions", shell], &[]);
        assert!(shown.starts_with("exit: 0\n--- stdout\n"), "{shown}");
        assert!(shown.ends_with("\n--- stderr\n"), "{shown}");
        for word in ["runner-broker", "token", "rotate", "events", "admin-token-file"] {
            assert!(shown.contains(word), "{shell}: {word}");
        }
    }
}
