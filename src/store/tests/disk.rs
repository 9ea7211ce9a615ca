//! The disk is full, broken or read-only.

use rusqlite::ffi;

use super::*;
use crate::test_system::{Which, refuse};

#[tokio::test]
async fn a_full_disk_is_told_and_outlived() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    let limit = |pages: i64| {
        store.call(move |c| {
            c.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
        })
    };
    limit(1).await.unwrap();
    let mut new = new_runner("n1");
    new.answer = vec![b'x'; 100_000].into();
    store.insert_intent(new.intent.clone()).await.unwrap();
    let error = store.complete(new.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
    assert_eq!(store.intents().await.unwrap().len(), 1, "rolled back");
    limit(1 << 20).await.unwrap();
    store.complete(new).await.unwrap();
}

#[test]
fn errors_of_the_disk_have_a_remedy() {
    let of = |code| {
        let error = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
        StoreError::of(error, Path::new("/x/state.db")).to_string()
    };
    assert!(of(ffi::SQLITE_IOERR).contains("check the volume"));
    assert!(of(ffi::SQLITE_READONLY).contains("mount its volume writable"));
    assert!(of(ffi::SQLITE_FULL).contains("free some space"));
    assert!(of(ffi::SQLITE_BUSY).contains("only one broker"));
}

/// What the disk did not confirm is not taken for written, and a broker that starts anew finds one of the two: the
/// intent, which is settled, or the record.
#[tokio::test]
async fn a_disk_that_breaks_is_told_and_nothing_is_half_written() {
    let mut injected = 0;
    for (call, which) in [
        (libc::SYS_pwrite64, Which::All),
        (libc::SYS_pwrite64, Which::AtLeast(3, 4096)),
        (libc::SYS_fsync, Which::All),
        (libc::SYS_ftruncate, Which::All),
    ] {
        for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EROFS] {
            let at = format!("call {call} {which:?}, errno {errno}");
            let (_folder, path) = place();
            let store = Store::open(&path).unwrap();
            for number in 0..3 {
                let nonce = format!("n{number}");
                store.insert_intent(intent(&nonce, Scope::Instance)).await.unwrap();
            }
            store.complete(new_runner("n0")).await.unwrap();
            store
                .call(move |_| {
                    refuse(call, which, errno);
                    Ok(())
                })
                .await
                .unwrap();

            let completed = store.complete(new_runner("n1")).await;
            let writable = store.writable().await;
            if call == libc::SYS_ftruncate {
                completed.unwrap();
            } else {
                let error = completed.expect_err(&at);
                let text = error.to_string();
                let told = ["check the volume", "free some space", "mount its volume writable"];
                assert!(told.iter().any(|told| text.contains(told)), "{at}: {text}");
                writable.expect_err(&at);
                // What is read needs no disk.
                assert_eq!(store.runners().await.unwrap().len(), 1, "{at}");
            }
            let _ = store.close().await;

            let store = Store::open(&path).unwrap();
            let runners = store.runners().await.unwrap();
            let intents = store.intents().await.unwrap();
            assert_eq!(runners.len() + intents.len(), 3, "{at}: each is one of the two");
            assert!((1..=2).contains(&runners.len()), "{at}");
            store.writable().await.unwrap();
            injected += 1;
        }
    }
    println!("{injected} faults of the disk, and nothing half written");
}

#[test]
fn a_database_that_cannot_be_read_is_told() {
    for (call, which, told) in [
        (libc::SYS_pread64, Which::All, "check the volume"),
        (libc::SYS_pread64, Which::AtLeast(3, 4096), "look for disk errors"),
    ] {
        let (_folder, path) = place();
        drop(Store::open(&path).unwrap());
        let text = std::thread::scope(|scope| {
            let opened = scope.spawn(|| {
                refuse(call, which, libc::EIO);
                loop {
                    match Store::open(&path) {
                        // The thread of the first may be closing it still.
                        Err(StoreError::InUse { .. }) => {}
                        other => return other.map(drop),
                    }
                }
            });
            opened.join().unwrap().unwrap_err().to_string()
        });
        assert!(text.contains(told), "{call} {which:?}: {text}");
    }
}

/// Root may write everything, so that it is somebody else who tries.
#[test]
fn a_database_that_cannot_be_written_is_told() {
    use std::os::unix::fs::{PermissionsExt, chown};
    const NOBODY: u32 = 65534;
    let (folder, path) = place();
    drop(Store::open(&path).unwrap());
    while Store::open(&path).is_err() {}
    while fs::exists(path.with_file_name("state.db.holder")).unwrap() {}
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        chown(&path, Some(NOBODY), None).unwrap();
        chown(folder.path(), Some(NOBODY), None).unwrap();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let text = std::thread::scope(|scope| {
        let opened = scope.spawn(|| {
            if is_root {
                rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(NOBODY)).unwrap();
            }
            refused(&path)
        });
        opened.join().unwrap().to_string()
    });
    assert!(text.contains("is read-only: mount its volume writable"), "{text}");
}
