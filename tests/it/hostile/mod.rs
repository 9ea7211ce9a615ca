//! Requests and answers that may be read in two ways, by hand: what the client gets, and what Gitea saw of
//! it, byte by byte.

mod answers;
mod floods;
mod frames;
mod framing;
mod headers;
mod http2;
mod http2_bodies;
mod lines;
mod recorder;
mod registers;
mod slow;
mod targets;
mod tunnels;

use runner_broker::connect::{Codec, encode};
use runner_broker::sandbox::gitea::StandInGitea;

use self::recorder::Recorder;
use crate::raw::{REGISTER, Wire, request};
use crate::support::{Broker, Site, gitea};

/// What a client says, what it gets and what Gitea sees.
pub(crate) struct Case {
    /// What holds.
    name: &'static str,
    says: Vec<u8>,
    /// The answers: status and code of an error of the broker's own, or status and what Gitea was asked; then
    /// whether the connection stays "open" or is "closed".
    gets: &'static [&'static str],
    /// What arrived at Gitea: method, target, and the body where there is one. Of a request that broke off
    /// there may be less, or nothing: it ends with "…".
    seen: &'static [&'static str],
}

pub(crate) fn case(
    name: &'static str,
    says: impl Into<Vec<u8>>,
    gets: &'static [&'static str],
    seen: &'static [&'static str],
) -> Case {
    Case { name, says: says.into(), gets, seen }
}

/// A broker in front of a Gitea that writes down what it is sent.
pub(crate) struct Stage {
    pub(crate) gitea: Recorder,
    pub(crate) broker: Broker,
    _site: Site,
    _spare: StandInGitea,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::set_with(|site| site).await
    }

    pub(crate) async fn set_with(settings: impl FnOnce(Site) -> Site) -> Self {
        let gitea_by_hand = Recorder::start().await;
        // For the secrets alone.
        let spare = gitea();
        let site = settings(Site::new(&spare).set("gitea.url", &gitea_by_hand.url));
        let broker = Broker::start(&site).await;
        Self { gitea: gitea_by_hand, broker, _site: site, _spare: spare }
    }

    /// Plays all cases, and tells at once what is not as it says.
    pub(crate) async fn play(&self, cases: Vec<Case>) {
        let mut wrong = String::new();
        for Case { name, says, gets, seen } in cases {
            let mut wire = Wire::dial(&self.broker.url).await;
            let _ = wire.try_say(&says).await;
            let got = self.conversation(&mut wire, gets.len()).await;
            // Whatever went to Gitea before is there when this has its answer.
            let mut last = Wire::dial(&self.broker.url).await;
            last.say("GET /last HTTP/1.1\r\nHost: broker\r\n\r\n").await;
            assert_eq!(answer(&mut last, false).await, "200 GET /last", "{name}");
            let (arrived, odd) = self.gitea.take().await;
            let mut arrived = arrived;
            arrived.retain(|one| !matches!(&**one, "GET /then" | "GET /last"));
            if let [before @ .., broken] = seen
                && broken.ends_with('…')
                && arrived.get(before.len()).is_none_or(|last| is_part_of(last, broken))
            {
                arrived.truncate(before.len());
                arrived.push((*broken).to_owned());
            }
            if got != gets || arrived != seen || !odd.is_empty() {
                wrong += &format!(
                    "{name}\n  gets {got:?}\n       {gets:?}\n  seen {arrived:?}\n       {seen:?}\n  odd  {odd:?}\n"
                );
            }
        }
        assert!(wrong.is_empty(), "not so, but so (first what is, then what should be):\n{wrong}");
    }

    /// The answers that come, as many as are expected, and what becomes of the connection then.
    async fn conversation(&self, wire: &mut Wire, expected: usize) -> Vec<String> {
        let mut got = Vec::new();
        for _ in 1..expected {
            got.push(answer(wire, false).await);
        }
        let _ = wire.try_say(b"GET /then HTTP/1.1\r\nHost: broker\r\n\r\n").await;
        let then = match &*answer(wire, false).await {
            "200 GET /then" => "open".to_owned(),
            other => other.to_owned(),
        };
        got.push(then);
        got
    }
}

/// Whether a request that broke off is the one that is expected, or less of it.
fn is_part_of(seen: &str, broken: &str) -> bool {
    seen.strip_suffix(" …").is_some_and(|begun| broken.starts_with(begun))
}

/// One answer in short; "closed" where none comes any more.
pub(crate) async fn answer(wire: &mut Wire, to_head: bool) -> String {
    let Some(head) = wire.head().await else { return "closed".into() };
    let status = head.status();
    if to_head || status < 200 || matches!(status, 204 | 304) {
        return status.to_string();
    }
    let body = String::from_utf8_lossy(&wire.body(&head).await).into_owned();
    in_short(status, &body)
}

/// The status, and the code of an error or what Gitea was asked.
fn in_short(status: u16, body: &str) -> String {
    let told = match serde_json::from_str::<serde_json::Value>(body) {
        Ok(error) => error["code"].as_str().unwrap_or_default().to_owned(),
        Err(_) => body.to_owned(),
    };
    format!("{status} {told}").trim_end().to_owned()
}

/// A Register that the broker would take, up to the blank line before its body.
pub(crate) fn register_head(more: &str) -> String {
    format!(
        "POST {REGISTER} HTTP/1.1\r\nHost: broker\r\nContent-Type: application/proto\r\n{more}\r\n"
    )
}

/// The body of a Register that the broker would take.
pub(crate) fn register_body() -> Vec<u8> {
    encode(Codec::Proto, &request("hostile"))
}

/// A Register that the broker would take, framed as one would.
pub(crate) fn register() -> Vec<u8> {
    let body = register_body();
    let head = register_head(&format!("Content-Length: {}\r\n", body.len()));
    [head.as_bytes(), &body].concat()
}

/// The same bytes in chunks of this size.
pub(crate) fn chunks(body: &[u8], size: usize) -> Vec<u8> {
    let chunk =
        |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let mut chunked: Vec<u8> = body.chunks(size).flat_map(chunk).collect();
    chunked.extend(b"0\r\n\r\n");
    chunked
}
