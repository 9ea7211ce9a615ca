//! A Gitea whose every move a test makes.

use std::time::Duration;

use runner_broker::sandbox::gitea::StandInGitea;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raw::{Head, Wire};
use crate::support::{Broker, PATIENCE, Site, gitea};

/// A broker in front of a Gitea that a test answers for.
pub(crate) async fn scripted() -> (ScriptedGitea, StandInGitea, Site, Broker) {
    let scripted = ScriptedGitea::start().await;
    // For the secrets alone.
    let spare = gitea();
    let site = Site::new(&spare).set("gitea.url", &scripted.url);
    let broker = Broker::start(&site).await;
    (scripted, spare, site, broker)
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
