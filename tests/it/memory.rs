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

/// How large a core dump may be that the kernel writes of this process.
fn core_limit(process: u32) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    line.split_whitespace().nth(4).unwrap().to_owned()
}

/// Of each kind of process that holds secrets for longer.
#[test]
fn what_else_runs_as_the_same_user_can_read_neither_environment_nor_core() {
    const TOKEN: &str = "an-enrollment-token-of-some-length-0123";
    let own_limit = core_limit(std::process::id());
    for (arguments, keeps_limit) in [
        (&["enroll", "--out", "runner"][..], false),
        (&["serve"], false),
        (&["run", "--", "sleep", "60"], true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let binary = binary(&folder);
        std::fs::create_dir(folder.path().join("own")).unwrap();
        std::fs::set_permissions(folder.path().join("own"), PermissionsExt::from_mode(0o777))
            .unwrap();
        let state = folder.path().join("own/state");
        let mut waiting = as_nobody(Path::new("sh"))
            // As large as it may be, so that it is the program that lowers it.
            .args(["-c", "mkdir own/state; ulimit -S -c \"$(ulimit -H -c)\"; exec \"$0\" \"$@\""])
            .arg(binary)
            .args(arguments)
            .current_dir(&folder)
            .env("GITEA_INSTANCE_URL", "http://127.0.0.1:1")
            .env("GITEA_RUNNER_NAME", "builder")
            .env("GITEA_RUNNER_REGISTRATION_TOKEN", TOKEN)
            .env("RUNNER_BROKER__ENROLLMENT__TOKEN", format!("{TOKEN}-of-its-own"))
            .env("RUNNER_BROKER__LISTEN__RUNNERS", "127.0.0.1:0")
            .env("RUNNER_BROKER__ADMIN__LISTEN", "127.0.0.1:0")
            .env("RUNNER_BROKER__ADMIN__SOCKET", state.join("admin.sock"))
            .env("RUNNER_BROKER__STORE__URL", format!("sqlite:{}/state.db", state.display()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(waiting.stderr.take().unwrap());
        let waiting = Running(waiting);
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{arguments:?} is past its start");
        assert!(!is_open(&waiting), "{arguments:?}: {line}");
        let limit = core_limit(waiting.0.id());
        // A job may want its cores, and inherits what the wrapper has.
        assert!(keeps_limit || limit == "0", "{arguments:?}: {limit}");
        assert!(!keeps_limit || limit != "0" || own_limit == "0", "{arguments:?}: {limit}");
    }
    let mut other = as_nobody(Path::new("cat"));
    let other = Running(other.stdin(Stdio::piped()).spawn().unwrap());
    assert!(is_open(&other), "of other programs it can be read");
}
