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
pub(crate) fn read(path: &Path) -> Result<(SecretString, Option<String>), String> {
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
    Ok((secret, open_to_all(path)))
}

/// Tells what every user may do with a file, and how to end that.
pub(crate) fn open_to_all(path: &Path) -> Option<String> {
    let may = match stat(path).map_or(0, |stat| stat.st_mode & 0o006) {
        0o004 => "read",
        0o002 => "changed",
        0o006 => "read and changed",
        _ => return None,
    };
    let path = path.display();
    Some(format!("{path} can be {may} by every user: take that away with chmod o-rwx {path}"))
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
pub(crate) fn unreadable(path: &Path, error: &io::Error) -> String {
    let own = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    let reason = match stat(path) {
        Err(_) => stopped_on_the_way(path, own),
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            "it is a folder; name a file (a container gets an empty folder where the file \
             to mount is missing on the host)"
                .into()
        }
        // A text that is no UTF-8 was read well.
        Ok(_) if error.kind() == io::ErrorKind::InvalidData => {
            "it is not UTF-8 text; save it as such".into()
        }
        Ok(stat) => {
            format!("{}: {}", error.kind(), kept_from(path, "it", &stat.into(), own))
        }
    };
    format!("{} cannot be read: {reason}", path.display())
}

/// A user and a group.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// A file's or folder's owner and permission bits.
struct Access {
    owner: Owner,
    mode: u32,
}

impl From<Stat> for Access {
    fn from(stat: Stat) -> Self {
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        Self { owner, mode: stat.st_mode & 0o7777 }
    }
}

/// Whose the file or folder is, who asks, and what to do.
fn kept_from(path: &Path, what: &str, access: &Access, own: Owner) -> String {
    let Access { owner, mode } = access;
    let path = path.display();
    let facts = format!(
        "{what} belongs to {}:{} with mode {mode:04o}, and this process is {}:{}",
        owner.uid, owner.gid, own.uid, own.gid
    );
    let remedy = if owner.uid == own.uid {
        format!("run chmod u+rX {path}")
    } else {
        format!(
            "run chown {}:{} {path} (for a mounted file on the host), or run the broker as {}:{}",
            own.uid, own.gid, owner.uid, owner.gid
        )
    };
    format!("{facts}; {remedy}")
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
                return kept_from(folder, &what, &stat.into(), own);
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

#[cfg(test)]
mod tests {
    use std::fs;

    use secrecy::ExposeSecret;

    use super::*;

    fn write(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, bytes).unwrap();
        file
    }

    fn refused(bytes: &[u8]) -> String {
        let file = write(bytes);
        read(file.path()).unwrap_err().replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn white_space_around_is_dropped_and_nothing_else() {
        for bytes in ["s#e'c\"ret", "s#e'c\"ret\n", "s#e'c\"ret\r\n", " \ts#e'c\"ret \n\n"] {
            let (secret, warning) = read(write(bytes.as_bytes()).path()).unwrap();
            assert_eq!(secret.expose_secret(), "s#e'c\"ret");
            assert_eq!(warning, None);
        }
    }

    #[test]
    fn what_is_no_single_line_is_refused_and_not_repeated() {
        assert_eq!(refused(b" \n"), "FILE is empty: write the secret into it");
        for bytes in [&b"one\ntwo"[..], b"one\0two", b"one\rtwo"] {
            assert_eq!(
                refused(bytes),
                "FILE holds more than one line or a control character: write the secret alone into it"
            );
        }
        assert!(refused(b"one\xff").contains("UTF-8"));
        assert!(refused(&[b'x'; LIMIT + 1]).contains("longer than 64 KiB"));
        assert!(read(write(&[b'x'; LIMIT]).path()).is_ok());
    }

    #[test]
    fn a_file_open_to_all_is_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let file = write(b"secret");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let warning = read(file.path()).unwrap().1.unwrap();
        assert!(warning.contains("can be read by every user"), "{warning}");
        for (mode, may) in [(0o602, "changed"), (0o666, "read and changed")] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let warning = read(file.path()).unwrap().1.unwrap();
            assert!(warning.contains(&format!("can be {may} by every user")), "{warning}");
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(read(file.path()).unwrap().1, None);
    }

    #[test]
    fn the_sentence_names_owner_mode_own_ids_and_the_remedy() {
        let own = Owner { uid: 1000, gid: 1001 };
        let of_root = Access { owner: Owner { uid: 0, gid: 5 }, mode: 0o600 };
        assert_eq!(
            kept_from(Path::new("/run/s"), "it", &of_root, own),
            "it belongs to 0:5 with mode 0600, and this process is 1000:1001; run chown 1000:1001 \
             /run/s (for a mounted file on the host), or run the broker as 0:5"
        );
        let own_file = Access { owner: own, mode: 0o200 };
        assert_eq!(
            kept_from(Path::new("/run/s"), "it", &own_file, own),
            "it belongs to 1000:1001 with mode 0200, and this process is 1000:1001; \
             run chmod u+rX /run/s"
        );
    }

    #[test]
    fn the_step_that_stops_the_way_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        for (path, sentence) in [
            (
                "no/such/file",
                "DIR/no/such/file cannot be read: DIR/no is missing; make it, mount it, or correct the path",
            ),
            (
                "file/below",
                "DIR/file/below cannot be read: DIR/file is no folder; correct the path",
            ),
            (
                ".",
                "DIR/. cannot be read: it is a folder; name a file (a container gets an empty folder where the file to mount is missing on the host)",
            ),
        ] {
            let message = read(&folder.path().join(path)).unwrap_err();
            assert_eq!(message.replace(&folder.path().display().to_string(), "DIR"), sentence);
        }
    }

    #[test]
    fn the_sentence_for_a_file_that_refuses_is_built_from_its_stat() {
        let file = write(b"secret");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let message = unreadable(file.path(), &denied);
        assert!(message.contains("cannot be read: permission denied: it belongs to"), "{message}");
        assert!(message.contains(" with mode 0600, and this process is "), "{message}");
    }
}
