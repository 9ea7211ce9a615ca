//! The commands as users see them: the built binary, its output and its exit codes.

#![allow(clippy::unwrap_used)] // The lint knows test functions, not their helpers.

mod broker;
mod check;
mod completions;
mod demo;
mod enroll;
mod events;
mod run;
mod scripted;
mod status;
mod token;
mod usage;

use std::path::Path;
use std::process::Command;

/// Runs the binary with these arguments and this environment alone, and shows all that it gave.
/// `folder` is shown as `[dir]`.
fn run(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_runner-broker"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(folder)
        .output()
        .expect("the binary starts");
    let shown = format!(
        "exit: {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string()),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    shown.replace(&folder.display().to_string(), "[dir]")
}
