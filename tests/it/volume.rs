//! The volume of runner files is in others' hands: whatever they put there, nothing beyond it is touched, the
//! runner has its answer and its record, and the log says what to do. Each step by itself is in
//! `src/credential/write/tests`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use rustix::process::Signal as Unix;
use tempfile::TempDir;

use crate::binary::Binary;
use crate::capture::Capture;
use crate::register::join;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, runner_file};

/// A folder that is none of the broker's business.
struct Outside(TempDir);

impl Outside {
    fn new(site: &Site) -> Self {
        let outside = Self(tempfile::tempdir_in(site.folder.path()).unwrap());
        fs::write(outside.victim(), "untouched").unwrap();
        fs::set_permissions(outside.victim(), Permissions::from_mode(0o644)).unwrap();
        outside
    }

    fn victim(&self) -> std::path::PathBuf {
        self.0.path().join("victim")
    }

    fn is_untouched(&self, at: &str) {
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 1, "{at}");
        assert_eq!(fs::read_to_string(self.victim()).unwrap(), "untouched", "{at}");
        assert_eq!(fs::metadata(self.victim()).unwrap().mode() & 0o7777, 0o644, "{at}");
    }
}

/// What is put in the place of the file or of its folder, and whether the file is written all the same: there,
/// and here.
type Thing = (&'static str, fn(&Path, &Outside), bool, bool);

const THINGS: [Thing; 7] = [
    ("a link to a file", |at, outside| symlink(outside.victim(), at).unwrap(), false, false),
    ("a link to a folder", |at, outside| symlink(outside.0.path(), at).unwrap(), false, false),
    (
        "a link to nothing",
        |at, outside| symlink(outside.0.path().join("x"), at).unwrap(),
        false,
        false,
    ),
    ("a second name", |at, outside| fs::hard_link(outside.victim(), at).unwrap(), true, false),
    ("a pipe", |at, _| fifo(at), false, false),
    ("a socket", |at, _| drop(UnixListener::bind(at).unwrap()), false, false),
    ("a folder", |at, _| fs::create_dir(at).unwrap(), false, true),
];

fn fifo(at: &Path) {
    rustix::fs::mkfifoat(rustix::fs::CWD, at, rustix::fs::Mode::RUSR).unwrap();
}

fn is_whole(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o7777 == 0o600)
}

#[tokio::test]
async fn what_lies_in_the_way_costs_a_runner_its_file_and_nothing_else() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut number = 0;
    for (what, put, as_file, as_folder) in THINGS {
        for (place, written) in [("file", as_file), ("folder", as_folder)] {
            let at = format!("{what} as the {place}");
            number += 1;
            let name = format!("runner-{number}");
            let outside = Outside::new(&site);
            let path = site.runner_file(&name);
            if place == "file" {
                fs::create_dir(path.parent().unwrap()).unwrap();
                put(&path, &outside);
            } else {
                put(path.parent().unwrap(), &outside);
            }
            let runner = join(&broker, &name).await.unwrap();
            runner.declare(&["host"]).await.unwrap();
            outside.is_untouched(&at);
            assert_eq!(is_whole(&path), written, "{at}");
            let told = log.lines().into_iter().find(|line| {
                line["message"] == "runner file not written" && line["runner"] == *name
            });
            assert_eq!(told.is_some(), !written, "{at}");
            if let Some(told) = told {
                assert!(told["reason"].as_str().unwrap().contains("remove it"), "{at}: {told}");
            }
            let live = broker.lifecycle.roster.all();
            let live = live.iter().find(|live| live.record().name == name).unwrap();
            assert_eq!(live.record().file.is_some(), written, "{at}");
            runner.deregister().await.unwrap();
            outside.is_untouched(&at);
            assert!(!is_whole(&path), "{at}");
        }
    }
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test]
async fn a_declared_runners_file_comes_as_soon_as_the_way_is_free() {
    for (what, put, as_file, _) in THINGS {
        if as_file {
            continue;
        }
        let log = Capture::start();
        let gitea = gitea();
        let site = Site::new(&gitea)
            .set("listen.public_url", "http://broker:8080")
            .set("shutdown.deregister", "none");
        site.write_config("[[runners]]\nname = \"one\"\nlabels = [\"host:host\"]\n");
        let path = site.runner_file("one");
        let outside = Outside::new(&site);
        fs::create_dir(path.parent().unwrap()).unwrap();
        put(&path, &outside);
        let broker = Broker::start(&site).await;
        eventually("it is told", async || {
            log.lines().iter().any(|line| {
                line["message"] == "declared runner is not in line; tried again"
                    && line["reason"].as_str().unwrap().contains("remove it")
            })
        })
        .await;
        assert_eq!(broker.lifecycle.declared_troubles().len(), 1, "{what}");
        assert_eq!(gitea.runners().len(), 1, "{what}: it is registered once");
        let aside = site.path("aside");
        fs::rename(&path, &aside).unwrap();
        eventually("it is written", async || is_whole(&path)).await;
        assert_eq!(gitea.runners().len(), 1, "{what}");
        outside.is_untouched(what);
        broker.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_others_may_read_is_closed_again() {
    let gitea = gitea();
    let site = Site::new(&gitea)
        .set("listen.public_url", "http://broker:8080")
        .set("shutdown.deregister", "none");
    site.write_config("[[runners]]\nname = \"one\"\nlabels = [\"host:host\"]\n");
    let path = site.runner_file("one");
    for mode in [0o644, 0o602, 0o777] {
        let broker = Broker::start(&site).await;
        eventually("it is written", async || is_whole(&path)).await;
        let before = runner_file(&path);
        broker.stop().await;
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let broker = Broker::start(&site).await;
        eventually("it is closed", async || is_whole(&path)).await;
        assert_eq!(runner_file(&path), before, "{mode:o}");
        broker.stop().await;
    }
    assert_eq!(gitea.runners().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_vanishes_costs_files_alone() {
    let gitea = gitea();
    let site = Site::new(&gitea)
        .set("listen.public_url", "http://broker:8080")
        .set("shutdown.deregister", "none");
    site.write_config("[[runners]]\nname = \"declared\"\nlabels = [\"host:host\"]\n");
    let broker = Broker::start(&site).await;
    eventually("it is there", async || is_whole(&site.runner_file("declared"))).await;
    let before = join(&broker, "before").await.unwrap();
    fs::rename(site.path("runners"), site.path("away")).unwrap();
    let during = join(&broker, "during").await.unwrap();
    before.deregister().await.unwrap();
    during.declare(&["host"]).await.unwrap();
    assert!(!site.path("runners").exists(), "it is not made where no volume is");
    // It comes back as it was, with the file of one that left.
    fs::rename(site.path("away"), site.path("runners")).unwrap();
    broker.stop().await;
    let broker = Broker::start(&site).await;
    eventually("it is in line", async || broker.lifecycle.declared_troubles().is_empty()).await;
    during.moved_to(&broker.url).declare(&["host"]).await.unwrap();
    assert!(is_whole(&site.runner_file("declared")));
    assert_eq!(gitea.runners().len(), 2);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folders_that_are_swapped_all_the_time_lead_nowhere_else() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let outside = Outside::new(&site);
    let (folder, aside) = (site.path("runners/one"), site.path("runners/.aside"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                let _ = fs::rename(&folder, &aside);
                let _ = symlink(outside.0.path(), &folder);
                std::thread::sleep(std::time::Duration::from_micros(200));
                let _ = fs::remove_file(&folder);
                let _ = fs::rename(&aside, &folder);
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                let lived = async {
                    for _ in 0..40 {
                        let runner = join(&broker, "one").await?;
                        runner.declare(&["host"]).await?;
                        runner.deregister().await?;
                    }
                    Ok::<_, runner_broker::sandbox::runner::RpcError>(())
                };
                let lived = lived.await;
                done.store(true, Ordering::Release);
                lived.unwrap();
            });
        });
    });
    outside.is_untouched("at the end");
    assert!(gitea.runners().is_empty());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_any_umask_files_are_the_brokers_alone() {
    for umask in ["000", "002", "077", "117"] {
        let gitea = gitea();
        let site = Site::new(&gitea).set("shutdown.deregister", "none");
        let mut binary = Binary::start_after(&site, &format!("umask {umask}"));
        let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "one");
        let runner = StandInRunner::new(&binary.url).register(&options).await.unwrap();
        runner.declare(&["host"]).await.unwrap();
        for name in
            ["runners/one/.runner", "state.db", "state.db-wal", "state.db.holder", "admin.sock"]
        {
            let mode = fs::metadata(site.path(name)).unwrap().mode() & 0o7777;
            assert_eq!(mode, 0o600, "{name} under umask {umask}");
        }
        let folder = fs::metadata(site.path("runners/one")).unwrap().mode() & 0o7777;
        assert_eq!(folder, 0o755, "umask {umask}");
        assert_eq!(runner_file(&site.runner_file("one"))["name"], "one");
        binary.kill(Unix::TERM);
        assert!(binary.ended().success());
    }
}
