//! A runner file that is there.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use runner_broker::sandbox::StandInGitea;
use rustix::process::Signal;
use serde_json::json;

use super::{HOLD, Wrapper, runner_file, stage};

/// Something, and how it is put in the place of the file.
type Thing = (&'static str, fn(&Path));

fn registers(gitea: &StandInGitea) -> usize {
    gitea.journal().count(|entry| entry.target.ends_with("/Register"))
}

/// A wrapper whose runner was left behind, as by a machine that lost power.
async fn left_behind(wrapper: &Wrapper) -> i64 {
    let mut wrapped = wrapper.script(HOLD);
    let command = wrapped.started();
    wrapped.ready();
    wrapped.kill(Signal::KILL);
    assert_eq!(wrapped.ended(), 137);
    // It goes on without the wrapper, until somebody ends it.
    rustix::process::kill_process(command, Signal::KILL).unwrap();
    wrapper.id()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_one_is_kept() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let id = left_behind(&wrapper).await;
    let before = registers(&gitea);
    let mut wrapped = wrapper.script("cp .runner copy");
    assert_eq!(wrapped.ended(), 0, "{}", wrapped.output());
    assert_eq!(runner_file(&wrapper.folder.path().join("copy"))["id"], id);
    assert_eq!(registers(&gitea), before, "{}", wrapped.output());
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_one_needs_no_token() {
    let (_gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    left_behind(&wrapper).await;
    let wrapper = wrapper.set("GITEA_RUNNER_REGISTRATION_TOKEN_FILE", "");
    let mut wrapped = wrapper.script("exit 4");
    assert_eq!(wrapped.ended(), 4, "{}", wrapped.output());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn address_and_given_labels_are_brought_in_line_and_credentials_kept() {
    let (_gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    left_behind(&wrapper).await;
    let before = runner_file(&wrapper.file());
    let mut file = before.clone();
    file["address"] = "http://gitea:3000".into();
    std::fs::write(wrapper.file(), file.to_string()).unwrap();
    let wrapper = wrapper.set("GITEA_RUNNER_LABELS", "host:host,metal");
    let mut wrapped = wrapper.script("cp .runner copy");
    assert_eq!(wrapped.ended(), 0, "{}", wrapped.output());
    let after = runner_file(&wrapper.folder.path().join("copy"));
    assert_eq!(after["address"], broker.url);
    assert_eq!(after["labels"], json!(["host:host", "metal:host"]));
    assert_eq!((&after["uuid"], &after["token"]), (&before["uuid"], &before["token"]));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_runner_is_not_known_is_replaced() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let id = left_behind(&wrapper).await;
    assert!(gitea.remove_runner(id));
    let mut wrapped = wrapper.script("cp .runner copy");
    assert_eq!(wrapped.ended(), 0, "{}", wrapped.output());
    assert_ne!(runner_file(&wrapper.folder.path().join("copy"))["id"], id);
    assert!(gitea.runners().is_empty() && !wrapper.file().exists());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_cannot_be_told_it_waits() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    let id = left_behind(&wrapper).await;
    gitea.set_down().await.unwrap();
    let mut wrapped = wrapper.script("cp .runner copy");
    wrapped.wait_for("waiting");
    gitea.set_up().await.unwrap();
    assert_eq!(wrapped.ended(), 0, "{}", wrapped.output());
    assert_eq!(runner_file(&wrapper.folder.path().join("copy"))["id"], id);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_runner_file_is_not_overwritten() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    std::fs::write(wrapper.file(), "a text of somebody's").unwrap();
    let mut wrapped = wrapper.script("true");
    assert_eq!(wrapped.ended(), 78, "{}", wrapped.output());
    assert_eq!(wrapper.text(".runner"), "a text of somebody's");
    assert!(gitea.runners().is_empty());
    // An empty one counts as none.
    std::fs::write(wrapper.file(), "").unwrap();
    assert_eq!(wrapper.script("exit 5").ended(), 5);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_written_costs_no_registration() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    std::fs::write(wrapper.folder.path().join("file"), "").unwrap();
    let wrapper = wrapper.flags(&["--file", "file/below/.runner"]);
    let mut wrapped = wrapper.script("true");
    assert_eq!(wrapped.ended(), 78, "{}", wrapped.output());
    assert_eq!(registers(&gitea), 0);

    let wrapper = Wrapper::new(&broker.url).flags(&["--file", "new/below/.runner"]);
    let mut wrapped = wrapper.script("test -s new/below/.runner");
    assert_eq!(wrapped.ended(), 0, "a missing one is made: {}", wrapped.output());
    broker.stop().await;
}

/// Neither is waited for nor written through, and no runner is registered for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_at_all_is_refused() {
    let (gitea, _site, broker) = stage().await;
    let things: [Thing; 5] = [
        ("a pipe", |at| {
            rustix::fs::mkfifoat(rustix::fs::CWD, at, rustix::fs::Mode::RUSR).unwrap();
        }),
        ("a link to nothing", |at| symlink("nothing", at).unwrap()),
        ("a link to an empty file", |at| {
            std::fs::write(at.with_file_name("empty"), "").unwrap();
            symlink("empty", at).unwrap();
        }),
        ("a link to a device", |at| symlink("/dev/zero", at).unwrap()),
        ("a folder", |at| std::fs::create_dir(at).unwrap()),
    ];
    for (what, put) in things {
        for verb in ["run", "enroll"] {
            let mut wrapper = Wrapper::new(&broker.url);
            put(&wrapper.file());
            let before = wrapper.file().symlink_metadata().unwrap().ino();
            wrapper.verb = verb;
            let command: &[&str] = match verb {
                "enroll" => {
                    wrapper = wrapper.flags(&["--out", ".runner"]);
                    &[]
                }
                _ => &["true"],
            };
            let mut wrapped = wrapper.command(command);
            assert_eq!(wrapped.ended(), 78, "{what}: {}", wrapped.output());
            let told = wrapped.output();
            assert!(told.contains("remove it") || told.contains("name the runner file"), "{told}");
            assert_eq!(wrapper.file().symlink_metadata().unwrap().ino(), before, "{what}");
            assert!(!wrapper.folder.path().join("nothing").exists());
        }
    }
    assert_eq!(registers(&gitea), 0);
    broker.stop().await;
}

/// As a mounted secret is: it is read, and its runner kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_good_one_behind_a_link_is_kept() {
    let (gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    left_behind(&wrapper).await;
    let real = wrapper.folder.path().join("real");
    std::fs::rename(wrapper.file(), &real).unwrap();
    symlink("real", wrapper.file()).unwrap();
    let mut wrapped = wrapper.script("exit 4");
    assert_eq!(wrapped.ended(), 4, "{}", wrapped.output());
    assert_eq!(registers(&gitea), 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_every_user_can_read_is_warned_about() {
    let (_gitea, _site, broker) = stage().await;
    let wrapper = Wrapper::new(&broker.url);
    left_behind(&wrapper).await;
    let mut wrapped = wrapper.script("true");
    assert_eq!(wrapped.ended(), 0);
    assert!(!wrapped.output().contains("every user"), "{}", wrapped.output());
    left_behind(&wrapper).await;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(wrapper.file(), open).unwrap();
    let mut wrapped = wrapper.script("true");
    assert_eq!(wrapped.ended(), 0);
    let told = wrapped.output();
    assert!(told.contains("can be read by every user: take that away with chmod o-rwx"), "{told}");
    broker.stop().await;
}
