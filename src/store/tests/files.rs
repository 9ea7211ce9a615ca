//! The folder, the file, and what is wrong with them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

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
    connection.pragma_update(None, "user_version", 6).unwrap();
    connection.close().unwrap();
    let error = refused(&newer);
    assert!(matches!(error, StoreError::Newer { found: 6, known: 5, .. }), "{error:?}");
}
