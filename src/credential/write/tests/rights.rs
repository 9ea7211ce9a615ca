//! Whose the file is, and who may read it: exact, whatever the umask.

use std::process::Command;

use super::*;

#[test]
fn modes_are_exact() {
    let (root, target) = place();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    for mode in [0o600, 0o640, 0o666, 0o400] {
        write(&target, &sample("one"), Owner { mode, ..OWN }).unwrap();
        assert_eq!(fs::metadata(target.path()).unwrap().mode() & 0o7777, mode);
    }
    assert_eq!(fs::metadata(root.path().join("b")).unwrap().mode() & 0o7777, 0o755);
}

/// The umask is the whole process's, so each gets a process of its own.
#[test]
fn modes_are_exact_under_any_umask() {
    for umask in ["000", "002", "027", "077", "111", "177", "377"] {
        let output = Command::new("sh")
            .args([
                "-c",
                "umask \"$1\" && exec \"$2\" --exact credential::write::tests::rights::modes_are_exact",
            ])
            .args(["sh", umask])
            .arg(std::env::current_exe().unwrap())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "umask {umask}: {text}");
    }
}

#[test]
fn the_owner_is_set() {
    let (root, target) = place();
    let meta = fs::metadata(root.path()).unwrap();
    let same = Owner { uid: Some(meta.uid()), gid: Some(meta.gid()), ..OWN };
    write(&target, &sample("one"), same).unwrap();
    let other = Owner { uid: Some(meta.uid() + 1), gid: None, ..OWN };
    match write(&target, &sample("two"), other) {
        // As root it works.
        Ok(()) => assert_eq!(fs::metadata(target.path()).unwrap().uid(), meta.uid() + 1),
        Err(error) => {
            assert!(error.to_string().contains("CAP_CHOWN"), "{error}");
            assert_eq!(uuid_in(&target.path()), "one");
            assert_eq!(names(&root.path().join("b")), [".runner"]);
        }
    }
}

/// A user who owns nothing.
const NOBODY: u32 = 65534;

/// Does `work` as a user who is not root.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let lowered = || {
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_gid(Gid::from_raw(NOBODY)).unwrap();
            rustix::thread::set_thread_uid(Uid::from_raw(NOBODY)).unwrap();
        }
        work()
    };
    thread::scope(|scope| scope.spawn(lowered).join().unwrap())
}

#[test]
fn a_folder_that_may_not_be_written_is_told() {
    let (root, target) = place();
    let folder = root.path().join("b");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o555)).unwrap();
    let text = as_nobody(|| write(&target, &sample("one"), OWN)).unwrap_err().to_string();
    assert!(text.contains("let the broker's user write that folder"), "{text}");
    fs::remove_dir(&folder).unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o555)).unwrap();
    let text = as_nobody(|| write(&target, &sample("one"), OWN)).unwrap_err().to_string();
    assert!(text.starts_with("making ") && text.contains("write that folder"), "{text}");
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(names(root.path()), [""; 0]);
}

/// Only root can give files away, so that others see their own alone.
#[test]
fn another_users_file_is_replaced_where_the_folder_lets_us() {
    let (root, target) = place();
    let folder = root.path().join("b");
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    write(&target, &sample("theirs"), Owner { mode: 0o644, ..OWN }).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let own = as_nobody(rustix::process::geteuid).as_raw();

    // Everybody may write there, and with the sticky bit replace what is their own alone.
    fs::set_permissions(&folder, Permissions::from_mode(0o1777)).unwrap();
    let written = as_nobody(|| write(&target, &sample("ours"), OWN));
    let removed = as_nobody(|| remove(&target, "theirs"));
    if is_root {
        let text = written.unwrap_err().to_string();
        assert!(text.starts_with("replacing ") && text.contains("broker's user"), "{text}");
        removed.unwrap_err();
        assert_eq!(uuid_in(&target.path()), "theirs");
        assert_eq!(names(&folder), [".runner"]);
    }
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    as_nobody(|| write(&target, &sample("ours"), OWN)).unwrap();
    let meta = fs::metadata(target.path()).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (own, 0o600));
    // Root takes it back.
    write(&target, &sample("again"), OWN).unwrap();
    let meta = fs::metadata(target.path()).unwrap();
    assert_eq!(meta.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(names(&folder), [".runner"]);
}

#[test]
fn a_group_that_the_folder_hands_down_is_handed_on() {
    let (root, target) = place();
    fs::set_permissions(root.path(), Permissions::from_mode(0o2775)).unwrap();
    write(&target, &sample("one"), Owner { mode: 0o640, ..OWN }).unwrap();
    let folder = fs::metadata(root.path().join("b")).unwrap();
    assert_eq!(folder.mode() & 0o7777, 0o2755);
    let file = fs::metadata(target.path()).unwrap();
    assert_eq!(file.gid(), fs::metadata(root.path()).unwrap().gid());
    assert_eq!(file.mode() & 0o7777, 0o640);
}

/// What a folder's default ACL grants to others reaches as far as the mode's group bits, and no further.
#[test]
fn an_inherited_acl_grants_nothing() {
    let (root, target) = place();
    // Version 2, then entries of tag, rights and id: the owner, a named user, the group, the mask, others.
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, u32::MAX), (2, 7, 4711), (4, 5, u32::MAX), (16, 7, u32::MAX), (32, 5, u32::MAX)];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let name = "system.posix_acl_default";
    rustix::fs::setxattr(root.path(), name, &acl, rustix::fs::XattrFlags::empty()).unwrap();
    write(&target, &sample("one"), OWN).unwrap();
    assert_eq!(fs::metadata(target.path()).unwrap().mode() & 0o7777, 0o600);
    let mut given = [0; 256];
    let length =
        rustix::fs::getxattr(target.path(), "system.posix_acl_access", &mut given[..]).unwrap();
    let mask = given[4..length].chunks(8).find(|entry| entry[..2] == 16_u16.to_le_bytes());
    assert_eq!(mask.unwrap()[2..4], [0, 0], "the named user has nothing");
}
