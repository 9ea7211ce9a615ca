//! Who holds the database, for whoever finds it locked: a line in a file beside it. The lock alone decides;
//! the file is only told of, and one that a crash left behind does no harm.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::time::SystemTime;

use rustix::fs::OFlags;

/// Longer lines are not ours.
const LONGEST: u64 = 512;

/// Tells that this process has the database from now on. Called with the lock in hand.
pub(super) fn write(database: &Path) {
    let path = file_of(database);
    let system = rustix::system::uname();
    let since = humantime::format_rfc3339_seconds(SystemTime::now());
    let line = format!(
        "process {} on the host {}, since {since}\n",
        process::id(),
        system.nodename().to_string_lossy()
    );
    // Made anew, so that nothing is followed and nobody else's is changed.
    let _ = fs::remove_file(&path);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        tracing::debug!(%error, path = %path.display(), "not written down who holds the store");
    }
}

/// Tells that nobody has it any more. Called before the lock is let go of.
pub(super) fn remove(database: &Path) {
    let _ = fs::remove_file(file_of(database));
}

/// Who has it, in words.
pub(super) fn read(database: &Path) -> String {
    let mut line = String::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(file_of(database));
    let read = file.map(|file| file.take(LONGEST).read_to_string(&mut line));
    let line: String = line.trim().chars().filter(|c| !c.is_control()).collect();
    match read {
        Ok(Ok(_)) if !line.is_empty() => line,
        _ => "another process".into(),
    }
}

fn file_of(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(".holder");
    name.into()
}
