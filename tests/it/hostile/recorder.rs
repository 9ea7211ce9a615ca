//! A Gitea that writes down what it is sent, and forgives nothing: what it cannot read in exactly one way is
//! told as odd.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::raw::REGISTER;
use crate::support::{ENROLLMENT_TOKEN, eventually};

/// What must not reach Gitea from any client.
const UNWANTED: [&str; 18] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "upgrade",
    "http2-settings",
    "expect",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
    "x-webauth-user",
    "x-original-url",
    "x-rewrite-url",
    "x-forwarded",
];

/// Listens as Gitea does. It ends when it is dropped.
pub(crate) struct Recorder {
    pub(crate) url: String,
    log: Arc<Mutex<Log>>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Log {
    authority: String,
    seen: Vec<String>,
    odd: Vec<String>,
    /// How many requests have begun and not ended.
    reading: usize,
    /// For the next requests whose target begins with `/answer`.
    answers: VecDeque<Vec<u8>>,
}

impl Recorder {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let url = format!("http://{authority}");
        let log = Arc::new(Mutex::new(Log { authority, ..Log::default() }));
        let mut task = JoinSet::new();
        let shared = Arc::clone(&log);
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let mut one = Reader { stream, log: Arc::clone(&shared), read: Vec::new() };
                connections.spawn(async move { while one.request().await.is_some() {} });
            }
        });
        Self { url, log, _task: task }
    }

    /// The requests since the last time, and what was odd with them.
    pub(crate) async fn take(&self) -> (Vec<String>, Vec<String>) {
        eventually("all is read", async || self.log.lock().unwrap().reading == 0).await;
        let mut log = self.log.lock().unwrap();
        (std::mem::take(&mut log.seen), std::mem::take(&mut log.odd))
    }

    /// How the next request for `/answer…` is answered.
    pub(crate) fn answers(&self, answer: impl Into<Vec<u8>>) {
        self.log.lock().unwrap().answers.push_back(answer.into());
    }
}

/// One connection of the broker's.
struct Reader {
    stream: TcpStream,
    log: Arc<Mutex<Log>>,
    /// What is not looked at yet.
    read: Vec<u8>,
}

impl Reader {
    /// Reads one request to its end and answers it; `None`: the connection ends.
    async fn request(&mut self) -> Option<()> {
        let head = match self.up_to(b"\r\n\r\n").await {
            Ok(head) => head,
            Err(rest) if rest.is_empty() => return None,
            Err(rest) => return self.odd(format!("no whole head: {}", rest.escape_ascii())),
        };
        let authority = self.log.lock().unwrap().authority.clone();
        let head = match Head::read(&head, &authority) {
            Ok(head) => head,
            Err(what) => return self.odd(format!("{what}: {}", head.escape_ascii())),
        };
        let is_probe = head.asked.contains("/ping.v1.") || head.asked.contains(" /api/v1/");
        let at = {
            let mut log = self.log.lock().unwrap();
            if !is_probe {
                log.seen.push(head.asked.clone());
                log.reading += 1;
            }
            log.seen.len()
        };
        let mut body = Vec::new();
        let whole = self.body(head.length, &mut body).await;
        if is_probe {
            self.say(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec()).await?;
            return whole;
        }
        let is_register = head.asked.ends_with(REGISTER);
        let text = String::from_utf8_lossy(&body);
        let told = match &*text {
            "" => head.asked.clone(),
            text if is_register
                && text.contains("rb-intent-")
                && !text.contains(ENROLLMENT_TOKEN) =>
            {
                "Register of the broker's".into()
            }
            text if text.contains(REGISTER) => format!("{}, a Register in its body", head.asked),
            text => format!("{} {text}", head.asked),
        };
        {
            let mut log = self.log.lock().unwrap();
            log.seen[at - 1] = if whole.is_some() { told } else { format!("{told} …") };
            log.reading -= 1;
        }
        whole?;
        let answer = if is_register {
            let error = r#"{"code":"permission_denied","message":"not here"}"#;
            sized("403 Forbidden\r\nContent-Type: application/json", error)
        } else if head.asked.contains(" /answer") {
            self.log.lock().unwrap().answers.pop_front().expect("an answer is given")
        } else {
            sized("200 OK", &head.asked)
        };
        self.say(answer).await
    }

    async fn body(&mut self, length: Length, body: &mut Vec<u8>) -> Option<()> {
        let Length::Chunked = length else {
            let Length::Sized(length) = length else { return Some(()) };
            return self.exactly(length, body).await;
        };
        loop {
            let size = match self.up_to(b"\r\n").await {
                Ok(line) => line,
                Err(_) => return None,
            };
            let digits = std::str::from_utf8(&size[..size.len() - 2]).unwrap_or_default();
            let is_plain = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            let Ok(size) = usize::from_str_radix(digits, 16) else {
                return self.odd(format!("a chunk of size {digits:?}"));
            };
            if !is_plain {
                return self.odd(format!("a chunk of size {digits:?}"));
            }
            self.exactly(size, body).await?;
            let mut end = Vec::new();
            self.exactly(2, &mut end).await?;
            if end != b"\r\n" {
                return self.odd(format!("a chunk ends with {}", end.escape_ascii()));
            }
            if size == 0 {
                return Some(());
            }
        }
    }

    async fn exactly(&mut self, length: usize, into: &mut Vec<u8>) -> Option<()> {
        while self.read.len() < length {
            if self.more().await.is_none() {
                into.append(&mut self.read);
                return None;
            }
        }
        into.extend(self.read.drain(..length));
        Some(())
    }

    /// With the mark; what there is of it where the connection ends before.
    async fn up_to(&mut self, mark: &[u8]) -> Result<Vec<u8>, Vec<u8>> {
        loop {
            if let Some(at) = self.read.windows(mark.len()).position(|window| window == mark) {
                return Ok(self.read.drain(..at + mark.len()).collect());
            }
            if self.more().await.is_none() {
                return Err(std::mem::take(&mut self.read));
            }
        }
    }

    async fn more(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.read).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }

    async fn say(&mut self, answer: Vec<u8>) -> Option<()> {
        self.stream.write_all(&answer).await.ok()
    }

    fn odd(&self, what: String) -> Option<()> {
        self.log.lock().unwrap().odd.push(what);
        None
    }
}

enum Length {
    None,
    Sized(usize),
    Chunked,
}

struct Head {
    /// Method and target.
    asked: String,
    length: Length,
}

impl Head {
    /// Reads a head as strictly as can be.
    fn read(head: &[u8], authority: &str) -> Result<Self, String> {
        let text = std::str::from_utf8(head).map_err(|_| "not UTF-8")?;
        let mut lines = text.strip_suffix("\r\n\r\n").ok_or("no end")?.split("\r\n");
        let asked = lines.next().and_then(|line| line.strip_suffix(" HTTP/1.1"));
        let asked = asked.ok_or("no HTTP/1.1")?.to_owned();
        if asked.split(' ').count() != 2 || asked.contains(char::is_control) {
            return Err("no method and target".into());
        }
        let (mut lengths, mut encodings, mut hosts) = (Vec::new(), Vec::new(), Vec::new());
        for line in lines {
            let (name, value) = line.split_once(": ").ok_or(format!("header {line:?}"))?;
            let is_plain =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            if name.is_empty()
                || !name.bytes().all(is_plain)
                || value.contains(|c: char| c.is_control() && c != '\t')
            {
                return Err(format!("header {line:?}"));
            }
            let name = name.to_ascii_lowercase();
            match &*name {
                "content-length" => lengths.push(value),
                "transfer-encoding" => encodings.push(value),
                "host" => hosts.push(value),
                name if UNWANTED.contains(&name) => {
                    return Err(format!("header {line:?} is passed on"));
                }
                _ => {}
            }
        }
        if hosts != [authority] {
            return Err(format!("hosts {hosts:?}"));
        }
        let length = match (&lengths[..], &encodings[..]) {
            ([], []) => Length::None,
            ([], ["chunked"]) => Length::Chunked,
            ([length], []) if length.bytes().all(|digit| digit.is_ascii_digit()) => {
                Length::Sized(length.parse().map_err(|_| "a length too large")?)
            }
            both => return Err(format!("framed by {both:?}")),
        };
        Ok(Self { asked, length })
    }
}

fn sized(status_and_headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status_and_headers}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}
