//! Secrets from files, and why a file cannot be read.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Stat, stat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};
use secrecy::SecretString;
use zeroize::Zeroizing;

/// No secret is longer; what is longer is another file.
const LIMIT: usize = 64 * 1024;

/// Reads the secret that a file holds, without the white space around it, and says where the file's
/// mode is a risk.
pub(super) fn read(path: &Path) -> Result<(SecretString, Option<String>), String> {
    // Room for all of it at once: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT + 64));
    File::open(path)
        .and_then(|file| file.take(LIMIT as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(path, &error))?;
    let shown = path.display();
    if bytes.len() > LIMIT {
        return Err(format!("{shown} is longer than 64 KiB: name the file that holds the secret"));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| format!("{shown} is not UTF-8 text: write the secret alone into it"))?;
    let secret = checked(text).map_err(|wrong| format!("{shown} {wrong}"))?;
    let open = stat(path).is_ok_and(|stat| stat.st_mode & 0o004 != 0);
    let warning = open.then(|| {
        format!("{shown} can be read by every user: take that away with chmod o-rwx {shown}")
    });
    Ok((secret, warning))
}

/// A secret's text without the white space around it, if it is one line.
pub(super) fn checked(text: &str) -> Result<SecretString, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        Err("is empty: write the secret into it")
    } else if text.contains(char::is_control) {
        Err("holds more than one line or a control character: write the secret alone into it")
    } else {
        Ok(SecretString::from(text))
    }
}

/// Says why a file cannot be read and what to do.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> String {
    let own = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    let reason = match stat(path) {
        Ok(stat) if is_folder(&stat) => "it is a folder; name a file (a container gets an empty \
             folder where the file to mount is missing on the host)"
            .into(),
        Ok(stat) => kept_from(path, "it", Owner::of(&stat), stat.st_mode, own),
        Err(_) => stopped_on_the_way(path, own),
    };
    format!("{} cannot be read ({}): {reason}", path.display(), error.kind())
}

/// A user and a group.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn of(stat: &Stat) -> Self {
        Self { uid: stat.st_uid, gid: stat.st_gid }
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Whose the file or folder is, who asks, and what to do.
fn kept_from(path: &Path, what: &str, owner: Owner, mode: u32, own: Owner) -> String {
    let Owner { uid, gid } = own;
    format!(
        "{what} belongs to {}:{} with mode {:04o}, and this process is {uid}:{gid}; \
         run chown {uid}:{gid} {} (for a mounted file: on the host), or run the broker as {}:{}",
        owner.uid,
        owner.gid,
        mode & 0o7777,
        path.display(),
        owner.uid,
        owner.gid,
    )
}

/// The first step of the path that is missing, or that this process may not enter.
fn stopped_on_the_way(path: &Path, own: Owner) -> String {
    let mut steps: Vec<&Path> = path.ancestors().filter(|step| *step != Path::new("")).collect();
    steps.reverse();
    let mut before: Option<(&Path, Stat)> = None;
    for step in steps {
        match (stat(step), before) {
            (Ok(stat), _) => before = Some((step, stat)),
            (Err(Errno::ACCESS), Some((folder, stat))) => {
                let what = format!("the folder {}", folder.display());
                return kept_from(folder, &what, Owner::of(&stat), stat.st_mode, own);
            }
            (Err(Errno::NOENT), _) => {
                return format!(
                    "{} is missing; make it, mount it, or correct the path",
                    step.display()
                );
            }
            (Err(Errno::NOTDIR), Some((file, _))) => {
                return format!("{} is no folder; correct the path", file.display());
            }
            (Err(error), _) => {
                return format!("{} cannot be reached ({error}); correct the path", step.display());
            }
        }
    }
    "try again".into()
}
