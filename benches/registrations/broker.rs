//! The broker as it is built, with a store and a folder of runner files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::kit::broker::program;
use crate::process::Process;

/// What runners show to it.
pub const ENROLLMENT_TOKEN: &str = "an-enrollment-token-of-more-than-32-characters";

/// One that serves, until this is dropped.
pub struct Broker {
    process: Process,
    // Dropped after the process that writes there.
    _home: TempDir,
    pub url: String,
}

impl Broker {
    /// With its store and its runner files in a new folder below `place`.
    pub fn start(gitea: &str, registration_token: &str, place: &Path) -> Self {
        let home = tempfile::tempdir_in(place).expect("a folder for temporary files");
        let path =
            |name: &str| home.path().join(name).to_str().expect("a path in UTF-8").to_owned();
        fs::create_dir(path("runners")).unwrap();
        fs::write(path("registration_token"), registration_token).unwrap();
        fs::write(path("enrollment_token"), ENROLLMENT_TOKEN).unwrap();
        let mut command = Command::new(program().expect("the broker can be built"));
        command.arg("serve").env_clear();
        for (key, value) in [
            ("LISTEN__RUNNERS", "127.0.0.1:0"),
            ("ADMIN__LISTEN", "127.0.0.1:0"),
            ("ADMIN__SOCKET", &path("admin.sock")),
            ("GITEA__URL", gitea),
            ("GITEA__REGISTRATION_TOKEN_FILE", &path("registration_token")),
            ("ENROLLMENT__TOKEN_FILE", &path("enrollment_token")),
            ("CREDENTIALS__PATH", &format!("{}/{{name}}/.runner", path("runners"))),
            ("CREDENTIALS__ADDRESS", "broker"),
            ("LABELS__HOST", "host"),
            ("STORE__URL", &format!("sqlite:{}", path("state.db"))),
            ("LOG__FORMAT", "json"),
        ] {
            command.env(format!("RUNNER_BROKER__{key}"), value);
        }
        let process = Process::start("runner-broker", &mut command);
        let listening = Duration::from_secs(30);
        let runners = process.line("that it is listening", listening, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == "listening").then(|| line["runners"].as_str().map(str::to_owned))?
        });
        Self { url: format!("http://{runners}"), process, _home: home }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It keeps all registrations: nobody asks Gitea to forget them.
        self.process.signal(Signal::QUIT);
        self.process.wait(Duration::from_secs(30));
    }
}
