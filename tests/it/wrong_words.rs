//! What is not Gitea's own word never reaches a runner's call.

use hyper::{Method, StatusCode};
use runner_broker::broker::RecordState;
use runner_broker::connect::messages::{DeclareRequest, RegisterRequest};
use runner_broker::connect::{Codec, encode};
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, When};
use runner_broker::sandbox::runner::{RawAnswer, Runner, StandInRunner};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::capture::Capture;
use crate::deregister::join;
use crate::raw::request;
use crate::support::{Broker, Site, eventually, gitea};

/// The runner's calls: what Gitea has, and one that it may have one day.
const CALLS: [&str; 7] = [
    "ping.v1.PingService/Ping",
    "runner.v1.RunnerService/Register",
    "runner.v1.RunnerService/Declare",
    "runner.v1.RunnerService/FetchTask",
    "runner.v1.RunnerService/UpdateTask",
    "runner.v1.RunnerService/UpdateLog",
    UNKNOWN,
];
const UNKNOWN: &str = "runner.v1.RunnerService/Later";

struct Scene {
    gitea: StandInGitea,
    _site: Site,
    broker: Broker,
    runner: Runner,
}

impl Scene {
    async fn new() -> Self {
        let gitea = gitea();
        let site = Site::new(&gitea);
        let broker = Broker::start(&site).await;
        let runner = join(&broker.url, "one").await;
        runner.declare(&["host"]).await.unwrap();
        eventually("Gitea was asked", async || broker.lifecycle.gitea.is_up()).await;
        Self { gitea, _site: site, broker, runner }
    }

    /// What the runner gets where this answer comes in place of Gitea's.
    async fn told(&self, call: &str, codec: Codec, given: Answer) -> RawAnswer {
        let path = format!("/api/actions/{call}");
        let effect = Effect::Answer(given);
        let rule =
            self.gitea.faults().always(Route::Path(path.clone()), When::BeforeActing, effect);
        let answer = self.call(Method::POST, &path, codec.content_type(), body(call, codec)).await;
        self.gitea.faults().remove(rule);
        answer
    }

    async fn call(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> RawAnswer {
        let credentials = &self.runner.credentials;
        let headers = [
            ("content-type", kind),
            ("x-runner-uuid", &*credentials.uuid),
            ("x-runner-token", credentials.token.expose_secret()),
        ];
        StandInRunner::new(&self.broker.url).send(method, path, &headers, body).await.unwrap()
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.broker.lifecycle.metrics.render().unwrap();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().parse().unwrap()
    }
}

fn body(call: &str, codec: Codec) -> Vec<u8> {
    match call {
        "runner.v1.RunnerService/Register" => {
            encode(codec, &RegisterRequest { ..request("newcomer") })
        }
        "runner.v1.RunnerService/Declare" => {
            let labels = vec!["host".to_owned()];
            encode(codec, &DeclareRequest { version: "v0.3.0".into(), labels })
        }
        _ if codec == Codec::Json => b"{}".to_vec(),
        _ => Vec::new(),
    }
}

fn answer(status: u16, kind: &'static str, body: &str) -> Answer {
    let headers = match kind {
        "" => vec![],
        kind => vec![("Content-Type", kind.to_owned())],
    };
    let status = StatusCode::from_u16(status).unwrap();
    Answer { status, headers, body: body.to_owned().into() }
}

fn with(mut answer: Answer, name: &'static str, value: &str) -> Answer {
    answer.headers.push((name, value.to_owned()));
    answer
}

fn page(status: u16) -> Answer {
    Answer::html(StatusCode::from_u16(status).unwrap())
}

/// What may come in place of Gitea's answer, what the runner is told of it, and when it may ask again.
fn wrong_words() -> Vec<(Answer, &'static str, &'static str)> {
    let redirect = |status, to| with(answer(status, "text/html", "<a>moved</a>"), "Location", to);
    let elsewhere = "https://git.example/api/x?token=canary";
    let json = "application/json";
    let date = |seconds: u64| {
        let minute = format!("Sun, 06 Nov 1994 08:49:{seconds:02} GMT");
        with(with(page(503), "Date", "Sun, 06 Nov 1994 08:49:07 GMT"), "Retry-After", &minute)
    };
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(100_000));
    vec![
        (page(200), "a web page (200 OK)", "2"),
        (answer(200, "", ""), "not what Gitea answers", "2"),
        (answer(200, "text/plain", "ok"), "not what Gitea answers", "2"),
        (answer(200, "application/grpc", ""), "not what Gitea answers", "2"),
        (answer(204, "", ""), "not what Gitea answers", "2"),
        (redirect(301, elsewhere), r#"redirects to "https://git.example/api/x" (301"#, "2"),
        (
            redirect(302, "/user/login?redirect_to=canary"),
            r#"redirects to "/user/login" (302"#,
            "2",
        ),
        (redirect(307, elsewhere), "set gitea.url to", "2"),
        (redirect(308, elsewhere), "set gitea.url to", "2"),
        (page(400), "a web page (400", "2"),
        (page(401), "turns the broker away (401", "2"),
        (answer(401, "", ""), "turns the broker away (401", "2"),
        (answer(401, json, r#"{"message":"canary"}"#), "turns the broker away (401", "2"),
        (
            answer(401, json, r#"{"code":"UNAUTHORIZED","message":"canary"}"#),
            "turns the broker",
            "2",
        ),
        (page(403), "turns the broker away (403", "2"),
        (answer(403, json, r#"{"code":"unauthenticated"}"#), "turns the broker away (403", "2"),
        (page(404), "a web page (404", "2"),
        (answer(404, json, r#"{"message":"Not Found"}"#), "something else answers there", "2"),
        (answer(405, "", ""), "not what Gitea answers", "2"),
        (page(413), "a web page (413", "2"),
        (with(answer(429, "text/plain", "slow down"), "Retry-After", "17"), "asked too much", "17"),
        (answer(429, json, r#"{"message":"slow down"}"#), "asked too much (429", "2"),
        (page(500), "a web page (500", "2"),
        (answer(500, "text/plain", "canary"), "not what Gitea answers", "2"),
        (answer(500, json, "{"), "not what Gitea answers", "2"),
        (answer(500, json, &long), "not what Gitea answers", "2"),
        (answer(502, "text/plain", "canary"), "look whether Gitea is up", "2"),
        (page(502), "a web page (502 Bad Gateway)", "2"),
        (page(503), "a web page (503", "2"),
        (with(page(503), "Retry-After", "0"), "a web page (503", "1"),
        (date(37), "a web page (503", "30"),
        (page(504), "a web page (504", "2"),
    ]
}

/// The stand-in for Gitea: what it says itself of a call that it has not.
fn not_found() -> Answer {
    answer(404, "text/plain; charset=utf-8", "404 page not found\n")
}

fn assert_unavailable(answer: &RawAnswer, expected: &str, what: &str) {
    let body = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, 503, "{what}: {body}");
    assert_eq!(answer.headers["content-type"], "application/json", "{what}");
    for name in ["location", "www-authenticate", "set-cookie"] {
        assert!(!answer.headers.contains_key(name), "{what}: {name}");
    }
    let error: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(error["code"], "unavailable", "{what}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(expected), "{what}: {message}");
    assert!(!message.contains("canary"), "{what}: {message}");
}

#[tokio::test]
async fn whatever_comes_in_its_place_a_runner_is_told_that_gitea_is_unavailable() {
    let scene = Scene::new().await;
    for call in CALLS {
        for codec in [Codec::Proto, Codec::Json] {
            for (given, expected, wait) in wrong_words() {
                let what = format!("{call} {codec:?} {} {:?}", given.status, given.headers);
                let unclear = call.ends_with("/Register")
                    && (given.status.is_success() || given.status.is_server_error());
                let answer = scene.told(call, codec, given).await;
                assert_unavailable(&answer, expected, &what);
                // What came of such a Register is asked for first.
                let wait = if unclear { "2" } else { wait };
                assert_eq!(answer.headers["retry-after"], wait, "{what}");
            }
            if call != UNKNOWN {
                let answer = scene.told(call, codec, not_found()).await;
                assert_unavailable(&answer, "no such call at gitea.url (404", call);
            }
        }
    }
    let lifecycle = &scene.broker.lifecycle;
    let states: Vec<_> = lifecycle.roster.all().iter().map(|live| live.state()).collect();
    assert_eq!(states, [RecordState::Active], "none of them is a word on the runner");
    scene.runner.fetch_task(0).await.unwrap();
}

#[tokio::test]
async fn a_message_of_the_other_codec_is_none_of_giteas() {
    let scene = Scene::new().await;
    for call in CALLS {
        for (codec, other) in [(Codec::Proto, Codec::Json), (Codec::Json, Codec::Proto)] {
            let body = String::from_utf8(body(UNKNOWN, other)).unwrap();
            let answer = scene.told(call, codec, answer(200, other.content_type(), &body)).await;
            assert_unavailable(&answer, "not what Gitea answers", call);
        }
    }
}

#[tokio::test]
async fn giteas_own_errors_pass_as_they_are() {
    let scene = Scene::new().await;
    let json = "application/json";
    for call in CALLS.into_iter().filter(|call| !call.ends_with("/Register")) {
        for codec in [Codec::Proto, Codec::Json] {
            for (given, wait) in [
                (answer(500, json, r#"{"code":"unknown","message":"database is locked"}"#), None),
                (answer(403, json, r#"{"code":"permission_denied","details":[]}"#), None),
                (answer(404, json, r#"{"code":"unimplemented","message":"older"}"#), None),
                (answer(501, json, r#"{"code":"unimplemented","message":"newer"}"#), None),
                (answer(503, json, r#"{"code":"unavailable","message":"later"}"#), Some("2")),
                (
                    with(answer(429, json, r#"{"code":"resource_exhausted"}"#), "Retry-After", "9"),
                    Some("9"),
                ),
            ] {
                let (status, body) = (given.status, given.body.clone());
                let answer = scene.told(call, codec, given).await;
                assert_eq!((answer.status, answer.body), (status, body), "{call}");
                let told = answer.headers.get("retry-after").map(|wait| wait.to_str().unwrap());
                assert_eq!(told, wait, "{call} {status}");
            }
        }
    }
    // One that Gitea does not have, and the broker does not know, it may say so itself.
    let answer = scene.told(UNKNOWN, Codec::Proto, not_found()).await;
    assert_eq!((answer.status.as_u16(), &*answer.body), (404, &b"404 page not found\n"[..]));
}

#[tokio::test]
async fn what_is_no_runners_call_passes_whatever_it_is() {
    let scene = Scene::new().await;
    for path in [
        "/acme/app.git/info/refs?service=git-upload-pack",
        "/api/v1/repos/acme/app",
        "/twirp/github.actions.results.api.v1.ArtifactService/CreateArtifact",
        "/api/actions_pipeline/_apis/x",
    ] {
        for (given, ..) in wrong_words() {
            let (status, body) = (given.status, given.body.clone());
            let route = Route::Path(path.split('?').next().unwrap().to_owned());
            scene.gitea.faults().once(route, When::BeforeActing, Effect::Answer(given));
            let answer = scene.call(Method::POST, path, "application/json", b"{}".to_vec()).await;
            assert_eq!((answer.status, answer.body), (status, body), "{path}");
        }
    }
    // No runner asks so.
    let fetch = "/api/actions/runner.v1.RunnerService/FetchTask";
    for (method, kind) in [(Method::GET, "application/proto"), (Method::POST, "application/grpc")] {
        let rule = Effect::Answer(page(405));
        scene.gitea.faults().once(Route::FetchTask, When::BeforeActing, rule.clone());
        let all = Route::Path(fetch.into());
        scene.gitea.faults().once(all, When::BeforeActing, rule);
        assert_eq!(scene.call(method, fetch, kind, Vec::new()).await.status, 405);
        scene.gitea.faults().clear();
    }
}

#[tokio::test]
async fn it_is_told_once_counted_and_seen_in_the_gauge() {
    let log = Capture::start();
    let scene = Scene::new().await;
    const FETCH: &str = "runner.v1.RunnerService/FetchTask";
    const COUNT: &str = "runner_broker_upstream_errors_total{kind=\"protocol\"}";
    let up = || scene.broker.lifecycle.gitea.is_up();
    let before = scene.metric(COUNT);
    scene.told(FETCH, Codec::Proto, answer(429, "text/plain", "slow down")).await;
    assert!(up(), "whoever limits requests knows that Gitea is there");
    for _ in 0..5 {
        scene.told(FETCH, Codec::Proto, page(502)).await;
        assert!(!up(), "a proxy's word is not Gitea's");
    }
    assert_eq!(scene.metric(COUNT), before + 6);
    let telling = "a runner's call was not answered by Gitea itself";
    let warned =
        log.text().lines().filter(|line| line.contains(telling) && line.contains("WARN")).count();
    assert_eq!(warned, 1, "{}", log.text());
    scene.runner.fetch_task(0).await.unwrap();
    assert!(up());
    assert_eq!(scene.metric(COUNT), before + 6);
}
