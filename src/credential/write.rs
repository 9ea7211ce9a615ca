//! The runner file on disk: replaced whole or not at all. All functions block.
//!
//! The runner, and so its jobs, may write the folders below the root. Each folder is therefore opened by its name in
//! the one above, and no link is followed there.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{RunnerFile, Target};
use crate::fault;

/// A runner file is far smaller.
const LARGEST: u64 = 1 << 20;

/// Two writers of one file would share its temporary file, and two of one new folder would each take it for the
/// other's to sync. Others wait for each other's disk by chance only.
static TURNS: [Mutex<()>; 64] = [const { Mutex::new(()) }; 64];

/// Permissions and owner of a file; exact, whatever the umask.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Permission bits.
    pub mode: u32,
    /// `None`: the broker's.
    pub uid: Option<u32>,
    /// `None`: the broker's.
    pub gid: Option<u32>,
}

/// What [`remove`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The file was this runner's and is gone now.
    Removed,
    /// There was none.
    Missing,
    /// It is another runner's by now, or no runner file, and stays.
    Other,
}

/// Why the file could not be replaced or removed. Holds no secret.
#[derive(Debug, Error)]
pub enum FileError {
    /// No volume is mounted there.
    #[error("the folder {} of the runner files is not there: mount a volume at that path, or change credentials.path", .0.display())]
    RootMissing(PathBuf),
    /// A link where a folder should be.
    #[error("{} is not a folder, or a link, and links are not followed there: remove it", .0.display())]
    NotAFolder(PathBuf),
    /// Something else is in the file's place.
    #[error("{} is not a regular file and stays as it is: remove it, or change credentials.path", .0.display())]
    NotAFile(PathBuf),
    /// It became something else at that very moment.
    #[error(
        "{} was removed or swapped for something else while it was written: let nobody but the \
         runner and the broker write its folder, and look at what is there now", .0.display()
    )]
    Swapped(PathBuf),
    /// The file is a mount of its own.
    #[error("{} cannot be replaced because it is mounted by itself: mount its folder instead", .0.display())]
    MountedAlone(PathBuf),
    /// The owner cannot be set.
    #[error(
        "{} cannot be given to the owner that credentials.uid and credentials.gid name: the broker may not do that \
         (it is no root, or lacks CAP_CHOWN); run it as that user and leave both unset", .0.display()
    )]
    Owner(PathBuf),
    /// The system refused a step.
    #[error("{action} {} failed: {source}{}", path.display(), hint(source))]
    Step {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether the folder is there in which files are to be written.
#[must_use]
pub fn root_exists(root: &Path) -> bool {
    root.is_dir()
}

/// Puts the file in its place, on disk when this returns; missing folders below the root are made (0755, same owner).
/// A reader sees the old file or the new one.
///
/// # Errors
/// The old file, if there was one, is untouched, unless only the last step failed: syncing the folder.
pub fn write(target: &Target, file: &RunnerFile, owner: Owner) -> Result<(), FileError> {
    let _turn = turn(target);
    let path = target.path();
    let (_, name) = target.folders_and_file();
    let folder = open_folder(target, Some(owner))?
        .ok_or_else(|| FileError::RootMissing(target.root().into()))?;
    check_place(&folder, name, &path)?;
    let beside = beside(name);
    let outcome = fill(&folder, &beside, file, owner, &path).and_then(|filled| {
        fault::point("file-filled");
        rustix::fs::renameat(&folder, &beside, &folder, name).map_err(|errno| match errno {
            Errno::BUSY | Errno::XDEV => FileError::MountedAlone(path.clone()),
            _ => step("replacing", &path, errno),
        })?;
        fault::point("file-replaced");
        // Who may write the folder may have put something else in the place of the temporary file.
        match is_at(&filled, &folder, name) {
            true => sync(&folder, &path),
            false => Err(FileError::Swapped(path.clone())),
        }
    });
    if outcome.is_err() {
        // Whatever is left of it is of no use; it is also removed before the next write.
        let _ = rustix::fs::unlinkat(&folder, &beside, AtFlags::empty());
    }
    outcome
}

/// Removes the file if it still is the runner's with this uuid, and what a crash has left beside it. Only the name in
/// that folder goes: whoever swaps the file between the look and the removal could have removed it as well.
///
/// # Errors
/// The file is still there.
pub fn remove(target: &Target, uuid: &str) -> Result<Removed, FileError> {
    let _turn = turn(target);
    let path = target.path();
    let (_, name) = target.folders_and_file();
    let Some(folder) = open_folder(target, None)? else { return Ok(Removed::Missing) };
    let content = content(&folder, name, &path)?;
    if let Some(content) = &content
        && !RunnerFile::parse(content).is_ok_and(|file| file.uuid == uuid)
    {
        return Ok(Removed::Other);
    }
    let _ = rustix::fs::unlinkat(&folder, beside(name), AtFlags::empty());
    if content.is_none() {
        return Ok(Removed::Missing);
    }
    match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) => sync(&folder, &path).map(|()| Removed::Removed),
        Err(Errno::NOENT) => Ok(Removed::Missing),
        Err(Errno::BUSY) => Err(FileError::MountedAlone(path)),
        Err(errno) => Err(step("removing", &path, errno)),
    }
}

/// Reads the file; `None` where there is none, or what is there is no runner file.
///
/// # Errors
/// It cannot be read.
pub fn read(target: &Target) -> Result<Option<RunnerFile>, FileError> {
    let (_, name) = target.folders_and_file();
    let Some(folder) = open_folder(target, None)? else { return Ok(None) };
    let content = content(&folder, name, &target.path())?;
    Ok(content.and_then(|content| RunnerFile::parse(&content).ok()))
}

/// Whether the file is there as it should be, and nobody may do more with it than they should.
#[must_use]
pub fn is_there(target: &Target, file: &RunnerFile, owner: Owner) -> bool {
    let (_, name) = target.folders_and_file();
    let Ok(Some(folder)) = open_folder(target, None) else { return false };
    let stat = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| stat.st_mode & 0o777 & !owner.mode == 0)
        && matches!(read(target), Ok(Some(there)) if there.is(file))
}

/// The turn of all files below the first folder below the root; the root itself may have several names.
fn turn(target: &Target) -> MutexGuard<'static, ()> {
    let (folders, file) = target.folders_and_file();
    let mut hasher = DefaultHasher::new();
    folders.first().map_or(file, String::as_str).hash(&mut hasher);
    let turn = &TURNS[hasher.finish() as usize % TURNS.len()];
    turn.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is there; `None` where there is none.
fn content(
    folder: &OwnedFd,
    name: &str,
    path: &Path,
) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    if !check_place(folder, name, path)? {
        return Ok(None);
    }
    // It may have become a FIFO meanwhile: that must not block.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::empty())
        .map_err(|errno| step("opening", path, errno))?;
    let mut content = Zeroizing::new(Vec::with_capacity(4096));
    File::from(file).take(LARGEST).read_to_end(&mut content).map_err(|source| FileError::Step {
        action: "reading",
        path: path.into(),
        source,
    })?;
    Ok(Some(content))
}

/// The temporary file's name, so that one that a crash left is found.
fn beside(name: &str) -> String {
    format!(".{name}.new")
}

/// Whether this open file is what the name in the folder means.
fn is_at(file: &File, folder: &OwnedFd, name: &str) -> bool {
    let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
    let same = |there: rustix::fs::Stat| {
        rustix::fs::fstat(file)
            .is_ok_and(|own| (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino))
    };
    there.is_ok_and(same)
}

/// Opens the file's folder, walking down from the root. With `make`, missing folders are made and a
/// missing root is the only `None`.
fn open_folder(target: &Target, make: Option<Owner>) -> Result<Option<OwnedFd>, FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut path = target.root().to_owned();
    let mut folder = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
        Ok(root) => root,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::NOTDIR) => return Err(FileError::NotAFolder(path)),
        Err(errno) => return Err(step("opening", &path, errno)),
    };
    for name in target.folders_and_file().0 {
        path.push(name);
        let made = match make {
            None => false,
            Some(_) => match rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(step("making", &path, errno)),
            },
        };
        let below = match rustix::fs::openat(&folder, name, flags | OFlags::NOFOLLOW, Mode::empty())
        {
            Ok(below) => below,
            Err(Errno::NOENT) if make.is_none() => return Ok(None),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(FileError::NotAFolder(path)),
            Err(errno) => return Err(step("opening", &path, errno)),
        };
        if let (true, Some(owner)) = (made, make) {
            // A group that is handed down goes on being so.
            let inherited = rustix::fs::fstat(&below).map_or(0, |stat| stat.st_mode & 0o2000);
            give(&below, Owner { mode: 0o755 | inherited, ..owner }, &path)?;
            sync(&folder, &path)?;
        }
        folder = below;
    }
    Ok(Some(folder))
}

/// Whether a file is there; anything else in its place is an error.
fn check_place(folder: &OwnedFd, name: &str, path: &Path) -> Result<bool, FileError> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Ok(true),
        Ok(_) => Err(FileError::NotAFile(path.into())),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(step("looking at", path, errno)),
    }
}

/// Makes the temporary file; its content comes last, when nobody else can read it any more.
fn fill(
    folder: &OwnedFd,
    name: &str,
    file: &RunnerFile,
    owner: Owner,
    path: &Path,
) -> Result<File, FileError> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(step("removing what was left beside", path, errno)),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o600))
        .map_err(|errno| step("making a file beside", path, errno))?;
    give(&fd, owner, path)?;
    let mut fd = File::from(fd);
    fd.write_all(&file.to_json())
        .and_then(|()| fd.sync_all())
        .map_err(|source| FileError::Step { action: "writing", path: path.into(), source })?;
    Ok(fd)
}

/// The mode first: it can no longer be set once the file is another's.
fn give(fd: &OwnedFd, owner: Owner, path: &Path) -> Result<(), FileError> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(owner.mode & 0o2777))
        .map_err(|errno| step("setting the mode of", path, errno))?;
    if owner.uid.is_none() && owner.gid.is_none() {
        return Ok(());
    }
    rustix::fs::fchown(fd, owner.uid.map(Uid::from_raw), owner.gid.map(Gid::from_raw)).map_err(
        |errno| match errno {
            Errno::PERM => FileError::Owner(path.into()),
            _ => step("setting the owner of", path, errno),
        },
    )
}

fn sync(folder: &OwnedFd, path: &Path) -> Result<(), FileError> {
    match rustix::fs::fsync(folder) {
        // Some file systems do not sync folders, and say so.
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(errno) => Err(step("syncing the folder of", path, errno)),
    }
}

fn step(action: &'static str, path: &Path, errno: Errno) -> FileError {
    FileError::Step { action, path: path.into(), source: errno.into() }
}

/// What to do about it, where that is known.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": let the broker's user write that folder",
        io::ErrorKind::ReadOnlyFilesystem => ": mount the volume writable",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ": free some space",
        _ => "",
    }
}

#[cfg(test)]
mod tests;
