//! Runners that poll for tasks, each over a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::back_end::message_length;
use crate::population::Shown;

/// When each runner polls.
#[derive(Clone, Copy)]
pub(crate) struct Rhythm {
    /// The shortest and the longest time from one poll to the next.
    pub(crate) every: (Duration, Duration),
    /// How long it goes on.
    pub(crate) during: Duration,
}

/// What came of the polls.
pub(crate) struct Polled {
    /// How long each took that was answered, in ascending order.
    took: Vec<Duration>,
    /// How many the broker refused, because it had too much to do.
    pub(crate) refused: usize,
}

impl Polled {
    /// How many were answered.
    pub(crate) fn count(&self) -> usize {
        self.took.len()
    }

    /// So much of all took no longer than this.
    pub(crate) fn quantile(&self, part: f64) -> Duration {
        let last = self.took.len().saturating_sub(1);
        self.took.get((last as f64 * part) as usize).copied().unwrap_or_default()
    }
}

/// Has all of them poll.
pub(crate) async fn poll(broker: SocketAddr, runners: &[Shown], rhythm: Rhythm) -> Polled {
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for (number, shown) in runners.iter().enumerate() {
        // Spread over the time between two polls, as runners that were started one by one are.
        let part = number as f64 / runners.len() as f64;
        let first = begun + rhythm.every.1.mul_f64(part);
        running.spawn(poll_as(broker, request(broker, shown), first, begun, rhythm, number as u64));
    }
    let mut all = Polled { took: Vec::new(), refused: 0 };
    for mut one in running.join_all().await {
        all.took.append(&mut one.took);
        all.refused += one.refused;
    }
    all.took.sort_unstable();
    all
}

fn request(broker: SocketAddr, shown: &Shown) -> Vec<u8> {
    let Shown { uuid, token } = shown;
    let mut request = format!(
        "POST /api/actions/runner.v1.RunnerService/FetchTask HTTP/1.1\r\nHost: {broker}\r\n\
         User-Agent: connect-go/1.18.1 (go1.24.4)\r\nContent-Length: 2\r\nAccept-Encoding: gzip\r\n\
         Connect-Protocol-Version: 1\r\nConnect-Timeout-Ms: 4999\r\nContent-Type: application/proto\r\n\
         X-Runner-Token: {token}\r\nX-Runner-Uuid: {uuid}\r\n\r\n"
    )
    .into_bytes();
    request.extend_from_slice(b"\x08\x01");
    request
}

async fn poll_as(
    broker: SocketAddr,
    request: Vec<u8>,
    mut next: Instant,
    begun: Instant,
    rhythm: Rhythm,
    number: u64,
) -> Polled {
    let (least, most) = rhythm.every;
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut polled = Polled { took: Vec::new(), refused: 0 };
    let mut answer = Vec::new();
    let mut stream = None;
    while next < begun + rhythm.during {
        sleep_until(next).await;
        let sent = Instant::now();
        let open = match &mut stream {
            Some(open) => open,
            None => stream.insert(connect(broker).await),
        };
        open.write_all(&request).await.expect("the broker takes a poll");
        read(open, &mut answer).await;
        if answer.starts_with(b"HTTP/1.1 200") {
            polled.took.push(sent.elapsed());
        } else {
            // As a runner does, it polls again some time.
            polled.refused += 1;
            stream = None;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let part = (random >> 11) as f64 / (1_u64 << 53) as f64;
        next = sent + least + (most - least).mul_f64(part);
    }
    polled
}

async fn connect(broker: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(broker).await.expect("the broker accepts");
    stream.set_nodelay(true).unwrap();
    stream
}

async fn read(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    answer.clear();
    while message_length(answer).is_none_or(|length| answer.len() < length) {
        let read = stream.read_buf(answer).await.expect("the broker answers");
        assert_ne!(read, 0, "the broker closed the connection");
    }
}
