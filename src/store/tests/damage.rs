//! What of the database or beside it is damaged, or something else.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use super::*;

/// What every refusal says one of.
const WAYS_OUT: [&str; 6] =
    ["move it away", "move the file away", "store.url", "disk errors", "own the file", "report"];

/// Something, and how it is put in the place of the file.
type Thing = (&'static str, fn(&Path));

fn has_a_way_out(at: &str, error: &StoreError) {
    let text = error.to_string();
    assert!(WAYS_OUT.iter().any(|way| text.contains(way)), "{at}: {text}");
    assert!(!text.contains(TOKEN), "{at}: {text}");
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
            has_a_way_out(&format!("damage {number}"), &error);
        }
    }
    assert!((100..300).contains(&refusals), "{refusals}");
    println!("300 damaged files: {refusals} refused with a way out, the others work");
}

/// SQLite reads its log as far as it is sound. What comes then is as if it had never been written: no half of a
/// transaction is.
#[tokio::test]
async fn a_damaged_log_is_read_up_to_the_damage() {
    let (folder, path) = place();
    let store = Store::open(&path).unwrap();
    for number in 0..20 {
        let nonce = format!("n{number}");
        store.insert_intent(intent(&nonce, Scope::Instance)).await.unwrap();
        store.complete(new_runner(&nonce)).await.unwrap();
    }
    let log =
        |path: &Path| path.with_file_name(format!("{}-wal", path.file_name().unwrap().display()));
    let (sound, sound_log) = (fs::read(&path).unwrap(), fs::read(log(&path)).unwrap());
    store.close().await.unwrap();
    let copy = folder.path().join("copy.db");
    let (mut refused, mut shorter) = (0, 0);
    for number in 0..200_usize {
        let mut bytes = sound_log.clone();
        let at = number * 7_919 % bytes.len();
        match number % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 0x80,
            _ => bytes[at..].iter_mut().take(600).for_each(|byte| *byte = 0xa5),
        }
        fs::write(&copy, &sound).unwrap();
        fs::write(log(&copy), bytes).unwrap();
        let store = match Store::open(&copy) {
            Ok(store) => store,
            Err(error) => {
                refused += 1;
                has_a_way_out(&format!("damage {number} of the log"), &error);
                continue;
            }
        };
        let runners = store.runners().await.unwrap().len();
        let intents = store.intents().await.unwrap().len();
        // The last one may have been begun: it is settled.
        assert!(runners <= 20 && intents <= 1, "damage {number}: {runners} {intents}");
        shorter += usize::from(runners < 20);
        store.insert_intent(intent("later", Scope::Instance)).await.unwrap();
        store.close().await.unwrap();
    }
    assert!(shorter > 50, "{shorter}");
    println!(
        "200 damaged logs: {refused} refused, {shorter} read up to the damage, the others whole"
    );
}

#[test]
fn what_is_no_file_at_all_is_refused_and_not_waited_for() {
    let things: [Thing; 6] = [
        ("a pipe", |at| {
            rustix::fs::mkfifoat(rustix::fs::CWD, at, rustix::fs::Mode::RWXU).unwrap();
        }),
        ("a socket", |at| drop(UnixListener::bind(at).unwrap())),
        ("a folder", |at| fs::create_dir(at).unwrap()),
        ("a link to nothing", |at| symlink("nothing/there", at).unwrap()),
        ("a link to a pipe", |at| {
            let pipe = at.with_file_name("pipe");
            rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
            symlink(pipe, at).unwrap();
        }),
        ("a link in a circle", |at| symlink(at, at).unwrap()),
    ];
    for (what, put) in things {
        for name in ["state.db", "state.db-wal"] {
            let (folder, path) = place();
            if name == "state.db-wal" && what.starts_with("a link") {
                // Whoever can make one there may as well write the database.
                continue;
            }
            let at = format!("{what} as {name}");
            if name == "state.db-wal" {
                drop(Store::open(&path).unwrap());
                // The thread may be closing it still.
                while refusal(&path).is_some() {}
                while fs::exists(folder.path().join(name)).unwrap() {}
            }
            put(&folder.path().join(name));
            let (sender, answer) = mpsc::channel();
            std::thread::spawn(move || {
                // One that opens has found nothing to read beside it, and cannot write there.
                let opened = Store::open(&path).and_then(|store| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(store.writable())
                });
                let _ = sender.send(opened);
            });
            let opened = answer.recv_timeout(Duration::from_secs(20)).expect(&at);
            has_a_way_out(&at, &opened.expect_err(&at));
        }
    }
}

fn refusal(path: &Path) -> Option<StoreError> {
    Store::open(path).map(drop).err()
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
