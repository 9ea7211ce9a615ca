//! A Gitea that gives no answer at all does not tie up the broker, and is found again soon.

use std::time::{Duration, Instant};

use runner_broker::connect::messages::TaskResult;
use runner_broker::sandbox::gitea::{Effect, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RawAnswer, RegisterOptions, Runner, StandInRunner};
use serde_json::Value;

use crate::deregister::join;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, within};

const FETCH_TASK: &str = "/api/actions/runner.v1.RunnerService/FetchTask";
/// The shortest wait that tells something of Gitea, in milliseconds.
const TELLING: &str = "2000";
/// An answer that waits for nobody.
const AT_ONCE: Duration = Duration::from_millis(500);
/// The longest pause between two trials, and what the way there and back may take.
const FOUND: Duration = Duration::from_secs(7);

async fn started() -> (StandInGitea, Site, Broker) {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    eventually("Gitea was asked", async || broker.lifecycle.gitea.is_up()).await;
    (gitea, site, broker)
}

async fn poll(url: &str, limit: &str) -> RawAnswer {
    let limit = [("connect-timeout-ms", limit)];
    StandInRunner::new(url).call(FETCH_TASK, "application/proto", &limit, "").await.unwrap()
}

/// Whether this is the answer of a broker that leaves Gitea alone.
fn is_left_alone(answer: &RawAnswer) -> bool {
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    let left_alone = error["message"].as_str().unwrap().contains("asked again only in a moment");
    if left_alone {
        assert_eq!((answer.status.as_u16(), &error["code"]), (503, &"unavailable".into()));
        let wait = answer.headers["retry-after"].to_str().unwrap();
        assert!((1..=5).contains(&wait.parse::<u64>().unwrap()), "{wait}");
    }
    left_alone
}

/// Polls as many runners do, until Gitea is left alone.
async fn poll_until_left_alone(broker: &Broker, runners: u64, limit: &'static str) {
    let polls = (0..runners).map(|n| {
        let url = broker.url.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50 * n)).await;
            while !is_left_alone(&poll(&url, limit).await) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
    });
    for poll in polls.collect::<Vec<_>>() {
        within(poll).await.unwrap();
    }
}

fn polls(gitea: &StandInGitea) -> usize {
    gitea.journal().count(|entry| entry.target == FETCH_TASK)
}

/// How many of the broker's connections to Gitea the kernel lists as open.
fn connections(gitea: &StandInGitea) -> usize {
    let port: u16 = gitea.url().rsplit(':').next().unwrap().parse().unwrap();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to_gitea = |line: &&str| {
        let mut columns = line.split_whitespace().skip(2);
        columns.next().is_some_and(|far| far.ends_with(&format!(":{port:04X}")))
            && columns.next() == Some("01")
    };
    table.lines().filter(to_gitea).count()
}

#[tokio::test]
async fn a_dead_gitea_is_left_alone_and_found_again_in_time_for_reports() {
    let (gitea, _site, broker) = started().await;
    let runner: Runner = join(&broker.url, "reporting").await;
    runner.declare(&["host"]).await.unwrap();
    let id = gitea.queue_task(&["host"]);
    let (task, _) = runner.fetch_task(0).await.unwrap();
    assert_eq!(task.unwrap().id, id);

    gitea.set_down().await.unwrap();
    poll_until_left_alone(&broker, 20, "4999").await;
    assert!(!broker.lifecycle.gitea.is_up());
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(metrics.contains("upstream_errors_total{kind=\"open\"}"), "{metrics}");
    assert!(!metrics.contains("upstream_errors_total{kind=\"open\"} 0"), "{metrics}");
    // A newcomer is told the same, and nothing is left to settle.
    let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), "newcomer");
    let error = StandInRunner::new(&broker.url).register(&options).await.unwrap_err();
    assert_eq!(error.code, "unavailable", "{error}");
    assert_eq!(broker.lifecycle.unsettled(), 0);

    gitea.set_up().await.unwrap();
    let begun = Instant::now();
    eventually("the report passes", async || {
        runner.update_task(id, TaskResult::Success).await.is_ok()
    })
    .await;
    assert!(begun.elapsed() < FOUND, "{:?}", begun.elapsed());
    assert!(broker.lifecycle.gitea.is_up());
    join(&broker.url, "newcomer").await;
}

#[tokio::test]
async fn a_hung_gitea_ties_up_nothing() {
    let (gitea, _site, broker) = started().await;
    let stalled = gitea.faults().always(Route::Any, When::BeforeActing, Effect::Stall);
    poll_until_left_alone(&broker, 40, TELLING).await;
    let (before, begun) = (polls(&gitea), Instant::now());
    for _ in 0..500 {
        let asked = Instant::now();
        let answer = poll(&broker.url, TELLING).await;
        // One of them may be the trial.
        assert!(is_left_alone(&answer) || answer.status == 504, "{answer:?}");
        assert!(answer.status == 504 || asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    }
    // A trial a second at the very most, and no connection for any of the others.
    let trials = polls(&gitea) - before;
    let at_most = begun.elapsed().as_secs() + 1;
    assert!(trials as u64 <= at_most, "{trials} trials in {:?}", begun.elapsed());
    eventually("the stalled requests were given up", async || connections(&gitea) <= 8).await;

    gitea.faults().remove(stalled);
    let begun = Instant::now();
    eventually("the broker asks again", async || {
        StandInRunner::new(&broker.url).ping("back").await.is_ok()
    })
    .await;
    assert!(begun.elapsed() < FOUND, "{:?}", begun.elapsed());
    join(&broker.url, "newcomer").await;
}

#[tokio::test]
async fn a_gitea_that_answers_anyone_is_not_left_alone() {
    let (gitea, _site, broker) = started().await;
    // Polls hang, each for as long as tells something; others are answered.
    gitea.faults().always(Route::FetchTask, When::BeforeActing, Effect::Stall);
    let url = broker.url.clone();
    let mut hung = tokio::spawn(async move {
        let polls = (0..30).map(|n| {
            let url = url.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50 * n)).await;
                poll(&url, TELLING).await
            })
        });
        let mut answers = Vec::new();
        for poll in polls.collect::<Vec<_>>() {
            answers.push(poll.await.unwrap());
        }
        answers
    });
    let program = StandInRunner::new(&broker.url);
    let answers = loop {
        program.ping("fine").await.unwrap();
        tokio::select! {
            answers = &mut hung => break answers.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    };
    assert!(answers.iter().all(|answer| answer.status == 504), "{answers:?}");
    assert!(broker.lifecycle.gitea.is_up());
}

#[tokio::test]
async fn an_impatient_caller_alone_shuts_nobody_out() {
    let (gitea, _site, broker) = started().await;
    gitea.faults().always(Route::FetchTask, When::BeforeActing, Effect::Stall);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(poll(&broker.url, "50").await.status, 504);
    }
    StandInRunner::new(&broker.url).ping("fine").await.unwrap();
}
