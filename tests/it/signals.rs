//! The built binary and real signals.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use runner_broker::sandbox::gitea::{Effect, Route, When};
use runner_broker::sandbox::runner::{RegisterOptions, StandInRunner};
use rustix::process::Signal as Unix;

use crate::binary::{Binary, Line};
use crate::deregister::{deletions, join, join_busy};
use crate::shutdown::site;
use crate::support::{ENROLLMENT_TOKEN, eventually, gitea};

/// Waits for its end, which is to be an orderly one. Returns how long that took.
async fn ended(mut broker: Binary) -> (Duration, Vec<Line>) {
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || {
        assert!(broker.ended().success(), "{}", broker.log_text());
        let took = begun.elapsed();
        let lines = broker.lines();
        (took, lines)
    })
    .await
    .unwrap()
}

/// The lines with this message, each by one of its fields.
fn told(lines: &[Line], message: &str, field: &str) -> Vec<String> {
    let mut told: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == message)
        .map(|line| line[field].as_str().unwrap_or_default().to_owned())
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn sigterm_tells_each_phase_and_each_runner() {
    let gitea = gitea();
    let broker = Binary::start(&site(&gitea, "500ms", "3s"));
    let gone = join(&broker.url, "gone").await;
    let refused = join(&broker.url, "refused").await;
    let idle = join(&broker.url, "idle").await;
    let (busy, task) = join_busy(&gitea, &broker.url, "busy").await;
    drop(gone);
    let broker = tokio::task::spawn_blocking(move || {
        broker.kill(Unix::TERM);
        broker.wait_for("shutting down: no runner is registered and none gets a task from now on");
        broker
    })
    .await
    .unwrap();
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "late");
    let error = StandInRunner::new(&broker.url).register(&options).await.unwrap_err();
    assert_eq!(error.code, "unavailable");
    assert_eq!(idle.fetch_task(0).await.unwrap(), (None, 0));
    busy.update_log(task, 0, &["on it"], false).await.unwrap();
    eventually("the gone one is deleted", async || gitea.runners().len() == 3).await;
    gitea.faults().always(
        Route::DeleteRunner,
        When::BeforeActing,
        Effect::Answer(runner_broker::sandbox::gitea::Answer::html(hyper::StatusCode::BAD_GATEWAY)),
    );
    drop(refused);
    let (took, lines) = ended(broker).await;
    assert!(took < Duration::from_secs(3), "took {took:?}");
    let phases: Vec<_> = lines.iter().filter_map(|line| line["phase"].as_str()).collect();
    assert_eq!(phases, ["drain", "deregister", "flush"]);
    assert_eq!(told(&lines, "runner deregistered", "runner"), ["gone"]);
    assert_eq!(told(&lines, "runner is still registered", "runner"), ["refused"], "told once");
    assert!(deletions(&gitea) > 2, "and tried again");
    assert_eq!(told(&lines, "runner left registered", "runner"), ["busy", "idle", "refused"]);
    assert_eq!(
        told(&lines, "runner left registered", "left"),
        [
            "could not be deregistered in time; tried again at the next start",
            "has a task in hand and goes on with it",
            "is still there",
        ]
    );
    drop((idle, busy));
}

#[tokio::test]
async fn sigterm_ends_in_time_with_all_hanging() {
    let gitea = gitea();
    let broker = Binary::start(&site(&gitea, "500ms", "2s").set("shutdown.deregister", "all"));
    let idle = join(&broker.url, "idle").await;
    gitea.faults().always(Route::Any, When::BeforeActing, Effect::Stall);
    let mut half = TcpStream::connect(broker.url.trim_start_matches("http://")).unwrap();
    half.write_all(b"POST /api/v1").unwrap();
    let program = StandInRunner::new(&broker.url);
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "late");
    let late = tokio::spawn(async move { program.register(&options).await });
    let (sent, ping) = (gitea.journal().clone(), StandInRunner::new(&broker.url));
    sent.wait_for(|entry| entry.target.ends_with("/Register")).await;
    let hanging = tokio::spawn(async move { ping.ping("hangs").await });
    sent.wait_for(|entry| entry.target.ends_with("/Ping")).await;
    broker.kill(Unix::TERM);
    let (took, lines) = ended(broker).await;
    assert!(took < Duration::from_secs(2), "took {took:?}");
    assert_eq!(told(&lines, "runner left registered", "runner"), ["idle"]);
    drop((idle, half, late, hanging));
}

#[tokio::test]
async fn a_second_sigterm_and_sigquit_end_at_once_and_keep_all() {
    for (first, second) in [(Unix::TERM, Some(Unix::TERM)), (Unix::QUIT, None)] {
        let gitea = gitea();
        let site = site(&gitea, "15s", "18s");
        let broker = Binary::start(&site);
        let idle = join(&broker.url, "idle").await;
        gitea.journal().clear();
        broker.kill(first);
        if let Some(second) = second {
            let again = tokio::task::spawn_blocking(move || {
                broker.wait_for(
                    "shutting down: no runner is registered and none gets a task from now on",
                );
                broker.kill(second);
                broker
            });
            let (took, _) = ended(again.await.unwrap()).await;
            assert!(took < Duration::from_secs(3), "took {took:?}");
        } else {
            let (took, _) = ended(broker).await;
            assert!(took < Duration::from_secs(3), "took {took:?}");
        }
        assert_eq!(deletions(&gitea), 0);
        // The next start knows it.
        let broker = Binary::start(&site);
        assert_eq!(broker.lines().last().unwrap()["known"], 1);
        idle.moved_to(&broker.url).fetch_task(0).await.unwrap();
    }
}

#[tokio::test]
async fn sigterm_during_the_start_is_not_lost() {
    let gitea = gitea();
    let site = site(&gitea, "500ms", "2s");
    std::fs::write(site.path("state.db"), "").unwrap();
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(site.path("state.db"), open).unwrap();
    let broker = tokio::task::spawn_blocking(move || {
        let broker = Binary::spawn(&site, &[]);
        // Told while the store is opened, before anything listens.
        broker.wait_for(
            "the store holds runners' tokens and could be read by others; its mode is set to 0600",
        );
        broker.kill(Unix::TERM);
        (broker, site)
    });
    let (broker, _site) = broker.await.unwrap();
    let (_, lines) = ended(broker).await;
    assert_eq!(lines.last().unwrap()["message"], "stopped");
}

#[tokio::test]
async fn sighup_reads_the_settings_again_and_a_mistake_changes_nothing() {
    let gitea = gitea();
    let site = site(&gitea, "500ms", "2s");
    let file = site.path("config.toml");
    std::fs::write(&file, "").unwrap();
    let broker = Binary::start_with(&site, &[("RUNNER_BROKER_CONFIG", file.to_str().unwrap())]);
    let url = broker.url.clone();
    std::fs::write(&file, "[shutdown]\nbusy = \"perhaps\"\n[log]\nlevel = \"loud\"\n").unwrap();
    let new = "another-enrollment-token-0123456789abcdef";
    std::fs::write(site.path("enrollment"), new).unwrap();
    broker.kill(Unix::HUP);
    let refused = "settings not read again: the old ones stay in force";
    eventually("each mistake has its line", async || {
        let lines = broker.lines();
        let problems = told(&lines, refused, "problem");
        ["shutdown.busy", "log.level"]
            .iter()
            .all(|key| problems.iter().any(|problem| problem.contains(key)))
    })
    .await;
    let register = async |token: &str, name: &str| {
        let options = RegisterOptions::new(token.into(), name);
        StandInRunner::new(&url).register(&options).await
    };
    register(ENROLLMENT_TOKEN, "one").await.unwrap();
    assert_eq!(register(new, "two").await.unwrap_err().code, "unauthenticated");
    std::fs::write(&file, "[shutdown]\nbusy = \"cancel\"\n").unwrap();
    broker.kill(Unix::HUP);
    eventually("they are read", async || {
        !told(&broker.lines(), "settings read again", "message").is_empty()
    })
    .await;
    register(new, "two").await.unwrap();
    assert_eq!(register(ENROLLMENT_TOKEN, "one").await.unwrap_err().code, "unauthenticated");
    broker.kill(Unix::TERM);
    ended(broker).await;
}
