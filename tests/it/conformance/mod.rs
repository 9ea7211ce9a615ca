//! What RFC 9110 and RFC 9112 demand of an HTTP/1.1 proxy, one case a demand. The broker is measured with
//! them in each run; CONTRIBUTING.md says how another proxy is measured with the same.

mod list;
mod mirror;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use self::list::{Case, Want, cases};
use self::mirror::Mirror;
use crate::support::{Broker, Site, gitea};

/// What the broker does otherwise, and why it may.
const OTHERWISE: [(&str, &str); 4] = [
    (
        "a gateway names itself in Via",
        "nobody behind it looks at that, and runners' calls stay small",
    ),
    (
        "OPTIONS with Max-Forwards: 0 goes no further",
        "there is one hop, and Gitea answers OPTIONS itself",
    ),
    ("a 103 is passed on", "Gitea sends none, and the library below does not hand one up"),
    ("an answer that is none is told as 502", "it is told as 503, which makes runners try again"),
];

/// After so long without a byte nothing more is expected.
const QUIET: Duration = Duration::from_millis(700);

/// What a client got.
struct Got {
    /// Statuses and bodies, in order; interim ones too.
    answers: Vec<(u16, String)>,
    /// All bytes.
    text: String,
    closed: bool,
}

/// Says what the case says, and reads until the end or until nothing comes any more.
async fn ask(at: &str, case: &Case) -> Got {
    let mut stream = TcpStream::connect(at).await.expect("the proxy listens");
    let _ = stream.write_all(&case.says).await;
    let (mut bytes, mut closed) = (Vec::new(), false);
    while let Ok(read) = timeout(QUIET, stream.read_buf(&mut bytes)).await {
        if matches!(read, Ok(0) | Err(_)) {
            closed = true;
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Got { answers: answers(&text, case.is_head), text, closed }
}

/// Reads as many whole answers as there are.
fn answers(mut text: &str, is_head: bool) -> Vec<(u16, String)> {
    let mut answers = Vec::new();
    while let Some((head, rest)) = text.split_once("\r\n\r\n") {
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let value = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
        };
        let (body, rest) = if is_head || status < 200 || matches!(status, 204 | 304) {
            (String::new(), rest)
        } else if value("transfer-encoding").is_some() {
            unchunked(rest)
        } else if let Some(length) = value("content-length").and_then(|text| text.parse().ok()) {
            let length = rest.len().min(length);
            (rest[..length].to_owned(), &rest[length..])
        } else {
            (rest.to_owned(), "")
        };
        answers.push((status, body));
        text = rest;
    }
    answers
}

fn unchunked(mut text: &str) -> (String, &str) {
    let mut body = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0).min(rest.len());
        body.push_str(&rest[..size]);
        text = rest[size..].strip_prefix("\r\n").unwrap_or("");
        if size == 0 {
            break;
        }
    }
    (body, text)
}

/// What is not as it should be; `None`: all is.
fn wrong(case: &Case, got: &Got) -> Option<String> {
    let last = got.answers.iter().find(|(status, _)| *status >= 200);
    let status = last.map_or(0, |(status, _)| *status);
    let is_refused = matches!(status, 400..=499 | 501 | 505) || (status == 0 && got.closed);
    let mirrored = last.map_or("", |(_, body)| body.as_str());
    let passes = |checks: &[fn(&str) -> bool]| {
        status == 200 && checks.iter().all(|check| check(&mirrored.to_ascii_lowercase()))
    };
    let right = match &case.want {
        Want::Status(wanted) => wanted.contains(&status) && (status != 0 || got.closed),
        Want::Refused => is_refused,
        Want::RefusedOr(checks) => is_refused || passes(checks),
        Want::Passes(checks) => passes(checks),
        Want::Answers(check) => check(&got.text.to_ascii_lowercase()),
        Want::Statuses(wanted) => {
            got.answers.iter().map(|(status, _)| *status).collect::<Vec<_>>() == *wanted
        }
    } && (!case.closes || got.closed)
        && !got.text.contains("smuggled");
    (!right).then(|| format!("{status}, closed: {}: {}", got.closed, got.text.escape_debug()))
}

async fn measure(at: &str) -> (usize, Vec<(&'static str, String)>) {
    let cases = cases();
    let count = cases.len();
    let asked = cases.into_iter().map(|case| {
        let at = at.to_owned();
        tokio::spawn(async move { (case.demand, wrong(&case, &ask(&at, &case).await)) })
    });
    let mut failed = Vec::new();
    for one in asked.collect::<Vec<_>>() {
        if let (demand, Some(why)) = one.await.unwrap() {
            failed.push((demand, why));
        }
    }
    (count, failed)
}

#[tokio::test]
async fn the_broker_does_what_http_demands_of_a_proxy() {
    let mirror = Mirror::start("127.0.0.1:0").await;
    // For the secrets alone.
    let spare = gitea();
    let site = Site::new(&spare).set("gitea.url", &format!("http://{}", mirror.address));
    let broker = Broker::start(&site).await;
    let (count, mut failed) = measure(broker.url.strip_prefix("http://").unwrap()).await;
    for (demand, why) in OTHERWISE {
        let before = failed.len();
        failed.retain(|(one, _)| *one != demand);
        assert_eq!(failed.len() + 1, before, "{demand} is done by now; it was not, as {why}");
    }
    assert!(failed.is_empty(), "{} of {count}: {failed:#?}", failed.len());
}

/// Measures the proxy at `CONFORMANCE_AT`, behind which is what listens at `CONFORMANCE_MIRROR` here.
#[tokio::test]
#[ignore = "measures another program: CONTRIBUTING.md says how"]
async fn another_proxy_is_measured() {
    let name =
        |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("set {name} to HOST:PORT"));
    let _mirror = Mirror::start(&name("CONFORMANCE_MIRROR")).await;
    let (count, failed) = measure(&name("CONFORMANCE_AT")).await;
    for (demand, why) in &failed {
        println!("not so: {demand}\n  {why}");
    }
    println!("{} of {count} demands are met", count - failed.len());
}
