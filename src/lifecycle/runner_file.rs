//! Where a runner's file goes, whether it can be written, and when it is removed.

use hyper::Uri;
use secrecy::ExposeSecret;
use tokio::task::JoinError;
use tracing::{debug, error, info, warn};

use super::Lifecycle;
use super::roster::Live;
use crate::broker::{Record, RecordState};
use crate::config::{Address, Settings};
use crate::credential::{self, FileError, Owner, PathError, Pattern, RunnerFile, Target};

impl Lifecycle {
    /// Writes the runner's file, where there is a place for it. A runner without a file of ours is no
    /// error: it has its answer.
    pub(super) async fn write_file(&self, live: &Live) {
        let settings = self.settings.load_full();
        let record = live.record();
        let target = match target(&settings.credentials.path, &record) {
            Ok(target) => target,
            Err(reason) => {
                warn!(runner = record.name, %reason, "no runner file is written");
                return;
            }
        };
        if !credential::root_exists(target.root()) {
            debug!(runner = record.name, path = %target.path().display(), "no folder for runner files");
            return;
        }
        let labels = match credential::full_labels(&record.labels, &settings.labels) {
            Ok(labels) => labels,
            Err(reason) => {
                warn!(runner = record.name, %reason, "no runner file is written");
                return;
            }
        };
        let Some(address) = address(&settings, record.dialled.as_deref()) else {
            warn!(
                runner = record.name,
                "no runner file is written: the runner told no address to dial the broker at; set \
                 listen.public_url"
            );
            return;
        };
        let path = target.path();
        // Claimed before it is written, so that of two runners of one name only one writes.
        if let Err(owner) = self.roster.claim_file(&path, live) {
            warn!(
                runner = record.name,
                path = %path.display(),
                owner,
                "no runner file is written: the path belongs to another live runner; give runners \
                 names of their own, or use {{id}} in credentials.path"
            );
            return;
        }
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
        let written =
            tokio::task::spawn_blocking(move || credential::write(&target, &file, owner)).await;
        match flat(written) {
            Ok(()) => {
                info!(runner = record.name, path = %path.display(), "runner file written");
                if let Err(error) = self.store.set_file(live.record_id, Some(path)).await {
                    error!(%error, "the store did not take the path of a runner file");
                }
            }
            Err(reason) => {
                live.set_file(None);
                error!(runner = record.name, path = %path.display(), reason, "runner file not written");
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
                live.set_file(None);
                if let Err(error) = self.store.set_file(live.record_id, None).await {
                    error!(%error, "the store did not take that a runner file is gone");
                }
            }
            Err(reason) => {
                error!(runner = record.name, path = %path.display(), reason, "runner file not removed");
            }
        }
    }

    /// After a crash between record and file: the file is written now.
    pub(super) async fn write_missing_files(&self) {
        for live in self.roster.all() {
            let record = live.record();
            if record.file.is_none() && !record.spoke && record.state == RecordState::Active {
                self.write_file(&live).await;
            }
        }
    }
}

/// The path of a runner's file.
fn target(pattern: &str, record: &Record) -> Result<Target, PathError> {
    Pattern::parse(pattern)?.expand(&record.name, record.presented.id, &record.presented.uuid)
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
            format!("http://{authority}{}", settings.gitea.url.path().trim_end_matches('/'))
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
