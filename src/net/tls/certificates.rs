//! The certificates that the broker shows: loaded, read again while it runs, and told of before they end.
//!
//! The files are read, and their contents compared: what a folder or a symlink was swapped for is seen
//! whatever its times say. What is new is checked whole before it is used.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use super::client::{Shown, is_https};
use super::expiry::{Expiry, Validity, expiry};
use super::files::{Files, Part, Wrong};
use super::server::{Listener, server_config};
use crate::broker::secret::Digest;
use crate::config::{Pair, Settings};
use crate::telemetry::Metrics;

/// How often it is said that a certificate ends soon.
const REMIND: Duration = Duration::from_secs(24 * 60 * 60);

/// Which certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// That of the runners' listener.
    Runners,
    /// That of the admin listener.
    Admin,
    /// That which is shown to Gitea.
    Gitea,
}

impl Name {
    /// The word for it in metrics and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Runners => "runners",
            Self::Admin => "admin",
            Self::Gitea => "gitea",
        }
    }

    /// The setting that names one of its files.
    pub(crate) fn key(self, part: Part) -> &'static str {
        match (self, part) {
            (Self::Runners, Part::Cert) => "listen.tls.cert",
            (Self::Runners, Part::Key) => "listen.tls.key",
            (Self::Runners, Part::ClientCa) => "listen.tls.client_ca",
            (Self::Admin, Part::Cert) => "admin.tls.cert",
            (Self::Admin, Part::Key) => "admin.tls.key",
            (Self::Admin, Part::ClientCa) => "admin.tls.client_ca",
            (Self::Gitea, Part::Key) => "gitea.client_key_file",
            (Self::Gitea, _) => "gitea.client_cert_file",
        }
    }
}

/// How one of them stands.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// Which.
    pub name: Name,
    /// When it ends.
    pub not_after: SystemTime,
    /// What is to be said of its time, where there is something: it `expires in 3 days`.
    pub expiry: Option<String>,
    /// Why its files, which changed since, are not used.
    pub trouble: Option<String>,
}

/// All of them.
pub struct Certificates {
    all: Vec<Watched>,
    metrics: Arc<Metrics>,
    soon: Notify,
}

struct Watched {
    name: Name,
    target: Target,
    state: Mutex<State>,
}

enum Target {
    Listener(Arc<Listener>),
    Gitea(Arc<Shown>),
}

struct State {
    pair: Pair,
    client_ca: Option<PathBuf>,
    validity: Validity,
    /// What was found when they were last read.
    seen: Seen,
    /// Why that is not used.
    trouble: Option<String>,
    /// That was said.
    told: bool,
    /// When it was last said that it ends soon.
    reminded: Option<Instant>,
}

#[derive(PartialEq, Eq)]
enum Seen {
    Contents(Digest),
    /// They could not be read.
    Nothing(String),
}

impl Certificates {
    /// Loads all that the settings name.
    ///
    /// # Errors
    /// All that is wrong with the files.
    pub fn load(settings: &Settings, metrics: Arc<Metrics>) -> Result<Self, String> {
        let (mut all, mut wrong) = (Vec::new(), Vec::new());
        for (name, pair, client_ca) in named(settings) {
            match Watched::load(name, pair, client_ca) {
                Ok(watched) => all.push(watched),
                Err(sentence) => wrong.push(sentence),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.join("; "));
        }
        for watched in &all {
            metrics
                .set_certificate_expiry(watched.name.as_str(), watched.state().validity.not_after);
        }
        Ok(Self { all, metrics, soon: Notify::new() })
    }

    /// What a listener shows; `None`: it speaks no TLS.
    pub(crate) fn listener(&self, name: Name) -> Option<Arc<Listener>> {
        self.all.iter().find(|watched| watched.name == name).and_then(|watched| {
            match &watched.target {
                Target::Listener(listener) => Some(Arc::clone(listener)),
                Target::Gitea(_) => None,
            }
        })
    }

    /// What is shown to Gitea; `None`: nothing.
    pub(crate) fn shown_to_gitea(&self) -> Option<Arc<Shown>> {
        self.all.iter().find_map(|watched| match &watched.target {
            Target::Gitea(shown) => Some(Arc::clone(shown)),
            Target::Listener(_) => None,
        })
    }

    /// How they stand.
    #[must_use]
    pub fn all(&self) -> Vec<Certificate> {
        let now = SystemTime::now();
        let show = |watched: &Watched| {
            let state = watched.state();
            Certificate {
                name: watched.name,
                not_after: state.validity.not_after,
                expiry: expiry(state.validity, now).map(Expiry::sentence),
                trouble: state.trouble.clone().filter(|_| state.told),
            }
        };
        self.all.iter().map(show).collect()
    }

    /// The settings were read again: the files may have other names now. They are looked at at once.
    pub fn follow(&self, settings: &Settings) {
        for (name, pair, client_ca) in named(settings) {
            if let Some(watched) = self.all.iter().find(|watched| watched.name == name) {
                let mut state = watched.state();
                (state.pair, state.client_ca) = (pair.clone(), client_ca.cloned());
            }
        }
        self.soon.notify_one();
    }

    /// Reads the files every so often, and when the settings were read again, for ever.
    pub async fn keep_reading(self: Arc<Self>, every: Duration) {
        if self.all.is_empty() {
            return;
        }
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.soon.notified() => {}
            }
            for watched in &self.all {
                let (pair, client_ca) = watched.files();
                // Where the file system hangs, nothing else waits.
                let read = spawn_blocking(move || Files::read(&pair, client_ca.as_deref())).await;
                match read {
                    Ok(files) => self.look(watched, files),
                    Err(error) => error!(%error, "certificate not read again"),
                }
            }
        }
    }

    fn look(&self, watched: &Watched, files: Result<Files, Vec<Wrong>>) {
        if watched.take(files) {
            let not_after = watched.state().validity.not_after;
            self.metrics.set_certificate_expiry(watched.name.as_str(), not_after);
        }
        watched.remind();
    }
}

impl Watched {
    fn load(name: Name, pair: &Pair, client_ca: Option<&PathBuf>) -> Result<Self, String> {
        let wrong = |wrong| sentence(name, wrong);
        let files = Files::read(pair, client_ca.map(PathBuf::as_path)).map_err(wrong)?;
        let (target, validity) = if name == Name::Gitea {
            let identity = files.identity().map_err(wrong)?;
            (Target::Gitea(Shown::new(identity.key)), identity.validity)
        } else {
            let (config, validity) = server_config(&files).map_err(wrong)?;
            (Target::Listener(Arc::new(Listener::new(config))), validity)
        };
        let state = State {
            pair: pair.clone(),
            client_ca: client_ca.cloned(),
            validity,
            seen: Seen::Contents(files.digest()),
            trouble: None,
            told: false,
            reminded: None,
        };
        Ok(Self { name, target, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> (Pair, Option<PathBuf>) {
        let state = self.state();
        (state.pair.clone(), state.client_ca.clone())
    }

    /// Returns whether something new is in use.
    fn take(&self, files: Result<Files, Vec<Wrong>>) -> bool {
        let files = files.map_err(|wrong| sentence(self.name, wrong));
        let seen = match &files {
            Ok(files) => Seen::Contents(files.digest()),
            Err(sentence) => Seen::Nothing(sentence.clone()),
        };
        {
            let mut state = self.state();
            if state.seen == seen {
                // Said at the second look: files that are written one after the other settle by then.
                if let Some(reason) = state.trouble.clone().filter(|_| !state.told) {
                    state.told = true;
                    drop(state);
                    warn!(
                        certificate = self.name.as_str(),
                        reason, "what changed is not used: the certificate from before goes on"
                    );
                }
                return false;
            }
            state.seen = seen;
            state.told = false;
        }
        let used = files
            .and_then(|files| self.put_to_use(&files).map_err(|wrong| sentence(self.name, wrong)));
        let mut state = self.state();
        match used {
            Ok(validity) => {
                state.validity = validity;
                state.trouble = None;
                state.reminded = None;
                drop(state);
                info!(
                    certificate = self.name.as_str(),
                    expires = %humantime::format_rfc3339_seconds(validity.not_after),
                    "certificate read again: new connections see it, those that are open go on"
                );
                true
            }
            Err(sentence) => {
                state.trouble = Some(sentence);
                false
            }
        }
    }

    fn put_to_use(&self, files: &Files) -> Result<Validity, Vec<Wrong>> {
        match &self.target {
            Target::Listener(listener) => {
                let (config, validity) = server_config(files)?;
                listener.set(config);
                Ok(validity)
            }
            Target::Gitea(shown) => {
                let identity = files.identity()?;
                shown.set(identity.key);
                Ok(identity.validity)
            }
        }
    }

    fn remind(&self) {
        let mut state = self.state();
        let Some(expiry) = expiry(state.validity, SystemTime::now()) else { return };
        if state.reminded.is_some_and(|at| at.elapsed() < REMIND) {
            return;
        }
        state.reminded = Some(Instant::now());
        let (file, not_after) = (state.pair.cert.display().to_string(), state.validity.not_after);
        drop(state);
        warn!(
            certificate = self.name.as_str(),
            file,
            expires = %humantime::format_rfc3339_seconds(not_after),
            "the certificate {}: put a new one in its place, which the broker reads by itself",
            expiry.sentence()
        );
    }
}

/// What is wrong with the files of a certificate, with the settings that name them.
pub(super) fn sentence(name: Name, wrong: Vec<Wrong>) -> String {
    let one = |wrong: Wrong| format!("{}: {}", name.key(wrong.part), wrong.message);
    wrong.into_iter().map(one).collect::<Vec<_>>().join("; ")
}

/// What the settings name.
fn named(settings: &Settings) -> impl Iterator<Item = (Name, &Pair, Option<&PathBuf>)> {
    let listeners =
        [(Name::Runners, &settings.listen.tls), (Name::Admin, &settings.admin.tls)].into_iter();
    let listeners = listeners.filter_map(|(name, tls)| {
        tls.as_ref().map(|tls| (name, &tls.pair, tls.client_ca.as_ref()))
    });
    let gitea = settings.gitea.client.as_ref().filter(|_| is_https(&settings.gitea));
    listeners.chain(gitea.map(|pair| (Name::Gitea, pair, None)))
}
