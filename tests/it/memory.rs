//! What is in the memory of the processes is not for others of their user.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Root may read everything, so that these tests run as somebody else where they are started as root.
const NOBODY: u32 = 65534;

/// A process that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The binary, where everybody may start it.
fn binary(folder: &TempDir) -> std::path::PathBuf {
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
    let binary = folder.path().join("runner-broker");
    std::fs::copy(env!("CARGO_BIN_EXE_runner-broker"), &binary).unwrap();
    binary
}

fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
    command
}

/// Whether another process of the same user can read this one's environment.
fn is_open(process: &Running) -> bool {
    let environment = format!("/proc/{}/environ", process.0.id());
    as_nobody(Path::new("cat")).arg(environment).output().unwrap().status.success()
}

#[test]
fn a_job_of_the_same_user_cannot_read_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let mut waiting = as_nobody(&binary(&folder))
        .args(["enroll", "--out", "runner"])
        .current_dir(&folder)
        .env("GITEA_INSTANCE_URL", "http://127.0.0.1:1")
        .env("GITEA_RUNNER_NAME", "builder")
        .env("GITEA_RUNNER_REGISTRATION_TOKEN", "an-enrollment-token-of-some-length-0123")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(waiting.stderr.take().unwrap());
    let waiting = Running(waiting);
    let mut line = String::new();
    log.read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "it is past its start");
    assert!(!is_open(&waiting), "{line}");

    let mut other = as_nobody(Path::new("cat"));
    let other = Running(other.stdin(Stdio::piped()).spawn().unwrap());
    assert!(is_open(&other), "of other programs it can be read");
}
