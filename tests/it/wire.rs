//! The stand-in Gitea answers every recorded exchange as it was recorded.

use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use runner_broker::config::Scope;
use runner_broker::sandbox::gitea::{Options, RunnerSeed, TaskSeed};
use runner_broker::sandbox::runner::Runner;
use runner_broker::sandbox::{StandInGitea, StandInRunner};
use serde_json::Value;

const INSTANCE_TOKEN: &str = "N55qml3MMwMLdrN2p1XkDoENeZiaGccbDi9qNiep";
const LATER_INSTANCE_TOKEN: &str = "YTb2VSX9D5AapBhQIoCibeGVbjVAIM2H6phtoIol";
const ADMIN_API_TOKEN: &str = "83de1181080a583f8b2c038e99d86b47f6eee5bf";

const RUNNER_A: Known =
    (5, "f8865f20-67fe-4e45-b33b-5d7f8df9b7bc", "7d4bcf1ac27a019e2aabeaa65cf5f5b5eb248bf2");
const RUNNER_JSON: Known =
    (6, "029c483a-b3e6-4ea7-83d4-816df74fcf44", "47d10d68e8dcb6c7dcaa21ee08b1f79ba2a3e35c");
const RUNNER_ONCE: Known =
    (7, "ed8ae1f5-df7f-4070-9422-bd409a7f5ec8", "d6fbcefda776e82735f096cd2ac235c217dfebae");
const RUNNER_N: Known =
    (8, "4812247c-3398-49ba-8870-956176cea9bc", "a003824ab51468087b90e964278a2ad25a9e7848");

/// The development tree that was recorded; it had not yet all that makes it 1.26.
const RECORDED: &str = "1.26.0+dev-45-g193a24c30e";

/// Id, uuid and token of a recorded runner.
type Known = (i64, &'static str, &'static str);

#[tokio::test]
async fn every_recorded_exchange_is_answered_as_recorded() {
    let recordings = recordings();
    assert!(recordings.len() >= 41, "only {} exchanges were found", recordings.len());
    for (name, recorded) in recordings {
        replay(RECORDED, &name, &recorded).await;
    }
}

/// The recorded exchanges, with their names.
pub(crate) fn recordings() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/wire");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
        })
        .collect()
}

/// Asks a stand-in of this version what was asked then.
pub(crate) async fn replay(version: &str, name: &str, recorded: &Value) {
    let gitea = StandInGitea::start(Options {
        root_url: Some("http://127.0.0.1:3000/".into()),
        version: version.into(),
        ..Options::default()
    })
    .unwrap();
    prepare(&gitea, name, recorded).await;

    let request = &recorded["request"];
    let headers: Vec<(&str, &str)> = request["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().unwrap()))
        .collect();
    let answer = StandInRunner::new(&gitea.url())
        .send(
            request["method"].as_str().unwrap().parse().unwrap(),
            request["path"].as_str().unwrap(),
            &headers,
            body(&request["body"]),
        )
        .await
        .unwrap();

    let response = &recorded["response"];
    assert_eq!(
        u64::from(answer.status.as_u16()),
        response["status"].as_u64().unwrap(),
        "{version}: {name}"
    );
    let mut expected: Vec<(String, String)> = response["headers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[0].as_str().unwrap().to_lowercase(), pair[1].as_str().unwrap().into()))
        .collect();
    let mut got: Vec<(String, String)> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.to_str().unwrap().into()))
        .collect();
    let compressed = expected.iter().any(|(name, _)| name == "content-encoding");
    for pairs in [&mut expected, &mut got] {
        for (name, value) in pairs.iter_mut() {
            // Two compressors need not agree on the length.
            if name == "date" || compressed && name == "content-length" {
                value.clear();
            }
        }
        pairs.sort();
    }
    assert_eq!(got, expected, "{version}: {name}: headers");
    let expected = recorded_answer(recorded);
    assert_eq!(
        answer.body,
        expected,
        "{version}: {name}: {} instead of {}",
        answer.body.escape_ascii(),
        expected.escape_ascii()
    );
}

/// Brings a stand-in into the state in which the exchange was recorded.
async fn prepare(gitea: &StandInGitea, name: &str, recorded: &Value) {
    let instance = Scope::Instance;
    gitea.add_registration_token(instance.clone(), INSTANCE_TOKEN);
    for (token, scope) in [
        (ADMIN_API_TOKEN, "write:admin"),
        ("b26046ccaebd9565fa3ede272e8348b9a28e8c97", "write:organization"),
        ("82d8a15610862e769cfedc0e717f13bd9bd49e3c", "write:repository"),
        ("2dfb3289308bf3bb89360e9af7f82074a000a2c6", "write:user"),
    ] {
        gitea.add_api_token(token, "root1", &[scope]);
    }
    gitea.set_tasks_version(instance.clone(), 1);
    match name {
        "ping"
        | "deregister-unknown-to-gitea"
        | "fetch-task-unregistered"
        | "register-body-garbage"
        | "register-content-type-unknown"
        | "register-encoding-unknown"
        | "register-get"
        | "register-gzip-garbage"
        | "register-name-missing"
        | "register-token-not-found"
        | "rest-admin-registration-token-get-legacy"
        | "rest-admin-registration-token-get-on-new-path"
        | "rest-admin-registration-token-post"
        | "rest-runner-delete-again"
        | "rest-token-bad"
        | "rest-token-lacks-scope" => {}
        "register" => plan(gitea, RUNNER_A),
        "register-json" => plan(gitea, RUNNER_JSON),
        "register-ephemeral" => plan(gitea, RUNNER_ONCE),
        "register-with-intent-label" => {
            gitea.invalidate_registration_token(&instance);
            gitea.add_registration_token(instance, LATER_INSTANCE_TOKEN);
            plan(gitea, RUNNER_N);
        }
        "register-token-invalidated" => gitea.invalidate_registration_token(&instance),
        "rest-admin-registration-token-post-after-reset" => {
            gitea.invalidate_registration_token(&instance);
            gitea.plan_registration_token(LATER_INSTANCE_TOKEN);
        }
        "rest-org-registration-token-post" => {
            let token = "h17agQWGUZPKMPVJGAEQKwLZiiz2v2yyIFpw3KV6";
            gitea.add_registration_token(Scope::Org("acme".into()), token);
        }
        "rest-repo-registration-token-post" => {
            let token = "GZtWpm5wIwX326ab4faEvi5ui8MdXqARCrYRz0AR";
            let scope = Scope::Repo { owner: "acme".into(), name: "app".into() };
            gitea.add_registration_token(scope, token);
        }
        "rest-user-registration-token-post" => {
            gitea.add_registration_token(Scope::User, "iDuyBDg8nvpYWKt5pZnMWw5pl4nV2oJB1u8qN9lh");
        }
        "declare"
        | "fetch-task-empty"
        | "fetch-task-same-version"
        | "rest-runner-delete"
        | "rest-runner-patch-disable-unsupported" => runner_a(gitea, None),
        "declare-replaces-labels" | "rest-runner-get-with-intent-label" => {
            runner_n(gitea, &["host", "rb-intent-0123456789abcdef"], None);
        }
        "declare-claims-any-label" | "rest-runner-get-after-declare" => {
            runner_n(gitea, &["host"], Some(Duration::ZERO));
        }
        "fetch-task" => {
            runner_a(gitea, None);
            queue_recorded_task(gitea, recorded);
        }
        "update-task-running" | "update-log" | "update-task-success" => {
            fetched_task(gitea).await;
        }
        "update-log-last" => {
            let runner = fetched_task(gitea).await;
            runner.update_log(2, 0, &["hello from the job"], false).await.unwrap();
        }
        "rest-runner-get-busy" => runner_a(gitea, Some(Duration::ZERO)),
        "rest-runners-list" | "rest-runners-list-page" => {
            let x = || vec!["x".to_owned()];
            let hour = Some(Duration::from_secs(3600));
            gitea.add_runner(RunnerSeed { ephemeral: true, labels: x(), ..seed(3, "j1") });
            gitea.add_runner(RunnerSeed { called_ago: hour, labels: x(), ..seed(4, "bench") });
            runner_a(gitea, Some(Duration::ZERO));
            gitea.add_runner(seed(6, "runner-json"));
            gitea.add_runner(RunnerSeed { ephemeral: true, ..seed(7, "runner-once") });
        }
        _ => panic!(
            "tests/data/wire/{name}.json is not covered: say here in which state it was recorded"
        ),
    }
}

fn plan(gitea: &StandInGitea, (id, uuid, token): Known) {
    gitea.plan_runner(id, uuid, token);
}

fn seed(id: i64, name: &str) -> RunnerSeed {
    RunnerSeed { id: Some(id), name: name.into(), ..RunnerSeed::default() }
}

fn known(name: &str, (id, uuid, token): Known) -> RunnerSeed {
    RunnerSeed { uuid: Some(uuid.into()), token: Some(token.into()), ..seed(id, name) }
}

fn runner_a(gitea: &StandInGitea, reported_ago: Option<Duration>) {
    gitea.add_runner(RunnerSeed {
        labels: vec!["host".into(), "ubuntu-latest".into()],
        called_ago: reported_ago,
        reported_ago,
        ..known("runner-a", RUNNER_A)
    });
}

fn runner_n(gitea: &StandInGitea, labels: &[&str], called_ago: Option<Duration>) {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    gitea.add_runner(RunnerSeed { labels, called_ago, ..known("runner-n", RUNNER_N) });
}

/// The recorded answer is `FetchTaskResponse{1 task{1 id = 2, …}, 2 tasks_version = 2}`: the stand-in is
/// given what follows the id.
fn queue_recorded_task(gitea: &StandInGitea, recorded: &Value) {
    let answer = recorded_answer(recorded);
    let rest =
        answer.strip_prefix(b"\n\xe7\x23\x08\x02").unwrap().strip_suffix(b"\x10\x02").unwrap();
    gitea.queue(TaskSeed { id: Some(2), wire: Some(rest.to_vec()), ..TaskSeed::default() });
}

/// Runner A with task 2 in hand.
async fn fetched_task(gitea: &StandInGitea) -> Runner {
    runner_a(gitea, None);
    gitea.queue(TaskSeed { id: Some(2), ..TaskSeed::default() });
    let (id, uuid, token) = RUNNER_A;
    let file = serde_json::json!({
        "id": id, "uuid": uuid, "token": token, "name": "runner-a",
        "address": gitea.url(), "labels": ["host:host"],
    });
    let runner = Runner::from_runner_file(&file.to_string()).unwrap();
    let (task, _) = runner.fetch_task(0).await.unwrap();
    assert_eq!(task.unwrap().id, 2);
    runner
}

/// The body of the recorded answer, decompressed.
fn recorded_answer(recorded: &Value) -> Vec<u8> {
    let response = &recorded["response"];
    let gzip = serde_json::json!(["Content-Encoding", "gzip"]);
    let body = body(&response["body"]);
    if !response["headers"].as_array().unwrap().contains(&gzip) {
        return body;
    }
    let mut plain = Vec::new();
    let mut decoder = flate2::read::GzDecoder::new(body.as_slice());
    std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
    plain
}

fn body(body: &Value) -> Vec<u8> {
    match body["text"].as_str() {
        Some(text) => text.into(),
        None => BASE64_STANDARD.decode(body["base64"].as_str().unwrap()).unwrap(),
    }
}
