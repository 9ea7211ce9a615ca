//! What the broker learns from the calls that it passes on: who is busy, and who is there.

use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use runner_broker::connect::messages::TaskResult;
use runner_broker::connect::{Codec, encode, messages};
use runner_broker::lifecycle::Live;
use runner_broker::sandbox::gitea::{RunnerSeed, StandInGitea, TaskSeed};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use secrecy::ExposeSecret;

use crate::raw::Wire;
use crate::scripted::ScriptedGitea;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, gitea};

async fn started() -> (StandInGitea, Site, Broker) {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    (gitea, site, broker)
}

async fn joined(broker: &Broker, codec: Codec, gzip: bool) -> (Runner, Arc<Live>) {
    let token = ENROLLMENT_TOKEN.to_owned().into();
    let options = RegisterOptions { codec, gzip, ..RegisterOptions::new(token, "one") };
    let runner = StandInRunner::new(&broker.url).register(&options).await.unwrap();
    let live = broker.lifecycle.roster.all().pop().unwrap();
    (runner, live)
}

#[tokio::test]
async fn a_task_makes_busy_and_its_result_idle() {
    for codec in [Codec::Proto, Codec::Json] {
        for gzip in [false, true] {
            for payload in [0, 3000, 100_000] {
                let (gitea, _site, broker) = started().await;
                let (runner, live) = joined(&broker, codec, gzip).await;
                runner.declare(&["host"]).await.unwrap();
                let what = format!("{codec:?} gzip {gzip} payload {payload}");
                assert_eq!(broker.lifecycle.state_of(&live), "idle", "{what}");
                let id = gitea.queue(TaskSeed {
                    labels: vec!["host".into()],
                    wire: (payload > 0).then(|| fields(payload)),
                    ..TaskSeed::default()
                });
                runner.fetch_task(0).await.unwrap().0.expect("the task");
                assert_eq!(live.tasks(), [id], "{what}");
                assert_eq!(broker.lifecycle.state_of(&live), "busy", "{what}");
                runner.update_task(id, TaskResult::Unspecified).await.unwrap();
                assert_eq!(broker.lifecycle.state_of(&live), "busy", "{what}");
                runner.update_task(id, TaskResult::Failure).await.unwrap();
                assert_eq!(broker.lifecycle.state_of(&live), "idle", "{what}");
            }
        }
    }
}

/// The fields of a task after its id, with a workflow of that length.
fn fields(length: usize) -> Vec<u8> {
    let task = messages::Task { id: 0, workflow_payload: Some(vec![b'x'; length]) };
    encode(Codec::Proto, &task)
}

/// A `FetchTaskResponse` with task 77, larger than what the broker looks at.
fn answer(codec: Codec) -> Vec<u8> {
    let task = messages::Task { id: 77, ..Default::default() };
    let message = messages::FetchTaskResponse { task: Some(task), tasks_version: 5 };
    let mut body = encode(codec, &message);
    let filling = "y".repeat(6000);
    match codec {
        // A field that no version knows.
        Codec::Proto => {
            body.extend([0xfa, 0x07, 0xf0, 0x2e]);
            body.extend(filling.as_bytes());
        }
        Codec::Json => {
            body.pop();
            body.extend(format!(r#","later":"{filling}"}}"#).as_bytes());
        }
    }
    body
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn the_broker_knows_of_a_task_before_the_runner_does() {
    for (codec, name) in [(Codec::Proto, "proto"), (Codec::Json, "json")] {
        for gzip in [false, true] {
            // The runner registers at one Gitea and polls another, which hands bytes out one by one.
            let (mut gitea, stand_in) = (ScriptedGitea::start().await, gitea());
            let site = Site::new(&stand_in);
            let first = Broker::start(&site).await;
            let (runner, _) = joined(&first, codec, gzip).await;
            runner.declare(&["host"]).await.unwrap();
            first.signal(runner_broker::shutdown::Signal::Quit).await;
            first.ended().await;
            let broker = Broker::start(&site.set("gitea.url", &gitea.url)).await;
            let live = broker.lifecycle.roster.all().remove(0);

            let mut client = Wire::dial(&broker.url).await;
            client
                .say(format!(
                    "POST /api/actions/runner.v1.RunnerService/FetchTask HTTP/1.1\r\nHost: b\r\n\
                     Content-Type: application/{name}\r\nX-Runner-Uuid: {}\r\nX-Runner-Token: {}\r\n\
                     Content-Length: 0\r\n\r\n",
                    runner.credentials.uuid,
                    runner.credentials.token.expose_secret()
                ))
                .await;
            let (mut upstream, _) = gitea.asked().await;
            let plain = answer(codec);
            let body = if gzip { gzipped(&plain) } else { plain };
            let encoding = if gzip { "Content-Encoding: gzip\r\n" } else { "" };
            upstream
                .say(format!("HTTP/1.1 200 OK\r\nContent-Type: application/{name}\r\n{encoding}Transfer-Encoding: chunked\r\n\r\n"))
                .await;
            let head = client.head().await.unwrap();
            assert_eq!(head.status(), 200);
            for byte in &body[..body.len() - 1] {
                upstream.say([b'1', b'\r', b'\n', *byte, b'\r', b'\n']).await;
            }
            // All but the last byte has come through: the runner cannot have read the message.
            let pieces = client.chunks_of(body.len() - 1).await;
            assert_eq!(pieces, body[..body.len() - 1]);
            assert_eq!(live.tasks(), [77], "{name} gzip {gzip}");
            assert_eq!(broker.lifecycle.state_of(&live), "busy");
            upstream.say([b'1', b'\r', b'\n', body[body.len() - 1], b'\r', b'\n']).await;
            upstream.say("0\r\n\r\n").await;
            assert_eq!(client.chunks_of(1).await, body[body.len() - 1..]);
        }
    }
}

#[tokio::test]
async fn an_unknown_runner_passes_untouched() {
    let (gitea, _site, broker) = started().await;
    let known = gitea.add_runner(RunnerSeed::default());
    let stranger = runner(&broker, &known.uuid, known.token.expose_secret());
    stranger.declare(&["host"]).await.unwrap();
    let id = gitea.queue_task(&["host"]);
    let (task, _) = stranger.fetch_task(0).await.unwrap();
    stranger.run_task(&task.expect("the task")).await.unwrap();
    assert!(gitea.task(id).unwrap().log.len() > 1);
    let sent = gitea.journal().entries();
    let polls = sent.iter().filter(|entry| entry.target.ends_with("/FetchTask"));
    assert!(polls.clone().count() == 1);
    for poll in polls {
        assert_eq!(poll.header("x-runner-uuid"), Some(&*known.uuid));
        assert_eq!(poll.header("connect-timeout-ms"), Some("4999"));
    }
}

#[tokio::test]
async fn a_wrong_token_is_not_that_runner() {
    let (gitea, _site, broker) = started().await;
    let (real, live) = joined(&broker, Codec::Proto, false).await;
    let impostor =
        runner(&broker, &real.credentials.uuid, "0123456789012345678901234567890123456789");
    gitea.queue_task(&["host"]);
    impostor.fetch_task(0).await.unwrap_err();
    impostor.declare(&["other"]).await.unwrap_err();
    assert!(!live.spoke() && !live.is_connected() && live.tasks().is_empty());
    assert_eq!(live.record().labels, ["host"]);
    real.declare(&["host"]).await.unwrap();
    assert!(live.spoke() && live.is_connected());
}

/// A runner that the broker has not registered.
fn runner(broker: &Broker, uuid: &str, token: &str) -> Runner {
    let file = serde_json::json!({
        "id": 1, "uuid": uuid, "name": "x", "token": token, "address": broker.url, "labels": ["host:host"],
    });
    Runner::from_runner_file(&file.to_string()).unwrap()
}
