//! What is behind the proxy that is measured: it answers with the request as it came, or with what a test
//! wants an answer to be.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Listens until it is dropped.
pub(super) struct Mirror {
    pub(super) address: String,
    _task: JoinSet<()>,
}

impl Mirror {
    pub(super) async fn start(at: &str) -> Self {
        let listener = TcpListener::bind(at).await.expect("the mirror's address is free");
        let address = listener.local_addr().unwrap().to_string();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream));
            }
        });
        Self { address, _task: task }
    }
}

async fn serve(mut stream: TcpStream) {
    let mut read = Vec::new();
    while let Some(request) = next(&mut stream, &mut read).await {
        let text = String::from_utf8_lossy(&request).into_owned();
        let target = text.split(' ').nth(1).unwrap_or_default();
        let canned = target.split_once("/answer/").and_then(|(_, name)| {
            super::list::ANSWERS.iter().find(|(known, _)| *known == name).map(|(_, answer)| *answer)
        });
        // No Date: the proxy has a clock too.
        let mirrored =
            || format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        let answer = canned.map_or_else(mirrored, str::to_owned);
        let close = canned.is_some_and(|answer| !answer.contains("HTTP/1.1 2"));
        if stream.write_all(answer.as_bytes()).await.is_err() || close {
            return;
        }
        if canned.is_some() {
            // What follows an odd answer is nobody's: the connection is not to be used again.
            let _ = stream.shutdown().await;
            return;
        }
    }
}

/// One whole request, head and body, as its bytes.
async fn next(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        let text = String::from_utf8_lossy(read).to_ascii_lowercase();
        if let Some(end) = text.find("\r\n\r\n").map(|at| at + 4) {
            let length = text[..end].split("\r\ncontent-length:").nth(1);
            let length = length.and_then(|rest| rest.lines().next()?.trim().parse::<usize>().ok());
            let whole = match (text[..end].contains("\r\ntransfer-encoding:"), length) {
                // The last chunk, perhaps with trailers.
                (true, _) => text[end - 2..]
                    .find("\r\n0\r\n")
                    .map(|at| end + at + 1)
                    .and_then(|at| text[at..].find("\r\n\r\n").map(|length| at + length + 4)),
                (false, length) => Some(end + length.unwrap_or(0)),
            };
            if let Some(whole) = whole.filter(|whole| read.len() >= *whole) {
                return Some(read.drain(..whole).collect());
            }
        }
        if matches!(stream.read_buf(read).await, Ok(0) | Err(_)) {
            return None;
        }
    }
}
