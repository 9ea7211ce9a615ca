//! Certificates that change while the broker runs.

use std::os::unix::fs::symlink;

use runner_broker::shutdown::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::certs::{Authority, dial, shown, trust};
use super::{H1, H2, Stack};
use crate::capture::Capture;
use crate::support::{Broker, Site, eventually, gitea, within};

/// As the kubelet does it: the names in the folder lead through `..data`, which is renamed over.
fn kubelet(site: &Site, generation: &str, signed: &super::certs::Signed) {
    let folder = site.path("mounted");
    let new = folder.join(generation);
    std::fs::create_dir_all(&new).unwrap();
    signed.write_into(&new);
    for name in ["tls.crt", "tls.key"] {
        let link = folder.join(name);
        if link.symlink_metadata().is_err() {
            symlink(format!("..data/{name}"), link).unwrap();
        }
    }
    let (data, next) = (folder.join("..data"), folder.join("..data_tmp"));
    let old = std::fs::read_link(&data).ok();
    symlink(generation, &next).unwrap();
    std::fs::rename(next, data).unwrap();
    if let Some(old) = old {
        std::fs::remove_dir_all(folder.join(old)).unwrap();
    }
}

#[tokio::test]
async fn a_swapped_symlink_is_seen_and_no_connection_is_dropped() {
    let gitea = gitea();
    let authority = Authority::new();
    let (old, new) = (authority.sign("127.0.0.1"), authority.sign("127.0.0.1"));
    let site = Site::new(&gitea);
    kubelet(&site, "..2026_01", &old);
    let path = |name: &str| site.path("mounted").join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("tls.crt"), path("tls.key"));
    let site = site.set("listen.tls.cert", &cert).set("listen.tls.key", &key);
    let broker = Broker::start(&site).await;
    let stack = Stack { gitea, site, broker, authority };
    let config = || trust(&stack.authority.pem(), H1);
    assert_eq!(shown(&stack.broker.url, config()).await, old.chain());

    // A request in hand on a connection, and a connection of HTTP/2 that is idle.
    let runner = stack.runner(H2, "one").await;
    let mut uploading = dial(&stack.broker.url, config()).await.unwrap();
    let head = "PUT /upload HTTP/1.1\r\nHost: b\r\nContent-Length: 10\r\n\r\nfirst";
    uploading.write_all(head.as_bytes()).await.unwrap();
    eventually("Gitea has the first half", async || {
        stack.gitea.journal().count(|entry| entry.target == "/upload") == 1
    })
    .await;

    kubelet(&stack.site, "..2026_02", &new);
    eventually("new connections see the new one", async || {
        shown(&stack.broker.url, config()).await == new.chain()
    })
    .await;

    runner.declare(&["host"]).await.unwrap();
    uploading.write_all(b"other").await.unwrap();
    let mut answer = vec![0; 15];
    within(uploading.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_bad_new_pair_keeps_the_old_one_and_says_so_once() {
    let capture = Capture::start();
    let stack = Stack::start().await;
    let config = || trust(&stack.authority.pem(), H1);
    let old = shown(&stack.broker.url, config()).await;
    let new = stack.authority.sign("127.0.0.1");
    let said = || capture.text().matches("the certificate from before goes on").count();
    let trouble = async || stack.status().await["certificates"][0]["trouble"].clone();

    // The certificate without its key.
    std::fs::write(stack.site.path("listen.crt"), &new.cert).unwrap();
    eventually("it is told", async || said() == 1).await;
    let told = trouble().await;
    assert!(told.as_str().unwrap().starts_with("listen.tls.key: "), "{told}");
    assert!(told.as_str().unwrap().contains("does not belong to the certificate in"), "{told}");
    let hints = stack.status().await["hints"].to_string();
    assert!(hints.contains("the one from before is still in use"), "{hints}");
    // Many looks later it was not said again.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(said(), 1);
    assert_eq!(shown(&stack.broker.url, config()).await, old);

    // No certificate at all is told anew, and so are settings that are read again.
    std::fs::remove_file(stack.site.path("listen.crt")).unwrap();
    eventually("that is told too", async || said() == 2).await;
    stack.broker.signal(Signal::Reload).await;
    eventually("the settings are refused", async || {
        capture.text().contains("settings not read again: the old ones stay in force")
    })
    .await;
    stack.program(H2).ping("still there").await.unwrap();

    // Whole again, it settles by itself.
    new.write(&stack.site, "listen.crt", "listen.key");
    eventually("the new one is in use", async || {
        shown(&stack.broker.url, config()).await == new.chain()
    })
    .await;
    assert_eq!(trouble().await, serde_json::Value::Null);
    let again = capture.text().matches("certificate read again").count();
    assert_eq!(again, 1, "{}", capture.text());
}

#[tokio::test]
async fn other_files_are_taken_at_sighup() {
    let stack = Stack::start().await;
    let config = || trust(&stack.authority.pem(), H1);
    let gitea = crate::support::gitea();
    // A settings file, as the environment of a process does not change.
    let other = stack.authority.sign("127.0.0.1");
    let site = Site::new(&gitea);
    let first = stack.authority.sign("127.0.0.1");
    let files = |name: &str, signed: &super::certs::Signed| {
        let folder = site.path(name);
        std::fs::create_dir(&folder).unwrap();
        signed.write_into(&folder);
        let folder = folder.display();
        format!("[listen.tls]\ncert = \"{folder}/tls.crt\"\nkey = \"{folder}/tls.key\"\n")
    };
    site.write_config(&files("first", &first));
    let broker = Broker::start(&site).await;
    assert_eq!(shown(&broker.url, config()).await, first.chain());
    site.write_config(&files("other", &other));
    broker.signal(Signal::Reload).await;
    eventually("the other is shown", async || shown(&broker.url, config()).await == other.chain())
        .await;
    // TLS itself does not go away while the broker runs.
    site.write_config("");
    broker.signal(Signal::Reload).await;
    eventually("the settings were read", async || {
        broker.lifecycle.settings.load().listen.tls.is_some()
    })
    .await;
    assert_eq!(shown(&broker.url, config()).await, other.chain());
}
