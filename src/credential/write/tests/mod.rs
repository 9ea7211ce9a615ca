//! What holds of every file; what may lie in its way is in [`places`], what the system may refuse in
//! [`faults`], who may interfere in [`races`], whose the file is in [`rights`],
//! and real file systems are in [`volumes`].

mod faults;
mod places;
mod races;
mod rights;
mod volumes;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tempfile::TempDir;

use super::super::Pattern;
use super::super::runner_file::tests::sample;
use super::*;

const OWN: Owner = Owner { mode: 0o600, uid: None, gid: None };

/// A root, and the target `b/.runner` below it.
fn place() -> (TempDir, Target) {
    let root = tempfile::tempdir().unwrap();
    let pattern = format!("{}/{{name}}/.runner", root.path().display());
    let target = Pattern::parse(&pattern).unwrap().expand("b", 1, "u").unwrap();
    (root, target)
}

fn uuid_in(path: &Path) -> String {
    RunnerFile::parse(&fs::read(path).unwrap()).unwrap().uuid
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn it_is_written_replaced_and_removed() {
    let (root, target) = place();
    assert!(root_exists(target.root()));
    write(&target, &sample("one"), OWN).unwrap();
    assert_eq!(uuid_in(&target.path()), "one");
    write(&target, &sample("two"), OWN).unwrap();
    assert_eq!(uuid_in(&target.path()), "two");
    assert_eq!(names(&root.path().join("b")), [".runner"], "nothing is left beside");

    assert_eq!(remove(&target, "one").unwrap(), Removed::Other);
    assert_eq!(uuid_in(&target.path()), "two");
    assert_eq!(remove(&target, "two").unwrap(), Removed::Removed);
    assert_eq!(remove(&target, "two").unwrap(), Removed::Missing);
    fs::remove_dir(root.path().join("b")).unwrap();
    assert_eq!(remove(&target, "two").unwrap(), Removed::Missing);
    root.close().unwrap();
    assert!(!root_exists(target.root()));
    assert_eq!(remove(&target, "two").unwrap(), Removed::Missing);
    assert!(matches!(write(&target, &sample("one"), OWN), Err(FileError::RootMissing(_))));
}

#[test]
fn the_root_may_be_reached_through_a_link() {
    let (root, _) = place();
    let link = root.path().join("link");
    fs::create_dir(root.path().join("real")).unwrap();
    symlink("real", &link).unwrap();
    let pattern = Pattern::parse(&format!("{}/{{name}}.json", link.display())).unwrap();
    write(&pattern.expand("b", 1, "u").unwrap(), &sample("one"), OWN).unwrap();
    assert_eq!(uuid_in(&root.path().join("real/b.json")), "one");
}

#[test]
fn a_foreign_content_is_replaced_but_not_removed() {
    let (root, target) = place();
    fs::create_dir(root.path().join("b")).unwrap();
    fs::write(target.path(), "").unwrap();
    fs::set_permissions(target.path(), Permissions::from_mode(0o644)).unwrap();
    assert_eq!(remove(&target, "one").unwrap(), Removed::Other);
    write(&target, &sample("one"), OWN).unwrap();
    assert_eq!(fs::metadata(target.path()).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_failed_write_leaves_the_old_file_and_says_what_to_do() {
    let (root, target) = place();
    write(&target, &sample("one"), OWN).unwrap();
    // A folder in the place of the temporary file stands for any failure before the rename.
    fs::create_dir(root.path().join("b/..runner.new")).unwrap();
    let error = write(&target, &sample("two"), OWN).unwrap_err();
    assert!(error.to_string().contains(target.path().to_str().unwrap()), "{error}");
    assert!(!format!("{error} {error:?}").contains("canary"));
    assert_eq!(uuid_in(&target.path()), "one");

    for (errno, remedy) in
        [(Errno::ACCESS, "user"), (Errno::ROFS, "writable"), (Errno::NOSPC, "space")]
    {
        let text = step("writing", Path::new("/r/f"), errno).to_string();
        assert!(text.contains(remedy), "{text}");
    }
}

#[test]
fn readers_and_writers_at_once_see_whole_files_only() {
    let (_root, target) = place();
    let path = target.path();
    write(&target, &sample("first"), OWN).unwrap();
    let done = AtomicBool::new(false);
    let reads = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Acquire) || reads == 0 {
                let uuid = uuid_in(&path);
                assert!(uuid == "first" || uuid.starts_with("writer-"), "{uuid}");
                reads += 1;
            }
            reads
        });
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let target = &target;
                scope.spawn(move || {
                    for turn in 0..15 {
                        // Of different lengths, so that a mixture could not be parsed.
                        let mut file = sample(&format!("writer-{writer}-{turn}"));
                        file.name = "x".repeat(turn * 311);
                        write(target, &file, OWN).unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Release);
        reader.join().unwrap()
    });
    assert!(reads > 0);
}
