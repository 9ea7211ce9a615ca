//! Opening the database: its folder, its file, its settings, its schema.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::error::{StoreError, own_user};
use super::lived::Lived;
use super::queries;

/// Schema changes in their order; the database's `user_version` counts those that were made.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_initial.sql"),
    include_str!("migrations/0002_enrollment_tokens.sql"),
    include_str!("migrations/0003_life.sql"),
    include_str!("migrations/0004_nonces.sql"),
    include_str!("migrations/0005_growth.sql"),
];
/// Set by the first migration.
const APPLICATION_ID: i64 = 0x5242_726b;
/// How long a start waits for a predecessor that is just ending.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn open(path: &Path) -> Result<(Connection, Lived), StoreError> {
    let folder = folder_of(path);
    check_folder(folder)?;
    check_file(path)?;
    let journal = journal_for(folder);
    (|| -> rusqlite::Result<Result<(Connection, Lived), StoreError>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags)?;
        take(&connection)?;
        if let Err(refusal) = recognize(&connection, path)? {
            return Ok(Err(refusal));
        }
        connection.pragma_update_and_check(None, "journal_mode", journal, |_row| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // A migration may make a table anew that others refer to.
        connection.pragma_update(None, "foreign_keys", false)?;
        migrate(&mut connection)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        let lived = Lived::of(&connection)?;
        queries::prune(&connection, lived.now())?;
        Ok(Ok((connection, lived)))
    })()
    .map_err(|error| StoreError::of(error, path))?
}

/// Whether a folder is the root of a mount, so that what is in it outlives a container; `None` where
/// that cannot be told.
#[must_use]
pub fn folder_is_mount(folder: &Path) -> Option<bool> {
    let folder = fs::canonicalize(folder).ok()?;
    let Some(parent) = folder.parent() else { return Some(true) };
    Some(fs::metadata(&folder).ok()?.dev() != fs::metadata(parent).ok()?.dev())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn check_folder(folder: &Path) -> Result<(), StoreError> {
    let meta = match fs::metadata(folder) {
        Ok(meta) if meta.is_dir() => meta,
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(denied(folder, source));
        }
        _ => {
            return Err(StoreError::FolderMissing { folder: folder.into(), user: own_user() });
        }
    };
    // With the sticky bit, only the owner of a file may replace it.
    if meta.mode() & 0o1002 == 0o002 {
        return Err(StoreError::FolderOpen { folder: folder.into() });
    }
    Ok(())
}

/// Creates the file, or tightens its mode. An existing file is not opened here: closing it again would drop
/// the locks that another connection of this process holds.
fn check_file(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(denied(path, source)),
    }
    for file in with_journals(path) {
        let Ok(meta) = fs::metadata(&file) else { continue };
        if meta.is_file() && meta.mode() & 0o077 != 0 {
            tracing::warn!(
                file = %file.display(),
                mode = format_args!("{:04o}", meta.mode() & 0o7777),
                "the store holds runners' tokens and could be read by others; its mode is set to 0600"
            );
            fs::set_permissions(&file, Permissions::from_mode(0o600))
                .map_err(|source| denied(&file, source))?;
        }
    }
    Ok(())
}

fn with_journals(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    ["", "-wal", "-journal"].into_iter().map(|suffix| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

fn denied(path: &Path, source: io::Error) -> StoreError {
    StoreError::Denied { path: path.into(), user: own_user(), source }
}

/// A write-ahead log needs what network file systems do not promise.
fn journal_for(folder: &Path) -> &'static str {
    let Some(kind) = rustix::fs::statfs(folder).ok().and_then(|fs| network_kind(fs.f_type as u32))
    else {
        return "WAL";
    };
    tracing::warn!(
        folder = %folder.display(),
        kind,
        "the store is on a network file system: it is slower there and its locks may not hold; a local volume is better"
    );
    "DELETE"
}

/// Names a file system by its magic number in statfs(2) if it is a network's or passes through FUSE.
fn network_kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        0x6573_5546 => "FUSE",
        0x00c3_6400 => "Ceph",
        0x5346_414f => "AFS",
        _ => return None,
    })
}

/// Locks the database for this connection alone, until it is closed.
fn take(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_row| Ok(()))?;
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT;")
}

/// Refuses what is not a sound database of this broker, before anything is changed in it.
fn recognize(connection: &Connection, path: &Path) -> rusqlite::Result<Result<(), StoreError>> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let (application, found) = (number("application_id")?, number("user_version")?);
    if (application, found, objects) == (0, 0, 0) {
        return Ok(Ok(()));
    }
    if application != APPLICATION_ID {
        return Ok(Err(StoreError::Foreign { path: path.into() }));
    }
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Ok(Err(StoreError::Newer { path: path.into(), found, known }));
    }
    let detail: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    Ok(if detail == "ok" { Ok(()) } else { Err(StoreError::Corrupt { path: path.into(), detail }) })
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let done: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(done as usize) {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", index as i64 + 1)?;
        tx.commit()?;
    }
    Ok(())
}
