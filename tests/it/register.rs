//! Register as it should go: what Gitea gets, what the runner gets, and what is kept.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;

use futures_util::future::join_all;
use prost::Message;
use runner_broker::connect::messages::{RegisterRequest, RegisterResponse};
use runner_broker::connect::{Codec, decode, encode, gzip};
use runner_broker::sandbox::gitea::{Answer, Effect, Entry, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RegisterOptions, RpcError, Runner, StandInRunner};
use runner_broker::shutdown::Signal;
use secrecy::ExposeSecret;

use crate::capture::Capture;
use crate::raw::{REGISTER, Wire, request};
use crate::support::{Broker, ENROLLMENT_TOKEN, Site, eventually, gitea, runner_file, within};

/// Joins on connections of its own.
pub(crate) async fn join(broker: &Broker, name: &str) -> Result<Runner, RpcError> {
    join_as(broker, name, &["host"]).await
}

async fn join_as(broker: &Broker, name: &str, labels: &[&str]) -> Result<Runner, RpcError> {
    let labels = labels.iter().map(|&label| label.into()).collect();
    let options = RegisterOptions { labels, ..RegisterOptions::new(ENROLLMENT_TOKEN.into(), name) };
    StandInRunner::new(&broker.url).register(&options).await
}

/// The Registers that reached Gitea.
pub(crate) fn registers(gitea: &StandInGitea) -> Vec<Entry> {
    let mut entries = gitea.journal().entries();
    entries.retain(|entry| entry.target.contains("Register"));
    entries
}

/// The label of an intent in a Register that reached Gitea.
pub(crate) fn intent_label(entry: &Entry) -> String {
    let codec = Codec::from_content_type(entry.headers.get("content-type")).unwrap();
    let request: RegisterRequest = decode(codec, &entry.body).unwrap();
    let mut labels: Vec<_> =
        request.labels.into_iter().filter(|label| label.starts_with("rb-intent-")).collect();
    assert_eq!(labels.len(), 1, "one intent label: {labels:?}");
    labels.remove(0)
}

/// A field of bytes, its length written with a byte more than is needed.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).unwrap();
    [&[number << 3 | 2, length | 0x80, 0], bytes].concat()
}

/// What a later version may add: each wire type that proto3 has, and a number that needs two bytes.
const LATER: &[u8] = &[
    0x78, 0x96, 0x01, // 15: varint
    0x79, 1, 2, 3, 4, 5, 6, 7, 8, // 15: fixed64
    0x7a, 0x02, 0xff, 0xfe, // 15: bytes that are no text
    0x7d, 9, 9, 9, 9, // 15: fixed32
    0x80, 0x7d, 0x80, 0x80, 0x00, // 2000: varint, longer than needed
];

/// A field as protobuf writes it by itself.
fn plain(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut out);
    [&out, bytes].concat()
}

/// The fields that the broker writes are in protobuf's usual form, all others in an unusual one.
fn proto_request(token: &str, more_labels: &[&str]) -> Vec<u8> {
    let mut body = [LATER, &field(6, b"host")].concat();
    body.extend(plain(2, token.as_bytes()));
    body.extend([LATER, &field(1, b"one"), &field(6, b"ubuntu-latest")].concat());
    for label in more_labels {
        body.extend(plain(6, label.as_bytes()));
    }
    body.extend([&field(8, b"a-capability"), LATER].concat());
    body
}

fn json_request(token: &str, more_labels: &[&str]) -> Vec<u8> {
    let more: String = more_labels.iter().map(|label| format!(",\"{label}\"")).collect();
    format!(
        "{{ \"later\" : {{\"token\": [1e400, -0, \"\\u00e9\"]}},\t\"name\":\"one\",\n\"token\":\"{token}\",\
         \"labels\": [ \"host\" , \"ubuntu-latest\"{more} ],  \"capabilities\":[], \"x\":12345678901234567890123 }}\n"
    )
    .into_bytes()
}

const UUID: &str = "11111111-2222-4333-8444-555555555555";

fn proto_answer(labels: &[&str]) -> Vec<u8> {
    let mut runner =
        [LATER, &[0x08, 77], &field(2, UUID.as_bytes()), &field(3, b"secret-of-77")].concat();
    runner.extend(field(4, b"one"));
    labels.iter().for_each(|label| runner.extend(field(9, label.as_bytes())));
    runner.extend(LATER);
    let mut body = LATER.to_vec();
    body.extend(plain(1, &runner));
    body
}

fn json_answer(labels: &[&str]) -> Vec<u8> {
    let labels: Vec<_> = labels.iter().map(|label| format!("\"{label}\"")).collect();
    format!(
        "{{\"later\":[{{}}], \"runner\" : {{\"id\":\"77\",\"uuid\":\"{UUID}\", \"token\":\"secret-of-77\",\
         \"name\":\"one\",\"labels\":[{}],\"status\":\"RUNNER_STATUS_X\" }} }}",
        labels.join(",")
    )
    .into_bytes()
}

#[tokio::test]
async fn only_token_and_label_differ_in_both_codecs_compressed_or_not() {
    for codec in [Codec::Proto, Codec::Json] {
        for compressed in [false, true] {
            exchange(codec, compressed).await;
        }
    }
}

async fn exchange(codec: Codec, compressed: bool) {
    type Ask = fn(&str, &[&str]) -> Vec<u8>;
    type Answers = fn(&[&str]) -> Vec<u8>;
    let (ask, answer): (Ask, Answers) = match codec {
        Codec::Proto => (proto_request, proto_answer),
        Codec::Json => (json_request, json_answer),
    };
    let gitea = gitea();
    let site = Site::new(&gitea).set("labels.ubuntu-latest", "docker://node:20");
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate(Route::Register, When::BeforeActing);

    let mut wire = Wire::dial(&broker.url).await;
    let body = ask(ENROLLMENT_TOKEN, &[]);
    let mut headers = vec![("Content-Type", codec.content_type()), ("X-Later", "kept")];
    if compressed {
        headers.extend([("Content-Encoding", "gzip"), ("Accept-Encoding", "gzip")]);
        wire.post(REGISTER, &headers, &gzip(&body)).await;
    } else {
        wire.post(REGISTER, &headers, &body).await;
    }
    tokio::select! {
        () = gate.reached() => {}
        answer = wire.answer() => panic!("{codec:?}: {:?}", answer.map(|got| String::from_utf8(got.body))),
    }
    let secret = gitea.registration_token(&runner_broker::config::Scope::Instance);
    let asked = registers(&gitea).remove(0);
    let label = intent_label(&asked);
    assert_eq!(asked.body, ask(secret.expose_secret(), &[&label]), "{codec:?}");
    assert_eq!(asked.header("x-later"), Some("kept"));
    assert_eq!(broker.lifecycle.store.intents().await.unwrap().len(), 1, "written first");

    let labels = ["host", "ubuntu-latest", &label];
    let spoken = Answer {
        status: hyper::StatusCode::OK,
        headers: vec![
            ("Content-Type", codec.content_type().into()),
            ("X-Gitea-Extra", "from gitea".into()),
            ("Keep-Alive", "timeout=5".into()),
        ],
        body: answer(&labels).into(),
    };
    gitea.faults().once(Route::Register, When::AfterActing, Effect::Answer(spoken));
    gate.open();
    let got = wire.answer().await.unwrap();
    assert_eq!(got.status, 200);
    assert_eq!(got.body, answer(&labels[..2]), "{codec:?}");
    let head = format!("{:?}", got.head);
    assert_eq!(got.head.all("x-gitea-extra"), ["from gitea"]);
    assert_eq!(got.head.all("content-type"), [codec.content_type()]);
    assert!(!head.to_lowercase().contains("keep-alive"), "{head}");
    let all = [head.as_bytes(), &got.body].concat();
    assert!(!String::from_utf8_lossy(&all).contains(secret.expose_secret()));

    let stored = broker.lifecycle.store.runners().await.unwrap().remove(0);
    assert_eq!((stored.upstream.id, stored.upstream.uuid.as_str()), (77, UUID));
    assert_eq!(stored.presented.token.expose_secret(), "secret-of-77");
    assert_eq!((stored.name.as_str(), stored.parent_id.as_str()), ("one", "settings"));
    assert_eq!(stored.labels, ["host", "ubuntu-latest"]);
    assert!(broker.lifecycle.store.intents().await.unwrap().is_empty());
    let file = runner_file(&site.runner_file("one"));
    assert_eq!(file["token"], "secret-of-77");
    assert_eq!(file["labels"], serde_json::json!(["host:host", "ubuntu-latest:docker://node:20"]));
    let mode = site.runner_file("one").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_label_of_unknown_form_gets_no_file_and_the_log_names_the_setting() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    join_as(&broker, "one", &["host", "gpu"]).await.unwrap();
    assert!(!site.runner_file("one").exists());
    let lines = log.lines();
    let told = lines.iter().find(|line| line["message"] == "no runner file is written").unwrap();
    assert!(told["reason"].as_str().unwrap().contains("labels.gpu"), "{told}");
    assert_eq!(gitea.runners().len(), 1, "the registration went on");
}

#[tokio::test]
async fn names_that_are_no_file_names_make_no_path() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let entries = || {
        let all = std::fs::read_dir(site.folder.path()).unwrap();
        all.map(|entry| entry.unwrap().file_name()).collect::<HashSet<_>>()
    };
    let before = entries();
    for name in ["../x", ".hidden", "a/b", "..", "/etc/x", "a b", "über", "x\\y", "-"] {
        join(&broker, name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(gitea.runners().len(), 9);
    let files: Vec<_> = std::fs::read_dir(site.path("runners")).unwrap().collect();
    // `-` is a plain name.
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(entries(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn live_runners_of_one_name_have_identities_of_their_own_and_one_file() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let mut runners =
        vec![join(&broker, "same").await.unwrap(), join(&broker, "same").await.unwrap()];
    let owner = runners[0].credentials.id;
    for at_once in [2, 20] {
        let joined = join_all((0..at_once).map(|_| join(&broker, "same"))).await;
        runners.extend(joined.into_iter().map(Result::unwrap));
    }
    let ids: HashSet<_> = runners.iter().map(|runner| runner.credentials.id).collect();
    let uuids: HashSet<_> = runners.iter().map(|runner| &runner.credentials.uuid).collect();
    assert_eq!((ids.len(), uuids.len(), gitea.runners().len()), (24, 24, 24));
    let owners: Vec<_> = broker.lifecycle.store.runners().await.unwrap();
    let owners: Vec<_> = owners.iter().filter(|record| record.file.is_some()).collect();
    assert_eq!(owners.len(), 1);
    assert_eq!(owners[0].upstream.id, owner);
    assert_eq!(runner_file(&site.runner_file("same"))["id"], owner);
    // Another one's end does not take the owner's file away.
    runners[5].deregister().await.unwrap();
    assert!(site.runner_file("same").exists());
    runners[0].deregister().await.unwrap();
    assert!(!site.runner_file("same").exists());
}

#[tokio::test]
async fn without_the_folder_there_is_no_file() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    std::fs::remove_dir(site.path("runners")).unwrap();
    let broker = Broker::start(&site).await;
    join(&broker, "one").await.unwrap();
    assert!(!site.path("runners").exists());
}

#[tokio::test]
async fn declared_labels_are_kept_and_an_intents_label_is_refused() {
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let runner = join(&broker, "one").await.unwrap();
    runner.declare(&["host", "later"]).await.unwrap();
    assert_eq!(broker.lifecycle.roster.all()[0].record().labels, ["host", "later"]);

    let error = runner.declare(&["host", "rb-intent-00"]).await.unwrap_err();
    assert_eq!((error.status.unwrap().as_u16(), error.code.as_str()), (400, "invalid_argument"));
    assert_eq!(gitea.journal().count(|entry| entry.target.contains("Declare")), 1);
    let error = join_as(&broker, "two", &["rb-intent-00"]).await.unwrap_err();
    assert_eq!((error.status.unwrap().as_u16(), error.code.as_str()), (400, "invalid_argument"));
    assert_eq!(registers(&gitea).len(), 1);

    broker.signal(Signal::Quit).await;
    broker.ended().await;
    let broker = Broker::start(&site).await;
    assert_eq!(broker.lifecycle.store.runners().await.unwrap()[0].labels, ["host", "later"]);
    assert_eq!(broker.lifecycle.roster.all()[0].record().labels, ["host", "later"]);
}

#[tokio::test]
async fn a_new_registration_token_holds_from_sighup_on() {
    let gitea = gitea();
    // With one, the broker gets the new registration token by itself.
    let site = Site::new(&gitea).api_token(None);
    let broker = Broker::start(&site).await;
    let new = gitea.reset_registration_token(&runner_broker::config::Scope::Instance);
    let error = join(&broker, "one").await.unwrap_err();
    assert_eq!(error.code, "failed_precondition");
    site.write_secret("registration_token", new.expose_secret());
    broker.signal(Signal::Reload).await;
    let lifecycle = &broker.lifecycle;
    let read = || lifecycle.gitea.is_registration_token(new.expose_secret());
    eventually("the settings are read again", async || read()).await;
    join(&broker, "one").await.unwrap();
    // The new one is now what must not be presented.
    let asked = RegisterRequest { token: new.expose_secret().into(), ..request("two") };
    let mut wire = Wire::dial(&broker.url).await;
    wire.register(&asked).await;
    assert_eq!(wire.answer().await.unwrap().status, 403);
}

#[tokio::test]
async fn registers_that_wait_for_their_turn_are_refused_once_the_broker_ends() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let gate = gitea.faults().gate_for_all(Route::Register, When::BeforeActing);
    let asking: Vec<_> = (0..20)
        .map(|number| {
            let program = StandInRunner::new(&broker.url);
            let options = RegisterOptions::new(ENROLLMENT_TOKEN.into(), &format!("r{number}"));
            tokio::spawn(async move { program.register(&options).await })
        })
        .collect();
    within(gate.reached_by(16)).await;
    let asked = || log.lines().iter().filter(|line| line["route"] == "register").count();
    eventually("all have asked", async || asked() == 20).await;
    broker.signal(Signal::Terminate).await;
    eventually("it drains", async || broker.lifecycle.is_draining()).await;
    gate.open();
    let mut refused = 0;
    for asked in asking {
        if let Err(error) = asked.await.unwrap() {
            assert_eq!(error.code, "unavailable");
            refused += 1;
        }
    }
    assert_eq!((refused, registers(&gitea).len()), (4, 16));
    broker.ended().await;
}

#[test]
fn the_later_fields_are_what_they_say() {
    let answer = RegisterResponse::decode(&proto_answer(&["host"])[..]).unwrap();
    assert_eq!(answer.runner.unwrap().labels, ["host"]);
    let read: RegisterRequest = decode(Codec::Proto, &proto_request("t", &["x"])).unwrap();
    assert_eq!(read.labels, ["host", "ubuntu-latest", "x"]);
    assert_ne!(encode(Codec::Proto, &read), proto_request("t", &["x"]));
}
