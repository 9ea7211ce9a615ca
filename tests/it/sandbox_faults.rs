//! The stand-in Gitea fails as a Gitea, or what stands before it, does.

use std::collections::BTreeSet;

use hyper::{Method, StatusCode};
use runner_broker::config::Scope;
use runner_broker::sandbox::StandInRunner;
use runner_broker::sandbox::gitea::{
    Answer, Effect, Options, Route, RunnerSeed, StandInGitea, TaskState, When,
};
use runner_broker::sandbox::runner::{RawAnswer, RegisterOptions, Runner};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::support::{gitea, within};

async fn registered(gitea: &StandInGitea, name: &str) -> Runner {
    let options = RegisterOptions::new(gitea.registration_token(&Scope::Instance), name);
    StandInRunner::new(&gitea.url()).register(&options).await.unwrap()
}

async fn ask(gitea: &StandInGitea, method: Method, path: &str) -> RawAnswer {
    let token = format!("token {}", gitea.api_token(&["write:admin"]).expose_secret());
    let headers = [("Authorization", token.as_str())];
    StandInRunner::new(&gitea.url()).send(method, path, &headers, Vec::new()).await.unwrap()
}

#[tokio::test]
async fn a_proxy_limits_the_rate_or_shows_its_page() {
    let gitea = gitea();
    let runner = registered(&gitea, "a").await;
    for (answer, status, retry_after) in [
        (Answer::rate_limited(7), StatusCode::TOO_MANY_REQUESTS, Some("7")),
        (Answer::maintenance(), StatusCode::SERVICE_UNAVAILABLE, None),
    ] {
        gitea.faults().times(2, Route::Any, When::BeforeActing, Effect::Answer(answer));
        let rest = ask(&gitea, Method::GET, "/api/v1/admin/actions/runners").await;
        assert_eq!(rest.status, status);
        let header = rest.headers.get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!(header, retry_after);
        assert_eq!(rest.headers["content-type"], "text/html");
        assert_eq!(runner.fetch_task(0).await.unwrap_err().status, Some(status));
        assert!(runner.fetch_task(0).await.is_ok(), "it is over");
    }
}

#[tokio::test]
async fn a_doubled_call_acts_twice_and_answers_once() {
    for when in [When::BeforeActing, When::AfterActing] {
        let gitea = gitea();
        gitea.faults().once(Route::Register, when, Effect::Doubled);
        let runner = registered(&gitea, "a").await;
        let mut ids: Vec<i64> = gitea.runners().iter().map(|runner| runner.id).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
        assert_eq!(runner.credentials.id, 2, "the second is answered");

        gitea.faults().once(Route::DeleteRunner, when, Effect::Doubled);
        let deleted = ask(&gitea, Method::DELETE, "/api/v1/admin/actions/runners/1").await;
        assert_eq!(deleted.status, StatusCode::NOT_FOUND);
        assert!(gitea.runner(1).is_none());
        registered(&gitea, "b").await;
        assert_eq!(gitea.runners().len(), 2, "it is over");
    }
}

#[tokio::test]
async fn a_doubled_answer_can_be_lost_too() {
    let gitea = gitea();
    gitea.faults().once(Route::Register, When::BeforeActing, Effect::Doubled);
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Reset);
    let options = RegisterOptions::new(gitea.registration_token(&Scope::Instance), "a");
    StandInRunner::new(&gitea.url()).register(&options).await.unwrap_err();
    assert_eq!(gitea.runners().len(), 2);
}

#[tokio::test]
async fn its_clock_can_be_wrong() {
    let gitea = gitea();
    let year = async || {
        let date = ask(&gitea, Method::GET, "/api/v1/version").await.headers["date"].clone();
        date.to_str().unwrap().split(' ').nth(3).unwrap().parse::<i64>().unwrap()
    };
    let now = year().await;
    let more_than_a_year = 400 * 24 * 3600;
    gitea.skew_clock(more_than_a_year);
    assert!(year().await > now);
    gitea.skew_clock(-more_than_a_year);
    assert!(year().await < now);
    gitea.skew_clock(0);
    assert_eq!(year().await, now);
}

#[tokio::test]
async fn lists_move_while_they_are_read() {
    let gitea = gitea();
    for _ in 0..6 {
        gitea.add_runner(RunnerSeed::default());
    }
    let read = async || {
        let mut ids = Vec::new();
        for page in 1..=3 {
            let path = format!("/api/v1/admin/actions/runners?page={page}&limit=2");
            let answer: Value =
                serde_json::from_slice(&ask(&gitea, Method::GET, &path).await.body).unwrap();
            assert_eq!(answer["total_count"], 6);
            let runners = answer["runners"].as_array().unwrap();
            ids.extend(runners.iter().map(|runner| runner["id"].as_i64().unwrap()));
        }
        ids
    };
    assert_eq!(read().await, [6, 5, 4, 3, 2, 1]);
    gitea.move_lists(true);
    assert_eq!(read().await, [6, 5, 5, 4, 4, 3], "some are seen twice, and some never");
    let second: BTreeSet<i64> = read().await.into_iter().collect();
    assert!(second.contains(&1) && second.contains(&2), "{second:?}: they are in front now");
    gitea.move_lists(false);
    assert_eq!(read().await, [6, 5, 4, 3, 2, 1]);
}

/// A poll that overlaps one which gets a task; the second of two tasks is left.
async fn race(lost_wakeup: bool) -> (StandInGitea, Runner, (bool, i64)) {
    let gitea = StandInGitea::start(Options { lost_wakeup, ..Options::default() }).unwrap();
    let (winner, loser) = (registered(&gitea, "winner").await, registered(&gitea, "loser").await);
    for runner in [&winner, &loser] {
        runner.declare(&["host"]).await.unwrap();
    }
    let tasks = [gitea.queue_task(&["host"]), gitea.queue_task(&["host"])];
    let gate = gitea.faults().gate(Route::FetchTask, When::BeforeActing);
    let lost = async { loser.fetch_task(0).await.unwrap() };
    let won = async {
        gate.reached().await;
        let won = winner.fetch_task(0).await.unwrap();
        gate.open();
        won
    };
    let ((task, version), (won, _)) = within(async { tokio::join!(lost, won) }).await;
    assert_eq!(won.unwrap().id, tasks[0]);
    let got = (task.is_some(), version);
    (gitea, loser, got)
}

#[tokio::test]
async fn the_loser_of_a_race_gets_no_task_though_one_waits() {
    let (gitea, loser, (task, version)) = race(true).await;
    assert!(!task);
    assert_eq!(gitea.tasks()[1].state, TaskState::Waiting);
    assert_eq!(loser.fetch_task(version).await.unwrap(), (None, version), "it is not looked for");
    gitea.queue_task(&["windows"]);
    let (task, _) = loser.fetch_task(version).await.unwrap();
    assert_eq!(task.unwrap().id, gitea.tasks()[1].id, "until the version goes up");
}

#[tokio::test]
async fn without_that_the_loser_gets_the_next_task() {
    let (gitea, _, (task, _)) = race(false).await;
    assert!(task);
    assert!(gitea.tasks().iter().all(|task| task.state == TaskState::Running));
}

#[tokio::test]
async fn a_poll_loses_only_to_a_task_that_it_could_have_had() {
    let options = Options { lost_wakeup: true, ..Options::default() };
    let gitea = StandInGitea::start(options).unwrap();
    let (other, runner) = (registered(&gitea, "gpu").await, registered(&gitea, "host").await);
    other.declare(&["gpu"]).await.unwrap();
    let (gpu, host) = (gitea.queue_task(&["gpu"]), gitea.queue_task(&["host"]));
    let gate = gitea.faults().gate(Route::FetchTask, When::BeforeActing);
    let held = async { runner.fetch_task(0).await.unwrap().0 };
    let passing = async {
        gate.reached().await;
        let task = other.fetch_task(0).await.unwrap().0;
        gate.open();
        task
    };
    let (held, passed) = within(async { tokio::join!(held, passing) }).await;
    assert_eq!((held.unwrap().id, passed.unwrap().id), (host, gpu));
}
