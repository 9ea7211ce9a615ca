//! Whatever answers in Gitea's place, to calls of its REST API and of the actions protocol: nothing is
//! believed that the answer does not say, by a reader of our own; what is wrong is told in one line, and
//! without a secret that was sent and came back. The answers go over a socket, as they do.
//!
//! The first byte chooses the call, the second the status; then come lines of headers, an empty line, and the
//! body, with the secret in place of `TOKEN`.
#![no_main]

use std::cell::{OnceCell, RefCell};
use std::fmt::Display;
use std::rc::Rc;

use hyper::HeaderMap;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use runner_broker::broker::Credentials;
use runner_broker::config::{Gitea, Scope, Served};
use runner_broker::connect::messages::RegisterResponse;
use runner_broker::connect::{Codec, Encoding, decode, gunzip};
use runner_broker::gitea::{
    CallError, DeleteAnswer, GiteaClient, RegisterFailure, SwitchAnswer, numbers,
};
use runner_broker::net::Upstream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

const SECRET: &str = "canary-0123456789abcdef";
const STATUSES: [u16; 16] =
    [200, 201, 204, 301, 302, 400, 401, 403, 404, 405, 409, 429, 500, 501, 502, 503];
const LIMIT: usize = 1024 * 1024;

fuzz_target!(|input: &[u8]| {
    let [call, status, rest @ ..] = input else { return };
    if let Some(answer) = Answer::of(STATUSES[usize::from(*status) % STATUSES.len()], rest) {
        WORLD.with(|world| world.get_or_init(World::new).run(*call, &answer));
    }
});

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: u16, text: &[u8]) -> Option<Self> {
        let split = text.windows(2).position(|two| two == b"\n\n");
        let (lines, body) = split.map_or((&b""[..], text), |at| (&text[..at], &text[at + 2..]));
        let mut headers = HeaderMap::new();
        for line in lines.split(|byte| *byte == b'\n') {
            let mut parts = line.splitn(2, |byte| *byte == b':');
            let name = HeaderName::from_bytes(parts.next().unwrap_or_default()).ok()?;
            let value = parts.next().unwrap_or_default().trim_ascii();
            // How an answer is framed is not the matter here.
            if ["content-length", "transfer-encoding", "connection"].contains(&name.as_str())
                || String::from_utf8_lossy(value).contains(SECRET)
            {
                return None;
            }
            headers.append(name, HeaderValue::from_bytes(value).ok()?);
        }
        let mut body = body.to_vec();
        while let Some(at) = body.windows(5).position(|five| five == b"TOKEN") {
            body.splice(at..at + 5, SECRET.bytes());
        }
        if status == 204 {
            body.clear();
        }
        Some(Self { status, headers, body })
    }

    fn is_success(&self) -> bool {
        self.status / 100 == 2
    }

    /// Not compressed.
    fn plain(&self) -> Vec<u8> {
        match Encoding::from_header(self.headers.get(CONTENT_ENCODING)) {
            Ok(Encoding::Gzip) => gunzip(&self.body, LIMIT).unwrap_or_default(),
            _ => self.body.clone(),
        }
    }

    fn json(&self) -> Value {
        // One with a secret in it is read as text before that is taken out.
        serde_json::from_str(&String::from_utf8_lossy(&self.plain())).unwrap_or_default()
    }

    fn written(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Any\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        if self.status != 204 {
            head.extend(format!("content-length: {}\r\n", self.body.len()).bytes());
        }
        [&head, &b"\r\n"[..], &self.body].concat()
    }
}

thread_local! {
    static WORLD: OnceCell<World> = const { OnceCell::new() };
}

/// A Gitea that answers as it is told, and the way to it.
struct World {
    runtime: Runtime,
    /// The first is answered first; the last is answered for ever.
    answers: Rc<RefCell<Vec<Vec<u8>>>>,
    gitea: Gitea,
    upstream: Upstream,
}

impl World {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let answers = Rc::new(RefCell::new(Vec::new()));
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let served = Served {
            section: "gitea".into(),
            scope: Scope::Instance,
            registration_token: None,
            api_token: Some(SECRET.into()),
        };
        let gitea = Gitea {
            url: format!("http://{address}").parse().expect("an address"),
            default: served,
            further: Vec::new(),
            ca_file: None,
            client: None,
            lost_wakeup_workaround: true,
        };
        let upstream = Upstream::new(&gitea).expect("no certificate is needed");
        let world = Self { runtime, answers, gitea, upstream };
        let local = tokio::task::LocalSet::new();
        local.spawn_local(serve(listener, Rc::clone(&world.answers)));
        LOCAL.with(|kept| kept.replace(Some(local)));
        world
    }

    fn run(&self, call: u8, answer: &Answer) {
        let client = GiteaClient::new(self.upstream.clone(), &self.gitea);
        *self.answers.borrow_mut() = vec![answer.written()];
        LOCAL.with(|local| {
            let local = local.borrow();
            let local = local.as_ref().expect("it was made with the world");
            local.block_on(&self.runtime, async {
                match call % 12 {
                    0 => self.list(&client, answer).await,
                    1 => show(&client, answer).await,
                    2 => delete(&client, answer).await,
                    3 => switch(&client, answer).await,
                    4 => version(&client, answer).await,
                    5 => mint(&client, answer).await,
                    6 => abilities(&client).await,
                    7 => register(&client, Codec::Proto, answer).await,
                    8 => register(&client, Codec::Json, answer).await,
                    9 => declare(&client, answer).await,
                    10 => knows(&client, answer).await,
                    _ => ping(&client, answer).await,
                }
            });
        });
    }

    async fn list(&self, client: &GiteaClient, answer: &Answer) {
        let last = Answer {
            status: 200,
            headers: HeaderMap::new(),
            body: br#"{"runners":[],"total_count":0}"#.to_vec(),
        };
        self.answers.borrow_mut().push(last.written());
        let Some(listing) = told(client.list_once(&Scope::Instance).await) else { return };
        if listing.runners.is_empty() {
            // None was told, or the second answer was the first that could be read.
            return;
        }
        let json = answer.json();
        assert!(answer.is_success());
        let rows = json["runners"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut ids: Vec<_> = rows.iter().filter_map(|row| row["id"].as_i64()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert!(listing.runners.iter().map(|runner| runner.id).eq(ids.iter().copied()));
        for runner in &listing.runners {
            let mut told = rows.iter().filter(|row| row["id"] == runner.id);
            assert!(told.any(|row| row["name"].as_str().unwrap_or_default() == runner.name));
        }
        let total = json["total_count"].as_u64().expect("it was read");
        if rows.len() as u64 >= total {
            assert_eq!(listing.complete, ids.len() as u64 == total);
        }
    }
}

thread_local! {
    static LOCAL: RefCell<Option<tokio::task::LocalSet>> = const { RefCell::new(None) };
}

async fn serve(listener: TcpListener, answers: Rc<RefCell<Vec<Vec<u8>>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a socket");
        tokio::task::spawn_local(converse(stream, Rc::clone(&answers)));
    }
}

async fn converse(mut stream: TcpStream, answers: Rc<RefCell<Vec<Vec<u8>>>>) {
    let mut seen = Vec::new();
    loop {
        let head = seen.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let whole = head.map(|head| {
            let text = String::from_utf8_lossy(&seen[..head]).to_lowercase();
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            head + length.map_or(0, |length| length.parse().expect("a number"))
        });
        if whole.is_none_or(|whole| seen.len() < whole) {
            if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        }
        seen.clear();
        let answer = {
            let mut answers = answers.borrow_mut();
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// What is wrong is one line, and has nothing of the secret.
fn told<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result.map_err(|error| is_tellable(&error.to_string())).ok()
}

fn is_tellable(text: &str) {
    assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    assert!(!text.contains(SECRET), "{text}");
}

async fn show(client: &GiteaClient, answer: &Answer) {
    match told(client.show_runner(&Scope::Instance, 5).await) {
        Some(Some(runner)) => {
            assert!(answer.is_success());
            assert_eq!(answer.json()["id"], runner.id);
            let status = answer.json()["status"].as_str().unwrap_or("offline").to_owned();
            assert_eq!(runner.online, status != "offline");
        }
        Some(None) => assert!(answer.status == 404 && answer.json()["message"].is_string()),
        None => {}
    }
}

async fn delete(client: &GiteaClient, answer: &Answer) {
    let deleted = told(client.delete_runner(&Scope::Instance, 5).await);
    assert_eq!(deleted == Some(DeleteAnswer::Deleted), answer.status == 204);
    if deleted == Some(DeleteAnswer::NotFound) {
        assert!(answer.status == 404 && answer.json()["message"].is_string());
    }
}

async fn switch(client: &GiteaClient, answer: &Answer) {
    match told(client.switch_runner(&Scope::Instance, 5, true).await) {
        Some(SwitchAnswer::Done) => {
            assert!(answer.is_success() && answer.json()["disabled"] == Value::Bool(true));
        }
        Some(SwitchAnswer::NotFound) => assert_eq!(answer.status, 404),
        Some(SwitchAnswer::Unsupported) | None => {}
    }
}

async fn version(client: &GiteaClient, answer: &Answer) {
    match told(client.version().await) {
        Some(Some(version)) => {
            assert!(answer.is_success() && version.chars().count() <= 80);
            assert!(!version.contains(char::is_control));
            let _ = numbers(&version);
        }
        Some(None) => assert!([401, 403].contains(&answer.status)),
        None => {}
    }
    told(client.clock_skew().await);
}

async fn mint(client: &GiteaClient, answer: &Answer) {
    use secrecy::ExposeSecret;

    if let Some(token) = told(client.registration_token(&Scope::Instance).await) {
        let token = token.expose_secret();
        assert!(answer.is_success() && answer.json()["token"] == token);
        assert!((1..=255).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic()));
        assert!(client.is_registration_token(token));
    }
}

async fn abilities(client: &GiteaClient) {
    if let Some(abilities) = told(client.probe_abilities(&Scope::Instance).await) {
        is_tellable(&abilities.to_string());
        // Its version is its own word, whatever that is.
        let abilities = runner_broker::gitea::Abilities { version: None, ..(*abilities).clone() };
        abilities.missing().iter().for_each(|sentence| is_tellable(sentence));
    }
}

async fn register(client: &GiteaClient, codec: Codec, answer: &Answer) {
    let secret = SECRET.into();
    match client.register(codec, "message".into(), HeaderMap::new(), &secret).await {
        Ok(registered) => {
            assert!(answer.is_success());
            let said = Codec::from_content_type(answer.headers.get(CONTENT_TYPE));
            assert_eq!(said, Some(codec));
            assert_eq!(registered.body, answer.plain());
            let message: RegisterResponse = decode(codec, &registered.body).expect("it was read");
            assert_eq!(message.runner.as_ref(), Some(&registered.runner));
            let runner = &registered.runner;
            assert!(runner.id > 0 && !runner.uuid.is_empty() && !runner.token.is_empty());
            assert!(!registered.headers.contains_key(CONTENT_ENCODING));
        }
        Err(error) => {
            is_tellable(&error.to_string());
            match error {
                RegisterFailure::NotSent(error) => panic!("it was sent: {error}"),
                // Of one that may be registered, nobody says that it is not.
                RegisterFailure::Refused { .. } => assert!(!answer.is_success()),
                RegisterFailure::Unclear(_) => {}
            }
        }
    }
}

fn credentials() -> Credentials {
    Credentials { id: 5, uuid: "some-uuid".into(), token: SECRET.into() }
}

async fn declare(client: &GiteaClient, answer: &Answer) {
    let labels = ["a".to_owned()];
    match client.declare(&credentials(), "v1", &labels).await {
        Ok(_) => assert!(answer.is_success()),
        Err(error) => {
            is_tellable(&error.to_string());
            if let CallError::Unregistered | CallError::Refused(_) = error {
                assert!(!answer.is_success() && answer.json()["code"].is_string());
            }
        }
    }
}

async fn knows(client: &GiteaClient, answer: &Answer) {
    // A runner is taken for gone by Gitea's own word alone.
    if told(client.knows(&credentials()).await) == Some(false) {
        let code = answer.json()["code"].clone();
        assert!(!answer.is_success() && (code == "unauthenticated" || code == "unknown"));
    }
}

async fn ping(client: &GiteaClient, answer: &Answer) {
    match client.ping().await {
        Ok(()) => assert!(answer.is_success() && client.is_up()),
        // No secret was sent that could come back.
        Err(error) => assert!(!error.to_string().contains(char::is_control), "{error:?}"),
    }
}
