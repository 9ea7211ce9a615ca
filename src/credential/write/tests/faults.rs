//! The system refuses one step after the other: the old file is there and whole, and the reason is told.

use super::*;
use crate::test_system::{Which, refuse};

/// Full, quota, read-only, broken, not allowed, and short of everything.
const ERRNOS: [i32; 8] = [
    libc::ENOSPC,
    libc::EDQUOT,
    libc::EROFS,
    libc::EIO,
    libc::EACCES,
    libc::EPERM,
    libc::ENOMEM,
    libc::ESTALE,
];

/// The steps of a write where there is a file.
const WRITING: [(&str, i64, Which); 9] = [
    ("opening a folder", libc::SYS_openat, Which::All),
    ("making the folder", libc::SYS_mkdirat, Which::All),
    ("looking at the place", libc::SYS_newfstatat, Which::All),
    ("removing what is beside", libc::SYS_unlinkat, Which::All),
    ("making the temporary", libc::SYS_openat, Which::Bits(2, libc::O_CREAT.cast_unsigned())),
    ("setting the mode", libc::SYS_fchmod, Which::All),
    ("writing", libc::SYS_write, Which::All),
    ("syncing", libc::SYS_fsync, Which::All),
    ("replacing", libc::SYS_renameat, Which::All),
];

/// The steps of a removal.
const REMOVING: [(&str, i64, Which); 4] = [
    ("opening", libc::SYS_openat, Which::All),
    ("looking at the place", libc::SYS_newfstatat, Which::All),
    ("reading", libc::SYS_read, Which::All),
    ("removing", libc::SYS_unlinkat, Which::All),
];

/// Does `work` where the system refuses these calls.
fn without<T: Send>(call: i64, which: Which, errno: i32, work: impl FnOnce() -> T + Send) -> T {
    let refused = || {
        refuse(call, which, errno);
        work()
    };
    thread::scope(|scope| scope.spawn(refused).join().unwrap())
}

/// What to do is told, where it is known.
fn tells(error: &FileError, errno: i32, at: &str) {
    let text = error.to_string();
    let remedy = match errno {
        libc::ENOSPC | libc::EDQUOT => ": free some space",
        libc::EROFS => ": mount the volume writable",
        libc::EACCES | libc::EPERM => ": let the broker's user write that folder",
        _ => " failed: ",
    };
    assert!(text.contains(remedy), "{at}: {text}");
    assert!(!format!("{error} {error:?}").contains("canary"), "{at}: {text}");
}

#[test]
fn whichever_step_of_a_write_fails_the_old_file_stays() {
    let mut injected = 0;
    for (step, call, which) in WRITING {
        for errno in ERRNOS {
            let at = format!("{step}, errno {errno}");
            let (root, target) = place();
            write(&target, &sample("old"), OWN).unwrap();
            let written = without(call, which, errno, || write(&target, &sample("new"), OWN));
            let error = written.expect_err(&at);
            tells(&error, errno, &at);
            assert!(error.to_string().contains(root.path().to_str().unwrap()), "{at}: {error}");
            assert_eq!(uuid_in(&target.path()), "old", "{at}");
            assert_eq!(fs::metadata(target.path()).unwrap().mode() & 0o7777, 0o600, "{at}");
            assert_eq!(names(&root.path().join("b")), [".runner"], "{at}");
            write(&target, &sample("new"), OWN).unwrap();
            assert_eq!(uuid_in(&target.path()), "new", "{at}");
            injected += 1;
        }
    }
    println!("{injected} faults in the steps of a write, and the old file was there each time");
}

#[test]
fn whichever_step_of_a_first_write_fails_there_is_none() {
    for (step, call, which) in WRITING {
        for errno in ERRNOS {
            let at = format!("{step}, errno {errno}");
            let (root, target) = place();
            let written = without(call, which, errno, || write(&target, &sample("new"), OWN));
            match written {
                // Nothing is beside it yet, and so nothing to remove.
                Ok(()) => panic!("{at}"),
                Err(error) => tells(&error, errno, &at),
            }
            assert!(!target.path().exists(), "{at}");
            let left = names(root.path());
            assert!(left.is_empty() || names(&root.path().join("b")).is_empty(), "{at}: {left:?}");
            write(&target, &sample("new"), OWN).unwrap();
            let mode = fs::metadata(root.path().join("b")).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o755, "{at}");
        }
    }
}

#[test]
fn whichever_step_of_a_removal_fails_the_file_stays() {
    let mut injected = 0;
    for (step, call, which) in REMOVING {
        for errno in ERRNOS {
            let at = format!("{step}, errno {errno}");
            let (_root, target) = place();
            write(&target, &sample("one"), OWN).unwrap();
            let removed = without(call, which, errno, || remove(&target, "one"));
            tells(&removed.expect_err(&at), errno, &at);
            assert_eq!(uuid_in(&target.path()), "one", "{at}");
            if step != "removing" {
                // What cannot be read is not taken for none.
                without(call, which, errno, || read(&target)).expect_err(&at);
            }
            assert_eq!(remove(&target, "one").unwrap(), Removed::Removed, "{at}");
            injected += 1;
        }
    }
    println!("{injected} faults in the steps of a removal, and the file was there each time");
}

#[test]
fn what_is_mounted_alone_is_told_apart() {
    let (_root, target) = place();
    write(&target, &sample("one"), OWN).unwrap();
    for (call, errno) in [
        (libc::SYS_renameat, libc::EBUSY),
        (libc::SYS_renameat, libc::EXDEV),
        (libc::SYS_unlinkat, libc::EBUSY),
    ] {
        let refused = match call {
            libc::SYS_unlinkat => {
                without(call, Which::All, errno, || remove(&target, "one")).unwrap_err()
            }
            _ => without(call, Which::All, errno, || write(&target, &sample("two"), OWN))
                .unwrap_err(),
        };
        assert!(matches!(refused, FileError::MountedAlone(_)), "{refused:?}");
        assert!(refused.to_string().contains("mount its folder instead"), "{refused}");
        assert_eq!(uuid_in(&target.path()), "one");
        let _ = fs::remove_file(target.path().with_file_name("..runner.new"));
    }
}

#[test]
fn an_owner_that_cannot_be_set_is_told() {
    let (root, target) = place();
    let owner = Owner { uid: Some(4711), ..OWN };
    for errno in [libc::EPERM, libc::EIO] {
        let written =
            without(libc::SYS_fchown, Which::All, errno, || write(&target, &sample("one"), owner));
        let text = written.unwrap_err().to_string();
        let expected = if errno == libc::EPERM { "CAP_CHOWN" } else { "setting the owner of" };
        assert!(text.contains(expected), "{text}");
        assert!(!target.path().exists());
    }
    assert_eq!(names(&root.path().join("b")), [""; 0]);
}

/// Some file systems cannot sync a folder.
#[test]
fn a_folder_that_cannot_be_synced_is_no_fault_of_the_file() {
    let (_root, target) = place();
    write(&target, &sample("one"), OWN).unwrap();
    let synced = thread::scope(|scope| {
        let synced = scope.spawn(|| {
            let folder = open_folder(&target, None).unwrap().unwrap();
            refuse(libc::SYS_fsync, Which::All, libc::EINVAL);
            sync(&folder, &target.path())
        });
        synced.join().unwrap()
    });
    synced.unwrap();
}
