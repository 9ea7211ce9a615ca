//! A real runner, registered and started as the start script of its image does it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::process::Process;

const LIMIT: Duration = Duration::from_secs(60);

/// A folder with a runner in it; the runner ends with this value.
pub struct Runner {
    daemon: Option<Process>,
    // Dropped after the process that writes there.
    home: TempDir,
    name: String,
    /// What `register` wrote.
    registered: String,
    /// The only authorities that it trusts; `None`: the system's.
    authorities: Option<PathBuf>,
}

impl Runner {
    /// An empty folder and a name.
    pub fn new(name: &str) -> Self {
        let home = tempfile::tempdir().expect("a folder for temporary files");
        // Polls once a second, so that a test does not wait for the default's five.
        let config =
            "runner: {fetch_interval: 1s, fetch_interval_max: 1s}\ncache: {enabled: false}\n";
        fs::write(home.path().join("config.yaml"), config).expect("a folder of this test");
        Self {
            home,
            name: name.to_owned(),
            daemon: None,
            registered: String::new(),
            authorities: None,
        }
    }

    /// Trusts the authorities of this file alone.
    pub fn trust(&mut self, authorities: &Path) {
        self.authorities = Some(authorities.to_owned());
    }

    /// Runs `register` with the label `e2e`; the error is what it wrote.
    pub fn register(&mut self, instance: &str, token: &str) -> Result<(), String> {
        self.register_with(instance, token, &[])
    }

    /// The same with further arguments.
    pub fn register_with(
        &mut self,
        instance: &str,
        token: &str,
        further: &[&str],
    ) -> Result<(), String> {
        let mut command = self.command("register");
        command.args(further);
        command.args(["--no-interactive", "--labels", "e2e:host", "--name", &self.name]);
        command.args(["--instance", instance, "--token", token]);
        command.env("GITEA_INSTANCE_URL", instance);
        command.env("GITEA_RUNNER_REGISTRATION_TOKEN", token);
        command.env("GITEA_RUNNER_NAME", &self.name);
        command.env("GITEA_RUNNER_LABELS", "e2e:host");
        let (status, output) = Process::run("gitea-runner register", &mut command, LIMIT);
        if !status.success() {
            return Err(output);
        }
        self.registered = output;
        Ok(())
    }

    /// Starts the daemon and returns when it has declared itself.
    pub fn start(&mut self) {
        let mut command = self.command("daemon");
        command.env("GITEA_RUNNER_NAME", &self.name).env("GITEA_RUNNER_LABELS", "e2e:host");
        let daemon = Process::start("gitea-runner daemon", &mut command);
        daemon.line("that it declared itself", LIMIT, |line| {
            assert!(!line.contains("fail to invoke Declare"), "{line}");
            line.contains("declare successfully").then_some(())
        });
        self.daemon = Some(daemon);
    }

    /// Changes the one line that a person changes who moves a runner.
    pub fn set_address(&self, address: &str) {
        let mut file = self.file();
        file["address"] = address.into();
        self.put_file(&file);
    }

    /// Has this runner file.
    pub fn put_file(&self, file: &Value) {
        let text = serde_json::to_string_pretty(file).expect("a runner file");
        fs::write(self.home.path().join(".runner"), text).expect("a folder of this test");
    }

    /// Waits until the daemon has written of this.
    pub fn says(&self, text: &str) {
        let daemon = self.daemon.as_ref().expect("a running runner");
        daemon.line(text, 2 * LIMIT, |line| line.contains(text).then_some(()));
    }

    /// Kills the daemon.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("a running runner");
        daemon.signal(Signal::KILL);
        daemon.wait(LIMIT);
    }

    /// Starts the daemon and waits for its own end; gives what it wrote.
    pub fn start_in_vain(&self) -> String {
        let (status, output) =
            Process::run("gitea-runner daemon", &mut self.command("daemon"), LIMIT);
        assert!(!status.success(), "{output}");
        output
    }

    /// Adds a label to the runner file, as a person with an editor would.
    pub fn claim_label(&self, label: &str) {
        let mut file = self.file();
        file["labels"].as_array_mut().expect("labels").push(label.into());
        self.put_file(&file);
    }

    /// Ends the daemon as a container's stop does; gives all that the runner ever wrote.
    pub fn stop(&mut self) -> String {
        let mut daemon = self.daemon.take().expect("a running runner");
        daemon.signal(Signal::TERM);
        daemon.wait(LIMIT);
        format!("{}\n{}", self.registered, daemon.output())
    }

    /// The runner file.
    pub fn file(&self) -> Value {
        read_runner_file(&self.home.path().join(".runner"))
    }

    /// The daemon's environment, as its processes see it.
    pub fn environment(&self) -> Vec<u8> {
        let pid = self.daemon.as_ref().expect("a running runner").pid();
        fs::read(format!("/proc/{pid}/environ")).expect("a child's environment")
    }

    /// Lets a job that waits for it go on.
    pub fn release_job(&self) {
        fs::write(self.home.path().join("go"), "").expect("a folder of this test");
    }

    /// The files of the runner's folder that hold this text, its jobs' folders included.
    pub fn files_with(&self, text: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        search(self.home.path(), text.as_bytes(), &mut found).expect("a folder of this test");
        found
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, verb: &str) -> Command {
        let home = self.home.path();
        let mut command = Command::new(binary("GITEA_RUNNER_BIN"));
        command
            .env_clear()
            .env("HOME", home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(authorities) = &self.authorities {
            command.env("SSL_CERT_FILE", authorities);
        }
        command.current_dir(home).args([verb, "--config", "config.yaml"]);
        command
    }
}

/// Reads a runner file.
pub fn read_runner_file(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn search(folder: &Path, text: &[u8], found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            search(&entry.path(), text, found)?;
        } else if entry.file_type()?.is_file()
            && fs::read(entry.path())?.windows(text.len()).any(|part| part == text)
        {
            found.push(entry.path());
        }
    }
    Ok(())
}
