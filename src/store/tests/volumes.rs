//! Real file systems: they are mounted, and so these run in a mount namespace of root's, by `.ci/run volumes`.

use std::process::Command;

use super::*;

fn mount(options: &str, at: &Path) {
    let arguments = ["-t", "tmpfs", "-o", options, "tmpfs"];
    let mounted = Command::new("mount").args(arguments).arg(at).status().unwrap();
    assert!(mounted.success(), "{options}");
}

/// A small file system, for as long as this lives.
struct Volume(TempDir);

impl Volume {
    fn new() -> (Self, PathBuf) {
        let (folder, path) = place();
        mount("size=512k,mode=0700", folder.path());
        (Self(folder), path)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
#[ignore = "mounts: .ci/run volumes"]
async fn a_full_volume_is_told_and_outlived() {
    let (volume, path) = Volume::new();
    let store = Store::open(&path).unwrap();
    store.insert_intent(intent("one", Scope::Instance)).await.unwrap();
    let filler = volume.0.path().join("filler");
    fs::write(&filler, vec![0; 1 << 20]).unwrap_err();
    let mut number = 0;
    let error = loop {
        number += 1;
        match store.insert_intent(intent(&format!("more-{number}"), Scope::Instance)).await {
            Ok(()) => assert!(number < 1000),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert_eq!(store.intents().await.unwrap().len(), number);
    fs::remove_file(filler).unwrap();
    store.complete(new_runner("one")).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
#[ignore = "mounts: .ci/run volumes"]
async fn a_read_only_volume_is_told() {
    let (volume, path) = Volume::new();
    let store = Store::open(&path).unwrap();
    store.insert_intent(intent("one", Scope::Instance)).await.unwrap();
    store.close().await.unwrap();
    mount("remount,ro", volume.0.path());
    let text = refused(&path).to_string();
    assert!(text.contains("mount") && text.contains("writable"), "{text}");
    mount("remount,rw", volume.0.path());
    let store = Store::open(&path).unwrap();
    assert_eq!(store.intents().await.unwrap().len(), 1);
}
