//! What can go wrong with the store, in sentences.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use thiserror::Error;

use super::holder;

/// Why the store did not do it. No text holds a secret.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The folder is not there.
    #[error(
        "the folder {} of the store is not there: mount a volume at that path which the broker ({user}) may write, \
         or set store.url to another place", folder.display()
    )]
    FolderMissing {
        /// Where it was looked for.
        folder: PathBuf,
        /// The broker's own uid:gid.
        user: String,
    },
    /// Everyone may replace files in the folder.
    #[error(
        "the folder {} of the store can be written by everyone, and the store holds runners' tokens: \
         take that right away (chmod o-w {0})", folder.display()
    )]
    FolderOpen {
        /// Which folder.
        folder: PathBuf,
    },
    /// The system refuses.
    #[error(
        "the broker ({user}) cannot use the store {}: {source}: let that user own the folder and the file, \
         and mount the volume writable", path.display()
    )]
    Denied {
        /// The folder or the file.
        path: PathBuf,
        /// The broker's own uid:gid.
        user: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the database.
    #[error(
        "the store {} is in use by {holder}: only one broker may run on it; stop the other one, \
         or give this one a store.url of its own", path.display()
    )]
    InUse {
        /// Which file.
        path: PathBuf,
        /// Who has it, as far as that is known.
        holder: String,
    },
    /// The file is damaged, or no database at all.
    #[error(
        "the store {} is damaged, or no database, or its disk fails ({detail}): look for disk errors in the system's \
         log, put a backup in its place, or move it away; with a new store, the runners of the old one go on working, \
         but the broker no longer knows them and deregisters none", path.display()
    )]
    Corrupt {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// The database is another program's.
    #[error(
        "the file {} is a database of another program: set store.url to a file of the broker's own",
        path.display()
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// The schema is one of a later broker.
    #[error(
        "the store {} was written by a newer broker (schema {found}, known up to {known}): run that version or a \
         later one, or move the file away", path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The latest that is known.
        known: i64,
    },
    /// No space is left.
    #[error("the disk that holds the store {} is full: free some space, or enlarge the volume", path.display())]
    Full {
        /// Which file.
        path: PathBuf,
    },
    /// The disk failed.
    #[error(
        "the store {} could not be read or written ({detail}): check the volume and the system's log for disk errors",
        path.display()
    )]
    Io {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        detail: String,
    },
    /// The file cannot be written.
    #[error(
        "the store {} is read-only: mount its volume writable, and let the broker ({user}) own the file",
        path.display()
    )]
    ReadOnly {
        /// Which file.
        path: PathBuf,
        /// The broker's own uid:gid.
        user: String,
    },
    /// Any other refusal of the database: a fault of the broker.
    #[error("the store {} refused: {source}: please report this", path.display())]
    Sql {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The store's thread could not be started.
    #[error("the store's thread could not be started: {source}: raise the limit of processes")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The store is closed.
    #[error("the store is closed: the broker is ending")]
    Closed,
}

impl StoreError {
    /// Tells what SQLite's code means for the file at `path`.
    pub(super) fn of(error: rusqlite::Error, path: &Path) -> Self {
        let path = path.to_owned();
        let detail = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                let holder = holder::read(&path);
                Self::InUse { path, holder }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, detail }
            }
            Some(ErrorCode::DiskFull) => Self::Full { path },
            // SQLite opens such a file all the same, and fails later.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen)
                if matches!(access(&path, Access::WRITE_OK), Err(Errno::ROFS | Errno::ACCESS)) =>
            {
                Self::ReadOnly { path, user: own_user() }
            }
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => Self::Io { path, detail },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path, user: own_user() },
            _ => Self::Sql { path, source: error },
        }
    }
}

/// The broker's own `uid:gid`, for messages.
pub(super) fn own_user() -> String {
    format!(
        "uid:gid {}:{}",
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    )
}
