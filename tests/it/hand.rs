//! HTTP by hand, for what no client sends, and a look at the log.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use runner_broker::config::{Log, LogFormat, LogLevel};
use runner_broker::connect::messages::RegisterRequest;
use runner_broker::connect::{Codec, encode};
use runner_broker::telemetry;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{ENROLLMENT_TOKEN, PATIENCE};

/// Where runners send Register to.
pub(crate) const REGISTER: &str = "/api/actions/runner.v1.RunnerService/Register";

/// A connection.
pub(crate) struct Raw {
    stream: TcpStream,
    host: String,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As it came, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// Dials from 127.0.0.1.
    pub(crate) async fn open(url: &str) -> Self {
        Self::open_from(url, Ipv4Addr::LOCALHOST).await
    }

    /// Dials from another address of this host.
    pub(crate) async fn open_from(url: &str, from: Ipv4Addr) -> Self {
        let host = url.trim_start_matches("http://").to_owned();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        let stream = socket.connect(host.parse().unwrap()).await.unwrap();
        Self { stream, host }
    }

    /// Sends bytes as they are. That the other end does not take them all is no error here.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("bytes are taken");
    }

    /// Sends a sized POST.
    pub(crate) async fn post(&mut self, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
            self.host,
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(&[head.as_bytes(), body].concat()).await;
    }

    /// Sends a Register in the proto codec.
    pub(crate) async fn register(&mut self, request: &RegisterRequest) {
        let body = encode(Codec::Proto, request);
        self.post(REGISTER, &[("Content-Type", "application/proto")], &body).await;
    }

    /// Waits until the answer has arrived at this end, and leaves it unread.
    pub(crate) async fn answer_arrives(&self) {
        timeout(PATIENCE, self.stream.readable()).await.expect("an answer").unwrap();
    }

    /// Reads an answer; `None`: the connection ended without a whole one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        timeout(PATIENCE, self.read()).await.expect("an answer or the end").ok()
    }

    async fn read(&mut self) -> io::Result<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = Vec::new();
        match length {
            Some(length) => {
                body.resize(length.parse().unwrap(), 0);
                self.stream.read_exact(&mut body).await?;
            }
            None => drop(self.stream.read_to_end(&mut body).await?),
        }
        Ok(Answer { status, head, body })
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

/// A Register as a runner writes it, with one label `host`.
pub(crate) fn request(name: &str) -> RegisterRequest {
    RegisterRequest {
        name: name.into(),
        token: ENROLLMENT_TOKEN.into(),
        version: "v0.3.0".into(),
        labels: vec!["host".into()],
        ephemeral: false,
    }
}

/// The log of this thread, in JSON, while this lives: so it is of use only in tests with one thread.
pub(crate) struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Capture {
    /// Begins to listen.
    pub(crate) fn start() -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let log = Log { format: LogFormat::Json, level: LogLevel::Trace };
        let kept = Arc::clone(&bytes);
        let writer = move || Tail(Arc::clone(&kept));
        let subscriber = telemetry::log::subscriber(log, false, writer);
        Self { bytes, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = self.text();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines so far, as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }

    /// How many lines an admin sees: warnings and errors.
    pub(crate) fn complaints(&self) -> usize {
        self.lines()
            .iter()
            .filter(|line| line["level"] == "WARN" || line["level"] == "ERROR")
            .count()
    }
}

struct Tail(Arc<Mutex<Vec<u8>>>);

impl io::Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
