//! Real file systems: they are mounted, and so these run in a mount namespace of root's, by `.ci/run volumes`.

use std::process::Command;

use super::*;

fn mount(arguments: &[&str], at: &Path) {
    let mounted = Command::new("mount").args(arguments).arg(at).status().unwrap();
    assert!(mounted.success(), "{arguments:?}");
}

/// A small file system, for as long as this lives.
struct Volume(TempDir, Target);

impl Volume {
    fn new() -> Self {
        let (root, target) = place();
        mount(&["-t", "tmpfs", "-o", "size=64k", "tmpfs"], root.path());
        Self(root, target)
    }

    fn remount(&self, how: &str) {
        mount(&["-o", &format!("remount,{how}")], self.0.path());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--recursive", "--lazy"]).arg(self.0.path()).status();
    }
}

#[test]
#[ignore = "mounts: .ci/run volumes"]
fn a_full_volume_keeps_the_old_file() {
    let volume = Volume::new();
    let Volume(root, target) = &volume;
    write(target, &sample("old"), OWN).unwrap();
    let filler = root.path().join("filler");
    let error = fs::write(&filler, vec![0; 1 << 17]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let text = write(target, &sample("new"), OWN).unwrap_err().to_string();
    assert!(text.contains("free some space"), "{text}");
    assert_eq!(uuid_in(&target.path()), "old");
    assert_eq!(names(&root.path().join("b")), [".runner"]);
    fs::remove_file(filler).unwrap();
    write(target, &sample("new"), OWN).unwrap();
    assert_eq!(remove(target, "new").unwrap(), Removed::Removed);
}

#[test]
#[ignore = "mounts: .ci/run volumes"]
fn a_volume_that_turns_read_only_keeps_the_old_file() {
    let volume = Volume::new();
    let target = &volume.1;
    write(target, &sample("old"), OWN).unwrap();
    volume.remount("ro");
    for error in
        [write(target, &sample("new"), OWN).unwrap_err(), remove(target, "old").unwrap_err()]
    {
        assert!(error.to_string().contains("mount the volume writable"), "{error}");
    }
    assert_eq!(read(target).unwrap().unwrap().uuid, "old");
    volume.remount("rw");
    write(target, &sample("new"), OWN).unwrap();
}

#[test]
#[ignore = "mounts: .ci/run volumes"]
fn a_file_that_is_mounted_alone_stays() {
    let volume = Volume::new();
    let Volume(root, target) = &volume;
    write(target, &sample("old"), OWN).unwrap();
    let source = root.path().join("source");
    fs::copy(target.path(), &source).unwrap();
    mount(&["--bind", source.to_str().unwrap()], &target.path());
    for error in
        [write(target, &sample("new"), OWN).unwrap_err(), remove(target, "old").unwrap_err()]
    {
        assert!(matches!(error, FileError::MountedAlone(_)), "{error:?}");
    }
    assert_eq!(uuid_in(&target.path()), "old");
}

#[test]
#[ignore = "mounts: .ci/run volumes"]
fn a_folder_may_be_a_volume_of_its_own_and_may_vanish() {
    let volume = Volume::new();
    let Volume(root, target) = &volume;
    let folder = root.path().join("b");
    fs::create_dir(&folder).unwrap();
    mount(&["-t", "tmpfs", "tmpfs"], &folder);
    write(target, &sample("one"), OWN).unwrap();
    // Whoever has it open goes on in it, and nobody else.
    let open = open_folder(target, None).unwrap().unwrap();
    assert!(Command::new("umount").arg("--lazy").arg(&folder).status().unwrap().success());
    assert_eq!(read(target).unwrap().map(|file| file.uuid), None);
    assert_eq!(remove(target, "one").unwrap(), Removed::Missing);
    assert!(check_place(&open, ".runner", &target.path()).unwrap());
    write(target, &sample("two"), OWN).unwrap();
    assert_eq!(uuid_in(&target.path()), "two");
}
