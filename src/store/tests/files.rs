//! The folder, the file, and what is wrong with them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use rusqlite::ffi;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn one_process_at_a_time() {
    let (_folder, path) = place();
    let first = Store::open(&path).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains("only one broker"), "{error}");
    let holder = format!("in use by process {} on the host ", std::process::id());
    assert!(error.to_string().contains(&holder), "{error}");
    // What is beside it is only told of.
    let beside = path.with_file_name("state.db.holder");
    for content in ["", "\x1b[31m\n\0"] {
        fs::write(&beside, content).unwrap();
        let error = refused(&path).to_string();
        assert!(!error.contains('\x1b') && error.contains("in use by "), "{error:?}");
    }
    fs::remove_file(&beside).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &beside,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    assert!(refused(&path).to_string().contains("in use by another process"));
    first.writable().await.unwrap();
    first.close().await.unwrap();
    assert!(!beside.exists());
    Store::open(&path).unwrap().writable().await.unwrap();
}

/// Whatever of it is damaged: it is refused with a way out, or it works.
#[tokio::test]
async fn a_damaged_file_is_refused_with_a_way_out() {
    let (folder, path) = place();
    let store = Store::open(&path).unwrap();
    for number in 0..40 {
        let nonce = format!("n{number}");
        store.insert_intent(intent(&nonce, Scope::Instance)).await.unwrap();
        store.complete(new_runner(&nonce)).await.unwrap();
    }
    store.close().await.unwrap();
    let sound = fs::read(&path).unwrap();
    let mut refusals = 0;
    for number in 0..300_usize {
        let copy = folder.path().join("copy.db");
        let mut bytes = sound.clone();
        let at = number * 7_919 % bytes.len();
        match number % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 0x80,
            _ => bytes[at..].iter_mut().take(600).for_each(|byte| *byte = 0xa5),
        }
        fs::write(&copy, bytes).unwrap();
        for journal in ["copy.db-wal", "copy.db-shm"] {
            let _ = fs::remove_file(folder.path().join(journal));
        }
        let error = match Store::open(&copy) {
            Ok(store) => {
                let read = store.runners().await.err();
                // It may also be whole enough to be written.
                let _ = store.close().await;
                read
            }
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            refusals += 1;
            let text = error.to_string();
            let way_out =
                ["move it away", "move the file away", "store.url", "disk errors", "report"];
            assert!(way_out.iter().any(|way| text.contains(way)), "{number}: {text}");
            assert!(!text.contains(TOKEN), "{number}: {text}");
        }
    }
    assert!((100..300).contains(&refusals), "{refusals}");
}

#[tokio::test]
async fn the_files_are_for_the_broker_alone() {
    let (folder, path) = place();
    let store = Store::open(&path).unwrap();
    store.writable().await.unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(&folder.path().join("state.db-wal")), 0o600);
    store.close().await.unwrap();

    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let _store = Store::open(&path).unwrap();
    assert_eq!(mode(&path), 0o600, "tightened");
}

#[test]
fn the_folder_is_checked() {
    let (folder, path) = place();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    let text = refused(&path).to_string();
    assert!(text.contains(&format!("chmod o-w {}", folder.path().display())), "{text}");
    assert!(!path.exists());
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    assert!(Store::open(&path).is_ok(), "the sticky bit keeps others from replacing the file");

    let missing = folder.path().join("missing");
    let text = refused(&missing.join("state.db")).to_string();
    assert!(text.contains(missing.to_str().unwrap()) && text.contains("mount a volume"), "{text}");
    assert!(text.contains(&error::own_user()), "{text}");
    assert!(matches!(refused(&path.join("state.db")), StoreError::FolderMissing { .. }));
    assert!(matches!(refused(folder.path()), StoreError::Io { .. }), "a folder is no file");
    assert_eq!(folder_is_mount(Path::new("/")), Some(true));
    assert_eq!(folder_is_mount(folder.path()), Some(false));
    assert_eq!(folder_is_mount(&missing), None);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_as_it_is() {
    let (_folder, path) = place();
    let garbage = [b"no database at all ".as_slice(); 500].concat();
    fs::write(&path, &garbage).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("move it away"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), garbage);
}

#[tokio::test]
async fn a_damaged_database_is_refused() {
    let (_folder, path) = place();
    let store = Store::open(&path).unwrap();
    for n in 0..200 {
        store.insert_intent(intent(&n.to_string(), Scope::Instance)).await.unwrap();
    }
    store.close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len() - 4096;
    bytes[end..end + 512].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[test]
fn a_foreign_or_a_newer_database_is_refused_and_left_as_it_is() {
    let (folder, path) = place();
    let foreign = Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE song (title TEXT)").unwrap();
    foreign.close().unwrap();
    let before = fs::read(&path).unwrap();
    let error = refused(&path);
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    assert_eq!(fs::read(&path).unwrap(), before);

    let newer = folder.path().join("newer.db");
    drop(Store::open(&newer).unwrap());
    // The thread may be closing it still.
    let connection = Connection::open(&newer).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.pragma_update(None, "user_version", 5).unwrap();
    connection.close().unwrap();
    let error = refused(&newer);
    assert!(matches!(error, StoreError::Newer { found: 5, known: 4, .. }), "{error:?}");
}

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
