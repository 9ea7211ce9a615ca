//! A broker that answers what a test wrote for it, on a Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::Serialize;

/// One request that it answers: method and target, status, and body.
pub(crate) type Line = (&'static str, u16, String);

/// What it was asked so far. It answers until the test's process ends.
pub(crate) struct Scripted(Arc<Mutex<Vec<String>>>);

impl Scripted {
    /// Listens at `admin.sock` in the folder.
    pub(crate) fn start(folder: &Path, script: Vec<Line>) -> Self {
        let listener = UnixListener::bind(folder.join("admin.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let journal = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = serve(&stream.unwrap(), &script, &journal);
            }
        });
        Self(asked)
    }

    /// What it was asked since the last time: method, target, and body.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn serve(
    mut stream: &UnixStream,
    script: &[Line],
    journal: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let target = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body)?;
    journal.lock().unwrap().push(format!("{target} {}", String::from_utf8_lossy(&body)));

    let (status, body) = match script.iter().find(|(wanted, ..)| *wanted == target) {
        Some((_, status, body)) => (*status, body.clone()),
        None => (500, problem("test", &format!("no answer is written for {target}"))),
    };
    write!(
        stream,
        "HTTP/1.1 {status} -\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// An answer's body.
pub(crate) fn json(content: &impl Serialize) -> String {
    serde_json::to_string(content).unwrap()
}

/// A problem's body.
pub(crate) fn problem(kind: &str, detail: &str) -> String {
    let kind = format!("urn:runner-broker:{kind}");
    json(&serde_json::json!({ "type": kind, "title": "No", "status": 0, "detail": detail }))
}
