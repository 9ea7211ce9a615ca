//! What passes where `listen.pass` names groups.

use runner_broker::sandbox::gitea::StandInGitea;
use runner_broker::sandbox::runner::StandInRunner;
use runner_broker::shutdown::Signal;

use crate::raw::{Wire, request};
use crate::register::join;
use crate::support::{Broker, Site, eventually, gitea, is_probe};

/// Status and text of a GET whose target goes out as it is.
async fn get(broker: &Broker, target: &str) -> (u16, String) {
    let mut wire = Wire::dial(&broker.url).await;
    wire.say(format!("GET {target} HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n")).await;
    let answer = wire.answer().await.unwrap();
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

/// What reached Gitea and was not the broker's own.
fn seen(gitea: &StandInGitea, target: &str) -> usize {
    gitea
        .journal()
        .entries()
        .iter()
        .filter(|entry| !is_probe(entry) && entry.target == target)
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_named_passes_and_the_rest_is_told_how() {
    let gitea = gitea();
    let site = Site::new(&gitea).set("listen.pass", "runners,git,api");
    let broker = Broker::start(&site).await;
    // The runner's own calls are its own: they always pass.
    let runner = join(&broker, "one").await.unwrap();
    runner.declare(&["host"]).await.unwrap();
    let task = gitea.queue_task(&["host"]);
    let (fetched, _) = runner.fetch_task(0).await.unwrap();
    assert_eq!(fetched.as_ref().unwrap().id, task);
    runner.run_task(&fetched.unwrap()).await.unwrap();
    assert_eq!(StandInRunner::new(&broker.url).ping("x").await.unwrap(), "Hello, x!");

    for target in
        ["/acme/app/info/refs?service=git-upload-pack", "/api/v1/settings/api", "/api/v1//version"]
    {
        let (status, text) = get(&broker, target).await;
        assert_ne!(status, 403, "{target}: {text}");
        assert_eq!(seen(&gitea, target), 1, "{target}");
    }
    for (target, says) in [
        ("/user/login", "set the broker's listen.pass to [\\\"all\\\"]"),
        ("/", "listen.pass"),
        ("/api/packages/acme/npm/x", "add \\\"packages\\\" to its setting listen.pass"),
        ("/acme/app/info/lfs/locks", "add \\\"lfs\\\""),
        ("/api/v1/../../user/login", "spell it plainly"),
        ("/api/v1/%2e%2e/%2e%2e/user/login", "spell it plainly"),
        ("http://elsewhere/user/login", "listen.pass"),
    ] {
        let (status, text) = get(&broker, target).await;
        assert_eq!(status, 403, "{target}: {text}");
        assert!(text.contains(says), "{target}: {text}");
        assert!(text.contains("\"code\":\"permission_denied\""), "{target}: {text}");
        assert_eq!(seen(&gitea, target), 0, "{target}");
    }
    assert_eq!(seen(&gitea, "/user/login"), 0);
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(
        metrics.contains("runner_broker_requests_total{code=\"4xx\",route=\"other\"}"),
        "{metrics}"
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_what_passes() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    site.write_config("[listen]\npass = [\"jobs\"]\n");
    let broker = Broker::start(&site).await;
    assert_eq!(get(&broker, "/user/login").await.0, 403);
    site.write_config("[listen]\npass = [\"jobs\", \"all\"]\n");
    broker.signal(Signal::Reload).await;
    eventually("all passes", async || get(&broker, "/user/login").await.0 != 403).await;
    // A mistake changes nothing.
    site.write_config("[listen]\npass = [\"pages\"]\n");
    broker.signal(Signal::Reload).await;
    site.write_config("[listen]\npass = [\"runners\"]\n");
    broker.signal(Signal::Reload).await;
    eventually("nothing passes", async || get(&broker, "/api/v1/version").await.0 == 403).await;
    // Register is decided here, and stays so.
    let mut wire = Wire::dial(&broker.url).await;
    wire.register(&request("one")).await;
    assert_eq!(wire.answer().await.unwrap().status, 200);
    broker.stop().await;
}
