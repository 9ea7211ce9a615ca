//! No secret is told: not in the log at its finest, not in metrics, errors, arguments or the
//! environment. And what keeps secrets is the broker's own user's alone.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hyper::{Method, StatusCode};
use runner_broker::broker::secret::{Presented, SECRET_LENGTH, digest};
use runner_broker::config::Scope;
use runner_broker::connect::Codec;
use runner_broker::sandbox::gitea::{
    Answer, Effect, Options, Route, StandInGitea, TaskSeed, USER, When,
};
use runner_broker::sandbox::runner::{RegisterOptions, Runner, StandInRunner};
use rustix::process::Signal as Unix;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::binary::Binary;
use crate::deregister::join_busy;
use crate::support::{Broker, ENROLLMENT_TOKEN, Site};

const REGISTRATION_TOKEN: &str = "CanaryRegistration0vJ7xq2mT4bW9zK1nR8sY3pL5d";
const API_TOKEN: &str = "ca0a51ab1e0123456789abcdefca0a51ab1e0123";
const WRONG_TOKEN: &str = "CanaryWrongToken-6tGh2Lq9vB4nX8cZ1mK5";
const ADMIN_TOKEN: &str = "CanaryAdmin-3fRw8Yp1Zt6Nc5Hd0Jx7Qm2Vb9Ks";
const WRONG_ADMIN_TOKEN: &str = "CanaryWrongAdmin-5sXe1Uo7Gk3Wj9Ta4Lf8Pz";
const DECLARED_TOKEN: &str = "CanaryDeclared-7kDn4Rv0Mc2Yg6Sb8Ht1Qx5";

fn gitea() -> StandInGitea {
    let gitea = StandInGitea::start(Options::default()).unwrap();
    gitea.add_registration_token(Scope::Instance, REGISTRATION_TOKEN);
    gitea.add_api_token(API_TOKEN, USER, &["write:admin"]);
    gitea
}

fn site(gitea: &StandInGitea) -> Site {
    let site = Site::new(gitea);
    site.write_secret("admin_token", ADMIN_TOKEN);
    site.write_secret("team", DECLARED_TOKEN);
    let files = ["admin_token", "team"].map(|name| site.path(name).to_str().unwrap().to_owned());
    site.write_config(&format!(
        "[[enrollment.tokens]]\nname = \"team\"\ntoken_file = {:?}\nlabels = [\"host\"]\n",
        files[1]
    ));
    site.set("admin.token_file", &files[0])
        .registration_token(REGISTRATION_TOKEN)
        .api_token(Some(API_TOKEN))
        .set("shutdown.drain_timeout", "200ms")
        .set("shutdown.deadline", "3s")
}

/// A life in which everything happens, good and bad.
struct Life {
    url: String,
    /// Where the admin API is.
    admin: String,
    /// What the broker answered where it should not show a secret.
    said: Vec<String>,
    /// The tokens of all runners.
    tokens: Vec<String>,
    /// Enrollment tokens that were made, and guesses at them.
    enrollment: Vec<String>,
}

impl Life {
    async fn live(gitea: &StandInGitea, url: &str, admin: &str) -> Self {
        let (url, admin) = (url.to_owned(), format!("http://{admin}"));
        let mut life = Self { url, admin, said: vec![], tokens: vec![], enrollment: vec![] };
        life.enrollment_tokens().await;
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

    /// Asks the admin API, and keeps what it says.
    async fn ask(&mut self, method: Method, path: &str, token: &str, body: &str) -> StatusCode {
        let (status, answer) = self.call(method, path, token, body).await;
        self.said.push(answer);
        status
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: &str,
        body: &str,
    ) -> (StatusCode, String) {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let program = StandInRunner::new(&self.admin);
        let answer = program.send(method, path, &headers, body.to_owned()).await.unwrap();
        let text = String::from_utf8_lossy(&answer.body);
        (answer.status, format!("{:?} {text}", answer.headers))
    }

    /// Has a token made: the one answer that may show a secret. Its id and the secret.
    async fn issue(&mut self, path: &str, token: &str, body: &str) -> (String, String) {
        let (status, answer) = self.call(Method::POST, path, token, body).await;
        assert!(status.is_success(), "{path}: {answer}");
        let json: Value = serde_json::from_str(&answer[answer.find("} {").unwrap() + 2..]).unwrap();
        let [id, secret] = ["id", "secret"].map(|field| json[field].as_str().unwrap().to_owned());
        self.enrollment.push(secret.clone());
        (id, secret)
    }

    async fn enrollment_tokens(&mut self) {
        const TOKENS: &str = "/api/v1/tokens";
        let exchange = format!("{TOKENS}/exchange");
        let (id, first) = self.issue(TOKENS, ADMIN_TOKEN, "{\"labels\":[\"host\"]}").await;
        let rotate = format!("{TOKENS}/{id}/rotate");
        let (_, second) = self.issue(&format!("{rotate}?overlap=1h"), ADMIN_TOKEN, "").await;
        let (_, child) = self.issue(&exchange, &second, "{\"ttl\":\"5m\"}").await;
        for token in [&first, &second, &child, DECLARED_TOKEN] {
            assert!(self.register(token, Codec::Proto, false).await.is_some());
        }
        let (_, third) = self.issue(&rotate, ADMIN_TOKEN, "").await;
        let guess = format!("rb_{id}_CanaryGuess4Vd9Kq2Xw7Zm1Jt6");
        assert_eq!(Presented::of(&guess).id, Some(id.as_str()));
        self.enrollment.push(guess.clone());
        // Replaced, used up, and never given out; and what is no token to exchange.
        for token in [&first, &second, &child, &guess] {
            assert!(self.register(token, Codec::Json, false).await.is_none());
        }
        for token in [&first, &child, &guess, REGISTRATION_TOKEN, ADMIN_TOKEN] {
            let status = self.ask(Method::POST, &exchange, token, "").await;
            assert!(status.is_client_error(), "{status}");
        }
        for token in [WRONG_ADMIN_TOKEN, &third, REGISTRATION_TOKEN, API_TOKEN] {
            assert_eq!(self.ask(Method::GET, TOKENS, token, "").await, 401);
        }
        for body in ["{\"labels\":[\"gpu\"]}", "{\"ttl\":\"2h\"}", "{", "7"] {
            assert!(self.ask(Method::POST, &exchange, &third, body).await.is_client_error());
        }
        let one = format!("{TOKENS}/{id}");
        for change in ["pin", "unpin", "disable?cascade=true", "enable"] {
            let path = format!("{one}/{change}");
            assert_eq!(self.ask(Method::POST, &path, ADMIN_TOKEN, "").await, 200, "{change}");
        }
        for path in [TOKENS, &one, "/api/v1/tokens/team"] {
            assert_eq!(self.ask(Method::GET, path, ADMIN_TOKEN, "").await, 200, "{path}");
        }
        assert_eq!(self.ask(Method::DELETE, &one, ADMIN_TOKEN, "").await, 200);
        assert!(self.register(&third, Codec::Proto, false).await.is_none());
    }

    /// All that the admin API shows at the end.
    async fn lists(&mut self) {
        for path in ["tokens", "runners", "events?limit=1000", "status", "openapi.json"] {
            let path = format!("/api/v1/{path}");
            assert_eq!(self.ask(Method::GET, &path, ADMIN_TOKEN, "").await, 200, "{path}");
        }
        let events = &self.said[self.said.len() - 3];
        for what in ["token.rotated", "token.exchanged", "admin.refused", "exchange.refused"] {
            assert!(events.contains(&format!("\"{what}\"")), "{what}: {events}");
        }
    }

    /// The pages that an admin sees, and an attempt to get in.
    async fn pages(&mut self) {
        let program = StandInRunner::new(&self.admin);
        let form = ("content-type", "application/x-www-form-urlencoded");
        let sign_in = async |token: &str| {
            let body = format!("token={token}");
            program.send(Method::POST, "/sign-in", &[form], body).await.unwrap()
        };
        let refused = sign_in(WRONG_ADMIN_TOKEN).await;
        assert!(refused.status.is_client_error(), "{}", refused.status);
        self.said.push(String::from_utf8(refused.body.to_vec()).unwrap());
        let entered = sign_in(ADMIN_TOKEN).await;
        assert_eq!(entered.status, 303);
        let cookie = entered.headers["set-cookie"].to_str().unwrap();
        let cookie = [("cookie", cookie.split(';').next().unwrap())];
        for path in ["/", "/tokens/new", "/tokens/settings", "/tokens/team", "/runners", "/events"]
        {
            let page = program.send(Method::GET, path, &cookie, "").await.unwrap();
            assert_eq!(page.status, 200, "{path}");
            self.said.push(String::from_utf8(page.body.to_vec()).unwrap());
        }
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

    /// The secrets that are no runner's. Of an enrollment token, its last part is one by itself.
    fn strangers(&self) -> impl Iterator<Item = &str> {
        let made = self.enrollment.iter().map(|token| &token[token.len() - SECRET_LENGTH..]);
        let fixed = [
            REGISTRATION_TOKEN,
            API_TOKEN,
            WRONG_TOKEN,
            ENROLLMENT_TOKEN,
            ADMIN_TOKEN,
            WRONG_ADMIN_TOKEN,
            DECLARED_TOKEN,
        ];
        fixed.into_iter().chain(made)
    }

    /// None of the secrets is in this text, in no form in which it might get there.
    fn spared(&self, what: &str, text: &str) {
        for secret in self.strangers().chain(self.tokens.iter().map(String::as_str)) {
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
    let mut life = Life::live(&gitea, &broker.url, &broker.admin).await;
    life.lists().await;
    life.pages().await;
    assert!(life.tokens.len() > 5 && life.said.len() > 40 && life.enrollment.len() == 5);
    life.spared("an answer", &life.said.join("\n"));

    let process = Path::new("/proc").join(broker.pid().to_string());
    let arguments = std::fs::read_to_string(process.join("cmdline")).unwrap();
    assert!(!arguments.is_empty());
    life.spared("cmdline", &arguments);
    // Root alone may look into it, so whoever else runs these tests finds it closed.
    assert_eq!(std::fs::metadata(process.join("environ")).unwrap().uid(), 0);
    match std::fs::read_to_string(process.join("environ")) {
        Ok(environment) => life.spared("environ", &environment),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    let admin = StandInRunner::new(&format!("http://{}", broker.admin));
    for page in ["/metrics", "/readyz?verbose", "/api/v1/runners"] {
        let answer = admin.send(hyper::Method::GET, page, &[], "").await.unwrap();
        life.spared(page, &String::from_utf8_lossy(&answer.body));
    }
    let left = gitea.runners().first().unwrap().id.to_string();
    for command in [
        &["status"][..],
        &["status", "--json"],
        &["runner", "list"],
        &["runner", "list", "--json"],
        &["runner", "show", &left],
        &["runner", "show", &left, "--json"],
        &["token", "list"],
        &["token", "list", "--json"],
        &["token", "show", "team"],
        &["token", "show", "team", "--json"],
        &["events"],
        &["events", "--json"],
        &["check"],
        &["check", "--json"],
        &["check", "--online"],
        &["check", "--online", "--json"],
    ] {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_runner-broker"))
            .args(command)
            .env_clear()
            .envs(site.environment())
            .output()
            .await
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
    let life = Life::live(&gitea, &broker.url, &broker.admin.to_string()).await;
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
    for token in broker.lifecycle.enrollment.all() {
        life.spared("a token's Debug", &format!("{token:?}"));
    }
    broker.stop().await;
}

#[tokio::test]
async fn the_store_keeps_digests_of_enrollment_tokens_and_no_other_secret() {
    let gitea = gitea();
    let site = site(&gitea);
    let broker = Broker::start(&site).await;
    let mut life = Life::live(&gitea, &broker.url, &broker.admin.to_string()).await;
    let (_, kept) = life.issue("/api/v1/tokens", ADMIN_TOKEN, "{}").await;
    broker.lifecycle.write_changes().await.unwrap();
    let read = || {
        ["state.db", "state.db-wal"].map(|name| std::fs::read(site.path(name)).unwrap()).concat()
    };
    let holds = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    let begun = read();
    let kept_digest = digest(&kept.as_bytes()[kept.len() - SECRET_LENGTH..]);
    assert!(holds(&begun, &kept_digest), "its digest is there");
    let runner = gitea.runners().remove(0);
    assert!(holds(&begun, runner.token.expose_secret().as_bytes()), "and a runner's token");
    broker.stop().await;
    // What was folded from the journal into the file stays there.
    let ended = std::fs::read(site.path("state.db")).unwrap();
    assert!(holds(&ended, &kept_digest));
    for (when, bytes) in [("while it runs", begun), ("at its end", ended)] {
        for secret in life.strangers() {
            for form in forms(secret) {
                assert!(!holds(&bytes, form.as_bytes()), "{when}: {secret} as {form}");
            }
        }
    }
}
