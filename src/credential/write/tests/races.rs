//! Somebody swaps what is there while it is written: nothing outside is touched, nothing waits, and what is
//! called written is there and whole.

use std::time::{Duration, Instant};

use super::places::{Outside, THINGS, Thing};
use super::*;

/// So many writes at least, and more until both ends were seen.
const WRITES: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of them.
#[derive(Debug, Default)]
struct Counts {
    written: u32,
    refused: u32,
}

/// Ends the swapping, also where the test fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Writes while `swap` is called again and again in another thread, with the number of the call. `look` is told
/// the uuid of each write that succeeded, and of those that failed.
fn while_swapped(
    target: &Target,
    swap: impl Fn(usize) + Send + Sync,
    mut look: impl FnMut(&str, Result<(), FileError>),
) -> Counts {
    let (done, until) = (AtomicBool::new(false), Instant::now() + PATIENCE);
    thread::scope(|scope| {
        let (done, swap) = (&done, &swap);
        scope.spawn(move || {
            for turn in 0.. {
                if done.load(Ordering::Acquire) {
                    break;
                }
                swap(turn);
            }
        });
        let _done = Done(done);
        let mut counts = Counts::default();
        while (counts.written + counts.refused < WRITES
            || counts.written < 10
            || counts.refused < 10)
            && Instant::now() < until
        {
            let uuid = format!("uuid-{}", counts.written + counts.refused);
            let written = write(target, &sample(&uuid), OWN);
            match written {
                Ok(()) => counts.written += 1,
                Err(_) => counts.refused += 1,
            }
            look(&uuid, written);
        }
        assert!(counts.written >= 10 && counts.refused >= 10, "both were seen: {counts:?}");
        counts
    })
}

/// All files that are ours, wherever they were moved, are whole and nobody else's.
fn all_are_whole(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            all_are_whole(&entry.path());
        } else if kind.is_file() && entry.file_name() == ".runner" {
            uuid_in(&entry.path());
            assert_eq!(entry.metadata().unwrap().mode() & 0o7777, 0o600);
        }
    }
}

fn clear(path: &Path) {
    if fs::remove_file(path).is_err() {
        let _ = fs::remove_dir_all(path);
    }
}

#[test]
fn a_folder_that_is_swapped_leads_nowhere_else() {
    let (root, target) = place();
    let outside = Outside::new(root.path());
    let [folder, aside] = ["b", "aside"].map(|name| root.path().join(name));
    let counts = while_swapped(
        &target,
        |turn| {
            let thing = THINGS[turn % THINGS.len()];
            match turn % 4 {
                // Renamed, something else in its place, and back.
                0..3 => {
                    let _ = fs::rename(&folder, &aside);
                    thing.put(&folder, &outside);
                    clear(&folder);
                    let _ = fs::rename(&aside, &folder);
                }
                // Gone.
                _ => clear(&folder),
            }
            thread::sleep(Duration::from_micros(300));
        },
        |_, written| match written {
            Ok(()) => {}
            Err(error) => {
                use FileError::{NotAFolder, Step, Swapped};
                assert!(matches!(error, NotAFolder(_) | Step { .. } | Swapped(_)), "{error:?}");
            }
        },
    );
    outside.is_untouched("at the end");
    all_are_whole(root.path());
    clear(&folder);
    write(&target, &sample("last"), OWN).unwrap();
    assert_eq!(uuid_in(&target.path()), "last");
    println!("swapped folder: {counts:?}");
}

#[test]
fn a_temporary_file_that_is_swapped_is_not_called_written() {
    let (root, target) = place();
    let outside = Outside::new(root.path());
    let (path, beside) = (target.path(), root.path().join("b/..runner.new"));
    let counts = while_swapped(
        &target,
        |turn| {
            if beside.symlink_metadata().is_ok() && turn % 3 != 0 {
                clear(&beside);
                THINGS[turn % THINGS.len()].put(&beside, &outside);
            }
        },
        |uuid, written| match written {
            Ok(()) => {
                let meta = fs::symlink_metadata(&path).unwrap();
                assert!(meta.is_file(), "{uuid}");
                assert_eq!(uuid_in(&path), uuid);
                assert_eq!(meta.mode() & 0o7777, 0o600, "{uuid}");
            }
            // It would stay as it is.
            Err(_) => {
                clear(&path);
                clear(&beside);
            }
        },
    );
    outside.is_untouched("at the end");
    clear(&path);
    clear(&beside);
    write(&target, &sample("last"), OWN).unwrap();
    assert_eq!(names(&root.path().join("b")), [".runner"]);
    println!("swapped temporary: {counts:?}");
}

#[test]
fn a_target_that_is_swapped_is_read_and_removed_as_itself_alone() {
    let (root, target) = place();
    let outside = Outside::new(root.path());
    let path = target.path();
    write(&target, &sample("first"), OWN).unwrap();
    let counts = while_swapped(
        &target,
        |turn| {
            clear(&path);
            // Nothing in its way every other time, so that it is written too.
            if turn % 2 == 0 {
                THINGS[turn / 2 % THINGS.len()].put(&path, &outside);
            }
            thread::sleep(Duration::from_millis(1));
        },
        |uuid, _| {
            // Whatever they meet: they come back, and touch nothing else.
            let _ = read(&target);
            let _ = remove(&target, uuid);
        },
    );
    outside.is_untouched("at the end");
    clear(&path);
    write(&target, &sample("last"), OWN).unwrap();
    assert_eq!(uuid_in(&path), "last");
    println!("swapped target: {counts:?}");
}

/// The link is the only thing of these that a second name of the same file could be taken for.
#[test]
fn what_has_a_second_name_is_left_to_it() {
    let (root, target) = place();
    let outside = Outside::new(root.path());
    write(&target, &sample("one"), OWN).unwrap();
    let second = root.path().join("second");
    fs::hard_link(target.path(), &second).unwrap();
    write(&target, &sample("two"), OWN).unwrap();
    assert_eq!([uuid_in(&second), uuid_in(&target.path())], ["one", "two"]);
    assert_eq!(remove(&target, "two").unwrap(), Removed::Removed);
    assert!(Thing::HardLink.put(&target.path(), &outside));
    assert_eq!(remove(&target, "two").unwrap(), Removed::Other);
    outside.is_untouched("by its second name");
}
