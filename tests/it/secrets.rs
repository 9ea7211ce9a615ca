//! No secret is told: not in the log at its finest, not in metrics, errors, arguments or the
//! environment. And what keeps secrets is the broker's own user's alone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use runner_broker::config::Scope;
use runner_broker::connect::Codec;
use runner_broker::sandbox::gitea::{
    Answer, Effect, Options, Route, StandInGitea, TaskSeed, USER, When,
};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use rustix::process::Signal as Unix;
use secrecy::ExposeSecret;

use crate::binary::Binary;
use crate::deregister::join_busy;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site};

const REGISTRATION_TOKEN: &str = "CanaryRegistration0vJ7xq2mT4bW9zK1nR8sY3pL5d";
const API_TOKEN: &str = "ca0a51ab1e0123456789abcdefca0a51ab1e0123";
const WRONG_TOKEN: &str = "CanaryWrongToken-6tGh2Lq9vB4nX8cZ1mK5";

fn gitea() -> StandInGitea {
    let gitea = StandInGitea::start(Options::default()).unwrap();
    gitea.add_registration_token(Scope::Instance, REGISTRATION_TOKEN);
    gitea.add_api_token(API_TOKEN, USER, &["write:admin"]);
    gitea
}

fn site(gitea: &StandInGitea) -> Site {
    Site::new(gitea)
        .registration_token(REGISTRATION_TOKEN)
        .api_token(Some(API_TOKEN))
        .set("shutdown.drain_timeout", "200ms")
        .set("shutdown.deadline", "3s")
}

/// A life in which everything happens, good and bad.
struct Life {
    url: String,
    /// What the broker answered where it should not show a secret.
    said: Vec<String>,
    /// The tokens of all runners.
    tokens: Vec<String>,
}

impl Life {
    async fn live(gitea: &StandInGitea, url: &str) -> Self {
        let mut life = Self { url: url.to_owned(), said: vec![], tokens: vec![] };
        life.registrations(gitea).await;
        life.faults(gitea).await;
        life.work(gitea).await;
        life.deregistrations(gitea).await;
        life.tokens.extend(
            gitea.runners().into_iter().map(|runner| runner.token.expose_secret().to_owned()),
        );
        life
    }

    async fn register(&mut self, token: &str, codec: Codec, gzip: bool) -> Option<Runner> {
        let name = format!("r{}", self.said.len() + self.tokens.len());
        let options = RegisterOptions { codec, gzip, ..RegisterOptions::new(token.into(), &name) };
        match StandInRunner::new(&self.url).register(&options).await {
            Ok(runner) => {
                self.tokens.push(runner.credentials.token.expose_secret().to_owned());
                Some(runner)
            }
            Err(error) => {
                self.said.push(format!("{error:?}"));
                None
            }
        }
    }

    async fn raw(&mut self, path: &str, content_type: &str, more: &[(&str, &str)], body: &str) {
        let program = StandInRunner::new(&self.url);
        let answer = program.call(path, content_type, more, body.to_owned()).await.unwrap();
        assert!(!answer.status.is_success(), "{path} {body}");
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        self.said.push(format!("{:?} {body}", answer.headers));
    }

    async fn registrations(&mut self, gitea: &StandInGitea) {
        for (codec, gzip) in [(Codec::Proto, false), (Codec::Proto, true), (Codec::Json, true)] {
            assert!(self.register(ENROLLMENT_TOKEN, codec, gzip).await.is_some());
            assert!(self.register(WRONG_TOKEN, codec, gzip).await.is_none());
            assert!(self.register(REGISTRATION_TOKEN, codec, gzip).await.is_none());
        }
        let register = "/api/actions/runner.v1.RunnerService/Register";
        let json = "application/json";
        for token in [ENROLLMENT_TOKEN, REGISTRATION_TOKEN, WRONG_TOKEN] {
            let whole = format!("{{\"token\":\"{token}\",\"name\":\"x\"}}");
            let labels = format!("{{\"token\":\"{token}\",\"labels\":\"{token}\"}}");
            for body in [&whole[..whole.len() - 1], &labels, token] {
                self.raw(register, json, &[], body).await;
                self.raw(register, "application/proto", &[], body).await;
                self.raw(register, json, &[("content-encoding", "gzip")], body).await;
            }
            self.raw(register, "application/grpc", &[], &whole).await;
            self.raw(&format!("{register}/?token={token}"), json, &[], &whole).await;
            let slash = format!("{register}/");
            self.raw(&slash, json, &[("authorization", token)], &whole).await;
        }
        let text = "runner registration token has been invalidated, please use the latest one";
        let reset =
            Answer::connect_error(hyper::StatusCode::INTERNAL_SERVER_ERROR, "unknown", text);
        gitea.faults().once(Route::Register, When::BeforeActing, Effect::Answer(reset));
        assert!(self.register(ENROLLMENT_TOKEN, Codec::Proto, false).await.is_none());
    }

    async fn faults(&mut self, gitea: &StandInGitea) {
        let runner = self.register(ENROLLMENT_TOKEN, Codec::Proto, false).await.unwrap();
        let unknown = (hyper::StatusCode::INTERNAL_SERVER_ERROR, "unknown", "database is locked");
        let redirect = format!("http://127.0.0.1:1/?token={REGISTRATION_TOKEN}");
        for effect in [
            Effect::Reset,
            Effect::Close,
            Effect::Answer(Answer::html(hyper::StatusCode::BAD_GATEWAY)),
            Effect::Answer(Answer::garbage("application/proto")),
            Effect::Answer(Answer::redirect(&redirect)),
            Effect::Answer(Answer::connect_error(unknown.0, unknown.1, unknown.2)),
        ] {
            for when in [When::BeforeActing, When::AfterActing] {
                gitea.faults().always(Route::Any, when, effect.clone());
                self.register(ENROLLMENT_TOKEN, Codec::Proto, false).await;
                self.said.push(format!("{:?}", runner.declare(&["host"]).await));
                self.said.push(format!("{:?}", runner.deregister().await));
                gitea.faults().clear();
            }
        }
        gitea.set_down().await.unwrap();
        assert!(self.register(ENROLLMENT_TOKEN, Codec::Json, false).await.is_none());
        self.said.push(format!("{:?}", runner.fetch_task(0).await));
        self.said.push(format!("{:?}", runner.deregister().await));
        gitea.set_up().await.unwrap();
    }

    async fn work(&mut self, gitea: &StandInGitea) {
        let runner = self.register(ENROLLMENT_TOKEN, Codec::Proto, false).await.unwrap();
        runner.declare(&["host", "more"]).await.unwrap();
        self.said.push(format!("{:?}", runner.declare(&["rb-intent-x"]).await));
        gitea.queue(TaskSeed::default());
        let (task, version) = runner.fetch_task(0).await.unwrap();
        runner.run_task(&task.unwrap()).await.unwrap();
        runner.fetch_task(version).await.unwrap();
        let mut stranger = runner.clone();
        stranger.credentials.token = WRONG_TOKEN.into();
        self.said.push(format!("{:?}", stranger.fetch_task(0).await));
        self.said.push(format!("{:?}", stranger.deregister().await));
    }

    async fn deregistrations(&mut self, gitea: &StandInGitea) {
        let (runner, _) = join_busy(gitea, &self.url, "leaver").await;
        let token = runner.credentials.token.expose_secret().to_owned();
        let deregister = "/api/actions/runner.v1.RunnerService/Deregister";
        let uuid = &runner.credentials.uuid;
        for body in [
            format!("{{\"uuid\":\"{uuid}\",\"token\":\"{token}\""),
            format!("{{\"uuid\":\"{token}\",\"token\":[\"{token}\"]}}"),
        ] {
            self.raw(deregister, "application/json", &[], &body).await;
            self.raw(deregister, "application/proto", &[], &body).await;
        }
        self.said.push(format!("{:?}", runner.deregister().await.unwrap()));
        self.said.push(format!("{:?}", runner.deregister().await.unwrap()));
        self.tokens.push(token);
    }

    /// None of the secrets is in this text, in no form in which it might get there.
    fn spared(&self, what: &str, text: &str) {
        let fixed = [REGISTRATION_TOKEN, API_TOKEN, WRONG_TOKEN, ENROLLMENT_TOKEN];
        let tokens = self.tokens.iter().map(String::as_str);
        for secret in fixed.into_iter().chain(tokens) {
            for form in forms(secret) {
                let found = text.lines().find(|line| line.contains(&form));
                assert_eq!(found, None, "{what} shows {secret} as {form}");
            }
        }
    }
}

fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{bytes:?}");
    let list = list.trim_matches(['[', ']']).to_owned();
    let mut forms = vec![secret.to_owned(), hex.to_uppercase(), hex, list];
    // Wherever it begins in what is encoded, all but its edges look the same.
    for offset in 0..3 {
        let shifted = [&[0; 3][..offset], bytes].concat();
        for encoded in [STANDARD.encode(&shifted), URL_SAFE.encode(&shifted)] {
            forms.push(encoded[4..encoded.len() - 4].to_owned());
        }
    }
    forms
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn neither_the_finest_log_nor_the_process_shows_a_secret() {
    let gitea = gitea();
    let site = site(&gitea);
    let mut broker = Binary::start_with(&site, &[("RUNNER_BROKER__LOG__LEVEL", "trace")]);
    let life = Life::live(&gitea, &broker.url).await;
    assert!(life.tokens.len() > 5 && life.said.len() > 40);
    life.spared("an answer", &life.said.join("\n"));

    let process = Path::new("/proc").join(broker.pid().to_string());
    for file in ["cmdline", "environ"] {
        let content = std::fs::read(process.join(file)).unwrap();
        assert!(!content.is_empty());
        life.spared(file, &String::from_utf8_lossy(&content));
    }
    let admin = StandInRunner::new(&format!("http://{}", broker.admin));
    for page in ["/metrics", "/readyz?verbose", "/api/v1/runners"] {
        let answer = admin.send(hyper::Method::GET, page, &[], "").await.unwrap();
        life.spared(page, &String::from_utf8_lossy(&answer.body));
    }
    for command in [&["status"][..], &["runner", "list", "--json"], &["check"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_runner-broker"))
            .args(command)
            .env_clear()
            .envs(site.environment())
            .output()
            .unwrap();
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
        for text in [output.stdout, output.stderr] {
            life.spared(&command.join(" "), &String::from_utf8(text).unwrap());
        }
    }
    for file in ["state.db", "state.db-wal"] {
        assert_eq!(mode(&site.path(file)), 0o600, "{file}");
    }
    for entry in std::fs::read_dir(site.path("runners")).unwrap() {
        let file = entry.unwrap().path().join(".runner");
        if file.exists() {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
    }
    assert_eq!(mode(&site.path("admin.sock")), 0o600);

    let log = tokio::task::spawn_blocking(move || {
        broker.kill(Unix::TERM);
        assert!(broker.ended().success(), "{}", broker.log_text());
        broker.log_text()
    });
    let log = log.await.unwrap();
    for level in ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"] {
        assert!(log.contains(&format!("\"level\":\"{level}\"")), "{level} is in the log");
    }
    life.spared("the log", &log);
}

#[tokio::test]
async fn metrics_show_no_secret() {
    let gitea = gitea();
    let site = site(&gitea);
    let broker = Broker::start(&site).await;
    let life = Life::live(&gitea, &broker.url).await;
    broker.lifecycle.measure().await;
    let metrics = broker.lifecycle.metrics.render().unwrap();
    assert!(metrics.contains("runner_broker_deregistrations_total"));
    life.spared("the metrics", &metrics);
    for runner in gitea.runners() {
        assert!(!metrics.contains(&runner.uuid), "and name no runner");
    }
    life.spared("the state's Debug", &format!("{:?}", broker.lifecycle.settings.load()));
    for live in broker.lifecycle.roster.all() {
        life.spared("a record's Debug", &format!("{:?}", live.record()));
    }
    broker.stop().await;
}
