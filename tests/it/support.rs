//! What the tests of the broker share: a stand-in Gitea, and a whole broker in this process in front of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runner_broker::app::App;
use runner_broker::config::{self, Settings};
use runner_broker::lifecycle::{Lifecycle, Timing};
use runner_broker::sandbox::gitea::{Entry, Options, StandInGitea};
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The enrollment token of every broker in the tests.
pub(crate) const ENROLLMENT_TOKEN: &str = "enrollment-token-of-the-tests-0123456789";

/// No wait in a test is longer than this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits, in short steps and not for ever, until `done`.
pub(crate) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < until, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for something that the test itself brings about.
pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.expect("it comes in time")
}

/// Time limits that let tests be short.
pub(crate) fn quick() -> Timing {
    Timing {
        absence_proves: Duration::from_millis(200),
        register: Duration::from_secs(10),
        turn: Duration::from_secs(60),
        stall: Duration::from_secs(60),
        retry: Duration::from_millis(20),
        flush: Duration::from_millis(20),
        probe: Duration::from_secs(30),
        sweep: Duration::from_secs(1),
        lost: Duration::from_secs(60),
        certificates: Duration::from_millis(20),
        handshake: Duration::from_secs(10),
    }
}

/// A stand-in Gitea as it comes.
pub(crate) fn gitea() -> StandInGitea {
    StandInGitea::start(Options::default()).unwrap()
}

/// A folder with all that a broker needs, in front of `gitea`.
pub(crate) struct Site {
    /// Holds the store, the socket, the secrets and `runners/`, the folder of runner files.
    pub(crate) folder: TempDir,
    /// Further settings, `section.key` and value; a later one wins.
    pub(crate) extra: Vec<(String, String)>,
    gitea_url: String,
    registration_token: String,
    api_token: Option<String>,
}

impl Site {
    /// A site with an API token that may do all on the instance.
    pub(crate) fn new(gitea: &StandInGitea) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("runners")).unwrap();
        Self {
            folder,
            extra: vec![("labels.host".into(), "host".into())],
            gitea_url: gitea.url(),
            registration_token: gitea
                .registration_token(&config::Scope::Instance)
                .expose_secret()
                .to_owned(),
            api_token: Some(gitea.api_token(&["write:admin"]).expose_secret().to_owned()),
        }
    }

    /// Sets one thing more.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.extra.push((key.into(), value.into()));
        self
    }

    /// Takes the API token away, or gives another.
    pub(crate) fn api_token(mut self, token: Option<&str>) -> Self {
        self.api_token = token.map(str::to_owned);
        self
    }

    /// Whether runners can be deleted.
    pub(crate) fn has_api_token(&self) -> bool {
        self.api_token.is_some()
    }

    /// Gives another registration token.
    pub(crate) fn registration_token(mut self, token: &str) -> Self {
        self.registration_token = token.to_owned();
        self
    }

    /// Writes a settings file below the environment; a broker that runs sees it with its next reload.
    pub(crate) fn write_config(&self, toml: &str) {
        std::fs::write(self.path("config.toml"), toml).unwrap();
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The runner file of this name.
    pub(crate) fn runner_file(&self, name: &str) -> PathBuf {
        self.path("runners").join(name).join(".runner")
    }

    /// The settings as environment variables, for the binary and for [`Site::settings`].
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        self.write_secret("registration_token", &self.registration_token);
        self.write_secret("enrollment", ENROLLMENT_TOKEN);
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let pattern = format!("{}/{{name}}/.runner", text(self.path("runners")));
        let mut settings = vec![
            ("listen.runners".to_owned(), "127.0.0.1:0".to_owned()),
            ("admin.listen".into(), "127.0.0.1:0".into()),
            ("admin.socket".into(), text(self.path("admin.sock"))),
            ("gitea.url".into(), self.gitea_url.clone()),
            ("gitea.registration_token_file".into(), text(self.path("registration_token"))),
            ("enrollment.token_file".into(), text(self.path("enrollment"))),
            ("credentials.path".into(), pattern),
            ("credentials.address".into(), "broker".into()),
            ("shutdown.deregister".into(), "gone".into()),
            ("store.url".into(), format!("sqlite:{}", text(self.path("state.db")))),
        ];
        if let Some(token) = &self.api_token {
            self.write_secret("api_token", token);
            settings.push(("gitea.api_token_file".into(), text(self.path("api_token"))));
        }
        let file = self.path("config.toml");
        for (key, value) in &self.extra {
            settings.retain(|(set, _)| set != key);
            settings.push((key.clone(), value.clone()));
        }
        settings
            .into_iter()
            .map(|(key, value)| {
                (format!("RUNNER_BROKER__{}", key.to_uppercase().replace('.', "__")), value)
            })
            .chain(file.exists().then(|| ("RUNNER_BROKER_CONFIG".to_owned(), text(file))))
            .collect()
    }

    /// The settings, read as the binary reads them.
    pub(crate) fn settings(&self) -> Settings {
        config::load(&self.sources()).unwrap_or_else(|problems| panic!("{problems}")).settings
    }

    fn sources(&self) -> config::Sources {
        let environment =
            self.environment().into_iter().map(|(name, value)| (name.into(), value.into()));
        config::Sources {
            file: None,
            default_file: None,
            environment: environment.collect(),
            flags: vec![],
        }
    }

    /// Writes one of the secret files; a broker that runs sees it with its next reload.
    pub(crate) fn write_secret(&self, name: &str, secret: &str) {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        let file =
            options.write(true).create(true).truncate(true).mode(0o600).open(self.path(name));
        std::io::Write::write_all(&mut file.unwrap(), secret.as_bytes()).unwrap();
    }
}

/// A whole broker in this process, over real sockets.
pub(crate) struct Broker {
    /// Where runners dial.
    pub(crate) url: String,
    /// Where metrics and health are.
    pub(crate) admin: SocketAddr,
    /// Its records and what it does with them.
    pub(crate) lifecycle: Arc<Lifecycle>,
    signals: mpsc::Sender<Signal>,
    running: JoinHandle<()>,
}

impl Broker {
    /// Starts it.
    pub(crate) async fn start(site: &Site) -> Self {
        Self::start_with(site, quick()).await
    }

    /// Starts it with other time limits.
    pub(crate) async fn start_with(site: &Site, timing: Timing) -> Self {
        let sources = site.sources();
        let reload = Box::new(move || match config::load(&sources) {
            Ok(loaded) => Ok(loaded.settings),
            Err(problems) => Err(problems.to_string()),
        });
        let settings = site.settings();
        let scheme = settings.listen.scheme();
        let app = App::start(settings, reload, timing).await.unwrap();
        let (signals, mut received) = mpsc::channel(8);
        let (url, admin) = (format!("{scheme}://{}", app.runners), app.admin);
        let lifecycle = Arc::clone(&app.lifecycle);
        let running = tokio::spawn(async move { app.run(&mut received).await });
        Self { url, admin, lifecycle, signals, running }
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, signal: Signal) {
        self.signals.send(signal).await.unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.running).await.expect("the broker ends").unwrap();
    }

    /// SIGTERM, and waits for its end. Returns how long that took.
    pub(crate) async fn stop(self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::Terminate).await;
        self.ended().await;
        begun.elapsed()
    }
}

/// Whether the broker asked what Gitea can do, or what its API token may.
pub(crate) fn is_probe(entry: &Entry) -> bool {
    entry.method == "PUT"
        || entry.target.ends_with("/9223372036854775807")
        || (entry.target.ends_with("/Deregister") && entry.body.is_empty())
}

/// The content of a runner file.
pub(crate) fn runner_file(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
