//! HTTP/1.1 by hand, either end of it, for what no library sends.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use runner_broker::connect::messages::RegisterRequest;
use runner_broker::connect::{Codec, encode};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::support::{ENROLLMENT_TOKEN, PATIENCE};

/// Where runners send Register to.
pub(crate) const REGISTER: &str = "/api/actions/runner.v1.RunnerService/Register";

/// One connection, either end of it.
pub(crate) struct Wire {
    stream: BufReader<TcpStream>,
}

/// The first line and the headers of a message, with lower-case names.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Head {
    /// The values of one header.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect()
    }

    /// The status of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.line.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default()
    }

    /// The method and the target of a request.
    pub(crate) fn request(&self) -> &str {
        self.line.strip_suffix(" HTTP/1.1").expect("HTTP/1.1 to Gitea")
    }
}

impl Wire {
    /// Dials `http://host:port` from 127.0.0.1.
    pub(crate) async fn dial(url: &str) -> Self {
        Self::dial_from(url, Ipv4Addr::LOCALHOST).await
    }

    /// Dials from another address of this host.
    pub(crate) async fn dial_from(url: &str, from: Ipv4Addr) -> Self {
        let authority = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((from, 0))).unwrap();
        Self::of(socket.connect(authority.parse().unwrap()).await.unwrap())
    }

    /// The end of a connection that was accepted.
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::with_capacity(64 << 10, stream) }
    }

    /// The ports of this end and of the other.
    pub(crate) fn ports(&self) -> (u16, u16) {
        let stream = self.stream.get_ref();
        (stream.local_addr().unwrap().port(), stream.peer_addr().unwrap().port())
    }

    /// Sends bytes as they are.
    pub(crate) async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).await.unwrap();
    }

    /// The same, where the other end may have left.
    pub(crate) async fn try_say(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(PATIENCE, self.stream.get_mut().write_all(bytes)).await.expect("bytes are taken")
    }

    /// Sends a sized POST. That the other end does not take it all is no error here.
    pub(crate) async fn post(&mut self, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
            self.stream.get_ref().peer_addr().unwrap(),
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let _ = self.try_say(&[head.as_bytes(), body].concat()).await;
    }

    /// Sends a Register in the proto codec.
    pub(crate) async fn register(&mut self, request: &RegisterRequest) {
        let body = encode(Codec::Proto, request);
        self.post(REGISTER, &[("Content-Type", "application/proto")], &body).await;
    }

    /// Waits until the answer has arrived at this end, and leaves it unread.
    pub(crate) async fn answer_arrives(&self) {
        timeout(PATIENCE, self.stream.get_ref().readable()).await.expect("an answer").unwrap();
    }

    /// Reads an answer; `None`: the connection ended without a whole one.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        timeout(PATIENCE, self.read_answer()).await.expect("an answer or the end")
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let head = self.read_head().await?;
        let mut body = Vec::new();
        if ["content-length", "transfer-encoding"].iter().all(|name| head.all(name).is_empty()) {
            self.stream.read_to_end(&mut body).await.ok()?;
        } else {
            body = self.read_body(&head).await.ok()?;
        }
        Some(Answer { status: head.status(), head, body })
    }

    /// Reads up to the empty line; `None`: the connection has ended.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        timeout(PATIENCE, self.read_head()).await.expect("a head in time")
    }

    pub(crate) async fn read_head(&mut self) -> Option<Head> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            match self.stream.read_line(&mut line).await {
                Ok(0) | Err(_) => return None,
                Ok(_) if line.trim_end().is_empty() => break,
                Ok(_) => lines.push(line.trim_end().to_owned()),
            }
        }
        let mut lines = lines.into_iter();
        let line = lines.next()?;
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':').unwrap();
                (name.to_ascii_lowercase(), value.trim().to_owned())
            })
            .collect();
        Some(Head { line, headers })
    }

    /// Reads the body that belongs to `head`, whole.
    pub(crate) async fn body(&mut self, head: &Head) -> Vec<u8> {
        timeout(PATIENCE, self.read_body(head)).await.expect("a body in time").unwrap()
    }

    async fn read_body(&mut self, head: &Head) -> io::Result<Vec<u8>> {
        if head.all("transfer-encoding") == ["chunked"] {
            return self.chunks().await;
        }
        let length = head.all("content-length").first().map_or(0, |text| text.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok(body)
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        while self.chunk(&mut body).await? {}
        // Trailers, where there are any, and the empty line.
        let mut line = String::from("begun");
        while !line.trim_end().is_empty() {
            line.clear();
            self.stream.read_line(&mut line).await?;
        }
        Ok(body)
    }

    /// Appends one chunk; false at the last, which is empty.
    async fn chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let mut size = String::new();
        self.stream.read_line(&mut size).await?;
        let size = usize::from_str_radix(size.trim_end(), 16).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(false);
        }
        let begun = body.len();
        body.resize(begun + size, 0);
        self.stream.read_exact(&mut body[begun..]).await?;
        self.stream.read_exact(&mut [0; 2]).await?;
        Ok(true)
    }

    /// Reads exactly so many bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        timeout(PATIENCE, self.stream.read_exact(&mut bytes)).await.unwrap().unwrap();
        bytes
    }

    /// Reads chunks, until they have brought so many bytes.
    pub(crate) async fn chunks_of(&mut self, count: usize) -> Vec<u8> {
        let read = async {
            let mut body = Vec::new();
            while body.len() < count {
                self.chunk(&mut body).await.unwrap();
            }
            body
        };
        timeout(PATIENCE, read).await.expect("chunks in time")
    }

    /// Reads until the other end closes or breaks the connection; returns what came.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("an end");
        rest
    }
    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.stream.get_ref().set_zero_linger().unwrap();
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
