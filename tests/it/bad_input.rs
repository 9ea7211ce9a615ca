//! What is refused: each with a Connect error that says what to do, a line in the log and a metric, and
//! nothing changed.

use std::time::Duration;

use runner_broker::config::Scope;
use runner_broker::connect::messages::RegisterRequest;
use runner_broker::connect::{Codec, encode, gzip};
use runner_broker::lifecycle::Timing;
use runner_broker::sandbox::gitea::{Answer, Effect, Route, StandInGitea, When};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::capture::Capture;
use crate::raw::{Answer as Got, REGISTER, Wire, request};
use crate::register::{join, registers};
use crate::support::{Broker, Site, eventually, gitea, quick};

/// The counters of the broker that say something of a refusal.
fn counters(broker: &Broker) -> String {
    let text = broker.lifecycle.metrics.render().unwrap();
    let ours =
        |line: &&str| line.contains("rejections_total") || line.contains("registrations_total");
    text.lines().filter(ours).map(|line| format!("{line}\n")).collect()
}

pub(crate) fn error_of(got: &Got) -> (String, String) {
    assert_eq!(got.head.all("content-type"), ["application/json"]);
    let body: Value = serde_json::from_slice(&got.body).unwrap();
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    (text("code"), text("message"))
}

async fn nothing_is_there(gitea: &StandInGitea, site: &Site, broker: &Broker, case: &str) {
    assert!(gitea.runners().is_empty(), "{case}");
    assert!(broker.lifecycle.roster.all().is_empty(), "{case}");
    assert!(broker.lifecycle.store.runners().await.unwrap().is_empty(), "{case}");
    assert!(broker.lifecycle.store.intents().await.unwrap().is_empty(), "{case}");
    assert_eq!(std::fs::read_dir(site.path("runners")).unwrap().count(), 0, "{case}");
}

/// A Register that is refused.
struct Case {
    name: &'static str,
    method: &'static str,
    content_type: &'static str,
    encoding: Option<&'static str>,
    body: Vec<u8>,
    /// Status and code.
    answer: &'static str,
    /// Part of the message.
    part: &'static str,
}

impl Case {
    fn new(name: &'static str, body: Vec<u8>, answer: &'static str, part: &'static str) -> Self {
        let (method, content_type) = ("POST", "application/proto");
        Self { name, method, content_type, encoding: None, body, answer, part }
    }

    fn of(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    fn by(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    fn encoded(self, encoding: &'static str) -> Self {
        Self { encoding: Some(encoding), ..self }
    }

    fn head(&self) -> String {
        let Self { method, content_type, encoding, .. } = self;
        let encoding = encoding.map(|name| format!("Content-Encoding: {name}\r\n"));
        format!(
            "{method} {REGISTER} HTTP/1.1\r\nHost: broker\r\nContent-Type: {content_type}\r\n{}",
            encoding.unwrap_or_default()
        )
    }
}

fn cases(registration_token: &str) -> Vec<Case> {
    let good = || encode(Codec::Proto, &request("one"));
    let changed = |change: &dyn Fn(&mut RegisterRequest)| {
        let mut request = request("one");
        change(&mut request);
        encode(Codec::Proto, &request)
    };
    let new = Case::new;
    let wrong = |name, change: &dyn Fn(&mut RegisterRequest), part| {
        new(name, changed(change), "400 invalid_argument", part)
    };
    let token = |name, token: &str| {
        let part = "set the runner's registration token";
        new(name, changed(&|r| r.token = token.into()), "401 unauthenticated", part)
    };
    let giteas = changed(&|r| r.token = registration_token.into());
    let garbage = |name, body: &[u8], part| new(name, body.into(), "400 invalid_argument", part);
    let (large, unsupported) = ("429 resource_exhausted", "415 unknown");
    let mut cases = vec![
        token("unknown token", "an-enrollment-token-that-nobody-gave-out"),
        token("empty token", ""),
        new("Gitea's token", giteas, "403 permission_denied", "reset Gitea's token"),
        new("empty", vec![], "401 unauthenticated", "set the runner's registration token"),
        wrong("no name", &|r| r.name.clear(), "GITEA_RUNNER_NAME"),
        wrong("control characters", &|r| r.name = "a\n\u{1b}[31m".into(), "plain name"),
        wrong("long name", &|r| r.name = "n".repeat(2000), "255 characters"),
        wrong("many labels", &|r| r.labels = vec!["l".into(); 300], "may have 256"),
        wrong("intent label", &|r| r.labels = vec!["rb-intent-1".into()], "choose another"),
        garbage("garbage proto", b"\xff\xff\xff", "not the protobuf message"),
        garbage("garbage JSON", b"{\"name\":", "malformed at line 1").of("application/json"),
        garbage("JSON array", b"[]", "not a JSON object").of("application/json"),
        garbage("no gzip", &good(), "not valid gzip").encoded("gzip"),
        new("brotli", good(), "501 unimplemented", "supported encodings are gzip").encoded("br"),
        new("oversized", vec![0; 3 << 20], large, "larger than 65536 bytes"),
        new("bomb", gzip(&vec![0; 32 << 20]), large, "when it is decompressed").encoded("gzip"),
        new("GET", vec![], "405 unimplemented", "use POST").by("GET"),
        new("PUT", good(), "405 unimplemented", "use POST").by("PUT"),
    ];
    cases.extend(
        [
            "",
            "text/plain",
            "application/grpc",
            "application/grpc+proto",
            "application/grpc+json",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/connect+proto",
        ]
        .map(|name| {
            new(name, good(), unsupported, "application/proto or application/json").of(name)
        }),
    );
    cases
}

#[tokio::test]
async fn bad_requests_are_told_what_is_wrong_and_change_nothing() {
    let log = Capture::start();
    let gitea = gitea();
    let site = Site::new(&gitea);
    let broker = Broker::start(&site).await;
    let secret = gitea.registration_token(&Scope::Instance);
    for chunked in [false, true] {
        for one in cases(secret.expose_secret()) {
            let case = format!("{}, chunked: {chunked}", one.name);
            let before = (log.complaints(), counters(&broker));
            let mut wire = Wire::dial(&broker.url).await;
            let mut bytes = one.head().into_bytes();
            if chunked {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in one.body.chunks(16 << 10) {
                    bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
                    bytes.extend([piece, b"\r\n"].concat());
                }
                bytes.extend(b"0\r\n\r\n");
            } else {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", one.body.len()).into_bytes());
                bytes.extend(&one.body);
            }
            let _ = wire.try_say(&bytes).await;
            let got = wire.answer().await.unwrap_or_else(|| panic!("{case}: no answer"));
            let (code, message) = error_of(&got);
            assert_eq!(format!("{} {code}", got.status), one.answer, "{case}: {message}");
            assert!(message.contains(one.part), "{case}: {message}");
            assert!(log.complaints() > before.0, "{case}: nothing in the log");
            assert_ne!(counters(&broker), before.1, "{case}: no metric");
            assert!(registers(&gitea).is_empty(), "{case}");
        }
    }
    nothing_is_there(&gitea, &site, &broker, "in the end").await;
    let seen = format!("{}{}", log.text(), broker.lifecycle.metrics.render().unwrap());
    assert!(
        !seen.contains(secret.expose_secret()) && !seen.contains(crate::support::ENROLLMENT_TOKEN)
    );
    assert!(!log.text().contains('\u{1b}'));
}

#[tokio::test]
async fn a_gitea_in_trouble_is_told_and_nothing_is_left() {
    let status = |code: u16| hyper::StatusCode::from_u16(code).unwrap();
    let page = |code| Effect::Answer(Answer::html(status(code)));
    let refusal = Answer::connect_error(status(403), "permission_denied", "no more runners");
    let unavailable = "503 unavailable";
    let cases = [
        ("slow", Effect::Stall, unavailable, "try again"),
        (
            "redirecting",
            Effect::Answer(Answer::redirect("https://x/y")),
            unavailable,
            "set gitea.url",
        ),
        ("garbage", Effect::Answer(Answer::garbage("application/proto")), unavailable, "gitea.url"),
        ("a page", page(200), unavailable, "is something else at gitea.url"),
        ("no such page", page(404), unavailable, "is something else at gitea.url"),
        ("bad gateway", page(502), unavailable, "proxy in front of Gitea"),
        ("refusing", Effect::Answer(refusal), "403 permission_denied", "no more runners"),
    ];
    for (case, effect, answer, part) in cases {
        let log = Capture::start();
        let gitea = gitea();
        let site = Site::new(&gitea);
        let timing = Timing { register: Duration::from_millis(300), ..quick() };
        let broker = Broker::start_with(&site, timing).await;
        let before = (log.complaints(), counters(&broker));
        gitea.faults().once(Route::Register, When::BeforeActing, effect);
        let error = join(&broker, "one").await.unwrap_err();
        let told = format!("{} {}", error.status.unwrap().as_u16(), error.code);
        assert_eq!(told, answer, "{case}: {error}");
        assert!(error.message.contains(part), "{case}: {error}");
        assert!(log.complaints() > before.0, "{case}: nothing in the log");
        assert_ne!(counters(&broker), before.1, "{case}: no metric");
        eventually(case, async || broker.lifecycle.unsettled() == 0).await;
        nothing_is_there(&gitea, &site, &broker, case).await;
        assert_eq!(registers(&gitea).len(), 1, "{case}");
    }
}

#[tokio::test]
async fn a_gitea_that_is_down_or_takes_no_such_token_is_told() {
    let wrong = "no-token-of-gitea-0123456789";
    let token = ("400 failed_precondition", "the broker's admin must set the latest one");
    for (case, (answer, part)) in [
        ("down", ("503 unavailable", "the runner was not registered: try again")),
        ("wrong", token),
        ("reset", token),
    ] {
        let log = Capture::start();
        let gitea = gitea();
        // With one, the broker gets another registration token by itself.
        let mut site = Site::new(&gitea).api_token(None);
        let secret = gitea.registration_token(&Scope::Instance);
        if case == "wrong" {
            site = site.registration_token(wrong);
        }
        let broker = Broker::start(&site).await;
        match case {
            "down" => gitea.set_down().await.unwrap(),
            "reset" => drop(gitea.reset_registration_token(&Scope::Instance)),
            _ => {}
        }
        let before = (log.complaints(), counters(&broker));
        let error = join(&broker, "one").await.unwrap_err();
        assert_eq!(format!("{} {}", error.status.unwrap().as_u16(), error.code), answer, "{case}");
        assert!(error.message.contains(part), "{case}: {error}");
        assert!(log.complaints() > before.0, "{case}");
        assert_ne!(counters(&broker), before.1, "{case}");
        for secret in [wrong, secret.expose_secret()] {
            assert!(!format!("{error}{}", log.text()).contains(secret), "{case}");
        }
        nothing_is_there(&gitea, &site, &broker, case).await;
    }
}

#[tokio::test]
async fn an_api_token_that_may_not_delete_is_named_and_the_runner_stays() {
    let log = Capture::start();
    let gitea = gitea();
    let token = gitea.api_token(&["read:admin"]);
    let site = Site::new(&gitea).api_token(Some(token.expose_secret()));
    let broker = Broker::start(&site).await;
    let runner = join(&broker, "one").await.unwrap();
    let before = (log.complaints(), counters(&broker));
    let error = runner.deregister().await.unwrap_err();
    assert_eq!((error.code.as_str(), error.status.unwrap().as_u16()), ("failed_precondition", 400));
    assert!(
        error.message.contains("write:admin") && error.message.contains("api_token_file"),
        "{error}"
    );
    assert!(log.complaints() > before.0);
    assert_ne!(counters(&broker), before.1);
    assert_eq!(gitea.runners().len(), 1);
    assert!(site.runner_file("one").exists());
    runner.declare(&["host"]).await.unwrap();
}

#[tokio::test]
async fn what_gitea_repeats_of_the_registration_token_is_not_passed_on() {
    let log = Capture::start();
    let gitea = gitea();
    let secret = gitea.registration_token(&Scope::Instance);
    let broker = Broker::start(&Site::new(&gitea)).await;
    for (status, code) in [(403, "permission_denied"), (500, "internal")] {
        let text = format!("no runner for token {}", secret.expose_secret());
        let status = hyper::StatusCode::from_u16(status).unwrap();
        let answer = Effect::Answer(Answer::connect_error(status, code, &text));
        gitea.faults().once(Route::Register, When::BeforeActing, answer);
        let error = join(&broker, "one").await.unwrap_err();
        assert!(error.message.contains("no runner for token (hidden)"), "{error}");
        assert!(!log.text().contains(secret.expose_secret()));
    }
}
