//! Both ends of HTTP/1.1, byte by byte: a client, and a Gitea whose every move a test makes.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::PATIENCE;

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
    /// Dials `http://host:port`.
    pub(crate) async fn dial(url: &str) -> Self {
        let authority = url.strip_prefix("http://").unwrap().split('/').next().unwrap();
        Self::of(TcpStream::connect(authority).await.unwrap())
    }

    fn of(stream: TcpStream) -> Self {
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
    pub(crate) async fn try_say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// Reads up to the empty line; `None`: the connection has ended.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        timeout(PATIENCE, self.read_head()).await.expect("a head in time")
    }

    async fn read_head(&mut self) -> Option<Head> {
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
        let read = async {
            if head.all("transfer-encoding") == ["chunked"] {
                return self.chunks().await;
            }
            let length = head.all("content-length").first().map_or(0, |text| text.parse().unwrap());
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.unwrap();
            body
        };
        timeout(PATIENCE, read).await.expect("a body in time")
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while self.chunk(&mut body).await {}
        // Trailers, where there are any, and the empty line.
        let mut line = String::from("begun");
        while !line.trim_end().is_empty() {
            line.clear();
            self.stream.read_line(&mut line).await.unwrap();
        }
        body
    }

    /// Appends one chunk; false at the last, which is empty.
    async fn chunk(&mut self, body: &mut Vec<u8>) -> bool {
        let mut size = String::new();
        self.stream.read_line(&mut size).await.unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        if size == 0 {
            return false;
        }
        let begun = body.len();
        body.resize(begun + size, 0);
        self.stream.read_exact(&mut body[begun..]).await.unwrap();
        self.stream.read_exact(&mut [0; 2]).await.unwrap();
        true
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
                self.chunk(&mut body).await;
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
}

/// Listens as Gitea does. What the broker asks of itself is answered with 503; everything else is the
/// test's to answer. It ends when it is dropped.
pub(crate) struct ScriptedGitea {
    pub(crate) url: String,
    asked: mpsc::UnboundedReceiver<(Wire, Head)>,
    wires: mpsc::UnboundedSender<Wire>,
    _task: JoinSet<()>,
}

impl ScriptedGitea {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, asked) = mpsc::unbounded_channel();
        let (wires, mut returned) = mpsc::unbounded_channel();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let wire = tokio::select! {
                    Ok((stream, _)) = listener.accept() => Wire::of(stream),
                    Some(wire) = returned.recv() => wire,
                };
                connections.spawn(hand_out(wire, sender.clone()));
            }
        });
        Self { url, asked, wires, _task: task }
    }

    /// The next request: its connection and its head.
    pub(crate) async fn asked(&mut self) -> (Wire, Head) {
        timeout(PATIENCE, self.asked.recv()).await.expect("a request in time").unwrap()
    }

    /// Answers on a connection; further requests on it are asked as others are.
    pub(crate) async fn answer(&self, mut wire: Wire, answer: impl AsRef<[u8]>) {
        wire.say(answer).await;
        self.wires.send(wire).unwrap();
    }

    /// Whether a request comes within a moment.
    pub(crate) async fn is_asked_within(&mut self, moment: Duration) -> bool {
        timeout(moment, self.asked.recv()).await.is_ok()
    }
}

async fn hand_out(mut wire: Wire, asked: mpsc::UnboundedSender<(Wire, Head)>) {
    while let Some(head) = wire.read_head().await {
        if !head.line.contains("/ping.v1.") && !head.line.contains("/api/v1/") {
            let _ = asked.send((wire, head));
            return;
        }
        wire.body(&head).await;
        wire.say("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
    }
}
