//! The whole life of runners, told step by step: a stand-in Gitea, the broker, three stand-in runners.
//! All that is shown was seen, and all that is claimed is checked.

mod scenes;
mod story;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::InvalidUri;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use story::{LogLines, Story};

use super::gitea::{RunnerView, StandInGitea, random_hex};
use super::runner::{Pace, RpcError, StandInRunner};
use crate::app::{App, StartError};
use crate::config::{self, Scope, Settings};
use crate::credential::NotARunnerFile;
use crate::lifecycle::{Lifecycle, Timing, TokenError};
use crate::shutdown::Signal;

/// The runners: name, label as Register carries it, and its full form, which says where jobs run.
const CAST: [(&str, &str, &str); 3] = [
    ("builder", "ubuntu-latest", "docker://node:20"),
    ("tester", "debian-12", "docker://debian:12"),
    ("deployer", "deploy", "host"),
];
/// The log of the job; it is played, not run.
const JOB: [&str; 4] =
    ["git clone acme/app", "cargo build", "cargo test: all tests passed", "Job succeeded"];
/// Between two lines of it.
const WORK: Duration = Duration::from_millis(250);
const POLL: Pace = Pace { poll: Duration::from_millis(200) };

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// What it claims is not so.
    #[error("this should be so, and is not: {0:?}; please report it with all of the output")]
    Untrue(String),
    /// The broker does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A call that should work does not.
    #[error("a call of a stand-in runner failed: {0}")]
    Call(#[from] RpcError),
    /// The runner file is none.
    #[error(transparent)]
    File(#[from] NotARunnerFile),
    /// A token cannot be made or taken back.
    #[error("enrollment tokens: {0}")]
    Token(#[from] TokenError),
    /// A file or socket of the demo's own, or its output.
    #[error("the demo needs 127.0.0.1, a folder for temporary files and its output: {0}")]
    Io(#[from] io::Error),
    /// The broker broke off.
    #[error("the broker did not end in order: {0}")]
    Broken(#[from] tokio::task::JoinError),
    /// The metrics cannot be written.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The stand-in's address is none.
    #[error("the stand-in Gitea has no address: {0}")]
    Address(#[from] InvalidUri),
}

/// Tells all of it. The broker's records and the runner files are in `folder`, which is private and
/// empty; `log` holds what the broker logs.
///
/// # Errors
/// What kept it from going on, or which claim is not so.
pub async fn play<W: Write>(
    gitea: &StandInGitea,
    folder: &Path,
    log: &LogLines,
    story: &mut Story<W>,
) -> Result<(), DemoError> {
    story.head("The life of three runners behind runner-broker")?;
    story.say(
        "All in this one process and on loopback: a stand-in Gitea, the broker itself, and stand-in \
         runners that speak as real ones do. Lines that begin with \"ok\" were checked just now.",
    )?;
    let mut stage = Stage::set(gitea, folder, story).await?;
    stage.turn_away(story).await?;
    let [builder, tester, deployer] = stage.join(story).await?;
    stage.lend_a_token(story).await?;
    let [tester, deployer_daemon] = [tester, deployer.clone()].map(|runner| runner.spawn(POLL));
    stage.run_job(story, &builder).await?;
    stage.leave(story, deployer, deployer_daemon).await?;
    stage.vanish(story, builder, tester).await?;
    stage.end(story, log).await
}

/// All that is on the stage but the runners.
struct Stage<'a> {
    gitea: &'a StandInGitea,
    folder: &'a Path,
    enrollment: SecretString,
    registration: SecretString,
    url: String,
    lifecycle: Arc<Lifecycle>,
    signals: mpsc::Sender<Signal>,
    running: JoinHandle<()>,
}

impl<'a> Stage<'a> {
    async fn set<W: Write>(
        gitea: &'a StandInGitea,
        folder: &'a Path,
        story: &mut Story<W>,
    ) -> Result<Self, DemoError> {
        let registration = gitea.registration_token(&Scope::Instance);
        story.step("Gitea is there").await?;
        story.say(&format!(
            "A stand-in listens at {}. Whoever has its registration token can add runners for ever; \
             without a broker it lies in every runner's environment, where jobs can read it.",
            gitea.url()
        ))?;
        story.claim(gitea.runners().is_empty(), "Gitea's list of runners is empty.")?;

        story.step("The broker starts in front of it").await?;
        let enrollment = SecretString::from(random_hex(32));
        let api = gitea.api_token(&["write:admin"]);
        let settings = settings(gitea, folder, [&registration, &enrollment, &api])?;
        let again = settings.clone();
        let app =
            App::start(settings, Box::new(move || Ok(again.clone())), Timing::default()).await?;
        let url = format!("http://{}", app.runners);
        story.say(&format!(
            "Runners dial it at {url} as if it were Gitea. It alone holds Gitea's registration token, \
             and an API token to delete runners with. Runners get an enrollment token: a secret of \
             the broker's own, worth nothing at Gitea."
        ))?;
        let (signals, mut received) = mpsc::channel(1);
        let lifecycle = Arc::clone(&app.lifecycle);
        let running = tokio::spawn(async move { app.run(&mut received).await });
        let greeting = StandInRunner::new(&url).ping("newcomer").await?;
        story.claim(
            greeting == "Hello, newcomer!",
            &format!("A ping through the broker is answered by Gitea: {greeting:?}."),
        )?;
        Ok(Self { gitea, folder, enrollment, registration, url, lifecycle, signals, running })
    }

    /// Gitea's list of runners, as its page shows it.
    fn list<W: Write>(&self, story: &mut Story<W>) -> io::Result<()> {
        story.say("Gitea's list:")?;
        let mut runners = self.gitea.runners();
        runners.sort_unstable_by_key(|view| view.id);
        for RunnerView { id, name, labels, online, busy, .. } in runners {
            let status = match (online, busy) {
                (false, _) => "offline",
                (true, false) => "idle",
                (true, true) => "active (Gitea says so until ten seconds after a job)",
            };
            story.show(&format!("{id} {name} [{}] {status}", labels.join(", ")))?;
        }
        Ok(())
    }

    /// The bodies of all Registers that reached Gitea.
    fn registers(&self) -> Vec<bytes::Bytes> {
        let entries = self.gitea.journal().entries().into_iter();
        entries.filter(|entry| entry.target.contains("Register")).map(|entry| entry.body).collect()
    }

    async fn metrics(&self, name: &str) -> Result<Vec<String>, DemoError> {
        self.lifecycle.measure().await;
        Ok(samples(&self.lifecycle.metrics.render()?, &format!("{name}{{")))
    }

    fn runner_file(&self, name: &str) -> PathBuf {
        self.folder.join(name).join(".runner")
    }
}

/// The samples that begin so and are not zero.
fn samples(text: &str, begin: &str) -> Vec<String> {
    let found = text.lines().filter(|line| line.starts_with(begin) && !line.ends_with(" 0"));
    found.map(str::to_owned).collect()
}

/// What the demo's broker is set to: all ports free ones, and all files in the folder.
fn settings(
    gitea: &StandInGitea,
    folder: &Path,
    [registration, enrollment, api]: [&SecretString; 3],
) -> Result<Settings, DemoError> {
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let labels = CAST.map(|(_, label, full)| (label.to_owned(), full.to_owned()));
    Ok(Settings {
        limits: config::Limits::default(),
        listen: config::Listen { runners: free, ..config::Listen::default() },
        admin: config::Admin {
            listen: free,
            socket: folder.join("admin.sock"),
            ..config::Admin::default()
        },
        gitea: config::Gitea {
            url: gitea.url().parse()?,
            default: config::Served {
                section: "gitea".into(),
                scope: Scope::Instance,
                registration_token: Some(registration.clone()),
                api_token: Some(api.clone()),
            },
            further: Vec::new(),
            ca_file: None,
            client: None,
            lost_wakeup_workaround: true,
        },
        enrollment: config::Enrollment { token: Some(enrollment.clone()), tokens: Vec::new() },
        credentials: config::Credentials {
            path: format!("{}/{{name}}/.runner", folder.display()),
            address: config::Address::Broker,
            ..config::Credentials::default()
        },
        labels: BTreeMap::from(labels),
        lease: config::Lease::default(),
        runners: Vec::new(),
        shutdown: config::Shutdown {
            deregister: config::Deregister::Gone,
            ..config::Shutdown::default()
        },
        store: config::Store { path: folder.join("state.db"), ..config::Store::default() },
        log: config::Log::default(),
    })
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;
    use crate::sandbox::gitea::{Answer, Effect, Options, Route, When};

    #[tokio::test]
    async fn a_false_claim_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let gitea = StandInGitea::start(Options::default()).unwrap();
        // Gitea says that it deleted the runner, and did not.
        let lie = Answer { status: StatusCode::NO_CONTENT, headers: vec![], body: "".into() };
        gitea.faults().always(Route::DeleteRunner, When::BeforeActing, Effect::Answer(lie));
        let mut story = Story::new(Vec::new(), false, Duration::ZERO);
        let ended = play(&gitea, folder.path(), &LogLines::default(), &mut story).await;
        let error = ended.unwrap_err().to_string();
        assert!(error.contains("its runner is gone from Gitea"), "{error}");
    }
}
