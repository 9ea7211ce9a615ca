//! A real Gitea in a folder of its own: SQLite, loopback, an administrator and a repository's REST API.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::binary;
use crate::http::{Answer, Client};
use crate::process::{Process, until};

const ADMIN: &str = "root1";
const PASSWORD: &str = "only-on-loopback-1";
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(30);
const JOB: Duration = Duration::from_secs(120);

/// A Gitea that can be restarted; it ends with this value.
pub struct Gitea {
    /// While it is up.
    pub process: Option<Process>,
    // Dropped after the process that writes there.
    home: TempDir,
    user: Option<User>,
    client: Client,
    /// As it names itself, with the sub-path and no slash at the end.
    pub url: String,
    /// Empty, or `/name`.
    pub sub_path: String,
    /// The harness's own access token: everything.
    token: String,
}

/// An administrator who is logged in on the pages.
#[derive(Default)]
pub struct Session {
    cookies: BTreeMap<String, String>,
}

impl Gitea {
    /// Starts one below `sub_path` (empty, or `/name`) and makes an administrator.
    pub fn start(sub_path: &str) -> Self {
        // Each test needs a runner too: better missed before a Gitea was started.
        binary("GITEA_RUNNER_BIN");
        let home = tempfile::tempdir().expect("a folder for temporary files");
        let user = rustix::process::geteuid().is_root().then(User::find);
        if let Some(user) = &user {
            user.own(home.path());
        }
        // Gitea cannot tell which port it got, so it is given one that was free a moment ago.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .expect("a free port on loopback")
            .port();
        let url = format!("http://127.0.0.1:{port}{sub_path}");
        let mut gitea = Self {
            home,
            user,
            client: Client::new(),
            url,
            sub_path: sub_path.to_owned(),
            token: String::new(),
            process: None,
        };
        gitea.configure(port);
        gitea.up();
        gitea.command_line(&[
            "admin",
            "user",
            "create",
            "--admin",
            "--username",
            ADMIN,
            "--password",
            PASSWORD,
            "--email",
            "root1@example.invalid",
            "--must-change-password=false",
        ]);
        gitea.token = gitea.access_token(&["all"]);
        gitea
    }

    /// Starts the server, also after [`Gitea::down`], and returns when it answers.
    pub fn up(&mut self) {
        let mut process = Process::start("Gitea", self.command().arg("web"));
        let url = format!("{}/api/healthz", self.url);
        until("Gitea's health", START, || {
            assert!(!process.ended(), "Gitea ended at its start:\n{}", process.output());
            self.client.send("GET", &url, &[], "").ok().filter(|answer| answer.status == 200)
        });
        self.process = Some(process);
    }

    /// Ends the server and keeps its data.
    pub fn down(&mut self) {
        let mut process = self.process.take().expect("a running Gitea");
        process.signal(Signal::TERM);
        process.wait(STOP);
    }

    /// Makes an access token with these scopes.
    pub fn access_token(&self, scopes: &[&str]) -> String {
        let basic = BASE64_STANDARD.encode(format!("{ADMIN}:{PASSWORD}"));
        let body = json!({ "name": scopes.join(" "), "scopes": scopes });
        let url = format!("{}/api/v1/users/{ADMIN}/tokens", self.url);
        let headers =
            [("authorization", &*format!("Basic {basic}")), ("content-type", "application/json")];
        let answer = self.client.send("POST", &url, &headers, &body.to_string());
        text(&expect(201, answer.expect("Gitea answers")).json()["sha1"])
    }

    /// The registration token of the whole instance, as the command line gives it.
    pub fn registration_token(&self) -> String {
        let output = self.command_line(&["actions", "generate-runner-token"]);
        output.lines().last().expect("a token").trim().to_owned()
    }

    /// Logs the administrator in on the pages, ready for the button that resets the registration token.
    pub fn log_in(&self) -> Session {
        let mut session = Session::default();
        self.visit(&mut session, "GET", "/user/login", "", 200);
        let form = format!("user_name={ADMIN}&password={PASSWORD}");
        self.visit(&mut session, "POST", "/user/login", &form, 303);
        self.visit(&mut session, "GET", "/-/admin/actions/runners", "", 200);
        session
    }

    /// Makes the registration token void and mints another, as the button on the administrator's page does.
    pub fn reset_registration_token(&self, session: &mut Session) {
        let path = "/-/admin/actions/runners/reset_registration_token";
        self.visit(session, "POST", path, "", 200);
    }

    fn visit(&self, session: &mut Session, method: &str, path: &str, body: &str, status: u16) {
        let cookie = |(name, value)| format!("{name}={value}");
        let header = session.cookies.iter().map(cookie).collect::<Vec<_>>().join("; ");
        let token = session.cookies.get("_csrf").cloned().unwrap_or_default();
        let form = "application/x-www-form-urlencoded";
        let headers = [("cookie", &*header), ("x-csrf-token", &*token), ("content-type", form)];
        let url = format!("{}{path}", self.url);
        let answer = self.client.send(method, &url, &headers, body).expect("Gitea answers");
        session.cookies.extend(expect(status, answer).cookies);
    }

    /// Makes an organization.
    pub fn add_organization(&self, name: &str) {
        self.api("POST", "/orgs", &json!({ "username": name }));
    }

    /// Makes a private repository of the administrator.
    pub fn add_repository(&self, name: &str) {
        let body = json!({ "name": name, "auto_init": true, "private": true });
        self.api("POST", "/user/repos", &body);
    }

    /// The names of the runners of a place (`/orgs/acme`, `/user`), and how many there are in all.
    pub fn names_at(&self, place: &str) -> (Vec<String>, u64) {
        let list = self.api("GET", &format!("{place}/actions/runners?limit=50"), &Value::Null);
        let rows = list["runners"].as_array().cloned().unwrap_or_default();
        let names = rows.iter().map(|row| text(&row["name"])).collect();
        (names, list["total_count"].as_u64().expect("a count"))
    }

    /// The rows of all runners.
    pub fn runners(&self) -> Vec<Value> {
        let list = self.api("GET", "/admin/actions/runners", &Value::Null);
        list["runners"].as_array().cloned().unwrap_or_default()
    }

    /// Deletes a runner, as an admin on the page.
    pub fn delete_runner(&self, id: i64) {
        let authorization = format!("token {}", self.token);
        let url = format!("{}/api/v1/admin/actions/runners/{id}", self.url);
        let answer = self.client.send("DELETE", &url, &[("authorization", &authorization)], "");
        expect(204, answer.expect("Gitea answers"));
    }

    /// Makes a private repository of the administrator with this workflow, which is a push that starts it.
    pub fn push_workflow(&self, repository: &str, workflow: &str) {
        self.add_repository(repository);
        self.add_workflow(repository, workflow);
    }

    /// Pushes this workflow to a repository, which starts it.
    pub fn add_workflow(&self, repository: &str, workflow: &str) {
        self.api(
            "POST",
            &format!("/repos/{ADMIN}/{repository}/contents/.gitea/workflows/job.yml"),
            &json!({ "content": BASE64_STANDARD.encode(workflow), "message": "add the job" }),
        );
    }

    /// Waits until the repository's only job writes this line into its log.
    pub fn wait_for_line(&self, repository: &str, line: &str) {
        until(&format!("{line:?} in the job's log"), JOB, || {
            self.log(repository).filter(|log| log.lines().any(|seen| seen.ends_with(line)))
        });
    }

    /// Waits for the end of the repository's only run; the test ends where that is no success.
    pub fn wait_for_success(&self, repository: &str) -> String {
        let (conclusion, log) = self.wait_for_end(repository);
        assert_eq!(conclusion, "success", "the job's log:\n{log}");
        log
    }

    /// Waits for the end of the repository's only run; gives how it ended, and the job's log.
    pub fn wait_for_end(&self, repository: &str) -> (String, String) {
        let conclusion = until("the end of the run", JOB, || {
            let runs =
                self.api("GET", &format!("/repos/{ADMIN}/{repository}/actions/runs"), &Value::Null);
            let run = &runs["workflow_runs"][0];
            (run["status"] == "completed").then(|| text(&run["conclusion"]))
        });
        (conclusion, self.log(repository).unwrap_or_default())
    }

    fn log(&self, repository: &str) -> Option<String> {
        let actions = format!("{}/api/v1/repos/{ADMIN}/{repository}/actions", self.url);
        let jobs =
            self.get(&format!("{actions}/jobs")).filter(|answer| answer.status == 200)?.json();
        let id = jobs["jobs"][0]["id"].as_i64()?;
        let log = self.get(&format!("{actions}/jobs/{id}/logs"))?;
        (log.status == 200).then_some(log.body)
    }

    fn get(&self, url: &str) -> Option<Answer> {
        let authorization = format!("token {}", self.token);
        self.client.send("GET", url, &[("authorization", &authorization)], "").ok()
    }

    fn api(&self, method: &str, path: &str, body: &Value) -> Value {
        let authorization = format!("token {}", self.token);
        let headers = [("authorization", &*authorization), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let url = format!("{}/api/v1{path}", self.url);
        let answer = self.client.send(method, &url, &headers, &body).expect("Gitea answers");
        assert!(answer.status < 300, "{method} {url}: {} {}", answer.status, answer.body);
        answer.json()
    }

    fn command_line(&self, arguments: &[&str]) -> String {
        let (status, output) = Process::run("gitea", self.command().args(arguments), START);
        assert!(status.success(), "gitea {} failed:\n{output}", arguments[0]);
        output
    }

    fn command(&self) -> Command {
        let home = self.home.path();
        let mut command = Command::new(binary("GITEA_BIN"));
        command
            .env_clear()
            .env("HOME", home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(home).arg("--work-path").arg(home).arg("--config").arg(self.ini());
        if let Some(user) = &self.user {
            command.env("USER", &user.name).uid(user.uid).gid(user.gid);
        } else if let Some(name) = std::env::var_os("USER") {
            command.env("USER", name);
        }
        command
    }

    fn ini(&self) -> PathBuf {
        self.home.path().join("app.ini")
    }

    fn configure(&self, port: u16) {
        let (home, url) = (self.home.path().display(), &self.url);
        let statics = std::env::var("GITEA_STATIC_ROOT")
            .map_or_else(|_| String::new(), |root| format!("STATIC_ROOT_PATH = {root}"));
        let below = !self.sub_path.is_empty();
        let (status, internal) = Process::run(
            "gitea",
            self.command().args(["generate", "secret", "INTERNAL_TOKEN"]),
            START,
        );
        assert!(status.success(), "gitea makes no secret:\n{internal}");
        let ini = format!(
            "RUN_MODE = prod
[server]
PROTOCOL = http
HTTP_ADDR = 127.0.0.1
HTTP_PORT = {port}
ROOT_URL = {url}/
LOCAL_ROOT_URL = {url}/
USE_SUB_URL_PATH = {below}
DISABLE_SSH = true
OFFLINE_MODE = true
{statics}
[database]
DB_TYPE = sqlite3
PATH = {home}/gitea.db
SQLITE_JOURNAL_MODE = WAL
[security]
INSTALL_LOCK = true
SECRET_KEY = only-on-loopback
INTERNAL_TOKEN = {internal}
[service]
DISABLE_REGISTRATION = true
[actions]
ENABLED = true
DEFAULT_ACTIONS_URL = self
[log]
MODE = console
LEVEL = Info
"
        );
        fs::write(self.ini(), ini).expect("a folder of this test");
        if let Some(user) = &self.user {
            user.own(&self.ini());
        }
    }
}

/// Who Gitea runs as where the test is run by root, which Gitea refuses.
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// `GITEA_USER`, else `nobody`.
    fn find() -> Self {
        let name = std::env::var("GITEA_USER").unwrap_or_else(|_| "nobody".to_owned());
        let list = fs::read_to_string("/etc/passwd").expect("/etc/passwd can be read");
        let entry = list.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let found = entry
            .filter(|fields| fields[0] == name)
            .find_map(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)));
        let (uid, gid) = found.unwrap_or_else(|| {
            panic!("Gitea does not run as root: set GITEA_USER to a user in /etc/passwd, which {name} is not")
        });
        Self { name, uid, gid }
    }

    fn own(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.gid)).expect("root may do this");
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).expect("root may do this");
    }
}

fn expect(status: u16, answer: Answer) -> Answer {
    assert_eq!(answer.status, status, "Gitea says {}", answer.body);
    answer
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}
