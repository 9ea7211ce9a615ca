//! Whatever lies in the place of the file, of the temporary file or of the folder: nothing beyond it is touched, and
//! the file is written or the reason told.

use std::fs::OpenOptions;
use std::os::unix::net::UnixListener;

use super::*;

/// What a runner, or one of its jobs, may put in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    Nothing,
    File,
    LinkToFile,
    LinkToFolder,
    DanglingLink,
    HardLink,
    Fifo,
    Socket,
    Folder,
    /// Root alone can make one.
    Device,
}

pub(super) const THINGS: [Thing; 10] = [
    Thing::Nothing,
    Thing::File,
    Thing::LinkToFile,
    Thing::LinkToFolder,
    Thing::DanglingLink,
    Thing::HardLink,
    Thing::Fifo,
    Thing::Socket,
    Thing::Folder,
    Thing::Device,
];

impl Thing {
    /// Puts it there; whether that was possible.
    pub(super) fn put(self, at: &Path, outside: &Outside) -> bool {
        let mode = Mode::from_raw_mode(0o600);
        let put = match self {
            Self::Nothing => Ok(()),
            // Never into a file that is there: only its owner could do that.
            Self::File => OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(at)
                .and_then(|mut file| file.write_all(b"something")),
            Self::LinkToFile => symlink(outside.victim(), at),
            Self::LinkToFolder => symlink(outside.0.path(), at),
            Self::DanglingLink => symlink(outside.0.path().join("nothing"), at),
            Self::HardLink => fs::hard_link(outside.victim(), at),
            Self::Fifo => rustix::fs::mkfifoat(CWD, at, mode).map_err(Into::into),
            Self::Socket => UnixListener::bind(at).map(drop),
            Self::Folder => fs::create_dir(at),
            // As /dev/null is.
            Self::Device => rustix::fs::mknodat(
                CWD,
                at,
                FileType::CharacterDevice,
                mode,
                rustix::fs::makedev(1, 3),
            )
            .map_err(Into::into),
        };
        put.is_ok()
    }
}

/// A folder that is none of the broker's business, with one file.
pub(super) struct Outside(TempDir);

impl Outside {
    /// On the file system that `beside` is on, so that hard links can be made.
    pub(super) fn new(beside: &Path) -> Self {
        let folder = tempfile::tempdir_in(beside.parent().unwrap()).unwrap();
        let outside = Self(folder);
        fs::write(outside.victim(), "untouched").unwrap();
        for (path, mode) in outside.modes() {
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
        outside
    }

    pub(super) fn victim(&self) -> PathBuf {
        self.0.path().join("victim")
    }

    fn modes(&self) -> [(PathBuf, u32); 2] {
        [(self.victim(), 0o644), (self.0.path().into(), 0o750)]
    }

    pub(super) fn is_untouched(&self, when: &str) {
        assert_eq!(names(self.0.path()), ["victim"], "{when}");
        assert_eq!(fs::read_to_string(self.victim()).unwrap(), "untouched", "{when}");
        let own = rustix::process::geteuid().as_raw();
        for (path, mode) in self.modes() {
            let meta = fs::metadata(path).unwrap();
            assert_eq!((meta.mode() & 0o7777, meta.uid()), (mode, own), "{when}");
        }
    }
}

/// What a write comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    NotAFile,
    NotAFolder,
    /// A step failed, and the old file is there.
    Failed,
}

/// Where the thing is put, and what comes of a write then.
struct Place {
    what: &'static str,
    path: fn(&Target) -> PathBuf,
    outcome: fn(Thing) -> Outcome,
}

const PLACES: [Place; 3] = [
    Place {
        what: "target",
        path: Target::path,
        outcome: |thing| match thing {
            Thing::Nothing | Thing::File | Thing::HardLink => Outcome::Written,
            _ => Outcome::NotAFile,
        },
    },
    Place {
        what: "temporary",
        path: |target| target.path().with_file_name("..runner.new"),
        outcome: |thing| match thing {
            Thing::Folder => Outcome::Failed,
            _ => Outcome::Written,
        },
    },
    Place {
        what: "parent",
        path: |target| target.path().parent().unwrap().into(),
        outcome: |thing| match thing {
            Thing::Nothing | Thing::Folder => Outcome::Written,
            _ => Outcome::NotAFolder,
        },
    },
];

#[test]
fn nothing_beyond_what_lies_in_the_way_is_touched() {
    let mut tried = 0;
    for Place { what, path, outcome } in PLACES {
        for thing in THINGS {
            let at = format!("{thing:?} as the {what}");
            let (root, target) = place();
            let outside = Outside::new(root.path());
            let folder = root.path().join("b");
            if what != "parent" {
                fs::create_dir(&folder).unwrap();
            }
            if what == "temporary" {
                write(&target, &sample("old"), OWN).unwrap();
            }
            if !thing.put(&path(&target), &outside) {
                assert_eq!(thing, Thing::Device, "{at}");
                assert!(!rustix::process::geteuid().is_root(), "{at}");
                continue;
            }
            let looked = fs::symlink_metadata(path(&target)).ok();

            let expected = outcome(thing);
            let written = write(&target, &sample("new"), OWN);
            outside.is_untouched(&at);
            let got = match &written {
                Ok(()) => Outcome::Written,
                Err(FileError::NotAFile(_)) => Outcome::NotAFile,
                Err(FileError::NotAFolder(_)) => Outcome::NotAFolder,
                Err(_) => Outcome::Failed,
            };
            assert_eq!(got, expected, "{at}: {written:?}");
            if let Err(error) = &written {
                let text = error.to_string();
                assert!(text.contains(folder.to_str().unwrap()), "{at}: {text}");
                let same = fs::symlink_metadata(path(&target)).unwrap();
                let looked = looked.unwrap();
                assert_eq!((same.ino(), same.mode()), (looked.ino(), looked.mode()), "{at}");
            }
            match expected {
                Outcome::Written => {
                    let meta = fs::symlink_metadata(target.path()).unwrap();
                    assert!(meta.is_file() && meta.nlink() == 1, "{at}");
                    assert_eq!(meta.mode() & 0o7777, 0o600, "{at}");
                    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw(), "{at}");
                    assert_eq!(uuid_in(&target.path()), "new", "{at}");
                    assert_eq!(names(&folder), [".runner"], "{at}");
                    assert_eq!(read(&target).unwrap().unwrap().uuid, "new", "{at}");
                    assert_eq!(remove(&target, "old").unwrap(), Removed::Other, "{at}");
                    assert_eq!(remove(&target, "new").unwrap(), Removed::Removed, "{at}");
                    assert_eq!(names(&folder), [""; 0], "{at}");
                }
                Outcome::Failed => assert_eq!(uuid_in(&target.path()), "old", "{at}"),
                // Nothing of it is read either, and no pipe waited for.
                Outcome::NotAFile => {
                    assert!(matches!(read(&target), Err(FileError::NotAFile(_))), "{at}");
                    assert!(matches!(remove(&target, "old"), Err(FileError::NotAFile(_))), "{at}");
                }
                Outcome::NotAFolder => {
                    assert!(matches!(read(&target), Err(FileError::NotAFolder(_))), "{at}");
                    let removed = remove(&target, "old");
                    assert!(matches!(removed, Err(FileError::NotAFolder(_))), "{at}");
                }
            }
            outside.is_untouched(&at);
            tried += 1;
        }
    }
    assert!(tried >= 27, "{tried}");
    println!("{tried} things in the way of a runner file, and nothing beyond them touched");
}

#[test]
fn a_device_is_no_file() {
    // Whoever runs the tests, nobody can replace or remove it.
    let target = Target::of_file(Path::new("/dev/pts/ptmx")).unwrap();
    assert!(matches!(write(&target, &sample("one"), OWN), Err(FileError::NotAFile(_))));
    assert!(matches!(remove(&target, "one"), Err(FileError::NotAFile(_))));
    let target = Target::of_file(Path::new("/dev/null/.runner")).unwrap();
    assert!(matches!(write(&target, &sample("one"), OWN), Err(FileError::NotAFolder(_))));
}

#[test]
fn a_root_that_is_no_folder_is_told() {
    for thing in THINGS {
        let (root, target) = place();
        let outside = Outside::new(root.path());
        fs::remove_dir(root.path()).unwrap();
        if !thing.put(root.path(), &outside) {
            continue;
        }
        let written = write(&target, &sample("one"), OWN);
        match thing {
            Thing::Nothing | Thing::DanglingLink => {
                assert!(matches!(written, Err(FileError::RootMissing(_))), "{thing:?}");
                assert_eq!(read(&target).unwrap().map(|file| file.uuid), None, "{thing:?}");
                outside.is_untouched("a link to nothing");
            }
            // It is the admin's, who may link.
            Thing::Folder | Thing::LinkToFolder => written.unwrap(),
            _ => {
                assert!(matches!(written, Err(FileError::NotAFolder(_))), "{thing:?}");
                assert!(matches!(read(&target), Err(FileError::NotAFolder(_))), "{thing:?}");
            }
        }
        if thing != Thing::Folder {
            let _ = fs::remove_file(root.path());
            fs::create_dir(root.path()).unwrap();
        }
    }
}

#[test]
fn what_a_crash_left_beside_goes_with_the_file() {
    let (root, target) = place();
    write(&target, &sample("one"), OWN).unwrap();
    let beside = root.path().join("b/..runner.new");
    fs::write(&beside, &*sample("one").to_json()).unwrap();
    assert_eq!(remove(&target, "other").unwrap(), Removed::Other);
    assert_eq!(remove(&target, "one").unwrap(), Removed::Removed);
    assert_eq!(names(&root.path().join("b")), [""; 0]);
    // Where the crash came before the first rename.
    fs::write(&beside, &*sample("one").to_json()).unwrap();
    assert_eq!(remove(&target, "one").unwrap(), Removed::Missing);
    assert_eq!(names(&root.path().join("b")), [""; 0]);
}
