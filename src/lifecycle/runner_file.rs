//! Where a runner's file goes, whether it can be written, and when it is removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hyper::Uri;
use secrecy::ExposeSecret;
use tokio::task::JoinError;
use tracing::{debug, error, info, warn};

use super::Lifecycle;
use super::live::Live;
use crate::broker::{Origin, Record, RecordState};
use crate::config::{Address, Settings};
use crate::credential::{
    self, FileError, MissingForms, Owner, PathError, Pattern, RunnerFile, Target,
};
use crate::store::StoreError;

/// Why a runner has no file of ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoFile {
    /// There is no place for files.
    #[error(
        "the folder {} is not there: mount the volume of the runner files at that path, or change \
         credentials.path", .0.display()
    )]
    NoFolder(PathBuf),
    /// What is to be in it, or where it is to be, is not known.
    #[error("{0}")]
    Unknown(String),
    /// It was tried.
    #[error("{0}")]
    Failed(String),
}

impl Lifecycle {
    /// Writes the runner's file, where there is a place for it. A runner without a file of ours is no
    /// error: it has its answer.
    pub(super) async fn write_file(&self, live: &Live) {
        let runner = live.record().name;
        match self.put_file(live).await {
            Ok(()) => {}
            Err(reason @ NoFile::NoFolder(_)) => {
                debug!(runner, %reason, "no runner file is written")
            }
            Err(reason @ NoFile::Unknown(_)) => warn!(runner, %reason, "no runner file is written"),
            Err(reason @ NoFile::Failed(_)) => error!(runner, %reason, "runner file not written"),
        }
    }

    /// Puts the runner's file in its place; one that is as it should be stays untouched.
    ///
    /// # Errors
    /// Why it has none.
    pub(super) async fn put_file(&self, live: &Live) -> Result<(), NoFile> {
        let settings = self.settings.load_full();
        let record = live.record();
        let unknown = |reason: &dyn ToString| NoFile::Unknown(reason.to_string());
        let target =
            target(&settings.credentials.path, &record).map_err(|reason| unknown(&reason))?;
        if !credential::root_exists(target.root()) {
            return Err(NoFile::NoFolder(target.root().into()));
        }
        let labels = labels(&settings, &record).map_err(|reason| unknown(&reason))?;
        let address = address(&settings, record.dialled.as_deref()).ok_or_else(|| {
            unknown(&"the runner told no address to dial the broker at; set listen.public_url")
        })?;
        let path = target.path();
        if record.origin != Origin::Declared && is_kept(&settings, &path) {
            return Err(unknown(&format!(
                "{} is kept for a runner that the settings declare; give the others names of their own",
                path.display()
            )));
        }
        if record.file.as_ref().is_some_and(|file| *file != path) {
            // credentials.path has changed since.
            self.remove_file(live).await;
        }
        // Claimed before it is written, so that of two runners of one name only one writes.
        self.roster.claim_file(&path, live).map_err(|owner| {
            unknown(&format!(
                "{} belongs to another live runner (id {owner}); give runners names of their own, or \
                 use {{id}} in credentials.path",
                path.display()
            ))
        })?;
        let file = RunnerFile {
            id: record.presented.id,
            uuid: record.presented.uuid.clone(),
            name: record.name.clone(),
            token: record.presented.token.expose_secret().into(),
            address,
            labels,
            ephemeral: record.ephemeral,
        };
        let owner = Owner {
            mode: settings.credentials.mode,
            uid: settings.credentials.uid,
            gid: settings.credentials.gid,
        };
        let written = tokio::task::spawn_blocking(move || {
            if credential::is_there(&target, &file, owner) {
                return Ok(false);
            }
            credential::write(&target, &file, owner).map(|()| true)
        });
        match flat(written.await) {
            Ok(written) => {
                if written {
                    info!(runner = record.name, path = %path.display(), "runner file written");
                }
                if let Err(error) = self.store.set_file(live.record_id, Some(path)).await {
                    error!(%error, "the store did not take the path of a runner file");
                }
                Ok(())
            }
            Err(reason) => {
                if record.file.as_ref() != Some(&path) {
                    self.roster.release_file(live);
                }
                Err(NoFile::Failed(reason))
            }
        }
    }

    /// Removes the file of a runner that is deregistered, if it is still its own.
    pub(super) async fn remove_file(&self, live: &Live) {
        let record = live.record();
        let Some(path) = record.file.clone() else { return };
        let uuid = record.presented.uuid.clone();
        // The setting may have changed since the file was written; then its folder is taken as it is.
        let expanded = target(&self.settings.load().credentials.path, &record);
        let target = match expanded {
            Ok(target) if target.path() == path => target,
            _ => match target(&path.to_string_lossy(), &record) {
                Ok(target) => target,
                Err(reason) => {
                    error!(runner = record.name, %reason, "runner file not removed");
                    return;
                }
            },
        };
        let removed = tokio::task::spawn_blocking(move || credential::remove(&target, &uuid)).await;
        match flat(removed) {
            Ok(_) => {
                self.roster.release_file(live);
                if let Err(error) = self.store.set_file(live.record_id, None).await {
                    error!(%error, "the store did not take that a runner file is gone");
                }
            }
            Err(reason) => {
                error!(runner = record.name, path = %path.display(), reason, "runner file not removed");
            }
        }
    }

    /// After a crash between record and file: those of runners that have left are removed now.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub(super) async fn remove_left_files(&self) -> Result<(), StoreError> {
        for record in self.store.left_files().await? {
            // In memory, it must not seem to have one either.
            let live = match self.roster.resting(&record) {
                Some(live) => live,
                None => Arc::new(Live::new(record, Instant::now(), Arc::default())),
            };
            self.remove_file(&live).await;
        }
        Ok(())
    }

    /// After a crash between record and file: the file is written now. One that was adopted has its own.
    pub(super) async fn write_missing_files(&self) {
        for live in self.roster.all().iter().filter(|live| live.origin != Origin::Adopted) {
            let record = live.record();
            // Those that the settings declare are brought in line as soon as the broker runs, and one that
            // was registered anew is declared after its file is written.
            if record.file.is_none()
                && (!record.spoke || record.declare_due)
                && record.state == RecordState::Active
                && record.origin != Origin::Declared
            {
                self.write_file(live).await;
            }
        }
    }
}

/// The path of a runner's file.
fn target(pattern: &str, record: &Record) -> Result<Target, PathError> {
    Pattern::parse(pattern)?.expand(&record.name, record.presented.id, &record.presented.uuid)
}

/// Whether this is where the file of a declared runner goes, by its name alone.
fn is_kept(settings: &Settings, path: &Path) -> bool {
    let Ok(pattern) = Pattern::parse(&settings.credentials.path) else { return false };
    let mut kept = settings.runners.iter().filter_map(|one| pattern.expand(&one.name, 0, "").ok());
    kept.any(|target| target.path() == path)
}

/// In full form.
fn labels(settings: &Settings, record: &Record) -> Result<Vec<String>, MissingForms> {
    let mut declared = settings.runners.iter();
    match declared.find(|one| record.origin == Origin::Declared && one.name == record.name) {
        Some(declared) => Ok(declared.labels.clone()),
        None => credential::full_labels(&record.labels, &settings.labels),
    }
}

/// What came of work on a thread of its own: its own error, or that it broke off.
fn flat<T>(done: Result<Result<T, FileError>, JoinError>) -> Result<T, String> {
    done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

/// Whether runner files may lead runners past the broker.
pub(super) fn dial_elsewhere(settings: &Settings) -> bool {
    match &settings.credentials.address {
        Address::Broker => false,
        Address::Auto => settings.loopback_only(),
        Address::Gitea => true,
        Address::Url(url) => settings.listen.public_url.as_ref() != Some(url),
    }
}

/// What the file says to dial.
fn address(settings: &Settings, dialled: Option<&str>) -> Option<String> {
    let broker = || match &settings.listen.public_url {
        Some(url) => Some(plain(url)),
        None => dialled.map(|authority| {
            let path = settings.gitea.url.path().trim_end_matches('/');
            format!("{}://{authority}{path}", settings.listen.scheme())
        }),
    };
    let gitea = || Some(plain(&settings.gitea.url));
    match &settings.credentials.address {
        Address::Broker => broker(),
        Address::Gitea => gitea(),
        Address::Auto if settings.loopback_only() => gitea(),
        Address::Auto => broker(),
        Address::Url(url) => Some(plain(url)),
    }
}

/// An address as the runner's own command writes it: with no slash at its end.
fn plain(url: &Uri) -> String {
    url.to_string().trim_end_matches('/').to_owned()
}
